"""The graph in plain Python, the launch file that hands it to ROS, and package.xml."""

import runpy
import socket
import sys
import types
import xml.etree.ElementTree as ET
from dataclasses import fields
from pathlib import Path

import pytest

from metarl.ros_nodes.graph import CHOICES, Arm, Domain, Graph, NodeFailed, NodeSpec, arm

ROOT = Path(__file__).resolve().parents[2]
# keys that exist in rosdistro, beside the names of ROS packages
ROSDEP_KEYS = {"python3-numpy", "python3-torch", "python3-gymnasium-pip", "python3-mujoco-pip", "python3-pybullet-pip", "python3-pytest", "python3-hypothesis"}
ROS_PACKAGES = {
    "rclpy", "builtin_interfaces", "diagnostic_msgs", "geometry_msgs", "sensor_msgs", "std_msgs", "std_srvs", "trajectory_msgs", "launch", "launch_ros",
}  # fmt: skip


def test_the_nodes_of_the_arm():
    nodes = {n.name: n for n in arm(Arm("file", simulator="mujoco", split="ood_far", index=4, seed=2), observers=1)}
    assert list(nodes) == ["sim", "safety", "adapter", "task"]
    assert nodes["sim"].parameters == {"task": "arm_slide", "simulator": "mujoco", "split": "ood_far", "index": 4, "seed": 2}
    assert nodes["adapter"].parameters == {"meta_parameters": "file", "robot": "arm7"}
    assert nodes["task"].parameters == {"task": "arm_slide", "episodes": 0, "observers": 1}
    assert nodes["safety"].remappings == {"command": "adapter/command"}


def test_only_the_simulator_is_told_which_task_it_is():
    for node in arm(Arm("file", index=4)):
        assert ("index" in node.parameters) == (node.name == "sim")


def test_a_node_becomes_a_command_line_on_which_texts_stay_texts():
    command = NodeSpec("x", "x_node", {"a": "12", "b": 3, "c": True, "d": 0.5}, {"old": "new"}).command
    assert command[1:] == [
        "-m", "metarl.ros_nodes.x_node", "--ros-args", "-p", 'a:="12"', "-p", "b:=3", "-p", "c:=true", "-p", "d:=0.5", "-r", "old:=new",
    ]  # fmt: skip


# ---- processes --------------------------------------------------------------------------------------------------------------


class Script(NodeSpec):
    """A node whose process runs a line of Python."""

    @property
    def command(self):
        return [sys.executable, "-c", self.executable]


WAITS = Script("waits", "import time; print('here: ready', flush=True); time.sleep(600)")


def gone(pid):
    return not Path(f"/proc/{pid}").exists()


@pytest.fixture
def domain():
    with Domain() as found:
        yield found


def test_a_node_that_fails_ends_the_graph_and_its_last_words_are_told(domain):
    fails = Script("fails", "import sys; print('first'); sys.exit('the last words')")
    with pytest.raises(NodeFailed, match=r"the fails node ended with exit status 1:\nfirst\nthe last words") as _, Graph((WAITS, fails), domain) as graph:
        pids = graph.pids()
        graph.wait("waits", 60)
    assert all(gone(pid) for pid in pids.values())


def test_nodes_that_do_not_want_to_end_are_ended(domain, monkeypatch):
    monkeypatch.setattr("metarl.ros_nodes.graph.PATIENCE", (0.2, 0.2))
    deaf = Script("deaf", "import signal, time\nfor s in (2, 15): signal.signal(s, signal.SIG_IGN)\nprint('deaf: ready', flush=True)\ntime.sleep(600)")
    with Graph((deaf, WAITS), domain) as graph:
        graph.wait_ready(60)
        pids = graph.pids()
    assert all(gone(pid) for pid in pids.values())


def test_waiting_has_an_end_and_says_for_what(domain):
    with Graph((WAITS,), domain) as graph, pytest.raises(TimeoutError, match=r"for the waits node to end; they said last:\nwaits: here: ready"):
        graph.wait_ready(60)
        graph.wait("waits", 0.2)


def test_children_find_the_domain_and_their_own_libraries(domain, monkeypatch):
    monkeypatch.setenv("_ROS_WHEELS_BOOTSTRAP_COMPLETE", "1")
    monkeypatch.setenv("LD_LIBRARY_PATH", "/another/environment/lib")
    found = domain.environment()
    assert found["ROS_DOMAIN_ID"] == str(domain.id)
    assert found["ROS_AUTOMATIC_DISCOVERY_RANGE"] == "LOCALHOST"
    assert found["FASTDDS_BUILTIN_TRANSPORTS"] == "UDPv4"
    assert "_ROS_WHEELS_BOOTSTRAP_COMPLETE" not in found  # else the child would not look for its own
    monkeypatch.setenv("LD_LIBRARY_PATH", f"{sys.prefix}/lib")
    assert domain.environment()["_ROS_WHEELS_BOOTSTRAP_COMPLETE"] == "1"


