"""Quality of service: profiles by kind of topic, overrides by users, and why nothing is received.

The middleware resolves ``best_available`` once, when a subscription is made: without publishers it becomes reliable,
and a later best-effort publisher would never be heard. Here it is resolved again whenever publishers change.

Besides the parameters for image topics, ROS's own ``qos_overrides./topic.subscription.depth`` and the like
(reliability, durability) apply to every topic.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from difflib import get_close_matches
from typing import Any

from rclpy.event_handler import PublisherEventCallbacks, SubscriptionEventCallbacks
from rclpy.exceptions import ParameterException
from rclpy.lifecycle import LifecycleNode
from rclpy.node import Node
from rclpy.qos import DurabilityPolicy, QoSPolicyKind, QoSProfile, ReliabilityPolicy
from rclpy.qos_overriding_options import InvalidQosOverridesError, QoSOverridingOptions

from dust3r_ros.config import NodeConfig
from dust3r_ros.errors import ConfigError
from dust3r_ros.node.interface import TF, TF_STATIC, Quality, Topic, interface_type, qos_profile


class FollowingSubscription:
    """A subscription whose reliability, if ``best_available``, follows the publishers of its topic.

    Any other reliability is kept, including one from an override. Raises ``ConfigError`` for an invalid override.
    ``reliability`` is the current one. For the executor's thread.
    """

    def __init__(
        self, node: Node, kind: type, topic: str, callback: Callable[[Any], None], profile: QoSProfile
    ) -> None:
        self._node, self._kind, self.topic, self._callback = node, kind, topic, callback
        self._settings = {name: getattr(profile, name) for name in ("depth", "durability", "reliability")}
        self._make()

    def follow(self) -> bool:
        """Resolve the reliability again if publishers have changed; returns whether it changed."""
        if not self._follows or self.reliability is self._offered():
            return False
        self.close()
        self._make()
        return True

    @property
    def type_name(self) -> str:
        """The message type, such as sensor_msgs/msg/Image."""
        package, _, _ = self._kind.__module__.partition(".")
        return f"{package}/msg/{self._kind.__name__}"

    def close(self) -> None:
        """Unsubscribe."""
        self._node.destroy_subscription(self._subscription)

    def _make(self) -> None:
        profile = QoSProfile(**self._settings)  # a new one each time: overrides write into it
        offered = self._offered()
        self._subscription: Any = subscribe(
            self._node,
            self._kind,
            self.topic,
            self._callback,
            profile,
            SubscriptionEventCallbacks(incompatible_qos=self._incompatible),
        )
        self._follows = profile.reliability is ReliabilityPolicy.BEST_AVAILABLE
        self.reliability = offered if self._follows else profile.reliability

    def _incompatible(self, event: Any) -> None:
        """Handle a publisher that this subscription cannot hear."""
        if self._follows and event.last_policy_kind == QoSPolicyKind.RELIABILITY:
            self.close()
            self._make()
        else:
            self._node.get_logger().warning(
                f"a publisher on {self.topic} cannot be heard: it does not offer the quality of service"
                f" '{self.reliability.name.lower()}'; 'best_available' accepts what it offers"
            )

    def _offered(self) -> ReliabilityPolicy:
        """What ``best_available`` would become now, by the rule of ``rmw_dds_common``."""
        publishers = self._node.get_publishers_info_by_topic(self.topic)
        reliable = all(info.qos_profile.reliability is ReliabilityPolicy.RELIABLE for info in publishers)
        return ReliabilityPolicy.RELIABLE if reliable else ReliabilityPolicy.BEST_EFFORT


def full_topic(node: Node, topic: str) -> str:
    """The full name of a topic; raises ``ConfigError`` if ROS does not accept it."""
    try:
        return str(node.resolve_topic_name(topic))
    except RuntimeError as error:
        reason = str(error).removeprefix("failed to resolve name: ").partition(", at ")[0]
        raise ConfigError(f"'{topic}' is not a topic name: {reason}") from error


_CHANGEABLE = (QoSPolicyKind.DEPTH, QoSPolicyKind.RELIABILITY, QoSPolicyKind.DURABILITY)


def image_profile(config: NodeConfig) -> QoSProfile:
    """The profile for images, masks and depth."""
    return QoSProfile(
        depth=config.image_depth,
        reliability=ReliabilityPolicy[config.image_reliability.upper()],
        durability=DurabilityPolicy.VOLATILE,
    )


def profile_of(quality: Quality) -> QoSProfile:
    """The profile for a row of the interface."""
    profile: QoSProfile = qos_profile(quality)
    return profile


def tf_profile(static: bool) -> QoSProfile:
    """The profile for /tf or /tf_static."""
    profile: QoSProfile = qos_profile(TF_STATIC if static else TF)
    return profile


def subscribe(
    node: Node,
    kind: type,
    topic: str,
    callback: Callable[[Any], None],
    profile: QoSProfile,
    events: SubscriptionEventCallbacks | None = None,
) -> Any:
    """A subscription whose profile the user may override; raises ``ConfigError`` for an invalid override.

    Overrides are written into ``profile``.
    """
    return _with_overrides(
        topic,
        lambda options: node.create_subscription(
            kind, topic, callback, profile, event_callbacks=events, qos_overriding_options=options
        ),
    )


def advertise(node: LifecycleNode, row: Topic, topic: str = "") -> Any:
    """A lifecycle publisher for a row, on ``topic`` or the row's name; overrides and errors as ``subscribe``."""
    topic = topic or row.name
    kind, profile = interface_type(row), qos_profile(row.quality)
    # Subscribers say themselves that they cannot hear a publisher, and the executor looks at each handler of events at
    # each wake-up: two for each publisher took a good part of its time.
    events = PublisherEventCallbacks(use_default_callbacks=False)
    return _with_overrides(
        topic,
        lambda options: node.create_lifecycle_publisher(
            kind, topic, profile, event_callbacks=events, qos_overriding_options=options
        ),
    )


