"""What the guards of arms and of vehicles share: how old what was measured is, and which commands come in time. Plain Python, no ROS, no torch."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import ClassVar, NamedTuple

from metarl.ros_nodes.limits import Array, Command
from metarl.ros_nodes.rejection import Rejected
from metarl.ros_nodes.stamps import Fallen, Leaps

SPARE = 2.0  # steps by which a stream may run ahead of the robot's clock: deliveries are late by one or two


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
        clock_may_leap: whether stamps may grow faster than time passes, as those of a simulation.
        measured: the newest measurement.
        state: what the robot is doing.
        stop_cause: why it is stopped.
    """

    state_timeout: float = 0.1
    command_timeout: float = 0.1
    may_jump: bool = False
    clock_may_leap: bool = False
    measured: Measured | None = None
    state: State = State.IDLE
    stop_cause: str = ""
    _last_stamp: int = -1
    _lost: bool = False  # after a jump that cannot be: what is measured is not believed until the robot is reset by hand
    _judged: int = 0  # ns, stamp of what was measured when the last command was judged
    _ahead: float = 0.0  # s by which the commands since then have run ahead of the robot's clock
    _since: int = 0  # ns: what was planned on earlier measurements belongs to another episode
    _fallen: Fallen = field(default_factory=Fallen)
    _leaps: Leaps = field(default_factory=Leaps)

    source: ClassVar[str]  # what a measurement is called
    answers: ClassVar[tuple[str, str]]  # how a command is related to one, after "a command", and as a verb

    def _take(self, stamp: int, qpos: Array, qvel: Array, now: float) -> tuple[Measured | None, Rejected | None]:
        """Keep a measurement; one that repeats its stamp is no sign that the robot is still being measured.

        Returns:
            the one before, by the present clock; and why what was planned before this one is void, where the clock was set: clock_set_back, where from
            this one on the stamps of a clock that was set back are believed, or clock_set_ahead, where they have grown faster than time has passed.

        Raises:
            Rejected: stale_state, where a newer one is here.
        """
        last, clock_set = self.measured, None
        if last is not None and stamp < last.stamp:
            if not self._fallen.set_back(stamp):
                raise Rejected("stale_state", f"measured at {stamp} ns, after one of {last.stamp} ns")
            self._leaps = Leaps()
            clock_set = Rejected("clock_set_back", f"measured at {stamp} ns after {last.stamp} ns, and on from there: what comes is believed again")
        self._fallen.goes_on()
        if self._leaps.set_ahead(stamp, now) and last is not None and not self.clock_may_leap:
            clock_set = Rejected("clock_set_ahead", f"measured at {stamp} ns after {last.stamp} ns, which is more than the time that has passed")
        if last is not None and clock_set is not None:
            self._since, self._last_stamp = stamp, -1  # commands of the old clock answer nothing any more
            last = replace(last, stamp=stamp - round((now - last.arrival) * 1e9))
        self.measured = Measured(stamp, qpos, qvel, last.arrival if last is not None and stamp == last.stamp else now)
        return last, clock_set

    def fresh(self, now: float) -> Measured:
        """The newest measurement.

        Raises:
            Rejected: stale_state.
        """
        if self._lost:
            raise Rejected("stale_state", f"the {self.source} is not believed, where the robot is, nobody knows ({self.stop_cause})")
        if self.measured is None:
            raise Rejected("stale_state", f"no {self.source} has arrived yet")
        age = now - self.measured.arrival
        if age > self.state_timeout:
            raise Rejected("stale_state", f"the last new {self.source} arrived {age:.3f} s ago, allowed are {self.state_timeout:.3f} s")
        return self.measured

    def _step(self, dt: float, measured: Measured) -> float:
        """What of the `dt` s since the command before, by their stamps, has passed for the robot: of several that come late together, it has no time for most.

        The clock that counts is that of its measurements: in lockstep, the machine's says nothing.
        """
        passed = max(measured.stamp - self._judged, 0) * 1e-9
        step = min(dt, max(SPARE * dt + passed - self._ahead, 0.0))
        self._judged, self._ahead = measured.stamp, max(self._ahead + step - passed, 0.0)
        return step

    def _lose(self, cause: Rejected) -> None:
        """Where the robot is, nobody knows: stopped, and what is measured is not believed, until it is reset by hand."""
        self._lost, self.state, self.stop_cause = True, State.STOPPED, str(cause)

    def _check_stopped(self) -> None:
        """Whoever resets a robot forgets what it is doing: while it does something, nobody could brake it any more.

        Raises:
            Rejected: not_stopped.
        """
        if self.state is not State.STOPPED:
            raise Rejected("not_stopped", f"there is nothing to reset, the robot is {self.state}")

    def repeats(self, stamp: int) -> bool:
        """Whether a command stamped so (ns) is the one again that was accepted last."""
        return stamp == self._last_stamp

    def _check_order(self, command: Command) -> None:
        if self.state is State.STOPPED:
            raise Rejected("stopped", f"the robot was stopped ({self.stop_cause}) and must be reset by hand")
        if command.stamp < self._since:
            text = f"a command {self.answers[0]} what was seen at {command.stamp} ns, the robot was put elsewhere at {self._since} ns"
            raise Rejected("before_reset", text)
        if self.repeats(command.stamp):
            raise Rejected("duplicate", f"a command stamped {command.stamp} ns again")
        if command.stamp < self._last_stamp and self._fallen.count:
            text = f"a command stamped {command.stamp} ns, after one stamped {self._last_stamp} ns, while the stamps of what is measured fall"
            raise Rejected("stale_state", text)
        if command.stamp < self._last_stamp:
            raise Rejected("out_of_order", f"a command stamped {command.stamp} ns, after one stamped {self._last_stamp} ns")

    def _check_age(self, command: Command, measured: Measured, allowed: float) -> None:
        age = (measured.stamp - command.stamp) * 1e-9
        if age < 0:
            text = f"the last {self.source} is of {measured.stamp} ns, the command {self.answers[1]} what was seen at {command.stamp} ns"
            raise Rejected("future", text)
        if age > allowed:
            raise Rejected("stale_command", f"the command {self.answers[1]} what was seen {age:.3f} s ago, allowed are {allowed:.3f} s")
