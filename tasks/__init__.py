"""What is asked of a body, and what differs from one task to the next. One task distribution a file; the file name is its name."""

from __future__ import annotations

import importlib
import inspect
import os
import pkgutil
from pathlib import Path

from metarl.robots.spec import unknown_name
from metarl.tasks.parameters import SPLITS, Param, TaskBatch
from metarl.tasks.task import Task

_NOT_TASKS = {"batched_env", "gymnasium", "parameters", "rewards", "sensing", "simulators", "strike", "task", "track", "wind", "experts"}

__all__ = ["SPLITS", "Param", "Task", "TaskBatch", "add_folder", "make", "names"]


def _modules() -> list[str]:
    return sorted(m.name for m in pkgutil.iter_modules(__path__) if m.name not in _NOT_TASKS)


def _variants(module: str) -> dict[str, type[Task]]:
    """The task classes that a task file defines, by task name."""
    found = importlib.import_module(f"{__name__}.{module}")
    classes = [c for c in vars(found).values() if inspect.isclass(c) and issubclass(c, Task) and c.__module__ == found.__name__]
    return {c.name: c for c in classes if "name" in vars(c)}


def names() -> list[str]:
    """Names of all task distributions, in alphabetical order."""
    return sorted(name for module in _modules() for name in _variants(module))


def make(name: str) -> Task:
    """The task distribution called `name`; a file may hold variants, called `file` or `file_variant`.

    Raises:
        ValueError: no task has that name; the message lists the near ones.
    """
    for module in _modules():
        if isinstance(name, str) and (name == module or name.startswith(f"{module}_")):
            variants = _variants(module)
            if name in variants:
                return variants[name]()
    raise unknown_name("task", name, names())


def add_folder(folder: str | Path) -> None:
    """Let the task files in a folder of one's own be found like those that lie here.

    The environment variable METARL_TASKS names such folders too, for the console command and for other processes.

    Raises:
        ValueError: there is no such folder, or a file in it is called like one of metarl's.
    """
    path = Path(folder).resolve()
    if not path.is_dir():
        raise ValueError(f"no folder of task files {path}")
    taken = {m.name for m in pkgutil.iter_modules([str(path)])} & {m.name for m in pkgutil.iter_modules(__path__)}
    if taken:
        raise ValueError(f"{path} holds {', '.join(sorted(taken))}: metarl.tasks has that already")
    __path__.append(str(path))


for _folder in os.environ.get("METARL_TASKS", "").split(os.pathsep):
    if _folder:
        add_folder(_folder)
