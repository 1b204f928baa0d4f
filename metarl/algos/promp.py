"""ProMP: proximal meta-policy search, MAML with likelihood-ratio inner steps and several cheap outer steps a rollout (Rothfuss et al. 2019).

The inner steps are those of `metarl.gradient_adaptation`, with the ratio to the policy that sampled, pi_theta / pi_old, in the inner objective
(the paper's low-variance curvature). Where that policy still is the present one the gradient is the usual one; after an outer step it is the
importance-weighted one, so the same rollout serves several steps of Adam on

    min_theta  - mean_t min(r_t A_t, clip(r_t, 1 - eps, 1 + eps) A_t)  +  eta / S * sum_s KL(pi_old,s || pi_theta_s)

r_t = pi_theta_s(a_t | o_t) / pi_old,s(a_t | o_t), in the episodes after an inner step, where pi_old,s is the adapted policy that has acted. The
KL divergence is that of the policies before each of the S inner steps, at what they met: it keeps the inner ratios near 1, as the clipping
keeps the outer ones. The gradient goes through all inner steps by products with their Hessians, no graph spans two of them, and all tasks
adapt at once.

Deviations from the paper and its code, and why: where a trial has several inner steps, the episodes after each of them count, and not only
the last ones, because all of them are what a robot earns; sigma has a floor that lets gradients pass; eta is fixed, as in the published runs.
With credit = "returns", for steps from single decisions, the inner objective is log pi * A and the clipped objective holds every episode.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from metarl import ppo
from metarl.gradient_adaptation import GradientBased, GradientConfig, mean_entropy
from metarl.inner_steps import Adaptation, BatchedPolicy, Jacobian, Objective, Segment, adapt, constant, kl_divergence
from metarl.rollout import Rollout
from metarl.tasks.parameters import Param
from metarl.tasks.task import EnvSpec


@dataclass(frozen=True)
class ProMPConfig(GradientConfig):
    """Settings of ProMP; those of the outer step are the ones of its HalfCheetah runs."""

    learning_rate: float = 1e-3
    """Of Adam, in the outer steps."""
    epochs: int = 5
    """Steps of Adam from each rollout."""
    clip: float = 0.3
    """eps: how far the adapted policies' probabilities may move in their favour."""
    kl_penalty: float = 5e-4
    """eta: weight of the KL divergence of the policies before the inner steps."""


class OuterObjective:
    """The clipped objective of a rollout, at any meta-vector.

    Args:
        policy, objective: of the inner steps.
        config: see there.
        vector: meta-vector that the rollout was made with: theta, and log alpha behind it where that is learned.
        alpha: (P,) step sizes, where they are not learned.
        inner: segments that inner steps are made from, in their order.
        outer: segments whose rewards count: played with the last ones of theta_0 ... theta_S.
    """

    def __init__(
        self, policy: BatchedPolicy, objective: Objective, config: ProMPConfig, vector: Tensor, alpha: Tensor,
        inner: Sequence[Segment], outer: Sequence[Segment],
    ) -> None:  # fmt: skip
        self.policy, self.objective, self.config, self.alpha, self.outer = policy, objective, config, alpha, outer
        self.visited = [*(segment.obs for segment in inner), outer[-1].obs]  # under theta_0 ... theta_S
        self.inner = inner
        done = self._adapt(vector, create_graph=False)
        self.inner = [segment._replace(sampled=x) for segment, x in zip(inner, done.log_probs, strict=True)]
        with torch.no_grad():
            self.old = [constant(policy(theta, obs)) for theta, obs in zip(done.thetas, self.visited, strict=True)]
        self.acted = self.old[-len(outer) :]
        self.old_log_prob = torch.cat([said.log_prob(segment.action) for said, segment in zip(self.acted, outer, strict=True)], 1)

    def gradient(self, vector: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Of the loss, by the meta-vector; and what to log: the parts of the loss, and how much of the outer data is clipped."""
        done = self._adapt(vector, create_graph=True)
        new = [self.policy(theta, obs) for theta, obs in zip(done.thetas, self.visited, strict=True)]
        log_prob = torch.cat([said.log_prob(segment.action) for said, segment in zip(new[-len(self.outer) :], self.outer, strict=True)], 1)
        advantage, weight = (torch.cat([getattr(segment, name) for segment in self.outer], 1) for name in ("advantage", "weight"))
        surrogate = ppo.clipped_surrogate(log_prob, self.old_log_prob, advantage, weight, self.config.clip)
        divergences = [
            (kl_divergence(old, said) * segment.weight).sum(1).mean() for old, said, segment in zip(self.old[:-1], new[:-1], self.inner, strict=True)
        ]
        inner_kl = torch.stack(divergences).mean()
        cotangents = torch.autograd.grad(surrogate + self.config.kl_penalty * inner_kl, done.thetas)
        gradient = Jacobian(done, done.gradients, self.config.learn_inner_lr).pull(cotangents)
        clipped = (((log_prob - self.old_log_prob).exp() - 1).abs() > self.config.clip) * weight
        logs = {"surrogate": -surrogate, "inner_kl": inner_kl, "clipped": clipped.sum() / weight.sum()}
        return gradient, logs | {"kl": ppo.approximate_kl(log_prob, self.old_log_prob, weight)}

    def _adapt(self, vector: Tensor, create_graph: bool) -> Adaptation:
        theta, log_alpha = vector[: self.policy.num_params], vector[self.policy.num_params :]
        alpha = log_alpha.exp() if self.config.learn_inner_lr else self.alpha
        return adapt(self.objective, self.policy, theta, alpha, self.inner, create_graph)


class ProMP(GradientBased):
    """See the module's docstring."""

    Config = ProMPConfig
    config: ProMPConfig

    def __init__(self, spec: EnvSpec, params: tuple[Param, ...], config: ProMPConfig, seed: int = 0) -> None:
        super().__init__(spec, params, config, seed)
        self.optimizer = torch.optim.Adam(self.learned, config.learning_rate)

    def meta_update(self, rollout: Rollout) -> dict[str, float]:
        network = self.network
        rollout = rollout.to(network.theta.device)
        problem = OuterObjective(network.policy, self.objective, self.config, self.meta_vector, network.alpha, *self.segments(rollout))
        logs = dict[str, Tensor]()
        for _ in range(self.config.epochs):
            gradient, logs = problem.gradient(self.meta_vector)
            for part, slope in zip(self.learned, gradient.split(len(network.theta)), strict=True):
                part.grad = slope
            self.optimizer.step()
        self.update_statistics(rollout)  # only now, so that everything above saw the numbers that the adapter acted with
        said = {name: float(x.detach()) for name, x in logs.items()}
        return said | {"entropy": mean_entropy(problem.acted, problem.outer), "inner_lr": float(network.alpha.mean())}

    def state_dict(self) -> dict[str, Any]:
        return super().state_dict() | {"optimizer": self.optimizer.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        super().load_state_dict(state)
        self.optimizer.load_state_dict(state["optimizer"])


ALGORITHM = ProMP
