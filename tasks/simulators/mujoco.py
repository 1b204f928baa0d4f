"""MuJoCo on the CPU: all simulations in one `mujoco.batch.Batch`, stepped by its thread pool with the GIL released."""

from __future__ import annotations

import os

import mujoco
import mujoco.batch
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from metarl.tasks.simulators.simulator import RobotSimulator
from metarl.tasks.task import Readings, Task

_VEL = mujoco.mjtStage.mjSTAGE_VEL.value  # makes readings belong to the new state, not to the one before the last substep


def compile_scene(task: Task) -> mujoco.MjModel:
    """The task's scene as a model, with the solver settings that every task shares."""
    spec = task.build()
    spec.option.timestep = task.physics_dt
    spec.option.integrator = mujoco.mjtIntegrator.mjINT_IMPLICITFAST
    spec.option.cone = mujoco.mjtCone.mjCONE_ELLIPTIC
    spec.option.impratio = 10.0  # friction that holds as long as it should
    return spec.compile()


def reading_slices(model: mujoco.MjModel) -> dict[str, slice]:
    """Where each reading lies in `sensordata`: sensors `name` or `name/part`, the parts of a name one after another."""
    slices: dict[str, slice] = {}
    for i in range(model.nsensor):
        name = model.sensor(i).name.split("/")[0]
        begin = int(model.sensor_adr[i])
        end = begin + int(model.sensor_dim[i])
        if name in slices and slices[name].stop != begin:
            raise ValueError(f"sensors of reading {name!r} are not next to each other")
        slices[name] = slice(slices[name].start if name in slices else begin, end)
    return slices


class MujocoSimulator(RobotSimulator):
    """See `Simulator`. `batch` is open to whoever wants to look deeper."""

    def __init__(self, task: Task, num_sims: int, num_threads: int = 0) -> None:
        super().__init__(task, num_sims)
        self.model = compile_scene(task)
        self.batch = mujoco.batch.Batch(self.model, num_sims, num_threads or os.cpu_count() or 1, persistent=True)
        self._sensordata = self.batch.bind("sensordata")
        self._ctrl = self.batch.bind("ctrl")
        self._slices = reading_slices(self.model)
        self._joints = np.array([self.model.joint(n).qposadr[0] for n in self.robot.joint_names])
        self._actuators = np.array([self.model.actuator(n).id for n in self.robot.joint_names])
        self._renderer: mujoco.Renderer | None = None

    def set_tasks(self, values: dict[str, NDArray[np.float64]]) -> None:
        self.task.apply(self.batch, values)
        self.batch.set_const()

    def reset(self, start: Readings, goals: Readings) -> Readings:
        self.batch.reset(stage=mujoco.mjtStage.mjSTAGE_NONE.value)
        qpos = self.batch.bind("qpos")
        for name, value in start.items():
            if name == "qpos":
                qpos[:, self._joints] = value.numpy()
            else:
                address = int(self.model.joint(name).qposadr[0])
                qpos[:, address : address + 7] = value.numpy()
        self._ctrl[:, self._actuators] = start["qpos"].numpy()
        self.last_qpos = start["qpos"]
        for name, value in goals.items():
            body = mujoco.mj_name2id(self.model, mujoco.mjtObj.mjOBJ_BODY, name.removesuffix("_pos"))
            if body >= 0 and self.model.body_mocapid[body] >= 0:
                self.batch.bind("mocap_pos")[:, self.model.body_mocapid[body]] = value.numpy()
        self.batch.forward(stage=_VEL)
        return self.read()

    def read(self) -> Readings:
        data = torch.from_numpy(self._sensordata.astype(np.float32))
        return {name: data[:, s] for name, s in self._slices.items()}

    def advance(self, targets: Tensor | None, substeps: int, active: Tensor | None) -> None:
        if targets is not None:
            self._ctrl[:, self._actuators] = targets.numpy()
        self.batch.step(None if active is None else active.numpy(), substeps, _VEL)

    def render(self, sim: int, width: int = 640, height: int = 480) -> NDArray[np.uint8]:
        if self._renderer is None or (self._renderer.width, self._renderer.height) != (width, height):
            self._renderer = mujoco.Renderer(self.model, height, width)
        # the renderer draws its own model: give it this simulation's shapes, sizes and colours
        self.batch.get_model(sim, self._renderer.model)
        self._renderer.update_scene(self.batch.get_data(sim), self._camera())
        return self._renderer.render()

    def _camera(self) -> mujoco.MjvCamera | int:
        return 0 if self.model.ncam else -1

    def close(self) -> None:
        if self._renderer is not None:
            self._renderer.close()
