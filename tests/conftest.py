"""Shared by all tests: one thread for torch, and an algorithm small enough to train in a second."""

import dataclasses

import pytest
import torch

from metarl import algos, tasks
from metarl.rollout import collect
from metarl.tasks.batched_env import BatchedEnv
from metarl.tasks.point_navigation import PointNavigation

SMALL = {"num_tasks": 3, "num_robots": 2, "iterations": 4, "hidden_size": 8, "layers": (8,), "hidden": (8,), "epochs": 2, "minibatches": 2}
SMALL |= {"vae_updates": 2, "vae_trials": 4, "buffer_trials": 8}
SMALL |= {"updates": 3, "pool_tasks": 6, "memory": 64, "meta_batch": 2, "batch_size": 8, "context_size": 5, "encoder_layers": (8,)}
SMALL |= {"head_start": 1, "segment": 5}
SMALL |= {"width": 16, "heads": 2, "batch_trials": 4}


def pytest_configure(config):
    torch.set_num_threads(1)


@pytest.fixture
def short_episodes(monkeypatch):
    """point_navigation with episodes of 8 decisions, everywhere in this process."""
    monkeypatch.setattr(PointNavigation, "horizon", 8)


@pytest.fixture(scope="session")
def small_config():
    """small_config(algorithm, **overrides): a configuration for tests; settings that an algorithm does not have are left out."""

    def make(name, **overrides):
        kind = algos.load(name).Config
        known = {f.name for f in dataclasses.fields(kind)}
        return kind(**{k: v for k, v in (SMALL | overrides).items() if k in known})

    return make


@pytest.fixture(scope="session")
def small_algorithm(small_config):
    """small_algorithm(name, task="point_navigation", seed=1, **overrides): `overrides` are those of `small_config`."""

    def make(name, task="point_navigation", seed=1, **overrides):
        made = tasks.make(task)
        return algos.load(name)(made.spec, made.params, small_config(name, **overrides), seed)

    return make


@pytest.fixture(scope="session")
def small_rollout():
    """small_rollout(algorithm, start=0): what a training adapter does in its next tasks, in a new environment."""

    def make(algorithm, start=0):
        task, config = tasks.make(algorithm.spec.task), algorithm.config
        env = BatchedEnv(task, config.num_tasks, config.num_robots, num_threads=1, seed=7)
        env.set_tasks(task.sample(config.num_tasks, start=start))
        return collect(env, algorithm.adapter(config.num_tasks, config.num_robots, training=True), explore=True)

    return make


@pytest.fixture
def as_slow_as_a_robot():
    """as_slow_as_a_robot(task): the task, whose planned motions take as long as the robot's joints need, as they do on ROS; for one simulation."""
    from metarl.ros_nodes.wires import wire

    def slowed(task):
        decided, hung = task.command, wire(task.robot_name)

        def command(action, readings):
            motion = decided(action, readings)
            one = type(motion)(motion.qpos[0], motion.qvel[0], motion.dt, motion.gripper if motion.gripper is None else motion.gripper[0])
            return hung.executable(hung.planned(one, 0))

        task.command = command
        return task

    return slowed


class Pilot:
    """Acts on the observation, on what it has been paid, and with noise of its own."""

    def __init__(self, spec):
        self.weights = torch.randn(spec.obs_size, spec.action_size, generator=torch.Generator().manual_seed(1)) / spec.obs_size
        self.reset()

    def reset(self):
        self.rng, self.paid = torch.Generator().manual_seed(2), 0.0

    def act(self, obs, explore=True):
        noise = 0.3 * torch.randn(*obs.shape[:-1], self.weights.shape[1], generator=self.rng)
        return torch.tanh(0.5 * (obs @ self.weights) + 0.1 * self.paid + noise)

    def observe(self, step):
        self.paid = 0.5 * self.paid + float(step.reward)

    def adapt(self):
        pass


@pytest.fixture(scope="session")
def pilot():
    """pilot(spec): an adapter that nothing has trained, and whose actions depend on all that it is given."""
    return Pilot
