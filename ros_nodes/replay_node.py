"""replay: makes a bag's adaptation again, and plays its topics: ends with exit status 0 where every action is the recorded one, bit for bit.

Publishes the bag's topics, unless the rate is 0, all of them under `replay/`, where no robot, guard or clock listens: commands of yesterday move nothing
today. And `~/status`. Parameters: bag (folder), policy (other meta-parameters), rate (0: at once).
"""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import torch
from rclpy.node import Node
from rclpy.serialization import deserialize_message

from metarl.ros_nodes import runtime
from metarl.ros_nodes.replay import loop_of, read, replay

AHEAD, LEAVE = 0.01, 0.2  # s between two looks at what is due; that the last message has to go out
FASTEST = 1e6  # times as fast as it was
PLACE = "replay"  # in front of every topic, relative: a recorded name is absolute, and would reach the robot itself, past its safety node


class ReplayNode:
    """Compares at once, then plays."""

    def __init__(self, node: Node) -> None:
        torch.set_num_threads(1)
        self.node, self.finished = node, False
        self._folder, self._rate = Path(runtime.parameter(node, "bag", "")), runtime.number(node, "rate", 0.0, high=FASTEST)
        policy = node.declare_parameter("policy", "").value
        self.status = runtime.Status(node)
        bag = read(self._folder)
        found = replay(loop_of(bag, policy), bag)
        if found.difference:
            raise RuntimeError(f"the replay is not what was recorded: {found.difference}")
        self.status.publish(f"replayed {found.decisions} decisions in {found.episodes} episodes: every action is the recorded one", ready=True)
        if self._rate <= 0:
            self.finished = True
            return
        self._publishers: dict[str, Any] = {}
        self._messages = self._stored()
        self._next = next(self._messages, None)
        self._began = self._last = runtime.steady_now()
        self._first = self._next[2] if self._next is not None else 0
        runtime.steady_timer(node, AHEAD, self._play)

    def _stored(self) -> Any:
        """Topic, type, ns and bytes of each message."""
        from rosbags.rosbag2 import Reader

        with Reader(self._folder) as reader:
            for connection, stamp, data in reader.messages():
                yield connection.topic, connection.msgtype, stamp, bytes(data)

    def _play(self) -> None:
        played = (runtime.steady_now() - self._began) * self._rate * 1e9
        while self._next is not None and self._next[2] - self._first <= played:
            topic, kind, _, data = self._next
            if topic not in self._publishers:
                package, _, name = kind.partition("/msg/")
                message_kind = getattr(importlib.import_module(f"{package}.msg"), name)
                self._publishers[topic] = message_kind, self.node.create_publisher(message_kind, f"{PLACE}/{topic.lstrip('/')}", runtime.HISTORY)
            message_kind, publisher = self._publishers[topic]
            publisher.publish(deserialize_message(data, message_kind))
            self._next = next(self._messages, None)
            self._last = runtime.steady_now()
        # never by sleeping here: an executor whose timer is always due again comes to nothing else, not even to its end
        self.finished = self._next is None and runtime.steady_now() - self._last > LEAVE


def main() -> None:
    """Run the node."""
    runtime.run("replay", ReplayNode)


if __name__ == "__main__":
    main()
