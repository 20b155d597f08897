"""Manifests give back every number exactly, survive a killed process, and refuse what they are not."""

from __future__ import annotations

import base64
import json
import zlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from dust3r_ros.config import MapperConfig
from dust3r_ros.errors import InputError, OutputError
from dust3r_ros.geometry.rigid import is_rigid, pose
from dust3r_ros.io.manifest import FORMAT, Event, FrameEntry, ManifestWriter, checksum, read_manifest
from dust3r_ros.types import Calibration, Frame

CALIBRATION = Calibration(640, 480, 500.1, 501.2, 319.5, 1 / 3, "plumb_bob", (0.1, -0.2, 1e-17, 0.0, 0.3))


def some_frame(seed: int, whole: bool = True) -> Frame:
    rng = np.random.default_rng(seed)
    image = rng.integers(0, 255, (6, 8, 3), np.uint8)
    if not whole:
        return Frame(seed, "camera", image)
    up = rng.normal(size=3)
    up /= np.linalg.norm(up)
    o_T_c = pose(Rotation.random(None, rng).as_matrix(), rng.normal(size=3) * 10.0 ** rng.integers(-300, 8))
    points = rng.normal(size=(5, 3)).astype(np.float32)
    return Frame(seed, "left/eye", image, image[..., 0], o_T_c, up, points[:, :2], points, (rng.uniform(1, 999), 0.08))


def written(path: Path, frames: list[Frame]) -> Path:
    writer = ManifestWriter(path)
    writer.header(MapperConfig(seed=3), {"left/eye": {"image": "/left/eye/image"}})
    writer.event("calibration", camera="left/eye", calibration=CALIBRATION)
    for frame in frames:
        writer.frame(frame)
    writer.event("extrinsics", camera="left/eye", r_T_c=np.full((4, 4), 0.1))
    writer.close()
    return path


@given(st.integers(0, 2**62))
def test_frames_are_given_back_to_the_bit(tmp_path_factory: pytest.TempPathFactory, seed: int) -> None:
    frame = some_frame(seed)
    path = written(tmp_path_factory.mktemp("manifest") / "run.jsonl", [frame, some_frame(seed, whole=False)])
    _, entry, bare, _ = read_manifest(path).entries()
    assert isinstance(entry, FrameEntry) and isinstance(bare, FrameEntry)
    assert (entry.stamp_ns, entry.camera) == (frame.stamp_ns, frame.camera)
    for name in ("o_T_c", "up", "points"):
        assert np.array_equal(getattr(entry, name), getattr(frame, name))
        assert getattr(entry, name).dtype == getattr(frame, name).dtype
        assert getattr(bare, name) is None
    for name in ("image", "mask", "depth"):
        assert getattr(entry, name) == checksum(getattr(frame, name)) != 0
    assert (bare.mask, bare.depth) == (0, 0)
    assert entry.focal == frame.focal and bare.focal is None


def test_the_header_and_events_are_given_back(tmp_path: Path) -> None:
    manifest = read_manifest(written(tmp_path / "run.jsonl", []))
    assert manifest.config == MapperConfig(seed=3)
    assert manifest.topics == {"left/eye": {"image": "/left/eye/image"}}
    known, placed = manifest.entries()
    assert isinstance(known, Event) and isinstance(placed, Event)
    assert (known.kind, known.values["camera"], known.calibration()) == ("calibration", "left/eye", CALIBRATION)
    assert np.array_equal(placed.array("r_T_c"), np.full((4, 4), 0.1))
    with pytest.raises(InputError, match="extrinsics"):
        placed.calibration()


def test_refused_frames_are_written_down_and_not_given(tmp_path: Path) -> None:
    writer = ManifestWriter(tmp_path / "run.jsonl")
    writer.header(MapperConfig())
    writer.frame(some_frame(1), used=False, reason="too small")
    writer.frame(some_frame(2))
    writer.close()
    writer.close()
    writer.frame(some_frame(3))  # nothing
    assert "too small" in (tmp_path / "run.jsonl").read_text()
    assert [entry.stamp_ns for entry in read_manifest(tmp_path / "run.jsonl").entries()] == [2]  # type: ignore[union-attr]


def test_every_line_is_on_its_way_before_the_next(tmp_path: Path) -> None:
    """As a process that is killed leaves it."""
    writer = ManifestWriter(tmp_path / "run.jsonl")
    writer.header(MapperConfig())
    for seed in range(3):
        writer.frame(some_frame(seed))
        assert len(list(read_manifest(tmp_path / "run.jsonl").entries())) == seed + 1


def test_a_manifest_that_was_cut_off_gives_all_but_the_last_line(tmp_path: Path) -> None:
    path = written(tmp_path / "run.jsonl", [some_frame(seed) for seed in range(3)])
    whole = path.read_bytes()
    lines = whole.splitlines(keepends=True)
    before_last = len(b"".join(lines[:4]))
    for end in range(before_last + 1, before_last + len(lines[4]) - 1, 7):
        path.write_bytes(whole[:end])
        assert len(list(read_manifest(path).entries())) == 3
    path.write_bytes(whole[: before_last + len(lines[4]) - 1])  # only its end of line is missing
    assert len(list(read_manifest(path).entries())) == 4


