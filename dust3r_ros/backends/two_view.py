"""Pointmaps from two-view geometry: the backend that needs no weights."""

from __future__ import annotations

import ctypes
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import cv2
import numpy as np
from numpy.typing import NDArray

from dust3r_ros.backends.base import ByteCache, views_of
from dust3r_ros.backends.flow import Flow, StereoDepth, chained, dense_flow, depth_from_flow, grid, seeded_targets
from dust3r_ros.errors import GeometryError, InputError
from dust3r_ros.features.features import Features, extract
from dust3r_ros.geometry.compiled import LIBRARY
from dust3r_ros.geometry.essential import essential_pose
from dust3r_ros.geometry.pinhole import center_of, pixel_grid
from dust3r_ros.geometry.rigid import invert, transform
from dust3r_ros.types import Array, Array32, Image, PairPrediction, View

_PER_PIXEL = np.float32(32.0)  # steps per pixel: far finer than flow is accurate
_REACH = 32000  # steps, a thousand pixels
_PER_ERROR = np.float32(64.0)
_OUTSIDE = 255


@dataclass(frozen=True, eq=False)
class PackedFlow:
    """A flow in five bytes per pixel: rounded to 1/32 pixel, its error to 1/64; one of 4 pixels or more is infinite.

    ``motion`` (H, W, 2) in steps; ``error`` (H, W) in 1/64 pixel, 255 for any error beyond use.
    """

    motion: NDArray[np.int16]
    error: NDArray[np.uint8]

    @property
    def size(self) -> int:
        """Bytes."""
        return self.motion.nbytes + self.error.nbytes

    @classmethod
    def of(cls, flow: Flow) -> PackedFlow:
        """A packed flow."""
        if LIBRARY is None:
            steps = np.rint((flow.target - grid(*flow.error.shape)) * _PER_PIXEL)
            error: Array32 = np.rint(np.minimum(flow.error * _PER_ERROR, np.float32(_OUTSIDE)))
            error[(np.abs(steps) > _REACH).any(axis=-1)] = _OUTSIDE
            return cls(np.clip(steps, -_REACH, _REACH).astype(np.int16), error.astype(np.uint8))
        packed = cls(np.empty(flow.target.shape, np.int16), np.empty(flow.error.shape, np.uint8))
        given = [np.ascontiguousarray(part, np.float32) for part in (flow.target, flow.error)]
        size = *map(ctypes.c_long, flow.error.shape), ctypes.c_int(_REACH)
        arrays = *(part.ctypes for part in given), packed.motion.ctypes, packed.error.ctypes
        LIBRARY.pack_flow(*size, *arrays)
        return packed

    @property
    def flow(self) -> Flow:
        """The flow, unpacked."""
        shape = self.error.shape
        if LIBRARY is None:
            error = self.error.astype(np.float32) / _PER_ERROR
            error[self.error == _OUTSIDE] = np.inf
            return Flow(grid(*shape) + self.motion.astype(np.float32) / _PER_PIXEL, error)
        flow = Flow(np.empty((*shape, 2), np.float32), np.empty(shape, np.float32))
        packed, unpacked = (self.motion.ctypes, self.error.ctypes), (flow.target.ctypes, flow.error.ctypes)
        LIBRARY.unpack_flow(*map(ctypes.c_long, shape), *packed, *unpacked)
        return flow


_GEOMETRY_SAMPLES = 2000
_DEFAULT_FOCAL = 1.0  # of the long edge: 53 degrees of view


@dataclass(frozen=True, eq=False)
class PairDepths:
    """Two-view geometry of a pair: depth of each view in its own camera, and the pose of the second in the first.

    ``focals``: pixels of both views. Depth is in the unit of ``first_T_second``.
    """

    first: int
    second: int
    first_T_second: Array
    focals: tuple[float, float]
    depths: tuple[StereoDepth, StereoDepth]

    def prediction(self) -> PairPrediction:
        """As pointmaps, in the same form as a network's."""
        a, b = self.depths
        points = (
            _pointmap(_filled(a), self.focals[0], np.eye(4)),
            _pointmap(_filled(b), self.focals[1], self.first_T_second),
        )
        return PairPrediction(self.first, self.second, points[0], a.confidence, points[1], b.confidence)


@dataclass(eq=False)
class _View:
    camera: str
    gray: Image

    @cached_property
    def digest(self) -> int:
        """Detects another image with the same index."""
        return zlib.crc32(self.gray.tobytes())

    @cached_property
    def features(self) -> Features:
        """Features, for steps too wide for flow."""
        return extract(self.gray)


