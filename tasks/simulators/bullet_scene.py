"""What PyBullet must know of a compiled MuJoCo model, as plain data that can be sent to another process.

The model stays the only description: documents for the bodies, and tables of what URDF cannot say (actuators, springs, which shapes may
touch and with what friction, sensors, camera). What has no twin in Bullet is refused by name.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from itertools import combinations

import mujoco
import numpy as np

from metarl.robots.spec import RobotSpec
from metarl.tasks.simulators.bullet_thrusters import Thrusters, read_thrusters
from metarl.tasks.simulators.urdf import Array, is_free, joints_of, roots, rotation, tree_urdf

_ON_JOINTS = (mujoco.mjtTrn.mjTRN_JOINT.value, mujoco.mjtTrn.mjTRN_JOINTINPARENT.value)

Link = tuple[int, str]  # number of the tree, name of the link in it

_FRAME_SENSORS = {"FRAMEPOS": "pos", "FRAMEQUAT": "quat", "FRAMELINVEL": "linvel", "FRAMEANGVEL": "angvel"}
_JOINT_SENSORS = {"JOINTPOS": "qpos", "JOINTVEL": "qvel"}


@dataclass(frozen=True)
class Joints:
    """The n joints of one tree, and the forces on them besides contacts and limits.

    Attributes:
        names: n joints, in the order of the document.
        damping, stiffness, spring, frictionloss: (n,) of the joints; the spring pulls towards `spring`.
        actuator_joint: (A,) which joint an actuator drives.
        actuator_ctrl: (A,) where its command lies among the model's.
        gain, bias, gear: (A,), (A, 3), (A,): force = gear * cut(gain * ctrl + bias · (1, gear * qpos, gear * qvel)).
        ctrl_range, force_range: (A, 2), infinite where there is none.
        coupling: (T, J), and `coupling_stiffness` (T,): springs, each on a weighted sum of joint positions, which it pulls towards 0.
        compensated: document of the same tree with only those masses whose weight is compensated.
    """

    names: tuple[str, ...]
    damping: Array
    stiffness: Array
    spring: Array
    frictionloss: Array
    actuator_joint: Array
    actuator_ctrl: Array
    gain: Array
    bias: Array
    gear: Array
    ctrl_range: Array
    force_range: Array
    coupling: Array
    coupling_stiffness: Array
    compensated: str


@dataclass(frozen=True)
class Tree:
    """One document: the world's own shapes, a robot, a free body or a mocap body.

    Attributes:
        name: of the root body.
        document: URDF.
        fixed: it does not float; `pose` is where it is fixed, or where it begins.
        pose: (7,) of the root's frame in the world: position, quaternion wxyz.
        free_joint: name of the joint by which it floats, or "".
        joints: its movable joints, if it has any.
    """

    name: str
    document: str
    fixed: bool
    pose: Array
    free_joint: str
    joints: Joints | None


@dataclass(frozen=True)
class Sensor:
    """One sensor: "qpos" or "qvel" of a joint, or "pos", "quat", "linvel" or "angvel" of a frame at a fixed pose in a link."""

    quantity: str
    tree: int
    target: str
    pose: Array

    @property
    def of_joint(self) -> bool:
        """It measures a joint, not a frame."""
        return self.quantity in ("qpos", "qvel")


@dataclass(frozen=True)
class Camera:
    """Position, rotation matrix (the camera looks along its -z, y is up) and vertical field of view in degrees."""

    pos: Array
    rotation: Array
    fovy: float


@dataclass(frozen=True)
class Scene:
    """All of one simulation. `touching` are the pairs of links that collide; `friction` is that of single links, to be multiplied;
    `spinning` in m times the partner's friction limits the torque about the contact's normal, as a part of the normal force.
    """

    timestep: float
    gravity: tuple[float, float, float]
    trees: tuple[Tree, ...]
    touching: tuple[tuple[Link, Link], ...]
    friction: dict[Link, float]
    spinning: dict[Link, float]
    sensors: tuple[Sensor, ...]
    camera: Camera | None
    num_ctrl: int
    thrusters: tuple[Thrusters, ...]


def read_scene(model: mujoco.MjModel, robot: RobotSpec | None) -> Scene:
    """The scene of a compiled model.

    Raises:
        ValueError: the model has something that Bullet cannot do as MuJoCo does; the message names it.
    """
    _refuse(model)
    compensated = copy.copy(model)
    compensated.body_mass[:] *= model.body_gravcomp
    compensated.body_inertia[:] *= model.body_gravcomp[:, None]
    limits = robot.velocity_limits if robot else {}
    tops = roots(model)
    trees = tuple(_read_tree(model, compensated, root, limits) for root in tops)
    touching = _touching(model, tops)
    friction = split_friction(touching)
    camera = Camera(model.cam_pos[0].copy(), rotation(model.cam_quat[0]), float(model.cam_fovy[0])) if model.ncam else None
    return Scene(
        timestep=float(model.opt.timestep),
        gravity=(float(model.opt.gravity[0]), float(model.opt.gravity[1]), float(model.opt.gravity[2])),
        trees=trees,
        touching=tuple(touching),
        friction=friction,
        spinning=_spinning(model, tops, friction),
        sensors=tuple(_read_sensor(model, i, tops) for i in range(model.nsensor)),
        camera=camera,
        num_ctrl=model.nu,
        thrusters=read_thrusters(model),
    )


def split_friction(touching: dict[tuple[Link, Link], float]) -> dict[Link, float]:
    """Frictions of single links whose products are the frictions of the pairs that touch.

    MuJoCo takes the larger friction of a pair, or that of the shape with the higher priority; Bullet multiplies. Logarithms make it
    a linear system.

    Raises:
        ValueError: there are no such numbers.
    """
    links = sorted({link for pair in touching for link in pair})
    if not links:
        return {}
    chosen = np.zeros((len(touching), len(links)))
    for row, pair in enumerate(touching):
        for link in pair:
            chosen[row, links.index(link)] += 1.0
    wanted = np.log(np.maximum(list(touching.values()), 1e-9))
    single = np.linalg.lstsq(chosen, wanted, rcond=None)[0]
    worst = int(np.argmax(np.abs(chosen @ single - wanted)))
    if abs(chosen[worst] @ single - wanted[worst]) > 1e-6:
        (_, one), (_, other) = list(touching)[worst]
        value = np.exp(wanted[worst])
        raise ValueError(f"friction {value:g} between {one!r} and {other!r} cannot be had in PyBullet, which multiplies frictions of single bodies")
    return dict(zip(links, np.exp(single).tolist(), strict=True))


def _refuse(model: mujoco.MjModel) -> None:
    """What would be silently different is an error."""
    joint = model.dof_jntid
    curved_springs = model.jnt_stiffnesspoly.any(1)[joint]
    for field, dofs in (("armature", model.dof_armature), ("dampingpoly", model.dof_dampingpoly.any(1)), ("stiffnesspoly", curved_springs)):
        for dof in np.flatnonzero(dofs):
            raise ValueError(f"joint {model.joint(int(joint[dof])).name!r} has {field}: it has no twin in PyBullet")
    for kind, count in (("equality constraints", model.neq), ("flexes", model.nflex), ("explicit contact pairs", model.npair)):
        if count:
            raise ValueError(f"the model has {count} {kind}: they have no twin in PyBullet")
    for actuator in np.flatnonzero(~np.isin(model.actuator_trntype, (*_ON_JOINTS, mujoco.mjtTrn.mjTRN_SITE.value))):
        raise ValueError(f"actuator {model.actuator(int(actuator)).name!r} drives neither a joint nor a site: it has no twin in PyBullet")
    for t in range(model.ntendon):
        if not _is_coupling(model, t):
            raise ValueError(f"tendon {model.tendon(t).name!r} is more than a spring between joints that rests at 0: it has no twin in PyBullet")
    if model.opt.density or model.opt.viscosity:
        raise ValueError("the model has a fluid (density, viscosity): it has no twin in PyBullet")


def _is_coupling(model: mujoco.MjModel, tendon: int) -> bool:
    """It is a linear spring on a weighted sum of joint positions, resting where the sum is 0, and nothing else."""
    wraps = model.wrap_type[model.tendon_adr[tendon] : model.tendon_adr[tendon] + model.tendon_num[tendon]]
    one_tree = int(model.tendon_treenum[tendon]) == 1
    more = (
        model.tendon_damping,
        model.tendon_frictionloss,
        model.tendon_limited,
        model.tendon_armature,
        model.tendon_lengthspring.any(1),
        model.tendon_stiffnesspoly.any(1),
    )
    return one_tree and bool((wraps == mujoco.mjtWrap.mjWRAP_JOINT).all()) and not any(field[tendon] for field in more)


def _coupling(model: mujoco.MjModel, joints: list[int]) -> Array:
    """(T, J) weights of a tree's joints in the tendons that couple them."""
    weights = np.zeros((model.ntendon, model.njnt))
    for t in range(model.ntendon):
        wraps = slice(model.tendon_adr[t], model.tendon_adr[t] + model.tendon_num[t])
        weights[t, model.wrap_objid[wraps]] = model.wrap_prm[wraps]
    return weights[:, joints]


