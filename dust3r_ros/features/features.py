"""SIFT features of keyframes and their matches, for steps too wide for flow."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

import cv2
import numpy as np
from scipy.spatial import cKDTree

from dust3r_ros.features.masks import MARGIN_PX, ImageMask
from dust3r_ros.features.sift import SLOWEST, ScaleSpace, describe, strongest_blobs
from dust3r_ros.geometry.compiled import LIBRARY
from dust3r_ros.types import Array, Array32, Image

FEATURES, PHOTOGRAPH = 2000, 8000  # of an image of a video, of a photograph: where steps are wide, few match
_VIDEO, _NEWS = 0.4, 0.3  # share of the corners that is followed in a video; least weight of the last image
_RATIO = 0.8  # Lowe's ratio (Lowe, IJCV 2004)
_EPIPOLAR_PX = 1.5
_MIN_MATCHES = 12
_NEIGHBOURS = 10
_ABOUT_PX = 20.0  # from a similarity of the whole image
_SAME_PX, _STRETCH = 3.0, 0.3  # neighbours' displacements differ by less than the first plus this times their distance
_SMOOTH = 0.8  # share of the matches with such neighbours
# An image shows the same twice where so many matches of its halves, of their features and of all those matches, lie
# within these shares of a half's width and height of where they would without parallax.
_TWICE, _OF_FEATURES, _OF_MATCHES = 60, 0.1, 0.5
_PARALLAX = np.array([0.25, 0.05])
_SHORT = 64  # components used to compare descriptors
_UNIT = 196.0  # steps to a descriptor's length: no component is more than 0.65 of it, but the first, which becomes two
_BASIS = np.concatenate([SLOWEST[:, [0, 0]] / np.sqrt(np.float32(2.0)), SLOWEST[:, 1 : _SHORT - 1]], axis=1)
_DOUBT = 5.0 * np.sqrt(4.0 / 6.0)  # times a distance in steps: five deviations of its square by rounding
_AT_ONCE = LIBRARY is not None and bool(LIBRARY.can_match())
_ROWS = 256  # compared at once: the result stays in the cache

Select = Callable[[np.ndarray], np.ndarray]  # rows (M, 2) of matching features -> which (M,) to keep


@dataclass(frozen=True, eq=False)
class Features:
    """``pixels`` (N, 2) and RootSIFT ``descriptors`` (N, 128) of one grey image, 1/512 per unit of uint8."""

    pixels: Array
    descriptors: Image

    @property
    def unit(self) -> Array32:
        """Descriptors (N, 128) as float32 of length about 1."""
        return self.descriptors.astype(np.float32) / 512.0


def no_features() -> Features:
    """An empty set."""
    return Features(np.zeros((0, 2)), np.zeros((0, 128), np.uint8))


class FeatureCount:
    """How many features an image of a camera has, by the share of corners that is followed from image to image."""

    def __init__(self, video: bool) -> None:
        """``video``: whether the first image, into which nothing is followed, is taken for one of a video."""
        self._followed, self._images = float(video), 1

    def note(self, share: float, images: int) -> None:
        """Of ``images`` so far, note the share that was followed into the last one; an image counts once."""
        if self._images < images:
            self._images = images
            self._followed += max(_NEWS, 1.0 / (images - 1)) * (share - self._followed)

    @property
    def wanted(self) -> int:
        """The number for the last image."""
        return FEATURES if self._followed > _VIDEO else PHOTOGRAPH


@lru_cache(maxsize=16)  # for the keyframes being compared
def short(features: Features) -> Array32:
    """(N, 64) float32 of length 1: the lowest frequencies of the descriptors, half of their components.

    Neighbouring cells and directions are similar, so the other half is mostly noise (Ke and Sukthankar,
    "PCA-SIFT", CVPR 2004): as many matches are right.
    """
    return shortened(features.unit)


def shortened(unit: Array32) -> Array32:
    """(N, 64) the same of some descriptors (N, 128), as of ``Features.unit``."""
    slow = unit @ SLOWEST[:, :_SHORT]
    return np.asarray(slow / np.maximum(np.linalg.norm(slow, axis=1, keepdims=True), 1e-9))


@lru_cache(maxsize=16)
def _rounded(features: Features) -> np.ndarray:
    """(N, 64) int8: about the same, 196 steps to the unit."""
    slow = features.unit @ _BASIS
    slow *= _UNIT / np.maximum(np.linalg.norm(slow, axis=1, keepdims=True), 1e-9)
    return np.clip(np.rint(slow), -127, 127).astype(np.int8)


def extract(gray: Image, count: int = FEATURES, mask: ImageMask | None = None) -> Features:
    """The ``count`` strongest SIFT features of an image (H, W) uint8 away from its mask; descriptors as RootSIFT."""
    wanted = count if mask is None else round(count / max(mask.clear_share, 0.2))
    space = ScaleSpace.of(gray)
    blobs = strongest_blobs(space, wanted)
    if mask is not None:
        blobs = blobs.select(mask.clear(blobs.pixels, np.maximum(MARGIN_PX, blobs.radius)))
    descriptors = np.minimum(np.round(describe(space, blobs) * 512.0), 255).astype(np.uint8)
    return Features(blobs.pixels, descriptors)


def match(a: Features, b: Features) -> np.ndarray:
    """(K, 2) indices of features of ``a`` and ``b`` that are mutual nearest neighbours and pass the ratio test."""
    if len(a.pixels) < 2 or len(b.pixels) < 2:
        return np.zeros((0, 2), int)
    first, second = short(a), short(b)
    if _AT_ONCE:
        return _matches_at_once(first, second, _rounded(a), _rounded(b))
    distinct, nearest = _distinct(first, second)
    rows = np.flatnonzero(distinct)
    # Usually few pass: checking those backwards costs less than the best of every column.
    mutual = rows[(second[nearest[rows]] @ first.T).argmax(axis=1) == rows]
    return np.stack([mutual, nearest[mutual]], axis=1)


def _distinct(first: Array32, second: Array32) -> tuple[np.ndarray, np.ndarray]:
    """(N,) which descriptors pass the ratio test, and the nearest (N,) of the second set."""
    best, distinct = [np.zeros(0, int)], [np.zeros(0, bool)]
    for low in range(0, len(first), _ROWS):
        similarity = first[low : low + _ROWS] @ second.T
        rows = np.arange(len(similarity))
        nearest = similarity.argmax(axis=1)
        top = similarity[rows, nearest]
        similarity[rows, nearest] = -1.0
        # Unit vectors: |x - y|^2 = 2 - 2 xy
        distinct.append((2.0 - 2.0 * top) < _RATIO**2 * (2.0 - 2.0 * similarity.max(axis=1)))
        best.append(nearest)
    return np.concatenate(distinct), np.concatenate(best)


def _matches_at_once(first: Array32, second: Array32, a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """The same from rounded descriptors ``a``, ``b``, if these leave no doubt, by compiled code: 3 times as fast.

    For processors that add up four products of int8 at once.
    """
    assert LIBRARY is not None
    nearest, back = np.empty(len(a), np.int32), np.empty(len(b), np.int32)
    squares, squares_back = np.empty((len(a), 2), np.int32), np.empty((len(b), 2), np.int32)
    arrays = (part.ctypes for part in (a, b, nearest, squares, back, squares_back))
    if not LIBRARY.nearest_descriptors(ctypes.c_long(len(a)), ctypes.c_long(len(b)), *arrays):
        raise MemoryError
    best, next_best = squares.T.astype(np.float64)
    margin = _RATIO**2 * next_best - best
    doubt = np.flatnonzero(np.abs(margin) < _DOUBT * (np.sqrt(best) + _RATIO**2 * np.sqrt(next_best)))
    distinct = margin > 0
    distinct[doubt], nearest[doubt] = _distinct(first[doubt], second)
    rows = np.flatnonzero(distinct)
    best, next_best = squares_back[nearest[rows]].T.astype(np.float64)
    doubt = np.flatnonzero(next_best - best < _DOUBT * (np.sqrt(best) + np.sqrt(next_best)))
    from_b = back[nearest[rows]]
    from_b[doubt] = (second[nearest[rows[doubt]]] @ first.T).argmax(axis=1)
    mutual = rows[from_b == rows]
    return np.stack([mutual, nearest[mutual].astype(int)], axis=1)


def epipolar_inliers(a: Array, b: Array) -> np.ndarray:
    """(K,) which of the correspondences (K, 2) agree with one fundamental matrix (MAGSAC++); none below 12."""
    if len(a) < _MIN_MATCHES:
        return np.zeros(len(a), bool)
    cv2.setRNGSeed(0)
    try:
        _, mask = cv2.findFundamentalMat(
            a.astype(np.float64), b.astype(np.float64), cv2.USAC_MAGSAC, _EPIPOLAR_PX, 0.9999, 5000
        )
    except cv2.error:  # some degenerate sets trip an assertion
        mask = None
    inliers = np.zeros(len(a), bool) if mask is None else mask.ravel().astype(bool)
    return inliers if inliers.sum() >= _MIN_MATCHES else np.zeros(len(a), bool)


def coherent(a: Array, b: Array) -> np.ndarray:
    """(K,) which of the correspondences (K, 2) move about as some of those around them do.

    Wrong matches along epipolar lines agree with any motion, so with a wrong one, too: they are many where lines run
    along the repeated patterns of a scene. Beyond a similarity of the whole image, neighbours' displacements differ
    little for their distance; two of them that agree are enough, since objects end. Where many matches are alone,
    neighbours lie at all depths, as in foliage, and say nothing: then all stay.
    """
    if len(a) <= _NEIGHBOURS:
        return np.ones(len(a), bool)
    cv2.setRNGSeed(0)
    b_S_a, _ = cv2.estimateAffinePartial2D(a, b, method=cv2.RANSAC, ransacReprojThreshold=_ABOUT_PX, maxIters=200)
    displacement = b - (a if b_S_a is None else a @ b_S_a[:, :2].T + b_S_a[:, 2])
    distance, near = (found[:, 1:] for found in cKDTree(a).query(a, _NEIGHBOURS + 1))
    differs = np.linalg.norm(displacement[near] - displacement[:, None], axis=2)
    agree = np.asarray(np.count_nonzero(differs < _SAME_PX + _STRETCH * distance, axis=1) >= 2)
    return agree if agree.mean() > _SMOOTH else np.ones(len(a), bool)


def agreeing(a: Array, b: Array) -> np.ndarray:
    """(K,) which of the correspondences (K, 2) agree on one fundamental matrix, and with some around them."""
    agree = np.flatnonzero(epipolar_inliers(a, b))
    inliers = np.zeros(len(a), bool)
    inliers[agree[coherent(a[agree], b[agree])]] = True
    return inliers


def matched(a: Features, b: Features, likely: Select | None = None) -> np.ndarray:
    """(K, 2) indices of features of ``a`` and ``b`` that match and agree with one motion.

    ``likely``: which (M,) of the pairs (M, 2) may be right, if something is known of the motion.
    """
    pairs = match(a, b)
    if likely is not None:
        pairs = pairs[likely(pairs)]
    return pairs[agreeing(a.pixels[pairs[:, 0]], b.pixels[pairs[:, 1]])]


@lru_cache(maxsize=32)  # of the same images again and again
def shows_twice(features: Features, width: float, height: float) -> str:
    """How an image of that size shows the same twice, as of a stereo camera; empty if it does not.

    Pixels are offsets from about its middle.
    """
    for axis, how in enumerate(("side by side", "one above the other")):
        later = features.pixels[:, axis] >= 0.0
        a, b = (Features(features.pixels[part], features.descriptors[part]) for part in (~later, later))
        pairs = match(a, b)
        half = np.where(np.arange(2) == axis, 0.5, 1.0) * (width, height)
        off = b.pixels[pairs[:, 1]] - a.pixels[pairs[:, 0]] - np.where(np.arange(2) == axis, half, 0.0)
        alike = np.count_nonzero((np.abs(off) < half * _PARALLAX).all(axis=1))
        if alike >= max(_TWICE, _OF_FEATURES * min(len(a.pixels), len(b.pixels)), _OF_MATCHES * len(pairs)):
            return how
    return ""
