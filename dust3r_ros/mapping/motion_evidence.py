"""What keyframes say about each other's pixels: that they see the same there, or see through them."""

from __future__ import annotations

import ctypes
from dataclasses import dataclass
from functools import cached_property

import cv2
import numpy as np

from dust3r_ros.depth.depth_maps import COLOR_RANGE, outside_range
from dust3r_ros.features.masks import Mask
from dust3r_ros.geometry.compiled import LIBRARY, PinholeMaps
from dust3r_ros.geometry.depths import REFERENCE_PRECISION, landed
from dust3r_ros.geometry.pinhole import Pinhole, center_of
from dust3r_ros.geometry.rigid import invert
from dust3r_ros.types import Array, Array32, Image

STEP = 3  # of the judged pixels


@dataclass(frozen=True, eq=False)
class SparseShot:
    """A keyframe for comparison with others, every third pixel of it.

    ``depth`` (h, w), 0 = none, ``sigma`` its relative standard deviation, ``near`` the least depth around a pixel,
    0 beside a gap; ``color`` (h, w, 3) uint8, and the range of colours around a pixel, ``dark`` to ``light``.
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

    @property
    def pinhole(self) -> Pinhole:
        """The camera of its pixels, every third of the keyframe's from the second on."""
        cx, cy = center_of(*self.shape)
        return Pinhole(self.focal, ((cx - STEP // 2) / STEP, (cy - STEP // 2) / STEP))

    @cached_property
    def given(self) -> PinholeMaps:
        """The same in the library's layout."""
        maps = self.depth, self.sigma, self.near, self.color, self.dark, self.light
        return PinholeMaps.of(self.pinhole, *maps)

    @classmethod
    def of(
        cls, image: Image, depth: Array32, confidence: Array32, w_T_c: Array, focal: float, min_confidence: float
    ) -> SparseShot:
        """The certain part of a keyframe with ``image`` (H, W, 3) RGB, ``depth`` (H, W) and ``confidence`` (H, W)."""
        shape = depth.shape
        height, width = (side // STEP for side in shape)
        rows, columns = slice(STEP // 2, height * STEP, STEP), slice(STEP // 2, width * STEP, STEP)
        gain = confidence[rows, columns] - np.float32(1)
        depth = np.where(gain > min_confidence - 1, depth[rows, columns], np.float32(0))
        sigma = np.float32(REFERENCE_PRECISION) / np.sqrt(np.maximum(gain, np.float32(1e-6)))
        small = cv2.resize(image[: height * STEP, : width * STEP], (width, height), interpolation=cv2.INTER_AREA)
        around = np.ones((3, 3), np.uint8)
        return cls(
            w_T_c,
            focal / STEP,
            (shape[0], shape[1]),
            depth,
            sigma,
            np.asarray(cv2.erode(depth, around), np.float32),
            np.asarray(cv2.blur(small, (3, 3)), np.uint8),
            np.asarray(cv2.erode(small, around), np.uint8),
            np.asarray(cv2.dilate(small, around), np.uint8),
        )


_APART, _SIGMAS = 0.10, 3.0  # of depth, at least: closer points are the same surface
_ALIKE = 0.9  # of what both see looks the same in both; three others are wrong one time in a thousand
_COMMON, _SAMPLE = 100, 2000  # pixels seen by both: fewer do not show how colours differ, more do not help
_CONFIRMED, _REFUTED, _SEEN_THROUGH = 2, 2, 3  # by so many others
_NEVER = 2**31 - 1


class Evidence:
    """What other keyframes say about each pixel (h w,), flat, of a keyframe taken at ``time`` (ms).

    Numbers of keyframes: ``agree`` see the same there; ``doubt`` see something nearer that looks the same, so that one
    of the two depths is wrong; ``through`` see something behind it; ``like`` and ``unlike`` know what is behind it on
    its ray, in its colours and in others.
    """

    def __init__(self, time: int, shot: SparseShot) -> None:
        count = shot.depth.size
        self.time = time
        self.agree, self.doubt, self.through, self.like, self.unlike = (np.zeros(count, np.uint8) for _ in range(5))
        # Times in ms relative to its own, clipped at 24 days either way.
        self.first, self.last = np.zeros((2, count), np.int32)  # that agree
        self._before, self._after = (
            np.full(count, -_NEVER, np.int32),
            np.full(count, _NEVER, np.int32),
        )  # that see through

    @property
    def trusted(self) -> Mask:
        """(h w,) trusted pixels: others see the same there, and no more of them see the same thing nearer."""
        return (self.agree >= _CONFIRMED) & (self.agree >= self.doubt)

    def confirm(self, at: np.ndarray, time: int) -> None:
        """A keyframe taken at ``time`` (ms) sees the same at pixels (K,)."""
        self.agree[at] += 1
        later = self.later(time)
        self.first[at] = np.minimum(self.first[at], later)
        self.last[at] = np.maximum(self.last[at], later)

    def see_through(self, at: np.ndarray, time: int) -> None:
        """A keyframe taken at ``time`` (ms) sees through pixels (K,)."""
        self.through[at] += 1
        if time < self.time:
            self._before[at] = np.maximum(self._before[at], self.later(time))
        else:
            self._after[at] = np.minimum(self._after[at], self.later(time))

    def later(self, time: int) -> int:
        """How much later ``time`` is than the keyframe's, ms."""
        return min(max(time - self.time, 1 - _NEVER), _NEVER - 1)

    def look_behind(self, at: np.ndarray, like: np.ndarray) -> None:
        """A keyframe knows what is behind pixels (K,), some listed repeatedly, and whether it looks ``like`` them."""
        alike, other = np.zeros((2, self.agree.size), bool)
        alike[at[like]] = True
        other[at[~like]] = True
        self.like += alike
        self.unlike += other & ~alike

    @property
    def refuted(self) -> Mask:
        """(h w,) pixels that several see through, and not many times as many confirm: their depth is wrong.

        Neighbours share depth, so some agree even then.
        """
        return (self.through >= _REFUTED) & (self.through > self.agree // 4)

    @property
    def gone(self) -> Mask:
        """(h w,) pixels that several see through and that none sees again beyond them in time.

        Something there both before and after stood still: then the others were wrong, with a depth that moving
        objects made too large.
        """
        again = (self.first < self._before) | (self.last > self._after)
        return (self.through >= _SEEN_THROUGH) & ~again

    @property
    def before(self) -> Mask:
        """(h w,) pixels in front of something else: most that know what is behind know other colours there.

        If it has the pixel's colours, the pixel shows just that: its depth is too small, and others that look
        there see another place, in any colours. If none knows, the depth must be trusted, with at least as many that
        confirm it as see through: neighbours share depth, so they agree even when it is wrong.
        """
        unknown = (self.like == 0) & (self.unlike == 0)
        return (self.unlike > self.like) | (unknown & self.trusted & (self.agree >= self.through))


@dataclass(frozen=True, eq=False)
class Comparison:
    """What a keyframe says about another: pixels of the other and its own, flat.

    ``through``, ``with_``: (K,) pixels that it sees through, and with which. ``hidden``, ``by``, ``like``: (M,) pixels
    of the other that its own pixels would hide if depths were right, and whether they look the same.
    """

    through: np.ndarray
    with_: np.ndarray
    hidden: np.ndarray
    by: np.ndarray
    like: np.ndarray

    def count(self, one: Evidence, other: Evidence) -> None:
        """Count what trusted pixels say, once all confirmations are known."""
        one.see_through(self.through[other.trusted[self.with_]], other.time)
        known = one.trusted[self.hidden]
        other.look_behind(self.by[known], self.like[known])


def compare(shot: SparseShot, other: SparseShot, evidence: Evidence, other_evidence: Evidence) -> Comparison:
    """What ``other`` says about ``shot``; confirmations and doubts are noted in the evidence of both.

    A pixel is seen through if the other sees something further, by 10 % and by three standard deviations of both
    depths, at and all around the place where the pixel's point should appear, in colours that the pixel does not
    have.
    """
    judge = _compared if LIBRARY is None else _compared_at_once
    return judge(shot, other, evidence, other_evidence)


def _compared(shot: SparseShot, other: SparseShot, evidence: Evidence, other_evidence: Evidence) -> Comparison:
    at, place, z = landed(shot, other, np.flatnonzero(shot.depth))
    depth, near = other.depth.ravel()[place], other.near.ravel()[place]
    known = depth > 0
    at, place, z, depth, near = (part[known] for part in (at, place, z, depth, near))
    beyond = 1 + np.maximum(
        np.float32(_APART), np.float32(_SIGMAS) * np.hypot(other.sigma.ravel()[place], shot.sigma.ravel()[at])
    )
    hidden, same = depth * beyond < z, (depth * beyond >= z) & (depth <= z * beyond)
    differ, like = _compared_colours(shot, other, at, place, same)
    evidence.confirm(at[same & ~differ], other_evidence.time)
    before = near > z * beyond
    other_evidence.doubt[np.unique(place[before & ~differ])] += 1
    through = before & differ
    return Comparison(at[through], place[through], at[hidden], place[hidden], like[hidden])


class _Notes(ctypes.Structure):
    _fields_ = [(name, ctypes.c_void_p) for name in ("agree", "doubt", "first", "last")]


class _Limits(ctypes.Structure):
    _fields_ = [
        *((name, ctypes.c_double) for name in ("apart", "sigmas", "alike", "range")),
        *((name, ctypes.c_long) for name in ("common", "sample")),
    ]


def _compared_at_once(shot: SparseShot, other: SparseShot, evidence: Evidence, other_evidence: Evidence) -> Comparison:
    """The same by compiled code: 6 times as fast."""
    assert LIBRARY is not None
    other_T_c = (invert(other.w_T_c) @ shot.w_T_c).astype(np.float32)
    limits = _Limits(_APART, _SIGMAS, _ALIKE, COLOR_RANGE, _COMMON, _SAMPLE)
    noted = evidence.agree, other_evidence.doubt, evidence.first, evidence.last
    notes, later = _Notes(*(part.ctypes.data for part in noted)), evidence.later(other_evidence.time)
    count = shot.depth.size
    through, hidden, like = np.empty((2, count), np.int64), np.empty((2, count), np.int64), np.empty(count, bool)
    given = *map(ctypes.byref, (shot.given, other.given)), other_T_c.ctypes, ctypes.byref(limits)
    counts = (ctypes.c_long * 2)()
    found = *(part.ctypes for part in (through, hidden, like)), counts
    if not LIBRARY.compare_shots(*given, ctypes.c_int32(later), ctypes.byref(notes), *found):
        raise MemoryError
    seen, covered = counts
    through, hidden, like = through[:, :seen].copy(), hidden[:, :covered].copy(), like[:covered].copy()
    return Comparison(through[0], through[1], hidden[0], hidden[1], like)


def _compared_colours(
    shot: SparseShot, other: SparseShot, at: np.ndarray, place: np.ndarray, same: Mask
) -> tuple[Mask, Mask]:
    """(K,) which pixels ``at`` of a keyframe look unlike everything around ``place`` in another, and which alike.

    The ``same`` surface (K,) may look brighter, darker or of another tint: exposure and white balance change it by
    a factor, gloss and vignetting in no simple way. A pixel differs only if it differs by more than nine in ten of
    those. If too little is seen by both, none counts as different.
    """
    if np.count_nonzero(same) < _COMMON:
        return np.zeros(len(at), bool), np.ones(len(at), bool)
    every = slice(None, None, max(1, np.count_nonzero(same) // _SAMPLE))
    ours, theirs = shot.color.reshape(-1, 3), other.color.reshape(-1, 3)
    gain = np.median(theirs[place[same][every]], axis=0) / np.maximum(np.median(ours[at[same][every]], axis=0), 1)
    toned = np.clip(ours * gain, 0, 255).astype(np.uint8)[at]
    dark, light = (part.reshape(-1, 3)[place] for part in (other.dark, other.light))
    off = outside_range(toned, dark, light)
    apart = cv2.absdiff(toned, theirs[place]).reshape(-1, 3).max(axis=1)
    limits = (max(COLOR_RANGE, float(np.quantile(kind[same][every], _ALIKE))) for kind in (off, apart))
    return np.asarray(off > next(limits)), np.asarray(apart <= next(limits))
