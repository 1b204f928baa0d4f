"""The URDF documents against the MuJoCo models that they were made of, in shape, kinematics and dynamics."""

import math
import tempfile
from pathlib import Path
from xml.etree import ElementTree as xml

import mujoco
import mujoco.batch
import numpy as np
import pybullet as bullet
import pytest

from metarl import robots, tasks
from metarl.robots.spec import ArmSpec
from metarl.tasks.simulators.mujoco import compile_scene
from metarl.tasks.simulators.urdf import free_body_urdf, robot_urdf, roots, rotation, tree_urdf

SCENES = [name for name in tasks.names() if "pybullet" in tasks.make(name).simulators]
JOINTED = [name for name in SCENES if tasks.make(name).robot.joint_names]
ARMS = [name for name in SCENES if isinstance(tasks.make(name).robot, ArmSpec)]
ARM = robots.load("arm7")


@pytest.fixture
def client():
    number = bullet.connect(bullet.DIRECT)
    yield number
    bullet.disconnect(number)


def load(client, document, fixed=True):
    with tempfile.NamedTemporaryFile("w", suffix=".urdf") as file:
        file.write(document)
        file.flush()
        return bullet.loadURDF(file.name, useFixedBase=fixed, flags=bullet.URDF_USE_INERTIA_FROM_FILE, physicsClientId=client)


def joint_infos(client, body):
    return [bullet.getJointInfo(body, j, physicsClientId=client) for j in range(bullet.getNumJoints(body, physicsClientId=client))]


def model_of(name, sim=0, split="train"):
    """The model of one drawn task."""
    task = tasks.make(name)
    batch = mujoco.batch.Batch(compile_scene(task), 4, 1)
    task.apply(batch, task.sample(4, split).named())
    batch.set_const()
    return batch.get_model(sim)


def assert_same_mechanics(client, model, root, document, count=5):
    """Link frames, mass matrix and bias forces in random states are those of MuJoCo."""
    body = load(client, document)
    bullet.setGravity(*model.opt.gravity, physicsClientId=client)
    infos = joint_infos(client, body)
    movable = [i for i in infos if i[2] != bullet.JOINT_FIXED]
    joints = [model.joint(i[1].decode()) for i in movable]
    dofs, addresses = [j.dofadr[0] for j in joints], [j.qposadr[0] for j in joints]
    model.body_gravcomp[:] = 0  # URDF does not know it
    data, rng = mujoco.MjData(model), np.random.default_rng(0)
    for _ in range(count):
        qpos, qvel = rng.uniform(-1.5, 1.5, len(joints)), rng.normal(size=len(joints))
        data.qpos[addresses], data.qvel[dofs] = qpos, qvel
        mujoco.mj_forward(model, data)
        for info, value in zip(movable, qpos, strict=True):
            bullet.resetJointState(body, info[0], value, 0.0, physicsClientId=client)
        for info in infos:
            name = info[12].decode()
            if "/" not in name:
                state = bullet.getLinkState(body, info[0], computeForwardKinematics=1, physicsClientId=client)
                np.testing.assert_allclose(state[4], data.body(name).xpos, atol=1e-6)
                mine, theirs = np.array([state[5][3], *state[5][:3]]), data.body(name).xquat
                np.testing.assert_allclose(mine * np.sign(mine @ theirs), theirs, atol=1e-6)  # float32 in Bullet
        full = np.zeros((model.nv, model.nv))
        mujoco.mj_fullM(model, data, full)
        mass = np.array(bullet.calculateMassMatrix(body, qpos.tolist(), physicsClientId=client))
        bias = np.array(bullet.calculateInverseDynamics(body, qpos.tolist(), qvel.tolist(), [0.0] * len(joints), physicsClientId=client))
        np.testing.assert_allclose(mass, full[np.ix_(dofs, dofs)], rtol=1e-6, atol=1e-6 * abs(mass).max())
        np.testing.assert_allclose(bias, data.qfrc_bias[dofs], rtol=1e-6, atol=1e-6 * abs(bias).max())


@pytest.mark.parametrize("name", JOINTED)
def test_robot_of_every_task_has_the_models_mass_matrix_bias_and_frames(client, name):
    model = model_of(name)
    root = model.body_rootid[model.joint(tasks.make(name).robot.joint_names[0]).bodyid[0]]
    assert_same_mechanics(client, model, root, robot_urdf(model, tasks.make(name).robot))


@pytest.mark.parametrize("name", ARMS)
def test_joints_and_links_are_named_as_in_the_model_with_their_limits(client, name):
    robot = tasks.make(name).robot
    document = xml.fromstring(robot_urdf(compile_scene(tasks.make(name)), robot))
    joints = {j.get("name"): j for j in document.iter("joint") if j.get("type") != "fixed"}
    assert tuple(joints) == robot.joint_names + robot.gripper_joint_names
    for joint, limits, velocity, effort in zip(robot.joint_names, robot.qpos_limits, robot.qvel_limits, robot.effort_limits, strict=True):
        limit = joints[joint].find("limit")
        assert (float(limit.get("lower")), float(limit.get("upper"))) == limits
        assert (float(limit.get("velocity")), float(limit.get("effort"))) == (velocity, effort)
        assert joints[joint].get("type") == "revolute"
        assert float(joints[joint].find("dynamics").get("damping")) == 1.0
    assert document.get("name") == robot.name
    assert document[0].get("name") == {"arm7": "panda_link0", "jaco": "b_base", "ur5e": "base_link_inertia"}[robot.name]


