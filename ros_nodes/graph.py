"""Which nodes, with which parameters and remappings: launch files, the demo and the tests all start from here. Plain Python, no ROS."""

from __future__ import annotations

import json
import math
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from types import TracebackType
from typing import IO, TYPE_CHECKING

from metarl.robots.spec import unknown_name
from metarl.ros_nodes import PARENT_VARIABLE, transport
from metarl.tasks import SPLITS, simulators

if TYPE_CHECKING:
    from typing import Self  # of Python 3.11; launch files may be read by an older one

Value = str | int | float | bool | tuple[str, ...]
READY = ": ready"  # how a node's log says so
PATIENCE = (10.0, 2.0)  # s that a node has to end after SIGINT, and then after SIGTERM
_DOMAINS = range(1, 102)  # 0 is everybody's default; above 101 ports of Linux' own choice begin


@dataclass(frozen=True)
class NodeSpec:
    """One process.

    Attributes:
        name: of the node.
        executable: console script, and the module of that name in `metarl.ros_nodes`.
        parameters, remappings: as ROS knows them.
        files: YAML files of parameters, which the ones above rule.
    """

    name: str
    executable: str
    parameters: Mapping[str, Value] = field(default_factory=dict)
    remappings: Mapping[str, str] = field(default_factory=dict)
    files: tuple[str, ...] = ()

    @property
    def command(self) -> list[str]:
        """How to start it with this Python, wherever its console script may be."""
        arguments = [sys.executable, "-m", f"metarl.ros_nodes.{self.executable}", "--ros-args"]
        for file in self.files:
            arguments += ["--params-file", file]
        for name, value in self.parameters.items():
            arguments += ["-p", f"{name}:={json.dumps(value)}"]  # quoted, so that no text is taken for a number
        for old, new in self.remappings.items():
            arguments += ["-r", f"{old}:={new}"]
        return arguments


@dataclass(frozen=True)
class Choice:
    """What a person chooses of a graph; each field is an argument of its launch file.

    Attributes:
        policy: a meta-parameters file, or zoo:TASK/ALGORITHM.
        task: the task distribution.
        robot: sim, or hardware: then whatever drives the robot says its state, and somebody offers `operator/begin_episode`.
        simulator: behind the robot's topics.
        pace: of the simulation: lockstep waits for commands, realtime for nobody.
        mode: of the adapter; auto is adapt in a simulation and shadow on hardware.
        split, index: which hidden task.
        seed: of everything random in the simulated world.
        episodes: of the trial; 0 takes the task's own number.
        record: whether a bag is written.
        bag: the folder of that bag, which must not exist yet; "" names one after the date.
        config: a YAML file of parameters, or the name of one of launch/config: what the robot's joints and topics are called.
        only: one node of this graph, e.g. to start it anew in a graph that has lost it; or all.
    """

    policy: str = "zoo:arm_slide/rl2"
    task: str = "arm_slide"
    simulator: str = "pybullet"
    split: str = "iid"
    index: int = 0
    seed: int = 0
    episodes: int = 0
    robot: str = "sim"
    pace: str = "lockstep"
    mode: str = "auto"
    record: bool = False
    bag: str = ""
    config: str = ""
    only: str = "all"


class Arm(Choice):
    """The defaults of `launch/arm.launch.py`."""


@dataclass(frozen=True)
class Car(Choice):
    """The defaults of `launch/car.launch.py`."""

    policy: str = "zoo:car_track/rl2"
    task: str = "car_track"
    simulator: str = "mujoco"
    pace: str = "realtime"


@dataclass(frozen=True)
class Quadrotor(Choice):
    """The defaults of `launch/quadrotor.launch.py`."""

    policy: str = "zoo:quadrotor_track/rl2"
    task: str = "quadrotor_track"
    simulator: str = "mujoco"
    pace: str = "realtime"


