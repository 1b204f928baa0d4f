"""arm_slide on the Jaco: strikes that the slow arm can make, and that reach its targets."""

import pytest
import torch

from metarl import tasks
from metarl.robots.kinematics import tool_pose
from metarl.robots.spec import interpolate
from metarl.tasks.arm_slide import ready_qpos
from metarl.tasks.batched_env import BatchedEnv

TASK = tasks.make("arm_slide_jaco")
CORNERS = torch.tensor([[s, d, c] for s in (-1.0, 0.0, 1.0) for d in (-1.0, 0.0, 1.0) for c in (-1.0, 1.0)])


def test_strikes_stay_inside_the_limits_of_the_arm_and_level():
    env = BatchedEnv(TASK, len(CORNERS), num_threads=1)
    env.set_tasks(TASK.sample(len(CORNERS), "ood_far"))
    env.reset()
    command = TASK.command(CORNERS, env.sensed)
    qpos, qvel = interpolate(command, torch.tensor(ready_qpos("jaco", TASK.ready)).expand(len(CORNERS), -1), 5)
    low, high = TASK.arm.qpos_range(qpos)
    assert ((qpos >= low) & (qpos <= high)).all()
    assert (qvel.abs().amax((0, 1)) <= torch.tensor(TASK.arm.qvel_limits)).all()
    assert ((command.qvel.diff(dim=1) / command.dt).abs().amax((0, 1)) <= torch.tensor(TASK.arm.qacc_limits)).all()
    pos, turned = tool_pose(TASK.arm, command.qpos)
    torch.testing.assert_close(pos[..., 2], torch.full_like(pos[..., 2], TASK.ready[2]), rtol=0, atol=2e-3)
    assert turned[..., 2, 2].max() < -0.999


@pytest.mark.parametrize("simulator", TASK.simulators)
@pytest.mark.parametrize("friction", TASK.params[3].train)
def test_the_slowest_strike_is_too_short_and_the_fastest_far_enough_at_any_friction(simulator, friction):
    env = BatchedEnv(TASK, 1, 2, simulator=simulator, num_threads=1)
    env.set_tasks(TASK.custom([{"friction": friction}]))
    before = env.reset()
    step = env.step(torch.tensor([[[-1.0, 0.0, 0.0], [1.0, 0.0, 0.0]]]))
    slow, fast = (step.next_obs - before)[0, :, 1].tolist()
    near, far = TASK.params[-2].train
    assert slow < near
    assert fast > far
    assert env.readings["object_linvel"].norm(dim=-1).max() < 0.05
