"""Where depth ran over an outline into a region that no pair knows: sky, a blank wall far behind."""

from __future__ import annotations

import cv2
import numpy as np

from dust3r_ros.types import Array32, Image

_PLANES = 1 / 32  # of the long edge: how far the planes of filling may run over an outline
_PATCHES = 6  # pixels: how far flow may
_STEPS = 6  # samples on each side of a pixel, in each direction, over one and a half times the reach
_ALIKE = 12  # grey levels, in each channel, within which two pixels look alike
_LEAST_CORE = 7  # pixels: what holds no square of this side without depth is a gap and no region
_DEEP = np.float32(0.6)  # of the way from the rim of what has depth to its middle: surely no overrun
_LEAST_VOTES = 4
_MARGIN = 3  # times as many look-alikes without depth as with it


def cut_at_outlines(depth: Array32, confidence: Array32, image: Image) -> tuple[Array32, Array32]:
    """Depth (H, W), 0 = none, and confidence (H, W) >= 1 without the rims that belong to regions of no depth.

    Outlines of things are edges of the ``image`` (H, W, 3) uint8, but the patches of flow and the planes of
    filling run over them. A pixel near a region without depth is compared with samples of that region
    and of the inner part of what has depth: if it looks like the former and hardly any of the latter
    looks like it, it belongs to the region. Where nothing in the image tells the two apart, depth stays.
    The pixels next to what is cut show some of both sides and go too.
    """
    known = confidence > 1
    square = np.ones((_LEAST_CORE, _LEAST_CORE), np.uint8)
    core = cv2.morphologyEx((~known).astype(np.uint8), cv2.MORPH_OPEN, square)
    if not known.any() or not core.any():
        return depth, confidence
    reach = _PATCHES + round(_PLANES * max(depth.shape))
    away = cv2.distanceTransform(1 - core, cv2.DIST_L2, 3)
    middle = cv2.dilate(away, np.ones((2 * reach + 1, 2 * reach + 1), np.uint8))
    inner = (known & (away > np.minimum(reach, _DEEP * middle))).astype(np.uint8)
    out, within = _votes(image, core, inner, 1.5 * reach)
    foreign = known & (away <= reach) & (out >= _LEAST_VOTES) & (out > _MARGIN * within.astype(np.int32))
    # Speckles of a thing in the region's colour are no part of the region
    cut = cv2.morphologyEx((foreign | (core > 0)).astype(np.uint8), cv2.MORPH_OPEN, np.ones((3, 3), np.uint8))
    mixed = cv2.dilate(cut * known, np.ones((3, 3), np.uint8)) > 0
    keep = known & ~mixed
    return np.where(keep, depth, np.float32(0)), np.where(keep, confidence, np.float32(1))


def _votes(image: Image, core: np.ndarray, inner: np.ndarray, reach: float) -> tuple[np.ndarray, np.ndarray]:
    """How many samples of ``core`` and of ``inner`` (H, W) around each pixel look like it, (H, W) uint8 each."""
    height, width = core.shape
    step = max(1, round(reach / _STEPS))
    pad = _STEPS * step
    channels = [np.ascontiguousarray(image[..., k]) for k in range(3)]
    wide = [cv2.copyMakeBorder(part, pad, pad, pad, pad, cv2.BORDER_CONSTANT) for part in (*channels, core, inner)]
    votes = np.zeros((2, height, width), np.uint8)
    for dy in range(0, 2 * pad + 1, step):
        for dx in range(0, 2 * pad + 1, step):
            red, green, blue, without, within = (part[dy : dy + height, dx : dx + width] for part in wide)
            off = cv2.max(cv2.absdiff(channels[0], red), cv2.absdiff(channels[1], green))
            off = cv2.max(off, cv2.absdiff(channels[2], blue))
            alike = cv2.threshold(off, _ALIKE, 1, cv2.THRESH_BINARY_INV)[1]
            cv2.add(votes[0], cv2.min(alike, without), dst=votes[0])
            cv2.add(votes[1], cv2.min(alike, within), dst=votes[1])
    return votes[0], votes[1]
