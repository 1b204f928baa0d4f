"""What the adapter node tells its adapter; no message is sent."""

from collections import Counter
from types import SimpleNamespace

import pytest
import torch

pytest.importorskip("rclpy", reason="ROS 2 is not installed: pip install 'metarl[ros]'")

from rclpy.lifecycle import TransitionCallbackReturn

from metarl.ros_nodes import adapter_node
from metarl.ros_nodes.events import Event
from metarl.ros_nodes.rejection import RejectedAction

# ROS's message packages import a parser that imports what Python has deprecated
pytestmark = pytest.mark.filterwarnings("ignore:module 'sre_:DeprecationWarning")


@pytest.mark.parametrize("step", [0, 4])
def test_the_adapter_is_told_where_an_episode_begins(step, monkeypatch):
    """So that one whose end was never heard is no part of it."""
    noted, used = [], []
    monkeypatch.setattr(adapter_node, "circumstances", lambda loop, excluded: {})
    monkeypatch.setattr(adapter_node.AdapterNode, "_decide", lambda self, *_: None)
    made = object.__new__(adapter_node.AdapterNode)
    made.safe, made._loop = SimpleNamespace(note=lambda *event: noted.append(event)), SimpleNamespace(deciding=False, needs=())
    made.inbox, made._used = SimpleNamespace(readings=dict), SimpleNamespace(publish=used.append)
    made._executed, made._asked, made._leapt, made._oldest, made.state_timeout, made._held = (0, torch.empty(0)), 0, 0, 0.0, 0.5, False
    made._answer(Event(7, 3, 1, step, 0.0, False, False, 0.0, 1))
    assert noted == [(7, 3, step == 0)]
    assert len(used) == 1


def test_an_adapter_that_decides_what_no_robot_may_do_is_deactivated_and_says_why():
    """By itself, so that its last word asks for a stop; nobody activates it again but a person."""
    said, deactivated = [], []
    made = object.__new__(adapter_node.AdapterNode)
    made._active, made.file, made._undated = True, "policy.safetensors", []
    made._events, made._loop = [Event(7, 3, 1, 0, 0.0, False, False, 0.0, 1)], SimpleNamespace(deciding=False)
    made.inbox, made.node = SimpleNamespace(missing=lambda since: []), SimpleNamespace(trigger_deactivate=lambda: deactivated.append(len(said)))
    made.status = SimpleNamespace(refused=lambda reason, text: said.append((reason, text)))

    def answer(event):
        raise RejectedAction("not_finite", "the action is [nan]")

    made._answer = answer
    made._advance()
    assert deactivated == [0]
    assert said == [("bad_action", "policy.safetensors decided what no robot may do, so it was deactivated: not_finite: the action is [nan]")]
    assert made._events == []


def activated(age, deciding):
    """What becomes of an adapter that is asked to activate when the robot's state is `age` s old: the answer, the node, and what it did."""
    did = []
    made = object.__new__(adapter_node.AdapterNode)
    made._active, made.file, made.state_timeout, made._oldest, made._events = False, "policy.safetensors", 0.5, 9.0, ["long ago", "now"]
    made._loop = SimpleNamespace(deciding=deciding, resume=lambda: did.append("resumed"))
    made.inbox, made.status = SimpleNamespace(age=lambda: age), SimpleNamespace(counts=Counter())
    made._say, made._advance = (lambda mode, text, trouble=False: did.append((mode, text, trouble))), lambda: did.append("answers")
    return made.on_activate(None), made, did


@pytest.mark.parametrize(("age", "found"), [(0.6, "the robot's state is 0.600 s old"), (float("inf"), "no state of the robot has arrived yet")])
def test_an_adapter_is_not_activated_where_the_robots_state_is_stale(age, found):
    answer, made, did = activated(age, deciding=False)
    assert answer is TransitionCallbackReturn.FAILURE
    assert did == [("inactive", f"not activated: {found}, allowed are 0.500 s", True)]
    assert (made._active, made.status.counts) == (False, {"stale_state": 1})


@pytest.mark.parametrize(("deciding", "left"), [(False, ["now"]), (True, ["long ago", "now"])])
def test_an_adapter_that_is_activated_begins_near_the_measured_pose(deciding, left):
    """Before it answers the first event; of a decision that is open, none is left out."""
    answer, made, did = activated(0.4, deciding)
    assert answer is TransitionCallbackReturn.SUCCESS
    assert did == ["resumed", ("active", "adapting with policy.safetensors", False), "answers"]
    assert (made._active, made._events, made._oldest) == (True, left, 0.0)


@pytest.mark.parametrize(
    ("oldest", "held", "carried_out", "reason"),
    [(0.6, False, True, "stale_state"), (0.6, True, True, "stale_state"), (0.4, True, True, "intervention"), (0.4, True, False, ""), (0.4, False, True, "")],
)
def test_nothing_is_learned_of_a_decision_under_stale_state_or_in_whose_place_the_robot_was_held(oldest, held, carried_out, reason):
    made = SimpleNamespace(_asked=10, _leapt=0, _oldest=oldest, state_timeout=0.5, _held=held)
    assert adapter_node.AdapterNode._excluded(made, SimpleNamespace(stamp=20), carried_out) == reason
