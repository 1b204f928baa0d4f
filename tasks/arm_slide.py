"""arm_slide: strike an unknown object once, so that it slides beyond the arm's reach and stops on a target.

One decision a shot: speed, direction and contact point of a strike; five shots a trial at the same target. Hidden in each task: the
object's shape, size, mass, friction and centre of mass, and the error of the hand-eye calibration. While the object slides nothing can
be corrected: what was learnt of it in one shot shows in the next.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from metarl.robots.kinematics import follow_line, rotation_from_wxyz, tool_pose
from metarl.robots.spec import JointTrajectory
from metarl.tasks.parameters import Param
from metarl.tasks.sensing import hand_eye, undo_hand_eye
from metarl.tasks.strike import APPROACH, plan_strike
from metarl.tasks.task import Readings, Task, Values

if TYPE_CHECKING:
    import mujoco
    import mujoco.batch

OBJECT = (0.55, 0.05)  # m, where the object is put; beside the arm, because it is fastest sideways (base joint)
READY = (0.55, -0.17, 0.03)  # m, the tool before a strike; 3 cm above the table, about the middle of an object
PEG_RADIUS = 0.012  # m, a round rod between the fingers, so that the direction of a push does not depend on the hand's angle
SPEEDS = (0.45, 0.95)  # m/s; only the outermost strikes are slowed down by the limits of a joint
TURN = 0.25  # rad, largest direction to either side of the line from the object to the target
ASIDE = 0.015  # m, largest contact point to either side of the object's middle
GRAVITY = 9.81  # m/s²
REHEARSALS, CORRECTED = 6, 0.6  # strikes that the expert tries out; part of a miss by which the next one is aimed beside
SHAPES = {"box": 6, "cylinder": 5, "ellipsoid": 4}  # mujoco.mjtGeom


class ArmSlide(Task):
    """Reward of a shot: exp(-miss / 0.15 m), the miss being the distance of the resting object from the target.

    All that is hidden is worth knowing: an expert who tries the strike out in simulations of what he believes loses a part of what he earns by each wrong
    belief, from 0.13 for where the centre of mass is along the way to 0.74 for the friction.
    """

    name = "arm_slide"
    robot_name = "arm7"
    # Friction is that of plastic or metal on a smooth table: the fastest strike sends an object of friction 0.13 0.6 m far, so more
    # would leave targets out of range. Mass, size and centre of mass: household objects (YCB) that fit between the fingers.
    params: ClassVar[tuple[Param, ...]] = (
        Param("shape", "", "the object's shape is {}", nominal="box", choices=("box", "cylinder"), ood_far=("ellipsoid",)),
        Param("half_size", "m", "half as wide as {:.3f} m", nominal=0.027, train=(0.02, 0.035), ood_near=((0.017, 0.02), (0.035, 0.04)), ood_far=((0.04, 0.045),)),
        Param("mass", "kg", "weighs {:.2f} kg", nominal=0.2, train=(0.05, 0.6), scale="log", ood_near=((0.6, 0.75),), ood_far=((0.75, 1.2),)),
        Param("friction", "", "slides with friction {:.2f}", nominal=0.1, train=(0.06, 0.15), scale="log", ood_near=((0.048, 0.06), (0.15, 0.18)), ood_far=((0.03, 0.048),)),
        Param("com_along", "", "its centre of mass at {:+.2f}", nominal=0.0, train=(-0.25, 0.25), ood_near=((-0.31, -0.25), (0.25, 0.31)), ood_far=((-0.6, -0.31), (0.31, 0.6))),
        Param("com_aside", "", "{:+.2f} of its half size", nominal=0.0, train=(-0.25, 0.25), ood_near=((-0.31, -0.25), (0.25, 0.31)), ood_far=((-0.6, -0.31), (0.31, 0.6))),
        Param("camera_yaw", "rad", "the camera is turned by {:+.3f} rad", nominal=0.0, train=(-0.15, 0.15), ood_near=((-0.19, -0.15), (0.15, 0.19)), ood_far=((-0.25, -0.19), (0.19, 0.25))),
        Param("camera_x", "m", "shifted by x {:+.3f} m", nominal=0.0, train=(-0.008, 0.008), ood_near=((-0.01, -0.008), (0.008, 0.01)), ood_far=((-0.014, -0.01), (0.01, 0.014))),
        Param("camera_y", "m", "y {:+.3f} m", nominal=0.0, train=(-0.008, 0.008), ood_near=((-0.01, -0.008), (0.008, 0.01)), ood_far=((-0.014, -0.01), (0.01, 0.014))),
        Param("target_distance", "m", "the target lies {:.2f} m away", nominal=0.6, train=(0.55, 0.70), hidden=False),
        Param("target_angle", "rad", "at {:+.2f} rad", nominal=0.0, train=(-0.25, 0.25), hidden=False),
    )  # fmt: skip
    horizon = 1
    episodes_per_trial = 5
    decision_dt = 3.5  # s, strike and slide
    settle_time = 2.5
    observed = {"object_xy": 2, "target_from_object": 2}
    action_names = ("speed", "direction", "contact")
    reward_range = (0.0, 1.0)
    place, ready, speeds = OBJECT, READY, SPEEDS  # another arm strikes elsewhere, and more slowly
    approach = APPROACH  # s, to where the run-up begins
    worth, near = 0.15, 0.05  # m, at which miss a shot is worth 1/e; which is a success
    # What the expert at first takes a strike to do to a box and to round things, from 512 strikes at random: of its slant to the object the part that the
    # object's way takes; by how many rad a contact one half size beside turns that; the part of the centre of mass's offset that counts as
    # such; speed of the object over that of the tool.
    impact = ((0.49, 0.43, 1.0, 1.35), (0.55, 0.65, 0.16, 1.36), (0.55, 0.65, 0.16, 1.36))

    def build(self) -> mujoco.MjSpec:
        import mujoco

        spec = self.robot.build()
        tool = spec.site("tool")
        peg = tool.parent.add_body(name="peg", pos=tool.pos, quat=tool.quat)
        peg.add_geom(name="peg", type=mujoco.mjtGeom.mjGEOM_CAPSULE, size=[PEG_RADIUS, 0.012, 0], mass=0.02, contype=2, conaffinity=0, rgba=[0.8, 0.5, 0.2, 1])
        floor = spec.worldbody.add_geom(name="floor", type=mujoco.mjtGeom.mjGEOM_PLANE, size=[3, 3, 0.1], contype=1, conaffinity=0, rgba=[0.85, 0.85, 0.85, 1])
        floor.friction = [1.0, 0.0, 0.0]
        thing = spec.worldbody.add_body(name="object", pos=[*self.place, 0.027])
        thing.add_freejoint(name="object")
        thing.simple = 0  # its centre of mass moves away from its frame
        geom = thing.add_geom(
            name="object", type=mujoco.mjtGeom.mjGEOM_BOX, size=[0.027, 0.027, 0.027], mass=0.2, contype=0, conaffinity=3, rgba=[0.75, 0.2, 0.2, 1]
        )
        # the object's friction rules its contacts (priority), else the larger of the pair would; stiff contact: a strike bounces a little, as metal on plastic does (the object leaves at about 1.2 times the tool's speed)
        geom.priority, geom.friction, geom.solref, geom.condim = 1, [0.15, 0.0, 0.0], [0.008, 1.0], 3
        target = spec.worldbody.add_body(name="target", mocap=True, pos=[self.place[0], self.place[1] + 0.5, 0])
        target.add_geom(type=mujoco.mjtGeom.mjGEOM_CYLINDER, size=[0.05, 0.001, 0], contype=0, conaffinity=0, rgba=[0.1, 0.7, 0.2, 0.6])
        for name, kind in (
            ("object_pos", mujoco.mjtSensor.mjSENS_FRAMEPOS),
            ("object_quat", mujoco.mjtSensor.mjSENS_FRAMEQUAT),
            ("object_linvel", mujoco.mjtSensor.mjSENS_FRAMELINVEL),
        ):
            spec.add_sensor(name=name, type=kind, objtype=mujoco.mjtObj.mjOBJ_XBODY, objname="object")
        spec.worldbody.add_light(pos=[0.5, 0.3, 2.5])
        spec.worldbody.add_camera(name="side", pos=[1.75, 0.1, 0.95], xyaxes=[0.2, 0.98, 0, -0.55, 0.11, 0.83])
        return spec

    def apply(self, batch: mujoco.batch.Batch, values: Mapping[str, Any]) -> None:
        half, mass = values["half_size"], values["mass"]
        kinds = np.array([SHAPES[name] for name in self._shape.all_choices])[values["shape"].astype(int)]
        box, ellipsoid = kinds == SHAPES["box"], kinds == SHAPES["ellipsoid"]
        geom, body = batch.model.geom("object").id, batch.model.body("object").id
        batch.expand("geom_type")[:, geom] = kinds
        batch.expand("geom_size")[:, geom] = half[:, None]  # cylinder: radius and half height; box and ellipsoid: half axes
        batch.expand("geom_rbound")[:, geom] = half * np.where(box, math.sqrt(3), np.where(ellipsoid, 1, math.sqrt(2)))
        batch.expand("geom_aabb")[:, geom, 3:] = half[:, None]
        batch.expand("geom_friction")[:, geom, 0] = values["friction"]
        batch.expand("body_mass")[:, body] = mass
        # about the centre: box m/12 (2h)²·2, upright cylinder m/12 (3h² + 4h²) and m h²/2, ball 2/5 m h²
        across = np.where(box, 2 / 3, np.where(ellipsoid, 2 / 5, 7 / 12)) * mass * half**2
        about = np.where(box, 2 / 3, np.where(ellipsoid, 2 / 5, 1 / 2)) * mass * half**2
        batch.expand("body_inertia")[:, body] = np.stack([across, across, about], 1)
        offset = np.stack([values["com_aside"] * half, values["com_along"] * half, np.zeros_like(half)], 1)
        batch.expand("body_ipos")[:, body] = offset

    @property
    def _shape(self) -> Param:
        return self.params[0]

    def start(self, values: Values, rng: torch.Generator) -> Readings:
        num = len(values["mass"])
        noise = 2 * torch.rand(num, 3, generator=rng) - 1
        half_yaw = 0.5 * 0.05 * noise[:, 2]
        zero = torch.zeros(num)
        pos = [self.place[0] + 0.003 * noise[:, 0], self.place[1] + 0.003 * noise[:, 1], values["half_size"] + 1e-4]
        pose = torch.stack([*pos, half_yaw.cos(), zero, zero, half_yaw.sin()], -1)
        return {"qpos": torch.tensor(ready_qpos(self.robot_name, self.ready)).expand(num, -1), "object": pose}

    def goals(self, values: Values, rng: torch.Generator) -> Readings:
        distance, angle = values["target_distance"], values["target_angle"]
        x, y = self.place[0] - distance * angle.sin(), self.place[1] + distance * angle.cos()
        return {"target_pos": torch.stack([x, y, torch.zeros_like(x)], -1)}

    def sense(self, readings: Readings, values: Values) -> Readings:
        shift = torch.stack([values["camera_x"], values["camera_y"], torch.zeros_like(values["camera_x"])], -1)
        seen = {k: hand_eye(readings[k], values["camera_yaw"], shift, (*self.place, 0.0)) for k in ("object_pos", "target_pos")}
        return {**readings, **seen}

    def observation(self, readings: Readings) -> Tensor:
        thing, target = readings["object_pos"][..., :2], readings["target_pos"][..., :2]
        return torch.cat([thing, target - thing], -1)

    def command(self, action: Tensor, readings: Readings) -> JointTrajectory:
        thing, target = readings["object_pos"], readings["target_pos"]
        x, y = (target - thing)[..., :2].unbind(-1)
        direction = torch.atan2(y, x) + TURN * action[..., 1]
        speed = self.speeds[0] * (self.speeds[1] / self.speeds[0]) ** (0.5 * (action[..., 0] + 1.0))
        aside = ASIDE * action[..., 2]
        through = torch.stack([thing[..., 0] - aside * direction.sin(), thing[..., 1] + aside * direction.cos(), torch.full_like(x, self.ready[2])], -1)
        return plan_strike(self.arm, readings["qpos"], through, direction, speed, self.speeds[0], self.approach)

    def reward(self, readings: Readings, action: Tensor, next_readings: Readings) -> Tensor:
        return torch.exp(self.error(next_readings) / -self.worth)

    def success(self, readings: Readings) -> Tensor:
        return self.error(readings) < self.near

    def error(self, readings: Readings) -> Tensor:
        return (readings["object_pos"] - readings["target_pos"])[..., :2].norm(dim=-1)

    def at_rest(self, readings: Readings) -> Tensor:
        return readings["object_linvel"].norm(dim=-1) < 0.005

    # ---- one who knows how --------------------------------------------------------------------------------------------------

    def expert(self, readings: Readings, told: Values) -> Tensor:
        """(N, 3) of a few strikes tried out in simulations of what it is told, the one that came nearest; each is aimed beside by most of the last miss."""
        from metarl.tasks import simulators  # here, because it simulates what is a task already

        num = len(readings["qpos"])
        actual = self._without_cameras_error(readings, told)
        start = {"qpos": readings["qpos"], "object": torch.cat([actual["object_pos"], readings["object_quat"]], -1)}
        simulator = simulators.make("mujoco", self, num, torch.get_num_threads())
        simulator.set_tasks({name: value.double().numpy() for name, value in told.items()})
        beside, least, best = torch.zeros(num, 2), torch.full((num,), torch.inf), torch.zeros(num, 3)
        for _ in range(REHEARSALS):
            simulator.reset(start, {})
            action = self.aimed(readings, told, beside)
            end = simulator.step(self.command(action, readings), None)
            miss = (end["object_pos"] - actual["target_pos"])[:, :2]
            nearer = miss.norm(dim=-1) < least
            least, best = torch.where(nearer, miss.norm(dim=-1), least), torch.where(nearer.unsqueeze(-1), action, best)
            beside = beside - CORRECTED * miss
        simulator.close()
        return best

    def aimed(self, readings: Readings, told: Values, beside: Tensor) -> Tensor:
        """(N, 3) a strike at a place `beside` (N, 2) m of the target by a rule of thumb: as fast as the friction asks for, v² = 2 mu g d, and beside the
        middle by as much as brings the object there.
        """
        seen, seen_target = readings["object_pos"], readings["target_pos"]
        actual = self._without_cameras_error(readings, told)
        thing, way, seen_way = actual["object_pos"], (actual["target_pos"] - actual["object_pos"])[..., :2] + beside, (seen_target - seen)[..., :2]
        direction = torch.atan2(way[..., 1], way[..., 0])
        turn = direction - torch.atan2(seen_way[..., 1], seen_way[..., 0])
        follows, deflects, centred, bounce = way.new_tensor(self.impact)[told["shape"].long()].unbind(-1)
        speed = (2 * GRAVITY * told["friction"] * way.norm(dim=-1)).sqrt() / bounce
        fast = 2 * torch.log(speed / self.speeds[0]) / math.log(self.speeds[1] / self.speeds[0]) - 1
        frame = rotation_from_wxyz(readings["object_quat"])
        slant = direction - torch.atan2(frame[..., 1, 1], frame[..., 0, 1])  # from the object's y axis
        off_middle = -told["half_size"] * (centred * told["com_aside"] + (1 - follows) / deflects * slant)
        off = ((thing - seen)[..., 1] * direction.cos() - (thing - seen)[..., 0] * direction.sin()) + off_middle
        return torch.stack([fast, torch.atan2(turn.sin(), turn.cos()) / TURN, off / ASIDE], -1).clamp(-1.0, 1.0)

    def _without_cameras_error(self, readings: Readings, told: Values) -> Readings:
        """Where object and target are, if the camera errs by what is told."""
        shift = torch.stack([told["camera_x"], told["camera_y"], torch.zeros_like(told["camera_x"])], -1)
        return {name: undo_hand_eye(readings[name], told["camera_yaw"], shift, (*self.place, 0.0)) for name in ("object_pos", "target_pos")}


@functools.lru_cache
def ready_qpos(robot_name: str, ready: tuple[float, float, float] = READY) -> tuple[float, ...]:
    """Joint pose with the tool at `ready`, pointing down; rad."""
    from metarl import robots

    spec = robots.load_arm(robot_name)
    home = torch.tensor(spec.home_qpos, dtype=torch.float64)
    here = tool_pose(spec, home)[0]
    path = here + torch.linspace(0, 1, 50, dtype=torch.float64).unsqueeze(-1) * (torch.tensor(ready, dtype=torch.float64) - here)
    return tuple(follow_line(spec, home, path, iterations=5)[-1].tolist())
