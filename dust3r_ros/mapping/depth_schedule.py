"""When keyframes of a map of landmarks get depth: offline at once, live when there is time for it, and when anew."""

from __future__ import annotations

from collections.abc import Callable, Container, Iterator, Sequence

from dust3r_ros.backends.base import Backend
from dust3r_ros.mapping.covisibility import Neighbourhood
from dust3r_ros.mapping.densifier import Densifier
from dust3r_ros.mapping.moving_removal import Movers
from dust3r_ros.mapping.reconstruction import Reconstruction
from dust3r_ros.timing import StageTimer

Waiting = tuple[int, list[int]]  # a keyframe, and those to pair it with
_PREVIEW_PAIRS = 2  # of a first look at depth, unless others wait for theirs
_RENEWED = 30  # keyframes up to which depth follows calibrations at once: of more it would take seconds


class DepthQueue:
    """``depth``: keyframes that wait for it; ``previews``: those that wait for a first look. Both in order."""

    def __init__(self) -> None:
        self.depth: list[Waiting] = []
        self.previews: list[Waiting] = []
        self._begun: Waiting | None = None  # the keyframe whose depth is under way
        self._parts: Iterator[None] | None = None

    @property
    def count(self) -> int:
        """How much waits or is under way."""
        return len(self.depth) + len(self.previews) + self.part_way

    @property
    def part_way(self) -> bool:
        """Whether depth of a keyframe was begun and is not done."""
        return self._parts is not None

    @property
    def without_depth(self) -> list[Waiting]:
        """Keyframes whose depth waits or is under way."""
        return self.depth + ([self._begun] if self._begun else [])

    def want(self, keyframes: Sequence[Waiting]) -> None:
        """Depth of these, and a first look at it before; the newest keyframe is always next."""
        for waiting in (self.depth, self.previews):
            known = {index for index, _ in waiting}
            waiting += [keyframe for keyframe in keyframes if keyframe[0] not in known]
            waiting.sort(key=lambda keyframe: keyframe[0])

    def next_preview(self, seen: Container[int]) -> Waiting:
        """The newest keyframe that waits for a first look; those ``seen`` before, for another, come last."""
        fresh = [at for at, (index, _) in enumerate(self.previews) if index not in seen]
        return self.previews.pop(fresh[-1] if fresh else -1)

    def some_depth(self, densify: Callable[[int, list[int]], Iterator[None]]) -> None:
        """A part of the depth that is under way; where none is, of the newest keyframe that waits."""
        begun, parts = self._begun, self._parts
        if begun is None or parts is None:
            begun = self.depth.pop()
            parts = densify(*begun)
        self._begun = self._parts = None  # what fails is not tried again
        for _ in parts:
            self._begun, self._parts = begun, parts
            return

    def drop(self) -> list[Waiting]:
        """No depth waits any more; returns what did, what was begun included."""
        waited = self.without_depth
        self.depth, self.previews, self._begun, self._parts = [], [], None, None
        return waited


class DepthSchedule:
    """Says which keyframes get depth now, which wait for it, and after what they get it anew; so with what moves."""

    def __init__(self, state: Reconstruction, near: Neighbourhood, backend: Backend, stage: StageTimer) -> None:
        self._state, self._near, self._stage = state, near, stage
        self.dense = Densifier(state, backend, stage)
        self.movers = Movers(state, self.dense)
        self.waiting = DepthQueue()

    def add(self, index: int, others: Sequence[int]) -> None:
        """Depth of the newest keyframe, from pairs with ``others`` among them."""
        if self._state.live:
            self._put_off(index, others)
        else:
            for _ in self._in_parts(index, others, self._state.config.depth_pairs):
                pass

    def add_late(self, index: int) -> None:
        """Depth of a keyframe that got a pose, or another one, when there were newer ones already."""
        others = self._near.neighbours(index)
        if self._state.live:
            self._put_off(index, others)
        else:
            self._state.changed |= self.dense.densify(index, others)

    def rebuild(self) -> None:
        """Every pose is new: so is depth."""
        self.movers.forget()
        for index in range(len(self._state.records)):
            self.dense.depths.clear(index)
        self.waiting.drop()
        for index in self._state.sparse.posed():
            self.add_late(index)
        self._state.changed.update(self._state.sparse.posed())

    def revise(self) -> None:
        """Depth of a small map once more where it does not fit the poses any more; a large one gets it in the end."""
        if len(self._state.records) > _RENEWED:
            return
        if self._state.live:
            stale = self.dense.stale()
            self._state.changed |= stale
            self.waiting.want([(index, self._near.neighbours(index)) for index in stale])
        else:
            self._state.changed |= self.dense.renew(last=False)

    def finish(self) -> None:
        """The same for the last time, whatever the map's size, and what moves by all that is known."""
        self._state.changed |= self.dense.renew()
        with self._stage("moving"):
            self._state.changed |= self.movers.look_again()

    def take_over(self, other: DepthSchedule, first: int, scale: float) -> None:
        """The depth of another map, whose keyframes are these from ``first`` on and whose unit is ``scale`` units."""
        self.dense.take_over(other.dense, first, scale)
        waited = other.waiting.drop()
        self.waiting.want([(first + index, [first + near for near in others]) for index, others in waited])

    def preview(self) -> None:
        """A first look at the depth of the next keyframe that waits for one."""
        index, others = self.waiting.next_preview(self.dense.previewed)
        pairs = 1 if self.waiting.previews else _PREVIEW_PAIRS
        self._state.changed |= self.dense.preview(index, others, pairs)

    def some_depth(self) -> None:
        """A part of the depth that is next; others hear of it when it is whole."""
        self.waiting.some_depth(self._in_parts)

    def _put_off(self, index: int, others: Sequence[int]) -> None:
        self.dense.connect(index, others)
        if self._state.config.dense:
            self.waiting.want([(index, list(others))])

    def _in_parts(self, index: int, others: Sequence[int], pairs: int = 1) -> Iterator[None]:
        """Depth of a keyframe, so many pairs at once, and what moves in it; the map may change in between."""
        changed: set[int] = set()
        if self._state.sparse.views[index].w_T_c is None:
            return
        for part in self.dense.densify_in_parts(index, others, pairs):
            changed |= part
            yield
        with self._stage("moving"):
            changed |= self.movers.look(index, sure=not self._state.settling)
        self._state.changed |= changed | self.dense.leave(index)
