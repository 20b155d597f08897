"""Materials repeat without a seam where they say so, differ, and are handed out as promised."""

from __future__ import annotations

import numpy as np
import pytest

from dust3r_ros.scenes.endless.materials import fractal
from dust3r_ros.scenes.endless.painting import LEVEL_TABLE, LEVELS, SIDE, SLOT, lay_out, pyramid
from dust3r_ros.scenes.endless.stock import USES, material, number_of

MAKERS = sorted({maker for use in USES.values() for maker in use.makers}, key=lambda maker: maker.__name__)


@pytest.mark.parametrize("maker", MAKERS, ids=lambda maker: maker.__name__)
def test_a_material_is_a_picture_decided_by_its_random_numbers(maker) -> None:
    one, again, other = (maker(np.random.default_rng(seed)) for seed in (1, 1, 2))
    assert one.shape == (SIDE, SIDE, 3) and one.dtype == np.float32 and np.isfinite(one).all()
    assert np.array_equal(one, again) and not np.array_equal(one, other)
    assert 0.02 < np.clip(one, 0, 1).mean() < 0.99


@pytest.mark.parametrize("cells, stretch", [(3, 1.0), (16, 1.0), (8, 20.0)])
def test_noise_has_no_seam(cells: int, stretch: float) -> None:
    noise = fractal(np.random.default_rng(0), cells, 3, stretch=stretch)
    for axis in (0, 1):
        steps = np.abs(np.diff(noise, axis=axis)).mean()
        seam = np.abs(np.take(noise, 0, axis) - np.take(noise, -1, axis)).mean()
        assert seam < 2 * steps + 1e-3
    assert noise.mean() == pytest.approx(0, abs=1e-4) and noise.std() == pytest.approx(1, abs=1e-3)


def test_pyramid_levels_lie_where_the_table_says_with_their_other_side_around_them() -> None:
    picture = np.random.default_rng(0).random((SIDE, SIDE, 3), dtype=np.float32)
    slot = pyramid(picture)
    sheet, corners = lay_out([slot, slot[::-1].copy(), slot])
    for number in range(LEVELS):
        x, y, size = LEVEL_TABLE[:, number]
        left, top = int(x), int(y)
        level = slot[top + 1 : top + 1 + int(size), left + 1 : left + 1 + int(size)].astype(float)
        mean = picture.reshape(int(size), SIDE // int(size), int(size), -1, 3).mean(axis=(1, 3))
        assert np.abs(level - 255 * mean).max() <= 1
        assert np.array_equal(slot[top, left + 1 : left + 1 + int(size)], level[-1])
        assert np.array_equal(slot[top + 1 : top + 1 + int(size), left], level[:, -1])
    for corner in corners[[0, 2]].astype(int):
        assert np.array_equal(sheet[corner[1] : corner[1] + SLOT[0], corner[0] : corner[0] + SLOT[1]], slot)


def test_neighbouring_worlds_share_materials_and_far_ones_do_not() -> None:
    def of(world: int) -> set[int]:
        return {number_of("wall", world, np.random.default_rng(k)) for k in range(200)}

    assert of(0) & of(1) and not of(0) & of(1000)
    assert np.array_equal(material((0, 0), "wall", 3), material.__wrapped__((0, 0), "wall", 3))
    assert not np.array_equal(material((0, 0), "wall", 3), material((0, 1), "wall", 3))
