"""Meshes as files for engines that read shapes from files only, in a folder that lives as long as this process."""

from __future__ import annotations

import functools
import hashlib
import tempfile
from pathlib import Path

import mujoco
import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

_RINGS, _SECTORS = 24, 48  # of an ellipsoid's mesh: off the true surface by less than 0.5 % of its size


def mesh_file(model: mujoco.MjModel, mesh: int) -> str:
    """Path of a mesh of the model, in the frame of the shapes that have it."""
    first, count = int(model.mesh_vertadr[mesh]), int(model.mesh_vertnum[mesh])
    faces = model.mesh_face[model.mesh_faceadr[mesh] : model.mesh_faceadr[mesh] + model.mesh_facenum[mesh]]
    return _written(model.mesh_vert[first : first + count].astype(np.float64), faces)


def ellipsoid_file(size: Array) -> str:
    """Path of a mesh of an ellipsoid with half axes (3,) in m."""
    polar, azimuth = np.pi * np.arange(1, _RINGS) / _RINGS, 2 * np.pi * np.arange(_SECTORS) / _SECTORS
    rings = np.stack(np.broadcast_arrays(np.sin(polar)[:, None] * np.cos(azimuth), np.sin(polar)[:, None] * np.sin(azimuth), np.cos(polar)[:, None]), -1)
    points = np.concatenate([rings.reshape(-1, 3), [[0, 0, 1.0], [0, 0, -1.0]]])
    top, bottom, last = len(points) - 2, len(points) - 1, (_RINGS - 2) * _SECTORS
    faces = []
    for s in range(_SECTORS):
        after = (s + 1) % _SECTORS
        faces += [(top, s, after), (bottom, last + after, last + s)]
        for r in range(0, last, _SECTORS):
            faces += [(r + s, r + s + _SECTORS, r + after), (r + after, r + s + _SECTORS, r + after + _SECTORS)]
    return _written(points * size, np.array(faces))


@functools.cache
def _folder() -> tempfile.TemporaryDirectory[str]:
    return tempfile.TemporaryDirectory(prefix="metarl_meshes_")


def _written(vertices: Array, faces: NDArray[np.int_]) -> str:
    """Path of a Wavefront OBJ file; the same mesh is written once."""
    lines = [f"v {x!r} {y!r} {z!r}" for x, y, z in vertices.tolist()] + [f"f {a} {b} {c}" for a, b, c in (faces + 1).tolist()]
    text = "\n".join(lines) + "\n"
    path = Path(_folder().name) / f"{hashlib.blake2b(text.encode(), digest_size=12).hexdigest()}.obj"
    if not path.exists():
        path.write_text(text)
    return str(path)
