"""The mapper on rendered walks: the truth comes out, and nothing where there is nothing to know."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import cv2
import numpy as np
import pytest
from fisheyes import through_fisheye
from oracle import Nonsense, Oracle
from scoring import alignment, frame_of, path_length, play, trajectory_error
from sequences import SMALL, cut, upright, walk

from dust3r_ros.backends.base import Backend
from dust3r_ros.config import MapperConfig
from dust3r_ros.errors import ConfigError, InputError
from dust3r_ros.geometry.lens import Lens
from dust3r_ros.geometry.pinhole import pixel_grid
from dust3r_ros.geometry.resize import Resize
from dust3r_ros.geometry.rigid import BODY_T_OPTICAL, angle_deg, invert
from dust3r_ros.mapping.atlas import AtlasEntry
from dust3r_ros.mapping.mapper import Mapper
from dust3r_ros.mapping.reconstruction import Consistency
from dust3r_ros.scenes.sequence import RenderedSequence
from dust3r_ros.sparse.consistency import Doubt
from dust3r_ros.timing import Stopwatch
from dust3r_ros.types import MapCounts, MapUpdate, TrackingState

ORBIT_FRAMES = 24
SPARSE = replace(SMALL, dense=False)  # where depth is not the subject


@dataclass(frozen=True, eq=False)
class Run:
    """One walk through one mapper: what came out live, and the mapper after its last refinement."""

    sequence: RenderedSequence
    mapper: Mapper
    updates: list[MapUpdate]
    last: MapUpdate
    live_error: float


def run_of(sequence: RenderedSequence, config=SMALL, backend: Backend | None = None) -> Run:
    mapper = Mapper(config, backend=backend)
    updates = play(mapper, sequence)
    error = trajectory_error(mapper, sequence) if len(mapper.trajectory()) > 3 else float("nan")
    return Run(sequence, mapper, updates, mapper.finish(), error)


@pytest.fixture(scope="module")
def orbit() -> Run:
    """Around the table, focal unknown."""
    return run_of(walk("orbit", ORBIT_FRAMES))


@pytest.fixture(scope="module")
def known() -> RenderedSequence:
    """A shorter walk for runs with a known focal, which need no calibration and are faster."""
    return cut(walk("orbit", ORBIT_FRAMES), 14)


@pytest.mark.parametrize("backend", ["two_view", "oracle"])
def test_a_map_that_does_not_fit_into_memory_is_the_same(known: RenderedSequence, backend: str) -> None:
    made = []
    for memory_mb in (SMALL.memory_mb, 0.0):
        own = Oracle(known, SMALL.working_size) if backend == "oracle" else None
        made.append(run_of(known, replace(SMALL, memory_mb=memory_mb, window=3), own).mapper)
    in_memory, on_disk = made
    assert on_disk.pages.in_memory_mb == 0 and in_memory.pages.in_memory_mb > 0.5
    between = in_memory.pages.on_disk_mb  # images of frames between keyframes are always there
    assert on_disk.pages.on_disk_mb == pytest.approx(in_memory.pages.in_memory_mb + between)
    on_disk.pages.trim()
    for a, b in zip(in_memory.keyframes, on_disk.keyframes, strict=True):
        for name in ("w_T_c", "image", "depth", "confidence"):
            assert np.array_equal(getattr(a, name), getattr(b, name)), name


def known_config(sequence: RenderedSequence):
    return replace(SMALL, focal=sequence.focal)


def states(updates: Sequence[MapUpdate]) -> list[str]:
    return [update.state.value for update in updates]


def depth_error(run: Run) -> tuple[float, float]:
    """(median of |d - d*| / d*, one scale for all keyframes; part of the pixels with depth)."""
    found, true = [], []
    scale = alignment(run.mapper.keyframes, run.sequence)[0].scale
    resize = Resize.fit(run.sequence.width, run.sequence.height, SMALL.working_size)
    grid = np.stack(np.meshgrid(np.arange(resize.width), np.arange(resize.height)), axis=-1)
    u, v = np.moveaxis(np.round(resize.to_native(grid)).astype(int), -1, 0)
    for keyframe in run.mapper.keyframes:
        depth = run.sequence.depths[frame_of(run.sequence, keyframe.stamp_ns)]
        true.append(depth[np.clip(v, 0, len(depth) - 1), np.clip(u, 0, depth.shape[1] - 1)])
        found.append(np.where(keyframe.confidence > SMALL.min_confidence, scale * keyframe.depth, 0))
    d, t = np.stack(found), np.stack(true)
    return float(np.median(np.abs(d / t - 1)[d > 0])), float((d > 0).mean())


class TestWalk:
    """One walk with nothing known."""

    def test_trajectory_and_focal(self, orbit: Run) -> None:
        assert trajectory_error(orbit.mapper, orbit.sequence) < 0.02
        assert orbit.live_error < 0.02
        camera = orbit.mapper.cameras["camera"]
        assert camera.focal == pytest.approx(orbit.sequence.focal, rel=0.05)
        assert (camera.width, camera.height, camera.fixed) == (240, 176, False)
        assert max(map(abs, camera.distortion), default=0.0) < 0.03, "it has no lens that bends"
        assert 0 < camera.focal_std < 0.1 * camera.focal and camera.support > 5
        assert abs(camera.focal - orbit.sequence.focal) < 5 * camera.focal_std

    def test_every_frame_is_there_also_those_before_the_map(self, orbit: Run) -> None:
        assert TrackingState.INITIALISING in [update.state for update in orbit.updates]
        poses = orbit.mapper.trajectory()
        assert [pose.stamp_ns for pose in poses] == orbit.sequence.stamps_ns.tolist()
        assert orbit.mapper.counts == MapCounts(
            frames=ORBIT_FRAMES,
            tracked=ORBIT_FRAMES,
            keyframes=len(orbit.mapper.keyframes),
            maps=1,
            pairs=len(orbit.mapper.edges),
            lost=0,
        )

    def test_rotations(self, orbit: Run) -> None:
        similarity, _ = alignment(orbit.mapper.trajectory(), orbit.sequence)
        for pose, true in zip(orbit.mapper.trajectory(), orbit.sequence.w_T_c, strict=True):
            assert angle_deg(true[:3, :3].T @ similarity.rotation @ pose.w_T_c[:3, :3]) < 2.0

    def test_poses_are_rigid(self, orbit: Run) -> None:
        for pose in orbit.mapper.trajectory():
            R = pose.w_T_c[:3, :3]
            np.testing.assert_allclose(R @ R.T, np.eye(3), atol=1e-9)
            assert np.linalg.det(R) > 0
            np.testing.assert_array_equal(pose.w_T_c[3], [0, 0, 0, 1])

    def test_the_map_frame_begins_with_the_first_camera_and_has_z_up(self, orbit: Run) -> None:
        np.testing.assert_allclose(orbit.mapper.trajectory()[0].w_T_c, BODY_T_OPTICAL, atol=1e-6)
        depth = orbit.mapper.keyframes[0].depth
        assert 0.3 < np.median(depth[depth > 0]) < 3

    def test_depth(self, orbit: Run) -> None:
        error, part = depth_error(orbit)
        assert error < 0.05 and part > 0.2

    def test_keyframes_are_whole(self, orbit: Run) -> None:
        assert 4 < len(orbit.mapper.keyframes) < ORBIT_FRAMES
        for keyframe in orbit.mapper.keyframes:
            shape = keyframe.image.shape[:2]
            assert max(shape) == SMALL.working_size and keyframe.image.dtype == np.uint8
            assert keyframe.depth.shape == keyframe.confidence.shape == shape
            assert keyframe.depth.dtype == keyframe.confidence.dtype == np.float32
            assert np.isfinite(keyframe.depth).all() and (keyframe.depth >= 0).all()
            assert np.isfinite(keyframe.confidence).all() and (keyframe.confidence >= 1).all()
            assert (keyframe.confidence[keyframe.depth == 0] == 1).all()
            camera = orbit.mapper.cameras["camera"]
            assert keyframe.focal / camera.focal == pytest.approx(SMALL.working_size / 240, rel=0.02)

    def test_updates_tell_all_that_changed(self, orbit: Run) -> None:
        """Who keeps the last of every keyframe from the updates has the map; versions only grow."""
        kept: dict[int, object] = {}
        version: dict[int, int] = {}
        for update in [*orbit.updates, orbit.last]:
            for index in update.removed:
                kept.pop(index, None)
            for keyframe in update.changed:
                assert keyframe.version > version.get(keyframe.index, 0)
                version[keyframe.index] = keyframe.version
                kept[keyframe.index] = keyframe
        assert sorted(kept) == [keyframe.index for keyframe in orbit.mapper.keyframes]
        for keyframe in orbit.mapper.keyframes:
            mine = kept[keyframe.index]
            np.testing.assert_array_equal(mine.w_T_c, keyframe.w_T_c)
            np.testing.assert_array_equal(mine.depth, keyframe.depth)
            assert mine.version == keyframe.version and mine.stamp_ns == keyframe.stamp_ns

    def test_live_poses(self, orbit: Run) -> None:
        made = [update.keyframe for update in orbit.updates if update.keyframe is not None]
        assert made == [keyframe.index for keyframe in orbit.mapper.keyframes]
        covariances = 0
        for update, stamp in zip(orbit.updates, orbit.sequence.stamps_ns, strict=True):
            assert (update.stamp_ns, update.camera) == (stamp, "camera")
            if update.state is not TrackingState.TRACKING:
                assert update.w_T_c is None and update.covariance is None
                continue
            assert update.w_T_c.shape == (4, 4)
            if update.covariance is not None:
                covariances += 1
                np.testing.assert_allclose(update.covariance, update.covariance.T, atol=1e-12)
                assert (np.linalg.eigvalsh(update.covariance) > 0).all()
                assert np.sqrt(np.trace(update.covariance[:3, :3])) < 0.2
        assert covariances > ORBIT_FRAMES // 3

    def test_pairs_are_of_keyframes(self, orbit: Run) -> None:
        indices = {keyframe.index for keyframe in orbit.mapper.keyframes}
        for first, second, weight in orbit.mapper.edges:
            assert first in indices and second in indices and first < second and weight >= 0
        assert len({index for edge in orbit.mapper.edges for index in edge[:2]}) == len(indices)

    def test_the_same_frames_give_the_same_bytes(self, orbit: Run) -> None:
        again = Mapper(SMALL)
        for expected, update in zip(orbit.updates, play(again, cut(orbit.sequence, 12)), strict=False):
            assert (expected.state, expected.keyframe) == (update.state, update.keyframe)
            for name in ("w_T_c", "covariance"):
                a, b = getattr(expected, name), getattr(update, name)
                assert (a is None) == (b is None) and (a is None or a.tobytes() == b.tobytes())
            assert expected.cameras == update.cameras
            for a, b in zip(expected.changed, update.changed, strict=True):
                assert (a.index, a.version, a.focal) == (b.index, b.version, b.focal)
                for name in ("w_T_c", "depth", "confidence", "image"):
                    assert getattr(a, name).tobytes() == getattr(b, name).tobytes(), name
        assert len(again.keyframes) > 2


def test_another_walk_of_which_the_first_frames_mislead() -> None:
    """Sideways along a wall: the first focal is far off, and frames located with it must not stay where they were."""
    run = run_of(walk("sweep"), SPARSE)
    assert trajectory_error(run.mapper, run.sequence) < 0.02
    assert run.mapper.cameras["camera"].focal == pytest.approx(run.sequence.focal, rel=0.05)
    assert len(run.mapper.trajectory()) == len(run.sequence)


@pytest.mark.long
def test_a_camera_without_a_lens_that_bends_gets_none() -> None:
    """A walk leaves so many observations that a little bend seems certain, which takes the focal 2 % away."""
    sequence, mapper = walk("orbit", 36), Mapper(MapperConfig(dense=False))
    for image, stamp_ns in zip(sequence.images[1:], sequence.stamps_ns[1:], strict=True):
        mapper.process(int(stamp_ns), "camera", image)
    mapper.finish()
    assert mapper.cameras["camera"].focal == pytest.approx(sequence.focal, rel=0.005)
    assert not any(mapper.cameras["camera"].distortion)


def test_a_start_that_the_next_image_contradicts_is_tried_again_with_it() -> None:
    """Wrong landmarks stand for a wrong start. An image in the dark contradicts nothing."""
    sequence, mapper = cut(walk("orbit"), 16), Mapper(SPARSE)
    frames = zip(sequence.stamps_ns, sequence.images, strict=True)
    for stamp_ns, image in frames:
        if mapper.process(int(stamp_ns), "camera", image).state is TrackingState.TRACKING:
            break
    begun, sparse = len(mapper.keyframes), mapper.submap.state.sparse
    assert begun <= 5
    right = sparse.points.copy()
    sparse.points[:] = np.random.default_rng(0).uniform(-5.0, 5.0, right.shape)
    stamp_ns, image = next(frames)
    dark = mapper.process(int(stamp_ns) - 1, "camera", np.zeros_like(image))
    assert dark.state is TrackingState.LOST and len(mapper.keyframes) == begun
    sparse.points[:] = right
    assert mapper.process(int(stamp_ns), "camera", image).state is TrackingState.TRACKING
    count = len(mapper.submap)
    sparse.points[:] = np.random.default_rng(0).uniform(-5.0, 5.0, sparse.points.shape)
    stamp_ns, image = next(frames)
    again = mapper.process(int(stamp_ns), "camera", image)
    assert again.state is not TrackingState.LOST and len(again.removed) == count
    states = [mapper.process(int(stamp_ns), "camera", image).state for stamp_ns, image in frames]
    assert set(states[2:]) == {TrackingState.TRACKING}
    mapper.finish()
    assert len(mapper.trajectory()) == 16
    assert trajectory_error(mapper, sequence) < 0.02


def test_two_photographs_make_a_map(known: RenderedSequence) -> None:
    """With a focal length that is a guess, and is said to be one; of two alike images, or live, there is none."""
    for second, live, posed in (8, False, 2), (1, False, 0), (8, True, 0):
        mapper = Mapper(SMALL)
        if live:
            mapper.go_live(beside=False)
        play(mapper, known, (0, second))
        mapper.finish()
        poses = [pose.w_T_c for pose in mapper.trajectory()]
        assert len(poses) == len(mapper.keyframes) == posed
    mapper = Mapper(SMALL)
    play(mapper, known, (0, 8))
    mapper.finish()
    poses = [pose.w_T_c for pose in mapper.trajectory()]
    moved, truly = (invert(a)[:3] @ b for a, b in (poses, (known.w_T_c[0], known.w_T_c[8])))
    assert angle_deg(moved[:, :3].T @ truly[:, :3]) < 4.0
    assert moved[:, 3] @ truly[:, 3] > 0.97 * np.linalg.norm(moved[:, 3]) * np.linalg.norm(truly[:, 3])
    camera = mapper.cameras["camera"]
    assert abs(np.log(camera.focal / known.focal)) < 2.0 * camera.focal_std / camera.focal > 0.3
    assert sum(int((keyframe.depth > 0).sum()) for keyframe in mapper.keyframes) > 10_000


def test_two_photographs_of_three_make_a_map(known: RenderedSequence) -> None:
    """The third shows another place; where its focal length is given, it stays given."""
    for config in SMALL, known_config(known):
        mapper = Mapper(config)
        play(mapper, known, (0, 8))
        other = walk("corridor", 1).images[0]
        mapper.process(int(known.stamps_ns[-1]) + 1, "camera", other)
        mapper.finish()
        assert len(mapper.trajectory()) == len(mapper.keyframes) == 2
        assert mapper.cameras["camera"].fixed == (config is not SMALL)


def shuffled(sequence: RenderedSequence) -> RenderedSequence:
    """Every second photograph, in no order."""
    order = 2 * np.random.default_rng(0).permutation(len(sequence.images) // 2)
    return replace(cut(sequence, order), stamps_ns=sequence.stamps_ns[: len(order)])


@pytest.mark.parametrize("better", [True, False])
def test_photographs_in_no_order_are_mapped_beside_what_shows_the_same(
    monkeypatch: pytest.MonkeyPatch, better: bool
) -> None:
    """Where most have no pose in the order in which they come; what is not better than that map is dropped."""
    photographs, worths = shuffled(walk("orbit", ORBIT_FRAMES)), iter((2, 12 if better else 1))
    monkeypatch.setattr(AtlasEntry, "worth", property(lambda entry: next(worths)))
    mapper = Mapper(SPARSE)
    play(mapper, photographs)
    first = mapper.submap
    mapper.finish()
    assert next(worths, None) is None and (mapper.submap is first) is not better
    stamps = [pose.stamp_ns for pose in mapper.trajectory()]
    assert stamps == sorted(set(stamps)) and len(stamps) == mapper.counts.tracked == (11 if better else 12)
    assert mapper.counts.frames == 12 and mapper.counts.maps == 1
    assert mapper.counts.tracked + mapper.counts.lost == 12
    assert trajectory_error(mapper, photographs) < 0.005


def test_photographs_that_are_mapped_in_another_order_keep_their_own_masks(monkeypatch: pytest.MonkeyPatch) -> None:
    photographs, worths = shuffled(walk("orbit", ORBIT_FRAMES)), iter((2, 12))
    monkeypatch.setattr(AtlasEntry, "worth", property(lambda entry: next(worths)))
    mapper, stamps = Mapper(SPARSE), photographs.stamps_ns.tolist()
    for at, (stamp, image) in enumerate(zip(stamps, photographs.images, strict=True)):
        mask = np.zeros(image.shape[:2], np.uint8)
        mask[:, 20 * at : 20 * at + 12] = 255
        mapper.process(stamp, "camera", image, mask)
    mapper.finish()
    assert len(mapper.submap.state.records) > 8 and next(worths, None) is None
    for record in mapper.submap.state.records:
        assert record.masked is not None
        columns = np.flatnonzero(record.masked.all(axis=0)) / record.masked.shape[1] * photographs.width
        assert columns.mean() == pytest.approx(20 * stamps.index(record.stamp_ns) + 6, abs=2)


def test_a_map_that_poses_most_images_is_not_made_again(known: RenderedSequence) -> None:
    mapper = Mapper(replace(known_config(known), dense=False))
    play(mapper, known)
    first = mapper.submap
    mapper.finish()
    assert mapper.submap is first


def test_a_map_that_may_be_folded_is_not_made_again_where_images_were_followed(
    known: RenderedSequence, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only keyframes could be mapped in another order; the images between them would lose their poses."""
    worths = iter((-10, 12))  # of the map, and of one made in another order
    monkeypatch.setattr(AtlasEntry, "worth", property(lambda entry: next(worths)))
    mapper, every_second = Mapper(replace(known_config(known), dense=False)), cut(known, np.arange(0, len(known), 2))
    play(mapper, every_second)
    first = mapper.submap
    mapper.finish()
    assert mapper.submap is first and len(mapper.trajectory()) == len(every_second)
    assert 0.5 < len(mapper.keyframes) / len(every_second) < 0.9


