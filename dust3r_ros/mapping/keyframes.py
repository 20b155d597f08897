"""The keyframes of a map under construction: what they are made of, and which of them changed."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from dust3r_ros.cloud.cloud import Cloud
from dust3r_ros.features.place_recognition import PairGraph
from dust3r_ros.mapping.camera_stream import CameraStream, KeyframeRecord
from dust3r_ros.mapping.chores import Chores
from dust3r_ros.mapping.reconstruction import Reconstruction
from dust3r_ros.mapping.submap import Placement, Submap
from dust3r_ros.sparse.landmarks import Intrinsics
from dust3r_ros.sparse.sparse_map import SparseMap
from dust3r_ros.types import Keyframe


def landmark_cloud(sparse: SparseMap, records: Sequence[KeyframeRecord]) -> Cloud:
    """Landmarks with a position that two or more keyframes see, in the map frame, by their ids.

    The colour is that of the nearest pixel in the first keyframe that sees the landmark,
    confidence the number of keyframes that do. ``records``: the keyframes of ``sparse``, in order.
    """
    observations = np.zeros(len(sparse.points), np.int64)
    colors = np.zeros((len(sparse.points), 3), np.uint8)
    for index in sparse.posed():
        record, seen = records[index], sparse.views[index].seen
        new = observations[seen.ids] == 0
        height, width = record.image.shape[:2]
        columns, rows = np.round(record.stream.to_working(seen.pixels[new])).astype(int).T
        colors[seen.ids[new]] = record.image[np.clip(rows, 0, height - 1), np.clip(columns, 0, width - 1)]
        np.add.at(observations, seen.ids, 1)
    keep = sparse.positioned & (observations > 1)
    return Cloud(sparse.points[keep].astype(np.float32), colors[keep], observations[keep].astype(np.float32))


class KeyframeBook(Submap):
    """A map with its keyframes by their index; whoever changes one enters it in ``_changed``."""

    def __init__(self, state: Reconstruction) -> None:
        self.state = state
        self.placement = Placement()
        self.generation = 0
        self._changed: set[int] = set()
        self.chores: Chores | None = None  # what waits; offline nothing does: all is done at once

    @property
    def graph(self) -> PairGraph:
        return self.state.graph

    @property
    def intrinsics(self) -> list[Intrinsics]:
        return self.state.sparse.intrinsics

    @intrinsics.setter
    def intrinsics(self, focals: list[Intrinsics]) -> None:
        self.state.sparse.intrinsics = focals

    def add_camera(self, stream: CameraStream, focal: Intrinsics) -> None:
        self.state.sparse.intrinsics.append(focal)

    def __len__(self) -> int:
        return len(self.state.records)

    @property
    def guessing(self) -> bool:
        return self.state.guessing

    @property
    def backlog(self) -> int:
        return 0 if self.chores is None else self.chores.count

    @property
    def depth_backlog(self) -> tuple[int, int]:
        if self.chores is None:
            return 0, 0
        unseen = {index for index, _ in self.chores.previews}
        last = len(self.state.records) - 1
        done = next((k for k in range(last, -1, -1) if k not in unseen), 0)
        behind = self.state.records[last].stamp_ns - self.state.records[done].stamp_ns if unseen else 0
        return len(self.chores.without_depth), behind

    def record(self, index: int) -> KeyframeRecord:
        return self.state.records[index]

    def take_changed(self) -> tuple[Keyframe, ...]:
        indices, self._changed = sorted(self._changed & set(self.posed())), set()
        for index in indices:
            self.state.records[index].version += 1
        return tuple(self.keyframe(index) for index in indices)

    def mark_all(self) -> None:
        self._changed |= set(self.posed())
