"""/tf and /tf_static: receives other nodes' transforms and sends our own."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from threading import Lock
from typing import Any

from geometry_msgs.msg import TransformStamped
from rclpy.node import Node
from tf2_msgs.msg import TFMessage

from dust3r_ros.errors import GeometryError
from dust3r_ros.geometry.rigid import from_quaternion
from dust3r_ros.node.conversions import stamp_to_ns
from dust3r_ros.node.qos import subscribe, tf_profile
from dust3r_ros.sensors.transform_buffer import MAX_FRAMES, TransformBuffer
from dust3r_ros.types import Array

# Number of our own transforms remembered, to recognise them on /tf; at 200 Hz, 20 s.
_REMEMBERED = 4096

_Key = tuple[str, str, int]


class TransformSender:
    """Publishes transforms for ``node``; creates publishers on first use and keeps them. For any thread."""

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
        """Publish transforms on /tf_static, together with earlier ones of other children."""
        with self._lock:
            for transform in transforms:
                self._remember(transform)
                self._static[transform.child_frame_id] = transform
            if self._send_static is None:
                self._send_static = _static_sender(self._node)
            self._send_static(list(self._static.values()))

    def is_own(self, transform: TransformStamped) -> bool:
        """Whether a received transform was sent by this sender."""
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
        profile.depth = 1  # as in tf2_ros: the last message holds all transforms of a node
        publisher = node.create_publisher(TFMessage, "/tf_static", profile)
        return lambda transforms: publisher.publish(TFMessage(transforms=transforms))
    return StaticTransformBroadcaster(node).sendTransform


# A parent not sent again for this long (s) no longer counts; static ones stay.
CLAIM_S = 10.0
# Minimum time (s) between repeats of a complaint in the log.
COMPLAIN_S = 10.0


@dataclass(frozen=True)
class _Claim:
    parent: str
    static: bool
    heard: float


class TfListener:
    """Fills ``buffer`` with other nodes' transforms; our own, from ``sender``, are left out."""

    def __init__(self, node: Node, sender: TransformSender) -> None:
        self._node, self._sender = node, sender
        self.buffer = TransformBuffer()
        self._claims: dict[str, _Claim] = {}
        self._subscriptions: list[Any] = []

    def subscribe(self) -> None:
        """Subscribe. Raises ``ConfigError`` for invalid QoS overrides."""
        for topic, static in (("/tf", False), ("/tf_static", True)):
            callback = self._on_static if static else self._on_moving
            self._subscriptions.append(subscribe(self._node, TFMessage, topic, callback, tf_profile(static)))

    def close(self) -> None:
        """Unsubscribe and forget everything."""
        for subscription in self._subscriptions:
            self._node.destroy_subscription(subscription)
        self._subscriptions.clear()
        self._claims.clear()
        self.buffer = TransformBuffer()

    def parent(self, child: str) -> str | None:
        """The parent of ``child`` published by another node, None if there is none."""
        claim = self._claims.get(child.lstrip("/"))
        if claim is None or not (claim.static or time.monotonic() - claim.heard < CLAIM_S):
            return None
        return claim.parent

    def _on_moving(self, message: TFMessage) -> None:
        self._take(message, static=False)

    def _on_static(self, message: TFMessage) -> None:
        self._take(message, static=True)

    def _take(self, message: TFMessage, static: bool) -> None:
        for transform in message.transforms:
            if self._sender.is_own(transform):
                continue
            parent, child = transform.header.frame_id.lstrip("/"), transform.child_frame_id.lstrip("/")
            try:
                remark = self.buffer.add(
                    parent, child, stamp_to_ns(transform.header.stamp), rigid_of(transform), static
                )
            except GeometryError as error:
                remark = f"transform '{parent}' -> '{child}' is refused: {error}"
            else:
                self._claim(parent, child, static)
            if remark:
                self._node.get_logger().warning(remark, throttle_duration_sec=COMPLAIN_S)

    def _claim(self, parent: str, child: str, static: bool) -> None:
        """Remember who gives ``child`` a parent, also where that closes a loop; not what all of TF ignores."""
        known = self._claims.get(child)
        ignored = not parent or not child or parent == child
        if ignored or (known is None and len(self._claims) >= MAX_FRAMES):
            return
        if known is None or static or not known.static or known.parent == parent:  # a static parent stays
            self._claims[child] = _Claim(parent, static, time.monotonic())


def rigid_of(message: TransformStamped) -> Array:
    """``parent_T_child`` (4, 4) of a message; raises ``GeometryError`` for an invalid rotation."""
    t, q = message.transform.translation, message.transform.rotation
    return from_quaternion((t.x, t.y, t.z), (q.x, q.y, q.z, q.w))
