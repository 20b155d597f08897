"""The distortion models of calibrations, as ROS and OpenCV have them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from dust3r_ros.errors import ConfigError
from dust3r_ros.types import Array, Array32, Calibration

# Numbers of coefficients, as OpenCV takes them: k1 k2 p1 p2 [k3 [k4 k5 k6 [s1..s4 [tx ty]]]]; k1..k4 of a fisheye.
_COUNTS = {
    "plumb_bob": (0, 4, 5, 8, 12, 14),
    "rational_polynomial": (0, 8, 12, 14),
    "equidistant": (0, 4),
    "fisheye": (0, 4),  # what some drivers call equidistant
}
_FISHEYES = ("equidistant", "fisheye")
_MOST_LOST = 0.2  # of the raw pixels may fall outside of the ideal image
_LEAST_FOCAL = 0.5  # as a part of the raw one: wider still, the middle would lose too much
_SAMPLES = 64  # per axis, of raw pixels, to choose the focal by
_RADII = 2000


@dataclass(frozen=True, eq=False)
class LensModel:
    """The distortion of a calibration; ``radii`` of a pinhole, in focal lengths, are seen at ``seen``.

    Both rise: polynomials that turn back, beyond where they were measured, are cut there.
    """

    calibration: Calibration
    fisheye: bool
    radii: Array
    seen: Array

    @classmethod
    def of(cls, calibration: Calibration) -> LensModel:
        """Raises ``ConfigError`` for a model that is not known, or a wrong number of coefficients."""
        model, d = calibration.model, calibration.coefficients
        fisheye = model in _FISHEYES
        if not fisheye and not any(d):
            model, d = "plumb_bob", ()  # drivers of ideal cameras name what they like
        if model not in _COUNTS:
            raise ConfigError(f"distortion model '{model}' is not known; known are {', '.join(_COUNTS)}")
        if len(d) not in _COUNTS[model]:
            counts = ", ".join(str(count) for count in _COUNTS[model])
            raise ConfigError(f"distortion model '{model}' has {len(d)} coefficients; it must have one of {counts}")
        angles = np.linspace(0.0, np.pi / 2, _RADII, endpoint=False)
        radii = np.tan(angles)
        seen = _fisheye_radius(angles, d) if fisheye else _radius(radii, d)
        rises = np.diff(seen) > 0
        end = len(seen) if rises.all() else int(np.argmin(rises)) + 1
        return cls(calibration, fisheye, radii[:end], seen[:end])

    @property
    def plain(self) -> bool:
        """Whether it is a pinhole's."""
        return not self.fisheye and not any(self.calibration.coefficients)

    def wide_enough(self, focal: float) -> float:
        """``focal``, or a smaller one at which not too much of the raw image is lost."""
        c = self.calibration
        grid = (np.arange(_SAMPLES) + 0.5) / _SAMPLES
        v, u = np.meshgrid(grid * c.height - 0.5, grid * c.width - 0.5, indexing="ij")
        x, y = (u - c.cx) / c.fx, (v - c.cy) / c.fy
        at = np.hypot(x, y)
        told = at <= self.seen[-1]  # what the polynomials say nothing of is lost at any focal
        x, y, at = x[told], y[told], at[told]
        stretch = np.interp(at, self.seen, self.radii) / np.maximum(at, 1e-12)
        # The focal at which a raw pixel, however it is scaled, comes to lie on the edge of the ideal image.
        edge = 0.5 / np.maximum(np.maximum(np.abs(x) * stretch / c.width, np.abs(y) * stretch / c.height), 1e-12)
        return float(np.clip(np.quantile(edge, _MOST_LOST), _LEAST_FOCAL * focal, focal)) if len(edge) else focal

    def maps(self, focal: float) -> tuple[tuple[Array32, Array32], NDArray[np.bool_]]:
        """Where the pixels of the ideal image lie in the raw one, for ``cv2.remap``; which of them are seen."""
        c = self.calibration
        size, middle = (c.width, c.height), ((c.width - 1) / 2.0, (c.height - 1) / 2.0)
        raw = np.array([[c.fx, 0.0, c.cx], [0.0, c.fy, c.cy], [0.0, 0.0, 1.0]])
        new = np.array([[focal, 0.0, middle[0]], [0.0, focal, middle[1]], [0.0, 0.0, 1.0]])
        make = cv2.fisheye.initUndistortRectifyMap if self.fisheye else cv2.initUndistortRectifyMap
        u, v = make(raw, np.array(c.coefficients or (0.0,) * 4), np.eye(3), new, size, cv2.CV_32FC1)
        x, y = (np.arange(n) - m for n, m in zip(size, middle, strict=True))
        told = np.hypot(x[None, :], y[:, None]) <= focal * self.radii[-1]
        valid = told & (u >= -0.5) & (u <= c.width - 0.5) & (v >= -0.5) & (v <= c.height - 0.5)
        u, v = np.clip(u, -1e4, 1e5), np.clip(v, -1e4, 1e5)
        u[~told] = v[~told] = -1e4  # what a polynomial says beyond its turning point is a mirror image
        return (u, v), valid


def ray_slopes(calibration: Calibration, pixels: NDArray[Any]) -> Array:
    """(x / z, y / z), (N, 2), of what raw pixels (N, 2) show. Raises ``ConfigError`` for an unknown model."""
    lens, c = LensModel.of(calibration), calibration
    slopes = (np.asarray(pixels, np.float64) - (c.cx, c.cy)) / (c.fx, c.fy)
    if lens.plain or not len(slopes):
        return slopes
    d = np.array(c.coefficients or (0.0,) * 4)
    until = (cv2.TERM_CRITERIA_COUNT | cv2.TERM_CRITERIA_EPS, 40, 1e-9)
    if lens.fisheye:
        return np.asarray(cv2.fisheye.undistortPoints(slopes[:, None], np.eye(3), d)).reshape(-1, 2)
    found = cv2.undistortPoints(slopes[:, None], np.eye(3), d, R=np.eye(3), P=np.eye(3), criteria=until)
    return np.asarray(found).reshape(-1, 2)


def _radius(r: Array, d: tuple[float, ...]) -> Array:
    """Brown's radial part, with OpenCV's rational one (calib3d, "Camera Calibration and 3D Reconstruction")."""
    k1, k2, _, _, k3, k4, k5, k6 = (tuple(d) + (0.0,) * 8)[:8]
    s = r * r
    with np.errstate(all="ignore"):
        below = 1.0 + s * (k4 + s * (k5 + s * k6))
        seen = r * (1.0 + s * (k1 + s * (k2 + s * k3))) / below
    first = int(np.argmax(below <= 0)) if (below <= 0).any() else len(r)
    seen[first:] = -1.0  # falls
    return seen


def _fisheye_radius(angles: Array, d: tuple[float, ...]) -> Array:
    """Kannala and Brandt, PAMI 2006, as OpenCV's fisheye model has it."""
    k1, k2, k3, k4 = (tuple(d) + (0.0,) * 4)[:4]
    s = angles * angles
    return angles * (1.0 + s * (k1 + s * (k2 + s * (k3 + s * k4))))
