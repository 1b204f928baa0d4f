"""A bag on the graph again: `ros2 launch metarl replay.launch.py bag:=runs/bags/today rate:=1.0`; the adaptation is made again and
compared, and the bag's topics are played under `replay/`, where no robot listens.

Nodes, parameters and remappings stand in `metarl.ros_nodes.graph`; here they are only handed to ROS.
"""

from typing import Any

from launch.actions import DeclareLaunchArgument, OpaqueFunction
from launch.substitutions import LaunchConfiguration

from launch import LaunchDescription
from metarl.ros_nodes.graph import replay
from metarl.ros_nodes.launch_file import started


def generate_launch_description() -> LaunchDescription:
    arguments = [
        DeclareLaunchArgument("bag", description="folder of the bag"),
        DeclareLaunchArgument("policy", default_value="", description="a meta-parameters file, or zoo:TASK/ALGORITHM; none: the one that was recorded"),
        DeclareLaunchArgument(
            "rate", default_value="0.0", description="how much faster than it was, under replay/; 0.0: at once, and nothing but the comparison is published"
        ),
        DeclareLaunchArgument("namespace", default_value="", description="of all nodes and topics"),
    ]
    return LaunchDescription([*arguments, OpaqueFunction(function=_nodes)])


def _nodes(context: Any) -> list[Any]:
    bag, policy, rate, namespace = (LaunchConfiguration(name).perform(context) for name in ("bag", "policy", "rate", "namespace"))
    return started(replay(bag, policy, float(rate)), namespace)
