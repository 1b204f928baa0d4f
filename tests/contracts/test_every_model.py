"""Models that are trained on are small: few degrees of freedom, no picture or mesh where a primitive serves."""

import mujoco
import pytest

from metarl import tasks
from metarl.tasks.simulators.mujoco import compile_scene

SIMULATED = [name for name in tasks.names() if "mujoco" in tasks.make(name).simulators]


@pytest.mark.parametrize("name", SIMULATED)
def test_models_are_small(name):
    task = tasks.make(name)
    model = compile_scene(task)
    assert 0 < model.nv < 60
    if task.robot_name:  # what others published keeps its floor
        assert model.ntexdata < 2000, "nothing but a sky"
    touching = (model.geom_contype | model.geom_conaffinity) != 0
    assert not (touching & (model.geom_type == mujoco.mjtGeom.mjGEOM_MESH)).any(), "meshes are for pictures, and for hulls that a task chooses"
    drawn = set(model.geom_dataid[model.geom_type == mujoco.mjtGeom.mjGEOM_MESH].tolist())
    spare = [model.mesh(i).name for i in range(model.nmesh) if i not in drawn]
    assert all(mesh.startswith("hull_") for mesh in spare), spare
