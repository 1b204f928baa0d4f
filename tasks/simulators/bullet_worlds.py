"""Many Bullet worlds, stepped together: here, or by another process."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import weakref
from collections.abc import Mapping, Sequence
from contextlib import suppress
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from typing import Any

import numpy as np
from numpy.typing import NDArray

from metarl.tasks.simulators.bullet_scene import Joints, Link, Scene
from metarl.tasks.simulators.bullet_thrusters import ThrusterForces
from metarl.tasks.simulators.bullet_world import Bench, World
from metarl.tasks.simulators.urdf import Array


class Worlds:
    """n worlds whose scenes have the same structure, stepped one after another, with the forces of all computed at once."""

    def __init__(self) -> None:
        self._worlds: list[World] = []
        self._bench = Bench()

    def load(self, scenes: Sequence[Scene]) -> None:
        """Make the worlds anew."""
        while len(self._worlds) < len(scenes):
            self._worlds.append(World())
        for world, scene in zip(self._worlds, scenes, strict=True):
            world.load(scene)
        self._ctrl = np.zeros((len(scenes), scenes[0].num_ctrl))
        self._timestep = scenes[0].timestep
        self._wrenches: dict[Link, Array] = {}
        names = [tree.name for tree in scenes[0].trees]
        self._thrusters = {
            (names.index(thrusters.body), thrusters.body): ThrusterForces([scene.thrusters[k] for scene in scenes], self._timestep)
            for k, thrusters in enumerate(scenes[0].thrusters)
        }
        self._forces: dict[int, JointForces] = {}
        self._compensated: dict[int, list[tuple[int, int]]] = {}
        self._bench.close()
        for t in range(len(scenes[0].trees)):
            joints = [joints for scene in scenes if (joints := scene.trees[t].joints) is not None]
            if joints:
                self._forces[t] = JointForces(joints)
                self._compensated[t] = [self._bench.load(j.compensated, s.gravity) for j, s in zip(joints, scenes, strict=True)]

    def tune(self, scenes: Sequence[Scene]) -> None:
        """Take over motors, springs and frictions while the worlds go on; masses and shapes stay."""
        for world, scene in zip(self._worlds, scenes, strict=True):
            world.tune(scene)
        for k, thrusters in enumerate(self._thrusters.values()):
            thrusters.tune([scene.thrusters[k] for scene in scenes])
        for t, forces in self._forces.items():
            forces.tune([joints for scene in scenes if (joints := scene.trees[t].joints) is not None])

    def reset(self, joints: Mapping[int, tuple[Array, Array | None]], roots: Mapping[int, tuple[Array, Array | None]], ctrl: Array) -> None:
        """Everything where it is told, or as it was loaded.

        Args:
            joints: number of a tree -> (n, J) positions of its joints and their velocities, None at rest.
            roots: number of a tree -> (n, 3) positions or (n, 7) positions and quaternions wxyz of its root's frame, and (n, 6) velocities.
            ctrl: (n, C) commands of the actuators.
        """
        for i, world in enumerate(self._worlds):
            world.reset(*({t: (pos[i], None if vel is None else vel[i]) for t, (pos, vel) in of.items()} for of in (joints, roots)))
        self._ctrl[:] = ctrl
        self._wrenches = {}
        for thrusters in self._thrusters.values():
            thrusters.reset(ctrl)

    def push_bodies(self, wrenches: Mapping[Link, Array]) -> None:
        """Push links with (n, 6) forces and torques at their centres of mass, in the world's frame, in all steps to come."""
        self._wrenches.update(wrenches)

    def advance(self, commands: Array | None, substeps: int, active: NDArray[np.bool_]) -> None:
        """Run the worlds of the mask.

        Args:
            commands: (n, S, C) of the actuators: one for each substep, or one for all; None leaves the last ones.
            substeps: how many.
            active: (n,) which worlds.
        """
        chosen = np.flatnonzero(active)
        states = {tree: self._states(tree, chosen) for tree in self._forces if len(chosen)}
        for s in range(substeps if len(chosen) else 0):
            if commands is not None:
                self._ctrl[:] = commands[:, min(s, commands.shape[1] - 1)]
            for link in self._wrenches.keys() | self._thrusters.keys():
                self._push_link(link, chosen)
            dampings = {tree: self._push(tree, chosen, *states[tree]) for tree in states}
            for i in chosen:
                self._worlds[i].step()
            states = {tree: self._damp(tree, chosen, *states[tree], *dampings[tree]) for tree in states}

    def _push_link(self, link: Link, chosen: NDArray[np.int_]) -> None:
        """Put what pushes the link from outside, and its own thrusters, on it for the next step."""
        wrench = self._wrenches[link][chosen] if link in self._wrenches else np.zeros((len(chosen), 6))
        if link in self._thrusters:
            states = [self._worlds[i].base_motion(link[0]) for i in chosen]
            turned, linvel, angvel = (np.array(part) for part in zip(*states, strict=True))
            wrench = self._thrusters[link].compute(chosen, turned, linvel, angvel, self._ctrl[chosen], wrench)
        for i, values in zip(chosen, wrench.tolist(), strict=True):
            self._worlds[i].push_link(link, values)

    def _states(self, tree: int, chosen: NDArray[np.int_]) -> tuple[Array, Array]:
        """Positions and velocities (m, J) of the tree's joints."""
        states = np.array([self._worlds[i].joint_states(tree) for i in chosen])
        return states[..., 0], states[..., 1]

    def _push(self, tree: int, chosen: NDArray[np.int_], qpos: Array, qvel: Array) -> tuple[Array, Array]:
        """Put the forces on the joints for the next step; mass matrices (m, J, J) and dampings (m, J)."""
        positions = qpos.tolist()
        mass = np.array([self._worlds[i].mass_matrix(tree, q) for i, q in zip(chosen, positions, strict=True)])
        weight = np.array([self._bench.weight(self._compensated[tree][i], q) for i, q in zip(chosen, positions, strict=True)])
        force, damping = self._forces[tree].compute(chosen, qpos, qvel, self._ctrl[chosen])
        for i, effort in zip(chosen, (weight + force).tolist(), strict=True):
            self._worlds[i].push(tree, effort)
        return mass, damping

    def _damp(self, tree: int, chosen: NDArray[np.int_], qpos: Array, qvel: Array, mass: Array, damping: Array) -> tuple[Array, Array]:
        """Make the step that was taken from (qpos, qvel) one with implicit damping; the new states.

        MuJoCo's implicitfast integrator finds with the mass matrix M which contacts push how much, and then makes its step with
        M + dt D, D being the damping of joints and actuators. Bullet makes its step with M. Damping as strong as that of a stiff
        position loop would need far smaller steps without this.
        """
        change = self._states(tree, chosen)[1] - qvel
        heavier = mass + self._timestep * damping[..., None] * np.eye(mass.shape[-1])
        qvel = qvel + np.linalg.solve(heavier, mass @ change[..., None])[..., 0]
        qpos = qpos + self._timestep * qvel
        for i, q, v in zip(chosen, qpos[..., None].tolist(), qvel[..., None].tolist(), strict=True):
            self._worlds[i].set_joint_states(tree, q, v)
        return qpos, qvel

    def read(self) -> Array:
        """(n, S) readings of all sensors, one after another."""
        return np.array([world.read() for world in self._worlds])

    def efforts(self, tree: int) -> Array:
        """(n, J) with which actuators drove the tree's joints in the last step."""
        return self._forces[tree].driven

    def launch(self, tree: int, linvel: Array) -> None:
        """Give the root of a tree that floats a linear velocity (n, 3)."""
        for world, velocity in zip(self._worlds, linvel.tolist(), strict=True):
            world.launch(tree, velocity)

    def render(self, world: int, width: int, height: int) -> NDArray[np.uint8]:
        """(height, width, 3) picture of one world."""
        return self._worlds[world].render(width, height)

    def frictions(self) -> list[dict[Link, float]]:
        """Of each world, the friction that Bullet says each link has."""
        return [world.frictions() for world in self._worlds]

    def close(self) -> None:
        """Free all clients."""
        for world in self._worlds:
            world.close()
        self._worlds = []
        self._bench.close()


