"""The real graph: nodes in processes of their own, over DDS."""

import contextlib
import io
import itertools
import json
import os
import re
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from rich.console import Console

pytest.importorskip("rclpy", reason="ROS 2 is not installed: pip install 'metarl[ros]'")

from diagnostic_msgs.msg import DiagnosticArray
from geometry_msgs.msg import PoseStamped
from rcl_interfaces.srv import GetParameters
from rclpy.qos import QoSProfile
from sensor_msgs.msg import JointState
from std_msgs.msg import Float64MultiArray
from std_srvs.srv import Trigger
from trajectory_msgs.msg import JointTrajectory

from metarl import meta_parameters, robots, tasks
from metarl.evaluate import Trace
from metarl.rollout import collect
from metarl.ros_nodes import demo, messages, runtime
from metarl.ros_nodes.control_loop import load
from metarl.ros_nodes.events import Event
from metarl.ros_nodes.graph import PARENT_VARIABLE, Arm, Graph, Kitchen, NodeFailed, NodeSpec, arm, graph
from metarl.ros_nodes.guard import HOLD_TIME
from metarl.ros_nodes.limits import Command
from metarl.tasks.batched_env import BatchedEnv

# ROS's message packages import a parser that imports what Python has deprecated
pytestmark = pytest.mark.filterwarnings("ignore:module 'sre_:DeprecationWarning")

ARM7 = robots.load("arm7")
HOME = np.array(ARM7.home_qpos)
LONG = 300.0  # s, until a test gives up; a busy machine takes its time to start processes


class Given(NodeSpec):
    """A node with the parameter that stands in place of its executable, as YAML has it."""

    @property
    def command(self):
        return [sys.executable, "-m", f"metarl.ros_nodes.{self.name}_node", "--ros-args", "-p", "bag:=x", "-p", self.executable]


@pytest.fixture(scope="module")
def files(tmp_path_factory, small_algorithm):
    """files(task): meta-parameters that nothing has trained."""

    def make(task):
        file = tmp_path_factory.getbasetemp() / f"{task}.safetensors"
        meta_parameters.save(file, small_algorithm("rl2", task), "rl2", 0)
        return str(file)

    return make


def ended(ear):
    """How many episodes have ended, for all that was heard: what a node has said before it ended may still wait to be taken."""
    return sum(messages.to_event(m).ends for m in ear.heard["task/events"])


# ---- a whole trial ----------------------------------------------------------------------------------------------------------


def without_ros(file, task, simulator, index, episodes):
    """Rewards (K, H) and errors (K, H) of the same trial in a BatchedEnv."""
    algorithm = meta_parameters.load(file)
    env = BatchedEnv(task, 1, 1, simulator, 1, seed=0)
    env.set_tasks(task.sample(1, "iid", start=index))
    trace = Trace(env, episodes)
    rollout = collect(env, algorithm.adapter(1), episodes, algorithm.noise_to_adapt, trace)
    env.close()
    return rollout.reward[0, 0], trace.error[0, 0]


@pytest.mark.parametrize(("name", "simulator", "episodes", "tolerance"), [("arm_slide", "pybullet", 5, 1e-6), ("arm_reach", "mujoco", 1, 1e-4)])
def test_a_trial_over_dds_is_the_trial_without(domain, listen, files, name, simulator, episodes, tolerance):
    if simulator == "pybullet":
        pytest.importorskip("pybullet", reason="PyBullet is not installed")
    task = tasks.make(name)
    choice = Arm(files(name), name, simulator, index=3, episodes=episodes)
    topics = {"task/events": (Float64MultiArray, runtime.HISTORY), "safety/status": (DiagnosticArray, runtime.LATCHED)}
    before = time.time_ns() // 1_000_000
    with listen(domain, topics) as ear, Graph(arm(choice, observers=1), domain) as graph:
        ear.until(lambda: graph.finished("task"), "the trial to end")
        ear.until(lambda: ended(ear) == episodes, "the last event")
        ear.until(lambda: ear.last("safety/status").get("forwarded") == str(task.horizon * episodes), "the last command to be counted")
    events = [messages.to_event(m) for m in ear.heard["task/events"]]
    assert [e.sequence for e in events] == list(range(len(events)))
    (epoch,) = {e.epoch for e in events}
    assert before <= epoch <= time.time_ns() // 1_000_000  # in ms
    assert sum(e.begins for e in events) == sum(e.ends for e in events) == episodes
    found = [e for e in events if not e.begins]
    reward, error = without_ros(choice.policy, task, simulator, 3, episodes)
    assert [e.truncated for e in found] == ([False] * (task.horizon - 1) + [True]) * episodes
    np.testing.assert_allclose([e.reward for e in found], reward.flatten(), rtol=0, atol=tolerance)
    np.testing.assert_allclose([e.error for e in found], error.flatten(), rtol=0, atol=tolerance)


