import dataclasses
import json
import sys

import numpy as np
import pytest
import torch

from metarl import meta_parameters, tasks
from metarl.algos.rl2 import RL2
from metarl.evaluate import RandomAdapter, Trace, _late, evaluate, headroom, run_trials, scores, zoo_references
from metarl.gradient_adaptation import GradientAdapter
from metarl.rollout import collect
from metarl.statistics import Estimate
from metarl.tasks.batched_env import BatchedEnv


class GoTo:
    """Episode k: walks straight to a point that lies 0.2 (K - 1 - k) beside the goal, 2 decisions long, then stands."""

    def __init__(self, env, episodes=2):
        self.goal = torch.tensor(env.task.sample(env.num_tasks, "iid", 0).values, dtype=torch.float32).unsqueeze(1)
        self.episodes = episodes

    def reset(self):
        self.episode = 0

    def act(self, obs, explore=True):
        aim = self.goal + torch.tensor([0.2 * (self.episodes - 1 - self.episode), 0.0])
        return ((aim - obs) / 0.1).clamp(-10, 10) / 10  # dynamics: 0.1 * action

    def observe(self, step):
        pass

    def adapt(self):
        self.episode += 1


@pytest.fixture
def env():
    made = BatchedEnv(tasks.make("point_navigation"), num_tasks=4)
    made.set_tasks(made.task.sample(4, "iid", 0))
    return made


def test_trace_holds_the_error_after_each_decision_and_the_last_one_after_the_end(env):
    trace = Trace(env)
    rollout = collect(env, GoTo(env), on_step=trace)
    goal = torch.tensor(env.tasks.values, dtype=torch.float32)[:, None, None, None]
    expected = (rollout.next_obs - goal).norm(dim=-1)
    torch.testing.assert_close(trace.error[rollout.valid], expected[rollout.valid])
    assert not bool(rollout.valid[:, :, 1].all()), "no episode ended early: the test shows less than it should"
    for m in range(4):
        last = int(rollout.valid[m, 0, 1].nonzero().max())
        assert bool((trace.error[m, 0, 1, last:] == trace.error[m, 0, 1, last]).all())
    assert trace.success[:, 0].tolist() == [[False, True]] * 4  # 0.2 beside the goal, then within 0.01 of it
    means = trace.means()
    assert means["error_episode_0"] == pytest.approx(0.2, abs=1e-3)
    assert (means["success_episode_0"], means["success_episode_1"]) == (0.0, 1.0)


def test_a_task_without_an_error_has_no_errors(env, monkeypatch):
    from metarl.tasks.task import Task

    monkeypatch.setattr(type(env.task), "error", Task.error)
    monkeypatch.setattr(type(env.task), "reward", lambda self, r, a, n: -n["pos"].norm(dim=-1))
    monkeypatch.setattr(type(env.task), "success", lambda self, r: r["pos"][..., 0] > 0)
    trace = Trace(env, episodes=1)
    collect(env, GoTo(env), episodes=1, on_step=trace)
    assert trace.error is None
    assert set(trace.means()) == {"success_episode_0"}


def test_trials_are_the_means_of_the_copies_of_a_task_and_repeat_exactly():
    task = tasks.make("point_navigation")
    env = BatchedEnv(task, 4, num_robots=3)
    batch = task.sample(4, "iid", 0)
    trials = run_trials(env, batch, RandomAdapter(env, 5), 2, True, seed=0)
    rollout = collect(env, RandomAdapter(env, 5), 2)
    np.testing.assert_allclose(trials.returns[0], rollout.returns.mean(1), rtol=1e-5)
    assert (trials.returns.shape, trials.rewards.shape, trials.errors.shape) == ((1, 4, 2), (1, 4, 2, 100), (1, 4, 2, 100))
    again = run_trials(env, batch, RandomAdapter(env, 5), 2, True, seed=0)
    assert (again.returns == trials.returns).all()


