"""The columns of a growing pair graph."""

from __future__ import annotations

import numpy as np

from dust3r_ros.alignment.edge_store import EdgeStore
from dust3r_ros.alignment.moments import moments


def filled(count: int, seed: int = 0) -> tuple[EdgeStore, np.ndarray, np.ndarray]:
    """A chain of edges (k, k + 1), their points a and b (E, P, 3) with weight 1."""
    rng, store = np.random.default_rng(seed), EdgeStore()
    a, b = rng.normal(size=(2, count, 20, 3))
    numbers = np.array([store.append(k, k + 1, loop=k % 3 == 0) for k in range(count)])
    store.put_moments(numbers, moments(a, b, np.ones((count, 20))))
    return store, a, b


def test_edges_keep_what_was_put_as_the_store_grows() -> None:
    store, a, b = filled(300)
    assert len(store) == 300
    np.testing.assert_array_equal(store.first, np.arange(300))
    np.testing.assert_array_equal(store.second, np.arange(1, 301))
    np.testing.assert_array_equal(store.loop, np.arange(300) % 3 == 0)
    np.testing.assert_allclose(store.moments(np.arange(300)), moments(a, b, np.ones((300, 20))))


def test_an_old_edge_costs_28_numbers_and_its_ends() -> None:
    store, _, _ = filled(64)
    assert store.nbytes / 64 <= 28 * 8 + 2 * 8 + 2


def test_only_edges_that_are_on_touch() -> None:
    store, _, _ = filled(10)
    assert store.touching(np.arange(11)).size == 0
    store.switch(np.array([2, 3, 4, 8]), True)
    np.testing.assert_array_equal(store.touching(np.array([4])), [3, 4])
    np.testing.assert_array_equal(store.touching(np.array([9, 10])), [8])
    store.switch(np.array([3]), False)
    np.testing.assert_array_equal(store.touching(np.array([4])), [4])
    np.testing.assert_array_equal(store.ends_on(), [[2, 3], [4, 5], [8, 9]])
    assert EdgeStore().touching(np.array([0])).size == 0


def test_moments_follow_a_change_of_focal_as_if_made_anew() -> None:
    store, a, b = filled(6)
    changed = np.array([False, False, True, False, True, True, False])
    store.stretch_rays(changed, 1.25)
    b = np.where(changed[1:, None, None], b * [1.25, 1.25, 1.0], b)  # the second end of edge k is k + 1
    np.testing.assert_allclose(store.moments(np.arange(6)), moments(a, b, np.ones((6, 20))), rtol=1e-12)
