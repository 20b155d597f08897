"""The mapper of a node across resets: known cameras, stamps that jump, what was counted."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from dust3r_ros.backends import make_backend
from dust3r_ros.config import MapperConfig
from dust3r_ros.errors import InputError
from dust3r_ros.mapper import Mapper
from dust3r_ros.timing import Stopwatch
from dust3r_ros.types import Image, MapUpdate

# Frames of one camera that overtake each other on the network are this close; a clock that was
# set back or a bag that starts again jumps further.
REORDERED_NS = 100_000_000

# Stage latencies are those of about this many newest frames.
NEWEST_FRAMES = 1000


@dataclass(frozen=True)
class KnownCamera:
    """Intrinsics a driver published: ``width``, ``height`` and ``focal`` in native pixels."""

    width: int
    height: int
    focal: float


class Log(Protocol):
    """Where a session tells the user what it does: a ROS logger or one of the standard library."""

    def info(self, message: str) -> object: ...

    def warning(self, message: str) -> object: ...


class Session:
    """Feeds a mapper and replaces it at a reset; the backend, with its weights, stays. For one thread at a time."""

    def __init__(self, config: MapperConfig, on_time_jump: str, log: Log) -> None:
        self._config = config
        self._on_time_jump = on_time_jump
        self._log = log
        self._known: dict[str, KnownCamera] = {}
        self.resets = 0
        self._backend = make_backend(config)
        self._start()

    def _start(self) -> None:
        self.stopwatch = Stopwatch(keep=NEWEST_FRAMES)
        self._backend.clear()
        self.mapper = Mapper(self._config, stage=self.stopwatch, backend=self._backend)
        self._last_ns: int | None = None

    def reset(self) -> None:
        """Forget the map; the next image starts a new one. Calibrations stay known."""
        self.resets += 1
        self._start()

    def know(self, camera: str, known: KnownCamera) -> None:
        """Take a calibration in.

        It counts from the first frame of the camera on. One that comes later, while there is not
        yet a second keyframe, starts the map again with it (drivers publish image and calibration
        together, so which arrives first is chance); after that it counts from the next reset on.
        """
        if self._known.get(camera) == known:
            return
        self._known[camera] = known
        self._log.info(f"calibration of camera '{camera}' received: focal {known.focal:.1f} px")
        if camera not in self.mapper.cameras:
            return
        if self.mapper.counts.keyframes <= 1:
            self._log.info(f"the map of camera '{camera}' starts again with the calibration")
            self.reset()
        else:
            self._log.warning(
                f"the calibration of camera '{camera}' came after its map had begun; it counts from the next reset on"
            )

    def process(self, stamp_ns: int, camera: str, image: Image) -> MapUpdate:
        """One frame, RGB uint8 (H, W, 3), native resolution.

        Raises ``InputError`` for a frame that is not used: unusable image, a size that changed, a
        stamp that was seen or, unless a time jump resets, lies before the last one.
        """
        self._check_stamp(stamp_ns)
        if camera not in self.mapper.cameras:
            self._calibrate(camera, image)
        update = self.mapper.process(stamp_ns, camera, image)
        self._last_ns = stamp_ns
        if update.removed:
            self._log.warning(
                f"camera '{camera}' is in another map now: {len(update.removed)} keyframes of the one before are taken"
                " away until it is seen again"
            )
        return update

    def _check_stamp(self, stamp_ns: int) -> None:
        if self._last_ns is None or stamp_ns > self._last_ns:
            return
        back = self._last_ns - stamp_ns
        if back == 0:
            raise InputError(f"image stamp {stamp_ns} ns is that of the image before; stamps must increase")
        if back > REORDERED_NS and self._on_time_jump == "reset":
            self._log.warning(f"image stamps jump back by {back * 1e-9:.3f} s: a new map starts")
            self.reset()
            return
        raise InputError(f"image stamp {stamp_ns} ns is {back * 1e-9:.3f} s before the last one; stamps must increase")

    def _calibrate(self, camera: str, image: Image) -> None:
        known = self._known.get(camera)
        if known is None:
            return
        height, width = image.shape[:2]
        if known.width * height != known.height * width:
            self._log.warning(
                f"calibration of camera '{camera}' is for {known.width}x{known.height}, its images are"
                f" {width}x{height}: the focal length is estimated"
            )
            return
        # Images that were scaled down without telling the CameraInfo still have its shape.
        self.mapper.set_camera(camera, known.width, known.height, known.focal)
