"""What each hidden parameter is worth to one who knows it: experts who are told the task, but one parameter of another task in its place.

python benchmarks/identifiability.py                 # all tasks with an expert, scripted or trained (the zoo's oracle); minutes
python benchmarks/identifiability.py quadrotor_track

A loss is a part of what the expert earns above random actions, over the trials of NUM_TASKS held-out tasks. "all" swaps everything that is hidden.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from metarl import meta_parameters, tasks
from metarl.evaluate import RandomAdapter
from metarl.rollout import collect
from metarl.statistics import Estimate, interval
from metarl.tasks import experts
from metarl.tasks.batched_env import BatchedEnv, Step
from metarl.tasks.parameters import TaskBatch
from metarl.tasks.task import Readings

ROOT = Path(__file__).parents[1]
NUM_TASKS = 128
SEES_AS_ROBOTS_DO = ("arm_push",)  # its expert undoes the camera's error; the others see the truth
SCRIPTED = {"quadrotor_track": experts.fly, "car_track": experts.drive}


class Expert:
    """A scripted expert as an adapter, who is told what `told` says."""

    def __init__(self, env: BatchedEnv, told: TaskBatch) -> None:
        self.env, self.values = env, {name: torch.as_tensor(v, dtype=torch.float32) for name, v in told.named().items()}
        self.decide = SCRIPTED.get(env.task.name) or env.task.expert  # type: ignore[attr-defined]

    def reset(self) -> None:
        """It knows everything already."""

    def act(self, obs: Tensor, explore: bool = True) -> Tensor:
        """Actions (M, 1, A)."""
        readings: Readings = self.env.sensed if self.env.task.name in SEES_AS_ROBOTS_DO else self.env.readings
        said: Tensor = self.decide(readings, self.values)
        return said.unsqueeze(1)

    def observe(self, step: Step) -> None:
        """Nothing is new to it."""

    def adapt(self) -> None:
        """Nor is it now."""


def swapped(batch: TaskBatch, names: Sequence[str]) -> TaskBatch:
    """The tasks, but for some parameters, which are those of the next task."""
    columns = [i for i, p in enumerate(batch.params) if p.name in names]
    values = batch.values.copy()
    values[:, columns] = np.roll(values[:, columns], 1, axis=0)
    return TaskBatch(batch.task, batch.params, values, batch.ids)


def returns(env: BatchedEnv, batch: TaskBatch, told: TaskBatch | None) -> np.ndarray:
    """(M,) mean return of a trial's episodes, of an expert who is told so, or of random actions; chance is the same each time."""
    env.set_tasks(batch)
    env.rng.manual_seed(0)
    oracle = f"zoo:{env.task.name}/oracle"
    if told is None:
        return collect(env, RandomAdapter(env, 0), explore=True).returns.mean((1, 2)).numpy()
    if hasattr(env.task, "expert") or env.task.name in SCRIPTED:
        return collect(env, Expert(env, told)).returns.mean((1, 2)).numpy()
    adapter = meta_parameters.load(oracle).adapter(env.num_tasks)
    tell, adapter.tell = adapter.tell, lambda values: None  # type: ignore[attr-defined]
    tell(told.normalised())
    return collect(env, adapter).returns.mean((1, 2)).numpy()


def losses(name: str) -> dict[str, Estimate]:
    """Parameter -> part of what is earned that a wrong value costs."""
    task = tasks.make(name)
    batch, env = task.sample(NUM_TASKS, "iid"), BatchedEnv(task, NUM_TASKS, num_threads=1, seed=0)
    hidden = [p.name for p in task.params if p.hidden]
    try:
        told, random = returns(env, batch, batch), returns(env, batch, None)
        earned = (told - random).mean()
        cost = {label: (told - returns(env, batch, swapped(batch, names))) / earned for label, names in {"all": hidden, **{n: [n] for n in hidden}}.items()}
    finally:
        env.close()
    return {label: interval(lambda x: x.mean(1), [each[:, None]])[0] for label, each in cost.items()}


def with_experts() -> list[str]:
    """Tasks that someone knows how to do."""
    return [n for n in tasks.names() if n in SCRIPTED or hasattr(tasks.make(n), "expert") or f"zoo:{n}/oracle" in meta_parameters.zoo()]


def main() -> None:
    """Measure, print and write docs/identifiability/TASK.md."""
    torch.set_num_threads(1)
    folder = ROOT / "docs" / "identifiability"
    folder.mkdir(parents=True, exist_ok=True)
    for name in sys.argv[1:] or with_experts():
        rows = [f"| {label} | {value:.2f} [{low:.2f}, {high:.2f}] |" for label, (value, low, high) in losses(name).items()]
        text = "\n".join([f"### {name}", "", "| told wrongly | loss |", "|---|---|", *rows, ""])
        (folder / f"{name}.md").write_text(text)
        print(text, flush=True)


if __name__ == "__main__":
    main()
