"""Ant, direction. Four published tasks go by this name: say which one you mean. `ant_dir` itself has any direction.

The reward is the velocity of the torso in a hidden direction + 1 - 0.5 times the squared actions - 0.0005 times the squared contact forces;
done when the torso leaves a band of heights, 200 decisions. See `locomotion` for what today's MuJoCo changes.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, ClassVar

import torch
from torch import Tensor

from metarl.tasks.locomotion import CONTACT_FORCES, Locomotion, add_contact_forces, as_many, contact_cost, normal, squared, uniform
from metarl.tasks.parameters import Param
from metarl.tasks.task import Readings, Values

if TYPE_CHECKING:
    import mujoco


class Ant(Locomotion):
    """OpenAI Gym's: five steps of 0.01 s a decision."""

    model_file = "ant.xml"
    start_noise = (uniform(0.1), normal(0.1))
    data_fields = ("qpos", "qvel", "cfrc_ext")
    physics_dt = 0.01
    decision_dt = 0.05
    horizon = 200
    action_names = ("hip_4", "ankle_4", "hip_1", "ankle_1", "hip_2", "ankle_2", "hip_3", "ankle_3")

    def build(self) -> mujoco.MjSpec:
        spec = super().build()
        add_contact_forces(spec)
        return spec

    def velocity(self, readings: Readings, next_readings: Readings) -> Tensor:
        """(..., 2) m/s of the torso in the plane, the mean over the decision."""
        return (next_readings["torso_pos"][..., :2] - readings["torso_pos"][..., :2]) / self.decision_dt


class AntDir(Ant):
    """Any direction, height within [0.2, 1] m, any number of tasks."""

    name = "ant_dir"
    params: ClassVar[tuple[Param, ...]] = (Param("angle", "rad", "walks towards {:.2f} rad", nominal=0.0, train=(0.0, 2 * math.pi)),)
    episodes_per_trial = 3
    observed = {"qpos": 13, "qvel": 14}
    reward_range = (-40.0, 40.0)
    lowest: ClassVar[float] = 0.2  # m, height at which the episode ends

    def goals(self, values: Values, rng: torch.Generator) -> Readings:
        return {"direction": torch.stack([values["angle"].cos(), values["angle"].sin()], -1)}

    def observation(self, readings: Readings) -> Tensor:
        return torch.cat([readings["qpos"][..., 2:], readings["qvel"]], -1)

    def reward(self, readings: Readings, action: Tensor, next_readings: Readings) -> Tensor:
        forward = (self.velocity(readings, next_readings) * readings["direction"]).sum(-1)
        return forward + 1.0 - 0.5 * squared(action) - contact_cost(next_readings)

    def terminated(self, readings: Readings) -> Tensor:
        height = readings["qpos"][..., 2]
        return (height < self.lowest) | (height > 1.0)

    def success(self, readings: Readings) -> Tensor:
        return (readings["qvel"][..., :2] * readings["direction"]).sum(-1) > 0.5


class AntDirPearl(AntDir):
    """PEARL's (Rakelly et al. 2019; `ant_dir.py` of its code and its configuration): two directions in all, the same to train and to test.

    They were drawn anew in each run: these are the first of ours.
    """

    name = "ant_dir_pearl"
    published = dict.fromkeys(("train", "iid"), as_many("ant_dir_pearl", AntDir.params, 2, 0)["train"])


class AntDirForwardBackward(AntDir):
    """Along x or against it, as PEARL's code can, too, and its paper shows."""

    name = "ant_dir_forward_backward"
    params = (Param("direction", "", "walks {}", nominal="forward", choices=("backward", "forward")),)

    def goals(self, values: Values, rng: torch.Generator) -> Readings:
        forward = 2.0 * values["direction"] - 1.0
        return {"direction": torch.stack([forward, torch.zeros_like(forward)], -1)}


class AntDirPromp(AntDirForwardBackward):
    """ProMP's (Rothfuss et al. 2019): along x or against it, height within [0, 1] m, contact forces in the observation (111 numbers)."""

    name = "ant_dir_promp"
    episodes_per_trial = 2
    observed = {"qpos": 13, "qvel": 14, "cfrc_ext": CONTACT_FORCES}
    lowest = 0.0

    def observation(self, readings: Readings) -> Tensor:
        return torch.cat([super().observation(readings), readings["cfrc_ext"].clamp(-1.0, 1.0)], -1)


class AntDirVaribad(AntDirForwardBackward):
    """VariBAD's `AntDir-v0` (Zintgraf et al. 2020): its directions +1 and -1 are taken for radians, so that they lie 57 degrees beside x."""

    name = "ant_dir_varibad"
    params = (Param("direction", "rad", "walks towards {} rad", nominal="+1", choices=("-1", "+1")),)
    episodes_per_trial = 2

    def goals(self, values: Values, rng: torch.Generator) -> Readings:
        angle = 2.0 * values["direction"] - 1.0
        return {"direction": torch.stack([angle.cos(), angle.sin()], -1)}
