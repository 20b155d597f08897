"""Subscriptions that take what publishers offer: reliable where all of them are, else best effort.

The middleware settles ``best_available`` once, when a subscription is made: with nobody there it becomes reliable, and
a best-effort publisher that comes later would never be heard. Here it is settled again whenever publishers change.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from rclpy.event_handler import SubscriptionEventCallbacks
from rclpy.node import Node
from rclpy.qos import QoSPolicyKind, QoSProfile, ReliabilityPolicy

from dust3r_ros.node.qos import subscribe


class FollowingSubscription:
    """A subscription whose reliability, where it is ``best_available``, follows the publishers of its topic.

    Any other reliability, also one by an override, stays. Raises ``ConfigError`` for an override that cannot be.
    ``reliability`` is how it is made at the moment. For the executor's thread.
    """

    def __init__(
        self, node: Node, kind: type, topic: str, callback: Callable[[Any], None], profile: QoSProfile
    ) -> None:
        self._node, self._kind, self._topic, self._callback = node, kind, topic, callback
        self._settings = {name: getattr(profile, name) for name in ("depth", "durability", "reliability")}
        self._make()

    def follow(self) -> bool:
        """Settle the reliability again where publishers have changed; returns whether it had to be."""
        if not self._follows or self.reliability is self._offered():
            return False
        self.close()
        self._make()
        return True

    def close(self) -> None:
        """Listen no more."""
        self._node.destroy_subscription(self._subscription)

    def _make(self) -> None:
        profile = QoSProfile(**self._settings)  # each its own: overrides write into it
        offered = self._offered()
        self._subscription: Any = subscribe(
            self._node,
            self._kind,
            self._topic,
            self._callback,
            profile,
            SubscriptionEventCallbacks(incompatible_qos=self._incompatible),
        )
        self._follows = profile.reliability is ReliabilityPolicy.BEST_AVAILABLE
        self.reliability = offered if self._follows else profile.reliability

    def _incompatible(self, event: Any) -> None:
        """A publisher came that this subscription cannot hear."""
        if self._follows and event.last_policy_kind == QoSPolicyKind.RELIABILITY:
            self.close()
            self._make()
        else:
            self._node.get_logger().warning(
                f"a publisher on {self._topic} is not heard: it offers another quality of service than"
                f" '{self.reliability.name.lower()}'; 'best_available' takes what it offers"
            )

    def _offered(self) -> ReliabilityPolicy:
        """What a subscription made now becomes, by the rule of ``rmw_dds_common``."""
        publishers = self._node.get_publishers_info_by_topic(self._topic)
        reliable = all(info.qos_profile.reliability is ReliabilityPolicy.RELIABLE for info in publishers)
        return ReliabilityPolicy.RELIABLE if reliable else ReliabilityPolicy.BEST_EFFORT
