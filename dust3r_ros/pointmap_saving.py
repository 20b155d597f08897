"""A map that pointmaps carry, as a file keeps it: what ``PointmapBuilder`` says of itself, and takes back."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from dust3r_ros.alignment.growing_map import View
from dust3r_ros.alignment.incremental import IncrementalAligner
from dust3r_ros.geometry.lens import Lens
from dust3r_ros.landmark_saving import connect, middle, recorded
from dust3r_ros.map_state import POINTMAPS, KeyframeState, Moments, PairGeometry, SubmapState, Trace
from dust3r_ros.mapping.reconstruction import Reconstruction
from dust3r_ros.pointmap_keyframes import PointmapKeyframes
from dust3r_ros.streams import CameraStream


class PointmapSaving:
    """The parts of a ``PointmapBuilder``, read by a journal and rebuilt from a file.

    Edges keep their moments, keyframes their fused depth. What is let go: the pixels by which edges of
    the newest keyframes are weighed anew, single estimates of their depth, and loops that still wait
    for a second one to agree.
    """

    def __init__(self, state: Reconstruction, aligner: IncrementalAligner, keyframes: PointmapKeyframes) -> None:
        self.kind = POINTMAPS
        self._state, self._aligner, self._keyframes = state, aligner, keyframes

    def traces(self) -> list[Trace]:
        """One per keyframe."""
        w_S = self._aligner.map.similarities
        return [
            Trace(
                record,
                record.version,
                w_S[index].tobytes(),
                None,
                None,
                self._keyframes.pixels(index),
                1.0,
                record.moving,
            )
            for index, record in enumerate(self._state.records)
        ]

    def keyframe(self, index: int) -> KeyframeState:
        """A keyframe as it stands."""
        record = self._state.records[index]
        depth, confidence = self._keyframes.canonical(index) or (None, None)
        return KeyframeState(
            record.version,
            record.stamp_ns,
            record.stream.name,
            record.image,
            record.features,
            record.feature_ids,
            self._state.graph.look(index),
            self._aligner.pose(index) if len(self._keyframes) > 1 else None,
            Lens(record.stream.long_edge / 2),
            middle(record.stream),
            depth,
            confidence,
            record.masked,
            record.moving,
            first_id=self._keyframes.corners(index)[0],
            w_S=self._aligner.map.similarities[index].copy(),
            corners=self._keyframes.corners(index)[1],
            sampled=self._aligner.map.depth.sample(index),
        )

    def facts(self) -> dict[str, Any]:
        """Numbers and flags of the whole map."""
        return self._aligner.facts()

    @property
    def likeness(self) -> Sequence[float]:
        """Of neighbours."""
        return self._state.graph.likeness

    @property
    def pairs(self) -> Mapping[tuple[int, int], PairGeometry]:
        """None: depth does not depend on poses."""
        return {}

    @property
    def paired(self) -> Sequence[tuple[int, int]]:
        """Pairs in the order in which they came, went or lay anew."""
        return []

    @property
    def moments(self) -> Moments | None:
        """Of all edges."""
        edges = self._aligner.map.edges
        return Moments(np.stack([edges.first, edges.second], axis=1), edges.numbers, edges.loop, edges.on)

    def aliases(self, merges: int) -> tuple[int, np.ndarray, np.ndarray]:
        """Nothing merges."""
        return 0, np.zeros(0, np.int64), np.zeros(0, np.int64)

    def resolved(self, ids: np.ndarray) -> np.ndarray:
        """Corners keep their ids."""
        return ids

    def connected(self, since: int) -> Sequence[tuple[int, int, float]]:
        """Edges that came or were weighed anew after the first ``since``."""
        return [(*pair, self._state.graph.weight(pair)) for pair in self._state.graph.connected[since:]]

    def restore(self, state: SubmapState, streams: Mapping[str, CameraStream]) -> None:
        """A saved map in place of an empty one."""
        found = []
        for keyframe in state.keyframes:
            record = recorded(keyframe, streams[keyframe.camera])
            w_S, sample, corners = keyframe.w_S, keyframe.sampled, keyframe.corners
            assert w_S is not None and sample is not None and corners is not None, "pointmaps carry this map"
            self._keyframes.restore(record, corners, keyframe.depth, keyframe.confidence)
            found.append((View(record.stream.name, *record.image.shape[:2]), w_S, sample))
        self._state.graph.restore([keyframe.look for keyframe in state.keyframes], state.likeness)
        connect(self._state.graph, state)
        self._aligner.resume(found, state.facts)
        if state.moments is not None:
            kept = state.moments
            self._aligner.map.edges.restore(kept.ends, kept.numbers, kept.loop, kept.on)
