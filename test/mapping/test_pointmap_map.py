"""The map that pointmaps carry, with backends that know the truth up to the errors of a network."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import cv2
import numpy as np
import pytest
from oracle import Nonsense, Oracle
from scipy.spatial.transform import Rotation
from scoring import alignment, path_length, play, trajectory_error
from sequences import SMALL, cut, walk

from dust3r_ros.errors import BackendError
from dust3r_ros.geometry.similarity import Similarity
from dust3r_ros.mapping import pointmap_map
from dust3r_ros.mapping.camera_stream import CameraStream
from dust3r_ros.mapping.mapper import Mapper
from dust3r_ros.mapping.pointmap_map import PointmapBuilder
from dust3r_ros.mapping.reconstruction import Reconstruction
from dust3r_ros.scenes.sequence import RenderedSequence
from dust3r_ros.sparse.consistency import Doubt
from dust3r_ros.sparse.landmarks import Intrinsics
from dust3r_ros.timing import no_timer
from dust3r_ros.tracking import no_tracks
from dust3r_ros.types import PairPrediction, TrackingState


@pytest.fixture(scope="module")
def sequence() -> RenderedSequence:
    return walk("orbit")


class Driver:
    """A builder to which frames are given as keyframes."""

    def __init__(self, sequence: RenderedSequence, backend: Oracle, focal: float | None = None) -> None:
        self.sequence, self.backend = sequence, backend
        self.builder = PointmapBuilder(Reconstruction(SMALL), backend, no_timer)
        self.stream = CameraStream("camera", 0, sequence.width, sequence.height, SMALL)
        guess = float(self.stream.long_edge)
        known = Intrinsics(focal, focal, std=0.0, fixed=True) if focal else Intrinsics(guess, guess)
        self.builder.add_camera(self.stream, known)

    def add(self, frame: int) -> int | None:
        image = self.sequence.images[frame]
        gray = self.stream.gray(image)
        self.stream.follow(gray)
        stamp = int(self.sequence.stamps_ns[frame])
        return self.builder.add(stamp, self.stream, self.stream.resize.apply(image), gray, no_tracks(), None)

    def depth_error(self) -> float:
        """Median of the median deviations of log depth from the truth, of keyframes two frames apart."""
        found = []
        for index in range(len(self.builder)):
            depth = self.builder.keyframe(index).depth
            true = cv2.resize(self.sequence.depths[2 * index], depth.shape[::-1], interpolation=cv2.INTER_NEAREST)
            known = (depth > 0) & (true > 0)
            off = np.log(depth[known] / true[known])
            found.append(np.median(np.abs(off - np.median(off))))
        return float(np.median(found))

    def error(self) -> float:
        """Root mean square distance of keyframes from the truth, as a part of the path."""
        keyframes = [self.builder.keyframe(i) for i in range(len(self.builder))]
        return float(np.sqrt(np.mean(alignment(keyframes, self.sequence)[1] ** 2))) / path_length(self.sequence)


def oracle(sequence: RenderedSequence, **errors: Any) -> Oracle:
    return Oracle(sequence, SMALL.working_size, **errors)


def driven(sequence: RenderedSequence, **errors: Any) -> Driver:
    """Every second frame as a keyframe."""
    driver = Driver(sequence, oracle(sequence, **errors))
    for frame in range(0, 24, 2):
        driver.add(frame)
    return driver


@pytest.fixture(scope="module")
def built(sequence: RenderedSequence) -> Driver:
    return driven(sequence, warp=0.05)


def test_keyframes_stand_where_they_were(built: Driver) -> None:
    assert built.builder.initialised and len(built.builder) == 12
    assert built.error() < 0.02
    for index in range(12):
        assert (built.builder.keyframe(index).depth > 0).mean() > 0.9, "also where the window has left it"


def test_views_that_left_the_window_leave_the_backend(built: Driver) -> None:
    kept = [index for index in range(12) if built.backend.has(index)]
    assert kept == list(range(12 - SMALL.window, 12))


def test_frames_are_located_by_the_depth_of_keyframes(built: Driver) -> None:
    image = built.sequence.images[23]
    gray = built.stream.gray(image)
    located = built.builder.finder.locate(built.stream, built.stream.follow(gray))
    assert located is not None and located.covariance.shape == (6, 6)
    similarity, _ = alignment([built.builder.keyframe(i) for i in range(12)], built.sequence)
    expected = built.sequence.w_T_c[23][:3, 3]
    found = similarity.apply(located.w_T_c[None, :3, 3])[0]
    assert np.linalg.norm(found - expected) < 0.05


def test_reprojection_makes_poses_and_focal_better(sequence: RenderedSequence) -> None:
    driver = driven(sequence, warp=0.08)
    before = driver.error()
    driver.builder.adjust_last()
    assert driver.error() < 0.7 * before
    assert driver.builder.intrinsics[0].focal == pytest.approx(sequence.focal, rel=0.02)
    depth = driver.builder.keyframe(5).depth
    truth = driver.backend.true_depth(10)
    similarity, _ = alignment([driver.builder.keyframe(i) for i in range(12)], sequence)
    ratio = similarity.scale * depth[depth > 0] / truth[depth > 0]
    assert np.median(ratio) == pytest.approx(1.0, abs=0.03), "depth follows the poses"


def test_the_deviation_of_the_focal_includes_what_the_network_has_in_common(sequence: RenderedSequence) -> None:
    """Networks that are off by 3 % on the whole walk, and by 2 % on each pair, before and after reprojection."""
    z, true = [], sequence.focal
    for seed in range(6):
        driver = Driver(sequence, oracle(sequence, seed=seed, warp=0.05, zoom=(0.03, 0.02)))
        for frame in range(0, 12, 2):
            driver.add(frame)
        found = driver.builder.intrinsics[0]
        z.append(np.log(found.focal / true) / found.std)
        driver.builder.adjust_last()
        found = driver.builder.intrinsics[0]
        z.append(np.log(found.focal / true) / found.std)
        assert 0.001 < found.std < 0.06
    assert np.mean(np.less(np.abs(z), 1)) > 0.5 and np.mean(np.less(np.abs(z), 2)) > 0.9 and np.max(np.abs(z)) < 4


def test_a_focal_given_with_a_deviation_stays_within_it(sequence: RenderedSequence) -> None:
    driver = Driver(sequence, oracle(sequence, seed=1, zoom=(0.1, 0.0)))
    given = replace(driver.builder.intrinsics[0], focal=sequence.focal, prior=sequence.focal, std=0.01, prior_std=0.01)
    driver.builder.intrinsics[0] = given
    for frame in range(0, 12, 2):
        driver.add(frame)
    found = driver.builder.intrinsics[0]
    assert found.focal == pytest.approx(sequence.focal, rel=0.02) and found.std < 0.01
    driver.builder.adjust_last()
    assert driver.builder.intrinsics[0].focal == pytest.approx(sequence.focal, rel=0.02)


def test_a_known_focal_stays(sequence: RenderedSequence) -> None:
    driver = Driver(sequence, oracle(sequence, warp=0.03), focal=sequence.focal)
    for frame in range(0, 12, 2):
        driver.add(frame)
    driver.builder.adjust_last()
    assert driver.builder.intrinsics[0].fixed and driver.builder.intrinsics[0].std == 0.0
    assert driver.builder.intrinsics[0].focal == pytest.approx(sequence.focal)
    assert driver.error() < 0.02


def test_pairs_without_sense_add_nothing(sequence: RenderedSequence) -> None:
    driver = Driver(sequence, Nonsense(sequence, SMALL.working_size))
    assert driver.add(0) == 0
    for frame in range(1, 9):
        assert not driver.builder.stuck
        assert driver.add(frame) is None
        assert len(driver.builder) == 1 and not driver.builder.initialised
        assert not driver.backend.has(1)
    assert driver.builder.stuck


def blank(sequence: RenderedSequence) -> RenderedSequence:
    """The same walk in a fog: every image of one grey, another one for each frame."""
    images = np.empty_like(sequence.images)
    images[:] = np.arange(60, 60 + len(images), dtype=np.uint8)[:, None, None, None]
    return replace(sequence, images=images)


def test_without_any_corner_the_network_alone_maps(sequence: RenderedSequence) -> None:
    fog = blank(cut(sequence, 12))
    mapper = Mapper(SMALL, backend=oracle(fog, warp=0.03))
    updates = play(mapper, fog)
    mapper.finish()
    assert [update.state for update in updates[1:]] == [TrackingState.TRACKING] * 11
    assert len(mapper.trajectory()) == 12
    assert trajectory_error(mapper, fog) < 0.02
    assert mapper.cameras["camera"].focal == pytest.approx(fog.focal, rel=0.03)


@pytest.fixture(scope="module")
def laps(sequence: RenderedSequence) -> Driver:
    """Twice the same way round."""
    again = replace(
        sequence,
        images=np.concatenate([sequence.images, sequence.images + np.uint8(1)]),
        depths=np.concatenate([sequence.depths] * 2),
        w_T_c=np.concatenate([sequence.w_T_c] * 2),
        stamps_ns=np.concatenate([sequence.stamps_ns, sequence.stamps_ns[-1] + 10**9 + sequence.stamps_ns]),
    )
    driver = Driver(again, oracle(again, warp=0.05))
    for frame in range(0, 48, 3):
        driver.add(frame)
    return driver


def test_loops_are_asked_for_and_closed(laps: Driver) -> None:
    far = [(i, j) for i, j, _ in laps.builder.graph.edges if j - i > SMALL.pair_neighbours]
    assert len(far) >= 3
    assert any(second - first == 8 for first, second in far), "one lap is eight keyframes"


def test_the_second_lap_lies_on_the_first(laps: Driver) -> None:
    poses = np.stack([laps.builder.keyframe(i).w_T_c[:3, 3] for i in range(16)])
    apart = np.linalg.norm(poses[8:] - poses[:8], axis=1)
    assert apart.max() < 0.05 * np.ptp(poses, axis=0).max()


def test_a_moved_map_grows_as_if_it_had_stayed(sequence: RenderedSequence) -> None:
    new_S_old = Similarity(3.7, Rotation.from_rotvec([0.3, -0.2, 1.1]).as_matrix(), np.array([4.0, -2.0, 9.0]))
    stayed, moved = (Driver(sequence, oracle(sequence, warp=0.05)) for _ in range(2))
    moved.builder.move(new_S_old)  # where there is nothing yet, nothing is moved
    for driver in (stayed, moved):
        for frame in range(0, 18, 2):
            driver.add(frame)
        driver.builder.take_changed()
    moved.builder.move(new_S_old)
    changed = [keyframe.index for keyframe in moved.builder.take_changed()]
    assert changed == list(range(9)) and stayed.builder.take_changed() == ()
    for exact in (True, False):
        tolerance = 1e-9 if exact else 5e-3  # steps end where they no longer matter
        for index in moved.builder.posed():
            old, new = stayed.builder.keyframe(index), moved.builder.keyframe(index)
            np.testing.assert_allclose(new.w_T_c[:3, :3], new_S_old.rotation @ old.w_T_c[:3, :3], atol=tolerance)
            np.testing.assert_allclose(new.w_T_c[:3, 3], new_S_old.apply(old.w_T_c[:3, 3]), atol=tolerance)
            np.testing.assert_allclose(new.depth, 3.7 * old.depth, rtol=max(10 * tolerance, 1e-6))
            # A median, which may be another landmark's where poses differ in the fourth digit
            assert moved.builder.unit(index) == pytest.approx(3.7 * stayed.builder.unit(index), rel=2 * tolerance)
        for driver in (stayed, moved):
            driver.add(18)
            driver.add(20)
            driver.builder.adjust_last()


class Careless(Oracle):
    """Returns what it likes."""

    def __init__(self, *given: Any, change: Callable[[list[PairPrediction]], list[PairPrediction]]) -> None:
        super().__init__(*given)
        self._change = change

    def predict(self, *asked: Any, **more: Any) -> list[PairPrediction]:
        return self._change(super().predict(*asked, **more))


@pytest.mark.parametrize("uses_poses", [False, True])
@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda found: found[:-1], "1 predictions that are not of the 2 pairs"),
        (lambda found: found[::-1], "2 predictions that are not of the 2 pairs"),
        (lambda found: [replace(each, points_first=each.points_first[1:]) for each in found], "must be"),
    ],
)
def test_what_a_backend_returns_is_checked(sequence: RenderedSequence, change, said: str, uses_poses: bool) -> None:
    """A backend may be anybody's: a map is made without its depth, or with none it ends by naming the backend."""
    backend = Careless(sequence, SMALL.working_size, change=change)
    backend.uses_poses = uses_poses
    mapper = Mapper(replace(SMALL, keyframe_motion_young=0.01), backend)
    if not uses_poses:
        with pytest.raises(BackendError, match=f"{backend.name}.*{said}"):
            play(mapper, sequence)
        return
    play(mapper, cut(sequence, 10))
    mapper.finish()
    assert any(said in doubt for doubt in mapper.doubts), mapper.doubts


