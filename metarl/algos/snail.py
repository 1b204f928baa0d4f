"""SNAIL: a memory of causal convolutions and attention in place of a recurrent one (Mishra et al. 2018).

PPO over whole trials (metarl/trial_ppo.py), as RL², with a memory that reads the tokens x_0 ... x_t of all that happened: an empty one, then the
transitions. Every layer puts what it finds beside what it was given (dense connections):

    dense block of dilation d     x_t <- [x_t, tanh(f_t) * sigmoid(g_t)]        (f_t, g_t) = W [x_t, x_{t-d}] + b, x = 0 before the trial
    TC block                      dense blocks of dilation 1, 2, 4 ... until they reach back over a whole trial
    attention                     x_t <- [x_t, sum_{s <= t} softmax_s(q(x_t) . k(x_s) / sqrt(A)) v(x_s)]

A linear embedding, two TC blocks and one attention of one head, as for the paper's bandits and tabular MDPs. In training all tokens are computed at
once; an adapter keeps the x, k and v of its trial, so that a decision costs one token and not the whole trial.

Deviations from the paper: PPO with generalised advantages in place of TRPO. The memory takes in transitions, o' among them, and the policy reads o
directly beside it, for the reasons given in rl2.py. In training the value function is told the task's parameters and the time left, and PPO maximises a
task's `training_reward` where it has one, as in rl2.py. In a trial that is longer than those of training, the convolutions see its last part, and the
attention all of it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from metarl.trial_ppo import Batch, TrialAdapter, TrialNetwork, TrialPPO, TrialPPOConfig
from metarl.trials import transition_size


@dataclass(frozen=True)
class SNAILConfig(TrialPPOConfig):
    """Settings of SNAIL."""

    embedding_size: int = 32
    """Size of an embedded transition."""
    filters: int = 16
    """What each dense block adds."""
    attention_size: int = 32
    """Size of keys, queries and values."""


class Snail(nn.Module):
    """Tokens -> all that the layers found, for each of them."""

    def __init__(self, input_size: int, length: int, config: SNAILConfig) -> None:
        super().__init__()
        self.embed = nn.Linear(input_size, config.embedding_size)
        depth = max(1, math.ceil(math.log2(length)))
        self.dilations = [2**i for i in range(depth)] * 2
        self.sizes = [config.embedding_size + i * config.filters for i in range(len(self.dilations) + 1)]
        self.dense: Sequence[nn.Linear] = nn.ModuleList(nn.Linear(2 * size, 2 * config.filters) for size in self.sizes[:-1])  # type: ignore[assignment]
        self.query, self.key, self.value = (nn.Linear(self.sizes[-1], config.attention_size) for _ in range(3))
        self.output_size = self.sizes[-1] + config.attention_size

    def forward(self, transition: Tensor) -> Tensor:
        """(N, T + 1, F) before and after each of the transitions (N, T, I)."""
        x = self.embed(nn.functional.pad(transition, (0, 0, 1, 0)))
        for dilation, linear in zip(self.dilations, self.dense, strict=True):
            # both taps in one product, and what it says of the past is moved, which is narrower than the past itself
            now, past = nn.functional.linear(x, torch.cat(linear.weight.chunk(2, -1))).chunk(2, -1)
            past = nn.functional.pad(past, (0, 0, dilation, 0))[:, : x.shape[1]]
            x = torch.cat([x, gate(now + past + linear.bias)], -1)
        read = nn.functional.scaled_dot_product_attention(self.query(x), self.key(x), self.value(x), is_causal=True)
        return torch.cat([x, read], -1)


def gate(x: Tensor) -> Tensor:
    """(..., n) what was found, as far as it is let through, of both (..., 2 n)."""
    found, let = x.chunk(2, -1)
    return torch.tanh(found) * torch.sigmoid(let)


class SnailAdapter(TrialAdapter):
    """What M x R learners have seen: the layers' outputs for each token so far, (M * R, S, ...), and how many tokens there are, (M * R,)."""

    algorithm: SNAIL

    @torch.no_grad()
    def reset(self) -> None:
        """Back to the empty token."""
        memory, robots, device = self.algorithm.memory, self.shape[0] * self.shape[1], self.task.device
        spec, attention = self.algorithm.spec, self.algorithm.config.attention_size
        self.room = spec.horizon * spec.episodes_per_trial + 1
        self.x = torch.zeros(robots, self.room, memory.sizes[-1], device=device)
        self.keys, self.values = (torch.zeros(robots, self.room, attention, device=device) for _ in range(2))
        self.tokens = torch.zeros(robots, dtype=torch.long, device=device)
        self.rows = torch.arange(robots, device=device)
        self.longest = 0
        self.found = torch.zeros(robots, memory.output_size, device=device)
        self.remember(torch.zeros(robots, memory.embed.in_features, device=device), torch.ones(robots, dtype=torch.bool, device=device))

    def known(self) -> Tensor:
        """(M, R, F) what was found at the last token."""
        return self.found.unflatten(0, self.shape)

    def remember(self, transition: Tensor, valid: Tensor) -> None:
        """One more token for the robots whose step is valid; the others' next token takes its place."""
        if self.longest == self.room:  # a trial longer than those of training
            self.x, self.keys, self.values = (nn.functional.pad(x, (0, 0, 0, self.room)) for x in (self.x, self.keys, self.values))
            self.room *= 2
        self.longest += 1
        memory = self.algorithm.memory
        x = memory.embed(transition)
        for dilation, linear in zip(memory.dilations, memory.dense, strict=True):
            before = self.tokens - dilation
            past = self.x[self.rows, before.clamp(min=0), : x.shape[-1]] * (before >= 0).unsqueeze(-1)
            x = torch.cat([x, gate(linear(torch.cat([x, past], -1)))], -1)
        for store, new in ((self.x, x), (self.keys, memory.key(x)), (self.values, memory.value(x))):
            store[self.rows, self.tokens] = new
        score = (self.keys @ memory.query(x).unsqueeze(-1)).squeeze(-1) / math.sqrt(self.keys.shape[-1])
        later = torch.arange(self.room, device=score.device) > self.tokens.unsqueeze(-1)
        read = (score.masked_fill(later, -math.inf).softmax(-1).unsqueeze(1) @ self.values).squeeze(1)
        self.found = torch.where(valid.unsqueeze(-1), torch.cat([x, read], -1), self.found)
        self.tokens = self.tokens + valid


class SNAIL(TrialPPO):
    """See the module's docstring."""

    Config = SNAILConfig
    config: SNAILConfig

    def make_network(self) -> TrialNetwork:
        """The memory, and a policy and a value function that read it."""
        spec, cfg = self.spec, self.config
        memory = Snail(transition_size(spec), spec.horizon * spec.episodes_per_trial + 1, cfg)
        return TrialNetwork(spec, len(self.params), memory, memory.output_size, cfg.layers, cfg.initial_std)

    @property
    def memory(self) -> Snail:
        """The network's memory."""
        assert isinstance(self.network.memory, Snail)
        return self.network.memory

    def adapter(self, num_tasks: int, num_robots: int = 1, training: bool = False) -> SnailAdapter:
        return SnailAdapter(self, num_tasks, num_robots)

    def evaluate(self, batch: Batch) -> tuple[Tensor, Tensor, Tensor]:
        """Log-probabilities, normalised values and entropies of the policy, all (N, T), of what was done."""
        return self.network.evaluate(batch, self.memory(batch.transition[:, :-1]))  # the policy acts on what was known before


ALGORITHM = SNAIL
