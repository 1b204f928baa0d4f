"""What the safety node lets through, what it does instead, and when it stops a robot by itself."""

import re
from collections import deque

import numpy as np
import pytest

from metarl import robots
from metarl.ros_nodes.base_guard import Measured, State
from metarl.ros_nodes.guard import HELD_BAND, HOLD_TIME, Guard, Speakers
from metarl.ros_nodes.limits import Command, Limits, extremes, sample
from metarl.ros_nodes.rejection import Rejected

ARM = Limits.of(robots.load("arm7"))
HOME = np.array(robots.load("arm7").home_qpos)
NOW = 100.0
SEEN = 1_000_000_000  # ns, when the robot was measured


def guard(qpos=HOME, qvel=0.0, arrival=NOW - 0.01):
    made = Guard(ARM)
    made.measured = Measured(SEEN, np.array(qpos, dtype=float), np.full(7, qvel), arrival)
    return made


def move(by=0.1, stamp=10, points=2, begin=HOME):
    """To a pose `by` rad away in 1 s, then resting there."""
    time = np.arange(1.0, points + 1)
    return Command(stamp, time, np.tile(begin + by, (points, 1)), np.zeros((points, 7)))


def reason_of(made, command, now=NOW):
    with pytest.raises(Rejected) as refused:
        made.judge(command, now)
    return refused.value.reason


def test_a_good_command_passes_unchanged():
    command = move()
    assert guard().judge(command, NOW) is command


@pytest.mark.parametrize(
    ("made", "command", "reason"),
    [
        (guard(arrival=NOW - 0.11), move(), "stale_state"),
        (Guard(ARM), move(), "stale_state"),
        (guard(), move(stamp=SEEN + 1), "future"),  # planned on what was seen after the robot was measured
        (guard(qvel=0.1), move(), "moving"),
        (guard(qpos=HOME + 0.5), move(), "far_from_pose"),
        (guard(qpos=np.full(7, np.nan)), move(), "far_from_pose"),
        (guard(), move(by=0.3), "far_from_pose"),
        (guard(), move(by=np.nan), "not_finite"),
        (guard(), move(points=1, by=0.05, stamp=SEEN)._replace(time=np.array([0.02])), "velocity"),
        (guard(), move(points=1, by=0.01, stamp=SEEN - 101_000_000)._replace(time=np.array([0.02])), "stale_command"),
        (Guard(ARM, plan_timeout=0.5, measured=Measured(SEEN, HOME, np.zeros(7), NOW)), move(), "stale_command"),
        (guard(), Command(10, np.array([0.1, 1.0]), np.tile(HOME + 0.2, (2, 1)), np.zeros((2, 7))), "velocity"),
        (guard(), Command(10, np.array([0.2, 1.0]), np.tile(HOME + 0.1, (2, 1)), np.zeros((2, 7))), "acceleration"),
        (guard(qpos=ARM.upper - 0.05), move(begin=ARM.upper - 0.05), "position"),
    ],
)
def test_refusals(made, command, reason):
    assert reason_of(made, command) == reason


def test_a_command_is_used_once_and_never_out_of_order():
    made = guard()
    made.judge(move(stamp=10), NOW)
    assert reason_of(made, move(stamp=10)) == "duplicate"
    assert reason_of(made, move(stamp=9)) == "out_of_order"
    assert made.judge(move(stamp=11), NOW).stamp == 11


def test_a_refused_command_does_not_stand_in_the_way_of_the_next():
    made = guard()
    reason_of(made, move(by=np.nan, stamp=10))
    assert made.judge(move(stamp=10), NOW).stamp == 10


def test_hold_keeps_the_measured_pose_inside_of_the_limits():
    pose = HOME.copy()
    pose[3] = ARM.upper[3] + 0.02  # gravity has drawn it beyond its limit
    held = guard(qpos=pose).hold(7, NOW)
    assert held.stamp == 7
    assert held.time.tolist() == [HOLD_TIME]
    assert held.qpos[0, 3] == ARM.upper[3]
    assert np.array_equal(np.delete(held.qpos[0], 3), np.delete(HOME, 3))
    assert not held.qvel.any()


def test_hold_brakes_a_moving_arm_within_its_accelerations():
    """A strike at 2.05 rad/s: joint 2 (7.5 rad/s²) needs 0.273 s and 0.280 rad; in HOLD_TIME it would have to brake with 20 rad/s²."""
    made = guard()
    qvel = np.array([0.1, -2.05, 0.5, 1.0, -0.3, 0.0, 2.0])
    made.measured = Measured(SEEN, HOME, qvel, NOW)
    held = made.hold(7, NOW)
    (time,) = held.time
    assert time == pytest.approx(2.05 / 7.5)
    assert held.qpos[0, 1] == pytest.approx(HOME[1] - 0.5 * 2.05**2 / 7.5)
    np.testing.assert_allclose(held.qpos[0], HOME + 0.5 * qvel * time)
    # the robot's motion while it brakes is the second interval, from the measured pose and speed
    lowest, highest, speed, acceleration = (
        x[1] for x in extremes(np.array([1.0, 1.0 + time]), np.stack([HOME, held.qpos[0]]), np.stack([qvel, held.qvel[0]]), HOME)
    )
    assert (acceleration <= ARM.qacc * (1 + 1e-6)).all()
    assert acceleration[1] == pytest.approx(7.5)
    np.testing.assert_allclose(speed, np.abs(qvel), atol=1e-12)  # it never gets faster
    assert (lowest >= ARM.lower).all()
    assert (highest <= ARM.upper).all()


