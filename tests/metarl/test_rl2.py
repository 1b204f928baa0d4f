import dataclasses

import pytest
import torch

from metarl import algos, tasks
from metarl.rollout import collect
from metarl.tasks.batched_env import BatchedEnv, Step
from metarl.tasks.point_navigation import PointNavigation


class EndsNearby(PointNavigation):
    """Ends within 0.15 of the goal, so that random walks get there."""

    def terminated(self, readings):
        return self.error(readings) < 0.15


def small(name, task_name="point_navigation", **overrides):
    task = tasks.make(task_name)
    kind = algos.load(name)
    config = kind.Config(**{"num_tasks": 3, "num_robots": 2, "hidden_size": 8, "layers": (8,), "epochs": 1, "minibatches": 1} | overrides)
    return task, kind(task.spec, task.params, config, seed=1)


def near_goal_rollout(algorithm, task):
    """A trial in which some episodes end early, at different times."""
    env = BatchedEnv(EndsNearby(), 3, 2, seed=5)
    env.set_tasks(task.custom([{"goal_x": 0.2, "goal_y": 0.2}, {"goal_x": 0.5, "goal_y": -0.5}, {"goal_x": -0.3, "goal_y": 0.0}]))
    adapter = algorithm.adapter(3, 2, training=True)
    hidden = []

    def remember(episode, index, step):
        hidden.append(adapter.hidden[0].unflatten(0, (3, 2)).clone())

    return collect(env, adapter, explore=True, on_step=remember), hidden, adapter


@pytest.mark.parametrize("name", ["rl2", "hypernetwork"])
def test_recomputed_hidden_states_and_actions_are_those_of_acting_also_with_early_ends(name):
    task, algorithm = small(name)
    for parameter in algorithm.network.policy.parameters():  # a hypernetwork begins with weights that do not depend on the memory
        parameter.data += 0.1 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(0))
    rollout, hidden, adapter = near_goal_rollout(algorithm, task)
    assert not bool(rollout.valid.all()), "no episode ended early: the test would show nothing"
    batch = algorithm.batch(rollout)
    after = algorithm.network.memory(batch.transition)[0]
    steps = batch.valid.sum(1)
    last = after[torch.arange(len(steps)), steps - 1]
    torch.testing.assert_close(last, adapter.hidden[0], rtol=1e-4, atol=1e-5)
    # the actions' densities by the recomputed policy equal those by the hidden states that acted
    first = rollout.obs[:, :, 0, 0], rollout.action[:, :, 0, 0], torch.zeros_like(hidden[0])
    second = rollout.obs[:, :, 0, 1], rollout.action[:, :, 0, 1], hidden[0]
    log_prob = algorithm.evaluate(batch)[0].detach().unflatten(0, (3, 2))
    for position, (obs, action, state) in enumerate((first, second)):
        expected = algorithm.network.act(algorithm.network.normalizer(obs), state, torch.zeros(3, 2, 2)).log_prob(action)
        torch.testing.assert_close(log_prob[:, :, position], expected, rtol=1e-4, atol=1e-4)


def test_recomputed_probabilities_of_choices_are_those_of_acting(monkeypatch):
    task, algorithm = small("rl2", "grid_navi")
    env = BatchedEnv(task, 3, 2, seed=5)
    env.set_tasks(task.sample(3))
    adapter = algorithm.adapter(3, 2, training=True)
    acted, act = [], adapter.act

    def remember(obs, explore=True):
        policy = algorithm.network.act(algorithm.network.normalizer(obs), adapter.hidden[0].unflatten(0, (3, 2)), adapter.task)
        action = act(obs, explore)
        acted.append(policy.log_prob(action).detach())
        return action

    monkeypatch.setattr(adapter, "act", remember)
    rollout = collect(env, adapter, explore=True)
    log_prob, _, entropy = algorithm.evaluate(algorithm.batch(rollout))
    torch.testing.assert_close(log_prob.detach().unflatten(0, (3, 2)), torch.stack(acted, -1), rtol=1e-4, atol=1e-5)
    assert log_prob.shape == (6, 4 * 15)
    assert bool((entropy > 1.5).all()), "five choices, about equally likely at first: log 5 = 1.61"


def test_memory_lives_through_the_trial_and_not_beyond():
    task, algorithm = small("rl2")
    _, hidden, adapter = near_goal_rollout(algorithm, task)
    assert float(adapter.hidden.abs().max()) > 0
    adapter.adapt()
    torch.testing.assert_close(adapter.hidden[0].unflatten(0, (3, 2)), hidden[-1])  # an episode's end forgets nothing
    adapter.reset()
    assert float(adapter.hidden.abs().max()) == 0.0


