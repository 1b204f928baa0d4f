"""The locomotion benchmarks: against Gymnasium's own environments stepping the same actions, and against numbers worked out by hand."""

import math
import warnings

import gymnasium
import mujoco
import numpy as np
import pytest
import torch

from metarl import tasks
from metarl.robots.spec import Controls
from metarl.tasks.batched_env import BatchedEnv
from metarl.tasks.simulators.mujoco import compile_scene

CHEETAHS = [name for name in tasks.names() if name.startswith("half_cheetah")]
ANTS = [name for name in tasks.names() if name.startswith("ant_")]
RAND_PARAMS = [name for name in tasks.names() if "rand_params" in name]


def play(name, row, steps=25, seed=0):
    """Environment of one task, the action of every step (steps, A) and the Steps, until the end."""
    task = tasks.make(name)
    env = BatchedEnv(task, 1, num_threads=1, seed=seed)
    env.set_tasks(task.custom([row]))
    env.reset()
    before, taken = [env.readings], []
    for action in 2 * torch.rand(steps, 1, 1, task.spec.action_size, generator=torch.Generator().manual_seed(seed)) - 1:
        if env.all_ended:
            break
        taken.append(env.step(action))
        before.append(env.readings)
    return env, before, taken


def peer(kind, qpos, qvel, **settings):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of its model
        env = gymnasium.make(kind, **settings).unwrapped
    env.reset(seed=0)
    env.set_state(qpos.double().numpy(), qvel.double().numpy())
    return env


@pytest.mark.parametrize("name", ["half_cheetah_vel", "half_cheetah_vel_pearl", "half_cheetah_vel_promp"])
def test_target_velocity_against_gymnasiums_half_cheetah(name):
    """Its reward is velocity - 0.1 times the squared actions, told apart in `info`."""
    _, readings, steps = play(name, {"velocity": 1.3}, steps=40)
    theirs = peer("HalfCheetah-v5", readings[0]["qpos"][0], readings[0]["qvel"][0])
    for step, after in zip(steps, readings[1:], strict=True):
        obs, _, _, _, info = theirs.step(step.action[0, 0].double().numpy())
        np.testing.assert_allclose(step.next_obs[0, 0, :17], obs, atol=2e-4)
        expected = -abs(info["x_velocity"] - 1.3) + 0.5 * info["reward_ctrl"]
        assert step.reward.item() == pytest.approx(expected, abs=1e-4)
        assert after["qvel"][0, 0].item() == pytest.approx(obs[8], abs=2e-4)
    theirs.close()


@pytest.mark.parametrize(("name", "direction", "sign"), [("half_cheetah_dir", "backward", -1), ("half_cheetah_dir_promp", "forward", 1)])
def test_direction_against_gymnasiums_half_cheetah(name, direction, sign):
    _, readings, steps = play(name, {"direction": direction})
    theirs = peer("HalfCheetah-v5", readings[0]["qpos"][0], readings[0]["qvel"][0])
    for step in steps:
        *_, info = theirs.step(step.action[0, 0].double().numpy())
        assert step.reward.item() == pytest.approx(sign * info["x_velocity"] + 0.5 * info["reward_ctrl"], abs=1e-4)
    theirs.close()


def test_walking_towards_a_direction_against_gymnasiums_ant():
    """Its torso's velocity is read a step of physics late, so that ours is theirs only nearly; all the rest is exact."""
    _, readings, steps = play("ant_dir_promp", {"direction": "forward"}, steps=20)
    theirs = peer("Ant-v5", readings[0]["qpos"][0], readings[0]["qvel"][0], include_cfrc_ext_in_observation=False)
    for step, after in zip(steps, readings[1:], strict=True):
        obs, _, _, _, info = theirs.step(step.action[0, 0].double().numpy())
        np.testing.assert_allclose(step.next_obs[0, 0, :27], obs, atol=2e-3)
        assert info["reward_ctrl"] == pytest.approx(-0.5 * step.action.square().sum().item(), abs=1e-5)
        cost = 0.0005 * after["cfrc_ext"].clamp(-1, 1).square().sum().item()
        assert step.reward.item() == pytest.approx(info["x_velocity"] + 1.0 + info["reward_ctrl"] - cost, abs=0.2)
    felt = torch.stack([after["cfrc_ext"].abs().max() for after in readings])
    assert felt[0] == 0 < felt.max(), "the ant begins in the air, and feels the floor when it has met it"
    theirs.close()


