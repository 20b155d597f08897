"""Dense flow between two images (DIS, with checks back and forth), and the depth it gives for known geometry."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

import cv2
import numpy as np

from dust3r_ros.features.features import Features, epipolar_inliers, match
from dust3r_ros.geometry.compiled import LIBRARY
from dust3r_ros.geometry.depths import REFERENCE_PRECISION
from dust3r_ros.geometry.pinhole import center_of
from dust3r_ros.types import Array, Array32, Image

_CONSISTENT_PX = 1.0
_ENOUGH_CONSISTENT = 0.35
_PATCH, _WIDE = (7, 7), (15, 15)
_SCHARR_GAIN = 32.0  # response of OpenCV's kernel per slope in grey levels per pixel
_MIN_SLOPE = 0.7
_LEAST_ALIKE = 0.4  # correlation of a patch with the one at its target; that of noise is near 0
_MAX_DIFFERENCE = 25.0  # grey levels, averaged over a patch


@dataclass(frozen=True, eq=False)
class Flow:
    """Where each pixel of one image lies in another.

    ``target`` (H, W, 2) float32: coordinates (u, v) in the other image. ``error`` (H, W) float32:
    distance from the start after going there and back, pixels; inf where the target lies outside.
    """

    target: Array32
    error: Array32

    @property
    def consistent(self) -> float:
        """Share of pixels that return to within a pixel."""
        return float(np.mean(self.error < _CONSISTENT_PX))


def dense_flow(
    a: Image,
    b: Image,
    features: Callable[[], tuple[Features, Features]] | None = None,
    guess: tuple[Array32, Array32] | None = None,
) -> tuple[Flow, Flow]:
    """Flow a -> b and b -> a of grey images (H, W) uint8 of any sizes.

    ``guess``: targets (H, W, 2) a -> b and b -> a to start from. If the step is still too wide and the
    ``features`` of both, if given, match, the homography that fits them best warps one image onto the other first.
    """
    height, width = max(a.shape[0], b.shape[0]), max(a.shape[1], b.shape[1])
    padded_a, padded_b = _pad(a, height, width), _pad(b, height, width)
    plain = _both_ways(padded_a, padded_b, a.shape, b.shape, np.eye(3), guess)
    if features is None or min(plain[0].consistent, plain[1].consistent) >= _ENOUGH_CONSISTENT:
        return plain
    homography = _homography(*features())
    if homography is None:
        return plain
    warped = _both_ways(padded_a, padded_b, a.shape, b.shape, homography)
    return warped if warped[0].consistent > plain[0].consistent else plain


def _homography(a: Features, b: Features) -> np.ndarray | None:
    """The homography a -> b that most matches follow within 8 pixels."""
    pairs = match(a, b)
    points_a, points_b = a.pixels[pairs[:, 0]], b.pixels[pairs[:, 1]]
    inliers = epipolar_inliers(points_a, points_b)
    if not inliers.any():
        return None
    cv2.setRNGSeed(0)
    homography, mask = cv2.findHomography(points_a[inliers], points_b[inliers], cv2.RANSAC, 8.0)
    if homography is None or mask.sum() < 8 or not np.isfinite(homography).all():
        return None
    return homography if abs(np.linalg.det(homography / homography[2, 2])) > 1e-3 else None


def _both_ways(
    a: Image,
    b: Image,
    shape_a: tuple[int, ...],
    shape_b: tuple[int, ...],
    homography: np.ndarray,
    guess: tuple[Array32, Array32] | None = None,
) -> tuple[Flow, Flow]:
    """Targets of both directions; ``homography`` maps a to b roughly and is applied to the images first."""
    forth = _targets(a, b, homography, None if guess is None else guess[0])
    back = _targets(b, a, np.linalg.inv(homography), None if guess is None else guess[1])
    forth, back = forth[: shape_a[0], : shape_a[1]], back[: shape_b[0], : shape_b[1]]
    a, b = a[: shape_a[0], : shape_a[1]], b[: shape_b[0], : shape_b[1]]
    return Flow(forth, _errors(a, b, forth, back)), Flow(back, _errors(b, a, back, forth))


def _errors(a: Image, b: Image, forth: Array32, back: Array32) -> Array32:
    """(H, W) distance of pixels from their start after ``forth`` and ``back``; inf where images do not confirm it."""
    seen = cv2.remap(b, forth, None, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    there = cv2.remap(back, forth, None, cv2.INTER_LINEAR, borderMode=cv2.BORDER_CONSTANT, borderValue=(np.nan, np.nan))
    if LIBRARY is None or min(a.shape) < min(_WIDE):
        return np.where(_evident(a, seen), _round_trip(there), np.inf).astype(np.float32)
    error = np.empty(a.shape, np.float32)
    pair = [
        np.ascontiguousarray(part)
        for part in (a, seen, cv2.Scharr(a, cv2.CV_16S, 1, 0), cv2.Scharr(a, cv2.CV_16S, 0, 1))
    ]
    given = ctypes.byref(_Pair(*a.shape, *(part.ctypes.data for part in pair)))
    least = (ctypes.c_double * 3)(_MIN_SLOPE * _SCHARR_GAIN, _MAX_DIFFERENCE, _LEAST_ALIKE)
    found = LIBRARY.check_flow(given, least, there.ctypes, error.ctypes)
    if not (found and LIBRARY.check_shading(given, least, error.ctypes)):
        raise MemoryError
    return error


class _Pair(ctypes.Structure):
    _fields_ = [
        *((name, ctypes.c_long) for name in ("height", "width")),
        *((name, ctypes.c_void_p) for name in ("a", "b", "along_x", "along_y")),
    ]


def _evident(a: Image, seen: Image) -> np.ndarray:
    """(H, W) where images confirm flow: texture in ``a``, and the same texture and grey level ``seen`` through it.

    On a blank wall any flow returns to its start; sensor noise is texture, but never the same twice. Shading looks the
    same anywhere along it: flow through a sky that grows brighter ends where it began.
    """
    difference = cv2.blur(a.astype(np.float32) - seen.astype(np.float32), _PATCH)
    rows, columns = cv2.Scharr(a, cv2.CV_32F, 0, 1), cv2.Scharr(a, cv2.CV_32F, 1, 0)
    slope = np.sqrt(cv2.blur(rows * rows + columns * columns, _PATCH)) / _SCHARR_GAIN
    alike = np.minimum(_alike(a, seen, _PATCH, tilts=False), _alike(a, seen, _WIDE, tilts=True))
    return (slope > _MIN_SLOPE) & (np.abs(difference) < _MAX_DIFFERENCE) & (alike > _LEAST_ALIKE)


def _alike(a: Image, b: Image, patch: tuple[int, int], *, tilts: bool) -> Array32:
    """(H, W) normalised cross-correlation of patches of two images, -1 to 1; 0 where one is blank.

    Each is without its mean, with ``tilts`` without the plane fitted to it.
    """
    side = patch[0]
    reach = np.arange(side, dtype=np.float32) - side // 2
    even, tilt = np.full_like(reach, 1 / side), reach / (side * np.sqrt(np.mean(reach**2)))
    ways = [(even, even), (tilt, even), (even, tilt)] if tilts else [(even, even)]
    x, y = a.astype(np.float32), b.astype(np.float32)
    of_x, of_y = ([cv2.sepFilter2D(image, -1, *way) for way in ways] for image in (x, y))
    both, square_a, square_b = (
        cv2.blur(p * q, patch) - sum(u * v for u, v in zip(of_p, of_q, strict=True))
        for p, q, of_p, of_q in ((x, y, of_x, of_y), (x, x, of_x, of_x), (y, y, of_y, of_y))
    )
    spread = np.maximum(square_a, 0) * np.maximum(square_b, 0)
    return np.asarray(both / np.sqrt(np.maximum(spread, np.float32(1e-6))))


def _targets(a: Image, b: Image, homography: np.ndarray, guess: Array32 | None) -> Array32:
    height, width = a.shape
    start = grid(height, width)
    flow = _dis()
    if np.array_equal(homography, np.eye(3)):
        return start + flow.calc(a, b, _motion(guess, start))
    # b as seen from a: the rest of the motion is small
    straight = cv2.warpPerspective(b, homography, (width, height), flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP)
    near = start + flow.calc(a, straight, None)
    return cv2.perspectiveTransform(near.reshape(1, -1, 2), homography).reshape(height, width, 2).astype(np.float32)


def _dis() -> cv2.DISOpticalFlow:
    """DIS (Kroeger et al., ECCV 2016) down to whole pixels, which keeps outlines sharper than more iterations do.

    OpenCV's presets stop at half the resolution; a wider stride and fewer steps make up for most of the extra time.
    """
    flow = cv2.DISOpticalFlow_create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
    flow.setFinestScale(0)
    flow.setPatchStride(5)
    flow.setGradientDescentIterations(12)
    flow.setVariationalRefinementIterations(3)
    return flow


def _motion(guess: Array32 | None, start: Array32) -> Array32 | None:
    """Motion (H, W, 2) of guessed targets, 0 where they are unknown or for another size."""
    if guess is None or guess.shape != start.shape:
        return None
    return np.ascontiguousarray(np.where(np.isfinite(guess), guess - start, 0.0).astype(np.float32))


def chained(first: Flow, second: Flow) -> Array32:
    """Targets (H, W, 2) a -> c of flows a -> b and b -> c; those that leave b are clamped to its border."""
    return cv2.remap(second.target, first.target, None, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)


def _round_trip(there: Array32) -> Array32:
    """Distance (H, W) of pixels from where they come back to, ``there`` (H, W, 2)."""
    miss = there - grid(*there.shape[:2])
    error = np.hypot(miss[..., 0], miss[..., 1])
    return np.where(np.isfinite(error), error, np.inf).astype(np.float32)


@lru_cache(maxsize=8)
def grid(height: int, width: int) -> Array32:
    """(H, W, 2) coordinates (u, v) of every pixel; shared, read-only."""
    v, u = np.mgrid[:height, :width].astype(np.float32)
    pixels = np.stack([u, v], axis=-1)
    pixels.setflags(write=False)
    return pixels


def _pad(image: Image, height: int, width: int) -> Image:
    bottom, right = height - image.shape[0], width - image.shape[1]
    return cv2.copyMakeBorder(image, 0, bottom, 0, right, cv2.BORDER_REPLICATE) if bottom or right else image


_LEAST = 12  # landmarks in the image: with fewer, most of it is far from any
_FARTHEST = 1.5  # image sides from the centre within which a target may lie outside


def seeded_targets(
    points: Array, b_T_a: Array, focal_a: float, focal_b: float, shape_a: tuple[int, int], shape_b: tuple[int, int]
) -> Array32 | None:
    """Targets (H, W, 2) in view b of the pixels of view a, each at the depth of the nearest landmark in the image.

    ``points`` (N, 3) in camera a, ``b_T_a`` in their unit, focals in pixels, shapes (H, W). Flow goes from coarse to
    fine images and loses near objects, which are small and move far; landmarks on them guide it there. NaN where
    the point lies behind b; None if too few landmarks are in the image.
    """
    height, width = shape_a
    cx, cy = center_of(height, width)
    front = points[points[:, 2] > 0]
    pixels = np.rint(front[:, :2] / front[:, 2:] * focal_a + (cx, cy))
    inside = ((pixels >= 0) & (pixels < (width, height))).all(axis=1)
    if inside.sum() < _LEAST:
        return None
    column, row = pixels[inside].astype(int).T
    # Of several landmarks in one pixel the nearest is visible
    order = np.argsort(-front[inside, 2], kind="stable")
    closeness = np.zeros((height, width), np.float32)
    closeness[row[order], column[order]] = 1 / front[inside, 2][order]
    _, nearest = cv2.distanceTransformWithLabels(
        (closeness == 0).astype(np.uint8), cv2.DIST_L2, 3, labelType=cv2.DIST_LABEL_PIXEL
    )
    of_label = np.zeros(nearest.max() + 1, np.float32)
    of_label[nearest[row, column]] = closeness[row, column]
    if LIBRARY is None:
        return _moved(of_label[nearest], b_T_a, focal_a, focal_b, shape_b)
    target, reach = np.empty((height, width, 2), np.float32), _reach(shape_b)
    views = _Views.of(b_T_a, focal_a, focal_b, shape_a, shape_b)
    LIBRARY.seed_targets(ctypes.byref(views), *(part.ctypes for part in (of_label, nearest, reach, target)))
    return target


class _Views(ctypes.Structure):
    """Two cameras in the library's layout."""

    _fields_ = [
        *((name, ctypes.c_long) for name in ("height", "width")),
        *((name, ctypes.c_float) for name in ("focal_a", "ax", "ay", "focal_b", "bx", "by")),
        ("R", ctypes.c_float * 9),
        ("t", ctypes.c_float * 3),
    ]

    @classmethod
    def of(
        cls, b_T_a: Array, focal_a: float, focal_b: float, shape_a: tuple[int, ...], shape_b: tuple[int, ...]
    ) -> _Views:
        """``b_T_a``, focals in pixels, shapes (H, W)."""
        R, t = (ctypes.c_float * 9)(*b_T_a[:3, :3].ravel()), (ctypes.c_float * 3)(*b_T_a[:3, 3])
        height, width = shape_a[:2]
        center_a, center_b = center_of(height, width), center_of(shape_b[0], shape_b[1])
        return cls(height, width, focal_a, *center_a, focal_b, *center_b, R, t)


