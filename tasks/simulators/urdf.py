"""A compiled MuJoCo model as URDF: one document for each body that hangs in the world, with its descendants.

PyBullet loads these documents, and ROS publishes the robot's as `robot_description`. Links and joints keep the names and frames of the
model. Meshes are named by files that live as long as this process. What URDF 1.0 does not know is made of
what it knows: a capsule becomes a cylinder with two spheres, an ellipsoid a mesh.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from xml.etree import ElementTree as xml

import mujoco
import numpy as np
from numpy.typing import NDArray

from metarl.robots.spec import RobotSpec
from metarl.tasks.simulators.mesh_files import ellipsoid_file, mesh_file

Array = NDArray[np.float64]

WORLD = "world"  # name of the link that holds the world's own shapes
_TINY = 1e-9  # kg and kg m², of links that only carry a second joint
_UNKNOWN = 1000.0  # velocity or effort limit where none is known; URDF has no word for "unlimited"
_ENDLESS = 10.0  # m, side of the picture of a plane without size


def robot_urdf(model: mujoco.MjModel, robot: RobotSpec) -> str:
    """The document of the robot's tree.

    Args:
        model: a compiled scene with the robot in it.
        robot: gives the velocity limits, which MuJoCo models lack.

    Raises:
        ValueError: something in the tree has no twin in URDF; the message names it.
    """
    body = int(model.joint(robot.joint_names[0]).bodyid[0]) if robot.joint_names else model.body(robot.name).id  # one that only floats has its name
    return tree_urdf(model, int(model.body_rootid[body]), robot.velocity_limits, robot.name)


def free_body_urdf(model: mujoco.MjModel, name: str) -> str:
    """The document of a body that hangs in the world by a free joint or a mocap body; its pose is not part of it."""
    return tree_urdf(model, model.body(name).id)


def tree_urdf(model: mujoco.MjModel, root: int, velocity_limits: Mapping[str, float] | None = None, name: str = "") -> str:
    """The document of the body `root` and all that hangs on it; body 0 stands for the world's own shapes alone.

    The root's pose in the world is not part of the document, unless the root itself moves along joints.

    Args:
        model: a compiled scene.
        root: number of a body that hangs in the world, or 0.
        velocity_limits: joint name -> rad/s or m/s, where known.
        name: of the robot; by default the root's.

    Raises:
        ValueError: something in the tree has no twin in URDF; the message names it.
    """
    robot = xml.Element("robot", name=name or _body_name(model, root))
    bodies = [root] if root == 0 else [b for b in range(1, model.nbody) if model.body_rootid[b] == root]
    for body in bodies:
        joints = [] if is_free(model, body) else joints_of(model, body)
        if body == root and joints:
            xml.SubElement(robot, "link", name=WORLD)
        if body != root or joints:
            _add_joints(robot, model, body, joints, velocity_limits or {})
        link = xml.SubElement(robot, "link", name=_body_name(model, body))
        frame = (model.body_ipos[body], model.body_iquat[body])
        if body == root and not joints and not is_free(model, root):
            frame = (np.zeros(3), np.array([1.0, 0, 0, 0]))  # it never moves; Bullet computes weights as if the world were turned like its inertia
        _add_inertial(link, float(model.body_mass[body]), model.body_inertia[body], *frame)
        for geom in np.flatnonzero(model.geom_bodyid == body):
            _add_shapes(link, model, int(geom))
    xml.indent(robot)
    return xml.tostring(robot, encoding="unicode") + "\n"


def roots(model: mujoco.MjModel) -> list[int]:
    """The world itself and the bodies that hang in it."""
    return [0, *(b for b in range(1, model.nbody) if model.body_parentid[b] == 0)]


def joints_of(model: mujoco.MjModel, body: int) -> list[int]:
    """Numbers of the body's joints."""
    return list(range(model.body_jntadr[body], model.body_jntadr[body] + model.body_jntnum[body]))


def is_free(model: mujoco.MjModel, body: int) -> bool:
    """The body floats."""
    return any(model.jnt_type[j] == mujoco.mjtJoint.mjJNT_FREE for j in joints_of(model, body))


def collides(model: mujoco.MjModel, geom: int) -> bool:
    """The shape is more than a picture."""
    return bool(model.geom_contype[geom] or model.geom_conaffinity[geom])


