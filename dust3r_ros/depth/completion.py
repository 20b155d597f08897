"""Depth where pairs know little: cut at outlines, completed by planes in plain regions and near certain depth."""

from __future__ import annotations

import ctypes
from dataclasses import dataclass

import cv2
import numpy as np

from dust3r_ros.features.masks import Mask
from dust3r_ros.geometry.compiled import LIBRARY
from dust3r_ros.geometry.depths import REFERENCE_PRECISION
from dust3r_ros.types import Array, Array32, Image

_PLAIN_STEP = 8.0  # grey levels between neighbours, in each channel, that count as texture; more in a noisy image
_SIGMAS = 3.0  # of noise
_LEAST_AREA = 0.002  # of the image
_LAPLACE = np.array([[1, -2, 1], [-2, 4, -2], [1, -2, 1]], np.float32)  # scales noise by 6
_PER_QUARTILE = 1 / 0.3186  # standard deviation of normal errors over the quartile of their size
_NOISIEST = 5.0  # grey levels: anything above is texture


@dataclass(frozen=True, eq=False)
class PlainRegion:
    """A region in its box of the image: ``inside`` (h, w) marks its pixels in [``rows``, ``columns``].

    The box extends a margin beyond the region, within the image.
    """

    rows: slice
    columns: slice
    inside: Mask

    def depth_inside(self) -> Array32:
        """(h, w) distance in pixels to the region's outline, 0 outside; the image border is not an outline."""
        return np.asarray(cv2.distanceTransform(self.inside.astype(np.uint8), cv2.DIST_L2, 3), np.float32)

    def outline(self) -> Mask:
        """(h, w) its outermost pixels, including those at the image border."""
        inside = self.inside.astype(np.uint8)
        return (inside > 0) & (cv2.erode(inside, _square(3), borderType=cv2.BORDER_CONSTANT, borderValue=0) == 0)

    def grown(self, pixels: int) -> Mask:
        """(h, w) the region dilated by ``pixels``, also diagonally."""
        return cv2.dilate(self.inside.astype(np.uint8), _square(2 * pixels + 1)) > 0


def plain_regions(image: Image, margin: int) -> list[PlainRegion]:
    """Plain regions of at least 0.2 % of the ``image`` (H, W, 3) uint8, largest first, in boxes with ``margin`` pixels.

    In a region no colour changes by more than a few grey levels within three pixels, so shading does not end it, but
    outlines do.
    """
    soft = cv2.GaussianBlur(image, (3, 3), 0)
    red, green, blue = cv2.split(cv2.subtract(cv2.dilate(soft, _square(3)), cv2.erode(soft, _square(3))))
    step = cv2.max(cv2.max(red, green), blue)
    plain = (step <= _PLAIN_STEP + _SIGMAS * _noise(image)).astype(np.uint8)
    plain = cv2.morphologyEx(plain, cv2.MORPH_OPEN, _square(3))
    count, labels, stats, _ = cv2.connectedComponentsWithStats(plain, connectivity=4)
    large = [label for label in range(1, count) if stats[label, cv2.CC_STAT_AREA] >= _LEAST_AREA * plain.size]
    regions = []
    for label in sorted(large, key=lambda label: -stats[label, cv2.CC_STAT_AREA]):
        left, top, wide, high = (int(part) for part in stats[label, :4])
        rows = slice(max(0, top - margin), min(plain.shape[0], top + high + margin))
        columns = slice(max(0, left - margin), min(plain.shape[1], left + wide + margin))
        regions.append(PlainRegion(rows, columns, labels[rows, columns] == label))
    return regions


def _noise(image: Image) -> float:
    """Standard deviation of sensor noise, grey levels (after Immerkaer, CVIU 1996), in the plainest image areas."""
    response = cv2.filter2D(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), cv2.CV_16S, _LAPLACE)
    # The quantile of whole numbers, interpolated
    up_to, at = np.cumsum(np.bincount(np.abs(response).ravel())), (response.size - 1) / 4
    low, high = np.searchsorted(up_to, [int(at) + 1, int(at) + 2])
    return min(float(low + (at - int(at)) * (high - low)) * _PER_QUARTILE / 6.0, _NOISIEST)


def _square(side: int) -> np.ndarray:
    return np.ones((side, side), np.uint8)


