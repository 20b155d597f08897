"""Depth of keyframes under construction: the estimates of pairs, and what keyframes share."""

from __future__ import annotations

import ctypes
from collections import defaultdict
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import cv2
import numpy as np

from dust3r_ros.depth.completion import complete_planes, cut_at_outlines, fill_depth
from dust3r_ros.geometry.compiled import LIBRARY, PinholeMaps
from dust3r_ros.geometry.depths import fuse_depths, landed
from dust3r_ros.geometry.pinhole import Pinhole
from dust3r_ros.geometry.rigid import invert
from dust3r_ros.types import Array, Array32, Image, PairPrediction

Depth = tuple[Array32, Array32]  # (H, W) z of the keyframe's own camera, 0 = none, and confidence >= 1
Keep = Callable[[np.ndarray], np.ndarray]
# Keys in place of the other view, once single estimates were dropped: everything known, and the fused estimates alone
_FROZEN, _CONDENSED = -1, -2


class KeyframeDepth:
    """Depth of one keyframe: an estimate from each of its pairs, fused, with gaps closed.

    Depth of the same surfaces from other keyframes is added. ``freeze`` drops single estimates and keeps the fused
    map. A preview stands in until there is an estimate. Input and output are in map units. Storage has its own unit,
    so that what is read does not depend on when it was read before. One class, since each of these replaces others.
    """

    def __init__(self, keep: Keep) -> None:
        """``keep`` is given each array of frozen depth and returns the one to hold in its place."""
        self._keep = keep
        self.unit = 1.0  # map units
        self.received_from: set[int] = set()  # keyframes whose depth was added to it
        self._estimates: dict[int, Depth] = {}
        self._own: Depth | None = None  # the fused estimates
        self._received: Depth | None = None
        self._fused: Depth | None = None
        self._preview: Depth | None = None
        self._image: Image | None = None
        self._mask: tuple[np.ndarray, tuple[int, ...]] | None = None  # packed, and its shape
        self._since: tuple[object, float] = None, 1.0  # the object returned by ``pixels``; the unit at its creation

    def show(self, image: Image) -> None:
        """Set the image (H, W, 3) of the depth until it is frozen: depth ends at its outlines."""
        self._image = image

    def leave_out(self, mask: np.ndarray) -> None:
        """Leave out depth where ``mask`` (H, W) is true, whatever pairs say; replaces an earlier mask."""
        self._mask = np.packbits(mask), mask.shape
        self.touch()

    @property
    def left_out(self) -> np.ndarray | None:
        """(H, W) where depth is left out, whatever pairs say; None for nowhere."""
        if self._mask is None:
            return None
        packed, shape = self._mask
        return np.unpackbits(packed, count=shape[0] * shape[1]).astype(bool).reshape(shape)

    def put(self, other: int, depth: Array32, confidence: Array32) -> None:
        """Take the estimate of the pair with view ``other``; replaces its earlier one."""
        self._estimates[other] = self._kept(
            np.where(confidence > 1.0, depth, 0.0).astype(np.float32),
            np.where(depth > 0, confidence, 1.0).astype(np.float32),
        )
        self._own = self._fused = self._preview = None
        self.touch()

    def preview(self, depth: Array32, confidence: Array32) -> None:
        """Set the depth shown before the first pair, (H, W) each."""
        self._preview = self._kept(depth, confidence)
        self.touch()

    @property
    def estimated(self) -> bool:
        """Whether there is an estimate, not just a preview."""
        return bool(self._estimates)

    @property
    def begun(self) -> bool:
        """Whether there is an estimate or a preview."""
        return bool(self._estimates) or self._preview is not None

    @property
    def sources(self) -> set[int]:
        """The other views of its pairs; none once frozen."""
        return {source for source in self._estimates if source >= 0}

    def renumber(self, new: np.ndarray) -> None:
        """View k becomes ``new[k]``, or is gone if that is negative: what came from it stays."""
        if any(new[source] < 0 for source in self.sources):
            self.condense()
        self._estimates = {int(new[k]) if k >= 0 else k: estimate for k, estimate in self._estimates.items()}
        self.received_from = {int(new[other]) for other in self.received_from if new[other] >= 0}

    def receive(self, others: Mapping[int, Depth]) -> None:
        """Add the depth that ``others`` have for its pixels; that of each is added once."""
        new = [self._kept(*found) for other, found in others.items() if other not in self.received_from]
        if not new:
            return
        self.received_from.update(others)
        self._received = _fuse(new if self._received is None else [self._received, *new])
        self._fused = None
        self.touch()

    def drop_received(self) -> None:
        """Forget depth received from others; has no effect once frozen."""
        self.received_from.clear()
        self._received = self._fused = None
        self.touch()

    @property
    def frozen(self) -> bool:
        """Whether depth received from others cannot be separated any more."""
        return _FROZEN in self._estimates

    def touch(self) -> None:
        """Note that more than the unit has changed."""
        self._since = object(), self.unit

    @property
    def pixels(self) -> object:
        """An object that stays the same while only the unit changes; None before the first depth."""
        return self._since[0]

    @property
    def growth(self) -> float:
        """The factor applied to the depth since ``pixels`` changed."""
        return self.unit / self._since[1]

    def restore(self, depth: Array32, confidence: Array32) -> None:
        """Restore the depth of an earlier session, as one estimate."""
        self._freeze(self._kept(depth, confidence))

    @property
    def own(self) -> Depth | None:
        """Depth from its pairs alone, with gaps; None before the first pair."""
        return self._read(self._own_kept())

    @property
    def rough(self) -> Depth | None:
        """Depth from its pairs alone, or the preview."""
        return self._read(self._own_kept() or self._preview)

    @property
    def whole(self) -> Depth | None:
        """Depth, including left-out pixels; None while there is not even a preview."""
        return self._read(self._whole_kept())

    @property
    def shown(self) -> Depth | None:
        """Depth without left-out pixels; None while there is not even a preview."""
        found, out = self.whole, self.left_out
        if found is None or out is None:
            return found
        return _without(out, *found)

    def condense(self) -> None:
        """Keep only the fused estimates: gaps are closed, and others asked, later."""
        if self.sources:
            depth, confidence = _fuse(list(self._estimates.values()))
            self._own = self._keep(depth), self._keep(confidence)
            self._estimates, self._fused, self._image = {_CONDENSED: self._own}, None, None

    def drop(self, mask: np.ndarray) -> None:
        """Forget depth where ``mask`` (H, W) is true, for good where it is frozen, else until more is known."""
        fused = self._whole_kept() if self.estimated else None
        if fused is None or not mask.any():
            return
        fused = _without(mask, *fused)
        if self.frozen:
            self._freeze(fused)
        else:
            self._fused = fused
        self.touch()

    def freeze(self) -> None:
        """Keep only the fused map, which counts as one estimate if others come later."""
        if list(self._estimates) == [_FROZEN] and self._estimates[_FROZEN] is self._fused:
            return
        fused = self._whole_kept() if self.estimated else None
        if fused is not None:
            self._freeze(fused)
            self._own, self._received, self._image = self._fused, None, None

    def taken(self, scale: float) -> KeyframeDepth:
        """The same depth for another map, in which this map's unit is ``scale`` units; frozen."""
        taken = KeyframeDepth(self._keep)
        taken.unit, taken._since, taken._mask = scale * self.unit, self._since, self._mask
        fused = self._whole_kept()
        if self.estimated and fused is not None:
            taken._freeze(fused)
        else:
            taken._preview = self._preview
        return taken

    def _freeze(self, fused: Depth) -> None:
        depth, confidence = fused
        self._fused = self._keep(depth), self._keep(confidence)
        self._estimates = {_FROZEN: self._fused}

    def _own_kept(self) -> Depth | None:
        if self._own is None and self._estimates:
            self._own = _fuse(list(self._estimates.values()))
        return self._own

    def _whole_kept(self) -> Depth | None:
        own = self._own_kept()
        if own is None:
            return self._preview
        if self._fused is None:
            self._fused = _finished(*(own if self._received is None else _fuse([own, self._received])), self._image)
        return self._fused

    def _kept(self, depth: Array32, confidence: Array32) -> Depth:
        return depth if self.unit == 1 else depth / np.float32(self.unit), confidence

    def _read(self, kept: Depth | None) -> Depth | None:
        if kept is None or self.unit == 1:
            return kept
        return kept[0] * np.float32(self.unit), kept[1]


