"""Calibrations that came with the cameras: how they are used, and what is published in their place."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields, replace
from typing import Any

import numpy as np

from dust3r_ros.errors import InputError
from dust3r_ros.geometry.undistortion import Undistortion, scaled_calibration
from dust3r_ros.types import Array32, Calibration, Camera, Image


class Calibrations:
    """What drivers say of their cameras, by camera name.

    ``use``: ``fixed`` holds the focal, ``prior`` refines it within ``std`` (relative), ``ignore`` only compares.
    With the first two, images are made those of a pinhole at the door: principal point in the middle, no
    distortion, square pixels.
    """

    def __init__(self, use: str, std: float) -> None:
        self._use, self._std = use, std
        self.known: dict[str, Calibration] = {}
        self._applied: dict[str, Undistortion] = {}

    def know(self, camera: str, calibration: Calibration) -> bool:
        """Take a calibration in; whether that is news. Raises ``ConfigError`` for one that cannot be."""
        if self.known.get(camera) == calibration:
            return False
        Undistortion.of(calibration, calibration.width, calibration.height)  # refuses nonsense
        self.known[camera] = calibration
        return True

    def matters(self, camera: str) -> bool:
        """Whether a calibration of the camera is known and used."""
        return camera in self.known and self._use != "ignore"

    def admit(self, camera: str, width: int, height: int) -> tuple[float, float] | None:
        """Focal, pixels at ``width`` x ``height``, and its relative std (0: held) of a camera that sends images now.

        None where nothing is known or used. Raises ``InputError`` for images of another shape.
        """
        if not self.matters(camera):
            return None
        known = self.known[camera]
        if known.width * height != known.height * width:
            raise InputError(
                f"calibration of camera '{camera}' is for {known.width}x{known.height}, its images are"
                f" {width}x{height}; the shapes must agree"
            )
        undistortion = Undistortion.of(known, width, height)
        self._applied[camera] = undistortion
        return undistortion.focal, 0.0 if self._use == "fixed" else self._std

    def pinhole(self, camera: str, image: Image, mask: Image | None) -> tuple[Image, Image | None]:
        """Image (H, W, 3) and mask (H, W) as a pinhole sees them; as they are where no calibration is used.

        Raises ``InputError`` for an image of another size than the camera's first one.
        """
        undistortion = self._applied.get(camera)
        if undistortion is None or undistortion.identity:
            return image, mask
        for kind, pixels in (("image", image), ("mask", mask)):
            if pixels is not None and pixels.shape[:2] != (undistortion.height, undistortion.width):
                raise InputError(
                    f"{kind} of camera '{camera}' is {pixels.shape[1]}x{pixels.shape[0]}; its first image was "
                    f"{undistortion.width}x{undistortion.height}, and one camera keeps one size"
                )
        return undistortion.image(image), undistortion.mask(mask)

    def rectified(self, camera: str) -> Calibration | None:
        """The calibration by which raw images of a camera are made those of a pinhole; None: they are not."""
        undistortion = self._applied.get(camera)
        return None if undistortion is None or undistortion.identity else undistortion.calibration

    def compared(self, camera: Camera) -> Camera:
        """An estimate beside a calibration that is not used, or as it is."""
        known = self.known.get(camera.name)
        if known is None or self._use != "ignore" or known.width * camera.height != known.height * camera.width:
            return camera
        given = float(np.sqrt(known.fx * known.fy)) * camera.width / known.width
        return replace(camera, given=given, given_std=given * self._std, told=camera.focal, told_std=camera.focal_std)

    def raw(self, camera: Camera) -> Calibration:
        """What the raw images of a camera are taken by: the estimate, or the calibration with its focal refined."""
        applied = self._applied.get(camera.name)
        if applied is None:
            return camera.calibration
        known = scaled_calibration(applied.calibration, camera.width, camera.height)
        ratio = 1.0 if camera.fixed else camera.focal / applied.focal
        return replace(known, fx=known.fx * ratio, fy=known.fy * ratio)

    def depth(self, camera: str, depth: Array32) -> Array32:
        """Depth (h, w) registered to the raw image, as registered to the pinhole's."""
        undistortion = self._applied.get(camera)
        return depth if undistortion is None else undistortion.depth(depth)

    def state(self) -> dict[str, Any]:
        """What is known and what images were rectified by, as JSON has it."""
        applied = {name: {**vars(u.calibration), "of": [u.width, u.height]} for name, u in self._applied.items()}
        return {"known": {name: vars(known) for name, known in self.known.items()}, "applied": applied}

    def resume(self, state: Mapping[str, Any]) -> None:
        """Rectify as a map was made by that is gone on with. Raises ``ConfigError``."""
        for name, values in state.get("known", {}).items():
            self.known.setdefault(name, _calibration(values))
        for name, values in state.get("applied", {}).items():
            width, height = values["of"]
            self._applied[name] = Undistortion.of(_calibration(values), int(width), int(height))


def _calibration(values: Mapping[str, Any]) -> Calibration:
    known = {field.name: values[field.name] for field in fields(Calibration)}
    return Calibration(**{**known, "coefficients": tuple(known["coefficients"])})
