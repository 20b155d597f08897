"""When keyframes of a landmark map get depth: offline at the end, live when there is time; until then, a preview."""

from __future__ import annotations

from collections.abc import Callable, Collection, Container, Iterator, Sequence

from dust3r_ros.backends.base import Backend
from dust3r_ros.mapping.covisibility import Neighbourhood
from dust3r_ros.mapping.densifier import Densifier
from dust3r_ros.mapping.moving_objects import Movers
from dust3r_ros.mapping.reconstruction import Reconstruction
from dust3r_ros.timing import StageTimer, Tick

Waiting = tuple[int, list[int]]  # a keyframe and its partners
_PREVIEW_PAIRS = 2  # of a depth preview, unless others wait for theirs
_RENEWED = 30  # keyframes up to which depth follows calibrations at once, live: more would take seconds


class DepthQueue:
    """``depth``: keyframes that wait for depth; ``previews``: those that wait for a preview. Both in order."""

    def __init__(self) -> None:
        self.depth: list[Waiting] = []
        self.previews: list[Waiting] = []
        self._begun: Waiting | None = None  # the keyframe whose depth is in progress
        self._parts: Iterator[None] | None = None

    @property
    def count(self) -> int:
        """How many keyframes wait or are in progress."""
        return len(self.depth) + len(self.previews) + self.part_way

    @property
    def part_way(self) -> bool:
        """Whether depth of a keyframe has begun and is not finished."""
        return self._parts is not None

    @property
    def without_depth(self) -> list[Waiting]:
        """Keyframes whose depth waits or is in progress."""
        return self.depth + ([self._begun] if self._begun else [])

    def want(self, keyframes: Sequence[Waiting]) -> None:
        """Queue depth of these, with a preview first; the newest keyframe is always next."""
        for waiting in (self.depth, self.previews):
            known = {index for index, _ in waiting}
            waiting += [keyframe for keyframe in keyframes if keyframe[0] not in known]
            waiting.sort(key=lambda keyframe: keyframe[0])

    def next_preview(self, seen: Container[int]) -> Waiting:
        """The newest keyframe that waits for a preview; those ``seen`` before come last."""
        fresh = [at for at, (index, _) in enumerate(self.previews) if index not in seen]
        return self.previews.pop(fresh[-1] if fresh else -1)

    def some_depth(self, densify: Callable[[int, list[int]], Iterator[None]]) -> None:
        """Do a part of the depth in progress or, if there is none, of the newest waiting keyframe."""
        begun, parts = self._begun, self._parts
        if begun is None or parts is None:
            begun = self.depth.pop()
            parts = densify(*begun)
        self._begun = self._parts = None  # a failure is not retried
        for _ in parts:
            self._begun, self._parts = begun, parts
            return

    def drop(self) -> list[Waiting]:
        """Drop all waiting depth; returns it, including what had begun."""
        waited = self.without_depth
        self.depth, self.previews, self._begun, self._parts = [], [], None, None
        return waited


