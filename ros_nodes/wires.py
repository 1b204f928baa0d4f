"""How a robot hangs on ROS: which messages carry its commands and its own state. One class for arms, one for vehicles; nodes ask `wired`.

torch is imported only where decisions are made or carried out: the safety node has none.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
from geometry_msgs.msg import TwistStamped
from nav_msgs.msg import Odometry
from sensor_msgs.msg import JointState
from trajectory_msgs.msg import JointTrajectory as JointTrajectoryMsg

from metarl import robots
from metarl.robots.spec import Controls, JointTrajectory, ServoSpec, VehicleSpec
from metarl.ros_nodes import messages
from metarl.ros_nodes.limits import Array, Command, Limits, slowed
from metarl.ros_nodes.rejection import Rejected, all_finite

if TYPE_CHECKING:
    from rclpy.node import Node
    from torch import Tensor


@dataclass(frozen=True)
class ArmWire:
    """An arm, fixed or on a base that moves: JointTrajectory to its trajectory controller, JointState from it.

    Attributes:
        robot: the arm, its base included.
        joint_names: J, as the messages call the joints; another arm of the same build has names of its own.
        command_topic, state_topic: relative.
    """

    robot: ServoSpec
    joint_names: tuple[str, ...]
    command_topic: str
    state_topic: str

    command_kind = JointTrajectoryMsg
    state_kind = JointState
    state_name = "joint state"

    @property
    def frame(self) -> str:
        """Every pose and twist is given in it."""
        return self.robot.frame

    def planned(self, decided: JointTrajectory | Controls, stamp: int) -> Command:
        """A decision (S, J) as the command that answers the event of `stamp`; a motion takes as long as the joints need.

        A set-point keeps to this robot's position limits, which may be narrower than the task knows; what is executed then is what is learned from.
        """
        assert isinstance(decided, JointTrajectory), "an arm follows trajectories"
        command = messages.planned_command(decided, stamp)
        if len(command.time) == 1:
            return command._replace(qpos=np.clip(command.qpos, self._limits.lower, self._limits.upper))
        return slowed(self._limits, command, self.robot.physics_dt)

    def message(self, command: Command) -> JointTrajectoryMsg:
        """The command with its stamp."""
        return self._message(command, False)

    def now(self, command: Command, more_to_come: bool = False) -> JointTrajectoryMsg:
        """The command as the controller begins it at once.

        A set-point with `more_to_come` says no velocity, unless it has one: the joints then go there evenly, as `limits.reachable` has judged it. With a
        velocity of 0 they would stop at each, and need many times the acceleration.
        """
        evenly = more_to_come and len(command.time) == 1 and not command.qvel.any()
        return self._message(command._replace(stamp=0), evenly)

    def concerns(self, message: JointState) -> bool:
        """Whether it is of this robot's joints: others may speak on the topic as well, a gripper's driver for one."""
        return not set(self.joint_names).isdisjoint(message.name)

    def command(self, message: JointTrajectoryMsg, before: Sequence[float] = ()) -> Command:
        """The command of a message; `before` is a vehicle's business.

        Raises:
            Rejected: as `messages.command_arrays`.
        """
        return messages.command_arrays(message, self.joint_names, self.robot.gripper_joint_names)

    def executable(self, command: Command) -> JointTrajectory:
        """What a simulator carries out (1, S, J).

        Raises:
            Rejected: bad_time.
        """
        return messages.to_trajectory(command)

    def state(self, message: JointState) -> tuple[Array, Array]:
        """Positions and velocities (J,).

        Raises:
            Rejected: as `messages.joint_arrays`.
        """
        return messages.joint_arrays(message, self.joint_names)

    def effort(self, message: JointState) -> Array | None:
        """(J,) N·m, where the robot measures it.

        Raises:
            Rejected: not_finite.
        """
        return messages.joint_efforts(message, self.joint_names)

    def asks_to_stop(self, message: JointTrajectoryMsg) -> bool:
        """A trajectory without points says so."""
        return not message.points

    def last(self, command: Command) -> Tensor:
        """(J,) where the command ends."""
        import torch

        return torch.from_numpy(command.qpos[-1]).float()

    @functools.cached_property
    def _limits(self) -> Limits:
        return Limits.of(self.robot)

    def _message(self, command: Command, evenly: bool) -> JointTrajectoryMsg:
        return messages.command_message(command, self.joint_names, self.robot.gripper_joint_names, self.robot.gripper_qpos_limits, evenly)


@dataclass(frozen=True)
class VehicleWire:
    """A vehicle: TwistStamped to it, Odometry from it.

    Attributes:
        robot: the vehicle.
        command_topic, state_topic: relative.
    """

    robot: VehicleSpec
    command_topic: str
    state_topic: str

    frame = "odom"  # REP 105
    command_kind = TwistStamped
    state_kind = Odometry
    state_name = "odometry message"

    def planned(self, decided: JointTrajectory | Controls, stamp: int) -> Command:
        """A decision (U,) as the command that answers the event of `stamp`: its numbers stand where an arm's positions do."""
        assert isinstance(decided, Controls), "a vehicle follows no trajectories"
        return self._one(stamp, self.robot.command_of(decided.ctrl.double()).numpy())

    def message(self, command: Command) -> TwistStamped:
        """The command with its stamp."""
        return messages.twist_command(self.robot.twist_of(command.qpos[-1].tolist()), command.stamp)

    def now(self, command: Command, more_to_come: bool = False) -> TwistStamped:
        """The command as the controller takes it: with the stamp, by which it knows how old it is."""
        return self.message(command)

    def concerns(self, message: Odometry) -> bool:
        """Nobody shares a vehicle's topic."""
        return True

    def command(self, message: TwistStamped, before: Sequence[float] = ()) -> Command:
        """The command of a message; whether it may be carried out is the safety node's question. What a twist of 0 does not say is as `before` (C,).

        Raises:
            Rejected: not_finite.
        """
        values = self.robot.of_twist(messages.twist_numbers(message), before or self.robot.rest)
        return self._one(messages.to_stamp(message.header.stamp), np.array(values))

    def executable(self, command: Command) -> Controls:
        """What a simulator's motors get (1, U).

        Raises:
            Rejected: not_finite.
        """
        import torch

        if not all_finite(command.qpos):
            raise Rejected("not_finite", f"command {command.qpos.tolist()}")
        return Controls(self.robot.ctrl_of(torch.from_numpy(command.qpos)).float())

    def state(self, message: Odometry) -> tuple[Array, Array]:
        """Position and quaternion wxyz (7,), linear and angular velocity in the world (6,).

        Raises:
            Rejected: as `messages.odometry_arrays`.
        """
        return messages.odometry_arrays(message)

    def effort(self, message: Odometry) -> Array | None:
        """No vehicle tells it."""
        return None

    def asks_to_stop(self, message: TwistStamped) -> bool:
        """A twist cannot say so: whoever wants a stop falls silent, or asks the safety node."""
        return False

    def last(self, command: Command) -> Tensor:
        """(U,) what the motors were told."""
        return self.executable(command).ctrl[0]

    def _one(self, stamp: int, values: Array) -> Command:
        return Command(stamp, np.array([self.robot.control_dt]), values[None], np.zeros((1, len(values))))


