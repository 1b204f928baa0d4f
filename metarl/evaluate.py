"""The few-shot protocol: how well an algorithm does after 0, 1, 2 ... episodes in tasks that it has never met.

One trial of K episodes in each of M tasks. With J the interquartile mean of the return over the tasks,

    score after k episodes = (J_k - J_random) / (J_oracle - J_random)        headroom = (J_oracle - J_robust) / (J_oracle - J_random)

where J_random is the mean over its episodes, and oracle and robust are taken in the last episode. J is taken over all tasks before
dividing: a division task by task is unstable, because in an easy task the oracle may be no better than chance. Intervals are those of
the whole ratio: each bootstrap sample draws tasks, and with them all returns in it.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from metarl import algos, meta_parameters, tasks
from metarl.algorithm import Adapter
from metarl.experience import adapter_of
from metarl.rollout import collect
from metarl.statistics import Array, Estimate, interval, iqm
from metarl.tasks.batched_env import BatchedEnv, Step
from metarl.tasks.parameters import TaskBatch

NUM_TASKS = 64  # that are evaluated where nobody says how many
REFERENCES = ("random", "robust", "oracle")
FEW_DECISIONS = 30  # in an episode with fewer a third says little

Files = dict[str, dict[str | Path, meta_parameters.Metadata]]  # by the name of the algorithm, each with what it says of itself


class Trace:
    """Error after each decision and success at the end of each episode; given to `collect` as `on_step`.

    Attributes:
        error: (M, R, K, H) in the task's unit; an episode that has ended keeps its last error. None where the task has no error.
        success: (M, R, K) bool.
    """

    def __init__(self, env: BatchedEnv, episodes: int | None = None) -> None:
        self._env = env
        shape = (env.num_tasks, env.num_robots, env.spec.episodes_per_trial if episodes is None else episodes)
        has_error = env.task.has_error
        self.error: Tensor | None = torch.zeros(*shape, env.spec.horizon) if has_error else None
        self.success = torch.zeros(shape, dtype=torch.bool)

    def __call__(self, episode: int, step_index: int, step: Step) -> None:
        """After each decision; robots that have ended keep their last readings, so the last look sees the end of all."""
        task, readings = self._env.task, self._env.readings
        robots = self.success.shape[:2]
        if self.error is not None:
            self.error[:, :, episode, step_index:] = task.error(readings).reshape(*robots, 1)
        if self._env.all_ended:
            self.success[:, :, episode] = task.success(readings).reshape(robots)

    def means(self) -> dict[str, float]:
        """Final error and success by episode, mean over all robots, for the log."""
        final = {} if self.error is None else {f"error_episode_{k}": float(e) for k, e in enumerate(self.error[..., -1].mean((0, 1)))}
        return final | {f"success_episode_{k}": float(s) for k, s in enumerate(self.success.float().mean((0, 1)))}


class RandomAdapter:
    """Uniform actions, whatever happens: what doing nothing in particular is worth."""

    def __init__(self, env: BatchedEnv, seed: int) -> None:
        self._shape = (env.num_tasks, env.num_robots, env.spec.action_size)
        self._seed = seed
        self.reset()

    def reset(self) -> None:
        """Begin the sequence of actions anew."""
        self._rng = torch.Generator().manual_seed(self._seed)

    def act(self, obs: Tensor, explore: bool = True) -> Tensor:
        """Actions (M, R, A), uniform on [-1, 1]; of discrete ones, all equally often."""
        return 2 * torch.rand(self._shape, generator=self._rng) - 1

    def observe(self, step: Step) -> None:
        """Nothing is learnt."""

    def adapt(self) -> None:
        """Nothing is learnt."""


# ---- results ----------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Trials:
    """What S files of one algorithm did in the same M tasks; means over the copies of a task.

    Attributes:
        returns: (S, M, K).
        rewards: (S, M, K, H), NaN after the end of an episode.
        errors: (S, M, K, H) in the task's unit, or None.
        successes: (S, M, K).
    """

    returns: Array
    rewards: Array
    errors: Array | None
    successes: Array


@dataclass(frozen=True)
class Outcome:
    """One algorithm, by number of adaptation episodes k = 0 ... K - 1.

    Attributes:
        files: that were pooled; empty for random actions.
        returns, errors: interquartile means over tasks and files; errors at the end of each episode, empty where the task has none.
        successes: means.
        scores: see the module; empty without an oracle.
        late_returns: of the last third of each episode, where what can be learnt within an episode shows; empty for episodes of few decisions.
        gains: return above that of the first episode, in the same tasks: the interval is of the difference.
        reward_by_step, error_by_step: (K, H, 3) mean over tasks, lower and upper end of its interval.
        returns_by_task, errors_by_task: (S, M, K) the numbers behind it.
    """

    files: tuple[str, ...]
    returns: list[Estimate]
    errors: list[Estimate]
    successes: list[Estimate]
    scores: list[Estimate]
    gains: list[Estimate]
    late_returns: list[Estimate]
    reward_by_step: Array
    error_by_step: Array | None
    returns_by_task: Array
    errors_by_task: Array | None


@dataclass(frozen=True)
class Evaluation:
    """Outcomes of algorithms and references in the same tasks.

    Attributes:
        task, split, simulator, num_tasks, num_robots, episodes, seed: what was asked.
        error_unit: of the errors.
        outcomes: by algorithm; "random" always, "robust" and "oracle" where files were given.
        headroom: what adapting could be worth; None without robust or oracle.
    """

    task: str
    split: str
    simulator: str
    num_tasks: int
    num_robots: int
    episodes: int
    seed: int
    error_unit: str
    outcomes: dict[str, Outcome] = field(default_factory=dict)
    headroom: Estimate | None = None

    def to_json(self) -> str:
        """Everything, as JSON; an estimate is value, low, high."""
        return json.dumps(_without_nan(asdict(self)), indent=1, allow_nan=False)


# ---- the protocol -----------------------------------------------------------------------------------------------------------


def evaluate(
    files: Sequence[str | Path],
    robust: Sequence[str | Path] = (),
    oracle: Sequence[str | Path] = (),
    split: str = "iid",
    simulator: str = "",
    num_tasks: int | None = None,
    num_robots: int | None = None,
    episodes: int | None = None,
    seed: int = 0,
    threads: int = 1,
    say: Callable[[str], None] = lambda text: None,
) -> Evaluation:
    """Run files and references in the same tasks, with the same start poses and goals.

    Args:
        files: meta-parameters, all of one task; files of the same algorithm are pooled as seeds.
        robust: files of this reference.
        oracle: files of this reference, without which there are no scores.
        split: "train", "iid", "ood_near" or "ood_far".
        simulator: "" takes the task's first.
        num_tasks: M; by default 64, or all of a published set that has fewer.
        num_robots: R, copies of each task: one learner each, or, in gradient-based algorithms, more data for each inner step. By default
            as many as such an algorithm was trained with, and 1 for the others.
        episodes: K; by default the task's.
        seed: of tasks, start poses and random actions.
        threads: of the simulator.
        say: told what is being run.

    Raises:
        ValueError, FileNotFoundError: files that cannot be loaded, or are of different tasks.
    """
    for name, value, least in (("episodes", episodes, 1), ("seed", seed, 0), ("threads", threads, 0)):
        if value is not None and value < least:
            raise ValueError(f"{name} is {value}, expected at least {least}")
    groups = _groups([*files, *robust, *oracle])
    task = tasks.make(_only_task(groups))
    num_robots = _robots_that_share(groups) if num_robots is None else num_robots
    num_tasks = min(NUM_TASKS, len(task.published.get(split, range(NUM_TASKS)))) if num_tasks is None else num_tasks
    env = BatchedEnv(task, num_tasks, num_robots, simulator, threads, seed)
    batch = task.sample(num_tasks, split, seed)
    episodes = task.episodes_per_trial if episodes is None else episodes
    used = simulator or task.simulators[0]
    try:
        trials = _trials(env, batch, groups, episodes, seed, lambda who: say(f"{who} in {used}, {num_tasks} tasks of split {split}"))
    finally:
        env.close()
    outcomes = {name: _outcome(trials, name, tuple(str(p) for p in groups.get(name, ()))) for name in trials}
    room = None
    if "robust" in trials and "oracle" in trials:
        room = headroom(last_episode(trials["robust"]), trials["random"].returns[0], last_episode(trials["oracle"]))
    return Evaluation(task.name, split, used, num_tasks, num_robots, episodes, seed, task.error_unit, outcomes, room)


def _trials(env: BatchedEnv, batch: TaskBatch, groups: Files, episodes: int, seed: int, say: Callable[[str], None]) -> dict[str, Trials]:
    """What random actions and each algorithm's files do, by the algorithm's name; `say` is told who is next."""
    total = 1 + sum(len(paths) for paths in groups.values())
    count = itertools.count(1)
    say(f"{next(count)} of {total}: random actions")
    trials = {"random": run_trials(env, batch, RandomAdapter(env, seed), episodes, True, seed)}
    for name, paths in groups.items():
        runs = []
        for path in paths:
            say(f"{next(count)} of {total}: {name} from {path}")
            algorithm = meta_parameters.load(path)
            runs.append(run_trials(env, batch, adapter_of(algorithm, env.num_tasks, env.num_robots), episodes, algorithm.noise_to_adapt, seed))
        trials[name] = pool(runs)
    return trials


def pool(runs: Sequence[Trials]) -> Trials:
    """Trials of several files of one algorithm, as seeds."""
    errors = [r.errors for r in runs if r.errors is not None]
    joined = {name: np.concatenate([getattr(r, name) for r in runs]) for name in ("returns", "rewards", "successes")}
    return Trials(joined["returns"], joined["rewards"], np.concatenate(errors) if errors else None, joined["successes"])


def run_trials(env: BatchedEnv, batch: TaskBatch, adapter: Adapter, episodes: int, explore: bool, seed: int) -> Trials:
    """One trial in each task; S = 1."""
    env.rng.manual_seed(seed)
    env.set_tasks(batch)
    trace = Trace(env, episodes)
    rollout = collect(env, adapter, episodes, explore, trace)
    rewards = torch.where(rollout.valid, rollout.reward, torch.nan)

    def mean(x: Tensor) -> Array:
        return np.asarray(x.double().nanmean(1).unsqueeze(0))

    return Trials(mean(rollout.returns), mean(rewards), None if trace.error is None else mean(trace.error), mean(trace.success))


# ---- from trials to figures -------------------------------------------------------------------------------------------------


def scores(returns: Array, random: Array, oracle: Array) -> list[Estimate]:
    """Scores after 0 ... K - 1 episodes.

    Args:
        returns: (S, M, K) of S files in M tasks.
        random: (M, K) of random actions in the same tasks.
        oracle: (M,) in the oracle's last episode.
    """
    strata = [np.column_stack([of_file, random, oracle]) for of_file in returns]
    return interval(lambda x: _score(x, returns.shape[-1]), strata)


def headroom(robust: Array, random: Array, oracle: Array) -> Estimate:
    """How much better the oracle is than robust, in units of oracle against random; (M,), (M, K), (M,)."""
    return interval(lambda x: 1 - _score(x, 1), [np.column_stack([robust, random, oracle])])[0]


def last_episode(trials: Trials) -> Array:
    """(M,) return of the last episode in each task, mean over files."""
    return np.asarray(trials.returns[..., -1].mean(0))


def _score(x: Array, num: int) -> Array:
    """(B, num) scores from (B, n, num + K + 1): `num` returns, K of random actions, one of the oracle."""
    j = iqm(x, 1)
    random, oracle = j[:, num:-1].mean(-1, keepdims=True), j[:, -1:]
    with np.errstate(divide="ignore", invalid="ignore"):  # an oracle that is no better than chance gives no score, not a crash
        return np.asarray((j[:, :num] - random) / (oracle - random))


def _outcome(trials: dict[str, Trials], name: str, files: tuple[str, ...]) -> Outcome:
    its = trials[name]
    random = trials["random"].returns[0]
    scored = scores(its.returns, random, last_episode(trials["oracle"])) if "oracle" in trials else []
    errors = None if its.errors is None else its.errors[..., -1]
    return Outcome(
        files=files,
        returns=interval(lambda x: iqm(x, 1), list(its.returns)),
        errors=[] if errors is None else interval(lambda x: iqm(x, 1), list(errors)),
        successes=interval(_mean, list(its.successes)),
        scores=scored,
        gains=interval(lambda x: iqm(x, 1) - iqm(x, 1)[:, :1], list(its.returns)),
        late_returns=interval(lambda x: iqm(x, 1), list(_late(its.rewards))) if its.rewards.shape[-1] >= FEW_DECISIONS else [],
        reward_by_step=_by_step(its.rewards),
        error_by_step=None if its.errors is None else _by_step(its.errors),
        returns_by_task=its.returns,
        errors_by_task=errors,
    )


def _late(rewards: Array) -> Array:
    """(S, M, K) sum over the last third of each episode; an episode that has ended earns nothing more."""
    return np.asarray(np.nansum(rewards[..., -(rewards.shape[-1] // 3) :], -1))


def _by_step(x: Array) -> Array:
    """(K, H, 3) mean over tasks and its interval, from (S, M, K, H)."""
    flat = x.reshape(*x.shape[:2], -1)
    return np.array(interval(_mean, list(flat), num=500)).reshape(*x.shape[2:], 3)


def _mean(x: Array) -> Array:
    """(B, D) mean of (B, n, D) over what is not NaN; NaN where nothing is."""
    with np.errstate(invalid="ignore"):
        return np.asarray(np.nansum(x, 1) / (~np.isnan(x)).sum(1))


# ---- files ------------------------------------------------------------------------------------------------------------------


def zoo_references(files: Sequence[str | Path], name: str) -> list[str]:
    """The reference "robust" or "oracle" that the zoo has for the task of `files`; empty where it has none."""
    known = f"zoo:{_only_task(_groups(files))}/{name}"
    return [known] if known in meta_parameters.zoo() else []


def _groups(paths: Sequence[str | Path]) -> Files:
    """Files by the name of their algorithm, each once."""
    groups: Files = {}
    for path in paths:
        about = meta_parameters.read(path)[0]
        groups.setdefault(about.algorithm, {})[path] = about
    return groups


def _robots_that_share(groups: Files) -> int:
    """How many copies of a task the algorithms that pool their experience were trained with; 1 where each learns alone."""
    return max((about.config["num_robots"] for name, paths in groups.items() if algos.load(name).pools_robots for about in paths.values()), default=1)


def _only_task(groups: Files) -> str:
    tasks_of = {str(path): about.spec.task for paths in groups.values() for path, about in paths.items()}
    if len(set(tasks_of.values())) != 1:
        said = ", ".join(f"{path} is of {task}" for path, task in tasks_of.items()) or "none was given"
        raise ValueError(f"expected meta-parameters of one task: {said}")
    return next(iter(tasks_of.values()))


def _without_nan(value: Any) -> Any:
    """The same with lists for arrays and None for NaN, which JSON does not know."""
    if isinstance(value, dict):
        return {k: _without_nan(v) for k, v in value.items()}
    if isinstance(value, list | tuple | np.ndarray):
        return [_without_nan(v) for v in value]
    if isinstance(value, float):
        return float(value) if np.isfinite(value) else None
    return value
