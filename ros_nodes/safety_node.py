"""safety: the last node before the motors. A command passes unchanged, or is refused by name and the robot brakes and holds its pose.

Subscribes `command` (JointTrajectory), the robot's joint states. Publishes to the robot's trajectory controller; `~/executed`, what was
sent with the stamp of the command that it answers; `~/status`. Parameters: robot, reach (rad), rest_speed (rad/s), state_timeout (s).
"""

from __future__ import annotations

from rclpy.node import Node
from sensor_msgs.msg import JointState
from trajectory_msgs.msg import JointTrajectory

from metarl import robots
from metarl.ros_nodes import messages, runtime
from metarl.ros_nodes.guard import Guard
from metarl.ros_nodes.limits import Command, Limits
from metarl.ros_nodes.rejection import Rejected

PASSED_OVER = ("not_newer", "superseded")  # no ground to interrupt the motion of the command that was accepted
PERIOD = 0.05  # s between two looks at the age of things


class SafetyNode:
    """Puts a Guard between a command topic and the controller."""

    finished = False

    def __init__(self, node: Node) -> None:
        self.node = node
        robot = robots.load_arm(runtime.parameter(node, "robot", "arm7"))
        settings = {name: runtime.parameter(node, name, getattr(Guard, name)) for name in ("reach", "rest_speed", "state_timeout")}
        self.status = runtime.Status(node)
        self.guard = Guard(Limits.of(robot), **settings)
        self._waiting: tuple[Command, float] | None = None  # a command, and when it came, until a joint state as new as its plan is here
        self._controller = node.create_publisher(JointTrajectory, robot.command_topic, runtime.COMMAND)
        self._executed = node.create_publisher(JointTrajectory, "~/executed", runtime.ANSWERS)
        node.create_subscription(JointTrajectory, "command", self._on_command, runtime.COMMAND)
        node.create_subscription(JointState, robot.state_topic, self._on_joint_state, runtime.STREAM_IN)
        runtime.steady_timer(node, PERIOD, self._on_timer)

    def _on_joint_state(self, message: JointState) -> None:
        try:
            qpos, qvel = messages.joint_arrays(message, self.guard.limits.joint_names)
            self.guard.measure(messages.to_stamp(message.header.stamp), qpos, qvel, runtime.steady_now())
        except Rejected as rejected:
            self.status.refused(rejected.reason, f"joint state: {rejected}")
            return
        self._decide()

    def _on_command(self, message: JointTrajectory) -> None:
        stamp = messages.to_stamp(message.header.stamp)
        if self._waiting is not None:
            self._refuse(self._waiting[0].stamp, Rejected("superseded", "a newer command came before the joint states were new enough"))
            self._waiting = None
        try:
            self._waiting = messages.command_arrays(message, self.guard.limits.joint_names), runtime.steady_now()
        except Rejected as rejected:
            self._refuse(stamp, rejected)
            return
        self._decide()

    def _on_timer(self) -> None:
        self._decide()
        if self.status.ready:
            return
        listening = self._controller.get_subscription_count() > 0
        seen = self.guard.measured is not None
        missing = [text for ok, text in ((listening, "the robot's controller"), (seen, "joint states")) if not ok]
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
        self._send(accepted)
        self.status.counts["forwarded"] += 1
        self.status.publish("guarding")

    def _refuse(self, stamp: int, rejected: Rejected) -> None:
        """Hold the robot first, then say why."""
        text = f"command: {rejected}"
        if rejected.reason not in PASSED_OVER:
            try:
                self._send(self.guard.hold(stamp, runtime.steady_now()))
            except Rejected as unknown_pose:
                text += f"; nothing was sent, because {unknown_pose}"
        self.status.refused(rejected.reason, text)

    def _send(self, command: Command) -> None:
        names = self.guard.limits.joint_names
        self._executed.publish(messages.command_message(command, names))
        self._controller.publish(messages.command_message(command._replace(stamp=0), names))  # 0: begin at once


def main() -> None:
    """Run the node."""
    runtime.run("safety", SafetyNode)


if __name__ == "__main__":
    main()
