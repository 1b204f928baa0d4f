"""quadrotor_track: stay with a target that hovers or flies a figure of eight, in wind, 50 times a second.

Command: collective thrust and body rates. Hidden in each task: the wind and its gusts, the drag of the body, the payload, the efficiency of
each rotor, where the centre of mass is, and how late the motors are. Wind and load pull the quadrotor off by an amount that feedback
without memory cannot remove: it must learn how hard it is pulled, which takes it less than a second.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from metarl.robots import quadrotor
from metarl.robots.kinematics import rotation_from_wxyz, yaw_of
from metarl.robots.spec import Controls
from metarl.tasks import wind
from metarl.tasks.parameters import Param
from metarl.tasks.task import Readings, Task, Values

if TYPE_CHECKING:
    import mujoco
    import mujoco.batch

START = 0.3  # m, farthest start from the target, on each axis
LOST = 3.0  # m from the target: the episode is over
ALTITUDE = 2.0  # m, of the middle of the figure of eight
PAYLOAD_BELOW = 0.04  # m, the load hangs this far under the middle
GUST_TIME = 1.5  # s, time constant of a gust
TURBULENCE = 0.25  # deviation of a gust over the mean wind; sim-to-real work on quadrotors takes 0.2 to 0.4
GRAVITY = 9.81  # m/s²
HASTE = 0.7  # m/s, of the expert towards a target that is far off
SPREAD = 0.7  # of the angles between the expert's poles: 0 puts all in one place, 1 is Butterworth's filter, which swings over by more


def _efficiency(number: int, place: str) -> Param:
    return Param(
        f"rotor_{number}", "", f"{{:.2f}} {place}", nominal=1.0, train=(0.8, 1.05), ood_near=((0.75, 0.8),), ood_far=((0.65, 0.75),)
    )  # fmt: skip


def _centre(axis: str) -> Param:
    near, far = ((-0.0125, -0.01), (0.01, 0.0125)), ((-0.018, -0.0125), (0.0125, 0.018))
    return Param(f"com_{axis}", "m", f"centre of mass {axis} {{:+.4f}} m", nominal=0.0, train=(-0.01, 0.01), ood_near=near, ood_far=far)


class QuadrotorTrack(Task):
    """Reward per step: (1 - tanh d) / 3 + 2 (1 - tanh 20d) / 3, d the distance from the target in m; the episode ends where that is lost.

    Worth knowing are the wind's force, the payload and the rotors. The centre of mass costs an expert less, and the motors' lag next to nothing: nuisances.
    """

    name = "quadrotor_track"
    version = 2  # 1 paid half for being near and half for the last centimetres: too little to adapt for, headroom 0.18
    robot_name = "quadrotor"
    # Wind: Neural-Fly (O'Connell et al. 2022, arXiv 2205.06908) flies in up to 12.1 m/s. Drag areas of a bare frame to one with a box under it;
    # payload to a third of the weight; motor lags of small to middle-sized brushless motors: gusts are faster than what a slower one can do.
    params = (
        Param("wind_speed", "m/s", "wind of {:.1f} m/s", nominal=4.0, train=(0.0, 8.0), ood_near=((8.0, 10.0),), ood_far=((10.0, 12.1),)),
        Param("wind_angle", "rad", "towards {:+.2f} rad", nominal=0.0, train=(-3.1, 3.1)),
        Param("drag_area", "m2", "drag area {:.3f} m2", nominal=0.03, train=(0.02, 0.05), ood_near=((0.05, 0.06),), ood_far=((0.06, 0.08),)),
        Param("payload", "kg", "carries {:.2f} kg", nominal=0.0, train=(0.0, 0.25), ood_near=((0.25, 0.31),), ood_far=((0.31, 0.4),)),
        _efficiency(1, "of its thrust front left"), _efficiency(2, "rear left"), _efficiency(3, "rear right"), _efficiency(4, "front right"),
        Param("motor_lag", "s", "motors {:.3f} s late", nominal=0.04, train=(0.02, 0.06), scale="log", ood_near=((0.06, 0.075),), ood_far=((0.075, 0.1),)),
        _centre("x"), _centre("y"),
        Param("target_radius", "m", "the target flies a figure of eight of {:.2f} m", nominal=0.5, train=(0.0, 1.0), ood_near=((1.0, 1.25),), ood_far=((1.25, 1.6),), hidden=False),
        Param("target_rate", "rad/s", "at {:.2f} rad/s", nominal=1.0, train=(0.5, 1.5), ood_near=((1.5, 1.8),), ood_far=((1.8, 2.2),), hidden=False),
    )  # fmt: skip
    horizon = 150
    episodes_per_trial = 2
    decision_dt = 0.02
    observed = {"error": 3, "error_rate": 3, "linvel": 3, "attitude": 6, "body_rates": 3, "last_action": 4}
    action_names = quadrotor.MOTORS
    reward_range = (0.0, 1.0)

    def build(self) -> mujoco.MjSpec:
        import mujoco

        spec = self.robot.build()
        target = spec.worldbody.add_body(name="target", mocap=True, pos=[0, 0, ALTITUDE])
        target.add_geom(size=[0.04, 0, 0], contype=0, conaffinity=0, rgba=[0.1, 0.7, 0.2, 0.6])
        spec.worldbody.add_geom(name="floor", type=mujoco.mjtGeom.mjGEOM_PLANE, size=[4, 4, 0.1], contype=0, conaffinity=0, rgba=[0.85, 0.85, 0.85, 1])
        spec.worldbody.add_light(type=mujoco.mjtLightType.mjLIGHT_DIRECTIONAL, pos=[0, 0, 5], dir=[0.2, 0.3, -1], castshadow=False)
        spec.worldbody.add_camera(name="side", pos=[2.0, -2.0, 3.1], xyaxes=[0.707, 0.707, 0, -0.2546, 0.2546, 0.933])
        return spec

    def apply(self, batch: mujoco.batch.Batch, values: Mapping[str, Any]) -> None:
        load, bare = values["payload"], quadrotor.MASS
        mass = bare + load
        offset = np.stack([values["com_x"], values["com_y"], -load / mass * PAYLOAD_BELOW], -1)
        body = batch.body("quadrotor")
        body.mass, body.ipos = mass[:, None], offset
        lever = load * bare / mass * PAYLOAD_BELOW**2  # of load and frame about their common centre
        body.inertia = np.array(quadrotor.INERTIA) + lever[:, None] * np.array([1.0, 1.0, 0.0])
        # a weak rotor takes lift from its side: the thrust turns the frame as well, and a torque needs more of the rotors
        part = np.stack([values[f"rotor_{i + 1}"] for i in range(4)], -1)
        place = np.array(quadrotor.ROTORS)
        model = batch.model
        gear = batch.expand("actuator_gear")
        gear[:] = model.actuator_gear
        gear[:, 0, 2] = part.mean(1)
        gear[:, 0, 3], gear[:, 0, 4] = (part * place[:, 1]).mean(1), -(part * place[:, 0]).mean(1)
        batch.expand("actuator_dynprm")[:] = model.actuator_dynprm
        batch.expand("actuator_dynprm")[:, :, 0] = values["motor_lag"][:, None]

    def start(self, values: Values, rng: torch.Generator) -> Readings:
        num = len(values["payload"])
        pose = torch.zeros(num, 7)
        pose[:, :3] = START * (2 * torch.rand(num, 3, generator=rng) - 1)
        pose[:, 2] += ALTITUDE
        pose[:, 3] = 1.0
        ctrl = torch.tensor([quadrotor.HOVER, 0.0, 0.0, 0.0]).expand(num, 4)
        return {"quadrotor": pose, "ctrl": ctrl}

    def memory(self, values: Values, rng: torch.Generator) -> Readings:
        phase = torch.zeros(len(values["payload"]), 1)
        return {"gust": wind.first_gust(len(phase), rng), "phase": phase, **self._target(phase, values)}

    def remember(self, readings: Readings, action: Tensor, next_readings: Readings, values: Values, rng: torch.Generator) -> Readings:
        phase = readings["phase"] + self.decision_dt * values["target_rate"].unsqueeze(-1)
        return {"gust": wind.next_gust(readings["gust"], self.decision_dt, GUST_TIME, rng), "phase": phase, **self._target(phase, values)}

    def _target(self, phase: Tensor, values: Values) -> Readings:
        """A figure of eight (Gerono's lemniscate) in the horizontal plane, begun in its middle."""
        radius, rate = values["target_radius"].unsqueeze(-1), values["target_rate"].unsqueeze(-1)
        pos = torch.cat([radius * phase.sin(), 0.5 * radius * (2 * phase).sin(), torch.full_like(phase, ALTITUDE)], -1)
        vel = torch.cat([radius * rate * phase.cos(), radius * rate * (2 * phase).cos(), torch.zeros_like(phase)], -1)
        return {"target_pos": pos, "target_linvel": vel}

    def wind(self, readings: Readings, values: Values) -> Tensor:
        """(N, 3) m/s, gust included."""
        return wind.gusty(wind.mean_wind(values["wind_speed"], values["wind_angle"]), readings["gust"], TURBULENCE)

    def forces(self, readings: Readings, values: Values) -> Readings:
        force = wind.drag(self.wind(readings, values), readings["linvel"], values["drag_area"].unsqueeze(-1))
        return {"quadrotor": wind.as_wrench(force)}

    def observation(self, readings: Readings) -> Tensor:
        turned = rotation_from_wxyz(readings["quat"])
        rates = (turned.transpose(-1, -2) @ readings["angvel"].unsqueeze(-1)).squeeze(-1)
        error, error_rate = readings["target_pos"] - readings["pos"], readings["target_linvel"] - readings["linvel"]
        return torch.cat([error, error_rate, readings["linvel"], turned[..., 0], turned[..., 2], rates, readings["last_action"]], -1)

    def command(self, action: Tensor, readings: Readings) -> Controls:
        thrust = quadrotor.HOVER + action[..., :1] * (quadrotor.MAX_THRUST - quadrotor.HOVER)
        return Controls(torch.cat([thrust.clamp(min=0.0), action[..., 1:] * action.new_tensor(quadrotor.MAX_RATE)], -1))

    def action_of(self, executed: Tensor, readings: Readings) -> Tensor:
        thrust = (executed[..., :1] - quadrotor.HOVER) / (quadrotor.MAX_THRUST - quadrotor.HOVER)
        return torch.cat([thrust, executed[..., 1:] / executed.new_tensor(quadrotor.MAX_RATE)], -1)

    def reward(self, readings: Readings, action: Tensor, next_readings: Readings) -> Tensor:
        distance = self.error(next_readings)
        return 1.0 - (torch.tanh(distance) + 2.0 * torch.tanh(20.0 * distance)) / 3.0

    def terminated(self, readings: Readings) -> Tensor:
        return self.error(readings) > LOST

    def success(self, readings: Readings) -> Tensor:
        return self.error(readings) < 0.05

    def error(self, readings: Readings) -> Tensor:
        return (readings["pos"] - readings["target_pos"]).norm(dim=-1)

    # ---- one who knows how --------------------------------------------------------------------------------------------------

    def expert(self, readings: Readings, told: Values) -> Tensor:
        """(N, 4) actions: acceleration towards the target, the wind's force, gusts included, and the rotors' torque compensated."""
        # From its command the place follows through the motors' lag, the rate loop and three integrations, the height through the lag and two. With what
        # is measured fed back all poles can be put where they shall be, but that their sum is what lag and loop give.
        lag, loop = told["motor_lag"].unsqueeze(-1) + 0.5 * self.decision_dt, quadrotor.INERTIA[0] / quadrotor.RATE_GAIN[0]
        place, speed, tilt, spin, _ = _coefficients(1 / lag + 1 / loop, 5)
        rise, climb, _ = _coefficients(1 / lag, 3)
        attitude_gain, damping = tilt * lag * loop, spin * lag * loop - 1
        position_gain = torch.cat([place / tilt, place / tilt, rise * lag], -1)
        velocity_gain = torch.cat([speed / tilt, speed / tilt, climb * lag], -1)
        radius, rate = told["target_radius"].unsqueeze(-1), told["target_rate"].unsqueeze(-1)
        phase = readings["phase"] + rate * (1 + damping) / attitude_gain  # the tilt comes late: it is that for the target's path by then
        ahead = -(rate**2) * radius * torch.cat([phase.sin(), 2 * (2 * phase).sin(), 0 * phase], -1)
        error, error_rate = readings["target_pos"] - readings["pos"], readings["target_linvel"] - readings["linvel"]
        far = HASTE * velocity_gain / position_gain
        wanted = ahead + position_gain * error.clamp(-far, far) + velocity_gain * error_rate
        wanted[:, 2] += GRAVITY
        mass = quadrotor.MASS + told["payload"].unsqueeze(-1)
        force = mass * wanted - wind.drag(self.wind(readings, told), readings["linvel"], told["drag_area"].unsqueeze(-1))

        turned = rotation_from_wxyz(readings["quat"])
        inward = turned.transpose(-1, -2)
        lift = (inward @ force.unsqueeze(-1)).squeeze(-1)  # in the frame
        efficiency = torch.stack([told[f"rotor_{i + 1}"] for i in range(4)], -1)
        thrust = (lift[:, 2] / efficiency.mean(-1)).clamp(0.0, quadrotor.MAX_THRUST)
        upward = lift / lift.norm(dim=-1, keepdim=True)
        rotors = force.new_tensor(quadrotor.ROTORS)
        lever = torch.stack([(efficiency * rotors[:, axis]).mean(-1) - efficiency.mean(-1) * told[f"com_{'xy'[axis]}"] for axis in range(2)], -1)
        torque = thrust.unsqueeze(-1) * torch.stack([lever[:, 1], -lever[:, 0]], -1)
        gain = force.new_tensor(quadrotor.RATE_GAIN[:2])
        spinning = (inward @ readings["angvel"].unsqueeze(-1)).squeeze(-1)[:, :2]
        rates = attitude_gain * torch.stack([-upward[:, 1], upward[:, 0]], -1) - damping * spinning - torque / gain
        yaw_rate = -2.0 * yaw_of(turned)
        more = (thrust - quadrotor.HOVER) / (quadrotor.MAX_THRUST - quadrotor.HOVER)
        return torch.cat([more.unsqueeze(-1), torch.cat([rates, yaw_rate.unsqueeze(-1)], -1) / force.new_tensor(quadrotor.MAX_RATE)], -1).clamp(-1.0, 1.0)


def _coefficients(total: Tensor, order: int) -> list[Tensor]:
    """Of the polynomial s^order + c[order - 1] s^(order - 1) + ... + c[0], its roots on a circle to the left, SPREAD, adding up to -total (N, 1)."""
    angles = SPREAD * np.pi * (np.arange(order) - (order - 1) / 2) / order
    unit = np.poly(-np.exp(1j * angles)).real
    return [float(unit[order - power]) * (total / float(unit[1])) ** (order - power) for power in range(order)]
