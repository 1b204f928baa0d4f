"""Appliances of the kitchen with physics: what their joints and handles are, and how a task's parameters change them.

Each stands at a station. A station's frame is that of the arm's foot when the robot stands in front of it: x ahead, y left, z up from SHOULDER.
All handles are holes for the robot's peg, so that one motion of the hand can try any mechanism.
"""

from __future__ import annotations

import itertools
import math
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from metarl.robots.chef import SHOULDER

if TYPE_CHECKING:
    import mujoco
    import mujoco.batch

STATIONS = ("cupboard", "stove", "table")
LAYOUTS = {
    "I": ((0.0, 0.75, 0.0), (0.0, 0.0, 0.0), (0.0, -0.75, 0.0)),
    "L": ((0.0, 0.2, 1.571), (0.0, 0.0, 0.0), (0.0, -0.75, 0.0)),
    "U": ((0.0, 0.2, 1.571), (0.0, 0.0, 0.0), (0.0, -0.2, -1.571)),
    "galley": ((0.0, 0.45, 0.0), (0.0, -0.45, 0.0), (-0.3, 0.0, 3.1)),
    "island": ((0.5, 0.5, 1.2), (-0.4, 0.0, 0.0), (0.5, -0.5, -1.2)),
}
"""Shape of the kitchen -> x, y (m) and heading (rad) of the robot at each of three places."""
ORDERS = tuple("".join(p) for p in itertools.permutations("cst"))
"""Which station is at which place, by first letters."""

HANDLE = (0.66, 0.0, 0.12)  # m, in the cupboard's frame, where the hole of the closed door's handle is
HINGE_RADIUS = 0.25  # m, from the handle to a hinge at either side of the door, or below it
CAROUSEL = 0.08  # m, from the handle to the vertical axis of a carousel
DRAWN, SWUNG, SHIFTED, PRESSED, SPUN = 0.36, 1.6, 0.36, 0.08, 3.2  # m, rad, m, m, rad: how far drawers, doors, sliding doors, touch latches, carousels move
MECHANISMS = {
    "drawer": ("slide", (-1.0, 0.0, 0.0), (0.0, 0.0, 0.0), (0.0, DRAWN), 0.28),
    "hinge_left": ("hinge", (0.0, 0.0, 1.0), (0.0, HINGE_RADIUS, 0.0), (-SWUNG, 0.0), 0.9),
    "hinge_right": ("hinge", (0.0, 0.0, 1.0), (0.0, -HINGE_RADIUS, 0.0), (0.0, SWUNG), 0.9),
    "drop_down": ("hinge", (0.0, -1.0, 0.0), (0.0, 0.0, -HINGE_RADIUS), (0.0, SWUNG), 0.82),
    "slide_left": ("slide", (0.0, 1.0, 0.0), (0.0, 0.0, 0.0), (0.0, SHIFTED), 0.2),
    "slide_right": ("slide", (0.0, -1.0, 0.0), (0.0, 0.0, 0.0), (0.0, SHIFTED), 0.2),
    "rotary": ("hinge", (0.0, 0.0, 1.0), (0.0, CAROUSEL, 0.0), (-SPUN, 0.0), 2.85),
    "press": ("slide", (-1.0, 0.0, 0.0), (0.0, 0.0, 0.0), (-PRESSED, 0.0), 0.074),
}
"""Mechanism -> kind of its joint, axis, a point of it from the handle (m), range (rad or m), and from where on it counts as open.

That is further than what the motion for another mechanism moves it.
"""
HANDLES = {
    "ring": (0.015, 0.018), "bar": (0.04, 0.018),
    "vertical_bar": (0.015, 0.023), "knob": (0.021, 0.021), "recess": (0.03, 0.024), "lever": (0.05, 0.018), "button": (0.025, 0.016),
}  # fmt: skip
"""Handle -> half of its inner width from side to side and from front to back, m: so much play the hand has in it."""
LOCKED = 1e5  # N·s/m, N·m·s/rad: damping of the joint that the door does not have; both engines treat damping implicitly
DOOR_DAMPING, KNOB_DAMPING = 15.0, 0.1  # N·s/m at the handle, N·m·s/rad: what is left alone stays where it is

