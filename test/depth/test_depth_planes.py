"""Plain surfaces completed by planes: a wall with posters, a bare face, a sky."""

from __future__ import annotations

import numpy as np
import pytest

from dust3r_ros.depth import completion
from dust3r_ros.depth.completion import complete_planes

HEIGHT, WIDTH = 120, 160


def plane(at: float, right: float = 0.0, down: float = 0.0) -> np.ndarray:
    """(H, W) inverse depth of a plane: ``at`` in the middle of the image, so much more at its borders."""
    v, u = np.mgrid[:HEIGHT, :WIDTH]
    return at + right * (u / WIDTH - 0.5) * 2 + down * (v / HEIGHT - 0.5) * 2


def known_where(inverse: np.ndarray, known: np.ndarray, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Depth to 2 % and confidence 2.5 where ``known``."""
    noise = np.exp(0.02 * np.random.default_rng(seed).standard_normal(inverse.shape))
    return np.where(known, noise / inverse, 0).astype(np.float32), np.where(known, 2.5, 1).astype(np.float32)


def textured(image: np.ndarray, rows: slice, columns: slice) -> None:
    size = image[rows, columns].shape
    image[rows, columns] = np.random.default_rng(rows.start * WIDTH + columns.start).integers(0, 256, size)


def test_a_wall_is_completed_between_what_is_known_of_it() -> None:
    """Posters on a plain wall, each with some depth around it."""
    image, known = np.full((HEIGHT, WIDTH, 3), 200, np.uint8), np.zeros((HEIGHT, WIDTH), bool)
    for top, left in ((10, 15), (15, 110), (75, 20), (80, 115), (45, 65)):
        textured(image, slice(top, top + 20), slice(left, left + 25))
        known[max(0, top - 12) : top + 32, max(0, left - 12) : left + 37] = True
    truth = plane(0.5, 0.15, -0.05)
    depth, confidence, blank = complete_planes(*known_where(truth, known), image)
    assert not blank.any() and (confidence > 1.5).mean() > 0.97
    sure = ~known & (confidence > 1.5)
    assert np.abs(depth * truth - 1)[sure].max() < 0.04
    assert depth.dtype == confidence.dtype == np.float32


def test_a_bare_face_takes_the_plane_that_its_edges_agree_on() -> None:
    """A dark box before a far wall of texture: depth runs a few pixels into its face, all around."""
    image = np.empty((HEIGHT, WIDTH, 3), np.uint8)
    textured(image, slice(0, HEIGHT), slice(0, WIDTH))
    image[30:90, 40:120] = (40, 40, 60)
    face = np.zeros((HEIGHT, WIDTH), bool)
    face[30:90, 40:120] = True
    inner = np.zeros_like(face)
    inner[36:84, 46:114] = True
    near = plane(0.8, 0.2)
    truth = np.where(face, near, 0.2)
    depth, confidence, blank = complete_planes(*known_where(truth, face & ~inner), image)
    assert not blank.any() and (confidence[inner] > 1.5).all()
    assert np.abs(depth * near - 1)[inner].max() < 0.05
    assert (confidence[~face] == 1).all(), "nothing is said beyond the region"


def street(image: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Houses of several depths before a plain sky, all known; the depth of what runs over their roofs, too."""
    image[:] = (150, 180, 230)
    inverse, known = np.zeros((HEIGHT, WIDTH)), np.zeros((HEIGHT, WIDTH), bool)
    for left, right, top, at in ((0, 45, 50, 0.7), (45, 70, 95, 0.2), (70, 110, 40, 0.45), (110, WIDTH, 70, 0.9)):
        textured(image, slice(top, HEIGHT), slice(left, right))
        inverse[:, left:right], known[top - 5 :, left:right] = at, True
    return np.maximum(inverse, 0.1), known


def test_the_sky_stays_empty_up_to_the_roofs() -> None:
    image = np.empty((HEIGHT, WIDTH, 3), np.uint8)
    inverse, known = street(image)
    before = known_where(inverse, known)
    depth, confidence, blank = complete_planes(*before, image)
    sky = (image == (150, 180, 230)).all(axis=2)
    assert (confidence[sky] == 1).mean() > 0.99 and (depth[sky] == 0).mean() > 0.99
    assert blank[sky].mean() > 0.99 and (blank & ~sky).mean() < 0.01, "nothing is to be filled in there later"
    houses = ~sky & ~blank
    np.testing.assert_array_equal(confidence[houses], before[1][houses])


def test_surfaces_that_are_not_flat_take_no_plane() -> None:
    image, known = np.full((HEIGHT, WIDTH, 3), 120, np.uint8), np.ones((HEIGHT, WIDTH), bool)
    known[40:80, 50:110] = False
    v, u = np.mgrid[:HEIGHT, :WIDTH]
    bowl = 0.3 + 1.5 * ((u / WIDTH - 0.5) ** 2 + (v / HEIGHT - 0.5) ** 2)
    before = known_where(bowl, known)
    depth, confidence, blank = complete_planes(*before, image)
    gap = confidence[50:70, 65:95]
    assert (gap < 1.5).all(), "a plane through a bowl is not believed"
    assert blank[50:70, 65:95].all() and not blank[known].any(), "far from what is known of it nothing is filled in"
    assert (depth[known] > 0).all()


def test_the_same_map_gives_the_same_and_nothing_known_breaks_nothing() -> None:
    image = np.empty((HEIGHT, WIDTH, 3), np.uint8)
    inverse, known = street(image)
    first, second = (complete_planes(*known_where(inverse, known), image) for _ in range(2))
    for a, b in zip(first, second, strict=True):
        np.testing.assert_array_equal(a, b)
    for shape in ((1, 1), (3, 5), (HEIGHT, WIDTH)):
        nothing = np.zeros(shape, np.float32), np.ones(shape, np.float32)
        depth, confidence, _ = complete_planes(*nothing, np.zeros((*shape, 3), np.uint8))
        assert (depth == 0).all() and (confidence == 1).all()


def test_a_compiler_changes_nothing_in_planes(monkeypatch: pytest.MonkeyPatch) -> None:
    assert completion.LIBRARY is not None
    image = np.empty((HEIGHT, WIDTH, 3), np.uint8)
    inverse, known = street(image)
    image[70:, 75:105] = (90, 60, 50)
    known[78:, 80:100] = False
    compiled = complete_planes(*known_where(inverse, known), image)
    monkeypatch.setattr(completion, "LIBRARY", None)
    plain = complete_planes(*known_where(inverse, known), image)
    np.testing.assert_array_equal(compiled[2], plain[2])
    for one, other in zip(compiled[:2], plain[:2], strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5)
    assert (plain[0] > 0)[78:, 80:100].mean() > 0.9, "a plane was found"
