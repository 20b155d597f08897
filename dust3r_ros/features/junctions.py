"""Places where straight edges meet: all that is left to match on plain surfaces over wide steps.

A box, a door frame or a drawer has few corners, and a patch around one of them changes with its background.
The edges that meet there do not: their lines cross in one place, to a fraction of a pixel even in a blurred
image.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from dust3r_ros.types import Array, Image

_MIN_LENGTH_PX = 18.0
_MOST_SEGMENTS = 300
_CONTRAST, _TILES = 3.0, (8, 8)
# Pieces of one edge: nearly parallel (with more tolerance for short ones), in line, not far apart.
_PARALLEL_DEG, _PARALLEL_DEG_PX = 2.5, 60.0
_IN_LINE_PX = 1.8
_GAP_PX = 25.0
# Edges that meet: they cross at a large enough angle, close to their ends.
_CROSSING_DEG = 20.0
_REACH_PX, _REACH, _MAX_REACH_PX = 8.0, 0.12, 25.0
_ONE_PLACE_PX = 4.0
_MOVED_PX = 3.0
_ARM_PX = 10.0
_BORDER_PX = 3
# Matches
_NEAR_PX = 25.0
_ARM_TURN_DEG = 22.0
_COMMON_ARMS = 2
_ARM_WORTH_PX = 2.0


@dataclass(frozen=True, eq=False)
class Junctions:
    """``pixels`` (N, 2) where edges meet, and their arms.

    ``owner`` (K,): the junction of an arm. ``heading`` (K,): its direction away from there,
    radians. ``side`` (K,): on which side of it, +1 or -1, the image is brighter.
    """

    pixels: Array
    owner: np.ndarray
    heading: Array
    side: np.ndarray

    def select(self, keep: np.ndarray) -> Junctions:
        """The junctions selected by a mask (N,)."""
        arms = keep[self.owner]
        return Junctions(
            self.pixels[keep], (np.cumsum(keep) - 1)[self.owner[arms]], self.heading[arms], self.side[arms]
        )


def no_junctions() -> Junctions:
    """An empty set."""
    return Junctions(np.zeros((0, 2)), np.zeros(0, int), np.zeros(0), np.zeros(0, int))


def find_junctions(gray: Image) -> Junctions:
    """Where straight edges of an image (H, W) uint8 meet.

    The edges come from the line segment detector (Grompone von Gioi et al., PAMI 2010) after an
    equalisation of local contrast, because edges between plain surfaces are faint.
    """
    even = cv2.createCLAHE(_CONTRAST, _TILES).apply(gray)
    found = cv2.createLineSegmentDetector(cv2.LSD_REFINE_STD).detect(even)[0]
    if found is None:
        return no_junctions()
    segments = _longest_first(found.reshape(-1, 4).astype(np.float64))
    segments = segments[_lengths(segments) >= _MIN_LENGTH_PX][:_MOST_SEGMENTS]
    return _meeting(_joined(segments), gray.shape)


def match_junctions(a: Junctions, b: Junctions, a_in_b: Array, b_in_a: Array) -> np.ndarray:
    """(K, 2) indices of junctions of ``a`` and ``b`` that are each other's best match.

    ``a_in_b`` (N, 2) and ``b_in_a`` (M, 2): where flow expects those of one image in the other. A
    match lies near one of the two expected places and has arms of similar heading and contrast.
    """
    if len(a.pixels) == 0 or len(b.pixels) == 0:
        return np.zeros((0, 2), int)
    forth = np.linalg.norm(a_in_b[:, None] - b.pixels[None], axis=2)
    back = np.linalg.norm(b_in_a[None] - a.pixels[:, None], axis=2)
    miss, arms = np.minimum(forth, back), _common_arms(a, b)
    cost = np.where((miss < _NEAR_PX) & (arms >= _COMMON_ARMS), miss - _ARM_WORTH_PX * arms, np.inf)
    rows, best = np.arange(len(cost)), cost.argmin(axis=1)
    keep = np.isfinite(cost[rows, best]) & (cost.argmin(axis=0)[best] == rows)
    return np.stack([rows[keep], best[keep]], axis=1)


def _lengths(segments: Array) -> Array:
    return np.linalg.norm(segments[:, 2:] - segments[:, :2], axis=1)


def _longest_first(segments: Array) -> Array:
    return segments[np.argsort(-_lengths(segments), kind="stable")]


def _joined(segments: Array) -> Array:
    """Segments (N, 4), longest first, with the pieces of one edge joined; their brighter sides must agree."""
    joined = []
    while len(segments):
        longest, segments = segments[0], segments[1:]
        while True:
            same = _continuing(longest, segments)
            if not same.any():
                break
            longest, segments = _fitted(np.vstack([longest[None], segments[same]])), segments[~same]
        joined.append(longest)
    return np.array(joined).reshape(-1, 4)


def _continuing(longest: Array, others: Array) -> np.ndarray:
    """(N,) which segments are pieces of the edge that ``longest`` lies on."""
    start, along = longest[:2], longest[2:] - longest[:2]
    length = float(np.linalg.norm(along))
    along = along / length
    lengths = _lengths(others)
    cosine = (others[:, 2:] - others[:, :2]) @ along / lengths
    ends = others.reshape(-1, 2, 2) - start
    beside = np.abs(ends @ np.array([-along[1], along[0]])).max(axis=1)
    places = ends @ along
    gap = np.maximum(places.min(axis=1) - length, -places.max(axis=1))
    parallel = cosine > np.cos(np.radians(_PARALLEL_DEG + _PARALLEL_DEG_PX / lengths))
    near = gap < np.minimum(_GAP_PX, 0.5 * np.maximum(length, lengths))
    return parallel & near & (beside < _IN_LINE_PX + 0.01 * length)


def _fitted(pieces: Array) -> Array:
    """The segment (4,) through pieces (N, 4), weighted by length, with the heading of the first one."""
    ends, weight = pieces.reshape(-1, 2), np.repeat(_lengths(pieces), 2)
    center = weight @ ends / weight.sum()
    along = np.linalg.svd((ends - center) * np.sqrt(weight)[:, None], full_matrices=False)[2][0]
    if along @ (pieces[0, 2:] - pieces[0, :2]) < 0:
        along = -along
    places = (ends - center) @ along
    return np.concatenate([center + places.min() * along, center + places.max() * along])


def _meeting(segments: Array, shape: tuple[int, ...]) -> Junctions:
    """Junctions of segments (N, 4) in an image of ``shape``."""
    if len(segments) < 2:
        return no_junctions()
    start, length = segments[:, :2], _lengths(segments)
    along = (segments[:, 2:] - start) / length[:, None]
    first, second, places, sharpness = _crossings(start, along, length)
    pixels: list[Array] = []
    owners, headings, sides = [], [], []
    left = np.argsort(-np.minimum(length[first], length[second]) * sharpness, kind="stable")
    while len(left):
        near = np.linalg.norm(places[left] - places[left[0]], axis=1) < _ONE_PLACE_PX
        lines = np.unique(np.concatenate([first[left[near]], second[left[near]]]))
        pixel = _common_point(start[lines], along[lines], length[lines], places[left[0]])
        left = left[~near]
        if not _inside(pixel, shape):
            continue
        at = np.sum((pixel - start[lines]) * along[lines], axis=1)
        for sign, has_arm in ((1, at < length[lines] - _ARM_PX), (-1, at > _ARM_PX)):
            away = sign * along[lines[has_arm]]
            owners += [len(pixels)] * len(away)
            headings += np.arctan2(away[:, 1], away[:, 0]).tolist()
            sides += [sign] * len(away)
        pixels.append(pixel)
    if not pixels:
        return no_junctions()
    return Junctions(np.array(pixels), np.array(owners, int), np.array(headings), np.array(sides, int))


def _crossings(start: Array, along: Array, length: Array) -> tuple[np.ndarray, np.ndarray, Array, Array]:
    """Pairs of lines (P,), (P,) that cross where one of them ends, the places (P, 2), |sin| of the angles (P,)."""
    first, second = np.triu_indices(len(start), 1)
    sine = along[first, 0] * along[second, 1] - along[first, 1] * along[second, 0]
    clear = np.abs(sine) > np.sin(np.radians(_CROSSING_DEG))
    first, second, sine = first[clear], second[clear], sine[clear]
    between = start[second] - start[first]
    at = (between[:, 0] * along[second, 1] - between[:, 1] * along[second, 0]) / sine
    places = start[first] + at[:, None] * along[first]
    meets, ends = np.ones(len(first), bool), np.zeros(len(first), bool)
    for line in (first, second):
        at = np.sum((places - start[line]) * along[line], axis=1)
        reach = np.clip(_REACH * length[line], _REACH_PX, _MAX_REACH_PX)
        meets &= np.maximum(-at, at - length[line]) < reach
        ends |= np.minimum(np.abs(at), np.abs(at - length[line])) < reach
    keep = meets & ends
    return first[keep], second[keep], places[keep], np.abs(sine[keep])


def _common_point(start: Array, along: Array, length: Array, near: Array) -> Array:
    """The point (2,) closest to all lines; ``near`` if it is far from there, as the lines then share no point."""
    normal = np.stack([-along[:, 1], along[:, 0]], axis=1)
    weighted = normal * np.minimum(length, 80.0)[:, None]
    point = np.linalg.solve(weighted.T @ normal, weighted.T @ np.sum(normal * start, axis=1))
    return point if np.linalg.norm(point - near) < _MOVED_PX else near


def _inside(pixel: Array, shape: tuple[int, ...]) -> bool:
    return bool(_BORDER_PX < pixel[0] < shape[1] - 1 - _BORDER_PX and _BORDER_PX < pixel[1] < shape[0] - 1 - _BORDER_PX)


def _common_arms(a: Junctions, b: Junctions) -> Array:
    """(N, M) how many arms of a junction of ``a`` have one of similar heading and contrast in a junction of ``b``."""
    turn = np.abs((a.heading[:, None] - b.heading[None] + np.pi) % (2.0 * np.pi) - np.pi)
    alike = (turn < np.radians(_ARM_TURN_DEG)) & (a.side[:, None] == b.side[None])
    of_b = (np.arange(len(b.pixels))[None] == b.owner[:, None]).astype(np.float64)
    of_a = (np.arange(len(a.pixels))[None] == a.owner[:, None]).astype(np.float64)
    return of_a.T @ ((alike.astype(np.float64) @ of_b) > 0).astype(np.float64)
