"""The map under construction, driven frame by frame."""

from __future__ import annotations

from collections.abc import Iterable
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from scipy.spatial.transform import Rotation
from scoring import alignment, path_length
from sequences import SMALL, walk

from dust3r_ros.backends import make_backend
from dust3r_ros.features.features import Features
from dust3r_ros.geometry.rigid import invert, pose, transform
from dust3r_ros.geometry.similarity import Similarity
from dust3r_ros.mapping.camera_stream import CameraStream, KeyframeRecord
from dust3r_ros.mapping.landmark_map import MapBuilder
from dust3r_ros.mapping.reconstruction import Reconstruction, landmark_cloud
from dust3r_ros.mapping.submap import BEGIN, TAKE
from dust3r_ros.scenes.sequence import RenderedSequence
from dust3r_ros.sparse.landmarks import Intrinsics
from dust3r_ros.sparse.sparse_map import SparseMap
from dust3r_ros.timing import no_timer
from dust3r_ros.tracking import Tracks, no_tracks
from dust3r_ros.types import StampedPose


class Driver:
    """A builder and one stream of known focal; every frame that is added becomes a keyframe."""

    def __init__(self, sequence: RenderedSequence) -> None:
        self.sequence = sequence
        self.builder = MapBuilder(Reconstruction(SMALL), make_backend(SMALL), no_timer)
        self.stream = CameraStream("camera", 0, sequence.width, sequence.height, SMALL)
        self.builder.add_camera(self.stream, Intrinsics(sequence.focal, sequence.focal, std=0.0, fixed=True))

    def add(self, frames: Iterable[int]) -> None:
        for frame in frames:
            image = self.sequence.images[frame]
            gray = self.stream.gray(image)
            tracks = self.stream.follow(gray)
            found = self.builder.finder.locate(self.stream, tracks) if self.builder.initialised else None
            w_T_c = None if found is None else found.w_T_c
            stamp = int(self.sequence.stamps_ns[frame])
            self.builder.add(stamp, self.stream, self.stream.resize.apply(image), gray, tracks, w_T_c)

    def keyframes(self) -> list:
        return [self.builder.keyframe(i) for i in range(len(self.builder))]


@pytest.fixture(scope="module")
def sequence() -> RenderedSequence:
    return walk("orbit")


@pytest.fixture(scope="module")
def built(sequence: RenderedSequence) -> Driver:
    driver = Driver(sequence)
    driver.add(range(0, 16, 3))
    return driver


def test_keyframes_stand_where_they_were(built: Driver) -> None:
    assert built.builder.initialised and len(built.builder) == 6
    _, distances = alignment(built.keyframes(), built.sequence)
    assert np.sqrt(np.mean(distances**2)) < 0.01 * path_length(built.sequence)
    for keyframe in built.keyframes():
        assert (keyframe.depth > 0).mean() > 0.2


def test_the_pair_graph_holds_its_pairs(built: Driver) -> None:
    pairs = {(first, second) for first, second, _ in built.builder.graph.edges}
    expected = {(i, j) for j in range(6) for i in range(max(0, j - SMALL.pair_neighbours), j)}
    assert expected <= pairs
    assert all(j - i > SMALL.pair_neighbours for i, j in pairs - expected), "older ones that look alike"


def test_a_frame_without_tracks_is_found_by_its_features(built: Driver) -> None:
    for frame in (14, 16, 17):
        image = built.sequence.images[frame]
        found = built.builder.finder.relocalise(
            built.stream, built.stream.gray(image), built.stream.resize.apply(image)
        )
        assert found is not None
        last = built.keyframes()[-1]
        similarity, _ = alignment(built.keyframes(), built.sequence)
        expected = invert(built.sequence.w_T_c[15]) @ built.sequence.w_T_c[frame]
        moved = invert(last.w_T_c) @ found[0].w_T_c
        np.testing.assert_allclose(similarity.scale * moved[:3, 3], expected[:3, 3], atol=0.03)


