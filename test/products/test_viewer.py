"""The viewer, as a browser's end of it gets the map: what changed, the newest state only, and an end with the run."""

from __future__ import annotations

import socket
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from true_map import moved, room_walk, true_keyframes

from dust3r_ros.cloud.cloud import Cloud, keyframe_cloud
from dust3r_ros.config import MapperConfig, NodeConfig
from dust3r_ros.errors import BackendError, ConfigError, OutputError
from dust3r_ros.geometry.similarity import Similarity
from dust3r_ros.products import viewer_scene
from dust3r_ros.products.viewer import Viewer
from dust3r_ros.types import Camera, Keyframe, MapCounts, MapUpdate, TrackingState

ANY = "127.0.0.1:0"


@pytest.fixture
def viewer() -> Iterator[Viewer]:
    pytest.importorskip("viser", reason="viser (extra viewer) is not installed")
    with Viewer(ANY) as viewer:
        yield viewer


@pytest.fixture
def connected(viewer: Viewer) -> Iterator[Any]:
    from viser_client import Client

    with Client(viewer.url) as client:
        yield client


@pytest.fixture
def keyframes() -> list[Keyframe]:
    return [replace(k, camera="front/left") for k in true_keyframes(room_walk("sweep", 12))[:5]]


def mapper(**changes: Any) -> Any:
    """What a viewer asks of a mapper."""
    known = {"edges": [(0, 1, 9.0), (1, 2, 8.0), (2, 77, 1.0)], "counts": MapCounts(frames=9, keyframes=5, pairs=7)}
    return SimpleNamespace(**{**known, "config": MapperConfig(), **changes})


def update(keyframe: Keyframe, changed: list[Keyframe], removed: tuple[int, ...] = ()) -> MapUpdate:
    camera = Camera("front/left", 320, 240, 2 * keyframe.focal, 1.5, 7)
    return MapUpdate(
        keyframe.stamp_ns, "front/left", TrackingState.TRACKING, keyframe.w_T_c, None, keyframe.index,
        tuple(changed), removed, {"front/left": camera},
    )  # fmt: skip


def points_of(client: Any, index: int) -> np.ndarray:
    return client.nodes[f"/points/{index}"]["points"].reshape(-1, 3)


def test_a_browser_gets_points_keyframes_path_camera_graph_and_words(viewer, connected, keyframes) -> None:
    for keyframe in keyframes:
        viewer.show(update(keyframe, [keyframe]), mapper(), keyframe.image, metric=True)
    connected.wait_for(lambda c: "/points/4" in c.nodes and "/cameras/front_left" in c.nodes, "the map")
    for keyframe in keyframes:
        own = keyframe_cloud(replace(keyframe, w_T_c=np.eye(4)), 1.5, 2)
        assert np.allclose(points_of(connected, keyframe.index), own.points, rtol=1e-3, atol=1e-3)
        for name in ("points", "keyframes"):
            assert np.allclose(connected.places[f"/{name}/{keyframe.index}"], keyframe.w_T_c[:3, 3])
        assert connected.nodes[f"/keyframes/{keyframe.index}"]["_image_data"]
    connected.wait_for(lambda c: c.nodes["/path/front_left"]["points"].size == 4 * 2 * 3, "a path of four steps")
    assert connected.nodes["/graph/pairs"]["points"].size == 2 * 2 * 3  # a keyframe that is not there has no pair
    assert "/graph" in connected.hidden  # until it is asked for
    connected.wait_for(lambda c: np.allclose(c.places["/cameras/front_left"], keyframes[4].w_T_c[:3, 3]), "the camera")
    for words in ("**tracking**", "9 frames", "5 keyframes, 7 pairs", "lengths in metres", "265.6 ± 1.5 px"):
        assert words in connected.text


def test_what_only_moves_sends_no_points_again(viewer, connected, keyframes) -> None:
    viewer.show(update(keyframes[0], keyframes), mapper())
    connected.wait_for(lambda c: "/points/4" in c.nodes, "the map")
    shifted = moved(keyframes, Similarity(1.0, np.eye(3), np.ones(3)))
    deeper = replace(shifted[2], depth=shifted[2].depth * np.float32(1.1))
    viewer.show(update(keyframes[1], [shifted[1], deeper], removed=(3, 77)), mapper())
    connected.wait_for(lambda c: "/points/3" not in c.nodes and c.made["/points/2"] == 2, "the change")
    assert "/keyframes/3" not in connected.nodes
    assert np.allclose(connected.places["/points/1"], keyframes[1].w_T_c[:3, 3] + 1)
    assert [connected.made[f"/points/{index}"] for index in range(5)] == [1, 1, 2, 1, 1]
    assert np.allclose(points_of(connected, 2)[:, 2].max(), 1.1 * keyframes[2].depth[::2, ::2].max(), rtol=1e-3)
    viewer.show(update(keyframes[3], [keyframes[3]]), mapper())
    connected.wait_for(lambda c: "/points/3" in c.nodes, "a keyframe that is back, with its points")


