"""Where posed views see a list of landmarks."""

from __future__ import annotations

import numpy as np
from synthetic import arc, sparse_of

from dust3r_ros.alignment.landmark_sights import LandmarkSights
from dust3r_ros.alignment.sparse_map import SparseMap
from dust3r_ros.geometry.lens import Lens
from dust3r_ros.geometry.rigid import invert, transform
from dust3r_ros.tracking import Tracks


def test_true_positions_lie_where_they_are_seen() -> None:
    """In any order, some asked for twice, some of them seen by few."""
    scene = arc(views=5, points=30)
    sparse = sparse_of(scene, posed=4)
    sparse.views[0].seen = sparse.views[0].seen.select(slice(0, 10))
    ids = np.array([20, 3, 3, 7])
    sights = LandmarkSights.of(sparse, ids)
    assert np.bincount(sights.row).tolist() == [3, 4, 4, 4]
    assert np.bincount(sights.view).tolist() == [3, 4, 4, 4], "views without a pose are no help"
    np.testing.assert_allclose(sights.errors(scene.points[ids]), 0, atol=1e-9)
    expected = [
        transform(invert(scene.w_T_c[v]), scene.points[ids[r]])[2] for r, v in zip(sights.row, sights.view, strict=True)
    ]
    np.testing.assert_allclose(sights.depths(scene.points[ids]), expected)


def test_lenses_are_taken_out() -> None:
    scene, lens = arc(views=3, points=20), Lens(200.0, -0.07, (3.0, -4.0))
    sparse = sparse_of(scene)
    sparse.focals[0].lens = lens
    for index, view in enumerate(sparse.views):
        view.seen = Tracks(view.seen.ids, lens.seen(scene.seen(index)))
    np.testing.assert_allclose(LandmarkSights.of(sparse, np.arange(20)).errors(scene.points), 0.0, atol=1e-8)


def test_some_of_them() -> None:
    sparse = sparse_of(arc(views=3, points=6))
    sights = LandmarkSights.of(sparse, np.arange(6)).select(np.array([0, 1, 0, 0, 1, 0], bool))
    assert sorted(set(sights.row.tolist())) == [1, 4] and len(sights.row) == len(sights.focal) == 6


def test_positions_that_cannot_be_seen() -> None:
    """Behind the camera is far off, not at its mirror image; no position is no number."""
    scene = arc(views=2, points=4)
    sights = LandmarkSights.of(sparse_of(scene), np.arange(4))
    center = scene.w_T_c[0][:3, 3]
    mirrored = 2 * center - scene.points
    errors = np.linalg.norm(sights.errors(mirrored)[sights.view == 0], axis=1)
    assert (errors > 1e4).sum() >= 3
    assert np.isnan(sights.errors(np.full((4, 3), np.nan))).all()


def test_nobody_sees_them() -> None:
    sights = LandmarkSights.of(SparseMap(1.0), np.zeros(0, int))
    assert sights.errors(np.zeros((0, 3))).shape == (0, 2) and sights.depths(np.zeros((0, 3))).shape == (0,)
    away = LandmarkSights.of(sparse_of(arc(views=2, points=4), posed=0), np.arange(4))
    assert len(away.row) == 0
