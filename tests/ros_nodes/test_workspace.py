"""Where the tool may be: by forward kinematics without torch."""

import numpy as np
import pytest
import torch

from metarl import robots, tasks
from metarl.robots.kinematics import tool_pose
from metarl.robots.spec import ArmSpec
from metarl.ros_nodes.limits import Command
from metarl.ros_nodes.rejection import Rejected
from metarl.ros_nodes.workspace import Workspace

ARM = robots.load_arm("arm7")
HOME = np.array(ARM.home_qpos)
FAR = np.full(3, 10.0)


@pytest.mark.parametrize("name", [n for n in robots.names() if isinstance(robots.load(n), ArmSpec)])
def test_the_tool_is_where_kinematics_in_torch_say(name):
    spec = robots.load_arm(name)
    low, high = np.array(spec.qpos_limits).T
    qpos = low + (high - low) * np.random.default_rng(0).random((50, spec.num_joints))
    found = Workspace(spec, -FAR, FAR).tool_position(qpos)
    np.testing.assert_allclose(found, tool_pose(spec, torch.from_numpy(qpos))[0].numpy(), atol=1e-12)


def turned(angle, points=1, time=1.0):
    """The base joint turned by `angle`: the tool moves on a circle of 0.307 m about the vertical axis."""
    goal = HOME + np.array([angle, 0, 0, 0, 0, 0, 0])
    return Command(1, time * np.arange(1, points + 1), np.tile(goal, (points, 1)), np.zeros((points, 7)))


def test_what_leaves_the_box_is_refused_with_the_place():
    box = Workspace(ARM, np.array([-1.0, -0.1, 0.0]), np.array([1.0, 0.1, 1.0]))
    box.check(turned(0.3), HOME)  # y = 0.307 sin 0.3 = 0.091
    with pytest.raises(Rejected, match=r"workspace: the tool would come to \(0.28\d, 0.12\d, 0.\d+\) m, 0.02\d m outside of its box"):
        box.check(turned(0.42), HOME)


def test_a_trajectory_is_looked_at_between_its_points():
    """From -0.3 to 0.3 rad: both ends lie within x < 0.3, the middle does not."""
    start = HOME + np.array([-0.3, 0, 0, 0, 0, 0, 0])
    box = Workspace(ARM, -FAR, np.array([0.3, 10.0, 10.0]))
    with pytest.raises(Rejected, match="workspace"):
        box.check(turned(0.3, points=2), start)


def test_from_outside_the_way_back_is_free():
    box = Workspace(ARM, np.array([-1.0, -0.1, 0.0]), np.array([1.0, 0.1, 1.0]))
    outside = HOME + np.array([0.6, 0, 0, 0, 0, 0, 0])
    box.check(turned(0.5), outside)
    with pytest.raises(Rejected, match="workspace"):
        box.check(turned(0.7), outside)


def test_what_is_no_box_is_refused():
    with pytest.raises(ValueError, match="three numbers below three others"):
        Workspace(ARM, np.array([0.0, 0.0, 0.5]), np.array([1.0, 1.0, 0.5]))


def test_strikes_stay_above_the_floor():
    """So that a box whose floor is the table's may be used with them."""
    task = tasks.make("arm_slide")
    rng = torch.Generator().manual_seed(0)
    values = {k: torch.as_tensor(v, dtype=torch.float32) for k, v in task.sample(50).named().items()}
    start, goals = task.start(values, rng), task.goals(values, rng)
    sensed = task.sense({"qpos": start["qpos"], "object_pos": start["object"][:, :3], **goals}, values)
    command = task.command(2 * torch.rand(50, 3, generator=rng) - 1, sensed)
    box = Workspace(ARM, np.array([-1.0, -1.0, 0.0]), np.array([1.0, 1.0, 1.2]))
    time = command.dt * np.arange(1, command.qpos.shape[1] + 1)
    for before, qpos, qvel in zip(start["qpos"].double().numpy(), command.qpos.double().numpy(), command.qvel.double().numpy(), strict=True):
        box.check(Command(1, time, qpos, qvel), before)
