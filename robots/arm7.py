"""arm7: a seven-joint arm with a parallel gripper, on the kinematics, limits and joint names of the Franka Emika Panda.

Bodies are capsules and boxes, so that the model is fast and identical in MuJoCo and PyBullet.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from metarl.robots.spec import ArmSpec

if TYPE_CHECKING:
    import mujoco

_S = math.sqrt(0.5)

# Kinematics, position, velocity, acceleration and torque limits: Franka control interface documentation, "Robot and interface
# specifications" (Denavit-Hartenberg parameters in Craig's convention, here as fixed transforms before each joint).
_JOINT_POS = ((0, 0, 0.333), (0, 0, 0), (0, -0.316, 0), (0.0825, 0, 0), (-0.0825, 0.384, 0), (0, 0, 0), (0.088, 0, 0))
_TURN = {-1: (_S, -_S, 0.0, 0.0), 0: (1.0, 0.0, 0.0, 0.0), 1: (_S, _S, 0.0, 0.0)}  # quarter turns about x, wxyz
_JOINT_QUAT = tuple(_TURN[turn] for turn in (0, -1, 1, 1, -1, 1, 1))
_FLANGE = 0.107  # m, last joint to flange; the hand is turned by -45 degrees about z
_TOOL = _FLANGE + 0.1034  # m, to the middle of the finger tips
_HAND_QUAT = (math.cos(math.pi / 8), 0.0, 0.0, -math.sin(math.pi / 8))

# Mass [kg], centre of mass [m] and inertia about it [kg m2] (xx, yy, zz, xy, xz, yz) of each link:
# Gaz et al. 2019, "Dynamic identification of the Franka Emika Panda robot with retrieval of feasible parameters".
_LINKS = (
    (4.970684, (0.003875, 0.002081, -0.04762), (0.70337, 0.70661, 0.009117, -0.000139, 0.006772, 0.019169)),
    (0.646926, (-0.003141, -0.02872, 0.003495), (0.007962, 0.02811, 0.025995, -0.003925, 0.010254, 0.000704)),
    (3.228604, (0.027518, 0.039252, -0.066502), (0.037242, 0.036155, 0.01083, -0.004761, -0.011396, -0.012805)),
    (3.587895, (-0.05317, 0.104419, 0.027454), (0.025853, 0.019552, 0.028323, 0.007796, -0.001332, 0.008641)),
    (1.225946, (-0.011953, 0.041065, -0.038437), (0.035549, 0.029474, 0.008627, -0.002117, -0.004037, 0.000229)),
    (1.666555, (0.060149, -0.014117, -0.010517), (0.001964, 0.004354, 0.005433, 0.000109, -0.001158, 0.000341)),
    (0.735522, (0.010517, -0.004252, 0.061597), (0.012516, 0.010027, 0.004815, -0.000428, -0.001196, -0.000741)),
)
# Reflected rotor inertia about the joint axis, kg m2. It is part of the link (a flat disc), not MuJoCo's armature:
# armature has no twin in URDF or PyBullet. 0.1 is the armature that published MuJoCo models of this arm use.
_ROTOR_INERTIA = 0.1

# Capsules that stand for the links in pictures: from, to [m, joint frame], radius [m].
_CAPSULES: tuple[tuple[tuple[float, ...], float], ...] = (
    ((0, 0, -0.19, 0, 0, -0.06), 0.06), ((0, 0, -0.06, 0, 0, 0.06), 0.06), ((0, 0, -0.15, 0, 0, -0.06), 0.06), ((0, 0, -0.06, 0, 0, 0.06), 0.06),
    ((0, 0, -0.26, 0, 0.06, -0.06), 0.05), ((0, 0, -0.05, 0, 0, 0.05), 0.05), ((0, 0, -0.02, 0, 0, 0.06), 0.045),
)  # fmt: skip


def build() -> mujoco.MjSpec:
    """The arm on a fixed base at the world's origin; actuators, joint sensors and tool sensors included."""
    import mujoco

    spec = mujoco.MjSpec()
    spec.modelname = SPEC.name
    spec.compiler.degree = False
    body = spec.worldbody.add_body(name="panda_link0")
    body.add_geom(type=mujoco.mjtGeom.mjGEOM_CAPSULE, fromto=[-0.05, 0, 0.06, 0, 0, 0.14], size=[0.06, 0, 0], contype=0, conaffinity=0, mass=0)
    for j, (mass, com, inertia) in enumerate(_LINKS):
        body = body.add_body(name=f"panda_link{j + 1}", pos=SPEC.joint_pos[j], quat=SPEC.joint_quat_wxyz[j])
        xx, yy, zz, xy, xz, yz = inertia
        disc = (0.5 * _ROTOR_INERTIA, 0.5 * _ROTOR_INERTIA, _ROTOR_INERTIA)
        body.explicitinertial, body.mass, body.ipos = True, mass, com
        body.fullinertia = [xx + disc[0], yy + disc[1], zz + disc[2], xy, xz, yz]
        body.gravcomp = 1.0  # the real arm compensates its own weight, never that of an unknown load
        low, high = SPEC.qpos_limits[j]
        body.add_joint(name=SPEC.joint_names[j], type=mujoco.mjtJoint.mjJNT_HINGE, axis=[0, 0, 1], range=[low, high], limited=True, damping=[1.0, 0, 0])
        fromto, radius = _CAPSULES[j]
        rgba = [0.93, 0.93, 0.95, 1] if j % 2 else [0.25, 0.27, 0.3, 1]
        body.add_geom(type=mujoco.mjtGeom.mjGEOM_CAPSULE, fromto=fromto, size=[radius, 0, 0], contype=0, conaffinity=0, mass=0, rgba=rgba)
        _add_position_loop(spec, SPEC.joint_names[j], SPEC.kp[j], SPEC.kd[j], SPEC.effort_limits[j])
    _add_hand(spec, body)
    for kind, name in ((mujoco.mjtSensor.mjSENS_JOINTPOS, "qpos"), (mujoco.mjtSensor.mjSENS_JOINTVEL, "qvel")):
        for joint in SPEC.joint_names:
            spec.add_sensor(name=f"{name}/{joint}", type=kind, objtype=mujoco.mjtObj.mjOBJ_JOINT, objname=joint)
    for kind, name in ((mujoco.mjtSensor.mjSENS_FRAMEPOS, "tool_pos"), (mujoco.mjtSensor.mjSENS_FRAMELINVEL, "tool_linvel")):
        spec.add_sensor(name=name, type=kind, objtype=mujoco.mjtObj.mjOBJ_SITE, objname="tool")
    return spec