KNOBS = tuple((0.45, y, 0.1) for y in (0.255, 0.085, -0.085, -0.255))  # m, axes in the stove's frame, from the left
CRANK = 0.05  # m, from a knob's axis to the hole; the hole is on the robot's side when the knob is off
TURNED = 4.2  # rad, how far a knob can be turned
BURNERS = ((0.6, 0.14, 0.12), (0.6, -0.14, 0.12), (0.74, 0.14, 0.12), (0.74, -0.14, 0.12))  # m, where the pot's grip is on them
SHELF, SPOT = (0.74, 0.0, 0.12), (0.62, 0.0, 0.12)  # m, the same in the cupboard and on the table

_HOLE, _WALL, _DEPTH = 0.015, 0.007, 0.006  # m, half widths of a knob's hole and of walls, half height of these


def stands(layout: Tensor, order: Tensor) -> Tensor:
    """(N, 3, 3) x, y, heading of the robot in front of cupboard, stove and table, from indices (N,) into LAYOUTS and ORDERS."""
    places = torch.tensor(tuple(LAYOUTS.values()), dtype=torch.float32)
    where = torch.tensor([[order.index(station[0]) for station in STATIONS] for order in ORDERS])
    return places[layout.long().unsqueeze(-1), where[order.long()]]


def build(spec: mujoco.MjSpec) -> None:
    """Add the kitchen, its sensors, and the pot, which shows where it is and touches nothing."""
    import mujoco

    box, cylinder = mujoco.mjtGeom.mjGEOM_BOX, mujoco.mjtGeom.mjGEOM_CYLINDER
    kitchen = spec.worldbody.add_body(name="kitchen")
    for name, stand in zip(STATIONS, LAYOUTS["I"], strict=True):
        body = kitchen.add_body(name=name, pos=[*stand[:2], SHOULDER])
        _picture(body, box, [0.25, 0.37, 0.24], [0.85, 0, -0.18], [0.8, 0.78, 0.72, 1])
        if name == "cupboard":
            _add_door(spec, body)
            # what the tasks are about is too small in a picture of the whole kitchen
            body.add_camera(name="closeup", pos=[HANDLE[0] - 0.1, 0, HANDLE[2] + 0.26], xyaxes=[0, -1, 0, 0.933, 0, 0.359], fovy=32)
        if name == "stove":
            for x, y, z in BURNERS:
                _picture(body, cylinder, [0.08, 0.005, 0], [x, y, z - 0.05], [0.15, 0.15, 0.15, 1])
            for number, place in enumerate(KNOBS, 1):
                _add_knob(spec, body, f"knob_{number}", place)
    for number in range(1, len(KNOBS) + 1):
        _sense(spec, f"knob_turn/{number}", "JOINTPOS", "JOINT", f"knob_{number}")
    for number in range(1, len(KNOBS) + 1):
        _sense(spec, f"cranks/{number}", "FRAMEPOS", "SITE", f"knob_{number}")
    pot = spec.worldbody.add_body(name="pot", mocap=True)
    _picture(pot, cylinder, [0.08, 0.05, 0], [0, 0, -0.04], [0.75, 0.2, 0.2, 1])


