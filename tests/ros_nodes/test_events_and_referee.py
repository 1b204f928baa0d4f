"""Order of events; judging of episodes."""

import math

import pytest
import torch

from metarl import tasks
from metarl.ros_nodes import readings
from metarl.ros_nodes.events import Event, EventOrder
from metarl.ros_nodes.referee import Referee
from metarl.ros_nodes.rejection import Rejected
from metarl.tasks.arm_reach import ArmReach

SLIDE, REACH = tasks.make("arm_slide"), tasks.make("arm_reach")
SECOND = 1_000_000_000


def event(epoch, sequence):
    return Event(epoch, sequence, 0, 0, 0.0, False, False, 0.0, 1)


def test_events_pass_once_and_in_order():
    order = EventOrder()
    assert order.accept(event(5, 0))  # the first of a trial
    assert not order.accept(event(5, 1))
    for wrong, reason in ((event(5, 1), "duplicate"), (event(5, 0), "duplicate"), (event(5, 3), "gap"), (event(4, 2), "old_epoch"), (event(6, 1), "gap")):
        with pytest.raises(Rejected) as refused:
            order.accept(wrong)
        assert refused.value.reason == reason
    assert not order.accept(event(5, 2))
    assert order.accept(event(6, 0))
    with pytest.raises(Rejected, match="old_epoch: event of trial 5, the present one is 6"):
        order.accept(event(5, 3))
    assert order.accept(event(2, 0))  # a trial that begins after the machine's clock was set back
    assert not order.accept(event(2, 1))
    with pytest.raises(Rejected, match="gap"):
        order.accept(event(6, 1))


def test_whoever_was_started_anew_joins_a_trial_that_is_under_way():
    order = EventOrder(join=True)
    assert order.accept(event(5, 17))
    with pytest.raises(Rejected, match="gap"):
        order.accept(event(5, 19))
    assert not order.accept(event(5, 18))
    with pytest.raises(Rejected, match="gap"):
        order.accept(event(6, 3))
    with pytest.raises(Rejected, match="gap"):
        EventOrder().accept(event(5, 17))


def test_what_the_tasks_need_is_found_out_from_their_functions():
    assert readings.needed_to_act(SLIDE) == ("object_pos", "qpos", "target_pos")
    assert readings.needed_to_judge(SLIDE) == ("object_linvel", "object_pos", "qpos", "target_pos")
    assert readings.needed_to_act(REACH) == ("qpos", "qvel", "target_pos", "tool_pos")
    assert readings.bodies(SLIDE, readings.needed_to_judge(SLIDE)) == {"object": ("linvel", "pos"), "target": ("pos",)}
    assert readings.bodies(REACH, readings.needed_to_act(REACH)) == {"target": ("pos",)}  # the tool is known from the joints


def test_a_goal_must_lie_in_the_tasks_box():
    readings.check_goal(REACH, torch.tensor([0.30, -0.30, 0.50]))  # its corners belong to it
    with pytest.raises(Rejected, match=r"goal_range: y of the goal is -0.310 m, arm_reach allows -0.3 to 0.3 m"):
        readings.check_goal(REACH, torch.tensor([0.30, -0.31, 0.50]))
    with pytest.raises(Rejected, match="goal_range: x of the goal is nan m"):
        readings.check_goal(REACH, torch.tensor([float("nan"), 0.0, 0.3]))
    with pytest.raises(Rejected, match="no_goal: arm_slide sets the goal of its episodes itself"):
        readings.check_goal(SLIDE, torch.tensor([0.5, 0.5, 0.0]))


def test_a_reading_that_no_message_carries_is_named():
    with pytest.raises(ValueError, match="arm_slide: no ROS message carries the reading 'smell'"):
        readings.size(SLIDE, "smell")


def test_tool_pose_and_velocity_from_the_joints():
    """At home; and turned by the base joint at 2 rad/s about the vertical, so that its velocity is 2 x (-y, x)."""
    home, qvel = torch.tensor(REACH.robot.home_qpos), torch.tensor([2.0, 0, 0, 0, 0, 0, 0])
    found = readings.complete(REACH, ("qpos", "tool_pos", "tool_linvel"), {"qpos": home, "qvel": qvel})
    x, y, z = found["tool_pos"][0].tolist()
    assert (x, y) == pytest.approx((0.307, 0.0), abs=2e-3)  # Franka's ready pose
    assert 0.4 < z < 0.6
    assert found["tool_linvel"][0].tolist() == pytest.approx([-2 * y, 2 * x, 0.0], abs=1e-5)


