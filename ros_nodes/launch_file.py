"""A graph as launch description. The only module here that imports ROS's `launch`, which comes with an installation of ROS."""

from __future__ import annotations

from dataclasses import fields
from typing import TYPE_CHECKING, Any

from launch.actions import DeclareLaunchArgument, EmitEvent, OpaqueFunction, RegisterEventHandler
from launch.event_handlers import OnProcessExit
from launch.events import Shutdown
from launch.substitutions import LaunchConfiguration
from launch_ros.actions import Node

from launch import LaunchDescription
from metarl.ros_nodes.graph import CHOICES, Choice, NodeSpec, graph

if TYPE_CHECKING:
    from launch import LaunchContext

_HELP = {
    "policy": "a meta-parameters file, or zoo:TASK/ALGORITHM",
    "task": "the task distribution",
    "robot": "sim, or hardware: then your drivers are the robot",
    "simulator": "behind the robot's topics",
    "pace": "lockstep waits for commands, realtime for nobody",
    "mode": "of the adapter; begin with shadow on hardware",
    "split": "which hidden task: drawn from where",
    "index": "which hidden task: its number",
    "seed": "of everything random in the simulated world",
    "episodes": "of the trial; 0 takes the task's own number",
    "record": "write a bag of everything that a replay needs",
    "bag": "the folder of that bag; none: named after the date",
    "config": "a YAML file of parameters, or the name of one of launch/config: joint names and topics",
    "only": "one node alone, e.g. adapter, to start it anew with the arguments of its graph",
}


def description(kind: type[Choice]) -> LaunchDescription:
    """Each field of `kind` is an argument; the nodes are those of `graph`."""
    arguments = []
    for f in fields(kind):
        choices = CHOICES.get(f.name, ("true", "false") if isinstance(f.default, bool) else ())
        given = {"choices": list(choices)} if choices else {}
        arguments.append(DeclareLaunchArgument(f.name, default_value=_text(f.default), description=_HELP[f.name], **given))
    namespace = DeclareLaunchArgument("namespace", default_value="", description="of all nodes and topics")

    def nodes(context: LaunchContext) -> list[Node | RegisterEventHandler]:
        given = {f.name: _value(type(f.default), LaunchConfiguration(f.name).perform(context)) for f in fields(kind)}
        return started(graph(kind(**given)), LaunchConfiguration("namespace").perform(context))

    return LaunchDescription([*arguments, namespace, OpaqueFunction(function=nodes)])


def started(specs: tuple[NodeSpec, ...], namespace: str) -> list[Node | RegisterEventHandler]:
    """Actions that start nodes, and end all of them when one ends: a simulated trial has an end, and a graph that lost a node has nothing left to do.

    A real robot is left to nobody: where there is no simulator, the others may come and go, and only the end of the safety node ends the graph.
    """
    nodes = {
        spec.name: Node(
            package="metarl", executable=spec.executable, name=spec.name, namespace=namespace, output="screen",
            parameters=[*spec.files, dict(spec.parameters)], remappings=list(spec.remappings.items()),
        )
        for spec in specs
    }  # fmt: skip
    guarded = "safety" in nodes and "sim" not in nodes
    ends = [
        RegisterEventHandler(OnProcessExit(target_action=node, on_exit=[EmitEvent(event=Shutdown(reason=f"{name} ended"))]))
        for name, node in nodes.items()
        if name == "safety" or not guarded
    ]
    return [*nodes.values(), *ends]


def _text(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _value(kind: type, text: str) -> Any:
    return text == "true" if kind is bool else kind(text)
