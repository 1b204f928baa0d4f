"""PEARL: posterior sampling over tasks, and an off-policy actor-critic that is told the sample (Rakelly et al. 2019, 1903.08254).

An encoder gives each decision c_n = (o, a, r, o') of a task a Gaussian factor over a latent z, and the posterior is their product, whatever their order:

    q(z | c) ∝ prod_n N(z; mu(c_n), sigma²(c_n))        1 / var = sum_n 1 / sigma_n²        mean = var sum_n mu_n / sigma_n²        q(z | {}) = N(0, I)

A learner draws z at the beginning of each episode and keeps it to the end: at first from the prior, then from what the episodes so far have told.
Soft actor-critic (metarl/sac.py) reads (o, z). Critic and encoder are trained together, the actor sees z as a given number:

    L_critic = E_z~q [ sum_i (Q_i(o, a, z) - y)² ] + beta KL(q(z | c) || N(0, I))        L_actor = E [alpha log pi(a | o, z) - min_i Q_i(o, a, z)]

Decisions for actor and critic come from all that was ever done in a task; the context c only from the last trial in it (the paper's figure 6 shows
why), and z is never its mean while something is to be found out (figure 7).

Deviations from the paper and its code, and why:
- the context of a training step is what a learner has seen after some episodes of that trial (those of the prior at least, K - 1 at most), and each
  of the C decisions that are drawn of these n counts n / C times: the posterior is as sure as the adapter's is then. The code tests with all n.
- as in the code, the prior is no factor of the product: it enters by KL, and where the context is empty. Factors have an exponential precision in
  place of a softplus of their variance, which reaches neither very sure nor very unsure ones; many of them must be able to say nothing at all. As in
  the code all are sure at first: where nothing was found z is narrow, and the prior's draws, of which nothing was learned yet, go anywhere.
- o' is always part of c (in the code only where the dynamics differ): after a strike it is the outcome.
- soft actor-critic in its later form: no V network but target critics, alpha learned. Observations are normalised, rewards scaled by a setting.
- KL is a mean over tasks, where the code has a sum over the meta-batch, and counts in the reward's own unit: beta is weighed with the scale's square.
- where a task says so (`Task.training_reward`), actor and critics are told another reward than context and judge, as the code does with the sparse point.
- in training the noise of successive actions may be correlated (Eberhard et al. 2023): the distribution of each is still the policy's.
- actions are means outside of training, as in the code; with `explore=False` z is the posterior's mean as well.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple, Self

import torch
from torch import Tensor, nn

from metarl import sac
from metarl.algorithm import FAR, MetaRLAlgorithm
from metarl.networks import Normalizer, root_mean_square
from metarl.replay import Decisions, Replay
from metarl.rollout import Rollout
from metarl.tasks.batched_env import Step
from metarl.tasks.parameters import Param
from metarl.tasks.task import EnvSpec

LOG_PRECISION = (-12.0, 8.0)  # limits for a factor


@dataclass(frozen=True)
class PEARLConfig:
    """Settings of PEARL."""

    num_tasks: int = 20
    """Tasks of a rollout, M."""
    num_robots: int = 1
    """Copies of each task, R; each is a learner of its own, and all fill the same memory."""
    iterations: int = 100
    """Rollouts, each followed by `updates` steps of training."""
    pool_tasks: int = 100
    """Tasks that the rollouts come back to, S."""
    updates: int = 500
    """Steps of training after a rollout."""
    meta_batch: int = 8
    """Tasks of a step."""
    batch_size: int = 128
    """Decisions of each of them, for actor and critic."""
    context_size: int = 100
    """Decisions of each of them that the encoder sees at most, C."""
    prior_episodes: int = 1
    """First episodes of a trial in which z is drawn from the prior, whatever was seen: more where one alone seldom finds anything."""
    noise_correlation: float = 0.0
    """How much of the noise of an action is that of the one before it, in training: near 1, an episode drifts in a direction of its own."""
    memory: int = 10_000
    """Most recent decisions that are remembered of each task."""
    latent_size: int = 5
    """Size of z, L."""
    layers: tuple[int, ...] = (128, 128, 128)
    """Hidden layers of actor and critics."""
    encoder_layers: tuple[int, ...] = (64, 64, 64)
    """Hidden layers of the encoder."""
    discount: float = 0.99
    """gamma."""
    learning_rate: float = 1e-3
    """Of all Adams."""
    max_gradient_norm: float = 5.0
    """Longest gradient of each Adam: a single one that is fifty times as long as usual makes the critics' error ten times as large for dozens of steps."""
    target_rate: float = 0.005
    """tau, by which target critics follow in each step."""
    reward_scale: float = 0.2
    """s: what critics are told of a reward; returns of about 10 are learned fastest."""
    initial_alpha: float = 0.1
    """Weight of the entropy in the beginning, in scaled rewards."""
    negentropy: float = 1.0
    """The policy's entropy is kept at minus this for each dimension of an action."""
    kl_weight: float = 0.05
    """beta, against squared errors of unscaled values."""


