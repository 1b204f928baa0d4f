"""What the inbox takes in and what it refuses; no message is sent."""

from collections import Counter
from types import SimpleNamespace

import pytest
import torch

pytest.importorskip("rclpy", reason="ROS 2 is not installed: pip install 'metarl[ros]'")

from sensor_msgs.msg import JointState

from metarl import tasks
from metarl.ros_nodes.adapter_node import AdapterNode
from metarl.ros_nodes.channels import channels
from metarl.ros_nodes.inbox import Inbox
from metarl.ros_nodes.readings import needed_to_act, size
from metarl.ros_nodes.rejection import Rejected
from metarl.ros_nodes.stamps import CONSISTENT
from metarl.ros_nodes.wires import wire

# ROS's message packages import a parser that imports what Python has deprecated
pytestmark = pytest.mark.filterwarnings("ignore:module 'sre_:DeprecationWarning")


class Deaf:
    """In place of a node and of its status: keeps what would be called, and counts what is refused."""

    def __init__(self):
        self.says, self.counts, self.set_back, self.set_ahead = {}, Counter(), [], []

    def create_subscription(self, kind, topic, callback, quality):
        self.says[topic] = callback

    def refused(self, reason, text):
        self.counts[reason] += 1


def inbox_of(name, may_leap=False):
    """The inbox of a task's adapter, in place of its node and status, and its channels by their topics."""
    task, node = tasks.make(name), Deaf()
    hung, needs = wire(task.robot_name), needed_to_act(task)
    found = Inbox(node, hung, task, needs, "seen", node, lambda: None, node.set_back.append, node.set_ahead.append, may_leap)
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
    adapter = SimpleNamespace(_active=True, _events=list(events), _undated=[], inbox=inbox, loop=loop, _answer=answer, status=node)
    AdapterNode._advance(adapter)
    assert (adapter._events, node.counts) == (events, {"missing_reading": 1})
    AdapterNode._advance(adapter)
    assert (adapter._events, answered) == (events[1:], [events[0]] * 2)


def test_a_clock_that_was_set_back_is_believed_after_some_readings_and_all_are_taken_anew():
    inbox, node, known, task = inbox_of("arm_reach")
    ones = {name: torch.ones(1, size(task, name)) for name in needed_to_act(task)}

    def hear(topic, stamp):
        node.says[topic](known[topic].say(ones, stamp))

    for topic in known:
        hear(topic, 10**12)
    assert not inbox.missing(10**12)
    own = next(iter(known))
    for i in range(CONSISTENT - 1):
        hear(own, 5 + i)
    assert (node.counts, node.set_back, inbox.stamp) == ({"out_of_order": CONSISTENT - 1}, [], 10**12)
    hear(own, 5 + CONSISTENT)
    assert (node.counts["clock_set_back"], node.set_back) == (1, [5 + CONSISTENT])
    assert set(inbox.missing(0)) == set(known) - {own}  # the others' are of the old clock
    for topic in known:
        hear(topic, 30)
    assert (inbox.missing(30), inbox.stamp) == ([], 30)
    assert node.counts == {"out_of_order": CONSISTENT - 1, "clock_set_back": 1}


def test_after_a_clock_was_set_back_it_is_known_anew_how_fast_it_goes():
    """It falls by 100 s, and leaps by 50 s after the next reading: still earlier than it was before, and ahead all the same."""
    _, node, known, task = inbox_of("arm_reach")
    own, ones = next(iter(known)), {name: torch.ones(1, size(task, name)) for name in needed_to_act(task)}
    old, fallen, leapt = 1000 * 10**9, 900 * 10**9, 950 * 10**9
    for stamp in (old, *(fallen + i for i in range(CONSISTENT)), leapt):
        node.says[own](known[own].say(ones, stamp))
    assert (node.set_back, node.set_ahead) == ([fallen + CONSISTENT - 1], [leapt])


@pytest.mark.parametrize("may_leap", [False, True])
def test_a_clock_that_is_set_ahead_is_told_of_unless_it_is_a_simulations(may_leap):
    _, node, known, task = inbox_of("arm_reach", may_leap)
    own, ones = next(iter(known)), {name: torch.ones(1, size(task, name)) for name in needed_to_act(task)}
    for stamp in (10**12, 10**12 + 10**6, 11 * 10**11, 11 * 10**11 + 10**6):
        node.says[own](known[own].say(ones, stamp))
    assert (node.counts["clock_set_ahead"], node.set_ahead) == ((0, []) if may_leap else (1, [11 * 10**11]))


@pytest.mark.parametrize(("asked", "told", "excluded"), [(70, 90, ""), (90, 100, "clock_set_ahead"), (90, 110, "clock_set_ahead"), (100, 110, "")])
def test_of_a_decision_in_whose_middle_the_clock_leapt_nothing_is_learned(asked, told, excluded):
    adapter = SimpleNamespace(_asked=asked, _leapt=100, _oldest=0.0, state_timeout=0.5, _held=False)
    assert AdapterNode._excluded(adapter, SimpleNamespace(stamp=told), True) == excluded


def test_joint_states_of_others_are_passed_over_once_the_robots_own_are_known():
    inbox, node, known, task = inbox_of("arm_reach")
    own = inbox._topics[0]
    ours = known[own].say({name: torch.zeros(1, size(task, name)) for name in ("qpos", "qvel")}, 5)
    theirs = JointState(name=["finger"], position=[0.0], velocity=[0.0])
    node.says[own](theirs)
    assert node.counts == {"missing_joint": 1}
    node.says[own](ours)
    node.says[own](theirs)
    assert node.counts == {"missing_joint": 1, "foreign_joints": 1}
    assert own not in inbox.missing(5)
