import math

import pytest
import torch

from metarl import tasks
from metarl.tasks.batched_env import BatchedEnv
from metarl.tasks.sensing import hand_eye

TASK = tasks.make("arm_reach")


def test_hand_eye_turns_about_the_pivot_and_shifts():
    pos = torch.tensor([[1.0, 0.0, 0.5], [0.5, 1.0, 0.2]])
    quarter = torch.full((2,), math.pi / 2)
    shift = torch.tensor([0.01, 0.02, 0.03])
    # about (0.5, 0, z): (0.5, 0) -> (0, 0.5) and (0, 1) -> (-1, 0), z stays
    expected = torch.tensor([[0.51, 0.52, 0.53], [-0.49, 0.02, 0.23]])
    torch.testing.assert_close(hand_eye(pos, quarter, shift.expand(2, 3), (0.5, 0.0, 9.0)), expected)


def test_a_right_calibration_changes_nothing_and_the_pivot_stays():
    pos = torch.randn(5, 3, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(hand_eye(pos, torch.zeros(5), torch.zeros(5, 3), (0.4, 0.1, 0.3)), pos)
    pivot = torch.tensor([[0.4, 0.1, 0.3]])
    torch.testing.assert_close(hand_eye(pivot, torch.tensor([0.3]), torch.zeros(1, 3), (0.4, 0.1, 0.3)), pivot)


@pytest.mark.parametrize(
    ("distance", "reward"), [(0.0, 1.0), (0.1, 1 - 0.5 * (math.tanh(0.3) + math.tanh(2.0))), (1.0, 1 - 0.5 * (math.tanh(3.0) + math.tanh(20.0)))]
)
def test_reward(distance, reward):
    readings = {"tool_pos": torch.tensor([0.5, 0.0, 0.3]), "target_pos": torch.tensor([0.5, distance, 0.3])}
    assert TASK.reward({}, torch.zeros(7), readings).item() == pytest.approx(reward, abs=1e-6)
    assert TASK.success(readings).item() is (distance < 0.02)
    assert TASK.error(readings).item() == pytest.approx(distance)


def test_command_adds_half_of_the_velocity_limit_and_stays_inside_the_joint_limits():
    limits = torch.tensor(TASK.robot.qpos_limits)
    middle = limits.mean(-1)
    action = torch.tensor([1.0, -1.0, 0.5, 0.0, 1.0, -0.1, 0.0])
    command = TASK.command(action, {"command_qpos": middle})
    # 0.5 * 0.02 s * (2.175 or 2.61 rad/s)
    moved = torch.tensor([0.02175, -0.02175, 0.010875, 0.0, 0.0261, -0.00261, 0.0])
    torch.testing.assert_close(command.qpos, (middle + moved).unsqueeze(0))
    assert command.dt == 0.02
    high = TASK.command(torch.ones(7), {"command_qpos": limits[:, 1] - 0.01})
    torch.testing.assert_close(high.qpos[0], limits[:, 1])
    low = TASK.command(-torch.ones(7), {"command_qpos": limits[:, 0] + 0.01})
    torch.testing.assert_close(low.qpos[0], limits[:, 0])


def test_observation_is_what_the_robot_believes_and_reward_is_the_truth():
    env = BatchedEnv(TASK, 1, num_threads=1)
    env.set_tasks(TASK.custom([{"camera_yaw": 0.15, "camera_x": 0.05, "camera_z": -0.02}]))
    obs = env.reset()[0, 0]
    truth = env.readings
    seen = hand_eye(truth["target_pos"], torch.tensor([0.15]), torch.tensor([[0.05, 0.0, -0.02]]), (0.45, 0.0, 0.325))[0]
    parts = dict(zip(env.spec.obs_names, obs.split(list(env.spec.obs_sizes)), strict=True))
    torch.testing.assert_close(parts["qpos"], truth["qpos"][0])
    torch.testing.assert_close(parts["tool_pos"], truth["tool_pos"][0])
    torch.testing.assert_close(parts["target_pos"], seen)
    torch.testing.assert_close(parts["target_from_tool"], seen - truth["tool_pos"][0])
    assert parts["last_action"].tolist() == [0.0] * 7
    step = env.step(torch.full((1, 1, 7), 0.5))
    assert step.next_obs[0, 0, -7:].tolist() == [0.5] * 7
    distance = (env.readings["tool_pos"] - truth["target_pos"]).norm()
    assert step.reward.item() == pytest.approx((1 - 0.5 * (torch.tanh(3 * distance) + torch.tanh(20 * distance))).item(), abs=1e-6)


def test_targets_are_new_in_each_episode_and_lie_in_their_box():
    env = BatchedEnv(TASK, 64, num_threads=2)
    env.set_tasks(TASK.sample(64))
    env.reset()
    first = env.readings["target_pos"]
    env.reset()
    both = torch.cat([first, env.readings["target_pos"]])
    assert not (first == env.readings["target_pos"]).any()
    low, high = torch.tensor([0.30, -0.30, 0.15]), torch.tensor([0.60, 0.30, 0.50])
    assert ((both >= low) & (both <= high)).all()
    spread = (both.amax(0) - both.amin(0)) / (high - low)
    assert (spread > 0.9).all()


def test_joints_follow_their_commands():
    """Without payload, delay and errors of the camera the arm goes where it is sent."""
    env = BatchedEnv(TASK, 1, num_threads=1)
    env.set_tasks(TASK.custom([{}]))
    env.reset()
    start = env.readings["qpos"].clone()
    for i in range(60):
        env.step(torch.full((1, 1, 7), 0.4 if i < 20 else 0.0))
    moved = 20 * 0.4 * 0.5 * 0.02 * torch.tensor(TASK.robot.qvel_limits)
    torch.testing.assert_close(env.readings["qpos"], start + moved, atol=0.02, rtol=0)
    assert env.readings["qvel"].abs().max() < 0.05
