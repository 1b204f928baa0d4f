"""A robot whose clock is told on /clock, and real nodes at 100 Hz that follow it: absent, frozen, set back or ahead, ten times as fast."""

import pytest

pytest.importorskip("rclpy", reason="ROS 2 is not installed: pip install 'metarl[ros]'")

from rclpy.qos import QoSProfile
from rosgraph_msgs.msg import Clock
from sensor_msgs.msg import JointState
from std_msgs.msg import Float64MultiArray

from metarl.ros_nodes import messages, runtime
from metarl.ros_nodes.graph import Domain, Graph
from metarl.ros_nodes.operating import Operator

# ROS's message packages import a parser that imports what Python has deprecated
pytestmark = pytest.mark.filterwarnings("ignore:module 'sre_:DeprecationWarning")

LONG = 300.0  # s, until a test gives up; a busy machine takes its time
PROMISED = 150.0  # ms from the last sign of life to the stop
NODES = ("robot", "safety", "adapter", "task", "supervisor")
PERIOD = 0.002  # s between two messages on /clock
HOUR = 3600 * 10**9  # ns


class Hands:
    """Sets /clock, 500 times a second.

    Attributes:
        now: ns.
        speed: of the wall's; 0: the same is said again and again.
        silent: nothing is said.
    """

    def __init__(self, node):
        self.now, self.speed, self.silent = 24 * HOUR, 1.0, True
        self._clock, self._looked = node.create_publisher(Clock, "/clock", runtime.STREAM), runtime.steady_now()
        runtime.steady_timer(node, PERIOD, self._tick)

    def _tick(self):
        passed, self._looked = runtime.steady_now() - self._looked, runtime.steady_now()
        self.now += round(passed * self.speed * 1e9)
        if not self.silent:
            self._clock.publish(Clock(clock=messages.to_time(self.now)))


@pytest.fixture(scope="module")
def still_graph(fast_graph):
    """An operator at the running graph, and the hands of its clock, which has not been set yet."""
    with Domain() as domain, Graph(fast_graph(use_sim_time=True), domain) as running:
        operator = Operator(domain, running, NODES, LONG)
        yield operator, Hands(operator.node)
        operator.close()


@pytest.fixture
def graph(still_graph):
    """The same after somebody has set the clock going: the first test, where one process runs them all."""
    still_graph[1].silent = False
    return still_graph


def stops(operator):
    return operator.count("safety", "stale_state") + operator.count("safety", "stale_command")


def test_without_a_clock_nothing_is_measured_so_nothing_begins_and_it_is_said(still_graph):
    """All stamps are 0, and refused by name. When the clock begins to go, so does the graph."""
    operator, clock = still_graph
    heard = []
    listener = operator.node.create_subscription(JointState, "joint_states", heard.append, runtime.STREAM_IN)
    operator.until(lambda: len(heard) > 10, "the robot")
    assert {messages.to_stamp(m.header.stamp) for m in heard} == {0}
    operator.node.destroy_subscription(listener)
    for name in ("safety", "adapter", "task"):
        operator.more(name, "no_stamp", than=0)
    assert operator.said["safety"]["ready"] == "false"
    assert operator.said["adapter"]["lifecycle"] == "inactive"
    operator.until(lambda: operator.said["supervisor"], "the supervisor")
    assert operator.said["supervisor"]["ready"] == "false"
    clock.silent = False
    operator.until(lambda: operator.said["supervisor"].get("ready") == "true", "all nodes to be active")
    operator.flows()