def test_without_an_image_there_is_no_map() -> None:
    mapper = Mapper(SMALL)
    mapper.finish()
    assert mapper.trajectory() == [] and mapper.keyframes == ()


def test_a_camera_held_upright_with_odd_sizes(known: RenderedSequence) -> None:
    sequence = upright(known)
    assert (sequence.width, sequence.height) == (173, 237)
    run = run_of(sequence, known_config(sequence))
    assert trajectory_error(run.mapper, sequence) < 0.02
    assert len(run.mapper.trajectory()) == len(sequence)
    assert run.mapper.keyframes[0].image.shape[0] > run.mapper.keyframes[0].image.shape[1]
    assert depth_error(run)[0] < 0.06


def test_grey_video(known: RenderedSequence) -> None:
    gray = np.repeat(known.images.mean(axis=3, keepdims=True).astype(np.uint8), 3, axis=3)
    run = run_of(replace(known, images=gray), replace(SPARSE, focal=known.focal))
    assert trajectory_error(run.mapper, known) < 0.02


@pytest.fixture(scope="module")
def calibrated(known: RenderedSequence) -> Run:
    """With the focal told at twice the size of the images."""
    mapper = Mapper(SMALL)
    mapper.set_camera("camera", 2 * known.width, 2 * known.height, 2 * known.focal)
    updates = play(mapper, known)
    return Run(known, mapper, updates, mapper.finish(), trajectory_error(mapper, known))