def _reach(shape: tuple[int, ...]) -> Array32:
    """(2,) how far from the centre of an image (H, W) targets may lie, pixels."""
    return np.float32(_FARTHEST) * np.array(shape[1::-1], np.float32)


def _moved(closeness: Array32, b_T_a: Array, focal_a: float, focal_b: float, shape_b: tuple[int, int]) -> Array32:
    """Targets (H, W, 2) of pixels with inverse depth ``closeness`` (H, W)."""
    height, width = closeness.shape
    rays = (grid(height, width) - np.array(center_of(height, width), np.float32)) / np.float32(focal_a)
    R, t = b_T_a[:3, :3].astype(np.float32), b_T_a[:3, 3].astype(np.float32)
    x, y, z = (R[i, 0] * rays[..., 0] + R[i, 1] * rays[..., 1] + R[i, 2] + t[i] * closeness for i in range(3))
    scale = np.float32(focal_b) / np.where(z > 0, z, np.float32(np.nan))
    middle = np.array(center_of(*shape_b), np.float32)
    reach = _reach(shape_b)
    offset = np.stack([x * scale, y * scale], axis=-1)
    return np.clip(offset, -reach, reach) + middle


_BEST_MATCH_PX = 0.15  # no flow is more precise
_AROUND = (15, 15)  # pixels over which the error of flow is similar
_MAX_MISS_PX = 1.5
_MAX_CONFIDENCE = 100.0
_TINY = np.float32(1e-20)