def test_a_clock_that_freezes_is_a_robot_that_falls_silent(graph, hear_all):
    """Joint states come as before, stamped as the last one. The watchdogs' clock goes on."""
    operator, clock = graph
    operator.flows()
    before = stops(operator)
    clock.speed = 0.0
    operator.until(lambda: stops(operator) > before and operator.said["safety"]["state"] == "holding", "the stop")
    said = operator.said["safety"]
    print(f"stopped after {said['reaction_ms']} ms, {said['late_ms']} ms of them late")
    assert float(said["reaction_ms"]) - float(said["late_ms"]) <= PROMISED
    # a robot that was held up may stamp one more reading by the time before; after as long as the task node waits before it says so, none is under way
    operator.until(lambda: operator.said["task"]["message"].startswith("waiting for"), "the task node to say what it waits for")
    hear_all(operator, "safety")
    forwarded = operator.count("safety", "forwarded")
    operator.wait(1.0)
    hear_all(operator, "safety")
    assert operator.count("safety", "forwarded") == forwarded
    clock.speed = 1.0
    operator.flows()


@pytest.mark.parametrize("back", [HOUR, 10**10, None], ids=["an hour", "ten seconds", "to one second"])
def test_a_clock_that_was_set_back_is_refused_and_then_believed(graph, back):
    """By safety, adapter and task alike; what was decided meanwhile is not learned from, and the trial goes on."""
    operator, clock = graph
    operator.flows()
    nodes, events, all_of_them = ("safety", "adapter", "task"), [], QoSProfile(depth=1000)  # also where this process was held up
    listener = operator.node.create_subscription(Float64MultiArray, "task/events", lambda m: events.append(messages.to_event(m)), all_of_them)
    operator.until(lambda: len(events) > 5, "the trial to go on")
    believed = {name: operator.count(name, "clock_set_back") for name in nodes}
    refused, excluded = operator.count("safety", "stale_state"), operator.count("adapter", "adaptation_excluded")
    clock.now = new_time = 10**9 if back is None else clock.now - back
    for name in nodes:
        operator.more(name, "clock_set_back", than=believed[name])
    operator.flows()
    assert operator.count("safety", "stale_state") >= refused + 9  # one by one, until they were believed
    operator.more("adapter", "adaptation_excluded", than=excluded)
    fallen = lambda: [i for i in range(1, len(events)) if events[i].stamp < events[i - 1].stamp]  # noqa: E731
    operator.until(fallen, "an event of the new time")
    fell = fallen()
    assert len(fell) == 1
    assert new_time < events[fell[0]].stamp <= clock.now
    new = events[fell[0] :]
    assert [e.sequence for e in new] == list(range(new[0].sequence, new[0].sequence + len(new)))
    operator.node.destroy_subscription(listener)


@pytest.mark.parametrize("ahead", [2 * 10**9, HOUR], ids=["two seconds", "an hour"])
def test_of_a_clock_that_was_set_ahead_no_decision_is_judged_as_if_the_time_had_passed(graph, ahead):
    """Safety, adapter and task tell of it by name; what was decided meanwhile is not learned from, and the trial goes on."""
    operator, clock = graph
    operator.flows()
    nodes = ("safety", "adapter", "task")
    before, excluded = {name: operator.count(name, "clock_set_ahead") for name in nodes}, operator.count("adapter", "adaptation_excluded")
    clock.now += ahead
    for name in nodes:
        operator.more(name, "clock_set_ahead", than=before[name])
    operator.more("adapter", "adaptation_excluded", than=excluded)
    operator.flows()


def test_a_clock_ten_times_as_fast_makes_commands_old_but_no_watchdog_slow(graph, hear_all):
    """Ages of commands are of the robot's clock: what is older than allowed is refused by name. Silence is of the steady one."""
    operator, clock = graph
    clock.speed = 10.0
    said = lambda: operator.count("safety", "forwarded") + operator.count("safety", "stale_command")  # noqa: E731
    judged = said()
    operator.until(lambda: said() >= judged + 50, "commands to be forwarded, or refused by name")
    with operator.frozen("robot"):
        # where all commands are refused it holds already, and does not stop a second time
        operator.until(lambda: operator.said["safety"]["state"] == "holding", "the stop")
        hear_all(operator, "safety")
        forwarded = operator.count("safety", "forwarded")
        operator.wait(0.5)
        hear_all(operator, "safety")
        assert operator.said["safety"]["state"] == "holding"
        assert operator.count("safety", "forwarded") == forwarded
    clock.speed = 1.0
    operator.flows()
