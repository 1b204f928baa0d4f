"""The strike: a motion primitive that hits an object lying on a table so that it slides away.

Planned without a simulator, in torch, for any number of robots at once; the result is one JointTrajectory.
"""

from __future__ import annotations

import torch
from torch import Tensor

from metarl.robots.kinematics import follow_line, tool_pose
from metarl.robots.spec import JointTrajectory, RobotSpec

DT = 0.02  # s between two points of the trajectory
APPROACH, RUN_UP, BRAKE = 0.5, 0.3, 0.25  # s: to the place behind the object; from rest to full speed; from full speed to rest
AT_SPEED = 0.06  # m before the object's centre where full speed is reached, and kept until the centre


def plan_strike(robot: RobotSpec, start_qpos: Tensor, through: Tensor, direction: Tensor, speed: Tensor, slowest: float) -> JointTrajectory:
    """A straight stroke of the tool, pointing down, through a point at a given speed.

    Args:
        robot: the arm.
        start_qpos: (..., J) measured pose at rest, rad.
        through: (..., 3) m, base frame: where the tool stops being at full speed (the middle of the object).
        direction: (...) rad, of the stroke in the horizontal plane.
        speed: (...) m/s.
        slowest: m/s, lowest speed that may be asked for; gives the trajectory its length, the same for all.

    Returns:
        A trajectory of (APPROACH + RUN_UP + AT_SPEED / slowest + BRAKE) / DT points.
    """
    heading = torch.stack([direction.cos(), direction.sin(), torch.zeros_like(direction)], -1)
    duration = APPROACH + RUN_UP + AT_SPEED / slowest + BRAKE
    time = torch.arange(1, round(duration / DT) + 1, dtype=through.dtype, device=through.device) * DT
    along = _distance_along(time - APPROACH, speed.unsqueeze(-1))  # (..., S)
    stroke = through.unsqueeze(-2) + along.unsqueeze(-1) * heading.unsqueeze(-2)
    begin = stroke[..., :1, :] - (along[..., :1] - _distance_along(time[:1] * 0, speed.unsqueeze(-1))).unsqueeze(-1) * heading.unsqueeze(-2)
    here = tool_pose(robot, start_qpos)[0].unsqueeze(-2)
    s = (time / APPROACH).clamp(max=1.0).unsqueeze(-1)
    approach = here + (begin - here) * (s**3 * (10 - 15 * s + 6 * s**2))  # minimum jerk
    points = torch.where((time < APPROACH).unsqueeze(-1), approach, stroke)
    qpos = follow_line(robot, start_qpos, points)
    padded = torch.cat([start_qpos.unsqueeze(-2), qpos, qpos[..., -1:, :]], -2)
    qvel = (padded[..., 2:, :] - padded[..., :-2, :]) / (2 * DT)
    qvel[..., -1, :] = 0.0
    return JointTrajectory(qpos, qvel, DT)


def _distance_along(time: Tensor, speed: Tensor) -> Tensor:
    """(..., S) m from the end of the part at full speed, at times since the run-up began: speed up, keep speed, brake."""
    cruise = AT_SPEED / speed
    run_up = 0.5 * speed / RUN_UP * time.clamp(0.0, RUN_UP) ** 2
    keep = speed * (time - RUN_UP).clamp(min=0.0).minimum(cruise)
    braking = (time - RUN_UP - cruise).clamp(0.0, BRAKE)
    brake = speed * braking - 0.5 * speed / BRAKE * braking**2
    return run_up + keep + brake - 0.5 * speed * RUN_UP - AT_SPEED
