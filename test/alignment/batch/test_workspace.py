"""One pass over a block against the same sums written out in float64."""

from __future__ import annotations

import threading
from dataclasses import replace
from functools import lru_cache

import numpy as np
import pytest
from pairs import PairProblem, pair_problem

from dust3r_ros.alignment.batch.pixel_block import (
    PixelBlock,
    Workspace,
    observations_of,
    plan_blocks,
    points_at,
    workspace,
)
from dust3r_ros.alignment.batch.problem import image_shapes
from dust3r_ros.alignment.moments import retract
from dust3r_ros.types import Array

FLOOR = 0.05


@lru_cache(maxsize=1)
def problem() -> PairProblem:
    """Of all pairs of four images but one: one image has fewer observations."""
    whole = pair_problem(4, 48, seed=2)
    at = [edge for edge, pair in enumerate(whole.pairs) if (pair.first, pair.second) != (3, 0)]
    return replace(whole, pairs=[whole.pairs[edge] for edge in at], units=whole.units[at])


@pytest.fixture
def block() -> PixelBlock:
    pairs = problem().pairs
    (make,) = plan_blocks(pairs, observations_of(pairs, 4), image_shapes(pairs), 6)
    return make()


def placed(block: PixelBlock) -> tuple[Array, Array, Array]:
    """Some similarities (B, K, 4, 4), slopes (B, 2, P) and depths (B, P)."""
    rng = np.random.default_rng(3)
    units = problem().units
    G = np.tile(np.eye(4), (*block.edges.shape, 1, 1))
    G[..., :3, :3] /= units[block.edges][..., None, None]
    G = retract(G, 0.05 * rng.standard_normal((*block.edges.shape, 7)))
    slopes = block.slopes(np.full(4, problem().focal))
    return G, slopes, rng.uniform(2, 6, block.weights.shape[::2]).astype(np.float32)


def test_weights_means_and_depth_are_those_written_out(block: PixelBlock) -> None:
    G, slopes, depth = placed(block)
    seen = Workspace().weigh(block, G, slopes, depth, FLOOR)
    X = np.moveaxis(block.points, 0, 2).astype(np.float64)
    y = G[:, :, :3, :3] @ X + G[:, :, :3, 3:]
    point = np.concatenate([slopes * depth[:, None], depth[:, None]], axis=1)
    r = np.sqrt(np.sum((y - point[:, None]) ** 2, axis=2) + FLOOR**2)
    pull = block.weights / r
    np.testing.assert_allclose(seen.cost, (block.weights * r).sum(axis=2), rtol=1e-4)
    np.testing.assert_allclose(seen.total, pull.sum(axis=1), rtol=1e-4)
    mean = np.einsum("bkp,bkcp->bcp", pull, y) / pull.sum(axis=1)[:, None]
    np.testing.assert_allclose(seen.mean, mean, atol=1e-4)
    ray = np.concatenate([slopes, np.ones_like(depth[:, None])], axis=1)
    best = np.sum(ray * mean, axis=1) / np.sum(ray * ray, axis=1)
    np.testing.assert_allclose(seen.depth, depth + 1.5 * (best - depth), rtol=1e-4)
    assert seen.along is None


def test_sums_place_every_observation_by_itself(block: PixelBlock) -> None:
    G, slopes, depth = placed(block)
    space = Workspace()
    space.weigh(block, G, slopes, depth, FLOOR)
    target = points_at(slopes, depth)
    found = space.sums(block, target)
    X = np.moveaxis(block.points, 0, 2).astype(np.float64)
    y = G[:, :, :3, :3] @ X + G[:, :, :3, 3:]
    pull = block.weights / np.sqrt(np.sum((y - target[:, None]) ** 2, axis=2) + FLOOR**2)
    rows = np.concatenate([X, np.ones_like(X[:, :, :1]), np.sum(X * X, axis=2, keepdims=True)], axis=2)
    columns = np.concatenate([target, np.ones_like(target[:, :1])], axis=1)
    expected = np.einsum("bkp,bkrp,bcp->bkrc", pull, rows, columns)
    np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-4 * np.abs(expected).max())
    assert (found[block.views < 0] == 0).all()  # filled up


def test_pixels_without_depth_start_at_their_middle(block: PixelBlock) -> None:
    """From there a pass changes little; from anywhere, passes end there."""
    G, slopes, _ = placed(block)
    space, depth = Workspace(), np.full(block.weights.shape[::2], 1.0, np.float32)
    first = space.weigh(block, G, slopes, None, 1e-3).depth
    for _ in range(60):
        depth = space.weigh(block, G, slopes, depth, 1e-3).depth
    assert np.median(np.abs(first / depth - 1)) < 1e-3


def test_known_depth_is_kept_and_counts_along_the_ray(block: PixelBlock) -> None:
    G, slopes, depth = placed(block)
    given, square = np.full_like(depth, 3.0), np.full_like(depth, np.float32(1e30))
    square[:, ::2] = 0.0
    given[:, 1::2] = 0.0
    seen = Workspace().weigh(block, G, slopes, depth, FLOOR, (given, square))
    free = Workspace().weigh(block, G, slopes, depth, FLOOR)
    np.testing.assert_allclose(seen.depth[:, ::2], 3.0, rtol=1e-6)
    np.testing.assert_allclose(seen.depth[:, 1::2], free.depth[:, 1::2], rtol=1e-6)
    assert seen.along is not None
    np.testing.assert_allclose(seen.along[:, ::2], seen.total[:, ::2], rtol=1e-6)
    assert (seen.along[:, 1::2] < 1e-6 * seen.total[:, 1::2].max()).all()


def test_every_thread_has_its_own() -> None:
    mine, others = workspace(), []
    thread = threading.Thread(target=lambda: others.append(workspace()))
    thread.start()
    thread.join()
    assert workspace() is mine and others[0] is not mine


def test_planes_are_taken_back() -> None:
    space = Workspace()
    large = space.planes(3, 100)
    small = space.planes(2, 50)
    assert len(large) == 300 and len(small) == 100 and np.shares_memory(large, small)