_PLANES = 1 / 32  # of the long edge: how far the planes of ``fill_depth`` may run over an outline
_PATCHES = 6  # pixels: the same for flow
_STEPS = 6  # samples on each side of a pixel, along each axis, over one and a half times the reach
_ALIKE = 12  # grey levels, in each channel, within which two pixels look the same
_LEAST_CORE = 7  # pixels: without depth, an area that holds no square of this side is a gap, not a region
_DEEP = np.float32(0.6)  # of the way from the rim of an area with depth to its centre: no overrun goes further
_LEAST_VOTES = 4
_MARGIN = 3  # times as many similar samples without depth as with depth


def cut_at_outlines(depth: Array32, confidence: Array32, image: Image) -> tuple[Array32, Array32]:
    """Depth (H, W), 0 = none, and confidence (H, W) >= 1 without the rims that belong to regions without depth.

    Outlines of objects are edges in the ``image`` (H, W, 3) uint8, but the patches of flow and the planes of
    ``fill_depth`` run over them. A pixel near a region without depth is compared with samples of that region
    and of the inner part of the area with depth: if it looks like the former and unlike almost all of the latter,
    it belongs to the region. Where the image does not separate the two, depth stays.
    The pixels next to a cut mix both sides and are cut too.
    """
    known = confidence > 1
    core = cv2.morphologyEx((~known).astype(np.uint8), cv2.MORPH_OPEN, _square(_LEAST_CORE))
    if not known.any() or not core.any():
        return depth, confidence
    reach = _PATCHES + round(_PLANES * max(depth.shape))
    away = cv2.distanceTransform(1 - core, cv2.DIST_L2, 3)
    middle = cv2.dilate(away, np.ones((2 * reach + 1, 2 * reach + 1), np.uint8))
    inner = (known & (away > np.minimum(reach, _DEEP * middle))).astype(np.uint8)
    rim = known & (away <= reach)
    out, within = _votes(image, core, inner, rim, 1.5 * reach)
    foreign = rim & (out >= _LEAST_VOTES) & (out > _MARGIN * within.astype(np.int32))
    # Speckles of an object in the region's colour are not part of the region
    cut = cv2.morphologyEx((foreign | (core > 0)).astype(np.uint8), cv2.MORPH_OPEN, np.ones((3, 3), np.uint8))
    mixed = cv2.dilate(cut * known, np.ones((3, 3), np.uint8)) > 0
    keep = known & ~mixed
    return np.where(keep, depth, np.float32(0)), np.where(keep, confidence, np.float32(1))


def _votes(
    image: Image, core: np.ndarray, inner: np.ndarray, asked: Mask, reach: float
) -> tuple[np.ndarray, np.ndarray]:
    """How many samples of ``core`` and of ``inner`` around each pixel look similar, (H, W) uint8 each.

    Only for pixels ``asked``; others get any numbers.
    """
    step = max(1, round(reach / _STEPS))
    pad = _STEPS * step
    channels = [image[..., k] for k in range(3)]
    wide = [cv2.copyMakeBorder(part, pad, pad, pad, pad, cv2.BORDER_CONSTANT) for part in (*channels, core, inner)]
    votes = np.zeros((2, *core.shape), np.uint8)
    if LIBRARY is None:
        _vote(wide, step, votes)
    else:
        masks = [cv2.threshold(part, 0, 255, cv2.THRESH_BINARY)[1] for part in wide[3:]]
        size = *map(ctypes.c_long, (*core.shape, pad, step)), ctypes.c_int(_ALIKE)
        colors = (ctypes.c_void_p * 3)(*(part.ctypes.data for part in wide[:3]))
        LIBRARY.count_votes(*size, colors, *(part.ctypes for part in (*masks, np.ascontiguousarray(asked), *votes)))
    return votes[0], votes[1]


def _vote(wide: list[np.ndarray], step: int, votes: np.ndarray) -> None:
    """Add ``votes`` (2, H, W) of ``wide`` channels, core and inner, with as much more on each side as samples reach."""
    height, width = votes.shape[1:]
    pad = (wide[0].shape[0] - height) // 2
    channels = [part[pad : pad + height, pad : pad + width] for part in wide[:3]]
    for dy in range(0, 2 * pad + 1, step):
        for dx in range(0, 2 * pad + 1, step):
            red, green, blue, without, within = (part[dy : dy + height, dx : dx + width] for part in wide)
            off = cv2.max(cv2.absdiff(channels[0], red), cv2.absdiff(channels[1], green))
            off = cv2.max(off, cv2.absdiff(channels[2], blue))
            alike = cv2.threshold(off, _ALIKE, 1, cv2.THRESH_BINARY_INV)[1]
            cv2.add(votes[0], cv2.min(alike, without), dst=votes[0])
            cv2.add(votes[1], cv2.min(alike, within), dst=votes[1])


