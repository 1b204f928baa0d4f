"""How fast metarl is, each figure against the bare work that it cannot avoid.

The compared pieces take turns in one process and the median of the rounds is taken, because machines are noisy: a ratio of two pieces
that ran a moment apart means something where seconds do not.
"""

from __future__ import annotations

import itertools
import os
import platform
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from metarl import algos, env_figures, tasks
from metarl.algos.metagenrl import MetaGenRL
from metarl.algos.pearl import PEARL
from metarl.measuring import Figure, bare_physics, in_turns, median_ratio, torch_threads
from metarl.presets import config_for
from metarl.robots.spec import unknown_name
from metarl.rollout import collect
from metarl.tasks.batched_env import BatchedEnv

TASK, ALGORITHM = "arm_reach", "rl2"
MAML_TASK = "point_navigation"
PEARL_TASK = "half_cheetah_vel_pearl"
PEARL_SIZES: dict[str, Any] = {"meta_batch": 16, "batch_size": 256, "context_size": 100, "layers": (300, 300, 300), "encoder_layers": (200, 200, 200)}
NUM_THREADS = 2


# ---- algorithms -------------------------------------------------------------------------------------------------------------


def iteration_against_physics() -> list[Figure]:
    """A whole iteration of meta-training, collect and update, against the physics in it."""
    task, config = tasks.make(TASK), config_for(ALGORITHM, TASK)
    algorithm = algos.load(ALGORITHM)(task.spec, task.params, config, 0)
    env = BatchedEnv(task, config.num_tasks, config.num_robots, num_threads=NUM_THREADS)
    bare, collecting = bare_physics(env, NUM_THREADS), []

    def iteration() -> None:
        began = time.perf_counter()
        with torch_threads(1):  # as in `meta_train`
            env.set_tasks(task.sample(config.num_tasks))
            rollout = collect(env, algorithm.adapter(config.num_tasks, config.num_robots, training=True), explore=True)
        collecting.append(time.perf_counter() - began)
        with torch_threads(NUM_THREADS):
            algorithm.meta_update(rollout)

    pieces = {"iteration": iteration, "bare": lambda: bare(task.horizon * task.episodes_per_trial)}
    seconds = in_turns(pieces, rounds=3, warm_up=0)  # each takes seconds
    env.close()
    name = f"iteration of {ALGORITHM} on {TASK}"
    return [
        Figure(f"{name}, its physics against bare Batch.step", median_ratio(seconds["bare"], seconds["iteration"]), goal=">= 0.35"),
        Figure(name, statistics.median(seconds["iteration"]), "s"),
        Figure(f"{name}, part that collects", median_ratio(collecting, seconds["iteration"])),
    ]


def latency() -> list[Figure]:
    """Act and observe of one robot, on one thread of torch."""
    task, config = tasks.make(TASK), config_for(ALGORITHM, TASK)
    adapter = algos.load(ALGORITHM)(task.spec, task.params, config, 0).adapter(1)
    env = BatchedEnv(task, 1, num_threads=1)
    env.set_tasks(task.sample(1))
    milliseconds = []
    with torch_threads(1):
        for _ in range(20):
            obs = env.reset()
            for _ in range(task.horizon):
                began = time.perf_counter()
                action = adapter.act(obs, explore=False)
                acted = time.perf_counter()
                step = env.step(action)
                stepped = time.perf_counter()
                adapter.observe(step)
                milliseconds.append(1e3 * (time.perf_counter() - stepped + acted - began))
                obs = step.next_obs
    env.close()
    median, p99 = np.quantile(milliseconds[100:], [0.5, 0.99])
    name = f"act + observe of {ALGORITHM}, one robot"
    return [Figure(f"{name}, median", float(median), "ms", "<= 1"), Figure(f"{name}, 99 of 100", float(p99), "ms", "<= 2")]


def maml_against_bare_passes() -> list[Figure]:
    """An iteration of MAML and ProMP, trials included, against one forward and backward pass over all its decisions by policies of the same shape."""
    goal = "<= 0.78"  # a fifth of what a public implementation takes
    return _against_bare_passes("maml", goal) + _against_bare_passes("promp")