def _read_tree(model: mujoco.MjModel, compensated: mujoco.MjModel, root: int, limits: dict[str, float]) -> Tree:
    name = model.body(root).name
    bodies = [b for b in range(1, model.nbody) if model.body_rootid[b] == root and root]
    joints = [j for b in bodies for j in joints_of(model, b)]
    free = is_free(model, root)
    if free and len(joints) > 1:
        raise ValueError(f"body {name!r} floats and has joints: PyBullet is not supported for such a body")
    if free and (model.body_gravcomp[root] or model.dof_damping[model.jnt_dofadr[joints[0]] :][:6].any()):
        raise ValueError(f"free body {name!r} has gravity compensation or joint damping: they have no twin in PyBullet")
    moves_at_root = bool(joints) and not free and model.jnt_bodyid[joints[0]] == root
    own_pose = np.concatenate([model.body_pos[root], model.body_quat[root]])
    return Tree(
        name=name,
        document=tree_urdf(model, root, limits),
        fixed=not free,
        pose=np.array([0, 0, 0, 1.0, 0, 0, 0]) if moves_at_root else own_pose,
        free_joint=model.joint(joints[0]).name if free else "",
        joints=None if free or not joints else _read_joints(model, joints, tree_urdf(compensated, root, limits)),
    )


