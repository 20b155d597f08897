"""How the node keeps up: images that are too many, latencies of the front end, the map's lag and, if asked, a trace."""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from statistics import median
from time import perf_counter

from rclpy.impl.rcutils_logger import RcutilsLogger

from dust3r_ros.errors import OutputError
from dust3r_ros.io.chrome_trace import Bundle, ChromeTrace, check_place
from dust3r_ros.node.conversions import Arrival
from dust3r_ros.timing import Stopwatch

_NEWEST_FRAMES = 1000  # latencies are over this many frames


class Watch:
    """Measures stages: ``with watch("decode"): …``. ``profile``: the trace file to write at the end, or "".

    Raises ``OutputError`` for a file that cannot be written.
    """

    def __init__(self, profile: str = "") -> None:
        if profile:
            check_place(profile)
        self._profile = profile
        self._trace = ChromeTrace("front end") if profile else None
        self._stopwatch = Stopwatch(keep=_NEWEST_FRAMES, heard=self._trace.stage if self._trace else None)
        self._came: dict[str, int] = {}  # stamp of the newest image, by camera
        self._mapped: dict[str, int] = {}  # stamp of the newest mapped image, by camera

    def __call__(self, stage: str) -> AbstractContextManager[None]:
        """Measure a stage."""
        return self._stopwatch(stage)

    def came(self, arrival: Arrival) -> None:
        """The front end starts on an image."""
        if arrival.camera not in self._came:
            self._mapped[arrival.camera] = arrival.stamp_ns
        self._came[arrival.camera] = arrival.stamp_ns
        if self._trace is not None:
            self._trace.count("lag (s)", self.lag)

    def posed(self, arrival: Arrival) -> None:
        """The pose of an image was published."""
        self._stopwatch.note("pose", arrival.at, perf_counter())

    def mapped(self, arrival: Arrival) -> None:
        """An image was mapped."""
        self._mapped[arrival.camera] = arrival.stamp_ns

    def waiting(self, images: int) -> None:
        """Record how many images wait, for the front end and the map together."""
        if self._trace is not None:
            self._trace.count("waiting images", images)

    @property
    def lag(self) -> float:
        """Seconds from the newest mapped image to the newest image, maximum over cameras.

        Until one is mapped, it counts from the first image. For any thread.
        """
        newest = dict(self._came)
        return max([0.0, *(1e-9 * (stamp_ns - self._mapped[camera]) for camera, stamp_ns in newest.items())])

    def summary(self) -> Mapping[str, Mapping[str, float]]:
        """Milliseconds by stage, as in ``Stopwatch``; "pose": from an image's arrival to publishing its pose."""
        return self._stopwatch.summary()

    def traced(self, bundle: Bundle) -> None:
        """Add trace events of the back end."""
        if self._trace is not None:
            self._trace.add(bundle)

    def forget(self) -> None:
        """The map was replaced or time was set back: start measuring the lag anew."""
        self._came.clear()

    def close(self, logger: RcutilsLogger | None = None) -> None:
        """Write the trace, if a ``logger`` is given, and stop tracing."""
        if self._trace is None:
            return
        trace, self._trace = self._trace, None
        try:
            if logger is not None:
                trace.write(self._profile)
                logger.info(f"trace written to '{self._profile}'")
        except OutputError as error:
            assert logger is not None
            logger.error(str(error))
        finally:
            trace.close()


_OVER_S, _LEAST_S, _NEWEST = 2.0, 1.0, 30  # seconds by which a camera's rate is known, images for the time of one
_LATE_S, _SMOOTH, _GONE_S = 0.1, 0.1, 1.0
_MOST, _AGAIN = 0.8, 0.7  # of the time: a thread with more to do is always late; all are tracked again below


class _Beat:
    """What is known of one camera's images."""

    def __init__(self) -> None:
        self.came: deque[float] = deque()  # times of arrival
        self.took: deque[float] = deque(maxlen=_NEWEST)  # seconds to track
        self._due = 0.0

    def comes(self, at: float) -> None:
        """An image came ``at`` a time."""
        self.came.append(at)
        while at - self.came[0] > _OVER_S:
            self.came.popleft()

    @property
    def period(self) -> float:
        """Seconds from image to image."""
        return max(self.came[-1] - self.came[0], 1e-6) / max(len(self.came) - 1, 1)

    def work(self, now: float) -> float:
        """The share of the time that tracking all its images would take; 0 if it is gone, and while unknown."""
        known = self.took and self.came[-1] - self.came[0] > _LEAST_S and now - self.came[-1] < _GONE_S
        return median(self.took) / self.period if known else 0.0

    def is_due(self, at: float, spacing: float) -> bool:
        """Whether one that came ``at`` a time is tracked, where that is done every ``spacing`` on average."""
        if at < self._due:
            return False
        self._due = max(self._due, at - spacing) + spacing
        return True


class Pace:
    """Has images tracked: all, or evenly as many as there is time for.

    The queue of images makes up for short delays and bursts. If they keep coming faster than they can be tracked, it
    would stay full, and every pose would be late by as long as it is; so some are left out. For one thread.
    """

    def __init__(self, track: Callable[[Arrival], None], leave_out: Callable[[], None]) -> None:
        self._track, self._leave_out = track, leave_out
        self._beats: defaultdict[str, _Beat] = defaultdict(_Beat)  # by camera
        self._behind, self._late = False, 0.0

    def __call__(self, arrival: Arrival) -> None:
        """Track an image or leave it out."""
        begun, beat = perf_counter(), self._beats[arrival.camera]
        beat.comes(arrival.at)
        late = (begun - arrival.at) / _LATE_S
        self._late += _SMOOTH * (late - self._late)
        if self._behind or late > 1.0:
            work = sum(each.work(arrival.at) for each in self._beats.values())
            self._behind = work > (_AGAIN if self._behind else _MOST)
            if self._behind and not beat.is_due(arrival.at, (1.0 + self._late) * work / _MOST * beat.period):
                self._leave_out()
                return
        try:
            self._track(arrival)
        finally:
            beat.took.append(perf_counter() - begun)
