"""Junctions as landmarks of a map: which ones of the last keyframes an image sees again."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import cv2
import numpy as np

from dust3r_ros.alignment.sparse_map import SparseMap
from dust3r_ros.junctions import Junctions, find_junctions, match_junctions
from dust3r_ros.streams import CameraStream
from dust3r_ros.tracking import Tracks, carried, no_tracks, shrink
from dust3r_ros.types import Image


@dataclass(frozen=True, eq=False)
class _Sight:
    """Junctions of an image, a copy (h, w) of it ``scale`` times as large, and the junctions' landmarks (N,)."""

    junctions: Junctions
    small: Image
    scale: float
    ids: np.ndarray


class JunctionLinks:
    """Junctions of keyframes that have few features; those no longer asked for are forgotten."""

    def __init__(self, sparse: SparseMap) -> None:
        self._sparse = sparse
        self._sights: dict[int, _Sight] = {}
        self._flow = cv2.DISOpticalFlow_create(cv2.DISOPTICAL_FLOW_PRESET_FAST)

    def add(self, index: int, stream: CameraStream, gray: Image, neighbours: Sequence[int]) -> int:
        """Make junctions that view ``index`` shows, image (H, W) uint8, landmarks; returns how many were already.

        They may have become so in ``neighbours``, of which the first knows best; older views are forgotten.
        """
        now = _sight(stream, gray)
        offsets = stream.centred(now.junctions.pixels)
        linked = self._linked(now, neighbours)
        # What a keyframe is said to see twice by its features and its junctions stays with the features.
        linked[np.isin(linked, self._sparse.views[index].seen.ids)] = -1
        new = linked < 0
        linked[new] = self._sparse.new_ids(int(new.sum()))
        self._sights[index] = _Sight(now.junctions, now.small, now.scale, linked)
        self._sparse.observe(index, Tracks(linked, offsets))
        oldest = min(neighbours, default=index)
        self._sights = {view: sight for view, sight in self._sights.items() if view >= oldest}
        return int((~new).sum())

    def find(self, stream: CameraStream, gray: Image) -> Tracks:
        """What an image (H, W) uint8 of ``stream`` sees of the junctions remembered; the last view knows best."""
        if not self._sights:
            return no_tracks()
        now = _sight(stream, gray)
        ids = self._linked(now, sorted(self._sights, reverse=True))
        return Tracks(ids, stream.centred(now.junctions.pixels)).select(ids >= 0)

    def absorb(self, other: JunctionLinks, first_view: int, ids: np.ndarray) -> None:
        """Junctions of another map, whose first view is ``first_view`` now and whose landmark k is ``ids[k]``."""
        for view, sight in other._sights.items():
            self._sights[first_view + view] = replace(sight, ids=ids[sight.ids])

    def _linked(self, now: _Sight, views: Iterable[int]) -> np.ndarray:
        """(N,) landmarks that the junctions of an image are of, -1 where nobody knows; each landmark once."""
        linked = np.full(len(now.junctions.pixels), -1, np.int64)
        for view in views:
            if view not in self._sights:
                continue
            pairs = self._matches(self._sights[view], now)
            ids = self._sparse.resolved_ids(self._sights[view].ids[pairs[:, 0]])
            fresh = (linked[pairs[:, 1]] < 0) & ~np.isin(ids, linked)
            linked[pairs[fresh, 1]] = ids[fresh]
        return linked

    def _matches(self, a: _Sight, b: _Sight) -> np.ndarray:
        """(K, 2) indices of junctions of two images that are the same."""
        if a.small.shape != b.small.shape:
            return np.zeros((0, 2), int)
        a_in_b = carried(a.junctions.pixels, self._flow.calc(a.small, b.small, None), a.scale)
        b_in_a = carried(b.junctions.pixels, self._flow.calc(b.small, a.small, None), b.scale)
        return match_junctions(a.junctions, b.junctions, a_in_b, b_in_a)


def _sight(stream: CameraStream, gray: Image) -> _Sight:
    small = shrink(gray)
    found = find_junctions(gray)
    found = found.select(stream.clear(stream.centred(found.pixels)))
    return _Sight(found, small, small.shape[1] / gray.shape[1], np.zeros(0, np.int64))
