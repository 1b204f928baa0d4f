"""Who is alive, and what must happen next to bring a graph up or down. Plain Python, no ROS."""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum
from typing import NamedTuple

BUSY = "busy: "  # begins the heartbeat of a node that will be silent for a while


class Goal(StrEnum):
    """What the graph shall come to."""

    AS_IT_IS = "as it is"
    ACTIVE = "active"
    INACTIVE = "inactive"
    FINALIZED = "finalized"


class Step(NamedTuple):
    """One transition of one node."""

    node: str
    transition: str


# state of a node's life cycle -> the transition towards each goal
_TOWARDS = {
    Goal.ACTIVE: {"unconfigured": "configure", "inactive": "activate"},
    Goal.INACTIVE: {"active": "deactivate"},
    Goal.FINALIZED: {"active": "deactivate", "inactive": "shutdown", "unconfigured": "shutdown"},
}


class Patience:
    """With something that has many steps: it lasts as long as a step comes now and then that has not been seen before.

    Args:
        now: s.
    """

    def __init__(self, now: float) -> None:
        self._since, self._seen = now, set[str]()

    def tried(self, step: str, now: float) -> float:
        """Seconds since there was something new to wait for."""
        if step not in self._seen:
            self._seen.add(step)
            self._since = now
        return now - self._since


class Roster:
    """Knows when each node was heard last, and what it said.

    Args:
        names: of all nodes, in the order in which they come up.
        managed: those among them that have a life cycle.
        timeout: s of silence after which a node is dead.
        busy_timeout: s, the same for a node that has said that it will be busy.
        watched: others that nothing waits for, and whose death is told all the same.
    """

    def __init__(self, names: Sequence[str], managed: Sequence[str], timeout: float, busy_timeout: float, watched: Sequence[str] = ()) -> None:
        if unknown := sorted(set(managed) - set(names)):
            raise ValueError(f"{', '.join(unknown)} cannot be managed: the nodes are {', '.join(names)}")
        self.names, self.managed, self.timeout, self.busy_timeout = tuple(names), tuple(managed), timeout, busy_timeout
        self.all = (*names, *watched)
        self._heard: dict[str, tuple[float, str]] = {}
        self._inactive: dict[str, int] = {}  # of nodes that were active: how often in a row they have said since that they are not

    def hear(self, name: str, said: str, now: float) -> None:
        """A heartbeat at `now` (s)."""
        self._heard[name] = now, said
        if said == "active":
            self._inactive[name] = 0
        elif said == "unconfigured":  # a new process
            self._inactive.pop(name, None)
        elif said == "inactive" and name in self._inactive:
            self._inactive[name] += 1

    def unanswered(self, step: Step, seconds: float, now: float) -> bool:
        """Whether a transition that was asked for so long ago was lost, e.g. by a process that has been started anew since: who is alive has an answer."""
        return seconds > self.timeout and not self.state(step.node, now).startswith(BUSY)

    def withdrawn(self) -> tuple[str, ...]:
        """Nodes that were active and are no more, without having died: somebody has deactivated them, or they have themselves."""
        return tuple(name for name in self.managed if self._inactive.get(name, 0) > 1)  # the first time may have been said before it was activated

    def begin(self) -> None:
        """There is a new goal: whoever is inactive may be activated."""
        self._inactive.clear()

    def state(self, name: str, now: float) -> str:
        """What a node does: as it says itself, or "missing" where it was never heard, or "dead" where it fell silent without being "finalized"."""
        if name not in self._heard:
            return "missing"
        when, said = self._heard[name]
        if said == "finalized":
            return said
        return "dead" if now - when > (self.busy_timeout if said.startswith(BUSY) else self.timeout) else said

    def dead(self, now: float) -> tuple[str, ...]:
        """Nodes that were heard once and are no more."""
        return tuple(name for name in self.all if self.state(name, now) == "dead")

    def waiting_for(self, goal: Goal, ready: Sequence[str], now: float) -> str:
        """What keeps the graph from its goal, in words; "" where it is there."""
        for name in self.names if goal is Goal.ACTIVE else ():
            state = self.state(name, now)
            if state in ("missing", "dead") or (name not in self.managed and name not in ready) or (name in self.managed and state != "active"):
                return f"{name}, which is {state if state != 'running' else 'not ready'}"
        for name in self.managed if goal in (Goal.INACTIVE, Goal.FINALIZED) else ():
            state = self.state(name, now)
            if state in _TOWARDS[goal] or state.startswith(BUSY):
                return f"{name}, which is {state}"
        return ""

    def next_step(self, goal: Goal, ready: Sequence[str], now: float) -> Step | None:
        """The next transition; None where there is nothing to do or something must be waited for.

        Args:
            goal: where to.
            ready: nodes that say that they can do their work.
            now: s.
        """
        if goal is Goal.AS_IT_IS:
            return None
        if goal is not Goal.ACTIVE:
            for name in reversed(self.managed):
                if (transition := _TOWARDS[goal].get(self.state(name, now))) is not None:
                    return Step(name, transition)
            return None
        for name in self.managed:  # nothing moves by it, so it need not wait for its turn
            if self.state(name, now) == "unconfigured":
                return Step(name, "configure")
        for name in self.names:
            state = self.state(name, now)
            if state == "inactive" and name in self._inactive:
                return None
            if name in self.managed and state in _TOWARDS[goal]:
                return Step(name, _TOWARDS[goal][state])
            if state in ("missing", "dead") or state.startswith(BUSY) or (name not in self.managed and name not in ready):
                return None
        return None
