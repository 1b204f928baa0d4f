"""The same adapter on a real clock: ROS 2 nodes."""

PARENT_VARIABLE = "METARL_PARENT_PID"  # a node that finds it in its environment ends when that process is gone
