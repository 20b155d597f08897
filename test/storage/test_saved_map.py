"""Saved maps: what is bit-equal, what is near, what is refused."""

from __future__ import annotations

import os
import sqlite3
import zlib
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from growing import DENSE, grow, resumed
from sequences import walk

from dust3r_ros.errors import MapFileError, OutputError
from dust3r_ros.geometry.similarity import Similarity
from dust3r_ros.mapping.mapper import Mapper
from dust3r_ros.scenes.sequence import RenderedSequence
from dust3r_ros.storage import saved_map
from dust3r_ros.storage.journal import MapJournal
from dust3r_ros.storage.packing import pack_map, unpack_map
from dust3r_ros.storage.saved_map import SCHEMA_VERSION, Edge, load_map, load_state, save_map
from dust3r_ros.types import Camera, Keyframe


@dataclass
class FinishedMapper:
    keyframes: tuple[Keyframe, ...]
    cameras: dict[str, Camera]
    edges: list[Edge]


@pytest.fixture(scope="module")
def grown() -> Mapper:
    """A whole map of some keyframes with depth."""
    walked = walk("orbit", 12)
    made = Mapper(replace(DENSE, focal=walked.focal))
    grow(made, None, walked, range(12))
    made.finish()
    return made


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
        "c", 64, 48, 50.0, 1.0, principal_offset=(1.25, -0.1), distortion=(0.1, -0.02, 0.0, 0.0, 1e-3),
        readout=(-0.01, 0.02),
    )  # fmt: skip
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


def planes(blob: bytes, kind: str) -> np.ndarray:
    """Numbers in planes, as in docs/saved-maps.md."""
    raw = np.frombuffer(zlib.decompress(blob), np.uint8)
    return raw.reshape(np.dtype(kind).itemsize, -1).T.copy().view(kind)[:, 0]


def halves(blob: bytes) -> np.ndarray:
    return (np.cumsum(planes(blob, "<u2"), dtype=int) % 65536).astype("<u2").view("<f2").astype(np.float64)


def points(blob: bytes, middle: np.ndarray) -> np.ndarray:
    at = planes(blob[1:], f"<f{blob[:1].decode()}").reshape(-1, 2)
    return at - middle if blob[:1] == b"4" else at


def steps(blob: bytes) -> np.ndarray:
    return np.cumsum(np.frombuffer(zlib.decompress(blob), "<i4"), dtype=int)


def test_other_programs_read_a_map_by_the_docs(grown: Mapper, tmp_path: Path) -> None:
    path, larger = tmp_path / "map.db", np.zeros(100_000, int)
    save_map(path, grown)
    base = sqlite3.connect(path)
    middle = (np.array(base.execute("SELECT width, height FROM cameras").fetchone()) - 1) / 2  # tracked in this size
    for chunk, blob in base.execute("SELECT chunk, ids FROM aliases"):
        larger[4096 * chunk :][: len(steps(blob))] = steps(blob)
    rows = base.execute(
        "SELECT depth, depth_scale, confidence, features, descriptors, feature_ids, ids, offsets, seen FROM keyframes "
        "JOIN depths USING (number) JOIN images USING (number) JOIN observations USING (number) "
        "JOIN observation_states USING (number) ORDER BY place"
    )
    for row, own, saved in zip(rows, grown.keyframes, load_state(path).submaps[0].keyframes, strict=True):
        depth, scale, confidence, features, descriptors, feature_ids, more, offsets, seen = row
        assert np.allclose(halves(depth) * scale, own.depth.ravel(), rtol=1e-3, atol=0) and own.depth.any()
        assert np.allclose(halves(confidence), own.confidence.ravel(), rtol=1e-3)
        assert np.array_equal(points(features, middle), saved.features.pixels) and len(saved.features.pixels) > 20
        assert zlib.decompress(descriptors) == saved.features.descriptors.reshape(-1, 128).tobytes()
        observed = np.concatenate([points(features, middle), points(offsets, middle)])
        assert np.array_equal(observed[steps(seen)], saved.seen.pixels) and len(saved.seen.pixels) > 20
        ids = np.concatenate([steps(feature_ids), steps(more)])[steps(seen)]
        while larger[ids].any():
            ids = ids - larger[ids]
        assert np.array_equal(ids, saved.seen.ids)
    assert larger.any()


def test_a_map_takes_its_space_once(grown: Mapper, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not that of a log, too, while it is written: the disk may be nearly full."""
    close, sizes = MapJournal.close, []

    def closed(journal: MapJournal) -> None:
        sizes.append(sum(file.stat().st_size for file in tmp_path.iterdir()))
        close(journal)

    monkeypatch.setattr(MapJournal, "close", closed)
    save_map(tmp_path / "map.db", grown)
    assert sizes == [(tmp_path / "map.db").stat().st_size]


def test_a_readout_is_kept(grown: Mapper, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "map.db"
    state = grown.live.atlas.active.submap.state
    measured = [replace(known, rolling=(0.0, 1e-4)) for known in grown.live.atlas.active.submap.intrinsics]
    monkeypatch.setattr(state.sparse, "intrinsics", measured)
    save_map(path, grown)
    assert load_map(path).cameras == grown.cameras and grown.cameras["camera"].readout[1] > 0
    again = resumed(path, grown.config)
    with MapJournal(path, fresh=False) as journal:
        journal.update(again.live)
    assert load_map(path).cameras == grown.cameras == again.cameras
    base = sqlite3.connect(path)  # of a version that did not store it
    base.execute("DELETE FROM state WHERE name = 'readouts'")
    base.execute("DELETE FROM seals WHERE (part, row) = ('state', 'readouts')")
    base.commit()
    base.close()
    assert load_map(path).cameras["camera"].readout == (0.0, 0.0)


def test_a_pixel_may_be_of_many_landmarks(grown: Mapper, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where many places come together, as at a thing far away, and in corners that have converged."""
    view = grown.live.atlas.active.submap.state.sparse.views[2]
    ids = view.seen.ids.copy()
    one = view.seen.moved(ids[-12:], np.tile([20.25, -0.0], (12, 1)))
    monkeypatch.setattr(view, "seen", one)
    save_map(tmp_path / "map.db", grown)
    again = resumed(tmp_path / "map.db", grown.config).live.atlas.active.submap.state.sparse.views[2].seen
    assert np.array_equal(again.ids, ids) and np.allclose(again.pixels, one.pixels, atol=0.01)


def test_landmarks_are_of_the_same_state(grown: Mapper, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The unit of a map that grows changes while it is read."""
    before, contents = saved_map._contents, []
    with MapJournal(tmp_path / "map.db") as journal:
        journal.update(grown.live)
        expected = load_map(tmp_path / "map.db", landmarks=True)

        def meanwhile(*arguments: Any) -> Any:
            contents.append(before(*arguments))
            grown.move(Similarity(4.0, np.eye(3), np.zeros(3)))
            journal.update(grown.live)
            return contents[0]

        monkeypatch.setattr(saved_map, "_contents", meanwhile)
        found = load_map(tmp_path / "map.db", landmarks=True)
    assert contents and found.keyframes[-1].w_T_c.tobytes() == expected.keyframes[-1].w_T_c.tobytes()
    assert len(found.landmarks.positions) > 100
    assert np.array_equal(found.landmarks.positions, expected.landmarks.positions)


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
    with pytest.raises(OutputError, match=f"'{tmp_path}/map.db' cannot be written"):
        save_map(tmp_path / "map.db", mapper)
    assert os.listdir(tmp_path) == []
