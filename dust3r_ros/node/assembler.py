"""Holds images until their companions are there; then releases them by stamp.

No ROS, no own clock.
"""

from __future__ import annotations

import heapq
import math
from collections import Counter, deque
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import count
from typing import Any

from dust3r_ros.timing import REORDERED_NS, Stamped

# Images of several cameras may overtake each other by this much (s, by arrival time).
REORDER_S = 0.05
# A camera that sent no image for this long (s) is not waited for.
SILENT_S = 1.0
# The next companion comes no earlier than this fraction of the shortest recent step.
_EARLIEST = 0.8
# Number of companion stamps remembered.
_KEPT = 16


@dataclass(frozen=True, eq=False)
class Held(Stamped):
    """A waiting image; ``complete``: the kinds no longer waited for."""

    complete: set[str] = field(default_factory=set)


# Whether a companion that is looked up is available: True: yes, False: not yet, None: never.
Ask = Callable[[Held], bool | None]


class _Row:
    """The stamps of the newest companions of one kind and camera."""

    def __init__(self) -> None:
        self._stamps: deque[int] = deque(maxlen=_KEPT)
        self._steps: deque[int] = deque(maxlen=8)

    def add(self, stamp_ns: int) -> None:
        if self._stamps:
            step = stamp_ns - self._stamps[-1]
            if step <= -REORDERED_NS:
                self._stamps.clear()
            elif step > 0:
                self._steps.append(step)
        self._stamps.append(stamp_ns)

    def awaited(self, stamp_ns: int, tolerance_ns: int) -> bool:
        """Whether a companion with this stamp may still arrive; False while none was ever received.

        Also False if the next one is due later: depth often has a lower rate than images.
        """
        if not self._stamps or any(abs(known - stamp_ns) <= tolerance_ns for known in self._stamps):
            return False
        newest = self._stamps[-1]
        due = newest + _EARLIEST * min(self._steps, default=0)
        return newest < stamp_ns and stamp_ns + tolerance_ns >= due


class Assembler:
    """Holds images until their companions arrive or ``wait_s`` has passed; then releases them without.

    ``kinds`` are the message companions (mask, depth) of each camera, matched by stamp within ``tolerance_ns``;
    ``asked`` are those that are looked up (odometry). Both are waited for only once the first has arrived. At most
    ``size`` images wait. Times ``now`` are seconds of a steady clock.
    For one thread. ``incomplete`` counts, by kind, the companions that did not arrive in time.
    """

    def __init__(
        self,
        kinds: Mapping[str, Collection[str]],
        asked: Mapping[str, Ask],
        wait_s: float,
        tolerance_ns: int = 2_000_000,
        size: int = 64,
        *,
        in_order: bool = True,
    ) -> None:
        """``in_order``: release images of several cameras in the order of their stamps, waiting if necessary.

        Otherwise each camera's are in order, and none waits for those of another.
        """
        self._in_order = in_order
        self._asked, self._wait_s, self._tolerance_ns, self._size = asked, wait_s, tolerance_ns, size
        self._rows = {camera: {kind: _Row() for kind in kinds[camera]} for camera in kinds}
        self._number = count()
        self._found: set[tuple[str, str]] = set()
        self.incomplete: Counter[str] = Counter()
        self.clear()

    @property
    def may_wait(self) -> bool:
        """Whether any image can ever have to wait."""
        return bool(self._asked) or (self._in_order and len(self._rows) > 1) or any(self._rows.values())

    @property
    def waiting(self) -> int:
        """Number of images held."""
        return sum(map(len, self._heaps.values()))

    def clear(self) -> None:
        """Discard the images held."""
        self._heaps: dict[str, list[tuple[int, int, Held]]] = {}  # of all cameras, or one for each
        self._newest: dict[str, tuple[int, float]] = {}  # by camera: stamp, arrival

    def image(self, camera: str, stamp_ns: int, image: Any, now: float) -> list[Held]:
        """Take an image in; returns the images released."""
        ready: list[Held] = []
        newest = self._newest.get(camera)
        if newest is not None and stamp_ns < newest[0] - REORDERED_NS:
            ready = self.flush()
            self.clear()
        self._newest[camera] = stamp_ns, now
        heap = self._heaps.setdefault("" if self._in_order else camera, [])
        heapq.heappush(heap, (stamp_ns, next(self._number), Held(camera, stamp_ns, image, now)))
        return ready + self.tick(now)

    def companion(self, kind: str, camera: str, stamp_ns: int, now: float) -> list[Held]:
        """A companion arrived; returns the images released."""
        self._rows[camera][kind].add(stamp_ns)
        return self.tick(now)

    def tick(self, now: float) -> list[Held]:
        """Release the images that need not wait any longer."""
        return [held for heap in self._heaps.values() for held in self._ready(heap, now)]

    def flush(self) -> list[Held]:
        """Release all images."""
        return [held for heap in self._heaps.values() for held in self._ready(heap, math.inf)]

    def _ready(self, heap: list[tuple[int, int, Held]], now: float) -> Iterator[Held]:
        """Those of one heap that need not wait any longer."""
        while heap:
            held = heap[0][2]
            awaited = self._awaited(held)
            waits = (awaited and now - held.arrived < self._wait_s) or not self._in_turn(held, now)
            if waits and self.waiting <= self._size:
                return
            self.incomplete.update(awaited)
            yield heapq.heappop(heap)[2]

    def _in_turn(self, held: Held, now: float) -> bool:
        """Whether no live camera can still send an image with an older stamp."""
        if not self._in_order or now - held.arrived >= REORDER_S:
            return True
        return all(stamp_ns >= held.stamp_ns for stamp_ns, arrived in self._newest.values() if now - arrived < SILENT_S)

    def _awaited(self, held: Held) -> list[str]:
        """The kinds that may still come for an image."""
        rows = self._rows.get(held.camera, {})
        awaited = [kind for kind, row in rows.items() if row.awaited(held.stamp_ns, self._tolerance_ns)]
        for kind, ask in self._asked.items():
            if kind in held.complete:
                continue
            answer = ask(held)
            if answer:
                self._found.add((kind, held.camera))
            if answer is False and (kind, held.camera) in self._found:
                awaited.append(kind)
            elif answer is not False:
                held.complete.add(kind)
        return awaited
