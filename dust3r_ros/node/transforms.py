"""Sends transforms to /tf: by tf2_ros where it is installed, else by a publisher of the same message."""

from __future__ import annotations

from collections.abc import Callable

from geometry_msgs.msg import TransformStamped
from rclpy.node import Node
from rclpy.qos import QoSProfile


class TransformSender:
    """Publishes transforms on /tf for ``node``, from the first one on; lives as long as the node."""

    def __init__(self, node: Node) -> None:
        self._node = node
        self._send: Callable[[TransformStamped], None] | None = None

    def send(self, transform: TransformStamped) -> None:
        """Publish one transform."""
        if self._send is None:
            self._send = _sender(self._node)
        self._send(transform)


def _sender(node: Node) -> Callable[[TransformStamped], None]:
    try:
        from tf2_ros import TransformBroadcaster
    except ImportError:
        from tf2_msgs.msg import TFMessage

        # As tf2_ros does it: an absolute topic, reliable, volatile, depth 100.
        publisher = node.create_publisher(TFMessage, "/tf", QoSProfile(depth=100))
        return lambda transform: publisher.publish(TFMessage(transforms=[transform]))
    return TransformBroadcaster(node).sendTransform
