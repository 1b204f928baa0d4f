"""A simulated vehicle as ROS sees it: what goes through messages is what BatchedEnv does, and time can pass by itself."""

import itertools
from types import SimpleNamespace

import numpy as np
import pytest
import torch

pytest.importorskip("rclpy", reason="ROS 2 is not installed: pip install 'metarl[ros]'")

from metarl import tasks
from metarl.robots.kinematics import jacobian
from metarl.robots.spec import JointTrajectory
from metarl.rollout import collect
from metarl.ros_nodes.channels import channels
from metarl.ros_nodes.control_loop import ControlLoop
from metarl.ros_nodes.referee import Referee
from metarl.ros_nodes.sim_node import SimNode
from metarl.ros_nodes.wires import wire
from metarl.ros_nodes.world import World
from metarl.tasks.arm_lift_place import squeeze
from metarl.tasks.batched_env import BatchedEnv

PERIOD = {"car_track": 0.04, "car_track_obstacles": 0.04, "quadrotor_track": 0.02}
HORIZON = 25


@pytest.fixture(params=PERIOD)
def task(request, monkeypatch):
    task = tasks.make(request.param)
    monkeypatch.setattr(type(task), "horizon", HORIZON)
    monkeypatch.setattr(type(task), "episodes_per_trial", 2)
    return task


def through(found, made, stamp):
    """Readings as they come out of the messages that carry them."""
    heard = {}
    for channel in made:
        heard |= channel.hear(channel.say(found, stamp))
    return heard


@pytest.mark.parametrize("simulator", ["mujoco", "pybullet"])
def test_an_arm_says_how_hard_its_joints_push(simulator):
    """At rest, that is what carries the payload: J^T m g; the arm's own weight is compensated for. And so it stands in the message."""
    if simulator == "pybullet":
        pytest.importorskip("pybullet", reason="PyBullet is not installed")
    task = tasks.make("arm_reach")
    world = World(task, task.custom([{"payload": 2.0}]), simulator, 3, lambda *_: None)
    home = world.true["qpos"]
    for _ in range(100):
        world.execute(JointTrajectory(home.unsqueeze(1), torch.zeros(1, 1, 7), 0.02))
    expected = (jacobian(task.arm, world.true["qpos"])[1][0, :3].T @ torch.tensor([0.0, 0.0, 2.0 * 9.81])).numpy()
    assert np.abs(expected).max() > 5.0
    own = next(c for c in channels(wire("arm7"), task, ("qpos", "qvel"), "seen") if c.topic == task.arm.state_topic)
    np.testing.assert_allclose(own.say(world.true, 1).effort, expected, atol=0.3)
    world.close()


@pytest.mark.parametrize("simulator", ["mujoco", "pybullet"])
def test_a_trial_through_messages_is_that_of_collect(task, simulator, pilot):
    if simulator == "pybullet":
        pytest.importorskip("pybullet", reason="PyBullet is not installed")
    hidden = task.sample(1, "iid", start=5)
    env = BatchedEnv(task, 1, 1, simulator, 1, seed=3)
    env.set_tasks(hidden)
    rollout = collect(env, pilot(task.spec))
    env.close()

    hung = wire(task.robot_name)
    world, referee, loop = World(task, hidden, simulator, 3, lambda *_: None), Referee(task, epoch=1), ControlLoop(task, pilot(task.spec), True)
    seen, measured = (channels(hung, task, needs, source) for source, needs in (("seen", loop.needs), ("measured", referee.needs)))
    stamp, log = 0, []
    loop.begin_trial()
    while not referee.trial_ended:
        world.begin_episode()
        referee.begin_episode(through(world.true, measured, stamp), stamp)
        decision = loop.begin_episode(through(world.seen, seen, stamp))
        while decision is not None:
            command = hung.command(hung.message(hung.planned(decision.command, stamp)))
            world.execute(hung.executable(command))
            stamp += round(PERIOD[task.name] * 1e9)
            true = through(world.true, measured, stamp)
            assert referee.over(true, stamp, float(command.time[-1]))
            event = referee.judge(decision.action, hung.last(command), true, stamp)
            log.append((decision.action, event.reward))
            decision = loop.take_result(event.reward, event.terminated, event.truncated, through(world.seen, seen, stamp), hung.last(command))
    world.close()
    steps = rollout.valid.view(-1)
    action, reward = rollout.action.view(len(steps), -1)[steps], rollout.reward.view(-1)[steps]
    assert len(log) == len(reward)
    torch.testing.assert_close(torch.stack([a for a, _ in log]), action, rtol=0, atol=1e-3)
    torch.testing.assert_close(torch.tensor([r for _, r in log]), reward, rtol=0, atol=1e-3)
    torch.testing.assert_close(torch.stack([a for a, _ in log[:5]]), action[:5], rtol=0, atol=1e-5)


