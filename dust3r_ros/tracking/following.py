"""Corners with a position in the map, and how they are followed from one image to another."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, replace

import cv2
import numpy as np

from dust3r_ros.config import MapperConfig
from dust3r_ros.errors import GeometryError
from dust3r_ros.geometry.pinhole import project
from dust3r_ros.geometry.pose import PnpResult, by_chance, refine_pose, solve_pnp
from dust3r_ros.geometry.rigid import invert, transform
from dust3r_ros.tracking.exchange import FollowedPose, MapSnapshot, Renumbering
from dust3r_ros.types import Array, Image

_MAX_VAGUENESS = 0.05  # of a pose from few corners: standard deviation of the position over depth
MAX_ERROR_PX = 4.0
MOST_AGREE = 0.5  # a share of inliers that never occurs by chance, given enough corners
_FEWEST_AGREE = 1 / 6  # of the corners searched for and in view: in an image of something else, up to 0.13 agree
_MANY = 40
_REMEMBERED = 200  # about how many corners are kept to locate an image again at the end
_LEVELS = 3
_BACK_AND_FORTH_PX = 0.7
_ALL = 30  # newest images that are always kept, whatever the rate
HANDED = 64  # most images held by the back end: a snapshot may be of one of them
HOP = 3  # stride in images when corners are carried over many images between a snapshot and now
_FEWEST_FOR_VIEW = 20  # corners needed to find how the view changed
_VIEW_PX = 2.0  # tolerance for corners roughly on a plane
_REALIGNED_PX = 1.5  # how far from its followed position a corner is searched for
_SURROUNDINGS = 21  # quarter pixels: four windows
_EVEN_MEAN, _EVEN_SPREAD = 128.0, 40.0  # grey levels
_NOISE = 6.0  # grey levels: less contrast is not amplified as if it were texture
_UNLIKE = 0.5 * _EVEN_SPREAD  # mean difference of two windows: of the same spot it is below, of noise above
_WINDOW = (21, 21)
_QUICK_WINDOW = (16, 21)  # rows fill SIMD vectors: half the time of 21 x 21, and poses as good
_EXACT = (cv2.TERM_CRITERIA_EPS | cv2.TERM_CRITERIA_COUNT, 30, 0.01)
_CRITERIA = (cv2.TERM_CRITERIA_EPS | cv2.TERM_CRITERIA_COUNT, 12, 0.03)


@dataclass(frozen=True, eq=False)
class Corners:
    """Landmarks in one image: ``ids`` (N,), ``pixels`` (N, 2), ``points`` (N, 3) in the map.

    ``anchors`` (N, 2): where the last keyframe saw them, pixels, NaN where it did not. ``placed`` (N,): whether their
    position in the map is known; else the point is a guess.
    """

    ids: np.ndarray
    pixels: Array
    points: Array
    anchors: Array
    placed: np.ndarray

    def __len__(self) -> int:
        return len(self.ids)

    def select(self, keep: np.ndarray | slice) -> Corners:
        """The corners selected by a mask or index."""
        return Corners(self.ids[keep], self.pixels[keep], self.points[keep], self.anchors[keep], self.placed[keep])

    def moved(self, pixels: Array, found: np.ndarray) -> Corners:
        """Those ``found`` (N,), at new pixels (N, 2)."""
        return replace(self, pixels=pixels).select(found)

    def renumbered(self, new: Renumbering) -> Corners:
        """The corners by new ids, without those of landmarks that are gone."""
        ids = new.of(self.ids)
        return replace(self, ids=ids).select(ids >= 0)

    def join(self, more: Corners) -> Corners:
        """The corners of both sets."""
        return Corners(
            np.concatenate([self.ids, more.ids]),
            np.concatenate([self.pixels, more.pixels]),
            np.concatenate([self.points, more.points]),
            np.concatenate([self.anchors, more.anchors]),
            np.concatenate([self.placed, more.placed]),
        )


def no_corners() -> Corners:
    """An empty set."""
    return Corners(np.zeros(0, np.int64), np.zeros((0, 2)), np.zeros((0, 3)), np.zeros((0, 2)), np.zeros(0, bool))


class RecentImages:
    """The newest tracked images of a camera by stamp: a snapshot is of one of them.

    Keeps the newest 30, every third of those before (``count`` of these), and those that were handed over. Keeps all
    until ``thin`` is called.
    """

    def __init__(self, count: int) -> None:
        self._images: deque[tuple[int, Image]] = deque()  # in order
        self._old: deque[tuple[int, Image]] = deque(maxlen=count)
        self._handed: deque[int] = deque(maxlen=HANDED)  # stamps
        self._passed = 0
        self._thin = False

    def add(self, stamp_ns: int, gray: Image) -> None:
        """The newest image."""
        self._images.append((stamp_ns, gray))
        if len(self._images) > _ALL:
            oldest = self._images.popleft()
            self._passed += 1
            if not self._thin or self._passed % HOP == 0 or oldest[0] in self._handed:
                self._old.append(oldest)

    def thin(self) -> None:
        """Thin older images from now on."""
        if not self._thin:
            self._thin = True
            kept = [item for at, item in enumerate(self._old) if at % HOP == 0 or item[0] in self._handed]
            self._old = deque(kept, maxlen=self._old.maxlen)

    def hand_over(self, stamp_ns: int) -> None:
        """Keep an image, because a snapshot may be of it."""
        self._handed.append(stamp_ns)

    @property
    def newest(self) -> Image | None:
        """The image that came last."""
        return self._images[-1][1] if self._images else None

    def at(self, stamp_ns: int) -> Image | None:
        """The image of a stamp; None if it is not kept."""
        return next((gray for stamp, gray in (*self._images, *self._old) if stamp == stamp_ns), None)

    def until(self, stamp_ns: int) -> list[tuple[int, Image]]:
        """Stamps and images up to a stamp, newest first."""
        return [item for item in (*self._old, *self._images) if item[0] <= stamp_ns][::-1]

    def since(self, stamp_ns: int) -> list[Image]:
        """Every ``HOP``-th image after a stamp, and the newest; in order."""
        later = [gray for stamp, gray in self._images if stamp > stamp_ns]
        return [gray for stamp, gray in self._old if stamp > stamp_ns] + later[::-1][::HOP][::-1]


def followed(known: MapSnapshot, stamp_ns: int, w_T_c: Array, corners: Corners, middle: Array) -> FollowedPose:
    """The pose of an image for the map's record, with some of its placed ``corners`` to locate it again."""
    some = corners.select(slice(None, None, max(1, len(corners) // _REMEMBERED)))
    k_T_c = invert(known.w_T_k) @ w_T_c
    seen = some.ids, some.pixels - middle, known.stamp_ns, known.numbering
    return FollowedPose(stamp_ns, known.camera, known.epoch, known.keyframe, k_T_c, known.unit, *seen)


def locate(
    known: MapSnapshot, corners: Corners, sought: Corners, middle: Array, near: Array, config: MapperConfig
) -> PnpResult | None:
    """Pose of an image from placed corners; None if too few agree to rule out chance or to determine it.

    ``sought``: all those searched for, found or not; ``middle`` (2,): the centre of the tracked image; ``near``
    (4, 4): a guess.
    """
    points, offsets, fewest = corners.points, known.lens.ideal(corners.pixels - middle), config.track_min_inliers
    found = refine_pose(points, offsets, known.focal, near, threshold_px=MAX_ERROR_PX, min_inliers=fewest)
    try:
        found = found or solve_pnp(
            points,
            offsets,
            known.focal,
            (0.0, 0.0),
            threshold_px=MAX_ERROR_PX,
            min_inliers=fewest,
            seed=config.seed,
            near=near,
        )
    except GeometryError:
        return None
    agree = int(found.inliers.sum())
    if agree >= _MANY and agree >= MOST_AGREE * len(corners):
        return found
    # Corners are found near where they were, even in an image of something else: a few agree on the last pose.
    seen = known.lens.seen(project(transform(invert(found.w_T_c), sought.points), known.focal, (0.0, 0.0)))
    in_view = int(np.all(np.abs(seen) <= middle, axis=1).sum())
    if agree < _FEWEST_AGREE * in_view or found.relative_std(points) > _MAX_VAGUENESS:
        return None
    return None if by_chance(found, points, offsets, MAX_ERROR_PX) else found


def evened(gray: Image) -> Image:
    """An image (H, W) uint8 with about the same brightness and contrast everywhere, for ``follow``.

    Lucas-Kanade compares grey levels, which change with a camera's exposure, flickering lamps, highlights and shadows.
    """
    height, width = gray.shape
    size, window = (max(1, width // 4), max(1, height // 4)), (_SURROUNDINGS, _SURROUNDINGS)
    small, squares = cv2.resize(gray, size, interpolation=cv2.INTER_AREA), cv2.multiply(gray, gray, dtype=cv2.CV_32F)
    mean = cv2.boxFilter(small, cv2.CV_32F, window)
    variance = cv2.boxFilter(cv2.resize(squares, size, interpolation=cv2.INTER_AREA), -1, window) - mean * mean
    gain = _EVEN_SPREAD / (np.sqrt(np.maximum(variance, 0.0)) + _NOISE)
    shift = cv2.resize(_EVEN_MEAN - mean * gain, (width, height))
    scaled = cv2.multiply(gray, cv2.resize(gain, (width, height)), dtype=cv2.CV_32F)
    return cv2.add(scaled, shift, scaled, dtype=cv2.CV_8U)


def follow(a: Image, b: Image, pixels: Array, guess: Array, levels: int = _LEVELS) -> tuple[Array, np.ndarray]:
    """Where corners (N, 2) of image ``a`` are in ``b``, from a guess (N, 2), and which (N,) are tracked back to ``a``.

    Both images are ``evened``. ``levels``: how often they are halved; each level doubles the permitted error of the
    guess.
    """
    if not len(pixels):
        return np.zeros((0, 2)), np.zeros(0, bool)
    start = pixels.astype(np.float32)
    there, found = lucas_kanade(a, b, start, guess, levels, _CRITERIA, _QUICK_WINDOW)
    back, found_back = lucas_kanade(b, a, there, start, 0, _CRITERIA, _QUICK_WINDOW)
    inside = np.all((there > 0) & (there < [b.shape[1] - 1, b.shape[0] - 1]), axis=1)
    good = found & found_back & inside & (np.linalg.norm(back - start, axis=1) < _BACK_AND_FORTH_PX)
    return there.astype(np.float64), good


def realigned(keyframe: Image, image: Image, anchors: Array, pixels: Array) -> Array:
    """``pixels`` (N, 2) of corners in an image, measured again from a keyframe's ``anchors`` (N, 2).

    Corners followed from image to image drift, and corners searched for over many images are off because their
    surroundings look different. So the image is warped into the keyframe's view by the homography of all corners
    before the search. A corner not found close by stays where it is.
    """
    if len(pixels) < _FEWEST_FOR_VIEW:
        return pixels
    keyframe_H_image, _ = cv2.findHomography(pixels, anchors, cv2.RANSAC, _VIEW_PX)
    if keyframe_H_image is None:
        return pixels
    seen = cv2.warpPerspective(image, keyframe_H_image, image.shape[::-1])
    before = cv2.perspectiveTransform(pixels[:, None], keyframe_H_image)[:, 0]
    after, found = lucas_kanade(keyframe, seen, anchors.astype(np.float32), before, 0, _EXACT, _QUICK_WINDOW)
    found &= np.linalg.norm(after - before, axis=1) < _REALIGNED_PX
    back = cv2.perspectiveTransform(after[:, None].astype(np.float64), np.linalg.inv(keyframe_H_image))[:, 0]
    return np.where(found[:, None], back, pixels)


def lucas_kanade(
    a: Image,
    b: Image,
    points: np.ndarray,
    guess: np.ndarray,
    levels: int = 3,
    criteria: tuple[int, int, float] = _EXACT,
    window: tuple[int, int] = _WINDOW,
) -> tuple[np.ndarray, np.ndarray]:
    """Where points (N, 2) float32 of image ``a`` are in ``b``, from a guess (N, 2); and which (N,) were found.

    Both images are ``evened``.
    """
    moved, status, difference = cv2.calcOpticalFlowPyrLK(
        a,
        b,
        points.reshape(-1, 1, 2),
        guess.astype(np.float32).reshape(-1, 1, 2).copy(),
        winSize=window,
        maxLevel=levels,
        criteria=criteria,
        flags=cv2.OPTFLOW_USE_INITIAL_FLOW,
    )
    return moved.reshape(-1, 2), status.ravel().astype(bool) & (difference.ravel() < _UNLIKE)
