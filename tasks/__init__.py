"""What is asked of a body, and what differs from one task to the next. One task distribution a file; the file name is its name."""

from __future__ import annotations

import functools
import importlib
import importlib.util
import inspect
import pkgutil
import sys
from pathlib import Path
from types import ModuleType

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

    A task of one's own need not lie in this folder: `path/to/file.py:MyTask` and `my_package.module:MyTask` name its class.

    Raises:
        ValueError: no task has that name; the message lists the near ones. Or what `name` points at is not a task.
    """
    if isinstance(name, str) and ":" in name:
        return _class_at(name)()
    for module in _modules():
        if isinstance(name, str) and (name == module or name.startswith(f"{module}_")):
            variants = _variants(module)
            if name in variants:
                return variants[name]()
    raise unknown_name("task", name, names())


def _class_at(place: str) -> type[Task]:
    where, _, attribute = place.rpartition(":")
    module = _load_file(Path(where).resolve()) if where.endswith(".py") else importlib.import_module(where)
    classes = {k: c for k, c in vars(module).items() if inspect.isclass(c) and issubclass(c, Task) and c.__module__ == module.__name__}
    if attribute not in classes:
        raise unknown_name(f"Task in {where}", attribute, sorted(classes))
    found = classes[attribute]
    if "name" not in vars(found) or found.name in names():
        raise ValueError(f"{place}: the task needs a `name` of its own, that none of metarl's tasks has")
    return found


@functools.cache
def _load_file(path: Path) -> ModuleType:
    """Run a file as a module of its own, once, whatever else is called like it."""
    if not path.is_file():
        raise ValueError(f"no task file {path}")
    name = f"metarl_task_file_{path.stem}_{abs(hash(path)):x}"
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # so that objects of its classes can go to other processes
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module
