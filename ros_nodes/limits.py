"""What may reach the motors: every limit of the robot, at every point of a trajectory and everywhere between them.

Plain numpy, no ROS. A trajectory of several points is followed as robots and simulators do: by cubic Hermite curves from the pose at
rest through all points, then holding the last. On a cubic, the extremes of position, velocity and acceleration are known in closed form.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from metarl.robots.spec import ServoSpec
from metarl.ros_nodes.rejection import Rejected, all_finite

Array = NDArray[np.float64]
LONGEST = 1.0  # s that the first set-point of a fast control loop may take itself; one that says more is judged as if it said this
GAP = 2.0  # times its own time after which a set-point has been reached, and the joints stand still
INSTANT = 1e-9  # s that stand for no time at all
SLACK = 1e-6  # rad, and part of a velocity or acceleration limit: commands are planned in single precision


class Command(NamedTuple):
    """A joint trajectory; columns in the order of the robot's joint names.

    Attributes:
        stamp: ns, of the event that it answers.
        time: (S,) s after the start.
        qpos, qvel: (S, J) rad, rad/s.
        gripper: (S, G) N on each finger on the way to each point, above 0 to open; None where the command says nothing of them.
    """

    stamp: int
    time: Array
    qpos: Array
    qvel: Array
    gripper: Array | None = None


@dataclass(frozen=True)
class Limits:
    """Limits of J joints, SI units.

    Attributes:
        joint_names: in their order.
        lower, upper: (J,) of the position.
        qvel, qacc: (J,) largest speed and acceleration.
        effort: (J,) largest measured effort; None where it is not watched.
        units: (J,) of the positions, for whoever reads a refusal; () stands for rad.
        gripper: (G,) largest effort of the fingers.
    """

    joint_names: tuple[str, ...]
    lower: Array
    upper: Array
    qvel: Array
    qacc: Array
    effort: Array | None = None
    units: tuple[str, ...] = ()
    gripper: tuple[float, ...] = ()

    def unit(self, joint: int) -> str:
        """Of a joint's position."""
        return self.units[joint] if self.units else "rad"

    @staticmethod
    def of(spec: ServoSpec) -> Limits:
        """The limits that a robot file states."""
        lower, upper = np.array(spec.qpos_limits, dtype=np.float64).T
        rates = np.array(spec.qvel_limits), np.array(spec.qacc_limits), np.array(spec.effort_limits)
        return Limits(spec.joint_names, lower, upper, *rates, spec.joint_units, (spec.gripper_effort_limit,) * len(spec.gripper_joint_names))


class Break(NamedTuple):
    """One kind of limit, looked at for any number of commands: where it is broken, and what was found there.

    Attributes:
        reason: position, velocity or acceleration.
        where: (..., S, J) true where the limit is broken, also by a number that is not finite.
        value: (..., S, J) what was found.
        limit: (J,).
        per: what the joint's unit is divided by, in both.
    """

    reason: str
    where: NDArray[np.bool_]
    value: Array
    limit: Array
    per: str


def extremes(time: Array, qpos: Array, qvel: Array, start_qpos: Array) -> tuple[Array, Array, Array, Array]:
    """Lowest and highest position, largest speed, largest acceleration (each (..., S, J)) of every interval of a trajectory.

    Args:
        time: (..., S) s, increasing, the first above zero.
        qpos: (..., S, J) rad.
        qvel: (..., S, J) rad/s.
        start_qpos: (..., J) pose at time 0, at rest.
    """
    with np.errstate(all="ignore"):  # numbers out of all proportion become inf or NaN, which no limit lets through
        return _extremes(np.diff(time, prepend=0.0)[..., None], qpos, qvel, start_qpos[..., None, :])


