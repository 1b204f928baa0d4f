"""The simulated robot as a process: its topics, its services, its two paces."""
# ruff: noqa: E402 - what needs ROS is imported after the look whether it is there

import os
import time
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

rclpy = pytest.importorskip("rclpy", reason="ROS 2 is not installed: pip install 'metarl[ros]'")

from diagnostic_msgs.msg import DiagnosticArray
from geometry_msgs.msg import TwistStamped
from nav_msgs.msg import Odometry
from rcl_interfaces.msg import Parameter, ParameterType, ParameterValue
from rcl_interfaces.srv import SetParameters
from rclpy.executors import SingleThreadedExecutor
from rclpy.qos import QoSProfile
from rosgraph_msgs.msg import Clock
from sensor_msgs.msg import Imu, JointState
from std_msgs.msg import Bool, Float64MultiArray, String
from std_srvs.srv import SetBool, Trigger
from trajectory_msgs.msg import JointTrajectory

from metarl import meta_parameters, robots, tasks
from metarl.ros_nodes import messages, runtime
from metarl.ros_nodes.graph import Arm, Domain, Graph, NodeSpec, arm, config_file
from metarl.ros_nodes.limits import Command
from metarl.ros_nodes.sim_node import WAIT, SimNode

# ROS's message packages import a parser that imports what Python has deprecated
pytestmark = pytest.mark.filterwarnings("ignore:module 'sre_:DeprecationWarning")

QUADROTOR = robots.load("quadrotor")
LONG = 240.0  # s, until a test gives up; a busy machine takes its time to start processes


class Other:
    """What is on the other side of the sim node's topics and services, and the node itself."""

    def __init__(self, domain, graph, heard, says):
        os.environ.update(domain.variables())
        self.graph, self.context = graph, rclpy.Context()
        rclpy.init(context=self.context)
        self.node = rclpy.create_node("other", context=self.context)
        self.heard = {name: [] for name in heard}
        for name, (kind, quality) in heard.items():
            self.node.create_subscription(kind, name, self.heard[name].append, quality)
        self.mouth = {name: self.node.create_publisher(kind, name, runtime.COMMAND) for name, kind in says.items()}
        self.clients = {n: self.node.create_client(k, f"sim/{n}") for n, k in (("reset", Trigger), ("step", Trigger), ("begin_episode", Trigger))}
        self.clients["set_pause"] = self.node.create_client(SetBool, "sim/set_pause")
        self.clients["set_parameters"] = self.node.create_client(SetParameters, "sim/set_parameters")
        self.executor = SingleThreadedExecutor(context=self.context)
        self.executor.add_node(self.node)

    def until(self, true, what):
        end = time.monotonic() + LONG
        while not true():
            self.graph.finished("sim")
            assert time.monotonic() < end, f"waited {LONG} s for {what}; sim said {self.graph.said('sim')[-1000:]}"
            self.executor.spin_once(timeout_sec=0.02)

    def spin(self, seconds):
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            self.executor.spin_once(timeout_sec=0.02)

    def ask(self, name, **values):
        client = self.clients[name]
        self.until(client.service_is_ready, f"service {name}")
        future = client.call_async(client.srv_type.Request(**values))
        self.until(future.done, f"an answer of {name}")
        return future.result()

    def set(self, name, value):
        kind = ParameterType.PARAMETER_DOUBLE if isinstance(value, float) else ParameterType.PARAMETER_STRING
        given = ParameterValue(type=kind, **{"double_value" if isinstance(value, float) else "string_value": value})
        return self.ask("set_parameters", parameters=[Parameter(name=name, value=given)]).results[0]

    def next(self, topic, count=1):
        """The newest message once `count` more have come."""
        before = len(self.heard[topic])
        self.until(lambda: len(self.heard[topic]) >= before + count, f"news on {topic}")
        return self.heard[topic][-1]

    @property
    def status(self):
        return runtime.status_values(self.heard["sim/status"][-1]) if self.heard["sim/status"] else {}

    def close(self):
        self.executor.shutdown()
        self.node.destroy_node()
        self.context.try_shutdown()


