import os
import re
import subprocess
import sys

import imageio_ffmpeg
import numpy as np
import pytest
from PIL import Image

from metarl import meta_parameters, tasks, view
from metarl.cli import main
from metarl.evaluate import RandomAdapter
from metarl.video import choose_backend


def test_a_plan_shows_each_task_beside_the_others_with_its_sentence(tmp_path):
    task = tasks.make("point_navigation")
    view.show(task, task.custom([{"goal_x": x} for x in (-0.5, 0.5)]), tmp_path / "nav.png", "", "", 1, 0, live=False, say=pytest.fail)
    with Image.open(tmp_path / "nav.png") as picture:
        pixels = np.asarray(picture.convert("RGB")).astype(int)
    width, height = view.PANEL
    assert pixels.shape == (height + view.CAPTION, 2 * width, 3)
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


def test_film_of_two_arms_in_pybullet(tmp_path, monkeypatch):
    task = tasks.make("arm_reach")
    monkeypatch.setattr(type(task), "horizon", 8)  # decisions of 0.02 s; pictures are 0.04 s apart
    env = view.environment(task, "pybullet", task.sample(2), 0, [].append)
    view.film(env, RandomAdapter(env, 0), True, tmp_path / "film.mp4", 1)
    env.close()
    size = (2 * view.PANEL[0], view.PANEL[1] + view.CAPTION)
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
"""


def test_pictures_of_different_sizes_show_the_same(monkeypatch):
    monkeypatch.setenv("MUJOCO_GL", os.environ.get("MUJOCO_GL", ""))
    if not os.environ["MUJOCO_GL"]:
        monkeypatch.delenv("MUJOCO_GL")
    backend = choose_backend()
    if not backend:
        pytest.skip("MuJoCo cannot draw here")
    done = subprocess.run([sys.executable, "-c", SIZES], env={**os.environ, "MUJOCO_GL": backend}, capture_output=True, text=True, check=True)
    assert float(done.stdout) < 8, "of 255"


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