def test_a_grasp_over_dds_is_the_grasp_without(domain, listen, as_slow_as_a_robot):
    """The fingers' efforts go with the trajectory, every motion is forwarded, and the trained policy lifts and places."""
    name, file = "arm_lift_place", "zoo:arm_lift_place/rl2"
    # nodes find subscriptions in the order in which they were made: who says its status to this one, says its commands to it as well
    topics = {"task/events": (Float64MultiArray, runtime.HISTORY), ARM7.command_topic: (JointTrajectory, QoSProfile(depth=1000))}
    topics["safety/status"] = (DiagnosticArray, runtime.LATCHED)
    with listen(domain, topics) as ear, Graph(arm(Arm(file, name, "mujoco", index=3, episodes=3), observers=2), domain) as graph:
        ear.until(lambda: graph.finished("safety") or ear.heard["safety/status"], "the safety node")
        ear.node.create_subscription(Float64MultiArray, "task/events", lambda _: None, runtime.HISTORY)  # whom the trial has waited for
        ear.until(lambda: graph.finished("task"), "the trial to end")
        ear.until(lambda: ended(ear) == 3, "the last event")
        found = [e for e in map(messages.to_event, ear.heard["task/events"]) if not e.begins]
        ear.until(lambda: ear.last("safety/status").get("forwarded") == str(len(found)), "the last command to be counted")
        moves = lambda: [m for m in ear.heard[ARM7.command_topic] if len(m.points) > 1]  # noqa: E731
        ear.until(lambda: len(moves()) >= len(found), "the last command")
    motions = moves()
    assert len(motions) == len(found)
    assert {tuple(m.joint_names) for m in motions} == {ARM7.joint_names + ARM7.gripper_joint_names}
    expected = without_ros(file, as_slow_as_a_robot(tasks.make(name)), "mujoco", 3, 3)[0]
    returns = np.zeros(3)
    np.add.at(returns, [e.episode for e in found], [e.reward for e in found])
    np.testing.assert_allclose(returns, expected.sum(-1), rtol=0, atol=1e-3)
    assert returns.max() > 0.8


UR = ("shoulder_pan_joint", "shoulder_lift_joint", "elbow_joint", "wrist_1_joint", "wrist_2_joint", "wrist_3_joint")
FR3 = tuple(f"fr3_joint{i}" for i in range(1, 8))


@pytest.mark.parametrize(
    ("name", "config", "joints", "topic", "states"),
    [
        ("arm_reach_ur5e", "", UR, "scaled_joint_trajectory_controller/joint_trajectory", "joint_states"),
        ("arm_reach", "fr3", FR3, "fr3_arm_controller/joint_trajectory", "franka/joint_states"),
    ],
)
def test_the_whole_graph_under_the_names_of_the_robots_driver(domain, listen, files, name, config, joints, topic, states):
    """An episode of 100 decisions: every command is forwarded, under these names alone, and each is worth what it is without ROS."""
    topics = {"task/events": (Float64MultiArray, runtime.HISTORY), "safety/status": (DiagnosticArray, runtime.LATCHED)}
    topics |= {topic: (JointTrajectory, runtime.COMMAND), states: (JointState, runtime.STREAM_IN)}
    choice = Arm(files(name), name, "mujoco", index=3, episodes=1, config=config)
    with listen(domain, topics) as ear, Graph(arm(choice, observers=1), domain) as running:
        ear.until(lambda: running.finished("task"), "the trial to end")
        ear.until(lambda: ended(ear) == 1, "the last event")
        ear.until(lambda: ear.last("safety/status").get("forwarded") == "100", "the last command to be counted")
    assert {tuple(m.joint_names) for m in ear.heard[topic]} == {joints}
    assert {tuple(m.name) for m in ear.heard[states]} == {joints}
    found = [e.reward for e in map(messages.to_event, ear.heard["task/events"]) if not e.begins]
    np.testing.assert_allclose(found, without_ros(choice.policy, tasks.make(name), "mujoco", 3, 1)[0].flatten(), rtol=0, atol=1e-4)


