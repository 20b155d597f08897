"""An image's mask of pixels to leave out of the map, in the forms that tracking and depth need."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import cv2
import numpy as np
from numpy.typing import NDArray
from scipy.fft import dctn, idctn

from dust3r_ros.errors import InputError
from dust3r_ros.geometry.resize import Resize
from dust3r_ros.types import Array, Array32, Image, PairPrediction

MARGIN_PX = 10.0  # half the window of optical flow, also about the reach of a small feature's descriptor
NOTHING = 254  # value of a mask where the image shows nothing, as beside a thing cut out; others hide what is there
_BESIDE_NOTHING = 5.0  # as far from it counts a pixel: a patch that reaches into it is the same in other images
_SMEAR = 1 / 100  # of the long edge: how blurred outlines are in dense flow
_BLACK = 8  # of 255, with the noise of a sensor and of compression
_LEAST_BORDER, _MOST_BORDER = 0.002, 0.7  # of the image
_COVERED = 8  # of 255: a smaller masked share of a pixel is rounding
_LONG_EDGE, _WINDOW, _SURROUNDINGS, _CELL = 480, 9, 61, 16  # pixels, of images in which motion is looked for
_SPREAD = 10.0  # of 255: contrast that is noise
_CORNER = 0.0015  # the least eigenvalue of the structure tensor
_STILL, _MOVED = 0.8**2, 2.0**2  # pixels squared
_WORLD = 0.5  # of the cells with corners
_REGION, _WITHIN = 0.5, 0.8  # of the image, and of the cells with corners in this part of it
_MEMORY, _CERTAIN = 16, 6  # times
_ALIKE, _SAME = 0.6, 0.9  # squared mean of gradients / mean of their squares
_RESTING, _MOSTLY = 0.5, 0.75  # the same, and how much of a world at rest is
_SHARP, _LESS_SHARP = 1 / 2, 1 / 6  # of what is alike: what is the same
_HARDLY, _ENDS, _AROUND = 0.2, 0.75, 0.3  # as _ALIKE; what is alike, of that; of what is around, what moves
_LEAST, _NEWS, _MORE = 0.001, 0.002, 0.01  # of the image: corners that stay, what is worth a new mask, a larger one
_MOST = 0.6  # of the image: more than any camera carries
_WELL_KNOWN, _SELDOM = 24, 8  # times that the world moved; images
_FAINT, _SHINING, _RESTING_PART = 0.45, 0.02, 0.12  # as _ALIKE; of the image; of the corners
_REACH = 0.03  # of the long edge: of what lies between corners that stay

Mask = NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class ImageMask:
    """What is left out of one image, for each use.

    ``distance`` (H, W) float32: pixels of the tracked image from the nearest one that is left out; five times as many
    from where it shows nothing.
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
        hidden = np.where(mask == NOTHING, np.uint8(0), full)
        distance = distance_from(_resized(hidden, tracking_size) > _COVERED)
        if (mask == NOTHING).any():
            distance = np.minimum(distance, _BESIDE_NOTHING * distance_from(_resized(full, tracking_size) > _COVERED))
        return cls(distance, grown(resize.apply(full) > _COVERED))

    def joined(self, other: ImageMask | None) -> ImageMask:
        """What this one or another one of the same image leaves out."""
        if other is None:
            return self
        return ImageMask(np.minimum(self.distance, other.distance), self.working | other.working)

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


