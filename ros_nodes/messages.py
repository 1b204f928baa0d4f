"""ROS messages <-> readings, commands, events. Joints are matched by name, never by index; wxyz <-> xyzw happens only here.

torch is imported only where readings are made: the safety node has none.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from builtin_interfaces.msg import Duration, Time
from geometry_msgs.msg import PoseStamped, TwistStamped
from sensor_msgs.msg import JointState
from std_msgs.msg import Float64MultiArray, MultiArrayDimension
from trajectory_msgs.msg import JointTrajectory as JointTrajectoryMsg
from trajectory_msgs.msg import JointTrajectoryPoint

from metarl.robots.spec import JointTrajectory
from metarl.ros_nodes.events import Event
from metarl.ros_nodes.limits import Array, Command
from metarl.ros_nodes.rejection import Rejected, check_names

if TYPE_CHECKING:
    from torch import Tensor

    from metarl.tasks.task import Readings

BASE_FRAME = "base_link"  # REP 105; every pose and twist is given in it
_SECOND = 1_000_000_000  # ns
_EVENT_LABELS = ("epoch", "sequence", "episode", "step", "reward", "terminated", "truncated", "error", "stamp_sec", "stamp_nanosec")


# ---- time -------------------------------------------------------------------------------------------------------------------


def to_time(stamp: int) -> Time:
    """A stamp in ns as message."""
    return Time(sec=stamp // _SECOND, nanosec=stamp % _SECOND)


def to_stamp(time: Time | Duration) -> int:
    """Nanoseconds."""
    return int(time.sec) * _SECOND + int(time.nanosec)


# ---- joint states -----------------------------------------------------------------------------------------------------------


def joint_state(joint_names: Sequence[str], qpos: Array, qvel: Array, stamp: int) -> JointState:
    """Positions and velocities (J,) of the named joints."""
    message = JointState(name=list(joint_names), position=[float(x) for x in qpos], velocity=[float(x) for x in qvel])
    message.header.stamp = to_time(stamp)
    return message


def joint_arrays(message: JointState, joint_names: Sequence[str]) -> tuple[Array, Array]:
    """Positions and velocities, each (J,), in the order of `joint_names`; further joints are passed over.

    Raises:
        Rejected: missing_joint, wrong_shape or not_finite.
    """
    order = _order(message.name, joint_names)
    columns = []
    for kind, values in (("positions", message.position), ("velocities", message.velocity)):
        if len(values) != len(message.name):
            raise Rejected("wrong_shape", f"joint state with {len(message.name)} names and {len(values)} {kind}")
        column = np.array(values, dtype=np.float64)[order]
        if not np.isfinite(column).all():
            joint = joint_names[int(np.flatnonzero(~np.isfinite(column))[0])]
            raise Rejected("not_finite", f"joint state with {kind} that are not finite, first of {joint}")
        columns.append(column)
    return columns[0], columns[1]


def joint_readings(message: JointState, joint_names: Sequence[str]) -> Readings:
    """`qpos` and `qvel`, each (J,).

    Raises:
        Rejected: as `joint_arrays`.
    """
    qpos, qvel = joint_arrays(message, joint_names)
    return {"qpos": _tensor(qpos), "qvel": _tensor(qvel)}


# ---- bodies that a camera tracks --------------------------------------------------------------------------------------------


def pose(readings: Readings, body: str, stamp: int) -> PoseStamped:
    """Position and, where it is known, orientation of a body, from readings of one robot (1, n)."""
    message = PoseStamped()
    message.header.stamp, message.header.frame_id = to_time(stamp), BASE_FRAME
    point, turn = message.pose.position, message.pose.orientation
    point.x, point.y, point.z = (float(v) for v in readings[f"{body}_pos"][0])
    if f"{body}_quat" in readings:
        turn.w, turn.x, turn.y, turn.z = (float(v) for v in readings[f"{body}_quat"][0])
    return message


def pose_readings(message: PoseStamped, body: str) -> Readings:
    """`{body}_pos` (3,) m and `{body}_quat` (4,) wxyz.

    Raises:
        Rejected: wrong_frame or not_finite.
    """
    _check_frame(message.header.frame_id, body)
    point, turn = message.pose.position, message.pose.orientation
    return _finite({f"{body}_pos": _tensor([point.x, point.y, point.z]), f"{body}_quat": _tensor([turn.w, turn.x, turn.y, turn.z])})


def twist(readings: Readings, body: str, stamp: int) -> TwistStamped:
    """Linear and, where it is known, angular velocity of a body, from readings of one robot (1, n)."""
    message = TwistStamped()
    message.header.stamp, message.header.frame_id = to_time(stamp), BASE_FRAME
    for vector, part in ((message.twist.linear, "linvel"), (message.twist.angular, "angvel")):
        if f"{body}_{part}" in readings:
            vector.x, vector.y, vector.z = (float(v) for v in readings[f"{body}_{part}"][0])
    return message


def twist_readings(message: TwistStamped, body: str) -> Readings:
    """`{body}_linvel` (3,) m/s and `{body}_angvel` (3,) rad/s.

    Raises:
        Rejected: wrong_frame or not_finite.
    """
    _check_frame(message.header.frame_id, body)
    linear, angular = message.twist.linear, message.twist.angular
    return _finite({f"{body}_linvel": _tensor([linear.x, linear.y, linear.z]), f"{body}_angvel": _tensor([angular.x, angular.y, angular.z])})


# ---- commands ---------------------------------------------------------------------------------------------------------------


def planned_command(trajectory: JointTrajectory, stamp: int) -> Command:
    """A planned motion (S, J) as the command that answers the event of `stamp`."""
    time = trajectory.dt * np.arange(1, len(trajectory.qpos) + 1, dtype=np.float64)
    return Command(stamp, time, trajectory.qpos.double().numpy(), trajectory.qvel.double().numpy())


def command_message(command: Command, joint_names: Sequence[str]) -> JointTrajectoryMsg:
    """The command with its stamp; a stamp of 0 tells a controller to begin at once."""
    message = JointTrajectoryMsg(joint_names=list(joint_names))
    message.header.stamp = to_time(command.stamp)
    for time, qpos, qvel in zip(command.time, command.qpos, command.qvel, strict=True):
        ns = round(float(time) * _SECOND)
        when = Duration(sec=ns // _SECOND, nanosec=ns % _SECOND)
        message.points.append(JointTrajectoryPoint(positions=qpos.tolist(), velocities=qvel.tolist(), time_from_start=when))
    return message


def command_arrays(message: JointTrajectoryMsg, joint_names: Sequence[str]) -> Command:
    """The command with its columns in the order of `joint_names`; whether it may be carried out is the safety node's question.

    Raises:
        Rejected: missing_joint, unknown_joint or wrong_shape.
    """
    order = _order(message.joint_names, joint_names)
    if len(order) != len(message.joint_names):
        foreign = sorted(set(message.joint_names) - set(joint_names)) or "one twice"
        raise Rejected("unknown_joint", f"command for {', '.join(message.joint_names)}: {foreign} is not of this robot")
    if not message.points:
        raise Rejected("wrong_shape", "command without points")
    for s, point in enumerate(message.points):
        for kind, values in (("positions", point.positions), ("velocities", point.velocities)):
            if len(values) != len(joint_names):
                raise Rejected("wrong_shape", f"point {s} has {len(values)} {kind}, expected {len(joint_names)}")
    qpos = np.array([p.positions for p in message.points], dtype=np.float64)[:, order]
    qvel = np.array([p.velocities for p in message.points], dtype=np.float64)[:, order]
    time = np.array([to_stamp(p.time_from_start) / _SECOND for p in message.points])
    return Command(to_stamp(message.header.stamp), time, qpos, qvel)


def to_trajectory(command: Command) -> JointTrajectory:
    """The trajectory (1, S, J) that a simulator carries out.

    Raises:
        Rejected: bad_time, where the points are not equally far apart.
    """
    dt = float(command.time[0])
    if not np.allclose(command.time, dt * np.arange(1, len(command.time) + 1), rtol=0, atol=1e-6):
        raise Rejected("bad_time", f"points must lie {dt} s apart, found times {command.time.tolist()}")
    return JointTrajectory(_tensor(command.qpos[None]), _tensor(command.qvel[None]), dt)


# ---- labelled numbers -------------------------------------------------------------------------------------------------------


def numbers(labels: Sequence[str], values: Sequence[float]) -> Float64MultiArray:
    """Numbers with a label that names them."""
    message = Float64MultiArray(data=[float(v) for v in values])
    message.layout.dim = [MultiArrayDimension(label=",".join(labels), size=len(values), stride=len(values))]
    return message


def labelled(message: Float64MultiArray, labels: Sequence[str]) -> list[float]:
    """The numbers, if they are named so.

    Raises:
        Rejected: wrong_labels.
    """
    found = message.layout.dim[0].label if message.layout.dim else ""
    if found != ",".join(labels) or len(message.data) != len(labels):
        raise Rejected("wrong_labels", f"{len(message.data)} numbers labelled {found!r}, expected {','.join(labels)!r}")
    return list(message.data)


def event_message(event: Event) -> Float64MultiArray:
    """An event; its stamp as two numbers, because a double holds no nanoseconds of our time."""
    return numbers(_EVENT_LABELS, [*event[:-1], *divmod(event.stamp, _SECOND)])


def to_event(message: Float64MultiArray) -> Event:
    """The event of a message.

    Raises:
        Rejected: wrong_labels or not_finite.
    """
    epoch, sequence, episode, step, reward, terminated, truncated, error, sec, nanosec = labelled(message, _EVENT_LABELS)
    if not np.isfinite([epoch, sequence, episode, step, reward, terminated, truncated, sec, nanosec]).all():
        raise Rejected("not_finite", f"event {list(message.data)}")
    stamp = int(sec) * _SECOND + int(nanosec)
    return Event(int(epoch), int(sequence), int(episode), int(step), reward, bool(terminated), bool(truncated), error, stamp)


# ---- common -----------------------------------------------------------------------------------------------------------------


def _order(found: Sequence[str], expected: Sequence[str]) -> list[int]:
    check_names("joint", found, expected)
    return [list(found).index(name) for name in expected]


def _check_frame(found: str, body: str) -> None:
    if found != BASE_FRAME:
        raise Rejected("wrong_frame", f"{body} is given in the frame {found!r}, expected {BASE_FRAME!r}")


def _finite(readings: Readings) -> Readings:
    for name, value in readings.items():
        if not bool(value.isfinite().all()):
            raise Rejected("not_finite", f"reading {name} is {value.tolist()}")
    return readings


def _tensor(values: Sequence[float] | Array) -> Tensor:
    import torch

    return torch.tensor(values, dtype=torch.float32)
