"""The scores of everything in the zoo, on tasks that were never met in training: docs/TASK.md, pictures, a JSON file beside each zoo file, and
RESULTS.md (overview.py).

python benchmarks/results.py            # all; minutes
python benchmarks/results.py arm_slide  # one task
"""

from __future__ import annotations

import csv
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import overview
from matplotlib.figure import Figure

from metarl import algos, meta_parameters, tasks
from metarl.evaluate import Evaluation, Outcome, evaluate
from metarl.report import legend_below, plot, shown, styles
from metarl.statistics import Estimate, interval

ROOT = Path(__file__).parents[1]
ZOO, SEEDS, CURVES = ROOT / "metarl" / "zoo", Path(__file__).parent / "seeds", Path(__file__).parent / "curves"
NUM_TASKS = {"mujoco": 128, "analytic": 128, "pybullet": 64}
MANY_TASKS = {"bandit_n10_k5": 8192, "bandit_n100_k5": 4096, "tabular_mdp_n10": 2048, "grid_navi": 1024}  # where a task is nearly all chance, and costs nothing
BY_THEMSELVES = ("metagenrl",)  # a new agent needs more than a trial: see learned_objective.py
PAGE = """# {task}

Interquartile means (where actions are choices: means) with 95 % bootstrap intervals, by number of episodes of adaptation, over tasks that training does not
draw from. Where a task is one of a few combinations, split iid holds combinations that training has met as well. Intervals of one seed are over tasks.

![by episode]({task}.png)
"""
SPLITS = {"mujoco": ("iid", "ood_near", "ood_far"), "analytic": ("iid", "ood_near", "ood_far"), "pybullet": ("iid",)}  # those that the task has


def files_of(task: str, algorithm: str) -> list[Path]:
    """The zoo's file, and those of further seeds."""
    return [ZOO / f"{task}_{algorithm}.safetensors", *sorted(SEEDS.glob(f"{task}_{algorithm}_seed*.safetensors"))]


def measure(task: str) -> list[Evaluation]:
    """All algorithms of the zoo for a task, in every simulator and split; in PyBullet, where each robot is a world of its own, those that learn from one."""
    names = [entry.split("/")[1] for entry in meta_parameters.zoo() if entry.split(":")[1].split("/")[0] == task]
    files = [f for name in names if name not in ("robust", "oracle", *BY_THEMSELVES) for f in files_of(task, name)]
    robust, oracle = ([files_of(task, n)[0]] if n in names else [] for n in ("robust", "oracle"))
    done = []
    for simulator in tasks.make(task).simulators:
        for split in (s for s in SPLITS[simulator] if s in tasks.make(task).splits):
            print(f"{task}, {split}, {simulator}: {len(files)} files", flush=True)
            chosen = [f for f in files if simulator != "pybullet" or robots_a_task(f) == 1]
            num_tasks, num_robots = sizes(task, split, simulator, names)
            done.append(evaluate(chosen, robust, oracle, split, simulator, num_tasks, num_robots, threads=2))
    return done


def robots_a_task(file: Path) -> int:
    """From how many robots in the same task at once a file's learner learns."""
    about = meta_parameters.describe(file)
    return int(about["config"]["num_robots"]) if algos.load(about["algorithm"]).pools_robots else 1


def sizes(task: str, split: str, simulator: str, names: list[str]) -> tuple[int, int | None]:
    """How many tasks, and how many copies of each: where a published split has few tasks, as many as make up for it, if copies learn alone."""
    wanted, published = MANY_TASKS.get(task, NUM_TASKS[simulator]), len(tasks.make(task).published.get(split, ()))
    if not published or published >= wanted:
        return wanted, None
    return published, None if any(algos.load(name).pools_robots for name in names) else wanted // published


def markdown(evaluation: Evaluation) -> str:
    """One table: return and error by number of adaptation episodes."""
    episodes = shown(evaluation.episodes)
    unit, factor = ("cm", 100.0) if evaluation.error_unit == "m" else (evaluation.error_unit, 1.0)
    lines = [f"### {evaluation.task}, {evaluation.split}, {evaluation.simulator}", ""]
    lines += [
        f"{evaluation.num_tasks} tasks, {evaluation.num_robots} robots each. "
        + (f"Headroom {_said(evaluation.headroom, 1, 2)}." if evaluation.headroom else ""),
        "",
    ]
    lines += ["| algorithm | | " + " | ".join(f"after {k}" for k in episodes) + " |", "|---|---|" + "---|" * len(episodes)]
    chance = tasks.make(evaluation.task).discrete  # returns of few values: what is published of them are means, and the middle half of 0 and 1 is neither
    for name, outcome in evaluation.outcomes.items():
        seeds = f" ({len(outcome.files)} seeds)" if len(outcome.files) > 1 else ""
        rows = [
            ("mean return" if chance else "return", _means(outcome) if chance else outcome.returns, 1.0, 2),
            ("gain", [] if chance else outcome.gains, 1.0, 2),
            ("last third", outcome.late_returns, 1.0, 2),
            (f"error, {unit}", outcome.errors, factor, 1),
            ("score", outcome.scores, 1.0, 2),
        ]
        for label, estimates, scale, digits in rows:
            if estimates:
                first = f"**{name}**{seeds}" if label.endswith("return") else ""
                lines.append(f"| {first} | {label} | " + " | ".join(_said(estimates[k], scale, digits) for k in episodes) + " |")
    lines += ["", "Mean return of a whole trial: " + ", ".join(f"{name} {_said(_whole_trial(o), 1, 2)}" for name, o in evaluation.outcomes.items()) + "."]
    return "\n".join(lines) + "\n"


