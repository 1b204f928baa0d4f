"""The grasp: motion primitives of a parallel gripper that close on an object with a chosen force, lift it, carry it and put it down.

Planned without a simulator, in torch, for any number of robots at once; each is one JointTrajectory with the efforts of the fingers.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from metarl.robots.kinematics import follow_line, tool_pose
from metarl.robots.spec import ArmSpec, JointTrajectory

if TYPE_CHECKING:
    import mujoco

DT = 0.02  # s between two points of the trajectory
OPEN, CLOSE = 3.0, -2.0  # N that open the fingers, and that close them until both touch
FINGER_DAMPING = 15.0  # N·s/m of the drive
COUPLING = 4000.0  # N/m between the two fingers, which one motor drives in the same measure
Waypoint = tuple[float, Tensor, Tensor]  # s that the way takes, (..., 3) m where the tool is then, (...) N on each finger meanwhile


def equip(spec: mujoco.MjSpec, robot: ArmSpec) -> None:
    """Give the robot's fingers ribs to hold with, and let efforts drive them instead of a wanted width.

    Two upright ribs a finger hold a round object at four places, so that it does not turn between the fingers at a touch; two flat pads
    would touch it in two points. The fingers stay in the middle of the hand: what pushes one outwards pulls the other in.
    """
    import mujoco

    tendon = spec.add_tendon(name="fingers", stiffness=[COUPLING, 0, 0], springlength=[0.0, 0.0])
    for joint, sign in zip(robot.gripper_joint_names, (1.0, -1.0), strict=True):
        tendon.wrap_joint(joint, sign)
        drive = spec.actuator(joint)
        drive.gainprm[0], drive.biasprm[:3] = 1.0, [0.0, 0.0, -FINGER_DAMPING]
        for x in (-0.008, 0.008):
            rib = spec.body(joint.replace("_joint", "")).add_geom(
                name=f"{joint}_rib_{'front' if x > 0 else 'back'}", type=mujoco.mjtGeom.mjGEOM_BOX, size=[0.004, 0.004, 0.027],
                pos=[x, 0.004 * sign, 0.025], mass=0.0, contype=2, conaffinity=0, rgba=[0.15, 0.15, 0.15, 1],
            )  # fmt: skip
            rib.solref = [0.008, 1.0]


def plan(robot: ArmSpec, start_qpos: Tensor, way: Sequence[Waypoint]) -> JointTrajectory:
    """The tool, pointing down and square to the base, along straight lines; at rest at each waypoint.

    Args:
        robot: an arm with a parallel gripper.
        start_qpos: (..., J) measured pose at rest, rad.
        way: where to, in what time, and with what effort of the fingers (positive opens).
    """
    here, points, efforts = tool_pose(robot, start_qpos)[0], [], []
    for duration, there, effort in way:
        count = round(duration / DT)
        s = (torch.arange(1, count + 1, dtype=there.dtype, device=there.device) / count).unsqueeze(-1)
        points.append(here.unsqueeze(-2) + (there - here).unsqueeze(-2) * (s**3 * (10 - 15 * s + 6 * s**2)))  # minimum jerk
        efforts.append(effort[..., None, None].expand(*effort.shape, count, len(robot.gripper_joint_names)))
        here = there
    qpos = follow_line(robot, start_qpos, torch.cat(points, -2), square=True)
    padded = torch.cat([start_qpos.unsqueeze(-2), qpos, qpos[..., -1:, :]], -2)
    qvel = (padded[..., 2:, :] - padded[..., :-2, :]) / (2 * DT)
    qvel[..., -1, :] = 0.0
    return JointTrajectory(qpos, qvel, DT, torch.cat(efforts, -2))


def either(chosen: Tensor, one: JointTrajectory, other: JointTrajectory) -> JointTrajectory:
    """The first of two trajectories of equal length where `chosen` (...), else the second."""
    assert one.gripper is not None and other.gripper is not None
    pairs = zip((one.qpos, one.qvel, one.gripper), (other.qpos, other.qvel, other.gripper), strict=True)
    qpos, qvel, gripper = (torch.where(chosen[..., None, None], a, b) for a, b in pairs)
    return JointTrajectory(qpos, qvel, one.dt, gripper)
