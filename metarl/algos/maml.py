"""MAML: meta-parameters from which one step of policy gradient, on a task's own episodes, makes a good policy (Finn et al. 2017).

The inner steps are those of `metarl.gradient_adaptation`. The outer step is TRPO on the trials' rewards, through the inner steps. It needs
products with the Jacobian of theta' in both directions. As the Hessian of each inner objective is symmetric, both are chains of
Hessian-vector products of single steps: no graph spans two steps, and the Fisher product of the conjugate gradient is J^T F J with F the
Fisher matrix of the adapted policies, exactly the Hessian of the KL divergence between adapted policies at the present meta-parameters.
Parameters carry an axis of tasks everywhere, so all tasks adapt at once.

Deviations from the paper, and why: the ratio in the inner objective, whose Hessian is less biased than that of log pi * A; sigma = min_std +
exp(s), adapted as well, with a floor that lets gradients pass; the Fisher matrix from every n-th decision, a metric that needs less
precision than the gradient.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from metarl.gradient_adaptation import GradientBased, GradientConfig, mean_entropy
from metarl.inner_steps import (
    Adaptation,
    BatchedPolicy,
    Jacobian,
    Objective,
    Outputs,
    PolicyMetric,
    Segment,
    adapt,
    constant,
    inner_gradient,
    kl_divergence,
    ratio_objective,
)
from metarl.rollout import Rollout
from metarl.trpo import TrustRegion, trust_region_step


@dataclass(frozen=True)
class MAMLConfig(GradientConfig):
    """Settings of MAML."""

    max_kl: float = 0.01
    """delta: mean KL divergence of an outer step."""
    cg_iterations: int = 10
    """Of TRPO's conjugate gradient."""
    damping: float = 1e-5
    """Of TRPO's Fisher matrix."""
    backtracks: int = 15
    """Of TRPO's line search."""
    shrink: float = 0.8
    """Of a step in TRPO's line search."""
    fisher_stride: int = 7
    """Every n-th decision enters the Fisher matrix; 1 takes all."""


