"""Points of the dense map with the keyframes that see them: the input of external trainers and bundle adjusters."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import cv2
import numpy as np
from numpy.typing import NDArray

from dust3r_ros.cloud.cloud import Cloud
from dust3r_ros.cloud.fusion import NEIGHBOURS, agreed, overlapping
from dust3r_ros.geometry.pinhole import center_of, project, rays
from dust3r_ros.geometry.rigid import invert, transform
from dust3r_ros.types import Array, Image, Keyframe

MAX_POINTS = 100_000
_TOLERANCE = 0.03  # of depth: closer points are the same surface
_NEAR = 1.0  # pixels between predicted and measured position
_FAR = 2.0  # pixels, the same for landmarks
_WINDOW = 11  # pixels, the size of the compared patch
_VIEWS = 3.0  # about how many keyframes see a point


@dataclass(frozen=True, eq=False)
class DenseTracks:
    """P points and their O >= 2 P observations, sorted by point.

    ``points`` (P, 3) map frame, ``colors`` (P, 3) uint8 RGB, ``errors`` (P,) mean reprojection error, pixels;
    per observation ``point`` (O,) and ``view`` (O,), positions in the lists of points and of keyframes, and
    ``pixels`` (O, 2), centres at integers.
    """

    points: Array
    colors: Image
    errors: Array
    point: NDArray[np.int64]
    view: NDArray[np.int64]
    pixels: Array

    def __len__(self) -> int:
        return len(self.points)

    @property
    def cloud(self) -> Cloud:
        """The points, with the number of keyframes that see them as confidence."""
        seen = np.bincount(self.point, minlength=len(self)).astype(np.float32)
        return Cloud(self.points.astype(np.float32), self.colors, seen)


def dense_tracks(keyframes: Sequence[Keyframe], count: int = MAX_POINTS, min_confidence: float = 1.5) -> DenseTracks:
    """At most ``count`` points spread over what the keyframes see, each seen by at least two.

    Grid pixels whose depth overlapping keyframes support (``fusion.agreed``) are projected into those; a place
    already taken is not taken again. Where there is texture, the observation in another keyframe is measured
    (Lucas and Kanade, 1981), and dropped if it is more than a pixel off; elsewhere it is the projection.
    Deterministic.
    """
    if not count:
        return joined()
    step = _step(keyframes, count, min_confidence)
    positions = {keyframe.index: view for view, keyframe in enumerate(keyframes)}
    greys = [cv2.cvtColor(np.ascontiguousarray(keyframe.image), cv2.COLOR_RGB2GRAY) for keyframe in keyframes]
    taken = [np.zeros((-(-k.depth.shape[0] // step), -(-k.depth.shape[1] // step)), bool) for k in keyframes]
    parts: list[DenseTracks] = []
    for view, keyframe in enumerate(keyframes):
        others = overlapping(keyframe, keyframes, NEIGHBOURS)
        depth = agreed(keyframe, others, min_confidence).depth
        pixels = _free_pixels(depth, taken[view], step)
        z = depth[pixels[:, 1], pixels[:, 0]].astype(np.float64)
        middle = center_of(*depth.shape)
        points = transform(keyframe.w_T_c, rays(pixels.astype(np.float64), keyframe.focal, middle) * z[:, None])
        observations = [(np.arange(len(points)), np.full(len(points), view), pixels.astype(np.float64))]
        errors = np.zeros(len(points))
        for other in others:
            its = positions[other.index]
            seen, where = _seen(other, points, min_confidence)
            cells = np.rint(where).astype(int) // step
            taken[its][cells[:, 1], cells[:, 0]] = True
            found, place = _measured(greys[view], greys[its], pixels[seen], where)
            observations.append((seen[found], np.full(int(found.sum()), its), place[found]))
            errors[seen[found]] += np.linalg.norm(place - where, axis=1)[found]
        colors = keyframe.image[pixels[:, 1], pixels[:, 0]]
        parts.append(_seen_twice(points, colors, errors, observations))
    return limited(joined(*parts), count)


def joined(*parts: DenseTracks) -> DenseTracks:
    """All points of all parts, in order; the views of all parts index one list of keyframes."""
    if not parts:
        none = np.zeros(0, np.int64)
        return DenseTracks(np.zeros((0, 3)), np.zeros((0, 3), np.uint8), np.zeros(0), none, none, np.zeros((0, 2)))
    first = np.cumsum([0, *(len(part) for part in parts[:-1])])
    shifted = [replace(part, point=part.point + start) for part, start in zip(parts, first, strict=True)]
    names = ("points", "colors", "errors", "point", "view", "pixels")
    return DenseTracks(*(np.concatenate([getattr(part, name) for part in shifted]) for name in names))


def limited(tracks: DenseTracks, count: int) -> DenseTracks:
    """At most ``count`` of the points, evenly chosen, with all their observations."""
    if len(tracks) <= count:
        return tracks
    keep = np.zeros(len(tracks), bool)
    keep[np.linspace(0, len(tracks) - 1, count).astype(int)] = True
    stays, number = keep[tracks.point], np.cumsum(keep) - 1
    return DenseTracks(
        tracks.points[keep], tracks.colors[keep], tracks.errors[keep],
        number[tracks.point[stays]], tracks.view[stays], tracks.pixels[stays],
    )  # fmt: skip


def landmark_tracks(
    keyframes: Sequence[Keyframe],
    positions: Array,
    colors: Image,
    keyframe: NDArray[np.int64],
    landmark: NDArray[np.int64],
    pixels: Array,
) -> DenseTracks:
    """Landmarks (L, 3), ``colors`` (L, 3), as tracks of ``keyframes``.

    Observation m: keyframe of index ``keyframe[m]`` sees landmark ``landmark[m]`` at ``pixels[m]`` (M, 2). Observations
    more than two pixels from the projected landmark are left out, as are those outside the image (rectified, it shows
    less than a wide lens sees), then landmarks with fewer than two of them.
    """
    view, found = np.full(len(keyframe), -1), np.full(len(keyframe), np.inf)
    for number, seeing in enumerate(keyframes):
        mine = keyframe == seeing.index
        local = transform(invert(seeing.w_T_c), positions[landmark[mine]])
        where = project(local, seeing.focal, center_of(*seeing.depth.shape))
        off = np.nan_to_num(np.linalg.norm(where - pixels[mine], axis=1), nan=np.inf)
        view[mine], found[mine] = number, np.where(_inside(pixels[mine], seeing.depth.shape), off, np.inf)
    good = found < _FAR
    errors = np.zeros(len(positions))
    np.add.at(errors, landmark[good], found[good])
    return _seen_twice(positions, colors, errors, [(landmark[good], view[good], pixels[good])])


def _step(keyframes: Sequence[Keyframe], count: int, min_confidence: float) -> int:
    """Pixels between candidates that yield about ``count`` points."""
    usable = sum(int(np.count_nonzero((k.depth > 0) & (k.confidence > min_confidence))) for k in keyframes)
    return max(1, int(np.sqrt(usable / (_VIEWS * max(count, 1)))))


def _free_pixels(depth: NDArray[np.float32], taken: NDArray[np.bool_], step: int) -> NDArray[np.int64]:
    """(N, 2) pixels (u, v) with depth at the centre of cells that are not taken."""
    v, u = np.nonzero(~taken)
    v, u = np.minimum(v * step + step // 2, depth.shape[0] - 1), np.minimum(u * step + step // 2, depth.shape[1] - 1)
    known = depth[v, u] > 0
    return np.stack([u[known], v[known]], axis=-1)


def _seen(other: Keyframe, points: Array, min_confidence: float) -> tuple[NDArray[np.int64], Array]:
    """Which points (N, 3) a keyframe sees at its own depth, and at which pixels (M, 2)."""
    height, width = other.depth.shape
    local = transform(invert(other.w_T_c), points)
    where = project(local, other.focal, center_of(height, width))
    with np.errstate(invalid="ignore"):
        inside = (where >= 0).all(axis=1) & (where <= [width - 1, height - 1]).all(axis=1)
    index = np.flatnonzero(inside)
    u, v = np.rint(where[index]).astype(int).T
    depth = other.depth[v, u].astype(np.float64)
    known = np.isfinite(depth) & (depth > 0) & (other.confidence[v, u] > min_confidence)
    same = known & (np.abs(np.log(np.where(known, depth, 1.0) / local[index, 2])) < _TOLERANCE)
    return index[same], where[index[same]]


def _measured(grey: Image, other: Image, pixels: NDArray[np.int64], where: Array) -> tuple[NDArray[np.bool_], Array]:
    """Which pixels (N, 2) of an image are found in another near ``where`` (N, 2), and the places (N, 2).

    Without texture a place cannot be measured and stays as predicted.
    """
    if not len(pixels):
        return np.zeros(0, bool), where
    start = where.astype(np.float32)[:, None]
    shape = np.maximum(grey.shape, other.shape)  # images of two cameras: the flow wants one size
    place, status, _ = cv2.calcOpticalFlowPyrLK(
        _padded(grey, shape), _padded(other, shape), pixels.astype(np.float32)[:, None], start.copy(),
        winSize=(_WINDOW, _WINDOW), maxLevel=0,
        criteria=(cv2.TERM_CRITERIA_EPS | cv2.TERM_CRITERIA_COUNT, 20, 0.01), flags=cv2.OPTFLOW_USE_INITIAL_FLOW,
        minEigThreshold=3e-4,
    )  # fmt: skip
    known = status.ravel() > 0
    place = np.where(known[:, None], place[:, 0].astype(np.float64), where)
    return _inside(place, other.shape) & (np.linalg.norm(place - where, axis=1) < _NEAR), place


def _padded(grey: Image, shape: NDArray[np.int64]) -> Image:
    """An image, continued to the right and below to a shape (H, W)."""
    return np.pad(grey, [(0, more) for more in shape - grey.shape], mode="edge")


def _inside(pixels: Array, shape: tuple[int, ...]) -> NDArray[np.bool_]:
    """Which pixels (N, 2) lie in an image (H, W)."""
    return np.all((pixels >= -0.5) & (pixels < [shape[1] - 0.5, shape[0] - 0.5]), axis=1)


def _seen_twice(
    points: Array, colors: Image, errors: Array, observations: list[tuple[NDArray[np.int64], NDArray[np.int64], Array]]
) -> DenseTracks:
    """The points with two observations or more; ``errors`` (N,) are sums."""
    point, view, pixels = (np.concatenate(part) for part in zip(*observations, strict=True))
    views = np.bincount(point, minlength=len(points))
    keep = views >= 2
    stays = keep[point]
    number = np.cumsum(keep) - 1
    order = np.argsort(number[point[stays]], kind="stable")
    return DenseTracks(
        points[keep], colors[keep], errors[keep] / views[keep],
        number[point[stays]][order], view[stays][order], pixels[stays][order],
    )  # fmt: skip
