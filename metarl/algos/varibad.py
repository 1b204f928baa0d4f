"""VariBAD: acting on a belief over tasks that variational inference keeps up to date (Zintgraf et al. 2020).

A recurrent encoder turns what happened up to t into a Gaussian belief over a latent m, and the policy acts on the observation and the belief:

    h_t = GRU(h_{t-1}; o_t, a_{t-1}, r_{t-1}, ends_{t-1})      q_t = q(m | tau_:t) = N(mu(h_t), sigma²(h_t))      a_t ~ pi(o_t, mu_t, log sigma²_t)

Policy and encoder have two objectives and two optimisers. PPO improves the policy and leaves the encoder alone: beliefs are inputs to it. The encoder
is trained with decoders, on trials of a buffer that reaches further back than the last rollout, to maximise for every t = 0 ... T

    ELBO_t = E_{m ~ q_t} [ sum_{j < T} log p(r_j | o_j, a_j, o_{j+1}, m) + log p(o_{j+1} | o_j, a_j, m) ] - beta KL(q_t || q_{t-1})       q_{-1} = N(0, I)

with the sum over the whole trial, past and future: a belief is good when it foretells what will happen, and not only when it remembers. The decoders
are Gaussian with unit variance in normalised rewards and observations, and serve training alone. What the adapter carries is the belief.

Deviations from the paper and its code, and why:
- the terms of a sum over decisions are sub-sampled, without bias: `num_beliefs` of the t and `num_decoded` of the j, anew for each trial and update.
  KL is taken at every t. The loss is -ELBO per decision, which changes neither its optimum nor the weight of KL against all the T terms of the sum.
- the reward decoder reads o, a and o', where the code reads o' alone, or has one output per grid cell: nothing is known of the task in advance.
  What it reads of a decision does not depend on m, so its first layer is computed once per decision and once per belief, and only added for each pair.
- encoder inputs go into the GRU without embeddings, and beliefs to the policy through a running normaliser, as in the code. Whether an episode has just
  ended is told to the encoder alone: the policy gets no flag and no time but by the belief.
- where a trial is long, the encoder's update gates may begin so that its memory spans it (`memory_span`), as in rl2.py.
- in training the value function is told the task's parameters and the time left, as that of every learner here: see metarl/trial_ppo.py.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple, Self

import torch
from torch import Tensor, nn

from metarl.algorithm import FAR
from metarl.gru import keep_for, unroll
from metarl.networks import Normalizer, root_mean_square
from metarl.returns import masked_mean
from metarl.rollout import Rollout
from metarl.tasks.parameters import Param
from metarl.tasks.task import EnvSpec
from metarl.trial_ppo import Batch, TrialAdapter, TrialNetwork, TrialPPO, TrialPPOConfig
from metarl.trials import TrialBuffer, Trials, transition_size, trials, valid_first


@dataclass(frozen=True)
class VariBADConfig(TrialPPOConfig):
    """Settings of VariBAD."""

    hidden_size: int = 64
    """Size of the encoder's memory."""
    memory_span: int = 1
    """Decisions over which it keeps what it holds before it has learned what to keep, see `metarl.gru.keep_for`; 1: torch's own gates."""
    latent_size: int = 5
    """Size of the latent m, L."""
    decoder_layers: tuple[int, ...] = (64, 32)
    """Hidden layers of the decoders."""
    reward_weight: float = 1.0
    """Weight of log p(r), the reward decoder's part."""
    state_weight: float = 0.0
    """Weight of log p(o'), the state decoder's part: needed where tasks differ in their dynamics."""
    kl_weight: float = 0.1
    """beta, weight of the divergence from the previous belief."""
    vae_learning_rate: float = 3e-3
    """Of the Adam that trains encoder and decoders, falling as PPO's: an encoder that changes moves the policy as well, and nothing limits how far."""
    vae_updates: int = 20
    """Its steps after each rollout."""
    vae_trials: int = 64
    """Trials in each of them."""
    buffer_trials: int = 2048
    """Most recent trials that they are drawn from."""
    num_beliefs: int = 12
    """Beliefs of a trial that are asked to foretell, in each step."""
    num_decoded: int = 20
    """Decisions that each of them must foretell."""


