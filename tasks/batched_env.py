"""BatchedEnv: M tasks x R robots, stepped together."""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass, fields
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import one_hot

from metarl.robots.spec import Controls, JointTrajectory
from metarl.tasks import simulators
from metarl.tasks.parameters import TaskBatch
from metarl.tasks.task import Readings, Task, Values

ROUNDING = 1e-4  # of a reward's range, by which it may leave that


@dataclass
class Step:
    """One decision of M x R robots. O observation, A action.

    Attributes:
        obs: (M, R, O) float32, before the action.
        action: (M, R, A) as it was given; the environment cuts it to [-1, 1], or takes the largest entry where actions are discrete.
        reward: (M, R).
        next_obs: (M, R, O), after the action; of an ended episode, its last.
        terminated: (M, R) bool, the episode ended by itself in this step.
        truncated: (M, R) bool, the episode ended in this step because its time was up.
        valid: (M, R) bool, False where the episode had already ended: such a step says nothing.
    """

    obs: Tensor
    action: Tensor
    reward: Tensor
    next_obs: Tensor
    terminated: Tensor
    truncated: Tensor
    valid: Tensor

    def to(self, device: torch.device | str) -> Step:
        """The same step on another device."""
        return Step(*(getattr(self, f.name).to(device) for f in fields(self)))


