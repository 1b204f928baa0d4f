"""The last decision before a vehicle's motors: forward a command inside of its limits, or bring the vehicle to rest. Plain Python, no ROS, no torch.

A vehicle's command is a Command of one point: its C numbers stand where an arm's positions do. It is cut to its limits rather than refused:
a vehicle in motion that gets nothing is worse off than one that gets a little less.
"""

from __future__ import annotations

import contextlib
from dataclasses import dataclass, field

import numpy as np

from metarl.robots.spec import WXYZ, VehicleSpec, clamp
from metarl.ros_nodes.base_guard import SPARE, BaseGuard, Measured, State, Stop
from metarl.ros_nodes.limits import Array, Command
from metarl.ros_nodes.rejection import Rejected

TOP_SPEED = 30.0  # m/s that no vehicle of ours reaches: what moves faster was put elsewhere
TOP_TURN = 30.0  # rad/s, seven times what the quickest of them may be told
JUMP = 0.5  # m that odometry may leap at once
# m or rad: what a vehicle may be told in all, by the commands that say how fast it shall move, while its odometry stands still, and what is no standing still.
# In simulation they come to 1.1 m of a car on ice, and to 0.4 rad of a quadrotor in the wind; what is commanded under other names is not watched
TOLD = {"speed": 3.0, "roll_rate": 1.5, "pitch_rate": 1.5, "yaw_rate": 1.5}
MOVED, TURNED = 0.02, 0.02
# s after another command by when whoever flies is measured otherwise, at least in the last bit of its odometry; a difference of commands is such a part of
# their range. A perfect hover of a simulation without noise repeats itself, too, but so do its commands
ANSWERED, OTHER = 0.5, 1e-3
# A stop of whoever flies: what it climbs is summed up over so many s, at most so many m/s at a time, for a fast fall says nothing of a load, and up to so many
# m/s in all. A quadrotor's thrust then answers loads and weak rotors of up to 0.9 times its weight
SUMMED, SLOW, MOST = 1.0, 1.0, 2.2
HOVERS, STEADY = 0.1, 0.01  # m/s that a hover may climb or sink, and by which part of their range its commands may still waver


