import math

import pytest
import torch

from metarl import tasks
from metarl.robots.kinematics import tool_pose
from metarl.robots.spec import interpolate
from metarl.tasks.arm_slide import ASIDE, OBJECT, SPEEDS, TURN, ready_qpos
from metarl.tasks.batched_env import BatchedEnv
from metarl.tasks.strike import AT_SPEED, DT

TASK = tasks.make("arm_slide")


def readings(num: int, target=(0.55, 0.65, 0.0)):
    return {
        "object_pos": torch.tensor([*OBJECT, 0.027]).expand(num, -1),
        "target_pos": torch.tensor(target).expand(num, -1),
        "qpos": torch.tensor(ready_qpos("arm7")).expand(num, -1),
    }


CORNERS = torch.tensor([[s, d, c] for s in (-1.0, 0.0, 1.0) for d in (-1.0, 0.0, 1.0) for c in (-1.0, 0.0, 1.0)])


@pytest.fixture(scope="module")
def strikes():
    command = TASK.command(CORNERS, readings(len(CORNERS)))
    return command, tool_pose(TASK.robot, command.qpos)


def test_the_tool_has_the_asked_speed_from_before_contact_to_the_middle(strikes):
    _, (pos, _) = strikes
    # action -1, 0, 1: lowest speed, geometric mean, highest
    asked = torch.tensor([SPEEDS[0], math.sqrt(SPEEDS[0] * SPEEDS[1]), SPEEDS[1]]).repeat_interleave(9)
    heading = math.pi / 2 + TURN * CORNERS[:, 1]  # the target lies in the direction of y
    along_axis = torch.stack([heading.cos(), heading.sin()], -1)
    along = ((pos[..., :2] - torch.tensor(OBJECT)) * along_axis.unsqueeze(1)).sum(-1)
    for k in range(len(CORNERS)):
        at_speed = (along[k] > -AT_SPEED + 1e-3) & (along[k] < -1e-3) & (torch.arange(len(along[k])) > 25)
        rows = at_speed.nonzero()[:, 0]
        assert len(rows) >= 2
        velocity = (pos[k, rows[1:]] - pos[k, rows[:-1]]) / DT
        torch.testing.assert_close(velocity.norm(dim=-1), asked[k].expand(len(rows) - 1), rtol=0.01, atol=0)
        torch.testing.assert_close(velocity[:, :2], (asked[k] * along_axis[k]).expand(len(rows) - 1, 2), rtol=0, atol=0.015)


def test_the_stroke_passes_the_object_at_the_asked_side(strikes):
    _, (pos, _) = strikes
    heading = math.pi / 2 + TURN * CORNERS[:, 1]
    to_the_left = torch.stack([-heading.sin(), heading.cos()], -1)
    beside = ((pos[:, 26:, :2] - torch.tensor(OBJECT)) * to_the_left.unsqueeze(1)).sum(-1)
    torch.testing.assert_close(beside, (ASIDE * CORNERS[:, 2:]).expand_as(beside), rtol=0, atol=1.5e-3)


def test_the_tool_points_down_at_a_constant_height(strikes):
    _, (pos, turned) = strikes
    torch.testing.assert_close(pos[:, 26:, 2], torch.full_like(pos[:, 26:, 2], 0.03), rtol=0, atol=2e-3)
    assert turned[:, 26:, 2, 2].max() < -0.999


def test_strikes_begin_and_end_at_rest_inside_the_limits_of_the_arm(strikes):
    command, _ = strikes
    robot = TASK.robot
    qpos, qvel = interpolate(command, torch.tensor(ready_qpos("arm7")).expand(len(CORNERS), -1), 5)
    low, high = robot.qpos_range(qpos)
    assert ((qpos >= low) & (qpos <= high)).all()
    assert (qvel.abs().amax((0, 1)) <= torch.tensor(robot.qvel_limits)).all()
    assert (qvel[:, -1] == 0).all()
    assert (command.qpos[:, -1] - command.qpos[:, -2]).abs().max() < 0.01
    acceleration = (command.qvel[:, 1:] - command.qvel[:, :-1]) / DT
    assert (acceleration.abs().amax((0, 1)) <= torch.tensor(robot.qacc_limits)).all()


