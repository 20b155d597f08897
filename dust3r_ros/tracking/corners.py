"""Corners followed from frame to frame by optical flow."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import cv2
import numpy as np

from dust3r_ros.features.features import agreeing
from dust3r_ros.features.masks import MARGIN_PX, ImageMask
from dust3r_ros.tracking.exchange import Renumbering
from dust3r_ros.tracking.following import evened, lucas_kanade
from dust3r_ros.types import Array, Array32, Image

_FORTH_AND_BACK_PX = 0.7
_FLOW_LONG_EDGE = 320
_SPACING_PX = 9
_ENOUGH_SEEN = 150  # corners already followed elsewhere: with this many, others are not worth the search


@dataclass(frozen=True, eq=False)
class Tracks:
    """Corners in one image: ``ids`` (N,) and ``pixels`` (N, 2)."""

    ids: np.ndarray
    pixels: Array

    def select(self, keep: np.ndarray) -> Tracks:
        """The corners selected by a mask or index."""
        return Tracks(self.ids[keep], self.pixels[keep])

    def unique(self) -> Tracks:
        """Each id once, at its first position; sorted by id."""
        ids, first = np.unique(self.ids, return_index=True)
        return Tracks(ids, self.pixels[first])

    def called(self, ids: np.ndarray) -> Tracks:
        """The corners with new ids, ``ids[k]`` for k; each id once."""
        return Tracks(ids[self.ids], self.pixels).unique()

    def renumbered(self, new: Renumbering) -> Tracks:
        """The corners by new ids, without those of landmarks that are gone."""
        ids = new.of(self.ids)
        return Tracks(ids, self.pixels).select(ids >= 0)


def join(a: Tracks, b: Tracks) -> Tracks:
    """The corners of both sets."""
    return Tracks(np.concatenate([a.ids, b.ids]), np.concatenate([a.pixels, b.pixels]))


def no_tracks() -> Tracks:
    """An empty set."""
    return Tracks(np.zeros(0, np.int64), np.zeros((0, 2)))


class CornerTracker:
    """Follows corners of one camera by pyramidal Lucas-Kanade, back and forth.

    Dense flow of a small image (DIS, Kroeger et al., ECCV 2016) gives each corner a start that holds
    for steps of up to a tenth of the image; the fundamental matrix drops what moves independently.
    """

    def __init__(self) -> None:
        self.tracks = no_tracks()
        self._gray: Image | None = None
        self._even: Image | None = None
        self._small: Image | None = None
        self._flow = wide_flow()

    def follow(self, gray: Image, seen: Tracks | None = None) -> Tracks:
        """The previous image's corners found in ``gray`` (H, W) uint8, which then becomes the previous image.

        ``seen``: corners already followed through the images in between; if they are few, the others are searched
        for.
        """
        even, small = evened(gray), shrink(gray)
        if seen is not None:
            self.tracks = self._join(even, small, seen.unique())
        elif self._even is not None and len(self.tracks.ids):
            self.tracks = self._follow(even, small)
        self._gray, self._even, self._small = gray, even, small
        return self.tracks

    def drop(self, keep: Callable[[Array], np.ndarray]) -> Tracks:
        """Keep only the corners for whose pixels (N, 2) ``keep`` is true."""
        self.tracks = self.tracks.select(keep(self.tracks.pixels))
        return self.tracks

    def corners(self, count: int, apart_from: Array, image_mask: ImageMask | None = None) -> Array:
        """At most ``count`` new corners (N, 2) of the last image, away from given pixels (M, 2) and from its mask."""
        assert self._gray is not None, "an image comes first"
        if count <= 0:
            return np.zeros((0, 2))
        mask = np.full(self._gray.shape, 255, np.uint8)
        if image_mask is not None:
            mask[image_mask.distance <= MARGIN_PX] = 0
        for u, v in np.round(apart_from).astype(int):
            cv2.circle(mask, (int(u), int(v)), _SPACING_PX, 0, -1)
        corners = cv2.goodFeaturesToTrack(self._gray, count, 0.003, _SPACING_PX, mask=mask)
        if corners is None:
            return np.zeros((0, 2))
        corners = cv2.cornerSubPix(
            self._gray, corners, (3, 3), (-1, -1), (cv2.TERM_CRITERIA_EPS | cv2.TERM_CRITERIA_COUNT, 10, 0.03)
        )
        return corners.reshape(-1, 2).astype(np.float64)

    def _follow(self, even: Image, small: Image) -> Tracks:
        good, pixels = self._found(even, small, self.tracks.pixels)
        moved = Tracks(self.tracks.ids[good], pixels)
        inliers = agreeing(self.tracks.pixels[good], moved.pixels)
        return moved.select(inliers)

    def _join(self, even: Image, small: Image, seen: Tracks) -> Tracks:
        """``seen``, and those of the others that agree with them on one fundamental matrix."""
        missing = self.tracks.select(~np.isin(self.tracks.ids, seen.ids))
        if self._even is None or not len(missing.ids) or len(seen.ids) > _ENOUGH_SEEN:
            return seen
        _, before, now = np.intersect1d(self.tracks.ids, seen.ids, return_indices=True)
        good, pixels = self._found(even, small, missing.pixels)
        here = np.concatenate([pixels, seen.pixels[now]])
        inliers = agreeing(np.concatenate([missing.pixels[good], self.tracks.pixels[before]]), here)
        return join(seen, Tracks(missing.ids[good], pixels).select(inliers[: len(pixels)]))

    def _found(self, even: Image, small: Image, pixels: Array) -> tuple[np.ndarray, Array]:
        """(N,) which pixels (N, 2) of the previous image are found in ``even`` and back, and where (M, 2) those are."""
        start = pixels.astype(np.float32)
        scale = small.shape[1] / even.shape[1]
        assert self._even is not None and self._small is not None, "an image comes first"
        flow = self._flow.calc(self._small, small, None)
        guess = carried(pixels, flow, scale)
        forth, found = lucas_kanade(self._even, even, start, guess)
        back, found_back = lucas_kanade(even, self._even, forth, start)
        inside = np.all((forth > 0) & (forth < [even.shape[1] - 1, even.shape[0] - 1]), axis=1)
        good = found & found_back & inside & (np.linalg.norm(back - start, axis=1) < _FORTH_AND_BACK_PX)
        return good, forth[good].astype(np.float64)


def wide_flow() -> cv2.DISOpticalFlow:
    """Dense flow of small images, about 2 ms each, for steps of up to a tenth of the image.

    The fast preset with patches twice as close and more iterations: far fewer of them go astray on the coarse levels.
    """
    flow = cv2.DISOpticalFlow_create(cv2.DISOPTICAL_FLOW_PRESET_FAST)
    flow.setPatchStride(2)
    flow.setGradientDescentIterations(25)
    return flow


def carried(pixels: Array, flow: Array32, scale: float) -> Array:
    """Where the flow (h, w, 2) of an image scaled by ``scale`` takes pixels (N, 2)."""
    at = np.round((pixels + 0.5) * scale - 0.5).astype(int)
    at = np.clip(at, 0, [flow.shape[1] - 1, flow.shape[0] - 1])
    return pixels + flow[at[:, 1], at[:, 0]] / scale


def shrink(gray: Image) -> Image:
    """The image (h, w), at most 320 pixels wide or high, used for dense flow."""
    scale = _FLOW_LONG_EDGE / max(gray.shape)
    if scale >= 1.0:
        return gray
    size = (max(16, round(gray.shape[1] * scale)), max(16, round(gray.shape[0] * scale)))
    return cv2.resize(gray, size, interpolation=cv2.INTER_AREA)
