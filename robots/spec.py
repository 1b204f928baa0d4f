"""What every part of the project may know of a body: names, limits, gains, geometry of the chain.

Nothing here imports a simulator: the ROS 2 nodes read the same numbers as the physics.
"""

from __future__ import annotations

import difflib
import functools
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    import mujoco
    import torch
    from torch import Tensor

Vec = tuple[float, ...]
WXYZ = tuple[float, float, float, float]
Twist = tuple[float, float, float, float, float, float]
"""Linear x, y, z in m/s (or what a robot's file says) and angular x, y, z in rad/s, in the body's own frame."""
NAMED = 5  # names that an error lists at the most


class Controls(NamedTuple):
    """What the model's actuators get, in its order (forces, torques or whatever their gain makes of it), held for one decision."""

    ctrl: Tensor  # (..., U)


class JointTrajectory(NamedTuple):
    """Where the joints shall be, and how fast, at S moments `dt` seconds apart; the last pose is then held.

    The same thing as a ROS trajectory_msgs/JointTrajectory. A command of a fast control loop is a trajectory of one point.
    """

    qpos: Tensor  # (..., S, J) rad or m
    qvel: Tensor  # (..., S, J) rad/s or m/s
    dt: float  # s between two points; point 0 lies dt after the start
    gripper: Tensor | None = None  # (..., S, G) what the gripper's actuators get on the way to each point; None: 0


@dataclass(frozen=True, kw_only=True)
class RobotSpec:
    """One robot, whatever drives it. Every (..., J) array of the project follows the order of `joint_names`.

    Attributes:
        name: the robot's file name.
        joint_names: J joints that it moves, without the free joint of a body that floats; may be none.
        control_dt: s between two commands of a fast control loop.
        physics_dt: s, largest time step at which it is stable in every simulator.
        build: makes the MuJoCo model of the body alone.
    """

    name: str
    joint_names: tuple[str, ...]
    control_dt: float
    physics_dt: float
    build: Callable[[], mujoco.MjSpec]

    @property
    def num_joints(self) -> int:
        """J."""
        return len(self.joint_names)

    @property
    def velocity_limits(self) -> dict[str, float]:
        """Joint name -> rad/s or m/s, where known."""
        return {}

    @property
    def patience(self) -> float:
        """Seconds without a command after which a fast control loop is taken for dead."""
        return min(5 * self.control_dt, 0.1)


@dataclass(frozen=True, kw_only=True)
class ServoSpec(RobotSpec):
    """A robot whose joints follow trajectories by position loops, each by an actuator named like its joint; a real one by a ROS joint trajectory controller.

    Attributes:
        joint_names: J controlled joints, named as on the real robot's joint_states topic.
        sliding: those of them whose positions are in m, not rad.
        gripper_joint_names: G joints that hold a fixed width unless a task commands them.
        gripper_qpos_limits, gripper_effort_limit: of each of them, m or rad, N or N·m; an effort above 0 opens. 0: no task may command them.
        kp, kd: (J,) gains of the joint position loop that robot and simulators share, N·m/rad and N·m·s/rad, or N/m and N·s/m.
        effort_limits: (J,) N·m or N.
        home_qpos: (J,) rest pose, rad or m.
        qpos_limits, qvel_limits, qacc_limits: (J, 2), (J,), (J,), SI units.
        command_topic, state_topic: ROS topics (relative) of the joint trajectory controller and of the joint states.
        frame: in which all poses and twists are given (REP 105): of the foot of a robot that is fixed, else of the world.
    """

    sliding: tuple[str, ...] = ()
    gripper_joint_names: tuple[str, ...] = ()
    gripper_qpos_limits: tuple[float, float] = (0.0, 0.0)
    gripper_effort_limit: float = 0.0
    kp: Vec
    kd: Vec
    effort_limits: Vec
    home_qpos: Vec
    qpos_limits: tuple[tuple[float, float], ...]
    qvel_limits: Vec
    qacc_limits: Vec
    command_topic: str
    state_topic: str
    frame: str = "base_link"

    @property
    def joint_units(self) -> tuple[str, ...]:
        """(J,) of their positions."""
        return tuple("m" if name in self.sliding else "rad" for name in self.joint_names)

    @property
    def velocity_limits(self) -> dict[str, float]:
        return dict(zip(self.joint_names, self.qvel_limits, strict=True))

    def qpos_range(self, like: Tensor) -> tuple[Tensor, Tensor]:
        """Lower and upper position limits, each (J,), with the dtype and device of `like`."""
        low, high = zip(*self.qpos_limits, strict=True)
        return constant(low, like.dtype, like.device), constant(high, like.dtype, like.device)


@dataclass(frozen=True, kw_only=True)
class ArmSpec(ServoSpec):
    """An arm on a fixed foot.

    Attributes:
        joint_pos, joint_quat_wxyz: (J, 3), (J, 4) fixed pose of each joint frame in its parent; every joint turns about its own z.
        tool_pos, tool_quat_wxyz: pose of the tool frame in the last joint's frame.
    """

    joint_pos: tuple[Vec, ...]
    joint_quat_wxyz: tuple[Vec, ...]
    tool_pos: Vec
    tool_quat_wxyz: Vec


