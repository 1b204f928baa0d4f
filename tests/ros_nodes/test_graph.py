"""The graph in plain Python, the launch file that hands it to ROS, and package.xml."""

import json
import runpy
import socket
import sys
import types
import xml.etree.ElementTree as ET
from dataclasses import fields, replace
from pathlib import Path

import pytest

from metarl.ros_nodes.graph import CHOICES, Arm, Car, Domain, Graph, Kitchen, NodeFailed, NodeSpec, Quadrotor, arm, config_file, graph, replay

ROOT = Path(__file__).resolve().parents[2]
# keys that exist in rosdistro, beside the names of ROS packages
ROSDEP_KEYS = {
    "python3-numpy",
    "python3-torch",
    "python3-gymnasium-pip",
    "python3-mujoco-pip",
    "python3-pybullet-pip",
    "python3-rosbags-pip",
    "python3-pytest",
    "python3-hypothesis",
}
ROS_PACKAGES = {
    "rclpy", "builtin_interfaces", "diagnostic_msgs", "geometry_msgs", "lifecycle_msgs", "nav_msgs", "rcl_interfaces", "rosgraph_msgs", "sensor_msgs",
    "std_msgs", "std_srvs", "tf2_msgs", "trajectory_msgs", "launch", "launch_ros",
}  # fmt: skip


KINDS = {"arm": Arm, "car": Car, "quadrotor": Quadrotor, "kitchen": Kitchen}


def test_the_nodes_of_the_arm():
    nodes = {n.name: n for n in arm(Arm("file", simulator="mujoco", split="ood_far", index=4, seed=2, mode="frozen"), observers=1)}
    assert list(nodes) == ["sim", "safety", "adapter", "task", "supervisor"]
    assert nodes["sim"].parameters == {"task": "arm_slide", "simulator": "mujoco", "split": "ood_far", "index": 4, "seed": 2, "pace": "lockstep"}
    assert nodes["adapter"].parameters == {"meta_parameters": "file", "robot": "arm7", "mode": "frozen", "state_timeout": 10.0, "clock_may_leap": True}
    assert nodes["task"].parameters == {"task": "arm_slide", "episodes": 0, "observers": 1, "patience": 120.0, "clock_may_leap": True}
    assert nodes["safety"].remappings == {"command": "adapter/command"}


@pytest.mark.parametrize(("kind", "robot", "file"), [(Car, "car", "zoo:car_track/rl2"), (Quadrotor, "quadrotor", "zoo:quadrotor_track/rl2")])
def test_the_nodes_of_vehicles(kind, robot, file):
    nodes = {n.name: n for n in graph(kind())}
    assert nodes["sim"].parameters["pace"] == "realtime"
    assert nodes["adapter"].parameters["meta_parameters"] == file
    assert {nodes[n].parameters["robot"] for n in ("adapter", "safety")} == {robot}
    assert nodes["safety"].parameters["command_timeout"] == 0.1


@pytest.mark.parametrize("kind", KINDS.values())
def test_only_the_simulator_is_told_which_task_it_is(kind):
    for node in graph(kind("file", index=4)):
        assert ("index" in node.parameters) == (node.name == "sim")


def test_hardware_has_no_simulator_and_keeps_the_safety_nodes_own_limits():
    nodes = {n.name: n for n in graph(Arm("file", robot="hardware"))}
    assert list(nodes) == ["safety", "adapter", "task", "supervisor"]
    assert nodes["supervisor"].parameters == {"nodes": ("safety", "adapter"), "autostart": False}  # somebody must ask
    assert nodes["safety"].parameters == {"robot": "arm7"}
    assert nodes["task"].parameters["patience"] == 0.0  # people lay out scenes, and take their time
    assert nodes["task"].remappings["begin_episode"] == "operator/begin_episode"


@pytest.mark.parametrize(("robot", "mode", "found"), [("sim", "auto", "adapt"), ("hardware", "auto", "shadow"), ("hardware", "adapt", "adapt")])
def test_hardware_begins_in_shadow_unless_another_mode_is_asked_for(robot, mode, found):
    assert Arm().mode == "auto"
    nodes = {n.name: n for n in graph(Arm("file", robot=robot, mode=mode))}
    assert nodes["adapter"].parameters["mode"] == found


def test_a_recorder_listens_where_it_is_wanted():
    nodes = {n.name: n for n in graph(Quadrotor(record=True, bag="runs/x"), observers=1)}
    assert nodes["recorder"].parameters["bag"] == "runs/x"
    assert json.loads(nodes["recorder"].parameters["about"])["task"] == "quadrotor_track"
    assert nodes["task"].parameters["observers"] == 2  # the trial waits for it


def test_choices_that_do_not_exist_are_refused():
    with pytest.raises(ValueError, match="no mode is called 'adapting': did you mean adapt"):
        graph(Arm(mode="adapting"))


def test_one_node_alone_is_that_of_the_graph():
    choice = Arm(simulator="mujoco", record=True)
    for node in graph(choice, observers=1):
        found = graph(replace(choice, only=node.name), observers=1)
        if node.name == "recorder":  # what was chosen stands in its bag
            assert [n.name for n in found] == ["recorder"]
        else:
            assert found == (node,)
    with pytest.raises(ValueError, match="only is 'sim', and this graph has safety, adapter, task, supervisor"):
        graph(Arm(robot="hardware", only="sim"))


@pytest.mark.parametrize("name", ["index", "seed", "episodes"])
def test_numbers_below_0_are_refused_before_anything_starts(name):
    with pytest.raises(ValueError, match=f"{name} is -1, expected 0 or more"):
        graph(Car(**{name: -1}))