def test_a_robot_that_only_floats_is_one_link():
    task = tasks.make("quadrotor_track")
    document = xml.fromstring(robot_urdf(compile_scene(task), task.robot))
    assert document.get("name") == "quadrotor"
    (link,) = document.iter("link")
    assert float(link.find("inertial/mass").get("value")) == 0.8
    assert document.find("joint") is None


def test_a_robots_document_uses_standard_shapes_only():
    shapes = {shape.tag for geometry in xml.fromstring(robot_urdf(compile_scene(tasks.make("arm_slide")), ARM)).iter("geometry") for shape in geometry}
    assert shapes == {"box", "cylinder", "sphere"}


def test_only_shapes_that_touch_collide_and_all_are_drawn():
    model = compile_scene(tasks.make("arm_slide"))
    document = xml.fromstring(robot_urdf(model, ARM))
    colliding = {link.get("name") for link in document.iter("link") if link.find("collision") is not None}
    assert colliding == {"peg"}
    drawn = sum(len(link.findall("visual")) for link in document.iter("link"))
    capsules, boxes = 9, 3  # base, seven links and the peg; hand and two fingers. A capsule is three shapes
    assert drawn == 3 * capsules + boxes
    target = xml.fromstring(free_body_urdf(model, "target"))
    assert target.find("link/collision") is None
    assert target.find("link/visual") is not None


def test_a_free_body_is_a_document_of_one_link_with_its_inertia():
    model = model_of("arm_slide", sim=1)
    thing, geom = model.body("object").id, model.geom("object").id
    document = xml.fromstring(free_body_urdf(model, "object"))
    assert [child.tag for child in document] == ["link"]
    inertial = document.find("link/inertial")
    assert float(inertial.find("mass").get("value")) == model.body_mass[thing]
    assert [float(inertial.find("inertia").get(axis)) for axis in ("ixx", "iyy", "izz")] == model.body_inertia[thing].tolist()
    assert [float(x) for x in inertial.find("origin").get("xyz").split()] == model.body_ipos[thing].tolist()
    shape = document.find("link/collision/geometry")[0]
    size = model.geom_size[geom]
    assert shape.tag == "box"  # task 1 of the training split
    assert [float(x) for x in shape.get("size").split()] == (2 * size).tolist()


def test_shapes_by_hand(client):
    spec = mujoco.MjSpec()
    body = spec.worldbody.add_body(name="all")
    body.add_freejoint()
    geom = mujoco.mjtGeom
    body.add_geom(name="ball", type=geom.mjGEOM_SPHERE, size=[0.1, 0, 0])
    body.add_geom(name="round", type=geom.mjGEOM_ELLIPSOID, size=[0.2, 0.2, 0.2])
    body.add_geom(name="can", type=geom.mjGEOM_CYLINDER, size=[0.1, 0.3, 0], pos=[1, 2, 3])
    body.add_geom(name="pill", type=geom.mjGEOM_CAPSULE, size=[0.1, 0.3, 0], quat=[math.sqrt(0.5), 0, math.sqrt(0.5), 0])  # along x
    found = []
    for collision in xml.fromstring(free_body_urdf(spec.compile(), "all")).iter("collision"):
        pos = [float(x) for x in collision.find("origin").get("xyz").split()]
        shape = collision.find("geometry")[0]
        found.append((collision.get("name"), shape.tag, {k: float(v) for k, v in shape.attrib.items()}, pytest.approx(pos, abs=1e-12)))
    assert found == [
        ("ball", "sphere", {"radius": 0.1}, [0, 0, 0]),
        ("round", "sphere", {"radius": 0.2}, [0, 0, 0]),
        ("can", "cylinder", {"radius": 0.1, "length": 0.6}, [1, 2, 3]),
        ("pill", "cylinder", {"radius": 0.1, "length": 0.6}, [0, 0, 0]),
        ("pill/1", "sphere", {"radius": 0.1}, [-0.3, 0, 0]),
        ("pill/2", "sphere", {"radius": 0.1}, [0.3, 0, 0]),
    ]


