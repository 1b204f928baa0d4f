"""Where the tool may be: a box in the robot's base frame, and the tool's position by forward kinematics. Plain numpy, no ROS, no torch."""

from __future__ import annotations

import numpy as np

from metarl.robots.spec import ArmSpec
from metarl.ros_nodes.limits import Array, Command, sample
from metarl.ros_nodes.rejection import Rejected

SAMPLES = 8  # looks at each interval of a trajectory


class Workspace:
    """A box that the tool must not leave.

    Args:
        spec: the robot.
        lower, upper: (3,) m, corners of the box in the base frame.

    Raises:
        ValueError: it is no box.
    """

    def __init__(self, spec: ArmSpec, lower: Array, upper: Array) -> None:
        if lower.shape != (3,) or upper.shape != (3,) or not (lower < upper).all():
            raise ValueError(f"the workspace needs three numbers below three others, found {lower.tolist()} and {upper.tolist()}")
        self.lower, self.upper = lower, upper
        self._joints = [_transform(pos, quat) for pos, quat in zip(spec.joint_pos, spec.joint_quat_wxyz, strict=True)]
        self._tool = np.array([*spec.tool_pos, 1.0])

    def tool_position(self, qpos: Array) -> Array:
        """(..., 3) m, base frame, for poses (..., J)."""
        frame = np.eye(4)
        for j, fixed in enumerate(self._joints):
            cos, sin = np.cos(qpos[..., j]), np.sin(qpos[..., j])
            turned = np.broadcast_to(fixed, (*qpos.shape[:-1], 4, 4)).copy()
            turned[..., 0] = fixed[:, 0] * cos[..., None] + fixed[:, 1] * sin[..., None]
            turned[..., 1] = fixed[:, 1] * cos[..., None] - fixed[:, 0] * sin[..., None]
            frame = frame @ turned
        return np.asarray((frame @ self._tool)[..., :3])

    def outside(self, qpos: Array) -> Array:
        """(...) m, how far the tool is outside of the box; 0 inside."""
        tool = self.tool_position(qpos)
        return np.asarray(np.maximum(np.maximum(self.lower - tool, tool - self.upper), 0.0).max(-1))

    def check(self, command: Command, measured_qpos: Array) -> None:
        """Refuse a motion that brings the tool farther outside than it is already.

        Raises:
            Rejected: workspace.
        """
        if len(command.time) == 1:
            path = command.qpos
        else:
            knots = np.concatenate([[0.0], command.time])
            when = (knots[:-1, None] + np.diff(knots)[:, None] * np.arange(1, SAMPLES + 1) / SAMPLES).ravel()
            path = sample(command, measured_qpos, when)[0]
        outside = self.outside(path)
        worst = int(outside.argmax())
        if not outside[worst] <= self.outside(measured_qpos) + 1e-9:
            where = ", ".join(f"{x:.3f}" for x in self.tool_position(path[worst]))
            raise Rejected("workspace", f"the tool would come to ({where}) m, {outside[worst]:.3f} m outside of its box")


def _transform(pos: tuple[float, ...], quat: tuple[float, ...]) -> Array:
    """(4, 4) of a position and a unit quaternion, w first."""
    w, x, y, z = quat
    found = np.eye(4)
    found[:3, :3] = [
        [1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)],
        [2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)],
        [2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)],
    ]
    found[:3, 3] = pos
    return found
