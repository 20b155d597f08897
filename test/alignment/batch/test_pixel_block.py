"""Which pixels stand in a block, and that passes over blocks are sums over pixels."""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache

import numpy as np
import pytest
from pairs import pair_problem

from dust3r_ros.alignment.batch.global_start import global_start
from dust3r_ros.alignment.batch.pixel_block import (
    Observation,
    PixelBlock,
    observations_of,
    plan_blocks,
    plan_missed,
)
from dust3r_ros.alignment.batch.problem import AlignmentProblem
from dust3r_ros.alignment.batch.sweeps import Unknowns, gather
from dust3r_ros.geometry.rigid import invert
from dust3r_ros.types import PairPrediction

SHAPES = [(36, 48)] * 4


@lru_cache(maxsize=1)
def given() -> list[PairPrediction]:
    """All pairs of four images but one."""
    return [pair for pair in pair_problem(4, 48, seed=2).pairs if (pair.first, pair.second) != (3, 0)]


def observations() -> list[list[Observation]]:
    return observations_of(given(), 4)


@pytest.mark.parametrize("stride", [1, 3, 8, 100])
@pytest.mark.parametrize("plane", [1, 500, 10**6])
def test_blocks_hold_every_sampled_pixel_once(stride: int, plane: int) -> None:
    seen = {(e, v): np.zeros((36, 48), int) for e in range(len(given())) for v in range(2)}
    for make in plan_blocks(given(), observations(), SHAPES, stride, plane):
        block = make()
        u, v = block.at((36, 48))
        np.testing.assert_allclose(block.pixels, [u - 23.5, v - 17.5])
        for b, image in enumerate(block.images):
            assert (block.views[b] >= 0).sum() == len(observations()[image])
            for k, (edge, view) in enumerate(zip(block.edges[b], block.views[b], strict=True)):
                if view < 0:
                    assert (block.weights[b, k] == 0).all()
                    continue
                pair: PairPrediction = given()[edge]
                X, C = (
                    (pair.points_first, pair.confidence_first)
                    if view == 0
                    else (
                        pair.points_second,
                        pair.confidence_second,
                    )
                )
                assert (pair.first, pair.second)[view] == image
                np.testing.assert_array_equal(block.points[:, b, k].T, X[v, u])
                np.testing.assert_array_equal(block.rows[b, k, 3], 1)
                np.testing.assert_allclose(block.rows[b, k, 4], np.sum(X[v, u] ** 2, axis=1), rtol=1e-5)
                np.testing.assert_allclose(block.weights[b, k], np.log(C[v, u]), rtol=1e-6)
                np.add.at(seen[edge, view], (v, u), 1)
    for count in seen.values():
        rows, columns = np.flatnonzero(count.any(axis=1)), np.flatnonzero(count.any(axis=0))
        assert count.max() == 1 and count.sum() == len(rows) * len(columns)
        assert (np.diff(rows) == stride).all() and (np.diff(columns) == stride).all()
        assert len(rows) == max(1, len(range(min(stride // 2, 35), 36, stride)))


def test_what_falls_between_the_samples_is_picked_where_too_little_does_not() -> None:
    pair = given()[0]
    confidence = np.ones_like(pair.confidence_first)
    confidence[3:6, 3:23] = 2.0  # 60 pixels, of which the grid of every 36th row and column has none
    pairs = [replace(pair, confidence_first=confidence), *given()[1:]]
    few = [make() for make in plan_blocks(pairs, observations(), SHAPES, 8)]
    (make,) = plan_missed(pairs, observations(), SHAPES, few, 20)
    block = make()
    assert block.images.tolist() == [pair.first]
    u, v = block.at((36, 48))
    assert (confidence[v, u] > 1).all() and 10 <= len(u) <= 30 and np.ptp(u) > 10
    whole = PixelBlock.of_image(pair.first, [*few, block])
    assert np.count_nonzero(whole.weights[0, whole.edges[0].tolist().index(0)]) >= 15
    assert plan_missed(pairs, observations(), SHAPES, [*few, block], 10) == []


def test_a_pass_is_the_sum_over_the_pixels_however_they_are_cut() -> None:
    problem = AlignmentProblem(given(), SHAPES)
    sample = [make() for make in plan_blocks(given(), observations(), SHAPES, 4)]
    scene = Unknowns.of(problem, global_start(problem, sample))
    scene.floor = 0.05
    found = []
    for plane in (1, 2000, 10**6):
        depths: dict[int, np.ndarray] = {}
        makers = plan_blocks(given(), observations(), SHAPES, 4, plane)
        for _ in range(3):
            gather(scene, makers, depths)
        before = dict(depths)
        found.append((gather(scene, makers, depths), makers, before))
    for other, _, _ in found[1:]:
        for name in ("costs", "equations", "sums", "squares", "weights"):
            a, b = getattr(found[0][0], name), getattr(other, name)
            np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4 * np.abs(a).max())
    # and by hand, for the second view of one pair
    statistics, makers, depths = found[-1]
    edge = 5
    block = makers[0]()
    b, k = (int(i[0]) for i in np.nonzero((block.edges == edge) & (block.views == 1)))
    image, d = given()[edge].second, depths[0][b].astype(np.float64)
    ray = np.vstack([block.pixels / scene.focals[image], np.ones(block.pixels.shape[1])])
    c_S_pair = invert(scene.w_T_c[image]) @ scene.w_S_pair[edge]
    X = block.points[:, b, k].astype(np.float64)
    r = np.hypot(np.linalg.norm(c_S_pair[:3, :3] @ X + c_S_pair[:3, 3:] - d * ray, axis=0), 0.05)
    x = np.vstack([X, np.ones(X.shape[1])]) * (block.weights[b, k] / r)
    # the points move by their step before pairs are placed on them: the rest of the sums does not
    np.testing.assert_allclose(statistics.sums[edge, 1, :, 3], x.sum(axis=1), rtol=1e-4)
    assert statistics.weights.sum() == pytest.approx(
        sum(np.log(C[2::4, 2::4]).sum() for p in given() for C in (p.confidence_first, p.confidence_second)), rel=1e-5
    )
