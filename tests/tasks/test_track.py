"""Geometry of tracks: circles by hand, others against finite differences."""

import math

import torch

from metarl.tasks import track

CIRCLE = track.shape(torch.tensor(2.0), torch.zeros(3), torch.zeros(3))
DRAWN = track.shape(torch.tensor(2.5), torch.tensor([0.15, 0.1, 0.04]), torch.tensor([0.3, -1.2, 2.0])).double()
ANGLES = torch.linspace(-math.pi, math.pi, 2001, dtype=torch.float64)


def test_a_circle():
    angle = torch.tensor([0.0, math.pi / 2])
    torch.testing.assert_close(track.position(CIRCLE, angle), torch.tensor([[2.0, 0.0], [0.0, 2.0]]), atol=1e-6, rtol=0)
    torch.testing.assert_close(track.direction(CIRCLE, angle), angle + math.pi / 2)
    torch.testing.assert_close(track.curvature(CIRCLE, angle), torch.full((2,), 0.5))
    torch.testing.assert_close(track.metres_per_radian(CIRCLE, angle), torch.full((2,), 2.0))
    torch.testing.assert_close(track.offset(CIRCLE, torch.tensor([1.7, 0.0])), torch.tensor(0.3))  # inside is to the left
    torch.testing.assert_close(track.ahead(CIRCLE, torch.tensor(3.0), (0.5, 1.0)), torch.tensor([3.25, 3.5]))


def test_progress_is_counted_across_the_seam():
    before, after = (torch.tensor([2 * math.cos(a), 2 * math.sin(a)]) for a in (math.pi - 0.05, math.pi + 0.05))
    torch.testing.assert_close(track.progress(CIRCLE, before, after), torch.tensor(0.2), atol=1e-5, rtol=0)
    torch.testing.assert_close(track.progress(CIRCLE, after, before), torch.tensor(-0.2), atol=1e-5, rtol=0)


def test_a_drawn_track_against_finite_differences():
    points = track.position(DRAWN, ANGLES)
    steps = points.diff(dim=0)
    length = steps.norm(dim=-1)
    middle = 0.5 * (ANGLES[1:] + ANGLES[:-1])
    torch.testing.assert_close(track.metres_per_radian(DRAWN, middle) * ANGLES.diff(), length, rtol=1e-5, atol=0)
    heading = torch.atan2(steps[:, 1], steps[:, 0])
    turn = torch.remainder(track.direction(DRAWN, middle) - heading + math.pi, 2 * math.pi) - math.pi
    assert turn.abs().max() < 1e-4
    bend = torch.remainder(heading.diff() + math.pi, 2 * math.pi) - math.pi
    torch.testing.assert_close(track.curvature(DRAWN, ANGLES[1:-1]), bend / (0.5 * (length[1:] + length[:-1])), atol=2e-4, rtol=0)


def test_offsets_and_points_ahead_of_a_drawn_track():
    points, heading = track.position(DRAWN, ANGLES), track.direction(DRAWN, ANGLES)
    left = torch.stack([-heading.sin(), heading.cos()], -1)
    for off in (-0.1, 0.0, 0.1):
        torch.testing.assert_close(track.offset(DRAWN, points + off * left), torch.full_like(ANGLES, off), atol=0.012, rtol=0)
    length = torch.cat([torch.zeros(1, dtype=torch.float64), points.diff(dim=0).norm(dim=-1).cumsum(0)])
    found = track.ahead(DRAWN, ANGLES[0], (0.5, 1.0, 2.0))
    for angle, distance in zip(found, (0.5, 1.0, 2.0), strict=True):
        assert abs(float(length[int((ANGLES - angle).abs().argmin())]) - distance) < 0.02


def test_points_in_the_frame_of_a_car():
    seen = track.into_frame(torch.tensor([[1.0, 3.0], [0.0, 2.0]]), torch.tensor([1.0, 2.0, 0.1]), torch.tensor([1.0, 0.0]))
    torch.testing.assert_close(seen, torch.tensor([[1.0, 0.0], [0.0, 1.0]]), atol=1e-6, rtol=0)
