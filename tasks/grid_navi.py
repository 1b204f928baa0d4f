"""Grid navigation of VariBAD (Zintgraf et al. 2020, section 5.1; `environments/navigation/gridworld.py` of its code): find a hidden goal cell.

A policy that is shown the goal makes 11.07 an episode on average over the goals; one that explores as it should reaches that from the third
episode on (in two episodes the 21 cells can be visited).
"""

from __future__ import annotations

import itertools
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn.functional import one_hot

from metarl.tasks.parameters import Param
from metarl.tasks.task import Readings, Task, Values

SIZE = 5
GOALS = tuple((x, y) for x, y in itertools.product(range(SIZE), repeat=2) if x > 1 or y > 1)  # not the start's corner of 2 x 2
_MOVES = torch.tensor([[0.0, 0.0], [0.0, 1.0], [1.0, 0.0], [0.0, -1.0], [-1.0, 0.0]])


class GridNavi(Task):
    """5 x 5 cells, start in (0, 0), one of 21 goals; 1 in every decision that ends on the goal, else -0.1; 4 episodes of 15 decisions, never done.

    There are 21 tasks in all, as published: the splits differ only in the order in which they are drawn.
    """

    name = "grid_navi"
    params: ClassVar[tuple[Param, ...]] = (
        Param("goal", "", "the goal is cell {}", nominal="x=4 y=4", choices=tuple(f"x={x} y={y}" for x, y in GOALS)),
    )  # fmt: skip
    simulators = ("analytic",)
    horizon = 15
    episodes_per_trial = 4
    decision_dt = 1.0
    observed = {"pos": 2}
    discrete = True
    action_names = ("stay", "up", "right", "down", "left")
    reward_range = (-0.1, 1.0)
    error_unit = "cells"

    def start(self, values: Values, rng: torch.Generator) -> Readings:
        return {"pos": torch.zeros(len(values["goal"]), 2)}

    def goals(self, values: Values, rng: torch.Generator) -> Readings:
        return {"goal_pos": torch.tensor(GOALS, dtype=torch.float32)[values["goal"].long()]}

    def dynamics(self, readings: Readings, action: Tensor, values: Values, rng: torch.Generator) -> Readings:
        return {"pos": (readings["pos"] + action @ _MOVES).clamp(0, SIZE - 1)}

    def reward(self, readings: Readings, action: Tensor, next_readings: Readings) -> Tensor:
        return torch.where(self.success(next_readings), 1.0, -0.1)

    def success(self, readings: Readings) -> Tensor:
        return self.error(readings) == 0

    def error(self, readings: Readings) -> Tensor:
        return (readings["pos"] - readings["goal_pos"]).abs().sum(-1)

    def expert(self, readings: Readings, told: Values) -> Tensor:
        """(N, 5) the shortest way: up or down, then to the side, then stay."""
        way = self.goals(told, torch.Generator())["goal_pos"] - readings["pos"]
        score = torch.stack([0.5 + 0 * way[:, 0], 2 * way[:, 1], way[:, 0], -2 * way[:, 1], -way[:, 0]], -1)  # in the order of the moves
        return one_hot(score.argmax(-1), len(self.action_names)).float()
