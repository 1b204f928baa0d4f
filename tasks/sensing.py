"""Imperfections of sensors, as pure functions: what a robot makes of the truth."""

from __future__ import annotations

import torch
from torch import Tensor


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
    centre = pos.new_tensor(pivot)
    x, y, z = (pos - centre).unbind(-1)
    cos, sin = yaw.cos(), yaw.sin()
    return torch.stack([cos * x - sin * y, sin * x + cos * y, z], -1) + centre + shift
