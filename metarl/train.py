"""Meta-training: the core loop, and all that lets it be stopped and continued at any moment."""

from __future__ import annotations

import copy
import fcntl
import math
import os
import signal
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, closing, contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any, Self

import torch
from rich.console import Console

from metarl import algos, meta_parameters, tasks
from metarl.algorithm import MetaRLAlgorithm
from metarl.evaluate import Trace
from metarl.log import CSV_NAME, TrainingLog
from metarl.rollout import Rollout, collect
from metarl.tasks.batched_env import BatchedEnv

STATE_NAME, RESULT_NAME = "checkpoint.safetensors", "meta_parameters.safetensors"


@dataclass(frozen=True)
class Run:
    """All that decides the outcome of a meta-training, and the folder it goes to.

    Attributes:
        algorithm, task, simulator: by name; simulator "" takes the task's first.
        config: an instance of the algorithm's Config.
        seed: of the tasks, the environment and the algorithm.
        out: the folder of checkpoint, meta-parameters and logs.
        command: written into the meta-parameters file.
    """

    algorithm: str
    task: str
    config: Any
    out: Path
    seed: int = 0
    simulator: str = ""
    command: str = ""

    @property
    def result(self) -> Path:
        """The meta-parameters file."""
        return self.out / RESULT_NAME

    def identity(self) -> dict[str, Any]:
        """What must be equal for a training to be continued, by name."""
        config = {f"config.{k}": v for k, v in asdict(self.config).items() if k != "iterations"}
        task = tasks.make(self.task)
        of_task = {"task": self.task, "task_version": task.version, "task_has_training_reward": task.has_training_reward}
        return {"algorithm": self.algorithm, **of_task, "seed": self.seed, "simulator": self.simulator, **config}


@dataclass(frozen=True)
class Progress:
    """How far a training has come, and by what: the commands that continued it with other settings behind the first one, and the code's commit."""

    iteration: int = 0
    env_steps: int = 0
    seconds: float = 0.0
    command: str = ""
    commit: str = ""

    def after(self, env_steps: int, seconds: float) -> Progress:
        """One iteration later."""
        return replace(self, iteration=self.iteration + 1, env_steps=self.env_steps + env_steps, seconds=self.seconds + seconds)

    def resumed(self, command: str) -> Progress:
        """Continued by another command; the same one with --resume says nothing new."""
        known = command.replace(" --resume", "") in self.command.split(" && ") or command in self.command.split(" && ")
        return self if known or not command else replace(self, command=f"{self.command} && {command}", commit=meta_parameters.git_commit())


def meta_train(
    run: Run, resume: bool = False, threads: int = 1, device: str = "cpu", checkpoint_every: int = 25, console: Console | None = None
) -> Path:  # fmt: skip
    """Meta-train, and write the meta-parameters file.

    Args:
        run: what to train, and where to.
        resume: continue from the checkpoint in `run.out`; on the CPU, bit for bit as if it had never been stopped.
        threads: of the physics, and of torch in the outer step.
        device: where the batches go: "cpu", "cuda", or "auto" for a GPU where there is one.
        checkpoint_every: iterations.
        console: where progress is shown.

    Returns:
        The meta-parameters file.

    Raises:
        KeyboardInterrupt: on Ctrl-C or SIGTERM, after the last complete iteration was saved.
        FloatingPointError: a metric is not finite; the last good checkpoint is kept.
    """
    config = run.config
    for name, value, least in (("seed", run.seed, 0), ("threads", threads, 1), ("checkpoint_every", checkpoint_every, 1)):
        if value < least:
            raise ValueError(f"{name} is {value}, expected at least {least}")
    torch.manual_seed(run.seed)
    task = tasks.make(run.task)
    algorithm = algos.load(run.algorithm)(task.spec, task.params, config, run.seed).to(choose_device(device))
    meta_parameters.check_writable(run.result)
    with ExitStack() as stack:
        stack.enter_context(alone_in(run.out))
        if not resume:
            _refuse_to_overwrite(run)
        env = stack.enter_context(closing(BatchedEnv(task, config.num_tasks, config.num_robots, run.simulator, threads, run.seed, choose_device(device))))
        progress = _restore(run, algorithm, env) if resume else Progress(command=run.command, commit=meta_parameters.git_commit())
        complete = _snapshot(run, progress, algorithm, env)
        _save(run, complete, algorithm)
        log = stack.enter_context(TrainingLog(run.out, f"{run.algorithm} on {run.task}", progress.iteration, config.iterations, console))
        interrupts = stack.enter_context(Interrupts())
        if resume:
            log.console.print(f"continuing at {progress.iteration} of {config.iterations} iterations", highlight=False)
        try:
            for iteration in range(progress.iteration, config.iterations):
                began = time.perf_counter()
                env_steps, metrics = _improve(run, algorithm, env, iteration, threads)
                with interrupts.held():  # from here on the iteration is complete
                    progress = progress.after(env_steps, time.perf_counter() - began)
                    complete = _snapshot(run, progress, algorithm, env)
                    row = {"iteration": iteration, "env_steps": progress.env_steps, "seconds": progress.seconds, **metrics}
                    log.write(row)
                    if progress.iteration % checkpoint_every == 0 or progress.iteration == config.iterations:
                        log.settle()
                        _save(run, complete, algorithm)
        except BaseException as reason:  # whatever ends it, the last complete iteration is not lost
            interrupts.ignore()
            algorithm.load_state_dict(complete["algorithm"])
            _save(run, complete, algorithm)
            if not isinstance(reason, KeyboardInterrupt):
                raise
            done = complete["progress"]["iteration"]
            raise KeyboardInterrupt(f"stopped; {done} of {config.iterations} iterations are saved in {run.out}, --resume continues there") from None
    return run.result


