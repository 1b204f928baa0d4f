"""Vehicles on the real graph: nodes in processes of their own, over DDS."""

import itertools
import os
import signal

import numpy as np
import pytest
import torch

pytest.importorskip("rclpy", reason="ROS 2 is not installed: pip install 'metarl[ros]'")

from diagnostic_msgs.msg import DiagnosticArray
from geometry_msgs.msg import TwistStamped
from nav_msgs.msg import Odometry
from rclpy.qos import QoSProfile
from sensor_msgs.msg import LaserScan
from std_msgs.msg import Float64MultiArray

from metarl import meta_parameters, robots, tasks
from metarl.rollout import collect
from metarl.ros_nodes import messages, runtime
from metarl.ros_nodes.graph import Car, Graph, NodeFailed, NodeSpec, Quadrotor, graph
from metarl.tasks.batched_env import BatchedEnv

# ROS's message packages import a parser that imports what Python has deprecated
pytestmark = pytest.mark.filterwarnings("ignore:module 'sre_:DeprecationWarning")


EVENTS = {"task/events": (Float64MultiArray, runtime.HISTORY)}


class Slewed:
    """An adapter whose decisions are cut to what the vehicle's slew limits allow, and which learns from what is left of them."""

    def __init__(self, adapter, env):
        self.adapter, self.env = adapter, env

    def act(self, obs, explore):
        task, robot, readings = self.env.task, self.env.task.robot, self.env.readings
        decided = task.command(self.adapter.act(obs, explore)[0].clamp(-1.0, 1.0), readings).ctrl
        wanted, before = (robot.command_of(ctrl.double())[0].tolist() for ctrl in (decided, readings["command_ctrl"]))
        executed = robot.ctrl_of(torch.tensor([robot.nearest(wanted, before, robot.control_dt)]))
        return task.action_of(executed, readings).unsqueeze(0)

    def __getattr__(self, name):
        return getattr(self.adapter, name)


@pytest.mark.parametrize(("kind", "name"), [(Quadrotor, "quadrotor_track"), (Car, "car_track_obstacles")])
def test_a_trial_in_lockstep_is_the_trial_without_ros(domain, listen, tmp_path, small_algorithm, kind, name):
    """A car among posts hears them on `scan`, as a real lidar's driver says it."""
    task, file = tasks.make(name), tmp_path / "policy.safetensors"
    meta_parameters.save(file, small_algorithm("rl2", name), "rl2", 0)
    choice = kind(str(file), name, pace="lockstep", index=3, episodes=1)
    topics = {**EVENTS, "scan": (LaserScan, runtime.STREAM_IN)}
    with listen(domain, topics) as ear, Graph(graph(choice, observers=1), domain) as running:
        ear.until(lambda: running.finished("task"), "the trial to end")
        ear.until(lambda: ear.heard["task/events"] and messages.to_event(ear.heard["task/events"][-1]).ends, "the last event")
        ear.until(lambda: task.lidar is None or ear.heard["scan"], "a scan")  # the simulation goes on saying it
    if task.lidar is not None:
        assert {len(m.ranges) for m in ear.heard["scan"]} == {task.lidar.beams}
    found = [e for e in map(messages.to_event, ear.heard["task/events"]) if not e.begins]
    algorithm, env = meta_parameters.load(file), BatchedEnv(task, 1, 1, "mujoco", 1, seed=0)
    env.set_tasks(task.sample(1, "iid", start=3))
    rollout = collect(env, Slewed(algorithm.adapter(1), env), 1, algorithm.noise_to_adapt)
    env.close()
    valid = rollout.valid[0, 0, 0]
    assert len(found) == int(valid.sum())
    np.testing.assert_allclose([e.reward for e in found], rollout.reward[0, 0, 0][valid], rtol=0, atol=1e-4)
    steps = np.diff([e.stamp for e in found]) * 1e-9
    np.testing.assert_allclose(steps, task.decision_dt, atol=1e-5)


