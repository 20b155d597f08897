"""When keyframes leave, all that knows keyframes by their index goes by the new ones."""

from __future__ import annotations

import numpy as np
from synthetic import arc, sparse_of

from dust3r_ros.backends import make_backend
from dust3r_ros.config import MapperConfig
from dust3r_ros.depth.depth_maps import DepthMaps
from dust3r_ros.features.features import Features
from dust3r_ros.features.place_recognition import PairGraph
from dust3r_ros.geometry.rigid import pose
from dust3r_ros.mapping.camera_stream import CameraStream, KeyframeRecord
from dust3r_ros.mapping.densifier import Densifier
from dust3r_ros.mapping.loop_closing import Meetings
from dust3r_ros.mapping.moving_removal import Movers
from dust3r_ros.mapping.reconstruction import Culled, Reconstruction, renumbered
from dust3r_ros.mapping.rig_placement import FocalVotes, RigPlacement
from dust3r_ros.mapping.trajectory import FrameLog, TrackedImage
from dust3r_ros.sparse.landmarks import Intrinsics
from dust3r_ros.timing import no_timer
from dust3r_ros.tracking import Tracks, no_tracks
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
    for a, b in ((0, 1), (0, 2), (2, 3), (3, 4), (3, 5)):
        graph.connect(a, b, float(a + b), ("x", "x") if b < 5 else ("x", "y"))
    graph.renumber(NEW, ["x"] * 5 + ["y"])
    assert graph.edges == [(0, 1, 2.0), (1, 2, 5.0), (2, 3, 8.0)]
    assert graph.connected == [(0, 1), (1, 2), (2, 3)] and graph.count("x") == 2
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
        depths[index].givers = {0, 1, 3}
    depths.renumber(NEW)
    shown = [depths[index].whole for index in range(4)]
    assert [found[0][0, 0] for found in shown if found is not None] == [1.0, 3.0, 4.0, 6.0]
    assert [depths[index].frozen for index in range(4)] == [True, True, False, True], "depth from what left stays"
    assert depths[2].sources == {1} and depths[2].givers == {0, 2}


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
    assert set(dense.pairs.geometry) == {(0, 1)} and dense.pairs.order == [(0, 1), (2, 3), (2, 3)]
    assert {index: pair for index, (pair, _) in dense.previewed.items()} == {3: (1, 3)}
    assert movers._barred == 3 and movers._decided == {2} and movers.count == 7


def test_meetings_and_ties() -> None:
    meetings, two = Meetings(), np.zeros((2, 2), np.int64)
    for index in (3, 4):
        assert meetings.add(index, two) is None
    meetings.renumber(NEW)
    assert meetings.add(4, two) is None, "one witness left"
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