class TestKnownFocal:
    """Cameras that were calibrated before."""

    def test_it_is_held_exactly(self, calibrated: Run) -> None:
        camera = calibrated.mapper.cameras["camera"]
        assert camera.focal == pytest.approx(calibrated.sequence.focal, rel=1e-12)
        assert camera.fixed and camera.focal_std == 0.0
        for update in calibrated.updates:
            assert update.cameras["camera"].focal == camera.focal

    def test_the_map_is_right(self, calibrated: Run) -> None:
        assert trajectory_error(calibrated.mapper, calibrated.sequence) < 0.02
        assert states(calibrated.updates).index("tracking") < len(calibrated.updates) // 2

    def test_too_late(self, calibrated: Run) -> None:
        with pytest.raises(ConfigError, match="'camera' has sent images already"):
            calibrated.mapper.set_camera("camera", 240, 176, 200.0)

    def test_the_configuration_may_say_it_too(self, known: RenderedSequence) -> None:
        mapper = Mapper(replace(SMALL, focal=123.0))
        play(mapper, known, range(1))
        assert mapper.cameras["camera"].focal == pytest.approx(123.0) and mapper.cameras["camera"].fixed

    def test_the_camera_itself_knows_better_than_the_configuration(self, known: RenderedSequence) -> None:
        mapper = Mapper(replace(SMALL, focal=123.0))
        mapper.set_camera("camera", known.width, known.height, 200.0)
        play(mapper, known, range(1))
        assert mapper.cameras["camera"].focal == pytest.approx(200.0)

    def test_a_guess_is_only_begun_with(self, known: RenderedSequence) -> None:
        """By a tenth too long, and said to be within a twentieth."""
        mapper = Mapper(SMALL)
        mapper.set_camera("camera", 2 * known.width, 2 * known.height, 2.2 * known.focal, 0.05, guess=True)
        play(mapper, known, range(1))
        camera = mapper.cameras["camera"]
        assert camera.focal == pytest.approx(1.1 * known.focal) and not camera.fixed and camera.given == 0.0
        play(mapper, known, range(1, len(known.images)))
        mapper.finish()
        assert mapper.cameras["camera"].focal == pytest.approx(known.focal, rel=0.03)

    def test_a_guess_is_begun_with_instead_of_the_focal_of_other_cameras(self, known: RenderedSequence) -> None:
        mapper = Mapper(replace(SMALL, focal=123.0))
        mapper.set_camera("camera", known.width, known.height, 200.0, 0.05, guess=True)
        play(mapper, known, range(1))
        assert mapper.cameras["camera"].focal == pytest.approx(200.0) and not mapper.cameras["camera"].fixed

    def test_of_another_shape(self, known: RenderedSequence) -> None:
        mapper = Mapper(SMALL)
        mapper.set_camera("camera", 640, 480, 500.0)
        for _ in range(2):
            with pytest.raises(InputError, match=r"240x176.*640x480"):
                play(mapper, known, range(1))
        assert mapper.counts == MapCounts() and mapper.cameras == {}
        mapper.set_camera("camera", known.width, known.height, known.focal)
        play(mapper, known, range(1))
        assert mapper.counts.frames == 1

    @pytest.mark.parametrize(
        "width, height, focal", [(0, 480, 500.0), (640, -1, 500.0), (640, 480, 0.0), (640, 480, float("nan"))]
    )
    def test_impossible_numbers(self, width: int, height: int, focal: float) -> None:
        with pytest.raises(ConfigError, match="front"):
            Mapper(SMALL).set_camera("front", width, height, focal)