# ---- networks ---------------------------------------------------------------------------------------------------------------


class Belief(NamedTuple):
    """Gaussian beliefs over the latent: both (..., L)."""

    mean: Tensor
    log_var: Tensor


class Encoder(nn.Module):
    """What happened -> belief, and the belief as the policy reads it."""

    def __init__(self, input_size: int, hidden_size: int, latent_size: int) -> None:
        super().__init__()
        self.gru = nn.GRU(input_size, hidden_size, batch_first=True)
        self.head = nn.Linear(hidden_size, 2 * latent_size)
        nn.init.orthogonal_(self.head.weight, 0.1)  # the first beliefs are almost N(0, I)
        nn.init.zeros_(self.head.bias)
        self.normalizer = Normalizer(2 * latent_size)

    def belief(self, hidden: Tensor) -> Belief:
        """After memories (..., hidden size)."""
        return Belief(*self.head(hidden).chunk(2, -1))

    def beliefs(self, transition: Tensor) -> Belief:
        """(N, T + 1, L) before and after each of the transitions (N, T, I)."""
        return self.belief(unroll(self.gru, transition))

    def known(self, belief: Belief) -> Tensor:
        """(..., 2 L) what the policy reads."""
        said: Tensor = self.normalizer(torch.cat(belief, -1))
        return said


class Decoder(nn.Module):
    """Mean of what is to be foretold, for all pairs of a latent and a decision."""

    def __init__(self, latent_size: int, input_size: int, layers: tuple[int, ...], output_size: int) -> None:
        super().__init__()
        self.of_latent, self.of_decision = nn.Linear(latent_size, layers[0], bias=False), nn.Linear(input_size, layers[0])
        rest: list[nn.Module] = [nn.ReLU()]
        for fan_in, fan_out in zip(layers, (*layers[1:], output_size), strict=True):
            rest += [nn.Linear(fan_in, fan_out), nn.ReLU()]
        self.rest = nn.Sequential(*rest[:-1])

    def forward(self, latent: Tensor, decision: Tensor) -> Tensor:
        """(N, E, D, output) from latents (N, E, L) and decisions (N, D, input)."""
        said: Tensor = self.rest(self.of_latent(latent).unsqueeze(2) + self.of_decision(decision).unsqueeze(1))
        return said


# ---- acting -----------------------------------------------------------------------------------------------------------------


class BeliefAdapter(TrialAdapter):
    """What M x R learners believe: `belief`, (M * R, L), and the encoder's memory that the next one is made from."""

    algorithm: VariBAD

    @torch.no_grad()
    def reset(self) -> None:
        """Back to the prior."""
        self.hidden = torch.zeros(1, self.shape[0] * self.shape[1], self.algorithm.config.hidden_size, device=self.task.device)
        self.belief = self.algorithm.encoder.belief(self.hidden[0])

    def known(self) -> Tensor:
        """(M, R, 2 L) the belief."""
        return self.algorithm.encoder.known(self.belief).unflatten(0, self.shape)

    def remember(self, transition: Tensor, valid: Tensor) -> None:
        """Believe anew where the step is valid."""
        hidden = self.algorithm.encoder.gru(transition.unsqueeze(1), self.hidden)[1]
        self.hidden = torch.where(valid.unsqueeze(-1), hidden, self.hidden)
        self.belief = self.algorithm.encoder.belief(self.hidden[0])

    @torch.no_grad()
    def distance(self, prior: Self) -> float:
        """Of the memory, whose units lie between -1 and 1, or of the belief in standard deviations of those of training over FAR, whichever is more."""
        change = torch.cat(self.belief, -1) - torch.cat(prior.belief, -1)
        spread = (self.algorithm.encoder.normalizer.var + 1e-8).sqrt()
        return max(root_mean_square(self.hidden - prior.hidden), root_mean_square(change / spread) / FAR)

    def believed(self) -> Tensor:
        """(M, R, 2 L) mean and standard deviation of the latent."""
        return torch.cat([self.belief.mean, (0.5 * self.belief.log_var).exp()], -1).unflatten(0, self.shape)


