"""arm_reach_ur5e: arm_reach with Universal Robots' UR5e, six joints of the same speed and no hand."""

from __future__ import annotations

from metarl.tasks.arm_reach import ArmReach


class ArmReachUr5e(ArmReach):
    """As arm_reach; every target is nearer than the 0.85 m that the arm reaches."""

    name = "arm_reach_ur5e"
    robot_name = "ur5e"
    observed = {"qpos": 6, "qvel": 6, "tool_pos": 3, "target_pos": 3, "target_from_tool": 3, "last_action": 6}
    action_names = tuple(f"{j}_velocity" for j in ("shoulder_pan", "shoulder_lift", "elbow", "wrist_1", "wrist_2", "wrist_3"))
