"""Saved maps: what is bit-equal, what is near, what is refused."""

from __future__ import annotations

import os
import sqlite3
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from dust3r_ros.errors import MapFileError, OutputError
from dust3r_ros.scenes.sequence import RenderedSequence
from dust3r_ros.storage.journal import MapJournal
from dust3r_ros.storage.packing import pack_map, unpack_map
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
    cameras["c"] = Camera(
        "c", 64, 48, 50.0, 1.0, principal_offset=(1.25, -0.1), distortion=(0.1, -0.02, 0.0, 0.0, 1e-3)
    )
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


@pytest.mark.parametrize(("step", "which"), [(1, "newer"), (-1, "older")])
def test_another_schema_is_refused_with_both_versions(
    mapper: FinishedMapper, tmp_path: Path, step: int, which: str
) -> None:
    save_map(tmp_path / "map.db", mapper)
    base = sqlite3.connect(tmp_path / "map.db")
    base.execute(f"PRAGMA user_version = {SCHEMA_VERSION + step}")
    base.close()
    for load in (load_map, load_state, partial(MapJournal, fresh=False)):
        with pytest.raises(MapFileError, match=rf"schema {SCHEMA_VERSION + step} .*{which}.*schema {SCHEMA_VERSION};"):
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


@pytest.mark.parametrize(
    "change",
    [
        "UPDATE keyframes SET stamp_ns = stamp_ns + 1 WHERE number = 6", "UPDATE cameras SET focal = 1.001 * focal",
        "UPDATE edges SET weight = -weight", "UPDATE settings SET value = '2'", "DELETE FROM edges WHERE first = 3",
        "DELETE FROM depths WHERE number = 6", "UPDATE seals SET seal = 0 WHERE part = 'images'", "DROP TABLE seals",
    ],
)  # fmt: skip
def test_no_number_changes_unnoticed(mapper: FinishedMapper, tmp_path: Path, change: str) -> None:
    """Those that stay plausible, too."""
    save_map(tmp_path / "map.db", mapper, {"seed": 1})
    base = sqlite3.connect(tmp_path / "map.db")
    base.execute(change)
    base.commit()
    base.close()
    with pytest.raises(MapFileError, match=r"map\.db' is damaged"):
        load_map(tmp_path / "map.db")


def test_failed_writes_are_sentences(mapper: FinishedMapper, tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="nowhere"):
        save_map(tmp_path / "nowhere" / "map.db", mapper)
    mapper.cameras["a"] = Camera("a", 4, 3, 2.0, focal_std=float("nan"))
    with pytest.raises(OutputError, match="cannot be written"):
        save_map(tmp_path / "map.db", mapper)
    assert os.listdir(tmp_path) == []
