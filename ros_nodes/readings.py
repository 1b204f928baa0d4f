"""Which readings a task's functions need, and what can be computed of them on a robot. Plain Python, no ROS."""

from __future__ import annotations

import functools

import torch
from torch import Tensor

from metarl import tasks
from metarl.robots.kinematics import jacobian, tool_pose
from metarl.robots.spec import RobotSpec, ServoSpec, VehicleSpec
from metarl.ros_nodes.rejection import Rejected, all_finite, check_names
from metarl.tasks.task import Readings, Task

OWN = ("last_action", "command_qpos", "command_ctrl")  # kept by the control loop, never measured
FROM_JOINTS = ("tool_pos", "tool_linvel")  # computed from the joint encoders
FROM_ODOMETRY = "velocity"  # forward, to the left and yaw rate: of a vehicle
_BODY_PARTS = {"pos": 3, "quat": 4, "linvel": 3, "angvel": 3}


class _Probe(Readings):
    """Readings that come into being when a task's function asks for them."""

    def __init__(self, task: Task) -> None:
        super().__init__()
        robot = task.robot
        if isinstance(robot, ServoSpec):
            self["qpos"] = torch.tensor([robot.home_qpos])
        self._task = task

    def __missing__(self, name: str) -> Tensor:
        self[name] = torch.zeros(1, size(self._task, name))
        return self[name]


@functools.lru_cache(maxsize=256)
def size(task: Task, name: str) -> int:
    """Length of a reading.

    Raises:
        ValueError: no robot can measure a reading of that name.
    """
    robot = task.robot
    if name in ("qpos", "qvel", "command_qpos") and robot.joint_names and not isinstance(robot, VehicleSpec):
        return robot.num_joints
    if name == "last_action":
        return task.spec.action_size
    if name == FROM_ODOMETRY and isinstance(robot, VehicleSpec):
        return 3
    if name == "command_ctrl" and isinstance(robot, VehicleSpec):
        return int(robot.ctrl_of(torch.tensor([robot.rest])).shape[-1])
    if name in task.sensed:
        return task.sensed[name]
    part = name if isinstance(robot, VehicleSpec) and not robot.prefix else name.rpartition("_")[2]
    if part in _BODY_PARTS and (name != part or isinstance(robot, VehicleSpec)):
        return _BODY_PARTS[part]
    others = dict(task.observed) | _told(task.name)  # a part of the observation may have the name of a reading that it is made of
    body, _, part = name.rpartition("_")
    if body and part in _BODY_PARTS:
        return _BODY_PARTS[part]
    if name not in others:
        known = f"known are qpos, qvel, BODY_{', BODY_'.join(_BODY_PARTS)}, {', '.join(others)}"
        raise ValueError(f"{task.name}: no ROS message carries the reading {name!r}; {known}")
    return others[name]


@functools.cache
def _told(name: str) -> dict[str, int]:
    """Sizes of what a task's episodes ask for and remember: whoever sets the task, or a map, tells it."""
    task = tasks.make(name)
    values = {k: torch.as_tensor(v, dtype=torch.float32) for k, v in task.custom([{}]).named().items()}
    rng = torch.Generator()
    return {k: int(v.shape[-1]) for k, v in {**task.goals(values, rng), **task.memory(values, rng)}.items()}


def own_state(robot: RobotSpec) -> tuple[str, ...]:
    """Readings that the robot's own state message brings."""
    if isinstance(robot, VehicleSpec):
        return (*(robot.prefix + part for part in _BODY_PARTS), FROM_ODOMETRY)
    return "qpos", "qvel"


def needed_to_act(task: Task) -> tuple[str, ...]:
    """Readings that must arrive before the adapter can act."""
    probe = _Probe(task)
    task.observation(probe)
    task.command(torch.zeros(1, task.spec.action_size), probe)
    return _measured(probe)


def needed_to_judge(task: Task) -> tuple[str, ...]:
    """Readings that must arrive before a decision can be rewarded."""
    probe = _Probe(task)
    task.reward(probe, torch.zeros(1, task.spec.action_size), probe)
    task.terminated(probe)
    task.at_rest(probe)
    error(task, probe)
    return _measured(probe)


def error(task: Task, readings: Readings) -> float:
    """How far from done, in the task's unit; NaN where the task does not say."""
    return float(task.error(readings).reshape(-1)[0]) if task.has_error else float("nan")


def bodies(task: Task, names: tuple[str, ...]) -> dict[str, tuple[str, ...]]:
    """Body -> parts of it, e.g. {"object": ("pos", "linvel")}, for readings that a camera or a tracking system must give."""
    found: dict[str, tuple[str, ...]] = {}
    for name in names:
        body, _, part = name.rpartition("_")
        if part in _BODY_PARTS and name not in (*FROM_JOINTS, *OWN, *own_state(task.robot), *task.sensed):
            found[body] = (*found.get(body, ()), part)
    return found


def others(task: Task, names: tuple[str, ...]) -> tuple[str, ...]:
    """Readings that neither the robot's state nor a body's pose and twist bring."""
    told = (*FROM_JOINTS, *OWN, *own_state(task.robot))
    return tuple(n for n in names if n not in told and (n in task.sensed or n.rpartition("_")[2] not in _BODY_PARTS))


def check(task: Task, measured: Readings) -> None:
    """Refuse readings, each (n,), of another size than the task knows, or that are no numbers.

    Raises:
        Rejected: wrong_shape or not_finite.
    """
    for name, value in measured.items():
        if tuple(value.shape) != (size(task, name),):
            raise Rejected("wrong_shape", f"reading {name} has shape {tuple(value.shape)}, expected ({size(task, name)},)")
        if not all_finite(value):
            raise Rejected("not_finite", f"reading {name} is {value.tolist()}")


def check_goal(task: Task, goal: Tensor) -> None:
    """Refuse a goal (3,) m, `target_pos` of an episode, that the task does not have.

    Raises:
        Rejected: no_goal, where nobody may set it, or goal_range.
    """
    if task.goal_box is None:
        raise Rejected("no_goal", f"{task.name} sets the goal of its episodes itself")
    for axis, value, low, high in zip("xyz", goal.tolist(), *task.goal_box, strict=True):
        if not low - 1e-6 <= value <= high + 1e-6:  # NaN, too
            raise Rejected("goal_range", f"{axis} of the goal is {value:.3f} m, {task.name} allows {low} to {high} m")


def complete(task: Task, names: tuple[str, ...], measured: Readings) -> Readings:
    """Check what was measured, each (n,), and add what follows from the joints; with one leading axis (1, n).

    Args:
        task: whose readings.
        names: that are needed.
        measured: what arrived.

    Raises:
        Rejected: missing_reading, wrong_shape or not_finite.
    """
    check_names("reading", [*measured, *FROM_JOINTS], names)
    measured = {name: value for name, value in measured.items() if name in names or name in ("qpos", "qvel")}
    check(task, measured)
    readings = {name: value.unsqueeze(0) for name, value in measured.items()}
    if "tool_linvel" in names:
        frame, jac = jacobian(task.arm, readings["qpos"])
        readings["tool_pos"] = frame[..., :3, 3]
        readings["tool_linvel"] = (jac[..., :3, :] @ readings["qvel"].unsqueeze(-1)).squeeze(-1)
    elif "tool_pos" in names:
        readings["tool_pos"] = tool_pose(task.arm, readings["qpos"])[0]
    return readings


def _measured(probe: Readings) -> tuple[str, ...]:
    names = {name for name in probe if name not in OWN}
    if "tool_linvel" in names:
        names.add("qvel")
    return tuple(sorted(names))
