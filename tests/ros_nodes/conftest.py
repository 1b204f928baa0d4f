"""What the tests of real nodes share."""

import os
import time
from pathlib import Path

import pytest

LONG = 500.0  # s, until a test gives up; a busy machine takes its time


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

    def until(self, true, what):
        end = time.monotonic() + LONG
        while not true():
            assert time.monotonic() < end, f"waited {LONG} s for {what}"
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
