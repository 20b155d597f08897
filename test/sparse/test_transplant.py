"""An adjustment of a copy, brought into a map that has grown since."""

import numpy as np
import pytest
from synthetic import PLAIN, arc

from dust3r_ros.geometry.rigid import invert, transform
from dust3r_ros.geometry.similarity import weighted_similarity
from dust3r_ros.sparse.landmarks import Intrinsics
from dust3r_ros.sparse.refinement import refine
from dust3r_ros.sparse.sparse_map import SparseMap
from dust3r_ros.sparse.transplant import adjusted_copy, transplant
from dust3r_ros.tracking import Tracks

SCENE = arc(views=8)


def grown(views, focal=1.1):
    """A map of the first views whose focal is wrong, by poses that are right."""
    sparse = SparseMap(1.0)
    sparse.intrinsics = [Intrinsics(focal * SCENE.focal[0], SCENE.focal[0], lens=PLAIN)]
    for view in range(views):
        add(sparse, view)
    sparse.extend()
    return sparse


def add(sparse, view):
    index = sparse.add(0, Tracks(np.zeros(0, np.int64), np.zeros((0, 2))), SCENE.w_T_c[view].copy())
    if not view:
        sparse.landmarks.new(len(SCENE.points))
    half = np.arange(len(SCENE.points))
    half = half[half % 8 <= view + 3]  # later views see more
    sparse.observe(index, Tracks(half, SCENE.seen(view)[half]))


def test_the_copy_is_adjusted_and_the_map_stays():
    sparse = grown(5)
    before = sparse.intrinsics[0].focal, sparse.points.copy(), [view.w_T_c.copy() for view in sparse.views]
    adjusted = adjusted_copy(sparse, lambda: refine(sparse, free_focal=True, rounds=3, iterations=30))
    assert adjusted.intrinsics[0].focal == pytest.approx(SCENE.focal[0], rel=1e-3)
    assert sparse.intrinsics[0].focal == before[0]
    np.testing.assert_array_equal(sparse.points, before[1])
    np.testing.assert_array_equal([view.w_T_c for view in sparse.views], before[2])


def test_what_came_since_goes_along_with_its_neighbours():
    sparse = grown(5, focal=1.03)
    adjusted = adjusted_copy(sparse, lambda: refine(sparse, free_focal=True, rounds=3, iterations=30))
    for view in (5, 6, 7):
        add(sparse, view)
        sparse.extend([view])
    sparse.merge(np.array([0]), np.array([8]))  # two that turned out to be one
    assert transplant(sparse, adjusted) == ([5, 6, 7], False)
    assert sparse.intrinsics[0].focal == pytest.approx(SCENE.focal[0], rel=1e-3)
    refine(sparse, [5, 6, 7], rounds=1)
    centers = np.array([view.w_T_c[:3, 3] for view in sparse.views])
    fitted = weighted_similarity(centers, SCENE.w_T_c[:, :3, 3]).apply(centers)
    assert np.abs(fitted - SCENE.w_T_c[:, :3, 3]).max() < 0.02
    assert np.isnan(sparse.points[8]).all() or sparse.landmarks.resolved(np.array([8]))[0] == 0


@pytest.mark.parametrize("bent", [False, True])
def test_what_was_placed_since_in_a_map_that_was_bent_is_to_be_placed_again(bent):
    sparse = grown(5, focal=1.0)

    def adjust():
        sparse.move(np.eye(4), 3.0)
        if bent:
            sparse.points[:, 0] *= 1.5

    before, adjusted = sparse.positioned.copy(), adjusted_copy(sparse, adjust)
    add(sparse, 5)
    sparse.extend([5])
    since = sparse.positioned & ~before
    assert since.any() and transplant(sparse, adjusted) == ([5], bent)
    assert sparse.positioned[before].all() and (sparse.positioned[since] != bent).all()


def test_an_unchanged_copy_changes_nothing():
    sparse = grown(6, focal=1.0)
    points, poses = sparse.points.copy(), [view.w_T_c.copy() for view in sparse.views]
    adjusted = adjusted_copy(sparse, lambda: None)
    add(sparse, 6)
    sparse.extend([6])
    later = sparse.views[6].w_T_c.copy()
    transplant(sparse, adjusted)
    np.testing.assert_array_equal(sparse.points[np.isfinite(points[:, 0])], points[np.isfinite(points[:, 0])])
    np.testing.assert_array_equal([view.w_T_c for view in sparse.views[:6]], poses)
    np.testing.assert_allclose(sparse.views[6].w_T_c, later, atol=1e-12)
    seen = transform(invert(later), sparse.points[sparse.known(sparse.views[6].seen).ids])
    assert (seen[:, 2] > 0).all()


def test_what_is_known_since_of_a_camera_that_was_not_adjusted_stays():
    sparse = grown(5)
    sparse.intrinsics.append(Intrinsics(100.0, 100.0, lens=PLAIN))
    adjusted = adjusted_copy(sparse, lambda: refine(sparse, free_focal=True, rounds=3, iterations=30))
    sparse.intrinsics[1].focal, sparse.intrinsics[1].std = 123.0, 0.02
    transplant(sparse, adjusted)
    assert (sparse.intrinsics[1].focal, sparse.intrinsics[1].std) == (123.0, 0.02)
    assert sparse.intrinsics[0].focal == pytest.approx(SCENE.focal[0], rel=1e-3)


def test_what_was_found_to_move_since_stays_out():
    sparse = grown(8)
    adjusted = adjusted_copy(sparse, lambda: refine(sparse, free_focal=True, rounds=2, iterations=10))
    ids = np.flatnonzero(sparse.positioned)[:10]
    sparse.landmarks.bar(ids)
    sparse.points[ids] = np.nan
    transplant(sparse, adjusted)
    assert not np.isfinite(sparse.points[ids]).any()
    assert not any(np.isin(view.seen.ids, ids).any() for view in sparse.views)
