"""Saved maps: what is bit-equal, what is near, what is refused."""

from __future__ import annotations

import os
import sqlite3
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest

from dust3r_ros.errors import MapFileError, OutputError
from dust3r_ros.io.map_blobs import pack_map, unpack_map
from dust3r_ros.io.saved_map import SCHEMA_VERSION, Edge, SavedMap, load_map, save_map
from dust3r_ros.scenes.sequence import RenderedSequence
from dust3r_ros.types import Camera, Keyframe


@dataclass
class FinishedMapper:
    keyframes: tuple[Keyframe, ...]
    cameras: dict[str, Camera]
    edges: list[Edge]


@pytest.fixture
def mapper(sequence: RenderedSequence) -> FinishedMapper:
    rng = np.random.default_rng(4)
    keyframes = []
    for index, (image, depth) in enumerate(zip(sequence.images, sequence.depths, strict=True)):
        depth = np.where(rng.random(depth.shape) < 0.2, 0, depth * 1e-3 * 10**index).astype(np.float32)
        confidence = np.where(depth > 0, 1 + rng.gamma(2, 3, depth.shape), 1).astype(np.float32)
        stamp_ns = int(sequence.stamps_ns[index])
        keyframes.append(
            Keyframe(3 * index, index, stamp_ns, "cam/a", sequence.w_T_c[index], 79.7 + 1e-9, image, depth, confidence)
        )
    cameras = {"cam/a": Camera("cam/a", 960, 720, 797.0, 1.5, 12), "b": Camera("b", 64, 48, 50.0, fixed=True)}
    cameras["c"] = Camera("c", 64, 48, 50.0, 1.0, principal_offset=(1.25, -0.1), distortion=(0.1, -0.02, 1e-3))
    return FinishedMapper(tuple(keyframes), cameras, [(0, 3, 1.5), (3, 6, 0.1), (9, 0, 2.0)])


def test_round_trip(mapper: FinishedMapper, tmp_path: Path) -> None:
    save_map(tmp_path / "map.db", mapper, {"seed": 0, "backend": "two_view", "min_confidence": 1.5})
    assert os.listdir(tmp_path) == ["map.db"]
    contents = load_map(tmp_path / "map.db")
    assert contents.settings == {"seed": 0, "backend": "two_view", "min_confidence": 1.5}
    assert contents.cameras == mapper.cameras
    assert contents.edges == ((0, 3, 1.5), (3, 6, 0.1), (9, 0, 2.0))
    for saved, original in zip(contents.keyframes, mapper.keyframes, strict=True):
        assert saved.w_T_c.tobytes() == original.w_T_c.tobytes() and saved.w_T_c.dtype == np.float64
        for name in ("index", "version", "stamp_ns", "camera", "focal"):
            assert getattr(saved, name) == getattr(original, name)
        assert np.array_equal(saved.image, original.image)
        assert saved.depth.dtype == saved.confidence.dtype == np.float32
        assert np.allclose(saved.depth, original.depth, rtol=6e-4, atol=0)
        assert np.array_equal(saved.depth == 0, original.depth == 0)
        assert np.allclose(saved.confidence, original.confidence, rtol=6e-4)
        assert np.array_equal(saved.confidence[original.depth == 0], np.ones((original.depth == 0).sum()))


def test_odd_values_stay_usable() -> None:
    values = np.array([[np.nan, np.inf, 0, -1], [1e-12, 1.0, 1e9, 65504]], np.float32)
    back = unpack_map(pack_map(values), 2, 4)
    assert np.isfinite(back).all() and (back[0] == 0).all() and (back[1] > 0).all() and back[1, 1] == 1


def test_a_map_grows_and_changes(mapper: FinishedMapper, tmp_path: Path) -> None:
    path = tmp_path / "map.db"
    with SavedMap(path, write=True) as saved:
        saved.write_keyframes(mapper.keyframes[:2])
        saved.write_edges([(0, 3, 1.0)])
    with SavedMap(path, write=True) as saved:
        saved.write_keyframes(mapper.keyframes[2:])
        newer = replace(mapper.keyframes[1], version=9, w_T_c=np.eye(4))
        saved.write_keyframes([newer])
        saved.write_keyframes([mapper.keyframes[1]])  # of an earlier version: too late
        saved.remove_keyframes([0, 77])
    assert os.listdir(tmp_path) == ["map.db"]
    contents = load_map(path)
    assert [keyframe.index for keyframe in contents.keyframes] == [3, 6, 9, 12, 15]
    assert contents.keyframes[0].version == 9 and np.array_equal(contents.keyframes[0].w_T_c, np.eye(4))
    assert contents.edges == ()


def test_a_failed_transaction_leaves_no_trace(mapper: FinishedMapper, tmp_path: Path) -> None:
    def breaking() -> object:
        yield mapper.keyframes[1]
        raise ZeroDivisionError

    with SavedMap(tmp_path / "map.db", write=True) as saved:
        saved.write_keyframes(mapper.keyframes[:1])
        with pytest.raises(ZeroDivisionError):
            saved.write_keyframes(breaking())  # type: ignore[arg-type]
        assert [keyframe.index for keyframe in saved.read().keyframes] == [0]
        saved.write_keyframes(mapper.keyframes[2:3])
    assert [keyframe.index for keyframe in load_map(tmp_path / "map.db").keyframes] == [0, 6]


