"""jaco: Kinova's six-joint Jaco arm with its three-fingered hand, with the meshes that come with dm_control.

Nothing of the model lies here: it is read from where dm_control is installed. Joints are named as by Kinova's ROS driver. What differs from
dm_control's model: joints are driven by position loops, rotors are flat discs in the links instead of armature (which has no twin in
PyBullet), meshes are pictures, and joints that turn without end are cut at one turn to either side.
"""

from __future__ import annotations

import importlib.util
import math
from pathlib import Path
from typing import TYPE_CHECKING

from metarl.robots.spec import ArmSpec

if TYPE_CHECKING:
    import mujoco

_S = math.sqrt(0.5)
_WRIST = (0.0, 0.0, 0.5, math.sqrt(0.75))
_TURN = 2 * math.pi
_TOOL = 0.19  # m, from the wrist to between the finger tips
_ROTORS = (0.5, 0.5, 0.5, 0.1, 0.1, 0.1)  # kg m², reflected inertia; dm_control's armature of 4 and 2 serves its velocity loops
_FINGERS_CLOSED = 0.8  # rad, where the fingers are held: half closed around what is carried


def _model_folder() -> Path:
    found = importlib.util.find_spec("dm_control")
    if found is None or not found.submodule_search_locations:
        raise ImportError("jaco's model comes with dm_control, which is not installed: pip install 'metarl[sim]'")
    return Path(found.submodule_search_locations[0]) / "third_party" / "kinova"


def build() -> mujoco.MjSpec:
    """The arm on a fixed base at the world's origin; actuators, joint sensors and tool sensors included."""
    import mujoco

    folder = _model_folder()
    spec = mujoco.MjSpec.from_file(str(folder / "jaco_arm.xml"))
    hand = mujoco.MjSpec.from_file(str(folder / "jaco_hand.xml"))
    wrist = spec.body("b_6").add_site(name="wrist", quat=[0.0, _S, _S, 0.0])
    spec.attach(hand, site=wrist, prefix="hand_")
    spec.modelname = SPEC.name
    spec.option.disableflags = 0
    _make_pictures(spec)
    _forget_defaults(spec)
    inertias = spec.compile()
    for exclude in list(spec.excludes):
        spec.delete(exclude)
    for number, joint in enumerate(SPEC.joint_names, 1):
        _drive(spec, f"joint_{number}", joint, number - 1)
        spec.body(f"b_{number}").pos, spec.body(f"b_{number}").quat = SPEC.joint_pos[number - 1], SPEC.joint_quat_wxyz[number - 1]  # all digits
        _add_rotor(spec.body(f"b_{number}"), inertias, _ROTORS[number - 1])
    for number, joint in enumerate(SPEC.gripper_joint_names, 1):
        finger = spec.joint(f"hand_finger_{number}")
        finger.name, finger.armature, finger.frictionloss = joint, 0.0, 0.0
        _add_position_loop(spec, joint, 2.0, 0.5, 1.5, centre=_FINGERS_CLOSED)
    _add_sensors(spec)
    return spec


def _make_pictures(spec: mujoco.MjSpec) -> None:
    """Meshes touch nothing, and colours need no materials; all weight is compensated, never that of an unknown load."""
    for geom in spec.geoms:
        geom.rgba = [0.7, 0.7, 0.72, 1] if geom.material.endswith("light_gray") else [0.12, 0.12, 0.13, 1]
        geom.contype = geom.conaffinity = 0
        geom.material = ""
        geom.condim = 3
    for body in spec.bodies[1:]:
        body.gravcomp = 1.0


def _forget_defaults(spec: mujoco.MjSpec) -> None:
    """What a task adds to the scene is not made like the arm."""
    import mujoco

    plain = mujoco.MjSpec().default
    for field in ("type", "material", "contype", "conaffinity", "condim", "solref", "solimp"):
        setattr(spec.default.geom, field, getattr(plain.geom, field))
    for field in ("damping", "armature", "frictionloss"):
        setattr(spec.default.joint, field, getattr(plain.joint, field))
    spec.default.site.group, spec.default.site.material = plain.site.group, plain.site.material


def _drive(spec: mujoco.MjSpec, old: str, new: str, index: int) -> None:
    joint = spec.joint(old)
    joint.name, joint.armature, joint.frictionloss, joint.damping = new, 0.0, 0.0, [1.0, 0, 0]
    joint.limited, joint.range = True, list(SPEC.qpos_limits[index])
    _add_position_loop(spec, new, SPEC.kp[index], SPEC.kd[index], SPEC.effort_limits[index])