def test_humanoids_observation_is_gymnasiums():
    _, readings, steps = play("humanoid_dir", {}, steps=5)
    theirs = peer("Humanoid-v5", readings[0]["qpos"][0], readings[0]["qvel"][0])
    for step in steps:
        obs, *_ = theirs.step(0.4 * step.action[0, 0].double().numpy())
        np.testing.assert_allclose(step.next_obs[0, 0, :45], obs[:45], atol=2e-3)
    names, sizes = tasks.make("humanoid_dir").spec.obs_names, tasks.make("humanoid_dir").spec.obs_sizes
    assert dict(zip(names, sizes, strict=True)) == {"qpos": 22, "qvel": 23, "cinert": 140, "cvel": 84, "qfrc_actuator": 23, "cfrc_ext": 84}
    assert sum(sizes) == 376
    theirs.close()


@pytest.mark.parametrize("name", [*CHEETAHS, *ANTS, "humanoid_dir", *RAND_PARAMS])
def test_the_solver_is_that_of_the_file(name):
    task = tasks.make(name)
    model = compile_scene(task)
    runge_kutta = not name.startswith("half_cheetah")
    assert model.opt.integrator == (mujoco.mjtIntegrator.mjINT_RK4 if runge_kutta else mujoco.mjtIntegrator.mjINT_EULER)
    assert model.opt.cone == mujoco.mjtCone.mjCONE_PYRAMIDAL
    assert model.opt.impratio == 1.0
    assert [model.joint(model.actuator_trnid[a, 0]).name for a in range(model.nu)] == list(task.action_names)
    np.testing.assert_allclose(model.actuator_ctrlrange, np.tile([-task.ctrl_scale, task.ctrl_scale], (model.nu, 1)))


# ---- rewards and ends by hand ------------------------------------------------------------------------------------------------


def test_rewards_worked_out_by_hand():
    action = torch.full((1, 6), 0.5)  # squares sum to 1.5: control cost 0.075
    here, there = ({"qpos": torch.tensor([[x, *[0.0] * 8]])} for x in (1.0, 1.2))  # 0.2 m in 0.05 s: 4 m/s
    goal = {"target_vel": torch.tensor([[2.5]]), "direction": torch.tensor([[-1.0]])}
    assert tasks.make("half_cheetah_vel").reward({**here, **goal}, action, there).item() == pytest.approx(-1.5 - 0.075)
    assert tasks.make("half_cheetah_dir").reward({**here, **goal}, action, there).item() == pytest.approx(-4.0 - 0.075)
    com = {"com_linvel": torch.tensor([[1.5, 0.0, 0.3]])}  # rllab: at the end of the decision, of the centre of mass
    assert tasks.make("half_cheetah_vel_maml").reward({**here, **goal}, action, {**there, **com}).item() == pytest.approx(-1.0 - 0.075)
    alive = {"alive": torch.tensor([[1.0, 0.0, 1.0, 1.0, 1.0, 1.0]])}  # five squares of 0.25 that count
    assert tasks.make("half_cheetah_cripple").reward({**here, **alive}, action, {**there, **com}).item() == pytest.approx(1.5 - 0.0625)


def test_rewards_of_the_ant_worked_out_by_hand():
    action = torch.full((1, 8), 0.5)  # squares sum to 2
    forces = torch.zeros(1, 84)
    forces[0, :3] = torch.tensor([5.0, -2.0, 0.5])  # cut to 1, -1, 0.5: squares sum to 2.25
    here = {"torso_pos": torch.tensor([[0.0, 0.0, 0.5]]), "cfrc_ext": forces}
    there = {"torso_pos": torch.tensor([[0.1, 0.05, 0.5]]), "cfrc_ext": forces}  # 2 and 1 m/s
    towards = {"direction": torch.tensor([[0.6, 0.8]]), "goal_pos": torch.tensor([[1.1, -1.95]])}
    expected = 2 * 0.6 + 1 * 0.8 + 1.0 - 0.5 * 2 - 0.0005 * 2.25
    assert tasks.make("ant_dir").reward({**here, **towards}, action, there).item() == pytest.approx(expected)
    expected = -(1.0 + 2.0) - 0.1 * 2 - 0.0005 * 2.25
    assert tasks.make("ant_goal").reward({**here, **towards}, action, there).item() == pytest.approx(expected)


