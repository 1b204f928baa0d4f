"""What meta-training writes while it runs: a CSV, TensorBoard events, and a progress bar."""

from __future__ import annotations

import csv
import io
import os
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from torch.utils.tensorboard import SummaryWriter

from metarl.meta_parameters import write_atomically

CSV_NAME = "progress.csv"
SAY_EVERY = 20.0  # s between two lines where there is no bar


class TrainingLog:
    """One row an iteration, in `progress.csv` and as TensorBoard scalars, and a bar that shows the return by episode.

    Rows of iterations from `first` on are cut away: they were written after the checkpoint that a resumed training begins from.

    Args:
        folder: of the training.
        label: shown beside the bar.
        first, last: iterations first ... last - 1 will be written.
        console: where the bar is drawn; where that is no terminal, a line is printed now and then instead.
    """

    def __init__(self, folder: Path, label: str, first: int, last: int, console: Console | None = None) -> None:
        self.console = console or Console(stderr=True)
        self._say_next = 0.0
        self._path, self._label, self._last = folder / CSV_NAME, label, last
        self._columns = cut_csv(self._path, first)
        self._file = open(self._path, "a", newline="")  # noqa: SIM115  closed in __exit__
        self._board = SummaryWriter(str(folder / "tensorboard"), purge_step=first)
        parts = (
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[returns]}"),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
        )
        self._bar = Progress(*parts, console=self.console, disable=not self.console.is_terminal)
        self._task = self._bar.add_task(label, total=last, completed=first, returns="")

    def __enter__(self) -> Self:
        self._bar.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._bar.stop()
        self._file.close()
        self._board.close()

    def write(self, row: Mapping[str, float]) -> None:
        """One iteration. A name that is new, as in a second phase of training, begins a column; the rows before have nothing in it."""
        if not row.keys() <= set(self._columns):
            self._widen(row)
        csv.DictWriter(self._file, self._columns).writerow(row)
        self._file.flush()
        for name, value in row.items():
            if name != "iteration":
                self._board.add_scalar(name, value, int(row["iteration"]))
        if not self.console.is_terminal and time.monotonic() > self._say_next:
            self._say_next = time.monotonic() + SAY_EVERY
            done, seconds = int(row["iteration"]) + 1, row["seconds"]
            self.console.print(f"{self._label} {done}/{self._last}  {seconds:.0f} s  {_returns(row)}", highlight=False, soft_wrap=True)
        self._bar.update(self._task, completed=row["iteration"] + 1, returns=_returns(row))

    def _widen(self, row: Mapping[str, float]) -> None:
        self._file.close()
        with open(self._path, newline="") as file:
            before = list(csv.DictReader(file))
        self._columns += [name for name in row if name not in self._columns]
        write_csv(self._path, self._columns, before)
        self._file = open(self._path, "a", newline="")  # noqa: SIM115  closed in __exit__

    def settle(self) -> None:
        """A checkpoint will follow: all rows must be on disk before it."""
        os.fsync(self._file.fileno())


def cut_csv(path: Path, first: int) -> list[str]:
    """Drop rows of iterations from `first` on, and a row that was cut off in the middle; returns the columns, [] for a new file."""
    if not path.exists():
        return []
    with open(path, newline="") as file:
        rows = list(csv.reader(file))
    if first == 0 or not rows:
        path.unlink()
        return []
    columns = rows[0]
    write_csv(path, columns, [dict(zip(columns, row, strict=True)) for row in rows[1:] if len(row) == len(columns) and int(row[0]) < first])
    return columns


def write_csv(path: Path, columns: Sequence[str], rows: Iterable[Mapping[str, object]]) -> None:
    """All rows or none, with nothing where a row has no such column."""
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, columns)
    writer.writeheader()
    writer.writerows(rows)
    write_atomically(path, text.getvalue().encode())


def _returns(row: Mapping[str, float]) -> str:
    """The return of the first and the last episode of a trial."""
    values = [v for name, v in row.items() if name.startswith("return_episode_")]
    return f"return {values[0]:.2f} → {values[-1]:.2f}"
