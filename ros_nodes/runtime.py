"""What all nodes share: qualities of service, status, heartbeat, settings, and a main function that ends cleanly.

One EventsExecutor each: of rclpy's executors it neither loses messages nor spins idly, and takes half of the time that a SingleThreadedExecutor takes
from message to callback, which builds a set of all that may happen before each one thing that does. It is left to itself for LOOK_PERIOD at a time.
Timers and watchdogs run on the steady clock, which nothing can set or stop.
"""

from __future__ import annotations

import functools
import gc
import math
import os
import signal
import sys
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple, Protocol

import rclpy
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus, KeyValue
from rcl_interfaces.msg import SetParametersResult
from rclpy.clock import Clock, ClockType
from rclpy.exceptions import ParameterException
from rclpy.executors import Executor, ExternalShutdownException, SingleThreadedExecutor
from rclpy.node import Node
from rclpy.parameter import Parameter
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy
from rclpy.task import Future
from std_msgs.msg import Header

from metarl.ros_nodes import PARENT_VARIABLE, transport
from metarl.ros_nodes.supervision import BUSY

COMMAND = QoSProfile(depth=10)  # reliable and volatile: a command is never repeated to somebody who comes later
STREAM = QoSProfile(depth=1)  # published reliably, so that it fits every subscriber
STREAM_IN = QoSProfile(depth=1, reliability=ReliabilityPolicy.BEST_EFFORT)  # only the newest counts; fits every driver
STATE_IN = QoSProfile(depth=10, reliability=ReliabilityPolicy.BEST_EFFORT)  # of a topic that others may speak on as well
LATCHED = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)
ANSWERS = QoSProfile(depth=10, durability=DurabilityPolicy.TRANSIENT_LOCAL)
HISTORY = QoSProfile(depth=1000, durability=DurabilityPolicy.TRANSIENT_LOCAL)  # whoever comes later gets all of it, in order
# a subscriber hears whoever offers as much as it demands: together these hear everybody, and reliably where that is offered
EVERYBODY = (LATCHED, COMMAND, STREAM_IN)
HEARTBEAT_PERIOD = 0.25  # s
LOOK_PERIOD = 0.05  # s between two looks at whether the node is to end; to look after each callback costs a twentieth of all that a node does
YOUNG = 10_000  # objects that may be made before the garbage collector looks at them; a decision makes hundreds, all of which go without it


class RunningNode(Protocol):
    """A node while it runs.

    Attributes:
        node: rclpy's.
        finished: set when its work is done; the process then ends, a little later.
    """

    node: Node
    finished: bool


