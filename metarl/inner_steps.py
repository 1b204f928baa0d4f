"""Inner steps by policy gradient, for many tasks at once, and their derivatives. Shared by the algorithms that adapt by gradient.

M tasks, B decisions of each under the same parameters, P parameters. Each task has a parameter vector of its own, and nothing loops over tasks.
"""

from __future__ import annotations

import itertools
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from metarl.networks import Categorical, Gaussian


class Segment(NamedTuple):
    """What was decided under the same parameters, as losses need it: B = R * n * H decisions of each of M tasks."""

    obs: Tensor  # (M, B, O) normalised
    action: Tensor  # (M, B, A)
    advantage: Tensor  # (M, B)
    weight: Tensor  # (M, B) of each decision in its task's mean; 0 where not valid
    sampled: Tensor | None = None  # (M, B) log-probability with which it was taken; None where that is the policy at hand

    def thinned(self, stride: int) -> Segment:
        """Every `stride`-th decision, with the same total weight."""
        kept = Segment._make(x if x is None else x[:, ::stride] for x in self)
        total, left = (s.weight.sum(1, keepdim=True) for s in (self, kept))
        return kept._replace(weight=kept.weight * total / left.clamp(min=1e-12))


Outputs = Gaussian | Categorical  # what policies say at M x B observations


class BatchedPolicy(ABC):
    """Policies with one flat parameter vector for each task: multilayer perceptrons with tanh, and what else a kind of action needs behind them."""

    def __init__(self, sizes: Sequence[int]) -> None:
        self.shapes = [shape for i, o in itertools.pairwise(sizes) for shape in ((i, o), (1, o))]
        self.lengths = [a * b for a, b in self.shapes]
        self.num_params = sum(self.lengths)

    def initial(self, generator: torch.Generator) -> Tensor:
        """Parameters (P,): weights uniform after Glorot and Bengio 2010, biases zero."""
        bounds = [math.sqrt(6 / sum(shape)) if i % 2 == 0 else 0.0 for i, shape in enumerate(self.shapes)]
        return torch.cat([bound * (2 * torch.rand(length, generator=generator) - 1) for bound, length in zip(bounds, self.lengths, strict=True)])

    @abstractmethod
    def __call__(self, theta: Tensor, obs: Tensor) -> Outputs:
        """What policies theta (M, P) say at observations (M, B, O)."""

    def log_prob(self, theta: Tensor, segment: Segment) -> Tensor:
        """(M, B), summed over the action's dimensions."""
        return self(theta, segment.obs).log_prob(segment.action)

    def _network(self, theta: Tensor, obs: Tensor) -> Tensor:
        """(M, B, size of the last layer)."""
        layers = [p.unflatten(-1, shape) for p, shape in zip(theta.split(self.lengths, -1), self.shapes, strict=True)]
        x = obs
        for i in range(0, len(layers), 2):
            x = torch.baddbmm(layers[i + 1], x if i == 0 else x.tanh(), layers[i])
        return x


class BatchedGaussian(BatchedPolicy):
    """Gaussians; the last parameters are s with sigma = min_std + exp(s), before all is multiplied by `action_scale`."""

    def __init__(self, sizes: Sequence[int], action_scale: float, min_std: float, initial_std: float = 1.0) -> None:
        super().__init__(sizes)
        self.action_size = sizes[-1]
        self.num_params += self.action_size
        self.action_scale, self.min_std, self.initial_std = action_scale, min_std, initial_std

    def initial(self, generator: torch.Generator) -> Tensor:
        """Parameters (P,): those of the network, and s of the initial sigma."""
        weights = super().initial(generator)
        return torch.cat([weights, weights.new_full((self.action_size,), math.log(self.initial_std - self.min_std))])

    def __call__(self, theta: Tensor, obs: Tensor) -> Gaussian:
        """Means (M, B, A) and log standard deviations (M, 1, A)."""
        weights, s = theta.split([self.num_params - self.action_size, self.action_size], -1)
        return Gaussian(self.action_scale * self._network(weights, obs), (self.action_scale * (self.min_std + s.unsqueeze(-2).exp())).log())


class BatchedCategorical(BatchedPolicy):
    """Choices between discrete actions, which are one-hot rows."""

    def __call__(self, theta: Tensor, obs: Tensor) -> Categorical:
        """Log probabilities (M, B, A)."""
        return Categorical(self._network(theta, obs).log_softmax(-1))


def constant(outputs: Outputs) -> Outputs:
    """The same, cut from their graph."""
    return type(outputs)(*(x.detach() for x in outputs))


def kl_divergence(old: Outputs, new: Outputs) -> Tensor:
    """(M, B) KL(old || new) of two policies of the same kind."""
    if isinstance(old, Categorical):
        assert isinstance(new, Categorical)
        return (old.log_probs.exp() * (old.log_probs - new.log_probs)).sum(-1)
    assert isinstance(new, Gaussian)
    difference = new.log_std - old.log_std
    return (difference + ((-2 * difference).exp() + ((old.mean - new.mean) * (-new.log_std).exp()) ** 2 - 1) / 2).sum(-1)


Objective = Callable[[Tensor, Segment], Tensor]


def ratio_objective(log_prob: Tensor, segment: Segment) -> Tensor:
    """(M,) weighted pi/pi_sampled * A, pi_sampled being constant: its second derivative, too, is that of the expected return."""
    sampled = log_prob.detach() if segment.sampled is None else segment.sampled
    return ((log_prob - sampled).exp() * segment.advantage * segment.weight).sum(-1)


