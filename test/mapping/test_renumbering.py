"""When keyframes leave, all that knows keyframes by their index goes by the new ones; then landmarks get new ids."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from branches import branch
from synthetic import arc, sparse_of
from wandering import config, forgetful, live, wander, ways

from dust3r_ros.backends import make_backend
from dust3r_ros.config import MapperConfig
from dust3r_ros.depth.depth_maps import DepthMaps
from dust3r_ros.features.features import Features
from dust3r_ros.features.place_recognition import PairGraph
from dust3r_ros.geometry.rigid import pose
from dust3r_ros.mapping import culling
from dust3r_ros.mapping.atlas import Atlas, Search
from dust3r_ros.mapping.camera_stream import CameraStream, KeyframeRecord
from dust3r_ros.mapping.densifier import Densifier
from dust3r_ros.mapping.frames import TrackedImage
from dust3r_ros.mapping.loop_adjustment import LoopAdjustment, LoopGap, WideLoop
from dust3r_ros.mapping.loop_closing import Meetings
from dust3r_ros.mapping.mapper import Mapper
from dust3r_ros.mapping.moving_objects import Movers
from dust3r_ros.mapping.reconstruction import Culled, Reconstruction, renumbered
from dust3r_ros.mapping.rig_placement import FocalVotes, RigPlacement, _Vote
from dust3r_ros.mapping.submap import CULL, RENUMBER
from dust3r_ros.mapping.trajectory import FrameLog
from dust3r_ros.sparse.landmarks import Intrinsics
from dust3r_ros.storage.journal import MapJournal
from dust3r_ros.storage.loading import load_state
from dust3r_ros.timing import no_timer
from dust3r_ros.tracking import Tracks, no_tracks
from dust3r_ros.tracking.exchange import Renumbering
from dust3r_ros.types import Array

CONFIG = MapperConfig()
NEW = np.array([0, -1, 1, 2, -1, 3])  # two of six leave
CAMERA = CameraStream("camera", 0, 64, 48, CONFIG)


def test_values_go_by_the_new_index() -> None:
    assert renumbered({5: "e", 1: "b", 2: "c"}, NEW) == {3: "e", 1: "c"}


def test_pairs_of_what_left_are_gone() -> None:
    graph, vectors = PairGraph(CONFIG), np.eye(6, dtype=np.float32)
    for vector in vectors:
        graph.add(vector)
    for a, b in ((0, 1), (0, 2), (2, 3), (0, 2), (3, 4), (3, 5)):
        graph.connect(a, b, float(a + b), ("x", "x") if b < 5 else ("x", "y"))
    graph.renumber(NEW, ["x"] * 5 + ["y"])
    assert graph.edges == [(0, 1, 2.0), (1, 2, 5.0), (2, 3, 8.0)]
    assert graph.connected == [(0, 1), (1, 2), (2, 3)] and graph.count("x") == 2, "each once"
    assert np.array_equal(graph.global_descriptor(1), vectors[2])
    assert graph.add(vectors[4]) == 4, "another one comes after them"
    assert graph.loop_candidates(vectors[5], 4, strict=False) == [3]


def test_landmarks_that_one_view_sees_lose_their_position() -> None:
    scene = arc(views=6)
    sparse = sparse_of(scene)
    sparse.extend()
    for view in (0, 2, 3):
        sparse.views[view].seen = sparse.views[view].seen.select(slice(2, None))
    stay = [sparse.views[view] for view in (0, 2, 3, 5)]
    assert sparse.remove({1, 4}).tolist() == [0, 1], "only the last sees these"
    assert sparse.views == stay
    assert np.flatnonzero(~sparse.positioned).tolist() == [0, 1]


def state_of(count: int) -> Reconstruction:
    """Keyframes that see nothing, a metre apart."""
    made, nothing = Reconstruction(CONFIG), Features(np.zeros((0, 2)), np.zeros((0, 128), np.uint8))
    made.sparse.intrinsics.append(Intrinsics(60.0, 60.0))
    for at in range(count):
        made.append(KeyframeRecord(at, CAMERA, np.zeros((1, 1, 3), np.uint8), nothing, np.zeros(0, int)))
        made.sparse.add(0, no_tracks(), pose(np.eye(3), [float(at), 0.0, 0.0]))
        made.graph.add(np.zeros(4, np.float32))
    return made


def test_a_camera_was_at_the_one_before_what_left() -> None:
    state = state_of(6)
    state.visit(2)
    state.changed, state.adjusted = {1, 2, 5}, 5
    state.renumber(NEW)
    assert [record.stamp_ns for record in state.records] == [0, 2, 3, 5]
    assert [record.before for record in state.records] == [None, 0, 1, 2]
    assert state.trail == [0, 2, 3, 1] and state.changed == {1, 3} and state.adjusted == 3
    assert state.last(CAMERA) == 1 and state.visits == 7


def test_depth_stays_with_its_keyframe() -> None:
    depths = DepthMaps()
    for index in range(6):
        depths[index].put(index - 1 if index else 1, np.full((2, 2), 1.0 + index, np.float32), np.full((2, 2), 3.0))
        depths[index].received_from = {0, 1, 3}
    depths.renumber(NEW)
    shown = [depths[index].whole for index in range(4)]
    assert [found[0][0, 0] for found in shown if found is not None] == [1.0, 3.0, 4.0, 6.0]
    assert [depths[index].sources for index in range(4)] == [set(), set(), {1}, set()], "depth from what left stays"
    assert depths[2].received_from == {0, 2}


def test_pairs_of_depth_and_moving_objects() -> None:
    state = state_of(6)
    dense = Densifier(state, make_backend(CONFIG), no_timer)
    movers = Movers(state, dense)
    for pair in ((0, 2), (1, 2), (3, 5)):
        dense.pairs.add(pair)
    dense.pairs.part([(3, 5)])
    dense.previewed = {index: ((other, index), dense.pairs.now((other, index))) for other, index in ((1, 3), (2, 5))}
    movers._barred, movers._decided, movers._regions = 4, {1, 3}, {2: 7, 4: 1}
    for part in (dense, movers):
        part.renumber(NEW)
    assert set(dense.pairs.geometry) == {(0, 1)} and dense.pairs.order == [(0, 1), (2, 3)]
    assert {index: pair for index, (pair, _) in dense.previewed.items()} == {3: (1, 3)}
    assert movers._barred == 3 and movers._decided == {2} and movers.count == 7


def test_meetings_and_ties() -> None:
    meetings, two = Meetings(), np.zeros((2, 2), np.int64)
    for index in (3, 4):
        assert meetings.add(index, two) is None
    meetings.renumber(NEW)
    assert meetings.add(4, two) is None, "one shown_by left"
    found = meetings.add(5, two)
    assert found is not None and found[1].tolist() == [2, 2, 4, 4, 5, 5]
    state = state_of(6)
    placement = RigPlacement(state, FocalVotes(state))
    placement._reported = {5: (3, np.eye(4))}
    assert placement.ties == {3, 5}
    placement.renumber(NEW)
    assert placement.ties == {2, 3}


class Keyframes:
    """Keyframes a metre apart, of given units."""

    def __init__(self, units: list[float]) -> None:
        self.x, self.units = [float(k) for k in range(len(units))], units

    def pose(self, index: int) -> Array:
        return pose(np.eye(3), [self.x[index], 0.0, 0.0])

    def unit(self, index: int) -> float:
        return self.units[index]


def test_frames_stay_where_they_are() -> None:
    """Also where the unit of a keyframe changes, which loses landmarks with another."""
    keyframes = Keyframes([1.0, 2.0, 1.0, 1.0, float("nan"), 1.0])
    log, nowhere = FrameLog(keyframes), float("nan")  # type: ignore[arg-type]

    def seen(stamp_ns: int) -> TrackedImage:
        return TrackedImage(stamp_ns, Tracks(np.zeros(0, int), np.zeros((0, 2))), 0)

    ahead = pose(np.eye(3), [0.25, 0.5, 0.0])
    for index in range(6):
        log.add_keyframe(index, CAMERA, seen(10 * index))
        log.keep(index, CAMERA, seen(10 * index + 1), ahead, nowhere if index == 4 else 0.5)
        log.keep(index, CAMERA, seen(10 * index + 2), None, nowhere)
    before, rewritten = log.trajectory(), log.rewritten
    relative = {1: pose(np.eye(3), [-1.0, 0.0, 0.0]), 4: pose(np.eye(3), [1.0, 0.0, 0.0])}
    units = np.array([[1.0, 1.5], [2.0, 1.0], [1.0, 1.0], [1.0, 1.0], [np.nan, 1.0], [1.0, np.nan]])
    log.follow(Culled(NEW, np.array([0, 1, 1, 2, 2, 3]), relative, units))
    keyframes.x, keyframes.units = [0.0, 2.0, 3.0, 5.0], [1.5, 1.0, 1.0, 1.0]
    for a, b in zip(log.trajectory(), before, strict=True):
        assert a.stamp_ns == b.stamp_ns
        np.testing.assert_allclose(a.w_T_c, b.w_T_c, atol=1e-12)
    assert log.count() == len(before) == 12
    frames = dict(log.since(len(log), rewritten))
    assert {at: frame.keyframe for at, frame in frames.items()} == {1: 0, 3: 1, 4: 1, 5: 1, 12: 2, 13: 2, 14: 2}
    keyframes.units[1] = 3.0
    grown = {pose.stamp_ns: pose.w_T_c[:3, 3] for pose in log.trajectory()}
    np.testing.assert_allclose(grown[10], [-1.0, 0.0, 0.0], err_msg="from now on it grows with the one beside it")


# Landmarks


@pytest.fixture(scope="module")
def grown() -> Mapper:
    """A live map with redundant keyframes."""
    return live()[0]


def worked(mapper: Mapper, after_cull: Callable[[], object]) -> int:
    """Do all work that waits; returns how often keyframes were culled."""
    culled = 0
    while mapper.due:
        kind = mapper.due
        mapper.work(kind)
        if kind == CULL:
            after_cull()
            culled += 1
    return culled


def products(mapper: Mapper) -> list[bytes]:
    """Poses and landmarks, bit by bit."""
    cloud = mapper.landmarks()
    found = [keyframe.w_T_c for keyframe in mapper.keyframes] + [pose.w_T_c for pose in mapper.trajectory()]
    return [array.tobytes() for array in (*found, cloud.points, cloud.colors, cloud.confidence)]


def test_the_map_is_the_same_bit_by_bit(grown: Mapper, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also when it is found again, with merged landmarks and followed corners, and grows on."""
    there, back = ways()
    monkeypatch.setattr("dust3r_ros.mapping.trajectory._KEPT", 12)
    plain, anew = branch(grown), branch(grown)
    for mapper, new_ids in ((plain, lambda: None), (anew, lambda: anew.work(RENUMBER))):
        assert worked(mapper, new_ids) == 1
        with forgetful():
            for number, step in enumerate([*range(0, 24, 2), *range(23, 0, -3)]):
                way = there if number % 2 else back
                mapper.process((200 + number) * 10**8, "camera", way.images[step])
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(
                culling.Culling, "due", property(lambda culling: culling._state.looked < culling._state.visits)
            )
            assert worked(mapper, new_ids) == 1
        wander(mapper, there, first=400)
        mapper.finish()
    assert anew._atlas.active.numbering == 2 and plain._atlas.active.numbering == 0
    assert anew.submap._links.landmark_ids(), "junctions are followed, too"  # type: ignore[attr-defined]
    assert len(anew.submap.state.sparse.landmarks) < len(plain.submap.state.sparse.landmarks)
    assert products(anew) == products(plain)


