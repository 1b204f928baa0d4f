"""What tasks are worth: what an expert earns who is told the task, what he earns untold, and what each wrong belief costs him.

Where there is no expert, what an ideal body could earn that is told a goal; where the body itself is hidden, what a planner earns who is told it.

python benchmarks/identifiability.py                 # all tasks; an hour on one core
python benchmarks/identifiability.py quadrotor_track --tasks 96
python benchmarks/identifiability.py --write         # docs/identifiability.md alone, from what was measured

Measured numbers go to metarl/zoo/experts.json, where `metarl describe` finds the headroom of tasks that have no trained references.
"""

from __future__ import annotations

import argparse
import copy
import json
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import planning
import torch
from torch import Tensor

from metarl import meta_parameters, tasks
from metarl.algorithm import Adapter
from metarl.describe import REFERENCES, WORTH_IT, measured_headroom
from metarl.evaluate import RandomAdapter
from metarl.rollout import collect
from metarl.statistics import Array, Estimate, interval
from metarl.tasks.batched_env import BatchedEnv, Step
from metarl.tasks.parameters import Param, TaskBatch
from metarl.tasks.task import Task, Values

ROOT = Path(__file__).parents[1]
MEASURED, DOCUMENT = ROOT / "metarl" / "zoo" / "experts.json", ROOT / "docs" / "identifiability.md"
NUM_TASKS, MANY_TASKS = 64, 1024  # held-out tasks, one episode each; where an episode costs nothing
PLANNED_TASKS, BELIEFS = 16, 3  # where it costs a minute; tasks that one who was told nothing plans for at once
FEW = 4  # parameters of one name and more are judged together alone
COMPANY = {  # one thing, and one belief about it, under several names
    "the object": ("shape", "half_size", "half_width", "mass", "friction", "com_along", "com_aside", "bears"),
    "the wind's force": ("wind_speed", "wind_angle", "drag_area"),
    "the road's grip": ("friction", "patch_friction", "patch_angle"),
}
KNOWING, FORGETFUL = ("oracle", "rl2"), ("robust",)  # files of the zoo that were told or have found out, and that remember nothing
Told = Callable[[], Values]


class Expert:
    """A task's expert as an adapter, who is told anew at each decision."""

    def __init__(self, env: BatchedEnv, told: Told) -> None:
        self.env, self.told = env, told

    def reset(self) -> None:
        """It knows everything already."""

    def act(self, obs: Tensor, explore: bool = True) -> Tensor:
        """Actions (M, 1, A)."""
        return self.env.task.expert(self.env.sensed, self.told()).unsqueeze(1)

    def observe(self, step: Step) -> None:
        """Nothing is new to it."""

    def adapt(self) -> None:
        """Nor is it now."""


# ---- beliefs ----------------------------------------------------------------------------------------------------------------


def groups(task: Task) -> dict[str, list[str]]:
    """What is believed together: everything hidden, each parameter, those whose names begin alike, and those of one thing."""
    hidden = [p.name for p in task.params if p.hidden]
    alike: dict[str, list[str]] = {}
    for name in hidden:
        alike.setdefault(re.match("[a-z]+", name)[0], []).append(name)  # type: ignore[index]
    if len(alike) == 1:  # everything has one name
        together = {f"{word}_*" if len(names) > 1 else word: names for word, names in alike.items()}
    else:
        named = {f"{word}_*": names for word, names in alike.items()} | {label: [n for n in names if n in hidden] for label, names in COMPANY.items()}
        together = {"everything": hidden}
        for label, names in named.items():
            if len(names) > 1 and names not in together.values():
                together[label] = names
    crowd = {name for label, names in together.items() if len(names) > FEW and label.endswith("*") for name in names}
    return together | {name: [name] for name in hidden if name not in crowd}


def swapped(batch: TaskBatch, names: list[str]) -> TaskBatch:
    """The tasks, but for some parameters, which are those of the next task."""
    columns = [i for i, p in enumerate(batch.params) if p.name in names]
    values = batch.values.copy()
    values[:, columns] = np.roll(values[:, columns], 1, axis=0)
    return TaskBatch(batch.task, batch.params, values, batch.ids)


def middle(batch: TaskBatch) -> TaskBatch:
    """The tasks with what is hidden in the middle of what training draws."""
    values = batch.values.copy()
    for i, param in enumerate(batch.params):
        if param.hidden:
            values[:, i] = _middle(param)
    return TaskBatch(batch.task, batch.params, values, batch.ids)


def _middle(param: Param) -> float:
    if param.train is None:
        return param.encode(param.nominal)
    low, high = param.train
    return float(np.sqrt(low * high) if param.scale == "log" else 0.5 * (low + high))