def test_hold_stops_at_a_position_limit_that_is_nearer_than_the_braking_distance():
    made = guard()
    pose = HOME.copy()
    pose[1] = ARM.upper[1] - 0.05
    made.measured = Measured(SEEN, pose, np.array([0, 1.5, 0, 0, 0, 0, 0.0]), NOW)  # 0.15 rad at 7.5 rad/s²
    held = made.hold(7, NOW)
    assert held.time[0] == pytest.approx(0.2)
    assert held.qpos[0, 1] == ARM.upper[1]


@pytest.mark.parametrize("spike", [4.0, 12.0, -1e12, np.nan])
def test_a_speed_that_no_joint_can_have_is_not_believed(spike):
    """Joint 2 can do 2.175 rad/s; a hold that believed 12 rad/s would lead it 2.5 rad away. What goes on saying so is as good as silent."""
    made, wrong = guard(), np.zeros(7)
    made.judge(move(points=1, by=0.0, stamp=SEEN), NOW)
    wrong[1] = spike
    with pytest.raises(Rejected, match=f"too_fast: .*joint2 moves at {re.escape(f'{spike:.4g}')} rad/s"):
        made.measure(SEEN + 1, HOME, wrong, NOW + 0.01)
    np.testing.assert_allclose(made.hold(SEEN, NOW + 0.01).qpos[0], HOME)
    made = guard()
    made.judge(move(points=1, by=0.0, stamp=SEEN), NOW)
    for i in range(1, 10):
        with pytest.raises(Rejected, match="too_fast"):
            made.measure(SEEN + i, HOME, wrong, NOW + 0.01 * i)
    stop = made.watch(NOW + 0.095)
    assert stop.cause.reason == "stale_state"
    np.testing.assert_allclose(stop.command.qpos[0], HOME)


def stream(made, arrivals, speed, period=0.01):
    """What becomes of set-points that joint 1 follows at `speed`, decided each `period` and judged at `arrivals` s; the joints are measured as often."""
    told, refused, measured = [], 0, 0
    for i, arrival in enumerate(arrivals):
        while measured <= arrival / period + 1e-6:
            made.measure(SEEN + round(measured * period * 1e9), (told or [HOME])[-1], np.zeros(7), NOW + measured * period)
            measured += 1
        target = HOME.copy()
        target[0] += (i + 1) * period * speed
        try:
            told.append(made.judge(Command(SEEN + round(i * period * 1e9), np.array([period]), target[None], np.zeros((1, 7))), NOW + arrival).qpos[0])
        except Rejected:
            refused += 1
    return np.array(told), refused


@pytest.mark.parametrize("speed", [0.2, 1.0, 2.1])
def test_set_points_that_come_late_all_at_once_lead_the_robot_no_further_than_three(speed):
    """Nine of 100 Hz after 90 ms: all of them would lie 9 periods ahead of the robot, due in one."""
    made = guard()
    told, _ = stream(made, [0.0] * 1 + [0.09] * 9, speed)
    assert 0 < np.abs(told[:, 0] - HOME[0]).max() <= 4 * 0.01 * speed + 1e-6