@dataclass(frozen=True)
class Kitchen(Choice):
    """The defaults of `launch/kitchen.launch.py`."""

    policy: str = "zoo:kitchen/rl2"
    task: str = "kitchen"
    simulator: str = "mujoco"


CHOICES = {
    "simulator": tuple(n for n in simulators.NAMES if n != "analytic"),
    "split": SPLITS,
    "robot": ("sim", "hardware"),
    "pace": ("lockstep", "realtime"),
    "mode": ("auto", "adapt", "frozen", "shadow"),
    "only": ("all", "sim", "safety", "adapter", "task", "supervisor", "recorder"),
}
# s: a simulated robot shares this machine's processor with everything else, and in lockstep its time stands still between commands; resets move it at once
_TIMEOUTS: dict[str, dict[str, Value]] = {
    "lockstep": {"state_timeout": 10.0, "command_timeout": 60.0, "may_jump": True},
    "realtime": {"state_timeout": 0.25, "command_timeout": 0.1, "may_jump": True},
}


def graph(choice: Choice, observers: int = 0) -> tuple[NodeSpec, ...]:
    """Robot (simulated, or none of ours), safety, adapter, task and supervisor, and a recorder where it is wanted.

    Args:
        choice: what is run.
        observers: how many besides the adapter will listen to the task's events; the trial waits for them.

    Raises:
        ValueError: a choice does not exist, a number is less than 0, the task has no robot, or the graph does not have the only node that is wanted.
    """
    from metarl import tasks

    for name, known in CHOICES.items():
        if getattr(choice, name) not in known:
            raise unknown_name(name, getattr(choice, name), known)
    for name in ("index", "seed", "episodes"):
        if getattr(choice, name) < 0:
            raise ValueError(f"{name} is {getattr(choice, name)}, expected 0 or more")
    simulated = choice.robot == "sim"
    robot = tasks.make(choice.task).robot_name
    if not robot:
        raise ValueError(f"{choice.task} has no robot, so there is nothing to drive over ROS")
    world: dict[str, Value] = {name: getattr(choice, name) for name in ("task", "simulator", "split", "index", "seed", "pace")}
    patience = 120.0 if simulated else 0.0  # people take their time
    trial: dict[str, Value] = {"task": choice.task, "episodes": choice.episodes, "observers": observers + choice.record, "patience": patience}
    heard = {"action": "adapter/action", "executed": "safety/executed", "begin_episode": "sim/begin_episode" if simulated else "operator/begin_episode"}
    statuses = {f"{name}_status": f"{name}/status" for name in ("adapter", "safety")}
    clock: dict[str, Value] = {"clock_may_leap": True} if simulated else {}
    timeouts = _TIMEOUTS[choice.pace] | clock if simulated else {}
    trial |= clock
    mode = choice.mode if choice.mode != "auto" else "adapt" if simulated else "shadow"
    policy: dict[str, Value] = {"meta_parameters": choice.policy, "robot": robot, "mode": mode, **({"state_timeout": 10.0} if simulated else {}), **clock}
    nodes = [
        NodeSpec("safety", "safety_node", {"robot": robot, **timeouts}, {"command": "adapter/command"}),
        NodeSpec("adapter", "adapter_node", policy, {"events": "task/events", "executed": "safety/executed"}),
        NodeSpec("task", "task_node", trial, heard | statuses),
    ]
    if simulated:
        nodes.insert(0, NodeSpec("sim", "sim_node", world, {"goal": "task/next_goal"}))
    # a machine that is full of other work keeps nodes silent for longer than a robot's computer may; on hardware somebody must ask for the start
    watched: dict[str, Value] = {"timeout": 10.0, "patience": 150.0} if simulated else {"nodes": ("safety", "adapter"), "autostart": False}
    watched |= {"watched": ("task", "recorder")} if choice.record else {}
    nodes.append(NodeSpec("supervisor", "supervisor_node", watched))
    if choice.record:
        nodes.append(NodeSpec("recorder", "recorder_node", {"bag": choice.bag, "about": json.dumps(asdict(choice)), "start": True}))
    if choice.config:
        nodes = [replace(node, files=(config_file(choice.config),)) for node in nodes]
    return tuple(nodes) if choice.only == "all" else (_one(nodes, choice.only),)


