"""The up direction and the rotation of an IMU, from its measurements."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.spatial.transform import Rotation

from dust3r_ros.types import Array

GRAVITY = 9.80665
_CORRECTION_S = 1.0  # time constant with which the accelerometer corrects the gyroscope's drift
_NEAR_GRAVITY = 0.15  # tolerance of |a| / g around 1 within which a is mostly gravity
_GAP_NS = 500_000_000  # the gyroscope is not integrated over longer gaps
_KEEP = 2000  # estimates kept: 5 s at 400 Hz
_AHEAD_NS = 100_000_000  # the last turn rate holds for this long: images may arrive before the IMU's messages
_MOST = 1e4  # m/s^2 or rad/s: more than sensors measure, and small enough for squares and angles
_SETTLE = 20  # accelerations averaged for the first estimate


def measured(vector: Any, covariance: Sequence[float]) -> Array | None:
    """(3,) of x, y and z, or None if not measured: a first covariance of -1 (sensor_msgs/Imu), or not finite."""
    values = np.array([vector.x, vector.y, vector.z])
    return values if covariance[0] != -1.0 and np.isfinite(values).all() else None


class UpFilter:
    """Up in the axes of an IMU: rotated by the gyroscope, corrected by the accelerometer when it shows mostly gravity.

    A complementary filter on the direction alone (Mahony, Hamel, Pflimlin, "Nonlinear Complementary
    Filters on the Special Orthogonal Group", IEEE TAC 2008, in its simplest form).
    """

    def __init__(self) -> None:
        self._stamps: list[int] = []
        self._ups: list[Array] = []
        self._settling: list[Array] = []

    def add(self, stamp_ns: int, acceleration: Array, rate: Array) -> None:
        """Take in the specific force (3,) m/s^2 (up at rest) and the angular velocity (3,) rad/s, in the IMU's axes.

        Values that no sensor measures or that are not newer than the last are ignored; a stamp that jumps back by
        more than half a second restarts the filter.
        """
        if not (_possible(acceleration) and _possible(rate)):
            return
        if self._stamps and stamp_ns <= self._stamps[-1]:
            if self._stamps[-1] - stamp_ns <= _GAP_NS:
                return
            self.clear()
        size = float(np.linalg.norm(acceleration))
        level = abs(size / GRAVITY - 1.0) < _NEAR_GRAVITY
        if not self._ups or stamp_ns - self._stamps[-1] > _GAP_NS:
            self._settle(stamp_ns, acceleration if level else None)
            return
        step = (stamp_ns - self._stamps[-1]) * 1e-9
        up = Rotation.from_rotvec(-np.asarray(rate) * step).as_matrix() @ self._ups[-1]
        if level:
            up = up + min(1.0, step / _CORRECTION_S) * (acceleration / size - up)
        self._keep(stamp_ns, up)

    def at(self, stamp_ns: int) -> Array | None:
        """Unit vector (3,) against gravity in the IMU's axes; None without an estimate close to the stamp."""
        place = bisect_right(self._stamps, stamp_ns) - 1
        near = [k for k in (place, place + 1) if 0 <= k < len(self._stamps)]
        if not near:
            return None
        best = min(near, key=lambda k: abs(self._stamps[k] - stamp_ns))
        return self._ups[best] if abs(self._stamps[best] - stamp_ns) <= _GAP_NS else None

    def clear(self) -> None:
        """Forget everything."""
        self._stamps.clear()
        self._ups.clear()
        self._settling.clear()

    def _settle(self, stamp_ns: int, acceleration: Array | None) -> None:
        """Form the first estimate, the mean of several accelerations that show mostly gravity."""
        if acceleration is None:
            self._settling.clear()
            return
        self._settling.append(np.asarray(acceleration, np.float64))
        if len(self._settling) >= _SETTLE:
            self._keep(stamp_ns, np.mean(self._settling, axis=0))
            self._settling.clear()

    def _keep(self, stamp_ns: int, up: Array) -> None:
        length = float(np.linalg.norm(up))
        if length < 1e-6:  # as much up as down
            return
        up = up / length
        up.setflags(write=False)
        self._stamps.append(stamp_ns)
        self._ups.append(up)
        if len(self._ups) > 2 * _KEEP:
            del self._stamps[:_KEEP], self._ups[:_KEEP]


@dataclass(frozen=True, eq=False)
class Turned:
    """Axes ``g_R_x`` (3, 3) of a rotating body in a frame g that is fixed but for the gyroscope's drift.

    Axes of different ``span`` are unrelated: the gyroscope was silent in between.
    """

    g_R_x: Array
    span: int = 0

    def to(self, x_R_y: Array) -> Turned:
        """The axes of y, which is rigidly attached to x."""
        return Turned(self.g_R_x @ x_R_y, self.span)


# Axes of something at a stamp (ns), as far as known now; None if unknown.
Turning = Callable[[int], Turned | None]


class TurnMeter:
    """The rotation of an IMU by its gyroscope alone."""

    def __init__(self) -> None:
        self._stamps: list[int] = []
        self._axes: list[Array] = []
        self._rates: list[Array] = []
        self._span = 0

    def add(self, stamp_ns: int, rate: Array) -> None:
        """Take in the angular velocity (3,) rad/s in the IMU's axes; ignored or restarted as in ``UpFilter.add``."""
        if not _possible(rate):
            return
        axes = np.eye(3)
        if self._stamps:
            step = stamp_ns - self._stamps[-1]
            if -_GAP_NS <= step <= 0:
                return
            if 0 < step <= _GAP_NS:
                axes = self._axes[-1] @ _turn(rate, step)
            else:
                self.clear()
        self._stamps.append(stamp_ns)
        self._axes.append(axes)
        self._rates.append(np.array(rate, np.float64))
        if len(self._stamps) > 2 * _KEEP:
            del self._stamps[:_KEEP], self._axes[:_KEEP], self._rates[:_KEEP]

    def at(self, stamp_ns: int) -> Turned | None:
        """The IMU's axes at a stamp; None if unknown."""
        if not self._stamps or not self._stamps[0] <= stamp_ns <= self._stamps[-1] + _AHEAD_NS:
            return None
        place = bisect_right(self._stamps, stamp_ns) - 1
        rate = self._rates[min(place + 1, len(self._rates) - 1)]
        return Turned(self._axes[place] @ _turn(rate, stamp_ns - self._stamps[place]), self._span)

    def clear(self) -> None:
        """Forget everything."""
        for kept in (self._stamps, self._axes, self._rates):
            kept.clear()
        self._span += 1


def _possible(values: Array) -> bool:
    """Whether acceleration or angular velocity (3,) can be measured values; NaN is not."""
    return bool(np.abs(values).max() <= _MOST)


def _turn(rate: Array, step_ns: int) -> Array:
    """Rotation (3, 3) by turning at ``rate`` (3,) rad/s."""
    return np.asarray(Rotation.from_rotvec(np.asarray(rate) * (step_ns * 1e-9)).as_matrix())
