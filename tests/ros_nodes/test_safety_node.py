"""What the safety node answers to commands, called by hand: what it says goes to lists, and no message is sent."""

import copy
import subprocess
import sys
import time
from types import SimpleNamespace

import numpy as np
import pytest

pytest.importorskip("rclpy", reason="ROS 2 is not installed: pip install 'metarl[ros]'")

import rclpy
from nav_msgs.msg import Odometry
from rclpy.executors import SingleThreadedExecutor
from rclpy.parameter import Parameter
from rclpy.qos import QoSProfile, ReliabilityPolicy
from std_msgs.msg import Bool, Header
from std_srvs.srv import Trigger

from metarl.ros_nodes import messages, runtime
from metarl.ros_nodes.limits import Command
from metarl.ros_nodes.safety_node import SafetyNode

# ROS's message packages import a parser that imports what Python has deprecated
pytestmark = pytest.mark.filterwarnings("ignore:module 'sre_:DeprecationWarning")

STAMP = 10**12  # ns
SET_POINT = {"arm7": 0.02, "car": 0.04}  # s that a command of a fast loop takes


@pytest.fixture
def make_node(domain, monkeypatch):
    """Makes nodes with parameters, in a context of their own."""
    for name, value in domain.variables().items():
        monkeypatch.setenv(name, value)
    context, nodes = rclpy.Context(), []
    rclpy.init(context=context)

    def make(**parameters):
        nodes.append(rclpy.create_node("safety", context=context, parameter_overrides=[Parameter(k, value=v) for k, v in parameters.items()]))
        return nodes[-1]

    yield make
    for node in nodes:
        node.destroy_node()
    context.try_shutdown()


@pytest.fixture(params=SET_POINT)
def safety(request, make_node, monkeypatch):
    """A safety node that was told a state of its robot at 0 s: `controller` and `executed` are what it has sent, `clock` its time (s) to be set."""
    clock = [0.0]
    monkeypatch.setattr(runtime, "steady_now", lambda: clock[0])
    made = SafetyNode(make_node(robot=request.param))
    made.clock, made.controller, made.executed = clock, [], []
    made._controller = SimpleNamespace(publish=lambda m: made.controller.append(copy.deepcopy(m)))
    made._executed = SimpleNamespace(publish=lambda m: made.executed.append(copy.deepcopy(m)))
    measure(made, STAMP)
    return made


def measure(safety, stamp):
    """The robot rests at home."""
    if safety.wire.robot.name == "arm7":
        home = np.array(safety.wire.robot.home_qpos)
        safety._on_state(messages.joint_state(safety.wire.joint_names, home, np.zeros_like(home), stamp))
        return
    odometry = Odometry()
    odometry.header.stamp, odometry.header.frame_id, odometry.child_frame_id = messages.to_time(stamp), "odom", "base_link"
    odometry.pose.pose.orientation.w = 1.0
    safety._on_state(odometry)


def give(safety, stamp):
    """A set-point at rest."""
    robot = safety.wire.robot
    pose = np.array(robot.home_qpos if robot.name == "arm7" else robot.rest)[None]
    safety._on_command(safety.wire.message(Command(stamp, np.array([SET_POINT[robot.name]]), pose, np.zeros_like(pose))), {})


def test_whoever_repeats_a_command_is_told_again_what_became_of_it_and_the_robot_is_not(safety):
    give(safety, STAMP)
    assert [messages.to_stamp(m.header.stamp) for m in safety.executed] == [STAMP]
    for _ in range(2):
        give(safety, STAMP)
    assert safety.executed == safety.executed[:1] * 3
    assert len(safety.controller) == 1
    assert safety.status.counts["duplicate"] == 2


def test_a_command_that_was_interrupted_is_told_as_such_when_it_is_repeated(safety):
    """The robot is braked because nobody has spoken since; its last measurement is the one that the command answers."""
    give(safety, STAMP)
    safety.clock[0] = 0.2
    safety._watch()
    assert [messages.to_stamp(m.header.stamp) for m in safety.executed] == [STAMP, STAMP]
    sent = len(safety.controller)
    give(safety, STAMP)
    assert safety.executed[2] == safety.executed[1]
    assert len(safety.controller) == sent


