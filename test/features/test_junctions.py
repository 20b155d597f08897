"""Junctions of edges, in images of a box whose corners are known."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from plain_box import CORNERS, HEIGHT, WIDTH, picture, pixels_of, viewpoint, visible

from dust3r_ros.features.junctions import find_junctions, match_junctions, no_junctions
from dust3r_ros.types import Array


def seen_corners(degrees: float) -> tuple[np.ndarray, Array]:
    """Indices (K,) and pixels (K, 2) of the box's corners in a picture."""
    w_T_c = viewpoint(degrees)
    index = np.flatnonzero(visible(w_T_c))
    return index, pixels_of(CORNERS[index], w_T_c)


def nearest(pixels: Array, to: Array) -> tuple[np.ndarray, Array]:
    """Of each of ``pixels`` (N, 2) the nearest of ``to`` (M, 2): which, and how far."""
    apart = np.linalg.norm(pixels[:, None] - to[None], axis=2)
    return apart.argmin(axis=1), apart.min(axis=1)


@pytest.mark.parametrize("degrees", [25.0, 130.0, 250.0])
def test_the_corners_of_a_plain_box_are_found_to_a_pixel(degrees: float) -> None:
    index, truth = seen_corners(degrees)
    found = find_junctions(picture(viewpoint(degrees)))
    assert len(index) == 7
    miss = nearest(truth, found.pixels)[1]
    assert (miss < 1.5).sum() >= 6 and np.median(miss) < 0.8
    assert len(found.pixels) <= 14, "a plain image has few junctions that are none"


def test_arms_lead_along_the_edges() -> None:
    index, truth = seen_corners(25.0)
    found = find_junctions(picture(viewpoint(25.0)))
    top = int(np.flatnonzero(index == 7)[0])  # where three edges meet
    junction = int(nearest(truth[top : top + 1], found.pixels)[0][0])
    ends = pixels_of(CORNERS[[3, 5, 6]], viewpoint(25.0)) - truth[top]
    expected = np.arctan2(ends[:, 1], ends[:, 0])
    headings = found.heading[found.owner == junction]
    turn = np.abs((headings[:, None] - expected[None] + np.pi) % (2 * np.pi) - np.pi)
    assert len(headings) >= 2 and (turn.min(axis=1) < np.radians(5)).all()


@pytest.mark.parametrize("step, off", [(6.0, 0.0), (12.0, 10.0)])
def test_junctions_match_over_a_wide_step(step: float, off: float) -> None:
    """``off``: pixels by which the expected places are wrong."""
    first, second = viewpoint(20.0), viewpoint(20.0 + step)
    a, b = find_junctions(picture(first)), find_junctions(picture(second, seed=1))
    corner_a, far_a = nearest(a.pixels, pixels_of(CORNERS, first))
    corner_b, far_b = nearest(b.pixels, pixels_of(CORNERS, second))
    shift = off / np.sqrt(2)
    expected_ab = pixels_of(CORNERS[corner_a], second) + shift
    expected_ba = pixels_of(CORNERS[corner_b], first) - shift
    pairs = match_junctions(a, b, expected_ab, expected_ba)
    real = (far_a[pairs[:, 0]] < 2) & (far_b[pairs[:, 1]] < 2)
    same = corner_a[pairs[:, 0]] == corner_b[pairs[:, 1]]
    assert (real & same).sum() >= 5 and same[real].all()
    for column in (0, 1):
        assert len(np.unique(pairs[:, column])) == len(pairs)


def test_opposite_contrast_does_not_match() -> None:
    image = picture(viewpoint(20.0))
    a, b = find_junctions(image), find_junctions(255 - image)
    assert len(a.pixels) >= 5 and len(b.pixels) >= 5
    assert len(match_junctions(a, a, a.pixels, a.pixels)) == len(a.pixels)
    assert len(match_junctions(a, b, a.pixels, b.pixels)) <= 1


@pytest.mark.parametrize("image", [np.zeros((HEIGHT, WIDTH)), np.full((HEIGHT, WIDTH), 255), np.eye(64) * 255])
def test_images_without_corners_have_no_junctions(image: Array) -> None:
    found = find_junctions(image.astype(np.uint8))
    assert len(found.pixels) == 0 and len(found.owner) == 0
    other = find_junctions(picture(viewpoint(20.0)))
    assert match_junctions(found, other, found.pixels, other.pixels).shape == (0, 2)
    assert match_junctions(other, no_junctions(), other.pixels, np.zeros((0, 2))).shape == (0, 2)


def test_an_interrupted_edge_keeps_its_two_ends() -> None:
    image = np.full((HEIGHT, WIDTH), 200, np.uint8)
    cv2.rectangle(image, (120, 100), (520, 380), 60, -1)
    image[230:250, 100:140] = 130  # an edge with a piece missing
    found = find_junctions(image)
    corners = np.array([[119.5, 99.5], [520.5, 99.5], [119.5, 380.5], [520.5, 380.5]])
    assert (nearest(corners, found.pixels)[1] < 1.5).all()
    left_edge = (np.abs(found.pixels[:, 0] - 119.5) < 5) & (np.abs(found.pixels[:, 1] - 240) > 40)
    assert left_edge.sum() == 2, "none along the edge away from what interrupts it"
