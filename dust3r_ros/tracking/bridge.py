"""Extends a camera's pose through images in which tracking is lost, by odometry or a gyroscope.

With odometry, the last pose moves as odometry does. In a map of unknown unit, the length of a metre comes from the
recent path in the map and by odometry. If that fails, as after standing still, or with a gyroscope alone, only the
rotation is measured; the position continues at constant velocity, since an uncalibrated accelerometer is no better.

The covariance adds independent errors of the motion to that of the last pose. Their standard deviations:

- rotation: by odometry 5 % of the angle turned and 0.005 rad/s, by a gyroscope 1 % and 0.01 rad/s (an uncalibrated
  MEMS gyroscope drifts by less);
- position by odometry: 5 % of the path, 0.01 m/s, and the error of an unknown unit; wheel odometry is mostly better;
- position by constant velocity: the error of that velocity, and an acceleration of 1 m/s^2. While the unit is unknown
  the median depth around the last keyframe counts as 2 m, as in rooms;
- position by an error of the rotation: that over the square root of three, times the distance (a drift that grows
  evenly along the path).

Where corners are followed, but hardly one of them is a landmark with a position, ``Directions`` measure the rotation by
them: a camera that turns on the spot soon sees only new ground, without parallax. ``LookBack`` finds the poses of
images from before the first map.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, replace

import cv2
import numpy as np
from scipy.spatial.transform import Rotation

from dust3r_ros.config import MapperConfig
from dust3r_ros.geometry.pinhole import center_of, project, rays
from dust3r_ros.geometry.pose import PnpResult, turned_pose
from dust3r_ros.geometry.rigid import invert, pose, transform
from dust3r_ros.geometry.similarity import Similarity
from dust3r_ros.sensors.gravity_filter import Turned, Turning
from dust3r_ros.tracking.exchange import FollowedPose, MapSnapshot
from dust3r_ros.tracking.following import MANY, MAX_ERROR_PX, Corners, follow, followed, locate, no_corners
from dust3r_ros.types import Array, Image

_REMEMBERED = 512  # images whose motion is kept: the back end may locate one that old
_SPEED_NS = 300_000_000  # span over which the speed is measured
_STEP_M = 0.02  # metres of odometry between two poses that determine the unit
_STEPS, _FEWEST, _SPAN = 64, 6, 4  # such poses kept, pairs needed, steps spanned by a pair
_WAY, _WAY_TIME = 0.05, 0.01  # share of the path, m/s
_ODOMETRY_TURN, _GYRO_TURN = (0.05, 0.005), (0.01, 0.01)  # share of the angle, rad/s
_ACCELERATION = 1.0  # m/s^2
_NO_SPEED = 0.5  # m/s, of a camera with a single known pose
_DEPTH_M = 2.0

_LOOKS = 4  # images before the first pose in which the corners of the next good one are searched for
# Of a camera that turns: standard deviation of the position, by depth and second, and at most, by depth; fewest
# corners, and of those in view; of the half image, how far off their median may be, for a pose by a few others.
_STRAYS, _VAGUEST, _FEWEST_CORNERS, _IN_VIEW, _ABOUT = 0.2, 0.3, 30, 1 / 3, 0.15
_OTHERS = 15  # corners without a position that have a say
CORNERS, _SPACING_PX, _QUALITY = 150, 24, 0.003  # as many as are to be followed, in all
_NEW = 50  # corners that are sought even if there are enough
_OFF = 0.07  # of the long edge, by which an unknown depth may shift a corner before another one is better


@dataclass(frozen=True, eq=False)
class Carried:
    """The extended pose: ``w_T_c`` (4, 4), ``covariance`` (6, 6) of a small motion in the camera's own frame."""

    w_T_c: Array
    covariance: Array


@dataclass(eq=False)
class _Motion:
    """At one image: odometry (4, 4) and the source of the gyroscope's axes, None where unknown; the path (m) since the
    first image.
    """

    stamp_ns: int
    o_T_c: Array | None
    turning: Turning | None
    way: float
    _axes: Turned | None = None

    def axes(self) -> Turned | None:
        """By all gyroscope data so far: data from before an image may arrive after it."""
        axes = None if self.turning is None else self.turning(self.stamp_ns)
        self._axes = axes or self._axes
        return self._axes