@pytest.mark.parametrize("stamp", [STAMP - 10**9, 0])
def test_a_command_that_is_refused_is_answered_each_time(safety, stamp):
    """One of a second ago, or without a stamp."""
    give(safety, stamp)
    give(safety, stamp)
    assert safety.status.counts["stale_command"] == 2
    assert [messages.to_stamp(m.header.stamp) for m in safety.executed] == [stamp] * 2


@pytest.mark.parametrize("safety", ["arm7"], indirect=True)
@pytest.mark.parametrize("reason", ["missing_joint", "not_finite"])
def test_joint_states_that_cannot_be_used_are_as_good_as_silence(safety, reason):
    give(safety, STAMP)
    names, home = safety.wire.joint_names, np.array(safety.wire.robot.home_qpos)
    for i in range(1, 13):
        safety.clock[0] = 0.01 * i
        if reason == "missing_joint":
            state = messages.joint_state(names[1:], home[1:], np.zeros(6), STAMP + i * 10_000_000)
        else:
            state = messages.joint_state(names, home * np.where(np.arange(7) == 3, np.nan, 1.0), np.zeros(7), STAMP + i * 10_000_000)
        safety._on_state(state)
        safety._watch()
    assert safety.status.counts[reason] == 12
    assert safety.status.counts["stale_state"] == 1
    assert safety.guard.state == "holding"


def test_a_commander_whom_nobody_can_hear_is_told_by_name(safety):
    """One who publishes as best effort, where commands are heard reliably alone: ROS delivers none of them."""
    with_events, end = SingleThreadedExecutor(context=safety.node.context), time.monotonic() + 60.0
    with_events.add_node(safety.node)
    safety.node.create_publisher(safety.wire.command_kind, "command", QoSProfile(depth=1, reliability=ReliabilityPolicy.BEST_EFFORT))
    while not safety.status.counts["incompatible_qos"]:
        assert time.monotonic() < end
        with_events.spin_once(timeout_sec=0.05)
    with_events.shutdown()
    assert not safety.controller


def test_two_safety_nodes_of_one_name_stop_the_robot_until_one_is_gone(make_node):
    """Two graphs of the same domain: each would pass on what the other's adapter says. Of one that was killed, nothing is heard any more."""
    alone, end = SafetyNode(make_node()), time.monotonic() + 60.0
    executor, beats = SingleThreadedExecutor(context=alone.node.context), []
    executor.add_node(alone.node)
    alone.node.create_subscription(Header, "safety/heartbeat", beats.append, runtime.STREAM_IN)

    def until(true):
        while not true():
            assert time.monotonic() < end
            executor.spin_once(timeout_sec=0.05)

    until(lambda: len(beats) > 2)
    assert alone.guard.state == "idle"
    other = SafetyNode(make_node())
    executor.add_node(other.node)
    until(lambda: alone.guard.state == other.guard.state == "stopped")
    assert alone.status.counts["two_publishers"] == 1
    assert reset(alone)[0]
    until(lambda: alone.guard.state == "stopped")
    executor.remove_node(other.node)
    heard = len(beats)
    until(lambda: len(beats) > heard + 2)
    assert reset(alone)[0]
    until(lambda: len(beats) > heard + 5)
    assert alone.guard.state == "idle"
    executor.shutdown()


# ---- emergency stops --------------------------------------------------------------------------------------------------------


def reset(safety):
    answer = safety._on_reset(Trigger.Request(), Trigger.Response())
    return answer.success, answer.message


def test_a_reset_without_an_emergency_stop_changes_nothing(safety):
    """While a command is carried out: what then falls silent is still noticed."""
    assert reset(safety) == (False, "not_stopped: there is nothing to reset, the robot is idle")
    give(safety, STAMP)
    assert reset(safety) == (False, "not_stopped: there is nothing to reset, the robot is tracking")
    safety.clock[0] = 0.2
    safety._watch()
    assert safety.guard.state == "holding"
    assert safety.status.counts["stale_state"] == 1


