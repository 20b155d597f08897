"""Depth that ran over outlines, on images whose outlines are known."""

from __future__ import annotations

import numpy as np
import pytest

from dust3r_ros.depth import completion
from dust3r_ros.depth.completion import cut_at_outlines

HEIGHT, WIDTH = 120, 160
EDGE, OVER = 90, 6  # the thing ends at this column, its depth so many pixels further


def thing(sky: tuple[int, int, int], noise: float = 2.0) -> np.ndarray:
    """(H, W, 3) a textured brown thing on the left of a plain region."""
    rng = np.random.default_rng(0)
    image = np.full((HEIGHT, WIDTH, 3), sky, float)
    image[:, :EDGE] = [130, 80, 60]
    image[:, :EDGE] += rng.normal(0, 20, (HEIGHT, EDGE, 1))
    return np.clip(image + rng.normal(0, noise, image.shape), 0, 255).astype(np.uint8)


def overrun(until: int = EDGE + OVER) -> tuple[np.ndarray, np.ndarray]:
    """Depth 2 with confidence 3 left of a column."""
    known = np.zeros((HEIGHT, WIDTH), bool)
    known[:, :until] = True
    return np.where(known, 2, 0).astype(np.float32), np.where(known, 3, 1).astype(np.float32)


@pytest.mark.parametrize("noise", [0.0, 3.0])
def test_depth_ends_at_the_outline(noise: float) -> None:
    depth, confidence = cut_at_outlines(*overrun(), thing((120, 160, 220), noise))
    kept = confidence > 1
    assert kept[:, EDGE:].mean() < 0.01 and kept[:, : EDGE - 3].mean() > 0.98
    assert ((depth > 0) == kept).all() and (depth[kept] == 2).all() and (confidence[kept] == 3).all()
    assert depth.dtype == confidence.dtype == np.float32


def test_depth_stays_where_no_outline_is() -> None:
    """A wall of one colour whose texture ends somewhere."""
    wall = np.full((HEIGHT, WIDTH, 3), 150, np.uint8)
    for image in (wall, np.clip(wall + np.random.default_rng(1).normal(0, 3, wall.shape), 0, 255).astype(np.uint8)):
        found = cut_at_outlines(*overrun(), image)
        np.testing.assert_array_equal(found[0], overrun()[0])
        np.testing.assert_array_equal(found[1], overrun()[1])


def test_small_gaps_take_nothing_with_them() -> None:
    """White tiles with dark joints: a hole in one of them is no region without depth."""
    image = np.full((HEIGHT, WIDTH, 3), 230, np.uint8)
    image[::12] = image[:, ::12] = 40
    depth, confidence = overrun(WIDTH)
    depth[50:55, 50:55], confidence[50:55, 50:55] = 0, 1
    found = cut_at_outlines(depth, confidence, image)
    np.testing.assert_array_equal(found[1], confidence)


def test_a_thin_thing_keeps_its_depth_without_what_is_beside_it() -> None:
    """A pole, narrower than depth runs over its outlines."""
    image = np.full((HEIGHT, WIDTH, 3), (120, 160, 220), np.uint8)
    image[:, 80:88] = (60, 60, 60)
    depth, confidence = overrun(0)
    depth[:, 75:93], confidence[:, 75:93] = 2, 3
    kept = cut_at_outlines(depth, confidence, image)[1] > 1
    assert kept[:, 81:87].all() and not kept[:, :80].any() and not kept[:, 88:].any()


def test_nothing_or_everything_known_and_images_too_small_break_nothing() -> None:
    for until in (0, WIDTH):
        found = cut_at_outlines(*overrun(until), thing((120, 160, 220)))
        np.testing.assert_array_equal(found[1], overrun(until)[1])
    for shape in ((1, 1), (3, 5), (9, 9)):
        confidence = np.ones(shape, np.float32)
        confidence[0, 0] = 2
        found = cut_at_outlines(confidence - 1, confidence, np.zeros((*shape, 3), np.uint8))
        assert found[0].shape == shape and np.isfinite(found[0]).all() and (found[1] >= 1).all()


@pytest.mark.parametrize("columns", [WIDTH, 101, 40])
def test_a_compiler_changes_nothing_in_outlines(columns: int, monkeypatch: pytest.MonkeyPatch) -> None:
    assert completion.LIBRARY is not None
    image = np.roll(thing((120, 160, 220), 6.0), -60, axis=1)[:, :columns]
    known = [np.roll(part, -60, axis=1)[:, :columns] for part in overrun()]
    compiled = cut_at_outlines(*known, image)
    monkeypatch.setattr(completion, "LIBRARY", None)
    for one, other in zip(compiled, cut_at_outlines(*known, image), strict=True):
        np.testing.assert_array_equal(one, other)
    assert (compiled[1] != known[1]).any()
