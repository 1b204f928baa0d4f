"""supervisor: brings the graph up and down in order, and says who has died.

Nodes that have a life cycle are configured at once, and activated in the order of `nodes`, when those before are active or, without a life cycle, ready.
They go down in the reverse order. A node that is not heard for `timeout` s is dead, and is told by its name; if it comes back, it is brought up again
where that had been asked for. One that was deactivated by somebody else, or by itself, stays so until `~/startup`.
Subscribes NODE/heartbeat, NODE/status. Publishes `~/status`, `~/heartbeat`, `diagnostics`. Services: `~/startup`, `~/pause`, `~/shutdown` (Trigger),
which answer at once; the status says when it is done. Parameters: nodes, managed, watched (names; nothing waits for the watched, but their deaths are
told); autostart (for simulations; on hardware somebody must ask); timeout, busy_timeout, patience (s, for which nothing new may happen on the way).
"""

from __future__ import annotations

import math
from functools import partial
from typing import Any

from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus, KeyValue
from lifecycle_msgs.srv import ChangeState
from rclpy.node import Node
from std_msgs.msg import Header
from std_srvs.srv import Trigger

from metarl.ros_nodes import runtime
from metarl.ros_nodes.runtime import Setting
from metarl.ros_nodes.supervision import BUSY, Goal, Patience, Roster, Step

PERIOD, DIAGNOSTICS_PERIOD = 0.1, 1.0  # s
EXPLAIN = 3.0  # s in which a node that cannot be configured says why: its answer and its status come on ways of their own
AGAIN = 0.5  # s between two attempts at what is only a matter of time
ATTEMPTS = 5  # configurations of one node before it is left alone
SETTINGS = (Setting("timeout", 1.0, 0.1, 600.0), Setting("busy_timeout", 60.0, 1.0, 3600.0), Setting("patience", 60.0, 1.0, 3600.0))