@dataclass(frozen=True, eq=False)
class _Anchor:
    """The newest pose found, and the keyframe it is ``known`` by.

    ``speed`` (3,) in map units per second, in the camera frame, and its standard deviation, None if unknown.
    """

    motion: _Motion
    w_T_c: Array
    covariance: Array
    speed: Array
    speed_std: float | None
    known: FollowedPose


class Bridge:
    """The bridge of one camera. For one thread; images in stamp order."""

    def __init__(self, most_s: float) -> None:
        """``most_s``: how long after the last pose found it is extended."""
        self._most_ns = round(1e9 * most_s)
        self.forget()

    def forget(self) -> None:
        """Another map, or another time."""
        self._motions: deque[_Motion] = deque(maxlen=_REMEMBERED)
        self._begin()

    def _begin(self) -> None:
        self._anchor: _Anchor | None = None
        self._found: deque[tuple[int, Array]] = deque()  # newest stamps and poses
        self._steps: deque[tuple[Array, Array]] = deque(maxlen=_STEPS)  # positions in the map and by odometry
        self._known: tuple[int, int] | None = None  # epoch and revision of the map

    def hear(self, stamp_ns: int, o_T_c: Array | None, turning: Turning | None) -> None:
        """Take an image's odometry ``o_T_c`` (4, 4), metres, and gyroscope ``turning``; None without."""
        last = self._motions[-1] if self._motions else None
        way = 0.0 if last is None else last.way
        if last is not None and last.o_T_c is not None and o_T_c is not None:
            way += float(np.linalg.norm(o_T_c[:3, 3] - last.o_T_c[:3, 3]))
        motion = _Motion(stamp_ns, o_T_c, turning, way)
        motion.axes()  # later it may have forgotten them
        self._motions.append(motion)

    def found(self, w_T_c: Array, covariance: Array, known: FollowedPose) -> None:
        """Take the newest image's pose in the map, ``known`` by its keyframe."""
        self._hold(known.stamp_ns, w_T_c, covariance, known)

    def take(self, snapshot: MapSnapshot, covariance: Array | None = None) -> None:
        """Take the current map. It may hold an image without a front-end pose, located with ``covariance``.

        If the map was corrected, so is the pose to extend.
        """
        now = snapshot.epoch, snapshot.revision
        if self._known not in (None, now):
            self._correct(snapshot)
        self._known = now
        known = followed(snapshot, snapshot.stamp_ns, snapshot.w_T_c, no_corners(), np.zeros(2))
        before = np.zeros((6, 6)) if self._anchor is None else self._anchor.covariance
        self._hold(snapshot.stamp_ns, snapshot.w_T_c, before if covariance is None else covariance, known)

    def carry(self, stamp_ns: int, metric: bool) -> Carried | None:
        """The pose of the last image; None if nothing extends it, or for too long. ``metric``: the map is in metres."""
        anchor, motion = self._anchor, self._at(stamp_ns)
        if anchor is None or motion is None or not 0 < stamp_ns - anchor.motion.stamp_ns <= self._most_ns:
            return None
        seconds = (stamp_ns - anchor.motion.stamp_ns) * 1e-9
        moved = _by_odometry(anchor.motion, motion)
        turn = _by_gyroscope(anchor.motion, motion) if moved is None else moved[:3, :3]
        if turn is None:
            return None
        part, rate = _GYRO_TURN if moved is None else _ODOMETRY_TURN
        angle = float(Rotation.from_matrix(turn).magnitude())
        rotation_std = float(np.hypot(part * angle, rate * seconds))
        unit = self._units(metric)
        if moved is not None and unit is not None:
            shift = unit[0] * moved[:3, 3]
            way = motion.way - anchor.motion.way
            errors = (_WAY * way * unit[0], _WAY_TIME * seconds * unit[0], unit[1] * float(np.linalg.norm(shift)))
        else:
            shift, errors = _at_speed(anchor, seconds, metric)
        drift = rotation_std * float(np.linalg.norm(shift)) / np.sqrt(3.0)
        noise = np.repeat([sum(error**2 for error in (*errors, drift)), rotation_std**2], 3)
        c_T_now = pose(turn, shift)
        moved_on = _moved_on(c_T_now)
        covariance = moved_on @ anchor.covariance @ moved_on.T + np.diag(noise)
        return Carried(anchor.w_T_c @ c_T_now, covariance)

    def _at(self, stamp_ns: int) -> _Motion | None:
        place = bisect_right(self._motions, stamp_ns, key=lambda motion: motion.stamp_ns) - 1
        found = self._motions[place] if place >= 0 else None
        return found if found is not None and found.stamp_ns == stamp_ns else None

    def _hold(self, stamp_ns: int, w_T_c: Array, covariance: Array, known: FollowedPose) -> None:
        """Continue from a pose from now on, if it is newer than the current one."""
        motion = self._at(stamp_ns)
        if motion is None or (self._anchor is not None and stamp_ns <= self._anchor.motion.stamp_ns):
            return
        self._found.append((stamp_ns, w_T_c))
        while self._found[-1][0] - self._found[0][0] > _SPEED_NS and len(self._found) > 2:
            self._found.popleft()
        if motion.o_T_c is not None:
            o_p = motion.o_T_c[:3, 3]
            if not self._steps or np.linalg.norm(o_p - self._steps[-1][1]) >= _STEP_M:
                self._steps.append((w_T_c[:3, 3], o_p))
        self._anchor = _Anchor(motion, w_T_c, covariance, *self._speed(w_T_c, covariance), known)

    def _speed(self, w_T_c: Array, covariance: Array) -> tuple[Array, float | None]:
        """The speed in the camera frame, and its standard deviation."""
        (first, w_T_first), (last, _) = self._found[0], self._found[-1]
        seconds = (last - first) * 1e-9
        if not 0 < seconds <= 4e-9 * _SPEED_NS:
            return np.zeros(3), None
        std = float(np.sqrt(2.0 * np.trace(covariance[:3, :3]) / 3.0)) / seconds
        return w_T_c[:3, :3].T @ (w_T_c[:3, 3] - w_T_first[:3, 3]) / seconds, std

    def _units(self, metric: bool) -> tuple[float, float] | None:
        """Map units per metre and their relative standard deviation; None if unknown."""
        if metric:
            return 1.0, 0.0
        steps = list(self._steps)
        pairs = list(zip(steps, steps[_SPAN:], strict=False))
        metres = np.array([np.linalg.norm(b[1] - a[1]) for a, b in pairs])
        units = np.array([np.linalg.norm(b[0] - a[0]) for a, b in pairs])
        long_enough = metres > _STEP_M
        if np.count_nonzero(long_enough) < _FEWEST:
            return None
        ratios = units[long_enough] / metres[long_enough]
        middle = float(np.median(ratios))
        if not middle > 0:
            return None
        spread = 1.4826 * float(np.median(np.abs(ratios - middle))) / middle
        return middle, spread / np.sqrt(len(ratios) / _SPAN)  # pairs overlap

    def _correct(self, snapshot: MapSnapshot) -> None:
        """After the map moved or changed its unit: drop measurements in the old map, move the pose along."""
        anchor = self._anchor
        self._begin()
        keyframe = None
        if anchor is not None and snapshot.epoch == anchor.known.epoch:
            keyframe = snapshot.at(anchor.known.keyframe)
        if anchor is None or keyframe is None:
            return
        w_T_k, unit = keyframe
        factor = _positive(unit / anchor.known.unit)
        k_T_c = anchor.known.k_T_c.copy()
        k_T_c[:3, 3] *= factor
        scale = np.diag([factor] * 3 + [1.0] * 3)
        w_T_c = w_T_k @ k_T_c
        self._found.append((anchor.motion.stamp_ns, w_T_c))
        self._anchor = replace(
            anchor,
            w_T_c=w_T_c,
            covariance=scale @ anchor.covariance @ scale,
            speed=factor * anchor.speed,
            speed_std=None if anchor.speed_std is None else factor * anchor.speed_std,
            known=replace(anchor.known, k_T_c=k_T_c, unit=unit),
        )


