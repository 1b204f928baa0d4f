"""Linear baselines: what return to expect, by least squares on fixed features. Fitted to one task's own decisions, or across tasks."""

from __future__ import annotations

import torch
from torch import Tensor, nn


def time_features(x: Tensor) -> Tensor:
    """(..., T, 2 X + 4) features of x (..., T, X): x, x², time t/100, its square and cube, 1.

    Source: Duan et al. 2016, arXiv 1604.06778, supplement section 2.
    """
    time = torch.arange(x.shape[-2], dtype=x.dtype, device=x.device).unsqueeze(-1) / 100
    shared = torch.cat([time, time**2, time**3, torch.ones_like(time)], -1).expand(*x.shape[:-1], 4)
    return torch.cat([x, x**2, shared], -1)


def fitted_values(features: Tensor, target: Tensor, mask: Tensor, ridge: float = 1e-5) -> Tensor:
    """(..., N) least-squares prediction of `target` from `features`, with a regression of its own for each leading index.

    Args:
        features: (..., N, F).
        target: (..., N).
        mask: (..., N) bool; the others are predicted, but not fitted.
        ridge: penalty for each fitted entry, which keeps the system solvable where features are constant or few entries are valid.
    """
    exact = features.double()  # the ridge is lost in the rounding of single ones where a robot stands far away
    weighted = exact * mask.unsqueeze(-1)
    count = mask.sum(-1).clamp(min=1)[..., None, None]
    gram = weighted.mT @ exact + ridge * count * _identity(exact)
    return (exact @ torch.linalg.solve(gram, weighted.mT @ target.double().unsqueeze(-1))).squeeze(-1).to(target.dtype)


class RunningRegression(nn.Module):
    """K regressions of returns on features that are known to all tasks, one for each episode of a trial, with exponential forgetting.

    Attributes:
        weights: (K, F).
        scale: root of the mean squared residual: by how much returns differ from what was expected.
        gram, moment, square: the running sums that these are made of.
    """

    weights: Tensor
    scale: Tensor
    gram: Tensor
    moment: Tensor
    square: Tensor

    def __init__(self, num_episodes: int, num_features: int, memory: float = 0.9, ridge: float = 1e-4) -> None:
        super().__init__()
        self.memory, self.ridge = memory, ridge
        self.register_buffer("weights", torch.zeros(num_episodes, num_features))
        self.register_buffer("scale", torch.tensor(1.0))
        self.register_buffer("gram", torch.zeros(num_episodes, num_features, num_features))
        self.register_buffer("moment", torch.zeros(num_episodes, num_features, 1))
        self.register_buffer("square", torch.zeros(2))  # sum, and its weight

    def forward(self, features: Tensor, episode: Tensor) -> Tensor:
        """Expected returns (n, N) for features (n, N, F) of the episodes with index `episode` (n,); an index of K and more counts as K - 1."""
        weights = self.weights[episode.clamp(max=len(self.weights) - 1)]
        return (features @ weights.unsqueeze(-1)).squeeze(-1)

    @torch.no_grad()
    def update(self, features: Tensor, target: Tensor, mask: Tensor) -> None:
        """Take in features (K, N, F), target (K, N) and mask (K, N) bool."""
        weighted = features * (mask / mask.sum(-1, keepdim=True).clamp(min=1)).unsqueeze(-1)
        self.gram.mul_(self.memory).add_(weighted.mT @ features)
        self.moment.mul_(self.memory).add_(weighted.mT @ target.unsqueeze(-1))
        system = self.gram + self.ridge * _identity(features)
        self.weights.copy_(torch.linalg.solve(system.double(), self.moment.double()).squeeze(-1))
        residual = target - self(features, torch.arange(len(target), device=target.device))
        self.square.mul_(self.memory).add_(torch.stack([(residual**2 * mask).sum(), mask.sum().to(residual.dtype)]))
        self.scale.copy_((self.square[0] / self.square[1].clamp(min=1)).sqrt().clamp(min=1e-6))


def _identity(like: Tensor) -> Tensor:
    return torch.eye(like.shape[-1], dtype=like.dtype, device=like.device)
