import itertools
import os
import re
import subprocess
import sys

import imageio_ffmpeg
import mujoco
import numpy as np
import pytest
from PIL import Image

from metarl import meta_parameters, plans, tasks, view
from metarl.cli import main
from metarl.evaluate import RandomAdapter
from metarl.tasks import appliances
from metarl.tasks.batched_env import BatchedEnv
from metarl.tasks.car_track import PATCH_HALF
from metarl.tasks.kitchen_grid import LAYOUTS
from metarl.video import choose_backend


def test_a_plan_shows_each_task_beside_the_others_with_its_sentence(tmp_path):
    task = tasks.make("point_navigation")
    view.show(task, task.custom([{"goal_x": x} for x in (-0.5, 0.5)]), tmp_path / "nav.png", "", "", 1, 0, live=False, say=pytest.fail)
    with Image.open(tmp_path / "nav.png") as picture:
        pixels = np.asarray(picture.convert("RGB")).astype(int)
    width, height = view.PANEL
    assert pixels.shape == (height + 48, 2 * width, 3), "a caption of one line"
    green = (pixels[..., 1] > 120) & (pixels[..., 0] < 80)
    left, right = (green[:height, part].nonzero()[1].mean() for part in (slice(0, width), slice(width, None)))
    assert left < width / 2 < right, "the goals lie on their sides"
    ink = (pixels[height:] < 60).all(-1)
    assert ink[:, :width].any()
    assert ink[:, width:].any()
    assert (ink[:, :width] != ink[:, width:]).any()


def test_contact_sheet_has_a_panel_for_each_file_of_tasks(tmp_path):
    said = []
    view.contact_sheet(["sparse_point_pearl", "grid_navi", "sparse_point_varibad"], tmp_path / "all.png", said.append)
    assert said == ["sparse_point_pearl and 1 variant", "grid_navi"]
    with Image.open(tmp_path / "all.png") as picture:
        assert picture.width == 2 * view.SHEET[0]


def plan_of(task, values):
    env = BatchedEnv(task, 1, num_threads=1)
    env.set_tasks(task.custom([values]))
    env.reset()
    return plans.plan(env, 0, view.PANEL).astype(int)


def test_a_plan_of_a_kitchen_shows_all_that_is_hidden_but_the_food():
    task = tasks.make("kitchen_grid")
    changed = {"layout": "U", "burner": "3", "control_map": "2143", "control_law": "falling"}
    drawn = [plan_of(task, {}), *(plan_of(task, {name: value}) for name, value in changed.items())]
    for one, other in itertools.combinations(drawn, 2):
        assert (one != other).any(-1).mean() > 0.002


def test_knobs_have_the_colour_of_the_burners_that_they_drive():
    picture = plan_of(tasks.make("kitchen_grid"), {"layout": "row", "control_map": "3142"})
    side = view.PANEL[1] * 0.78 / 3
    left = (view.PANEL[0] - 5 * side) / 2

    def colour(letter):
        x, y = next((row.index(letter), y) for y, row in enumerate(LAYOUTS["row"]) if letter in row)
        return tuple(picture[int((y + 0.5 + 0.14) * side), int(left + (x + 0.5) * side)])

    assert [colour(knob) for knob in "ABCD"] == [colour(burner) for burner in "3142"]
    assert len({colour(burner) for burner in "1234"}) == 4


def test_a_plan_of_a_bandit_has_a_bar_for_each_arm():
    picture = plan_of(tasks.make("bandit_n10_k5"), {"p0": 0.2, "p1": 0.4, "p2": 0.8, "p3": 0.1, "p4": 0.0})
    step = (view.PANEL[0] - 24) / 5
    high = [(np.abs(picture[:343, round(12 + (i + 0.5) * step)] - plans.GROUND).sum(-1) > 60).sum() for i in range(5)]
    assert high[1] / high[0] == pytest.approx(2, rel=0.05)
    assert high[2] / high[0] == pytest.approx(4, rel=0.05)
    assert high[0] > 2 * high[3] * 0.9 > 0


def test_a_plan_of_an_mdp_is_greener_where_more_is_paid():
    picture = plan_of(tasks.make("tabular_mdp_n10"), {"reward_4_3": 0.99, "reward_7_1": 0.01})
    height, width = view.PANEL[1] / 12, view.PANEL[0] / 5.6
    red = [[picture[int((s + 2) * height) + 4, int((a + 0.6) * width) + 4, 0] for a in range(5)] for s in range(10)]
    assert np.argmin(red) == 4 * 5 + 3
    assert np.argmax(red) == 7 * 5 + 1


