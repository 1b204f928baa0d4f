"""A vehicle's commands are cut to their limits, refused by name, and brought to an end when they cease."""

import contextlib
from dataclasses import replace

import numpy as np
import pytest
import torch

from metarl import robots, tasks
from metarl.robots.spec import Controls
from metarl.ros_nodes.base_guard import State
from metarl.ros_nodes.limits import Command
from metarl.ros_nodes.rejection import Rejected
from metarl.ros_nodes.vehicle_guard import VehicleGuard
from metarl.ros_nodes.world import World


def unhurried(robot):
    """The same vehicle, whose command may change by its whole range in a period: for tests of other things."""
    return replace(robot, slew_limits=tuple((high - low) / robot.control_dt for low, high in robot.command_limits))


CAR, QUADROTOR = unhurried(robots.load("car")), unhurried(robots.load("quadrotor"))
LEVEL = np.array([0.0, 0.0, 2.0, 1.0, 0.0, 0.0, 0.0])
MS = 1_000_000


def command(stamp, *values):
    return Command(stamp, np.array([0.04]), np.array([values], dtype=float), np.zeros((1, len(values))))


def guarded(robot=CAR, stamp=1000 * MS, now=0.0, **settings):
    guard = VehicleGuard(robot, **settings)
    guard.measure(stamp, LEVEL, np.zeros(6), now)
    return guard


def refused(guard, given, now=0.01):
    with pytest.raises(Rejected) as found:
        guard.judge(given, now)
    return found.value


def test_a_good_command_passes_unchanged():
    guard = guarded()
    passed = guard.judge(command(1000 * MS, 2.0, 0.3), 0.01)
    assert passed.qpos.tolist() == [[2.0, 0.3]]
    assert passed.stamp == 1000 * MS
    assert guard.state is State.TRACKING
    assert guard.cut == ()


def test_limits_cut():
    guard = guarded()
    assert guard.judge(command(1000 * MS, 9.0, -1.0), 0.01).qpos.tolist() == [[4.0, -0.4]]
    assert guard.cut == ("speed", "steer")


def test_slew_limits_cut_what_changes_too_fast():
    guard = guarded(slew=0.1)  # a tenth of the range a period
    assert guard.judge(command(1000 * MS, 4.0, 0.0), 0.01).qpos[0].tolist() == pytest.approx([0.4, 0.0])
    guard.measure(1040 * MS, LEVEL, np.zeros(6), 0.04)
    assert guard.judge(command(1040 * MS, 4.0, 0.4), 0.05).qpos[0].tolist() == pytest.approx([0.8, 0.08])


