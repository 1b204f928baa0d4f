"""What the four nodes share: qualities of service, status, and a main function that ends cleanly.

One SingleThreadedExecutor each, in a loop of `spin_once`: of rclpy's executors it is the one that neither loses messages nor spins idly.
Timers and watchdogs run on the steady clock, which nothing can set or stop.
"""

from __future__ import annotations

import os
import sys
import time
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any, Protocol

import rclpy
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus, KeyValue
from rclpy.clock import Clock, ClockType
from rclpy.executors import ExternalShutdownException, SingleThreadedExecutor
from rclpy.node import Node
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy

from metarl.ros_nodes import PARENT_VARIABLE

COMMAND = QoSProfile(depth=10)  # reliable and volatile: a command is never repeated to somebody who comes later
STREAM = QoSProfile(depth=1)  # published reliably, so that it fits every subscriber
STREAM_IN = QoSProfile(depth=1, reliability=ReliabilityPolicy.BEST_EFFORT)  # only the newest counts; fits every driver
LATCHED = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)
ANSWERS = QoSProfile(depth=10, durability=DurabilityPolicy.TRANSIENT_LOCAL)
HISTORY = QoSProfile(depth=1000, durability=DurabilityPolicy.TRANSIENT_LOCAL)  # whoever comes later gets all of it, in order


class RunningNode(Protocol):
    """A node while it runs.

    Attributes:
        node: rclpy's.
        finished: set when its work is done; the process then ends.
    """

    node: Node
    finished: bool


class Status:
    """Publishes `~/status`, latched: ready or not, the latest that happened, and how often what was counted."""

    def __init__(self, node: Node) -> None:
        self._node = node
        self._publisher = node.create_publisher(DiagnosticArray, "~/status", LATCHED)
        self._last: tuple[bool, str, dict[str, int]] | None = None
        self._said = ""
        self.ready = False
        self.counts: Counter[str] = Counter()

    def publish(self, message: str, ready: bool | None = None, trouble: bool = False) -> None:
        """Say what is new; saying the same again is silent.

        Args:
            message: for a person.
            ready: whether the node can do its work; None leaves it as it is.
            trouble: something was refused.
        """
        before, self.ready = self.ready, self.ready if ready is None else ready
        now = (self.ready, message, dict(self.counts))
        if now == self._last:
            return
        self._last = now
        level = DiagnosticStatus.WARN if trouble or not self.ready else DiagnosticStatus.OK
        values = [KeyValue(key="ready", value=str(self.ready).lower())] + [KeyValue(key=k, value=str(v)) for k, v in sorted(self.counts.items())]
        status = DiagnosticStatus(level=level, name=self._node.get_name(), message=message, values=values)
        array = DiagnosticArray(status=[status])
        array.header.stamp = self._node.get_clock().now().to_msg()
        self._publisher.publish(array)
        log = self._node.get_logger()
        if message != self._said and trouble:
            log.warning(message)  # rclpy wants one line of code for each severity
        elif message != self._said:
            log.info(message)
        if self.ready and not before:
            log.info("ready")
        self._said = message

    def refused(self, reason: str, text: str) -> None:
        """Count a refusal by its reason and say it."""
        self.counts[reason] += 1
        self.publish(f"refused: {text}", trouble=True)


def status_values(message: DiagnosticArray) -> Mapping[str, str]:
    """Keys and values of a status, `message` among them."""
    status = message.status[0]
    return {"message": status.message, **{v.key: v.value for v in status.values}}


def parameter(node: Node, name: str, default: Any) -> Any:
    """Declare a parameter and read it; one whose default is "" must be given.

    Raises:
        ValueError: it was not given.
    """
    value = node.declare_parameter(name, default).value
    if value == "":
        raise ValueError(f"the parameter {name!r} must be given: --ros-args -p {name}:=...")
    return value


def steady_timer(node: Node, period: float, callback: Callable[[], None]) -> None:
    """Call back every `period` s of the steady clock."""
    node.create_timer(period, callback, clock=Clock(clock_type=ClockType.STEADY_TIME))


def run(name: str, make: Callable[[Node], RunningNode]) -> None:
    """Main function of a node: until its work is done (exit status 0), it fails (1), or a signal ends it (0)."""
    sys.exit(_run(name, make))


def _run(name: str, make: Callable[[Node], RunningNode]) -> int:
    parent = os.environ.get(PARENT_VARIABLE)
    try:
        rclpy.init()
        node = rclpy.create_node(name)
        try:
            running = make(node)
            executor = SingleThreadedExecutor()
            executor.add_node(node)
            while rclpy.ok() and not running.finished and (parent is None or os.getppid() == int(parent)):
                executor.spin_once(timeout_sec=0.1)
        except (ValueError, OSError, RuntimeError) as error:
            print(f"{name}: {type(error).__name__}: {error}", file=sys.stderr, flush=True)
            return 1
        return 0
    except (KeyboardInterrupt, ExternalShutdownException):
        return 0
    finally:
        rclpy.try_shutdown()


def steady_now() -> float:
    """Seconds on the steady clock."""
    return time.monotonic()
