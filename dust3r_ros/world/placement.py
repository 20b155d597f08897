"""What a robot says of its cameras at their images, and how a map must be rotated and shifted by it: z against gravity,
origin and heading to the odometry's frame.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.spatial.transform import Rotation

from dust3r_ros.geometry.rigid import is_rotation
from dust3r_ros.geometry.similarity import Similarity
from dust3r_ros.types import Array, Frame, StampedPose
from dust3r_ros.world.evidence import block_std

_FIRST, _MOST = 64, 2048  # most frames kept: the first ones, and every n-th of the rest


@dataclass(frozen=True, eq=False)
class Matched:
    """Frames with a pose in the map, by time: ``w_T_c`` (N, 4, 4), ``camera`` (N,) numbers, odometry and gravity.

    ``o_T_c`` (N, 4, 4) and ``up`` (N, 3) are NaN where absent.
    """

    w_T_c: Array
    camera: np.ndarray
    o_T_c: Array
    up: Array


class RobotLog:
    """Odometry and gravity by frame, thinned evenly as they accumulate; a few hundred bytes each."""

    def __init__(self) -> None:
        self._said: dict[tuple[int, str], tuple[int, Array | None, Array | None]] = {}
        self._count, self._stride = 0, 1
        self.refused = 0

    def __len__(self) -> int:
        return len(self._said)

    @property
    def frames(self) -> Collection[tuple[int, str]]:
        """(stamp, camera) of the frames with odometry or gravity."""
        return self._said.keys()

    def add(self, frame: Frame) -> None:
        """Take a frame's odometry and gravity; invalid ones are counted in ``refused``."""
        o_T_c, up = _pose(frame.o_T_c), _direction(frame.up)
        self.refused += (o_T_c is None and frame.o_T_c is not None) + (up is None and frame.up is not None)
        if o_T_c is None and up is None:
            return
        number, self._count = self._count, self._count + 1
        if not self._keeps(number):
            return
        self._said[frame.stamp_ns, frame.camera] = number, o_T_c, up
        if len(self._said) > _MOST:
            self._stride *= 2
            self._said = {key: said for key, said in self._said.items() if self._keeps(said[0])}

    def _keeps(self, number: int) -> bool:
        return number < _FIRST or number % self._stride == 0

    def match(self, trajectory: Iterable[StampedPose]) -> Matched:
        """The frames of a trajectory with odometry or gravity."""
        found = [(pose, said) for pose in trajectory if (said := self._said.get((pose.stamp_ns, pose.camera)))]
        names = {name: number for number, name in enumerate(sorted({pose.camera for pose, _ in found}))}
        return Matched(
            np.array([pose.w_T_c for pose, _ in found]).reshape(-1, 4, 4),
            np.array([names[pose.camera] for pose, _ in found], dtype=int),
            _stacked([o_T_c for _, (_, o_T_c, _) in found], (4, 4)),
            _stacked([up for _, (_, _, up) in found], (3,)),
        )


def _stacked(said: Sequence[Array | None], shape: tuple[int, ...]) -> Array:
    """(N, *shape), NaN where absent."""
    nothing = np.full(shape, np.nan)
    return np.array([nothing if one is None else one for one in said]).reshape(-1, *shape)


def _pose(o_T_c: Array | None) -> Array | None:
    if o_T_c is None or np.shape(o_T_c) != (4, 4) or not np.isfinite(o_T_c).all():
        return None
    T = np.asarray(o_T_c, dtype=np.float64)
    return T if is_rotation(T[:3, :3]) else None


def _direction(up: Array | None) -> Array | None:
    if up is None or np.shape(up) != (3,) or not np.isfinite(up).all():
        return None
    length = float(np.linalg.norm(up))
    return np.asarray(up, dtype=np.float64) / length if length > 1e-6 else None


_ITERATIONS = 12
_FLOOR = 1e-3  # radians: closer ones get no more weight
Z = np.array([0.0, 0.0, 1.0])


