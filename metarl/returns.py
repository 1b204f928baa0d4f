"""Returns, advantages and the linear baseline, as pure functions. Time is the last axis; any axes may lead."""

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


def masked_mean(x: Tensor, mask: Tensor, dim: tuple[int, ...]) -> Tensor:
    """Mean of x where mask (broadcast against x) over the axes `dim`, which are kept with size 1; 0 where nothing is."""
    weight = mask.to(x.dtype)
    return (x * weight).sum(dim, keepdim=True) / weight.sum(dim, keepdim=True).clamp(min=1)


def normalise(x: Tensor, mask: Tensor, dim: tuple[int, ...], epsilon: float = 1e-8) -> Tensor:
    """x with mean 0 and variance 1 over the masked entries of the axes `dim`; 0 outside of the mask."""
    centred = x - masked_mean(x, mask, dim)
    return centred * (masked_mean(centred**2, mask, dim) + epsilon).rsqrt() * mask


def time_features(obs: Tensor) -> Tensor:
    """(..., T, 2 O + 4) features for a linear baseline from observations (..., T, O): o, o², time t/100, its square and cube, 1.

    Source: Duan et al. 2016, arXiv 1604.06778, supplement section 2.
    """
    time = torch.arange(obs.shape[-2], dtype=obs.dtype, device=obs.device).unsqueeze(-1) / 100
    shared = torch.cat([time, time**2, time**3, torch.ones_like(time)], -1).expand(*obs.shape[:-1], 4)
    return torch.cat([obs, obs**2, shared], -1)


def linear_baseline(features: Tensor, target: Tensor, mask: Tensor, ridge: float = 1e-5) -> Tensor:
    """Values (..., N) by ridge regression, one for each leading index, of `target` on `features` over the masked entries.

    Args:
        features: (..., N, F).
        target: (..., N).
        mask: (..., N) bool; masked entries are predicted, but not fitted.
        ridge: penalty for each entry that is fitted, which keeps the system solvable where a feature is constant.
    """
    weighted = features * mask.unsqueeze(-1)
    count = mask.sum(-1).clamp(min=1)[..., None, None]
    gram = weighted.mT @ features + ridge * count * torch.eye(features.shape[-1], dtype=features.dtype, device=features.device)
    weights = torch.linalg.solve(gram, weighted.mT @ target.unsqueeze(-1))
    return (features @ weights).squeeze(-1)
