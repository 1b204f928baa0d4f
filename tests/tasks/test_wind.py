"""Wind: against numbers computed by hand."""

import math

import torch

from metarl.tasks import wind


def test_drag_is_half_rho_area_speed_squared():
    force = wind.drag(torch.tensor([10.0, 0.0, 0.0]), torch.zeros(3), 0.1)
    torch.testing.assert_close(force, torch.tensor([0.5 * 1.225 * 0.1 * 100, 0.0, 0.0]))  # 6.125 N
    # of a body that moves as fast as the air there is none, and one that moves through still air is held back
    assert wind.drag(torch.ones(3), torch.ones(3), 0.1).norm() == 0
    torch.testing.assert_close(wind.drag(torch.zeros(3), torch.tensor([0.0, 3.0, 4.0]), torch.tensor([0.2])), torch.tensor([0.0, -1.8375, -2.45]))


def test_mean_wind_blows_towards_its_angle():
    blown = wind.mean_wind(torch.tensor([2.0, 3.0]), torch.tensor([0.0, math.pi / 2]))
    torch.testing.assert_close(blown, torch.tensor([[2.0, 0.0, 0.0], [0.0, 3.0, 0.0]]), atol=1e-6, rtol=0)


def test_gusts_keep_their_variance_and_forget_with_their_time_constant():
    rng = torch.Generator().manual_seed(0)
    first = wind.first_gust(20_000, rng)
    gust = first
    for _ in range(10):
        gust = wind.next_gust(gust, 0.1, 2.0, rng)
    torch.testing.assert_close(gust.std(0), torch.ones(3), atol=0.02, rtol=0)
    torch.testing.assert_close((first * gust).mean(0), torch.full((3,), math.exp(-1.0 / 2.0)), atol=0.03, rtol=0)
    torch.testing.assert_close(wind.next_gust(first, 0.0, 2.0, rng), first)


def test_gusts_are_a_part_of_the_mean_speed():
    still = wind.gusty(torch.zeros(1, 3), torch.ones(1, 3), 0.3)
    assert still.abs().max() == 0
    blown = wind.gusty(torch.tensor([3.0, 4.0, 0.0]), torch.ones(3), 0.2)
    torch.testing.assert_close(blown, torch.tensor([4.0, 5.0, 0.5]))  # 0.2 * 5 m/s, vertically half


def test_a_wrench_of_the_wind_has_no_torque():
    torch.testing.assert_close(wind.as_wrench(torch.tensor([[1.0, 2.0, 3.0]])), torch.tensor([[1.0, 2.0, 3.0, 0.0, 0.0, 0.0]]))
