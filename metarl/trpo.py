"""Trust region policy optimisation: one natural-gradient step whose KL divergence is bounded (Schulman et al. 2015), as pure functions."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

Product = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class TrustRegion:
    """Settings of a step; the values are those of MAML's experiments (Finn et al. 2017)."""

    max_kl: float = 0.01
    """delta: largest mean KL divergence between the policies before and after the step."""
    cg_iterations: int = 10
    """Of the conjugate gradient."""
    damping: float = 1e-5
    """Added to the diagonal of the Fisher matrix."""
    backtracks: int = 15
    """Most step sizes that the line search tries."""
    shrink: float = 0.8
    """By how much it shortens the step each time."""


@dataclass(frozen=True)
class Outcome:
    """What a step did: `params` are the old ones where no step was `accepted`."""

    params: Tensor
    loss: Tensor
    kl: Tensor
    accepted: bool
    backtracks: int


def conjugate_gradient(product: Product, target: Tensor, iterations: int, tolerance: float = 1e-10) -> tuple[Tensor, Tensor]:
    """Solve product(x) = target (P,) for a symmetric positive definite product; returns x and the residual target - product(x).

    Ends early where the squared residual is less than `tolerance` times that of the target.
    """
    x, residual, direction = torch.zeros_like(target), target, target
    first = squared = residual @ residual
    for _ in range(iterations):
        if not bool(squared > tolerance * first):
            break
        image = product(direction)
        step = squared / (direction @ image)
        x, residual = x + step * direction, residual - step * image
        previous, squared = squared, residual @ residual
        direction = residual + (squared / previous) * direction
    return x, residual


def trust_region_step(
    params: Tensor, loss: Tensor, gradient: Tensor, fisher: Product, evaluate: Callable[[Tensor], tuple[Tensor, Tensor]], settings: TrustRegion
) -> Outcome:
    """The longest step along the natural gradient that lowers the loss within the trust region.

    Args:
        params: (P,).
        loss: at `params`, scalar.
        gradient: (P,) of the loss.
        fisher: product of the Hessian of the KL divergence at `params` with a vector (P,).
        evaluate: loss and KL divergence from the old policy, at other parameters.
        settings: see there.
    """
    direction, residual = conjugate_gradient(lambda v: fisher(v) + settings.damping * v, -gradient, settings.cg_iterations)
    curvature = direction @ (-gradient - residual)  # = direction F direction, without another product
    step = direction * (2 * settings.max_kl / curvature.clamp(min=1e-12)).sqrt()
    for i in range(settings.backtracks):
        candidate = params + settings.shrink**i * step
        new_loss, kl = evaluate(candidate)
        if bool(new_loss < loss) and bool(kl < settings.max_kl):  # False for NaN as well
            return Outcome(candidate, new_loss, kl, True, i)
    return Outcome(params, loss, torch.zeros_like(loss), False, settings.backtracks)
