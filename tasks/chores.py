"""Chores: what a mobile robot with a peg does in one decision, as one joint trajectory of base and arm.

Drive to a station, lower the peg, move it along a path, raise it; or, with the pot, drive on to another station in between. Planned without
a simulator, in torch, for any number of robots at once.
"""

from __future__ import annotations

import functools

import torch
from torch import Tensor

from metarl.robots import arm7
from metarl.robots.kinematics import follow_line, tool_pose
from metarl.robots.spec import JointTrajectory
from metarl.tasks import appliances
from metarl.tasks.appliances import CAROUSEL, CRANK, HANDLE, HINGE_RADIUS, KNOBS

DT = 0.1  # s between two points of the trajectory
DRIVE, SETTLE, LOWER, WORK, RAISE = 15, 3, 5, 12, 5  # points of each phase: as few as the velocity and acceleration limits of the arm allow
DURATION = DT * (DRIVE + SETTLE + LOWER + WORK + RAISE)  # s
LIFT = 0.05  # m, of the peg above its work while it drives
READY = (0.5, 0.0, 0.25)  # m, the peg in the arm's frame at the beginning
# m, rad, rad, m, rad, m, rad: motions of the hand, some of it lost to play
PULL, SWING, DROP, SHIFT, SPIN, PUSH, TURN = 0.31, 1.2, 1.05, 0.3, 3.1, 0.12, 2.4
STRIDE = 0.05  # m, longest way between two points of a motion that opens something
OPENINGS = ("pull", "swing_left", "swing_right", "drop", "shift_left", "shift_right", "spin", "push")
"""Motions that open the mechanisms of the cupboard, in the order of `appliances.MECHANISMS`."""


@functools.lru_cache
def ready_qpos() -> tuple[float, ...]:
    """Joint pose of the arm with the peg at READY, pointing down; rad."""
    home = torch.tensor(arm7.SPEC.home_qpos, dtype=torch.float64)
    here = tool_pose(arm7.SPEC, home)[0]
    path = here + torch.linspace(0, 1, 50, dtype=torch.float64).unsqueeze(-1) * (torch.tensor(READY, dtype=torch.float64) - here)
    return tuple(follow_line(arm7.SPEC, home, path, iterations=5)[-1].tolist())


def plan(start_qpos: Tensor, first: Tensor, second: Tensor, path: Tensor, waiting: Tensor) -> JointTrajectory:
    """Drive to a stand with the peg going to the beginning of a path, follow it, raise the peg; drive to the second stand on the way.

    Args:
        start_qpos: (N, 10) last commanded pose of base and arm.
        first: (N, 3) x, y, heading of the base, m and rad.
        second: (N, 3) the same after the path.
        path: (N, 1 + SETTLE + LOWER + WORK, 3) of the peg in the arm's frame, m: `worked` or `carried`.
        waiting: (N,) bool, stay where you are instead.

    Returns:
        A trajectory of DRIVE + SETTLE + LOWER + WORK + RAISE points of the 10 joints.
    """
    base, arm = start_qpos[:, :3], start_qpos[:, 3:]
    here, last = tool_pose(arm7.SPEC, arm)[0], path[:, -1]
    points = torch.cat([_between(here, path[:, 0], DRIVE), path[:, 1:], _between(last, last + last.new_tensor([0.0, 0.0, LIFT]), RAISE)], 1)
    stay = [place.unsqueeze(1).expand(-1, number, -1) for place, number in ((first, SETTLE), (second, RAISE))]
    base_qpos = torch.cat([_between(base, first, DRIVE), stay[0], _between(first, second, LOWER + WORK), stay[1]], 1)
    qpos = torch.cat([base_qpos, follow_line(arm7.SPEC, arm, points)], -1)
    qpos = torch.where(waiting[:, None, None], start_qpos.unsqueeze(1), qpos)
    padded = torch.cat([start_qpos.unsqueeze(1), qpos, qpos[:, -1:]], 1)
    qvel = (padded[:, 2:] - padded[:, :-2]) / (2 * DT)
    qvel[:, -1] = 0.0
    return JointTrajectory(qpos, qvel, DT)


def worked(path: Tensor) -> Tensor:
    """What the peg does to follow a path (N, WORK + 1, 3): wait above its beginning until nothing swings, come down."""
    above = path[:, 0] + path.new_tensor([0.0, 0.0, LIFT])
    return torch.cat([_between(above, above, SETTLE, begin=True), _between(above, path[:, 0], LOWER), path[:, 1:]], 1)


