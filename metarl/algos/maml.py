"""MAML: meta-parameters from which one step of policy gradient, on a task's own episodes, makes a good policy (Finn et al. 2017).

An inner step after every n episodes, on what the R robots of task i have done with the present parameters:

    theta' = theta + alpha * grad_theta sum_t w_t pi_theta(a_t | o_t) / stop_gradient(pi_theta(a_t | o_t)) A_t

The outer step is TRPO on the trials' rewards, through the inner steps. It needs products with the Jacobian of theta' in both directions. As
the Hessian of each inner objective is symmetric, both are chains of Hessian-vector products of single steps: no graph spans two steps, and
the Fisher product of the conjugate gradient is J^T F J with F the Fisher matrix of the adapted policies, exactly the Hessian of the KL
divergence between adapted policies at the present meta-parameters. Parameters carry an axis of tasks everywhere, so all tasks adapt at once.

What an action before an inner step is worth later has two estimators, see `MAMLConfig.credit`.

- curvature: with the ratio in place of log pi, the Hessian holds grad log pi grad log pi^T A, the credit of sampling that log pi * A loses
  (low-variance curvature, Rothfuss et al. 2018). Right where a step pools many decisions; advantages come from a baseline for each task.
- returns: the exact derivative of the step that was made, and the returns of later episodes added to those of the actions that led to
  them (Stadie et al. 2018). Right whatever the number of decisions, also where a step sees a single one, which is too little to fit a
  baseline to, let alone a gradient whose mean matters: the baselines are then meta-learned, shared by all tasks.

Deviations from the paper, and why: the ratio above; sigma = min_std + exp(s), adapted as well, with a floor that lets gradients pass; the
Fisher matrix from every n-th decision, a metric that needs less precision than the gradient.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, NamedTuple

import torch
from torch import Tensor, nn

from metarl.algorithm import MetaRLAlgorithm
from metarl.baselines import RunningRegression, fitted_values, time_features
from metarl.inner_steps import (
    Adaptation,
    BatchedPolicy,
    Jacobian,
    PolicyMetric,
    Segment,
    adapt,
    inner_gradient,
    kl_divergence,
    leaf,
    log_prob_objective,
    ratio_objective,
)
from metarl.networks import Normalizer, gaussian_log_prob
from metarl.returns import discounted_returns, normalise
from metarl.rollout import Rollout
from metarl.tasks.batched_env import Step
from metarl.tasks.parameters import Param
from metarl.tasks.task import EnvSpec
from metarl.trpo import TrustRegion, trust_region_step


@dataclass(frozen=True)
class MAMLConfig:
    """Settings of MAML; the defaults suit tasks with many decisions an episode."""

    num_tasks: int = 20
    """Tasks of a rollout, M."""
    num_robots: int = 20
    """Copies of each task that adapt together, R."""
    iterations: int = 200
    """Outer steps."""
    episodes_per_step: int = 1
    """Episodes of each robot before an inner step, n."""
    inner_lr: float = 0.1
    """alpha, step size of the inner steps."""
    learn_inner_lr: bool = False
    """Whether each parameter gets an alpha of its own, which is meta-learned (Li et al. 2017)."""
    first_order: bool = False
    """Whether the derivative of the adapted parameters is taken to be the identity (FOMAML)."""
    credit: Literal["curvature", "returns"] = "curvature"
    """How actions are credited for what is learnt from them; "returns" where an inner step sees only a few decisions."""
    layers: tuple[int, ...] = (64, 64)
    """Hidden layers of the policy, tanh."""
    normalise_obs: bool = False
    """Whether observations are given running mean 0 and variance 1; where their scale is sound, fixed inputs learn better."""
    action_scale: float = 0.5
    """What the network's Gaussian is multiplied by, so that its noise can be 1 and small in the actions' range [-1, 1] (ProMP: 0.1)."""
    initial_std: float = 1.0
    """sigma of the first actions, before scaling."""
    min_std: float = 0.05
    """Least sigma, before scaling."""
    discount: float = 0.99
    """gamma, within an episode."""
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


class Episodes(NamedTuple):
    """n episodes of M x R robots; fields as in Rollout, (M, R, n, H, ...)."""

    obs: Tensor
    action: Tensor
    reward: Tensor
    terminated: Tensor
    truncated: Tensor
    valid: Tensor

    @staticmethod
    def of(rollout: Rollout, first: int, last: int) -> Episodes:
        """Episodes first ... last - 1 of a rollout."""
        return Episodes(*(getattr(rollout, name)[:, :, first:last] for name in Episodes._fields))

    def returns(self, discount: float) -> Tensor:
        """(M, R, n, H) discounted return from each decision to the end of its episode."""
        return discounted_returns(self.reward, self.terminated | self.truncated | ~self.valid, discount)


# ---- the outer step ---------------------------------------------------------------------------------------------------------


class OuterProblem:
    """What TRPO needs to know at a meta-vector: loss, gradient, Fisher products, and loss and KL divergence elsewhere.

    Args:
        policy, config: of the algorithm.
        vector: meta-vector: theta, and log alpha behind it where that is learned.
        alpha: (P,) present step sizes.
        inner: segments that inner steps are made from, in their order.
        outer: segments whose rewards count: played with the last ones of theta_0 ... theta_S; the weights of a task sum to 1 over all of them.
    """

    def __init__(
        self, policy: BatchedPolicy, config: MAMLConfig, vector: Tensor, alpha: Tensor, inner: Sequence[Segment], outer: Sequence[Segment]
    ) -> None:  # fmt: skip
        self.policy, self.config, self.alpha, self.inner, self.outer = policy, config, alpha, inner, outer
        self.num_tasks = len(inner[0].obs)
        self.objective = ratio_objective if config.credit == "curvature" else log_prob_objective
        self.adaptation = self._adapt(vector, inner, create_graph=not config.first_order)
        self.sampled = [segment._replace(sampled=x) for segment, x in zip(inner, self.adaptation.log_probs, strict=True)]
        self.thetas = self.adaptation.thetas[-len(outer) :]
        outputs = [policy(theta, segment.obs) for theta, segment in zip(self.thetas, outer, strict=True)]
        self.old = [(mean.detach(), std.detach()) for mean, std in outputs]
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
        if not self.config.first_order:
            pairs = zip(self.adaptation.thetas, self.inner, strict=False)
            curved = [inner_gradient(self.objective, self.policy, theta, s.thinned(thin), create_graph=True)[0] for theta, s in pairs]
        jacobian = self._jacobian(curved)
        metrics = [PolicyMetric(self.policy, theta, segment.thinned(thin)) for theta, segment in zip(self.thetas, self.outer, strict=True)]

        def product(vector: Tensor) -> Tensor:
            moved = jacobian.push(vector)[-len(metrics) :]
            return jacobian.pull([metric(x) / self.num_tasks for metric, x in zip(metrics, moved, strict=True)])

        return product

    def _loss(self, new: tuple[Tensor, Tensor], old: tuple[Tensor, Tensor], segment: Segment) -> Tensor:
        """Negative surrogate of an outer segment under policies `new`, which `old` have played."""
        log_prob, sampled = (gaussian_log_prob(segment.action, mean, std.log()) for mean, std in (new, old))
        return -ratio_objective(log_prob, segment._replace(sampled=sampled)).sum() / self.num_tasks

    def _adapt(self, vector: Tensor, segments: Sequence[Segment], create_graph: bool) -> Adaptation:
        theta, log_alpha = vector[: self.policy.num_params], vector[self.policy.num_params :]
        alpha = log_alpha.exp() if self.config.learn_inner_lr else self.alpha
        return adapt(self.objective, self.policy, theta, alpha, segments, create_graph)

    def _jacobian(self, curved: Sequence[Tensor]) -> Jacobian:
        return Jacobian(self.adaptation, [] if self.config.first_order else curved, self.config.learn_inner_lr)


# ---- the adapter ------------------------------------------------------------------------------------------------------------


class MAMLAdapter:
    """Adapted parameters (M, P), and the episodes since the last inner step. The R robots of a task share one set and pool what they do."""

    def __init__(self, algorithm: MAML, num_tasks: int, num_robots: int, last_episode: int | None) -> None:
        self.algorithm, self.last_episode = algorithm, last_episode
        self.shape = (num_tasks, num_robots, algorithm.config.episodes_per_step, algorithm.spec.horizon)
        self.reset()

    def reset(self) -> None:
        """Back to the meta-parameters."""
        self.theta = self.algorithm.network.theta.expand(self.shape[0], -1)
        self.episode = self.time = 0
        self.episodes = self._none_yet()

    @torch.no_grad()
    def act(self, obs: Tensor, explore: bool = True) -> Tensor:
        """Actions (M, R, A) for observations (M, R, O)."""
        network = self.algorithm.network
        mean, std = network.policy(self.theta, network.normalizer(obs.to(self.theta.device)))
        if explore:
            mean = mean + std * self.algorithm.noise(mean)
        return mean.to(obs.device)

    def observe(self, step: Step) -> None:
        """Remember the decision.

        Raises:
            RuntimeError: the episode is longer than the task's horizon.
        """
        if self.time == self.shape[-1]:
            raise RuntimeError(f"more than {self.time} decisions in episode {self.episode}: the horizon of {self.algorithm.spec.task} is {self.time}")
        for name, stored in self.episodes._asdict().items():
            stored[:, :, self.episode % self.shape[2], self.time] = getattr(step, name).to(stored.device)
        self.time += 1

    def adapt(self) -> None:
        """An episode has ended: an inner step, if it was the n-th since the last one."""
        self.episode, self.time = self.episode + 1, 0
        if self.episode % self.shape[2] == 0 and self.episode != self.last_episode:
            segment = self.algorithm.inner_segment(self.episodes, self.episode - self.shape[2])
            theta = leaf(self.theta)
            gradient, _ = inner_gradient(log_prob_objective, self.algorithm.network.policy, theta, segment)
            self.theta = theta.detach() + self.algorithm.network.alpha * gradient
            self.episodes = self._none_yet()

    def _none_yet(self) -> Episodes:
        spec, theta = self.algorithm.spec, self.algorithm.network.theta
        obs, action = (theta.new_zeros(*self.shape, size) for size in (spec.obs_size, spec.action_size))
        return Episodes(obs, action, theta.new_zeros(self.shape), *(theta.new_zeros(self.shape, dtype=torch.bool) for _ in range(3)))


# ---- the algorithm ----------------------------------------------------------------------------------------------------------


class Network(nn.Module):
    """All meta-parameters; `expected` foretells an episode's return, for credit "returns"."""

    theta: Tensor
    log_alpha: Tensor

    def __init__(self, spec: EnvSpec, config: MAMLConfig, generator: torch.Generator) -> None:
        super().__init__()
        self.policy = BatchedPolicy((spec.obs_size, *config.layers, spec.action_size), config.action_scale, config.min_std)
        self.register_buffer("theta", self.policy.initial(config.initial_std, generator))
        self.register_buffer("log_alpha", torch.full_like(self.theta, math.log(config.inner_lr)))
        self.normalizer = Normalizer(spec.obs_size)
        if config.credit == "returns":
            self.expected = RunningRegression(spec.episodes_per_trial, 2 * spec.obs_size + 4)

    @property
    def alpha(self) -> Tensor:
        """(P,) step sizes."""
        return self.log_alpha.exp()


