"""A few landmarks that stand for all."""

from __future__ import annotations

import numpy as np
import pytest
from synthetic import HEIGHT, WIDTH, arc, unposed

from dust3r_ros.sparse.refinement import thin
from dust3r_ros.sparse.sparse_map import SparseMap
from dust3r_ros.tracking import Tracks


def observations(sparse: SparseMap) -> np.ndarray:
    """(L,) how many views see each landmark, pruned or not."""
    ids = [np.concatenate([view.seen.ids, view.pruned.ids]) for view in sparse.views]
    return np.bincount(np.concatenate(ids), minlength=len(sparse.points))


def test_each_view_keeps_enough_and_a_landmark_all_its_observations() -> None:
    sparse = unposed(arc(views=5, points=2000))
    before = observations(sparse)
    thin(sparse, range(5), 100)
    after = observations(sparse)
    assert set(np.unique(after)) <= {0} | set(np.unique(before))
    np.testing.assert_array_equal(after[after > 0], before[after > 0])
    for view in sparse.views:
        assert 100 <= len(view.seen.ids) <= 300


def test_landmarks_that_many_views_see_come_first() -> None:
    sparse, rng = unposed(arc(views=5, points=2000)), np.random.default_rng(0)
    for view in sparse.views:
        view.seen = view.seen.select(rng.random(len(view.seen.ids)) < 0.5)
    before = observations(sparse)
    thin(sparse, range(5), 100)
    chosen = observations(sparse) > 0
    assert before[chosen].mean() > before[before >= 2].mean() + 0.5


def test_every_part_of_the_image_stays_covered() -> None:
    """Most landmarks crowd into one corner; the rest of the image keeps its own all the same."""
    rng = np.random.default_rng(0)
    sparse = SparseMap(1.0)
    crowd, rest = rng.uniform(0, 40, (900, 2)), rng.uniform([0, 0], [WIDTH, HEIGHT], (100, 2))
    pixels, ids = np.concatenate([crowd, rest]), sparse.landmarks.new(1000)
    for _ in range(2):
        sparse.add(0, Tracks(ids, pixels), None)
    thin(sparse, range(2), 100)
    kept = sparse.views[0].seen
    assert len(kept.ids) == 100
    assert (kept.ids >= 900).sum() > 70


def test_few_landmarks_all_stay() -> None:
    sparse = unposed(arc(views=4, points=60))
    sparse.views[1].pruned, sparse.views[1].seen = sparse.views[1].seen, sparse.views[1].pruned
    before = observations(sparse)
    thin(sparse, range(4), 100)
    np.testing.assert_array_equal(observations(sparse), np.where(before >= 2, before, 0))
    assert len(sparse.views[1].seen.ids) == 0, "pruned observations stay pruned"


@pytest.mark.parametrize("views", [1, 3])
def test_nothing_shared_leaves_nothing(views: int) -> None:
    sparse = SparseMap(1.0)
    for _ in range(views):
        ids = sparse.landmarks.new(10)
        sparse.add(0, Tracks(ids, np.random.default_rng(0).uniform(0, 100, (10, 2))), None)
    thin(sparse, range(views), 100)
    assert all(len(view.seen.ids) == 0 for view in sparse.views)
