"""A robot's odometry and gravity for its cameras, at the stamps of their images."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from dust3r_ros.types import Array, Frame, StampedPose

_FIRST, _MOST = 64, 2048  # most frames kept: the first ones, and every n-th of the rest
_ORTHOGONAL = 1e-3


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
    R = np.asarray(o_T_c, dtype=np.float64)[:3, :3]
    rigid = np.abs(R @ R.T - np.eye(3)).max() < _ORTHOGONAL and np.linalg.det(R) > 0
    return np.asarray(o_T_c, dtype=np.float64) if rigid else None


def _direction(up: Array | None) -> Array | None:
    if up is None or np.shape(up) != (3,) or not np.isfinite(up).all():
        return None
    length = float(np.linalg.norm(up))
    return np.asarray(up, dtype=np.float64) / length if length > 1e-6 else None
