"""Which topic carries which readings, and how: the same list for whoever says them (sim) and whoever hears them (adapter, task).

The robot's own state comes as JointState or Odometry; what has a body's name as PoseStamped and TwistStamped on `seen/BODY`, `seen/BODY_twist`;
waypoints as Path; what a lidar hears as LaserScan on `scan`; everything else (a map, an odometer) as labelled numbers with a stamp on `seen/NAME`.
`seen` is what the robot's imperfect sensors make of it, `measured` is the truth, for whoever judges.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

from geometry_msgs.msg import PoseStamped, TwistStamped
from nav_msgs.msg import Odometry, Path
from sensor_msgs.msg import JointState, LaserScan
from std_msgs.msg import Float64MultiArray

from metarl.ros_nodes import messages, readings
from metarl.ros_nodes.wires import VehicleWire, Wire
from metarl.tasks.sensing import Lidar
from metarl.tasks.task import Readings, Task

POINTS, ECHOES = "waypoints", "lidar"  # readings that are said as Path and as LaserScan


@dataclass(frozen=True)
class Channel:
    """One topic.

    Attributes:
        topic: relative.
        kind: of its messages.
        say: readings of one robot (1, n) and a stamp in ns, as message.
        hear: a message as readings (n,); refuses with `Rejected`.
    """

    topic: str
    kind: type[Any]
    say: Callable[[Readings, int], Any]
    hear: Callable[[Any], Readings]


def channels(wire: Wire, task: Task, needs: tuple[str, ...], source: str) -> tuple[Channel, ...]:
    """The robot's own state, and whatever else brings the readings that are needed.

    Args:
        wire: of the robot.
        task: whose readings.
        needs: names of the readings.
        source: "seen" or "measured".
    """
    found = [_own(wire, source)]
    for body, parts in readings.bodies(task, needs).items():
        if {"pos", "quat"} & set(parts):
            pose = partial(_pose, body=body, frame=wire.frame), partial(messages.pose_readings, body=body, frame=wire.frame)
            found.append(Channel(f"{source}/{body}", PoseStamped, *pose))
        if {"linvel", "angvel"} & set(parts):
            twist = partial(_twist, body=body, frame=wire.frame), partial(messages.twist_readings, body=body, frame=wire.frame)
            found.append(Channel(f"{source}/{body}_twist", TwistStamped, *twist))
    for name in readings.others(task, needs):
        if name == POINTS:
            found.append(Channel(f"{source}/{name}", Path, partial(_path, name=name), partial(messages.path_readings, name=name)))
        elif name == ECHOES and task.lidar is not None:
            how = partial(_scan, name=name, lidar=task.lidar), partial(messages.scan_readings, name=name, lidar=task.lidar)
            found.append(Channel("scan", LaserScan, *how))
        else:
            hear = partial(messages.stamped_readings, name=name, size=readings.size(task, name))
            found.append(Channel(f"{source}/{name}", Float64MultiArray, partial(_stamped, name=name), hear))
    return tuple(found)


def _own(wire: Wire, source: str) -> Channel:
    if isinstance(wire, VehicleWire):  # true is what a tracking system says, and no wheel encoder
        topic = wire.state_topic if source == "seen" else f"{source}/{wire.state_topic}"
        prefix = wire.robot.prefix
        return Channel(topic, Odometry, partial(_odometry, prefix=prefix), partial(messages.odometry_readings, prefix=prefix))
    names = wire.joint_names
    return Channel(wire.state_topic, JointState, partial(_joints, joint_names=names), partial(messages.joint_readings, joint_names=names))


def _joints(found: Readings, stamp: int, joint_names: tuple[str, ...]) -> JointState:
    qpos, qvel, effort = (found[name][0].double().numpy() if name in found else None for name in ("qpos", "qvel", "effort"))
    assert qpos is not None, "every joint is measured"
    assert qvel is not None, "every joint is measured"
    return messages.joint_state(joint_names, qpos, qvel, stamp, effort)


def _odometry(found: Readings, stamp: int, prefix: str) -> Odometry:
    return messages.odometry(found, prefix, stamp)


def _pose(found: Readings, stamp: int, body: str, frame: str) -> PoseStamped:
    return messages.pose(found, body, stamp, frame)


def _twist(found: Readings, stamp: int, body: str, frame: str) -> TwistStamped:
    return messages.twist(found, body, stamp, frame)


def _path(found: Readings, stamp: int, name: str) -> Path:
    return messages.path(found[name], stamp)


def _scan(found: Readings, stamp: int, name: str, lidar: Lidar) -> LaserScan:
    return messages.scan(found[name], lidar, stamp)


def _stamped(found: Readings, stamp: int, name: str) -> Float64MultiArray:
    return messages.stamped(name, found[name], stamp)
