"""Agents as rows of tensors: networks, Adam, and what they remember."""

import pytest
import torch
from torch import nn

from metarl.population import Agents, Episodes, StackedAdam, StackedNetwork, agent_mean, standardised
from metarl.tasks.point_navigation import PointNavigation

SPEC = PointNavigation().spec


class Short(PointNavigation):
    horizon = 5


@pytest.mark.parametrize("bounded", [False, True])
def test_stacked_networks_equal_ordinary_ones(bounded):
    network = StackedNetwork([3, 4, 2], last_scale=0.5, bounded=bounded)
    theta = network.initial(2, torch.Generator().manual_seed(0))
    assert theta.shape == (2, network.num_params) == (2, 3 * 4 + 4 + 4 * 2 + 2)
    x = torch.randn(2, 6, 3, generator=torch.Generator().manual_seed(1))
    for row in range(2):
        ordinary = nn.Sequential(nn.Linear(3, 4), nn.Tanh() if bounded else nn.ReLU(), nn.Linear(4, 2))
        weight, bias, last, last_bias = theta[row].split([12, 4, 8, 2])
        with torch.no_grad():
            ordinary[0].weight.copy_(weight.view(3, 4).t())
            ordinary[2].weight.copy_(last.view(4, 2).t())
            ordinary[0].bias.copy_(bias)
            ordinary[2].bias.copy_(last_bias)
        torch.testing.assert_close(network(theta, x)[row], ordinary(x[row]))
    assert float(weight.abs().max()) <= 3**-0.5
    assert float(last.abs().max()) <= 0.5 * 4**-0.5
    assert float(bias.abs().max()) == 0.0


@pytest.mark.parametrize("bounded", [False, True])
def test_how_fast_outputs_change_along_a_direction(bounded):
    network, rng = StackedNetwork([3, 4, 4, 2], last_scale=0.5, bounded=bounded), torch.Generator().manual_seed(2)
    theta, direction = (torch.randn(2, network.num_params, generator=rng, dtype=torch.float64) for _ in range(2))
    x = torch.randn(2, 6, 3, generator=rng, dtype=torch.float64)
    little = 1e-6 * direction
    torch.testing.assert_close(network.push(theta, x, direction), (network(theta + little, x) - network(theta - little, x)) / 2e-6, rtol=1e-6, atol=1e-6)


def test_policies_are_bounded_far_away():
    agents = Agents(SPEC, 1, (8,), 100, clip=1.0).born(torch.arange(1), torch.Generator().manual_seed(0))
    way = torch.tensor([[[1.0, 0.5]]])
    torch.testing.assert_close(agents.act(agents.policy, 1e4 * way), agents.act(agents.policy, 1e6 * way))


def test_stacked_adam_equals_torchs_with_clipping_and_counts_for_each_row():
    ours, adam = torch.randn(2, 5, generator=torch.Generator().manual_seed(0)), StackedAdam(2, 5, clip=1.0)
    theirs = [nn.Parameter(row.clone()) for row in ours]
    optimizers = [torch.optim.Adam([p], 0.1) for p in theirs]
    for step in range(6):
        if step == 3:  # the second one is born again
            adam.forget(torch.tensor([1]))
            optimizers[1] = torch.optim.Adam([theirs[1]], 0.1)
        gradient = torch.randn(2, 5, generator=torch.Generator().manual_seed(step)) * torch.tensor([[0.1], [3.0]])
        adam.step(ours, gradient, 0.1)
        for p, g, optimizer in zip(theirs, gradient, optimizers, strict=True):
            p.grad = g.clone()
            nn.utils.clip_grad_norm_([p], 1.0)
            optimizer.step()
    torch.testing.assert_close(ours, torch.stack([p.detach() for p in theirs]), rtol=1e-4, atol=1e-5)


def remembered(lengths, capacity=4):
    """Episodes of two agents whose rows hold 100 * agent + 10 * episode + time + 1."""
    task = Short()
    kept = Episodes(task.spec, len(lengths), capacity)
    n = len(lengths[0])
    agent, episode, time = torch.arange(len(lengths)).view(-1, 1, 1), torch.arange(n).view(1, -1, 1), torch.arange(5).view(1, 1, -1)
    valid = time < torch.tensor(lengths).unsqueeze(-1)
    said = (100 * agent + 10 * episode + time + 1).float().unsqueeze(-1).expand(-1, -1, -1, sum(kept.sizes))
    kept.add(torch.where(valid.unsqueeze(-1), said, 0.0), valid)
    return kept


