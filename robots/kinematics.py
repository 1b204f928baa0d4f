"""Forward kinematics, Jacobian and straight-line inverse kinematics of a serial arm, batched, in torch.

Used where no simulator is at hand: to plan a motion primitive, and on the robot to know where the tool is.
"""

from __future__ import annotations

import functools

import torch
from torch import Tensor

from metarl.robots.spec import ArmSpec, constant

# Entry by entry of a rotation matrix, row by row: base + scale (q_a q_b + sign q_c q_d)
_A, _B = (2, 1, 1, 1, 1, 2, 1, 2, 1), (2, 2, 3, 2, 1, 3, 3, 3, 1)
_C, _D = (3, 0, 0, 0, 3, 0, 0, 0, 2), (3, 3, 2, 3, 3, 1, 2, 1, 2)
_SIGN = (1.0, -1.0, 1.0, 1.0, 1.0, -1.0, -1.0, 1.0, 1.0)
_BASE, _SCALE = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0), (-2.0, 2.0, 2.0, 2.0, -2.0, 2.0, 2.0, 2.0, -2.0)


def rotation_from_wxyz(quat: Tensor) -> Tensor:
    """Rotation matrices (..., 3, 3) of unit quaternions (..., 4), w first."""
    a, b, c, d = (quat.index_select(-1, constant(part, torch.long, quat.device)) for part in (_A, _B, _C, _D))  # few large products: quicker than many small
    sign, base, scale = (constant(part, quat.dtype, quat.device) for part in (_SIGN, _BASE, _SCALE))
    return torch.addcmul(base, scale, torch.addcmul(a * b, sign, c * d)).unflatten(-1, (3, 3))


def yaw_of(turned: Tensor) -> Tensor:
    """(...) rad, about the vertical, of rotation matrices (..., 3, 3)."""
    return torch.atan2(turned[..., 1, 0], turned[..., 0, 0])


@functools.lru_cache
def _chain(spec: ArmSpec, dtype: torch.dtype, device: torch.device) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Joint frames in their parents as cos(qpos) A + sin(qpos) B + C, each (J, 4, 4), and (4, 4) of the tool in the last one."""

    def transform(pos: tuple[float, ...], quat: tuple[float, ...]) -> Tensor:
        result = torch.eye(4, dtype=torch.float64)
        result[:3, :3] = rotation_from_wxyz(torch.tensor(quat, dtype=torch.float64))
        result[:3, 3] = torch.tensor(pos, dtype=torch.float64)
        return result

    joints = [transform(p, q) for p, q in zip(spec.joint_pos, spec.joint_quat_wxyz, strict=True)]
    tool = transform(spec.tool_pos, spec.tool_quat_wxyz)
    x, y, zw = torch.stack(joints).split((1, 1, 2), -1)
    zero, zeros = torch.zeros_like(x), torch.zeros_like(zw)
    parts = (torch.cat(columns, -1) for columns in ((x, y, zeros), (y, -x, zeros), (zero, zero, zw)))
    cosine, sine, fixed, tool = (part.to(device, dtype) for part in (*parts, tool))
    return cosine, sine, fixed, tool


def joint_and_tool_frames(spec: ArmSpec, qpos: Tensor) -> tuple[Tensor, Tensor]:
    """Poses in the robot's base frame.

    Args:
        spec: the robot.
        qpos: (..., J) rad.

    Returns:
        (..., J, 3, 4) of the joint frames, after each joint's rotation, and (..., 3, 4) of the tool frame: all but the last rows, 0 0 0 1.
    """
    joints, tool = _turned(spec, qpos)
    frames = [joints[0][..., :3, :]]
    for joint in joints[1:]:
        frames.append(frames[-1] @ joint)
    return torch.stack(frames, -3), frames[-1] @ tool


def _turned(spec: ArmSpec, qpos: Tensor) -> tuple[tuple[Tensor, ...], Tensor]:
    """J times (..., 4, 4), each joint's frame in its parent's, and (4, 4) of the tool in the last one."""
    cosine, sine, fixed, tool = _chain(spec, qpos.dtype, qpos.device)
    turned = cosine * qpos.cos()[..., None, None] + sine * qpos.sin()[..., None, None] + fixed
    return turned.unbind(-3), tool


def tool_pose(spec: ArmSpec, qpos: Tensor) -> tuple[Tensor, Tensor]:
    """Position (..., 3) in m and rotation matrix (..., 3, 3) of the tool frame in the base frame, for qpos (..., J)."""
    joints, tool = _turned(spec, qpos)
    frame = functools.reduce(torch.matmul, (*joints, tool))
    return frame[..., :3, 3], frame[..., :3, :3]


def jacobian(spec: ArmSpec, qpos: Tensor) -> tuple[Tensor, Tensor]:
    """Tool frame (..., 3, 4) and its geometric Jacobian (..., 6, J): linear rows, then angular, in the base frame."""
    joints, tool = joint_and_tool_frames(spec, qpos)
    axis = joints[..., 2]
    lever = tool[..., None, :, 3] - joints[..., 3]
    return tool, torch.cat([torch.linalg.cross(axis, lever), axis], -1).transpose(-1, -2).contiguous()  # products with it are quicker


def follow_line(
    spec: ArmSpec, start_qpos: Tensor, points: Tensor, iterations: int = 2, damping: float = 1e-4, posture_gain: float = 0.1, square: bool = False
) -> Tensor:
    """Joint poses that bring the tool to each of W points in turn, pointing straight down (damped least squares).

    What freedom is left is used to stay near the home pose.

    Args:
        spec: the robot.
        start_qpos: (..., J) where the search begins, rad.
        points: (..., W, 3) m, base frame.
        iterations: Newton steps per point; neighbours are near, so few suffice.
        damping: of the least squares, m² (and rad²).
        posture_gain: pull towards the home pose in the null space, per iteration.
        square: keep the tool's x axis along the base's, too; else the angle about the vertical is left free.

    Returns:
        (..., W, J) rad, inside the position limits.
    """
    home = start_qpos.new_tensor(spec.home_qpos)
    low, high = spec.qpos_range(start_qpos)
    down = start_qpos.new_tensor([0.0, 0.0, -1.0])
    rows = 6 if square else 5
    damped = damping * torch.eye(rows, dtype=start_qpos.dtype, device=start_qpos.device)
    qpos, path = start_qpos, []
    for w in range(points.shape[-2]):
        for _ in range(iterations):
            tool, jac = jacobian(spec, qpos)
            tilt = torch.linalg.cross(tool[..., 2], down.expand_as(tool[..., 2]))
            error = torch.cat([points[..., w, :] - tool[..., 3], tilt[..., :2], -tool[..., 1:2, 0]], -1)[..., :rows]
            jac = jac[..., :rows, :]
            posture = posture_gain * (home - qpos)
            error = error - (jac @ posture.unsqueeze(-1)).squeeze(-1)
            solved = torch.linalg.solve(jac @ jac.transpose(-1, -2) + damped, error.unsqueeze(-1))
            qpos = (qpos + posture + (jac.transpose(-1, -2) @ solved).squeeze(-1)).clamp(low, high)
        path.append(qpos)
    return torch.stack(path, -2)
