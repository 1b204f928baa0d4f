"""AMAGO-style: an off-policy actor-critic on whole trials, around one causal transformer (Grigsby et al. 2024, 2310.09971; its code).

A transformer (metarl/transformer.py) reads the tokens of all that happened, an empty one and then the transitions. Actor and critics share it:

    h_t = transformer(x_0 ... x_t)        s_t = (o_t, h_t)        a_t ~ pi(s_t)        Q_e(s_t, a_t), e = 1 ... E

It learns from sequences of a buffer of whole trials. For each of several discounts gamma_g there are an actor and E critics, side by side in the
outputs of the same networks; the last, most far-sighted one acts, the others teach the memory what is near:

    y_g = r_t + gamma_g min_{e in random subset} Q'_eg(s_{t+1}, a')     a' ~ pi_g(s_{t+1})     y = r_T at the end of the trial and nowhere else
    L = w mean_eg (Q_eg - norm_g(y_g))² - mean_g [ mean_e Q_eg(s_t, a ~ pi_g) + b 1{A_g(s_t, a_t) > 0} log pi_g(a_t | s_t) + alpha entropy(pi_g) ]

with A_g = mean_e Q_eg(s_t, a_t) - Q_eg(s_t, a ~ pi_g): good actions of the past are imitated (filtered behaviour cloning). What Q says of the
actor's choice has a gradient by the action alone, not by the critics or by the s_t that they read. Discrete actions need no sample: expectations
over pi are sums. Q' is a slow copy of the critics (polyak) on the same h, which has none of its own: one pass through the transformer serves all.

norm_g is PopArt (van Hasselt et al. 2016): targets have mean 0 and variance 1 for each discount, and the last layer is rescaled so that no value
moves. Two-hot classification of symlog values (AMAGO-2) is as indifferent to the rewards' scale, but has E x G x 64 outputs for each token, more than
the whole transformer on a CPU core; and the actor's -Q needs values of equal scale for all discounts, which PopArt gives.

Deviations from the paper and its code, and why:
- the memory takes in transitions, o' among them, and actor and critics read o directly beside it, for the reasons given in rl2.py.
- the next action comes from the actor, not from a slow copy of it; a learning rate that falls takes that role.
- a small bonus on entropy keeps actors from closing before the sparse reward was met (the code has noise alone).
- noise: each learner in training draws a part of its trial's actions, up to a limit that falls with time, uniformly; the code's bilevel noise.
- a trial is never cut.
- where a task has a `training_reward`, that is the critics' r, as in rl2.py; the memory takes in the reward itself.
As in the paper, and unlike the value functions of the other learners here, critics are not told the task's parameters: what they must find out for
themselves is what teaches the memory.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple, Self

import torch
from torch import Tensor, nn
from torch.nn.functional import pad

from metarl import sac
from metarl.algorithm import MetaRLAlgorithm
from metarl.networks import Categorical, PopArt, root_mean_square
from metarl.returns import masked_mean
from metarl.rollout import Rollout
from metarl.tasks.batched_env import Step
from metarl.tasks.parameters import Param
from metarl.tasks.task import EnvSpec
from metarl.transformer import Cache, Transformer
from metarl.trials import Senses, TrialBuffer, Trials, transition_size, trials, valid_first

WARM_UP = 100  # steps until the learning rate has its full size


@dataclass(frozen=True)
class AMAGOConfig:
    """Settings of AMAGO."""

    num_tasks: int = 32
    """Tasks of a rollout, M."""
    num_robots: int = 1
    """Copies of each task, R; each is a learner of its own."""
    iterations: int = 150
    """Rollouts, each followed by `updates` steps of training."""
    updates: int = 40
    """Steps of training after a rollout."""
    batch_trials: int = 32
    """Trials in each of them."""
    buffer_trials: int = 4096
    """Most recent trials that they are drawn from."""
    width: int = 64
    """Size of a token in the transformer."""
    heads: int = 4
    """Heads of its attention."""
    blocks: int = 2
    """Its depth."""
    layers: tuple[int, ...] = (64, 64)
    """Hidden layers of actor and critics."""
    critics: int = 4
    """Critics of the ensemble, E."""
    trusted_critics: int = 2
    """Size of the random subset whose least value is the target."""
    lookahead: tuple[int, ...] = (5, 20, 100)
    """n decisions, gamma = 1 - 1 / n for each of the discounts; the last one acts."""
    learning_rate: float = 1e-3
    """Of Adam, falling linearly to a tenth at the last iteration."""
    critic_weight: float = 10.0
    """Weight of the critics' loss, w."""
    imitation: float = 0.1
    """Weight of filtered imitation in the actor's loss, b."""
    entropy_bonus: float = 0.003
    """alpha, in normalised values."""
    target_rate: float = 0.01
    """tau, by which target critics follow in each step."""
    popart_rate: float = 0.01
    """By which the targets' mean and variance follow in each step."""
    blind: float = 1.0
    """Largest part of the actions that a learner in training draws uniformly, at first."""
    blind_until: float = 0.5
    """Part of the iterations after which none is."""
    max_gradient_norm: float = 1.0
    """Longest gradient."""


