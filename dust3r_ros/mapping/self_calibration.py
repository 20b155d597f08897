"""Focal lengths of a landmark map: when to calibrate, the first poses, the search for other focals, the lens."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import combinations

import numpy as np

from dust3r_ros.geometry.rigid import pose
from dust3r_ros.geometry.similarity import similarity_of_poses
from dust3r_ros.mapping.camera_stream import CameraStream
from dust3r_ros.mapping.reconstruction import MOST_UNSURE, REBUILT, Reconstruction
from dust3r_ros.sparse.bundle_adjustment import Solution
from dust3r_ros.sparse.consistency import consider_contradictions, pose_anew, rebuild
from dust3r_ros.sparse.initialization import FOCAL_STARTS, Options, Outcome, PairFromLandmarks, bootstrap, differ, score
from dust3r_ros.sparse.landmarks import Intrinsics
from dust3r_ros.sparse.lens_refinement import ENOUGH_VIEWS, consider_lenses, look_off_center, refine_lenses
from dust3r_ros.sparse.refinement import INDEPENDENT, refine, thin
from dust3r_ros.sparse.sparse_map import SparseMap
from dust3r_ros.tracking.exchange import YOUNG

_FIRST_KEYFRAMES = 3  # with an unknown focal, which two views alone do not determine
_FIRST_ALONE = 6  # of cameras of a few photographs: of far things, fewer are explained by wrong focals, too
_CALIBRATE_AT = (5, 8, 12, 18, 27, 40, 60, 90, 135, 200, 300, 450, 675, 1000)
# Live, keyframes; fewer determine a focal less well than the usual one, with which the first poses were made.
_LIVE_FROM = 8
# Live, calibrate again when there are so many more keyframes, and so many times more; sooner while the focal is coarse.
_LIVE_MORE, _LIVE_GROWTH, _COARSE_GROWTH = 2, 1.5, 1.1
# The first calibration waits for this much motion, because images close together say little, however many; with
# ``_ANYWAY`` keyframes the motion was fast. Below ``_SEARCH_FROM`` the map is soon calibrated again instead.
_LIVE_MOVING_NS, _ANYWAY = 1_100_000_000, 18
_SEARCH_FROM = 16
# Without a keyframe for so long, the camera is where it has been: a good time to adjust a map that has grown by this.
# With more keyframes that takes long, and loops would have to wait for it.
_RESTS_NS, _GROWN, _MOST_AT_REST = 1_000_000_000, 0.02, 500
_OFF_CENTER_FROM = 18  # keyframes: before, a focal that is wrong may be the cause
# Radii of a principal point off the middle: 0.33 if a quarter is cut off one side. One that seems farther off waits for
# the last adjustment, since a shutter that rolls while the camera turns looks like it until it is taken out.
_CROPPED = 0.4
_ACCUSTOMED_AT = (3, 5, 8, 12)


class CalibrationSchedule:
    """When a map is calibrated: by number of keyframes and motion, while its focal may be wrong."""

    def __init__(self, state: Reconstruction) -> None:
        self._state = state
        self._calibrated_with = 0  # keyframes at the last one, live

    def calibrated(self) -> None:
        """Note that a live calibration with the keyframes so far has begun."""
        self._calibrated_with = len(self._state.records)

    def may_begin(self, stream: CameraStream) -> bool:
        """Whether there are enough keyframes for the first poses."""
        if self._state.alone:
            return len(self._state.records) >= _FIRST_ALONE
        fewest = 2 if self._state.sparse.intrinsics[stream.index].fixed else _FIRST_KEYFRAMES
        return len(self._state.records) >= fewest

    @property
    def _before(self) -> int:
        """Keyframes at the last live calibration, or when a map that was loaded was saved."""
        return self._calibrated_with or (self._state.adjusted if self._state.known else 0)

    @property
    def calibration_due(self) -> bool | None:
        """Whether to adjust the whole map at its current number of keyframes; None: once the camera rests."""
        count = len(self._state.records)
        if not self._state.live or count < _CALIBRATE_AT[0]:
            return count in _CALIBRATE_AT
        growth = _COARSE_GROWTH if self._state.coarse else _LIVE_GROWTH
        before = self._before
        enough = count >= max(before + _LIVE_MORE, growth * before)
        if self._state.sure:
            return enough
        moving_ns = self._state.records[-1].stamp_ns - self._state.records[1].stamp_ns
        if not before and moving_ns < _LIVE_MOVING_NS and count < _ANYWAY:
            return None
        return True if enough and count >= _LIVE_FROM else None

    def rests(self, stamp_ns: int) -> bool:
        """Whether a map that is not large has, at a stamp, grown since it was adjusted as a whole, but not lately.

        Windows of keyframes are adjusted one after the other, with what is certain of the focal at the time: a map that
        is complete is several times as accurate once it is adjusted as one.
        """
        records = self._state.records
        grown = len(records) - self._state.adjusted
        few_or_many = not _LIVE_FROM <= len(records) <= _MOST_AT_REST
        if few_or_many or not self._state.initialised or grown < max(1.0, _GROWN * len(records)):
            return False
        return stamp_ns - records[-1].stamp_ns >= _RESTS_NS

    @property
    def search_due(self) -> bool | None:
        """Whether to try other focals after a calibration; None: once the camera rests.

        This takes seconds, in which the map is not calibrated again.
        """
        if not self.doubtful(self._state.records[0].stream):
            return False
        return True if not self._state.live or len(self._state.records) >= _SEARCH_FROM else None

    def doubtful(self, stream: CameraStream) -> bool:
        """Whether a focal other than the map's may be right."""
        known = self._state.sparse.intrinsics[stream.index].given or self._state.settled
        others = self._state.several_cameras and not stream.alone
        return not (known or others or len(self._state.records) > MOST_UNSURE)

    @property
    def joining(self) -> np.ndarray:
        """(F,) cameras that joined the map and have few keyframes so far: their focals move in every adjustment."""
        few = self._state.views_by_camera() < YOUNG
        few[self._state.records[0].stream.index] = False
        return few

    def joining_due(self, stream: CameraStream) -> list[int]:
        """The keyframes of a camera that joined, if there are enough to ``accustom`` it again."""
        if not self.joining[stream.index] or self._state.views_of(stream) not in _ACCUSTOMED_AT:
            return []
        return [v for v in self._state.sparse.posed() if self._state.sparse.views[v].camera == stream.index]


