"""Proximal policy optimisation over whole trials: what all learners with a memory share, whatever their memory is made of.

A trial of K episodes in one task is one long episode: the memory lives through it, and PPO maximises the return of all of it, so that an action
is also worth what is learnt from it. What a memory takes in after each decision is the transition (o', a, r, terminated, truncated); with the
flags it knows that the next observation is a new start and not a jump. The policy acts on the observation and on what is known, (o, m).

In training the value function is told the task's parameters and the time left (asymmetric actor-critic, Pinto et al. 2018): it is not part of
the meta-parameters, and its better baseline is worth many samples. Where a task has a `training_reward`, that is what PPO maximises; the memory takes in
the reward itself. The end of a trial is worth nothing, so it needs no bootstrap.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import torch
from torch import Tensor, nn

from metarl import ppo
from metarl.algorithm import MetaRLAlgorithm
from metarl.networks import Distribution, Normalizer, make_policy, mlp
from metarl.returns import gae, masked_mean, normalise
from metarl.rollout import Rollout
from metarl.tasks.batched_env import Step
from metarl.tasks.parameters import Param
from metarl.tasks.task import EnvSpec
from metarl.trials import Rows, Senses, trials, valid_first


@dataclass(frozen=True)
class TrialPPOConfig:
    """Settings of PPO over whole trials."""

    num_tasks: int = 256
    """Tasks of a rollout, M."""
    num_robots: int = 1
    """Copies of each task, R; each is a learner of its own."""
    iterations: int = 200
    """Outer steps."""
    layers: tuple[int, ...] = (64, 64)
    """Hidden layers of policy and value function."""
    initial_std: float = 0.5
    """Standard deviation of the first actions, which are cut to [-1, 1]."""
    discount: float = 0.99
    """gamma, per decision and over the whole trial."""
    gae_lambda: float = 0.95
    """lambda of the generalised advantages."""
    learning_rate: float = 1e-3
    """Of Adam, falling linearly to a tenth at the last iteration."""
    epochs: int = 6
    """Passes over a rollout."""
    minibatches: int = 4
    """Parts of a rollout, by learner: a trial is never cut."""
    clip: float = 0.2
    """epsilon of PPO."""
    entropy_bonus: float = 0.003
    """Weight of the policy's entropy."""
    max_gradient_norm: float = 1.0
    """Longest gradient."""
    max_kl: float = 0.03
    """An update stops when the policy has moved this far."""


# ---- networks and what they remember ----------------------------------------------------------------------------------------


@dataclass
class Batch(Rows):
    """Trials as the networks see them.

    Attributes:
        obs: (N, T, O) normalised.
        action: (N, T, A).
        transition: (N, T, I) what the memory takes in.
        reward: (N, T) what training is told: `Rollout.told_reward`; the memory takes in the reward itself.
        episode_end, valid: (N, T) bool.
        time_left: (N, T, 1) part of the trial, or of the episode where there is no memory.
        task: (N, 1, P), the same all along.
    """

    obs: Tensor
    action: Tensor
    transition: Tensor
    reward: Tensor
    episode_end: Tensor
    valid: Tensor
    time_left: Tensor
    task: Tensor


