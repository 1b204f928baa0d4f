"""The newest readings of everything that a task needs, from joint states and tracked bodies."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from geometry_msgs.msg import PoseStamped, TwistStamped
from rclpy.node import Node
from sensor_msgs.msg import JointState

from metarl.ros_nodes import messages, readings, runtime
from metarl.ros_nodes.rejection import Rejected
from metarl.tasks.task import Readings, Task


class Inbox:
    """Subscribes to the robot's joint states and to `{source}/BODY`, `{source}/BODY_twist` of each body that is needed.

    Args:
        node: that listens.
        task: whose readings.
        needs: names of the readings.
        source: "seen" or "measured".
        status: where refused messages are counted.
        on_news: called after each message that was taken in.
    """

    def __init__(self, node: Node, task: Task, needs: tuple[str, ...], source: str, status: runtime.Status, on_news: Callable[[], None]) -> None:
        self._status, self._on_news = status, on_news
        self._latest: dict[str, tuple[int, Readings]] = {}  # topic -> stamp and readings
        self._topics = [task.arm.state_topic]
        joints = partial(messages.joint_readings, joint_names=task.arm.joint_names)
        self._subscribe(node, JointState, task.arm.state_topic, joints)
        for body, parts in readings.bodies(needs).items():
            if {"pos", "quat"} & set(parts):
                self._subscribe(node, PoseStamped, f"{source}/{body}", partial(messages.pose_readings, body=body))
            if {"linvel", "angvel"} & set(parts):
                self._subscribe(node, TwistStamped, f"{source}/{body}_twist", partial(messages.twist_readings, body=body))

    def _subscribe(self, node: Node, kind: type[Any], topic: str, convert: Callable[[Any], Readings]) -> None:
        if topic not in self._topics:
            self._topics.append(topic)
        node.create_subscription(kind, topic, partial(self._take, topic, convert), runtime.STREAM_IN)

    def _take(self, topic: str, convert: Callable[[Any], Readings], message: Any) -> None:
        try:
            found = convert(message)
        except Rejected as rejected:
            self._status.refused(rejected.reason, f"{topic}: {rejected}")
            return
        stamp = messages.to_stamp(message.header.stamp)
        if topic in self._latest and stamp < self._latest[topic][0]:
            self._status.refused("out_of_order", f"{topic}: a message older than the last one")
            return
        self._latest[topic] = stamp, found
        self._on_news()

    def missing(self, since: int) -> list[str]:
        """Topics that have brought nothing stamped `since` (ns) or later."""
        return [topic for topic in self._topics if topic not in self._latest or self._latest[topic][0] < since]

    @property
    def stamp(self) -> int:
        """ns, of the oldest of the newest."""
        return min(self._latest[topic][0] for topic in self._topics)

    def readings(self) -> Readings:
        """All of them, name -> (n,)."""
        return {name: value for _, found in self._latest.values() for name, value in found.items()}