def _add_door(spec: mujoco.MjSpec, cupboard: mujoco.MjsBody) -> None:
    """A front that can swing and slide; parameters decide which, and lock the other joint."""
    import mujoco

    door = cupboard.add_body(name="door", pos=HANDLE)
    door.add_joint(name="door_hinge", type=mujoco.mjtJoint.mjJNT_HINGE, axis=[0, 0, 1], limited=True, range=[-SWUNG, SWUNG])
    door.add_joint(name="door_slide", type=mujoco.mjtJoint.mjJNT_SLIDE, axis=[-1, 0, 0], limited=True, range=[-PRESSED, DRAWN])
    panel = door.add_geom(type=mujoco.mjtGeom.mjGEOM_BOX, size=[0.01, HINGE_RADIUS, 0.15], pos=[0.04, 0, -0.03], mass=3.0, rgba=[0.55, 0.4, 0.25, 1])
    panel.contype, panel.conaffinity = 0, 0
    door.gravcomp = 1.0  # springs balance it, where it opens downwards
    _add_hole(door, "handle", half=HANDLES["ring"], rgba=(0.95, 0.8, 0.15, 1.0))
    door.add_site(name="handle", size=[0.005, 0, 0])
    _sense(spec, "door_qpos/hinge", "JOINTPOS", "JOINT", "door_hinge")
    _sense(spec, "door_qpos/slide", "JOINTPOS", "JOINT", "door_slide")
    _sense(spec, "handle_pos", "FRAMEPOS", "SITE", "handle")


def _add_knob(spec: mujoco.MjSpec, stove: mujoco.MjsBody, name: str, place: tuple[float, ...]) -> None:
    import mujoco

    knob = stove.add_body(name=name, pos=place)
    knob.add_joint(name=name, type=mujoco.mjtJoint.mjJNT_HINGE, axis=[0, 0, 1], limited=True, range=[-TURNED, TURNED], damping=[KNOB_DAMPING, 0, 0])
    knob.add_geom(type=mujoco.mjtGeom.mjGEOM_CYLINDER, size=[0.03, 0.015, 0], pos=[0, 0, -0.02], mass=0.3, contype=0, conaffinity=0, rgba=[0.2, 0.2, 0.2, 1])
    _add_hole(knob, name, (-CRANK, 0.0, 0.0))
    knob.add_site(name=name, pos=[-CRANK, 0, 0], size=[0.005, 0, 0])


def _add_hole(
    body: mujoco.MjsBody, name: str, middle: tuple[float, float, float] = (0.0, 0.0, 0.0), half: tuple[float, float] = (_HOLE, _HOLE),
    rgba: tuple[float, ...] = (0.7, 0.7, 0.75, 1.0),
) -> None:  # fmt: skip
    """Four walls around a hole for the peg, `half` its half widths from side to side and from front to back."""
    import mujoco

    aside, along = half
    for axis, side in itertools.product((0, 1), (-1, 1)):
        pos, size = [*middle], [along + 2 * _WALL, aside + 2 * _WALL, _DEPTH]
        pos[axis] += side * ((along, aside)[axis] + _WALL)
        size[axis] = _WALL
        wall = body.add_geom(type=mujoco.mjtGeom.mjGEOM_BOX, size=size, pos=pos, mass=0.02, contype=0, conaffinity=2, rgba=rgba)
        wall.name, wall.friction, wall.condim = f"{name}/{'xy'[axis]}{side}", [0.2, 0.0, 0.0], 3


def _picture(body: mujoco.MjsBody, kind: mujoco.mjtGeom, size: list[float], pos: list[float], rgba: list[float]) -> None:
    body.add_geom(type=kind, size=size, pos=pos, rgba=rgba, mass=0.0, contype=0, conaffinity=0)


def _sense(spec: mujoco.MjSpec, name: str, sensor: str, kind: str, target: str) -> None:
    import mujoco

    spec.add_sensor(name=name, type=getattr(mujoco.mjtSensor, f"mjSENS_{sensor}"), objtype=getattr(mujoco.mjtObj, f"mjOBJ_{kind}"), objname=target)


# ---- parameters -------------------------------------------------------------------------------------------------------------


def arrange(batch: mujoco.batch.Batch, places: Any) -> None:
    """Put the stations at stands (N, 3, 3)."""
    pos, quat = batch.expand("body_pos"), batch.expand("body_quat")
    for number, name in enumerate(STATIONS):
        body, half = batch.model.body(name).id, 0.5 * places[:, number, 2]
        pos[:, body, :2] = places[:, number, :2]
        quat[:, body] = np.stack([np.cos(half), 0 * half, 0 * half, np.sin(half)], -1)