_REACH = 6  # pixels by which depth overruns an outline: depth deeper inside a region is its own
_RIM = 4  # pixels around a region used as evidence
_OUTLINE = 2  # pixels from a plain region to the centre of its outline
_LEAST_DEEP = 0.05  # of a region must lie deeper inside: else it is a strip, which its surroundings close
_LEAST_OWN = 0.15  # of the deep inside must be known, where it is textured
# Texture has so many times the variance of noise, whose matches look like surfaces in a sixth of a sky.
_SIGNAL, _SQUARE, _ROUNDED = 1.67, (7, 7), 0.1
_MOST = 2 / 3  # of a region's own depth, or of its outline, must lie on the plane
_HALF = 0.5  # of all depth in and around it too: else the plane only crosses the region or lies beside it
_FLOOR = 0.02  # no plane is more precise: surfaces are not flat
_BUMPS = 4.0  # to which the unevenness of a surface averages out over it
_LEAST_GAIN, _MOST_GAIN = 0.02, 10.0  # weights of a single pixel in a fit: neighbours share their errors
_PATCH = 49  # pixels of a flow patch, which share their error
_SIGMAS_SQUARED = 6.0  # beyond which a point is not on the plane
_TRIALS, _SAMPLE, _MOST_USED, _LEAST_USED = 100, 300, 3000, 30
_ROUNDS = 3  # of fitting a plane to what lies on it
_LEAST_SPREAD = 20.0  # twice the least area, pixels, of triangles that determine the tilt of a plane


@dataclass(frozen=True, eq=False)
class _Evidence:
    """Known depth in and around a region: ``at`` (N, 3) rows (1, x, y), ``inverse`` (N,) depth, ``deep`` (N,).

    ``variance``: of the inverse depth, relative, including the unevenness of surfaces; ``weight`` = its inverse.
    """

    at: Array
    inverse: Array
    variance: Array
    weight: Array
    deep: np.ndarray

    def on(self, plane: Array) -> tuple[np.ndarray, Array]:
        """(N,) which points lie on a plane (3,), and how far off all are, relative to it."""
        said = self.at @ plane
        off = self.inverse / np.where(said > 0, said, np.nan) - 1
        return np.nan_to_num(off * off, nan=np.inf) < _SIGMAS_SQUARED * self.variance, off


def complete_planes(depth: Array32, confidence: Array32, image: Image) -> tuple[Array32, Array32, Mask]:
    """Depth (H, W), 0 = none, and confidence (H, W) >= 1 with plain regions of ``image`` (H, W, 3) completed.

    On a plane, inverse depth is affine in the pixel. For each region without texture, a plane is found from random
    triples of the known depth in it and along its outline, then fitted. It is accepted if two thirds of the region's
    own depth, away from the outline, lie on it, and half of all known depth; or two thirds of the outline, if there is
    no own depth. So a wall or a floor takes the plane on which its texture, or all its edges, agree (after Gallup et
    al., "Piecewise Planar and Non-Planar Stereo", CVPR 2010), while sky, which only borders on objects, takes none. Its
    confidence is that of the fit, lower where it extrapolates far. The third result (H, W) marks where nothing can be
    known: regions without a plane, up to the outline, except near depth deep inside them. All other depth there comes
    from patches that run over the outline.
    """
    filled, sure, blank = depth.copy(), confidence.copy(), np.zeros(depth.shape, bool)
    textured, rng = _textured(image), np.random.default_rng(0)
    for region in plain_regions(image, _REACH):
        box = region.rows, region.columns
        deep = region.depth_inside() > _REACH
        if deep.sum() < _LEAST_DEEP * region.inside.sum():
            continue
        known = (depth[box] > 0) & (confidence[box] > 1 + _LEAST_GAIN)
        own = known & deep & textured[box]
        own &= own.sum() >= _LEAST_OWN * deep.sum()
        inverse, gained = _completed(region, deep, known, bool(own.any()), (depth[box], confidence[box]), rng)
        better = region.inside & (gained > sure[box])
        filled[box] = np.where(better, 1 / np.where(better, inverse, 1), filled[box])
        sure[box] = np.where(better, gained, sure[box])
        if not (gained > 1).any():
            near = cv2.dilate(own.astype(np.uint8), _square(2 * _REACH + 1)) > 0
            blank[box] |= region.grown(_OUTLINE) & ~near
    return np.where(blank, np.float32(0), filled), np.where(blank, np.float32(1), sure), blank


