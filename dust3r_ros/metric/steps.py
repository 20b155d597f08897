"""How a camera moved from pose to pose: in the map, and by odometry."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np

from dust3r_ros.types import Array

_UNTURNED = 0.1  # of the evidence: a turn that motion does not show is none


@dataclass(frozen=True, eq=False)
class Steps:
    """How cameras moved from one pose to the next: ``mapped`` (N, 3) map units, ``driven`` (N, 3) metres.

    Both in the map's axes, by what map and odometry each say of the camera's orientation. ``chained`` (N,): whether
    the step begins where the one before it ended. ``turned_deg``: by how much the odometry's steps had to be
    turned in the camera to lie along the map's.
    """

    mapped: Array
    driven: Array
    chained: np.ndarray
    turned_deg: float = 0.0

    def __len__(self) -> int:
        return len(self.mapped)

    def only(self, keep: np.ndarray) -> Steps:
        """Those under a mask (N,); chains break where one is left out."""
        before = np.concatenate([[False], keep[:-1]])
        return replace(self, mapped=self.mapped[keep], driven=self.driven[keep], chained=(self.chained & before)[keep])

    def thinned(self, most: int) -> Steps:
        """At most about ``most`` steps, neighbours of one chain put together."""
        size = math.ceil(len(self) / most)
        if size <= 1:
            return self
        chain = np.cumsum(~self.chained)
        starts = np.flatnonzero(~self.chained)
        within = np.arange(len(self)) - starts[chain - 1]
        first = np.flatnonzero(within % size == 0)
        mapped, driven = (np.add.reduceat(part, first, axis=0) for part in (self.mapped, self.driven))
        return replace(self, mapped=mapped, driven=driven, chained=within[first] > 0)


def steps(w_T_c: Array, o_T_c: Array) -> Steps:
    """Steps between neighbouring poses of one camera: ``w_T_c``, ``o_T_c`` (N, 4, 4) by time.

    A rotation between odometry's idea of the camera and the camera (an extrinsic calibration that is off) is
    taken out, as far as the motion shows it: it would make distances along curves shorter.
    """
    R, R_o = w_T_c[:, :3, :3], o_T_c[:, :3, :3]
    mapped, driven = (np.diff(T[:, :3, 3], axis=0) for T in (w_T_c, o_T_c))
    # Each step as the camera sees it, from both of its ends
    local, local_o = (
        0.5 * (np.einsum("nij,ni->nj", A[:-1], step) + np.einsum("nij,ni->nj", A[1:], step))
        for A, step in ((R, mapped), (R_o, driven))
    )
    turn = _turn(local_o, local)
    into = 0.5 * (R[:-1] @ turn @ np.swapaxes(R_o[:-1], 1, 2) + R[1:] @ turn @ np.swapaxes(R_o[1:], 1, 2))
    driven = np.einsum("nij,nj->ni", into, driven)
    cosine = np.clip((np.trace(turn) - 1.0) / 2.0, -1.0, 1.0)
    chained = np.arange(len(mapped)) > 0
    return Steps(mapped, driven, chained, float(np.degrees(np.arccos(cosine))))


def _turn(source: Array, target: Array) -> Array:
    """(3, 3) rotation of steps (N, 3) onto steps (N, 3); what they leave open is not turned."""
    norms = [np.linalg.norm(x, axis=1) for x in (source, target)]
    if not (norms[0] * norms[1] > 0).any():
        return np.eye(3)
    # Directions, each counting with the smaller of its two lengths in their medians: jumps and slip say little
    a, b = (norm / max(float(np.median(norm)), 1e-12) for norm in norms)
    weight = np.minimum(np.minimum(a, b), 2.0) / np.maximum(norms[0] * norms[1], 1e-300)
    covariance = np.einsum("n,ni,nj->ij", weight, target, source)
    covariance += _UNTURNED * np.linalg.norm(covariance) * np.eye(3)
    U, _, Vt = np.linalg.svd(covariance)
    return (U * [1.0, 1.0, np.sign(np.linalg.det(U @ Vt))]) @ Vt


def sums(values: Array, size: int) -> Array:
    """Sums (M, ...) over ``size`` neighbours each, what is left over at the end in the last."""
    return np.add.reduceat(values, np.arange(0, max(len(values) - size + 1, 1), size), axis=0)
