"""A vehicle for fault tests, as a process of its own: sways by 5 cm where an episode begins, whatever it is told, and is measured at 100 Hz.

One that stood still would be stopped, as one that does not follow.
"""

import math

import rclpy
from robot_stand_in import Measured  # beside this file, which is run as it is

from metarl import tasks
from metarl.ros_nodes import readings, runtime
from metarl.ros_nodes.channels import channels
from metarl.ros_nodes.wires import wired
from metarl.ros_nodes.world import World


class StandIn(Measured):
    def __init__(self, node):
        task = tasks.make(runtime.parameter(node, "task", "fast_car"))
        wire, world = wired(node, task.robot_name), World(task, task.sample(1, "iid"), "mujoco", 0, lambda *_: None)
        self.says = {}  # topic -> channel, readings, publisher; judging comes before deciding
        for source, needs, found in (("measured", readings.needed_to_judge(task), world.true), ("seen", readings.needed_to_act(task), world.seen)):
            for channel in channels(wire, task, needs, source):
                self.says[channel.topic] = channel, found, node.create_publisher(channel.kind, channel.topic, runtime.STREAM)
        own = f"{wire.robot.prefix}pos"
        self.places = [(found[own], found[own].clone()) for found in (world.true, world.seen)]
        super().__init__(node)
        runtime.Status(node).publish("standing in for a vehicle", ready=True)

    def measured(self, stamp):
        for place, middle in self.places:
            place[..., 0] = middle[..., 0] + 0.05 * math.sin(3e-9 * stamp)
        return [(publisher, channel.say(found, stamp)) for channel, found, publisher in self.says.values()]


if __name__ == "__main__":
    rclpy.logging.set_logger_level("robot", rclpy.logging.LoggingSeverity.WARN)
    runtime.run("robot", StandIn)
