"""The strikes of arm_slide stay inside what the arm can do, for every action, target and camera that training may bring."""

import pytest
import torch

from metarl import tasks
from metarl.robots.spec import interpolate

TASK = tasks.make("arm_slide")
ROBOT = TASK.robot
NUM = 4000
PHYSICS_STEPS = 5  # of 4 ms between two points of the trajectory


@pytest.fixture(scope="module")
def strikes():
    """Trajectories of strikes: half of the actions at the corners of their range, half inside."""
    generator = torch.Generator().manual_seed(0)
    values = {k: torch.as_tensor(v, dtype=torch.float32) for k, v in TASK.sample(NUM).named().items()}
    start, goals = TASK.start(values, generator), TASK.goals(values, generator)
    sensed = TASK.sense({"qpos": start["qpos"], "object_pos": start["object"][:, :3], **goals}, values)
    action = 2 * torch.rand(NUM, 3, generator=generator) - 1
    action[::2] = action[::2].sign()
    return start["qpos"], TASK.command(action, sensed)


def test_positions(strikes):
    qpos, _ = interpolate(strikes[1], strikes[0], PHYSICS_STEPS)
    low, high = ROBOT.qpos_range(qpos)
    margin = torch.minimum(qpos - low, high - qpos).amin((0, 1))
    assert margin.min() > 0.1, f"smallest distance from a position limit, joint by joint: {margin.tolist()} rad"


def test_velocities(strikes):
    _, qvel = interpolate(strikes[1], strikes[0], PHYSICS_STEPS)
    used = qvel.abs().amax((0, 1)) / torch.tensor(ROBOT.qvel_limits)
    assert used.max() <= 1.0, f"largest part of the velocity limit, joint by joint: {used.tolist()}"


def test_accelerations(strikes):
    start, command = strikes
    at_rest = torch.zeros_like(start).unsqueeze(1)
    qacc = torch.cat([at_rest, command.qvel], 1).diff(dim=1) / command.dt  # mean over each interval of the trajectory
    used = qacc.abs().amax((0, 1)) / torch.tensor(ROBOT.qacc_limits)
    assert used.max() <= 1.0, f"largest part of the acceleration limit, joint by joint: {used.tolist()}"
