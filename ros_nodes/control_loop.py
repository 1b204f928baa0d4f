"""One robot's Adapter driven by events: exactly what BatchedEnv and `collect` do in training. Plain Python, no ROS.

loop.begin_trial()
decision = loop.begin_episode(seen)                                  # observation -> act -> trajectory
while decision is not None:
    decision = loop.take_result(reward, terminated, truncated, seen)     # observe -> act; None: the episode has ended
loop.end_episode()                                                   # adapt: may be slow, the robot is at rest
"""

from __future__ import annotations

import contextlib
import math
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import one_hot

from metarl import meta_parameters, tasks
from metarl.algorithm import Adapter
from metarl.robots.spec import Controls, JointTrajectory, RobotSpec, ServoSpec, VehicleSpec
from metarl.ros_nodes import readings
from metarl.ros_nodes.adaptation import SafeAdapter, duplicate
from metarl.ros_nodes.limits import Command, Limits, check_set_point
from metarl.ros_nodes.rejection import Rejected, RejectedAction, all_finite
from metarl.tasks.batched_env import Step
from metarl.tasks.task import Readings, Task

EXACT, SAME = 1e-6, 1e-3  # what was executed is what was decided, if no number differs by more than this (and this part of it): of arms, of vehicles
RAMP = 6  # decisions after an activation that are kept near the measured pose


class Decision(NamedTuple):
    """What the adapter decided.

    Attributes:
        action: (A,) as the adapter gave it.
        command: what it stands for: a motion (S, J), or what a vehicle's motors get (U,).
    """

    action: Tensor
    command: JointTrajectory | Controls


