"""ROS messages <-> readings, commands, events. Joints are matched by name, never by index; wxyz <-> xyzw happens only here.

torch is imported only where readings are made: the safety node has none.
"""

from __future__ import annotations

import functools
import math
from array import array
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from builtin_interfaces.msg import Duration, Time
from geometry_msgs.msg import PoseStamped, TwistStamped
from nav_msgs.msg import Odometry, Path
from numpy.typing import NDArray
from sensor_msgs.msg import Imu, JointState, LaserScan
from std_msgs.msg import Float64MultiArray, MultiArrayDimension
from trajectory_msgs.msg import JointTrajectory as JointTrajectoryMsg
from trajectory_msgs.msg import JointTrajectoryPoint

from metarl.robots.spec import JointTrajectory, Twist
from metarl.ros_nodes.events import Event
from metarl.ros_nodes.labels import EVENT, SECOND, event_values, labelled, to_event, to_used, used_values
from metarl.ros_nodes.limits import Array, Command
from metarl.ros_nodes.rejection import Rejected, all_finite, check_names

if TYPE_CHECKING:
    from torch import Tensor

    from metarl.tasks.sensing import Lidar
    from metarl.tasks.task import Readings

__all__ = ["labelled", "to_event", "to_used"]  # from here as well

BASE_FRAME = "base_link"  # REP 105; an arm's poses and twists are given in it
ODOM_FRAME = "odom"  # a vehicle's are given in this one


# ---- time -------------------------------------------------------------------------------------------------------------------


