"""Task parameters: what may differ from one task to the next, in which splits, and how tasks are drawn from them.

Task i of a split is the same for ever: it is drawn by a counter-based generator keyed by (task name and version, split, seed)
and i, so it depends neither on how many tasks are drawn, nor on the order, nor on the machine.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from metarl.robots.spec import unknown_name

if TYPE_CHECKING:
    from torch import Tensor

SPLITS = ("train", "iid", "ood_near", "ood_far")
Interval = tuple[float, float]


@dataclass(frozen=True)
class Param:
    """One number, or one choice, that differs between tasks.

    Attributes:
        name: unique in its task.
        unit: SI unit, or "" for pure numbers and choices.
        text: how an English sentence says it, with {} for the value, e.g. "weighs {:.2f} kg"; "" for one of too many to be told.
        train: the interval that training tasks are drawn from; None where `choices` are given.
        choices: what training tasks choose from with equal probability.
        ood_near, ood_far: intervals (or choices) outside the training range, up to 25 % and more beyond it.
        nominal: the value at which the parameter changes nothing, or a typical one.
        scale: "linear", or "log" to draw the logarithm uniformly.
        hidden: False where the observation shows the value anyway (a goal in plain view).
        limits: what the simulators accept, for a value given by hand; by default the hull of all ranges.

    Raises:
        ValueError: these contradict each other: a range or a choice out of distribution that training has, too, a range outside of `limits`, a nominal
            value that is not allowed.
    """

    name: str
    unit: str
    text: str
    nominal: float | str
    train: Interval | None = None
    choices: tuple[str, ...] = ()
    ood_near: tuple[Interval, ...] | tuple[str, ...] = ()
    ood_far: tuple[Interval, ...] | tuple[str, ...] = ()
    scale: str = "linear"
    hidden: bool = True
    limits: Interval | None = None

    def __post_init__(self) -> None:
        if (self.train is None) == (not self.choices):
            raise ValueError(f"parameter {self.name}: give either an interval `train` or `choices`")
        if self.scale not in ("linear", "log"):
            raise ValueError(f"parameter {self.name}: scale is {self.scale!r}, expected 'linear' or 'log'")
        if self.choices:
            self._check_choices()
        else:
            self._check_ranges()
        try:
            self.encode(self.nominal)
        except ValueError as error:
            raise ValueError(f"parameter {self.name}: its nominal value is none: {error}") from None

    def _check_choices(self) -> None:
        for where in ("choices", "ood_near", "ood_far"):
            given = getattr(self, where)
            found = f"parameter {self.name}: `{where}` is {', '.join(map(str, given))}, expected"
            if len(set(given)) < len(given):
                raise ValueError(f"{found} each choice once")
            if where != "choices" and not set(given).isdisjoint(self.choices):
                raise ValueError(f"{found} choices that training has not: {', '.join(self.choices)}")

    def _check_ranges(self) -> None:
        ranges: list[tuple[str, Any]] = [("train", self.train), *(("ood_near", r) for r in self.ood_near), *(("ood_far", r) for r in self.ood_far)]
        least, most = ranges[0][1]
        for where, (low, high) in ranges:
            found = f"parameter {self.name}: the range {low, high} of `{where}`"
            if not low < high:
                raise ValueError(f"{found} is empty, expected (low, high)")
            if self.scale == "log" and low <= 0:
                raise ValueError(f"{found} does not fit: a log scale needs a positive range")
            if where != "train" and low < most and least < high:
                raise ValueError(f"{found} overlaps that of `train`, {self.train}: expected one beside it")
            if not self.allowed[0] <= low < high <= self.allowed[1]:
                raise ValueError(f"{found} is not within `limits` = {self.limits}")

    @property
    def all_choices(self) -> tuple[str, ...]:
        """Every choice of every split; a choice is stored as its index in this tuple."""
        return tuple(dict.fromkeys((*self.choices, *self.ood_near, *self.ood_far))) if self.choices else ()  # type: ignore[arg-type]

    @property
    def allowed(self) -> Interval:
        """Lowest and highest value that a task may have."""
        if self.choices:
            return 0.0, float(len(self.all_choices) - 1)
        if self.limits is not None:
            return self.limits
        ranges = [self.train, *self.ood_near, *self.ood_far]
        return min(r[0] for r in ranges), max(r[1] for r in ranges)  # type: ignore[index, type-var, return-value]

    def options(self, split: str) -> tuple[Any, ...]:
        """The intervals or choices that `split` draws from; empty where an out-of-distribution split leaves the parameter in range."""
        if split == "ood_near":
            return self.ood_near
        if split == "ood_far":
            return self.ood_far
        return self.choices or (self.train,)

    def encode(self, value: float | str) -> float:
        """The number that stands for `value` in a TaskBatch.

        Raises:
            ValueError: no number where one is expected, or outside of what is allowed.
        """
        if self.choices:
            if value not in self.all_choices:
                raise unknown_name(f"{self.name}", str(value), self.all_choices)
            return float(self.all_choices.index(str(value)))
        low, high = self.allowed
        allowed = f"allowed is {low:g} to {high:g} {self.unit}".rstrip()
        try:
            number = float(value)
        except (TypeError, ValueError):
            raise ValueError(f"{self.name} = {value!r} is no number: {allowed}") from None
        if not low <= number <= high:  # also refuses NaN
            raise ValueError(f"{self.name} = {number:g} {self.unit}".rstrip() + f": {allowed}")
        return number

    def decode(self, number: float) -> float | str:
        """The value that `number` stands for."""
        return self.all_choices[round(number)] if self.choices else float(number)

    def draw(self, options: Sequence[Any], uniform: NDArray[np.float64]) -> NDArray[np.float64]:
        """Values for numbers that are uniform on [0, 1), each option equally likely."""
        position = uniform * len(options)
        index = np.minimum(position.astype(int), len(options) - 1)
        if self.choices:
            return np.array([self.encode(o) for o in options])[index]
        low, high = (np.array([interval[end] for interval in options])[index] for end in (0, 1))
        inside = position - index
        if self.scale == "log":
            return np.asarray(np.exp(np.log(low) + inside * (np.log(high) - np.log(low))))
        return np.asarray(low + inside * (high - low))

    def normalise(self, number: Tensor) -> Tensor:
        """`number` on the scale where the training range is [-1, 1]; what a privileged network is told."""
        if self.train is None:
            return number * (2.0 / max(len(self.all_choices) - 1, 1)) - 1.0
        low, high = self.train
        if self.scale == "log":
            number, low, high = number.log(), math.log(low), math.log(high)
        return (number - low) * (2.0 / (high - low)) - 1.0


@dataclass(frozen=True)
class TaskBatch:
    """M tasks. The environment is told their values; an Adapter never is.

    Attributes:
        task: name of the task distribution.
        params: its P parameters.
        values: (M, P) float64.
        ids: M stable names, `task/v1:split:seed:index`, `task/v1:split:published:index` for a published set of tasks, or
            `task/v1:custom:hash` for values given by hand.
    """

    task: str
    params: tuple[Param, ...]
    values: NDArray[np.float64]
    ids: tuple[str, ...]

    def __post_init__(self) -> None:
        if len({p.name for p in self.params}) < len(self.params):
            names = [p.name for p in self.params]
            twice = sorted({name for name in names if names.count(name) > 1})
            raise ValueError(f"{self.task} has several parameters called {', '.join(twice)}: expected names that differ")

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, index: int | slice | Sequence[int] | NDArray[Any]) -> TaskBatch:
        rows = np.atleast_1d(np.arange(len(self))[index])
        return TaskBatch(self.task, self.params, self.values[rows], tuple(self.ids[i] for i in rows))

    def column(self, name: str) -> NDArray[np.float64]:
        """(M,) values of one parameter."""
        return np.asarray(self.values[:, [p.name for p in self.params].index(name)])

    def named(self, repeat: int = 1) -> dict[str, NDArray[np.float64]]:
        """Parameter name -> (M * repeat,): each task `repeat` times in a row, one for each of its robots."""
        return {p.name: np.repeat(self.values[:, i], repeat) for i, p in enumerate(self.params)}

    def normalised(self) -> Tensor:
        """(M, P) float32 on the scale where training ranges are [-1, 1]; for privileged networks only."""
        import torch  # here, because names and values need nothing of it

        columns = [p.normalise(torch.as_tensor(self.values[:, i])) for i, p in enumerate(self.params)]
        return torch.stack(columns, -1).float() if columns else torch.zeros(len(self), 0)

    def describe(self, index: int) -> str:
        """An English sentence on one task."""
        said = [p.text.format(p.decode(v)) for p, v in zip(self.params, self.values[index], strict=True) if p.text]
        head = f"Task {self.ids[index]}"
        return f"{head}: {', '.join(said)}." if said else f"{head}."

    def to_json(self) -> str:
        """Names and values; `from_json` gives the same batch back exactly."""
        tasks = [
            {"id": i, "values": {p.name: p.decode(v) for p, v in zip(self.params, row, strict=True)}} for i, row in zip(self.ids, self.values, strict=True)
        ]
        return json.dumps({"task": self.task, "tasks": tasks}, indent=2)

    @staticmethod
    def concatenate(batches: Sequence[TaskBatch]) -> TaskBatch:
        """All tasks of several batches of one distribution, in order."""
        return TaskBatch(batches[0].task, batches[0].params, np.concatenate([b.values for b in batches]), tuple(i for b in batches for i in b.ids))


def from_json(text: str, task: str, params: tuple[Param, ...]) -> TaskBatch:
    """The batch that `TaskBatch.to_json` wrote.

    Raises:
        ValueError: it is something else, or of another task, or a value is missing, unknown or out of range.
    """
    data = json.loads(text)
    given = data.get("tasks") if isinstance(data, dict) else None
    if not isinstance(given, list) or not all(isinstance(t, dict) and isinstance(t.get("values"), dict) and "id" in t for t in given):
        raise ValueError(f'no tasks are in {text[:60]!r}: expected {{"task": NAME, "tasks": [{{"id": ID, "values": {{NAME: VALUE ...}}}} ...]}}')
    if data.get("task") != task:
        raise ValueError(f"these tasks are of {data.get('task')!r}, expected {task!r}")
    rows = [encode_values(params, t["values"]) for t in given]
    values = np.array(rows, dtype=np.float64).reshape(len(rows), len(params))
    return TaskBatch(task, params, values, tuple(t["id"] for t in given))


def encode_values(params: tuple[Param, ...], values: Mapping[str, float | str], fill: bool = False) -> list[float]:
    """One row of a TaskBatch from named values.

    Raises:
        ValueError: a name is unknown or, unless `fill` takes the nominal value for it, missing; or a value is out of range.
    """
    known = {p.name for p in params}
    for name in values:
        if name not in known:
            raise unknown_name("parameter", name, sorted(known))
    if not fill and known - set(values):
        raise ValueError(f"missing parameters: {', '.join(sorted(known - set(values)))}")
    return [p.encode(values.get(p.name, p.nominal)) for p in params]


def custom(task: str, version: int, params: tuple[Param, ...], rows: Iterable[Mapping[str, float | str]]) -> TaskBatch:
    """Tasks with values given by hand; parameters not named take their nominal value."""
    encoded = [encode_values(params, row, fill=True) for row in rows]
    values = np.array(encoded, dtype=np.float64).reshape(len(encoded), len(params))
    hashes = [hashlib.blake2b(row.tobytes(), digest_size=6).hexdigest() for row in values]
    return TaskBatch(task, params, values, tuple(f"{task}/v{version}:custom:{h}" for h in hashes))


def splits(params: tuple[Param, ...]) -> tuple[str, ...]:
    """Those that drawn tasks are in: the last two where a parameter has a range for them."""
    return tuple(s for s in SPLITS if not s.startswith("ood") or any(p.options(s) for p in params))


def listed(
    task: str, version: int, params: tuple[Param, ...], published: Mapping[str, Sequence[Sequence[float]]], indices: Iterable[int], split: str
) -> TaskBatch:
    """Tasks number `indices` of a split that is a published list of tasks; no seed draws others.

    Raises:
        ValueError: the split is unknown, or it has no task of that number.
    """
    if split not in published:
        raise unknown_name("split", split, list(published))
    rows, chosen = published[split], [int(i) for i in indices]
    for i in chosen:
        if not 0 <= i < len(rows):
            raise ValueError(f"{task} has no task {i} in split {split!r}: it is a published set of {len(rows)} tasks, 0 to {len(rows) - 1}")
    values = np.array([rows[i] for i in chosen], dtype=np.float64).reshape(len(chosen), len(params))
    return TaskBatch(task, params, values, tuple(f"{task}/v{version}:{split}:published:{i}" for i in chosen))


def sample(task: str, version: int, params: tuple[Param, ...], indices: Iterable[int], split: str, seed: int) -> TaskBatch:
    """Tasks number `indices` of a split.

    `train` and `iid` draw from the training ranges with different keys: no task is in both where one parameter or more is a number. Combinations of
    choices are so few that training meets them all, and where all are choices both splits have the same tasks. `ood_near` and `ood_far` put at least one parameter
    outside of them: each parameter that has such a range leaves it with probability 1/2, and one at random if none did.

    Raises:
        ValueError: the split is unknown, no parameter has a range for it, or a number is negative.
    """
    have = splits(params)
    if split not in SPLITS:
        raise unknown_name("split", split, have)
    movable = [i for i, p in enumerate(params) if p.options(split)] if split.startswith("ood") else []
    if split.startswith("ood") and not movable:
        raise ValueError(f"{task} has no split {split!r}: no parameter has a range for it; it has {', '.join(have)}")
    indices = [int(i) for i in indices]
    if indices and min(indices) < 0:
        raise ValueError(f"{task} has no task number {min(indices)}: they begin with 0")
    key = int.from_bytes(hashlib.blake2b(f"{task}|{version}|{split}|{seed}".encode(), digest_size=8).digest(), "little")
    width = len(params)
    uniform = np.array([np.random.Generator(np.random.Philox(key=[key, i])).random(2 * width + 1) for i in indices]).reshape(-1, 2 * width + 1)
    outside = np.zeros((len(indices), width), dtype=bool)
    if movable:
        outside[:, movable] = uniform[:, width : 2 * width][:, movable] < 0.5
        none = ~outside.any(1)
        outside[none, np.array(movable)[(uniform[none, -1] * len(movable)).astype(int)]] = True
    columns = []
    for i, param in enumerate(params):
        inside = param.draw(param.options("train"), uniform[:, i])
        columns.append(np.where(outside[:, i], param.draw(param.options(split), uniform[:, i]), inside) if i in movable else inside)
    values = np.stack(columns, 1) if columns else np.zeros((len(indices), 0))
    return TaskBatch(task, params, values, tuple(f"{task}/v{version}:{split}:{seed}:{i}" for i in indices))