def goal(x, y, z, frame="base_link"):
    message = PoseStamped()
    message.header.frame_id = frame
    message.pose.position.x, message.pose.position.y, message.pose.position.z = x, y, z
    return message


def test_an_operator_sets_the_goal_of_the_next_episode_and_what_it_cannot_be_is_refused(domain, listen, files):
    topics = {"task/events": (Float64MultiArray, runtime.HISTORY), "task/status": (DiagnosticArray, runtime.LATCHED)}
    topics |= {f"{source}/target": (PoseStamped, QoSProfile(depth=1000)) for source in ("seen", "measured")}  # all, also where this process was held up
    refused = {"wrong_frame": goal(0.5, 0.2, 0.3, "map"), "not_finite": goal(0.5, float("nan"), 0.3), "goal_range": goal(0.5, 0.2, 0.9)}
    choice = Arm(files("arm_reach"), "arm_reach", "mujoco", index=3, episodes=2)
    with listen(domain, topics, {"task/goal": PoseStamped}) as ear, Graph(arm(choice, observers=2), domain) as running:
        ear.until(lambda: ear.mouth["task/goal"].get_subscription_count() == 1, "the task node to listen")
        for message in (goal(0.5, 0.2, 0.3), *refused.values()):  # what is refused takes nothing back
            ear.mouth["task/goal"].publish(message)
        ear.until(lambda: all(ear.last("task/status").get(reason) == "1" for reason in refused), "the refusals")
        ear.node.create_subscription(Float64MultiArray, "task/events", lambda _: None, runtime.HISTORY)  # whom the trial has waited for
        ear.until(lambda: running.finished("task"), "the trial to end")
        begun = lambda: [e for e in map(messages.to_event, ear.heard["task/events"]) if e.begins]  # noqa: E731
        ear.until(lambda: len(begun()) == 2, "the second episode")
        for topic in ("seen/target", "measured/target"):  # the simulation goes on saying it
            said = ear.heard[topic]
            ear.until(lambda said=said: said and messages.to_stamp(said[-1].header.stamp) >= begun()[1].stamp, f"{topic} of the second episode")
    places = {topic: [m.pose.position for m in ear.heard[topic]] for topic in ("seen/target", "measured/target")}
    seen, measured = ({(round(p.x, 4), round(p.y, 4), round(p.z, 4)) for p in found} for found in places.values())
    assert len([e for e in map(messages.to_event, ear.heard["task/events"]) if e.begins]) == 2
    assert (0.5, 0.2, 0.3) in measured
    assert (0.5, 0.2, 0.3) not in seen  # the camera is as wrong as ever
    last = places["measured/target"][-1]
    assert abs(last.x - 0.5) + abs(last.y - 0.2) + abs(last.z - 0.3) > 1e-3  # the second episode's is the task's own again


def test_what_was_learned_is_saved_and_begun_with_after_a_restart(domain, listen, files, tmp_path):
    """Two shots, saved; then the whole graph anew with that file: what is believed, and so what is done, is what it was."""
    topics = {"task/events": (Float64MultiArray, runtime.HISTORY), "adapter/used": (Float64MultiArray, runtime.HISTORY)}
    topics["adapter/action"] = (Float64MultiArray, runtime.ANSWERS)
    meta = files("arm_slide")

    def trial(policy, episodes):
        """Events with what the adapter went by, its actions, and the file that it has saved."""
        nodes = graph(Arm(policy, simulator="mujoco", index=3, episodes=episodes), observers=1)
        nodes = [replace(n, parameters={**n.parameters, "adapted_folder": str(tmp_path)}) if n.name == "adapter" else n for n in nodes]
        with listen(domain, topics) as ear, Graph(tuple(nodes), domain) as running:
            ear.until(lambda: running.finished("task"), "the trial to end")
            ear.until(lambda: len(ear.heard["adapter/used"]) == len(ear.heard["task/events"]) == 2 * episodes, "the adapter's last answer")
            ear.until(lambda: len(ear.heard["adapter/action"]) == episodes, "the last action")
            save = ear.node.create_client(Trigger, "adapter/save_adapted")
            ear.until(save.service_is_ready, "the service")
            answer = save.call_async(Trigger.Request())
            ear.until(answer.done, "the file")
        events = [messages.to_event(m) for m in ear.heard["task/events"]]
        used = [messages.to_used(m) for m in ear.heard["adapter/used"]]
        return list(zip(events, used, strict=True)), [list(m.data[2:]) for m in ear.heard["adapter/action"]], answer.result().message

    before, _, file = trial(meta, 2)
    loop = load(meta, ARM7)
    loop.begin_trial()
    for event, used in before:
        if event.begins:
            loop.begin_episode(used.seen)
        else:
            loop.take_result(event.reward, event.terminated, event.truncated, used.seen, used.executed)
    believed = loop.adapter.experience().state["hidden"]
    assert torch.equal(meta_parameters.load(file).experience.state["hidden"], believed)

    after, actions, _ = trial(file, 1)
    begun, naive = load(file, ARM7), load(meta, ARM7)
    assert torch.equal(begun.adapter.experience().state["hidden"], believed)
    seen = after[0][1].seen
    assert actions == [begun.begin_episode(seen).action.tolist()]
    assert actions != [naive.begin_episode(seen).action.tolist()]