def at(x, y, speed=0.0):
    """True readings with the object there, the target in (0.55, 0.65)."""
    qpos = torch.tensor(SLIDE.robot.home_qpos)
    pos, target = torch.tensor([x, y, 0.03]), torch.tensor([0.55, 0.65, 0.0])
    return {"qpos": qpos, "object_pos": pos, "target_pos": target, "object_linvel": torch.tensor([0.0, speed, 0.0])}


def test_a_trial_of_shots():
    referee = Referee(SLIDE, epoch=9, episodes=2)
    assert referee.begin_episode(at(0.55, 0.05), 5 * SECOND) == Event(9, 0, 0, 0, 0.0, False, False, pytest.approx(0.6), 5 * SECOND)
    with pytest.raises(Rejected, match="wrong_order"):
        referee.begin_episode(at(0.55, 0.05), 6 * SECOND)
    found = referee.judge(torch.zeros(3), torch.zeros(7), at(0.55, 0.5), 8 * SECOND)
    assert found == Event(9, 1, 0, 1, pytest.approx(math.exp(-1)), False, True, pytest.approx(0.15), 8 * SECOND)  # miss 0.15 m
    assert not referee.trial_ended
    assert referee.begin_episode(at(0.55, 0.05), 9 * SECOND).episode == 1
    assert referee.judge(torch.zeros(3), torch.zeros(7), at(0.55, 0.65), 12 * SECOND).reward == pytest.approx(1.0)
    assert referee.trial_ended
    with pytest.raises(Rejected, match="wrong_order"):
        referee.begin_episode(at(0.55, 0.05), 13 * SECOND)


def test_a_decision_is_over_after_its_motion_when_all_is_at_rest_or_the_wait_has_been_long_enough():
    referee = Referee(SLIDE, epoch=9)
    referee.begin_episode(at(0.55, 0.05), 0)
    over = lambda seconds, speed: referee.over(at(0.5, 0.5, speed), round(seconds * SECOND), motion=1.2)  # noqa: E731
    assert not over(1.0, 0.0)  # at rest, but not struck yet
    assert over(1.2, 0.0)
    assert not over(1.3, 0.1)
    assert not over(1.2 + SLIDE.settle_time - 0.01, 0.1)
    assert over(1.2 + SLIDE.settle_time, 0.1)


@pytest.mark.parametrize("now", [-3600.0, 3600.0])
def test_a_decision_in_whose_middle_the_clock_is_set_is_given_its_whole_time_anew(now):
    referee = Referee(SLIDE, epoch=9)
    referee.begin_episode(at(0.55, 0.05), 7200 * SECOND)
    over = lambda seconds: referee.over(at(0.55, 0.05), round((7200 + seconds) * SECOND), motion=1.2)  # noqa: E731
    assert not over(0.6)
    referee.count_anew(round((7200 + now) * SECOND))
    assert not over(now)
    assert not over(now + 0.6)
    assert over(now + 1.2)
    referee.judge(torch.zeros(3), torch.zeros(7), at(0.55, 0.5), round((7200 + now + 1.2) * SECOND))
    referee.begin_episode(at(0.55, 0.05), round((7200 + now + 2) * SECOND))
    assert not over(now + 3)
    assert over(now + 3.2)


def test_time_is_up_after_the_horizon(monkeypatch):
    monkeypatch.setattr(ArmReach, "horizon", 3)
    referee = Referee(REACH, epoch=1)
    qpos = torch.tensor(REACH.robot.home_qpos)
    found = {"qpos": qpos, "qvel": torch.zeros(7), "target_pos": torch.tensor([0.4, 0.0, 0.3])}
    referee.begin_episode(found, 0)
    ends = [referee.judge(torch.zeros(7), qpos, found, i * SECOND).truncated for i in (1, 2, 3)]
    assert ends == [False, False, True]


def test_a_reward_that_is_no_number_is_refused(monkeypatch):
    monkeypatch.setattr(type(SLIDE), "reward", lambda *_: torch.tensor([float("inf")]))
    referee = Referee(SLIDE, epoch=9)
    referee.begin_episode(at(0.55, 0.05), 0)
    with pytest.raises(Rejected, match="not_finite: the reward is inf"):
        referee.judge(torch.zeros(3), torch.zeros(7), at(0.5, 0.5), SECOND)


@pytest.mark.parametrize("action", [torch.tensor([0.0, float("nan"), 0.0]), torch.zeros(2)])
def test_actions_that_are_none_are_refused(action):
    referee = Referee(SLIDE, epoch=9)
    referee.begin_episode(at(0.55, 0.05), 0)
    with pytest.raises(Rejected, match="bad_action"):
        referee.judge(action, torch.zeros(7), at(0.5, 0.5), SECOND)
    assert referee.judge(torch.zeros(3), torch.zeros(7), at(0.5, 0.5), SECOND).sequence == 1
