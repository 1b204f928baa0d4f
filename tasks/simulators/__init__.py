"""Physics engines behind one interface, chosen by name."""

from __future__ import annotations

import torch

from metarl.robots.spec import unknown_name
from metarl.tasks.simulators.simulator import Simulator
from metarl.tasks.task import Task

NAMES = ("mujoco", "pybullet", "analytic")

__all__ = ["NAMES", "Simulator", "make"]


def make(name: str, task: Task, num_sims: int, num_threads: int = 0, rng: torch.Generator | None = None) -> Simulator:
    """A simulator of `num_sims` copies of the task's scene.

    Args:
        name: "mujoco", "pybullet" or "analytic"; "" takes the task's first one.
        task: the task distribution.
        num_sims: N.
        num_threads: threads (mujoco) or processes (pybullet); 0 takes all cores.
        rng: what chance decides in an analytic task; by default a generator of its own. The physics engines leave nothing to chance.

    Raises:
        ValueError: no simulator has that name, or it cannot run this task.
    """
    name = name or task.simulators[0]
    if name not in NAMES:
        raise unknown_name("simulator", name, NAMES)
    if name not in task.simulators:
        raise ValueError(f"{task.name} does not run in {name!r}; it runs in {', '.join(task.simulators)}")
    if name == "mujoco":
        from metarl.tasks.simulators.mujoco import MujocoSimulator

        return MujocoSimulator(task, num_sims, num_threads)
    if name == "pybullet":
        from metarl.tasks.simulators.pybullet import PybulletSimulator

        return PybulletSimulator(task, num_sims, num_threads)
    from metarl.tasks.simulators.analytic import AnalyticSimulator

    return AnalyticSimulator(task, num_sims, rng or torch.Generator())