def test_the_chef_cooks_over_dds(domain, listen):
    """A mobile arm with the policy of the zoo, in a kitchen in which nothing catches its hand: it earns what it earns without ROS."""
    choice = Kitchen(index=5, episodes=1)
    task = tasks.make(choice.task)
    topics = {"task/events": (Float64MultiArray, runtime.HISTORY), "safety/status": (DiagnosticArray, runtime.LATCHED)}
    with listen(domain, topics) as ear, Graph(graph(choice, observers=1), domain) as running:
        ear.until(lambda: running.finished("task"), "the trial to end")
        ear.until(lambda: ear.heard["task/events"] and messages.to_event(ear.heard["task/events"][-1]).ends, "the last event")
        events = [messages.to_event(m) for m in ear.heard["task/events"]]
        decisions = [e for e in events if not e.begins]
        ear.until(lambda: ear.last("safety/status").get("forwarded") == str(len(decisions)), "the last command to be counted")
    assert decisions[-1].terminated or len(decisions) == task.horizon
    reward, error = without_ros(choice.policy, task, choice.simulator, choice.index, 1)
    np.testing.assert_allclose([e.reward for e in decisions], reward[0, : len(decisions)], rtol=0, atol=1e-6)
    np.testing.assert_allclose([e.error for e in decisions], error[0, : len(decisions)], rtol=0, atol=1e-6)
    assert sum(e.reward for e in decisions) > 5  # food on the table
    assert np.diff([e.stamp for e in events]) * 1e-9 == pytest.approx(task.decision_dt, abs=1e-3)


def test_a_learner_by_gradient_is_over_dds_and_in_a_namespace_the_one_without(domain, listen):
    """What it is paid after its inner steps, of the trained policy, is what it would have been paid without ROS."""
    choice, episodes = Arm("zoo:arm_slide/promp", simulator="mujoco", index=3, episodes=3), 3
    nodes = tuple(replace(node, remappings={**node.remappings, "__ns": "/left"}) for node in graph(choice, observers=1))
    with listen(domain, {"left/task/events": (Float64MultiArray, runtime.HISTORY)}) as ear, Graph(nodes, domain) as running:
        ear.until(lambda: running.finished("task"), "the trial to end")
        ear.until(lambda: len(ear.heard["left/task/events"]) == 2 * episodes, "the last event")
    found = [event.reward for event in map(messages.to_event, ear.heard["left/task/events"]) if not event.begins]
    reward, _ = without_ros(choice.policy, tasks.make("arm_slide"), "mujoco", 3, episodes)
    np.testing.assert_allclose(found, reward.flatten(), rtol=0, atol=1e-6)


# ---- safety -----------------------------------------------------------------------------------------------------------------


def trajectory(by, stamp, points=2, dt=1.0):
    """To a pose `by` rad away from home."""
    return Command(stamp, dt * np.arange(1, points + 1), np.tile(HOME + by, (points, 1)), np.zeros((points, 7)))


def message(command, names=ARM7.joint_names):
    return messages.command_message(command, names)


def state(stamp):
    """At rest at home."""
    return messages.joint_state(ARM7.joint_names[::-1], HOME[::-1], np.zeros(7), stamp)


