"""What of a growing map changed since it was last told: new versions of keyframes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dust3r_ros.alignment.moments import inverse, scale_of
from dust3r_ros.alignment.online.keyframe_start import rigid
from dust3r_ros.alignment.online.loop_verification import Tolerance
from dust3r_ros.alignment.result import EdgeReport
from dust3r_ros.types import Array, Array32

# What has moved less than this has not moved.
_STILL = Tolerance(rotation=1e-3, translation=1e-3, log_scale=1e-3)


@dataclass(frozen=True, eq=False)
class KeyframeUpdate:
    """A keyframe as it stands now; a later ``version`` replaces an earlier one.

    ``scale``: map units per canonical unit; the keyframe's depth in the map is ``scale`` times its
    canonical depth. ``depth`` (H, W) is canonical z, 0 where unknown, with ``confidence`` >= 1: it comes
    once, when the keyframe leaves the window and its depth is final; None otherwise.
    """

    index: int
    version: int
    w_T_c: Array
    scale: float
    focal: float
    depth: Array32 | None = None
    confidence: Array32 | None = None


@dataclass(frozen=True, eq=False)
class AlignmentUpdate:
    """What one keyframe changed.

    ``changed``: keyframes that are new, moved or settled. ``closed``: (first, second) of the loop pairs
    that were accepted, ``switched_off``: pairs found to be wrong. ``solved``: the whole graph was solved.
    """

    changed: tuple[KeyframeUpdate, ...]
    closed: tuple[tuple[int, int], ...] = ()
    switched_off: tuple[EdgeReport, ...] = ()
    solved: bool = False


class ToldPoses:
    """The keyframes as they were last told, each with the number of its version."""

    def __init__(self) -> None:
        self._told = np.zeros((64, 4, 4))
        self._versions = np.zeros(64, dtype=np.int64)
        self._known = 0

    @property
    def nbytes(self) -> int:
        """Bytes held."""
        return self._told.nbytes + self._versions.nbytes

    def tell(
        self,
        w_S: Array,
        since: int,
        focals: Mapping[int, float],
        depth: Mapping[int, tuple[Array32, Array32]],
    ) -> tuple[KeyframeUpdate, ...]:
        """New versions of keyframes from ``since`` on that moved, are new or have ``depth`` to be told.

        ``w_S`` (K, 4, 4) is the map; ``focals`` (pixels) by keyframe.
        """
        while len(w_S) > len(self._told):
            self._told = np.concatenate([self._told, np.zeros_like(self._told)])
            self._versions = np.concatenate([self._versions, np.zeros_like(self._versions)])
        told, since = self._told[since : self._known], min(since, self._known)
        moved = np.concatenate([~_still(told, w_S[since : self._known]), np.ones(len(w_S) - self._known, dtype=bool)])
        indices = np.union1d(np.flatnonzero(moved) + since, np.array(list(depth), dtype=np.int64))
        self._told[indices] = w_S[indices]
        self._versions[indices] += 1
        self._known = len(w_S)
        return tuple(
            KeyframeUpdate(
                index, int(self._versions[index]), pose, float(scale), focals[index], *depth.get(index, (None, None))
            )
            for index, pose, scale in zip(indices.tolist(), rigid(w_S[indices]), scale_of(w_S[indices]), strict=True)
        )


def _still(old: Array, new: Array) -> NDArray[np.bool_]:
    """(K,) whether similarities (K, 4, 4) are all but the same."""
    return _STILL.holds(inverse(old) @ new)
