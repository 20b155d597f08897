"""Two-view geometry, with a network's depth of single images where geometry knows less."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from math import exp, hypot, inf, log, sqrt

import numpy as np
from scipy.optimize import least_squares

from dust3r_ros.backends.base import ByteCache
from dust3r_ros.backends.both import GeometryWithNetwork, Pair
from dust3r_ros.backends.depth_graph import AffinePoints, DepthGraph, InverseDepth
from dust3r_ros.backends.flow import StereoDepth
from dust3r_ros.backends.prior import NetworkDepth
from dust3r_ros.geometry.depths import REFERENCE_PRECISION
from dust3r_ros.geometry.pinhole import center_of, pixel_grid
from dust3r_ros.types import Array, Array32, Image, View

_log = logging.getLogger(__name__)

_KNOWN = np.float32(np.e)  # confidence of a pixel with depth: such networks give none
_INDEPENDENT = 25.0  # measurements in one view, whatever the pixels: neighbours share errors
_SAMPLES = 1000  # of a view's points, from which focal and shift are found
_FEWEST_SAMPLES = 50
_MISSES = 0.01  # of the long edge: points that project further from their pixels count less
_FOCAL_STD = 0.1  # relative: a network's own error, common to all pixels of a view (assumed)
_MOST_FOCAL_STD = 0.3  # a view that says less of its focal says nothing
_SAME_FOCAL = 1e-3  # relative
_WIDEST, _STEPS = 50.0, 20  # of logarithms; of Gauss-Newton
_SURE = 0.1  # relative precision of geometry at which a pixel counts for the fit of inverse depth
_FIT_SAMPLES, _FEWEST_FIT = 4000, 200
_ROUNDS, _ABSOLUTE = 15, 6
_SIGNIFICANT = 3.0  # standard deviations of the slope
_FARTHEST = 20.0  # times the usual depth: inverse depth near 0 says little
_DOUBTED = 3  # views whose slope is negative, before that is reported


@dataclass(eq=False)
class PointView:
    """MoGe-2's depth of a view: ``z`` (H, W) without its shift, NaN = none; ``metres`` per unit, 0: unknown.

    ``focal`` is the network's own, in pixels, with the relative deviation ``focal_std``; 0: undetermined.
    """

    z: Array32
    metres: float
    focal: float
    focal_std: float
    _points: Array = field(repr=False)  # (N, 3), the sample
    _pixels: Array = field(repr=False)  # (N, 2), from the centre
    _shift: tuple[float, float] = (0.0, 0.0)  # the last focal, and the shift with it

    @classmethod
    def of(cls, found: AffinePoints) -> PointView:
        """With the focal that the points imply, the principal point being in the middle."""
        height, width = found.points.shape[:2]
        at = np.flatnonzero(np.isfinite(found.points[..., 2]).ravel())
        at = at[np.linspace(0, len(at) - 1, min(_SAMPLES, len(at))).astype(int)]
        points = found.points.reshape(-1, 3)[at].astype(np.float64)
        pixels = pixel_grid(height, width).reshape(-1, 2)[at] - center_of(height, width)
        metres = found.metres if np.isfinite(found.metres) and found.metres > 0 else 0.0
        focal, _, std = focal_and_shift(points, pixels, max(height, width))
        return cls(np.ascontiguousarray(found.points[..., 2]), metres, focal, hypot(std, _FOCAL_STD), points, pixels)

    @property
    def size(self) -> int:
        """Bytes."""
        return self.z.nbytes + self._points.nbytes + self._pixels.nbytes

    def depth(self, focal: float) -> Array32:
        """(H, W) z in the network's unit, 0 = none; ``focal`` of the view in pixels, 0: the network's own."""
        focal = focal or self.focal
        if not focal:
            return np.zeros(self.z.shape, np.float32)
        if len(self._points) and abs(self._shift[0] / focal - 1) > _SAME_FOCAL:
            self._shift = focal, shift_at(self._points, self._pixels, max(self.z.shape), focal)
        moved = self.z + np.float32(self._shift[1])
        return np.where(moved > 0, moved, np.float32(0))  # NaN is not above 0

    def prior(self, stereo: StereoDepth, focal: float) -> NetworkDepth:
        """For ``with_prior``."""
        return _network_depth(self.depth(focal))


@dataclass(eq=False)
class InverseView:
    """Depth Anything's inverse depth of a view, ``values`` (H, W), up to scale and shift; NaN = none.

    ``slope`` is the sign of the last fit to geometry, 0: none.
    """

    values: Array32
    slope: int = 0

    @property
    def size(self) -> int:
        """Bytes."""
        return self.values.nbytes

    def prior(self, stereo: StereoDepth, focal: float) -> NetworkDepth:
        """For ``with_prior``, in geometry's unit: scale and shift fitted where geometry is certain."""
        gain = stereo.confidence - 1
        sure = np.flatnonzero(((gain > (REFERENCE_PRECISION / _SURE) ** 2) & np.isfinite(self.values)).ravel())
        sure = sure[np.linspace(0, len(sure) - 1, min(_FIT_SAMPLES, len(sure))).astype(int)]
        known = (part.ravel()[sure].astype(np.float64) for part in (self.values, stereo.depth, np.minimum(gain, 1)))
        slope, shift, self.slope = fit_inverse(*known)
        if self.slope <= 0:
            return _network_depth(np.zeros(self.values.shape, np.float32))
        inverse = np.float32(slope) * self.values + np.float32(shift)
        least = float(np.median(inverse.ravel()[sure])) / _FARTHEST
        near = inverse > least
        return _network_depth(np.where(near, 1 / np.where(near, inverse, np.float32(1)), np.float32(0)))