def _add_rotor(body: mujoco.MjsBody, model: mujoco.MjModel, rotor: float) -> None:
    """The link's inertia as its meshes have it, with a flat disc about the joint's axis."""
    import mujoco
    import numpy as np

    number = model.body(body.name).id
    turned = np.zeros(9)
    mujoco.mju_quat2Mat(turned, model.body_iquat[number])
    axes = turned.reshape(3, 3)
    inertia = axes @ np.diag(model.body_inertia[number]) @ axes.T + rotor * np.diag([0.5, 0.5, 1.0])
    body.explicitinertial, body.mass, body.ipos = True, model.body_mass[number], model.body_ipos[number]
    body.fullinertia = [inertia[0, 0], inertia[1, 1], inertia[2, 2], inertia[0, 1], inertia[0, 2], inertia[1, 2]]


def _add_position_loop(spec: mujoco.MjSpec, joint: str, kp: float, kd: float, effort_limit: float, centre: float = 0.0) -> None:
    """Effort = kp (target + centre - qpos) - kd qvel, cut at the effort limit."""
    import mujoco

    spec.add_actuator(
        name=joint, target=joint, trntype=mujoco.mjtTrn.mjTRN_JOINT, gaintype=mujoco.mjtGain.mjGAIN_FIXED, biastype=mujoco.mjtBias.mjBIAS_AFFINE,
        gainprm=[kp] + [0] * 9, biasprm=[kp * centre, -kp, -kd] + [0] * 7, forcerange=[-effort_limit, effort_limit], forcelimited=True,
    )  # fmt: skip


def _add_sensors(spec: mujoco.MjSpec) -> None:
    import mujoco

    spec.body("b_6").add_site(name="tool", pos=list(SPEC.tool_pos), quat=list(SPEC.tool_quat_wxyz), size=[0.005, 0, 0])
    for kind, name in ((mujoco.mjtSensor.mjSENS_JOINTPOS, "qpos"), (mujoco.mjtSensor.mjSENS_JOINTVEL, "qvel")):
        for joint in SPEC.joint_names:
            spec.add_sensor(name=f"{name}/{joint}", type=kind, objtype=mujoco.mjtObj.mjOBJ_JOINT, objname=joint)
    for kind, name in ((mujoco.mjtSensor.mjSENS_FRAMEPOS, "tool_pos"), (mujoco.mjtSensor.mjSENS_FRAMELINVEL, "tool_linvel")):
        spec.add_sensor(name=name, type=kind, objtype=mujoco.mjtObj.mjOBJ_SITE, objname="tool")


SPEC = ArmSpec(
    name="jaco",
    joint_names=tuple(f"j2n6s300_joint_{i}" for i in range(1, 7)),
    gripper_joint_names=tuple(f"j2n6s300_joint_finger_{i}" for i in range(1, 4)),
    home_qpos=(-0.16, 2.75, 4.43, 2.6, 1.75, -2.28),  # the tool points down, 0.45 m before the base and 0.35 m above it
    qpos_limits=((-_TURN, _TURN), (0.820305, 5.462881), (0.331613, 5.951573), (-_TURN, _TURN), (-_TURN, _TURN), (-_TURN, _TURN)),
    # torque and speed limits: those of dm_control's model of the arm (36 and 48 degrees a second), positions likewise
    qvel_limits=(0.628, 0.628, 0.628, 0.838, 0.838, 0.838),
    qacc_limits=(5.0, 5.0, 5.0, 8.0, 8.0, 8.0),  # what the torques below give to a loaded, outstretched arm, about
    effort_limits=(30.5, 30.5, 30.5, 6.8, 6.8, 6.8),
    kp=(400.0, 400.0, 400.0, 80.0, 80.0, 80.0),
    kd=(50.0, 50.0, 50.0, 10.0, 10.0, 10.0),  # near critical for the inertias
    joint_pos=(
        (0.0, 0.0, 0.15675), (0.0, 0.0016, -0.11875), (0.0, -0.41, 0.0), (0.0, 0.2073, -0.0114), (0.0, -0.03703, -0.06414), (0.0, -0.03703, -0.06414),
    ),
    joint_quat_wxyz=((0.0, 0.0, 1.0, 0.0), (0.0, 0.0, -_S, _S), (0.0, 0.0, 1.0, 0.0), (0.0, 0.0, -_S, _S), _WRIST, _WRIST),
    tool_pos=(0.0, 0.0, -_TOOL),
    tool_quat_wxyz=(0.0, _S, _S, 0.0),
    control_dt=0.02,
    physics_dt=0.004,
    command_topic="effort_joint_trajectory_controller/command",
    state_topic="joint_states",
    build=build,
)  # fmt: skip