def test_the_ready_pose_has_the_tool_behind_the_object():
    pos, turned = tool_pose(TASK.robot, torch.tensor(ready_qpos("arm7"), dtype=torch.float64))
    torch.testing.assert_close(pos, torch.tensor([0.55, -0.17, 0.03], dtype=torch.float64), rtol=0, atol=1e-3)
    assert turned[2, 2] < -0.9999


@pytest.mark.parametrize(("miss", "reward", "success"), [(0.0, 1.0, True), (0.049, math.exp(-0.049 / 0.15), True), (0.15, math.exp(-1), False)])
def test_reward_is_of_the_resting_place(miss, reward, success):
    end = {"object_pos": torch.tensor([0.5, 0.6 + miss, 0.03]), "target_pos": torch.tensor([0.5, 0.6, 0.0])}
    assert TASK.reward({}, torch.zeros(3), end).item() == pytest.approx(reward, rel=1e-5)
    assert TASK.success(end).item() is success
    assert TASK.error(end).item() == pytest.approx(miss, abs=1e-6)


def test_target_lies_at_its_distance_and_angle_from_the_object():
    env = BatchedEnv(TASK, 2, num_threads=1)
    env.set_tasks(TASK.custom([{"target_distance": 0.6, "target_angle": 0.0}, {"target_distance": 0.7, "target_angle": 0.25}]))
    env.reset()
    expected = torch.tensor([[0.55, 0.65, 0.0], [0.55 - 0.7 * math.sin(0.25), 0.05 + 0.7 * math.cos(0.25), 0.0]])
    torch.testing.assert_close(env.readings["target_pos"], expected)


def test_object_stands_still_on_the_table_before_the_shot():
    env = BatchedEnv(TASK, 32, num_threads=2)
    env.set_tasks(TASK.sample(32, "ood_far"))
    env.reset()
    start = env.readings
    half = env.values["half_size"]
    torch.testing.assert_close(start["object_pos"][:, 2], half + 1e-4)
    assert (start["object_pos"][:, :2] - torch.tensor(OBJECT)).abs().max() <= 0.003 + 1e-6
    assert start["object_linvel"].abs().max() == 0


def test_shots_of_a_trial_start_alike_and_rest_at_their_end():
    env = BatchedEnv(TASK, 16, num_threads=2)
    env.set_tasks(TASK.sample(16))
    for _ in range(2):
        obs = env.reset()
        step = env.step(torch.zeros(16, 1, 3))
        assert step.truncated.all()
        assert env.readings["object_linvel"].norm(dim=-1).max() < 0.05
        moved = (step.next_obs - obs)[:, 0, :2].norm(dim=-1)
        assert moved.min() > 0.1  # every object is hit
        torch.testing.assert_close(step.reward[:, 0], torch.exp(-env.task.error(env.readings) / 0.15))


def test_a_faster_strike_sends_the_object_farther_and_friction_stops_it():
    env = BatchedEnv(TASK, 4, num_threads=2)
    env.set_tasks(TASK.custom([{"friction": 0.08}, {"friction": 0.08}, {"friction": 0.16}, {"friction": 0.16}]))
    obs = env.reset()
    speed = torch.tensor([-1.0, 1.0, -1.0, 1.0])
    step = env.step(torch.stack([speed, torch.zeros(4), torch.zeros(4)], -1).unsqueeze(1))
    slow, fast, slow_rough, fast_rough = (step.next_obs - obs)[:, 0, 1].tolist()
    assert fast > 2 * slow
    assert fast_rough > 2 * slow_rough
    # sliding distance v² / (2 mu g): half of it at twice the friction (the push before it is common to both)
    assert fast_rough < 0.65 * fast
    assert slow_rough < 0.75 * slow
