"""Adaptation that cannot run away: an Adapter around an Adapter, with a copy for every step of learning. Plain Python, no ROS.

What has been understood changes on a copy, and the copy takes over only if every number in it is finite, it has not gone farther from the meta-parameters'
own state than the trust radius, as each kind of state measures that (`metarl.algorithm.Measurable`), and it is not worse. What "not worse" means depends on
what can be known, and when:

- An inner step by gradient climbs the likelihood of what was done, weighted by its advantage. Before anything is done by it, this must not have fallen on
  the very decisions that it was made from (`worse`): then the step was too long, and the robot goes on as before it.
- What a memory or a belief will do with what it took in, only its next decisions show. It is judged, as inner steps are in addition, by the pay of the
  episodes acted with it: where that falls far below what was usual in the trial, for long or again and again (`collapse.py`), all of it is given up.

Noise in what is paid can pass the first of these for a while, for a step may fit noise; the second sees whether it did harm, as far as pay tells.
Back to the meta-parameters' own state it goes, by a counted reason, where learning ended in numbers that are none (`non_finite`) or in an exception
(`failed`), where rewards collapse, or where the safety node intervenes too often (`interventions`). After too many of these, learning is off until the
next trial, or until somebody switches it on. Decisions that the robot did not carry out as they were meant are never learned from.

Learning is what outlasts an episode. Whoever acts takes in the episode that it is in, in every mode, for that is how training had it act: a memory that is
held still drives worse than none. So where nothing is learned, a memory or a belief grows within an episode and goes back when that ends, to the state that
it began with: in shadow always the meta-parameters' own, as in the first episode of a trial. Inner steps by gradient, and what PEARL takes its task to be,
wait for the end of an episode: there nothing changes within one.
"""

from __future__ import annotations

import copy
import functools
import math
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, NamedTuple, TypeVar

import torch
from torch import Tensor, nn

from metarl.algorithm import Accountable, Adapter, Believing, Measurable, MetaRLAlgorithm
from metarl.experience import Experience, parts_of, state_of
from metarl.ros_nodes.collapse import Collapse
from metarl.tasks.batched_env import Step

FALLEN = -1e-5  # progress of an inner step that is no rounding any more
A = TypeVar("A", bound=Adapter)
WINDOW, LEAST = 20, 10  # decisions over which interventions are counted, and how many there must be before that says anything


class Mode(StrEnum):
    """What is learned, and who acts; whether anything is learned at all is also a matter of `SafeAdapter.enable`, which never changes who acts."""

    ADAPT = "adapt"  # it learns, and acts on what it has learned
    FROZEN = "frozen"  # it begins every episode with what it had learned before, and learns nothing
    SHADOW = "shadow"  # it learns, but a newcomer acts, who begins every episode as the first of a trial: with the meta-parameters alone


@dataclass
class Bounds:
    """How far adaptation may go.

    Attributes:
        mode: see `Mode`.
        trust_radius: how far from the meta-parameters' own state it may go, where 1 is about as far as such a state goes by its nature: see `Measurable`.
        collapse: how far what the trial's episodes are paid may fall, in all; see `Collapse.take`.
        interventions: largest part of the last decisions that the safety node may change.
        budget: s that learning at the end of an episode may take; where it takes longer, it is the last time in this trial.
        rollbacks: how many of them there may be in a trial.
    """

    mode: Mode = Mode.ADAPT
    trust_radius: float = 2.0
    collapse: float = 0.8
    interventions: float = 0.5
    budget: float = 2.0
    rollbacks: int = 3


class _Known(NamedTuple):
    """What is understood, which event it comes from, and how far from the meta-parameters' own state it is."""

    adapter: Measurable
    version: tuple[int, int]
    distance: float


