"""Lens distortion: the models of calibrations, and the radial terms that a map estimates."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from scipy.optimize import brentq

from dust3r_ros.errors import ConfigError
from dust3r_ros.types import Array, Array32, Calibration

# Numbers of coefficients, as OpenCV takes them: k1 k2 p1 p2 [k3 [k4 k5 k6 [s1..s4 [tx ty]]]]; k1..k4 of a fisheye.
_COUNTS = {
    "plumb_bob": (0, 4, 5, 8, 12, 14),
    "rational_polynomial": (0, 8, 12, 14),
    "equidistant": (0, 4),
    "fisheye": (0, 4),  # some drivers' name for equidistant
}
_FISHEYES = ("equidistant", "fisheye")
_MOST_LOST = 0.2  # of the raw pixels may fall outside the ideal image
_LEAST_FOCAL = 0.5  # of the raw focal: any smaller, the centre would lose too much resolution
_SAMPLES = 64  # raw pixels per axis used to choose the focal
_RADII = 2000
_MOST_OFF_PX = 0.5  # by which a ray may miss its pixel
_BEYOND = 1.05  # of the radius at which the radial model turns back: tangential terms shift it


@dataclass(frozen=True, eq=False)
class LensModel:
    """The distortion of a calibration: a pinhole's ``radii``, in focal lengths, appear at ``seen``.

    Both increase: a polynomial that turns back, beyond where it was measured, is cut off there.
    """

    calibration: Calibration
    fisheye: bool
    radii: Array
    seen: Array

    @classmethod
    def of(cls, calibration: Calibration) -> LensModel:
        """Raises ``ConfigError`` for an unknown model or a wrong number of coefficients."""
        model, d = calibration.model, calibration.coefficients
        fisheye = model in _FISHEYES
        if not fisheye and not any(d):
            model, d = "plumb_bob", ()  # drivers of ideal cameras may give any name
        if model not in _COUNTS:
            raise ConfigError(f"distortion model '{model}' is not known; known are {', '.join(_COUNTS)}")
        if len(d) not in _COUNTS[model]:
            counts = ", ".join(str(count) for count in _COUNTS[model])
            raise ConfigError(f"distortion model '{model}' has {len(d)} coefficients; it must have one of {counts}")
        angles = np.linspace(0.0, np.pi / 2, _RADII, endpoint=False)
        radii = np.tan(angles)
        seen = _fisheye_radius(angles, d) if fisheye else _radius(radii, d)
        with np.errstate(invalid="ignore"):
            rises = np.diff(seen) > 0  # so much distortion that it is infinite does not rise
        end = len(seen) if rises.all() else int(np.argmin(rises)) + 1
        return cls(calibration, fisheye, radii[:end], seen[:end])

    @property
    def plain(self) -> bool:
        """Whether there is no distortion."""
        return not self.fisheye and not any(self.calibration.coefficients)

    def wide_enough(self, focal: float) -> float:
        """``focal``, or a smaller one that keeps enough of the raw image."""
        c = self.calibration
        grid = (np.arange(_SAMPLES) + 0.5) / _SAMPLES
        v, u = np.meshgrid(grid * c.height - 0.5, grid * c.width - 0.5, indexing="ij")
        x, y = (u - c.cx) / c.fx, (v - c.cy) / c.fy
        at = np.hypot(x, y)
        known = at <= self.seen[-1]  # pixels that the polynomials do not cover are lost at any focal
        x, y, at = x[known], y[known], at[known]
        stretch = np.interp(at, self.seen, self.radii) / np.maximum(at, 1e-12)
        # The focal at which a raw pixel falls on the edge of the ideal image, at any scale.
        edge = 0.5 / np.maximum(np.maximum(np.abs(x) * stretch / c.width, np.abs(y) * stretch / c.height), 1e-12)
        return float(np.clip(np.quantile(edge, _MOST_LOST), _LEAST_FOCAL * focal, focal)) if len(edge) else focal

    def maps(self, focal: float) -> tuple[tuple[Array32, Array32], NDArray[np.bool_]]:
        """The positions of the ideal image's pixels in the raw one, for ``cv2.remap``, and which of them are seen."""
        c = self.calibration
        size, middle = (c.width, c.height), ((c.width - 1) / 2.0, (c.height - 1) / 2.0)
        raw = np.array([[c.fx, 0.0, c.cx], [0.0, c.fy, c.cy], [0.0, 0.0, 1.0]])
        new = np.array([[focal, 0.0, middle[0]], [0.0, focal, middle[1]], [0.0, 0.0, 1.0]])
        make = cv2.fisheye.initUndistortRectifyMap if self.fisheye else cv2.initUndistortRectifyMap
        u, v = make(raw, np.array(c.coefficients or (0.0,) * 4), np.eye(3), new, size, cv2.CV_32FC1)
        x, y = (np.arange(n) - m for n, m in zip(size, middle, strict=True))
        known = np.hypot(x[None, :], y[:, None]) <= focal * self.radii[-1]
        valid = known & (u >= -0.5) & (u <= c.width - 0.5) & (v >= -0.5) & (v <= c.height - 0.5)
        u, v = np.clip(u, -1e4, 1e5), np.clip(v, -1e4, 1e5)
        u[~known] = v[~known] = -1e4  # beyond its turning point a polynomial gives a mirror image
        return (u, v), valid


