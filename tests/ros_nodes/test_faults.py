"""Faults in a graph of real processes whose control loop runs at 100 Hz: what stops the robot, and how it goes on."""
# ruff: noqa: E402 - what needs ROS is imported after the look whether it is there

import itertools
import signal
from collections import deque
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

rclpy = pytest.importorskip("rclpy", reason="ROS 2 is not installed: pip install 'metarl[ros]'")

from geometry_msgs.msg import PoseStamped
from lifecycle_msgs.msg import Transition, TransitionEvent
from lifecycle_msgs.srv import ChangeState
from rcl_interfaces.srv import SetParameters
from rclpy.parameter import Parameter
from rclpy.qos import QoSProfile, ReliabilityPolicy
from sensor_msgs.msg import JointState
from std_msgs.msg import Bool, Float64MultiArray
from std_srvs.srv import SetBool, Trigger
from trajectory_msgs.msg import JointTrajectory

from metarl import meta_parameters, robots
from metarl.ros_nodes import messages, runtime
from metarl.ros_nodes.graph import Domain, Graph, NodeSpec
from metarl.ros_nodes.labels import labels_of
from metarl.ros_nodes.limits import Command
from metarl.ros_nodes.operating import Operator

# ROS's message packages import a parser that imports what Python has deprecated
pytestmark = pytest.mark.filterwarnings("ignore:module 'sre_:DeprecationWarning")

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
ARM7 = robots.load_arm("arm7")
HOME = np.array(ARM7.home_qpos)
LONG = 300.0  # s, until a test gives up; a busy machine takes its time
NODES = ("robot", "safety", "adapter", "task", "supervisor")
TICK = 10**5  # ns of a robot's clock that the test sets, each 20 ms: no command grows old while a process is held up


@pytest.fixture(scope="module")
def operator(fast_graph):
    """The whole graph, once for all tests of this file. Its safety node is found three seconds later than all others, who wait for it."""
    with Domain() as domain, Graph(fast_graph(), domain) as graph:
        operator = Operator(domain, graph, NODES, LONG)
        with operator.frozen("safety"):
            operator.wait(3.0)
        operator.until(lambda: operator.said["supervisor"].get("ready") == "true", "all nodes to be active")
        operator.flows()
        yield operator
        operator.close()


def spec_of(operator, name):
    return next(n for n in operator.graph.nodes if n.name == name)


def test_a_robot_that_dies_while_an_episode_is_being_begun_is_asked_again(operator):
    operator.flows()
    ends = []
    listener = operator.node.create_subscription(Float64MultiArray, "task/events", lambda m: ends.append(messages.to_event(m).ends), runtime.STREAM_IN)
    for _ in range(50):
        operator.until(lambda: ends and ends[-1], "the end of an episode")
        with operator.frozen("robot"):  # so that it is asked, and does not answer
            operator.wait(0.5)
            killed = ends[-1]
            if killed:
                operator.graph.kill("robot")
                operator.graph.start(spec_of(operator, "robot"))
                break  # else it has answered before, and the next episode has begun
    assert killed
    operator.node.destroy_subscription(listener)
    operator.flows()


