"""Pictures of tasks: several side by side with their English sentences, as a film, a picture, or live on a screen; and a contact sheet of all."""

from __future__ import annotations

import io
import math
import textwrap
import time
from collections.abc import Callable, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any, Self

import mujoco
import numpy as np
from PIL import Image, ImageDraw

from metarl import meta_parameters, tasks
from metarl.algorithm import Adapter
from metarl.describe import about_module
from metarl.evaluate import RandomAdapter
from metarl.experience import adapter_of
from metarl.plans import INK, PAPER, font, plan
from metarl.rollout import collect
from metarl.tasks.batched_env import BatchedEnv
from metarl.tasks.parameters import TaskBatch
from metarl.tasks.simulators.mujoco import MujocoSimulator
from metarl.tasks.simulators.simulator import RobotSimulator
from metarl.tasks.task import Task
from metarl.video import FRAMES_PER_SECOND, Picture, env_that_draws, film_file

PANEL = (480, 368)  # width and height in pixels of each task's picture, multiples of 16 as films want them
SHEET = (320, 240)
WIND = (20, 60, 140)


def show(
    task: Task, batch: TaskBatch, out: Path, simulator: str, file: str, episodes: int, seed: int, live: bool, say: Callable[[str], None]
) -> None:  # fmt: skip
    """Show tasks live, or make a film or a picture of them.

    Args:
        task: the distribution.
        batch: which of its tasks; live only the first is seen.
        out: ends in .mp4 or .png; not used live.
        simulator: "" takes the task's first.
        file: who acts, see `actor`.
        episodes: to be filmed.
        seed: of start poses and random actions.
        live: in MuJoCo's window.
        say: told what is being done.

    Raises:
        ValueError: `file` is of another task, or nothing can draw this one here.
    """
    with closing(environment(task, simulator, batch, seed, say, draws=not live)) as env:
        if live:
            window(env, *actor(env, file, seed), episodes)
        elif out.suffix == ".mp4":
            film(env, *actor(env, file, seed), out, episodes)
        else:
            picture(env, out)


def environment(task: Task, simulator: str, batch: TaskBatch, seed: int, say: Callable[[str], None], draws: bool = True) -> BatchedEnv:
    """One robot in each task, where it `draws` in a simulator that can do so here; a task that is computed needs none."""
    if draws and "analytic" not in task.simulators:
        return env_that_draws(task, simulator, batch, seed, PANEL, say)[0]
    env = BatchedEnv(task, len(batch), simulator=simulator, num_threads=1, seed=seed)
    env.set_tasks(batch)
    return env


def actor(env: BatchedEnv, file: str, seed: int) -> tuple[Adapter, bool]:
    """Who acts, and whether by chance: what a meta-parameters file has learnt, or chance where `file` is ""; "auto" takes RL² from the zoo where it has it.

    Raises:
        ValueError: the file is of another task.
    """
    name = env.task.name
    if file == "auto":
        file = f"zoo:{name}/rl2" if f"zoo:{name}/rl2" in meta_parameters.zoo() else ""
    if not file:
        return RandomAdapter(env, seed), True
    algorithm = meta_parameters.load(file)
    if algorithm.spec.task != name:
        raise ValueError(f"{file} is of the task {algorithm.spec.task!r}, expected {name!r}")
    return adapter_of(algorithm, env.num_tasks), algorithm.noise_to_adapt


def film(env: BatchedEnv, adapter: Adapter, explore: bool, out: Path, episodes: int) -> None:
    """Film all tasks of an environment side by side (MP4).

    Raises:
        ValueError: the task has no robot in a scene to film.
    """
    if not isinstance(env.simulator, RobotSimulator):
        raise ValueError(f"{env.task.name} has no scene to film: it is computed, not simulated")
    with film_file(out) as write:
        env.simulator.on_frame = lambda simulator: write(side_by_side(env))
        collect(env, adapter, episodes, explore)


def picture(env: BatchedEnv, out: Path) -> None:
    """Draw all tasks of an environment side by side, at the beginning of an episode (PNG)."""
    env.reset()
    _save(side_by_side(env), out)


def window(env: BatchedEnv, adapter: Adapter, explore: bool, episodes: int) -> None:
    """Show the first task in MuJoCo's own window, as fast as time passes, until it is closed.

    Raises:
        ValueError: another simulator than MuJoCo, which has no window.
    """
    if not isinstance(env.simulator, MujocoSimulator):
        raise ValueError("only MuJoCo has a window: choose --simulator mujoco, or --out FILE.mp4")
    with Window(env.simulator) as opened:
        env.simulator.on_frame = opened.show
        while opened.open:
            collect(env, adapter, episodes, explore)


class Window:
    """MuJoCo's interactive viewer on one simulation of a batch."""

    def __init__(self, simulator: MujocoSimulator) -> None:
        import mujoco
        import mujoco.viewer

        self._mujoco, self._simulator = mujoco, simulator
        model = simulator.batch.get_model(0, simulator.model)
        self._model = simulator.model if model is None else model
        self._data = mujoco.MjData(self._model)
        self._viewer: Any = mujoco.viewer.launch_passive(self._model, self._data)
        self._due = time.monotonic()

    @property
    def open(self) -> bool:
        """The user has not closed it."""
        return bool(self._viewer.is_running())

    def show(self, simulator: RobotSimulator) -> None:
        """Called by the simulator 25 times per simulated second."""
        state = self._simulator.batch.get_data(0)
        self._data.qpos[:], self._data.qvel[:] = state.qpos, state.qvel
        self._data.mocap_pos[:], self._data.mocap_quat[:] = state.mocap_pos, state.mocap_quat
        self._mujoco.mj_forward(self._model, self._data)
        self._viewer.sync()
        self._due = max(self._due + 1 / FRAMES_PER_SECOND, time.monotonic() - 1.0)
        time.sleep(max(0.0, self._due - time.monotonic()))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self._viewer.close()


