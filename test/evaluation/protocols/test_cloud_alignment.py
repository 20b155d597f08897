"""Iterative closest points: what is off by a little comes to its place."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from dust3r_ros.errors import GeometryError, InputError
from dust3r_ros.evaluation.protocols.cloud_alignment import refine_alignment
from dust3r_ros.evaluation.protocols.clouds import cloud_errors
from dust3r_ros.geometry.rigid import angle_deg


def corner(seed: int = 0) -> np.ndarray:
    """Points on three faces of a box of 1 m."""
    a, b = np.random.default_rng(seed).uniform(0, 1, (2, 3, 1000))
    zero = np.zeros(1000)
    faces = [(a[0], b[0], zero), (a[1], zero, b[1]), (zero, a[2], b[2])]
    return np.concatenate([np.stack(face, axis=1) for face in faces])


def test_a_moved_cloud_comes_back() -> None:
    reference = corner()
    turn = Rotation.from_euler("xyz", [1.0, -1.5, 0.7], degrees=True).as_matrix()
    found = reference @ turn.T + [0.02, -0.015, 0.01]
    S = refine_alignment(found, reference, max_distance=0.1)
    assert S.scale == 1.0
    assert angle_deg(S.rotation @ turn) < 0.05
    assert cloud_errors(S.apply(found), reference).overall < 0.1 * cloud_errors(found, reference).overall


def test_the_scale_is_found_where_it_may_go() -> None:
    """A ball: three faces of a box look the same at every scale."""
    reference, other = (np.random.default_rng(seed).normal(size=(count, 3)) for seed, count in ((0, 20_000), (1, 2000)))
    reference, other = (points / np.linalg.norm(points, axis=1)[:, None] for points in (reference, other))
    S = refine_alignment(other / 1.03, reference, max_distance=0.1, with_scale=True)
    assert S.scale == pytest.approx(1.03, abs=0.002)
    assert refine_alignment(other / 1.03, reference, max_distance=0.1).scale == 1.0


def test_what_lies_right_stays_and_what_is_far_does_not_pull() -> None:
    reference = corner()
    S = refine_alignment(reference, reference, max_distance=0.1)
    assert np.allclose(S.matrix, np.eye(4), atol=1e-9)
    with_strays = np.concatenate([reference, np.full((500, 3), 3.0)])
    assert np.allclose(refine_alignment(with_strays, reference, max_distance=0.1).matrix, np.eye(4), atol=1e-9)


def test_clouds_that_do_not_meet_are_refused() -> None:
    with pytest.raises(GeometryError, match="0 of 3000"):
        refine_alignment(corner() + 10, corner(), max_distance=0.1)
    with pytest.raises(InputError, match="at least 3"):
        refine_alignment(corner()[:2], corner(), max_distance=0.1)
    with pytest.raises(InputError, match="max_distance"):
        refine_alignment(corner(), corner(), max_distance=0.0)
