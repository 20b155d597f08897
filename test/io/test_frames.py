"""The door of all recordings: what opens what, and names of cameras."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from dust3r_ros.errors import InputError
from dust3r_ros.io.bags import BagSource
from dust3r_ros.io.frames import FrameSource, camera_of_topic
from dust3r_ros.io.image_folder import ImageFolder
from dust3r_ros.io.opening import open_source
from dust3r_ros.scenes.export import write_folder
from dust3r_ros.scenes.sequence import RenderedSequence
from dust3r_ros.types import Frame


class Fixed(FrameSource):
    """Frames of given stamps; None is one that cannot be read."""

    def __init__(self, stamps: list[int | None]) -> None:
        super().__init__("fixed")
        self._stamps = stamps

    def __len__(self) -> int:
        return len(self._stamps)

    def _frames(self) -> Iterator[Frame | InputError]:
        for stamp in self._stamps:
            yield InputError("broken") if stamp is None else Frame(stamp, "camera", np.zeros((2, 2, 3), np.uint8))


@pytest.mark.parametrize(
    "topic, camera",
    [
        ("/camera/image_raw", "camera"),
        ("/camera/image_raw/compressed", "camera"),
        ("/front/left/image_raw", "front/left"),
        ("/front/left/image_raw/compressed", "front/left"),
        ("front/image", "front"),
        ("/image_raw", "camera"),
        ("/image_raw/compressed", "camera"),
        ("image", "camera"),
        ("/compressed", "camera"),
        ("", "camera"),
    ],
)
def test_camera_is_the_namespace_of_its_topic(topic: str, camera: str) -> None:
    assert camera_of_topic(topic) == camera


def test_the_kind_of_input_is_seen_from_the_path(
    bags: dict[str, Path], sequence: RenderedSequence, tmp_path: Path
) -> None:
    write_folder(sequence, tmp_path / "scene")
    assert isinstance(open_source(tmp_path / "scene"), ImageFolder)
    assert isinstance(open_source(str(tmp_path / "scene" / "rgb")), ImageFolder)
    for path in bags.values():
        assert isinstance(open_source(path), BagSource)
    assert isinstance(open_source(next(bags["mcap"].glob("*.mcap"))), BagSource)


def test_stamps_rise_and_what_does_not_is_counted(caplog: pytest.LogCaptureFixture) -> None:
    source = Fixed([5, 7, 7, None, 6, 9, None, 10])
    with caplog.at_level(logging.WARNING):
        assert [frame.stamp_ns for frame in source] == [5, 7, 9, 10]
    assert source.skipped == 4
    assert "4 of 8 frames skipped" in caplog.text and len(caplog.records) == 4  # three reasons and the sum
    assert [frame.stamp_ns for frame in source] == [5, 7, 9, 10] and source.skipped == 4


def test_nothing_readable_is_an_error() -> None:
    with pytest.raises(InputError, match=r"fixed.*no readable frame \(2 skipped\)"):
        list(Fixed([None, None]))


def test_wrong_inputs_are_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"nowhere.*does not exist"):
        open_source(tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match=r"empty.*no images"):
        open_source(tmp_path / "empty")
    (tmp_path / "notes.txt").write_text("no video")
    with pytest.raises(InputError, match=r"notes\.txt.*no video"):
        open_source(tmp_path / "notes.txt")
    (tmp_path / "a.png").write_bytes(b"x")
    with pytest.raises(InputError, match=r"topic '/t'.*no bag"):
        open_source(tmp_path, "/t")
    (tmp_path / "one.bag").touch()
    (tmp_path / "two.mcap").touch()
    with pytest.raises(InputError, match=r"one\.bag, two\.mcap"):
        open_source(tmp_path)
