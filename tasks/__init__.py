"""What is asked of a body, and what differs from one task to the next. One task distribution a file; the file name is its name.

Some distributions have numbers in their names, and then any number may stand there: `bandit_n10_k5`, `bandit_n100_k5`.
"""

from __future__ import annotations

import ast
import functools
import importlib
import importlib.util
import inspect
import os
import pkgutil
import re
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from metarl.robots.spec import unknown_name
from metarl.tasks.parameters import SPLITS, Param, TaskBatch

if TYPE_CHECKING:
    from metarl.tasks.task import Task

_NOT_TASKS = {
    "appliances", "batched_env", "chores", "dm_env", "grasp", "gymnasium", "half_cheetah", "kitchen_rules", "locomotion", "parameters",
    "pushing", "rand_params", "rewards", "sensing", "shapes", "simulators", "strike", "task", "track", "wind",
}  # fmt: skip

_SAID = ("horizon", "episodes_per_trial", "decision_dt", "observed", "action_names", "reward_range")  # what the class of a task must say

__all__ = ["SPLITS", "Param", "Task", "TaskBatch", "add_folder", "files", "make", "names", "unreadable"]


def files() -> list[str]:
    """Names of all task files, in alphabetical order."""
    return sorted(m.name for m in pkgutil.iter_modules(__path__) if m.name not in _NOT_TASKS)


def __getattr__(name: str) -> Any:
    if name != "Task":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from metarl.tasks.task import Task  # when it is asked for: it imports torch, and names of tasks do not need that

    return Task


def _variants(module: str) -> dict[str, type[Task]]:
    """The task classes that a task file defines, by task name."""
    from metarl.tasks.task import Task

    try:
        found = importlib.import_module(f"{__name__}.{module}")
    except Exception as error:  # whatever is wrong with a file of someone's own
        raise ImportError(f"the task file {_path(module)} cannot be read: {type(error).__name__}: {error}") from error
    classes = [c for c in vars(found).values() if inspect.isclass(c) and issubclass(c, Task) and c.__module__ == found.__name__]
    return {c.name: c for c in classes if "name" in vars(c)}


def names() -> list[str]:
    """Names of all task distributions, in alphabetical order; of a file that cannot be read there are none, see `unreadable`."""
    return sorted(name for module in files() for name in _names_in(module))


def unreadable() -> list[str]:
    """What is wrong with each task file of which no names are known because it cannot be read."""
    found = []
    for module in files():
        try:
            _ = _named(_source(module)) or _variants(module)
        except ImportError as error:
            found.append(str(error))
    return found


def _names_in(module: str) -> Iterable[str]:
    try:
        return _named(_source(module)) or _variants(module)
    except ImportError:  # one broken file must not stand in the way of all others
        return ()


def _path(module: str) -> str:
    found = importlib.util.find_spec(f"{__name__}.{module}")
    return found.origin or "" if found is not None else ""


def _source(module: str) -> str:
    try:
        return Path(_path(module)).read_text()
    except (OSError, UnicodeDecodeError):
        return ""  # importing it will say why


@functools.cache
def _named(source: str) -> tuple[str, ...]:
    """Task names that stand as `name = "..."` in the classes of a task file; () where it is not written so plainly, and must be imported to be known."""
    try:
        classes = [node for node in ast.parse(source).body if isinstance(node, ast.ClassDef)]
    except (SyntaxError, ValueError):  # ValueError: zero bytes
        return ()
    lines = [line for kind in classes for line in kind.body if isinstance(line, ast.Assign | ast.AnnAssign) and line.value is not None]
    values = [line.value for line in lines if ast.unparse(line.targets[0] if isinstance(line, ast.Assign) else line.target) == "name"]
    found = tuple(value.value for value in values if isinstance(value, ast.Constant) and isinstance(value.value, str))
    return found if len(found) == len(values) else ()


