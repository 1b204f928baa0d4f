"""safety: the last node before the motors. A command passes, or is refused by name and the robot brakes and holds its pose.

It passes unchanged, but for set-points of a fast control loop and a vehicle's commands: what of them would be too sudden is cut (counted as `cut`).
It also stops a robot whose fast control loop or whose joint states fall silent, by the steady clock, and one that stands still though it is told to move.
After an emergency stop nothing passes until somebody resets it by hand.
Subscribes `command` (JointTrajectory; one without points asks for a stop), the robot's joint states, `estop` (Bool, best latched). Publishes to the robot's
trajectory controller; `~/executed`, what was sent with the stamp of the command that it answers, again where that command is repeated; `~/status`,
`~/heartbeat`. Services: `~/estop` (SetBool), `~/reset` (Trigger). Parameters: robot; SETTINGS below; workspace_lower, workspace_upper (m, corners of the
box for the tool).
"""

from __future__ import annotations

import contextlib
import time
from typing import Any

import numpy as np
from rclpy.duration import Duration
from rclpy.event_handler import SubscriptionEventCallbacks
from rclpy.node import Node
from std_msgs.msg import Bool, Header
from std_srvs.srv import SetBool, Trigger

from metarl.robots.spec import ArmSpec, ServoSpec, VehicleSpec
from metarl.ros_nodes import messages, runtime
from metarl.ros_nodes.base_guard import State
from metarl.ros_nodes.guard import Button, Guard, Speakers
from metarl.ros_nodes.limits import Array, Command, Limits
from metarl.ros_nodes.rejection import Rejected
from metarl.ros_nodes.runtime import Setting
from metarl.ros_nodes.vehicle_guard import VehicleGuard
from metarl.ros_nodes.wires import Wire, wired
from metarl.ros_nodes.workspace import Workspace

# no ground to interrupt the motion of the command that was accepted
PASSED_OVER = ("duplicate", "out_of_order", "superseded")
WATCH_PERIOD, GRAPH_PERIOD = 0.01, 0.1  # s between two looks at the age of things, and at who is there
END_TIME = 4.0  # s given to come to rest when this node is asked to end: what launches nodes kills them after 5 s
# while the node runs, what guards can only become stricter: whoever wants more starts it anew
SETTINGS = (
    Setting("reach", Guard.reach, 0.01, 1.0, grows=False),
    Setting("rest_speed", Guard.rest_speed, 0.001, 0.5, grows=False),
    Setting("state_timeout", Guard.state_timeout, 0.01, 60.0, grows=False),
    Setting("command_timeout", Guard.command_timeout, 0.01, 60.0, grows=False),
    Setting("plan_timeout", Guard.plan_timeout, 0.1, 600.0, grows=False),
    Setting("may_jump", Guard.may_jump),
    Setting("clock_may_leap", Guard.clock_may_leap),
    Setting("slew", VehicleGuard.slew, 0.01, 1.0),
)