@dataclass
class BeliefBatch(Batch):
    """Trials with what was known before each decision, (N, T, 2 L): PPO does not change it."""

    known: Tensor


# ---- learning ---------------------------------------------------------------------------------------------------------------


class VariBAD(TrialPPO):
    """See the module's docstring."""

    Config = VariBADConfig
    config: VariBADConfig

    def __init__(self, spec: EnvSpec, params: tuple[Param, ...], config: VariBADConfig, seed: int = 0) -> None:
        super().__init__(spec, params, config, seed)
        obs_size, latent, layers = spec.obs_size, config.latent_size, config.decoder_layers
        with torch.random.fork_rng():
            torch.manual_seed(seed + 1)
            self.reward_decoder = Decoder(latent, 2 * obs_size + spec.action_size, layers, 1)
            self.state_decoder = Decoder(latent, obs_size + spec.action_size, layers, obs_size)
        self.buffer = TrialBuffer(spec, config.buffer_trials)
        self.inference = [*self.encoder.parameters(), *self.reward_decoder.parameters(), *self.state_decoder.parameters()]
        self.vae_optimizer = torch.optim.Adam(self.inference, config.vae_learning_rate)

    def make_network(self) -> TrialNetwork:
        """The encoder, and a policy and a value function that read its belief."""
        cfg = self.config
        encoder = Encoder(transition_size(self.spec), cfg.hidden_size, cfg.latent_size)
        if cfg.memory_span > 1:
            keep_for(encoder.gru, cfg.memory_span)
        return TrialNetwork(self.spec, len(self.params), encoder, 2 * cfg.latent_size, cfg.layers, cfg.initial_std)

    def ppo_parameters(self) -> list[nn.Parameter]:
        """Policy and value function."""
        return [*self.network.policy.parameters(), *self.network.value.parameters()]

    def optimizers(self) -> list[tuple[torch.optim.Optimizer, float]]:
        """PPO's, and that of the encoder."""
        return [*super().optimizers(), (self.vae_optimizer, self.config.vae_learning_rate)]

    @property
    def encoder(self) -> Encoder:
        """The network's memory."""
        assert isinstance(self.network.memory, Encoder)
        return self.network.memory

    def adapter(self, num_tasks: int, num_robots: int = 1, training: bool = False) -> BeliefAdapter:
        return BeliefAdapter(self, num_tasks, num_robots)

    # ---- the policy -------------------------------------------------------------------------------------------------------

    @torch.no_grad()
    def batch(self, rollout: Rollout) -> BeliefBatch:
        """The rollout as sequences, with the beliefs that the policy acted on."""
        batch = super().batch(rollout)
        return BeliefBatch(**vars(batch), known=self.encoder.known(self.encoder.beliefs(batch.transition[:, :-1])))

    def evaluate(self, batch: Batch) -> tuple[Tensor, Tensor, Tensor]:
        """Log-probabilities, normalised values and entropies of the policy, all (N, T), of what was done."""
        assert isinstance(batch, BeliefBatch)
        return self.network.evaluate(batch, batch.known)

    # ---- the beliefs ------------------------------------------------------------------------------------------------------

    def improve(self, rollout: Rollout, batch: Batch) -> dict[str, float]:
        """PPO's update of the policy, then the encoder's and the decoders'; returns what to log."""
        logs = super().improve(rollout, batch)
        self.buffer.add(trials(rollout, valid_first(rollout)))
        logs |= self.improve_beliefs()
        with torch.no_grad():
            belief = self.encoder.beliefs(batch.transition[:, :-1])
        self.encoder.normalizer.update(torch.cat(belief, -1), batch.valid)
        return logs

    def improve_beliefs(self) -> dict[str, float]:
        """Train encoder and decoders on trials of the buffer; returns what to log."""
        logs = dict[str, float]()
        for _ in range(self.config.vae_updates):
            loss, logs = self.inference_loss(self.buffer.draw(self.config.vae_trials, self.generator))
            self.vae_optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(self.inference, self.config.max_gradient_norm)
            self.vae_optimizer.step()
        return logs

    def inference_loss(self, said: Trials) -> tuple[Tensor, dict[str, float]]:
        """-ELBO per decision, and what to log of it."""
        likelihood, kl = self.elbo(said)
        loss = (self.config.kl_weight * kl - likelihood) / said.valid.shape[1]
        return loss, {"log_likelihood": likelihood.item(), "kl_of_beliefs": kl.item()}

    def elbo(self, said: Trials) -> tuple[Tensor, Tensor]:
        """The two parts of ELBO_t, means over all trials and t: log p of the whole trial, but for a constant, and KL to the previous belief."""
        network, cfg = self.network, self.config
        belief = self.encoder.beliefs(network.transition(said, said.obs[..., :0]))
        exists = torch.cat([torch.ones_like(said.valid[:, :1]), said.valid], 1)  # a belief before and after every decision
        asked, is_asked = choose(exists, cfg.num_beliefs, self.generator)
        told, is_told = choose(said.valid, cfg.num_decoded, self.generator)
        mean, log_var = (take(x, asked) for x in belief)
        latent = mean + (0.5 * log_var).exp() * torch.randn(mean.shape, generator=self.generator).to(mean.device)
        steps = said.valid.sum(1).view(-1, 1, 1)
        likelihood = steps * masked_mean(self.log_likelihood(latent, said, told), is_told.unsqueeze(1), (-1,))
        return masked_mean(likelihood.squeeze(-1), is_asked), masked_mean(kl_to_previous(belief), exists)

    def log_likelihood(self, latent: Tensor, said: Trials, told: Tensor) -> Tensor:
        """(N, E, D) weighted log p of decisions (N, D) of the trials with latents (N, E, L), without the constant."""
        network, cfg = self.network, self.config
        obs, next_obs = (take(network.normalizer(x), told) for x in (said.obs, said.next_obs))
        action, reward = take(said.action.clamp(-1, 1), told), take(network.reward_normalizer(said.reward.unsqueeze(-1)), told)
        total = cfg.reward_weight * unit_gaussian(reward, self.reward_decoder(latent, torch.cat([obs, action, next_obs], -1)))
        if cfg.state_weight > 0:
            total = total + cfg.state_weight * unit_gaussian(next_obs, self.state_decoder(latent, torch.cat([obs, action], -1)))
        return total

    # ---- files ------------------------------------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        modules = {name: getattr(self, name).state_dict() for name in ("reward_decoder", "state_decoder", "buffer", "vae_optimizer")}
        return super().state_dict() | modules

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        super().load_state_dict(state)
        for name in ("reward_decoder", "state_decoder", "buffer", "vae_optimizer"):
            getattr(self, name).load_state_dict(state[name])


