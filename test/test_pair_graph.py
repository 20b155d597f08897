"""Which keyframes are paired."""

from __future__ import annotations

import cv2
import numpy as np

from dust3r_ros.config import MapperConfig
from dust3r_ros.pair_graph import PairGraph


def scene(seed: int) -> np.ndarray:
    coarse = np.random.default_rng(seed).integers(0, 256, (6, 8), dtype=np.uint8)
    return cv2.resize(coarse, (160, 120), interpolation=cv2.INTER_CUBIC)


def graph(**config: float) -> PairGraph:
    return PairGraph(MapperConfig(**config))


def test_the_last_few() -> None:
    pairs = graph(pair_neighbours=3)
    assert [pairs.neighbours(i) for i in (0, 1, 2, 7)] == [[], [0], [1, 0], [6, 5, 4]]


def test_a_place_seen_again_is_chosen() -> None:
    """Twenty places; the seventh is seen once more, a little aside, darker and noisier."""
    pairs = graph(pair_lookalikes=2, pair_neighbours=3)
    for seed in range(20):
        assert pairs.add(scene(seed)) == seed
    rng = np.random.default_rng(0)
    again = np.clip(0.7 * np.roll(scene(7), 3, axis=1) + rng.normal(0, 6, (120, 160)), 0, 255).astype(np.uint8)
    assert pairs.lookalikes(again, 20) == [7]
    assert pairs.lookalikes(again, 8) == [7]
    assert pairs.lookalikes(again, 7) == [], "only what is older counts"
    assert pairs.lookalikes(scene(99), 20) == []


def test_one_of_a_neighbourhood_and_the_best_first() -> None:
    pairs = graph(pair_lookalikes=2, pair_neighbours=3)
    shifts = [9, 6, 3, 0, 3, 6] + [None] * 6 + [4]
    for index, shift in enumerate(shifts):
        pairs.add(scene(100 + index) if shift is None else np.roll(scene(0), shift, axis=1))
    assert pairs.lookalikes(scene(0), len(shifts)) == [3, 12]
    assert graph(pair_lookalikes=0).lookalikes(scene(0), 5) == []


def test_the_score_that_is_asked_for() -> None:
    for score, expected in ((0.2, [0]), (0.999, [])):
        pairs = graph(lookalike_score=score)
        pairs.add(scene(0))
        assert pairs.lookalikes(np.roll(scene(0), 12, axis=1), 1) == expected


def test_blank_images_look_like_nothing() -> None:
    pairs = graph()
    black = np.zeros((120, 160), np.uint8)
    pairs.add(black)
    pairs.add(scene(0))
    assert pairs.lookalikes(black, 2) == []
    assert pairs.lookalikes(scene(0), 2) == [1]
    assert pairs.lookalikes(scene(0), 0) == []


def test_pairs_that_were_used() -> None:
    pairs = graph()
    pairs.connect(4, 2, 1.5, ("left", "left"))
    pairs.connect(0, 1, 0.5, ("left", "right"))
    pairs.connect(2, 4, 2.5, ("left", "left"))
    assert (pairs.count("left"), pairs.count("right")) == (1, 0), "a pair counts once, for its one camera"
    assert pairs.edges == [(0, 1, 0.5), (2, 4, 2.5)]
