"""The newest readings of everything that a task needs, each from its channel."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from functools import partial
from typing import Any

from rclpy.node import Node

from metarl.ros_nodes import messages, readings, runtime
from metarl.ros_nodes.channels import Channel, channels
from metarl.ros_nodes.rejection import Rejected
from metarl.ros_nodes.stamps import Fallen, Leaps
from metarl.ros_nodes.wires import Wire
from metarl.tasks.task import Readings, Task


class Inbox:
    """Subscribes to the robot's own state and to whatever else brings the readings that are needed; all of it is stamped by one clock.

    Args:
        node: that listens.
        wire: of the robot.
        task: whose readings.
        needs: names of the readings.
        source: "seen" or "measured".
        status: where refused messages are counted.
        on_news: called after each message that was taken in.
        on_set_back: called before that with the new stamp (ns), where the clock was set back.
        on_set_ahead: the same, where it was set ahead.
        may_leap: whether it may be, as that of a simulation, which counts the time of a motion at once.
    """

    def __init__(
        self,
        node: Node,
        wire: Wire,
        task: Task,
        needs: tuple[str, ...],
        source: str,
        status: runtime.Status,
        on_news: Callable[[], None],
        on_set_back: Callable[[int], None],
        on_set_ahead: Callable[[int], None],
        may_leap: bool,
    ) -> None:
        self._task, self._status, self._on_news, self._on_set_back, self._on_set_ahead = task, status, on_news, on_set_back, on_set_ahead
        self._may_leap, self._wire = may_leap, wire
        self._latest: dict[str, tuple[int, Readings]] = {}  # topic -> stamp and readings
        self._all: Readings | None = None  # of all topics, until something new comes
        self._arrival: dict[str, float] = {}  # topic -> s on the steady clock, when that stamp first came in
        self._fallen: defaultdict[str, Fallen] = defaultdict(Fallen)  # by topic
        self._leaps: defaultdict[str, Leaps] = defaultdict(Leaps)
        found = channels(wire, task, needs, source)
        self._topics = [channel.topic for channel in found]
        for channel in found:
            quality = runtime.STATE_IN if channel is found[0] else runtime.STREAM_IN
            node.create_subscription(channel.kind, channel.topic, partial(self._take, channel), quality)

    def _take(self, channel: Channel, message: Any) -> None:
        topic = channel.topic
        if topic == self._topics[0] and topic in self._latest and not self._wire.concerns(message):
            self._status.counts["foreign_joints"] += 1
            return
        try:
            found, stamp = channel.hear(message), messages.stamp_of(message)
            readings.check(self._task, found)
        except Rejected as rejected:
            self._status.refused(rejected.reason, f"{topic}: {rejected}")
            return
        if topic in self._latest and stamp < self._latest[topic][0]:
            if not self._fallen[topic].set_back(stamp):
                self._status.refused("out_of_order", f"{topic}: a message older than the last one")
                return
            self._status.refused("clock_set_back", f"{topic}: stamps fell from {self._latest[topic][0]} to {stamp} ns, and go on from there: all readings anew")
            self.forget()
            self._on_set_back(stamp)
        self._fallen[topic].goes_on()
        now = runtime.steady_now()
        if self._leaps[topic].set_ahead(stamp, now) and not self._may_leap:
            self._status.refused("clock_set_ahead", f"{topic}: stamps leap to {stamp} ns, faster than time passes")
            self._on_set_ahead(stamp)
        if topic not in self._latest or stamp > self._latest[topic][0]:
            self._arrival[topic] = now
        self._latest[topic], self._all = (stamp, found), None
        self._on_news()

    def forget(self) -> None:
        """Begin anew: what is here was stamped by a clock that was set back."""
        self._latest, self._arrival, self._all = {}, {}, None
        self._fallen.clear()
        self._leaps.clear()

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