def focal_and_shift(points: Array, pixels: Array, long_edge: int) -> tuple[float, float, float]:
    """The focal (pixels) and the shift along z at which points (N, 3) project to ``pixels`` (N, 2) from the centre.

    Then the focal's relative deviation; 0, 0, inf if there are too few points, or if they do not determine it.
    Minimises the reprojection error (Wang et al., "MoGe", CVPR 2025, section 3.1), here with a robust loss.
    """
    if len(points) < _FEWEST_SAMPLES:
        return 0.0, 0.0, inf
    nearest, unit = _nearest(points)

    def off(unknown: Array) -> Array:
        s, f = np.exp(np.clip(unknown, -_WIDEST, _WIDEST))
        return (f * points[:, :2] / (points[:, 2] - nearest + s * unit)[:, None] - pixels).ravel() / long_edge

    found = least_squares(off, [0.0, log(long_edge)], loss="soft_l1", f_scale=_MISSES, max_nfev=60)
    s, f = np.exp(np.clip(found.x, -_WIDEST, _WIDEST))
    scatter = (1.4826 * float(np.median(np.abs(found.fun)))) ** 2 * len(points) / _INDEPENDENT
    std = sqrt(max(float((np.linalg.pinv(found.jac.T @ found.jac) * scatter)[1, 1]), 0.0))
    sane = 0.1 * long_edge < f < 20 * long_edge and std < _MOST_FOCAL_STD
    return (float(f), float(s * unit - nearest), std) if sane else (0.0, 0.0, inf)


def shift_at(points: Array, pixels: Array, long_edge: int, focal: float) -> float:
    """The shift of ``focal_and_shift`` for a known focal, pixels."""
    nearest, unit = _nearest(points)
    ahead, s = points[:, 2] - nearest, unit
    for _ in range(_STEPS):  # Gauss-Newton in the logarithm: the nearest point stays in front of the camera
        z = ahead + s
        seen = focal * points[:, :2] / z[:, None]
        off = seen - pixels
        weight = 1 / np.sqrt(1 + (off / (_MISSES * long_edge)) ** 2)
        slope = -seen * (s / z)[:, None]
        step = -float(np.sum(weight * slope * off)) / max(float(np.sum(weight * slope * slope)), 1e-12)
        s *= exp(min(max(step, -1.0), 1.0))
        if abs(step) < 1e-5:
            break
    return float(s - nearest)


def _nearest(points: Array) -> tuple[float, float]:
    """The least z of points (N, 3), and the order of magnitude of their distances."""
    return float(points[:, 2].min()), max(float(np.abs(points[:, :2]).mean()), float(np.ptp(points[:, 2])), 1e-9)


def fit_inverse(values: Array, depth: Array, weight: Array) -> tuple[float, float, int]:
    """Scale a and shift b with 1 / depth = a * values + b, all (N,), and the sign of a; 0 if that is not certain.

    Least squares of errors relative to the fit, reweighted: first by absolute errors, then by Cauchy's loss.
    """
    if len(values) < _FEWEST_FIT:
        return 0.0, 0.0, 0
    middle, spread = float(np.median(values)), float(values.std())
    if not spread > 1e-6 * max(abs(middle), 1e-12):
        return 0.0, 0.0, 0
    basis, inverse = np.stack([(values - middle) / spread, np.ones(len(values))], axis=1), 1 / depth
    usual = float(np.median(inverse))
    unit, trust = np.full(len(values), usual), weight
    for number in range(_ROUNDS):
        root = np.sqrt(trust) / unit
        solved, *_ = np.linalg.lstsq(basis * root[:, None], inverse * root, rcond=None)
        fitted = basis @ solved
        unit = np.maximum(fitted, usual / _FARTHEST)
        off = (fitted - inverse) / unit
        scale = max(1.4826 * float(np.median(np.abs(off))), 1e-4)
        trust = weight / (np.abs(off) / scale + 0.1 if number < _ABSOLUTE else 1 + (off / (2 * scale)) ** 2)
    normal = np.linalg.pinv((basis.T * trust / unit**2) @ basis)
    variance = float(trust @ off**2) / min(_INDEPENDENT, len(values))
    sign = int(np.sign(solved[0])) if abs(solved[0]) > _SIGNIFICANT * sqrt(variance * float(normal[0, 0])) else 0
    slope = float(solved[0]) / spread
    return slope, float(solved[1]) - slope * middle, sign


