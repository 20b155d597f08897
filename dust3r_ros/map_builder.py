"""The map under construction: keyframes, their landmarks, pairs and depth."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from dust3r_ros.alignment.cloud import Cloud
from dust3r_ros.alignment.lens_refinement import refine_lenses
from dust3r_ros.alignment.map_merge import merge_maps
from dust3r_ros.alignment.refinement import refine
from dust3r_ros.alignment.sparse_map import MAX_ERROR_PX, SparseMap
from dust3r_ros.alignment.sparse_view import Focal
from dust3r_ros.appearance import Appearance
from dust3r_ros.backends.base import Backend
from dust3r_ros.calibrator import Calibrator
from dust3r_ros.config import MapperConfig
from dust3r_ros.densifier import Densifier
from dust3r_ros.errors import GeometryError
from dust3r_ros.geometry.lens import Lens
from dust3r_ros.geometry.pose import PnpResult
from dust3r_ros.geometry.significance import by_chance
from dust3r_ros.geometry.similarity import Similarity
from dust3r_ros.keyframes import YOUNG
from dust3r_ros.landmark_cloud import landmark_cloud
from dust3r_ros.linker import Linker
from dust3r_ros.pair_graph import PairGraph
from dust3r_ros.streams import CameraStream, KeyframeRecord
from dust3r_ros.timing import StageTimer
from dust3r_ros.tracking import Tracks, no_tracks
from dust3r_ros.types import Array, Image, Keyframe

_MAX_FIRST_KEYFRAMES = 8
_CALIBRATE_AT = (5, 8, 12, 18, 27, 40, 60, 90, 135, 200, 300, 450, 675, 1000)
_LIVE_STEPS = 10  # of an adjustment of the whole map while frames wait; the last one takes its time
_LOOP_MATCHES = 25
_LOOP_GAP_PX = 2.0  # less is drift that the window takes up
_MAX_VAGUENESS = 0.01  # of a place that is recognised: standard deviation of the position over depth
_LOOP_PRUNING_PX = (40.0, 12.0, 4.0)


class MapBuilder:
    """Adds keyframes, keeps poses, focals, landmarks and depth consistent with each other."""

    def __init__(
        self, config: MapperConfig, backend: Backend, stage: StageTimer, appearance: Appearance | None = None
    ) -> None:
        """``appearance`` is common to maps that are to be joined."""
        self._config, self._stage = config, stage
        self._appearance = appearance or Appearance()
        self.sparse = SparseMap(config.min_parallax_deg)
        self.graph = PairGraph(config)
        self._records: list[KeyframeRecord] = []
        self._links = Linker(self.sparse, self._records, config)
        self._dense = Densifier(backend, self.sparse, self.graph, self._records, config, stage)
        self._changed: set[int] = set()
        self.initialised = False
        self.generation = 0  # counts how often the map was built anew or re-calibrated
        self._calibrator = Calibrator(self.sparse, self._records, config)
        self._broken = False

    def __len__(self) -> int:
        return len(self._records)

    @property
    def focals(self) -> list[Focal]:
        """Of the cameras, in their order, pixels of the tracked images."""
        return self.sparse.focals

    @focals.setter
    def focals(self, focals: list[Focal]) -> None:
        self.sparse.focals = focals

    @property
    def young(self) -> bool:
        """True while keyframes close together make calibration sure sooner."""
        return len(self._records) < YOUNG

    def pose(self, index: int) -> Array | None:
        """``w_T_c`` (4, 4) of a keyframe, None while unknown."""
        return self.sparse.views[index].w_T_c

    def posed(self) -> list[int]:
        """The keyframes with a pose."""
        return self.sparse.posed()

    def unit(self, index: int) -> float:
        """A length in the surroundings of a keyframe that grows when they do; NaN while unknown."""
        return self.sparse.median_depth(index)

    def add_camera(self, stream: CameraStream, focal: float | None) -> None:
        """A camera before its first frame; ``focal``: native pixels when known."""
        value = (focal or float(max(stream.width, stream.height))) * stream.tracking_scale
        lens = Lens(stream.long_edge / 2)
        self.sparse.focals.append(Focal(value, value, std=0.0 if focal else float("inf"), fixed=bool(focal), lens=lens))

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
            self._dense.image(index),
            depth,
            confidence,
        )

    def landmarks(self) -> Cloud:
        """The landmarks with their colours."""
        return landmark_cloud(self.sparse, self._records)

    def take_changed(self) -> tuple[Keyframe, ...]:
        """Keyframes that changed since the last call, with new versions."""
        indices, self._changed = sorted(self._changed), set()
        for index in indices:
            self._records[index].version += 1
        return tuple(self.keyframe(index) for index in indices)

    def mark_all(self) -> None:
        """Every keyframe counts as changed."""
        self._changed |= set(self.posed())

    def shared_landmarks(self, other: MapBuilder, index: int) -> np.ndarray:
        """(K, 2) ids of landmarks, own and other's, that features of the other's keyframe ``index`` seem to share."""
        record = other._records[index]
        found = [np.zeros((0, 2), np.int64)]
        for candidate in self.graph.lookalikes(other.graph.look(index), len(self)):
            found.append(self._links.shared(candidate, record, _LOOP_MATCHES))
        return np.concatenate(found)

    def absorb(self, other: MapBuilder, own_S_other: Similarity, matches: np.ndarray) -> tuple[int, np.ndarray]:
        """Take another map in; returns the index of its first keyframe, and what its landmarks are called now."""
        merged = merge_maps(self.sparse, other.sparse, own_S_other, matches)
        for record in other._records:
            record.feature_ids = merged.ids[record.feature_ids]
        self._records += other._records
        self._links.absorb(other._links, merged.first_view, merged.ids)
        self.graph.absorb(other.graph)
        self._dense.take_over(other._dense, merged.first_view, own_S_other.scale)
        self._adjusted(self._close_loop)
        self.generation += 1
        self.mark_all()
        return merged.first_view, self.sparse.resolved_ids(merged.ids)

    def locate(self, stream: CameraStream, tracks: Tracks, near: Array | None = None) -> PnpResult | None:
        """Pose of a frame from its tracked corners, None when as few agree as may by chance; ``near``: a guess."""
        known = self.sparse.known(self.sparse.resolved(tracks))
        try:
            found = self.sparse.locate(stream.index, known, self._config.track_min_inliers, self._config.seed, near)
        except GeometryError:
            return None
        return None if by_chance(found, self.sparse.points[known.ids], known.pixels, MAX_ERROR_PX) else found

    def relocalise(self, stream: CameraStream, gray: Image, image: Image) -> tuple[PnpResult, Tracks] | None:
        """Pose of a frame that lost its tracks, by what it sees of the last and of alike keyframes."""
        features = stream.features(gray)
        last = len(self._records) - 1
        views = [last, *self.graph.lookalikes(self._appearance.describe(features), last)]
        tracks = self._links.find_again(stream, gray, features, views)
        result = self.locate(stream, tracks)
        # A place that is seen again by a few far points only would bend the map.
        if result is None or result.relative_std(self.sparse.points[self.sparse.known(tracks).ids]) > _MAX_VAGUENESS:
            return None
        return result, tracks

    def add(
        self, stamp_ns: int, stream: CameraStream, image: Image, gray: Image, tracks: Tracks, w_T_c: Array | None
    ) -> int:
        """A new keyframe seen at ``w_T_c``, or one of the first whose poses nobody knows yet."""
        index = self.sparse.add(stream.index, no_tracks(), w_T_c)
        features = stream.features(gray)
        ids = self.sparse.new_ids(len(features.pixels))
        self._records.append(KeyframeRecord(stamp_ns, stream, image, features, ids))
        self.sparse.observe(index, Tracks(ids, features.pixels))
        look = self._appearance.describe(features)
        lookalikes = self.graph.lookalikes(look, index - self._config.pair_neighbours)
        self.graph.add(look)
        with self._stage("match"):
            links = self._links.connect(index, gray, tracks, self.graph.neighbours(index))
        self._links.follow_from(index)
        if not self.initialised:
            seen = len(self.sparse.views[index].seen.ids) if index == 0 else links + len(tracks.ids)
            self._broken = seen < self._config.track_min_inliers
            with self._stage("align"):
                self.initialised = self._calibrator.begin(stream)
            if self.initialised:
                self._rebuilt()
        else:
            self._extend(index, stream, lookalikes)
        return index

    def finish(self) -> None:
        """The last adjustment over everything, and depth once more with the poses it gives."""
        if not self.initialised:
            return
        with self._stage("refine"):
            self._adjusted(lambda: refine_lenses(self.sparse))
            for stream in {record.stream.index: record.stream for record in self._records}.values():
                self._calibrator.consider_lens(stream)
        self._changed |= self._dense.renew()

    def _rebuilt(self) -> None:
        """Every pose is new: so is depth."""
        self.generation += 1
        views = range(len(self._records))
        for index in views:
            self._dense.depths.clear(index)
        for index in views:
            self._dense.densify(index, self.graph.neighbours(index))
        self._changed.update(views)

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

    def _extend(self, index: int, stream: CameraStream, lookalikes: list[int]) -> None:
        view = self.sparse.views[index]
        with self._stage("match"):
            closed = [other for other in lookalikes if self._links.link(other, index, _LOOP_MATCHES) >= _LOOP_MATCHES]
        better = self.locate(stream, view.seen, view.w_T_c)
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
        """Whole map with free focals and lenses; while the focal may be wrong, also built anew from others."""
        # While the focal may be wrong, it would bend the lens to fit.
        if len(self._records) <= YOUNG:
            self._adjusted(lambda: refine(self.sparse, free_focal=True, rounds=2, iterations=30, sharp=True))
        else:
            self._adjusted(lambda: refine_lenses(self.sparse, rounds=2, iterations=_LIVE_STEPS))
        self.generation += 1
        if self._calibrator.improve(stream):
            self._rebuilt()

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