class EgoMask:
    """What a camera carries along: the robot's hood or gripper, dirt on the lens, text burned into the images.

    It shows the same in every image while the world moves. As correspondences that say "not moved", it would make poses
    and focal length wrong, the more the straighter the camera moves. Counted are images in which the world has moved,
    all over the image: a camera that stands still carries nothing. What stays has gradients whose mean over these
    images is as strong as they are, in more than one direction: an edge may slide along itself. What a camera looks or
    goes at hardly moves either, but goes on into what moves more; what is carried ends at once.

    ``still`` (H, W) grey levels, to be subtracted: what shines through all over the image, such as a reflection in a
    windscreen, for which there is no mask: it draws weak corners of the world towards itself. None: nothing does.
    """

    def __init__(self) -> None:
        self._last: Array32 | None = None
        self._weakest = np.zeros((0, 0), np.float32)  # how much a motion of a pixel changes, at least
        self._gradients, self._squares = np.zeros((2, 0, 0), np.float32), self._weakest  # means; of x and y, their sum
        self._images = self._moves = 0
        self._carried: Mask | None = None
        self._ever = np.zeros((0, 0), bool)
        self.still: Array32 | None = None
        self._past: deque[Image] = deque(maxlen=_WELL_KNOWN)  # images between which the world moved
        self._rest = self._resting = 0.0  # the share of corners that did not move: last, and a mean
        self._shone = self._found = False
        self.appeared = False  # whether the last image showed for the first time that something shines through
        self.grew = False  # whether the last image showed that more is carried than was ever known

    def update(self, gray: Image) -> Mask | None:
        """Take in an image (H, W) uint8; returns which pixels (h, w), of a smaller image, are carried, None if none."""
        self._images += 1
        self.grew = self.appeared = False
        if self._moves < _WELL_KNOWN or self.still is not None or self._images % _SELDOM == 0:
            self._look(_evened(gray), gray)
        return self._carried

    def unveiled(self, gray: Image) -> Image:
        """An image (H, W) uint8 without what shines through."""
        return gray if self.still is None else np.clip(np.rint(gray - self.still), 0, 255).astype(np.uint8)

    def _look(self, image: Array32, gray: Image) -> None:
        if self._last is None:
            self._gradients, self._squares = np.zeros((2, *image.shape), np.float32), np.zeros_like(image)
            self._ever = np.zeros(image.shape, bool)
            self._remember(image)
            return
        change, corner = _difference(image, self._last), self._weakest > _CORNER
        still, moved = (change < _STILL * self._weakest) & corner, (change > _MOVED * self._weakest) & corner
        if not _all_over(moved, still, corner):
            return
        self._moves += 1
        self._remember(image)
        self._past.append(gray)
        outside = self._apart(corner)
        self._rest = float(still[outside].mean()) if outside.any() else 0.0
        self._resting += (self._rest - self._resting) / min(self._moves, _MEMORY)
        if self._moves >= _CERTAIN:
            self._decide(moved)

    def _remember(self, image: Array32) -> None:
        self._last, self._weakest = image, _least_eigenvalue(image)
        gradients = np.stack([cv2.Sobel(image, cv2.CV_32F, 1 - axis, axis, scale=1 / 8) for axis in (0, 1)])
        part = 1 / min(self._moves + 1, _MEMORY)
        self._gradients += part * (gradients - self._gradients)
        self._squares += part * ((gradients**2).sum(axis=0) - self._squares)

    def _decide(self, moved: Mask) -> None:
        """Which pixels are carried: corners that stay, and what lies between them and did not move."""
        before = np.zeros(moved.shape, bool) if self._carried is None else self._carried
        kept, all_of_it = cv2.blur((self._gradients**2).sum(axis=0), (3, 3)), cv2.blur(self._squares, (3, 3))
        stays = self._stays(before, kept, all_of_it)
        around = cv2.dilate(stays.astype(np.uint8), np.ones((_WINDOW, _WINDOW))).astype(bool)
        whole = ~grown(~grown(stays, _REACH), _REACH) & ~moved | around
        world = ~whole & (all_of_it > all_of_it.mean())
        if np.count_nonzero(world & (kept > _RESTING * all_of_it)) > _MOSTLY * np.count_nonzero(world):
            return  # noise or light changed, the world did not move
        if stays.mean() < _LEAST or whole.mean() > _MOST:
            self._carried = None
        elif np.mean(whole ^ before) >= _NEWS:
            self._carried = whole
            self.grew = np.mean(whole & ~self._ever) >= (_MORE if self._ever.any() else 0)
            if self.grew:
                self._ever |= whole
        if self._moves >= _WELL_KNOWN:
            self._see_through(kept, all_of_it)

    def _see_through(self, kept: Array32, all_of_it: Array32) -> None:
        """Find what shines through: corners that stay in part, while hardly any rest between two images."""
        faint = self._apart(self._corners(kept > _FAINT * all_of_it)).mean()
        known, shone = self.still is not None, self._shone
        rests = self._resting if known else max(self._rest, self._resting)
        shines = bool(faint > (_SHINING / 2 if known else _SHINING) and rests < _RESTING_PART)
        self._shone = shines
        if not shines:
            self.still = None
        elif shone and (self.still is None or self._moves % _WELL_KNOWN == 0):
            self.still = _constant(self._past)
            self.appeared, self._found = not self._found, True

    def _apart(self, chosen: Mask) -> Mask:
        """The ``chosen`` pixels (h, w) that are away from what is carried."""
        return chosen if self._carried is None else chosen & ~grown(self._carried)

    def _stays(self, before: Mask, kept: Array32, all_of_it: Array32) -> Mask:
        """The corners that stay; those that were carried ``before`` need to end less sharply."""
        alike, same = (self._corners(kept > share * all_of_it) for share in (_ALIKE, _SAME))
        labels = cv2.connectedComponents(grown(alike).astype(np.uint8))[1]
        many, sure, known = (np.bincount(labels[alike & of], minlength=labels.max() + 1) for of in (True, same, before))
        sharp = sure > np.where(2 * known > many, _LESS_SHARP, _SHARP) * many
        return np.asarray(alike & (sharp[labels] | self._ends(alike & before, kept, all_of_it)))

    def _ends(self, known: Mask, kept: Array32, all_of_it: Array32) -> Mask:
        """(h, w) where the ``known`` corners are nearly all that stays at all, and most of what is around them moves.

        The same text is strong on one background and weak on another, so hardly any of it may be the same.
        """
        if not known.any():
            return known
        region, around = grown(known), grown(known, _REACH)
        labels = cv2.connectedComponents(around.astype(np.uint8))[1]
        rests = kept > _HARDLY * all_of_it
        moves = ~rests & (all_of_it > 2 * _CORNER)
        corners, resting, ring, moving = (
            np.bincount(labels[of], minlength=labels.max() + 1)
            for of in (known, self._corners(rests), around & ~region, moves & ~region)
        )
        return np.asarray(((corners > _ENDS * resting) & (moving > _AROUND * ring))[labels] & around)

    def _corners(self, chosen: Mask) -> Mask:
        """(h, w) where the means of ``chosen`` gradients (h, w) make a corner."""
        x, y = self._gradients * chosen
        xx, xy, yy = (cv2.blur(of, (_WINDOW, _WINDOW)) for of in (x * x, x * y, y * y))
        xx, yy = xx - _CORNER, yy - _CORNER  # both of its eigenvalues are larger
        return np.asarray((xx * yy > xy * xy) & (xx > 0))