def mechanism():
    """A moving root with three joints in one body, joints away from their bodies' origins, turned inertias and a poke at the poles."""
    spec = mujoco.MjSpec()
    spec.compiler.degree = False
    hinge, slide = mujoco.mjtJoint.mjJNT_HINGE, mujoco.mjtJoint.mjJNT_SLIDE
    root = spec.worldbody.add_body(name="root", pos=[0.3, -0.2, 0.5], quat=[0.9, 0.1, -0.4, 0.15])
    root.add_joint(name="x", type=slide, axis=[1, 0, 0])
    root.add_joint(name="z", type=slide, axis=[0, 0, 1])
    root.add_joint(name="pitch", type=hinge, axis=[0, 1, 0], pos=[0.1, 0.2, 0.3], limited=True, range=[-2, 2])
    root.add_geom(type=mujoco.mjtGeom.mjGEOM_BOX, size=[0.1, 0.2, 0.3], pos=[0.02, 0.03, -0.01], quat=[0.8, 0.2, 0.5, -0.1])
    leg = root.add_body(name="leg", pos=[0, 0.4, -0.3], quat=[math.sqrt(0.5), 0, math.sqrt(0.5), 0])  # pitch of 90 degrees
    leg.add_joint(name="knee", type=hinge, axis=[1, 0, 1], pos=[0, 0, 0.15])
    leg.add_joint(name="twist", type=hinge, axis=[0, 0, 1], pos=[0.05, 0, 0])
    leg.add_geom(type=mujoco.mjtGeom.mjGEOM_CAPSULE, fromto=[0, 0, 0.15, 0.1, 0, -0.2], size=[0.04, 0, 0])
    foot = leg.add_body(name="foot", pos=[0.1, 0, -0.2], quat=[0.3, -0.5, 0.7, 0.2])
    foot.add_geom(type=mujoco.mjtGeom.mjGEOM_SPHERE, size=[0.06, 0, 0], pos=[0.05, 0, 0])
    return spec


def test_chains_of_joints_with_anchors_anywhere_equal_mujoco(client):
    model = mechanism().compile()
    document = tree_urdf(model, 1)
    kinds = " ".join(joint.get("type") for joint in xml.fromstring(document).iter("joint"))
    assert kinds == "prismatic prismatic revolute fixed continuous continuous fixed fixed"
    assert_same_mechanics(client, model, 1, document, count=10)


def test_roots_are_the_world_and_what_hangs_in_it():
    model = compile_scene(tasks.make("arm_slide"))
    assert [model.body(root).name for root in roots(model)] == ["world", "panda_link0", "object", "target"]


def add_hills(spec):
    spec.add_hfield(name="hills", size=[1.0, 1.0, 0.1, 0.1], nrow=2, ncol=2, userdata=[0.0, 1.0, 0.0, 1.0])
    spec.worldbody.add_geom(name="hills", type=mujoco.mjtGeom.mjGEOM_HFIELD, hfieldname="hills")


def broken(change):
    spec = mechanism()
    change(spec)
    return spec.compile()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: s.body("foot").add_joint(name="hip", type=mujoco.mjtJoint.mjJNT_BALL), "joint 'hip' is neither a hinge nor a slide"),
        (lambda s: setattr(s.joint("knee"), "ref", 0.5), "joint 'knee' has a reference position other than 0"),
    ],
)
def test_what_urdf_cannot_say_is_refused_by_name(change, message):
    with pytest.raises(ValueError, match=message):
        tree_urdf(broken(change), 1)


def test_a_shape_that_urdf_cannot_say_is_refused_by_name():
    with pytest.raises(ValueError, match="geom 'hills' is a hfield of size"):
        tree_urdf(broken(add_hills), 0)


def vertices_of(document):
    (mesh,) = xml.fromstring(document).iter("mesh")
    lines = Path(mesh.get("filename")).read_text().splitlines()
    return np.array([[float(x) for x in line.split()[1:]] for line in lines if line.startswith("v ")]), mesh.get("filename")


def test_an_ellipsoid_becomes_a_mesh_on_its_surface():
    spec = mujoco.MjSpec()
    spec.worldbody.add_geom(type=mujoco.mjtGeom.mjGEOM_ELLIPSOID, size=[0.1, 0.2, 0.3], contype=0, conaffinity=0)
    vertices, _ = vertices_of(tree_urdf(spec.compile(), 0))
    np.testing.assert_allclose(((vertices / [0.1, 0.2, 0.3]) ** 2).sum(1), 1.0)
    np.testing.assert_allclose(np.abs(vertices).max(0), [0.1, 0.2, 0.3], rtol=0.01)


def test_a_mesh_keeps_its_vertices_and_is_written_once():
    spec = mujoco.MjSpec()
    corners = np.array([[0, 0, 0], [0.3, 0, 0], [0, 0.2, 0], [0, 0, 0.1]])
    spec.add_mesh(name="wedge").uservert = corners.flatten()
    spec.worldbody.add_geom(type=mujoco.mjtGeom.mjGEOM_MESH, meshname="wedge", contype=0, conaffinity=0)
    model = spec.compile()
    (vertices, path), (_, again) = vertices_of(tree_urdf(model, 0)), vertices_of(tree_urdf(model, 0))
    assert path == again
    in_world = model.geom_pos[0] + vertices @ rotation(model.geom_quat[0]).T
    np.testing.assert_allclose(sorted(in_world.round(6).tolist()), sorted(corners.tolist()), atol=1e-6)