@pytest.mark.parametrize("rate", [-1.0, float("nan"), float("inf")])
def test_a_replay_at_no_rate_is_refused_before_it_starts(rate):
    with pytest.raises(ValueError, match=f"rate is {rate}, expected 0 or more"):
        replay("bag", rate=rate)


def test_parameter_files_by_name_and_by_path(tmp_path):
    (tmp_path / "mine.yaml").write_text("{}")
    assert config_file(str(tmp_path / "mine.yaml")) == str(tmp_path / "mine.yaml")
    assert config_file("fr3") == str(ROOT / "launch/config/fr3.yaml")
    with pytest.raises(FileNotFoundError, match=r"no parameter file 'fr4'; launch/config has .*fr3"):
        config_file("fr4")
    sim, *_ = graph(Arm(config="fr3"))
    assert sim.command[4:6] == ["--params-file", str(ROOT / "launch/config/fr3.yaml")]


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
    assert found["ROS_AUTOMATIC_DISCOVERY_RANGE"] == "SYSTEM_DEFAULT"  # the profile leaves it the loopback interface alone
    assert Path(found["FASTRTPS_DEFAULT_PROFILES_FILE"]).is_file()
    assert "_ROS_WHEELS_BOOTSTRAP_COMPLETE" not in found  # else the child would not look for its own
    monkeypatch.setenv("LD_LIBRARY_PATH", f"{sys.prefix}/lib")
    assert domain.environment()["_ROS_WHEELS_BOOTSTRAP_COMPLETE"] == "1"


def test_nobody_else_is_in_a_domain():
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as participant, Domain() as first:
        with Domain() as second:
            assert first.id != second.id  # whichever is less: another test may have left one meanwhile
            assert {first.id, second.id} <= set(range(1, 102))
        participant.bind(("0.0.0.0", 7400 + 250 * first.id + 10))  # where the first participant of that domain listens
        first.close()
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
def describe(monkeypatch):
    """describe(name): the actions of a launch file, with stand-ins for ROS's `launch`."""
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
    monkeypatch.delitem(sys.modules, "metarl.ros_nodes.launch_file", raising=False)
    yield lambda name: runpy.run_path(str(ROOT / f"launch/{name}.launch.py"))["generate_launch_description"]().arguments[0]
    sys.modules.pop("metarl.ros_nodes.launch_file", None)  # it was made of stand-ins


def declared(actions):
    return {a.arguments[0]: a.keywords for a in actions if type(a).__name__ == "DeclareLaunchArgument"}


def launched(actions, **given):
    """Nodes that the launch file starts for arguments given on the command line, and all actions."""
    context = {name: k.get("default_value") for name, k in declared(actions).items()} | given
    (function,) = [a.keywords["function"] for a in actions if type(a).__name__ == "OpaqueFunction"]
    found = function(context)
    return [a.keywords for a in found if type(a).__name__ == "Node"], found


def as_launched(nodes):
    return [(n["name"], n["executable"], n["parameters"], n["remappings"]) for n in nodes]


def as_specified(specs):
    return [(w.name, w.executable, [*w.files, dict(w.parameters)], list(w.remappings.items())) for w in specs]


GIVEN = {"simulator": "mujoco", "split": "ood_near", "index": "3", "episodes": "2", "record": "true", "mode": "shadow", "bag": "x", "namespace": "left"}


@pytest.mark.parametrize("given", [{}, GIVEN, {"robot": "hardware"}, {"only": "adapter"}, {"robot": "hardware", "only": "safety"}])
@pytest.mark.parametrize("name", KINDS)
def test_a_launch_file_starts_the_nodes_of_the_graph(describe, name, given):
    typed = {k: int(v) if v.isdecimal() else v == "true" if k == "record" else v for k, v in given.items() if k != "namespace"}
    nodes, actions = launched(describe(name), **given)
    assert as_launched(nodes) == as_specified(graph(KINDS[name](**typed)))
    assert {n["package"] for n in nodes} == {"metarl"}
    assert {n["namespace"] for n in nodes} == {given.get("namespace", "")}
    ends = [a.arguments[0].keywords["target_action"].keywords["name"] for a in actions if type(a).__name__ == "RegisterEventHandler"]
    # when one ends, all end; but a real robot keeps its safety node, whoever has died or come to the trial's end
    assert ends == (["safety"] if given.get("robot") == "hardware" else [n["name"] for n in nodes])


def test_the_parameter_file_is_handed_on(describe):
    nodes, _ = launched(describe("arm"), config="fr3")
    assert {n["parameters"][0] for n in nodes} == {str(ROOT / "launch/config/fr3.yaml")}


@pytest.mark.parametrize("name", KINDS)
def test_a_launch_file_offers_every_choice(describe, name):
    found = declared(describe(name))
    assert set(found) == {f.name for f in fields(KINDS[name])} | {"namespace"}
    assert {name: tuple(k["choices"]) for name, k in found.items() if "choices" in k} == CHOICES | {"record": ("true", "false")}
    assert all(k["description"] for k in found.values())
    for field in fields(KINDS[name]):
        assert found[field.name]["default_value"].lower() == str(field.default).lower()


def test_the_launch_file_of_a_replay(describe):
    nodes, _ = launched(describe("replay"), bag="runs/x", rate="2.5")
    assert as_launched(nodes) == as_specified(replay("runs/x", rate=2.5))


def test_every_launch_file_is_tested():
    assert {p.name.removesuffix(".launch.py") for p in (ROOT / "launch").glob("*.launch.py")} == {*KINDS, "replay"}


def test_launch_is_no_python_package():
    """It would shadow ROS's own module of that name wherever the repository's root is on the path."""
    assert not list((ROOT / "launch").rglob("__init__.py"))


def test_every_executable_is_a_console_script():
    scripts = (ROOT / "setup.py").read_text()
    for node in (*graph(Arm(record=True)), *replay("x")):
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