class LookBack:
    """Poses of the images before a snapshot's, newest first. For one thread."""

    def __init__(
        self,
        known: MapSnapshot,
        corners: Corners,
        images: Iterable[tuple[int, Image]],
        middle: Array,
        config: MapperConfig,
    ) -> None:
        """``corners`` belong to the first of ``images`` (stamp, tracked image), the snapshot's own."""
        self._known, self._corners, self._middle, self._config = known, corners, middle, config
        self._images = deque(images)
        self._gray = self._images.popleft()[1]
        self._moved = corners.pixels * 0.0
        self._near, self._failed = known.w_T_c, 0

    @property
    def done(self) -> bool:
        """Whether no image is left, or no corner to locate it by."""
        return not self._images or self._failed >= _LOOKS

    def step(self) -> FollowedPose | None:
        """The pose of the next image; None if it is not found."""
        stamp_ns, gray = self._images.popleft()
        corners = self._corners
        pixels, good = follow(self._gray, gray, corners.pixels, corners.pixels + self._moved)
        seen = corners.moved(pixels, good)
        found = locate(self._known, seen, corners, self._middle, self._near, self._config)
        if found is None:
            self._failed += 1
            return None
        self._moved = (pixels - corners.pixels)[good][found.inliers]
        self._corners, self._gray = seen.select(found.inliers), gray
        self._near, self._failed = found.w_T_c, 0
        return followed(self._known, stamp_ns, found.w_T_c, self._corners, self._middle)


