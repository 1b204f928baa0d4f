"""No trajectory that is accepted breaks a limit, at its points or between them."""

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from metarl import robots
from metarl.ros_nodes.limits import SLACK, Command, Limits, check_form, check_set_point, check_trajectory, extremes, gentle_time, slowed
from metarl.ros_nodes.rejection import Rejected

ONE = Limits(("elbow",), np.array([-1.0]), np.array([1.0]), np.array([2.0]), np.array([10.0]))
ARM = Limits.of(robots.load("arm7"))
HOME = np.array(robots.load("arm7").home_qpos)


def command(time, qpos, qvel, stamp=1):
    return Command(stamp, np.array(time, dtype=float), np.array(qpos, dtype=float).reshape(len(time), -1), np.array(qvel, dtype=float).reshape(len(time), -1))


def reason_of(call, *arguments):
    """The reason for which something is refused, or None."""
    try:
        call(*arguments)
    except Rejected as rejected:
        return rejected.reason
    return None


# ---- by hand ----------------------------------------------------------------------------------------------------------------


def test_extremes_of_a_move_from_rest_to_rest():
    """Cubic 3s² - 2s³ over 0.3 rad in 1.5 s: peak speed 1.5 * 0.3 / 1.5 in the middle, peak acceleration 6 * 0.3 / 1.5² at the ends."""
    lowest, highest, speed, acceleration = extremes(np.array([1.5]), np.array([[0.5]]), np.array([[0.0]]), np.array([0.2]))
    assert lowest == pytest.approx(0.2)
    assert highest == pytest.approx(0.5)
    assert speed == pytest.approx(0.3)
    assert acceleration == pytest.approx(0.8)


def test_extremes_between_two_equal_points():
    """From rest in 0 to a velocity of 1 rad/s in 0, in 1 s: s³ - s², lowest -4/27 at 2/3; fastest at the end; acceleration 6s - 2."""
    lowest, highest, speed, acceleration = extremes(np.array([1.0]), np.array([[0.0]]), np.array([[1.0]]), np.array([0.0]))
    assert lowest == pytest.approx(-4 / 27)
    assert highest == pytest.approx(0.0)
    assert speed == pytest.approx(1.0)
    assert acceleration == pytest.approx(4.0)


def test_extremes_where_the_cubic_is_a_parabola():
    """Up with 1 rad/s, down with 1 rad/s: between the two, 0.25 * 1 s * 1 rad/s above them, at constant acceleration -2."""
    time, qpos, qvel = np.array([10.0, 11.0]), np.array([[0.3], [0.3]]), np.array([[1.0], [-1.0]])
    lowest, highest, speed, acceleration = (x[1] for x in extremes(time, qpos, qvel, np.array([0.0])))
    assert lowest == pytest.approx(0.3)
    assert highest == pytest.approx(0.55)
    assert speed == pytest.approx(1.0)
    assert acceleration == pytest.approx(2.0)


@pytest.mark.parametrize(
    ("time", "qpos", "qvel", "reason"),
    [
        ([1.0, 2.0], [0.2, 0.4], [0.2, 0.0], None),
        ([1.0, 2.0], [0.9, 0.9], [0.8, 0.0], "position"),  # between its points only: 0.9 + 0.8 (s - 2s² + s³), highest 0.9 + 0.8 * 4/27
        ([1.0, 2.0], [0.5, 1.2], [0.0, 0.0], "position"),
        ([0.5, 2.0], [0.9, 0.9], [0.0, 0.0], "velocity"),  # 1.5 * 0.9 / 0.5 = 2.7
        ([0.2, 2.0], [0.1, 0.1], [0.0, 0.0], "acceleration"),  # 6 * 0.1 / 0.2² = 15
        ([1.0, 2.0], [0.2, 0.4], [0.2, 0.3], "velocity"),  # not at rest at the end, where the pose is held
        ([1.0, 1.0], [0.2, 0.4], [0.2, 0.0], "bad_time"),
        ([0.0, 1.0], [0.2, 0.4], [0.2, 0.0], "bad_time"),
        ([1.0, 2.0], [0.2, np.nan], [0.2, 0.0], "not_finite"),
        ([1.0, 2.0], [0.2, 0.4], [np.inf, 0.0], "not_finite"),
        ([1.0, np.nan], [0.2, 0.4], [0.2, 0.0], "not_finite"),
        ([1.0, 2.0], [1e300, 0.4], [0.2, 0.0], "position"),
        ([1e-200, 2.0], [0.2, 0.4], [0.2, 0.0], "velocity"),
    ],
)
def test_trajectories(time, qpos, qvel, reason):
    assert reason_of(check_trajectory, ONE, command(time, qpos, qvel), np.array([0.0])) == reason


