"""The DeepMind Control Suite with hidden physics: masses, friction, damping, gravity and motors differ from one task to the next.

Bodies, time steps, starts, observations and rewards are those of dm_control's own tasks (Tassa et al. 2018), of which the models come out of
the installed package. Any of its domains can be had so: a class says which file, and its observation and reward as functions of readings.
"""

from __future__ import annotations

import importlib.util
import math
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor

from metarl.robots.spec import Controls
from metarl.tasks.locomotion import scale_to_total_mass
from metarl.tasks.parameters import Param
from metarl.tasks.rewards import tolerance
from metarl.tasks.task import Readings, Task, Values

if TYPE_CHECKING:
    import mujoco
    import mujoco.batch

EARTH = 9.81  # m/s²


def factor(name: str, what: str, most: float) -> Param:
    """A number that something is multiplied by: 1/most to most, up to a quarter more of the exponent is near, up to twice is far."""
    near, far = most**1.25, most**2
    return Param(
        name, "", f"{{:.2f}} times {what}", nominal=1.0, scale="log", train=(1 / most, most),
        ood_near=((1 / near, 1 / most), (most, near)), ood_far=((1 / far, 1 / near), (near, far)),
    )  # fmt: skip


MASS, FRICTION, DAMPING = factor("mass", "the mass", 1.5), factor("friction", "the friction", 2.0), factor("damping", "the damping", 2.0)
GAIN = factor("gain", "the strength of the motors", 1.5)
GRAVITY = Param(
    "gravity", "m/s²", "gravity {:.1f} m/s²", nominal=EARTH, train=(6.0, 14.0), ood_near=((5.0, 6.0), (14.0, 16.0)), ood_far=((3.7, 5.0), (16.0, 20.0)),
)  # fmt: skip


class SuiteTask(Task):
    """A domain of dm_control's in which any of the five parameters above may differ."""

    model_file: ClassVar[str]
    simulators = ("mujoco",)
    data_fields: ClassVar[tuple[str, ...]] = ("qpos", "qvel")
    horizon = 1000
    episodes_per_trial = 2
    reward_range = (0.0, 1.0)

    def build(self) -> mujoco.MjSpec:
        import mujoco

        package = importlib.util.find_spec("dm_control")
        if package is None or not package.submodule_search_locations:
            raise ImportError(f"{self.name} needs the models of dm_control: pip install 'metarl[sim]'")
        spec = mujoco.MjSpec.from_file(str(Path(package.submodule_search_locations[0]) / "suite" / self.model_file))
        scale_to_total_mass(spec)
        return spec

    def solver(self, option: mujoco.MjOption) -> None:
        """That of the model's file."""

    def apply(self, batch: mujoco.batch.Batch, values: Mapping[str, Any]) -> None:
        model = batch.model
        scaled = {
            "mass": ("body_mass", "body_inertia"), "friction": ("geom_friction",), "damping": ("dof_damping",), "gain": ("actuator_gainprm",),
        }  # fmt: skip
        for name, value in values.items():
            for field in scaled.get(name, ()):
                nominal = getattr(model, field)
                batch.expand(field)[:] = nominal * value.reshape(-1, *[1] * nominal.ndim)
        if "gravity" in values:
            batch.expand("opt.gravity")[:, 2] = -values["gravity"]

    def command(self, action: Tensor, readings: Readings) -> Controls:
        return Controls(action)


class DmSuiteCartpoleSwingup(SuiteTask):
    """Swing a pole up and balance it in the middle. The friction of the rail, 0.0005 N s/m in the suite, is a parameter of its own."""

    name = "dm_suite_cartpole_swingup"
    params: ClassVar[tuple[Param, ...]] = (
        factor("pole_mass", "the mass of the pole", 3.0), GRAVITY, GAIN,
        Param("rail", "N s/m", "{:.2f} N s/m of friction on the rail", nominal=0.0005, train=(0.0, 1.0), ood_near=((1.0, 1.25),), ood_far=((1.25, 2.0),)),
    )  # fmt: skip
    model_file = "cartpole.xml"
    data_fields = ("qpos", "qvel", "xmat")
    physics_dt = 0.01
    decision_dt = 0.01
    observed = {"position": 3, "velocity": 2}
    action_names = ("slide",)

    def apply(self, batch: mujoco.batch.Batch, values: Mapping[str, Any]) -> None:
        super().apply(batch, values)
        pole = batch.model.body("pole_1")
        batch.expand("body_mass")[:, pole.id] = pole.mass * values["pole_mass"]
        batch.expand("body_inertia")[:, pole.id] = pole.inertia * values["pole_mass"][:, None]
        slider = batch.model.joint("slider").dofadr[0]
        damping = batch.expand("dof_damping")
        damping[:, slider] = values["rail"].reshape(-1, *[1] * (damping.ndim - 2))

    def start(self, values: Values, rng: torch.Generator) -> Readings:
        num = len(values["gain"])
        return {"qpos": torch.tensor([0.0, math.pi]) + 0.01 * torch.randn(num, 2, generator=rng), "qvel": 0.01 * torch.randn(num, 2, generator=rng)}

    def observation(self, readings: Readings) -> Tensor:
        pole = _rotation(readings, 2)
        return torch.cat([readings["qpos"][..., :1], pole[..., 8:9], pole[..., 2:3], readings["qvel"]], -1)

    def reward(self, readings: Readings, action: Tensor, next_readings: Readings) -> Tensor:
        upright = (_rotation(next_readings, 2)[..., 8] + 1) / 2
        centred = (1 + tolerance(next_readings["qpos"][..., 0], margin=2.0)) / 2
        small_control = (4 + tolerance(action[..., 0], margin=1.0, at_margin=0.0, falloff="quadratic")) / 5
        small_velocity = (1 + tolerance(next_readings["qvel"][..., 1], margin=5.0)) / 2
        return upright * small_control * small_velocity * centred

    def success(self, readings: Readings) -> Tensor:
        """The suite's own sparse reward."""
        return (readings["qpos"][..., 0].abs() <= 0.25) & (_rotation(readings, 2)[..., 8] >= 0.995)