def test_after_an_emergency_stop_nothing_moves_until_it_is_reset_by_hand(operator, hear_all):
    """In the middle of adaptation. The trial stands still meanwhile, and little is lost of what was learned."""
    operator.flows()
    button, events = operator.node.create_publisher(Bool, "estop", runtime.LATCHED), []
    listener = operator.node.create_subscription(Float64MultiArray, "task/events", events.append, runtime.STREAM_IN)
    button.publish(Bool(data=True))
    operator.until(lambda: operator.said["safety"]["state"] == "stopped", "the stop")
    operator.until(lambda: "which has stopped the robot" in operator.said["task"]["message"], "the task to notice")
    hear_all(operator, "task")
    forwarded, seen, excluded = operator.count("safety", "forwarded"), len(events), operator.count("adapter", "adaptation_excluded")
    late = lambda: operator.count("safety", "stale_state") + operator.count("safety", "stale_command")  # noqa: E731
    before = late()
    operator.wait(1.0)
    assert len(events) == seen
    assert operator.said["safety"]["stop_cause"] == "estop"
    assert operator.ask(Trigger, "safety/reset").success is False  # the button is still pressed
    assert operator.ask(SetBool, "safety/estop", data=False).message == "an emergency stop ends by ~/reset alone"
    button.publish(Bool(data=False))
    operator.wait(0.5)  # releasing it is no reset
    assert operator.count("safety", "forwarded") == forwarded
    operator.until(lambda: operator.ask(Trigger, "safety/reset").success, "the reset")
    operator.flows()
    # a hundred decisions would have been; those of which the machine made somebody too late are not of this stop
    assert operator.count("adapter", "adaptation_excluded") < excluded + 10 + late() - before
    operator.node.destroy_subscription(listener)
    operator.node.destroy_publisher(button)


@pytest.mark.parametrize(
    ("offered", "late"),
    [
        (QoSProfile(depth=10), False),  # rclpy's default
        (runtime.LATCHED, False),
        (runtime.LATCHED, True),
        (QoSProfile(depth=1, reliability=ReliabilityPolicy.BEST_EFFORT), False),
    ],
    ids=["default", "latched", "latched before", "best effort"],
)
def test_an_emergency_stop_is_heard_however_it_is_published(offered, late):
    """Once, and counted once; of a latched one also where the safety node comes later."""
    safety = NodeSpec("safety", "safety_node", {}, {"command": "adapter/command"})
    with Domain() as domain, Graph((), domain) as graph:
        operator = Operator(domain, graph, ("safety",), LONG)
        button = operator.node.create_publisher(Bool, "estop", offered)
        if late:
            button.publish(Bool(data=True))
        graph.start(safety)
        operator.until(lambda: operator.said["safety"], "the safety node")
        if not late:
            operator.until(lambda: button.get_subscription_count() > 0, "the safety node to listen")
            button.publish(Bool(data=True))
        # the subscriber may know the publisher later than the other way round: what nobody repeats to it is lost until then
        again = (lambda: button.publish(Bool(data=True))) if offered.reliability == ReliabilityPolicy.BEST_EFFORT else lambda: None
        operator.until(lambda: operator.said["safety"].get("state") == "stopped" or again(), "the stop")
        operator.wait(0.5)
        assert operator.count("safety", "estop") == 1
        assert operator.ask(Trigger, "safety/reset").success is False
        operator.close()


def test_a_second_publisher_of_commands_stops_the_robot(operator):
    operator.flows()
    second = operator.node.create_publisher(JointTrajectory, "adapter/command", runtime.COMMAND)
    operator.until(lambda: operator.said["safety"]["state"] == "stopped", "the stop")
    assert operator.said["safety"]["stop_cause"] == "two_publishers"
    operator.ask(Trigger, "safety/reset")
    operator.until(lambda: operator.count("safety", "two_publishers") >= 2, "it to be stopped again, as long as there are two")
    operator.node.destroy_publisher(second)
    operator.until(lambda: len(operator.node.get_publishers_info_by_topic("adapter/command")) == 1, "one to be left")
    since = [operator.count("safety", "forwarded")]

    def goes_on():
        """For longer than the safety node takes to look who publishes; it may hear later than this one that there is only one left."""
        if operator.said["safety"]["state"] == "stopped":
            operator.ask(Trigger, "safety/reset")
            since[0] = operator.count("safety", "forwarded")
        return operator.count("safety", "forwarded") >= since[0] + 30

    operator.until(goes_on, "the robot to go on after the reset")


