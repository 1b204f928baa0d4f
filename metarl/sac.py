"""Soft actor-critic (Haarnoja et al. 2018, 1812.05905): what off-policy learners share.

    y = s r + gamma (1 - terminated) (min_i Q'_i(o', a') - alpha log pi(a' | o'))        a' ~ pi(o')
    L_Q = sum_i E (Q_i(o, a) - y)²        L_pi = E [alpha log pi(a | o) - min_i Q_i(o, a)]        L_alpha = -alpha E [log pi(a | o) + target entropy]

Only `terminated` ends what comes after: an episode whose time is up would have gone on. Q' follows Q slowly (polyak). Networks may read more than o,
e.g. a belief on the task: whoever calls says what. The critics are one network with an axis of members, so that two cost two calls less.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import softplus

LOG_STD = (-10.0, 2.0)  # limits of a policy's log standard deviations, before squashing


class StackedMLP(nn.Module):
    """E networks of the same shape, relu between their linear layers: weights (E, in, out), biases (E, 1, out)."""

    def __init__(self, members: int, sizes: Sequence[int], last_scale: float = 3e-3) -> None:
        super().__init__()
        self.weights, self.biases = nn.ParameterList(), nn.ParameterList()
        for i, (fan_in, fan_out) in enumerate(itertools.pairwise(sizes)):
            scale = last_scale if i == len(sizes) - 2 else 1 / math.sqrt(fan_in)
            self.weights.append(nn.Parameter(scale * (2 * torch.rand(members, fan_in, fan_out) - 1)))
            self.biases.append(nn.Parameter(torch.zeros(members, 1, fan_out)))

    def forward(self, x: Tensor, frozen: bool = False) -> Tensor:
        """(E, N, out) from inputs (N, in) that all members read; where `frozen`, no gradient goes into the weights."""
        hidden = x.expand(len(self.weights[0]), *x.shape)
        for i, (weight, bias) in enumerate(zip(self.weights, self.biases, strict=True)):
            weight, bias = (weight.detach(), bias.detach()) if frozen else (weight, bias)
            hidden = torch.baddbmm(bias, hidden if i == 0 else hidden.relu_(), weight)
        return hidden


class SquashedGaussian(NamedTuple):
    """tanh of independent Gaussians with means and log standard deviations (..., A)."""

    mean: Tensor
    log_std: Tensor

    def sample(self, noise: Tensor) -> tuple[Tensor, Tensor]:
        """Actions (..., A) from standard normal numbers (..., A), with gradients, and their log densities (...)."""
        raw = self.mean + self.log_std.exp() * noise
        log_density = -0.5 * noise**2 - self.log_std - 0.5 * math.log(2 * math.pi)
        # log(1 - tanh(x)²) = 2 (log 2 - x - softplus(-2 x)), which does not lose digits where tanh is nearly 1
        return raw.tanh(), (log_density - 2 * (math.log(2) - raw - softplus(-2 * raw))).sum(-1)

    def mode(self) -> Tensor:
        """(..., A) the means, squashed."""
        return self.mean.tanh()


class SquashedGaussianPolicy(nn.Module):
    """Features (..., F) -> SquashedGaussian; a network of its own for mean and deviation would cost more and is not in the paper."""

    def __init__(self, num_features: int, layers: Sequence[int], action_size: int) -> None:
        super().__init__()
        self.body = relu_mlp([num_features, *layers, 2 * action_size])

    def forward(self, features: Tensor) -> SquashedGaussian:
        """At features (..., F)."""
        mean, log_std = self.body(features).chunk(2, -1)
        return SquashedGaussian(mean, log_std.clamp(*LOG_STD))


def relu_mlp(sizes: Sequence[int], last_scale: float = 3e-3) -> nn.Sequential:
    """Linear layers with relu between them; the last one's weights are at most `last_scale`."""
    layers: list[nn.Module] = []
    for fan_in, fan_out in itertools.pairwise(sizes):
        linear = nn.Linear(fan_in, fan_out)
        scale = last_scale if len(layers) == 2 * (len(sizes) - 2) else 1 / math.sqrt(fan_in)
        nn.init.uniform_(linear.weight, -scale, scale)
        nn.init.zeros_(linear.bias)
        layers += [linear, nn.ReLU(inplace=True)]
    return nn.Sequential(*layers[:-1])


# ---- losses -----------------------------------------------------------------------------------------------------------------


def soft_target(reward: Tensor, terminated: Tensor, next_q: Tensor, next_log_prob: Tensor, alpha: Tensor, discount: float) -> Tensor:
    """(N,) y, from rewards (N,), ends (N,) as numbers, target critics (E, N), and log densities (N,) of the next actions."""
    return reward + discount * (1 - terminated) * (next_q.amin(0) - alpha * next_log_prob)


def critic_loss(q: Tensor, target: Tensor) -> Tensor:
    """Squared error of critics (E, N) against (N,): mean over decisions, sum over critics."""
    return ((q - target) ** 2).mean(-1).sum()


def actor_loss(q: Tensor, log_prob: Tensor, alpha: Tensor) -> Tensor:
    """Of critics (E, N) at drawn actions with log densities (N,)."""
    return (alpha * log_prob - q.amin(0)).mean()


def temperature_loss(log_alpha: Tensor, log_prob: Tensor, target_entropy: float) -> Tensor:
    """Raises alpha where the policy's entropy is below its target."""
    return -(log_alpha.exp() * (log_prob.detach() + target_entropy)).mean()


@torch.no_grad()
def polyak(targets: Iterable[Tensor], online: Iterable[Tensor], rate: float) -> None:
    """Move targets towards the online parameters by this part of the difference."""
    torch._foreach_lerp_(list(targets), list(online), rate)