class TestRefusals:
    """What cannot be used changes nothing."""

    def test_the_walk_goes_on_as_if_nothing_had_come(self, orbit: Run) -> None:
        frames, sequence = 6, orbit.sequence
        mapper = Mapper(SMALL)
        stamp = int(sequence.stamps_ns[0])
        bad = [
            (stamp, np.zeros((176, 240), np.uint8), r"\(176, 240\)"),
            (stamp, np.zeros((176, 240, 4), np.uint8), r"\(176, 240, 4\)"),
            (stamp, np.zeros((176, 240, 3), np.float32), "float32"),
            (stamp, np.zeros((0, 240, 3), np.uint8), "empty"),
            (stamp, None, "NoneType"),
            (stamp * 1e-9, sequence.images[0], "whole nanoseconds"),
        ]
        for at, image, found in bad:
            with pytest.raises(InputError, match=found):
                mapper.process(at, "camera", image)
        assert mapper.counts == MapCounts() and mapper.cameras == {}
        for i in range(frames):
            update = mapper.process(int(sequence.stamps_ns[i]), "camera", sequence.images[i])
            assert (update.state, update.keyframe) == (orbit.updates[i].state, orbit.updates[i].keyframe)
            assert update.cameras == orbit.updates[i].cameras
            later = int(sequence.stamps_ns[i]) + 1
            with pytest.raises(InputError, match="240x176 to 120x88"):
                mapper.process(later, "camera", sequence.images[i][::2, ::2])
            for at in (later - 1, later - 10**9, 0):
                with pytest.raises(InputError, match="must be after"):
                    mapper.process(at, "camera", sequence.images[0])
        assert mapper.counts.frames == frames

    def test_an_image_too_narrow_to_use_leaves_no_camera(self) -> None:
        mapper = Mapper(SMALL)
        with pytest.raises(InputError, match="narrow"):
            mapper.process(0, "camera", np.zeros((4, 240, 3), np.uint8))
        assert mapper.cameras == {} and mapper.counts == MapCounts()

    def test_images_are_left_as_they_are(self, orbit: Run) -> None:
        image = orbit.sequence.images[0].copy()
        image.setflags(write=False)
        Mapper(SMALL).process(0, "camera", image)
        np.testing.assert_array_equal(image, orbit.sequence.images[0])


