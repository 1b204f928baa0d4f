"""Films of an adapting robot.

MuJoCo draws with OpenGL, which a bare machine lacks (Debian: `apt install libegl1 libgl1-mesa-dri`). Without it the film is made in
PyBullet, whose software renderer needs nothing.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import imageio
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from metarl import meta_parameters, tasks
from metarl.experience import adapter_of
from metarl.report import unit_and_scale
from metarl.rollout import collect
from metarl.tasks.batched_env import BatchedEnv, Step
from metarl.tasks.parameters import TaskBatch
from metarl.tasks.simulators.simulator import RobotSimulator
from metarl.tasks.task import Task

FRAMES_PER_SECOND = 25  # as often as `RobotSimulator.on_frame` is called, so that time passes as in the world
PAUSE = 15  # frames that show how an episode ended

Picture = NDArray[np.uint8]
_PROBE = "import mujoco; c = mujoco.GLContext(8, 8); c.make_current(); c.free()"


def choose_backend() -> str:
    """Let MuJoCo draw without a screen if this machine can; to be called before mujoco is imported.

    Returns:
        What MUJOCO_GL is set to: its own value where it was set, else "egl" or "osmesa", or "" where neither works.
    """
    if "MUJOCO_GL" not in os.environ:
        for backend in ("egl", "osmesa"):
            probe = subprocess.run([sys.executable, "-c", _PROBE], env={**os.environ, "MUJOCO_GL": backend}, capture_output=True, check=False)
            if probe.returncode == 0:
                os.environ["MUJOCO_GL"] = backend
                break
    return os.environ.get("MUJOCO_GL", "")


def check_can_film(file: str | Path) -> None:
    """Before work that a film ends: does any simulator of the file's task draw?

    Raises:
        ValueError: none does.
    """
    task = tasks.make(meta_parameters.load(file).spec.task)
    if task.simulators == ("analytic",):
        raise ValueError(f"{file} cannot be filmed: {task.name} is computed, and no simulator draws it")


def film(
    file: str | Path,
    out: str | Path,
    split: str = "iid",
    index: int = 0,
    simulator: str = "",
    episodes: int | None = None,
    seed: int = 0,
    size: tuple[int, int] = (640, 480),
    say: Callable[[str], None] = lambda text: None,
) -> None:
    """Make an MP4 of one trial.

    Args:
        file: meta-parameters.
        out: where the film goes.
        split: of the task.
        index: number of the task in its split.
        simulator: "" takes the task's first, or PyBullet where that cannot draw.
        episodes: K; by default the task's.
        seed: of tasks and start poses, as in `evaluate`.
        size: width and height in pixels, multiples of 16.
        say: told what is being done.

    Raises:
        ValueError: neither this nor another simulator draws this task.
    """
    out = Path(out)
    meta_parameters.check_writable(out)
    algorithm = meta_parameters.load(file)
    task = tasks.make(algorithm.spec.task)
    env, drawn_by = env_that_draws(task, simulator, task.sample(1, split, seed, start=index), seed, size, say)
    name = meta_parameters.read(file)[0].algorithm
    with closing(env), film_file(out) as write:
        picture = Film(env, f"{name}, {task.name}, {drawn_by}", write, size)
        assert isinstance(env.simulator, RobotSimulator)  # whatever draws, has a robot
        env.simulator.on_frame = picture.on_frame
        collect(env, adapter_of(algorithm, 1), episodes, algorithm.noise_to_adapt, picture.on_step)


@contextmanager
def film_file(out: Path) -> Iterator[Callable[[Picture], None]]:
    """Pictures that are written inside become an MP4, which is there when it is whole, and not before."""
    meta_parameters.check_writable(out)
    unfinished = out.with_name(f".{out.name}.unfinished.mp4")
    try:
        with imageio.get_writer(unfinished, fps=FRAMES_PER_SECOND) as writer:
            yield writer.append_data
        os.replace(unfinished, out)
    finally:
        unfinished.unlink(missing_ok=True)


def env_that_draws(task: Task, simulator: str, batch: TaskBatch, seed: int, size: tuple[int, int], say: Callable[[str], None]) -> tuple[BatchedEnv, str]:
    """One robot in each task, in the wanted simulator or else in PyBullet; and the name of that one.

    Raises:
        ValueError: the task does not run in the wanted one, or neither draws it.
    """
    wanted = simulator or task.simulators[0]
    for name in dict.fromkeys((wanted, "pybullet")):
        if name == wanted or name in task.simulators:
            env = BatchedEnv(task, len(batch), simulator=name, num_threads=1, seed=seed)
            env.set_tasks(batch)
            env.reset()
            try:
                env.simulator.render(0, *size)
            except Exception as error:  # OpenGL fails in many ways: a missing library, driver, screen
                say(f"{name} cannot draw here ({str(error).splitlines()[0]})")
                env.close()
                continue
            env.rng.manual_seed(seed)
            say(f"drawing in {name}")
            return env, name
    raise ValueError(f"there is no picture of {task.name}: neither {wanted} nor PyBullet can draw it here")


class Film:
    """Collects the pictures of one trial, with what happened so far written into them."""

    def __init__(self, env: BatchedEnv, title: str, write: Callable[[Picture], None], size: tuple[int, int]) -> None:
        self._env, self._title, self._write, self._size = env, title, write, size
        self._unit, self._scale = unit_and_scale(env.task.error_unit)
        self._has_error = env.task.has_error
        self._font = ImageFont.load_default(size[1] // 24)
        self._ended: list[str] = []
        self._last: Picture | None = None

    def on_frame(self, simulator: RobotSimulator) -> None:
        """Called by the simulator 25 times per simulated second."""
        said = f"episode {len(self._ended) + 1}"
        if self._has_error:
            said += f": {self._error({**simulator.read(), **self._env.goals})}"
        self._last = simulator.render(0, *self._size)
        self._write(self._with_text([*self._ended, said]))

    def on_step(self, episode: int, step_index: int, step: Step) -> None:
        """At the end of an episode its result stays in the picture."""
        if self._env.all_ended and self._last is not None:
            result = self._error(self._env.readings) if self._has_error else "ended"
            self._ended.append(f"episode {episode + 1}: {result}")
            for _ in range(PAUSE):
                self._write(self._with_text(self._ended))

    def _error(self, readings: dict[str, Tensor]) -> str:
        return f"{float(self._env.task.error(readings)[0]) * self._scale:.1f} {self._unit}"

    def _with_text(self, lines: list[str]) -> Picture:
        assert self._last is not None
        image = Image.fromarray(self._last)
        text = "\n".join([self._title, *lines])
        draw = ImageDraw.Draw(image, "RGBA")
        corner = (image.width - 12 - draw.multiline_textbbox((0, 0), text, self._font)[2], 10)
        box = draw.multiline_textbbox(corner, text, self._font)
        draw.rectangle((box[0] - 6, box[1] - 6, box[2] + 6, box[3] + 6), fill=(255, 255, 255, 190))
        draw.multiline_text(corner, text, (20, 20, 20), self._font)
        return np.asarray(image)