def _resized(mask: Image, size: tuple[int, int]) -> Image:
    """A mask (H, W) uint8, 255 where it is set, at another size (width, height)."""
    if size == (mask.shape[1], mask.shape[0]):
        return mask
    return np.asarray(cv2.resize(mask, size, interpolation=cv2.INTER_AREA), np.uint8)


def _evened(gray: Image) -> Array32:
    """The image (h, w), at most 480 pixels long, with the same contrast everywhere."""
    scale = min(1.0, _LONG_EDGE / max(gray.shape))
    small = gray if scale == 1 else cv2.resize(gray, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
    image = cv2.GaussianBlur(small.astype(np.float32), (3, 3), 0.8)
    mean, squares = (cv2.blur(of, (_SURROUNDINGS, _SURROUNDINGS)) for of in (image, image * image))
    variance = squares - mean * mean
    return np.asarray((image - mean) / (np.sqrt(variance.clip(0)) + _SPREAD), np.float32)


def _constant(images: Sequence[Image]) -> Array32:
    """(H, W) what all images show, less its surroundings: its gradients are the medians of theirs.

    Weiss, "Deriving intrinsic images from image sequences", ICCV 2001.
    """
    (height, width), stack = images[0].shape, np.stack(images).astype(np.int16)
    divergence = np.zeros((height, width), np.float32)
    for axis in (0, 1):
        step = np.median(np.diff(stack, axis=axis + 1), axis=0)
        divergence += np.diff(step, axis=axis, prepend=0, append=0)
    row, column = np.ogrid[:height, :width]
    laplacian = 2 * np.cos(np.pi * row / height) + 2 * np.cos(np.pi * column / width) - 4
    laplacian[0, 0] = np.inf  # the mean is unknown
    found = idctn(dctn(divergence, norm="ortho") / laplacian, norm="ortho").astype(np.float32)
    return np.asarray(found - cv2.blur(found, (_SURROUNDINGS, _SURROUNDINGS)))


def _difference(a: Array32, b: Array32) -> Array32:
    """(h, w) mean squared difference around each pixel."""
    return np.asarray(cv2.blur((a - b) ** 2, (_WINDOW, _WINDOW)), np.float32)


def _least_eigenvalue(image: Array32) -> Array32:
    """(h, w) by how much a motion of a pixel in the least favourable direction changes what is around each pixel."""
    # Its derivatives are twice those by pixels
    return np.asarray(cv2.cornerMinEigenVal(image, _WINDOW, ksize=3) / 4, np.float32)


def _all_over(moved: Mask, still: Mask, corner: Mask) -> bool:
    """Whether most corners (h, w) moved in enough parts of the image that have any, or everywhere in a large region.

    The region is what is between the parts that moved: the world may have fewer corners than what a camera carries.
    """
    size = max(1, corner.shape[1] // _CELL), max(1, corner.shape[0] // _CELL)
    moves, stays, there = (
        cv2.resize(flags.astype(np.float32), size, interpolation=cv2.INTER_AREA) for flags in (moved, still, corner)
    )
    parts = there > 0.05
    moving = (moves > stays) & parts
    if not moving.any() or moving.sum() >= _WORLD * parts.sum():
        return bool(moving.any())
    region = np.zeros(parts.shape, np.uint8)
    cv2.fillConvexPoly(region, cv2.convexHull(np.argwhere(moving)[:, ::-1].astype(np.int32)), 1)
    inside = region > 0
    return bool(inside.mean() >= _REGION and moving.sum() >= _WITHIN * parts[inside].sum())


def check_image(image: object, camera: str) -> Image:
    """``image`` if it is RGB (H, W, 3) uint8 and not empty; raises ``InputError``."""
    if not isinstance(image, np.ndarray) or image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
        found = f"{getattr(image, 'dtype', type(image).__name__)} {getattr(image, 'shape', '')}"
        raise InputError(f"image of camera '{camera}' is {found}; it must be an RGB array (H, W, 3) of uint8")
    if image.size == 0:
        raise InputError(f"image of camera '{camera}' is empty, {image.shape[1]}x{image.shape[0]} pixels")
    return image


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