def test_the_message_names_joint_value_and_limit():
    with pytest.raises(Rejected, match=r"velocity: elbow would reach 2.7 rad/s by 0.500 s, the limit is 2 rad/s"):
        check_trajectory(ONE, command([0.5, 2.0], [0.9, 0.9], [0.0, 0.0]), np.array([0.0]))


@pytest.mark.parametrize(("points", "positions", "velocities"), [(2, (2, 2), (2, 1)), (2, (1, 1), (1, 1)), (2, (2, 1), (1, 1)), (0, (0, 1), (0, 1))])
def test_wrong_shapes(points, positions, velocities):
    assert reason_of(check_form, ONE, Command(1, np.arange(1.0, points + 1), np.zeros(positions), np.zeros(velocities))) == "wrong_shape"


@pytest.mark.parametrize(
    ("target", "velocity", "measured", "previous", "reason"),
    [
        (0.03, 0.0, 0.0, None, None),  # 0.03 rad in 0.02 s: 1.5 rad/s
        (0.05, 0.0, 0.0, None, "velocity"),  # 2.5 rad/s
        (0.05, 0.0, 0.0, 0.02, None),  # the robot lags behind the set-points: 1.5 rad/s from the last one
        (0.05, 0.0, 0.04, -0.5, None),  # after a jump back, the robot counts
        (0.03, 2.5, 0.0, None, "velocity"),
        (1.01, 0.0, 1.0, None, "position"),
        (float("nan"), 0.0, 0.0, None, "not_finite"),
    ],
)
def test_set_points(target, velocity, measured, previous, reason):
    before = None if previous is None else command([0.02], [previous], [0.0], stamp=0)
    found = reason_of(check_set_point, ONE, command([0.02], [target], [velocity], stamp=20_000_000), np.array([measured]), before)
    assert found == reason


def test_set_points_that_come_too_fast():
    """0.03 rad from the last one, which came 10 ms ago: 3 rad/s, whatever time the command claims to take."""
    before = command([0.02], [0.02], [0.0], stamp=10_000_000)
    assert reason_of(check_set_point, ONE, command([0.02], [0.05], [0.0], stamp=20_000_000), np.array([0.0]), before) == "velocity"


# ---- by search --------------------------------------------------------------------------------------------------------------


def sampled(time, qpos, qvel, start, samples=400):
    """Position, velocity and acceleration of the Hermite curves at many moments, from their definition by basis functions."""
    knots, slopes = np.vstack([start, qpos]), np.vstack([0 * start, qvel])
    s = np.linspace(0, 1, samples)[:, None, None]
    dt = np.diff(time, prepend=0.0)[None, :, None]
    p0, p1, m0, m1 = knots[None, :-1], knots[None, 1:], slopes[None, :-1] * dt, slopes[None, 1:] * dt
    position = (1 + 2 * s) * (1 - s) ** 2 * p0 + s * (1 - s) ** 2 * m0 + s**2 * (3 - 2 * s) * p1 + s**2 * (s - 1) * m1
    velocity = (6 * s * (s - 1) * (p0 - p1) + (3 * s - 1) * (s - 1) * m0 + s * (3 * s - 2) * m1) / dt
    acceleration = ((12 * s - 6) * (p0 - p1) + (6 * s - 4) * m0 + (6 * s - 2) * m1) / dt**2
    return position, velocity, acceleration


finite = st.floats(-3.5, 3.5)


@st.composite
def trajectories(draw, wild=True):
    """Commands of up to six points: anything, or a smooth motion that is often within the limits."""
    points = draw(st.integers(1, 6))
    start = HOME + draw(hnp.arrays(float, 7, elements=st.floats(-0.3, 0.3)))
    if wild and draw(st.booleans()):
        time = np.cumsum(draw(hnp.arrays(float, points, elements=st.floats(0.005, 2.0))))
        return start, Command(1, time, draw(hnp.arrays(float, (points, 7), elements=finite)), draw(hnp.arrays(float, (points, 7), elements=finite)))
    step = draw(st.floats(0.05, 1.0))
    reach = draw(hnp.arrays(float, 7, elements=st.floats(-1.0, 1.0))) * draw(st.floats(0.01, 1.5))
    s = np.arange(1, points + 1)[:, None] / points
    wobble = draw(hnp.arrays(float, (points, 7), elements=st.floats(-0.01, 0.01)))
    qpos = start + reach * (3 * s**2 - 2 * s**3) + wobble
    qvel = reach * 6 * s * (1 - s) / (points * step)
    return start, Command(1, step * np.arange(1, points + 1), qpos, qvel)


