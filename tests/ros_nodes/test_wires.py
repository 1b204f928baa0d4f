"""Robots by the names that their drivers use: the messages of each find its joints, and its simulated body follows them."""

import mujoco
import numpy as np
import pytest
import torch

pytest.importorskip("rclpy", reason="ROS 2 is not installed: pip install 'metarl[ros]'")

from metarl import robots
from metarl.robots.kinematics import tool_pose
from metarl.robots.spec import JointTrajectory, RobotSpec
from metarl.ros_nodes import messages
from metarl.ros_nodes.limits import Command, Limits, check_trajectory
from metarl.ros_nodes.rejection import Rejected
from metarl.ros_nodes.wires import wire

UR = ("shoulder_pan_joint", "shoulder_lift_joint", "elbow_joint", "wrist_1_joint", "wrist_2_joint", "wrist_3_joint")
FR3 = tuple(f"fr3_joint{i}" for i in range(1, 8))


def moved(hung, qpos):
    """Where the simulated arm is half a second after a set-point came as message, as its driver would tell it."""
    robot = hung.robot
    spec = robot.build()
    spec.option.timestep, spec.option.integrator = robot.physics_dt, mujoco.mjtIntegrator.mjINT_IMPLICITFAST
    model = spec.compile()
    data = mujoco.MjData(model)
    names = list(zip(robot.joint_names, hung.joint_names, strict=True))
    for (ours, _), home in zip(names, robot.home_qpos, strict=True):
        data.joint(ours).qpos[0] = home
    message = hung.message(Command(5, np.array([0.02]), qpos[None], np.zeros((1, len(qpos)))))
    assert list(message.joint_names) == list(hung.joint_names)
    point = dict(zip(message.joint_names, message.points[0].positions, strict=True))
    for ours, theirs in names:
        data.ctrl[model.actuator(ours).id] = point[theirs]
    mujoco.mj_step(model, data, round(0.5 / robot.physics_dt))
    found = [(theirs, data.joint(ours).qpos[0], data.joint(ours).qvel[0]) for ours, theirs in reversed(names)]
    told, position, velocity = zip(*found, strict=True)
    return messages.joint_state(told, position, velocity, 9)


@pytest.mark.parametrize(("hung", "names"), [(wire("ur5e"), UR), (wire("arm7", FR3), FR3)], ids=["UR", "FR3"])
def test_an_arm_follows_under_its_own_names(hung, names):
    assert hung.joint_names == names
    target = np.array(hung.robot.home_qpos) + np.linspace(-0.1, 0.1, len(names))
    state = moved(hung, target)
    assert list(state.name) == list(reversed(names))
    qpos, qvel = hung.state(state)
    np.testing.assert_allclose(qpos, target, atol=0.02)  # in the order of the robot's file again
    assert np.abs(qvel).max() < 0.3
    message = hung.message(Command(5, np.array([0.02]), target[None], np.zeros((1, len(target)))))
    message.joint_names = [*message.joint_names[:-1], "gripper"]
    with pytest.raises(Rejected, match=f"missing_joint: {names[-1]} not among"):
        hung.command(message)


def test_ur5e_stands_where_its_dh_parameters_say():
    """Stretched upwards; and in its rest pose: elbow over the base, forearm level and forwards, tool down; in base_link, as its driver's messages are.

    The controller's own frame, that of the DH parameters, is turned against it by half a turn about z (ur_description).
    """
    robot = robots.load("ur5e")
    up, _ = tool_pose(robot, torch.tensor([0.0, -np.pi / 2, 0.0, -np.pi / 2, 0.0, 0.0], dtype=torch.float64))
    assert up.tolist() == pytest.approx([0.0, 0.1333 + 0.0996, 0.1625 + 0.425 + 0.3922 + 0.0997], abs=1e-9)
    home, turned = tool_pose(robot, torch.tensor(robot.home_qpos, dtype=torch.float64))
    assert home.tolist() == pytest.approx([0.3922 + 0.0997, 0.1333, 0.1625 + 0.425 - 0.0996], abs=1e-9)
    assert turned[2, 2] == pytest.approx(-1.0)


def test_narrower_limits_count_and_wider_ones_do_not():
    lower, upper = [-9.0] * 7, [9.0] * 7
    lower[5], upper[0] = 0.5445, 2.7437
    limits = wire("arm7", FR3, lower=lower, upper=upper).robot.qpos_limits
    assert limits[5] == (0.5445, 3.7525)
    assert limits[0] == (-2.8973, 2.7437)
    assert limits[1] == robots.load("arm7").qpos_limits[1]


@pytest.mark.parametrize(
    ("given", "text"),
    [
        ({"joint_names": FR3[:-1]}, "arm7 has 7 joints, each with a name of its own"),
        ({"joint_names": (*FR3[:-1], FR3[0])}, "each with a name of its own"),
        ({"lower": [0.0], "upper": [1.0]}, "1 lower and 1 upper limits for the 7 joints of arm7: panda_joint1"),
        ({"lower": [0.1] * 7, "upper": [9.0] * 7}, "between 0.1 and 2.8973, panda_joint1 of arm7 cannot be at rest, 0.0"),
    ],
)
def test_what_does_not_fit_is_refused(given, text):
    with pytest.raises(ValueError, match=text):
        wire("arm7", **given)