def always(batch: TaskBatch) -> Told:
    """Told the same all the time."""
    values = _as_values(batch)
    return lambda: values


def guessing(batch: TaskBatch) -> Told:
    """Told at each decision what is hidden in some other task: what a policy can do that knows the distribution, throws dice and remembers nothing."""
    values, chance = _as_values(batch), torch.Generator().manual_seed(0)
    hidden = {p.name for p in batch.params if p.hidden}

    def guess() -> Values:
        rows = torch.randint(len(batch), (len(batch),), generator=chance)
        return {name: v[rows] if name in hidden else v for name, v in values.items()}

    return guess


def _as_values(batch: TaskBatch) -> Values:
    return {name: torch.as_tensor(v, dtype=torch.float32) for name, v in batch.named().items()}


# ---- what they earn ---------------------------------------------------------------------------------------------------------


def returns(env: BatchedEnv, batch: TaskBatch, told: Told | None) -> Array:
    """(M,) return of one episode, of the expert or of random actions; chance is the same each time."""
    return last_returns(env, batch, RandomAdapter(env, 0) if told is None else Expert(env, told), 1)


def last_returns(env: BatchedEnv, batch: TaskBatch, adapter: Adapter, episodes: int) -> Array:
    """(M,) return of the last of so many episodes."""
    env.set_tasks(batch)
    env.rng.manual_seed(0)
    return np.asarray(collect(env, adapter, episodes).returns[..., -1].mean(1).double())


def trained(env: BatchedEnv, batch: TaskBatch, algorithms: Sequence[str]) -> dict[str, Array]:
    """Algorithm -> (M,) return of the last episode of a trial, of those that the zoo has."""
    names = {name: f"zoo:{env.task.name}/{name}" for name in algorithms}
    there = {name: meta_parameters.load(entry).adapter(len(batch)) for name, entry in names.items() if entry in meta_parameters.zoo()}
    return {name: last_returns(env, batch, adapter, env.task.episodes_per_trial) for name, adapter in there.items()}


def mean(x: Array) -> Estimate:
    """Mean over tasks with its interval."""
    return interval(lambda drawn: drawn.mean(1), [x[:, None]])[0]


def lost(truth: Array, other: Array, random: Array) -> Estimate:
    """Part of what one who is told the truth earns above random actions, that another one loses; (M,) each."""

    def ratio(x: Array) -> Array:
        best, less, least = np.moveaxis(x.mean(1), -1, 0)
        return np.asarray(((best - less) / (best - least))[:, None])

    return interval(ratio, [np.column_stack([truth, other, random])])[0]


def measured(name: str, num: int = 0) -> dict[str, Any]:
    """What stands in experts.json for a task with an expert, in `num` tasks, or as many as are usual."""
    task = tasks.make(name)
    num = num or (MANY_TASKS if "analytic" in task.simulators else NUM_TASKS)
    num = min(num, len(task.published["iid"])) if task.published else num
    batch, env = task.sample(num, "iid"), BatchedEnv(task, num, num_threads=1, seed=0)
    try:
        truth, random = returns(env, batch, always(batch)), returns(env, batch, None)
        knowing = {"expert": truth, **trained(env, batch, KNOWING)}
        guesses = {"in the middle": returns(env, batch, always(middle(batch))), "guessing": returns(env, batch, guessing(batch))}
        untold = guesses | trained(env, batch, FORGETFUL)
        losses = {label: lost(truth, returns(env, batch, always(swapped(batch, names))), random) for label, names in groups(task).items()}
    finally:
        env.close()
    trained_both = set(FORGETFUL) <= set(untold)  # else one who was trained is compared with one who was not, and skill is taken for knowledge
    best = max(knowing if trained_both else ["expert"], key=lambda who: knowing[who].mean())
    reference = max(untold, key=lambda who: untold[who].mean())
    earned = {who: mean(those) for who, those in (knowing | untold | {"random": random}).items()}
    return {
        "by": "expert", "split": "iid", "num_tasks": num, "earned": earned, "best": best, "untold": reference,
        "headroom": lost(knowing[best], untold[reference], random), "losses": losses,
    }  # fmt: skip


# ---- bodies that take hours to train ----------------------------------------------------------------------------------------


