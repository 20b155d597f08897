"""The depth of every keyframe, gathered from the pairs it is part of."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

import numpy as np

from dust3r_ros.alignment.online.pair_fusion import fuse_depths
from dust3r_ros.depth.completion import complete_planes, cut_at_outlines, fill_depth
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