def advertise_all(node: LifecycleNode, rows: Mapping[str, tuple[Topic, str]]) -> dict[str, Any]:
    """Publishers by key for (row, topic or ""), each by ``advertise``; if one fails, all are removed."""
    made: dict[str, Any] = {}
    try:
        for key, (row, topic) in rows.items():
            made[key] = advertise(node, row, topic)
    except BaseException:
        withdraw(node, made.values())
        raise
    return made


def withdraw(node: LifecycleNode, publishers: Iterable[Any]) -> None:
    """Destroy publishers."""
    for publisher in publishers:
        node.destroy_lifecycle_publisher(publisher)


def _with_overrides(topic: str, make: Callable[[QoSOverridingOptions], Any]) -> Any:
    try:
        return make(QoSOverridingOptions(_CHANGEABLE))
    except (InvalidQosOverridesError, ParameterException, AssertionError) as error:
        # An AssertionError means a value of the wrong type.
        reason = str(error) or "a value has the wrong type"
        raise ConfigError(f"qos_overrides of topic '{topic}' are not valid: {reason}") from error
    except RuntimeError as error:
        if "QoS override" not in str(error):
            raise
        raise ConfigError(f"qos_overrides of topic '{topic}' are not valid: {error}") from error


_NAMED = 5  # topics at most
_ALIKE = 0.5  # difflib's ratio
_IMAGES = {"sensor_msgs/msg/Image": "raw", "sensor_msgs/msg/CompressedImage": "compressed"}


def why_silent(node: Node, topic: str, wanted: str, reliability: ReliabilityPolicy) -> str:
    """Why a subscription to ``topic`` (full name) receives nothing, as the second half of a sentence.

    ``wanted``: the subscribed type, such as sensor_msgs/msg/Image; ``reliability``: that of the subscription.
    """
    offers = node.get_publishers_info_by_topic(topic)
    if not offers:
        return f"nobody publishes it; {_elsewhere(node, topic, wanted)}"
    fitting = [offer for offer in offers if offer.topic_type == wanted]
    if not fitting:
        other = offers[0].topic_type
        cure = f"; set image_transport to {_IMAGES[other]}" if other in _IMAGES and wanted in _IMAGES else ""
        return f"{_publishers(offers)} it as {other}, but the subscription is {wanted}{cure}"
    deaf = reliability is ReliabilityPolicy.RELIABLE and all(
        offer.qos_profile.reliability is ReliabilityPolicy.BEST_EFFORT for offer in fitting
    )
    if deaf:
        return f"{_publishers(fitting)} it best effort, but the subscription is reliable; best_available accepts both"
    return f"{_publishers(fitting)} it ({_quality(fitting[0].qos_profile)}) and sends nothing"


def _publishers(offers: Iterable[Any]) -> str:
    names = sorted({f"{offer.node_namespace.rstrip('/')}/{offer.node_name}" for offer in offers})
    return f"{names[0]} publishes" if len(names) == 1 else f"{', '.join(names[:_NAMED])} publish"


def _quality(profile: Any) -> str:
    words = profile.reliability.name, DurabilityPolicy(profile.durability).name
    return ", ".join(word.lower().replace("_", " ") for word in words)


def _elsewhere(node: Node, topic: str, wanted: str) -> str:
    """Topics of the wanted type from other nodes, those with similar names first."""
    kinds = set(_IMAGES) if wanted in _IMAGES else {wanted}
    there = {
        name: types[0]
        for name, types in node.get_topic_names_and_types()
        if kinds & {*types} and _from_others(node, name)
    }
    what = "images" if wanted in _IMAGES else wanted
    if not there:
        return f"no topic carries {what} at the moment"
    alike = get_close_matches(topic, there, _NAMED, _ALIKE)
    named = [*alike, *sorted(name for name in there if name not in alike)][:_NAMED]
    return f"{what} are on " + ", ".join(f"{name} ({there[name].rpartition('/')[2]})" for name in named)


def _from_others(node: Node, topic: str) -> bool:
    """Whether another node publishes ``topic``."""
    own = node.get_name(), node.get_namespace()
    return any((offer.node_name, offer.node_namespace) != own for offer in node.get_publishers_info_by_topic(topic))
