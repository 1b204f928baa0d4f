"""Hopper with its physics changed: see `rand_params` for what is drawn, and `locomotion` for what today's MuJoCo changes."""

from __future__ import annotations

import torch
from torch import Tensor

from metarl.tasks.locomotion import as_many
from metarl.tasks.rand_params import RandParams, parameters
from metarl.tasks.task import Readings

_BODIES = ("torso", "thigh", "leg", "foot")
_JOINTS = ("thigh_joint", "leg_joint", "foot_joint")
_GEOMS = ("floor", "foot_geom")


class HopperRandParams(RandParams):
    """As published; done when the torso is not above 0.7 m, leans by 0.2 rad, or anything but the place exceeds 100."""

    name = "hopper_rand_params"
    params = parameters(_BODIES, _JOINTS, _GEOMS, densities=False)
    model_file = "hopper.xml"
    observed = {"qpos": 5, "qvel": 6}
    action_names = _JOINTS

    def terminated(self, readings: Readings) -> Tensor:
        height, angle = readings["qpos"][..., 1], readings["qpos"][..., 2]
        state = torch.cat([readings["qpos"][..., 2:], readings["qvel"]], -1)
        return (height <= 0.7) | (angle.abs() >= 0.2) | (state.abs() >= 100.0).any(-1)


class HopperRandParamsPearl(HopperRandParams):
    """40 tasks to train and 10 to test, as in PEARL's configuration; 3 episodes."""

    name = "hopper_rand_params_pearl"
    published = as_many("hopper_rand_params_pearl", HopperRandParams.params, 40, 10)
    episodes_per_trial = 3


class HopperRandParamsPhysical(HopperRandParams):
    """Every body's mass and inertias by one density, so that there could be such bodies: independent inertias break the triangle inequality."""

    name = "hopper_rand_params_physical"
    params = parameters(_BODIES, _JOINTS, _GEOMS, densities=True)