class SupervisorNode:
    """Asks for one transition after the other."""

    finished = False

    def __init__(self, node: Node) -> None:
        self.node = node
        names = list(runtime.parameter(node, "nodes", ["sim", "safety", "adapter"]))
        managed = list(runtime.parameter(node, "managed", ["adapter"]))
        watched = list(runtime.parameter(node, "watched", ["task"]))
        self.roster = Roster(names, managed, 1.0, 60.0, watched)
        self.patience = 60.0
        runtime.settings(node, SETTINGS, lambda name, value: setattr(self if name == "patience" else self.roster, name, value))
        self.status = runtime.Status(node)
        self._ready: dict[str, bool] = dict.fromkeys(self.roster.all, False)
        self._said: dict[str, str] = dict.fromkeys(self.roster.all, "")
        self._told: dict[str, float] = dict.fromkeys(self.roster.all, -math.inf)  # s, when that came
        self._dead: tuple[str, ...] = ()
        self._asked: tuple[Step, float, Any] | None = None  # since when (s), and what will hold the answer
        self._failed: tuple[str, float, float] | None = None  # who cannot be configured; when it was asked to, and until when it may say why (s)
        self._not_before = 0.0
        for name in self.roster.all:
            node.create_subscription(Header, f"{name}/heartbeat", partial(self._on_heartbeat, name), runtime.STREAM_IN)
            node.create_subscription(DiagnosticArray, f"{name}/status", partial(self._on_status, name), runtime.LATCHED)
        self._clients = {name: node.create_client(ChangeState, f"{name}/change_state") for name in managed}
        self._diagnostics = node.create_publisher(DiagnosticArray, "diagnostics", runtime.STREAM)
        for goal, service in ((Goal.ACTIVE, "startup"), (Goal.INACTIVE, "pause"), (Goal.FINALIZED, "shutdown")):
            node.create_service(Trigger, f"~/{service}", partial(self._on_asked, goal))
        self.autostart = runtime.parameter(node, "autostart", True)
        self._begin(Goal.ACTIVE if self.autostart else Goal.AS_IT_IS)
        self.status.publish("starting" if self.autostart else "waiting to be asked: ~/startup")
        runtime.steady_timer(node, PERIOD, self._on_timer)
        runtime.steady_timer(node, DIAGNOSTICS_PERIOD, self._publish_diagnostics)

    # ---- what comes in ----------------------------------------------------------------------------------------------------

    def _on_heartbeat(self, name: str, message: Header) -> None:
        self.roster.hear(name, message.frame_id, runtime.steady_now())

    def _on_status(self, name: str, message: DiagnosticArray) -> None:
        values = runtime.status_values(message)
        self._ready[name], self._said[name], self._told[name] = values["ready"] == "true", values["message"], runtime.steady_now()

    def _on_asked(self, goal: Goal, request: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
        self._begin(goal)
        response.success, response.message = True, f"on the way to {goal}: ~/status says when all are there"
        return response

    # ---- what is done -----------------------------------------------------------------------------------------------------

    def _begin(self, goal: Goal) -> None:
        self.goal, self._waits, self._reached = goal, Patience(runtime.steady_now()), goal is Goal.AS_IT_IS
        self._not_before, self._failed = 0.0, None
        self._configured = dict.fromkeys(self.roster.managed, 0)
        self._forget_request()
        self.roster.begin()

    def _forget_request(self) -> None:
        """It will not be answered, or the answer does not count any more."""
        if self._asked is not None:
            step, _, future = self._asked
            self._clients[step.node].remove_pending_request(future)
            self._asked = None

    def _on_timer(self) -> None:
        now = runtime.steady_now()
        self._report_dead(now)
        if self._failed is not None:
            self._explain(now)
        if self.goal is Goal.ACTIVE and (withdrawn := self.roster.withdrawn()):
            self.goal = Goal.AS_IT_IS
            self.status.counts["withdrawn"] += 1
            self.status.publish(f"{', '.join(withdrawn)} was deactivated, not by this node, and stays so until ~/startup", ready=False, trouble=True)
        if self.goal is Goal.AS_IT_IS:
            return
        ready = [name for name, is_ready in self._ready.items() if is_ready]
        waiting = self.roster.waiting_for(self.goal, ready, now)
        if not waiting and not self._reached:
            self._reached, self._configured = True, dict.fromkeys(self.roster.managed, 0)
            self.status.publish(f"all nodes are {self.goal}", ready=self.goal is Goal.ACTIVE)
        elif waiting and self._reached and BUSY not in waiting:
            self._reached, self._waits = False, Patience(now)
            self.status.publish(f"waiting for {waiting}", ready=False)
        elif waiting and not self._reached and self._waits.tried(waiting, now) > self.patience:
            self._fail(f"waited {self.patience:.0f} s for {waiting}: {self._words(waiting.partition(',')[0])}")
        if self._asked is not None and self.roster.unanswered(self._asked[0], now - self._asked[1], now):
            self.status.counts["unanswered"] += 1
            self._forget_request()
        if not self._reached and self._asked is None and now > self._not_before:
            step = self.roster.next_step(self.goal, ready, now)
            if step is not None and self._clients[step.node].service_is_ready():
                self._ask(step)

    def _report_dead(self, now: float) -> None:
        dead = self.roster.dead(now)
        for name in set(dead) - set(self._dead):
            self.status.counts[f"dead_{name}"] += 1
            ready = False if name in self.roster.names else None
            self.status.publish(f"the {name} node is dead: it is not heard any more", ready, trouble=True)
            if self._asked is not None and self._asked[0].node == name:
                self._forget_request()
        for name in set(self._dead) - set(dead):
            self.status.publish(f"the {name} node is back")
        if dead != self._dead:
            self._dead = dead
            self.status.tell(dead=",".join(dead))

    def _ask(self, step: Step) -> None:
        if step.transition == "configure":
            self._configured[step.node] += 1
            if self._configured[step.node] > ATTEMPTS:
                self._fail(f"{step.node} was configured {ATTEMPTS} times: {self._words(step.node)}")
                return
        request = ChangeState.Request()
        request.transition.label = step.transition
        future = self._clients[step.node].call_async(request)
        self._asked = step, runtime.steady_now(), future
        runtime.when_done(future, partial(self._on_changed, step))

    def _on_changed(self, step: Step, future: Any) -> None:
        if self._asked is None or self._asked[2] is not future:
            return
        (_, since, _), self._asked, self._not_before = self._asked, None, runtime.steady_now() + AGAIN
        succeeded = future.result() is not None and future.result().success
        if succeeded:
            self._not_before = 0.0
            after = {"configure": "inactive", "activate": "active", "deactivate": "inactive", "shutdown": "finalized"}[step.transition]
            self.roster.hear(step.node, after, runtime.steady_now())
            self.status.publish(f"{step.node}: {step.transition}d" if step.transition.endswith("e") else f"{step.node}: {step.transition} done")
        elif step.transition == "configure" and self._configured[step.node] == 1:  # it will not get better by itself; later ones may only have been late
            self._failed = step.node, since, runtime.steady_now() + EXPLAIN
            self._not_before = math.inf

    def _explain(self, now: float) -> None:
        """Fail with what the node says of it, as soon as it is here."""
        assert self._failed is not None
        name, since, until = self._failed
        if self._told[name] >= since:
            self._fail(f"{name} cannot be configured: {self._said[name]}")
        elif now > until:
            self._fail(f"{name} cannot be configured and does not say why; it said last: {self._words(name)}")

    def _words(self, name: str) -> str:
        return self._said.get(name) or "it has said nothing"

    def _fail(self, text: str) -> None:
        self.goal, self._failed = Goal.AS_IT_IS, None
        self.status.refused("failed", text)
        if self.autostart:
            raise RuntimeError(text)

    def _publish_diagnostics(self) -> None:
        now = runtime.steady_now()
        array = DiagnosticArray()
        array.header.stamp = self.node.get_clock().now().to_msg()
        for name in self.roster.all:
            state = self.roster.state(name, now)
            gone = {"dead": DiagnosticStatus.ERROR, "missing": DiagnosticStatus.STALE}
            level = gone.get(state, DiagnosticStatus.OK if self._ready[name] else DiagnosticStatus.WARN)
            said = [KeyValue(key="state", value=state)]
            array.status.append(DiagnosticStatus(level=level, name=f"metarl: {name}", message=self._said[name], values=said))
        self._diagnostics.publish(array)


def main() -> None:
    """Run the node."""
    runtime.run("supervisor", SupervisorNode)


if __name__ == "__main__":
    main()