@pytest.mark.parametrize(
    "line", ["no json", "[1, 2]", '{"stamp": 1}', '{"stamp": 1, "camera": "c", "image": 2, "up": [1, 2]}', "\x00"]
)
def test_a_broken_line_in_the_middle_is_refused(tmp_path: Path, line: str) -> None:
    path = written(tmp_path / "run.jsonl", [some_frame(1)])
    lines = path.read_text().splitlines()
    path.write_text("\n".join([*lines[:2], line, *lines[2:]]) + "\n")
    with pytest.raises(InputError, match=r"line 3 of manifest '.*run\.jsonl'"):
        list(read_manifest(path).entries())


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "not a manifest"),
        ("hello\n", "not a manifest"),
        ("[]\n", "not a manifest"),
        ('{"manifest": "x", "config": {}}\n', "not a manifest"),
        (
            json.dumps({"manifest": FORMAT + 1, "config": {}}),
            rf"version {FORMAT + 1}; this package reads up to {FORMAT}",
        ),
        (json.dumps({"manifest": FORMAT, "version": "9.9", "config": {"hue": 1}}), "9.9: unknown parameter 'hue'"),
        (json.dumps({"manifest": FORMAT, "config": 3}), "version None"),
    ],
)
def test_what_is_no_manifest_is_refused(tmp_path: Path, text: str, reason: str) -> None:
    (tmp_path / "run.jsonl").write_text(text)
    with pytest.raises(InputError, match=reason):
        read_manifest(tmp_path / "run.jsonl")


def test_a_binary_file_or_none_is_refused(tmp_path: Path) -> None:
    (tmp_path / "run.jsonl").write_bytes(bytes(range(256)) * 10)
    for name in ("run.jsonl", "gone.jsonl", "."):
        with pytest.raises(InputError, match="manifest"):
            read_manifest(tmp_path / name)


def test_what_cannot_be_written_is_said_at_once_or_ends_the_manifest(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="folder"):
        ManifestWriter(tmp_path)
    full = ManifestWriter("/dev/full")
    full.header(MapperConfig())
    assert "no space" in full.problem and "ends before the run" in full.problem
    full.frame(some_frame(1))
    full.close()


def test_checksums_tell_shapes_and_bytes_apart() -> None:
    a = np.arange(24, dtype=np.uint8)
    sums = {checksum(a), checksum(a.reshape(4, 6)), checksum(a.reshape(6, 4)), checksum(a[::-1]), checksum(a[1:])}
    assert len(sums) == 5 and checksum(None) == 0
    assert checksum(a.reshape(4, 6).T) == checksum(a.reshape(4, 6).T.copy())


_trees = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=9) | st.just(10**400),
    lambda inside: st.lists(inside, max_size=4) | st.dictionaries(st.text(max_size=5), inside, max_size=4),
    max_leaves=8,
)


@given(st.dictionaries(st.sampled_from(["stamp", "camera", "image", "mask", "o_T_c", "up", "points"]), _trees))
def test_a_line_of_any_values_is_right_or_refused(tmp_path_factory: pytest.TempPathFactory, values: dict) -> None:
    path = written(tmp_path_factory.mktemp("manifest") / "run.jsonl", [some_frame(1)])
    lines = path.read_text().splitlines()
    lines[2] = json.dumps(json.loads(lines[2]) | values)
    path.write_text("\n".join(lines) + "\n")
    try:
        entries = list(read_manifest(path).entries())
    except InputError as error:
        assert "line 3 of manifest" in str(error)
        return
    (entry,) = (entry for entry in entries if isinstance(entry, FrameEntry))
    assert entry.o_T_c is not None and is_rigid(entry.o_T_c)
    assert entry.up is not None and abs(np.linalg.norm(entry.up) - 1) < 0.01


@pytest.mark.parametrize(
    ("name", "value", "reason"),
    [
        ("stamp", float("inf"), "stamp"),
        ("stamp", 1.5, "stamp"),
        ("image", float("inf"), "infinity"),
        ("camera", None, "no name"),
        ("up", [0, 0, float("nan")], "length 1"),
        ("o_T_c", [[float("nan")] * 4] * 4, "rigid"),
        ("o_T_c", np.diag([2.0, 1.0, 1.0, 1.0]).tolist(), "rigid"),
        ("focal", [500.0, 0.0], "focal"),
        ("focal", [500.0], "unpack"),
        ("points", base64.b64encode(zlib.compress(np.full(3, np.nan, "<f4").tobytes())).decode(), "not finite"),
        ("points", base64.b64encode(zlib.compress(bytes((1 << 26) + 12))).decode(), "more than 64 MiB"),
        ("points", base64.b64encode(zlib.compress(bytes(120))[:-1]).decode(), "cut off"),
    ],
)
def test_numbers_that_no_frame_has_are_refused(tmp_path: Path, name: str, value: object, reason: str) -> None:
    path = written(tmp_path / "run.jsonl", [some_frame(1)])
    lines = path.read_text().splitlines()
    lines[2] = json.dumps(json.loads(lines[2]) | {name: value})
    path.write_text("\n".join(lines) + "\n")
    with pytest.raises(InputError, match=f"line 3 of manifest.*{reason}"):
        list(read_manifest(path).entries())
