"""Labelled numbers, as messages and bags carry them: events, and what the adapter decided on. Plain Python, no ROS.

A message is anything with `layout.dim[0].label` and `data`: ROS's own Float64MultiArray, or what a bag was read into.
"""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from metarl.ros_nodes.events import Event
from metarl.ros_nodes.rejection import Rejected

if TYPE_CHECKING:
    from torch import Tensor

    from metarl.tasks.task import Readings

SECOND = 1_000_000_000  # ns
EVENT = ("epoch", "sequence", "episode", "step", "reward", "terminated", "truncated", "error", "stamp_sec", "stamp_nanosec")
_EXECUTED, _CIRCUMSTANCE = "executed", "="


class Used(NamedTuple):
    """What the adapter made of an event.

    Attributes:
        epoch, sequence: of the event.
        seen: readings that it went by, name -> (n,).
        executed: what the robot was told in the end, empty where an episode begins.
        circumstances: what else it depended on, by name; see `replay.circumstances`.
    """

    epoch: int
    sequence: int
    seen: Readings
    executed: Tensor
    circumstances: dict[str, float]


def labels_of(message: Any) -> list[str]:
    """Names of the numbers."""
    return message.layout.dim[0].label.split(",") if message.layout.dim else []


def labelled(message: Any, labels: Sequence[str]) -> list[float]:
    """The numbers, if they are named so.

    Raises:
        Rejected: wrong_labels.
    """
    found = labels_of(message)
    if found != list(labels) or len(message.data) != len(labels):
        raise Rejected("wrong_labels", f"{len(message.data)} numbers labelled {','.join(found)!r}, expected {','.join(labels)!r}")
    return [float(v) for v in message.data]


def to_event(message: Any) -> Event:
    """The event of a message.

    Raises:
        Rejected: wrong_labels or not_finite.
    """
    values = labelled(message, EVENT)
    epoch, sequence, episode, step, reward, terminated, truncated, error, sec, nanosec = values
    if not all(math.isfinite(v) for v in [*values[:7], *values[8:]]):
        raise Rejected("not_finite", f"event {values}")
    stamp = int(sec) * SECOND + int(nanosec)
    return Event(int(epoch), int(sequence), int(episode), int(step), reward, bool(terminated), bool(truncated), error, stamp)


def event_values(event: Event) -> list[float]:
    """Its numbers in the order of EVENT; the stamp as two of them, because a double holds no nanoseconds of our time."""
    return [*event[:-1], *divmod(event.stamp, SECOND)]


def used_values(
    event: Event, needs: Sequence[str], seen: Readings, executed: Tensor, circumstances: Mapping[str, float]
) -> tuple[tuple[str, ...], list[float]]:
    """Labels and numbers of what was used to answer an event; every bit survives."""
    parts = {name: value.tolist() for name, value in seen.items() if name in needs or name in ("qpos", "qvel")}
    parts[_EXECUTED] = executed.tolist()
    labels = _used_labels(tuple((name, len(part)) for name, part in parts.items()), tuple(circumstances))
    return labels, [float(event.epoch), float(event.sequence), *itertools.chain.from_iterable(parts.values()), *circumstances.values()]


@functools.lru_cache(maxsize=16)  # the same ones at every decision
def _used_labels(parts: tuple[tuple[str, int], ...], circumstances: tuple[str, ...]) -> tuple[str, ...]:
    """Of parts, name and size of each, and of circumstances."""
    numbered = (f"{name}/{i}" for name, count in parts for i in range(count))
    return ("epoch", "sequence", *numbered, *(f"{_CIRCUMSTANCE}{name}/0" for name in circumstances))


def to_used(message: Any) -> Used:
    """What `used_values` wrote.

    Raises:
        Rejected: wrong_labels.
    """
    import torch  # here, because the process that guards the motors reads events and has no torch

    labels = labels_of(message)
    if labels[:2] != ["epoch", "sequence"] or len(labels) != len(message.data):
        raise Rejected("wrong_labels", f"{len(message.data)} numbers labelled {','.join(labels)!r}, expected epoch,sequence,...")
    found: dict[str, list[float]] = {_EXECUTED: []}
    for label, value in zip(labels[2:], message.data[2:], strict=True):
        found.setdefault(label.rpartition("/")[0], []).append(float(value))
    circumstances = {name[1:]: values[0] for name, values in found.items() if name.startswith(_CIRCUMSTANCE)}
    tensors = {name: torch.tensor(values, dtype=torch.float32) for name, values in found.items() if not name.startswith(_CIRCUMSTANCE)}
    executed = tensors.pop(_EXECUTED)
    return Used(int(message.data[0]), int(message.data[1]), tensors, executed, circumstances)
