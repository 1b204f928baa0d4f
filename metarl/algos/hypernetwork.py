"""RNN+HN: a recurrent network that writes the policy's weights (Beck et al. 2022, 2023), with Bias-HyperInit.

RL² (metarl/algos/rl2.py) in everything but this: what the memory knows is not one more input of the policy, it makes the policy.

    h_t = GRU(h_{t-1}; o_{t+1}, a_t, r_t, ends_t)     z_t = W_z h_t + b_z     theta_t = theta_0 + H z_t     a_t ~ pi_theta_t(o_t)

theta are the weights and biases of every layer of the policy's mean. Bias-HyperInit: H begins at zero and theta_0 as a policy of its own would,
so that at first all tasks have the same, well-scaled policy; without it, training starts from weights whose size nobody chose.

No weight is ever formed. Each layer is linear in (1, z) and in (1, x), so W(z) x + b(z) = [W_0, W_1 ... W_L] vec((1, z) (x, 1)^T): one product of
matrices for all time steps of all trials, where weights would fill (N, T, outputs, inputs).

Deviations from the paper: PPO over whole trials with the value function that all learners here share (metarl/trial_ppo.py), in place of VariBAD's PPO,
whose value function is written by the hypernetwork as well; the standard deviation of a Gaussian policy is one learned vector, not written.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from metarl.algos.rl2 import RL2, RL2Config
from metarl.networks import CategoricalPolicy, mlp
from metarl.trial_ppo import TrialNetwork


@dataclass(frozen=True)
class HypernetworkConfig(RL2Config):
    """Settings of RNN+HN."""

    latent_size: int = 25
    """Numbers z that the weights are made of."""


class HyperMLP(nn.Module):
    """An mlp of inputs x whose weights are written by what is known: (..., X + F) -> (..., outputs)."""

    def __init__(self, known_size: int, latent_size: int, sizes: Sequence[int], last_gain: float) -> None:
        super().__init__()
        self.input_size = sizes[0]
        self.latent = nn.Linear(known_size, latent_size)
        layers = []
        for linear in (part for part in mlp(sizes, last_gain) if isinstance(part, nn.Linear)):
            written = torch.zeros(linear.out_features, 1 + latent_size, linear.in_features + 1)
            written[:, 0] = torch.cat([linear.weight, linear.bias.unsqueeze(-1)], -1).detach()  # theta_0; H is zero
            layers.append(nn.Parameter(written.flatten(1)))
        self.layers = nn.ParameterList(layers)

    def forward(self, features: Tensor) -> Tensor:
        """At features (..., X + F): x, and what is known."""
        x, known = features.split([self.input_size, features.shape[-1] - self.input_size], -1)
        one = torch.ones_like(x[..., :1])
        z = torch.cat([one, self.latent(known)], -1).unsqueeze(-1)
        for number, layer in enumerate(self.layers):
            x = torch.tanh(x) if number else x
            x = nn.functional.linear((z * torch.cat([x, one], -1).unsqueeze(-2)).flatten(-2), layer)
        return x


class Hypernetwork(RL2):
    """See the module's docstring."""

    Config = HypernetworkConfig
    config: HypernetworkConfig

    def make_network(self) -> TrialNetwork:
        """RL²'s, with a policy that its memory writes."""
        network, cfg, spec = super().make_network(), self.config, self.spec
        written = HyperMLP(cfg.hidden_size, cfg.latent_size, [spec.obs_size, *cfg.layers, spec.action_size], last_gain=0.01)
        if isinstance(network.policy, CategoricalPolicy):
            network.policy.logits = written
        else:
            network.policy.mean = written
        return network


ALGORITHM = Hypernetwork
