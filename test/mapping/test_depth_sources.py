"""Which keyframes a new one is paired with for depth."""

from __future__ import annotations

import numpy as np

from dust3r_ros.geometry.rigid import pose
from dust3r_ros.mapping.depth_sources import depth_sources
from dust3r_ros.sparse.sparse_map import SparseMap
from dust3r_ros.tracking import Tracks


def made(shifts: tuple[float, ...], seen: tuple[float, ...]) -> SparseMap:
    """Cameras beside each other that look at a wall 5 away; each sees the first part ``seen`` of 100 landmarks."""
    sparse = SparseMap(1.0)
    for shift, part in zip(shifts, seen, strict=True):
        ids = np.arange(round(100 * part))
        sparse.add(0, Tracks(ids, np.zeros((len(ids), 2))), pose(np.eye(3), [shift, 0, 0]))
    rng = np.random.default_rng(0)
    sparse.landmarks.new(100)
    sparse.points[:] = np.stack([rng.uniform(-2, 2, 100), rng.uniform(-2, 2, 100), np.full(100, 5.0)], axis=1)
    return sparse


def test_enough_parallax_but_not_too_much() -> None:
    sparse = made((0.0, 0.01, 0.4, 3.0, 0.15), (1.0,) * 5)
    assert depth_sources(sparse, 0, [1, 2, 3, 4], 4) == [2, 4, 3, 1]
    assert depth_sources(sparse, 0, [1, 2, 3, 4], 2) == [2, 4]
    assert depth_sources(sparse, 0, [4], 2) == [4] and depth_sources(sparse, 0, [], 2) == []


def test_overlap_counts() -> None:
    sparse = made((0.0, 0.35, 0.5), (1.0, 0.2, 1.0))
    assert depth_sources(sparse, 0, [1, 2], 1) == [2]


def test_without_landmarks_the_order_given_stays() -> None:
    sparse = made((0.0, 0.35, 0.35, 0.35), (1.0, 0.0, 1.0, 0.0))
    assert depth_sources(sparse, 0, [3, 1, 2], 3) == [2, 3, 1]
    sparse.points[:] = np.nan
    assert depth_sources(sparse, 0, [3, 1, 2], 2) == [3, 1]
