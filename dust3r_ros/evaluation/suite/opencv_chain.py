"""The floor that a mapper must beat: OpenCV's two-view functions, chained. No map, no adjustment, no loop.

SIFT matches to the last keyframe; where they have moved enough, the pose of an essential matrix with a guessed focal,
and triangulated points, whose depth relative to the known points carries the scale. Between keyframes PnP.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import cv2
import numpy as np

from dust3r_ros.geometry.rigid import invert, pose
from dust3r_ros.types import Array, Frame, StampedPose

_FEATURES = 2000
_MOVED = 0.04  # of the long edge: median displacement that makes a keyframe
_RATIO = 0.8  # of the distances of the two nearest descriptors (Lowe 2004)
_ERROR = 1.5  # pixels
_ENOUGH = 15  # matches of a pose


@dataclass(eq=False)
class _View:
    """A frame's corners (N, 2), descriptors (N, 128) and, once triangulated, points (N, 3) in its camera (or NaN)."""

    w_T_c: Array
    pixels: Array
    descriptors: Array
    points: Array


class Chain:
    """Takes frames one by one; ``poses`` of those located, camera to world, in a unit of its own."""

    def __init__(self) -> None:
        self.poses: list[StampedPose] = []
        self.frames = 0
        self.focal = 0.0
        self.width = 0
        self._sift = cv2.SIFT_create(_FEATURES)
        self._matcher = cv2.BFMatcher(cv2.NORM_L2)
        self._last: _View | None = None
        self._K = np.eye(3)

    def add(self, frame: Frame) -> None:
        """Add a frame."""
        height, self.width = frame.image.shape[:2]
        self.frames += 1
        self.focal = float(max(height, self.width))  # the guess: the long edge
        self._K = np.array([[self.focal, 0, (self.width - 1) / 2], [0, self.focal, (height - 1) / 2], [0, 0, 1.0]])
        corners, descriptors = self._sift.detectAndCompute(cv2.cvtColor(frame.image, cv2.COLOR_RGB2GRAY), None)
        if descriptors is None:
            return
        pixels = np.array([corner.pt for corner in corners])
        view = _View(np.eye(4), pixels, descriptors, np.full((len(pixels), 3), np.nan))
        if self._last is None or self._joins(self._last, view):
            self.poses.append(StampedPose(frame.stamp_ns, frame.camera, view.w_T_c))
            self._last = self._last or view

    def _joins(self, last: _View, view: _View) -> bool:
        """Gives ``view`` a pose and makes it the last keyframe if it is far enough away; False: no pose."""
        old, new = self._matches(last, view)
        if len(old) < _ENOUGH:
            return False
        moved = np.median(np.linalg.norm(last.pixels[old] - view.pixels[new], axis=1))
        if moved < _MOVED * self.focal:
            return self._by_points(last, view, old, new)
        return self._by_essential(last, view, old, new)

    def _matches(self, last: _View, view: _View) -> tuple[Array, Array]:
        """Indices of mutually nearest corners, by descriptor."""
        pairs = self._matcher.knnMatch(last.descriptors, view.descriptors, k=2)
        good = [pair[0] for pair in pairs if len(pair) == 2 and pair[0].distance < _RATIO * pair[1].distance]
        found = np.array([(match.queryIdx, match.trainIdx) for match in good], dtype=int).reshape(-1, 2)
        return found[:, 0], found[:, 1]

    def _by_points(self, last: _View, view: _View, old: Array, new: Array) -> bool:
        known = np.isfinite(last.points[old, 0])
        if known.sum() < _ENOUGH:
            return False
        good, turn, shift, inliers = cv2.solvePnPRansac(
            last.points[old[known]], view.pixels[new[known]], self._K, None, reprojectionError=2 * _ERROR
        )
        if not good or inliers is None or len(inliers) < _ENOUGH:
            return False
        view.w_T_c = last.w_T_c @ invert(pose(cv2.Rodrigues(turn)[0], shift.ravel()))
        return True

    def _by_essential(self, last: _View, view: _View, old: Array, new: Array) -> bool:
        first, second = last.pixels[old], view.pixels[new]
        essential, inside = cv2.findEssentialMat(first, second, self._K, cv2.USAC_MAGSAC, 0.9999, _ERROR)
        if essential is None or essential.shape != (3, 3):
            return False
        count, rotation, shift, inside, homogeneous = cv2.recoverPose(
            essential, first, second, self._K, distanceThresh=200.0, mask=inside, triangulatedPoints=None
        )
        kept = inside.ravel() > 0
        if count < _ENOUGH:
            return False
        with np.errstate(divide="ignore", invalid="ignore"):
            points = (homogeneous[:3] / homogeneous[3]).T  # of the last keyframe's camera, in steps
        kept &= np.isfinite(points).all(axis=1) & (points[:, 2] > 0)
        scale = _scale(last.points[old[kept], 2], points[kept, 2])
        step = pose(rotation, scale * shift.ravel())
        view.w_T_c = last.w_T_c @ invert(step)
        view.points[new[kept]] = (scale * points[kept]) @ step[:3, :3].T + step[:3, 3]
        self._last = view
        return True


def _scale(known: Array, found: Array) -> float:
    """The factor from depths ``found`` (N,) to those ``known`` (N,; NaN: none); 1 where too few are common."""
    common = np.isfinite(known)
    return float(np.median(known[common] / found[common])) if common.sum() >= 8 else 1.0


def chain(frames: Iterable[Frame]) -> Chain:
    """All frames through a chain, seeded."""
    cv2.setRNGSeed(0)
    result = Chain()
    for frame in frames:
        result.add(frame)
    return result


__all__ = ["Chain", "chain"]
