"""Gymnasium faces of BatchedEnv: one environment, and a vector of them.

    import gymnasium
    import metarl.tasks.gymnasium  # registers every task as metarl/<Task>-v<version>

    env = gymnasium.make("metarl/ArmReach-v1", split="iid", index=3, simulator="mujoco")
    envs = gymnasium.make_vec("metarl/ArmReach-v1", num_envs=8, robots_per_task=2)

Without the second import the module may stand in the name: `gymnasium.make("metarl.tasks.gymnasium:metarl/ArmReach-v1")`. Importing
`metarl` alone registers nothing, because the tasks import torch.

A trial is all episodes of one task. `reset()` begins the next episode of the same task, and so does the automatic reset of the vector;
another task comes only when it is asked for: `reset(options={"task": 7})` takes task 7 of the split (in the vector: tasks 7, 8, 9 ...),
and a TaskBatch in the place of the number takes the tasks in it. Actions are a Box, or Discrete where the task's are. Hidden parameters are never part of an observation; `tasks` holds them.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping
from typing import Any

import gymnasium
import numpy as np
import torch
from gymnasium import spaces
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space
from numpy.typing import NDArray

from metarl import tasks as task_files
from metarl.robots.spec import unknown_name
from metarl.tasks.batched_env import BatchedEnv, Step
from metarl.tasks.parameters import TaskBatch
from metarl.tasks.task import EnvSpec, Task

Floats = NDArray[np.float32]


class MetaEnv(gymnasium.Env[Floats, Any]):
    """One robot in one task.

    Args:
        task: name of the task distribution.
        split, index, task_seed: which task: number `index` of a split, drawn with a seed.
        simulator: "mujoco", "pybullet", "analytic"; "" takes the task's first.
        render_mode: "rgb_array" or None.
    """

    metadata = {"render_modes": ["rgb_array"]}  # of an instance: those that its task can do

    def __init__(self, task: str, split: str = "train", index: int = 0, task_seed: int = 0, simulator: str = "", render_mode: str | None = None) -> None:
        self.batched = BatchedEnv(task_files.make(task), 1, simulator=simulator, num_threads=1)
        self.metadata = _metadata(self.batched.task)
        self.render_mode = _checked_render_mode(render_mode, self.metadata)
        self.observation_space, self.action_space = _spaces(self.batched.spec)
        self._split, self._task_seed = split, task_seed
        self._seeded = False
        self._set_task(index)

    @property
    def tasks(self) -> TaskBatch:
        """The task, hidden parameters included: for privileged critics and for people."""
        assert self.batched.tasks is not None
        return self.batched.tasks

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Floats, dict[str, Any]]:
        """Begin the next episode of the task, or the first of another where `options` has a "task"."""
        super().reset(seed=seed)
        if seed is not None or not self._seeded:
            self.batched.rng.manual_seed(_draw_seed(self.np_random))
            self._seeded = True
        chosen = _chosen_task(options)
        if chosen is not None:
            self._set_task(chosen)
        return self.batched.reset()[0, 0].numpy().copy(), {"task_id": self.tasks.ids[0]}

    def step(self, action: Any) -> tuple[Floats, float, bool, bool, dict[str, Any]]:
        """One decision; actions outside of [-1, 1] are cut to it.

        Raises:
            ValueError: the action has another shape, is not finite, or is a choice that there is not.
            RuntimeError: no episode has begun, or it has ended.
        """
        if self.batched.all_ended:
            raise RuntimeError("the episode has ended: reset must come before the next step")
        step = self.batched.step(_rows(np.asarray(action), self.batched.spec)[None, None])
        terminated, truncated = (bool(end[0, 0]) for end in _ends(step, self.batched.spec))
        success = bool(self.batched.task.success(self.batched.readings)[0])
        info = {"task_id": self.tasks.ids[0], "success": success}
        return step.next_obs[0, 0].numpy().copy(), float(step.reward[0, 0]), terminated, truncated, info

    def render(self) -> Any:
        """(height, width, 3) picture, or None without a render mode."""
        return self.batched.simulator.render(0) if self.render_mode else None

    def close(self) -> None:
        """Free the simulator."""
        self.batched.close()

    def _set_task(self, chosen: int | TaskBatch) -> None:
        batch = chosen if isinstance(chosen, TaskBatch) else self.batched.task.sample(1, self._split, self._task_seed, chosen)
        self.batched.set_tasks(batch)


class MetaVectorEnv(VectorEnv[Floats, Any, NDArray[Any]]):
    """`num_envs` robots, `robots_per_task` of them in each task: sub-environment m * robots_per_task + r is robot r of task m.

    An ended episode is followed at once by the next one of the same task (AutoresetMode.SAME_STEP): the observation is then the first of
    the new episode, and `info["final_obs"]`, `info["final_info"]` say how the old one ended.

    Args:
        task: name of the task distribution.
        num_envs: number of robots, a multiple of `robots_per_task`.
        robots_per_task: copies of each task.
        split, index, task_seed: which tasks: numbers index, index + 1 ... of a split, drawn with a seed.
        simulator: "mujoco", "pybullet", "analytic"; "" takes the task's first.
        num_threads: of the simulator; 0 takes all cores.
        render_mode: "rgb_array" or None.
    """

    def __init__(
        self, task: str, num_envs: int = 1, robots_per_task: int = 1, split: str = "train", index: int = 0, task_seed: int = 0,
        simulator: str = "", num_threads: int = 0, render_mode: str | None = None,
    ) -> None:  # fmt: skip
        if robots_per_task < 1 or num_envs % robots_per_task:
            raise ValueError(f"num_envs = {num_envs} is not a multiple of robots_per_task = {robots_per_task}")
        self.num_envs, self.robots_per_task = num_envs, robots_per_task
        self.num_tasks = num_envs // robots_per_task
        self.task = task_files.make(task)
        self.metadata = {**_metadata(self.task), "autoreset_mode": AutoresetMode.SAME_STEP}
        self.render_mode = _checked_render_mode(render_mode, self.metadata)
        self.single_observation_space, self.single_action_space = _spaces(self.task.spec)
        self.observation_space = batch_space(self.single_observation_space, num_envs)
        self.action_space = batch_space(self.single_action_space, num_envs)
        # A BatchedEnv begins all its episodes together. Where one may end early each robot has its own, so that it can go on at once.
        ends_early = type(self.task).terminated is not Task.terminated
        shape, count = ((1, 1), num_envs) if ends_early else ((self.num_tasks, robots_per_task), 1)
        self.parts = [BatchedEnv(self.task, *shape, simulator=simulator, num_threads=num_threads) for _ in range(count)]
        self._split, self._task_seed = split, task_seed
        self._seeded = False
        self._set_tasks(index)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Floats, dict[str, Any]]:
        """Begin the next episode of every task, or the first of others where `options` has a "task"."""
        super().reset(seed=seed)
        if seed is not None or not self._seeded:
            for part in self.parts:
                part.rng.manual_seed(_draw_seed(self.np_random))
            self._seeded = True
        chosen = _chosen_task(options)
        if chosen is not None:
            self._set_tasks(chosen)
        return _joined([part.reset() for part in self.parts]), self._info(np.ones(self.num_envs, bool))

    def step(self, actions: Any) -> tuple[Floats, NDArray[Any], NDArray[Any], NDArray[Any], dict[str, Any]]:
        """One decision of every robot; actions outside of [-1, 1] are cut to it.

        Raises:
            ValueError: the actions have another shape than (num_envs, A), or (num_envs,) where they are discrete, are not finite, or are
                choices that there are not.
            RuntimeError: reset has not been called yet.
        """
        given = np.asarray(actions)
        if given.shape != self.action_space.shape:
            raise ValueError(f"actions have shape {given.shape}, expected (num_envs, actions) = {self.action_space.shape}")
        pieces = _rows(given, self.task.spec).view(len(self.parts), self.parts[0].num_tasks, self.parts[0].num_robots, -1)
        steps = [part.step(piece) for part, piece in zip(self.parts, pieces, strict=True)]
        ends = [_ends(step, part.spec) for part, step in zip(self.parts, steps, strict=True)]
        obs, reward = _joined([s.next_obs for s in steps]), _joined([s.reward for s in steps]).astype(np.float64)
        terminated, truncated = _joined([end[0] for end in ends]), _joined([end[1] for end in ends])
        ended = terminated | truncated
        success = np.concatenate([self.task.success(part.readings).numpy() for part in self.parts])
        final = self._final(obs, success, ended) if ended.any() else {}
        for part, rows in zip(self.parts, np.split(np.arange(self.num_envs), len(self.parts)), strict=True):
            if part.all_ended:
                obs[rows] = _joined([part.reset()])
        going_on = {} if ended.all() else {"success": success & ~ended, "_success": ~ended}
        return obs, reward, terminated, truncated, {**self._info(np.ones(self.num_envs, bool)), **going_on, **final}

    def render(self) -> tuple[Any, ...] | None:
        """Pictures, one of each sub-environment, or None without a render mode."""
        return tuple(part.simulator.render(i) for part in self.parts for i in range(part.num_sims)) if self.render_mode else None

    def close_extras(self) -> None:
        """Free the simulators."""
        for part in self.parts:
            part.close()

    def _set_tasks(self, chosen: int | TaskBatch) -> None:
        batch = chosen if isinstance(chosen, TaskBatch) else self.task.sample(self.num_tasks, self._split, self._task_seed, chosen)
        if len(batch) != self.num_tasks:
            raise ValueError(f"{len(batch)} tasks were given, this environment has room for {self.num_tasks}")
        of_sub_env = np.repeat(np.arange(self.num_tasks), self.robots_per_task)
        for i, part in enumerate(self.parts):
            part.set_tasks(batch if len(self.parts) == 1 else batch[of_sub_env[i]])
        self.tasks = batch  # hidden parameters included: for privileged critics and for people
        self._ids = np.array(batch.ids, dtype=object)[of_sub_env]

    def _info(self, mask: NDArray[np.bool_]) -> dict[str, Any]:
        """Say it of the sub-environments of a mask, in Gymnasium's form: each key with its mask."""
        ids = self._ids.copy()
        ids[~mask] = None
        return {"task_id": ids, "_task_id": mask}

    def _final(self, obs: Floats, success: NDArray[np.bool_], ended: NDArray[np.bool_]) -> dict[str, Any]:
        final_obs = np.full(self.num_envs, None, dtype=object)
        for i in np.flatnonzero(ended):
            final_obs[i] = obs[i].copy()
        info = {**self._info(ended.copy()), "success": success & ended, "_success": ended.copy()}
        return {"final_obs": final_obs, "_final_obs": ended.copy(), "final_info": info, "_final_info": ended.copy()}


