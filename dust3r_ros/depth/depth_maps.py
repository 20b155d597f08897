"""Depth of keyframes under construction: what pairs add to it, and how keyframes share what they know."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import cv2
import numpy as np

from dust3r_ros.alignment.online.canonical_depth import fuse_depths
from dust3r_ros.depth.completion import complete_planes, cut_at_outlines, fill_depth
from dust3r_ros.geometry.pinhole import center_of
from dust3r_ros.geometry.rigid import invert
from dust3r_ros.types import Array, Array32, Image, PairPrediction


class DepthMaps:
    """Depth estimates per keyframe, one for each other view of its pairs, and what they fuse to, gaps closed.

    Everything is in map units and z of the keyframe's own camera. What other keyframes know of the same surfaces
    is handed to it besides. Single estimates are let go by ``freeze``; the fused map stays. A ``preview`` stands in
    until there is an estimate.
    """

    def __init__(self) -> None:
        self._estimates: dict[int, dict[int, tuple[Array32, Array32]]] = {}
        self._own: dict[int, tuple[Array32, Array32]] = {}  # what the estimates fuse to
        self._handed: dict[int, tuple[Array32, Array32]] = {}
        self._givers: dict[int, set[int]] = {}  # keyframes that handed depth to one
        self._fused: dict[int, tuple[Array32, Array32]] = {}
        self._previews: dict[int, tuple[Array32, Array32]] = {}
        self._images: dict[int, Image] = {}
        self._left_out: dict[int, np.ndarray] = {}  # packed
        self._shown: dict[int, tuple[Array32, Array32]] = {}  # without it
        self._pixels: dict[int, object] = {}  # another object whenever more than the unit changed
        self._growth: dict[int, float] = {}  # by which depth was multiplied since

    def show(self, index: int, image: Image) -> None:
        """The image (H, W, 3) that a keyframe's depth belongs to until it is frozen: depth ends at its outlines."""
        self._images[index] = image

    def leave_out(self, index: int, mask: np.ndarray) -> None:
        """A keyframe has no depth where ``mask`` (H, W) is true, whatever pairs say; in place of an earlier mask."""
        self._left_out[index] = np.packbits(mask)
        self._shown.pop(index, None)
        self._touch(index)

    def left_out(self, index: int) -> np.ndarray | None:
        """(H, W) where a keyframe has no depth whatever pairs say; None for nowhere, and before they say anything."""
        packed, found = self._left_out.get(index), self.own(index) or self._previews.get(index)
        if packed is None or found is None:
            return None
        return np.unpackbits(packed, count=found[0].size).astype(bool).reshape(found[0].shape)

    def absorb(
        self, prediction: PairPrediction, second_T_first: Array, scale: float, only: Collection[int] | None = None
    ) -> None:
        """Take the depth of both views of a pair whose unit is ``scale`` map units, or of those in ``only``."""
        first, second = prediction.first, prediction.second
        wanted = (first, second) if only is None else only
        if first in wanted:
            self._put(first, second, scale * prediction.points_first[..., 2], prediction.confidence_first)
        if second in wanted:
            x, y, z = np.moveaxis(prediction.points_second, -1, 0)
            row = (scale * second_T_first[2, :3]).astype(np.float32)
            depth = row[0] * x + row[1] * y + (row[2] * z + np.float32(second_T_first[2, 3]))
            self._put(second, first, depth, prediction.confidence_second)

    def _put(self, index: int, other: int, depth: Array32, confidence: Array32) -> None:
        self._estimates.setdefault(index, {})[other] = (
            np.where(confidence > 1.0, depth, 0.0).astype(np.float32),
            np.where(depth > 0, confidence, 1.0).astype(np.float32),
        )
        for kept in (self._own, self._fused, self._previews):
            kept.pop(index, None)
        self._touch(index)

    def preview(self, index: int, depth: Array32, confidence: Array32) -> None:
        """What is shown of a keyframe of which no pair told anything yet, (H, W) each."""
        self._previews[index] = depth, confidence
        self._shown.pop(index, None)
        self._touch(index)

    def told(self, index: int) -> bool:
        """Whether there is more of a keyframe than a preview."""
        return bool(self._estimates.get(index))

    def hand(self, index: int, others: Mapping[int, tuple[Array32, Array32]]) -> None:
        """What ``others`` know of a keyframe's pixels, depth (H, W) and confidence each; every one is heard once."""
        heard = self._givers.setdefault(index, set())
        new = [found for other, found in others.items() if other not in heard]
        if not new:
            return
        heard.update(others)
        before = [self._handed[index]] if index in self._handed else []
        self._handed[index] = _fuse([*before, *new])
        self._fused.pop(index, None)
        self._touch(index)

    def givers(self, index: int) -> frozenset[int]:
        """Who handed depth to a keyframe."""
        return frozenset(self._givers.get(index, ()))

    def unhear(self, index: int) -> None:
        """Forget what others handed to a keyframe that is not frozen."""
        for kept in (self._handed, self._givers, self._fused):
            kept.pop(index, None)
        self._touch(index)

    def frozen(self, index: int) -> bool:
        """Whether single estimates of a keyframe were let go."""
        return index in self._estimates.get(index, {})

    def own(self, index: int) -> tuple[Array32, Array32] | None:
        """(depth, confidence) of a keyframe by its pairs alone, with its gaps; None while none told anything."""
        if index not in self._own:
            estimates = list(self._estimates.get(index, {}).values())
            if not estimates:
                return None
            self._own[index] = _fuse(estimates)
        return self._own[index]

    def _touch(self, index: int) -> None:
        self._pixels[index] = object()
        self._growth.pop(index, None)

    def pixels(self, index: int) -> object:
        """Stays the same object while only the unit of a keyframe's depth changes; None until it is first said."""
        return self._pixels.get(index)

    def growth(self, index: int) -> float:
        """What a keyframe's depth was multiplied by since ``pixels`` changed."""
        return self._growth.get(index, 1.0)

    def restore(self, index: int, depth: Array32, confidence: Array32) -> None:
        """The depth that a keyframe had in another session, as one estimate."""
        self._fused[index] = depth, confidence
        self._estimates[index] = {index: self._fused[index]}

    def get(self, index: int) -> tuple[Array32, Array32] | None:
        """(depth, confidence) of a keyframe, None while no pair told anything."""
        found, out = self.whole(index), self.left_out(index)
        if found is None or out is None:
            return found
        if index not in self._shown:
            depth, confidence = found
            self._shown[index] = np.where(out, np.float32(0), depth), np.where(out, np.float32(1), confidence)
        return self._shown[index]

    def whole(self, index: int) -> tuple[Array32, Array32] | None:
        """The same with what is left out."""
        if index not in self._fused:
            own = self.own(index)
            if own is None:
                return self._previews.get(index)
            self._shown.pop(index, None)
            found = _fuse([own, self._handed[index]]) if index in self._handed else own
            self._fused[index] = _finished(*found, self._images.get(index))
        return self._fused[index]

    def freeze(self, index: int) -> None:
        """Keep only the fused map of a keyframe; it counts as one estimate if others come later."""
        fused = self.whole(index) if self.told(index) else None
        if fused is not None:
            self._estimates[index] = {index: fused}
            self._own[index] = fused
            self._images.pop(index, None)
            self._handed.pop(index, None)

    def clear(self, index: int) -> None:
        """Forget the depth of a keyframe."""
        for kept in (self._estimates, self._own, self._handed, self._givers, self._fused, self._images):
            kept.pop(index, None)
        self._previews.pop(index, None)
        self._left_out.pop(index, None)
        self._shown.pop(index, None)
        self._touch(index)

    def rescale(self, index: int, factor: float) -> None:
        """The keyframe's surroundings grew by ``factor``."""
        self._shown.pop(index, None)
        for other, (depth, confidence) in self._estimates.get(index, {}).items():
            self._estimates[index][other] = (depth * np.float32(factor), confidence)
        self._growth[index] = factor * self.growth(index)
        for kept in (self._own, self._handed, self._fused, self._previews):
            if index in kept:
                depth, confidence = kept[index]
                kept[index] = (depth * np.float32(factor), confidence)

    def rescale_all(self, factor: float) -> None:
        """The unit of length became smaller by ``factor``."""
        for index in self._estimates.keys() | self._fused.keys() | self._previews.keys():
            self.rescale(index, factor)

    def take_over(self, other: DepthMaps, first: int, scale: float) -> None:
        """The depth of another map, whose keyframes are these from ``first`` on and whose unit is ``scale`` units."""
        for index in list(other._estimates):
            fused = other.whole(index)
            if fused is not None:
                self._fused[first + index] = fused
                self._estimates[first + index] = {first + index: fused}
                if index in other._left_out:
                    self._left_out[first + index] = other._left_out[index]
                self._pixels[first + index], self._growth[first + index] = other.pixels(index), other.growth(index)
                self.rescale(first + index, scale)
        for index, (depth, confidence) in other._previews.items():
            self.preview(first + index, depth * np.float32(scale), confidence)


