"""The half cheetah as meta-RL uses it: the body of `half_cheetah_dir`, `half_cheetah_vel` and `half_cheetah_cripple`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from metarl.tasks.locomotion import Locomotion, normal, squared, uniform
from metarl.tasks.task import Readings

if TYPE_CHECKING:
    import mujoco


class HalfCheetah(Locomotion):
    """OpenAI Gym's: five steps of 0.01 s a decision, position of the torso's frame in the observation (20 numbers; the second is always 0)."""

    model_file = "half_cheetah.xml"
    start_noise = (uniform(0.1), normal(0.1))
    physics_dt = 0.01
    decision_dt = 0.05
    observed = {"qpos": 8, "qvel": 9, "torso_pos": 3}
    action_names = ("bthigh", "bshin", "bfoot", "fthigh", "fshin", "ffoot")
    error_unit = "m/s"

    def observation(self, readings: Readings) -> Tensor:
        return torch.cat([readings["qpos"][..., 1:], *(readings[name] for name in list(self.observed)[1:])], -1)

    def velocity(self, readings: Readings, next_readings: Readings) -> Tensor:
        """(...) m/s forwards, the mean over the decision."""
        return (next_readings["qpos"][..., 0] - readings["qpos"][..., 0]) / self.decision_dt

    def speed(self, readings: Readings) -> Tensor:
        """(...) m/s forwards, at this moment."""
        return readings["qvel"][..., 0]


class CheetahOfRllab(HalfCheetah):
    """Rllab's way: one step of 0.01 s a decision; centre of mass instead of the torso's position, and its velocity at the end of the decision."""

    start_noise = (normal(0.01), normal(0.1))
    decision_dt = 0.01
    observed = {"qpos": 8, "qvel": 9, "com_pos": 3}

    def build(self) -> mujoco.MjSpec:
        import mujoco

        spec = super().build()
        for name, kind in (("com_pos", mujoco.mjtSensor.mjSENS_SUBTREECOM), ("com_linvel", mujoco.mjtSensor.mjSENS_SUBTREELINVEL)):
            spec.add_sensor(name=name, type=kind, objtype=mujoco.mjtObj.mjOBJ_BODY, objname="torso")
        return spec

    def velocity(self, readings: Readings, next_readings: Readings) -> Tensor:
        return self.speed(next_readings)

    def speed(self, readings: Readings) -> Tensor:
        return readings["com_linvel"][..., 0]


def control_cost(action: Tensor) -> Tensor:
    """(...) 0.05 times the sum of the squared actions (..., A)."""
    return 0.05 * squared(action)
