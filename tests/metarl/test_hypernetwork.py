"""RNN+HN: the bilinear form equals weights that are formed, Bias-HyperInit, and that the memory alone changes the policy."""

import pytest
import torch
from torch import nn

from metarl.algos.hypernetwork import HyperMLP
from metarl.networks import mlp
from metarl.trial_ppo import TrialNetwork


def test_without_anything_learnt_it_is_the_mlp_that_theta_0_says():
    torch.manual_seed(0)
    written = HyperMLP(known_size=3, latent_size=4, sizes=[5, 6, 2], last_gain=0.01)
    torch.manual_seed(0)
    nn.Linear(3, 4)  # draws what z's layer drew
    plain = mlp([5, 6, 2], last_gain=0.01)
    x, known = torch.randn(7, 5), 10 * torch.randn(7, 3)
    torch.testing.assert_close(written(torch.cat([x, known], -1)), plain(x))


def test_it_is_the_network_whose_weights_it_writes():
    written = HyperMLP(known_size=3, latent_size=2, sizes=[5, 6, 2], last_gain=1.0)
    for layer in written.layers:
        nn.init.normal_(layer, std=0.5)
    x, known = torch.randn(4, 5), torch.randn(4, 3)
    said = written(torch.cat([x, known], -1))
    for n in range(4):
        z = torch.cat([torch.ones(1), written.latent(known[n])])
        first, second = (torch.einsum("olx,l->ox", layer.unflatten(1, (3, -1)), z) for layer in written.layers)
        hidden = torch.tanh(first[:, :5] @ x[n] + first[:, 5])
        torch.testing.assert_close(said[n], second[:, :6] @ hidden + second[:, 6])


def test_the_first_gradient_reaches_what_writes():
    """With H = 0 and z = 0 nothing would ever be learnt."""
    written = HyperMLP(known_size=3, latent_size=2, sizes=[5, 6, 2], last_gain=1.0)
    written(torch.randn(8, 8)).square().sum().backward()
    for layer in written.layers:
        assert float(layer.grad.unflatten(1, (3, -1))[:, 1:].abs().max()) > 0


@pytest.mark.parametrize(("task", "part"), [("point_navigation", "mean"), ("grid_navi", "logits")])
def test_the_policy_is_written_and_crosses_to_the_robot(task, part, small_algorithm):
    algorithm = small_algorithm("hypernetwork", task)
    assert isinstance(algorithm.network, TrialNetwork)
    assert isinstance(getattr(algorithm.network.policy, part), HyperMLP)
    names = [name for name in algorithm.meta_parameters() if name.startswith(f"policy.{part}.")]
    assert len(names) == 2 + 2  # z's layer, and the two layers of a small policy
