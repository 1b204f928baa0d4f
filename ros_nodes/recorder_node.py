"""recorder: writes a bag of all topics of the graph, with everything that a replay needs.

It finds the topics by itself, and listens to the task's events last: a trial that waits for it begins when all is recorded. The bag's metadata carry
`about` (what was chosen, as JSON); the meta-parameters file is copied beside it. What ends a recording is said by name, e.g. disk_full.
Publishes `~/status`. Services: `~/start`, `~/stop` (Trigger). Parameters: bag (folder; "": named after the date), about, start (at once), min_free (MB).
"""

from __future__ import annotations

import hashlib
import importlib
import json
import shutil
import time
from functools import partial
from pathlib import Path
from typing import Any

from rclpy.node import Node
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy
from rclpy.task import Future
from std_srvs.srv import Trigger

from metarl import meta_parameters
from metarl.ros_nodes import runtime
from metarl.ros_nodes.recording import MEGABYTE, Recording, RecordingEnded

LOOK_PERIOD, TELL_PERIOD = 0.1, 1.0  # s between two looks at which topics there are; between two reports
PASSED_OVER = ("/rosout", "/parameter_events")
QUIET, END_TIME = 0.2, 2.0  # s without a message after which there are no more to be waited for at the end; s that this may take
LAST = "task/events"
FIRST = ("adapter/used", "adapter/action", "safety/executed")  # what must be heard before LAST
POLICY = "policy.safetensors"  # the copy's name


class RecorderNode:
    """Puts a Recording behind ROS topics."""

    finished = False

    def __init__(self, node: Node) -> None:
        self.node = node
        self._bag, self._about = node.declare_parameter("bag", "").value, runtime.parameter(node, "about", "{}")
        self._min_free = round(runtime.number(node, "min_free", 200.0, high=1e15) * MEGABYTE)
        begin = runtime.parameter(node, "start", False)
        json.loads(self._about)
        self.recording: Recording | None = None
        self._heard: dict[str, Any] = {}  # topic -> subscription
        self.status = runtime.Status(node)
        node.create_service(Trigger, "~/start", self._on_start)
        node.create_service(Trigger, "~/stop", self._on_stop)
        runtime.steady_timer(node, LOOK_PERIOD, self._look)
        runtime.steady_timer(node, TELL_PERIOD, self._tell)
        if begin:
            self._start()
        else:
            self.status.publish("not recording: waiting for start", ready=True)

    # ---- what is asked for ------------------------------------------------------------------------------------------------

    def _on_start(self, request: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
        if self.recording is not None:
            response.message = f"recording {self.recording.folder} already"
            return response
        try:
            self._start()
        except (OSError, ValueError, RecordingEnded) as error:
            self.status.refused(getattr(error, "reason", "write_failed"), str(error))
            response.message = str(error)
            return response
        assert self.recording is not None
        response.success, response.message = True, str(self.recording.folder)
        return response

    def _on_stop(self, request: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
        if self.recording is None:
            response.message = "nothing is being recorded"
            return response
        folder, count = self.recording.folder, self.recording.counts.total()
        response.success = self._end()
        response.message = f"{folder}: {count} messages"
        return response

    def _start(self) -> None:
        folder = Path(self._bag or f"rosbag2_metarl_{time.strftime('%Y-%m-%d_%H-%M-%S')}").resolve()
        policy, about = json.loads(self._about).get("policy", ""), {"about": self._about}
        if policy:
            file = meta_parameters.resolve(policy)
            about["policy_sha256"] = hashlib.sha256(file.read_bytes()).hexdigest()
        self.recording = Recording(folder, about, self._min_free)
        if policy:
            shutil.copyfile(file, folder / POLICY)
        self.status.publish(f"recording {folder}", ready=True)

    # ---- what is heard ----------------------------------------------------------------------------------------------------

    def _look(self) -> None:
        """Listen to topics that have come up; to the task's events when all else is heard."""
        if self.recording is None:
            return
        prefix = self.node.get_namespace().rstrip("/") + "/"
        found = {name: kinds[0] for name, kinds in self.node.get_topic_names_and_types() if name.startswith(prefix) or name == "/clock"}
        for topic, kind in sorted(found.items(), key=lambda item: item[0] == prefix + LAST):
            if topic in self._heard or topic in PASSED_OVER or topic.startswith(prefix + self.node.get_name() + "/"):
                continue
            if topic == prefix + LAST and not all(prefix + first in self._heard for first in FIRST):
                continue
            self._listen(topic, kind)

    def _listen(self, topic: str, kind: str) -> None:
        publishers = self.node.get_publishers_info_by_topic(topic)
        if not publishers:
            return
        assert self.recording is not None
        package, _, name = kind.partition("/msg/")
        try:
            message_kind = getattr(importlib.import_module(f"{package}.msg"), name)
        except (ImportError, AttributeError):
            message_kind = None
        if message_kind is None or not self.recording.knows(kind):
            self._heard[topic] = None
            self.status.refused("unknown_type", f"{topic} is of type {kind}, which is not known here: it is not recorded")
            return
        quality = QoSProfile(depth=1000)
        if any(p.qos_profile.reliability == ReliabilityPolicy.BEST_EFFORT for p in publishers):
            quality.reliability = ReliabilityPolicy.BEST_EFFORT
        if all(p.qos_profile.durability == DurabilityPolicy.TRANSIENT_LOCAL for p in publishers):
            quality.durability = DurabilityPolicy.TRANSIENT_LOCAL
        self._heard[topic] = self.node.create_subscription(message_kind, topic, partial(self._take, topic, kind), quality, raw=True)

    def _take(self, topic: str, kind: str, data: bytes) -> None:
        if self.recording is None:
            return
        try:
            self.recording.write(topic, kind, data)
        except RecordingEnded as ended:
            self._ended(ended)

    def _ended(self, ended: RecordingEnded) -> None:
        self.recording = None
        self.status.publish("not recording", ready=False)
        self.status.refused(ended.reason, f"the recording has ended: {ended}")

    def _tell(self) -> None:
        if self.recording is not None:
            self.status.counts["messages"] = self.recording.counts.total()
            self.status.counts["topics"] = len(self.recording.counts)
            self.status.publish(f"recording {self.recording.folder}", ready=True)

    def close(self) -> None:
        """The process ends: what was said before still comes into the bag, also where this machine had no time for it."""
        executor, end, count = self.node.executor, runtime.steady_now() + END_TIME, -1
        assert executor is not None, "this node is being spun"
        while self.recording is not None and self.recording.counts.total() != count and runtime.steady_now() < end:
            count = self.recording.counts.total()
            executor.spin_until_future_complete(Future(), timeout_sec=QUIET)  # which never is
        self._end()

    def _end(self) -> bool:
        """End the bag; whether it is whole."""
        recording, self.recording = self.recording, None
        if recording is None:
            return True
        try:
            recording.close()
        except RecordingEnded as ended:
            self._ended(ended)
            return False
        self.status.publish(f"recorded {recording.folder}: {recording.counts.total()} messages", ready=True)
        return True


def main() -> None:
    """Run the node."""
    runtime.run("recorder", RecorderNode)


if __name__ == "__main__":
    main()
