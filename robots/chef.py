"""chef: arm7 on a base that drives and turns in any direction, with a peg for a hand.

The peg engages whatever has a hole for it: handles of doors and drawers, cranks of knobs. What it does is the same in every engine, where the
friction of a grip would not be.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from metarl.robots import arm7
from metarl.robots.spec import ServoSpec

if TYPE_CHECKING:
    import mujoco

BASE_JOINTS = ("base_x", "base_y", "base_yaw")
BASE_MASS, BASE_HALF = 40.0, (0.25, 0.22, 0.2)  # kg, m: a small omnidirectional platform with its batteries
SHOULDER = 0.4  # m above the floor, where the arm stands on the base, above its middle
PEG_RADIUS, PEG_LENGTH = 0.008, 0.06  # m; the middle of the peg is the tool
# How far, how fast and how hard the platform may go: 3 m about where it starts, a full turn; small omnidirectional platforms reach 1-2 m/s
_REACH, _SPEED, _ACCELERATION = (3.0, 3.0, 6.3), (2.0, 2.0, 4.5), (6.0, 6.0, 15.0)
# Its trajectories are cubics through points 0.1 s apart. At a point, their acceleration is up to half as much again as in the 20 ms for which
# motors are told anything, and the latter is what arm7's limits are kept by.
_AT_POINTS = 1.5
# Loops of the platform: it weighs 57 kg with the arm; damping near critical
_KP, _KD, _EFFORT = (60000.0, 60000.0, 8000.0), (3600.0, 3600.0, 360.0), (600.0, 600.0, 300.0)


def build() -> mujoco.MjSpec:
    """The robot at the world's origin, heading along x; actuators, joint and tool sensors included."""
    import mujoco

    spec = arm7.build()
    spec.modelname = "chef"
    base = spec.body("panda_link0")
    base.pos = [0, 0, SHOULDER]
    hinge, slide = mujoco.mjtJoint.mjJNT_HINGE, mujoco.mjtJoint.mjJNT_SLIDE
    for name, kind, axis in zip(BASE_JOINTS, (slide, slide, hinge), ((1, 0, 0), (0, 1, 0), (0, 0, 1)), strict=True):
        base.add_joint(name=name, type=kind, axis=axis)
    base.add_geom(
        type=mujoco.mjtGeom.mjGEOM_BOX, size=BASE_HALF, pos=[0, 0, -BASE_HALF[2]], mass=BASE_MASS, contype=0, conaffinity=0, rgba=[0.2, 0.22, 0.25, 1]
    )
    for name, kp, kd, effort in zip(BASE_JOINTS, _KP, _KD, _EFFORT, strict=True):
        spec.add_actuator(
            name=name, target=name, trntype=mujoco.mjtTrn.mjTRN_JOINT, gaintype=mujoco.mjtGain.mjGAIN_FIXED, biastype=mujoco.mjtBias.mjBIAS_AFFINE,
            gainprm=[kp] + [0] * 9, biasprm=[0, -kp, -kd] + [0] * 7, forcerange=[-effort, effort], forcelimited=True,
        )  # fmt: skip
    _give_peg(spec)
    _sense_joints(spec)
    return spec


def _sense_joints(spec: mujoco.MjSpec) -> None:
    """All joints' positions and velocities, base first, in place of the arm's alone."""
    import mujoco

    for reading, kind in (("qpos", mujoco.mjtSensor.mjSENS_JOINTPOS), ("qvel", mujoco.mjtSensor.mjSENS_JOINTVEL)):
        for name in arm7.SPEC.joint_names:
            spec.delete(spec.sensor(f"{reading}/{name}"))
        for name in SPEC.joint_names:
            spec.add_sensor(name=f"{reading}/{name}", type=kind, objtype=mujoco.mjtObj.mjOBJ_JOINT, objname=name)


def _give_peg(spec: mujoco.MjSpec) -> None:
    """Fingers that hold a peg and do not move."""
    import mujoco

    for name in arm7.SPEC.gripper_joint_names:
        spec.delete(spec.actuator(name))
        spec.delete(spec.joint(name))
    tip = spec.site("tool")
    peg = spec.body("panda_hand").add_body(name="peg", pos=tip.pos)
    peg.add_geom(
        name="peg", type=mujoco.mjtGeom.mjGEOM_CAPSULE, size=[PEG_RADIUS, 0.5 * PEG_LENGTH - PEG_RADIUS, 0], mass=0.05, contype=2, conaffinity=0,
        friction=[0.2, 0, 0], rgba=[0.8, 0.5, 0.2, 1],
    )  # fmt: skip


SPEC = ServoSpec(
    name="chef",
    joint_names=(*BASE_JOINTS, *arm7.SPEC.joint_names),
    kp=(*_KP, *arm7.SPEC.kp),
    kd=(*_KD, *arm7.SPEC.kd),
    effort_limits=(*_EFFORT, *arm7.SPEC.effort_limits),
    sliding=BASE_JOINTS[:2],
    home_qpos=(0.0, 0.0, 0.0, *arm7.SPEC.home_qpos),
    qpos_limits=(*((-reach, reach) for reach in _REACH), *arm7.SPEC.qpos_limits),
    qvel_limits=(*_SPEED, *arm7.SPEC.qvel_limits),
    qacc_limits=(*_ACCELERATION, *(_AT_POINTS * limit for limit in arm7.SPEC.qacc_limits)),
    command_topic="whole_body_controller/joint_trajectory",
    state_topic="joint_states",
    frame="odom",
    control_dt=0.02,
    physics_dt=0.02,
    build=build,
)
