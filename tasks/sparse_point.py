"""The sparse point robot: goals on a half circle, and a reward only within 0.2 of the goal.

`sparse_point_pearl` is PEARL's (Rakelly et al. 2019, section 6.3; `rlkit/envs/point_robot.py` and `configs/sparse-point-robot.json` of its code).
`sparse_point_varibad` is that of VariBAD (Zintgraf et al. 2020) and HyperX: any goal on the half circle, and five times as much time.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from metarl.tasks.parameters import Param
from metarl.tasks.point_navigation import PointNavigation
from metarl.tasks.task import Readings, Values


class SparsePointVaribad(PointNavigation):
    """Goal on the upper unit half circle; reward 1 - distance within 0.2 of it, else 0; 3 episodes of 100 steps, never done."""

    name = "sparse_point_varibad"
    params = (Param("angle", "rad", "the goal lies at {:.2f} rad on the half circle", nominal=1.0, train=(0.0, math.pi)),)
    episodes_per_trial = 3
    reward_range = (0.0, 1.0)
    radius = 0.2

    def goals(self, values: Values, rng: torch.Generator) -> Readings:
        return {"goal_pos": torch.stack([values["angle"].cos(), values["angle"].sin()], -1)}

    def reward(self, readings: Readings, action: Tensor, next_readings: Readings) -> Tensor:
        distance = self.error(next_readings)
        return torch.where(distance <= self.radius, 1.0 - distance, 0.0)

    def terminated(self, readings: Readings) -> Tensor:
        return torch.zeros(readings["pos"].shape[:-1], dtype=torch.bool, device=readings["pos"].device)

    def success(self, readings: Readings) -> Tensor:
        return self.error(readings) <= self.radius


def _published_angles() -> tuple[tuple[float, ...], ...]:
    """PEARL's 100 goals in its order: evenly spaced angles, shuffled by NumPy's old generator with seed 1337."""
    angles = np.linspace(0.0, math.pi, 100)
    np.random.RandomState(1337).shuffle(angles)
    return tuple((float(angle),) for angle in angles)


_ANGLES = _published_angles()


class SparsePointPearl(SparsePointVaribad):
    """Goal on the upper unit half circle, one of PEARL's 80 for training and 20 others for tests; 20 episodes of 20 steps of at most 0.1.

    The reward is the sparse one, 1 - distance within 0.2 of the goal and else 0, which PEARL's context holds and its evaluation counts; its
    actor and critic, in training, were told the negative distance instead.
    """

    name = "sparse_point_pearl"
    published = {"train": _ANGLES[:80], "iid": _ANGLES[80:]}
    horizon = 20
    episodes_per_trial = 20

    def training_reward(self, readings: Readings) -> Tensor:
        """The negative distance."""
        return -self.error(readings)
