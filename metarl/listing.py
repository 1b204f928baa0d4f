"""All names that metarl knows; nothing that takes long is imported for them."""

from __future__ import annotations

from collections.abc import Iterable

from metarl import algos, robots, tasks, zoo

FAMILIES = {
    "arm": ("arm_",),
    "vehicle": ("car_", "quadrotor_"),
    "kitchen": ("kitchen",),
    "point and grid": ("point_", "sparse_point", "grid_", "bandit", "tabular_"),
    "locomotion": ("ant_", "half_cheetah_", "hopper_", "humanoid_", "walker_"),
    "dm_control": ("dm_suite_",),
}
"""How the names of a family's tasks begin."""


def families(names: Iterable[str]) -> dict[str, list[str]]:
    """Tasks by family, in the order of `FAMILIES`; those of nobody's, as a user's own, are "other"."""
    found: dict[str, list[str]] = {family: [] for family in (*FAMILIES, "other")}
    for name in names:
        found[next((family for family, begins in FAMILIES.items() if name.startswith(begins)), "other")].append(name)
    return {family: members for family, members in found.items() if members}


def listing() -> dict[str, list[str]]:
    """Kind -> names."""
    return {"tasks": tasks.names(), "robots": robots.names(), "algorithms": algos.names(), "zoo": zoo.names()}
