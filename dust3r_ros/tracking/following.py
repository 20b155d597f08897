"""Corners followed from image to image by optical flow: landmarks that have a position, and all others."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, replace

import cv2
import numpy as np

from dust3r_ros.config import MapperConfig
from dust3r_ros.errors import GeometryError
from dust3r_ros.features.features import agreeing
from dust3r_ros.features.masks import MARGIN_PX, ImageMask
from dust3r_ros.features.patches import find_patches, softened
from dust3r_ros.geometry.pinhole import inside, project
from dust3r_ros.geometry.pose import PnpResult, by_chance, refine_pose, solve_pnp
from dust3r_ros.geometry.rigid import invert, transform
from dust3r_ros.tracking.exchange import FollowedPose, MapSnapshot, Renumbering
from dust3r_ros.types import Array, Array32, Image

_MAX_VAGUENESS = 0.05  # of a pose from few corners: standard deviation of the position over depth
MAX_ERROR_PX = 4.0
MOST_AGREE = 0.5  # a share of inliers that never occurs by chance, given enough corners
_FEWEST_AGREE = 1 / 6  # of the corners searched for and in view: in an image of something else, up to 0.13 agree
MANY = 40  # landmarks with a position that tell a pose, whatever is known of others
_REMEMBERED = 200  # about how many corners are kept to locate an image again at the end
_LEVELS = 3
_BACK_AND_FORTH_PX = 0.7
_ALL = 30  # newest images that are always kept, whatever the rate
HANDED = 64  # most images held by the back end: a snapshot may be of one of them
HOP = 3  # stride in images when corners are carried over many images between a snapshot and now
_FEW = 9  # images, of which none is left out
_FEWEST_FOR_VIEW = 20  # corners needed to find how the view changed
_VIEW_PX = 2.0  # tolerance for corners roughly on a plane
_REALIGNED_PX = 2.0  # how far from its followed position a corner is found again, at most
_ALIKE = 0.7  # least correlation of its surroundings
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
    position in the map is known; else the point is a guess, in the direction in which ``origins`` (N, 3) see it.
    """

    ids: np.ndarray
    pixels: Array
    points: Array
    anchors: Array
    placed: np.ndarray
    origins: Array

    def __len__(self) -> int:
        return len(self.ids)

    def select(self, keep: np.ndarray | slice) -> Corners:
        """The corners selected by a mask or index."""
        return Corners(*(part[keep] for part in vars(self).values()))

    def moved(self, pixels: Array, found: np.ndarray) -> Corners:
        """Those ``found`` (N,), at new pixels (N, 2)."""
        return replace(self, pixels=pixels).select(found)

    def fitting(self, inliers: np.ndarray) -> np.ndarray:
        """(N,) which corners fit a pose, which those without a position do, by which of the placed ones do."""
        fits = np.ones(len(self), bool)
        fits[self.placed] = inliers
        return fits

    def renumbered(self, new: Renumbering) -> Corners:
        """The corners by new ids, without those of landmarks that are gone; negative ids are of no landmark."""
        ids, own = new.of(self.ids), self.ids < 0
        return replace(self, ids=np.where(own, self.ids, ids)).select(own | (ids >= 0))

    def called(self, named: Renumbering) -> Corners:
        """The corners, those that have become landmarks by the ids of these."""
        ids = named.of(self.ids)
        return replace(self, ids=np.where(ids < 0, self.ids, ids))

    def join(self, more: Corners) -> Corners:
        """The corners of both sets."""
        return Corners(*map(np.concatenate, zip(vars(self).values(), vars(more).values(), strict=True)))


def no_corners() -> Corners:
    """An empty set."""
    pixels, points = np.zeros((0, 2)), np.zeros((0, 3))
    return Corners(np.zeros(0, np.int64), pixels, points, pixels, np.zeros(0, bool), points)


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
        """Images after a stamp, and the newest, in order: of more than ``_FEW``, every ``HOP``-th."""
        later = [gray for stamp, gray in self._images if stamp > stamp_ns]
        hop = 1 if len(later) <= _FEW else HOP
        return [gray for stamp, gray in self._old if stamp > stamp_ns] + later[::-1][::hop][::-1]


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
            points, offsets, known.focal, (0.0, 0.0),
            threshold_px=MAX_ERROR_PX, min_inliers=fewest, seed=config.seed, near=near,
        )  # fmt: skip
    except GeometryError:
        return None
    agree = int(found.inliers.sum())
    if agree >= MANY and agree >= MOST_AGREE * len(corners):
        return found
    # Corners are found near where they were, even in an image of something else: a few agree on the last pose.
    seen = known.lens.seen(project(transform(invert(found.w_T_c), sought.points), known.focal, (0.0, 0.0)))
    in_view = int(np.all(np.abs(seen) <= middle, axis=1).sum())
    if agree < _FEWEST_AGREE * in_view or found.relative_std(points) > _MAX_VAGUENESS:
        return None
    return None if by_chance(found, points, offsets, MAX_ERROR_PX) else found