class SafetyNode:
    """Puts a Guard between a command topic and the controller."""

    finished = False

    def __init__(self, node: Node) -> None:
        self.node = node
        self.wire = wired(node, runtime.parameter(node, "robot", "arm7"))
        self.status = runtime.Status(node)
        self.guard = _guard(node, self.wire)
        self._settings = tuple(setting for setting in SETTINGS if hasattr(self.guard, setting.name))
        runtime.settings(node, self._settings, lambda name, value: setattr(self.guard, name, value), self._fixed)
        self.speakers, self.guards = Speakers(), Speakers()  # who gives commands, and who of this name guards the robot
        self._waiting: tuple[Command, float] | None = None  # a command, and when it came, until a joint state as new as its plan is here
        self._button = Button()
        self._unanswered: int | None = None  # ns, stamp of a command that nothing could be sent for: whoever gave it waits for what becomes of it
        self._told: Any = None  # message: what has become of the command that was accepted last
        self._watched = runtime.steady_now()
        self._controller = node.create_publisher(self.wire.command_kind, self.wire.command_topic, runtime.COMMAND)
        self._executed = node.create_publisher(self.wire.command_kind, "~/executed", runtime.ANSWERS)
        misfits = SubscriptionEventCallbacks(incompatible_qos=self._on_misfit)
        self._commands = node.create_subscription(
            self.wire.command_kind, "command", runtime.with_info(self._on_command), runtime.COMMAND, event_callbacks=misfits
        )
        node.create_subscription(self.wire.state_kind, self.wire.state_topic, self._on_state, runtime.STATE_IN)
        node.create_subscription(Header, "~/heartbeat", runtime.with_info(self._on_heartbeat), runtime.STREAM_IN)
        for demands in runtime.EVERYBODY:
            node.create_subscription(Bool, "estop", runtime.with_info(self._on_estop), demands)
        node.create_service(SetBool, "~/estop", self._on_estop_asked)
        node.create_service(Trigger, "~/reset", self._on_reset)
        runtime.steady_timer(node, WATCH_PERIOD, self._watch)
        runtime.steady_timer(node, GRAPH_PERIOD, self._look_around)

    def _fixed(self, name: str) -> str:
        """Why a parameter cannot change now, or ""."""
        live = name not in ("may_jump", "clock_may_leap") and name in {setting.name for setting in self._settings}
        return "" if live else f"{name} is fixed once the node runs"

    def close(self) -> None:
        """Bring the robot to rest before nobody guards it any more; what is asked for meanwhile is refused."""
        if self.guard.state in (State.MOVING, State.TRACKING) or not self.guard.at_rest(runtime.steady_now()):
            self._emergency(Rejected("shutdown", "the safety node was asked to end"))  # nothing passes while it brakes
        end, executor = runtime.steady_now() + END_TIME, self.node.executor
        assert executor is not None, "this node is being spun"
        while not self.guard.at_rest(runtime.steady_now()) and runtime.steady_now() < end:
            executor.spin_once(timeout_sec=WATCH_PERIOD)  # braking goes on in `_watch`
        self._controller.wait_for_all_acked(Duration(seconds=0.5))

    # ---- what comes in --------------------------------------------------------------------------------------------------------

    def _on_state(self, message: Any) -> None:
        try:
            if self.guard.measured is not None and not self.wire.concerns(message):
                self.status.counts["foreign_joints"] += 1
                return
            pose, speed = self.wire.state(message)
            self.guard.measure(messages.stamp_of(message), pose, speed, runtime.steady_now(), self.wire.effort(message))
        except Rejected as rejected:
            was_reset = rejected.reason == "jump" and self.guard.may_jump  # a simulation
            self.status.refused(rejected.reason, f"{self.wire.state_name}: {rejected}", trouble=not was_reset)
            if rejected.reason not in ("jump", "does_not_follow"):
                return
            if self.guard.state is State.STOPPED:
                self._stop(rejected.reason)
            self._tell_state()
        self._answer_late()
        self._decide()

    def _answer(self, stamp: int) -> None:
        """Hold the pose for a command that is not carried out: whoever gave it waits for what becomes of it."""
        try:
            self._send(self.guard.hold(stamp, runtime.steady_now()))
        except Rejected:
            self._unanswered = stamp

    def _answer_late(self) -> None:
        """Hold the pose for the command that came when none was known."""
        if self._unanswered is not None:
            with contextlib.suppress(Rejected):
                self._send(self.guard.hold(self._unanswered, runtime.steady_now()))
                self._unanswered = None

    def _on_command(self, message: Any, info: dict[str, Any]) -> None:
        stamp = messages.to_stamp(message.header.stamp)
        try:
            self.speakers.hear(info.get("publication_sequence_number"), runtime.steady_now())
        except Rejected as rejected:
            self._emergency(rejected)
            self._answer(stamp)
            return
        if self._waiting is not None:
            self._refuse(self._waiting[0].stamp, Rejected("superseded", "a newer command came before the joint states were new enough"))
            self._waiting = None
        if self.wire.asks_to_stop(message):
            self._refuse(stamp, Rejected("stop_asked", "whoever commands asks for a stop"))
            return
        try:
            self._waiting = self.wire.command(message), runtime.steady_now()
        except Rejected as rejected:
            self._refuse(stamp, rejected)
            return
        self._decide()

    def _on_heartbeat(self, message: Header, info: dict[str, Any]) -> None:
        """Its own; another one's is of a second graph."""
        try:
            self.guards.hear(info.get("publication_sequence_number"), runtime.steady_now())
        except Rejected:
            if self.guard.state is not State.STOPPED:
                self._emergency(Rejected("two_publishers", "two safety nodes of the same name guard the robot"))

    def _on_misfit(self, event: Any) -> None:
        self.status.refused("incompatible_qos", "somebody publishes commands as best effort, and none of them arrives: expected is reliable")

    def _on_estop(self, message: Bool, info: dict[str, Any]) -> None:
        number, stamp, publishers = info.get("publication_sequence_number"), info.get("source_timestamp", 0), self.node.count_publishers("estop")
        if self._button.hear(message.data, number, stamp, publishers):
            self._emergency(Rejected("estop", "the emergency stop was pressed"))

    def _on_estop_asked(self, request: SetBool.Request, response: SetBool.Response) -> SetBool.Response:
        if request.data:
            self._emergency(Rejected("estop", "an emergency stop was asked for"))
        response.success = request.data
        response.message = "stopped" if request.data else "an emergency stop ends by ~/reset alone"
        return response

    def _on_reset(self, request: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
        if self._button.pressed:
            response.message = "the emergency stop is still pressed on the topic estop"
            return response
        try:
            self.guard.reset()
        except Rejected as rejected:
            response.message = str(rejected)
            return response
        self.speakers = Speakers()
        if self._waiting is not None:
            self._answer(self._waiting[0].stamp)
            self._waiting = None
        self.status.publish("guarding: reset by hand")
        self._tell_state()
        response.success, response.message = True, "reset"
        return response

    # ---- what is done ---------------------------------------------------------------------------------------------------------

    def _watch(self) -> None:
        now, worked = runtime.steady_now(), time.thread_time()
        late, self._watched = max(0.0, now - self._watched - WATCH_PERIOD), now  # s for which this machine had no time for us
        stop = self.guard.watch(now)
        if stop is not None:
            if stop.command is not None:
                self._send(stop.command)
            passed = runtime.steady_now() - now
            late += max(0.0, passed - (time.thread_time() - worked))
            # since the last sign of life of what has fallen silent; first, so that whoever reads the count finds them up to date
            self._tell_state(reaction_ms=f"{1000 * (stop.waited + passed):.1f}", late_ms=f"{1000 * late:.1f}")
            self.status.refused(stop.cause.reason, f"stopped: {stop.cause}" + ("" if stop.command is not None else "; nothing was sent"))
        following = self.guard.follow(now)
        if following is not None:  # it answers no command: who listens for answers would lose them among these
            self._controller.publish(self.wire.now(following))
        self._decide()

    def _look_around(self) -> None:
        try:
            for topic in (self._commands.topic_name, self._controller.topic_name):
                publishers = self.node.get_publishers_info_by_topic(topic)
                # of a node that has just been discovered, the name is not known yet
                names = (f"{p.node_namespace.rstrip('/')}/{p.node_name}" for p in publishers if p.node_name != "_NODE_NAME_UNKNOWN_")
                self.speakers.check(names, topic)
        except Rejected as rejected:
            if self.guard.state is not State.STOPPED:
                self._emergency(rejected)
        self._tell_state()
        if self.status.ready:
            return
        listening = self._controller.get_subscription_count() > 0
        seen = self.guard.measured is not None
        missing = [text for ok, text in ((listening, "the robot's controller"), (seen, f"{self.wire.state_name}s")) if not ok]
        self.status.publish(f"waiting for {' and '.join(missing)}" if missing else "guarding", ready=not missing)

    def _decide(self) -> None:
        """Judge the waiting command as soon as a joint state as new as its plan is here, or too much time has passed."""
        if self._waiting is None:
            return
        command, arrival = self._waiting
        now, measured = runtime.steady_now(), self.guard.measured
        if (measured is None or measured.stamp < command.stamp) and now - arrival < self.guard.state_timeout:
            return
        self._waiting = None
        try:
            accepted = self.guard.judge(command, now)
        except Rejected as rejected:
            self._refuse(command.stamp, rejected)
            return
        self._send(accepted, command.time)
        self.status.counts["forwarded"] += 1
        if accepted is not command and not np.array_equal(accepted.qpos, command.qpos):
            self.status.counts["cut"] += 1
        self.status.publish("guarding")

    def _stop(self, cause: str) -> None:
        command = self.guard.stop(cause, runtime.steady_now())
        if command is not None:
            self._send(command)
        self._tell_state()

    def _emergency(self, cause: Rejected) -> None:
        self._stop(cause.reason)
        self.status.refused(cause.reason, f"stopped until it is reset: {cause}")

    def _refuse(self, stamp: int, rejected: Rejected) -> None:
        """Hold the robot first, then say why."""
        text = f"command: {rejected}"
        if rejected.reason not in PASSED_OVER:
            try:
                self._send(self.guard.hold(stamp, runtime.steady_now()))
            except Rejected as unknown_pose:
                text += f"; nothing was sent, because {unknown_pose}"
                self._unanswered = stamp
        if rejected.reason == "duplicate":  # whoever asks again has not heard it, e.g. because it was started since
            self._executed.publish(self._told)
        self._tell_state()
        self.status.refused(rejected.reason, text)

    def _send(self, command: Command, asked: Array | None = None) -> None:
        """`asked` are the times of a command that is carried out: they are told, also where the controller is given longer. It may be late, nobody else."""
        message = self.wire.now(command, more_to_come=asked is not None)
        self._controller.publish(message)
        if asked is not None and asked[-1] != command.time[-1]:
            message = self.wire.now(command._replace(time=asked))
        message.header.stamp = messages.to_time(command.stamp)
        self._executed.publish(message)
        if self.guard.repeats(command.stamp):
            self._told = message

    def _tell_state(self, **values: str) -> None:
        self.status.tell(state=str(self.guard.state), stop_cause=self.guard.stop_cause, **values)


def _guard(node: Node, wire: Wire) -> Guard | VehicleGuard:
    """Whoever judges the commands of this robot."""
    robot, box = wire.robot, _workspace(node, wire.robot)
    return Guard(Limits.of(robot), workspace=box) if isinstance(robot, ServoSpec) else VehicleGuard(robot)


def _workspace(node: Node, robot: ServoSpec | VehicleSpec) -> Workspace | None:
    """The box that the parameters state; none where they are not given.

    Raises:
        TypeError: this robot's tool is not known from its joints alone.
    """
    lower, upper = (np.array(runtime.parameter(node, f"workspace_{side}", [0.0, 0.0, 0.0]), dtype=np.float64) for side in ("lower", "upper"))
    if not (lower.any() or upper.any()):
        return None
    if not isinstance(robot, ArmSpec):
        raise TypeError(f"{robot.name} is no arm on a fixed foot: its tool can be kept in no workspace_lower and workspace_upper")
    return Workspace(robot, lower, upper)


def main() -> None:
    """Run the node."""
    runtime.run("safety", SafetyNode)


if __name__ == "__main__":
    main()