def ray_slopes(calibration: Calibration, pixels: NDArray[Any]) -> Array:
    """(x / z, y / z), (N, 2), of the rays of raw pixels (N, 2), NaN where no ray of the lens falls.

    Raises ``ConfigError`` for an unknown model.
    """
    lens, c = LensModel.of(calibration), calibration
    slopes = (np.asarray(pixels, np.float64) - (c.cx, c.cy)) / (c.fx, c.fy)
    if lens.plain or not len(slopes):
        return slopes
    d = np.array(c.coefficients or (0.0,) * 4)
    until = (cv2.TERM_CRITERIA_COUNT | cv2.TERM_CRITERIA_EPS, 40, 1e-9)
    if lens.fisheye:
        found = cv2.fisheye.undistortPoints(slopes[:, None], np.eye(3), d)
        again = cv2.fisheye.distortPoints(found, np.eye(3), d)
    else:
        found = cv2.undistortPoints(slopes[:, None], np.eye(3), d, R=np.eye(3), P=np.eye(3), criteria=until)
        again = cv2.projectPoints(cv2.convertPointsToHomogeneous(found), np.zeros(3), np.zeros(3), np.eye(3), d)[0]
    found, again = (np.asarray(points, np.float64).reshape(-1, 2) for points in (found, again))
    with np.errstate(all="ignore"):  # OpenCV iterates a few times, and returns what it then has
        off = np.linalg.norm((again - slopes) * (c.fx, c.fy), axis=1)
        right = (off < _MOST_OFF_PX) & (np.linalg.norm(found, axis=1) <= _BEYOND * lens.radii[-1])
    return np.where(right[:, None], found, np.nan)


def raw_pixels(calibration: Calibration, slopes: Array) -> Array:
    """(N, 2) raw pixels at which rays of (x / z, y / z), (N, 2), are seen, NaN beyond what the lens shows: the inverse
    of ``ray_slopes``. Raises ``ConfigError`` for an unknown model.
    """
    lens, c = LensModel.of(calibration), calibration
    seen = slopes
    if not lens.plain and len(slopes):
        d = np.array(c.coefficients or (0.0,) * 4)
        if lens.fisheye:
            seen = cv2.fisheye.distortPoints(slopes[:, None], np.eye(3), d)
        else:
            rays = cv2.convertPointsToHomogeneous(slopes)
            seen = cv2.projectPoints(rays, np.zeros(3), np.zeros(3), np.eye(3), d)[0]
        beyond = np.linalg.norm(slopes, axis=1) > lens.radii[-1]
        seen = np.where(beyond[:, None], np.nan, np.asarray(seen, np.float64).reshape(-1, 2))
    return seen * (c.fx, c.fy) + (c.cx, c.cy)


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


