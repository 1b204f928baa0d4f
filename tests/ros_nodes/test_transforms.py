"""Where things are, as /tf says it. The type of its messages comes with an installation of ROS alone, so a stand-in with the same field is used here."""

import sys
import types
from dataclasses import dataclass, field

import pytest

pytest.importorskip("rclpy", reason="ROS 2 is not installed: pip install 'metarl[ros]'")

from geometry_msgs.msg import PoseStamped
from nav_msgs.msg import Odometry
from sensor_msgs.msg import JointState

from metarl.ros_nodes.transforms import Transforms


@dataclass
class TFMessage:
    """tf2_msgs/msg/TFMessage has this one field."""

    transforms: list = field(default_factory=list)


class Node:
    """Remembers what is published and warned of."""

    def __init__(self):
        self.said, self.warned = {}, []

    def create_publisher(self, kind, topic, quality):
        self.said[topic] = []
        assert kind is TFMessage
        return types.SimpleNamespace(publish=self.said[topic].append)

    def get_logger(self):
        return types.SimpleNamespace(warning=self.warned.append)


@pytest.fixture
def node(monkeypatch):
    module = types.ModuleType("tf2_msgs.msg")
    module.TFMessage = TFMessage
    monkeypatch.setitem(sys.modules, "tf2_msgs", types.ModuleType("tf2_msgs"))
    monkeypatch.setitem(sys.modules, "tf2_msgs.msg", module)
    return Node()


def test_a_vehicle_and_what_it_sees(node):
    transforms = Transforms(node)
    odometry = Odometry(child_frame_id="base_link")
    odometry.header.frame_id, odometry.header.stamp.sec = "odom", 7
    odometry.pose.pose.position.x, odometry.pose.pose.orientation.z, odometry.pose.pose.orientation.w = 1.5, 0.6, 0.8
    pose = PoseStamped()
    pose.header.frame_id, pose.pose.position.y = "odom", -2.0
    transforms.tell(odometry)
    transforms.tell(pose, "post")
    transforms.tell(JointState(), "not_a_place")
    (vehicle,), (post,) = (m.transforms for m in node.said["/tf"])
    assert (vehicle.header.frame_id, vehicle.child_frame_id, vehicle.header.stamp.sec) == ("odom", "base_link", 7)
    assert (vehicle.transform.translation.x, vehicle.transform.rotation.z, vehicle.transform.rotation.w) == (1.5, 0.6, 0.8)
    assert (post.header.frame_id, post.child_frame_id, post.transform.translation.y, post.transform.rotation.w) == ("odom", "post", -2.0, 1.0)


def test_two_names_of_one_frame(node):
    Transforms(node).fix("base_link", "panda_link0", 3 * 10**9)
    ((same,),) = (m.transforms for m in node.said["/tf_static"])
    assert (same.header.frame_id, same.child_frame_id, same.header.stamp.sec, same.transform.rotation.w) == ("base_link", "panda_link0", 3, 1.0)


def test_without_its_messages_it_says_so_once_and_nothing_else(monkeypatch):
    monkeypatch.setitem(sys.modules, "tf2_msgs", None)
    node = Node()
    transforms = Transforms(node)
    transforms.fix("a", "b", 0)
    transforms.tell(Odometry())
    assert not transforms.known
    assert node.said == {}
    assert len(node.warned) == 1
    assert "tf2_msgs is not installed" in node.warned[0]
