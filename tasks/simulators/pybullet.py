"""PyBullet: the second opinion, and the stand-in for a real robot. Never used to meta-train or to choose a model.

The scene is still described once. Of each simulation's MuJoCo model, with its parameters written into it by the task, the URDF is
loaded; actuators, springs and weight compensation act as they do there. What remains different is the engine: contacts above all.
"""

from __future__ import annotations

import os
from typing import Any

import mujoco
import mujoco.batch
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from metarl.tasks.simulators.bullet_scene import Scene, read_scene
from metarl.tasks.simulators.bullet_worlds import LocalWorlds, RemoteWorlds
from metarl.tasks.simulators.mujoco import compile_scene, reading_slices
from metarl.tasks.simulators.simulator import RobotSimulator
from metarl.tasks.simulators.urdf import Array
from metarl.tasks.task import Readings, Task

_WORTH_A_PROCESS = 8  # simulations; a process takes some two seconds to start


class PybulletSimulator(RobotSimulator):
    """See `Simulator`; `num_threads` are processes here, one of them this one if it is the only one."""

    def __init__(self, task: Task, num_sims: int, num_threads: int = 0) -> None:
        super().__init__(task, num_sims)
        self.model = compile_scene(task)
        read_scene(self.model, self.robot)  # refuses at once what Bullet cannot do
        self._slices = reading_slices(self.model)
        self._actuators = np.array([self.model.actuator(n).id for n in self.robot.joint_names])
        wanted = min(num_threads, num_sims) if num_threads else min(os.cpu_count() or 1, num_sims // _WORTH_A_PROCESS)
        self._workers: list[LocalWorlds | RemoteWorlds] = [RemoteWorlds() for _ in range(wanted)] if wanted > 1 else [LocalWorlds()]
        self._shards = [slice(int(part[0]), int(part[-1]) + 1) for part in np.array_split(np.arange(num_sims), len(self._workers))]

    def set_tasks(self, values: dict[str, NDArray[np.float64]]) -> None:
        batch = mujoco.batch.Batch(self.model, self.num_sims, 1)
        self.task.apply(batch, values)
        batch.set_const()
        scenes = [read_scene(batch.get_model(i), self.robot) for i in range(self.num_sims)]
        self._index(scenes[0])
        self._each("load", lambda shard: (scenes[shard],))

    def _index(self, scene: Scene) -> None:
        """Which tree is which, and where the robot's joints lie in its own."""
        self._trees = {tree.name: t for t, tree in enumerate(scene.trees)}
        self._robot_tree = next(t for t, tree in enumerate(scene.trees) if tree.joints and self.robot.joint_names[0] in tree.joints.names)
        joints = scene.trees[self._robot_tree].joints
        assert joints is not None
        self._num_joints = len(joints.names)
        self._columns = np.array([joints.names.index(name) for name in self.robot.joint_names])

    def reset(self, start: Readings, goals: Readings) -> Readings:
        self.last_qpos = start["qpos"]
        qpos = np.zeros((self.num_sims, self._num_joints))
        qpos[:, self._columns] = start["qpos"].numpy()
        ctrl = self._commands(start["qpos"].unsqueeze(1))[:, 0]
        placed = {name: value for name, value in start.items() if name != "qpos"}
        shown = {name.removesuffix("_pos"): value for name, value in goals.items()}
        poses = {self._trees[name]: value.double().numpy() for name, value in {**shown, **placed}.items() if name in self._trees}
        self._each("reset", lambda shard: ({self._robot_tree: qpos[shard]}, {t: pose[shard] for t, pose in poses.items()}, ctrl[shard]))
        return self.read()

    def read(self) -> Readings:
        data = torch.from_numpy(np.concatenate(self._each("read")).astype(np.float32))
        return {name: data[:, s] for name, s in self._slices.items()}

    def advance(self, targets: Tensor | None, substeps: int, active: Tensor | None) -> None:
        commands = None if targets is None else self._commands(targets.unsqueeze(1))
        self._advance(commands, substeps, active)

    def follow(self, targets: Tensor, active: Tensor | None) -> None:
        if self.on_frame is None:  # all targets at once: processes need not wait for each other after every step
            self._advance(self._commands(targets), targets.shape[1], active)
        else:
            super().follow(targets, active)

    def _commands(self, targets: Tensor) -> Array:
        """(N, S, C) commands of all actuators, from those (N, S, J) of the robot's joints."""
        commands = np.zeros((*targets.shape[:2], self.model.nu))
        commands[..., self._actuators] = targets.numpy()
        return commands

    def _advance(self, commands: Array | None, substeps: int, active: Tensor | None) -> None:
        mask = np.ones(self.num_sims, dtype=np.bool_) if active is None else active.numpy()
        self._each("advance", lambda shard: (None if commands is None else commands[shard], substeps, mask[shard]))

    def frictions(self) -> list[dict[tuple[int, str], float]]:
        """Of each simulation, the friction that Bullet says each link has; a link is the number of its tree and its name."""
        return [found for shard in self._each("frictions") for found in shard]

    def launch(self, body: str, linvel: Array) -> None:
        """Give a free body a linear velocity (N, 3) in m/s, world frame: to see how it slides by itself."""
        self._each("launch", lambda shard: (self._trees[body], linvel[shard]))

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


def _answer_or_error(worker: LocalWorlds | RemoteWorlds) -> Any:
    try:
        return worker.answer()
    except Exception as error:
        return error
