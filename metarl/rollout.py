"""Rollout: what the world said in whole trials. collect: the only place where act meets step."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from metarl.tasks.batched_env import BatchedEnv, Step

if TYPE_CHECKING:
    from metarl.algorithm import Adapter


@dataclass
class Rollout:
    """Trials of M x R robots, K episodes of H decisions. Only what the world said: log-probabilities, values, beliefs belong to the learner.

    Attributes:
        obs: (M, R, K, H, O) float32.
        action: (M, R, K, H, A), as the adapter gave it.
        reward: (M, R, K, H), zero where not valid.
        next_obs: (M, R, K, H, O).
        terminated, truncated, valid: (M, R, K, H) bool; see `Step`.
        values: (M, P) the tasks' parameters as `TaskBatch.normalised` gives them, for privileged training only.
        task_ids: M stable ids.
        training_reward: (M, R, K, H) what training may be told in place of the reward, or None; see `Task.training_reward`.
    """

    obs: Tensor
    action: Tensor
    reward: Tensor
    next_obs: Tensor
    terminated: Tensor
    truncated: Tensor
    valid: Tensor
    values: Tensor
    task_ids: tuple[str, ...]
    training_reward: Tensor | None = None

    @property
    def told_reward(self) -> Tensor:
        """(M, R, K, H) what a learner is told in training: the reward, where the task has nothing better to say."""
        return self.reward if self.training_reward is None else self.training_reward

    @property
    def env_steps(self) -> int:
        """Number of valid decisions."""
        return int(self.valid.sum())

    @property
    def returns(self) -> Tensor:
        """(M, R, K) sum of rewards of each episode."""
        return self.reward.sum(-1)

    def to(self, device: torch.device | str) -> Rollout:
        """The same rollout on another device."""
        moved: dict[str, Any] = {f.name: x.to(device) for f in fields(self) if isinstance(x := getattr(self, f.name), Tensor)}
        return replace(self, **moved)


def collect(
    env: BatchedEnv, adapter: Adapter, episodes: int | None = None, explore: bool = False,
    on_step: Callable[[int, int, Step], None] | None = None,
) -> Rollout:  # fmt: skip
    """Whole trials of the tasks that `env` has been given.

    Args:
        env: after `set_tasks`.
        adapter: for as many tasks and robots as the environment has; it is reset here.
        episodes: K; by default the task's `episodes_per_trial`.
        explore: whether actions are drawn, as in meta-training and where an algorithm has `noise_to_adapt`, or are the mean.
        on_step: called with episode, step and Step, to film or to count.

    Raises:
        ValueError: the adapter was made for another task, or there is no episode.
    """
    assert env.tasks is not None, "set_tasks must come before collect"
    spec, episodes = env.spec, env.spec.episodes_per_trial if episodes is None else episodes
    if episodes < 1:
        raise ValueError(f"episodes is {episodes}, expected at least 1")
    shape = (env.num_tasks, env.num_robots, episodes, spec.horizon)
    sizes = {"obs": (spec.obs_size,), "action": (spec.action_size,), "next_obs": (spec.obs_size,)}
    kinds = {f.name: torch.float32 if f.name in (*sizes, "reward") else torch.bool for f in fields(Step)}
    store = {name: torch.zeros(*shape, *sizes.get(name, ()), dtype=kind, device=env.device) for name, kind in kinds.items()}
    told = torch.zeros(shape, device=env.device) if env.task.has_training_reward else None
    _check_fits(adapter, env)
    adapter.reset()
    values = env.tasks.normalised().to(env.device)
    if hasattr(adapter, "tell"):
        adapter.tell(values)
    for k in range(episodes):
        obs = env.reset()
        for h in range(spec.horizon):
            step = env.step(adapter.act(obs, explore))
            adapter.observe(step)
            for name in store:
                store[name][:, :, k, h] = getattr(step, name)
            if told is not None:
                told[:, :, k, h] = env.training_reward()
            if on_step is not None:
                on_step(k, h, step)
            obs = step.next_obs
            if env.all_ended:
                break
        adapter.adapt()
    return Rollout(**store, values=values, task_ids=env.tasks.ids, training_reward=told)


def _check_fits(adapter: Adapter, env: BatchedEnv) -> None:
    """Adapters of an algorithm know what they were made to see and to do."""
    made_for = getattr(getattr(adapter, "algorithm", None), "spec", env.spec)
    here, there = ((spec.obs_names, spec.obs_sizes, spec.action_names) for spec in (env.spec, made_for))
    if here != there:
        raise ValueError(f"the adapter was made for {made_for.task!r} with (observation, sizes, action) {there}, {env.spec.task!r} has {here}")