class OuterProblem:
    """What TRPO needs to know at a meta-vector: loss, gradient, Fisher products, and loss and KL divergence elsewhere.

    Args:
        policy, objective: of the inner steps.
        config: see there.
        vector: meta-vector: theta, and log alpha behind it where that is learned.
        alpha: (P,) present step sizes.
        inner: segments that inner steps are made from, in their order.
        outer: segments whose rewards count: played with the last ones of theta_0 ... theta_S; the weights of a task sum to 1 over all of them.
        first_order: whether the derivative of the adapted parameters is taken to be the identity.
    """

    def __init__(
        self, policy: BatchedPolicy, objective: Objective, config: MAMLConfig, vector: Tensor, alpha: Tensor,
        inner: Sequence[Segment], outer: Sequence[Segment], first_order: bool,
    ) -> None:  # fmt: skip
        self.policy, self.objective, self.config, self.alpha = policy, objective, config, alpha
        self.inner, self.outer, self.first_order, self.num_tasks = inner, outer, first_order, len(inner[0].obs)
        self.adaptation = self._adapt(vector, inner, create_graph=not first_order)
        self.sampled = [segment._replace(sampled=x) for segment, x in zip(inner, self.adaptation.log_probs, strict=True)]
        self.thetas = self.adaptation.thetas[-len(outer) :]
        outputs = [policy(theta, segment.obs) for theta, segment in zip(self.thetas, outer, strict=True)]
        self.old = [constant(x) for x in outputs]
        losses = [self._loss(new, old, segment) for new, old, segment in zip(outputs, self.old, outer, strict=True)]
        self.loss = torch.stack(losses).sum().detach()
        jacobian = self._jacobian(self.adaptation.gradients)
        self.gradient = jacobian.pull([torch.autograd.grad(x, theta)[0] for x, theta in zip(losses, self.thetas, strict=True)])

    @torch.no_grad()
    def evaluate(self, vector: Tensor) -> tuple[Tensor, Tensor]:
        """Loss, and KL divergence between the adapted policies from the present meta-vector and those from another one."""
        thetas = self._adapt(vector, self.sampled, create_graph=False).thetas[-len(self.outer) :]
        losses, kls = [], []
        for theta, segment, old in zip(thetas, self.outer, self.old, strict=True):
            new = self.policy(theta, segment.obs)
            losses.append(self._loss(new, old, segment))
            kls.append((kl_divergence(old, new) * segment.weight).sum() / self.num_tasks)
        return torch.stack(losses).sum(), torch.stack(kls).sum()

    def fisher(self) -> Callable[[Tensor], Tensor]:
        """Products of the Hessian of the KL divergence at the present meta-vector with meta-vectors, from the thinned segments."""
        thin = self.config.fisher_stride
        curved = []
        if not self.first_order:
            pairs = zip(self.adaptation.thetas, self.inner, strict=False)
            curved = [inner_gradient(self.objective, self.policy, theta, s.thinned(thin), create_graph=True)[0] for theta, s in pairs]
        jacobian = self._jacobian(curved)
        metrics = [PolicyMetric(self.policy, theta, segment.thinned(thin)) for theta, segment in zip(self.thetas, self.outer, strict=True)]

        def product(vector: Tensor) -> Tensor:
            moved = jacobian.push(vector)[-len(metrics) :]
            return jacobian.pull([metric(x) / self.num_tasks for metric, x in zip(metrics, moved, strict=True)])

        return product

    def _loss(self, new: Outputs, old: Outputs, segment: Segment) -> Tensor:
        """Negative surrogate of an outer segment under policies `new`, which `old` have played."""
        played = segment._replace(sampled=old.log_prob(segment.action))
        return -ratio_objective(new.log_prob(segment.action), played).sum() / self.num_tasks

    def _adapt(self, vector: Tensor, segments: Sequence[Segment], create_graph: bool) -> Adaptation:
        theta, log_alpha = vector[: self.policy.num_params], vector[self.policy.num_params :]
        alpha = log_alpha.exp() if self.config.learn_inner_lr else self.alpha
        return adapt(self.objective, self.policy, theta, alpha, segments, create_graph)

    def _jacobian(self, curved: Sequence[Tensor]) -> Jacobian:
        return Jacobian(self.adaptation, [] if self.first_order else curved, self.config.learn_inner_lr)


# ---- the algorithm ----------------------------------------------------------------------------------------------------------


class MAML(GradientBased):
    """See the module's docstring."""

    Config = MAMLConfig
    config: MAMLConfig
    first_order: ClassVar[bool] = False  # see fomaml.py

    def meta_update(self, rollout: Rollout) -> dict[str, float]:
        cfg, network = self.config, self.network
        rollout = rollout.to(network.theta.device)
        vector = self.meta_vector
        problem = OuterProblem(network.policy, self.objective, cfg, vector, network.alpha, *self.segments(rollout), self.first_order)
        region = TrustRegion(cfg.max_kl, cfg.cg_iterations, cfg.damping, cfg.backtracks, cfg.shrink)
        outcome = trust_region_step(vector, problem.loss, problem.gradient, problem.fisher(), problem.evaluate, region)
        for part, moved in zip(self.learned, outcome.params.split(len(network.theta)), strict=True):
            part.copy_(moved)
        self.update_statistics(rollout)  # only now, so that everything above saw the numbers that the adapter acted with
        logs = {
            "gain": float(problem.loss - outcome.loss),
            "kl": float(outcome.kl),
            "accepted": float(outcome.accepted),
            "backtracks": float(outcome.backtracks),
        }
        return logs | {"entropy": mean_entropy(problem.old, problem.outer), "inner_lr": float(network.alpha.mean())}


ALGORITHM = MAML
