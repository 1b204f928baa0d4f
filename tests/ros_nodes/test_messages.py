"""ROS messages <-> readings, commands and events."""

import math

import numpy as np
import pytest
import torch

pytest.importorskip("rclpy", reason="ROS 2 is not installed: pip install 'metarl[ros]'")

from geometry_msgs.msg import PoseStamped, TwistStamped
from nav_msgs.msg import Odometry
from sensor_msgs.msg import JointState, LaserScan

from metarl import robots
from metarl.robots.spec import JointTrajectory
from metarl.ros_nodes import messages
from metarl.ros_nodes.events import Event
from metarl.ros_nodes.rejection import Rejected
from metarl.tasks.sensing import Lidar

NAMES = robots.load("arm7").joint_names
NOW = 1_795_376_414_258_407_514  # ns, of our time: more digits than a double holds


def refused(call, *arguments):
    with pytest.raises(Rejected) as found:
        call(*arguments)
    return found.value


def test_stamps_keep_every_nanosecond():
    assert messages.to_stamp(messages.to_time(NOW)) == NOW


# ---- joints -----------------------------------------------------------------------------------------------------------------


def test_joints_are_matched_by_name():
    message = JointState(name=["gripper", "b", "a"], position=[9.0, 2.0, 1.0], velocity=[0.9, 0.2, 0.1])
    qpos, qvel = messages.joint_arrays(message, ("a", "b"))
    assert qpos.tolist() == [1.0, 2.0]
    assert qvel.tolist() == [0.1, 0.2]


def test_single_precision_survives_the_way_there_and_back():
    qpos, qvel = torch.randn(2, 7, generator=torch.Generator().manual_seed(0))
    message = messages.joint_state(NAMES, qpos.double().numpy(), qvel.double().numpy(), NOW)
    found = messages.joint_readings(message, NAMES)
    assert torch.equal(found["qpos"], qpos)
    assert torch.equal(found["qvel"], qvel)
    assert messages.to_stamp(message.header.stamp) == NOW


@pytest.mark.parametrize(
    ("message", "reason", "text"),
    [
        (JointState(name=["a"], position=[1.0], velocity=[1.0]), "missing_joint", "b not among a"),
        (JointState(name=["a", "b"], position=[1.0], velocity=[1.0, 1.0]), "wrong_shape", "2 names and 1 positions"),
        (JointState(name=["a", "b"], position=[1.0, 1.0]), "wrong_shape", "2 names and 0 velocities"),
        (JointState(name=["a", "b"], position=[1.0, math.nan], velocity=[0.0, 0.0]), "not_finite", "first of b"),
        (JointState(name=["a", "b"], position=[1.0, 1.0], velocity=[math.inf, 0.0]), "not_finite", "first of a"),
    ],
)
def test_bad_joint_states(message, reason, text):
    found = refused(messages.joint_arrays, message, ("a", "b"))
    assert found.reason == reason
    assert text in str(found)


def test_efforts_that_are_not_measured_are_none():
    """As ros2_control's joint_state_broadcaster says it of joints without that interface; other joints, e.g. of a gripper, do not count."""
    message = JointState(name=["gripper", "b", "a"], position=[0.0] * 3, velocity=[0.0] * 3)
    assert messages.joint_efforts(message, ("a", "b")) is None
    message.effort = [9.0, math.nan, math.nan]
    assert messages.joint_efforts(message, ("a", "b")) is None
    message.effort = [math.nan, 2.0, 1.0]
    assert messages.joint_efforts(message, ("a", "b")).tolist() == [1.0, 2.0]
    for wrong in (math.nan, math.inf, -math.inf):
        message.effort = [9.0, wrong, 1.0]
        found = refused(messages.joint_efforts, message, ("a", "b"))
        assert found.reason == "not_finite"
        assert f"effort of b is {wrong}" in str(found)


# ---- bodies -----------------------------------------------------------------------------------------------------------------