def test_another_map_takes_the_place_of_all_that_was_there(viewer, connected, keyframes) -> None:
    viewer.begin(keyframes[:3])
    connected.wait_for(lambda c: "/path/front_left" in c.nodes and "/points/2" in c.nodes, "the map")
    viewer.begin([replace(keyframes[4], camera="rear")])
    connected.wait_for(lambda c: "/points/4" in c.nodes and "/points/2" not in c.nodes, "the other map")
    assert not {"/keyframes/0", "/path/front_left"} & connected.nodes.keys()


def test_who_comes_late_gets_the_map_as_it_stands(viewer, connected, keyframes) -> None:
    from viser_client import Client

    viewer.show(update(keyframes[0], keyframes), mapper(), keyframes[0].image)
    shifted = moved(keyframes, Similarity(1.0, np.eye(3), np.ones(3)))
    viewer.show(update(keyframes[0], shifted[:1], removed=(4,)), mapper(), keyframes[0].image)
    connected.wait_for(lambda c: "/points/3" in c.nodes and "/points/4" not in c.nodes, "the change")
    with Client(viewer.url) as late:
        late.wait_for(lambda c: "/points/3" in c.nodes and c.text.startswith("**tracking**"), "the same map")
        assert "/points/4" not in late.nodes
        assert np.allclose(late.places["/points/0"], shifted[0].w_T_c[:3, 3])


def test_a_camera_that_is_lost_is_not_shown_where_it_was(viewer, connected, keyframes) -> None:
    seen = update(keyframes[0], keyframes[:1])
    viewer.show(seen, mapper(), keyframes[0].image)
    connected.wait_for(lambda c: "/cameras/front_left" in c.nodes, "the camera")
    assert "/cameras/front_left" not in connected.hidden
    viewer.show(replace(seen, w_T_c=None, state=TrackingState.LOST), mapper(), keyframes[1].image)
    connected.wait_for(lambda c: "/cameras/front_left" in c.hidden and "**lost**" in c.text, "it is lost")
    viewer.show(seen, mapper(), keyframes[0].image)
    connected.wait_for(lambda c: "/cameras/front_left" not in c.hidden, "it is there again")


def test_a_camera_between_keyframes_is_shown_where_it_is(viewer, connected, keyframes) -> None:
    seen = update(keyframes[0], keyframes[:1])
    viewer.show(replace(seen, w_T_c=None), mapper(), keyframes[0].image)
    viewer.move("front/left", keyframes[1].w_T_c, seen.cameras["front/left"])
    connected.wait_for(lambda c: "/cameras/front_left" in c.nodes, "the camera, which had no pose with its image")
    assert np.allclose(connected.places["/cameras/front_left"], keyframes[1].w_T_c[:3, 3])
    viewer.move("front/left", keyframes[2].w_T_c, seen.cameras["front/left"])
    there = keyframes[2].w_T_c[:3, 3]
    connected.wait_for(lambda c: np.allclose(c.places["/cameras/front_left"], there), "it has moved")


def test_without_depth_landmarks_are_shown(viewer, connected, keyframes) -> None:
    blind = replace(keyframes[0], depth=np.full_like(keyframes[0].depth, np.nan))
    cloud = Cloud(np.ones((6, 3), np.float32), np.full((6, 3), 9, np.uint8), np.ones(6, np.float32))
    sparse = mapper(config=MapperConfig(dense=False), landmarks=lambda: cloud)
    viewer.show(update(blind, [blind]), sparse, np.zeros((3, 2000, 3), np.uint8))
    connected.wait_for(lambda c: "/landmarks" in c.nodes, "landmarks")
    assert connected.nodes["/landmarks"]["points"].size == 18
    assert "/keyframes/0" in connected.nodes and "/points/0" not in connected.nodes


def test_a_large_map_is_thinned(monkeypatch: pytest.MonkeyPatch, viewer, connected, keyframes) -> None:
    monkeypatch.setattr(viewer_scene, "MAX_POINTS", 4000)
    for keyframe in keyframes:
        viewer.show(update(keyframe, [keyframe]), mapper())

    def points(client: Any) -> int:
        return sum(len(points_of(client, index)) for index in range(5) if f"/points/{index}" in client.nodes)

    connected.wait_for(lambda c: "/points/4" in c.nodes and points(c) <= 4000, "a thinner map")
    assert points(connected) > 1000 and {f"/points/{index}" for index in range(5)} <= connected.nodes.keys()