def check_nothing(mapper: Mapper, updates: list[MapUpdate]) -> None:
    assert set(states(updates)) == {"initialising"}
    assert mapper.trajectory() == [] and mapper.keyframes == () and mapper.edges == []
    last = mapper.finish()
    assert last.changed == () and last.state is TrackingState.INITIALISING
    assert mapper.trajectory() == [] and mapper.counts.tracked == mapper.counts.keyframes == 0
    assert mapper.counts.frames == len(updates)


def test_a_map_is_adjusted_as_a_whole_where_the_camera_rests() -> None:
    """Once, if the map may change; frames are located in it again."""
    sequence, mapper = walk("orbit", ORBIT_FRAMES), Mapper(SMALL)
    play(mapper, sequence)
    state, end = mapper.submap.state, int(sequence.stamps_ns[-1])
    state.adjusted = len(state.records) - 3

    def stand() -> float:
        nonlocal end
        end += 1_500_000_000
        mapper.process(end, "camera", sequence.images[-1])
        walked = [pose for pose in mapper.trajectory() if pose.stamp_ns <= sequence.stamps_ns[-1]]
        return float(np.sqrt(np.mean(alignment(walked, sequence)[1] ** 2)))

    mapper.mapping = False
    before = stand()
    assert state.adjusted < len(state.records)
    mapper.mapping = True
    after = stand()
    assert state.adjusted == len(state.records) and after < 0.8 * before
    assert stand() == after


class TestNothingToKnow:
    """Where there is no map to make, none is made."""

    def test_no_images(self) -> None:
        mapper = Mapper(SMALL)
        assert mapper.finish().changed == () and mapper.trajectory() == [] and mapper.cameras == {}
        assert mapper.keyframes == () and mapper.edges == [] and mapper.counts == MapCounts()

    @pytest.mark.parametrize("value", [0, 128, 255])
    def test_blank_images(self, value: int) -> None:
        mapper = Mapper(SMALL)
        image = np.full((176, 240, 3), value, np.uint8)
        check_nothing(mapper, [mapper.process(i, "camera", image) for i in range(12)])

    def test_a_camera_at_rest(self, known: RenderedSequence) -> None:
        rng = np.random.default_rng(0)
        mapper, updates = Mapper(SMALL), []
        for i in range(15):
            image = known.images[0] + rng.normal(0, 3, known.images[0].shape)
            updates.append(mapper.process(i, "camera", np.clip(image, 0, 255).astype(np.uint8)))
        assert [update.keyframe for update in updates[1:]] == [None] * 14, "a camera at rest adds nothing"
        check_nothing(mapper, updates)

    def test_noise(self) -> None:
        rng = np.random.default_rng(1)
        mapper = Mapper(SMALL)
        images = rng.integers(0, 256, (4, 176, 240, 3), dtype=np.uint8)
        check_nothing(mapper, [mapper.process(i, "camera", image) for i, image in enumerate(images)])

    @pytest.mark.parametrize("focal", [0.0, 0.83 * 240])
    def test_turning_on_the_spot_invents_nothing(self, focal: float) -> None:
        mapper = Mapper(replace(SMALL, focal=focal))
        check_nothing(mapper, play(mapper, walk("rotation", 12)))


