"""A recorder that is killed leaves an MCAP file without an end; everything up to there is read."""

from __future__ import annotations

import shutil
import sqlite3
import struct
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
from backports import zstd
from robot_bag import Robot, image

from dust3r_ros.errors import InputError
from dust3r_ros.io.bags.reader import cut_off
from dust3r_ros.io.bags.topics import BagTopics
from dust3r_ros.io.image_sources import open_source

TOPICS = BagTopics(("/left/image_raw",), odom_frame="odom")


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """About four chunks."""
    folder = Robot(frames=150, period=33).record(tmp_path_factory.mktemp("robot") / "run")
    return next(folder.glob("*.mcap"))


@pytest.mark.parametrize(
    "tail", [b"", bytes(5000), b"\x06" + b"\xff" * 40], ids=["nothing", "zeros", "a broken record"]
)
@pytest.mark.parametrize("part", [0.5, 0.9, 0.999])
def test_a_file_without_its_end_is_read_as_far_as_it_goes(
    whole: Path, tmp_path: Path, part: float, tail: bytes
) -> None:
    data = whole.read_bytes()
    (tmp_path / "run.mcap").write_bytes(data[: int(part * len(data))] + tail)
    for path in (tmp_path / "run.mcap", tmp_path):  # the folder has no metadata.yaml then
        source = open_source(path, topics=TOPICS)
        frames = list(source)
        assert part * 150 - 80 < len(frames) <= 150 and source.skipped == 1
        for index, frame in enumerate(frames):
            assert frame.stamp_ns == Robot(period=33).stamp("left", index)
            assert np.array_equal(frame.image, image("left", index))
            assert frame.o_T_c is not None or index == len(frames) - 1


def test_nothing_whole_is_refused(whole: Path, tmp_path: Path) -> None:
    for end in (0, 8, 40, 5000):
        (tmp_path / "run.mcap").write_bytes(whole.read_bytes()[:end])
        with pytest.raises(InputError, match=r"run\.mcap"):
            list(open_source(tmp_path / "run.mcap", topics=TOPICS))


def profiled(data: bytes, profile: bytes) -> bytes:
    """An MCAP file with another profile of up to four letters, and as much less of its library's name."""
    assert data[17:25] == b"\x04\0\0\0ros2"
    (library,) = struct.unpack("<I", data[25:29])
    cut = struct.pack("<I", len(profile)) + profile + struct.pack("<I", library + 4 - len(profile))
    return data[:17] + cut + bytes(4 - len(profile)) + data[29:]


@pytest.mark.parametrize("part", [1.0, 0.7])
def test_a_file_without_a_profile_is_read(whole: Path, tmp_path: Path, part: float) -> None:
    """As ``mcap merge`` writes it; also where it was cut off."""
    data = whole.read_bytes()
    (tmp_path / "run.mcap").write_bytes(profiled(data, b"")[: int(part * len(data))])
    frames = list(open_source(tmp_path / "run.mcap", topics=TOPICS))
    assert len(frames) > part * 150 - 80 and np.array_equal(frames[40].image, image("left", 40))


def test_messages_that_are_not_of_ros_2_are_said(whole: Path, tmp_path: Path) -> None:
    """No repair helps, which the message recommended."""
    (tmp_path / "run.mcap").write_bytes(profiled(whole.read_bytes(), b"ros1"))
    (tmp_path / "fox.mcap").write_bytes(profiled(whole.read_bytes(), b"").replace(b"ros2msg", b"flatbuf"))
    for name in ("run", "fox"):
        with pytest.raises(InputError, match=r"of other messages than ROS 2's.* as a folder or a video"):
            open_source(tmp_path / f"{name}.mcap", topics=TOPICS)


def test_only_mcap_files_without_an_end_are_seen_to(whole: Path, bags: dict[str, Path], tmp_path: Path) -> None:
    assert cut_off(whole) is None and cut_off(whole.parent) is None
    assert cut_off(bags["sqlite3"]) is None and cut_off(bags["ros1"]) is None
    assert cut_off(tmp_path) is None and cut_off(tmp_path / "gone.mcap") is None
    (tmp_path / "no.mcap").write_bytes(b"hello")
    assert cut_off(tmp_path / "no.mcap") is None
    shutil.copy(whole, tmp_path / "yes.mcap")
    assert cut_off(tmp_path) is None  # which of two?


@pytest.mark.parametrize(
    "old, new",
    [
        ("name: /left/image_raw", "name: [0]"),
        ("type: sensor_msgs/msg/Imu", "type: [a, b]"),
        ("message_count: 3", "message_count: -5"),
        ("message_count: 3", "message_count: {a: 1}"),
        ("message_count: 3", f"message_count: {10**30}"),
    ],
)
@pytest.mark.parametrize("storage", ["sqlite3", "mcap"])
def test_metadata_that_cannot_be_is_refused(tmp_path: Path, storage: str, old: str, new: str) -> None:
    Robot(frames=3).record(tmp_path / "run", storage)
    metadata = tmp_path / "run/metadata.yaml"
    text = metadata.read_text(encoding="utf-8")
    assert old in text
    metadata.write_text(text.replace(old, new), encoding="utf-8")
    try:
        source = open_source(tmp_path / "run", topics=TOPICS)
    except InputError as error:
        assert "run'" in str(error)
    else:  # an MCAP file says all this itself
        assert storage == "mcap" and 0 <= len(source) <= 3


def test_types_may_be_named_as_outside_ros_2(tmp_path: Path) -> None:
    """Not every recorder names the folder that ROS 2 keeps messages in: "sensor_msgs/Image"."""
    folder = Robot(frames=3).record(tmp_path / "run", "sqlite3")
    expected = list(open_source(folder, topics=TOPICS))
    file, metadata = next(folder.glob("*.db3")), folder / "metadata.yaml"
    with closing(sqlite3.connect(file)) as database, database:
        database.execute("UPDATE topics SET type = replace(type, '/msg/', '/')")
    metadata.write_text(metadata.read_text(encoding="utf-8").replace("/msg/", "/"), encoding="utf-8")
    for path in (folder, file):
        frames = list(open_source(path, topics=TOPICS))
        assert [frame.stamp_ns for frame in frames] == [frame.stamp_ns for frame in expected]
        assert all(np.array_equal(a.image, b.image) for a, b in zip(frames, expected, strict=True))
        assert all(frame.o_T_c is not None for frame in frames)


def test_compressed_messages_are_read_without_metadata(tmp_path: Path) -> None:
    """Only metadata.yaml says that messages are compressed; a storage file may come without it."""
    folder = Robot(frames=3).record(tmp_path / "run", "sqlite3")
    expected = list(open_source(folder, topics=TOPICS))
    file = next(folder.glob("*.db3"))
    with closing(sqlite3.connect(file)) as database, database:
        for number, raw in database.execute("SELECT id, data FROM messages").fetchall():
            database.execute("UPDATE messages SET data = ? WHERE id = ?", (zstd.compress(raw), number))
    frames = list(open_source(file, topics=TOPICS))
    assert len(frames) == 3
    assert all(np.array_equal(a.image, b.image) for a, b in zip(frames, expected, strict=True))