def test_set_points_in_time_are_not_cut():
    told, refused = stream(guard(), 0.01 * np.arange(30), 0.1)
    np.testing.assert_allclose(told[:, 0], HOME[0] + 0.001 * np.arange(1, 31))
    assert not refused
    # every other one a period late, and the next with it
    told, refused = stream(guard(), 0.01 * (np.arange(30) // 2 * 2 + 1), 0.1)
    np.testing.assert_allclose(told[:, 0], HOME[0] + 0.001 * np.arange(1, 31))
    assert not refused


def test_a_fast_arm_is_believed():
    guard().measure(SEEN + 1, HOME, 1.4 * ARM.qvel, NOW)


def test_a_driver_that_repeats_itself_goes_stale():
    made = Guard(ARM)
    for i in range(6):
        made.measure(SEEN, HOME + 0.01 * i, np.zeros(7), NOW + 0.02 * i)
    assert np.array_equal(made.fresh(NOW + 0.1).qpos, HOME + 0.05)  # its pose is used as long as it is fresh
    assert reason_of(made, move(), NOW + 0.101) == "stale_state"
    made.measure(SEEN + 1, HOME, np.zeros(7), NOW + 0.6)
    assert made.judge(move(), NOW + 0.69).stamp == 10


def test_an_older_joint_state_does_not_replace_a_newer_one():
    made = Guard(ARM)
    made.measure(SEEN, HOME, np.zeros(7), NOW)
    with pytest.raises(Rejected, match=r"stale_state: measured at 999999999 ns, after one of 1000000000 ns"):
        made.measure(SEEN - 1, HOME + 1.0, np.zeros(7), NOW + 0.04)
    assert made.measured.stamp == SEEN
    assert np.array_equal(made.measured.qpos, HOME)
    assert made.measured.arrival == NOW


def test_nothing_is_held_where_the_pose_is_not_known():
    with pytest.raises(Rejected, match=r"stale_state: the last new joint state arrived 0.600 s ago, allowed are 0.100 s"):
        guard(arrival=NOW - 0.6).hold(7, NOW)


def set_point(by, stamp):
    return Command(stamp, np.array([0.02]), (HOME + by)[None], np.zeros((1, 7)))


def test_set_points_may_lead_a_robot_that_lags_behind():
    """Each 0.1 rad/s faster than the one before, while the robot does not move at all; until it lags more than `reach`."""
    made, lead = guard(), 0.0
    for i in range(1, 16):
        lead += 0.1 * i * 0.02
        stamp = SEEN + i * 20_000_000
        made.measure(stamp, HOME, np.zeros(7), NOW + 0.02 * i)
        target = set_point(lead, stamp)
        assert made.judge(target, NOW + 0.02 * i) is target
    assert lead == pytest.approx(0.24)
    made.measure(stamp + 20_000_000, HOME, np.zeros(7), NOW + 0.32)
    assert reason_of(made, set_point(lead + 0.032, stamp + 20_000_000), NOW + 0.32) == "far_from_pose"


def test_a_set_point_that_was_cut_leads_no_farther_than_its_reach_either():
    """The robot does not follow, and the stream, at 1.5 rad/s, is told to stay where it is: it cannot, and would come to rest beyond what is allowed."""
    made, lead = guard(), 0.0
    for i in range(1, 16):
        lead += 0.1 * i * 0.02
        made.measure(SEEN + i * 20_000_000, HOME, np.zeros(7), NOW + 0.02 * i)
        made.judge(set_point(lead, SEEN + i * 20_000_000), NOW + 0.02 * i)
    made.measure(SEEN + 320_000_000, HOME, np.zeros(7), NOW + 0.32)
    assert lead < made.reach
    assert reason_of(made, set_point(lead, SEEN + 320_000_000), NOW + 0.32) == "far_from_pose"


def sent_for(targets, dt=0.02, feed=None):
    """What the guard sends (N, J) for set-points (N, J), one each `dt` s, to a robot that follows them at once."""
    made, now, sent = guard(), NOW, []
    for i, target in enumerate(targets):
        stamp, now = SEEN + round((i + 1) * dt * 1e9), now + dt
        made.measure(stamp, sent[-1].qpos[0] if sent else HOME, np.zeros(7), now)
        qvel = np.zeros(7) if feed is None else feed[i]
        sent.append(made.judge(Command(stamp, np.array([dt]), target[None], qvel[None]), now))
    return sent


def test_set_points_change_no_faster_than_the_joints_can():
    """There and back at nearly full speed each 20 ms: 2 * 0.99 * 2.175 rad/s in 20 ms are 215 rad/s², of 15."""
    way = 0.99 * ARM.qvel * 0.02 * np.where(np.arange(50) % 2, 0.0, 1.0)[:, None]
    sent = np.array([HOME] * 2 + [c.qpos[0] for c in sent_for(HOME + way)])
    acceleration = np.abs(np.diff(sent, n=2, axis=0)) / 0.02**2
    assert (acceleration <= ARM.qacc * (1 + 1e-6)).all()
    assert (acceleration.max(0) > 0.99 * ARM.qacc).all()  # as near to what was wanted as can be


def test_what_set_points_say_of_velocity_changes_no_faster_either():
    feed = 0.99 * ARM.qvel * np.where(np.arange(50) % 2, -1.0, 1.0)[:, None]
    sent = np.array([np.zeros(7)] + [c.qvel[0] for c in sent_for(np.tile(HOME, (50, 1)), feed=feed)])
    assert (np.abs(np.diff(sent, axis=0)) <= ARM.qacc * 0.02 * (1 + 1e-6)).all()


def test_set_points_come_to_rest_in_front_of_a_position_limit():
    """On and on at 0.9 of full speed to the upper limit of joint 4, which the speed would have to jump to 0 at."""
    made, sent = guard(), [HOME, HOME]
    for i in range(1, 101):
        stamp = SEEN + i * 20_000_000
        made.measure(stamp, sent[-1], np.zeros(7), NOW)
        wanted = np.minimum(sent[-1] + np.array([0, 0, 0, 0.9, 0, 0, 0]) * ARM.qvel * 0.02, ARM.upper)
        sent.append(made.judge(Command(stamp, np.array([0.02]), wanted[None], np.zeros((1, 7))), NOW).qpos[0])
    assert (np.abs(np.diff(sent, n=2, axis=0)) <= ARM.qacc * 0.02**2 * (1 + 1e-6)).all()
    assert np.diff(sent, axis=0)[:, 3].max() == pytest.approx(0.9 * ARM.qvel[3] * 0.02)
    assert ARM.upper[3] - 0.001 < sent[-1][3] <= ARM.upper[3]


def test_set_points_within_the_accelerations_pass_as_they_are():
    time = 0.02 * np.arange(1, 101)[:, None]
    targets = HOME + 0.05 * (1 - np.cos(5 * time)) * np.ones(7)  # 1.25 rad/s²
    made = guard()
    assert made.judge(set_point(0.0005, SEEN), NOW).qpos[0] == pytest.approx(HOME + 0.0005)
    assert all(np.array_equal(c.qpos[0], target) for c, target in zip(sent_for(targets), targets, strict=True))


def test_many_set_points_at_once_change_no_more_than_one():
    """Ten in 2 ms, each 20 ms further: together they move the joints as 2 ms allow."""
    made = guard()
    for i in range(10):
        made.measure(SEEN + i * 200_000, HOME, np.zeros(7), NOW)
        command = made.judge(set_point(0.002 * (i + 1), SEEN + i * 200_000), NOW)
    assert (command.qpos[0] - HOME <= ARM.qacc * (0.02 + 0.0018) * 0.02).all()


@pytest.mark.parametrize(("may_leap", "time"), [(False, 0.06), (True, 0.02)])
def test_after_a_gap_set_points_begin_from_rest(may_leap, time):
    """In the time that it took: what was sent before was reached long ago. A simulation's clock says nothing of that."""
    made, way = guard(), time  # rad, at 1 rad/s
    made.clock_may_leap = may_leap
    for i in range(1, 40):
        made.measure(SEEN + i * 20_000_000, HOME, np.zeros(7), NOW)
        before = made.judge(set_point(0.006 * i, SEEN + i * 20_000_000), NOW)
    made.measure(SEEN + 840_000_000, before.qpos[0], np.zeros(7), NOW)
    after = made.judge(set_point(0.006 * 39 + way, SEEN + 840_000_000), NOW)
    assert after.time[0] == pytest.approx(time)
    np.testing.assert_allclose(after.qpos[0] - before.qpos[0], np.minimum(ARM.qacc * time**2, way))


# ---- who falls silent -------------------------------------------------------------------------------------------------------


def fed(made, until, step=0.01):
    """Joint states and watching at 100 Hz from NOW on; the first stop, and when."""
    now = NOW
    while now < until:
        now += step
        made.measure(made.measured.stamp + 10_000_000, made.measured.qpos, made.measured.qvel, now)
        stop = made.watch(now)
        if stop is not None:
            return stop, now
    return None, now


def test_a_fast_loop_that_falls_silent_is_stopped():
    made = guard(qvel=0.5)
    made.judge(set_point(0.01, SEEN), NOW)
    stop, when = fed(made, NOW + 1)
    assert stop.cause.reason == "stale_command"
    assert 0.1 < when - NOW <= 0.111
    assert stop.waited == pytest.approx(when - NOW)
    np.testing.assert_allclose(stop.command.qpos[0], HOME + 0.5 * 0.5 * HOLD_TIME)  # half its speed times the braking time
    assert stop.command.stamp == SEEN
    assert made.state == State.HOLDING
    assert fed(made, NOW + 2)[0] is None  # once
    made.judge(set_point(0.01, made.measured.stamp), NOW + 2)  # whoever speaks again is heard
    assert made.state == State.TRACKING


def streamed(speed, lost, late=0, seen_late=0):
    """A wave of set-points at 100 Hz, of which each `lost(i)` is and all others come `late` periods late, to an arm that is measured `seen_late` periods late.

    The arm follows with 30 ms. What is sent stays within its speeds, measured from one to the next in the time that it is given; nobody is taken for silent.
    How far, in rad, what was sent last was ever from the wave, where nothing is late; and why something was refused, each once.
    """
    made, told, pose, last, far, refused, on_the_way = guard(), HOME, HOME, 0, 0.0, set(), deque()
    wave, seen = lambda i: HOME + 0.3 * (1 - np.cos(speed / 0.3 * 0.01 * i)), deque([(SEEN, HOME, np.zeros(7))] * (seen_late + 1), maxlen=seen_late + 1)
    for i in range(1, 401):
        now, before = NOW + 0.01 * i, pose
        pose = before + (told - before) * (1 - np.exp(-0.01 / 0.03))
        seen.append((SEEN + i * 10_000_000, pose, (pose - before) / 0.01))
        made.measure(*seen[0], now)
        if not lost(i):
            on_the_way.append((i + late, Command(seen[0][0], np.array([0.01]), wave(i)[None], np.zeros((1, 7)))))
        while on_the_way and on_the_way[0][0] == i:
            given = on_the_way.popleft()[1]
            try:
                passed = made.judge(given, now)
                assert passed.time[0] <= max((i - last) * 0.01, 0.01) + 1e-9
                assert (np.abs(passed.qpos[0] - told) <= ARM.qvel * passed.time[0] + 1e-9).all()
                told, last = passed.qpos[0], i
            except Rejected as rejected:
                refused.add(rejected.reason)
                told = made.hold(given.stamp, now).qpos[0]
            far = max(far, np.abs(told - wave(i - late)).max())
        stop = made.watch(now)
        assert stop is None, stop.cause
    return far, refused


@pytest.mark.parametrize("every", [2, 3], ids=["half is lost", "three periods to decide"])
def test_a_stream_of_which_much_is_missing_is_followed(every):
    """At 1 rad/s: what comes is given the time of what does not, so the joints need not come to rest in front of each gap."""
    far, refused = streamed(1.0, lambda i: i % every)
    assert not refused
    assert far < 0.01


@pytest.mark.parametrize(("late", "seen_late"), [(4, 0), (5, 5), (0, 5)], ids=["commands", "both", "joint states"])
def test_a_stream_that_is_50_ms_late_is_followed(late, seen_late):
    far, refused = streamed(0.6, lambda i: i <= seen_late, late, seen_late)
    assert not refused
    assert far < 0.01


def test_a_stream_of_which_half_is_lost_by_chance_lags_and_goes_on():
    """At 0.6 rad/s: after each gap the joints begin again from rest, and catch up in between. One that is faster falls behind until it is held, by name."""
    lost = np.random.default_rng(0).random(401) < 0.5
    far, refused = streamed(0.6, lambda i: lost[i])
    assert not refused
    assert far < 0.2
    assert streamed(1.5, lambda i: lost[i])[1] >= {"far_from_pose"}


def test_a_loop_that_decides_for_too_long_is_held_and_goes_on_when_it_is_quick_again():
    """What was seen 110 ms ago is no ground to move on any more."""
    made = guard()
    for i in range(1, 60):
        stamp, late = SEEN + i * 20_000_000, 110_000_000 * (20 < i < 40)
        made.measure(stamp, HOME, np.zeros(7), NOW + 0.02 * i)
        if late:
            assert reason_of(made, set_point(0.0, stamp - late + 1), NOW + 0.02 * i) in ("stale_command", "out_of_order")
            made.watch(NOW + 0.02 * i)
        else:
            made.judge(set_point(0.0, stamp), NOW + 0.02 * i)
        assert made.state == (State.HOLDING if 25 < i < 40 else State.TRACKING)


def test_an_arm_that_goes_at_once_where_it_shall_be_held_does_not_run_away():
    """Held again and again, as often as a command is refused: each time half its speed times the braking time further on, it would go faster and faster."""
    made, pose, fastest = guard(qvel=1.0), HOME, []
    for i in range(100):
        told = made.hold(SEEN, NOW + 0.01 * i).qpos[0]
        before, pose = pose, pose + (told - pose) * (1 - np.exp(-0.01 / 0.02))
        made.measure(SEEN + (i + 1) * 10_000_000, pose, (pose - before) / 0.01, NOW + 0.01 * (i + 1))
        fastest.append(np.abs(pose - before).max() / 0.01)
    assert (np.diff(fastest) <= 1e-9).all()
    assert fastest[-1] < 1e-3
    np.testing.assert_allclose(pose, HOME + 0.5 * (1.0 / ARM.qacc.min()), atol=1e-3)  # half of its speed times the time to brake


def test_a_trajectory_that_is_carried_out_needs_nobody_to_speak():
    made = guard()
    made.judge(move(), NOW)  # 2 s
    assert made.state == State.MOVING
    assert followed(made, 5.0) is None
    assert made.state == State.IDLE


def followed(made, seconds, arm=lambda path, t: path(t)):
    """A controller carries out the trajectory of `made`, measured at 100 Hz as `arm` (path, s) says; why it is stopped."""
    motion = made._active
    path = lambda t: sample(motion, HOME, np.array([t]))[0][0]  # noqa: E731
    for i in range(1, round(100 * seconds)):
        try:
            made.measure(SEEN + i * 10_000_000, arm(path, 0.01 * i), np.zeros(7), NOW + 0.01 * i)
        except Rejected as rejected:
            return rejected, 0.01 * i
        assert made.watch(NOW + 0.01 * i) is None
    return None


@pytest.mark.parametrize("frozen_at", [0.0, 0.4])
def test_joint_states_that_stand_still_in_a_trajectory_stop_it_where_it_should_be(frozen_at):
    """The same values under new stamps; the arm itself goes on."""
    made = guard(arrival=NOW)
    motion = move(by=0.24)
    made.judge(motion, NOW)
    found, when = followed(made, 2.0, lambda path, t: path(min(t, frozen_at)))
    assert found.reason == "does_not_follow"
    assert "should have moved 0.1" in str(found)
    assert when < 1.05
    assert made.state is State.STOPPED
    held = made.stop(found.reason, NOW + when)
    (there,), (speed,) = sample(motion, HOME, np.array([when]))
    assert held.qpos[0, 0] == pytest.approx(there[0] + 0.5 * speed[0] * HOLD_TIME, abs=0.01)
    with pytest.raises(Rejected, match="nobody knows"):  # only there: what is measured may be anywhere
        made.hold(1, NOW + when)


@pytest.mark.parametrize(
    "arm",
    [
        lambda path, t: path(max(t - 0.45, 0.0)),  # late
        lambda path, t: HOME + 0.4 * (path(t) - HOME),  # against a door
        lambda path, t: path(t) + 0.02 * np.sin(9 * t),
        lambda path, t: np.where(np.arange(7) == 0, path(t), HOME),  # one joint alone goes on
    ],
    ids=["late", "held up", "shaking", "one joint"],
)
def test_an_arm_that_goes_its_way_badly_is_left_alone(arm):
    made = guard(arrival=NOW)
    made.judge(move(by=0.24), NOW)
    assert followed(made, 3.0, arm) is None


def test_an_arm_that_was_not_seen_for_a_while_may_have_gone_and_come_back():
    """Twice measured at home, 1.6 s apart; the trajectory leads 0.24 rad away in between, and was last half as far away 0.3 s ago."""
    made = guard()
    there, back = HOME + 0.24, HOME
    made.judge(Command(10, np.array([1.0, 1.6]), np.stack([there, back]), np.zeros((2, 7))), NOW)
    made.measure(SEEN + 1_600_000_000, HOME, np.zeros(7), NOW + 0.01)
    assert made.state is State.MOVING


def test_after_a_trajectory_the_joints_may_stand_still():
    made = guard(arrival=NOW)
    made.judge(move(by=0.05), NOW)  # too little to tell
    assert followed(made, 3.0, lambda path, t: HOME) is None


def test_without_joint_states_a_set_point_is_held():
    """Where the robot is nobody knows; the controller is on its way to the last set-point at 0.15 rad/s, and comes to rest from there."""
    made = guard()
    made.judge(set_point(0.003, SEEN), NOW)
    assert made.watch(NOW + 0.08) is None
    stop = made.watch(NOW + 0.095)  # the last joint state came 0.01 s before
    assert stop.cause.reason == "stale_state"
    assert stop.waited == pytest.approx(0.105)
    np.testing.assert_allclose(stop.command.qpos[0], HOME + 0.003 + 0.5 * 0.15 * HOLD_TIME)
    assert made.watch(NOW + 0.2) is None


def test_without_joint_states_a_trajectory_is_braked_from_where_it_should_be():
    """Half way of the first second: 3s² - 2s³ = 0.5 of 0.1 rad, at 1.5 * 0.1 rad/s."""
    made = Guard(ARM, state_timeout=0.5, measured=Measured(SEEN, HOME, np.zeros(7), NOW))
    made.judge(move(), NOW)
    made.state_timeout = 0.49
    stop = made.watch(NOW + 0.5)
    assert stop.cause.reason == "stale_state"
    np.testing.assert_allclose(stop.command.qpos[0], HOME + 0.05 + 0.5 * 0.15 * HOLD_TIME)


def test_a_held_pose_is_not_measured_again():
    """A load pulls the arm down a little; holding what is measured, again and again, would let it sink to the floor."""
    made = guard()
    held = made.hold(1, NOW)
    made.measure(SEEN + 1, HOME - 0.01, np.zeros(7), NOW + 0.01)
    again = made.hold(2, NOW + 0.01)
    assert np.array_equal(again.qpos, held.qpos)
    assert again.stamp == 2


def within_limits(command, qpos, qvel=0.0):
    """Whether the robot can come to the command's end from where it is: by the cubic between the two."""
    time, qvel = command.time[0], np.zeros(7) + qvel
    *_, speed, acceleration = (
        x[1] for x in extremes(np.array([1.0, 1.0 + time]), np.stack([qpos, command.qpos[0]]), np.stack([qvel, command.qvel[0]]), np.array(qpos))
    )
    return (speed <= np.maximum(ARM.qvel, np.abs(qvel)) * (1 + 1e-6)).all() and (acceleration <= ARM.qacc * (1 + 1e-6)).all()


@pytest.mark.parametrize("state", [State.HOLDING, State.STOPPED])
def test_an_arm_that_was_moved_by_hand_is_not_torn_back(state):
    """0.8 rad at 0.1 rad/s, while it is held or stopped: the next refused command must not send it back, in 0.1 s, to where it was."""
    made = guard()
    made.stop("estop", NOW) if state is State.STOPPED else made.hold(1, NOW)
    now, qpos = NOW, HOME.copy()
    for i in range(1, 801):
        now += 0.01
        qpos = HOME + np.array([0.001 * i, 0, 0, 0, 0, 0, 0])
        made.measure(SEEN + 10_000_000 * i, qpos, np.array([0.1, 0, 0, 0, 0, 0, 0]), now)
    now += 1.0
    made.measure(SEEN + 9_000_000_000, qpos, np.zeros(7), now)
    assert made.state is state
    held = made.hold(2, now)
    assert np.abs(held.qpos[0] - qpos).max() <= HELD_BAND
    assert within_limits(held, qpos)
    made.measure(SEEN + 9_010_000_000, qpos - 0.9 * HELD_BAND, np.zeros(7), now + 0.01)  # a load: the pose stays, the way back is gentle
    again = made.hold(3, now + 0.01)
    assert np.array_equal(again.qpos, held.qpos)
    assert within_limits(again, qpos - 0.9 * HELD_BAND)
    assert not within_limits(again._replace(time=np.array([HOLD_TIME])), qpos - 0.9 * HELD_BAND)


def test_an_arm_beyond_its_limits_is_led_back_gently():
    pose = HOME.copy()
    pose[3] = ARM.upper[3] + 0.5
    held = guard(qpos=pose).hold(7, NOW)
    assert held.qpos[0, 3] == ARM.upper[3]
    assert within_limits(held, pose)


def test_a_held_pose_of_which_nothing_is_known_any_more_is_not_sent_again():
    made = guard()
    made.hold(1, NOW)
    with pytest.raises(Rejected, match="stale_state"):
        made.hold(2, NOW + 0.2)


# ---- emergency stop, resets -------------------------------------------------------------------------------------------------


def test_nothing_passes_after_an_emergency_stop_until_it_is_reset():
    made = guard()
    made.judge(set_point(0.01, SEEN), NOW)
    command = made.stop("estop", NOW + 0.01)
    np.testing.assert_allclose(command.qpos[0], HOME)
    assert fed(made, NOW + 1)[0] is None
    now = NOW + 1.0
    for _ in range(3):  # however long one waits
        with pytest.raises(Rejected, match=r"stopped: the robot was stopped \(estop\) and must be reset by hand"):
            made.judge(set_point(0.01, made.measured.stamp), now)
        assert np.array_equal(made.hold(1, now).qpos, command.qpos)
    made.stop("two_publishers", now)
    assert made.stop_cause == "estop"  # the first one counts
    planned_before = set_point(0.01, made.measured.stamp)
    made.reset()
    assert reason_of(made, planned_before, now) == "stale_state"  # nothing is measured yet
    made.measure(planned_before.stamp + 5, HOME, np.zeros(7), now)
    assert reason_of(made, planned_before, now) == "before_reset"
    made.judge(set_point(0.01, planned_before.stamp + 5), now)


def test_a_reset_accepts_a_clock_that_was_set_back():
    made = guard()
    made.judge(set_point(0.01, SEEN), NOW)
    made.stop("estop", NOW)
    made.reset()
    made.measure(100, HOME, np.zeros(7), NOW)
    assert made.judge(set_point(0.01, 100), NOW).stamp == 100


def test_only_a_stopped_robot_can_be_reset():
    """In the middle of a motion, whoever forgot it could not brake it any more."""
    made = guard(arrival=NOW)
    made.judge(move(), NOW)
    with pytest.raises(Rejected, match=r"not_stopped: there is nothing to reset, the robot is moving"):
        made.reset()
    made.measure(SEEN + 10_000_000, HOME + 0.003, np.full(7, 0.1), NOW + 0.1)
    assert made.watch(NOW + 0.3).cause.reason == "stale_state"
    with pytest.raises(Rejected, match="the robot is holding"):
        made.reset()
    made.stop("estop", NOW + 0.3)
    made.reset()
    assert made.state is State.IDLE


def test_a_pose_that_jumps_is_a_broken_encoder():
    """1 rad in 10 ms. Where the robot is, nobody knows: it comes to rest from where it is being moved to, and nothing else is sent."""
    made = guard()
    made.judge(set_point(0.003, SEEN), NOW)
    with pytest.raises(Rejected, match=r"jump: panda_joint1 is 1.000 rad from where it was"):
        made.measure(SEEN + 10_000_000, HOME + 1.0, np.zeros(7), NOW + 0.01)
    assert made.state == State.STOPPED
    assert made.watch(NOW + 0.02) is None
    np.testing.assert_allclose(made.hold(1, NOW + 0.02).qpos[0], HOME + 0.003 + 0.5 * 0.15 * HOLD_TIME)
    with pytest.raises(Rejected, match=r"is not believed, where the robot is, nobody knows \(jump: "):
        made.hold(1, NOW + 0.02)
    assert made.stop("estop", NOW + 0.03) is None
    made.reset()
    made.measure(SEEN + 20_000_000, HOME, np.zeros(7), NOW + 0.04)
    assert np.array_equal(made.hold(1, NOW + 0.04).qpos[0], HOME)


def test_a_jump_in_the_middle_of_a_trajectory_brakes_it_from_where_it_should_be():
    """Half way of the first second: 3s² - 2s³ = 0.5 of 0.1 rad, at 1.5 * 0.1 rad/s; measured 0.5 rad off."""
    made = guard(arrival=NOW)
    made.judge(move(), NOW)
    with pytest.raises(Rejected, match="jump"):
        made.measure(SEEN + 10_000_000, HOME + 0.5, np.zeros(7), NOW + 0.5)
    assert made.state == State.STOPPED
    command = made.stop("jump", NOW + 0.5)
    np.testing.assert_allclose(command.qpos[0], HOME + 0.05 + 0.5 * 0.15 * HOLD_TIME)
    assert made.stop_cause.startswith("jump: panda_joint1 is 0.500 rad")
    assert made.state == State.STOPPED


def test_a_simulation_may_be_reset_and_earlier_commands_are_refused():
    made = guard()
    made.may_jump = True
    made.judge(move(stamp=10), NOW)
    with pytest.raises(Rejected, match="jump"):
        made.measure(SEEN + 10_000_000, HOME + 1.0, np.zeros(7), NOW + 0.01)
    assert made.state == State.IDLE
    assert reason_of(made, move(stamp=SEEN, begin=HOME + 1.0), NOW + 0.01) == "before_reset"
    assert made.judge(move(stamp=SEEN + 10_000_000, by=0.05, begin=HOME + 1.0), NOW + 0.01)


def test_the_robot_may_move_as_fast_as_it_can_between_two_joint_states():
    made = guard()
    for i in range(1, 10):
        made.measure(SEEN + i * 40_000_000, HOME + i * 0.04 * ARM.qvel, ARM.qvel, NOW)
    assert made.state == State.IDLE


def test_a_joint_that_pushes_too_hard_for_too_long_is_stopped():
    made = guard()
    made.judge(move(), NOW)
    hard = np.array([0, 90.0, 0, 0, 0, 0, 0])  # N·m, of 87
    for i in range(1, 12):
        made.measure(SEEN + i, HOME, np.zeros(7), NOW + 0.01 * i, hard)
        assert made.watch(NOW + 0.01 * i) is None, i
    made.measure(SEEN + 12, HOME, np.zeros(7), NOW + 0.12, hard)
    stop = made.watch(NOW + 0.12)
    assert stop.cause.reason == "effort"
    assert reason_of(made, move(stamp=11), NOW + 0.12) == "effort"  # or a fast loop would go on between two stops
    made.measure(SEEN + 13, HOME, np.zeros(7), NOW + 0.13, 0.5 * hard)
    made.judge(move(stamp=11), NOW + 0.13)
    assert made.watch(NOW + 0.13) is None


# ---- who speaks -------------------------------------------------------------------------------------------------------------


def numbers(*heard):
    """Which of the messages (number, s) are refused."""
    speakers, refused = Speakers(), []
    for number, now in heard:
        try:
            speakers.hear(number, now)
        except Rejected as rejected:
            assert rejected.reason == "two_publishers"
            refused.append(number)
    return refused


def test_one_publisher_speaks_and_a_second_one_is_heard_out():
    assert numbers(*((7 + i, 0.02 * i) for i in range(20))) == []
    assert numbers((7, 0.0), (9, 0.02), (12, 0.04)) == []  # messages were lost
    assert numbers((7, 0.0), (1, 0.1)) == [1]
    assert numbers((7, 0.0), (30, 0.1)) == []  # more were lost, or a second one begins; then the first one's next number falls
    assert numbers((7, 0.0), (30, 0.1), (8, 0.12)) == [8]
    assert numbers((5, 0.0), *((26 + i, 0.25) for i in range(10))) == []  # one at 100 Hz, while this process was held up: the last ten are kept
    assert numbers((7, 0.0), (1, 0.6), (2, 0.7)) == []  # the one before was silent: it was started anew


@pytest.mark.parametrize(("first", "second"), [(100, 1), (1, 100), (1, 1)], ids=["the older one begins", "the younger one begins", "in step"])
def test_two_who_speak_in_turns_seconds_apart_are_noticed(first, second):
    """As the same launch that was started twice does, on a task of motions that take seconds; even where messages are lost."""
    turns = [(begin + k, 2.0 * k + late) for k in range(10) for begin, late in ((first, 0.0), (second, 1.0))]
    assert numbers(*turns[:6])
    assert numbers(*turns[:2], *turns[4:10])


def test_one_that_was_started_anew_may_count_further_than_the_one_before():
    assert numbers((7, 0.0), *((i, 1.5 * i) for i in range(1, 30))) == []
    assert numbers((7, 0.0), (1, 1.5), (5, 3.0), (6, 4.5), (12, 6.0)) == []
    assert numbers((7, 0.0), (8, 1.5), (1, 3.0), (2, 4.5), (1, 6.0), (2, 7.5), (3, 9.0)) == []  # twice


@pytest.mark.parametrize("unknown", [None, 0, 2**64 - 1])
def test_where_messages_are_not_numbered_numbers_tell_nothing(unknown):
    assert numbers(*((unknown, 0.01 * i) for i in range(5))) == []


def test_nodes_of_different_names_may_not_both_publish():
    Speakers.check(["/adapter", "/adapter"], "command")
    with pytest.raises(Rejected, match="two_publishers: /adapter and /left/adapter publish"):
        Speakers.check(["/left/adapter", "/adapter"], "command")


# ---- what is in the hand --------------------------------------------------------------------------------------------------------


def grasp(*efforts):
    command = move(points=len(efforts))
    return command._replace(gripper=np.array(efforts)[:, None] * np.ones(2))


@pytest.mark.parametrize(
    ("command", "reason"),
    [(grasp(3.0, -71.0), "gripper_effort"), (grasp(3.0, np.nan), "not_finite"), (move()._replace(gripper=np.zeros((2, 3))), "wrong_shape")],
)
def test_efforts_of_the_gripper_are_judged(command, reason):
    assert reason_of(guard(), command) == reason


@pytest.mark.parametrize(("passed", "expected"), [(0.5, 3.0), (1.5, -20.0), (2.5, 5.0), (9.0, 5.0)])
def test_a_stop_goes_on_holding_what_is_in_the_hand(passed, expected):
    """Also a long time afterwards, when the motion that was stopped would have opened the hand."""
    made = guard()
    made.judge(grasp(3.0, -20.0, 5.0), NOW)
    for stamp, now in ((1, NOW + passed), (2, NOW + 60.0)):
        made.measure(SEEN + stamp, HOME, np.zeros(7), now)
        assert made.hold(stamp, now).gripper.tolist() == [[expected, expected]]


def test_of_a_gripper_that_nobody_commands_nothing_is_said():
    made = guard()
    made.judge(move(), NOW)
    assert made.hold(1, NOW).gripper is None


def test_a_motion_begins_where_the_last_one_ended_though_a_load_has_drawn_the_arm_down():
    """5 mrad at once would be 300 rad/s²; a robot that was moved by hand begins where it is."""
    begin = HOME + 0.1
    time = 0.01 * np.arange(1, 201)[:, None]
    qpos = begin + 0.05 * (1 - np.cos(np.pi * np.minimum(time, 1.0))) * np.ones(7)
    onwards = Command(SEEN + 10, time[:, 0], qpos, np.gradient(qpos, 0.01, axis=0))
    onwards.qvel[-1] = 0.0
    for away, fine in ((0.005, True), (0.03, False)):
        made = guard()
        made.judge(move(), NOW)
        made.measure(SEEN + 10, begin - away, np.zeros(7), NOW + 2.0)
        if fine:
            assert made.judge(onwards, NOW + 2.0) is onwards
        else:
            assert reason_of(made, onwards, NOW + 2.0) == "velocity"
