"""A person at a running graph, as a program: hears what the nodes say, asks services, sets parameters, freezes and kills processes. For tests and soaks."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import rclpy
from diagnostic_msgs.msg import DiagnosticArray
from rcl_interfaces.srv import SetParameters
from rclpy.executors import SingleThreadedExecutor
from rclpy.parameter import Parameter

from metarl.ros_nodes import runtime

if TYPE_CHECKING:
    from types import TracebackType
    from typing import Self

    from metarl.ros_nodes.graph import Domain, Graph

PERIOD = 0.02  # s between two looks at what is being waited for


class Operator:
    """A node in this process.

        with Domain() as domain, Graph(nodes, domain) as graph, Operator(domain, graph, ("adapter", "safety")) as operator:
            operator.until(lambda: operator.said["safety"].get("ready") == "true", "the safety node to be ready")

    Args:
        domain: of the graph.
        graph: whose processes may be frozen and killed.
        nodes: whose statuses are heard.
        patience: s, longest wait for anything.

    Attributes:
        said: what each node's status said last, key -> value.
    """

    def __init__(self, domain: Domain, graph: Graph, nodes: Sequence[str], patience: float = 60.0) -> None:
        os.environ.update(domain.variables())  # read when the first participant is made
        self.graph, self.patience, self.context = graph, patience, rclpy.Context()
        rclpy.init(context=self.context, signal_handler_options=rclpy.SignalHandlerOptions.NO)
        self.node = rclpy.create_node("operator", context=self.context)
        self.said: dict[str, Mapping[str, str]] = {name: {} for name in nodes}
        for name in nodes:
            self.node.create_subscription(
                DiagnosticArray, f"{name}/status", lambda m, name=name: self.said.__setitem__(name, runtime.status_values(m)), runtime.LATCHED
            )
        self._executor = SingleThreadedExecutor(context=self.context)
        self._executor.add_node(self.node)

    # ---- what is heard ----------------------------------------------------------------------------------------------------

    def until(self, true: Callable[[], Any], what: str, patience: float | None = None) -> None:
        """Listen until something is true.

        Raises:
            TimeoutError: it took longer than `patience`.
        """
        patience = self.patience if patience is None else patience
        end = time.monotonic() + patience
        while not true():
            if time.monotonic() > end:
                raise TimeoutError(f"waited {patience:.0f} s for {what}; said last: {self.said}")
            self._executor.spin_once(timeout_sec=PERIOD)

    def wait(self, seconds: float) -> None:
        """Listen for a while."""
        end = time.monotonic() + seconds
        self.until(lambda: time.monotonic() > end, "time to pass", seconds + 60.0)

    def count(self, name: str, key: str) -> int:
        """How often a node has counted something."""
        return int(self.said[name].get(key, 0))

    def more(self, name: str, key: str, than: int | None = None, by: int = 1, patience: float | None = None) -> None:
        """Wait until a count has grown."""
        before = self.count(name, key) if than is None else than
        self.until(lambda: self.count(name, key) >= before + by, f"{key} of {name} to grow beyond {before}", patience)

    def flows(self, patience: float | None = None) -> None:
        """Wait until commands are forwarded again and again."""
        self.more("safety", "forwarded", by=30, patience=patience)

    # ---- what is asked for ------------------------------------------------------------------------------------------------

    def ask(self, kind: type[Any], service: str, **fields: Any) -> Any:
        """What a service answers."""
        client = self.node.create_client(kind, service)
        self.until(client.service_is_ready, f"service {service}")
        future = client.call_async(kind.Request(**fields))
        self.until(future.done, f"an answer of {service}")
        self.node.destroy_client(client)
        return future.result()

    def set(self, node: str, **values: Any) -> list[str]:
        """Set parameters; of each, why it was refused, or ""."""
        parameters = [Parameter(k, value=v).to_parameter_msg() for k, v in values.items()]
        return [r.reason for r in self.ask(SetParameters, f"{node}/set_parameters", parameters=parameters).results]

    # ---- what is done to processes ----------------------------------------------------------------------------------------

    @contextmanager
    def frozen(self, name: str) -> Iterator[None]:
        """Inside, a process is there, but does nothing."""
        os.kill(self.graph.pids()[name], signal.SIGSTOP)
        try:
            yield
        finally:
            os.kill(self.graph.pids()[name], signal.SIGCONT)

    def close(self) -> None:
        """Leave."""
        self._executor.shutdown()
        self.node.destroy_node()
        self.context.try_shutdown()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()