# ---- time that passes by itself ---------------------------------------------------------------------------------------------


def world_of(name, **values):
    task = tasks.make(name)
    return World(task, task.custom([values]), "mujoco", 0, lambda *_: None)


def command(world, *values):
    return world.task.robot.ctrl_of(torch.tensor([values]))


def test_time_passes_by_the_clock_as_command_by_command():
    """Without delay and gusts the two are the same."""
    one, other = (world_of("quadrotor_track", wind_speed=0.0) for _ in range(2))
    from metarl.robots.spec import Controls

    given = Controls(command(one, 9.0, 0.1, 0.2, 0.0))
    for _ in range(5):
        one.execute(given)
    other.hold(given)
    ends = [other.advance(1) for _ in range(25)]
    assert ends == ([False] * 4 + [True]) * 5
    torch.testing.assert_close(other.true["pos"], one.true["pos"], rtol=0, atol=1e-6)
    assert other.elapsed == pytest.approx(0.1)


@pytest.mark.parametrize(("delay", "begins"), [(0.0, 0), (0.06, 12)])
def test_a_delayed_command_reaches_the_motors_later(delay, begins):  # steps of 5 ms
    from metarl.robots.spec import Controls

    world = world_of("car_track", delay=delay)
    world.hold(Controls(command(world, 2.0, 0.0)))
    speeds = []
    for _ in range(30):
        world.advance(1)
        speeds.append(float(world.engine.read()["wheel_speed"].mean()))
    moving = np.flatnonzero(np.array(speeds) > 0.5)
    assert begins <= moving[0] <= begins + 5


def motion(world, by=0.3, points=40, dt=0.02):
    """A motion of all joints from rest to rest, as smooth as a cubic."""
    u = torch.arange(1, points + 1).view(1, -1, 1) / points
    start = world.engine.last_qpos.unsqueeze(1)
    return JointTrajectory(start + by * u**2 * (3 - 2 * u), (by * 6 * u * (1 - u) / (points * dt)).expand(-1, -1, start.shape[-1]), dt)


@pytest.mark.parametrize("simulator", ["mujoco", "pybullet"])
@pytest.mark.parametrize("name", ["arm_slide", "arm_lift_place"])
def test_a_trajectory_step_by_step_is_the_trajectory_at_once(name, simulator):
    """The same curve, the same fingers, the same wait until the object is at rest, and what is remembered of it."""
    if simulator == "pybullet":
        pytest.importorskip("pybullet", reason="PyBullet is not installed")
    task = tasks.make(name)
    one, other = (World(task, task.sample(1, "iid", start=2), simulator, 0, lambda *_: None) for _ in range(2))
    given = task.command(torch.zeros(1, len(task.action_names)), {**one.true, "command_qpos": one.true["qpos"]})
    one.execute(given)
    other.follow(given)
    steps = next(n for n in itertools.count(1) if other.advance(1))
    assert steps * task.physics_dt > given.dt * given.qpos.shape[1] + (0.3 if task.settle_time else -1e-6)  # the object slides
    assert steps * task.physics_dt == pytest.approx(other.elapsed)
    for name, value in one.true.items():
        torch.testing.assert_close(other.true[name], value, rtol=0, atol=0)
    for world in (one, other):
        world.close()


