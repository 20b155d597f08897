"""Measures how the node keeps up: latencies of the front end, the map's lag and, if requested, a trace."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager
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
