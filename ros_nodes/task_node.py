"""task: the one node that knows what is asked. It has episodes begun, judges decisions from true readings, and ends after one trial.

Subscribes the robot's own state, `measured/...`, `action` (adapter), `executed` (safety), `adapter_status`, `safety_status`; calls
`begin_episode` (Trigger). Publishes `~/events` and `~/status`. `~/goal` (PoseStamped) sets the goal of the next episode, of tasks that leave it open: it is
refused by name, or said on `~/next_goal` before that episode is asked for, and the episode begins when the target is measured there.
Parameters: task, those of `wired`, episodes (0: the task's), observers (how many besides the adapter must listen to the events before the trial begins),
patience (s, longest wait for anything; 0: as long as it takes, as people do on hardware), clock_may_leap (of simulations; see `Inbox`).
While the adapter is inactive, or the safety node has stopped the robot, the trial stands still: no decision is judged. A stop costs no patience.
"""

from __future__ import annotations

import math
import time
from functools import partial
from typing import Any

import torch
from diagnostic_msgs.msg import DiagnosticArray
from geometry_msgs.msg import PoseStamped
from rclpy.duration import Duration
from rclpy.node import Node
from rclpy.task import Future
from std_msgs.msg import Float64MultiArray
from std_srvs.srv import Trigger
from torch import Tensor

from metarl import tasks
from metarl.ros_nodes import messages, readings, runtime
from metarl.ros_nodes.events import Event
from metarl.ros_nodes.inbox import Inbox
from metarl.ros_nodes.limits import Command
from metarl.ros_nodes.referee import Referee
from metarl.ros_nodes.rejection import Rejected
from metarl.ros_nodes.wires import wired

PERIOD = 0.1  # s between two looks at what is being waited for
AGAIN = 1.0  # s until an episode is asked for again that could not be begun
GOAL_NEAR = 0.005  # m from a goal that was set, within which the target is there
TELL = 5.0  # s of waiting after which it is said
LATE = 1.2  # times its own time, at which a decision of a fast control loop has lasted too long
STARTING = 5  # times as long may it take until all nodes are there: a busy machine takes its time to start processes


