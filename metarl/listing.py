"""All names that metarl knows; nothing that takes long is imported for them."""

from __future__ import annotations

from metarl import algos, robots, tasks, zoo


def listing() -> dict[str, list[str]]:
    """Kind -> names."""
    return {"tasks": tasks.names(), "robots": robots.names(), "algorithms": algos.names(), "zoo": zoo.names()}
