"""A robot for fault tests, as a process of its own: follows set-points at once, is measured at 100 Hz, stamped by its clock, and never asks what for."""

import numpy as np
import rclpy
from geometry_msgs.msg import PoseStamped
from sensor_msgs.msg import JointState
from std_srvs.srv import Trigger
from trajectory_msgs.msg import JointTrajectory

from metarl import robots
from metarl.ros_nodes import messages, runtime

ARM = robots.load_arm("arm7")
PERIOD = 0.01  # s


class Measured:
    """Is measured all the time, and begins an episode whenever it is asked to."""

    finished = False

    def __init__(self, node):
        self.node = node
        node.create_service(Trigger, "~/begin_episode", self.on_begin)
        runtime.steady_timer(node, PERIOD, self.measure)

    def on_begin(self, request, response):
        response.success, response.message = True, str(self.now())
        return response

    def now(self):
        """ns of ROS's clock: the wall's, unless it is told on /clock."""
        return self.node.get_clock().now().nanoseconds


class StandIn(Measured):
    def __init__(self, node):
        self.qpos = np.array(ARM.home_qpos)
        self.status = runtime.Status(node)
        self.joints = node.create_publisher(JointState, ARM.state_topic, runtime.STREAM)
        self.targets = [node.create_publisher(PoseStamped, f"{source}/target", runtime.STREAM) for source in ("seen", "measured")]
        node.create_subscription(JointTrajectory, ARM.command_topic, self.on_command, runtime.COMMAND)
        super().__init__(node)
        self.status.publish("standing in for a robot", ready=True)

    def on_command(self, message):
        self.qpos = messages.command_arrays(message, ARM.joint_names).qpos[-1]

    def measure(self):
        stamp = self.now()
        target = PoseStamped()
        target.header.stamp, target.header.frame_id = messages.to_time(stamp), messages.BASE_FRAME
        target.pose.position.x, target.pose.position.z, target.pose.orientation.w = 0.45, 0.3, 1.0
        for publisher in self.targets:
            publisher.publish(target)
        self.joints.publish(messages.joint_state(ARM.joint_names, self.qpos, np.zeros(7), stamp))


if __name__ == "__main__":
    rclpy.logging.set_logger_level("robot", rclpy.logging.LoggingSeverity.WARN)
    runtime.run("robot", StandIn)
