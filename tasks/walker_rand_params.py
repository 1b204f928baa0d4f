"""Walker with its physics changed: see `rand_params` for what is drawn, and `locomotion` for what today's MuJoCo changes."""

from __future__ import annotations

from torch import Tensor

from metarl.tasks.locomotion import as_many
from metarl.tasks.rand_params import RandParams, parameters
from metarl.tasks.task import Readings

_BODIES = ("torso", "thigh", "leg", "foot", "thigh_left", "leg_left", "foot_left")
_JOINTS = ("thigh_joint", "leg_joint", "foot_joint", "thigh_left_joint", "leg_left_joint", "foot_left_joint")
_GEOMS = ("floor", "foot_geom", "foot_left_geom")


class WalkerRandParams(RandParams):
    """As published; done when the torso leaves heights of 0.8 to 2 m, or leans by 1 rad."""

    name = "walker_rand_params"
    params = parameters(_BODIES, _JOINTS, _GEOMS, densities=False)
    model_file = "walker2d.xml"
    observed = {"qpos": 8, "qvel": 9}
    action_names = _JOINTS

    def terminated(self, readings: Readings) -> Tensor:
        height, angle = readings["qpos"][..., 1], readings["qpos"][..., 2]
        return (height <= 0.8) | (height >= 2.0) | (angle.abs() >= 1.0)


class WalkerRandParamsPearl(WalkerRandParams):
    """40 tasks to train and 10 to test, as in PEARL's configuration; 3 episodes."""

    name = "walker_rand_params_pearl"
    published = as_many("walker_rand_params_pearl", WalkerRandParams.params, 40, 10)
    episodes_per_trial = 3


class WalkerRandParamsPhysical(WalkerRandParams):
    """Every body's mass and inertias by one density, so that there could be such bodies: independent inertias break the triangle inequality."""

    name = "walker_rand_params_physical"
    params = parameters(_BODIES, _JOINTS, _GEOMS, densities=True)