# ---- actor and critics ------------------------------------------------------------------------------------------------------


class Judged(NamedTuple):
    """What critics say, normalised, and the actor: of decisions of trials, for G discounts.

    Attributes:
        action_value: (E, N, T, G) of what was done.
        value: (E, N, T, G) of what the actor would do; its gradient goes through the action alone.
        target_value: (E, N, T, G) the same by the target critics, without gradient.
        log_prob: (N, T, G) of what was done.
        entropy: (N, T, G).
    """

    action_value: Tensor
    value: Tensor
    target_value: Tensor
    log_prob: Tensor
    entropy: Tensor


class Network(Senses):
    """All that is learned; a subclass knows its kind of actions."""

    numbers: ClassVar[int] = 1  # that the actor says of each dimension of an action

    def __init__(self, spec: EnvSpec, config: AMAGOConfig, critic_input: int, critic_output: int) -> None:
        super().__init__(spec)
        self.discounts, self.action_size = len(config.lookahead), spec.action_size
        size = spec.obs_size + config.width
        self.memory = Transformer(transition_size(spec), config.width, config.heads, config.blocks)
        self.actor = sac.relu_mlp([size, *config.layers, self.discounts * self.numbers * spec.action_size], last_scale=1e-2)
        sizes = [size + critic_input, *config.layers, self.discounts * critic_output]
        self.critics, self.targets = (sac.StackedMLP(config.critics, sizes) for _ in range(2))
        self.targets.load_state_dict(self.critics.state_dict())
        self.popart = PopArt(self.discounts, config.popart_rate)

    def say(self, state: Tensor) -> Tensor:
        """(..., G, n A) what the actor says at (..., O + width)."""
        said: Tensor = self.actor(state)
        return said.unflatten(-1, (self.discounts, -1))


class DiscreteNetwork(Network):
    """Critics tell the value of all actions at once."""

    def __init__(self, spec: EnvSpec, config: AMAGOConfig) -> None:
        super().__init__(spec, config, 0, spec.action_size)

    def act(self, state: Tensor, explore: bool, generator: torch.Generator) -> Tensor:
        """Actions (..., A)."""
        policy = Categorical(self.say(state)[..., -1, :].log_softmax(-1))
        return policy.sample(generator) if explore else policy.mode()

    def any_action(self, shape: torch.Size, generator: torch.Generator) -> Tensor:
        """(..., A), each as likely as the others."""
        return Categorical(torch.zeros(shape)).sample(generator)

    def judge(self, state: Tensor, action: Tensor, generator: torch.Generator) -> Judged:
        """States (N, T, S) and what was done there, (N, T, A)."""
        log_prob = self.say(state).log_softmax(-1).transpose(-1, -2)  # (N, T, A, G)
        prob = log_prob.exp()
        value, done = self._values(self.critics, state), action.unsqueeze(-1)
        with torch.no_grad():
            target_value = (prob * self._values(self.targets, state)).sum(-2)
        entropy = -(prob * log_prob).sum(-2)
        return Judged((done * value).sum(-2), (prob * value.detach()).sum(-2), target_value, (done * log_prob).sum(-2), entropy)

    def _values(self, critics: sac.StackedMLP, state: Tensor) -> Tensor:
        """(E, N, T, A, G)."""
        value: Tensor = critics(state.flatten(0, 1))
        return value.view(-1, *state.shape[:2], self.action_size, self.discounts)


