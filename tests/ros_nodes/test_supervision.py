"""In which order nodes come up and go down, and who is taken for dead."""

from collections import Counter
from types import SimpleNamespace

import pytest

from metarl.ros_nodes.supervision import Goal, Patience, Roster, Step


def roster(**states):
    made = Roster(("sim", "safety", "adapter"), ("adapter",), 1.0, 60.0)
    for name, said in states.items():
        made.hear(name, said, 10.0)
    return made


ALL = ("sim", "safety")


@pytest.mark.parametrize(
    ("states", "ready", "step", "waiting"),
    [
        ({}, (), None, "sim, which is missing"),
        ({"adapter": "unconfigured"}, (), Step("adapter", "configure"), "sim, which is missing"),  # nothing moves by it
        ({"sim": "running", "adapter": "inactive"}, (), None, "sim, which is not ready"),
        ({"sim": "running", "adapter": "inactive"}, ("sim",), None, "safety, which is missing"),
        ({"sim": "running", "safety": "running", "adapter": "inactive"}, ("sim",), None, "safety, which is not ready"),
        ({"sim": "running", "safety": "running", "adapter": "busy: loading"}, ALL, None, "adapter, which is busy: loading"),
        ({"sim": "running", "safety": "running", "adapter": "inactive"}, ALL, Step("adapter", "activate"), "adapter, which is inactive"),
        ({"sim": "running", "safety": "running", "adapter": "active"}, ALL, None, ""),
    ],
)
def test_up(states, ready, step, waiting):
    made = roster(**states)
    assert made.next_step(Goal.ACTIVE, ready, 10.1) == step
    assert made.waiting_for(Goal.ACTIVE, ready, 10.1) == waiting


@pytest.mark.parametrize(
    ("goal", "state", "transition"),
    [
        (Goal.INACTIVE, "active", "deactivate"),
        (Goal.INACTIVE, "inactive", None),
        (Goal.INACTIVE, "unconfigured", None),
        (Goal.FINALIZED, "active", "deactivate"),
        (Goal.FINALIZED, "inactive", "shutdown"),
        (Goal.FINALIZED, "unconfigured", "shutdown"),
        (Goal.FINALIZED, "finalized", None),
        (Goal.AS_IT_IS, "active", None),
    ],
)
def test_down(goal, state, transition):
    made = roster(sim="running", safety="running", adapter=state)
    assert made.next_step(goal, ALL, 10.1) == (None if transition is None else Step("adapter", transition))
    assert bool(made.waiting_for(goal, ALL, 10.1)) == (transition is not None)


def test_several_nodes_go_down_in_the_reverse_order():
    made = Roster(("a", "b"), ("a", "b"), 1.0, 60.0)
    made.hear("a", "active", 1.0)
    made.hear("b", "active", 1.0)
    assert made.next_step(Goal.FINALIZED, (), 1.1) == Step("b", "deactivate")
    made.hear("b", "inactive", 1.1)
    assert made.next_step(Goal.FINALIZED, (), 1.1) == Step("b", "shutdown")
    made.hear("b", "finalized", 1.1)
    assert made.next_step(Goal.FINALIZED, (), 1.1) == Step("a", "deactivate")


def test_who_is_silent_is_dead_and_may_come_back():
    made = roster(sim="running", safety="running", adapter="busy: adapting")
    assert made.dead(10.9) == ()
    assert made.dead(11.1) == ("sim", "safety")  # the adapter has said that it will be silent
    assert made.state("adapter", 11.1) == "busy: adapting"
    assert made.dead(71.0) == ("sim", "safety", "adapter")
    assert made.waiting_for(Goal.ACTIVE, ALL, 71.0) == "sim, which is dead"
    made.hear("sim", "running", 71.0)
    assert made.dead(71.1) == ("safety", "adapter")
    assert roster().dead(100.0) == ()  # never heard is not dead


