"""What the safety node lets through, and what it does instead."""

import numpy as np
import pytest

from metarl import robots
from metarl.ros_nodes.guard import HOLD_TIME, Guard, Measured
from metarl.ros_nodes.limits import Command, Limits, extremes
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
        (guard(arrival=NOW - 0.6), move(), "stale_state"),
        (Guard(ARM), move(), "stale_state"),
        (guard(), move(stamp=SEEN + 1), "stale_state"),  # planned on what was seen after the robot was measured
        (guard(qvel=0.1), move(), "moving"),
        (guard(qpos=HOME + 0.5), move(), "far_from_pose"),
        (guard(qpos=np.full(7, np.nan)), move(), "far_from_pose"),
        (guard(), move(by=0.3), "far_from_pose"),
        (guard(), move(by=np.nan), "not_finite"),
        (guard(), move(points=1, by=0.05)._replace(time=np.array([0.02])), "velocity"),
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
    assert reason_of(made, move(stamp=10)) == "not_newer"
    assert reason_of(made, move(stamp=9)) == "not_newer"
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


def test_a_driver_that_repeats_itself_goes_stale():
    made = Guard(ARM)
    for i in range(6):
        made.measure(SEEN, HOME + 0.01 * i, np.zeros(7), NOW + 0.1 * i)
    assert np.array_equal(made.fresh(NOW + 0.5).qpos, HOME + 0.05)  # its pose is used as long as it is fresh
    assert reason_of(made, move(), NOW + 0.51) == "stale_state"
    made.measure(SEEN + 1, HOME, np.zeros(7), NOW + 0.6)
    assert made.judge(move(), NOW + 0.7).stamp == 10


def test_an_older_joint_state_does_not_replace_a_newer_one():
    made = Guard(ARM)
    made.measure(SEEN, HOME, np.zeros(7), NOW)
    with pytest.raises(Rejected, match=r"stale_state: measured at 999999999 ns, after one of 1000000000 ns"):
        made.measure(SEEN - 1, HOME + 1.0, np.zeros(7), NOW + 0.4)
    assert made.measured.stamp == SEEN
    assert np.array_equal(made.measured.qpos, HOME)
    assert made.measured.arrival == NOW


def test_nothing_is_held_where_the_pose_is_not_known():
    with pytest.raises(Rejected, match=r"stale_state: the last new joint state arrived 0.600 s ago, allowed are 0.500 s"):
        guard(arrival=NOW - 0.6).hold(7, NOW)


def test_set_points_may_lead_a_robot_that_lags_behind():
    """Each 0.03 rad further, 1.5 rad/s, while the robot has hardly moved; until it lags more than `reach`."""
    made = guard()
    for i in range(1, 9):
        target = move(points=1, by=0.03 * i, stamp=i * 20_000_000)._replace(time=np.array([0.02]))
        assert made.judge(target, NOW) is target
    assert reason_of(made, move(points=1, by=0.27, stamp=9 * 20_000_000)._replace(time=np.array([0.02]))) == "far_from_pose"
