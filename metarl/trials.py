"""Trials as sequences: what a memory takes in of them, and a buffer of the most recent ones.

A trial of K episodes of H decisions is one sequence of T = K H decisions, the valid ones first. What a memory takes in of each is the transition
(o', a, r, terminated, truncated); with the flags it knows that the next observation is a new start and not a jump.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Self

import torch
from torch import Tensor, nn

from metarl.networks import Normalizer
from metarl.rollout import Rollout
from metarl.tasks.batched_env import Step
from metarl.tasks.task import EnvSpec

FLAGS_AND_REWARD = 3  # numbers of a transition beside observation and action


@dataclass
class Rows:
    """Tensors of N trials each: (N, ...)."""

    def rows(self, index: Tensor) -> Self:
        """Some of the trials."""
        return type(self)(**{f.name: getattr(self, f.name)[index] for f in fields(self)})


@dataclass
class Trials(Rows, Step):
    """Rollouts as N = M R sequences of T = K H decisions, the valid ones first, in order: held steps never reach a network.

    The fields of `Step`, with (N, T) in place of (M, R).

    Attributes:
        told_reward: (N, T) what training is told in place of the reward, see `Rollout.told_reward`; a memory takes in the reward itself.
    """

    told_reward: Tensor


def valid_first(rollout: Rollout) -> Tensor:
    """(N, T) where in the trial each decision of the sequences took place: the valid ones first, in order."""
    return (~rollout.valid.flatten(2).flatten(0, 1)).byte().argsort(dim=1, stable=True)


def trials(rollout: Rollout, order: Tensor) -> Trials:
    """The rollout as sequences, in the order that `valid_first` gave."""
    return Trials(*(in_order(getattr(rollout, f.name), order) for f in fields(Trials)))


def in_order(x: Tensor, order: Tensor) -> Tensor:
    """(M, R, K, H, ...) as sequences (N, T, ...), in that order."""
    x = x.flatten(2, 3).flatten(0, 1)
    return x.gather(1, order.reshape(*order.shape, *[1] * (x.ndim - 2)).expand_as(x))


class Senses(nn.Module):
    """Observations and rewards as networks see them: normalised, by what was met in training."""

    def __init__(self, spec: EnvSpec) -> None:
        super().__init__()
        self.normalizer, self.reward_normalizer = Normalizer(spec.obs_size), Normalizer(1)

    def experience(self, step: Step) -> Tensor:
        """(..., I) what a memory takes in of decisions."""
        flags = step.terminated.unsqueeze(-1), step.truncated.unsqueeze(-1)
        return torch.cat([self.normalizer(step.next_obs), step.action.clamp(-1, 1), self.reward_normalizer(step.reward.unsqueeze(-1)), *flags], -1)

    def take_in(self, rollout: Rollout) -> None:
        """Update the normalisers."""
        self.normalizer.update(torch.cat([rollout.obs, rollout.next_obs]), torch.cat([rollout.valid, rollout.valid]))
        self.reward_normalizer.update(rollout.reward.unsqueeze(-1), rollout.valid)


def transition_size(spec: EnvSpec, told: int = 0) -> int:
    """Numbers that a memory takes in of one decision, with `told` parameters of the task."""
    return spec.obs_size + spec.action_size + FLAGS_AND_REWARD + told


class TrialBuffer(nn.Module):
    """The most recent trials, as the world said them; a module, so that it moves and is saved as networks are."""

    written: Tensor
    valid: Tensor

    def __init__(self, spec: EnvSpec, capacity: int) -> None:
        super().__init__()
        self.capacity, shape = capacity, (capacity, spec.horizon * spec.episodes_per_trial)
        sizes = {"obs": (spec.obs_size,), "action": (spec.action_size,), "next_obs": (spec.obs_size,), "reward": (), "told_reward": ()}
        for f in fields(Trials):
            self.register_buffer(f.name, torch.zeros(*shape, *sizes.get(f.name, ()), dtype=torch.float32 if f.name in sizes else torch.bool))
        self.register_buffer("written", torch.tensor(0))

    def add(self, new: Trials) -> None:
        """The oldest trials make room."""
        count = len(new.obs)
        place = (int(self.written) + torch.arange(count, device=self.written.device)) % self.capacity
        last = slice(max(count - self.capacity, 0), None)
        for f in fields(Trials):
            getattr(self, f.name)[place[last]] = getattr(new, f.name)[last]
        self.written += count

    def draw(self, count: int, generator: torch.Generator) -> Trials:
        """Some of the trials, each as likely as the others."""
        row = torch.randint(min(int(self.written), self.capacity), (count,), generator=generator).to(self.written.device)
        return Trials(*(getattr(self, f.name)[row] for f in fields(Trials)))
