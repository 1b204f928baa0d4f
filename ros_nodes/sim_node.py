"""sim: a simulated robot in a hidden task, behind the topics of a real one. The only node that knows a simulator.

Subscribes to the robot's trajectory controller. Publishes its joint states; `seen/BODY` and `seen/BODY_twist`, what its miscalibrated
camera makes of each body; `measured/BODY` and `measured/BODY_twist`, the truth, for whoever judges. Offers `~/begin_episode` (Trigger),
whose message is the stamp in ns from which on readings belong to the new episode. Time passes only while a command is carried out,
but every repetition is stamped 1 ns later: it shows that the robot is still there.
Parameters: task, simulator, split, index, seed.
"""

from __future__ import annotations

import time
from typing import Any

import torch
from geometry_msgs.msg import PoseStamped, TwistStamped
from rclpy.node import Node
from sensor_msgs.msg import JointState
from std_srvs.srv import Trigger
from torch import Tensor
from trajectory_msgs.msg import JointTrajectory

from metarl import tasks
from metarl.ros_nodes import messages, readings, runtime
from metarl.ros_nodes.limits import Limits, check_form
from metarl.ros_nodes.rejection import Rejected
from metarl.ros_nodes.world import World

JOINT_STATE_PERIOD, BODY_PERIOD = 0.02, 0.1  # s between repetitions while nothing happens
FRAME, TICK = 40_000_000, 1_000_000  # ns of simulated time: between two frames; from one episode to the next


class SimNode:
    """Puts a World behind ROS topics."""

    finished = False

    def __init__(self, node: Node) -> None:
        self.node = node
        torch.set_num_threads(1)
        task = tasks.make(runtime.parameter(node, "task", "arm_slide"))
        split, index = runtime.parameter(node, "split", "iid"), runtime.parameter(node, "index", 0)
        simulator, seed = runtime.parameter(node, "simulator", "pybullet"), runtime.parameter(node, "seed", 0)
        self.world = World(task, task.sample(1, split, start=index), simulator, seed, self._on_frame)
        self.robot, self.limits = task.arm, Limits.of(task.arm)
        self._stamp = time.time_ns()  # so that it also grows from one start of this node to the next
        self._joints = self._now()
        self._bodies: dict[str, Any] = {}
        self.status = runtime.Status(node)
        self._joint_states = node.create_publisher(JointState, self.robot.state_topic, runtime.STREAM)
        node.create_subscription(JointTrajectory, self.robot.command_topic, self._on_command, runtime.COMMAND)
        node.create_service(Trigger, "~/begin_episode", self._on_begin)
        runtime.steady_timer(node, JOINT_STATE_PERIOD, self._repeat_joints)
        runtime.steady_timer(node, BODY_PERIOD, self._publish_bodies)
        self._publish()
        self.status.publish(f"simulating {task.robot_name} in {simulator}", ready=True)

    def _on_begin(self, request: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
        self.world.begin_episode()
        self._stamp += TICK
        self._publish()
        response.success, response.message = True, str(self._stamp)
        return response

    def _on_command(self, message: JointTrajectory) -> None:
        try:
            command = messages.command_arrays(message, self.robot.joint_names)
            check_form(self.limits, command)
            trajectory = messages.to_trajectory(command)
        except Rejected as rejected:
            self.status.refused(rejected.reason, f"command: {rejected}")
            return
        begun, duration = self._stamp, float(command.time[-1])
        self.world.execute(trajectory)
        if not self.world.at_rest:  # the simulator has waited as long as the task allows
            duration += self.world.task.settle_time
        self._stamp = max(self._stamp, begun + round(duration * 1e9))
        self._publish()

    def _on_frame(self, qpos: Tensor, qvel: Tensor) -> None:
        self._stamp += FRAME
        self._joints = qpos, qvel
        self._publish_joints()

    def _publish(self) -> None:
        """Everything there is to sense, now."""
        self._joints = self._now()
        self._publish_joints()
        self._publish_bodies()

    def _now(self) -> tuple[Tensor, Tensor]:
        return self.world.true["qpos"][0], self.world.true["qvel"][0]

    def _repeat_joints(self) -> None:
        self._stamp += 1
        self._publish_joints()

    def _publish_joints(self) -> None:
        qpos, qvel = (x.double().numpy() for x in self._joints)
        self._joint_states.publish(messages.joint_state(self.robot.joint_names, qpos, qvel, self._stamp))

    def _publish_bodies(self) -> None:
        for source, found in (("seen", self.world.seen), ("measured", self.world.true)):
            for body, parts in readings.bodies(tuple(found)).items():
                self._publisher(PoseStamped, f"{source}/{body}").publish(messages.pose(found, body, self._stamp))
                if "linvel" in parts:
                    self._publisher(TwistStamped, f"{source}/{body}_twist").publish(messages.twist(found, body, self._stamp))

    def _publisher(self, kind: type[Any], topic: str) -> Any:
        """The publisher of a topic, made when it is first needed."""
        if topic not in self._bodies:
            self._bodies[topic] = self.node.create_publisher(kind, topic, runtime.STREAM)
        return self._bodies[topic]


def main() -> None:
    """Run the node."""
    runtime.run("sim", SimNode)


if __name__ == "__main__":
    main()
