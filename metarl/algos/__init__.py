"""One algorithm a file; the file name is the algorithm's name."""

from __future__ import annotations

import importlib
import pkgutil
from typing import TYPE_CHECKING

from metarl.robots.spec import unknown_name

if TYPE_CHECKING:
    from metarl.algorithm import MetaRLAlgorithm

__all__ = ["load", "names"]


def names() -> list[str]:
    """Names of all algorithms, in alphabetical order."""
    return sorted(m.name for m in pkgutil.iter_modules(__path__))


def load(name: str) -> type[MetaRLAlgorithm]:
    """The algorithm class called `name`.

    Raises:
        ValueError: no algorithm has that name; the message lists the near ones.
    """
    if name not in names():
        raise unknown_name("algorithm", name, names())
    module = importlib.import_module(f"{__name__}.{name}")
    found: type[MetaRLAlgorithm] = module.ALGORITHM
    return found
