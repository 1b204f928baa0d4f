"""Tasks that bring their dynamics as one pure torch function need no engine."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from metarl.tasks.simulators.simulator import Simulator
from metarl.tasks.task import Readings, Task


class AnalyticSimulator(Simulator):
    """See `Simulator`; the command of an analytic task is its action (N, A)."""

    def __init__(self, task: Task, num_sims: int, rng: torch.Generator) -> None:
        super().__init__(task, num_sims)
        self._rng = rng
        self._values: dict[str, Tensor] = {}
        self._state: Readings = {}

    def set_tasks(self, values: dict[str, NDArray[np.float64]]) -> None:
        self._values = {name: torch.as_tensor(v, dtype=torch.float32) for name, v in values.items()}

    def reset(self, start: Readings, goals: Readings) -> Readings:
        self._state = start
        return self._state

    def step(self, command: Tensor, active: Tensor | None) -> Readings:
        after = self.task.dynamics(self._state, command, self._values, self._rng)
        self._state = after if active is None else {k: torch.where(active.unsqueeze(-1), v, self._state[k]) for k, v in after.items()}
        return self._state