def _read_joints(model: mujoco.MjModel, joints: list[int], compensated: str) -> Joints:
    dofs = model.jnt_dofadr[joints]
    mine = [a for a in range(model.nu) if model.actuator_trntype[a] in _ON_JOINTS and model.actuator_trnid[a, 0] in joints]
    for a in mine:
        if not _is_linear_motor(model, a):
            raise ValueError(f"actuator {model.actuator(a).name!r} is not a linear motor on a joint: it has no twin in PyBullet")
    affine = (model.actuator_biastype[mine] == mujoco.mjtBias.mjBIAS_AFFINE)[:, None]
    endless = np.array([-np.inf, np.inf])
    return Joints(
        names=tuple(model.joint(j).name for j in joints),
        damping=model.dof_damping[dofs],
        stiffness=model.jnt_stiffness[joints],
        spring=model.qpos_spring[model.jnt_qposadr[joints]],
        frictionloss=model.dof_frictionloss[dofs],
        actuator_joint=np.array([joints.index(model.actuator_trnid[a, 0]) for a in mine], dtype=int),
        actuator_ctrl=model.actuator_ctrladr[mine],
        gain=model.actuator_gainprm[mine, 0],
        bias=np.where(affine, model.actuator_biasprm[mine, :3], 0.0),
        gear=model.actuator_gear[mine, 0],
        ctrl_range=np.where(model.actuator_ctrllimited[mine, None] != 0, model.actuator_ctrlrange[mine], endless),
        force_range=np.where(model.actuator_forcelimited[mine, None] != 0, model.actuator_forcerange[mine], endless),
        coupling=_coupling(model, joints),
        coupling_stiffness=model.tendon_stiffness.copy(),
        compensated=compensated,
    )


def _is_linear_motor(model: mujoco.MjModel, actuator: int) -> bool:
    """Its force is a linear function of command, position and velocity of one joint."""
    kinds = (
        model.actuator_trntype[actuator] == mujoco.mjtTrn.mjTRN_JOINT,
        model.actuator_dyntype[actuator] == mujoco.mjtDyn.mjDYN_NONE,
        model.actuator_gaintype[actuator] == mujoco.mjtGain.mjGAIN_FIXED,
        model.actuator_biastype[actuator] <= mujoco.mjtBias.mjBIAS_AFFINE.value,
        model.actuator_ctrlnum[actuator] == 1,
    )
    more = (model.actuator_damping, model.actuator_armature, model.actuator_delay)
    return all(kinds) and not any(field[actuator] for field in more)


def link_of(model: mujoco.MjModel, body: int, tops: list[int]) -> Link:
    """The link that a body is, by the numbers of the bodies that hang in the world."""
    return (tops.index(int(model.body_rootid[body])), model.body(body).name)


