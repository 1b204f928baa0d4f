"""Commands one after another through the whole guard, as the safety node calls it: an arm's, a car's and a quadrotor's, calm and mad ones in turns.

Late, old and repeated ones, several at once, measurements that cease, are impossible or begin anew, emergency stops, silence: whatever is sent stays inside of
the robot's limits. 10^5 in each test run; `pytest -m learn tests/ros_nodes/test_fuzz_sequences.py` makes it 10^6 for each robot.
"""

from collections import Counter

import numpy as np
import pytest

from metarl import robots
from metarl.ros_nodes.base_guard import SPARE, State
from metarl.ros_nodes.guard import MISSING, Guard
from metarl.ros_nodes.limits import GAP, SLACK, Command, Limits, extremes
from metarl.ros_nodes.rejection import Rejected
from metarl.ros_nodes.vehicle_guard import TOP_SPEED, TOP_TURN, VehicleGuard
from metarl.ros_nodes.workspace import Workspace

SPEC = robots.load_arm("arm7")
ARM = Limits.of(SPEC)
HOME = np.array(SPEC.home_qpos)
DT = 0.01  # s between two set-points
BAD = np.array([np.nan, np.inf, -np.inf, 1e308, -1e308, 1e-308, 1e9])
SHORT = {"arm": 30_000, "car": 35_000, "quadrotor": 35_000}  # in each run of the tests
SEEDS, LONG = range(1, 11), 100_000
AGES = (0, 10**7, 2 * 10**8)  # ns, of what a command was decided on


# ---- an arm -----------------------------------------------------------------------------------------------------------------


class MovingArm:
    """Follows set-points late, and cubic curves to where it is to be held, as its controller would; measured with noise."""

    def __init__(self, rng):
        self.rng, self.qpos, self.qvel = rng, HOME.copy(), np.zeros(7)
        self.follow(HOME, 0.0)

    def follow(self, target, time):
        """Come to rest there in `time` s, or follow it late where that is 0."""
        self.target, self.time, self.begun, self.passed = target, time, (self.qpos, self.qvel), 0.0

    def go_on(self, dt):
        before = self.qpos
        self.passed += dt
        if self.time:
            s, (begin, qvel) = min(self.passed / self.time, 1.0), self.begun
            self.qpos = (1 + 2 * s) * (1 - s) ** 2 * begin + s * (1 - s) ** 2 * self.time * qvel + s**2 * (3 - 2 * s) * self.target
        else:
            self.qpos = before + (self.target - before) * (1 - np.exp(-dt / 0.03))
        self.qvel = (self.qpos - before) / dt

    def measured(self):
        return self.qpos + self.rng.normal(scale=1e-4, size=7), self.qvel + self.rng.normal(scale=5e-3, size=7)


class Sequence:
    """Everything random about one run, drawn in advance, and what came of it."""

    def __init__(self, seed, count, width):
        self.rng = np.random.default_rng(seed)
        rng = self.rng
        self.dt = rng.choice([0.5, 1.0, 1.5, 2.5], count, p=[0.05, 0.85, 0.05, 0.05])  # of a period
        self.age = rng.choice(AGES, count, p=[0.96, 0.02, 0.02])
        self.feed = rng.choice([-1.0, 0.0, 1.0], (count, width)) * (rng.random((count, 1)) < 0.1)
        self.style = rng.choice(["calm", "jerk", "on", "back", "wild", "bad"], count, p=[0.35, 0.15, 0.2, 0.25, 0.03, 0.02])
        self.turns, self.chance = rng.random(count) < 0.02, rng.random(count)
        self.reasons, self.passed, self.moving = Counter(), 0, 0
        self.stamp, self.now, self.kind = 10**9, 0.0, "calm"
        self.late, self.wait = [], 0  # stamps of commands that are on their way, and for how many steps they stay there
        self.last = None  # what was sent before in the same stream: pose, speed, feed, its time (s)
        self.deaf = 0  # steps for which nothing is measured

    def pass_time(self, i, dt):
        """And what may happen meanwhile: an emergency stop and its end, and that nobody measures the robot any more, for a while."""
        self.stamp, self.now = self.stamp + round(dt * 1e9), self.now + dt
        self.kind = self.style[i] if self.turns[i] else self.kind
        self.deaf, chance = max(self.deaf - 1, 0), self.chance[i]
        if 0.5 < chance < 0.501:
            self.held(self.guard.stop("by the test", self.now))
        elif 0.6 < chance < 0.62:
            self.reset()
        elif 0.7 < chance < 0.701:
            self.deaf = 15

    def reset(self):
        """It ends an emergency stop, and nothing else: what is under way goes on, and is guarded."""
        state = self.guard.state
        try:
            self.guard.reset()
        except Rejected as rejected:
            assert state is not State.STOPPED
            assert self.guard.state is state
            self.reasons[rejected.reason] += 1
        else:
            assert state is State.STOPPED
            self.last = None

    def delivered(self, i):
        """Stamps of the commands that come now: one, or none for a while, and then several at once."""
        self.late.append(self.stamp - int(self.age[i]))
        if not self.wait and self.chance[i] > 0.995:
            self.wait = 5 if self.chance[i] < 0.999 else 15  # the longer one is a silence after which the robot is stopped
        self.wait = max(self.wait - 1, 0)
        if self.wait:
            return []
        come, self.late = self.late, []
        return come

    def watch(self):
        stop = self.guard.watch(self.now)
        if stop is not None:
            self.reasons[f"silence: {stop.cause.reason}"] += 1
            self.held(stop.command)


