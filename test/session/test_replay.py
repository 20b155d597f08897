"""Replay: refused frames are counted, the rest is mapped; manifests give the same frames again, in their order."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
from robot_bag import CAMERAS, Robot

from dust3r_ros.config import MapperConfig
from dust3r_ros.errors import InputError
from dust3r_ros.io.bags.topics import BagTopics
from dust3r_ros.io.frames import FrameSource, Shot
from dust3r_ros.io.image_sources import open_source
from dust3r_ros.io.manifest import Event, ManifestWriter, read_manifest
from dust3r_ros.mapping.mapper import Mapper
from dust3r_ros.session.replay import ManifestReplay, Replay, apply, images_to
from dust3r_ros.session.session import Session
from dust3r_ros.types import Calibration, Frame


def test_a_frame_that_the_mapper_refuses_is_counted_and_the_first_reason_kept() -> None:
    image = np.random.default_rng(0).integers(0, 255, (48, 64, 3), np.uint8)
    frames = [
        Frame(10, "camera", image),
        Frame(20, "camera", np.zeros((20, 30, 3), np.uint8)),
        Frame(10, "camera", image),
        Frame(30, "camera", image),
    ]
    mapper = Mapper()
    replay = Replay(images_to(mapper), frames)
    assert [update.stamp_ns for update in replay] == [10, 30]
    assert replay.refused == 2
    assert "30x20" in replay.reason or "20" in replay.reason
    assert mapper.counts.frames == 2


def test_other_errors_are_not_swallowed() -> None:
    class Broken(Mapper):
        def process(self, stamp_ns, camera, image, mask=None):
            raise RuntimeError("a fault of ours")

    with pytest.raises(RuntimeError, match="ours"):
        list(Replay(images_to(Broken()), [Frame(0, "camera", np.zeros((48, 64, 3), np.uint8))]))


TOPICS = BagTopics(
    ("/left/image_raw", "/right/image_raw"), odom_frame="odom", imu="/imu", masks={c: f"/{c}/mask" for c in CAMERAS},
    depths={"left": "/depth/image_rect_raw"},
)  # fmt: skip


@pytest.fixture(scope="module")
def bag(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return Robot().record(tmp_path_factory.mktemp("robot") / "run")


def written(path: Path, items: list[Frame | Event]) -> Path:
    writer = ManifestWriter(path)
    writer.header(MapperConfig())
    for item in items:
        if isinstance(item, Frame):
            writer.frame(item)
        else:
            writer.event(item.kind, **item.values)
    writer.close()
    return path


def assert_same(frames: list[Frame], wanted: list[Frame]) -> None:
    assert [(frame.stamp_ns, frame.camera) for frame in frames] == [(frame.stamp_ns, frame.camera) for frame in wanted]
    for frame, other in zip(frames, wanted, strict=True):
        for name in ("image", "mask", "o_T_c", "up", "depth", "points"):
            one, two = getattr(frame, name), getattr(other, name)
            assert (one is None) == (two is None), name
            assert one is None or (np.array_equal(one, two) and one.dtype == two.dtype), name


@pytest.mark.parametrize("depth_frame", ["left_optical", "depth_optical"])
def test_a_manifest_gives_exactly_these_frames_with_exactly_these_companions(tmp_path: Path, depth_frame: str) -> None:
    path = Robot(depth_frame=depth_frame).record(tmp_path / "bag")
    used = [frame for index, frame in enumerate(open_source(path, topics=TOPICS)) if index % 3 != 1]
    manifest = read_manifest(written(tmp_path / "run.jsonl", [*used[:2], Event("reset", {}), *used[2:]]))
    # The replay does not look at odometry and IMU: what was known then counts.
    replay = ManifestReplay(
        open_source(path, topics=BagTopics(TOPICS.images, masks=TOPICS.masks, depths=TOPICS.depths)), manifest
    )
    items = list(replay)
    assert len(replay) == len(used) == 8 and (replay.missing, replay.reason) == (0, "")
    assert isinstance(items[2], Event) and items[2].kind == "reset"
    assert_same([item for item in items if isinstance(item, Frame)], used)
    assert_same([item for item in replay if isinstance(item, Frame)], used)  # and once more


def test_photographs_are_of_the_cameras_that_they_were_of(tmp_path: Path) -> None:
    """Whatever the command that replays calls them; with the focals that they say."""
    exif = PIL.Image.Exif()
    (tmp_path / "photographs").mkdir()
    for index, millimetres in enumerate([26, 52, 26]):
        exif.get_ifd(0x8769)[0xA405] = millimetres
        PIL.Image.new("RGB", (400, 300), (9 * index, 0, 0)).save(tmp_path / f"photographs/{index}.jpg", exif=exif)
    wanted = list(open_source(tmp_path / "photographs", camera="front"))
    assert {frame.camera: round(frame.focal[0]) for frame in wanted if frame.focal} == {"front": 300, "front_52mm": 601}
    manifest = read_manifest(written(tmp_path / "run.jsonl", list(wanted)))
    replay = ManifestReplay(open_source(tmp_path / "photographs"), manifest)
    frames = [item for item in replay if isinstance(item, Frame)]
    assert_same(frames, wanted)
    assert [frame.focal for frame in frames] == [frame.focal for frame in wanted] and replay.missing == 0


def test_a_recording_that_was_played_twice_is_read_twice(bag: Path, tmp_path: Path) -> None:
    frames = list(open_source(bag, topics=TOPICS))
    played = [*frames[:9], Event("reset", {}), *frames[2:]]
    replay = ManifestReplay(open_source(bag, topics=TOPICS), read_manifest(written(tmp_path / "run.jsonl", played)))
    assert_same([item for item in replay if isinstance(item, Frame)], [i for i in played if isinstance(i, Frame)])


def test_what_the_recording_lacks_or_has_otherwise_is_counted(bag: Path, tmp_path: Path) -> None:
    frames = list(open_source(bag, topics=TOPICS))
    other = Frame(frames[3].stamp_ns, frames[3].camera, 255 - frames[3].image)
    gone = Frame(frames[5].stamp_ns + 1, frames[5].camera, frames[5].image)
    manifest = read_manifest(written(tmp_path / "run.jsonl", [*frames[:3], other, frames[4], gone, *frames[6:]]))
    replay = ManifestReplay(open_source(bag, topics=TOPICS), manifest)
    assert_same([item for item in replay if isinstance(item, Frame)], [*frames[:3], frames[4], *frames[6:]])
    assert replay.missing == 2 and "is not the one that was mapped" in replay.reason
    no_masks = BagTopics(TOPICS.images, depths=TOPICS.depths)
    replay = ManifestReplay(open_source(bag, topics=no_masks), read_manifest(written(tmp_path / "2.jsonl", [*frames])))
    assert list(replay) == [] and replay.missing == 12 and "mask of camera 'left'" in replay.reason


class Long(FrameSource):
    """A recording of many images that counts how many it holds at once; not every image is decoded."""

    def __init__(self) -> None:
        super().__init__("long")
        self.alive = self.most = self.decoded = 0

    def __len__(self) -> int:
        return 3000

    def _frames(self) -> Iterator[Frame | InputError]:
        raise NotImplementedError

    def shots(self) -> Iterator[Shot | InputError]:
        for index in range(len(self)):
            self.alive += 1
            self.most = max(self.most, self.alive)
            shot = Shot("image", "camera", index * 33_000_000, Load(self, index))
            yield shot
            del shot


class Load:
    def __init__(self, source: Long, index: int) -> None:
        self.source, self.index = source, index

    def __call__(self) -> np.ndarray:
        self.source.decoded += 1
        return np.full((4, 4, 3), self.index % 256, np.uint8)

    def __del__(self) -> None:
        self.source.alive -= 1


def test_a_long_recording_is_neither_kept_nor_decoded(tmp_path: Path) -> None:
    source = Long()
    used = [Frame(index * 33_000_000, "camera", Load(source, index)()) for index in range(0, 3000, 5)]
    source.alive = source.decoded = 0
    used.insert(300, Frame(used[299].stamp_ns + 7, "camera", used[0].image))  # lost by the recorder
    replay = ManifestReplay(source, read_manifest(written(tmp_path / "run.jsonl", used)))  # type: ignore[arg-type]
    assert sum(isinstance(item, Frame) for item in replay) == 600
    assert replay.missing == 1 and source.decoded == 600
    assert source.most < 60


def test_events_are_done_again() -> None:
    class Session:
        def __getattr__(self, name: str) -> object:
            return lambda *values: done.append((name, *values)) or 7

    done: list[tuple[object, ...]] = []
    calibration = Calibration(4, 3, 2.0, 2.0, 1.5, 1.0)
    known = {"camera": "c", "calibration": vars(calibration)}
    for event in (
        Event("calibration", known), Event("extrinsics", {"camera": "c", "r_T_c": np.eye(4).tolist()}),
        Event("scale", {"factor": 2}), Event("mode", {"mapping": False}), Event("reset", {}),
        Event("load", {"path": "a.db"}), Event("jump", {}), Event("unheard of", {}),
    ):  # fmt: skip
        apply(Session(), event)
    (placed,) = (call for call in done if call[0] == "place")
    assert placed[1] == "c" and np.array_equal(placed[2], np.eye(4))  # type: ignore[arg-type]
    assert [call for call in done if call[0] != "place"] == [
        ("know", "c", calibration), ("set_scale", 2.0), ("set_mapping", False), ("reset",), ("load", "a.db"),
    ]  # fmt: skip
    for event in (Event("scale", {}), Event("extrinsics", {"camera": "c"}), Event("calibration", {"camera": "c"})):
        with pytest.raises(InputError, match=event.kind):
            apply(Session(), event)
    apply(Session(), Event("load", {"path": "a.db", "keyframes": 7}))
    with pytest.raises(InputError, match=r"'a\.db' has 7 keyframes; it had 6"):
        apply(Session(), Event("load", {"path": "a.db", "keyframes": 6}))


@pytest.mark.parametrize("what", ["take", "begin", "preview", "depth"])
def test_work_of_which_there_is_none_says_that_the_map_differs(what: str) -> None:
    """As when a manifest of another version is replayed."""
    session = Session(MapperConfig(), logging.getLogger("test"))
    session.go_live()
    try:
        apply(session, Event("work", {"what": what}))
    except InputError as error:
        assert "differs from the recorded one" in str(error)
    else:
        assert what == "take"  # nothing was made yet


def test_replay_does_events_between_the_frames() -> None:
    image = np.zeros((4, 4, 3), np.uint8)
    order: list[object] = []

    def refuse(event: Event) -> None:
        order.append(event.kind)
        raise InputError("no")

    replay = Replay(
        lambda frame: order.append(frame.stamp_ns), [Frame(1, "c", image), Event("x", {}), Frame(2, "c", image)], refuse
    )  # type: ignore[arg-type,return-value,func-returns-value]
    assert len(list(replay)) == 2 and order == [1, "x", 2]
    assert (replay.refused, replay.undone, replay.reason) == (0, 1, "no")
