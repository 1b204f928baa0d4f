"""Watch a robot adapt over ROS 2: `python -m metarl.ros_nodes.demo`.

Starts the arm's graph as processes of their own, listens to the task node's events, and prints the miss of each episode as it happens.
"""

from __future__ import annotations

import importlib.util
import json
import math
import os
import signal
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Annotated, Any

import tyro
from rich.console import Console
from rich.live import Live
from rich.table import Table

from metarl import meta_parameters, robots, tasks
from metarl.report import unit_and_scale
from metarl.robots.spec import unknown_name
from metarl.ros_nodes.control_loop import load
from metarl.ros_nodes.events import Event
from metarl.ros_nodes.graph import CHOICES, Arm, Domain, Graph, NodeFailed, arm
from metarl.tasks.task import Task

PATIENCE = 900.0  # s, for a whole trial; a busy machine takes its time to start processes
LONGEST = 40  # blocks of a bar
INSTALL = "ROS 2 is not installed for this Python ({}): `pip install 'metarl[ros]'` brings it on x86-64 Linux with Python 3.11 or 3.12"


@dataclass(frozen=True)
class Demo:
    """Watch a simulated robot adapt over ROS 2, episode by episode."""

    meta_parameters: str = "zoo:arm_slide/rl2"
    """A file, or zoo:TASK/ALGORITHM."""
    simulator: str = "pybullet"
    """What plays the robot: pybullet or mujoco."""
    split: str = "iid"
    """Where the hidden task is drawn from: train, iid, ood_near or ood_far."""
    task: Annotated[int, tyro.conf.arg(metavar="INDEX")] = 0
    """Which task of the split."""
    seed: int = 0
    """Of everything random in the simulated world."""
    json: Path | None = None
    """Write the results to this file."""


def check(demo: Demo) -> Arm:
    """What to run, once it is known that it can be run.

    Raises:
        FileNotFoundError, OSError, ValueError: something that was asked for does not exist, fit or work; the message says what.
        ModuleNotFoundError: there is no ROS.
    """
    for name in ("simulator", "split"):
        if getattr(demo, name) not in CHOICES[name]:
            raise unknown_name(name, getattr(demo, name), CHOICES[name])
    about, _ = meta_parameters.read(demo.meta_parameters)
    if not about.spec.robot:
        raise ValueError(f"{demo.meta_parameters} is for {about.spec.task}, a task without a robot: there is nothing to show on ROS")
    load(demo.meta_parameters, robots.load(about.spec.robot))
    if demo.json is not None:
        meta_parameters.check_writable(demo.json)
    needs_ros()
    return Arm(demo.meta_parameters, about.spec.task, demo.simulator, demo.split, demo.task, demo.seed)


def needs_ros() -> None:
    """Nothing, where there is ROS.

    Raises:
        ModuleNotFoundError: there is none; the message says how to install it.
    """
    for module in ("rclpy", "trajectory_msgs"):
        if importlib.util.find_spec(module) is None:
            raise ModuleNotFoundError(INSTALL.format(f"no module {module}"))


def show(demo: Demo, choice: Arm, console: Console) -> dict[str, Any]:
    """Run one trial and print it as it happens; what was seen, as plain values."""
    task = tasks.make(choice.task)
    hidden = task.sample(1, choice.split, start=choice.index)
    console.print(f"{choice.policy} on {task.robot_name} in {choice.simulator}, over ROS 2. What the robot is not told:")
    console.print(hidden.describe(0), highlight=False)
    nodes = arm(choice, observers=1)
    console.print(f"starting {', '.join(node.name for node in nodes)}: a process each")
    with Board(task, console) as board, Domain() as domain, Listener(domain, board.hear) as listener, Graph(nodes, domain) as graph:
        graph.wait_until(lambda: listener.heard_all() and graph.finished("task"), PATIENCE, "the trial to end")
        listener.heard_all()
        console.print(f"the trial has ended after {len(board.miss)} {board.kind}s: stopping the nodes")
        refusals = [line for line in graph.said("safety").splitlines() if "refused" in line]
    for line in refusals:
        console.print(line, style="yellow", markup=False, highlight=False)
    first, last = board.miss[0], board.miss[-1]
    console.print(f"Miss: {board.far(first)} in the first {board.kind}, {board.far(last)} in the last.")
    return {
        **{f.name: getattr(choice, f.name) for f in fields(choice)}, "task_id": hidden.ids[0], "description": hidden.describe(0),
        "miss": [miss if math.isfinite(miss) else None for miss in board.miss], "miss_unit": task.error_unit, "return": board.returns,
    }  # fmt: skip


