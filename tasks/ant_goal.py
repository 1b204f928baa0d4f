"""Ant, goal: PEARL's (Rakelly et al. 2019; `ant_goal.py` of its code) and VariBAD's (Zintgraf et al. 2020), which differ in tasks and episodes.

The reward is minus the distance from a hidden place, as the ant crawls (the sum over x and y), - 0.1 times the squared actions - 0.0005
times the squared contact forces; never done, 200 decisions. See `locomotion` for what today's MuJoCo changes.
"""

from __future__ import annotations

import math
from typing import ClassVar

import torch
from torch import Tensor

from metarl.tasks.ant_dir import Ant
from metarl.tasks.locomotion import CONTACT_FORCES, as_many, contact_cost, squared
from metarl.tasks.parameters import Param
from metarl.tasks.task import Readings, Values


class AntGoal(Ant):
    """Goals uniform on the disc of 3 m about the start (the angle, and the square of the distance, are), any number of tasks."""

    name = "ant_goal"
    params: ClassVar[tuple[Param, ...]] = (
        Param("angle", "rad", "the goal lies at {:.2f} rad", nominal=0.0, train=(0.0, 2 * math.pi)),
        Param("area", "", "at the square root of {:.2f} times 3 m", nominal=0.5, train=(0.0, 1.0), ood_near=((1.0, 1.25),), ood_far=((1.25, 2.0),)),
    )
    episodes_per_trial = 3
    observed = {"qpos": 15, "qvel": 14, "cfrc_ext": CONTACT_FORCES}
    reward_range = (-60.0, 0.0)

    def goals(self, values: Values, rng: torch.Generator) -> Readings:
        radius = 3.0 * values["area"].sqrt()
        return {"goal_pos": torch.stack([radius * values["angle"].cos(), radius * values["angle"].sin()], -1)}

    def observation(self, readings: Readings) -> Tensor:
        return torch.cat([readings["qpos"], readings["qvel"], readings["cfrc_ext"].clamp(-1.0, 1.0)], -1)

    def reward(self, readings: Readings, action: Tensor, next_readings: Readings) -> Tensor:
        crawl = (next_readings["torso_pos"][..., :2] - readings["goal_pos"]).abs().sum(-1)
        return -crawl - 0.1 * squared(action) - contact_cost(next_readings)

    def success(self, readings: Readings) -> Tensor:
        return self.error(readings) < 0.5

    def error(self, readings: Readings) -> Tensor:
        return (readings["torso_pos"][..., :2] - readings["goal_pos"]).norm(dim=-1)


class AntGoalPearl(AntGoal):
    """150 tasks to train and 30 to test, as in PEARL's configuration; 3 episodes, of which 2 explore."""

    name = "ant_goal_pearl"
    published = as_many("ant_goal_pearl", AntGoal.params, 150, 30)


class AntGoalVaribad(AntGoal):
    """Any number of tasks; 2 episodes, as in VariBAD's configuration."""

    name = "ant_goal_varibad"
    episodes_per_trial = 2