def _fuse(estimates: Sequence[tuple[Array32, Array32]]) -> tuple[Array32, Array32]:
    return fuse_depths([depth for depth, _ in estimates], [confidence for _, confidence in estimates])


def _finished(depth: Array32, confidence: Array32, image: Image | None) -> tuple[Array32, Array32]:
    """Fused depth with its gaps closed, up to the outlines in the image where that is known."""
    if image is None:
        return fill_depth(depth, confidence)
    depth, confidence, blank = complete_planes(depth, confidence, image)
    depth, confidence = fill_depth(depth, confidence)
    return cut_at_outlines(np.where(blank, np.float32(0), depth), np.where(blank, np.float32(1), confidence), image)


_COLOR = 18  # of 255, beyond the range of colours around a pixel: another surface is seen there
_BEHIND = np.float32(1.1)  # times as far as what lands beside it: seen through the gaps between nearer points
_SHARE = np.float32(0.5)  # of confidence - 1 that is passed on: part of it comes from the same images
_TINY = np.float32(1e-9)
_AROUND = np.ones((3, 3), np.uint8)
_PATCH = (7, 7)
_MOST_OFF = 0.5  # of what varies in two patches that show the same; of two that do not, it is about all
_NOISE = 30.0  # squared levels, summed over channels, by which patches that show the same differ all the same