def env_id(task: Task) -> str:
    """Name under which Gymnasium knows a task: arm_reach -> metarl/ArmReach-v1."""
    camel = "".join(word.capitalize() for word in task.name.split("_"))
    return f"metarl/{camel}-v{task.version}"


def register(name: str) -> str:
    """Make a task known to Gymnasium, under the id that is returned; `name` is what `tasks.make` takes."""
    made = env_id(task_files.make(name))
    gymnasium.registry.pop(made, None)  # Gymnasium warns of what is registered twice
    gymnasium.register(made, entry_point=f"{__name__}:MetaEnv", vector_entry_point=f"{__name__}:MetaVectorEnv", kwargs={"task": name})
    return made


def register_all(names: Iterable[str]) -> None:
    """Make tasks known to Gymnasium; of one whose file cannot be read, or that says too little, there is a warning."""
    for name in names:
        try:
            register(name)
        except (ImportError, ValueError) as error:
            warnings.warn(str(error), stacklevel=2)


def _spaces(spec: EnvSpec) -> tuple[spaces.Box[np.float32], spaces.Space[Any]]:
    """Spaces of one robot. Observations have units and no bounds that a simulator must keep: the space is all finite numbers."""
    largest = float(np.finfo(np.float32).max)
    actions = spaces.Discrete(spec.action_size) if spec.discrete else spaces.Box(-1.0, 1.0, (spec.action_size,), np.float32)
    return spaces.Box(-largest, largest, (spec.obs_size,), np.float32), actions


