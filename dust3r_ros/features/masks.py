"""An image's mask of pixels to leave out of the map, in the forms that tracking and depth need."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import cv2
import numpy as np
from numpy.typing import NDArray

from dust3r_ros.errors import InputError
from dust3r_ros.geometry.resize import Resize
from dust3r_ros.types import Array, Array32, Image, PairPrediction

MARGIN_PX = 10.0  # half the window of optical flow, also about the reach of a small feature's descriptor
_SMEAR = 1 / 100  # of the long edge: how blurred outlines are in dense flow
_BLACK = 8  # of 255, with the noise of a sensor and of compression
_LEAST_BORDER, _MOST_BORDER = 0.002, 0.7  # of the image
_COVERED = 8  # of 255: a smaller masked share of a pixel is rounding

Mask = NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class ImageMask:
    """What is left out of one image, for each use.

    ``distance`` (H, W) float32: pixels of the tracked image from the nearest one that is left out.
    ``working`` (h, w): which pixels of the working image are left out, grown by the blur of dense flow.
    """

    distance: Array32
    working: Mask

    @classmethod
    def of(cls, mask: Image, tracking_size: tuple[int, int], resize: Resize) -> ImageMask | None:
        """From a mask (H, W) at native size; ``tracking_size`` (width, height). None if nothing is left out."""
        if not mask.any():
            return None
        full = np.where(mask != 0, np.uint8(255), np.uint8(0))
        tracked = full
        if tracking_size != (full.shape[1], full.shape[0]):
            tracked = np.asarray(cv2.resize(full, tracking_size, interpolation=cv2.INTER_AREA), np.uint8)
        return cls(distance_from(tracked > _COVERED), grown(resize.apply(full) > _COVERED))

    @property
    def clear_share(self) -> float:
        """The share of the tracked image that may be used."""
        return float((self.distance > MARGIN_PX).mean())

    def clear(self, pixels: Array, reach: float | Array = MARGIN_PX) -> Mask:
        """(N,) which pixels (N, 2) of the tracked image are further than ``reach`` from everything left out."""
        height, width = self.distance.shape
        column, row = np.clip(np.round(pixels).astype(int), 0, [width - 1, height - 1]).T
        return np.asarray(self.distance[row, column] > reach)


class DarkBorder:
    """The black border of a camera's images: around the circle of a wide lens, or of rectified images.

    It stays where it is while the world moves, so its outline would be followed like a thing that moves along with the
    camera. It is what has been black in every image, from the edge of the image inwards.
    """

    def __init__(self) -> None:
        self._black: Mask | None = None

    def update(self, gray: Image) -> Mask | None:
        """Take in an image (H, W) uint8; returns which pixels (H, W) belong to the border, None if none do."""
        if self._black is not None and not self._black.any():
            return None
        black = np.asarray(cv2.blur(gray, (3, 3)) <= _BLACK)
        if black.mean() <= _MOST_BORDER:  # else the lens is covered, which says nothing
            black = black if self._black is None else black & self._black
            labels = cv2.connectedComponents(black.astype(np.uint8), connectivity=4)[1]
            edges = np.concatenate([labels[0], labels[-1], labels[:, 0], labels[:, -1]])
            black &= np.isin(labels, edges[edges > 0])
            self._black = black if black.mean() >= _LEAST_BORDER else np.zeros_like(black)
        return self._black if self._black is not None and self._black.any() else None


def check_mask(mask: object, image: Image, camera: str) -> Image:
    """``mask`` if it is (H, W) uint8 and of the image's size; raises ``InputError``."""
    wanted = f"it must be (H, W) of uint8 and of the image's size, {image.shape[1]}x{image.shape[0]} pixels"
    if not isinstance(mask, np.ndarray) or mask.dtype != np.uint8 or mask.ndim != 2:
        found = f"{getattr(mask, 'dtype', type(mask).__name__)} {getattr(mask, 'shape', '')}"
        raise InputError(f"mask of camera '{camera}' is {found}; {wanted}")
    if mask.shape != image.shape[:2]:
        raise InputError(f"mask of camera '{camera}' has {mask.shape[1]}x{mask.shape[0]} pixels; {wanted}")
    return mask


def grown(mask: Mask, part: float = _SMEAR) -> Mask:
    """A mask (H, W) dilated by ``part`` of its long edge, at least a pixel."""
    radius = max(1, round(part * max(mask.shape)))
    disc = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * radius + 1, 2 * radius + 1))
    return np.asarray(cv2.dilate(mask.astype(np.uint8), disc)).astype(bool)


def without(pair: PairPrediction, masks: Mapping[int, Mask | None]) -> PairPrediction:
    """The prediction with confidence 1 under the masks (H, W) of its views, by their index."""
    return replace(
        pair,
        confidence_first=_outside(masks.get(pair.first), pair.confidence_first),
        confidence_second=_outside(masks.get(pair.second), pair.confidence_second),
    )


def _outside(mask: Mask | None, confidence: Array32) -> Array32:
    return confidence if mask is None else np.where(mask, np.float32(1.0), confidence)


def distance_from(mask: Mask) -> Array32:
    """(H, W) pixels from the nearest one that a mask (H, W) leaves out."""
    return np.asarray(cv2.distanceTransform((~mask).astype(np.uint8), cv2.DIST_L2, 3), np.float32)
