"""The bodies. One robot a file; the file name is the robot's name."""

from __future__ import annotations

import functools
import importlib
import pkgutil

from metarl.robots.spec import ArmSpec, Controls, JointTrajectory, RobotSpec, ServoSpec, VehicleSpec, unknown_name

_NOT_ROBOTS = {"spec", "kinematics"}

__all__ = ["ArmSpec", "Controls", "JointTrajectory", "RobotSpec", "ServoSpec", "VehicleSpec", "load", "load_arm", "names"]


def names() -> list[str]:
    """Names of all robots, in alphabetical order."""
    return sorted(m.name for m in pkgutil.iter_modules(__path__) if m.name not in _NOT_ROBOTS)


@functools.cache
def load(name: str) -> RobotSpec:
    """The robot called `name`.

    Raises:
        ValueError: no robot has that name; the message lists the near ones.
    """
    if name not in names():
        raise unknown_name("robot", name, names())
    spec: RobotSpec = importlib.import_module(f"{__name__}.{name}").SPEC
    return spec


def load_arm(name: str) -> ArmSpec:
    """The arm called `name`.

    Raises:
        ValueError: no robot has that name.
        TypeError: it is not an arm that follows joint trajectories.
    """
    spec = load(name)
    if not isinstance(spec, ArmSpec):
        raise TypeError(f"{name} is not an arm that follows joint trajectories")
    return spec
