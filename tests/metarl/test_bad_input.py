"""What a user may get wrong of a task, at the console and in Python: one line that names what was found and what is allowed."""

import mujoco
import pytest

from metarl import cli, commands, tasks
from metarl.rollout import collect
from metarl.tasks.arm_reach import ArmReach
from metarl.tasks.batched_env import BatchedEnv

BROKEN_MESH = """
import mujoco
from metarl.tasks.arm_reach import ArmReach

class Dented(ArmReach):
    name = "dented_arm"

    def build(self):
        spec = super().build()
        spec.add_mesh(name="dent").uservert = [0, 0, 0, 1, 0, 0, 0, 1, 0, 1, 1, 0]
        spec.body("target").add_geom(type=mujoco.mjtGeom.mjGEOM_MESH, meshname="dent", contype=0, conaffinity=0)
        return spec
"""


@pytest.fixture(autouse=True)
def elsewhere(monkeypatch, tmp_path):
    """A folder of its own, with a task file whose scene is broken."""
    monkeypatch.setattr(tasks, "__path__", list(tasks.__path__))
    (tmp_path / "own").mkdir()
    (tmp_path / "own" / "dented_arm.py").write_text(BROKEN_MESH)
    tasks.add_folder(tmp_path / "own")
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("view arm_slide --values mass 9", "mass = 9 kg: allowed is 0.05 to 1.2 kg"),
        ("view arm_slide --values mass heavy", "mass = 'heavy' is no number: allowed is 0.05 to 1.2 kg"),
        ("view arm_slide --values shape bull", "no shape is called 'bull': known are box, cylinder, ellipsoid"),
        ("view arm_slide --values weight 1", "no parameter is called 'weight': known are camera_x, "),
        ("view arm_slide --split ood_fra", "no split is called 'ood_fra': did you mean ood_far or ood_near? known are train, iid, ood_near, ood_far"),
        ("view half_cheetah_dir --split ood_far", "half_cheetah_dir has no split 'ood_far': no parameter has a range for it; it has train, iid"),
        ("view half_cheetah_vel --simulator pybullet", "half_cheetah_vel does not run in 'pybullet'; it runs in mujoco"),
        ("evaluate zoo:arm_slide/rl2 --simulator analytic", "arm_slide does not run in 'analytic'; it runs in mujoco, pybullet"),
        ("view half_cheetah_vel_pearl --split train --index 98", "half_cheetah_vel_pearl has no task 100 in split 'train': it is a published set"),
        (
            "evaluate zoo:sparse_point_pearl/pearl --num-tasks 21",
            "sparse_point_pearl has no task 20 in split 'iid': it is a published set of 20 tasks, 0 to 19",
        ),
        ("view arm_slide --index -1", "arm_slide has no task number -1: they begin with 0"),
        ("view arm_slide --num-tasks 0", "--num-tasks is 0, expected at least 1"),
        ("evaluate zoo:grid_navi/rl2 --episodes 0 --num-tasks 2", "--episodes is 0, expected at least 1"),
        ("train rl2 grid_navi --threads -1", "--threads is -1, expected at least 0"),
        ("evaluate zoo:half_cheetah_dir/pearl --split bogus", "no split is called 'bogus': known are train, iid\n"),
        (
            "evaluate zoo:grid_navi/rl3",
            "there is no meta-parameters file 'zoo:grid_navi/rl3'; of grid_navi there are "
            "zoo:grid_navi/amago, zoo:grid_navi/hypernetwork, zoo:grid_navi/rl2, zoo:grid_navi/varibad\n",
        ),
        ("view dented_arm", "the scene of dented_arm does not compile: Error: mesh 'dent' has coplanar vertices"),
        ("view dented_arm --simulator pybullet", "the scene of dented_arm does not compile: Error: mesh 'dent' has coplanar vertices"),
        ("evaluate zoo:grid_navi/rl2 --video grid.mp4", "zoo:grid_navi/rl2 cannot be filmed: grid_navi is computed, and no simulator draws it"),
        ("evaluate own", "'own' is a folder, expected a meta-parameters file (NAME.safetensors): it holds none"),
        ("evaluate own/dented_arm.py", "own/dented_arm.py is no meta-parameters file, which `metarl train` writes as NAME.safetensors"),
        ("describe own", "'own' is a folder, expected a meta-parameters file (NAME.safetensors): it holds none"),
        ("evaluate nowhere", "there is no meta-parameters file 'nowhere'; in the zoo there are zoo:arm_lift_place/rl2, "),
    ],
)
def test_at_the_console(line, message, capsys, monkeypatch, tmp_path):
    monkeypatch.setattr(commands, "prepare_video", lambda: None)
    with pytest.raises(SystemExit) as stopped:
        cli.main([*line.split(), *(["--out", "x.png"] if line.startswith("view") else [])])
    assert stopped.value.code == 2
    said = capsys.readouterr().err
    assert said.startswith(f"metarl: {message}")
    assert said.count("\n") == 1, "metarl's own words, in one line"
    assert len(said) < 600
    assert [p.name for p in tmp_path.iterdir()] == ["own"]


def test_in_python():
    with pytest.raises(ValueError, match=r"^payload = 9 kg: allowed is 0 to 2 kg$"):
        ArmReach().custom([{"payload": 9.0}])
    with pytest.raises(ValueError, match=r"^no split is called 'odd'"):
        ArmReach().sample(1, "odd")
    with pytest.raises(ValueError, match=r"^half_cheetah_vel does not run in 'pybullet'; it runs in mujoco$"):
        BatchedEnv(tasks.make("half_cheetah_vel"), 1, simulator="pybullet")
    with pytest.raises(ValueError, match=r"has no task 130 in split 'train': it is a published set of 100 tasks, 0 to 99"):
        tasks.make("half_cheetah_vel_pearl").sample(1, "train", start=130)
    with pytest.raises(ValueError, match=r"^the scene of dented_arm does not compile: Error: mesh 'dent' .* name 'dent', id 0$"):
        BatchedEnv(tasks.make("dented_arm"), 1)
    env = BatchedEnv(tasks.make("grid_navi"), 1)
    env.set_tasks(env.task.sample(1))
    with pytest.raises(ValueError, match=r"^episodes is 0, expected at least 1$"):
        collect(env, None, 0)


def test_a_mesh_file_that_is_not_there():
    class Fileless(ArmReach):
        name = "fileless"

        def build(self):
            spec = super().build()
            spec.add_mesh(name="dent").file = "nowhere.stl"
            spec.body("target").add_geom(type=mujoco.mjtGeom.mjGEOM_MESH, meshname="dent")
            return spec

    with pytest.raises(ValueError, match=r"^the scene of fileless does not compile: Error: .*nowhere.stl"):
        BatchedEnv(Fileless(), 1)


def test_a_parameter_that_pybullet_cannot_do():
    class Twisting(ArmReach):
        """Its object resists turning on the spot, which Bullet's contacts do not."""

        name = "twisting"

        def build(self):
            spec = super().build()
            for name in ("one", "other"):
                body = spec.worldbody.add_body(name=name)
                body.add_freejoint()
                body.add_geom(name=name, size=[0.1, 0, 0], condim=6)
            return spec

    with pytest.raises(ValueError, match=r"geom 'one' has condim 6"):
        BatchedEnv(Twisting(), 1, simulator="pybullet")
