"""What metarl says of a task, a robot, an algorithm or a meta-parameters file: plain values, and the same as tables."""

from __future__ import annotations

import ast
import inspect
import itertools
import json
import math
import re
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import fields
from importlib import resources
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from metarl import algos, meta_parameters, robots, tasks
from metarl.listing import listing
from metarl.robots.spec import RobotSpec, ServoSpec, unknown_name
from metarl.tasks.parameters import Param
from metarl.tasks.task import Task


def describe(name: str, console: Console) -> dict[str, Any]:
    """Print what is known of `name`, and return it as plain values.

    Args:
        name: of a task, a robot, an algorithm or an entry of the zoo, or a meta-parameters file.
        console: where to.

    Raises:
        ValueError: nothing has that name; the message lists the near ones.
    """
    if name in tasks.names() or name in tasks.files():
        return _task(tasks.make(name), console)
    if name in robots.names():
        return _robot(robots.load(name), console)
    if name in algos.names():
        return _algorithm(name, console)
    if name.startswith("zoo:") or Path(name).suffix or Path(name).exists():
        return _file(name, console)
    try:
        task = tasks.make(name)  # names that hold numbers are many, and not listed: bandit_n7_k3
    except ValueError:
        unknown = unknown_name("task, robot, algorithm or file", name, [n for names in listing().values() for n in names])
        raise ValueError("; ".join([str(unknown), *tasks.unreadable()])) from None
    return _task(task, console)


def _heading(console: Console, name: str, of: type[Any] | object) -> None:
    console.print(f"[bold]{name}[/bold]")
    _prose(console, about_module(name, of))


def about_module(name: str, of: type[Any] | object) -> str:
    """The docstring of the module that something is from, without its name: many begin with it."""
    about, title = inspect.getdoc(inspect.getmodule(of)) or "", f"{name}: "
    return about[len(title)].upper() + about[len(title) + 1 :] if about.startswith(title) else about


def _prose(console: Console, text: str) -> None:
    """Print a docstring with its paragraphs as wide as the console; lines that are indented or begin a list stay."""
    for paragraph in text.split("\n\n"):
        console.print(re.sub(r"(?<=\S)\n\s*(?=[^\s-])", " ", paragraph), markup=False)


def _table(console: Console, columns: list[str], rows: list[list[str]], title: str = "") -> None:
    """Without the columns that say nothing."""
    said = [any(row[i] for row in rows) for i in range(len(columns))]
    if title:
        console.print(f"[bold]{title}[/bold]")  # not as the table's own, which would be as narrow as that
    table = Table(*itertools.compress(columns, said))
    for row in rows:
        table.add_row(*itertools.compress(row, said))
    console.print(table)


# ---- tasks ------------------------------------------------------------------------------------------------------------------


def _task(task: Task, console: Console) -> dict[str, Any]:
    _heading(console, task.name, type(task))
    _prose(console, inspect.getdoc(type(task)) or "")
    spec = task.spec
    rows = [[p.name, p.unit, _range(p, "train"), _range(p, "ood_near"), _range(p, "ood_far"), "" if p.hidden else "shown"] for p in task.params if p.text]
    if len(rows) < len(task.params):
        rows.append([f"{len(task.params) - len(rows)} numbers more"] + 5 * [""])
    _table(console, ["parameter", "unit", "train, iid", "ood_near", "ood_far", ""], rows, "what differs from task to task")
    facts = {
        "robot": spec.robot or "none",
        "simulators": ", ".join(task.simulators),
        "observation": ", ".join(f"{n} ({size})" for n, size in zip(spec.obs_names, spec.obs_sizes, strict=True)),
        "action": ", ".join(spec.action_names),
        "trial": f"{spec.episodes_per_trial} episodes of {spec.horizon} decisions, {spec.control_dt:g} s each",
        "reward": f"{task.reward_range[0]:g} to {task.reward_range[1]:g} a decision",
    }
    if any(p.choices for p in task.params) and not task.published:
        facts["held out"] = _held_out(task.params)
    measured = measured_headroom(task.name)
    facts["headroom"] = _headroom(measured) if measured else "not known"
    for key, said in facts.items():
        console.print(f"[bold]{key}[/bold]: {said}")
    sentences = {split: task.sample(1, split).describe(0) for split in task.splits}
    for sentence in sentences.values():
        console.print(sentence, markup=False)
    return {
        "kind": "task",
        **spec.to_dict(),
        "parameters": [_param(p) for p in task.params],
        "samples": sentences,
        "headroom": measured and measured["headroom"],
    }


REFERENCES = {
    "training": "a trained oracle above a trained policy without memory",
    "expert": "the best who knows the task above the best who does not",
    "ideal body": "an ideal body that is told above one that is not",
    "planner": "a planner that is told the body above one that is not",
}
"""What a headroom was measured with, as `metarl describe` says it."""
WORTH_IT = 0.2  # headroom under which there is little to adapt to


def measured_scores(path: Path) -> list[Mapping[str, Any]]:
    """What was measured with a meta-parameters file, by split and simulator, from the JSON file beside it; [] where there is none."""
    beside = path.with_suffix(".json")
    found: list[Mapping[str, Any]] = json.loads(beside.read_text())["scores"] if beside.is_file() else []
    return found