@pytest.mark.parametrize("simulator", ["mujoco", "pybullet"])
def test_a_motion_is_stopped_where_it_is_and_the_next_begins_there(simulator):
    """A stop is one point half the speed times the braking time further on; the decision that it ends is over when the arm stands."""
    if simulator == "pybullet":
        pytest.importorskip("pybullet", reason="PyBullet is not installed")
    task = tasks.make("arm_slide")
    world = World(task, task.sample(1, "iid"), simulator, 0, lambda *_: None)
    world.follow(motion(world))
    assert not world.advance(100)  # half of it: 0.4 s
    world.glance()
    qpos, qvel = world.moving["qpos"], world.moving["qvel"]
    assert qvel.min() > 0.3
    rest = qpos + 0.5 * qvel * 0.1
    world.hold(JointTrajectory(rest.unsqueeze(1), torch.zeros(1, 1, 7), 0.1))
    most, over = qpos, []
    for _ in range(500):
        over.append(world.advance(1))
        world.glance()
        most = torch.maximum(most, world.moving["qpos"])
    assert np.flatnonzero(over).tolist() == [24]  # after 0.1 s: the object was never touched
    assert (most - rest).max() < 0.02
    world.look()
    torch.testing.assert_close(world.true["qpos"], rest, rtol=0, atol=0.01)
    world.follow(motion(world, by=0.1))
    world.advance(1)
    world.glance()
    torch.testing.assert_close(world.moving["qpos"], rest, rtol=0, atol=0.01)  # no jump
    world.close()


def test_a_motion_takes_the_place_of_another_and_an_episode_that_of_both():
    world = world_of("arm_slide")
    home = world.true["qpos"]
    world.follow(motion(world))
    world.advance(100)
    world.follow(motion(world, by=-0.1))  # from where the first has led by now
    for _ in range(250):
        world.advance(1)
    world.glance()
    torch.testing.assert_close(world.moving["qpos"], home + 0.15 - 0.1, rtol=0, atol=0.02)
    world.begin_episode()
    torch.testing.assert_close(world.true["qpos"], home, rtol=0, atol=1e-5)
    world.advance(200)  # the motion is forgotten
    world.glance()
    torch.testing.assert_close(world.moving["qpos"], home, rtol=0, atol=1e-3)
    world.close()


# ---- the hidden task changes ------------------------------------------------------------------------------------------------


def test_a_payload_that_is_put_on_in_flight_pulls_the_quadrotor_down():
    from metarl.robots.spec import Controls

    world = world_of("quadrotor_track", wind_speed=0.0)
    world.hold(Controls(command(world, *world.task.robot.rest)))
    for _ in range(50):
        world.advance(5)
    before = float(world.true["linvel"][0, 2])
    assert world.change({"payload": 0.2})  # at once
    for _ in range(25):
        world.advance(5)
    assert abs(before) < 0.05
    assert float(world.true["linvel"][0, 2]) < -0.5  # 0.5 s at a fifth of g, less the drag
    assert float(world.hidden.column("payload")[0]) == 0.2


def in_pybullet(name, **values):
    pytest.importorskip("pybullet", reason="PyBullet is not installed")
    task = tasks.make(name)
    return World(task, task.custom([values]), "pybullet", 0, lambda *_: None)


def test_pybullet_takes_a_new_mass_with_the_next_episode_and_a_new_wind_at_once():
    from metarl.robots.spec import Controls

    world = in_pybullet("quadrotor_track", wind_speed=0.0)
    assert world.change({"wind_speed": 8.0, "wind_angle": 0.0})
    assert not world.change({"payload": 0.2})
    world.hold(Controls(command(world, *world.task.robot.rest)))
    for _ in range(25):
        world.advance(5)
    assert float(world.true["linvel"][0, 0]) > 0.2
    assert float(world.true["linvel"][0, 2]) > -0.2  # it is not heavier yet
    world.close()


