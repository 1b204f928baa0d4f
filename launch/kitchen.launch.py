"""The kitchen's graph, a mobile arm that learns to cook: `ros2 launch metarl kitchen.launch.py index:=3 record:=true`; `--show-args` lists all arguments.

Nodes, parameters and remappings stand in `metarl.ros_nodes.graph`; here they are only handed to ROS.
"""

from launch import LaunchDescription
from metarl.ros_nodes.graph import Kitchen
from metarl.ros_nodes.launch_file import description


def generate_launch_description() -> LaunchDescription:
    return description(Kitchen)