def hang_door(batch: mujoco.batch.Batch, kinds: list[str], handles: list[str]) -> None:
    """Give each simulation's door its mechanism and its handle."""
    model = batch.model
    hinge, slide = (model.joint(f"door_{kind}") for kind in ("hinge", "slide"))
    pos, axis, limits = (batch.expand(f"jnt_{field}") for field in ("pos", "axis", "range"))
    damping = batch.expand("dof_damping")
    for row, name in enumerate(kinds):
        kind, direction, pivot, (low, high), _ = MECHANISMS[name]
        moving, locked = (hinge, slide) if kind == "hinge" else (slide, hinge)
        pos[row, hinge.id] = pivot
        axis[row, moving.id], limits[row, moving.id] = direction, (low, high)
        limits[row, locked.id] = (-0.1, 0.1)
        axis[row, locked.id] = model.jnt_axis[locked.id]
        lever = max(math.hypot(*pivot), 0.13) if kind == "hinge" else 1.0  # a carousel is damped more: it does not coast
        damping[row, moving.dofadr[0]], damping[row, locked.dofadr[0]] = DOOR_DAMPING * lever**2, LOCKED
    geom_pos, geom_size = batch.expand("geom_pos"), batch.expand("geom_size")
    aside, along = np.array([HANDLES[name] for name in handles]).T
    for side in (-1, 1):
        front, flank = (model.geom(f"handle/{axis_name}{side}").id for axis_name in "xy")
        geom_pos[:, front, 0], geom_size[:, front, 1] = side * (along + _WALL), aside + 2 * _WALL
        geom_pos[:, flank, 1], geom_size[:, flank, 0] = side * (aside + _WALL), along + 2 * _WALL


def fit_knobs(batch: mujoco.batch.Batch, leftward: Any) -> None:
    """Which way (N,) bool the knobs turn on."""
    limits = batch.expand("jnt_range")
    for number in range(1, len(KNOBS) + 1):
        limits[:, batch.model.joint(f"knob_{number}").id] = np.where(leftward[:, None], (0.0, TURNED), (-TURNED, 0.0))


# ---- what the joints say ----------------------------------------------------------------------------------------------------


def is_open(door_qpos: Tensor, mechanism: Tensor) -> Tensor:
    """(...) bool from the door's hinge and slide (..., 2), of which one moves, and its mechanism (...) as an index into MECHANISMS."""
    enough = torch.tensor([least for *_, least in MECHANISMS.values()])
    return door_qpos.abs().amax(-1) > enough[mechanism.long()]


def into_station(point: Tensor, stand: Tensor) -> Tensor:
    """Points (..., 3) of the world in the frame of a station with stand (..., 3)."""
    x, y = (point[..., :2] - stand[..., :2]).unbind(-1)
    cos, sin = stand[..., 2].cos(), stand[..., 2].sin()
    return torch.stack([cos * x + sin * y, cos * y - sin * x, point[..., 2] - SHOULDER], -1)


def into_world(point: Tensor, stand: Tensor) -> Tensor:
    """Points (..., 3) of a station with stand (..., 3) in the world's frame."""
    x, y, z = point.unbind(-1)
    cos, sin = stand[..., 2].cos(), stand[..., 2].sin()
    return torch.stack([stand[..., 0] + cos * x - sin * y, stand[..., 1] + sin * x + cos * y, z + SHOULDER], -1)


def swing_angle(handle: Tensor, side: float) -> Tensor:
    """(...) rad by which a door with a hinge at `side` (1 left, -1 right) would be open with its handle there (..., 3), between 0 and a right angle."""
    out, away = HANDLE[0] - handle[..., 0], side * HINGE_RADIUS - handle[..., 1]
    return torch.atan2(out, side * away).clamp(0.0, 0.5 * math.pi)
