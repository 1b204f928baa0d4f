"""What off-policy learners remember of the world: decisions by task, and the last trial in each task.

Preallocated tensors with an axis of tasks; adding and drawing are a few operations whatever the number of tasks. Both are modules, so that
they move as networks do, and their state is part of the checkpoint: only what was written, not what is reserved.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from metarl.rollout import Rollout
from metarl.tasks.task import EnvSpec


class Decisions(NamedTuple):
    """Decisions as the world said them, with any leading axes.

    Attributes:
        obs: (..., O).
        action: (..., A).
        next_obs: (..., O).
        reward: (..., 1).
        training_reward: (..., 1) what a learner is told in training, see `Task.training_reward`.
        terminated: (..., 1) 1.0 where the episode ended by itself, else 0.0.
    """

    obs: Tensor
    action: Tensor
    next_obs: Tensor
    reward: Tensor
    training_reward: Tensor
    terminated: Tensor


class Packing:
    """Decisions side by side in rows of W numbers, so that drawing some is one operation."""

    def __init__(self, spec: EnvSpec) -> None:
        self.sizes = (spec.obs_size, spec.action_size, spec.obs_size, 1, 1, 1)
        self.width = sum(self.sizes)

    def pack(self, rollout: Rollout) -> Tensor:
        """(M, R, K, H, W)."""
        rewards = (x.unsqueeze(-1) for x in (rollout.reward, rollout.told_reward, rollout.terminated.float()))
        return torch.cat([rollout.obs, rollout.action, rollout.next_obs, *rewards], -1)

    def unpack(self, rows: Tensor) -> Decisions:
        """The decisions of rows (..., W)."""
        return Decisions(*rows.split(self.sizes, -1))


class TaskIndex:
    """Which row belongs to which task; where there is no room for a new one, the task that was visited longest ago makes it."""

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self.slots: dict[str, int] = {}  # by id, the task that was visited longest ago first

    def place(self, ids: Sequence[str]) -> tuple[list[int], list[int]]:
        """Rows of the tasks, and which of those rows were given to a new task.

        Raises:
            ValueError: more tasks at once than there are rows.
        """
        if len(set(ids)) > self.capacity:
            raise ValueError(f"a rollout of {len(set(ids))} tasks was given to a memory with room for {self.capacity}")
        for known in ids:  # these are visited now: none of them may make room for another
            if known in self.slots:
                self.slots[known] = self.slots.pop(known)
        fresh = []
        for new in dict.fromkeys(i for i in ids if i not in self.slots):
            slot = len(self.slots) if len(self.slots) < self.capacity else self.slots.pop(next(iter(self.slots)))
            self.slots[new] = slot
            fresh.append(slot)
        return [self.slots[i] for i in ids], fresh


class Replay(nn.Module):
    """All decisions of each task, the most recent `capacity` of them, and apart from them the last trial of each.

    Attributes:
        rows: (S, capacity, W) decisions of S tasks.
        written: (S,) how many were ever written.
        trial: (S, R, K * H, W) the last trial of R robots.
        trial_valid: (S, R, K * H) bool.
    """

    rows: Tensor
    written: Tensor
    trial: Tensor
    trial_valid: Tensor

    def __init__(self, spec: EnvSpec, num_tasks: int, num_robots: int, capacity: int) -> None:
        super().__init__()
        self.packing, self.index, self.horizon = Packing(spec), TaskIndex(num_tasks), spec.horizon
        trial = (num_tasks, num_robots, spec.episodes_per_trial * spec.horizon)
        reserved = {"rows": (num_tasks, capacity, self.packing.width), "trial": (*trial, self.packing.width)}
        for name, shape in reserved.items():
            self.register_buffer(name, torch.zeros(shape), persistent=False)
        self.register_buffer("trial_valid", torch.zeros(trial, dtype=torch.bool), persistent=False)
        self.register_buffer("written", torch.zeros(num_tasks, dtype=torch.long), persistent=False)

    @property
    def num_tasks(self) -> int:
        """S, tasks of which something is remembered."""
        return len(self.index.slots)

    def add(self, rollout: Rollout) -> None:
        """Take in valid decisions, the oldest of the same task make room; the trial replaces the last one of its task."""
        places, fresh = self.index.place(rollout.task_ids)
        self.written[fresh] = 0
        slot = torch.tensor(places, device=self.rows.device)
        packed = self.packing.pack(rollout)
        self.trial[slot], self.trial_valid[slot] = packed.flatten(2, 3), rollout.valid.flatten(2)
        self._append(slot.view(-1, 1, 1, 1).expand_as(rollout.valid)[rollout.valid], packed[rollout.valid])

    def _append(self, slot: Tensor, rows: Tensor) -> None:
        """Rows (n, W) of tasks (n,), in order."""
        number = torch.bincount(slot, minlength=len(self.written))
        order = slot.argsort(stable=True)
        rank = torch.empty_like(order)  # of a row among those of its task
        rank[order] = torch.arange(len(slot), device=slot.device) - (number.cumsum(0) - number)[slot[order]]
        capacity = self.rows.shape[1]
        kept = rank >= (number - capacity)[slot]  # where there are more than fit, each place is written once
        place = slot * capacity + (self.written[slot] + rank) % capacity
        self.rows.view(-1, self.packing.width)[place[kept]] = rows[kept]
        self.written += number

    # ---- drawing ----------------------------------------------------------------------------------------------------------

    def draw_tasks(self, count: int, generator: torch.Generator) -> Tensor:
        """(count,) rows of tasks, each as likely as the others."""
        return torch.randint(self.num_tasks, (count,), generator=generator).to(self.rows.device)

    def draw(self, tasks: Tensor, count: int, generator: torch.Generator) -> Decisions:
        """(B, count) of all that is remembered of tasks (B,), each decision of a task as likely as its others."""
        capacity = self.rows.shape[1]
        filled = self.written[tasks].clamp(max=capacity).unsqueeze(-1)
        chance = torch.rand(len(tasks), count, generator=generator).to(filled.device)
        place = tasks.unsqueeze(-1) * capacity + (chance * filled).long().minimum(filled - 1)
        return self.packing.unpack(self.rows.view(-1, self.packing.width)[place])

    def draw_context(self, tasks: Tensor, least: int, count: int, generator: torch.Generator) -> tuple[Decisions, Tensor]:
        """What a learner has seen in the last trial in tasks (B,) after some of its episodes, `least` of them or more, but never the last of several.

        Up to `count` decisions, none twice, of one of the robots.

        Returns:
            Decisions (B, C), and how often each counts, (B, C): n / C of n decisions where there are more than C, 1 where there are fewer, and
            0 for what fills the row.
        """
        device, (robots, steps) = self.trial.device, self.trial.shape[1:3]
        robot = torch.randint(robots, (len(tasks),), generator=generator).to(device)
        episodes = torch.randint(least, max(steps // self.horizon, least + 1), (len(tasks), 1), generator=generator).to(device)
        seen = self.trial_valid[tasks, robot] & (torch.arange(steps, device=device) < episodes * self.horizon)
        lot = torch.rand(seen.shape, generator=generator).to(device) + 2 * ~seen
        drawn, place = lot.topk(min(count, steps), largest=False, sorted=False)
        number = seen.sum(1, keepdim=True)
        weight = (drawn < 2) * (number / place.shape[1]).clamp(min=1.0)
        rows = torch.where((drawn < 2).unsqueeze(-1), self.trial[tasks.unsqueeze(-1), robot.unsqueeze(-1), place], 0.0)
        return self.packing.unpack(rows), weight

    # ---- files ------------------------------------------------------------------------------------------------------------

    def get_extra_state(self) -> dict[str, Any]:
        """What was written: part of `state_dict`."""
        tasks, longest = self.num_tasks, min(int(self.written.max()), self.rows.shape[1])
        parts = {"rows": self.rows[:tasks, :longest], "written": self.written, "trial": self.trial[:tasks], "trial_valid": self.trial_valid[:tasks]}
        return {"slots": [[name, slot] for name, slot in self.index.slots.items()], **{name: part.clone() for name, part in parts.items()}}

    def set_extra_state(self, state: Mapping[str, Any]) -> None:
        """Continue from it."""
        self.index.slots = dict(state["slots"])
        tasks, longest = state["rows"].shape[:2]
        self.rows[:tasks, :longest], self.trial[:tasks], self.trial_valid[:tasks] = state["rows"], state["trial"], state["trial_valid"]
        self.written.copy_(state["written"])