@settings(max_examples=300, deadline=None)
@given(trajectories())
def test_extremes_bound_every_moment_and_are_reached(case):
    start, found = case
    lowest, highest, speed, acceleration = extremes(found.time, found.qpos, found.qvel, start)
    position, velocity, second = sampled(found.time, found.qpos, found.qvel, start)
    scale = 1e-9 * (1 + np.abs(second).max(0))
    assert (position >= lowest - scale).all()
    assert (position <= highest + scale).all()
    assert (np.abs(velocity) <= speed + scale).all()
    assert (np.abs(second) <= acceleration + scale).all()
    coarse = 1e-4 * (1 + acceleration * np.diff(found.time, prepend=0.0)[:, None] ** 2)  # 400 samples come this near to the extremes
    assert (position.min(0) <= lowest + coarse).all()
    assert (position.max(0) >= highest - coarse).all()


@settings(max_examples=400, deadline=None)
@given(trajectories())
def test_no_accepted_trajectory_breaks_a_limit(case):
    start, found = case
    accepted = reason_of(check_trajectory, ARM, found, start) is None
    position, velocity, acceleration = sampled(found.time, found.qpos, found.qvel, start)
    inside = (
        (position >= ARM.lower - 2 * SLACK).all() and (position <= ARM.upper + 2 * SLACK).all()
        and (np.abs(velocity) <= ARM.qvel * (1 + 2 * SLACK)).all() and (np.abs(acceleration) <= ARM.qacc * (1 + 2 * SLACK)).all()
    )  # fmt: skip
    assert inside or not accepted


@settings(max_examples=100, deadline=None)
@given(trajectories(wild=False))
def test_what_stays_well_inside_is_accepted(case):
    """Otherwise refusing everything would pass the test above."""
    start, found = case
    position, velocity, acceleration = sampled(found.time, found.qpos, found.qvel, start)
    assume((position > ARM.lower + 0.01).all() and (position < ARM.upper - 0.01).all())
    assume((np.abs(velocity) < 0.9 * ARM.qvel).all() and (np.abs(acceleration) < 0.9 * ARM.qacc).all())
    assert reason_of(check_trajectory, ARM, found, start) is None


def test_a_joint_without_room_does_not_make_the_others_brake_harder():
    """Joint 1 comes to its limit whatever one does; the others need 0.4 s for their way, not the 0.1 s that would be least."""
    qpos, qvel = HOME.copy(), np.zeros(7)
    qpos[0], qvel[0] = ARM.upper[0] - 1e-4, 1.0
    target = HOME + np.array([0, 0.1, 0, 0, 0, 0, 0])
    target[0] = ARM.upper[0]
    time = gentle_time(ARM, qpos, qvel, target, 0.1)
    assert time == pytest.approx((6 * 0.1 / 7.5) ** 0.5, rel=0.1)
    assert time >= (6 * 0.1 / 7.5) ** 0.5


# ---- motions that are too fast --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("duration", "longer"), [(0.2, True), (2.0, False)])
def test_a_motion_takes_as_long_as_the_joints_need(duration, longer):
    """0.3 rad with least jerk: 5.77 d / T² at the most, which joint 2 may do at 7.5 rad/s², in 0.48 s."""
    s = np.linspace(0.0, 1.0, 51)[1:]
    qpos = HOME + 0.3 * (s**3 * (10 - 15 * s + 6 * s**2))[:, None] * np.ones(7)
    qvel = 0.3 * (30 * s**2 * (1 - s) ** 2 / duration)[:, None] * np.ones(7)
    command = Command(1, duration * s, qpos, qvel)
    found = slowed(ARM, command, 0.004)
    assert (found is not command) is longer
    if longer:
        assert found.time[-1] == pytest.approx((5.77 * 0.3 / 7.5) ** 0.5, abs=50 * 0.004)
        np.testing.assert_allclose(found.time / 0.004, np.round(found.time / 0.004))
        np.testing.assert_array_equal(found.qpos, qpos)
    assert reason_of(check_trajectory, ARM, found, HOME) is None