def test_a_goal_that_nobody_shows_is_waited_for_and_said(operator):
    """This robot's target never moves. The episode under way is not disturbed; the next one waits, until the goal is where the target is."""
    operator.flows()
    mouth, message = operator.node.create_publisher(PoseStamped, "task/goal", runtime.COMMAND), PoseStamped()
    operator.until(lambda: mouth.get_subscription_count() == 1, "the task node to listen")
    message.header.frame_id = messages.BASE_FRAME
    message.pose.position.x, message.pose.position.y, message.pose.position.z = 0.45, 0.1, 0.3
    mouth.publish(message)
    said = "waiting for the target to be at (0.450, 0.100, 0.300) m: it is at (0.450, 0.000, 0.300)"
    operator.until(lambda: operator.said["task"]["message"] == said, "the task node to say what it waits for")
    forwarded = operator.count("safety", "forwarded")
    operator.wait(0.5)
    assert operator.count("safety", "forwarded") == forwarded
    message.pose.position.y = 0.0
    mouth.publish(message)
    operator.flows()
    operator.node.destroy_publisher(mouth)


def test_parameters_out_of_range_are_refused_by_name_while_active(operator):
    assert operator.set("adapter", trust_radius=-1.0) == ["trust_radius is -1.0, expected between 1e-06 and 1000000.0"]
    assert operator.set("adapter", mode="learn") == ["mode is 'learn', expected one of adapt, frozen, shadow"]
    assert operator.set("adapter", meta_parameters="other.safetensors") == ["meta_parameters can change only before the node is configured"]
    assert operator.set("adapter", robot="jaco") == ["robot is fixed once the node runs"]
    assert operator.set("adapter", budget=float("nan"))[0].startswith("budget is nan")
    assert operator.set("safety", reach=0.26) == ["reach is 0.26, expected between 0.01 and 0.25"]  # no wider than it was started with
    assert operator.set("safety", command_timeout=0.2) == ["command_timeout is 0.2, expected between 0.01 and 0.1"]
    assert operator.set("safety", state_timeout=60.0) == ["state_timeout is 60.0, expected between 0.01 and 0.1"]
    assert operator.set("safety", may_jump=False) == ["may_jump is fixed once the node runs"]
    assert operator.set("safety", workspace_lower=[0.0, 0.0, 0.1]) == ["workspace_lower is fixed once the node runs"]
    assert operator.set("safety", robot="jaco") == ["robot is fixed once the node runs"]
    assert operator.set("safety", slew=0.5)[0]  # a vehicle's
    assert operator.set("safety", command_timeout=0.0)[0].startswith("command_timeout is 0.0")
    assert operator.set("supervisor", timeout=0.01)[0].startswith("timeout is 0.01")
    assert operator.set("safety", reach=0.25) == [""]
    operator.flows()


def learns(operator):
    """On a busy machine many decisions come too late, or learning is held up, which may have switched it off."""
    assert operator.set("adapter", interventions=1.0, budget=60.0) == ["", ""]
    assert operator.ask(SetBool, "adapter/enable_adaptation", data=True).success


def test_learning_that_goes_too_far_or_takes_too_long_ends_where_it_should(operator):
    """Everything is beyond a trust radius of next to nothing; every episode's end takes longer than a tenth of a millisecond."""
    operator.flows()
    learns(operator)
    assert operator.set("adapter", trust_radius=1e-6) == [""]
    operator.more("adapter", "adaptation_trust_radius")
    assert operator.set("adapter", trust_radius=2.0) == [""]
    assert operator.set("adapter", budget=1e-4) == [""]
    operator.until(lambda: operator.said["adapter"].get("adaptation_off") == "over_budget", "learning to be switched off")
    operator.flows()  # the robot goes on
    assert operator.set("adapter", budget=60.0) == [""]
    assert operator.ask(SetBool, "adapter/enable_adaptation", data=True).message == "mode adapt, learning from the next episode on"
    operator.until(lambda: operator.said["adapter"].get("adaptation_off") == "", "learning to be on")
    assert operator.set("adapter", mode="frozen") == [""]
    refused = operator.ask(SetBool, "adapter/enable_adaptation", data=True)
    assert (refused.success, refused.message) == (False, "the parameter mode is frozen, so nothing is learned: set it to adapt or shadow")
    assert operator.set("adapter", mode="adapt") == [""]
    rollbacks = operator.count("adapter", "adaptation_by_hand")
    assert operator.ask(Trigger, "adapter/reset_adaptation").success
    operator.more("adapter", "adaptation_by_hand", than=rollbacks)