class DepthMaps:
    """Depth of keyframes by index, including empty ones."""

    def __init__(self, keep: Keep = np.asarray) -> None:
        """``keep`` as of ``KeyframeDepth``."""
        self._keep = keep
        self._keyframes: defaultdict[int, KeyframeDepth] = defaultdict(lambda: KeyframeDepth(keep))

    def __getitem__(self, index: int) -> KeyframeDepth:
        return self._keyframes[index]

    def absorb(
        self, prediction: PairPrediction, second_T_first: Array, scale: float, only: Collection[int] | None = None
    ) -> None:
        """Take the depth of both views of a pair, or of those in ``only``; the pair's unit is ``scale`` map units."""
        first, second = prediction.first, prediction.second
        wanted = (first, second) if only is None else only
        if first in wanted:
            self[first].put(second, scale * prediction.points_first[..., 2], prediction.confidence_first)
        if second in wanted:
            x, y, z = np.moveaxis(prediction.points_second, -1, 0)
            row = (scale * second_T_first[2, :3]).astype(np.float32)
            depth = row[0] * x + row[1] * y + (row[2] * z + np.float32(second_T_first[2, 3]))
            self[second].put(first, depth, prediction.confidence_second)

    def clear(self, index: int) -> None:
        """Forget the depth of a keyframe."""
        self._keyframes[index] = KeyframeDepth(self._keep)
        self._keyframes[index].touch()

    def renumber(self, new: np.ndarray) -> None:
        """Keyframe k becomes ``new[k]`` (N,), or is forgotten if that is negative; what it gave to others stays."""
        kept = {int(new[index]): keyframe for index, keyframe in self._keyframes.items() if new[index] >= 0}
        self._keyframes.clear()
        self._keyframes.update(kept)
        for keyframe in kept.values():
            keyframe.renumber(new)

    def rescale(self, index: int, factor: float) -> None:
        """Multiply the depth of a keyframe by ``factor``."""
        self[index].unit *= factor

    def rescale_all(self, factor: float) -> None:
        """Multiply all depth by ``factor``: the unit of length shrank by it."""
        for keyframe in self._keyframes.values():
            keyframe.unit *= factor

    def take_over(self, other: DepthMaps, first: int, scale: float) -> None:
        """Take the depth of another map, whose keyframes become ``first`` and up and whose unit is ``scale`` units."""
        for index, keyframe in other._keyframes.items():
            self._keyframes[first + index] = keyframe.taken(scale)


