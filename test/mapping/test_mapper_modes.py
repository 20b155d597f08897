"""The mapper beside growing a map: moved as a whole, begun anew, only followed in, asked where an image was taken."""

import numpy as np
import pytest
from branches import branch
from scipy.spatial.transform import Rotation
from sequences import walk

from dust3r_ros.config import MapperConfig
from dust3r_ros.geometry.similarity import Similarity
from dust3r_ros.mapping.mapper import Mapper
from dust3r_ros.storage.saved_map import load_state, save_map
from dust3r_ros.types import TrackingState

FRAMES = 24


@pytest.fixture(scope="module")
def sequence():
    return walk("orbit", frames=FRAMES)


@pytest.fixture(scope="module")
def half_grown(sequence):
    mapper = Mapper(MapperConfig(dense=False, focal=sequence.focal, lost_patience_s=0.5))
    feed(mapper, sequence, range(12))
    return mapper


@pytest.fixture(scope="module")
def grown(sequence, half_grown):
    mapper = branch(half_grown)
    feed(mapper, sequence, range(12, FRAMES))
    return mapper


def feed(mapper, sequence, frames, later_ns=0):
    return [mapper.process(int(sequence.stamps_ns[i]) + later_ns, "camera", sequence.images[i]) for i in frames]


def centers(poses):
    return np.array([pose.w_T_c[:3, 3] for pose in poses])


def test_a_map_that_is_moved_goes_on_growing_where_it_is(sequence, half_grown, grown):
    """The same frames before and after: what comes of them is the same map in the new coordinates."""
    new_S_old = Similarity(
        2.5, Rotation.from_euler("xyz", [10, -20, 30], degrees=True).as_matrix(), np.array([1, 2, -3.0])
    )
    moved = branch(half_grown)
    update = moved.move(new_S_old)
    assert moved.revision == 1
    assert {k.index for k in update.changed} == {k.index for k in moved.keyframes}
    feed(moved, sequence, range(12, FRAMES))
    expected = new_S_old.apply(centers(grown.trajectory()))
    path = np.linalg.norm(np.diff(expected, axis=0), axis=1).sum()
    assert len(moved.trajectory()) == len(grown.trajectory())
    assert np.abs(centers(moved.trajectory()) - expected).max() < 0.002 * path


def test_depth_moves_with_the_map(sequence):
    mapper = Mapper(MapperConfig(focal=sequence.focal, working_size=128))
    feed(mapper, sequence, range(10))
    before = {k.index: k for k in mapper.keyframes}
    changed = mapper.move(Similarity(3.0, np.eye(3), np.zeros(3))).changed
    for keyframe in changed:
        old = before[keyframe.index]
        np.testing.assert_allclose(keyframe.depth, 3.0 * old.depth, rtol=1e-5)
        assert keyframe.version > old.version


def test_localisation_finds_frames_and_changes_no_keyframe(sequence, grown):
    mapper = branch(grown)
    truth = {p.stamp_ns: p.w_T_c for p in mapper.trajectory()}
    before = [(k.index, k.w_T_c.tobytes()) for k in mapper.keyframes]
    mapper.mapping = False
    later = 10**12
    updates = feed(mapper, sequence, range(FRAMES), later)
    assert [(k.index, k.w_T_c.tobytes()) for k in mapper.keyframes] == before
    assert all(update.keyframe is None for update in updates)
    found = [update for update in updates if update.state is TrackingState.TRACKING]
    assert len(found) >= FRAMES - 2
    errors = [np.linalg.norm(u.w_T_c[:3, 3] - truth[u.stamp_ns - later][:3, 3]) for u in found]
    path = np.linalg.norm(np.diff(centers(mapper.trajectory()), axis=0), axis=1).sum()
    assert np.median(errors) < 0.005 * path


def test_a_camera_that_is_lost_while_localising_waits_and_begins_no_map(sequence, grown):
    mapper = branch(grown)
    mapper.mapping = False
    before = len(mapper.keyframes)
    dark = np.zeros_like(sequence.images[0])
    for second in range(1, 6):
        update = mapper.process(int(sequence.stamps_ns[-1]) + second * 10**9, "camera", dark)
        assert update.state is TrackingState.LOST and not update.removed
    assert len(mapper.keyframes) == before
    update = mapper.process(int(sequence.stamps_ns[-1]) + 7 * 10**9, "camera", sequence.images[5])
    assert update.state is TrackingState.TRACKING


def test_a_map_begun_anew_wakes_the_old_one_where_it_is_seen_again(sequence, grown):
    mapper = branch(grown)
    count = len(mapper.keyframes)
    removed = mapper.begin_anew().removed
    assert len(removed) == count
    assert mapper.counts.keyframes == 0
    updates = feed(mapper, sequence, range(5))  # the bag starts again
    assert updates[-1].state is TrackingState.TRACKING
    assert mapper.counts.keyframes >= count
    assert mapper.run == range(2) and len(mapper.trajectory([(u.stamp_ns, "camera") for u in updates])) == 5
    assert [len(mapper.trajectory(sessions=range(at, at + 1))) for at in range(3)] == [FRAMES, 5, 0]


def test_a_map_begun_anew_is_of_another_clock_in_the_file_too(sequence, half_grown, tmp_path):
    """Keyframes and frames of both are told apart, also in the run that goes on with them."""
    mapper = branch(half_grown)
    mapper.begin_anew()
    feed(mapper, sequence, range(12, FRAMES))
    mapper.finish()
    assert {record.session for record in mapper.submap.state.records} == {0, 1}
    save_map(tmp_path / "map.db", mapper, {})
    later = Mapper(mapper.config)
    later.resume(load_state(tmp_path / "map.db"))
    assert later.run == range(2, 3)
    for at in range(3):
        of_both = [[p.stamp_ns for p in one.trajectory(sessions=range(at, at + 1))] for one in (mapper, later)]
        assert of_both[0] == of_both[1] and len(of_both[0]) == (12, 12, 0)[at]


def test_what_is_reported_without_a_frame_is_told_once(half_grown):
    mapper = branch(half_grown)
    mapper.move(Similarity(2.0, np.eye(3), np.zeros(3)))
    assert mapper.news().changed == ()


def test_a_map_that_is_dropped_leaves_no_doubt_about_the_focal(sequence):
    mapper = Mapper(MapperConfig(dense=False))
    feed(mapper, sequence, range(1))
    mapper.submap.intrinsics[0].std, mapper.submap.intrinsics[0].rival = 0.1, (90.0, 0.5, 200.0)
    mapper.submap.intrinsics[0].contradicted = 0.3
    mapper.begin_anew()
    assert (mapper.focal("camera").std, mapper.focal("camera").rival[1]) == (np.inf, 0.0)
    assert mapper.focal("camera").contradicted == 0.0
