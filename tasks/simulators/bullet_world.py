"""One scene in one Bullet physics client. Quaternions are xyzw within this file, and nowhere else."""

from __future__ import annotations

import tempfile
import weakref
from collections.abc import Mapping
from itertools import combinations
from typing import Any

import numpy as np
from numpy.typing import NDArray

from metarl.tasks.simulators.bullet_scene import Link, Scene, Sensor
from metarl.tasks.simulators.urdf import Array, rotation

try:
    import pybullet as bullet
except ImportError as error:
    raise ImportError("PyBullet is not installed: pip install 'metarl[sim]'") from error

Quat = tuple[float, float, float, float]

_FLAGS = bullet.URDF_USE_INERTIA_FROM_FILE | bullet.URDF_USE_IMPLICIT_CYLINDER | bullet.URDF_USE_SELF_COLLISION | bullet.URDF_USE_SELF_COLLISION_INCLUDE_PARENT
_BASE = -1  # Bullet's number for the root link
_SOLVER_ITERATIONS = 50
_NEAR, _FAR = 0.01, 20.0  # m, what a camera sees


class Client:
    """A physics client; it takes some 30 MB, until nobody refers to it any more.

    Raises:
        RuntimeError: Bullet has none left.
    """

    def __init__(self) -> None:
        self.number: int = bullet.connect(bullet.DIRECT)
        if self.number < 0:
            raise RuntimeError("PyBullet has no physics client left (there are 1024 in a process): use more processes or fewer simulations")
        self.close = weakref.finalize(self, bullet.disconnect, physicsClientId=self.number)