class JointForces:
    """What actuators, springs and damping of n worlds do to the joints of one tree."""

    def __init__(self, joints: Sequence[Joints]) -> None:
        self._joint, self._ctrl = joints[0].actuator_joint, joints[0].actuator_ctrl
        self._onto = np.eye(len(joints[0].names))[self._joint]  # (A, J): sums what several actuators do to a joint
        self._coupling = joints[0].coupling
        self.driven = np.zeros((len(joints), len(joints[0].names)))  # by actuators, in the last step
        self.tune(joints)

    def tune(self, joints: Sequence[Joints]) -> None:
        """Take over what actuators, springs and damping do."""
        fields = ("coupling_stiffness", "damping", "stiffness", "spring", "gain", "gear", "bias", "ctrl_range", "force_range")
        self._tables = {name: np.stack([getattr(j, name) for j in joints]) for name in fields}

    def compute(self, chosen: NDArray[np.int_], qpos: Array, qvel: Array, ctrl: Array) -> tuple[Array, Array]:
        """Forces in m chosen worlds.

        Args:
            chosen: numbers of the worlds.
            qpos: (m, J) positions of the joints.
            qvel: (m, J) their velocities.
            ctrl: (m, C) commands of the actuators.

        Returns:
            (m, J) forces, N·m or N, and (m, J) damping: how much they fall with the velocity. An actuator at its limit damps nothing.
        """
        of = {name: table[chosen] for name, table in self._tables.items()}
        command = ctrl[:, self._ctrl].clip(of["ctrl_range"][..., 0], of["ctrl_range"][..., 1])
        b0, b1, b2 = np.moveaxis(of["bias"], -1, 0)
        wanted = of["gain"] * command + b0 + of["gear"] * (b1 * qpos[:, self._joint] + b2 * qvel[:, self._joint])
        low, high = np.moveaxis(of["force_range"], -1, 0)
        at_limit = (wanted <= low) | (wanted >= high)
        self.driven[chosen] = (of["gear"] * wanted.clip(low, high)) @ self._onto
        force = -of["damping"] * qvel - of["stiffness"] * (qpos - of["spring"]) + self.driven[chosen]
        force = force - (of["coupling_stiffness"] * (qpos @ self._coupling.T)) @ self._coupling
        return force, of["damping"] + np.where(at_limit, 0.0, -b2 * of["gear"] ** 2) @ self._onto


