"""A simulated robot in one hidden task, as sim_node shows it to ROS: what the robot senses, and what is true. Plain Python, no ROS.

Two ways to go on: `execute` carries out one command and waits for its end, as BatchedEnv does; `hold`, `follow` and `advance` let time pass by itself,
with the command that came last.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from metarl.robots.spec import Controls, JointTrajectory, ServoSpec
from metarl.tasks import simulators
from metarl.tasks.parameters import TaskBatch, custom
from metarl.tasks.simulators.simulator import SETTLE_CHUNK, RobotSimulator
from metarl.tasks.task import Readings, Task

EVERYBODY = torch.ones(1, dtype=torch.bool)


@dataclass
class Motion:
    """A trajectory under way, and the wait for rest after it.

    Attributes:
        qpos, ctrl: (1, S, J) and (1, S, U) of each step of physics.
        lasts: steps until it may be over; S or more.
        before: readings (1, n) before the decision that it belongs to.
        done: steps so far.
    """

    qpos: Tensor
    ctrl: Tensor
    lasts: int
    before: Readings
    done: int = 0


class World:
    """One simulation. Start poses, goals, gusts and sensing are those of a BatchedEnv with the same seed.

    Args:
        task: a task of a robot.
        hidden: one task of it.
        simulator: "mujoco" or "pybullet".
        seed: of everything random within episodes.
        on_frame: called 25 times per simulated second while the robot moves along a trajectory, with joint positions and velocities (J,).

    Attributes:
        true: readings (1, n) as they are.
        seen: as the robot's imperfect sensors give them.
        hidden: the task that it is in now.
        moving: readings (1, n) at the latest frame or `glance`, with the joints' efforts.
    """

    def __init__(self, task: Task, hidden: TaskBatch, simulator: str, seed: int, on_frame: Callable[[Tensor, Tensor], None]) -> None:
        if not task.robot_name:
            raise ValueError(f"{task.name} has no robot, so there is nothing to show on ROS")
        engine = simulators.make(simulator, task, 1, 1)
        assert isinstance(engine, RobotSimulator)
        self.task, self.engine, self.hidden = task, engine, hidden
        self._rng = torch.Generator().manual_seed(seed)
        if task.robot.joint_names:
            engine.on_frame = lambda _: on_frame(*self._joints()) if "qpos" in self.true else None
        self.true: Readings = {}
        self.moving: Readings = {}
        self._become(hidden)
        engine.set_tasks(hidden.named())
        self._begin({})

    # ---- the hidden task --------------------------------------------------------------------------------------------------

    def change(self, values: dict[str, float | str]) -> bool:
        """Change parameters of the hidden task; True where all of it holds at once, False where masses and shapes follow with the next episode.

        Wind, delays, what the sensors make of things, frictions and motors hold at once everywhere; masses and shapes in MuJoCo alone.

        Raises:
            ValueError: a name is unknown, or a value out of range; nothing has changed.
        """
        now = {p.name: p.decode(float(v)) for p, v in zip(self.task.params, self.hidden.values[0], strict=True)}
        hidden = custom(self.task.name, self.task.version, self.task.params, [{**now, **values}])
        self._become(hidden)
        at_once = self.engine.adjust(hidden.named())
        self._to_load = not at_once
        return at_once

    def fail(self, joint: str) -> None:
        """From now on the motor of that joint gives nothing; with "" all of them work again."""
        self.engine.dead_joint = joint
        self._to_load = not self.engine.adjust(self.hidden.named())

    def _become(self, hidden: TaskBatch) -> None:
        self.hidden = hidden
        self._values = {k: torch.as_tensor(v, dtype=torch.float32) for k, v in hidden.named().items()}
        self._delay = self.task.command_delay(self._values)
        self._to_load = False

    # ---- episodes ---------------------------------------------------------------------------------------------------------

    @property
    def at_rest(self) -> bool:
        """Nothing moves any more."""
        return bool(self.task.at_rest(self.true))

    def begin_episode(self, goals: Readings | None = None) -> None:
        """Put everything where an episode starts; once only, if nothing has happened since and no new mass waits for it.

        Args:
            goals: that somebody asks for in place of the task's own (1, n).
        """
        if goals or self._to_load or not self.untouched or self.elapsed > 0.0:
            self._begin(goals or {})

    def _begin(self, asked: Readings) -> None:
        if self._to_load:
            self.engine.set_tasks(self.hidden.named())
            self._to_load = False
        self._action = torch.zeros(1, self.task.spec.action_size)  # as far as commands tell it
        self.untouched = True  # an episode has begun in which nothing has happened yet
        start = self.task.start(self._values, self._rng)
        self._goals, self._memory = {**self.task.goals(self._values, self._rng), **asked}, self.task.memory(self._values, self._rng)
        self._commands = [self.engine.first_command(start)[1]]  # latest first, as far back as the delay
        self._held: list[tuple[float, Tensor]] = [(-1e9, self.engine.first_ctrl(start))]  # when it came, in s of this episode; latest first
        self.elapsed, self._phase = 0.0, 0  # s of this episode; physics steps since the last readings
        self._motion: Motion | None = None
        self._look(self.engine.reset(start, {**self._goals, **self._memory}))

    # ---- command by command -----------------------------------------------------------------------------------------------

    def execute(self, command: JointTrajectory | Controls) -> None:
        """Carry out a trajectory (1, S, J) and wait until everything is at rest, or hold what motors get (1, U) for one period.

        Where a decision is longer than its motion, the rest of it passes here, too. BatchedEnv leaves that out; a robot's next motion begins at rest.
        """
        self.untouched = False
        before, self._action = self.true, self.task.told_by(command)
        self.engine.push(self.task.forces(before, self._values))
        measured = self.engine.step(self._late(command), EVERYBODY)
        if self.task.rests and isinstance(command, JointTrajectory):
            left = self.task.decision_dt - command.dt * command.qpos.shape[1]
            self.engine.advance(None, round(left / self.task.physics_dt), None)
            measured = self.engine.read()
        self._held = [(-1e9, self._last_ctrl(command))]
        self._remember(before, measured)

    def _late(self, command: JointTrajectory | Controls) -> JointTrajectory | Controls:
        """What reaches motors that receive commands late, as in BatchedEnv: between the two that frame that moment."""
        if self._delay is None:
            return command
        one = command.ctrl if isinstance(command, Controls) else command.qpos[:, -1]
        steps = float(self._delay[0] / (self.task.decision_dt if isinstance(command, Controls) else command.dt))
        whole = int(steps)
        self._commands = [one, *self._commands][: whole + 2]
        newer, older = (self._commands[min(i, len(self._commands) - 1)] for i in (whole, whole + 1))
        late = torch.lerp(newer, older, torch.tensor(steps - whole))
        return Controls(late) if isinstance(command, Controls) else command._replace(qpos=late.unsqueeze(1))

    # ---- by the clock -----------------------------------------------------------------------------------------------------

    @property
    def period(self) -> int:
        """Physics steps between two readings."""
        return round(self.task.decision_dt / self.task.physics_dt)

    @property
    def under_way(self) -> bool:
        """A trajectory is, or the wait for rest after it."""
        return self._motion is not None

    def hold(self, command: JointTrajectory | Controls) -> None:
        """From now on, until the next one: what motors get (1, U), or a set-point (1, 1, J). One that stops a trajectory ends it as `follow` says."""
        if isinstance(command, JointTrajectory) and self.under_way:
            self.follow(command)
            return
        self.untouched, self._action = False, self.task.told_by(command)
        oldest = self.elapsed - (float(self._delay[0]) if self._delay is not None else 0.0)
        kept = [held for held in self._held if held[0] > oldest] + [held for held in self._held if held[0] <= oldest][:1]
        self._held = [(self.elapsed, self._last_ctrl(command)), *kept]

    def follow(self, command: JointTrajectory) -> None:
        """From now on, step by step: a trajectory (1, S, J), on the curve of `execute`, and the wait until everything is at rest; that ends the decision.

        It begins where the last command has led by now. What comes before its end takes its place, and the decision ends with that.
        """
        self.untouched, self._action = False, self.task.told_by(command)
        if self._motion is None:
            self.look()
            self.engine.push(self.task.forces(self.true, self._values))
        before = self.true if self._motion is None else self._motion.before
        qpos, ctrl = self.engine.curve(command)
        self._motion = Motion(qpos, ctrl, max(qpos.shape[1], self.period if self.task.rests else 0), before)

    def advance(self, steps: int) -> bool:
        """Let time pass, at most until a period or a decision ends: True where it did, and there are new readings."""
        if self._motion is not None:
            return any(self._go_on(self._motion) for _ in range(steps))
        if self._phase == 0:
            self._before = self.true
            self.engine.push(self.task.forces(self.true, self._values))
        steps = min(steps, self.period - self._phase)
        late = self.elapsed - (float(self._delay[0]) if self._delay is not None else 0.0)
        ctrl = next(ctrl for came, ctrl in self._held if came <= late + 1e-9)
        self.engine.advance(ctrl, steps, None)
        self._phase += steps
        self.elapsed += steps * self.task.physics_dt
        if self._phase < self.period:
            return False
        self._phase = 0
        self._remember(self._before, self.engine.read())
        return True

    def _go_on(self, motion: Motion) -> bool:
        """One step of a motion: True where the decision is over."""
        now = min(motion.done, motion.ctrl.shape[1] - 1)
        self.engine.advance(motion.ctrl[:, now], 1, None)
        self.engine.last_qpos = motion.qpos[:, now]
        motion.done += 1
        self.elapsed += self.task.physics_dt
        if not self._over(motion):
            return False
        self._motion, self._phase, self._held = None, 0, [(-1e9, motion.ctrl[:, -1])]
        self._remember(motion.before, self.engine.read())
        return True

    def _over(self, motion: Motion) -> bool:
        """As `RobotSimulator.step` finds it: everything is at rest, or has been waited for as long as the task allows."""
        waited, longest = motion.done - motion.lasts, round(self.task.settle_time / self.task.physics_dt)
        if waited < 0 or waited >= longest:
            return waited >= 0
        return waited % round(SETTLE_CHUNK / self.task.physics_dt) == 0 and bool(self.task.at_rest(self.engine.read()))

    def _last_ctrl(self, command: JointTrajectory | Controls) -> Tensor:
        """(1, U) what motors get from the end of a command on; the next trajectory begins there."""
        if isinstance(command, Controls):
            return command.ctrl
        self.engine.last_qpos = command.qpos[:, -1]
        return self.engine.held(command)

    def glance(self) -> None:
        """Make `moving` what it is now."""
        self.moving = self.engine.read() | self._driven()

    def look(self) -> None:
        """Make `true` and `seen` what they are now, where no decision has ended."""
        self._look(self.engine.read())

    # ---- common -----------------------------------------------------------------------------------------------------------

    def _remember(self, before: Readings, measured: Readings) -> None:
        self._memory = self.task.remember(before, self._action, {**measured, **self._goals}, self._values, self._rng)
        self.engine.show(self._memory)
        self._look(measured)

    def _joints(self) -> tuple[Tensor, Tensor]:
        self.glance()
        return self.moving["qpos"][0], self.moving["qvel"][0]

    def _driven(self) -> Readings:
        """What an arm's driver measures besides; no task knows of it."""
        return {"effort": self.engine.effort()} if isinstance(self.task.robot, ServoSpec) else {}

    def _look(self, measured: Readings) -> None:
        self.true = {**measured, **self._driven(), **self._goals, **self._memory, "last_action": self._action}
        self.seen = self.task.sense(self.true, self._values)

    def close(self) -> None:
        """Free the simulator."""
        self.engine.close()

    def model(self) -> Any:
        """The compiled scene."""
        return self.engine.model
