"""MetaGenRL: a learned objective, which trains new agents in place of a policy gradient (Kirsch et al. 2020, arXiv 1910.04098).

Training has a population of agents, each in a task of its own, that share one objective function L_alpha, a small recurrent network. An agent is
a policy pi_phi with two critics (TD3) and the memory of its episodes. Agents improve by the objective, and the objective by what it did to them:

    phi' = phi - eta g / |g|      g = grad_phi L_alpha(tau, pi_phi, V)      V(o) = Q_theta(o, pi_phi(o))
    alpha <- alpha - rate * grad_alpha sum_agents -Q_theta(o, pi_phi'(o))            second order: through the step to phi'

    L_alpha = mean_t l(h_t)      x_t = f(a_t, pi(o_t)), g(r_t, V_t, V_{t+1}, t, ends_t)      from the end of a segment to its beginning:
    h_t = z_t h_{t+1} + (1 - z_t) tanh(W x_t)      z_t = sigmoid(U x_t)

With v = grad_phi' Q at phi', less its part along g, the meta-gradient is eta grad_alpha <v, g> / |g|, and <v, g> = <J v, grad_pi L_alpha>, with J the
Jacobian of the agent's actions by its parameters. So only the objective is differentiated twice, and never the policy.

In a new task nothing is told to a new agent but alpha: its policy begins at random and follows the frozen objective alone, after each episode. It has
critics, which give V, and never reach the policy in another way. f takes one action at a time and their mean, so alpha fits any body.
What crosses to the robot is alpha, the observations' scale, and the seed of the agents that are born there; they act without delay and learn at rest.

Deviations from the paper and its code (louiskirsch/metagenrl), and why:
- the critic's target has no `+ d`, a bonus for terminating, and an episode whose time is up goes on, where the code merges the two ends.
- a segment that reaches over the end of an episode is read from the episode's end; the code reverses the padding to the front, where it is read.
- agents die after `lifetime` rollouts and are born anew, at different times: else alpha would soon see old agents alone, and fail the young ones.
- two combinations of the inputs are inputs as well, each on its own scale: the temporal difference r + gamma V' - V, and a - pi(o). And what was done
  and what it was worth are multiplied, as in any policy gradient: the objective must find out which of the products, and with what sign.
- Q counts in units of its own spread in each agent, instead of clipping each agent's meta-gradient; and the step that the objective is judged by has a
  fixed length. Agents take steps of Adam, which do not grow with L either; without this, L grew into the hundreds within twenty rollouts.
- a policy waits until its critics have taken `head_start` steps: what they say before is chance, and it would be followed far.
- policies have tanh units: with relu, whose outputs grow with the distance, some new agents ran away and never turned back.
- exploration is larger (the paper: 0.1) and takes the place of 10 000 uniform actions, for agents have few episodes.
- the memory is the minimal GRU of Feng et al. 2024 (2410.01201), whose gates read inputs alone: one operation at each time in place of some ten,
  all of which are differentiated twice. A sum of discounted temporal differences, which generalised advantages are, is within its reach.
- networks are sized for small tasks and have no layer normalisation; observations may go through a running normaliser.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple, Self

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from metarl.algorithm import MetaRLAlgorithm
from metarl.networks import Normalizer, relative_change
from metarl.objective import Objective
from metarl.population import Agents, Episodes, Segments, agent_mean, standardised
from metarl.returns import masked_mean
from metarl.rollout import Rollout
from metarl.tasks.batched_env import Step
from metarl.tasks.parameters import Param
from metarl.tasks.task import EnvSpec


@dataclass(frozen=True)
class MetaGenRLConfig:
    """Settings of MetaGenRL."""

    num_tasks: int = 16
    """Agents of the population, each in its own task, M."""
    num_robots: int = 1
    """Copies of each task, R, which one agent acts with and learns from."""
    iterations: int = 100
    """Rollouts, each followed by `updates` steps for each of its episodes."""
    lifetime: int = 10
    """Rollouts after which an agent dies."""
    warm_up: int = 10
    """Rollouts in which policies go over from the gradient of their critics to that of the objective."""
    updates: int = 60
    """Steps of critics after an episode, in training and in a new task."""
    head_start: int = 100
    """Steps of an agent's critics before its policy moves, and before they judge the objective."""
    policy_delay: int = 2
    """Steps of critics for one of policies and objective."""
    batch_size: int = 4
    """Segments in the objective of an agent; critics, and what the objective is judged by, see twice as many."""
    segment: int = 16
    """Decisions of a segment, T."""
    memory: int = 10_000
    """Most recent decisions that an agent remembers, in whole episodes."""
    layers: tuple[int, ...] = (32, 32)
    """Hidden layers of policies and critics."""
    hidden_size: int = 32
    """Size of the objective's memory and layers."""
    normalise_obs: bool = False
    """Whether observations are given running mean 0 and variance 1."""
    exploration_std: float = 0.3
    """Of the noise on actions."""
    discount: float = 0.95
    """gamma."""
    reward_scale: float = 1.0
    """s: what critics are told of a reward."""
    learning_rate: float = 1e-3
    """Of the Adams of policies, in the population."""
    new_learning_rate: float = 1e-3
    """The same of agents in new tasks."""
    critic_learning_rate: float = 3e-3
    """Of the Adams of critics."""
    meta_learning_rate: float = 3e-3
    """Of the objective's Adam."""
    inner_lr: float = 0.03
    """eta, length of the step that the objective is judged by."""
    max_gradient_norm: float = 1.0
    """Of an agent's policy and of the objective."""
    target_rate: float = 0.01
    """tau, by which targets follow in each step."""
    smoothing_std: float = 0.2
    """Of the noise on the target policy's actions, cut at 2.5 times this."""