def test_an_aborted_writer_leaves_what_was_written(mapper: FinishedMapper, tmp_path: Path) -> None:
    saved = SavedMap(tmp_path / "map.db", write=True)
    saved.write_keyframes(mapper.keyframes[:3])
    for file in tmp_path.iterdir():  # what a power cut would leave on the disk
        (tmp_path / "copy").mkdir(exist_ok=True)
        if file.is_file():
            (tmp_path / "copy" / file.name).write_bytes(file.read_bytes())
    saved.close()
    assert len(load_map(tmp_path / "copy" / "map.db").keyframes) == 3


def test_an_empty_map_is_a_map(tmp_path: Path) -> None:
    save_map(tmp_path / "map.db", FinishedMapper((), {}, []))
    assert load_map(tmp_path / "map.db").keyframes == ()


def test_pairs_of_keyframes_that_left_are_not_saved(mapper: FinishedMapper, tmp_path: Path) -> None:
    mapper.edges.append((0, 999, 1.0))
    save_map(tmp_path / "map.db", mapper)
    assert len(load_map(tmp_path / "map.db").edges) == 3


@pytest.mark.parametrize("write", [False, True])
def test_a_map_of_the_first_schema_has_plain_lenses(mapper: FinishedMapper, tmp_path: Path, write: bool) -> None:
    save_map(tmp_path / "map.db", mapper)
    base = sqlite3.connect(tmp_path / "map.db")
    base.executescript(
        """
        CREATE TABLE old (name TEXT PRIMARY KEY, width INTEGER NOT NULL, height INTEGER NOT NULL, focal REAL NOT NULL,
            focal_std REAL NOT NULL, support INTEGER NOT NULL, fixed INTEGER NOT NULL);
        INSERT INTO old SELECT name, width, height, focal, focal_std, support, fixed FROM cameras;
        DROP TABLE cameras;
        ALTER TABLE old RENAME TO cameras;
        PRAGMA user_version = 1;
        """
    )
    base.close()
    plain = {
        name: replace(camera, principal_offset=(0.0, 0.0), distortion=(0.0, 0.0, 0.0))
        for name, camera in mapper.cameras.items()
    }
    with SavedMap(tmp_path / "map.db", write=write) as saved:
        contents = saved.read()
        assert contents.cameras == plain and len(contents.keyframes) == len(mapper.keyframes)
        if write:  # the file is of this schema from here on
            saved.write_cameras([mapper.cameras["c"]])
    if write:
        assert load_map(tmp_path / "map.db").cameras == {**plain, "c": mapper.cameras["c"]}


def test_a_newer_schema_is_refused_with_both_versions(mapper: FinishedMapper, tmp_path: Path) -> None:
    save_map(tmp_path / "map.db", mapper)
    base = sqlite3.connect(tmp_path / "map.db")
    base.execute(f"PRAGMA user_version = {SCHEMA_VERSION + 1}")
    base.close()
    for write in (False, True):
        with pytest.raises(MapFileError, match=rf"schema {SCHEMA_VERSION + 1}.*newer.*up to {SCHEMA_VERSION}"):
            SavedMap(tmp_path / "map.db", write=write)


def test_other_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(MapFileError, match=r"gone\.db' does not exist"):
        load_map(tmp_path / "gone.db")
    assert not (tmp_path / "gone.db").exists()
    (tmp_path / "text.db").write_text("no database at all " * 100)
    base = sqlite3.connect(tmp_path / "other.db")
    base.execute("CREATE TABLE songs (name TEXT)")
    base.commit()
    base.close()
    (tmp_path / "empty.db").touch()
    for name in ("text.db", "other.db", "empty.db"):
        with pytest.raises(MapFileError, match=name.replace(".", r"\.")):
            load_map(tmp_path / name)
    for name in ("text.db", "other.db"):
        before = (tmp_path / name).read_bytes()
        with pytest.raises(MapFileError):
            SavedMap(tmp_path / name, write=True)
        assert (tmp_path / name).read_bytes() == before
    (tmp_path / "folder.db").mkdir()
    with pytest.raises(MapFileError):
        load_map(tmp_path / "folder.db")


@pytest.mark.parametrize("part", [0.1, 0.5, 0.9])
def test_a_truncated_map_is_refused(mapper: FinishedMapper, tmp_path: Path, part: float) -> None:
    save_map(tmp_path / "map.db", mapper)
    data = (tmp_path / "map.db").read_bytes()
    (tmp_path / "map.db").write_bytes(data[: int(part * len(data))])
    with pytest.raises(MapFileError, match=r"map\.db"):
        load_map(tmp_path / "map.db")


@pytest.mark.parametrize("column", ["w_T_c", "image", "depth", "confidence"])
def test_damaged_keyframes_are_named(mapper: FinishedMapper, tmp_path: Path, column: str) -> None:
    save_map(tmp_path / "map.db", mapper)
    base = sqlite3.connect(tmp_path / "map.db")
    base.execute(f"UPDATE keyframes SET {column} = zeroblob(128) WHERE number = 6")
    base.commit()
    base.close()
    with pytest.raises(MapFileError, match="keyframe 6"):
        load_map(tmp_path / "map.db")


def test_failed_writes_are_sentences(mapper: FinishedMapper, tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="nowhere"):
        save_map(tmp_path / "nowhere" / "map.db", mapper)
    with SavedMap(tmp_path / "map.db", write=True) as saved:
        other = sqlite3.connect(tmp_path / "map.db", timeout=0, isolation_level=None)
        other.execute("BEGIN IMMEDIATE")
        saved._base.execute("PRAGMA busy_timeout = 10")
        with pytest.raises(OutputError, match="locked"):
            saved.write_keyframes(mapper.keyframes)
        other.execute("ROLLBACK")
        other.close()
        with pytest.raises(OutputError, match="cannot be written"):
            saved.write_cameras([Camera("a", 4, 3, 2.0, focal_std=float("nan"))])