@dataclass(frozen=True, eq=False)
class DepthShot:
    """A keyframe as its depth is shared: ``image`` (H, W, 3) uint8, ``depth`` (H, W), 0 = none, ``confidence``."""

    image: Image
    depth: Array32
    confidence: Array32
    w_T_c: Array
    focal: float

    @cached_property
    def smooth(self) -> Image:
        """(H W, 3) the colours of its pixels without their noise."""
        return cv2.blur(self.image, (3, 3)).reshape(-1, 3)

    @cached_property
    def colours_around(self) -> tuple[Image, Image]:
        """(H W, 3) each: the darkest and the lightest of every channel around its pixels."""
        return cv2.erode(self.image, _AROUND).reshape(-1, 3), cv2.dilate(self.image, _AROUND).reshape(-1, 3)


def seen_from(shot: DepthShot, other: DepthShot) -> tuple[Array32, Array32]:
    """Depth (H, W), 0 = none, and confidence >= 1 that ``shot`` tells of the pixels of ``other``.

    Each pixel of the shot lands on the nearest one of the other, the nearest surface wins. It is believed where the
    other keyframe shows the shot's colour there, and around it the shot's texture: what is hidden by something whose
    depth is not known looks different, as does what moved. A colour alone is met by chance here and there, and a few
    pixels of the wall behind a thing are enough to close the gap of the thing with wall. Depth that is less precise
    for the other, as it is nearer to it, is less confident.
    """
    height, width = other.depth.shape
    at, place, z, near = _landed(shot, other)
    nearest = np.full(height * width, np.inf, np.float32)
    np.minimum.at(nearest, place, near)
    first = nearest[place] == near
    at, place, z, near = (part[first] for part in (at, place, z, near))
    same = _same_color(shot, other, at, place) & _same_texture(shot, other, at, place)
    at, place, z, near = (part[same] for part in (at, place, z, near))
    depth, sure = np.zeros(height * width, np.float32), np.ones(height * width, np.float32)
    depth[place] = near
    sure[place] += _SHARE * (shot.confidence.ravel()[at] - 1) * np.minimum(1, np.square(z / near))
    depth = depth.reshape(height, width)
    closeness = 1 / np.where(depth > 0, depth, np.float32(np.inf))
    hidden = cv2.dilate(closeness, _AROUND) * depth > _BEHIND
    depth[hidden] = 0
    return depth, np.where(depth > 0, sure.reshape(height, width), np.float32(1))