def _textured(image: Image) -> Mask:
    """(H, W) where an image varies by more than its noise; all of it where there is none."""
    grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY).astype(np.float32)
    mean, square = cv2.blur(grey, _SQUARE), cv2.blur(grey * grey, _SQUARE)
    return square - mean * mean > _SIGNAL * _noise(image) ** 2 - _ROUNDED


def _completed(
    region: PlainRegion, deep: Mask, known: Mask, own: bool, given: tuple[Array32, Array32], rng: np.random.Generator
) -> tuple[Array32, Array32]:
    """Inverse depth and confidence (h, w) from the plane of a region, confidence 1 where there is none; ``given``:
    depth and confidence; ``own``: whether what is ``known`` deep inside may decide.
    """
    depth, confidence = given
    nothing = np.zeros(depth.shape, np.float32), np.ones(depth.shape, np.float32)
    rows, columns = np.nonzero(known & region.grown(_RIM))
    if len(rows) < _LEAST_USED:
        return nothing
    some = np.linspace(0, len(rows) - 1, min(_MOST_USED, len(rows))).astype(int)
    used = rows[some], columns[some]
    gain = np.minimum(confidence[used].astype(np.float64) - 1, _MOST_GAIN)
    variance = _FLOOR**2 + REFERENCE_PRECISION**2 / gain
    at = np.stack([np.ones(len(some)), used[1], used[0]], axis=1)
    evidence = _Evidence(at, 1 / depth[used].astype(np.float64), variance, 1 / variance, deep[used])
    plane = _plane(evidence, rng)
    if plane is None:
        return nothing
    on, off = evidence.on(plane)
    if not _supported(region, own, evidence, on, used):
        return nothing
    return _said(evidence, plane, on, off, len(rows) / len(some), depth.shape)


def _plane(evidence: _Evidence, rng: np.random.Generator) -> Array | None:
    """(3,) offset and tilts of inverse depth on which most of the evidence agrees; None if there is none."""
    some = rng.choice(len(evidence.at), min(_SAMPLE, len(evidence.at)), replace=False)
    triples = rng.integers(0, len(some), (_TRIALS, 3))
    fit = _fitted if LIBRARY is None else _fitted_at_once
    return fit(evidence, some, triples)


def _fitted_at_once(evidence: _Evidence, some: np.ndarray, triples: np.ndarray) -> Array | None:
    """By compiled code: 5 times as fast."""
    assert LIBRARY is not None
    kept = [np.ascontiguousarray(part) for part in (evidence.at, evidence.inverse, evidence.variance, evidence.weight)]
    plane, count = np.empty(3), ctypes.c_long(len(evidence.at))
    chosen = ctypes.c_long(len(triples)), triples.ctypes, ctypes.c_long(len(some)), some.ctypes
    limits = *map(ctypes.c_double, (_SIGMAS_SQUARED, _LEAST_SPREAD)), *map(ctypes.c_long, (_LEAST_USED, _ROUNDS))
    found = LIBRARY.fit_plane(count, *(part.ctypes for part in kept), *chosen, *limits, plane.ctypes)
    return plane if found else None


def _fitted(evidence: _Evidence, some: np.ndarray, triples: np.ndarray) -> Array | None:
    at, inverse = evidence.at[some], evidence.inverse[some]
    triples = triples[np.abs(np.linalg.det(at[triples])) > _LEAST_SPREAD]
    if not len(triples):
        return None
    planes = np.linalg.solve(at[triples], inverse[triples][..., None])[..., 0]
    said = planes @ at.T
    off = inverse / np.where(said > 0, said, np.nan) - 1
    on = np.nan_to_num(off * off, nan=np.inf) < _SIGMAS_SQUARED * evidence.variance[some]
    plane = planes[np.argmax(on @ evidence.weight[some])]
    for _ in range(_ROUNDS):
        inliers, _ = evidence.on(plane)
        if inliers.sum() < _LEAST_USED:
            return None
        at, inverse = evidence.at[inliers], evidence.inverse[inliers]
        pull = at.T * (evidence.weight[inliers] / inverse**2)
        try:
            plane = np.linalg.solve(pull @ at, pull @ inverse)
        except np.linalg.LinAlgError:
            return None
    return plane


