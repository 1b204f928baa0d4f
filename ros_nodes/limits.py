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
from metarl.ros_nodes.rejection import Rejected

Array = NDArray[np.float64]
SLACK = 1e-6  # rad, and part of a velocity or acceleration limit: commands are planned in single precision


class Command(NamedTuple):
    """A joint trajectory; columns in the order of the robot's joint names.

    Attributes:
        stamp: ns, of the event that it answers.
        time: (S,) s after the start.
        qpos, qvel: (S, J) rad, rad/s.
    """

    stamp: int
    time: Array
    qpos: Array
    qvel: Array


@dataclass(frozen=True)
class Limits:
    """Limits of J joints, SI units.

    Attributes:
        joint_names: in their order.
        lower, upper: (J,) of the position.
        qvel, qacc: (J,) largest speed and acceleration.
        effort: (J,) largest measured effort; None where it is not watched.
        units: (J,) of the positions, for whoever reads a refusal; () stands for rad.
    """

    joint_names: tuple[str, ...]
    lower: Array
    upper: Array
    qvel: Array
    qacc: Array
    effort: Array | None = None
    units: tuple[str, ...] = ()

    def unit(self, joint: int) -> str:
        """Of a joint's position."""
        return self.units[joint] if self.units else "rad"

    @staticmethod
    def of(spec: ServoSpec) -> Limits:
        """The limits that a robot file states."""
        lower, upper = np.array(spec.qpos_limits, dtype=np.float64).T
        rates = np.array(spec.qvel_limits), np.array(spec.qacc_limits), np.array(spec.effort_limits)
        return Limits(spec.joint_names, lower, upper, *rates, spec.joint_units)


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


def gentle_time(limits: Limits, qpos: Array, qvel: Array, target: Array, least: float) -> float:
    """Seconds in which the robot comes to rest at `target` (J,) from `qpos`, moving at `qvel`, within its limits; `least` where no time would do.

    That is where a position limit is nearer than the braking distance: then the only choice is to brake harder, or to go beyond it.
    """
    lower, upper, fastest = np.minimum(limits.lower, qpos), np.maximum(limits.upper, qpos), np.maximum(limits.qvel, np.abs(qvel))
    end = target[None], np.zeros_like(target)[None]
    for time in least * 1.1 ** np.arange(60):
        with np.errstate(all="ignore"):  # as in `extremes`
            lowest, highest, speed, acceleration = _extremes(np.full((1, 1), time), *end, qpos[None], qvel)
        inside = (lowest >= lower - SLACK) & (highest <= upper + SLACK) & (speed <= fastest * (1 + SLACK)) & (acceleration <= limits.qacc * (1 + SLACK))
        if inside.all():
            return float(time)
    return least


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

    The joint position loop turns set-points into motion, so their second difference is no acceleration of the arm.

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


def check_form(limits: Limits, command: Command) -> None:
    """Refuse what is no trajectory of this robot.

    Raises:
        Rejected: wrong_shape, not_finite or bad_time.
    """
    expected = (len(command.time), len(limits.joint_names))
    if not len(command.time) or command.qpos.shape != expected or command.qvel.shape != expected:
        raise Rejected("wrong_shape", f"positions {command.qpos.shape} and velocities {command.qvel.shape}, expected (points, joints) = {expected}")
    for name, value in (("times", command.time), ("positions", command.qpos), ("velocities", command.qvel)):
        if not np.isfinite(value).all():
            raise Rejected("not_finite", f"{name} hold {value[~np.isfinite(value)][0]}")
    if (np.diff(command.time, prepend=0.0) <= 0).any():
        raise Rejected("bad_time", f"times must grow from above zero, found {command.time.tolist()}")


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