def make(name: str) -> Task:
    """The task distribution called `name`; a file may hold variants, called `file` or `file_variant`.

    Raises:
        ValueError: no task has that name; the message lists the near ones, and files that could hold it but cannot be read. Or its class leaves out
            what every task must say.
        ImportError: its file cannot be read.
    """
    kind = _find(name)
    missing = ", ".join(f"`{what}`" for what in _left_out(kind))
    if missing:
        raise ValueError(f"the task {kind.name} in {inspect.getfile(kind)} has no {missing}: see metarl.tasks.Task for what it must have")
    return kind()


def _left_out(kind: type[Task]) -> list[str]:
    """What a task must say and this one does not."""
    from metarl.tasks.task import Task

    world = [what for what, needed in (("dynamics", "analytic" in kind.simulators), ("build", {*kind.simulators} - {"analytic"})) if needed]
    inherited = [what for what in world if getattr(kind, what) is getattr(Task, what)]
    return [*(said for said in _SAID if not hasattr(kind, said)), *inherited, *sorted(kind.__abstractmethods__)]


def _find(name: str) -> type[Task]:
    """The class of the task called `name`; raises what `make` does."""
    for module in files():
        if isinstance(name, str) and (name == module or name.startswith(f"{module}_")):
            try:
                variants = _variants(module)
            except ImportError:
                if name == module or name in _names_in(module):
                    raise
                continue  # it merely begins alike
            if name in variants:
                return variants[name]
            for kind in variants.values():
                if kind.arguments and name.startswith(_stem(kind)):
                    return _with_numbers(kind, name)
            if name == module:
                raise ValueError(f"no task is called {name!r}: {name}.py holds {', '.join(sorted(variants)) or 'no task'}")
    for module in files():
        if name in _named(_source(module)):  # in a file that is called otherwise
            return _variants(module)[name]
    own = "" if os.environ.get("METARL_TASKS") else "; for one of your own, METARL_TASKS must name its folder"
    raise ValueError("; ".join([f"{unknown_name('task', name, names())}{own}", *unreadable()]))


def _stem(kind: type[Task]) -> str:
    """The name without its numbers."""
    return re.sub("".join(rf"_{letter}\d+" for letter in kind.arguments) + "$", "", kind.name)


def _with_numbers(kind: type[Task], name: str) -> type[Task]:
    """The distribution with other numbers in its name.

    Raises:
        ValueError: the name has others than `kind.arguments`, or one is out of range.
    """
    ranges = " and ".join(f"{letter} from {low} to {high}" for letter, (low, high) in kind.arguments.items())
    found = re.fullmatch(_stem(kind) + "".join(rf"_{letter}(0|[1-9]\d*)" for letter in kind.arguments), name)
    if found is None:
        raise ValueError(f"no task {name!r}: a name of this kind is {kind.name}, with {ranges}")
    numbers = dict(zip(kind.arguments, map(int, found.groups()), strict=True))
    for letter, (low, high) in kind.arguments.items():
        if not low <= numbers[letter] <= high:
            raise ValueError(f"no task {name!r}: {letter} = {numbers[letter]}, allowed is {letter} from {low} to {high}")
    return type(kind.__name__, (kind,), {"__module__": kind.__module__, "__doc__": kind.__doc__, "name": name, **kind.variant(**numbers)})


def add_folder(folder: str | Path) -> None:
    """Let the task files in a folder of one's own be found like those that lie here.

    The environment variable METARL_TASKS names such folders too, for the console command and for other processes.

    Raises:
        ValueError: there is no such folder, or a file in it is called like one of metarl's.
    """
    path = Path(folder).resolve()
    if not path.is_dir():
        raise ValueError(f"no folder of task files {path}")
    if str(path) in __path__:
        return
    taken = {m.name for m in pkgutil.iter_modules([str(path)])} & {m.name for m in pkgutil.iter_modules(__path__)}
    if taken:
        raise ValueError(f"{path} holds {', '.join(sorted(taken))}: a task file of that name is known already")
    __path__.append(str(path))
    faces = sys.modules.get(f"{__name__}.gymnasium")
    if faces is not None:
        faces.register_all(name for file in pkgutil.iter_modules([str(path)]) for name in _names_in(file.name))


for _folder in os.environ.get("METARL_TASKS", "").split(os.pathsep):
    if _folder:
        add_folder(_folder)