def _touching(model: mujoco.MjModel, tops: list[int]) -> dict[tuple[Link, Link], float]:
    """Pairs of links that collide, and their friction by MuJoCo's rule.

    Raises:
        ValueError: shapes of the same two links differ in whether or how they touch; Bullet decides for whole links.
    """
    found: dict[tuple[int, int], set[float | None]] = {}
    solid = [g for g in range(model.ngeom) if model.geom_contype[g] or model.geom_conaffinity[g]]
    for one, other in combinations(solid, 2):
        bodies = (int(model.geom_bodyid[one]), int(model.geom_bodyid[other]))
        if _may_touch(model, *bodies):
            found.setdefault(bodies, set()).add(_pair_friction(model, one, other))
    result = {}
    for (one, other), frictions in found.items():
        if len(frictions) > 1:
            raise ValueError(f"shapes of {model.body(one).name!r} and {model.body(other).name!r} touch in different ways: PyBullet decides for whole bodies")
        (friction,) = frictions
        if friction is not None:
            result[link_of(model, one, tops), link_of(model, other, tops)] = friction
    return result


def _may_touch(model: mujoco.MjModel, one: int, other: int) -> bool:
    """MuJoCo's rule for bodies: not welded together, not parent and child (except the world), not excluded."""
    weld, parent = model.body_weldid, model.body_parentid
    welded = weld[one] == weld[other]
    related = any(weld[a] and weld[parent[weld[b]]] == weld[a] for a, b in ((one, other), (other, one)))
    low, high = sorted((one, other))
    return not (welded or related or (low << 16) + high in model.exclude_signature)


def _pair_friction(model: mujoco.MjModel, one: int, other: int) -> float | None:
    """Sliding friction of two shapes, or None where their masks let them pass."""
    masks = (model.geom_contype[one] & model.geom_conaffinity[other]) | (model.geom_contype[other] & model.geom_conaffinity[one])
    if not masks:
        return None
    priority = model.geom_priority[[one, other]]
    ruling = [one, other] if priority[0] == priority[1] else [(one, other)[int(priority.argmax())]]
    condim = int(model.geom_condim[ruling].max())
    if condim > 4 or (condim == 4 and len(ruling) > 1):
        what = "rolling friction has" if condim > 4 else "torsional friction of a shape that does not rule its contacts by priority has"
        raise ValueError(f"geom {model.geom(ruling[0]).name!r} has condim {condim}: {what} no twin in PyBullet")
    return 0.0 if condim == 1 else float(model.geom_friction[ruling, 0].max())


def _spinning(model: mujoco.MjModel, tops: list[int], friction: dict[Link, float]) -> dict[Link, float]:
    """Torsional friction of links. Bullet adds each partner's, times the friction of the other."""
    found = {}
    for geom in np.flatnonzero(model.geom_condim == 4):
        link = link_of(model, int(model.geom_bodyid[geom]), tops)
        if link in friction:
            sliding, torsional, _ = model.geom_friction[geom]
            found[link] = float(torsional / sliding * friction[link])
    return found


def _read_sensor(model: mujoco.MjModel, sensor: int, tops: list[int]) -> Sensor:
    kind = mujoco.mjtSensor(model.sensor_type[sensor]).name.removeprefix("mjSENS_")
    target = int(model.sensor_objid[sensor])
    if kind in _JOINT_SENSORS:
        body = int(model.jnt_bodyid[target])
        return Sensor(_JOINT_SENSORS[kind], link_of(model, body, tops)[0], model.joint(target).name, np.zeros(7))
    if kind not in _FRAME_SENSORS or model.sensor_refid[sensor] >= 0:
        known = ", ".join(k.lower() for k in (*_JOINT_SENSORS, *_FRAME_SENSORS))
        what = f"sensor {model.sensor(sensor).name!r} is a {kind.lower()}"
        raise ValueError(f"{what} (or relative to a frame): PyBullet measures {known}, in the world's frame")
    body, pos, quat = _place(model, mujoco.mjtObj(model.sensor_objtype[sensor]), target)
    return Sensor(_FRAME_SENSORS[kind], *link_of(model, body, tops), np.concatenate([pos, quat]))


def _place(model: mujoco.MjModel, kind: mujoco.mjtObj, number: int) -> tuple[int, Array, Array]:
    """The body that a thing is fixed to, and its pose in it."""
    if kind == mujoco.mjtObj.mjOBJ_BODY:  # in MuJoCo's sensors that is the inertial frame
        return number, model.body_ipos[number], model.body_iquat[number]
    if kind == mujoco.mjtObj.mjOBJ_SITE:
        return int(model.site_bodyid[number]), model.site_pos[number], model.site_quat[number]
    if kind == mujoco.mjtObj.mjOBJ_GEOM:
        return int(model.geom_bodyid[number]), model.geom_pos[number], model.geom_quat[number]
    return number, np.zeros(3), np.array([1.0, 0, 0, 0])
