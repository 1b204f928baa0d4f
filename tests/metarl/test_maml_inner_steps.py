"""Inner steps and their derivatives against answers from paper and from automatic differentiation; all in float64."""

import math

import numpy as np
import pytest
import torch

from metarl.inner_steps import (
    BatchedCategorical,
    BatchedGaussian,
    Jacobian,
    PolicyMetric,
    Segment,
    adapt,
    constant,
    kl_divergence,
    leaf,
    log_prob_objective,
    ratio_objective,
)
from metarl.networks import Categorical, Gaussian

ALPHA, SCALE, FLOOR = 0.1, 1.0, 0.05
BANDIT = BatchedGaussian((1, 1), SCALE, FLOOR)  # parameters (W, b, s): with observation 0 the mean is b; sigma = FLOOR + exp(s)


def bandit_policy(mean, std):
    """(3,) meta-parameters."""
    return torch.tensor([0.3, mean, math.log(std - FLOOR)], dtype=torch.float64)


def gauss(num):
    """Nodes and weights of an expectation under the standard normal distribution."""
    nodes, weights = np.polynomial.hermite.hermgauss(num)
    return torch.from_numpy(nodes * math.sqrt(2)), torch.from_numpy(weights / math.sqrt(math.pi))


def expectation(means, std, advantage, num=20):
    """A segment whose weighted sums are exact expectations under Gaussians with means (M,)."""
    nodes, weights = gauss(num)
    action = means[:, None] + std * nodes
    return Segment(torch.zeros(*action.shape, 1, dtype=torch.float64), action.unsqueeze(-1), advantage(action), weights.expand_as(action))


def jacobian(objective, theta, alpha, segments, with_alpha=False):
    steps = adapt(objective, BANDIT, theta, alpha, segments, create_graph=True)
    return steps, Jacobian(steps, steps.gradients, with_alpha)


# ---- on paper ---------------------------------------------------------------------------------------------------------------


def test_one_inner_step_on_a_quadratic_and_its_derivative():
    """E[-(a - g)²] = -(b - g)² - sigma²: b' = b - 2 alpha (b - g), db'/db = 1 - 2 alpha; s' = s - 2 alpha sigma e^s."""
    b, std, goals = 0.4, 0.5, torch.tensor([1.0, -2.0], dtype=torch.float64)
    theta, alpha = bandit_policy(b, std), torch.full((3,), ALPHA, dtype=torch.float64)
    segment = expectation(torch.full_like(goals, b), std, lambda a: -((a - goals[:, None]) ** 2))
    steps, product = jacobian(ratio_objective, theta, alpha, [segment])
    torch.testing.assert_close(steps.thetas[1][:, 1], b - 2 * ALPHA * (b - goals))
    e = std - FLOOR
    torch.testing.assert_close(steps.thetas[1][:, 2], theta[2] - 2 * ALPHA * std * torch.full_like(goals, e))
    moved = product.push(torch.tensor([0.0, 1.0, 0.0], dtype=torch.float64))[1]
    torch.testing.assert_close(moved, torch.tensor([0.0, 1 - 2 * ALPHA, 0.0], dtype=torch.float64).expand(2, 3))
    # d/ds (sigma e^s) = e^s (sigma + e^s)
    moved = product.push(torch.tensor([0.0, 0.0, 1.0], dtype=torch.float64))[1]
    torch.testing.assert_close(moved[:, 2], torch.full_like(goals, 1 - 2 * ALPHA * e * (std + e)))


def test_the_naive_surrogate_gives_another_derivative_of_the_step_on_a_quadratic():
    """log pi * A has E[A d²log pi/db²] = ((b - g)² + sigma²) / sigma² in place of -2."""
    b, std, goal = 0.4, 0.5, torch.tensor([1.0], dtype=torch.float64)
    theta, alpha = bandit_policy(b, std), torch.full((3,), ALPHA, dtype=torch.float64)
    segment = expectation(torch.tensor([b], dtype=torch.float64), std, lambda a: -((a - goal) ** 2))
    _, product = jacobian(log_prob_objective, theta, alpha, [segment])
    moved = product.push(torch.tensor([0.0, 1.0, 0.0], dtype=torch.float64))[1]
    assert moved[0, 1].item() == pytest.approx(1 + ALPHA * (0.36 + 0.25) / 0.25)


