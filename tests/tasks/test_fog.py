"""Fog: against numbers computed by hand."""

import math

import torch

from metarl.tasks.sensing import through_fog, transmission


def test_two_percent_are_left_at_the_visibility():
    clear = transmission(torch.tensor([0.0, 5.0, 10.0, 20.0]), torch.tensor(10.0))
    torch.testing.assert_close(clear, torch.tensor([1.0, math.sqrt(0.02), 0.02, 0.0004]), atol=1e-4, rtol=0)


def test_points_are_seen_as_often_as_the_fog_lets_light_through_and_as_well():
    num, rng = 40_000, torch.Generator().manual_seed(0)
    points = torch.tensor([[3.0, 4.0], [0.6, 0.8]])  # 5 m and 1 m away
    chance, noise = torch.rand(num, 2, generator=rng), torch.randn(num, 2, 2, generator=rng)
    looks = through_fog(points.expand(num, 2, 2), torch.full((num,), 10.0), chance, noise, sigma=0.01)
    seen = looks.abs().amax(-1) > 0
    clear = torch.tensor([math.sqrt(0.02), 0.02**0.1])
    torch.testing.assert_close(seen.float().mean(0), clear, atol=0.01, rtol=0)
    for w in range(2):
        off = looks[seen[:, w], w] - points[w]
        torch.testing.assert_close(off.std(0), (0.01 / clear[w].sqrt()).expand(2), rtol=0.03, atol=0)
        assert off.mean(0).abs().max() < 1e-3


def test_what_is_not_seen_leaves_zeros():
    looks = through_fog(torch.ones(1, 1, 2), torch.tensor([0.5]), torch.full((1, 1), 0.999), torch.ones(1, 1, 2), sigma=0.01)
    assert looks.abs().max() == 0
