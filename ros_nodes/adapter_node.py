"""adapter: the Adapter of one meta-parameters file on a robot. It is never told the task, and knows no simulator. A lifecycle node:

- configure loads the file, looks whether it fits the robot, and decides once on made-up readings; what does not fit is said by name.
- activate wants a fresh state of the robot; the first set-points lie near its measured pose. Only an active adapter commands.
- deactivate asks the safety node for a stop as the last thing, and then is silent. An error does the same.

It adapts in its executor's thread by decision: the command is published first, the robot is at rest between episodes, and nothing that comes meanwhile
may overtake it. What it may learn, and when it is rolled back, is the business of `adaptation.py`.

The mode says who acts, and everybody acts with the memory of the episode that it is in, as training had it act. `adapt`: on all that the trial has taught.
`frozen`, and wherever learning is off: every episode begins with what was known when learning ended, and is forgotten when it ends. `shadow`: every episode is
acted as the first of a trial, from the meta-parameters alone, while what is learned is kept away from the motors. A policy without a memory, or one that
adapts by gradient, does within an episode nothing that it did not do at its beginning.

Subscribes `events` (from the task node), the robot's own state, `seen/...`, `executed` (what the safety node let through).
Publishes `~/command` (JointTrajectory or TwistStamped, stamped like the event that it answers), `~/action`, `~/used` (what it decided on), `~/adaptation`
(how it is doing; of PEARL and VariBAD also what they believe, mean and standard deviation as belief_0 and on), `~/status`, `~/heartbeat`.
Services: `~/enable_adaptation` (SetBool), `~/reset_adaptation`, `~/save_adapted` (Trigger).
`save_adapted` writes a meta-parameters file whose adapters begin with what was understood.
Parameters: meta_parameters (a file, or zoo:TASK/ALGORITHM), robot (the file must be for it), and those of `wired`; adapted_folder; clock_may_leap;
and, at any time, SETTINGS below.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rclpy.lifecycle import LifecycleNode, LifecycleState, ManagedEntity, TransitionCallbackReturn
from std_msgs.msg import Float64MultiArray
from std_srvs.srv import SetBool, Trigger

from metarl import meta_parameters
from metarl.ros_nodes import messages, runtime
from metarl.ros_nodes.adaptation import Bounds, Mode, SafeAdapter
from metarl.ros_nodes.control_loop import ControlLoop, Decision, load
from metarl.ros_nodes.events import Event, EventOrder
from metarl.ros_nodes.inbox import Inbox
from metarl.ros_nodes.limits import Command
from metarl.ros_nodes.rejection import Rejected, RejectedAction
from metarl.ros_nodes.replay import circumstances
from metarl.ros_nodes.runtime import Setting
from metarl.ros_nodes.wires import ArmWire, wired
from metarl.tasks.task import Readings

PERIOD = 0.05  # s between two looks at who is listening, and at the age of the robot's state
SAME_TIME = 1e-6  # s, less than which messages may change a duration
TELL_PERIOD = 0.1  # s at least between two messages on how adaptation is doing; the end of an episode is always told
SETTINGS = (
    Setting("mode", str(Bounds.mode), choices=tuple(Mode)),
    Setting("trust_radius", Bounds.trust_radius, 1e-6, 1e6),
    Setting("collapse", Bounds.collapse, 0.1, 1e6),
    Setting("interventions", Bounds.interventions, 0.0, 1.0),
    Setting("budget", Bounds.budget, 1e-4, 3600.0),
    Setting("state_timeout", 0.5, 0.01, 60.0),
    Setting("max_step", 0.05, 1e-4, 0.25),
)
FIXED = ("clock_may_leap", "robot", "joint_names", "command_topic", "state_topic")
SUCCESS, FAILURE = TransitionCallbackReturn.SUCCESS, TransitionCallbackReturn.FAILURE


class AdapterNode(ManagedEntity):  # type: ignore[misc] # rclpy.lifecycle has no types
    """Waits, for each event, until readings as new as it are here; then observes and acts."""

    finished = False
    inbox: Inbox
    safe: SafeAdapter

    def __init__(self, node: LifecycleNode) -> None:
        self.node = node
        torch.set_num_threads(1)
        self.wire = wired(node, runtime.parameter(node, "robot", "arm7"))
        node.declare_parameter("meta_parameters", "")
        node.declare_parameter("adapted_folder", "adapted")
        self.may_leap = runtime.parameter(node, "clock_may_leap", False)
        self.status = runtime.Status(node)
        self.bounds, self.state_timeout, self.max_step = Bounds(), 0.5, 0.05
        runtime.settings(node, SETTINGS, self._take_setting, self._fixed)
        self._loop: ControlLoop | None = None
        self._active, self._asked, self._told = False, 0, 0.0
        self._planned: Command | None = None  # the command that was published last
        self._lasts, self._held = 0.0, False  # s, that the command takes; the safety node holds the robot instead
        self._command = node.create_publisher(self.wire.command_kind, "~/command", runtime.COMMAND)
        self._action = node.create_publisher(Float64MultiArray, "~/action", runtime.ANSWERS)
        self._used = node.create_publisher(Float64MultiArray, "~/used", runtime.HISTORY)
        self._adaptation = node.create_publisher(Float64MultiArray, "~/adaptation", runtime.ANSWERS)
        node.create_service(SetBool, "~/enable_adaptation", self._on_enable)
        node.create_service(Trigger, "~/reset_adaptation", self._on_reset)
        node.create_service(Trigger, "~/save_adapted", self._on_save)
        node.add_managed_entity(self)
        runtime.steady_timer(node, PERIOD, self._on_timer)
        self._say("unconfigured", "to be configured")

    def close(self) -> None:
        """The process ends."""
        if self._active:
            self._stop()

    # ---- life cycle -------------------------------------------------------------------------------------------------------

    def on_configure(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Load the file and see whether it fits."""
        try:
            with self.status.busy("loading"):
                self._configure()
        except (ValueError, TypeError, OSError, RuntimeError) as error:
            self._forget()
            self.status.counts["not_configured"] += 1
            self._say("unconfigured", f"{type(error).__name__}: {error}", trouble=True)
            return FAILURE
        self._say("inactive", f"configured with {self.file}")
        return SUCCESS

    def on_activate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Begin to command, if the robot is there."""
        age = self.inbox.age()
        if age > self.state_timeout:
            self.status.counts["stale_state"] += 1
            found = "no state of the robot has arrived yet" if age == float("inf") else f"the robot's state is {age:.3f} s old"
            self._say("inactive", f"not activated: {found}, allowed are {self.state_timeout:.3f} s", trouble=True)
            return FAILURE
        if not self.loop.deciding:  # what was asked before is long over; a trial that is under way is joined where it is
            del self._events[:-1]
        self.loop.resume()
        self._active, self._oldest, self._waiting_since = True, 0.0, runtime.steady_now()
        self._say("active", f"adapting with {self.file}")
        self._advance()
        return SUCCESS

    def on_deactivate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Stop, then be silent."""
        self._stop()
        self._say("inactive", "deactivated")
        return SUCCESS

    def on_cleanup(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Forget the file and all that was learned."""
        self._forget()
        self._say("unconfigured", "cleaned up")
        return SUCCESS

    def on_shutdown(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Stop, then end the process."""
        if self._active:
            self._stop()
        self._say("finalized", "shut down")
        self.finished = True
        return SUCCESS

    def on_error(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Stop; nothing works until it is configured anew."""
        if self._active:
            self._stop()
        self._forget()
        self._say("unconfigured", "an error has ended what was configured", trouble=True)
        return SUCCESS

    def _configure(self) -> None:
        self.file = self.node.get_parameter("meta_parameters").value
        if not self.file:
            raise ValueError("the parameter 'meta_parameters' must be given: --ros-args -p meta_parameters:=...")
        self._loop = load(self.file, self.wire.robot)
        self.loop.dry_run()
        assert isinstance(self.loop.adapter, SafeAdapter)
        self.safe = self.loop.adapter
        if self.safe.distance > self.bounds.trust_radius:
            beyond = f"{self.safe.distance:.3g} from its meta-parameters, the trust radius is {self.bounds.trust_radius:.3g}"
            raise ValueError(f"what {self.file} has understood lies {beyond}")
        self.safe.bounds, self.loop.max_step = self.bounds, self.max_step
        self.order = EventOrder(join=True)
        self._events: list[Event] = []  # accepted, not yet dealt with
        self._undated: list[Event] = []  # those of them that were stamped before the robot's clock was set back: for them all readings are new enough
        self._newest = 0  # ns, stamp of the event that came last
        self._asked = 0  # ns, stamp of the command that was published last
        self._executed: tuple[int, torch.Tensor] = (0, torch.empty(0))  # stamp and last pose of what safety let through
        self._oldest = 0.0  # s, the greatest age of the robot's state since the last decision
        self._leapt = 0  # ns, stamp of the first reading after the robot's clock was set ahead
        before = list(self.node.subscriptions)
        clock = self._on_set_back, self._on_set_ahead, self.may_leap
        self.inbox = Inbox(self.node, self.wire, self.loop.task, self.loop.needs, "seen", self.status, self._advance, *clock)
        self.node.create_subscription(self.wire.command_kind, "executed", self._on_executed, runtime.ANSWERS)
        self.node.create_subscription(Float64MultiArray, "events", self._on_event, runtime.HISTORY)
        self._subscriptions = [s for s in self.node.subscriptions if s not in before]
        runtime.settle()

    def _forget(self) -> None:
        if self._loop is not None:
            for subscription in getattr(self, "_subscriptions", []):
                self.node.destroy_subscription(subscription)
        self._loop, self._subscriptions = None, []

    def _stop(self) -> None:
        """The last thing that is said."""
        self._active = False
        if isinstance(self.wire, ArmWire):  # a vehicle is stopped by silence
            self._ask_to_stop()

    def _ask_to_stop(self) -> None:
        """In place of the last command: a trajectory without points. For a vehicle it is that command again: too old, or carried out."""
        stop = self._planned
        if isinstance(self.wire, ArmWire):
            nothing = np.empty((0, self.wire.robot.num_joints))
            stop = Command(self._asked, np.empty(0), nothing, nothing)
        assert stop is not None, "only an arm can be asked to stop before anything was decided"
        self._command.publish(self.wire.message(stop))

    @property
    def loop(self) -> ControlLoop:
        """What was configured."""
        assert self._loop is not None, "configure comes first"
        return self._loop

    # ---- what comes in ----------------------------------------------------------------------------------------------------

    def _on_timer(self) -> None:
        if self._loop is None or not self._active:
            return
        self._oldest = max(self._oldest, self.inbox.age())
        self._watch_open_decision()
        if not self.status.ready:
            listened = self._command.get_subscription_count() > 0
            self.status.publish(f"adapting with {self.file}" if listened else "waiting for the safety node", ready=listened)

    def _watch_open_decision(self) -> None:
        """Give up a decision of which nobody says that it was carried out.

        Where the trial has gone on without it, it was asked for before this node was started anew. Else the safety node has died of it, or before it was
        heard: whoever guards the robot next is asked for a stop in its place, for nobody expects a motion by then.
        """
        now = runtime.steady_now()
        if not self.loop.deciding or self._executed[0] == self._asked:
            self._waiting_since = now
        elif now - self._waiting_since > 2 * self.state_timeout:
            self._waiting_since = now
            if self._events:
                self.loop.deciding = False
                del self._events[:-1]
                self.status.refused("abandoned", "a decision was never carried out, and the trial goes on without it")
                self._advance()
            else:
                self._ask_to_stop()
                self.status.refused("unanswered", "no safety node says what became of a command: a stop is asked for in its place")

    def _on_event(self, message: Float64MultiArray) -> None:
        try:
            event = messages.to_event(message)
            if self.order.accept(event):
                self._events.clear()
                self.loop.begin_trial()
        except Rejected as rejected:
            self.status.refused(rejected.reason, f"event: {rejected}")
            return
        if event.stamp < self._newest:  # the task node has noticed first
            self.status.refused("clock_set_back", f"event {event.sequence} is stamped {event.stamp} ns, after {self._newest} ns: all readings anew")
            self.inbox.forget()
            self._on_set_back(event.stamp)
        self._newest = event.stamp
        self._events.append(event)
        self._advance()

    def _on_set_back(self, stamp: int) -> None:
        """The robot's clock was set back: of the decision that is open, nobody knows how long it lasted."""
        self._undated, self._oldest = list(self._events), float("inf")

    def _on_set_ahead(self, stamp: int) -> None:
        """The robot's clock was set ahead to `stamp` (ns): neither does anybody know it of the decision that this lies in."""
        self._leapt = stamp

    def _on_executed(self, message: Any) -> None:
        try:
            command = self.wire.command(message)
            last = self.wire.last(command)
        except Rejected as rejected:
            self.status.refused(rejected.reason, f"executed: {rejected}")
            return
        if command.stamp != self._asked:
            return  # a stop of the safety node's own, which answers no decision
        self._executed, self._held = (command.stamp, last), abs(float(command.time[-1]) - self._lasts) > SAME_TIME
        self._advance()

    # ---- what is done -----------------------------------------------------------------------------------------------------

    def _advance(self) -> None:
        """Deal with the oldest event, once all that belongs to it is here."""
        if not self._active:
            return
        if not self._events:
            if self.inbox.even:
                self.loop.look_ahead(self.inbox.readings())
            return
        event = self._events[0]
        since = 0 if event in self._undated else event.stamp
        if self.inbox.missing(since) or (self.loop.deciding and not event.begins and self._executed[0] != self._asked):
            return
        try:
            self._answer(event)
        except RejectedAction as error:
            self.node.trigger_deactivate()
            self.status.refused("bad_action", f"{self.file} decided what no robot may do, so it was deactivated: {error}")
        except Rejected as rejected:  # a reading cannot be used, and nothing was changed by it: the next one may do
            self.status.refused(rejected.reason, f"event {event.sequence}: {rejected}")
            return
        self._events.pop(0)

    def _answer(self, event: Event) -> None:
        seen = self.inbox.readings()
        executed = torch.empty(0) if event.begins or not self.loop.deciding else self._executed[1]
        excluded = self._excluded(event, len(executed) > 0)
        given = circumstances(self.loop, excluded)
        self.safe.note(event.epoch, event.sequence, event.begins)
        self._decide(event, seen, executed, excluded)
        self._oldest = 0.0  # only now, because nothing may delay a command
        self._used.publish(messages.used_message(event, self.loop.needs, seen, executed, given))

    def _excluded(self, event: Event, carried_out: bool) -> str:
        """Why the decision that an event tells the result of is not to be learned from, for all that this node knows, or ""."""
        if self._asked < self._leapt <= event.stamp:
            return "clock_set_ahead"
        if self._oldest > self.state_timeout:
            return "stale_state"
        return "intervention" if self._held and carried_out else ""

    def _decide(self, event: Event, seen: Readings, executed: torch.Tensor, excluded: str) -> None:
        if event.begins or not (self.loop.deciding or event.ends):
            self._publish(event, self.loop.begin_episode(seen))
            return
        if not self.loop.deciding:
            return
        decision = self.loop.take_result(event.reward, event.terminated, event.truncated, seen, executed, excluded)
        if decision is not None:
            self._publish(event, decision)
        else:
            with self.status.busy("adapting"):
                self.loop.end_episode()
        self.safe.prepare()
        if event.ends or runtime.steady_now() - self._told > TELL_PERIOD:
            self._tell_adaptation(event)

    def _publish(self, event: Event, decision: Decision) -> None:
        planned = self._planned = self.wire.planned(decision.command, event.stamp)
        self._asked, self._lasts = event.stamp, float(planned.time[-1])
        self._command.publish(self.wire.message(planned))
        labels = ("epoch", "sequence", *self.loop.task.action_names)
        self._action.publish(messages.numbers(labels, [event.epoch, event.sequence, *decision.action.tolist()]))

    def _tell_adaptation(self, event: Event) -> None:
        self._told = runtime.steady_now()
        numbers = self.safe.numbers()
        self._adaptation.publish(messages.numbers(("epoch", "sequence", *numbers), [event.epoch, event.sequence, *numbers.values()]))
        told = {f"adaptation_{name}": str(count) for name, count in self.safe.counts.items() if count and name != "accepted"}
        self.status.tell(excluded=self.loop.excluded, adaptation_off=self.safe.off, **told)

    def _say(self, mode: str, text: str, trouble: bool = False) -> None:
        self.status.mode = mode
        self.status.publish(text, ready=self.status.ready and self._active, trouble=trouble)
        self.status.tell(lifecycle=mode)

    # ---- what is asked for ------------------------------------------------------------------------------------------------

    def _take_setting(self, name: str, value: Any) -> None:
        if hasattr(self.bounds, name):
            setattr(self.bounds, name, Mode(value) if name == "mode" else value)
        else:
            setattr(self, name, value)
        if name == "max_step" and getattr(self, "_loop", None) is not None:
            self.loop.max_step = value

    def _fixed(self, name: str) -> str:
        """Why a parameter cannot change now, or ""."""
        if name in FIXED:
            return f"{name} is fixed once the node runs"
        return f"{name} can change only before the node is configured" if name == "meta_parameters" and self._loop is not None else ""

    def _on_enable(self, request: SetBool.Request, response: SetBool.Response) -> SetBool.Response:
        return self._answered(response, partial(self._enable, request.data))

    def _on_reset(self, request: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
        return self._answered(response, self._reset)

    def _on_save(self, request: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
        return self._answered(response, self._save)

    def _answered(self, response: Any, done: Callable[[], str]) -> Any:
        """What a service answers: what was done, or why it could not be."""
        if self._loop is None:
            response.message = "not configured"
            return response
        try:
            response.success, response.message = True, done()
        except (OSError, ValueError) as error:
            response.success, response.message = False, str(error)
        self.status.publish(response.message)
        return response

    def _enable(self, on: bool) -> str:
        if on and self.bounds.mode is Mode.FROZEN:
            raise ValueError("the parameter mode is frozen, so nothing is learned: set it to adapt or shadow")
        self.safe.enable(on)
        return f"mode {self.bounds.mode}, learning " + ("from the next episode on" if on else "off")

    def _reset(self) -> str:
        self.safe.roll_back("by_hand")
        return "back to the meta-parameters"

    def _save(self) -> str:
        folder, experience = Path(self.node.get_parameter("adapted_folder").value), self.safe.experience()
        path = folder / f"{self.loop.task.name}_{max(experience.epoch, 0)}_{max(experience.sequence, 0)}.safetensors"
        meta_parameters.save_experience(path, self.file, experience)
        return str(path.absolute())


def main() -> None:
    """Run the node."""
    runtime.run("adapter", AdapterNode, LifecycleNode)


if __name__ == "__main__":
    main()