class Buttons:
    """Publishers on `estop`, as the node hears them: each numbers what it says, and each message comes by up to three subscriptions."""

    def __init__(self, safety, monkeypatch):
        self.safety, self.numbers, self.stamp = safety, {}, 0
        monkeypatch.setattr(safety.node, "count_publishers", lambda topic: len(self.numbers))

    def say(self, who, pressed, lost=0):
        self.numbers[who], self.stamp = self.numbers.get(who, 0) + 1 + lost, self.stamp + 1
        for _ in range(3 if pressed else 1):
            self.safety._on_estop(Bool(data=pressed), {"publication_sequence_number": self.numbers[who], "source_timestamp": self.stamp})

    def go(self, who):
        del self.numbers[who]

    def released(self):
        return reset(self.safety)[1] != "the emergency stop is still pressed on the topic estop"


@pytest.fixture
def buttons(safety, monkeypatch):
    return Buttons(safety, monkeypatch)


def test_a_button_is_released_by_the_one_who_pressed_it(safety, buttons):
    buttons.say("button", True)
    buttons.say("panel", False)
    assert not buttons.released()
    assert safety.guard.state == "stopped"
    for _ in range(5):  # again and again, and now it counts as far as the button
        buttons.say("panel", False)
    assert not buttons.released()
    assert safety.status.counts["estop"] == 1
    buttons.say("button", False)
    assert buttons.released()
    assert safety.guard.state != "stopped"


def test_two_buttons_are_released_one_after_the_other(safety, buttons):
    buttons.say("button", False)
    buttons.say("panel", True)
    buttons.say("button", True)
    assert safety.status.counts["estop"] == 1
    buttons.say("button", False)
    assert not buttons.released()
    buttons.say("panel", True)  # it says so again and again
    assert not buttons.released()
    buttons.say("panel", False)
    assert buttons.released()
    buttons.say("panel", True)
    assert safety.status.counts["estop"] == 2


def test_who_is_alone_on_the_topic_releases_it_whoever_pressed(buttons):
    """Somebody who has pressed it and gone, as a command line does; or of whose messages some were lost."""
    buttons.say("first", True)
    buttons.go("first")
    buttons.say("second", False)
    assert buttons.released()
    buttons.say("second", True)
    buttons.say("second", False, lost=5)
    assert buttons.released()


# ---- what the parameters say ------------------------------------------------------------------------------------------------


def test_a_vehicle_keeps_to_what_the_parameters_say_and_has_no_box(make_node):
    node = SafetyNode(make_node(robot="car", lower_limits=[0.0, -0.1], upper_limits=[0.5, 0.1]))
    assert node.guard.robot.command_limits == ((0.0, 0.5), (-0.1, 0.1))
    for side in ("lower", "upper"):
        with pytest.raises(TypeError, match="car is no arm on a fixed foot: its tool can be kept in no workspace_lower"):
            SafetyNode(make_node(robot="car", **{f"workspace_{side}": [-1.0, -1.0, 1.0]}))


# ---- numbers that are none --------------------------------------------------------------------------------------------------


def test_twists_of_any_numbers_leave_a_car_inside_of_its_limits(safety):
    """Each of the six anything, NaN and infinite ones among them: those are refused, whichever it is."""
    if safety.wire.robot.name != "car":
        pytest.skip("an arm hears no twists")
    rng, bad, kinds = np.random.default_rng(0), np.array([np.nan, np.inf, -np.inf]), np.array([0.0, 1.0, -1.0, 4.0, 1e-3, 1e-310, 1e9, 1e308])
    refused = 0
    for i in range(1, 500):
        values, stamp = rng.choice(kinds, 6), STAMP + i * 40_000_000
        values[rng.integers(6)] = rng.choice(bad) if i % 2 else 0.5
        safety.clock[0] = 0.04 * i
        measure(safety, stamp)
        safety._on_command(messages.twist_command(tuple(values), stamp), {})
        refused += i % 2
        assert safety.status.counts["not_finite"] == refused
        sent = safety.wire.command(safety.controller[-1]).qpos[0]
        assert 0.0 <= sent[0] <= 4.0
        assert abs(sent[1]) <= 0.4 + 1e-9
    assert safety.status.counts["forwarded"] > 200


