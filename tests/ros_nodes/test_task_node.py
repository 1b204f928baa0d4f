"""For how long the task node waits, and what it says meanwhile; no message is sent."""

import math
from types import SimpleNamespace

import pytest

pytest.importorskip("rclpy", reason="ROS 2 is not installed: pip install 'metarl[ros]'")

from metarl.ros_nodes import messages, task_node
from metarl.ros_nodes.events import Event

# ROS's message packages import a parser that imports what Python has deprecated
pytestmark = pytest.mark.filterwarnings("ignore:module 'sre_:DeprecationWarning")


@pytest.fixture
def task(monkeypatch):
    """task(patience): a task node that judges, waits for an action since 0 s, and asks for nothing; what it says; and a look at its timer at a time."""
    clock, said = [0.0], []
    monkeypatch.setattr(task_node.runtime, "steady_now", lambda: clock[0])
    monkeypatch.setattr(task_node.TaskNode, "_missing", lambda self: ["adapter's action"])
    monkeypatch.setattr(task_node.TaskNode, "_advance", lambda self: None)

    def make(patience):
        made = object.__new__(task_node.TaskNode)
        made.task, made.patience, made._news, made._delay, made._stopped = SimpleNamespace(name="arm_reach"), patience, 0.0, "", False
        made._ready, made._episode_from, made._asked = {"adapter": True, "safety": True}, 1, object()
        made.status = SimpleNamespace(ready=True, publish=lambda text, **_: said.append(text), refused=lambda reason, text: said.append(reason))

        def look(now):
            clock[0] = now
            made._on_timer()

        return made, said, look

    return make


def test_on_hardware_it_waits_for_people_and_says_so(task):
    made, said, look = task(patience=0.0)
    look(1.0)
    assert said == []
    look(10_000.0)
    assert said == ["waiting for adapter's action"]
    made._news = 10_000.0
    look(10_000.1)
    assert said[-1] == "judging arm_reach"


def test_a_stopped_robot_costs_no_patience(task):
    made, said, look = task(patience=60.0)
    made._stopped = True
    look(1000.0)
    assert said == ["the trial stands still: it waits for the safety node, which has stopped the robot until it is reset"]
    made._stopped = False
    look(1059.0)
    with pytest.raises(RuntimeError, match="waited 60 s for adapter's action"):
        look(1061.0)


def test_when_the_trial_has_ended_nothing_more_is_asked_for_until_the_process_ends(task):
    made, said, look = task(patience=60.0)
    made._ask_for_episode = lambda: said.append("an episode")
    made._episode_from, made._not_before = None, 0.0
    look(1.0)
    assert said == ["an episode"]
    made.finished = True
    look(1000.0)
    assert said == ["an episode"]


def test_what_is_told_of_an_episode_is_its_return(task):
    made, said, _ = task(patience=0.0)
    made._return, made._events, made.referee = 7.0, SimpleNamespace(publish=lambda message: None), SimpleNamespace(trial_ended=False)
    for step, reward in enumerate((0.0, 0.25, 0.5, 0.125)):
        made._publish(Event(1, step, 4, step, reward, False, step == 3, 0.02, 5))
    assert said == ["episode 4: return 0.875, error 0.0200"]


def test_an_episode_that_cannot_be_begun_is_asked_for_again(task):
    made, said, _ = task(patience=0.0)
    made._on_begun(SimpleNamespace(result=lambda: SimpleNamespace(success=False, message="the table is empty")))
    assert (said, made._asked) == (["no_episode"], None)
    with pytest.raises(RuntimeError, match="expected is the stamp"):
        made._on_begun(SimpleNamespace(result=lambda: SimpleNamespace(success=True, message="soon")))


@pytest.mark.parametrize("number", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("name", ["epoch", "sequence"])
def test_an_action_that_answers_no_number_is_refused_by_name(task, name, number):
    made, said, _ = task(patience=60.0)
    made.task, made.referee, made._action = SimpleNamespace(action_names=("left", "right")), SimpleNamespace(epoch=5), (-1, None)
    values = {"epoch": 5.0, "sequence": 3.0, "left": 0.25, "right": 0.5}
    made._on_action(messages.numbers(tuple(values), (values | {name: number}).values()))
    assert (said, made._action) == (["not_finite"], (-1, None))
    made._on_action(messages.numbers(tuple(values), values.values()))
    assert made._action[0] == 3
    assert made._action[1].tolist() == [0.25, 0.5]