class Status:
    """Publishes `~/status`, latched: ready or not, the latest that happened, and how often what was counted; and `~/heartbeat`, four times a second.

    Attributes:
        ready: whether the node can do its work.
        counts: how often what happened; told with the next message, or the next heartbeat.
        mode: what the heartbeat says that the node is doing, e.g. the state of its life cycle.
    """

    def __init__(self, node: Node) -> None:
        self._node = node
        self._publisher = node.create_publisher(DiagnosticArray, "~/status", LATCHED)
        self._heartbeat = node.create_publisher(Header, "~/heartbeat", STREAM)
        self._last: tuple[bool, str, bool, dict[str, str]] | None = None  # what was said: ready, message, trouble, values
        self._counted: dict[str, int] = {}
        self._beat = -math.inf
        self.ready = False
        self.counts: Counter[str] = Counter()
        self.mode = "running"
        self._values: dict[str, str] = {}
        steady_timer(node, HEARTBEAT_PERIOD, self.beat)

    def publish(self, message: str, ready: bool | None = None, trouble: bool = False) -> None:
        """Say what is new at once; saying the same again is silent, and what only counts on is told with the heartbeat.

        Args:
            message: for a person.
            ready: whether the node can do its work; None leaves it as it is.
            trouble: something was refused.
        """
        before, self.ready = self.ready, self.ready if ready is None else ready
        now = (self.ready, message, trouble, dict(self._values))
        if now == self._last:
            return
        said = "" if self._last is None else self._last[1]
        self._last = now
        self._send()
        log = self._node.get_logger()
        if message != said and trouble:
            log.warning(message)  # rclpy wants one line of code for each severity
        elif message != said:
            log.info(message)
        if self.ready and not before:
            log.info("ready")

    def _send(self) -> None:
        assert self._last is not None, "publish comes first"
        ready, message, trouble, values = self._last
        self._counted = dict(self.counts)
        level = DiagnosticStatus.WARN if trouble or not ready else DiagnosticStatus.OK
        told = {"ready": str(ready).lower(), **{k: str(v) for k, v in sorted(self._counted.items())}, **values}
        pairs = [KeyValue(key=k, value=v) for k, v in told.items()]
        array = DiagnosticArray(status=[DiagnosticStatus(level=level, name=self._node.get_name(), message=message, values=pairs)])
        array.header.stamp = self._node.get_clock().now().to_msg()
        self._publisher.publish(array)

    def refused(self, reason: str, text: str, trouble: bool = True) -> None:
        """Count a refusal by its reason and say it; one that was to be expected is no trouble."""
        self.counts[reason] += 1
        self.publish(f"refused: {text}", trouble=trouble)

    def tell(self, **values: str) -> None:
        """Values beside the counts; published at once where they are new."""
        self._values |= values
        _, said, trouble, _ = self._last or (False, "", False, {})
        self.publish(said, trouble=trouble)

    def beat(self) -> None:
        """Say that the node is alive; at most four times a second."""
        if steady_now() - self._beat > 0.5 * HEARTBEAT_PERIOD:
            self._send_beat(self.mode)
            if self._last is not None and self.counts != self._counted:
                self._send()

    def leave(self) -> None:
        """The last heartbeat: who is silent after it is not dead."""
        self.mode = "finalized"
        self._send_beat(self.mode)

    @contextmanager
    def busy(self, what: str) -> Iterator[None]:
        """Around something that may take long: nobody shall take this node for dead meanwhile."""
        self._send_beat(BUSY + what)
        try:
            yield
        finally:
            self._send_beat(self.mode)

    def _send_beat(self, said: str) -> None:
        self._beat = steady_now()
        header = Header(frame_id=said)
        header.stamp = self._node.get_clock().now().to_msg()
        self._heartbeat.publish(header)


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


def number(node: Node, name: str, default: float, low: float = 0.0, high: float = math.inf) -> Any:
    """Declare a parameter that is a number, and read it.

    Raises:
        ValueError: it is less than `low`, more than `high`, or NaN.
    """
    value = node.declare_parameter(name, default).value
    if wrong := Setting(name, default, low, high).wrong(value):
        raise ValueError(f"the parameter {wrong}")
    return value


class Setting(NamedTuple):
    """A parameter that may be changed while the node runs.

    Attributes:
        name: of the parameter.
        default: its value unless another is given; its type is the parameter's.
        low, high: of numbers.
        choices: of texts.
        grows: whether it may be set higher than it was at the start.
    """

    name: str
    default: bool | float | str
    low: float = -math.inf
    high: float = math.inf
    choices: tuple[str, ...] = ()
    grows: bool = True

    def wrong(self, value: Any) -> str:
        """Why a value cannot be taken, or ""."""
        if type(value) is not type(self.default):
            return f"{self.name} is {value!r}, expected a {type(self.default).__name__}"
        if self.choices and value not in self.choices:
            return f"{self.name} is {value!r}, expected one of {', '.join(self.choices)}"
        if isinstance(value, int | float) and not self.low <= value <= self.high:  # NaN, too
            return f"{self.name} is {value}, expected between {self.low} and {self.high}"
        return ""


def settings(node: Node, known: Sequence[Setting], take: Callable[[str, Any], None], fixed: Callable[[str], str] = lambda name: "") -> None:
    """Declare parameters, hand over their values, and from then on every new value that is allowed; others are refused by name.

    Args:
        node: whose parameters.
        known: them.
        take: called with name and value.
        fixed: why a parameter, also another one, cannot change now, or "".

    Raises:
        ValueError: a value that was given at the start is not allowed.
    """
    by_name = {setting.name: setting for setting in known}
    for setting in known:
        value = node.declare_parameter(setting.name, setting.default).value
        if wrong := setting.wrong(value):
            raise ValueError(f"the parameter {wrong}")
        take(setting.name, value)
        if not setting.grows:
            by_name[setting.name] = setting._replace(high=value)

    def on_set(parameters: Sequence[Parameter]) -> SetParametersResult:
        mine = [p for p in parameters if p.name in by_name]
        wrong = [text for p in parameters if (text := fixed(p.name))]
        wrong += [text for p in mine if (text := by_name[p.name].wrong(p.value))]
        if not wrong:
            for p in mine:
                take(p.name, p.value)
        return SetParametersResult(successful=not wrong, reason="; ".join(wrong))

    node.add_on_set_parameters_callback(on_set)


