"""The keyframes of a map under construction: what they are made of, and which of them changed."""

from __future__ import annotations

from dust3r_ros.alignment.sparse_view import Focal
from dust3r_ros.chores import Chores
from dust3r_ros.mapping.reconstruction import Reconstruction
from dust3r_ros.mapping.submap import Submap
from dust3r_ros.pair_graph import PairGraph
from dust3r_ros.streams import CameraStream, KeyframeRecord
from dust3r_ros.types import Keyframe


class KeyframeBook(Submap):
    """A map with its keyframes by their index; whoever changes one enters it in ``_changed``."""

    def __init__(self, state: Reconstruction) -> None:
        self.state = state
        self.generation = 0
        self._changed: set[int] = set()
        self.chores: Chores | None = None  # what waits; offline nothing does: all is done at once

    @property
    def graph(self) -> PairGraph:
        return self.state.graph

    @property
    def focals(self) -> list[Focal]:
        return self.state.sparse.focals

    @focals.setter
    def focals(self, focals: list[Focal]) -> None:
        self.state.sparse.focals = focals

    def add_camera(self, stream: CameraStream, focal: Focal) -> None:
        self.state.sparse.focals.append(focal)

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
