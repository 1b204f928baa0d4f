"""Loose objects of many shapes: batched fields against models compiled one by one, hand-computed moments, and refused meshes."""

import mujoco
import mujoco.batch
import numpy as np
import pytest

from metarl.tasks import shapes

NAMES = (*shapes.PRIMITIVES, *shapes.hull_names(range(shapes.NUM_HULLS)))


def scene(names):
    spec = mujoco.MjSpec()
    spec.worldbody.add_geom(name="floor", type=mujoco.mjtGeom.mjGEOM_PLANE, size=[1, 1, 0.1])
    shapes.add_object(spec, "object", names, [0, 0, 0.1])
    return spec


@pytest.fixture(scope="module")
def batch():
    """One simulation of each shape, half as wide as 25 mm, of 0.3 kg."""
    made = mujoco.batch.Batch(scene(NAMES).compile(), len(NAMES), 1)
    count = len(NAMES)
    shapes.apply_object(made, "object", NAMES, np.arange(count), np.full(count, 0.025), np.full(count, 0.3), np.zeros(count))
    made.set_const()
    return made


def compiled(name):
    """The same object compiled by itself, its mass properties inferred by MuJoCo."""
    spec = mujoco.MjSpec()
    kind = mujoco.mjtGeom
    turned = [2**-0.5, 0, 2**-0.5, 0]
    body = spec.worldbody.add_body(name="object", pos=[0, 0, 0.1])
    body.add_freejoint()
    if name.startswith("hull_"):
        shapes.add_mesh(spec, name, shapes.hull(int(name[5:])).vertices)
        body.add_geom(type=kind.mjGEOM_MESH, meshname=name, mass=0.3)
    else:
        size, quat, which = {
            "box": ([0.05, 0.025, 0.025], [1, 0, 0, 0], kind.mjGEOM_BOX),
            "ellipsoid": ([0.05, 0.025, 0.025], [1, 0, 0, 0], kind.mjGEOM_ELLIPSOID),
            "sphere": ([0.025, 0, 0], [1, 0, 0, 0], kind.mjGEOM_SPHERE),
            "cylinder": ([0.025, 0.05, 0], turned, kind.mjGEOM_CYLINDER),
            "capsule": ([0.025, 0.025, 0], turned, kind.mjGEOM_CAPSULE),
        }[name]
        body.add_geom(type=which, size=size, quat=quat, mass=0.3)
    return spec.compile()


def inertia_about_com(model, body):
    frame = np.zeros(9)
    mujoco.mju_quat2Mat(frame, model.body_iquat[body])
    frame = frame.reshape(3, 3)
    return frame @ np.diag(model.body_inertia[body]) @ frame.T


@pytest.mark.parametrize("name", NAMES)
def test_batched_shapes_equal_compiled_ones(batch, name):
    mine, alone = batch.get_model(NAMES.index(name)), compiled(name)
    body, geom = mine.body("object").id, mine.geom("object").id
    assert mine.geom_type[geom] == alone.geom_type[0]
    np.testing.assert_allclose(mine.body_mass[body], alone.body_mass[1])
    np.testing.assert_allclose(mine.body_ipos[body], alone.body_ipos[1], atol=1e-9)
    np.testing.assert_allclose(inertia_about_com(mine, body), inertia_about_com(alone, 1), rtol=1e-6, atol=1e-9)
    np.testing.assert_allclose(mine.geom_pos[geom], alone.geom_pos[0], atol=1e-9)
    np.testing.assert_allclose(np.abs(mine.geom_quat[geom] @ alone.geom_quat[0]), 1.0)
    np.testing.assert_allclose(mine.geom_aabb[geom], alone.geom_aabb[0], atol=1e-6)
    farthest = np.linalg.norm(alone.mesh_vert, axis=1).max() if alone.nmesh else alone.geom_rbound[0]
    assert farthest - 1e-6 <= mine.geom_rbound[geom] <= 2.5 * farthest, "a sphere about the shape that misses none of it"


@pytest.mark.parametrize("name", [*shapes.PRIMITIVES, "hull_3"])
def test_a_batched_shape_falls_like_a_compiled_one(batch, name):
    """Bit for bit, until long after it has met the floor."""
    index = NAMES.index(name)
    alone = scene(NAMES).compile()
    single = mujoco.batch.Batch(alone, 1, 1)
    shapes.apply_object(single, "object", NAMES, np.array([index]), np.array([0.025]), np.array([0.3]), np.zeros(1))
    single.set_const()
    model, states = single.get_model(0), []
    data = mujoco.MjData(model)
    for _ in range(150):
        mujoco.mj_step(model, data)
    batch.reset()
    batch.step(None, 150)
    states = batch.bind("qpos")[index]
    np.testing.assert_array_equal(states, data.qpos)
    lowest = shapes.half_sizes(NAMES, np.array([index]), np.array([0.025]))[0, 2]
    assert 0.0 < data.qpos[2] - lowest + 2e-3 < 4e-3, "it lies on the floor, on its side"


def test_moments_of_inertia_by_hand():
    half = np.array([[0.05, 0.02, 0.02]])
    box, _ = shapes._unit_inertia("box", half)
    np.testing.assert_allclose(box[0], [(0.02**2 + 0.02**2) / 3, (0.05**2 + 0.02**2) / 3, (0.05**2 + 0.02**2) / 3])
    ball, _ = shapes._unit_inertia("sphere", np.full((1, 3), 0.02))
    np.testing.assert_allclose(ball[0], 0.4 * 0.02**2)


def test_the_catalogue_is_the_same_for_ever():
    first = shapes.hull(0)
    np.testing.assert_allclose(first.vertices.min(0), -first.half)
    np.testing.assert_allclose(first.vertices.max(0), first.half)
    assert np.isclose(first.vertices[:, 2], -first.half[2]).sum() >= 3, "it stands on a flat side"
    assert len({tuple(shapes.hull(i).half) for i in range(shapes.NUM_HULLS)}) == shapes.NUM_HULLS


def test_centre_of_mass_is_shifted_but_for_shapes_that_would_roll():
    half = np.array([[0.05, 0.025, 0.025], [0.025, 0.025, 0.025]])
    com = shapes.centre_of_mass(("box", "sphere"), np.array([0, 1]), half, np.array([0.2, 0.2]))
    np.testing.assert_allclose(com, [[0.01, 0, 0], [0, 0, 0]])


@pytest.mark.parametrize(
    ("vertices", "message"),
    [
        (np.zeros((5, 2)), r"mesh 'bad' has vertices of shape \(5, 2\), expected \(4 or more, 3\)"),
        (np.zeros((3, 3)), r"mesh 'bad' has vertices of shape \(3, 3\)"),
        (np.array([[0, 0, 0], [1, 0, 0], [0, 1, 0], [0, 0, np.nan]]), "mesh 'bad': vertex 3 is not finite"),
        (np.array([[0, 0, 0], [1, 0, 0], [0, 1, 0], [1, 1, 0.0]]), "mesh 'bad' is flat"),
    ],
)
def test_broken_meshes_are_refused_by_name(vertices, message):
    with pytest.raises(ValueError, match=message):
        shapes.add_mesh(mujoco.MjSpec(), "bad", vertices)


@pytest.mark.parametrize("index", [-1, shapes.NUM_HULLS])
def test_hulls_beyond_the_catalogue_are_refused(index):
    with pytest.raises(ValueError, match=rf"hull {index} does not exist: the catalogue has 0 to {shapes.NUM_HULLS - 1}"):
        shapes.hull(index)