def test_quaternions_are_turned_from_wxyz_to_the_messages_order_and_back():
    wxyz = torch.tensor([0.5, 0.1, -0.7, 0.5])
    message = messages.pose({"cup_pos": torch.tensor([[1.0, 2.0, 3.0]]), "cup_quat": wxyz[None]}, "cup", NOW)
    turn = message.pose.orientation
    assert [turn.x, turn.y, turn.z, turn.w] == pytest.approx([0.1, -0.7, 0.5, 0.5])
    found = messages.pose_readings(message, "cup")
    assert torch.equal(found["cup_quat"], wxyz)
    assert found["cup_pos"].tolist() == [1.0, 2.0, 3.0]


def test_a_body_without_orientation_is_not_turned():
    turn = messages.pose({"cup_pos": torch.zeros(1, 3)}, "cup", NOW).pose.orientation
    assert [turn.x, turn.y, turn.z, turn.w] == [0.0, 0.0, 0.0, 1.0]


def test_twists():
    message = messages.twist({"cup_linvel": torch.tensor([[1.0, 2.0, 3.0]]), "cup_angvel": torch.tensor([[4.0, 5.0, 6.0]])}, "cup", NOW)
    found = messages.twist_readings(message, "cup")
    assert found["cup_linvel"].tolist() == [1.0, 2.0, 3.0]
    assert found["cup_angvel"].tolist() == [4.0, 5.0, 6.0]


def test_poses_in_another_frame_and_poses_that_are_no_numbers():
    message = PoseStamped()
    message.header.frame_id = "camera"
    assert refused(messages.pose_readings, message, "cup").reason == "wrong_frame"
    message.header.frame_id = messages.BASE_FRAME
    message.pose.position.y = math.nan
    assert refused(messages.pose_readings, message, "cup").reason == "not_finite"
    assert refused(messages.twist_readings, TwistStamped(), "cup").reason == "wrong_frame"


# ---- a lidar ----------------------------------------------------------------------------------------------------------------


LIDAR = Lidar(4, 2.0, 6.0)  # sectors of half a radian, from -1 to 1


def test_echoes_go_through_a_scan_and_back():
    echoes = torch.tensor([[1.5, 6.0, 0.25, 5.99]])
    message = messages.scan(echoes, LIDAR, 10**9 + 5)
    assert (message.angle_min, message.angle_max) == pytest.approx((-0.75, 0.75))
    assert list(message.ranges) == pytest.approx([1.5, math.inf, 0.25, 5.99])  # REP 117: nothing is infinitely far
    assert (messages.stamp_of(message), message.header.frame_id) == (10**9 + 5, "base_link")
    message.header.stamp = messages.to_time(0)
    with pytest.raises(Rejected, match="no_stamp: its stamp is 0"):
        messages.stamp_of(message)
    assert torch.equal(messages.scan_readings(message, "lidar", LIDAR)["lidar"], echoes[0])


def test_a_scanner_with_more_rays_tells_the_nearest_of_each_sector():
    """Ten rays a radian, all around; behind the robot nobody listens. NaN, too near and too far are what REP 117 says they are."""
    angles = -3.1 + 0.1 * np.arange(63)
    message = LaserScan(angle_min=-3.1, angle_increment=0.1, range_min=0.1, range_max=8.0)
    message.header.frame_id = "base_link"
    ranges = np.full(63, math.inf)
    for angle, echo in ((-0.8, 3.0), (-0.6, 2.0), (-0.3, math.nan), (0.2, -math.inf), (0.7, 7.5), (3.0, 0.5)):
        ranges[np.abs(angles - angle).argmin()] = echo
    message.ranges = ranges.tolist()
    found = messages.scan_readings(message, "lidar", LIDAR)["lidar"]
    assert found.tolist() == pytest.approx([2.0, 6.0, 0.1, 6.0])  # 7.5 m is beyond what the task's own lidar hears


@pytest.mark.parametrize(
    ("frame", "ranges", "text"),
    [
        ("laser", [1.0] * 4, "wrong_frame: lidar"),
        ("base_link", [1.0] * 3, "wrong_shape: lidar: 3 rays, and none that measured anything in 1 of 4 sectors"),
        ("base_link", [1.0, math.nan, 1.0, 1.0], "wrong_shape: lidar: 4 rays, and none that measured anything in 1 of 4 sectors"),
    ],
)
def test_a_scan_that_says_too_little_is_refused(frame, ranges, text):
    message = messages.scan(torch.full((1, 4), 6.0), LIDAR, 1)
    message.header.frame_id, message.ranges = frame, ranges
    with pytest.raises(Rejected, match=text):
        messages.scan_readings(message, "lidar", LIDAR)


