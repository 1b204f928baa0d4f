"""Simulator: what every physics engine does for a BatchedEnv."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from metarl.robots.spec import Controls, JointTrajectory, ServoSpec, interpolate
from metarl.tasks.task import Readings, Task

if TYPE_CHECKING:
    import mujoco

SETTLE_CHUNK = 0.1  # s between two looks at whether everything has come to rest


class Simulator(ABC):
    """N copies of a task's scene, each with its own parameters.

    Joint position loop of a robot that has one, the same in every engine: effort = kp (target - qpos) - kd qvel, cut at the effort limits, where
    target = wanted qpos + kd / kp * wanted qvel, so that the damping acts on the velocity error. Weight of the arm itself is compensated.
    """

    def __init__(self, task: Task, num_sims: int) -> None:
        self.task = task
        self.num_sims = num_sims

    @abstractmethod
    def set_tasks(self, values: dict[str, NDArray[np.float64]]) -> None:
        """Give every simulation its parameters, name -> (N,). A reset must follow."""

    def adjust(self, values: dict[str, NDArray[np.float64]]) -> bool:
        """Change parameters while the simulations go on; False where this engine cannot: then `set_tasks` and a reset must do it."""
        return False

    @abstractmethod
    def reset(self, start: Readings, goals: Readings) -> Readings:
        """Put all simulations at rest where `Task.start` says, and goals in the picture; fresh readings."""

    @abstractmethod
    def step(self, command: Any, active: Tensor | None) -> Readings:
        """Carry out one command in the simulations of the mask `active` (N,), None: in all; the others stand still. Readings of all, fresh where it moved."""

    def first_command(self, start: Readings) -> tuple[str, Tensor] | None:
        """What counts as commanded before the first command, as a reading; None where commands are none of the physics' business."""
        return None

    def push(self, wrenches: Readings) -> None:
        """Push bodies during the next steps: name -> (N, 6) force and torque at the centre of mass, in the world's frame. A reset ends it.

        Raises:
            ValueError: there is no such body.
        """
        for name in wrenches:
            raise ValueError(f"{self.task.name} pushes {name!r}: an analytic task has no bodies")

    def show(self, places: Readings) -> None:
        """Put mocap bodies in the picture, as `reset` does with goals: name of the body and `_pos` -> (N, 3)."""

    def render(self, sim: int, width: int = 640, height: int = 480) -> NDArray[np.uint8]:
        """(height, width, 3) picture of one simulation.

        Raises:
            NotImplementedError: the engine draws no pictures.
        """
        raise NotImplementedError(f"{type(self).__name__} draws no pictures")

    def close(self) -> None:
        """Free what the engine holds outside of Python."""


