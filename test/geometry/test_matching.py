from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dust3r_ros.errors import GeometryError
from dust3r_ros.geometry.pinhole import center_of, project, unproject
from dust3r_ros.geometry.rigid import invert, pose, transform
from dust3r_ros.geometry.similarity import match_pointmaps, nearest, reciprocal_matches


def test_reference(reference: dict[str, np.ndarray]) -> None:
    first, second = reference["match_P1"], reference["match_P2"]
    np.testing.assert_array_equal(nearest(first, second), reference["match_nn2_in_P1"])
    in_first, in_second = reciprocal_matches(first, second)
    mask = np.zeros(len(second), bool)
    mask[in_second] = True
    np.testing.assert_array_equal(mask, reference["match_reciprocal_in_P2"])
    np.testing.assert_array_equal(in_first, reference["match_nn2_in_P1"][mask])
    assert len(in_first) == reference["match_count"]


@given(st.integers(1, 60), st.integers(1, 60), st.integers(0, 10**6))
def test_definition_by_all_distances(count_first: int, count_second: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    first, second = rng.normal(size=(count_first, 3)), rng.normal(size=(count_second, 3))
    distances = np.linalg.norm(first[:, None] - second[None], axis=-1)
    expected = {(i, j) for j, i in enumerate(distances.argmin(axis=0)) if distances[i].argmin() == j}
    found = list(zip(*reciprocal_matches(first, second), strict=True))
    assert set(found) == expected and len(found) == len(expected)
    swapped = {(i, j) for j, i in zip(*reciprocal_matches(second, first), strict=True)}
    assert swapped == expected


def test_far_and_broken_points_match_nothing() -> None:
    first = np.array([[0.0, 0, 0], [10, 0, 0], [np.nan, 0, 0], [20, 0, 0]])
    second = np.array([[np.inf, 0, 0], [20.1, 0, 0], [0.1, 0, 0], [14, 0, 0]])
    in_first, in_second = reciprocal_matches(first, second, max_distance=1.0)
    assert list(zip(in_first, in_second, strict=True)) == [(3, 1), (0, 2)]


@pytest.mark.parametrize("first", [np.zeros((0, 3)), np.full((4, 3), np.nan)])
def test_no_points_no_matches(first: np.ndarray) -> None:
    for found in (reciprocal_matches(first, np.ones((5, 3))), reciprocal_matches(np.ones((5, 3)), first)):
        assert [len(part) for part in found] == [0, 0]
    with pytest.raises(GeometryError, match="at least 1 is needed"):
        nearest(np.zeros((0, 3)), np.ones((5, 3)))


def test_pointmaps_match_where_the_camera_says() -> None:
    """A plane seen twice: matches lie within half a pixel (diagonal) of where the second camera sees the point."""
    first = unproject(np.full((30, 40), 4.0), 40.0)
    a_T_b = pose(np.eye(3), [0.5, 0.0, 0.0])
    second = transform(a_T_b, unproject(np.full((24, 50), 4.0), 40.0))
    valid = np.ones((30, 40), bool)
    valid[:, :20] = False
    pixels_first, pixels_second = match_pointmaps(first, second, valid)
    assert len(pixels_first) > 400
    assert pixels_first[:, 0].min() >= 20
    rows, columns = pixels_first[:, 1].astype(int), pixels_first[:, 0].astype(int)
    seen = project(transform(invert(a_T_b), first[rows, columns]), 40.0, center_of(24, 50))
    assert np.linalg.norm(seen - pixels_second, axis=1).max() <= np.sqrt(0.5) + 1e-6