@pytest.fixture
def robot(domain, listen):
    """robot(state_timeout): the safety node alone, and a test that plays both adapter and robot; gives the Ear and its joint states' mouth."""
    topics = {
        ARM7.command_topic: (JointTrajectory, runtime.COMMAND),
        "safety/executed": (JointTrajectory, runtime.ANSWERS),
        "safety/status": (DiagnosticArray, runtime.LATCHED),
    }

    @contextlib.contextmanager
    def make(state_timeout):
        safety = NodeSpec("safety", "safety_node", {"state_timeout": state_timeout}, {"command": "adapter/command"})
        with Graph((safety,), domain) as graph, listen(domain, topics, {"adapter/command": JointTrajectory, ARM7.state_topic: JointState}) as ear:
            stamps = itertools.count(5)
            timer = ear.node.create_timer(0.02, lambda: ear.mouth[ARM7.state_topic].publish(state(next(stamps))))
            ear.until(lambda: graph.finished("safety") or ear.last("safety/status").get("ready") == "true", "the safety node to be ready")
            ear.until(lambda: ear.mouth["adapter/command"].get_subscription_count() == 1, "the safety node to listen")
            yield ear, timer

    return make


def test_nothing_outside_the_limits_reaches_the_controller(robot):
    with robot(state_timeout=60.0) as (ear, _):
        sent, executed = ear.heard[ARM7.command_topic], ear.heard["safety/executed"]

        def say(stamped, what):
            before = len(executed)
            ear.mouth["adapter/command"].publish(stamped)
            ear.until(lambda: len(executed) > before, f"an answer to {what}")
            return messages.command_arrays(executed[-1], ARM7.joint_names)

        bad = {
            "not_finite": message(trajectory(np.nan, 1)),
            "velocity": message(trajectory(0.2, 1, dt=0.1)),
            "acceleration": message(trajectory(0.1, 1, dt=0.2)),
            "position": message(Command(1, np.array([1.0, 9.0]), np.stack([HOME, HOME + 2.2]), np.zeros((2, 7)))),
            "missing_joint": message(trajectory(0.1, 1), ("elbow", *ARM7.joint_names[1:])),
            "far_from_pose": message(trajectory(0.3, 1)),
        }
        for reason, given in bad.items():
            held = say(given, reason)
            assert held.time.tolist() == [HOLD_TIME], reason
            assert np.array_equal(held.qpos, HOME[None]), reason
        ear.until(lambda: ear.last("safety/status").get("far_from_pose") == "1", "the last refusal to be told")
        status = ear.last("safety/status")
        assert {reason: status[reason] for reason in bad} == dict.fromkeys(bad, "1")
        assert "is 0.300 rad from where the command begins" in status["message"]

        good = trajectory(0.1, 2)
        passed = say(message(good._replace(qpos=good.qpos[:, ::-1]), ARM7.joint_names[::-1]), "a good command")
        assert np.array_equal(passed.qpos, good.qpos)
        assert passed.stamp == 2
        ear.until(lambda: len(sent) == len(bad) + 1, "the controller to hear all")
        assert [len(m.points) for m in sent] == [1] * len(bad) + [2]
        assert {messages.to_stamp(m.header.stamp) for m in sent} == {0}  # controllers begin at once


@pytest.mark.parametrize("repeats", [False, True])
def test_without_new_joint_states_nothing_is_sent(robot, repeats):
    """The driver falls silent, or says the same again and again."""
    with robot(state_timeout=0.2) as (ear, timer):
        timer.cancel()
        if repeats:
            ear.node.create_timer(0.02, lambda: ear.mouth[ARM7.state_topic].publish(state(10**6)))
            ear.mouth[ARM7.state_topic].publish(state(10**6))
        # the safety node has taken the last one that is new: it has answered a question that was put after it
        asks = ear.node.create_client(GetParameters, "safety/get_parameters")
        ear.until(asks.service_is_ready, "the safety node's parameters")
        ear.until(asks.call_async(GetParameters.Request()).done, "its answer")
        silent_since = time.monotonic()
        ear.until(lambda: time.monotonic() > silent_since + 1.0, "the last joint state to grow old")
        ear.mouth["adapter/command"].publish(message(trajectory(0.1, 3)))
        ear.until(lambda: ear.last("safety/status").get("stale_state") == "1", "the refusal to be told")
        assert "nothing was sent" in ear.last("safety/status")["message"]
        assert not ear.heard[ARM7.command_topic]


