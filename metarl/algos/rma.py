"""RMA: rapid motor adaptation (Kumar et al. 2021): a teacher that is told the task, and a student who finds out what the teacher was told.

First, PPO trains a policy without memory that reads the observation and a few numbers z, made of the task's parameters e. Then both are kept as they
are, and a memory learns to tell the same numbers from what happened, while the policy acts on what the memory says:

    teacher   z = mu(e)         a ~ pi(o, z)          PPO by the return of each episode, over pi and mu
    student   h_t = GRU(h_{t-1}; o_{t+1}, a_t, r_t, ends_t)      z^_t = W h_t + b      a ~ pi(o, z^_t)      minimise |z^_t - mu(e)|²

The student learns on its own decisions (as in DAgger): on the teacher's it would never see what its mistakes lead to. What crosses to the robot is
the student. It imitates a teacher who has nothing to find out, so it never acts for the sake of knowing: where a task must be explored, RL² is better.

Deviations from the paper: the memory is a GRU through the whole trial, which also takes in rewards, and not a convolution over the last 50 steps of
states and actions; tasks here may differ in a goal that only rewards tell. Both phases happen in one training: `teacher_part` of its iterations.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

import torch
from torch import Tensor, nn

from metarl.gru import unroll
from metarl.networks import mlp, root_mean_square
from metarl.returns import masked_mean
from metarl.rollout import Rollout
from metarl.tasks.parameters import Param
from metarl.tasks.task import EnvSpec
from metarl.trial_ppo import Batch, TrialAdapter, TrialNetwork, TrialPPO, TrialPPOConfig
from metarl.trials import transition_size


@dataclass(frozen=True)
class RMAConfig(TrialPPOConfig):
    """Settings of RMA."""

    latent_size: int = 8
    """Numbers z that the teacher makes of the task's parameters."""
    hidden_size: int = 64
    """Size of the student's memory."""
    teacher_part: float = 0.7
    """Part of the iterations that trains the teacher; the others train the student."""
    student_learning_rate: float = 1e-3
    """Of the Adam that trains the student."""


class Student(nn.Module):
    """What happened -> z."""

    def __init__(self, input_size: int, hidden_size: int, latent_size: int) -> None:
        super().__init__()
        self.gru = nn.GRU(input_size, hidden_size, batch_first=True)
        self.head = nn.Linear(hidden_size, latent_size)

    def guesses(self, transition: Tensor) -> Tensor:
        """(N, T + 1, Z) before and after each of the transitions (N, T, I)."""
        said: Tensor = self.head(unroll(self.gru, transition))
        return said


class TrialNetworkWithTeacher(TrialNetwork):
    """The networks of both; `teacher` (mu) serves training alone."""

    def __init__(self, algorithm: RMA) -> None:
        cfg, spec, num_params = algorithm.config, algorithm.spec, len(algorithm.params)
        student = Student(transition_size(spec), cfg.hidden_size, cfg.latent_size)
        super().__init__(spec, num_params, student, cfg.latent_size, cfg.layers, cfg.initial_std)
        self.teacher = nn.Sequential(mlp([num_params, 64, cfg.latent_size]), nn.Tanh())  # the student aims at numbers of known size


class StudentAdapter(TrialAdapter):
    """What M x R students have understood: hidden states (1, M * R, L)."""

    algorithm: RMA

    def reset(self) -> None:
        """Back to the empty memory."""
        self.hidden = torch.zeros(1, self.shape[0] * self.shape[1], self.algorithm.config.hidden_size, device=self.task.device)

    def known(self) -> Tensor:
        """(M, R, Z) what the students take z for."""
        guess: Tensor = self.algorithm.student.head(self.hidden[0])
        return guess.unflatten(0, self.shape)

    def remember(self, transition: Tensor, valid: Tensor) -> None:
        """Advance the memory of the robots whose step is valid."""
        hidden = self.algorithm.student.gru(transition.unsqueeze(1), self.hidden)[1]
        self.hidden = torch.where(valid.unsqueeze(-1), hidden, self.hidden)

    def distance(self, prior: Self) -> float:
        """Root mean square of the change of units between -1 and 1."""
        return root_mean_square(self.hidden - prior.hidden)


