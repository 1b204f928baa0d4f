"""An evaluation as a table for the terminal and as a picture."""

from __future__ import annotations

import io
import itertools
import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from rich.console import Console
from rich.table import Table

from metarl.evaluate import REFERENCES, Evaluation, Outcome
from metarl.meta_parameters import write_atomically
from metarl.statistics import Array, Estimate

# Okabe and Ito's colours and two of Tol's, which the colour-blind can tell apart; references are grey
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#882255", "#999933")
GREY = {"random": ("#999999", ":"), "robust": ("#555555", "--"), "oracle": ("#000000", "-.")}
# the first eight have a colour of their own; those after them share one with, in this order, the first ones
ALGORITHMS = ("rl2", "maml", "pearl", "varibad", "amago", "rma", "snail", "promp", "hypernetwork", "fomaml", "metagenrl")

Style = dict[str, Any]  # as `Axes.plot` takes it
MARKED = [{"color": colour, "linestyle": dash, "marker": marker} for dash, marker in (("-", "o"), ("--", "s"), ("-.", "^")) for colour in COLOURS]
KNOWN: dict[str, Style] = {
    **dict(zip(ALGORITHMS, MARKED, strict=False)),
    **{name: {"color": colour, "linestyle": dash, "marker": ""} for name, (colour, dash) in GREY.items()},
}


def styles(names: Iterable[str]) -> dict[str, Style]:
    """How each algorithm is drawn: always alike, whatever is beside it. Unknown ones take in turn what the known ones have left."""
    left = itertools.cycle(MARKED[len(ALGORITHMS) :])
    return {name: KNOWN[name] if name in KNOWN else next(left) for name in names}


def ordered(evaluation: Evaluation) -> list[str]:
    """Names of the algorithms, then of the references."""
    names = list(evaluation.outcomes)
    return [n for n in names if n not in REFERENCES] + [n for n in reversed(REFERENCES) if n in names]


def unit_and_scale(unit: str) -> tuple[str, float]:
    """Metres are shown as centimetres."""
    return ("cm", 100.0) if unit == "m" else (unit, 1.0)


def shown(episodes: int, most: int = 20) -> list[int]:
    """All episodes of a trial, or some where there are more than a table has room for."""
    return list(range(episodes)) if episodes <= most else [k for k in (0, 1, 2, 5, 10, 20, 50, 100, 200, 500) if k < episodes - 1] + [episodes - 1]


def show(evaluation: Evaluation, console: Console) -> None:
    """Print score (or return) and error by number of adaptation episodes, with 95 % intervals."""
    e = evaluation
    robots = f" × {e.num_robots} robots" if e.num_robots > 1 else ""
    console.print(f"[bold]{e.task}[/bold]: {e.num_tasks} tasks{robots} of split {e.split} in {e.simulator}")
    console.print("interquartile means with 95 % intervals, by episodes of adaptation")
    if any(o.scores for o in e.outcomes.values()):
        console.print(_table("score (0: random actions, 1: the oracle's last episode)", {n: e.outcomes[n].scores for n in ordered(e)}, 1.0))
        if any(o.scores[-1].value > 1 for n, o in e.outcomes.items() if o.scores and n not in REFERENCES):
            console.print("more than 1: to try out has told more than the oracle has learnt to make of being told")
    else:
        console.print(_table("return", {n: e.outcomes[n].returns for n in ordered(e)}, 1.0))
        console.print(
            "how far this is from what is possible, the references say: train robust and oracle on this task, and give --robust and --oracle their files"
        )
    adapting = {n: e.outcomes[n].gains for n in ordered(e) if n not in REFERENCES}
    if adapting and e.episodes > 1:
        console.print(_table("return above that of the first episode, in the same tasks", adapting, 1.0))
    if any(o.late_returns for o in e.outcomes.values()):
        console.print(_table("return of the last third of an episode", {n: e.outcomes[n].late_returns for n in ordered(e)}, 1.0))
    unit, scale = unit_and_scale(e.error_unit)
    if any(o.errors for o in e.outcomes.values()):
        heading = f"error at the end of an episode{f', in {unit}' if unit else ''}"
        console.print(_table(heading, {n: e.outcomes[n].errors for n in ordered(e)}, scale))
    if e.headroom:
        console.print(f"headroom (oracle - robust) / (oracle - random): {e.headroom}")


def _table(what: str, rows: dict[str, list[Estimate]], scale: float) -> Table:
    table = Table(title=what, title_style="bold", title_justify="left")
    table.add_column("algorithm", no_wrap=True)
    columns = shown(max(len(r) for r in rows.values()), 7)
    for k in columns:
        table.add_column(str(k), justify="right", no_wrap=True)
    for name, estimates in rows.items():
        values = np.array([estimates[k] for k in columns if k < len(estimates)]) * scale
        table.add_row(name, *(f"[bold]{_short(v)}[/bold]\n[dim]{_short(low)}…{_short(high)}[/dim]" for v, low, high in values))
    return table