def test_scores_are_zero_for_random_and_one_for_the_oracle():
    random = np.array([[1.0, 3.0], [2.0, 2.0], [0.0, 4.0], [1.0, 3.0]])  # interquartile means by episode: 1, 3; their mean: 2
    oracle = np.full(4, 12.0)
    returns = np.array([[[2.0, 12.0, 7.0]] * 4])  # (7 - 2) / (12 - 2) = 0.5
    assert [s.value for s in scores(returns, random, oracle)] == [0.0, 1.0, 0.5]
    # two files: their tasks are pooled. Of 2 2 2 2 7 7 7 7 the middle half is 2 2 7 7: (4.5 - 2) / 10
    pooled = np.array([[[2.0]] * 4, [[7.0]] * 4])
    assert [s.value for s in scores(pooled, random, oracle)] == [0.25]


def test_headroom():
    random, robust, oracle = np.full((4, 2), 2.0), np.full(4, 9.0), np.full(4, 12.0)
    assert headroom(robust, random, oracle) == pytest.approx((0.3, 0.3, 0.3))  # (12 - 9) / (12 - 2)


def test_an_oracle_no_better_than_chance_gives_no_score_and_no_crash():
    same = np.full((4, 2), 2.0)
    assert np.isnan(scores(same[None], same, same[:, 0])[0].value)


@pytest.fixture
def files(short_episodes, small_algorithm, tmp_path):
    paths = {}
    for name, seed in (("rl2", 1), ("rl2", 2), ("robust", 1), ("oracle", 1)):
        paths[name, seed] = tmp_path / f"{name}_{seed}.safetensors"
        meta_parameters.save(paths[name, seed], small_algorithm(name, seed=seed), name, env_steps=0)
    return paths