def test_a_car_whose_adapter_is_killed_brakes_and_keeps_its_steering_angle(domain, listen):
    topics = {**EVENTS, "cmd_vel": (TwistStamped, QoSProfile(depth=1000)), "safety/status": (DiagnosticArray, runtime.LATCHED)}
    with listen(domain, topics) as ear, Graph(graph(Car(), observers=1), domain) as running:
        events, sent = ear.heard["task/events"], ear.heard["cmd_vel"]
        # fast enough for a ramp of more than five commands
        ear.until(lambda: len(events) > 5 and sent and sent[-1].twist.linear.x > 1.0, "the car to drive")
        os.kill(running.pids()["adapter"], signal.SIGKILL)
        status = lambda: runtime.status_values(ear.heard["safety/status"][-1])  # noqa: E731
        ear.until(lambda: status().get("state") == "holding" and sent[-1].twist.linear.x <= 1e-3, "the car to be braked")
        with pytest.raises(NodeFailed, match="the adapter node ended"):
            running.finished("task")
    speed = np.array([m.twist.linear.x for m in sent])
    assert (speed >= 0).all()
    last = np.flatnonzero(speed > 1e-3)[-1] + 1  # the ramp's end
    ramp = speed[max(0, last - 5) : last + 1]
    assert (np.diff(ramp) <= 1e-9).all()
    bend = [m.twist.angular.z / m.twist.linear.x for m in sent[max(0, last - 3) : last + 1]]
    np.testing.assert_allclose(bend, bend[0], atol=1e-6)


def at_rest(stamp):
    """Odometry of a vehicle that stands at the origin; ns."""
    odometry = Odometry()
    odometry.header.stamp, odometry.header.frame_id, odometry.child_frame_id = messages.to_time(stamp), "odom", "base_link"
    odometry.pose.pose.orientation.w = 1.0
    return odometry


def test_what_became_of_a_command_is_not_lost_in_the_braking(domain, listen):
    """Whoever begins to listen while a stop is under way, as its 50 commands a second go out, still hears what its last command came to."""
    safety = NodeSpec("safety", "safety_node", {"robot": "car"}, {"command": "adapter/command"})
    says = {"adapter/command": TwistStamped, "odom": Odometry}
    car, clock, executed = robots.load("car"), itertools.count(1), {"safety/executed": (TwistStamped, runtime.ANSWERS)}
    with Graph((safety,), domain), listen(domain, {"cmd_vel": (TwistStamped, runtime.COMMAND)}, says) as ear:
        sent, commands = ear.heard["cmd_vel"], {}

        def tick():
            stamp = next(clock) * 20_000_000
            ear.mouth["odom"].publish(at_rest(stamp))
            if "bad" not in commands:
                commands["last"] = stamp
                ear.mouth["adapter/command"].publish(messages.twist_command(car.twist_of((4.0, 0.2)), stamp))

        ear.node.create_timer(0.02, tick)
        ear.until(lambda: sent and sent[-1].twist.linear.x == pytest.approx(4.0), "the car to drive")
        commands["bad"] = commands["last"] + 1
        ear.mouth["adapter/command"].publish(messages.twist_command((np.nan, *[0.0] * 5), commands["bad"]))
        ear.until(lambda: sent[-1].twist.linear.x <= 1.1e-3, "the car to be braked")
        with listen(domain, executed) as late:
            late.until(lambda: late.heard["safety/executed"], "what was said before")
            late.until(lambda: commands["bad"] in {messages.to_stamp(m.header.stamp) for m in late.heard["safety/executed"]}, "the answer", 60.0)


def test_a_safety_node_that_is_asked_to_end_first_brakes(domain, listen):
    """`ros2 launch` sends SIGINT to all at once: nobody else is there to stop the car, and its driver may hold the last command for ever."""
    safety = NodeSpec("safety", "safety_node", {"robot": "car"}, {"command": "adapter/command"})
    says = {"adapter/command": TwistStamped, "odom": Odometry}
    topics = {"cmd_vel": (TwistStamped, QoSProfile(depth=1000)), "safety/status": (DiagnosticArray, runtime.LATCHED)}
    car = robots.load("car")
    with Graph((safety,), domain) as running, listen(domain, topics, says) as ear:
        sent, clock = ear.heard["cmd_vel"], itertools.count(1)

        def tick():
            stamp = next(clock) * 20_000_000
            ear.mouth["odom"].publish(at_rest(stamp))
            ear.mouth["adapter/command"].publish(messages.twist_command(car.twist_of((4.0, 0.2)), stamp))

        ear.node.create_timer(0.02, tick)
        ear.until(lambda: sent and sent[-1].twist.linear.x == pytest.approx(4.0), "the car to drive")
        os.kill(running.pids()["safety"], signal.SIGINT)
        ear.until(lambda: running.finished("safety"), "the safety node to end")
        ear.until(lambda: sent[-1].twist.linear.x <= 1.1e-3, "the last command")
    speed = np.array([m.twist.linear.x for m in sent])
    braking = speed[np.flatnonzero(speed > 4.0 - 1e-6)[-1] + 1 :]  # the last time: it also brakes, and goes on, where this process is held up
    assert (np.diff(braking) <= 1e-9).all()
    assert len(braking) > 20  # 4 m/s at 4 m/s², a command every 0.04 s