@dataclass(frozen=True, kw_only=True)
class VehicleSpec(RobotSpec):
    """A robot that is driven by C numbers, held until the next ones come: speed and steering angle, or thrust and body rates. On ROS, a TwistStamped.

    All but `ctrl_of` and `command_of` are plain numbers: the process that guards the motors has no torch.

    Attributes:
        command_names: C.
        command_limits: (C, 2) least and most, SI units.
        slew_limits: (C,) largest change per second.
        ctrl_of: commands (..., C) -> what the actuators get (..., U).
        command_of: the way back.
        twist_of: a command (C,) as a twist.
        of_twist: a twist as command (C,); the second argument is the command before, for what a twist of 0 does not say.
        safe: the next command on the way to a standstill, or to a level hover. Arguments: the command before (C,); attitude, where it is
            known; vertical speed in m/s, with what has summed up of it where a load may pull (`vehicle_guard.summed`); seconds since the command before.
        prefix: of the readings `pos`, `quat`, `linvel`, `angvel` (world frame) that are the vehicle's own.
        command_topic, state_topic, imu_topic: ROS topics (relative): TwistStamped, Odometry, Imu.
    """

    command_names: tuple[str, ...]
    command_limits: tuple[tuple[float, float], ...]
    slew_limits: Vec
    ctrl_of: Callable[[Tensor], Tensor]
    command_of: Callable[[Tensor], Tensor]
    twist_of: Callable[[Sequence[float]], Twist]
    of_twist: Callable[[Twist, Sequence[float]], Vec]
    safe: Callable[[Sequence[float], WXYZ | None, float, float], Vec]
    prefix: str
    command_topic: str = "cmd_vel"
    state_topic: str = "odom"
    imu_topic: str = "imu"

    def nearest(self, wanted: Sequence[float], before: Sequence[float], elapsed: float, part: float = 1.0) -> Vec:
        """The command (C,) nearest to `wanted` inside of the limits that may come `elapsed` s after `before`, with `part` of the slew limits."""
        steps = (part * limit * elapsed for limit in self.slew_limits)
        columns = zip(wanted, before, self.command_limits, steps, strict=True)
        return tuple(clamp(clamp(w, *limits), b - step, b + step) for w, b, limits, step in columns)

    @property
    def rest(self) -> Vec:
        """The command of a standstill or a level hover (C,): where `safe` ends."""
        return self.safe(tuple(0.0 for _ in self.command_names), None, 0.0, 1e9)


def clamp(value: float, low: float, high: float) -> float:
    """The nearest number in [low, high]."""
    return min(max(value, low), high)


@functools.cache
def constant(numbers: Vec, dtype: torch.dtype, device: torch.device) -> Tensor:
    """The numbers as a tensor that nobody may change: it is made once."""
    import torch  # here, because the process that guards the motors needs this file and nothing of torch

    return torch.tensor(numbers, dtype=dtype, device=device)


def interpolate(trajectory: JointTrajectory, start_qpos: Tensor, substeps: int) -> tuple[Tensor, Tensor]:
    """Cubic Hermite interpolation from the pose at rest `start_qpos` through all points.

    Args:
        trajectory: S points, leading axes free.
        start_qpos: (..., J) the pose at time 0, where the velocity is zero.
        substeps: samples per interval of the trajectory.

    Returns:
        qpos and qvel, each (..., S * substeps, J): the samples after 1/substeps, 2/substeps ... of each interval.
    """
    import torch  # here, because the process that guards the motors needs this file and nothing of torch

    dt = trajectory.dt
    start = start_qpos.unsqueeze(-2)
    knots = torch.cat([start, trajectory.qpos], -2)
    slopes = torch.cat([torch.zeros_like(start), trajectory.qvel], -2) * dt
    p0, p1 = knots[..., :-1, None, :], knots[..., 1:, None, :]
    m0, m1 = slopes[..., :-1, None, :], slopes[..., 1:, None, :]
    s = (torch.arange(1, substeps + 1, dtype=knots.dtype, device=knots.device) / substeps).unsqueeze(-1)
    qpos = (2 * s**3 - 3 * s**2 + 1) * p0 + (s**3 - 2 * s**2 + s) * m0 + (3 * s**2 - 2 * s**3) * p1 + (s**3 - s**2) * m1
    qvel = ((6 * s**2 - 6 * s) * (p0 - p1) + (3 * s**2 - 4 * s + 1) * m0 + (3 * s**2 - 2 * s) * m1) / dt
    return qpos.flatten(-3, -2), qvel.flatten(-3, -2)


def unknown_name(kind: str, name: str, known: Iterable[str]) -> ValueError:
    """The error for a name that does not exist: the nearest ones, then what is known; of a long list the near ones alone, or its beginning."""
    known = list(known)
    near = difflib.get_close_matches(name, known, n=NAMED, cutoff=0.4) if isinstance(name, str) else []  # None or a number is near to nothing
    hint = f"did you mean {' or '.join(filter(None, (', '.join(near[:-1]), near[-1])))}? " if near else ""
    if near and len(known) > NAMED:
        return ValueError(f"no {kind} is called {name!r}: {hint}{len(known)} are known")
    more = f" and {len(known) - NAMED} more" if len(known) > NAMED else ""
    return ValueError(f"no {kind} is called {name!r}: {hint}known are {', '.join(known[:NAMED])}{more}")