DARK = (9, 10, 11)


@pytest.fixture(scope="module")
def interrupted() -> Run:
    """A walk with a known focal in which the light goes out for a moment."""
    sequence = cut(walk("orbit", ORBIT_FRAMES), 18)
    images = sequence.images.copy()
    images[list(DARK)] = 0
    return run_of(replace(sequence, images=images), known_config(sequence))


class TestLost:
    """Black frames in the middle of a walk."""

    def test_lost_and_found(self, interrupted: Run) -> None:
        for index, update in enumerate(interrupted.updates):
            if index in DARK:
                assert update.state is TrackingState.LOST
                assert update.w_T_c is None and update.keyframe is None and update.changed == ()
            elif index > DARK[0]:
                assert update.state is TrackingState.TRACKING
        assert interrupted.mapper.counts.lost == len(DARK)

    def test_the_map_goes_on_where_it_was(self, interrupted: Run) -> None:
        assert trajectory_error(interrupted.mapper, interrupted.sequence) < 0.02
        stamps = {pose.stamp_ns for pose in interrupted.mapper.trajectory()}
        assert stamps == {int(s) for i, s in enumerate(interrupted.sequence.stamps_ns) if i not in DARK}
        assert any(k.stamp_ns > interrupted.sequence.stamps_ns[DARK[-1]] for k in interrupted.mapper.keyframes)

    def test_depth_is_none_the_worse(self, interrupted: Run) -> None:
        error, part = depth_error(interrupted)
        assert error < 0.05 and part > 0.2


def test_a_map_that_shows_nothing_any_longer_begins_anew(known: RenderedSequence) -> None:
    mapper = Mapper(known_config(known))
    play(mapper, cut(known, 6))
    assert mapper.submap.initialised
    mapper.submap.state.sparse.points[:] = np.nan  # as after a start that turned out to be wrong
    later = replace(known, images=known.images[6:], stamps_ns=known.stamps_ns[6:])
    updates = play(mapper, later)
    assert updates[0].state is TrackingState.INITIALISING and len(updates[0].removed) > 1
    assert updates[-1].state is TrackingState.TRACKING
    assert {pose.stamp_ns for pose in mapper.trajectory()} <= set(later.stamps_ns.tolist())


def test_a_start_in_the_dark(known: RenderedSequence) -> None:
    """What comes first is useless; the map begins after it."""
    images = known.images.copy()
    images[:3] = 0
    run = run_of(replace(known, images=images), replace(SPARSE, focal=known.focal))
    tracked = {pose.stamp_ns for pose in run.mapper.trajectory()}
    assert len(tracked) >= len(known) - 5
    assert not tracked & set(known.stamps_ns[:3].tolist()), "nobody knows where the black frames were"
    assert trajectory_error(run.mapper, known) < 0.02


def test_the_map_goes_on_after_finish(known: RenderedSequence) -> None:
    mapper = Mapper(known_config(known))
    play(mapper, known, range(9))
    mapper.finish()
    assert states(play(mapper, known, range(9, 14))) == ["tracking"] * 5
    mapper.finish()
    assert trajectory_error(mapper, known) < 0.02


def test_two_cameras_of_one_rig(known: RenderedSequence) -> None:
    """A second camera of another size, its images between those of the first, in the same map."""
    mapper = Mapper(SMALL)
    mapper.set_camera("left", known.width, known.height, known.focal)
    mapper.set_camera("right", 200, 144, known.focal)
    for i, (stamp, image) in enumerate(zip(known.stamps_ns.tolist(), known.images, strict=True)):
        name, picture = ("left", image) if i % 2 == 0 else ("right", image[16:160, 20:220])
        mapper.process(stamp, name, np.ascontiguousarray(picture))
    mapper.finish()
    sizes = {name: (camera.width, camera.height) for name, camera in mapper.cameras.items()}
    assert sizes == {"left": (240, 176), "right": (200, 144)}
    poses = mapper.trajectory()
    assert {"left"} <= {pose.camera for pose in poses}
    _, distances = alignment(poses, known)
    assert np.sqrt(np.mean(distances**2)) < 0.02 * path_length(known)


def test_stages_are_timed(known: RenderedSequence) -> None:
    watch = Stopwatch()
    mapper = Mapper(known_config(known), stage=watch)
    play(mapper, known, range(8))
    mapper.finish()
    summary = watch.summary()
    assert {"prepare", "track", "predict", "align", "refine", "fuse"} <= set(summary)
    assert summary["prepare"]["count"] == summary["track"]["count"] == 8


def test_a_map_in_doubt_says_where(known: RenderedSequence, monkeypatch: pytest.MonkeyPatch) -> None:
    """By the names of its keyframes, which begin with 0 and stay when others are culled."""
    mapper = Mapper(known_config(known))
    assert mapper.doubts == () and mapper.submap.contradicted == 0.0, "before any image"
    play(mapper, known, range(8))
    assert mapper.doubts == () and mapper.submap.contradicted < 0.1
    monkeypatch.setattr(Consistency, "doubt", Doubt(0, 2, 0.31))
    mapper._active.names = [index + 10 for index in range(len(mapper.submap))]
    (said,) = mapper.doubts
    assert said.startswith("31% of what keyframes 10 to 12 see contradicts the map: it may be bent there")