# ---- commands ---------------------------------------------------------------------------------------------------------------


def planned(points=3):
    generator = torch.Generator().manual_seed(0)
    return JointTrajectory(torch.randn(points, 7, generator=generator), torch.randn(points, 7, generator=generator), 0.02)


def test_a_trajectory_survives_the_way_there_and_back():
    before = planned(59)
    message = messages.command_message(messages.planned_command(before, NOW), NAMES)
    assert [p.time_from_start.nanosec for p in message.points[:3]] == [20_000_000, 40_000_000, 60_000_000]
    assert message.points[58].time_from_start.sec == 1
    command = messages.command_arrays(message, NAMES)
    after = messages.to_trajectory(command)
    assert command.stamp == NOW
    assert torch.equal(after.qpos[0], before.qpos)
    assert torch.equal(after.qvel[0], before.qvel)
    assert after.dt == before.dt


def test_columns_of_a_command_follow_the_names():
    command = messages.planned_command(planned(), NOW)
    turned = command._replace(qpos=command.qpos[:, ::-1], qvel=command.qvel[:, ::-1])
    found = messages.command_arrays(messages.command_message(turned, NAMES[::-1]), NAMES)
    assert np.array_equal(found.qpos, command.qpos)
    assert np.array_equal(found.qvel, command.qvel)


FINGERS, WIDTH = ("left", "right"), (0.0, 0.04)


def grasping():
    """The first point opens, the others close."""
    return messages.planned_command(planned()._replace(gripper=torch.tensor([[3.0, 3.0], [-5.0, -5.0], [-5.0, -5.0]])), NOW)


def test_a_gripper_is_told_its_effort_and_where_that_leads():
    message = messages.command_message(grasping(), NAMES, FINGERS, WIDTH)
    assert message.joint_names == [*NAMES, *FINGERS]
    assert [list(p.positions[7:]) for p in message.points] == [[0.04, 0.04], [0.0, 0.0], [0.0, 0.0]]
    assert list(message.points[1].effort) == [0.0] * 7 + [-5.0] * 2
    found = messages.command_arrays(message, NAMES, FINGERS)
    for one, other in zip(found, grasping(), strict=True):
        np.testing.assert_array_equal(one, other)
    assert messages.to_trajectory(found).gripper.tolist() == [grasping().gripper.tolist()]
    assert messages.command_message(grasping()._replace(gripper=None), NAMES, FINGERS, WIDTH).joint_names == list(NAMES)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda m: setattr(m, "joint_names", [*NAMES, "left", "thumb"]), "missing_joint"),
        (lambda m: setattr(m.points[1], "effort", []), "wrong_shape"),
        (lambda m: setattr(m.points[1], "positions", [0.0] * 7), "wrong_shape"),
    ],
)
def test_bad_commands_of_a_gripper(change, reason):
    message = messages.command_message(grasping(), NAMES, FINGERS, WIDTH)
    change(message)
    assert refused(messages.command_arrays, message, NAMES, FINGERS).reason == reason


def changed(change):
    message = messages.command_message(messages.planned_command(planned(), NOW), NAMES)
    change(message)
    return message


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda m: m.joint_names.__setitem__(2, "elbow"), "missing_joint"),
        (lambda m: setattr(m, "joint_names", [*NAMES, "elbow"]), "unknown_joint"),
        (lambda m: setattr(m, "joint_names", [*NAMES, NAMES[0]]), "unknown_joint"),
        (lambda m: setattr(m, "points", []), "wrong_shape"),
        (lambda m: setattr(m.points[1], "positions", [0.0] * 6), "wrong_shape"),
        (lambda m: setattr(m.points[2], "velocities", []), "wrong_shape"),
    ],
)
def test_bad_commands(change, reason):
    assert refused(messages.command_arrays, changed(change), NAMES).reason == reason