HEARD = {
    "odom": (Odometry, runtime.STREAM_IN),
    "imu": (Imu, runtime.STREAM_IN),
    "/clock": (Clock, runtime.STREAM_IN),
    "robot_description": (String, runtime.LATCHED),
    "sim/status": (DiagnosticArray, runtime.LATCHED),
}


@pytest.fixture(scope="module")
def start():
    """start(pace): a simulated quadrotor in still air, and whoever is on the other side; one process for each pace."""
    open_, found = [], {}

    def make(pace):
        if pace not in found:
            domain = Domain()
            world = {"task": "quadrotor_track", "simulator": "mujoco", "pace": pace, "wind_speed": 0.0, "command_timeout": 1.0}
            graph = Graph((NodeSpec("sim", "sim_node", world),), domain).__enter__()
            open_.append((domain, graph))
            found[pace] = Other(domain, graph, HEARD, {QUADROTOR.command_topic: TwistStamped})
            found[pace].until(lambda: found[pace].heard["odom"] and found[pace].mouth[QUADROTOR.command_topic].get_subscription_count(), "the quadrotor")
        return found[pace]

    yield make
    for other in found.values():
        other.close()
    for domain, graph in open_:
        graph.stop()
        domain.close()


def stamp(message):
    return messages.to_stamp(message.header.stamp)


def height(message):
    return message.pose.pose.position.z


def fly(other, answers, thrust=1.5):
    values = (QUADROTOR.rest[0] * thrust, 0.0, 0.0, 0.0)
    other.mouth[QUADROTOR.command_topic].publish(messages.twist_command(QUADROTOR.twist_of(values), answers))


def test_lockstep_time_passes_by_commands_alone(start):
    other = start("lockstep")
    begun = int(other.ask("begin_episode").message)
    first = other.next("odom", 3)
    assert begun <= stamp(first) < begun + 1000  # repetitions, 1 ns apart
    fly(other, stamp(first))
    other.until(lambda: stamp(other.heard["odom"][-1]) > begun + 19_000_000, "a step")
    after = other.next("odom", 3)
    assert begun + 19_000_000 < stamp(after) < begun + 21_000_000  # one period
    assert height(after) != height(first)
    fly(other, stamp(first))  # the same again
    other.until(lambda: other.status.get("out_of_order") == "1", "the refusal to be told")
    assert stamp(other.next("odom", 3)) < begun + 21_000_000
    other.until(lambda: other.heard["/clock"] and other.heard["imu"], "the clock and the IMU")
    other.until(lambda: abs(messages.to_stamp(other.heard["/clock"][-1].clock) - stamp(other.heard["odom"][-1])) < 1_000_000, "the same time on /clock")
    turn = other.heard["imu"][-1].orientation
    assert np.linalg.norm([turn.w, turn.x, turn.y, turn.z]) == pytest.approx(1.0, abs=1e-5)


def test_the_description_is_there_for_whoever_comes_late(start):
    other = start("lockstep")
    other.until(lambda: other.heard["robot_description"], "the description")
    assert '<robot name="quadrotor">' in other.heard["robot_description"][0].data


def test_pause_step_and_reset(start):
    other = start("lockstep")
    begun = int(other.ask("reset").message)
    assert not other.ask("step").success  # it runs
    assert other.ask("set_pause", data=True).success
    answer = other.ask("step")
    assert not answer.success
    assert "no command waits" in answer.message
    fly(other, stamp(other.next("odom", 3)))
    other.spin(0.5)
    assert stamp(other.next("odom", 3)) < begun + 1_000_000  # it waits
    other.until(lambda: other.ask("step").success, "the command that waits to come")
    assert stamp(other.next("odom", 3)) > begun + 19_000_000
    assert other.ask("set_pause", data=False).success
    assert int(other.ask("reset").message) > begun


def test_the_hidden_task_changes_inside_of_its_limits(start):
    other = start("lockstep")
    assert other.set("payload", 0.2).successful
    other.until(lambda: other.status.get("message") == "the hidden task has changed: payload = 0.2 (at once)", "the change to be told")
    refused = other.set("payload", 9.0)
    assert not refused.successful
    assert "payload" in refused.reason
    fixed = other.set("simulator", "pybullet")
    assert not fixed.successful
    assert "cannot change while the simulation runs" in fixed.reason


