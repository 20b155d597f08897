"""The keyframes of a map based on pointmaps: their depth, and the corners by which frames are located."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from dust3r_ros.alignment.online.incremental import IncrementalAligner
from dust3r_ros.alignment.online.keyframe_bundle import KeyframeUpdate, Posed, RefinedKeyframe, RefinedMap
from dust3r_ros.geometry.depths import held_to
from dust3r_ros.geometry.pinhole import rays
from dust3r_ros.geometry.rigid import transform
from dust3r_ros.mapping.camera_stream import CameraStream, KeyframeRecord
from dust3r_ros.mapping.frames import shown
from dust3r_ros.mapping.reconstruction import Reconstruction
from dust3r_ros.tracking import Tracks, no_tracks
from dust3r_ros.types import Array, Array32, Keyframe

_HALF_MAX = 6e4
_ENOUGH = 60  # landmarks that locate a frame


@dataclass(frozen=True, eq=False)
class _Corners:
    """A keyframe's corners to follow: ids from ``first_id`` on, offsets (N, 2) in the tracked image.

    ``followed``: those of earlier keyframes that it also sees.
    """

    first_id: int
    offsets: Array
    followed: Tracks


class PointmapKeyframes:
    """Records of keyframes that complement an aligner, which holds their poses, scales and young depth.

    Depth that has left the aligner's window is kept in half precision.
    """

    def __init__(self, state: Reconstruction, aligner: IncrementalAligner) -> None:
        self._state, self._aligner = state, aligner
        self._corners: list[_Corners] = []
        self._settled: dict[int, tuple[np.ndarray, np.ndarray]] = {}  # canonical depth and confidence
        self._restored: set[int] = set()
        self._next_id = 0
        self.refined: RefinedMap | None = None  # until keyframes move again

    def __len__(self) -> int:
        return len(self._state.records)

    def new_ids(self, offsets: Array, followed: Tracks) -> Tracks:
        """Ids for the corners (N, 2) of the next keyframe, which also sees ``followed`` ones of earlier keyframes."""
        ids = np.arange(self._next_id, self._next_id + len(offsets))
        self._corners.append(_Corners(self._next_id, offsets, followed))
        self._next_id += len(offsets)
        return Tracks(ids, offsets)

    def corners(self, index: int) -> tuple[int, Array]:
        """The first id of a keyframe's corners, and their offsets (N, 2)."""
        return self._corners[index].first_id, self._corners[index].offsets

    def posed(self, index: int) -> Posed:
        """A keyframe for bundle adjustment."""
        record, corners = self._state.records[index], self._corners[index]
        own = Tracks(corners.first_id + np.arange(len(corners.offsets)), corners.offsets)
        return Posed(record.stream.index, self._aligner.pose(index), record.features, own, corners.followed)

    def canonical(self, index: int) -> tuple[np.ndarray, np.ndarray] | None:
        """Canonical depth and confidence (H, W) of a keyframe, the same object until they change; None if unknown."""
        return self._aligner.depth(index) or self._settled.get(index)

    def pixels(self, index: int) -> object:
        """An object that is replaced whenever a keyframe's canonical depth changes; None for an earlier session's."""
        return None if index in self._restored else self.canonical(index)

    def restore(
        self, record: KeyframeRecord, offsets: Array, depth: Array32 | None, confidence: Array32 | None
    ) -> None:
        """Add the next keyframe of an earlier session: its corners (N, 2), and its canonical depth, which is final."""
        index = len(self._state.records)
        record.feature_ids = self.new_ids(offsets, no_tracks()).ids[: len(record.features.pixels)]
        self._state.append(record)
        if depth is not None and confidence is not None:
            self._settle(index, depth, confidence)
        self._restored.add(index)

    def settle(self, change: KeyframeUpdate) -> None:
        """Keep the final depth that an update brings, if any."""
        if change.depth is not None and change.confidence is not None:
            self._settle(change.index, change.depth, np.minimum(change.confidence, _HALF_MAX))

    def hold(self, index: int, seen: RefinedKeyframe) -> None:
        """Hold a keyframe's depth, which is final, to its landmarks."""
        depth, confidence = self.depth(index)
        held = held_to(depth, self._state.records[index].stream.to_working(seen.offsets), seen.depths)
        self._settle(index, held / np.float32(self._aligner.scale(index)), confidence)

    def _settle(self, index: int, depth: Array32, confidence: Array32) -> None:
        keep = self._state.pages.keep
        self._settled[index] = keep(depth.astype(np.float16)), keep(confidence.astype(np.float16))
        self._restored.discard(index)  # no longer as it was saved

    def keyframe(self, index: int) -> Keyframe:
        """The current state of a keyframe."""
        record = self._state.records[index]
        depth, confidence = self.depth(index)
        intrinsics = self._state.sparse.intrinsics[record.stream.index]
        return Keyframe(
            index,
            record.version,
            record.stamp_ns,
            record.stream.name,
            self._aligner.pose(index),
            record.stream.focal_to_working(intrinsics.focal),
            shown(record.image),
            depth,
            confidence,
        )

    def depth(self, index: int) -> tuple[Array32, Array32]:
        """Depth of a keyframe in map units, 0 where unknown, and its confidence, each (H, W)."""
        found = self.canonical(index)
        if found is None:
            shape = self._state.records[index].image.shape[:2]
            return np.zeros(shape, np.float32), np.ones(shape, np.float32)
        depth, confidence = (part.astype(np.float32) for part in found)
        return depth * np.float32(self._aligner.scale(index)), confidence

    def sampled(self, index: int, offsets: Array) -> Array:
        """(K,) depth of a keyframe at offsets (K, 2) in its tracked image, NaN where it is unknown or uncertain."""
        depth, confidence = self.depth(index)
        height, width = depth.shape
        at = np.round(self._state.records[index].stream.to_working(offsets)).astype(int)
        inside = np.all((at >= 0) & (at < [width, height]), axis=1)
        columns, rows = np.clip(at, 0, [width - 1, height - 1]).T
        known = inside & (depth[rows, columns] > 0) & (confidence[rows, columns] > self._state.config.min_confidence)
        return np.where(known, depth[rows, columns].astype(np.float64), np.nan)

    def points(self, ids: np.ndarray) -> Array:
        """(N, 3) positions of corners in the map, by ids; NaN where depth is unknown.

        Depth is hardly ever as exact as landmarks: where there are enough of these, they are all.
        """
        points = np.full((len(ids), 3), np.nan)
        if not len(ids):
            return points
        landmarks = np.full_like(points, np.nan) if self.refined is None else self.refined.positions[ids]
        if np.count_nonzero(np.isfinite(landmarks[:, 0])) >= _ENOUGH:
            return landmarks
        owners = np.searchsorted([corners.first_id for corners in self._corners], ids, side="right") - 1
        for index in np.unique(owners).tolist():
            mine = owners == index
            offsets = self._corners[index].offsets[ids[mine] - self._corners[index].first_id]
            seen = rays(
                offsets, self._state.sparse.intrinsics[self._state.records[index].stream.index].focal, (0.0, 0.0)
            )
            points[mine] = transform(self._aligner.pose(index), self.sampled(index, offsets)[:, None] * seen)
        return np.where(np.isfinite(landmarks), landmarks, points)

    def ideal(self, stream: CameraStream, offsets: Array) -> Array:
        """Offsets (N, 2) in a camera's tracked image, as a pinhole with its focal would see them."""
        if self.refined is None:
            return offsets
        return self.refined.intrinsics[stream.index].lens.ideal(offsets)

    def has_sent(self, stream: CameraStream) -> bool:
        """Whether a camera has keyframes."""
        return any(record.stream is stream for record in self._state.records)

    def streams(self) -> list[CameraStream]:
        """The cameras that have keyframes."""
        return list({record.stream.name: record.stream for record in self._state.records}.values())