def mean_rotation(rotations: Array) -> tuple[Array, float]:
    """The (3, 3) rotation nearest to ``rotations`` (N, 3, 3) by the sum of angles, and its deviation, radians.

    Iteratively reweighted chordal means (Hartley et al., "Rotation averaging", IJCV 2013, sections 5.3 and 5.4).
    """
    weight = np.ones(len(rotations))
    for _ in range(_ITERATIONS):
        U, _, Vt = np.linalg.svd(np.einsum("n,nij->ij", weight, rotations))
        mean = (U * [1.0, 1.0, np.sign(np.linalg.det(U @ Vt))]) @ Vt
        off = Rotation.from_matrix(mean.T @ rotations).as_rotvec()
        weight = 1.0 / np.maximum(np.linalg.norm(off, axis=1), _FLOOR)
    return mean, _deviation(off, weight)


def mean_direction(directions: Array) -> tuple[Array, float]:
    """The unit vector nearest to ``directions`` (N, 3), unit vectors, by the sum of distances; deviation, radians."""
    weight = np.ones(len(directions))
    for _ in range(_ITERATIONS):
        mean = weight @ directions
        mean /= max(float(np.linalg.norm(mean)), 1e-12)
        off = directions - mean
        weight = 1.0 / np.maximum(np.linalg.norm(off, axis=1), _FLOOR)
    return mean, _deviation(off, weight, 0.5)  # the sum of distances is half as curved as the squares in its place


def _deviation(off: Array, weight: Array, curved: float = 1.0) -> float:
    """Deviation of a mean from which samples (N, 3), in time order, are ``off``; the largest of the three axes'."""
    found = max(block_std(weight * axis, curved * weight) for axis in off.T)
    if math.isfinite(found):
        return found
    return float(np.sqrt(np.mean(np.sum(off**2, axis=1)))) + math.radians(1.0)  # too few to estimate their scatter


def least_rotation(source: Array, target: Array) -> Array:
    """(3, 3), the smallest rotation that takes unit vector ``source`` (3,) to ``target`` (3,)."""
    axis, cosine = np.cross(source, target), float(source @ target)
    sine = float(np.linalg.norm(axis))
    if sine < 1e-12:
        if cosine > 0:
            return np.eye(3)
        side = np.cross(source, np.eye(3)[np.argmin(np.abs(source))])
        return Rotation.from_rotvec(math.pi * side / np.linalg.norm(side)).as_matrix()
    return Rotation.from_rotvec(math.atan2(sine, cosine) * axis / sine).as_matrix()


def about_z(angle: float) -> Array:
    """(3, 3) rotation by ``angle`` radians about z."""
    return Rotation.from_rotvec([0.0, 0.0, angle]).as_matrix()


def heading(rotation: Array) -> float:
    """The angle in radians of the rotation about z nearest to a rotation (3, 3)."""
    return math.atan2(rotation[1, 0] - rotation[0, 1], rotation[0, 0] + rotation[1, 1])


_EARLY = 50  # frames with odometry that place the map in the odometry's frame, before odometry drifts
_SPREAD = 300  # frames that determine up
_FEWEST = 5
_SURE_DEG, _USABLE_DEG = 1.0, 5.0  # largest deviations at which gravity may overrule odometry, or count at all
_DISAGREE_DEG = 2.0


@dataclass(frozen=True, eq=False)
class Placement:
    """``new_S_old`` for a given scale, and the size of each change.

    ``tilt_deg``, ``heading_deg``: by how much z and the heading turn; ``shift``: metres that the first camera with
    odometry moves besides. ``tilt_std_deg``, ``heading_std_deg`` are infinite without evidence. ``doubt`` as
    in ``ScaleEvidence``.
    """

    new_S_old: Similarity
    tilt_deg: float = 0.0
    tilt_std_deg: float = math.inf
    heading_deg: float = 0.0
    heading_std_deg: float = math.inf
    shift: float = 0.0
    doubt: str = ""


