"""Wind: a mean that is part of the task, gusts that are not, and the force of both on a body. Pure functions of tensors."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from metarl.robots.spec import constant

AIR_DENSITY = 1.225  # kg/m³, standard atmosphere at sea level
GUST_SCALE = (1.0, 1.0, 0.5)  # vertical gusts near the ground are about half as strong as horizontal ones (MIL-F-8785C, low altitude)


def mean_wind(speed: Tensor, angle: Tensor) -> Tensor:
    """(..., 3) m/s, horizontal: towards `angle` (...) rad from the world's x axis, at `speed` (...) m/s."""
    return torch.stack([speed * angle.cos(), speed * angle.sin(), torch.zeros_like(speed)], -1)


def first_gust(num: int, rng: torch.Generator) -> Tensor:
    """(num, 3) standard gusts, drawn from their stationary distribution: mean 0, variance 1 in each direction."""
    return torch.randn(num, 3, generator=rng)


def next_gust(gust: Tensor, dt: float, time_constant: float, rng: torch.Generator) -> Tensor:
    """The standard gusts (N, 3) `dt` seconds later: an Ornstein-Uhlenbeck process, stepped exactly.

    This is Dryden's filter of the longitudinal gust, for a turbulence length of `time_constant` times the air speed.

    Args:
        gust: (N, 3) from `first_gust` or this function.
        dt: s.
        time_constant: s, after which a gust has fallen to 1/e.
        rng: of the environment.
    """
    kept = math.exp(-dt / time_constant)
    return kept * gust + math.sqrt(1.0 - kept**2) * torch.randn(gust.shape, generator=rng)


def gusty(mean: Tensor, gust: Tensor, turbulence: float) -> Tensor:
    """(..., 3) m/s: mean wind (..., 3) and standard gusts (..., 3), whose deviation is `turbulence` times the mean speed."""
    return mean + gust * constant(GUST_SCALE, gust.dtype, gust.device) * (turbulence * torch.linalg.vector_norm(mean, dim=-1, keepdim=True))


def drag(wind: Tensor, linvel: Tensor, drag_area: Tensor | float) -> Tensor:
    """(..., 3) N, force of the air on a body.

    Args:
        wind: (..., 3) m/s, world frame.
        linvel: (..., 3) m/s, of the body in the world.
        drag_area: (..., 1) or one m², drag coefficient times area.
    """
    air = wind - linvel
    return 0.5 * AIR_DENSITY * drag_area * torch.linalg.vector_norm(air, dim=-1, keepdim=True) * air


def as_wrench(force: Tensor) -> Tensor:
    """(..., 6): a force (..., 3) at the centre of mass, without a torque."""
    return torch.cat([force, torch.zeros_like(force)], -1)