def measured_headroom(task: str) -> Mapping[str, Any] | None:
    """The first measurement in the zoo that states the task's headroom, else that of an expert, see docs/identifiability.md."""
    entries = [entry for entry in meta_parameters.zoo() if entry.startswith(f"zoo:{task}/")]
    known = [scores for entry in entries for scores in measured_scores(meta_parameters.resolve(entry)) if scores.get("headroom")]
    by_expert: Mapping[str, Any] = json.loads((resources.files("metarl.zoo") / "experts.json").read_text())
    return known[0] if known else by_expert.get(task)


def _headroom(measured: Mapping[str, Any]) -> str:
    value, low, high = measured["headroom"]
    by = REFERENCES[measured.get("by", "training")]
    little = f"; under {WORTH_IT} there is little to adapt to" if value < WORTH_IT else ""
    return f"{value:.2f} [{low:.2f}, {high:.2f}] of {by}, measured on {measured['num_tasks']} tasks of split {measured['split']}{little}"


def _held_out(params: Sequence[Param]) -> str:
    """In what the tasks of iid are others than those of training, where choices are."""
    combinations = math.prod(len(p.choices) for p in params if p.choices)
    if all(p.choices for p in params):
        return f"nothing: iid draws from the same {combinations} tasks as train"
    return f"of iid, all numbers; the {combinations} combinations of choices are those of train"


def _range(param: Param, split: str) -> str:
    said = [o if isinstance(o, str) else f"{o[0]:g} … {o[1]:g}" for o in param.options(split)]
    return "\n".join(said) + (" log" if said and param.scale == "log" and split == "train" else "")


def _param(param: Param) -> dict[str, Any]:
    splits = {split: list(param.options(split)) for split in ("train", "ood_near", "ood_far")}
    return {"name": param.name, "unit": param.unit, "nominal": param.nominal, "scale": param.scale, "hidden": param.hidden, **splits}


# ---- robots -----------------------------------------------------------------------------------------------------------------


def _robot(robot: RobotSpec, console: Console) -> dict[str, Any]:
    _heading(console, robot.name, robot.build)
    if isinstance(robot, ServoSpec):
        _joint_table(robot, console)
    else:
        console.print(f"[bold]joints[/bold]: {', '.join(robot.joint_names) or 'none'}\n[bold]control[/bold]: every {robot.control_dt:g} s", highlight=False)
    return {"kind": "robot", **{f.name: getattr(robot, f.name) for f in fields(robot) if f.name != "build"}}


def _joint_table(robot: ServoSpec, console: Console) -> None:
    numbers = robot.home_qpos, robot.qpos_limits, robot.qvel_limits, robot.effort_limits, robot.kp, robot.kd
    columns = zip(robot.joint_names, robot.joint_units, *numbers, strict=True)
    rows = [[name, unit, f"{home:g}", f"{low:g} … {high:g}", *(f"{x:g}" for x in rest)] for name, unit, home, (low, high), *rest in columns]
    _table(console, ["joint", "unit", "home", "range", "per second", "N·m or N", "kp", "kd"], [[c.replace("[", "\\[") for c in row] for row in rows])
    console.print(f"[bold]control[/bold]: every {robot.control_dt:g} s on topic {robot.command_topic}, state on {robot.state_topic}")


# ---- algorithms and files ---------------------------------------------------------------------------------------------------


def _algorithm(name: str, console: Console) -> dict[str, Any]:
    family = algos.load(name)
    _heading(console, name, family)
    docs = field_docs(family.Config)
    defaults = {f.name: getattr(family.Config(), f.name) for f in fields(family.Config)}
    _table(console, ["setting", "default", ""], [[key, str(value), docs.get(key, "")] for key, value in defaults.items()])
    return {"kind": "algorithm", "name": name, "config": defaults, "settings": docs}


def field_docs(config: type[Any]) -> dict[str, str]:
    """The doc line under each field of a dataclass, its bases included."""
    docs: dict[str, str] = {}
    for family in reversed(config.__mro__[:-1]):
        (tree,) = ast.parse(textwrap.dedent(inspect.getsource(family))).body
        assert isinstance(tree, ast.ClassDef)
        for field, doc in zip(tree.body, tree.body[1:], strict=False):
            if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name) and isinstance(doc, ast.Expr) and isinstance(doc.value, ast.Constant):
                docs[field.target.id] = inspect.cleandoc(str(doc.value.value))
    return docs


def _file(name: str, console: Console) -> dict[str, Any]:
    said = meta_parameters.describe(name)
    for key, value in said.items():
        nested = isinstance(value, dict)
        console.print(f"[bold]{key}[/bold]: {'' if nested else value}")
        if isinstance(value, dict):
            console.print("\n".join(f"  {k}: {v}" for k, v in value.items()), markup=False)
    measured = measured_scores(meta_parameters.resolve(name))
    for scores in measured:
        what = "scores" if scores["scores"] else "returns"
        by_episode = " ".join(f"{value:.2f}" for value, _, _ in scores[what])
        console.print(f"[bold]{what}[/bold]: {by_episode} after 0, 1 … episodes, split {scores['split']} in {scores['simulator']}")
    return {"kind": "meta-parameters", **said, "scores": measured}