# ---- meta-parameters --------------------------------------------------------------------------------------------------------


class Network(nn.Module):
    """All meta-parameters."""

    birth: Tensor

    def __init__(self, obs_size: int, config: MetaGenRLConfig, seed: int) -> None:
        super().__init__()
        self.objective, self.normalizer = Objective(config.hidden_size), Normalizer(obs_size)
        self.register_buffer("birth", torch.tensor(seed))  # of the agents that are born in new tasks


# ---- acting -----------------------------------------------------------------------------------------------------------------


class AgentAdapter:
    """Agents, who act with R robots each."""

    def __init__(self, algorithm: MetaGenRL, agents: Agents, num_robots: int) -> None:
        self.algorithm, self.agents, self.num_robots = algorithm, agents, num_robots

    @torch.no_grad()
    def act(self, obs: Tensor, explore: bool = True) -> Tensor:
        """Actions (M, R, A) for observations (M, R, O)."""
        agents = self.agents
        action = agents.act(agents.policy, self.algorithm.network.normalizer(obs.to(agents.policy.device)))
        if explore:
            noise = torch.randn(action.shape, generator=self.algorithm.generator).to(action.device)
            action = (action + self.algorithm.config.exploration_std * noise).clamp(-1, 1)
        return action.to(obs.device)

    def reset(self) -> None:
        """Nothing: the population lives on."""

    def observe(self, step: Step) -> None:
        """Nothing: the population learns in `meta_update`."""

    def adapt(self) -> None:
        """Nothing: the population learns in `meta_update`."""