class ContinuousNetwork(Network):
    """Critics read the action; the actors of the G discounts each draw their own."""

    numbers: ClassVar[int] = 2

    def __init__(self, spec: EnvSpec, config: AMAGOConfig) -> None:
        super().__init__(spec, config, spec.action_size, 1)

    def policy(self, state: Tensor) -> sac.SquashedGaussian:
        """(..., G, A)."""
        mean, log_std = self.say(state).chunk(2, -1)
        return sac.SquashedGaussian(mean, (log_std - 0.5).clamp(*sac.LOG_STD))

    def act(self, state: Tensor, explore: bool, generator: torch.Generator) -> Tensor:
        """Actions (..., A)."""
        policy = sac.SquashedGaussian(*(x[..., -1, :] for x in self.policy(state)))
        return policy.sample(normal(policy.mean, generator))[0] if explore else policy.mode()

    def any_action(self, shape: torch.Size, generator: torch.Generator) -> Tensor:
        """(..., A), uniform."""
        return 2 * torch.rand(shape, generator=generator) - 1

    def judge(self, state: Tensor, action: Tensor, generator: torch.Generator) -> Judged:
        """States (N, T, S) and what was done there, (N, T, A)."""
        policy = self.policy(state)
        own, own_log_prob = policy.sample(normal(policy.mean, generator))
        action_value = self.critics(torch.cat([state, action], -1).flatten(0, 1)).view(-1, *state.shape[:2], self.discounts)
        asked = torch.cat([state.detach().unsqueeze(2).expand(-1, -1, self.discounts, -1), own], -1).flatten(0, 2)
        with torch.no_grad():
            target_value = self._of_own(self.targets(asked), state)
        return Judged(action_value, self._of_own(self.critics(asked, frozen=True), state), target_value, log_prob(policy, action), -own_log_prob)

    def _of_own(self, value: Tensor, state: Tensor) -> Tensor:
        """(E, N, T, G) of values (E, N T G, G) the one by the discount whose actor drew the action."""
        return value.view(-1, *state.shape[:2], self.discounts, self.discounts).diagonal(dim1=-2, dim2=-1)


def normal(like: Tensor, generator: torch.Generator) -> Tensor:
    """Standard normal numbers."""
    return torch.randn(like.shape, generator=generator).to(like.device)


def log_prob(policy: sac.SquashedGaussian, action: Tensor) -> Tensor:
    """(..., G) log densities of actions (..., A); those at the limits are taken to be a little inside."""
    action = action.unsqueeze(-2).clamp(-0.999, 0.999)
    z = (action.atanh() - policy.mean) * (-policy.log_std).exp()
    return (-0.5 * z**2 - policy.log_std - 0.5 * math.log(2 * math.pi) - (1 - action**2).log()).sum(-1)


# ---- acting -----------------------------------------------------------------------------------------------------------------