def tracked_size(width: int, height: int, tracking_size: int) -> tuple[float, tuple[int, int]]:
    """Scale and (width, height) of the tracked image of a native one: no longer than ``tracking_size`` pixels.

    An image of at most half that size is doubled. That shows features as fine as its pixels, which are the best
    located ones (Lowe, "Distinctive image features from scale-invariant keypoints", IJCV 2004, section 3.3). Enlarged
    by less, images gained nothing.
    """
    fits = tracking_size / max(width, height)
    scale = 2.0 if fits >= 2.0 else min(1.0, fits)
    return scale, (round(width * scale), round(height * scale))


def tracked(gray: Image, size: tuple[int, int]) -> Image:
    """The tracked image of ``size`` (width, height) of a native one (H, W) uint8; itself if it has that size."""
    height, width = gray.shape
    if size == (width, height):
        return gray
    return np.asarray(cv2.resize(gray, size, interpolation=cv2.INTER_AREA if size[0] < width else cv2.INTER_CUBIC))


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
    return there.astype(np.float64), found & found_back & _returns(b, there, back - start)


def _returns(image: Image, there: Array32, off: Array32) -> np.ndarray:
    """(N,) which corners at ``there`` (N, 2) in an image lie inside it, and are found ``off`` (N, 2) by little."""
    return inside(there, image.shape) & (np.linalg.norm(off, axis=1) < _BACK_AND_FORTH_PX)


def realigned(keyframe: Image, image: Image, anchors: Array, pixels: Array) -> Array:
    """``pixels`` (N, 2) of corners in an image, measured again from a keyframe's ``anchors`` (N, 2).

    Corners followed from image to image drift, and corners searched for over many images are off because their
    surroundings look different. So the keyframe's patches are searched for, each with its own affine shape, which
    begins as that of the homography of all corners. A corner not found close by stays where it is.
    """
    if len(pixels) < _FEWEST_FOR_VIEW:
        return pixels
    image_H_keyframe, _ = cv2.findHomography(anchors, pixels, cv2.USAC_FAST, _VIEW_PX)
    if image_H_keyframe is None:
        return pixels
    seen = np.column_stack([anchors, np.ones(len(anchors))]) @ image_H_keyframe.T
    slopes = image_H_keyframe[:2, :2] - (seen[:, :2] / seen[:, 2:])[:, :, None] * image_H_keyframe[2, :2]
    warps = np.concatenate([slopes / seen[:, 2:, None], pixels[:, :, None]], axis=2)
    found = find_patches(softened(keyframe), anchors, [softened(image)], np.zeros(len(anchors)), warps)
    close = np.linalg.norm(found.pixels - pixels, axis=1) < _REALIGNED_PX
    return np.where((close & (found.similarity > _ALIKE))[:, None], found.pixels, pixels)


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


_FLOW_LONG_EDGE = 320
_FLOW_SHORT_EDGE = 32  # on smaller images OpenCV may choose patches larger than they are, and crash
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

    def moved(self, ids: np.ndarray, pixels: Array) -> Tracks:
        """The corners, those of ``ids`` (K,), each of which is among them once, at ``pixels`` (K, 2)."""
        order, changed = np.argsort(self.ids), self.pixels.copy()
        changed[order[np.searchsorted(self.ids, ids, sorter=order)]] = pixels
        return Tracks(self.ids, changed)

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
    ``share``: of the corners that were followed into the last image.
    """

    def __init__(self) -> None:
        self.tracks, self.share = no_tracks(), 0.0
        self._gray: Image | None = None
        self._even: Image | None = None
        self._small: Image | None = None
        self._flow = wide_flow()

    def follow(self, gray: Image, seen: Tracks | None = None) -> Tracks:
        """The previous image's corners found in ``gray`` (H, W) uint8, which then becomes the previous image.

        ``seen``: corners already followed through the images in between; if they are few, the others are searched
        for.
        """
        even, small, before = evened(gray), shrink(gray), len(self.tracks.ids)
        if seen is not None:
            self.tracks = self._join(even, small, seen.unique())
        elif self._even is not None and len(self.tracks.ids):
            self.tracks = self._follow(even, small)
        self.share = len(self.tracks.ids) / max(before, 1) if seen is None else 1.0
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
        good = found & found_back & _returns(even, forth, back - start)
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
    """The image (h, w) used for dense flow: at most 320 pixels wide or high, but nowhere narrower than 32."""
    scale = min(1.0, _FLOW_LONG_EDGE / max(gray.shape))
    if scale == 1.0 and min(gray.shape) >= _FLOW_SHORT_EDGE:
        return gray
    size = (max(_FLOW_SHORT_EDGE, round(gray.shape[1] * scale)), max(_FLOW_SHORT_EDGE, round(gray.shape[0] * scale)))
    return cv2.resize(gray, size, interpolation=cv2.INTER_AREA)
