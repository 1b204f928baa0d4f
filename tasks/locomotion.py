"""What the locomotion benchmarks of meta-RL have in common: Gymnasium's bodies, driven as OpenAI's Gym drove them.

The models come out of the installed gymnasium package and keep its solver settings. Against the published results, of MuJoCo 1.31 to 2.0,
three things are different: today's RK4 integrates free joints (ant, humanoid) otherwise; body positions, which the published codes
read one step of physics late, belong to the new state here; and contact forces, which mujoco-py 2.0 and later left at zero, are those
of the last step of physics, so that contact costs count as the codes say.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

import torch
from torch import Tensor

from metarl.robots.spec import Controls
from metarl.tasks.parameters import Param, sample
from metarl.tasks.task import Readings, Task, Values

if TYPE_CHECKING:
    import mujoco

Noise = Callable[[int, int, torch.Generator], Tensor]
CONTACT_FORCES = 84  # six for each of the 14 bodies of the ant and of the humanoid, the world included


class Locomotion(Task):
    """A body of Gymnasium's: its file, how its start is disturbed, and what its motors get."""

    model_file: ClassVar[str]
    simulators = ("mujoco",)
    data_fields: ClassVar[tuple[str, ...]] = ("qpos", "qvel")
    ctrl_scale: ClassVar[float] = 1.0  # of an action's effect: the motors' range, which the published codes scale actions to
    start_noise: ClassVar[tuple[Noise, Noise]]  # of positions and of velocities

    def build(self) -> mujoco.MjSpec:
        import mujoco

        spec = gymnasium_model(self.model_file)
        spec.modelname = self.name
        kind, body = mujoco.mjtSensor, mujoco.mjtObj
        spec.add_sensor(name="torso_pos", type=kind.mjSENS_FRAMEPOS, objtype=body.mjOBJ_XBODY, objname="torso")
        return spec

    def solver(self, option: mujoco.MjOption) -> None:
        """That of the model's file."""

    def start(self, values: Values, rng: torch.Generator) -> Readings:
        (qpos, num_dofs), num = _rest(self.model_file), len(next(iter(values.values())))
        of_qpos, of_qvel = self.start_noise
        return {"qpos": qpos + of_qpos(num, len(qpos), rng), "qvel": of_qvel(num, num_dofs, rng)}

    def command(self, action: Tensor, readings: Readings) -> Controls:
        return Controls(self.ctrl_scale * action)


def uniform(size: float) -> Noise:
    """Uniform on [-size, size]."""
    return lambda num, width, rng: size * (2 * torch.rand(num, width, generator=rng) - 1)


def normal(deviation: float) -> Noise:
    """Normal with that standard deviation."""
    return lambda num, width, rng: deviation * torch.randn(num, width, generator=rng)


def gymnasium_model(file: str) -> mujoco.MjSpec:
    """A model out of the gymnasium package."""
    import gymnasium.envs.mujoco
    import mujoco

    path = Path(gymnasium.envs.mujoco.__file__).parent / "assets" / file
    spec = mujoco.MjSpec.from_file(str(path))
    scale_to_total_mass(spec)
    return spec


def scale_to_total_mass(spec: mujoco.MjSpec) -> None:
    """Scale densities to the total mass that the file asks for, as the cheetahs' do: MuJoCo warns that it will no longer do so itself."""
    total, spec.compiler.settotalmass = spec.compiler.settotalmass, -1.0
    if total > 0:
        factor = total / sum(spec.copy().compile().body_mass)
        for geom in spec.geoms:
            geom.density *= factor


@functools.cache
def _rest(file: str) -> tuple[Tensor, int]:
    """The model's own pose (nq,), and how many velocities it has."""
    model = gymnasium_model(file).compile()
    return torch.as_tensor(model.qpos0, dtype=torch.float32), model.nv


def add_contact_forces(spec: mujoco.MjSpec) -> None:
    """Let MuJoCo compute `cfrc_ext`, which it does where somebody measures an acceleration."""
    import mujoco

    spec.add_sensor(name="torso_acc", type=mujoco.mjtSensor.mjSENS_FRAMELINACC, objtype=mujoco.mjtObj.mjOBJ_XBODY, objname="torso")


def squared(action: Tensor) -> Tensor:
    """(...) sum of the squares of (..., A)."""
    return action.square().sum(-1)


def contact_cost(readings: Readings) -> Tensor:
    """(...) 0.0005 times the sum of the squared contact forces, each cut to [-1, 1]."""
    return 0.0005 * squared(readings["cfrc_ext"].clamp(-1.0, 1.0))


def as_many(task: str, params: tuple[Param, ...], train: int, test: int) -> dict[str, tuple[tuple[float, ...], ...]]:
    """As many tasks to train and to test as a publication had; which ones it was, its code does not say: these are the first of ours."""
    sets = {split: sample(task, 1, params, range(number), split, seed=0) for split, number in (("train", train), ("iid", test))}
    return {split: tuple(tuple(row) for row in tasks.values.tolist()) for split, tasks in sets.items()}
