"""A million commands, most of them wrong, to arms at rest, and a million set-points in motion, many arms at once: what is let through stays inside.

One arm after the other through the whole guard: test_fuzz_sequences.py.
"""

import numpy as np
import pytest

from metarl import robots
from metarl.ros_nodes.base_guard import Measured, State
from metarl.ros_nodes.guard import Guard
from metarl.ros_nodes.limits import GAP, SLACK, Command, Limits, Pace, reachable, sample, set_point_breaks, trajectory_breaks
from metarl.ros_nodes.rejection import Rejected

SPEC = robots.load_arm("arm7")
ARM = Limits.of(SPEC)
HOME = np.array(SPEC.home_qpos)
BATCH, BATCHES = 25_000, 40
GUARDED = 3  # of each batch, so many times a hundred go through the whole guard
ARMS, STEPS = 500, 2000
DT = 0.01  # s between two set-points
BAD = np.array([np.nan, np.inf, -np.inf, 1e308, -1e308, 1e-308, 1e9])


def commands(rng, points):
    """Times (N, S), poses and velocities (N, S, J), and the poses (N, J) that they begin in: anything from sound to absurd."""
    start = HOME + rng.uniform(-0.3, 0.3, (BATCH, 7))
    step = np.exp(rng.uniform(np.log(0.01), np.log(2.0), (BATCH, points)))
    reach = rng.uniform(-1.0, 1.0, (BATCH, 1, 7)) * np.exp(rng.uniform(np.log(1e-3), np.log(3.0), (BATCH, 1, 1)))
    s = (np.arange(1, points + 1) / points)[:, None]
    time = np.cumsum(step, 1)
    qpos = start[:, None] + reach * (3 * s**2 - 2 * s**3)
    qvel = reach * 6 * s * (1 - s) / time[:, -1:, None] * rng.choice([0.0, 0.5, 1.0, 20.0], (BATCH, 1, 1), p=[0.4, 0.3, 0.29, 0.01])
    broken = rng.random(BATCH) < 0.1
    for values in (time, qpos, qvel):
        hit = broken & (rng.random(BATCH) < 0.5)
        flat = values.reshape(BATCH, -1)
        flat[hit, rng.integers(0, flat.shape[1], BATCH)[hit]] = rng.choice(BAD, hit.sum())
    return time, qpos, qvel, start


def well_formed(time, qpos, qvel):
    """(N,) as `check_form` wants it."""
    with np.errstate(invalid="ignore"):
        grows = (np.diff(time, prepend=0.0) > 0).all(-1)
    return grows & np.isfinite(time).all(-1) & np.isfinite(qpos).all((-2, -1)) & np.isfinite(qvel).all((-2, -1))


def hermite(time, qpos, qvel, start, samples=9):
    """Position, velocity and acceleration (N, S * samples, J) of cubics through the points, from their definition by basis functions."""
    dt = np.diff(time, prepend=0.0)[..., None, None]
    knots, slopes = np.concatenate([start[:, None], qpos], 1)[:, :, None], np.concatenate([0 * start[:, None], qvel], 1)[:, :, None]
    p0, p1, m0, m1 = knots[:, :-1], knots[:, 1:], slopes[:, :-1] * dt, slopes[:, 1:] * dt
    s = np.linspace(0, 1, samples)[:, None]
    position = (1 + 2 * s) * (1 - s) ** 2 * p0 + s * (1 - s) ** 2 * m0 + s**2 * (3 - 2 * s) * p1 + s**2 * (s - 1) * m1
    velocity = (6 * s * (s - 1) * (p0 - p1) + (3 * s - 1) * (s - 1) * m0 + s * (3 * s - 2) * m1) / dt
    acceleration = ((12 * s - 6) * (p0 - p1) + (6 * s - 4) * m0 + (6 * s - 2) * m1) / dt**2
    return position, velocity, acceleration


def inside(position, velocity, acceleration=None):
    """(N,) whether limits hold at every moment."""
    axes = tuple(range(1, position.ndim))
    good = ((position >= ARM.lower - 2 * SLACK) & (position <= ARM.upper + 2 * SLACK)).all(axes)
    good &= (np.abs(velocity) <= ARM.qvel * (1 + 3 * SLACK)).all(axes)
    return good if acceleration is None else good & (np.abs(acceleration) <= ARM.qacc * (1 + 3 * SLACK)).all(axes)


def guard_says(time, qpos, qvel, start):
    """Whether the guard, with its robot at rest at the command's beginning, lets it through: a trajectory unchanged, a set-point as far as the joints get."""
    made = Guard(ARM, reach=10.0, measured=Measured(1000, start, np.zeros(7), 0.0))
    command = Command(1000, time, qpos, qvel)
    try:
        passed = made.judge(command, 0.0)
        if len(time) == 1:
            speed = (passed.qpos[0] - start) / time
            assert inside(passed.qpos, speed[None], speed[None] / time[0]).all()
            assert inside(passed.qpos, passed.qvel, passed.qvel / time[0]).all()
        else:
            assert passed is command
    except Rejected:
        held = made.hold(1000, 0.0)  # what is sent instead is inside, too
        assert inside(held.qpos, held.qvel).all()
        return False
    assert made.state == (State.TRACKING if len(time) == 1 else State.MOVING)
    return True