# ---- networks ---------------------------------------------------------------------------------------------------------------


class Posterior(NamedTuple):
    """A Gaussian over the latent, mean and variance (..., L)."""

    mean: Tensor
    var: Tensor

    def sample(self, noise: Tensor) -> Tensor:
        """From standard normal numbers of the same shape."""
        return self.mean + self.var.sqrt() * noise

    def kl_to_prior(self) -> Tensor:
        """(...) KL(q || N(0, I))."""
        return 0.5 * (self.var + self.mean**2 - 1 - self.var.log()).sum(-1)


class Evidence(NamedTuple):
    """What is known of tasks as sums over decisions, all (..., L): precisions, and means times precisions."""

    precision: Tensor
    weighted_mean: Tensor

    @staticmethod
    def of(mean: Tensor, precision: Tensor, weight: Tensor) -> Evidence:
        """Factors (..., C, L) that count `weight` (..., C) times each."""
        precision = weight.unsqueeze(-1) * precision
        return Evidence(precision.sum(-2), (mean * precision).sum(-2))

    def plus(self, other: Evidence) -> Evidence:
        """Both together."""
        return Evidence(self.precision + other.precision, self.weighted_mean + other.weighted_mean)

    def posterior(self) -> Posterior:
        """The product of all factors; the prior where there is none."""
        var = torch.where(self.precision > 0, self.precision, 1.0).reciprocal()
        return Posterior(self.weighted_mean * var, var)


class Network(nn.Module):
    """All that is learned."""

    def __init__(self, spec: EnvSpec, config: PEARLConfig) -> None:
        super().__init__()
        obs, action, latent = spec.obs_size, spec.action_size, config.latent_size
        self.normalizer, self.reward_normalizer = Normalizer(obs), Normalizer(1)
        self.encoder = sac.relu_mlp([2 * obs + action + 1, *config.encoder_layers, 2 * latent], last_scale=0.1)
        self.policy = sac.SquashedGaussianPolicy(obs + latent, config.layers, action)
        self.critics = sac.StackedMLP(2, [obs + action + latent, *config.layers, 1])
        self.targets = sac.StackedMLP(2, [obs + action + latent, *config.layers, 1])
        self.targets.load_state_dict(self.critics.state_dict())
        self.log_alpha = nn.Parameter(torch.tensor(math.log(config.initial_alpha)))

    def factors(self, said: Decisions | Step) -> tuple[Tensor, Tensor]:
        """Mean and precision (..., L) of what decisions tell of their task; their reward is (..., 1)."""
        seen = [self.normalizer(said.obs), said.action, self.reward_normalizer(said.reward), self.normalizer(said.next_obs)]
        mean, log_precision = self.encoder(torch.cat(seen, -1)).chunk(2, -1)
        return mean, log_precision.clamp(*LOG_PRECISION).exp()

    def act(self, obs: Tensor, latent: Tensor) -> sac.SquashedGaussian:
        """What to do at normalised observations (..., O) in tasks that are thought to be (..., L)."""
        said: sac.SquashedGaussian = self.policy(torch.cat([obs, latent], -1))
        return said


# ---- acting -----------------------------------------------------------------------------------------------------------------


