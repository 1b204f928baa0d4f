"""Pushing an object over a table with a rake: the scene, the motion and the object that the pushing tasks share.

The rake is a rod with a wing at each end, open to the front. A single rod would not do: an object pushed at one point turns away from it
within a centimetre or two, so that pushing would be balancing. In the rake an object stays, wherever its centre of mass lies; where in
the rake depends on its size, its shape and its friction.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from metarl.robots.kinematics import follow_line, rotation_from_wxyz, tool_pose, yaw_of
from metarl.robots.spec import JointTrajectory
from metarl.tasks.parameters import Param
from metarl.tasks.task import Readings, Task, Values

if TYPE_CHECKING:
    import mujoco
    import mujoco.batch

OBJECT = (0.45, 0.0)  # m, where the object is put
HEIGHT = 0.025  # m, half the height of every object: none of them tips over
READY = (0.345, 0.0, 0.03)  # m, the middle of the rake's rod before an episode
LOW, HIGH = (0.30, -0.32), (0.72, 0.32)  # m, where the rod's middle may go: what the arm reaches with its hand pointing down
ROD, WIDTH, WING = 0.008, 0.052, 0.06  # m: radius of the rods, half the width between the wings' middles, length of a wing
INSIDE = WIDTH - ROD  # m, from the middle to the inner side of a wing
STRAIGHT = 0.003  # m, an object that is farther to the side of its target is moved sideways, by a wing
CLEARANCE = 0.003  # m, at which a wing passes by an object
GENTLY, COAST = 0.75, (0.001, 0.003)  # part of the last way that is gone in a decision; m, that an object then slides out of the corner
SHAPES = {"box": 6, "cylinder": 5, "ellipsoid": 4}  # mujoco.mjtGeom


def _centre_of_mass(axis: str, text: str) -> Param:
    near, far = ((-0.5, -0.4), (0.4, 0.5)), ((-0.7, -0.5), (0.5, 0.7))
    return Param(f"com_{axis}", "", text, nominal=0.0, train=(-0.4, 0.4), ood_near=near, ood_far=far)


def object_params() -> tuple[Param, ...]:
    """What is hidden of the object. Household objects (YCB) that fit into the rake, of plastic, wood or cardboard on a table."""
    return (
        Param("shape", "", "the object's shape is {}", nominal="box", choices=("box", "cylinder"), ood_far=("ellipsoid",)),
        Param("half_size", "m", "half as wide as {:.3f} m", nominal=0.026, train=(0.018, 0.034), ood_near=((0.016, 0.018), (0.034, 0.037)), ood_far=((0.037, 0.041),)),
        Param("mass", "kg", "weighs {:.2f} kg", nominal=0.3, train=(0.1, 1.0), scale="log", ood_near=((1.0, 1.25),), ood_far=((1.25, 2.0),)),
        Param("friction", "", "slides with friction {:.2f}", nominal=0.3, train=(0.15, 0.5), scale="log", ood_near=((0.12, 0.15), (0.5, 0.6)), ood_far=((0.07, 0.12), (0.6, 0.8))),
        _centre_of_mass("along", "its centre of mass at {:+.2f}"),
        _centre_of_mass("aside", "{:+.2f} of its half size"),
    )  # fmt: skip


class Pushing(Task):
    """The rake moves level over the table; an action is its velocity along x and y, held for one decision."""

    robot_name = "arm7"
    simulators = ("mujoco", "pybullet")
    decision_dt = 0.2
    speed = 0.2  # m/s of full action along each axis
    scatter = 0.005  # m, largest distance of the object from its place along each axis when an episode begins
    action_names = ("velocity_x", "velocity_y")

    def build(self) -> mujoco.MjSpec:
        import mujoco

        spec = self.robot.build()
        _add_rake(spec)
        floor = spec.worldbody.add_geom(name="floor", type=mujoco.mjtGeom.mjGEOM_PLANE, size=[3, 3, 0.1], contype=1, conaffinity=0, rgba=[0.85, 0.85, 0.85, 1])
        floor.friction = [1.0, 0.0, 0.0]
        thing = spec.worldbody.add_body(name="object", pos=[*OBJECT, HEIGHT])
        thing.add_freejoint(name="object")
        thing.simple = 0  # its centre of mass moves away from its frame
        geom = thing.add_geom(
            name="object", type=mujoco.mjtGeom.mjGEOM_BOX, size=[0.026, 0.026, HEIGHT], mass=0.3, contype=0, conaffinity=3, rgba=[0.75, 0.2, 0.2, 1]
        )
        geom.priority, geom.friction, geom.solref, geom.condim = 1, [0.3, 0.0, 0.0], [0.008, 1.0], 3  # its friction rules its contacts
        target = spec.worldbody.add_body(name="target", mocap=True, pos=[OBJECT[0] + 0.15, OBJECT[1], 0])
        target.add_geom(type=mujoco.mjtGeom.mjGEOM_CYLINDER, size=[0.03, 0.001, 0], contype=0, conaffinity=0, rgba=[0.1, 0.7, 0.2, 0.6])
        for name, kind in (("object_pos", mujoco.mjtSensor.mjSENS_FRAMEPOS), ("object_quat", mujoco.mjtSensor.mjSENS_FRAMEQUAT)):
            spec.add_sensor(name=name, type=kind, objtype=mujoco.mjtObj.mjOBJ_XBODY, objname="object")
        spec.worldbody.add_light(pos=[0.5, 0.3, 2.5])
        spec.worldbody.add_camera(name="side", pos=[1.3, -0.45, 0.85], xyaxes=[0.5, 0.87, 0, -0.55, 0.32, 0.77])
        return spec

    def apply(self, batch: mujoco.batch.Batch, values: Mapping[str, Any]) -> None:
        half, mass = values["half_size"], values["mass"]
        shape = next(p for p in self.params if p.name == "shape")
        kinds = np.array([SHAPES[name] for name in shape.all_choices])[values["shape"].astype(int)]
        box, ellipsoid, cylinder = (kinds == SHAPES[name] for name in ("box", "ellipsoid", "cylinder"))
        up = np.full_like(half, HEIGHT)
        geom, body = batch.model.geom("object").id, batch.model.body("object").id
        bounds = np.stack([half, half, up], 1)
        batch.expand("geom_type")[:, geom] = kinds
        batch.expand("geom_size")[:, geom] = np.where(cylinder[:, None], np.stack([half, up, 0 * half], 1), bounds)
        batch.expand("geom_rbound")[:, geom] = np.where(box, np.sqrt(2 * half**2 + up**2), np.where(ellipsoid, np.maximum(half, up), np.sqrt(half**2 + up**2)))
        batch.expand("geom_aabb")[:, geom, 3:] = bounds
        batch.expand("geom_friction")[:, geom, 0] = values["friction"]
        batch.expand("body_mass")[:, body] = mass
        # about the centre: box m/3 (a² + b²), upright cylinder m/12 (3 a² + 4 h²) and m a²/2, ellipsoid m/5 (a² + b²)
        part = np.where(box, 1 / 3, 1 / 5)
        across = mass * np.where(cylinder, half**2 / 4 + up**2 / 3, part * (half**2 + up**2))
        about = mass * half**2 * np.where(cylinder, 1 / 2, 2 * part)
        batch.expand("body_inertia")[:, body] = np.stack([across, across, about], 1)
        batch.expand("body_ipos")[:, body] = np.stack([values["com_along"] * half, values["com_aside"] * half, 0 * half], 1)

    def start(self, values: Values, rng: torch.Generator) -> Readings:
        num = len(values["mass"])
        noise = 2 * torch.rand(num, 3, generator=rng) - 1
        half_yaw = 0.5 * 0.1 * noise[:, 2]
        zero = torch.zeros(num)
        pos = [OBJECT[0] + self.scatter * noise[:, 0], OBJECT[1] + self.scatter * noise[:, 1], zero + HEIGHT + 1e-4]
        pose = torch.stack([*pos, half_yaw.cos(), zero, zero, half_yaw.sin()], -1)
        return {"qpos": torch.tensor(ready_qpos(self.robot_name)).expand(num, -1), "object": pose}

    def goals(self, values: Values, rng: torch.Generator) -> Readings:
        distance, angle = values["target_distance"], values["target_angle"]
        x, y = OBJECT[0] + distance * angle.cos(), OBJECT[1] + distance * angle.sin()
        return {"target_pos": torch.stack([x, y, torch.zeros_like(x)], -1)}

    def command(self, action: Tensor, readings: Readings) -> JointTrajectory:
        qpos = readings["command_qpos"]
        place = tool_pose(self.arm, qpos)[0][..., :2] + action * (self.speed * self.decision_dt)
        place = torch.minimum(torch.maximum(place, place.new_tensor(LOW)), place.new_tensor(HIGH))
        there = torch.cat([place, torch.full_like(place[..., :1], READY[2])], -1)
        qpos = follow_line(self.arm, qpos, there.unsqueeze(-2), square=True)
        return JointTrajectory(qpos, torch.zeros_like(qpos), self.decision_dt)

    def error(self, readings: Readings) -> Tensor:
        return (readings["object_pos"] - readings["target_pos"])[..., :2].norm(dim=-1)


def rake_to(thing: Tensor, tool: Tensor, target: Tensor, half_size: Tensor) -> Tensor:
    """(N, 2) m, the way that the rake has to go to bring an object at `thing` (N, 2 or 3) to `target`, the object first being let in.

    Args:
        thing: (N, 2) or (N, 3) m, the object, as are the next two.
        tool: the middle of the rod.
        target: where the object is to go.
        half_size: (N,) m, of the object.
    """
    from_tool, wanted = (a[..., :2] - b[..., :2] for a, b in ((thing, tool), (target, thing)))
    gap = from_tool[..., 0] - half_size - ROD
    inside = gap < 0.5 * WING
    slack = INSIDE - half_size  # of the object between the wings, to either side
    side = torch.where(wanted[..., 1].abs() < STRAIGHT, 0.0, wanted[..., 1] + wanted[..., 1].sign() * slack + from_tool[..., 1])
    along = (gap + wanted[..., 0]).clamp(min=0.0)
    return torch.stack([torch.where(inside, along, (gap - 0.4 * WING).clamp(min=ROD)), torch.where(inside, side, from_tool[..., 1])], -1)


def corner_to(thing: Tensor, tool: Tensor, target: Tensor, half_size: Tensor) -> Tensor:
    """(N, 2) m, the way that the rake has to go to bring an object out of sight to `target`, in the corner of the rod and the wing behind it.

    There it cannot but lie still, so that the rake may go both ways at once, and where it is need not be seen. It coasts a bit beyond it at the end.

    Args:
        thing: (N, 2) or (N, 3) m, where the object was seen last, as are the next two.
        tool: the middle of the rod.
        target: where the object is to go.
        half_size: (N,) m, of the object.
    """
    side = (target - thing)[..., 1].sign()
    slack = INSIDE - half_size
    entered = tool[..., 0] + 0.4 * WING > thing[..., 0] - half_size
    beside = thing[..., 1] + side * (slack - CLEARANCE)
    end = torch.stack([target[..., 0] - ROD - half_size - COAST[0], target[..., 1] + side * (slack - COAST[1])], -1)
    way = end - tool[..., :2]
    before = torch.stack([way[..., 0], beside - tool[..., 1]], -1)
    return torch.where(entered.unsqueeze(-1), GENTLY * way, before)


def turned(quat: Tensor) -> Tensor:
    """(..., 2) cosine and sine of four times the yaw: what can be told of the turn of a square."""
    matrix = rotation_from_wxyz(quat)
    yaw = 4 * yaw_of(matrix)
    return torch.stack([yaw.cos(), yaw.sin()], -1)


def _add_rake(spec: mujoco.MjSpec) -> None:
    """Held by the fingers; x of the hand is forward, y across."""
    import mujoco

    rake = spec.body("panda_hand").add_body(name="rake", pos=[0, 0, 0.1034])
    half = 0.5 * (WING - ROD)
    across, forward = [math.sqrt(0.5), math.sqrt(0.5), 0.0, 0.0], [math.sqrt(0.5), 0.0, math.sqrt(0.5), 0.0]
    rods = {"rod": ([0.0, 0.0, 0.0], WIDTH, across)}
    rods |= {f"wing_{name}": ([half, side * WIDTH, 0.0], half, forward) for name, side in (("left", -1), ("right", 1))}
    for name, (pos, length, quat) in rods.items():
        rake.add_geom(
            name=name, type=mujoco.mjtGeom.mjGEOM_CAPSULE, size=[ROD, length, 0], pos=pos, quat=quat, mass=0.02, contype=2, conaffinity=0,
            rgba=[0.8, 0.5, 0.2, 1],
        )  # fmt: skip


@functools.lru_cache
def ready_qpos(robot_name: str) -> tuple[float, ...]:
    """Joint pose with the rake at READY, level and square to the base; rad."""
    from metarl import robots

    spec = robots.load_arm(robot_name)
    home = torch.tensor(spec.home_qpos, dtype=torch.float64)
    here = tool_pose(spec, home)[0]
    path = here + torch.linspace(0, 1, 50, dtype=torch.float64).unsqueeze(-1) * (torch.tensor(READY, dtype=torch.float64) - here)
    return tuple(follow_line(spec, home, path, iterations=5, square=True)[-1].tolist())
