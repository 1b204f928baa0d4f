import pytest
import torch

from metarl import robots
from metarl.robots.spec import ArmSpec, JointTrajectory, interpolate, unknown_name


def test_interpolation_of_one_interval_is_the_cubic_through_both_ends():
    # from rest at 0 to 1 rad, at rest again after 2 s: 3 s² - 2 s³, slope 6 s (1 - s) / 2
    command = JointTrajectory(torch.tensor([[1.0]]), torch.tensor([[0.0]]), 2.0)
    qpos, qvel = interpolate(command, torch.zeros(1), 4)
    torch.testing.assert_close(qpos[:, 0], torch.tensor([0.15625, 0.5, 0.84375, 1.0]))
    torch.testing.assert_close(qvel[:, 0], torch.tensor([0.5625, 0.75, 0.5625, 0.0]))


def test_interpolation_passes_every_point_with_its_velocity():
    generator = torch.Generator().manual_seed(0)
    command = JointTrajectory(torch.randn(3, 2, 6, 7, generator=generator), torch.randn(3, 2, 6, 7, generator=generator), 0.1)
    start = torch.randn(3, 2, 7, generator=generator)
    qpos, qvel = interpolate(command, start, 5)
    assert qpos.shape == qvel.shape == (3, 2, 30, 7)
    torch.testing.assert_close(qpos[..., 4::5, :], command.qpos, atol=1e-5, rtol=0)
    torch.testing.assert_close(qvel[..., 4::5, :], command.qvel, atol=1e-4, rtol=0)


def test_interpolated_velocity_is_the_slope_of_the_interpolated_pose():
    generator = torch.Generator().manual_seed(1)
    command = JointTrajectory(*(torch.randn(4, 3, generator=generator, dtype=torch.float64) for _ in range(2)), 0.5)
    substeps = 1000
    qpos, qvel = interpolate(command, torch.zeros(3, dtype=torch.float64), substeps)
    slope = (qpos[2:] - qpos[:-2]) / (2 * 0.5 / substeps)
    inside = torch.arange(1, len(qpos) - 1) % substeps != substeps - 1  # the acceleration jumps at the points
    torch.testing.assert_close(slope[inside], qvel[1:-1][inside], atol=1e-4, rtol=0)


def test_a_constant_velocity_is_kept_between_points():
    # 0.2 rad every 0.1 s from the second interval on: a straight line there
    points = torch.tensor([0.2, 0.4, 0.6]).unsqueeze(-1)
    qpos, qvel = interpolate(JointTrajectory(points, torch.full((3, 1), 2.0), 0.1), torch.zeros(1), 10)
    torch.testing.assert_close(qpos[10:, 0], torch.linspace(0.22, 0.6, 20))
    torch.testing.assert_close(qvel[10:, 0], torch.full((20,), 2.0))


@pytest.mark.parametrize("name", robots.names())
def test_position_range_follows_dtype_and_device_of_its_argument(name):
    robot = robots.load(name)
    if not isinstance(robot, ArmSpec):
        with pytest.raises(TypeError, match=f"{name} is not an arm"):
            robots.load_arm(name)
        return
    low, high = robot.qpos_range(torch.zeros(2, dtype=torch.float64))
    assert low.tolist() == [limits[0] for limits in robot.qpos_limits]
    assert high.tolist() == [limits[1] for limits in robot.qpos_limits]
    assert robot.qpos_range(torch.zeros(2, device="meta"))[0].device.type == "meta"


def test_unknown_names_list_the_near_ones_first():
    assert str(unknown_name("robot", "arm8", ["drone", "arm7"])) == "no robot is called 'arm8': did you mean arm7? known are drone, arm7"
    assert str(unknown_name("robot", "xyz", ["car"])) == "no robot is called 'xyz': known are car"


def test_what_is_no_name_is_near_to_none():
    for name in (None, 3):
        assert str(unknown_name("split", name, ["train", "iid"])) == f"no split is called {name!r}: known are train, iid"


def test_a_long_list_of_names_is_cut():
    known = [f"x{number}" for number in range(43)]
    assert str(unknown_name("task", "abc", known)) == "no task is called 'abc': known are x0, x1, x2, x3, x4 and 38 more"
    assert str(unknown_name("task", "abc", known[:5])) == "no task is called 'abc': known are x0, x1, x2, x3, x4"
    assert str(unknown_name("task", "x8x", known)) == "no task is called 'x8x': did you mean x8, x38, x28, x18 or x9? 43 are known"
