"""Redundant keyframes leave the map, and nothing that is saved or shown of it gets worse."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from branches import branch
from merging import feature_matches
from scipy.spatial import cKDTree
from wandering import config, forgetful, live, there_and_back, wander, ways

from dust3r_ros.cloud.cloud import map_cloud, thin
from dust3r_ros.evaluation.errors import trajectory_errors
from dust3r_ros.mapping.atlas import Atlas, Search
from dust3r_ros.mapping.mapper import Mapper
from dust3r_ros.mapping.submap import CULL
from dust3r_ros.scenes.rooms import room
from dust3r_ros.scenes.sequence import render_path, walk
from dust3r_ros.storage.journal import MapJournal
from dust3r_ros.storage.loading import load_state
from dust3r_ros.storage.saved_map import load_map
from dust3r_ros.tracking.exchange import FollowedPose
from dust3r_ros.types import MapUpdate, StampedPose


class Walked:
    """A map with redundant keyframes, and the true poses of its frames."""

    def __init__(self, dense: bool) -> None:
        self.mapper = Mapper(config(dense))
        self.truth = there_and_back(self.mapper)


@pytest.fixture(scope="module")
def sparse() -> Walked:
    return Walked(dense=False)


@pytest.fixture(scope="module")
def dense() -> Walked:
    return Walked(dense=True)


def culled(mapper: Mapper) -> tuple[int, ...]:
    """Cull; returns the names of what left."""
    return mapper_work(mapper).removed


def mapper_work(mapper: Mapper) -> MapUpdate:
    return mapper.work(CULL)


def same_poses(mapper: Mapper, before: list[StampedPose]) -> None:
    after = mapper.trajectory()
    assert [(pose.stamp_ns, pose.camera) for pose in after] == [(pose.stamp_ns, pose.camera) for pose in before]
    for a, b in zip(after, before, strict=True):
        np.testing.assert_allclose(a.w_T_c, b.w_T_c, atol=1e-12)


def test_only_what_is_redundant_leaves(sparse: Walked) -> None:
    mapper = branch(sparse.mapper)
    before, cameras = mapper.trajectory(), mapper.cameras
    points = {k.index: k.w_T_c for k in mapper.keyframes}
    names = culled(mapper)
    assert len(names) >= 4 and 0 not in names
    kept = {k.index: k.w_T_c for k in mapper.keyframes}
    assert kept.keys() == points.keys() - set(names), "the others keep their names"
    assert all(np.array_equal(kept[name], points[name]) for name in kept), "and their poses"
    same_poses(mapper, before)
    assert mapper.cameras["camera"].focal == cameras["camera"].focal
    assert culled(mapper) == (), "nothing is left to cull: what was lost counts"


def test_what_ties_a_rig_is_not_dropped_either(sparse: Walked) -> None:
    mapper = branch(sparse.mapper)
    names = [keyframe.index for keyframe in mapper.keyframes]
    mapper.submap.placement._reported[5] = 4, np.eye(4)
    mapper.drop(names[4:7])
    assert [keyframe.index for keyframe in mapper.keyframes] == [*names[:6], *names[7:]]
    assert mapper.submap.placement.ties == {4, 5}


def test_everything_goes_by_the_new_numbers(sparse: Walked) -> None:
    mapper = branch(sparse.mapper)
    old = [mapper.submap.state.records[k] for k in range(len(mapper.submap))]
    names = culled(mapper)
    state = mapper.submap.state
    stay = [record for index, record in enumerate(old) if index not in names]
    assert all(a is b for a, b in zip(state.records, stay, strict=True))
    count = len(stay)
    assert len(state.sparse.views) == count == len(mapper._atlas.active.names)
    assert sorted(state.trail) == list(range(count))
    assert all(record.before is None or record.before < at for at, record in enumerate(state.records))
    assert {end for edge in state.graph.edges for end in edge[:2]} <= set(range(count))
    assert state.graph.count("camera") == state.graph.pairs == len(state.graph.edges)
    seen = np.concatenate([np.unique(view.seen.ids) for view in state.sparse.views])
    observers = np.bincount(seen, minlength=len(state.sparse.points))
    assert observers[state.sparse.positioned].min() >= 2, "two see every landmark that has a position"


def test_accuracy_and_relocalisation_are_not_worse(sparse: Walked) -> None:
    whole, thinned = branch(sparse.mapper), branch(sparse.mapper)
    with forgetful():
        whole.finish()
    thinned.finish()
    assert thinned.counts.keyframes <= whole.counts.keyframes - 4
    errors = [trajectory_errors(sparse.truth, mapper.trajectory()).ate for mapper in (whole, thinned)]
    assert errors[1] < 1.2 * errors[0] + 1e-4
    others = render_path("orbit", room(), walk("orbit", 24, laps=24 / 180, seed=7), width=240, height=176)
    found = [sum(located(mapper, image) for image in others.images[::3]) for mapper in (whole, thinned)]
    assert found[1] >= found[0] == 8


def located(mapper: Mapper, image: np.ndarray) -> bool:
    stream = mapper.stream("camera")
    return mapper.submap.finder.relocalise(stream, stream.gray(image), stream.resize.apply(image)) is not None


def test_the_cloud_covers_the_same_surface(dense: Walked) -> None:
    mapper = branch(dense.mapper)
    cloud, depths = thin(map_cloud(mapper.keyframes, 1.5), 0.02), {k.index: k.depth for k in mapper.keyframes}
    names = culled(mapper)
    assert len(names) >= 4
    near, _ = cKDTree(map_cloud(mapper.keyframes, 1.5).points).query(cloud.points)
    assert np.mean(near < 0.04) > 0.98
    assert all(np.array_equal(k.depth, depths[k.index]) for k in mapper.keyframes)
    mapper.finish()
    assert all((k.depth > 0).any() for k in mapper.keyframes)
    wander(mapper, ways()[0], first=100)
    assert mapper.counts.lost == 0, "it can grow on"


def test_a_culled_map_is_saved_and_resumed(dense: Walked, tmp_path: Path) -> None:
    mapper, path = branch(dense.mapper), tmp_path / "map.db"
    with MapJournal(path) as journal:
        journal.update(mapper.live)
        rows = len(load_map(path).keyframes)
        names = culled(mapper)
        journal.update(mapper.live)
        state = load_state(path)
        assert len(state.submaps[0].names) == rows - len(names)
        as_saved(mapper, path)
        wander(mapper, ways()[0], first=100)
        journal.update(mapper.live)
        as_saved(mapper, path)


def as_saved(mapper: Mapper, path: Path) -> None:
    """The file holds what the mapper does, and another one continues with it."""
    (saved,), entry = load_state(path).submaps, mapper._atlas.active
    assert saved.names == tuple(entry.names)
    assert sorted(saved.edges) == sorted(entry.submap.graph.edges)
    assert set(saved.pairs) == set(entry.submap.saving.pairs)
    again = Mapper(mapper.config)
    again.resume(load_state(path))
    assert [k.index for k in again.keyframes] == [k.index for k in mapper.keyframes]
    for a, b in zip(again.keyframes, mapper.keyframes, strict=True):
        assert np.array_equal(a.w_T_c, b.w_T_c) and np.allclose(a.depth, b.depth, rtol=1e-3)
    for mine, kept in zip(mapper.trajectory(), again.trajectory(), strict=True):
        np.testing.assert_allclose(mine.w_T_c, kept.w_T_c, atol=1e-3)
    for ours, theirs in zip(entry.submap.state.sparse.views, again.submap.state.sparse.views, strict=True):
        assert np.array_equal(ours.seen.ids, theirs.seen.ids)


def test_a_live_map_is_culled_at_rest() -> None:
    mapper, truth = branch(live())
    with forgetful():
        while mapper.due not in ("", CULL):
            mapper.work(mapper.due)
    assert mapper.due == CULL
    before, keyframes = mapper.trajectory(), {k.index: k for k in mapper.keyframes}
    removed = mapper.work(CULL).removed
    assert len(removed) >= 4 and mapper.due == ""
    same_poses(mapper, before)
    late = late_pose(mapper, removed[0], before)
    assert mapper.follow([late]) == 1, "found beside a keyframe that is gone"
    found = {pose.stamp_ns: pose.w_T_c for pose in mapper.trajectory()}
    np.testing.assert_allclose(found[late.stamp_ns], keyframes[removed[0]].w_T_c, atol=1e-9)
    wander(mapper, ways()[0], first=200)
    assert mapper.counts.lost == 0
    mapper.finish()
    assert trajectory_errors(truth, mapper.trajectory()).ate < 0.01


def late_pose(mapper: Mapper, name: int, before: list[StampedPose]) -> FollowedPose:
    """What a front end says that found a frame where keyframe ``name`` was."""
    nothing, unit = np.zeros(0, np.int64), float("nan")
    stamp_ns = before[-1].stamp_ns + 1
    return FollowedPose(stamp_ns, "camera", 0, name, np.eye(4), unit, nothing, np.zeros((0, 2)), stamp_ns)


def test_two_maps_of_one_place_lose_what_they_have_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Search, "elsewhere", lambda *_: None)
    mapper, (there, back) = Mapper(config(dense=False)), ways()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Atlas, "join", lambda *_: None)
        truth = wander(mapper, there)
        mapper.begin_anew()
        truth += wander(mapper, back, len(there))
    older, newer = mapper._atlas.asleep[0], mapper._atlas.active
    matches = feature_matches_of(older.submap, newer.submap)
    assert older.absorb(newer, *matches) is not None
    mapper._atlas.asleep.remove(older)
    mapper._atlas.active = older
    both, before = len(mapper.keyframes), mapper.trajectory()
    removed = culled(mapper)
    assert len(removed) >= 4 and mapper.counts.keyframes == both - len(removed)
    same_poses(mapper, before)
    mapper.finish()
    assert trajectory_errors(truth, mapper.trajectory()).ate < 0.01


def feature_matches_of(older, newer) -> tuple[np.ndarray, np.ndarray]:  # type: ignore[no-untyped-def]
    """Landmarks of two maps, (M, 2), that match, and the newer one's keyframe that showed each (M,)."""

    class Map:
        def __init__(self, submap: object) -> None:
            self.submap = submap

    matches = feature_matches(Map(older), Map(newer))  # type: ignore[arg-type]
    first = np.array([record.feature_ids[0] for record in newer.state.records])
    return matches, np.searchsorted(first, matches[:, 1], side="right") - 1


def test_where_nothing_is_redundant_nothing_changes() -> None:
    """Wide steps: bit by bit the map that comes without culling."""
    mapper = Mapper(config(dense=False))
    wander(mapper, ways()[0])
    made = branch(mapper), mapper
    made[0].finish()
    with forgetful():
        made[1].finish()
    assert [k.index for k in made[0].keyframes] == [k.index for k in made[1].keyframes]
    for a, b in zip(made[0].keyframes, made[1].keyframes, strict=True):
        assert np.array_equal(a.w_T_c, b.w_T_c)
    for one, other in zip(made[0].trajectory(), made[1].trajectory(), strict=True):
        assert np.array_equal(one.w_T_c, other.w_T_c)
