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
    """The task's scene as a model, with the task's settings of the solver and, where it has none of its own, a sky.

    Raises:
        ValueError: MuJoCo cannot compile the scene: a mesh is broken, a name is missing.
    """
    spec = task.build()
    if not spec.textures:  # a kilobyte: models with larger ones are slow to copy
        kind, gradient = mujoco.mjtTexture.mjTEXTURE_SKYBOX, mujoco.mjtBuiltin.mjBUILTIN_GRADIENT
        spec.add_texture(name="sky", type=kind, builtin=gradient, rgb1=[0.55, 0.7, 0.85], rgb2=[0.95, 0.97, 1.0], width=8, height=48)
    spec.option.timestep = task.physics_dt
    task.solver(spec.option)
    try:
        return spec.compile()
    except ValueError as error:
        raise ValueError(f"the scene of {task.name} does not compile: {' '.join(str(error).split())}") from error


def reading_sizes(model: mujoco.MjModel) -> dict[str, int]:
    """Size of each reading, in the order in which they lie in `sensordata`: sensors `name` or `name/part`, the parts of a name one after another."""
    sizes: dict[str, int] = {}
    for i in range(model.nsensor):
        name = model.sensor(i).name.split("/")[0]
        if name in sizes and name != next(reversed(sizes)):
            raise ValueError(f"sensors of reading {name!r} are not next to each other")
        sizes[name] = sizes.get(name, 0) + int(model.sensor_dim[i])
    return sizes


def as_readings(sizes: dict[str, int], parts: list[NDArray[np.float64]]) -> Readings:
    """Readings of these sizes from the arrays (N, ...) in which they lie one after another."""
    data = torch.from_numpy(np.concatenate(parts, 1, dtype=np.float32, casting="same_kind"))
    return dict(zip(sizes, data.split_with_sizes([*sizes.values()], 1), strict=True))


def body_named(task: Task, model: mujoco.MjModel, name: str) -> int:
    """Number of the body that a task pushes.

    Raises:
        ValueError: the scene has no such body.
    """
    number: int = mujoco.mj_name2id(model, mujoco.mjtObj.mjOBJ_BODY, name)
    if number < 0:
        raise ValueError(
            f"{task.name} pushes {name!r}: its scene has no body of that name; it has {', '.join(model.body(b).name for b in range(1, model.nbody))}"
        )
    return number