def contact_sheet(names: Sequence[str], out: Path, say: Callable[[str], None]) -> None:
    """One picture of each file of tasks, with the names in it and what it says first of them (PNG)."""
    panels = []
    for task, *variants in _by_file(names):
        name = task.name if not variants else f"{task.name} and {len(variants)} variant{'s' * (len(variants) > 1)}"
        say(name)
        env = environment(task, "", task.sample(1, "iid"), 0, lambda text: None)
        env.reset()
        panels.append((_drawn(env, 0, SHEET), name, about_module(task.name, task).split("\n\n")[0]))
        env.close()
    _save(_captioned(panels, columns=min(5, len(panels))), out)


def _by_file(names: Sequence[str]) -> list[list[Task]]:
    files: dict[str, list[Task]] = {}
    for name in names:
        task = tasks.make(name)
        files.setdefault(type(task).__module__, []).append(task)
    return list(files.values())


def side_by_side(env: BatchedEnv) -> Picture:
    """All tasks of an environment, each with its sentence; height and width are multiples of 16."""
    assert env.tasks is not None
    panels = []
    for i in range(env.num_tasks):
        name, _, sentence = env.tasks.describe(i).partition(": ")
        panels.append((_drawn(env, i, PANEL), name, sentence))
    return _captioned(panels, columns=2 if len(panels) > 1 else 1)


def _drawn(env: BatchedEnv, sim: int, size: tuple[int, int]) -> Picture:
    """The picture of one simulation; where its task is computed, a plan of it."""
    try:
        picture = env.simulator.render(sim, *size)
    except NotImplementedError:
        return plan(env, sim, size)
    assert env.tasks is not None and isinstance(env.simulator, RobotSimulator)
    told = env.tasks[sim].named()
    if "wind_speed" in told:
        return _with_wind(picture, env.simulator.model, float(told["wind_speed"][0]), float(told["wind_angle"][0]))
    return picture


def _with_wind(picture: Picture, model: mujoco.MjModel, speed: float, angle: float) -> Picture:
    """With an arrow of the mean wind."""
    image = Image.fromarray(picture)
    draw = ImageDraw.Draw(image)
    tail, tip = _wind_arrow(model, image.size, speed, angle)
    heading = math.atan2(tip[1] - tail[1], tip[0] - tail[0])
    for end in (tail, *((tip[0] + 10 * math.cos(heading + turn), tip[1] + 10 * math.sin(heading + turn)) for turn in (2.6, -2.6))):
        draw.line((*tip, *end), WIND, 3)
    draw.text(((tail[0] + tip[0]) / 2, max(tail[1], tip[1]) + 6), "wind", WIND, font(12), "ma")
    return np.asarray(image)


def _wind_arrow(model: mujoco.MjModel, size: tuple[int, int], speed: float, angle: float) -> list[tuple[float, float]]:
    """Pixels where the wind's arrow begins and ends.

    Its middle lies on the scene's vertical axis, 1 m below what the first camera looks at, yet not below the floor. 10 m/s are as long as 0.4 of the way
    to the camera.
    """
    turned, eye = np.zeros(9), model.cam_pos[0]
    mujoco.mju_quat2Mat(turned, model.cam_quat[0])
    axes = turned.reshape(3, 3)
    height = eye[2] - axes[2, 2] * np.hypot(*eye[:2]) / np.hypot(*axes[:2, 2])  # of what it looks at
    middle = np.array([0.0, 0.0, max(0.0, height - 1.0)])
    half = 0.02 * speed * np.linalg.norm(middle - eye) * np.array([math.cos(angle), math.sin(angle), 0.0])
    scale = 0.5 * size[1] / math.tan(math.radians(0.5 * model.cam_fovy[0]))
    seen = [(middle + side * half - eye) @ axes for side in (-1, 1)]  # to the right, up, backwards
    return [(size[0] / 2 - scale * x / z, size[1] / 2 + scale * y / z) for x, y, z in seen]


def _captioned(panels: Sequence[tuple[Picture, str, str]], columns: int) -> Picture:
    """Pictures of one size in rows, each with its title and its text below, for which there is as much room as the longest wants, in steps of 16 pixels."""
    width = panels[0][0].shape[1]
    texts = [textwrap.wrap(" ".join(text.split()), width=round(width / 6.4)) for _, _, text in panels]
    height = 16 * math.ceil((30 + 14 * max(map(len, texts))) / 16)
    cells = []
    for (drawn, title, _), lines in zip(panels, texts, strict=True):
        image = Image.new("RGB", (width, len(drawn) + height), PAPER)
        image.paste(Image.fromarray(drawn), (0, 0))
        draw = ImageDraw.Draw(image)
        draw.text((8, len(drawn) + 4), title, INK, font(14))
        for number, line in enumerate(lines):
            draw.text((8, len(drawn) + 24 + 14 * number), line, INK, font(11))
        cells.append(np.asarray(image))
    blank = np.full_like(cells[0], 255)
    rows = [cells[i : i + columns] for i in range(0, len(cells), columns)]
    return np.concatenate([np.concatenate(row + [blank] * (columns - len(row)), 1) for row in rows], 0)


def _save(drawn: Picture, out: Path) -> None:
    written = io.BytesIO()
    Image.fromarray(drawn).save(written, "PNG")
    meta_parameters.write_atomically(out, written.getvalue())