def _one(nodes: list[NodeSpec], name: str) -> NodeSpec:
    for node in nodes:
        if node.name == name:
            return node
    raise ValueError(f"only is {name!r}, and this graph has {', '.join(node.name for node in nodes)}")


def replay(bag: str, policy: str = "", rate: float = 0.0) -> tuple[NodeSpec, ...]:
    """One node that plays a bag and makes its adaptation again.

    Args:
        bag: folder.
        policy: a meta-parameters file, or zoo:TASK/ALGORITHM; "": the one that was recorded.
        rate: how much faster than it was; 0: at once.

    Raises:
        ValueError: there is no such rate.
    """
    if not 0.0 <= rate < math.inf:
        raise ValueError(f"rate is {rate}, expected 0 or more")
    return (NodeSpec("replay", "replay_node", {"bag": bag, "policy": policy, "rate": rate}),)


def arm(choice: Choice, observers: int = 0) -> tuple[NodeSpec, ...]:
    """The arm's graph: as `graph`."""
    return graph(choice, observers)


def config_file(name: str) -> str:
    """The YAML file that `name` stands for: a path, or one of launch/config without its ending.

    Raises:
        FileNotFoundError: there is none.
    """
    folders = [Path(__file__).resolve().parents[1] / "launch" / "config"]
    prefixes = [*os.environ.get("AMENT_PREFIX_PATH", "").split(os.pathsep), sys.prefix]
    folders += [Path(prefix) / "share" / "metarl" / "launch" / "config" for prefix in prefixes if prefix]
    for place in (Path(name), *(folder / f"{name}.yaml" for folder in folders)):
        if place.is_file():
            return str(place.resolve())
    known = sorted({p.stem for folder in folders for p in folder.glob("*.yaml")})
    raise FileNotFoundError(f"there is no parameter file {name!r}; launch/config has {', '.join(known) or 'none'}")


# ---- running ----------------------------------------------------------------------------------------------------------------


class NodeFailed(RuntimeError):
    """A node ended with an error; the message holds what it said last."""