class Modest(Oracle):
    """An oracle whose confidence is hardly above 1: ``share`` of what it would be."""

    share = 1e-3

    def _pair(self, first: int, second: int) -> PairPrediction:
        found = super()._pair(first, second)
        first_sure, second_sure = (
            (1 + self.share * (sure - 1)).astype(np.float32)
            for sure in (found.confidence_first, found.confidence_second)
        )
        return replace(found, confidence_first=first_sure, confidence_second=second_sure)


class Silent(Modest):
    """One that is certain of nothing."""

    share = 0.0


def test_confidence_counts_relative_to_what_is_usual(sequence: RenderedSequence, caplog) -> None:
    mapper = Mapper(SMALL, backend=Modest(sequence, SMALL.working_size, warp=0.05))
    play(mapper, sequence)
    mapper.finish()
    assert len(mapper.trajectory()) > 0.9 * len(sequence.images)
    assert trajectory_error(mapper, sequence) < 0.02
    assert np.mean([np.mean(keyframe.confidence > SMALL.min_confidence) for keyframe in mapper.keyframes]) > 0.5
    assert [record.message for record in caplog.records if "hardly certain" in record.message], "and it says so"


def test_a_network_that_is_certain_of_nothing_is_refused_with_a_sentence(sequence: RenderedSequence, caplog) -> None:
    mapper = Mapper(SMALL, backend=Silent(sequence, SMALL.working_size))
    play(mapper, sequence)
    assert not mapper.trajectory()
    (said,) = [record.message for record in caplog.records if record.levelname == "WARNING"]
    assert "confidence of network 'oracle' is 1" in said and "maps nothing alone" in said


