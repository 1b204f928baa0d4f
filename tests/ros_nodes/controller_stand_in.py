"""A witness at the controller's topic, as a process of its own: when did the command arrive that stops the robot, or moves it again, by the steady clock?

And how much of it was the machine's fault: a heart beats on each of its cores, as often as a control loop decides, and adds up how late it is. None of the
code under test has a part in that.
"""

import os
import threading
import time

import numpy as np
import rclpy
from std_msgs.msg import Float64MultiArray

from metarl.ros_nodes import messages, runtime
from metarl.ros_nodes.wires import ArmWire, wired

PERIOD, GRAIN = 0.01, 0.001  # s between two beats; s by which a beat may be late on a machine that has nothing else to do
NOTHING = 1e-6  # of a vehicle's command
LOOP = 0.05  # s, longer than a set-point of the control loop takes, shorter than any braking


class Heart(threading.Thread):
    """Beats on one core."""

    def __init__(self, core):
        super().__init__(daemon=True)
        self.core, self.late, self.beat = core, 0.0, time.monotonic()

    def run(self):
        os.sched_setaffinity(0, {self.core})  # of this thread
        while True:
            time.sleep(PERIOD)
            self.late, self.beat = self.owed(), time.monotonic()

    def owed(self):
        """s, by how much beats were late, this one included."""
        late = time.monotonic() - self.beat - PERIOD
        return self.late + (late if late > GRAIN else 0.0)


class Witness:
    finished = False

    def __init__(self, node):
        self.wire = wired(node, runtime.parameter(node, "robot", "arm7"))
        self.changes = node.create_publisher(Float64MultiArray, "witness", runtime.ANSWERS)
        self.braked, self.moving = False, 0.0  # whether the command before was one of a stop; how far a vehicle's was from rest
        self.hearts = [Heart(core) for core in sorted(os.sched_getaffinity(0))]
        for heart in self.hearts:
            heart.start()
        node.create_subscription(self.wire.command_kind, self.wire.command_topic, self.on_command, runtime.COMMAND)

    def on_command(self, message):
        now = time.monotonic()
        command = self.wire.command(message)
        before, self.braked = self.braked, self.brakes(command)
        if self.braked != before:
            late = max(heart.owed() for heart in self.hearts)
            self.changes.publish(messages.numbers(("when", "braked", "late"), (now, float(self.braked), late)))
        if not self.braked:  # what was late before the last sign of life says nothing about the stop
            for heart in self.hearts:
                heart.late = 0.0

    def brakes(self, command):
        """Whether a command is one of a stop: for an arm by its length, for a vehicle because it leads nearer to rest, which these tests never ask for."""
        if isinstance(self.wire, ArmWire):
            return command.time[-1] > LOOP
        before, self.moving = self.moving, float(np.abs(command.qpos[-1] - self.wire.robot.rest).sum())
        return self.moving < before - NOTHING or (self.braked and self.moving <= before + NOTHING)


if __name__ == "__main__":
    rclpy.logging.set_logger_level("controller", rclpy.logging.LoggingSeverity.WARN)
    runtime.run("controller", Witness)
