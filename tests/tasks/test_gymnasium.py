import subprocess
import sys

import gymnasium
import numpy as np
import pytest
from gymnasium import spaces
from gymnasium.utils.env_checker import check_env, data_equivalence
from gymnasium.vector import AsyncVectorEnv, AutoresetMode, SyncVectorEnv
from gymnasium.wrappers.vector import DictInfoToList, RecordEpisodeStatistics

import metarl.tasks.gymnasium
from metarl import tasks
from metarl.tasks.gymnasium import MetaEnv, MetaVectorEnv, env_id
from metarl.tasks.point_navigation import PointNavigation
from metarl.tasks.simulators.mujoco import MujocoSimulator

IDS = [env_id(tasks.make(name)) for name in tasks.names()]


@pytest.fixture
def painted(monkeypatch):
    """Grey pictures: a machine without a display has no OpenGL."""
    monkeypatch.setattr(MujocoSimulator, "render", lambda self, sim: np.full((48, 64, 3), sim, np.uint8))


def test_ids():
    assert "metarl/ArmReach-v1" in gymnasium.registry
    assert "metarl/SparsePointVaribad-v1" in gymnasium.registry
    assert {i for i in gymnasium.registry if i.startswith("metarl/")} >= set(IDS)


@pytest.mark.parametrize("name", IDS)
def test_gymnasiums_checker_has_nothing_to_say(name, painted):
    env = gymnasium.make(name, split="iid", index=1)  # of the fewest that were published there are two
    check_env(env.unwrapped)
    env.close()


@pytest.mark.parametrize("name", IDS)
def test_vector_env_keeps_its_promises(name):
    envs = gymnasium.make_vec(name, num_envs=4, robots_per_task=2, vectorization_mode="vector_entry_point", num_threads=1)
    assert isinstance(envs, MetaVectorEnv)
    assert envs.metadata["autoreset_mode"] is AutoresetMode.SAME_STEP
    assert envs.observation_space.shape == (4, *envs.single_observation_space.shape)
    envs.action_space.seed(0)
    obs, info = envs.reset(seed=0)
    assert obs in envs.observation_space
    assert list(info["task_id"]) == [i for i in envs.tasks.ids for _ in range(2)]
    for _ in range(3):
        obs, reward, terminated, truncated, info = envs.step(envs.action_space.sample())
        assert obs in envs.observation_space
        assert reward.shape == terminated.shape == truncated.shape == (4,)
        assert (reward.dtype, terminated.dtype, truncated.dtype) == (np.float64, np.bool_, np.bool_)
        assert not (terminated & truncated).any()
        assert list(info["task_id"]) == [i for i in envs.tasks.ids for _ in range(2)]
    envs.close()


def test_vector_env_equals_gymnasiums_vector_of_single_envs():
    # The start is always the origin, so nothing is random. The robots run straight to their goals and end early, each at its own time.
    goals = tasks.make("point_navigation").sample(3, "iid").values
    ours = gymnasium.make_vec("metarl/PointNavigation-v1", num_envs=3, split="iid")
    theirs = SyncVectorEnv([lambda i=i: MetaEnv("point_navigation", split="iid", index=i) for i in range(3)], autoreset_mode=AutoresetMode.SAME_STEP)
    (obs, info), (their_obs, their_info) = ours.reset(seed=0), theirs.reset(seed=0)
    ends = np.zeros(3, int)
    for step in range(25):
        np.testing.assert_array_equal(obs, their_obs, err_msg=f"before step {step}")
        assert data_equivalence(info, their_info), f"before step {step}: {info} {their_info}"
        action = np.clip((goals - obs) / 0.1, -1, 1).astype(np.float32)
        (obs, *rest, info), (their_obs, *their_rest, their_info) = ours.step(action), theirs.step(action)
        for mine, other in zip(rest, their_rest, strict=True):
            np.testing.assert_array_equal(mine, other)
        ends += rest[1]
    assert (ends >= 2).all()
    assert len(set(ends)) > 1


def test_episode_is_cut_at_the_horizon_and_the_next_begins_at_once():
    envs = MetaVectorEnv("sparse_point_varibad", num_envs=2)
    envs.reset(seed=0)
    still = np.zeros((2, 2), np.float32)
    still[:, 1] = 0.5  # 0.05 upwards each step
    for _ in range(99):
        obs, _, terminated, truncated, info = envs.step(still)
        assert not truncated.any()
        assert "final_obs" not in info
    np.testing.assert_allclose(obs, [[0, 4.95]] * 2, rtol=1e-5)
    obs, _, terminated, truncated, info = envs.step(still)
    assert truncated.all()
    assert not terminated.any()
    np.testing.assert_array_equal(obs, np.zeros((2, 2)))
    np.testing.assert_allclose(np.stack(info["final_obs"]), [[0, 5.0]] * 2, rtol=1e-5)
    assert info["_final_obs"].all()
    assert list(info["final_info"]["task_id"]) == list(envs.tasks.ids)
    assert "success" not in info
    assert info["final_info"]["_success"].all()


