"""A long walk around a block in a map that has drifted: poses, landmarks and observations, without images."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.spatial.transform import Rotation

from dust3r_ros.geometry.pinhole import project
from dust3r_ros.geometry.rigid import invert, transform
from dust3r_ros.geometry.similarity import rms_apart
from dust3r_ros.mapping.loop_adjustment import LoopGap, WideLoop
from dust3r_ros.sparse.landmarks import Intrinsics
from dust3r_ros.sparse.sparse_map import SparseMap
from dust3r_ros.tracking import Tracks
from dust3r_ros.types import Array

FOCAL, STEP_M, LANDMARKS, SEEN_BY, RETURNED = 500.0, 0.3, 60, 6, 8
_SIZE = np.array([640, 480])


@dataclass(frozen=True, eq=False)
class Ring:
    """The drifted map, its true poses (N, 4, 4), pairs of neighbours, and what the last keyframe sees of the first.

    ``here`` and ``there`` (P, 3): the same landmarks in the map, on the side of the first and of the last keyframe.
    """

    sparse: SparseMap
    w_T_c: Array
    edges: list[tuple[int, int]]
    here: Array
    there: Array

    @property
    def ate(self) -> float:
        """Of the positions, after a similarity."""
        found, true = (np.stack(poses)[:, :3, 3] for poses in ([v.w_T_c for v in self.sparse.views], self.w_T_c))
        return rms_apart(found, true)


def ring(keyframes: int, drift: float = 2e-4, noise_px: float = 0.25, seed: int = 0, alike: int | None = None) -> Ring:
    """``drift``: radians by which each step turns, and five times as much of a step in scale.

    ``alike``: from this keyframe on, the surroundings of twelve look as they do at the start.
    """
    rng = np.random.default_rng(seed)
    angle = np.arange(keyframes) * 2 * np.pi / keyframes
    true = np.zeros((keyframes, 4, 4))
    ahead = np.stack([-np.sin(angle), 0 * angle, np.cos(angle)], axis=1)
    down = np.broadcast_to([0.0, 1.0, 0.0], ahead.shape)
    true[:, :3, :3] = np.stack([np.cross(down, ahead), down, ahead], axis=2)
    true[:, :3, 3] = keyframes * STEP_M / (2 * np.pi) * np.stack([np.cos(angle), 0 * angle, np.sin(angle)], axis=1)
    true[:, 3, 3] = 1
    poses = [true[0]]
    for k in range(1, keyframes):
        error = np.eye(4)
        error[:3, :3] = Rotation.from_rotvec(rng.normal([0, 0.3 * drift, 0], drift)).as_matrix()
        error[:3, 3] = rng.normal(0, 5 * drift * STEP_M, 3)
        poses.append(poses[-1] @ invert(true[k - 1]) @ true[k] @ error)
    drifted = np.stack(poses)
    z = rng.uniform(3, 10, (keyframes, LANDMARKS))
    local = np.stack([rng.uniform(-0.5, 0.5, z.shape) * z, rng.uniform(-0.4, 0.4, z.shape) * z, z], axis=2)
    if alike is not None:
        local[alike : alike + 12] = local[:12]
    points, placed = (
        (np.einsum("kij,kpj->kpi", T[:, :3, :3], local) + T[:, None, :3, 3]).reshape(-1, 3) for T in (true, drifted)
    )
    sparse = SparseMap(1.0)
    sparse.intrinsics.append(Intrinsics(FOCAL, FOCAL, 0.0))
    for k in range(keyframes):
        ids = np.arange(max(0, k - SEEN_BY) * LANDMARKS, (k + 1) * LANDMARKS)
        if k >= keyframes - RETURNED:
            ids = np.concatenate([np.arange(RETURNED * LANDMARKS), ids])
        seen = transform(invert(true[k]), points[ids])
        pixels = project(seen, FOCAL, (0.0, 0.0))
        shown = (seen[:, 2] > 0.5) & (np.abs(pixels) < _SIZE / 2).all(axis=1)
        noise = rng.normal(0, noise_px, (int(shown.sum()), 2))
        sparse.add(0, Tracks(ids[shown], pixels[shown] + noise), drifted[k])
        sparse.landmarks.new(LANDMARKS)
    sparse.points[:] = placed
    shared = np.arange(4 * LANDMARKS)
    there = transform(drifted[-1] @ invert(true[-1]), points[shared])
    edges = [(k - back, k) for k in range(keyframes) for back in (1, 2, 4) if k >= back]
    return Ring(sparse, true, edges, placed[shared], there)


def unlinked(walk: Ring) -> Ring:
    """The last keyframes see the first landmarks as landmarks of their own, placed from where they seem to be."""
    sparse = walk.sparse
    fresh = sparse.landmarks.new(RETURNED * LANDMARKS)
    first = transform(invert(walk.w_T_c[0]), sparse.points[: len(fresh)])  # the first keyframe has not drifted
    last = len(walk.w_T_c) - 1
    w_T_c = sparse.views[last].w_T_c
    assert w_T_c is not None
    sparse.points[fresh] = transform(w_T_c @ invert(walk.w_T_c[last]) @ walk.w_T_c[0], first)
    for view in sparse.views[-RETURNED:]:
        old = view.seen.ids < len(fresh)
        view.seen = Tracks(np.where(old, fresh[0] + view.seen.ids, view.seen.ids), view.seen.pixels).unique()
    return walk


def claimed(walk: Ring, first: int, second: int, pairs: np.ndarray) -> WideLoop:
    """A wide loop that says that landmarks ``pairs`` (K, 2) of two keyframes are the same."""
    gap = LoopGap.of(walk.sparse, first, second, walk.sparse.points[pairs[:, 0]], walk.sparse.points[pairs[:, 1]])
    assert gap is not None and gap.px > 5
    return WideLoop(gap, pairs)
