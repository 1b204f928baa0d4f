"""Minutes of random faults in the real graph: how soon it comes back from each, and whether its processes grow. Used by `ros.py --soak`."""

from __future__ import annotations

import os
import random
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from sensor_msgs.msg import JointState
from std_msgs.msg import Bool
from std_srvs.srv import SetBool, Trigger
from trajectory_msgs.msg import JointTrajectory

from metarl.ros_nodes import messages, runtime
from metarl.ros_nodes.graph import Graph
from metarl.ros_nodes.limits import Command
from metarl.ros_nodes.operating import Operator
from metarl.ros_nodes.wires import ArmWire

COME_BACK = 60.0  # s within which the graph must work again; most of it is for a process that starts anew on a machine that is busy with other work
QUIET = (2.0, 8.0)  # s between two faults
SAMPLE = 1.0  # s between two looks at memory
SETTLED = 60.0  # s after its start that a process may grow: it fills its histories
BLOCK = 20.0  # s of which the mean counts as one measurement, so that neighbours are nearly independent
VICTIMS = ("sim", "adapter", "task")  # who is frozen and killed
Array = NDArray[np.float64]


# ---- memory -----------------------------------------------------------------------------------------------------------------


class Slope(NamedTuple):
    """Of a straight line through measurements, with twice its standard error to both sides."""

    value: float
    low: float
    high: float


def slope(lives: Sequence[tuple[Array, Array]]) -> Slope:
    """The common slope of several series, each with a level of its own, by least squares.

    Args:
        lives: x and y (N,) of each.

    Raises:
        ValueError: there are too few points to say anything.
    """
    freedom = sum(len(x) - 1 for x, _ in lives) - 1
    if freedom < 1:
        raise ValueError(f"{[len(x) for x, _ in lives]} points in {len(lives)} series: that says nothing of a slope and of how sure it is")
    x, y = (np.concatenate([life[i] - life[i].mean() for life in lives]) for i in (0, 1))
    value = float(x @ y / (x @ x))
    error = float(np.sqrt(((y - value * x) ** 2).sum() / freedom / (x @ x)))
    return Slope(value, value - 2 * error, value + 2 * error)


