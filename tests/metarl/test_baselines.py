"""Linear baselines: exact where returns are linear in the features, one for each leading index, blind to what is masked."""

import pytest
import torch

from metarl.baselines import RunningRegression, fitted_values, time_features


def test_time_features_by_hand():
    features = time_features(torch.tensor([[2.0], [3.0]]))  # one episode of two decisions, one observation
    torch.testing.assert_close(features, torch.tensor([[2, 4, 0, 0, 0, 1], [3, 9, 0.01, 1e-4, 1e-6, 1]]))


def test_fitted_values_are_a_regression_of_each_task_on_its_masked_entries():
    rng = torch.Generator().manual_seed(0)
    x = torch.randn(2, 50, 2, generator=rng, dtype=torch.float64)
    features = torch.cat([x, torch.ones(2, 50, 1, dtype=torch.float64)], -1)
    weights = torch.tensor([[1.0, -2.0, 0.5], [3.0, 0.0, -1.0]], dtype=torch.float64)
    target = (features @ weights.unsqueeze(-1)).squeeze(-1)
    mask = torch.rand(2, 50, generator=rng) < 0.7
    garbled = torch.where(mask, target, 1e3)
    torch.testing.assert_close(fitted_values(features, garbled, mask, ridge=1e-12), target, rtol=0, atol=1e-6)


def test_fitted_values_survive_constant_features_and_nothing_to_fit():
    features, target = torch.ones(2, 5, 3), torch.full((2, 5), 4.0)
    mask = torch.tensor([[True] * 5, [False] * 5])
    values = fitted_values(features, target, mask)
    torch.testing.assert_close(values, torch.tensor([[4.0] * 5, [0.0] * 5]), rtol=1e-3, atol=1e-3)


def test_fitted_values_of_a_robot_that_stands_still_far_away():
    """x and x² are multiples of 1 there; in single precision the ridge would be lost, and nothing could be solved."""
    features, target = time_features(torch.full((1, 100, 2), 1e2)), torch.linspace(0, 1, 100).expand(1, -1)
    torch.testing.assert_close(fitted_values(features, target, torch.ones(1, 100, dtype=torch.bool)), target, rtol=0, atol=0.01)


def test_running_regression_learns_one_regression_for_each_episode():
    rng = torch.Generator().manual_seed(1)
    baseline = RunningRegression(2, 2, ridge=1e-9)
    x = torch.randn(2, 100, 1, generator=rng)
    features = torch.cat([x, torch.ones_like(x)], -1)
    target = torch.stack([2 * x[0, :, 0] + 1, -x[1, :, 0]])
    mask = torch.ones(2, 100, dtype=torch.bool)
    mask[:, 50:] = False
    baseline.update(features, torch.where(mask, target, 99.0), mask)
    torch.testing.assert_close(baseline.weights, torch.tensor([[2.0, 1.0], [-1.0, 0.0]]), rtol=1e-4, atol=1e-4)
    # the last regression also answers for episodes beyond the trial
    torch.testing.assert_close(baseline(features[1:], torch.tensor([7])), target[1:], rtol=1e-4, atol=1e-4)
    assert float(baseline.scale) < 1e-3


def test_running_regression_forgets():
    baseline = RunningRegression(1, 1, memory=0.5, ridge=1e-9)
    one = torch.ones(1, 4, 1), torch.full((1, 4), 1.0), torch.ones(1, 4, dtype=torch.bool)
    nine = torch.ones(1, 4, 1), torch.full((1, 4), 9.0), torch.ones(1, 4, dtype=torch.bool)
    baseline.update(*one)
    assert baseline.weights.item() == pytest.approx(1.0)
    baseline.update(*nine)  # (0.5 * 1 + 1 * 9) / 1.5
    assert baseline.weights.item() == pytest.approx(9.5 / 1.5)
    # residual 9 - 9.5/1.5 in the second update, 0 in the first, which weighs half as much
    assert baseline.scale.item() == pytest.approx(((9 - 9.5 / 1.5) ** 2 / 1.5) ** 0.5)