def rotation(quat_wxyz: Array) -> Array:
    """Matrix (3, 3) of a unit quaternion."""
    matrix = np.zeros(9)
    mujoco.mju_quat2Mat(matrix, np.asarray(quat_wxyz, dtype=np.float64))
    return matrix.reshape(3, 3)


def _body_name(model: mujoco.MjModel, body: int) -> str:
    name: str = model.body(body).name
    return name if body else WORLD


def _add_joints(robot: xml.Element, model: mujoco.MjModel, body: int, joints: Sequence[int], velocity_limits: Mapping[str, float]) -> None:
    """The way from the parent's link to the body's: a fixed joint, one joint, or a chain of joints with tiny links between.

    MuJoCo turns a body about each of its joints' anchors in order; a URDF link begins on its joint's axis. So each link of the chain
    begins at an anchor, and a fixed joint leads back to the body's own frame where the last anchor is elsewhere.
    """
    name, parent = _body_name(model, body), _body_name(model, int(model.body_parentid[body]))
    pos, quat = model.body_pos[body], model.body_quat[body]
    anchor = np.zeros(3)
    for j in joints:
        last_on_origin = j == joints[-1] and not model.jnt_pos[j].any()
        child = name if last_on_origin else f"{name}/{model.joint(j).name}"
        step = rotation(quat) @ (model.jnt_pos[j] - anchor)
        _add_joint(robot, model, j, parent, child, pos + step, quat, velocity_limits)
        if not last_on_origin:
            _add_inertial(xml.SubElement(robot, "link", name=child), _TINY, np.full(3, _TINY))
        parent, anchor, pos, quat = child, model.jnt_pos[j], np.zeros(3), np.array([1.0, 0, 0, 0])
    if parent != name:
        fixed = xml.SubElement(robot, "joint", name=f"{name}/fixed", type="fixed")
        _add_frame(fixed, parent, name, pos - anchor, quat)


def _add_joint(
    robot: xml.Element, model: mujoco.MjModel, joint: int, parent: str, child: str, pos: Array, quat: Array, velocity_limits: Mapping[str, float]
) -> None:
    name = model.joint(joint).name
    hinge, slide = (model.jnt_type[joint] == t for t in (mujoco.mjtJoint.mjJNT_HINGE, mujoco.mjtJoint.mjJNT_SLIDE))
    if not (hinge or slide):
        raise ValueError(f"joint {name!r} is neither a hinge nor a slide: it has no twin in URDF")
    if model.qpos0[model.jnt_qposadr[joint]] != 0:
        raise ValueError(f"joint {name!r} has a reference position other than 0: it has no twin in URDF")
    limited, dof = bool(model.jnt_limited[joint]), model.jnt_dofadr[joint]
    kind = ("revolute" if limited else "continuous") if hinge else "prismatic"
    element = xml.SubElement(robot, "joint", name=name, type=kind)
    _add_frame(element, parent, child, pos, quat)
    xml.SubElement(element, "axis", xyz=_text(model.jnt_axis[joint]))
    low, high = model.jnt_range[joint] if limited else (-_UNKNOWN, _UNKNOWN)
    limit = {"effort": _text([_effort_limit(model, joint)]), "velocity": _text([velocity_limits.get(name, _UNKNOWN)])}
    if kind != "continuous":
        limit = {"lower": _text([low]), "upper": _text([high]), **limit}
    xml.SubElement(element, "limit", limit)
    xml.SubElement(element, "dynamics", damping=_text([model.dof_damping[dof]]), friction=_text([model.dof_frictionloss[dof]]))


def _effort_limit(model: mujoco.MjModel, joint: int) -> float:
    acts = (model.actuator_trntype == mujoco.mjtTrn.mjTRN_JOINT) & (model.actuator_trnid[:, 0] == joint) & (model.actuator_forcelimited != 0)
    efforts = np.abs(model.actuator_forcerange[acts]).max(1) * np.abs(model.actuator_gear[acts, 0])
    return float(efforts.sum()) if efforts.size else _UNKNOWN


def _add_frame(joint: xml.Element, parent: str, child: str, pos: Array, quat: Array) -> None:
    _add_origin(joint, pos, quat)
    xml.SubElement(joint, "parent", link=parent)
    xml.SubElement(joint, "child", link=child)


