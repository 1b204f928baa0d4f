"""Shapes of rewards. Pure functions of tensors."""

from __future__ import annotations

import math

import torch
from torch import Tensor


def tolerance(x: Tensor, low: float = 0.0, high: float = 0.0, margin: float = 0.0, at_margin: float = 0.1, falloff: str = "gaussian") -> Tensor:
    """1 where low <= x <= high, falling with the distance from there; the reward function of the DeepMind Control Suite.

    Args:
        x: (...).
        low: lower end of the interval.
        high: upper end.
        margin: distance at which the value is `at_margin`; 0 gives 0 everywhere outside.
        at_margin: in (0, 1) for "gaussian", in [0, 1) for "linear" and "quadratic", which are 0 from some distance on.
        falloff: "gaussian", "linear" or "quadratic".

    Source: Tassa et al. 2018, "DeepMind Control Suite", section 3.
    """
    away = (low - x).clamp(min=0.0) + (x - high).clamp(min=0.0)
    if margin == 0.0:
        return (away == 0).to(x.dtype)
    distance = away / margin
    if falloff == "gaussian":
        return torch.exp(math.log(at_margin) * distance.square())
    if falloff == "linear":
        return (1.0 - (1.0 - at_margin) * distance).clamp(min=0.0)
    if falloff == "quadratic":
        return (1.0 - (1.0 - at_margin) * distance.square()).clamp(min=0.0)
    raise ValueError(f"no falloff is called {falloff!r}: known are gaussian, linear, quadratic")