class ArmRun(Sequence):
    def __init__(self, seed, count):
        super().__init__(seed, count, 7)
        self.box = Workspace(SPEC, np.full(3, -9.0), np.full(3, 9.0))
        middle = self.box.tool_position(HOME)
        self.box.lower, self.box.upper = middle - 0.25, middle + 0.25
        self.arm, self.guard = MovingArm(self.rng), Guard(ARM)
        self.before = HOME
        self.even = True
        self.hurried = self.gentle = self.judged = 0
        self.ahead = np.zeros(7)  # s by which set-points have moved faster than the joints can
        for i in range(count):
            self.step(i)

    def step(self, i):
        self.guard.workspace = self.box if i // 500 % 2 else None
        dt = DT * self.dt[i]
        self.pass_time(i, dt)
        self.ahead = np.maximum(self.ahead - dt, 0.0)
        self.arm.go_on(dt)
        if not self.deaf:
            self.measure(self.chance[i] < 0.01)
        self.watch()
        for stamp in self.delivered(i):
            self.say(i, stamp)

    def measure(self, spike):
        """Or something is said of the joints that cannot be."""
        if spike:  # nothing of it counts
            with pytest.raises(Rejected, match="too_fast"):
                self.guard.measure(self.stamp, self.arm.qpos, self.rng.choice([-1, 1], 7) * 10.0 ** self.rng.uniform(0.7, 12.0, 7), self.now)
            return
        self.pose, self.speed = self.arm.measured()
        self.guard.measure(self.stamp, self.pose, self.speed, self.now)

    def wanted(self):
        """Where somebody wants the joints (7,): calmly further, jerking, on and on, back, somewhere else, or nowhere at all."""
        rng, before = self.rng, self.before
        if self.kind == "wild":
            return self.pose + rng.normal(scale=rng.choice([0.01, 0.1, 1.0]), size=7)
        if self.kind == "bad":
            bad = before.copy()
            bad[rng.integers(7)] = rng.choice(BAD)
            return bad
        way = before - HOME
        part = {"calm": 0.3 * np.sin(before * 20 + self.pose), "jerk": 0.99 * np.sign(rng.random(7) - 0.5), "on": 0.9 * np.sign(way + 1e-9)}
        part["back"] = np.clip(-way, -0.9, 0.9)
        beyond = 0.1 * (rng.random() < 0.03)
        return np.clip(before + part[self.kind] * ARM.qvel * DT, ARM.lower - beyond, ARM.upper + beyond)

    def say(self, i, stamp):
        given = Command(stamp, np.array([DT]), self.wanted()[None], (ARM.qvel * self.feed[i])[None])
        since, tracking, ahead = (stamp - self.guard._last_stamp) * 1e-9, self.guard.state is State.TRACKING, self.guard._ahead
        try:
            sent = self.guard.judge(given, self.now)
        except Rejected as rejected:
            self.reasons[rejected.reason] += 1
            try:
                self.held(self.guard.hold(stamp, self.now))
            except Rejected:  # where the robot is, nobody knows: nothing is sent
                self.reasons["nothing sent"] += 1
        else:
            before, self.even = self.even or not tracking, self.guard._ahead < 1e-9 and (ahead < 1e-9 or not tracking)
            self.forwarded(sent, since, tracking, self.even and before)

    def held(self, command):
        """A hold stays inside of the positions, and is gentle where all joints have room for it."""
        self.last = None
        if command is None:
            return
        assert ((command.qpos >= ARM.lower) & (command.qpos <= ARM.upper)).all()
        self.before = self.pose
        self.arm.follow(command.qpos[0], float(command.time[0]))
        way = np.abs(self.speed) * command.time
        if self.deaf or not ((self.pose - way > ARM.lower) & (self.pose + way < ARM.upper)).all():
            return
        motion = np.stack([self.pose, command.qpos[0]]), np.stack([self.speed, command.qvel[0]])
        *_, acceleration = (x[1] for x in extremes(np.array([1.0, 1.0 + command.time[0]]), *motion, self.pose))
        assert (acceleration <= ARM.qacc * (1 + 1e-5)).all()
        self.gentle += 1

    def forwarded(self, sent, since, tracking, even):
        """Where it leads, how fast, and how suddenly, is what the joints can do, as long as it does not begin too near to a limit for its speed.

        How suddenly can be told by the stamps where the stream is `even`, in step with the robot's clock.
        """
        (qpos,), (fed,) = sent.qpos, sent.qvel
        time = (since if since >= MISSING * DT else min(DT, since)) if tracking else DT
        where, pace, was_fed, given = self.last if tracking else (self.pose, self.speed, np.zeros(7), DT)
        assert sent.time[0] == pytest.approx(max(time, DT))
        self.ahead = (self.ahead if tracking else 0) + np.abs(qpos - where) / ARM.qvel
        assert (self.ahead <= (SPARE + 2) * DT).all()
        pace = pace if not tracking or since < GAP * given else np.zeros(7)
        found = (qpos - where) / time
        assert ((qpos >= ARM.lower - 2 * SLACK) & (qpos <= ARM.upper + 2 * SLACK)).all()
        self.judged += even
        if even:
            end = where + 0.5 * pace * np.abs(pace) / ARM.qacc
            inside = (np.minimum(end, where) >= ARM.lower - 1e-5) & (np.maximum(end, where) <= ARM.upper + 1e-5)
            self.hurried += int((~inside).sum())
            assert (np.abs(found) <= ARM.qvel + 2 * SLACK / time)[inside].all()
            assert (np.abs(found - pace) <= ARM.qacc * time + 4 * SLACK / time)[inside].all()
            assert (np.abs(fed - was_fed) <= ARM.qacc * time + 2 * SLACK).all()
        assert self.guard.workspace is None or self.box.outside(qpos) <= self.box.outside(self.pose) + 1e-9
        self.last, self.before = (qpos, found, fed, float(sent.time[0])), qpos
        self.arm.follow(qpos, 0.0)
        self.passed += 1
        self.moving += bool((np.abs(self.arm.qvel) > 0.1).any())

    def check(self):
        """The run had something of everything."""
        assert self.passed > 0.4 * len(self.dt)
        assert self.moving > 0.3 * self.passed
        assert self.judged > 0.5 * self.passed
        assert self.gentle > 0.02 * len(self.dt)
        assert self.hurried < 0.05 * 7 * self.passed
        known = {"velocity", "not_finite", "position", "far_from_pose", "workspace", "out_of_order", "duplicate", "stale_command", "future", "stale_state"}
        assert set(self.reasons) >= known | {"stopped", "before_reset", "not_stopped", "silence: stale_command", "nothing sent"}, self.reasons


