"""Point navigation: a point in the plane must find a goal that it is not shown. Tiny, exact, for fast tests.

This is the 2-D navigation of MAML (Finn et al. 2017; `navigation.py` of its code): the reward is the negative distance.
"""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from metarl.tasks.parameters import Param
from metarl.tasks.task import Readings, Task, Values


class PointNavigation(Task):
    """Goal uniform on [-0.5, 0.5]², start at the origin, steps of at most 0.1, done when both coordinates are within 0.01, 100 steps."""

    name = "point_navigation"
    params: ClassVar[tuple[Param, ...]] = (
        Param("goal_x", "", "the goal lies at x = {:.2f}", nominal=0.3, train=(-0.5, 0.5), ood_near=((-0.6, -0.5), (0.5, 0.6)), ood_far=((-1.0, -0.6), (0.6, 1.0))),
        Param("goal_y", "", "y = {:.2f}", nominal=0.3, train=(-0.5, 0.5), ood_near=((-0.6, -0.5), (0.5, 0.6)), ood_far=((-1.0, -0.6), (0.6, 1.0))),
    )  # fmt: skip
    simulators = ("analytic",)
    horizon = 100
    episodes_per_trial = 2
    decision_dt = 0.1
    observed = {"pos": 2}
    action_names = ("x", "y")
    reward_range = (-15.0, 0.0)
    error_unit = ""
    step_size = 0.1

    def start(self, values: Values, rng: torch.Generator) -> Readings:
        return {"pos": torch.zeros(len(next(iter(values.values()))), 2)}

    def goals(self, values: Values, rng: torch.Generator) -> Readings:
        return {"goal_pos": torch.stack([values["goal_x"], values["goal_y"]], -1)}

    def dynamics(self, readings: Readings, action: Tensor, values: Values, rng: torch.Generator) -> Readings:
        return {"pos": readings["pos"] + self.step_size * action}

    def reward(self, readings: Readings, action: Tensor, next_readings: Readings) -> Tensor:
        return -self.error(next_readings)

    def terminated(self, readings: Readings) -> Tensor:
        return ((readings["pos"] - readings["goal_pos"]).abs() < 0.01).all(-1)

    def success(self, readings: Readings) -> Tensor:
        return self.error(readings) < 0.05

    def error(self, readings: Readings) -> Tensor:
        return (readings["pos"] - readings["goal_pos"]).norm(dim=-1)

    def expert(self, readings: Readings, told: Values) -> Tensor:
        """(N, 2) actions straight to the goal, the last step as short as it must be."""
        way = (self.goals(told, torch.Generator())["goal_pos"] - readings["pos"]) / self.step_size
        return way / way.norm(dim=-1, keepdim=True).clamp(min=1.0)
