"""Half cheetah, target velocity: the reward is minus the distance from a hidden velocity, minus 0.05 times the squared actions; never done, 200 decisions.

`half_cheetah_vel` is VariBAD's (Zintgraf et al. 2020; `environments/mujoco/half_cheetah_vel.py` of its code), with velocities up to 3 m/s;
`_pearl`, `_promp` and `_maml` are what the codes of Rakelly et al. 2019, Rothfuss et al. 2019 and Finn et al. 2017 do differently.
See `locomotion` for what today's MuJoCo changes.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from metarl.tasks.half_cheetah import CheetahOfRllab, HalfCheetah, control_cost
from metarl.tasks.parameters import Param
from metarl.tasks.task import Readings, Values


def _target(fastest: float, ood_near: float, ood_far: float) -> Param:
    return Param(
        "velocity", "m/s", "runs at {:.2f} m/s", nominal=1.0, train=(0.0, fastest), ood_near=((fastest, ood_near),), ood_far=((ood_near, ood_far),),
    )  # fmt: skip


class HalfCheetahVel(HalfCheetah):
    """Velocity uniform on [0, 3] m/s, observation with the torso's position, 2 episodes: VariBAD's."""

    name = "half_cheetah_vel"
    params = (_target(3.0, 3.75, 5.0),)
    horizon = 200
    episodes_per_trial = 2
    reward_range = (-40.0, 0.0)

    def goals(self, values: Values, rng: torch.Generator) -> Readings:
        return {"target_vel": values["velocity"].unsqueeze(-1)}

    def reward(self, readings: Readings, action: Tensor, next_readings: Readings) -> Tensor:
        miss = (self.velocity(readings, next_readings) - readings["target_vel"][..., 0]).abs()
        return -miss - control_cost(action)

    def success(self, readings: Readings) -> Tensor:
        return self.error(readings) < 0.2

    def error(self, readings: Readings) -> Tensor:
        return (self.speed(readings) - readings["target_vel"][..., 0]).abs()


def _pearl_velocities() -> tuple[tuple[float, ...], ...]:
    """PEARL's 130 velocities in its order, drawn by NumPy's old generator with seed 1337."""
    return tuple((float(v),) for v in np.random.RandomState(1337).uniform(0.0, 3.0, 130))


class HalfCheetahVelPearl(HalfCheetahVel):
    """PEARL's own tasks: the first 100 of its list to train, the last 30 to test; 3 episodes, of which 2 explore."""

    name = "half_cheetah_vel_pearl"
    published = {"train": _pearl_velocities()[:100], "iid": _pearl_velocities()[100:]}
    episodes_per_trial = 3


class HalfCheetahVelPromp(HalfCheetahVel):
    """ProMP's: velocities as in VariBAD's, without the torso's position in the observation (17 numbers)."""

    name = "half_cheetah_vel_promp"
    observed = {"qpos": 8, "qvel": 9}


class HalfCheetahVelMaml(CheetahOfRllab, HalfCheetahVel):
    """MAML's, on rllab: velocity uniform on [0, 2] m/s, that of the centre of mass; decisions of 0.01 s."""

    name = "half_cheetah_vel_maml"
    params = (_target(2.0, 2.5, 4.0),)
