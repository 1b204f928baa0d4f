import math

import pytest
import torch

from metarl import tasks
from metarl.tasks.batched_env import BatchedEnv


def env_with(name: str, *rows) -> BatchedEnv:
    env = BatchedEnv(tasks.make(name), len(rows))
    env.set_tasks(env.task.custom(rows))
    return env


def test_the_way_to_a_goal_is_counted_step_by_step():
    env = env_with("point_navigation", {"goal_x": 0.3, "goal_y": -0.4})
    assert env.reset().tolist() == [[[0.0, 0.0]]]
    # full steps of 0.1 to the right, then down: distances sqrt(0.2² + 0.4²), sqrt(0.1² + 0.4²), 0.4, 0.3, 0.2, 0.1, 0
    rewards, ends = [], []
    for action in [[1, 0]] * 3 + [[0, -1]] * 4:
        step = env.step(torch.tensor([[action]], dtype=torch.float32))
        rewards.append(step.reward.item())
        ends.append(step.terminated.item())
    expected = [-math.sqrt(0.20), -math.sqrt(0.17), -0.4, -0.3, -0.2, -0.1, 0.0]
    assert rewards == pytest.approx(expected, abs=1e-6)
    assert ends == [False] * 6 + [True]
    torch.testing.assert_close(step.next_obs, torch.tensor([[[0.3, -0.4]]]))


def test_done_means_both_coordinates_within_a_hundredth():
    env = env_with("point_navigation", {"goal_x": 0.1, "goal_y": 0.0}, {"goal_x": 0.1, "goal_y": 0.0}, {"goal_x": 0.1, "goal_y": 0.0})
    env.reset()
    step = env.step(torch.tensor([[[0.91, 0.0]], [[0.89, 0.0]], [[1.0, 0.11]]]))
    assert step.terminated[:, 0].tolist() == [True, False, False]
    assert env.task.success(env.readings).tolist() == [True, True, True]
    assert env.task.error(env.readings).tolist() == pytest.approx([0.009, 0.011, 0.011], abs=1e-6)


def test_steps_are_cut_to_a_tenth():
    env = env_with("point_navigation", {})
    env.reset()
    step = env.step(torch.tensor([[[5.0, -5.0]]]))
    torch.testing.assert_close(step.next_obs, torch.tensor([[[0.1, -0.1]]]))


def test_time_is_up_after_a_hundred_steps():
    env = env_with("point_navigation", {"goal_x": 0.5, "goal_y": 0.5})
    env.reset()
    for i in range(100):
        step = env.step(torch.zeros(1, 1, 2))
        assert step.truncated.item() is (i == 99)
    assert step.reward.item() == pytest.approx(-math.sqrt(0.5))


def test_semicircle_pays_only_near_the_goal():
    name, upwards = "point_navigation_semicircle", {"angle": math.pi / 2}
    env = env_with(name, upwards)
    env.reset()
    rewards = [env.step(torch.tensor([[[0.0, 1.0]]])).reward.item() for _ in range(13)]
    # 0.1 a step: at 0.8, 0.9, 1.0, 1.1, 1.2 within 0.2 of the goal at (0, 1); float32 leaves 0.8 and 1.2 to either side
    assert rewards[:7] == [0.0] * 7
    assert rewards[8:11] == pytest.approx([0.9, 1.0, 0.9], abs=1e-5)
    assert rewards[12] == 0.0
    env.reset()
    assert env.step(torch.tensor([[[0.0, 1.0]]])).terminated.item() is False
    assert env.spec.episodes_per_trial == 3


def test_semicircle_goals_lie_on_the_upper_half_circle():
    env = env_with("point_navigation_semicircle", {"angle": 0.0}, {"angle": math.pi / 6}, {"angle": math.pi})
    env.reset()
    expected = torch.tensor([[1.0, 0.0], [math.sqrt(0.75), 0.5], [-1.0, 0.0]])
    torch.testing.assert_close(env.readings["goal_pos"], expected, atol=1e-6, rtol=0)


def test_semicircle_stays_at_the_goal():
    env = env_with("point_navigation_semicircle", {"angle": 0.0})
    env.reset()
    for i in range(100):
        step = env.step(torch.tensor([[[1.0 if i < 10 else 0.0, 0.0]]]))
        assert step.terminated.item() is False
    assert step.reward.item() == pytest.approx(1.0, abs=1e-5)
    assert step.truncated.item() is True
