"""How fast the learners are: iterations and training steps against the physics, the passes and the matrix products that they cannot avoid."""

from __future__ import annotations

import itertools
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from metarl import algos, tasks
from metarl.algorithm import MetaRLAlgorithm
from metarl.algos.metagenrl import MetaGenRL
from metarl.algos.pearl import PEARL
from metarl.measuring import Figure, bare_physics, in_turns, median_ratio, torch_threads
from metarl.presets import config_for
from metarl.rollout import Rollout, collect
from metarl.tasks.batched_env import BatchedEnv

TASK, ALGORITHM = "arm_reach", "rl2"
MAML_TASK = "point_navigation"
PEARL_TASK = "half_cheetah_vel_pearl"
PEARL_SIZES: dict[str, Any] = {"meta_batch": 16, "batch_size": 256, "context_size": 100, "layers": (300, 300, 300), "encoder_layers": (200, 200, 200)}
MEMORY_TASK = "grid_navi"
# decisions a second: five times what a public implementation of VariBAD reaches on two cores
MEMORY_GOALS = {"rl2": ">= 1800", "varibad": ">= 1800", "snail": ""}
NUM_THREADS = 2

# ---- matrix products alone --------------------------------------------------------------------------------------------------

aten = torch.ops.aten
# products of matrices, and where in their arguments the two factors stand
FACTORS = {aten.mm: 0, aten.bmm: 0, aten.addmm: 1, aten.addmm_: 1, aten.baddbmm: 1, aten.addbmm: 1}
# fused attention of queries (..., T, E) and keys (..., S, E): so many products of T x S x E
ATTENTION = {aten._scaled_dot_product_flash_attention_for_cpu: 2, aten._scaled_dot_product_flash_attention_for_cpu_backward: 4}


class Products(TorchDispatchMode):
    """Inside, what any code multiplies is written down: the shapes of both factors, in order."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.shapes: list[tuple[torch.Size, torch.Size]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None) -> Any:
        kind = func.overloadpacket
        if kind in FACTORS:
            left, right = args[FACTORS[kind] : FACTORS[kind] + 2]
            self.shapes.append((left.shape, right.shape))
        elif kind in ATTENTION:
            query, key = args[:2] if ATTENTION[kind] == 2 else args[1:3]
            self.shapes += [(query.shape, key.mT.shape)] * ATTENTION[kind]
        return func(*args, **(kwargs or {}))

    def replayed(self) -> Callable[[], None]:
        """The same products of other numbers, and nothing else."""
        factors = {shapes: tuple(torch.randn(shape) for shape in shapes) for shapes in set(self.shapes)}
        pairs = [factors[shapes] for shapes in self.shapes]

        def run() -> None:
            for left, right in pairs:
                torch.matmul(left, right)

        return run


# ---- the learners -----------------------------------------------------------------------------------------------------------


def _trials(env: BatchedEnv, algorithm: MetaRLAlgorithm) -> tuple[Rollout, float]:
    """What an iteration collects, on one thread of torch as in `meta_train`, and how long that took, in s."""
    config, began = algorithm.config, time.perf_counter()
    with torch_threads(1):
        env.set_tasks(env.task.sample(config.num_tasks))
        rollout = collect(env, algorithm.adapter(config.num_tasks, config.num_robots, training=True), explore=True)
    return rollout, time.perf_counter() - began


def iteration_against_physics() -> list[Figure]:
    """A whole iteration of meta-training, collect and update, against the physics in it."""
    task, config = tasks.make(TASK), config_for(ALGORITHM, TASK)
    algorithm = algos.load(ALGORITHM)(task.spec, task.params, config, 0)
    env = BatchedEnv(task, config.num_tasks, config.num_robots, num_threads=NUM_THREADS)
    bare, collecting = bare_physics(env, NUM_THREADS), []

    def iteration() -> None:
        rollout, took = _trials(env, algorithm)
        collecting.append(took)
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
        rollout, took = _trials(env, algorithm)
        collecting.append(took)
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
    algorithm.meta_update(_trials(env, algorithm)[0])
    env.close()

    def step() -> None:
        algorithm.improve(algorithm.replay.draw_tasks(config.meta_batch, algorithm.generator))

    with Products() as products:
        step()
    with torch_threads(NUM_THREADS):
        seconds = in_turns({"step": step, "bare": products.replayed()}, rounds=9)
    said = f"training step of pearl, {config.meta_batch} tasks x {config.batch_size} decisions, layers {config.layers}"
    return [
        Figure(said, statistics.median(seconds["step"]), "s", "<= 0.076"),  # a fifth of what a public implementation takes
        Figure(f"{said}, against its own matrix products alone", median_ratio(seconds["step"], seconds["bare"]), goal="<= 2"),
    ]


def metagenrl_against_bare_passes() -> list[Figure]:
    """What MetaGenRL does between two steps of policies and objective, against a forward and a backward pass of each network for each of its updates."""
    task = tasks.make(MAML_TASK)
    algorithm = algos.load("metagenrl")(task.spec, task.params, config_for("metagenrl", MAML_TASK), 0)
    assert isinstance(algorithm, MetaGenRL)
    config, agents, env = algorithm.config, algorithm.population, BatchedEnv(task, algorithm.config.num_tasks, algorithm.config.num_robots)
    algorithm.meta_update(_trials(env, algorithm)[0])
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


def memory_against_bare_products() -> list[Figure]:
    """An iteration of learners with a memory on a grid, trials included, and its update against its matrix products alone."""
    return [figure for name in MEMORY_GOALS for figure in _memory_against_bare_products(name)]


def _memory_against_bare_products(name: str) -> list[Figure]:
    task, config = tasks.make(MEMORY_TASK), replace(config_for(name, MEMORY_TASK), max_kl=1e9)  # an update that stops early would be another one each time
    algorithm = algos.load(name)(task.spec, task.params, config, 0)
    env = BatchedEnv(task, config.num_tasks, config.num_robots)

    collected = [_trials(env, algorithm) for _ in range(4)]
    rollout, collecting = collected[0][0], [took for _, took in collected[1:]]  # the first warms up
    with torch_threads(NUM_THREADS):
        algorithm.meta_update(rollout)  # from now on the buffers of those who have one are filled
        with Products() as products:
            algorithm.meta_update(rollout)
        seconds = in_turns({"update": lambda: algorithm.meta_update(rollout), "bare": products.replayed()}, rounds=3)
    env.close()
    frames = rollout.env_steps / (statistics.median(seconds["update"]) + statistics.median(collecting))
    said = f"{name} on {MEMORY_TASK}, {config.num_tasks} tasks"
    return [
        Figure(f"{said}, trials and update", frames, "decisions/s", MEMORY_GOALS[name]),
        Figure(f"{said}, update against its own matrix products alone", median_ratio(seconds["update"], seconds["bare"])),
    ]
