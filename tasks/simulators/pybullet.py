"""PyBullet: the second opinion, and the stand-in for a real robot. Never used to meta-train or to choose a model.

The scene is still described once. Of each simulation's MuJoCo model, with its parameters written into it by the task, the URDF is
loaded; actuators, springs and weight compensation act as they do there. What remains different is the engine: contacts above all.
"""

from __future__ import annotations

import os
import re
from typing import Any

import mujoco
import mujoco.batch
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from metarl.tasks.simulators.bullet_scene import Scene, link_of, read_scene
from metarl.tasks.simulators.bullet_worlds import LocalWorlds, RemoteWorlds
from metarl.tasks.simulators.mujoco import as_readings, body_named, compile_scene, reading_sizes
from metarl.tasks.simulators.simulator import RobotSimulator, joint_columns
from metarl.tasks.simulators.urdf import Array, roots
from metarl.tasks.task import Readings, Task

State = tuple[Array, Array | None]  # positions and velocities, a row for each simulation; None: at rest

_WORTH_A_PROCESS = 8  # simulations; a process takes some two seconds to start


class PybulletSimulator(RobotSimulator):
    """See `Simulator`; `num_threads` are processes here, one of them this one if it is the only one."""

    def __init__(self, task: Task, num_sims: int, num_threads: int = 0) -> None:
        super().__init__(task, num_sims, compile_scene(task))
        read_scene(self.model, self.robot)  # refuses at once what Bullet cannot do
        self._sizes = reading_sizes(self.model)
        wanted = min(num_threads, num_sims) if num_threads else min(os.cpu_count() or 1, num_sims // _WORTH_A_PROCESS)
        self._workers: list[LocalWorlds | RemoteWorlds] = [RemoteWorlds() for _ in range(wanted)] if wanted > 1 else [LocalWorlds()]
        self._shards = [slice(int(part[0]), int(part[-1]) + 1) for part in np.array_split(np.arange(num_sims), len(self._workers))]

    def set_tasks(self, values: dict[str, NDArray[np.float64]]) -> None:
        scenes = self._scenes(values)
        self._trees, self._bodies = scenes[0].trees, [_bodies(scene) for scene in scenes]
        self._each("load", lambda shard: (scenes[shard],))

    def adjust(self, values: dict[str, NDArray[np.float64]]) -> bool:
        """Motors, springs, damping and frictions change at once; Bullet cannot shift a body's centre of mass, nor give it another shape."""
        scenes = self._scenes(values)
        self._each("tune", lambda shard: (scenes[shard],))
        return [_bodies(scene) for scene in scenes] == self._bodies

    def _scenes(self, values: dict[str, NDArray[np.float64]]) -> list[Scene]:
        batch = mujoco.batch.Batch(self.model, self.num_sims, 1)
        self.apply(batch, values)
        batch.set_const()
        return [read_scene(batch.get_model(i), self.robot) for i in range(self.num_sims)]

    def reset(self, start: Readings, goals: Readings) -> Readings:
        if "qpos" in start:
            self.last_qpos = start["qpos"]
        joints, roots = self._states(start)
        for name, value in goals.items():
            roots.update({t: (value.double().numpy(), None) for t, tree in enumerate(self._trees) if tree.name == name.removesuffix("_pos")})
        ctrl = self.first_ctrl(start).double().numpy()
        self._each("reset", lambda shard: (_rows(joints, shard), _rows(roots, shard), ctrl[shard]))
        self._warm_up()
        return self.read()

    def _states(self, start: Readings) -> tuple[dict[int, State], dict[int, State]]:
        """Number of a tree -> positions and velocities of its joints, or pose and twist of its root: of the trees that `start` places."""
        state = {"qpos": np.tile(self.model.qpos0, (self.num_sims, 1)), "qvel": np.zeros((self.num_sims, self.model.nv))}
        placed: set[tuple[str, int]] = set()
        for name, value in start.items():
            field, columns = self.place(name)
            if name != "ctrl":
                state[field][:, columns] = value.numpy()
                placed.update((field, int(c)) for c in columns)
        joints: dict[int, State] = {}
        roots: dict[int, State] = {}
        for t, tree in enumerate(self._trees):
            for found, names in ((joints, tree.joints.names if tree.joints else ()), (roots, (tree.free_joint,) if tree.free_joint else ())):
                qpos, qvel = ([int(c) for n in names for c in joint_columns(self.model, f, self.model.joint(n).id)] for f in ("qpos", "qvel"))
                if any(("qpos", c) in placed for c in qpos) or any(("qvel", c) in placed for c in qvel):
                    found[t] = (state["qpos"][:, qpos], state["qvel"][:, qvel])
        return joints, roots

    def read(self) -> Readings:
        return as_readings(self._sizes, [np.concatenate(self._each("read"))])

    def effort(self) -> Tensor:
        assert self.robot is not None
        place = {name: (t, j) for t, tree in enumerate(self._trees) if tree.joints for j, name in enumerate(tree.joints.names)}
        mine = [place[name] for name in self.robot.joint_names]
        of = {tree: np.concatenate(self._each("efforts", lambda _, tree=tree: (tree,))) for tree in {tree for tree, _ in mine}}
        driven = [of[tree][:, j] for tree, j in mine]
        return torch.from_numpy(np.stack(driven, -1).astype(np.float32))

    def advance(self, ctrl: Tensor | None, substeps: int, active: Tensor | None) -> None:
        self._advance(None if ctrl is None else ctrl.unsqueeze(1), substeps, active)

    def follow(self, ctrl: Tensor, active: Tensor | None) -> None:
        if self.on_frame is None:  # all commands at once: processes need not wait for each other after every step
            self._advance(ctrl, ctrl.shape[1], active)
        else:
            super().follow(ctrl, active)

    def _advance(self, ctrl: Tensor | None, substeps: int, active: Tensor | None) -> None:
        commands = None if ctrl is None else ctrl.double().numpy()
        mask = np.ones(self.num_sims, dtype=np.bool_) if active is None else active.numpy()
        self._each("advance", lambda shard: (None if commands is None else commands[shard], substeps, mask[shard]))

    def push(self, wrenches: Readings) -> None:
        if wrenches:
            tops = roots(self.model)
            pushed = {link_of(self.model, body_named(self.task, self.model, name), tops): wrench.double().numpy() for name, wrench in wrenches.items()}
            self._each("push_bodies", lambda shard: ({link: wrench[shard] for link, wrench in pushed.items()},))

    def frictions(self) -> list[dict[tuple[int, str], float]]:
        """Of each simulation, the friction that Bullet says each link has; a link is the number of its tree and its name."""
        return [found for shard in self._each("frictions") for found in shard]

    def launch(self, body: str, linvel: Array) -> None:
        """Give a free body a linear velocity (N, 3) in m/s, world frame: to see how it slides by itself."""
        self._each("launch", lambda shard: (self._tree(body), linvel[shard]))

    def _tree(self, name: str) -> int:
        return next(t for t, tree in enumerate(self._trees) if tree.name == name)

    def render(self, sim: int, width: int = 640, height: int = 480) -> NDArray[np.uint8]:
        worker = next(w for w, shard in enumerate(self._shards) if sim < shard.stop)
        self._workers[worker].ask("render", sim - self._shards[worker].start, width, height)
        picture: NDArray[np.uint8] = self._workers[worker].answer()
        return picture

    def close(self) -> None:
        for worker in self._workers:
            worker.close()

    def _each(self, method: str, arguments: Any = lambda shard: ()) -> list[Any]:
        """Call a method of all workers, each with the arguments for its shard of the simulations; what they return."""
        for worker, shard in zip(self._workers, self._shards, strict=True):
            worker.ask(method, *arguments(shard))
        answers = [_answer_or_error(worker) for worker in self._workers]  # of all, or the next call would get the old ones
        for answer in answers:
            if isinstance(answer, Exception):
                raise answer
        return answers


def _bodies(scene: Scene) -> list[tuple[str, list[float]]]:
    """All of a scene that its worlds must be loaded anew for."""
    return [(re.sub(r"<dynamics[^>]*>", "", tree.document), tree.pose.tolist()) for tree in scene.trees]


def _rows(states: dict[int, State], shard: slice) -> dict[int, State]:
    return {t: (pos[shard], None if vel is None else vel[shard]) for t, (pos, vel) in states.items()}


def _answer_or_error(worker: LocalWorlds | RemoteWorlds) -> Any:
    try:
        return worker.answer()
    except Exception as error:
        return error