def _extremes(dt: Array, qpos: Array, qvel: Array, start: Array, start_qvel: Array | float = 0.0) -> tuple[Array, Array, Array, Array]:
    before = np.concatenate([start, qpos[..., :-1, :]], -2)
    # q(s) = before + a s + b s² + c s³ with s from 0 to 1
    a = np.concatenate([np.zeros_like(start) + start_qvel, qvel[..., :-1, :]], -2) * dt
    end, step = qvel * dt, qpos - before
    b, c = 3 * step - 2 * a - end, a + end - 2 * step
    inside = [_part(-a, 2 * b)]  # where the velocity is zero: of the cubic, and of the parabola that it is for c = 0
    root = np.sqrt(np.maximum(b * b - 3 * a * c, 0.0))
    inside += [_part(-b + root, 3 * c), _part(-b - root, 3 * c)]
    ends = [np.zeros_like(a), np.ones_like(a)]
    positions = np.stack([before + s * (a + s * (b + s * c)) for s in (*ends, *inside)])
    velocities = np.stack([a + s * (2 * b + 3 * c * s) for s in (*ends, _part(-b, 3 * c))]) / dt
    accelerations = np.stack([2 * b, 2 * b + 6 * c]) / dt**2
    return positions.min(0), positions.max(0), np.abs(velocities).max(0), np.abs(accelerations).max(0)


def sample(command: Command, start_qpos: Array, when: Array) -> tuple[Array, Array]:
    """Pose and velocity (N, J) of the curves through a trajectory at the moments `when` (N,) s after its start; its end is held."""
    knots = np.concatenate([[0.0], command.time])
    s = np.clip(np.searchsorted(knots, when, side="right") - 1, 0, len(command.time) - 1)
    qpos, qvel = np.vstack([start_qpos, command.qpos]), np.vstack([np.zeros_like(start_qpos), command.qvel])
    dt = (knots[s + 1] - knots[s])[:, None]
    u = np.clip((when - knots[s])[:, None] / dt, 0.0, 1.0)
    a, end, step = qvel[s] * dt, qvel[s + 1] * dt, qpos[s + 1] - qpos[s]
    b, c = 3 * step - 2 * a - end, a + end - 2 * step
    moving = (when < command.time[-1])[:, None]
    return qpos[s] + u * (a + u * (b + u * c)), np.where(moving, (a + u * (2 * b + 3 * c * u)) / dt, 0.0)


def slowed(limits: Limits, command: Command, grid: float) -> Command:
    """The same motion in as much more time as the joints need for it, with points a multiple of `grid` s apart; unchanged where they can do it as it is."""
    steps = np.diff(command.time)[:, None]
    with np.errstate(all="ignore"):  # as in `extremes`
        _, _, speed, acceleration = _extremes(steps, command.qpos[1:], command.qvel[1:], command.qpos[:1], command.qvel[:1])
    longer = max(float((speed / limits.qvel).max()), float((acceleration / limits.qacc).max()) ** 0.5)
    if not longer > 1.0 + SLACK:  # nor where a number is none: that is refused
        return command
    dt = np.ceil(longer * command.time[0] / grid) * grid
    part = dt / command.time[0]
    return command._replace(time=command.time * part, qvel=command.qvel / part)


def gentle_time(limits: Limits, qpos: Array, qvel: Array, target: Array, least: float) -> float:
    """Seconds in which the robot comes to rest at `target` (J,) from `qpos`, moving at `qvel`, within its limits; the least in which most joints do.

    The others have a position limit nearer than their braking distance: then the only choice is to brake harder, or to go beyond it.
    """
    lower, upper, fastest = np.minimum(limits.lower, qpos), np.maximum(limits.upper, qpos), np.maximum(limits.qvel, np.abs(qvel))
    times = least * np.power(1.1, np.arange(60, dtype=np.float64))
    with np.errstate(all="ignore"):  # as in `extremes`
        lowest, highest, speed, acceleration = _extremes(times[:, None, None], target[None], np.zeros_like(target)[None], qpos[None], qvel)
    inside = (lowest >= lower - SLACK) & (highest <= upper + SLACK) & (speed <= fastest * (1 + SLACK)) & (acceleration <= limits.qacc * (1 + SLACK))
    return float(times[inside.sum((-2, -1)).argmax()])


def trajectory_breaks(limits: Limits, time: Array, qpos: Array, qvel: Array, start_qpos: Array) -> list[Break]:
    """Where motions from the pose at rest `start_qpos` (..., J) break a limit; other arguments as `extremes`."""
    lowest, highest, speed, acceleration = extremes(time, qpos, qvel, start_qpos)
    end_speed = np.where(np.arange(qvel.shape[-2])[:, None] == qvel.shape[-2] - 1, np.abs(qvel), 0.0)
    return [
        *_position_breaks(limits, lowest, highest),
        Break("velocity", ~(speed <= limits.qvel * (1 + SLACK)), speed, limits.qvel, "/s"),
        Break("acceleration", ~(acceleration <= limits.qacc * (1 + SLACK)), acceleration, limits.qacc, "/s²"),
        Break("velocity", ~(end_speed <= SLACK * limits.qvel), end_speed, 0 * limits.qvel, "/s at the end"),
    ]