def _add_inertial(link: xml.Element, mass: float, inertia: Array, pos: Array | None = None, quat: Array | None = None) -> None:
    inertial = xml.SubElement(link, "inertial")
    if pos is not None and quat is not None:
        _add_origin(inertial, pos, quat)
    xml.SubElement(inertial, "mass", value=_text([mass]))
    principal = dict(zip(("ixx", "iyy", "izz"), (_text([i]) for i in inertia), strict=True))
    xml.SubElement(inertial, "inertia", {**principal, "ixy": "0", "ixz": "0", "iyz": "0"})


def _add_shapes(link: xml.Element, model: mujoco.MjModel, geom: int) -> None:
    """Every shape is drawn; those that touch others collide as well."""
    pos, quat, size = model.geom_pos[geom], model.geom_quat[geom], model.geom_size[geom]
    name = model.geom(geom).name or f"geom{geom}"
    kind = mujoco.mjtGeom(model.geom_type[geom])
    if kind == mujoco.mjtGeom.mjGEOM_MESH:
        drawn = colliding = [("mesh", {"filename": mesh_file(model, int(model.geom_dataid[geom]))}, 0.0)]
    else:
        drawn = colliding = _primitives(kind, name, size)
    if kind == mujoco.mjtGeom.mjGEOM_PLANE:  # an endless plane has no picture
        sides = [2 * s or _ENDLESS for s in size[:2]]
        drawn = [("box", {"size": _text([*sides, 0.002])}, -0.001)]
    for role, shapes in (("visual", drawn), ("collision", colliding if collides(model, geom) else [])):
        for i, (shape, attributes, up) in enumerate(shapes):
            element = xml.SubElement(link, role, name=name if i == 0 else f"{name}/{i}")
            _add_origin(element, pos + rotation(quat)[:, 2] * up, quat)
            xml.SubElement(xml.SubElement(element, "geometry"), shape, attributes)
            if role == "visual":
                rgba = model.geom_rgba[geom]
                material = xml.SubElement(element, "material", name="rgba_" + "_".join(f"{c:.3g}" for c in rgba))
                xml.SubElement(material, "color", rgba=" ".join(f"{c:.6g}" for c in rgba))


def _primitives(kind: mujoco.mjtGeom, name: str, size: Array) -> list[tuple[str, dict[str, str], float]]:
    """URDF shapes that make up a geom: element, attributes, and how far along the geom's z axis its middle lies."""
    geom = mujoco.mjtGeom
    if kind == geom.mjGEOM_PLANE:
        return [("plane", {"normal": "0 0 1"}, 0.0)]  # an extension of PyBullet; robots have no planes
    if kind == geom.mjGEOM_BOX:
        return [("box", {"size": _text(2 * size)}, 0.0)]
    if kind == geom.mjGEOM_SPHERE or (kind == geom.mjGEOM_ELLIPSOID and np.ptp(size) == 0):
        return [("sphere", {"radius": _text([size[0]])}, 0.0)]
    cylinder = ("cylinder", {"radius": _text([size[0]]), "length": _text([2 * size[1]])}, 0.0)
    if kind == geom.mjGEOM_CYLINDER:
        return [cylinder]
    if kind == geom.mjGEOM_CAPSULE:
        return [cylinder, *(("sphere", {"radius": _text([size[0]])}, end * size[1]) for end in (-1, 1))]
    if kind == geom.mjGEOM_ELLIPSOID:
        return [("mesh", {"filename": ellipsoid_file(size)}, 0.0)]
    raise ValueError(f"geom {name!r} is a {kind.name.removeprefix('mjGEOM_').lower()} of size {size.tolist()}: it has no twin in URDF")


def _add_origin(element: xml.Element, pos: Array, quat: Array) -> None:
    xml.SubElement(element, "origin", xyz=_text(pos), rpy=_text(_roll_pitch_yaw(rotation(quat))))


def _roll_pitch_yaw(matrix: Array) -> tuple[float, float, float]:
    """Angles about the fixed x, y and z axes, in this order; at the poles the roll is 0."""
    cos_pitch = math.hypot(matrix[0, 0], matrix[1, 0])
    pitch = math.atan2(-matrix[2, 0], cos_pitch)
    if cos_pitch < 1e-9:
        return 0.0, pitch, math.atan2(-matrix[0, 1], matrix[1, 1])
    return math.atan2(matrix[2, 1], matrix[2, 2]), pitch, math.atan2(matrix[1, 0], matrix[0, 0])


def _text(values: Sequence[float] | Array) -> str:
    """All digits of a double, so that an engine that reads the document computes with the model's own numbers."""
    return " ".join(repr(float(v) + 0.0) for v in values)