def _improve(run: Run, algorithm: MetaRLAlgorithm, env: BatchedEnv, iteration: int, threads: int) -> tuple[int, dict[str, float]]:
    """One outer step: trials in new tasks, and what the algorithm learns from them; the number of decisions, and what to log."""
    trace = Trace(env)
    env.set_tasks(env.task.practice(run.config.num_tasks, run.seed, iteration, algorithm.pool_tasks))
    torch.set_num_threads(1)  # beside the physics a second thread makes small operations slower; a large update needs it
    rollout = collect(env, algorithm.adapter(run.config.num_tasks, run.config.num_robots, training=True), explore=True, on_step=trace)
    torch.set_num_threads(threads)
    metrics = algorithm.meta_update(rollout)
    _check_finite(metrics, iteration, run)
    return rollout.env_steps, {**_returns(rollout), **trace.means(), **metrics}


def choose_device(name: str) -> str:
    """The device that "auto" stands for; other names stay.

    Raises:
        ValueError: no device has that name, or a GPU was asked for and there is none.
    """
    has_gpu = torch.cuda.is_available()
    if name.split(":")[0] not in ("auto", "cpu", "cuda"):
        raise ValueError(f"no device is called {name!r}: known are cpu, cuda, cuda:0 ..., and auto")
    if name.startswith("cuda") and not has_gpu:
        raise ValueError(f"device {name!r} was asked for, but torch {torch.__version__} sees no GPU; try 'cpu' or 'auto'")
    return ("cuda" if has_gpu else "cpu") if name == "auto" else name


def _returns(rollout: Rollout) -> dict[str, float]:
    return {f"return_episode_{k}": float(value) for k, value in enumerate(rollout.returns.mean((0, 1)))}


def _check_finite(metrics: Mapping[str, float], iteration: int, run: Run) -> None:
    bad = {name: value for name, value in metrics.items() if not math.isfinite(value)}
    if bad:
        said = ", ".join(f"{name} is {value}" for name, value in bad.items())
        raise FloatingPointError(f"training diverged in iteration {iteration}: {said}. The last good checkpoint is kept in {run.out}")


# ---- stopping and continuing ------------------------------------------------------------------------------------------------


def _snapshot(run: Run, progress: Progress, algorithm: MetaRLAlgorithm, env: BatchedEnv) -> dict[str, Any]:
    """The whole state between two iterations, as copies: whatever interrupts the next iteration, this one is complete."""
    parts = {"algorithm": algorithm.state_dict(), "env": env.state_dict(), "torch_rng": torch.get_rng_state()}
    return copy.deepcopy({"run": run.identity(), "progress": asdict(progress), **parts})


@contextmanager
def alone_in(folder: Path) -> Iterator[None]:
    """While inside, no other training writes into this folder.

    Raises:
        ValueError: one does already.
    """
    handle = os.open(folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)  # given back by the system, whatever ends this process
        except BlockingIOError:
            raise ValueError(f"another training is writing to {folder}: wait for it, or choose another --out") from None
        yield
    finally:
        os.close(handle)


def _refuse_to_overwrite(run: Run) -> None:
    for name in (STATE_NAME, CSV_NAME):
        if (run.out / name).exists():
            raise ValueError(f"{run.out} already holds a {name}: continue that training with --resume, or choose another --out")


def _restore(run: Run, algorithm: MetaRLAlgorithm, env: BatchedEnv) -> Progress:
    path = run.out / STATE_NAME
    if not path.exists():
        raise FileNotFoundError(f"nothing to resume: there is no {path}")
    state = meta_parameters.load_state(path)
    saved, wanted = state["run"], run.identity()
    different = [f"{k}: found {saved.get(k)!r}, expected {wanted.get(k)!r}" for k in {**saved, **wanted} if saved.get(k) != wanted.get(k)]
    if different:
        raise ValueError(f"the training in {run.out} is another one:\n  " + "\n  ".join(different))
    algorithm.load_state_dict(state["algorithm"])
    env.load_state_dict(state["env"])
    torch.set_rng_state(state["torch_rng"])
    return Progress(**state["progress"]).resumed(run.command)


def _save(run: Run, complete: dict[str, Any], algorithm: MetaRLAlgorithm) -> None:
    """Checkpoint and meta-parameters; `complete` must be the algorithm's present state."""
    done = Progress(**complete["progress"])
    meta_parameters.save(run.result, algorithm, run.algorithm, done.env_steps, done.command, done.commit)
    meta_parameters.save_state(run.out / STATE_NAME, complete)


class Interrupts:
    """Ctrl-C and SIGTERM raise KeyboardInterrupt, but not in the middle of writing (log writers can deadlock when they are left halfway)."""

    def __init__(self) -> None:
        self._holding = self._came = False
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():  # Python lets no other handle signals
            self._before = {s: signal.signal(s, self._handle) for s in (signal.SIGINT, signal.SIGTERM)}
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        for number, old in self._before.items():
            signal.signal(number, old)

    @contextmanager
    def held(self) -> Iterator[None]:
        """What is done inside is finished first."""
        self._holding = True
        yield
        self._holding = False
        if self._came:
            raise KeyboardInterrupt

    def ignore(self) -> None:
        """From now on nothing interrupts."""
        self._holding = True

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if not self._holding:
            raise KeyboardInterrupt
        self._came = True