def test_derivative_of_a_step_from_a_single_sample():
    """d²log pi/db² = -1/sigma², and the ratio adds (dlog pi/db)² = ((a - b)/sigma²)²."""
    b, std, a, advantage = 0.0, 0.5, 0.8, 2.0
    theta, alpha = bandit_policy(b, std), torch.full((3,), ALPHA, dtype=torch.float64)
    one = torch.ones(1, 1, dtype=torch.float64)
    segment = Segment(torch.zeros(1, 1, 1, dtype=torch.float64), a * one.unsqueeze(-1), advantage * one, one)
    along_b = torch.tensor([0.0, 1.0, 0.0], dtype=torch.float64)
    for objective, expected in ((log_prob_objective, -1 / std**2), (ratio_objective, (a / std**2) ** 2 - 1 / std**2)):
        steps, product = jacobian(objective, theta, alpha, [segment])
        assert steps.thetas[1][0, 1].item() == pytest.approx(ALPHA * advantage * a / std**2)
        assert product.push(along_b)[1][0, 1].item() == pytest.approx(1 + ALPHA * advantage * expected)


def test_kl_divergence_by_hand():
    old = Gaussian(torch.zeros(1, 1, 2), torch.zeros(1, 1, 2))
    new = Gaussian(torch.tensor([[[1.0, 0.0]]]), torch.tensor([[[1.0, 2.0]]]).log())
    # first action 1²/2; second log 2 + 1/8 - 1/2
    torch.testing.assert_close(kl_divergence(old, new), torch.tensor([[0.5 + math.log(2) + 0.125 - 0.5]]))
    old, new = (Categorical(torch.tensor([[p]]).log()) for p in ([0.5, 0.5], [0.75, 0.25]))
    torch.testing.assert_close(kl_divergence(old, new), torch.tensor([[0.5 * math.log(0.5 / 0.75) + 0.5 * math.log(0.5 / 0.25)]]))
    assert float(kl_divergence(new, old)) != pytest.approx(float(kl_divergence(old, new)), rel=0.02)


# ---- by automatic differentiation -------------------------------------------------------------------------------------------

NET = BatchedGaussian((2, 3, 2), 0.7, FLOOR, 0.6)
CHOICE = BatchedCategorical((2, 3, 2))


def random_segment(rng, num_tasks, num_decisions, zeros=2):
    obs, action = (torch.randn(num_tasks, num_decisions, 2, generator=rng, dtype=torch.float64) for _ in range(2))
    weight = torch.rand(num_tasks, num_decisions, generator=rng, dtype=torch.float64)
    weight[:, :zeros] = 0.0
    return Segment(obs, action, torch.randn(num_tasks, num_decisions, generator=rng, dtype=torch.float64), weight / weight.sum(1, keepdim=True))


@pytest.fixture
def rng():
    return torch.Generator().manual_seed(3)


@pytest.mark.parametrize("objective", [ratio_objective, log_prob_objective])
@pytest.mark.parametrize("with_alpha", [False, True])
def test_products_with_the_jacobian_of_two_steps_equal_those_of_one_graph_through_both(rng, objective, with_alpha):
    theta = NET.initial(rng).double()
    log_alpha = torch.linspace(-2, -1, len(theta), dtype=torch.float64)
    segments = [random_segment(rng, 3, 7) for _ in range(2)]

    def chain(vector):
        alpha = vector[len(theta) :].exp() if with_alpha else log_alpha.exp()
        now, thetas = vector[: len(theta)].expand(3, -1), []
        thetas.append(now)
        for segment in segments:
            (gradient,) = torch.autograd.grad(objective(NET.log_prob(now, segment), segment).sum(), now, create_graph=True)
            now = now + alpha * gradient
            thetas.append(now)
        return torch.stack(thetas)

    vector = torch.cat([theta, log_alpha]) if with_alpha else theta
    steps = adapt(objective, NET, theta, log_alpha.exp(), segments, create_graph=True)
    product = Jacobian(steps, steps.gradients, with_alpha)
    start = leaf(vector)
    torch.testing.assert_close(torch.stack(steps.thetas), chain(start))

    cotangent = torch.randn(3, 3, len(theta), generator=rng, dtype=torch.float64)
    pulled = torch.autograd.grad((chain(start) * cotangent).sum(), start)[0]
    torch.testing.assert_close(product.pull(list(cotangent)), pulled)
    # the first cotangents may be left out
    cotangent[0] = 0
    torch.testing.assert_close(product.pull(list(cotangent[1:])), torch.autograd.grad((chain(start) * cotangent).sum(), start)[0])
    # <cotangent, J v> = <J^T cotangent, v>
    along = torch.randn(len(vector), generator=rng, dtype=torch.float64)
    torch.testing.assert_close((torch.stack(product.push(along)) * cotangent).sum(), product.pull(list(cotangent)) @ along)