def set_point_breaks(
    limits: Limits, time: Array, qpos: Array, qvel: Array, measured_qpos: Array, previous_qpos: Array | None = None, elapsed: float = 0.0
) -> list[Break]:
    """Where set-points of fast control loops leave the limits, or the joints cannot move to them in their time.

    How they change from one to the next is the business of `reachable`, which cuts what would be too sudden.

    Args:
        limits: of the robot.
        time: (..., 1) s.
        qpos: (..., 1, J) rad.
        qvel: (..., 1, J) rad/s.
        measured_qpos: (..., J) where the robot is.
        previous_qpos: (J,) the set-point before, which the robot may still be on its way to: what counts is the nearer of the two.
        elapsed: s since then, by the stamps.
    """
    with np.errstate(all="ignore"):
        speed = np.abs(qpos - measured_qpos[..., None, :]) / time[..., None]
        if previous_qpos is not None:
            speed = np.minimum(speed, np.abs(qpos - previous_qpos) / np.minimum(time[..., None], elapsed))
        speed = np.maximum(speed, np.abs(qvel))
    return [*_position_breaks(limits, qpos, qpos), Break("velocity", ~(speed <= limits.qvel * (1 + SLACK)), speed, limits.qvel, "/s")]


class Pace(NamedTuple):
    """How a stream of set-points goes.

    Attributes:
        stamp: ns, of the last one.
        time: s that it was given.
        qpos: (J,) rad, where it lies.
        speed: (J,) rad/s, at which it was reached from the one before.
        qvel: (J,) rad/s, what it says of velocity.
    """

    stamp: int
    time: float
    qpos: Array
    speed: Array
    qvel: Array

    @staticmethod
    def at(qpos: Array, qvel: Array, command: Command) -> Pace:
        """Of the joints (J,) themselves, as they are when the first set-point `command` comes."""
        time = min(float(command.time[0]), LONGEST)
        return Pace(command.stamp - round(time * 1e9), time, qpos, qvel, np.zeros_like(qvel))


def step_of(command: Command, pace: Pace) -> float:
    """Seconds that a set-point allows for the way from the one before, by the stamps."""
    return min(float(command.time[0]), (command.stamp - pace.stamp) * 1e-9)


def reachable(limits: Limits, command: Command, pace: Pace, dt: float) -> tuple[Command, Pace]:
    """The set-point nearest to `command` that the stream can come to within the accelerations of the joints, and how it goes then.

    The acceleration is the change of speed from one set-point to the next; what set-points say of velocity changes no faster. Wherever it comes to, the
    stream can still brake in front of the position limits: braking from v in steps covers less than v² / 2a. In no time it comes nowhere.

    Args:
        limits: of the robot.
        command: the set-point.
        pace: up to the one before.
        dt: s that the joints have to come there from the one before, at most `step_of`.
    """
    dt = max(dt, INSTANT)
    before = pace.speed if (command.stamp - pace.stamp) * 1e-9 < GAP * pace.time else np.zeros_like(pace.speed)
    speed, change, qacc = (command.qpos[0] - pace.qpos) / dt, limits.qacc * dt, limits.qacc
    end = command.qpos[0] + speed * np.abs(speed) / (2 * qacc)
    sudden = np.maximum(np.abs(speed - before), np.abs(command.qvel[0] - pace.qvel)) > change
    if (sudden | (end > limits.upper) | (end < limits.lower) | (np.abs(speed) > limits.qvel)).any():
        command, speed = _cut(limits, command, pace, before, speed, dt)
    return command, Pace(command.stamp, float(command.time[0]), command.qpos[0], speed, command.qvel[0])