# ---- the parts of the objective ---------------------------------------------------------------------------------------------


def kl_to_previous(belief: Belief) -> Tensor:
    """(N, T + 1) KL(q_t || q_{t-1}) of beliefs (N, T + 1, L); the first one's is to N(0, I)."""
    before = Belief(*(torch.cat([torch.zeros_like(x[:, :1]), x[:, :-1]], 1) for x in belief))
    moved = (belief.mean - before.mean) ** 2 * (-before.log_var).exp()
    difference = belief.log_var - before.log_var
    return 0.5 * (difference.exp() + moved - 1 - difference).sum(-1)


def unit_gaussian(value: Tensor, mean: Tensor) -> Tensor:
    """(N, E, D) log density, but for a constant, of values (N, D, n) under means (N, E, D, n) and variance 1."""
    return -0.5 * ((value.unsqueeze(1) - mean) ** 2).sum(-1)


def choose(candidates: Tensor, count: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Up to `count` of the candidates (N, T) bool in each row, none twice: indices (N, n), and which of those are candidates at all (N, n) bool."""
    lot = torch.rand(candidates.shape, generator=generator).to(candidates.device) + 2 * ~candidates
    drawn, index = lot.topk(min(count, lot.shape[1]), largest=False)
    return index, drawn < 2


def take(x: Tensor, index: Tensor) -> Tensor:
    """(N, n, F) rows (N, n) of x (N, T, F)."""
    return x.gather(1, index.unsqueeze(-1).expand(-1, -1, x.shape[-1]))


ALGORITHM = VariBAD
