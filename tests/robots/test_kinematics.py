import itertools
import math

import mujoco
import numpy as np
import pytest
import torch

from metarl import robots
from metarl.robots.kinematics import follow_line, jacobian, rotation_from_wxyz, tool_pose

ARM = robots.load("arm7")
ZERO = torch.zeros(7, dtype=torch.float64)
# Franka's arm stretched up: shoulder 0.333, upper arm 0.316, forearm 0.384, then 0.088 forward and 0.107 + 0.1034 down
STRETCHED = (0.088, 0.0, 0.333 + 0.316 + 0.384 - 0.107 - 0.1034)


def test_rotation_of_quarter_turns_and_of_random_quaternions():
    s = math.sqrt(0.5)
    about_z = rotation_from_wxyz(torch.tensor([s, 0.0, 0.0, s]))
    torch.testing.assert_close(about_z, torch.tensor([[0.0, -1.0, 0.0], [1.0, 0.0, 0.0], [0.0, 0.0, 1.0]]))
    quats = torch.nn.functional.normalize(torch.randn(4, 5, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64), dim=-1)
    expected = np.zeros((20, 9))
    for row, quat in zip(expected, quats.reshape(-1, 4).numpy(), strict=True):
        mujoco.mju_quat2Mat(row, quat)
    np.testing.assert_allclose(rotation_from_wxyz(quats), expected.reshape(4, 5, 3, 3), atol=1e-12)


def test_stretched_arm_by_hand():
    pos, turned = tool_pose(ARM, ZERO)
    np.testing.assert_allclose(pos, STRETCHED, atol=1e-12)
    np.testing.assert_allclose(turned[:, 2], [0, 0, -1], atol=1e-12)


def test_turning_the_base_turns_the_tool_about_the_vertical():
    pos, _ = tool_pose(ARM, torch.tensor([math.pi / 2, *[0.0] * 6], dtype=torch.float64))
    np.testing.assert_allclose(pos, [0.0, 0.088, STRETCHED[2]], atol=1e-12)


def test_jacobian_of_the_stretched_arm_by_hand():
    _, jac = jacobian(ARM, ZERO)
    x, _, z = STRETCHED
    # joint 1: about the vertical at the origin; joint 2: about +y at the shoulder; joint 7: about the tool's own axis
    np.testing.assert_allclose(jac[:, 0], [0, x, 0, 0, 0, 1], atol=1e-12)
    np.testing.assert_allclose(jac[:, 1], [z - 0.333, 0, -x, 0, 1, 0], atol=1e-12)
    np.testing.assert_allclose(jac[:, 6], [0, 0, 0, 0, 0, -1], atol=1e-12)


def lines(count: int, points: int):
    """Straight lines between random places in front of the arm, beginning at its home pose."""
    generator = torch.Generator().manual_seed(2)
    low, high = torch.tensor([0.35, -0.3, 0.05], dtype=torch.float64), torch.tensor([0.6, 0.3, 0.5], dtype=torch.float64)
    ends = low + (high - low) * torch.rand(count, 2, 3, generator=generator, dtype=torch.float64)
    home = torch.tensor(ARM.home_qpos, dtype=torch.float64)
    corners = [tool_pose(ARM, home)[0].expand(count, 3), ends[:, 0], ends[:, 1]]
    s = torch.linspace(0, 1, points, dtype=torch.float64).unsqueeze(-1)
    legs = [a.unsqueeze(1) + s * (b - a).unsqueeze(1) for a, b in itertools.pairwise(corners)]
    return home.expand(count, 7), torch.cat(legs, 1)


def test_lines_anywhere_in_the_workspace_are_followed_pointing_down():
    start, wanted = lines(200, 40)
    path = follow_line(ARM, start, wanted)
    pos, turned = tool_pose(ARM, path)
    assert (pos - wanted).norm(dim=-1).max() < 2e-3
    assert turned[..., 2, 2].max() < -0.9995
    step = path.diff(dim=1).norm(dim=-1)
    assert step.max() < 0.15, "neighbouring points have neighbouring poses"


def test_lines_do_not_depend_on_what_else_is_in_the_batch():
    start, wanted = lines(6, 20)
    together = follow_line(ARM, start.reshape(2, 3, 7), wanted.reshape(2, 3, 40, 3))
    assert together.shape == (2, 3, 40, 7)
    torch.testing.assert_close(together[1, 0], follow_line(ARM, start[3], wanted[3]), atol=1e-12, rtol=0)


@pytest.mark.parametrize("place", [(1.5, 0.0, 0.3), (0.0, 0.0, 0.2), (-0.8, 0.0, 0.1)])
def test_places_out_of_reach_leave_the_joints_inside_their_limits(place):
    home = torch.tensor(ARM.home_qpos, dtype=torch.float64)
    line = tool_pose(ARM, home)[0] + torch.linspace(0, 1, 60, dtype=torch.float64).unsqueeze(-1) * (
        torch.tensor(place, dtype=torch.float64) - tool_pose(ARM, home)[0]
    )
    path = follow_line(ARM, home, line)
    low, high = ARM.qpos_range(path)
    assert path.isfinite().all()
    assert ((path >= low) & (path <= high)).all()


def test_kinematics_stay_on_the_device_of_their_input():
    qpos = torch.zeros(2, 7, device="meta")
    assert jacobian(ARM, qpos)[1].shape == (2, 6, 7)
    assert follow_line(ARM, qpos, torch.zeros(2, 3, 3, device="meta")).device.type == "meta"