class ControlLoop:
    """Keeps what belongs to one robot between two decisions: observation, last action, last command.

    Args:
        task: whose `observation` and `command` are used; its reward and its parameters are not.
        adapter: for one task and one robot.
        explore: whether actions are drawn or are the mean.

    Attributes:
        needs: names of the readings that must arrive before it can act.
        max_step: rad, how far from the measured pose the first set-point after an activation may lie; each later one as much farther.
        excluded: why the last decision was not learned from, or "".
        deciding: a decision is open, whose result must come.
        ramp: decisions since the last activation, up to RAMP.
    """

    def __init__(self, task: Task, adapter: Adapter, explore: bool) -> None:
        self.task, self.adapter, self.explore = task, adapter, explore
        self.needs = readings.needed_to_act(task)
        self.max_step, self.excluded = 0.05, ""
        self.deciding = False
        self.ramp = RAMP
        self._clamped = False  # the open decision's set-point was moved nearer to the measured pose
        self._expected: tuple[Readings, Readings] | None = None  # as measured, and completed

    def look_ahead(self, seen: Readings) -> None:
        """Complete readings (name -> (n,)) that the next decision is likely to go by, while nobody waits."""
        if self._expected is None or self._expected[0] is not seen:
            with contextlib.suppress(Rejected):  # it will be said when they are used
                self._expected = seen, readings.complete(self.task, self.needs, seen)

    def _complete(self, seen: Readings) -> Readings:
        if self._expected is not None and self._expected[0] is seen:
            return self._expected[1]
        return readings.complete(self.task, self.needs, seen)

    def begin_trial(self) -> None:
        """A new task: forget what was understood of the last one."""
        self.adapter.reset()
        self.deciding = False

    def begin_episode(self, seen: Readings) -> Decision:
        """Act for the first time in an episode.

        Args:
            seen: what the robot's sensors say, name -> (n,).

        Raises:
            Rejected: a reading cannot be used; nothing was changed by it.
            RejectedAction: what the adapter decided cannot be used.
        """
        ready = self._complete(seen)
        self._last_action = torch.zeros(1, self.task.spec.action_size)
        robot = self.task.robot
        self._commanded = torch.tensor([robot.rest]) if isinstance(robot, VehicleSpec) else ready["qpos"]
        if isinstance(robot, VehicleSpec):
            self._commanded = robot.ctrl_of(self._commanded)
        sensed, self._obs = self._observe(ready)
        return self._act(sensed)

    def resume(self) -> None:
        """The robot may be elsewhere than it was commanded to: begin from where it is measured, step by step."""
        self.ramp = 0

    def take_result(
        self, reward: float, terminated: bool, truncated: bool, seen: Readings, executed: Tensor | None = None, excluded: str = ""
    ) -> Decision | None:
        """Tell the adapter what became of its decision, and act again unless the episode has ended.

        A command that the safety node cut is learned from as the action that it then stands for. What was executed differently otherwise, by the safety
        node or because the robot had just been activated, and what was paid outside of the task's range of rewards, is not learned from.

        Args:
            reward: of the decision.
            terminated: the episode ended by itself.
            truncated: the episode ended because its time was up.
            seen: readings after the decision, name -> (n,).
            executed: (J,) pose, or (U,) of a vehicle's motors, that was commanded in the end, where it may differ from the decided one.
            excluded: why it is not to be learned from for another reason.

        Raises:
            Rejected: no decision is open, or something given cannot be used; nothing was changed by it.
            RejectedAction: what the adapter decided cannot be used.
        """
        if not self.deciding:
            raise Rejected("no_decision", "a result came, but no decision is open")
        if not math.isfinite(reward):
            raise Rejected("not_finite", f"the reward is {reward}")
        ready = self._complete(seen)
        before_obs, given = self._obs, self._done(executed)
        self.excluded = excluded or ("warm_up" if self._clamped else self._misled(reward, given))
        given = self._action if given is None else given
        if executed is not None:
            self._commanded = executed.unsqueeze(0)
        if self.ramp == 0 and isinstance(self.task.robot, ServoSpec):
            self._commanded = ready["qpos"]
        self._last_action = self._possible(given)
        sensed, self._obs = self._observe(ready)
        step = _step(before_obs, given, reward, self._obs, terminated, truncated, not self.excluded)
        if isinstance(self.adapter, SafeAdapter):
            self.adapter.observe(step, self.excluded)
        else:
            self.adapter.observe(step)
        if terminated or truncated:
            self.deciding = False
            return None
        return self._act(sensed)

    def end_episode(self) -> None:
        """Let the adapter learn from the episode that has ended."""
        self.adapter.adapt()

    def dry_run(self) -> None:
        """Decide once on made-up readings, and change nothing.

        Raises:
            RejectedAction: what was decided cannot be used.
            Rejected: a set-point that is decided at rest breaks a limit of the robot.
        """
        robot = self.task.robot
        made_up = {name: torch.zeros(readings.size(self.task, name)) for name in self.needs if name not in readings.FROM_JOINTS}
        if isinstance(robot, ServoSpec):
            made_up["qpos"] = torch.tensor(robot.home_qpos)
        trial = ControlLoop(self.task, duplicate(self.adapter), False)
        try:
            decision = trial.begin_episode(made_up)
        except RejectedAction:
            if bool(trial._obs.isfinite().all()):  # readings that cannot be are no fault of the file
                raise
            return
        if isinstance(robot, ServoSpec) and isinstance(decision.command, JointTrajectory) and len(decision.command.qpos) == 1:
            qpos, qvel, dt = (decision.command.qpos.double().numpy(), decision.command.qvel.double().numpy(), decision.command.dt)
            check_set_point(Limits.of(robot), Command(1, np.array([dt]), qpos, qvel), np.array(robot.home_qpos), None)

    def _done(self, executed: Tensor | None) -> Tensor | None:
        """The action (1, A) that was carried out in the end; None where no action stands for what was."""
        if executed is None or self._same(executed, self._commanded[0]):
            return self._action
        if isinstance(self.task.robot, VehicleSpec) and not self._cut(executed, self.task.robot):
            return None
        action = self.task.action_of(executed.unsqueeze(0), self._sensed)
        if action is None or not bool((action.abs() <= 1.0 + SAME).all()):
            return None
        again = self.task.command(action.clamp(-1.0, 1.0), self._sensed)
        assert not isinstance(again, Tensor), "a control loop has a robot"
        led = again.ctrl[0] if isinstance(again, Controls) else again.qpos[0, -1]
        return action.clamp(-1.0, 1.0) if self._same(executed, led) else None

    def _cut(self, executed: Tensor, robot: VehicleSpec) -> bool:
        """Whether (U,) is what a vehicle's slew limits leave of the decision, and no braking."""
        before, wanted = (robot.command_of(ctrl[0].double()).tolist() for ctrl in (self._sensed["command_ctrl"], self._commanded))
        return self._same(executed, robot.ctrl_of(torch.tensor([robot.nearest(wanted, before, robot.control_dt)]))[0])

    def _same(self, executed: Tensor, decided: Tensor) -> bool:
        """Whether one (J,) or (U,) is the other; a twist carries a vehicle's commands in other numbers."""
        same = EXACT if isinstance(self.task.robot, ServoSpec) else SAME
        return all(abs(e - d) <= same * (1.0 + abs(d)) for e, d in zip(executed.tolist(), decided.tolist(), strict=True))

    def _misled(self, reward: float, done: Tensor | None) -> str:
        """Why what came of the decision says nothing about what was done, or ""."""
        if done is None:
            return "intervention"
        low, high = self.task.reward_range
        return "" if low - SAME * (high - low) <= reward <= high + SAME * (high - low) else "reward_range"

    def _observe(self, ready: Readings) -> tuple[Readings, Tensor]:
        """What is sensed together with what is kept here, and the observation (1, O) of it."""
        name = "command_ctrl" if isinstance(self.task.robot, VehicleSpec) else "command_qpos"
        sensed = {**ready, "last_action": self._last_action, name: self._commanded}
        return sensed, self.task.observation(sensed)

    def _act(self, sensed: Readings) -> Decision:
        self._sensed = sensed
        action = self.adapter.act(self._obs.unsqueeze(0), self.explore).detach()
        expected = (1, 1, self.task.spec.action_size)
        if tuple(action.shape) != expected:
            raise RejectedAction("wrong_shape", f"the action has shape {tuple(action.shape)}, expected (tasks, robots, actions) = {expected}")
        if not all_finite(action):
            raise RejectedAction("not_finite", f"the action is {action.flatten().tolist()}")
        self._action = action[0].float()
        command = self.task.command(self._possible(self._action), sensed)
        self.deciding = True
        if isinstance(command, Controls):
            self._commanded = command.ctrl
            return Decision(self._action[0], Controls(command.ctrl[0]))
        assert isinstance(command, JointTrajectory), "a control loop has a robot"
        command = self._near(command, sensed)
        self._commanded = command.qpos[:, -1]
        gripper = None if command.gripper is None else command.gripper[0]
        return Decision(self._action[0], JointTrajectory(command.qpos[0], command.qvel[0], command.dt, gripper))

    def _near(self, command: JointTrajectory, sensed: Readings) -> JointTrajectory:
        """The command; where it is one of the first set-points after an activation, not far from the measured pose."""
        self._clamped = False
        if self.ramp >= RAMP:
            return command
        self.ramp += 1
        if command.qpos.shape[1] > 1:  # a trajectory begins at the measured pose by itself
            return command
        measured, room = sensed["qpos"].unsqueeze(1), self.max_step * self.ramp
        near = command.qpos.clamp(measured - room, measured + room)
        self._clamped = not torch.equal(near, command.qpos)
        return command._replace(qpos=near)

    def _possible(self, action: Tensor) -> Tensor:
        """The action (1, A) as the environment takes it."""
        return one_hot(action.argmax(-1), self.task.spec.action_size).float() if self.task.discrete else action.clamp(-1.0, 1.0)


