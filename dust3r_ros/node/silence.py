"""Why nothing comes on a topic: what is published there, and what is published elsewhere."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches
from typing import Any

from rclpy.node import Node
from rclpy.qos import DurabilityPolicy, ReliabilityPolicy

_NAMED = 5  # topics at most
_ALIKE = 0.5  # of difflib's ratio
_IMAGES = {"sensor_msgs/msg/Image": "raw", "sensor_msgs/msg/CompressedImage": "compressed"}


def why_silent(node: Node, topic: str, wanted: str, reliability: ReliabilityPolicy) -> str:
    """A sentence's end: why a subscription to ``topic`` (full name) hears nothing.

    ``wanted``: the type that is subscribed, such as sensor_msgs/msg/Image; ``reliability``: with which it was made.
    """
    offers = node.get_publishers_info_by_topic(topic)
    if not offers:
        return f"nobody publishes it; {_elsewhere(node, topic, wanted)}"
    fitting = [offer for offer in offers if offer.topic_type == wanted]
    if not fitting:
        other = offers[0].topic_type
        cure = f"; set image_transport to {_IMAGES[other]}" if other in _IMAGES and wanted in _IMAGES else ""
        return f"{_publishers(offers)} it as {other}, but {wanted} is subscribed{cure}"
    deaf = reliability is ReliabilityPolicy.RELIABLE and all(
        offer.qos_profile.reliability is ReliabilityPolicy.BEST_EFFORT for offer in fitting
    )
    if deaf:
        return f"{_publishers(fitting)} it best effort, but reliable is subscribed; best_available takes what there is"
    return f"{_publishers(fitting)} it ({_quality(fitting[0].qos_profile)}) and sends nothing"


def _publishers(offers: Iterable[Any]) -> str:
    names = sorted({f"{offer.node_namespace.rstrip('/')}/{offer.node_name}" for offer in offers})
    return f"{names[0]} publishes" if len(names) == 1 else f"{', '.join(names[:_NAMED])} publish"


def _quality(profile: Any) -> str:
    words = profile.reliability.name, DurabilityPolicy(profile.durability).name
    return ", ".join(word.lower().replace("_", " ") for word in words)


def _elsewhere(node: Node, topic: str, wanted: str) -> str:
    """Topics that have publishers and carry what is wanted, those with names alike first."""
    kinds = set(_IMAGES) if wanted in _IMAGES else {wanted}
    there = {
        name: types[0]
        for name, types in node.get_topic_names_and_types()
        if kinds & {*types} and node.count_publishers(name)
    }
    what = "images" if wanted in _IMAGES else wanted
    if not there:
        return f"no topic carries {what} at the moment"
    alike = get_close_matches(topic, there, _NAMED, _ALIKE)
    named = [*alike, *sorted(name for name in there if name not in alike)][:_NAMED]
    return f"{what} are on " + ", ".join(f"{name} ({there[name].rpartition('/')[2]})" for name in named)