def test_a_caption_takes_the_lines_that_it_needs():
    blank = np.full((16, 320, 3), 255, np.uint8)
    short, long = (view._captioned([(blank, "title", text), (blank, "other", "a")], 2) for text in ("word", "word " * 300))
    assert short.shape == (16 + 48, 640, 3)
    assert long.shape[0] % 16 == 0
    last = (long[:, :320] < 60).all(-1).any(1).nonzero()[0].max()
    assert long.shape[0] - 32 < last < long.shape[0] - 2, "nothing is cut, and little room is left"


def in_frame(model, points):
    """(..., 2) where the scene's first camera sees points (..., 3) of the world: -1 ... 1 from edge to edge of a panel."""
    axes = np.zeros(9)
    mujoco.mju_quat2Mat(axes, model.cam_quat[0])
    seen = (points - model.cam_pos[0]) @ axes.reshape(3, 3)
    return seen[..., :2] / -seen[..., 2:] / np.tan(np.radians(model.cam_fovy[0] / 2)) / (view.PANEL[0] / view.PANEL[1], 1)


@pytest.mark.parametrize("name", ["car_track", "car_track_obstacles"])
def test_tracks_and_their_patches_are_in_the_picture(name):
    task = tasks.make(name)
    env = BatchedEnv(task, 64, simulator="mujoco", num_threads=1)
    corners = np.array([*itertools.product((-1, 1), (-1, 1), (1,))]) * PATCH_HALF
    for split in task.splits:
        env.set_tasks(task.sample(64, split))
        env.reset()
        for sim in range(64):
            data = env.simulator.batch.get_data(sim)
            for patch in range(2):
                geom = data.geom(f"patch_{patch}")
                assert np.abs(in_frame(env.simulator.model, geom.xpos + corners @ geom.xmat.reshape(3, 3).T)).max() < 1
    env.close()


def test_kitchens_are_in_the_picture_and_their_handles_in_sight():
    task = tasks.make("kitchen_handles")
    rows = [{"layout": layout, "order": order} for layout in appliances.LAYOUTS for order in appliances.ORDERS]
    env = BatchedEnv(task, len(rows), simulator="mujoco", num_threads=1)
    env.set_tasks(task.custom(rows))
    env.reset()
    model = env.simulator.model
    boxes = (model.geom_type == mujoco.mjtGeom.mjGEOM_BOX).nonzero()[0]
    counters = [g for g in boxes if model.body(model.geom_bodyid[g]).name in appliances.STATIONS]
    walls = [g for g in boxes if model.geom(g).name.startswith("handle/")]
    assert (len(counters), len(walls)) == (3, 4)
    corners, hit = np.array([*itertools.product((-1, 1), repeat=3)]), np.zeros(1, np.int32)
    for sim, row in enumerate(rows):
        env.simulator.batch.get_model(sim, model)
        data = env.simulator.batch.get_data(sim)
        for g in counters:
            assert np.abs(in_frame(model, data.geom_xpos[g] + corners * model.geom_size[g] @ data.geom_xmat[g].reshape(3, 3).T)).max() < 1, row
        for camera in ("closeup", *(["above"] if row["layout"] != "island" else [])):
            eye = data.camera(camera).xpos
            in_sight = 0
            for g in walls:
                mujoco.mj_ray(model, data, eye, data.geom_xpos[g] - eye, None, 1, -1, hit)
                in_sight += hit[0] == g
            assert in_sight >= 2, (camera, row)
    env.close()


def test_the_dead_limb_of_a_cheetah_is_red():
    task = tasks.make("half_cheetah_cripple")
    joints = task.params[0].all_choices
    env = BatchedEnv(task, len(joints), num_threads=1)
    env.set_tasks(task.custom([{"dead_joint": joint} for joint in joints[::-1]]))
    env.set_tasks(task.custom([{"dead_joint": joint} for joint in joints]))  # what was red before is so no more
    model = mujoco.MjModel.__copy__(env.simulator.model)
    for sim, joint in enumerate(joints):
        env.simulator.batch.get_model(sim, model)
        red = (model.geom_rgba == (1, 0, 0, 1)).all(-1)
        assert {model.body(model.geom_bodyid[g]).name for g in red.nonzero()[0]} == {joint}
        assert (model.geom_rgba == env.simulator.model.geom_rgba)[~red].all()
    env.close()


@pytest.mark.parametrize(
    ("name", "angle", "right", "down"), [("car_track", 0.0, 1, 0), ("car_track", np.pi / 2, 0, -1), ("quadrotor_track", 3 * np.pi / 4, 0, -1)]
)
def test_wind_is_an_arrow_as_the_camera_sees_it(name, angle, right, down):
    """Across the car's picture and into its depth; and away from the quadrotor's camera, which looks along the diagonal."""
    env = BatchedEnv(tasks.make(name), 1, simulator="mujoco", num_threads=1)
    (tail, tip), (_, farther) = (np.array(view._wind_arrow(env.simulator.model, view.PANEL, speed, angle)) for speed in (2.0, 4.0))
    drawn = view._with_wind(np.full((view.PANEL[1], view.PANEL[0], 3), 255, np.uint8), env.simulator.model, 4.0, angle)
    env.close()
    way = tip - tail
    assert way / np.linalg.norm(way) == pytest.approx([right, down], abs=0.01)
    assert np.linalg.norm(farther - tip) > 8, "the stronger the longer"
    y, x = (drawn[..., 0] < 100).nonzero()
    assert np.hypot(x - farther[0], y - farther[1]).min() < 3