class TrialNetwork(Senses):
    """A memory, and a policy and a value function that read what it knows: `memory_size` features."""

    def __init__(
        self, spec: EnvSpec, num_params: int, memory: nn.Module, memory_size: int, layers: tuple[int, ...], initial_std: float, privileged: bool = False
    ) -> None:
        super().__init__(spec)
        self.privileged = privileged
        self.memory = memory
        self.policy = make_policy(spec, spec.obs_size + (num_params if privileged else 0) + memory_size, layers, initial_std)
        self.value = mlp([spec.obs_size + memory_size + num_params + 1, *layers, 1])
        self.return_normalizer = Normalizer(1)

    def transition(self, step: Step, task: Tensor) -> Tensor:
        """(..., I) what the memory takes in of decisions."""
        seen = self.experience(step)
        return torch.cat([seen, task.expand(*seen.shape[:-1], -1)], -1) if self.privileged else seen

    def act(self, obs: Tensor, known: Tensor, task: Tensor) -> Distribution:
        """What to do at normalised observations (..., O) with what is known (..., F)."""
        told = [task.expand(*obs.shape[:-1], -1)] if self.privileged else []
        said: Distribution = self.policy(torch.cat([obs, known, *told], -1))
        return said

    def evaluate(self, batch: Batch, known: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Log-probabilities, normalised values and entropies, all (N, T), of what was done with what was known (N, T, F)."""
        policy = self.act(batch.obs, known, batch.task)
        return policy.log_prob(batch.action), self.value_of(batch, known), policy.entropy()

    def value_of(self, batch: Batch, known: Tensor) -> Tensor:
        """(N, T) normalised. What the first layer makes of the task is computed once per trial: a task may have hundreds of parameters."""
        first, rest = self.value[0], self.value[1:]
        assert isinstance(first, nn.Linear)
        changing = torch.cat([batch.obs, known, batch.time_left], -1)
        of_changing, of_task = first.weight.split([changing.shape[-1], batch.task.shape[-1]], 1)
        x = nn.functional.linear(changing, of_changing, first.bias) + nn.functional.linear(batch.task, of_task)
        said: Tensor = rest(x)
        return said.squeeze(-1)


class TrialAdapter(ABC):
    """What M x R learners with a memory know; a subclass says how they remember."""

    def __init__(self, algorithm: TrialPPO, num_tasks: int, num_robots: int) -> None:
        self.algorithm, self.network = algorithm, algorithm.network
        self.shape = (num_tasks, num_robots)
        self.task = torch.zeros(num_tasks, num_robots, len(algorithm.params), device=algorithm.device)
        self.reset()

    @abstractmethod
    def reset(self) -> None:
        """Back to the empty memory."""

    @abstractmethod
    def known(self) -> Tensor:
        """(M, R, F) what the policy reads of the memory."""

    @abstractmethod
    def remember(self, transition: Tensor, valid: Tensor) -> None:
        """Take in transitions (M * R, I) of the robots whose step is valid (M * R,)."""

    @abstractmethod
    def distance(self, prior: Self) -> float:
        """As `metarl.algorithm.Measurable` says."""

    @torch.no_grad()
    def act(self, obs: Tensor, explore: bool = True) -> Tensor:
        """Actions (M, R, A) for observations (M, R, O)."""
        policy = self.network.act(self.network.normalizer(obs.to(self.task.device)), self.known(), self.task)
        return (policy.sample(self.algorithm.generator) if explore else policy.mode()).to(obs.device)

    @torch.no_grad()
    def observe(self, step: Step) -> None:
        """Advance the memory of the robots whose step is valid."""
        step = step.to(self.task.device)
        self.remember(self.network.transition(step, self.task).flatten(0, 1), step.valid.flatten())

    def adapt(self) -> None:
        """Nothing: the memory has adapted already."""


# ---- the learner ------------------------------------------------------------------------------------------------------------


class TrialPPO(MetaRLAlgorithm):
    """See the module's docstring; a subclass makes the network and says what was known before each decision."""

    config: TrialPPOConfig
    discrete: ClassVar[bool] = True
    remembers: ClassVar[bool] = True  # False: the memory stays empty and the return is that of an episode

    def __init__(self, spec: EnvSpec, params: tuple[Param, ...], config: Any, seed: int = 0) -> None:
        super().__init__(spec, params, config, seed)
        self.generator = torch.Generator().manual_seed(seed)
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            self.network = self.make_network()
        self.trained = self.ppo_parameters()
        self.optimizer = torch.optim.Adam(self.trained, config.learning_rate, eps=1e-5)
        self.iteration = 0

    @abstractmethod
    def make_network(self) -> TrialNetwork:
        """The network, with the weights that it begins with."""

    @abstractmethod
    def evaluate(self, batch: Batch) -> tuple[Tensor, Tensor, Tensor]:
        """Log-probabilities, normalised values and entropies of the policy, all (N, T), of what was done."""

    def ppo_parameters(self) -> list[nn.Parameter]:
        """What PPO trains: everything, unless a memory learns in another way."""
        return list(self.network.parameters())

    @property
    def device(self) -> torch.device:
        """Where the network lives."""
        return self.network.normalizer.mean.device

    def meta_update(self, rollout: Rollout) -> dict[str, float]:
        rollout = rollout.to(self.device)
        logs = self.improve(rollout, self.batch(rollout))
        # only now, so that everything above saw the numbers that the adapter acted with
        self.network.take_in(rollout)
        self.iteration += 1
        return logs

    def batch(self, rollout: Rollout) -> Batch:
        """The rollout as sequences, valid decisions first, as the networks see them."""
        order = valid_first(rollout)
        said = trials(rollout, order)
        length, horizon = order.shape[1], rollout.obs.shape[3]
        left = 1 - order / length if self.remembers else 1 - (order % horizon) / horizon
        task = rollout.values.repeat_interleave(rollout.valid.shape[1], 0).unsqueeze(1)
        obs, transition, ends = self.network.normalizer(said.obs), self.network.transition(said, task), said.terminated | said.truncated
        return Batch(obs, said.action, transition, said.told_reward, ends, said.valid, left.unsqueeze(-1), task)

    def improve(self, rollout: Rollout, batch: Batch) -> dict[str, float]:
        """PPO's update, from a rollout and its sequences; returns what to log."""
        with torch.no_grad():
            old_log_prob, value, _ = self.evaluate(batch)
            advantage, target = self.advantages(batch, value)
        self._schedule()
        return self._optimise(batch, old_log_prob, advantage, target)

    def advantages(self, batch: Batch, value: Tensor) -> tuple[Tensor, Tensor]:
        """Normalised advantages and normalised value targets, both (N, T), over the whole trial (or each episode, without memory)."""
        value = self.network.return_normalizer.invert(value.unsqueeze(-1)).squeeze(-1)
        ends = ~batch.valid if self.remembers else batch.episode_end | ~batch.valid
        ends = ends | torch.cat([~batch.valid[:, 1:], torch.ones_like(ends[:, :1])], 1)  # the last decision of a trial
        next_value = torch.cat([value[:, 1:], torch.zeros_like(value[:, :1])], 1)
        advantage = gae(batch.reward, value, next_value, ends, ends, self.config.discount, self.config.gae_lambda)
        target = (advantage + value).unsqueeze(-1)
        self.network.return_normalizer.update(target, batch.valid)
        return normalise(advantage, batch.valid), self.network.return_normalizer(target).squeeze(-1)

    def loss(self, batch: Batch, old_log_prob: Tensor, advantage: Tensor, target: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """PPO's loss, and what to log of it."""
        log_prob, value, entropies = self.evaluate(batch)
        entropy = masked_mean(entropies, batch.valid)
        policy_loss = ppo.clipped_surrogate(log_prob, old_log_prob, advantage, batch.valid, self.config.clip)
        value_loss = masked_mean((value - target) ** 2, batch.valid)
        kl = ppo.approximate_kl(log_prob.detach(), old_log_prob, batch.valid)
        logs = {"policy_loss": policy_loss, "value_loss": value_loss, "entropy": entropy, "kl": kl}
        return policy_loss + 0.5 * value_loss - self.config.entropy_bonus * entropy, logs

    def _optimise(self, batch: Batch, old_log_prob: Tensor, advantage: Tensor, target: Tensor) -> dict[str, float]:
        cfg, logs, epochs = self.config, dict[str, Tensor](), 0
        while epochs < cfg.epochs:
            epochs += 1
            order = torch.randperm(len(batch.obs), generator=self.generator).to(self.device)
            kls = []
            for part in order.chunk(cfg.minibatches):
                loss, logs = self.loss(batch.rows(part), old_log_prob[part], advantage[part], target[part])
                self.optimizer.zero_grad()
                loss.backward()
                nn.utils.clip_grad_norm_(self.trained, cfg.max_gradient_norm)
                self.optimizer.step()
                kls.append(float(logs["kl"]))
            if sum(kls) / len(kls) > cfg.max_kl:
                break
        return {name: float(x.detach()) for name, x in logs.items()} | {"epochs": epochs} | self.network.policy.metrics()

    def _schedule(self) -> None:
        progress = min(self.iteration / max(self.config.iterations, 1), 1.0)
        for optimizer, rate in self.optimizers():
            for group in optimizer.param_groups:
                group["lr"] = rate * (1 - 0.9 * progress)

    def optimizers(self) -> list[tuple[torch.optim.Optimizer, float]]:
        """All of them, and their first learning rates."""
        return [(self.optimizer, self.config.learning_rate)]

    # ---- files ------------------------------------------------------------------------------------------------------------

    def meta_parameters(self) -> dict[str, Tensor]:
        kept = ("normalizer.", "reward_normalizer.", "memory.", "policy.")
        return {k: v.detach().clone() for k, v in self.network.state_dict().items() if k.startswith(kept)}

    def load_meta_parameters(self, tensors: Mapping[str, Tensor]) -> None:
        self.network.load_state_dict(dict(tensors), strict=False)

    def state_dict(self) -> dict[str, Any]:
        return {
            "network": self.network.state_dict(), "optimizer": self.optimizer.state_dict(),
            "generator": self.generator.get_state(), "iteration": self.iteration,
        }  # fmt: skip

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.network.load_state_dict(state["network"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.generator.set_state(state["generator"])
        self.iteration = int(state["iteration"])