class TransformerAdapter:
    """What M x R learners have seen: the cache of the transformer."""

    def __init__(self, algorithm: AMAGO, num_tasks: int, num_robots: int, training: bool) -> None:
        self.algorithm, self.network, self.shape, self.training = algorithm, algorithm.network, (num_tasks, num_robots), training
        self.reset()

    def reset(self) -> None:
        """Back to the empty token."""
        algorithm = self.algorithm
        self.cache = Cache(self.network.memory, self.shape[0] * self.shape[1], algorithm.spec.horizon * algorithm.spec.episodes_per_trial + 1)
        self.blind = algorithm.blind * torch.rand(*self.shape, 1, generator=algorithm.generator) if self.training else torch.zeros(*self.shape, 1)

    @torch.no_grad()
    def act(self, obs: Tensor, explore: bool = True) -> Tensor:
        """Actions (M, R, A) for observations (M, R, O): drawn from the actor, in training some of them uniformly, or its mean or likeliest ones."""
        network, generator, known = self.network, self.algorithm.generator, self.cache.known.unflatten(0, self.shape)
        action = network.act(torch.cat([network.normalizer(obs.to(known.device)), known], -1), explore, generator).to(obs.device)
        if explore and self.training:
            blindly = torch.rand(self.blind.shape, generator=generator) < self.blind
            action = torch.where(blindly.to(obs.device), network.any_action(action.shape, generator).to(obs.device), action)
        return action

    @torch.no_grad()
    def observe(self, step: Step) -> None:
        """One more token for the robots whose step is valid."""
        step = step.to(self.cache.known.device)
        self.cache.add(self.network.experience(step).flatten(0, 1), step.valid.flatten())

    def adapt(self) -> None:
        """Nothing: the memory has adapted already."""

    @torch.no_grad()
    def distance(self, prior: Self) -> float:
        """Root mean square of the change of what is known, before its layer norm's gains, where opposite vectors are 2 apart."""
        return 0.5 * root_mean_square((self.cache.known - prior.cache.known) / self.network.memory.norm.weight)


# ---- learning ---------------------------------------------------------------------------------------------------------------


