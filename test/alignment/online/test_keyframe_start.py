"""A view's pose from pointmaps alone."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dust3r_ros.alignment.online.keyframe_start import PlacedView, attach, pair_scale
from dust3r_ros.errors import GeometryError
from dust3r_ros.geometry.pinhole import unproject
from dust3r_ros.geometry.rigid import angle_deg, invert, transform
from dust3r_ros.scenes.sequence import look_at
from dust3r_ros.types import PairPrediction

SHAPE, FOCAL = (48, 64), 60.0
POSES = [look_at(np.array(p), np.zeros(3)) for p in ([4.0, 0, 0.3], [3.8, 1.0, 0.2], [3.5, 1.8, 0.5], [3.6, -1.2, 0.0])]


def predictions_of(new: int, firsts: list[int], seed: int = 0, noise: float = 0.005) -> list[PairPrediction]:
    """Pairs (first, new), each in its own unit, noisy points with confidence."""
    rng = np.random.default_rng(seed)
    found = []
    own = rng.uniform(3, 5, SHAPE)
    for first in firsts:
        unit = np.exp(rng.uniform(-2, 2))
        depth = DEPTHS[first] * np.exp(noise * rng.standard_normal(SHAPE))
        points = transform(invert(POSES[first]) @ POSES[new], unproject(own, FOCAL))
        points = points * np.exp(noise * rng.standard_normal((*SHAPE, 1)))
        found.append(
            PairPrediction(
                first,
                new,
                (unit * unproject(depth, FOCAL)).astype(np.float32),
                rng.uniform(1.5, 6, SHAPE).astype(np.float32),
                (unit * points).astype(np.float32),
                rng.uniform(1.5, 6, SHAPE).astype(np.float32),
            )
        )
    return found


DEPTHS = np.random.default_rng(9).uniform(3, 5, (4, *SHAPE)).astype(np.float32)


def placed(unit: float = 1.0) -> dict[int, PlacedView]:
    views = {}
    for index in range(3):
        w_T_c = POSES[index].copy()
        w_T_c[:3, 3] *= unit
        views[index] = PlacedView(w_T_c, unit * DEPTHS[index], np.full(SHAPE, 3.0, np.float32))
    return views


@settings(max_examples=15, deadline=None, derandomize=True)
@given(st.integers(0, 10**6), st.floats(0.01, 100.0))
def test_finds_the_pose_whatever_the_units(seed: int, unit: float) -> None:
    found = attach(3, predictions_of(3, [0, 1, 2], seed), placed(unit), FOCAL)
    np.testing.assert_allclose(found.w_T_c[:3, 3], unit * POSES[3][:3, 3], atol=0.03 * unit)
    assert angle_deg(found.w_T_c[:3, :3].T @ POSES[3][:3, :3]) < 0.5


def test_the_scale_of_a_pair() -> None:
    (prediction,) = predictions_of(3, [1])
    unit = float(np.median(prediction.points_first[..., 2] / DEPTHS[1]))
    assert pair_scale(prediction, placed()[1]) == pytest.approx(1 / unit, rel=0.01)
    assert pair_scale(prediction, placed(20.0)[1]) == pytest.approx(20 / unit, rel=0.01)
    unknown = replace(placed()[1], confidence=np.ones(SHAPE, np.float32))
    assert np.isnan(pair_scale(prediction, unknown))
    assert np.isnan(pair_scale(prediction, replace(placed()[1], depth=np.zeros(SHAPE, np.float32))))


def test_one_wrong_pair_among_several() -> None:
    good = predictions_of(3, [0, 1, 2])
    mirrored = replace(good[0], points_second=good[0].points_second * np.float32([-1, 1, 1]))
    found = attach(3, [mirrored, *good[1:]], placed(), FOCAL)
    np.testing.assert_allclose(found.w_T_c, POSES[3], atol=0.05)


def test_pairs_that_are_not_about_it_are_left_out() -> None:
    others = predictions_of(2, [0, 1]) + [replace(p, first=3, second=0) for p in predictions_of(3, [0])]
    with pytest.raises(GeometryError, match="view 3"):
        attach(3, others, placed(), FOCAL)
    found = attach(3, others + predictions_of(3, [1]), placed(), FOCAL)
    np.testing.assert_allclose(found.w_T_c, POSES[3], atol=0.05)


def test_pairs_that_know_nothing() -> None:
    blind = [replace(p, confidence_second=np.ones(SHAPE, np.float32)) for p in predictions_of(3, [0, 1])]
    with pytest.raises(GeometryError, match="view 3"):
        attach(3, blind, placed(), FOCAL)
    with pytest.raises(GeometryError):
        attach(3, [], placed(), FOCAL)
    with pytest.raises(GeometryError):
        attach(3, predictions_of(3, [0, 1]), {}, FOCAL)


def test_nonsense_is_refused() -> None:
    rng = np.random.default_rng(0)
    noise = [
        replace(p, points_second=rng.normal(0, 1, (*SHAPE, 3)).astype(np.float32)) for p in predictions_of(3, [0, 1])
    ]
    with pytest.raises(GeometryError):
        attach(3, noise, placed(), FOCAL)
