"""A population of agents that learn off-policy, each from its own episodes: all of them are rows of the same tensors, and nothing loops over agents.

An agent is a deterministic policy pi_phi and two critics, each with a target that follows slowly (TD3, Fujimoto et al. 2018, 1802.09477):

    y = s r + gamma (1 - terminated) min_i Q'_i(o', clip(pi'(o') + clip(noise)))        L_Q = sum_i mean (Q_i(o, a) - y)²

Only `terminated` ends what comes after, and it is worth nothing by itself. Parameters of an agent are one row, so is what its Adam remembers.
Random numbers are the same for all agents: an agent among others learns what it would have learned alone.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import NamedTuple, Self

import torch
from torch import Tensor, nn

from metarl.sac import polyak
from metarl.tasks.task import EnvSpec


class Segments(NamedTuple):
    """B pieces of episodes of each of M agents, T decisions long: (M, B, T, ...). What lies before or after the episode is not `valid`, and zero."""

    obs: Tensor
    action: Tensor
    next_obs: Tensor
    reward: Tensor  # (M, B, T)
    terminated: Tensor  # (M, B, T) 1.0 where the episode ended by itself
    valid: Tensor  # (M, B, T) 1.0 or 0.0

    def first(self, count: int) -> Segments:
        """Of each agent, so many of them."""
        return Segments(*(x[:, :count] for x in self))


class Episodes(nn.Module):
    """The most recent episodes of each of M agents: preallocated rows; a module, so that they move and are saved as networks are.

    Attributes:
        rows: (M, E, H, W) decisions, one after the other.
        length: (M, E) decisions in each.
        written: (M,) episodes that were ever written.
    """

    rows: Tensor
    length: Tensor
    written: Tensor

    def __init__(self, spec: EnvSpec, agents: int, capacity: int, device: torch.device | str = "cpu") -> None:
        super().__init__()
        self.sizes = (spec.obs_size, spec.action_size, spec.obs_size, 1, 1)
        self.register_buffer("rows", torch.zeros(agents, capacity, spec.horizon, sum(self.sizes), device=device))
        self.register_buffer("length", torch.zeros(agents, capacity, dtype=torch.long, device=device))
        self.register_buffer("written", torch.zeros(agents, dtype=torch.long, device=device))

    @staticmethod
    def pack(obs: Tensor, action: Tensor, next_obs: Tensor, reward: Tensor, terminated: Tensor, valid: Tensor) -> Tensor:
        """(..., W) of decisions with those leading axes; zero where they are not valid, whatever they hold."""
        row = torch.cat([obs, action, next_obs, reward.unsqueeze(-1), terminated.unsqueeze(-1).to(reward.dtype)], -1)
        return torch.where(valid.unsqueeze(-1), row, 0.0)

    def add(self, rows: Tensor, valid: Tensor) -> None:
        """Take in n episodes of each agent, rows (M, n, H, W), valid (M, n, H); the oldest make room."""
        agents, capacity = self.length.shape
        rows, valid = rows[:, -capacity:], valid[:, -capacity:]
        agent = torch.arange(agents, device=rows.device).unsqueeze(1)
        place = (self.written.unsqueeze(1) + torch.arange(rows.shape[1], device=rows.device)) % capacity
        self.rows[agent, place], self.length[agent, place] = rows, valid.sum(-1)
        self.written += rows.shape[1]

    def forget(self, agent: Tensor) -> None:
        """All episodes of some agents, by index."""
        self.length[agent], self.written[agent] = 0, 0

    def draw(self, count: int, steps: int, generator: torch.Generator) -> Segments:
        """`count` segments of `steps` decisions of each agent; each decision of an episode lies in as many of the possible segments as the others."""
        device = self.rows.device
        which, where = (torch.rand(count, generator=generator).to(device) for _ in range(2))
        reached = self.length.cumsum(1)
        episode = torch.searchsorted(reached, (which * reached[:, -1:]).long().contiguous(), right=True).clamp(max=self.length.shape[1] - 1)
        length = self.length.gather(1, episode)
        start = (where * (length + steps - 1)).long().minimum(length + steps - 2) - (steps - 1)
        time = start.unsqueeze(-1) + torch.arange(steps, device=device)
        valid = (time >= 0) & (time < length.unsqueeze(-1))
        agent = torch.arange(len(self.length), device=device).view(-1, 1, 1)
        rows = torch.where(valid.unsqueeze(-1), self.rows[agent, episode.unsqueeze(-1), time.clamp(0, self.rows.shape[2] - 1)], 0.0)
        obs, action, next_obs, reward, terminated = rows.split(self.sizes, -1)
        return Segments(obs, action, next_obs, reward.squeeze(-1), terminated.squeeze(-1), valid.to(rows.dtype))


class StackedNetwork:
    """Networks of one shape with parameters (M, P): linear layers with relu, or with tanh where they are `bounded`, between them."""

    def __init__(self, sizes: Sequence[int], last_scale: float, bounded: bool = False) -> None:
        self.shapes = [shape for i, o in itertools.pairwise(sizes) for shape in ((i, o), (1, o))]
        self.lengths = [a * b for a, b in self.shapes]
        self.last_scale, self.bounded = last_scale, bounded

    @property
    def num_params(self) -> int:
        """P."""
        return sum(self.lengths)

    def initial(self, count: int, generator: torch.Generator) -> Tensor:
        """Random parameters (count, P): weights uniform within 1 / sqrt(inputs), those of the last layer times `last_scale`, biases zero."""
        scales = [1 / math.sqrt(shape[0]) if i % 2 == 0 else 0.0 for i, shape in enumerate(self.shapes)]
        scales[-2] *= self.last_scale
        uniform = 2 * torch.rand(count, self.num_params, generator=generator) - 1
        return uniform * torch.cat([torch.full((n,), scale, device=uniform.device) for n, scale in zip(self.lengths, scales, strict=True)])

    def __call__(self, theta: Tensor, x: Tensor) -> Tensor:
        """(M, N, output) from parameters (M, P) and inputs (M, N, input)."""
        *hidden, (weight, bias) = self._layers(theta)
        for inner_weight, inner_bias in hidden:
            x = self._bent(torch.baddbmm(inner_bias, x, inner_weight))
        return torch.baddbmm(bias, x, weight)

    def push(self, theta: Tensor, x: Tensor, direction: Tensor) -> Tensor:
        """(M, N, output) how fast the output changes when the parameters move along `direction` (M, P)."""
        change = torch.zeros_like(x)
        for i, ((weight, bias), (by_weight, by_bias)) in enumerate(zip(self._layers(theta), self._layers(direction), strict=True)):
            if i > 0:
                x = self._bent(x)
                change = change * (1 - x**2 if self.bounded else x > 0)
            change = torch.baddbmm(by_bias, x, by_weight) + change @ weight
            x = torch.baddbmm(bias, x, weight)
        return change

    def _bent(self, x: Tensor) -> Tensor:
        return x.tanh() if self.bounded else x.relu()

    def _layers(self, theta: Tensor) -> list[tuple[Tensor, Tensor]]:
        """Weights (M, in, out) and biases (M, 1, out)."""
        parts = [p.unflatten(-1, shape) for p, shape in zip(theta.split(self.lengths, -1), self.shapes, strict=True)]
        return list(zip(parts[::2], parts[1::2], strict=True))


class StackedAdam(nn.Module):
    """Adam (Kingma and Ba 2015) of rows of parameters, each with its own count of steps and its own clipping."""

    mean: Tensor
    square: Tensor
    steps: Tensor

    def __init__(self, rows: int, num_params: int, clip: float, device: torch.device | str = "cpu") -> None:
        super().__init__()
        self.clip = clip
        for name, width in (("mean", num_params), ("square", num_params), ("steps", 1)):
            self.register_buffer(name, torch.zeros(rows, width, device=device))

    @torch.no_grad()
    def step(self, theta: Tensor, gradient: Tensor, learning_rate: float | Tensor) -> None:
        """Move theta (rows, P) against a gradient, in place; by one learning rate, or one for each row (rows, 1)."""
        gradient = gradient * (self.clip / gradient.norm(dim=-1, keepdim=True).clamp(min=1e-12)).clamp(max=1.0)
        self.steps += 1
        self.mean.lerp_(gradient, 0.1)
        self.square.lerp_(gradient**2, 0.001)
        rate = learning_rate * (1 - 0.999**self.steps).sqrt() / (1 - 0.9**self.steps)
        theta.sub_(rate * self.mean / (self.square.sqrt() + 1e-8))

    def forget(self, row: Tensor) -> None:
        """What it remembers of some rows."""
        self.mean[row], self.square[row], self.steps[row] = 0.0, 0.0, 0.0


class Agents(nn.Module):
    """M agents; what is said of their settings is in `metarl.algos.metagenrl.MetaGenRLConfig`."""

    policy: Tensor  # (M, P)
    policy_target: Tensor
    critic: Tensor  # (2 M, Q): the first critics of all agents, then the second ones
    critic_target: Tensor

    def __init__(self, spec: EnvSpec, count: int, layers: Sequence[int], memory: int, clip: float, device: torch.device | str = "cpu") -> None:
        super().__init__()
        self.count = count
        # a bounded policy does not grow with distance: with relu some ran off, saturated, and never turned back
        self.acts = StackedNetwork([spec.obs_size, *layers, spec.action_size], last_scale=0.1, bounded=True)
        self.judges = StackedNetwork([spec.obs_size + spec.action_size, *layers, 1], last_scale=0.1)
        for name, network, rows in (("policy", self.acts, count), ("critic", self.judges, 2 * count)):
            self.register_buffer(name, torch.zeros(rows, network.num_params, device=device))
            self.register_buffer(f"{name}_target", torch.zeros(rows, network.num_params, device=device))
        self.policy_adam = StackedAdam(count, self.acts.num_params, clip, device)
        self.critic_adam = StackedAdam(2 * count, self.judges.num_params, clip, device)
        self.episodes = Episodes(spec, count, max(memory // spec.horizon, 1), device)

    def born(self, agent: Tensor, generator: torch.Generator, alike: bool = False) -> Self:
        """Some agents, by index, become new ones with random parameters, who have done nothing yet; `alike`: with the same ones."""
        number, both = 1 if alike else len(agent), torch.cat([agent, agent + self.count])
        self.policy[agent] = self.acts.initial(number, generator).to(self.policy.device)
        drawn = self.judges.initial(2 * number, generator).to(self.policy.device).unflatten(0, (2, number))
        self.critic[both] = drawn.expand(2, len(agent), -1).flatten(0, 1)
        self.policy_target[agent], self.critic_target[both] = self.policy[agent], self.critic[both]
        self.policy_adam.forget(agent)
        self.critic_adam.forget(both)
        self.episodes.forget(agent)
        return self

    def act(self, policy: Tensor, obs: Tensor) -> Tensor:
        """Actions (M, ..., A) of policies (M, P) at normalised observations (M, ..., O)."""
        return self.acts(policy, obs.flatten(1, -2)).tanh().unflatten(1, obs.shape[1:-1])

    def push(self, obs: Tensor, direction: Tensor) -> Tensor:
        """(M, ..., A) how fast the actions of the present policies change when they move along `direction` (M, P)."""
        flat = obs.flatten(1, -2)
        change = self.acts.push(self.policy, flat, direction) * (1 - self.acts(self.policy, flat).tanh() ** 2)
        return change.unflatten(1, obs.shape[1:-1])

    def judge(self, critic: Tensor, obs: Tensor, action: Tensor) -> Tensor:
        """(n, M, ...) what n critics of each agent, (n M, Q), take actions (M, ..., A) to be worth."""
        pairs = torch.cat([obs, action], -1)
        said = self.judges(critic, pairs.flatten(1, -2).repeat(len(critic) // self.count, 1, 1))
        return said.view(-1, *pairs.shape[:-1])

    @property
    def first_critic(self) -> Tensor:
        """(M, Q) by which policies are valued."""
        return self.critic[: self.count]

    @torch.no_grad()
    def target(self, said: Segments, noise: Tensor, discount: float) -> Tensor:
        """(M, B, T) y, with noise (B, T, A) on the next actions; `said` as networks see it."""
        action = (self.act(self.policy_target, said.next_obs) + noise).clamp(-1, 1)
        return said.reward + discount * (1 - said.terminated) * self.judge(self.critic_target, said.next_obs, action).amin(0)

    def improve_critics(self, said: Segments, target: Tensor, learning_rate: float) -> Tensor:
        """One step of all critics towards targets (M, B, T); (M,) mean squared errors before it."""
        critic = self.critic.detach().requires_grad_()
        error = agent_mean((self.judge(critic, said.obs, said.action) - target) ** 2, said.valid)
        self.critic_adam.step(self.critic, torch.autograd.grad(error.sum(), critic)[0], learning_rate)
        return error.detach().mean(0)

    def follow(self, rate: float) -> None:
        """Targets move towards what they are targets of."""
        polyak((self.policy_target, self.critic_target), (self.policy, self.critic), rate)


def agent_mean(x: Tensor, valid: Tensor) -> Tensor:
    """(..., M) mean of x (..., M, B, T) over what is valid (M, B, T)."""
    return (x * valid).sum((-2, -1)) / valid.sum((-2, -1)).clamp(min=1.0)


def standardised(x: Tensor, valid: Tensor) -> Tensor:
    """Entries (M, B, T) with mean 0 and variance 1 over what is valid of each agent; one that is nearly constant becomes zero."""
    centred = x - agent_mean(x, valid)[:, None, None]
    return centred / (agent_mean(centred**2, valid)[:, None, None].sqrt() + 1e-6)