def _means(outcome: Outcome) -> list[Estimate]:
    return interval(lambda x: x.mean(1), list(outcome.returns_by_task))


def _whole_trial(outcome: Outcome) -> Estimate:
    """The mean, not the interquartile one: what papers on bandits report."""
    return interval(lambda x: x.mean(1), [of_file.sum(-1, keepdims=True) for of_file in outcome.returns_by_task])[0]


def _said(estimate: Estimate, scale: float, digits: int) -> str:
    value, low, high = (x * scale for x in estimate)
    return f"{value:.{digits}f} [{low:.{digits}f}, {high:.{digits}f}]"


# ---- how the files were trained ---------------------------------------------------------------------------------------------


def curves_of(task: str) -> dict[Path, dict[str, list[float]]]:
    """File -> column -> numbers, for the trainings of a task that `benchmarks/keep.py` kept a curve of."""
    names = [entry.split("/")[1] for entry in meta_parameters.zoo() if entry.split(":")[1].split("/")[0] == task]
    found = {}
    for file in (f for name in names for f in files_of(task, name)):
        path = CURVES / f"{file.stem}.csv"
        if path.exists():
            with path.open() as text:
                rows = list(csv.DictReader(text))
            found[file] = {name: [float(row[name]) for row in rows] for name in rows[0]}
    return found


def trainings(task: str) -> str:
    """A table of the trainings, and where their curves are drawn."""
    lines = [f"### {task}, training", "", "| file | seed | decisions | minutes on one shared core | commit |", "|---|---|---|---|---|"]
    for file, curve in curves_of(task).items():
        about = meta_parameters.describe(file)
        lines.append(f"| {file.stem} | {about['seed']} | {curve['env_steps'][-1]:,.0f} | {curve['seconds'][-1] / 60:.1f} | {short(about.get('commit', ''))} |")
    return "\n".join([*lines, "", f"![returns in training]({task}_training.png)", ""])


def short(commit: str) -> str:
    """Twelve letters of a commit, and whether something was changed since."""
    number, changed, _ = commit.partition("-dirty")
    return number[:12] + changed


def plot_trainings(task: str, path: Path) -> None:
    """Return of the first and of the last episode in training, by decisions and by minutes."""
    figure = Figure(figsize=(9.2, 3.6), layout="constrained")
    curves = {file.stem.removeprefix(f"{task}_"): curve for file, curve in curves_of(task).items()}
    style = styles(name.partition("_seed")[0] for name in curves)
    for axes, column, scale, label in zip(figure.subplots(1, 2, sharey=True), ("env_steps", "seconds"), (1.0, 60.0), ("decisions", "minutes"), strict=True):
        for name, curve in curves.items():
            algorithm, further, _ = name.partition("_seed")
            drawn = {**style[algorithm], "marker": "", "linewidth": 0.7 if further else 1.5}
            episodes = [c for c in curve if c.startswith("return_episode_")]
            x = np.array(curve[column]) / scale
            axes.plot(x, curve[episodes[-1]], **drawn, label="" if further else algorithm)
            if len(episodes) > 1:
                axes.plot(x, curve[episodes[0]], **{**drawn, "linestyle": ":"})
        ends = [curve[column][-1] for curve in curves.values()]
        axes.set_xscale("log" if max(ends) > 10 * min(ends) else "linear")
        axes.set_xlabel(label)
        axes.spines[["top", "right"]].set_visible(False)
    figure.axes[0].set_ylabel("return in training")
    figure.suptitle(f"{task}: last episode of a trial (dotted: first; thin: further seeds)")
    legend_below(figure)
    figure.savefig(path, dpi=110)


# ---- files ------------------------------------------------------------------------------------------------------------------


def summary(outcome: Outcome, evaluation: Evaluation) -> dict[str, Any]:
    """What stands in the JSON file beside a zoo file; each number with its interval."""
    asked = {name: getattr(evaluation, name) for name in ("split", "simulator", "num_tasks", "num_robots", "error_unit", "headroom")}
    found = {name: getattr(outcome, name) for name in ("returns", "gains", "late_returns", "errors", "scores")}
    return {**asked, "seeds_pooled": len(outcome.files), **found, "mean_returns": _means(outcome), "mean_return_of_trial": _whole_trial(outcome)}


def main() -> None:
    """Measure, and write."""
    (ROOT / "docs").mkdir(exist_ok=True)
    named = sorted({entry.split(":")[1].split("/")[0] for entry in meta_parameters.zoo()})
    for task in sys.argv[1:] or named:
        evaluations = measure(task)
        for name in evaluations[0].outcomes:
            path = ZOO / f"{task}_{name}.safetensors"
            if path.exists():
                about = meta_parameters.describe(path)
                scores = [summary(e.outcomes[name], e) for e in evaluations if name in e.outcomes]
                known = {k: about[k] for k in ("command", "seed", "env_steps", "commit") if k in about}
                path.with_suffix(".json").write_text(json.dumps({**known, "scores": scores}, indent=1) + "\n")
        plot(evaluations[0], ROOT / "docs" / f"{task}.png")
        parts = [markdown(e) for e in evaluations]
        if curves_of(task):
            plot_trainings(task, ROOT / "docs" / f"{task}_training.png")
            parts.append(trainings(task))
        (ROOT / "docs" / f"{task}.md").write_text("\n".join([PAGE.format(task=task), *parts]))
    overview.write()


if __name__ == "__main__":
    main()
