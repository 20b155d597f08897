"""Texture look-ups: exact where nothing is filtered, the mean where everything is."""

from __future__ import annotations

import numpy as np
import pytest

from dust3r_ros.scenes import textures
from dust3r_ros.scenes.textures import texture


def test_texel_centres_give_the_texels() -> None:
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (20, 30, 3), dtype=np.uint8)
    cloth = texture(image, 3.0, 2.0)
    v, u = np.meshgrid((np.arange(20) + 0.5) / 10, (np.arange(30) + 0.5) / 10, indexing="ij")
    sampled = cloth.sample(u.ravel().astype(np.float32), v.ravel().astype(np.float32), np.full(600, 1e-3, np.float32))
    assert np.abs(sampled.reshape(20, 30, 3) - image).max() <= 1
    assert cloth.texels_per_metre == pytest.approx(10)


def test_a_large_footprint_gives_the_mean() -> None:
    checker = (np.indices((64, 64)).sum(0) % 2 * 255).astype(np.uint8)
    cloth = texture(np.repeat(checker[..., None], 3, 2), 1.0, 1.0)
    spots = np.random.default_rng(1).uniform(0.2, 0.8, (2, 50)).astype(np.float32)
    fine = cloth.sample(*spots, np.full(50, 1 / 640, np.float32))
    coarse = cloth.sample(*spots, np.full(50, 1 / 16, np.float32))
    assert fine.std() > 40
    assert np.abs(coarse - 127.5).max() < 2


def test_filtering_is_continuous_in_the_footprint() -> None:
    image = np.random.default_rng(2).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    cloth = texture(image, 1.0, 1.0)
    footprints = np.geomspace(1 / 128, 1 / 2, 400).astype(np.float32)
    spot = np.full(400, 0.37, np.float32)
    colors = cloth.sample(spot, spot, footprints)
    assert np.abs(np.diff(colors, axis=0)).max() < 8
    assert np.ptp(colors) > 40


@pytest.mark.parametrize("name", ["plaster", "brick", "planks", "tiles", "ceiling", "fabric", "books", "poster"])
def test_patterns_are_pictures_that_their_seed_decides(name: str) -> None:
    pattern = getattr(textures, name)
    first, again, other = (pattern(np.random.default_rng(seed), 120, 200, 200.0) for seed in (1, 1, 2))
    assert first.shape == (120, 200, 3) and np.isfinite(first).all() and first.min() >= 0
    assert np.array_equal(first, again) and not np.array_equal(first, other)
    assert 0.1 < first.mean() < 0.95 and first.mean(2).std() > 0.03