def test_nobody_waits_for_the_viewer_and_it_shows_the_newest(monkeypatch, viewer, connected, keyframes) -> None:
    free, shown, show = threading.Event(), [], viewer._scene.show

    def slow(news: viewer_scene.News) -> None:
        free.wait(60)
        shown.append(news)
        show(news)

    monkeypatch.setattr(viewer._scene, "show", slow)
    begin = time.monotonic()
    for count in range(300):
        far = replace(keyframes[0], w_T_c=np.eye(4) + np.array([[0.0, 0, 0, count]] * 4) * [[1], [0], [0], [0]])
        viewer.show(update(far, [far]), mapper(), far.image)
    assert time.monotonic() - begin < 20.0  # waiting for one of them would take 60 s
    free.set()
    connected.wait_for(lambda c: c.places.get("/points/0", np.zeros(3))[0] == 299, "the newest place")
    assert len(shown) <= 3 and connected.made["/points/0"] <= 2


def test_a_scene_that_fails_does_not_end_the_run(monkeypatch, viewer, connected, keyframes, caplog) -> None:
    show = viewer._scene.show

    def broken(news: viewer_scene.News) -> None:
        monkeypatch.setattr(viewer._scene, "show", show)
        raise RuntimeError("no such scene")

    monkeypatch.setattr(viewer._scene, "show", broken)
    viewer.show(update(keyframes[0], keyframes[:1]), mapper())
    while "no such scene" not in caplog.text:
        time.sleep(0.01)
    viewer.show(update(keyframes[1], keyframes[1:2]), mapper())
    connected.wait_for(lambda c: "/points/1" in c.nodes, "what came after")


def test_it_ends_with_the_run_and_shows_the_last_state_before(viewer, connected, keyframes) -> None:
    with urllib.request.urlopen(viewer.url, timeout=30) as page:
        assert page.status == 200 and b"<html" in page.read()
    connected.wait_for(lambda c: c.text, "the connection")  # else the server may end before it knows of it
    viewer.show(update(keyframes[0], keyframes[:1]), mapper())
    viewer.close()
    viewer.close()
    connected.wait_for(lambda c: c.closed, "the end")
    assert "/points/0" in connected.nodes
    assert not [thread.name for thread in threading.enumerate() if thread.name == "viewer"]
    viewer.show(update(keyframes[0], keyframes), mapper())  # after the end: nothing, and no error
    with socket.create_server(("127.0.0.1", int(viewer.url.rpartition(":")[2]))):
        pass  # the port is free again


def test_only_this_machine_is_served_by_default(viewer) -> None:
    assert NodeConfig().viewer_address.partition(":")[0] == "127.0.0.1"
    tables = Path("/proc/net/tcp"), Path("/proc/net/tcp6")
    if not tables[0].exists():
        pytest.skip("needs Linux's table of connections")
    port = f"{int(viewer.url.rpartition(':')[2]):04X}"
    lines = [line.split() for table in tables if table.exists() for line in table.read_text().splitlines()[1:]]
    listening = [line[1] for line in lines if line[3] == "0A" and line[1].endswith(f":{port}")]
    assert listening == [f"0100007F:{port}"]


def test_where_the_port_is_taken_the_next_free_one_is() -> None:
    pytest.importorskip("viser", reason="viser (extra viewer) is not installed")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with Viewer(f"127.0.0.1:{port}") as viewer:
            assert port < int(viewer.url.rpartition(":")[2]) <= port + 19


@pytest.mark.parametrize("address", ["", "localhost", "localhost:http", "localhost:99999", "1.2.3.4:-1"])
def test_what_is_no_address_is_refused(address: str) -> None:
    with pytest.raises(ConfigError, match=r"it must be HOST:PORT, such as 127\.0\.0\.1:8080"):
        Viewer(address)


def test_an_address_of_another_machine_is_refused_at_once() -> None:
    pytest.importorskip("viser", reason="viser (extra viewer) is not installed")
    with pytest.raises(OutputError, match=r"nothing can be served at '192\.0\.2\.1:8080': "):
        Viewer("192.0.2.1:8080")


def test_without_viser_a_sentence_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "viser", None)
    with pytest.raises(BackendError, match="-m pip install 'viser"):
        Viewer(ANY)


def test_an_old_viser_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    old = SimpleNamespace(__version__="1.0.9")
    monkeypatch.setitem(sys.modules, "viser", old)
    with pytest.raises(BackendError, match=r"newer viser than 1\.0\.9"):
        Viewer(ANY)