class MujocoSimulator(RobotSimulator):
    """See `Simulator`. `batch` is open to whoever wants to look deeper."""

    def __init__(self, task: Task, num_sims: int, num_threads: int = 0) -> None:
        super().__init__(task, num_sims, compile_scene(task))
        self.batch = mujoco.batch.Batch(self.model, num_sims, num_threads or os.cpu_count() or 1, persistent=True)
        fields = {name: self.batch.bind(name).reshape(num_sims, -1) for name in task.data_fields}
        self._measured = [self.batch.bind("sensordata"), *fields.values()]
        self._sizes = reading_sizes(self.model) | {name: field.shape[1] for name, field in fields.items()}
        self._ctrl, self._forces = torch.from_numpy(self.batch.bind("ctrl")), self.batch.bind("actuator_force")
        self._pushed = self.batch.bind("xfrc_applied").reshape(num_sims, self.model.nbody, 6)
        self._numbers: dict[str, int] = {}  # of bodies that are pushed
        lagging = np.flatnonzero(self.model.actuator_dyntype == mujoco.mjtDyn.mjDYN_FILTEREXACT)
        self._lagging = self.model.actuator_ctrladr[lagging], self.model.actuator_actadr[lagging]
        self._renderer: mujoco.Renderer | None = None

    def set_tasks(self, values: dict[str, NDArray[np.float64]]) -> None:
        self.apply(self.batch, values)
        self.batch.set_const()

    def adjust(self, values: dict[str, NDArray[np.float64]]) -> bool:
        fields = ("qpos", "qvel", "ctrl", *(("act",) if self.model.na else ()), *(("mocap_pos", "mocap_quat") if self.model.nmocap else ()))
        before = {name: self.batch.bind(name).copy() for name in fields}
        self.set_tasks(values)  # finds the new constants in the model's own pose
        for name, value in before.items():
            self.batch.bind(name)[:] = value
        self.batch.forward(stage=_VEL)
        return True

    def reset(self, start: Readings, goals: Readings) -> Readings:
        self.batch.reset(stage=mujoco.mjtStage.mjSTAGE_NONE.value)
        self._ctrl.copy_(self.first_ctrl(start))
        for name, value in start.items():
            field, columns = self.place(name)
            self.batch.bind(field)[:, columns] = value.numpy()
        if "qpos" in start:
            self.last_qpos = start["qpos"]
        if self.model.na:  # motors with a lag have long followed the first command
            self.batch.bind("act")[:, self._lagging[1]] = self.batch.bind("ctrl")[:, self._lagging[0]]
        self.show(goals)
        self.batch.forward(stage=_VEL)
        self._warm_up()
        return self.read()

    def push(self, wrenches: Readings) -> None:
        for name, wrench in wrenches.items():
            if name not in self._numbers:
                self._numbers[name] = body_named(self.task, self.model, name)
            self._pushed[:, self._numbers[name]] = wrench.numpy()

    def show(self, places: Readings) -> None:
        for name, value in places.items():
            if not name.endswith("_pos"):
                continue
            body = mujoco.mj_name2id(self.model, mujoco.mjtObj.mjOBJ_BODY, name.removesuffix("_pos"))
            if body >= 0 and self.model.body_mocapid[body] >= 0:
                self.batch.bind("mocap_pos")[:, self.model.body_mocapid[body]] = value.numpy()

    def read(self) -> Readings:
        return as_readings(self._sizes, self._measured)

    def effort(self) -> Tensor:
        driven = self._forces * self.model.actuator_gear[:, 0]
        return torch.from_numpy(driven.astype(np.float32))[:, self._actuators]

    def advance(self, ctrl: Tensor | None, substeps: int, active: Tensor | None) -> None:
        if ctrl is not None:
            self._ctrl.copy_(ctrl)
        self.batch.step(None if active is None else active.numpy(), substeps, _VEL)

    def follow(self, ctrl: Tensor, active: Tensor | None) -> None:
        if self.on_frame is not None:
            super().follow(ctrl, active)
        elif active is None:  # all commands at once: threads need not wait for each other after every step
            self._roll_out(ctrl, None)
        else:
            self._roll_out(ctrl[active], active.numpy())

    def _roll_out(self, ctrl: Tensor, mask: NDArray[np.bool_] | None) -> None:
        """One step with each of S commands (n, S, U) in turn, in the n simulations of the mask; one that MuJoCo warns of stands still for the rest of them."""
        self.batch.rollout(ctrl.shape[1], ctrl.numpy(), record=(), ids=mask)
        self.batch.forward(mask, _VEL)

    def render(self, sim: int, width: int = 640, height: int = 480) -> NDArray[np.uint8]:
        if self._renderer is None or (self._renderer.width, self._renderer.height) != (width, height):
            if self._renderer is not None:
                self._renderer.close()  # before the next one: each takes the one current OpenGL context
            self._renderer = mujoco.Renderer(self.model, height, width)
        # the renderer draws its own model: give it this simulation's shapes, sizes and colours
        self.batch.get_model(sim, self._renderer.model)
        picture = self._taken(sim, 0 if self.model.ncam else -1)
        closeup = mujoco.mj_name2id(self.model, mujoco.mjtObj.mjOBJ_CAMERA, "closeup")
        if closeup >= 0:  # what is too small in the picture lies in its corner
            small = self._taken(sim, closeup)[::4, ::4]
            picture[-len(small) - 4 :, -small.shape[1] - 4 :] = 255
            picture[-len(small) - 2 : -2, -small.shape[1] - 2 : -2] = small
        return picture

    def _taken(self, sim: int, camera: int) -> NDArray[np.uint8]:
        assert self._renderer is not None
        self._renderer.update_scene(self.batch.get_data(sim), camera)
        return self._renderer.render()

    def close(self) -> None:
        if self._renderer is not None:
            self._renderer.close()
