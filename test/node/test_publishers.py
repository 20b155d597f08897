"""The points of ~/map: whose they are, which of them are computed anew."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import numpy as np

from dust3r_ros.alignment.cloud import Cloud, map_cloud
from dust3r_ros.config import MapperConfig
from dust3r_ros.node.publishers import Publishers
from dust3r_ros.types import Keyframe

HEIGHT, WIDTH = 24, 32


class _Publisher:
    is_activated = True

    def __init__(self) -> None:
        self.sent: list = []

    def get_subscription_count(self) -> int:
        return 1

    def publish(self, message: object) -> None:
        self.sent.append(message)


def made(**live: object) -> tuple[Publishers, _Publisher]:
    """Publishers of a node that is not there, and the one of ~/map."""
    topics: dict[str, _Publisher] = {}

    def create(kind: type, topic: str, qos: object) -> _Publisher:
        return topics.setdefault(topic, _Publisher())

    values = {"map_stride": 1, "min_confidence": 1.5, **live}
    node = SimpleNamespace(create_lifecycle_publisher=create)
    publishers = Publishers(node, "map", "camera_info", SimpleNamespace(), values.__getitem__)
    return publishers, topics["~/map"]


def wall(index: int, depth: float, version: int = 1) -> Keyframe:
    """A wall at ``depth``, seen from places beside each other."""
    w_T_c = np.eye(4)
    w_T_c[0, 3] = 0.2 * index
    image = np.full((HEIGHT, WIDTH, 3), 90, np.uint8)
    known = np.full((HEIGHT, WIDTH), depth, np.float32)
    return Keyframe(index, version, index, "camera", w_T_c, 30.0, image, known, np.full_like(known, 3.0))


def mapper(keyframes: list[Keyframe], **config: object) -> SimpleNamespace:
    landmarks = Cloud(np.ones((5, 3), np.float32), np.zeros((5, 3), np.uint8), np.full(5, 2, np.float32))
    return SimpleNamespace(keyframes=tuple(keyframes), config=MapperConfig(**config), landmarks=lambda: landmarks)


def shown(publishers: Publishers, topic: _Publisher, source: SimpleNamespace) -> int:
    """How many points ~/map has when the map is published anew."""
    publishers._stale = {"map"}
    publishers.map(source, 7)
    return topic.sent[-1].width


def test_all_points_or_what_keyframes_agree_on() -> None:
    keyframes = [wall(index, 2.0 if index else 0.8) for index in range(6)]
    everything = len(map_cloud(keyframes, 1.5))
    publishers, topic = made()
    assert shown(publishers, topic, mapper(keyframes)) == everything == 6 * HEIGHT * WIDTH
    publishers, topic = made()
    agreed = shown(publishers, topic, mapper(keyframes, fusion=True))
    assert everything - HEIGHT * WIDTH <= agreed < everything - 0.5 * HEIGHT * WIDTH, "the others see through one"


def test_landmarks_where_no_depth_is_made() -> None:
    keyframes = [replace(wall(0, 2.0), depth=np.zeros((HEIGHT, WIDTH), np.float32))]
    publishers, topic = made()
    assert shown(publishers, topic, mapper(keyframes, dense=False)) == 5


def test_keyframes_of_a_known_version_are_not_computed_again() -> None:
    publishers, topic = made()
    assert shown(publishers, topic, mapper([wall(0, 2.0)])) == HEIGHT * WIDTH
    empty = replace(wall(0, 2.0), depth=np.zeros((HEIGHT, WIDTH), np.float32))
    assert shown(publishers, topic, mapper([empty])) == HEIGHT * WIDTH
    assert shown(publishers, topic, mapper([replace(empty, version=2)])) == 0
    assert shown(publishers, topic, mapper([])) == 0