def test_landmarks_make_poses_between_keyframes_better(sequence: RenderedSequence) -> None:
    """Corners have the positions that reprojection finds, not those of the network's depth."""
    mapper = Mapper(SMALL, backend=oracle(sequence, warp=0.08))
    play(mapper, sequence)
    before = trajectory_error(mapper, sequence)
    mapper.finish()
    assert trajectory_error(mapper, sequence) < 0.1 * before
    assert trajectory_error(mapper, sequence) < 0.001, "measured in the images, keyframes and what is between them"


def bent_bundle(certain: bool) -> Callable[..., Any]:
    """``bundle`` with wrong poses, from so many landmarks as make it ``certain``, or not."""
    bundle = pointmap_map.bundle

    def bent(*args: Any) -> Any:
        found = bundle(*args)
        for index, keyframe in found.keyframes.items():
            keyframe.w_T_c[:3, 3] += 0.02 * index * np.array([0.0, 1.0, 1.0]) * (index % 3)
        return replace(found, certain=certain)

    return bent


@pytest.mark.parametrize("certain", [False, True])
def test_few_landmarks_that_contradict_the_pointmaps_are_not_believed(
    sequence: RenderedSequence, monkeypatch, certain: bool
) -> None:
    driver = driven(sequence, warp=0.02)
    before = driver.error()
    monkeypatch.setattr(pointmap_map, "bundle", bent_bundle(certain))
    driver.builder.adjust_last()
    assert (driver.error() > 5 * before) == certain
    assert certain or driver.error() < 1.1 * before