class Directions:
    """Poses of one camera by the directions of corners, most of which have no position. For one thread.

    The position is the last one, less and less certain, as far as the few landmarks with a position do not tell it.
    """

    def __init__(self) -> None:
        self._last_id, self.depth = 0, 1.0  # of corners that the map does not know, negative; typical, of what is seen
        self.std = 0.0  # standard deviation of the last position; 0: landmarks told it

    def take(self, snapshot: MapSnapshot, another: bool) -> None:
        """Take the current map, or ``another`` one; what only a few landmarks say of depth may be far off."""
        says = another or np.count_nonzero(np.isfinite(snapshot.points[:, 0])) >= MANY
        self.depth = snapshot.unit if says and np.isfinite(snapshot.unit) and snapshot.unit > 0 else self.depth

    def pose(
        self,
        known: MapSnapshot,
        found: PnpResult | None,
        corners: Corners,
        sought: Corners,
        middle: Array,
        near: Array | None,
        seconds: float,
    ) -> PnpResult | None:
        """The pose of an image that shows ``corners``, of those ``sought``, ``seconds`` after it was ``near`` (4, 4).

        ``found``: by a few with a position, if they tell one; it holds if nothing else does, and the others do not
        deny it. ``inliers`` (N,): of all corners. ``middle`` (2,): the centre of the tracked image.
        """
        others = corners.select(~corners.placed)
        if near is not None and (found is None or len(others) >= _OTHERS):
            turned = self._turned(known, corners, sought, middle, near, seconds)
            if turned is not None:
                return turned
        if found is None or (len(others) >= _OTHERS and self._deny(known, found, others, middle)):
            return None
        self.std = 0.0
        return replace(found, inliers=corners.fitting(found.inliers))

    def _turned(
        self, known: MapSnapshot, corners: Corners, sought: Corners, middle: Array, near: Array, seconds: float
    ) -> PnpResult | None:
        """The pose by the directions of all corners; None if they do not tell it."""
        std = float(np.hypot(self.std, seconds * _STRAYS * self.depth))
        offsets = known.lens.ideal(corners.pixels - middle)
        seen = corners.points, offsets, corners.placed, known.focal, near, corners.origins, std
        found = turned_pose(*seen, threshold_px=MAX_ERROR_PX, min_inliers=_FEWEST_CORNERS)
        if found is None:
            return None
        # In an image of something else, corners are found near where they were, but not many
        in_view = np.all(np.abs(_seen(known, found, sought)) <= middle, axis=1)
        vague = float(np.sqrt(np.trace(found.covariance[:3, :3]) / 3.0))
        if found.inliers.sum() < _IN_VIEW * in_view.sum() or vague > _VAGUEST * self.depth:
            return None
        self.std = vague
        return found

    def _deny(self, known: MapSnapshot, found: PnpResult, others: Corners, middle: Array) -> bool:
        """Whether corners without a position are elsewhere than a pose by a few others has them."""
        off = np.linalg.norm(_seen(known, found, others) + middle - others.pixels, axis=1)
        return not float(np.median(np.nan_to_num(off, nan=np.inf))) < _ABOUT * max(middle)

    def refreshed(
        self, known: MapSnapshot, corners: Corners, gray: Image, masked: Image | None, w_T_c: Array
    ) -> Corners:
        """The corners of an image at ``w_T_c`` (4, 4), with more that the map does not know.

        Those leave once the camera is far from where they were first seen. Pixels under ``masked`` (h, w) have none.
        """
        depths = np.maximum(np.linalg.norm(corners.points - w_T_c[:3, 3], axis=1), 1e-12)
        shifted = known.focal * np.linalg.norm(w_T_c[:3, 3] - corners.origins, axis=1) / depths
        corners = corners.select((corners.ids >= 0) | (shifted < _OFF * max(gray.shape)))
        clear = np.full(gray.shape, 255, np.uint8)
        for x, y in np.round(corners.pixels).astype(int).tolist():
            cv2.circle(clear, (x, y), _SPACING_PX, 0, -1)
        if masked is not None:
            clear[masked != 0] = 0
        found = cv2.goodFeaturesToTrack(gray, max(CORNERS - len(corners), _NEW), _QUALITY, _SPACING_PX, mask=clear)
        pixels = np.zeros((0, 2)) if found is None else found.reshape(-1, 2).astype(np.float64)
        seen = rays(known.lens.ideal(pixels - center_of(*gray.shape)), known.focal, (0.0, 0.0))
        self._last_id -= len(pixels)
        new = Corners(
            self._last_id + np.arange(len(pixels)),
            pixels,
            transform(w_T_c, self.depth * seen),
            np.full_like(pixels, np.nan),
            np.zeros(len(pixels), bool),
            np.tile(w_T_c[:3, 3], (len(pixels), 1)),
        )
        return corners.join(new)


