"""What the task node tells the adapter: episodes begin, decisions have results. Plain Python, no ROS.

One stream carries both, so that their order is never in doubt. An epoch is one trial; within it events are numbered without gaps.
"""

from __future__ import annotations

from typing import NamedTuple

from metarl.ros_nodes.rejection import Rejected


class Event(NamedTuple):
    """An episode begins (step 0), or a decision has its result (step 1, 2, ...).

    Attributes:
        epoch: the trial, by the ms of its beginning, which a double holds exactly; another one for each trial, also when nodes are started anew.
        sequence: 0, 1, 2, ... within the epoch.
        episode: 0 ... K - 1.
        step: decisions taken in this episode.
        reward: of the decision; 0 where an episode begins.
        terminated, truncated: how the episode ended with this decision, if it did.
        error: how far from done, in the task's unit; NaN where the task does not say.
        stamp: ns; readings stamped so or later belong to what comes next.
    """

    epoch: int
    sequence: int
    episode: int
    step: int
    reward: float
    terminated: bool
    truncated: bool
    error: float
    stamp: int

    @property
    def begins(self) -> bool:
        """An episode begins."""
        return self.step == 0

    @property
    def ends(self) -> bool:
        """The episode has ended."""
        return self.terminated or self.truncated


class EventOrder:
    """Lets each event of the newest epoch through once, in order. The newest is the one that began last: clocks may have been set back since.

    Args:
        join: whether the very first event may be any one: whoever was started anew finds a trial under way.
    """

    def __init__(self, join: bool = False) -> None:
        self.epoch, self.sequence, self._join = -1, -1, join

    def accept(self, event: Event) -> bool:
        """Take note of an event; True where it is the first one of a new trial.

        Raises:
            Rejected: old_epoch, duplicate or gap.
        """
        if event.epoch < self.epoch and event.sequence > 0:
            raise Rejected("old_epoch", f"event of trial {event.epoch}, the present one is {self.epoch}")
        expected = self.sequence + 1 if event.epoch == self.epoch else 0
        if event.sequence < expected:
            raise Rejected("duplicate", f"event {event.sequence} of trial {event.epoch} again, expected {expected}")
        if event.sequence > expected and not (self._join and self.epoch < 0):
            raise Rejected("gap", f"event {event.sequence} of trial {event.epoch}, expected {expected}")
        first = event.epoch != self.epoch
        self.epoch, self.sequence = event.epoch, event.sequence
        return first