# ---- vehicles ---------------------------------------------------------------------------------------------------------------


class VehicleRun(Sequence):
    """A vehicle that is measured anywhere and anyhow, as a quadrotor may be in a storm."""

    def __init__(self, name, seed, count):
        self.robot = robots.load(name)
        self.lower, self.upper = np.array(self.robot.command_limits).T
        super().__init__(seed, count, len(self.lower))
        self.guard, self.pos, self.sent = VehicleGuard(self.robot), np.zeros(3), np.array(self.robot.rest)
        self.ahead = np.zeros(len(self.lower))  # s by which the command has changed faster than its slew limits
        self.cut = 0
        for i in range(count):
            self.step(i)

    def step(self, i):
        dt = self.robot.control_dt * self.dt[i]
        self.pass_time(i, dt)
        self.ahead = np.maximum(self.ahead - dt, 0.0)
        if not self.deaf:
            self.measure(i)
        self.watch()
        for stamp in self.delivered(i):
            self.say(i, stamp)
        following = self.guard.follow(self.now)
        if following is not None:
            self.held(following)

    def measure(self, i):
        turned = self.rng.normal(size=4) * (1.0, 0.3, 0.3, 0.3)
        twist = self.rng.normal(size=6) * (20.0 if self.chance[i] < 0.01 else 1.0)
        pose = np.concatenate([self.pos + twist[:3] * 0.01, turned / np.linalg.norm(turned)])
        if np.linalg.norm(twist[:3]) > TOP_SPEED or np.linalg.norm(twist[3:]) > TOP_TURN:  # nothing of it counts
            with pytest.raises(Rejected, match="too_fast"):
                self.guard.measure(self.stamp, pose, twist, self.now)
            return
        self.pos = pose[:3]
        self.guard.measure(self.stamp, pose, twist, self.now)

    def wanted(self, i):
        """(C,) where somebody wants the command: near what it is, at an end, beyond one, or nowhere at all."""
        if self.kind == "bad":
            bad = self.sent.copy()
            bad[self.rng.integers(len(bad))] = self.rng.choice(BAD)
            return bad if self.chance[i] < 0.9 else bad[1:]
        if self.kind == "wild":
            return self.rng.normal(size=len(self.sent)) * 10.0 ** self.rng.uniform(-2, 6)
        if self.kind == "calm":
            return self.sent + 0.01 * self.feed[i] * (self.upper - self.lower)
        return np.where(self.feed[i] > 0, self.upper, np.where(self.feed[i] < 0, self.lower, self.robot.rest if self.kind == "back" else self.upper))

    def say(self, i, stamp):
        wanted = self.wanted(i)
        given = Command(stamp, np.array([self.robot.control_dt]), wanted[None], np.zeros((1, len(wanted))))
        try:
            sent = self.guard.judge(given, self.now)
        except Rejected as rejected:
            self.reasons[rejected.reason] += 1
            self.held(self.guard.hold(stamp, self.now))
        else:
            self.passed += 1
            self.moving += bool((np.abs(sent.qpos[0] - self.sent) > 1e-6).any())
            self.cut += bool(self.guard.cut)
            self.held(sent)

    def held(self, command):
        """Whatever is sent is a command that this vehicle can be given, and changes no faster than its motors can, but for what comes late."""
        (now,) = command.qpos
        assert ((now >= self.lower) & (now <= self.upper)).all()
        self.ahead += np.abs(now - self.sent) / self.robot.slew_limits
        assert (self.ahead <= (SPARE + 2) * self.robot.control_dt + 1e-9).all()
        self.sent = now

    def check(self):
        """The run had something of everything."""
        assert self.passed > 0.5 * len(self.dt)
        assert self.moving > 0.1 * self.passed
        assert self.cut > 0.05 * self.passed
        known = {"not_finite", "wrong_shape", "out_of_order", "stale_command", "future", "stale_state"}
        assert set(self.reasons) >= known | {"stopped", "before_reset", "not_stopped", "silence: stale_command"}, self.reasons


# ---- the runs ---------------------------------------------------------------------------------------------------------------


def run_of(robot, seed, count):
    run = ArmRun(seed, count) if robot == "arm" else VehicleRun(robot, seed, count)
    print(f"{count} commands, {run.passed} passed, {run.moving} of them in motion; refused {dict(run.reasons)}")
    run.check()


@pytest.mark.parametrize("robot", SHORT)
def test_whatever_comes_one_after_another_what_is_sent_stays_inside(robot):
    run_of(robot, 0, SHORT[robot])


@pytest.mark.learn
@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("robot", SHORT)
def test_a_million_commands_one_after_another(robot, seed):
    run_of(robot, seed, LONG)
