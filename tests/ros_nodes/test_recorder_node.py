"""The recorder as a process: it waits for nothing to be missed, starts and stops when asked, and never falls silent; and the replay of what it wrote."""
# ruff: noqa: E402 - what needs ROS is imported after the look whether it is there

import os
import signal
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

rclpy = pytest.importorskip("rclpy", reason="ROS 2 is not installed: pip install 'metarl[ros]'")
pytest.importorskip("rosbags", reason="rosbags is not installed: pip install 'metarl[ros]'")

from diagnostic_msgs.msg import DiagnosticArray
from rclpy.duration import Duration
from rclpy.executors import SingleThreadedExecutor
from rclpy.qos import DurabilityPolicy, QoSProfile
from rosgraph_msgs.msg import Clock
from sensor_msgs.msg import JointState
from std_msgs.msg import Bool, String
from std_srvs.srv import Trigger
from trajectory_msgs.msg import JointTrajectory

from metarl import meta_parameters, robots
from metarl.ros_nodes import messages, runtime
from metarl.ros_nodes.graph import Arm, Domain, Graph, NodeFailed, NodeSpec, graph, replay
from metarl.ros_nodes.replay import messages_of, read

# ROS's message packages import a parser that imports what Python has deprecated
pytestmark = pytest.mark.filterwarnings("ignore:module 'sre_:DeprecationWarning")

ROOT = Path(__file__).resolve().parents[2]
CONTROLLER = f"/{robots.load('arm7').command_topic}"
LONG = 400.0  # s, until a test gives up; a busy machine takes its time to start processes


@pytest.fixture(autouse=True)
def processes_find_metarl(monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(ROOT))


def test_a_recorded_trial_is_replayed_by_the_replay_node(tmp_path, small_algorithm, listen):
    file, bag = tmp_path / "slide.safetensors", tmp_path / "bag"
    meta_parameters.save(file, small_algorithm("rl2", "arm_slide"), "rl2", 0)
    choice = Arm(str(file), simulator="mujoco", index=2, episodes=2, record=True, bag=str(bag))
    with Domain() as domain, Graph(graph(choice), domain) as running:
        running.wait("task", LONG)
    found = read(bag)
    assert [e.sequence for e in found.events] == [0, 1, 2, 3]
    assert found.about["index"] == 2
    topics = {topic for topic, _, _ in messages_of(bag)}
    assert topics >= {"/joint_states", "/seen/object", "/measured/object", "/safety/executed", "/adapter/command", "/adapter/adaptation", "/clock"}
    file.unlink()  # the bag has a copy
    with Domain() as domain, Graph(replay(str(bag)), domain) as again:
        again.wait("replay", LONG)
        assert "replayed 2 decisions in 2 episodes: every action is the recorded one" in again.said("replay")
    with (
        Domain() as domain,
        Graph(replay(str(bag), "zoo:arm_slide/rl2"), domain) as other,
        pytest.raises(NodeFailed, match="not what was recorded: at event 0"),
    ):
        other.wait("replay", LONG)
    played_apart(bag, listen)


def played_apart(bag, listen):
    """At a rate, a bag's topics are heard under `replay/` of the node's namespace, and nobody hears an old command where a robot listens."""
    recorded = {topic: [m for t, _, m in messages_of(bag) if t == topic] for topic in ("/joint_states", CONTROLLER, "/adapter/command")}
    assert all(recorded.values())
    every, at = QoSProfile(depth=10_000, durability=DurabilityPolicy.TRANSIENT_LOCAL), "elsewhere/replay"  # also what was said before they met
    topics = {f"{at}/joint_states": (JointState, every), f"{at}{CONTROLLER}": (JointTrajectory, every)}
    for place in ("", "elsewhere"):
        commands = {f"{place}{topic}": (JointTrajectory, runtime.COMMAND) for topic in (CONTROLLER, "/adapter/command")}
        topics |= commands | {f"{place}/joint_states": (JointState, runtime.COMMAND), f"{place}/estop": (Bool, runtime.COMMAND)}
    topics |= {"/clock": (Clock, runtime.COMMAND)}
    nodes = tuple(replace(spec, remappings={"__ns": "/elsewhere"}) for spec in replay(str(bag), rate=4.0))
    with Domain() as domain, listen(domain, topics) as ear, Graph(nodes, domain) as playing:
        ear.until(lambda: playing.finished("replay"), "the end of the bag")
        names = {name for name, _ in ear.node.get_topic_names_and_types() if ear.node.count_publishers(name)}
    stamps = [messages.to_stamp(m.header.stamp) for m in ear.heard.pop(f"{at}/joint_states")]
    assert stamps
    assert set(stamps) <= {messages.to_stamp(m.header.stamp) for m in recorded["/joint_states"]}
    assert [len(m.points) for m in ear.heard.pop(f"{at}{CONTROLLER}")] == [len(m.points) for m in recorded[CONTROLLER]]
    assert {topic: len(heard) for topic, heard in ear.heard.items() if heard} == {}
    assert {name for name in names if not name.startswith("/elsewhere/replay/")} <= {"/parameter_events", "/rosout"}


