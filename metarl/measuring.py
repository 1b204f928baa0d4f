"""The tools of `benchmark`: pieces that take turns, and the bare physics that a piece is compared with."""

from __future__ import annotations

import functools
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import mujoco.batch
import numpy as np
import torch
from numpy.typing import NDArray

from metarl.robots.spec import ArmSpec
from metarl.tasks.batched_env import BatchedEnv, Step
from metarl.tasks.simulators.mujoco import MujocoSimulator, compile_scene
from metarl.tasks.simulators.simulator import RobotSimulator
from metarl.tasks.task import Task


@dataclass(frozen=True)
class Figure:
    """One measured number.

    Attributes:
        name: what was measured.
        value: the number.
        unit: its unit; "" for a ratio.
        goal: what it is to be, e.g. ">= 0.8", or "".
    """

    name: str
    value: float
    unit: str = ""
    goal: str = ""

    @property
    def reached(self) -> bool | None:
        """Whether it is what it is to be; None where nothing was asked."""
        if not self.goal:
            return None
        relation, limit = self.goal.split()
        return self.value >= float(limit) if relation == ">=" else self.value <= float(limit)


class Still:
    """An adapter that costs nothing: the same random actions again and again."""

    def __init__(self, env: BatchedEnv) -> None:
        self._action = 2 * torch.rand(env.num_tasks, env.num_robots, env.spec.action_size, generator=torch.Generator().manual_seed(0)) - 1

    def reset(self) -> None:
        """Nothing to forget."""

    def act(self, obs: torch.Tensor, explore: bool = True) -> torch.Tensor:
        """(M, R, A)."""
        return self._action

    def observe(self, step: Step) -> None:
        """Nothing is learnt."""

    def adapt(self) -> None:
        """Nothing is learnt."""


def in_turns(pieces: Mapping[str, Callable[[], object]], rounds: int, warm_up: int = 1) -> dict[str, list[float]]:
    """Seconds of each piece in each round, after rounds of warming up that do not count."""
    seconds: dict[str, list[float]] = {name: [] for name in pieces}
    for _ in range(warm_up + rounds):
        for name, piece in pieces.items():
            began = time.perf_counter()
            piece()
            seconds[name].append(time.perf_counter() - began)
    return {name: all_rounds[warm_up:] for name, all_rounds in seconds.items()}


def median_ratio(above: Sequence[float], below: Sequence[float]) -> float:
    """Median over the rounds of above / below."""
    return statistics.median(a / b for a, b in zip(above, below, strict=True))


@contextmanager
def torch_threads(number: int) -> Iterator[None]:
    """Torch on so many threads inside."""
    before = torch.get_num_threads()
    torch.set_num_threads(number)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def bare_physics(env: BatchedEnv, num_threads: int) -> Callable[[int], None]:
    """Steps a bare `mujoco.batch.Batch` of the same model, as many simulations and threads, so many decisions far."""
    task = env.task
    model = compile_scene(task)
    batch = mujoco.batch.Batch(model, env.num_sims, num_threads, persistent=True)
    ctrl = batch.bind("ctrl")
    commands = commands_of(task, model)
    substeps = round(task.decision_dt / task.physics_dt)

    def run(decisions: int) -> None:
        batch.reset()
        for _ in range(decisions):
            ctrl[:] = commands(env.num_sims)
            batch.step(None, substeps)

    return run


def replayed_physics(env: BatchedEnv, episode: Callable[[], object]) -> Callable[[], None]:
    """Plays an episode once, and gives what steps the same batch through the same commands again, and does nothing else."""
    simulator = env.simulator
    assert isinstance(simulator, MujocoSimulator)
    batch, advance, played = simulator.batch, simulator.advance, []
    qpos, qvel, ctrl = (batch.bind(name) for name in ("qpos", "qvel", "ctrl"))
    begin: list[NDArray[np.float64]] = []

    def recording(commands: torch.Tensor | None, substeps: int, active: torch.Tensor | None) -> None:
        if not begin:
            begin.extend((qpos.copy(), qvel.copy()))
        advance(commands, substeps, active)
        played.append((ctrl.copy(), None if active is None else active.numpy(), substeps))

    step_by_step = functools.partial(RobotSimulator.follow, simulator)
    simulator.advance, simulator.follow = recording, step_by_step  # type: ignore[assignment, method-assign]
    episode()
    del simulator.advance, simulator.follow

    def run() -> None:
        batch.reset(stage=0)
        qpos[:], qvel[:] = begin
        for commands, mask, substeps in played:
            ctrl[:] = commands
            batch.step(mask, substeps)

    return run


def commands_of(task: Task, model: mujoco.MjModel) -> Callable[[int], NDArray[np.float64]]:
    """Random commands (N, U) of all actuators: near the home pose of an arm, anything that other motors take."""
    rng, ctrl = np.random.default_rng(0), np.zeros(model.nu)
    if not isinstance(task.robot if task.robot_name else None, ArmSpec):
        weakest, strongest = model.actuator_ctrlrange.T
        return lambda num: rng.uniform(weakest, strongest, (num, model.nu))
    joints = [model.actuator(name).id for name in task.arm.joint_names]
    low, high = np.array(task.arm.qpos_limits).T
    ctrl[joints] = task.arm.home_qpos

    def wander(num: int) -> NDArray[np.float64]:
        commands = np.tile(ctrl, (num, 1))
        commands[:, joints] = (commands[:, joints] + 0.3 * rng.uniform(-1, 1, (num, len(joints)))).clip(low, high)
        return commands

    return wander
