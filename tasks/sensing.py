"""Imperfections of sensors, as pure functions: what a robot makes of the truth."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from metarl.robots.spec import constant


class Lidar(NamedTuple):
    """A planar scanner in the middle of its robot, as the reading `lidar` (..., beams) tells it: the nearest echo in each sector, from right to left.

    Attributes:
        beams: sectors of equal width.
        field: rad that they cover together, straight on in the middle.
        range: m, farthest echo; where there is none, this is told.
    """

    beams: int
    field: float
    range: float


def hand_eye(pos: Tensor, yaw: Tensor, shift: Tensor, pivot: tuple[float, float, float]) -> Tensor:
    """Where a camera with a wrong hand-eye calibration believes a point to be.

    Args:
        pos: (..., 3) m, true position in the base frame.
        yaw: (...) rad, error of the calibration about the vertical through `pivot`.
        shift: (..., 3) m, error of the calibration's translation.
        pivot: m, where the calibration was made.

    Returns:
        (..., 3) m, base frame as the robot believes it.
    """
    centre = constant(pivot, pos.dtype, pos.device)
    x, y, z = (pos - centre).unbind(-1)
    cos, sin = yaw.cos(), yaw.sin()
    return torch.stack([cos * x - sin * y, sin * x + cos * y, z], -1) + centre + shift


def undo_hand_eye(pos: Tensor, yaw: Tensor, shift: Tensor, pivot: tuple[float, float, float]) -> Tensor:
    """(..., 3) m, where a point truly is that such a camera believes to be at `pos`; the other arguments as in `hand_eye`."""
    centre = constant(pivot, pos.dtype, pos.device)
    x, y, z = (pos - centre - shift).unbind(-1)
    cos, sin = yaw.cos(), yaw.sin()
    return torch.stack([cos * x + sin * y, cos * y - sin * x, z], -1) + centre


CONTRAST = 3.912  # -ln 0.02: at the distance called visibility, 2 % of an object's contrast are left (Koschmieder 1924)


def transmission(distance: Tensor, visibility: Tensor) -> Tensor:
    """Part of an object's contrast that fog lets through, exp(-3.912 distance / visibility); both in m, of one shape."""
    return torch.exp(-CONTRAST * distance / visibility)


def through_fog(points: Tensor, visibility: Tensor, chance: Tensor, noise: Tensor, sigma: float) -> Tensor:
    """What a camera sees of points through fog: each with a probability that is its transmission t, and sigma / sqrt(t) beside its place.

    Args:
        points: (..., W, D) m, in the camera's frame.
        visibility: (...) m.
        chance: (..., W) uniform on [0, 1), drawn anew for each look.
        noise: (..., W, D) standard normal, drawn anew for each look.
        sigma: m, deviation of what is seen in clear air.

    Returns:
        (..., W, D) m, zeros for a point that is not seen.
    """
    clear = transmission(torch.linalg.vector_norm(points, dim=-1), visibility.unsqueeze(-1))
    seen = (chance < clear).unsqueeze(-1)
    return torch.where(seen, points + noise * (sigma / clear.sqrt()).unsqueeze(-1), 0.0)