_STEPS = 40  # of the inversion, at most; a few are enough within an image
_EXACT = 1e-13
_STEEPEST = 10.0  # enlargement along the radius beyond which a lens is continued by a straight line
_LEAST_DIVISOR = 0.02  # the same across it: such a barrel has shown half of all directions
_FARTHEST = 1e3  # radii: no image is that large
_SQUARES = np.geomspace(1e-4, _FARTHEST**2, 2000)
_FITTED_RADII = 200  # radii at which the forward model is fitted


@lru_cache(maxsize=1024)
def turning_radius(radial: float, second: float, third: float) -> float:
    """Up to where a lens is not continued by a straight line, in its radii; 1000 for a plain one."""

    def room(square: Any) -> Any:
        """Negative where the lens is too steep, along the radius or across it."""
        divisor = _divisor((radial, second, third), square)
        rise = _rise((radial, second, third), square)
        return np.minimum(divisor - _LEAST_DIVISOR, rise - divisor**2 / _STEEPEST)

    # Coefficients differ by many powers of ten, which is too much for a polynomial's roots.
    if not (beyond := room(_SQUARES) < 0).any():
        return _FARTHEST
    first = int(np.argmax(beyond))
    return math.sqrt(brentq(room, _SQUARES[first - 1] if first else 0.0, _SQUARES[first]))


def _divisor(radial: Sequence[float | Array], square: Array) -> Array:
    first, second, third = radial
    return np.asarray(1.0 - (first + (second + third * square) * square) * square)


def _rise(radial: Sequence[float | Array], square: Array) -> Array:
    """The derivative of radius / divisor by the radius, times the divisor's square; negative where a lens folds."""
    first, second, third = radial
    return np.asarray(1.0 + (first + (3.0 * second + 5.0 * third * square) * square) * square)


def shown_radius(wanted: Array, radial: Sequence[Array], turning: Array) -> tuple[Array, Array]:
    """The radii at which lenses show what pinholes show at ``wanted``, and the derivative; all arrays alike.

    Solves r / (1 - a r^2 - b r^4 - c r^6) = ``wanted`` with the ``radial`` terms a, b and c, in radii of the lens, by
    Newton's method, between bounds that close in. Beyond ``turning``, the turning radius, it is continued by a straight
    line.
    """
    first, second, third = radial
    within = np.minimum(wanted, turning / _divisor(radial, turning**2))
    found = 2.0 * within / (1.0 + np.sqrt(np.maximum(1.0 + 4.0 * first * within**2, 0.0)))  # exact with one term
    found, low, high = np.minimum(found, turning), np.zeros_like(within), turning
    for _ in range(_STEPS if np.any(second) or np.any(third) else 0):
        square = found**2
        off = found - within * _divisor(radial, square)
        low, high = np.where(off < 0, found, low), np.where(off > 0, found, high)
        bend = 2.0 * first + (4.0 * second + 6.0 * third * square) * square
        with np.errstate(divide="ignore", invalid="ignore"):
            better = found - off / (1.0 + within * found * bend)
        better = np.where((better >= low) & (better <= high), better, 0.5 * (low + high))
        moved, found = np.abs(better - found), better
        if not (moved > _EXACT).any():
            break
    square = found**2
    slope = _divisor(radial, square) ** 2 / _rise(radial, square)
    return found + slope * (wanted - within), slope


