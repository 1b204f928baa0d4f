"""Pictures of tasks: several side by side with their English sentences, as a film, a picture, or live on a screen; and a contact sheet of all."""

from __future__ import annotations

import functools
import io
import textwrap
import time
from collections.abc import Callable, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any, Self

import numpy as np
from matplotlib.font_manager import findfont
from PIL import Image, ImageDraw, ImageFont

from metarl import meta_parameters, tasks
from metarl.algorithm import Adapter
from metarl.describe import about_module
from metarl.evaluate import RandomAdapter
from metarl.experience import adapter_of
from metarl.rollout import collect
from metarl.tasks.batched_env import BatchedEnv
from metarl.tasks.parameters import TaskBatch
from metarl.tasks.simulators.mujoco import MujocoSimulator
from metarl.tasks.simulators.simulator import RobotSimulator
from metarl.tasks.task import Task
from metarl.video import FRAMES_PER_SECOND, Picture, env_that_draws, film_file

PANEL = (480, 368)  # width and height in pixels of each task's picture, multiples of 16 as films want them
CAPTION = 112  # pixels below it
SHEET = (320, 240)
INK, PAPER = (20, 20, 20), (255, 255, 255)


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
        about = about_module(task.name, task).split("\n\n")[0]
        panels.append(_with_caption(_drawn(env, 0, SHEET), name, about, SHEET, 72))
        env.close()
    _save(_grid(panels, columns=min(5, len(panels))), out)


def _by_file(names: Sequence[str]) -> list[list[Task]]:
    files: dict[str, list[Task]] = {}
    for name in names:
        task = tasks.make(name)
        files.setdefault(type(task).__module__, []).append(task)
    return list(files.values())


def side_by_side(env: BatchedEnv) -> Picture:
    """All tasks of an environment, each with its sentence."""
    assert env.tasks is not None
    panels = []
    for i in range(env.num_tasks):
        name, _, sentence = env.tasks.describe(i).partition(": ")
        panels.append(_with_caption(_drawn(env, i, PANEL), name, sentence, PANEL, CAPTION))
    return _grid(panels, columns=2 if len(panels) > 1 else 1)


def _drawn(env: BatchedEnv, sim: int, size: tuple[int, int]) -> Picture:
    """The picture of one simulation; where its task is computed, a plan of the plane or a sheet of its readings."""
    try:
        return env.simulator.render(sim, *size)
    except NotImplementedError:
        image = Image.new("RGB", size, (236, 236, 232))
        draw = ImageDraw.Draw(image)
        pos, goal = (env.readings.get(name) for name in ("pos", "goal_pos"))
        if pos is not None and goal is not None and pos.shape[-1] == goal.shape[-1] == 2:
            scale = 0.4 * size[1] / max(1.0, float(env.readings["goal_pos"].abs().max()))
            for point, colour in ((goal[sim], (26, 150, 60)), (pos[sim], (180, 40, 40))):
                x, y = size[0] / 2 + scale * float(point[0]), size[1] / 2 - scale * float(point[1])
                draw.ellipse((x - 7, y - 7, x + 7, y + 7), colour)
        else:
            lines = [f"{name} = {', '.join(f'{float(x):.2f}' for x in value[sim].flatten()[:5])}" for name, value in env.readings.items()]
            draw.multiline_text((12, 12), "\n".join(lines[:10]), INK, _font(13))
        return np.asarray(image)


@functools.cache
def _font(size: int) -> ImageFont.FreeTypeFont:
    """One that knows more than ASCII; it comes with matplotlib."""
    return ImageFont.truetype(findfont("DejaVu Sans"), size)


def _with_caption(drawn: Picture, title: str, text: str, size: tuple[int, int], height: int) -> Picture:
    image = Image.new("RGB", (size[0], size[1] + height), PAPER)
    image.paste(Image.fromarray(drawn), (0, 0))
    draw = ImageDraw.Draw(image)
    draw.text((8, size[1] + 4), title, INK, _font(14))
    room = (height - 26) // 15
    lines = textwrap.wrap(" ".join(text.split()), width=round(size[0] / 6.4))
    shown = lines if len(lines) <= room else [*lines[: room - 1], lines[room - 1][:-2] + " …"]
    draw.multiline_text((8, size[1] + 24), "\n".join(shown), INK, _font(11), spacing=2)
    return np.asarray(image)


def _grid(panels: Sequence[Picture], columns: int) -> Picture:
    blank = np.full_like(panels[0], 255)
    rows = [list(panels[i : i + columns]) for i in range(0, len(panels), columns)]
    return np.concatenate([np.concatenate(row + [blank] * (columns - len(row)), 1) for row in rows], 0)


def _save(drawn: Picture, out: Path) -> None:
    written = io.BytesIO()
    Image.fromarray(drawn).save(written, "PNG")
    meta_parameters.write_atomically(out, written.getvalue())
