"""Adaptation that cannot run away: an Adapter around an Adapter, with a copy for every step of learning. Plain Python, no ROS.

What has been understood changes on a copy, and the copy takes over only if every number in it is finite and it has not gone farther from the meta-parameters'
own state than the trust radius. Back to that state it goes, by a counted reason, where learning ended in numbers that are none (`non_finite`) or in an
exception (`failed`), where rewards collapse (`collapse`), or where the safety node intervenes too often (`interventions`). After too many of these,
learning is off until the next trial, or until somebody switches it on. Decisions that the robot did not carry out as they were meant are never learned from.
"""

from __future__ import annotations

import copy
import functools
import math
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import torch
from torch import Tensor, nn

from metarl.algorithm import Adapter, MetaRLAlgorithm
from metarl.experience import Experience, parts_of, state_of
from metarl.tasks.batched_env import Step

WINDOW, LEAST = 20, 10  # decisions over which interventions are counted, and how many there must be before that says anything


class Mode(StrEnum):
    """What is learned, and who acts; whether anything is learned at all is also a matter of `SafeAdapter.enable`, which never changes who acts."""

    ADAPT = "adapt"  # it learns, and acts on what it has learned
    FROZEN = "frozen"  # it acts on what it has learned before, and learns nothing
    SHADOW = "shadow"  # it learns, but the meta-parameters act as they are


@dataclass
class Bounds:
    """How far adaptation may go.

    Attributes:
        mode: see `Mode`.
        trust_radius: largest root mean square of what has changed, over the numbers of each part of what the adapter keeps.
        collapse: largest part of what the trial's episodes were paid so far, above the least possible, that may be lost; twice in a row is too often.
        interventions: largest part of the last decisions that the safety node may change.
        budget: s that learning at the end of an episode may take; where it takes longer, it is the last time in this trial.
        rollbacks: how many of them there may be in a trial.
    """

    mode: Mode = Mode.ADAPT
    trust_radius: float = 5.0
    collapse: float = 0.75
    interventions: float = 0.5
    budget: float = 2.0
    rollbacks: int = 3