class TestFiles:
    @pytest.fixture
    def result(self, files):
        one, two = files["rl2", 1], files["rl2", 2]
        return evaluate([one, two], [files["robust", 1]], [files["oracle", 1]], num_tasks=5, episodes=3, seed=4)

    def test_pools_seeds(self, result, files):
        rl2 = result.outcomes["rl2"]
        assert rl2.files == (str(files["rl2", 1]), str(files["rl2", 2]))
        assert rl2.returns_by_task.shape == (2, 5, 3)
        assert (rl2.returns_by_task[0] != rl2.returns_by_task[1]).any()
        assert rl2.reward_by_step.shape == rl2.error_by_step.shape == (3, 8, 3)
        assert (len(rl2.returns), len(rl2.errors), len(rl2.successes), len(rl2.scores)) == (3, 3, 3, 3)
        assert set(result.outcomes) == {"random", "rl2", "robust", "oracle"}
        assert result.outcomes["oracle"].scores[-1] == pytest.approx((1.0, 1.0, 1.0))
        assert result.headroom is not None
        assert (result.task, result.split, result.simulator, result.error_unit) == ("point_navigation", "iid", "analytic", "")

    def test_the_last_third_is_what_is_earned_late(self, result, files, monkeypatch):
        assert result.outcomes["rl2"].late_returns == []  # of eight decisions
        monkeypatch.setattr(sys.modules["metarl.evaluate"], "FEW_DECISIONS", 8)
        found = evaluate([files["rl2", 1]], num_tasks=5, episodes=3, seed=4).outcomes["rl2"]
        late = found.reward_by_step[:, -2:, 0].sum(-1)  # 8 // 3 decisions, means over tasks
        assert all(low <= mean <= high for mean, (_, low, high) in zip(late, found.late_returns, strict=True))
        assert _late(np.array([[[[1.0, 2, 3, 4, 5, np.nan]]]])).tolist() == [[[5.0]]]

    def test_gains_are_differences_in_the_same_tasks(self, result):
        rl2 = result.outcomes["rl2"]
        assert rl2.gains[0] == (0.0, 0.0, 0.0)
        assert rl2.gains[2].value == pytest.approx(rl2.returns[2].value - rl2.returns[0].value)
        low, high = rl2.returns[2].low - rl2.returns[0].high, rl2.returns[2].high - rl2.returns[0].low
        assert low <= rl2.gains[2].low <= rl2.gains[2].value <= rl2.gains[2].high <= high
        assert rl2.gains[2].high - rl2.gains[2].low < 0.9 * (high - low), "what is hard about a task cancels"

    def test_repeats_exactly_and_does_not_depend_on_what_else_is_run(self, result, files):
        alone = evaluate([files["rl2", 2]], num_tasks=5, episodes=3, seed=4)
        assert (alone.outcomes["rl2"].returns_by_task[0] == result.outcomes["rl2"].returns_by_task[1]).all()
        assert alone.outcomes["rl2"].scores == []
        assert alone.headroom is None

    def test_numbers_are_those_of_the_rollout(self, result, files):
        task = tasks.make("point_navigation")
        env = BatchedEnv(task, 5, seed=4)
        env.set_tasks(task.sample(5, "iid", 4))
        rollout = collect(env, meta_parameters.load(files["rl2", 1]).adapter(5), 3)
        np.testing.assert_allclose(result.outcomes["rl2"].returns_by_task[0], rollout.returns[:, 0], rtol=1e-5)

    def test_explores_only_where_the_algorithm_needs_it(self, files, result, monkeypatch):
        monkeypatch.setattr(RL2, "noise_to_adapt", True)
        noisy = evaluate([files["rl2", 1]], num_tasks=5, episodes=3, seed=4)
        assert (noisy.outcomes["rl2"].returns_by_task[0] != result.outcomes["rl2"].returns_by_task[0]).all()

    def test_who_learns_by_gradient_explores_with_as_many_robots_as_in_training(self, files, result, small_algorithm, tmp_path, monkeypatch):
        path, explored, act = tmp_path / "maml.safetensors", [], GradientAdapter.act
        meta_parameters.save(path, small_algorithm("maml"), "maml", env_steps=0)
        monkeypatch.setattr(GradientAdapter, "act", lambda self, obs, explore: (explored.append(explore), act(self, obs, explore))[1])
        assert evaluate([path, files["rl2", 1]], num_tasks=3, episodes=1).num_robots == small_algorithm("maml").config.num_robots == 2
        assert set(explored) == {True}
        assert result.num_robots == 1, "learners that pool nothing are alone, whatever they were trained with"

    def test_json_holds_everything_and_no_nan(self, result):
        data = json.loads(result.to_json(), parse_constant=pytest.fail)
        rl2 = data["outcomes"]["rl2"]
        assert rl2["returns"][0] == list(result.outcomes["rl2"].returns[0])
        assert np.array(rl2["errors_by_task"]).shape == (2, 5, 3)
        assert data["headroom"] == pytest.approx(list(result.headroom))
        unknown = dataclasses.replace(result, headroom=Estimate(np.nan, 0.0, np.inf))
        assert json.loads(unknown.to_json())["headroom"] == [None, 0.0, None]

    @pytest.mark.parametrize(("name", "least"), [("episodes", 1), ("seed", 0), ("threads", 0)])
    def test_bad_numbers_are_refused_by_name(self, files, name, least):
        with pytest.raises(ValueError, match=f"{name} is {least - 1}, expected at least {least}"):
            evaluate(files, **{name: least - 1})

    def test_files_of_different_tasks_are_refused(self, files, small_algorithm, tmp_path):
        other = tmp_path / "other.safetensors"
        meta_parameters.save(other, small_algorithm("rl2", task="sparse_point_varibad"), "rl2", env_steps=0)
        with pytest.raises(ValueError, match=r"one task: .*rl2_1.* is of point_navigation, .*other.* is of sparse_point_varibad"):
            evaluate([files["rl2", 1], other])
        with pytest.raises(ValueError, match="one task: none was given"):
            evaluate([])

    def test_references_come_from_the_zoo_where_it_has_them(self, files, monkeypatch):
        monkeypatch.setattr(meta_parameters, "zoo", lambda: ["zoo:point_navigation/robust", "zoo:arm_slide/oracle"])
        assert zoo_references([files["rl2", 1]], "robust") == ["zoo:point_navigation/robust"]
        assert zoo_references([files["rl2", 1]], "oracle") == []

    @pytest.mark.parametrize(("task", "number"), [("point_navigation", 64), ("sparse_point_pearl", 20)])
    def test_a_published_set_with_few_tasks_is_evaluated_whole(self, task, number, small_algorithm, tmp_path):
        path = tmp_path / f"{task}.safetensors"
        meta_parameters.save(path, small_algorithm("rl2", task=task), "rl2", env_steps=0)
        assert evaluate([path], episodes=1).num_tasks == number
