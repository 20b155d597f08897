"""Keyframes and the pairs among them as markers, for ~/graph."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from visualization_msgs.msg import MarkerArray

from dust3r_ros.node.changes import Changed
from dust3r_ros.node.conversions import graph_markers
from dust3r_ros.types import Array


class GraphMarkers:
    """Keeps where keyframes are; for one thread."""

    def __init__(self) -> None:
        self._centers: dict[int, Array] = {}

    def message(
        self, changed: Changed, edges: Sequence[tuple[int, int, float]], stamp_ns: int, frame: str
    ) -> MarkerArray:
        """The graph with what changed; ``edges`` are all pairs: (first, second, weight)."""
        if changed.whole:
            self._centers.clear()
        for index in changed.removed:
            self._centers.pop(index, None)
        for keyframe in changed.keyframes:
            self._centers[keyframe.index] = keyframe.w_T_c[:3, 3]
        return graph_markers(self._centers, edges, stamp_ns, frame, self._size())

    def _size(self) -> float:
        """A fortieth of the extent of the cameras' way: visible, and not in the way."""
        if len(self._centers) < 2:
            return 0.05
        return max(float(np.ptp(np.stack(list(self._centers.values())), axis=0).max()) / 40, 1e-3)
