"""The processes that `ros.py` starts: a simulated robot with a stopwatch, and nodes that only pass on what they get.

python benchmarks/chain.py sim|source|judge|decider|gate --ros-args -p ...

The nodes of the bare graph have the topics, the messages and the hops of the real one, and nothing else: readings -> event -> command -> command.
"""

from __future__ import annotations

import itertools
import sys
import time
from collections.abc import Iterable
from typing import Any

import numpy as np
from geometry_msgs.msg import PoseStamped
from rclpy.node import Node
from rosgraph_msgs.msg import Clock
from sensor_msgs.msg import JointState
from std_msgs.msg import Float64MultiArray
from std_srvs.srv import Trigger
from trajectory_msgs.msg import JointTrajectory

from metarl import robots
from metarl.robots.spec import ArmSpec
from metarl.ros_nodes import messages, runtime
from metarl.ros_nodes.events import Event
from metarl.ros_nodes.limits import Command
from metarl.ros_nodes.sim_node import SimNode

ARM = robots.load("arm7")
assert isinstance(ARM, ArmSpec)
HOME = np.array(ARM.home_qpos)
SOURCES = ("seen", "measured")


# ---- the stopwatch ----------------------------------------------------------------------------------------------------------


class Stopwatch:
    """When readings were published, and when the commands arrived that were computed from them.

    The last command before the motors carries no stamp; the safety node says on `executed` what each of them answers.

    Args:
        node: that publishes readings and hears commands; its parameter `times` is the file that the times are written to.
    """

    def __init__(self, node: Node) -> None:
        self._file = runtime.parameter(node, "times", "")
        self._published: dict[int, int] = {}
        self._due: set[int] = set()
        self._first: set[int] = set()
        self._arrived: list[tuple[bytes, int]] = []
        self._executed: list[tuple[bytes, int]] = []
        node.create_subscription(JointTrajectory, "safety/executed", self._on_executed, runtime.ANSWERS)

    def publishes(self, stamp: int, due: bool) -> None:
        """Readings of that stamp (ns) are being published now; where a command is `due`, time passes and the robot needs one."""
        self._published.setdefault(stamp, time.monotonic_ns())
        if due:
            self._due.add(stamp)

    def begins(self, stamp: int) -> None:
        """An episode begins with the readings of that stamp (ns)."""
        self._first.add(stamp)

    def arrives(self, message: JointTrajectory) -> None:
        """A command is here."""
        self._arrived.append((_content(message), time.monotonic_ns()))

    def _on_executed(self, message: JointTrajectory) -> None:
        self._executed.append((_content(message), messages.to_stamp(message.header.stamp)))

    def write(self) -> None:
        """(N,) each: ns when a reading was published, ns until its command arrived, and whether an episode began with it.

        And (D,) of the readings for which a command was due: ns when they were published, and whether one came.
        """
        answered = [(s, t) for s, t in answers(self._arrived, self._executed) if s in self._published]
        begun, first = np.array([self._published[s] for s, _ in answered]), np.array([s in self._first for s, _ in answered])
        came, due = {s for s, _ in answered}, sorted(self._due)
        asked = {"asked": np.array([self._published[s] for s in due]), "came": np.array([s in came for s in due], dtype=bool)}
        np.savez(self._file, published=begun, latency=np.array([t for _, t in answered]) - begun, first=first, **asked)


def answers(arrived: Iterable[tuple[bytes, int]], executed: Iterable[tuple[bytes, int]]) -> list[tuple[int, int]]:
    """Which stamp each arrival answers: both streams come in order and tell the same contents, though some may be lost.

    Args:
        arrived: contents and time of arrival.
        executed: contents and stamp.

    Returns:
        stamps and times; of a stamp that is answered again and again, the first one.
    """
    times: dict[bytes, list[int]] = {}
    for content, when in arrived:
        times.setdefault(content, []).append(when)
    found: dict[int, int] = {}
    for content, stamp in executed:
        if times.get(content):
            found.setdefault(stamp, times[content].pop(0))
    return list(found.items())


def _content(message: JointTrajectory) -> bytes:
    return b"".join(point.positions.tobytes() for point in message.points)


class TimedSim(SimNode):
    """The simulated robot, timed."""

    def __init__(self, node: Node) -> None:
        self.stopwatch = Stopwatch(node)
        super().__init__(node)

    def _publish(self) -> None:
        self.stopwatch.publishes(self._stamp, due=self._running)
        super()._publish()

    def _begun(self, response: Trigger.Response) -> Trigger.Response:
        answer = super()._begun(response)
        self.stopwatch.begins(self._stamp)
        return answer

    def _on_command(self, message: Any) -> None:
        self.stopwatch.arrives(message)
        super()._on_command(message)

    def close(self) -> None:
        """The process ends."""
        self.stopwatch.write()


# ---- the bare graph ---------------------------------------------------------------------------------------------------------


