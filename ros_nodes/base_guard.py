"""What the guards of arms and of vehicles share: how old what was measured is, and which commands come in time. Plain Python, no ROS, no torch."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import ClassVar, NamedTuple

from metarl.ros_nodes.limits import Array, Command
from metarl.ros_nodes.rejection import Rejected


class State(StrEnum):
    """What the robot is doing for all that the guard knows."""

    IDLE = "idle"  # nothing is being carried out
    MOVING = "moving"  # a trajectory, until its end
    TRACKING = "tracking"  # set-points of a fast control loop
    HOLDING = "holding"  # braked and held; the next good command moves it again
    STOPPED = "stopped"  # emergency stop: nothing moves it until it is reset by hand


@dataclass(frozen=True)
class Measured:
    """The newest joint state, or odometry.

    Attributes:
        stamp: ns, of the measurement.
        qpos, qvel: (J,).
        arrival: s, when this stamp first came in, on a clock that nothing can set.
    """

    stamp: int
    qpos: Array
    qvel: Array
    arrival: float


class Stop(NamedTuple):
    """The robot must stop now.

    Attributes:
        command: that brakes and holds; None where there is no pose to hold.
        cause: why, by name.
        waited: s since the last sign of life of what is missing, on the steady clock.
    """

    command: Command | None
    cause: Rejected
    waited: float


@dataclass(kw_only=True)
class BaseGuard:
    """What is measured, and in which order commands come.

    Attributes:
        state_timeout: s, older measurements are no ground to move on.
        command_timeout: s, longest silence of a fast control loop, and largest age of its commands.
        may_jump: whether the pose may change at once, as it does when a simulation is reset.
        measured: the newest measurement.
        state: what the robot is doing.
        stop_cause: why it is stopped.
    """

    state_timeout: float = 0.1
    command_timeout: float = 0.1
    may_jump: bool = False
    measured: Measured | None = None
    state: State = State.IDLE
    stop_cause: str = ""
    _last_stamp: int = -1
    _lost: bool = False  # after a jump that cannot be: what is measured is not believed until the robot is reset by hand
    _since: int = 0  # ns: what was planned on earlier measurements belongs to another episode

    source: ClassVar[str]  # what a measurement is called
    answers: ClassVar[tuple[str, str]]  # how a command is related to one, after "a command", and as a verb

    def _take(self, stamp: int, qpos: Array, qvel: Array, now: float) -> Measured | None:
        """Keep a measurement and return the one before; one that repeats its stamp is no sign that the robot is still being measured.

        Raises:
            Rejected: stale_state, where a newer one is here.
        """
        last = self.measured
        if last is not None and stamp < last.stamp:
            raise Rejected("stale_state", f"measured at {stamp} ns, after one of {last.stamp} ns")
        self.measured = Measured(stamp, qpos, qvel, last.arrival if last is not None and stamp == last.stamp else now)
        return last

    def fresh(self, now: float) -> Measured:
        """The newest measurement.

        Raises:
            Rejected: stale_state.
        """
        if self._lost:
            raise Rejected("stale_state", f"the {self.source} has jumped: where the robot is, nobody knows")
        if self.measured is None:
            raise Rejected("stale_state", f"no {self.source} has arrived yet")
        age = now - self.measured.arrival
        if age > self.state_timeout:
            raise Rejected("stale_state", f"the last new {self.source} arrived {age:.3f} s ago, allowed are {self.state_timeout:.3f} s")
        return self.measured

    def _check_order(self, command: Command) -> None:
        if self.state is State.STOPPED:
            raise Rejected("stopped", f"the robot was stopped ({self.stop_cause}) and must be reset by hand")
        if command.stamp < self._since:
            text = f"a command {self.answers[0]} what was seen at {command.stamp} ns, the robot was put elsewhere at {self._since} ns"
            raise Rejected("before_reset", text)
        if command.stamp == self._last_stamp:
            raise Rejected("duplicate", f"a command stamped {command.stamp} ns again")
        if command.stamp < self._last_stamp:
            raise Rejected("out_of_order", f"a command stamped {command.stamp} ns, after one stamped {self._last_stamp} ns")

    def _check_age(self, command: Command, measured: Measured, allowed: float) -> None:
        age = (measured.stamp - command.stamp) * 1e-9
        if age < 0:
            text = f"the last {self.source} is of {measured.stamp} ns, the command {self.answers[1]} what was seen at {command.stamp} ns"
            raise Rejected("future", text)
        if age > allowed:
            raise Rejected("stale_command", f"the command {self.answers[1]} what was seen {age:.3f} s ago, allowed are {allowed:.3f} s")
