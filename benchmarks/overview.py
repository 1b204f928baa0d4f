"""RESULTS.md: what the measured numbers beside the zoo's files come to, against the papers and task by task.

python benchmarks/overview.py   # measures nothing; `benchmarks/results.py` ends with it

All splits and simulators of a task are in docs/TASK.md, which `benchmarks/results.py` writes.
"""

from __future__ import annotations

import csv
import json
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from metarl import meta_parameters, tasks
from metarl.report import shown, unit_and_scale

ROOT = Path(__file__).parents[1]
HERE = Path(__file__).parent
ZOO, CURVES, REMARKS = ROOT / "metarl" / "zoo", HERE / "curves", HERE / "remarks"
REFERENCES = ("robust", "oracle")
COLUMNS = 5  # of a trial of many episodes, as many are shown
WITHIN = ("car_track", "car_track_obstacles", "quadrotor_track")  # adapting to a wind takes less than an episode: what its last third is worth says it
SIMULATORS = {"mujoco": "MuJoCo", "pybullet": "PyBullet", "analytic": ""}

HEAD = """# Results

By how many episodes an algorithm has adapted from, on tasks of split iid, which training does not draw from: interquartile means (where actions are
choices: means) with 95 % bootstrap intervals. Where a task is one of a few combinations, as on grids, in kitchens or of two directions, iid holds
combinations that training has met as well. Intervals of one seed are over tasks, not over trainings. Minutes are those of one core of two that others
used as well. Each file's command, seed and commit stand in the JSON file beside it in `metarl/zoo`.

Made by `python benchmarks/results.py` from the files in `metarl/zoo` and `benchmarks/seeds`.
"""


@dataclass(frozen=True)
class Published:
    """A published number, and where ours is: `episode` of a trial, or the sum of them all."""

    task: str
    algorithm: str
    value: float
    source: str
    episode: int | None = None


PUBLISHED = (
    Published("bandit_n10_k5", "rl2", 6.7, "Duan et al. 2016"),
    Published("bandit_n10_k5", "snail", 6.6, "Mishra et al. 2018"),
    Published("bandit_n100_k5", "rl2", 78.7, "Duan et al. 2016"),
    Published("bandit_n100_k5", "snail", 79.1, "Mishra et al. 2018"),
    Published("tabular_mdp_n10", "rl2", 156.2, "Duan et al. 2016"),
    Published("tabular_mdp_n10", "snail", 159.1, "Mishra et al. 2018"),
    Published("grid_navi", "varibad", 11.07, "who knows the goal", 3),
    Published("grid_navi", "rl2", 11.07, "who knows the goal", 3),
    Published("half_cheetah_vel_pearl", "pearl", -45.0, "a public PyTorch PEARL after 0.78 M decisions, one seed", 2),
    Published("half_cheetah_dir", "pearl", 1053.0, "the same after 0.5 M, in its third episode; ours in its second", 1),
)


def digits(value: float) -> int:
    """After the point, so that two or three count."""
    return 0 if abs(value) >= 300 else 1 if abs(value) >= 20 else 2


def said(estimate: Iterable[float], scale: float = 1.0) -> str:
    """A value and its interval."""
    value, low, high = (x * scale for x in estimate)
    n = digits(value)
    return f"{value:.{n}f} [{low:.{n}f}, {high:.{n}f}]"


def measured(task: str) -> dict[str, dict[str, Any]]:
    """Algorithm -> what stands beside its file where it was measured, references last."""
    names = sorted(entry.split("/")[1] for entry in meta_parameters.zoo() if entry.split(":")[1].split("/")[0] == task)
    names = [n for n in names if n not in REFERENCES] + [n for n in REFERENCES if n in names]
    paths = {name: ZOO / f"{task}_{name}.json" for name in names}
    return {name: json.loads(path.read_text()) for name, path in paths.items() if path.exists()}


def returns(task: str, score: dict[str, Any]) -> list[list[float]]:
    """By episode: of few values, as where actions are choices, the middle half is neither, so the mean; see `benchmarks/results.py`."""
    found: list[list[float]] = score["mean_returns"] if tasks.make(task).discrete and "mean_returns" in score else score["returns"]
    return found


def against_papers() -> str:
    """A table of PUBLISHED."""
    lines = ["## Against the papers", "", "Plain means, as the papers have; where a paper gives a curve alone, against what is possible or a public code.", ""]
    lines += ["| task | algorithm | here | published | part of it | source |", "|---|---|---|---|---|---|"]
    for p in PUBLISHED:
        score = measured(p.task)[p.algorithm]["scores"][0]
        ours = score["mean_return_of_trial"] if p.episode is None else score["mean_returns"][p.episode]
        part = f"{ours[0] / p.value:.3f}" if p.value > 0 else ""
        lines.append(f"| `{p.task}` | {p.algorithm} | {said(ours)} | {p.value:g} | {part} | {p.source} |")
    return "\n".join([*lines, ""])