def test_segments_are_pieces_of_one_episode_and_zero_around_it():
    said = remembered([[5, 2, 0], [1, 5, 5]]).draw(400, 3, torch.Generator().manual_seed(0))
    assert said.reward.shape == (2, 400, 3)
    seen = set()
    for row, valid in zip(said.reward.flatten(0, 1).tolist(), said.valid.flatten(0, 1).tolist(), strict=True):
        real = [r for r, v in zip(row, valid, strict=True) if v]
        assert [r for r, v in zip(row, valid, strict=True) if not v] == [0.0] * (3 - len(real))
        assert real, "a segment without any decision is none"
        assert real == [real[0] + i for i in range(len(real))]
        seen |= {int(r) for r in real}
    assert seen == {1, 2, 3, 4, 5, 11, 12, 101, 111, 112, 113, 114, 115, 121, 122, 123, 124, 125}


def test_decisions_of_an_episode_are_drawn_equally_often():
    said = remembered([[5], [5]]).draw(20_000, 3, torch.Generator().manual_seed(0))
    counts = torch.stack([(said.reward[0] == t).sum() for t in range(1, 6)]) / said.valid[0].sum()
    torch.testing.assert_close(counts, torch.full((5,), 0.2), atol=0.01, rtol=0)


def test_the_oldest_episodes_make_room():
    kept = remembered([[5, 5, 5], [5, 5, 5]], capacity=2)
    assert sorted(kept.rows[0, :, 0, 0].tolist()) == [11.0, 21.0]
    one = torch.full((2, 1, 5, sum(kept.sizes)), 9.0)
    kept.add(one, torch.ones(2, 1, 5, dtype=torch.bool))
    assert 9.0 in kept.rows[0, :, 0, 0].tolist()
    assert 21.0 in kept.rows[0, :, 0, 0].tolist(), "the newer of the two stays"


def test_who_remembers_nothing_draws_nothing():
    said = remembered([[0, 0], [3, 3]]).draw(10, 3, torch.Generator().manual_seed(0))
    assert float(said.valid[0].sum()) == 0.0
    assert float(said.valid[1].sum()) > 0.0


@pytest.mark.parametrize("alike", [True, False])
def test_birth_of_some(alike):
    agents = Agents(SPEC, 4, (8,), 1000, 1.0).born(torch.arange(4), torch.Generator().manual_seed(0), alike)
    assert torch.equal(agents.policy[0], agents.policy[3]) == alike
    assert not torch.equal(agents.critic[0], agents.critic[4]), "an agent's two critics differ"
    before = agents.policy.clone()
    agents.born(torch.tensor([2]), torch.Generator().manual_seed(1))
    assert (agents.policy != before).any(1).tolist() == [False, False, True, False]
    assert torch.equal(agents.critic, agents.critic_target)


def test_critics_learn_what_they_are_told():
    agents = Agents(SPEC, 2, (16,), 1000, 10.0).born(torch.arange(2), torch.Generator().manual_seed(0))
    kept = remembered([[5, 5], [5, 5]])
    said = kept.draw(8, 3, torch.Generator().manual_seed(0))
    said = said._replace(obs=torch.randn(said.obs.shape, generator=torch.Generator().manual_seed(0)), action=torch.zeros_like(said.action))
    target = said.obs[..., 0] * torch.tensor([1.0, -2.0]).view(2, 1, 1)
    errors = torch.stack([agents.improve_critics(said, target, 0.02) for _ in range(200)])
    assert (errors[-1] < 0.05 * errors[0]).all()


def test_standardised_by_agent_and_only_what_is_valid():
    x = torch.tensor([[[1.0, 3.0, 100.0]], [[5.0, 5.0, 5.0]]])
    valid = torch.tensor([[[1.0, 1.0, 0.0]], [[1.0, 1.0, 1.0]]])
    assert agent_mean(x, valid).tolist() == [2.0, 5.0]
    found = standardised(x, valid)
    torch.testing.assert_close(found[0, 0, :2], torch.tensor([-1.0, 1.0]), atol=1e-4, rtol=0)
    assert found[1].abs().max() == 0.0
