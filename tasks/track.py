"""Tracks: closed curves around the world's origin, driven counter-clockwise. Pure functions of tensors.

A track's distance from the origin is a function of the angle, r(a) = radius (1 + sum of amplitude_k cos(k a - phase_k), k = 2, 3, 4), so
that the place of a car along the track is known from its position alone.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from metarl.robots.spec import constant

WAVES = (2.0, 3.0, 4.0)
_FALLING = tuple(-wave for wave in WAVES)


def shape(radius: Tensor, amplitudes: Tensor, phases: Tensor) -> Tensor:
    """(..., 7) a track as one tensor, from its mean radius (...) in m, amplitudes (..., 3) and phases (..., 3) in rad."""
    return torch.cat([radius.unsqueeze(-1), amplitudes, phases], -1)


class _Curve(NamedTuple):
    """The parts of a track (..., 7), for angles with as many axes or one more: radius (...), waves (3,), amplitudes, steepness and phases (..., 3)."""

    radius: Tensor
    waves: Tensor
    amplitude: Tensor
    steepness: Tensor
    phase: Tensor


def _curve(track: Tensor, angle: Tensor) -> _Curve:
    if angle.ndim == track.ndim:
        track = track.unsqueeze(-2)
    waves, falling = (constant(numbers, angle.dtype, angle.device) for numbers in (WAVES, _FALLING))
    radius, amplitude, phase = track.split_with_sizes((1, 3, 3), -1)
    return _Curve(radius.squeeze(-1), waves, amplitude, amplitude * falling, phase)


def _turn(curve: _Curve, angle: Tensor) -> Tensor:
    """(..., 3) rad, of the waves at angles (...)."""
    return angle.unsqueeze(-1) * curve.waves - curve.phase


def _distance(track: Tensor, angle: Tensor) -> Tensor:
    """Distance r (...) in m from the origin at angles (...)."""
    curve = _curve(track, angle)
    return curve.radius * (1 + (curve.amplitude * _turn(curve, angle).cos()).sum(-1))


def _polar(curve: _Curve, angle: Tensor) -> tuple[Tensor, Tensor]:
    """The same, and its slope by the angle (...) in m/rad."""
    turn = _turn(curve, angle)
    return curve.radius * (1 + (curve.amplitude * turn.cos()).sum(-1)), curve.radius * (curve.steepness * turn.sin()).sum(-1)


def position(track: Tensor, angle: Tensor) -> Tensor:
    """(..., 2) m, points of the centre line at angles (...) or (..., W) in rad."""
    r = _distance(track, angle)
    return torch.stack([r * angle.cos(), r * angle.sin()], -1)


def direction(track: Tensor, angle: Tensor) -> Tensor:
    """(...) rad, of the way along the centre line at angles (...) in rad."""
    r, slope = _polar(_curve(track, angle), angle)
    return angle + torch.atan2(r, slope)


def metres_per_radian(track: Tensor, angle: Tensor) -> Tensor:
    """(...) m/rad, length of the centre line by angle."""
    return _pace(*_polar(_curve(track, angle), angle))


def _pace(r: Tensor, slope: Tensor) -> Tensor:
    return torch.sqrt(r.square() + slope.square())


def curvature(track: Tensor, angle: Tensor) -> Tensor:
    """(...) 1/m, positive where the track turns left."""
    curve = _curve(track, angle)
    r, slope = _polar(curve, angle)
    bend = -curve.radius * (curve.amplitude * _turn(curve, angle).cos() * curve.waves**2).sum(-1)
    return (r**2 + 2 * slope**2 - r * bend) / (r**2 + slope**2) ** 1.5


def angle_of(pos: Tensor) -> Tensor:
    """(...) rad, the angle at which positions (..., 2 or more) lie."""
    return torch.atan2(pos[..., 1], pos[..., 0])


def offset(track: Tensor, pos: Tensor) -> Tensor:
    """(...) m from the centre line, positive to the left of the way, at positions (..., 2 or more) near the track."""
    angle = angle_of(pos)
    r, slope = _polar(_curve(track, angle), angle)
    return _beside(r, _pace(r, slope), pos)


def _beside(r: Tensor, pace: Tensor, pos: Tensor) -> Tensor:
    return (r - torch.linalg.vector_norm(pos[..., :2], dim=-1)) * r / pace


def lane(track: Tensor, pos: Tensor, distances: tuple[float, ...]) -> tuple[Tensor, Tensor, Tensor]:
    """Of positions (..., 2 or more) near the track: `direction` and `offset` there, and (..., W, 2) m, the points W distances in m further along it."""
    angle = angle_of(pos)
    curve = _curve(track, angle)
    r, slope = _polar(curve, angle)
    pace = _pace(r, slope)
    points = position(track, _further(curve, angle, pace, distances))
    return angle + torch.atan2(r, slope), _beside(r, pace, pos), points


def progress(track: Tensor, before: Tensor, after: Tensor) -> Tensor:
    """(...) m along the centre line from a position (..., 2 or more) to one nearby."""
    start = angle_of(before)
    turned = torch.remainder(angle_of(after) - start + torch.pi, 2 * torch.pi) - torch.pi
    return turned * metres_per_radian(track, start + 0.5 * turned)


def ahead(track: Tensor, angle: Tensor, distances: tuple[float, ...]) -> Tensor:
    """(..., W) rad, the angles that lie W distances in m further along the centre line than `angle` (...)."""
    curve = _curve(track, angle)
    return _further(curve, angle, _pace(*_polar(curve, angle)), distances)


def _further(curve: _Curve, angle: Tensor, pace: Tensor, distances: tuple[float, ...]) -> Tensor:
    """The same, where the pace (...) at the first angle in m/rad is known."""
    angles: list[Tensor] = []
    done = 0.0
    for distance in distances:
        step = distance - done
        if angles:
            pace = _pace(*_polar(curve, angle))
        middle = angle + 0.5 * step / pace
        angle, done = angle + step / _pace(*_polar(curve, middle)), distance
        angles.append(angle)
    return torch.stack(angles, -1)


def into_frame(points: Tensor, pos: Tensor, heading: Tensor) -> Tensor:
    """(..., W, 2) m, points (..., W, 2) as seen from a car at `pos` (..., 2 or more) whose heading has this sine and cosine (..., 2)."""
    x, y = (points - pos[..., None, :2]).unbind(-1)
    sin, cos = heading.unsqueeze(-2).unbind(-1)
    return torch.stack([cos * x + sin * y, cos * y - sin * x], -1)