class MAML(MetaRLAlgorithm):
    """See the module's docstring."""

    Config = MAMLConfig
    config: MAMLConfig
    pools_robots: ClassVar[bool] = True
    noise_to_adapt: ClassVar[bool] = True

    def __init__(self, spec: EnvSpec, params: tuple[Param, ...], config: MAMLConfig, seed: int = 0) -> None:
        super().__init__(spec, params, config, seed)
        if spec.episodes_per_trial <= config.episodes_per_step:
            raise ValueError(f"a trial has {spec.episodes_per_trial} episodes: none is left after an inner step from {config.episodes_per_step}")
        self.generator = torch.Generator().manual_seed(seed)
        self.network = Network(spec, config, self.generator)

    def noise(self, like: Tensor) -> Tensor:
        """Standard normal numbers from the algorithm's own generator."""
        return torch.randn(like.shape, generator=self.generator).to(like.device)

    def adapter(self, num_tasks: int, num_robots: int = 1, training: bool = False) -> MAMLAdapter:
        decisions = num_robots * self.config.episodes_per_step * self.spec.horizon
        if self.config.credit == "curvature" and decisions < 2:
            raise ValueError('an inner step from a single decision has no baseline of its own: credit = "returns" meta-learns one')
        last = self.spec.episodes_per_trial if training else None  # nobody would see what is learnt from it
        return MAMLAdapter(self, num_tasks, num_robots, last)

    def meta_update(self, rollout: Rollout) -> dict[str, float]:
        cfg, network = self.config, self.network
        rollout = rollout.to(network.theta.device)
        vector = torch.cat([network.theta, network.log_alpha]) if cfg.learn_inner_lr else network.theta
        problem = OuterProblem(network.policy, cfg, vector, network.alpha, *self.segments(rollout))
        region = TrustRegion(cfg.max_kl, cfg.cg_iterations, cfg.damping, cfg.backtracks, cfg.shrink)
        outcome = trust_region_step(vector, problem.loss, problem.gradient, problem.fisher(), problem.evaluate, region)
        network.theta.copy_(outcome.params[: len(network.theta)])
        if cfg.learn_inner_lr:
            network.log_alpha.copy_(outcome.params[len(network.theta) :])
        self._update_statistics(rollout)  # only now, so that everything above saw the numbers that the adapter acted with
        std = float(torch.stack([std.mean() for _, std in problem.old]).mean())
        gain = float(problem.loss - outcome.loss)
        logs = {"gain": gain, "kl": float(outcome.kl), "accepted": float(outcome.accepted), "backtracks": float(outcome.backtracks)}
        return logs | {"action_std": std, "inner_lr": float(network.alpha.mean())}

    # ---- advantages -------------------------------------------------------------------------------------------------------

    def segments(self, rollout: Rollout) -> tuple[list[Segment], list[Segment]]:
        """Inner segments, and outer ones with weights that sum to 1 over all segments of a task."""
        size, num_episodes = self.config.episodes_per_step, rollout.obs.shape[2]
        starts = range(0, num_episodes, size)
        parts = [Episodes.of(rollout, start, start + size) for start in starts]
        inner = [self.inner_segment(part, start) for part, start in zip(parts[:-1], starts, strict=False)]
        if self.config.credit == "curvature":
            outer = [self.inner_segment(part, start) for part, start in zip(parts[1:], starts[1:], strict=True)]
        else:
            advantage = self._told_advantage(rollout)
            outer = [self._segment(part, advantage[:, :, start : start + size]) for part, start in zip(parts, starts, strict=True)]
        count = torch.stack([(s.weight > 0).sum(1, keepdim=True) for s in outer]).sum(0)
        return inner, [s._replace(weight=(s.weight > 0) / count) for s in outer]

    def inner_segment(self, episodes: Episodes, first: int) -> Segment:
        """The segment of an inner step from the episodes first ... first + n - 1 of a trial; the very same in training and on the robot."""
        target, valid = episodes.returns(self.config.discount), episodes.valid
        features = time_features(self.network.normalizer(episodes.obs))
        if self.config.credit == "curvature":
            value = fitted_values(features.flatten(1, 3), target.flatten(1, 3), valid.flatten(1, 3))
            advantage = normalise(target.flatten(1, 3) - value, valid.flatten(1, 3), (1,)).unflatten(1, valid.shape[1:])
        else:
            index = torch.arange(first, first + valid.shape[2], device=valid.device)
            expected = self.network.expected(_by_episode(features), index)
            advantage = (target - _from_episode(expected, valid.shape)) / self.network.expected.scale
        return self._segment(episodes, advantage)

    def _segment(self, episodes: Episodes, advantage: Tensor) -> Segment:
        valid = episodes.valid.flatten(1, 3)
        weight = valid / valid.sum(1, keepdim=True).clamp(min=1)
        return Segment(self.network.normalizer(episodes.obs).flatten(1, 3), episodes.action.flatten(1, 3), advantage.flatten(1, 3), weight)

    def _told_advantage(self, rollout: Rollout) -> Tensor:
        """(M, R, K, H) return of the rest of the trial, less what was to be expected of it by one who is told the task, as only training is."""
        values = rollout.values[:, None, None, None].expand(*rollout.valid.shape, -1)
        features = time_features(torch.cat([self.network.normalizer(rollout.obs), values], -1))
        target, valid = self._rest_of_trial(rollout), rollout.valid
        advantage = target - _from_episode(fitted_values(_by_episode(features), _by_episode(target), _by_episode(valid)), valid.shape)
        return normalise(advantage, valid, (0, 1, 2, 3))

    def _rest_of_trial(self, rollout: Rollout) -> Tensor:
        """(M, R, K, H) return to the end of the episode, plus those of all episodes, of all robots of the task, after the next inner step."""
        size, num_episodes = self.config.episodes_per_step, rollout.valid.shape[2]
        own = Episodes.of(rollout, 0, num_episodes).returns(self.config.discount)
        shared = own[..., 0].sum(1, keepdim=True)  # (M, 1, K)
        later = [shared[..., (k // size + 1) * size :].sum(-1) for k in range(num_episodes)]
        return own + torch.stack(later, -1).unsqueeze(-1)

    def _update_statistics(self, rollout: Rollout) -> None:
        network = self.network
        if self.config.normalise_obs:
            network.normalizer.update(rollout.obs, rollout.valid)
        if self.config.credit == "returns":
            valid = _by_episode(rollout.valid)
            own = Episodes.of(rollout, 0, rollout.valid.shape[2]).returns(self.config.discount)
            network.expected.update(_by_episode(time_features(network.normalizer(rollout.obs))), _by_episode(own), valid)

    # ---- files ------------------------------------------------------------------------------------------------------------

    def meta_parameters(self) -> dict[str, Tensor]:
        kept = ("theta", "log_alpha", "normalizer.", "expected.weights", "expected.scale")
        return {k: v.detach().clone() for k, v in self.network.state_dict().items() if k.startswith(kept)}

    def load_meta_parameters(self, tensors: Mapping[str, Tensor]) -> None:
        self.network.load_state_dict(dict(tensors), strict=False)

    def state_dict(self) -> dict[str, Any]:
        return {"network": self.network.state_dict(), "generator": self.generator.get_state()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.network.load_state_dict(state["network"])
        self.generator.set_state(state["generator"])


def _by_episode(x: Tensor) -> Tensor:
    """(M, R, n, H, ...) as (n, M * R * H, ...)."""
    return x.movedim(2, 0).flatten(1, 3)


def _from_episode(x: Tensor, shape: torch.Size) -> Tensor:
    """(n, M * R * H) as `shape` (M, R, n, H)."""
    return x.unflatten(1, (shape[0], shape[1], shape[3])).movedim(0, 2)


ALGORITHM = MAML