def with_info(callback: Callable[[Any, dict[str, Any]], None]) -> Callable[..., None]:
    """A subscription's callback that takes a message and what is known of its way: executors hand over two arguments, an EventsExecutor both as one."""

    @functools.wraps(callback)  # by the signature rclpy knows that it wants both
    def hear(*heard: Any) -> None:
        callback(*(heard[0] if len(heard) == 1 else heard))

    return hear


def when_done(future: Future, callback: Callable[[Any], None]) -> None:
    """Call back with a future that is done. An error ends the node, as in any other callback: executors differ in whether they pass it on."""

    def call(done: Any) -> None:
        try:
            callback(done)
        except Exception as error:
            _failures.append(error)

    future.add_done_callback(call)


_failures: list[Exception] = []  # in callbacks of futures, until the node's loop raises them


def steady_timer(node: Node, period: float, callback: Callable[[], None]) -> None:
    """Call back every `period` s of the steady clock."""
    node.create_timer(period, callback, clock=Clock(clock_type=ClockType.STEADY_TIME))


def run(name: str, make: Callable[[Node], RunningNode], kind: type[Node] = Node) -> None:
    """Main function of a node: until its work is done (exit status 0), it fails (1), or a signal ends it (0).

    Args:
        name: of the node.
        make: what the node does; a method `close` of it is called before the node goes, however it ends: a safety node brakes the robot there.
        kind: of rclpy's nodes.
    """
    sys.exit(_run(name, make, kind))


def _run(name: str, make: Callable[[Node], RunningNode], kind: type[Node]) -> int:
    parent = os.environ.get(PARENT_VARIABLE)
    signals: list[int] = []
    os.environ.update(transport.udp_alone(os.environ))  # read when the first participant is made
    try:
        # rclpy's own handlers would close the way to the robot before the last command could be sent
        rclpy.init(signal_handler_options=rclpy.SignalHandlerOptions.NO)
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, lambda received, _: signals.append(received))
        return _live(name, make, kind, lambda: bool(signals) or (parent is not None and os.getppid() != int(parent)))
    except (KeyboardInterrupt, ExternalShutdownException):
        return 0
    finally:
        # on its way out Fast DDS spins until its other threads let go (DomainParticipant::set_listener): at a real-time priority they might never run
        os.sched_setscheduler(0, os.SCHED_OTHER, os.sched_param(0))
        rclpy.try_shutdown()


def _live(name: str, make: Callable[[Node], RunningNode], kind: type[Node], over: Callable[[], bool]) -> int:
    """Exit status of a node that works until its own end, a failure, or that of `over`; it is closed in every case."""
    running, status = None, 0
    try:
        node = kind(name)
        running = make(node)
        settle()
        executor = _executor()  # kept until the end: what is closed may want to hear something
        executor.add_node(node)
        while rclpy.ok() and not running.finished and not over():
            executor.spin_until_future_complete(Future(), timeout_sec=LOOK_PERIOD)  # which never is
            if _failures:
                raise _failures[0]
    except (KeyboardInterrupt, ExternalShutdownException):
        pass
    except Exception as error:
        status = _failed(name, error)
    try:
        if (close := getattr(running, "close", None)) is not None:
            close()
    except Exception as error:
        status = _failed(name, error)
    return status


def _failed(name: str, error: Exception) -> int:
    """Exit status of a node that failed. What no node raises on purpose is told with the place where it happened."""
    if not isinstance(error, ValueError | TypeError | OSError | RuntimeError | ParameterException):
        traceback.print_exception(error)
    print(f"{name}: {type(error).__name__}: {error}", file=sys.stderr, flush=True)
    return 1


def _executor() -> Executor:
    """The fastest one that this ROS has; see the module's docstring."""
    try:
        from rclpy.experimental.events_executor import EventsExecutor
    except ImportError:
        return SingleThreadedExecutor()
    return EventsExecutor()


def settle() -> None:
    """What is here by now stays: the garbage collector need not look through it again and again, which takes a tenth of a second where torch is loaded."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(YOUNG)


def steady_now() -> float:
    """Seconds on the steady clock."""
    return time.monotonic()
