"""What the tests of real nodes share."""

import os
import sys
import time
from pathlib import Path

import pytest
import torch

from metarl import meta_parameters, tasks
from metarl.ros_nodes.graph import NodeSpec

LONG = 500.0  # s, until a test gives up; a busy machine takes its time
FAST = '''
from metarl.tasks.{module} import {kind}

class Fast({kind}):
    """At 100 Hz."""

    name = "{name}"
    horizon = {horizon}
    episodes_per_trial = 100_000
    decision_dt, physics_dt = 0.01, 0.005
'''
FAST_TASKS = {  # module, class, decisions of an episode
    "fast_reach": ("arm_reach", "ArmReach", 100),
    "fast_car": ("car_track", "CarTrack", 1000),
    "fast_quadrotor": ("quadrotor_track", "QuadrotorTrack", 1000),
}


@pytest.fixture(scope="module", autouse=True)
def processes_find_metarl():
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(Path(__file__).resolve().parents[2]))
        yield


@pytest.fixture
def domain():
    from metarl.ros_nodes.graph import Domain

    with Domain() as found:
        yield found


class Ear:
    """A node in this process: hears topics, says things."""

    def __init__(self, domain, topics, says=()):
        """topics: name -> (message type, quality); says: name -> message type."""
        import rclpy
        from rclpy.executors import SingleThreadedExecutor

        from metarl.ros_nodes import runtime

        os.environ.update(domain.variables())
        self.context = rclpy.Context()
        rclpy.init(context=self.context)
        self.node = rclpy.create_node("ear", context=self.context)
        self.heard = {name: [] for name in topics}
        for name, (kind, quality) in topics.items():
            self.node.create_subscription(kind, name, self.heard[name].append, quality)
        self.mouth = {name: self.node.create_publisher(kind, name, runtime.COMMAND) for name, kind in dict(says).items()}
        self.executor = SingleThreadedExecutor(context=self.context)
        self.executor.add_node(self.node)

    def until(self, true, what, patience=LONG):
        end = time.monotonic() + patience
        while not true():
            assert time.monotonic() < end, f"waited {patience} s for {what}"
            self.executor.spin_once(timeout_sec=0.05)

    def last(self, status):
        """What a node's status said last."""
        from metarl.ros_nodes import runtime

        return runtime.status_values(self.heard[status][-1]) if self.heard[status] else {}

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.executor.shutdown()
        self.node.destroy_node()
        self.context.try_shutdown()


@pytest.fixture
def listen():
    """listen(domain, topics, says=()): an Ear."""
    return Ear


@pytest.fixture
def hear_all():
    """hear_all(operator, name): until the operator knows all that a node has said and counted so far.

    Counts are told with a heartbeat, and a quarter of a second passes from the first to the third: by then this node has noticed who is silent.
    """

    def wait(operator, name):
        from std_msgs.msg import Header

        from metarl.ros_nodes import runtime

        beats = []
        listener = operator.node.create_subscription(Header, f"{name}/heartbeat", beats.append, runtime.STREAM_IN)
        operator.until(lambda: len(beats) > 2, f"three heartbeats of {name}")
        operator.node.destroy_subscription(listener)

    return wait


class StandIn(NodeSpec):
    """A robot of tests that need no physics, or a witness of what reaches its controller; `executable` is a file beside this one."""

    @property
    def command(self):
        return [sys.executable, str(Path(__file__).with_name(f"{self.executable}.py")), *super().command[3:]]


@pytest.fixture(scope="module")
def fast_graph(tmp_path_factory, small_algorithm):
    """fast_graph(task="fast_reach", **parameters): a robot and all nodes, whose control loop runs at 100 Hz; every node gets the parameters.

    What adapts is a small RL² that nothing has trained. Its decisions on a vehicle are always the same.
    """
    folder = tmp_path_factory.mktemp("tasks")
    for name, (module, kind, horizon) in FAST_TASKS.items():
        (folder / f"{name}.py").write_text(FAST.format(module=module, kind=kind, name=name, horizon=horizon))
    heard = {"action": "adapter/action", "executed": "safety/executed", "begin_episode": "robot/begin_episode"}
    statuses = {f"{n}_status": f"{n}/status" for n in ("adapter", "safety")}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tasks, "__path__", list(tasks.__path__))
        tasks.add_folder(folder)
        patch.setenv("METARL_TASKS", str(folder))

        def make(task="fast_reach", **given):
            file, vehicle, robot = str(folder / f"{task}.safetensors"), task != "fast_reach", {"robot": tasks.make(task).robot_name}
            algorithm = small_algorithm("rl2", task)
            if vehicle:
                torch.nn.init.zeros_(algorithm.network.policy.mean[-1].weight)
                torch.nn.init.constant_(algorithm.network.policy.mean[-1].bias, 0.5)
            meta_parameters.save(file, algorithm, "rl2", 0)
            adapter = {"meta_parameters": file, "adapted_folder": str(folder)}
            return (
                StandIn("robot", "vehicle_stand_in", {"task": task, **given}) if vehicle else StandIn("robot", "robot_stand_in", given),
                StandIn("controller", "controller_stand_in", robot),
                NodeSpec("safety", "safety_node", {"may_jump": True, **robot, **given}, {"command": "adapter/command"}),
                NodeSpec("adapter", "adapter_node", {**adapter, **robot, **given}, {"events": "task/events", "executed": "safety/executed"}),
                NodeSpec("task", "task_node", {"task": task, "patience": LONG, **given}, heard | statuses),
                NodeSpec("supervisor", "supervisor_node", {"nodes": ("robot", "safety", "adapter"), "timeout": 3.0, "patience": LONG, **given}),
            )

        yield make
