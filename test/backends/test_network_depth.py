"""Sizes in which a network sees images, and what is kept of its answers."""

from __future__ import annotations

import numpy as np
import pytest
from stand_in import StandIn

from dust3r_ros.backends.network_depth import NetworkDepths, network_size
from dust3r_ros.types import View


@pytest.mark.parametrize(
    ("shape", "trained", "size"),
    [
        ((240, 320), (224, 224), (192, 256)),
        ((320, 240), (224, 224), (256, 192)),
        ((176, 320), (224, 224), (160, 288)),
        ((240, 320), (384, 512), (240, 320)),
        ((240, 320), None, (240, 320)),
        ((512, 512), (224, 224), (224, 224)),
        ((16, 1024), (16, 512), (16, 512)),
    ],
)
def test_sizes(shape, trained, size) -> None:
    assert network_size(shape, trained) == size


@pytest.mark.parametrize("seed", range(30))
def test_sizes_stay_within_training_and_keep_the_aspect(seed: int) -> None:
    rng = np.random.default_rng(seed)
    shape = tuple(int(side) * 16 for side in rng.integers(5, 40, 2))
    height, width = network_size(shape, (224, 224))
    assert height % 16 == width % 16 == 0 and height * width <= 224**2
    if max(shape) < 3 * min(shape):
        assert abs(np.log(width / height) - np.log(shape[1] / shape[0])) < 0.1
    assert height * width > 0.4 * min(224**2, shape[0] * shape[1])


def depths(budget: int = 1 << 20) -> tuple[NetworkDepths, StandIn]:
    rng = np.random.default_rng(0)
    true = 2 + rng.random((4, 32, 48)).cumsum(axis=1) / 16
    stand_in = StandIn(true.astype(np.float32), np.stack([np.eye(4)] * 4), 40.0, noise=0.0, warp=0.0)
    found = NetworkDepths(stand_in, None, budget)
    for index in range(4):
        found.add(View(index, "front", rng.integers(0, 255, (32, 48, 3), dtype=np.uint8)))
    return found, stand_in


def test_depth_is_each_views_own_up_to_scale() -> None:
    found, stand_in = depths()
    ((a, b),) = found.of_pairs([(0, 1)])
    for index, view in enumerate((a, b)):
        ratio = view.depth / stand_in._depths[index]
        np.testing.assert_allclose(ratio, np.median(ratio), rtol=2e-3)
        np.testing.assert_allclose(view.confidence, 5, rtol=1e-3)


def test_beyond_the_budget_the_oldest_answers_go() -> None:
    found, stand_in = depths(budget=3 * 32 * 48 * 4)
    found.of_pairs([(0, 1), (2, 3)])
    stand_in.asked.clear()
    found.of_pairs([(2, 3)])
    assert stand_in.asked == []
    found.of_pairs([(0, 1)])
    assert stand_in.asked == [(0, 1)], "the other order was kept"
