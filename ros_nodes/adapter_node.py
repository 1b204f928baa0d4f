"""adapter: the Adapter of one meta-parameters file on a robot. It is never told the task, and knows no simulator.

It adapts in its executor's thread by decision: the robot is at rest between episodes, and nothing that comes meanwhile may overtake it.
Subscribes `events` (from the task node), the robot's own state, `seen/...`, `executed` (what the safety node let through).
Publishes `~/command` (JointTrajectory or TwistStamped, stamped like the event that it answers), `~/action`, `~/used` (what it decided on), `~/status`.
Parameters: meta_parameters (a file, or zoo:TASK/ALGORITHM), robot (the file must be for it), and those of `wired`.
"""

from __future__ import annotations

from typing import Any

import torch
from rclpy.node import Node
from std_msgs.msg import Float64MultiArray

from metarl.ros_nodes import messages, runtime
from metarl.ros_nodes.control_loop import Decision, load
from metarl.ros_nodes.events import Event, EventOrder
from metarl.ros_nodes.inbox import Inbox
from metarl.ros_nodes.rejection import Rejected, RejectedAction
from metarl.ros_nodes.wires import wired

PERIOD = 0.25  # s between two looks at who is listening


class AdapterNode:
    """Waits, for each event, until readings as new as it are here; then observes and acts."""

    finished = False

    def __init__(self, node: Node) -> None:
        self.node = node
        torch.set_num_threads(1)
        self.wire = wired(node, runtime.parameter(node, "robot", "arm7"))
        self.file = runtime.parameter(node, "meta_parameters", "")
        self.loop = load(self.file, self.wire.robot)
        self.task = self.loop.task
        self.status = runtime.Status(node)
        self.order = EventOrder()
        self._events: list[Event] = []  # accepted, not yet dealt with
        self._asked = 0  # ns, stamp of the command that was published last
        self._executed: tuple[int, torch.Tensor] = (0, torch.empty(0))  # stamp and last pose of what safety let through
        self._command = node.create_publisher(self.wire.command_kind, "~/command", runtime.COMMAND)
        self._action = node.create_publisher(Float64MultiArray, "~/action", runtime.ANSWERS)
        self._used = node.create_publisher(Float64MultiArray, "~/used", runtime.HISTORY)
        self.inbox = Inbox(node, self.wire, self.task, self.loop.needs, "seen", self.status, self._advance)
        node.create_subscription(self.wire.command_kind, "executed", self._on_executed, runtime.ANSWERS)
        node.create_subscription(Float64MultiArray, "events", self._on_event, runtime.HISTORY)
        runtime.steady_timer(node, PERIOD, self._on_timer)

    def _on_timer(self) -> None:
        if not self.status.ready:
            listened = self._command.get_subscription_count() > 0
            self.status.publish(f"adapting with {self.file}" if listened else "waiting for the safety node", ready=listened)

    def _on_event(self, message: Float64MultiArray) -> None:
        try:
            event = messages.to_event(message)
            if self.order.accept(event):
                self._events.clear()
                self.loop.begin_trial()
        except Rejected as rejected:
            self.status.refused(rejected.reason, f"event: {rejected}")
            return
        self._events.append(event)
        self._advance()

    def _on_executed(self, message: Any) -> None:
        try:
            command = self.wire.command(message)
            last = self.wire.last(command)
        except Rejected as rejected:
            self.status.refused(rejected.reason, f"executed: {rejected}")
            return
        self._executed = command.stamp, last
        self._advance()

    def _advance(self) -> None:
        """Deal with the oldest event, once all that belongs to it is here."""
        if not self._events:
            return
        event = self._events[0]
        if self.inbox.missing(event.stamp) or not (event.begins or self._executed[0] == self._asked):
            return
        self._events.pop(0)
        try:
            self._answer(event)
        except RejectedAction as error:
            raise RuntimeError(f"{self.file} decided what no robot may do: {error}") from error
        except Rejected as rejected:
            self.status.refused(rejected.reason, f"event {event.sequence}: {rejected}")

    def _answer(self, event: Event) -> None:
        seen = self.inbox.readings()
        executed = torch.empty(0) if event.begins else self._executed[1]
        self._used.publish(messages.used_message(event, self.loop.needs, seen, executed))
        if event.begins:
            self._publish(event, self.loop.begin_episode(seen))
            return
        decision = self.loop.take_result(event.reward, event.terminated, event.truncated, seen, executed)
        if decision is not None:
            self._publish(event, decision)
        else:
            self.loop.end_episode()

    def _publish(self, event: Event, decision: Decision) -> None:
        self._asked = event.stamp
        self._command.publish(self.wire.message(self.wire.planned(decision.command, event.stamp)))
        labels = ("epoch", "sequence", *self.task.action_names)
        self._action.publish(messages.numbers(labels, [event.epoch, event.sequence, *decision.action.tolist()]))


def main() -> None:
    """Run the node."""
    runtime.run("adapter", AdapterNode)


if __name__ == "__main__":
    main()