def test_who_was_deactivated_by_others_is_not_activated_again():
    """By a person, or by itself, for having decided what no robot may do: only a new process, or a new goal, brings it up again."""
    made = roster(sim="running", safety="running", adapter="active")
    made.hear("adapter", "inactive", 10.1)  # late: said before it was activated
    assert made.withdrawn() == ()
    made.hear("adapter", "active", 10.2)
    for when in (10.3, 10.4):
        made.hear("adapter", "inactive", when)
        assert made.next_step(Goal.ACTIVE, ALL, when) is None
    assert made.withdrawn() == ("adapter",)
    made.begin()
    assert made.withdrawn() == ()
    assert made.next_step(Goal.ACTIVE, ALL, 10.5) == Step("adapter", "activate")
    made.hear("adapter", "active", 10.6)
    made.hear("adapter", "unconfigured", 10.7)  # killed, and started anew
    made.hear("adapter", "inactive", 10.8)
    assert made.next_step(Goal.ACTIVE, ALL, 10.9) == Step("adapter", "activate")


def test_the_death_of_nodes_that_nothing_waits_for_is_told_and_who_has_left_is_not_dead():
    made = Roster(("adapter",), ("adapter",), 1.0, 60.0, watched=("task",))
    made.hear("adapter", "active", 10.0)
    made.hear("task", "running", 8.0)
    assert made.dead(10.1) == ("task",)
    assert made.waiting_for(Goal.ACTIVE, (), 10.1) == ""
    made.hear("task", "finalized", 10.1)
    assert made.dead(10.9) == ()
    assert made.dead(20.0) == ("adapter",)


@pytest.fixture
def supervisor(monkeypatch):
    """A supervisor whose clock and services are the test's: what it has asked for so far, and a function that lets it look at a time."""
    pytest.importorskip("rclpy", reason="ROS 2 is not installed: pip install 'metarl[ros]'")
    from rclpy.task import Future

    from metarl.ros_nodes import supervisor_node

    clock, asked = [10.0], []
    monkeypatch.setattr(supervisor_node.runtime, "steady_now", lambda: clock[0])

    def call_async(request):
        asked.append(request.transition.label)
        return Future()

    made = object.__new__(supervisor_node.SupervisorNode)
    made.roster, made.patience, made.autostart = Roster(("adapter",), ("adapter",), 1.0, 60.0), 1000.0, True
    made.refused = []
    made.status = SimpleNamespace(counts=Counter(), publish=lambda *_, **__: None, tell=lambda **_: None, refused=lambda _, text: made.refused.append(text))
    made._clients = {"adapter": SimpleNamespace(service_is_ready=lambda: True, call_async=call_async, remove_pending_request=lambda future: None)}
    made._ready, made._said, made._told, made._dead, made._asked = {}, {"adapter": ""}, {"adapter": 0.0}, (), None
    made._begin(Goal.ACTIVE)

    def look(now, said):
        clock[0] = now
        made.roster.hear("adapter", said, now)
        made._on_timer()

    return made, asked, look


def test_a_transition_that_a_killed_process_was_asked_for_is_asked_of_the_next_one(supervisor):
    """It said that it was busy, was killed, and was started anew at once: it was never silent for so long that it would have been dead."""
    _, asked, look = supervisor
    look(10.0, "unconfigured")
    look(10.3, "busy: loading")
    look(15.0, "busy: loading")
    assert asked == ["configure"]
    look(15.5, "unconfigured")
    assert asked == ["configure"] * 2


def test_a_busy_node_is_given_time_to_answer():
    """Loading takes longer than a heartbeat may: what it was asked for is not asked for again, until it is dead."""
    made, step = roster(adapter="busy: loading"), Step("adapter", "configure")
    assert not made.unanswered(step, 30.0, 40.0)
    assert made.unanswered(step, 61.0, 71.0)
    made.hear("adapter", "unconfigured", 71.0)
    assert not made.unanswered(step, 0.9, 71.5)
    assert made.unanswered(step, 1.1, 71.5)


