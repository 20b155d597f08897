"""Focal errors by hand and under what must not change them."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dust3r_ros.errors import InputError
from dust3r_ros.evaluation.protocols.focals import relative_focal_errors, view_angle_errors


def test_by_hand() -> None:
    """Width 200: focal 100 sees 2 atan(1) = 90 degrees, focal 100 sqrt(3) sees 2 atan(1 / sqrt 3) = 60 degrees."""
    true, found = [100.0, 100 * math.sqrt(3), 100.0], [100 * math.sqrt(3), 100.0, 100.0]
    assert relative_focal_errors(true, found) == pytest.approx([73.2051, -42.2650, 0.0], abs=1e-3)
    assert view_angle_errors(true, found, 200) == pytest.approx([-30.0, 30.0, 0.0])


def test_the_true_focal_has_exactly_no_error() -> None:
    f = np.random.default_rng(0).uniform(100, 2000, 20)
    assert not relative_focal_errors(f, f).any() and not view_angle_errors(f, f, 640).any()


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10_000), scale=st.floats(0.01, 100.0))
def test_resized_images_have_the_same_errors(seed: int, scale: float) -> None:
    true, found = np.random.default_rng(seed).uniform(200, 900, (2, 5))
    assert relative_focal_errors(scale * true, scale * found) == pytest.approx(relative_focal_errors(true, found))
    wide = view_angle_errors(scale * true, scale * found, scale * 640)
    assert wide == pytest.approx(view_angle_errors(true, found, 640), abs=1e-9)
    assert np.all(np.sign(wide) == -np.sign(relative_focal_errors(true, found)))  # longer sees less
    assert view_angle_errors(found, true, 640) == pytest.approx(-view_angle_errors(true, found, 640))


def test_errors_grow_with_the_factor() -> None:
    factors = np.array([1.0, 1.01, 1.1, 2.0])
    true = np.full(4, 500.0)
    assert np.all(np.diff(relative_focal_errors(true, factors * true)) > 0)
    assert np.all(np.diff(np.abs(view_angle_errors(true, factors * true, 640))) > 0)


@pytest.mark.parametrize("bad", [0.0, -3.0, math.nan, math.inf])
def test_a_focal_that_is_none_is_refused(bad: float) -> None:
    with pytest.raises(InputError, match="found focal"):
        relative_focal_errors([500.0], [bad])
    with pytest.raises(InputError, match="true focal"):
        view_angle_errors([bad], [500.0], 640)


def test_sizes_that_do_not_fit_are_refused() -> None:
    with pytest.raises(InputError, match="shapes"):
        relative_focal_errors([500.0], [500.0, 400.0])
    with pytest.raises(InputError, match="N at least 1"):
        relative_focal_errors([], [])
    with pytest.raises(InputError, match="image size"):
        view_angle_errors([500.0], [500.0], 0)
