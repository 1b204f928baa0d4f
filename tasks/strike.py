"""The strike: a motion primitive that hits an object lying on a table so that it slides away.

Planned without a simulator, in torch, for any number of robots at once; the result is one JointTrajectory.
"""

from __future__ import annotations

import torch
from torch import Tensor

from metarl.robots.kinematics import follow_line, tool_pose
from metarl.robots.spec import ArmSpec, JointTrajectory

DT = 0.02  # s between two points of the trajectory
APPROACH, RUN_UP, BRAKE = 0.5, 0.3, 0.25  # s: to the place behind the object; from rest to full speed; from full speed to rest, at least
CORRECTIONS, MARGIN = 3, 0.03  # a strike that asks too much of a joint is slowed down to leave this part of the limit, until it fits
AT_SPEED = 0.06  # m before the object's centre where full speed is reached, and kept until the centre


def plan_strike(
    robot: ArmSpec, start_qpos: Tensor, through: Tensor, direction: Tensor, speed: Tensor, slowest: float, approach: float = APPROACH
) -> JointTrajectory:
    """A straight stroke of the tool, pointing down, through a point at a given speed, or as fast as the joints allow.

    Args:
        robot: the arm.
        start_qpos: (..., J) measured pose at rest, rad.
        through: (..., 3) m, base frame: where the tool stops being at full speed (the middle of the object).
        direction: (...) rad, of the stroke in the horizontal plane.
        speed: (...) m/s; lowered where a joint would leave its velocity or acceleration limit.
        slowest: m/s, lowest speed that may be asked for; gives the trajectory its length, the same for all.
        approach: s, to the place where the run-up begins.

    Returns:
        A trajectory of (approach + RUN_UP + AT_SPEED / slowest + BRAKE) / DT points.
    """
    qpos, qvel = _stroke(robot, start_qpos, through, direction, speed, slowest, approach)
    for _ in range(CORRECTIONS):
        used = _part_of_limits(robot, start_qpos, qpos, qvel)
        over = used > 1.0 - 0.5 * MARGIN
        if not bool(over.any()):
            break
        # all phases but the last have a fixed duration, so that joint speeds go with the tool's
        speed = torch.where(over, speed / (used * (1.0 + MARGIN)), speed)
        qpos[over], qvel[over] = _stroke(robot, start_qpos[over], through[over], direction[over], speed[over], slowest, approach)
    return JointTrajectory(qpos, qvel, DT)


def _stroke(robot: ArmSpec, start_qpos: Tensor, through: Tensor, direction: Tensor, speed: Tensor, slowest: float, approach: float) -> tuple[Tensor, Tensor]:
    """Joint positions and velocities (..., S, J) of the stroke, whatever the joints can do."""
    heading = torch.stack([direction.cos(), direction.sin(), torch.zeros_like(direction)], -1)
    duration = approach + RUN_UP + AT_SPEED / slowest + BRAKE
    time = torch.arange(1, round(duration / DT) + 1, dtype=through.dtype, device=through.device) * DT
    along = _distance_along(time - approach, speed.unsqueeze(-1)).unsqueeze(-1)  # (..., S, 1)
    stroke = through.unsqueeze(-2) + along * heading.unsqueeze(-2)
    begin = stroke[..., :1, :]  # the run-up has not begun at the first point
    here = tool_pose(robot, start_qpos)[0].unsqueeze(-2)
    s = (time / approach).clamp(max=1.0).unsqueeze(-1)
    to_it = here + (begin - here) * (s**3 * (10 - 15 * s + 6 * s**2))  # minimum jerk
    qpos = follow_line(robot, start_qpos, torch.where((time < approach).unsqueeze(-1), to_it, stroke))
    padded = torch.cat([start_qpos.unsqueeze(-2), qpos, qpos[..., -1:, :]], -2)
    qvel = (padded[..., 2:, :] - padded[..., :-2, :]) / (2 * DT)
    qvel[..., -1, :] = 0.0
    return qpos, qvel


def _part_of_limits(robot: ArmSpec, start_qpos: Tensor, qpos: Tensor, qvel: Tensor) -> Tensor:
    """(...) largest part of a joint's velocity or acceleration limit that is used, at points (..., S, J) and between them."""
    rest = start_qpos.unsqueeze(-2)
    mean = torch.cat([rest, qpos], -2).diff(dim=-2) / DT
    before = torch.cat([torch.zeros_like(rest), qvel[..., :-1, :]], -2)
    middle = 1.5 * mean - 0.25 * (before + qvel)  # of the cubic between two points, as are the accelerations at its ends
    ends = torch.stack([6 * mean - 4 * before - 2 * qvel, -6 * mean + 2 * before + 4 * qvel]) / DT
    speed = torch.maximum(qvel.abs(), middle.abs()) / qvel.new_tensor(robot.qvel_limits)
    acceleration = ends.abs().amax(0) / qvel.new_tensor(robot.qacc_limits)
    return torch.maximum(speed, acceleration).amax((-2, -1))


def _distance_along(time: Tensor, speed: Tensor) -> Tensor:
    """(..., S) m from the end of the part at full speed, at times since the run-up began: speed up, keep speed, brake."""
    cruise = AT_SPEED / speed
    brake_time = time[-1] - RUN_UP - cruise  # a fast stroke has the time to brake gently
    run_up = 0.5 * speed / RUN_UP * time.clamp(0.0, RUN_UP) ** 2
    keep = speed * (time - RUN_UP).clamp(min=0.0).minimum(cruise)
    braking = (time - RUN_UP - cruise).clamp(min=0.0)
    brake = speed * braking - 0.5 * speed / brake_time * braking**2
    return run_up + keep + brake - 0.5 * speed * RUN_UP - AT_SPEED
