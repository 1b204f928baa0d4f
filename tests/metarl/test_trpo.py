"""TRPO on problems whose answer is known on paper."""

import math

import pytest
import torch

from metarl.trpo import TrustRegion, conjugate_gradient, trust_region_step

CURVATURE = torch.tensor([1.0, 4.0], dtype=torch.float64)  # of the KL divergence 1/2 x F x
GRADIENT = torch.tensor([2.0, -8.0], dtype=torch.float64)  # of the loss g x
START = torch.zeros(2, dtype=torch.float64)


def step(evaluate, **settings):
    return trust_region_step(START, torch.tensor(0.0, dtype=torch.float64), GRADIENT, lambda v: CURVATURE * v, evaluate, TrustRegion(damping=0.0, **settings))


def quadratic(factor):
    """A loss that is linear, and a KL divergence that is `factor` times what the Fisher matrix says."""
    return lambda x: (GRADIENT @ x, factor * 0.5 * x @ (CURVATURE * x))


def test_conjugate_gradient_is_exact_after_as_many_iterations_as_there_are_dimensions():
    rng = torch.Generator().manual_seed(0)
    root = torch.randn(6, 6, generator=rng, dtype=torch.float64)
    matrix, target = root @ root.T + torch.eye(6, dtype=torch.float64), torch.randn(6, generator=rng, dtype=torch.float64)
    x, residual = conjugate_gradient(lambda v: matrix @ v, target, 6)
    torch.testing.assert_close(x, torch.linalg.solve(matrix, target))
    rough, residual = conjugate_gradient(lambda v: matrix @ v, target, 2)
    torch.testing.assert_close(residual, target - matrix @ rough)
    assert float(residual.norm()) > 1e-3


def test_conjugate_gradient_of_nothing_is_nothing():
    x, _ = conjugate_gradient(lambda v: v, torch.zeros(3), 5)
    assert torch.equal(x, torch.zeros(3))


def test_step_on_a_quadratic():
    # natural gradient F^-1 g = (2, -2); its length g F^-1 g = 4 + 16 = 20; step -(2, -2) sqrt(2 delta / 20)
    outcome = step(quadratic(0.999), max_kl=0.1)
    expected = -torch.tensor([2.0, -2.0], dtype=torch.float64) * math.sqrt(0.2 / 20)
    torch.testing.assert_close(outcome.params, expected)
    assert outcome.accepted
    assert outcome.backtracks == 0
    assert outcome.kl.item() == pytest.approx(0.0999)
    assert outcome.loss.item() == pytest.approx(-20 * math.sqrt(0.2 / 20))


def test_line_search_shortens_the_step_until_it_is_inside_the_region():
    outcome = step(quadratic(2.0), max_kl=0.1, shrink=0.8)  # 2 * 0.64 > 1 > 2 * 0.4096
    assert outcome.backtracks == 2
    assert outcome.kl.item() == pytest.approx(0.2 * 0.8**4)


@pytest.mark.parametrize("evaluate", [lambda x: (1 - GRADIENT @ x, torch.tensor(0.0)), lambda x: (torch.tensor(math.nan), torch.tensor(math.nan))])
def test_a_step_that_does_not_help_is_not_made(evaluate):
    outcome = step(evaluate, backtracks=3)
    assert not outcome.accepted
    assert torch.equal(outcome.params, START)
    assert outcome.loss.item() == 0.0
