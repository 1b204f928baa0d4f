"""Do learners with a memory learn? Bandits, because chance and the best that can be done are known: of 10 pulls 5.0 and 6.7 pay.

VariBAD is not among them: its decoder is shown o', which in a bandit is what was paid, so there is nothing left for a belief to foretell. It learns a
grid of 3 x 3 cells, where the best that can be done is known as well.
"""

import dataclasses

import pytest
import torch

from metarl import algos, tasks
from metarl.presets import config_for
from metarl.rollout import collect
from metarl.tasks.batched_env import BatchedEnv
from metarl.tasks.grid_navi import GridNavi
from metarl.tasks.parameters import Param

# RMA's student imitates a teacher who has nothing to find out: what it pulls at first tells it little
LEAST = {"rl2": 6.3, "snail": 6.3, "hypernetwork": 6.3, "rma": 5.4}
CONFIG = {"num_tasks": 512, "iterations": 60, "discount": 1.0, "gae_lambda": 0.9, "minibatches": 2, "epochs": 4, "learning_rate": 3e-3, "entropy_bonus": 0.02}


@pytest.mark.learn
@pytest.mark.parametrize("name", LEAST)
def test_bandits_are_learned(name):
    task = tasks.make("bandit_n10_k5")
    config = dataclasses.replace(config_for(name, "point_navigation"), **CONFIG)
    algorithm, env = algos.load(name)(task.spec, task.params, config, seed=0), BatchedEnv(task, config.num_tasks, seed=0)
    for iteration in range(config.iterations):
        env.set_tasks(task.practice(config.num_tasks, 0, iteration))
        algorithm.meta_update(collect(env, algorithm.adapter(config.num_tasks, training=True), explore=True))
    env = BatchedEnv(task, 4096, seed=1)
    env.set_tasks(task.sample(4096, "iid"))
    paid = float(collect(env, algorithm.adapter(4096)).returns.sum(-1).mean())
    assert paid > LEAST[name]


class SmallGrid(GridNavi):
    """3 x 3 cells, 5 goals, 3 episodes of 8 decisions. A policy that is shown the goal makes 8 - 1.1 x 1.8 = 6.02 an episode on average; one that looks for
    it on the shortest way past all of them makes 8 - 1.1 x 3 = 4.7."""

    horizon, episodes_per_trial = 8, 3
    params = (Param("goal", "", "the goal is cell {}", nominal="x=2 y=2", choices=("x=2 y=0", "x=2 y=1", "x=2 y=2", "x=1 y=2", "x=0 y=2")),)

    def goals(self, values, rng):
        return {"goal_pos": torch.tensor([(2.0, 0.0), (2.0, 1.0), (2.0, 2.0), (1.0, 2.0), (0.0, 2.0)])[values["goal"].long()]}

    def dynamics(self, readings, action, values, rng):
        return {"pos": super().dynamics(readings, action, values, rng)["pos"].clamp(max=2)}


@pytest.mark.learn
def test_varibad_goes_straight_to_a_goal_that_it_has_found():
    task = SmallGrid()
    config = dataclasses.replace(config_for("varibad", "grid_navi"), num_tasks=128, iterations=80, minibatches=2, discount=0.95)
    algorithm, env = algos.load("varibad")(task.spec, task.params, config, seed=0), BatchedEnv(task, config.num_tasks, seed=0)
    for iteration in range(config.iterations):
        env.set_tasks(task.practice(config.num_tasks, 0, iteration))
        algorithm.meta_update(collect(env, algorithm.adapter(config.num_tasks, training=True), explore=True))
    env = BatchedEnv(task, 512, seed=1)
    env.set_tasks(task.sample(512))
    first, *_, last = collect(env, algorithm.adapter(512)).returns.mean((0, 1)).tolist()
    assert last > 0.95 * 6.02
    assert first > 0.85 * 4.7