def test_pointmaps_that_plenty_of_landmarks_contradict_are_overruled(sequence: RenderedSequence) -> None:
    """A network that has learned little: depth is off by 10 %, and all focals by as much, the same way."""
    driver = driven(sequence, warp=0.1, zoom=(0.2, 0.02), turn_deg=1.0, shift=0.03, seed=3)
    intrinsics = driver.builder.intrinsics
    before, off = driver.error(), abs(np.log(intrinsics[0].focal / sequence.focal))
    depth_before = driver.depth_error()
    driver.builder.adjust_last()
    assert driver.error() < 0.1 * before
    assert driver.depth_error() < 0.6 * depth_before, "depth follows the landmarks"
    assert abs(np.log(driver.builder.intrinsics[0].focal / sequence.focal)) < 0.2 * off


@pytest.mark.parametrize(("share", "doubted"), [(0.03, False), (0.2, True)])
def test_a_map_that_landmarks_contradict_is_in_doubt(
    sequence: RenderedSequence, monkeypatch, share: float, doubted: bool
) -> None:
    """As of a network that is sure that everything is equally far: nothing else tells that the map is wrong."""
    driver, bundle = driven(sequence, warp=0.02), pointmap_map.bundle
    assert driver.builder.doubt is None

    def contradicting(*given, **named):
        found = bundle(*given, **named)
        return replace(found, contradicted=np.full_like(found.contradicted, share))

    monkeypatch.setattr(pointmap_map, "bundle", contradicting)
    driver.builder.adjust_last()
    assert driver.builder.doubt == (Doubt(0, 11, pytest.approx(share)) if doubted else None)


def test_keyframes_without_certain_depth_are_moved_to_their_landmarks_too(sequence: RenderedSequence) -> None:
    driver = driven(sequence, warp=0.02)
    sampled = driver.builder._keyframes.sampled
    driver.builder._keyframes.sampled = lambda index, offsets: sampled(index, offsets) * (np.nan if index == 5 else 1)
    driver.builder.adjust_last()
    assert driver.error() < 0.001
