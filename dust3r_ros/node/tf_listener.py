"""What the other nodes say on /tf and /tf_static."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

from geometry_msgs.msg import TransformStamped
from rclpy.node import Node
from tf2_msgs.msg import TFMessage

from dust3r_ros.errors import GeometryError
from dust3r_ros.geometry.rigid import from_quaternion
from dust3r_ros.node.conversions import stamp_to_ns
from dust3r_ros.node.qos import subscribe, tf_profile
from dust3r_ros.node.transforms import TransformSender
from dust3r_ros.sensors.transform_buffer import TransformBuffer
from dust3r_ros.types import Array

# Who has not sent a transform for this long (s) has no claim to its child any more; static ones stay.
CLAIM_S = 10.0
# The same complaint is logged at most this often.
COMPLAIN_S = 10.0


@dataclass(frozen=True)
class _Claim:
    parent: str
    static: bool
    heard: float


class TfListener:
    """Fills ``buffer`` with what others send; transforms of ``sender``, our own, are left out."""

    def __init__(self, node: Node, sender: TransformSender) -> None:
        self._node, self._sender = node, sender
        self.buffer = TransformBuffer()
        self._claims: dict[str, _Claim] = {}
        self._subscriptions: list[Any] = []

    def subscribe(self) -> None:
        """Listen. Raises ``ConfigError`` for QoS overrides that cannot be."""
        for topic, static in (("/tf", False), ("/tf_static", True)):
            callback = self._on_static if static else self._on_moving
            self._subscriptions.append(subscribe(self._node, TFMessage, topic, callback, tf_profile(static)))

    def close(self) -> None:
        """Stop listening and forget all."""
        for subscription in self._subscriptions:
            self._node.destroy_subscription(subscription)
        self._subscriptions.clear()
        self._claims.clear()
        self.buffer = TransformBuffer()

    def parent(self, child: str) -> str | None:
        """The frame that another node gives ``child`` as its parent, None when there is none."""
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
                self._claims[child] = _Claim(parent, static, time.monotonic())
            if remark:
                self._node.get_logger().warning(remark, throttle_duration_sec=COMPLAIN_S)


def rigid_of(message: TransformStamped) -> Array:
    """``parent_T_child`` (4, 4) of a message; raises ``GeometryError`` for a rotation that is none."""
    t, q = message.transform.translation, message.transform.rotation
    return from_quaternion((t.x, t.y, t.z), (q.x, q.y, q.z, q.w))