def test_new_ids_are_due_once_few_are_in_use(grown: Mapper, monkeypatch: pytest.MonkeyPatch) -> None:
    mapper = branch(grown)
    worked(mapper, lambda: None)
    landmarks, numbering = mapper.submap.state.sparse.landmarks, mapper.submap._numbering  # type: ignore[attr-defined]
    count = len(landmarks)
    landmarks.new(100_000 - count - 1)
    numbering.look()
    assert mapper.due == "", "there are few"
    landmarks.new(1)
    numbering.look()
    assert mapper.due == RENUMBER
    before = products(mapper)
    mapper.work(RENUMBER)
    assert mapper.due == "" and products(mapper) == before and len(landmarks) < count
    landmarks.new(3 * 100_000)
    monkeypatch.setattr(culling, "_IN_USE", 0.01)
    numbering.look()
    assert mapper.due == "", "most are in use"
    mapper.finish()


def test_a_file_with_new_ids_is_continued_as_the_same_map(grown: Mapper, tmp_path: Path) -> None:
    """In a file that was begun before, in one that begins now, and in one of another session."""
    path, late = tmp_path / "map.db", tmp_path / "late.db"
    mapper = branch(grown)
    with MapJournal(path) as journal:
        journal.update(mapper.live)
        worked(mapper, lambda: journal.update(mapper.live))
        mapper.work(RENUMBER)
        journal.update(mapper.live)
        loads_as(mapper, path)
        with MapJournal(late) as other:
            other.update(mapper.live)
        loads_as(mapper, late)
        wander(mapper, ways()[0], first=100)
        journal.update(mapper.live)
        loads_as(mapper, path)
    again = Mapper(mapper.config)
    again.resume(load_state(path))
    with MapJournal(path, fresh=False) as journal:
        again.work(RENUMBER)
        journal.update(again.live)
        loads_as(again, path)