def test_a_strange_frame_is_not_found(built: Driver) -> None:
    rng = np.random.default_rng(0)
    shape = built.stream.gray(built.sequence.images[0]).shape
    for gray in (np.zeros(shape, np.uint8), rng.integers(0, 256, shape, dtype=np.uint8)):
        image = np.repeat(gray[:, :, None], 3, axis=2)
        assert built.builder.finder.relocalise(built.stream, gray, built.stream.resize.apply(image)) is None
    assert built.builder.finder.locate(built.stream, no_tracks()) is None


def test_changes_are_taken_once(sequence: RenderedSequence) -> None:
    driver = Driver(sequence)
    driver.add(range(0, 10, 3))
    first = driver.builder.take_changed()
    assert [keyframe.index for keyframe in first] == list(range(4))
    assert driver.builder.take_changed() == ()
    driver.add([12])
    second = driver.builder.take_changed()
    assert 4 in {keyframe.index for keyframe in second}
    known = {keyframe.index: keyframe.version for keyframe in first}
    assert all(keyframe.version > known.get(keyframe.index, 0) for keyframe in second)


def test_first_keyframes_that_lead_nowhere(sequence: RenderedSequence) -> None:
    driver = Driver(sequence)
    for _ in range(40):
        if driver.builder.stuck:
            break
        driver.add([0])
    assert driver.builder.stuck and not driver.builder.initialised
    assert driver.builder.take_changed() == ()
    driver.builder.adjust_last()
    driver.builder.finish()


def test_first_keyframes_do_not_pile_up_while_first_poses_are_made(sequence: RenderedSequence) -> None:
    """Live, each of them asks for first poses again: a node that began in the dark waited for them for ever."""
    for count, stuck in (4, False), (9, True):
        driver = Driver(sequence)
        driver.builder.deferred.go_live(False)
        driver.add([0] * count)
        assert driver.builder.deferred.due == BEGIN and not driver.builder.stuck
        driver.builder.deferred.work(BEGIN)
        driver.add([0])
        driver.builder.deferred.work(TAKE)
        assert driver.builder.deferred.due == BEGIN and driver.builder.stuck == stuck


def test_the_last_refinement_moves_little_and_breaks_nothing(built: Driver) -> None:
    before = [keyframe.w_T_c for keyframe in built.keyframes()]
    built.builder.adjust_last()
    built.builder.finish()
    for keyframe, w_T_c in zip(built.keyframes(), before, strict=True):
        np.testing.assert_allclose(keyframe.w_T_c, w_T_c, atol=0.02)
        assert (keyframe.depth > 0).mean() > 0.2
    _, distances = alignment(built.keyframes(), built.sequence)
    assert np.sqrt(np.mean(distances**2)) < 0.01 * path_length(built.sequence)


NEW_S_OLD = Similarity(3.7, Rotation.from_rotvec([0.3, -0.2, 1.1]).as_matrix(), np.array([4.0, -2.0, 9.0]))


def check_moved(before: list, after: list, tolerance: float) -> None:
    """Keyframes are the same ones, in other coordinates."""
    for old, new in zip(before, after, strict=True):
        np.testing.assert_allclose(new.w_T_c[:3, :3], NEW_S_OLD.rotation @ old.w_T_c[:3, :3], atol=tolerance)
        np.testing.assert_allclose(new.w_T_c[:3, 3], NEW_S_OLD.apply(old.w_T_c[:3, 3]), atol=3.7 * tolerance)
        both = (old.depth > 0) & (new.depth > 0)
        assert both.mean() > 0.2 and both.sum() >= 0.98 * max((old.depth > 0).sum(), (new.depth > 0).sum())
        ratio = new.depth[both] / old.depth[both]
        np.testing.assert_allclose(np.percentile(ratio, [2, 50, 98]), 3.7, rtol=max(10 * tolerance, 1e-6))