@pytest.mark.parametrize("name", ["car", "quadrotor"])
def test_no_vehicle_is_told_more_than_its_motors_can_do(name):
    """From one end of what it may be commanded to the other: not in a period."""
    robot = robots.load(name)
    guard, ends = guarded(robot), np.array(robot.command_limits).T
    sent = []
    for i in range(100):
        stamp, now = (1000 + 40 * i) * MS, 0.04 * i
        guard.measure(stamp, LEVEL + np.array([0.1 * i, 0, 0, 0, 0, 0, 0]), np.zeros(6), now)
        sent.append(guard.judge(command(stamp, *ends[i // 50]), now).qpos[0])
    np.testing.assert_allclose(sent[49], ends[0])
    np.testing.assert_allclose(sent[50] - sent[49], np.array(robot.slew_limits) * robot.control_dt)
    np.testing.assert_allclose(sent[99], ends[1])
    assert (sent[50] - sent[49] <= 0.63 * (ends[1] - ends[0])).all()


def test_many_commands_at_once_change_no_more_than_one():
    """20 in 2 ms; a tenth of the range in 40 ms is allowed."""
    guard = guarded(slew=0.1)
    guard.judge(command(1000 * MS, 0.0, 0.0), 0.01)
    for i in range(1, 21):
        guard.measure((1000 * MS) + i * MS // 10, LEVEL, np.zeros(6), 0.01 + 0.0001 * i)
        passed = guard.judge(command(1000 * MS + i * MS // 10, 4.0, 0.4), 0.01 + 0.0001 * i)
    assert passed.qpos[0].tolist() == pytest.approx([0.4 * 2 / 40, 0.08 * 2 / 40])
    guard.measure(1042 * MS, LEVEL, np.zeros(6), 0.05)
    assert guard.judge(command(1042 * MS, 4.0, 0.4), 0.05).qpos[0, 0] == pytest.approx(0.42)


@pytest.mark.parametrize("robot", [CAR, QUADROTOR], ids=["car", "quadrotor"])
def test_commands_that_come_late_all_at_once_change_no_more_than_three(robot):
    """Five, decided a period apart: the motors have had no time between them."""
    guard, period, ends = guarded(robot, slew=0.1, command_timeout=1.0), robot.control_dt, np.array(robot.command_limits).T
    before = guard.judge(command(1000 * MS, *robot.rest), 0.0).qpos[0]
    now = 5 * period
    guard.measure(1000 * MS + round(now * 1e9), LEVEL, np.zeros(6), now)
    for i in range(1, 6):
        passed = guard.judge(command(1000 * MS + round(i * period * 1e9), *ends[1]), now).qpos[0]
    np.testing.assert_allclose(passed - before, 0.1 * np.array(robot.slew_limits) * 3 * period)


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        (command(1000 * MS, np.nan, 0.0), "not_finite"),
        (command(1000 * MS, 1.0, np.inf), "not_finite"),
        (command(1000 * MS, 1.0), "wrong_shape"),
        (command(1001 * MS, 1.0, 0.0), "future"),
        (command(800 * MS, 1.0, 0.0), "stale_command"),
    ],
)
def test_bad_commands_are_refused_by_name(given, reason):
    assert refused(guarded(), given).reason == reason


def test_commands_pass_once_and_in_order():
    guard = guarded()
    guard.judge(command(1000 * MS, 1.0, 0.0), 0.01)
    assert refused(guard, command(1000 * MS, 1.0, 0.0)).reason == "duplicate"
    assert refused(guard, command(999 * MS, 1.0, 0.0)).reason == "out_of_order"


def test_without_odometry_nothing_passes():
    assert refused(VehicleGuard(CAR), command(1, 1.0, 0.0)).reason == "stale_state"
    guard = guarded()
    assert refused(guard, command(1000 * MS, 1.0, 0.0), now=0.2).reason == "stale_state"
    guard.measure(1000 * MS, LEVEL, np.zeros(6), 0.2)  # the same again is no sign of life
    assert refused(guard, command(1000 * MS, 1.0, 0.0), now=0.2).reason == "stale_state"


@pytest.mark.parametrize("robot", [CAR, QUADROTOR], ids=["car", "quadrotor"])
def test_what_a_stop_has_changed_the_next_command_cannot_change_as_well(robot):
    """Good and bad commands in turns, half a period apart: back to rest and away again, in no more time than has passed."""
    guard, half, away = guarded(robot, slew=0.1), 500 * robot.control_dt, [high for _, high in robot.command_limits]
    step, before, changed = 0.1 * np.array(robot.slew_limits) * robot.control_dt, np.array(robot.rest), 0.0
    for i in range(1, 41):
        stamp, now = round((1000 + half * i) * MS), half * i / 1000
        guard.measure(stamp, LEVEL, np.zeros(6), now)
        sent = guard.judge(command(stamp, *away), now) if i % 2 else guard.hold(stamp, now)
        changed, before = changed + np.abs(sent.qpos[0] - before), sent.qpos[0]
    assert (changed <= (20 + 4) * step + 1e-9).all()


def drive_until_silent(guard, watch_from, period=0.01):
    """Speeds that are sent after the last command at 0.01 s, looked at a hundred times a second while odometry goes on."""
    sent, causes = [], []
    for tick in range(150):
        now = watch_from + period * tick
        guard.measure((1000 + 10 * (tick + 1)) * MS, LEVEL, np.zeros(6), now)
        stop = guard.watch(now)
        if stop is not None:
            causes.append((stop.cause.reason, now))
            sent.append(stop.command.qpos[0])
        following = guard.follow(now)
        if following is not None:
            sent.append(following.qpos[0])
    return np.array(sent), causes


def test_a_car_whose_commands_cease_brakes_to_a_standstill():
    guard = guarded()
    guard.judge(command(1000 * MS, 2.0, 0.3), 0.01)
    sent, causes = drive_until_silent(guard, 0.02)
    assert [reason for reason, _ in causes] == ["stale_command"]  # once
    assert causes[0][1] == pytest.approx(0.12)  # 100 ms after the last one
    assert (np.diff(sent[:, 0]) <= 0).all()
    assert np.abs(np.diff(sent[:, 0])).max() <= 4.0 * 0.04 + 1e-9  # m/s a period
    assert sent[-1].tolist() == [0.0, 0.3]
    assert guard.state is State.HOLDING


def test_a_stop_ends_with_the_next_good_command():
    guard = guarded()
    guard.judge(command(1000 * MS, 2.0, 0.0), 0.01)
    drive_until_silent(guard, 0.02)
    stamp = guard.measured.stamp
    assert guard.judge(command(stamp, 1.0, 0.0), 1.52).qpos.tolist() == [[1.0, 0.0]]
    assert guard.state is State.TRACKING


def test_odometry_that_falls_silent_stops_as_well_and_a_quadrotor_then_hovers():
    guard = guarded(QUADROTOR)
    guard.judge(command(1000 * MS, 12.0, 1.0, 1.0, 1.0), 0.01)
    assert guard.watch(0.09) is None
    stop = guard.watch(0.15)
    assert stop.cause.reason == "stale_state"
    assert stop.command.qpos[0].tolist() == list(QUADROTOR.rest)
    assert guard.watch(0.16) is None  # said once
    assert guard.follow(0.2).qpos[0].tolist() == list(QUADROTOR.rest)


def test_an_emergency_stop_lasts_until_it_is_reset():
    guard = guarded()
    guard.judge(command(1000 * MS, 2.0, 0.3), 0.01)
    assert guard.stop("estop", 0.02).qpos[0, 0] < 2.0
    guard.measure(1040 * MS, LEVEL, np.zeros(6), 0.04)
    found = refused(guard, command(1040 * MS, 2.0, 0.0), 0.05)
    assert found.reason == "stopped"
    assert "estop" in str(found)
    assert guard.follow(0.06) is not None  # it goes on braking
    guard.reset()
    guard.measure(1080 * MS, LEVEL, np.zeros(6), 0.08)
    assert refused(guard, command(1040 * MS, 2.0, 0.0), 0.09).reason in ("before_reset", "out_of_order")
    guard.judge(command(1080 * MS, 2.0, 0.0), 0.09)


def test_a_reset_does_not_end_the_braking():
    """At 4 m/s, and no command comes any more."""
    guard = guarded()
    guard.judge(command(1000 * MS, 4.0, 0.3), 0.01)
    with pytest.raises(Rejected, match=r"not_stopped: there is nothing to reset, the robot is tracking"):
        guard.reset()
    assert guard.state is State.TRACKING
    guard.stop("estop", 0.02)
    guard.reset()
    sent = [guard.follow(0.02 + 0.04 * i) for i in range(1, 30)]
    assert [s.qpos[0, 0] for s in sent if s is not None][-1] == 0.0
    assert guard.state is State.HOLDING


@pytest.mark.parametrize(("may_jump", "state"), [(True, State.IDLE), (False, State.STOPPED)])
def test_a_vehicle_that_is_elsewhere_at_once(may_jump, state):
    guard = guarded(may_jump=may_jump)
    guard.judge(command(1000 * MS, 2.0, 0.3), 0.01)
    with pytest.raises(Rejected, match=r"jump: the vehicle is 5\.00 m from"):
        guard.measure(1001 * MS, LEVEL + np.array([5.0, 0, 0, 0, 0, 0, 0]), np.zeros(6), 0.02)
    assert guard.state is state
    reason = refused(guard, command(1000 * MS, 2.0, 0.0), 0.03).reason
    assert reason == ("before_reset" if may_jump else "stopped")
    if may_jump:  # what answers the new place passes, also where the first message of it was lost
        guard.judge(command(1001 * MS, 2.0, 0.0), 0.03)


def driven(robot, wanted, pose_at, seconds=10.0):
    """What is told each period to a vehicle that is measured at `pose_at` (s); why and when it is stopped, and the guard."""
    guard = guarded(robot)
    for i in range(1, round(seconds / robot.control_dt)):
        now = i * robot.control_dt
        try:
            guard.measure(1000 * MS + round(now * 1e9), pose_at(now), np.zeros(6), now)
        except Rejected as rejected:
            return rejected, now, guard
        guard.judge(command(1000 * MS + round(now * 1e9), *wanted), now)
    return None, now, guard


@pytest.mark.parametrize(("robot", "wanted", "most"), [(CAR, (4.0, 0.1), 0.9), (CAR, (1.0, 0.0), 3.2), (QUADROTOR, (8.0, 0.0, 1.5, 0.0), 1.1)])
def test_odometry_that_stands_still_stops_a_vehicle_that_is_told_to_move(robot, wanted, most):
    """The same values under new stamps, or nearly: it may shake by a millimetre."""
    rng = np.random.default_rng(0)
    found, when, guard = driven(robot, wanted, lambda t: LEVEL + np.append(rng.normal(scale=1e-3, size=3), np.zeros(4)))
    assert found.reason == "does_not_follow"
    assert 0.5 < when < most
    assert guard.state is State.STOPPED
    assert "does_not_follow" in guard.stop_cause
    sent = [guard.stop("does_not_follow", when)] + [guard.follow(when + robot.control_dt * i) for i in range(1, 60)]
    assert sent[-1].qpos[0].tolist()[0] == robot.rest[0]


@pytest.mark.parametrize(
    ("robot", "wanted", "pose_at"),
    [
        (CAR, (0.0, 0.3), lambda t: LEVEL),
        (CAR, (4.0, 0.0), lambda t: LEVEL + np.array([0.1 * t**2, 0, 0, 0, 0, 0, 0])),  # on ice: 0.2 m/s²
        (QUADROTOR, QUADROTOR.rest, lambda t: LEVEL),
        (QUADROTOR, (8.0, 0.0, 0.0, 1.0), lambda t: np.array([0, 0, 2, np.cos(0.02 * t), 0, 0, np.sin(0.02 * t)])),
    ],
    ids=["standing", "ice", "hovering", "turning slowly"],
)
def test_vehicles_that_are_told_to_stay_or_move_badly_are_left_alone(robot, wanted, pose_at):
    found, _, guard = driven(robot, wanted, pose_at)
    assert found is None
    assert guard.state is State.TRACKING


def wavering(robot, t):
    """What a hover, or a car that stands, may be told, a little more and a little less of it."""
    return tuple(rest + 0.002 * (high - low) * np.sin(3 * t) for rest, (low, high) in zip(robot.rest, robot.command_limits, strict=True))


@pytest.mark.parametrize(
    ("robot", "told_at", "pose_at", "found"),
    [
        (QUADROTOR, lambda t: wavering(QUADROTOR, t), lambda t: LEVEL, True),
        (QUADROTOR, lambda t: wavering(QUADROTOR, t), lambda t: LEVEL + 1e-12 * np.array([0, 0, np.sin(t), 0, 0, 0, 0]), False),
        (QUADROTOR, lambda t: wavering(QUADROTOR, 0.3 * (t < 5)), lambda t: LEVEL + 1e-9 * (t < 5.2) * np.array([np.sin(t), 0, 0, 0, 0, 0, 0]), False),
        (CAR, lambda t: (0.0, 0.3 * np.sin(t)), lambda t: LEVEL, False),
    ],
    ids=["frozen", "hovering well", "hovering perfectly", "steering"],
)
def test_odometry_of_a_hover_that_repeats_itself_whatever_is_told_is_not_believed(robot, told_at, pose_at, found):
    """Bit for bit. In a simulation without noise a perfect hover does so, too, but then it is told the same all the time."""
    guard, rejected = guarded(robot), None
    for i in range(1, 500):
        now, stamp = 0.02 * i, (1000 + 20 * i) * MS
        try:
            guard.measure(stamp, pose_at(now), np.zeros(6), now)
        except Rejected as given:
            rejected = given
            break
        guard.judge(command(stamp, *told_at(now)), now)
    assert (rejected is not None) is found
    if found:
        assert rejected.reason == "does_not_follow"
        assert "bit for bit" in guard.stop_cause
        assert 0.5 < now < 1.2


def test_standing_still_is_counted_from_each_command_stream_anew():
    """2 m are asked for, then nobody speaks; then 2 m again."""
    guard, stamp, now = guarded(), 1000 * MS, 0.0
    for i in range(1, 60):
        stamp, now = stamp + 40 * MS, now + 0.04
        guard.measure(stamp, LEVEL, np.zeros(6), now)
        if not 12 < i < 30:
            guard.judge(command(stamp, 4.0 if i < 42 else 0.0, 0.0), now)
        guard.watch(now)
    assert guard.state is State.TRACKING


def test_a_vehicle_whose_odometry_has_jumped_comes_to_rest_without_it():
    tilted = np.array([50.0, 0.0, 2.0, np.cos(0.5), np.sin(0.5), 0.0, 0.0])
    for robot, wanted in ((QUADROTOR, (12.0, 1.0, 1.0, 1.0)), (CAR, (4.0, 0.3))):
        guard = guarded(robot)
        guard.judge(command(1000 * MS, *wanted), 0.01)
        with pytest.raises(Rejected, match="jump"):
            guard.measure(1001 * MS, tilted, np.zeros(6), 0.05)
        first = guard.stop("jump", 0.05)
        if robot is CAR:  # it brakes as always: 4 m/s²
            assert first.qpos[0].tolist() == pytest.approx([4.0 - 4.0 * 0.04, 0.3])
        else:  # that attitude is not to be believed
            assert first.qpos[0].tolist() == list(QUADROTOR.rest)
        guard.reset()
        guard.measure(1100 * MS, tilted, np.zeros(6), 0.1)
        guard.judge(command(1100 * MS, *wanted), 0.11)


def test_nothing_outside_the_limits_is_ever_sent():
    rng = np.random.default_rng(0)
    for robot in (CAR, QUADROTOR):
        low, high = np.array(robot.command_limits).T
        guard = guarded(robot, slew=0.3)
        step = 0.3 * np.array(robot.slew_limits) * robot.control_dt
        before, now, stamp = np.array(robot.rest), 0.0, 1000 * MS
        for _ in range(20_000):
            now, stamp = now + rng.uniform(0.0, 0.08), stamp + int(rng.integers(-5, 80)) * MS
            sent = []
            quat = rng.normal(size=4)
            with contextlib.suppress(Rejected):
                guard.measure(stamp, np.array([0, 0, 0, *(quat / np.linalg.norm(quat))]), rng.normal(scale=5.0, size=6), now)
            values = rng.choice(
                [rng.normal(scale=10.0 ** rng.integers(-2, 6)), np.nan, np.inf, -np.inf, 0.0, 1e300], size=len(low), p=[0.9, 0.02, 0.02, 0.02, 0.02, 0.02]
            )
            last, given = guard._last_stamp, command(stamp - int(rng.integers(0, 3)) * MS, *values)
            try:
                sent.append(guard.judge(given, now))
                assert (np.abs(sent[0].qpos[0] - before) <= step * min((given.stamp - last) * 1e-9 / robot.control_dt, 1.0) + 1e-9).all()
            except Rejected:
                sent.append(guard.hold(stamp, now))
            stop = guard.watch(now)
            sent += [s for s in (stop.command if stop else None, guard.follow(now)) if s is not None]
            for one in sent:
                value = one.qpos[0]
                assert (value >= low).all()
                assert (value <= high).all()
                assert (np.abs(value - before) <= step + 1e-9).all()
                before = value


class Moving:
    """A vehicle that does what it is told, late: a car drives where it steers to, a quadrotor turns as it should; measured with noise."""

    def __init__(self, robot, rng):
        self.robot, self.rng, self.told = robot, rng, np.array(robot.rest)
        self.pos, self.linvel, self.turn = np.array([0.0, 0.0, 2.0]), np.zeros(3), np.zeros(3)  # m, m/s, rad about x, y, z

    def go_on(self, dt):
        if self.robot is CAR:
            speed = self.linvel @ [np.cos(self.turn[2]), np.sin(self.turn[2]), 0.0]
            speed += (self.told[0] - speed) * (1 - np.exp(-dt / 0.1))
            self.turn[2] += speed * np.tan(self.told[1]) / 0.3 * dt
            self.linvel = speed * np.array([np.cos(self.turn[2]), np.sin(self.turn[2]), 0.0])
        else:
            self.turn = self.turn + self.told[1:] * dt
            self.linvel = self.linvel + dt * (np.array([0, 0, self.told[0] / QUADROTOR.rest[0] * 9.81 - 9.81]) - 0.3 * self.linvel)
        self.pos = self.pos + self.linvel * dt

    def measured(self):
        half, quat = 0.5 * self.turn, np.array([1.0, 0.0, 0.0, 0.0])
        for axis in range(3):
            w, x, y, z = quat
            turned = {0: [-x, w, z, -y], 1: [-y, -z, w, x], 2: [-z, y, -x, w]}[axis]
            quat = np.cos(half[axis]) * quat + np.sin(half[axis]) * np.array(turned)
        noise = self.rng.normal(scale=1e-3, size=6)
        return np.array([*self.pos + noise[:3], *quat]), np.array([*self.linvel + noise[3:], 0.0, 0.0, 0.0])


@pytest.mark.parametrize("robot", [CAR, QUADROTOR], ids=["car", "quadrotor"])
def test_nothing_outside_the_limits_is_sent_to_a_vehicle_in_motion(robot):
    """What is sent, by finite differences: in any stretch of time it changes no more than the slew limits allow, however much of it comes at once."""
    rng = np.random.default_rng(2)
    low, high = np.array(robot.command_limits).T
    slew, period = 0.1 * np.array(robot.slew_limits), robot.control_dt
    guard, body = VehicleGuard(robot, slew=0.1), Moving(robot, rng)
    stamp, now, style, wish = 10**9, 0.0, 0, np.array(robot.rest)
    sent, passed, moving = [(now, wish)], 0, 0
    for _ in range(20_000):
        dt = period * rng.choice([0.05, 1.0, 2.0], p=[0.2, 0.75, 0.05])
        stamp, now = stamp + round(dt * 1e9), now + dt
        body.go_on(dt)
        guard.measure(stamp, *body.measured(), now)
        style = int(rng.integers(4)) if rng.random() < 0.05 else style
        calm = np.clip(wish + 0.02 * (high - low) * rng.normal(size=len(low)), low, high)
        wish = [calm, rng.choice([low, high]), rng.normal(scale=10.0 ** rng.integers(0, 5), size=len(low)), wish * rng.choice([1.0, np.nan])][style]
        wish = np.where(np.isfinite(wish), wish, np.array(robot.rest)) if rng.random() < 0.5 else wish
        try:
            told = guard.judge(command(stamp - int(rng.choice([0, 1, 300], p=[0.96, 0.02, 0.02])) * MS, *wish), now)
            passed += 1
            moving += bool(np.linalg.norm(body.linvel) > 0.3)
        except Rejected:
            told = guard.hold(stamp, now)
        body.told = told.qpos[0]
        assert (body.told >= low).all()
        assert (body.told <= high).all()
        sent.append((now, body.told))
        for then, value in sent[-6:-1]:
            assert (np.abs(body.told - value) <= slew * (now - then + period) + 1e-9).all()
        wish = np.where(np.isfinite(wish), np.clip(wish, low, high), np.array(robot.rest))
    assert passed > 0.6 * len(sent)
    assert moving > 0.5 * passed


@pytest.mark.parametrize("robot", [CAR, QUADROTOR], ids=["car", "quadrotor"])
def test_where_half_is_lost_and_the_rest_50_ms_late_a_vehicle_goes_on_within_its_limits(robot):
    """Of odometry and of commands alike. What is missing for too long is told by name and brakes the vehicle, and the next command drives it again."""
    rng, slow = np.random.default_rng(4), replace(robot, slew_limits=tuple(0.1 * limit for limit in robot.slew_limits))
    low, high, step = *np.array(slow.command_limits).T, np.array(slow.slew_limits) * 0.01
    guard, body, causes, passed, before, behind = VehicleGuard(slow), Moving(robot, rng), set(), 0, np.array(slow.rest), np.zeros(len(low))
    rest = before
    measured, commands = {}, {}  # what arrives when, in ticks of 10 ms
    for i in range(3000):
        now, stamp = 0.01 * i, (1000 + 10 * i) * MS
        body.go_on(0.01)
        if rng.random() < 0.5:
            measured[i + 5] = stamp, *body.measured()
        sent, behind = [], np.maximum(behind - step, 0.0)
        if i in measured:
            guard.measure(*measured[i], now)
            if i % round(100 * robot.control_dt) == 0 and rng.random() < 0.5:
                commands[i + 5] = command(measured[i][0], *(rest + 0.3 * rng.uniform(low - rest, high - rest)))
        if i in commands:
            sent.append(guard.judge(commands[i], now))
            passed += 1
        stop = guard.watch(now)
        if stop is not None:
            causes.add(stop.cause.reason)
        sent += [given for given in (stop and stop.command, guard.follow(now)) if given is not None]
        for given in sent:
            behind, before = behind + np.abs(given.qpos[0] - before), given.qpos[0]
            assert ((before >= low) & (before <= high)).all()
            assert (behind <= 4 * np.array(slow.slew_limits) * slow.control_dt + 1e-9).all()
            body.told = before
        assert guard.state is not State.STOPPED
    assert passed > 0.1 * 30.0 / robot.control_dt
    assert causes
    assert causes <= {"stale_command", "stale_state"}


WEAK = {f"rotor_{i}": 0.8 for i in range(1, 5)}


@pytest.mark.parametrize("hidden", [{"payload": 0.25}, WEAK, {"payload": 0.25, **WEAK}], ids=["payload", "weak rotors", "both"])
def test_a_stopped_quadrotor_comes_to_hover_whatever_it_carries(hidden):
    """Five seconds in MuJoCo; the loads of the training range. Without odometry it then goes on as it has learned to."""
    task, robot, period = tasks.make("quadrotor_track"), robots.load("quadrotor"), 20 * MS
    world, guard = World(task, task.custom([{"wind_speed": 0.0, **hidden}]), "mujoco", 0, lambda *_: None), VehicleGuard(robot)
    rested = []
    for k in range(250):
        now, at = 0.02 * k, {name: world.true[name][0].double().numpy() for name in ("pos", "quat", "linvel", "angvel")}
        guard.measure(10**9 + k * period, np.append(at["pos"], at["quat"]), np.append(at["linvel"], at["angvel"]), now)
        sent = guard.follow(now) if k else guard.stop("estop", now)
        world.hold(Controls(robot.ctrl_of(torch.tensor(sent.qpos, dtype=torch.float32))))
        world.advance(world.period)
        rested.append(guard.at_rest(now))
    assert abs(float(world.true["linvel"][0, 2])) < 0.1
    assert rested[-1]
    assert not all(rested[10:100])
    assert guard.follow(now + 0.5).qpos[0, 0] == pytest.approx(sent.qpos[0, 0], abs=0.1)


def test_whoever_sinks_is_not_at_rest_and_the_next_stop_knows_nothing_of_it():
    guard, sinking = guarded(QUADROTOR), np.array([0, 0, -0.3, 0, 0, 0])
    guard.stop("estop", 0.0)
    for k in range(1, 500):  # until the thrust stays where it is: more than MOST is not summed up
        guard.measure((1000 + 20 * k) * MS, LEVEL, sinking, 0.02 * k)
        last = guard.follow(0.02 * k)
    assert last.qpos[0, 0] > 1.5 * QUADROTOR.rest[0]
    assert not guard.at_rest(0.02 * k)
    guard.follow(0.02 * k + 1.0)
    assert guard.at_rest(0.02 * k + 1.0)  # for all that is known by now
    guard.reset()
    guard.measure(12_000 * MS, LEVEL, np.zeros(6), 11.0)
    guard.judge(command(12_000 * MS, *QUADROTOR.rest), 11.0)
    assert guard.stop("estop", 11.02).qpos[0].tolist() == list(QUADROTOR.rest)


def test_no_stop_lets_a_quadrotor_fall_whatever_its_odometry_says():
    guard = guarded(QUADROTOR)
    guard.stop("estop", 0.0)
    for k in range(1, 200):
        guard.measure((1000 + 20 * k) * MS, LEVEL, np.array([0, 0, 29.0, 0, 0, 0]), 0.02 * k)
        assert guard.follow(0.02 * k).qpos[0, 0] >= 0.29 * QUADROTOR.rest[0]


@pytest.mark.parametrize("axis", [0, 2, 3, 5])
@pytest.mark.parametrize("robot", [CAR, QUADROTOR], ids=["car", "quadrotor"])
def test_odometry_that_says_what_no_vehicle_can_do_is_as_good_as_silence(robot, axis):
    guard, twist = guarded(robot), np.zeros(6)
    guard.judge(command(1000 * MS, *robot.rest), 0.0)
    twist[axis] = -1000.0
    for k in range(1, 20):
        with pytest.raises(Rejected, match="too_fast: the vehicle moves at 1000 "):
            guard.measure((1000 + 20 * k) * MS, LEVEL, twist, 0.02 * k)
        assert guard.measured.stamp == 1000 * MS
        if stop := guard.watch(0.02 * k):
            assert stop.cause.reason in ("stale_state", "stale_command")
            assert stop.command.qpos[0].tolist() == list(robot.rest)
    assert guard.state is State.HOLDING
    twist[axis] = 12.0  # in a dive, or a spin
    guard.measure(2000 * MS, LEVEL, twist, 1.0)


@pytest.mark.parametrize(("robot", "wanted"), [(CAR, (4.0, 0.0)), (QUADROTOR, (8.0, 0.0, 1.5, 0.0))], ids=["car", "quadrotor"])
def test_a_gap_in_odometry_is_no_standing_still(robot, wanted):
    """Where it was for two seconds, nobody knows; nor whether a hover repeats itself."""
    guard = guarded(robot)
    for k in range(3):
        guard.measure((1000 + 20 * k) * MS, LEVEL, np.zeros(6), 0.02 * k)
        guard.judge(command((1000 + 20 * k) * MS, *wanted), 0.02 * k)
    guard.measure(3000 * MS, LEVEL, np.zeros(6), 2.0)
    assert guard.state is State.TRACKING