class Board:
    """A line when the trial begins, and the table of episodes: redrawn on a terminal, line by line elsewhere.

    Attributes:
        miss: in the task's unit, at the end of each episode so far; NaN where the task does not say.
        returns: of each.
        kind: what an episode is called.
    """

    def __init__(self, task: Task, console: Console) -> None:
        self.miss: list[float] = []
        self.returns: list[float] = []
        self.kind = "shot" if task.horizon == 1 else "episode"
        self._unit, self._scale = unit_and_scale(task.error_unit)
        self._block = 1  # units that a block of a bar stands for
        self._episodes, self._console, self._return = task.episodes_per_trial, console, 0.0
        self._live = Live(self._table(), console=console, refresh_per_second=4) if console.is_terminal else None

    def hear(self, event: Event) -> None:
        """Take in an event of the task node."""
        self._return = event.reward + (0.0 if event.begins else self._return)
        if event.begins and not self.miss:
            self._console.print(f"all are ready: a trial of {self._episodes} {self.kind}s begins")
        if not event.ends:
            return
        self.miss.append(event.error)
        self.returns.append(self._return)
        if len(self.miss) == 1 and math.isfinite(event.error):
            self._block = 10 ** max(0, math.ceil(math.log10(max(self._scale * event.error / LONGEST, 1.0))))
        if self._live is not None:
            self._live.update(self._table())
            return
        number, far, returned, bar = self._row(len(self.miss) - 1)
        said = f"{self.kind} {number} of {self._episodes}: miss {far}, return {returned}"
        self._console.print(f"{said}, {self._scale_of_bar()} {bar}" if bar else said, highlight=False)

    def far(self, error: float) -> str:
        """A miss in words."""
        return f"{self._scale * error:.1f} {self._unit}" if math.isfinite(error) else "unknown"

    def _row(self, k: int) -> list[str]:
        if k >= len(self.miss):
            return [str(k + 1), "…", "", ""]
        blocks = min(round(self._scale * self.miss[k] / self._block), LONGEST) if math.isfinite(self.miss[k]) else 0
        return [str(k + 1), self.far(self.miss[k]), f"{self.returns[k]:.2f}", "█" * blocks]

    def _scale_of_bar(self) -> str:
        return f"█ = {self._block} {self._unit}:"

    def _table(self) -> Table:
        table = Table(self.kind, "miss", "return", f"miss, {self._scale_of_bar()}")
        for k in range(self._episodes):
            table.add_row(*self._row(k))
        return table

    def __enter__(self) -> Board:
        if self._live is not None:
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._live is not None:
            self._live.stop()


class Listener:
    """Hears the task node's events in this process."""

    def __init__(self, domain: Domain, on_event: Callable[[Event], None]) -> None:
        import rclpy
        from rclpy.executors import SingleThreadedExecutor
        from std_msgs.msg import Float64MultiArray

        from metarl.ros_nodes import messages, runtime

        os.environ.update(domain.variables())  # read when the first participant is made
        self._context = rclpy.Context()
        rclpy.init(context=self._context, signal_handler_options=rclpy.SignalHandlerOptions.NO)
        self._node = rclpy.create_node("demo", context=self._context)
        self._node.create_subscription(Float64MultiArray, "task/events", lambda m: on_event(messages.to_event(m)), runtime.HISTORY)
        self._executor = SingleThreadedExecutor(context=self._context)
        self._executor.add_node(self._node)

    def heard_all(self) -> bool:
        """True, after passing on all that has come."""
        for _ in range(100):
            self._executor.spin_once(timeout_sec=0.0)
        return True

    def __enter__(self) -> Listener:
        return self

    def __exit__(self, *_: object) -> None:
        self._executor.shutdown()
        self._node.destroy_node()
        self._context.try_shutdown()


def ended(work: Callable[[], int]) -> int:
    """The exit status of `work`, or of what ended it: 130 for Ctrl-C, 1 for an error that is said in one line."""
    errors = Console(stderr=True)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that the graph is ended as well
    signal.signal(signal.SIGINT, signal.default_int_handler)  # also where a shell started this in the background, with Ctrl-C ignored
    try:
        return work()
    except KeyboardInterrupt:
        errors.print("stopped")
        return 130
    except (OSError, ValueError, ModuleNotFoundError, NodeFailed, TimeoutError) as error:
        errors.print(f"error: {error}", markup=False, highlight=False)
        return 1


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line; the exit status."""
    demo = tyro.cli(Demo, args=arguments, prog="python -m metarl.ros_nodes.demo")

    def work() -> int:
        results = show(demo, check(demo), Console())
        if demo.json is not None:
            meta_parameters.write_atomically(demo.json, (json.dumps(results, indent=2) + "\n").encode())
        return 0

    return ended(work)


if __name__ == "__main__":
    with suppress(BrokenPipeError):
        sys.exit(main())