def test_reward_of_the_humanoid_worked_out_by_hand():
    forces = torch.full((1, 84), 1000.0)  # 84e6 * 5e-7 = 42, at most 10
    here = {"com_pos": torch.zeros(1, 3), "direction": torch.tensor([[0.0, 1.0]])}
    there = {"com_pos": torch.tensor([[5.0, 0.012, 0.0]]), "cfrc_ext": forces}
    action = torch.full((1, 17), 0.5)  # commands of 0.2: 17 * 0.04 * 0.1
    expected = 0.25 * 0.012 / 0.003 + 5.0 - 0.068 - 10.0
    assert tasks.make("humanoid_dir").reward(here, action, there).item() == pytest.approx(expected)


def test_reward_and_ends_with_random_physics():
    hopper, walker = tasks.make("hopper_rand_params"), tasks.make("walker_rand_params")
    here, there = ({"qpos": torch.tensor([[x, *[0.0] * 5]])} for x in (0.0, 0.032))  # 0.032 m in 0.016 s
    assert hopper.reward(here, torch.ones(1, 3), there).item() == pytest.approx(2.0 + 1.0 - 0.003)
    state = torch.tensor([[1.0, 0.19], [1.0, -0.2], [0.7, 0.0], [0.71, 0.0]])
    qpos = torch.cat([torch.zeros(4, 1), state, torch.zeros(4, 3)], -1)
    assert hopper.terminated({"qpos": qpos, "qvel": torch.zeros(4, 6)}).tolist() == [False, True, True, False]
    assert hopper.terminated({"qpos": qpos, "qvel": torch.full((4, 6), 101.0)}).all()
    state = torch.tensor([[0.81, 0.0], [0.8, 0.0], [2.0, 0.0], [1.0, 0.99], [1.0, -1.0]])
    qpos = torch.cat([torch.zeros(5, 1), state, torch.zeros(5, 6)], -1)
    assert walker.terminated({"qpos": qpos, "qvel": torch.zeros(5, 9)}).tolist() == [False, True, True, False, True]


@pytest.mark.parametrize(("name", "low"), [("ant_dir", 0.2), ("ant_dir_promp", 0.0), ("ant_dir_varibad", 0.2)])
def test_heights_at_which_the_ant_is_done(name, low):
    heights = torch.tensor([low - 0.01, low + 0.01, 0.99, 1.01])
    qpos = torch.cat([torch.zeros(4, 2), heights.unsqueeze(-1), torch.zeros(4, 12)], -1)
    assert tasks.make(name).terminated({"qpos": qpos}).tolist() == [True, False, False, True]


def test_heights_at_which_the_humanoid_is_done():
    qpos = torch.tensor([[0.0, 0.0, 0.99], [0.0, 0.0, 1.01], [0.0, 0.0, 1.99], [0.0, 0.0, 2.01]])
    assert tasks.make("humanoid_dir").terminated({"qpos": qpos}).tolist() == [True, False, False, True]
    assert not tasks.make("ant_goal").terminated({"torso_pos": qpos}).any()


# ---- variants ----------------------------------------------------------------------------------------------------------------


def goals(name, row):
    task = tasks.make(name)
    return task.goals({k: torch.as_tensor(v, dtype=torch.float32) for k, v in task.custom([row]).named().items()}, torch.Generator())


def test_what_the_directions_mean():
    quarter = math.pi / 2
    torch.testing.assert_close(goals("ant_dir", {"angle": quarter})["direction"], torch.tensor([[0.0, 1.0]]), atol=1e-6, rtol=0)
    torch.testing.assert_close(goals("ant_dir_promp", {"direction": "backward"})["direction"], torch.tensor([[-1.0, 0.0]]))
    beside = torch.tensor([[math.cos(1.0), -math.sin(1.0)]])
    torch.testing.assert_close(goals("ant_dir_varibad", {"direction": "-1"})["direction"], beside)
    torch.testing.assert_close(goals("ant_goal", {"angle": quarter, "area": 0.25})["goal_pos"], torch.tensor([[0.0, 1.5]]), atol=1e-6, rtol=0)
    assert goals("half_cheetah_dir", {"direction": "backward"})["direction"].item() == -1.0


