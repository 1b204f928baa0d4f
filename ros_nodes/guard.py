"""The last decision before the motors: forward a command, or brake and hold the pose; and stop when somebody falls silent. Plain Python, no ROS.

A trajectory of several points is a motion with an end of its own: until then nobody needs to say anything. A trajectory of one point is a
set-point of a fast control loop, which must go on talking: when it is silent for `command_timeout`, the robot brakes and holds. A set-point that would
change the joints' speed faster than they can is cut to what they can, for a policy that begins at full speed would otherwise never move; the rest is refused.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from metarl.ros_nodes.base_guard import BaseGuard, Measured, State, Stop
from metarl.ros_nodes.limits import Array, Command, Limits, Pace, check_form, check_set_point, check_trajectory, gentle_time, reachable, sample, step_of
from metarl.ros_nodes.rejection import Rejected
from metarl.ros_nodes.workspace import Workspace

HOLD_TIME = 0.1  # s given to come to rest; longer where the joints may not brake as hard
SAG = 0.02  # rad or m by which a load may draw a joint away from where the last motion ended: the controller begins the next one there
HELD_BAND = 0.1  # rad or m that a load may draw a joint away from the pose that is held; further away, somebody has moved it
TOO_FAST = 1.5  # times its speed limit, at which no joint moves: braking from there would lead it where it never was
OVERLOAD_TIME = 0.1  # s that a joint may push harder than its limit
# rad or m: how far a trajectory may lead a joint while all of them stand still, and what is no standing still; in simulation, hands that are in the way of
# doors included, it comes to 0.05. And s by which a controller may be late
LED, STILL, LATE = 0.1, 0.01, 0.3
MISSING = 1.5  # times its own time after the one before, at which others are missing before a set-point
UNNUMBERED = (0, 2**64 - 1)  # how middlewares say that they do not number messages
LOST = 10  # messages of one publisher, one after the other, that may be lost on the way
TAKEOVER = 0.5  # s of silence after which another publisher may speak: the one before was started anew


@dataclass
class Guard(BaseGuard):
    """Judges commands, one after another, and watches over what is being carried out.

    Attributes beside those of BaseGuard:
        limits: of the robot.
        reach: rad, how far from the measured pose a command may begin, or a set-point lead it.
        rest_speed: rad/s, below which the robot may begin a trajectory that is planned from rest.
        plan_timeout: s, largest age of what a trajectory was planned on.
        workspace: where the tool may be; None: anywhere.
    """

    limits: Limits
    reach: float = 0.25
    rest_speed: float = 0.05
    plan_timeout: float = 10.0
    workspace: Workspace | None = None
    _forget: bool = False  # after a reset: the next joint state begins anew
    _active: Command | None = None  # what is being carried out
    _wanted: Command | None = None  # and what was asked for
    _pace: Pace | None = None  # of the set-points, where it is one of these
    _start: tuple[Array, float] | None = None  # pose where that began, and when (s)
    _held: Command | None = None
    _rests_at: float = 0.0  # s, when it should be at rest there
    _said: tuple[Command, float] | None = None  # the last command, and when it began (s): the controller goes on from there
    _overload: float | None = None  # s, since when a joint pushes too hard
    _begun: int | None = None  # ns, when the trajectory that is carried out began, by the clock of what is measured
    _stood: Measured | None = None  # where the joints have stood since

    source = "joint state"
    answers = ("planned on", "was planned on")

    # ---- what is measured -------------------------------------------------------------------------------------------------

    def measure(self, stamp: int, qpos: Array, qvel: Array, now: float, effort: Array | None = None) -> None:
        """Take in a joint state; one that repeats the last stamp is no sign that the robot is still being measured.

        Args:
            stamp: ns, of the measurement.
            qpos: (J,) rad.
            qvel: (J,) rad/s.
            now: s, on the clock of `arrival`.
            effort: (J,) N·m, where it is measured.

        Raises:
            Rejected: too_fast, where no joint can move as it says; stale_state, where a newer one is here; jump, where the pose has changed faster than
                the joints can move; does_not_follow, where they stand still while a trajectory goes on; clock_set_back or clock_set_ahead, as `_take`
                says: this one is kept.
        """
        self._check_speed(qvel)
        last, clock_set = self._take(stamp, qpos, qvel, now)
        if self._forget:
            self._forget, self._since, self._last_stamp = False, stamp, -1
        self._watch_effort(effort, now)
        if last is not None:
            self._watch_jump(last)
        if clock_set is not None:
            self._begun = None
        self._watch_following(last)
        if clock_set is not None:
            raise clock_set

    def _check_speed(self, qvel: Array) -> None:
        possible = TOO_FAST * self.limits.qvel + self.rest_speed
        if not (np.abs(qvel) <= possible).all():
            j = int(np.argmin(np.abs(qvel) <= possible))
            name, unit = self.limits.joint_names[j], self.limits.unit(j)
            raise Rejected("too_fast", f"{name} moves at {qvel[j]:.4g} {unit}/s, it can do {self.limits.qvel[j]:.4g} {unit}/s")

    def _watch_effort(self, effort: Array | None, now: float) -> None:
        limit = self.limits.effort
        if effort is None or limit is None or (np.abs(effort) <= limit * (1 + 1e-3)).all():
            self._overload = None
        elif self._overload is None:
            self._overload = now

    def _watch_jump(self, last: Measured) -> None:
        assert self.measured is not None
        moved = np.abs(self.measured.qpos - last.qpos)
        possible = 0.5 * self.reach + TOO_FAST * self.limits.qvel * (self.measured.stamp - last.stamp) * 1e-9
        if (moved <= possible).all():
            return
        self._since, self._held = last.stamp + 1, None
        j = int((moved - possible).argmax())
        jump = Rejected("jump", f"{self.limits.joint_names[j]} is {moved[j]:.3f} {self.limits.unit(j)} from where it was at the last joint state")
        if not self.may_jump:  # where the robot is, nobody knows; but what is being carried out can still be braked, by `stop`
            self._lose(jump)
        else:
            self._said = None
            if self.state is not State.STOPPED:
                self._rest(State.IDLE)
        raise jump

    def _watch_following(self, last: Measured | None) -> None:
        """A measurement that stands still in the middle of a trajectory, or an arm whose motors are off; its controller goes on in any case.

        Where the `last` measurement was long before, the arm may have gone and come back: a simulation that waits for nobody ends a motion in no time.
        """
        measured, stood = self.measured, self._stood
        assert measured is not None
        if self.state is not State.MOVING or self._active is None or self._start is None or self._begun is None:
            self._stood = None
            return
        unseen = last is None or measured.stamp - last.stamp > LATE * 1e9
        if stood is None or unseen or stood.stamp < self._begun or (np.abs(measured.qpos - stood.qpos) > STILL).any():
            self._stood = measured
            return
        since, now = (stood.stamp - self._begun) * 1e-9, (measured.stamp - self._begun) * 1e-9
        if now - since <= LATE:
            return
        before, after = sample(self._active, self._start[0], np.array([since, now - LATE]))[0]
        led = np.abs(after - before)
        if (led > LED).any():
            j = int(led.argmax())
            text = f"{self.limits.joint_names[j]} should have moved {led[j]:.3f} {self.limits.unit(j)}, and all joints stand still"
            self._lose(found := Rejected("does_not_follow", text))
            raise found

    # ---- commands ---------------------------------------------------------------------------------------------------------

    def judge(self, command: Command, now: float) -> Command:
        """The command, if it may be forwarded; a set-point that changes faster than the joints can, as near to it as they can come.

        Raises:
            Rejected: stopped, duplicate, out_of_order, before_reset, future, stale_command, stale_state, effort, far_from_pose, moving, workspace, or
                as the checks of `limits`.
        """
        accepted, measured = self._check(command, now)
        self._last_stamp, self._wanted = command.stamp, command
        self._active, self._start, self._held, self._said = accepted, (measured.qpos, now), None, (accepted, now)
        self._begun, self._stood = measured.stamp, measured
        self.state = State.TRACKING if len(command.time) == 1 else State.MOVING
        return accepted

    def hold(self, stamp: int, now: float) -> Command:
        """The command that brings the robot to rest where it is, as fast as its accelerations allow, and inside of the position limits.

        Each joint brakes evenly, so it comes to rest half its speed times the braking time further on; nearer only where a limit is nearer.
        A pose that is being held is not measured again, for a load would pull the robot down step by step; unless the robot is no longer there, or moves
        when it should be at rest. On the way there, one that goes at once where it is told would be led faster and faster.
        Fingers go on doing what they do: what is in the hand stays there.

        Raises:
            Rejected: stale_state, where there is no pose to hold: then nothing must be sent.
        """
        qpos, qvel = self._where(now)
        time = max(HOLD_TIME, float((np.abs(qvel) / self.limits.qacc).max()))
        rest = np.clip(qpos + 0.5 * qvel * time, self.limits.lower, self.limits.upper)
        held, braking = self._held if self.state in (State.HOLDING, State.STOPPED) else None, now < self._rests_at
        if held is not None and (braking or ((np.abs(qvel) <= self.rest_speed).all() and (np.abs(held.qpos[0] - rest) <= HELD_BAND).all())):
            rest = held.qpos[0]
        else:
            self._rests_at = now + time
        time = gentle_time(self.limits, qpos, qvel, rest, time)
        self._held = Command(stamp, np.array([time]), rest[None], np.zeros_like(rest)[None], self._fingers(now))
        self._said = self._held, now
        self._rest(State.STOPPED if self.state is State.STOPPED else State.HOLDING)
        return self._held

    def _fingers(self, now: float) -> Array | None:
        """(1, G) N with which they push by now; None where nobody has said anything."""
        command, began = self._said or (None, now)
        if command is None or command.gripper is None:
            return None
        s = min(int(np.searchsorted(command.time, now - began)), len(command.time) - 1)
        return command.gripper[s : s + 1]

    def _where(self, now: float) -> tuple[Array, Array]:
        """Pose and velocity to brake from: as measured, or where what is carried out should be by now."""
        try:
            measured = self.fresh(now)
        except Rejected:
            if self._active is None or self._start is None:
                raise
            if len(self._active.time) == 1 and self._pace is not None:
                return self._pace.qpos, self._pace.speed
            qpos, qvel = sample(self._active, self._start[0], np.array([now - self._start[1]]))
            return qpos[0], qvel[0]
        return measured.qpos, measured.qvel

    def _check(self, command: Command, now: float) -> tuple[Command, Measured]:
        self._check_order(command)
        measured = self.fresh(now)
        self._check_effort(now)
        self._check_age(command, measured, self.command_timeout if len(command.time) == 1 else self.plan_timeout)
        check_form(self.limits, command)
        self._check_reach(command, measured)
        if len(command.time) == 1:
            # a stream whose clock was set begins anew
            tracking = self.state is State.TRACKING and self._active is not None and self._since <= self._active.stamp < command.stamp
            if tracking:
                command = self._unhurried(command)
            check_set_point(self.limits, command, measured.qpos, self._wanted if tracking else None)
            pace = self._pace if tracking and self._pace is not None else Pace.at(measured.qpos, measured.qvel, command)
            if not tracking:  # a stream that begins where the robot is, begins with it
                self._judged, self._ahead = pace.stamp, 0.0
            possible, self._pace = reachable(self.limits, command, pace, self._step(step_of(command, pace), measured))
            if possible is not command:
                self._check_reach(possible, measured)
            command = possible
        else:
            if not (np.abs(measured.qvel) <= self.rest_speed).all():
                j = int(np.abs(measured.qvel).argmax())
                raise Rejected("moving", f"{self.limits.joint_names[j]} moves at {measured.qvel[j]:.3f} {self.limits.unit(j)}/s, a trajectory begins at rest")
            check_trajectory(self.limits, command, self._begins(measured))
        if self.workspace is not None:
            self.workspace.check(command, measured.qpos)
        return command, measured

    def _unhurried(self, command: Command) -> Command:
        """A set-point before which others are missing, in as much time as they would have taken: else the joints would stop and start again at each.

        By a simulation's stamps nobody can tell; where its time stands still between commands, one that is given more would make it late for the next.
        """
        assert self._active is not None
        passed = (command.stamp - self._active.stamp) * 1e-9
        return command if self.clock_may_leap or passed < MISSING * command.time[0] else command._replace(time=np.array([passed]))

    def _begins(self, measured: Measured) -> Array:
        """(J,) where a trajectory begins: for a controller, where the one before ended, as long as the robot is held there."""
        if self._said is not None and (np.abs(self._said[0].qpos[-1] - measured.qpos) <= SAG).all():
            return self._said[0].qpos[-1]
        return measured.qpos

    def _check_reach(self, command: Command, measured: Measured) -> None:
        far = np.abs(command.qpos[0] - measured.qpos)
        if not (far <= self.reach).all():
            j = int(far.argmax())
            unit = self.limits.unit(j)
            text = f"{self.limits.joint_names[j]} is {far[j]:.3f} {unit} from where the command begins, allowed are {self.reach:.3f} {unit}"
            raise Rejected("far_from_pose", text)

    def _check_effort(self, now: float) -> None:
        if self._overload is not None and now - self._overload > OVERLOAD_TIME:
            raise Rejected("effort", "a joint has pushed harder than its limit")

    def follow(self, now: float) -> Command | None:
        """What belongs to a stop that is under way: nothing, for an arm brakes by one command; a vehicle needs many."""
        return None

    def at_rest(self, now: float) -> bool:
        """Whether nothing more needs to be sent for the arm to come to rest: the controller has the whole of a braking or of a trajectory."""
        return self.state is not State.TRACKING

    # ---- watching ---------------------------------------------------------------------------------------------------------

    def watch(self, now: float) -> Stop | None:
        """What must be done because somebody has fallen silent or a joint pushes too hard; None almost always. Call it often."""
        if self.state is State.MOVING and self._active is not None and self._start is not None and now - self._start[1] > self._active.time[-1]:
            self._rest(State.IDLE)
        if self.state not in (State.MOVING, State.TRACKING):
            return None
        assert self._start is not None
        try:
            self._check_effort(now)
        except Rejected as effort:
            assert self._overload is not None
            return self._stop(effort, now - self._overload, now)
        try:
            measured = self.fresh(now)
        except Rejected as stale:
            return self._stop(stale, now - (self.measured.arrival if self.measured is not None else self._start[1]), now)
        silent = now - self._start[1]
        if self.state is State.TRACKING and silent > self.command_timeout:
            text = f"no command for {silent:.3f} s, allowed are {self.command_timeout:.3f} s, in a control loop last measured at {measured.stamp} ns"
            return self._stop(Rejected("stale_command", text), silent, now)
        return None

    def stop(self, cause: str, now: float) -> Command | None:
        """Emergency stop: brake, hold, and refuse everything until `reset`. The command that does it; None where there is no pose to hold."""
        already = self.state is State.STOPPED
        try:
            command = self.hold(max(self._last_stamp, 0), now)
        except Rejected:
            command = None
        self._rest(State.STOPPED)
        if not already:
            self.stop_cause = cause
        return command

    def reset(self) -> None:
        """End an emergency stop and forget all that was measured; commands planned before the next joint state are refused, whatever the clock says.

        Raises:
            Rejected: not_stopped: nothing has changed.
        """
        self._check_stopped()
        self.measured, self._held, self.stop_cause, self._overload, self._forget, self._lost = None, None, "", None, True, False
        self._rest(State.IDLE)

    def _stop(self, cause: Rejected, waited: float, now: float) -> Stop:
        try:
            return Stop(self.hold(max(self._last_stamp, 0), now), cause, waited)
        except Rejected:
            self._rest(State.HOLDING)
            return Stop(None, cause, waited)

    def _rest(self, state: State) -> None:
        self.state, self._active, self._start = state, None, None


class Speakers:
    """Lets one publisher at a time speak: a second one is a mistake that nobody sees in the commands themselves.

    Each publisher numbers its messages, so that two who speak in turns are known by numbers that fall; ones that are left out were lost, e.g. while
    this process was held up. One that was killed is known to ROS for many seconds more, but silent: after TAKEOVER another one may speak in its place, as
    long as nobody goes on where it has ended. Where the middleware numbers nothing, only names tell.
    """

    def __init__(self) -> None:
        self._number, self._spoke = 0, float("-inf")
        self._ended: int | None = None  # number at which the one ended whose place another one has taken

    def hear(self, number: int | None, now: float) -> None:
        """Take note of a message's number.

        Raises:
            Rejected: two_publishers.
        """
        if number is None or number in UNNUMBERED:
            return
        falls, silent = number <= self._number, now - self._spoke
        resumes = self._ended is not None and number == self._ended + 1 != self._number + 1
        if falls:
            self._ended = self._number
        self._number, self._spoke = number, now
        if resumes or (falls and silent < TAKEOVER):
            raise Rejected("two_publishers", "two publishers speak on the command topic")

    @staticmethod
    def check(nodes: Iterable[str], topic: str) -> None:
        """Refuse where nodes of different names publish on a topic; of two with the same name, one may be dead.

        Raises:
            Rejected: two_publishers.
        """
        names = sorted(set(nodes))
        if len(names) > 1:
            raise Rejected("two_publishers", f"{' and '.join(names)} publish on {topic}")


class Button:
    """The emergency stop on its topic, where several may speak: what somebody has pressed nobody else releases.

    ROS does not tell who has sent a message, but each publisher numbers its own, so that the next number is of the same one. Where that may be either of two,
    it stays pressed; who is alone on the topic releases it in any case.
    """

    def __init__(self) -> None:
        self._said: list[tuple[int, bool]] = []  # last number of each publisher, and whether it is pressed
        self._heard: deque[tuple[int, int]] = deque(maxlen=30)  # numbers and stamps of messages that may come again, by another subscription

    @property
    def pressed(self) -> bool:
        """Whether anybody holds it."""
        return any(pressed for _, pressed in self._said)

    def hear(self, pressed: bool, number: int | None, stamp: int, publishers: int) -> bool:
        """Take note of a message; True where the button was not pressed before it, and is now.

        Args:
            pressed: what it says.
            number: that its publisher gave it; None where the middleware gives none.
            stamp: ns, when it was sent.
            publishers: how many there are on the topic.
        """
        number, was_pressed = number if number is not None and number not in UNNUMBERED else 0, self.pressed
        if number and (number, stamp) in self._heard:
            return False
        self._heard.append((number, stamp))
        if publishers <= 1:
            self._said.clear()
        lost = LOST if len(self._said) >= publishers else 1  # one that was never heard may begin with any number
        before = [said for said in self._said if 0 < number - said[0] <= lost]
        if before:  # of two, the one that is released: then the other one stays pressed
            self._said.remove(min(before, key=lambda said: (number - said[0], said[1])))
        self._said.append((number, pressed))
        return self.pressed and not was_pressed
