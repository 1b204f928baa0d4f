"""Half cheetah with a dead joint, of Nagabandi et al. 2019 ("Learning to adapt in dynamic, real-world environments through meta-RL").

As in `learning_to_adapt/envs/half_cheetah_env.py`: the reward is the velocity of the centre of mass minus 0.05 times the squared actions that
still reach a motor; never done. See `locomotion` for what today's MuJoCo changes.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from metarl.robots.spec import Controls
from metarl.tasks.half_cheetah import CheetahOfRllab, control_cost
from metarl.tasks.half_cheetah_dir import CLEARLY
from metarl.tasks.parameters import Param
from metarl.tasks.task import Readings, Values

if TYPE_CHECKING:
    import mujoco.batch


class HalfCheetahCripple(CheetahOfRllab):
    """1000 decisions of 0.01 s. Any joint may be dead but the back thigh, which the published code never draws: it is left for the tests."""

    name = "half_cheetah_cripple"
    params: ClassVar[tuple[Param, ...]] = (
        Param("dead_joint", "", "the joint {} is dead", nominal="bshin", choices=("bshin", "bfoot", "fthigh", "fshin", "ffoot"), ood_far=("bthigh",)),
    )
    horizon = 1000
    episodes_per_trial = 2
    reward_range = (-40.0, 40.0)

    def apply(self, batch: mujoco.batch.Batch, values: Mapping[str, Any]) -> None:
        """In pictures the limb behind the dead joint is red, as published."""
        colours = batch.expand("geom_rgba")
        colours[:] = batch.model.geom_rgba
        bodies = np.array([batch.model.body(joint).id for joint in self.params[0].all_choices])
        colours[batch.model.geom_bodyid == bodies[values["dead_joint"].astype(int)][:, None]] = (1.0, 0.0, 0.0, 1.0)

    def goals(self, values: Values, rng: torch.Generator) -> Readings:
        order = torch.tensor([self.action_names.index(joint) for joint in self.params[0].all_choices])
        return {"alive": 1.0 - torch.eye(6)[order[values["dead_joint"].long()]]}

    def command(self, action: Tensor, readings: Readings) -> Controls:
        return Controls(readings["alive"] * action)

    def reward(self, readings: Readings, action: Tensor, next_readings: Readings) -> Tensor:
        return self.velocity(readings, next_readings) - control_cost(readings["alive"] * action)

    def success(self, readings: Readings) -> Tensor:
        return self.speed(readings) > CLEARLY