def test_a_folded_map_names_the_images_that_see_something_else(known: RenderedSequence, monkeypatch) -> None:
    """Once it is finished; found as in ``strangers``."""
    mapper = Mapper(replace(known_config(known), dense=False))
    play(mapper, known, range(8))
    monkeypatch.setattr("dust3r_ros.mapping.covisibility.strangers", lambda _: [(0, 2), (1, 2)])
    mapper.finish()
    (said,) = mapper.doubts
    stamps = [record.stamp_ns for record in mapper.submap.state.strange]
    assert len(stamps) == 3 and said.startswith("3 images see something else than images beside them in the map")
    assert said.endswith(f"(at {', '.join(f'{1e-9 * stamp:.3f}' for stamp in sorted(stamps))} s)")
    monkeypatch.undo()
    mapper.finish()
    assert mapper.doubts == ()


@pytest.mark.parametrize("kind", ["zooms", "squeezed"])
def test_what_a_map_cannot_follow_is_said_of_its_camera(kind: str) -> None:
    """Both bend a map, without contradictions; neither is in its deviations otherwise."""
    sequence = walk("orbit", ORBIT_FRAMES)
    height, width = sequence.images.shape[1:3]
    if kind == "zooms":
        left, top, half = width // 4, height // 4, len(sequence.images) // 2
        near = [cv2.resize(image[top:-top, left:-left], (width, height)) for image in sequence.images[half:]]
        images = np.concatenate([sequence.images[:half], near])
    else:
        images = np.stack([cv2.resize(image, (int(0.8 * width), height)) for image in sequence.images])
    mapper = run_of(replace(sequence, images=images)).mapper
    said = {"zooms": "have focal lengths of their own", "squeezed": "times as wide as high"}[kind]
    assert any(said in words for words in mapper.doubts), mapper.doubts


def test_images_of_a_stereo_camera_side_by_side_are_said(known: RenderedSequence) -> None:
    """They gave maps, mostly without any other doubt."""
    few = cut(known, 6)
    mapper = Mapper(SPARSE)
    play(mapper, replace(few, images=np.concatenate([few.images, np.roll(few.images, -6, axis=2)], axis=2)))
    (said,) = [words for words in mapper.doubts if "twice" in words]
    assert said.startswith("images of camera 'camera' show the same twice, side by side") and "crop=iw/2:ih" in said
    mapper = Mapper(SPARSE)
    play(mapper, few)
    assert not any("twice" in words for words in mapper.doubts)


def test_a_single_image_that_shows_the_same_twice_may_show_a_pattern(known: RenderedSequence) -> None:
    image = np.concatenate([known.images[0], np.roll(known.images[0], -6, axis=1)], axis=1)
    mapper = Mapper(SPARSE)
    mapper.process(1, "camera", image)
    assert len(mapper.submap) == 1 and mapper.doubts == ()


@pytest.mark.parametrize("around", [True, False])
def test_images_that_show_all_around_are_said(around: bool) -> None:
    """They gave a map by some lens. Others may be twice as wide as high, too."""
    noise = cv2.copyMakeBorder(
        np.random.default_rng(3).integers(0, 256, (120, 240, 3), np.uint8), 9, 9, 9, 9, cv2.BORDER_WRAP
    )
    image = np.clip(6.0 * (cv2.GaussianBlur(noise, (0, 0), 2.0)[9:-9, 9:-9].astype(np.float64) - 128) + 128, 0, 255)
    shown = image.astype(np.uint8) if around else np.ascontiguousarray(image[:80, :160]).astype(np.uint8)
    mapper = Mapper(SPARSE)
    mapper.process(0, "camera", shown)
    assert any("360 degrees" in words for words in mapper.doubts) == around


@pytest.fixture(scope="module")
def oracle() -> Run:
    """Around the table with a backend that knows the truth up to noise and a unit per pair."""
    sequence = walk("orbit", ORBIT_FRAMES)
    return run_of(sequence, SMALL, Oracle(sequence, SMALL.working_size))


class TestPointmaps:
    """Backends that, as a network, know neither poses nor focals."""

    def test_true_pointmaps_give_the_truth(self, oracle: Run) -> None:
        assert trajectory_error(oracle.mapper, oracle.sequence) < 0.02
        assert oracle.live_error < 0.02
        assert oracle.mapper.cameras["camera"].focal == pytest.approx(oracle.sequence.focal, rel=0.05)
        assert len(oracle.mapper.trajectory()) == ORBIT_FRAMES

    def test_units_per_pair_become_one(self, oracle: Run) -> None:
        error, part = depth_error(oracle)
        assert error < 0.04 and part > 0.4  # of confidence above 1.5 are depths under 2.7 m only

    def test_two_keyframes_are_enough_to_begin(self, oracle: Run, orbit: Run) -> None:
        begun = [states(run.updates).index("tracking") for run in (oracle, orbit)]
        assert begun[0] < begun[1]

    @pytest.mark.parametrize("seed", [0, 1])
    def test_nonsense_makes_no_map(self, known: RenderedSequence, seed: int) -> None:
        mapper = Mapper(SMALL, backend=Nonsense(known, SMALL.working_size, seed=seed))
        check_nothing(mapper, play(mapper, known))

    def test_nonsense_with_a_known_focal(self, known: RenderedSequence) -> None:
        mapper = Mapper(known_config(known), backend=Nonsense(known, SMALL.working_size))
        check_nothing(mapper, play(mapper, known))

    def test_a_network_without_training_does_not_crash(self, shared, known: RenderedSequence) -> None:
        pytest.importorskip("torch", reason="torch is not installed")
        config = replace(SMALL, backend="dust3r", checkpoint=str(shared / "fixtures" / "tiny_linear"), device="cpu")
        mapper = Mapper(config)
        updates = play(mapper, known, range(6))
        mapper.finish()
        for pose in mapper.trajectory():
            assert np.isfinite(pose.w_T_c).all()
        for keyframe in mapper.keyframes:
            assert np.isfinite(keyframe.depth).all() and (keyframe.depth >= 0).all()
        assert set(states(updates)) <= {"initialising", "tracking", "lost"}