class World:
    """A physics client and the scene in it."""

    def __init__(self) -> None:
        self._handle = Client()
        self._client = self._handle.number

    def load(self, scene: Scene) -> None:
        """Forget the last scene and make this one."""
        client = self._client
        bullet.resetSimulation(physicsClientId=client)
        bullet.setGravity(*scene.gravity, physicsClientId=client)
        bullet.setPhysicsEngineParameter(
            fixedTimeStep=scene.timestep, numSolverIterations=_SOLVER_ITERATIONS, deterministicOverlappingPairs=1, enableFileCaching=0, physicsClientId=client
        )
        self._bodies = [load_document(client, tree.document, tree.fixed) for tree in scene.trees]
        self._links = [_link_numbers(client, body) for body in self._bodies]
        self._joints = [_joint_numbers(client, body) for body in self._bodies]
        self._movable = [[self._joints[t][name] for name in tree.joints.names] if tree.joints else [] for t, tree in enumerate(scene.trees)]
        self._com = [bullet.getDynamicsInfo(body, _BASE, physicsClientId=client)[3:5] for body in self._bodies]
        for t, tree in enumerate(scene.trees):
            self._place(t, tree.pose)
            self._quieten(self._bodies[t])
        self._let_touch(scene)
        self.tune(scene)
        self._sensors, self._camera = scene.sensors, scene.camera
        self._fresh = bullet.saveState(physicsClientId=client)

    def _quieten(self, body: int) -> None:
        """No damping of Bullet's own. One property a call: Bullet drops some when several are given."""
        for link in range(_BASE, bullet.getNumJoints(body, physicsClientId=self._client)):
            bullet.changeDynamics(body, link, linearDamping=0.0, physicsClientId=self._client)
            bullet.changeDynamics(body, link, angularDamping=0.0, physicsClientId=self._client)
            bullet.changeDynamics(body, link, jointDamping=0.0, physicsClientId=self._client)

    def _let_touch(self, scene: Scene) -> None:
        """Those pairs of links collide that the scene names, and no others."""
        touching = {frozenset(pair) for pair in scene.touching}
        links = [(t, name) for t, numbers in enumerate(self._links) for name in numbers]
        for one, other in combinations(links, 2):
            allowed = int(frozenset((one, other)) in touching)
            bullet.setCollisionFilterPair(
                self._bodies[one[0]], self._bodies[other[0]], self._number(one), self._number(other), allowed, physicsClientId=self._client
            )

    def tune(self, scene: Scene) -> None:
        """Take over the frictions of a scene that has the same bodies: of what touches, and in joints."""
        for t, tree in enumerate(scene.trees):
            if tree.joints:  # Bullet's own motors: off, but for dry friction, which is a motor that wants to stand still
                loss = tree.joints.frictionloss.tolist()
                bullet.setJointMotorControlArray(self._bodies[t], self._movable[t], bullet.VELOCITY_CONTROL, forces=loss, physicsClientId=self._client)
        for link, friction in scene.friction.items():
            bullet.changeDynamics(self._bodies[link[0]], self._number(link), lateralFriction=friction, physicsClientId=self._client)
        for link, spinning in scene.spinning.items():
            bullet.changeDynamics(self._bodies[link[0]], self._number(link), spinningFriction=spinning, physicsClientId=self._client)

    def reset(self, joints: Mapping[int, tuple[Array, Array | None]], roots: Mapping[int, tuple[Array, Array | None]]) -> None:
        """Everything where it is told, or as it was loaded, at rest unless told otherwise; nothing is left of the contacts before.

        Args:
            joints: number of a tree -> (J,) positions and velocities of its joints.
            roots: number of a tree -> (3,) position or (7,) position and quaternion wxyz of its root's frame, and (6,) its velocity,
                linear in the world, angular in the frame.
        """
        bullet.restoreState(self._fresh, physicsClientId=self._client)
        for tree, (qpos, qvel) in joints.items():
            speeds = np.zeros(len(qpos)) if qvel is None else qvel
            for joint, value, speed in zip(self._movable[tree], qpos.tolist(), speeds.tolist(), strict=True):
                bullet.resetJointState(self._bodies[tree], joint, value, speed, physicsClientId=self._client)
        for tree, (pose, twist) in roots.items():
            self._place(tree, pose)
            if twist is not None and twist.any():
                turn = rotation(pose[3:])
                spin = turn @ twist[3:]
                com = twist[:3] + np.cross(spin, turn @ np.array(self._com[tree][0]))  # Bullet moves the centre of mass
                bullet.resetBaseVelocity(self._bodies[tree], com.tolist(), spin.tolist(), physicsClientId=self._client)

    def _place(self, tree: int, pose: Array) -> None:
        quat = _xyzw(pose[3:]) if len(pose) == 7 else (0.0, 0.0, 0.0, 1.0)
        com_pose = bullet.multiplyTransforms(pose[:3].tolist(), quat, *self._com[tree])
        bullet.resetBasePositionAndOrientation(self._bodies[tree], *com_pose, physicsClientId=self._client)

    def launch(self, tree: int, linvel: list[float]) -> None:
        """Give the root of a tree that floats a linear velocity."""
        bullet.resetBaseVelocity(self._bodies[tree], linvel, [0.0, 0.0, 0.0], physicsClientId=self._client)

    def joint_states(self, tree: int) -> list[tuple[float, float]]:
        """Position and velocity of the tree's joints."""
        return [state[:2] for state in bullet.getJointStates(self._bodies[tree], self._movable[tree], physicsClientId=self._client)]

    def mass_matrix(self, tree: int, qpos: list[float]) -> Any:
        """(J, J) rows of the mass matrix of the tree's joints."""
        return bullet.calculateMassMatrix(self._bodies[tree], qpos, physicsClientId=self._client)

    def set_joint_states(self, tree: int, qpos: list[list[float]], qvel: list[list[float]]) -> None:
        """Put the tree's joints there; each number in a list of its own."""
        bullet.resetJointStatesMultiDof(self._bodies[tree], self._movable[tree], qpos, qvel, physicsClientId=self._client)

    def push(self, tree: int, efforts: list[float]) -> None:
        """Efforts on the tree's joints during the next step."""
        bullet.setJointMotorControlArray(self._bodies[tree], self._movable[tree], bullet.TORQUE_CONTROL, forces=efforts, physicsClientId=self._client)

    def base_motion(self, tree: int) -> tuple[Array, Any, Any]:
        """Of the root of a tree that floats: rotation matrix, velocity of its centre of mass, angular velocity."""
        _, quat, _, linear, angular = self._root_state(tree)
        return rotation(np.array([quat[3], *quat[:3]])), linear, angular

    def push_link(self, link: Link, wrench: list[float]) -> None:
        """Force and torque at the link's centre of mass, in the world's frame, during the next step."""
        body, number = self._bodies[link[0]], self._number(link)
        com = self._link_state(*link)[2]
        bullet.applyExternalForce(body, number, wrench[:3], com, bullet.WORLD_FRAME, physicsClientId=self._client)
        bullet.applyExternalTorque(body, number, wrench[3:], bullet.WORLD_FRAME, physicsClientId=self._client)

    def step(self) -> None:
        """One step of physics."""
        bullet.stepSimulation(physicsClientId=self._client)

    def read(self) -> list[float]:
        """Readings of all sensors, one after another."""
        states: dict[tuple[bool, int, str], Any] = {}  # a joint and a link may have the same name
        values: list[float] = []
        for sensor in self._sensors:
            key = sensor.of_joint, sensor.tree, sensor.target
            if key not in states:
                states[key] = self._joint_state(*key[1:]) if sensor.of_joint else self._link_state(*key[1:])
            values.extend(_measure(sensor, states[key]))
        return values

    def _joint_state(self, tree: int, name: str) -> Any:
        return bullet.getJointState(self._bodies[tree], self._joints[tree][name], physicsClientId=self._client)

    def _link_state(self, tree: int, name: str) -> tuple[Any, Any, Any, Any, Any]:
        """Of a link: position and quaternion of its frame, position and velocity of its centre of mass, angular velocity."""
        body, link = self._bodies[tree], self._links[tree][name]
        if link == _BASE:
            return self._root_state(tree)
        state = bullet.getLinkState(body, link, computeLinkVelocity=1, computeForwardKinematics=1, physicsClientId=self._client)
        return state[4], state[5], state[0], state[6], state[7]

    def _root_state(self, tree: int) -> tuple[Any, Any, Any, Any, Any]:
        body = self._bodies[tree]
        com, com_quat = bullet.getBasePositionAndOrientation(body, physicsClientId=self._client)
        pos, quat = bullet.multiplyTransforms(com, com_quat, *bullet.invertTransform(*self._com[tree]))
        return (pos, quat, com, *bullet.getBaseVelocity(body, physicsClientId=self._client))

    def _number(self, link: Link) -> int:
        return self._links[link[0]][link[1]]

    def frictions(self) -> dict[Link, float]:
        """The friction that Bullet says each link has."""
        links = [(t, name) for t, numbers in enumerate(self._links) for name in numbers]
        return {link: bullet.getDynamicsInfo(self._bodies[link[0]], self._number(link), physicsClientId=self._client)[1] for link in links}

    def render(self, width: int, height: int) -> NDArray[np.uint8]:
        """(height, width, 3) picture by the scene's camera, or from the side."""
        if self._camera is None:
            fovy, view = 45.0, bullet.computeViewMatrixFromYawPitchRoll([0.4, 0.0, 0.3], 2.0, 60.0, -25.0, 0.0, 2)
        else:
            eye, axes, fovy = self._camera.pos, self._camera.rotation, self._camera.fovy
            view = bullet.computeViewMatrix(eye.tolist(), (eye - axes[:, 2]).tolist(), axes[:, 1].tolist())
        lens = bullet.computeProjectionMatrixFOV(fovy, width / height, _NEAR, _FAR)
        picture = bullet.getCameraImage(width, height, view, lens, renderer=bullet.ER_TINY_RENDERER, physicsClientId=self._client)
        return np.asarray(picture[2], dtype=np.uint8).reshape(height, width, 4)[..., :3].copy()

    def close(self) -> None:
        """Free the client."""
        self._handle.close()


