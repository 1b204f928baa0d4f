"""What holds for every robot; a new robot file is found by itself."""

import mujoco
import numpy as np
import pytest
import torch

from metarl import robots
from metarl.robots.kinematics import follow_line, jacobian, tool_pose
from metarl.robots.spec import ArmSpec

ARMS = [name for name in robots.names() if isinstance(robots.load(name), ArmSpec)]


@pytest.fixture(scope="module", params=ARMS)
def robot(request):
    return robots.load_arm(request.param)


@pytest.fixture(scope="module")
def model(robot):
    spec = robot.build()
    spec.option.timestep = robot.physics_dt
    spec.option.integrator = mujoco.mjtIntegrator.mjINT_IMPLICITFAST
    return spec.compile()


def poses(robot, count: int) -> torch.Tensor:
    low, high = robot.qpos_range(torch.zeros(1, dtype=torch.float64))
    return low + (high - low) * torch.rand(count, robot.num_joints, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def test_numbers_fit_together(robot):
    joints = robot.num_joints
    assert len(set(robot.joint_names + robot.gripper_joint_names)) == joints + len(robot.gripper_joint_names)
    for numbers in (robot.home_qpos, robot.qpos_limits, robot.qvel_limits, robot.qacc_limits, robot.effort_limits, robot.kp, robot.kd):
        assert len(numbers) == joints
    for numbers in (robot.qvel_limits, robot.qacc_limits, robot.effort_limits, robot.kp, robot.kd):
        assert min(numbers) > 0
    assert all(low < home < high for home, (low, high) in zip(robot.home_qpos, robot.qpos_limits, strict=True))
    assert robot.name in robots.names()
    assert round(robot.control_dt / robot.physics_dt, 6).is_integer()
    for quat in (*robot.joint_quat_wxyz, robot.tool_quat_wxyz):
        assert np.linalg.norm(quat) == pytest.approx(1.0)
    for topic in (robot.command_topic, robot.state_topic):
        assert topic
        assert not topic.startswith("/"), "a relative topic can be moved into a namespace"


@pytest.mark.parametrize("name", robots.names())
def test_robots_are_loaded_by_name(name):
    robot = robots.load(name)
    assert robot.name == name
    assert robots.load(name) is robot
    with pytest.raises(ValueError, match=rf"no robot is called '{name}x': did you mean {name}"):
        robots.load(name + "x")


@pytest.mark.parametrize("name", robots.names())
def test_every_body_has_its_joints_and_a_stable_time_step(name):
    robot = robots.load(name)
    spec = robot.build()
    spec.option.timestep = robot.physics_dt
    model = spec.compile()
    data = mujoco.MjData(model)
    joints = [model.joint(n) for n in robot.joint_names]
    assert {int(j.type[0]) for j in joints} <= {mujoco.mjtJoint.mjJNT_HINGE.value, mujoco.mjtJoint.mjJNT_SLIDE.value}
    assert round(robot.control_dt / robot.physics_dt, 6).is_integer()
    assert model.nu > 0
    mujoco.mj_step(model, data, 200)
    assert not data.warning.number.any(), "the body alone blows up"


def test_model_has_the_named_joints_in_order_with_their_limits(robot, model):
    addresses = [model.joint(name).qposadr[0] for name in robot.joint_names]
    assert addresses == sorted(addresses)
    for name, limits in zip(robot.joint_names, robot.qpos_limits, strict=True):
        assert model.joint(name).limited[0]
        np.testing.assert_allclose(model.joint(name).range, limits)
        assert model.joint(name).type[0] == mujoco.mjtJoint.mjJNT_HINGE
    assert all(model.joint(name).id >= 0 for name in robot.gripper_joint_names)
    np.testing.assert_array_equal(model.dof_armature, 0.0)  # it has no twin in URDF


def test_motors_are_the_position_loop_with_the_torque_limits(robot, model):
    for name, kp, kd, effort in zip(robot.joint_names, robot.kp, robot.kd, robot.effort_limits, strict=True):
        motor = model.actuator(name)
        assert motor.trnid[0] == model.joint(name).id
        assert motor.forcelimited[0]
        np.testing.assert_allclose(motor.forcerange, [-effort, effort])
        np.testing.assert_allclose(motor.gainprm[0], kp)
        np.testing.assert_allclose(motor.biasprm[:3], [0, -kp, -kd])


def test_torque_stays_under_its_limit_however_far_the_target(robot, model):
    data = mujoco.MjData(model)
    for target in np.asarray(robot.qpos_limits).T:
        mujoco.mj_resetData(model, data)
        for name, home, wanted in zip(robot.joint_names, robot.home_qpos, target, strict=True):
            data.joint(name).qpos[0] = home
            data.ctrl[model.actuator(name).id] = wanted
        largest = np.zeros(model.nu)
        for _ in range(50):
            mujoco.mj_step(model, data)
            largest = np.maximum(largest, np.abs(data.actuator_force))
        for name, effort in zip(robot.joint_names, robot.effort_limits, strict=True):
            assert largest[model.actuator(name).id] <= effort + 1e-9
        assert max(largest[model.actuator(n).id] / e for n, e in zip(robot.joint_names, robot.effort_limits, strict=True)) == pytest.approx(1.0)


def test_the_arm_holds_its_home_pose(robot, model):
    data = mujoco.MjData(model)
    for name, home in zip(robot.joint_names, robot.home_qpos, strict=True):
        data.joint(name).qpos[0] = home
        data.ctrl[model.actuator(name).id] = home
    for _ in range(round(1.0 / model.opt.timestep)):
        mujoco.mj_step(model, data)
    for name, home in zip(robot.joint_names, robot.home_qpos, strict=True):
        assert data.joint(name).qpos[0] == pytest.approx(home, abs=1e-3)


def test_readings_of_every_robot(robot, model):
    names = [model.sensor(i).name for i in range(model.nsensor)]
    for kind in ("qpos", "qvel"):
        assert [n.split("/")[1] for n in names if n.startswith(f"{kind}/")] == list(robot.joint_names)
    assert "tool_pos" in names


def test_kinematics_in_torch_equals_the_model(robot, model):
    data = mujoco.MjData(model)
    pose = poses(robot, 20)
    pos, turned = tool_pose(robot, pose)
    for i in range(20):
        for name, angle in zip(robot.joint_names, pose[i], strict=True):
            data.joint(name).qpos[0] = angle
        mujoco.mj_kinematics(model, data)
        np.testing.assert_allclose(pos[i], data.site("tool").xpos, atol=1e-9)
        np.testing.assert_allclose(turned[i], data.site("tool").xmat.reshape(3, 3), atol=1e-9)


def test_jacobian_equals_finite_differences(robot):
    pose, small = poses(robot, 5), 1e-6
    frame, jac = jacobian(robot, pose)
    for j in range(robot.num_joints):
        nudge = torch.zeros(robot.num_joints, dtype=torch.float64)
        nudge[j] = small
        (up, up_turned), (down, down_turned) = tool_pose(robot, pose + nudge), tool_pose(robot, pose - nudge)
        torch.testing.assert_close(jac[:, :3, j], (up - down) / (2 * small), atol=1e-8, rtol=0)
        spin = (up_turned - down_turned) / (2 * small) @ frame[:, :3, :3].transpose(1, 2)  # the skew matrix of the angular velocity
        torch.testing.assert_close(jac[:, 3:, j], torch.stack([spin[:, 2, 1], spin[:, 0, 2], spin[:, 1, 0]], -1), atol=1e-8, rtol=0)


def test_following_a_line(robot):
    home = torch.tensor(robot.home_qpos, dtype=torch.float64)
    start, turned = tool_pose(robot, home)
    assert turned[2, 2] < -0.99, "the home pose points down"
    line = start + torch.linspace(0, 1, 20, dtype=torch.float64).unsqueeze(-1) * torch.tensor([0.05, 0.1, -0.1], dtype=torch.float64)
    pos, turned = tool_pose(robot, follow_line(robot, home, line))
    torch.testing.assert_close(pos, line, atol=1e-3, rtol=0)
    assert turned[:, 2, 2].max() < -0.999
