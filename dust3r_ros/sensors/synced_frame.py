"""What belongs to one image, as it came, and the frame that it becomes."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from dust3r_ros.errors import ConfigError, InputError
from dust3r_ros.geometry.lens import ray_slopes
from dust3r_ros.geometry.rigid import transform
from dust3r_ros.geometry.undistortion import scaled_calibration
from dust3r_ros.sensors.transform_buffer import Unavailable
from dust3r_ros.types import Array, Array32, Calibration, Frame, Image

MOST_POINTS = 2000  # of the depth of another camera that travel with a frame


@dataclass(frozen=True, eq=False)
class Completed:
    """A frame with its companions; ``missing``: what it should have had, a sentence each."""

    frame: Frame
    missing: tuple[str, ...] = ()


@dataclass(frozen=True, eq=False)
class DepthImage:
    """A depth image; ``load`` gives (h, w) float32, metres, or raises ``InputError``."""

    load: Callable[[], Array32]
    frame_id: str
    calibration: Calibration | None


@dataclass(frozen=True, eq=False)
class Match:
    """What belongs to one image, each value, why there is none, or None where none is wanted.

    Masks and depth are still as they came: ``onto`` decodes them.
    """

    o_T_c: Array | Unavailable | None = None
    up: Array | Unavailable | None = None
    mask: Callable[[], Image] | Unavailable | None = None
    depth: DepthImage | Unavailable | None = None
    c_T_d: Array | Unavailable | None = None

    def onto(self, frame: Frame) -> Completed:
        """``frame`` (stamp, camera, image) with all of it."""
        found: dict[str, Any] = {"o_T_c": self.o_T_c, "up": self.up, "mask": self._mask(frame), **self._depth(frame)}
        missing = tuple(value.reason for value in found.values() if isinstance(value, Unavailable))
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
            sizes = f"{size[0]}x{size[1]}, its image {wanted[0]}x{wanted[1]}"
            return Unavailable(f"mask of camera '{frame.camera}' is {sizes}")
        return mask

    def _depth(self, frame: Frame) -> dict[str, Array32 | Unavailable | None]:
        """``depth`` or ``points``."""
        if self.depth is None or isinstance(self.depth, Unavailable):
            return {"depth": self.depth}
        if isinstance(self.c_T_d, Unavailable):
            return {"depth": self.c_T_d}
        try:
            pixels = self.depth.load()
            if self.c_T_d is None:
                return {"depth": _registered(pixels, frame)}
            if self.depth.calibration is None:
                return {"depth": Unavailable(f"depth in the frame '{self.depth.frame_id}' has no CameraInfo yet")}
            return {"points": depth_points(pixels, self.depth.calibration, self.c_T_d)}
        except (InputError, ConfigError) as error:
            return {"depth": Unavailable(f"depth of camera '{frame.camera}': {error}")}


def depth_points(depth: Array32, calibration: Calibration, c_T_d: Array, most: int = MOST_POINTS) -> Array32:
    """Points (N, 3) float32, metres, in the frame c, of a depth image (h, w), at most ``most`` of a regular grid.

    ``calibration`` is of the depth camera d. Raises ``ConfigError`` for one that cannot be of such images.
    """
    height, width = depth.shape
    step = max(1, math.ceil(math.sqrt(height * width / most)))
    rows, columns = np.arange(step // 2, height, step), np.arange(step // 2, width, step)
    v, u = np.meshgrid(rows, columns, indexing="ij")
    z = depth[v, u].astype(np.float64)
    known = np.isfinite(z) & (z > 0)
    slopes = ray_slopes(scaled_calibration(calibration, width, height), np.stack([u[known], v[known]], axis=-1))
    rays = np.column_stack([slopes, np.ones(len(slopes))])
    return transform(c_T_d, z[known, None] * rays).astype(np.float32)


def _registered(depth: Array32, frame: Frame) -> Array32 | Unavailable:
    """A depth image that covers what the image does."""
    (h, w), (height, width) = depth.shape, frame.image.shape[:2]
    if abs(h * width / w - height) > 1 + width / w:
        return Unavailable(f"depth of camera '{frame.camera}' is {w}x{h}, its image {width}x{height}: not of one shape")
    return depth