class TaskNode:
    """Runs one trial: waits for the whole chain, then for each decision's effect."""

    finished = False

    def __init__(self, node: Node) -> None:
        self.node = node
        torch.set_num_threads(1)
        self.task = tasks.make(runtime.parameter(node, "task", "arm_slide"))
        self.referee = Referee(self.task, time.time_ns() // 1_000_000, runtime.number(node, "episodes", 0))
        self.observers = runtime.number(node, "observers", 0)
        self.patience = runtime.number(node, "patience", 60.0)
        self.status = runtime.Status(node)
        self._ready = {"adapter": False, "safety": False}
        self._stopped = False  # the robot, by the safety node
        self._delay = ""  # what was said last that the trial waits for
        self._return = 0.0  # of the episode so far
        self._episode_from: int | None = None  # ns; None while no episode has been asked for
        self._asked: Future | None = None  # for an episode
        self._not_before = 0.0  # s, when it may be asked for again
        self._goal: PoseStamped | None = None  # that was set and not asked for yet
        self._next_goal: PoseStamped | None = None  # of the episode that is asked for
        self._goal_heard = 0  # how many had that when it was asked for
        self._offered = 0  # how many could have answered that
        self._action: tuple[int, Tensor] = (-1, torch.empty(0))  # sequence number of the event that it answers
        self._executed: Command | None = None
        self._news = runtime.steady_now()
        self._events = node.create_publisher(Float64MultiArray, "~/events", runtime.HISTORY)
        self.wire = wired(node, self.task.robot_name)
        may_leap = runtime.parameter(node, "clock_may_leap", False)
        self.inbox = Inbox(
            node, self.wire, self.task, self.referee.needs, "measured", self.status, self._advance, self._on_set_back, self.referee.count_anew, may_leap
        )
        node.create_subscription(Float64MultiArray, "action", self._on_action, runtime.ANSWERS)
        node.create_subscription(self.wire.command_kind, "executed", self._on_executed, runtime.ANSWERS)
        for other in self._ready:
            node.create_subscription(DiagnosticArray, f"{other}_status", partial(self._on_status, other), runtime.LATCHED)
        node.create_subscription(PoseStamped, "~/goal", self._on_goal, runtime.COMMAND)
        self._goals = node.create_publisher(PoseStamped, "~/next_goal", runtime.COMMAND)
        self._begin = node.create_client(Trigger, "begin_episode")
        runtime.steady_timer(node, PERIOD, self._on_timer)

    # ---- what comes in --------------------------------------------------------------------------------------------------------

    def _on_status(self, other: str, message: DiagnosticArray) -> None:
        values = runtime.status_values(message)
        self._ready[other] = values["ready"] == "true"
        if other == "safety":
            self._stopped = values.get("state") == "stopped"
        self._advance()

    def _on_action(self, message: Float64MultiArray) -> None:
        try:
            epoch, sequence, *action = messages.labelled(message, ("epoch", "sequence", *self.task.action_names))
        except Rejected as rejected:
            self.status.refused(rejected.reason, f"action: {rejected}")
            return
        if not (math.isfinite(epoch) and math.isfinite(sequence)):
            self.status.refused("not_finite", f"action of trial {epoch}, event {sequence}")
            return
        if epoch != self.referee.epoch:
            self.status.refused("old_epoch", f"action of trial {epoch:.0f}, the present one is {self.referee.epoch}")
            return
        self._action = int(sequence), torch.tensor(action)
        self._advance()

    def _on_executed(self, message: Any) -> None:
        try:
            executed = self.wire.command(message)
        except Rejected as rejected:
            self.status.refused(rejected.reason, f"executed: {rejected}")
            return
        if self.referee.event is None or executed.stamp != self.referee.event.stamp:
            return  # a stop of the safety node's own, which answers no event
        self._executed = executed
        self._advance()

    def _on_goal(self, message: PoseStamped) -> None:
        try:
            readings.check_goal(self.task, self._place(message))
        except Rejected as rejected:
            self.status.refused(rejected.reason, f"goal: {rejected}")
            return
        self._goal = message
        x, y, z = self._place(message).tolist()
        self.status.publish(f"the goal of the next episode: {x:.3f}, {y:.3f}, {z:.3f} m")
        if self._next_goal is not None:  # nobody has put the target there so far
            self._ask_again()

    def _place(self, goal: PoseStamped) -> Tensor:
        """(3,) m.

        Raises:
            Rejected: wrong_frame or not_finite.
        """
        return messages.pose_readings(goal, "target", self.wire.frame)["target_pos"]

    def _on_set_back(self, stamp: int) -> None:
        """The robot's clock was set back. A decision that is open is given its time anew; an episode that was being begun is asked for again."""
        self.referee.count_anew(stamp)
        last = self.referee.event
        if last is None or last.ends:
            self._ask_again()

    def _ask_again(self) -> None:
        """Whatever is answered to the last request for an episode, it does not count any more."""
        if self._asked is not None:
            self._begin.remove_pending_request(self._asked)
        self._asked = self._episode_from = None

    # ---- what is done ---------------------------------------------------------------------------------------------------------

    def _on_timer(self) -> None:
        if self.finished:
            return
        missing, now = self._missing(), runtime.steady_now()
        what, held = ", ".join(missing) or "the decision to have its effect", self._held()
        if self._stopped:
            self._news = now
        patience = self.patience if self.status.ready else STARTING * self.patience
        if 0 < patience < now - self._news:
            raise RuntimeError(f"waited {patience:.0f} s for {held or what}")
        if self.status.ready:
            self._tell_delay(f"the trial stands still: it waits for {held}" if held else f"waiting for {what}" if now - self._news > TELL else "")
        if not self.status.ready:
            self.status.publish(f"waiting for {', '.join(missing)}" if missing else f"judging {self.task.name}", ready=not missing)
        if self._episode_from is not None and self._next_goal is not None and self._ears() > self._goal_heard:  # too late for this request
            self._ask_again()
        if self.status.ready and self._episode_from is None and now > self._not_before and not held:
            self._ask_for_episode()

    def _tell_delay(self, text: str) -> None:
        """Say what the trial waits for, and once that it waits no more."""
        if text or self._delay:
            self.status.publish(text or f"judging {self.task.name}")
        self._delay = text

    def _held(self) -> str:
        """Why a trial that has begun stands still, or ""."""
        if not self.status.ready:
            return ""
        if self._stopped:
            return "the safety node, which has stopped the robot until it is reset"
        return " and ".join(f"the {other} node, which is not ready" for other, ready in self._ready.items() if not ready)

    def _ask_for_episode(self) -> None:
        """Once; and again where whoever was asked may have died of it, so that others offer the service now."""
        offered = self.node.count_services(self._begin.service_name)
        if self._asked is not None and offered == self._offered:
            return
        if self._asked is not None:
            self._begin.remove_pending_request(self._asked)
        self._next_goal, self._goal = self._goal or self._next_goal, None
        if self._next_goal is not None:
            self._goals.publish(self._next_goal)
            self._goal_heard = self._ears(1.0)  # it comes before the request
        self._asked, self._offered = self._begin.call_async(Trigger.Request()), offered
        runtime.when_done(self._asked, self._on_begun)

    def _missing(self) -> list[str]:
        """What is being waited for, in words."""
        if not self.status.ready:
            found = [f"{other} node" for other, ready in self._ready.items() if not ready]
            found += [] if self._begin.service_is_ready() else ["service begin_episode"]
            listeners = 1 + self.observers - self._events.get_subscription_count()
            found += [f"{listeners} more listening to the events"] if listeners > 0 else []
            return found + self.inbox.missing(0)
        event = self.referee.event
        if event is None or event.ends:
            return ["service begin_episode"] if self._episode_from is None else self.inbox.missing(self._episode_from) or self._goal_missing()
        found = [] if self._action[0] == event.sequence else ["adapter's action"]
        found += [] if self._executed is not None and self._executed.stamp == event.stamp else ["safety node's executed command"]
        return found + self.inbox.missing(0)  # none, but after the robot's clock was set back

    def _goal_missing(self) -> list[str]:
        """Whoever shows the target has not put it where it was asked for."""
        if self._next_goal is None:
            return []
        asked, found = self._place(self._next_goal), self.inbox.readings()["target_pos"]
        if float((asked - found).norm()) < GOAL_NEAR:
            return []
        at = ["(" + ", ".join(f"{v:.3f}" for v in place.tolist()) + ")" for place in (asked, found)]
        return [f"the target to be at {at[0]} m: it is at {at[1]}"]

    def _ears(self, patience: float = 0.0) -> int:
        """How many have heard the goal of the next episode, by now or `patience` s later."""
        return self._goals.get_subscription_count() if self._goals.wait_for_all_acked(Duration(seconds=patience)) else 0

    def _on_begun(self, future: Any) -> None:
        response = future.result()
        if not response.success:
            self._asked, self._not_before = None, runtime.steady_now() + AGAIN
            self.status.refused("no_episode", f"no episode could be begun, and it is asked for again: {response.message}")
            return
        if not response.message.isdecimal():
            raise RuntimeError(f"no episode could be begun: {response.message!r}; expected is the stamp (ns) of the first readings")
        self._episode_from, self._asked = int(response.message), None
        self._advance()

    def _advance(self) -> None:
        """Begin the episode or judge the decision, as soon as all that it takes is here."""
        if self._episode_from is None or self._held() or self._missing():
            return
        try:
            event = self._next_event()
        except Rejected as rejected:
            self.status.refused(rejected.reason, f"{rejected}")
            return
        if event is not None:
            self._news = runtime.steady_now()
            self._publish(event)

    def _next_event(self) -> Event | None:
        measured, last = self.inbox.readings(), self.referee.event
        if last is None or last.ends:
            event = self.referee.begin_episode(measured, self.inbox.stamp)
            self._next_goal = None
            return event
        assert self._executed is not None
        if not self.referee.over(measured, self.inbox.stamp, float(self._executed.time[-1])):
            return None
        if not self.task.rests and len(self._executed.time) == 1 and self.referee.lasted(self.inbox.stamp) > LATE * self.task.decision_dt:
            self.status.counts["late_decision"] += 1  # readings come slower than decisions were trained to last
        return self.referee.judge(self._action[1], self.wire.last(self._executed), measured, self.inbox.stamp)

    def _publish(self, event: Event) -> None:
        self._events.publish(messages.event_message(event))
        self._return = 0.0 if event.begins else self._return + event.reward
        if not event.ends:
            return
        self.status.publish(f"episode {event.episode}: return {self._return:.3f}, error {event.error:.4f}")
        self._episode_from = None
        if self.referee.trial_ended:
            self._events.wait_for_all_acked(Duration(seconds=5))
            self.status.leave()
            self.finished = True


def main() -> None:
    """Run the node."""
    runtime.run("task", TaskNode)


if __name__ == "__main__":
    main()
