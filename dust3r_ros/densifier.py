"""Depth for keyframes: pairs to the backend, pointmaps into the depth maps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from dust3r_ros.alignment.attach import PlacedView, pair_scale
from dust3r_ros.alignment.depth_fusion import robust_scale
from dust3r_ros.alignment.depth_maps import DepthMaps
from dust3r_ros.alignment.sparse_map import SparseMap
from dust3r_ros.backends.base import Backend
from dust3r_ros.geometry.rigid import angle_deg, invert
from dust3r_ros.pair_graph import PairGraph
from dust3r_ros.streams import KeyframeRecord
from dust3r_ros.timing import StageTimer
from dust3r_ros.types import Array, PairPrediction, View

# What the depth of a pair may be off by before it is computed anew: radians of the direction of
# translation and of rotation, and relative focal. Length alone only scales it.
_MOVED, _TURNED, _ZOOMED = 0.05, 0.002, 0.03


@dataclass(frozen=True, eq=False)
class _Geometry:
    """How the two views of a pair lay when its depth was computed."""

    rotation: Array
    translation: Array
    focals: tuple[float, ...]


class Densifier:
    """Keeps the backend supplied with views and the depth of every keyframe up to date.

    Views and single estimates of keyframes more than ``window`` old are let go; an older keyframe
    that is paired again is handed to the backend anew.
    """

    def __init__(
        self,
        backend: Backend,
        sparse: SparseMap,
        graph: PairGraph,
        records: Sequence[KeyframeRecord],
        window: int,
        stage: StageTimer,
    ) -> None:
        self.backend = backend
        self.depths = DepthMaps()
        self._sparse, self._graph, self._records = sparse, graph, records
        self._window, self._stage = window, stage
        self._used: dict[tuple[int, int], _Geometry] = {}

    def predict(
        self,
        pairs: Sequence[tuple[int, int]],
        focals: Mapping[str, float],
        poses: Mapping[int, Array] | None = None,
    ) -> list[PairPrediction]:
        """Pointmaps of pairs of keyframes, old ones too."""
        for index in sorted({index for pair in pairs for index in pair}):
            if not self.backend.has(index):
                record = self._records[index]
                self.backend.add(View(index, record.stream.name, record.image))
        return self.backend.predict(pairs, focals, poses)

    def densify(self, index: int, others: Sequence[int], only: set[int] | None = None) -> set[int]:
        """Depth from the pairs of a keyframe with others; returns the keyframes whose depth changed.

        ``only``: keyframes that take it; the others keep what they have.
        """
        posed = [other for other in others if self._sparse.views[other].w_T_c is not None]
        pairs = [(other, index) for other in posed]
        if not self.backend.uses_poses:  # a network sees more in both orders; geometry does not
            pairs += [(index, other) for other in posed]
        if not pairs:
            return set()
        with self._stage("predict"):
            predictions = self.predict(pairs, self._focals(), self._poses({index, *posed}))
        with self._stage("fuse"):
            for prediction in predictions:
                self._absorb(prediction, only)
        return {index, *posed}

    def leave(self, index: int) -> None:
        """Let go what is kept of the keyframe that left the window when ``index`` came."""
        leaving = index - self._window
        if leaving >= 0:
            self.depths.freeze(leaving)
            self.backend.forget(leaving)

    def renew(self) -> set[int]:
        """Depth once more where the geometry of a pair has changed since it was computed."""
        stale = {index for pair in self._used if self._moved(pair) for index in pair}
        for index in stale:
            self.depths.clear(index)
        others: dict[int, list[int]] = {}
        for first, second in self._used:
            if first in stale or second in stale:
                others.setdefault(second, []).append(first)
        for index in sorted(others):
            self.densify(index, others[index], stale)
            self.leave(index)
        return stale

    def _moved(self, pair: tuple[int, int]) -> bool:
        """Whether a pair's relative pose or focals differ from those its depth came from; its length may."""
        before, now = self._used[pair], self._geometry(pair)
        direction = [g.translation / max(float(np.linalg.norm(g.translation)), 1e-12) for g in (before, now)]
        shift = float(np.linalg.norm(direction[0] - direction[1]))
        turn = np.radians(angle_deg(before.rotation.T @ now.rotation))
        zoom = max(abs(np.log(b / a)) for a, b in zip(before.focals, now.focals, strict=True))
        return shift > _MOVED or turn > _TURNED or zoom > _ZOOMED

    def _geometry(self, pair: tuple[int, int]) -> _Geometry:
        views = [self._sparse.views[index] for index in pair]
        w_T_first, w_T_second = (view.w_T_c for view in views)
        assert w_T_first is not None and w_T_second is not None, "only posed keyframes are paired for depth"
        first_T_second = invert(w_T_first) @ w_T_second
        focals = tuple(self._sparse.focals[view.camera].value for view in views)
        return _Geometry(first_T_second[:3, :3], first_T_second[:3, 3], focals)

    def _absorb(self, prediction: PairPrediction, only: set[int] | None) -> None:
        first, second = prediction.first, prediction.second
        w_T_first, w_T_second = self._sparse.views[first].w_T_c, self._sparse.views[second].w_T_c
        assert w_T_first is not None and w_T_second is not None, "only posed keyframes are paired for depth"
        scale = 1.0
        if not self.backend.uses_poses:
            scale = self._scale(prediction, w_T_first)
            if not np.isfinite(scale):
                return
        self.depths.absorb(prediction, invert(w_T_second) @ w_T_first, scale, only)
        self._used[first, second] = self._geometry((first, second))
        weight = float(np.mean(np.log(prediction.confidence_first)) + np.mean(np.log(prediction.confidence_second)))
        cameras = self._records[first].stream.name, self._records[second].stream.name
        self._graph.connect(first, second, weight, cameras)

    def _scale(self, prediction: PairPrediction, w_T_first: Array) -> float:
        """Map units per unit of a pair, from the landmarks its first view sees, or from its depth so far."""
        first = prediction.first
        record = self._records[first]
        known = self._sparse.known(self._sparse.views[first].seen)
        pixels = np.round(record.stream.to_working(known.pixels)).astype(int)
        height, width = prediction.confidence_first.shape
        inside = np.all((pixels >= 0) & (pixels < [width, height]), axis=1)
        columns, rows = pixels[inside].T
        landmark_depth = self._sparse.depths(first, known.ids[inside])
        scale = robust_scale(
            landmark_depth,
            prediction.points_first[rows, columns, 2].astype(np.float64),
            np.log(prediction.confidence_first[rows, columns]).astype(np.float64),
        )
        depth = self.depths.get(first)
        if np.isfinite(scale) or depth is None:
            return scale
        return pair_scale(prediction, PlacedView(w_T_first, *depth))

    def _focals(self) -> dict[str, float]:
        """Focals by camera name, pixels of the working images."""
        streams = {record.stream.name: record.stream for record in self._records}
        return {
            name: stream.focal_to_working(self._sparse.focals[stream.index].value) for name, stream in streams.items()
        }

    def _poses(self, views: set[int]) -> dict[int, Array]:
        poses = {view: self._sparse.views[view].w_T_c for view in views}
        return {view: w_T_c for view, w_T_c in poses.items() if w_T_c is not None}