@dataclass(frozen=True, eq=False)
class StereoDepth:
    """``depth`` (H, W) float32: z in the first view, in units of the given baseline; ``confidence`` (H, W) >= 1."""

    depth: Array32
    confidence: Array32


def depth_from_flow(
    flow: Flow, b_T_a: Array, focal_a: float, focal_b: float, shape_b: tuple[int, int], min_parallax_deg: float
) -> StereoDepth:
    """Triangulate every pixel of view a that the flow takes to view b consistently.

    The ray of b is moved onto the epipolar line of its pixel; how far it moved is the epipolar
    error. How far the matches around a pixel miss their lines is the only sign of how far they err along them:
    little where texture is rich, more where it is faint. Confidence is 1 + (reference / precision)^2, where
    the relative precision of depth is the match's standard deviation (its own errors and, twice, the mean
    square of those around it) over focal and parallax. Pixels whose rays meet
    at less than ``min_parallax_deg``, lie behind a camera or miss their epipolar line by more than
    1.5 pixels have confidence 1.
    """
    triangulate = _triangulated if LIBRARY is None else _triangulated_at_once
    return triangulate(flow, b_T_a, focal_a, focal_b, shape_b, float(np.sin(np.radians(min_parallax_deg))))


def _triangulated_at_once(
    flow: Flow, b_T_a: Array, focal_a: float, focal_b: float, shape_b: tuple[int, int], least_sine: float
) -> StereoDepth:
    """By compiled code: 4 times as fast."""
    assert LIBRARY is not None
    target, error = (np.ascontiguousarray(part, np.float32) for part in (flow.target, flow.error))
    views = ctypes.byref(_Views.of(b_T_a, focal_a, focal_b, error.shape, shape_b))
    matched, squares, depth, confidence = np.empty((4, *error.shape), np.float32)
    LIBRARY.match_lines(
        views, target.ctypes, error.ctypes, ctypes.c_double(_MAX_MISS_PX), matched.ctypes, squares.ctypes
    )
    around = cv2.blur(squares, _AROUND), cv2.blur(matched, _AROUND)
    leverage = REFERENCE_PRECISION * 0.5 * (focal_a + focal_b)
    how = (ctypes.c_double * 4)(leverage, _BEST_MATCH_PX**2, _MAX_CONFIDENCE - 1.0, least_sine)
    arrays = target, error, matched, *around
    LIBRARY.triangulate_flow(views, *(part.ctypes for part in arrays), how, depth.ctypes, confidence.ctypes)
    return StereoDepth(depth, confidence)


