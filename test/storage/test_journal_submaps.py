"""Several maps in one file: what sleeps, wakes and becomes one while it is written."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from growing import resumed
from sequences import SMALL, walk

from dust3r_ros.mapping.atlas import AtlasEntry, Search
from dust3r_ros.mapping.mapper import Mapper
from dust3r_ros.scenes.sequence import RenderedSequence
from dust3r_ros.storage.journal import MapJournal
from dust3r_ros.storage.saved_map import load_map, load_state, save_map

SECOND = 10**9
CONFIG = replace(SMALL, working_size=96, lost_patience_s=1.0, keyframe_motion=0.01, keyframe_motion_young=0.01)


@pytest.fixture(scope="module")
def orbit() -> RenderedSequence:
    return walk("orbit", 48)


def feed(mapper: Mapper, journal: MapJournal, images: np.ndarray, begin_s: int) -> None:
    """Images 0.125 s apart."""
    for i, image in enumerate(images):
        mapper.process(begin_s * SECOND + i * SECOND // 8, "camera", image)
        journal.update(mapper.live)


def darkness(mapper: Mapper, journal: MapJournal, images: np.ndarray, begin_s: int) -> None:
    feed(mapper, journal, np.zeros_like(images[:17]), begin_s)


def same(path: Path, mapper: Mapper) -> None:
    """Every map of the file is that of the mapper."""
    entries = [mapper._atlas.active, *mapper._atlas.asleep]
    state = load_state(path)
    assert [saved.names for saved in state.submaps] == [tuple(entry.names) for entry in entries]
    for saved, entry in zip(state.submaps, entries, strict=True):
        sparse = entry.submap.state.sparse
        assert saved.facts["initialised"] == entry.submap.initialised
        assert sorted(saved.edges) == sorted(entry.submap.graph.edges)
        assert set(saved.pairs) == set(entry.submap.saving.pairs)
        for keyframe, view in zip(saved.keyframes, sparse.views, strict=True):
            assert (keyframe.w_T_c is None) == (view.w_T_c is None)
            assert keyframe.w_T_c is None or keyframe.w_T_c.tobytes() == view.w_T_c.tobytes()
            assert np.array_equal(keyframe.seen.ids, view.seen.ids), "landmarks are called as in the mapper"
            assert np.array_equal(keyframe.seen.pixels, view.seen.pixels)
            assert keyframe.first_id == view.first_id
        assert len(saved.frames) == len(entry.frames)
        for (_, mine), kept in zip(entry.frames.since(0, -1), saved.frames, strict=True):
            assert (mine.stamp_ns, mine.keyframe, mine.session) == (kept.stamp_ns, kept.keyframe, kept.session)
    shown, largest = load_map(path), max(entries, key=lambda entry: len(posed(entry)))
    assert [k.index for k in shown.keyframes] == posed(largest), "not a map that a lost camera has just begun"
    assert shown.maps == sum(bool(posed(entry)) for entry in entries)
    for k, own in zip(shown.keyframes, mapper.keyframes, strict=True) if largest is entries[0] else ():
        assert np.allclose(k.depth, own.depth, rtol=1e-3)


def posed(entry: AtlasEntry) -> list[int]:
    """Names of its keyframes with a pose."""
    return [entry.names[k] for k in entry.submap.posed()] if entry.submap.initialised else []


@pytest.fixture
def nothing_wakes(monkeypatch: pytest.MonkeyPatch) -> None:
    """A map that sleeps is not recognised in single frames: the way back is to become one with it."""
    monkeypatch.setattr(Search, "elsewhere", lambda *_: None)


def test_maps_sleep_and_become_one(orbit: RenderedSequence, tmp_path: Path, nothing_wakes: None) -> None:
    config, path = replace(CONFIG, focal=orbit.focal), tmp_path / "map.db"
    mapper = Mapper(config)
    with MapJournal(path) as journal:
        feed(mapper, journal, orbit.images[:30], 0)
        same(path, mapper)
        darkness(mapper, journal, orbit.images, 10)
        feed(mapper, journal, orbit.images[38:35:-1], 20)
        same(path, mapper)
        assert len(mapper._atlas.asleep) == 1, "two maps"
    # The second session knows both, and that they are one when it sees where they meet.
    mapper = resumed(path, config)
    with MapJournal(path, fresh=False) as journal:
        same(path, mapper)
        feed(mapper, journal, orbit.images[35:25:-1], 5)
        assert len(mapper._atlas.asleep) == 0, "one map"
        same(path, mapper)
        mapper.finish()
        journal.update(mapper.live)
        same(path, mapper)
    whole = tmp_path / "whole.db"
    save_map(whole, mapper)
    same(whole, mapper)
    third = resumed(path, config)
    assert len(third.keyframes) == len(mapper.keyframes) and len(third.trajectory()) == len(mapper.trajectory())


def test_a_map_that_wakes_is_the_active_one(orbit: RenderedSequence, tmp_path: Path) -> None:
    config, path = replace(CONFIG, focal=orbit.focal), tmp_path / "map.db"
    mapper = Mapper(config)
    with MapJournal(path) as journal:
        feed(mapper, journal, orbit.images[:24], 0)
        darkness(mapper, journal, orbit.images, 10)
        feed(mapper, journal, walk("corridor", 24).images[:6], 20)
        assert len(mapper._atlas.asleep) == 1
        same(path, mapper)
        feed(mapper, journal, orbit.images[4:6], 30)
        assert len(mapper._atlas.active.submap) > 10
        same(path, mapper)
    again = resumed(path, config)
    assert again._atlas.active.names == mapper._atlas.active.names
    assert [s.names for s in again._atlas.asleep] == [s.names for s in mapper._atlas.asleep]
