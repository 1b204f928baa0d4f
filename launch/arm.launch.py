"""The arm's graph: `ros2 launch metarl arm.launch.py simulator:=mujoco split:=ood_near index:=3`.

Nodes, parameters and remappings stand in `metarl.ros_nodes.graph`; here they are only handed to ROS.
"""

from dataclasses import fields

from launch.actions import DeclareLaunchArgument, EmitEvent, OpaqueFunction, RegisterEventHandler
from launch.event_handlers import OnProcessExit
from launch.events import Shutdown
from launch.substitutions import LaunchConfiguration
from launch_ros.actions import Node

from launch import LaunchContext, LaunchDescription
from metarl.ros_nodes.graph import CHOICES, Arm, arm


def generate_launch_description() -> LaunchDescription:
    arguments = [
        DeclareLaunchArgument(f.name, default_value=str(f.default), **({"choices": list(CHOICES[f.name])} if f.name in CHOICES else {})) for f in fields(Arm)
    ]
    namespace = DeclareLaunchArgument("namespace", default_value="", description="of all nodes and topics")
    return LaunchDescription([*arguments, namespace, OpaqueFunction(function=_nodes)])


def _nodes(context: LaunchContext) -> list[Node | RegisterEventHandler]:
    given = {f.name: type(f.default)(LaunchConfiguration(f.name).perform(context)) for f in fields(Arm)}
    namespace = LaunchConfiguration("namespace").perform(context)
    nodes = {
        spec.name: Node(
            package="metarl", executable=spec.executable, name=spec.name, namespace=namespace, output="screen",
            parameters=[dict(spec.parameters)], remappings=list(spec.remappings.items()),
        )
        for spec in arm(Arm(**given))
    }  # fmt: skip
    # a trial has an end, and a graph that lost a node has nothing left to do
    ends = [
        RegisterEventHandler(OnProcessExit(target_action=node, on_exit=[EmitEvent(event=Shutdown(reason=f"{name} ended"))])) for name, node in nodes.items()
    ]
    return [*nodes.values(), *ends]