class AMAGO(MetaRLAlgorithm):
    """See the module's docstring."""

    Config = AMAGOConfig
    config: AMAGOConfig
    discrete: ClassVar[bool] = True

    def __init__(self, spec: EnvSpec, params: tuple[Param, ...], config: AMAGOConfig, seed: int = 0) -> None:
        super().__init__(spec, params, config, seed)
        if config.width % (2 * config.heads):
            raise ValueError(f"width is {config.width}, expected a multiple of 2 heads, {2 * config.heads}")
        if config.trusted_critics > config.critics:
            raise ValueError(f"trusted_critics is {config.trusted_critics}, expected at most critics, {config.critics}")
        self.generator = torch.Generator().manual_seed(seed)
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            self.network: DiscreteNetwork | ContinuousNetwork = (DiscreteNetwork if spec.discrete else ContinuousNetwork)(spec, config)
        self.buffer = TrialBuffer(spec, config.buffer_trials)
        net = self.network
        self.trained = [*net.memory.parameters(), *net.actor.parameters(), *net.critics.parameters()]
        self.optimizer = torch.optim.Adam(self.trained, config.learning_rate, fused=True)
        self.iteration = 0

    @property
    def device(self) -> torch.device:
        """Where the network lives."""
        return self.network.normalizer.mean.device

    @property
    def blind(self) -> float:
        """Largest part of uniform actions, now."""
        over = self.config.blind_until * self.config.iterations
        return self.config.blind * max(1 - self.iteration / over, 0.0) if over > 0 else 0.0

    def adapter(self, num_tasks: int, num_robots: int = 1, training: bool = False) -> TransformerAdapter:
        return TransformerAdapter(self, num_tasks, num_robots, training)

    def meta_update(self, rollout: Rollout) -> dict[str, float]:
        rollout = rollout.to(self.device)
        self.network.take_in(rollout)
        self.buffer.add(trials(rollout, valid_first(rollout)))
        logs: dict[str, Tensor] = {}
        for step in range(self.config.updates):
            self._schedule(step)
            logs = self.improve(self.buffer.draw(self.config.batch_trials, self.generator))
        self.iteration += 1
        return {name: float(x.detach()) for name, x in logs.items()} | {"blind": self.blind}

    def improve(self, said: Trials) -> dict[str, Tensor]:
        """One step of training on trials; returns what to log."""
        net, cfg = self.network, self.config
        judged = self.judge(said)
        target = self.targets(said, judged)
        loss, logs = self.loss(said, judged, target)
        self.optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(self.trained, cfg.max_gradient_norm)
        self.optimizer.step()
        sac.polyak(net.targets.parameters(), net.critics.parameters(), cfg.target_rate)
        net.popart.update(target, said.valid, *((stack.weights[-1], stack.biases[-1]) for stack in (net.critics, net.targets)))
        return logs

    def judge(self, said: Trials) -> Judged:
        """Trials by actor and critics, in one pass through the transformer."""
        net = self.network
        known = net.memory(net.experience(said)[:, :-1])  # what was known before each decision
        return net.judge(torch.cat([net.normalizer(said.obs), known], -1), said.action, self.generator)

    @torch.no_grad()
    def targets(self, said: Trials, judged: Judged) -> Tensor:
        """(N, T, G) y, not normalised."""
        net, cfg = self.network, self.config
        trusted = torch.randperm(cfg.critics, generator=self.generator)[: cfg.trusted_critics]
        value = judged.target_value[trusted.to(self.device)].amin(0) * net.popart.std + net.popart.mean
        follows = pad(said.valid[:, 1:], (0, 1)).unsqueeze(-1)
        gamma = 1 - 1 / torch.tensor(cfg.lookahead, device=self.device)
        return said.told_reward.unsqueeze(-1) + gamma * follows * pad(value[:, 1:], (0, 0, 0, 1))

    def loss(self, said: Trials, judged: Judged, target: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """The sum of all losses, and what to log of it."""
        net, cfg, valid = self.network, self.config, said.valid.unsqueeze(-1).expand_as(target)
        target = (target - net.popart.mean) / net.popart.std
        error = masked_mean(((judged.action_value - target) ** 2).mean(0), valid)
        value, entropy = judged.value.mean(0), masked_mean(judged.entropy, valid)
        better = judged.action_value.detach().mean(0) > value.detach()
        imitated = masked_mean(better * judged.log_prob, valid)
        value_of_actor = masked_mean(value, valid)
        loss = cfg.critic_weight * error - value_of_actor - cfg.imitation * imitated - cfg.entropy_bonus * entropy
        logs = {"critic_loss": error, "value": value_of_actor, "imitated": imitated, "entropy": entropy, "value_std": net.popart.std[-1]}
        return loss, logs

    def _schedule(self, step: int) -> None:
        cfg = self.config
        warm = min((self.iteration * cfg.updates + step + 1) / WARM_UP, 1.0)
        for group in self.optimizer.param_groups:
            group["lr"] = cfg.learning_rate * warm * (1 - 0.9 * min(self.iteration / cfg.iterations, 1.0))

    # ---- files ------------------------------------------------------------------------------------------------------------

    def meta_parameters(self) -> dict[str, Tensor]:
        kept = ("normalizer.", "reward_normalizer.", "memory.", "actor.")
        return {k: v.detach().clone() for k, v in self.network.state_dict().items() if k.startswith(kept)}

    def load_meta_parameters(self, tensors: Mapping[str, Tensor]) -> None:
        self.network.load_state_dict(dict(tensors), strict=False)

    def state_dict(self) -> dict[str, Any]:
        modules = {name: getattr(self, name).state_dict() for name in ("network", "buffer", "optimizer")}
        return modules | {"generator": self.generator.get_state(), "iteration": self.iteration}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        for name in ("network", "buffer", "optimizer"):
            getattr(self, name).load_state_dict(state[name])
        self.generator.set_state(state["generator"])
        self.iteration = int(state["iteration"])


ALGORITHM = AMAGO
