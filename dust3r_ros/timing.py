"""What the mapper, which knows no clock, has others see to: stage latencies, progress, the order of stamps."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Collection, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, replace
from time import perf_counter
from typing import Any

import numpy as np

from dust3r_ros.errors import InputError

# Frames of a camera that overtake each other on the network are at most this far apart; clocks and bags jump further.
REORDERED_NS = 100_000_000
# A stamp may be ahead of the last one by this much (ns), or by so many times the last step or the time in between.
_AHEAD_NS, _FASTEST = 10_000_000_000, 10
# After so many images in a row whose stamps increase, but do not fit those before, time has jumped.
_BELIEVED = 3

StageTimer = Callable[[str], AbstractContextManager[None]]
Tick = Callable[[int, int], object]  # takes the steps done, and their number
Heard = Callable[[str, float, float], object]


def no_timer(stage: str) -> AbstractContextManager[None]:
    """Measures nothing."""
    return nullcontext()


class Stopwatch:
    """Collects seconds per stage: ``with stopwatch("track"): …``. The newest ``keep`` per stage count.

    ``heard(stage, begin, end)`` gets each one, in seconds of ``perf_counter``.
    """

    def __init__(self, keep: int = 100_000, heard: Heard | None = None) -> None:
        self._keep, self._heard = keep, heard
        self._seconds: dict[str, list[float]] = defaultdict(list)

    @contextmanager
    def __call__(self, stage: str) -> Iterator[None]:
        start = perf_counter()
        try:
            yield
        finally:
            end = perf_counter()
            self.note(stage, start, end)
            if self._heard is not None:
                self._heard(stage, start, end)

    def note(self, stage: str, begin: float, end: float) -> None:
        """A stage that was measured elsewhere, by ``perf_counter``."""
        times = self._seconds[stage]
        times.append(end - begin)
        if len(times) > self._keep:
            del times[: self._keep // 2]

    def total(self, stage: str) -> float:
        """Seconds of a stage, over the calls that count; 0 for one that was never timed."""
        return sum(self._seconds.get(stage, ()))

    def summary(self) -> dict[str, dict[str, float]]:
        """{stage: {count, p50, p95, max}}, milliseconds."""
        return {
            stage: {
                "count": len(times),
                "p50_ms": round(1e3 * float(np.percentile(times, 50)), 3),
                "p95_ms": round(1e3 * float(np.percentile(times, 95)), 3),
                "max_ms": round(1e3 * max(times), 3),
            }
            for stage, times in self._seconds.items()
        }


def no_tick(done: int, count: int) -> None:
    """Nobody watches the progress."""


@dataclass(frozen=True, eq=False)
class Stamped:
    """An image that ``arrived`` (s) with a stamp; ``odd``: why that cannot be right, or ""."""

    camera: str
    stamp_ns: int
    image: Any
    arrived: float
    odd: str = ""


class StampDoubts:
    """Keeps images back whose stamps do not fit those before, until it is known what is wrong: they, or time.

    A wrong stamp, or the images of a second publisher, would else start a new map, or end all poses. They are ``odd``
    if the next image fits those before; if the stamps of three in a row increase, a clock was set or a bag moved.
    Images without a stamp (0) pass. For one thread.
    """

    def __init__(self, reordered_ns: int = REORDERED_NS) -> None:
        """``reordered_ns``: how far images may have overtaken each other."""
        self._reordered_ns = reordered_ns
        self.clear()

    def clear(self) -> None:
        """Discard the images kept back; the next stamps may be any."""
        self._last: dict[str, tuple[int, float, int]] = {}  # by camera: newest stamp (ns), arrival (s), step (ns)
        self._doubted: dict[str, list[Stamped]] = {}

    def image(self, image: Stamped) -> list[Stamped]:
        """Take an image in; returns those that go on, and those that are odd."""
        if not image.stamp_ns:
            return [image]
        last, doubted = self._last.get(image.camera), self._doubted.pop(image.camera, [])
        if last is None or self._fits(image, *last):
            before = image.stamp_ns if last is None else last[0]
            newest = max(before, image.stamp_ns)
            self._last[image.camera] = newest, image.arrived, newest - before
            return [*_odd(doubted, image), image]
        same = bool(doubted) and image.stamp_ns >= doubted[-1].stamp_ns - self._reordered_ns
        self._doubted[image.camera] = [*(doubted if same else ()), image]
        if len(self._doubted[image.camera]) < _BELIEVED:
            return [] if same else _odd(doubted, image)
        self._last[image.camera] = image.stamp_ns, image.arrived, image.stamp_ns - doubted[-1].stamp_ns
        return self._doubted.pop(image.camera)

    def rest(self) -> list[Stamped]:
        """No more images come: those that are kept back."""
        return [image for doubted in self._doubted.values() for image in doubted]

    def _fits(self, image: Stamped, stamp_ns: int, arrived: float, step_ns: int) -> bool:
        """Whether an image may follow one with this stamp and arrival, and this step before it."""
        longest = max(_AHEAD_NS, _FASTEST * step_ns, _FASTEST * 1e9 * (image.arrived - arrived))
        return -self._reordered_ns <= image.stamp_ns - stamp_ns <= longest


def _odd(doubted: Collection[Stamped], other: Stamped) -> list[Stamped]:
    """Images whose stamps do not fit that of ``other``, with the reason."""

    def said(image: Stamped) -> str:
        seconds = 1e-9 * (image.stamp_ns - other.stamp_ns)
        where = f"{seconds:.3f} s ahead of" if seconds > 0 else f"{-seconds:.3f} s before"
        return f"image stamp {image.stamp_ns} ns is {where} the next; a topic's images must come from one clock"

    return [replace(image, odd=said(image)) for image in doubted]


class StampOrder:
    """The newest stamp of every camera; cameras may have different clocks."""

    def __init__(self, jumps: bool) -> None:
        """``jumps``: whether time may be set back; else every image before the last one is refused."""
        self._jumps = jumps
        self._last: dict[str, int] = {}
        self._before: dict[str, int] = {}

    def back(self, camera: str, stamp_ns: int) -> int:
        """By how many ns time was set back before this image; 0 if it was not.

        Raises ``InputError`` for an image that was seen already or was overtaken by others.
        """
        back = self._last.get(camera, stamp_ns - 1) - stamp_ns
        if back < 0:
            return 0
        if back == 0:
            raise InputError(f"image stamp {stamp_ns} ns repeats the last one; stamps must increase")
        if back <= REORDERED_NS or not self._jumps:
            seconds = back * 1e-9
            raise InputError(f"image stamp {stamp_ns} ns is {seconds:.3f} s before the last one; stamps must increase")
        return back

    def took(self, camera: str, stamp_ns: int) -> None:
        """An image was used."""
        self._before[camera], self._last[camera] = self._last.get(camera, 0), stamp_ns

    def take_back(self, camera: str, stamp_ns: int) -> None:
        """The image was not used after all: another one may have its stamp, unless newer ones came."""
        if self._last.get(camera) == stamp_ns:
            self._last[camera] = self._before[camera]

    def clear(self) -> None:
        """Forget all stamps: time was set back."""
        self._last.clear()
        self._before.clear()
