"""Motors that push a floating body itself and not a joint: rotors, and the rate loops of a flight controller. Bullet has no such motors."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import mujoco
import numpy as np
from numpy.typing import NDArray

from metarl.tasks.simulators.urdf import Array, rotation

ENDLESS = np.array([-np.inf, np.inf])


@dataclass(frozen=True)
class Thrusters:
    """A motors on one frame of a floating body.

    Attributes:
        body: name of the body.
        place: (7,) pose of the frame in the body's.
        com, inertia: (3,) and (3, 3) of the body, in its own frame; the inertia about the centre of mass.
        ctrl: (A,) where a motor's command lies among the model's.
        gear: (A, 6) force and torque in the frame = gear * cut(gain * lagged command + bias · (1, 0, velocity along gear)).
        gain, bias: (A,), (A, 3).
        lag: (A,) s, time constant with which a motor follows its command; 0: at once.
        ctrl_range, force_range: (A, 2), infinite where there is none.
    """

    body: str
    place: Array
    com: Array
    inertia: Array
    ctrl: Array
    gear: Array
    gain: Array
    bias: Array
    lag: Array
    ctrl_range: Array
    force_range: Array


def read_thrusters(model: mujoco.MjModel) -> tuple[Thrusters, ...]:
    """All of the model's motors on sites.

    Raises:
        ValueError: one of them can do what this module cannot, or drives a body that does not float freely.
    """
    on_sites = np.flatnonzero(model.actuator_trntype == mujoco.mjtTrn.mjTRN_SITE)
    for actuator in on_sites:
        if not _is_lagged_linear(model, int(actuator)):
            raise ValueError(f"actuator {model.actuator(int(actuator)).name!r} is not a linear motor with a lag on a site: it has no twin in PyBullet")
    return tuple(_read(model, int(site), on_sites[model.actuator_trnid[on_sites, 0] == site]) for site in np.unique(model.actuator_trnid[on_sites, 0]))


def _is_lagged_linear(model: mujoco.MjModel, actuator: int) -> bool:
    dynamics = mujoco.mjtDyn(model.actuator_dyntype[actuator])
    kinds = (
        model.actuator_trnid[actuator, 1] < 0,
        dynamics in (mujoco.mjtDyn.mjDYN_NONE, mujoco.mjtDyn.mjDYN_FILTEREXACT),
        model.actuator_gaintype[actuator] == mujoco.mjtGain.mjGAIN_FIXED,
        model.actuator_biastype[actuator] <= mujoco.mjtBias.mjBIAS_AFFINE.value,
        model.actuator_ctrlnum[actuator] == 1,
    )
    more = (model.actuator_damping, model.actuator_armature, model.actuator_delay, model.actuator_actlimited, model.actuator_actearly)
    return all(kinds) and not any(field[actuator] for field in more)


def _read(model: mujoco.MjModel, site: int, motors: NDArray[np.int_]) -> Thrusters:
    body = int(model.site_bodyid[site])
    joint = int(model.body_jntadr[body])
    if model.body_jntnum[body] != 1 or model.jnt_type[joint] != mujoco.mjtJoint.mjJNT_FREE:
        raise ValueError(f"motors push body {model.body(body).name!r}, which does not float by a free joint: that has no twin in PyBullet")
    turned = rotation(model.body_iquat[body])
    affine = (model.actuator_biastype[motors] == mujoco.mjtBias.mjBIAS_AFFINE)[:, None]
    lagged = model.actuator_dyntype[motors] != mujoco.mjtDyn.mjDYN_NONE
    return Thrusters(
        body=model.body(body).name,
        place=np.concatenate([model.site_pos[site], model.site_quat[site]]),
        com=model.body_ipos[body].copy(),
        inertia=turned @ np.diag(model.body_inertia[body]) @ turned.T,
        ctrl=model.actuator_ctrladr[motors],
        gear=model.actuator_gear[motors],
        gain=model.actuator_gainprm[motors, 0],
        bias=np.where(affine, model.actuator_biasprm[motors, :3], 0.0),
        lag=np.where(lagged, model.actuator_dynprm[motors, 0], 0.0),
        ctrl_range=np.where(model.actuator_ctrllimited[motors, None] != 0, model.actuator_ctrlrange[motors], ENDLESS),
        force_range=np.where(model.actuator_forcelimited[motors, None] != 0, model.actuator_forcerange[motors], ENDLESS),
    )


class ThrusterForces:
    """What the thrusters of n worlds do to one floating body. What they follow of their commands is kept here."""

    def __init__(self, thrusters: Sequence[Thrusters], timestep: float) -> None:
        self.body = thrusters[0].body
        self._ctrl, self._dt = thrusters[0].ctrl, timestep
        self._tables = {name: np.stack([getattr(t, name) for t in thrusters]) for name in ("place", "com", "inertia")}
        self._tables["turn"] = np.stack([rotation(t.place[3:]) for t in thrusters])
        self.tune(thrusters)
        self._followed = np.zeros(self._tables["gain"].shape)

    def tune(self, thrusters: Sequence[Thrusters]) -> None:
        """Take over what motors do, of the same body; they go on from what they follow."""
        self._tables |= {name: np.stack([getattr(t, name) for t in thrusters]) for name in ("gear", "gain", "bias", "lag", "ctrl_range", "force_range")}

    def reset(self, ctrl: Array) -> None:
        """The motors have long followed the commands (n, C)."""
        self._followed = ctrl[:, self._ctrl].clip(*np.moveaxis(self._tables["ctrl_range"], -1, 0))

    def compute(self, chosen: NDArray[np.int_], turned: Array, linvel: Array, angvel: Array, ctrl: Array, others: Array) -> Array:
        """Wrenches (m, 6) at the centre of mass for one step, in m chosen worlds; all vectors in the world's frame.

        Args:
            chosen: numbers of the worlds.
            turned: (m, 3, 3) rotation matrices of the body.
            linvel: (m, 3) of its centre of mass, m/s.
            angvel: (m, 3) rad/s.
            ctrl: (m, C) commands of the actuators.
            others: (m, 6) what else pushes the body.
        """
        of = {name: table[chosen] for name, table in self._tables.items()}
        command = ctrl[:, self._ctrl].clip(*np.moveaxis(of["ctrl_range"], -1, 0))
        followed = np.where(of["lag"] > 0, self._followed[chosen], command)
        self._followed[chosen] = followed + (1 - np.exp(-self._dt / np.maximum(of["lag"], 1e-9))) * (command - followed)

        inward = turned.swapaxes(-1, -2)  # world to body
        lever, to_body, to_frame = of["place"][:, :3] - of["com"], of["turn"], of["turn"].swapaxes(-1, -2)
        spin, speed = _times(inward, angvel), _times(inward, linvel)
        velocity = np.concatenate([_times(to_frame, speed + np.cross(spin, lever)), _times(to_frame, spin)], -1)
        along = np.einsum("mai,mi->ma", of["gear"], velocity)
        wanted = of["gain"] * followed + of["bias"][..., 0] + of["bias"][..., 2] * along
        low, high = np.moveaxis(of["force_range"], -1, 0)
        pushed = np.einsum("ma,mai->mi", wanted.clip(low, high), of["gear"])
        force = _times(to_body, pushed[:, :3]) + _times(inward, others[:, :3])
        torque = _times(to_body, pushed[:, 3:]) + np.cross(lever, _times(to_body, pushed[:, :3])) + _times(inward, others[:, 3:])

        damping = np.where((wanted <= low) | (wanted >= high), 0.0, -of["bias"][..., 2])  # a motor at its limit damps nothing
        turning = of["gear"][..., 3:] @ of["turn"].swapaxes(-1, -2)  # (m, A, 3) axes in the body's frame
        heavier = of["inertia"] + self._dt * np.einsum("ma,mai,maj->mij", damping, turning, turning)
        torque = _times(of["inertia"], np.linalg.solve(heavier, torque[..., None])[..., 0])  # implicit in the rates, as MuJoCo steps
        return np.concatenate([_times(turned, force), _times(turned, torque)], -1)


def _times(matrices: Array, vectors: Array) -> Array:
    product: Array = (matrices @ vectors[..., None])[..., 0]
    return product