class PosteriorAdapter:
    """What M x R learners know of their tasks, and what they take them to be in this episode: `latent` (M, R, L), or `mean` without exploration."""

    noise: Tensor | None  # of the last action in this episode

    def __init__(self, algorithm: PEARL, num_tasks: int, num_robots: int, training: bool) -> None:
        self.algorithm, self.training = algorithm, training
        none = torch.zeros(num_tasks, num_robots, algorithm.config.latent_size, device=algorithm.device)
        self.nothing = Evidence(none, none)
        self.reset()

    def reset(self) -> None:
        """Back to the prior."""
        self.evidence = self.nothing
        self.episode = 0
        self._draw()

    @torch.no_grad()
    def act(self, obs: Tensor, explore: bool = True) -> Tensor:
        """Actions (M, R, A) for observations (M, R, O): drawn in training, and else the mean for the z that was drawn."""
        network = self.algorithm.network
        policy = network.act(network.normalizer(obs.to(self.latent.device)), self.latent if explore else self.mean)
        drawn = explore and self.training
        return (policy.sample(self._noise(policy.mean.shape))[0] if drawn else policy.mode()).to(obs.device)

    @torch.no_grad()
    def observe(self, step: Step) -> None:
        """Another factor, where the step is valid."""
        step = step.to(self.latent.device)
        step.reward = step.reward.unsqueeze(-1)
        mean, precision = self.algorithm.network.factors(step)
        more = Evidence.of(mean.unsqueeze(-2), precision.unsqueeze(-2), step.valid.unsqueeze(-1).float())
        keep = step.valid.unsqueeze(-1)  # what a held step says may be anything, and no number times zero is zero
        self.evidence = Evidence(*(torch.where(keep, new, old) for new, old in zip(self.evidence.plus(more), self.evidence, strict=True)))

    def adapt(self) -> None:
        """An episode has ended: what is the task taken to be in the next one?"""
        self.episode += 1
        self._draw()

    @torch.no_grad()
    def distance(self, prior: Self) -> float:
        """How far from the prior's mean, 0, the posterior's mean and what is drawn from it lie, in standard deviations of the prior, 1, over FAR."""
        return max(root_mean_square(x) for x in (self.evidence.posterior().mean, self.mean, self.latent)) / FAR

    def believed(self) -> Tensor:
        """(M, R, 2 L) mean and standard deviation of the posterior; z may be drawn from it only in an episode to come."""
        posterior = self.evidence.posterior()
        return torch.cat([posterior.mean, posterior.var.sqrt()], -1)

    def _noise(self, shape: torch.Size) -> Tensor:
        new, kept = self.algorithm.noise(*shape), self.algorithm.config.noise_correlation
        self.noise = new if self.noise is None else kept * self.noise + math.sqrt(1 - kept**2) * new
        return self.noise

    def _draw(self) -> None:
        known = self.evidence if self.episode >= self.algorithm.config.prior_episodes else self.nothing
        self.noise = None
        posterior = known.posterior()
        self.mean, self.latent = posterior.mean, posterior.sample(self.algorithm.noise(*posterior.mean.shape))


# ---- learning ---------------------------------------------------------------------------------------------------------------


class Batch(NamedTuple):
    """Decisions of a meta-batch of B tasks, flat, with the latents of their tasks: (B N, ...); observations normalised, rewards scaled."""

    obs: Tensor
    action: Tensor
    next_obs: Tensor
    reward: Tensor
    terminated: Tensor
    latent: Tensor


