import pytest
import torch

from metarl import tasks
from metarl.tasks.batched_env import BatchedEnv
from metarl.tasks.gymnasium import env_id

ARMS = torch.eye(5)


def test_arms_pay_as_often_as_they_should():
    env = BatchedEnv(tasks.make("bandit_n10_k5"), 1, 4000, seed=3)
    env.set_tasks(env.task.custom([{"p0": 0.0, "p1": 0.2, "p2": 1.0, "p3": 0.5, "p4": 0.7}]))
    paid = []
    for arm in ARMS:
        env.reset()
        step = env.step(arm.expand(1, 4000, -1))
        assert set(step.reward.unique().tolist()) <= {0.0, 1.0}
        torch.testing.assert_close(step.next_obs[..., 0], step.reward)
        paid.append(step.reward.mean().item())
    assert (paid[0], paid[2]) == (0.0, 1.0)
    # one deviation of the mean of 4000 pulls is at most 0.008
    assert paid[1::2] == pytest.approx([0.2, 0.5], abs=0.03)
    assert paid[4] == pytest.approx(0.7, abs=0.03)


def test_a_pull_is_an_episode_and_its_error_is_what_a_better_arm_would_pay_more():
    env = BatchedEnv(tasks.make("bandit_n10_k5"), 2)
    env.set_tasks(env.task.custom([{"p0": 0.1, "p3": 0.9}] * 2))
    assert env.reset().tolist() == [[[0.0]], [[0.0]]]
    step = env.step(ARMS[[0, 3]].unsqueeze(1))
    assert step.truncated.all() and not step.terminated.any()
    assert env.task.error(env.readings).tolist() == pytest.approx([0.8, 0.0])
    assert env.training_reward()[:, 0].tolist() == pytest.approx([-0.8, 0.0])
    assert env.task.success(env.readings).tolist() == [False, True]
    assert (env.spec.horizon, env.spec.episodes_per_trial) == (1, 10)


def test_the_largest_entry_is_the_choice():
    env = BatchedEnv(tasks.make("bandit_n10_k5"), 1, 2)
    env.set_tasks(env.task.custom([{"p1": 1.0, "p2": 0.0}]))
    env.reset()
    step = env.step(torch.tensor([[[-3.0, -1.0, -2.0, -2.0, -2.0], [0.1, 0.1, 9.0, 0.2, 0.3]]]))
    assert step.reward.tolist() == [[1.0, 0.0]]
    assert env.readings["last_action"].tolist() == [ARMS[1].tolist(), ARMS[2].tolist()]


def test_uniform_choices_are_worth_one_half():
    """The published 5.0 of random play in 10 pulls."""
    env = BatchedEnv(tasks.make("bandit_n10_k5"), 4000, seed=1)
    env.set_tasks(env.task.sample(4000, "iid"))
    generator = torch.Generator().manual_seed(0)
    total = torch.zeros(())
    for _ in range(10):
        env.reset()
        total += env.step(torch.rand(4000, 1, 5, generator=generator)).reward.mean()
    assert total.item() == pytest.approx(5.0, abs=0.1)


def test_any_number_of_pulls_and_arms_can_be_asked_for_by_name():
    task = tasks.make("bandit_n100_k7")
    assert (task.name, task.spec.task, task.episodes_per_trial) == ("bandit_n100_k7", "bandit_n100_k7", 100)
    assert task.action_names[-1] == "arm_6"
    assert [p.name for p in task.params] == [f"p{i}" for i in range(7)]
    assert task.sample(1).ids == ("bandit_n100_k7/v1:train:0:0",)
    assert tasks.make("bandit_n10_k5").episodes_per_trial == 10
    assert env_id(task) == "metarl/BanditN100K7-v1"
    with pytest.raises(ValueError, match=r"these tasks are of 'bandit_n100_k7', this environment runs 'bandit_n10_k5'"):
        BatchedEnv(tasks.make("bandit_n10_k5"), 1).set_tasks(task.sample(1))


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("bandit", "a name of this kind is bandit_n10_k5, with n from 2 to 10000 and k from 2 to 100"),
        ("bandit_k5", "a name of this kind is bandit_n10_k5"),
        ("bandit_n010_k5", "a name of this kind is bandit_n10_k5"),
        ("bandit_n10_k5_x", "a name of this kind is bandit_n10_k5"),
        ("bandit_n1_k5", "n = 1, allowed is n from 2 to 10000"),
        ("bandit_n10_k101", "k = 101, allowed is k from 2 to 100"),
        ("tabular_mdp_n0", "n = 0, allowed is n from 2 to 1000"),
    ],
)
def test_names_with_wrong_numbers_are_refused(name, said):
    with pytest.raises(ValueError, match=said):
        tasks.make(name)
