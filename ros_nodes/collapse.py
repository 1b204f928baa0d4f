"""When what a trial's episodes are paid has collapsed. Plain Python, no ROS, no torch."""

from __future__ import annotations

import math
from collections.abc import Sequence

ALLOWED = 0.4  # of the usual pay above the worst, that an episode may be paid less without counting as a fall
SPREADS = 6.0  # standard deviations of a decision's reward below what is usual, beyond which nothing is worse
LITTLE = 0.1  # of the usual pay, that is never a whole fall: where all are paid the same, the spread says nothing
LEAST = 10  # rewards, fewer of which say nothing about their spread


class Collapse:
    """Adds up how far episodes fall below the usual pay, and takes off again where they do not: a cumulative sum (Page 1954).

    So a deep fall counts sooner than a slight one, one that lasts as much as one in every other episode, and of two lucky episodes nothing is left.
    Usual is the mean of the trial's episodes so far, the meta-parameters' own first one among them, without those that have fallen: a slow decline does
    not take it along. What a fall is measured by is the way from there down to the worst: the least possible reward, or, where no policy comes near to
    that, SPREADS standard deviations of the rewards of these episodes' decisions. While few episodes are known, they may have been luck, and count less.

    Args:
        low: the least possible reward of a decision; -inf where there is none.
    """

    def __init__(self, low: float) -> None:
        self._low, self.fallen = low, 0.0
        self._episodes, self._pay = 0, 0.0  # that have not fallen, and the sum of their mean rewards
        self._count, self._sum, self._squares = 0, 0.0, 0.0  # of their rewards, from the first one on, near which they lie
        self._origin = 0.0

    def take(self, rewards: Sequence[float]) -> float:
        """How far the trial has fallen by now, after an episode (T,), T > 0: above 1 or so is no chance any more."""
        mean, fall = sum(rewards) / len(rewards), 0.0
        if self._episodes:
            usual = self._pay / self._episodes
            scale = min(usual - self._low, max(SPREADS * self._spread(), LITTLE * abs(usual)))
            fall = min((usual - mean) / scale, 1.0) if 0 < scale < math.inf else 0.0
            self.fallen = max(0.0, self.fallen + (fall - ALLOWED) * self._episodes / (self._episodes + 1))
        else:
            self._origin = rewards[0]
        if fall <= ALLOWED:
            self._episodes, self._pay, self._count = self._episodes + 1, self._pay + mean, self._count + len(rewards)
            self._sum += sum(r - self._origin for r in rewards)
            self._squares += sum((r - self._origin) ** 2 for r in rewards)
        return self.fallen

    def _spread(self) -> float:
        """Standard deviation of the rewards; infinite where it is not known."""
        mean = self._sum / self._count
        return math.sqrt(max(self._squares / self._count - mean * mean, 0.0)) if self._count >= LEAST else math.inf
