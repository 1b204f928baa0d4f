"""ur5e: Universal Robots' six-joint UR5e, on its published kinematics, limits and joint names.

Bodies are capsules, so that the model is fast and identical in MuJoCo and PyBullet. It carries no gripper: the tool is the flange.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from metarl.robots.spec import ArmSpec, Vec

if TYPE_CHECKING:
    import mujoco

# Denavit-Hartenberg parameters of the UR5e: Universal Robots, "DH Parameters for calculations of kinematics and dynamics" (support article):
# a [m], d [m], alpha [quarter turns]. Joint i turns about its z axis, then comes d along z, a along x, alpha about x.
_DH = ((0.0, 0.1625, 1), (-0.425, 0.0, 0), (-0.3922, 0.0, 0), (0.0, 0.1333, 1), (0.0, 0.0997, -1), (0.0, 0.0996, 0))
# Mass [kg] and centre of mass [m, in the frame behind each joint's DH transform] of each link: the same article
_LINKS = (
    (3.761, (0.0, -0.02561, 0.00193)), (8.058, (0.2125, 0.0, 0.11336)), (2.846, (0.15, 0.0, 0.0265)), (1.37, (0.0, -0.0018, 0.01634)),
    (1.3, (0.0, 0.0018, 0.01634)), (0.365, (0.0, 0.0, -0.001159)),
)  # fmt: skip
# Thickness of each link [m], from pictures; it sets the inertia (a solid cylinder) and what is drawn
_RADII = (0.06, 0.06, 0.05, 0.045, 0.045, 0.04)
_ROTORS = (0.3, 0.3, 0.3, 0.05, 0.05, 0.05)  # kg m², reflected inertia of motor and gear as a flat disc in the link; an assumption
_S = math.sqrt(0.5)
_HALF_TURN = (0.0, 0.0, 0.0, 1.0)  # about z, wxyz: ur_description's base_link, in which poses are given, against the frame of the DH parameters
_TURN = {-1: (_S, -_S, 0.0, 0.0), 0: (1.0, 0.0, 0.0, 0.0), 1: (_S, _S, 0.0, 0.0)}  # quarter turns about x, wxyz


def _behind(row: tuple[float, float, int], point: Vec) -> tuple[float, float, float]:
    """A point given behind a joint's DH transform, in the frame of the joint itself."""
    a, d, turn = row
    x, y, z = point
    return (a + x, *((y, d + z) if turn == 0 else (-turn * z, d + turn * y)))


def build() -> mujoco.MjSpec:
    """The arm on a fixed base at the world's origin; actuators, joint sensors and tool sensors included."""
    import mujoco

    spec = mujoco.MjSpec()
    spec.modelname = SPEC.name
    spec.compiler.degree = False
    capsule = mujoco.mjtGeom.mjGEOM_CAPSULE
    body = spec.worldbody.add_body(name="base_link_inertia")
    body.add_geom(type=capsule, fromto=[0, 0, 0.03, 0, 0, 0.08], size=[0.07, 0, 0], contype=0, conaffinity=0, mass=0)
    for j, (mass, com) in enumerate(_LINKS):
        body = body.add_body(name=SPEC.joint_names[j].replace("_joint", "_link"), pos=SPEC.joint_pos[j], quat=SPEC.joint_quat_wxyz[j])
        end = _behind(_DH[j], (0.0, 0.0, 0.0))
        body.explicitinertial, body.mass, body.ipos = True, mass, _behind(_DH[j], com)
        body.fullinertia = _inertia(mass, _RADII[j], end, _ROTORS[j])
        body.gravcomp = 1.0  # the real arm compensates its own weight, never that of an unknown load
        low, high = SPEC.qpos_limits[j]
        body.add_joint(name=SPEC.joint_names[j], type=mujoco.mjtJoint.mjJNT_HINGE, axis=[0, 0, 1], range=[low, high], limited=True, damping=[1.0, 0, 0])
        rgba = [0.75, 0.77, 0.8, 1] if j % 2 else [0.3, 0.55, 0.75, 1]
        body.add_geom(type=capsule, fromto=[0, 0, 0, *end], size=[_RADII[j], 0, 0], contype=0, conaffinity=0, mass=0, rgba=rgba)
        kp, kd, effort = SPEC.kp[j], SPEC.kd[j], SPEC.effort_limits[j]
        spec.add_actuator(
            name=SPEC.joint_names[j], target=SPEC.joint_names[j], trntype=mujoco.mjtTrn.mjTRN_JOINT, gaintype=mujoco.mjtGain.mjGAIN_FIXED,
            biastype=mujoco.mjtBias.mjBIAS_AFFINE, gainprm=[kp] + [0] * 9, biasprm=[0, -kp, -kd] + [0] * 7, forcerange=[-effort, effort], forcelimited=True,
        )  # fmt: skip
    body.add_site(name="tool", pos=SPEC.tool_pos, quat=SPEC.tool_quat_wxyz, size=[0.005, 0, 0])
    for kind, name in ((mujoco.mjtSensor.mjSENS_JOINTPOS, "qpos"), (mujoco.mjtSensor.mjSENS_JOINTVEL, "qvel")):
        for joint in SPEC.joint_names:
            spec.add_sensor(name=f"{name}/{joint}", type=kind, objtype=mujoco.mjtObj.mjOBJ_JOINT, objname=joint)
    for kind, name in ((mujoco.mjtSensor.mjSENS_FRAMEPOS, "tool_pos"), (mujoco.mjtSensor.mjSENS_FRAMELINVEL, "tool_linvel")):
        spec.add_sensor(name=name, type=kind, objtype=mujoco.mjtObj.mjOBJ_SITE, objname="tool")
    return spec


