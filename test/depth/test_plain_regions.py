"""Regions without texture, in images that are made of them."""

from __future__ import annotations

import numpy as np
import pytest

from dust3r_ros.depth import completion
from dust3r_ros.depth.completion import plain_regions

HEIGHT, WIDTH = 120, 160


def room(noise: float = 0.0) -> np.ndarray:
    """(H, W, 3) a wall that darkens to the right, a darker floor below, a textured poster on the wall."""
    rng = np.random.default_rng(0)
    image = np.empty((HEIGHT, WIDTH, 3))
    image[:80] = np.linspace(220, 150, WIDTH)[None, :, None]
    image[80:] = 90
    image[20:60, 50:90] = rng.uniform(0, 255, (40, 40, 3))
    return np.clip(image + rng.normal(0, noise, image.shape), 0, 255).astype(np.uint8)


@pytest.mark.parametrize("noise", [0.0, 2.0])
def test_shading_runs_on_and_outlines_end_a_region(noise: float) -> None:
    regions = plain_regions(room(noise), 6)
    whole = np.zeros((HEIGHT, WIDTH), int)
    for number, region in enumerate(regions[:2], 1):
        whole[region.rows, region.columns][region.inside] = number
    assert (whole[:74, :44] == 1).mean() > 0.97 and (whole[:74, 98:] == 1).mean() > 0.97, "on both sides of the poster"
    assert (whole[86:] == 2).mean() > 0.97 and not (whole[:79] == 2).any()
    assert (whole[23:57, 53:87] > 0).mean() < 0.02
    assert [region.inside.sum() for region in regions] == sorted((r.inside.sum() for r in regions), reverse=True)


def test_depth_within_a_region_and_its_outline() -> None:
    wall, floor = plain_regions(room(), 6)[:2]
    assert floor.rows.stop == HEIGHT and floor.columns == slice(0, WIDTH)
    inside = floor.depth_inside()
    assert inside[-1, WIDTH // 2] > 20, "where the image ends, the region does not"
    outline = floor.outline()
    assert outline[-1].all() and outline[:, 0][floor.inside[:, 0]].all() and not outline[-20, 20:-20].any()
    grown = wall.grown(3)
    assert grown[wall.inside].all() and 0 < grown.sum() - wall.inside.sum() < 12 * (WIDTH + 160)


def test_no_region_in_texture_and_images_too_small_break_nothing() -> None:
    noise = np.random.default_rng(1).integers(0, 256, (HEIGHT, WIDTH, 3)).astype(np.uint8)
    assert plain_regions(noise, 6) == []
    for shape in ((1, 1), (2, 7), (5, 5)):
        for region in plain_regions(np.zeros((*shape, 3), np.uint8), 6):
            assert region.inside.shape == shape


def test_noise_is_estimated_in_the_plainest_parts() -> None:
    for noise in (0.0, 1.0, 3.0):
        gray = np.random.default_rng(2).normal(120, noise, (HEIGHT, WIDTH, 1)).repeat(3, axis=2)
        gray[:, : WIDTH // 8] = np.random.default_rng(3).integers(0, 256, (HEIGHT, WIDTH // 8, 1))
        assert completion._noise(np.clip(np.rint(gray), 0, 255).astype(np.uint8)) == pytest.approx(noise, rel=0.3)
