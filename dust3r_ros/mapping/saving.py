"""Saving and restoring the two kinds of map."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from dust3r_ros.alignment.online.growing_map import KeyframeShape
from dust3r_ros.alignment.online.incremental import IncrementalAligner
from dust3r_ros.features.place_recognition import PairGraph
from dust3r_ros.geometry.lens import Lens
from dust3r_ros.mapping.camera_stream import CameraStream, KeyframeRecord
from dust3r_ros.mapping.densifier import Densifier
from dust3r_ros.mapping.pointmap_keyframes import PointmapKeyframes
from dust3r_ros.mapping.reconstruction import Reconstruction
from dust3r_ros.mapping.rig_placement import RigPlacement
from dust3r_ros.mapping.state import (
    LANDMARKS,
    POINTMAPS,
    KeyframeState,
    LiveSubmap,
    Moments,
    PairGeometry,
    SubmapState,
    Trace,
)
from dust3r_ros.sparse.refinement import find_points
from dust3r_ros.tracking import no_tracks
from dust3r_ros.types import Array, Array32


class LandmarkSaving(LiveSubmap):
    """The parts of a ``MapBuilder``, read by a journal and rebuilt from a file.

    Positions of landmarks are not saved: they follow from poses and observations. Of depth only the fused maps
    are saved, not the single estimates of the newest keyframes; so these fuse with later pairs slightly
    differently than in an uninterrupted session.
    """

    kind = LANDMARKS

    def __init__(self, state: Reconstruction, dense: Densifier, placement: RigPlacement) -> None:
        self._state, self._dense, self._placement = state, dense, placement

    def traces(self) -> list[Trace]:
        depths = self._dense.depths
        return [
            Trace(
                record,
                record.version,
                b"" if view.w_T_c is None else view.w_T_c.tobytes(),
                view.seen,
                view.pruned,
                depths[index].pixels,
                depths[index].growth,
                record.moving,
                record.image,
                self._dense.views.lens(index),
            )
            for index, (record, view) in enumerate(zip(self._state.records, self._state.sparse.views, strict=True))
        ]

    def keyframe(self, index: int) -> KeyframeState:
        view = self._state.sparse.views[index]
        found = kept(self._state, index, view.w_T_c, self._dense.views.lens(index), self._dense.depths[index].shown)
        return replace(found, seen=view.seen, pruned=view.pruned, first_id=view.first_id)

    def facts(self) -> dict[str, Any]:
        barred = self._state.sparse.landmarks.barred.tolist()
        return {"settled": self._state.settled, "barred": barred, "ties": self._placement.facts()}

    @property
    def pairs(self) -> Mapping[tuple[int, int], PairGeometry]:
        return self._dense.pairs.geometry

    @property
    def paired(self) -> Sequence[tuple[int, int]]:
        return self._dense.pairs.order

    def aliases(self, merges: int) -> tuple[int, np.ndarray, np.ndarray]:
        return self._state.sparse.landmarks.aliases(merges)

    def resolved(self, ids: np.ndarray) -> np.ndarray:
        return self._state.sparse.landmarks.resolved(ids)

    def restore(self, state: SubmapState, streams: Mapping[str, CameraStream]) -> None:
        sparse = self._state.sparse
        sparse.intrinsics = list(state.intrinsics)
        sparse.landmarks.restore(state.aliases)
        for keyframe in state.keyframes:
            stream = streams[keyframe.camera]
            at = sparse.add(stream.index, keyframe.seen or no_tracks(), keyframe.w_T_c)
            sparse.views[at].pruned = keyframe.pruned or no_tracks()
            sparse.views[at].first_id = keyframe.first_id
            self._state.append(recorded(keyframe, stream))
        self._state.graph.restore([keyframe.global_descriptor for keyframe in state.keyframes], state.likeness)
        connect(self._state.graph, state)
        self._dense.restore(state.keyframes, state.pairs)
        self._state.settled = bool(state.facts.get("settled", False))
        sparse.landmarks.bar(np.array(state.facts.get("barred", []), np.int64))
        self._placement.restore(state.facts.get("ties", []))
        find_points(sparse)


def middle(stream: CameraStream) -> Array:
    """(2,) the pixel of the tracked image that is the origin of offsets."""
    return -stream.centred(np.zeros((1, 2)))[0]


def kept(
    state: Reconstruction, index: int, w_T_c: Array | None, lens: Lens, found: tuple[Array32, Array32] | None
) -> KeyframeState:
    """The state of a keyframe common to both kinds of map; ``found``: its depth and confidence."""
    record = state.records[index]
    depth, confidence = found or (None, None)
    return KeyframeState(
        record.version,
        record.stamp_ns,
        record.stream.name,
        record.image,
        record.features,
        record.feature_ids,
        state.graph.global_descriptor(index),
        w_T_c,
        lens,
        middle(record.stream),
        depth,
        confidence,
        record.masked,
        record.moving,
    )


def recorded(keyframe: KeyframeState, stream: CameraStream) -> KeyframeRecord:
    """The record of a saved keyframe."""
    return KeyframeRecord(
        keyframe.stamp_ns,
        stream,
        keyframe.image,
        keyframe.features,
        keyframe.feature_ids,
        keyframe.version,
        keyframe.masked,
        keyframe.moving,
    )


def connect(graph: PairGraph, state: SubmapState) -> None:
    """Restore the saved edges."""
    for first, second, weight in state.edges:
        graph.connect(first, second, weight, (state.keyframes[first].camera, state.keyframes[second].camera))


class PointmapSaving(LiveSubmap):
    """The parts of a ``PointmapBuilder``, read by a journal and rebuilt from a file.

    Edges keep their moments, keyframes their fused depth. Not saved are the pixels by which edges of
    the newest keyframes are reweighted, single estimates of their depth, and loops that still wait
    for a second one to agree.
    """

    kind = POINTMAPS

    def __init__(self, state: Reconstruction, aligner: IncrementalAligner, keyframes: PointmapKeyframes) -> None:
        self._state, self._aligner, self._keyframes = state, aligner, keyframes

    def traces(self) -> list[Trace]:
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
                record.image,
            )
            for index, record in enumerate(self._state.records)
        ]

    def keyframe(self, index: int) -> KeyframeState:
        w_T_c = self._aligner.pose(index) if self._state.initialised else None
        lens = Lens(self._state.records[index].stream.long_edge / 2)
        first_id, corners = self._keyframes.corners(index)
        return replace(
            kept(self._state, index, w_T_c, lens, self._keyframes.canonical(index)),
            first_id=first_id,
            w_S=self._aligner.map.similarities[index].copy(),
            corners=corners,
            sampled=self._aligner.map.depth.sample(index),
        )

    def facts(self) -> dict[str, Any]:
        return self._aligner.facts()

    @property
    def moments(self) -> Moments | None:
        edges = self._aligner.map.edges
        return Moments(np.stack([edges.first, edges.second], axis=1), edges.numbers, edges.loop, edges.on)

    def restore(self, state: SubmapState, streams: Mapping[str, CameraStream]) -> None:
        found = []
        for keyframe in state.keyframes:
            record = recorded(keyframe, streams[keyframe.camera])
            w_S, sample, corners = keyframe.w_S, keyframe.sampled, keyframe.corners
            assert w_S is not None and sample is not None and corners is not None, "pointmaps carry this map"
            self._keyframes.restore(record, corners, keyframe.depth, keyframe.confidence)
            found.append((KeyframeShape(record.stream.name, *record.image.shape[:2]), w_S, sample))
        self._state.graph.restore([keyframe.global_descriptor for keyframe in state.keyframes], state.likeness)
        connect(self._state.graph, state)
        self._aligner.resume(found, state.facts)
        if state.moments is not None:
            kept = state.moments
            self._aligner.map.edges.restore(kept.ends, kept.numbers, kept.loop, kept.on)