def log_prob_objective(log_prob: Tensor, segment: Segment) -> Tensor:
    """(M,) weighted log pi * A: the same gradient; its second derivative is that of the step on these very samples."""
    return (log_prob * segment.advantage * segment.weight).sum(-1)


def inner_gradient(objective: Objective, policy: BatchedPolicy, theta: Tensor, segment: Segment, create_graph: bool = False) -> tuple[Tensor, Tensor]:
    """(M, P) gradient of the inner objective at leaves theta (M, P), and the log-probabilities (M, B) there."""
    with torch.enable_grad():
        log_prob = policy.log_prob(theta, segment)
        return torch.autograd.grad(objective(log_prob, segment).sum(), theta, create_graph=create_graph)[0], log_prob.detach()


# ---- adaptation and its Jacobian --------------------------------------------------------------------------------------------


class Adaptation(NamedTuple):
    """S inner steps of M tasks; `alpha` (P,) is the step size."""

    thetas: list[Tensor]  # theta_0 ... theta_S, leaves (M, P)
    gradients: list[Tensor]  # of the inner objectives at theta_0 ... theta_{S-1}, (M, P)
    log_probs: list[Tensor]  # of what was done, at theta_0 ... theta_{S-1}, (M, B)
    alpha: Tensor


def adapt(objective: Objective, policy: BatchedPolicy, theta: Tensor, alpha: Tensor, segments: Sequence[Segment], create_graph: bool) -> Adaptation:
    """Adapt meta-parameters theta (P,) to each task, one step for each segment; with `create_graph`, gradients can be differentiated again."""
    done = Adaptation([leaf(theta.expand(len(segments[0].obs), -1))], [], [], alpha)
    for segment in segments:
        gradient, log_prob = inner_gradient(objective, policy, done.thetas[-1], segment, create_graph)
        done.gradients.append(gradient)
        done.log_probs.append(log_prob)
        done.thetas.append(leaf(done.thetas[-1] + alpha * gradient))
    return done


class Jacobian:
    """Products with the derivative of theta_0 ... theta_S by the meta-vector: theta (P,), and log alpha (P,) behind it where that is learned.

    Args:
        adaptation: the steps.
        curved: gradients with graphs, whose derivatives are the Hessians of the steps; empty for first order, which takes them to be zero.
        with_alpha: whether alpha is learned.
    """

    def __init__(self, adaptation: Adaptation, curved: Sequence[Tensor], with_alpha: bool) -> None:
        self.thetas, self.alpha, self.curved, self.with_alpha = adaptation.thetas, adaptation.alpha, curved, with_alpha
        self.steps = [adaptation.alpha * g.detach() for g in adaptation.gradients]  # = derivative by log alpha

    def push(self, vector: Tensor) -> list[Tensor]:
        """Derivatives (M, P) of theta_0 ... theta_S along a meta-vector."""
        size = len(self.alpha)
        moved = [vector[:size].expand_as(self.thetas[0])]
        for s, step in enumerate(self.steps):
            after = moved[-1] + self.alpha * self._hessian(s, moved[-1])
            moved.append(after + vector[size:] * step if self.with_alpha else after)
        return moved

    def pull(self, cotangents: Sequence[Tensor]) -> Tensor:
        """Gradient by the meta-vector, from gradients (M, P) by the last ones of theta_0 ... theta_S."""
        skipped = len(self.thetas) - len(cotangents)
        total, by_alpha = torch.zeros_like(self.thetas[0]), torch.zeros_like(self.alpha)
        for s in range(len(self.steps), -1, -1):
            if s >= skipped:
                total = total + cotangents[s - skipped]
            if s > 0:
                by_alpha = by_alpha + (total * self.steps[s - 1]).sum(0)
                total = total + self._hessian(s - 1, self.alpha * total)
        return torch.cat([total.sum(0), by_alpha]) if self.with_alpha else total.sum(0)

    def _hessian(self, s: int, vector: Tensor) -> Tensor:
        """Hessian of each task's inner objective at theta_s, times vectors (M, P)."""
        if not self.curved:
            return torch.zeros_like(vector)
        return torch.autograd.grad(self.curved[s], self.thetas[s], vector, retain_graph=True)[0]


def leaf(x: Tensor) -> Tensor:
    """A tensor cut from its graph, to be differentiated by."""
    return x.detach().requires_grad_()


class PolicyMetric:
    """Products of the weighted sum of the Fisher matrices of policies theta (M, P) with vectors (M, P).

    The derivative of the outputs along a vector comes from differentiating their pull-back, which is linear in its cotangents.
    """

    def __init__(self, policy: BatchedPolicy, theta: Tensor, segment: Segment) -> None:
        self.theta, self.outputs = theta, policy(theta, segment.obs)
        self.cotangents = tuple(torch.zeros_like(x).requires_grad_() for x in self.outputs)
        self.pulled = torch.autograd.grad(self.outputs, theta, self.cotangents, create_graph=True)[0]
        self.weight = segment.weight.unsqueeze(-1)

    def __call__(self, vector: Tensor) -> Tensor:
        tangents = torch.autograd.grad(self.pulled, self.cotangents, vector, retain_graph=True)
        return torch.autograd.grad(self.outputs, self.theta, self._lowered(tangents), retain_graph=True)[0]

    def _lowered(self, tangents: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """The Fisher matrix in the space of the outputs, where it is diagonal, times tangents."""
        if isinstance(self.outputs, Categorical):
            return (self.weight * self.outputs.log_probs.detach().exp() * tangents[0],)
        mean, log_std = tangents
        return self.weight * mean * (-2 * self.outputs.log_std.detach()).exp(), 2 * self.weight.sum(1, keepdim=True) * log_std