def test_what_was_learned_is_saved(operator):
    """With the trial and the event that it comes from, as soon as something is learned after the roll-back."""
    operator.flows()
    learns(operator)
    told = deque([{"version_epoch": -1.0}], maxlen=1)
    listener = operator.node.create_subscription(
        Float64MultiArray, "adapter/adaptation", lambda m: told.append(dict(zip(labels_of(m), m.data, strict=True))), runtime.STREAM_IN
    )
    operator.until(lambda: told[0]["version_epoch"] > 0, "something to be learned")
    answer = operator.ask(Trigger, "adapter/save_adapted")
    assert answer.success
    saved = meta_parameters.load(answer.message)
    assert saved.spec.task == "fast_reach"
    assert saved.experience.epoch == told[0]["epoch"] > 0
    assert saved.experience.sequence > 0
    assert saved.experience.state["hidden"].shape == (1, 1, 8)
    operator.node.destroy_subscription(listener)


def test_pause_is_a_stop_and_startup_goes_on_from_the_measured_pose(operator):
    operator.flows()
    stops = operator.count("safety", "stop_asked")
    assert operator.ask(Trigger, "supervisor/pause").success
    operator.more("safety", "stop_asked", than=stops)
    operator.until(lambda: operator.said["adapter"]["lifecycle"] == "inactive", "the adapter to be inactive")
    operator.until(lambda: operator.said["supervisor"]["message"] == "all nodes are inactive", "the supervisor to say so")
    forwarded = operator.count("safety", "forwarded")
    operator.wait(0.5)
    assert operator.count("safety", "forwarded") == forwarded
    assert operator.ask(Trigger, "supervisor/startup").success
    operator.flows()


def test_an_adapter_that_a_person_has_deactivated_stays_so_until_startup(operator, hear_all):
    operator.flows()
    withdrawn = operator.count("supervisor", "withdrawn")
    assert operator.ask(ChangeState, "adapter/change_state", transition=Transition(label="deactivate")).success
    operator.more("supervisor", "withdrawn", than=withdrawn)
    hear_all(operator, "safety")
    forwarded = operator.count("safety", "forwarded")
    operator.wait(1.0)
    assert operator.said["adapter"]["lifecycle"] == "inactive"
    assert operator.count("safety", "forwarded") == forwarded
    assert operator.said["supervisor"]["message"] == "adapter was deactivated, not by this node, and stays so until ~/startup"
    assert operator.ask(Trigger, "supervisor/startup").success
    operator.flows()


def test_without_a_supervisor_the_robot_is_guarded_and_a_new_one_takes_over_what_is_active(operator):
    """Nobody notices its death but who listens to it. Whoever takes its place configures and activates nobody that is active."""
    changes = []
    listener = operator.node.create_subscription(TransitionEvent, "adapter/transition_event", changes.append, runtime.COMMAND)
    operator.until(lambda: operator.node.count_publishers("adapter/transition_event") == 1, "the adapter to tell of its life cycle")
    operator.graph.kill("supervisor")
    operator.said["supervisor"] = {}
    operator.flows()
    with operator.frozen("adapter"):
        operator.until(lambda: operator.said["safety"]["state"] == "holding", "the stop")
    operator.flows()
    assert operator.said["supervisor"] == {}
    operator.graph.start(spec_of(operator, "supervisor"))
    operator.until(lambda: operator.said["supervisor"].get("message") == "all nodes are active", "the new one to find all nodes active")
    operator.flows()
    assert changes == []
    operator.node.destroy_subscription(listener)


