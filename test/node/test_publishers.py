"""The points of ~/map: whose they are, which of them are computed anew, and that nobody is made to wait."""

from __future__ import annotations

import threading
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

import dust3r_ros.node.map_publisher as module
from dust3r_ros.cloud.cloud import Cloud, map_cloud
from dust3r_ros.config import MapperConfig, NodeConfig
from dust3r_ros.errors import ConfigError
from dust3r_ros.node.map_publisher import MapPublisher
from dust3r_ros.types import Keyframe, MapUpdate, StampedPose, TrackingState

HEIGHT, WIDTH = 24, 32


class _Topic:
    is_activated = True

    def __init__(self) -> None:
        self.sent: list = []
        self.listeners = 1

    def get_subscription_count(self) -> int:
        return self.listeners

    def publish(self, message: object) -> None:
        self.sent.append(message)


class Bench:
    """A publisher of a node that is not there, its topics, and a mapper that is not there either."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, **live: object) -> None:
        self.errors: list[str] = []

        self.topics = {key: _Topic() for key in module.MAP_TOPICS}
        monkeypatch.setattr(module, "_REST", 0.0)
        self.live = {"map_period": 0.0, "map_stride": 1, "min_confidence": 1.5, "map_max_points": 10**6, **live}
        self.publisher = MapPublisher(self.topics, NodeConfig(), self.live.__getitem__, "camera", self.errors.append)
        self.listen("map")

    def listen(self, *topics: str) -> None:
        for name, topic in self.topics.items():
            topic.listeners = int(name in topics)

    def publish(self, mapper: SimpleNamespace) -> None:
        self.publisher.publish(mapper, 7)
        if self.publisher._job is not None:
            self.publisher._job.exception(10)

    def shown(self, mapper: SimpleNamespace) -> int:
        """How many points ~/map has when it is published."""
        self.publish(mapper)
        return self.topics["map"].sent[-1].width


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch):
    made = Bench(monkeypatch)
    yield made
    made.publisher.close()
    assert made.errors == []


def wall(index: int, depth: float, version: int = 1) -> Keyframe:
    """A wall at ``depth``, seen from places beside each other."""
    w_T_c = np.eye(4)
    w_T_c[0, 3] = 0.2 * index
    image = np.full((HEIGHT, WIDTH, 3), 90, np.uint8)
    known = np.full((HEIGHT, WIDTH), depth, np.float32)
    return Keyframe(index, version, index, "camera", w_T_c, 30.0, image, known, np.full_like(known, 3.0))


def mapper(keyframes: list[Keyframe], **config: object) -> SimpleNamespace:
    landmarks = Cloud(np.ones((5, 3), np.float32), np.zeros((5, 3), np.uint8), np.full(5, 2, np.float32))
    poses = [StampedPose(k, camera, np.eye(4)) for k, camera in enumerate(["camera", "other", "camera"])]
    return SimpleNamespace(
        keyframes=tuple(keyframes),
        config=MapperConfig(**config),
        landmarks=lambda: landmarks,
        path=lambda camera, most: [pose for pose in poses if pose.camera == camera][-most:],
        edges=[(0, 1, 2.0)],
    )


def changed(*keyframes: Keyframe, removed: tuple[int, ...] = ()) -> MapUpdate:
    return MapUpdate(0, "camera", TrackingState.TRACKING, changed=keyframes, removed=removed)


def test_all_points_or_what_keyframes_agree_on(bench) -> None:
    keyframes = [wall(index, 2.0 if index else 0.8) for index in range(6)]
    everything = len(map_cloud(keyframes, 1.5))
    assert bench.shown(mapper(keyframes)) == everything == 6 * HEIGHT * WIDTH
    bench.publisher.forget()
    agreed = bench.shown(mapper(keyframes, fusion=True))
    assert everything - HEIGHT * WIDTH <= agreed < everything - 0.5 * HEIGHT * WIDTH, "the others see through one"


def test_landmarks_where_no_depth_is_made(bench) -> None:
    keyframes = [replace(wall(0, 2.0), depth=np.zeros((HEIGHT, WIDTH), np.float32))]
    assert bench.shown(mapper(keyframes, dense=False)) == 5


def test_only_what_changed_is_computed_and_only_then_something_is_sent(bench, monkeypatch) -> None:
    computed = []
    cloud = module.keyframe_cloud
    monkeypatch.setattr(module, "keyframe_cloud", lambda k, *more: computed.append(k.index) or cloud(k, *more))
    source = mapper([wall(0, 2.0), wall(1, 2.0)])
    assert bench.shown(source) == 2 * HEIGHT * WIDTH
    bench.publish(source)
    assert len(bench.topics["map"].sent) == 1
    empty = replace(wall(1, 2.0), depth=np.zeros((HEIGHT, WIDTH), np.float32))
    bench.publisher.note(changed(empty, wall(5, 2.0)))
    assert bench.shown(source) == 2 * HEIGHT * WIDTH
    assert computed == [0, 1, 1, 5]
    bench.publisher.note(changed(removed=(0, 5)))
    assert bench.shown(source) == 0


def test_a_parameter_that_changes_shows_at_once(bench) -> None:
    source = mapper([wall(0, 2.0)])
    assert bench.shown(source) == HEIGHT * WIDTH
    bench.live["map_stride"] = 2
    assert bench.shown(source) == HEIGHT * WIDTH / 4
    bench.live["map_max_points"] = 50
    assert 25 < bench.shown(source) <= 50
    bench.live["min_confidence"] = 5.0
    assert bench.shown(source) == 0


def test_nobody_listens_nothing_is_asked_or_kept(bench) -> None:
    bench.listen()

    class Untouchable:
        def __getattr__(self, name):
            raise AssertionError(f"the mapper was asked for {name}")

    bench.publisher.publish(Untouchable(), 7)
    bench.publisher.note(changed(wall(0, 2.0)))
    bench.publisher.publish(Untouchable(), 7)
    assert all(changes._changed == {} for changes in bench.publisher._changes.values())
    bench.listen("map")
    assert bench.shown(mapper([wall(0, 2.0), wall(1, 2.0)])) == 2 * HEIGHT * WIDTH


def test_tiles_go_to_whoever_comes(bench) -> None:
    bench.listen("map_tiles")
    tiles, source = bench.topics["map_tiles"], mapper([wall(0, 2.0), wall(1, 2.0)])
    bench.publish(source)
    assert [tile.width for tile in tiles.sent] == [HEIGHT * WIDTH] * 2
    bench.publish(source)
    assert len(tiles.sent) == 2
    bench.publisher.note(changed(wall(1, 3.0)))
    bench.publish(source)
    assert len(tiles.sent) == 3
    tiles.listeners = 2
    bench.publish(source)
    assert len(tiles.sent) == 5, "who comes late gets all"


def test_path_graph_and_grid(bench) -> None:
    bench.listen("path", "graph", "grid")
    source = mapper([wall(0, 2.0), wall(1, 2.0)])
    bench.publish(source)
    (path,) = bench.topics["path"].sent
    assert len(path.poses) == 2, "of the first camera"
    (markers,) = bench.topics["graph"].sent
    _, nodes, lines, *numbers = markers.markers
    assert len(nodes.points) == len(lines.points) == len(numbers) == 2
    assert bench.topics["map"].sent == []


def test_the_mapper_never_waits(bench, monkeypatch) -> None:
    """While a slow publication is under way, publish returns at once and what changes goes out later."""
    begun, may_end = threading.Event(), threading.Event()
    cloud = module.keyframe_cloud

    def slow(keyframe, *more):
        begun.set()
        assert may_end.wait(10)
        return cloud(keyframe, *more)

    monkeypatch.setattr(module, "keyframe_cloud", slow)
    source = mapper([wall(0, 2.0)])
    bench.publisher.publish(source, 7)
    assert begun.wait(10)
    bench.publisher.note(changed(wall(1, 2.0)))
    bench.publisher.publish(source, 8)
    assert bench.topics["map"].sent == []
    may_end.set()
    bench.publisher._job.result(10)
    assert bench.shown(source) == 2 * HEIGHT * WIDTH


def test_the_end_waits_for_what_was_not_begun(bench) -> None:
    may_begin = threading.Event()
    bench.publisher._thread.submit(may_begin.wait)
    bench.publisher.publish(mapper([wall(0, 2.0)]), 7)
    threading.Timer(0.1, may_begin.set).start()
    bench.publisher.close()
    assert bench.topics["map"].sent[-1].width == HEIGHT * WIDTH


def test_a_failure_is_reported_and_the_next_map_is_whole(bench, monkeypatch) -> None:
    cloud = module.keyframe_cloud
    monkeypatch.setattr(module, "keyframe_cloud", lambda keyframe, *more: 1 / 0)
    source = mapper([wall(0, 2.0)])
    bench.publish(source)
    monkeypatch.setattr(module, "keyframe_cloud", cloud)
    assert bench.shown(source) == HEIGHT * WIDTH
    (error,) = bench.errors
    assert "ZeroDivisionError" in error
    bench.errors.clear()


def test_heights_of_the_grid_that_cannot_be_are_refused() -> None:
    config = NodeConfig(grid_min_height=2.0, grid_max_height=1.0)
    with pytest.raises(ConfigError, match="below max_height"):
        MapPublisher({}, config, {}.__getitem__, "camera", print)