Wire = ArmWire | VehicleWire


def wire(
    name: str, joint_names: tuple[str, ...] = (), command_topic: str = "", state_topic: str = "", lower: Sequence[float] = (), upper: Sequence[float] = ()
) -> Wire:
    """The wire of the robot `name`; what is not given is as its file says.

    Args:
        name: of the robot's file.
        joint_names: J, of another arm of the same build.
        command_topic: relative.
        state_topic: relative.
        lower: (J,) rad, position limits of that other arm, or (C,) of a vehicle's commands: the narrower ones count.
        upper: as `lower`.

    Raises:
        ValueError: no robot has that name, or joint names or limits do not fit it.
        TypeError: it cannot be driven over ROS.
    """
    robot = robots.load(name)
    if not isinstance(robot, ServoSpec | VehicleSpec):
        raise TypeError(f"{name} is neither an arm that follows joint trajectories nor a vehicle: it cannot be driven over ROS")
    topics = command_topic or robot.command_topic, state_topic or robot.state_topic
    if isinstance(robot, VehicleSpec):
        if joint_names:
            raise ValueError(f"{name} is a vehicle: it has no joints to be named")
        if lower or upper:
            robot = replace(robot, command_limits=_narrowed(robot.name, "commands", robot.command_names, robot.command_limits, robot.rest, lower, upper))
        return VehicleWire(robot, *topics)
    names = joint_names or robot.joint_names
    if len(set(names)) != robot.num_joints:
        raise ValueError(f"joint_names are {', '.join(names)}: {name} has {robot.num_joints} joints, each with a name of its own")
    if lower or upper:
        robot = replace(robot, qpos_limits=_narrowed(robot.name, "joints", robot.joint_names, robot.qpos_limits, robot.home_qpos, lower, upper))
    return ArmWire(robot, names, *topics)


def _narrowed(
    robot: str, kind: str, names: Sequence[str], limits: Sequence[tuple[float, float]], rest: Sequence[float], lower: Sequence[float], upper: Sequence[float]
) -> tuple[tuple[float, float], ...]:
    """Limits (N, 2) that are nowhere wider than the robot's own, nor than the ones given (N,)."""
    if len(lower) != len(names) or len(upper) != len(names):
        raise ValueError(f"{len(lower)} lower and {len(upper)} upper limits for the {len(names)} {kind} of {robot}: {', '.join(names)}")
    narrow = tuple((max(low, a), min(high, b)) for (low, high), a, b in zip(limits, lower, upper, strict=True))
    for name, value, (low, high) in zip(names, rest, narrow, strict=True):
        if not low <= value <= high:
            raise ValueError(f"between {low} and {high}, {name} of {robot} cannot be at rest, {value}")
    return narrow


def wired(node: Node, name: str) -> Wire:
    """The wire of a robot as this node's parameters say: joint_names, command_topic, state_topic, lower_limits, upper_limits; [""], "" and [] are as its
    file says.
    """
    names = tuple(n for n in node.declare_parameter("joint_names", [""]).value if n)
    command_topic, state_topic = (node.declare_parameter(f"{kind}_topic", "").value for kind in ("command", "state"))
    lower, upper = (tuple(v for v in node.declare_parameter(f"{side}_limits", [math.nan]).value if not math.isnan(v)) for side in ("lower", "upper"))
    return wire(name, names, command_topic, state_topic, lower, upper)
