"""The same adapter on a real clock: ROS 2 nodes."""
