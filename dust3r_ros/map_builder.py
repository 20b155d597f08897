"""The map under construction: keyframes, their landmarks, pairs and depth."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import reduce
from itertools import permutations

import numpy as np

from dust3r_ros.alignment.bootstrap import (
    FOCAL_STARTS,
    Options,
    PairFromLandmarks,
    bootstrap,
    pair_from_pointmaps,
)
from dust3r_ros.alignment.refinement import refine
from dust3r_ros.alignment.sparse_map import SparseMap
from dust3r_ros.alignment.sparse_view import Focal
from dust3r_ros.backends.base import Backend
from dust3r_ros.config import MapperConfig
from dust3r_ros.densifier import Densifier
from dust3r_ros.errors import GeometryError
from dust3r_ros.features import Features, epipolar_inliers, extract, match
from dust3r_ros.geometry.focal import estimate_focal
from dust3r_ros.geometry.pose import PnpResult
from dust3r_ros.keyframes import YOUNG
from dust3r_ros.pair_graph import PairGraph
from dust3r_ros.streams import CameraStream, KeyframeRecord
from dust3r_ros.timing import StageTimer
from dust3r_ros.tracking import Tracks, join, no_tracks
from dust3r_ros.types import Array, Image, Keyframe, View

_FIRST_KEYFRAMES = 3  # with an unknown focal; two views alone do not tell it
_MAX_FIRST_KEYFRAMES = 8
_CALIBRATE_AT = (5, 8, 12, 18, 27, 40, 60, 90, 135, 200, 300, 450, 675, 1000)
_OTHER_FOCAL = 1.15  # starts closer than this factor to the focal at hand lead to where it is
_SURE_OF_FOCAL = 0.02  # relative standard deviation
_LOOP_MATCHES = 25
_LOOP_GAP_PX = 2.0  # less is drift that the window takes up
_ENOUGH_LINKS = 150
_LOOP_PRUNING_PX = (40.0, 12.0, 4.0)


class MapBuilder:
    """Adds keyframes, keeps poses, focals, landmarks and depth consistent with each other."""

    def __init__(self, config: MapperConfig, backend: Backend, stage: StageTimer) -> None:
        self._config, self._stage = config, stage
        self.sparse = SparseMap(config.min_parallax_deg)
        self.graph = PairGraph(config)
        self._records: list[KeyframeRecord] = []
        self._dense = Densifier(backend, self.sparse, self.graph, self._records, config.window, stage)
        self._changed: set[int] = set()
        self.initialised = False
        self.generation = 0  # counts how often the map was built anew or re-calibrated
        self._sure_of_focal = False
        self._broken = False

    def __len__(self) -> int:
        return len(self._records)

    def add_camera(self, stream: CameraStream, focal: float | None) -> None:
        """A camera before its first frame; ``focal``: native pixels when known."""
        value = (focal or float(max(stream.width, stream.height))) * stream.tracking_scale
        self.sparse.focals.append(Focal(value, value, std=0.0 if focal else float("inf"), fixed=bool(focal)))

    def keyframe(self, index: int) -> Keyframe:
        """A keyframe as it stands now."""
        record, view = self._records[index], self.sparse.views[index]
        assert view.w_T_c is not None, f"keyframe {index} has no pose yet"
        shape = record.image.shape[:2]
        depth, confidence = self._dense.depths.get(index) or (np.zeros(shape, np.float32), np.ones(shape, np.float32))
        focal = record.stream.focal_to_working(self.sparse.focals[view.camera].value)
        return Keyframe(
            index,
            record.version,
            record.stamp_ns,
            record.stream.name,
            view.w_T_c,
            focal,
            record.image,
            depth,
            confidence,
        )

    def take_changed(self) -> tuple[Keyframe, ...]:
        """Keyframes that changed since the last call, with new versions."""
        indices, self._changed = sorted(self._changed), set()
        for index in indices:
            self._records[index].version += 1
        return tuple(self.keyframe(index) for index in indices)

    def locate(self, stream: CameraStream, tracks: Tracks) -> PnpResult | None:
        """Pose of a frame from its tracked corners, None when too few agree."""
        try:
            resolved = self.sparse.resolved(tracks)
            return self.sparse.locate(stream.index, resolved, self._config.track_min_inliers, self._config.seed)
        except GeometryError:
            return None

    def relocalise(self, stream: CameraStream, gray: Image) -> tuple[PnpResult, Tracks] | None:
        """Pose of a frame that lost its tracks, by features of the last and of alike keyframes."""
        features = self._features(stream, gray)
        last = len(self._records) - 1
        found: list[Tracks] = []
        for index in [last, *self.graph.lookalikes(gray, last)]:
            record = self._records[index]
            pairs = self._verified(record.features, features, 12)
            found.append(Tracks(record.feature_ids[pairs[:, 0]], features.pixels[pairs[:, 1]]))
        tracks = self.sparse.resolved(reduce(join, found))
        result = self.locate(stream, tracks)
        return None if result is None else (result, tracks)

    def add(
        self, stamp_ns: int, stream: CameraStream, image: Image, gray: Image, tracks: Tracks, w_T_c: Array | None
    ) -> int:
        """A new keyframe seen at ``w_T_c``, or one of the first whose poses nobody knows yet."""
        index = self.sparse.add(stream.index, no_tracks(), w_T_c)
        features = self._features(stream, gray)
        ids = self.sparse.new_ids(len(features.pixels))
        self._records.append(KeyframeRecord(stamp_ns, stream, image, features, ids))
        self.sparse.observe(index, Tracks(ids, features.pixels))
        self._dense.backend.add(View(index, stream.name, image))
        lookalikes = self.graph.lookalikes(gray, index - self._config.pair_neighbours)
        self.graph.add(gray)
        with self._stage("match"):
            links = sum(self._link(other, index, 12) for other in self.graph.neighbours(index))
        tracks = self.sparse.resolved(tracks)
        # Features found again do not drift as corners that were followed do; those are for where features are few.
        if links < _ENOUGH_LINKS:
            self.sparse.observe(index, tracks)
        self._follow_from(index, stream)
        if not self.initialised:
            seen = len(self.sparse.views[index].seen.ids) if index == 0 else links + len(tracks.ids)
            self._broken = seen < self._config.track_min_inliers
            self._initialise(stream)
        else:
            self._extend(index, stream, lookalikes)
        return index

    def finish(self) -> None:
        """The last adjustment over everything, and depth once more with the poses it gives."""
        if not self.initialised:
            return
        with self._stage("refine"):
            self._adjusted(lambda: refine(self.sparse, free_focal=True, rounds=3, iterations=30))
        if not self._dense.backend.uses_poses:
            return
        with self._stage("fuse"):
            self._changed |= self._dense.renew()

    def _features(self, stream: CameraStream, gray: Image) -> Features:
        features = extract(gray)
        return Features(stream.centred(features.pixels), features.descriptors)

    @staticmethod
    def _verified(a: Features, b: Features, minimum: int) -> np.ndarray:
        pairs = match(a, b)
        good = epipolar_inliers(a.pixels[pairs[:, 0]], b.pixels[pairs[:, 1]])
        return pairs[good] if good.sum() >= minimum else pairs[:0]

    def _link(self, old: int, new: int, minimum: int) -> int:
        """Make features that match in two keyframes one landmark; returns how many match."""
        a, b = self._records[old], self._records[new]
        pairs = self._verified(a.features, b.features, minimum)
        self.sparse.merge(a.feature_ids[pairs[:, 0]], b.feature_ids[pairs[:, 1]])
        return len(pairs)

    def _follow_from(self, index: int, stream: CameraStream) -> None:
        """Track the keyframe's features from here; where there are few, plain corners too."""
        record, count = self._records[index], self._config.track_corners
        pixels, ids = record.features.pixels, self.sparse.resolved_ids(record.feature_ids)
        known = np.isfinite(self.sparse.points[ids, 0])
        order = np.argsort(~known, kind="stable")[:count]
        corners = stream.corners(count - len(order), pixels)
        more = Tracks(self.sparse.new_ids(len(corners)), corners)
        self.sparse.observe(index, more)
        stream.anchor(join(Tracks(ids[order], pixels[order]), more).unique())

    def _initialise(self, stream: CameraStream) -> None:
        """Try to pose the first keyframes together."""
        known = self.sparse.focals[stream.index].fixed or not self._dense.backend.uses_poses
        if len(self._records) < (2 if known else _FIRST_KEYFRAMES):
            return
        with self._stage("align"):
            self.initialised = self._bootstrap(stream, self._focal_starts(stream))

    def _bootstrap(self, stream: CameraStream, focals: Sequence[float]) -> bool:
        """Build the whole map anew from what its keyframes see, if that explains it better."""
        views = list(range(len(self._records)))

        def from_network(_: SparseMap, first_views: Sequence[int], focal: float) -> tuple[int, int, Array]:
            predictions = self._dense.predict(list(permutations(first_views[:2], 2)), {})
            return pair_from_pointmaps(predictions, stream.focal_to_working(focal), self._config.seed)

        first_pair = PairFromLandmarks() if self._dense.backend.uses_poses else from_network
        options = Options(first_pair, self._config.track_min_inliers, self._config.seed)
        starts = bootstrap(self.sparse, views, stream.index, focals, options)
        if starts:
            self.generation += 1
            for index in views:
                self._dense.depths.clear(index)
            for index in views:
                self._dense.densify(index, self.graph.neighbours(index))
            self._changed.update(views)
        return bool(starts)

    def accepts(self, stream: CameraStream) -> bool:
        """Whether a camera's frames may become keyframes now: a map starts from one camera."""
        return self.initialised or all(record.stream is stream for record in self._records)

    @property
    def settling(self) -> bool:
        """True while the focal may still change by more than a little."""
        return len(self._records) <= YOUNG

    @property
    def stuck(self) -> bool:
        """True when nothing can be built from the first keyframes: they are many, or the last sees nothing shared."""
        return not self.initialised and (self._broken or len(self._records) >= _MAX_FIRST_KEYFRAMES)

    def _focal_starts(self, stream: CameraStream) -> list[float]:
        """Focals to try, pixels of the tracked image."""
        focal = self.sparse.focals[stream.index]
        if focal.fixed:
            return [focal.value]
        if self._dense.backend.uses_poses:
            return [start * stream.long_edge for start in FOCAL_STARTS]
        predictions = self._dense.predict([(0, len(self._records) - 1), (len(self._records) - 1, 0)], {})
        try:
            logs = [np.log(estimate_focal(p.points_first, p.confidence_first)) for p in predictions]
        except GeometryError:  # pointmaps that are no picture of anything
            return []
        return [float(np.exp(np.mean(logs))) / stream.focal_to_working(1.0)]

    def _extend(self, index: int, stream: CameraStream, lookalikes: list[int]) -> None:
        view = self.sparse.views[index]
        with self._stage("match"):
            closed = [other for other in lookalikes if self._link(other, index, _LOOP_MATCHES) >= _LOOP_MATCHES]
        better = self.locate(stream, view.seen)
        if better is not None:
            view.w_T_c = better.w_T_c
        with self._stage("refine"):
            recent = range(max(1, index + 1 - self._config.window), index + 1)
            window = [recent_view for recent_view in recent if self.sparse.views[recent_view].w_T_c is not None]
            self.sparse.extend(window)
            if closed and self.sparse.disagreement(index) > _LOOP_GAP_PX:
                self._adjusted(self._close_loop)
            self._adjusted(lambda: refine(self.sparse, window, rounds=1, iterations=6), window)
            self.sparse.extend(window)
        if len(self._records) in _CALIBRATE_AT:
            with self._stage("calibrate"):
                self._calibrate(stream)
        self._changed |= {index} | self._dense.densify(index, [*self.graph.neighbours(index), *closed])
        self._dense.leave(index)

    def _close_loop(self) -> None:
        for limit in _LOOP_PRUNING_PX:
            refine(self.sparse, free_focal=True, rounds=1, max_error_px=limit)

    def _calibrate(self, stream: CameraStream) -> None:
        """Whole map with free focals; while the focal may be wrong, also built anew from others."""
        self._adjusted(lambda: refine(self.sparse, free_focal=True, rounds=2, iterations=30))
        self.generation += 1
        focal = self.sparse.focals[stream.index]
        several = any(record.stream is not stream for record in self._records)
        if focal.fixed or self._sure_of_focal or several or len(self._records) > YOUNG:
            return
        better = self._bootstrap(stream, [start for start in self._focal_starts(stream) if self._other(start, focal)])
        self._sure_of_focal = not better and focal.std < _SURE_OF_FOCAL

    @staticmethod
    def _other(start: float, focal: Focal) -> bool:
        return abs(np.log(start / focal.value)) > np.log(_OTHER_FOCAL)

    def _adjusted(self, adjust: Callable[[], object], views: Sequence[int] | None = None) -> None:
        """Run an adjustment of ``views`` (all); depth follows the landmarks, moved keyframes are marked."""
        chosen = self.sparse.posed() if views is None else views
        before = {index: (self.sparse.views[index].w_T_c, self.sparse.median_depth(index)) for index in chosen}
        adjust()
        for index, (w_T_c, depth) in before.items():
            if self.sparse.views[index].w_T_c is w_T_c:
                continue
            self._changed.add(index)
            factor = self.sparse.median_depth(index) / depth
            if np.isfinite(factor) and factor > 0:
                self._dense.depths.rescale(index, factor)
