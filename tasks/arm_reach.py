"""arm_reach: bring the tool to a point in space, 50 times a second, with a camera that lies and a hand that carries an unknown load.

Hidden in each task: payload, actuator gain, joint damping, delay of the commands, and the error of the hand-eye calibration. Joint
encoders close the loop on the first four; the last leaves an error that only the reward tells of, so that memory pays.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from metarl.robots.kinematics import jacobian
from metarl.robots.spec import JointTrajectory, constant
from metarl.tasks.parameters import Param
from metarl.tasks.sensing import hand_eye, undo_hand_eye
from metarl.tasks.task import Readings, Task, Values

if TYPE_CHECKING:
    import mujoco
    import mujoco.batch

TARGET_LOW, TARGET_HIGH = (0.30, -0.30, 0.15), (0.60, 0.30, 0.50)  # m, inside the reach of both arms with the hand pointing anywhere
CENTRE = (0.45, 0.0, 0.325)
PAYLOAD_RADIUS = 0.03  # m
SPEED = 0.5  # full action moves the joint command at this part of the joint's velocity limit
NEAR, CORRECTION = 0.06, 0.1  # m from where the expert steers by what the encoders say; part of that error it takes back in a decision


def _shift(axis: str) -> Param:
    near, far = ((-0.075, -0.06), (0.06, 0.075)), ((-0.11, -0.075), (0.075, 0.11))
    return Param(f"camera_{axis}", "m", f"{axis} by {{:+.3f}} m", nominal=0.0, train=(-0.06, 0.06), ood_near=near, ood_far=far)


class ArmReach(Task):
    """Reward per step: (1 - tanh 3d) / 2 + (1 - tanh 20d) / 2, d the true distance in m: far away there is a slope, near there is precision.

    Worth knowing is the camera's error. Payload, gain, damping and delay an expert corrects by the encoders, without knowing them: nuisances, which
    stay so that what was learnt holds for other motors and loads.
    """

    name = "arm_reach"
    robot_name = "arm7"
    # payload up to a third of the 3 kg that the arm is rated for; gains and delays as in sim-to-real work on arms (0.8-1.2, up to two
    # control ticks); damping by a factor of two; camera errors of a calibration gone stale: 6 cm and 0.15 rad
    params = (
        Param("payload", "kg", "carries {:.2f} kg", nominal=0.0, train=(0.0, 1.0), ood_near=((1.0, 1.25),), ood_far=((1.25, 2.0),)),
        Param("actuator_gain", "", "motors at {:.2f} of their gain", nominal=1.0, train=(0.8, 1.2), ood_near=((0.75, 0.8), (1.2, 1.3)), ood_far=((0.6, 0.75), (1.3, 1.5))),
        Param("damping", "", "{:.2f} times the joint damping", nominal=1.0, train=(0.5, 2.0), scale="log", ood_near=((2.0, 2.5),), ood_far=((2.5, 3.5),)),
        Param("delay", "s", "commands {:.3f} s late", nominal=0.0, train=(0.0, 0.04), ood_near=((0.04, 0.05),), ood_far=((0.05, 0.08),)),
        Param("camera_yaw", "rad", "a camera turned by {:+.3f} rad", nominal=0.0, train=(-0.15, 0.15), ood_near=((-0.19, -0.15), (0.15, 0.19)), ood_far=((-0.3, -0.19), (0.19, 0.3))),
        _shift("x"), _shift("y"), _shift("z"),
    )  # fmt: skip
    horizon = 100
    episodes_per_trial = 3
    decision_dt = 0.02
    observed = {"qpos": 7, "qvel": 7, "tool_pos": 3, "target_pos": 3, "target_from_tool": 3, "last_action": 7}
    action_names = tuple(
        f"{j}_velocity" for j in ("panda_joint1", "panda_joint2", "panda_joint3", "panda_joint4", "panda_joint5", "panda_joint6", "panda_joint7")
    )
    reward_range = (0.0, 1.0)
    goal_box = TARGET_LOW, TARGET_HIGH

    def build(self) -> mujoco.MjSpec:
        import mujoco

        spec = self.arm.build()
        tool = spec.site("tool")
        payload = tool.parent.add_body(name="payload", pos=tool.pos)
        payload.add_geom(name="payload", size=[PAYLOAD_RADIUS, 0, 0], contype=0, conaffinity=0, mass=1e-6, rgba=[0.8, 0.5, 0.2, 1])
        target = spec.worldbody.add_body(name="target", mocap=True, pos=CENTRE)
        target.add_geom(size=[0.02, 0, 0], contype=0, conaffinity=0, rgba=[0.1, 0.7, 0.2, 0.6])
        spec.worldbody.add_geom(name="floor", type=mujoco.mjtGeom.mjGEOM_PLANE, size=[2, 2, 0.1], contype=0, conaffinity=0, rgba=[0.85, 0.85, 0.85, 1])
        spec.worldbody.add_light(pos=[0.5, 0, 2.5])
        spec.worldbody.add_camera(name="side", pos=[1.6, -1.1, 0.9], xyaxes=[0.57, 0.82, 0, -0.3, 0.2, 0.93])
        return spec

    def apply(self, batch: mujoco.batch.Batch, values: Mapping[str, Any]) -> None:
        model = batch.model
        mass = values["payload"] + 1e-6
        batch.body("payload").mass = mass[:, None]
        batch.body("payload").inertia = (0.4 * PAYLOAD_RADIUS**2 * mass)[:, None].repeat(3, 1)
        gain = values["actuator_gain"][:, None, None]
        batch.expand("actuator_gainprm")[:] = model.actuator_gainprm * gain
        batch.expand("actuator_biasprm")[:] = model.actuator_biasprm * gain
        damping = values["damping"].reshape(-1, *[1] * model.dof_damping.ndim)
        batch.expand("dof_damping")[:] = model.dof_damping * damping

    def start(self, values: Values, rng: torch.Generator) -> Readings:
        num = len(values["payload"])
        noise = 0.05 * (2 * torch.rand(num, self.arm.num_joints, generator=rng) - 1)
        return {"qpos": torch.tensor(self.arm.home_qpos) + noise}

    def goals(self, values: Values, rng: torch.Generator) -> Readings:
        low, high = torch.tensor(TARGET_LOW), torch.tensor(TARGET_HIGH)
        return {"target_pos": low + (high - low) * torch.rand(len(values["payload"]), 3, generator=rng)}

    def sense(self, readings: Readings, values: Values) -> Readings:
        shift = torch.stack([values["camera_x"], values["camera_y"], values["camera_z"]], -1)
        return {**readings, "target_pos": hand_eye(readings["target_pos"], values["camera_yaw"], shift, CENTRE)}

    def command_delay(self, values: Values) -> Tensor:
        return values["delay"]

    def observation(self, readings: Readings) -> Tensor:
        tool, target = readings["tool_pos"], readings["target_pos"]
        return torch.cat([readings["qpos"], readings["qvel"], tool, target, target - tool, readings["last_action"]], -1)

    def command(self, action: Tensor, readings: Readings) -> JointTrajectory:
        low, high = self.arm.qpos_range(action)
        qpos = (readings["command_qpos"] + action * self._full_step(action)).clamp(low, high)
        return JointTrajectory(qpos.unsqueeze(-2), torch.zeros_like(qpos).unsqueeze(-2), self.decision_dt)

    def action_of(self, executed: Tensor, readings: Readings) -> Tensor:
        return (executed - readings["command_qpos"]) / self._full_step(executed)

    def _full_step(self, like: Tensor) -> Tensor:
        """(J,) rad, what an action of 1 adds to the joint command."""
        return constant(self.arm.qvel_limits, like.dtype, like.device) * (SPEED * self.decision_dt)

    def reward(self, readings: Readings, action: Tensor, next_readings: Readings) -> Tensor:
        distance = self.error(next_readings)
        return 1.0 - 0.5 * (torch.tanh(3.0 * distance) + torch.tanh(20.0 * distance))

    def success(self, readings: Readings) -> Tensor:
        return self.error(readings) < 0.02

    def error(self, readings: Readings) -> Tensor:
        return (readings["tool_pos"] - readings["target_pos"]).norm(dim=-1)

    def expert(self, readings: Readings, told: Values) -> Tensor:
        """(N, J) actions straight to where the target is, the camera's error undone; near it what the load pulls down is taken back."""
        shift = torch.stack([told["camera_x"], told["camera_y"], told["camera_z"]], -1)
        target = undo_hand_eye(readings["target_pos"], told["camera_yaw"], shift, CENTRE)
        tool, jac = jacobian(self.arm, readings["command_qpos"])
        way = target - tool[..., :3, 3]
        way = torch.where(way.norm(dim=-1, keepdim=True) < NEAR, CORRECTION * (target - readings["tool_pos"]), way)
        limits = constant(self.arm.qvel_limits, way.dtype, way.device)
        jac = jac[..., :3, :] * limits  # fast joints do most
        solved = torch.linalg.solve(jac @ jac.transpose(-1, -2) + 1e-3 * torch.eye(3), way.unsqueeze(-1))
        action = (jac.transpose(-1, -2) @ solved).squeeze(-1) / (SPEED * self.decision_dt)
        return action / action.abs().amax(-1, keepdim=True).clamp(min=1.0)


class ArmReachJaco(ArmReach):
    """arm_reach with Kinova's Jaco: six joints instead of seven, a third as fast, and meshes in the pictures."""

    name = "arm_reach_jaco"
    robot_name = "jaco"
    horizon = 150
    observed = {"qpos": 6, "qvel": 6, "tool_pos": 3, "target_pos": 3, "target_from_tool": 3, "last_action": 6}
    action_names = tuple(f"joint_{number}_velocity" for number in range(1, 7))