class Bench:
    """Trees without those masses whose weight is not compensated, to compute the weight of the rest."""

    def __init__(self) -> None:
        self._clients: dict[tuple[float, ...], Client] = {}
        self._bodies: dict[tuple[tuple[float, ...], str], int] = {}

    def load(self, document: str, gravity: tuple[float, float, float]) -> tuple[int, int]:
        """Client and number of the tree; the same document is loaded once."""
        if gravity not in self._clients:
            self._clients[gravity] = Client()
            bullet.setGravity(*gravity, physicsClientId=self._clients[gravity].number)
        client = self._clients[gravity].number
        if (gravity, document) not in self._bodies:
            bullet.setPhysicsEngineParameter(enableFileCaching=0, physicsClientId=client)
            self._bodies[gravity, document] = load_document(client, document, fixed=True)
        return client, self._bodies[gravity, document]

    def weight(self, body: tuple[int, int], qpos: list[float]) -> tuple[float, ...]:
        """Efforts that hold the tree against gravity."""
        zero = [0.0] * len(qpos)
        efforts: tuple[float, ...] = bullet.calculateInverseDynamics(body[1], qpos, zero, zero, physicsClientId=body[0])
        return efforts

    def close(self) -> None:
        """Free the clients."""
        for client in self._clients.values():
            client.close()
        self._clients, self._bodies = {}, {}


def load_document(client: int, document: str, fixed: bool) -> int:
    """Number of the body made from a URDF document; Bullet reads documents from files only."""
    with tempfile.NamedTemporaryFile("w", suffix=".urdf") as file:
        file.write(document)
        file.flush()
        body: int = bullet.loadURDF(file.name, useFixedBase=fixed, flags=_FLAGS, physicsClientId=client)
    return body


def _joint_numbers(client: int, body: int) -> dict[str, int]:
    infos = [bullet.getJointInfo(body, j, physicsClientId=client) for j in range(bullet.getNumJoints(body, physicsClientId=client))]
    return {info[1].decode(): info[0] for info in infos}


def _link_numbers(client: int, body: int) -> dict[str, int]:
    infos = [bullet.getJointInfo(body, j, physicsClientId=client) for j in range(bullet.getNumJoints(body, physicsClientId=client))]
    return {bullet.getBodyInfo(body, physicsClientId=client)[0].decode(): _BASE, **{info[12].decode(): info[0] for info in infos}}


def _measure(sensor: Sensor, state: Any) -> list[float]:
    if sensor.of_joint:
        return [state[0 if sensor.quantity == "qpos" else 1]]
    pos, quat, com, linear, angular = state
    place, turned = bullet.multiplyTransforms(pos, quat, sensor.pose[:3].tolist(), _xyzw(sensor.pose[3:]))
    if sensor.quantity == "pos":
        return list(place)
    if sensor.quantity == "quat":
        return [turned[3], *turned[:3]]
    if sensor.quantity == "angvel":
        return list(angular)
    x, y, z = (p - c for p, c in zip(place, com, strict=True))
    spin_x, spin_y, spin_z = angular
    turning = spin_y * z - spin_z * y, spin_z * x - spin_x * z, spin_x * y - spin_y * x  # Bullet's velocity is that of the centre of mass
    return [v + t for v, t in zip(linear, turning, strict=True)]


def _xyzw(quat_wxyz: Array) -> Quat:
    w, x, y, z = quat_wxyz.tolist()
    return x, y, z, w