class LocalWorlds:
    """`Worlds` in this process, with the calls of `RemoteWorlds`."""

    def __init__(self) -> None:
        self._worlds = Worlds()

    def ask(self, method: str, *arguments: Any) -> None:
        """Call a method of `Worlds`."""
        self._answer = getattr(self._worlds, method)(*arguments)

    def answer(self) -> Any:
        """What the last call returned."""
        return self._answer

    def close(self) -> None:
        """Free the worlds."""
        self._worlds.close()


class RemoteWorlds:
    """`Worlds` in a process of its own, which ends when this one does, however that may be.

    Not made by `multiprocessing`: forking after torch has made threads may hang, and spawning runs the user's script again.
    """

    def __init__(self) -> None:
        self._connection, theirs = Pipe()
        code = f"from {__name__} import serve; serve({theirs.fileno()})"
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p), "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
        self.process = subprocess.Popen([sys.executable, "-c", code], pass_fds=[theirs.fileno()], env=environment, stdin=subprocess.DEVNULL)
        theirs.close()
        self._finish = weakref.finalize(self, _end, self._connection, self.process)

    def ask(self, method: str, *arguments: Any) -> None:
        """Call a method of `Worlds`; the answer must be fetched before the next call."""
        with suppress(ConnectionError):  # `answer` tells of a process that has died
            self._connection.send((method, arguments))

    def answer(self) -> Any:
        """What the last call returned.

        Raises:
            RuntimeError: the process has died.
            Exception: what the call raised.
        """
        try:
            answer = self._connection.recv()
        except (EOFError, ConnectionError):
            raise RuntimeError(f"a PyBullet process ended by itself (exit code {self.process.wait()})") from None
        if isinstance(answer, Exception):
            raise answer
        return answer

    def close(self) -> None:
        """End the process; what nobody refers to any more ends too."""
        self._finish()


def _end(connection: Connection, process: subprocess.Popen[bytes]) -> None:
    connection.close()
    process.wait()


def serve(descriptor: int) -> None:
    """What the process of `RemoteWorlds` does: answer calls until the other end of the pipe is closed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the other process's business; then the pipe closes
    connection, worlds = Connection(descriptor), Worlds()
    while True:
        try:
            method, arguments = connection.recv()
        except (EOFError, ConnectionError):
            return
        try:
            answer = getattr(worlds, method)(*arguments)
        except Exception as error:
            answer = error
        connection.send(answer)