@pytest.mark.parametrize("wrong", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("robot", ["car", "quadrotor"])
def test_no_number_of_a_twist_may_be_none(robot, wrong):
    """Not even one that this vehicle does not look at: an infinite yaw rate would be full lock."""
    hung, names = wire(robot), [f"{part}.{axis}" for part in ("linear", "angular") for axis in "xyz"]
    for forward in (1.0, 0.0):
        for i, name in enumerate(names):
            numbers = [forward, 0.0, 0.0, 0.0, 0.0, 0.0]
            numbers[i] = wrong
            with pytest.raises(Rejected, match=f"not_finite: {name} is {wrong}"):
                hung.command(messages.twist_command(tuple(numbers), 5))


def test_a_vehicle_is_narrowed_and_never_widened():
    assert wire("car", lower=(0.0, -0.1), upper=(0.5, 9.0)).robot.command_limits == ((0.0, 0.5), (-0.1, 0.4))
    with pytest.raises(ValueError, match="1 lower and 2 upper limits for the 2 commands of car: speed, steer"):
        wire("car", lower=(0.0,), upper=(0.5, 0.1))
    with pytest.raises(ValueError, match=r"between 1.0 and 4.0, speed of car cannot be at rest, 0.0"):
        wire("car", lower=(1.0, -0.4), upper=(9.0, 0.4))
    assert wire("quadrotor", lower=(4.0, -1.0, -1.0, -1.0), upper=(12.0, 1.0, 1.0, 1.0)).robot.command_limits == ((4.0, 12.0), *((-1.0, 1.0),) * 3)


def test_only_what_can_be_driven_has_a_wire(monkeypatch):
    assert wire("car").command_topic == "cmd_vel"
    assert wire("quadrotor").command_topic == "rates_thrust"  # newtons, which a listener to cmd_vel would read as m/s
    assert wire("quadrotor", state_topic="mavros/odom").state_topic == "mavros/odom"
    with pytest.raises(ValueError, match="it has no joints to be named"):
        wire("car", ("a",))
    bare = RobotSpec(name="bare", joint_names=(), control_dt=0.02, physics_dt=0.02, build=mujoco.MjSpec)
    monkeypatch.setattr(robots, "load", {"bare": bare}.__getitem__)
    with pytest.raises(TypeError, match="bare is neither an arm that follows joint trajectories nor a vehicle"):
        wire("bare")


def test_an_arm_on_a_base_is_seen_from_the_world():
    chef = wire("chef")
    assert (chef.frame, wire("arm7").frame) == ("odom", "base_link")
    assert chef.joint_names[:4] == ("base_x", "base_y", "base_yaw", "panda_joint1")
    assert chef.robot.joint_units[:4] == ("m", "m", "rad", "rad")
    far = Command(1, np.array([5.0]), np.array([[4.0, *chef.robot.home_qpos[1:]]]), np.zeros((1, 10)))
    with pytest.raises(Rejected, match=r"position: base_x would reach 4 m by 5.000 s, the limit is 3 m"):
        check_trajectory(Limits.of(chef.robot), far, np.array(chef.robot.home_qpos))


def test_decisions_of_another_kind_are_a_mistake():
    with pytest.raises(AssertionError, match="a vehicle follows no trajectories"):
        wire("car").planned(JointTrajectory(torch.zeros(1, 2), torch.zeros(1, 2), 0.1), 0)


def test_a_set_point_that_others_follow_is_reached_evenly_and_a_stop_at_rest():
    """Set-points at half a joint's speed, as a trajectory controller goes through them: on lines without velocities, on cubics that end at rest with them."""
    hung, rate = wire("arm7"), 0.02
    step = 0.5 * rate * np.array(hung.robot.qvel_limits)
    set_point = Command(5, np.array([rate]), (np.array(hung.robot.home_qpos) + step)[None], np.zeros((1, 7)))
    assert list(hung.now(set_point, more_to_come=True).points[0].velocities) == []
    assert list(hung.now(set_point).points[0].velocities) == [0.0] * 7
    for more in (False, True):
        heard = hung.command(hung.now(set_point, more_to_come=more))
        assert np.array_equal(heard.qpos, set_point.qpos)
        assert np.array_equal(heard.qvel, set_point.qvel)
    moving = set_point._replace(qvel=0.1 * np.ones((1, 7)))
    assert list(hung.now(moving, more_to_come=True).points[0].velocities) == [0.1] * 7
    plan = Command(5, np.array([1.0, 2.0]), np.zeros((2, 7)), np.zeros((2, 7)))
    assert [len(point.velocities) for point in hung.now(plan, more_to_come=True).points] == [7, 7]
    # why: from rest to rest in one period takes more than an arm has
    assert (6.0 * step / rate**2 > np.array(hung.robot.qacc_limits)).all()


def test_the_fingers_of_a_set_point_say_no_velocity_either():
    hung = wire("arm7")
    fingers = len(hung.robot.gripper_joint_names)
    set_point = Command(5, np.array([0.02]), np.array(hung.robot.home_qpos)[None], np.zeros((1, 7)), np.ones((1, fingers)))
    point = hung.now(set_point, more_to_come=True).points[0]
    assert (len(point.positions), len(point.velocities), len(point.effort)) == (7 + fingers, 0, 7 + fingers)


def test_set_points_keep_to_limits_that_are_narrower_than_the_task_knows():
    home = np.array(wire("arm7").robot.home_qpos)
    hung = wire("arm7", lower=tuple(home - 0.1), upper=tuple(home + 0.1))
    far = JointTrajectory(torch.tensor(home + 0.3)[None].float(), torch.zeros(1, 7), 0.02)
    np.testing.assert_allclose(hung.planned(far, 5).qpos[0], home + 0.1, rtol=0, atol=1e-12)


def test_who_speaks_of_other_joints_is_not_this_robot():
    hung = wire("arm7")
    said = lambda *names: messages.joint_state(names, np.zeros(len(names)), np.zeros(len(names)), 5)  # noqa: E731
    assert hung.concerns(said(*hung.joint_names, "finger"))
    assert hung.concerns(said(hung.joint_names[0]))  # a joint state of this robot, and a bad one
    assert not hung.concerns(said("finger"))
