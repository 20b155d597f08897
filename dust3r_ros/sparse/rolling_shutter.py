"""Rolling shutters: a camera that moves while it reads its image out, row by row, shows each row from another place.

To first order an image is what the camera would have taken at once, in the middle of the readout, with everything
carried on by its own velocity in the image until its row was read (Hedborg et al., "Rolling shutter bundle adjustment",
CVPR 2012). The time from row to row is one unknown of a camera, or that from column to column of one that is turned;
velocities follow from the poses around an image.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import numpy as np
from scipy.spatial.transform import Rotation

from dust3r_ros.geometry.pinhole import project, rays
from dust3r_ros.geometry.rigid import invert, transform
from dust3r_ros.sparse.bundle_adjustment import adjust
from dust3r_ros.sparse.bundle_problem import BundleProblem, grouped
from dust3r_ros.sparse.landmarks import Intrinsics
from dust3r_ros.sparse.lens_refinement import ENOUGH_VIEWS, sampled
from dust3r_ros.sparse.sparse_map import SparseMap
from dust3r_ros.tracking import Tracks
from dust3r_ros.types import Array

_FAR = 1e6
_NEAREST = 0.05  # of the median depth: landmarks that are nearer are at a wrong place
_INVERTED = 3  # rounds; each leaves a tenth of the error, or less
_BESIDE, _LONGEST = 2, 1.5  # images on either side whose poses tell a velocity, if they are not so many seconds away


@dataclass(frozen=True, eq=False)
class Motion:
    """How a camera moved when it took an image, per second, in its optical frame: ``turn`` (3,) radians, ``step`` (3,)
    in the map's unit. ``zoom``: by how much longer (log) its focal was than in the map."""

    turn: Array
    step: Array
    zoom: float = 0.0

    @classmethod
    def among(cls, w_T_c: Array, others: Array, seconds: Array) -> Motion:
        """At pose ``w_T_c`` (4, 4), from ``others`` (K, 4, 4) so many ``seconds`` (K,) later.

        The slope of the polynomial of least degree through all: a hand shakes faster than two poses tell.
        """
        relative = invert(w_T_c) @ others
        weights = np.linalg.pinv(seconds[:, None] ** np.arange(1, len(seconds) + 1))[0]
        return cls(weights @ Rotation.from_matrix(relative[:, :3, :3]).as_rotvec(), weights @ relative[:, :3, 3])

    def speed(self, focal: float, depth: float) -> float:
        """Pixels per second in the middle of the image, at most, of what is at a ``depth``."""
        return focal * float(np.linalg.norm(self.turn) + np.linalg.norm(self.step) / depth)

    def carried(self, intrinsics: Intrinsics, points: Array, offset: Array, rolling: Array) -> Array:
        """(K, 2) pixels by which what is seen at offsets (K, 2) was carried on until it was read.

        ``points`` (K, 3): where it is in the optical frame. What is unknown, NaN, or so near that it would fly past the
        camera, is taken to be as far away as the others.
        ``rolling`` (2,): seconds from pixel to pixel, across and down.
        """
        if not (len(points) and rolling.any()):
            return np.zeros((len(points), 2))
        known = points[:, 2] > 0
        far = min(float(np.median(points[known, 2])), _FAR) if known.any() else _FAR
        known &= points[:, 2] > _NEAREST * far
        if not known.all():
            points = points.copy()
            points[~known] = far * rays(intrinsics.lens.ideal(offset[~known]), intrinsics.focal, (0.0, 0.0))
        moved = points - (offset @ rolling)[:, None] * (self.step + np.cross(self.turn, points))
        before, after = (intrinsics.lens.seen(project(at, intrinsics.focal, (0.0, 0.0))) for at in (points, moved))
        return np.where(np.isfinite(after - before), after - before, 0.0)

    def unrolled(self, intrinsics: Intrinsics, points: Array, tracks: Tracks, rolling: Array) -> Tracks:
        """What an image shows of ``points`` (K, 3), as of ``carried``, if its readout were shorter by ``rolling``, and
        its focal that of the map."""
        pixels = tracks.pixels * math.exp(-self.zoom)
        return Tracks(tracks.ids, pixels - self.carried(intrinsics, points, pixels, rolling))

    def rolled(self, intrinsics: Intrinsics, points: Array, tracks: Tracks, rolling: Array) -> Tracks:
        """The tracks of which ``unrolled`` makes ``tracks``."""
        pixels = tracks.pixels
        for _ in range(_INVERTED):  # when a pixel was read depends on where it is shown
            pixels = tracks.pixels + self.carried(intrinsics, points, pixels, rolling)
        return Tracks(tracks.ids, pixels * math.exp(self.zoom))


class Motions:
    """The motion of cameras at frames with a pose, from those before and after them."""

    def __init__(
        self,
        frames: Mapping[tuple[str, int], tuple[np.ndarray, Callable[[np.ndarray], Array]]] | None = None,
        zooms: Mapping[tuple[str, int], tuple[np.ndarray, Array]] | None = None,
    ) -> None:
        """``frames`` of each camera in each session, which has its own clock: stamps (N,), which rise, and what returns
        ``w_T_c`` (K, 4, 4) of K of them. ``zooms`` of those whose focal changes: at such stamps (K,), the logs (K,).
        """
        self._frames, self._zooms = frames or {}, zooms or {}

    def at(self, camera: str, stamp_ns: int, session: int = 0) -> Motion | None:
        """The motion at a frame; None for one without a pose, or if those beside it are too long before or after."""
        if (camera, session) not in self._frames:
            return None
        stamps, poses = self._frames[camera, session]
        here = int(np.searchsorted(stamps, stamp_ns))
        if here == len(stamps) or stamps[here] != stamp_ns:
            return None
        near = np.arange(max(here - _BESIDE, 0), min(here + _BESIDE + 1, len(stamps)))
        seconds = 1e-9 * (stamps[near] - stamp_ns)
        others, zooms = (np.abs(seconds) < _LONGEST) & (near != here), self._zooms.get((camera, session))
        zoom = 0.0 if zooms is None else _zoom_at(stamp_ns, *zooms)
        if not others.any():
            return Motion(np.zeros(3), np.zeros(3), zoom) if zoom else None
        return replace(Motion.among(poses(np.array([here]))[0], poses(near[others]), seconds[others]), zoom=zoom)


