"""Figures of the environments: how fast they are against the physics that they cannot avoid and against what others do, and how large."""

from __future__ import annotations

import functools
import multiprocessing
import statistics
import subprocess
import sys
import warnings
from collections.abc import Iterator
from typing import Any

import gymnasium
import numpy as np
import torch

from metarl import tasks
from metarl.measuring import Figure, Still, in_turns, median_ratio, replayed_physics, torch_threads
from metarl.rollout import collect
from metarl.tasks.batched_env import BatchedEnv
from metarl.tasks.gymnasium import env_id
from metarl.tasks.simulators.mujoco import compile_scene
from metarl.tasks.task import Task

TASK = "arm_reach"
NUM_SIMS, NUM_THREADS = 256, 2
NUM_BULLETS = 32
NUM_KITCHENS = 1024
ASYNC_WORKERS = 8
MIN_DOFS = 7  # of a model below which physics is too cheap for a figure against it
STEPS = 250  # of physics, that the measured part of an episode has


# ---- against bare physics ---------------------------------------------------------------------------------------------------


def env_against_physics() -> list[Figure]:
    """BatchedEnv with observation, command, reward and resets, against Batch.step alone."""
    ratio, rate = _against_physics(tasks.make(TASK), tasks.make(TASK).horizon, rounds=9)
    return [Figure(f"BatchedEnv of {TASK} against bare Batch.step", ratio, goal=">= 0.8"), Figure(f"BatchedEnv of {TASK}", rate, "decisions/s")]


def every_env_against_physics() -> Iterator[Figure]:
    """The same for every task in MuJoCo of at least 7 degrees of freedom, in a part of an episode."""
    for task in physical_tasks():
        yield Figure(f"BatchedEnv of {task.name} against bare Batch.step", _against_physics(task, _part(task), rounds=5)[0], goal=">= 0.8")


def physical_tasks() -> Iterator[Task]:
    """The tasks in MuJoCo whose models have degrees of freedom enough to be measured."""
    for task in map(tasks.make, tasks.names()):
        if "mujoco" in task.simulators and compile_scene(task).nv >= MIN_DOFS:
            yield task


def _against_physics(task: Task, decisions: int, rounds: int) -> tuple[float, float]:
    """Speed as a part of bare physics that does the same, and decisions per second."""
    with torch_threads(1):
        env = _env(task)
        action = Still(env).act(torch.empty(0))
        episode = functools.partial(_episode, env, action, decisions)
        seconds = in_turns({"env": episode, "bare": replayed_physics(env, episode)}, rounds)
        env.close()
    return median_ratio(seconds["bare"], seconds["env"]), NUM_SIMS * decisions / statistics.median(seconds["env"])