def test_an_episode_of_one_decision_ends_by_itself():
    # one shot is all that arm_slide asks for: no future is cut off, so a learner must not bootstrap
    env = MetaEnv("arm_slide")
    env.reset(seed=0)
    _, _, terminated, truncated, _ = env.step(np.zeros(3, np.float32))
    assert (terminated, truncated) == (True, False)
    env.close()


def test_gymnasiums_vector_wrappers_work():
    envs = DictInfoToList(RecordEpisodeStatistics(MetaVectorEnv("sparse_point_varibad", num_envs=2)))
    _, infos = envs.reset(seed=0)
    assert [i["task_id"] for i in infos] == ["sparse_point_varibad/v1:train:0:0", "sparse_point_varibad/v1:train:0:1"]
    for _ in range(100):
        *_, infos = envs.step(np.zeros((2, 2), np.float32))
    assert infos[0]["episode"]["l"] == 100


def test_envs_can_live_in_worker_processes():
    name = "metarl.tasks.gymnasium:metarl/PointNavigation-v1"
    envs = AsyncVectorEnv([lambda i=i: gymnasium.make(name, index=i) for i in range(2)], context="spawn")
    _, info = envs.reset(seed=0)
    assert list(info["task_id"]) == ["point_navigation/v1:train:0:0", "point_navigation/v1:train:0:1"]
    obs, *_ = envs.step(np.ones((2, 2), np.float32))
    np.testing.assert_allclose(obs, 0.1)
    envs.close()


def test_a_trial_is_all_episodes_of_one_task():
    env = MetaEnv("arm_reach", split="iid", index=2)
    for _ in range(2):
        _, info = env.reset()
        assert info["task_id"] == "arm_reach/v1:iid:0:2"
    _, info = env.reset(options={"task": 5})
    assert info["task_id"] == "arm_reach/v1:iid:0:5"
    _, info = env.reset()
    assert info["task_id"] == "arm_reach/v1:iid:0:5"
    own = env.batched.task.custom([{"payload": 0.75}])
    _, info = env.reset(options={"task": own})
    assert info["task_id"] == own.ids[0]
    assert env.tasks.column("payload")[0] == 0.75


def test_a_trial_of_the_vector():
    envs = MetaVectorEnv("point_navigation", num_envs=4, robots_per_task=2, split="ood_near", index=3, task_seed=1)
    _, info = envs.reset()
    assert list(info["task_id"]) == [f"point_navigation/v1:ood_near:1:{i}" for i in (3, 3, 4, 4)]
    _, info = envs.reset(options={"task": 8})
    assert list(info["task_id"]) == [f"point_navigation/v1:ood_near:1:{i}" for i in (8, 8, 9, 9)]
    with pytest.raises(ValueError, match="1 tasks were given, this environment has room for 2"):
        envs.reset(options={"task": envs.task.sample(1)})


def test_seeds():
    envs = MetaVectorEnv("arm_reach", num_envs=2, num_threads=1)
    first, again, other = (envs.reset(seed=s)[0] for s in (1, 1, 2))
    np.testing.assert_array_equal(first, again)
    assert not np.allclose(first, other)
    assert not np.allclose(first[0], first[1])
    follow = envs.reset()[0]
    envs.reset(seed=2)
    np.testing.assert_array_equal(follow, envs.reset()[0])
    unseeded = [MetaEnv("arm_reach").reset()[0] for _ in range(2)]
    assert not np.allclose(*unseeded)


def test_what_is_returned_belongs_to_the_caller(monkeypatch):
    monkeypatch.setattr(PointNavigation, "observation", lambda self, readings: readings["pos"])  # the simulator's own memory
    env = MetaEnv("point_navigation")
    obs, _ = env.reset()
    obs += 7.0
    obs, *_ = env.step(np.ones(2, np.float32))
    obs += 7.0
    np.testing.assert_allclose(env.step(np.ones(2, np.float32))[0], 0.2)
    envs = MetaVectorEnv("sparse_point_varibad", num_envs=2)
    obs, info = envs.reset()
    obs += 7.0
    info["task_id"][:] = None
    obs, *_, info = envs.step(np.ones((2, 2), np.float32))
    np.testing.assert_allclose(obs, 0.1)
    assert info["task_id"][1] == envs.tasks.ids[1]