def _supported(
    region: PlainRegion, own: bool, evidence: _Evidence, on: np.ndarray, used: tuple[np.ndarray, ...]
) -> bool:
    """Whether a region's own evidence, or all around it, lies ``on`` a plane."""
    weight, deep = evidence.weight, evidence.deep
    if weight[on].sum() < _HALF * weight.sum():
        return False
    if own and weight[on & deep].sum() >= _MOST * weight[deep].sum():
        return True
    there = np.zeros(region.inside.shape, np.uint8)
    there[used[0][on], used[1][on]] = 1
    beside = cv2.dilate(there, np.ones((2 * _RIM + 1, 2 * _RIM + 1), np.uint8))
    closed = float(beside[region.outline()].mean())
    return closed * weight[on].sum() >= _MOST * weight.sum()


def _said(
    evidence: _Evidence, plane: Array, on: np.ndarray, off: Array, each: float, shape: tuple[int, ...]
) -> tuple[Array32, Array32]:
    """Inverse depth and confidence (h, w) from a plane through the evidence ``on`` it, with weight ``each`` per piece.

    Errors of patches average out, unevenness less so; both count more far from the evidence, by their leverage.
    """
    weight = evidence.weight[on] / evidence.weight[on].sum()
    noise = float(weight @ evidence.variance[on]) - _FLOOR**2
    residual = float(weight @ off[on] ** 2)
    middle = weight @ evidence.at[on][:, 1:]
    apart = evidence.at[on][:, 1:] - middle
    spread = np.linalg.inv((apart.T * weight) @ apart + 4 * np.eye(2))
    y, x = np.ogrid[: shape[0], : shape[1]]
    dx, dy = x - middle[0], y - middle[1]
    leverage = spread[0, 0] * dx * dx + 2 * spread[0, 1] * dx * dy + spread[1, 1] * dy * dy
    patches = max(1.0, on.sum() * each / _PATCH)
    variance = _FLOOR**2 * (1 + leverage / _BUMPS) + max(residual - noise, 0.0)
    variance = variance + min(residual, noise) * (1 + leverage) / patches
    inverse = plane[0] + plane[1] * x + plane[2] * y
    gained = np.where(inverse > 0, 1 + REFERENCE_PRECISION**2 / variance, 1)
    return inverse.astype(np.float32), gained.astype(np.float32)


_RADII = (1 / 64, 1 / 32)  # of the long edge: half the side of the squares in which planes are fitted
_STEP = 2  # planes are fitted on every other row and column
_LEAST_KNOWN = 0.2  # share of a square's pixels below which no plane is fitted
_LEAST_FITTED_GAIN = 0.1  # C - 1 below which a plane is dropped: it is off by 10 %
_STEEPEST = 0.25  # change of inverse depth across a square beyond which it is a step, not a plane
_RIDGE = 0.02  # of the squared radius: points on a line do not determine the tilt of a plane
_TINY = np.float32(1e-12)


@dataclass(frozen=True, eq=False)
class _Planes:
    """A plane per pixel of a reduced image: inverse depth ``offset`` + x ``tilt_x`` + y ``tilt_y``, ``confidence``.

    x and y are reduced pixels from the image centre; confidence is 1 where there is no plane.
    """

    offset: Array32
    tilt_x: Array32
    tilt_y: Array32
    confidence: Array32

    def at_full_size(self, height: int, width: int) -> tuple[Array32, Array32]:
        """Inverse depth and confidence, each (H, W): every pixel takes its reduced pixel's plane, without blending."""
        offset, tilt_x, tilt_y, confidence = (
            cv2.resize(part, (width, height), interpolation=cv2.INTER_NEAREST)
            for part in (self.offset, self.tilt_x, self.tilt_y, self.confidence)
        )
        x, y = _from_middle(width, self.offset.shape[1]), _from_middle(height, self.offset.shape[0])
        return offset + tilt_x * x[None, :] + tilt_y * y[:, None], confidence