class DepthSchedule:
    """Decides which keyframes get depth now, which wait, and when they get it again; likewise for moving objects."""

    def __init__(self, state: Reconstruction, near: Neighbourhood, backend: Backend, stage: StageTimer) -> None:
        self._state, self._near, self._stage = state, near, stage
        self.dense = Densifier(state, backend, stage)
        self.movers = Movers(state, self.dense)
        self.waiting = DepthQueue()
        self.failures: list[str] = []  # a sentence for each keyframe that has a preview in place of depth

    def add(self, index: int, others: Sequence[int]) -> None:
        """Connect the newest keyframe with ``others`` that share landmarks, and schedule its depth."""
        self._schedule(index, others)
        if self._at_once:
            for _ in self._in_parts(index, others):
                pass
        elif self._state.config.dense and not self._state.live:
            self._look_for_movers(index)

    def add_late(self, index: int) -> None:
        """Schedule depth of a keyframe that got a pose, or a new one, after newer keyframes."""
        others = self._near.neighbours(index)
        self._schedule(index, others)
        if self._at_once:
            self._state.changed |= self.dense.densify(index, others)

    def rebuild(self) -> None:
        """Compute all depth again: every pose is new, and some keyframes may have none."""
        self.movers.forget()
        every = range(len(self._state.records))
        for index in every:
            self.dense.depths.clear(index)
        self.waiting.drop()
        for index in self._dense_ones():
            self.add_late(index)
        self._state.changed.update(every)

    def retake(self, keyframes: Collection[int]) -> None:
        """Compute the depth of keyframes again at the end: their images changed."""
        for index in keyframes:
            self.dense.depths.clear(index)
            self.dense.backend.forget(index)

    def revise(self) -> None:
        """Live, update depth that no longer fits the poses, in a small map; others get it at the end."""
        if self._state.live and len(self._state.records) <= _RENEWED:
            stale = self.dense.stale()
            self._state.changed |= stale
            self.waiting.want([(index, self._near.neighbours(index)) for index in stale])

    def finish(self, tick: Tick) -> None:
        """Compute depth that is missing or no longer fits the final poses, and moving objects from all evidence.

        A keyframe whose depth fails keeps its preview; ``failures`` has why.
        """
        missing = self._missing() if self._state.config.dense else []
        self.failures.clear()
        for done, index in enumerate(missing, 1):
            older = [other for other in self._near.neighbours(index) if other < index]
            try:
                self._state.changed |= self.dense.densify(index, older)
            except Exception as error:  # of a backend, such as no memory: the map is there all the same
                self.failures.append(str(error) or type(error).__name__)
            tick(done, len(missing))
        self._state.changed |= self.dense.renew()
        with self._stage("moving"):
            self._state.changed |= self.movers.look_again()

    def _missing(self) -> list[int]:
        """Keyframes whose own depth was not computed; live, what waited may be partners of others already."""
        posed = self._dense_ones()
        done = {index for index in posed if self.dense.depths[index].estimated}
        if self._state.live:
            done &= {*posed[:1], *(second for _, second in self.dense.pairs.geometry)}
        return [index for index in posed if index not in done]

    def _dense_ones(self) -> list[int]:
        """Posed keyframes that are to have depth: all but links, between which others show the same."""
        return [index for index in self._state.sparse.posed() if not self._state.records[index].link]

    def take_over(self, other: DepthSchedule, first: int, scale: float) -> None:
        """Take the depth of another map, whose keyframes become ``first`` and up and whose unit is ``scale`` units."""
        self.dense.take_over(other.dense, first, scale)
        waited = other.waiting.drop()
        self.waiting.want([(first + index, [first + near for near in others]) for index, others in waited])

    def preview(self) -> None:
        """Make the depth preview of the next keyframe that waits for one."""
        index, others = self.waiting.next_preview(self.dense.previewed)
        pairs = 1 if self.waiting.previews else _PREVIEW_PAIRS
        self._state.changed |= self.dense.preview(index, others, pairs)

    def some_depth(self) -> None:
        """Do a part of the next depth; it is shared with others once complete."""
        self.waiting.some_depth(self._in_parts)
        if not self.waiting.without_depth:
            self.dense.release_old()

    def _schedule(self, index: int, others: Sequence[int]) -> None:
        self.dense.connect(index, others)
        if self._state.config.dense and self._state.live:
            self.waiting.want([(index, list(others))])
        elif self._state.config.dense and self._state.config.depth_at_end:
            self._state.changed |= self.dense.preview(index, others, _PREVIEW_PAIRS)

    @property
    def _at_once(self) -> bool:
        config = self._state.config
        return config.dense and not (self._state.live or config.depth_at_end)

    def _in_parts(self, index: int, others: Sequence[int]) -> Iterator[None]:
        """Depth of a keyframe, a pair at a time, and its moving objects; the map may change in between."""
        changed: set[int] = set()
        if self._state.sparse.views[index].w_T_c is None:
            return
        for part in self.dense.densify_in_parts(index, others):
            changed |= part
            yield
        self._state.changed |= changed | self.dense.share(index)
        self._look_for_movers(index)
        self._state.changed |= self.dense.leave(index)

    def _look_for_movers(self, index: int) -> None:
        with self._stage("moving"):
            self._state.changed |= self.movers.look(index, sure=not self._state.settling)
