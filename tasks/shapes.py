"""Shapes of loose objects, for tasks whose objects differ in shape: primitives, and irregular convex bodies made from seeded points.

An object lies along its x axis; y is across, between the fingers that grasp it. Sizes are half lengths along (x), across (y) and up (z).
A primitive has any size. A hull has vertices of its own, so its size is that of the catalogue.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    import mujoco
    import mujoco.batch

Array = NDArray[np.float64]

PRIMITIVES = ("box", "cylinder", "capsule", "sphere", "ellipsoid")
NUM_HULLS = 12  # hull_0 ... hull_11, a finite catalogue: the same vertices for ever
LENGTH = 2.0  # half length along of an object, as a multiple of its half width; a sphere's is 1
_ROCKING = ("sphere", "ellipsoid")
_LARGEST = (0.07, 0.035, 0.035)  # m, half sizes before any are applied: the engine keeps their bounding sphere for hulls, so it must hold them all
_LYING = (2**-0.5, 0.0, 2**-0.5, 0.0)  # wxyz, turns a cylinder's z axis along x
_POINTS = 48  # of a hull, before those inside are dropped


class Hull(NamedTuple):
    """One irregular body, about its own frame: middle of its bounds, flat side down.

    Attributes:
        vertices: (V, 3) m.
        half: (3,) m, half lengths of its bounds.
        geom_pos, geom_quat: (3,), (4,) of the mesh's principal frame, where MuJoCo puts a mesh.
        inertia: (3,) m², principal moments of inertia of 1 kg, about geom_pos along geom_quat's axes.
    """

    vertices: Array
    half: Array
    geom_pos: Array
    geom_quat: Array
    inertia: Array


def hull_names(indices: Sequence[int]) -> tuple[str, ...]:
    """Names of hulls by their index.

    Raises:
        ValueError: an index beyond the catalogue.
    """
    beyond = [i for i in indices if not 0 <= i < NUM_HULLS]
    if beyond:
        raise ValueError(f"hull {beyond[0]} does not exist: the catalogue has 0 to {NUM_HULLS - 1}")
    return tuple(f"hull_{i}" for i in indices)


def check_convex(vertices: Array, name: str) -> None:
    """Refuse points that are not the corners of a solid body.

    Raises:
        ValueError: wrong shape, numbers that are not finite, or no volume; the message names the mesh.
    """
    if vertices.ndim != 2 or vertices.shape[1] != 3 or len(vertices) < 4:
        raise ValueError(f"mesh {name!r} has vertices of shape {vertices.shape}, expected (4 or more, 3)")
    if not np.isfinite(vertices).all():
        row = int(np.flatnonzero(~np.isfinite(vertices).all(1))[0])
        raise ValueError(f"mesh {name!r}: vertex {row} is not finite: {vertices[row].tolist()}")
    spread = np.linalg.svd(vertices - vertices.mean(0), compute_uv=False) / np.sqrt(len(vertices))
    if spread[-1] < 1e-5:
        raise ValueError(f"mesh {name!r} is flat: its vertices spread {spread[-1]:.2g} m in one direction, a solid body needs 1e-05 m")


@functools.cache
def hull(index: int) -> Hull:
    """Hull number `index` of the catalogue: points near a rounded bar, cut flat at the bottom, at the top and at the flanks.

    Raises:
        ValueError: an index beyond the catalogue.
    """
    import mujoco

    (name,) = hull_names([index])
    rng = np.random.Generator(np.random.Philox(key=[0x48554C4C, index]))
    width = rng.uniform(0.020, 0.032)
    half = width * np.array([rng.uniform(1.6, 2.2), 1.0, rng.uniform(0.8, 1.1)])
    direction = rng.normal(size=(_POINTS, 3))
    roundness = rng.uniform(4.0, 8.0)  # of the superellipsoid |x|^r + |y|^r + |z|^r = 1: 2 is an ellipsoid, many a box
    unit = direction / (np.abs(direction) ** roundness).sum(1, keepdims=True) ** (1 / roundness)
    points = unit * rng.uniform(0.9, 1.0, (_POINTS, 1))
    points[:, 1:] = points[:, 1:].clip(-0.7, 0.7)
    low, high = points.min(0), points.max(0)
    vertices = (points - (low + high) / 2) / ((high - low) / 2) * half
    spec = mujoco.MjSpec()
    add_mesh(spec, name, vertices)
    body = spec.worldbody.add_body(name="body")
    body.add_geom(type=mujoco.mjtGeom.mjGEOM_MESH, meshname=name, mass=1.0)
    model = spec.compile()
    return Hull(vertices, half, model.geom_pos[0].copy(), model.geom_quat[0].copy(), model.body_inertia[1].copy())


def add_mesh(spec: mujoco.MjSpec, name: str, vertices: Array) -> None:
    """Put the convex hull of some points (V, 3) among the meshes of a scene.

    Raises:
        ValueError: they are not the corners of a solid body.
    """
    check_convex(vertices, name)
    mesh = spec.add_mesh(name=name)
    mesh.uservert = vertices.flatten()


def add_object(spec: mujoco.MjSpec, name: str, shapes: Sequence[str], pos: Sequence[float]) -> mujoco.MjsGeom:
    """A loose body in the scene that can take any of `shapes`; its shape, also called `name`."""
    import mujoco

    for shape in shapes:
        if shape.startswith("hull_"):
            add_mesh(spec, shape, hull(int(shape.removeprefix("hull_"))).vertices)
    thing = spec.worldbody.add_body(name=name, pos=pos)
    thing.add_freejoint(name=name)
    thing.simple = 0  # its centre of mass moves away from its frame
    return thing.add_geom(name=name, type=mujoco.mjtGeom.mjGEOM_BOX, size=_LARGEST, mass=0.2)


def half_sizes(shapes: Sequence[str], index: Array, half_width: Array) -> Array:
    """(N, 3) half lengths of objects along, across and up.

    Args:
        shapes: names that `index` counts.
        index: (N,) which of them each object has.
        half_width: (N,) m, across; a hull has its own.
    """
    length = np.array([1.0 if shape == "sphere" else LENGTH for shape in shapes])[index.astype(int)]
    sizes = half_width[:, None] * np.stack([length, np.ones_like(length), np.ones_like(length)], 1)
    for i, shape in enumerate(shapes):
        if shape.startswith("hull_"):
            sizes[index == i] = hull(int(shape.removeprefix("hull_"))).half
    return sizes


def apply_object(batch: mujoco.batch.Batch, name: str, shapes: Sequence[str], index: Array, half_width: Array, mass: Array, com_along: Array) -> None:
    """Give the object of each simulation its shape, size, mass and centre of mass.

    Args:
        batch: to write into.
        name: of the object, see `add_object`.
        shapes: those of `add_object`.
        index: (N,) which of them each object has.
        half_width: (N,) m.
        mass: (N,) kg.
        com_along: (N,) part of the half length by which the centre of mass lies off the middle; a ball or an egg would not lie still so, its own is 0.
    """
    model = batch.model
    geom, body = model.geom(name).id, model.body(name).id
    half = half_sizes(shapes, index, half_width)
    fields = {f: batch.expand(f"geom_{f}") for f in ("type", "dataid", "size", "pos", "quat", "rbound", "aabb")}
    inertia, com_quat = batch.expand("body_inertia"), batch.expand("body_iquat")
    com = centre_of_mass(shapes, index, half, com_along)
    for i in np.unique(index.astype(int)):
        rows = index == i
        for field, value in _geom_fields(model, shapes[i], half[rows]).items():
            fields[field][rows, geom] = value
        unit, frame = _unit_inertia(shapes[i], half[rows])
        inertia[rows, body], com_quat[rows, body] = unit * mass[rows, None], frame
    batch.expand("body_mass")[:, body] = mass
    batch.expand("body_ipos")[:, body] = com


def centre_of_mass(shapes: Sequence[str], index: Array, half: Array, com_along: Array) -> Array:
    """(N, 3) m from the middle of objects of half sizes (N, 3); arguments as in `apply_object`."""
    com = np.zeros_like(half)
    com[:, 0] = com_along * half[:, 0]
    for i in np.unique(index.astype(int)):
        if shapes[i].startswith("hull_"):
            com[index == i] += hull(int(shapes[i].removeprefix("hull_"))).geom_pos
        elif shapes[i] in _ROCKING:
            com[index == i] = 0.0
    return com


def _geom_fields(model: mujoco.MjModel, shape: str, half: Array) -> dict[str, Array | int]:
    """Fields of the geoms of n objects of one shape, half (n, 3)."""
    import mujoco

    a, b = half[:, 0], half[:, 1]
    zero = np.zeros_like(a)
    if shape.startswith("hull_"):
        mesh, made = model.mesh(shape).id, hull(int(shape.removeprefix("hull_")))
        vertices = model.mesh_vert[model.mesh_vertadr[mesh] : model.mesh_vertadr[mesh] + model.mesh_vertnum[mesh]].astype(float)
        low, high = vertices.min(0), vertices.max(0)
        bounds = np.concatenate([(low + high) / 2, (high - low) / 2])
        return {
            "type": int(mujoco.mjtGeom.mjGEOM_MESH), "dataid": mesh, "size": bounds[3:], "pos": made.geom_pos, "quat": made.geom_quat,
            "rbound": np.linalg.norm(np.abs(bounds[:3]) + bounds[3:]), "aabb": bounds,
        }  # fmt: skip
    straight = np.array([1.0, 0, 0, 0])
    kinds = {
        "box": (mujoco.mjtGeom.mjGEOM_BOX, half, half, straight),
        "sphere": (mujoco.mjtGeom.mjGEOM_SPHERE, np.stack([b, zero, zero], 1), half, straight),
        "ellipsoid": (mujoco.mjtGeom.mjGEOM_ELLIPSOID, half, half, straight),
        "cylinder": (mujoco.mjtGeom.mjGEOM_CYLINDER, np.stack([b, a, zero], 1), half[:, [1, 1, 0]], np.array(_LYING)),
        "capsule": (mujoco.mjtGeom.mjGEOM_CAPSULE, np.stack([b, a - b, zero], 1), half[:, [1, 1, 0]], np.array(_LYING)),
    }
    kind, size, bounds, quat = kinds[shape]
    corner = {"box": half, "cylinder": half[:, :2]}.get(shape, half[:, :1])  # farthest point from the middle
    around = np.concatenate([np.zeros_like(bounds), bounds], 1)
    return {"type": int(kind), "dataid": -1, "size": size, "pos": zero[:, None], "quat": quat, "rbound": np.linalg.norm(corner, axis=1), "aabb": around}


def _unit_inertia(shape: str, half: Array) -> tuple[Array, Array]:
    """Of n objects of one shape and 1 kg: principal moments (n, 3) about the centre of mass, and their frame (4,)."""
    straight = np.array([1.0, 0, 0, 0])
    if shape.startswith("hull_"):
        made = hull(int(shape.removeprefix("hull_")))
        return np.tile(made.inertia, (len(half), 1)), made.geom_quat
    a, b = half[:, 0], half[:, 1]
    if shape in ("box", "ellipsoid", "sphere"):  # m/3 (y² + z²) of a box, m/5 of an ellipsoid
        x, y, z = (half**2).T
        return np.stack([y + z, x + z, x + y], 1) / (3 if shape == "box" else 5), straight
    if shape == "cylinder":  # along x: m b²/2, m (3 b² + 4 a²)/12
        across = b**2 / 4 + a**2 / 3
        return np.stack([b**2 / 2, across, across], 1), straight
    return _capsule_inertia(a - b, b), straight


def _capsule_inertia(straight: Array, radius: Array) -> Array:
    """(n, 3) of 1 kg: a cylinder of half length `straight` with two half balls."""
    tube, ball = 2 * straight * np.pi * radius**2, 4 / 3 * np.pi * radius**3
    along = tube * radius**2 / 2 + ball * 0.4 * radius**2
    # a half ball's centre lies 3/8 of the radius beyond the end, its moment about that is (2/5 - 9/64) m r²
    ends = ball * ((0.4 - 9 / 64) * radius**2 + (straight + 0.375 * radius) ** 2)
    across = tube * (radius**2 / 4 + straight**2 / 3) + ends
    return np.stack([along, across, across], 1) / (tube + ball)[:, None]