def test_in_real_time_nothing_moves_before_the_first_command_and_the_watchdog_stops_what_nobody_commands(start):
    other = start("realtime")
    begun = int(other.ask("begin_episode").message)
    other.spin(0.5)
    first = other.next("odom", 3)
    assert stamp(first) < begun + 1_000_000
    fly(other, stamp(first), thrust=1.3)
    wall = time.monotonic()
    other.until(lambda: other.status.get("stale_command", "0") >= "1", "the watchdog")
    simulated = (stamp(other.next("odom")) - begun) * 1e-9
    passed = time.monotonic() - wall
    assert 0.05 < simulated < passed + 1.0  # no faster than the wall, and slower where other work is in the way
    assert height(other.heard["odom"][-1]) > height(first)  # it climbed
    other.until(lambda: abs(other.heard["odom"][-1].twist.twist.linear.z) < 0.3, "it to hover")
    assert other.ask("set_pause", data=True).success
    other.spin(0.3)
    held = stamp(other.heard["odom"][-1])
    other.spin(0.5)
    assert stamp(other.heard["odom"][-1]) == held
    assert other.ask("step").success
    other.until(lambda: stamp(other.heard["odom"][-1]) == held + 20_000_000, "one period")
    other.ask("set_pause", data=False)


def test_arm7_answers_to_the_fr3s_names():
    """The same simulated robot, as franka_ros2 would call it."""
    heard = {
        "franka/joint_states": (JointState, runtime.STREAM_IN),
        "robot_description": (String, runtime.LATCHED),
        "sim/status": (DiagnosticArray, runtime.LATCHED),
    }
    names = [f"fr3_joint{i}" for i in range(1, 8)]
    spec = NodeSpec("sim", "sim_node", {"task": "arm_reach", "simulator": "mujoco"}, files=(config_file("fr3"),))
    with Domain() as domain, Graph((spec,), domain) as graph:
        other = Other(domain, graph, heard, {"fr3_arm_controller/joint_trajectory": JointTrajectory})
        try:
            other.until(lambda: other.heard["franka/joint_states"] and other.heard["robot_description"], "the arm")
            assert list(other.heard["franka/joint_states"][-1].name) == names
            text = other.heard["robot_description"][0].data
            assert all(f'<joint name="{name}"' in text for name in names)
            assert '<joint name="panda_joint' not in text
            now = np.array(other.heard["franka/joint_states"][-1].position)
            command = Command(0, np.array([0.02]), now[None] + 0.01, np.zeros((1, 7)))
            mouth = other.mouth["fr3_arm_controller/joint_trajectory"]
            other.until(lambda: mouth.get_subscription_count() == 1, "the controller")
            mouth.publish(messages.command_message(command, names[::-1]))  # by name, never by index
            begun = stamp(other.heard["franka/joint_states"][-1])
            other.until(lambda: stamp(other.heard["franka/joint_states"][-1]) > begun + 15_000_000, "a step")
            mouth.publish(messages.command_message(command, robots.load("arm7").joint_names))
            other.until(lambda: other.status.get("missing_joint") == "1", "the refusal of names of another robot")
        finally:
            other.close()


def test_an_arm_in_real_time_does_not_wait_for_ever_for_its_first_command():
    """It may have been lost while whoever listens was started anew. With an episode the wait begins again."""
    world = {"task": "arm_reach", "simulator": "mujoco", "pace": "realtime"}
    with Domain() as domain, Graph((NodeSpec("sim", "sim_node", world),), domain) as graph:
        other = Other(domain, graph, {"joint_states": (JointState, runtime.STREAM_IN)}, {})

        def passed(since):
            return (messages.to_stamp(other.next("joint_states").header.stamp) - since) * 1e-9

        first = messages.to_stamp(other.next("joint_states").header.stamp)
        other.until(lambda: passed(first) > 0.1, "time to pass")
        asked = time.monotonic()
        begun = int(other.ask("begin_episode").message)
        for pause in (0.0, 0.5 * WAIT):
            other.spin(pause)
            simulated = passed(begun)
            assert simulated < 0.01 + max(0.0, time.monotonic() - asked - WAIT)  # where this process was held up, it may be over
        other.until(lambda: passed(begun) > 0.1, "time to pass again")
        other.close()