class SafeAdapter:
    """See the module's docstring. For one task and one robot.

    Args:
        adapter: that learns; just made.
        reward_range: of the task.
        clock: in s, for the budget.
        experience: that each trial begins with, instead of the meta-parameters' own state; to roll back is to leave it, too.

    Attributes:
        bounds: may be changed at any time.
        counts: what happened, by name: accepted, excluded (decisions that were not to be learned from), rollbacks, and the reasons.
        enabled: nobody has switched learning off by hand.
        version: epoch and sequence number of the event that what is understood comes from; (-1, -1) where it is the meta-parameters' own state.
        off: why nothing is learned any more, or "".
    """

    def __init__(
        self, adapter: Adapter, reward_range: tuple[float, float], clock: Callable[[], float] = time.monotonic, experience: Experience | None = None
    ) -> None:
        self.bounds, self.counts = Bounds(), Counter[str]()
        self.version, self.off, self.enabled = (-1, -1), "", True
        self.milliseconds = self.distance = 0.0
        self._adapter, self._range, self.clock, self._experience = adapter, reward_range, clock, experience
        self._event = self._learned = (-1, -1)  # the present one, and the latest of this trial that something was learned from
        self._spare: Adapter | None = None
        self._prior = duplicate(adapter)
        self._begin_trial()

    # ---- the four verbs ---------------------------------------------------------------------------------------------------

    def reset(self) -> None:
        """A new task: back to the meta-parameters and to the experience that there may be, and learning is on."""
        self._go_back()
        self._begin_trial()

    def _begin_trial(self) -> None:
        if self._experience is not None:
            self._experience.begin(self._adapter)
            self.version, self.distance = self._experience[:2], apart(self._adapter, self._prior)
        self.off, self._rolled_back = "", 0
        self._sound: list[float] = []  # mean rewards of this trial's episodes that were no collapse, as part of the rewards' range
        self._collapsed = 0
        self._interfered: deque[bool] = deque(maxlen=WINDOW)
        self._begin_episode()

    def act(self, obs: Tensor, explore: bool = True) -> Tensor:
        """Of what has been understood, or in shadow of nothing; where that is no number, the meta-parameters' own."""
        if self.bounds.mode is Mode.SHADOW:
            return self._prior.act(obs, explore)
        action = self._adapter.act(obs, explore)
        if not bool(action.isfinite().all()):
            self.roll_back("non_finite")
            action = self._adapter.act(obs, explore)
        return action

    def observe(self, step: Step, excluded: str = "intervention") -> None:
        """Take in a decision. One that is not `valid` is not learned from, for the reason `excluded`; interventions are held against what was learned."""
        valid = bool(step.valid.all())
        self.counts["excluded"] += not valid
        self._decisions += 1
        if valid or excluded == "intervention":
            self._watch_interventions(not valid)
        if valid:
            self._rewards.append(float(step.reward.mean()))
        if not self._learns:
            return
        self._used += valid
        self._offer(lambda adapter: adapter.observe(step), learned=valid)

    def adapt(self) -> None:
        """An episode has ended: learn from it, unless there is nothing to learn from."""
        begun = self.clock()
        if self._learns and self._used:
            self._offer(lambda adapter: adapter.adapt(), self._before)
        elif self._learns:
            self._adapter, self._spare = self._before, None
        self.milliseconds = 1000 * (self.clock() - begun)
        if self.milliseconds > 1000 * self.bounds.budget:
            self._switch_off("over_budget")
        self._watch_rewards()
        self._begin_episode()

    # ---- what else happens ------------------------------------------------------------------------------------------------

    def prepare(self) -> None:
        """Make the copy for the next step of learning, while nobody waits."""
        if self._spare is None:
            self._spare = duplicate(self._adapter)

    def note(self, epoch: int, sequence: int) -> None:
        """Which event the next verbs belong to."""
        self._event = (epoch, sequence)

    def roll_back(self, reason: str) -> None:
        """Back to the meta-parameters' own state."""
        self.counts[reason] += 1
        self.counts["rollbacks"] += 1
        self._go_back()
        self._before = duplicate(self._adapter)
        self._rolled_back += 1
        self._collapsed = 0
        self._interfered.clear()
        if self._rolled_back >= self.bounds.rollbacks:
            self._switch_off("rollback_loop")

    def enable(self, on: bool) -> None:
        """Switch learning on, also where it had been switched off for a reason, or off; who acts stays as it is. On holds from the next episode."""
        self.enabled = on
        if on:
            self.off, self._rolled_back = "", 0

    def experience(self) -> Experience:
        """What is understood now."""
        return Experience(*self.version, self._decisions > 0 and self._learns, state_of(self._adapter))

    def numbers(self) -> dict[str, float]:
        """How it is doing, for whoever watches."""
        known = ("accepted", "excluded", "rollbacks")
        return {
            "version_epoch": self.version[0], "version_sequence": self.version[1], "distance": self.distance, "milliseconds": self.milliseconds,
            "learning": float(self._learns), **{name: float(self.counts[name]) for name in known},
        }  # fmt: skip

    # ---- inside -----------------------------------------------------------------------------------------------------------

    @property
    def _learns(self) -> bool:
        return self._takes_part and self._may_learn

    @property
    def _may_learn(self) -> bool:
        return self.enabled and not self.off and self.bounds.mode is not Mode.FROZEN

    def _go_back(self) -> None:
        self._spare = None
        self._adapter.reset()
        self._prior = duplicate(self._adapter)
        self.version = self._learned = (-1, -1)
        self.distance = 0.0

    def _begin_episode(self) -> None:
        # an adapter counts the decisions of an episode: it takes part from the beginning or not at all
        self._takes_part = self._may_learn
        self._decisions = self._used = 0
        self._rewards = list[float]()
        self._before = duplicate(self._adapter)

    def _offer(self, learn: Callable[[Adapter], None], otherwise: Adapter | None = None, learned: bool = True) -> None:
        """Learn on a copy, which takes over if it may; else `otherwise` does, if given. Where nothing is `learned`, an adapter only counts the decision."""
        self.prepare()
        candidate, self._spare = self._spare, None
        assert candidate is not None
        try:
            learn(candidate)
        except (RuntimeError, ValueError, ArithmeticError, IndexError):
            self.roll_back("failed")
            return
        if any(not bool(t.isfinite().all()) for _, t in _tensors(candidate)):
            self.roll_back("non_finite")
            return
        if self._event < self._learned:  # a trial's events come in order; whatever else comes does not take over
            self.counts["old_event"] += 1
            return
        distance = apart(candidate, self._prior)
        if distance > self.bounds.trust_radius:
            self.counts["trust_radius"] += 1
            self._adapter = otherwise or self._adapter
            return
        self._adapter, self.distance = candidate, distance
        if learned:
            self.version = self._learned = self._event
            self.counts["accepted"] += 1

    def _watch_interventions(self, intervened: bool) -> None:
        self._interfered.append(intervened)
        rate = sum(self._interfered) / len(self._interfered)
        if len(self._interfered) >= LEAST and rate > self.bounds.interventions and self.version != (-1, -1):
            self.roll_back("interventions")

    def _watch_rewards(self) -> None:
        low, high = self._range
        if not self._rewards or not math.isfinite(high - low):
            return
        mean = (sum(self._rewards) / len(self._rewards) - low) / (high - low)
        usual = sum(self._sound) / len(self._sound) if self._sound else mean
        if mean < usual * (1 - self.bounds.collapse):
            self._collapsed += 1
        else:
            self._collapsed = 0
            self._sound.append(mean)
        if self._collapsed >= 2:
            self.roll_back("collapse")

    def _switch_off(self, reason: str) -> None:
        self.counts[reason] += 1
        self.off = reason


