import json

import pytest
import torch

from metarl import cli, env_figures, learner_figures, tasks
from metarl.measuring import Figure, bare_physics, in_turns, median_ratio, replayed_physics, torch_threads
from metarl.tasks.arm_reach import ArmReach
from metarl.tasks.batched_env import BatchedEnv
from metarl.tasks.half_cheetah_vel import HalfCheetahVel
from metarl.tasks.point_navigation import PointNavigation


def test_goals():
    assert Figure("ratio", 0.8, goal=">= 0.8").reached is True
    assert Figure("ratio", 0.79, goal=">= 0.8").reached is False
    assert Figure("latency", 0.9, "ms", "<= 1").reached is True
    assert Figure("latency", 1.1, "ms", "<= 1").reached is False
    assert Figure("rate", 5.0, "1/s").reached is None


def test_pieces_take_turns_and_the_first_round_does_not_count():
    calls = []
    seconds = in_turns({"a": lambda: calls.append("a"), "b": lambda: calls.append("b")}, rounds=3)
    assert "".join(calls) == "abababab"
    assert [len(s) for s in seconds.values()] == [3, 3]


def test_ratio_is_the_median_of_the_rounds():
    # one round in which the machine was busy with something else changes nothing: 2, 2, 8 -> 2
    assert median_ratio([4.0, 6.0, 8.0], [2.0, 3.0, 1.0]) == 2.0


def test_threads_are_given_back():
    before = torch.get_num_threads()
    with pytest.raises(KeyError), torch_threads(before + 1):
        assert torch.get_num_threads() == before + 1
        raise KeyError
    assert torch.get_num_threads() == before


@pytest.fixture
def tiny(monkeypatch, small_config):
    monkeypatch.setattr(env_figures, "NUM_SIMS", 4)
    monkeypatch.setattr(env_figures, "NUM_BULLETS", 2)
    monkeypatch.setattr(env_figures, "NUM_KITCHENS", 2)
    monkeypatch.setattr(env_figures, "STEPS", 15)
    monkeypatch.setattr(learner_figures, "NUM_THREADS", 1)
    monkeypatch.setattr(learner_figures, "config_for", lambda algorithm, task: small_config(algorithm))
    monkeypatch.setattr(learner_figures, "PEARL_SIZES", {})
    monkeypatch.setattr(env_figures, "ASYNC_WORKERS", 2)
    monkeypatch.setattr(env_figures.tasks, "names", lambda: ["arm_reach", "bandit_n10_k5", "half_cheetah_vel", "hopper_rand_params"])
    monkeypatch.setattr(HalfCheetahVel, "horizon", 6)
    monkeypatch.setattr(ArmReach, "horizon", 6)
    monkeypatch.setattr(PointNavigation, "horizon", 6)


def test_bare_physics_moves_the_same_model(tiny):
    env = BatchedEnv(tasks.make("arm_reach"), 4, num_threads=1)
    run = bare_physics(env, 1)
    batch = next(cell.cell_contents for cell in run.__closure__ if type(cell.cell_contents).__name__ == "Batch")
    assert (batch.model.nv, batch.model.opt.timestep) == (env.simulator.model.nv, env.simulator.model.opt.timestep)
    run(3)
    time = batch.bind("time").copy()
    assert time == pytest.approx(3 * ArmReach.decision_dt)  # as far as three decisions of the environment
    assert abs(batch.bind("qvel")).max() > 0.1


@pytest.mark.parametrize(
    "name", ["physics", "suite", "vector", "gymnasium", "pybullet", "memory", "tasks", "iteration", "latency", "maml", "trial_ppo", "pearl", "metagenrl"]
)
def test_benchmarks_give_figures(tiny, name, tmp_path, capsys):
    cli.main(["benchmark", name, "--json", str(tmp_path / "figures.json"), "--markdown", str(tmp_path / "figures.md")])
    written = json.loads((tmp_path / "figures.json").read_text())
    page = (tmp_path / "figures.md").read_text()
    assert f"## {name}" in page
    assert all(f"| {figure['name']} | {figure['value']:.3g}" in page for figure in written["figures"])
    assert written["machine"]["torch"] == torch.__version__
    assert all(figure["value"] > 0 for figure in written["figures"])
    assert any(figure["goal"] for figure in written["figures"])
    assert ("reached" in (said := capsys.readouterr().out)) or "missed" in said


def test_the_suite_is_all_of_mujoco_that_is_not_tiny(tiny):
    said = [figure.name for figure in env_figures.every_env_against_physics()]
    assert said == [f"BatchedEnv of {name} against bare Batch.step" for name in ("arm_reach", "half_cheetah_vel")]  # the hopper has 6 degrees of freedom


@pytest.mark.parametrize("name", ["half_cheetah_vel", "arm_slide"])
def test_replayed_physics_goes_where_the_environment_went(tiny, name):
    env = BatchedEnv(tasks.make(name), 4, num_threads=1)
    env.set_tasks(env.task.sample(4))

    def episode():
        env.reset()
        for _ in range(3):
            env.step(torch.full((4, 1, env.spec.action_size), 0.3))

    run = replayed_physics(env, episode)
    went = env.simulator.batch.bind("qpos").copy()
    env.step(torch.zeros(4, 1, env.spec.action_size))  # somewhere else
    run()
    assert (env.simulator.batch.bind("qpos") == went).all()