@pytest.fixture(scope="module")
def moved(sequence: RenderedSequence) -> tuple[Driver, Driver]:
    """Twice the same map; the second one has been moved after its fourth keyframe."""
    stayed, moved = Driver(sequence), Driver(sequence)
    for driver in (stayed, moved):
        driver.add(range(0, 10, 3))
        driver.builder.take_changed()
    moved.builder.move(NEW_S_OLD)
    return stayed, moved


def test_a_move_takes_all_of_the_map_along(moved: tuple[Driver, Driver]) -> None:
    stayed, other = moved
    check_moved(stayed.keyframes(), other.keyframes(), 1e-12)
    found = other.builder.landmarks().points
    np.testing.assert_allclose(found, NEW_S_OLD.apply(stayed.builder.landmarks().points), rtol=1e-5, atol=1e-4)
    assert len(found) > 50
    for index in range(4):
        assert other.builder.unit(index) == pytest.approx(3.7 * stayed.builder.unit(index))
    changed = other.builder.take_changed()
    assert [keyframe.index for keyframe in changed] == list(range(4)), "all in one update"
    assert stayed.builder.take_changed() == ()


def test_a_moved_map_grows_as_if_it_had_stayed(moved: tuple[Driver, Driver]) -> None:
    stayed, other = moved
    for driver in moved:
        driver.add(range(12, 22, 3))
        driver.builder.adjust_last()
        driver.builder.finish()
    check_moved(stayed.keyframes(), other.keyframes(), 2e-3)
    assert stayed.builder.graph.edges == other.builder.graph.edges


def test_a_map_that_has_not_begun_can_be_moved(sequence: RenderedSequence) -> None:
    driver = Driver(sequence)
    driver.builder.move(NEW_S_OLD)
    driver.add([0])
    driver.builder.move(NEW_S_OLD)
    assert driver.builder.pose(0) is None and driver.builder.take_changed() == ()
    driver.add([3, 6, 9])
    assert len(driver.builder.posed()) == 4


def test_a_keyframe_that_was_left_out_is_posed_later(sequence: RenderedSequence) -> None:
    driver = Driver(sequence)
    driver.add(range(0, 12, 3))
    before = driver.builder.pose(0)
    driver.builder.state.sparse.views[0].w_T_c = None
    assert [keyframe.index for keyframe in driver.builder.take_changed()] == [1, 2, 3]
    assert driver.builder.take_unposed() == [], "nobody has heard of it"
    driver.add([12])
    assert driver.builder.posed() == [0, 1, 2, 3, 4]
    assert 0 in {keyframe.index for keyframe in driver.builder.take_changed()}
    np.testing.assert_allclose(driver.builder.pose(0), before, atol=0.02)


def test_a_keyframe_that_loses_its_pose_is_told_once(sequence: RenderedSequence) -> None:
    """A stretch of the map is built anew, and this one does not fit."""
    driver = Driver(sequence)
    driver.add(range(0, 12, 3))
    driver.builder.take_changed()
    driver.builder.mark_all()
    driver.builder.state.sparse.views[2].w_T_c = None
    assert [keyframe.index for keyframe in driver.builder.take_changed()] == [0, 1, 3]
    assert driver.builder.take_unposed() == [2] and driver.builder.take_unposed() == []
    driver.builder.state.sparse.views[2].w_T_c = np.eye(4)
    driver.builder.mark_all()
    assert 2 in {keyframe.index for keyframe in driver.builder.take_changed()}