def to_time(stamp: int) -> Time:
    """A stamp in ns as message."""
    return Time(sec=stamp // SECOND, nanosec=stamp % SECOND)


def to_stamp(time: Time | Duration) -> int:
    """Nanoseconds."""
    return int(time.sec) * SECOND + int(time.nanosec)


# ---- joint states -----------------------------------------------------------------------------------------------------------


def joint_state(joint_names: Sequence[str], qpos: Array, qvel: Array, stamp: int, effort: Array | None = None) -> JointState:
    """Positions and velocities (J,) of the named joints, and efforts, where they are known."""
    message = JointState(name=list(joint_names), position=[float(x) for x in qpos], velocity=[float(x) for x in qvel])
    if effort is not None:
        message.effort = [float(x) for x in effort]
    message.header.stamp = to_time(stamp)
    return message


def joint_arrays(message: JointState, joint_names: Sequence[str]) -> tuple[Array, Array]:
    """Positions and velocities, each (J,), in the order of `joint_names`; further joints are passed over.

    Raises:
        Rejected: missing_joint, wrong_shape or not_finite.
    """
    order = _order(tuple(message.name), tuple(joint_names))
    columns = []
    for kind, values in (("positions", message.position), ("velocities", message.velocity)):
        if len(values) != len(message.name):
            raise Rejected("wrong_shape", f"joint state with {len(message.name)} names and {len(values)} {kind}")
        column = np.array(values, dtype=np.float64)[order]
        if not all_finite(column):
            joint = joint_names[int(np.flatnonzero(~np.isfinite(column))[0])]
            raise Rejected("not_finite", f"joint state with {kind} that are not finite, first of {joint}")
        columns.append(column)
    return columns[0], columns[1]


def joint_efforts(message: JointState, joint_names: Sequence[str]) -> Array | None:
    """(J,) N·m, of a message that `joint_arrays` has let through; None where they are not measured.

    ros2_control's joint_state_broadcaster says NaN for joints without that interface (ros2_controllers, joint_state_broadcaster.cpp).

    Raises:
        Rejected: not_finite, where some of them are measured.
    """
    if len(message.effort) != len(message.name):
        return None
    efforts = np.array(message.effort, dtype=np.float64)[_order(tuple(message.name), tuple(joint_names))]
    if np.isnan(efforts).all():
        return None
    if not all_finite(efforts):
        joint = int(np.flatnonzero(~np.isfinite(efforts))[0])
        raise Rejected("not_finite", f"effort of {joint_names[joint]} is {efforts[joint]}, others are measured")
    return efforts


def joint_readings(message: JointState, joint_names: Sequence[str]) -> Readings:
    """`qpos` and `qvel`, each (J,).

    Raises:
        Rejected: as `joint_arrays`.
    """
    qpos, qvel = joint_arrays(message, joint_names)
    return {"qpos": _tensor(qpos), "qvel": _tensor(qvel)}


# ---- bodies that a camera tracks --------------------------------------------------------------------------------------------


def pose(readings: Readings, body: str, stamp: int, frame: str = BASE_FRAME) -> PoseStamped:
    """Position and, where it is known, orientation of a body, from readings of one robot (1, n)."""
    message = PoseStamped()
    message.header.stamp, message.header.frame_id = to_time(stamp), frame
    point, turn = message.pose.position, message.pose.orientation
    point.x, point.y, point.z = (float(v) for v in readings[f"{body}_pos"][0])
    if f"{body}_quat" in readings:
        turn.w, turn.x, turn.y, turn.z = (float(v) for v in readings[f"{body}_quat"][0])
    return message


def pose_readings(message: PoseStamped, body: str, frame: str = BASE_FRAME) -> Readings:
    """`{body}_pos` (3,) m and `{body}_quat` (4,) wxyz.

    Raises:
        Rejected: wrong_frame or not_finite.
    """
    _check_frame(message.header.frame_id, body, frame)
    point, turn = message.pose.position, message.pose.orientation
    return _finite({f"{body}_pos": _tensor([point.x, point.y, point.z]), f"{body}_quat": _tensor([turn.w, turn.x, turn.y, turn.z])})


def twist(readings: Readings, body: str, stamp: int, frame: str = BASE_FRAME) -> TwistStamped:
    """Linear and, where it is known, angular velocity of a body, from readings of one robot (1, n)."""
    message = TwistStamped()
    message.header.stamp, message.header.frame_id = to_time(stamp), frame
    for vector, part in ((message.twist.linear, "linvel"), (message.twist.angular, "angvel")):
        if f"{body}_{part}" in readings:
            vector.x, vector.y, vector.z = (float(v) for v in readings[f"{body}_{part}"][0])
    return message


def twist_readings(message: TwistStamped, body: str, frame: str = BASE_FRAME) -> Readings:
    """`{body}_linvel` (3,) m/s and `{body}_angvel` (3,) rad/s.

    Raises:
        Rejected: wrong_frame or not_finite.
    """
    _check_frame(message.header.frame_id, body, frame)
    linear, angular = message.twist.linear, message.twist.angular
    return _finite({f"{body}_linvel": _tensor([linear.x, linear.y, linear.z]), f"{body}_angvel": _tensor([angular.x, angular.y, angular.z])})


# ---- a vehicle's own state --------------------------------------------------------------------------------------------------


def odometry(readings: Readings, prefix: str, stamp: int) -> Odometry:
    """Pose in the world and twist in the body's frame (REP 105), from readings of one robot (1, n).

    Where there is a reading `velocity` (forward, to the left, yaw rate), it is what wheels and gyroscope say, and rules the twist.
    """
    message = Odometry()
    message.header.stamp, message.header.frame_id, message.child_frame_id = to_time(stamp), ODOM_FRAME, BASE_FRAME
    pos, wxyz, linvel, angvel = (readings[prefix + part][0].double().numpy() for part in ("pos", "quat", "linvel", "angvel"))
    _put(message.pose.pose.position, pos)
    turn, turned = message.pose.pose.orientation, _matrix(wxyz)
    turn.w, turn.x, turn.y, turn.z = (float(v) for v in wxyz)
    linear, angular = turned.T @ linvel, turned.T @ angvel
    if "velocity" in readings:
        linear[0], linear[1], angular[2] = readings["velocity"][0].double().numpy()
    _put(message.twist.twist.linear, linear)
    _put(message.twist.twist.angular, angular)
    return message


def odometry_arrays(message: Odometry) -> tuple[Array, Array]:
    """Position and quaternion wxyz (7,), linear and angular velocity in the world (6,).

    Raises:
        Rejected: wrong_frame, not_finite, or wrong_shape where the quaternion is none.
    """
    _check_frame(message.header.frame_id, "odometry", ODOM_FRAME)
    if message.child_frame_id == ODOM_FRAME:  # nav_msgs/Odometry: the twist is given in it. What the body's frame is called is its driver's business
        raise Rejected("wrong_frame", f"odometry whose twist is given in {ODOM_FRAME!r} as well, expected is the body's frame")
    turn = message.pose.pose.orientation
    pose = np.array([*_numbers(message.pose.pose.position), turn.w, turn.x, turn.y, turn.z])
    twist = np.array([*_numbers(message.twist.twist.linear), *_numbers(message.twist.twist.angular)])
    if not (all_finite(pose) and all_finite(twist)):
        raise Rejected("not_finite", f"odometry with pose {pose.tolist()} and twist {twist.tolist()}")
    if not 0.9 < np.linalg.norm(pose[3:]) < 1.1:
        raise Rejected("wrong_shape", f"odometry whose quaternion has the length {np.linalg.norm(pose[3:]):.3f}")
    turned = _matrix(pose[3:])
    return pose, np.concatenate([turned @ twist[:3], turned @ twist[3:]])


def odometry_readings(message: Odometry, prefix: str) -> Readings:
    """`{prefix}pos`, `quat` (wxyz), `linvel`, `angvel` in the world, and `velocity`: forward, to the left, yaw rate, in the body's frame.

    Raises:
        Rejected: as `odometry_arrays`.
    """
    pose, twist = odometry_arrays(message)
    linear, angular = message.twist.twist.linear, message.twist.twist.angular
    parts = {"pos": pose[:3], "quat": pose[3:], "linvel": twist[:3], "angvel": twist[3:]}
    return {**{prefix + k: _tensor(v) for k, v in parts.items()}, "velocity": _tensor([linear.x, linear.y, angular.z])}


def imu(readings: Readings, prefix: str, stamp: int) -> Imu:
    """Attitude and body rates; accelerations are said to be unknown, as REP 145 has it."""
    message = Imu()
    message.header.stamp, message.header.frame_id = to_time(stamp), BASE_FRAME
    wxyz, angvel = (readings[prefix + part][0].double().numpy() for part in ("quat", "angvel"))
    turn = message.orientation
    turn.w, turn.x, turn.y, turn.z = (float(v) for v in wxyz)
    _put(message.angular_velocity, _matrix(wxyz).T @ angvel)
    message.linear_acceleration_covariance[0] = -1.0
    return message


def path(points: Tensor, stamp: int) -> Path:
    """Points (1, 2 W) x, y, x, y ... in the vehicle's frame, e.g. waypoints that it sees."""
    message = Path()
    message.header.stamp, message.header.frame_id = to_time(stamp), BASE_FRAME
    for x, y in points[0].view(-1, 2).tolist():
        place = PoseStamped()
        place.header = message.header
        place.pose.position.x, place.pose.position.y = x, y
        message.poses.append(place)
    return message


def path_readings(message: Path, name: str) -> Readings:
    """Points of a path (2 W,) x, y, x, y ...

    Raises:
        Rejected: wrong_frame or not_finite.
    """
    _check_frame(message.header.frame_id, name, BASE_FRAME)
    return _finite({name: _tensor([v for p in message.poses for v in (p.pose.position.x, p.pose.position.y)])})


def scan(echoes: Tensor, lidar: Lidar, stamp: int) -> LaserScan:
    """The nearest echo of each sector (1, beams) in m, told in the sector's middle; no echo is infinitely far (REP 117)."""
    width = lidar.field / lidar.beams
    message = LaserScan(angle_min=0.5 * (width - lidar.field), angle_max=0.5 * (lidar.field - width), angle_increment=width, range_max=lidar.range)
    message.header.stamp, message.header.frame_id = to_time(stamp), BASE_FRAME
    message.ranges = [echo if echo < lidar.range else float("inf") for echo in echoes[0].tolist()]
    return message


def scan_readings(message: LaserScan, name: str, lidar: Lidar) -> Readings:
    """The nearest echo in each sector (beams,) in m, of a scanner with any number of rays; `lidar.range` where there is none.

    Raises:
        Rejected: wrong_frame, not_finite, or wrong_shape where no ray lies in a sector.
    """
    _check_frame(message.header.frame_id, name, BASE_FRAME)
    limits = (message.angle_min, message.angle_increment, message.range_min)
    if not np.isfinite(limits).all() or np.isnan(message.range_max):
        raise Rejected("not_finite", f"{name}: angle_min, angle_increment and range_min are {limits}, range_max is {message.range_max}")
    echoes = np.array(message.ranges, dtype=np.float64)
    angle = message.angle_min + message.angle_increment * np.arange(len(echoes))
    sector = np.floor(((angle + np.pi) % (2 * np.pi) - np.pi + 0.5 * lidar.field) * lidar.beams / lidar.field).astype(int)
    told = (sector >= 0) & (sector < lidar.beams) & ~np.isnan(echoes)  # NaN: nothing was measured
    if missing := sorted(set(range(lidar.beams)) - set(sector[told].tolist())):
        raise Rejected("wrong_shape", f"{name}: {len(echoes)} rays, and none that measured anything in {len(missing)} of {lidar.beams} sectors")
    near = np.full(lidar.beams, lidar.range)
    seen = np.where(echoes > message.range_max, np.inf, echoes.clip(min=message.range_min))  # what is nearer than it can measure may be -inf
    np.minimum.at(near, sector[told], seen[told])
    return {name: _tensor(near)}


# ---- commands ---------------------------------------------------------------------------------------------------------------


def planned_command(trajectory: JointTrajectory, stamp: int) -> Command:
    """A planned motion (S, J) as the command that answers the event of `stamp`."""
    time = trajectory.dt * np.arange(1, len(trajectory.qpos) + 1, dtype=np.float64)
    gripper = None if trajectory.gripper is None else trajectory.gripper.double().numpy()
    return Command(stamp, time, trajectory.qpos.double().numpy(), trajectory.qvel.double().numpy(), gripper)


def command_message(
    command: Command, joint_names: Sequence[str], fingers: Sequence[str] = (), width: tuple[float, float] = (0.0, 0.0), evenly: bool = False
) -> JointTrajectoryMsg:
    """The command with its stamp; a stamp of 0 tells a controller to begin at once.

    Without velocities a trajectory controller goes from pose to pose `evenly`; with them, on cubics (ros2_controllers, joint_trajectory_controller,
    "Trajectory Representation").

    Where it drives the gripper, the joints of that, `fingers`, come last: their effort, and as position the end of `width` (m) that it drives them to, which
    is what a gripper's own driver wants to know (control_msgs/GripperCommand).
    """
    driven = () if command.gripper is None else fingers
    message = JointTrajectoryMsg(joint_names=[*joint_names, *driven])
    message.header.stamp = to_time(command.stamp)
    for time, qpos, qvel in zip(command.time, command.qpos, command.qvel, strict=True):
        ns = round(float(time) * SECOND)
        when = Duration(sec=ns // SECOND, nanosec=ns % SECOND)
        message.points.append(JointTrajectoryPoint(positions=qpos.tolist(), velocities=[] if evenly else qvel.tolist(), time_from_start=when))
    if command.gripper is not None:
        for point, effort in zip(message.points, command.gripper, strict=True):
            point.effort = [0.0] * len(joint_names) + effort.tolist()
            point.positions.extend(np.where(effort > 0.0, width[1], width[0]).tolist())
            point.velocities.extend([] if evenly else [0.0] * len(effort))
    return message


def command_arrays(message: JointTrajectoryMsg, joint_names: Sequence[str], fingers: Sequence[str] = ()) -> Command:
    """The command with its columns in the order of `joint_names`; whether it may be carried out is the safety node's question.

    `fingers` are joints of a gripper, which it may drive as well, all or none. A set-point need not say velocities: they are 0 then.

    Raises:
        Rejected: missing_joint, unknown_joint or wrong_shape.
    """
    driven = not set(fingers).isdisjoint(message.joint_names)
    names = [*joint_names, *fingers] if driven else list(joint_names)
    order = _order(tuple(message.joint_names), tuple(names))
    if len(order) != len(message.joint_names):
        foreign = sorted(set(message.joint_names) - set(names)) or "one twice"
        raise Rejected("unknown_joint", f"command for {', '.join(message.joint_names)}: {foreign} is not of this robot")
    if not message.points:
        raise Rejected("wrong_shape", "command without points")
    columns = []
    for kind in ("positions", "velocities", "effort")[: 3 if driven else 2]:
        if kind == "velocities" and len(message.points) == 1 and not message.points[0].velocities:
            columns.append(np.zeros((1, len(names))))
            continue
        for s, point in enumerate(message.points):
            if len(getattr(point, kind)) != len(names):
                raise Rejected("wrong_shape", f"point {s} has {len(getattr(point, kind))} {kind}, expected {len(names)}")
        columns.append(np.array([getattr(p, kind) for p in message.points], dtype=np.float64)[:, order])
    time = np.array([to_stamp(p.time_from_start) / SECOND for p in message.points])
    count = len(joint_names)
    return Command(to_stamp(message.header.stamp), time, columns[0][:, :count], columns[1][:, :count], columns[2][:, count:] if driven else None)


def to_trajectory(command: Command) -> JointTrajectory:
    """The trajectory (1, S, J) that a simulator carries out.

    Raises:
        Rejected: bad_time, where the points are not equally far apart.
    """
    dt = float(command.time[0])
    if not np.allclose(command.time, dt * np.arange(1, len(command.time) + 1), rtol=0, atol=1e-6):
        raise Rejected("bad_time", f"points must lie {dt} s apart, found times {command.time.tolist()}")
    gripper = None if command.gripper is None else _tensor(command.gripper[None])
    return JointTrajectory(_tensor(command.qpos[None]), _tensor(command.qvel[None]), dt, gripper)


def twist_command(values: Twist, stamp: int) -> TwistStamped:
    """Linear x, y, z and angular x, y, z in the vehicle's frame."""
    message = TwistStamped()
    message.header.stamp, message.header.frame_id = to_time(stamp), BASE_FRAME
    _put(message.twist.linear, values[:3])
    _put(message.twist.angular, values[3:])
    return message


def twist_numbers(message: TwistStamped) -> Twist:
    """Linear x, y, z and angular x, y, z.

    Raises:
        Rejected: not_finite, also where no vehicle looks: whoever sends that has something else in mind, or nothing.
    """
    x, y, z = _numbers(message.twist.linear)
    roll, pitch, yaw = _numbers(message.twist.angular)
    values = (x, y, z, roll, pitch, yaw)
    for i, value in enumerate(values):
        if not math.isfinite(value):
            raise Rejected("not_finite", f"{('linear', 'angular')[i // 3]}.{'xyz'[i % 3]} is {value}")
    return values


# ---- labelled numbers -------------------------------------------------------------------------------------------------------


def numbers(labels: Sequence[str], values: Sequence[float]) -> Float64MultiArray:
    """Numbers with a label that names them."""
    message = Float64MultiArray(data=array("d", values))
    message.layout.dim = [MultiArrayDimension(label=",".join(labels), size=len(values), stride=len(values))]
    return message


def event_message(event: Event) -> Float64MultiArray:
    """An event."""
    return numbers(EVENT, event_values(event))


def used_message(event: Event, needs: Sequence[str], seen: Readings, executed: Tensor, circumstances: Mapping[str, float]) -> Float64MultiArray:
    """What the adapter uses to answer an event: readings name -> (n,), what was executed before, and what else counts; a bag of it can be replayed."""
    return numbers(*used_values(event, needs, seen, executed, circumstances))


def stamped(name: str, value: Tensor, stamp: int) -> Float64MultiArray:
    """A reading (1, n) that no message of ROS is made for, with its stamp in front: labels stamp_sec, stamp_nanosec, name/0, name/1 ..."""
    return numbers(_stamped_labels(name, value.shape[-1]), [*divmod(stamp, SECOND), *value[0].tolist()])


def stamp_of(message: Any) -> int:
    """ns, of what was measured: a message with a header, or one that `stamped` made.

    Raises:
        Rejected: wrong_labels, or no_stamp where it is 0, as all are of a driver that waits for a /clock which nobody publishes.
    """
    if isinstance(message, Float64MultiArray):
        if len(message.data) < 2 or not np.isfinite(message.data[:2]).all():
            raise Rejected("wrong_labels", f"{len(message.data)} numbers without a stamp in front")
        stamp = int(message.data[0]) * SECOND + int(message.data[1])
    else:
        stamp = to_stamp(message.header.stamp)
    if stamp == 0:
        raise Rejected("no_stamp", "its stamp is 0: has whoever sends it a clock? With use_sim_time somebody must publish /clock")
    return stamp


def stamped_readings(message: Float64MultiArray, name: str, size: int) -> Readings:
    """The reading (n,) of a message that `stamped` made.

    Raises:
        Rejected: wrong_labels or not_finite.
    """
    return _finite({name: _tensor(labelled(message, _stamped_labels(name, size))[2:])})


def _stamped_labels(name: str, size: int) -> list[str]:
    return ["stamp_sec", "stamp_nanosec", *(f"{name}/{i}" for i in range(size))]


# ---- common -----------------------------------------------------------------------------------------------------------------


@functools.lru_cache(maxsize=64)  # whoever speaks names the joints in the same order again and again
def _order(found: tuple[str, ...], expected: tuple[str, ...]) -> NDArray[np.intp]:
    check_names("joint", found, expected)
    return np.array([found.index(name) for name in expected], dtype=np.intp)


def _check_frame(found: str, body: str, expected: str) -> None:
    if found != expected:
        raise Rejected("wrong_frame", f"{body} is given in the frame {found!r}, expected {expected!r}")


def _numbers(vector: Any) -> list[float]:
    """x, y, z of a message."""
    return [vector.x, vector.y, vector.z]


def _put(vector: Any, values: Sequence[float] | Array) -> None:
    vector.x, vector.y, vector.z = (float(v) for v in values)


def _matrix(wxyz: Array) -> Array:
    """Rotation (3, 3) of a quaternion, made a unit one."""
    w, x, y, z = wxyz / np.linalg.norm(wxyz)
    return np.array(
        [
            [1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)],
            [2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)],
            [2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)],
        ]
    )


def _finite(readings: Readings) -> Readings:
    for name, value in readings.items():
        if not all_finite(value):
            raise Rejected("not_finite", f"reading {name} is {value.tolist()}")
    return readings


def _tensor(values: Sequence[float] | Array) -> Tensor:
    import torch

    return torch.tensor(values, dtype=torch.float32)