def _inertia(mass: float, radius: float, end: Vec, rotor: float) -> list[float]:
    """Of a solid cylinder from the joint to the link's end, and a flat disc about the joint's axis: xx, yy, zz, xy, xz, yz."""
    length = math.sqrt(sum(v * v for v in end))
    axis = [v / length for v in end]
    along, across = 0.5 * mass * radius**2, mass * (3 * radius**2 + length**2) / 12
    disc = (0.5 * rotor, 0.5 * rotor, rotor)
    diagonal = [across + (along - across) * axis[i] ** 2 + disc[i] for i in range(3)]
    return [*diagonal, *((along - across) * axis[i] * axis[j] for i, j in ((0, 1), (0, 2), (1, 2)))]


SPEC = ArmSpec(
    name="ur5e",
    joint_names=("shoulder_pan_joint", "shoulder_lift_joint", "elbow_joint", "wrist_1_joint", "wrist_2_joint", "wrist_3_joint"),
    home_qpos=(0.0, -0.5 * math.pi, 0.5 * math.pi, -0.5 * math.pi, -0.5 * math.pi, 0.0),  # upper arm upright, tool down
    # position, velocity and torque limits: joint_limits.yaml of ur_description for the UR5e (the elbow is held to half a turn there, too)
    qpos_limits=((-2 * math.pi, 2 * math.pi),) * 2 + ((-math.pi, math.pi),) + ((-2 * math.pi, 2 * math.pi),) * 3,
    qvel_limits=(math.pi,) * 6,
    qacc_limits=(5.0,) * 6,  # rad/s²: ur_description states none, this is what MoveIt's examples for these arms use
    effort_limits=(150.0, 150.0, 150.0, 28.0, 28.0, 28.0),
    kp=(1000.0, 1000.0, 800.0, 200.0, 150.0, 100.0),  # a loop of ours: the real one is inside the controller
    kd=(120.0, 120.0, 80.0, 15.0, 12.0, 8.0),  # near critical for the inertias
    joint_pos=((0.0, 0.0, 0.0), *(_behind(row, (0.0, 0.0, 0.0)) for row in _DH[:-1])),
    joint_quat_wxyz=(_HALF_TURN, *(_TURN[row[2]] for row in _DH[:-1])),
    tool_pos=_behind(_DH[-1], (0.0, 0.0, 0.0)),
    tool_quat_wxyz=_TURN[0],
    control_dt=0.02,
    physics_dt=0.004,
    command_topic="scaled_joint_trajectory_controller/joint_trajectory",  # of ur_robot_driver
    state_topic="joint_states",
    build=build,
)