def test_whoever_speaks_beside_another_is_answered_by_a_stop(robot):
    """Two publishers of one node, so of one name; the second is told what became of its command, or it would wait for ever."""
    with robot(state_timeout=60.0) as (ear, _):
        executed = ear.heard["safety/executed"]
        second = ear.node.create_publisher(JointTrajectory, "adapter/command", runtime.COMMAND)
        ear.until(lambda: second.get_subscription_count() == 1, "the safety node to listen")
        for stamp in (1, 2):
            ear.mouth["adapter/command"].publish(message(trajectory(0.3, stamp)))
            ear.until(lambda stamp=stamp: executed and messages.to_stamp(executed[-1].header.stamp) == stamp, "an answer")
        for stamp in range(3, 100, 2):  # once more where half a second has passed between the two on their way: then the second may speak
            ear.mouth["adapter/command"].publish(message(trajectory(0.3, stamp)))
            second.publish(message(trajectory(0.3, stamp + 1)))
            ear.until(lambda stamp=stamp: stamp + 1 in {messages.to_stamp(m.header.stamp) for m in executed}, "an answer to the second")
            if ear.last("safety/status").get("stop_cause") == "two_publishers":
                break
        ear.until(lambda: ear.last("safety/status").get("stop_cause") == "two_publishers", "the stop")


def test_a_motion_is_braked_when_an_encoder_jumps(robot):
    with robot(state_timeout=60.0) as (ear, timer):
        ear.mouth["adapter/command"].publish(message(trajectory(0.1, 1, dt=30.0)))
        ear.until(lambda: ear.heard[ARM7.command_topic], "the motion to begin")
        timer.cancel()
        jumped = messages.joint_state(ARM7.joint_names, HOME + 0.5, np.zeros(7), 10**6)
        ear.mouth[ARM7.state_topic].publish(jumped)
        ear.until(lambda: ear.last("safety/status").get("state") == "stopped", "the stop")
        ear.until(lambda: len(ear.heard[ARM7.command_topic]) == 2, "the braking")
    braked = messages.command_arrays(ear.heard[ARM7.command_topic][-1], ARM7.joint_names)
    assert len(braked.time) == 1
    assert (np.abs(braked.qpos[0] - HOME) < 0.1).all()  # on the way; not where the encoder said


def test_a_plan_that_no_joint_state_catches_up_with_is_refused(robot):
    """The robot is measured all the time, but as it was before the plan; and states from long ago are told and not used."""
    with robot(state_timeout=5.0) as (ear, timer):
        ear.mouth["adapter/command"].publish(message(trajectory(0.1, 10**12)))
        ear.until(lambda: ear.heard["safety/executed"], "an answer")
        held = messages.command_arrays(ear.heard["safety/executed"][0], ARM7.joint_names)
        assert held.stamp == 10**12
        assert np.array_equal(held.qpos, HOME[None])
        ear.until(lambda: ear.last("safety/status").get("future") == "1", "the refusal to be told")
        assert "planned on what was seen at 1000000000000 ns" in ear.last("safety/status")["message"]
        timer.cancel()  # only the newest state is kept for who is slow
        ear.mouth[ARM7.state_topic].publish(state(1))
        ear.until(lambda: ear.last("safety/status").get("stale_state") == "1", "the old state to be told")
        assert "joint state: stale_state: measured at 1 ns, after one of" in ear.last("safety/status")["message"]


# ---- what goes wrong --------------------------------------------------------------------------------------------------------


def test_the_last_node_before_the_motors_needs_neither_torch_nor_a_simulator():
    code = "import sys\nfor name in ('torch', 'mujoco', 'pybullet'): sys.modules[name] = None\nfrom metarl.ros_nodes import safety_node"
    assert subprocess.run([sys.executable, "-c", code], timeout=LONG).returncode == 0


def test_robot_nodes_need_no_simulator(files):
    """Also when they act and adapt: with mujoco, pybullet and their like out of reach."""
    code = f"""
import sys
for name in ("mujoco", "pybullet", "dm_control", "gymnasium", "mujoco_warp"):
    sys.modules[name] = None
import torch
from metarl import robots
from metarl.ros_nodes import adapter_node, safety_node, supervisor_node, task_node
from metarl.ros_nodes.control_loop import load
from metarl.ros_nodes.referee import Referee
loop = load({files("arm_slide")!r}, robots.load("arm7"))
loop.dry_run()
loop.begin_trial()
seen = {{"qpos": torch.tensor(loop.task.robot.home_qpos), "object_pos": torch.tensor([0.55, 0.05, 0.03]), "target_pos": torch.tensor([0.5, 0.6, 0.0])}}
print(len(loop.begin_episode(seen).command.qpos), Referee(loop.task, 1).begin_episode({{**seen, "object_linvel": torch.zeros(3)}}, 1).begins)
assert loop.take_result(0.5, False, True, seen) is None
loop.end_episode()
assert loop.adapter.counts["accepted"] == 2
"""
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=LONG)
    assert re.fullmatch(r"\d\d True\n", found.stdout), found.stderr


