"""How fast metarl is, each figure against the bare work that it cannot avoid.

The compared pieces take turns in one process and the median of the rounds is taken, because machines are noisy: a ratio of two pieces
that ran a moment apart means something where seconds do not.
"""

from __future__ import annotations

import itertools
import os
import platform
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from metarl import env_figures, learner_figures
from metarl.measuring import Figure
from metarl.robots.spec import unknown_name

BENCHMARKS: dict[str, Callable[[], Iterable[Figure]]] = {
    "physics": env_figures.env_against_physics,
    "suite": env_figures.every_env_against_physics,
    "vector": env_figures.every_env_against_async_vector_env,
    "gymnasium": env_figures.env_against_gymnasiums_half_cheetah,
    "pybullet": env_figures.processes_of_pybullet,
    "memory": env_figures.memory_of_kitchens,
    "tasks": env_figures.new_tasks_against_a_trial,
    "iteration": learner_figures.iteration_against_physics,
    "latency": learner_figures.latency,
    "maml": learner_figures.maml_against_bare_passes,
    "trial_ppo": learner_figures.memory_against_bare_products,
    "pearl": learner_figures.pearl_against_bare_products,
    "metagenrl": learner_figures.metagenrl_against_bare_passes,
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
        with console.status(f"{name}: {_about(name)}") as status:
            for figure in BENCHMARKS[name]():
                table.add_row(*_row(figure))
                figures.append({"benchmark": name, **asdict(figure)})
                status.update(f"{name}: {figure.name}: {figure.value:.3g} {figure.unit}")
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