# A start can choose its pair, its focal and all poses: more fits it by chance than fits one pose in a map.
_START_INLIERS = 15
_AGREED = 0.04  # two focals that are found differ by less
_UNLIKELY = 3.0  # deviations by which a focal that was found moves
# Two focals may explain the same views almost equally well, each with its own poses (when the camera mostly
# rotates); the scatter of the observations does not show that. The right one becomes clear once the map is larger.
_NO_RIVAL = 1.1
# Live, keyframes: until then the focal of the first poses is held; then it stays near the usual one; then any.
_OTHER_FOCAL_AT, _ANY_FOCAL_AT, _FAR = 4, 8, 2.2
_HELD = (0.55, 0.75, 1.0)  # times the usual: 84, 67, 53 degrees of view; a narrower view would explain any three views
_REASONABLE = 1.5  # factor by which an adjustment may change a focal
_PRIOR_KEYFRAMES = 2.0
_LIVE_TRIES = 150
_STAY = 3  # keyframes at least that stay in place
_MOST_FIRST = 12
# After so many searches in a row that found nothing from a focal, it is not tried again until there are so many times
# as many views: in noise, a few views lead nowhere from the right one.
_VAIN, _VAIN_GROWTH = 2, 2.0
_PAIR_LANDMARKS, _PAIR_MISFIT = 60, 1.0  # of two keyframes that are all there is; square pixels
_USUAL_MISFIT = 2.0  # square pixels: with more, the true focal is none of those held
_ASKED_OBSERVATIONS = 10_000  # of all views together, when a given focal is measured from the images
_ASKED_STEPS = 20
_LIVE_STEPS = 10  # of an adjustment of the whole map while frames wait; the last adjustment is not limited