def test_pybullet_takes_weak_rotors_at_once():
    from metarl.robots.spec import Controls

    world = in_pybullet("quadrotor_track", wind_speed=0.0)
    world.hold(Controls(command(world, *world.task.robot.rest)))
    assert world.change({f"rotor_{i + 1}": 0.85 for i in range(4)})
    for _ in range(25):
        world.advance(5)
    assert float(world.true["linvel"][0, 2]) < -0.4  # 0.5 s at 0.15 g, less the drag
    world.close()


def test_pybullet_takes_weak_motors_of_an_arm_at_once():
    world, efforts = in_pybullet("arm_reach"), []
    for gain in (1.0, 0.6):
        world.begin_episode()
        assert world.change({"actuator_gain": gain})
        there = (world.true["qpos"] + 0.005).unsqueeze(1)
        world.hold(JointTrajectory(there, torch.zeros_like(there), 0.02))
        world.advance(1)
        world.look()
        efforts.append(world.true["effort"])
    torch.testing.assert_close(efforts[1], 0.6 * efforts[0], rtol=1e-3, atol=1e-3)
    world.close()


@pytest.mark.parametrize("simulator", ["mujoco", "pybullet"])
@pytest.mark.parametrize("name", ["arm_reach", "arm_slide"])
def test_a_dead_joint_gives_nothing_until_it_is_mended(name, simulator):
    """Its own motor alone, at once, in the next episode as well, and beside whatever else changes; then the arm is what it was."""
    if simulator == "pybullet":
        pytest.importorskip("pybullet", reason="PyBullet is not installed")
    world = World(tasks.make(name), tasks.make(name).custom([{}]), simulator, 0, lambda *_: None)
    joint, efforts = world.task.robot.joint_names[3], []
    for dead in ("", joint, joint, ""):
        world.fail(dead)
        world.begin_episode()
        there = (world.true["qpos"] + 0.005).unsqueeze(1)
        world.hold(JointTrajectory(there, torch.zeros_like(there), 0.02))
        world.advance(1)
        world.look()
        efforts.append(world.true["effort"][0])
        world.change({world.task.params[0].name: world.task.params[0].nominal})
    others = [0, 1, 2, 4, 5, 6]
    assert (efforts[0].abs() > 0.1).all()  # N m
    for dead in efforts[1:3]:
        assert dead[3] == 0.0
        torch.testing.assert_close(dead[others], efforts[0][others], rtol=0.1, atol=0.05)
    torch.testing.assert_close(efforts[3], efforts[0], rtol=0.1, atol=0.05)
    world.close()


def test_a_dead_joint_is_named_as_messages_name_it():
    failed = []
    sim = object.__new__(SimNode)
    sim.wire = wire("arm7", tuple(f"fr3_joint{i}" for i in range(1, 8)))
    sim.world = SimpleNamespace(engine=SimpleNamespace(dead_joint=None), fail=failed.append)
    sim._dead_joint("none")
    sim._dead_joint("fr3_joint4")
    assert failed == ["panda_joint4"]
    with pytest.raises(ValueError, match="dead_joint is 'panda_joint4', expected none, fr3_joint1"):
        sim._dead_joint("panda_joint4")
    sim.wire = wire("car")
    with pytest.raises(ValueError, match="dead_joint is 'wheel', expected none"):
        sim._dead_joint("wheel")


@pytest.mark.parametrize("rough", [False, True])
def test_pybullet_takes_a_new_friction_at_once(rough):
    """An object that is struck slides less far on a table that has become rough since."""
    world = in_pybullet("arm_slide", friction=0.06)
    simulator, home = world.engine, world.true["object_pos"]
    if rough:
        assert world.change({"friction": 0.16})
    simulator.launch("object", np.array([[0.0, 0.5, 0.0]]))
    for _ in range(250):
        world.advance(1)
    world.look()
    slid = float((world.true["object_pos"] - home)[0, 1])
    assert slid == pytest.approx(0.5**2 / (2 * 9.81 * (0.16 if rough else 0.06)), rel=0.25)
    world.close()