def _against_bare_passes(name: str, goal: str = "") -> list[Figure]:
    task = tasks.make(MAML_TASK)
    algorithm = algos.load(name)(task.spec, task.params, config_for(name, MAML_TASK), 0)
    config, collecting = algorithm.config, []
    env = BatchedEnv(task, config.num_tasks, config.num_robots)
    policies = _batched_policies(config.num_tasks, [task.spec.obs_size, *config.layers, task.spec.action_size])
    decisions = config.num_robots * task.horizon

    def iteration() -> None:
        began = time.perf_counter()
        with torch_threads(1):  # as in `meta_train`
            env.set_tasks(task.sample(config.num_tasks))
            rollout = collect(env, algorithm.adapter(config.num_tasks, config.num_robots, training=True), explore=True)
        collecting.append(time.perf_counter() - began)
        algorithm.meta_update(rollout)

    def bare() -> None:
        for _ in range(task.episodes_per_trial):
            mean = torch.randn(config.num_tasks, decisions, task.spec.obs_size)
            for weight, bias in policies[:-1]:
                mean = torch.tanh(torch.baddbmm(bias, mean, weight))
            mean = torch.baddbmm(policies[-1][1], mean, policies[-1][0])
            torch.autograd.grad(mean.square().mean(), [p for layer in policies for p in layer])

    with torch_threads(NUM_THREADS):
        seconds = in_turns({"iteration": iteration, "bare": bare}, rounds=7)
    env.close()
    said = f"iteration of {name}, {config.num_tasks} tasks x {config.num_robots} robots x {task.episodes_per_trial} episodes x {task.horizon} steps"
    return [
        Figure(said, statistics.median(seconds["iteration"]), "s", goal),
        Figure(f"{said}, in bare forward and backward passes", median_ratio(seconds["iteration"], seconds["bare"])),
        Figure(f"{said}, part that collects", median_ratio(collecting[1:], seconds["iteration"])),
    ]


