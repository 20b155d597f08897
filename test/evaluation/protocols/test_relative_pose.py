"""Multi-view relative pose on a rendered room, with a backend that knows the truth."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from oracle import Nonsense, Oracle
from recorded import recorded
from scipy.spatial.transform import Rotation

from dust3r_ros.errors import ConfigError, InputError
from dust3r_ros.evaluation.protocols.relative_pose import (
    direction_angles,
    pair_accuracy,
    rotation_angles,
    run_relative_pose,
)
from dust3r_ros.geometry.rigid import pose
from dust3r_ros.scenes.sequence import RenderedSequence, render_sequence


def rotations(count: int, seed: int) -> np.ndarray:
    return Rotation.random(count, random_state=np.random.default_rng(seed)).as_matrix()


def wander(count: int, seed: int) -> np.ndarray:
    centers = np.random.default_rng(seed).normal(size=(count, 3))
    return np.array([pose(R, t) for R, t in zip(rotations(count, seed), centers, strict=True)])


def test_perfect_input_is_exactly_zero_and_a_hundred_percent() -> None:
    R, t = rotations(8, 0), np.random.default_rng(0).normal(size=(8, 3))
    turn, shift = rotation_angles(R, R), direction_angles(t, t)
    assert not turn.any() and not shift.any()
    accuracy = pair_accuracy(turn, shift)
    assert (accuracy.rra, accuracy.rta, accuracy.maa) == (100.0, 100.0, 100.0)


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10_000), degrees=st.floats(1e-4, 179.9))
def test_a_turn_is_its_angle_whatever_it_is_added_to(seed: int, degrees: float) -> None:
    R = rotations(3, seed)
    axis = np.random.default_rng(seed).normal(size=3)
    turn = Rotation.from_rotvec(np.radians(degrees) * axis / np.linalg.norm(axis)).as_matrix()
    assert rotation_angles(R, R @ turn) == pytest.approx(degrees, rel=1e-6)
    assert rotation_angles(R @ turn, R) == pytest.approx(degrees, rel=1e-6)  # symmetric
    assert rotation_angles(turn @ R, R) == pytest.approx(degrees, rel=1e-6)


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10_000), factor=st.floats(1e-3, 1e3))
def test_a_direction_has_no_length_and_perhaps_no_sign(seed: int, factor: float) -> None:
    rng = np.random.default_rng(seed)
    a, b = rng.normal(size=(2, 5, 3))
    assert direction_angles(a, factor * b) == pytest.approx(direction_angles(a, b), abs=1e-6)
    assert direction_angles(a, -b) == pytest.approx(180 - direction_angles(a, b), abs=1e-6)
    either = direction_angles(a, -b, either_sign=True)
    assert either == pytest.approx(direction_angles(a, b, either_sign=True), abs=1e-6)
    assert either.max() <= 90


def test_angles_by_hand() -> None:
    """x against x + y: 45 degrees; x against -x: 180, and 0 for an axis; x against nothing: failed."""
    x = np.array([[1.0, 0, 0]] * 3)
    found = np.array([[1.0, 1.0, 0], [-2.0, 0, 0], [0, 0, 0]])
    assert direction_angles(x, found) == pytest.approx([45.0, 180.0, 180.0])
    assert direction_angles(x, found, either_sign=True) == pytest.approx([45.0, 0.0, 180.0])


def test_shares_by_hand() -> None:
    """Four pairs, (rotation, translation): (0.5, 0.5), (10, 20), (20, 10), (180, 180).

    RRA@15: 0.5 and 10 are below: 2 of 4. RTA@15: 0.5 and 10: 2 of 4. By the larger error: 0.5, 20, 20, 180.
    Below 1 deg: 1 of 4, and so up to 20 deg (20 is not below 20); from 21 to 30 deg 3 of 4. mAA: (20 * 1/4 + 10
    * 3/4) / 30 = 12.5 / 30.
    """
    accuracy = pair_accuracy([0.5, 10, 20, 180], [0.5, 20, 10, 180])
    assert accuracy.rra == 50.0 and accuracy.rta == 50.0
    assert accuracy.maa == pytest.approx(100 * 12.5 / 30)


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10_000), more=st.floats(0.0, 20.0))
def test_shares_do_not_depend_on_order_and_fall_with_the_errors(seed: int, more: float) -> None:
    rng = np.random.default_rng(seed)
    turn, shift = rng.uniform(0, 40, (2, 12))
    order = rng.permutation(12)
    first = pair_accuracy(turn, shift)
    assert pair_accuracy(turn[order], shift[order]) == first
    worse = pair_accuracy(turn + more, shift + more)
    assert worse.rra <= first.rra and worse.rta <= first.rta and worse.maa <= first.maa
    swapped = pair_accuracy(shift, turn)
    assert (swapped.rra, swapped.rta, swapped.maa) == (first.rta, first.rra, first.maa)


def test_what_is_no_measurement_is_refused_in_words() -> None:
    R, t = rotations(3, 0), np.ones((3, 3))
    with pytest.raises(InputError, match="length 0"):
        direction_angles(np.zeros((1, 3)), np.ones((1, 3)))
    with pytest.raises(InputError, match="not finite"):
        rotation_angles(R, R * np.nan)
    with pytest.raises(InputError, match="not finite"):
        direction_angles(t, t * np.nan)
    with pytest.raises(InputError, match="at least 1"):
        rotation_angles(R[:0], R[:0])
    with pytest.raises(InputError, match="3 true ones and 2 found"):
        direction_angles(t, t[:2])
    with pytest.raises(InputError, match="nan"):
        pair_accuracy([0.0, np.nan], [0.0, 0.0])
    with pytest.raises(InputError, match="N at least 1"):
        pair_accuracy([], [])
    with pytest.raises(InputError, match="positive"):
        pair_accuracy([1.0], [1.0], threshold=0.0)


SIZE = 96


@pytest.fixture(scope="module")
def sequence() -> RenderedSequence:
    return render_sequence("orbit", 8, 128, 96, laps=0.3, supersample=1)


@pytest.mark.parametrize("method", ["pnp", "alignment"])
@pytest.mark.parametrize("known_focals", [False, True])
def test_true_pointmaps_give_true_poses(sequence: RenderedSequence, method: str, known_focals: bool) -> None:
    oracle = Oracle(sequence, SIZE, noise=0.002)
    (row,) = run_relative_pose(
        [recorded(sequence)], oracle, method=method, views=5, size=SIZE, known_focals=known_focals
    )
    assert row["protocol"] == f"multiview_pose_{method}" and row["system"] == "oracle" and "note" not in row
    assert (row["views"], row["pairs"], row["pairs_without_pose"]) == (5, 10, 0)
    assert row["rra_15"] == row["rta_15"] == row["rta_15_signed"] == 100.0
    assert row["maa_30"] > 90
    assert set(oracle.asked) == {(i, j) for i in range(5) for j in range(5) if i != j}


def test_useless_pointmaps_do_not_pass(sequence: RenderedSequence) -> None:
    (row,) = run_relative_pose([recorded(sequence)], Nonsense(sequence, SIZE), method="pnp", views=5, size=SIZE)
    assert row["maa_30"] < 20
    assert row["pairs"] == 10  # what failed counts


def test_draws_are_those_of_the_seed(sequence: RenderedSequence) -> None:
    def of(seed: int) -> tuple[list[int], dict]:
        oracle = Oracle(sequence, SIZE)
        (row,) = run_relative_pose([recorded(sequence)], oracle, method="pnp", views=3, size=SIZE, seed=seed)
        row.pop("seconds")
        return list(oracle._frames.values()), row

    assert of(0) == of(0)
    assert len({tuple(of(seed)[0]) for seed in range(4)}) > 1
    assert of(0)[1]["pairs"] == 3


def test_what_cannot_be_judged_says_why(sequence: RenderedSequence) -> None:
    oracle = Oracle(sequence, SIZE)
    still = recorded(sequence)
    still = replace(still, views=tuple(replace(view, w_T_c=np.eye(4)) for view in still.views))
    rows = list(run_relative_pose([recorded(sequence, poses=False), still], oracle, views=3, size=SIZE))
    assert "0 views with a true pose" in rows[0]["note"] and "rra_15" not in rows[0]
    assert "coincide" in rows[1]["note"]
    with pytest.raises(ConfigError, match="magic"):
        list(run_relative_pose([], oracle, method="magic"))
