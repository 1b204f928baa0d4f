"""RL²: learning to learn in the hidden state of a recurrent network (Duan et al. 2016; Wang et al. 2016).

PPO over whole trials (metarl/trial_ppo.py) with a memory that PPO itself trains: it is reset when the task changes and at no other time.

    h_t = GRU(h_{t-1}; o_{t+1}, a_t, r_t, ends_t)          a_{t+1} ~ pi(o_{t+1}, h_t), Gaussian, or categorical where actions are discrete

Deviations from the papers, and why:
- the papers feed (o_t, a_{t-1}, r_{t-1}, d_{t-1}) into the memory right before acting. Here the memory also sees the last observation
  of an episode, which that order hides; where an episode is one decision (a strike), this is the outcome itself.
- the policy reads o directly beside h: acting then changes nothing, as `Adapter.act` promises.
- PPO with generalised advantages in place of TRPO; gradients go through the whole trial, never through a cut-off part of it.
- where a trial is long, update gates may begin so that the memory spans it (`memory_span`, Tallec & Ollivier 2018): on the tabular MDP this is worth
  seven of eight decisions of training.
- in training the value function is told the task's parameters and the time left, and where a task has a `training_reward` that is what PPO maximises:
  in bandits and tabular MDPs the expected advantage of what was done, where the papers have the rewards that happened.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor, nn

from metarl.gru import keep_for, unroll
from metarl.networks import root_mean_square
from metarl.trial_ppo import Batch, TrialAdapter, TrialNetwork, TrialPPO, TrialPPOConfig
from metarl.trials import transition_size


@dataclass(frozen=True)
class RL2Config(TrialPPOConfig):
    """Settings of RL² and of its two relatives, robust and oracle."""

    hidden_size: int = 96
    """Size of the GRU's state, L."""
    memory_span: int = 1
    """Decisions over which the memory keeps what it holds before it has learned what to keep, see `metarl.gru.keep_for`; 1: torch's own gates."""


class RecurrentAdapter(TrialAdapter):
    """What M x R recurrent learners remember: hidden states (1, M * R, L)."""

    algorithm: RL2

    def reset(self) -> None:
        """Back to the empty memory."""
        self.hidden = torch.zeros(1, self.shape[0] * self.shape[1], self.algorithm.config.hidden_size, device=self.task.device)

    def known(self) -> Tensor:
        """(M, R, L) the hidden states."""
        return self.hidden[0].unflatten(0, self.shape)

    def remember(self, transition: Tensor, valid: Tensor) -> None:
        """Advance the memory of the robots whose step is valid."""
        if self.algorithm.remembers:
            hidden = self.network.memory(transition.unsqueeze(1), self.hidden)[1]
            self.hidden = torch.where(valid.unsqueeze(-1), hidden, self.hidden)

    def distance(self, prior: Self) -> float:
        """Root mean square of the change of units between -1 and 1."""
        return root_mean_square(self.hidden - prior.hidden)


class PrivilegedAdapter(RecurrentAdapter):
    """A learner that is told its task."""

    def tell(self, values: Tensor) -> None:
        """The tasks' parameters (M, P), normalised."""
        self.task = values.to(self.task.device).unsqueeze(1).expand_as(self.task)


class RL2(TrialPPO):
    """See the module's docstring."""

    Config = RL2Config
    config: RL2Config

    def make_network(self) -> TrialNetwork:
        """A GRU, and a policy and a value function that read its state."""
        cfg, num_params = self.config, len(self.params)
        memory = nn.GRU(transition_size(self.spec, num_params if self.privileged else 0), cfg.hidden_size, batch_first=True)
        if cfg.memory_span > 1:
            keep_for(memory, cfg.memory_span)
        return TrialNetwork(self.spec, num_params, memory, cfg.hidden_size, cfg.layers, cfg.initial_std, self.privileged)

    def adapter(self, num_tasks: int, num_robots: int = 1, training: bool = False) -> RecurrentAdapter:
        kind = PrivilegedAdapter if self.privileged else RecurrentAdapter
        return kind(self, num_tasks, num_robots)

    def evaluate(self, batch: Batch) -> tuple[Tensor, Tensor, Tensor]:
        """Log-probabilities, normalised values and entropies of the policy, all (N, T), of what was done."""
        if not self.remembers:
            return self.network.evaluate(batch, batch.obs.new_zeros(*batch.obs.shape[:2], self.config.hidden_size))
        assert isinstance(self.network.memory, nn.GRU)
        return self.network.evaluate(batch, unroll(self.network.memory, batch.transition[:, :-1]))  # the policy acts on what was known before


ALGORITHM = RL2
