"""Watch a robot adapt over ROS 2: `python -m metarl.ros_nodes.demo`.

Starts the arm's graph as processes of their own, listens to the task node's events, and prints the miss of each episode as it happens.
"""

from __future__ import annotations

import importlib.util
import json
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

from metarl import meta_parameters, tasks
from metarl.ros_nodes.events import Event
from metarl.ros_nodes.graph import CHOICES, Arm, Domain, Graph, NodeFailed, arm
from metarl.robots.spec import unknown_name

PATIENCE = 180.0  # s, for a whole trial
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
    for name, known in CHOICES.items():
        if getattr(demo, name) not in known:
            raise unknown_name(name, getattr(demo, name), known)
    about, _ = meta_parameters.read(demo.meta_parameters)
    meta_parameters.load(demo.meta_parameters)
    if not about.spec.robot:
        raise ValueError(f"{demo.meta_parameters} is for {about.spec.task}, a task without a robot: there is nothing to show on ROS")
    if demo.json is not None:
        meta_parameters.check_writable(demo.json)
    for module in ("rclpy", "trajectory_msgs"):
        if importlib.util.find_spec(module) is None:
            raise ModuleNotFoundError(INSTALL.format(f"no module {module}"))
    return Arm(demo.meta_parameters, about.spec.task, demo.simulator, demo.split, demo.task, demo.seed)


def show(demo: Demo, choice: Arm, console: Console) -> dict[str, Any]:
    """Run one trial and print it as it happens; what was seen, as plain values."""
    task = tasks.make(choice.task)
    hidden = task.sample(1, choice.split, start=choice.index)
    console.print(f"{choice.meta_parameters} on {task.robot_name} in {choice.simulator}, over ROS 2. What the robot is not told:")
    console.print(f"  {hidden.describe(0)}", highlight=False)
    ends: list[Event] = []
    with Live(_table(task.episodes_per_trial, ends), console=console, refresh_per_second=4) as live, Domain() as domain:

        def on_event(event: Event) -> None:
            if event.ends:
                ends.append(event)
                live.update(_table(task.episodes_per_trial, ends))

        with Listener(domain, on_event) as listener, Graph(arm(choice, observers=1), domain) as graph:
            graph.wait_until(lambda: listener.spin_once() or graph.finished("task"), PATIENCE, "the trial to end")
            listener.drain()
    first, last = ends[0], ends[-1]
    console.print(f"Miss: {_cm(first.error)} in the first episode, {_cm(last.error)} in the last, without ever being told what it handles.")
    return {
        **{f.name: getattr(choice, f.name) for f in fields(choice)}, "task_id": hidden.ids[0], "description": hidden.describe(0),
        "miss_m": [e.error for e in ends], "reward": [e.reward for e in ends],
    }  # fmt: skip


class Listener:
    """Hears the task node's events in this process."""

    def __init__(self, domain: Domain, on_event: Callable[[Event], None]) -> None:
        import os

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

    def spin_once(self) -> None:
        """Hear what has come."""
        self._executor.spin_once(timeout_sec=0.05)

    def drain(self) -> None:
        """Hear all that has come."""
        for _ in range(20):
            self.spin_once()

    def __enter__(self) -> Listener:
        return self

    def __exit__(self, *_: object) -> None:
        self._executor.shutdown()
        self._node.destroy_node()
        self._context.try_shutdown()


def _table(episodes: int, ends: Sequence[Event]) -> Table:
    table = Table("shot", "miss", "reward", "")
    for k in range(episodes):
        row = [_cm(ends[k].error), f"{ends[k].reward:.2f}", "█" * round(100 * ends[k].error)] if k < len(ends) else ["…", "", ""]
        table.add_row(str(k + 1), *row)
    return table


def _cm(metres: float) -> str:
    return f"{100 * metres:.1f} cm"


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line; the exit status."""
    demo = tyro.cli(Demo, args=arguments, prog="python -m metarl.ros_nodes.demo")
    errors = Console(stderr=True)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that the graph is ended as well
    try:
        results = show(demo, check(demo), Console())
    except KeyboardInterrupt:
        errors.print("stopped")
        return 130
    except (OSError, ValueError, ModuleNotFoundError, NodeFailed, TimeoutError) as error:
        errors.print(f"error: {error}", markup=False, highlight=False)
        return 1
    if demo.json is not None:
        meta_parameters.write_atomically(demo.json, (json.dumps(results, indent=2) + "\n").encode())
    return 0


if __name__ == "__main__":
    with suppress(BrokenPipeError):
        sys.exit(main())
