"""Regions of an image without texture: flow knows nothing there of its own."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from dust3r_ros.masks import Mask
from dust3r_ros.types import Array32, Image

_STEP = 8.0  # grey levels between neighbours, in each channel, that are texture; more in a noisy image
_SIGMAS = 3.0  # of noise
_LEAST_AREA = 0.002  # of the image
_LAPLACE = np.array([[1, -2, 1], [-2, 4, -2], [1, -2, 1]], np.float32)  # noise comes out 6 times as large
_PER_QUARTILE = 1 / 0.3186  # deviation of normal errors over the size that a quarter of them stays below
_NOISIEST = 5.0  # grey levels: more than that is texture


@dataclass(frozen=True, eq=False)
class PlainRegion:
    """A region in its box of the image: ``inside`` (h, w) says which pixels of [``rows``, ``columns``] it has.

    The box goes a margin further than the region, as far as the image does.
    """

    rows: slice
    columns: slice
    inside: Mask

    def depth_inside(self) -> Array32:
        """(h, w) pixels from the region's outline, 0 outside; where the image ends, the region does not."""
        return np.asarray(cv2.distanceTransform(self.inside.astype(np.uint8), cv2.DIST_L2, 3), np.float32)

    def outline(self) -> Mask:
        """(h, w) its outermost pixels, those at the image's border too."""
        inside = self.inside.astype(np.uint8)
        return (inside > 0) & (cv2.erode(inside, _square(3), borderType=cv2.BORDER_CONSTANT, borderValue=0) == 0)

    def grown(self, pixels: int) -> Mask:
        """(h, w) the region and what is so many pixels around it, diagonally too."""
        return cv2.dilate(self.inside.astype(np.uint8), _square(2 * pixels + 1)) > 0


def plain_regions(image: Image, margin: int) -> list[PlainRegion]:
    """Regions of 0.2 % of the ``image`` (H, W, 3) uint8 at least, in falling size, in boxes of ``margin`` more pixels.

    In a region no colour changes by more than a few grey levels within three pixels, so shading runs on through it and
    outlines end it.
    """
    soft = cv2.GaussianBlur(image, (3, 3), 0)
    step = (cv2.dilate(soft, _square(3)) - cv2.erode(soft, _square(3))).max(axis=2)
    plain = (step <= _STEP + _SIGMAS * _noise(image)).astype(np.uint8)
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
    """Standard deviation of a sensor's noise, grey levels (after Immerkaer, CVIU 1996), where the image is plainest."""
    response = cv2.filter2D(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), cv2.CV_32F, _LAPLACE)
    return min(float(np.quantile(np.abs(response), 0.25)) * _PER_QUARTILE / 6.0, _NOISIEST)


def _square(side: int) -> np.ndarray:
    return np.ones((side, side), np.uint8)
