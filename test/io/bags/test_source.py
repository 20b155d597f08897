"""Bags of both ROS versions: topics, stamps, damage."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

from dust3r_ros.errors import InputError
from dust3r_ros.io.bags.topics import BagTopics
from dust3r_ros.io.frames import Shot
from dust3r_ros.io.image_sources import open_source
from dust3r_ros.scenes.export import write_bag
from dust3r_ros.scenes.sequence import RenderedSequence

pytest.importorskip("rosbags", reason="rosbags is not installed")

from rosbags.rosbag2 import StoragePlugin, Writer
from rosbags.typesys import Stores, get_typestore

STORE = get_typestore(Stores.ROS2_JAZZY)
TYPES = STORE.types


def image_message(image: np.ndarray, stamp_ns: int, encoding: str = "rgb8", cut: int = 0) -> object:
    stamp = TYPES["builtin_interfaces/msg/Time"](sec=stamp_ns // 10**9, nanosec=stamp_ns % 10**9)
    header = TYPES["std_msgs/msg/Header"](stamp=stamp, frame_id="camera")
    height, width = image.shape[:2]
    return TYPES["sensor_msgs/msg/Image"](
        header=header, height=height, width=width, encoding=encoding, is_bigendian=0, step=3 * width,
        data=image.reshape(-1)[: image.size - cut],
    )  # fmt: skip


def record(path: Path, messages: list[tuple[str, int, object]]) -> Path:
    """A bag of (topic, time of recording, message)."""
    with Writer(path, version=9, storage_plugin=StoragePlugin.MCAP) as writer:
        connections: dict[str, object] = {}
        for topic, bag_ns, message in messages:
            kind = message.__msgtype__  # type: ignore[attr-defined]
            if topic not in connections:
                connections[topic] = writer.add_connection(topic, kind, typestore=STORE)
            writer.write(connections[topic], bag_ns, STORE.serialize_cdr(message, kind))  # type: ignore[arg-type]
    return path


@pytest.mark.parametrize("storage", ["mcap", "sqlite3", "ros1"])
def test_a_bag_opens_with_and_without_its_topic(
    bags: dict[str, Path], sequence: RenderedSequence, storage: str
) -> None:
    for topic in (None, "/camera/image_raw", "camera/image_raw"):
        source = open_source(bags[storage], topic)
        frames = list(source)
        assert len(source) == 6
        assert [frame.stamp_ns for frame in frames] == sequence.stamps_ns.tolist()
        assert np.array_equal(frames[4].image, sequence.images[4])
    assert next(iter(open_source(bags[storage], camera="mine"))).camera == "mine"


def test_parts_of_a_recording_without_its_metadata_are_no_choice(bags: dict[str, Path], tmp_path: Path) -> None:
    for number in range(2):
        shutil.copy(next(bags["mcap"].glob("*.mcap")), tmp_path / f"run_{number}.mcap")
    with pytest.raises(InputError, match=r"give one of run_0.mcap, run_1.mcap, or, .*'ros2 bag reindex'"):
        open_source(tmp_path)


@pytest.mark.parametrize("storage, pattern", [("mcap", "*.mcap"), ("sqlite3", "*.db3")])
def test_a_storage_file_opens_without_its_folder(
    bags: dict[str, Path], sequence: RenderedSequence, tmp_path: Path, storage: str, pattern: str
) -> None:
    file = shutil.copy(next(bags[storage].glob(pattern)), tmp_path)
    for path in (Path(file), tmp_path):
        frames = list(open_source(path))
        assert [frame.stamp_ns for frame in frames] == sequence.stamps_ns.tolist()


def test_wrong_topics_are_answered_with_the_right_ones(bags: dict[str, Path]) -> None:
    for path in bags.values():
        with pytest.raises(InputError, match=r"no topic '/lidar'.*/camera/image_raw"):
            open_source(path, "/lidar")
        with pytest.raises(InputError, match=r"sensor_msgs/msg/CameraInfo.*/camera/image_raw"):
            open_source(path, "/camera/camera_info")


def test_bags_without_images_are_refused(tmp_path: Path) -> None:
    text = TYPES["std_msgs/msg/String"](data="hello")
    with pytest.raises(InputError, match="no image topic"):
        open_source(record(tmp_path / "talk", [("/chatter", 1, text)]))


def test_a_topic_without_messages_is_said(sequence: RenderedSequence, tmp_path: Path) -> None:
    path = tmp_path / "bag"
    with Writer(path, version=9, storage_plugin=StoragePlugin.MCAP) as writer:
        kind = "sensor_msgs/msg/Image"
        left, _ = (writer.add_connection(f"/{name}/image_raw", kind, typestore=STORE) for name in ("left", "right"))
        for stamp, image in zip(sequence.stamps_ns, sequence.images, strict=True):
            writer.write(left, int(stamp), STORE.serialize_cdr(image_message(image, int(stamp)), kind))
    topics = BagTopics(("/left/image_raw", "/right/image_raw"))
    source = open_source(path, topics=topics)
    assert len(list(source)) == len(sequence.images)
    assert source.remarks == (f"topic '/right/image_raw' has no messages in bag '{path}'",)


def test_zero_stamps_give_way_to_the_time_of_recording(sequence: RenderedSequence, tmp_path: Path) -> None:
    messages = [("/cam/image", 10**9 + index, image_message(image, 0)) for index, image in enumerate(sequence.images)]
    frames = list(open_source(record(tmp_path / "bag", messages)))
    assert [frame.stamp_ns for frame in frames] == [10**9 + index for index in range(6)]
    assert frames[0].camera == "cam"


@pytest.mark.parametrize("wrong_s", [0, 86_400])
def test_one_wrong_stamp_does_not_end_the_recording(
    sequence: RenderedSequence, tmp_path: Path, caplog: pytest.LogCaptureFixture, wrong_s: int
) -> None:
    """The clock of one image is wrong, as a driver's while it starts: as a node does, it is refused, and no other."""
    stamps = [1_000_000_000 * (100 + index) for index in range(6)]
    said = [*stamps[:2], 1_000_000_000 * wrong_s + 7, *stamps[3:]]
    every = zip(stamps, sequence.images, said, strict=True)
    messages = [("/cam/image", stamp, image_message(image, header)) for stamp, image, header in every]
    source = open_source(record(tmp_path / "bag", messages))
    right = [*stamps[:2], *stamps[3:]]
    assert [frame.stamp_ns for frame in source] == right and source.skipped == 1
    assert "a topic's images must come from one clock" in caplog.text
    assert [shot.stamp_ns for shot in source.shots() if isinstance(shot, Shot)] == right


