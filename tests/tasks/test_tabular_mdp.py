import math

import pytest
import torch

from metarl import tasks
from metarl.tasks.batched_env import BatchedEnv

TASK = tasks.make("tabular_mdp_n10")


def row(**values):
    return {"reward_0_0": 0.5, **values}


def test_published_sizes():
    assert (TASK.horizon, TASK.episodes_per_trial, TASK.spec.obs_size, TASK.spec.action_size, len(TASK.params)) == (10, 10, 10, 5, 50 + 500)
    assert tasks.make("tabular_mdp_n25").episodes_per_trial == 25


def test_rewards_are_quantiles_of_a_normal_and_moves_are_normalised_exponentials():
    values = {p.name: torch.tensor([0.5]) for p in TASK.params}
    values["reward_3_1"] = torch.tensor([0.841344746])  # one deviation above the mean
    values["move_2_4_7"] = torch.tensor([1 - math.exp(-3.0)])  # an exponential variable of 3; the nine others are log 2
    means, probabilities = TASK.means(values)[0], TASK.probabilities(values)[0]
    assert means[0, 0].item() == pytest.approx(1.0, abs=1e-6)
    assert means[3, 1].item() == pytest.approx(2.0, abs=1e-5)
    assert probabilities[2, 4, 7].item() == pytest.approx(3 / (3 + 9 * math.log(2)), rel=1e-5)
    assert probabilities[2, 4, 0].item() == pytest.approx(math.log(2) / (3 + 9 * math.log(2)), rel=1e-5)
    torch.testing.assert_close(probabilities.sum(-1), torch.ones(10, 5))


def test_drawn_tasks_have_the_published_moments():
    batch = TASK.sample(200)
    values = {name: torch.as_tensor(v, dtype=torch.float32) for name, v in batch.named().items()}
    means, probabilities = TASK.means(values), TASK.probabilities(values)
    # 10 000 means: N(1, 1); 100 000 Dirichlet components: mean 1/10, variance (1/10)(9/10)/11
    assert means.mean().item() == pytest.approx(1.0, abs=0.04)
    assert means.std().item() == pytest.approx(1.0, abs=0.03)
    assert probabilities.var().item() == pytest.approx(0.09 / 11, rel=0.03)


def test_states_and_rewards_are_drawn_from_what_the_task_says():
    env = BatchedEnv(TASK, 1, 20000, seed=2)
    sure = {f"move_0_2_{s}": 0.0 for s in range(10)} | {"move_0_2_4": 1 - math.exp(-3.0), "move_0_2_6": 1 - math.exp(-1.0)}
    env.set_tasks(TASK.custom([row(reward_0_2=0.841344746, **sure)]))
    assert env.reset()[0, 0].tolist() == [1.0] + [0.0] * 9
    step = env.step(torch.eye(5)[2].expand(1, 20000, -1))
    visited = step.next_obs[0].mean(0)
    assert visited[4].item() == pytest.approx(0.75, abs=0.015)
    assert visited[6].item() == pytest.approx(0.25, abs=0.015)
    assert step.reward.mean().item() == pytest.approx(2.0, abs=0.03)
    assert step.reward.std().item() == pytest.approx(1.0, abs=0.03)


def test_uniform_choices_are_worth_what_was_published():
    """100.1 in a trial of 10 episodes."""
    env = BatchedEnv(TASK, 300, seed=1)
    env.set_tasks(TASK.sample(300, "iid"))
    generator, total = torch.Generator().manual_seed(0), 0.0
    for _ in range(10):
        env.reset()
        for _ in range(10):
            total += env.step(torch.rand(300, 1, 5, generator=generator)).reward.mean().item()
    assert total == pytest.approx(100.1, abs=3.5)


def test_regret_is_against_the_best_action_of_the_state():
    env = BatchedEnv(TASK, 1, 2)
    env.set_tasks(TASK.custom([row(reward_0_2=0.841344746)]))
    env.reset()
    env.step(torch.eye(5)[[2, 0]].unsqueeze(0))
    assert TASK.error(env.readings).tolist() == pytest.approx([0.0, 1.0], abs=1e-5)
    assert TASK.success(env.readings).tolist() == [True, False]


def test_advantages_are_those_of_backward_induction_by_hand():
    means, probabilities = torch.zeros(1, 10, 5), torch.zeros(1, 10, 5, 10)
    probabilities[..., 0] = 1.0
    means[0, 0, 0], means[0, 1, 2] = 1.0, 3.0
    probabilities[0, 0, 1] = torch.eye(10)[1]  # action 1 in state 0 leads to where action 2 pays 3
    advantages = TASK.advantages(means, probabilities)[0]
    assert advantages.shape == (10, 10, 5)
    assert advantages[9, 0].tolist() == [0.0, -1.0, -1.0, -1.0, -1.0]  # the last decision: what comes after counts no more
    assert advantages[8, 0].tolist() == [-1.0, 0.0, -2.0, -2.0, -2.0]  # 1 + 1, 0 + 3, 0 + 1
    assert advantages.amax(-1).abs().max() == 0.0


def test_what_is_worked_out_once_is_that_of_the_tasks_that_are_set():
    """Two environments share a task object; each begins in its own tasks, also after those were exchanged, and again as a fresh one does."""
    task = tasks.make("tabular_mdp_n10")
    envs, drawn = [BatchedEnv(task, 3, seed=1) for _ in range(2)], task.sample(9)
    for k, env in ((0, 0), (1, 1), (0, 0), (2, 0), (1, 1), (0, 0)):
        batch = drawn[range(3 * k, 3 * k + 3)]
        envs[env].set_tasks(batch)
        for _ in range(2):
            envs[env].reset()
            fresh = tasks.make("tabular_mdp_n10").start(envs[env].values, torch.Generator())
            assert {name for name, value in fresh.items() if not torch.equal(value, envs[env].readings[name])} == set()


def test_an_mdp_is_solved_once_for_all_episodes(monkeypatch):
    task = tasks.make("tabular_mdp_n10")
    solved, advantages = [], task.advantages
    monkeypatch.setattr(task, "advantages", lambda *mdp: solved.append(mdp) or advantages(*mdp))
    env = BatchedEnv(task, 3)
    for number in (1, 2):
        env.set_tasks(task.sample(3))
        for _ in range(4):
            env.reset()
            env.step(task.expert(env.sensed, env.values).unsqueeze(1))
        assert len(solved) == number


def test_training_rewards_differ_from_returns_by_a_constant_whatever_is_done():
    """The mean over an episode of reward less advantage is what the best policy earns, for uniform actions as for always the same."""
    env = BatchedEnv(TASK, 1, 20000, seed=5)
    env.set_tasks(TASK.sample(1, "iid"))
    constants = []
    for uniform in (True, False):
        env.reset()
        constant = torch.zeros(20000)
        for _ in range(10):
            action = torch.rand(1, 20000, 5) if uniform else torch.eye(5)[3].expand(1, 20000, -1)
            constant += (env.step(action).reward - env.training_reward())[0]
        constants.append(constant.mean().item())
    assert constants[0] == pytest.approx(constants[1], abs=0.1)  # each has a deviation of some sqrt(10 * (1 + 1)) / 141 = 0.03