def _triangulated(
    flow: Flow, b_T_a: Array, focal_a: float, focal_b: float, shape_b: tuple[int, int], least_sine: float
) -> StereoDepth:
    R, t = b_T_a[:3, :3].astype(np.float32), b_T_a[:3, 3].astype(np.float32)
    far_x, far_y, far_z = _at_infinity(flow.error.shape, focal_a, R)
    cx, cy = center_of(*shape_b)
    x = (flow.target[..., 0] - np.float32(cx)) / np.float32(focal_b)
    y = (flow.target[..., 1] - np.float32(cy)) / np.float32(focal_b)
    x, y, epipolar = _onto_epipolar_line(x, y, (far_x, far_y, far_z), t)
    epipolar *= np.float32(focal_b)
    matched = (flow.error < _MAX_MISS_PX) & (epipolar < _MAX_MISS_PX)
    # z_a far + t = z_b (x, y, 1): two equations for z_a, solved along the line's direction
    along_x, along_y = x * far_z - far_x, y * far_z - far_y
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        square = along_x * along_x + along_y * along_y
        depth = ((t[0] - x * t[2]) * along_x + (t[1] - y * t[2]) * along_y) / np.maximum(square, _TINY)
        depth_b = depth * far_z + t[2]
        # |far x ray_b|: along is its first two components, rotated by a right angle
        twist = far_x * y - far_y * x
        lengths = (far_x * far_x + far_y * far_y + far_z * far_z) * (x * x + y * y + 1.0)
        sine = np.sqrt((square + twist * twist) / lengths)
        variance = _match_variance(flow.error, epipolar, matched)
        leverage = np.float32(REFERENCE_PRECISION * 0.5 * (focal_a + focal_b)) * sine
        confidence = 1.0 + np.minimum(leverage * leverage / variance, _MAX_CONFIDENCE - 1.0)
    front = np.isfinite(depth) & (depth > 0) & (depth_b > 0)
    good = matched & front & (sine > least_sine)
    return StereoDepth(
        np.where(good, depth, 0.0).astype(np.float32), np.where(good, confidence, 1.0).astype(np.float32)
    )