def _step(obs: Tensor, action: Tensor, reward: float, next_obs: Tensor, terminated: bool, truncated: bool, valid: bool) -> Step:
    """The Step of one task and one robot."""
    flags = (torch.full((1, 1), flag) for flag in (terminated, truncated, valid))
    return Step(obs.unsqueeze(0), action.unsqueeze(0), torch.full((1, 1), reward), next_obs.unsqueeze(0), *flags)


def load(path: str, robot: RobotSpec) -> ControlLoop:
    """The adapter of a meta-parameters file, for one robot.

    Raises:
        FileNotFoundError, ValueError: there is no such file, or it does not fit this code, this robot or its joints.
    """
    algorithm = meta_parameters.load(path)
    spec = algorithm.spec
    if algorithm.privileged:
        raise ValueError(f"{path} must be told the task's parameters: it is a reference for evaluation and never runs on a robot")
    if spec.robot != robot.name:
        raise ValueError(f"{path} is for the robot {spec.robot or 'none'!r}, this one is {robot.name!r}")
    if spec.joint_names != robot.joint_names:
        raise ValueError(f"{path} is for the joints {', '.join(spec.joint_names)}; {robot.name} has {', '.join(robot.joint_names)}")
    task = tasks.make(spec.task)
    return ControlLoop(task, SafeAdapter(algorithm.adapter(1), task.reward_range, experience=algorithm.experience), algorithm.noise_to_adapt)
