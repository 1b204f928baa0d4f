"""Hand-computed values of arm_reach on a UR5e."""

import numpy as np
import pytest
import torch

from metarl import tasks
from metarl.tasks.batched_env import BatchedEnv

TASK = tasks.make("arm_reach_ur5e")
NUM = 16


def test_a_full_action_turns_every_joint_by_half_its_speed_limit():
    """Half of 180 degrees a second, for 20 ms: 1.8 degrees."""
    home = torch.tensor([TASK.arm.home_qpos])
    moved = TASK.command(torch.ones(1, 6), {"command_qpos": home})
    np.testing.assert_allclose((moved.qpos[:, 0] - home).rad2deg(), 1.8, atol=1e-4)


@pytest.mark.parametrize("simulator", ["mujoco", "pybullet"])
def test_every_target_can_be_reached(simulator):
    pytest.importorskip(simulator, reason=f"{simulator} is not installed")
    env, batch = BatchedEnv(TASK, NUM, 1, simulator, 1, seed=0), TASK.sample(NUM, "iid")
    env.set_tasks(batch)
    env.reset()
    told = {name: torch.as_tensor(v, dtype=torch.float32) for name, v in batch.named().items()}
    for _ in range(TASK.horizon):
        env.step(TASK.expert(env.sensed, told).unsqueeze(1))
    assert TASK.error(env.readings).max() < 0.005
    env.close()