def loads_as(mapper: Mapper, path: Path) -> None:
    """The file has the landmarks of the mapper, by its ids."""
    again = Mapper(mapper.config)
    again.resume(load_state(path))
    ours, theirs = mapper.submap.state.sparse, again.submap.state.sparse
    every = np.arange(len(ours.landmarks))
    assert np.array_equal(ours.landmarks.resolved(every), theirs.landmarks.resolved(every))
    for a, b in zip(ours.views, theirs.views, strict=True):
        assert np.array_equal(a.seen.ids, b.seen.ids) and np.array_equal(a.seen.pixels, b.seen.pixels)
        assert np.array_equal(a.pruned.ids, b.pruned.ids) and a.first_id == b.first_id
    for mine, kept in zip(mapper.submap.state.records, again.submap.state.records, strict=True):
        assert np.array_equal(mine.feature_ids, kept.feature_ids)
    for keyframe, loaded in zip(mapper.keyframes, again.keyframes, strict=True):
        assert np.array_equal(keyframe.w_T_c, loaded.w_T_c)


def test_maps_that_met_are_joined_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whichever of them has new ids."""
    monkeypatch.setattr(Search, "elsewhere", lambda *_: None)
    mapper, (there, back) = Mapper(config(dense=False)), ways()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Atlas, "join", lambda *_: None)
        wander(mapper, there)
        mapper.begin_anew()
        with forgetful():
            wander(mapper, back, len(there))
    meetings = [Meetings() for _ in range(2)]
    (older,), newer = mapper._atlas.asleep, mapper._atlas.active
    told = np.stack([older.submap.state.records[3].feature_ids[:40], newer.submap.state.records[2].feature_ids[:40]], 1)
    newer.meetings[older], older.meetings[newer] = meetings
    meetings[0].add(2, told)
    meetings[1].add(3, told[:, ::-1])
    spots = [entry.submap.positions(told[:, side]) for side, entry in enumerate((older, newer))]
    for entry in (newer, older):
        if entry is older:
            mapper._wake(older)
        mapper.work(RENUMBER)
        assert mapper.numbering == 1
    found = meetings[0]._seen[0][1], meetings[1]._seen[0][1][:, ::-1]
    for pairs in found:
        for side, entry in enumerate((older, newer)):
            assert np.array_equal(entry.submap.positions(pairs[:, side]), spots[side], equal_nan=True)
    assert np.isfinite(spots[0]).any()


def test_what_else_knows_landmarks() -> None:
    state = state_of(6)
    new = Renumbering(np.array([2, 5, 7, 9]), np.array([0, 1, 2, 2]))
    loops = LoopAdjustment(state)
    gap = LoopGap(0, 5, np.zeros((1, 3)), np.zeros((1, 3)), 9.0)
    loops.claim([WideLoop(gap, np.array([[2, 7], [5, 9]]))])
    assert np.concatenate(loops.landmark_ids()).tolist() == [2, 7, 5, 9]
    loops.renumber_landmarks(new)
    assert np.concatenate(loops.landmark_ids()).tolist() == [0, 2, 1, 2]
    votes = FocalVotes(state)
    votes._cast(CAMERA, _Vote(5.0, 0.01, Tracks(np.array([2, 3, 9]), np.zeros((3, 2)))))
    votes.renumber_landmarks(new)
    assert votes.landmark_ids()[0].tolist() == [0, 2]
    log = FrameLog(Keyframes([1.0]))  # type: ignore[arg-type]
    tracks = Tracks(np.array([9, 4, 2]), np.arange(6.0).reshape(3, 2))
    log.add_keyframe(0, CAMERA, TrackedImage(0, tracks, 0))
    log.keep(0, CAMERA, TrackedImage(1, tracks, 0), None, 1.0)
    log.renumber_landmarks(new)
    assert [ids.tolist() for ids in log.landmark_ids()] == [[2, 0], [2, 0]]
    assert log._seen[0].image.tracks.pixels.tolist() == [[0.0, 1.0], [4.0, 5.0]]