def place(frames: Matched, scale: float, anchored: bool) -> Placement:
    """Where the map belongs, if its unit is ``scale`` new units.

    Up comes from odometry (REP 105: z up), unless gravity is known to 1 degree and differs by more than 2 degrees:
    wheel odometry takes every floor for level. Origin and heading come from the first frames with odometry; an
    ``anchored`` map keeps both, as does one without odometry.
    """
    driven = np.flatnonzero(np.isfinite(frames.o_T_c[:, 0, 0]))
    up, std, doubt = _up(frames, driven)
    if anchored or len(driven) < _FEWEST:
        R = np.eye(3) if up is None else least_rotation(up, Z)
        # The smallest rotation of z may change headings; this keeps them
        R = about_z(-heading(R)) @ R if up is not None else R
        return Placement(Similarity(scale, R, np.zeros(3)), _tilt(up), std, doubt=doubt)
    early = driven[:_EARLY]
    R, heading_std = mean_rotation(frames.o_T_c[early, :3, :3] @ np.swapaxes(frames.w_T_c[early, :3, :3], 1, 2))
    if up is not None:
        R = least_rotation(R @ up, Z) @ R
    mapped, driven_to = frames.w_T_c[early, :3, 3], frames.o_T_c[early, :3, 3]
    translation = np.median(driven_to - scale * mapped @ R.T, axis=0)
    S = Similarity(scale, R, translation)
    shift = float(np.linalg.norm(S.apply(mapped[0]) - mapped[0]))
    turned = abs(math.degrees(heading(R)))
    return Placement(S, _tilt(up), std, turned, math.degrees(heading_std), shift, doubt)


def _tilt(up: Array | None) -> float:
    return 0.0 if up is None else math.degrees(math.acos(float(np.clip(up @ Z, -1.0, 1.0))))


def _up(frames: Matched, driven: np.ndarray) -> tuple[Array | None, float, str]:
    """Up in the map (3,), None without evidence; its deviation, degrees; why it may be wrong."""
    by_odometry, by_gravity = None, None
    chosen = _thin(driven)
    if len(chosen) >= _FEWEST:
        R_w, R_o = frames.w_T_c[chosen, :3, :3], frames.o_T_c[chosen, :3, :3]
        by_odometry = mean_direction(np.einsum("nij,nj->ni", R_w, R_o[:, 2, :]))  # R_w R_o' z
    chosen = _thin(np.flatnonzero(np.isfinite(frames.up[:, 0])))
    if len(chosen) >= _FEWEST:
        by_gravity = mean_direction(np.einsum("nij,nj->ni", frames.w_T_c[chosen, :3, :3], frames.up[chosen]))
        if math.degrees(by_gravity[1]) > _USABLE_DEG:
            by_gravity = None
    if by_gravity is None:
        return (None, math.inf, "") if by_odometry is None else (by_odometry[0], math.degrees(by_odometry[1]), "")
    gravity, std = by_gravity[0], math.degrees(by_gravity[1])
    if by_odometry is None:
        return gravity, std, ""
    odometry, odometry_std = by_odometry[0], math.degrees(by_odometry[1])
    apart = math.degrees(math.acos(float(np.clip(gravity @ odometry, -1.0, 1.0))))
    if apart <= max(_DISAGREE_DEG, 3.0 * math.hypot(std, odometry_std)):
        return odometry, odometry_std, ""
    wins = std < _SURE_DEG
    doubt = (
        f"up differs by {apart:.1f} deg between gravity (+-{std:.1f} deg) and odometry (+-{odometry_std:.1f} deg); "
        f"the map follows {'gravity' if wins else 'odometry'}"
    )
    return (gravity, std, doubt) if wins else (odometry, odometry_std, doubt)


def _thin(indices: np.ndarray) -> np.ndarray:
    """At most 300 of ``indices``, evenly spread."""
    return indices[:: max(1, math.ceil(len(indices) / _SPREAD))]
