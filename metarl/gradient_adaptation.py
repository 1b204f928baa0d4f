"""What the algorithms share that adapt by policy gradient: the steps of the adapter, and the same steps as the outer loop must differentiate them.

An inner step after every n episodes, on what the R robots of task i have done with the present parameters:

    theta' = theta + alpha * grad_theta sum_t w_t pi_theta(a_t | o_t) / stop_gradient(pi_theta(a_t | o_t)) A_t

What an action before an inner step is worth later has two estimators, see `GradientConfig.credit`.

- curvature: with the ratio in place of log pi, the Hessian holds grad log pi grad log pi^T A, the credit of sampling that log pi * A loses
  (low-variance curvature, Rothfuss et al. 2019). Right where a step pools many decisions; advantages come from a baseline for each task.
- returns: the exact derivative of the step that was made, and the returns of later episodes added to those of the actions that led to
  them (Stadie et al. 2018). Right whatever the number of decisions, also where a step sees a single one, which is too little to fit a
  baseline to, let alone a gradient whose mean matters: the baselines are then meta-learned, shared by all tasks.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal, NamedTuple, Self

import torch
from torch import Tensor, nn

from metarl.algorithm import MetaRLAlgorithm
from metarl.baselines import RunningRegression, fitted_values, time_features
from metarl.inner_steps import (
    BatchedCategorical,
    BatchedGaussian,
    BatchedPolicy,
    Objective,
    Outputs,
    Segment,
    inner_gradient,
    leaf,
    log_prob_objective,
    ratio_objective,
)
from metarl.networks import Normalizer, relative_change
from metarl.returns import discounted_returns, normalise
from metarl.rollout import Rollout
from metarl.tasks.batched_env import Step
from metarl.tasks.parameters import Param
from metarl.tasks.task import EnvSpec


@dataclass(frozen=True)
class GradientConfig:
    """Settings of inner steps; the defaults suit tasks with many decisions an episode."""

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


# ---- the adapter ------------------------------------------------------------------------------------------------------------


class GradientAdapter:
    """Adapted parameters (M, P), and the episodes since the last inner step. The R robots of a task share one set and pool what they do."""

    def __init__(self, algorithm: GradientBased, num_tasks: int, num_robots: int, last_episode: int | None) -> None:
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
        policy = network.policy(self.theta, network.normalizer(obs.to(self.theta.device)))
        return (policy.sample(self.algorithm.generator) if explore else policy.mode()).to(obs.device)

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

    @torch.no_grad()
    def progress(self, before: GradientAdapter) -> float:
        """Change of the mean log pi * A that an inner step climbs, on its own decisions: a step that is too long makes it fall. 0 where none was made."""
        if torch.equal(self.theta, before.theta):
            return 0.0
        segment, policy = self.algorithm.inner_segment(before.episodes, self.episode - self.shape[2]), self.algorithm.network.policy
        new, old = (log_prob_objective(policy.log_prob(theta, segment), segment) for theta in (self.theta, before.theta))
        return float((new - old).mean())

    @torch.no_grad()
    def distance(self, prior: Self) -> float:
        """Largest relative change of a layer."""
        return relative_change(self.theta, prior.theta, self.algorithm.network.policy.shapes)

    def _none_yet(self) -> Episodes:
        spec, theta = self.algorithm.spec, self.algorithm.network.theta
        obs, action = (theta.new_zeros(*self.shape, size) for size in (spec.obs_size, spec.action_size))
        return Episodes(obs, action, theta.new_zeros(self.shape), *(theta.new_zeros(self.shape, dtype=torch.bool) for _ in range(3)))


# ---- the algorithm ----------------------------------------------------------------------------------------------------------


class Network(nn.Module):
    """All meta-parameters; `expected` foretells an episode's return, for credit "returns"."""

    def __init__(self, spec: EnvSpec, config: GradientConfig, generator: torch.Generator) -> None:
        super().__init__()
        sizes = (spec.obs_size, *config.layers, spec.action_size)
        self.policy: BatchedPolicy = (
            BatchedCategorical(sizes) if spec.discrete else BatchedGaussian(sizes, config.action_scale, config.min_std, config.initial_std)
        )
        # their gradients are known in closed form, or come from elsewhere than backward
        self.theta = nn.Parameter(self.policy.initial(generator), requires_grad=False)
        self.log_alpha = nn.Parameter(torch.full_like(self.theta, math.log(config.inner_lr)), requires_grad=False)
        self.normalizer = Normalizer(spec.obs_size)
        if config.credit == "returns":
            self.expected = RunningRegression(spec.episodes_per_trial, 2 * spec.obs_size + 4)

    @property
    def alpha(self) -> Tensor:
        """(P,) step sizes."""
        return self.log_alpha.exp()


