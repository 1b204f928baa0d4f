"""Does a learned objective train agents that it has never met, in tasks that it has never met? Return by episode, against the untrained objective.

python benchmarks/learned_objective.py point_navigation      # docs/point_navigation_metagenrl.md and .png, and the JSON file beside the zoo's

Agents are born from seeds of their own, live in held-out tasks, and learn after each episode. The untrained objective is another random one for each of
these seeds. All three have the same agents and tasks: agents with the trained objective, with an untrained one, and as they were born.
"""

from __future__ import annotations

import copy
import json
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from matplotlib.figure import Figure
from overview import said

from metarl import algos, meta_parameters, tasks
from metarl.algos.metagenrl import MetaGenRL
from metarl.rollout import collect
from metarl.statistics import Array, Estimate, interval
from metarl.tasks.batched_env import BatchedEnv

ROOT = Path(__file__).parents[1]
ZOO = ROOT / "metarl" / "zoo"
AGENTS, NUM_TASKS, EPISODES, SPLIT = 5, 12, 30, "iid"
COLOURS = {"trained": "#0072B2", "untrained": "#D55E00", "as born": "#999999"}


def returns(algorithm: MetaGenRL, birth: int) -> Array:
    """(tasks, episodes) of new agents."""
    algorithm.network.birth.fill_(birth)
    algorithm.generator.manual_seed(birth)
    task, robots = tasks.make(algorithm.spec.task), algorithm.config.num_robots
    env = BatchedEnv(task, NUM_TASKS, robots, num_threads=1, seed=birth)
    env.set_tasks(task.sample(NUM_TASKS, SPLIT))
    rollout = collect(env, algorithm.adapter(NUM_TASKS, robots), EPISODES, explore=True)
    env.close()
    return np.asarray(rollout.returns.mean(1))


def measure(trained: MetaGenRL) -> dict[str, list[Array]]:
    """Of each kind of learning, (tasks, episodes) for each birth."""
    found: dict[str, list[Array]] = {name: [] for name in COLOURS}
    for birth in range(1000, 1000 + AGENTS):
        untrained = algos.load("metagenrl")(trained.spec, trained.params, trained.config, birth)
        assert isinstance(untrained, MetaGenRL)
        untrained.network.normalizer.load_state_dict(trained.network.normalizer.state_dict())
        unmoved = copy.copy(trained)
        unmoved.config = replace(trained.config, updates=0)
        for name, algorithm in (("trained", trained), ("untrained", untrained), ("as born", unmoved)):
            found[name].append(returns(algorithm, birth))
            print(name, birth, " ".join(f"{x:.3g}" for x in found[name][-1].mean(0)), flush=True)
    return found


def mean_of_tasks(x: Array) -> Array:
    """(B, K) from (B, n, K)."""
    return np.asarray(x.mean(1))


def main() -> None:
    """Measure, and write."""
    task = sys.argv[1]
    path = ZOO / f"{task}_metagenrl.safetensors"
    trained = meta_parameters.load(path)
    assert isinstance(trained, MetaGenRL)
    torch.set_num_threads(1)
    found = measure(trained)
    curves: dict[str, list[Estimate]] = {name: interval(mean_of_tasks, x) for name, x in found.items()}
    better, learned = (interval(mean_of_tasks, [a - b for a, b in zip(found["trained"], found[name], strict=True)]) for name in ("untrained", "as born"))
    about = meta_parameters.describe(path)
    known = {k: about[k] for k in ("command", "seed", "env_steps", "commit") if k in about}
    asked = {"split": SPLIT, "simulator": tasks.make(task).simulators[0], "num_tasks": NUM_TASKS, "num_robots": trained.config.num_robots, "agents": AGENTS}
    others = {f"returns_{name.replace(' ', '_')}": curves[name] for name in ("untrained", "as born")}
    empty = {"error_unit": "", "headroom": None, "seeds_pooled": 1, "gains": [], "late_returns": [], "errors": [], "scores": []}
    score = {**asked, **empty, "returns": curves["trained"], **others, "trained_minus_untrained": better, "trained_minus_born": learned}
    path.with_suffix(".json").write_text(json.dumps({**known, "scores": [score]}, indent=1) + "\n")

    shown = sorted({0, 1, 2, 3, *range(5, EPISODES - 1, 5), EPISODES - 1})
    lines = [f"### {task}, {SPLIT}: new agents that learn by the objective of MetaGenRL", ""]
    lines += [f"{AGENTS} agents, born from seeds of their own, in each of {NUM_TASKS} tasks. Mean return of an episode with 95 % intervals over both.", ""]
    lines += ["| objective | " + " | ".join(f"after {k}" for k in shown) + " |", "|---|" + "---|" * len(shown)]
    lines += [
        f"| {name} | " + " | ".join(said(curve[k]) for k in shown) + " |"
        for name, curve in {**curves, "trained - untrained": better, "trained - as born": learned}.items()
    ]
    lines += ["", f"![return by episode]({task}_metagenrl.png)"]
    (ROOT / "docs" / f"{task}_metagenrl.md").write_text("\n".join(lines) + "\n")

    figure = Figure(figsize=(5.5, 4.0), layout="constrained")
    axes = figure.subplots()
    for name, curve in curves.items():
        value, low, high = np.array(curve).T
        axes.plot(value, label=name, color=COLOURS[name])
        axes.fill_between(np.arange(len(value)), low, high, color=COLOURS[name], alpha=0.2, linewidth=0)
    axes.spines[["top", "right"]].set_visible(False)
    axes.set_xlabel("episodes that a new agent has learned from")
    axes.set_ylabel("return")
    axes.set_title(f"{task}: agents trained by an objective", fontsize=10)
    axes.legend(frameon=False)
    figure.savefig(ROOT / "docs" / f"{task}_metagenrl.png", dpi=150)


if __name__ == "__main__":
    main()