@pytest.mark.parametrize(
    ("parameters", "text"),
    [
        ({"meta_parameters": "zoo:arm_slide/rl3"}, "there is no meta-parameters file 'zoo:arm_slide/rl3'"),
        ({}, "the parameter 'meta_parameters' must be given"),
    ],
)
def test_where_the_adapter_cannot_be_configured_the_supervisor_says_why_and_ends(domain, parameters, text):
    nodes = (NodeSpec("adapter", "adapter_node", parameters), NodeSpec("supervisor", "supervisor_node", {"nodes": ("adapter",), "patience": LONG}))
    with Graph(nodes, domain) as graph, pytest.raises(NodeFailed) as failed:
        graph.wait("adapter", LONG)
    assert text in str(failed.value)
    assert "exit status 1" in str(failed.value)
    assert "Traceback" not in str(failed.value)


@pytest.mark.parametrize(
    ("node", "name", "given", "said"),
    [
        ("task", "episodes", "-1", "the parameter episodes is -1, expected between 0"),
        ("task", "episodes", "1.5", "'episodes' to '1.5' of type 'DOUBLE', expecting type 'INTEGER'"),
        ("task", "patience", ".nan", "the parameter patience is nan, expected between 0"),
        ("sim", "index", "-3", "the parameter index is -3, expected between 0"),
        ("recorder", "min_free", "-1.0", "the parameter min_free is -1.0, expected between 0"),
        ("replay", "rate", ".nan", "the parameter rate is nan, expected between 0"),
    ],
)
def test_a_number_that_cannot_be_is_refused_by_name(domain, node, name, given, said):
    with Graph((Given(node, f"{name}:={given}"),), domain) as graph, pytest.raises(NodeFailed) as failed:
        graph.wait(node, LONG)
    assert said in str(failed.value)
    assert "Traceback" not in str(failed.value)


def test_a_killed_node_ends_the_graph(domain, files):
    with (
        Graph(arm(Arm(files("arm_slide"), simulator="mujoco"), observers=1), domain) as graph,
        pytest.raises(NodeFailed, match="the safety node ended with exit"),
    ):
        pids = graph.pids()
        graph.wait_until(lambda: ": " in graph.said("safety"), LONG, "the safety node to begin")
        os.kill(pids["safety"], signal.SIGKILL)
        graph.wait("task", LONG)
    assert not [pid for pid in pids.values() if Path(f"/proc/{pid}").exists()]


# ---- demo -------------------------------------------------------------------------------------------------------------------


def test_demo(tmp_path, files, capsys):
    """Shot by shot, and the same as without ROS."""
    file, results = files("arm_slide"), tmp_path / "results.json"
    assert demo.main(["--meta-parameters", file, "--simulator", "mujoco", "--task", "2", "--json", str(results)]) == 0
    said = capsys.readouterr().out
    found = json.loads(results.read_text())
    _, error = without_ros(file, tasks.make("arm_slide"), "mujoco", 2, 5)
    np.testing.assert_allclose(found["miss"], error.flatten(), rtol=0, atol=1e-6)
    assert found["task_id"] == "arm_slide/v1:iid:0:2"
    shots = re.findall(r"^shot (\d) of 5: miss (\d+\.\d) cm, return 0\.\d\d", said, re.MULTILINE)
    assert [(int(k), float(miss)) for k, miss in shots] == [(k + 1, pytest.approx(100 * m, abs=0.051)) for k, m in enumerate(found["miss"])]
    assert "weighs" in said  # the hidden task as a sentence
    starting, ended = "starting sim, safety, adapter, task, supervisor: a process each", "the trial has ended after 5 shots"
    phases = [starting, "all are ready: a trial of 5 shots begins", "shot 1 of 5", ended]
    assert [said.count(phase) for phase in phases] == [1] * 4
    assert sorted(phases, key=said.index) == phases