def blocks(when: Array, values: Array, size: float) -> tuple[Array, Array]:
    """Means over blocks of `size` s, of the moments and of the values; a last block that is not full is left out."""
    which = ((when - when[0]) // size).astype(int)
    full = range(int((when[-1] - when[0]) // size))
    return np.array([when[which == b].mean() for b in full]), np.array([values[which == b].mean() for b in full])


class Memory(threading.Thread):
    """Looks at the resident memory of a graph's processes, once a second."""

    def __init__(self, graph: Graph) -> None:
        super().__init__(daemon=True)
        self._graph, self._done = graph, threading.Event()
        self._seen: dict[tuple[str, int], list[tuple[float, float]]] = {}

    def run(self) -> None:
        """Until `stop`."""
        while not self._done.wait(SAMPLE):
            for name, pid in self._graph.pids().items():
                try:
                    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
                except (OSError, IndexError):
                    continue  # it has just ended
                self._seen.setdefault((name, pid), []).append((time.monotonic(), pages * os.sysconf("SC_PAGE_SIZE") / 2**20))

    def stop(self) -> None:
        """Look no more."""
        self._done.set()
        self.join()

    def slopes(self) -> dict[str, tuple[float, Slope | None]]:
        """Of each node: MiB at the end, and MiB per hour, None where no process of it has lived long enough."""
        found: dict[str, tuple[float, Slope | None]] = {}
        for name in dict.fromkeys(name for name, _ in self._seen):
            lives = [np.array(samples).T for (n, _), samples in self._seen.items() if n == name]
            settled = [(t[t > t[0] + SETTLED], m[t > t[0] + SETTLED]) for t, m in lives]
            parts = [blocks(t, m, BLOCK) for t, m in settled if len(t) and t[-1] - t[0] >= 2 * BLOCK]
            enough = sum(len(t) - 1 for t, _ in parts) > 1
            per_second = slope(parts) if enough else None
            found[name] = float(lives[-1][1][-1]), None if per_second is None else Slope(*(3600 * v for v in per_second))
        return found


# ---- faults -----------------------------------------------------------------------------------------------------------------


@dataclass
class Soak:
    """What came of it.

    Attributes:
        minutes: that it took.
        back: fault -> s after its end until the graph worked again, each time.
        stuck: what did not come back in time, in words.
        memory: as `Memory.slopes`.
        adaptation_off: how often learning had switched itself off, and somebody switched it on again.
        counts: what the safety node has refused, by name.
    """

    minutes: float
    back: dict[str, list[float]] = field(default_factory=dict)
    stuck: list[str] = field(default_factory=list)
    memory: dict[str, tuple[float, Slope | None]] = field(default_factory=dict)
    adaptation_off: int = 0
    counts: dict[str, int] = field(default_factory=dict)


class Faults:
    """Does harm to a graph, by name, and undoes what would last; the wire says what the robot's topics are."""

    def __init__(self, operator: Operator, wire: ArmWire, rng: random.Random) -> None:
        self._operator, self._wire, self._rng = operator, wire, rng
        self._estop = operator.node.create_publisher(Bool, "estop", runtime.LATCHED)

    def all(self) -> dict[str, Callable[[], None]]:
        """Those that leave every process alive."""
        found = {f"{name} frozen": lambda name=name: self._freeze(name) for name in VICTIMS}
        return {
            **found, "NaN command": self._bad_command, "NaN reading": self._bad_reading, "emergency stop": self._press, "pause": self._pause,
            "simulation paused": self._halt,
        }  # fmt: skip

    def deadly(self) -> dict[str, Callable[[], None]]:
        """Those that kill a process, and start it anew."""
        return {f"{name} killed": lambda name=name: self._kill(name) for name in VICTIMS}

    def _freeze(self, name: str) -> None:
        with self._operator.frozen(name):
            self._operator.wait(self._rng.uniform(0.02, 2.0))

    def _kill(self, name: str) -> None:
        graph = self._operator.graph
        graph.kill(name)
        self._operator.wait(self._rng.uniform(0.0, 2.0))
        graph.start(next(n for n in graph.nodes if n.name == name))

    def _bad_command(self) -> None:
        """By somebody who has no business on that topic: two mistakes at once."""
        robot = self._wire.robot
        mouth = self._operator.node.create_publisher(JointTrajectory, "adapter/command", runtime.COMMAND)
        nothing = np.full((1, robot.num_joints), np.nan)
        self._operator.wait(0.3)
        mouth.publish(self._wire.message(Command(time.time_ns(), np.array([0.01]), nothing, nothing)))
        self._until_state("stopped")
        self._operator.node.destroy_publisher(mouth)
        self._operator.until(lambda: len(self._operator.node.get_publishers_info_by_topic("adapter/command")) == 1, "one to be left", COME_BACK)
        self._operator.wait(0.5)  # until the safety node has heard of it, too
        self._reset()

    def _bad_reading(self) -> None:
        mouth = self._operator.node.create_publisher(JointState, self._wire.state_topic, runtime.STREAM)
        self._operator.wait(0.3)
        nothing = np.full(self._wire.robot.num_joints, np.nan)
        refused = self._operator.count("safety", "not_finite")
        self._operator.until(lambda: self._spoken(mouth, nothing) and self._operator.count("safety", "not_finite") > refused, "it to be refused", COME_BACK)
        self._operator.node.destroy_publisher(mouth)

    def _spoken(self, mouth: Any, values: Array) -> bool:
        mouth.publish(messages.joint_state(self._wire.joint_names, values, values, time.time_ns()))
        return True

    def _press(self) -> None:
        self._estop.publish(Bool(data=True))
        self._until_state("stopped")
        self._operator.wait(self._rng.uniform(0.1, 1.0))
        self._estop.publish(Bool(data=False))
        self._reset()

    def _reset(self) -> None:
        def done() -> bool:
            return bool(self._operator.ask(Trigger, "safety/reset").success) and self._operator.said["safety"]["state"] != "stopped"

        self._operator.until(done, "the reset", COME_BACK)

    def _pause(self) -> None:
        self._operator.ask(Trigger, "supervisor/pause")
        self._operator.until(lambda: self._operator.said["adapter"].get("lifecycle") == "inactive", "the adapter to be inactive", COME_BACK)
        self._operator.wait(self._rng.uniform(0.1, 1.0))
        self._operator.ask(Trigger, "supervisor/startup")

    def _halt(self) -> None:
        self._operator.ask(SetBool, "sim/set_pause", data=True)
        self._operator.wait(self._rng.uniform(0.1, 1.0))
        self._operator.ask(SetBool, "sim/set_pause", data=False)

    def _until_state(self, state: str) -> None:
        self._operator.until(lambda: self._operator.said["safety"].get("state") == state, f"the robot to be {state}", COME_BACK)


def soak(operator: Operator, wire: ArmWire, minutes: float, seed: int, tell: Callable[[str], None]) -> Soak:
    """Random faults for so many minutes.

    Processes are killed in the first half only, so that all live long enough for their memory to tell.

    Args:
        operator: of a graph whose commands flow.
        wire: of its robot.
        minutes: of faults.
        seed: of what happens when.
        tell: called with what has happened, for whoever waits.
    """
    rng, memory = random.Random(seed), Memory(operator.graph)
    faults, result = Faults(operator, wire, rng), Soak(minutes)
    memory.start()
    began = time.monotonic()
    end = began + 60 * minutes
    while time.monotonic() < end and not result.stuck:
        young = time.monotonic() < 0.5 * (began + end)
        known = faults.all() | (faults.deadly() if young else {})
        name = rng.choice(sorted(known))
        since = time.monotonic()
        try:
            known[name]()
            since = time.monotonic()
            _works(operator)
        except TimeoutError as error:
            result.stuck.append(f"{name}: {error}")
        taken = time.monotonic() - since
        result.back.setdefault(name, []).append(taken)
        tell(f"{time.monotonic() - began:6.0f} s  {name}: back after {taken:.2f} s")
        if operator.said["adapter"].get("adaptation_off"):
            result.adaptation_off += 1
            operator.ask(SetBool, "adapter/enable_adaptation", data=True)
        operator.wait(rng.uniform(*QUIET))
    memory.stop()
    result.minutes, result.memory = (time.monotonic() - began) / 60, memory.slopes()
    result.counts = {k: int(v) for k, v in operator.said["safety"].items() if v.isdecimal()}
    return result


def _works(operator: Operator) -> None:
    """Commands flow, and every node is in the state that it is in while all is well."""
    operator.flows(COME_BACK)
    wanted: Mapping[str, tuple[str, str]] = {"safety": ("state", "tracking"), "adapter": ("lifecycle", "active"), "supervisor": ("ready", "true")}
    operator.until(lambda: all(operator.said[n].get(k) == v for n, (k, v) in wanted.items()), "every node to be as it was", COME_BACK)
