"""The few-shot protocol: how well an algorithm does after 0, 1, 2 ... episodes in a task that it has never met."""

from __future__ import annotations

import torch
from torch import Tensor

from metarl.tasks.batched_env import BatchedEnv, Step
from metarl.tasks.task import Task


class EpisodeEnds:
    """Error and success at the end of each episode; given to `collect` as `on_step`.

    Attributes:
        errors: K tensors (M, R) in the task's unit; empty where the task has no error.
        successes: K tensors (M, R) bool.
    """

    def __init__(self, env: BatchedEnv) -> None:
        self._env = env
        self._has_error = type(env.task).error is not Task.error
        self.errors: list[Tensor] = []
        self.successes: list[Tensor] = []

    def __call__(self, episode: int, step_index: int, step: Step) -> None:
        """After each decision; robots that have ended keep their last readings, so the last look sees the end of all."""
        env = self._env
        if env.all_ended:
            shape = (env.num_tasks, env.num_robots)
            self.successes.append(env.task.success(env.readings).reshape(shape))
            if self._has_error:
                self.errors.append(env.task.error(env.readings).reshape(shape))

    def means(self) -> dict[str, float]:
        """Mean over all robots, for the log."""
        columns = {f"error_episode_{k}": e for k, e in enumerate(self.errors)}
        columns |= {f"success_episode_{k}": s.to(torch.float32) for k, s in enumerate(self.successes)}
        return {name: float(value.mean()) for name, value in columns.items()}
