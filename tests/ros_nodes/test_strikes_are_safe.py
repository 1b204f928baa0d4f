"""What arm_slide plans, the safety node lets through: the same limits are meant on both sides."""

import numpy as np
import torch

from metarl import tasks
from metarl.ros_nodes.limits import Command, Limits, check_trajectory
from metarl.ros_nodes.rejection import Rejected

TASK = tasks.make("arm_slide")
NUM = 500


def refused(action):
    """How many of NUM strikes at training tasks are refused, and why."""
    generator = torch.Generator().manual_seed(0)
    values = {k: torch.as_tensor(v, dtype=torch.float32) for k, v in TASK.sample(NUM).named().items()}
    start, goals = TASK.start(values, generator), TASK.goals(values, generator)
    sensed = TASK.sense({"qpos": start["qpos"], "object_pos": start["object"][:, :3], **goals}, values)
    command, limits, reasons = TASK.command(action, sensed), Limits.of(TASK.robot), []
    time = command.dt * np.arange(1, command.qpos.shape[1] + 1)
    for before, qpos, qvel in zip(start["qpos"].double().numpy(), command.qpos.double().numpy(), command.qvel.double().numpy(), strict=True):
        try:
            check_trajectory(limits, Command(1, time, qpos, qvel), before)
        except Rejected as rejected:
            reasons.append(str(rejected))
    return reasons


def test_strikes_inside_the_range_of_actions():
    assert refused(2 * torch.rand(NUM, 3, generator=torch.Generator().manual_seed(1)) - 1) == []


def test_strikes_at_the_corners_of_the_range_of_actions():
    assert refused((2 * torch.rand(NUM, 3, generator=torch.Generator().manual_seed(1)) - 1).sign()) == []