def test_a_recording_that_was_paused_is_read_to_its_end(sequence: RenderedSequence, tmp_path: Path) -> None:
    """By whatever clock: at once if the recorder's shows it as well, after some images else, be they the last ones."""
    for name, recorded in (("both", 1_000_000_000), ("stamps", 1)):
        stamps = [1_000_000_000 * second for second in (1, 2, 50, 51, 100, 101)]
        messages = [
            ("/cam/image", at // 1_000_000_000 * recorded + index, image_message(image, at))
            for index, (at, image) in enumerate(zip(stamps, sequence.images, strict=True))
        ]
        source = open_source(record(tmp_path / name, messages))
        assert [frame.stamp_ns for frame in source] == stamps and source.skipped == 0


def test_unusable_messages_in_the_middle_are_skipped(sequence: RenderedSequence, tmp_path: Path) -> None:
    first, second, third, fourth, fifth, _ = sequence.images
    messages = [
        ("/cam/image", 1, image_message(first, 1)),
        ("/cam/image", 2, image_message(second, 2, cut=100)),
        ("/cam/image", 3, image_message(third, 3, encoding="32FC3")),
        ("/cam/image", 4, image_message(np.zeros((0, 0, 3), np.uint8), 4)),
        ("/cam/image", 5, image_message(fourth, 1)),
        ("/cam/image", 6, image_message(fifth, 6)),
    ]
    source = open_source(record(tmp_path / "bag", messages))
    assert [frame.stamp_ns for frame in source] == [1, 6]
    assert source.skipped == 4 and len(source) == 6


def test_a_damaged_message_is_skipped(sequence: RenderedSequence, tmp_path: Path) -> None:
    path = tmp_path / "bag"
    with Writer(path, version=9, storage_plugin=StoragePlugin.SQLITE3) as writer:
        connection = writer.add_connection("/cam/image", "sensor_msgs/msg/Image", typestore=STORE)
        for index, image in enumerate(sequence.images):
            raw = bytes(STORE.serialize_cdr(image_message(image, index + 1), "sensor_msgs/msg/Image"))
            writer.write(connection, index + 1, raw[:30] if index == 2 else raw)
    source = open_source(path)
    assert [frame.stamp_ns for frame in source] == [1, 2, 4, 5, 6] and source.skipped == 1


@pytest.mark.parametrize("storage", ["mcap", "sqlite3", "ros1"])
@pytest.mark.parametrize("part", [0.0, 0.01, 0.3, 0.7, 0.98, 0.999])
def test_truncated_bags_are_an_error_or_give_what_is_there(
    bags: dict[str, Path], sequence: RenderedSequence, tmp_path: Path, storage: str, part: float
) -> None:
    copy = tmp_path / bags[storage].name
    if bags[storage].is_dir():
        shutil.copytree(bags[storage], copy)
        file = next(path for path in copy.iterdir() if path.suffix != ".yaml")
    else:
        file = Path(shutil.copy(bags[storage], copy))
    data = file.read_bytes()
    file.write_bytes(data[: int(part * len(data))])
    try:
        source = open_source(copy)
        frames = list(source)
    except InputError as error:
        assert str(tmp_path) in str(error) and "\n" not in str(error) and "repair" in str(error)
    else:
        # What is missing of an MCAP file may be its end alone.
        assert 0 < len(frames) < 6 + (storage == "mcap") and source.skipped == 1
        assert [frame.stamp_ns for frame in frames] == sequence.stamps_ns[: len(frames)].tolist()


def test_compressed_topics_are_read(sequence: RenderedSequence, tmp_path: Path) -> None:
    write_bag(sequence, tmp_path / "bag", topic="/front/left/image_raw", compressed="png")
    source = open_source(tmp_path / "bag")
    frames = list(source)
    assert frames[0].camera == "front/left"
    assert all(np.array_equal(frame.image, image) for frame, image in zip(frames, sequence.images, strict=True))


def test_what_only_looks_like_a_bag_is_refused(tmp_path: Path) -> None:
    for name in ("a.bag", "b.mcap", "c.db3"):
        (tmp_path / name).write_bytes(b"this is no bag at all, just text" * 20)
        with pytest.raises(InputError, match=name.replace(".", r"\.")):
            open_source(tmp_path / name)
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "metadata.yaml").write_text("[: not yaml")
    with pytest.raises(InputError, match="folder"):
        open_source(tmp_path / "folder")