def _rows(action: NDArray[Any], spec: EnvSpec) -> torch.Tensor:
    """(..., A) as BatchedEnv takes them, from actions (..., A) or, where they are discrete, from choices (...)."""
    if not spec.discrete:
        return torch.as_tensor(np.asarray(action, np.float32))
    chosen = action.astype(np.int64)
    if (chosen != action).any() or (chosen < 0).any() or (chosen >= spec.action_size).any():
        raise ValueError(f"action {action.tolist()}: {spec.task} has the choices 0 to {spec.action_size - 1} ({', '.join(spec.action_names)})")
    return torch.eye(spec.action_size)[torch.as_tensor(chosen)]


def _metadata(task: Task) -> dict[str, Any]:
    drawn = bool(task.robot_name)
    return {"render_modes": ["rgb_array"] if drawn else [], "render_fps": max(1, round(1 / task.decision_dt))}


def _checked_render_mode(mode: str | None, metadata: Mapping[str, Any]) -> str | None:
    if mode is not None and mode not in metadata["render_modes"]:
        raise unknown_name("render mode", mode, metadata["render_modes"])
    return mode


def _chosen_task(options: Mapping[str, Any] | None) -> int | TaskBatch | None:
    for name in options or {}:
        if name != "task":
            raise unknown_name("reset option", name, ["task"])
    chosen = (options or {}).get("task")
    if isinstance(chosen, TaskBatch) or chosen is None:
        return chosen
    if not isinstance(chosen, int | np.integer):
        raise ValueError(f"reset option 'task' is {chosen!r}, expected the number of a task in the split, or a TaskBatch")
    return int(chosen)


def _ends(step: Step, spec: EnvSpec) -> tuple[torch.Tensor, torch.Tensor]:
    """Terminated and truncated as Gymnasium means them: where one decision is the whole episode, nothing was cut off."""
    if spec.horizon == 1:
        return step.terminated | step.truncated, torch.zeros_like(step.truncated)
    return step.terminated, step.truncated


def _joined(parts: list[torch.Tensor]) -> NDArray[Any]:
    return np.concatenate([part.flatten(0, 1).numpy() for part in parts])


def _draw_seed(rng: np.random.Generator) -> int:
    return int(rng.integers(2**63 - 1))


register_all(task_files.names())
