"""Sends transforms to /tf and /tf_static: by tf2_ros where it is installed, else by publishers of the same message."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from threading import Lock

from geometry_msgs.msg import TransformStamped
from rclpy.node import Node

from dust3r_ros.node.conversions import stamp_to_ns
from dust3r_ros.node.qos import tf_profile

# Transforms of ours that are known again when /tf brings them back; at 200 Hz, 20 s of them.
_REMEMBERED = 4096

_Key = tuple[str, str, int]


class TransformSender:
    """Publishes transforms for ``node``, from the first one on; lives as long as the node. For any thread."""

    def __init__(self, node: Node) -> None:
        self._node = node
        self._send: Callable[[TransformStamped], None] | None = None
        self._send_static: Callable[[list[TransformStamped]], None] | None = None
        self._static: dict[str, TransformStamped] = {}
        self._order: deque[_Key] = deque()
        self._own: set[_Key] = set()
        self._lock = Lock()

    def send(self, transform: TransformStamped) -> None:
        """Publish one transform on /tf."""
        with self._lock:
            self._remember(transform)
            if self._send is None:
                self._send = _sender(self._node)
            self._send(transform)

    def send_static(self, transforms: Sequence[TransformStamped]) -> None:
        """Publish transforms on /tf_static, with all that were sent there before and have other children."""
        with self._lock:
            for transform in transforms:
                self._remember(transform)
                self._static[transform.child_frame_id] = transform
            if self._send_static is None:
                self._send_static = _static_sender(self._node)
            self._send_static(list(self._static.values()))

    def is_own(self, transform: TransformStamped) -> bool:
        """Whether a transform that came from /tf or /tf_static was sent from here."""
        with self._lock:
            return _key(transform) in self._own

    def _remember(self, transform: TransformStamped) -> None:
        key = _key(transform)
        if key in self._own:
            return
        self._own.add(key)
        self._order.append(key)
        if len(self._order) > _REMEMBERED:
            self._own.discard(self._order.popleft())


def _key(transform: TransformStamped) -> _Key:
    header = transform.header
    return header.frame_id.lstrip("/"), transform.child_frame_id.lstrip("/"), stamp_to_ns(header.stamp)


def _sender(node: Node) -> Callable[[TransformStamped], None]:
    try:
        from tf2_ros import TransformBroadcaster
    except ImportError:
        from tf2_msgs.msg import TFMessage

        publisher = node.create_publisher(TFMessage, "/tf", tf_profile(static=False))
        return lambda transform: publisher.publish(TFMessage(transforms=[transform]))
    return TransformBroadcaster(node).sendTransform


def _static_sender(node: Node) -> Callable[[list[TransformStamped]], None]:
    try:
        from tf2_ros import StaticTransformBroadcaster
    except ImportError:
        from tf2_msgs.msg import TFMessage

        profile = tf_profile(static=True)
        profile.depth = 1  # as tf2_ros does it: the last message holds all of a node's
        publisher = node.create_publisher(TFMessage, "/tf_static", profile)
        return lambda transforms: publisher.publish(TFMessage(transforms=transforms))
    return StaticTransformBroadcaster(node).sendTransform
