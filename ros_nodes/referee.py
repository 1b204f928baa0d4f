"""What the task node knows: when a decision is over, what it was worth, when episodes and the trial end. Plain Python, no ROS."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn.functional import one_hot

from metarl.robots.spec import VehicleSpec
from metarl.ros_nodes import readings
from metarl.ros_nodes.events import Event
from metarl.ros_nodes.rejection import Rejected
from metarl.tasks.task import Readings, Task


class Referee:
    """Judges one trial of one robot from true readings, as BatchedEnv does.

    Args:
        task: whose reward, ends and rest.
        epoch: number of the trial.
        episodes: K; 0 takes the task's.
    """

    def __init__(self, task: Task, epoch: int, episodes: int = 0) -> None:
        self.task, self.epoch = task, epoch
        self.episodes = episodes or task.episodes_per_trial
        self.needs = readings.needed_to_judge(task)
        self.event: Event | None = None  # the latest
        self._from = 0  # ns, since when the open decision has lasted

    @property
    def trial_ended(self) -> bool:
        """All episodes are over."""
        return self.event is not None and self.event.ends and self.event.episode == self.episodes - 1

    def begin_episode(self, measured: Readings, stamp: int) -> Event:
        """The event that begins the next episode.

        Args:
            measured: true readings, name -> (n,).
            stamp: ns, theirs.

        Raises:
            Rejected: a reading cannot be used.
        """
        ready = readings.complete(self.task, self.needs, measured)
        last = self.event
        if last is not None and (not last.ends or self.trial_ended):
            raise Rejected("wrong_order", "an episode cannot begin here")
        self._before = {**ready, "last_action": torch.zeros(1, self.task.spec.action_size), **({"command_qpos": ready["qpos"]} if "qpos" in ready else {})}
        error = readings.error(self.task, self._before)
        sequence, episode = (0, 0) if last is None else (last.sequence + 1, last.episode + 1)
        self.event, self._from = Event(self.epoch, sequence, episode, 0, 0.0, False, False, error, stamp), stamp
        return self.event

    def count_anew(self, stamp: int) -> None:
        """The robot's clock was set, and says `stamp` (ns) now: for how long a decision has lasted nobody knows, so its whole time is waited for from here."""
        self._from = stamp

    def lasted(self, stamp: int) -> float:
        """Seconds of the open decision until `stamp` (ns), by the robot's clock."""
        return (stamp - self._from) * 1e-9

    def over(self, measured: Readings, stamp: int, motion: float) -> bool:
        """Whether the decision that answers the latest event has had its effect.

        Args:
            measured: true readings, name -> (n,).
            stamp: ns, theirs.
            motion: s, duration of the commanded motion.

        Raises:
            Rejected: a reading cannot be used.
        """
        assert self.event is not None, "begin_episode must come first"
        whole = self.task.decision_dt if self.task.rests else motion  # where a decision is more than its motion, the rest is waited for
        passed = self.lasted(stamp) - whole
        if passed <= -1e-6 or passed >= self.task.settle_time:
            return passed > -1e-6
        return bool(self.task.at_rest(readings.complete(self.task, self.needs, measured)))

    def judge(self, action: Tensor, executed: Tensor, measured: Readings, stamp: int) -> Event:
        """The event that tells what a decision led to.

        Args:
            action: (A,) as the adapter gave it.
            executed: (J,) last pose of the commanded motion, or (U,) what a vehicle's motors were told.
            measured: true readings after it, name -> (n,).
            stamp: ns, theirs.

        Raises:
            Rejected: a reading, the action or the reward cannot be used.
        """
        assert self.event is not None, "begin_episode must come first"
        ready = readings.complete(self.task, self.needs, measured)
        if tuple(action.shape) != (self.task.spec.action_size,) or not bool(action.isfinite().all()):
            raise Rejected("bad_action", f"the action is {action.tolist()}, expected {self.task.spec.action_size} finite numbers")
        clipped = (one_hot(action.argmax(-1), len(action)).float() if self.task.discrete else action.clamp(-1.0, 1.0)).unsqueeze(0)
        name = "command_ctrl" if isinstance(self.task.robot, VehicleSpec) else "command_qpos"
        after = {**ready, "last_action": clipped, name: executed.unsqueeze(0)}
        reward = float(self.task.reward(self._before, clipped, after))
        if not math.isfinite(reward):
            raise Rejected("not_finite", f"the reward is {reward}")
        last, self._before = self.event, after
        terminated = bool(self.task.terminated(after))
        truncated = not terminated and last.step + 1 >= self.task.horizon
        error = readings.error(self.task, after)
        self.event, self._from = Event(self.epoch, last.sequence + 1, last.episode, last.step + 1, reward, terminated, truncated, error, stamp), stamp
        return self.event
