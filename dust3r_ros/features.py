"""SIFT features of keyframes and their matches: what carries geometry where steps are too wide for flow."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from dust3r_ros.masks import MARGIN_PX, ImageMask
from dust3r_ros.types import Array, Array32, Image

_RATIO = 0.8  # Lowe's ratio (Lowe, IJCV 2004)
_EPIPOLAR_PX = 1.5
_MIN_MATCHES = 12
# OpenCV finds features in the image at double size: aligned at the edge of the first pixel, coordinates halved as
# if at its middle.
_UPSCALING_SHIFT_PX = 0.25


@dataclass(frozen=True, eq=False)
class Features:
    """``pixels`` (N, 2) and RootSIFT ``descriptors`` (N, 128) of one grey image, 1/512 per unit of uint8."""

    pixels: Array
    descriptors: Image

    @property
    def unit(self) -> Array32:
        """Descriptors (N, 128) as float32 of length about 1."""
        return self.descriptors.astype(np.float32) / 512.0


def extract(gray: Image, count: int = 2000, mask: ImageMask | None = None) -> Features:
    """The ``count`` strongest SIFT features of an image (H, W) uint8 away from its mask; descriptors as RootSIFT."""
    # The low contrast threshold keeps features on plain walls; matching sorts out the bad ones.
    wanted = count if mask is None else round(count / max(mask.clear_share, 0.2))
    detector = cv2.SIFT_create(nfeatures=wanted, contrastThreshold=0.01)
    keypoints, descriptors = detector.detectAndCompute(gray, None)
    if not keypoints:
        return Features(np.zeros((0, 2)), np.zeros((0, 128), np.uint8))
    pixels = np.array([keypoint.pt for keypoint in keypoints], dtype=np.float64) - _UPSCALING_SHIFT_PX
    if mask is not None:
        clear = mask.clear(pixels, np.maximum(MARGIN_PX, [keypoint.size for keypoint in keypoints]))
        pixels, descriptors = pixels[clear], descriptors[clear]
    descriptors = np.sqrt(descriptors / np.maximum(descriptors.sum(axis=1, keepdims=True), 1e-9))
    # A corner with two dominant orientations comes twice at one place; both may match, one is kept.
    _, first = np.unique(np.round(pixels, 2), axis=0, return_index=True)
    first.sort()
    return Features(pixels[first], np.minimum(np.round(descriptors[first] * 512.0), 255).astype(np.uint8))


def match(a: Features, b: Features) -> np.ndarray:
    """(K, 2) indices of features of ``a`` and ``b`` that are each other's nearest and pass the ratio test."""
    if len(a.pixels) < 2 or len(b.pixels) < 2:
        return np.zeros((0, 2), int)
    first, second = a.unit, b.unit
    similarity = first @ second.T
    rows = np.arange(len(first))
    best = similarity.argmax(axis=1)
    top = similarity[rows, best]
    similarity[rows, best] = -1.0
    # Unit vectors: |x - y|^2 = 2 - 2 xy
    distinct = np.flatnonzero((2.0 - 2.0 * top) < _RATIO**2 * (2.0 - 2.0 * similarity.max(axis=1)))
    # Few pass as a rule: their way back costs less than the best of every column.
    back = (second[best[distinct]] @ first.T).argmax(axis=1)
    mutual = distinct[back == distinct]
    return np.stack([mutual, best[mutual]], axis=1)


def epipolar_inliers(a: Array, b: Array, threshold_px: float = _EPIPOLAR_PX) -> np.ndarray:
    """(K,) which of the correspondences (K, 2) agree with one fundamental matrix (MAGSAC++); none below 12."""
    if len(a) < _MIN_MATCHES:
        return np.zeros(len(a), bool)
    cv2.setRNGSeed(0)
    try:
        _, mask = cv2.findFundamentalMat(
            a.astype(np.float64), b.astype(np.float64), cv2.USAC_MAGSAC, threshold_px, 0.9999, 5000
        )
    except cv2.error:  # some degenerate sets trip an assertion
        mask = None
    inliers = np.zeros(len(a), bool) if mask is None else mask.ravel().astype(bool)
    return inliers if inliers.sum() >= _MIN_MATCHES else np.zeros(len(a), bool)


def matched(a: Features, b: Features) -> np.ndarray:
    """(K, 2) indices of features of ``a`` and ``b`` that match and agree on one fundamental matrix."""
    pairs = match(a, b)
    return pairs[epipolar_inliers(a.pixels[pairs[:, 0]], b.pixels[pairs[:, 1]])]