def _add_position_loop(spec: mujoco.MjSpec, joint: str, kp: float, kd: float, effort_limit: float) -> None:
    """Effort = kp (target - qpos) - kd qvel, cut at the effort limit."""
    import mujoco

    spec.add_actuator(
        name=joint, target=joint, trntype=mujoco.mjtTrn.mjTRN_JOINT, gaintype=mujoco.mjtGain.mjGAIN_FIXED, biastype=mujoco.mjtBias.mjBIAS_AFFINE,
        gainprm=[kp] + [0] * 9, biasprm=[0, -kp, -kd] + [0] * 7, forcerange=[-effort_limit, effort_limit], forcelimited=True,
    )  # fmt: skip


def _add_hand(spec: mujoco.MjSpec, flange: mujoco.MjsBody) -> None:
    import mujoco

    box = mujoco.mjtGeom.mjGEOM_BOX
    hand = flange.add_body(name="panda_hand", pos=[0, 0, _FLANGE], quat=_HAND_QUAT)
    hand.gravcomp = 1.0
    hand.add_geom(name="hand", type=box, size=[0.02, 0.1, 0.03], pos=[0, 0, 0.03], mass=0.73, contype=0, conaffinity=0, rgba=[0.93, 0.93, 0.95, 1])
    hand.add_site(name="tool", pos=[0, 0, _TOOL - _FLANGE], size=[0.005, 0, 0])
    for side, joint in zip((1, -1), SPEC.gripper_joint_names, strict=True):
        finger = hand.add_body(name=joint.replace("_joint", ""), pos=[0, 0, 0.0584])
        finger.gravcomp = 1.0
        finger.add_geom(
            name=joint.replace("_joint", "_pad"), type=box, size=[0.01, 0.007, 0.027], pos=[0, 0.007 * side, 0.025], mass=0.1, contype=0, conaffinity=0,
            rgba=[0.25, 0.27, 0.3, 1],
        )  # fmt: skip
        finger.add_joint(name=joint, type=mujoco.mjtJoint.mjJNT_SLIDE, axis=[0, side, 0], range=SPEC.gripper_qpos_limits, limited=True, damping=[5.0, 0, 0])
        _add_position_loop(spec, joint, 400.0, 20.0, SPEC.gripper_effort_limit)


SPEC = ArmSpec(
    name="arm7",
    joint_names=tuple(f"panda_joint{i}" for i in range(1, 8)),
    gripper_joint_names=("panda_finger_joint1", "panda_finger_joint2"),
    gripper_qpos_limits=(0.0, 0.04),
    gripper_effort_limit=70.0,  # continuous grasp force of the Franka hand
    home_qpos=(0.0, -0.785, 0.0, -2.356, 0.0, 1.571, 0.785),  # Franka's ready pose
    qpos_limits=((-2.8973, 2.8973), (-1.7628, 1.7628), (-2.8973, 2.8973), (-3.0718, -0.0698), (-2.8973, 2.8973), (-0.0175, 3.7525), (-2.8973, 2.8973)),
    qvel_limits=(2.175, 2.175, 2.175, 2.175, 2.61, 2.61, 2.61),
    qacc_limits=(15.0, 7.5, 10.0, 12.5, 15.0, 20.0, 20.0),
    effort_limits=(87.0, 87.0, 87.0, 87.0, 12.0, 12.0, 12.0),
    # stiffness of Franka's joint impedance example; damping set near critical for the inertias above
    kp=(600.0, 600.0, 600.0, 600.0, 250.0, 150.0, 50.0),
    kd=(50.0, 50.0, 50.0, 50.0, 30.0, 25.0, 15.0),
    joint_pos=tuple(tuple(float(x) for x in p) for p in _JOINT_POS),
    joint_quat_wxyz=_JOINT_QUAT,
    tool_pos=(0.0, 0.0, _TOOL),
    tool_quat_wxyz=_HAND_QUAT,
    control_dt=0.02,
    physics_dt=0.004,
    command_topic="joint_trajectory_controller/joint_trajectory",
    state_topic="joint_states",
    build=build,
)