def _short(number: float) -> str:
    return f"{number:.1f}" if abs(number) >= 10 else f"{number:.2f}"


def plot(evaluation: Evaluation, path: str | Path) -> None:
    """Write the picture of an evaluation as PNG.

    Raises:
        OSError: the folder of `path` cannot be written.
    """
    picture = io.BytesIO()
    draw(evaluation).savefig(picture, format="png", dpi=150)
    write_atomically(Path(path), picture.getvalue())


def draw(evaluation: Evaluation) -> Figure:
    """Score and error by number of adaptation episodes and, where an episode has several decisions, by step."""
    panels = [_draw_score]
    if any(o.errors for o in evaluation.outcomes.values()):
        panels.append(_draw_error)
    if next(iter(evaluation.outcomes.values())).reward_by_step.shape[1] > 1:
        panels.append(_draw_steps)
    figure = Figure(figsize=(4.6 * len(panels), 4.0), layout="constrained")
    for panel, axes in zip(panels, np.atleast_1d(figure.subplots(1, len(panels))), strict=True):
        axes.spines[["top", "right"]].set_visible(False)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
        panel(evaluation, axes)
    figure.suptitle(f"{evaluation.task}, {evaluation.num_tasks} tasks of split {evaluation.split}, {evaluation.simulator}")
    legend_below(figure)
    return figure


def legend_below(figure: Figure) -> None:
    """The legend of the first panel, under all of them, in as many rows as the figure's width asks for."""
    handles, labels = figure.axes[0].get_legend_handles_labels()
    for rows in range(1, len(labels) + 1):
        legend = figure.legend(handles, labels, loc="outside lower center", ncols=math.ceil(len(labels) / rows), frameon=False)
        if legend.get_window_extent().width <= figure.bbox.width or rows == len(labels):
            return
        legend.remove()


def _draw_score(evaluation: Evaluation, axes: Axes) -> None:
    scored = any(o.scores for o in evaluation.outcomes.values())
    _draw_curves(axes, evaluation, {n: o.scores if scored else o.returns for n, o in evaluation.outcomes.items()}, 1.0)
    axes.set_ylabel("score (random 0, oracle 1)" if scored else "return")


def _draw_error(evaluation: Evaluation, axes: Axes) -> None:
    unit, scale = unit_and_scale(evaluation.error_unit)
    _draw_curves(axes, evaluation, {n: o.errors for n, o in evaluation.outcomes.items()}, scale)
    axes.set_ylim(bottom=0)
    axes.set_ylabel(f"error at the end of the episode {f'[{unit}]' if unit else ''}")


def _draw_curves(axes: Axes, evaluation: Evaluation, curves: dict[str, list[Estimate]], scale: float) -> None:
    for name, style in styles(ordered(evaluation)).items():
        value, low, high = np.array(curves[name]).T * scale
        episodes = np.arange(len(value))
        axes.plot(episodes, value, **style, markevery=math.ceil(len(value) / 20), label=name)
        if name not in REFERENCES:
            axes.fill_between(episodes, low, high, color=style["color"], alpha=0.2, linewidth=0)
    axes.set_xlabel("episodes of adaptation")


def best(evaluation: Evaluation) -> str:
    """The algorithm with the highest return in the last episode; a reference only where there is nothing else."""
    names = ordered(evaluation)
    return max([n for n in names if n not in REFERENCES] or names, key=lambda n: evaluation.outcomes[n].returns[-1].value)


def _draw_steps(evaluation: Evaluation, axes: Axes) -> None:
    """Episodes of the best algorithm, and the references' last episode: error by step, or reward where the task has no error."""
    name = best(evaluation)
    unit, scale = unit_and_scale(evaluation.error_unit)
    curves, label = _steps(evaluation.outcomes[name], unit, scale)
    episodes = shown(len(curves), 5)
    for k, colour in zip(episodes, colormaps["viridis_r"](np.linspace(0.1, 1.0, len(episodes))), strict=True):
        steps = np.arange(1, len(curves[k]) + 1)
        axes.plot(steps, curves[k][:, 0], color=colour, label=str(k))
        axes.fill_between(steps, curves[k][:, 1], curves[k][:, 2], color=colour, alpha=0.2, linewidth=0)
    axes.figure.legend(*axes.get_legend_handles_labels(), title=f"{name}, after\nepisodes", loc="outside right upper", frameon=False)
    for reference in [n for n in ("robust", "oracle") if n in evaluation.outcomes and n != name]:
        last = _steps(evaluation.outcomes[reference], unit, scale)[0][-1]
        axes.plot(np.arange(1, len(last) + 1), last[:, 0], **KNOWN[reference])
    axes.set_xlabel(f"decision within an episode of {name}")
    axes.set_ylabel(label)


def _steps(outcome: Outcome, unit: str, scale: float) -> tuple[Sequence[Array], str]:
    if outcome.error_by_step is None:
        return list(outcome.reward_by_step), "reward"
    return list(outcome.error_by_step * scale), f"error {f'[{unit}]' if unit else ''}"
