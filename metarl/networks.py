"""Networks that several algorithms share."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import NamedTuple, Protocol

import torch
from torch import Tensor, nn

from metarl.returns import masked_mean
from metarl.tasks.task import EnvSpec


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


def relative_change(new: Tensor, old: Tensor, shapes: Sequence[tuple[int, int]]) -> float:
    """How much networks have changed: root mean square of a layer's change over that of the layer, of the layer and the network where that is most.

    A layer that is smaller than one drawn uniformly within 1 / sqrt(inputs) is taken to be that large: last layers may begin close to zero.

    Args:
        new: parameters (M, P).
        old: parameters (M, P).
        shapes: of their weights (inputs, outputs) and biases, in turns; what else there is counts with the last layer.
    """
    sizes = [weights[0] * weights[1] + math.prod(biases) for weights, biases in zip(shapes[::2], shapes[1::2], strict=True)]
    sizes[-1] += new.shape[-1] - sum(sizes)
    usual = [(3 * inputs) ** -0.5 for inputs, _ in shapes[::2]]
    layers = zip((new.double() - old.double()).split(sizes, -1), old.double().split(sizes, -1), usual, strict=True)
    return max(float((_rms(change) / _rms(before).clamp(min=least)).max()) for change, before, least in layers)


def root_mean_square(x: Tensor) -> float:
    """Over the last axis; the largest one of x (..., n)."""
    return float(_rms(x.double()).max())


def _rms(x: Tensor) -> Tensor:
    return x.square().mean(-1).sqrt()


class PopArt(nn.Module):
    """Running mean and variance of G kinds of targets, for networks that learn them normalised (van Hasselt et al. 2016, 1602.07714)."""

    mean: Tensor
    square: Tensor
    count: Tensor

    def __init__(self, size: int, rate: float) -> None:
        super().__init__()
        self.rate = rate
        for name, start in (("mean", torch.zeros(size)), ("square", torch.ones(size)), ("count", torch.tensor(0.0))):
            self.register_buffer(name, start)

    @property
    def std(self) -> Tensor:
        """(G,); never so small that a task without rewards becomes one of noise."""
        return (self.square - self.mean**2).clamp(min=1e-4).sqrt()

    @torch.no_grad()
    def update(self, target: Tensor, valid: Tensor, *layers: tuple[Tensor, Tensor]) -> None:
        """Follow targets (N, T, G) where valid (N, T).

        Args:
            target: not normalised.
            valid: bool.
            layers: weights (..., n G) and biases (..., n G) of networks' last layers, changed so that what they say, not normalised, does not.
        """
        self.count += 1
        rate = (1 / self.count).clamp(min=self.rate)
        mean, std = self.mean.clone(), self.std
        valid = valid.unsqueeze(-1)
        self.mean.lerp_(masked_mean(target, valid, (0, 1)).view(-1), rate)
        self.square.lerp_(masked_mean(target**2, valid, (0, 1)).view(-1), rate)
        for weight, bias in layers:
            scale, shift = (x.repeat(bias.shape[-1] // len(x)) for x in (std / self.std, (mean - self.mean) / self.std))
            weight.mul_(scale)
            bias.mul_(scale).add_(shift)


# ---- policies ---------------------------------------------------------------------------------------------------------------


class Distribution(Protocol):
    """What a policy says of its next action, for any leading axes: all that acting and learning ask of it."""

    def sample(self, generator: torch.Generator) -> Tensor:
        """Actions (..., A), with random numbers from a generator on the CPU."""
        ...

    def mode(self) -> Tensor:
        """(..., A) the likeliest actions. Not finite where the policy saw something that is not finite."""
        ...

    def log_prob(self, action: Tensor) -> Tensor:
        """(...) log density or log probability of actions (..., A)."""
        ...

    def entropy(self) -> Tensor:
        """(...)."""
        ...


class Gaussian(NamedTuple):
    """Actions anywhere: independent Gaussians with means (..., A) and log standard deviations (A,)."""

    mean: Tensor
    log_std: Tensor

    def sample(self, generator: torch.Generator) -> Tensor:
        """Actions (..., A); not cut to what an environment takes."""
        return self.mean + self.log_std.exp() * torch.randn(self.mean.shape, generator=generator).to(self.mean.device)

    def mode(self) -> Tensor:
        """The mean."""
        return self.mean

    def log_prob(self, action: Tensor) -> Tensor:
        """(...) summed over the action's dimensions."""
        return gaussian_log_prob(action, self.mean, self.log_std)

    def entropy(self) -> Tensor:
        """(...) the same everywhere."""
        return gaussian_entropy(self.log_std).expand(self.mean.shape[:-1])