def minutes(task: str, algorithm: str) -> str:
    """Of the training of seed 0, where its curve was kept."""
    path = CURVES / f"{task}_{algorithm}.csv"
    if not path.exists():
        return ""
    with path.open() as text:
        return f"{float(list(csv.DictReader(text))[-1]['seconds']) / 60:.0f}"


def chosen(episodes: int) -> list[int]:
    """Episodes that a table has room for: the first ones, some between, and the last."""
    every = shown(episodes)
    return every if len(every) <= COLUMNS else [*every[: COLUMNS - 2], every[len(every) // 2], every[-1]]


def table(task: str, simulator: str) -> list[str]:
    """Return by episode, and the error in the first and the last."""
    rows, scores = (
        [],
        [(name, about, s) for name, about in measured(task).items() for s in about["scores"] if s["split"] == "iid" and s["simulator"] == simulator],
    )
    if not scores:
        return []
    episodes = chosen(tasks.make(task).episodes_per_trial)
    unit, scale = unit_and_scale(scores[0][2]["error_unit"])
    late = task in WITHIN
    for name, about, score in scores:
        errors, found = score["errors"], returns(task, score)
        also = "" if score["num_tasks"] == scores[0][2]["num_tasks"] else f" ({score['num_tasks']} tasks)"
        cells = [name + also, score["seeds_pooled"], f"{about['env_steps']:,}", minutes(task, name), *(said(found[k]) for k in episodes)]
        cells += [said(score["late_returns"][0])] if late else []
        cells += [f"{errors[0][0] * scale:.1f} → {errors[-1][0] * scale:.1f}" if errors else ""] if unit else []
        rows.append(row(cells))
    names = ["", "seeds", "decisions", "min", *(f"after {k}" for k in episodes), *["last third of the first"] * late, *[f"error, {unit}"] * bool(unit)]
    robots = {s["num_robots"] for _, _, s in scores}
    copies = f", {max(robots)} robots each" if max(robots) > 1 else ""
    headroom = next((s["headroom"] for _, _, s in scores if s["headroom"]), None)
    worth = f" Headroom {said(headroom)}." if headroom else ""
    where = f" in {SIMULATORS[simulator]}" if SIMULATORS[simulator] else ""
    return [f"{scores[0][2]['num_tasks']} tasks{where}{copies}.{worth}", "", row(names), "|---" * len(names) + "|", *rows, ""]


def row(cells: Iterable[Any]) -> str:
    """Of a table."""
    return "| " + " | ".join(map(str, cells)) + " |"


def section(task: str) -> str:
    """All about one task."""
    about = sys.modules[type(tasks.make(task)).__module__].__doc__ or ""
    lines = [f"### {task}", "", about.split("\n\n")[0].strip(), ""]
    for simulator in tasks.make(task).simulators:
        lines += table(task, simulator)
    remark = REMARKS / f"{task}.md"
    lines += [remark.read_text()] if remark.exists() else []
    pictures = [f"![{what}]({file})" for file, what in existing(task, "png", {"": "by episode", "_training": "in training", "_metagenrl": "new agents"})]
    pages = [
        f"[{what}]({file})" for file, what in existing(task, "md", {"": "all splits, gains, errors and trainings", "_metagenrl": "new agents of MetaGenRL"})
    ]
    return "\n".join([*lines, *pictures, "", "More: " + ", ".join(pages) + ".", ""])


def existing(task: str, ending: str, kinds: dict[str, str]) -> list[tuple[str, str]]:
    """Files of docs about a task, and what they show."""
    files = [(f"docs/{task}{kind}.{ending}", what) for kind, what in kinds.items()]
    return [(file, what) for file, what in files if (ROOT / file).exists()]


def document() -> str:
    """The whole of RESULTS.md."""
    named = sorted({entry.split(":")[1].split("/")[0] for entry in meta_parameters.zoo()})
    contents = "Tasks: " + ", ".join(f"[{task}](#{task})" for task in named) + ".\n"
    return "\n".join([HEAD, contents, against_papers(), "## By task\n", *map(section, named)])


def write() -> None:
    """Put it there."""
    (ROOT / "RESULTS.md").write_text(document())


if __name__ == "__main__":
    write()
