"""What is asked of a body, and what differs from one task to the next. One task distribution a file; the file name is its name."""

from __future__ import annotations

import importlib
import inspect
import pkgutil

from metarl.robots.spec import unknown_name
from metarl.tasks.parameters import SPLITS, Param, TaskBatch
from metarl.tasks.task import Task

_NOT_TASKS = {"batched_env", "gymnasium", "parameters", "rewards", "sensing", "simulators", "strike", "task"}

__all__ = ["SPLITS", "Param", "Task", "TaskBatch", "make", "names"]


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
