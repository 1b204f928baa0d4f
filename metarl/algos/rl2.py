"""RL²: learning to learn in the hidden state of a recurrent network (Duan et al. 2016; Wang et al. 2016).

A trial of K episodes in one task is one long episode: the memory is reset when the task changes and at no other time, and PPO
maximises the return of the whole trial, so that an action is also worth what is learnt from it. What the memory takes in after each
decision is the transition (o', a, r, terminated, truncated), and the policy acts on (o, h):

    h_t = GRU(h_{t-1}; o_{t+1}, a_t, r_t, ends_t)          a_{t+1} ~ pi(o_{t+1}, h_t), Gaussian, or categorical where actions are discrete

Deviations from the papers, and why:
- the papers feed (o_t, a_{t-1}, r_{t-1}, d_{t-1}) into the memory right before acting. Here the memory also sees the last observation
  of an episode, which that order hides; where an episode is one decision (a strike), this is the outcome itself.
- the policy reads o directly beside h: acting then changes nothing, as `Adapter.act` promises.
- PPO with generalised advantages in place of TRPO; gradients go through the whole trial, never through a cut-off part of it.
- in training the value function is told the task's parameters and the time left (asymmetric actor-critic, Pinto et al. 2018): it is not
  part of the meta-parameters, and its better baseline is worth many samples. The end of a trial is worth nothing, so it needs no bootstrap.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor, nn

from metarl import ppo
from metarl.algorithm import MetaRLAlgorithm
from metarl.gru import unroll
from metarl.networks import Distribution, Normalizer, make_policy, mlp
from metarl.returns import gae, masked_mean, normalise
from metarl.rollout import Rollout
from metarl.tasks.batched_env import Step
from metarl.tasks.parameters import Param
from metarl.tasks.task import EnvSpec


@dataclass(frozen=True)
class RL2Config:
    """Settings of RL² and of its two relatives, robust and oracle."""

    num_tasks: int = 256
    """Tasks of a rollout, M."""
    num_robots: int = 1
    """Copies of each task, R; each is a learner of its own."""
    iterations: int = 200
    """Outer steps."""
    hidden_size: int = 96
    """Size of the GRU's state, L."""
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


class Batch(NamedTuple):
    """Trials as N sequences of T decisions, the valid ones first, in order: held steps never reach a network."""

    obs: Tensor  # (N, T, O) normalised
    action: Tensor  # (N, T, A)
    transition: Tensor  # (N, T, I) what the memory takes in
    reward: Tensor  # (N, T)
    episode_end: Tensor  # (N, T) bool
    valid: Tensor  # (N, T) bool
    time_left: Tensor  # (N, T, 1) part of the trial, or of the episode where there is no memory
    task: Tensor  # (N, T, P)


class Network(nn.Module):
    """Memory, policy and value function."""

    def __init__(self, spec: EnvSpec, num_params: int, privileged: bool, config: RL2Config) -> None:
        super().__init__()
        obs_size, action_size = spec.obs_size, spec.action_size
        self.privileged = privileged
        seen = obs_size + (num_params if privileged else 0)
        self.normalizer = Normalizer(obs_size)
        self.reward_normalizer = Normalizer(1)
        self.memory = nn.GRU(obs_size + action_size + 3 + (num_params if privileged else 0), config.hidden_size, batch_first=True)
        self.policy = make_policy(spec, seen + config.hidden_size, config.layers, config.initial_std)
        self.value = mlp([obs_size + config.hidden_size + num_params + 1, *config.layers, 1])
        self.return_normalizer = Normalizer(1)

    def transition(self, next_obs: Tensor, action: Tensor, reward: Tensor, terminated: Tensor, truncated: Tensor, task: Tensor) -> Tensor:
        """(..., I) what the memory takes in of one decision."""
        told = [task] if self.privileged else []
        signals = [self.reward_normalizer(reward.unsqueeze(-1)), terminated.unsqueeze(-1), truncated.unsqueeze(-1)]
        return torch.cat([self.normalizer(next_obs), action.clamp(-1, 1), *signals, *told], -1)

    def act(self, obs: Tensor, hidden: Tensor, task: Tensor) -> Distribution:
        """What to do at normalised observations (..., O) and hidden states (..., L)."""
        told = [task] if self.privileged else []
        said: Distribution = self.policy(torch.cat([obs, hidden, *told], -1))
        return said


class RecurrentAdapter:
    """What M x R recurrent learners remember: hidden states (1, M * R, L)."""

    def __init__(self, algorithm: RL2, num_tasks: int, num_robots: int) -> None:
        self.algorithm, self.network = algorithm, algorithm.network
        self.shape = (num_tasks, num_robots)
        self.task = torch.zeros(num_tasks, num_robots, len(algorithm.params), device=algorithm.device)
        self.reset()

    def reset(self) -> None:
        """Back to the empty memory."""
        self.hidden = torch.zeros(1, self.shape[0] * self.shape[1], self.algorithm.config.hidden_size, device=self.algorithm.device)

    @torch.no_grad()
    def act(self, obs: Tensor, explore: bool = True) -> Tensor:
        """Actions (M, R, A) for observations (M, R, O)."""
        seen = self.network.normalizer(obs.to(self.hidden.device))
        policy = self.network.act(seen, self.hidden[0].unflatten(0, self.shape), self.task)
        return (policy.sample(self.algorithm.generator) if explore else policy.mode()).to(obs.device)

    @torch.no_grad()
    def observe(self, step: Step) -> None:
        """Advance the memory of the robots whose step is valid."""
        if not self.algorithm.remembers:
            return
        step = step.to(self.hidden.device)
        transition = self.network.transition(step.next_obs, step.action, step.reward, step.terminated, step.truncated, self.task)
        hidden = self.network.memory(transition.flatten(0, 1).unsqueeze(1), self.hidden)[1]
        self.hidden = torch.where(step.valid.flatten().unsqueeze(-1), hidden, self.hidden)

    def adapt(self) -> None:
        """Nothing: the memory has adapted already."""


