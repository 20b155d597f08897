from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dust3r_ros.errors import GeometryError
from dust3r_ros.geometry.normalisation import norm_factor, normalise_pair


def test_reference(reference: dict[str, np.ndarray]) -> None:
    first, second, factor = normalise_pair(*(reference[f"norm_{name}"] for name in ("p1", "p2", "v1", "v2")))
    assert factor.shape == reference["norm_factor"].shape
    np.testing.assert_allclose(factor, reference["norm_factor"], rtol=1e-6)
    np.testing.assert_allclose(first, reference["norm_out1"], atol=1e-6)
    np.testing.assert_allclose(second, reference["norm_out2"], atol=1e-6)


@given(st.floats(1e-3, 1e3), st.integers(0, 1000))
def test_result_has_mean_distance_one_and_no_unit(scale: float, seed: int) -> None:
    rng = np.random.default_rng(seed)
    points = [rng.normal(size=(2, 5, 4, 3)), rng.normal(size=(2, 3, 6, 3))]
    valid = [rng.random((2, 5, 4)) < 0.6, rng.random((2, 3, 6)) < 0.6]
    normal = normalise_pair(*points, *valid)
    scaled = normalise_pair(*(scale * p for p in points), *valid)
    for pair in range(2):
        kept = np.concatenate([normal[view][pair][valid[view][pair]] for view in range(2)])
        assert np.linalg.norm(kept, axis=1).mean() == pytest.approx(1.0)
    np.testing.assert_allclose(scaled[0], normal[0], rtol=1e-9)
    np.testing.assert_allclose(scaled[2], scale * normal[2], rtol=1e-9)


def test_invalid_pixels_may_hold_anything() -> None:
    points = np.ones((1, 2, 2, 3))
    points[0, 0, 0] = np.nan
    valid = np.array([[[False, True], [True, True]]])
    assert norm_factor(points, points, valid, valid).item() == pytest.approx(np.sqrt(3))
    with pytest.raises(GeometryError, match="1 of 1 pairs"):
        norm_factor(points, points)


@pytest.mark.parametrize("valid", [np.zeros((3, 2, 2), bool), None])
def test_pairs_without_scale_are_counted(valid: np.ndarray | None) -> None:
    points = np.ones((3, 2, 2, 3))
    if valid is None:
        points[1:] = 0.0
    with pytest.raises(GeometryError, match="3 of 3 pairs" if valid is not None else "2 of 3 pairs"):
        norm_factor(points, points, valid, valid)
