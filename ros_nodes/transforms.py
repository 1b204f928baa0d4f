"""Where things are, for whoever looks at the robot with ROS's own tools: /tf and /tf_static, where tf2_msgs is installed. Nothing here listens to them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from geometry_msgs.msg import PoseStamped, TransformStamped
from nav_msgs.msg import Odometry
from rclpy.qos import QoSProfile

from metarl.ros_nodes.messages import to_time
from metarl.ros_nodes.runtime import LATCHED

if TYPE_CHECKING:
    from rclpy.node import Node

MOVING = QoSProfile(depth=100)  # as ROS's own broadcasters say it


class Transforms:
    """Tells transforms, or says once why it cannot.

    Args:
        node: that tells.

    Attributes:
        known: whether tf2_msgs is there.
    """

    def __init__(self, node: Node) -> None:
        try:
            from tf2_msgs.msg import TFMessage
        except ModuleNotFoundError:
            self.known = False
            node.get_logger().warning("tf2_msgs is not installed (it comes with an installation of ROS, not with pip): nothing is said on /tf")
            return
        self.known, self._kind = True, TFMessage
        self._moving, self._fixed = node.create_publisher(TFMessage, "/tf", MOVING), node.create_publisher(TFMessage, "/tf_static", LATCHED)

    def fix(self, parent: str, child: str, stamp: int) -> None:
        """Two names of one frame."""
        if self.known:
            same = TransformStamped(child_frame_id=child)
            same.header.frame_id, same.header.stamp = parent, to_time(stamp)
            same.transform.rotation.w = 1.0
            self._fixed.publish(self._kind(transforms=[same]))

    def tell(self, message: Any, body: str = "") -> None:
        """Where an Odometry's child frame is, or the `body` of a PoseStamped; other messages say nothing of the kind."""
        if not self.known or not isinstance(message, Odometry | PoseStamped):
            return
        pose = message.pose.pose if isinstance(message, Odometry) else message.pose
        moved = TransformStamped(header=message.header, child_frame_id=message.child_frame_id if isinstance(message, Odometry) else body)
        shift, place = moved.transform.translation, pose.position
        shift.x, shift.y, shift.z = place.x, place.y, place.z
        moved.transform.rotation = pose.orientation
        self._moving.publish(self._kind(transforms=[moved]))