class PrivilegedAdapter(RecurrentAdapter):
    """A learner that is told its task."""

    def tell(self, values: Tensor) -> None:
        """The tasks' parameters (M, P), normalised."""
        self.task = values.to(self.task.device).unsqueeze(1).expand_as(self.task)


class RL2(MetaRLAlgorithm):
    """See the module's docstring."""

    Config = RL2Config
    config: RL2Config
    discrete: ClassVar[bool] = True
    remembers: ClassVar[bool] = True  # False: the memory stays empty and the return is that of an episode, see robust.py

    def __init__(self, spec: EnvSpec, params: tuple[Param, ...], config: RL2Config, seed: int = 0) -> None:
        super().__init__(spec, params, config, seed)
        self.generator = torch.Generator().manual_seed(seed)
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            self.network = Network(spec, len(params), self.privileged, config)
        self.optimizer = torch.optim.Adam(self.network.parameters(), config.learning_rate, eps=1e-5)
        self.iteration = 0

    @property
    def device(self) -> torch.device:
        """Where the network lives."""
        return self.network.normalizer.mean.device

    def adapter(self, num_tasks: int, num_robots: int = 1, training: bool = False) -> RecurrentAdapter:
        kind = PrivilegedAdapter if self.privileged else RecurrentAdapter
        return kind(self, num_tasks, num_robots)

    # ---- the outer step ---------------------------------------------------------------------------------------------------

    def meta_update(self, rollout: Rollout) -> dict[str, float]:
        rollout = rollout.to(self.device)
        batch = self.batch(rollout)
        with torch.no_grad():
            old_log_prob, value, _ = self.evaluate(batch)
            advantage, target = self.advantages(batch, value)
        self._schedule()
        logs = self._optimise(batch, old_log_prob, advantage, target)
        # only now, so that everything above saw the numbers that the adapter acted with
        self.network.normalizer.update(torch.cat([rollout.obs, rollout.next_obs]), torch.cat([rollout.valid, rollout.valid]))
        self.network.reward_normalizer.update(rollout.reward.unsqueeze(-1), rollout.valid)
        self.iteration += 1
        return logs

    def batch(self, rollout: Rollout) -> Batch:
        """The rollout as sequences, valid decisions first."""
        valid = rollout.valid.flatten(2).flatten(0, 1)
        order = (~valid).byte().argsort(dim=1, stable=True)  # (N, T)

        def sequence(x: Tensor) -> Tensor:
            x = x.flatten(2, 3).flatten(0, 1)
            return x.gather(1, order.reshape(*order.shape, *[1] * (x.ndim - 2)).expand_as(x))

        trial, horizon = valid.shape[1], rollout.obs.shape[3]
        elapsed = torch.arange(trial, device=order.device).expand_as(order).gather(1, order)
        left = 1 - elapsed / trial if self.remembers else 1 - (elapsed % horizon) / horizon
        task = rollout.values[:, None, None].expand(*rollout.valid.shape[:2], trial, -1).flatten(0, 1)
        next_obs, action, reward = sequence(rollout.next_obs), sequence(rollout.action), sequence(rollout.reward)
        terminated, truncated = sequence(rollout.terminated), sequence(rollout.truncated)
        transition = self.network.transition(next_obs, action, reward, terminated, truncated, task)
        return Batch(
            self.network.normalizer(sequence(rollout.obs)),
            action,
            transition,
            reward,
            terminated | truncated,
            sequence(rollout.valid),
            left.unsqueeze(-1),
            task,
        )

    def evaluate(self, batch: Batch) -> tuple[Tensor, Tensor, Tensor]:
        """Log-probabilities, normalised values and entropies of the policy, all (N, T), of what was done."""
        network = self.network
        # the policy acts on what was known before
        hidden = unroll(network.memory, batch.transition[:, :-1]) if self.remembers else batch.obs.new_zeros(*batch.obs.shape[:2], self.config.hidden_size)
        policy = network.act(batch.obs, hidden, batch.task)
        value = network.value(torch.cat([batch.obs, hidden, batch.task, batch.time_left], -1)).squeeze(-1)
        return policy.log_prob(batch.action), value, policy.entropy()

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
            rows = torch.randperm(len(batch.obs), generator=self.generator).to(self.device)
            kls = []
            for part in rows.chunk(cfg.minibatches):
                loss, logs = self.loss(Batch(*(x[part] for x in batch)), old_log_prob[part], advantage[part], target[part])
                self.optimizer.zero_grad()
                loss.backward()
                nn.utils.clip_grad_norm_(self.network.parameters(), cfg.max_gradient_norm)
                self.optimizer.step()
                kls.append(float(logs["kl"]))
            if sum(kls) / len(kls) > cfg.max_kl:
                break
        return {name: float(x.detach()) for name, x in logs.items()} | {"epochs": epochs} | self.network.policy.metrics()

    def _schedule(self) -> None:
        progress = min(self.iteration / max(self.config.iterations, 1), 1.0)
        for group in self.optimizer.param_groups:
            group["lr"] = self.config.learning_rate * (1 - 0.9 * progress)

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


ALGORITHM = RL2
