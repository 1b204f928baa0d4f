"""Do learners with a memory learn? Bandits, because chance and the best that can be done are known: of 10 pulls 5.0 and 6.7 pay.

VariBAD is not among them: its decoder is shown o', which in a bandit is what was paid, so there is nothing left for a belief to foretell.
"""

import dataclasses

import pytest

from metarl import algos, tasks
from metarl.presets import config_for
from metarl.rollout import collect
from metarl.tasks.batched_env import BatchedEnv

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
