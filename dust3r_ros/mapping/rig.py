"""Cameras on one body: their extrinsics, as given and as measured in the map; a camera's pose from another's.

Stamps are not synchronised: a camera's pose between two of its frames is interpolated, if the
gap is short. ``a_T_b`` is camera b in the frame of camera a, ``r_T_c`` camera c on the robot.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import combinations

import numpy as np
from scipy.spatial.transform import Rotation

from dust3r_ros.errors import InputError
from dust3r_ros.geometry.rigid import interpolate, invert, is_rotation, pose
from dust3r_ros.types import Array, StampedPose

_GAP_NS = 400_000_000  # longest gap between two frames in which motion counts as smooth
_AHEAD_NS = 150_000_000  # how long motion is extrapolated
_KEPT = 8  # newest poses kept of a camera
_SAMPLES = 400  # newest measurements kept of a pair of cameras
_ENOUGH = 8  # measurements needed for extrinsics
_SURE_DEG = 3.0  # largest scatter of those
_MEDIAN_LENGTH = 1.54  # of a 3D error, in standard deviations of its coordinates
_USUAL = 4.0  # standard deviations


@dataclass(frozen=True, eq=False)
class Extrinsics:
    """Camera b in the frame of camera a, measured in the map: ``a_T_b`` (4, 4), translation in map units.

    ``angle_std`` (degrees) and ``length_std`` (map units) are those of one of the ``count`` measurements:
    neighbouring frames share errors, so many of them are hardly better than one.
    """

    a_T_b: Array
    angle_std: float
    length_std: float
    count: int


@dataclass(frozen=True, eq=False)
class _At:
    stamp_ns: int
    w_T_c: Array


class Rig:
    """The extrinsics of cameras on one body. Feed it every pose found from images.

    ``metres_per_unit`` of the map is set from outside; None: unknown.
    """

    def __init__(self) -> None:
        self.metres_per_unit: float | None = None
        self._given: dict[str, Array] = {}
        self._paths: dict[str, deque[_At]] = {}
        self._samples: dict[tuple[str, str], deque[Array]] = {}
        self._estimated: dict[tuple[str, str], Extrinsics | None] = {}

    def set(self, camera: str, r_T_c: Array) -> None:
        """Set given extrinsics: ``r_T_c`` (4, 4), metres, r any frame of the robot, the same for all cameras.

        Raises ``InputError``.
        """
        T = np.asarray(r_T_c, np.float64)
        if T.shape != (4, 4) or not np.isfinite(T).all() or not _rigid(T):
            raise InputError(f"extrinsics of camera '{camera}' are no rigid motion (4, 4): {np.round(T, 4).tolist()}")
        self._given[camera] = T.copy()

    def located(self, camera: str, stamp_ns: int, w_T_c: Array) -> None:
        """Take a pose (4, 4) found from images of ``camera``, in time order per camera."""
        path = self._paths.setdefault(camera, deque(maxlen=_KEPT))
        if path and stamp_ns <= path[-1].stamp_ns:
            path.clear()  # time started again
        path.append(_At(stamp_ns, w_T_c))
        previous = path[-2].stamp_ns if len(path) > 1 else stamp_ns
        for other in sorted(self._paths.keys() - {camera}):
            for at in self._paths[other]:
                if previous < at.stamp_ns <= stamp_ns or at.stamp_ns == stamp_ns:
                    own = _between(path, at.stamp_ns)
                    if own is not None:
                        self._measured(other, at.w_T_c, camera, own)

    def relearn(self, trajectory: Iterable[StampedPose]) -> None:
        """After the map changed: drop earlier measurements and take these poses, by time."""
        self._forget()
        for frame in trajectory:
            self.located(frame.camera, frame.stamp_ns, frame.w_T_c)

    def renew(self) -> None:
        """Another map, with another unit of length: drop earlier measurements."""
        self._forget()
        self.metres_per_unit = None

    def _forget(self) -> None:
        self._paths.clear()
        self._samples.clear()
        self._estimated.clear()

    def rescale(self, factor: float) -> None:
        """The unit of length shrank by ``factor``; coordinates may have changed too."""
        self._paths.clear()
        self._estimated.clear()
        if self.metres_per_unit is not None:
            self.metres_per_unit /= factor
        for samples in self._samples.values():
            for a_T_b in samples:
                a_T_b[:3, 3] *= factor

    @property
    def given(self) -> dict[str, Array]:
        """The given ``r_T_c`` by camera, metres."""
        return dict(self._given)

    def between(self, a: str, b: str) -> Extrinsics | None:
        """Camera ``b`` in the frame of camera ``a``, measured in the map; None before there are enough frames."""
        if b < a:
            back = self.between(b, a)
            return back and Extrinsics(invert(back.a_T_b), back.angle_std, back.length_std, back.count)
        if (a, b) not in self._estimated:
            samples = self._samples.get((a, b), ())
            self._estimated[a, b] = _robust_mean(np.stack(samples)) if len(samples) >= _ENOUGH else None
        return self._estimated[a, b]

    def guess(self, camera: str, stamp_ns: int) -> Array | None:
        """``w_T_c`` (4, 4) of a camera from the poses of others at that time; None if unknown.

        Extrinsics measured in the map take precedence over given ones; given translations need
        ``metres_per_unit``.
        """
        return self._guess(camera, stamp_ns, False)

    def looks(self, camera: str, stamp_ns: int) -> Array | None:
        """Like ``guess``; if only the rotation is known, the camera is assumed to be where the other one is."""
        return self._guess(camera, stamp_ns, True)

    def baselines(self) -> list[tuple[float, float, float]]:
        """(metres, map units, relative standard deviation) of the distance of each given, measured pair."""
        found = []
        for a, b in combinations(sorted(self._given), 2):
            metres = float(np.linalg.norm(self._given[a][:3, 3] - self._given[b][:3, 3]))
            estimated = self.between(a, b)
            if estimated is None or metres <= 0:
                continue
            units = float(np.linalg.norm(estimated.a_T_b[:3, 3]))
            if units > 0:
                found.append((metres, units, estimated.length_std / units))
        return found

    def _measured(self, other: str, w_T_o: Array, camera: str, w_T_c: Array) -> None:
        if other < camera:
            pair, a_T_b = (other, camera), invert(w_T_o) @ w_T_c
        else:
            pair, a_T_b = (camera, other), invert(w_T_c) @ w_T_o
        self._samples.setdefault(pair, deque(maxlen=_SAMPLES)).append(a_T_b)
        self._estimated.pop(pair, None)

    def _guess(self, camera: str, stamp_ns: int, roughly: bool) -> Array | None:
        for other in sorted(self._paths.keys() - {camera}, key=lambda name: -self._paths[name][-1].stamp_ns):
            w_T_o = _between(self._paths[other], stamp_ns)
            o_T_c = self._best(other, camera, roughly)
            if w_T_o is not None and o_T_c is not None:
                return w_T_o @ o_T_c
        return None

    def _best(self, other: str, camera: str, roughly: bool) -> Array | None:
        """``other_T_camera`` in map units, measured in the map or else as given."""
        estimated = self.between(other, camera)
        if estimated is not None and estimated.angle_std < _SURE_DEG:
            return estimated.a_T_b
        if other not in self._given or camera not in self._given:
            return None
        given = invert(self._given[other]) @ self._given[camera]
        if self.metres_per_unit is None:
            return pose(given[:3, :3], np.zeros(3)) if roughly else None
        return pose(given[:3, :3], given[:3, 3] / self.metres_per_unit)


def _rigid(T: Array) -> bool:
    return is_rotation(T[:3, :3]) and np.allclose(T[3], [0, 0, 0, 1])


def _between(path: deque[_At], stamp_ns: int) -> Array | None:
    """The pose at a time between two frames, or shortly after the last one; None if the gap is long."""
    if path[-1].stamp_ns == stamp_ns:
        return path[-1].w_T_c
    before = [at for at in path if at.stamp_ns <= stamp_ns]
    after = [at for at in path if at.stamp_ns > stamp_ns]
    if not before:
        return None
    if not after:
        if stamp_ns - path[-1].stamp_ns > _AHEAD_NS or len(path) < 2:
            return None
        before, after = before[:-1], before[-1:]
    a, b = before[-1], after[0]
    if b.stamp_ns - a.stamp_ns > _GAP_NS:
        return None
    return interpolate(a.w_T_c, b.w_T_c, (stamp_ns - a.stamp_ns) / (b.stamp_ns - a.stamp_ns))


def _robust_mean(samples: Array) -> Extrinsics:
    """Geometric median of relative poses (N, 4, 4), separately for rotation and translation, without outliers.

    Hartley, Aftab and Trumpf, "L1 rotation averaging using the Weiszfeld algorithm", CVPR 2011.
    """
    kept = samples
    for _ in range(3):
        t = _median(kept[:, :3, 3])
        R = Rotation.from_matrix(kept[len(kept) // 2, :3, :3])
        turns = Rotation.from_matrix(kept[:, :3, :3])
        for _ in range(3):
            R = R * Rotation.from_rotvec(_median((R.inv() * turns).as_rotvec()))
        angles = np.degrees((R.inv() * turns).magnitude())
        lengths = np.linalg.norm(kept[:, :3, 3] - t, axis=1)
        spread = [max(float(np.median(errors)) / _MEDIAN_LENGTH, 1e-9) for errors in (angles, lengths)]
        usual = (angles <= _USUAL * spread[0]) & (lengths <= _USUAL * spread[1])
        if usual.all() or usual.sum() < _ENOUGH:
            break
        kept = kept[usual]
    return Extrinsics(pose(R.as_matrix(), t), spread[0], spread[1], len(kept))


def _median(vectors: Array) -> Array:
    """Geometric median (3,) of vectors (N, 3)."""
    middle = np.median(vectors, axis=0)
    for _ in range(20):
        distance = np.linalg.norm(vectors - middle, axis=1)
        weights = 1.0 / np.maximum(distance, 1e-3 * np.median(distance) + 1e-12)
        middle = weights @ vectors / weights.sum()
    return middle
