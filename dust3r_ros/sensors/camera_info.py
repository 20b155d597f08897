"""Published calibrations of the cameras: reading CameraInfo, using it, and what to publish instead."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields, replace
from typing import Any

import numpy as np

from dust3r_ros.errors import InputError
from dust3r_ros.geometry.undistortion import Undistortion, scaled_calibration
from dust3r_ros.types import Array32, Calibration, Camera, Image


def calibration_from(
    width: int,
    height: int,
    model: str,
    d: Sequence[float],
    k: Sequence[float],
    binning: tuple[int, int] = (1, 1),
    roi: tuple[int, int, int, int] = (0, 0, 0, 0),
) -> tuple[Calibration | None, str]:
    """The calibration of the images as published, and a remark for the user or "".

    None means an uncalibrated camera: K[0] = 0, or invalid numbers, which the remark explains. ``roi``
    (x, y, width, height; zeros mean the whole image) is in pixels of the whole image and applied before ``binning``
    (0 and 1 mean none), as defined by sensor_msgs/CameraInfo.
    """
    k = [float(value) for value in k]
    if len(k) != 9:
        return None, f"K has {len(k)} numbers; it must have 9"
    if k[0] == 0.0:
        return None, ""
    fx, fy, cx, cy = k[0], k[4] or k[0], k[2], k[5]
    coefficients = tuple(float(value) for value in d)
    if not np.isfinite((fx, fy, cx, cy, *coefficients)).all() or min(fx, fy) <= 0:
        said = f"fx = {fx:g}, fy = {fy:g}, cx = {cx:g}, cy = {cy:g}, D = {list(coefficients)}"
        return None, f"{said}; all must be finite, fx and fy positive"
    across, down = max(1, binning[0]), max(1, binning[1])
    x, y, width, height = _region(width, height, roi)
    width, height = width // across, height // down
    if width <= 0 or height <= 0:
        return None, f"the size is {width}x{height}; it must be that of the images"
    cx, cy = (cx - x + 0.5) / across - 0.5, (cy - y + 0.5) / down - 0.5
    return Calibration(width, height, fx / across, fy / down, cx, cy, model, coefficients), ""


def of_images(
    topic: str, k: Sequence[float], d: Sequence[float], p: Sequence[float]
) -> tuple[Sequence[float], Sequence[float]]:
    """K and D of the images of a topic; of rectified ones (image_rect, image_rect_color), those in P.

    One CameraInfo goes with both: K and D are of the raw image, P of the rectified one (sensor_msgs/CameraInfo).
    """
    parts = topic.split("/")
    rectified = any(part.startswith("image_rect") for part in parts) or parts[-2:] == ["rect", "image"]
    if not rectified or len(p) != 12 or not p[0] > 0:
        return k, d
    return (p[0], 0.0, p[2], 0.0, p[5], p[6], 0.0, 0.0, 1.0), ()


def _region(width: int, height: int, roi: tuple[int, int, int, int]) -> tuple[int, int, int, int]:
    """x, y, width and height of the published part of the whole image, before binning."""
    x, y, roi_width, roi_height = roi
    return x, y, roi_width or width, roi_height or height


_SAME = 1e-3  # relative


def _alike(a: Calibration, b: Calibration) -> bool:
    """Whether calibrations differ by less than matters."""
    same = (a.width, a.height, a.model, len(a.coefficients)) == (b.width, b.height, b.model, len(b.coefficients))
    near = np.allclose([a.fx, a.fy, a.cx, a.cy], [b.fx, b.fy, b.cx, b.cy], rtol=_SAME, atol=_SAME * a.width)
    return same and near and np.allclose(a.coefficients, b.coefficients, rtol=_SAME, atol=_SAME)


class Calibrations:
    """Calibrations published by drivers, by camera name.

    ``use``: ``fixed`` holds the focal, ``prior`` refines it within ``std`` (relative), ``ignore`` only compares.
    With the first two, images are rectified on arrival to a pinhole: principal point in the middle, no distortion,
    square pixels.
    """

    def __init__(self, use: str, std: float) -> None:
        self._use, self._std = use, std
        self.known: dict[str, Calibration] = {}
        self._applied: dict[str, Undistortion] = {}

    def know(self, camera: str, calibration: Calibration) -> bool:
        """Take in a calibration; returns whether it is new. Raises ``ConfigError`` for an invalid one.

        Cameras that focus publish slightly different ones all the time.
        """
        before = self.known.get(camera)
        if before is not None and _alike(before, calibration):
            return False
        Undistortion.of(calibration, calibration.width, calibration.height)  # raises for an invalid one
        self.known[camera] = calibration
        return True

    def in_use(self, camera: str) -> bool:
        """Whether the camera's images have been rectified by a calibration since its first one."""
        return camera in self._applied

    def matters(self, camera: str) -> bool:
        """Whether a calibration of the camera is known and used."""
        return camera in self.known and self._use != "ignore"

    def admit(self, camera: str, width: int, height: int) -> tuple[float, float] | None:
        """Focal (pixels at ``width`` x ``height``) and its relative std (0: held) of a camera at its first image.

        None if no calibration is known or used. Raises ``InputError`` for images of another shape.
        """
        if not self.matters(camera):
            return None
        known = self.known[camera]
        if known.width * height != known.height * width:
            raise InputError(
                f"calibration of camera '{camera}' is for {known.width}x{known.height}, but its images are"
                f" {width}x{height}; the shapes must agree"
            )
        undistortion = Undistortion.of(known, width, height)
        self._applied[camera] = undistortion
        return undistortion.focal, 0.0 if self._use == "fixed" else self._std

    def pinhole(self, camera: str, image: Image, mask: Image | None) -> tuple[Image, Image | None]:
        """Image (H, W, 3) and mask (H, W) rectified to a pinhole; unchanged if no calibration is used.

        Raises ``InputError`` for an image of another size than the camera's first one.
        """
        undistortion = self._applied.get(camera)
        if undistortion is None or undistortion.identity:
            return image, mask
        for kind, pixels in (("image", image), ("mask", mask)):
            if pixels is not None and pixels.shape[:2] != (undistortion.height, undistortion.width):
                raise InputError(
                    f"{kind} of camera '{camera}' is {pixels.shape[1]}x{pixels.shape[0]}, but its first image was "
                    f"{undistortion.width}x{undistortion.height}; the size must not change"
                )
        return undistortion.image(image), undistortion.mask(mask)

    def rectified(self, camera: str) -> Calibration | None:
        """The calibration used to rectify a camera's raw images; None if they are not rectified."""
        undistortion = self._applied.get(camera)
        return None if undistortion is None or undistortion.identity else undistortion.calibration

    def compared(self, camera: Camera) -> Camera:
        """An estimate with the unused calibration added for comparison, if there is one."""
        known = self.known.get(camera.name)
        if known is None or self._use != "ignore" or known.width * camera.height != known.height * camera.width:
            return camera
        given = float(np.sqrt(known.fx * known.fy)) * camera.width / known.width
        return replace(
            camera, given=given, given_std=given * self._std, measured=camera.focal, measured_std=camera.focal_std
        )

    def raw(self, camera: Camera) -> Calibration:
        """The calibration of a camera's raw images: the estimate, or the given one with its focal refined."""
        applied = self._applied.get(camera.name)
        if applied is None:
            return camera.calibration
        known = scaled_calibration(applied.calibration, camera.width, camera.height)
        ratio = 1.0 if camera.fixed else camera.focal / applied.focal
        return replace(known, fx=known.fx * ratio, fy=known.fy * ratio)

    def raw_of(self, cameras: Mapping[str, Camera]) -> dict[str, Calibration]:
        """``raw`` of each camera, by name."""
        return {name: self.raw(camera) for name, camera in cameras.items()}

    def depth(self, camera: str, depth: Array32) -> Array32:
        """Depth (h, w) registered to the raw image, rectified to the pinhole's."""
        undistortion = self._applied.get(camera)
        return depth if undistortion is None else undistortion.depth(depth)

    def state(self) -> dict[str, Any]:
        """The known calibrations and those used for rectification, as JSON values."""
        applied = {name: {**vars(u.calibration), "of": [u.width, u.height]} for name, u in self._applied.items()}
        return {"known": {name: vars(known) for name, known in self.known.items()}, "applied": applied}

    def resume(self, state: Mapping[str, Any]) -> None:
        """Rectify in the same way as for the saved map. Raises ``ConfigError``."""
        for name, values in state.get("known", {}).items():
            self.known.setdefault(name, _calibration(values))
        for name, values in state.get("applied", {}).items():
            width, height = values["of"]
            self._applied[name] = Undistortion.of(_calibration(values), int(width), int(height))


def _calibration(values: Mapping[str, Any]) -> Calibration:
    known = {field.name: values[field.name] for field in fields(Calibration)}
    return Calibration(**{**known, "coefficients": tuple(known["coefficients"])})