def test_the_board_of_a_task_that_does_not_say_how_far_from_done():
    said = io.StringIO()
    board = demo.Board(tasks.make("arm_slide"), Console(file=said, width=80))
    board.hear(Event(1, 1, 0, 1, 0.5, False, True, float("nan"), 1))
    board.hear(Event(1, 2, 1, 0, 0.0, False, False, 0.2, 1))
    board.hear(Event(1, 3, 1, 1, 0.25, False, True, 0.03, 1))
    assert said.getvalue().splitlines() == ["shot 1 of 5: miss unknown, return 0.50", "shot 2 of 5: miss 3.0 cm, return 0.25, █ = 1 cm: ███"]


@pytest.mark.parametrize(
    ("task", "first", "then", "lines"),
    [
        ("quadrotor_track", 3.122, 0.17, ["miss 312.2 cm, return 1.00, █ = 10 cm: " + 31 * "█", "miss 17.0 cm, return 1.00, █ = 10 cm: ██"]),
        ("kitchen", 4.0, 0.0, ["miss 4.0 subgoals, return 1.00, █ = 1 subgoals: ████", "miss 0.0 subgoals, return 1.00"]),
        ("arm_slide", 0.1, 9.0, ["miss 10.0 cm, return 1.00, █ = 1 cm: " + 10 * "█", "miss 900.0 cm, return 1.00, █ = 1 cm: " + 40 * "█"]),
    ],
)
def test_the_boards_bars_say_what_they_stand_for_and_fit_a_line(task, first, then, lines):
    said, made = io.StringIO(), tasks.make(task)
    board = demo.Board(made, Console(file=said, width=100))
    for k, miss in enumerate((first, then)):
        board.hear(Event(1, 2 * k, k, 0, 0.0, False, False, 1.0, 1))
        board.hear(Event(1, 2 * k + 1, k, 1, 1.0, False, True, miss, 1))
    trial = f"{made.episodes_per_trial} {board.kind}s"
    assert said.getvalue().splitlines() == [
        f"all are ready: a trial of {trial} begins",
        *(f"{board.kind} {k + 1} of {made.episodes_per_trial}: {line}" for k, line in enumerate(lines)),
    ]


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["--meta-parameters", "zoo:nothing/here"], "there is no meta-parameters file 'zoo:nothing/here'"),
        (["--simulator", "bullet"], "no simulator is called 'bullet': did you mean pybullet"),
        (["--split", "odd"], "no split is called 'odd'"),
    ],
)
def test_demo_refuses_bad_arguments(arguments, text, capsys):
    assert demo.main(arguments) == 1
    found = capsys.readouterr()
    assert text in found.err.replace("\n", " ")


def test_demo_says_how_to_install_ros(files, capsys, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert demo.main(["--meta-parameters", files("arm_slide")]) == 1
    assert "pip install 'metarl[ros]'" in capsys.readouterr().err.replace("\n", "")


def children(pid):
    """Processes that were started on behalf of a process, whoever their parent is now."""
    found = []
    for place in Path("/proc").glob("[0-9]*"):
        try:
            environment = (place / "environ").read_bytes()
        except OSError:
            continue
        if f"{PARENT_VARIABLE}={pid}".encode() in environment.split(b"\0"):
            found.append(int(place.name))
    return found


def outlived(process, number, count):
    """Send a signal to a process that has `count` children; its exit status, once they are all gone."""
    end = time.monotonic() + LONG
    while len(children(process.pid)) < count:
        assert process.poll() is None
        assert time.monotonic() < end, "the nodes did not start"
        time.sleep(0.05)
    process.send_signal(number)
    status = process.wait(LONG)
    while children(process.pid):
        assert time.monotonic() < end, "nodes are still there"
        time.sleep(0.05)
    return status


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_the_demo_ends_its_nodes(files, number, status):
    command = [sys.executable, "-m", "metarl.ros_nodes.demo", "--meta-parameters", files("arm_slide"), "--simulator", "mujoco"]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    assert outlived(process, number, count=4) == status


def test_nodes_end_when_whoever_started_them_is_killed():
    code = """
from metarl.ros_nodes.graph import Domain, Graph, NodeSpec
with Domain() as domain, Graph((NodeSpec("safety", "safety_node"),), domain) as graph:
    graph.wait("safety", 600.0)
"""
    assert outlived(subprocess.Popen([sys.executable, "-c", code]), signal.SIGKILL, count=1) == -9
