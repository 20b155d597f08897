"""What moves by itself: regions of a keyframe that others, where they look through them, see something else behind."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from dust3r_ros.geometry.pinhole import center_of
from dust3r_ros.geometry.rigid import invert
from dust3r_ros.masks import Mask, grown
from dust3r_ros.types import Array, Array32, Image

_STEP = 3  # of the pixels that are judged
_APART, _SIGMAS = 0.10, 3.0  # of depth, at least: less apart is the same surface
_PRECISION = 0.03  # relative, at confidence 2
_COLOR = 18  # of 255, beyond the range of colours around a place: something else is there
_CONFIRMED, _WITNESSES = 2, 3
_NEVER = 2**31 - 1
_LEAST_AREA = 0.002  # of the image
_SAME, _REACH = 0.1, 1.0  # of depth, of the seeds' width: how far the thing may reach that they are on
_GROWTH = 1 / 64  # of the long edge


@dataclass(frozen=True, eq=False)
class Sight:
    """A keyframe as others are compared with it, every third pixel of it.

    ``depth`` (h, w), 0 = none, ``sigma`` its relative standard deviation, ``near`` the least depth around a pixel
    and 0 beside a gap; ``color`` (h, w, 3) uint8, and the range of colours around a pixel, ``dark`` to ``light``.
    ``focal``: of these pixels. ``shape``: of the keyframe.
    """

    w_T_c: Array
    focal: float
    shape: tuple[int, int]
    depth: Array32
    sigma: Array32
    near: Array32
    color: Image
    dark: Image
    light: Image

    @classmethod
    def of(
        cls, image: Image, depth: Array32, confidence: Array32, w_T_c: Array, focal: float, min_confidence: float
    ) -> Sight:
        """What of a keyframe with ``image`` (H, W, 3) RGB, ``depth`` (H, W) and ``confidence`` (H, W) is sure."""
        shape = depth.shape
        height, width = (side // _STEP for side in shape)
        rows, columns = slice(_STEP // 2, height * _STEP, _STEP), slice(_STEP // 2, width * _STEP, _STEP)
        gain = confidence[rows, columns] - np.float32(1)
        depth = np.where(gain > min_confidence - 1, depth[rows, columns], np.float32(0))
        sigma = np.float32(_PRECISION) / np.sqrt(np.maximum(gain, np.float32(1e-6)))
        small = cv2.resize(image[: height * _STEP, : width * _STEP], (width, height), interpolation=cv2.INTER_AREA)
        around = np.ones((3, 3), np.uint8)
        return cls(
            w_T_c,
            focal / _STEP,
            (shape[0], shape[1]),
            depth,
            sigma,
            np.asarray(cv2.erode(depth, around), np.float32),
            np.asarray(cv2.blur(small, (3, 3)), np.uint8),
            np.asarray(cv2.erode(small, around), np.uint8),
            np.asarray(cv2.dilate(small, around), np.uint8),
        )


def region(sight: Sight, evidence: Evidence) -> Mask:
    """(H, W) which pixels of a keyframe show what moves or was taken away.

    Three witnesses make a seed, seeds make regions of 0.2 % of the image at least. What is connected to a region, as
    far away as it to 10 %, and no further off than it is wide, goes with it: it is the rest of the
    thing. Regions are grown by what outlines are vague.
    """
    gone = evidence.gone.reshape(sight.depth.shape).astype(np.uint8)
    solid = cv2.morphologyEx(gone, cv2.MORPH_OPEN, np.ones((3, 3), np.uint8))
    found = np.zeros(sight.shape, np.uint8)
    height, width = _STEP * sight.depth.shape[0], _STEP * sight.depth.shape[1]
    for seeds in _pieces(solid):
        whole = _completed(sight.depth, seeds).astype(np.uint8)
        found[:height, :width] |= cv2.resize(whole, (width, height), interpolation=cv2.INTER_NEAREST)
    return grown(found.astype(bool), _GROWTH) if found.any() else found.astype(bool)


class Evidence:
    """What other keyframes say of each pixel (h w,), flat, of one, taken at ``time``.

    ``agree``: how many see the same there; ``hidden``: something before it; ``through``: something behind it.
    """

    def __init__(self, time: int, sight: Sight) -> None:
        count = sight.depth.size
        self.time = time
        self.agree, self.hidden, self.through = (np.zeros(count, np.uint8) for _ in range(3))
        self._first, self._last = np.full((2, count), time, np.int32)  # that agree
        self._before, self._after = (
            np.full(count, -_NEVER, np.int32),
            np.full(count, _NEVER, np.int32),
        )  # that see through

    @property
    def trusted(self) -> Mask:
        """(h w,) whose word counts: others see the same there, and no more of them something before it."""
        return (self.agree >= _CONFIRMED) & (self.agree >= self.hidden)

    def confirm(self, at: np.ndarray, witness: int) -> None:
        """A keyframe of time ``witness`` sees the same at pixels (K,)."""
        self.agree[at] += 1
        self._first[at] = np.minimum(self._first[at], witness)
        self._last[at] = np.maximum(self._last[at], witness)

    def accuse(self, at: np.ndarray, witness: int) -> None:
        """A keyframe of time ``witness`` sees through pixels (K,)."""
        self.through[at] += 1
        if witness < self.time:
            self._before[at] = np.maximum(self._before[at], witness)
        else:
            self._after[at] = np.minimum(self._after[at], witness)

    @property
    def gone(self) -> Mask:
        """(h w,) what several see through, and nobody sees again from beyond them in time.

        What was there before and after stood still: it is the witnesses that were mistaken, by a depth that moving
        things made too large.
        """
        again = (self._first < self._before) | (self._last > self._after)
        return (self.through >= _WITNESSES) & ~again


def compare(sight: Sight, other: Sight, evidence: Evidence, witness: int) -> tuple[np.ndarray, np.ndarray]:
    """Note what ``other``, of time ``witness``, says of one in its ``evidence``.

    Returns the pixels that it sees through, and those of its own with which it does: (K,) and (K,), flat.
    Seen through is a pixel where the other sees what lies further, by 10 % and by three standard deviations of both
    depths, at and all around the place where the pixel's point should be seen, in colours that the pixel does not
    have. Where depth is only wrong, its own colour is seen there.
    """
    at, place, z = _seen_from(other, sight)
    depth, near = other.depth.ravel()[place], other.near.ravel()[place]
    known = depth > 0
    at, place, z, depth, near = (part[known] for part in (at, place, z, depth, near))
    if not len(at):
        return at, place
    beyond = 1 + np.maximum(
        np.float32(_APART), np.float32(_SIGMAS) * np.hypot(other.sigma.ravel()[place], sight.sigma.ravel()[at])
    )
    evidence.hidden[at[depth * beyond < z]] += 1
    color, dark, light = (p.reshape(-1, 3) for p in (sight.color, other.dark, other.light))
    off = cv2.max(cv2.subtract(dark[place], color[at]), cv2.subtract(color[at], light[place]))
    differ = off.reshape(-1, 3).max(axis=1) > _COLOR
    evidence.confirm(at[(depth * beyond >= z) & (depth <= z * beyond) & ~differ], witness)
    through = (near > z * beyond) & differ
    return at[through], place[through]


def _seen_from(other: Sight, sight: Sight) -> tuple[np.ndarray, np.ndarray, Array32]:
    """Pixels (K,) of a keyframe whose points lie in the image of ``other``, the pixels there, both flat, and z."""
    width = sight.depth.shape[1]
    cx, cy = _middle(sight)
    at = np.flatnonzero(sight.depth)
    depth = sight.depth.ravel()[at]
    x = ((at % width) - np.float32(cx)) / np.float32(sight.focal)
    y = ((at // width) - np.float32(cy)) / np.float32(sight.focal)
    other_T_c = (invert(other.w_T_c) @ sight.w_T_c).astype(np.float32)
    R, t = other_T_c[:3, :3], other_T_c[:3, 3]
    px, py, pz = ((R[i, 0] * x + R[i, 1] * y + R[i, 2]) * depth + t[i] for i in range(3))
    scale = np.float32(other.focal) / np.maximum(pz, np.float32(1e-6))
    ox, oy = _middle(other)
    rows, columns = other.depth.shape
    u, v = px * scale + np.float32(ox), py * scale + np.float32(oy)
    inside = (pz > 1e-6) & (u > -0.5) & (v > -0.5) & (u < columns - 0.5) & (v < rows - 0.5)
    place = np.rint(v[inside]).astype(np.int64) * columns + np.rint(u[inside]).astype(np.int64)
    return at[inside], place, pz[inside].astype(np.float32)


def _middle(sight: Sight) -> tuple[float, float]:
    cx, cy = center_of(*sight.shape)
    return (cx - 0.5 * (_STEP - 1)) / _STEP, (cy - 0.5 * (_STEP - 1)) / _STEP


def _pieces(seeds: np.ndarray) -> list[Mask]:
    """Seeds (h, w) apart, one mask for each connected region that is no speck."""
    count, labels, stats, _ = cv2.connectedComponentsWithStats(seeds, connectivity=8)
    large = [k for k in range(1, count) if stats[k, cv2.CC_STAT_AREA] >= _LEAST_AREA * seeds.size]
    return [labels == k for k in large]


def _completed(depth: Array32, seeds: Mask) -> Mask:
    """(h, w) the thing that seeds are on: what is as far away, connected, and no further off than they are wide."""
    apart = cv2.distanceTransform((~seeds).astype(np.uint8), cv2.DIST_L2, 3)
    middle = np.median(depth[seeds])
    alike = (apart < _REACH * np.sqrt(seeds.sum())) & (np.abs(depth - middle) < _SAME * middle) | seeds
    _, labels = cv2.connectedComponents(alike.astype(np.uint8), connectivity=4)
    return np.asarray(np.isin(labels, np.unique(labels[seeds])))