class PEARL(MetaRLAlgorithm):
    """See the module's docstring."""

    Config = PEARLConfig
    config: PEARLConfig
    noise_to_adapt: ClassVar[bool] = True

    def __init__(self, spec: EnvSpec, params: tuple[Param, ...], config: PEARLConfig, seed: int = 0) -> None:
        super().__init__(spec, params, config, seed)
        if config.num_tasks > config.pool_tasks:
            raise ValueError(f"num_tasks is {config.num_tasks}, expected at most pool_tasks, {config.pool_tasks}")
        self.generator = torch.Generator().manual_seed(seed)
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            self.network = Network(spec, config)
        self.replay = Replay(spec, config.pool_tasks, config.num_robots, config.memory)
        net = self.network
        groups = {"critic": [*net.critics.parameters(), *net.encoder.parameters()], "actor": [*net.policy.parameters()], "alpha": [net.log_alpha]}
        self.optimizers = {name: torch.optim.Adam(group, config.learning_rate, fused=True) for name, group in groups.items()}

    @property
    def device(self) -> torch.device:
        """Where the network lives."""
        return self.network.normalizer.mean.device

    @property
    def pool_tasks(self) -> int:
        """The memory is by task, so it comes back to the same ones."""
        return self.config.pool_tasks

    def noise(self, *shape: int) -> Tensor:
        """Standard normal numbers."""
        return torch.randn(shape, generator=self.generator).to(self.device)

    def adapter(self, num_tasks: int, num_robots: int = 1, training: bool = False) -> PosteriorAdapter:
        return PosteriorAdapter(self, num_tasks, num_robots, training)

    def meta_update(self, rollout: Rollout) -> dict[str, float]:
        rollout = rollout.to(self.device)
        net = self.network
        net.normalizer.update(torch.cat([rollout.obs, rollout.next_obs]), torch.cat([rollout.valid, rollout.valid]))
        net.reward_normalizer.update(rollout.reward.unsqueeze(-1), rollout.valid)
        self.replay.add(rollout)
        logs: dict[str, Tensor] = {}
        for _ in range(self.config.updates):
            logs = self.improve(self.replay.draw_tasks(self.config.meta_batch, self.generator))
        return {name: float(x.detach()) for name, x in logs.items()} | {"alpha": float(net.log_alpha.detach().exp())}

    def improve(self, tasks: Tensor) -> dict[str, Tensor]:
        """One step of training on tasks (B,) of the memory; returns what to log."""
        cfg, net = self.config, self.network
        posterior = self.infer(*self.replay.draw_context(tasks, cfg.prior_episodes, cfg.context_size, self.generator))
        latent = posterior.sample(self.noise(*posterior.mean.shape))
        batch = self.batch(self.replay.draw(tasks, cfg.batch_size, self.generator), latent)
        error, kl = self.critic_loss(batch), posterior.kl_to_prior().mean()
        self._step("critic", error + cfg.kl_weight * cfg.reward_scale**2 * kl)
        loss, log_prob = self.actor_loss(batch)
        self._step("actor", loss)
        self._step("alpha", sac.temperature_loss(net.log_alpha, log_prob, -cfg.negentropy * self.spec.action_size))
        sac.polyak(net.targets.parameters(), net.critics.parameters(), cfg.target_rate)
        return {"critic_loss": error, "actor_loss": loss, "kl": kl, "entropy": -log_prob.mean(), "posterior_std": posterior.var.sqrt().mean()}

    def infer(self, context: Decisions, weight: Tensor) -> Posterior:
        """Posteriors (B, L) from decisions (B, C) that count `weight` (B, C) times each."""
        return Evidence.of(*self.network.factors(context), weight).posterior()

    def batch(self, said: Decisions, latent: Tensor) -> Batch:
        """Decisions (B, N) of tasks with latents (B, L), as the networks see them."""
        net, rows = self.network, latent.unsqueeze(1).expand(-1, said.obs.shape[1], -1)
        reward = self.config.reward_scale * said.training_reward.squeeze(-1)
        parts = net.normalizer(said.obs), said.action, net.normalizer(said.next_obs), reward, said.terminated.squeeze(-1), rows
        return Batch(*(part.flatten(0, 1) for part in parts))

    def critic_loss(self, batch: Batch) -> Tensor:
        """The squared error of both critics; its gradient goes into the latents, and from there into the encoder."""
        net, latent = self.network, batch.latent.detach()
        with torch.no_grad():
            action, log_prob = net.act(batch.next_obs, latent).sample(self.noise(*batch.action.shape))
            next_q = net.targets(torch.cat([batch.next_obs, action, latent], -1)).squeeze(-1)
            target = sac.soft_target(batch.reward, batch.terminated, next_q, log_prob, net.log_alpha.exp(), self.config.discount)
        return sac.critic_loss(net.critics(torch.cat([batch.obs, batch.action, batch.latent], -1)).squeeze(-1), target)

    def actor_loss(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """The actor's loss, and log densities (B N,) of the actions that it drew; no gradient goes into the latents or into the critics."""
        net, latent = self.network, batch.latent.detach()
        action, log_prob = net.act(batch.obs, latent).sample(self.noise(*batch.action.shape))
        q = net.critics(torch.cat([batch.obs, action, latent], -1), frozen=True).squeeze(-1)
        return sac.actor_loss(q, log_prob, net.log_alpha.detach().exp()), log_prob

    def _step(self, name: str, loss: Tensor) -> None:
        optimizer = self.optimizers[name]
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(optimizer.param_groups[0]["params"], self.config.max_gradient_norm)
        optimizer.step()

    # ---- files ------------------------------------------------------------------------------------------------------------

    def meta_parameters(self) -> dict[str, Tensor]:
        kept = ("normalizer.", "reward_normalizer.", "encoder.", "policy.")
        return {k: v.detach().clone() for k, v in self.network.state_dict().items() if k.startswith(kept)}

    def load_meta_parameters(self, tensors: Mapping[str, Tensor]) -> None:
        self.network.load_state_dict(dict(tensors), strict=False)

    def state_dict(self) -> dict[str, Any]:
        optimizers = {name: optimizer.state_dict() for name, optimizer in self.optimizers.items()}
        return {"network": self.network.state_dict(), "replay": self.replay.get_extra_state(), "generator": self.generator.get_state(), **optimizers}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.network.load_state_dict(state["network"])
        self.replay.set_extra_state(state["replay"])
        self.generator.set_state(state["generator"])
        for name, optimizer in self.optimizers.items():
            optimizer.load_state_dict(state[name])


ALGORITHM = PEARL