def ideal(name: str) -> dict[str, Any] | None:
    """Headroom of a hidden goal, if the body did at once all that it is asked for, without cost; None where what is hidden is the body itself.

    Told, it has the velocity, is at the goal, or goes one metre a second in the direction. Untold, it does what is best for all tasks together.
    At random, it stays where it is.
    """
    task = tasks.make(name)
    batch = task.sample(len(task.published["train"]) if task.published else MANY_TASKS)
    goals = {k: v.numpy().astype(float) for k, v in task.goals(_as_values(batch), torch.Generator()).items()}
    if "direction" in goals:
        way = goals["direction"]
        together = way.mean(0) / max(float(np.linalg.norm(way.mean(0))), 1e-9)
        truth, untold = (way * way).sum(1), (way * together).sum(1)
        random = np.zeros(len(way))
    elif goals.keys() & {"target_vel", "goal_pos"}:
        there = goals.get("target_vel", goals.get("goal_pos"))
        assert there is not None
        truth, random = np.zeros(len(there)), -np.abs(there).sum(1)
        untold = -np.abs(there - np.median(there, 0)).sum(1)
    else:
        return None
    return {"by": "ideal body", "split": "train", "num_tasks": len(batch), "headroom": lost(truth, untold, random)}


def planned(name: str, num: int = 0) -> dict[str, Any] | None:
    """Headroom of a hidden body, of a planner who is told it above one who plans for the middle of what training draws, or for several bodies at once.

    The latter is looked at where the former leaves a headroom that is worth it. None where no effort is set for such a task.
    """
    effort = next((effort for begins, effort in planning.EFFORTS.items() if name.startswith(begins)), None)
    if effort is None:
        return None
    task = copy.copy(tasks.make(name))
    task.horizon = effort.decisions  # type: ignore[misc]
    num = min(num or PLANNED_TASKS, len(task.published["iid"])) if task.published else num or PLANNED_TASKS
    batch, env = task.sample(num, "iid"), BatchedEnv(task, num, num_threads=1, seed=0)

    def earned(beliefs: TaskBatch) -> Array:
        planner = planning.Planner(env, beliefs, effort)
        try:
            return last_returns(env, batch, planner, 1)
        finally:
            planner.close()

    try:
        random, truth, untold = returns(env, batch, None), earned(batch), {"in the middle": earned(middle(batch))}
        if lost(truth, untold["in the middle"], random)[0] >= WORTH_IT:
            untold["for several"] = earned(task.practice(num * BELIEFS, 0, 0))
    finally:
        env.close()
    reference = max(untold, key=lambda who: untold[who].mean())
    means = {who: mean(those) for who, those in {"told": truth, **untold, "random": random}.items()}
    return {
        "by": "planner", "split": "iid", "num_tasks": num, "decisions": effort.decisions, "earned": means, "best": "told", "untold": reference,
        "headroom": lost(truth, untold[reference], random),
    }  # fmt: skip


# ---- what is written --------------------------------------------------------------------------------------------------------


def _said(estimate: list[float], digits: int = 2) -> str:
    value, low, high = estimate
    return f"{value:.{digits}f} [{low:.{digits}f}, {high:.{digits}f}]"


def verdict(label: str, losses: Mapping[str, list[float]], together: Mapping[str, list[str]]) -> str:
    """Whether the parameters have deserved their place."""
    if losses[label][0] >= WORTH_IT:
        return "worth knowing"
    if not any(losses[label]):
        return "not used"
    wider = [other for other, names in together.items() if set(together[label]) < set(names) and losses[other][0] >= WORTH_IT and other != "everything"]
    return f"worth knowing as a part of {wider[0]}" if wider and losses[label][1] > 0 else "nuisance"


def section(name: str, found: Mapping[str, Any]) -> str:
    """What is written of a task with an expert."""
    losses, earned, together = found["losses"], found["earned"], groups(tasks.make(name))
    rows = [f"| {label} | {_said(loss)} | {verdict(label, losses, together)} |" for label, loss in losses.items()]
    said = ", ".join(f"{who} {_said(earned[who])}" for who in earned)
    most = max(earned[who][0] for who in ("expert", *KNOWING) if who in earned)
    solved = (earned["expert"][0] - earned["random"][0]) / (most - earned["random"][0])
    head = f"Return in {found['num_tasks']} tasks: {said}. **Headroom {_said(found['headroom'])}**, of {found['best']} above {found['untold']}."
    part = f" The expert earns {solved:.2f} of the most." if solved < 1 else ""
    return "\n".join([f"### {name}", "", head + part, "", "| wrong belief about | costs | verdict |", "|---|---|---|", *rows, ""])


def overview() -> str:
    """The headroom of every task, as `metarl describe` says it."""
    rows = []
    for name in tasks.names():
        stated = measured_headroom(name)
        by = "not known" if stated is None else REFERENCES[stated.get("by", "training")]
        value = "" if stated is None else _said(stated["headroom"]) + (f", under {WORTH_IT}" if stated["headroom"][0] < WORTH_IT else "")
        rows.append(f"| {name} | {value} | {by} |")
    return "\n".join([OVERVIEW, "| task | headroom | of |", "|---|---|---|", *rows, ""])


