"""The newest readings of everything that a task needs, each from its channel."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from rclpy.node import Node

from metarl.ros_nodes import messages, readings, runtime
from metarl.ros_nodes.channels import Channel, channels
from metarl.ros_nodes.rejection import Rejected
from metarl.ros_nodes.wires import Wire
from metarl.tasks.task import Readings, Task


class Inbox:
    """Subscribes to the robot's own state and to whatever else brings the readings that are needed.

    Args:
        node: that listens.
        wire: of the robot.
        task: whose readings.
        needs: names of the readings.
        source: "seen" or "measured".
        status: where refused messages are counted.
        on_news: called after each message that was taken in.
    """

    def __init__(self, node: Node, wire: Wire, task: Task, needs: tuple[str, ...], source: str, status: runtime.Status, on_news: Callable[[], None]) -> None:
        self._task, self._status, self._on_news = task, status, on_news
        self._latest: dict[str, tuple[int, Readings]] = {}  # topic -> stamp and readings
        self._all: Readings | None = None  # of all topics, until something new comes
        self._arrival: dict[str, float] = {}  # topic -> s on the steady clock, when that stamp first came in
        found = channels(wire, task, needs, source)
        self._topics = [channel.topic for channel in found]
        for channel in found:
            node.create_subscription(channel.kind, channel.topic, partial(self._take, channel), runtime.STREAM_IN)

    def _take(self, channel: Channel, message: Any) -> None:
        topic = channel.topic
        try:
            found, stamp = channel.hear(message), messages.stamp_of(message)
            readings.check(self._task, found)
        except Rejected as rejected:
            self._status.refused(rejected.reason, f"{topic}: {rejected}")
            return
        if topic in self._latest and stamp < self._latest[topic][0]:
            self._status.refused("out_of_order", f"{topic}: a message older than the last one")
            return
        if topic not in self._latest or stamp > self._latest[topic][0]:
            self._arrival[topic] = runtime.steady_now()
        self._latest[topic], self._all = (stamp, found), None
        self._on_news()

    def missing(self, since: int) -> list[str]:
        """Topics that have brought nothing stamped `since` (ns) or later."""
        return [topic for topic in self._topics if topic not in self._latest or self._latest[topic][0] < since]

    def age(self) -> float:
        """Seconds on the steady clock since the robot's own state was last heard; infinite before that."""
        return runtime.steady_now() - self._arrival.get(self._topics[0], float("-inf"))

    @property
    def stamp(self) -> int:
        """ns, of the oldest of the newest."""
        return min(self._latest[topic][0] for topic in self._topics)

    @property
    def even(self) -> bool:
        """Whether all topics have brought readings of one moment."""
        stamps = {stamp for stamp, _ in self._latest.values()}
        return len(self._latest) == len(self._topics) and len(stamps) == 1

    def readings(self) -> Readings:
        """All of them, name -> (n,); the same object until something new comes."""
        if self._all is None:
            self._all = {name: value for _, found in self._latest.values() for name, value in found.items()}
        return self._all
