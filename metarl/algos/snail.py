"""SNAIL: a memory of causal convolutions and attention in place of a recurrent one (Mishra et al. 2018).

PPO over whole trials (metarl/trial_ppo.py), as RL², with a memory that reads the tokens x_0 ... x_t of all that happened: an empty one, then the
transitions. Every layer puts what it finds beside what it was given (dense connections):

    dense block of dilation d     x_t <- [x_t, tanh(f_t) * sigmoid(g_t)]        (f_t, g_t) = W [x_t, x_{t-d}] + b, x = 0 before the trial
    TC block                      dense blocks of dilation 1, 2, 4 ... until they reach back over a whole trial
    attention                     x_t <- [x_t, sum_{s <= t} softmax_s(q(x_t) . k(x_s) / sqrt(A)) v(x_s)]

A linear embedding, two TC blocks and one attention of one head, as for the paper's bandits and tabular MDPs. In training all tokens are computed at
once; an adapter keeps k, v and the past half of W x for each token of its trial, so that a decision costs one token and not the whole trial.

Deviations from the paper: PPO with generalised advantages in place of TRPO. The memory takes in transitions, o' among them, and the policy reads o
directly beside it, for the reasons given in rl2.py. A dense block adds 16 numbers by default (`filters`), where the paper's bandits and tabular MDPs
have 32, and 8 in the presets of trials of 100 decisions, to save time. In training the value function is told the task's parameters and the time
left, and PPO maximises a task's `training_reward` where it has one, as in rl2.py. In a trial that is longer than those of training, the convolutions
see its last part, and the attention all of it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Self

import torch
from torch import Tensor, nn

from metarl.networks import root_mean_square
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
        of_dense = (p for linear in self.dense for p in (linear.weight, linear.bias))
        x = DenseBlocks.apply(x, self.dilations, *of_dense)  # type: ignore[no-untyped-call]
        query, key, value = self.attend(x).unsqueeze(-3).chunk(3, -1)
        read = nn.functional.scaled_dot_product_attention(query, key, value, is_causal=True).squeeze(-3)
        return torch.cat([x, read], -1)

    def attend(self, x: Tensor) -> Tensor:
        """(..., 3 A) queries, keys and values of what the blocks found (..., S), in one product."""
        heads = self.query, self.key, self.value
        return nn.functional.linear(x, torch.cat([head.weight for head in heads]), torch.cat([head.bias for head in heads]))


def taps(weight: Tensor) -> Tensor:
    """(4 F, S) of a dense block's weights (2 F, 2 S): what a token says to itself, and below it what it says to a later one."""
    return torch.cat(weight.chunk(2, -1))


def gate(x: Tensor) -> Tensor:
    """(..., n) what was found, as far as it is let through, of both (..., 2 n)."""
    found, let = x.chunk(2, -1)
    return torch.tanh(found) * torch.sigmoid(let)


class DenseBlocks(torch.autograd.Function):
    """All that dense blocks find (N, T, S) from what they are given (N, T, E), with weights (2 F, 2 size) and biases (2 F,) in turns.

    Dense connections are views of one store here, and so are their gradients: torch would copy what was found before at each block, forwards and backwards.
    """

    @staticmethod
    def forward(ctx: Any, given: Tensor, dilations: list[int], *parameters: Tensor) -> Tensor:
        weights, biases = parameters[::2], parameters[1::2]
        size, filters = given.shape[-1], len(biases[0]) // 2
        x = given.new_empty(*given.shape[:2], size + len(weights) * filters)
        x[..., :size] = given
        halves = []
        for dilation, weight, bias in zip(dilations, weights, biases, strict=True):
            # both taps in one product, and what it says to later tokens is moved, which is narrower than the past itself
            now, later = (x.flatten(0, 1)[:, :size] @ taps(weight).t()).unflatten(0, x.shape[:2]).chunk(2, -1)
            now = now + bias
            now[:, dilation:] += later[:, :-dilation]
            found, let = torch.tanh(now[..., :filters]), torch.sigmoid(now[..., filters:])
            torch.mul(found, let, out=x[..., size : size + filters])
            halves += [found, let]
            size += filters
        ctx.dilations = dilations
        ctx.save_for_backward(x, *weights, *halves)
        return x

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        count = len(ctx.dilations)
        x, weights, halves = ctx.saved_tensors[0], ctx.saved_tensors[1 : count + 1], ctx.saved_tensors[count + 1 :]
        filters, size = halves[0].shape[-1], x.shape[-1]
        grad = grad.clone(memory_format=torch.contiguous_format)  # grows into the whole gradient by x
        by_taps = grad.new_empty(*x.shape[:2], 4 * filters)
        now, later = by_taps.chunk(2, -1)
        by_parameters: list[Tensor] = []
        for i in range(count - 1, -1, -1):
            size, dilation, (found, let) = size - filters, ctx.dilations[i], halves[2 * i : 2 * i + 2]
            by_found = grad[..., size : size + filters] * let
            torch.addcmul(by_found, by_found * found, found, value=-1, out=now[..., :filters])
            torch.mul(by_found * found, 1 - let, out=now[..., filters:])
            later[:, :-dilation] = now[:, dilation:]
            later[:, -dilation:] = 0
            flat = by_taps.flatten(0, 1)
            by_weight = torch.cat((flat.t() @ x.flatten(0, 1)[:, :size]).chunk(2), -1)
            by_parameters = [by_weight, now.sum((0, 1)), *by_parameters]
            grad.flatten(0, 1)[:, :size].addmm_(flat, taps(weights[i]))
        return grad[..., :size], None, *by_parameters


