"""The suite's tasks against dm_control itself stepping the same actions, and their hidden physics against separately compiled models."""

import math
import warnings

import mujoco
import numpy as np
import pytest
import torch

from metarl import tasks
from metarl.tasks.batched_env import BatchedEnv
from metarl.tasks.rewards import tolerance
from metarl.tasks.simulators.mujoco import compile_scene

THEIRS = {
    "dm_suite_cartpole_swingup": ("cartpole", "swingup", 0.0005),
    "dm_suite_walker_walk": ("walker", "walk", None),
    "dm_suite_cheetah_run": ("cheetah", "run", None),
}
every_task = pytest.mark.parametrize("name", THEIRS)


@pytest.fixture(scope="module")
def suite():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of its rendering, where there is no screen
        return pytest.importorskip("dm_control.suite")


def environment(name, rows, seed=0):
    task = tasks.make(name)
    env = BatchedEnv(task, len(rows), num_threads=1, seed=seed)
    env.set_tasks(task.custom(rows))
    env.reset()
    return env


@every_task
def test_observations_and_rewards_are_dm_controls(suite, name):
    domain, kind, _ = THEIRS[name]
    env = environment(name, [{}], seed=3)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        theirs = suite.load(domain, kind, task_kwargs={"random": 0})
        theirs.reset()
    with theirs.physics.reset_context():
        theirs.physics.data.qpos[:] = env.simulator.batch.bind("qpos")[0]
        theirs.physics.data.qvel[:] = env.simulator.batch.bind("qvel")[0]
    assert theirs.control_timestep() == pytest.approx(env.task.decision_dt)
    assert theirs.physics.timestep() == pytest.approx(env.task.physics_dt)
    rng = np.random.default_rng(0)
    for _ in range(40):
        action = rng.uniform(-1, 1, env.spec.action_size)
        step, told = env.step(torch.as_tensor(action, dtype=torch.float32)[None, None]), theirs.step(action.astype(np.float32))
        flat = np.concatenate([np.atleast_1d(value).ravel() for value in told.observation.values()])
        np.testing.assert_allclose(step.next_obs[0, 0], flat, rtol=1e-4, atol=1e-4)
        assert step.reward.item() == pytest.approx(told.reward, abs=1e-5)
    assert [len(np.atleast_1d(v)) for v in told.observation.values()] == list(env.spec.obs_sizes)
    assert env.spec.horizon == theirs._step_limit


@every_task
def test_episodes_begin_as_theirs(suite, name):
    """Mean and deviation of every coordinate over many starts; the cheetah's after it has come to rest."""
    domain, kind, _ = THEIRS[name]
    env = environment(name, [{}] * 300)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        theirs = suite.load(domain, kind, task_kwargs={"random": 1})
    begun = []
    for _ in range(60):
        theirs.reset()
        begun.append(theirs.physics.data.qpos.copy())
    ours, begun = env.simulator.batch.bind("qpos"), np.array(begun)
    spread = begun.std(0)
    np.testing.assert_allclose(ours.mean(0), begun.mean(0), atol=5 * spread.max() / math.sqrt(60) + 1e-6)
    np.testing.assert_allclose(ours.std(0), spread, atol=0.5 * spread.max() + 1e-6)


def test_tolerance_worked_out_by_hand():
    x = torch.tensor([0.0, 1.0, 2.0, 3.0, -1.0])
    assert tolerance(x, 1.0, 2.0).tolist() == [0.0, 1.0, 1.0, 0.0, 0.0]
    # at the margin a tenth, at twice the margin a tenth to the fourth
    torch.testing.assert_close(tolerance(x, 1.0, 2.0, margin=1.0), torch.tensor([0.1, 1.0, 1.0, 0.1, 1e-4]))
    torch.testing.assert_close(tolerance(x, 1.0, math.inf, margin=2.0, at_margin=0.5, falloff="linear"), torch.tensor([0.75, 1.0, 1.0, 1.0, 0.5]))
    torch.testing.assert_close(tolerance(x, margin=2.0, at_margin=0.0, falloff="quadratic"), torch.tensor([1.0, 0.75, 0.0, 0.0, 0.75]))
    with pytest.raises(ValueError, match="no falloff is called 'cubic'"):
        tolerance(x, margin=1.0, falloff="cubic")


def test_reward_of_the_cartpole_worked_out_by_hand():
    task = tasks.make("dm_suite_cartpole_swingup")
    xmat = torch.zeros(1, 27)
    xmat[0, 18 + 8] = 0.6  # cosine of the pole: upright 0.8
    readings = {"qpos": torch.tensor([[2.0, 0.0]]), "qvel": torch.tensor([[0.0, 5.0]]), "xmat": xmat}
    # 2 m off: 0.1 of centred; 5 rad/s: 0.1 of slow; half the force: 0.75 of quiet
    expected = 0.8 * (1 + 0.1) / 2 * (1 + 0.1) / 2 * (4 + 0.75) / 5
    assert task.reward(readings, torch.tensor([[0.5]]), readings).item() == pytest.approx(expected, rel=1e-5)
    assert not task.success(readings)


@every_task
def test_batched_physics_is_that_of_separately_compiled_models(name):
    task = tasks.make(name)
    batch = task.sample(3)
    env = BatchedEnv(task, 3, num_threads=1)
    env.set_tasks(batch)
    env.reset()
    start = env.simulator.batch.bind("qpos").copy(), env.simulator.batch.bind("qvel").copy()
    warm = env.simulator.batch.bind("qacc_warmstart").copy()
    ctrl = np.random.default_rng(0).uniform(-1, 1, (20, 3, env.simulator.model.nu))
    for commands in ctrl:
        env.simulator.advance(torch.as_tensor(commands), 2, None)
    for i in range(3):
        model = compiled_apart(task, {p.name: batch.column(p.name)[i] for p in task.params})
        data = mujoco.MjData(model)
        data.qpos[:], data.qvel[:], data.qacc_warmstart[:] = start[0][i], start[1][i], warm[i]
        for commands in ctrl[:, i]:
            data.ctrl[:] = commands
            mujoco.mj_step(model, data, 2)
        np.testing.assert_array_equal(env.simulator.batch.bind("qpos")[i], data.qpos)


def compiled_apart(task, values):
    model = compile_scene(task)
    model.opt.gravity[2] = -values["gravity"]
    model.actuator_gainprm *= values["gain"]
    if "pole_mass" in values:
        model.body("pole_1").mass *= values["pole_mass"]
        model.body("pole_1").inertia *= values["pole_mass"]
        model.joint("slider").damping[0] = values["rail"]
    else:
        model.body_mass *= values["mass"]
        model.body_inertia *= values["mass"]
        model.geom_friction *= values["friction"]
        model.dof_damping *= values["damping"]
    mujoco.mj_setConst(model, mujoco.MjData(model))
    return model