class RobotSimulator(Simulator):
    """What the engines with bodies in them share: carrying out joint trajectories or motor commands, then waiting for rest."""

    def __init__(self, task: Task, num_sims: int, model: mujoco.MjModel) -> None:
        super().__init__(task, num_sims)
        self.model = model
        self.robot = task.robot if task.robot_name else None
        self.on_frame: Any = None  # called with the simulator 25 times per simulated second, to film
        self.dead_joint: str | None = None  # whose motor gives nothing, or "" where it has been mended: no task has it, it happens
        if isinstance(self.robot, ServoSpec):
            self.damping_ratio = torch.tensor(self.robot.kd) / torch.tensor(self.robot.kp)
            self._actuators, self._gripper = (
                torch.tensor([model.actuator(n).id for n in names], dtype=torch.long) for names in (self.robot.joint_names, self.robot.gripper_joint_names)
            )

    def apply(self, batch: mujoco.batch.Batch, values: dict[str, NDArray[np.float64]]) -> None:
        """Make simulations what the tasks say, values name -> (N,), and what has happened to the robot."""
        motors = () if self.dead_joint is None else ("actuator_gainprm", "actuator_biasprm")
        for name in motors:
            batch.expand(name)[:] = getattr(self.model, name)
        self.task.apply(batch, values)
        for name in motors if self.dead_joint else ():
            batch.expand(name)[:, self.model.actuator(self.dead_joint).id] = 0.0

    def place(self, name: str) -> tuple[str, NDArray[np.int_]]:
        """Where in the model's state a name of `Task.start` lies: "qpos" or "qvel", and columns of it.

        Raises:
            ValueError: the model has no joint of that name.
        """
        if name == "ctrl":
            return name, np.arange(self.model.nu)
        field, joint = ("qvel" if name.split("/")[0] == "qvel" else "qpos"), name.removeprefix("qvel/")
        known = [self.model.joint(j).name for j in range(self.model.njnt)]
        everything: Iterable[str | int] = self.robot.joint_names if self.robot and self.robot.joint_names else range(self.model.njnt)
        joints = list(everything) if joint in ("qpos", "qvel") else [joint]
        for named in joints:
            if isinstance(named, str) and named not in known:
                raise ValueError(f"start of {self.task.name} places {named!r}: the model has no joint of that name; it has {', '.join(known)}")
        columns = [joint_columns(self.model, field, self.model.joint(j).id) for j in joints]
        return field, np.concatenate(columns)

    def first_command(self, start: Readings) -> tuple[str, Tensor]:
        if isinstance(self.robot, ServoSpec) and "ctrl" not in start:
            return "command_qpos", start["qpos"]
        return "command_ctrl", self.first_ctrl(start)

    def ctrl_of(self, targets: Tensor) -> Tensor:
        """Commands (..., U) of all actuators, from those (..., J) of the robot's position loops; a gripper keeps its width."""
        return targets.new_zeros(*targets.shape[:-1], self.model.nu).index_copy_(-1, self._actuators, targets)

    def held(self, command: JointTrajectory) -> Tensor:
        """(N, U) what the actuators get at the end of a trajectory, and from then on."""
        ctrl = self.ctrl_of(command.qpos[:, -1] + self.damping_ratio * command.qvel[:, -1])
        if command.gripper is not None:
            ctrl[..., self._gripper] = command.gripper[:, -1]
        return ctrl

    def first_ctrl(self, start: Readings) -> Tensor:
        """(N, U) what the actuators get until the first command."""
        if "ctrl" in start:
            return start["ctrl"]
        return self.ctrl_of(start["qpos"]) if isinstance(self.robot, ServoSpec) else torch.zeros(self.num_sims, self.model.nu)

    @abstractmethod
    def read(self) -> Readings:
        """Fresh sensor readings of all simulations; tensors that later steps do not change."""

    @abstractmethod
    def effort(self) -> Tensor:
        """(N, J) N·m or N, with which the robot's joints were driven in the last step of physics; what compensates the arm's own weight is no part of it."""

    @abstractmethod
    def advance(self, ctrl: Tensor | None, substeps: int, active: Tensor | None) -> None:
        """Run `substeps` of physics with commands (N, U) of all actuators, or the last ones; active None: all simulations."""

    def follow(self, ctrl: Tensor, active: Tensor | None) -> None:
        """One step of physics with each of S commands (N, S, U) in turn."""
        for s in range(ctrl.shape[1]):
            self._filmed(ctrl[:, s], 1, active)

    def step(self, command: JointTrajectory | Controls, active: Tensor | None) -> Readings:
        """Carry out the command, then wait at most `settle_time` for `Task.at_rest`."""
        if self.task.rests and isinstance(command, JointTrajectory):
            moved = (command.qpos != self.last_qpos.unsqueeze(-2)).any(-1).any(-1)
            active = moved if active is None else active & moved
        if isinstance(command, Controls):
            self._filmed(command.ctrl, round(self.task.decision_dt / self.task.physics_dt), active)
        else:
            self._trace(command, active)
        if self.task.settle_time:
            self._settle(active)
        return self.read()

    last_qpos: Tensor  # (N, J) where the last trajectory ended

    def curve(self, command: JointTrajectory) -> tuple[Tensor, Tensor]:
        """What a trajectory is in each of its S' steps of physics, from where the last one ended: poses (N, S', J) and what the actuators get (N, S', U)."""
        substeps = self._substeps(command)
        if command.qpos.shape[-2] == 1:
            return command.qpos.expand(-1, substeps, -1), self.held(command).unsqueeze(-2).expand(-1, substeps, -1)
        qpos, qvel = interpolate(command, self.last_qpos, substeps)
        ctrl = self.ctrl_of(qpos + self.damping_ratio * qvel)
        if command.gripper is not None:
            ctrl[..., self._gripper] = command.gripper.repeat_interleave(substeps, -2)
        return qpos, ctrl

    def _substeps(self, command: JointTrajectory) -> int:
        return max(1, round(command.dt / self.task.physics_dt))

    def _trace(self, command: JointTrajectory, mask: Tensor | None) -> None:
        if command.qpos.shape[-2] == 1:  # a control loop's command: held for the tick
            self._filmed(self.held(command), self._substeps(command), mask)
        else:
            self.follow(self.curve(command)[1], mask)
        self.last_qpos = command.qpos[:, -1]

    def _warm_up(self) -> None:
        if self.task.warm_up:
            self.advance(None, round(self.task.warm_up / self.task.physics_dt), None)

    def _settle(self, active: Tensor | None) -> None:
        chunk = max(1, round(SETTLE_CHUNK / self.task.physics_dt))
        for _ in range(round(self.task.settle_time / SETTLE_CHUNK)):
            moving = ~self.task.at_rest(self.read())
            if active is not None:
                moving &= active
            if not bool(moving.any()):
                return
            if self.on_frame is None:
                self.advance(None, chunk, moving)
            else:
                for _ in range(chunk):
                    self._filmed(None, 1, moving)

    _substeps_filmed = 0

    def _filmed(self, ctrl: Tensor | None, substeps: int, active: Tensor | None) -> None:
        self.advance(ctrl, substeps, active)
        if self.on_frame is not None:
            every = round(0.04 / self.task.physics_dt)
            before, self._substeps_filmed = self._substeps_filmed, self._substeps_filmed + substeps
            if before // every != self._substeps_filmed // every:
                self.on_frame(self)


def joint_columns(model: mujoco.MjModel, field: str, joint: int) -> NDArray[np.int_]:
    """Where the joint lies in "qpos" or "qvel"."""
    first, free, ball = (model.jnt_qposadr, 7, 4) if field == "qpos" else (model.jnt_dofadr, 6, 3)
    size = {0: free, 1: ball}.get(int(model.jnt_type[joint]), 1)  # MuJoCo's numbers of the free and the ball joint
    return np.arange(first[joint], first[joint] + size)