def _cut(limits: Limits, command: Command, pace: Pace, before: Array, wanted: Array, dt: float) -> tuple[Command, Array]:
    """The set-point `dt` s after the one before, and its speed (J,), that come nearest to what is wanted."""
    change, qacc = limits.qacc * dt, limits.qacc
    # v dt + v² / 2a is all the room that there is
    up, down = (qacc * (np.sqrt(dt * dt + 2 * np.maximum(room, 0.0) / qacc) - dt) for room in (limits.upper - pace.qpos, pace.qpos - limits.lower))
    speed = np.clip(np.clip(wanted, before - change, before + change), -np.minimum(down, limits.qvel), np.minimum(up, limits.qvel))
    qvel = np.clip(command.qvel[0], pace.qvel - change, pace.qvel + change)
    if (np.abs(speed - wanted) * dt <= SLACK).all() and (np.abs(qvel - command.qvel[0]) <= SLACK).all():
        return command, wanted
    qpos = np.clip(pace.qpos + speed * dt, limits.lower, limits.upper)  # a joint that is measured beyond a limit is led back at once
    return command._replace(qpos=qpos[None], qvel=qvel[None]), (qpos - pace.qpos) / dt


def check_form(limits: Limits, command: Command) -> None:
    """Refuse what is no trajectory of this robot.

    Raises:
        Rejected: wrong_shape, not_finite, bad_time or gripper_effort.
    """
    expected = (len(command.time), len(limits.joint_names))
    if not len(command.time) or command.qpos.shape != expected or command.qvel.shape != expected:
        raise Rejected("wrong_shape", f"positions {command.qpos.shape} and velocities {command.qvel.shape}, expected (points, joints) = {expected}")
    for name, value in (("times", command.time), ("positions", command.qpos), ("velocities", command.qvel), ("efforts", command.gripper)):
        if value is not None and not all_finite(value):
            raise Rejected("not_finite", f"{name} hold {value[~np.isfinite(value)][0]}")
    if command.time[0] <= 0 or (command.time[1:] <= command.time[:-1]).any():
        raise Rejected("bad_time", f"times must grow from above zero, found {command.time.tolist()}")
    if command.gripper is not None:
        _check_gripper(limits, command.gripper, (len(command.time), len(limits.gripper)))


def _check_gripper(limits: Limits, effort: Array, expected: tuple[int, int]) -> None:
    if effort.shape != expected:
        raise Rejected("wrong_shape", f"efforts {effort.shape} of the gripper, expected (points, fingers) = {expected}")
    if not (np.abs(effort) <= np.array(limits.gripper) * (1 + SLACK)).all():
        raise Rejected("gripper_effort", f"a finger would push with {effort.flat[np.abs(effort).argmax()]:.4g} N, the limit is {max(limits.gripper):.4g} N")


def check_trajectory(limits: Limits, command: Command, start_qpos: Array) -> None:
    """Refuse a motion from the pose at rest `start_qpos` (J,) that breaks a limit anywhere.

    Raises:
        Rejected: as `check_form`, or position, velocity or acceleration.
    """
    check_form(limits, command)
    _refuse(limits, command, trajectory_breaks(limits, command.time, command.qpos, command.qvel, start_qpos))


def check_set_point(limits: Limits, command: Command, measured_qpos: Array, previous: Command | None) -> None:
    """Refuse one point of a fast control loop as `set_point_breaks` says; `previous` is the set-point before.

    Raises:
        Rejected: as `check_form`, or position or velocity.
    """
    check_form(limits, command)
    before, elapsed = (None, 0.0) if previous is None else (previous.qpos[-1], (command.stamp - previous.stamp) * 1e-9)
    _refuse(limits, command, set_point_breaks(limits, command.time, command.qpos, command.qvel, measured_qpos, before, elapsed))


def _position_breaks(limits: Limits, lowest: Array, highest: Array) -> list[Break]:
    return [
        Break("position", ~(lowest >= limits.lower - SLACK), lowest, limits.lower, ""),
        Break("position", ~(highest <= limits.upper + SLACK), highest, limits.upper, ""),
    ]


def _part(numerator: Array, denominator: Array) -> Array:
    """Their quotient where it is inside of [0, 1], else the nearer end: then the same point is just looked at twice."""
    return np.clip(np.nan_to_num(numerator / denominator), 0.0, 1.0)


def _refuse(limits: Limits, command: Command, breaks: list[Break]) -> None:
    for found in breaks:
        if found.where.any():
            s, j = np.argwhere(found.where)[0]
            name, value, limit = limits.joint_names[j], found.value[s, j], found.limit[j]
            unit = limits.unit(j) + found.per
            text = f"{name} would reach {value:.4g} {unit} by {command.time[s]:.3f} s, the limit is {limit:.4g} {unit}"
            raise Rejected(found.reason, text)