def test_pybullet_takes_a_mass_that_came_before_the_first_episode_with_it():
    """Although nothing has happened in the one that stands ready. And an episode that nothing new waits for is begun only once."""
    from metarl.robots.spec import Controls

    world = in_pybullet("quadrotor_track", wind_speed=0.0)
    assert not world.change({"payload": 0.2})
    world.begin_episode()
    ready = world.true
    world.begin_episode()
    assert world.true is ready
    world.hold(Controls(command(world, *world.task.robot.rest)))
    for _ in range(25):
        world.advance(5)
    assert float(world.true["linvel"][0, 2]) < -0.5  # 0.5 s at a fifth of g, less the drag
    world.close()


def test_a_delay_that_is_new_holds_for_the_next_command():
    from metarl.robots.spec import Controls

    world = world_of("car_track", delay=0.0)
    assert world.change({"delay": 0.06})
    world.hold(Controls(command(world, 2.0, 0.0)))
    world.advance(11)  # steps of 5 ms
    assert float(world.engine.read()["wheel_speed"].mean()) < 0.5
    for _ in range(6):
        world.advance(1)
    assert float(world.engine.read()["wheel_speed"].mean()) > 0.5


@pytest.mark.parametrize(("values", "text"), [({"payload": 9.0}, "allowed is 0 to 0.4 kg"), ({"mass": 1.0}, "no parameter is called 'mass'")])
def test_changes_out_of_range_change_nothing(values, text):
    world = world_of("quadrotor_track")
    with pytest.raises(ValueError, match=text):
        world.change(values)
    assert float(world.hidden.column("payload")[0]) == 0.0


# ---- decisions that are longer than their motion ----------------------------------------------------------------------------


def test_the_pot_goes_with_the_hand_and_the_next_motion_begins_at_rest():
    """A world hears trajectories, and never which chore they are; what a door gave the arm has died away when the decision is over."""
    world = world_of("kitchen")
    task = world.task
    moved = []
    for chore, place in (("pull", 0), ("wait", 0), ("cook", 1), ("turn_1_left", 1), ("serve", 2)):
        action = torch.eye(len(task.action_names))[[task.action_names.index(chore)]]
        before = world.true["qpos"]
        world.execute(task.command(action, {**world.true, "command_qpos": before}))
        assert world.true["pot_at"][0, place] == 1, chore
        assert world.true["qvel"].abs().max() < 0.05, chore
        moved.append(float((world.true["qpos"] - before).abs().max()))
    world.close()
    assert [m > 0.1 for m in moved] == [True, False, True, True, True]
    assert world.true["temperature"] > 20.5  # 10 s after the knob, 10 s on the way to the table


def test_an_arm_that_is_told_nothing_more_stays_where_its_last_motion_ended():
    world = world_of("arm_slide")
    home = world.true["qpos"]
    there = home + torch.linspace(0.0, 0.2, 51)[1:, None]
    world.execute(JointTrajectory(there.unsqueeze(0), torch.zeros(1, 50, 7), 0.02))
    for _ in range(100):
        world.advance(world.period)
    torch.testing.assert_close(world.true["qpos"], home + 0.2, rtol=0, atol=0.01)
    world.close()


def test_an_object_stays_in_the_hand_of_an_arm_that_is_stopped():
    """The squeeze is told to whoever senses what has become of the object, and goes on while the arm is held."""
    world = world_of("arm_lift_place")
    task = world.task
    lift = task.command(torch.tensor([[0.0, 0.0]]), {**world.true, "command_qpos": world.true["qpos"]})
    world.execute(lift)
    assert squeeze(world.true["last_action"]).item() == pytest.approx(4.47, abs=0.01)
    assert bool(task.carrying(world.true))
    world.execute(JointTrajectory(lift.qpos[:, -1:], torch.zeros(1, 1, 7), 1.0, lift.gripper[:, -1:]))
    assert bool(task.carrying(world.true))
    assert squeeze(world.true["last_action"]).item() == pytest.approx(4.47, abs=0.01)
    world.close()