def test_an_arm_on_its_way_in_real_time_hears_pause_step_and_another_episode():
    robot, world = robots.load("arm7"), {"task": "arm_slide", "simulator": "mujoco", "pace": "realtime"}
    with Domain() as domain, Graph((NodeSpec("sim", "sim_node", world),), domain) as graph:
        heard = {robot.state_topic: (JointState, runtime.STREAM_IN)}
        other = Other(domain, graph, heard, {robot.command_topic: JointTrajectory})
        mouth, turned = other.mouth[robot.command_topic], lambda: other.heard[robot.state_topic][-1].position[0] - home[0]
        home = np.array(other.next(robot.state_topic).position)
        other.until(lambda: mouth.get_subscription_count() == 1, "the controller")
        u, by = np.arange(1, 101)[:, None] / 100, 0.6 * np.eye(7)[0]
        far = Command(1, 60 * u[:, 0], home + by * u**2 * (3 - 2 * u), by * 6 * u * (1 - u) / 60)  # a minute to turn the first joint
        mouth.publish(messages.command_message(far, robot.joint_names))
        other.until(lambda: turned() > 0.01, "the arm to be on its way")
        assert other.ask("set_pause", data=True).success
        other.spin(0.3)
        held, there = stamp(other.heard[robot.state_topic][-1]), turned()
        assert there < 0.5
        other.spin(0.5)
        assert stamp(other.heard[robot.state_topic][-1]) == held
        assert other.ask("step").success
        other.until(lambda: stamp(other.heard[robot.state_topic][-1]) > held + 3_450_000_000, "a decision's time")
        assert there < turned() < there + 0.06
        assert other.ask("set_pause", data=False).success
        assert other.ask("begin_episode").success
        other.next(robot.state_topic, 3)
        assert abs(turned()) < 1e-3
        other.close()


# ---- in this process --------------------------------------------------------------------------------------------------------


@pytest.fixture
def make_sim(domain, monkeypatch):
    """make_sim(**parameters): a SimNode that nothing spins; `said` are the stamps (ns) that go out on /clock."""
    for name, value in domain.variables().items():
        monkeypatch.setenv(name, value)
    context, made = rclpy.Context(), []
    rclpy.init(context=context)

    def make(**parameters):
        given = [rclpy.parameter.Parameter(k, value=v) for k, v in parameters.items()]
        made.append(SimNode(rclpy.create_node("sim", context=context, parameter_overrides=given)))
        made[-1].said = []
        made[-1]._clock = SimpleNamespace(publish=lambda m, said=made[-1].said: said.append(messages.to_stamp(m.clock)))
        return made[-1]

    yield make
    for sim in made:
        sim.world.close()
        sim.node.destroy_node()
    context.try_shutdown()


def test_in_lockstep_a_set_point_takes_its_time_and_no_more(make_sim):
    sim = make_sim(task="arm_reach", simulator="mujoco")
    home, stamps = sim.world.true["qpos"][0].double().numpy()[None], []
    for _ in range(5):
        sim._on_command(sim.wire.message(Command(sim._stamp, np.array([0.02]), home, np.zeros_like(home))))
        stamps.append(sim._stamp)
    assert np.diff(stamps).tolist() == [20_000_000] * 4


def test_in_real_time_a_robot_refuses_a_command_that_answers_what_is_long_past(make_sim):
    sim = make_sim(task="car_track", simulator="mujoco", pace="realtime", command_timeout=0.1)
    sim._since = sim._stamp + 1_000_000_000
    answers = lambda ago: messages.twist_command(sim.wire.robot.twist_of((1.0, 0.0)), sim._since - round(ago * 1e9))  # noqa: E731
    sim._on_command(answers(0.11))
    assert dict(sim.status.counts) == {"stale_command": 1}
    assert not sim._running
    assert not sim._told
    sim._on_command(answers(0.09))
    assert dict(sim.status.counts) == {"stale_command": 1}
    assert sim._running


# ---- a stop in mid-motion ---------------------------------------------------------------------------------------------------