def _fuse(estimates: Sequence[tuple[Array32, Array32]]) -> tuple[Array32, Array32]:
    return fuse_depths([depth for depth, _ in estimates], [confidence for _, confidence in estimates])


def _finished(depth: Array32, confidence: Array32, image: Image | None) -> tuple[Array32, Array32]:
    """Fused depth with gaps closed, up to the outlines in the image if that is known."""
    if image is None:
        return fill_depth(depth, confidence)
    depth, confidence, blank = complete_planes(depth, confidence, image)
    depth, confidence = fill_depth(depth, confidence)
    return _without_halos(*cut_at_outlines(*_without(blank, depth, confidence), image), image)


def _without(mask: np.ndarray, depth: Array32, confidence: Array32) -> Depth:
    """Depth and confidence of nothing where ``mask`` is true; (H, W) each."""
    return np.where(mask, np.float32(0), depth), np.where(mask, np.float32(1), confidence)


_JUMP = np.float32(1.1)  # times as far as its neighbour: another surface
_WITHIN, _LEVEL = 3, np.float32(1.05)  # pixels from a jump to the surface's inside, and depth that is still the same
_BEYOND = 2  # pixels from a jump to what lies behind
_CLEARLY = 2.25  # times as like that as like the surface
_STEPS = ((0, 1), (0, -1), (1, 0), (-1, 0), (1, 1), (1, -1), (-1, 1), (-1, -1))