def _network_depth(depth: Array32) -> NetworkDepth:
    return NetworkDepth(depth, np.where(depth > 0, _KNOWN, np.float32(1)))


class ViewDepths:
    """A network's depth of images, inferred once each and kept up to ``budget`` bytes, the oldest leave first.

    ``not_finite`` counts pixels that were not finite, ``empty`` images in which the network found nothing; both have
    no depth there.
    """

    def __init__(self, graph: DepthGraph, budget: int = 128 << 20) -> None:
        self._graph = graph
        self._kept = ByteCache[tuple[object, ...], PointView | InverseView](budget)
        self.not_finite = self.empty = 0

    def known(self, image: Image) -> PointView | InverseView | None:
        """The depth of an image (H, W, 3) that was inferred already; None for another."""
        return self._kept.get(_key(image))

    def of(self, image: Image) -> PointView | InverseView:
        """The depth of an image (H, W, 3) RGB uint8. Raises ``BackendError`` where the graph fails."""
        key = _key(image)
        found = self._kept.use(key)
        if found is None:
            found = self._inferred(image)
            self._kept.put(key, found)
        return found

    def _inferred(self, image: Image) -> PointView | InverseView:
        raw = self._graph.infer(image)
        if raw.bad and not self.not_finite:
            _log.warning("'%s': %d pixels are not finite; they count as unknown", self._graph.path, raw.bad)
        self.not_finite += raw.bad
        found = InverseView(raw.values) if isinstance(raw, InverseDepth) else PointView.of(raw)
        if not np.isfinite(found.z if isinstance(found, PointView) else found.values).any():
            if not self.empty:
                _log.warning("'%s': nothing was found in an image; it counts as unknown", self._graph.path)
            self.empty += 1
        return found


def _key(image: Image) -> tuple[object, ...]:
    return image.shape, hash(image.tobytes())


class MonoBackend(GeometryWithNetwork):
    """With a network's depth of single images, each seen once for all its pairs.

    Its depth is brought to geometry's unit view by view, MoGe-2's by one scale, Depth Anything's by a scale and a shift
    of inverse depth.
    """

    name = "mono"

    def __init__(self, graph: DepthGraph, min_parallax_deg: float = 1.0) -> None:
        super().__init__(min_parallax_deg)
        self.device = graph.device
        self._graph, self.network = graph, ViewDepths(graph)
        self._views: dict[int, View] = {}
        self._negative = 0  # views in which inverse depth fell with that of geometry

    def add(self, view: View) -> None:
        """As ``GeometryWithNetwork``."""
        super().add(view)
        self._views[view.index] = view

    def forget(self, index: int) -> None:
        """As ``GeometryWithNetwork``."""
        super().forget(index)
        self._views.pop(index, None)

    def clear(self) -> None:
        """As ``GeometryWithNetwork``; the network's depth of images stays while there is room."""
        super().clear()
        self._views.clear()
        self._negative = 0

    def guess_focal(self, image: Image) -> tuple[float, float] | None:
        """Focal (pixels) of an image (H, W, 3) by the network alone, and its relative deviation; None: unknown."""
        found = self.network.of(image)
        return (found.focal, found.focal_std) if isinstance(found, PointView) and found.focal else None

    def metric_depth(self, image: Image, focal: float) -> Array32 | None:
        """Depth (H, W) in metres by the network, 0 = none, of an image of a pair; None if it has not seen it.

        ``focal`` in pixels of that image. The error of the unit is common to all views of a place.
        """
        found = self.network.known(image)
        if not isinstance(found, PointView) or not found.metres:
            return None
        return found.depth(focal) * np.float32(found.metres)

    def _expect(self, orders: Sequence[Pair]) -> None:
        """Nothing to do: images are seen one at a time."""

    def _network_depth(self, order: Pair, stereo: StereoDepth, focals: Mapping[str, float]) -> NetworkDepth:
        view = self._views[order[0]]
        found = self.network.of(view.image)
        prior = found.prior(stereo, focals.get(view.camera, 0.0))
        if isinstance(found, InverseView) and found.slope < 0:
            self._negative += 1
            if self._negative == _DOUBTED:
                _log.warning(
                    "'%s' gave depth in place of inverse depth in %d views: a metric variant of Depth Anything? They "
                    "are not used; take the one for relative depth", self._graph.path, _DOUBTED,
                )  # fmt: skip
        return prior
