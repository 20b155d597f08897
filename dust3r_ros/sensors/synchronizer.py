"""Matches images with their companions: odometry, gravity, masks and depth."""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from threading import Lock
from typing import Any, Generic, TypeVar

import numpy as np

from dust3r_ros.errors import ConfigError, InputError
from dust3r_ros.geometry.lens import ray_slopes
from dust3r_ros.geometry.rigid import transform
from dust3r_ros.geometry.undistortion import scaled_calibration
from dust3r_ros.sensors.gravity_filter import Turned, TurnMeter, UpFilter
from dust3r_ros.sensors.transform_buffer import JUMP_NS, TransformBuffer, Unavailable
from dust3r_ros.types import Array, Array32, Calibration, Frame, Image

MOST_POINTS = 2000  # points per frame from a depth camera that is not the image's


@dataclass(frozen=True, eq=False)
class Completed:
    """A frame with its companions; ``missing``: expected companions that it lacks, a sentence each."""

    frame: Frame
    missing: tuple[str, ...] = ()


@dataclass(frozen=True, eq=False)
class DepthImage:
    """A depth image; ``load`` gives (h, w) float32, metres, or raises ``InputError``."""

    load: Callable[[], Array32]
    frame_id: str
    calibration: Calibration | None


# Companions whose reasons come from TF, which does not know what they are for.
_CALLED = {"o_T_c": "odometry", "up": "direction of gravity"}


@dataclass(frozen=True, eq=False)
class Match:
    """The companions of one image: each a value, the reason for its absence, or None if not expected.

    Masks and depth are not decoded yet: ``onto`` does that.
    """

    o_T_c: Array | Unavailable | None = None
    up: Array | Unavailable | None = None
    mask: Callable[[], Image] | Unavailable | None = None
    depth: DepthImage | Unavailable | None = None
    c_T_d: Array | Unavailable | None = None

    def onto(self, frame: Frame) -> Completed:
        """``frame`` (stamp, camera, image) with its companions."""
        found: dict[str, Any] = {"o_T_c": self.o_T_c, "up": self.up, "mask": self._mask(frame), **self._depth(frame)}
        missing = tuple(
            f"no {_CALLED[name]} for camera '{frame.camera}': {value.reason}" if name in _CALLED else value.reason
            for name, value in found.items()
            if isinstance(value, Unavailable)
        )
        known: dict[str, Any] = {
            name: None if isinstance(value, Unavailable) else value for name, value in found.items()
        }
        return Completed(replace(frame, **known), missing)

    def _mask(self, frame: Frame) -> Image | Unavailable | None:
        if self.mask is None or isinstance(self.mask, Unavailable):
            return self.mask
        try:
            mask = self.mask()
        except InputError as error:
            return Unavailable(f"mask of camera '{frame.camera}': {error}")
        if mask.shape != frame.image.shape[:2]:
            size, wanted = mask.shape[::-1], frame.image.shape[1::-1]
            sizes = f"{size[0]}x{size[1]}, but its image is {wanted[0]}x{wanted[1]}"
            return Unavailable(f"mask of camera '{frame.camera}' is {sizes}")
        return mask

    def _depth(self, frame: Frame) -> dict[str, Array32 | Unavailable | None]:
        """The ``depth`` or the ``points`` of a frame."""
        if self.depth is None or isinstance(self.depth, Unavailable):
            return {"depth": self.depth}
        if isinstance(self.c_T_d, Unavailable):
            return {"depth": Unavailable(f"depth of camera '{frame.camera}': {self.c_T_d.reason}")}
        try:
            pixels = self.depth.load()
            if self.c_T_d is None:
                return {"depth": _registered(pixels, frame)}
            if self.depth.calibration is None:
                return {"depth": Unavailable(f"depth in the frame '{self.depth.frame_id}' has no CameraInfo yet")}
            return {"points": depth_points(pixels, self.depth.calibration, self.c_T_d)}
        except (InputError, ConfigError) as error:
            return {"depth": Unavailable(f"depth of camera '{frame.camera}': {error}")}