def _without_halos(depth: Array32, confidence: Array32, image: Image) -> tuple[Array32, Array32]:
    """Depth and confidence, (H, W) each, without pixels of the background that have the depth of what is before it.

    Patches of flow carry a surface over its own outline. A pixel next to depth that is a tenth larger is taken out if
    it clearly looks more like what lies there than like the surface three pixels further in. Where the surface is
    thinner than that, such as the leg of a table, it stays whole.
    """
    depth = np.where(confidence > 1, depth, np.float32(0))
    at = np.flatnonzero((depth > 0) & (cv2.dilate(depth, np.ones((3, 3), np.uint8)) > _JUMP * depth))
    if not len(at):
        return depth, confidence
    z, halo, farthest = depth.ravel()[at], np.zeros(len(at), bool), np.zeros(len(at), np.float32)
    wide, colors = (cv2.copyMakeBorder(part, *4 * [_WITHIN], cv2.BORDER_REPLICATE) for part in (depth, image))
    row = wide.shape[1]
    place = at // depth.shape[1] * row + at % depth.shape[1] + _WITHIN * (row + 1)
    depths, colors = wide.ravel(), colors.reshape(-1, 3).astype(np.int16)
    color = colors[place]
    for down, right in _STEPS:
        step = down * row + right
        behind, inside = depths[place + step], depths[place - _WITHIN * step]
        farther = np.flatnonzero((behind > _JUMP * z) & (behind > farthest) & (inside > 0) & (inside < _LEVEL * z))
        here, own = place[farther], color[farther]
        off_behind = np.abs(colors[here + _BEYOND * step] - own).sum(axis=1)
        halo[farther] = _CLEARLY * off_behind < np.abs(colors[here - _WITHIN * step] - own).sum(axis=1)
        farthest[farther] = behind[farther]
    out = np.zeros(depth.shape, bool)
    out.reshape(-1)[at[halo]] = True
    return _without(out, depth, confidence)


COLOR_RANGE = 18  # of 255, beyond the range of colours around a pixel: there is another surface
_BEHIND = np.float32(1.1)  # times as far as its landed neighbours: seen through the gaps between nearer points
_SHARE = np.float32(0.5)  # of confidence - 1 passed on, since part of it comes from the same images
_TINY = np.float32(1e-9)
_AROUND = np.ones((3, 3), np.uint8)
_PATCH = (7, 7)
_MOST_OFF = 0.5  # of the variation of two patches of one surface; for two surfaces it is nearly all
_NOISE = 30.0  # squared levels, summed over channels, by which patches of one surface may still differ


@dataclass(frozen=True, eq=False)
class DepthShot:
    """A keyframe for sharing depth: ``image`` (H, W, 3) uint8, ``depth`` (H, W), 0 = none, ``confidence``."""

    image: Image
    depth: Array32
    confidence: Array32
    w_T_c: Array
    focal: float

    @property
    def pinhole(self) -> Pinhole:
        """The camera of its pixels."""
        return Pinhole.of(self.focal, self.depth.shape)

    @cached_property
    def smooth(self) -> Image:
        """(H W, 3) the denoised colours of its pixels."""
        return cv2.blur(self.image, (3, 3)).reshape(-1, 3)

    @cached_property
    def colours_around(self) -> tuple[Image, Image]:
        """(H W, 3) each: minimum and maximum of every channel around its pixels."""
        return cv2.erode(self.image, _AROUND).reshape(-1, 3), cv2.dilate(self.image, _AROUND).reshape(-1, 3)


