"""Networks that several algorithms share."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn


def mlp(sizes: Sequence[int], last_gain: float = 1.0) -> nn.Sequential:
    """Linear layers with tanh between them, orthogonal weights; the last layer's weights are scaled by `last_gain`."""
    layers: list[nn.Module] = []
    for i, (fan_in, fan_out) in enumerate(itertools.pairwise(sizes)):
        linear = nn.Linear(fan_in, fan_out)
        last = i == len(sizes) - 2
        nn.init.orthogonal_(linear.weight, last_gain if last else math.sqrt(2))
        nn.init.zeros_(linear.bias)
        layers += [linear] if last else [linear, nn.Tanh()]
    return nn.Sequential(*layers)


class Normalizer(nn.Module):
    """Running mean and variance of the last axis; the statistics are meta-parameters, never the environment's.

    Updated only in `meta_update`, after everything was recomputed, so that training and acting see the same numbers.
    """

    mean: Tensor
    var: Tensor
    count: Tensor

    def __init__(self, size: int, limit: float = 10.0) -> None:
        super().__init__()
        self.limit = limit
        self.register_buffer("mean", torch.zeros(size))
        self.register_buffer("var", torch.ones(size))
        self.register_buffer("count", torch.tensor(0.0))

    def forward(self, x: Tensor) -> Tensor:
        """(..., size) with mean 0 and variance 1, cut at +-`limit`."""
        return ((x - self.mean) * (self.var + 1e-8).rsqrt()).clamp(-self.limit, self.limit)

    def invert(self, x: Tensor) -> Tensor:
        """What `forward` was given, for values inside the limit."""
        return x * (self.var + 1e-8).sqrt() + self.mean

    @torch.no_grad()
    def update(self, x: Tensor, valid: Tensor) -> None:
        """Take in x (..., size) where `valid` (...): parallel variance of Chan et al. 1979."""
        weight = valid.unsqueeze(-1).to(x.dtype)
        count = weight.sum()
        mean = (x * weight).sum(tuple(range(x.ndim - 1))) / count.clamp(min=1)
        var = ((x - mean) ** 2 * weight).sum(tuple(range(x.ndim - 1))) / count.clamp(min=1)
        part = count / (self.count + count).clamp(min=1)  # of all samples; nothing changes where none is new
        delta = mean - self.mean
        self.var.copy_(self.var * (1 - part) + var * part + delta**2 * part * (1 - part))
        self.mean.add_(delta * part)
        self.count.add_(count)


class GaussianPolicy(nn.Module):
    """Gaussian over actions with a mean from features (..., F) and a standard deviation min_std + exp(s), s learned, the same everywhere."""

    def __init__(self, num_features: int, hidden: Sequence[int], action_size: int, std: float, min_std: float = 0.05) -> None:
        super().__init__()
        self.mean = mlp([num_features, *hidden, action_size], last_gain=0.01)
        self.log_std = nn.Parameter(torch.full((action_size,), math.log(std - min_std)))
        self.min_std = min_std

    def forward(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """Mean (..., A) and log standard deviation (A,)."""
        return self.mean(features), (self.min_std + self.log_std.exp()).log()


def gaussian_log_prob(action: Tensor, mean: Tensor, log_std: Tensor) -> Tensor:
    """(...) log density of actions (..., A), summed over the action's dimensions."""
    z = (action - mean) * (-log_std).exp()
    return (-0.5 * z**2 - log_std - 0.5 * math.log(2 * math.pi)).sum(-1)


def gaussian_entropy(log_std: Tensor) -> Tensor:
    """Entropy of a Gaussian with log standard deviations (..., A)."""
    return (log_std + 0.5 * math.log(2 * math.pi * math.e)).sum(-1)