def _part(task: Task) -> int:
    """How many decisions are measured: two, or as many as take so many steps of physics, at most an episode."""
    return min(task.horizon, max(2, STEPS // round(task.decision_dt / task.physics_dt)))


def _env(task: Task) -> BatchedEnv:
    env = BatchedEnv(task, NUM_SIMS, num_threads=NUM_THREADS)
    env.set_tasks(task.practice(NUM_SIMS, 0, 0))
    return env


def _episode(env: BatchedEnv, action: torch.Tensor, decisions: int) -> int:
    """The beginning of always the same episode; the number of decisions in it that were some robot's."""
    env.rng.manual_seed(0)
    env.reset()
    return sum(int(env.step(action).valid.sum()) for _ in range(decisions))


# ---- against processes of Gymnasium -----------------------------------------------------------------------------------------


def every_env_against_async_vector_env() -> Iterator[Figure]:
    """The same tasks against gymnasium's processes with one environment each."""
    for task in physical_tasks():
        yield Figure(f"BatchedEnv of {task.name} against AsyncVectorEnv with {ASYNC_WORKERS} workers", _against_async_vector_env(task), goal=">= 5")


def _processes(name: str, number: int) -> gymnasium.vector.AsyncVectorEnv[Any, Any]:
    """Processes with one environment each, forked from one without threads: a fork of this one, which has MuJoCo's, may hang."""
    multiprocessing.set_forkserver_preload(["metarl.tasks.gymnasium"])
    return gymnasium.vector.AsyncVectorEnv([functools.partial(gymnasium.make, name)] * number, context="forkserver")


def _against_async_vector_env(task: Task) -> float:
    """Decisions per second as a multiple of theirs."""
    decisions = _part(task)
    with torch_threads(1):
        workers = _processes(f"metarl.tasks.gymnasium:{env_id(task)}", ASYNC_WORKERS)
        env = _env(task)
        action = Still(env).act(torch.empty(0))
        theirs = action[:ASYNC_WORKERS, 0].argmax(-1).numpy() if task.discrete else action[:ASYNC_WORKERS, 0].numpy()
        ours: list[int] = []

        def step_theirs() -> None:
            workers.reset(seed=0)
            for _ in range(decisions):
                workers.step(theirs)

        seconds = in_turns({"env": lambda: ours.append(_episode(env, action, decisions)), "workers": step_theirs}, rounds=3)
        env.close()
        workers.close()
    return median_ratio(seconds["workers"], seconds["env"]) * ours[0] / (ASYNC_WORKERS * decisions)


def env_against_gymnasiums_half_cheetah() -> list[Figure]:
    """half_cheetah_vel against the fastest way to step Gymnasium's own HalfCheetah-v5: one by one, or in as many processes as it likes best."""
    task = tasks.make("half_cheetah_vel")
    given = np.random.default_rng(0).uniform(-1, 1, (ASYNC_WORKERS, task.spec.action_size))
    with torch_threads(1), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # MuJoCo's, of Gymnasium's model
        theirs: dict[str, Any] = {f"{number} processes": _processes("HalfCheetah-v5", number) for number in (NUM_THREADS, ASYNC_WORKERS)}
        theirs["one by one"] = gymnasium.vector.SyncVectorEnv([functools.partial(gymnasium.make, "HalfCheetah-v5")] * ASYNC_WORKERS)
        env = _env(task)
        action = Still(env).act(torch.empty(0))
        for workers in theirs.values():
            workers.reset(seed=0)

        def step_theirs(workers: Any) -> None:
            for _ in range(STEPS // 5):
                workers.step(given[: workers.num_envs])

        pieces = {name: functools.partial(step_theirs, workers) for name, workers in theirs.items()}
        seconds = in_turns({"env": lambda: _episode(env, action, task.horizon), **pieces}, rounds=5)
        env.close()
        for workers in theirs.values():
            workers.close()
    decisions = {"env": NUM_SIMS * task.horizon, **{name: workers.num_envs * (STEPS // 5) for name, workers in theirs.items()}}
    each = {name: [s / decisions[name] for s in found] for name, found in seconds.items()}
    fastest = min(theirs, key=lambda name: statistics.median(each[name]))
    name = f"BatchedEnv of half_cheetah_vel against HalfCheetah-v5, {fastest}"
    return [Figure(name, median_ratio(each[fastest], each["env"]), goal=">= 2.5")]


# ---- the rest ---------------------------------------------------------------------------------------------------------------


def processes_of_pybullet() -> list[Figure]:
    """PyBullet in as many processes as there are threads elsewhere, against one process."""
    task = tasks.make(TASK)
    with torch_threads(1):
        envs = {number: BatchedEnv(task, NUM_BULLETS, simulator="pybullet", num_threads=number) for number in (1, NUM_THREADS)}
        for env in envs.values():
            env.set_tasks(task.sample(NUM_BULLETS))
        action = Still(envs[1]).act(torch.empty(0))
        pieces = {str(number): functools.partial(_episode, env, action, task.horizon // 5) for number, env in envs.items()}
        seconds = in_turns(pieces, rounds=5)
        for env in envs.values():
            env.close()
    name = f"PyBullet of {NUM_BULLETS} {TASK} in {NUM_THREADS} processes against one"
    return [Figure(name, median_ratio(seconds["1"], seconds[str(NUM_THREADS)]), goal=">= 1.7")]


_KITCHENS = """
import resource, sys, torch
from metarl import tasks
from metarl.tasks.batched_env import BatchedEnv
env = BatchedEnv(tasks.make("kitchen"), int(sys.argv[1]), num_threads=1)
env.set_tasks(env.task.sample(env.num_tasks))
env.reset()
env.step(torch.rand(env.num_tasks, 1, env.spec.action_size))
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


def memory_of_kitchens() -> list[Figure]:
    """The largest memory that a process needs for many kitchens, Python and torch included."""
    done = subprocess.run([sys.executable, "-c", _KITCHENS, str(NUM_KITCHENS)], capture_output=True, text=True, check=True)
    return [Figure(f"memory of a process with {NUM_KITCHENS} kitchens", int(done.stdout) * 1024 / 1e9, "GB", "<= 2")]


def new_tasks_against_a_trial() -> list[Figure]:
    """Drawing and setting tasks, against the trial in them."""
    task = tasks.make(TASK)
    with torch_threads(1):
        env = BatchedEnv(task, NUM_SIMS, num_threads=NUM_THREADS)
        still = Still(env)
        pieces = {"tasks": lambda: env.set_tasks(task.sample(NUM_SIMS)), "trial": lambda: collect(env, still, 3)}
        seconds = in_turns(pieces, rounds=5)
        env.close()
    ratio = median_ratio(seconds["tasks"], seconds["trial"])
    return [Figure(f"drawing and setting {NUM_SIMS} tasks of {TASK}, part of a trial of 3 episodes", ratio, goal="<= 0.05")]
