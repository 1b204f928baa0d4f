import subprocess
import sys
from types import SimpleNamespace

import imageio_ffmpeg
import numpy as np
import pytest

from metarl import meta_parameters, video
from metarl.tasks.simulators.mujoco import MujocoSimulator

SIZE = (160, 128)


@pytest.fixture
def file(small_algorithm, tmp_path):
    path = tmp_path / "file.safetensors"
    meta_parameters.save(path, small_algorithm("rl2", task="arm_slide"), "rl2", env_steps=0)
    return path


@pytest.fixture
def no_opengl(monkeypatch):
    def render(self, sim, width, height):
        raise RuntimeError("no OpenGL\nand a long story")

    monkeypatch.setattr(MujocoSimulator, "render", render)


def read(path):
    """(frames, height, width, 3); other sizes than SIZE do not divide the bytes."""
    command = [imageio_ffmpeg.get_ffmpeg_exe(), "-loglevel", "error", "-i", str(path), "-f", "rawvideo", "-pix_fmt", "rgb24", "-"]
    decoded = subprocess.run(command, capture_output=True, check=True).stdout
    return np.frombuffer(decoded, dtype=np.uint8).reshape(-1, SIZE[1], SIZE[0], 3)


def test_a_machine_without_opengl_films_in_pybullet_and_says_so(file, tmp_path, no_opengl):
    pytest.importorskip("pybullet")
    said = []
    video.film(file, tmp_path / "out" / "film.mp4", episodes=1, size=SIZE, say=said.append)
    assert said == ["mujoco cannot draw here (no OpenGL)", "drawing in pybullet"]
    frames = read(tmp_path / "out" / "film.mp4")
    seconds = len(frames) / video.FRAMES_PER_SECOND
    assert 1.0 < seconds < 1.0 + 3.5 + 1.0  # a strike, a slide, and a pause at the end
    moved = np.abs(frames[0].astype(int) - frames[-1]).max(-1) > 60
    assert moved.any(), "nothing moves in the film"
    assert [p.name for p in (tmp_path / "out").iterdir()] == ["film.mp4"]


def test_a_task_that_nobody_draws(small_algorithm, tmp_path):
    path = tmp_path / "file.safetensors"
    meta_parameters.save(path, small_algorithm("rl2"), "rl2", env_steps=0)
    with pytest.raises(ValueError, match="no picture of point_navigation: neither analytic nor PyBullet can draw it here"):
        video.film(path, tmp_path / "film.mp4")
    assert not (tmp_path / "film.mp4").exists()


def test_what_is_written_into_the_picture(monkeypatch):
    """Episode by episode: what is running now, and how those before it ended."""
    lines = []
    monkeypatch.setattr(video.Film, "_with_text", lambda self, text: lines.append(list(text)))

    class Task:
        error_unit, has_error = "m", True

        def error(self, readings):
            return readings["error"]

    env = SimpleNamespace(task=Task(), goals={}, readings={"error": np.array([0.123])}, all_ended=True)
    simulator = SimpleNamespace(read=lambda: {"error": np.array([0.456])}, render=lambda sim, width, height: np.zeros((8, 8, 3)))
    film = video.Film(env, "title", lambda picture: None, SIZE)
    film.on_frame(simulator)
    film.on_step(0, 0, None)
    film.on_frame(simulator)
    assert lines[0] == ["episode 1: 45.6 cm"]
    assert lines[1 : 1 + video.PAUSE] == [["episode 1: 12.3 cm"]] * video.PAUSE
    assert lines[-1] == ["episode 1: 12.3 cm", "episode 2: 45.6 cm"]


def test_backend_is_the_first_that_works_and_a_choice_of_the_user_stays(monkeypatch):
    tried = []

    def run(command, env, **options):
        assert command[0] == sys.executable
        tried.append(env["MUJOCO_GL"])
        return SimpleNamespace(returncode=0 if env["MUJOCO_GL"] == "osmesa" else 1)

    monkeypatch.setattr(subprocess, "run", run)
    monkeypatch.setenv("MUJOCO_GL", "")  # so that what this machine has is put back, also where it has none
    monkeypatch.delenv("MUJOCO_GL")
    assert video.choose_backend() == "osmesa"
    assert tried == ["egl", "osmesa"]
    monkeypatch.setenv("MUJOCO_GL", "glfw")
    assert video.choose_backend() == "glfw"
    assert tried == ["egl", "osmesa"]
