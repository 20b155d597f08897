"""Quality of service: the profile of every kind of topic, and how a user changes it.

Besides the parameters of image topics, ROS's own ``qos_overrides./topic.subscription.depth`` and the like
(reliability, durability) hold for every topic.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from rclpy.event_handler import SubscriptionEventCallbacks
from rclpy.exceptions import ParameterException
from rclpy.lifecycle import LifecycleNode
from rclpy.node import Node
from rclpy.qos import DurabilityPolicy, QoSPolicyKind, QoSProfile, ReliabilityPolicy
from rclpy.qos_overriding_options import InvalidQosOverridesError, QoSOverridingOptions

from dust3r_ros.config import NodeConfig
from dust3r_ros.errors import ConfigError
from dust3r_ros.node.interface import TF, TF_STATIC, Quality, Topic, interface_type, qos_profile

_CHANGEABLE = (QoSPolicyKind.DEPTH, QoSPolicyKind.RELIABILITY, QoSPolicyKind.DURABILITY)


def image_profile(config: NodeConfig) -> QoSProfile:
    """Of images, masks and depth."""
    return QoSProfile(
        depth=config.image_depth,
        reliability=ReliabilityPolicy[config.image_reliability.upper()],
        durability=DurabilityPolicy.VOLATILE,
    )


def profile_of(quality: Quality) -> QoSProfile:
    """Of a row of the interface."""
    profile: QoSProfile = qos_profile(quality)
    return profile


def tf_profile(static: bool) -> QoSProfile:
    """Of /tf, or of /tf_static."""
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
    """A subscription whose profile the user may override; raises ``ConfigError`` for an override that cannot be.

    Overrides are written into ``profile``.
    """
    return _with_overrides(
        topic,
        lambda options: node.create_subscription(
            kind, topic, callback, profile, event_callbacks=events, qos_overriding_options=options
        ),
    )


def advertise(node: LifecycleNode, row: Topic, topic: str = "") -> Any:
    """A lifecycle publisher of a row, on ``topic`` instead of the row's name if given; else as ``subscribe``."""
    topic = topic or row.name
    kind, profile = interface_type(row), qos_profile(row.quality)
    return _with_overrides(
        topic, lambda options: node.create_lifecycle_publisher(kind, topic, profile, qos_overriding_options=options)
    )


def advertise_all(node: LifecycleNode, rows: Mapping[str, tuple[Topic, str]]) -> dict[str, Any]:
    """Publishers by key, of (row, topic or ""); none is left where one cannot be made, as ``advertise`` has it."""
    made: dict[str, Any] = {}
    try:
        for key, (row, topic) in rows.items():
            made[key] = advertise(node, row, topic)
    except BaseException:
        withdraw(node, made.values())
        raise
    return made


def withdraw(node: LifecycleNode, publishers: Iterable[Any]) -> None:
    """Take publishers off the node."""
    for publisher in publishers:
        node.destroy_lifecycle_publisher(publisher)


def _with_overrides(topic: str, make: Callable[[QoSOverridingOptions], Any]) -> Any:
    try:
        return make(QoSOverridingOptions(_CHANGEABLE))
    except (InvalidQosOverridesError, ParameterException, AssertionError) as error:
        # The last is of a value of another type.
        reason = str(error) or "a value of a wrong type"
        raise ConfigError(f"qos_overrides of topic '{topic}' cannot be: {reason}") from error
    except RuntimeError as error:
        if "QoS override" not in str(error):
            raise
        raise ConfigError(f"qos_overrides of topic '{topic}' cannot be: {error}") from error