@dataclass
class VehicleGuard(BaseGuard):
    """Judges commands, one after another, and watches over what is being carried out; the same verbs as `guard.Guard`.

    Attributes beside those of BaseGuard:
        robot: whose limits.
        command_timeout: s, longest silence, and largest age of a command; 0 takes the robot's patience.
        slew: part of the robot's slew limits that is used: less than 1 for a first drive.
        measured: the newest odometry: position and quaternion wxyz (7,), linear and angular velocity in the world (6,).
        cut: names of what was cut in the last command.
    """

    robot: VehicleSpec
    command_timeout: float = field(default=0.0, kw_only=True)
    slew: float = 1.0
    cut: tuple[str, ...] = ()
    _sent: tuple[float, ...] = ()
    _sent_at: float = -np.inf
    _stood: Array | None = None  # (7,) pose at which it has stood since
    _told: float = 0.0  # part of what it may be told until it moves
    _same: tuple[Array, Array] | None = None  # odometry (13,) that repeats itself, and the command (C,) when it began to
    _unanswered: float = 0.0  # s of that since another command
    _heard_at: float = -np.inf
    _climbed: float = 0.0  # m/s: what has summed up of its climbing since the stop began

    source = "odometry"
    answers = ("that answers", "answers")

    def __post_init__(self) -> None:
        self.command_timeout = self.command_timeout or self.robot.patience
        self._sent = self.robot.rest

    # ---- what is measured -------------------------------------------------------------------------------------------------

    def measure(self, stamp: int, pose: Array, twist: Array, now: float, effort: Array | None = None) -> None:
        """Take in odometry; one that repeats the last stamp is no sign that the vehicle is still being measured.

        Args:
            stamp: ns, of the measurement.
            pose: (7,) m and wxyz.
            twist: (6,) m/s and rad/s in the world.
            now: s, on a clock that nothing can set.
            effort: no vehicle tells it.

        Raises:
            Rejected: too_fast, where no vehicle can move as it says; stale_state, where a newer one is here; jump, where the vehicle is elsewhere than it
                can be; does_not_follow, where it stands still though it is told to move; clock_set_back or clock_set_ahead, as `_take` says: this one is
                kept.
        """
        self._check_speed(twist)
        last, clock_set = self._take(stamp, pose, twist, now)
        if last is not None:
            self._watch_jump(last, pose, stamp)
            self._watch_following(pose, (stamp - last.stamp) * 1e-9)
            self._watch_repeating(np.append(pose, twist), (stamp - last.stamp) * 1e-9)
        if clock_set is not None:
            raise clock_set

    @staticmethod
    def _check_speed(twist: Array) -> None:
        for part, top, unit in ((twist[:3], TOP_SPEED, "m/s"), (twist[3:], TOP_TURN, "rad/s")):
            speed = float(np.linalg.norm(part))
            if not speed <= top:
                raise Rejected("too_fast", f"the vehicle moves at {speed:.4g} {unit}, none can do {top:.4g} {unit}")

    def _watch_jump(self, last: Measured, pose: Array, stamp: int) -> None:
        moved = float(np.linalg.norm(pose[:3] - last.qpos[:3]))
        if moved <= JUMP + TOP_SPEED * (stamp - last.stamp) * 1e-9:
            return
        self._since = last.stamp + 1
        jump = Rejected("jump", f"the vehicle is {moved:.2f} m from where it was at the last odometry")
        if self.may_jump:
            self._sent, self._climbed = self.robot.rest, 0.0
            self._rest(State.IDLE)
        else:  # what it says of itself is wrong: come to rest without it
            self._lose(jump)
        raise jump

    def _watch_following(self, pose: Array, passed: float) -> None:
        """Odometry that stands still, or a vehicle that is blocked, while it is told to move."""
        if self.state is not State.TRACKING or self._stood is None or self._moved(self._stood, pose):
            self._stood, self._told = pose, 0.0
            return
        parts = (abs(value) / TOLD.get(name, np.inf) for name, value in zip(self.robot.command_names, self._sent, strict=True))
        self._told += min(passed, self.command_timeout) * max(parts)
        if self._told > 1.0:
            found = Rejected("does_not_follow", f"the vehicle is told to move, and has stood still at {np.round(pose[:3], 2).tolist()} m since")
            self._lose(found)
            raise found

    def _watch_repeating(self, measured: Array, passed: float) -> None:
        """Of who hovers nobody knows how it should move, but a sensor that says the same, bit for bit, whatever the motors are told, measures nothing."""
        if not self._flies:  # whoever stands on wheels may steer
            return
        sent = np.array(self._sent)
        if self.state is not State.TRACKING or self._same is None or (measured != self._same[0]).any():
            self._same, self._unanswered = (measured, sent), 0.0
            return
        low, high = np.array(self.robot.command_limits).T
        if self._unanswered or (np.abs(sent - self._same[1]) > OTHER * (high - low)).any():
            self._unanswered += min(passed, self.command_timeout)
        if self._unanswered > ANSWERED:
            text = f"the odometry has been the same, bit for bit, for {self._unanswered:.2f} s since the motors were told otherwise"
            self._lose(found := Rejected("does_not_follow", text))
            raise found

    @staticmethod
    def _moved(before: Array, pose: Array) -> bool:
        same = abs(float(before[3:] @ pose[3:])) / float(np.linalg.norm(before[3:]) * np.linalg.norm(pose[3:]))  # cosine of half the angle between them
        return float(np.linalg.norm(pose[:3] - before[:3])) > MOVED or 2 * np.arccos(min(same, 1.0)) > TURNED

    # ---- commands ---------------------------------------------------------------------------------------------------------

    def judge(self, command: Command, now: float) -> Command:
        """The command, inside of the limits.

        Raises:
            Rejected: stopped, duplicate, out_of_order, before_reset, future, stale_command, stale_state, wrong_shape or not_finite.
        """
        measured = self._check(command, now)
        wanted, since_last = command.qpos[0], (command.stamp - self._last_stamp) * 1e-9
        allowed = self._inside(wanted, self._step(min(since_last, self.robot.control_dt), measured))
        self.cut = tuple(n for n, a, b in zip(self.robot.command_names, allowed, wanted, strict=True) if abs(a - b) > 1e-6)
        self._last_stamp, self._heard_at, self.state, self._climbed = command.stamp, now, State.TRACKING, 0.0
        return self._send(command.stamp, allowed, now)

    def _check(self, command: Command, now: float) -> Measured:
        self._check_order(command)
        measured = self.fresh(now)
        self._check_age(command, measured, self.command_timeout)
        expected = (1, len(self.robot.command_names))
        if command.qpos.shape != expected:
            raise Rejected("wrong_shape", f"a command of shape {command.qpos.shape}, expected {expected}")
        finite = np.isfinite(command.qpos[0])
        if not finite.all():
            bad = int(np.flatnonzero(~finite)[0])
            raise Rejected("not_finite", f"{self.robot.command_names[bad]} is {command.qpos[0, bad]}")
        return measured

    def hold(self, stamp: int, now: float) -> Command:
        """The next command on the way to rest; to be sent again and again (`follow`). It needs no odometry, though a level hover is better with it."""
        if self.state is not State.STOPPED:
            self.state = State.HOLDING
        elapsed = min(max(now - self._sent_at, 0.0), self.robot.control_dt)
        self._spend(elapsed)
        with contextlib.suppress(Rejected):
            self._climbed = summed(self._climbed, float(self.fresh(now).qvel[2]), elapsed)
        return self._send(stamp, self._braking(now, elapsed), now)

    def _spend(self, elapsed: float) -> None:
        """The next command cannot have this time, too. No more is owed than a stream may run ahead: in lockstep the robot's clock stands still meanwhile."""
        stamp = max(self._judged, self.measured.stamp if self.measured is not None else 0)
        left = self._ahead + elapsed - (stamp - self._judged) * 1e-9
        self._judged, self._ahead = stamp, min(max(left, 0.0), SPARE * self.robot.control_dt)

    def _braking(self, now: float, elapsed: float) -> Array:
        """What to send `elapsed` s after the command before."""
        attitude: WXYZ | None = None
        climbing = 0.0
        with contextlib.suppress(Rejected):
            measured = self.fresh(now)
            w, x, y, z = (float(v) for v in measured.qpos[3:])
            attitude, climbing = (w, x, y, z), float(measured.qvel[2])
        return self._inside(np.array(self.robot.safe(self._sent, attitude, climbing + self._climbed, elapsed)), elapsed)

    def follow(self, now: float) -> Command | None:
        """The next command of a stop that is under way, once a period; None where there is nothing to send."""
        if self.state not in (State.HOLDING, State.STOPPED) or now - self._sent_at < 0.9 * self.robot.control_dt:
            return None
        return self.hold(self._answered(), now)

    def at_rest(self, now: float) -> bool:
        """Whether the last command was one of rest, for all that is known by now, and nothing else will be sent by itself; nearly so of a hover."""
        if self.state in (State.IDLE, State.TRACKING):
            return self.state is State.IDLE
        low, high = np.array(self.robot.command_limits).T
        with contextlib.suppress(Rejected):
            if self._flies and abs(self.fresh(now).qvel[2]) > HOVERS:
                return False
        still = STEADY * (high - low) if self._flies else 1e-6
        return bool((np.abs(self._braking(now, self.robot.control_dt) - self._sent) <= still).all())

    # ---- watching ---------------------------------------------------------------------------------------------------------

    def watch(self, now: float) -> Stop | None:
        """What must be done because somebody has fallen silent; None almost always. Call it often."""
        if self.state is not State.TRACKING:
            return None
        silent = now - self._heard_at
        try:
            self.fresh(now)
        except Rejected as stale:
            return Stop(self.hold(self._answered(), now), stale, now - (self.measured.arrival if self.measured is not None else self._heard_at))
        if silent <= self.command_timeout:
            return None
        text = f"no command for {silent:.3f} s, allowed are {self.command_timeout:.3f} s"
        return Stop(self.hold(self._answered(), now), Rejected("stale_command", text), silent)

    def stop(self, cause: str, now: float) -> Command | None:
        """Emergency stop: come to rest, and refuse everything until `reset`."""
        already = self.state is State.STOPPED
        command = self.hold(self._answered(), now)
        self.state = State.STOPPED
        if not already:
            self.stop_cause = cause
        return command

    def reset(self) -> None:
        """End an emergency stop, and forget what was measured: commands decided before it are refused. Braking goes on until a good one comes.

        Raises:
            Rejected: not_stopped: nothing has changed.
        """
        self._check_stopped()
        if self.measured is not None:
            self._since = max(self._since, self.measured.stamp + 1)
        self.measured, self.stop_cause, self._lost = None, "", False
        self._rest(State.HOLDING)

    def _rest(self, state: State) -> None:
        self.state, self._heard_at = state, -np.inf

    @property
    def _flies(self) -> bool:
        return "thrust" in self.robot.command_names

    def _answered(self) -> int:
        """ns, stamp of a command that answers no event: the newest odometry's."""
        return self.measured.stamp if self.measured is not None else max(self._last_stamp, 0)

    def _inside(self, wanted: Array, elapsed: float) -> Array:
        """The nearest command that the limits and the one sent last, `elapsed` s before, allow."""
        return np.array(self.robot.nearest(wanted.tolist(), self._sent, elapsed, self.slew))

    def _send(self, stamp: int, values: Array, now: float) -> Command:
        self._sent, self._sent_at = tuple(values.tolist()), now
        return Command(stamp, np.array([self.robot.control_dt]), values[None], np.zeros((1, len(values))))


def summed(before: float, climbing: float, elapsed: float) -> float:
    """m/s: what has summed up of climbing (m/s) `elapsed` s after it came to `before`; `VehicleSpec.safe` ends that and the climbing itself, together."""
    return clamp(before + clamp(climbing, -SLOW, SLOW) * elapsed / SUMMED, -MOST, MOST)
