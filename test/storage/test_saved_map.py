"""Saved maps: what is bit-equal, what is near, what is refused."""

from __future__ import annotations

import os
import sqlite3
import zlib
from dataclasses import dataclass, replace
from pathlib import Path

import cv2
import numpy as np
import pytest

from dust3r_ros.errors import MapFileError, OutputError
from dust3r_ros.scenes.sequence import RenderedSequence
from dust3r_ros.storage.blobs import pack_map, unpack_map
from dust3r_ros.storage.saved_map import SCHEMA_VERSION, Edge, load_map, load_state, save_map
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


def test_an_empty_map_is_a_map(tmp_path: Path) -> None:
    save_map(tmp_path / "map.db", FinishedMapper((), {}, []))
    assert load_map(tmp_path / "map.db").keyframes == ()


def test_pairs_of_keyframes_that_left_are_not_saved(mapper: FinishedMapper, tmp_path: Path) -> None:
    mapper.edges.append((0, 999, 1.0))
    save_map(tmp_path / "map.db", mapper)
    assert len(load_map(tmp_path / "map.db").edges) == 3


OLD_SCHEMA = """
CREATE TABLE settings (name TEXT PRIMARY KEY, value TEXT NOT NULL);
CREATE TABLE cameras (name TEXT PRIMARY KEY, width INTEGER NOT NULL, height INTEGER NOT NULL, focal REAL NOT NULL,
    focal_std REAL NOT NULL, support INTEGER NOT NULL, fixed INTEGER NOT NULL{lens});
CREATE TABLE keyframes (number INTEGER PRIMARY KEY, version INTEGER NOT NULL, stamp_ns INTEGER NOT NULL,
    camera TEXT NOT NULL, w_T_c BLOB NOT NULL, focal REAL NOT NULL, height INTEGER NOT NULL, width INTEGER NOT NULL,
    image BLOB NOT NULL, depth BLOB NOT NULL, depth_scale REAL NOT NULL, confidence BLOB NOT NULL);
CREATE TABLE edges (first INTEGER NOT NULL, second INTEGER NOT NULL, weight REAL NOT NULL, PRIMARY KEY (first, second));
PRAGMA application_id = 1144214093;
PRAGMA user_version = {version};
"""
LENS = "".join(f", {name} REAL NOT NULL DEFAULT 0" for name in ("offset_x", "offset_y", "k1", "k2", "k3"))


def old_map(path: Path, mapper: FinishedMapper, version: int) -> None:
    """A file as earlier versions of this program wrote it."""
    base = sqlite3.connect(path)
    base.executescript(OLD_SCHEMA.format(version=version, lens=LENS if version > 1 else ""))
    base.execute("INSERT INTO settings VALUES ('seed', '7')")
    for c in mapper.cameras.values():
        row = [c.name, c.width, c.height, c.focal, c.focal_std, c.support, int(c.fixed)]
        row += [*c.principal_offset, *c.distortion] if version > 1 else []
        base.execute(f"INSERT INTO cameras VALUES ({', '.join('?' * len(row))})", row)
    for k in mapper.keyframes:
        png = cv2.imencode(".png", k.image[..., ::-1])[1].tobytes()
        scale = float(np.median(k.depth[k.depth > 0]))
        depth, confidence = (zlib.compress(a.astype("<f2").tobytes()) for a in (k.depth / scale, k.confidence))
        head = (k.index, k.version, k.stamp_ns, k.camera, k.w_T_c.astype("<f8").tobytes(), k.focal, *k.depth.shape)
        base.execute(f"INSERT INTO keyframes VALUES ({', '.join('?' * 12)})", (*head, png, depth, scale, confidence))
    base.executemany("INSERT INTO edges VALUES (?, ?, ?)", mapper.edges)
    base.commit()
    base.close()


@pytest.mark.parametrize("version", [1, 2])
def test_maps_of_older_schemas_can_be_shown_and_not_continued(
    mapper: FinishedMapper, tmp_path: Path, version: int
) -> None:
    old_map(tmp_path / "map.db", mapper, version)
    contents = load_map(tmp_path / "map.db", landmarks=True)
    plain = {
        name: replace(camera, principal_offset=(0.0, 0.0), distortion=(0.0, 0.0, 0.0))
        for name, camera in mapper.cameras.items()
    }
    assert contents.cameras == (plain if version == 1 else mapper.cameras)
    assert contents.settings == {"seed": 7} and contents.landmarks is None
    assert contents.edges == ((0, 3, 1.5), (3, 6, 0.1), (9, 0, 2.0))
    for saved, original in zip(contents.keyframes, mapper.keyframes, strict=True):
        assert saved.w_T_c.tobytes() == original.w_T_c.tobytes() and saved.focal == original.focal
        assert np.array_equal(saved.image, original.image)
        assert np.allclose(saved.depth, original.depth, rtol=6e-4, atol=0)
    with pytest.raises(MapFileError, match=f"schema {version} .*shown .*not continued"):
        load_state(tmp_path / "map.db")


def test_a_newer_schema_is_refused_with_both_versions(mapper: FinishedMapper, tmp_path: Path) -> None:
    save_map(tmp_path / "map.db", mapper)
    base = sqlite3.connect(tmp_path / "map.db")
    base.execute(f"PRAGMA user_version = {SCHEMA_VERSION + 1}")
    base.close()
    for load in (load_map, load_state):
        with pytest.raises(MapFileError, match=rf"schema {SCHEMA_VERSION + 1}.*newer.*up to {SCHEMA_VERSION}"):
            load(tmp_path / "map.db")


def test_products_alone_are_shown_and_not_continued(mapper: FinishedMapper, tmp_path: Path) -> None:
    save_map(tmp_path / "map.db", mapper)
    with pytest.raises(MapFileError, match="products"):
        load_state(tmp_path / "map.db")


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
        with pytest.raises(MapFileError, match=name.replace(".", r"\.")):
            load_state(tmp_path / name)
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


@pytest.mark.parametrize("column", ["keyframes.w_T_c", "images.image", "depths.depth", "depths.confidence"])
@pytest.mark.parametrize("damage", ["zeros", "flipped"])
def test_damaged_keyframes_are_named(mapper: FinishedMapper, tmp_path: Path, column: str, damage: str) -> None:
    save_map(tmp_path / "map.db", mapper)
    table, name = column.split(".")
    base = sqlite3.connect(tmp_path / "map.db")
    blob = bytearray(base.execute(f"SELECT {name} FROM {table} WHERE number = 6").fetchone()[0])
    blob[len(blob) // 2] ^= 1
    value = bytes(128) if damage == "zeros" else bytes(blob)
    base.execute(f"UPDATE {table} SET {name} = ? WHERE number = 6", (value,))
    base.commit()
    base.close()
    with pytest.raises(MapFileError, match="keyframe 6"):
        load_map(tmp_path / "map.db")


def test_failed_writes_are_sentences(mapper: FinishedMapper, tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="nowhere"):
        save_map(tmp_path / "nowhere" / "map.db", mapper)
    mapper.cameras["a"] = Camera("a", 4, 3, 2.0, focal_std=float("nan"))
    with pytest.raises(OutputError, match="cannot be written"):
        save_map(tmp_path / "map.db", mapper)
    assert os.listdir(tmp_path) == []