def test_nobody_else_is_in_a_domain():
    with Domain() as first, Domain() as second:
        assert 0 < first.id < second.id < 102
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as participant:
        participant.bind(("0.0.0.0", 7400 + 250 * first.id + 10))  # where the first participant of that domain listens
        with Domain() as third:
            assert third.id != first.id


# ---- launch file ------------------------------------------------------------------------------------------------------------


class Action:
    """Stands for every action, event and substitution of `launch`: remembers how it was made."""

    def __init__(self, *arguments, **keywords):
        self.arguments, self.keywords = arguments, keywords

    def perform(self, context):
        return context[self.arguments[0]]


@pytest.fixture
def description(monkeypatch):
    """What the launch file describes, with stand-ins for ROS's `launch`."""
    names = {
        "launch": ["LaunchContext", "LaunchDescription"],
        "launch.actions": ["DeclareLaunchArgument", "EmitEvent", "OpaqueFunction", "RegisterEventHandler"],
        "launch.event_handlers": ["OnProcessExit"],
        "launch.events": ["Shutdown"],
        "launch.substitutions": ["LaunchConfiguration"],
        "launch_ros": [],
        "launch_ros.actions": ["Node"],
    }
    for module, attributes in names.items():
        stub = types.ModuleType(module)
        for attribute in attributes:
            setattr(stub, attribute, type(attribute, (Action,), {}))
        monkeypatch.setitem(sys.modules, module, stub)
    return runpy.run_path(str(ROOT / "launch/arm.launch.py"))["generate_launch_description"]().arguments[0]


def launched(description, **given):
    """Nodes that the launch file starts for arguments given on the command line, and all actions."""
    context = {a.arguments[0]: a.keywords["default_value"] for a in description if type(a).__name__ == "DeclareLaunchArgument"} | given
    (function,) = [a.keywords["function"] for a in description if type(a).__name__ == "OpaqueFunction"]
    actions = function(context)
    return [a.keywords for a in actions if type(a).__name__ == "Node"], actions


@pytest.mark.parametrize("given", [{}, {"simulator": "mujoco", "split": "ood_near", "index": "3", "episodes": "2", "namespace": "left"}])
def test_the_launch_file_starts_the_nodes_of_the_graph(description, given):
    typed = {k: int(v) if v.isdecimal() else v for k, v in given.items() if k != "namespace"}
    nodes, actions = launched(description, **given)
    wanted = arm(Arm(**typed))
    assert [(n["name"], n["executable"], n["parameters"], n["remappings"]) for n in nodes] == [
        (w.name, w.executable, [dict(w.parameters)], list(w.remappings.items())) for w in wanted
    ]
    assert {n["package"] for n in nodes} == {"metarl"}
    assert {n["namespace"] for n in nodes} == {given.get("namespace", "")}
    handlers = [a.arguments[0] for a in actions if type(a).__name__ == "RegisterEventHandler"]
    assert len(handlers) == len(nodes)  # when one ends, all end


def test_the_launch_file_offers_every_choice(description):
    declared = {a.arguments[0]: a.keywords for a in description if type(a).__name__ == "DeclareLaunchArgument"}
    assert set(declared) == {f.name for f in fields(Arm)} | {"namespace"}
    assert {name: tuple(k["choices"]) for name, k in declared.items() if "choices" in k} == CHOICES
    assert declared["meta_parameters"]["default_value"] == "zoo:arm_slide/rl2"


def test_launch_is_no_python_package():
    """It would shadow ROS's own module of that name wherever the repository's root is on the path."""
    assert not list((ROOT / "launch").rglob("__init__.py"))


def test_every_executable_is_a_console_script():
    scripts = (ROOT / "setup.py").read_text()
    for node in arm(Arm()):
        assert (ROOT / "ros_nodes" / f"{node.executable}.py").is_file()
        assert f'"{node.executable}"' in scripts


def test_package_xml_names_only_what_rosdep_knows():
    package = ET.parse(ROOT / "package.xml").getroot()
    assert package.get("format") == "3"
    assert package.findtext("name") == "metarl"
    assert package.findtext("license") == "Apache-2.0"
    assert package.findtext("export/build_type") == "ament_python"
    keys = {e.text for e in package if e.tag.endswith("depend")}
    assert keys <= ROSDEP_KEYS | ROS_PACKAGES
    assert keys >= ROS_PACKAGES