def test_start_and_stop_and_a_full_disk(tmp_path):
    spec = NodeSpec("recorder", "recorder_node", {"bag": str(tmp_path / "bag"), "min_free": 1e-6})
    full = NodeSpec("full", "recorder_node", {"bag": str(tmp_path / "full"), "min_free": 1e12}, {"__node": "full"})
    with Domain() as domain, Graph((spec, full), domain) as running:
        os.environ.update(domain.variables())
        context = rclpy.Context()
        rclpy.init(context=context)
        node = rclpy.create_node("other", context=context)
        executor = SingleThreadedExecutor(context=context)
        executor.add_node(node)
        status = []
        node.create_subscription(DiagnosticArray, "full/status", status.append, runtime.LATCHED)
        mouth = node.create_publisher(String, "words", runtime.COMMAND)
        end = time.monotonic() + LONG

        def until(true, what):
            while not true():
                assert time.monotonic() < end, f"waited for {what}; they said {running.said('recorder')} {running.said('full')}"
                executor.spin_once(timeout_sec=0.05)

        def ask(name):
            client = node.create_client(Trigger, name)
            until(client.service_is_ready, name)
            future = client.call_async(Trigger.Request())
            until(future.done, f"an answer of {name}")
            return future.result()

        try:
            assert not ask("recorder/stop").success  # nothing is being recorded
            assert ask("recorder/start").success
            assert not ask("recorder/start").success
            until(lambda: mouth.get_subscription_count() == 1, "the recorder to listen")
            for i in range(10):
                mouth.publish(String(data=str(i)))
            assert mouth.wait_for_all_acked(Duration(seconds=LONG))  # the recorder has them, before it is asked to stop
            answer = ask("recorder/stop")
            assert answer.success
            refused = ask("full/start")
            assert not refused.success
            assert "disk_full" in refused.message
            until(lambda: status and runtime.status_values(status[-1]).get("disk_full") == "1", "the refusal to be counted")
        finally:
            executor.shutdown()
            node.destroy_node()
            context.try_shutdown()
    words = [m.data for topic, _, m in messages_of(tmp_path / "bag") if topic == "/words"]
    assert words == [str(i) for i in range(10)]


class WithoutEvents(NodeSpec):
    """A recorder on a ROS that has no EventsExecutor."""

    @property
    def command(self):
        code = (
            "from rclpy.executors import SingleThreadedExecutor; from metarl.ros_nodes import recorder_node, runtime; "
            "runtime._executor = SingleThreadedExecutor; recorder_node.main()"
        )
        return [sys.executable, "-c", code, *super().command[3:]]


@pytest.mark.parametrize(("kind", "number"), [(NodeSpec, signal.SIGINT), (WithoutEvents, signal.SIGTERM)])
def test_what_was_said_before_the_recorder_is_asked_to_end_is_in_the_bag(domain, listen, tmp_path, kind, number):
    """Also where it has had no time to take it: Ctrl-C, after a busy machine has held it up."""
    spec, words = kind("recorder", "recorder_node", {"bag": str(tmp_path / "bag"), "min_free": 1e-6, "start": True}), [str(i) for i in range(100)]
    with Graph((spec,), domain) as running, listen(domain, {"recorder/status": (DiagnosticArray, runtime.LATCHED)}) as ear:
        mouth, pid = ear.node.create_publisher(String, "words", QoSProfile(depth=len(words))), running.pids()["recorder"]
        ear.until(lambda: running.finished("recorder") or mouth.get_subscription_count() == 1, "the recorder to listen")
        mouth.publish(String(data=""))
        ear.until(lambda: int(ear.last("recorder/status").get("messages", 0)) > 0, "the recorder to know this publisher")
        os.kill(pid, signal.SIGSTOP)
        for word in words:
            mouth.publish(String(data=word))
        os.kill(pid, number)
        time.sleep(4 * runtime.LOOK_PERIOD)  # when it goes on, it is long since it would have looked
        os.kill(pid, signal.SIGCONT)
        running.wait("recorder", LONG)
    assert [m.data for topic, _, m in messages_of(tmp_path / "bag") if topic == "/words"] == ["", *words]
