"""Tracks: closed curves around the world's origin, driven counter-clockwise. Pure functions of tensors.

A track's distance from the origin is a function of the angle, r(a) = radius (1 + sum of amplitude_k cos(k a - phase_k), k = 2, 3, 4), so
that the place of a car along the track is known from its position alone.
"""

from __future__ import annotations

import torch
from torch import Tensor

from metarl.robots.spec import constant

WAVES = (2.0, 3.0, 4.0)


def shape(radius: Tensor, amplitudes: Tensor, phases: Tensor) -> Tensor:
    """(..., 7) a track as one tensor, from its mean radius (...) in m, amplitudes (..., 3) and phases (..., 3) in rad."""
    return torch.cat([radius.unsqueeze(-1), amplitudes, phases], -1)


def _waves(track: Tensor, angle: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Radius (...), wave numbers (3,), amplitudes and turns (..., 3) at angles (...), which may have one axis more than the tracks (..., 7)."""
    if angle.ndim == track.ndim:
        track = track.unsqueeze(-2)
    waves = constant(WAVES, angle.dtype, angle.device)
    return track[..., 0], waves, track[..., 1:4], angle.unsqueeze(-1) * waves - track[..., 4:7]


def _distance(track: Tensor, angle: Tensor) -> Tensor:
    """Distance r (...) in m from the origin at angles (...)."""
    radius, _, amplitude, turn = _waves(track, angle)
    return radius * (1 + (amplitude * turn.cos()).sum(-1))


def _polar(track: Tensor, angle: Tensor) -> tuple[Tensor, Tensor]:
    """The same, and its slope by the angle (...) in m/rad."""
    radius, waves, amplitude, turn = _waves(track, angle)
    return radius * (1 + (amplitude * turn.cos()).sum(-1)), radius * (-amplitude * waves * turn.sin()).sum(-1)


def position(track: Tensor, angle: Tensor) -> Tensor:
    """(..., 2) m, points of the centre line at angles (...) or (..., W) in rad."""
    r = _distance(track, angle)
    return torch.stack([r * angle.cos(), r * angle.sin()], -1)


def direction(track: Tensor, angle: Tensor) -> Tensor:
    """(...) rad, of the way along the centre line at angles (...) in rad."""
    r, slope = _polar(track, angle)
    return angle + torch.atan2(r, slope)


def metres_per_radian(track: Tensor, angle: Tensor) -> Tensor:
    """(...) m/rad, length of the centre line by angle."""
    r, slope = _polar(track, angle)
    return torch.sqrt(r**2 + slope**2)


def curvature(track: Tensor, angle: Tensor) -> Tensor:
    """(...) 1/m, positive where the track turns left."""
    r, slope = _polar(track, angle)
    radius, waves, amplitude, turn = _waves(track, angle)
    bend = -radius * (amplitude * turn.cos() * waves**2).sum(-1)
    return (r**2 + 2 * slope**2 - r * bend) / (r**2 + slope**2) ** 1.5


def angle_of(pos: Tensor) -> Tensor:
    """(...) rad, the angle at which positions (..., 2 or more) lie."""
    return torch.atan2(pos[..., 1], pos[..., 0])


def offset(track: Tensor, pos: Tensor) -> Tensor:
    """(...) m from the centre line, positive to the left of the way, at positions (..., 2 or more) near the track."""
    angle = angle_of(pos)
    r, slope = _polar(track, angle)
    return (r - pos[..., :2].norm(dim=-1)) * r / torch.sqrt(r**2 + slope**2)


def progress(track: Tensor, before: Tensor, after: Tensor) -> Tensor:
    """(...) m along the centre line from a position (..., 2 or more) to one nearby."""
    start = angle_of(before)
    turned = torch.remainder(angle_of(after) - start + torch.pi, 2 * torch.pi) - torch.pi
    return turned * metres_per_radian(track, start + 0.5 * turned)


def ahead(track: Tensor, angle: Tensor, distances: tuple[float, ...]) -> Tensor:
    """(..., W) rad, the angles that lie W distances in m further along the centre line than `angle` (...)."""
    angles, done = [], 0.0
    for distance in distances:
        step = distance - done
        middle = angle + 0.5 * step / metres_per_radian(track, angle)
        angle, done = angle + step / metres_per_radian(track, middle), distance
        angles.append(angle)
    return torch.stack(angles, -1)


def into_frame(points: Tensor, pos: Tensor, yaw: Tensor) -> Tensor:
    """(..., W, 2) m, points (..., W, 2) as seen from a car at `pos` (..., 2 or more) that heads towards `yaw` (...)."""
    x, y = (points - pos[..., None, :2]).unbind(-1)
    cos, sin = yaw.cos().unsqueeze(-1), yaw.sin().unsqueeze(-1)
    return torch.stack([cos * x + sin * y, cos * y - sin * x], -1)