def test_keyframes_side_by_side_that_nothing_links_are_linked_at_the_end(sequence: RenderedSequence) -> None:
    """The second half of a walk shares no landmark with the first, and has turned away from it by ten degrees."""
    driver = Driver(sequence)
    driver.add(range(16))
    state, half = driver.builder.state, len(driver.builder) // 2
    sparse, views = state.sparse, state.sparse.views
    poses = [StampedPose(record.stamp_ns, "camera", views[k].pose) for k, record in enumerate(state.records)]
    right = alignment(poses, sequence)[1].max()
    old = np.unique(sparse.landmarks.resolved(np.concatenate([view.seen.ids for view in views[:half]])))
    new, renamed = sparse.landmarks.new(len(old)), np.arange(len(sparse.points))
    renamed[old], sparse.points[new] = new, sparse.points[old]
    turn = pose(Rotation.from_euler("z", 10, degrees=True).as_matrix(), np.zeros(3))
    for k in range(half, len(views)):
        view, record = views[k], state.records[k]
        view.w_T_c = turn @ view.pose
        view.seen = Tracks(renamed[sparse.landmarks.resolved(view.seen.ids)], view.seen.pixels)
        view.pruned = no_tracks()
        record.feature_ids = renamed[sparse.landmarks.resolved(record.feature_ids)]
    moved = np.unique(np.concatenate([view.seen.ids for view in views[half:]]))
    sparse.points[moved] = transform(turn, sparse.points[moved])
    bent = [StampedPose(found.stamp_ns, "camera", views[k].pose) for k, found in enumerate(poses)]
    assert alignment(bent, sequence)[1].max() > 5 * right
    driver.builder.adjust_last()
    found = [StampedPose(known.stamp_ns, "camera", driver.builder.pose(k)) for k, known in enumerate(poses)]
    assert alignment(found, sequence)[1].max() < 2 * right


def test_landmarks_that_two_keyframes_see_have_place_color_and_count() -> None:
    stream = CameraStream("camera", 0, 240, 176, SMALL)
    sparse, records = SparseMap(1.0), []
    rng = np.random.default_rng(0)
    offsets = np.array([[-100.0, 0.0], [0.0, 0.0], [60.0, -40.0], [3000.0, 9.0], [30.0, 30.0]])
    observations = ([0, 1, 2, 3], [1, 2, 3, 4], [2, 4])
    poses = (np.eye(4), np.eye(4), np.eye(4))
    for ids, w_T_c in zip(observations, poses, strict=True):
        sparse.add(0, Tracks(np.array(ids), offsets[ids]), w_T_c)
        image = rng.integers(0, 256, (stream.resize.height, stream.resize.width, 3), dtype=np.uint8)
        records.append(KeyframeRecord(0, stream, image, Features(offsets[:0], np.zeros((0, 128))), np.zeros(0, int)))
    sparse.landmarks.new(5)
    sparse.points[:] = rng.normal(size=(5, 3))
    sparse.points[4] = np.nan
    cloud = landmark_cloud(sparse, records)
    np.testing.assert_allclose(cloud.points, sparse.points[[1, 2, 3]].astype(np.float32))
    assert cloud.confidence.tolist() == [2, 3, 2]
    columns, rows = np.round(stream.to_working(offsets[[1, 2]])).astype(int).T
    np.testing.assert_array_equal(cloud.colors[:2], records[0].image[rows, columns])
    sparse.views[2].w_T_c = None
    assert landmark_cloud(sparse, records).confidence.tolist() == [2, 2, 2], "who has no pose does not count"
    assert len(landmark_cloud(SparseMap(1.0), [])) == 0


@pytest.mark.parametrize(("live", "std", "most"), [(False, 0.02, 17), (True, 0.02, 35), (True, 0.004, 17)])
def test_live_keyframes_stay_close_together_until_the_focal_is_fine(live: bool, std: float, most: int) -> None:
    builder = MapBuilder(Reconstruction(SMALL), make_backend(SMALL), no_timer)
    record: Any = SimpleNamespace(stream=SimpleNamespace(index=0))
    builder.state.live = live
    builder.state.sparse.intrinsics.append(Intrinsics(500.0, 500.0, std=std))
    young = []
    for _ in range(40):
        builder.state.records.append(record)
        young.append(builder.young)
    assert young == [count <= most for count in range(1, 41)]
