"""The dm_env face: dm_env's own checks, and what it says of ends, against BatchedEnv."""

import unittest

import dm_env
import numpy as np
import pytest
import torch
from absl.testing import absltest
from dm_env import test_utils

from metarl import tasks
from metarl.tasks.batched_env import BatchedEnv
from metarl.tasks.dm_env import DmEnv


def check_with_dm_envs_own_tests(name):
    """Run `EnvironmentTestMixin` on a task; what failed."""

    class Checks(test_utils.EnvironmentTestMixin, absltest.TestCase):
        def make_object_under_test(self):
            return DmEnv(name)

        def make_action_sequence(self):
            rng, spec = np.random.default_rng(0), self.environment.action_spec()
            for _ in range(30):
                yield spec.dtype.type(rng.integers(spec.num_values)) if hasattr(spec, "num_values") else rng.uniform(-1, 1, spec.shape).astype(np.float32)

    result = unittest.TestResult()
    unittest.defaultTestLoader.loadTestsFromTestCase(Checks).run(result)
    assert result.testsRun == 4, "dm_env's tests of reset, step, its specs and its end"
    return [text for _, text in (*result.failures, *result.errors)]


@pytest.mark.parametrize("name", ["point_navigation", "grid_navi", "half_cheetah_vel", "hopper_rand_params", "arm_reach", "dm_suite_cheetah_run"])
def test_dm_envs_own_checks(name):
    assert check_with_dm_envs_own_tests(name) == []


def test_it_is_the_batched_environment_of_one_robot():
    env, task = DmEnv("half_cheetah_vel", "iid", index=3, seed=5), tasks.make("half_cheetah_vel")
    same = BatchedEnv(task, 1, num_threads=1, seed=5)
    same.set_tasks(task.sample(1, "iid", start=3))
    np.testing.assert_array_equal(env.step(np.zeros(6)).observation, same.reset()[0, 0])
    for action in np.random.default_rng(0).uniform(-1, 1, (5, 6)).astype(np.float32):
        mine, theirs = env.step(action), same.step(torch.as_tensor(action)[None, None])
        np.testing.assert_array_equal(mine.observation, theirs.next_obs[0, 0])
        assert (mine.reward, mine.discount) == (theirs.reward.item(), 1.0)


def test_time_being_up_is_not_an_end_by_itself():
    """grid_navi has 15 decisions and is never done; point_navigation is done at its goal, which one step reaches."""
    env = DmEnv("grid_navi")
    ends = [env.step(0) for _ in range(17)]
    assert [e.step_type for e in ends] == [dm_env.StepType.FIRST, *[dm_env.StepType.MID] * 14, dm_env.StepType.LAST, dm_env.StepType.FIRST]
    assert ends[15].discount == 1.0
    near = DmEnv("point_navigation")
    near.set_task(near.batched.task.custom([{"goal_x": 0.1, "goal_y": 0.05}]))
    near.reset()
    done = near.step(np.array([1.0, 0.5], np.float32))
    assert (done.step_type, done.discount) == (dm_env.StepType.LAST, 0.0)
    assert near.step(np.zeros(2, np.float32)).first()


def test_actions_that_are_refused():
    with pytest.raises(ValueError, match="action has shape"):
        begun(DmEnv("half_cheetah_vel")).step(np.zeros(5))
    env = begun(DmEnv("grid_navi"))
    for action in (5, -1, 1.5, float("nan"), "up"):
        with pytest.raises(ValueError, match=f"^action is {action}, expected a choice of 0 to 4$"):
            env.step(action)
    assert env.step(np.int64(4)).mid()


def begun(env):
    env.reset()
    return env
