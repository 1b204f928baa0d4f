"""A robot for fault tests, as a process of its own: follows set-points at once, is measured at 100 Hz, stamped by its clock, and never asks what for.

Its parameters `lost` and `late` may change at any time: part of the measurements that nobody hears of, and s by which the others come late.
"""

import random
from collections import deque

import numpy as np
import rclpy
from geometry_msgs.msg import PoseStamped
from rcl_interfaces.msg import SetParametersResult
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
        self.node, self.chance, self.on_the_way = node, random.Random(0), deque()
        self.lost, self.late = (node.declare_parameter(name, 0.0).value for name in ("lost", "late"))
        node.add_on_set_parameters_callback(self.on_parameters)
        node.create_service(Trigger, "~/begin_episode", self.on_begin)
        runtime.steady_timer(node, PERIOD, self.tick)

    def on_parameters(self, parameters):
        for parameter in parameters:
            setattr(self, parameter.name, parameter.value)
        return SetParametersResult(successful=True)

    def tick(self):
        now = runtime.steady_now()
        if self.chance.random() >= self.lost:
            self.on_the_way.append((now + self.late, self.measured(self.now())))
        while self.on_the_way and self.on_the_way[0][0] <= now:
            for publisher, message in self.on_the_way.popleft()[1]:
                publisher.publish(message)

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

    def measured(self, stamp):
        target = PoseStamped()
        target.header.stamp, target.header.frame_id = messages.to_time(stamp), messages.BASE_FRAME
        target.pose.position.x, target.pose.position.z, target.pose.orientation.w = 0.45, 0.3, 1.0
        joints = messages.joint_state(ARM.joint_names, self.qpos, np.zeros(7), stamp)
        return [*((publisher, target) for publisher in self.targets), (self.joints, joints)]


if __name__ == "__main__":
    rclpy.logging.set_logger_level("robot", rclpy.logging.LoggingSeverity.WARN)
    runtime.run("robot", StandIn)