def test_diagnostics_say_who_was_never_heard_and_who_is_dead(supervisor):
    from builtin_interfaces.msg import Time
    from diagnostic_msgs.msg import DiagnosticStatus

    made, _, look = supervisor
    published, now = [], SimpleNamespace(to_msg=Time)
    made._diagnostics, made.node = SimpleNamespace(publish=published.append), SimpleNamespace(get_clock=lambda: SimpleNamespace(now=lambda: now))
    made._ready = {"adapter": False}

    def found():
        made._publish_diagnostics()
        (status,) = published[-1].status
        return status.name, status.level, status.values[0].value

    assert found() == ("metarl: adapter", DiagnosticStatus.STALE, "missing")
    look(10.0, "active")
    assert found() == ("metarl: adapter", DiagnosticStatus.WARN, "active")
    made._ready["adapter"] = True
    assert found() == ("metarl: adapter", DiagnosticStatus.OK, "active")
    look(11.5, "active")
    made.roster.hear("adapter", "active", 10.0)
    assert found() == ("metarl: adapter", DiagnosticStatus.ERROR, "dead")


def test_startup_asks_again_and_a_node_may_be_configured_any_number_of_times(supervisor):
    made, asked, look = supervisor
    look(10.0, "unconfigured")
    made._begin(Goal.ACTIVE)
    look(10.2, "unconfigured")
    assert asked == ["configure"] * 2
    for start in range(20, 100, 10):  # killed and brought up again, eight times
        look(start, "unconfigured")
        made._asked = None
        look(start + 1, "active")
    assert asked == ["configure"] * 10


def told(message):
    """A node's status."""
    from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus, KeyValue

    return DiagnosticArray(status=[DiagnosticStatus(message=message, values=[KeyValue(key="ready", value="false")])])


@pytest.mark.parametrize(
    ("before", "after", "said"),
    [
        ("to be configured", "there is no such file", "adapter cannot be configured: there is no such file"),
        ("to be configured", None, "adapter cannot be configured and does not say why; it said last: to be configured"),
        (None, None, "adapter cannot be configured and does not say why; it said last: it has said nothing"),
    ],
)
def test_why_a_node_cannot_be_configured_is_waited_for(supervisor, before, after, said):
    """Its answer comes first, what it says of it a little later, or never."""
    made, asked, look = supervisor
    if before is not None:
        made._on_status("adapter", told(before))
    look(10.1, "unconfigured")
    made._on_changed(made._asked[0], made._asked[2])  # nothing has succeeded
    look(11.0, "unconfigured")
    assert (asked, made.refused) == (["configure"], [])
    if after is not None:
        made._on_status("adapter", told(after))
    made.autostart = False
    look(11.1 if after is not None else 13.3, "unconfigured")
    assert made.refused == [said]
    look(20.0, "unconfigured")
    assert (asked, made.refused) == (["configure"], [said])


def test_only_nodes_can_be_managed():
    with pytest.raises(ValueError, match="adaptor cannot be managed: the nodes are sim, adapter"):
        Roster(("sim", "adapter"), ("adaptor",), 1.0, 60.0)


def test_patience_lasts_while_there_is_something_new_to_wait_for():
    """A machine full of other work starts nodes slowly, one after another; a node that comes and goes is nothing new."""
    waits = Patience(0.0)
    assert waits.tried("sim, which is missing", 100.0) == 0.0
    assert waits.tried("sim, which is missing", 240.0) == 140.0
    assert waits.tried("sim, which is not ready", 245.0) == 0.0
    assert waits.tried("adapter, which is inactive", 300.0) == 0.0
    assert waits.tried("sim, which is missing", 310.0) == 10.0
    assert waits.tried("adapter, which is inactive", 460.0) == 160.0