def fill_depth(depth: Array32, confidence: Array32) -> tuple[Array32, Array32]:
    """Depth (H, W), 0 = none, and confidence (H, W) >= 1 with gaps closed and uncertain pixels smoothed.

    On a plane, inverse depth is affine in the pixel. In squares of two sizes around each pixel a plane
    is fitted to inverse depth, weighted by C - 1. Residuals beyond the errors that C implies are deviations from a
    plane and count in full; the errors average out over the patches in the square, however well they agree;
    both grow with sqrt(1 + leverage). Its relative precision is 2 % at best; confidence follows as in
    stereo, lower where less than half of the square is known. So a square with two surfaces, or one that extrapolates
    far, has little confidence. A pixel takes the plane's depth where that is more confident than its own.
    """
    filled, sure = depth, confidence
    height, width = depth.shape
    if min(height, width) < 2 * _STEP or not (confidence > 1).any():
        return depth, confidence
    for radius in _RADII:
        side = 2 * max(1, round(radius * max(height, width) / _STEP)) + 1
        inverse, gained = _planes(depth, confidence, side).at_full_size(height, width)
        better = (gained > sure) & (inverse > 0)
        filled = np.where(better, 1 / np.where(better, inverse, 1), filled)
        sure = np.where(better, gained, sure)
    return filled, sure


def _planes(depth: Array32, confidence: Array32, side: int) -> _Planes:
    """Planes within squares of ``side`` reduced pixels."""
    weight, first, second = _reduced(depth, confidence)
    height, width = weight.shape
    x, y = _from_middle(width, width)[None, :], _from_middle(height, height)[:, None]

    def mean(values: Array32) -> Array32:
        return cv2.blur(values, (side, side), borderType=cv2.BORDER_CONSTANT)

    share = mean((weight > 0.01).astype(np.float32))
    total = mean(weight)
    scale = 1 / np.maximum(total, _TINY)
    mx, my, mv = (mean(part) * scale for part in (weight * x, weight * y, first))
    xx = mean(weight * x * x) * scale - mx * mx + np.float32(_RIDGE * side * side / 4)
    yy = mean(weight * y * y) * scale - my * my + np.float32(_RIDGE * side * side / 4)
    xy = mean(weight * x * y) * scale - mx * my
    xv, yv = mean(first * x) * scale - mx * mv, mean(first * y) * scale - my * mv
    vv = mean(second) * scale - mv * mv
    determinant = np.maximum(xx * yy - xy * xy, _TINY)
    tilt_x, tilt_y = (yy * xv - xy * yv) / determinant, (xx * yv - xy * xv) / determinant
    dx, dy = x - mx, y - my
    inverse = mv + tilt_x * dx + tilt_y * dy
    leverage = (yy * dx * dx - 2 * xy * dx * dy + xx * dy * dy) / determinant
    residual = np.maximum(vv - tilt_x * xv - tilt_y * yv, 0)
    good = (total > 1e-6) & (share > _LEAST_KNOWN) & (inverse > 0.2 * mv)
    good &= side * (np.abs(tilt_x) + np.abs(tilt_y)) < _STEEPEST * inverse
    # The weights are C - 1 = (reference / error)^2, so this is the weighted mean of the squared errors
    noise = np.float32(REFERENCE_PRECISION**2) * share / np.maximum(total, _TINY)
    rough = np.maximum(residual / np.where(good, inverse * inverse, 1) - noise, 0)
    patches = np.maximum(share * np.float32((side * _STEP) ** 2 / _PATCH), 1)
    variance = (rough + noise / patches) * (1 + leverage) + np.float32(_FLOOR**2)
    gained = np.minimum(2 * share, 1) * np.float32(REFERENCE_PRECISION**2) / variance
    good &= gained > _LEAST_FITTED_GAIN
    offset = mv - tilt_x * mx - tilt_y * my
    return _Planes(offset, tilt_x, tilt_y, np.where(good, 1 + gained, 1).astype(np.float32))


def _reduced(depth: Array32, confidence: Array32) -> tuple[Array32, Array32, Array32]:
    """C - 1, and its products with inverse depth and with inverse depth squared, each averaged over reduced pixels."""
    height, width = depth.shape[0] // _STEP, depth.shape[1] // _STEP
    known = depth > 0
    gain = np.where(known, np.minimum(confidence - 1, np.float32(_MOST_GAIN)), 0).astype(np.float32)
    value = np.where(known, 1 / np.where(known, depth, 1), 0).astype(np.float32)
    weight, first, second = (
        cv2.resize(part, (width, height), interpolation=cv2.INTER_AREA)
        for part in (gain, gain * value, gain * value * value)
    )
    return weight, first, second


def _from_middle(count: int, reduced: int) -> Array32:
    """Coordinates of ``count`` pixels from their centre, in units of the ``reduced`` pixels of the same span."""
    return ((np.arange(count) + 0.5) * reduced / count - reduced / 2).astype(np.float32)