def test_an_active_adapter_that_is_asked_to_end_stops_the_robot_first(operator):
    operator.flows()
    stops, adapter = operator.count("safety", "stop_asked"), operator.graph._processes["adapter"]
    adapter.send_signal(signal.SIGTERM)
    operator.more("safety", "stop_asked", than=stops)
    assert adapter.wait(LONG) == 0
    operator.graph.start(spec_of(operator, "adapter"))
    operator.flows()


def test_an_adapter_that_commands_nobody_ends_at_once_when_it_is_asked_to(fast_graph):
    """Before it is configured, and after that."""
    adapter = next(n for n in fast_graph() if n.name == "adapter")
    nodes = [replace(adapter, name=name, remappings={**adapter.remappings, "__node": name}) for name in ("empty", "inactive")]
    with Domain() as domain, Graph(nodes, domain) as graph, Operator(domain, graph, ("empty", "inactive"), LONG) as operator:
        assert operator.ask(ChangeState, "inactive/change_state", transition=Transition(label="configure")).success
        operator.until(lambda: operator.said["empty"].get("lifecycle") == "unconfigured", "the other one")
        for name, number in (("empty", signal.SIGINT), ("inactive", signal.SIGTERM)):
            graph._processes[name].send_signal(number)
            assert graph._processes[name].wait(LONG) == 0


def test_shutdown_ends_the_adapter_after_a_last_stop(operator):
    """The last test of this graph."""
    operator.flows()
    stops = operator.count("safety", "stop_asked")
    assert operator.ask(Trigger, "supervisor/shutdown").success
    operator.more("safety", "stop_asked", than=stops)
    assert operator.graph._processes["adapter"].wait(LONG) == 0


# ---- what a command may not be ----------------------------------------------------------------------------------------------


def test_each_bad_command_is_refused_by_name(monkeypatch):
    """The safety node alone; the test plays robot and adapter. Joint states are stamped by a robot's clock that the test sets."""
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    safety = NodeSpec("safety", "safety_node", {"state_timeout": 60.0, "may_jump": True}, {"command": "adapter/command"})
    with Domain() as domain, Graph((safety,), domain) as graph:
        operator = Operator(domain, graph, ("safety",), LONG)
        mouth = operator.node.create_publisher(JointTrajectory, "adapter/command", runtime.COMMAND)
        robot = operator.node.create_publisher(JointState, ARM7.state_topic, runtime.COMMAND)
        operator.node.create_subscription(JointTrajectory, ARM7.command_topic, lambda m: None, runtime.COMMAND)
        measured = {"qpos": HOME, "stamp": 10**12}  # ns

        def tick():
            measured["stamp"] += TICK
            robot.publish(messages.joint_state(ARM7.joint_names, measured["qpos"], np.zeros(7), measured["stamp"]))

        operator.node.create_timer(0.02, tick)
        operator.until(lambda: operator.said["safety"].get("ready") == "true", "the safety node to be ready")
        operator.until(lambda: mouth.get_subscription_count() == 1, "it to listen")

        def say(reason, command, names=ARM7.joint_names, drop=0):
            before = operator.count("safety", reason)
            message = messages.command_message(command, names)
            for point in message.points:
                point.positions = list(point.positions)[: 7 - drop]
            mouth.publish(message)
            operator.until(lambda: operator.count("safety", reason) > before, reason)
            now = measured["stamp"]
            operator.until(lambda: measured["stamp"] > now, "the robot's clock to go on")  # so that the next command has a stamp of its own

        def set_point(by=0.0, age=5, bad=None):
            """`age` ticks ago; one joint's position may be bad."""
            qpos = np.array(measured["qpos"]) + by
            if bad is not None:
                qpos[3] = bad
            return Command(measured["stamp"] - age * TICK, np.array([0.02]), qpos[None], np.zeros((1, 7)))

        say("forwarded", set_point())
        last = set_point(age=4)
        say("forwarded", last)
        say("duplicate", last)
        say("out_of_order", last._replace(stamp=last.stamp - 1))
        say("not_finite", set_point(bad=np.nan))
        say("not_finite", set_point(bad=np.inf))
        say("wrong_shape", set_point(), drop=1)
        say("missing_joint", set_point(), names=("elbow", *ARM7.joint_names[1:]))
        say("missing_joint", set_point(), names=(ARM7.joint_names[1], *ARM7.joint_names[1:]))
        swapped = np.array(measured["qpos"])[[3, 1, 2, 0, 4, 5, 6]]  # columns in another order than their names
        say("far_from_pose", set_point()._replace(qpos=swapped[None]))
        say("forwarded", set_point()._replace(qpos=np.array(measured["qpos"])[None, ::-1]), names=ARM7.joint_names[::-1])  # with their names they are sound
        say("velocity", set_point(by=0.1))
        say("stop_asked", Command(measured["stamp"], np.empty(0), np.empty((0, 7)), np.empty((0, 7))))
        measured["stamp"] += 2 * 10**8  # the last command is old
        say("stale_command", set_point(age=1500))
        before = set_point(age=1)
        measured["qpos"] = HOME + 0.5  # a reset puts the robot elsewhere
        operator.more("safety", "jump", than=0)
        say("before_reset", before)
        operator.ask(SetParameters, "safety/set_parameters", parameters=[Parameter("state_timeout", value=5.0).to_parameter_msg()])
        say("future", set_point(age=-(10**6)))
        operator.close()