class Source:
    """Where the robot would be: publishes readings at `rate`, and hears commands."""

    finished = False

    def __init__(self, node: Node) -> None:
        self.node, self.stopwatch = node, Stopwatch(node)
        self._state = node.create_publisher(JointState, ARM.state_topic, runtime.STREAM)
        self._targets = [node.create_publisher(PoseStamped, f"{source}/target", runtime.STREAM) for source in SOURCES]
        self._clock = node.create_publisher(Clock, "/clock", runtime.STREAM_IN)
        self._target = PoseStamped()
        self._target.header.frame_id, self._target.pose.orientation.w = messages.BASE_FRAME, 1.0
        node.create_subscription(JointTrajectory, ARM.command_topic, self.stopwatch.arrives, runtime.COMMAND)
        runtime.steady_timer(node, 1.0 / runtime.parameter(node, "rate", 100.0), self._publish)
        self.close = self.stopwatch.write
        runtime.Status(node).publish("passing on", ready=True)

    def _publish(self) -> None:
        stamp = time.time_ns()
        self.stopwatch.publishes(stamp, due=True)
        self._state.publish(messages.joint_state(ARM.joint_names, HOME, np.zeros(len(HOME)), stamp))
        self._target.header.stamp = messages.to_time(stamp)
        for publisher in self._targets:
            publisher.publish(self._target)
        self._clock.publish(Clock(clock=self._target.header.stamp))


class Judge:
    """Where the task node would be: an event for each pair of readings."""

    finished = False

    def __init__(self, node: Node) -> None:
        self.node, self._stamps, self._number = node, [0, 0], itertools.count()
        self._events = node.create_publisher(Float64MultiArray, "task/events", runtime.HISTORY)
        node.create_subscription(JointState, ARM.state_topic, lambda m: self._take(0, m), runtime.STREAM_IN)
        node.create_subscription(PoseStamped, "measured/target", lambda m: self._take(1, m), runtime.STREAM_IN)
        node.create_subscription(Float64MultiArray, "adapter/action", lambda m: None, runtime.ANSWERS)
        node.create_subscription(JointTrajectory, "safety/executed", lambda m: None, runtime.ANSWERS)
        runtime.Status(node).publish("passing on", ready=True)

    def _take(self, which: int, message: Any) -> None:
        self._stamps[which] = messages.stamp_of(message)
        if self._stamps[0] == self._stamps[1]:
            self._events.publish(messages.event_message(Event(0, next(self._number), 0, 1, 0.0, False, False, 0.0, self._stamps[0])))


class Decider:
    """Where the adapter would be: a command for each event, once readings as new as it are here."""

    finished = False

    def __init__(self, node: Node) -> None:
        self.node, self._stamps, self._event, self._number = node, [0, 0], 0, 0
        self._command = node.create_publisher(JointTrajectory, "adapter/command", runtime.COMMAND)
        self._action = node.create_publisher(Float64MultiArray, "adapter/action", runtime.ANSWERS)
        node.create_subscription(JointState, ARM.state_topic, lambda m: self._take(0, m), runtime.STREAM_IN)
        node.create_subscription(PoseStamped, "seen/target", lambda m: self._take(1, m), runtime.STREAM_IN)
        node.create_subscription(JointTrajectory, "safety/executed", lambda m: None, runtime.ANSWERS)
        node.create_subscription(Float64MultiArray, "task/events", self._on_event, runtime.HISTORY)
        runtime.Status(node).publish("passing on", ready=True)

    def _take(self, which: int, message: Any) -> None:
        self._stamps[which] = messages.stamp_of(message)
        self._advance()

    def _on_event(self, message: Float64MultiArray) -> None:
        self._event = messages.to_event(message).stamp
        self._advance()

    def _advance(self) -> None:
        if not self._event or min(self._stamps) < self._event:
            return
        self._number += 1
        qpos = HOME + 1e-9 * self._number  # so that each command is known by what it says
        self._command.publish(messages.command_message(Command(self._event, np.array([0.01]), qpos[None], np.zeros((1, len(qpos)))), ARM.joint_names))
        self._action.publish(messages.numbers(ARM.joint_names, qpos.tolist()))
        self._event = 0


class Gate:
    """Where the safety node would be: each command, once for the robot and once for whoever wants to know."""

    finished = False

    def __init__(self, node: Node) -> None:
        self.node = node
        self._controller = node.create_publisher(JointTrajectory, ARM.command_topic, runtime.COMMAND)
        self._executed = node.create_publisher(JointTrajectory, "safety/executed", runtime.ANSWERS)
        node.create_subscription(JointState, ARM.state_topic, lambda m: None, runtime.STREAM_IN)
        node.create_subscription(JointTrajectory, "adapter/command", self._on_command, runtime.COMMAND)
        runtime.Status(node).publish("passing on", ready=True)

    def _on_command(self, message: JointTrajectory) -> None:
        self._controller.publish(message)
        self._executed.publish(message)


ROLES = {"sim": ("sim", TimedSim), "source": ("sim", Source), "judge": ("task", Judge), "decider": ("adapter", Decider), "gate": ("safety", Gate)}

if __name__ == "__main__":
    runtime.run(*ROLES[sys.argv[1]])