class DmSuiteWalkerWalk(SuiteTask):
    """Stand up and walk at 1 m/s or faster, from any pose."""

    name = "dm_suite_walker_walk"
    params: ClassVar[tuple[Param, ...]] = (MASS, FRICTION, DAMPING, GRAVITY, GAIN)
    model_file = "walker.xml"
    data_fields = ("qpos", "qvel", "xmat")
    physics_dt = 0.0025
    decision_dt = 0.025
    observed = {"orientations": 14, "height": 1, "velocity": 9}
    action_names = ("right_hip", "right_knee", "right_ankle", "left_hip", "left_knee", "left_ankle")
    stand_height, walk_speed = 1.2, 1.0  # m, m/s

    def build(self) -> mujoco.MjSpec:
        import mujoco

        spec = super().build()
        spec.add_sensor(name="torso_pos", type=mujoco.mjtSensor.mjSENS_FRAMEPOS, objtype=mujoco.mjtObj.mjOBJ_XBODY, objname="torso")
        return spec

    def start(self, values: Values, rng: torch.Generator) -> Readings:
        low, high = torch.deg2rad(torch.tensor([[-180.0, -20, -150, -45, -20, -150, -45], [180.0, 100, 0, 45, 100, 0, 45]]))
        angles = low + (high - low) * torch.rand(len(values["gain"]), 7, generator=rng)
        return {"qpos": torch.cat([torch.zeros(len(angles), 2), angles], -1)}  # height, place, and the angles of the torso and the joints

    def observation(self, readings: Readings) -> Tensor:
        turned = readings["xmat"].unflatten(-1, (-1, 9))[..., 1:, :][..., [0, 2]]  # how each body's x and z lie along the world's x
        return torch.cat([turned.flatten(-2), readings["torso_pos"][..., 2:], readings["qvel"]], -1)

    def reward(self, readings: Readings, action: Tensor, next_readings: Readings) -> Tensor:
        standing = tolerance(next_readings["torso_pos"][..., 2], self.stand_height, math.inf, margin=self.stand_height / 2)
        upright = (1 + _rotation(next_readings, 1)[..., 8]) / 2
        speed = next_readings["torso_subtreelinvel"][..., 0]
        moving = tolerance(speed, self.walk_speed, math.inf, margin=self.walk_speed / 2, at_margin=0.5, falloff="linear")
        return (3 * standing + upright) / 4 * (5 * moving + 1) / 6

    def success(self, readings: Readings) -> Tensor:
        return (readings["torso_pos"][..., 2] >= self.stand_height) & (readings["torso_subtreelinvel"][..., 0] >= self.walk_speed)


class DmSuiteCheetahRun(SuiteTask):
    """Run; 10 m/s and more are worth 1. The start, any pose, has 2 s to come to rest in, as in the suite."""

    name = "dm_suite_cheetah_run"
    params: ClassVar[tuple[Param, ...]] = (MASS, FRICTION, DAMPING, GRAVITY, GAIN)
    model_file = "cheetah.xml"
    physics_dt = 0.01
    decision_dt = 0.01
    warm_up = 2.0
    observed = {"position": 8, "velocity": 9}
    action_names = ("bthigh", "bshin", "bfoot", "fthigh", "fshin", "ffoot")
    run_speed = 10.0  # m/s

    def start(self, values: Values, rng: torch.Generator) -> Readings:
        low, high = torch.deg2rad(torch.tensor([[-30.0, -50, -230, -57, -70, -28], [60.0, 50, 50, 0.4, 50, 28]]))
        angles = low + (high - low) * torch.rand(len(values["gain"]), 6, generator=rng)
        return {"qpos": torch.cat([torch.zeros(len(angles), 3), angles], -1)}

    def observation(self, readings: Readings) -> Tensor:
        return torch.cat([readings["qpos"][..., 1:], readings["qvel"]], -1)

    def reward(self, readings: Readings, action: Tensor, next_readings: Readings) -> Tensor:
        speed = next_readings["torso_subtreelinvel"][..., 0]
        return tolerance(speed, self.run_speed, math.inf, margin=self.run_speed, at_margin=0.0, falloff="linear")

    def success(self, readings: Readings) -> Tensor:
        return readings["torso_subtreelinvel"][..., 0] >= self.run_speed / 2


def _rotation(readings: Readings, body: int) -> Tensor:
    """(..., 9) rotation matrix of a body, row by row."""
    return readings["xmat"][..., 9 * body : 9 * body + 9]