class Graph:
    """The nodes as processes on this machine, seen by nobody else.

        with Graph(graph(Arm())) as graph:
            graph.wait("task", 120.0)

    However the block is left, no process stays behind.

    Args:
        nodes: to start, in this order.
        domain: the ROS domain that they share, e.g. of `Domain()`.
    """

    def __init__(self, nodes: tuple[NodeSpec, ...], domain: Domain) -> None:
        self.nodes, self.domain = nodes, domain
        self._processes: dict[str, subprocess.Popen[bytes]] = {}
        self._logs: dict[str, IO[bytes]] = {}

    def __enter__(self) -> Self:
        self._folder = Path(tempfile.mkdtemp(prefix="metarl-graph-"))
        try:
            for node in self.nodes:
                self.start(node)
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.stop()

    def start(self, node: NodeSpec) -> None:
        """Start one process, also again after it has ended; what it says goes to a file."""
        if node.name in self._logs:
            self._logs[node.name].close()
        log = self._logs[node.name] = open(self._folder / f"{node.name}.log", "ab")  # noqa: SIM115
        environment = {**self.domain.environment(), "ROS_LOG_DIR": str(self._folder), PARENT_VARIABLE: str(os.getpid())}
        self._processes[node.name] = subprocess.Popen(node.command, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT, env=environment)

    def said(self, name: str) -> str:
        """Everything that a node has written."""
        return (self._folder / f"{name}.log").read_text(errors="replace")

    def pids(self) -> dict[str, int]:
        """Process id of each node."""
        return {name: process.pid for name, process in self._processes.items()}

    def kill(self, name: str) -> None:
        """End a process at once, as a crash does; `start` starts it again."""
        self._processes[name].kill()
        self._processes[name].wait()

    def finished(self, name: str) -> bool:
        """Whether a node has ended by itself.

        Raises:
            NodeFailed: some node has ended with an error.
        """
        for other, process in self._processes.items():
            if process.poll():
                lines = self.said(other).strip().splitlines()[-15:]
                raise NodeFailed(f"the {other} node ended with exit status {process.returncode}:\n" + "\n".join(lines))
        return self._processes[name].poll() is not None

    def wait(self, name: str, timeout: float) -> None:
        """Until a node has ended by itself.

        Raises:
            NodeFailed: some node has ended with an error.
            TimeoutError: it took longer than `timeout` s.
        """
        self.wait_until(lambda: self.finished(name), timeout, f"the {name} node to end")

    def wait_ready(self, timeout: float) -> None:
        """Until every node says that it is ready.

        Raises:
            NodeFailed, TimeoutError: as `wait`.
        """
        for node in self.nodes:
            self.wait_until(lambda name=node.name: self.finished(name) or READY in self.said(name), timeout, f"the {node.name} node to be ready")  # type: ignore[misc]

    def wait_until(self, true: Callable[[], bool], timeout: float, what: str) -> None:
        """Until something is true that may ask `finished`, looking 20 times a second.

        Raises:
            TimeoutError: it took longer than `timeout` s.
        """
        end = time.monotonic() + timeout
        while not true():
            if time.monotonic() > end:
                last = {name: (self.said(name).strip().splitlines() or ["nothing"])[-1] for name in self._processes}
                raise TimeoutError(f"waited {timeout:.0f} s for {what}; they said last:\n" + "\n".join(f"{k}: {v}" for k, v in last.items()))
            time.sleep(0.05)

    def stop(self) -> None:
        """End every process: by asking, then by force."""
        try:
            for number, patience in zip((signal.SIGINT, signal.SIGTERM), PATIENCE, strict=True):
                for process in self._processes.values():
                    if process.poll() is None:
                        process.send_signal(number)
                end = time.monotonic() + patience
                while time.monotonic() < end and any(p.poll() is None for p in self._processes.values()):
                    time.sleep(0.02)
        finally:
            for process in self._processes.values():
                process.kill()
                process.wait()
            for log in self._logs.values():
                log.close()
            shutil.rmtree(self._folder, ignore_errors=True)


class Domain:
    """A ROS domain that nobody else on this machine uses, for as long as this object is open.

    Raises:
        RuntimeError: none is free.
    """

    def __init__(self) -> None:
        for number in _DOMAINS:
            base = 7400 + 250 * number  # RTPS: ports of a domain
            try:
                self._lock = _bound(base + 9)  # RTPS leaves it free: whoever of us holds it has the domain
            except OSError:
                continue
            try:
                _bound(base + 10).close()  # the first participant's, of somebody else
            except OSError:
                self._lock.close()
                continue
            self.id = number
            return
        raise RuntimeError("no ROS domain between 1 and 101 is free on this machine")

    def environment(self) -> dict[str, str]:
        """Environment for processes of this domain, which no other machine sees."""
        environment = dict(os.environ)
        if sys.prefix not in environment.get("LD_LIBRARY_PATH", ""):
            # ROS wheels set library paths once per process tree; a tree that began in another Python's environment must do it again here
            environment.pop("_ROS_WHEELS_BOOTSTRAP_COMPLETE", None)
        return {**environment, **self.variables()}

    def variables(self) -> dict[str, str]:
        """What sets this domain apart."""
        return {"ROS_DOMAIN_ID": str(self.id), **transport.loopback(os.environ)}

    def close(self) -> None:
        """Leave it to others."""
        self._lock.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()


def _bound(port: int) -> socket.socket:
    found = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    try:
        found.bind(("0.0.0.0", port))
    except OSError:
        found.close()
        raise
    return found
