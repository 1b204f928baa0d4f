"""What the adapter node tells its adapter; no message is sent."""

from types import SimpleNamespace

import pytest
import torch

pytest.importorskip("rclpy", reason="ROS 2 is not installed: pip install 'metarl[ros]'")

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
