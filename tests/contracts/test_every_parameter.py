"""Every parameter of every task does something, in every simulator that the task runs in: low against high, all else equal.

Known traps: MuJoCo takes the larger friction of a pair; wind without density is nothing; PyBullet forgets properties.
"""

import functools
import math

import pytest
import torch

from metarl import tasks
from metarl.tasks.batched_env import BatchedEnv

TOLERANCE = 1e-3  # m, rad, or of reward; identical tasks differ by exactly 0
STEPS = 20  # decisions of the fixed sequence, or one episode if that is shorter
ANALYTIC_STEPS = 100
CASES = [(name, engine) for name in tasks.names() for engine in tasks.make(name).simulators]


def extremes(param):
    """The ends of what training draws: the values that a task is most often near to. Of a full circle, two opposite directions."""
    if param.choices:
        return param.choices[0], param.choices[-1]
    low, high = param.train
    return (low, low + math.pi) if param.unit == "rad" and high - low == 2 * math.pi else (low, high)


def pairs_of(param, everything=True):
    """What must differ: two ends, or each choice of any split from the nominal one; or else the last choice of each split, where each costs seconds."""
    if not param.choices:
        return [(param, *extremes(param))]
    chosen = param.all_choices if everything else (param.choices[-1], *param.ood_near[-1:], *param.ood_far[-1:])
    return [(param, param.nominal, other) for other in dict.fromkeys(chosen) if other != param.nominal]


def environment(task, engine="", num_tasks=1):
    """Two robots for each task; of choices, one for each that there is and one more, or, where they cost physics, the expert alone."""
    analytic = "analytic" in task.simulators
    num_robots = 2 if not task.discrete else task.spec.action_size + 1 if analytic else 1
    return BatchedEnv(task, num_tasks, num_robots + (analytic and task.has_expert), simulator=engine, num_threads=1)


def play(env, rows):
    """(M, ...) step by step all that an adapter may see, observations and rewards, under fixed actions from the same start.

    One robot does a bit of everything, the other goes one way with all its might: a sparse reward must be met to be felt. Where actions are
    choices, each robot but the first makes one of them all the time. An analytic task is cheap enough for many episodes; with an expert, its
    decisions in the nominal task are repeated by the last robot.
    """
    generator = torch.Generator().manual_seed(1)
    analytic, size = "analytic" in env.task.simulators, env.spec.action_size
    env.set_tasks(env.task.custom(rows))
    env.rng.manual_seed(0)
    yield env.reset().flatten(1)
    shown = expert_actions(env.task.name) if env.task.has_expert else None
    for i in range(ANALYTIC_STEPS if analytic else min(STEPS, env.task.horizon)):
        if env.all_ended:  # an earlier end in one of two tasks is an effect, too: what is seen has the same length
            env.reset()
        yield env.obs.unflatten(0, (env.num_tasks, env.num_robots)).flatten(1)
        action = 0.5 + 0.5 * torch.rand(1, env.num_robots, size, generator=generator)
        action[:, 1:] = torch.eye(env.num_robots - 1, size)
        if shown is not None:
            action[:, -1] = shown[i % len(shown)]
        step = env.step(action.expand(env.num_tasks, -1, -1))
        yield step.next_obs.flatten(1)
        yield step.reward.flatten(1)


def largest_effects(env, low, high):
    """(M,) largest difference between two plays, which is followed until each is larger than TOLERANCE."""
    before, effect = list(play(env, low)), torch.zeros(env.num_tasks)
    for one, other in zip(before, play(env, high), strict=True):
        effect = torch.maximum(effect, (one - other).abs().amax(1))
        if (effect > TOLERANCE).all():
            break
    return effect


@functools.cache
def expert_actions(name):
    """(H, A) what the task's expert does in the nominal task, to the end of an episode."""
    task = tasks.make(name)
    env = BatchedEnv(task, 1, num_threads=1)
    env.set_tasks(task.custom([{}]))
    env.reset()
    return torch.cat([env.step(task.expert(env.sensed, env.values).unsqueeze(0)).action[0] for _ in range(task.horizon)])


@pytest.mark.parametrize(("name", "engine"), CASES)
def test_every_parameter_matters(name, engine):
    task = tasks.make(name)
    groups = [pairs_of(p, everything=engine != "pybullet") for p in task.params]
    if engine == "analytic":  # takes all parameters at once, one in each task of a batch
        groups = [[pair for group in groups for pair in group]]
    envs = {size: environment(task, engine, size) for size in {len(group) for group in groups}}
    effects = {}
    for group in groups:
        low, high = ([{pair[0].name: pair[end]} for pair in group] for end in (1, 2))
        effects |= dict(zip([(p.name, *values) for p, *values in group], largest_effects(envs[len(group)], low, high).tolist(), strict=True))
    for env in envs.values():
        env.close()
    assert {pair: effect for pair, effect in effects.items() if not effect > TOLERANCE} == {}, f"values that make no difference to {name} in {engine}"


@pytest.mark.parametrize(("name", "engine"), CASES)
def test_identical_tasks_are_identical(name, engine):
    task = tasks.make(name)
    env = environment(task, engine)
    row = {p.name: extremes(p)[1] for p in task.params}
    assert not largest_effects(env, [row], [row]).any()
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
    assert not largest_effects(env, [{"friction": 0.06}], [{"friction": 0.15}]).any()