def _landed(shot: DepthShot, other: DepthShot) -> tuple[np.ndarray, np.ndarray, Array32, Array32]:
    """Pixels (K,) of a shot seen by another, those they land on there, both flat, and their depth in each."""
    height, width = shot.depth.shape
    at = np.flatnonzero((shot.depth > 0) & (shot.confidence > 1))
    z = shot.depth.ravel()[at].astype(np.float32)
    cx, cy = center_of(height, width)
    x = ((np.arange(width) - cx) / shot.focal).astype(np.float32)[at % width] * z
    y = ((np.arange(height) - cy) / shot.focal).astype(np.float32)[at // width] * z
    T = (invert(other.w_T_c) @ shot.w_T_c).astype(np.float32)
    px, py, pz = (T[i, 0] * x + T[i, 1] * y + T[i, 2] * z + T[i, 3] for i in range(3))
    height, width = other.depth.shape
    cx, cy = (np.float32(middle) for middle in center_of(height, width))
    scale = np.float32(other.focal) / np.maximum(pz, _TINY)
    u, v = px * scale + cx, py * scale + cy
    # Compared before rounding, which far outside does not fit into integers
    inside = (pz > _TINY) & (u > -0.5) & (v > -0.5) & (u < width - 0.5) & (v < height - 0.5)
    place = np.rint(v[inside]).astype(np.int64) * width + np.rint(u[inside]).astype(np.int64)
    return at[inside], place, z[inside], pz[inside]


def _same_color(shot: DepthShot, other: DepthShot, at: np.ndarray, place: np.ndarray) -> np.ndarray:
    """(K,) whether pixels ``at`` of a shot have a colour that is seen around ``place`` of another, both flat."""
    color = shot.smooth[at]
    dark, light = (edge[place] for edge in other.colours_around)
    if not len(at):
        return np.zeros(0, bool)
    off = cv2.max(cv2.subtract(dark, color), cv2.subtract(color, light))
    return np.asarray(off.reshape(-1, 3).max(axis=1) <= _COLOR)


def _same_texture(shot: DepthShot, other: DepthShot, at: np.ndarray, place: np.ndarray) -> np.ndarray:
    """(K,) whether what lands around ``place`` of another from ``at`` of a shot, both flat, varies as it does there."""
    shape = other.depth.shape
    there, a = np.zeros(shape, np.float32), np.zeros((*shape, 3), np.float32)
    there.reshape(-1)[place], a.reshape(-1, 3)[place] = 1, shot.smooth[at]
    b = other.smooth.reshape(*shape, 3) * there[..., None]
    scale = 1 / np.maximum(cv2.blur(there, _PATCH), _TINY)
    mean_a, mean_b = cv2.blur(a, _PATCH), cv2.blur(b, _PATCH)
    varies = scale * (cv2.blur(_dot(a, a) + _dot(b, b), _PATCH) - scale * (_dot(mean_a, mean_a) + _dot(mean_b, mean_b)))
    a -= b
    mean_a -= mean_b
    off = scale * (cv2.blur(_dot(a, a), _PATCH) - scale * _dot(mean_a, mean_a))
    return (off < _MOST_OFF * varies + _NOISE).ravel()[place]


def _dot(a: Array32, b: Array32) -> Array32:
    """(H, W) sum over channels of the product of (H, W, 3)."""
    return np.einsum("ijk,ijk->ij", a, b)