@pytest.mark.parametrize("points", [1, 2, 3])
def test_a_million_commands(points):
    rng = np.random.default_rng(points)
    accepted = checked = 0
    for _ in range(BATCHES if points == 1 else BATCHES // 2 if points == 2 else BATCHES // 4):
        time, qpos, qvel, start = commands(rng, points)
        with np.errstate(all="ignore"):
            find = set_point_breaks if points == 1 else trajectory_breaks
            let_through = well_formed(time, qpos, qvel)
            for found in find(ARM, time, qpos, qvel, start):
                let_through &= ~found.where.any((-2, -1))
        some = rng.integers(0, BATCH, 100 * GUARDED)
        for i in some:  # the guard decides by the very same functions
            assert guard_says(time[i], qpos[i], qvel[i], start[i]) == let_through[i]
        time, qpos, qvel, start = (x[let_through] for x in (time, qpos, qvel, start))
        if points == 1:
            speed = np.abs(qpos[:, 0] - start) / time
            assert inside(qpos, qvel).all()
            assert (speed <= ARM.qvel * (1 + 3 * SLACK)).all()
        else:
            with np.errstate(over="ignore"):  # a motion may take 1e308 s
                assert inside(*hermite(time, qpos, qvel, start)).all()
            assert (np.abs(qvel[:, -1]) <= SLACK * ARM.qvel).all()  # at rest in the end
        accepted += len(time)
        checked += BATCH
    assert 0.05 < accepted / checked < 0.95  # neither everything nor nothing


def test_sampling_follows_the_same_curves():
    time, start = np.array([0.5, 1.5]), HOME
    qpos, qvel = HOME + np.array([[0.1], [0.3]]), np.array([[0.2], [0.0]]) * np.ones(7)
    position, velocity, _ = hermite(time[None], qpos[None], qvel[None], start[None], samples=5)
    when = np.concatenate([np.linspace(0, 0.5, 5)[:-1], np.linspace(0.5, 1.5, 5)[:-1], [1.5, 9.0]])
    found, speed = sample(Command(1, time, qpos, qvel), start, when)
    np.testing.assert_allclose(found[:4], position[0, 0, :4], atol=1e-12)
    np.testing.assert_allclose(found[4:8], position[0, 1, :4], atol=1e-12)
    np.testing.assert_allclose(speed[4:8], velocity[0, 1, :4], atol=1e-12)
    np.testing.assert_allclose(found[8:], HOME + np.full((2, 1), 0.3))
    assert not speed[8:].any()


# ---- in motion --------------------------------------------------------------------------------------------------------------


def test_a_million_set_points_in_motion():
    """500 arms at once, as one of 3500 joints: whatever is wanted, speed and its change stay inside of the limits, and braking in front of the ends too."""
    rng = np.random.default_rng(0)
    many = Limits((), *(np.tile(x, ARMS) for x in (ARM.lower, ARM.upper, ARM.qvel, ARM.qacc)))
    start = np.tile(HOME, ARMS)
    pace, before, cut = Pace.at(start, 0 * start, Command(0, np.array([DT]), start[None], 0 * start[None])), start, 0
    speed, stamp, qvel, heading = 0 * start, 0, 0 * start, rng.uniform(-1, 1, len(start))
    for _ in range(STEPS):
        dt = DT * rng.choice([0.1, 0.7, 1.0, 1.5, 3.0], p=[0.05, 0.1, 0.7, 0.1, 0.05])
        stamp += round(dt * 1e9)
        dt, speed = min(dt, DT), speed if dt < GAP * DT else 0 * speed
        turned = rng.random(len(start)) < 0.05  # else on and on in the same direction, as far as there is room
        heading = np.where(turned, rng.uniform(-1.2, 1.2, len(start)), heading)
        jerk = np.where(rng.random(len(start)) < 0.1, rng.uniform(-1, 1, len(start)), heading)
        wanted = np.clip(before + jerk * many.qvel * dt, many.lower, many.upper)
        feed = many.qvel * rng.choice([-1.0, 0.0, 1.0], len(start))
        passed, pace = reachable(many, Command(stamp, np.array([DT]), wanted[None], feed[None]), pace, dt)
        now = (passed.qpos[0] - before) / dt
        assert ((passed.qpos >= many.lower) & (passed.qpos <= many.upper)).all()
        assert (np.abs(now) <= many.qvel + 2 * SLACK / dt).all()
        assert (np.abs(now - speed) <= many.qacc * dt + 4 * SLACK / dt).all()
        assert (np.abs(passed.qvel[0] - qvel) <= many.qacc * dt + 2 * SLACK).all()
        cut += int((np.abs(passed.qpos[0] - wanted) > SLACK).sum())
        before, speed, qvel = passed.qpos[0], now, passed.qvel[0]
    assert 0.02 < cut / (STEPS * len(start)) < 0.9  # neither everything nor nothing was sudden
    assert (many.upper - before < 0.05).mean() > 0.02  # some have come to the end of their way
