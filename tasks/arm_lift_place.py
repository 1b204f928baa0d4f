"""arm_lift_place: grasp an unknown object with a force that holds it and does not crush it, lift it, carry it and put it down.

Two decisions an attempt, five attempts a trial at the same object: the first closes the fingers at a chosen place with a chosen force and
lifts, the second carries and puts down with a force chosen anew. Hidden in each task: the object's shape, size, weight, friction, centre
of mass, and how much squeeze it bears. A lost object cannot be caught and a crushed one not be mended: what was learnt in one attempt
(did it slip, tilt or break, how wide is it, how far does it pull the arm down) shows in the next.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from metarl.robots.kinematics import follow_line, tool_pose
from metarl.robots.spec import Controls, JointTrajectory
from metarl.tasks import grasp, shapes
from metarl.tasks.parameters import Param
from metarl.tasks.task import Readings, Task, Values

if TYPE_CHECKING:
    import mujoco
    import mujoco.batch

OBJECT, PLACE = (0.5, -0.08), (0.5, 0.08)  # m, where the object lies, and where it is to lie
READY, LIFT = 0.09, 0.08  # m, height of the tool before an attempt, and by how much it lifts
FORCES = (0.5, 40.0)  # N on each finger, on a log scale; the Franka hand grasps with up to 70 N
ALONG = 0.03  # m, farthest grasp to either side of the object's middle
MISS = 0.03  # m, an object nearer to its place is there
PATCH = 0.005  # m, radius of the patch in which soft rubber touches: torsional over sliding friction
GRAVITY = 9.81  # m/s²
_LOST = 0.06  # m under the tool an object is no longer between the fingers
_NEEDED = 1.4  # squeeze that is safe in lifting and carrying, as a multiple of what holds at rest
_OPEN = 0.0375  # m: farther from the middle than the side of any object, nearer than an open finger


class ArmLiftPlace(Task):
    """Reward: 0.5 for the lift (how high, how level: nothing at 30 degrees), 0.5 for the place (exp(-miss / 0.08 m)); nothing for a crushed object.

    Worth knowing are mass, friction and centre of mass. To take the object for another shape or width, or to bear another squeeze, costs an expert
    nothing, who squeezes between slipping and crushing: these are nuisances, which stay so that what was learnt holds for other objects.
    """

    name = "arm_lift_place"
    robot_name = "arm7"
    # Mass and size: household objects (YCB) that fit between the fingers. Friction: rubber ribs on anything from oiled metal to cardboard.
    # `bears`: the squeeze that crushes the object, as a multiple of what just holds it at rest, m g / (2 friction); below 1.3 no force
    # would do, because lifting needs a quarter more.
    params = (
        Param("shape", "", "the object is a {}", nominal="box", choices=("box", "cylinder", "capsule", *shapes.hull_names(range(6))), ood_near=shapes.hull_names(range(6, 12)), ood_far=("ellipsoid", "sphere")),
        Param("half_width", "m", "half as wide as {:.3f} m", nominal=0.025, train=(0.02, 0.03), ood_near=((0.018, 0.02), (0.03, 0.032)), ood_far=((0.032, 0.035),)),
        Param("mass", "kg", "weighs {:.2f} kg", nominal=0.2, train=(0.08, 0.6), scale="log", ood_near=((0.065, 0.08), (0.6, 0.75)), ood_far=((0.75, 1.0),)),
        Param("friction", "", "has friction {:.2f}", nominal=0.45, train=(0.25, 0.8), scale="log", ood_near=((0.22, 0.25), (0.8, 0.95)), ood_far=((0.95, 1.2),)),
        Param("com_along", "", "its centre of mass at {:+.2f} of its half length", nominal=0.0, train=(-0.5, 0.5), ood_near=((-0.6, -0.5), (0.5, 0.6)), ood_far=((-0.7, -0.6), (0.6, 0.7))),
        Param("bears", "", "bears {:.1f} times the squeeze that holds it", nominal=3.5, train=(2.0, 3.5), scale="log", ood_near=((1.8, 2.0), (3.5, 4.0)), ood_far=((1.6, 1.8),)),
    )  # fmt: skip
    horizon = 2
    episodes_per_trial = 5
    decision_dt = 1.2  # s
    observed = {"object_from_tool": 3, "tilt": 1, "finger_pos": 1, "sag": 1, "crushed": 1, "carrying": 1}
    sensed = {"finger_pos": 1}
    action_names = ("squeeze", "along")
    reward_range = (0.0, 1.0)

    def build(self) -> mujoco.MjSpec:
        import mujoco

        spec = self.arm.build()
        grasp.equip(spec, self.arm)
        floor = spec.worldbody.add_geom(name="floor", type=mujoco.mjtGeom.mjGEOM_PLANE, size=[2, 2, 0.1], contype=1, conaffinity=0, rgba=[0.85, 0.85, 0.85, 1])
        floor.friction = [1.0, 0.0, 0.0]
        geom = shapes.add_object(spec, "object", self.params[0].all_choices, [*OBJECT, 0.03])
        geom.contype, geom.conaffinity, geom.rgba = 0, 3, [0.75, 0.2, 0.2, 1]
        geom.priority, geom.friction, geom.solref, geom.condim = 1, [0.45, PATCH * 0.45, 0.0], [0.008, 1.0], 4  # its friction rules, see arm_slide
        target = spec.worldbody.add_body(name="target", mocap=True, pos=[*PLACE, 0])
        target.add_geom(type=mujoco.mjtGeom.mjGEOM_CYLINDER, size=[0.05, 0.001, 0], contype=0, conaffinity=0, rgba=[0.1, 0.7, 0.2, 0.6])
        for name, kind in (("object_pos", mujoco.mjtSensor.mjSENS_FRAMEPOS), ("object_quat", mujoco.mjtSensor.mjSENS_FRAMEQUAT)):
            spec.add_sensor(name=name, type=kind, objtype=mujoco.mjtObj.mjOBJ_XBODY, objname="object")
        finger = self.arm.gripper_joint_names[0]
        spec.add_sensor(name="finger_pos", type=mujoco.mjtSensor.mjSENS_JOINTPOS, objtype=mujoco.mjtObj.mjOBJ_JOINT, objname=finger)
        # from the front, so that the shadow of the hand falls behind the object
        spec.worldbody.add_light(type=mujoco.mjtLightType.mjLIGHT_DIRECTIONAL, pos=[1.5, -0.2, 1.0], dir=[-0.8, 0.25, -0.65], ambient=[0.15, 0.15, 0.15])
        spec.worldbody.add_camera(name="side", pos=[0.94, -0.33, 0.34], xyaxes=[0.607, 0.795, 0, -0.364, 0.278, 0.889])
        return spec

    def apply(self, batch: mujoco.batch.Batch, values: Mapping[str, Any]) -> None:
        names = self.params[0].all_choices
        shapes.apply_object(batch, "object", names, values["shape"], values["half_width"], values["mass"], values["com_along"])
        friction = values["friction"]
        batch.expand("geom_friction")[:, batch.model.geom("object").id, :2] = np.stack([friction, PATCH * friction], 1)

    def start(self, values: Values, rng: torch.Generator) -> Readings:
        num = len(values["mass"])
        noise = 0.003 * (2 * torch.rand(num, 2, generator=rng) - 1)
        half = shapes.half_sizes(self.params[0].all_choices, values["shape"].numpy(), values["half_width"].numpy())
        up = torch.as_tensor(half[:, 2], dtype=torch.float32) + 1e-4
        zero, one = torch.zeros(num), torch.ones(num)
        pose = torch.stack([OBJECT[0] + noise[:, 0], OBJECT[1] + noise[:, 1], up, one, zero, zero, zero], -1)
        fingers = dict.fromkeys(self.arm.gripper_joint_names, torch.full((num, 1), 0.04))
        return {"qpos": torch.tensor(ready_qpos(self.robot_name)).expand(num, -1), "object": pose, **fingers}

    def goals(self, values: Values, rng: torch.Generator) -> Readings:
        crushing = values["bears"] * holding_force(values)
        return {"target_pos": torch.tensor([*PLACE, 0.0]).expand(len(crushing), -1), "crushing_force": crushing.unsqueeze(-1)}

    def sense(self, readings: Readings, values: Values) -> Readings:
        """What a robot can tell of a broken object by its eyes: that it is broken, never how near it was."""
        seen = {k: v for k, v in readings.items() if k != "crushing_force"}
        return {**seen, "crushed": self.crushed(readings).unsqueeze(-1).float()}

    def observation(self, readings: Readings) -> Tensor:
        from_tool = readings["object_pos"] - readings["tool_pos"]
        w, x, y, z = readings["object_quat"].unbind(-1)
        tilt = 2 * (x * z - w * y)  # height of the tip of a unit arrow along the object
        sag = tool_pose(self.arm, readings["command_qpos"])[0][..., 2] - readings["tool_pos"][..., 2]  # by the load
        parts = [from_tool / 0.05, tilt.unsqueeze(-1), readings["finger_pos"] / 0.02, sag.unsqueeze(-1) / 0.002]
        return torch.cat([*parts, readings["crushed"], self.carrying(readings).unsqueeze(-1).float()], -1)

    def command(self, action: Tensor, readings: Readings) -> JointTrajectory:
        force, along = squeeze(action), ALONG * action[..., 1]
        return grasp.either(self.carrying(readings), self._place(force, readings), self._lift(force, along, readings))

    def _lift(self, force: Tensor, along: Tensor, readings: Readings) -> JointTrajectory:
        thing = readings["object_pos"]
        zero = torch.zeros_like(force)
        there = thing + torch.stack([along, zero, zero], -1)
        up = there + there.new_tensor([0.0, 0.0, LIFT])
        way = [(0.3, there, zero + grasp.OPEN), (0.2, there, zero + grasp.CLOSE), (0.1, there, -force), (0.4, up, -force), (0.2, up, -force)]
        return grasp.plan(self.arm, readings["command_qpos"], way)

    def _place(self, force: Tensor, readings: Readings) -> JointTrajectory:
        from_tool = (readings["object_pos"] - readings["tool_pos"])[..., :2]
        zero = torch.zeros_like(force)
        height = tool_pose(self.arm, readings["command_qpos"])[0][..., 2:]  # where it was to be, had the load not pulled it down
        over = torch.cat([readings["target_pos"][..., :2] - from_tool, height], -1)
        down = over - over.new_tensor([0.0, 0.0, LIFT])
        way = [(0.5, over, -force), (0.3, down, -force), (0.1, down, zero), (0.3, down, zero + grasp.OPEN)]
        return grasp.plan(self.arm, readings["command_qpos"], way)

    def told_by(self, command: JointTrajectory | Controls) -> Tensor:
        """The squeeze, which the fingers still have after lifting, and have from the beginning in carrying."""
        action = super().told_by(command)
        if isinstance(command, JointTrajectory) and command.gripper is not None:
            firmest = -command.gripper[:, (0, -1)].amin((-2, -1))
            action[:, 0] = squeezing(firmest.clamp(FORCES[0], FORCES[1]))
        return action

    def reward(self, readings: Readings, action: Tensor, next_readings: Readings) -> Tensor:
        w, x, y, z = next_readings["object_quat"].unbind(-1)
        level = (1 - 4 * (x * z - w * y).abs()).clamp(0.0, 1.0)
        lifted = ((next_readings["object_pos"] - readings["object_pos"])[..., 2] / LIFT).clamp(0.0, 1.0)
        placed = torch.exp(self._miss(next_readings) / -0.08)
        done = torch.where(self.carrying(readings), 0.5 * placed, 0.5 * lifted * level)
        return torch.where(self.crushed(next_readings), 0.0, done)

    def terminated(self, readings: Readings) -> Tensor:
        return self.crushed(readings) | self.lost(readings)

    def success(self, readings: Readings) -> Tensor:
        return self.error(readings) < MISS

    def error(self, readings: Readings) -> Tensor:
        """A crushed object counts as not moved."""
        miss = self._miss(readings)
        return torch.where(self.crushed(readings), miss.clamp(min=math.dist(OBJECT, PLACE)), miss)

    def _miss(self, readings: Readings) -> Tensor:
        return (readings["object_pos"] - readings["target_pos"])[..., :2].norm(dim=-1)

    def expert(self, readings: Readings, told: Values) -> Tensor:
        """(N, A) what one does who knows the task: hold at the centre of mass, as much too firmly for lifting as too gently for breaking."""
        names, index = self.params[0].all_choices, told["shape"].numpy()
        half = shapes.half_sizes(names, index, told["half_width"].double().numpy())
        along = torch.as_tensor(shapes.centre_of_mass(names, index, half, told["com_along"].double().numpy())[:, 0], dtype=torch.float32)
        force = torch.sqrt(_NEEDED * told["bears"]) * holding_force(told)
        return torch.stack([squeezing(force), along / ALONG], -1).clamp(-1.0, 1.0)

    def tried(self, readings: Readings) -> Tensor:
        """(...) bool: the fingers are no longer open over the object, as before an attempt."""
        return (readings["finger_pos"][..., 0] < _OPEN) | (readings["tool_pos"][..., 1] > 0.5 * (OBJECT[1] + PLACE[1]))

    def lost(self, readings: Readings) -> Tensor:
        """(...) bool: an attempt was made, and there is nothing between the fingers."""
        away = (readings["tool_pos"] - readings["object_pos"]).norm(dim=-1)
        return self.tried(readings) & (away > _LOST)

    def carrying(self, readings: Readings) -> Tensor:
        """(...) bool: the object hangs between the fingers, so that the second decision is due."""
        return self.tried(readings) & ~self.lost(readings)

    def crushed(self, readings: Readings) -> Tensor:
        """(...) bool: the last squeeze was more than the object bears."""
        return self.tried(readings) & (squeeze(readings["last_action"]) > readings["crushing_force"][..., 0])


def holding_force(values: Values) -> Tensor:
    """(N,) N on each finger that just hold the object at rest."""
    return values["mass"] * GRAVITY / (2 * values["friction"])


def squeeze(action: Tensor) -> Tensor:
    """(...) N on each finger that an action (..., A) asks for."""
    return FORCES[0] * (FORCES[1] / FORCES[0]) ** (0.5 * (action[..., 0] + 1.0))


def squeezing(force: Tensor) -> Tensor:
    """(...) the number in an action that asks for a squeeze of `force` (...) N."""
    return 2 * torch.log(force / FORCES[0]) / math.log(FORCES[1] / FORCES[0]) - 1


@functools.lru_cache
def ready_qpos(robot_name: str) -> tuple[float, ...]:
    """Joint pose with the tool above the object, pointing down and square to the base; rad."""
    from metarl import robots

    spec = robots.load_arm(robot_name)
    home = torch.tensor(spec.home_qpos, dtype=torch.float64)
    here = tool_pose(spec, home)[0]
    path = here + torch.linspace(0, 1, 50, dtype=torch.float64).unsqueeze(-1) * (torch.tensor([*OBJECT, READY], dtype=torch.float64) - here)
    return tuple(follow_line(spec, home, path, iterations=5, square=True)[-1].tolist())
