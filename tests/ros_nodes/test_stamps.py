"""When stamps that fall are believed; no message is sent."""

import numpy as np
import pytest

from metarl import robots
from metarl.ros_nodes.base_guard import State
from metarl.ros_nodes.guard import Guard
from metarl.ros_nodes.limits import Command, Limits
from metarl.ros_nodes.rejection import Rejected
from metarl.ros_nodes.stamps import CONSISTENT, LEAP, Fallen, Leaps

ARM7 = robots.load_arm("arm7")
HOME, STILL = np.array(ARM7.home_qpos), np.zeros(7)
MS = 1_000_000


def test_as_many_in_a_row_as_it_takes_are_believed_and_late_ones_are_not():
    fallen = Fallen()
    assert [fallen.set_back(5 + i) for i in range(10)] == [False] * 9 + [True]
    for i in range(5 * CONSISTENT):  # two sources on one topic: every other one is the newest
        assert not fallen.set_back(5 + i)
        fallen.goes_on()
    assert not any(fallen.set_back(5) for _ in range(5 * CONSISTENT))  # the same one again and again
    assert not any(fallen.set_back(500 - i) for i in range(5 * CONSISTENT))  # an older one each time


def test_a_source_that_sends_each_stamp_twice_is_believed_again_too():
    fallen = Fallen()
    assert [fallen.set_back(5 + i // 2) for i in range(2 * CONSISTENT - 1)] == [False] * (2 * CONSISTENT - 2) + [True]


def test_only_what_is_stamped_too_late_for_the_time_that_has_passed_leaps():
    leaps, now = Leaps(), 50.0

    def hear(stamp, held_up=0.0):
        return leaps.set_ahead(round(stamp * 1e9), now + held_up)

    for k in range(5 * CONSISTENT):  # each 10 ms
        now += 0.01
        assert not hear(900 + now)
        assert not hear(900 + now, held_up=2.0 * (k % 3 == 0))  # then in time again
    now += 60.0
    assert not hear(900 + now)  # after silence
    assert not hear(900 + now + 0.9 * LEAP)
    now += 0.01
    assert hear(902 + now)
    now += 0.01
    assert not hear(902 + now)  # from there it goes on


def take(guard, stamp, now):
    """Why a joint state was refused, or ""."""
    try:
        guard.measure(stamp, HOME, STILL, now)
    except Rejected as rejected:
        return rejected.reason
    return ""


def set_point(stamp):
    return Command(stamp, np.array([0.01]), HOME[None], STILL[None])


def test_the_guard_holds_the_robot_until_a_clock_that_was_set_back_is_believed():
    """A joint state each 10 ms; the clock falls from 100 s to 5 s, and a command of the old clock is still under way."""
    guard = Guard(Limits.of(ARM7))
    old, new = 100_000 * MS, 5_000 * MS
    assert take(guard, old, 0.0) == ""
    guard.judge(set_point(old), 0.0)
    said = [take(guard, new + 10 * i * MS, 0.01 * (i + 1)) for i in range(CONSISTENT)]
    assert said == ["stale_state"] * (CONSISTENT - 1) + ["clock_set_back"]
    stop = guard.watch(0.09 + 0.015)  # nothing was believed for as long as a state may be old, and nothing was commanded
    assert stop is not None
    assert guard.state is State.HOLDING
    now = 0.01 * CONSISTENT + 0.005
    measured = new + 10 * (CONSISTENT - 1) * MS
    for stamp, reason in ((old + 1, "future"), (new, "before_reset")):
        with pytest.raises(Rejected, match=reason):
            guard.judge(set_point(stamp), now)
    guard.judge(set_point(measured), now)
    assert take(guard, measured + 10 * MS, now + 0.01) == ""


def test_a_command_of_the_new_clock_is_answered_by_a_stop_while_the_guard_still_doubts_it():
    """Not passed over as an old one would be: whoever gave it waits for what becomes of it."""
    guard = Guard(Limits.of(ARM7))
    take(guard, 100_000 * MS, 0.0)
    guard.judge(set_point(100_000 * MS), 0.0)
    with pytest.raises(Rejected, match="out_of_order"):
        guard.judge(set_point(5_000 * MS), 0.0)
    take(guard, 5_000 * MS, 0.01)
    with pytest.raises(Rejected, match="stale_state: a command stamped 5000000000 ns, after one stamped 100000000000 ns, while the stamps of what"):
        guard.judge(set_point(5_000 * MS), 0.01)


def test_a_clock_that_is_set_back_under_a_fast_robot_begins_its_stream_of_set_points_anew():
    """A joint state each millisecond: the new clock is believed before anything counts as silent."""
    guard = Guard(Limits.of(ARM7))
    old, new = 100_000 * MS, 5_000 * MS
    take(guard, old, 0.0)
    guard.judge(set_point(old), 0.0)
    assert [take(guard, new + i * MS, 0.001 * (i + 1)) for i in range(CONSISTENT)][-1] == "clock_set_back"
    passed = guard.judge(set_point(new + (CONSISTENT - 1) * MS), 0.001 * CONSISTENT)
    np.testing.assert_array_equal(passed.qpos, HOME[None])


def test_a_clock_that_is_set_ahead_under_a_fast_robot_begins_its_stream_of_set_points_anew():
    """By the stamps alone the joints would have stood still for long, and the next set-point could stop them at once."""
    guard, speed = Guard(Limits.of(ARM7)), np.full(7, 0.2)
    for k in range(20):
        pose = HOME + k * 0.01 * speed
        guard.measure(10 * k * MS, pose, speed, 0.01 * k)
        guard.judge(Command(10 * k * MS, np.array([0.01]), (pose + 0.01 * speed)[None], speed[None]), 0.01 * k)
    stamp, now, pose = 5_000 * MS, 0.2, HOME + 0.2 * speed
    with pytest.raises(Rejected, match="clock_set_ahead: measured at 5000000000 ns after 190000000 ns, which is more than the time that has passed"):
        guard.measure(stamp, pose, speed, now)
    with pytest.raises(Rejected, match="before_reset"):
        guard.judge(set_point(199 * MS), now)
    sent = guard.judge(Command(stamp, np.array([0.01]), pose[None], STILL[None]), now)  # stop at once
    assert (np.abs((sent.qpos[0] - pose) / 0.01 - speed) <= guard.limits.qacc * 0.01 + 1e-3).all()


@pytest.mark.parametrize("by", [-95_000, 5_000])
def test_an_encoder_that_jumps_while_the_clock_is_set_is_not_taken_for_a_step_of_the_clock(by):
    guard, now = Guard(Limits.of(ARM7)), 0.0
    take(guard, 100_000 * MS, now)
    with pytest.raises(Rejected, match=r"jump: \w+ is 0\.500 rad"):
        for i in range(CONSISTENT):
            now += 0.01
            try:
                guard.measure((100_000 + by + 10 * i) * MS, HOME + 0.5, STILL, now)
            except Rejected as rejected:
                if rejected.reason != "stale_state":
                    raise
    assert guard.state is State.STOPPED


def test_where_stamps_are_simulated_they_may_leap():
    guard = Guard(Limits.of(ARM7), clock_may_leap=True)
    assert [take(guard, 100_000 * k * MS, 0.01 * k) for k in range(5)] == [""] * 5
