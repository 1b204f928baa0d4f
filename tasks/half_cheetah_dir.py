"""Half cheetah, direction: the reward is the velocity in a hidden direction, minus 0.05 times the squared actions; never done.

`half_cheetah_dir` is that of VariBAD (Zintgraf et al. 2020); `_pearl`, `_promp` and `_maml` are those of the codes of Rakelly et al. 2019,
Rothfuss et al. 2019 and Finn et al. 2017. There are two tasks in all, to train and to test. See `locomotion` for what today's MuJoCo changes.
"""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from metarl.tasks.half_cheetah import CheetahOfRllab, HalfCheetah, control_cost
from metarl.tasks.parameters import Param
from metarl.tasks.task import Readings, Values

CLEARLY = 0.5  # m/s in the right direction that counts as success; the publications count none


class HalfCheetahDir(HalfCheetah):
    """200 decisions, observation with the torso's position, 2 episodes: VariBAD's."""

    name = "half_cheetah_dir"
    params: ClassVar[tuple[Param, ...]] = (Param("direction", "", "runs {}", nominal="forward", choices=("backward", "forward")),)
    horizon = 200
    episodes_per_trial = 2
    reward_range = (-40.0, 40.0)

    def goals(self, values: Values, rng: torch.Generator) -> Readings:
        return {"direction": 2.0 * values["direction"].unsqueeze(-1) - 1.0}

    def reward(self, readings: Readings, action: Tensor, next_readings: Readings) -> Tensor:
        return readings["direction"][..., 0] * self.velocity(readings, next_readings) - control_cost(action)

    def success(self, readings: Readings) -> Tensor:
        return readings["direction"][..., 0] * self.speed(readings) > CLEARLY


class HalfCheetahDirPearl(HalfCheetahDir):
    """PEARL's: 3 episodes, of which 2 explore."""

    name = "half_cheetah_dir_pearl"
    episodes_per_trial = 3


class HalfCheetahDirPromp(HalfCheetahDir):
    """ProMP's: 100 decisions, without the torso's position in the observation (17 numbers)."""

    name = "half_cheetah_dir_promp"
    observed = {"qpos": 8, "qvel": 9}
    horizon = 100


class HalfCheetahDirMaml(CheetahOfRllab, HalfCheetahDir):
    """MAML's, on rllab: 100 decisions of 0.01 s, the velocity is that of the centre of mass."""

    name = "half_cheetah_dir_maml"
    horizon = 100
