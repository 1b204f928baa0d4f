"""What an adapter has understood, as plain values that a file can keep: saved on a robot, begun with on another day.

The algorithm itself, its networks and its random numbers are no part of it: they are the meta-parameters'.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from metarl.algorithm import Adapter, MetaRLAlgorithm
from metarl.tasks.batched_env import Step


class Experience(NamedTuple):
    """What one learner had understood.

    Attributes:
        epoch, sequence: trial and event that it comes from.
        open: it was saved within an episode, which then counts as ended.
        state: nested dicts, lists and tuples of tensors, numbers and texts.
    """

    epoch: int
    sequence: int
    open: bool
    state: dict[str, Any]

    def begin(self, adapter: Adapter) -> None:
        """Make a fresh adapter, of one task and one robot, what the other one was.

        Raises:
            ValueError: it was of another kind; the message names the first part that does not fit.
        """
        _restored(adapter, self.state, _algorithms_own(adapter), "the adapter")
        if self.open:
            adapter.adapt()


def state_of(adapter: Adapter) -> dict[str, Any]:
    """Everything that an adapter has understood, for an Experience."""
    state: dict[str, Any] = _plain(adapter, _algorithms_own(adapter))
    return state


def adapter_of(algorithm: MetaRLAlgorithm, num_tasks: int, num_robots: int = 1) -> Adapter:
    """An adapter for M x R learners that begins with the algorithm's experience, where it has one."""
    if algorithm.experience is None:
        return algorithm.adapter(num_tasks, num_robots)
    return ExperiencedAdapter(algorithm, algorithm.experience, num_tasks, num_robots)


class ExperiencedAdapter:
    """M x R learners of their own, each of which begins its trial with the same experience."""

    def __init__(self, algorithm: MetaRLAlgorithm, experience: Experience, num_tasks: int, num_robots: int) -> None:
        self.experience = experience
        self.rows = [[algorithm.adapter(1) for _ in range(num_robots)] for _ in range(num_tasks)]
        self.reset()

    def reset(self) -> None:
        """Back to the experience."""
        for row in self.rows:
            for adapter in row:
                adapter.reset()
                self.experience.begin(adapter)

    def act(self, obs: Tensor, explore: bool = True) -> Tensor:
        """Actions (M, R, A) for observations (M, R, O)."""
        return torch.cat([torch.cat([a.act(obs[m : m + 1, r : r + 1], explore) for r, a in enumerate(row)], 1) for m, row in enumerate(self.rows)])

    def observe(self, step: Step) -> None:
        """Take in one decision."""
        for m, row in enumerate(self.rows):
            for r, adapter in enumerate(row):
                adapter.observe(Step(**{name: x[m : m + 1, r : r + 1] for name, x in vars(step).items()}))

    def adapt(self) -> None:
        """An episode has ended."""
        for row in self.rows:
            for adapter in row:
                adapter.adapt()


def _algorithms_own(adapter: Adapter) -> set[int]:
    """Identities of what an adapter shares with its algorithm."""
    parts = [part for own in vars(adapter).values() if isinstance(own, MetaRLAlgorithm) for part in parts_of(own).values()]
    return {id(x) for x in parts if hasattr(x, "__dict__") or isinstance(x, torch.Generator)}  # equal numbers may be one object


def parts_of(algorithm: MetaRLAlgorithm) -> dict[int, Any]:
    """An algorithm and what it consists of, by identity."""
    parts: list[Any] = [algorithm, *vars(algorithm).values()]
    for network in vars(algorithm).values():
        if isinstance(network, nn.Module):
            parts += [*network.modules(), *network.parameters(), *network.buffers()]
    return {id(part): part for part in parts}


def _plain(value: Any, left_out: set[int]) -> Any:
    if isinstance(value, Tensor):
        return value.detach().clone().contiguous()
    if isinstance(value, torch.Generator):
        return value.get_state()
    if isinstance(value, nn.Module):
        return {name: _plain(part, left_out) for name, part in value.state_dict().items()}
    if isinstance(value, dict):
        return {key: _plain(item, left_out) for key, item in value.items()}
    if isinstance(value, tuple | list):
        items = [_plain(item, left_out) for item in value]
        return items if isinstance(value, list) else tuple(items)
    if hasattr(value, "__dict__"):
        return {name: _plain(part, left_out) for name, part in vars(value).items() if id(part) not in left_out}
    return value


def _restored(now: Any, was: Any, left_out: set[int], name: str) -> Any:
    """`was`, in the kind of `now`."""
    if isinstance(now, torch.Generator):
        now.set_state(was)
        return now
    if isinstance(now, nn.Module):
        now.load_state_dict(was)
        return now
    if isinstance(now, Tensor) and isinstance(was, Tensor) and (was.dtype, was.dim()) != (now.dtype, now.dim()):
        raise ValueError(f"{name} was a {was.dim()}-dimensional tensor of {was.dtype}, and is a {now.dim()}-dimensional one of {now.dtype}")
    if isinstance(was, Mapping) and hasattr(now, "__dict__"):
        parts = {key: part for key, part in vars(now).items() if id(part) not in left_out}
        if set(parts) != set(was):
            raise ValueError(f"{name} has {', '.join(sorted(parts))}, but there were {', '.join(sorted(was))}")
        for key, part in was.items():
            setattr(now, key, _restored(parts[key], part, left_out, f"{name}'s {key}"))
        return now
    if isinstance(was, tuple) and hasattr(now, "_fields"):
        return type(now)(*(_restored(a, b, left_out, f"{name}'s {key}") for key, a, b in zip(now._fields, now, was, strict=True)))
    return was.clone() if isinstance(was, Tensor) else was