@pytest.mark.parametrize("policy", [NET, CHOICE])
def test_policy_metric_is_the_hessian_of_the_kl_divergence(rng, policy):
    theta = leaf(policy.initial(rng).double().unsqueeze(0))
    segment = random_segment(rng, 1, 9)
    old = constant(policy(theta, segment.obs))
    hessian = torch.autograd.functional.hessian(lambda t: (kl_divergence(old, policy(t.unsqueeze(0), segment.obs)) * segment.weight).sum(), theta[0].detach())
    metric = PolicyMetric(policy, theta, segment)
    for column in (0, 7, len(hessian) - 1):
        unit = torch.eye(len(hessian), dtype=torch.float64)[column : column + 1]
        torch.testing.assert_close(metric(unit)[0], hessian[column])


def test_log_prob_sums_over_the_dimensions_of_the_action(rng):
    theta, segment = NET.initial(rng).double().expand(3, -1), random_segment(rng, 3, 4)
    mean, log_std = NET(theta, segment.obs)
    each = torch.distributions.Normal(mean, log_std.exp().expand_as(mean)).log_prob(segment.action)
    assert each.shape == (3, 4, 2)
    torch.testing.assert_close(NET.log_prob(theta, segment), each.sum(-1))


def test_batched_policies_are_as_if_alone(rng):
    theta = torch.stack([NET.initial(rng) for _ in range(4)])
    obs = torch.randn(4, 5, 2, generator=rng)
    mean, log_std = NET(theta, obs)
    choice = torch.stack([CHOICE.initial(rng) for _ in range(4)])
    log_probs = CHOICE(choice, obs).log_probs
    for m in range(4):
        w1, b1, w2, b2 = (p.unflatten(-1, shape) for p, shape in zip(theta[m, :-2].split(NET.lengths), NET.shapes, strict=True))
        torch.testing.assert_close(mean[m], 0.7 * ((obs[m] @ w1 + b1).tanh() @ w2 + b2))
        torch.testing.assert_close(log_std[m].exp(), 0.7 * (FLOOR + theta[m, -2:].exp()).unsqueeze(0))
        torch.testing.assert_close(log_std[m].exp(), torch.full((1, 2), 0.7 * 0.6))
        w1, b1, w2, b2 = (p.unflatten(-1, shape) for p, shape in zip(choice[m].split(CHOICE.lengths), CHOICE.shapes, strict=True))
        torch.testing.assert_close(log_probs[m], ((obs[m] @ w1 + b1).tanh() @ w2 + b2).log_softmax(-1))


def test_thinned_segments_keep_the_weight_of_each_task(rng):
    segment = random_segment(rng, 3, 20, zeros=3)
    thin = segment.thinned(4)
    assert thin.obs.shape == (3, 5, 2)
    torch.testing.assert_close(thin.weight.sum(1), segment.weight.sum(1))
    torch.testing.assert_close(thin.weight[:, 1:] / thin.weight[:, 1:2], segment.weight[:, 4::4] / segment.weight[:, 4:5])
    empty = segment._replace(weight=torch.zeros_like(segment.weight)).thinned(4)
    assert torch.equal(empty.weight, torch.zeros(3, 5, dtype=torch.float64))
