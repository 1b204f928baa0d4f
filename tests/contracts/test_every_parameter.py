"""Every parameter of every task does something, in every simulator that the task runs in: low against high, all else equal.

Known traps: MuJoCo takes the larger friction of a pair; wind without density is nothing; PyBullet forgets properties.
"""

import pytest
import torch

from metarl import tasks
from metarl.tasks.batched_env import BatchedEnv

TOLERANCE = 1e-3  # m, rad, or of reward; identical tasks differ by exactly 0
STEPS = 20  # decisions of the fixed sequence, or one episode if that is shorter
CASES = [(name, engine) for name in tasks.names() for engine in tasks.make(name).simulators]


def extremes(param):
    """The ends of what training draws: the values that a task is most often near to."""
    return (param.choices[0], param.choices[-1]) if param.choices else param.train


def environment(task, engine=""):
    return BatchedEnv(task, 1, num_robots=2, simulator=engine, num_threads=1)


def play(env, row):
    """All that an adapter may see, observations and rewards, under fixed actions from the same start.

    One robot does a bit of everything, the other goes one way with all its might: a sparse reward must be met to be felt.
    """
    generator = torch.Generator().manual_seed(1)
    env.set_tasks(env.task.custom([row]))
    env.rng.manual_seed(0)
    seen = [env.reset().flatten()]
    for _ in range(min(STEPS, env.task.horizon)):
        action = 0.5 + 0.5 * torch.rand(1, 2, env.spec.action_size, generator=generator)
        action[:, 1] = torch.eye(env.spec.action_size)[0]
        step = env.step(action)
        seen += [step.next_obs.flatten(), step.reward.flatten()]
    return torch.cat(seen)


@pytest.mark.parametrize(("name", "engine"), CASES)
def test_every_parameter_matters(name, engine):
    task = tasks.make(name)
    env = environment(task, engine)
    effects = {}
    for param in task.params:
        low, high = (play(env, {param.name: value}) for value in extremes(param))
        effects[param.name] = (low - high).abs().max().item()
    env.close()
    assert min(effects.values()) > TOLERANCE, effects


@pytest.mark.parametrize(("name", "engine"), CASES)
def test_identical_tasks_are_identical(name, engine):
    task = tasks.make(name)
    env = environment(task, engine)
    row = {p.name: extremes(p)[1] for p in task.params}
    torch.testing.assert_close(play(env, row), play(env, row), rtol=0, atol=0)
    env.close()


def test_a_parameter_that_does_nothing_is_found():
    """The friction of a body on a rougher floor is such a one where priority is forgotten."""
    task = tasks.make("arm_slide")
    build = task.build

    def forgetful():
        spec = build()
        spec.geom("object").priority = 0
        return spec

    task.build = forgetful
    env = environment(task)
    low, high = (play(env, {"friction": value}) for value in (0.06, 0.15))
    torch.testing.assert_close(low, high, rtol=0, atol=0)