def planners(found: Mapping[str, Mapping[str, Any]]) -> str:
    """What is written of bodies that a planner moved."""
    whos = ("told", "in the middle", "for several", "random")
    rows = [f"| task | tasks | decisions | {' | '.join(whos)} | headroom |", "|---|---|---|---|---|---|---|---|"]
    for name, entry in found.items():
        if entry["by"] == "planner":
            earned = [_said(entry["earned"][who], 1) if who in entry["earned"] else "" for who in whos]
            rows.append(f"| {name} | {entry['num_tasks']} | {entry['decisions']} | {' | '.join(earned)} | {_said(entry['headroom'])} |")
    return "\n".join([PLANNED, *rows, ""])


def document(found: Mapping[str, Mapping[str, Any]]) -> str:
    """The whole of docs/identifiability.md."""
    ideals = [f"| {name} | {_said(entry['headroom'])} |" for name, entry in found.items() if entry["by"] == "ideal body"]
    sections = [section(name, entry) for name, entry in found.items() if entry["by"] == "expert"]
    return "\n".join([HEAD, overview(), *sections, IDEAL, "| task | headroom |", "|---|---|", *ideals, "", planners(found)])


def known() -> dict[str, Any]:
    """What was measured so far."""
    found: dict[str, Any] = json.loads(MEASURED.read_text()) if MEASURED.exists() else {}
    return found


def main() -> None:
    """Measure what is asked for, print, and write."""
    parser = argparse.ArgumentParser(description="What tasks are worth.")
    parser.add_argument("names", nargs="*", help="tasks; by default all")
    parser.add_argument("--tasks", type=int, default=0, metavar="N", help="how many held-out tasks of each")
    parser.add_argument("--write", action="store_true", help="measure nothing that is not named, and write the document")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    for name in asked.names or ([] if asked.write else tasks.names()):
        entry = measured(name, asked.tasks) if tasks.make(name).has_expert else ideal(name) or planned(name, asked.tasks)
        if entry is not None:
            plain = json.loads(json.dumps(entry), parse_float=lambda text: round(float(text), 4))
            MEASURED.write_text(json.dumps(dict(sorted({**known(), name: plain}.items())), indent=1) + "\n")
            print(section(name, plain) if plain["by"] == "expert" else f"{name}: {_said(plain['headroom'])}", flush=True)
    DOCUMENT.write_text(document(known()))


HEAD = f"""# What is worth knowing of each task

Made by `python benchmarks/identifiability.py`. A scripted *expert*, who knows how the task is done (`Task.expert`), does one episode in each of many
held-out tasks: told the truth; told what is hidden in another task, for some parameters or for all; told nothing. Untold he believes *in the middle* of
what training draws, or is *guessing* another task at each decision. Where the zoo has them, *oracle* and *rl2* did the same tasks (the last episode of a
trial), and *robust*, which has no memory. All numbers are means over tasks with 95 % bootstrap intervals.

Headroom is (best - untold) / (best - random), of the best who is told or has found out above the best who remembers nothing. Without a trained robust
policy it is that of the expert alone, and an upper estimate: who was trained to do without may be better than an expert who believes in the middle. Without a
trained oracle it may be more than what is said.

A wrong belief costs a part of what the expert earns above random actions. *Worth knowing* is what costs {WORTH_IT:.0%} or more, alone or together with
others: of a wind, speed without direction says nothing. A *nuisance* costs less in any such company: feedback corrects it, or it is there for tasks to
differ in, so that what was learnt transfers. *Not used*: the expert asks for nothing of it; what it would be worth to a better one is not known.
"""
IDEAL = """## Hidden goals of bodies that take hours to train

No expert, and hardly a reference trained: what a body would earn that did at once, without costs, what it is asked for. Told the goal it does that; untold it
does what is best for all goals together (the middle velocity, place or direction); at random it stays where it is. Real legs take time and effort, which
takes from all three: this is what the task offers, not what was reached.
"""
PLANNED = f"""## Hidden bodies

No expert, and no reference trained: what a planner earns in the beginning of an episode, who tries a few dozen action sequences a decision in a
simulation of what it believes, and sees the true state (`benchmarks/planning.py`). It is told the body; or believes in the *middle* of what training
draws; or, where that leaves {WORTH_IT} and more, plans *for several* bodies of training at once. The planner is not a good one: it looks half a second
ahead, and where it walks no better told than untold, a policy that was trained could still make use of what it knows. And one who was trained
to do without may do better than one who believes something wrong. So these numbers say what knowing is worth to this planner, in these few tasks.
"""
OVERVIEW = """## All tasks

The number of a trained oracle above a trained policy without memory, where the zoo has both and their scores; else of an expert; else what follows at the end.
"""


if __name__ == "__main__":
    main()
