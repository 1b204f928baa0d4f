"""Every task as a `dm_env.Environment`, for the code that speaks DeepMind's interface: one robot in one task."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

try:
    import dm_env
    from dm_env import specs
except ImportError as error:
    raise ImportError("dm_env is not installed: pip install 'metarl[sim]'") from error

from metarl import tasks as task_files
from metarl.tasks.batched_env import BatchedEnv
from metarl.tasks.parameters import TaskBatch


class DmEnv(dm_env.Environment):  # type: ignore[misc]
    """One robot in one task. An end by itself has discount 0, an end because time is up has discount 1, as dm_env would have it.

    Args:
        task: name of the task distribution.
        split: which task: one of the splits,
        index: its number in the split,
        task_seed: and the seed that the split is drawn with.
        simulator: "mujoco", "pybullet", "analytic"; "" takes the task's first.
        seed: of what is random within episodes.
    """

    def __init__(self, task: str, split: str = "train", index: int = 0, task_seed: int = 0, simulator: str = "", seed: int = 0) -> None:
        self.batched = BatchedEnv(task_files.make(task), 1, simulator=simulator, num_threads=1, seed=seed)
        self.set_task(self.batched.task.sample(1, split, task_seed, index))

    def set_task(self, task: TaskBatch) -> None:
        """Go on in another task (a batch of one); the next step begins its first episode."""
        self.batched.set_tasks(task)
        self._ended = True

    def reset(self) -> dm_env.TimeStep:
        """Begin the next episode of the task."""
        self._ended = False
        return dm_env.restart(_numpy(self.batched.reset()))

    def step(self, action: Any) -> dm_env.TimeStep:
        """One decision, or, after the end of an episode, the beginning of the next.

        Raises:
            ValueError: the action has another shape, is not finite, or is a choice that there is not.
        """
        if self._ended:
            return self.reset()
        step = self.batched.step(self._row(np.asarray(action)))
        obs, reward = _numpy(step.next_obs), step.reward[0, 0].numpy()[()]
        self._ended = bool(step.terminated.any() or step.truncated.any())
        if bool(step.terminated.any()):
            return dm_env.termination(reward, obs)
        return dm_env.truncation(reward, obs) if self._ended else dm_env.transition(reward, obs)

    def observation_spec(self) -> specs.Array:
        """All parts of the observation, one after another."""
        return specs.Array((self.batched.spec.obs_size,), np.float32, "observation")

    def action_spec(self) -> specs.Array:
        """Numbers in [-1, 1], or a choice."""
        size = self.batched.spec.action_size
        return specs.DiscreteArray(size, name="action") if self.batched.spec.discrete else specs.BoundedArray((size,), np.float32, -1.0, 1.0, "action")

    def reward_spec(self) -> specs.Array:
        """One number within the task's range."""
        return specs.BoundedArray((), np.float32, *self.batched.task.reward_range, "reward")

    def close(self) -> None:
        """Free the simulator."""
        self.batched.close()

    def _row(self, action: NDArray[Any]) -> torch.Tensor:
        """(1, 1, A)."""
        size = self.batched.spec.action_size
        if not self.batched.spec.discrete:
            return torch.as_tensor(action, dtype=torch.float32)[None, None]
        if action.shape != () or action.item() not in range(size):
            raise ValueError(f"action is {action.tolist()}, expected a choice of 0 to {size - 1}")
        return torch.eye(size)[int(action)].expand(1, 1, size)


def _numpy(obs: torch.Tensor) -> NDArray[np.float32]:
    """(O,) a copy of (1, 1, O)."""
    row: NDArray[np.float32] = obs[0, 0].numpy().copy()
    return row