def _batched_policies(num_tasks: int, sizes: Sequence[int]) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Weights (M, in, out) and biases (M, 1, out) of tanh networks, one for each task."""
    shapes = list(itertools.pairwise(sizes))
    rng = torch.Generator().manual_seed(0)
    weights = [0.1 * torch.randn(num_tasks, fan_in, fan_out, generator=rng) for fan_in, fan_out in shapes]
    biases = [torch.zeros(num_tasks, 1, fan_out) for _, fan_out in shapes]
    return [(w.requires_grad_(), b.requires_grad_()) for w, b in zip(weights, biases, strict=True)]


def pearl_against_bare_products() -> list[Figure]:
    """A training step of PEARL of the published size against its matrix products alone."""
    task = tasks.make(PEARL_TASK)
    algorithm = algos.load("pearl")(task.spec, task.params, replace(config_for("pearl", PEARL_TASK), updates=0, **PEARL_SIZES), 0)
    assert isinstance(algorithm, PEARL)
    config, env = algorithm.config, BatchedEnv(task, algorithm.config.num_tasks, algorithm.config.num_robots)
    env.set_tasks(task.sample(config.num_tasks))
    algorithm.meta_update(collect(env, algorithm.adapter(config.num_tasks, config.num_robots, training=True), explore=True))
    env.close()

    def step() -> None:
        algorithm.improve(algorithm.replay.draw_tasks(config.meta_batch, algorithm.generator))

    with torch_threads(NUM_THREADS):
        seconds = in_turns({"step": step, "bare": _products(algorithm)}, rounds=9)
    said = f"training step of pearl, {config.meta_batch} tasks x {config.batch_size} decisions, layers {config.layers}"
    return [
        Figure(said, statistics.median(seconds["step"]), "s", "<= 0.38"),  # what a public implementation takes
        Figure(f"{said}, in its bare matrix products", median_ratio(seconds["step"], seconds["bare"]), goal="<= 2"),
    ]


def _products(algorithm: PEARL) -> Callable[[], None]:
    """The matrix products of a training step: (rows, in) @ (in, out) forwards, two more of that size where inputs and weights get gradients."""
    config, spec = algorithm.config, algorithm.spec
    rows, context = config.meta_batch * config.batch_size, config.meta_batch * config.context_size
    of_encoder = [2 * spec.obs_size + spec.action_size + 1, *config.encoder_layers, 2 * config.latent_size]
    of_policy = [spec.obs_size + config.latent_size, *config.layers, 2 * spec.action_size]
    of_critic = [spec.obs_size + spec.action_size + config.latent_size, *config.layers, 1]
    # members, rows, sizes, products: next actions, their worth, critics with gradients of weights, actions with them, their worth with those of inputs alone
    passes = [(1, rows, of_policy, 1), (2, rows, of_critic, 1), (2, rows, of_critic, 3), (1, rows, of_policy, 3), (2, rows, of_critic, 2)]
    passes.append((1, context, of_encoder, 3))
    rng = torch.Generator().manual_seed(0)
    pairs = []
    for members, number, sizes, products in passes:
        for fan_in, fan_out in itertools.pairwise(sizes):
            x, weight, gradient = (torch.randn(members, *s, generator=rng) for s in ((number, fan_in), (fan_in, fan_out), (number, fan_out)))
            pairs += [(x, weight), (gradient, weight.mT), (x.mT, gradient)][:products]

    def run() -> None:
        for left, right in pairs:
            torch.bmm(left, right)

    return run


def metagenrl_against_bare_passes() -> list[Figure]:
    """What MetaGenRL does between two steps of policies and objective, against a forward and a backward pass of each network for each of its updates."""
    task = tasks.make(MAML_TASK)
    algorithm = algos.load("metagenrl")(task.spec, task.params, config_for("metagenrl", MAML_TASK), 0)
    assert isinstance(algorithm, MetaGenRL)
    config, agents, env = algorithm.config, algorithm.population, BatchedEnv(task, algorithm.config.num_tasks, algorithm.config.num_robots)
    env.set_tasks(task.sample(config.num_tasks))
    algorithm.meta_update(collect(env, algorithm.adapter(config.num_tasks, config.num_robots, training=True), explore=True))
    env.close()
    said = algorithm.seen(agents.episodes.draw(2 * config.batch_size, min(config.segment, task.horizon), algorithm.generator))
    part, objective = said.first(config.batch_size), algorithm.objective
    policy, critic = (x.clone().requires_grad_() for x in (agents.policy, agents.critic))
    told = [x.flatten(0, 1) for x in (part.action, part.action, part.valid[..., :1, None], algorithm.facts(agents, part, part.action), part.valid)]

    def step() -> None:
        for update in range(config.policy_delay):
            algorithm.practise(agents, update, algorithm.generator, learn=True)

    def bare() -> None:
        for _ in range(config.policy_delay):
            torch.autograd.grad(agents.judge(critic, said.obs, said.action).square().mean(), critic)
        torch.autograd.grad(agents.act(policy, part.obs).square().mean(), policy)
        torch.autograd.grad(objective(*told).square().mean(), list(objective.parameters()))

    with torch_threads(NUM_THREADS):
        seconds = in_turns({"step": step, "bare": bare}, rounds=25)
    name = f"step of metagenrl, {config.num_tasks} agents x {config.batch_size} segments x {config.segment} decisions"
    return [
        Figure(name, statistics.median(seconds["step"]), "s"),
        Figure(f"{name}, in bare forward and backward passes", median_ratio(seconds["step"], seconds["bare"]), goal="<= 5"),
    ]


BENCHMARKS: dict[str, Callable[[], list[Figure]]] = {
    "physics": env_figures.env_against_physics,
    "suite": env_figures.every_env_against_physics,
    "vector": env_figures.every_env_against_async_vector_env,
    "gymnasium": env_figures.env_against_gymnasiums_half_cheetah,
    "pybullet": env_figures.processes_of_pybullet,
    "memory": env_figures.memory_of_kitchens,
    "tasks": env_figures.new_tasks_against_a_trial,
    "iteration": iteration_against_physics,
    "latency": latency,
    "maml": maml_against_bare_passes,
    "pearl": pearl_against_bare_products,
    "metagenrl": metagenrl_against_bare_passes,
}


def run_benchmarks(names: Sequence[str], console: Console) -> dict[str, Any]:
    """Run benchmarks by name, all where none is named; print a table, and return the figures and what machine they are of.

    Raises:
        ValueError: no benchmark has that name.
    """
    for name in names:
        if name not in BENCHMARKS:
            raise unknown_name("benchmark", name, BENCHMARKS)
    machine = {
        "cores": os.cpu_count(),
        "load": os.getloadavg()[0],  # of others: before the first piece
        "machine": platform.machine(),
        "python": platform.python_version(),
        "torch": torch.__version__,
    }
    table, figures = Table("", "measured", "goal", ""), []
    for name in names or BENCHMARKS:
        with console.status(f"{name}: {_about(name)}"):
            found = BENCHMARKS[name]()
        for figure in found:
            table.add_row(*_row(figure))
        figures += [{"benchmark": name, **asdict(figure)} for figure in found]
    console.print(table)
    return {"machine": machine, "figures": figures}


def as_markdown(measured: Mapping[str, Any]) -> str:
    """What `run_benchmarks` returned, as a page: a table for each benchmark."""
    machine, by_name = measured["machine"], itertools.groupby(measured["figures"], key=lambda figure: figure["benchmark"])
    parts = [
        "# Speed",
        "Made by `metarl benchmark --markdown docs/speed.md`. A ratio is the median of rounds in which the compared pieces take turns in one process, with"
        f" {env_figures.NUM_SIMS} simulations on {env_figures.NUM_THREADS} threads. Measured on {machine['cores']} cores ({machine['machine']}) that are shared"
        f" with other work, which kept {machine['load']:.1f} of them busy when it began; Python {machine['python']}, torch {machine['torch']}.",
    ]
    for name, figures in by_name:
        rows = [_row(Figure(**{key: value for key, value in figure.items() if key != "benchmark"})) for figure in figures]
        lines = ["| | measured | goal | |", "|---|---|---|---|", *(f"| {' | '.join(row)} |" for row in rows)]
        parts += [f"## {name}", _about(name), "\n".join(lines)]
    return "\n\n".join(parts) + "\n"


def _about(name: str) -> str:
    return (BENCHMARKS[name].__doc__ or "").splitlines()[0]


def _row(figure: Figure) -> tuple[str, str, str, str]:
    mark = {True: "reached", False: "missed", None: ""}[figure.reached]
    return figure.name, f"{figure.value:.3g} {figure.unit}".strip(), figure.goal, mark
