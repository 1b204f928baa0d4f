"""What may reach the motors: every limit of the robot, at every point of a trajectory and everywhere between them.

Plain numpy, no ROS. A trajectory of several points is followed as robots and simulators do: by cubic Hermite curves from the pose at
rest through all points, then holding the last. On a cubic, the extremes of position, velocity and acceleration are known in closed form.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from metarl.robots.spec import ArmSpec
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
    """

    joint_names: tuple[str, ...]
    lower: Array
    upper: Array
    qvel: Array
    qacc: Array

    @staticmethod
    def of(spec: ArmSpec) -> Limits:
        """The limits that a robot file states."""
        lower, upper = np.array(spec.qpos_limits, dtype=np.float64).T
        return Limits(spec.joint_names, lower, upper, np.array(spec.qvel_limits), np.array(spec.qacc_limits))


def extremes(time: Array, qpos: Array, qvel: Array, start_qpos: Array) -> tuple[Array, Array, Array, Array]:
    """Lowest and highest position, largest speed, largest acceleration (each (S, J)) of every interval of a trajectory.

    Args:
        time: (S,) s, increasing, the first above zero.
        qpos: (S, J) rad.
        qvel: (S, J) rad/s.
        start_qpos: (J,) pose at time 0, at rest.
    """
    with np.errstate(all="ignore"):  # numbers out of all proportion become inf or NaN, which no limit lets through
        return _extremes(np.diff(time, prepend=0.0)[:, None], qpos, qvel, start_qpos)


def _extremes(dt: Array, qpos: Array, qvel: Array, start_qpos: Array) -> tuple[Array, Array, Array, Array]:
    before = np.vstack([start_qpos, qpos[:-1]])
    # q(s) = before + a s + b s² + c s³ with s from 0 to 1
    a = np.vstack([np.zeros_like(start_qpos), qvel[:-1]]) * dt
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
    lowest, highest, speed, acceleration = extremes(command.time, command.qpos, command.qvel, start_qpos)
    # written so that a number which is not finite is refused, too
    _refuse("position", limits, command.time, ~(lowest >= limits.lower - SLACK), lowest, limits.lower, "rad")
    _refuse("position", limits, command.time, ~(highest <= limits.upper + SLACK), highest, limits.upper, "rad")
    _refuse("velocity", limits, command.time, ~(speed <= limits.qvel * (1 + SLACK)), speed, limits.qvel, "rad/s")
    _refuse("acceleration", limits, command.time, ~(acceleration <= limits.qacc * (1 + SLACK)), acceleration, limits.qacc, "rad/s²")
    end_speed = np.abs(command.qvel[-1:])
    _refuse("velocity", limits, command.time[-1:], ~(end_speed <= SLACK * limits.qvel), end_speed, 0 * limits.qvel, "rad/s at the end")


def check_set_point(limits: Limits, command: Command, measured_qpos: Array, previous: Command | None) -> None:
    """Refuse one point of a fast control loop that leaves the limits, or that the joints cannot move to in its time.

    The joint position loop turns set-points into motion, so their second difference is no acceleration of the arm.

    Args:
        limits: of the robot.
        command: one point.
        measured_qpos: (J,) where the robot is.
        previous: the set-point before, which the robot may still be on its way to: what counts is the nearer of the two.

    Raises:
        Rejected: as `check_form`, or position or velocity.
    """
    check_form(limits, command)
    target, time = command.qpos, command.time
    _refuse("position", limits, time, ~(target >= limits.lower - SLACK), target, limits.lower, "rad")
    _refuse("position", limits, time, ~(target <= limits.upper + SLACK), target, limits.upper, "rad")
    with np.errstate(over="ignore"):
        speed = np.abs(target - measured_qpos) / time[:, None]
        if previous is not None:
            elapsed = min(float(time[0]), (command.stamp - previous.stamp) * 1e-9)
            speed = np.minimum(speed, np.abs(target - previous.qpos[-1]) / elapsed)
    speed = np.maximum(speed, np.abs(command.qvel))
    _refuse("velocity", limits, time, ~(speed <= limits.qvel * (1 + SLACK)), speed, limits.qvel, "rad/s")


def _part(numerator: Array, denominator: Array) -> Array:
    """Their quotient where it is inside of [0, 1], else the nearer end: then the same point is just looked at twice."""
    return np.clip(np.nan_to_num(numerator / denominator), 0.0, 1.0)


def _refuse(reason: str, limits: Limits, time: Array, broken: NDArray[np.bool_], value: Array, limit: Array, unit: str) -> None:
    if broken.any():
        s, j = np.argwhere(broken)[0]
        raise Rejected(reason, f"{limits.joint_names[j]} would reach {value[s, j]:.4g} {unit} by {time[s]:.3f} s, the limit is {limit[j]:.4g} {unit}")