SLOW_SLIDE = """
from metarl.tasks.arm_slide import ArmSlide

class SlowSlide(ArmSlide):
    # far from the object, so that the arm is on its way for 12 s

    name = "slow_slide"
    ready = (0.5, -0.4, 0.03)
    approach = 12.0
"""


@pytest.fixture
def slow_slide(tmp_path, monkeypatch, small_algorithm):
    """The nodes of arm_slide in real time with a long way to the object, and meta-parameters that nothing has trained."""
    (tmp_path / "slow_slide.py").write_text(SLOW_SLIDE)
    monkeypatch.setattr(tasks, "__path__", list(tasks.__path__))
    monkeypatch.setenv("METARL_TASKS", str(tmp_path))
    tasks.add_folder(tmp_path)
    file = str(tmp_path / "slow_slide.safetensors")
    meta_parameters.save(file, small_algorithm("rl2", "slow_slide"), "rl2", 0)
    nodes = arm(Arm(file, "slow_slide", "mujoco", pace="realtime", episodes=1), observers=2)
    # a busy machine may keep joint states from the safety node for as long as it likes: it is the person who stops the arm here
    return tuple(replace(n, parameters={**n.parameters, "state_timeout": 60.0}) if n.name == "safety" else n for n in nodes)


def test_an_arm_in_real_time_obeys_an_emergency_stop_in_mid_motion_and_the_trial_says_so(domain, listen, slow_slide):
    robot, every = robots.load("arm7"), QoSProfile(depth=1000)
    topics = {robot.state_topic: (JointState, every), robot.command_topic: (JointTrajectory, every), "task/events": (Float64MultiArray, runtime.HISTORY)}
    topics |= {f"{name}/status": (DiagnosticArray, runtime.LATCHED) for name in ("safety", "task")}
    with listen(domain, topics, {"estop": Bool}) as ear, Graph(slow_slide, domain) as running:
        states, sent = ear.heard[robot.state_topic], ear.heard[robot.command_topic]
        until = lambda true, what: ear.until(lambda: running.finished("sim") or true(), what)  # noqa: E731
        until(lambda: states and ear.last("safety/status") and ear.mouth["estop"].get_subscription_count(), "the robot and its guard")
        ear.node.create_subscription(Float64MultiArray, "task/events", lambda _: None, runtime.HISTORY)  # whom the trial has waited for
        until(lambda: sent and np.abs(states[-1].velocity).max() > 0.04, "the arm to be on its way")
        ear.mouth["estop"].publish(Bool(data=True))
        until(lambda: len(sent[-1].points) == 1, "the stop")
        motion, hold = sent[0].points, np.array(sent[-1].points[0].positions)
        stands = lambda m: np.abs(m.velocity).max() < 0.01 and np.abs(np.array(m.position) - hold).max() < 0.01  # noqa: E731
        until(lambda: stands(states[-1]), "the arm to stand within its braking distance")
        stood = len(states)
        until(lambda: "the safety node, which has stopped the robot" in ear.last("task/status").get("message", ""), "the trial to say so")
        assert ear.last("safety/status")["stop_cause"] == "estop"
        until(lambda: len(states) > stood + 50, "the arm to say for a second that it stands")
        assert all(stands(m) for m in states[stood:])
        ear.mouth["estop"].publish(Bool(data=False))
        reset = ear.node.create_client(Trigger, "safety/reset")
        until(reset.service_is_ready, "the reset")

        def is_reset():
            asked = reset.call_async(Trigger.Request())
            until(asked.done, "an answer")
            return asked.result().success

        until(is_reset, "the button to be let go")
        until(lambda: ear.heard["task/events"] and messages.to_event(ear.heard["task/events"][-1]).ends, "the trial to go on")
    end = np.array(motion[-1].positions)
    began = next(stamp(m) for m in states if np.abs(m.velocity).max() > 0.02)
    assert np.abs(hold - end).max() > 0.1  # it was stopped well before the end
    assert stamp(states[stood]) - began < messages.to_stamp(motion[-1].time_from_start)
    gaps = np.diff([stamp(m) for m in states if stamp(m) > began])
    assert np.median(gaps) == 20_000_000  # joint states go on at their rate, before the stop and after it
