"""Settings that an algorithm needs to do well on a task, where its defaults do not."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from metarl import algos

PRESETS: dict[tuple[str, str], Mapping[str, Any]] = {}


def config_for(algorithm: str, task: str) -> Any:
    """The algorithm's configuration for a task: its defaults, and over them what PRESETS says of the pair.

    Raises:
        ValueError: no algorithm has that name.
    """
    return algos.load(algorithm).Config(**PRESETS.get((algorithm, task), {}))
