"""A simulated robot in one hidden task, as sim_node shows it to ROS: what the robot senses, and what is true. Plain Python, no ROS."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from metarl.robots.spec import JointTrajectory
from metarl.tasks import simulators
from metarl.tasks.parameters import TaskBatch
from metarl.tasks.simulators.simulator import RobotSimulator
from metarl.tasks.task import Readings, Task


class World:
    """One simulation. Start poses, goals and sensing are those of a BatchedEnv with the same seed.

    Args:
        task: a task of a robot.
        hidden: one task of it.
        simulator: "mujoco" or "pybullet".
        seed: of everything random within episodes.
        on_frame: called 25 times per simulated second while the robot moves, with joint positions and velocities (J,).

    Attributes:
        true: readings (1, n) as they are.
        seen: as the robot's imperfect sensors give them.
    """

    def __init__(self, task: Task, hidden: TaskBatch, simulator: str, seed: int, on_frame: Callable[[Tensor, Tensor], None]) -> None:
        if not task.robot_name:
            raise ValueError(f"{task.name} has no robot, so there is nothing to show on ROS")
        engine = simulators.make(simulator, task, 1, 1)
        assert isinstance(engine, RobotSimulator)
        self.task, self._engine = task, engine
        self._rng = torch.Generator().manual_seed(seed)
        named = hidden.named()
        engine.set_tasks(named)
        engine.on_frame = lambda _: on_frame(*self._joints())
        self._values = {k: torch.as_tensor(v, dtype=torch.float32) for k, v in named.items()}
        self._delay = task.command_delay(self._values)
        self._begin()

    @property
    def at_rest(self) -> bool:
        """Nothing moves any more."""
        return bool(self.task.at_rest(self.true))

    def begin_episode(self) -> None:
        """Put everything where an episode starts; once only, if nothing has happened since."""
        if not self._untouched:
            self._begin()

    def _begin(self) -> None:
        self._untouched = True  # an episode has begun in which nothing has happened yet
        start = self.task.start(self._values, self._rng)
        self._goals = self.task.goals(self._values, self._rng)
        self._commands = [start["qpos"]]  # latest first, as far back as the delay
        self._look(self._engine.reset(start, self._goals))

    def execute(self, command: JointTrajectory) -> None:
        """Carry out a trajectory (1, S, J) and wait until everything is at rest."""
        self._untouched = False
        self._look(self._engine.step(self._late(command), torch.ones(1, dtype=torch.bool)))

    def _late(self, command: JointTrajectory) -> JointTrajectory:
        """What reaches motors that receive set-points late, as in BatchedEnv: between the two that frame that moment."""
        if self._delay is None:
            return command
        steps = float(self._delay[0] / command.dt)
        whole = int(steps)
        self._commands = [command.qpos[:, -1], *self._commands][: whole + 2]
        newer, older = (self._commands[min(i, len(self._commands) - 1)] for i in (whole, whole + 1))
        late = newer * (1 - (steps - whole)) + older * (steps - whole)
        return JointTrajectory(late.unsqueeze(1), command.qvel, command.dt)

    def _joints(self) -> tuple[Tensor, Tensor]:
        now = self._engine.read()
        return now["qpos"][0], now["qvel"][0]

    def _look(self, measured: Readings) -> None:
        self.true = {**measured, **self._goals}
        self.seen = self.task.sense(self.true, self._values)

    def close(self) -> None:
        """Free the simulator."""
        self._engine.close()
