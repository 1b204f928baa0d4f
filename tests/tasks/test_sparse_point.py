import math

import numpy as np
import pytest
import torch

from metarl import tasks
from metarl.tasks.batched_env import BatchedEnv

TASK = tasks.make("sparse_point_pearl")


def test_goals_are_pearls_in_its_order():
    """As the published code draws them: points, not angles, are shuffled."""
    angles = np.linspace(0, np.pi, 100)
    goals = np.stack([np.cos(angles), np.sin(angles)], 1)
    np.random.RandomState(1337).shuffle(goals)
    train, test = TASK.sample(80), TASK.sample(20, "iid")
    ours = np.concatenate([train.column("angle"), test.column("angle")])
    np.testing.assert_allclose(np.stack([np.cos(ours), np.sin(ours)], 1), goals, atol=1e-12)
    assert train.ids[3] == "sparse_point_pearl/v1:train:published:3"
    assert TASK.sample(2, "iid", seed=9, start=4).ids == test.ids[4:6]


def test_there_are_no_other_tasks():
    with pytest.raises(ValueError, match=r"sparse_point_pearl has no task 80 in split 'train': it is a published set of 80 tasks, 0 to 79"):
        TASK.sample(1, start=80)
    with pytest.raises(ValueError, match=r"no task 20 in split 'iid'"):
        TASK.sample(64, "iid")
    with pytest.raises(ValueError, match=r"split.*ood_near"):
        TASK.sample(1, "ood_near")


def test_training_goes_through_the_set_over_and_over():
    seen = [TASK.practice(30, seed=0, iteration=i).ids for i in range(4)]
    in_order = TASK.sample(80).ids
    assert seen[0] == in_order[:30]
    assert seen[2] == in_order[60:] + in_order[:10]
    drawn_anew = tasks.make("point_navigation")
    assert drawn_anew.practice(5, 3, 2).ids == drawn_anew.sample(5, "train", 3, 10).ids


def test_the_reward_is_one_less_the_distance_near_the_goal_alone():
    env = BatchedEnv(TASK, 1)
    env.set_tasks(TASK.custom([{"angle": math.pi / 2}]))
    env.reset()
    rewards = [env.step(torch.tensor([[[0.0, 0.95]]])).reward.item() for _ in range(13)]
    # 0.095 a step: 0.76 after 8 steps, 0.855 after 9, ... 1.14 after 12, 1.235 after 13
    assert rewards == pytest.approx([0.0] * 8 + [0.855, 0.95, 1 - 0.045, 1 - 0.14, 0.0], abs=1e-5)
    assert (TASK.horizon, TASK.episodes_per_trial) == (20, 20)


def varibads(*rows) -> BatchedEnv:
    env = BatchedEnv(tasks.make("sparse_point_varibad"), len(rows))
    env.set_tasks(env.task.custom(rows))
    return env


def test_varibads_pays_only_near_the_goal():
    env = varibads({"angle": math.pi / 2})
    env.reset()
    rewards = [env.step(torch.tensor([[[0.0, 1.0]]])).reward.item() for _ in range(13)]
    # 0.1 a step: at 0.8, 0.9, 1.0, 1.1, 1.2 within 0.2 of the goal at (0, 1); float32 leaves 0.8 and 1.2 to either side
    assert rewards[:7] == [0.0] * 7
    assert rewards[8:11] == pytest.approx([0.9, 1.0, 0.9], abs=1e-5)
    assert rewards[12] == 0.0
    env.reset()
    assert env.step(torch.tensor([[[0.0, 1.0]]])).terminated.item() is False
    assert env.spec.episodes_per_trial == 3


def test_varibads_goals_lie_on_the_upper_half_circle():
    env = varibads({"angle": 0.0}, {"angle": math.pi / 6}, {"angle": math.pi})
    env.reset()
    expected = torch.tensor([[1.0, 0.0], [math.sqrt(0.75), 0.5], [-1.0, 0.0]])
    torch.testing.assert_close(env.readings["goal_pos"], expected, atol=1e-6, rtol=0)


def test_varibads_goes_on_at_the_goal():
    env = varibads({"angle": 0.0})
    env.reset()
    for i in range(100):
        step = env.step(torch.tensor([[[1.0 if i < 10 else 0.0, 0.0]]]))
        assert step.terminated.item() is False
    assert step.reward.item() == pytest.approx(1.0, abs=1e-5)
    assert step.truncated.item() is True
