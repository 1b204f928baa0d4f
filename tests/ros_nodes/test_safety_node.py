"""What the safety node answers to commands, called by hand: what it says goes to lists, and no message is sent."""

import copy
from types import SimpleNamespace

import numpy as np
import pytest

pytest.importorskip("rclpy", reason="ROS 2 is not installed: pip install 'metarl[ros]'")

import rclpy
from nav_msgs.msg import Odometry
from rclpy.parameter import Parameter

from metarl.ros_nodes import messages, runtime
from metarl.ros_nodes.limits import Command
from metarl.ros_nodes.safety_node import SafetyNode

# ROS's message packages import a parser that imports what Python has deprecated
pytestmark = pytest.mark.filterwarnings("ignore:module 'sre_:DeprecationWarning")

STAMP = 10**12  # ns
SET_POINT = {"arm7": 0.02, "car": 0.04}  # s that a command of a fast loop takes


@pytest.fixture(params=SET_POINT)
def safety(request, domain, monkeypatch):
    """A safety node that was told a state of its robot at 0 s: `controller` and `executed` are what it has sent, `clock` its time (s) to be set."""
    for name, value in domain.variables().items():
        monkeypatch.setenv(name, value)
    clock = [0.0]
    monkeypatch.setattr(runtime, "steady_now", lambda: clock[0])
    context = rclpy.Context()
    rclpy.init(context=context)
    node = rclpy.create_node("safety", context=context, parameter_overrides=[Parameter("robot", value=request.param)])
    made = SafetyNode(node)
    made.clock, made.controller, made.executed = clock, [], []
    made._controller = SimpleNamespace(publish=lambda m: made.controller.append(copy.deepcopy(m)))
    made._executed = SimpleNamespace(publish=lambda m: made.executed.append(copy.deepcopy(m)))
    measure(made, STAMP)
    yield made
    node.destroy_node()
    context.try_shutdown()


def measure(safety, stamp):
    """The robot rests at home."""
    if safety.wire.robot.name == "arm7":
        home = np.array(safety.wire.robot.home_qpos)
        safety._on_state(messages.joint_state(safety.wire.joint_names, home, np.zeros_like(home), stamp))
        return
    odometry = Odometry()
    odometry.header.stamp, odometry.header.frame_id, odometry.child_frame_id = messages.to_time(stamp), "odom", "base_link"
    odometry.pose.pose.orientation.w = 1.0
    safety._on_state(odometry)


def give(safety, stamp):
    """A set-point at rest."""
    robot = safety.wire.robot
    pose = np.array(robot.home_qpos if robot.name == "arm7" else robot.rest)[None]
    safety._on_command(safety.wire.message(Command(stamp, np.array([SET_POINT[robot.name]]), pose, np.zeros_like(pose))), {})


def test_whoever_repeats_a_command_is_told_again_what_became_of_it_and_the_robot_is_not(safety):
    give(safety, STAMP)
    assert [messages.to_stamp(m.header.stamp) for m in safety.executed] == [STAMP]
    for _ in range(2):
        give(safety, STAMP)
    assert safety.executed == safety.executed[:1] * 3
    assert len(safety.controller) == 1
    assert safety.status.counts["duplicate"] == 2


def test_a_command_that_was_interrupted_is_told_as_such_when_it_is_repeated(safety):
    """The robot is braked because nobody has spoken since; its last measurement is the one that the command answers."""
    give(safety, STAMP)
    safety.clock[0] = 0.2
    safety._watch()
    assert [messages.to_stamp(m.header.stamp) for m in safety.executed] == [STAMP, STAMP]
    sent = len(safety.controller)
    give(safety, STAMP)
    assert safety.executed[2] == safety.executed[1]
    assert len(safety.controller) == sent


def test_a_command_that_is_refused_is_answered_each_time(safety):
    give(safety, STAMP - 10**9)
    give(safety, STAMP - 10**9)
    assert safety.status.counts["stale_command"] == 2
    assert [messages.to_stamp(m.header.stamp) for m in safety.executed] == [STAMP - 10**9] * 2