@pytest.mark.parametrize(
    ("name", "obs", "horizon", "dt"),
    [
        ("half_cheetah_vel", 20, 200, 0.05), ("half_cheetah_vel_promp", 17, 200, 0.05), ("half_cheetah_vel_maml", 20, 200, 0.01),
        ("half_cheetah_dir", 20, 200, 0.05), ("half_cheetah_dir_promp", 17, 100, 0.05), ("half_cheetah_dir_maml", 20, 100, 0.01),
        ("ant_dir", 27, 200, 0.05), ("ant_dir_promp", 111, 200, 0.05), ("ant_goal", 113, 200, 0.05), ("humanoid_dir", 376, 200, 0.015),
        ("walker_rand_params", 17, 200, 0.016), ("hopper_rand_params", 11, 200, 0.016), ("half_cheetah_cripple", 20, 1000, 0.01),
    ],
)  # fmt: skip
def test_sizes_as_published(name, obs, horizon, dt):
    spec = tasks.make(name).spec
    assert (spec.obs_size, spec.horizon, spec.control_dt) == (obs, horizon, pytest.approx(dt))


@pytest.mark.parametrize(
    ("name", "train", "test"),
    [
        ("half_cheetah_vel_pearl", 100, 30), ("ant_goal_pearl", 150, 30), ("humanoid_dir_pearl", 100, 30), ("ant_dir_pearl", 2, 2),
        ("walker_rand_params_pearl", 40, 10), ("hopper_rand_params_pearl", 40, 10),
    ],
)  # fmt: skip
def test_as_many_tasks_as_published(name, train, test):
    task = tasks.make(name)
    assert {split: len(rows) for split, rows in task.published.items()} == {"train": train, "iid": test}
    with pytest.raises(ValueError, match=f"{name} has no task {train} in split 'train': it is a published set of {train} tasks"):
        task.sample(1, "train", start=train)


@pytest.mark.parametrize("name", RAND_PARAMS)
def test_decisions_with_random_physics_are_four_steps_of_four_milliseconds(name):
    env, readings, _ = play(name, {}, steps=1)
    model = env.simulator.model
    assert model.opt.timestep == 0.004
    data = mujoco.MjData(model)
    data.qpos[:], data.qvel[:] = readings[0]["qpos"][0], readings[0]["qvel"][0]
    data.ctrl[:] = env.readings["last_action"][0]
    mujoco.mj_step(model, data, 4)
    np.testing.assert_allclose(readings[1]["qpos"][0], data.qpos, atol=1e-5)
    assert env.task.sample(1).ids[0].startswith(f"{name}/v2:"), "who knows what was measured of the former steps must be told"


@pytest.mark.parametrize(
    ("name", "episodes"),
    [
        ("ant_dir_pearl", 3), ("ant_dir_forward_backward", 3), ("ant_dir_varibad", 2), ("ant_goal_pearl", 3), ("ant_goal_varibad", 2),
        ("half_cheetah_dir_pearl", 3), ("half_cheetah_dir", 2), ("half_cheetah_vel_pearl", 3), ("half_cheetah_vel", 2), ("humanoid_dir_pearl", 3),
        ("walker_rand_params_pearl", 3), ("walker_rand_params", 2), ("hopper_rand_params_pearl", 3),
    ],
)  # fmt: skip
def test_pearl_judges_the_third_episode_and_varibad_has_two(name, episodes):
    assert tasks.make(name).episodes_per_trial == episodes


def test_pearls_two_directions_are_the_same_to_train_and_to_test():
    task = tasks.make("ant_dir_pearl")
    train, test = task.sample(2), task.sample(2, "iid")
    np.testing.assert_array_equal(train.values, test.values)
    assert train.values[0, 0] != train.values[1, 0]
    assert ((train.values >= 0) & (train.values < 2 * math.pi)).all()