def test_poses_of_frames_between_keyframes_follow_the_map(orbit: Run) -> None:
    """No saw teeth: frames between keyframes are as good as keyframes."""
    _, distances = alignment(orbit.mapper.trajectory(), orbit.sequence)
    own = {keyframe.stamp_ns for keyframe in orbit.mapper.keyframes}
    between = np.array([pose.stamp_ns not in own for pose in orbit.mapper.trajectory()])
    assert between.sum() > 5
    assert distances[between].max() < max(3 * distances[~between].max(), 0.01 * path_length(orbit.sequence))
    steps = [
        np.linalg.norm((invert(a.w_T_c) @ b.w_T_c)[:3, 3])
        for a, b in zip(orbit.mapper.trajectory(), orbit.mapper.trajectory()[1:], strict=False)
    ]
    assert max(steps) < 4 * np.median(steps)


def test_a_small_map_lost_for_long_gives_way_to_a_new_one(known: RenderedSequence) -> None:
    """Whoever carried the camera into another room gets a map of that room."""
    mapper = Mapper(replace(SPARSE, focal=known.focal, lost_patience_s=2.0))
    for stamp, image in zip(known.stamps_ns[:10], known.images, strict=False):
        first = mapper.process(int(stamp), "camera", image)
    old = {keyframe.index for keyframe in mapper.keyframes}
    assert first.state is TrackingState.TRACKING and len(old) >= 2
    dark, gone = np.zeros_like(known.images[0]), []
    for second in range(1, 5):
        update = mapper.process(int(known.stamps_ns[9]) + second * 10**9, "camera", dark)
        gone += update.removed
    assert set(gone) == old and update.state is TrackingState.INITIALISING
    elsewhere = cut(walk("corridor"), 16)
    for stamp, image in zip(elsewhere.stamps_ns, elsewhere.images, strict=True):
        update = mapper.process(int(stamp) + 100 * 10**9, "camera", image)
    assert update.state is TrackingState.TRACKING
    assert all(pose.stamp_ns >= 100 * 10**9 for pose in mapper.trajectory())


def test_a_map_is_kept_while_one_of_its_cameras_sees_it(known: RenderedSequence) -> None:
    mapper = Mapper(replace(SPARSE, focal=known.focal, lost_patience_s=1.0))
    dark = np.zeros_like(known.images[0])
    for i, (stamp, image) in enumerate(zip(known.stamps_ns.tolist(), known.images, strict=True)):
        mapper.process(stamp, "left", image)
        # The right camera sees the room, then a hand lies on it.
        update = mapper.process(stamp, "right", image if i < 6 else dark)
    assert update.state is TrackingState.LOST and len(mapper.keyframes) >= 2
    for second in range(2, 5):
        update = mapper.process(stamp + second * 10**9, "right", dark)
    assert update.removed == () and update.state is TrackingState.LOST
    for second in range(5, 8):
        for name in ("left", "right"):
            update = mapper.process(stamp + second * 10**9, name, dark)
    assert update.state is TrackingState.INITIALISING, "now both are lost"


def test_a_fisheye_of_which_nobody_told() -> None:
    """An equidistant lens of 110 degrees: a third of what the map's pinhole shows is stretched threefold and more."""
    wide = through_fisheye("orbit", 30, 240, 180, 110.0)
    run = run_of(wide)
    camera = run.mapper.cameras["camera"]
    assert camera.focal == pytest.approx(wide.focal, rel=0.02)
    assert camera.distortion_model == "equidistant" and max(map(abs, camera.distortion)) < 0.05
    assert trajectory_error(run.mapper, wide) < 0.003


def test_a_bent_image_of_which_nobody_told(known: RenderedSequence) -> None:
    """A lens with a radial term and a principal point out of the middle: found, and taken out of focal and depth."""
    sequence = walk("orbit", 36)
    lens = Lens(sequence.width / 2, -0.08, (2.0, -2.0))
    middle = np.array([(sequence.width - 1) / 2, (sequence.height - 1) / 2])
    offsets = pixel_grid(sequence.height, sequence.width).reshape(-1, 2) - middle
    at = (lens.ideal(offsets) + middle).reshape(sequence.height, sequence.width, 2).astype(np.float32)
    bent = [cv2.remap(image, at, None, cv2.INTER_CUBIC, borderMode=cv2.BORDER_REFLECT) for image in sequence.images]
    run = run_of(replace(sequence, images=np.stack(bent)))
    camera = run.mapper.cameras["camera"]
    assert camera.focal == pytest.approx(sequence.focal, rel=0.02)
    assert camera.principal_offset == pytest.approx(lens.center, abs=1.5)
    assert camera.distortion[0] > 0.05, "the lens shows things too far out"
    assert trajectory_error(run.mapper, sequence) < 0.003
    error, part = depth_error(replace(run, sequence=sequence))
    assert error < 0.05 and part > 0.3


def test_what_is_handed_in_and_out_is_not_the_map_itself() -> None:
    """One buffer for all images, scaled poses and drawing on a keyframe change nothing."""
    sequence = cut(walk("orbit", ORBIT_FRAMES), 12)
    config = replace(SPARSE, focal=sequence.focal, working_size=sequence.width)
    own, shared, buffer = Mapper(config), Mapper(config), np.zeros_like(sequence.images[0])
    for stamp, image in zip(sequence.stamps_ns.tolist(), sequence.images, strict=True):
        own.process(stamp, "camera", image)
        buffer[:] = image
        update = shared.process(stamp, "camera", buffer)
        for w_T_c in (update.w_T_c, *(keyframe.w_T_c for keyframe in (*update.changed, *shared.keyframes))):
            if w_T_c is not None:
                w_T_c[:3, 3] *= 3
        for keyframe in shared.keyframes:
            for part in (keyframe.image, keyframe.depth, keyframe.confidence):
                with pytest.raises(ValueError, match="read-only"):
                    part[:] = 0
    for one, other in zip(own.keyframes, shared.keyframes, strict=True):
        np.testing.assert_array_equal(one.w_T_c, other.w_T_c)
        np.testing.assert_array_equal(one.image, other.image)
