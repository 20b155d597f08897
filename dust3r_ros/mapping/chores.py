"""What a live map puts off: its first poses and adjustments of it all, made on a copy, and depth of keyframes."""

from __future__ import annotations

from collections.abc import Callable, Container, Iterator, Sequence
from dataclasses import dataclass, field

from dust3r_ros.alignment.processes import MOST_NICE, Aside
from dust3r_ros.sparse.transplant import Adjusted

# Adjustments, in the order in which they are done; the search is for a focal that explains the map better.
START, CALIBRATION, SEARCH, LOOP = ADJUSTMENTS = "start", "calibration", "search", "loop"
TAKE, BEGIN, PREVIEW, DEPTH = "take", "begin", "preview", "depth"  # kinds of work
_UNSURE_NICE = 5  # with two busy cores it gets a part of one, yet poses go first


@dataclass(frozen=True, eq=False)
class WholeMap:
    """A whole map adjusted, or its first poses: whether it was built anew, and whether its focal is ``settled``."""

    kind: str
    adjusted: Adjusted
    better: bool
    settled: bool


@dataclass(eq=False)
class Chores:
    """``whole_map``: the adjustments that are wanted; ``at_rest``: those that are once nothing else waits.

    ``depth``: keyframes that wait, and those to pair each with; ``previews``: those that wait for a first look at it.
    ``beside``: adjustments are made in a child, else at once; either way they are brought in when they are taken.
    """

    beside: bool
    whole_map: set[str] = field(default_factory=set)
    at_rest: set[str] = field(default_factory=set)
    depth: list[tuple[int, list[int]]] = field(default_factory=list)
    previews: list[tuple[int, list[int]]] = field(default_factory=list)
    _begun: tuple[int, list[int]] | None = None  # the keyframe whose depth is under way
    _parts: Iterator[None] | None = None
    _aside: Aside[WholeMap] | None = None
    _found: WholeMap | None = None

    @property
    def count(self) -> int:
        """How much waits or is under way."""
        adjustments = len(self.whole_map | self.at_rest) + self.running
        return len(self.depth) + len(self.previews) + self.part_way + adjustments

    @property
    def starting(self) -> bool:
        """Whether the map may get its first poses by what waits or is under way."""
        return self.running or START in self.whole_map

    @property
    def part_way(self) -> bool:
        """Whether depth of a keyframe was begun and is not done."""
        return self._parts is not None

    @property
    def without_depth(self) -> list[tuple[int, list[int]]]:
        """Keyframes whose depth waits or is under way."""
        return self.depth + ([self._begun] if self._begun else [])

    @property
    def running(self) -> bool:
        """Whether an adjustment was begun and not taken."""
        return self._aside is not None or self._found is not None

    @property
    def ready(self) -> bool:
        """Whether it is to be taken."""
        return self._found is not None or (self._aside is not None and self._aside.done)

    def want(self, kind: str, wanted: bool | None) -> None:
        """An adjustment is wanted or not; None: it is at rest."""
        if wanted is None:
            self.at_rest.add(kind)
        elif wanted:
            self.whole_map.add(kind)

    def begin(self, adjust: Callable[[str], WholeMap], sure: bool, guessing: bool) -> str:
        """Begin the adjustment that is wanted, the first of several; returns its kind. ``adjust`` makes one of a kind.

        ``guessing``: poses are not published before it is done, since there are none yet; ``sure``: they are as
        good without it.
        """
        wanted = self.whole_map or self.at_rest
        kind = next(kind for kind in ADJUSTMENTS if kind in wanted)
        self.whole_map.discard(kind)
        self.at_rest.discard(kind)
        if self.beside:
            nice = 0 if kind == START or guessing else MOST_NICE if sure else _UNSURE_NICE
            self._aside = Aside(lambda: adjust(kind), nice)
        else:
            self._found = adjust(kind)
        return kind

    def take(self) -> WholeMap | None:
        """The adjustment that was begun, once it is done; None where it failed."""
        found = self._found if self._aside is None else self._aside.result()
        self._aside = self._found = None
        return found

    def wait(self) -> None:
        """Until an adjustment that was begun is done."""
        if self._aside is not None:
            self._found, self._aside = self._aside.result(), None

    def cancel(self) -> None:
        """The map changed so that an adjustment that was begun does not fit it: it is begun again later."""
        if self.running:
            self.whole_map.add(CALIBRATION)
        if self._aside is not None:
            self._aside.cancel()
        self._aside = self._found = None

    def want_depth(self, keyframes: Sequence[tuple[int, list[int]]]) -> None:
        """Depth of these, and a first look at it before; the newest keyframe is always next."""
        for waiting in (self.depth, self.previews):
            known = {index for index, _ in waiting}
            waiting += [keyframe for keyframe in keyframes if keyframe[0] not in known]
            waiting.sort(key=lambda keyframe: keyframe[0])

    def next_preview(self, seen: Container[int]) -> tuple[int, list[int]]:
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

    def drop_depth(self) -> list[tuple[int, list[int]]]:
        """No depth waits any more; returns what did, what was begun included."""
        waited = self.without_depth
        self.depth, self.previews, self._begun, self._parts = [], [], None, None
        return waited
