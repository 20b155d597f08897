"""A preview of a keyframe's depth, until there is time for more."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import cv2

from dust3r_ros.backends.flow import StereoDepth
from dust3r_ros.backends.two_view import TwoViewBackend
from dust3r_ros.depth.completion import cut_at_outlines, fill_depth
from dust3r_ros.geometry.depths import fuse_depths
from dust3r_ros.types import Array, Array32, Image, View

_REDUCED = 2  # half the image size: a quarter of the work per pair, at half the precision
_KEPT = 16  # reduced images kept: newer keyframes are paired with these
_FLOW_BYTES = 16 << 20


@dataclass(frozen=True, eq=False)
class Posed:
    """A keyframe for the preview: ``image`` (H, W, 3) without lens distortion, ``focal`` in its pixels.

    ``landmarks`` (N, 3) that it sees and ``w_T_c``: in the map.
    """

    camera: str
    image: Image
    focal: float
    w_T_c: Array
    landmarks: Array


class DepthPreview:
    """Depth by two-view geometry in reduced images with known poses, whatever the backend."""

    def __init__(self) -> None:
        self._flow = TwoViewBackend(flow_bytes=_FLOW_BYTES)
        self._images: dict[int, tuple[Image, Image]] = {}  # as given, and reduced

    def look(self, index: int, views: Mapping[int, Posed], sources: Sequence[int]) -> tuple[Array32, Array32] | None:
        """Depth (H, W), 0 = none, in map units, and confidence (H, W) >= 1 of view ``index``; None for no ``sources``.

        ``views``: this one and its sources. Gaps are closed by planes through their surroundings; large plain
        surfaces are still unknown.
        """
        if not sources:
            return None
        reduced = {view: self._reduced(view, posed) for view, posed in views.items()}
        found = self._stereo_depths(index, views, sources)
        if not found:
            return None
        fused = fuse_depths([one.depth for one in found], [one.confidence for one in found])
        depth, confidence = cut_at_outlines(*fill_depth(*fused), reduced[index])
        size = views[index].image.shape[1::-1]
        return (
            cv2.resize(depth, size, interpolation=cv2.INTER_NEAREST),
            cv2.resize(confidence, size, interpolation=cv2.INTER_NEAREST),
        )

    def _stereo_depths(self, index: int, views: Mapping[int, Posed], sources: Sequence[int]) -> list[StereoDepth]:
        """The depth of view ``index`` by the flow from each source that gives any."""
        found = self._flow.depths(
            [(other, index) for other in sources],
            {posed.camera: posed.focal / _REDUCED for posed in views.values()},
            {view: posed.w_T_c for view, posed in views.items()},
            {view: posed.landmarks for view, posed in views.items()},
        )
        return [pair.depths[1] for pair in found if pair is not None]

    def clear(self) -> None:
        """Forget all images."""
        self._flow.clear()
        self._images.clear()

    def _reduced(self, view: int, posed: Posed) -> Image:
        kept = self._images.pop(view, None)
        if kept is None or kept[0] is not posed.image:
            size = tuple(side // _REDUCED for side in posed.image.shape[1::-1])
            kept = posed.image, cv2.resize(posed.image, size, interpolation=cv2.INTER_AREA)
            self._flow.add(View(view, posed.camera, kept[1]))
        self._images[view] = kept  # the most recently used is dropped last
        for old in list(self._images)[:-_KEPT]:
            del self._images[old]
            self._flow.forget(old)
        return kept[1]
