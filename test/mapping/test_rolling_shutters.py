"""Rolling shutters are taken out of maps: of focals and poses, of what keyframes see, and of their images."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
from branches import branch
from growing import grow
from rolling import rolling_walk
from scoring import trajectory_error

from dust3r_ros.config import MapperConfig
from dust3r_ros.mapping.mapper import Mapper
from dust3r_ros.mapping.rolling_shutters import RollingShutters
from dust3r_ros.scenes.sequence import RenderedSequence
from dust3r_ros.sparse.rolling_shutter import Motions
from dust3r_ros.storage.journal import MapJournal
from dust3r_ros.storage.saved_map import load_state
from dust3r_ros.tracking import join

READOUT = 0.03


@pytest.fixture(scope="module")
def sequence() -> RenderedSequence:
    return rolling_walk(READOUT)


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("grown") / "map.db"


@pytest.fixture(scope="module")
def maps(sequence: RenderedSequence, file: Path) -> tuple[Mapper, Mapper]:
    """A map that grew in a file before it was finished, and after."""
    mapper = Mapper(MapperConfig(dense=False))
    with MapJournal(file, {}) as journal:
        grow(mapper, journal, sequence, range(len(sequence)))
        before = branch(mapper)
        mapper.finish()
        journal.update(mapper.live)
    assert len(mapper.trajectory()) == len(sequence.images)
    return before, mapper


@pytest.fixture(scope="module")
def found(maps: tuple[Mapper, Mapper]) -> Mapper:
    return maps[1]


def focal_error(mapper: Mapper, sequence: RenderedSequence) -> float:
    return abs(mapper.cameras["camera"].focal / sequence.focal - 1)


def test_focal_and_poses_are_several_times_as_exact_as_if_all_were_read_at_once(
    sequence: RenderedSequence, maps: tuple[Mapper, Mapper], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(RollingShutters, "take_out", lambda *_: False)
    before, found = maps
    before.finish()
    assert len(before.trajectory()) == len(sequence.images)
    assert before.cameras["camera"].readout == (0.0, 0.0)
    across, down = found.cameras["camera"].readout
    assert across == 0.0 and down == pytest.approx(READOUT, rel=0.15)
    assert focal_error(found, sequence) < 0.004 < 0.01 < focal_error(before, sequence)
    assert trajectory_error(found, sequence) < 0.35 * trajectory_error(before, sequence)


def test_images_of_keyframes_are_as_if_read_at_once(sequence: RenderedSequence, found: Mapper) -> None:
    at_once, stamps = rolling_walk(0.0), sequence.stamps_ns.tolist()
    closer = []
    for record in found.submap.state.records:
        index = stamps.index(record.stamp_ns)
        images = sequence.images[index], np.asarray(record.image), at_once.images[index]
        before, after = (np.abs(image.astype(float) - images[2])[8:-8, 8:-8].mean() for image in images[:2])
        closer.append(after / before)
    assert np.median(closer) < 0.5 and max(closer) < 0.9


def test_images_that_were_corrected_are_in_the_file(found: Mapper, file: Path) -> None:
    """Which had them before, as the camera showed them."""
    assert found.cameras["camera"].readout[1] > 0.02
    for saved, record in zip(load_state(file).submaps[0].keyframes, found.submap.state.records, strict=True):
        np.testing.assert_array_equal(saved.image, record.image)


def test_a_readout_is_taken_out_of_a_map_that_is_continued(
    sequence: RenderedSequence, found: Mapper, file: Path
) -> None:
    """Also of images that are new, though too few to measure it."""
    mapper = Mapper(MapperConfig(dense=False))
    mapper.resume(load_state(file))
    readout, old = mapper.cameras["camera"].readout, len(mapper.keyframes)
    for stamp_ns, image in zip(sequence.stamps_ns[8:12].tolist(), sequence.images[8:12], strict=True):
        mapper.process(stamp_ns, "camera", image)
    mapper.finish()
    assert mapper.cameras["camera"].readout == readout != (0.0, 0.0)
    assert focal_error(mapper, sequence) < 1.5 * focal_error(found, sequence) + 0.002
    rolling = mapper.submap.state.sparse.intrinsics[0].rolling
    assert all(record.rolling in (rolling, (0.0, 0.0)) for record in mapper.submap.state.records[old:])


def test_a_finished_map_is_finished_again_as_it_was(sequence: RenderedSequence, found: Mapper) -> None:
    """What is taken out is not taken out twice."""
    readout, error = found.cameras["camera"].readout, trajectory_error(found, sequence)
    records = found.submap.state.records
    images = [np.asarray(record.image).astype(float) for record in records]
    found.finish()
    assert found.cameras["camera"].readout == pytest.approx(readout, rel=0.1)
    assert trajectory_error(found, sequence) < 1.2 * error
    for before, record in zip(images, records, strict=True):
        assert np.abs(before - record.image).mean() < 2.0


def test_a_pose_that_is_wrong_does_not_tell_how_fast_a_camera_was(found: Mapper) -> None:
    """Faster than anything could have been followed."""
    records = found.submap.state.records
    truth = [pose.w_T_c for pose in found.trajectory()]
    stamps = np.array([pose.stamp_ns for pose in found.trajectory()])
    at = stamps.tolist().index(records[8].stamp_ns)
    shutters = RollingShutters(found.submap.state)
    for jump, known in ((0.0, True), (1.0, False)):
        poses = np.stack(truth)
        poses[at + 1, :3, 3] += jump
        motions = Motions({("camera", 0): (stamps, lambda rows, poses=poses: poses[rows])})
        assert (8 in shutters._known(motions)) == known


def test_what_keyframes_see_is_put_back_to_where_their_images_show_it(found: Mapper) -> None:
    """Whatever poses and landmarks have become since."""
    state = found.submap.state
    state.sparse.move(np.eye(4), 1.1)
    shown = [state.sparse.resolved(record.as_shown) for record in state.records]
    assert min(len(tracks.ids) for tracks in shown) > 50
    RollingShutters(state).put_back(found._active.frames.motions())
    for view, record, there in zip(state.sparse.views, state.records, shown, strict=True):
        every = join(view.seen, view.pruned).unique()
        both, mine, theirs = np.intersect1d(every.ids, there.ids, return_indices=True)
        assert len(both) > 0.95 * len(every.ids)
        np.testing.assert_array_equal(every.pixels[mine], there.pixels[theirs])
        assert len(record.as_shown.ids) == 0


@pytest.fixture(scope="module")
def logs() -> dict[int, float]:
    """By how much longer (log) the focal of a camera that breathes is, by stamp."""
    every = rolling_walk(0.0).stamps_ns.tolist()
    return dict(zip(every, (0.05 + 0.05 * np.sin(np.arange(len(every)) / 4.0)).tolist(), strict=True))


@pytest.fixture(scope="module")
def breathing(logs: dict[int, float]) -> RenderedSequence:
    sequence = rolling_walk(0.0)
    height, width = sequence.images.shape[1:3]
    middle, images = 0.5 * np.array([width - 1, height - 1]), []
    for image, log in zip(sequence.images, logs.values(), strict=True):
        change = np.column_stack([np.exp(log) * np.eye(2), (1.0 - np.exp(log)) * middle])
        images.append(cv2.warpAffine(image, change, (width, height), flags=cv2.INTER_CUBIC))
    return replace(sequence, images=np.stack(images))


def map_of(sequence: RenderedSequence) -> Mapper:
    mapper = Mapper(MapperConfig(dense=False))
    for stamp, image in zip(sequence.stamps_ns.tolist(), sequence.images, strict=True):
        mapper.process(stamp, "camera", image)
    mapper.finish()
    return mapper


@pytest.fixture(scope="module")
def breathed(breathing: RenderedSequence) -> Mapper:
    return map_of(breathing)


def test_a_focal_that_changes_is_taken_out_of_poses_and_images(
    breathing: RenderedSequence, logs: dict[int, float], breathed: Mapper, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of all frames, also of those that are no keyframes."""
    monkeypatch.setattr(RollingShutters, "take_out_zooms", lambda *_: False)
    before = map_of(breathing)
    assert len(breathed.trajectory()) == len(before.trajectory()) == len(breathing.images)
    assert trajectory_error(breathed, breathing) < 0.3 * trajectory_error(before, breathing)
    records = breathed.submap.state.records
    off = np.array([record.zoom - logs[record.stamp_ns] for record in records])
    assert off.std() < 0.008 and np.std([*logs.values()]) > 0.03
    camera = breathed.cameras["camera"]
    assert camera.focal / breathing.focal / np.exp(-off.mean()) == pytest.approx(1.0, abs=0.03)
    assert camera.focal_range[0] < 0.97 * camera.focal and 1.03 * camera.focal < camera.focal_range[1]
    assert any("have focal lengths of their own" in said for said in breathed.doubts)
    still, stamps, closer = rolling_walk(0.0), breathing.stamps_ns.tolist(), []
    for record in records:
        index, factor = stamps.index(record.stamp_ns), np.exp(-off.mean())
        middle = 0.5 * np.array(record.image.shape[1::-1]) - 0.5
        change = np.column_stack([factor * np.eye(2), (1.0 - factor) * middle])
        wanted = cv2.warpAffine(still.images[index], change, record.image.shape[1::-1]).astype(float)
        both = breathing.images[index], np.asarray(record.image)
        shown, now = (np.abs(image.astype(float) - wanted)[24:-24, 32:-32].mean() for image in both)
        if abs(record.zoom) > 0.02:
            closer.append(now / shown)
    assert len(closer) > 8 and np.median(closer) < 0.8


def test_a_map_of_a_focal_that_changes_is_finished_again_as_it_was(
    breathing: RenderedSequence, breathed: Mapper
) -> None:
    """What its keyframes see is put back to where images show it, and taken out again."""
    error, records = trajectory_error(breathed, breathing), breathed.submap.state.records
    zooms, std = np.array([record.zoom for record in records]), breathed.cameras["camera"].focal_std
    breathed.finish()
    again = np.array([record.zoom for record in records])
    assert np.std(again - zooms) < 0.005 and trajectory_error(breathed, breathing) < 1.3 * error
    assert breathed.cameras["camera"].focal_std > 0.8 * std, "zooms are as uncertain as before"


def test_a_focal_that_stays_is_left_alone() -> None:
    mapper = map_of(rolling_walk(0.0))
    assert {record.zoom for record in mapper.submap.state.records} == {0.0}
    assert mapper.cameras["camera"].focal_range == (0.0, 0.0) and mapper.doubts == ()