def test_efforts_that_nobody_measures_stop_no_arm(safety):
    if safety.wire.robot.name != "arm7":
        pytest.skip("a vehicle tells no efforts")
    home = np.array(safety.wire.robot.home_qpos)
    for i in range(1, 30):
        safety.clock[0] = 0.02 * i
        safety._on_state(messages.joint_state(safety.wire.joint_names, home, 0 * home, STAMP + i * 20_000_000, np.full(7, np.nan)))
        give(safety, STAMP + i * 20_000_000)
    assert dict(safety.status.counts) == {"forwarded": 29}
    safety._on_state(messages.joint_state(safety.wire.joint_names, home, 0 * home, STAMP + 600_000_000, np.array([0.0] * 6 + [np.nan])))
    assert safety.status.counts["not_finite"] == 1


def test_what_stands_still_is_stopped_until_it_is_reset(safety):
    """The same place under new stamps, while it is told to move: counted once, braked, and nothing passes."""
    robot, told, drives = safety.wire.robot, 0, safety.wire.robot.name == "car"
    if not drives:
        home = np.array(robot.home_qpos)
        safety._on_command(safety.wire.message(Command(STAMP, np.array([1.0, 2.0]), home + np.array([[0.2], [0.2]]), np.zeros((2, 7)))), {})
    for i in range(1, 60):
        safety.clock[0] = 0.04 * i
        measure(safety, STAMP + i * 40_000_000)
        if drives:
            safety._on_command(messages.twist_command(robot.twist_of((2.0, 0.0)), STAMP + i * 40_000_000), {})
        safety._watch()
        told = told or (i if safety.guard.state == "stopped" else 0)
    assert 0.6 < 0.04 * told < 2.0
    assert safety.status.counts["does_not_follow"] == 1
    assert safety.guard.stop_cause.startswith("does_not_follow: ")
    assert safety.status.counts["stopped"] == (60 - told if drives else 0)
    if drives:
        assert safety.wire.command(safety.controller[-1]).qpos[0, 0] == 0.0
    else:  # in the middle of its way, where its controller is by now; not where the joint states say
        assert [len(m.points) for m in safety.controller] == [2, 1]
        assert safety.wire.command(safety.controller[1]).qpos[0, 0] > home[0] + 0.1
    assert reset(safety)[0]


@pytest.mark.parametrize("safety", ["car"], indirect=True)
def test_a_car_that_brakes_when_the_node_is_asked_to_end_takes_no_command_any_more(safety, monkeypatch):
    """Its slew limits let it brake over many ticks; meanwhile a good command comes at each."""

    def drive(steps):
        for _ in range(steps):
            safety.clock[0] += 0.04
            odometry = STAMP + round(safety.clock[0] * 1e9)
            measure(safety, odometry)
            command = Command(odometry, np.array([0.04]), np.array([[4.0, 0.0]]), np.zeros((1, 2)))
            safety._on_command(safety.wire.message(command), {})

    drive(12)
    safety.clock[0] += 0.2  # nobody has spoken
    safety._watch()
    assert safety.guard.state == "holding"

    def spin_once(timeout_sec):
        safety._watch()
        drive(1)

    monkeypatch.setattr(type(safety.node), "executor", SimpleNamespace(spin_once=spin_once, wake=lambda: None))
    safety._controller.wait_for_all_acked = lambda duration: None
    forwarded = safety.status.counts["forwarded"]
    safety.close()
    assert safety.guard.state == "stopped"
    assert safety.status.counts["forwarded"] == forwarded
    np.testing.assert_allclose(safety.guard._sent[0], 0.0, atol=1e-6)


@pytest.mark.parametrize("safety", ["arm7"], indirect=True)
def test_where_a_command_is_missing_the_controller_has_longer_for_the_next_and_nobody_else_is_told(safety):
    """Whoever decides, and whoever judges, would else take it for another command, and wait longer for it."""
    for period in (0, 1, 3):
        stamp, safety.clock[0] = STAMP + period * 20_000_000, 0.02 * period
        measure(safety, stamp)
        give(safety, stamp)
    times = lambda sent: [messages.command_arrays(m, safety.wire.joint_names).time[0] for m in sent]  # noqa: E731
    np.testing.assert_allclose(times(safety.controller), [0.02, 0.02, 0.04])
    np.testing.assert_allclose(times(safety.executed), [0.02, 0.02, 0.02])
    assert safety.status.counts["cut"] == 0


