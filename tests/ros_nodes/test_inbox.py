"""What the inbox takes in and what it refuses; no message is sent."""

from collections import Counter
from types import SimpleNamespace

import pytest
import torch

pytest.importorskip("rclpy", reason="ROS 2 is not installed: pip install 'metarl[ros]'")

from metarl import tasks
from metarl.ros_nodes.adapter_node import AdapterNode
from metarl.ros_nodes.channels import channels
from metarl.ros_nodes.inbox import Inbox
from metarl.ros_nodes.readings import needed_to_act, size
from metarl.ros_nodes.rejection import Rejected
from metarl.ros_nodes.wires import wire

# ROS's message packages import a parser that imports what Python has deprecated
pytestmark = pytest.mark.filterwarnings("ignore:module 'sre_:DeprecationWarning")


class Deaf:
    """In place of a node and of its status: keeps what would be called, and counts what is refused."""

    def __init__(self):
        self.says, self.counts = {}, Counter()

    def create_subscription(self, kind, topic, callback, quality):
        self.says[topic] = callback

    def refused(self, reason, text):
        self.counts[reason] += 1


def inbox_of(name):
    """The inbox of a task's adapter, in place of its node and status, and its channels by their topics."""
    task, node = tasks.make(name), Deaf()
    hung, needs = wire(task.robot_name), needed_to_act(task)
    found = Inbox(node, hung, task, needs, "seen", node, lambda: None)
    return found, node, {channel.topic: channel for channel in channels(hung, task, needs, "seen")}, task


def nearest(value):
    def spoil(message):
        message.range_min = value

    return spoil


@pytest.mark.parametrize(
    ("topic", "name", "spoil", "reason"),
    [
        ("seen/waypoints", "waypoints", lambda message: message.poses.pop(), "wrong_shape"),
        ("scan", "lidar", nearest(float("nan")), "not_finite"),
    ],
)
def test_readings_that_cannot_be_used_never_stand_for_those_that_can(topic, name, spoil, reason):
    inbox, node, known, task = inbox_of("car_track_obstacles")
    good, bad = (known[topic].say({name: torch.ones(1, size(task, name))}, 5) for _ in range(2))
    spoil(bad)
    node.says[topic](bad)
    assert node.counts == {reason: 1}
    assert topic in inbox.missing(0)
    node.says[topic](good)
    assert topic not in inbox.missing(0)


def test_an_event_waits_until_a_reading_can_be_used_with_it():
    """A reading that is refused only when it is used costs that reading, not the event: without its answer the task would wait for ever."""
    answered = []

    def answer(event):
        answered.append(event)
        if len(answered) == 1:
            raise Rejected("missing_reading", "qpos not among nothing")

    node = Deaf()
    inbox, loop = SimpleNamespace(missing=lambda stamp: []), SimpleNamespace(deciding=False)
    events = [SimpleNamespace(stamp=i, sequence=i, begins=True) for i in (1, 2)]
    adapter = SimpleNamespace(_active=True, _events=list(events), inbox=inbox, loop=loop, _answer=answer, status=node)
    AdapterNode._advance(adapter)
    assert (adapter._events, node.counts) == (events, {"missing_reading": 1})
    AdapterNode._advance(adapter)
    assert (adapter._events, answered) == (events[1:], [events[0]] * 2)