def duplicate(adapter: Adapter) -> Adapter:
    """A copy with a state of its own; the algorithm and its networks, which adaptation never changes, stay shared."""
    shared: dict[int, Any] = {}
    for part in vars(adapter).values():
        if isinstance(part, MetaRLAlgorithm):
            shared |= _parts(part)
        elif isinstance(part, torch.Generator):
            shared[id(part)] = part
    return copy.deepcopy(adapter, shared)


_parts = functools.lru_cache(maxsize=4)(parts_of)  # on a robot an algorithm stays what it is, and copies are made at every decision


def apart(one: Adapter, other: Adapter) -> float:
    """Largest root mean square of the differences between what two adapters keep, part by part; data of episodes and optimisers are no part of it."""
    there = dict(_tensors(other))
    found = [0.0]
    for name, here in _tensors(one):
        if "/" not in name and name.count(".") < 2 and name in there and here.shape == there[name].shape and here.numel():
            found.append(float((here.double() - there[name].double()).square().mean().sqrt()))
    return max(found)


def _tensors(adapter: Adapter) -> Iterator[tuple[str, Tensor]]:
    """Name and value of every floating-point tensor that an adapter keeps itself; what lies inside of containers has a / in its name."""
    for name, value in vars(adapter).items():
        if not isinstance(value, MetaRLAlgorithm):
            yield from _walk(name, value, vars(adapter))


def _walk(name: str, value: Any, around: dict[str, Any]) -> Iterator[tuple[str, Tensor]]:
    if isinstance(value, Tensor):
        if value.is_floating_point():
            yield name, value.detach()
    elif isinstance(value, nn.Module):
        algorithm = around.get("algorithm")
        if algorithm is None or all(value is not part for part in vars(algorithm).values()):
            for part, tensor in value.state_dict().items():
                yield from _walk(f"{name}.{part}", tensor, around)
    elif isinstance(value, dict):
        for key, item in value.items():
            yield from _walk(f"{name}/{key}", item, around)
    elif isinstance(value, tuple | list):
        for i, item in enumerate(value):
            yield from _walk(f"{name}/{i}", item, around)
