"""Bodies whose masses, inertias, damping and friction differ: what `walker_rand_params` and `hopper_rand_params` share.

As in `rand_param_envs`, which PEARL (Rakelly et al. 2019), ProMP (Rothfuss et al. 2019) and VariBAD (Zintgraf et al. 2020) train on: every mass,
inertia and friction is multiplied by its own 1.5^U(-3, 3), every damping by its own 1.3^U(-3, 3); four steps of 0.004 s a decision, where Gym's
hopper and walker have steps of 0.002 s (its base class forgets the 5 a decision that the walker asks for), 200 decisions; the reward is the
velocity + 1 - 0.001 times the squared actions.
Of its numbers those are left out that nothing depends on: the mass of the world, inertias about axes in the body's plane, damping that is
0 anyway, and friction of shapes that touch nothing before the episode is done, about the normal, and of rolling.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor

from metarl.tasks.locomotion import Locomotion, squared, uniform
from metarl.tasks.parameters import Param
from metarl.tasks.task import Readings

if TYPE_CHECKING:
    import mujoco.batch

LOG_SCALE = 3.0
_Y = 1  # of each body's inertias the one about the axis that it can turn about


def scales(kind: str, of: tuple[str, ...], base: float = 1.5) -> tuple[Param, ...]:
    """One factor base^U(-3, 3) for each of them; up to a quarter more of the exponent is near, up to twice as much is far."""
    near, far = LOG_SCALE * 1.25, LOG_SCALE * 2.0
    return tuple(
        Param(
            f"{kind}_{name}", "", f"{kind} of {name.replace('_', ' ')} x {{:.2f}}", nominal=1.0, scale="log", train=(base**-LOG_SCALE, base**LOG_SCALE),
            ood_near=((base**-near, base**-LOG_SCALE), (base**LOG_SCALE, base**near)), ood_far=((base**-far, base**-near), (base**near, base**far)),
        )
        for name in of
    )  # fmt: skip


def parameters(bodies: tuple[str, ...], joints: tuple[str, ...], geoms: tuple[str, ...], densities: bool) -> tuple[Param, ...]:
    """Of bodies that keep their shape: masses and inertias each by itself, or, as no real body does otherwise, by one density."""
    masses = scales("density", bodies) if densities else (*scales("mass", bodies), *scales("inertia", bodies))
    return (*masses, *scales("damping", joints, 1.3), *scales("friction", geoms))


class RandParams(Locomotion):
    """Run as fast as you can without falling."""

    version = 2  # 1 had the steps of Gym's own hopper and walker, half as long
    start_noise = (uniform(0.005), uniform(0.005))
    physics_dt = 0.004
    decision_dt = 0.016
    horizon = 200
    episodes_per_trial = 2
    reward_range = (-60.0, 60.0)
    velocity_limit: ClassVar[float] = 10.0  # of what is observed

    def apply(self, batch: mujoco.batch.Batch, values: Mapping[str, Any]) -> None:
        model = batch.model
        mass, inertia = batch.expand("body_mass"), batch.expand("body_inertia")
        damping, friction = batch.expand("dof_damping"), batch.expand("geom_friction")
        for name, factor in values.items():
            kind, _, of = name.partition("_")
            if kind in ("mass", "density"):
                mass[:, model.body(of).id] = model.body(of).mass * factor
            if kind == "density":
                inertia[:, model.body(of).id] = model.body(of).inertia * factor[:, None]
            elif kind == "inertia":
                inertia[:, model.body(of).id, _Y] = model.body(of).inertia[_Y] * factor
            elif kind == "damping":
                dof = model.joint(of).dofadr[0]
                damping[:, dof] = model.dof_damping[dof] * factor.reshape(-1, *[1] * (model.dof_damping.ndim - 1))
            elif kind == "friction":
                friction[:, model.geom(of).id, 0] = model.geom(of).friction[0] * factor

    def observation(self, readings: Readings) -> Tensor:
        return torch.cat([readings["qpos"][..., 1:], readings["qvel"].clamp(-self.velocity_limit, self.velocity_limit)], -1)

    def reward(self, readings: Readings, action: Tensor, next_readings: Readings) -> Tensor:
        velocity = (next_readings["qpos"][..., 0] - readings["qpos"][..., 0]) / self.decision_dt
        return velocity + 1.0 - 0.001 * squared(action)

    def success(self, readings: Readings) -> Tensor:
        return readings["qvel"][..., 0] > 1.0