def test_advantages_reach_across_episodes_with_memory_and_stop_at_them_without():
    for name, expected in (("rl2", [1.0, 2.0, 4.0]), ("robust", [1.0, 2.0, 4.0])):
        task, algorithm = small(name, "arm_slide", discount=0.5, gae_lambda=1.0)
        n, trial = 6, task.episodes_per_trial
        rewards = torch.tensor(expected + [0.0] * (trial - 3)).expand(n, trial)
        rollout, _, _ = fake_rollout(task, rewards)
        batch = algorithm.batch(rollout)
        value = torch.zeros(n, trial)
        algorithm.advantages(batch, value)
        target = algorithm.network.return_normalizer.mean
        # with memory 1 + 0.5 * 2 + 0.25 * 4 = 3, 2 + 0.5 * 4 = 4, 4, 0, 0; without it each shot stands for itself
        torch.testing.assert_close(float(target), (3 + 4 + 4) / trial if name == "rl2" else (1 + 2 + 4) / trial)


def fake_rollout(task, rewards):
    from metarl.rollout import Rollout

    spec, (n, trial) = task.spec, rewards.shape
    shape = (n, 1, trial, 1)
    ends = torch.ones(shape, dtype=torch.bool)
    zeros = torch.zeros(*shape, spec.obs_size)
    action = torch.zeros(*shape, spec.action_size)
    rollout = Rollout(zeros, action, rewards.reshape(shape), zeros, ~ends, ends, ends, torch.zeros(n, len(task.params)), ("x",) * n)
    return rollout, zeros, action


def test_the_oracle_hears_its_task_and_the_others_do_not():
    for name, hears in (("rl2", False), ("robust", False), ("oracle", True)):
        _, algorithm = small(name)
        adapter = algorithm.adapter(3, 2)
        assert hasattr(adapter, "tell") == hears
        if hears:
            obs = torch.zeros(3, 2, 2)
            adapter.tell(torch.tensor([[0.0, 0.0], [1.0, 1.0], [-1.0, 1.0]]))
            actions = adapter.act(obs, explore=False)
            assert not torch.equal(actions[0], actions[1])


def test_robust_forgets_every_step():
    _, algorithm = small("robust")
    adapter = algorithm.adapter(3, 2)
    obs, flags = torch.ones(3, 2, 2), torch.zeros(3, 2, dtype=torch.bool)
    before = adapter.act(obs, explore=False)
    adapter.observe(Step(obs, torch.ones(3, 2, 2), torch.ones(3, 2), obs, flags, flags, ~flags))
    torch.testing.assert_close(adapter.act(obs, explore=False), before)


def test_meta_parameters_hold_no_value_function_and_no_task():
    _, algorithm = small("rl2")
    names = set(algorithm.meta_parameters())
    assert not any(name.startswith(("value", "return_normalizer")) for name in names)
    assert {"normalizer.mean", "reward_normalizer.mean", "memory.weight_hh_l0", "policy.log_std"} <= names


def test_learning_rate_falls_to_a_tenth():
    _, algorithm = small("rl2", iterations=10, learning_rate=1e-3)
    algorithm.iteration = 10
    algorithm._schedule()
    assert abs(algorithm.optimizer.param_groups[0]["lr"] - 1e-4) < 1e-12


def test_one_update_raises_the_probability_of_what_paid():
    task, algorithm = small("rl2", "arm_slide", epochs=10, entropy_bonus=0.0, max_kl=10.0)
    rewards = torch.zeros(64, task.episodes_per_trial)
    rewards[:32] = 1.0
    rollout, _, _ = fake_rollout(task, rewards)
    rollout = dataclasses.replace(rollout, action=torch.where(rollout.reward.unsqueeze(-1) > 0, 0.5, -0.5).expand_as(rollout.action))
    for _ in range(5):
        algorithm.meta_update(rollout)
    mean = algorithm.adapter(1).act(torch.zeros(1, 1, task.spec.obs_size), explore=False)
    assert float(mean.min()) > 0.05


def test_ppo_maximises_what_training_is_told_and_the_memory_takes_in_what_was_paid():
    task, algorithm = small("rl2", "bandit_n10_k5")
    env = BatchedEnv(task, 3, 2, seed=5)
    env.set_tasks(task.sample(3))
    rollout = collect(env, algorithm.adapter(3, 2, training=True), explore=True)
    batch = algorithm.batch(rollout)
    torch.testing.assert_close(batch.reward, rollout.training_reward.flatten(2).flatten(0, 1))
    paid = algorithm.network.reward_normalizer(rollout.reward.flatten(2).flatten(0, 1).unsqueeze(-1))
    torch.testing.assert_close(batch.transition[..., -3:-2], paid)
    assert not torch.equal(rollout.reward, rollout.training_reward)