def guessed(snapshot: MapSnapshot, usual: float) -> tuple[Array, np.ndarray]:
    """Points (N, 3) of a snapshot, and which (N,) the map knows; the others get the average depth of these.

    Without any, the ``usual`` depth.
    """
    placed = np.isfinite(snapshot.points[:, 0])
    depths = transform(invert(snapshot.w_T_c), snapshot.points[placed])[:, 2]
    depth = float(np.median(depths)) if len(depths) else usual
    seen = rays(snapshot.lens.ideal(snapshot.pixels), snapshot.focal, (0.0, 0.0)) * depth
    return np.where(placed[:, None], snapshot.points, transform(snapshot.w_T_c, seen)), placed


def moved_with(before: MapSnapshot, now: MapSnapshot) -> Similarity | None:
    """How the map moved since a snapshot, as its keyframe did; None if that is not known."""
    keyframe = now.at(before.keyframe) if now.epoch == before.epoch else None
    if keyframe is None:
        return None
    w_T_k, unit = keyframe
    factor, turn = _positive(unit / before.unit), w_T_k[:3, :3] @ before.w_T_k[:3, :3].T
    return Similarity(factor, turn, w_T_k[:3, 3] - factor * turn @ before.w_T_k[:3, 3])


def _seen(known: MapSnapshot, found: PnpResult, corners: Corners) -> Array:
    """(N, 2) where a camera sees corners, offsets from the centre; NaN behind it."""
    return known.lens.seen(project(transform(invert(found.w_T_c), corners.points), known.focal, (0.0, 0.0)))


def _by_odometry(first: _Motion, now: _Motion) -> Array | None:
    """``first_T_now`` (4, 4), metres."""
    if first.o_T_c is None or now.o_T_c is None:
        return None
    return invert(first.o_T_c) @ now.o_T_c


def _by_gyroscope(first: _Motion, now: _Motion) -> Array | None:
    """The rotation (3, 3) of ``first_T_now``, if gyroscope data has no gap."""
    before, after = first.axes(), now.axes()
    if before is None or after is None or before.span != after.span:
        return None
    return before.g_R_x.T @ after.g_R_x


def _at_speed(anchor: _Anchor, seconds: float, metric: bool) -> tuple[Array, tuple[float, float, float]]:
    """The shift (3,) of a camera at constant velocity, in map units, and its standard deviations."""
    metre = 1.0 if metric else _positive(anchor.known.unit) / _DEPTH_M
    speed_std = _NO_SPEED * metre if anchor.speed_std is None else anchor.speed_std
    return seconds * anchor.speed, (speed_std * seconds, 0.5 * _ACCELERATION * metre * seconds**2, 0.0)


def _positive(length: float) -> float:
    """A length or ratio, 1 if unknown."""
    return length if np.isfinite(length) and length > 0 else 1.0


def _moved_on(a_T_b: Array) -> Array:
    """(6, 6) from a small motion of a to that of frame b, fixed to it (the adjoint of ``b_T_a``)."""
    b_R_a, (x, y, z) = a_T_b[:3, :3].T, a_T_b[:3, 3]
    across = np.array([[0.0, -z, y], [z, 0.0, -x], [-y, x, 0.0]])
    adjoint = np.zeros((6, 6))
    adjoint[:3, :3] = adjoint[3:, 3:] = b_R_a
    adjoint[:3, 3:] = -b_R_a @ across
    return adjoint