def test_pictures(painted):
    env = gymnasium.make("metarl/ArmReach-v1", render_mode="rgb_array")
    env.reset()
    assert env.render().shape == (48, 64, 3)
    envs = MetaVectorEnv("arm_reach", num_envs=3, render_mode="rgb_array", num_threads=1)
    envs.reset()
    assert [int(picture[0, 0, 0]) for picture in envs.render()] == [0, 1, 2]
    assert MetaVectorEnv("arm_reach", num_threads=1).render() is None
    assert MetaEnv("arm_reach").render() is None
    with pytest.raises(ValueError, match=r"no render mode is called 'human'.*rgb_array"):
        MetaEnv("arm_reach", render_mode="human")
    with pytest.raises(ValueError, match="no render mode"):
        MetaEnv("point_navigation", render_mode="rgb_array")


def test_bad_input_is_refused():
    env = MetaEnv("point_navigation")
    with pytest.raises(RuntimeError, match="reset must come before step"):
        env.step(np.zeros(2, np.float32))
    with pytest.raises(ValueError, match=r"no reset option is called 'tusk'.*task"):
        env.reset(options={"tusk": 1})
    for task in ("x", 1.5):
        with pytest.raises(ValueError, match=f"^reset option 'task' is {task!r}, expected the number of a task in the split, or a TaskBatch$"):
            env.reset(options={"task": task})
    env.reset(options={"task": np.int64(2)})
    assert env.tasks.ids == ("point_navigation/v1:train:0:2",)
    env = MetaEnv("point_navigation")
    env.reset()
    with pytest.raises(ValueError, match=r"action has shape \(1, 1, 3\)"):
        env.step(np.zeros(3, np.float32))
    with pytest.raises(ValueError, match="not finite"):
        env.step(np.array([np.nan, 0], np.float32))
    for _ in range(100):
        *_, truncated, _ = env.step(np.array([1, 0], np.float32))
    assert truncated
    with pytest.raises(RuntimeError, match="the episode has ended"):
        env.step(np.zeros(2, np.float32))
    envs = MetaVectorEnv("point_navigation", num_envs=2)
    envs.reset()
    with pytest.raises(ValueError, match=r"actions have shape \(2, 3\), expected \(num_envs, actions\) = \(2, 2\)"):
        envs.step(np.zeros((2, 3), np.float32))
    with pytest.raises(ValueError, match="num_envs = 3 is not a multiple of robots_per_task = 2"):
        MetaVectorEnv("point_navigation", num_envs=3, robots_per_task=2)
    with pytest.raises(ValueError, match="point_navigation does not run in 'pybullet'"):
        MetaEnv("point_navigation", simulator="pybullet")


def test_the_module_may_stand_in_the_name_and_metarl_alone_stays_light():
    code = """
import sys
import metarl
assert not {"torch", "gymnasium", "numpy", "mujoco"} & set(sys.modules)
import gymnasium
env = gymnasium.make("metarl.tasks.gymnasium:metarl/PointNavigation-v1")
print(env.reset()[1]["task_id"])
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "point_navigation/v1:train:0:0\n"


def test_a_task_of_ones_own_can_be_registered(tmp_path, monkeypatch):
    monkeypatch.setattr(tasks, "__path__", list(tasks.__path__))
    (tmp_path / "crooked_line.py").write_text(
        "from metarl.tasks.point_navigation import PointNavigation\nclass Line(PointNavigation):\n    name = 'crooked_line'\n    version = 3\n"
    )
    tasks.add_folder(tmp_path)
    made = "metarl/CrookedLine-v3"
    try:
        assert made in gymnasium.registry, "a folder that is added makes its tasks known"
        assert metarl.tasks.gymnasium.register("crooked_line") == made
        assert gymnasium.make(made).reset()[1]["task_id"] == "crooked_line/v3:train:0:0"
    finally:
        del gymnasium.registry[made]


def test_discrete_tasks_take_numbers_of_choices():
    env = MetaEnv("grid_navi")
    assert env.action_space == spaces.Discrete(5)
    env.reset(seed=0, options={"task": env.batched.task.custom([{"goal": "x=1 y=2"}])})
    rewards = [env.step(action)[1] for action in (2, np.int64(1), 1, 0)]
    assert rewards == pytest.approx([-0.1, -0.1, 1.0, 1.0])
    for wrong in (5, -1, 0.5):
        with pytest.raises(ValueError, match=r"grid_navi has the choices 0 to 4 \(stay, up, right, down, left\)"):
            env.step(wrong)


def test_discrete_tasks_in_a_vector():
    envs = MetaVectorEnv("grid_navi", num_envs=3)
    assert envs.action_space == spaces.MultiDiscrete([5, 5, 5])
    envs.reset(seed=0)
    obs = envs.step(np.array([0, 1, 2]))[0]
    assert obs.tolist() == [[0, 0], [0, 1], [1, 0]]
    with pytest.raises(ValueError, match=r"actions have shape \(3, 5\), expected \(num_envs,"):
        envs.step(np.zeros((3, 5)))
    with pytest.raises(ValueError, match=r"action \[0, 1, 7\]: grid_navi has the choices 0 to 4"):
        envs.step(np.array([0, 1, 7]))
