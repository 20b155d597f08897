"""Localisation: errors of places, medians and recall, by hand and under what must not change them."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from dust3r_ros.errors import InputError
from dust3r_ros.evaluation.protocols.localisation import localisation, place_errors
from dust3r_ros.geometry.rigid import pose


def wander(count: int, seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    turns = Rotation.random(count, random_state=rng).as_matrix()
    return np.array([pose(R, t) for R, t in zip(turns, rng.normal(size=(count, 3)), strict=True)])


def test_perfect_poses_have_exactly_no_error() -> None:
    true = wander(5, 0)
    result = localisation(*place_errors(true, list(true)))
    assert (result.median_cm, result.median_deg, result.found, result.queries) == (0.0, 0.0, 100.0, 5)
    assert set(result.recall.values()) == {100.0}


def test_five_queries_by_hand() -> None:
    """Off by (0.01 m, 1 deg), (0.04, 6), (0.2, 1), (0.3, 1), and not found.

    In order of position: 1, 4, 20, 30 cm and infinite: the middle one is 20 cm. Of rotation: 1, 1, 1, 6,
    infinite: 1 deg. Within (5 cm, 5 deg): the first. (25 cm, 2 deg): first and third. (50 cm, 5 deg): first,
    third, fourth. (5 m, 10 deg): four.
    """
    true = np.array([np.eye(4)] * 5)
    found: list = []
    for metres, degrees in ((0.01, 1), (0.04, 6), (0.2, 1), (0.3, 1)):
        found.append(pose(Rotation.from_euler("x", degrees, degrees=True).as_matrix(), [0, metres, 0]))
    metres, degrees = place_errors(true, [*found, None])
    assert metres[:4] == pytest.approx([0.01, 0.04, 0.2, 0.3]) and math.isinf(metres[4])
    assert degrees[:4] == pytest.approx([1, 6, 1, 1]) and math.isinf(degrees[4])
    result = localisation(metres, degrees)
    assert result.median_cm == pytest.approx(20.0) and result.median_deg == pytest.approx(1.0)
    assert list(result.recall.values()) == [20.0, 40.0, 60.0, 80.0]
    assert result.found == 80.0


def test_the_median_is_infinite_when_half_were_not_found() -> None:
    result = localisation([0.1, 0.2, np.inf, np.inf], [1, 1, np.inf, np.inf])
    assert math.isinf(result.median_cm) and math.isinf(result.median_deg)
    assert localisation([0.1, 0.3, np.inf], [1, 1, np.inf]).median_cm == pytest.approx(30.0)


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 10_000))
def test_errors_do_not_depend_on_the_world_the_order_or_who_is_true(seed: int) -> None:
    true, found, move = wander(6, seed), wander(6, seed + 1), wander(1, seed + 2)[0]
    errors = place_errors(true, list(found))
    assert np.allclose(place_errors(move @ true, list(move @ found)), errors)
    assert np.allclose(place_errors(found, list(true)), errors)
    order = np.random.default_rng(seed).permutation(6)
    assert localisation(errors[0][order], errors[1][order]) == localisation(*errors)


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 10_000), more=st.floats(0, 1))
def test_larger_errors_are_never_better(seed: int, more: float) -> None:
    rng = np.random.default_rng(seed)
    metres, degrees = rng.uniform(0, 1, 9), rng.uniform(0, 12, 9)
    before, after = localisation(metres, degrees), localisation(metres + more, degrees + more)
    assert after.median_cm >= before.median_cm and after.median_deg >= before.median_deg
    assert all(after.recall[limit] <= share for limit, share in before.recall.items())


def test_what_is_no_pose_is_refused_in_words() -> None:
    true = wander(3, 0)
    with pytest.raises(InputError, match="3 true ones and 2 found"):
        place_errors(true, list(true[:2]))
    with pytest.raises(InputError, match="found poses: number 1 is not finite"):
        place_errors(true, [true[0], true[1] * np.nan, true[2]])
    with pytest.raises(InputError, match="not a rigid motion"):
        place_errors(true, [true[0], np.diag([2.0, 2, 2, 1]), None])
    with pytest.raises(InputError, match="at least 1"):
        place_errors(np.zeros((0, 4, 4)), [])
    with pytest.raises(InputError, match="-1"):
        localisation([-1.0], [0.0])
    with pytest.raises(InputError, match="positive"):
        localisation([1.0], [0.0], thresholds=[(0.0, 5.0)])