class TwoViewBackend:
    """Dense flow, essential matrix, triangulation of every consistent pixel.

    A pair whose rays hardly meet (little parallax, pure rotation) or whose images do not match has
    confidence 1 everywhere: depth unknown. With both poses known the pair's unit of
    length is the map's; without, the median depth of the first view is 1. Packed flows are kept after
    their views are forgotten: when poses change, or a view returns, only depth is computed again.
    """

    name = "two_view"
    uses_poses = True

    def __init__(self, min_parallax_deg: float = 1.0, flow_bytes: int = 128 << 20) -> None:
        """Flows are kept up to ``flow_bytes``."""
        self._min_parallax_deg = min_parallax_deg
        self._views: dict[int, _View] = {}
        self._digests: dict[int, int] = {}  # of the images of the flows
        self._flows = ByteCache[tuple[int, int], PackedFlow](flow_bytes)

    def add(self, view: View) -> None:
        """Add a view (H, W, 3) RGB uint8."""
        if view.image.ndim != 3 or view.image.shape[2] != 3 or view.image.dtype != np.uint8:
            raise InputError(f"view {view.index} has shape {view.image.shape}; it must be (H, W, 3) uint8")
        made = _View(view.camera, cv2.cvtColor(view.image, cv2.COLOR_RGB2GRAY))
        if self._digests.get(view.index) != made.digest:
            self._flows.drop(pair for pair in self._flows if view.index in pair)
        self._views[view.index], self._digests[view.index] = made, made.digest

    def has(self, index: int) -> bool:
        """Whether a view is held."""
        return index in self._views

    def clear(self) -> None:
        """Drop every view and all flows."""
        self._views.clear()
        self._digests.clear()
        self._flows.drop(self._flows)

    def forget(self, index: int) -> None:
        """Drop a view; its flows stay while there is room for them."""
        self._views.pop(index, None)

    def predict(
        self,
        pairs: Sequence[tuple[int, int]],
        focals: Mapping[str, float],
        poses: Mapping[int, Array] | None = None,
        landmarks: Mapping[int, Array] | None = None,
    ) -> list[PairPrediction]:
        """Pointmaps of ordered pairs; both orders of a pair share one computation of flow and pose.

        Raises ``InputError`` for a view that was not added.
        """
        views_of(pairs, self._views, "backend")
        found = self.depths(pairs, focals, poses, landmarks)
        return [
            self.nothing_known(*pair, focals) if depths is None else depths.prediction()
            for pair, depths in zip(pairs, found, strict=True)
        ]

    def depths(
        self,
        pairs: Sequence[tuple[int, int]],
        focals: Mapping[str, float],
        poses: Mapping[int, Array] | None = None,
        landmarks: Mapping[int, Array] | None = None,
    ) -> list[PairDepths | None]:
        """``predict`` before the conversion to pointmaps; None for a pair without a relative pose."""
        relative: dict[tuple[int, int], Array | None] = {}
        found = []
        for first, second in pairs:
            if (first, second) not in relative:
                if (first, second) not in self._flows and poses and landmarks:
                    self._follow(first, second, self._seed(first, second, focals, poses, landmarks))
                second_T_first = self._relative_pose(first, second, focals, poses or {})
                relative[first, second] = second_T_first
                relative[second, first] = None if second_T_first is None else invert(second_T_first)
            found.append(self._pair(first, second, relative[first, second], focals))
        return found

    def nothing_known(self, first: int, second: int, focals: Mapping[str, float]) -> PairPrediction:
        """A prediction with confidence 1 everywhere."""
        ones = [np.ones(self._views[index].gray.shape, np.float32) for index in (first, second)]
        points = [
            _pointmap(one, self._focal(index, focals), np.eye(4))
            for one, index in zip(ones, (first, second), strict=True)
        ]
        return PairPrediction(first, second, points[0], ones[0], points[1], ones[1])

    def _flow(self, first: int, second: int) -> Flow:
        packed = self._flows.use((first, second))
        if packed is None:
            self._follow(first, second, None)
            packed = self._flows.use((first, second))
            assert packed is not None, "the last one put is kept"
        return packed.flow

    def _follow(self, first: int, second: int, seed: tuple[Array32, Array32] | None) -> None:
        """Flow both ways, from a ``seed`` or the best guess."""
        a, b = self._views[first], self._views[second]
        guess = self._guess(first, second) if seed is None else seed
        # Landmarks and poses know more about a wide step than a homography, which then was worse 109 times in 115
        features = None if seed is not None else lambda: (a.features, b.features)
        forth, back = dense_flow(a.gray, b.gray, features, guess)
        self._flows.put((second, first), PackedFlow.of(back))
        self._flows.put((first, second), PackedFlow.of(forth))

    def _seed(
        self,
        first: int,
        second: int,
        focals: Mapping[str, float],
        poses: Mapping[int, Array],
        landmarks: Mapping[int, Array],
    ) -> tuple[Array32, Array32] | None:
        """Targets both ways from the landmarks of both views; None if poses or landmarks are missing."""
        if not all(view in poses and view in landmarks for view in (first, second)):
            return None
        found = []
        for a, b in ((first, second), (second, first)):
            a_T_w = invert(poses[a])
            shapes = self._views[a].gray.shape, self._views[b].gray.shape
            focal = self._focal(a, focals), self._focal(b, focals)
            found.append(seeded_targets(transform(a_T_w, landmarks[a]), invert(poses[b]) @ poses[a], *focal, *shapes))
        forth, back = found
        return None if forth is None or back is None else (forth, back)

    def _guess(self, first: int, second: int) -> tuple[Array32, Array32] | None:
        """Targets both ways through a view with known flow to both: two small steps for a wide one."""
        for middle in self._views:
            steps = [(first, middle), (middle, second), (second, middle), (middle, first)]
            if all(step in self._flows for step in steps):
                a, b, c, d = (self._flows.use(step) for step in steps)
                assert a and b and c and d, "they are kept"
                return chained(a.flow, b.flow), chained(c.flow, d.flow)
        return None

    def _focal(self, index: int, focals: Mapping[str, float]) -> float:
        view = self._views[index]
        return focals.get(view.camera, _DEFAULT_FOCAL * max(view.gray.shape))

    def _relative_pose(
        self, first: int, second: int, focals: Mapping[str, float], poses: Mapping[int, Array]
    ) -> Array | None:
        """``second_T_first``: from the poses if both are known, else up to scale from the flow; None without."""
        if first in poses and second in poses:
            return invert(poses[second]) @ poses[first]
        flow = self._flow(first, second)
        rows, columns = np.nonzero(flow.error < 1.0)
        if len(rows) < 50:
            return None
        keep = np.linspace(0, len(rows) - 1, min(_GEOMETRY_SAMPLES, len(rows))).astype(int)
        a = pixel_grid(*flow.error.shape)[rows[keep], columns[keep]]
        b = flow.target[rows[keep], columns[keep]].astype(np.float64)
        try:
            first_T_second, _ = essential_pose(
                a,
                b,
                self._focal(first, focals),
                self._focal(second, focals),
                center_of(*self._views[first].gray.shape),
                center_of(*self._views[second].gray.shape),
            )
        except GeometryError:
            return None
        return invert(first_T_second)

    def _pair(
        self, first: int, second: int, second_T_first: Array | None, focals: Mapping[str, float]
    ) -> PairDepths | None:
        if second_T_first is None:
            return None
        shapes = self._views[first].gray.shape, self._views[second].gray.shape
        focal = self._focal(first, focals), self._focal(second, focals)
        first_T_second = invert(second_T_first)
        flows = self._flow(first, second), self._flow(second, first)
        a = depth_from_flow(flows[0], second_T_first, *focal, shapes[1], self._min_parallax_deg)
        b = depth_from_flow(flows[1], first_T_second, *focal[::-1], shapes[0], self._min_parallax_deg)
        return PairDepths(first, second, first_T_second, focal, (a, b))


def _pointmap(depth: Array32, focal: float, T: Array) -> Array32:
    """(H, W, 3) points of a depth map, moved by ``T``; in single precision, one coordinate at a time."""
    height, width = depth.shape
    cx, cy = center_of(height, width)
    x = ((np.arange(width) - cx) / focal).astype(np.float32)[None, :]
    y = ((np.arange(height) - cy) / focal).astype(np.float32)[:, None]
    points = np.empty((height, width, 3), np.float32)
    for axis, (row, shift) in enumerate(zip(T[:3, :3].astype(np.float32), T[:3, 3].astype(np.float32), strict=True)):
        points[..., axis] = (row[0] * x + (row[1] * y + row[2])) * depth + shift
    return points


def _filled(stereo: StereoDepth) -> Array32:
    """Depth with about the median where unknown, so that every pixel has a point, as from a network."""
    known = stereo.confidence > 1.0
    some = stereo.depth[known]
    return np.where(known, stereo.depth, np.median(some[:: 1 + len(some) // 1000]) if len(some) else np.float32(1.0))
