"""Humanoid, direction: PEARL's (Rakelly et al. 2019; `humanoid_dir.py` of its code).

The reward is 0.25 times the way of the centre of mass in a hidden direction, divided by one step of physics (not by the decision's five), + 5
- 0.1 times the squared motor commands - the squared contact forces times 5e-7, at most 10; done when the torso leaves heights of 1 to 2 m,
200 decisions. See `locomotion` for what today's MuJoCo changes.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, ClassVar

import torch
from torch import Tensor

from metarl.tasks.locomotion import CONTACT_FORCES, Locomotion, add_contact_forces, as_many, squared, uniform
from metarl.tasks.parameters import Param
from metarl.tasks.task import Readings, Values

if TYPE_CHECKING:
    import mujoco


class HumanoidDir(Locomotion):
    """Any direction. The observation is OpenAI Gym's of 376 numbers, inertias and velocities of all bodies and all forces included."""

    name = "humanoid_dir"
    params: ClassVar[tuple[Param, ...]] = (Param("angle", "rad", "walks towards {:.2f} rad", nominal=0.0, train=(0.0, 2 * math.pi)),)
    model_file = "humanoid.xml"
    start_noise = (uniform(0.01), uniform(0.01))
    data_fields = ("qpos", "qvel", "cinert", "cvel", "qfrc_actuator", "cfrc_ext")
    ctrl_scale = 0.4
    physics_dt = 0.003
    decision_dt = 0.015
    horizon = 200
    episodes_per_trial = 3
    observed = {"qpos": 22, "qvel": 23, "cinert": 140, "cvel": 84, "qfrc_actuator": 23, "cfrc_ext": CONTACT_FORCES}
    action_names = (
        "abdomen_y", "abdomen_z", "abdomen_x", *(f"{side}_{joint}" for side in ("right", "left") for joint in ("hip_x", "hip_z", "hip_y", "knee")),
        *(f"{side}_{joint}" for side in ("right", "left") for joint in ("shoulder1", "shoulder2", "elbow")),
    )  # fmt: skip
    reward_range = (-60.0, 60.0)

    def build(self) -> mujoco.MjSpec:
        import mujoco

        spec = super().build()
        add_contact_forces(spec)
        for name, kind in (("com_pos", mujoco.mjtSensor.mjSENS_SUBTREECOM), ("com_linvel", mujoco.mjtSensor.mjSENS_SUBTREELINVEL)):
            spec.add_sensor(name=name, type=kind, objtype=mujoco.mjtObj.mjOBJ_BODY, objname="torso")
        return spec

    def goals(self, values: Values, rng: torch.Generator) -> Readings:
        return {"direction": torch.stack([values["angle"].cos(), values["angle"].sin()], -1)}

    def observation(self, readings: Readings) -> Tensor:
        return torch.cat([readings["qpos"][..., 2:], *(readings[name] for name in list(self.observed)[1:])], -1)

    def reward(self, readings: Readings, action: Tensor, next_readings: Readings) -> Tensor:
        way = ((next_readings["com_pos"] - readings["com_pos"])[..., :2] * readings["direction"]).sum(-1)
        impact = (5e-7 * squared(next_readings["cfrc_ext"])).clamp(max=10.0)
        return 0.25 * way / self.physics_dt + 5.0 - 0.1 * squared(self.ctrl_scale * action) - impact

    def terminated(self, readings: Readings) -> Tensor:
        height = readings["qpos"][..., 2]
        return (height < 1.0) | (height > 2.0)

    def success(self, readings: Readings) -> Tensor:
        return (readings["com_linvel"][..., :2] * readings["direction"]).sum(-1) > 0.5


class HumanoidDirPearl(HumanoidDir):
    """100 tasks to train and 30 to test, as in PEARL's configuration."""

    name = "humanoid_dir_pearl"
    published = as_many("humanoid_dir_pearl", HumanoidDir.params, 100, 30)