def test_a_joint_that_pushes_too_hard_stops_a_fast_loop_until_it_no_longer_does(monkeypatch):
    """The safety node alone; the test plays robot and adapter at 50 Hz, and the robot tells its efforts."""
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    safety = NodeSpec("safety", "safety_node", {"state_timeout": 60.0, "command_timeout": 60.0}, {"command": "adapter/command"})
    with Domain() as domain, Graph((safety,), domain) as graph:
        operator = Operator(domain, graph, ("safety",), LONG)
        mouth = operator.node.create_publisher(JointTrajectory, "adapter/command", runtime.COMMAND)
        robot = operator.node.create_publisher(JointState, ARM7.state_topic, runtime.COMMAND)
        sent, clock, effort = [], itertools.count(10**12, 2 * 10**7), np.zeros(7)
        operator.node.create_subscription(JointTrajectory, ARM7.command_topic, sent.append, runtime.COMMAND)

        def tick():
            stamp = next(clock)
            robot.publish(messages.joint_state(ARM7.joint_names, HOME, np.zeros(7), stamp, effort))
            mouth.publish(messages.command_message(Command(stamp, np.array([0.02]), HOME[None], np.zeros((1, 7))), ARM7.joint_names))

        operator.until(lambda: mouth.get_subscription_count() == robot.get_subscription_count() == 1, "the safety node to listen")
        timer = operator.node.create_timer(0.02, tick)
        operator.flows()
        effort[1] = 1.1 * ARM7.effort_limits[1]
        operator.more("safety", "effort", than=0)
        operator.until(lambda: operator.said["safety"]["state"] == "holding", "the robot to be held")
        before, refused = operator.count("safety", "forwarded"), operator.count("safety", "effort")
        operator.more("safety", "effort", than=refused, by=20)  # each command of the loop
        assert operator.count("safety", "forwarded") == before
        assert messages.command_arrays(sent[-1], ARM7.joint_names).time[0] >= 0.1  # the pose is held
        effort[1] = 0.5 * ARM7.effort_limits[1]
        operator.flows()
        assert operator.said["safety"]["state"] == "tracking"
        operator.node.destroy_timer(timer)
        operator.close()