def seen_from(shot: DepthShot, other: DepthShot) -> tuple[Array32, Array32]:
    """Depth (H, W), 0 = none, and confidence >= 1 that ``shot`` gives for the pixels of ``other``.

    Each pixel of the shot lands on the nearest one of the other; the nearest surface wins. It is accepted if the
    other keyframe shows the shot's colour there, and the shot's texture around it: a surface hidden by something of
    unknown depth looks different, as does anything that moved. Colour alone would match by chance, and a few pixels of
    the wall behind an object would suffice to fill the object's gap with wall. Depth closer to the other camera is
    less precise there and gets less confidence.
    """
    if LIBRARY is None or min(other.depth.shape) < min(_PATCH):
        return _seen_from(shot, other)
    depth, sure = np.empty((2, *other.depth.shape), np.float32)
    other_T_c = (invert(other.w_T_c) @ shot.w_T_c).astype(np.float32)
    gives = PinholeMaps.of(shot.pinhole, shot.depth, shot.confidence, shot.smooth)
    takes = PinholeMaps.of(other.pinhole, other.depth, other.confidence, other.smooth, *other.colours_around)
    how = (ctypes.c_double * 5)(COLOR_RANGE, _BEHIND, _SHARE, _MOST_OFF, _NOISE)
    views = ctypes.byref(gives), ctypes.byref(takes), other_T_c.ctypes
    if not LIBRARY.share_depth(*views, how, depth.ctypes, sure.ctypes):
        raise MemoryError
    return depth, sure


def _seen_from(shot: DepthShot, other: DepthShot) -> tuple[Array32, Array32]:
    height, width = other.depth.shape
    at, place, near = landed(shot, other, np.flatnonzero((shot.depth > 0) & (shot.confidence > 1)))
    z = shot.depth.reshape(-1)[at]
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


def _same_color(shot: DepthShot, other: DepthShot, at: np.ndarray, place: np.ndarray) -> np.ndarray:
    """(K,) whether the colours of pixels ``at`` of a shot occur around ``place`` of another, both flat."""
    dark, light = (edge[place] for edge in other.colours_around)
    return outside_range(shot.smooth[at], dark, light) <= COLOR_RANGE


def outside_range(colors: Image, dark: Image, light: Image) -> np.ndarray:
    """(K,) how many levels of 255 colours (K, 3) lie outside the ranges ``dark`` to ``light``, in the worst channel."""
    if not len(colors):
        return np.zeros(0, np.uint8)
    return cv2.max(cv2.subtract(dark, colors), cv2.subtract(colors, light)).reshape(-1, 3).max(axis=1)


def _same_texture(shot: DepthShot, other: DepthShot, at: np.ndarray, place: np.ndarray) -> np.ndarray:
    """(K,) whether texture landing around ``place`` of another from ``at`` of a shot, both flat, matches it there."""
    shape = other.depth.shape
    there, a = np.zeros(shape, np.float32), np.zeros((*shape, 3), np.float32)
    there.reshape(-1)[place], a.reshape(-1, 3)[place] = 1, shot.smooth[at]
    b = other.smooth.reshape(*shape, 3) * there[..., None]
    scale = 1 / np.maximum(cv2.blur(there, _PATCH), _TINY)

    def dot(a: Array32, b: Array32) -> Array32:
        return np.einsum("ijk,ijk->ij", a, b)

    mean_a, mean_b = cv2.blur(a, _PATCH), cv2.blur(b, _PATCH)
    varies = scale * (cv2.blur(dot(a, a) + dot(b, b), _PATCH) - scale * (dot(mean_a, mean_a) + dot(mean_b, mean_b)))
    a -= b
    mean_a -= mean_b
    off = scale * (cv2.blur(dot(a, a), _PATCH) - scale * dot(mean_a, mean_a))
    return (off < _MOST_OFF * varies + _NOISE).ravel()[place]