def depth_points(depth: Array32, calibration: Calibration, c_T_d: Array) -> Array32:
    """Points (N, 3) float32, metres, in the frame c, from a regular grid over a depth image (h, w).

    ``calibration`` is that of the depth camera d. Raises ``ConfigError`` if it does not fit the image or its lens.
    """
    height, width = depth.shape
    step = max(1, math.ceil(math.sqrt(height * width / MOST_POINTS)))
    rows, columns = np.arange(step // 2, height, step), np.arange(step // 2, width, step)
    v, u = np.meshgrid(rows, columns, indexing="ij")
    z = depth[v, u].astype(np.float64)
    known = np.isfinite(z) & (z > 0)
    slopes = ray_slopes(scaled_calibration(calibration, width, height), np.stack([u[known], v[known]], axis=-1))
    seen = np.isfinite(slopes).all(axis=1)
    if np.count_nonzero(seen) < 0.5 * len(slopes):
        raise ConfigError(
            f"the distortion {calibration.coefficients} ('{calibration.model}') has no rays for {1 - seen.mean():.0%} "
            "of the depth image; it does not belong to that camera"
        )
    rays = np.column_stack([slopes, np.ones(len(slopes))])[seen]
    return transform(c_T_d, z[known][seen, None] * rays).astype(np.float32)


def _registered(depth: Array32, frame: Frame) -> Array32 | Unavailable:
    """A depth image, which must have the image's aspect ratio."""
    (h, w), (height, width) = depth.shape, frame.image.shape[:2]
    if abs(h * width / w - height) > 1 + width / w:
        sizes = f"{w}x{h}, but its image is {width}x{height}"
        return Unavailable(f"depth of camera '{frame.camera}' is {sizes}; the shapes must agree")
    return depth


_KEEP = 64  # masks or depth images of one camera waiting for their image

_Loaded = TypeVar("_Loaded")


@dataclass(frozen=True)
class SynchronizerSettings:
    """The expected companions. ``odom_frame``: odometry from TF; ``odometry``: from messages instead.

    ``masks``, ``depths``: names of the cameras with such a topic. ``turning``: whether the IMU's angular velocity is
    integrated, for ``turned``. ``tolerance_ns``: largest distance of a companion from the image's stamp.
    """

    odom_frame: str = ""
    odometry: bool = False
    imu: bool = False
    masks: frozenset[str] = frozenset()
    depths: frozenset[str] = frozenset()
    turning: bool = False
    tolerance_ns: int = 20_000_000

    @property
    def none(self) -> bool:
        """Whether images have no companions."""
        return not (self.odom_frame or self.odometry or self.imu or self.masks or self.depths)


class _Stamped(Generic[_Loaded]):
    """The newest items, in ascending order of stamps."""

    def __init__(self) -> None:
        self._stamps: list[int] = []
        self._items: list[_Loaded] = []

    def add(self, stamp_ns: int, item: _Loaded) -> None:
        if self._stamps and stamp_ns < self._stamps[-1] - JUMP_NS:  # time jumped back
            self._stamps, self._items = [], []
        place = bisect_left(self._stamps, stamp_ns)
        self._stamps.insert(place, stamp_ns)
        self._items.insert(place, item)
        del self._stamps[:-_KEEP], self._items[:-_KEEP]

    def reached(self, stamp_ns: int) -> bool:
        """Whether no item nearer to the stamp can come."""
        return bool(self._stamps) and self._stamps[-1] >= stamp_ns

    def nearest(self, stamp_ns: int, tolerance_ns: int) -> _Loaded | None:
        """The nearest item within the tolerance, the older of two equally near; removes those before it."""
        if not self._stamps:
            return None
        best = min(range(len(self._stamps)), key=lambda place: abs(self._stamps[place] - stamp_ns))
        found = self._items[best] if abs(self._stamps[best] - stamp_ns) <= tolerance_ns else None
        passed = bisect_left(self._stamps, stamp_ns - tolerance_ns)
        del self._stamps[:passed], self._items[:passed]
        return found


class Synchronizer:
    """Takes in companions and completes frames with them. Thread-safe.

    Frames of a camera must be completed in the order of their stamps; earlier masks and depth are forgotten.
    """

    def __init__(self, settings: SynchronizerSettings, transforms: TransformBuffer) -> None:
        self.settings = settings
        self.transforms = transforms
        self._lock = Lock()
        self._own = TransformBuffer()  # odometry messages only: on TF the same frame may have another parent
        self._moving: tuple[str, str] | None = None
        self._up: dict[str, UpFilter] = {}
        self._turns: dict[str, TurnMeter] = {}
        self._up_stamp: dict[str, int] = {}
        self._masks: dict[str, _Stamped[Callable[[], Image]]] = {}
        self._depths: dict[str, _Stamped[DepthImage]] = {}

    def add_odometry(self, frame_id: str, child_frame_id: str, stamp_ns: int, o_T_child: Array) -> str:
        """Take in an odometry message, ``o_T_child`` (4, 4); returns a remark as ``TransformBuffer.add`` does."""
        remark = self._own.add(frame_id, child_frame_id, stamp_ns, o_T_child)
        with self._lock:
            self._moving = (frame_id.lstrip("/"), child_frame_id.lstrip("/"))
        return remark

    def add_imu(self, frame_id: str, stamp_ns: int, acceleration: Array | None, rate: Array | None) -> None:
        """Take in specific force (3,), m/s^2, and turn rate (3,), rad/s, None if not measured; axes of ``frame_id``."""
        felt = np.zeros(3) if rate is None else rate  # without a gyroscope, the accelerometer corrects only slowly
        with self._lock:
            if acceleration is not None:
                self._up.setdefault(frame_id, UpFilter()).add(stamp_ns, acceleration, felt)
            if self.settings.turning and rate is not None:
                self._turns.setdefault(frame_id, TurnMeter()).add(stamp_ns, rate)
            self._up_stamp[frame_id] = stamp_ns

    def add_mask(self, camera: str, stamp_ns: int, load: Callable[[], Image]) -> None:
        """Take in a mask; ``load`` decodes it to (H, W) uint8 when needed, or raises ``InputError``."""
        with self._lock:
            self._masks.setdefault(camera, _Stamped()).add(stamp_ns, load)

    def add_depth(
        self,
        camera: str,
        stamp_ns: int,
        load: Callable[[], Array32],
        frame_id: str,
        calibration: Calibration | None = None,
    ) -> None:
        """Take in a depth image; ``load`` decodes it to (h, w) float32, metres, or raises ``InputError``.

        In the frame of the camera's images, optical or as stamped, it is registered to them; in another frame, it is
        converted to points with TF and the depth camera's ``calibration``.
        """
        with self._lock:
            self._depths.setdefault(camera, _Stamped()).add(
                stamp_ns, DepthImage(load, frame_id.lstrip("/"), calibration)
            )

    def clear(self) -> None:
        """Forget everything but static transforms: time jumped back."""
        self.transforms.clear()
        self._own.clear()
        with self._lock:
            for kept in (self._up, self._up_stamp, self._masks, self._depths):
                kept.clear()
            for meter in self._turns.values():
                meter.clear()

    def ready(self, camera: str, frame_id: str, stamp_ns: int) -> bool:
        """Whether all companions of an image are there; if not, waiting may help."""
        wanted = self.settings
        with self._lock:
            stores = [self._masks.get(camera)] * (camera in wanted.masks)
            stores += [self._depths.get(camera)] * (camera in wanted.depths)  # type: ignore[list-item]
            if not all(store is not None and store.reached(stamp_ns) for store in stores):
                return False
            if wanted.imu and not any(newest >= stamp_ns for newest in self._up_stamp.values()):
                return False
        pose = self.odometry(frame_id, stamp_ns, 0)
        return not (isinstance(pose, Unavailable) and pose.later)

    def complete(self, frame: Frame, frame_id: str, stamped: str = "") -> Completed:
        """``frame`` (stamp, camera, image) with its companions; frames as ``match`` has them."""
        return self.match(frame.camera, frame.stamp_ns, frame_id, stamped).onto(frame)

    def match(self, camera: str, stamp_ns: int, frame_id: str, stamped: str = "") -> Match:
        """The companions at the stamp of an image, not decoded yet.

        ``frame_id``: its optical frame; ``stamped``: the frame in its header, which may be wrong (Gazebo: camera_link).
        """
        wanted = self.settings
        depth = self._nearest(self._depths, "depth", camera, stamp_ns) if camera in wanted.depths else None
        c_T_d, own = None, {"", frame_id.lstrip("/"), stamped.lstrip("/")}
        if isinstance(depth, DepthImage) and depth.frame_id not in own:
            c_T_d = self.transforms.lookup(frame_id, depth.frame_id, stamp_ns, wanted.tolerance_ns)
        return Match(
            self.odometry(frame_id, stamp_ns, wanted.tolerance_ns),
            self._upward(frame_id, stamp_ns) if wanted.imu else None,
            self._nearest(self._masks, "mask", camera, stamp_ns) if camera in wanted.masks else None,
            depth,
            c_T_d,
        )

    def odometry(self, frame_id: str, stamp_ns: int, tolerance_ns: int = 0) -> Array | Unavailable | None:
        """``o_T_c`` (4, 4), metres, of the camera with this optical frame; None without odometry."""
        if not self.settings.odometry:
            if not self.settings.odom_frame:
                return None
            return self.transforms.lookup(self.settings.odom_frame, frame_id, stamp_ns, tolerance_ns)
        with self._lock:
            moving = self._moving
        if moving is None:
            return Unavailable("no message has arrived yet", later=True)
        o_T_b = self._own.lookup(*moving, stamp_ns, tolerance_ns)
        b_T_c = self.transforms.lookup(moving[1], frame_id, stamp_ns, tolerance_ns)
        for found in (o_T_b, b_T_c):
            if isinstance(found, Unavailable):
                return found
        return o_T_b @ b_T_c  # type: ignore[operator]

    def turned(self, frame_id: str, stamp_ns: int) -> Turned | None:
        """Axes of the camera with this optical frame, from the first gyroscope that covers the stamp."""
        with self._lock:
            turns = {name: known.at(stamp_ns) for name, known in self._turns.items()}
        for name, turned in turns.items():
            if turned is not None:
                i_T_c = self.transforms.lookup(name, frame_id, stamp_ns, self.settings.tolerance_ns)
                if not isinstance(i_T_c, Unavailable):
                    return turned.to(i_T_c[:3, :3])
        return None

    def _upward(self, frame_id: str, stamp_ns: int) -> Array | Unavailable:
        """Up in the image's optical frame, from the first IMU that knows it."""
        with self._lock:
            ups = {name: known.at(stamp_ns) for name, known in self._up.items()}
            blind = not ups and bool(self._up_stamp)
        why = "the IMU measures no acceleration" if blind else "no IMU gives it yet"
        reason: Array | Unavailable = Unavailable(why, later=True)
        for name, up in ups.items():
            if up is not None:
                reason = self.transforms.lookup(frame_id, name, stamp_ns, self.settings.tolerance_ns)
                if not isinstance(reason, Unavailable):
                    return reason[:3, :3] @ up
        return reason

    def _nearest(self, stores: Mapping[str, _Stamped[Any]], what: str, camera: str, stamp_ns: int) -> Any:
        """The item for a stamp in a camera's store."""
        with self._lock:
            store = stores.get(camera)
            found = store and store.nearest(stamp_ns, self.settings.tolerance_ns)
        return found or Unavailable(f"camera '{camera}' has no {what} at {stamp_ns} ns")