class BatchedEnv:
    """M tasks x R robots. An episode that has ended is held until all have ended; `reset` then begins the next ones.

        env.set_tasks(task.sample(M))
        for episode in range(K):
            obs = env.reset()
            for _ in range(H):
                step = env.step(action)

    Args:
        task: the task distribution.
        num_tasks: M.
        num_robots: R, copies of each task.
        simulator: "mujoco", "pybullet", "analytic"; "" takes the task's first.
        num_threads: of the simulator; 0 takes all cores.
        seed: of everything random within episodes (start poses, goals).
        device: where observations and rewards go.
    """

    def __init__(
        self, task: Task, num_tasks: int, num_robots: int = 1, simulator: str = "", num_threads: int = 0, seed: int = 0, device: str | torch.device = "cpu"
    ) -> None:
        for name, number, least in (("num_tasks", num_tasks, 1), ("num_robots", num_robots, 1), ("num_threads", num_threads, 0)):
            if number < least:
                raise ValueError(f"{name} is {number}, expected at least {least}")
        self.task, self.spec = task, task.spec
        self.num_tasks, self.num_robots = num_tasks, num_robots
        self.device = torch.device(device)
        self.rng = torch.Generator().manual_seed(seed)
        self.simulator = simulators.make(simulator, task, num_tasks * num_robots, num_threads, self.rng)
        self.tasks: TaskBatch | None = None
        self.elapsed = -1  # decisions since the last reset; -1: reset must come first
        self._out_of_range = False  # a reward was, and that has been said

    # between reset and reset; N rows
    readings: Readings  # true
    sensed: Readings
    obs: Tensor  # (N, O)
    active: Tensor  # (N,) bool: the episode is still running
    all_active: bool  # it is everywhere
    stepped: Tensor  # (N,) bool: it was, before the last step
    # rows (N,) of the newer and the older command that frame the late one, its part of the way (N, 1), and how far back all reach
    late: tuple[Tensor, Tensor, Tensor, int] | None
    commands: list[Tensor]  # (N, J) or (N, U) each, latest first, as far back as the longest delay

    @property
    def num_sims(self) -> int:
        """N = M * R."""
        return self.num_tasks * self.num_robots

    def set_tasks(self, tasks: TaskBatch) -> None:
        """Give each row of robots its task; a reset must follow.

        Raises:
            ValueError: another distribution, or not M tasks.
        """
        if tasks.task != self.task.name:
            raise ValueError(f"these tasks are of {tasks.task!r}, this environment runs {self.task.name!r}")
        if len(tasks) != self.num_tasks:
            raise ValueError(f"{len(tasks)} tasks were given, this environment has room for {self.num_tasks}")
        named = tasks.named(self.num_robots)
        self.simulator.set_tasks(named)
        self.values: Values = {k: torch.as_tensor(v, dtype=torch.float32) for k, v in named.items()}
        self.delay = self.task.command_delay(self.values)
        self.late = None
        self.tasks, self.elapsed = tasks, -1

    def reset(self) -> Tensor:
        """Begin an episode everywhere; first observations (M, R, O)."""
        if self.tasks is None:
            raise RuntimeError("set_tasks must come before reset")
        start = self.task.start(self.values, self.rng)
        self.goals, self.memory = self.task.goals(self.values, self.rng), self.task.memory(self.values, self.rng)
        first = self.simulator.first_command(start)
        self._commanded, self.commands = (first[0], [first[1]]) if first else ("", [])
        measured = self.simulator.reset(start, {**self.goals, **self.memory})
        last_action = torch.zeros(self.num_sims, self.spec.action_size)
        self.active, self.all_active = torch.ones(self.num_sims, dtype=torch.bool), True
        self.elapsed = 0
        self._take(measured, last_action)
        self._check_shape("observation", self.obs, (self.num_sims, self.spec.obs_size))
        return self._shaped(self.obs)

    def step(self, action: Tensor) -> Step:
        """One decision (M, R, A) of all robots.

        Raises:
            TypeError: the action is no tensor.
            ValueError: the action has another shape, or is not finite.
            RuntimeError: no episode has begun, or the simulation blew up.
        """
        given = self._checked(action)
        clipped = one_hot(given.argmax(-1), self.spec.action_size).float() if self.spec.discrete else given.clamp(-1.0, 1.0)
        before, before_obs, valid = self.readings, self.obs, self.active
        mask = None if self.all_active else valid
        self.simulator.push(self.task.forces(before, self.values))
        measured = self.simulator.step(self._command(clipped), mask)
        self.memory = self.task.remember(before, clipped, {**measured, **self.goals}, self.values, self.rng)
        self.simulator.show(self.memory)
        self._take(measured, clipped, mask)
        none = torch.zeros_like(valid)
        reward = self.task.reward(before, clipped, self.readings)
        terminated = self.task.terminated(self.readings) if self.task.has_end else none
        self._check_shape("reward", reward, (self.num_sims,))
        self._check_shape("terminated", terminated, (self.num_sims,))
        self.elapsed += 1
        if mask is not None:
            reward, terminated = torch.where(mask, reward, 0.0), terminated & mask
        self._check_numbers(reward, mask)
        running, over = valid ^ terminated, self.elapsed >= self.task.horizon
        truncated, self.active = (running, none) if over else (none, running)
        self.all_active = not over and (not self.task.has_end or bool(running.all()))
        self.stepped = valid
        parts = (before_obs, given, reward, self.obs, terminated, truncated, valid)
        return Step(*(self._shaped(p) for p in parts))

    def training_reward(self) -> Tensor:
        """(M, R) what `Task.training_reward` says of the last step; zero where it was not valid."""
        return self._shaped(torch.where(self.stepped, self.task.training_reward(self.readings), 0.0))

    @property
    def all_ended(self) -> bool:
        """No episode is still running."""
        return self.elapsed >= 0 and not bool(self.active.any())

    def state_dict(self) -> dict[str, Any]:
        """What continues the environment exactly, taken between two trials."""
        return {"rng": self.rng.get_state()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from `state_dict`; set_tasks and reset must follow."""
        self.rng.set_state(state["rng"])

    def close(self) -> None:
        """Free the simulator."""
        self.simulator.close()

    def _checked(self, action: Tensor) -> Tensor:
        if self.elapsed < 0:
            raise RuntimeError("reset must come before step")
        expected = (self.num_tasks, self.num_robots, self.spec.action_size)
        if not isinstance(action, Tensor):
            raise TypeError(f"action is a {type(action).__module__}.{type(action).__name__}, expected a torch.Tensor (tasks, robots, actions) = {expected}")
        if tuple(action.shape) != expected:
            raise ValueError(f"action has shape {tuple(action.shape)}, expected (tasks, robots, actions) = {expected}")
        flat = action.detach().to("cpu", torch.float32).reshape(self.num_sims, -1)
        if not math.isfinite(float(flat.sum())) and not bool(flat.isfinite().all()):
            robot = int((~flat.isfinite().all(-1)).nonzero()[0, 0])
            raise ValueError(f"action of robot {robot} is not finite: {flat[robot].tolist()}")
        return flat

    def _command(self, action: Tensor) -> JointTrajectory | Controls | Tensor:
        command = self.task.command(action, self.sensed)
        if isinstance(command, Tensor):
            return command
        self.commands.insert(0, command.ctrl if isinstance(command, Controls) else command.qpos[:, -1])
        if self.delay is None:
            del self.commands[1:]
            return command
        late = self._late(self.delay, self.task.decision_dt if isinstance(command, Controls) else command.dt)
        return Controls(late) if isinstance(command, Controls) else command._replace(qpos=late.unsqueeze(1))

    def _late(self, delay: Tensor, tick: float) -> Tensor:
        """The command `delay` (N,) s ago, between the two that frame it, where one comes every `tick` s."""
        if self.late is None:
            steps = delay / tick
            whole, depth, rows = steps.floor().long(), int(steps.max().ceil()) + 1, torch.arange(self.num_sims)
            newer, older = (self.num_sims * ticks + rows for ticks in (whole, (whole + 1).clamp(max=depth)))
            self.late = newer, older, (steps - whole).unsqueeze(-1), depth
        newer, older, part, depth = self.late
        del self.commands[depth + 1 :]
        history = torch.cat(self.commands + [self.commands[-1]] * (depth + 1 - len(self.commands)))
        return torch.lerp(history.index_select(0, newer), history.index_select(0, older), part)

    def _take(self, measured: Readings, last_action: Tensor, mask: Tensor | None = None) -> None:
        """New readings, what is sensed of them, and the observation; robots beside the mask keep their last ones: their simulations stand still."""
        changing = {**self.memory, "last_action": last_action}
        if self.commands:
            changing[self._commanded] = self.commands[0]
        if mask is not None:
            changing = {k: torch.where(mask.unsqueeze(-1), v, self.readings[k]) for k, v in changing.items()}
        self.readings = {**measured, **self.goals, **changing}
        self.sensed = self.task.sense(self.readings, self.values)
        self.obs = self.task.observation(self.sensed)

    def _check_shape(self, name: str, found: Tensor, expected: tuple[int, ...]) -> None:
        if found.shape != expected:
            raise ValueError(f"{type(self.task).__name__}.{name} gave shape {tuple(found.shape)}, expected {expected} for {self.num_sims} simulations")

    def _shaped(self, flat: Tensor) -> Tensor:
        shaped = flat.view(self.num_tasks, self.num_robots, *flat.shape[1:])
        return shaped if self.device.type == "cpu" else shaped.to(self.device)

    def _check_numbers(self, reward: Tensor, mask: Tensor | None) -> None:
        """Refuse what is not finite; say it once if rewards of the mask leave `Task.reward_range`. A few microseconds."""
        low, high = self.task.reward_range
        paid = reward if mask is None else reward[mask]
        least, most = (float(x) for x in paid.aminmax()) if len(paid) else (low, high)
        if not math.isfinite(least + most + float(self.obs.sum())):  # quicker than looking at each number
            self._check_finite(reward)
        slack = ROUNDING * (high - low)
        if self._out_of_range or (low - slack <= least and most <= high + slack):
            return
        self._out_of_range = True
        found = least if least < low - slack else most
        text = f"{type(self.task).__name__}.reward gave {found:g} at step {self.elapsed}, outside of reward_range {low:g} to {high:g}: on a robot it would be refused"
        warnings.warn(text, stacklevel=3)  # whoever called `step`

    def _check_finite(self, reward: Tensor) -> None:
        bad = ~(reward.isfinite() & self.obs.isfinite().all(-1))
        if not bool(bad.any()):
            return
        row = int(bad.nonzero()[0, 0])
        assert self.tasks is not None
        sound = bool(self.obs[row].isfinite().all()) and all(bool(x[row].isfinite().all()) for x in self.readings.values())
        cause = f"{type(self.task).__name__}.reward gave {float(reward[row])}" if sound else "the simulation blew up"
        raise RuntimeError(f"{cause} at step {self.elapsed}: {self.tasks.describe(row // self.num_robots)}")
