import math

import pytest
import torch
from torch.distributions import Normal, TanhTransform, TransformedDistribution

from metarl import sac


def test_density_of_squashed_actions_is_that_of_the_transformed_gaussian():
    rng = torch.Generator().manual_seed(0)
    mean, log_std, noise = (torch.randn(50, 3, generator=rng, dtype=torch.float64) for _ in range(3))
    action, log_prob = sac.SquashedGaussian(mean, log_std - 1).sample(noise)
    expected = TransformedDistribution(Normal(mean, (log_std - 1).exp()), TanhTransform(cache_size=1))
    raw = mean + (log_std - 1).exp() * noise
    torch.testing.assert_close(action, raw.tanh())
    inside = expected.log_prob(expected.transforms[0](raw)).sum(-1)
    torch.testing.assert_close(log_prob, inside)


def test_density_stays_finite_at_the_edge_and_sampling_has_gradients():
    mean = torch.tensor([[30.0, -30.0]], requires_grad=True)
    action, log_prob = sac.SquashedGaussian(mean, torch.zeros(1, 2)).sample(torch.zeros(1, 2))
    assert action.tolist() == [[1.0, -1.0]]
    # log N(0) - 2 (log 2 - |x|) for each: the density of an action this close to the edge is huge
    assert log_prob.item() == pytest.approx(2 * (-0.5 * math.log(2 * math.pi) - 2 * (math.log(2) - 30)), rel=1e-5)
    log_prob.sum().backward()
    assert bool(mean.grad.isfinite().all())


def test_stacked_networks_are_as_if_alone_and_frozen_ones_learn_nothing():
    torch.manual_seed(0)
    stack, x = sac.StackedMLP(2, [3, 5, 4, 1], last_scale=1.0), torch.randn(7, 3, requires_grad=True)
    alone = []
    for e in range(2):
        hidden = x
        for i, (weight, bias) in enumerate(zip(stack.weights, stack.biases, strict=True)):
            hidden = (hidden.relu() if i else hidden) @ weight[e] + bias[e]
        alone.append(hidden)
    torch.testing.assert_close(stack(x), torch.stack(alone))
    assert not torch.equal(stack(x)[0], stack(x)[1]), "twins must begin differently"
    stack(x, frozen=True).sum().backward()
    assert all(p.grad is None for p in stack.parameters())
    frozen, x.grad = x.grad, None
    stack(x).sum().backward()
    torch.testing.assert_close(x.grad, frozen)


def test_target_by_hand_is_cut_only_where_the_episode_ended_by_itself():
    reward, terminated = torch.tensor([1.0, 1.0]), torch.tensor([0.0, 1.0])
    next_q = torch.tensor([[3.0, 3.0], [2.0, 8.0]])
    y = sac.soft_target(reward, terminated, next_q, torch.tensor([-4.0, -4.0]), torch.tensor(0.5), 0.9)
    assert y.tolist() == pytest.approx([1 + 0.9 * (2 + 0.5 * 4), 1.0])  # the smaller of the twins, and the entropy's worth


def test_losses_by_hand():
    assert sac.critic_loss(torch.tensor([[1.0, 2.0], [0.0, 5.0]]), torch.tensor([1.0, 3.0])).item() == pytest.approx(0.5 + 2.5)
    q, log_prob = torch.tensor([[1.0, 2.0], [0.0, 5.0]]), torch.tensor([-1.0, 2.0])
    assert sac.actor_loss(q, log_prob, torch.tensor(0.5)).item() == pytest.approx(((-0.5 - 0) + (1.0 - 2.0)) / 2)


@pytest.mark.parametrize(("log_prob", "rises"), [(3.0, True), (1.0, False)])
def test_the_temperature_rises_where_the_entropy_is_below_its_target(log_prob, rises):
    log_alpha = torch.tensor(0.0, requires_grad=True)
    sac.temperature_loss(log_alpha, torch.full((4,), log_prob), -2.0).backward()  # entropies -3 and -1, wanted -2
    assert (log_alpha.grad.item() < 0) == rises


def test_targets_follow_by_their_rate():
    target, online = torch.zeros(3), torch.ones(3, requires_grad=True)
    sac.polyak([target], [online], 0.25)
    sac.polyak([target], [online], 0.25)
    assert target.tolist() == [0.4375] * 3


def update(optimizer, loss):
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()


def test_actor_and_critic_solve_a_problem_of_one_decision():
    """Reward -(a - 0.5)²: the policy goes there, and the temperature keeps its entropy where it is asked to be."""
    torch.manual_seed(0)
    critics, policy, log_alpha = sac.StackedMLP(2, [2, 32, 1]), sac.SquashedGaussianPolicy(1, [32], 1), torch.tensor(-3.0, requires_grad=True)
    optimizers = [torch.optim.Adam(p, 5e-3) for p in (critics.parameters(), policy.parameters(), [log_alpha])]
    obs = torch.zeros(64, 1)
    for _ in range(2000):
        with torch.no_grad():
            action = 2 * torch.rand(64, 1) - 1
        q = critics(torch.cat([obs, action], -1)).squeeze(-1)
        update(optimizers[0], sac.critic_loss(q, -((action - 0.5) ** 2).squeeze(-1)))
        drawn, log_prob = policy(obs).sample(torch.randn(64, 1))
        value = critics(torch.cat([obs, drawn], -1), frozen=True).squeeze(-1)
        update(optimizers[1], sac.actor_loss(value, log_prob, log_alpha.detach().exp()))
        update(optimizers[2], sac.temperature_loss(log_alpha, log_prob, -1.0))
    assert policy(obs[:1]).mode().item() == pytest.approx(0.5, abs=0.1)
    assert -policy(obs).sample(torch.randn(64, 1))[1].mean().item() == pytest.approx(-1.0, abs=0.3)
