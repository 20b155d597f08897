"""Flows that are kept: what comes out, and what goes when there are too many."""

from __future__ import annotations

import numpy as np

from dust3r_ros.backends.flow import Flow, FlowStore, grid

SHAPE = (12, 20)
BYTES = 12 * 20 * 5


def flow(seed: int) -> Flow:
    rng = np.random.default_rng(seed)
    target = grid(*SHAPE) + rng.normal(0, 30, (*SHAPE, 2)).astype(np.float32)
    error = rng.uniform(0, 3, SHAPE).astype(np.float32)
    error[0] = np.inf
    return Flow(target, error)


def test_flow_comes_out_as_it_went_in() -> None:
    store, given = FlowStore(), flow(0)
    assert store.get((1, 2)) is None and (1, 2) not in store
    store.put((1, 2), given)
    found = store.get((1, 2))
    np.testing.assert_allclose(found.target, given.target, atol=1 / 64 + 1e-4)
    np.testing.assert_allclose(found.error[1:], given.error[1:], atol=1 / 128 + 1e-6)
    assert np.isinf(found.error[0]).all() and found.target.dtype == found.error.dtype == np.float32
    assert (2, 1) not in store and store.size == BYTES


def test_targets_out_of_reach_and_large_errors_are_not_believed() -> None:
    store, given = FlowStore(), flow(0)
    given.error[:] = 0.5
    given.target[3, 4], given.error[5, 6], given.target[7, 8] = (-5000, 3), 4.5, (1e9, 0)
    store.put((0, 1), given)
    found = store.get((0, 1))
    assert np.isinf(found.error[[3, 5, 7], [4, 6, 8]]).all() and np.isinf(found.error).sum() == 3
    assert np.isfinite(found.target).all()


def test_the_longest_unused_go_first_and_one_always_stays() -> None:
    store = FlowStore(budget=3 * BYTES)
    for at in range(3):
        store.put((at, 9), flow(at))
    store.get((0, 9))
    store.put((3, 9), flow(3))
    assert [(at, 9) in store for at in range(4)] == [True, False, True, True] and store.size == 3 * BYTES
    store.put((3, 9), flow(4))
    assert len(store) == 3, "one put again takes no more room"
    tiny = FlowStore(budget=1)
    tiny.put((0, 1), flow(0))
    tiny.put((1, 0), flow(1))
    assert (0, 1) not in tiny and tiny.get((1, 0)) is not None and tiny.size == BYTES


def test_forgetting_a_view_and_all() -> None:
    store = FlowStore()
    for pair in ((0, 1), (1, 0), (1, 2), (2, 3)):
        store.put(pair, flow(0))
    store.forget(1)
    assert (2, 3) in store and len(store) == 1 and store.size == BYTES
    store.clear()
    assert len(store) == 0 and store.size == 0
