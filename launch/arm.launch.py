"""The arm's graph: `ros2 launch metarl arm.launch.py simulator:=mujoco split:=ood_near index:=3 record:=true`; `--show-args` lists all arguments.

Nodes, parameters and remappings stand in `metarl.ros_nodes.graph`; here they are only handed to ROS.
"""

from launch import LaunchDescription
from metarl.ros_nodes.graph import Arm
from metarl.ros_nodes.launch_file import description


def generate_launch_description() -> LaunchDescription:
    return description(Arm)