@dataclass(frozen=True)
class Lens:
    """Maps offsets in an image, pixels from its centre, to those of a pinhole (from the distortion centre).

    ideal = (u - c) / (1 - radial q - second q^2 - third q^3), q = |u - c|^2 / radius^2: the division model (Fitzgibbon,
    "Simultaneous linear estimation of multiple view geometry and lens distortion", CVPR 2001), whose first term alone
    is close to narrow and wide lenses alike. ``center`` c (pixels), ``radius`` (pixels): where the radial terms apply
    in full, half of the long edge.
    """

    radius: float
    radial: float = 0.0
    center: tuple[float, float] = (0.0, 0.0)
    second: float = 0.0
    third: float = 0.0

    @property
    def plain(self) -> bool:
        """Whether it is the identity."""
        return not self.bends and self.center == (0.0, 0.0)

    @property
    def radials(self) -> tuple[float, float, float]:
        """The radial terms."""
        return self.radial, self.second, self.third

    @property
    def terms(self) -> tuple[float, float, float, float, float]:
        """The radial terms, and the center (x, y) in radii."""
        return *self.radials, self.center[0] / self.radius, self.center[1] / self.radius

    @property
    def bends(self) -> bool:
        """Whether it has a radial term."""
        return any(self.radials)

    def ideal(self, offsets: Array) -> Array:
        """(N, 2) pinhole positions of what the lens shows at ``offsets`` (N, 2)."""
        if self.plain:
            return offsets
        shifted = offsets - np.asarray(self.center)
        return shifted / self.divisor(np.sum(shifted**2, axis=-1, keepdims=True) / self.radius**2)

    def divisor(self, square: Array) -> Array:
        """The model's divisor at squares of radii, in radii of the lens."""
        return np.maximum(_divisor(self.radials, square), _LEAST_DIVISOR)

    def seen(self, ideal: Array) -> Array:
        """(N, 2) positions at which the lens shows what a pinhole shows at ``ideal`` (N, 2): the inverse of ``ideal``.

        Near the radius at which the model turns back, and beyond, it is continued as in ``shown_radius``.
        """
        if self.plain:
            return ideal
        wanted = np.linalg.norm(ideal, axis=-1, keepdims=True) / self.radius
        *radial, turning = (np.full(wanted.shape, term) for term in (*self.radials, turning_radius(*self.radials)))
        found, _ = shown_radius(wanted, radial, turning)
        scale = np.where(wanted > 0, found / np.maximum(wanted, 1e-12), 1.0)
        return ideal * scale + np.asarray(self.center)

    def distance(self, other: Lens) -> float:
        """The largest shift (pixels) between the two lenses at the image's corners and border."""
        edge = self.radius * np.array([[1.0, 0.0], [-1.0, 0.0], [0.0, 1.0], [0.0, -1.0], [0.7, 0.7], [-0.7, -0.7]])
        return float(np.linalg.norm(self.ideal(edge) - other.ideal(edge), axis=1).max())

    def scaled(self, factor: float) -> Lens:
        """The same lens for an image ``factor`` times as large."""
        center = factor * self.center[0], factor * self.center[1]
        return replace(self, radius=factor * self.radius, center=center)


_MODELS = {"plumb_bob": (3, 5, 7), "equidistant": (3, 5, 7, 9)}  # powers of the tangent, and of the angle
_WELL_FITTED_PX = 0.25


@lru_cache(maxsize=64)  # called for every image
def forward_model(lens: Lens, focal: float, width: int, height: int) -> tuple[str, tuple[float, ...]]:
    """The distortion model of ROS and its coefficients that are closest to ``lens`` over an image of that size.

    plumb_bob (k1, k2, 0, 0, k3) if that is within a quarter of a pixel, as it is up to about 80 degrees across; else
    equidistant (k1 to k4; Kannala and Brandt, PAMI 2006) if that is closer. No coefficients for a lens that does not
    bend. ``lens``, ``focal``, ``width`` and ``height`` (pixels) have one resolution.
    """
    if not lens.bends:
        return "plumb_bob", ()
    reach = math.hypot(width / 2 + abs(lens.center[0]), height / 2 + abs(lens.center[1])) / lens.radius
    reach = min(reach, turning_radius(*lens.radials))
    # Denser outwards, like Chebyshev nodes: the largest error matters, and it is at the corners.
    seen = reach * np.sin(np.linspace(0.0, np.pi / 2, _FITTED_RADII + 1)[1:])
    slopes, shown = seen / lens.divisor(seen**2) * lens.radius / focal, seen * lens.radius / focal
    misses, found = {}, {}
    for model, powers in _MODELS.items():
        ideal = slopes if model == "plumb_bob" else np.arctan(slopes)
        terms = ideal[:, None] ** powers
        k = np.linalg.lstsq(terms, shown - ideal, rcond=None)[0]
        misses[model] = focal * float(np.abs(terms @ k + ideal - shown).max())
        found[model] = tuple(k.tolist())
    if misses["plumb_bob"] <= max(_WELL_FITTED_PX, misses["equidistant"]):
        k1, k2, k3 = found["plumb_bob"]
        return "plumb_bob", (k1, k2, 0.0, 0.0, k3)
    return "equidistant", found["equidistant"]
