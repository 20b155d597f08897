"""Work that a live landmark map defers, in its order: adjustments of the whole map, depth, culling, then new ids."""

from __future__ import annotations

from dust3r_ros.mapping.adjustment import MapAdjuster
from dust3r_ros.mapping.culling import Culling, Numbering
from dust3r_ros.mapping.depth_schedule import DepthSchedule
from dust3r_ros.mapping.reconstruction import Reconstruction
from dust3r_ros.mapping.submap import Chores

# Kinds of work. Who renumbers has all that knows landmarks of the map follow.
TAKE, BEGIN, PREVIEW, DEPTH, CULL, RENUMBER = "take", "begin", "preview", "depth", "cull", "renumber"
_LAST = ("", CULL, RENUMBER)


class LandmarkChores(Chores):
    """The deferred work of a landmark map; none unless it is live."""

    def __init__(
        self,
        state: Reconstruction,
        adjuster: MapAdjuster,
        depth: DepthSchedule,
        culling: Culling,
        numbering: Numbering,
    ) -> None:
        self._culling, self._numbering = culling, numbering
        self._state, self._adjuster, self._depth = state, adjuster, depth
        self._adjustments, self._queue = adjuster.waiting, depth.waiting

    def go_live(self, beside: bool) -> None:
        if not self._state.live:
            self._state.live, self._adjustments.beside = True, beside

    @property
    def due(self) -> str:
        """Taking up a finished background adjustment goes first."""
        if self._adjustments.ready:
            return TAKE
        if self._adjustments.wanted and not self._adjustments.running:
            return BEGIN
        if self._queue.previews:
            return PREVIEW
        if self._adjustments.running and self._state.settling:
            return ""  # the adjustment in progress would make it worthless
        if self._queue.depth or self._queue.part_way:
            return DEPTH
        if self._adjustments.running:
            return ""
        if self._adjustments.at_rest:
            return BEGIN
        if not self._state.live:
            return ""
        return CULL if self._culling.due else RENUMBER if self._numbering.due else ""

    def work(self, kind: str) -> None:
        if kind == TAKE:
            self._adjuster.take_up()
        elif kind == BEGIN:
            self._adjuster.begin()
        elif kind == PREVIEW:
            self._depth.preview()
        elif kind == DEPTH:
            self._depth.some_depth()
        elif kind == CULL:
            self._culling.cull()
            self._numbering.look()

    def settle(self) -> None:
        """Do all waiting work except culling and what follows from it, which come last."""
        self._adjustments.wait()
        while self.due not in _LAST:
            self._queue.previews.clear()  # depth itself follows immediately
            if self.due not in _LAST:
                self.work(self.due)
            self._adjustments.wait()

    @property
    def backlog(self) -> int:
        return self._adjustments.count + self._queue.count

    @property
    def depth_backlog(self) -> tuple[int, int]:
        records, unseen = self._state.records, {index for index, _ in self._queue.previews}
        last = len(records) - 1
        done = next((k for k in range(last, -1, -1) if k not in unseen), 0)
        behind = records[last].stamp_ns - records[done].stamp_ns if unseen else 0
        return len(self._queue.without_depth), behind