_LEAP = 0.3  # of the log from keyframe to keyframe: not a lens that is turned, but another one


def _zoom_at(stamp_ns: int, stamps: np.ndarray, logs: Array) -> float:
    """The log at a stamp between keyframes, at ``stamps`` (K,), which rise.

    Nothing is followed into another lens, so the first image that it took is a keyframe: those before it are as before.
    """
    before = int(np.searchsorted(stamps, stamp_ns, "right")) - 1
    leaps = 0 <= before < len(logs) - 1 and abs(logs[before + 1] - logs[before]) > _LEAP
    return float(logs[before] if leaps else np.interp(stamp_ns, stamps, logs))


# Standard deviation, seconds over the longer side: many cameras read all at once, webcams and phones take up to 0.04.
_READOUT_STD = 0.02
_TRIED, _FARTHEST, _BRIEFLY = 0.01, 0.04, 1e-3  # seconds
_MOST = 120  # views that are adjusted: in more, a sample would take minutes
_SURE = 3.0  # log likelihood that is no accident
_STEPS, _TOLERANCE = 20, 1e-5


@dataclass(frozen=True, eq=False)
class Readout:
    """``rolling`` (2,), seconds from pixel to pixel, by which a camera's readout seems to take longer; 0 if it does not
    for sure. ``focal_std``: relative standard deviation of the focal from not knowing that better.
    """

    rolling: Array
    focal_std: float


def measure_readout(sparse: SparseMap, camera: int, motions: Mapping[int, Motion], known: Array) -> Readout | None:
    """How much longer than the ``known`` (2,) a camera's readout takes, from views with ``motions``.

    None if these are few, or nothing can be adjusted; the map is unchanged. A sample of it is adjusted, with focals and
    lenses, to images read somewhat slower or faster: the cost of that is about a parabola.
    """
    if len(motions) < ENOUGH_VIEWS:
        return None
    built = sampled(sparse, None if len(sparse.posed()) <= _MOST else _liveliest(motions))
    if built is None:
        return None
    problem, huber_px, views = built
    carried = [_carried(sparse, problem, views, camera, motions, axis) for axis in range(2)]
    side = 2.0 * sparse.intrinsics[camera].lens.radius

    def cost(axis: int, seconds: float) -> tuple[float, float]:
        shifted = replace(problem, offset=problem.offset - seconds * carried[axis])
        found = adjust(shifted, huber_px=huber_px, iterations=_STEPS, tolerance=_TOLERANCE)
        total = side * known + seconds * np.eye(2)[axis]
        return found.cost + 0.5 * float(total @ total) / _READOUT_STD**2, math.log(found.focals[camera])

    now = cost(0, 0.0)[0]
    best, focal_std = (now, 0, 0.0), 0.0
    for axis in np.flatnonzero(known).tolist() or range(2):
        (less, short), (more, long) = cost(axis, -_TRIED), cost(axis, _TRIED)
        best = min(best, (less, axis, -_TRIED), (more, axis, _TRIED))
        bend = (less + more - 2.0 * now) / _TRIED**2
        if bend > 0:
            seconds = float(np.clip((less - more) / (2.0 * _TRIED * bend), -_FARTHEST, _FARTHEST))
            if bend * seconds**2 > _SURE:  # twice what there would be to gain
                best = min(best, (cost(axis, seconds)[0], axis, seconds))
        sharpest = max(_READOUT_STD**-2, bend)  # where the images say nothing, usual readouts are known
        focal_std = max(focal_std, abs(long - short) / (2.0 * _TRIED) / math.sqrt(sharpest))
    rolling = np.zeros(2)
    if best[0] < now - _SURE:
        rolling[best[1]] = best[2] / side
    return Readout(rolling, focal_std)


def _liveliest(motions: Mapping[int, Motion]) -> list[int]:
    """Views in a row, of those with ``motions``: where the camera turns most."""
    views = sorted(motions)
    turned = np.concatenate([[0.0], np.cumsum([np.linalg.norm(motions[view].turn) for view in views])])
    first = int(np.argmax(turned[_MOST:] - turned[:-_MOST])) if len(views) > _MOST else 0
    return views[first : first + _MOST]


def _carried(
    sparse: SparseMap, problem: BundleProblem, views: list[int], camera: int, motions: Mapping[int, Motion], axis: int
) -> Array:
    """(M, 2) pixels by which observations of a problem are carried on per second that the readout of the longer side
    takes, along an axis; 0 for those of other cameras, or of unknown motion.
    """
    carried, intrinsics = np.zeros_like(problem.offset), sparse.intrinsics[camera]
    rolling = _BRIEFLY / (2.0 * intrinsics.lens.radius) * np.eye(2)[axis]
    order = np.argsort(problem.view, kind="stable")
    for local, mine in grouped(problem.view[order], order):
        index = views[local]
        if sparse.views[index].camera == camera and index in motions:
            points = transform(invert(sparse.views[index].pose), problem.points[problem.point[mine]])
            carried[mine] = motions[index].carried(intrinsics, points, problem.offset[mine], rolling) / _BRIEFLY
    return carried