class TeacherAdapter(StudentAdapter):
    """What acts while the teacher is trained: it is told the task, and remembers nothing."""

    def tell(self, values: Tensor) -> None:
        """The tasks' parameters (M, P), normalised."""
        self.task = values.to(self.task.device).unsqueeze(1).expand_as(self.task)

    def known(self) -> Tensor:
        """(M, R, Z)."""
        told: Tensor = self.algorithm.network.teacher(self.task)
        return told

    def remember(self, transition: Tensor, valid: Tensor) -> None:
        """Nothing."""


class RMA(TrialPPO):
    """See the module's docstring."""

    Config = RMAConfig
    config: RMAConfig
    network: TrialNetworkWithTeacher
    remembers = False  # the teacher's return is that of an episode

    def __init__(self, spec: EnvSpec, params: tuple[Param, ...], config: RMAConfig, seed: int = 0) -> None:
        super().__init__(spec, params, config, seed)
        self.student_optimizer = torch.optim.Adam(self.student.parameters(), config.student_learning_rate)
        self.teacher_iterations = math.ceil(config.teacher_part * config.iterations)

    def make_network(self) -> TrialNetworkWithTeacher:
        """Teacher, student, and the policy and the value function that they share."""
        return TrialNetworkWithTeacher(self)

    @property
    def student(self) -> Student:
        """The memory."""
        assert isinstance(self.network.memory, Student)
        return self.network.memory

    @property
    def teaching(self) -> bool:
        """The teacher is not ready yet."""
        return self.iteration < self.teacher_iterations

    def ppo_parameters(self) -> list[nn.Parameter]:
        """The teacher's."""
        return [p for name, p in self.network.named_parameters() if not name.startswith("memory.")]

    def adapter(self, num_tasks: int, num_robots: int = 1, training: bool = False) -> StudentAdapter:
        kind = TeacherAdapter if training and self.teaching else StudentAdapter
        return kind(self, num_tasks, num_robots)

    def evaluate(self, batch: Batch) -> tuple[Tensor, Tensor, Tensor]:
        """Log-probabilities, normalised values and entropies of the teacher, all (N, T), of what was done."""
        return self.network.evaluate(batch, self.network.teacher(batch.task).expand(*batch.reward.shape, -1))

    def meta_update(self, rollout: Rollout) -> dict[str, float]:
        if self.teaching:
            return super().meta_update(rollout)
        rollout = rollout.to(self.device)
        logs = self.learn_from_teacher(self.batch(rollout))
        self.iteration += 1  # normalisers stay: the policy that reads them does
        return logs

    def learn_from_teacher(self, batch: Batch) -> dict[str, float]:
        """The student's update, from its own decisions."""
        with torch.no_grad():
            wanted = self.network.teacher(batch.task)
        losses = []
        for _ in range(self.config.epochs):
            for part in torch.randperm(len(batch.obs), generator=self.generator).to(self.device).chunk(self.config.minibatches):
                error = (self.student.guesses(batch.transition[part, :-1]) - wanted[part]).square().mean(-1)
                loss = masked_mean(error, batch.valid[part])
                self.student_optimizer.zero_grad()
                loss.backward()
                nn.utils.clip_grad_norm_(self.student.parameters(), self.config.max_gradient_norm)
                self.student_optimizer.step()
                losses.append(float(loss.detach()))
        spread = float(wanted[:, 0].var(0, unbiased=False).mean())
        return {"student_loss": sum(losses) / len(losses), "unexplained": losses[-1] / max(spread, 1e-12)}

    def state_dict(self) -> dict[str, Any]:
        return super().state_dict() | {"student_optimizer": self.student_optimizer.state_dict(), "teacher_iterations": self.teacher_iterations}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        super().load_state_dict(state)
        self.student_optimizer.load_state_dict(state["student_optimizer"])
        self.teacher_iterations = int(state["teacher_iterations"])  # a training that is continued for longer is longer for the student


ALGORITHM = RMA