class NewAgentAdapter(AgentAdapter):
    """Agents who know nothing of their tasks, and learn by the objective; and the episode that they are in."""

    def __init__(self, algorithm: MetaGenRL, num_tasks: int, num_robots: int) -> None:
        super().__init__(algorithm, algorithm.new_agents(num_tasks), num_robots)
        self.shape = (num_tasks, num_robots, algorithm.spec.horizon)
        self.reset()

    def reset(self) -> None:
        """All are born again, equal: random numbers come from `birth` alone."""
        self.generator = torch.Generator().manual_seed(int(self.algorithm.network.birth))
        device = self.agents.policy.device
        self.agents.born(torch.arange(self.shape[0], device=device), self.generator, alike=True)
        self.rows = self.agents.episodes.rows.new_zeros(*self.shape, sum(self.agents.episodes.sizes))
        self.valid = torch.zeros(self.shape, dtype=torch.bool, device=device)
        self.time = 0

    def observe(self, step: Step) -> None:
        """Remember the decision.

        Raises:
            RuntimeError: the episode is longer than the task's horizon.
        """
        if self.time == self.shape[2]:
            raise RuntimeError(f"more than {self.time} decisions in an episode: the horizon of {self.algorithm.spec.task} is {self.time}")
        step = step.to(self.rows.device)
        self.rows[:, :, self.time] = Episodes.pack(step.obs, step.action, step.next_obs, step.reward, step.terminated, step.valid)
        self.valid[:, :, self.time] = step.valid
        self.time += 1

    def adapt(self) -> None:
        """An episode has ended: learn from all that is remembered."""
        self.agents.episodes.add(self.rows, self.valid)
        self.valid, self.time = torch.zeros_like(self.valid), 0
        for update in range(self.algorithm.config.updates):
            self.algorithm.practise(self.agents, update, self.generator)

    @torch.no_grad()
    def distance(self, prior: Self) -> float:
        """Largest relative change of a layer of the policies."""
        return relative_change(self.agents.policy, prior.agents.policy, self.agents.acts.shapes)


# ---- learning ---------------------------------------------------------------------------------------------------------------


class Lesson(NamedTuple):
    """What an objective said to agents, and what it was said of.

    Attributes:
        said: what they did, as networks see it.
        loss: (M,) the objective.
        by_action: (M, B, T, A) its gradient by what they would do now.
        gradient: (M, P) of their losses.
    """

    said: Segments
    loss: Tensor
    by_action: Tensor
    gradient: Tensor


