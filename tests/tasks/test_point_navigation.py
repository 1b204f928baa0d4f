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