def test_points_that_are_not_equally_far_apart_cannot_be_simulated():
    message = changed(lambda m: setattr(m.points[2].time_from_start, "nanosec", 90_000_000))
    assert refused(messages.to_trajectory, messages.command_arrays(message, NAMES)).reason == "bad_time"


# ---- events -----------------------------------------------------------------------------------------------------------------


def test_events_survive_the_way_there_and_back():
    event = Event(NOW // 10**9, 7, 1, 3, 0.25, False, True, 0.125, NOW)
    assert messages.to_event(messages.event_message(event)) == event
    for epoch in (NOW // 10**6, NOW // 10**6 + 1):  # two trials 1 ms apart
        assert messages.to_event(messages.event_message(event._replace(epoch=epoch))).epoch == epoch
    assert math.isnan(messages.to_event(messages.event_message(event._replace(error=math.nan))).error)


@pytest.mark.parametrize("frame", ["map_ned", "base_link", ""])
def test_odometry_of_another_frame_is_refused(frame):
    message = Odometry()
    message.header.frame_id, message.pose.pose.orientation.w = "odom", 1.0
    assert messages.odometry_arrays(message)[0].tolist() == [0, 0, 0, 1, 0, 0, 0]
    message.header.frame_id = frame
    assert refused(messages.odometry_arrays, message).reason == "wrong_frame"


@pytest.mark.parametrize(("child", "refuses"), [("base_link", False), ("base_footprint", False), ("", False), ("odom", True)])
def test_odometry_whose_twist_is_not_the_bodys_is_refused(child, refuses):
    message = Odometry()
    message.header.frame_id, message.child_frame_id, message.pose.pose.orientation.w = "odom", child, 1.0
    if refuses:
        assert refused(messages.odometry_arrays, message).reason == "wrong_frame"
    else:
        messages.odometry_arrays(message)


def test_odometry_without_an_orientation_is_refused():
    """Zeros are what a message says whose sender has set none."""
    message = Odometry()
    message.header.frame_id, message.pose.pose.orientation.w = "odom", 0.0
    found = refused(messages.odometry_arrays, message)
    assert found.reason == "wrong_shape"
    assert "0.000" in str(found)


def test_velocities_of_odometry_are_turned_into_the_world():
    """Pitched down by a quarter turn: the body's x points to the ground, its z ahead, and y stays."""
    message, half = Odometry(), math.sqrt(0.5)
    message.header.frame_id, message.pose.pose.orientation.w, message.pose.pose.orientation.y = "odom", half, half
    for vector, values in ((message.twist.twist.linear, (1.0, 2.0, 3.0)), (message.twist.twist.angular, (4.0, 5.0, 6.0))):
        vector.x, vector.y, vector.z = values
    twist = messages.odometry_arrays(message)[1]
    assert twist.tolist() == pytest.approx([3.0, 2.0, -1.0, 6.0, 5.0, -4.0])
    found = messages.odometry_readings(message, "")
    assert found["angvel"].tolist() == pytest.approx([6.0, 5.0, -4.0])
    assert found["velocity"].tolist() == [1.0, 2.0, 6.0]


def test_an_echo_from_further_away_than_the_scanner_can_measure_is_none():
    """Of a scanner that hears less far than the task's lidar does."""
    message = messages.scan(torch.tensor([[1.0, 4.5, 5.0, 3.0]]), LIDAR, 1)
    message.range_max = 4.0
    assert messages.scan_readings(message, "lidar", LIDAR)["lidar"].tolist() == [1.0, 6.0, 6.0, 3.0]


def test_foreign_numbers_are_no_event():
    assert refused(messages.to_event, messages.numbers(("a", "b"), [1.0, 2.0])).reason == "wrong_labels"
    message = messages.event_message(Event(1, 0, 0, 0, 0.0, False, False, 0.0, NOW))
    message.data[4] = math.nan
    assert refused(messages.to_event, message).reason == "not_finite"
    message.layout.dim = []
    assert refused(messages.to_event, message).reason == "wrong_labels"