def test_film_of_two_arms_in_pybullet(tmp_path, monkeypatch):
    task = tasks.make("arm_reach")
    monkeypatch.setattr(type(task), "horizon", 8)  # decisions of 0.02 s; pictures are 0.04 s apart
    env = view.environment(task, "pybullet", task.sample(2), 0, [].append)
    view.film(env, RandomAdapter(env, 0), True, tmp_path / "film.mp4", 1)
    size = (2 * view.PANEL[0], view.side_by_side(env).shape[0])
    assert size[1] % 16 == 0, "as films want it"
    env.close()
    command = [imageio_ffmpeg.get_ffmpeg_exe(), "-loglevel", "error", "-i", str(tmp_path / "film.mp4"), "-f", "rawvideo", "-pix_fmt", "rgb24", "-"]
    film = np.frombuffer(subprocess.run(command, capture_output=True, check=True).stdout, np.uint8).reshape(-1, size[1], size[0], 3).astype(int)
    assert len(film) == 4
    for part in (slice(0, view.PANEL[0]), slice(view.PANEL[0], None)):
        assert (np.abs(film[0] - film[-1])[: view.PANEL[1], part].max(-1) > 60).any(), "both arms move"
    assert [p.name for p in tmp_path.iterdir()] == ["film.mp4"]


SIZES = """
from metarl import tasks
from metarl.tasks.batched_env import BatchedEnv
env = BatchedEnv(tasks.make("arm_reach"), 1, num_threads=1)
env.set_tasks(env.task.custom([{}]))
env.reset()
large, small = (env.simulator.render(0, *size).astype(float) for size in ((320, 240), (160, 120)))
env.close()
print(abs(large.reshape(120, 2, 160, 2, 3).mean((1, 3)) - small).mean())
env = BatchedEnv(tasks.make("kitchen_handles"), 2, num_threads=1)
env.set_tasks(env.task.custom([{"handle": "bar"}, {"handle": "vertical_bar"}]))
env.reset()
one, other = (env.simulator.render(sim, 320, 240).astype(int) for sim in range(2))
env.close()
print((abs(one - other)[-62:-2, -82:-2].max(-1) > 60).mean())
"""


def test_pictures_of_different_sizes_show_the_same_and_a_closeup_the_handle(monkeypatch):
    monkeypatch.setenv("MUJOCO_GL", os.environ.get("MUJOCO_GL", ""))
    if not os.environ["MUJOCO_GL"]:
        monkeypatch.delenv("MUJOCO_GL")
    backend = choose_backend()
    if not backend:
        pytest.skip("MuJoCo cannot draw here")
    done = subprocess.run([sys.executable, "-c", SIZES], env={**os.environ, "MUJOCO_GL": backend}, capture_output=True, text=True, check=True)
    apart, closeup = map(float, done.stdout.split())
    assert apart < 8, "of 255"
    assert closeup > 0.02, "of the corner's pixels"


def test_who_acts(small_algorithm, tmp_path):
    task = tasks.make("point_navigation")
    env = view.environment(task, "", task.sample(1), 0, [].append)
    assert isinstance(view.actor(env, "", 0)[0], RandomAdapter)
    assert not isinstance(view.actor(env, "auto", 0)[0], RandomAdapter), "the zoo has RL² of this task"
    path = tmp_path / "x.safetensors"
    meta_parameters.save(path, small_algorithm("rl2"), "rl2", 0)
    assert view.actor(env, str(path), 0)[0].act(env.reset()).shape == (1, 1, 2)
    with pytest.raises(ValueError, match="is of the task 'arm_slide', expected 'point_navigation'"):
        view.actor(env, "zoo:arm_slide/rl2", 0)


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (["point_navigation", "--out", "x.mp4"], r"x.mp4 cannot be made: expected a name that ends in .png$"),
        (["arm_reach", "--out", "x.gif"], r"expected a name that ends in .png or .mp4$"),
        (["arm_reech"], "no task is called 'arm_reech': did you mean arm_reach"),
        (["arm_reach", "--split", "oood", "--out", "x.png"], "split"),
        (["arm_reach", "--out", "/proc/x/y.png"], "cannot write to the folder /proc/x"),
    ],
)
def test_bad_arguments(args, said, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as ended:
        main(["view", *args])
    assert ended.value.code == 2
    message = capsys.readouterr().err.splitlines()
    assert any(re.search(said, line) for line in message), message
    assert not list(tmp_path.iterdir())