class GradientBased(MetaRLAlgorithm):
    """Everything but the outer step, which is what a file in `metarl.algos` adds."""

    Config = GradientConfig
    config: GradientConfig
    discrete: ClassVar[bool] = True
    pools_robots: ClassVar[bool] = True
    noise_to_adapt: ClassVar[bool] = True

    def __init__(self, spec: EnvSpec, params: tuple[Param, ...], config: GradientConfig, seed: int = 0) -> None:
        super().__init__(spec, params, config, seed)
        if spec.episodes_per_trial <= config.episodes_per_step:
            raise ValueError(f"a trial has {spec.episodes_per_trial} episodes: none is left after an inner step from {config.episodes_per_step}")
        self.generator = torch.Generator().manual_seed(seed)
        self.network = Network(spec, config, self.generator)

    def adapter(self, num_tasks: int, num_robots: int = 1, training: bool = False) -> GradientAdapter:
        decisions = num_robots * self.config.episodes_per_step * self.spec.horizon
        if self.config.credit == "curvature" and decisions < 2:
            raise ValueError('an inner step from a single decision has no baseline of its own: credit = "returns" meta-learns one')
        last = self.spec.episodes_per_trial if training else None  # nobody would see what is learnt from it
        return GradientAdapter(self, num_tasks, num_robots, last)

    # ---- the meta-vector --------------------------------------------------------------------------------------------------

    @property
    def learned(self) -> list[nn.Parameter]:
        """What the outer step moves: theta, and log alpha where that is learned. In this order, they are the meta-vector."""
        return [self.network.theta, self.network.log_alpha] if self.config.learn_inner_lr else [self.network.theta]

    @property
    def meta_vector(self) -> Tensor:
        """A copy."""
        return torch.cat([x.data for x in self.learned])

    @property
    def objective(self) -> Objective:
        """Of inner steps, with the second derivative that the credit needs."""
        return ratio_objective if self.config.credit == "curvature" else log_prob_objective

    # ---- advantages -------------------------------------------------------------------------------------------------------

    def segments(self, rollout: Rollout) -> tuple[list[Segment], list[Segment]]:
        """Inner segments, and outer ones with weights that sum to 1 over all segments of a task.

        Inner steps are made from the reward, as on the robot, which knows no other; the outer step is told the task's `training_reward` where it has one.
        """
        size, judged = self.config.episodes_per_step, replace(rollout, reward=rollout.told_reward)
        starts = range(0, rollout.obs.shape[2], size)
        inner = [self.inner_segment(Episodes.of(rollout, start, start + size), start) for start in starts[:-1]]
        parts = [Episodes.of(judged, start, start + size) for start in starts]
        if self.config.credit == "curvature":
            outer = [self.inner_segment(part, start) for part, start in zip(parts[1:], starts[1:], strict=True)]
        else:
            advantage = self._told_advantage(judged)
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

    def update_statistics(self, rollout: Rollout) -> None:
        """Take a rollout into the running numbers; the last thing in `meta_update`."""
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


def mean_entropy(outputs: Sequence[Outputs], segments: Sequence[Segment]) -> float:
    """Of policies at the observations of segments."""
    return float(torch.stack([(said.entropy() * s.weight).sum() / s.weight.sum() for said, s in zip(outputs, segments, strict=True)]).mean())
