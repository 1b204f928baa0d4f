"""A planner that looks ahead in a model of the task, for bodies that no expert is written for: told the hidden parameters, or believing others.

Predictive sampling (Howell et al. 2022, arXiv:2212.00541): from the true state, a few candidate action sequences are tried in the believed task, and
the beginning of the best one is carried out. Whatever it is told, the planner sees the same true state and plans anew as often: what differs is what
it believes of the body.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass

import torch
from torch import Tensor

from metarl.tasks.batched_env import BatchedEnv, Step
from metarl.tasks.parameters import TaskBatch
from metarl.tasks.task import Readings, Values


@dataclass(frozen=True)
class Effort:
    """How hard is planned.

    Attributes:
        decisions: of an episode that is judged; its beginning, where the task's own is longer.
        ahead: decisions that are looked ahead.
        hold: decisions that an action is held for, and after which is planned anew.
        candidates: R, sequences tried in each belief at once.
        spread: standard deviation of candidates around that, in actions of [-1, 1].
    """

    decisions: int
    ahead: int
    hold: int
    candidates: int = 24
    spread: float = 0.5


EFFORTS = {
    "dm_suite_cartpole_swingup": Effort(decisions=300, ahead=80, hold=8),
    "dm_suite_cheetah_run": Effort(decisions=200, ahead=40, hold=4),
    "dm_suite_walker_walk": Effort(decisions=160, ahead=24, hold=4),
    "half_cheetah_cripple": Effort(decisions=200, ahead=40, hold=4),
    "hopper_rand_params": Effort(decisions=200, ahead=48, hold=8),
    "walker_rand_params": Effort(decisions=200, ahead=40, hold=8),
}
"""By how the names of tasks begin: as much as a planner who is told needs to move along, and no more than a few minutes of one core."""


class Planner:
    """An adapter that does what seems best for what it believes.

    Args:
        env: of M tasks and one robot each, in MuJoCo.
        beliefs: M * E tasks, E for each of the M, one after another: what is done is best for their mean.
        effort: of planning.
    """

    def __init__(self, env: BatchedEnv, beliefs: TaskBatch, effort: Effort) -> None:
        self.env, self.effort = env, effort
        self.num_beliefs = len(beliefs) // env.num_tasks
        self._state: Readings = {}
        task = copy.copy(env.task)
        task.start = self._start  # type: ignore[method-assign]
        task.warm_up = 0.0  # type: ignore[misc]
        task.horizon = effort.ahead + 1  # type: ignore[misc]
        self.model = BatchedEnv(task, len(beliefs), effort.candidates, num_threads=1)
        self.model.set_tasks(beliefs)

    def reset(self) -> None:
        """Begin to plan, the same way each time."""
        self._chance = torch.Generator().manual_seed(0)
        self._plan = torch.zeros(self.env.num_tasks, self.effort.ahead // self.effort.hold, self.env.spec.action_size)
        self._tick = 0

    def act(self, obs: Tensor, explore: bool = True) -> Tensor:
        """Actions (M, 1, A)."""
        if self._tick % self.effort.hold == 0:
            if self._tick:
                self._plan = torch.cat([self._plan[:, 1:], self._plan[:, -1:]], 1)
            self._improve()
        self._tick += 1
        return self._plan[:, :1]

    def observe(self, step: Step) -> None:
        """It looks at the state itself."""

    def adapt(self) -> None:
        """It believes what it was told."""

    def close(self) -> None:
        """Free the simulator."""
        self.model.close()

    def _improve(self) -> None:
        """Try candidates around the plan, itself among them, and take for each task the one that is best over its beliefs."""
        effort, num = self.effort, self.env.num_tasks
        noise = effort.spread * torch.randn(num, effort.candidates, *self._plan.shape[1:], generator=self._chance)
        candidates = (self._plan.unsqueeze(1) + noise).clamp(-1.0, 1.0)
        candidates[:, 0] = self._plan
        best = self._foreseen(candidates).argmax(1)
        self._plan = candidates[torch.arange(num), best]

    def _foreseen(self, candidates: Tensor) -> Tensor:
        """(M, R) what sequences (M, R, knots, A) earn, the mean over beliefs."""
        self._state = {name: self.env.readings[name] for name in ("qpos", "qvel")}
        self.model.reset()
        earned = torch.zeros(self.model.num_tasks, self.effort.candidates)
        tried = candidates.repeat_interleave(self.num_beliefs, 0)
        for tick in range(self.effort.ahead):
            earned += self.model.step(tried[:, :, tick // self.effort.hold]).reward
            if self.model.all_ended:
                break
        return earned.unflatten(0, (self.env.num_tasks, self.num_beliefs)).mean(1)

    def _start(self, values: Values, rng: torch.Generator) -> Readings:
        """The true state, of all that is tried."""
        return {name: x.repeat_interleave(self.model.num_sims // len(x), 0) for name, x in self._state.items()}
