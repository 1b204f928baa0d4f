"""What holds for every task distribution; a new task file is found by itself."""

import inspect
import json
import subprocess
import sys

import numpy as np
import pytest
import torch

from metarl import robots, tasks
from metarl.tasks.batched_env import BatchedEnv

STEPS = 12
# Task 7 of `train`, seed 1, drawn once and written down. If one of these changes the task needs a new version.
DRAWN = {
    "arm_push": {
        "shape": "cylinder", "half_size": 0.02560619810191497, "mass": 0.1456156886377888, "friction": 0.162964510768494, "com_along": 0.17149372513122807,
        "com_aside": 0.04585434748826678, "delay": 0.09029222513054634, "camera_yaw": 0.1781609981743763, "camera_x": -0.024969797068418197,
        "camera_y": 0.027041209628453425, "target_distance": 0.1811271373218796, "target_angle": -0.6562907707765759,
    },
    "arm_push_hidden_goal": {
        "shape": "box", "half_size": 0.02117539183515611, "mass": 0.46686337629560054, "friction": 0.24822283895817954,
        "com_along": -0.23800997873119575, "com_aside": 0.19743858670687287, "target_distance": 0.1670172784309144, "target_angle": -0.14183176254385632,
    },
    "arm_reach": {
        "payload": 0.4549172502230301, "actuator_gain": 0.9077450192549258, "damping": 0.6931436650760102, "delay": 0.00031748418785241926,
        "camera_yaw": 0.04511662269809405, "camera_x": 0.0024749745734403833, "camera_y": 0.003737758131654917, "camera_z": 0.0016736554225628211,
    },
    "arm_slide": {
        "shape": "box", "half_size": 0.03056932750503217, "mass": 0.18121486734161876, "friction": 0.07609483322047181, "com_along": 0.049537453093643324,
        "com_aside": -0.24348202414793396, "camera_yaw": 0.031730402043874284, "camera_x": -0.006349886731718931, "camera_y": -0.001508267931546888,
        "target_distance": 0.6530488389213309, "target_angle": -0.20205729134978606,
    },
    "bandit_n10_k5": {"p0": 0.3640509896149767, "p1": 0.7942765167408168, "p2": 0.8943286922035981, "p3": 0.9129365561704474, "p4": 0.3512289238051478},
    "grid_navi": {"goal": "x=1 y=4"},
    "half_cheetah_vel": {"velocity": 2.0347056895499565},
    "half_cheetah_cripple": {"dead_joint": "bshin"},
    "ant_goal": {"angle": 1.104918601286313, "area": 0.5723693776848582},
    "dm_suite_walker_walk": {
        "mass": 0.9505147507149883, "friction": 0.6354223463222716, "damping": 0.5978670118543409, "gravity": 12.132556531876983,
        "gain": 0.7241792607441656,
    },
    "hopper_rand_params_physical": {
        "density_torso": 3.3631459280551175, "density_thigh": 3.2048004677337802, "density_leg": 1.212312230144711, "density_foot": 0.739488354725633,
        "damping_thigh_joint": 1.9950721582916942, "damping_leg_joint": 2.037670081015013, "damping_foot_joint": 0.8543769111924958,
        "friction_floor": 2.2593142376325828, "friction_foot_geom": 1.2641978221521861,
    },
    "car_track": {
        "friction": 0.7957302356661056, "patch_friction": 0.15654049435975625, "patch_angle": 2.9251627855276254, "wind_speed": 0.09016871730668163,
        "wind_angle": -1.9009532026759233, "visibility": 26.058401278362297, "payload": 1.7893220166850943, "steering_bias": 0.10550676019148647,
        "motor_gain": 1.1983556162597528, "delay": 0.11997516487918511, "track_radius": 2.3860777278472485, "wave_2": 0.02142990572724349,
        "phase_2": -2.278202636252007, "wave_3": 0.002239061745419555, "phase_3": -2.3291794514219637, "wave_4": 0.004932073871242029,
        "phase_4": 1.8306383556455152,
    },
    "quadrotor_track": {
        "wind_speed": 3.077894657222047, "wind_angle": -2.1728273812891032, "drag_area": 0.025786193326804468, "payload": 0.09570823780861618,
        "rotor_1": 0.9915217982984083, "rotor_2": 0.9453570597938197, "rotor_3": 0.987119695877281, "rotor_4": 0.97331126797645,
        "motor_lag": 0.04822677219755864, "com_x": 0.0017358706663303351, "com_y": -0.006336894003569227, "target_radius": 0.4641445501442374,
        "target_rate": 0.5917979538161624,
    },
    "kitchen": {
        "layout": "L", "order": "cts", "burner": "2", "handle": "ring", "mechanism": "drawer", "control_map": "1342", "control_law": "falling",
        "sense": "right", "capacity": 737.6351830629471,
    },
    "kitchen_handles": {
        "layout": "I", "order": "tsc", "burner": "4", "handle": "vertical_bar", "mechanism": "press", "control_map": "2341", "control_law": "dead_band",
        "sense": "left", "capacity": 946.0358432392081,
    },
    "kitchen_grid": {"layout": "row", "burner": "4", "control_map": "1423", "control_law": "dead_band", "capacity": 726.7199908924898},
    "point_navigation": {"goal_x": -0.1452546857089284, "goal_y": -0.23688126745418703},
    "sparse_point_varibad": {"angle": 2.2288573958499893},
}  # fmt: skip
# Parameters that say what is asked and nothing else: where they are hidden, nothing but the reward may tell of them.
GOALS = ("angle", "area", "direction", "goal", "goal_x", "goal_y", "target_angle", "target_distance", "velocity")
# Hidden parameters that the first observation is meant to depend on, by the parts of it that do: a camera that is wrong, what can be seen of an object,
# how far one sees through fog, posts that are near, the pose in which a body has come to rest.
_CAMERA = ("camera_yaw", "camera_x", "camera_y", "camera_z")
_SEEN_FROM_THE_ARM = dict.fromkeys(("target_pos", "target_from_tool"), _CAMERA)
_POSTS = tuple(f"post_{number}_{what}" for number in range(4) for what in ("angle", "aside"))
SHOWN = {
    **dict.fromkeys(("arm_reach", "arm_reach_jaco", "arm_reach_ur5e"), _SEEN_FROM_THE_ARM),
    **dict.fromkeys(("arm_slide", "arm_slide_jaco"), dict.fromkeys(("object_xy", "target_from_object"), _CAMERA)),
    "arm_push": dict.fromkeys(("target", "target_from_tool", "object_from_tool", "target_from_object"), _CAMERA),
    "arm_lift_place": {"object_from_tool": ("shape", "half_width")},
    "car_track": {"waypoints": ("visibility",)},
    "car_track_obstacles": {"waypoints": ("visibility",), "lidar": ("visibility", *_POSTS)},
    "dm_suite_cheetah_run": dict.fromkeys(("position", "velocity"), ("mass", "friction", "damping", "gravity")),
}
# How many tasks there are where all parameters are choices, or a publication drew no others to test. Who meets them in training is tested on the same.
SAME_TO_TEST = {
    **dict.fromkeys(("ant_dir_forward_backward", "ant_dir_promp", "ant_dir_varibad"), 2),
    **dict.fromkeys(("half_cheetah_dir", "half_cheetah_dir_maml", "half_cheetah_dir_pearl", "half_cheetah_dir_promp"), 2),
    "ant_dir_pearl": 2,
    "half_cheetah_cripple": 5,
    "grid_navi": 21,
}
# Parts of published observations that are what they are: with components that never change, or in units of their own.
AS_PUBLISHED = {
    **dict.fromkeys(("half_cheetah_dir", "half_cheetah_dir_pearl", "half_cheetah_vel", "half_cheetah_vel_pearl"), ("torso_pos",)),
    **dict.fromkeys(("half_cheetah_dir_maml", "half_cheetah_vel_maml", "half_cheetah_cripple"), ("com_pos",)),
    **dict.fromkeys(("ant_dir_promp", "ant_goal", "ant_goal_pearl", "ant_goal_varibad"), ("cfrc_ext",)),
    **dict.fromkeys(("humanoid_dir", "humanoid_dir_pearl"), ("cinert", "cvel", "qfrc_actuator", "cfrc_ext")),
}