def test_pearls_velocities():
    """The first numbers of NumPy's old generator with seed 1337, times 3, as every user of PEARL's code has drawn them."""
    drawn = tasks.make("half_cheetah_vel_pearl").sample(2, "train").values[:, 0]
    np.testing.assert_allclose(drawn / 3.0, [0.26202468, 0.15868397], atol=1e-8)


def test_a_dead_joint_gets_nothing_and_is_not_seen():
    env, readings, _ = play("half_cheetah_cripple", {"dead_joint": "fthigh"}, steps=3)
    command = env.task.command(torch.ones(1, 6), env.readings)
    assert isinstance(command, Controls)
    assert command.ctrl.tolist() == [[1.0, 1.0, 1.0, 0.0, 1.0, 1.0]]
    assert env.simulator.batch.bind("ctrl")[0, 3] == 0.0
    assert env.obs.shape[-1] == 20
    assert "alive" not in env.spec.obs_names
    assert goals("half_cheetah_cripple", {"dead_joint": "bthigh"})["alive"].tolist() == [[0.0, 1.0, 1.0, 1.0, 1.0, 1.0]]
    assert len(readings) == 4


# ---- physics that differs -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", RAND_PARAMS)
def test_batched_physics_is_that_of_separately_compiled_models(name):
    task = tasks.make(name)
    batch = task.sample(3)
    env = BatchedEnv(task, 3, num_threads=1, seed=4)
    env.set_tasks(batch)
    env.reset()
    start = env.simulator.batch.bind("qpos").copy(), env.simulator.batch.bind("qvel").copy()
    ctrl = np.random.default_rng(0).uniform(-1, 1, (10, 3, env.simulator.model.nu))
    for commands in ctrl:
        env.simulator.advance(torch.as_tensor(commands), 4, None)
    for i in range(3):
        model = compiled_apart(task, {p.name: batch.column(p.name)[i] for p in task.params})
        data = mujoco.MjData(model)
        data.qpos[:], data.qvel[:] = start[0][i], start[1][i]
        for commands in ctrl[:, i]:
            data.ctrl[:] = commands
            mujoco.mj_step(model, data, 4)
        np.testing.assert_array_equal(env.simulator.batch.bind("qpos")[i], data.qpos)
        np.testing.assert_array_equal(env.simulator.batch.bind("qvel")[i], data.qvel)


def compiled_apart(task, values):
    """The task's model with its numbers written into it one by one, and what follows from them worked out anew."""
    model = compile_scene(task)
    for name, factor in values.items():
        kind, of = name.split("_", 1)
        if kind in ("mass", "density"):
            model.body(of).mass *= factor
        if kind == "density":
            model.body(of).inertia *= factor
        elif kind == "inertia":
            model.body(of).inertia[1] *= factor
        elif kind == "damping":
            model.joint(of).damping *= factor
        elif kind == "friction":
            model.geom(of).friction[0] *= factor
    mujoco.mj_setConst(model, mujoco.MjData(model))
    return model


def test_factors_are_drawn_as_published():
    """Mass, inertia and friction times 1.5^U(-3, 3), damping times 1.3^U(-3, 3)."""
    task = tasks.make("walker_rand_params")
    drawn = task.sample(500)
    for param in task.params:
        exponent = np.log(drawn.column(param.name)) / np.log(1.3 if param.name.startswith("damping") else 1.5)
        assert -3 <= exponent.min() < -2.9
        assert 2.9 < exponent.max() <= 3
        assert abs(exponent.mean()) < 0.3
    apart = np.corrcoef(np.log(drawn.column("mass_torso")), np.log(drawn.column("inertia_torso")))[0, 1]
    assert abs(apart) < 0.15, "the published task scales masses and inertias each by itself"


def test_physical_bodies_keep_the_triangle_inequality():
    task = tasks.make("walker_rand_params_physical")
    env = BatchedEnv(task, 20, num_threads=1)
    env.set_tasks(task.sample(20, "ood_far"))
    inertia = env.simulator.batch.expand("body_inertia")[:, 1:]
    assert (inertia.sum(-1) - 2 * inertia.max(-1) >= 0).all()
    mass, nominal = env.simulator.batch.expand("body_mass")[:, 1:], env.simulator.model.body_mass[1:]
    np.testing.assert_allclose(inertia / env.simulator.model.body_inertia[1:], (mass / nominal)[..., None].repeat(3, -1))