class SafeAdapter:
    """See the module's docstring. For one task and one robot.

    Args:
        adapter: that learns; just made. It must be `Measurable`.
        reward_range: of the task.
        clock: in s, for the budget.
        experience: that each trial begins with, instead of the meta-parameters' own state; to roll back is to leave it, too.

    Raises:
        TypeError: the adapter cannot say how far it has gone.

    Attributes:
        bounds: may be changed at any time.
        counts: what happened, by name: accepted, excluded (decisions that were not to be learned from), rollbacks, and the reasons; unfinished are episodes
            that never ended, and shadow_REASON what the newcomer did not take in.
        enabled: nobody has switched learning off by hand.
        version: epoch and sequence number of the event that what is understood comes from; (-1, -1) where it is the meta-parameters' own state.
        off: why nothing is learned any more, or "".
        rolled_back: how often in this trial, by itself, since somebody switched learning on.
    """

    def __init__(
        self, adapter: Adapter, reward_range: tuple[float, float], clock: Callable[[], float] = time.monotonic, experience: Experience | None = None
    ) -> None:
        if not isinstance(adapter, Measurable):
            raise TypeError(f"{type(adapter).__name__} cannot say how far it has gone from its meta-parameters: to learn on a robot it needs `distance`")
        self.bounds, self.counts = Bounds(), Counter[str]()
        self.version, self.off, self.enabled = (-1, -1), "", True
        self.milliseconds = self.distance = 0.0
        self._adapter, self._range, self.clock, self._experience = adapter, reward_range, clock, experience
        self._event = self._learned = (-1, -1)  # the present one, and the latest of this trial that something was learned from
        self._spare: Measurable | None = None
        self._prior = duplicate(adapter)  # the meta-parameters' own state
        self._newcomer: Measurable | None = None  # who acts in shadow, in this episode
        self._unseen: list[Step] = []  # of this episode by the newcomer
        self._begin_trial()

    # ---- the four verbs ---------------------------------------------------------------------------------------------------

    def reset(self) -> None:
        """A new task: back to the meta-parameters and to the experience that there may be, and learning is on."""
        self._go_back()
        self._begin_trial()

    def _begin_trial(self) -> None:
        if self._experience is not None:
            self._experience.begin(self._adapter)
            self.version, self.distance = self._experience[:2], self._adapter.distance(self._prior)
        self.off, self.rolled_back = "", 0
        self._collapse = Collapse(self._range[0])
        self._interfered: deque[bool] = deque(maxlen=WINDOW)
        self._begin_episode()

    def act(self, obs: Tensor, explore: bool = True) -> Tensor:
        """Of what has been understood, or in shadow of this episode alone; where that is no number, the meta-parameters' own."""
        shadow = self.bounds.mode is Mode.SHADOW
        action = (self._caught_up() if shadow else self._adapter).act(obs, explore)
        if bool(action.isfinite().all()):
            return action
        if shadow:
            self.counts["shadow_non_finite"] += 1
            self._newcomer = None
        else:
            self.roll_back("non_finite")
        return (self._caught_up() if shadow else self._adapter).act(obs, explore)

    def observe(self, step: Step, excluded: str = "intervention") -> None:
        """Take in a decision. One that is not `valid` changes nothing, for the reason `excluded`; interventions are held against what was learned."""
        valid = bool(step.valid.all())
        self.counts["excluded"] += not valid
        self._decisions += 1
        if valid or excluded == "intervention":
            self._watch_interventions(not valid)
        if valid:
            self._rewards.append(float(step.reward.mean()))
        self._takes_part = self._learns
        self._used += valid and self._takes_part
        self._unseen.append(step)
        self._offer(lambda adapter: adapter.observe(step), learned=valid and self._takes_part)

    def adapt(self) -> None:
        """An episode has ended: learn from it, unless there is nothing to learn from."""
        begun = self.clock()
        if self._learns and self._used:
            self._offer(lambda adapter: adapter.adapt(), at_end=True)
        else:  # nothing is to be learned, or was left to learn from, or learning was switched off meanwhile: half an episode is no state to go on from
            self._forget_episode()
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

    def note(self, epoch: int, sequence: int, begins: bool = False) -> None:
        """Which event the next verbs belong to. Where it `begins` an episode, one whose end nobody told is forgotten."""
        self._event = (epoch, sequence)
        if begins and self._decisions:
            self.counts["unfinished"] += 1
            self._forget_episode()
            self._begin_episode()

    def roll_back(self, reason: str) -> None:
        """Back to the meta-parameters' own state; too often by itself, and not `by_hand`, is the end of learning."""
        self.counts[reason] += 1
        self.counts["rollbacks"] += 1
        self._go_back()
        self._remember()
        self._collapse.fallen = 0.0
        self._interfered.clear()
        if reason == "by_hand":
            return
        self.rolled_back += 1
        if self.rolled_back >= self.bounds.rollbacks:
            self._switch_off("rollback_loop")

    def enable(self, on: bool) -> None:
        """Switch learning on, also where it had been switched off for a reason, or off; who acts stays as it is. On holds from the next episode."""
        self.enabled = on
        if on:
            self.off, self.rolled_back = "", 0

    def experience(self) -> Experience:
        """What is understood now; where learning was switched off in mid-episode, what was before it."""
        under_way = self._decisions > 0
        if under_way and not self._learns:
            return Experience(*self._before.version, False, state_of(self._before.adapter))
        return Experience(*self.version, under_way, state_of(self._adapter))

    def numbers(self) -> dict[str, float]:
        """How it is doing, for whoever watches; and what it believes, belief_0 and on, where it can tell: see `metarl.algorithm.Believing`."""
        known = ("accepted", "excluded", "rollbacks")
        belief = self._adapter.believed().flatten().tolist() if isinstance(self._adapter, Believing) else ()
        return {
            "version_epoch": self.version[0], "version_sequence": self.version[1], "distance": self.distance, "milliseconds": self.milliseconds,
            "learning": float(self._learns), **{name: float(self.counts[name]) for name in known},
            **{f"belief_{i}": number for i, number in enumerate(belief)},
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
        # an adapter counts the decisions of an episode: it learns from all of them or, in the end, from none
        self._takes_part = self._may_learn
        self._decisions: int = 0
        self._used: int = 0
        self._rewards: list[float] = []
        self._newcomer, self._unseen = None, []
        self._remember()

    def _remember(self) -> None:
        self._before = _Known(duplicate(self._adapter), self.version, self.distance)

    def _forget_episode(self) -> None:
        known = self._before
        self._adapter, self.version, self.distance, self._spare = known.adapter, known.version, known.distance, None

    def _caught_up(self) -> Measurable:
        """The newcomer, once it has been shown what it has not seen of this episode: the last decision or, where the mode has just become shadow, all of it."""
        if self._newcomer is None:
            self._newcomer = duplicate(self._prior)
            self._newcomer.reset()  # whoever begins a trial with a draw of its own draws anew
        for step in self._unseen:
            candidate = duplicate(self._newcomer)
            try:
                candidate.observe(step)
                refused = self._beyond(candidate, candidate.distance(self._prior))
            except Exception:  # whatever an algorithm raises, the robot goes on
                refused = "failed"
            if refused:
                self.counts[f"shadow_{refused}"] += 1
            else:
                self._newcomer = candidate
        self._unseen.clear()
        return self._newcomer

    def _offer(self, learn: Callable[[Adapter], None], at_end: bool = False, learned: bool = True) -> None:
        """Learn on a copy, which takes over if it may. Where nothing is `learned`, an adapter only counts the decision."""
        self.prepare()
        candidate, self._spare = self._spare, None
        assert candidate is not None
        try:
            learn(candidate)
            distance = candidate.distance(self._prior)
            refused = self._objection(candidate, distance, at_end)
        except Exception:  # whatever an algorithm raises, the robot goes on
            refused = "failed"
        if refused in ("failed", "non_finite"):
            self.roll_back(refused)
        elif refused:
            self.counts[refused] += 1
            if at_end:
                self._forget_episode()
        else:
            self._adapter, self.distance = candidate, distance
            if learned:
                self.version = self._learned = self._event
                self.counts["accepted"] += 1

    def _objection(self, candidate: Adapter, distance: float, at_end: bool) -> str:
        """Why what was learned does not take over, for all that can be known before it has acted, or ""."""
        beyond = self._beyond(candidate, distance)
        if beyond:
            return beyond
        if self._event < self._learned:  # a trial's events come in order; whatever else comes does not take over
            return "old_event"
        return "worse" if at_end and isinstance(candidate, Accountable) and not candidate.progress(self._adapter) >= FALLEN else ""

    def _beyond(self, candidate: Adapter, distance: float) -> str:
        """Which bound a state is out of, or ""."""
        if any(not bool(t.isfinite().all()) for t in _numbers(candidate, _shared(candidate))):
            return "non_finite"
        return "" if distance <= self.bounds.trust_radius else "trust_radius"  # nor where it is no number

    def _watch_interventions(self, intervened: bool) -> None:
        self._interfered.append(intervened)
        rate = sum(self._interfered) / len(self._interfered)
        if len(self._interfered) >= LEAST and rate > self.bounds.interventions and self.version != (-1, -1):
            self.roll_back("interventions")

    def _watch_rewards(self) -> None:
        rewards = [reward for reward in self._rewards if math.isfinite(reward)]
        if rewards and self._collapse.take(rewards) > self.bounds.collapse:
            self.roll_back("collapse")

    def _switch_off(self, reason: str) -> None:
        self.counts[reason] += 1
        self.off = reason


def duplicate(adapter: A) -> A:
    """A copy with a state of its own; the algorithm and its networks, which adaptation never changes, stay shared."""
    return copy.deepcopy(adapter, _shared(adapter))


def _shared(adapter: Adapter) -> dict[int, Any]:
    """By identity, what is no state of an adapter: its algorithm and networks, and where its random numbers come from."""
    shared: dict[int, Any] = {}
    for part in vars(adapter).values():
        if isinstance(part, MetaRLAlgorithm):
            shared |= _parts(part)
        elif isinstance(part, torch.Generator):
            shared[id(part)] = part
    return shared


_parts = functools.lru_cache(maxsize=4)(parts_of)  # on a robot an algorithm stays what it is, and copies are made at every decision


def _numbers(value: Any, shared: Mapping[int, Any]) -> Iterator[Tensor]:
    """Every floating-point tensor that something keeps, in whatever it keeps it, but for what is shared."""
    if id(value) in shared:
        return
    if isinstance(value, Tensor):
        if value.is_floating_point():
            yield value.detach()
        return
    if isinstance(value, nn.Module):
        parts: Iterable[Any] = value.state_dict().values()
    elif isinstance(value, dict):
        parts = value.values()
    else:
        parts = value if isinstance(value, tuple | list) else getattr(value, "__dict__", {}).values()
    for part in parts:
        yield from _numbers(part, shared)
