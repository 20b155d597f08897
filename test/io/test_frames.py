"""Reading ahead changes nothing but when things are read."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator
from itertools import count
from pathlib import Path

import numpy as np
import pytest

from dust3r_ros.errors import InputError
from dust3r_ros.io.bags.source import BagSource
from dust3r_ros.io.frames import FrameSource, camera_of_topic, read_ahead
from dust3r_ros.io.image_sources import ImageFolder, open_source
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
    with pytest.raises(InputError, match=r"fixed.*no readable frame \(2 skipped: broken\)"):
        list(Fixed([None, None]))


def test_wrong_inputs_are_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"nowhere.*does not exist"):
        open_source(tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match=r"empty.*no images"):
        open_source(tmp_path / "empty")
    (tmp_path / "notes.txt").write_text("no video")
    with pytest.raises(InputError, match=r"notes\.txt.*not a readable video"):
        open_source(tmp_path / "notes.txt")
    (tmp_path / "a.png").write_bytes(b"x")
    with pytest.raises(InputError, match=r"topic '/t'.*not a bag"):
        open_source(tmp_path, "/t")
    (tmp_path / "one.bag").touch()
    (tmp_path / "two.mcap").touch()
    with pytest.raises(InputError, match=r"one\.bag, two\.mcap"):
        open_source(tmp_path)


def threads() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name == "read-ahead"]


@pytest.mark.parametrize("most", [0, 1, 7])
def test_the_items_are_the_same_in_the_same_order(most: int) -> None:
    assert list(read_ahead(range(200), most)) == list(range(200))
    assert list(read_ahead([], most)) == [] and threads() == []


def test_no_more_are_made_than_were_allowed() -> None:
    made: list[int] = []
    asked = threading.Semaphore(0)

    def make() -> Iterator[int]:
        for number in range(50):
            made.append(number)
            yield number
            asked.release()

    items = read_ahead(make(), most=3)
    for expected in range(50):
        assert next(items) == expected
        assert len(made) <= expected + 1 + 3 + 1  # taken, waiting, and one in hand
    assert list(items) == []


def test_they_are_made_while_nobody_asks() -> None:
    made = threading.Semaphore(0)

    def make() -> Iterator[int]:
        for number in range(4):
            yield number
            made.release()

    items = read_ahead(make(), most=3)
    assert next(items) == 0
    for _ in range(3):
        assert made.acquire(timeout=10)
    assert list(items) == [1, 2, 3]


def test_an_error_comes_where_its_item_would_have() -> None:
    def make() -> Iterator[int]:
        yield 1
        yield 2
        raise InputError("broken")

    items = read_ahead(make())
    assert [next(items), next(items)] == [1, 2]
    with pytest.raises(InputError, match="broken"):
        next(items)
    assert threads() == []


def test_a_reader_that_is_given_up_ends() -> None:
    items = read_ahead(count(), most=2)
    assert next(items) == 0
    items.close()  # type: ignore[attr-defined]
    assert threads() == []