class MetaGenRL(MetaRLAlgorithm):
    """See the module's docstring."""

    Config = MetaGenRLConfig
    config: MetaGenRLConfig
    pools_robots: ClassVar[bool] = True
    noise_to_adapt: ClassVar[bool] = True

    def __init__(self, spec: EnvSpec, params: tuple[Param, ...], config: MetaGenRLConfig, seed: int = 0) -> None:
        super().__init__(spec, params, config, seed)
        if config.num_tasks < 2:
            raise ValueError("num_tasks is 1, expected a population: an objective that has seen one agent fits that agent alone")
        self.generator = torch.Generator().manual_seed(seed)
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            self.network = Network(spec.obs_size, config, seed)
        self.population = self.new_agents(config.num_tasks).born(torch.arange(config.num_tasks), self.generator)
        self.task_ids: tuple[str, ...] = ()  # of the tasks that they live in
        self.optimizer = torch.optim.Adam(self.objective.parameters(), config.meta_learning_rate, fused=True)
        self.iteration = 0

    @property
    def objective(self) -> Objective:
        """L_alpha."""
        return self.network.objective

    @property
    def pool_tasks(self) -> int:
        """An agent stays in its task."""
        return self.config.num_tasks

    def new_agents(self, count: int) -> Agents:
        """Room for so many; they must be born."""
        cfg = self.config
        return Agents(self.spec, count, cfg.layers, cfg.memory, cfg.max_gradient_norm, self.network.birth.device)

    def adapter(self, num_tasks: int, num_robots: int = 1, training: bool = False) -> AgentAdapter:
        if not training:
            return NewAgentAdapter(self, num_tasks, num_robots)
        if num_tasks != self.config.num_tasks:
            raise ValueError(f"the population has {self.config.num_tasks} agents, {num_tasks} tasks were given")
        return AgentAdapter(self, self.population, num_robots)

    def meta_update(self, rollout: Rollout) -> dict[str, float]:
        rollout = rollout.to(self.network.birth.device)
        self._bury(rollout.task_ids)
        if self.config.normalise_obs:
            self.network.normalizer.update(torch.cat([rollout.obs, rollout.next_obs]), torch.cat([rollout.valid, rollout.valid]))
        rows = Episodes.pack(rollout.obs, rollout.action, rollout.next_obs, rollout.reward, rollout.terminated, rollout.valid)
        self.population.episodes.add(rows.flatten(1, 2), rollout.valid.flatten(1, 2))
        logs: dict[str, list[Tensor]] = {}
        trust = min(self.iteration / self.config.warm_up, 1.0)
        for update in range(self.config.updates * rollout.obs.shape[2]):
            for name, x in self.practise(self.population, update, self.generator, trust, learn=True).items():
                logs.setdefault(name, []).append(x)
        self.iteration += 1
        return {name: float(torch.stack(x).mean()) for name, x in logs.items()}

    def _bury(self, task_ids: tuple[str, ...]) -> None:
        """Agents whose time has come, or whose task is no more, make room for new ones."""
        count, lifetime = self.config.num_tasks, self.config.lifetime
        before = self.task_ids or task_ids
        old = [self.iteration > 0 and (self.iteration + i * lifetime // count) % lifetime == 0 for i in range(count)]
        dead = [i for i in range(count) if old[i] or before[i] != task_ids[i]]
        if dead:
            self.population.born(torch.tensor(dead, device=self.network.birth.device), self.generator)
        self.task_ids = task_ids

    # ---- one step ---------------------------------------------------------------------------------------------------------

    def practise(
        self, agents: Agents, update: int, generator: torch.Generator, trust: float = 1.0, learn: bool = False
    ) -> dict[str, Tensor]:  # fmt: skip
        """One step of agents on what they remember.

        Args:
            agents: who learns.
            update: how many steps came before.
            generator: of the draw, on the CPU.
            trust: weight of the objective in the policies' gradient; the rest is that of their critics, in meta-training's beginning alone.
            learn: whether these are the population, and the objective learns as well.

        Returns:
            What to log.
        """
        cfg = self.config
        said = self.seen(agents.episodes.draw(2 * cfg.batch_size, min(cfg.segment, self.spec.horizon), generator))
        noise = torch.randn(said.action.shape[1:], generator=generator).to(said.action.device).clamp(-2.5, 2.5)
        target = agents.target(said, cfg.smoothing_std * noise, cfg.discount)
        logs = {"critic_loss": agents.improve_critics(said, target, cfg.critic_learning_rate).mean()}
        ready = agents.critic_adam.steps[: agents.count] >= cfg.head_start
        if update % cfg.policy_delay == 0 and bool(ready.any()):
            lesson = self.teach(agents, said.first(cfg.batch_size), create_graph=learn)
            gradient = lesson.gradient
            if trust < 1:
                by_critic = self.value_gradient(agents, agents.policy, said, target)[1]
                gradient = trust * normalize(gradient, dim=-1) - (1 - trust) * normalize(by_critic, dim=-1)
            if learn:
                logs |= self.learn(agents, lesson, said, target, ready.squeeze(-1))
            agents.policy_adam.step(agents.policy, gradient, (cfg.learning_rate if learn else cfg.new_learning_rate) * ready)
        agents.follow(cfg.target_rate)
        return logs

    def seen(self, said: Segments) -> Segments:
        """Segments as networks see them."""
        norm = self.network.normalizer
        return said._replace(obs=norm(said.obs), next_obs=norm(said.next_obs), reward=self.config.reward_scale * said.reward)

    def facts(self, agents: Agents, said: Segments, chosen: Tensor) -> Tensor:
        """(M, B, T, F) what the objective is told besides actions; (M, B, T, A) `chosen` are the policies' now."""
        with torch.no_grad():
            value, next_value = (
                agents.judge(agents.first_critic, obs, action)[0]
                for obs, action in ((said.obs, chosen), (said.next_obs, agents.act(agents.policy, said.next_obs)))
            )
            next_value = next_value * (1 - said.terminated)
            error = said.reward + self.config.discount * next_value - value
            length = said.valid.shape[2]
            time = (torch.arange(length, device=value.device) / length).expand_as(value)
            both = standardised(torch.cat([value, next_value], 1), torch.cat([said.valid, said.valid], 1)).chunk(2, 1)
            told = (standardised(said.reward, said.valid), *both, standardised(error, said.valid), time, said.terminated)
            return torch.stack(told, -1) * said.valid.unsqueeze(-1)

    def teach(self, agents: Agents, said: Segments, create_graph: bool = False) -> Lesson:
        """What the objective says to agents; `create_graph`: so that its gradient can be differentiated by alpha."""
        policy = agents.policy.detach().requires_grad_()
        chosen = agents.act(policy, said.obs)
        asked = chosen.detach().requires_grad_()
        loss = self.losses(agents, said, asked)
        by_action = torch.autograd.grad(loss.sum(), asked, create_graph=create_graph)[0]
        return Lesson(said, loss, by_action, torch.autograd.grad(chosen, policy, by_action.detach())[0])

    def losses(self, agents: Agents, said: Segments, chosen: Tensor) -> Tensor:
        """(M,) the objective of agents who would do `chosen` (M, B, T, A) now."""
        square = (said.action - chosen.detach()).square().mean(-1)
        scale = agent_mean(square, said.valid).sqrt().clamp(min=1e-3).view(-1, 1, 1, 1).expand(*said.valid.shape[:2], 1, 1)
        told = (said.action, chosen, scale, self.facts(agents, said, chosen.detach()), said.valid)
        by_decision = self.objective(*(x.flatten(0, 1) for x in told))
        return agent_mean(by_decision.view_as(said.valid), said.valid)

    def value_gradient(self, agents: Agents, policy: Tensor, said: Segments, target: Tensor) -> tuple[Tensor, Tensor]:
        """(M,) what critics take policies (M, P) to be worth, in units of the spread of their targets, and its gradient (M, P)."""
        policy = policy.detach().requires_grad_()
        spread = (agent_mean(target**2, said.valid) - agent_mean(target, said.valid) ** 2).clamp(min=1e-6).sqrt()
        value = agent_mean(agents.judge(agents.first_critic, said.obs, agents.act(policy, said.obs))[0], said.valid) / spread
        return value.detach(), torch.autograd.grad(value.sum(), policy)[0]

    def learn(self, agents: Agents, lesson: Lesson, said: Segments, target: Tensor, ready: Tensor) -> dict[str, Tensor]:
        """One step of the objective, from a lesson that was given with its graph to agents of whom some are `ready` (M,); returns what to log."""
        cfg = self.config
        length = lesson.gradient.norm(dim=-1, keepdim=True).clamp(min=1e-12)
        step = lesson.gradient / length
        value, wanted = self.value_gradient(agents, agents.policy - cfg.inner_lr * step, said, target)
        turn = (wanted - (wanted * step).sum(-1, keepdim=True) * step) / length  # the derivative of a step by its gradient's direction
        loss = masked_mean(cfg.inner_lr * self.along(agents, lesson, turn), ready)
        self.optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(self.objective.parameters(), cfg.max_gradient_norm)
        self.optimizer.step()
        logs = {"value": value, "objective": lesson.loss.detach(), "alignment": -torch.cosine_similarity(lesson.gradient, wanted, dim=-1)}
        return {name: masked_mean(x, ready) for name, x in logs.items()}

    def along(self, agents: Agents, lesson: Lesson, direction: Tensor) -> Tensor:
        """(M,) the product of a lesson's gradient with directions (M, P), differentiable by alpha."""
        return (lesson.by_action * agents.push(lesson.said.obs, direction)).sum((1, 2, 3))

    # ---- files ------------------------------------------------------------------------------------------------------------

    def meta_parameters(self) -> dict[str, Tensor]:
        return {k: v.detach().clone() for k, v in self.network.state_dict().items()}

    def load_meta_parameters(self, tensors: Mapping[str, Tensor]) -> None:
        self.network.load_state_dict(dict(tensors))

    def state_dict(self) -> dict[str, Any]:
        parts = {name: getattr(self, name).state_dict() for name in ("network", "population", "optimizer")}
        return {**parts, "generator": self.generator.get_state(), "task_ids": list(self.task_ids), "iteration": self.iteration}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        for name in ("network", "population", "optimizer"):
            getattr(self, name).load_state_dict(state[name])
        self.generator.set_state(state["generator"])
        self.task_ids, self.iteration = tuple(state["task_ids"]), int(state["iteration"])


ALGORITHM = MetaGenRL
