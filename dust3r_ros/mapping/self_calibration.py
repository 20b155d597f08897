"""Focal lengths of a map of landmarks: when they are looked for, the first poses, other focals tried, the lens."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np

from dust3r_ros.mapping.camera_stream import CameraStream
from dust3r_ros.mapping.reconstruction import MOST_UNSURE, Reconstruction
from dust3r_ros.sparse.initialization import FOCAL_STARTS, Options, PairFromLandmarks, bootstrap, differ, score
from dust3r_ros.sparse.landmarks import Intrinsics
from dust3r_ros.sparse.refinement import USUAL_BEND, focal_shift, refine, refine_lenses, thin
from dust3r_ros.sparse.sparse_map import SparseMap
from dust3r_ros.tracking.front_end import YOUNG
from dust3r_ros.types import Array

_FIRST_KEYFRAMES = 3  # with an unknown focal; two views alone do not tell it
_CALIBRATE_AT = (5, 8, 12, 18, 27, 40, 60, 90, 135, 200, 300, 450, 675, 1000)
# Live, keyframes; fewer tell less of a focal than the usual one that the first poses were made with. While it may be
# wrong, the next time is when there are so many times more.
_LIVE_FROM, _LIVE_GROWTH = 8, 1.5
# The first time is after so long a motion: images that are close together tell little, however many; with as many as
# ``_ANYWAY`` keyframes the motion was fast. With fewer than ``_SEARCH_FROM`` it is soon calibrated again instead.
_LIVE_MOVING_NS, _ANYWAY = 1_100_000_000, 18
_SEARCH_FROM = 16
_ACCUSTOMED_AT = (3, 5, 8, 12)


class CalibrationSchedule:
    """When a map is calibrated: with so many keyframes, after so much motion, as long as its focal may be wrong."""

    def __init__(self, state: Reconstruction) -> None:
        self._state = state
        self._calibrated_with = 0  # keyframes, live

    def calibrated(self) -> None:
        """Live, a calibration with the keyframes so far was begun."""
        self._calibrated_with = len(self._state.records)

    def may_begin(self, stream: CameraStream) -> bool:
        """Whether there are as many keyframes as it takes to pose the first."""
        fewest = 2 if self._state.sparse.intrinsics[stream.index].fixed else _FIRST_KEYFRAMES
        return len(self._state.records) >= fewest

    @property
    def calibration_due(self) -> bool | None:
        """Whether the whole map is to be adjusted with as many keyframes as it has; None: once the camera rests."""
        count = len(self._state.records)
        if not self._state.live or count < _CALIBRATE_AT[0]:
            return count in _CALIBRATE_AT
        if self._state.sure:
            return count in _CALIBRATE_AT or (count < _LIVE_FROM and not self._calibrated_with)
        moving_ns = self._state.records[-1].stamp_ns - self._state.records[1].stamp_ns
        if not self._calibrated_with and moving_ns < _LIVE_MOVING_NS and count < _ANYWAY:
            return None
        return True if count >= max(_LIVE_FROM, _LIVE_GROWTH * self._calibrated_with) else None

    @property
    def search_due(self) -> bool | None:
        """Whether other focals are to be tried after a calibration; None: once the camera rests.

        It takes seconds, in which the map is not calibrated again.
        """
        if not self.doubtful(self._state.records[0].stream):
            return False
        return True if not self._state.live or len(self._state.records) >= _SEARCH_FROM else None

    def doubtful(self, stream: CameraStream) -> bool:
        """Whether another focal than that of the map may be right."""
        several = any(record.stream is not stream for record in self._state.records)
        known = self._state.sparse.intrinsics[stream.index].given or self._state.settled
        return not (known or several or len(self._state.records) > MOST_UNSURE)

    @property
    def joining(self) -> np.ndarray:
        """(F,) the cameras that joined a map and are in few keyframes yet: their focals move in every adjustment."""
        few = self._state.views_by_camera() < YOUNG
        few[self._state.records[0].stream.index] = False
        return few

    def joining_due(self, stream: CameraStream) -> list[int]:
        """The keyframes of a camera that joined, when they are as many as to ``accustom`` it again."""
        if not self.joining[stream.index] or self._state.views_of(stream) not in _ACCUSTOMED_AT:
            return []
        return [v for v in self._state.sparse.posed() if self._state.sparse.views[v].camera == stream.index]


# A start is free to choose its pair, its focal and all poses: chance fits more to it than to one pose in a map.
_START_INLIERS = 15
_SURE_OF_FOCAL = 0.02  # relative standard deviation
# Two focals may explain the same views nearly alike, each with its own poses (when the camera mostly turns); the
# scatter of the observations says nothing of that. Which is right shows once the map is larger.
_NO_RIVAL = 1.1
# Live, keyframes: before, the focal of the first poses is held; then one within a factor of the usual; then any.
_OTHER_FOCAL_AT, _ANY_FOCAL_AT, _FAR = 4, 8, 2.2
_HELD = (0.55, 1.0)  # times the usual focal: 84 and 53 degrees of view; a narrow view explains any three views
_REASONABLE = 1.5  # factor by which an adjustment may change a focal
_PRIOR_KEYFRAMES = 2.0
_LIVE_TRIES = 150
_MOST_FIRST = 12
_USUAL_MISFIT = 2.0  # square pixels: more, and the focal is none of those that are held
_ASKED_OBSERVATIONS = 10_000  # of all views together, when the images are asked for a focal that was given
_ASKED_STEPS = 20
_ENOUGH_VIEWS = 8
_LIVE_STEPS = 10  # of an adjustment of the whole map while frames wait; the last one takes its time


class Calibrator:
    """Builds a map anew from what its keyframes see, as long as its focal may be wrong."""

    def __init__(self, state: Reconstruction, schedule: CalibrationSchedule) -> None:
        self._state, self._schedule = state, schedule

    def calibrate(self, stream: CameraStream) -> bool:
        """Adjust the whole map; whether it was built anew, since another focal than that of its start explains more."""
        intrinsics, better = self._state.sparse.intrinsics[stream.index], False
        first, before = not np.isfinite(intrinsics.std), intrinsics.focal
        self.adjust()
        others = [held for held in _held(intrinsics) if differ(held, before) and differ(held, intrinsics.focal)]
        if others and first and self._state.live and self._schedule.doubtful(stream):
            better = self._bootstrap(stream, others, sharp=(False,))[0]
        self.consider_lens(stream)
        return better

    def adjust(self) -> None:
        """The whole map, with free focals and, once it is large enough, lenses."""
        # While the focal may be wrong, it would bend the lens to fit.
        if len(self._state.records) <= YOUNG or not self._state.sure:
            with self.within_reason():
                refine(self._state.sparse, free_focal=True, rounds=2, iterations=30, sharp=True)
        else:
            refine_lenses(self._state.sparse, rounds=2, iterations=_LIVE_STEPS)

    @contextmanager
    def within_reason(self) -> Iterator[None]:
        """Live, what takes the first camera's focal far away in here has to explain far more, else it is undone."""
        sparse, camera = self._state.sparse, self._state.records[0].stream.index
        views, intrinsics = sparse.posed(), sparse.intrinsics[camera]
        options = self._options(False, len(views))
        before, value, misfit = sparse.snapshot(), intrinsics.focal, score(sparse, views, camera, options)
        yield
        far = abs(np.log(intrinsics.focal / value)) > np.log(_REASONABLE)
        if self._state.live and far and score(sparse, views, camera, options) > options.better * misfit:
            sparse.restore(before)

    def adjust_last(self) -> None:
        """The same when no more frames come, and time does not press."""
        if self._state.sure:
            refine_lenses(self._state.sparse)
        else:
            refine(self._state.sparse, free_focal=True, rounds=3, iterations=30, sharp=True)

    def accustom(self, stream: CameraStream, own: Sequence[int]) -> None:
        """Adjust keyframes and focal of a camera that joined to the rest of the map, which stays."""
        refine(self._state.sparse, own, free_focal=self._schedule.joining, rounds=2, sharp=True)
        self.consider_lens(stream)

    def begin(self, stream: CameraStream) -> bool:
        """Pose the first keyframes together; whether that was possible."""
        intrinsics = self._state.sparse.intrinsics[stream.index]
        if not self._schedule.may_begin(stream):
            return False
        known = intrinsics.given or intrinsics.std < _SURE_OF_FOCAL  # as an older map tells
        if self._state.live and not known:
            return self._begin_soon(stream)
        begun = self._bootstrap(stream, [intrinsics.focal] if known else _starts(stream), self._first)[0]
        self._state.settled = begun and known
        self.consider_lens(stream)
        return begun

    @property
    def _first(self) -> int | None:
        """How many keyframes a map begins with at most, None: all. Live, many may have come by then; they follow."""
        return _MOST_FIRST if self._state.live else None

    def _begin_soon(self, stream: CameraStream) -> bool:
        """The first poses with the focal that cameras usually have, or with that of a wide view, held.

        The first few views hardly tell a focal: the one that explains them best may be off by a factor of two. One that
        is held gives poses that are nearly right for most cameras. Where none explains what is seen, all are tried; one
        that is very far off needs more views.
        """
        sparse, intrinsics = self._state.sparse, self._state.sparse.intrinsics[stream.index]
        before, intrinsics.fixed = sparse.snapshot(), True
        try:
            begun = self._bootstrap(stream, _held(intrinsics), self._first, sharp=(False,))[0]
        finally:
            intrinsics.fixed = False
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

    def improve(self, stream: CameraStream) -> bool:
        """Try other focals while one of them may be right; whether the map was built anew because one explains more."""
        better = False
        if self._schedule.doubtful(stream):
            intrinsics = self._state.sparse.intrinsics[stream.index]
            before = intrinsics.focal
            better, rival = self._bootstrap(stream, [f for f in _starts(stream) if differ(f, before)])
            agreed = abs(np.log(intrinsics.focal / before)) < 2 * _SURE_OF_FOCAL
            self._state.settled = bool(agreed and intrinsics.std < _SURE_OF_FOCAL and rival > _NO_RIVAL)
        self.consider_lens(stream)
        return better

    def consider_lens(self, stream: CameraStream) -> None:
        """How sure the focal is, for a lens of which nobody knows how much it bends; what images say of a given one."""
        if self._state.sparse.intrinsics[stream.index].given:
            self._ask_images(stream)
            return
        shift = focal_shift(self._state.sparse, stream.index, stream.long_edge / 2)
        self._state.sparse.intrinsics[stream.index].lens_std = USUAL_BEND * abs(shift)

    def _ask_images(self, stream: CameraStream) -> None:
        """What a sample of the map says of a given focal when it is free and its prior unknown; the map stays."""
        sparse, intrinsics = self._state.sparse, self._state.sparse.intrinsics[stream.index]
        views = sparse.posed()
        if sum(sparse.views[v].camera == stream.index for v in views) < _ENOUGH_VIEWS:
            return
        before, held = sparse.snapshot(), (intrinsics.fixed, intrinsics.prior_std)
        intrinsics.fixed, intrinsics.prior_std = False, float("inf")
        thin(sparse, views, max(30, _ASKED_OBSERVATIONS // len(views)))
        refine(sparse, free_focal=True, rounds=1, iterations=_ASKED_STEPS, sharp=True)
        bend = USUAL_BEND * abs(focal_shift(sparse, stream.index, stream.long_edge / 2))
        intrinsics.measured = intrinsics.focal, float(np.hypot(intrinsics.std, bend))
        sparse.restore(before)
        intrinsics.fixed, intrinsics.prior_std = held

    def _bootstrap(
        self,
        stream: CameraStream,
        focals: Sequence[float],
        count: int | None = None,
        sharp: Sequence[bool] = (False, True),
    ) -> tuple[bool, float]:
        """Build the map anew from the first pair that is found either way, where that explains clearly more.

        ``count``: of so many first keyframes, None: of all. Returns whether it was, and how much worse the best other
        focal explains it (``Outcome.rival``).
        """
        views = range(len(self._state.records[:count]))
        outcomes = []
        for each in sharp:
            options = self._options(each, len(views))
            outcomes.append(bootstrap(self._state.sparse, views, stream.index, focals, options))
        return any(outcome.starts for outcome in outcomes), min(outcome.rival for outcome in outcomes)

    def _options(self, sharp: bool, count: int) -> Options:
        """Of a map made from ``count`` keyframes. Live, time is short, and a map that is built anew costs more than it
        explains unless it is clearly better: the prior counts as much as a few keyframes.
        """
        least, seed = max(_START_INLIERS, self._state.config.track_min_inliers), self._state.config.seed
        if not self._state.live:
            return Options(PairFromLandmarks(sharp), least, seed)
        unusual = max(Options.unusual, _PRIOR_KEYFRAMES / count)
        return Options(PairFromLandmarks(sharp, _LIVE_TRIES), least, seed, unusual, 1 / _NO_RIVAL, _MOST_FIRST)


@contextmanager
def same_scale(sparse: SparseMap) -> Iterator[None]:
    """What is adjusted in here keeps the length of the camera's way: poses that are out go on in the same unit.

    It is depth that a wrong focal falsifies most.
    """
    before = {view: sparse.views[view].w_T_c for view in sparse.posed()}
    yield
    both = [view for view in sparse.posed() if view in before]
    length = _spread([before[view] for view in both]), _spread([sparse.views[view].w_T_c for view in both])
    if min(length) > 0:
        sparse.move(np.eye(4), length[0] / length[1])


def _spread(w_T_c: Sequence[Array | None]) -> float:
    """Root mean square distance of poses (4, 4) from their middle; 0 for none."""
    centers = np.array([pose[:3, 3] for pose in w_T_c if pose is not None]).reshape(-1, 3)
    return float(np.sqrt(centers.var(axis=0).sum())) if len(centers) else 0.0


def _held(intrinsics: Intrinsics) -> list[float]:
    """Focals, pixels of the tracked image, that a map begins with while cameras are live."""
    return [factor * intrinsics.prior for factor in _HELD]


def _starts(stream: CameraStream) -> list[float]:
    """All usual focals, pixels of the tracked image."""
    return [start * stream.long_edge for start in FOCAL_STARTS]
