"""A map under construction based on a network's pointmaps: poses, focals and depth from pairs alone.

The counterpart of ``landmark_map`` for backends that need no poses: keyframes are aligned as they
arrive (``alignment/online/incremental.py``), frames between them are located against their depth.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import reduce

import numpy as np
from scipy.spatial import cKDTree

from dust3r_ros.alignment.online.incremental import IncrementalAligner
from dust3r_ros.alignment.online.keyframe_bundle import AlignmentUpdate, RefinedKeyframe, bundle
from dust3r_ros.alignment.online.keyframe_start import PlacedView, attach
from dust3r_ros.backends.base import Backend, as_asked
from dust3r_ros.errors import GeometryError
from dust3r_ros.features.features import Features, matched
from dust3r_ros.features.masks import Mask, without
from dust3r_ros.features.place_recognition import Appearance
from dust3r_ros.geometry.pose import PnpResult
from dust3r_ros.geometry.similarity import Similarity
from dust3r_ros.mapping.camera_stream import CameraStream, KeyframeRecord
from dust3r_ros.mapping.covisibility import Neighbourhood
from dust3r_ros.mapping.keypoint_adjustment import KeypointAdjustment
from dust3r_ros.mapping.localization import locate_corners
from dust3r_ros.mapping.pointmap_keyframes import PointmapKeyframes
from dust3r_ros.mapping.reconstruction import REBUILT, Reconstruction
from dust3r_ros.mapping.saving import PointmapSaving
from dust3r_ros.mapping.submap import LocatedFrame, Submap
from dust3r_ros.sparse.consistency import Doubt, doubts
from dust3r_ros.sparse.rolling_shutter import Motions
from dust3r_ros.timing import StageTimer, Tick, no_tick
from dust3r_ros.tracking import Tracks, join, no_tracks
from dust3r_ros.types import Array, Image, Keyframe, PairPrediction, View

_FACING = 0.5  # cosine of the largest angle between axes of views that may see the same
_MIN_SEEN = 0.1  # of an image must have confidence for its pair with a keyframe to locate it
# Poses that pointmaps fit best fit them better than the true ones, by some 15 % of the mean square, and pointmaps have
# errors in common that no pose shows, as they know no lens. If those from reprojection fit them worse than that
# explains, twice over, landmarks were too few or wrong, and the pointmaps know better.
_CONTRADICTED, _COMMON = 1.3, 0.02
_APART_PX = 8.0  # between corners to follow
_MAX_ATTEMPTS = 8  # second keyframes that do not match the first one


class PointmapFinder:
    """Locates frames in a map of pointmaps, and has the backend pair views with its keyframes."""

    def __init__(
        self,
        state: Reconstruction,
        keyframes: PointmapKeyframes,
        aligner: IncrementalAligner,
        backend: Backend,
        stage: StageTimer,
        appearance: Appearance,
        near: Neighbourhood,
    ) -> None:
        self._state, self._keyframes, self._aligner = state, keyframes, aligner
        self._backend, self._stage = backend, stage
        self._appearance, self._near = appearance, near

    def follow(self, stream: CameraStream, tracks: Tracks, near: Callable[[], Array | None]) -> PnpResult | None:
        """Pose of a frame from its tracked corners: every pixel has a position, so ``near`` is not asked."""
        return self.locate(stream, tracks)

    def accepts_camera(self, stream: CameraStream) -> bool:
        """True for any camera: pointmaps need no focal."""
        return True

    def locate(self, stream: CameraStream, tracks: Tracks, near: Array | None = None) -> PnpResult | None:
        """Pose of a frame from corners of keyframes with known depth, None if too few agree; ``near``: a guess."""
        if not self._state.initialised:
            return None
        points, focal = self._keyframes.points(tracks.ids), self._state.sparse.intrinsics[stream.index]
        pixels = self._keyframes.ideal(stream, tracks.pixels)
        return locate_corners(points, pixels, focal, stream.long_edge, self._state.config, near)

    def relocalise(
        self, stream: CameraStream, gray: Image, image: Image, near: Array | None = None, *, thorough: bool = False
    ) -> tuple[PnpResult, Tracks] | None:
        """Pose of a frame that lost its corners: by features of similar keyframes, else by their pointmaps."""
        candidates = self._candidates(stream, gray)
        alike = self._candidates(stream, gray, thorough) if thorough else candidates
        tracks = self._seen_of(alike, stream, gray)
        result = self.locate(stream, tracks, near)
        if result is not None:
            return result, tracks
        result = self._attach(stream, image, candidates)
        return None if result is None else (result, no_tracks())

    def recall(self, stream: CameraStream, gray: Image) -> Tracks:
        return self._seen_of(self._candidates(stream, gray), stream, gray)

    def _seen_of(self, candidates: Sequence[int], stream: CameraStream, gray: Image) -> Tracks:
        """Corners of keyframes ``candidates`` that an image shows, by features."""
        features, records = stream.features(gray), self._state.records
        found = [no_tracks()]
        for index in candidates:
            pairs = matched(records[index].features, features)
            found.append(Tracks(records[index].feature_ids[pairs[:, 0]], features.pixels[pairs[:, 1]]))
        return reduce(join, found).unique()

    def _candidates(self, stream: CameraStream, gray: Image, thorough: bool = False) -> list[int]:
        newest, count = self._near.newest(stream), len(self._keyframes)
        global_descriptor = self._appearance.describe(stream.features(gray))
        return [*newest, *self._state.graph.loop_candidates(global_descriptor, count, newest, thorough=thorough)]

    def predict(
        self, index: int, size: tuple[int, ...], others: Sequence[int], masked: Mask | None
    ) -> list[PairPrediction]:
        """Pairs of a new view of ``size`` (H, W), ``masked`` or not, with keyframes, in both orders; dropped views are
        added again.
        """
        records = {other: self._state.records[other] for other in others}
        self._hold(records)
        pairs = [pair for other in others for pair in ((other, index), (index, other))]
        sizes = {index: size} | {other: record.image.shape[:2] for other, record in records.items()}
        found = as_asked(self._backend.predict(pairs, {}), pairs, sizes, self._backend.name) if pairs else []
        masks = {index: masked} | {other: record.masked for other, record in records.items()}
        for other in others:
            if other <= index - self._state.config.window:
                self._backend.forget(other)
        return [without(pair, masks) for pair in found]

    def _hold(self, records: Mapping[int, KeyframeRecord]) -> None:
        """Add the views of keyframes that were dropped."""
        for index, record in records.items():
            if not self._backend.has(index):
                self._backend.add(View(index, record.stream.name, record.image))

    def _attach(self, stream: CameraStream, image: Image, candidates: Sequence[int]) -> PnpResult | None:
        """Pose of a frame by the pointmaps of its pairs with keyframes."""
        new = len(self._keyframes)
        with self._stage("predict"):
            self._backend.add(View(new, stream.name, image))
            pairs = self.predict(new, image.shape[:2], candidates, stream.masked)
            self._backend.forget(new)
        pairs = [pair for pair in pairs if pair.second == new and self._sees(pair)]
        placed = {index: PlacedView(self._aligner.pose(index), *self._keyframes.depth(index)) for index in candidates}
        try:
            focal = stream.focal_to_working(self._state.sparse.intrinsics[stream.index].focal)
            return attach(new, pairs, placed, focal, self._state.config.seed)
        except GeometryError:
            return None

    def _sees(self, pair: PairPrediction) -> bool:  # whether its views show the same
        return bool(np.mean(pair.confidence_second > self._state.config.min_confidence) > _MIN_SEEN)


class PointmapBuilder(Submap):
    """Adds keyframes by the pointmaps of their pairs; see ``Submap``.

    No work is deferred: a network's device is not for two processes. Moving objects are not detected. Two keyframes
    determine a focal, so closer keyframes would not help.
    """

    finder: PointmapFinder

    def __init__(
        self, state: Reconstruction, backend: Backend, stage: StageTimer, appearance: Appearance | None = None
    ) -> None:
        super().__init__(state)
        self._appearance = appearance or Appearance()
        self._config, self._backend, self._stage = state.config, backend, stage
        self._aligner = IncrementalAligner(state.config.window)
        self._keyframes = PointmapKeyframes(self.state, self._aligner)
        self._keypoints = KeypointAdjustment(self.state)
        self.saving = PointmapSaving(self.state, self._aligner, self._keyframes)
        self._near = Neighbourhood(self.state)
        self._doubtful: dict[tuple[int, int], float] = {}  # weights of loop pairs not accepted yet
        self._attempts = 0
        self.finder = PointmapFinder(
            self.state, self._keyframes, self._aligner, backend, stage, self._appearance, self._near
        )

    @property
    def settling(self) -> bool:
        """True while frames wait for the second keyframe in order to be located again."""
        return not self.initialised

    @property
    def stuck(self) -> bool:
        """True if many keyframes did not match the first one."""
        return not self.initialised and self._attempts >= _MAX_ATTEMPTS

    @property
    def doubt(self) -> Doubt | None:
        """The worst stretch of keyframes of a finished map that would be rebuilt if landmarks had made it."""
        refined = self._keyframes.refined
        return None if refined is None else next(iter(doubts(refined.contradicted, REBUILT)), None)

    def pose(self, index: int) -> Array | None:
        return self._aligner.pose(index) if self.initialised else None

    def posed(self) -> list[int]:
        return list(range(len(self._keyframes))) if self.initialised else []

    def unit(self, index: int) -> float:
        return self._aligner.scale(index)

    def keyframe(self, index: int) -> Keyframe:
        return self._keyframes.keyframe(index)

    def move(self, new_S_old: Similarity) -> None:
        self._aligner.move({i: new_S_old.matrix @ w_S for i, w_S in enumerate(self._aligner.map.similarities)})
        if (refined := self._keyframes.refined) is not None:
            self._keyframes.refined = replace(refined, positions=new_S_old.apply(refined.positions))
        self.mark_all()

    def positions(self, ids: np.ndarray) -> Array:
        return self._keyframes.points(ids)

    def drift(self, stream: CameraStream, w_T_c: Array, tracks: Tracks) -> Array:
        return super().drift(stream, w_T_c, replace(tracks, pixels=self._keyframes.ideal(stream, tracks.pixels)))

    def add(
        self, stamp_ns: int, stream: CameraStream, image: Image, gray: Image, tracks: Tracks, w_T_c: Array | None
    ) -> int | None:
        """Add a keyframe; None, and nothing added, if its pairs do not place it. ``w_T_c`` is not needed."""
        index = len(self._keyframes)
        self._keyframes.refined = None
        self._backend.add(View(index, stream.name, image))
        near = self._near.neighbours(index, stream, lambda other: self._faces(w_T_c, other))
        features = stream.features(gray)
        global_descriptor = self._appearance.describe(features)
        far = self.graph.loop_candidates(global_descriptor, index, [*self._near.recent(index), *near])
        with self._stage("predict"):
            pairs, loops = (
                self.finder.predict(index, image.shape[:2], others, stream.masked) for others in (near, far)
            )
        try:
            with self._stage("align"):
                self._report_focal(stream)
                update = self._aligner.add(stream.name, image.shape[0], image.shape[1], pairs, loops)
        except GeometryError:
            self._backend.forget(index)
            self._attempts += 1
            return None
        self.graph.add(global_descriptor, near)
        self._record(stamp_ns, stream, image, gray, features, tracks)
        self._connect(pairs, loops, update)
        self._take(update, {index, *near})
        self._backend.forget(index - self._config.window)
        if index == 1:
            self.state.generation += 1
        return index

    def finish(self, tick: Tick = no_tick, depth: bool = True) -> None:
        """Keyframes have their depth."""

    def adjust_last(self, motions: Callable[[], Motions] = Motions) -> None:
        """Solve everything for the last time, by moments and then by reprojection of landmarks."""
        if not self.initialised:
            return
        with self._stage("align"):
            self._take(self._aligner.finish(), set())
        with self._stage("refine"):
            self._refine()

    def exact_poses(self, frames: Sequence[LocatedFrame]) -> Sequence[Array | None]:
        return super().exact_poses(frames) if self._keyframes.refined is None else self._keypoints.poses(frames)

    def _refine(self) -> None:
        """Bundle adjustment of keyframes with landmarks; the others follow the nearest of these."""
        edges = [(first, second) for first, second, _ in self.graph.edges]
        posed = [self._keyframes.posed(index) for index in range(len(self))]
        self._keyframes.refined = None
        refined = bundle(posed, edges, self.intrinsics, self._config.min_parallax_deg, self._keypoints.measured)
        if refined is None:
            return
        growth = np.array([self._growth(index, keyframe) for index, keyframe in refined.keyframes.items()])
        if not np.isfinite(growth).any():
            return
        growth = np.where(np.isfinite(growth), growth, np.nanmedian(growth))
        moved = {
            index: keyframe.w_T_c @ np.diag([*[factor * self._aligner.scale(index)] * 3, 1.0])
            for (index, keyframe), factor in zip(refined.keyframes.items(), growth.tolist(), strict=True)
        }
        before, misfit = self._aligner.map.similarities.copy(), self._aligner.map.misfit()
        self._aligner.move(moved)
        contradicted = self._aligner.map.misfit() ** 2 > _CONTRADICTED * misfit**2 + _COMMON**2
        if contradicted and not refined.certain:
            self._aligner.map.restore(before)
            return
        self._keyframes.refined = refined
        for index, keyframe in refined.keyframes.items():
            self._keyframes.hold(index, keyframe)
        # Neither images nor pointmaps are rectified, so keyframes have no lens
        lenses = [given.lens for given in self.intrinsics]
        self.intrinsics = [replace(own, lens=lens) for own, lens in zip(refined.intrinsics, lenses, strict=True)]
        self.state.changed |= set(range(len(self._keyframes)))

    def _growth(self, index: int, keyframe: RefinedKeyframe) -> float:
        """The growth of a keyframe's surroundings: its landmarks against its depth."""
        depth = self._keyframes.sampled(index, keyframe.offsets)
        seen = np.isfinite(depth)
        if np.count_nonzero(seen) < self._config.track_min_inliers:
            return float("nan")
        return float(np.median(keyframe.depths[seen] / depth[seen]))

    def _report_focal(self, stream: CameraStream) -> None:
        intrinsics = self.intrinsics[stream.index]
        if intrinsics.given and not self._keyframes.has_sent(stream):
            std = 0.0 if intrinsics.fixed else intrinsics.prior_std
            self._aligner.set_focal(stream.name, stream.focal_to_working(intrinsics.focal), std)

    def _record(
        self, stamp_ns: int, stream: CameraStream, image: Image, gray: Image, features: Features, followed: Tracks
    ) -> None:
        """Record a keyframe and follow its corners from here: its features; between them followed and new ones."""
        count, known = self._config.track_corners, len(features.pixels)
        kept = followed.select(_apart(followed.pixels, features.pixels))
        kept = kept.select(np.arange(len(kept.ids)) < count - known)
        taken = np.concatenate([features.pixels, kept.pixels])
        corners = stream.corners(max(0, count - len(taken)), taken)
        tracks = self._keyframes.new_ids(np.concatenate([features.pixels, corners]), followed)
        record = KeyframeRecord(stamp_ns, stream, image, features, tracks.ids[:known], masked=stream.masked, gray=gray)
        self.state.append(record)
        self.state.initialised = len(self) > 1
        spread = np.linspace(0, len(tracks.ids) - 1, min(len(tracks.ids), count - len(kept.ids))).astype(int)
        stream.anchor(stamp_ns, join(kept, tracks.select(spread)))

    def _faces(self, w_T_c: Array | None, other: int) -> bool:
        """Whether a view at ``w_T_c`` looks roughly where a keyframe does; true if its pose is unknown."""
        w_T_o = self.pose(other)
        return w_T_c is None or w_T_o is None or bool(w_T_c[:3, 2] @ w_T_o[:3, 2] > _FACING)

    def _connect(
        self, pairs: Sequence[PairPrediction], loops: Sequence[PairPrediction], update: AlignmentUpdate
    ) -> None:
        """Record which pairs count: kept ones with neighbours, and loops once closed."""
        off = {(edge.first, edge.second) for edge in update.switched_off}
        for pair in [*pairs, *loops]:
            ends = (pair.first, pair.second)
            weight = float(np.mean(np.log(pair.confidence_first)) + np.mean(np.log(pair.confidence_second)))
            if any(pair is loop for loop in loops):
                self._doubtful[ends] = weight
            elif ends not in off:
                self._graph_edge(ends, weight)
        for ends in update.closed:
            self._graph_edge(ends, self._doubtful.get(ends, 0.0))
        for ends in off.union(update.closed):
            self._doubtful.pop(ends, None)

    def _graph_edge(self, ends: tuple[int, int], weight: float) -> None:
        first, second = (self.state.records[end].stream.name for end in ends)
        self.graph.connect(*ends, weight, (first, second))

    def _take(self, update: AlignmentUpdate, touched: set[int]) -> None:
        """Mark changes, keep final depth, adopt focals."""
        for change in update.changed:
            self._keyframes.settle(change)
        if self.initialised:
            self.state.changed |= touched | {change.index for change in update.changed}
        for stream in self._keyframes.streams():
            entry = self.intrinsics[stream.index]
            if not entry.fixed and self.initialised:
                focal, std = self._aligner.focal(stream.name)
                entry.focal, entry.std = focal / stream.focal_to_working(1.0), std / focal


def _apart(offsets: Array, others: Array) -> np.ndarray:
    """(N,) which offsets (N, 2) have none of ``others`` (M, 2) near them."""
    if not len(offsets) or not len(others):
        return np.ones(len(offsets), bool)
    return np.asarray(cKDTree(others).query(offsets)[0] > _APART_PX)