def test_a_set_point_goes_to_the_controller_without_velocities_and_a_stop_with_them(safety):
    if safety.wire.robot.name != "arm7":
        pytest.skip("a vehicle follows no trajectories")
    give(safety, STAMP)
    safety.clock[0] = 0.2
    safety._watch()  # nobody has spoken since
    assert [len(m.points[0].velocities) for m in safety.controller] == [0, 7]


def test_joint_states_of_others_are_passed_over_once_the_robots_own_are_known(safety):
    """A gripper's driver speaks on the same topic."""
    if safety.wire.robot.name != "arm7":
        pytest.skip("nobody shares a vehicle's topic")
    said = messages.joint_state(("finger",), np.zeros(1), np.zeros(1), STAMP + 1)
    safety._on_state(said)
    assert dict(safety.status.counts) == {"foreign_joints": 1}
    safety.guard.measured = None
    safety._on_state(said)  # as if the names in the parameters were wrong
    assert safety.status.counts["missing_joint"] == 1


def test_whoever_else_drives_the_controller_stops_the_robot(make_node):
    made = SafetyNode(make_node(robot="arm7"))
    measure(made, STAMP)
    made._look_around()
    assert str(made.guard.state) == "idle"
    publishers = [SimpleNamespace(node_namespace="/", node_name=name) for name in ("safety", "moveit")]
    made.node.get_publishers_info_by_topic = lambda topic: publishers if topic == made._controller.topic_name else publishers[1:]
    made._look_around()
    assert (str(made.guard.state), made.guard.stop_cause, made.status.counts["two_publishers"]) == ("stopped", "two_publishers", 1)


# ---- a failure of its own ---------------------------------------------------------------------------------------------------


FAILS = """
import sys
from metarl.ros_nodes import runtime

class Fails:
    finished = False

    def __init__(self, node):
        self.node = node
        runtime.steady_timer(node, 0.01, self.tick)

    def tick(self):
        raise {error}("the first")

    def close(self):
        assert self.node.executor is not None
        print("closed", flush=True)
        {then}

runtime.run("fails", Fails)
"""


@pytest.mark.parametrize(("error", "then", "traced"), [("RuntimeError", "pass", False), ("KeyError", "pass", True), ("KeyError", "raise OSError('too')", True)])
def test_a_node_that_fails_is_closed_all_the_same(domain, error, then, traced):
    """A safety node brakes the robot there. What fails on the way hides nothing of what had failed before."""
    code = FAILS.format(error=error, then=then)
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=domain.environment(), timeout=300, check=False)
    assert found.returncode == 1
    assert found.stdout == "closed\n"
    assert f"fails: {error}: " in found.stderr
    assert ("Traceback" in found.stderr) == traced
    assert ("fails: OSError: too" in found.stderr) == ("too" in then)


def test_a_safety_node_whose_callback_fails_brakes_before_it_ends(make_node, monkeypatch, capfd):
    """In the midst of a stream of set-points."""
    made, sent = [], []

    def make(node):
        safety = SafetyNode(node)
        safety._controller = SimpleNamespace(publish=lambda m: sent.append(copy.deepcopy(m)), wait_for_all_acked=lambda _: True)
        measure(safety, STAMP)
        give(safety, STAMP)
        assert safety.guard.state == "tracking"
        runtime.steady_timer(node, 0.001, lambda: {}["nothing"])
        made.append(safety)
        return safety

    executor = SingleThreadedExecutor
    node = make_node(robot="arm7", state_timeout=60.0, command_timeout=60.0)
    monkeypatch.setattr(runtime, "_executor", lambda: executor(context=node.context))
    monkeypatch.setattr(runtime, "settle", lambda: None)
    monkeypatch.setattr(rclpy, "ok", lambda: True)
    assert runtime._live("safety", make, lambda _: node, lambda: False) == 1
    assert made[0].guard.state == "stopped"
    assert len(sent) == 2
    assert list(sent[-1].points[0].velocities) == [0.0] * 7
    assert "safety: KeyError: 'nothing'" in capfd.readouterr().err