class SnailAdapter(TrialAdapter):
    """What M x R learners have seen, (M * R, S, ...): of each token so far what it says to later ones, to the blocks and to the attention.

    `tokens` (M * R,) is how many there are, which is also where the next one goes.
    """

    algorithm: SNAIL

    @torch.no_grad()
    def reset(self) -> None:
        """Back to the empty token."""
        memory, robots, device = self.algorithm.memory, self.shape[0] * self.shape[1], self.task.device
        spec, config = self.algorithm.spec, self.algorithm.config
        self.room, self.longest = spec.horizon * spec.episodes_per_trial + 1, 0
        self.later = torch.zeros(robots, self.room, len(memory.dilations), 2 * config.filters, device=device)
        self.keys, self.values = (torch.zeros(robots, self.room, config.attention_size, device=device) for _ in range(2))
        self.tokens = torch.zeros(robots, dtype=torch.long, device=device)
        self.rows, self.blocks = torch.arange(robots, device=device), torch.arange(len(memory.dilations), device=device)
        self.reach = torch.tensor(memory.dilations, device=device)
        self.found = torch.zeros(robots, memory.output_size, device=device)
        self.remember(torch.zeros(robots, memory.embed.in_features, device=device), torch.ones(robots, dtype=torch.bool, device=device))

    def known(self) -> Tensor:
        """(M, R, F) what was found at the last token."""
        return self.found.unflatten(0, self.shape)

    def distance(self, prior: Self) -> float:
        """Root mean square of the change of what was found, most of which gates let through: numbers between -1 and 1."""
        return root_mean_square(self.found - prior.found)

    def remember(self, transition: Tensor, valid: Tensor) -> None:
        """One more token for the robots whose step is valid; the others' next token takes its place."""
        if self.longest == self.room:  # a trial longer than those of training
            self.later = nn.functional.pad(self.later, (0, 0, 0, 0, 0, self.room))
            self.keys, self.values = (nn.functional.pad(x, (0, 0, 0, self.room)) for x in (self.keys, self.values))
            self.room *= 2
        self.longest += 1
        x = self._dense(self.algorithm.memory.embed(transition))
        query, key, value = self.algorithm.memory.attend(x).chunk(3, -1)
        self.keys[self.rows, self.tokens], self.values[self.rows, self.tokens] = key, value
        keys, values = self.keys[:, : self.longest], self.values[:, : self.longest]
        score = (keys @ query.unsqueeze(-1)).squeeze(-1) / math.sqrt(keys.shape[-1])
        unwritten = torch.arange(self.longest, device=score.device) > self.tokens.unsqueeze(-1)
        read = (score.masked_fill(unwritten, -math.inf).softmax(-1).unsqueeze(1) @ values).squeeze(1)
        self.found = torch.where(valid.unsqueeze(-1), torch.cat([x, read], -1), self.found)
        self.tokens = self.tokens + valid

    def _dense(self, given: Tensor) -> Tensor:
        """(M * R, S) what the blocks find at the next token, of what they are given (M * R, E)."""
        memory, size, filters = self.algorithm.memory, given.shape[-1], self.algorithm.config.filters
        before = self.tokens.unsqueeze(-1) - self.reach
        past = self.later[self.rows.unsqueeze(-1), before.clamp(min=0), self.blocks] * (before >= 0).unsqueeze(-1)
        x = given.new_empty(len(given), memory.sizes[-1])
        x[:, :size], says = given, []
        for linear, said in zip(memory.dense, past.unbind(1), strict=True):
            now, later = (x[:, :size] @ taps(linear.weight).t()).chunk(2, -1)
            x[:, size : size + filters] = gate(now + said + linear.bias)
            says.append(later)
            size += filters
        self.later[self.rows, self.tokens] = torch.stack(says, 1)
        return x


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
