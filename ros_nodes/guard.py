"""The last decision before the motors: forward a command, or brake and hold the pose. Plain Python, no ROS."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from metarl.ros_nodes.limits import Array, Command, Limits, check_form, check_set_point, check_trajectory
from metarl.ros_nodes.rejection import Rejected

HOLD_TIME = 0.1  # s given to come to rest; longer where the joints may not brake as hard


@dataclass(frozen=True)
class Measured:
    """The newest joint state.

    Attributes:
        stamp: ns, of the measurement.
        qpos, qvel: (J,).
        arrival: s, when this stamp first came in, on a clock that nothing can set.
    """

    stamp: int
    qpos: Array
    qvel: Array
    arrival: float


@dataclass
class Guard:
    """Judges commands, one after another.

    Attributes:
        limits: of the robot.
        reach: rad, how far from the measured pose a command may begin, or a set-point lead it.
        rest_speed: rad/s, below which the robot may begin a trajectory that is planned from rest.
        state_timeout: s, older joint states are no ground to move on.
        measured: the newest joint state.
    """

    limits: Limits
    reach: float = 0.25
    rest_speed: float = 0.05
    state_timeout: float = 0.5
    measured: Measured | None = None
    _last_stamp: int = -1
    _set_point: Command | None = None

    def measure(self, stamp: int, qpos: Array, qvel: Array, now: float) -> None:
        """Take in a joint state; one that repeats the last stamp is no sign that the robot is still being measured.

        Args:
            stamp: ns, of the measurement.
            qpos: (J,) rad.
            qvel: (J,) rad/s.
            now: s, on the clock of `arrival`.

        Raises:
            Rejected: stale_state, where a newer one is here.
        """
        last = self.measured
        if last is not None and stamp < last.stamp:
            raise Rejected("stale_state", f"measured at {stamp} ns, after one of {last.stamp} ns")
        self.measured = Measured(stamp, qpos, qvel, last.arrival if last is not None and stamp == last.stamp else now)

    def fresh(self, now: float) -> Measured:
        """The newest joint state.

        Raises:
            Rejected: stale_state.
        """
        if self.measured is None:
            raise Rejected("stale_state", "no joint state has arrived yet")
        age = now - self.measured.arrival
        if age > self.state_timeout:
            raise Rejected("stale_state", f"the last new joint state arrived {age:.3f} s ago, allowed are {self.state_timeout:.3f} s")
        return self.measured

    def judge(self, command: Command, now: float) -> Command:
        """The command, if it may be forwarded as it is.

        Raises:
            Rejected: not_newer, stale_state, far_from_pose, moving, or as the checks of `limits`.
        """
        self._check(command, self.fresh(now))
        self._last_stamp = command.stamp
        self._set_point = command if len(command.time) == 1 else None
        return command

    def hold(self, stamp: int, now: float) -> Command:
        """The command that brings the robot to rest where it is, as fast as its accelerations allow, and inside of the position limits.

        Each joint brakes evenly, so it comes to rest half its speed times the braking time further on; nearer only where a limit is nearer.

        Raises:
            Rejected: stale_state, where there is no pose to hold: then nothing must be sent.
        """
        measured = self.fresh(now)
        time = max(HOLD_TIME, float((np.abs(measured.qvel) / self.limits.qacc).max()))
        qpos = np.clip(measured.qpos + 0.5 * measured.qvel * time, self.limits.lower, self.limits.upper)
        self._set_point = None
        return Command(stamp, np.array([time]), qpos[None], np.zeros_like(qpos)[None])

    def _check(self, command: Command, measured: Measured) -> None:
        if measured.stamp < command.stamp:
            raise Rejected("stale_state", f"the last joint state is of {measured.stamp} ns, the command was planned on what was seen at {command.stamp} ns")
        if command.stamp <= self._last_stamp:
            raise Rejected("not_newer", f"a command stamped {command.stamp} ns, after one stamped {self._last_stamp} ns")
        check_form(self.limits, command)
        far = np.abs(command.qpos[0] - measured.qpos)
        if not (far <= self.reach).all():
            j = int(far.argmax())
            raise Rejected("far_from_pose", f"{self.limits.joint_names[j]} is {far[j]:.3f} rad from where the command begins, allowed are {self.reach:.3f} rad")
        if len(command.time) == 1:
            check_set_point(self.limits, command, measured.qpos, self._set_point)
            return
        if not (np.abs(measured.qvel) <= self.rest_speed).all():
            j = int(np.abs(measured.qvel).argmax())
            raise Rejected("moving", f"{self.limits.joint_names[j]} moves at {measured.qvel[j]:.3f} rad/s, a trajectory begins at rest")
        check_trajectory(self.limits, command, measured.qpos)
