"""The viewer's recording holds the map as it grew; without the SDK or a display a sentence says what to do."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from true_map import moved, room_walk, true_keyframes

from dust3r_ros.errors import BackendError, ConfigError, OutputError
from dust3r_ros.geometry.similarity import Similarity
from dust3r_ros.products.rerun_view import RerunView
from dust3r_ros.types import Camera, Keyframe, MapCounts, MapUpdate, TrackingState


@pytest.fixture(scope="module")
def sdk():
    return pytest.importorskip("rerun", reason="the Rerun SDK (extra view) is not installed")


@pytest.fixture
def keyframes() -> list[Keyframe]:
    return [replace(k, camera="front/left") for k in true_keyframes(room_walk("sweep", 12))[:5]]


def update(keyframe: Keyframe, changed: list[Keyframe], removed: tuple[int, ...] = ()) -> MapUpdate:
    camera = Camera("front/left", 320, 240, 2 * keyframe.focal, 1.5, 7)
    return MapUpdate(
        keyframe.stamp_ns, "front/left", TrackingState.TRACKING, keyframe.w_T_c, None, keyframe.index,
        tuple(changed), removed, {"front/left": camera},
    )  # fmt: skip


def printed(path: Path) -> str:
    """Everything in a recording, as the SDK's own reader tells it."""
    done = subprocess.run(
        [sys.executable, "-m", "rerun", "rrd", "print", "-vvv", str(path)], capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


class Calls:
    """A stream that notes what is logged where."""

    def __init__(self, stream) -> None:
        self.entities: list[str] = []
        self._stream = stream

    def log(self, entity: str, *rest, **options) -> None:
        self.entities.append(entity)
        self._stream.log(entity, *rest, **options)

    def __getattr__(self, name: str):
        return getattr(self._stream, name)


def test_a_recording_holds_cameras_keyframes_path_focal_and_status(sdk, keyframes, tmp_path: Path) -> None:
    path = tmp_path / "walk.rrd"
    with RerunView(path) as view:
        for count, keyframe in enumerate(keyframes, start=1):
            view.show(update(keyframe, [keyframe]), keyframe.image, MapCounts(frames=count, keyframes=count))
    text = printed(path)
    for entity in ("map/keyframes/4/points", "map/cameras/front_left", "map/path/front_left/0", "focal/front_left"):
        assert f"/{entity}" in text, entity
    for component in ("Points3D:positions", "Pinhole:image_from_camera", "LineStrips3D:strips", "Scalars:scalars"):
        assert component in text, component
    assert "TextDocument:text" in text and "**tracking**" in text and "5 keyframes" in text


def test_what_only_moves_sends_no_points_again(sdk, keyframes, tmp_path: Path) -> None:
    with RerunView(tmp_path / "walk.rrd") as view:
        view._stream = calls = Calls(view._stream)
        view.show(update(keyframes[0], keyframes), keyframes[0].image)
        calls.entities.clear()
        shifted = moved(keyframes, Similarity(1.0, np.eye(3), np.ones(3)))
        deeper = replace(shifted[2], depth=shifted[2].depth * np.float32(1.1))
        view.show(update(keyframes[1], [shifted[1], deeper], removed=(3, 77)))
        logged = [entity for entity in calls.entities if "keyframes" in entity]
        assert logged == [
            "map/keyframes/3", "map/keyframes/77", "map/keyframes/1", "map/keyframes/2", "map/keyframes/2/points",
        ]  # fmt: skip
        calls.entities.clear()
        view.show_keyframes([keyframes[3]])  # back again, with its points
        assert calls.entities[:2] == ["map/keyframes/3", "map/keyframes/3/points"]
    assert "Clear:is_recursive" in printed(tmp_path / "walk.rrd")


def test_a_long_path_is_sent_in_parts(sdk, keyframes, tmp_path: Path) -> None:
    one, nothing = np.ones((4, 4), np.float32), np.zeros((4, 4, 3), np.uint8)
    blind = replace(keyframes[0], image=nothing, depth=0 * one, confidence=one)
    many = [replace(blind, index=index, w_T_c=keyframes[index % 5].w_T_c) for index in range(200)]
    with RerunView(tmp_path / "walk.rrd") as view:
        view._stream = calls = Calls(view._stream)
        view.show_keyframes(many)
        calls.entities.clear()
        view.show_keyframes([many[70]])
        assert [entity for entity in calls.entities if "path" in entity] == [
            "map/path/front_left/1", "map/path/front_left/2",
        ]  # fmt: skip


def test_a_frame_without_pose_image_or_depth_is_shown_as_it_is(sdk, keyframes, tmp_path: Path) -> None:
    holes = replace(keyframes[0], depth=np.full_like(keyframes[0].depth, np.nan))
    lost = replace(update(keyframes[0], [holes]), w_T_c=None, state=TrackingState.LOST, cameras={})
    with RerunView(tmp_path / "walk.rrd") as view:
        view.show(lost)
        view.show(lost, np.zeros((3, 2000, 3), np.uint8))
        view.close()
        view.show(lost)  # after the end: nothing, and no error
    assert "**lost**" in printed(tmp_path / "walk.rrd")


def test_a_window_that_was_closed_does_not_fail_the_run(sdk, keyframes, tmp_path: Path, caplog) -> None:
    view = RerunView(tmp_path / "walk.rrd")
    stream = view._stream

    class Gone(Calls):
        def flush(self, **options: object) -> None:
            raise RuntimeError("unable to connect")

    view._stream = Gone(stream)
    view.show(update(keyframes[0], keyframes), keyframes[0].image)
    view.close()
    assert "unable to connect" in caplog.text
    stream.disconnect()


def test_the_window_is_found_beside_the_python_that_runs(sdk, monkeypatch: pytest.MonkeyPatch) -> None:
    paths = []
    monkeypatch.setenv("DISPLAY", ":9")
    monkeypatch.setenv("PATH", "/usr/bin")
    monkeypatch.setattr(sdk, "spawn", lambda **options: paths.append(os.environ["PATH"]))
    RerunView().close()
    assert paths == [os.pathsep.join(["/usr/bin", str(Path(sys.executable).parent)])]
    assert os.environ["PATH"] == "/usr/bin"


def test_a_recording_that_cannot_be_written_is_said_at_once(sdk, tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="nowhere"):
        RerunView(tmp_path / "nowhere" / "walk.rrd")


def test_another_suffix_and_no_display_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match=r"walk\.mp4.*\*\.rrd"):
        RerunView("walk.mp4")
    monkeypatch.delenv("DISPLAY", raising=False)
    monkeypatch.delenv("WAYLAND_DISPLAY", raising=False)
    monkeypatch.setattr(sys, "platform", "linux")
    with pytest.raises(ConfigError, match=r"no display.*\*\.rrd"):
        RerunView()


def test_a_missing_sdk_says_how_to_install_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "rerun", None)
    with pytest.raises(BackendError, match=r"pip install 'dust3r_ros\[view\]'"):
        RerunView(tmp_path / "walk.rrd")
    assert list(tmp_path.iterdir()) == []