every_task = pytest.mark.parametrize("name", tasks.names())


def up_to(task, number, split="train", seed=0):
    """That many tasks of a split, or all where it is a published set of fewer."""
    return task.sample(min(number, len(task.published.get(split, range(number)))), split, seed)


def some(task, indices, split="train"):
    """Tasks of a split by their numbers, counted over again where it is a published set of fewer."""
    size = len(task.published.get(split, range(max(indices) + 1)))
    return task.sample(size, split)[[i % size for i in indices]]


def some_values(param):
    """All choices, or three numbers of the training range that no symmetry maps onto each other."""
    if param.choices:
        return param.all_choices
    low, high = param.train
    return low, low + 0.3 * (high - low), high


def custom(task, values):
    """A task for each of some pairs of a parameter and its value, all others nominal; quicker than `Task.custom` where there are hundreds."""
    rows, names = np.repeat(task.custom([{}]).values, len(values), 0), [p.name for p in task.params]
    for row, (param, value) in zip(rows, values, strict=True):
        row[names.index(param.name)] = param.encode(value)
    return tasks.TaskBatch(task.name, task.params, rows, tuple(map(str, range(len(rows)))))


def random_actions(env: BatchedEnv, steps: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return 2 * torch.rand(steps, env.num_tasks, env.num_robots, env.spec.action_size, generator=generator) - 1


def play(env: BatchedEnv, batch, actions, expert=None):
    """Observations (steps + 1, N, O) and steps of whole episodes, one after another, under given actions; every second task is the expert's."""
    env.set_tasks(batch)
    obs, steps = [env.reset()], []
    for action in actions:
        if env.all_ended:
            obs.append(env.reset())
        if expert is not None:
            action[::2] = expert(env.sensed, env.values).unflatten(0, action.shape[:2])[::2]
        steps.append(env.step(action))
        obs.append(steps[-1].next_obs)
    return torch.stack(obs).flatten(1, 2), steps


@pytest.fixture(scope="module", params=tasks.names())
def played(request):
    """Tasks of all splits of a distribution under random actions."""
    task = tasks.make(request.param)
    batch = task.sample(0).concatenate([some(task, range(8), split) for split in task.splits])
    env = BatchedEnv(task, len(batch), seed=0)
    expert = task.expert if task.has_expert else None  # what takes skill to see does not change under random actions
    steps = 3 if task.horizon == 1 else STEPS if expert is None else task.horizon
    obs, steps = play(env, batch, random_actions(env, steps), expert)
    return env, batch, obs, steps


def test_what_a_task_says_of_itself_fits_together(played):
    env, batch, obs, _ = played
    task, spec = env.task, env.spec
    assert spec.obs_size == obs.shape[-1]
    assert len({p.name for p in task.params}) == len(task.params)
    assert len(set(spec.action_names)) == spec.action_size > 0
    assert spec.horizon >= 1
    assert spec.episodes_per_trial >= 2, "a trial needs an episode to adapt in and one to profit from it"
    assert task.reward_range[0] < task.reward_range[1]
    assert inspect.getdoc(type(task)) != inspect.getdoc(tasks.Task), "the class's docstring says what is asked"
    if task.robot_name:
        assert spec.joint_names == robots.load(task.robot_name).joint_names
        assert spec.control_dt == pytest.approx(round(spec.control_dt / task.physics_dt) * task.physics_dt)
        assert set(task.simulators) == {"mujoco", "pybullet"}
    assert {"task_ids": len(set(batch.ids))} == {"task_ids": sum(len(up_to(task, 8, split)) for split in task.splits)}


def test_observations_and_rewards_are_finite_and_rewards_in_range(played):
    env, _, obs, steps = played
    low, high = env.task.reward_range
    reward = torch.stack([s.reward for s in steps])
    assert obs.isfinite().all()
    assert reward.isfinite().all()
    assert ((reward >= low) & (reward <= high)).all(), (reward.min(), reward.max())
    assert (obs.dtype, reward.dtype) == (torch.float32, torch.float32)
    parts = dict(zip(env.spec.obs_names, obs.split(env.spec.obs_sizes, -1), strict=True))
    sizes = {name: part.abs().max() for name, part in parts.items() if name not in AS_PUBLISHED.get(env.task.name, ())}
    assert max(sizes.values()) < 100, "observations of this size are not in SI units, or something flew away"


def test_no_component_of_the_observation_is_constant(played):
    env, _, obs, _ = played
    flat = obs.flatten(0, 1)
    constant = [i for i in range(flat.shape[1]) if flat[:, i].unique().numel() == 1]
    names = [f"{name}[{i}]" for name, size in zip(env.spec.obs_names, env.spec.obs_sizes, strict=True) for i in range(size)]
    assert [names[i] for i in constant if names[i].split("[")[0] not in AS_PUBLISHED.get(env.task.name, ())] == []


def test_ends_are_told_apart(played):
    env, _, _, steps = played
    for step in steps:
        assert not (step.terminated & step.truncated).any()
        assert not ((step.terminated | step.truncated) & ~step.valid).any()
    if env.task.horizon > len(steps):
        assert not any(step.truncated.any() for step in steps)


def test_success_means_a_small_error(played):
    env, _, _, _ = played
    if not env.task.has_error:
        assert env.task.success(env.readings).shape == (env.num_sims,)
        return
    success, error = env.task.success(env.readings), env.task.error(env.readings)
    assert success.shape == error.shape == (env.num_sims,)
    assert success.dtype == torch.bool
    assert (error >= 0).all()
    if success.any() and not success.all():
        assert error[success].max() < error[~success].min()


@pytest.mark.parametrize(("name", "simulator"), [(name, simulator) for name in tasks.names() for simulator in tasks.make(name).simulators])
def test_a_robot_does_the_same_again_whatever_its_neighbours_do(name, simulator):
    """From the same seed all do the same, with any number of threads; the first does so among neighbours with other tasks and other actions, too."""
    task, threads = tasks.make(name), 1 if simulator == "pybullet" else 2  # there each one is a process, which begins for seconds
    first, again = (BatchedEnv(task, 3, simulator=simulator, seed=5, num_threads=number) for number in (1, threads))
    batch, actions = some(task, range(3)), random_actions(first, min(4, task.horizon))
    among_others = batch.concatenate([batch[:1], some(task, range(2), task.splits[-1])])
    alone = actions.clone()
    alone[:, 1:] = -alone[:, 1:]
    (obs, steps), (obs_again, steps_again) = play(first, batch, actions), play(again, batch, actions)
    again.rng.manual_seed(5)
    obs_alone, steps_alone = play(again, among_others, alone)
    first.close()
    again.close()
    torch.testing.assert_close(obs, obs_again, rtol=0, atol=0)
    for one, two in zip(steps, steps_again, strict=True):
        torch.testing.assert_close(one.reward, two.reward, rtol=0, atol=0)
    lasts = 1 + next((i for i, step in enumerate(steps) if not step.valid[0] or (step.terminated | step.truncated)[0]), len(steps) - 1)
    torch.testing.assert_close(obs[: lasts + 1, 0], obs_alone[: lasts + 1, 0], rtol=0, atol=0)
    for one, two in zip(steps[:lasts], steps_alone, strict=False):
        torch.testing.assert_close(one.reward[0], two.reward[0], rtol=0, atol=0)


@every_task
def test_setting_tasks_twice_is_setting_them_once(name):
    task = tasks.make(name)
    once, twice = BatchedEnv(task, 4, seed=1), BatchedEnv(task, 4, seed=1)
    twice.set_tasks(some(task, range(6, 10), task.splits[-1]))
    twice.set_tasks(some(task, range(4, 8)))
    actions, batch = random_actions(once, 2), some(task, range(4))
    torch.testing.assert_close(play(once, batch, actions)[0], play(twice, batch, actions)[0], rtol=0, atol=0)


@pytest.mark.parametrize("name", [name for name in tasks.names() if any(p.hidden and p.name in GOALS for p in tasks.make(name).params)])
def test_a_hidden_goal_shows_in_the_reward_alone(name):
    task, seen, rewards = tasks.make(name), [], []
    for end in (0, 1):  # one after the other, so that both begin where chance puts the first
        env = BatchedEnv(task, 1, num_threads=1)
        row = {p.name: some_values(p)[end] for p in task.params if p.hidden and p.name in GOALS}
        obs, steps = play(env, task.custom([row]), random_actions(env, STEPS))
        seen.append(obs)
        goal = env.readings.get("goal_pos", torch.zeros(1, 0))
        at_goal = {"pos": goal, "goal_pos": goal}
        rewards.append(torch.stack([s.reward[0, 0] for s in steps]))
    torch.testing.assert_close(*seen, rtol=0, atol=0)
    if "pos" in env.readings:  # a reward that tells nothing until the goal is met
        elsewhere = {**at_goal, "pos": at_goal["pos"] - 0.9}
        action = torch.zeros(1, task.spec.action_size)
        assert task.reward(at_goal, action, at_goal) > task.reward(elsewhere, action, elsewhere) + 0.5
    else:
        assert (rewards[0] - rewards[1]).abs().max() > 0.05


@every_task
def test_the_first_observation_depends_on_nothing_hidden_but_what_is_meant_to_show(name):
    task = tasks.make(name)
    pairs = [(p, some_values(p)[0], other) for p in task.params if p.hidden for other in some_values(p)[1:]]
    env, seen = BatchedEnv(task, len(pairs), num_threads=1), []
    for end in (1, 2):
        env.rng.manual_seed(0)
        seen.append(play(env, custom(task, [(pair[0], pair[end]) for pair in pairs]), [])[0][0])
    parts = zip(env.spec.obs_names, *(obs.split(env.spec.obs_sizes, -1) for obs in seen), strict=True)
    differ = {part: {pairs[row][0].name for row in (one != other).any(-1).nonzero()[:, 0]} for part, one, other in parts}
    told = {part: sorted(names - set(SHOWN.get(name, {}).get(part, ()))) for part, names in differ.items()}
    assert {part: names for part, names in told.items() if names} == {}, f"parts of {name}'s first observation depend on what is hidden"


@pytest.mark.parametrize("name", SHOWN)
def test_what_the_first_observation_shows_of_a_hidden_value_is_not_the_value(name):
    """At most what is left of it by where chance and other parameters put things: no component of the observation goes with it."""
    task = tasks.make(name)
    batch = task.sample(256)
    env = BatchedEnv(task, len(batch))
    obs, _ = play(env, batch, [])
    for param in sorted({name for names in SHOWN[name].values() for name in names} & {p.name for p in task.params}):
        both = np.column_stack([batch.column(param), obs[0].numpy()])
        told = np.abs(np.corrcoef(both[:, both.std(0) > 1e-9].T)[0, 1:])
        assert told.max() < 0.95, f"the first observation tells {param}: they correlate by {told.max():.3f}"


@every_task
def test_train_and_iid_share_no_task(name):
    task = tasks.make(name)
    train, iid = ({tuple(row) for row in up_to(task, 300, split).values} for split in ("train", "iid"))
    if name in SAME_TO_TEST:
        assert train == iid
        assert len(train) == SAME_TO_TEST[name]
    else:
        assert not all(p.choices for p in task.params)
        assert len(train | iid) == len(up_to(task, 300, "train")) + len(up_to(task, 300, "iid"))
    assert not set(up_to(task, 9, "train").ids) & set(up_to(task, 9, "iid").ids)


@pytest.mark.parametrize("name", ["kitchen", "kitchen_grid"])
def test_kitchens_out_of_distribution_have_maps_that_training_never_draws(name):
    """In iid a number alone is new: what cannot have been learnt by heart is a map that training never drew."""
    task = tasks.make(name)
    train = set(task.sample(500, "train").column("control_map")) | set(task.sample(500, "iid").column("control_map"))
    for split in ("ood_near", "ood_far"):
        new = ~np.isin(task.sample(500, split).column("control_map"), list(train))
        assert new.mean() > 0.4, split


@every_task
def test_out_of_distribution_means_out_of_the_training_range(name):
    task = tasks.make(name)
    for split in task.splits[2:]:
        values = task.sample(200, split).values
        outside = np.zeros(values.shape, bool)
        for i, param in enumerate(task.params):
            column = values[:, i]
            if param.choices:
                outside[:, i] = ~np.isin(column, [param.encode(c) for c in param.choices])
            else:
                outside[:, i] = (column < param.train[0]) | (column > param.train[1])
            assert ((column >= param.allowed[0]) & (column <= param.allowed[1])).all()
            assert outside[:, i].any() == bool(param.options(split)), param.name
        assert outside.any(1).all()


@pytest.mark.parametrize("name", DRAWN)
def test_tasks_stay_what_they_were(name):
    task = tasks.make(name)
    drawn = task.sample(1, "train", seed=1, start=7)
    assert drawn.ids == (f"{name}/v{task.version}:train:1:7",)
    row = json.loads(drawn.to_json())["tasks"][0]["values"]
    assert list(row) == list(DRAWN[name])
    for param, value in DRAWN[name].items():
        assert row[param] == (value if isinstance(value, str) else pytest.approx(value, rel=1e-12)), param


@every_task
def test_json_sentences_and_custom_values(name):
    task = tasks.make(name)
    drawn = up_to(task, 5, task.splits[-1])
    again = task.from_json(drawn.to_json())
    np.testing.assert_array_equal(again.values, drawn.values)
    assert again.ids == drawn.ids
    for i in range(len(drawn)):
        sentence = drawn.describe(i)
        told = [p for p in task.params if p.text]
        assert sentence.startswith(f"Task {drawn.ids[i]}: " if told else f"Task {drawn.ids[i]}.")
        assert sentence.endswith(".")
        assert "{" not in sentence
        assert sentence.count(",") == max(len(told), 1) - 1
    nominal = task.custom([{}])
    assert [p.decode(v) for p, v in zip(task.params, nominal.values[0], strict=True)] == [p.nominal for p in task.params]
    for param in task.params:
        if not param.choices:
            for value in (param.allowed[0] - 1.0, param.allowed[1] + 1.0, float("nan")):
                with pytest.raises(ValueError, match=rf"^{param.name} = .*: allowed is {param.allowed[0]:g} to {param.allowed[1]:g}"):
                    task.custom([{param.name: value}])


def test_other_processes_draw_the_same_tasks_in_any_order():
    code = """
import json
from metarl import tasks
names = [name for name in reversed(tasks.names()) if len(tasks.make(name).published.get("iid", range(9))) >= 9]
print(json.dumps({name: [tasks.make(name).sample(3, "iid", seed=2, start=s).values.tolist() for s in (6, 3)] for name in names}))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    theirs = json.loads(done.stdout)
    assert set(theirs) == set(tasks.names()) - {"ant_dir_pearl"}, "of which there are two"
    for name, (late, early) in theirs.items():
        values = up_to(tasks.make(name), 80, "iid", seed=2).values
        np.testing.assert_array_equal(late, values[6:9])
        np.testing.assert_array_equal(early, values[3:6])
