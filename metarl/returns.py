"""Returns and advantages, as pure functions. Time is the last axis; any axes may lead."""

from __future__ import annotations

import torch
from torch import Tensor


def gae(reward: Tensor, value: Tensor, next_value: Tensor, terminated: Tensor, ended: Tensor, discount: float, lam: float) -> Tensor:
    """Generalised advantages (..., T).

    Args:
        reward: (..., T).
        value: (..., T) of the observation before each decision.
        next_value: (..., T) of the observation after it.
        terminated: (..., T) bool: nothing is worth anything after this decision, so `next_value` does not count.
        ended: (..., T) bool: what comes later belongs to another episode, or is not valid, so the sum is cut here.
        discount: gamma.
        lam: lambda; 1 sums all later rewards, 0 trusts `next_value`.

    Source: Schulman et al. 2016, arXiv 1506.02438, equation 16.
    """
    delta = reward + discount * next_value * ~terminated - value
    advantage, running = torch.empty_like(delta), torch.zeros_like(delta[..., 0])
    for t in range(delta.shape[-1] - 1, -1, -1):
        running = delta[..., t] + discount * lam * running * ~ended[..., t]
        advantage[..., t] = running
    return advantage


def discounted_returns(reward: Tensor, ended: Tensor, discount: float) -> Tensor:
    """(..., T) discounted sum of this and all later rewards (..., T) until `ended` (..., T) bool."""
    zero = torch.zeros_like(reward)
    return gae(reward, zero, zero, ended, ended, discount, 1.0)


def masked_mean(x: Tensor, mask: Tensor, dim: tuple[int, ...] | None = None) -> Tensor:
    """Mean of x where mask (broadcast against x) over the axes `dim`, which are kept with size 1, or over all, a scalar; 0 where nothing is."""
    weight = mask.to(x.dtype)
    if dim is None:
        return (x * weight).sum() / weight.sum().clamp(min=1)
    return (x * weight).sum(dim, keepdim=True) / weight.sum(dim, keepdim=True).clamp(min=1)


def normalise(x: Tensor, mask: Tensor, dim: tuple[int, ...] | None = None, epsilon: float = 1e-8) -> Tensor:
    """Entries with mean 0 and variance 1 over the masked entries of the axes `dim`, or of all; 0 outside of the mask."""
    centred = x - masked_mean(x, mask, dim)
    return centred * (masked_mean(centred**2, mask, dim) + epsilon).rsqrt() * mask