def carried(begin: Tensor, end: Tensor) -> Tensor:
    """What the peg does to carry the pot from (N, 3) in the first station's frame to (N, 3) in the second one's, over a hill."""
    path = _between(begin, end, LOWER + WORK)
    path[..., 2] += LIFT * torch.linspace(0, torch.pi, LOWER + WORK + 1)[1:].sin()
    return torch.cat([_between(begin + begin.new_tensor([0.0, 0.0, LIFT]), begin, SETTLE, begin=True), path], 1)


def open_path(handle: Tensor, motion: Tensor) -> Tensor:
    """(N, WORK + 1, 3) paths from where a handle (N, 3) is, for motions (N,) as indices into OPENINGS; in the cupboard's frame, m."""
    x, y, z = handle.unbind(-1)
    closed_x, closed_y = (torch.full_like(x, v) for v in HANDLE[:2])
    goals = [torch.stack(g, -1) for g in ((closed_x - PULL, y, z), (x, closed_y + SHIFT, z), (x, closed_y - SHIFT, z), (closed_x + PUSH, y, z))]
    pull, left, right, push = (_between(handle, goal, WORK, begin=True) for goal in goals)
    paths = [pull, _swing(handle, 1.0), _swing(handle, -1.0), _drop(handle), left, right, _spin(handle), push]
    path = torch.stack(paths, 1)[torch.arange(len(handle)), motion]
    longest = (path[:, 1:] - path[:, :-1]).norm(dim=-1).amax(1)  # from where another mechanism has brought the handle the way may be too far
    shorter = (STRIDE / longest.clamp(min=1e-6)).clamp(max=1.0)[:, None, None]
    return path[:, :1] + shorter * (path - path[:, :1])


def _onto(handle: Tensor, arc: Tensor) -> Tensor:
    """An arc (N, WORK + 1, 3) that begins at the handle (N, 3), which need not be where such a door would have it."""
    return arc + (handle.unsqueeze(1) - arc[:, :1]) * (1 - _smooth(WORK, begin=True)).unsqueeze(-1)


def _swing(handle: Tensor, side: float) -> Tensor:
    """Paths about a hinge at the left (1) or right (-1)."""
    began = appliances.swing_angle(handle, side).unsqueeze(-1)
    angle = began + _smooth(WORK, begin=True) * (SWING - began).clamp(min=0.0)
    x, y = HANDLE[0] - HINGE_RADIUS * angle.sin(), side * HINGE_RADIUS * (1 - angle.cos())
    return _onto(handle, torch.stack([x, y, handle[:, 2:].expand_as(x)], -1))


def _drop(handle: Tensor) -> Tensor:
    """Paths about a hinge below."""
    angle = (DROP * _smooth(WORK, begin=True)).expand(len(handle), -1)
    x, z = HANDLE[0] - HINGE_RADIUS * angle.sin(), HANDLE[2] - HINGE_RADIUS * (1 - angle.cos())
    return _onto(handle, torch.stack([x, handle[:, 1:2].expand_as(x), z], -1))


def _spin(handle: Tensor) -> Tensor:
    """Paths about the axis of a carousel."""
    angle = (SPIN * _smooth(WORK, begin=True)).expand(len(handle), -1)
    x, y = HANDLE[0] - CAROUSEL * angle.sin(), CAROUSEL * (1 - angle.cos())
    return _onto(handle, torch.stack([x, y, handle[:, 2:].expand_as(x)], -1))


def turn_path(crank: Tensor, knob: Tensor, direction: Tensor) -> Tensor:
    """(N, WORK + 1, 3) paths about knobs (N,), counted from 0, from where their cranks (N, 3) are; direction (N,) 1 turns left; stove's frame, m."""
    axis = crank.new_tensor(KNOBS)[knob]
    x, y, z = (crank - axis).unbind(-1)
    angle = torch.atan2(y, x).unsqueeze(-1) + direction.unsqueeze(-1) * TURN * _smooth(WORK, begin=True)
    circle = torch.stack([CRANK * angle.cos(), CRANK * angle.sin(), z.unsqueeze(-1).expand_as(angle)], -1)
    return axis.unsqueeze(1) + circle


def _smooth(number: int, begin: bool = False) -> Tensor:
    """Parts of the way, from rest to rest with minimum jerk: (number,), or (number + 1,) with the beginning."""
    s = torch.arange(0 if begin else 1, number + 1) / number
    return s**3 * (10 - 15 * s + 6 * s**2)


def _between(here: Tensor, there: Tensor, number: int, begin: bool = False) -> Tensor:
    return here.unsqueeze(1) + _smooth(number, begin).unsqueeze(-1) * (there - here).unsqueeze(1)