def _at_infinity(shape: tuple[int, int], focal: float, R: Array32) -> tuple[Array32, Array32, Array32]:
    """x, y and z, (H, W) each, of the points at infinity along the rays of view a, rotated by ``R`` (3, 3) into b."""
    height, width = shape
    cx, cy = center_of(height, width)
    x = ((np.arange(width, dtype=np.float32) - cx) / focal).astype(np.float32)[None, :]
    y = ((np.arange(height, dtype=np.float32) - cy) / focal).astype(np.float32)[:, None]
    far_x, far_y, far_z = (R[i, 0] * x + (R[i, 1] * y + R[i, 2]) for i in range(3))
    return far_x, far_y, far_z


def _match_variance(error: Array32, epipolar: Array32, matched: np.ndarray) -> Array32:
    """(H, W) variance, pixels squared, of matches along their lines: from their own errors and those around them."""
    variance: Array32 = _BEST_MATCH_PX**2 + 2 * _mean_around(epipolar * epipolar, matched)
    variance += error * error + epipolar * epipolar
    return variance


def _onto_epipolar_line(
    x: Array32, y: Array32, far: tuple[Array32, Array32, Array32], t: Array32
) -> tuple[Array32, Array32, Array32]:
    """Normalised image points of b moved onto their epipolar lines (t x far), and how far they moved."""
    line_x, line_y, line_z = t[1] * far[2] - t[2] * far[1], t[2] * far[0] - t[0] * far[2], t[0] * far[1] - t[1] * far[0]
    norm = np.maximum(line_x * line_x + line_y * line_y, _TINY)
    miss = line_x * x + line_y * y + line_z
    step = miss / norm
    return x - line_x * step, y - line_y * step, np.abs(miss) / np.sqrt(norm)


def _mean_around(values: Array32, known: np.ndarray) -> Array32:
    """(H, W) mean of the known values in a square around each pixel, 0 for none."""
    total = cv2.blur(np.where(known, values, np.float32(0)), _AROUND)
    return total / np.maximum(cv2.blur(known.astype(np.float32), _AROUND), np.float32(1e-6))
