"""Simulator: what every physics engine does for a BatchedEnv."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from metarl.robots.spec import JointTrajectory, interpolate
from metarl.tasks.task import Readings, Task

SETTLE_CHUNK = 0.1  # s between two looks at whether everything has come to rest


class Simulator(ABC):
    """N copies of a task's scene, each with its own parameters.

    Joint position loop, the same in every engine: effort = kp (target - qpos) - kd qvel, cut at the effort limits, where
    target = wanted qpos + kd / kp * wanted qvel, so that the damping acts on the velocity error. Weight of the arm itself is compensated.
    """

    def __init__(self, task: Task, num_sims: int) -> None:
        self.task = task
        self.num_sims = num_sims

    @abstractmethod
    def set_tasks(self, values: dict[str, NDArray[np.float64]]) -> None:
        """Give every simulation its parameters, name -> (N,). A reset must follow."""

    @abstractmethod
    def reset(self, start: Readings, goals: Readings) -> Readings:
        """Put all simulations at rest where `Task.start` says, and goals in the picture; fresh readings."""

    @abstractmethod
    def step(self, command: Any, active: Tensor) -> Readings:
        """Carry out one command in the simulations of the mask `active` (N,); the others stand still. Fresh readings of all."""

    def render(self, sim: int, width: int = 640, height: int = 480) -> NDArray[np.uint8]:
        """(height, width, 3) picture of one simulation.

        Raises:
            NotImplementedError: the engine draws no pictures.
        """
        raise NotImplementedError(f"{type(self).__name__} draws no pictures")

    def close(self) -> None:
        """Free what the engine holds outside of Python."""


class RobotSimulator(Simulator):
    """What the engines with a robot in them share: following joint trajectories, then waiting for rest."""

    def __init__(self, task: Task, num_sims: int) -> None:
        super().__init__(task, num_sims)
        self.robot = task.robot
        self.damping_ratio = torch.tensor(self.robot.kd) / torch.tensor(self.robot.kp)
        self.on_frame: Any = None  # called with the simulator 25 times per simulated second, to film

    @abstractmethod
    def read(self) -> Readings:
        """Fresh sensor readings of all simulations; tensors that later steps do not change."""

    @abstractmethod
    def advance(self, targets: Tensor | None, substeps: int, active: Tensor | None) -> None:
        """Run `substeps` of physics towards joint position-loop targets (N, J), or the last ones; None: all simulations."""

    def follow(self, targets: Tensor, active: Tensor | None) -> None:
        """One step of physics towards each of S targets (N, S, J) in turn."""
        for s in range(targets.shape[1]):
            self._filmed(targets[:, s], 1, active)

    def step(self, command: JointTrajectory, active: Tensor) -> Readings:
        """Follow the trajectory, then wait at most `settle_time` for `Task.at_rest`."""
        mask = None if bool(active.all()) else active
        substeps = max(1, round(command.dt / self.task.physics_dt))
        if command.qpos.shape[-2] == 1:  # a control loop's command: held for the tick
            self._filmed(command.qpos[:, 0] + self.damping_ratio * command.qvel[:, 0], substeps, mask)
        else:
            qpos, qvel = interpolate(command, self.last_qpos, substeps)
            self.follow(qpos + self.damping_ratio * qvel, mask)
        self.last_qpos = command.qpos[:, -1]
        self._settle(active)
        return self.read()

    last_qpos: Tensor  # (N, J) where the last command ended

    def _settle(self, active: Tensor) -> None:
        chunk = max(1, round(SETTLE_CHUNK / self.task.physics_dt))
        for _ in range(round(self.task.settle_time / SETTLE_CHUNK)):
            moving = active & ~self.task.at_rest(self.read())
            if not bool(moving.any()):
                return
            if self.on_frame is None:
                self.advance(None, chunk, moving)
            else:
                for _ in range(chunk):
                    self._filmed(None, 1, moving)

    _substeps_filmed = 0

    def _filmed(self, targets: Tensor | None, substeps: int, active: Tensor | None) -> None:
        self.advance(targets, substeps, active)
        if self.on_frame is not None:
            every = round(0.04 / self.task.physics_dt)
            before, self._substeps_filmed = self._substeps_filmed, self._substeps_filmed + substeps
            if before // every != self._substeps_filmed // every:
                self.on_frame(self)
