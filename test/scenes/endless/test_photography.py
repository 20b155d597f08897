"""Photographic effects change colours, not where things are."""

from __future__ import annotations

import numpy as np
import pytest

from dust3r_ros.errors import InputError
from dust3r_ros.scenes.endless.photography import Exposure, draw_exposure, motion_kernel, photograph

PLAIN = Exposure(1.0, (1.0, 1.0, 1.0), 1.0, 0.0, 0.0, 100)
STEP = np.repeat(np.where(np.arange(64) < 32, 40, 200).astype(np.uint8)[None, :, None], 48, axis=0).repeat(3, axis=2)


def sharp(seed: int) -> np.random.Generator:
    """Random numbers whose first draw asks for no blur."""
    rng = np.random.default_rng(seed)
    while np.random.default_rng(seed).random() < 0.35:
        seed += 1
    return np.random.default_rng(seed) if seed else rng


@pytest.mark.parametrize("seed", range(12))
def test_an_edge_stays_where_it_is(seed: int) -> None:
    rng = np.random.default_rng(seed)
    taken = photograph(STEP, draw_exposure(rng), rng).astype(float)
    assert taken.shape == STEP.shape
    profile = taken.mean(axis=(0, 2))
    # The edge is at 31.5, half way up from one side to the other, however blurred.
    low, high = profile[22:25].mean(), profile[39:42].mean()
    assert np.interp((low + high) / 2, profile[24:40], np.arange(24, 40)) == pytest.approx(31.5, abs=0.7)


def test_noise_vignette_and_jpeg_do_what_they_say() -> None:
    grey = np.full((64, 64, 3), 128, np.uint8)
    assert np.abs(photograph(grey, PLAIN, sharp(1)).astype(float) - 128).max() < 40  # the picture's own gain
    noisy = photograph(grey, Exposure(1.0, (1.0, 1.0, 1.0), 1.0, 0.0, 6.0, 100), sharp(1)).astype(float)
    assert 4 < noisy.std() < 8
    dark = photograph(grey, Exposure(1.0, (1.0, 1.0, 1.0), 1.0, 0.4, 0.0, 100), sharp(1)).astype(float)
    assert dark[0, 0].mean() == pytest.approx(0.6 * dark[32, 32].mean(), rel=0.03)
    rng = np.random.default_rng(0)
    texture = rng.integers(0, 255, (64, 64, 3), dtype=np.uint8)
    packed = photograph(texture, Exposure(1.0, (1.0, 1.0, 1.0), 1.0, 0.0, 0.0, 50), sharp(1)).astype(float)
    free = photograph(texture, PLAIN, sharp(1)).astype(float)
    assert 5 < np.abs(packed - free).mean() < 60


def test_an_automatic_exposure_brings_dark_and_bright_pictures_together() -> None:
    def apart(automatic: float) -> float:
        exposure = Exposure(1.0, (1.0, 1.0, 1.0), 1.0, 0.0, 0.0, 100, automatic)
        dark, bright = (photograph(np.full((8, 8, 3), grey, np.uint8), exposure, sharp(1)).mean() for grey in (40, 160))
        return float(bright / dark)

    assert apart(0.0) == pytest.approx(4, rel=0.05)
    assert apart(0.5) == pytest.approx(2, rel=0.05) and apart(1.0) == pytest.approx(1, rel=0.05)


def test_without_saturation_a_picture_is_grey() -> None:
    red = np.zeros((8, 8, 3), np.uint8)
    red[..., 0] = 100
    taken = photograph(red, Exposure(1.0, (1.0, 1.0, 1.0), 1.0, 0.0, 0.0, 100, 0.0, 0.0), sharp(1))
    assert 20 < taken[0, 0, 0] < 40 and (taken == taken[0, 0, 0]).all()


def test_the_same_random_numbers_give_the_same_picture() -> None:
    pictures = [
        photograph(STEP, draw_exposure(rng), rng) for rng in (np.random.default_rng(4), np.random.default_rng(4))
    ]
    assert np.array_equal(*pictures)


@pytest.mark.parametrize("length, angle", [(2.0, 0.0), (5.0, 0.7), (9.0, 1.6)])
def test_motion_blurs_about_its_middle(length: float, angle: float) -> None:
    kernel = motion_kernel(length, angle)
    y, x = np.mgrid[: len(kernel), : len(kernel)] - len(kernel) // 2
    assert kernel.sum() == pytest.approx(1, abs=1e-5)
    assert abs((kernel * x).sum()) < 0.02 and abs((kernel * y).sum()) < 0.02
    along = x * np.cos(angle) + y * np.sin(angle)
    assert (kernel * along**2).sum() == pytest.approx(length**2 / 12, rel=0.3, abs=0.3)
    with pytest.raises(InputError, match="motion"):
        motion_kernel(0.0, angle)
