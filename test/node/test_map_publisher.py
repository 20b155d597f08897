"""The grid on ~/grid as the map grows and begins anew."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
from true_map import room_walk, true_keyframes

from dust3r_ros.config import NodeConfig
from dust3r_ros.node.conversions import stamp_to_ns
from dust3r_ros.node.map_changes import Changed
from dust3r_ros.node.map_publisher import MAP_TOPICS, GridMap, MapPublisher
from dust3r_ros.types import MapUpdate, TrackingState

STAMP_NS = 3_000_000_005


class Bench:
    """A publisher of the map whose messages on some topics are collected in ``sent``."""

    def __init__(self, *heard: str) -> None:
        self.sent: dict[str, list[Any]] = {key: [] for key in heard}
        self.said: list[str] = []
        self.live = {"map_period": 0.0, "map_stride": 2, "min_confidence": 1.5, "map_max_points": 10**6}
        config = SimpleNamespace(fusion=False, dense=True)
        self.mapper: Any = SimpleNamespace(keyframes=[], config=config, edges=(), path=lambda camera, most: [])
        topics = dict.fromkeys(MAP_TOPICS, SimpleNamespace(is_activated=False)) | {
            key: SimpleNamespace(is_activated=True, get_subscription_count=lambda: 1, publish=messages.append)
            for key, messages in self.sent.items()
        }
        self.publisher = MapPublisher(topics, NodeConfig(), self.live.__getitem__, "camera", self.said.append)

    def note(self, changed: list[Any]) -> None:
        update = MapUpdate(STAMP_NS, "camera", TrackingState.TRACKING, np.eye(4), changed=tuple(changed))
        self.publisher.note(update)

    def publish(self) -> bool:
        """Publish without a rest, and wait until it is done."""
        self.publisher._rest_until = 0.0
        done = self.publisher.publish(self.mapper, STAMP_NS)
        if self.publisher._job is not None:
            self.publisher._job.result()
        return done

    def show(self, changed: list[Any]) -> bool:
        self.note(changed)
        return self.publish()


def test_the_grid_of_a_map_that_began_anew_is_one_unknown_cell() -> None:
    """nav2 keeps what it has where a grid has no cells."""
    keyframes = tuple(true_keyframes(room_walk()))
    grid = GridMap(NodeConfig())
    assert grid.message(Changed(whole=True), STAMP_NS, "map") is None, "there was no grid to take back"
    shown = grid.message(Changed(keyframes, whole=True), STAMP_NS, "map")
    assert shown is not None and shown.info.width * shown.info.height > 1000
    emptied = grid.message(Changed(whole=True), STAMP_NS, "map")
    assert emptied is not None and (emptied.info.width, emptied.info.height, list(emptied.data)) == (1, 1, [-1])
    assert emptied.info.resolution > 0 and emptied.header.frame_id == "map"
    assert stamp_to_ns(emptied.header.stamp) == STAMP_NS == stamp_to_ns(emptied.info.map_load_time)
    assert grid.message(Changed(whole=True), STAMP_NS, "map") is None
    again = grid.message(Changed(keyframes, whole=True), STAMP_NS, "map")
    assert again is not None and np.array_equal(again.data, shown.data)


def test_a_grid_that_is_cut_says_which_resolution_fits() -> None:
    keyframes = true_keyframes(room_walk())
    away = np.eye(4)
    away[0, 3] = 300.0
    far = [replace(keyframe, index=100 + keyframe.index, w_T_c=away @ keyframe.w_T_c) for keyframe in keyframes]
    bench = Bench("grid")
    publisher, said, sent = bench.publisher, bench.said, bench.sent["grid"]

    def show(changed: list[Any]) -> None:
        bench.mapper.keyframes += changed
        bench.note(changed)
        while publisher._pending("grid"):
            bench.publish()

    show(keyframes)
    assert publisher.problem == "" and said == [] and len(sent) >= 1
    show(far)
    assert max(sent[-1].info.width, sent[-1].info.height) <= 4000
    assert said and "cells of 0.05, at most 4000 x 4000 are made; a resolution of 0.08" in said[0]
    assert publisher.problem.endswith(" fits (grid_resolution)") and len(said) == 1, "once"
    publisher.close()


def test_between_two_publications_of_the_map_only_tiles_are_sent() -> None:
    first, second, third = [[keyframe] for keyframe in true_keyframes(room_walk())[:3]]
    bench = Bench(*MAP_TOPICS)
    sent, bench.live["map_period"] = bench.sent, 3600.0

    def show(changed: list[Any]) -> bool:
        bench.mapper.keyframes += changed
        return bench.show(changed)

    assert show(first) and all(len(messages) == 1 for messages in sent.values())
    assert not show(second), "the rest is held back"
    assert len(sent.pop("map_tiles")) == 2 and all(len(messages) == 1 for messages in sent.values())
    bench.live["map_period"] = 0.0
    assert show(third) and all(len(messages) == 2 for messages in sent.values())
    bench.publisher.close()


def test_a_map_that_is_rebuilt_is_shown_until_the_new_one_is_there() -> None:
    keyframes = true_keyframes(room_walk())
    bare = [replace(keyframe, depth=np.zeros_like(keyframe.depth), version=2) for keyframe in keyframes]
    bench = Bench("map")
    show, sent, bench.mapper.keyframes = bench.show, bench.sent["map"], keyframes
    assert show(keyframes) and len(sent) == 1 and sent[-1].width > 1000
    assert not show(bare) and len(sent) == 1, "to be published later"
    assert show(keyframes) and len(sent) == 2 and sent[-1].width == sent[0].width
    bench.publisher.forget()
    bench.mapper.keyframes = bare
    assert show([]) and len(sent) == 3 and sent[-1].width == 0, "another map, without depth yet"
    bench.publisher.close()