class Calibrator:
    """Makes a map's first poses, adjusts the whole map with focals and lenses, and sets the deviations of focals.

    While the focal may be wrong, it searches for others that explain the map better, and rebuilds the map with these.
    """

    def __init__(self, state: Reconstruction, schedule: CalibrationSchedule) -> None:
        self._state, self._schedule = state, schedule
        self._vain: dict[float, tuple[int, int]] = {}  # by focal: searches in a row in vain, the views of the last one
        self._turning: dict[tuple[int, int], bool] = {}  # pairs of the first keyframes that turn on the spot, or not
        self._last: Solution | None = None  # of the last adjustment

    def calibrate(self, stream: CameraStream) -> bool:
        """Adjust the whole map; returns whether it was rebuilt because another focal or start explains more.

        Live, while the focal is not to be trusted, the map is first begun again from all usual ones, for a fraction of
        a second: the first poses come from a few views that hardly moved, and no adjustment leads away from wrong ones.
        """
        better = False
        if self._state.live and not self._state.trusted and self._schedule.doubtful(stream):
            better, rival, other = self._bootstrap(stream, _starts(stream), sharp=(False,))
            self._weigh_rival(self._state.sparse.intrinsics[stream.index], rival, other)
        self.adjust()
        self.consider_lens(stream)
        return better

    def adjust(self) -> None:
        """Adjust the whole map, with free focals and, once it is large enough, lenses."""
        intrinsics = self._state.intrinsics_of(0)
        before, std = intrinsics.focal, intrinsics.total_std
        if len(self._state.records) <= YOUNG or not self._state.sure:
            with self.within_reason():
                solution = refine_lenses(self._state.sparse, rounds=2, fewest_views=self._fewest)
        else:
            solution = refine_lenses(self._state.sparse, rounds=2, iterations=_LIVE_STEPS, fewest_views=self._fewest)
        if len(self._state.records) >= _OFF_CENTER_FROM:
            look_off_center(self._state.sparse, solution, _CROPPED)
        moved = abs(np.log(intrinsics.focal / before))
        if moved > max(_UNLIKELY * std, _AGREED) and not self._state.several_cameras:
            self._state.settled = False  # its deviation does not explain that: it was not found yet

    @property
    def _fewest(self) -> int:
        """Views of a camera whose lens is free: of photographs of as many cameras, one."""
        return 1 if self._state.records[0].stream.alone else ENOUGH_VIEWS

    @contextmanager
    def within_reason(self) -> Iterator[None]:
        """Live, undo a change inside that takes the first camera's focal far away, unless it explains far more."""
        sparse, camera = self._state.sparse, self._state.records[0].stream.index
        views, intrinsics = sparse.posed(), sparse.intrinsics[camera]
        options = self._options(False, len(views))
        before, value, misfit = sparse.snapshot(), intrinsics.focal, score(sparse, views, camera, options)
        yield
        far = abs(np.log(intrinsics.focal / value)) > np.log(_REASONABLE)
        if self._state.live and far and score(sparse, views, camera, options) > options.better * misfit:
            sparse.restore(before)

    def adjust_last(self) -> None:
        """Adjust the whole map, with ``refine_lenses``' own rounds and steps, when no more frames come."""
        self._last = refine_lenses(self._state.sparse, fewest_views=self._fewest)

    def look_off_center(self) -> bool:
        """Look for a principal point off the middle, however far, after ``adjust_last``; returns whether one was found.

        Only once rolling shutters are taken out: no adjustment leads back from one that they feigned.
        """
        return look_off_center(self._state.sparse, self._last)

    def accustom(self, stream: CameraStream, own: Sequence[int]) -> None:
        """Adjust keyframes and focal of a camera that joined, with the rest of the map fixed."""
        refine(self._state.sparse, own, free_focal=self._schedule.joining, rounds=2, sharp=True)
        self.consider_lens(stream)

    def begin(self, stream: CameraStream, last: bool = False) -> bool:
        """Pose the first keyframes together; returns whether that was possible. ``last``: no more come."""
        if not (last or self._schedule.may_begin(stream)):
            return False
        stream = self._unknown(stream)
        intrinsics = self._state.sparse.intrinsics[stream.index]
        known = self._state.trusted and not self._state.alone  # given, or known from an older map
        if self._state.live and not known:
            return self._begin_soon(stream)
        begun = self._bootstrap(stream, [intrinsics.focal] if known else _starts(stream), self._first)[0]
        self._state.settled = begun and known
        self.consider_lens(stream)
        return begun

    def _unknown(self, stream: CameraStream) -> CameraStream:
        """The camera of which focals are tried: ``stream``, or of several, the first of those that are unknown."""
        alone = self._state.alone
        return next((record.stream for record in self._state.records if record.stream.index in alone), stream)

    @property
    def _first(self) -> Sequence[int]:
        """The keyframes to begin a map with. Live, many may have come by then; the others follow."""
        return range(len(self._state.records))[: _MOST_FIRST if self._state.live else None]

    def _begin_soon(self, stream: CameraStream) -> bool:
        """Make the first poses with the usual focal, or that of a wide view, held.

        The first few views hardly determine a focal: the one that explains them best may be off by a factor of two.
        A held focal gives poses that are nearly right for most cameras. If none explains the views, all are tried;
        a very unusual focal needs more views.
        """
        sparse, intrinsics = self._state.sparse, self._state.sparse.intrinsics[stream.index]
        before = sparse.snapshot()
        begun = self._begin_held(stream, _held(intrinsics), self._first)
        if begun and sparse.misfit() < _USUAL_MISFIT:
            return True
        count = len(self._state.records)
        if count >= _OTHER_FOCAL_AT:
            begun = self._bootstrap(stream, _starts(stream), self._first)[0] or begun
            far = abs(np.log(intrinsics.focal / intrinsics.prior)) > np.log(_FAR)
            if begun and (count >= _ANY_FOCAL_AT or not far):
                self.consider_lens(stream)
                return True
        sparse.restore(before)
        return False

    def begin_with_few(self) -> bool:
        """Pose the keyframes that there are, when no more come; returns whether that was possible."""
        fewer = self._state.alone and _FIRST_KEYFRAMES <= len(self._state.records) < _FIRST_ALONE
        return (fewer and self.begin(self._state.records[0].stream, last=True)) or self._begin_with_two()

    def _begin_with_two(self) -> bool:
        """Pose the two keyframes that share most, with focals as guessed; returns whether they show enough.

        No third one confirms them. Pairs of six recordings with fewer landmarks, or worse ones, are often wrong: by a
        fifth of a turn, or with a motion the other way. All must be of one camera, or of ones that took few images.
        """
        sparse, streams = self._state.sparse, [record.stream for record in self._state.records]
        if len(streams) < 2 or (self._state.several_cameras and not all(stream.alone for stream in streams)):
            return False
        before, stream = sparse.snapshot(), streams[0]
        pair = max(combinations(range(len(streams)), 2), key=lambda pair: len(sparse.common(*pair)[0]))
        begun = self._begin_held(stream, [sparse.intrinsics[stream.index].prior], pair)
        if begun and sparse.positioned.sum() >= _PAIR_LANDMARKS and sparse.misfit() < _PAIR_MISFIT:
            return True
        sparse.restore(before)
        return False

    def _begin_held(self, stream: CameraStream, focals: Sequence[float], views: Sequence[int]) -> bool:
        """Make the first poses with one of the focals, held; returns whether that was possible."""
        known = [self._state.intrinsics_of(view) for view in views]
        given = [intrinsics.fixed for intrinsics in known]
        for intrinsics in known:
            intrinsics.fixed = True
        try:
            return self._bootstrap(stream, focals, views, sharp=(False,))[0]
        finally:
            for intrinsics, fixed in zip(known, given, strict=True):
                intrinsics.fixed = fixed

    def improve(self, stream: CameraStream) -> bool:
        """Try other focals while one of them may be right; returns whether the map was rebuilt with a better one."""
        better, stream = False, self._unknown(stream)
        if self._schedule.doubtful(stream):
            intrinsics = self._state.sparse.intrinsics[stream.index]
            before = intrinsics.focal
            focals = [f for f in _starts(stream) if differ(f, before) and self._is_promising(f)]
            better, rival, other = self._bootstrap(stream, focals)
            agreed = abs(np.log(intrinsics.focal / before)) < _AGREED
            self._state.settled = bool(agreed and self._state.trusted and rival > _NO_RIVAL)
            self._weigh_rival(intrinsics, rival, other)
        self.consider_lens(stream)
        return better

    def _weigh_rival(self, intrinsics: Intrinsics, rival: float, focal: float) -> None:
        """Include the distance to a rival ``focal`` in the deviation, by the square root of its likelihood.

        It explains independent errors worse by a factor ``rival``.
        """
        count = INDEPENDENT * len(self._state.sparse.posed())
        weight = max(rival, 1.0) ** (-count / 4.0) if rival < _NO_RIVAL else 0.0
        intrinsics.rival = (focal, weight, intrinsics.focal) if weight else (1.0, 0.0, 1.0)

    def rebuild(self, stretches: bool) -> bool:
        """Pose keyframes anew that contradict the map, and ``stretches`` too if asked; whether it explains more now."""
        sparse, camera = self._state.sparse, self._state.records[0].stream.index
        changed = pose_anew(sparse)
        if stretches:
            changed |= rebuild(sparse, camera, REBUILT, lambda n: [self._options(sharp, n) for sharp in (False, True)])
        if changed:
            self.consider_lens()
        return changed

    def consider_lens(self, *streams: CameraStream) -> None:
        """Set the deviations of all focals; measure those of ``streams`` that were given from the images."""
        consider_lenses(self._state.sparse)
        consider_contradictions(self._state.sparse)
        for stream in streams:
            if self._state.sparse.intrinsics[stream.index].given:
                self._ask_images(stream)

    def _ask_images(self, stream: CameraStream) -> None:
        """Measure a given focal on a sample of the map, free and without prior; the map is unchanged."""
        sparse, intrinsics = self._state.sparse, self._state.sparse.intrinsics[stream.index]
        views = sparse.posed()
        if sum(sparse.views[v].camera == stream.index for v in views) < ENOUGH_VIEWS:
            return
        before, held = sparse.snapshot(), (intrinsics.fixed, intrinsics.prior_std)
        intrinsics.fixed, intrinsics.prior_std = False, float("inf")
        thin(sparse, views, max(30, _ASKED_OBSERVATIONS // len(views)))
        refine_lenses(sparse, rounds=1, iterations=_ASKED_STEPS)
        consider_lenses(sparse)
        intrinsics.measured = intrinsics.focal, intrinsics.std
        sparse.restore(before)
        intrinsics.fixed, intrinsics.prior_std = held

    def _bootstrap(
        self,
        stream: CameraStream,
        focals: Sequence[float],
        views: Sequence[int] | None = None,
        sharp: Sequence[bool] = (False, True),
    ) -> tuple[bool, float, float]:
        """Rebuild the map from the first pair found either way, if that explains clearly more.

        ``views``: use these keyframes, None: all. Returns whether it was rebuilt, how much worse the best
        other focal explains it, and that focal (``Outcome.rival``).
        """
        views = range(len(self._state.records)) if views is None else views
        outcomes: list[Outcome] = []
        rough: PairFromLandmarks | None = None
        for each in sharp if len(focals) else ():
            options = self._options(each, len(views), rough, self._turning)
            assert isinstance(options.first_pair, PairFromLandmarks)
            rough = options.first_pair
            outcomes.append(bootstrap(self._state.sparse, views, stream.index, focals, options))
        if not outcomes:
            return False, math.inf, math.nan
        if len(views) >= ENOUGH_VIEWS and not self._state.live:  # live, this may be a copy that forgets
            self._note_vain(focals, outcomes, len(views))
        rival = min(outcomes, key=lambda outcome: outcome.rival)
        return any(outcome.starts for outcome in outcomes), rival.rival, rival.rival_focal

    def try_all_again(self) -> None:
        """Let the next search leave out no focal: it is the last one."""
        self._vain.clear()

    def _is_promising(self, focal: float) -> bool:
        times, views = self._vain.get(focal, (0, 0))
        return times < _VAIN or len(self._state.records) >= _VAIN_GROWTH * views

    def _note_vain(self, focals: Sequence[float], outcomes: Sequence[Outcome], views: int) -> None:
        """Count how often in a row a search found nothing from a focal: the images are the same, and more of them."""
        promising = frozenset[float]().union(*(outcome.promising for outcome in outcomes))
        vain = frozenset[float]().union(*(outcome.vain for outcome in outcomes)) - promising
        for focal in focals:
            self._vain[focal] = (self._vain.get(focal, (0, 0))[0] + 1, views) if focal in vain else (0, 0)

    def _options(
        self,
        sharp: bool,
        count: int,
        rough: PairFromLandmarks | None = None,
        turning: dict[tuple[int, int], bool] | None = None,
    ) -> Options:
        """Options for a map from ``count`` keyframes; ``rough``, ``turning``: what is known of pairs of these. Live,
        time is short, and a rebuilt map is only worth its cost if it is clearly better: the prior counts as much as a
        few keyframes.
        """
        least, seed = max(_START_INLIERS, self._state.config.track_min_inliers), self._state.config.seed
        if not self._state.live:
            first_pair = PairFromLandmarks(sharp, rough=rough, turning=turning)
            return Options(first_pair, least, seed, unknown=self._state.alone)
        unusual = max(Options.unusual, _PRIOR_KEYFRAMES / count)
        return Options(PairFromLandmarks(sharp, _LIVE_TRIES, rough), least, seed, unusual, 1 / _NO_RIVAL, _MOST_FIRST)


@contextmanager
def same_place(sparse: SparseMap) -> Iterator[None]:
    """Adjustments inside keep the camera's path where it was, as far as a similarity can: published poses continue in
    the same unit, from the same place.

    A wrong focal distorts depth most, and bends the path: with its first pose held, all later ones would turn.
    """
    before = {view: sparse.views[view].pose for view in sparse.posed()}
    yield
    both = [view for view in sparse.posed() if view in before]
    if not both:
        return
    old, new = np.stack([before[view] for view in both]), np.stack([sparse.views[view].pose for view in both])
    recent = slice(-max(len(both) // 8, _STAY), None)  # where the camera is, and will be seen next
    back = similarity_of_poses(new[recent], old[recent], similarity_of_poses(new, old).scale)
    sparse.move(pose(back.rotation, back.translation), back.scale)


def _held(intrinsics: Intrinsics) -> list[float]:
    """Focals, pixels of the tracked image, with which a live map begins: usual ones, or the one that was guessed."""
    return [factor * intrinsics.prior for factor in (_HELD if np.isinf(intrinsics.guess_std) else (1.0,))]


def _starts(stream: CameraStream) -> list[float]:
    """All usual focals, pixels of the tracked image."""
    return [start * stream.long_edge for start in FOCAL_STARTS]