class Categorical(NamedTuple):
    """One of A choices, as one-hot rows, with log probabilities (..., A)."""

    log_probs: Tensor

    def sample(self, generator: torch.Generator) -> Tensor:
        """One-hot rows (..., A): the largest log probability after Gumbel noise was added, which draws exactly from the distribution."""
        uniform = torch.rand(self.log_probs.shape, generator=generator).clamp(min=1e-12).to(self.log_probs.device)
        return self._one_hot(self.log_probs - (-uniform.log()).log())

    def mode(self) -> Tensor:
        """One-hot rows (..., A) of the likeliest choice, the first one of equals."""
        return self._one_hot(self.log_probs)

    def log_prob(self, action: Tensor) -> Tensor:
        """(...) of one-hot rows (..., A)."""
        return (action * self.log_probs).sum(-1)

    def entropy(self) -> Tensor:
        """(...)."""
        return -(self.log_probs.exp() * self.log_probs).sum(-1)

    def _one_hot(self, score: Tensor) -> Tensor:
        chosen = torch.zeros_like(score).scatter(-1, score.argmax(-1, keepdim=True), 1.0)
        return chosen + 0 * score  # the largest of numbers that are none is no choice: it stays NaN, and the environment refuses it


class GaussianPolicy(nn.Module):
    """Gaussian over actions with a mean from features (..., F) and a standard deviation min_std + exp(s), s learned, the same everywhere."""

    def __init__(self, num_features: int, hidden: Sequence[int], action_size: int, std: float, min_std: float = 0.05) -> None:
        super().__init__()
        self.mean: nn.Module = mlp([num_features, *hidden, action_size], last_gain=0.01)
        self.log_std = nn.Parameter(torch.full((action_size,), math.log(std - min_std)))
        self.min_std = min_std

    def forward(self, features: Tensor) -> Gaussian:
        """At features (..., F)."""
        return Gaussian(self.mean(features), (self.min_std + self.log_std.exp()).log())

    def metrics(self) -> dict[str, float]:
        """What to log of it."""
        return {"action_std": float((self.min_std + self.log_std.detach().exp()).mean())}


class CategoricalPolicy(nn.Module):
    """Choice between A discrete actions, with log probabilities from features (..., F)."""

    def __init__(self, num_features: int, hidden: Sequence[int], action_size: int) -> None:
        super().__init__()
        self.logits: nn.Module = mlp([num_features, *hidden, action_size], last_gain=0.01)

    def forward(self, features: Tensor) -> Categorical:
        """At features (..., F)."""
        return Categorical(self.logits(features).log_softmax(-1))

    def metrics(self) -> dict[str, float]:
        """What to log of it: its entropy says all, and is logged by whoever knows where."""
        return {}


def make_policy(spec: EnvSpec, num_features: int, hidden: Sequence[int], std: float) -> GaussianPolicy | CategoricalPolicy:
    """The policy that suits an environment's actions; `std` is the first standard deviation of continuous ones."""
    if spec.discrete:
        return CategoricalPolicy(num_features, hidden, spec.action_size)
    return GaussianPolicy(num_features, hidden, spec.action_size, std)


def gaussian_log_prob(action: Tensor, mean: Tensor, log_std: Tensor) -> Tensor:
    """(...) log density of actions (..., A), summed over the action's dimensions."""
    z = (action - mean) * (-log_std).exp()
    return (-0.5 * z**2 - log_std - 0.5 * math.log(2 * math.pi)).sum(-1)


def gaussian_entropy(log_std: Tensor) -> Tensor:
    """Entropy of a Gaussian with log standard deviations (..., A)."""
    return (log_std + 0.5 * math.log(2 * math.pi * math.e)).sum(-1)
