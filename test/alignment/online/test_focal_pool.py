"""One focal per camera over time."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest

from dust3r_ros.alignment.online.keyframe_start import FocalPool
from dust3r_ros.geometry.focal import FOCAL_LIMITS, reference_focal
from dust3r_ros.geometry.pinhole import unproject
from dust3r_ros.types import PairPrediction

SHAPE = (60, 80)


def prediction(focal: float, confidence: float = 3.0, seed: int = 0) -> PairPrediction:
    depth = np.random.default_rng(seed).uniform(1, 4, SHAPE)
    points = unproject(depth, focal).astype(np.float32)
    sure = np.full(SHAPE, confidence, np.float32)
    return PairPrediction(0, 1, points, sure, points, sure)


def test_keyframes_are_pooled_up_to_the_error_they_have_in_common() -> None:
    pool, deviations = FocalPool(), []
    assert pool.value(*SHAPE) == (reference_focal(*SHAPE), np.inf)
    rng = np.random.default_rng(0)
    for seed in range(40):
        assert pool.vote([prediction(70 * np.exp(0.02 * rng.standard_normal()), seed=seed)])
        deviations.append(pool.value(*SHAPE)[1])
    focal, deviation = pool.value(*SHAPE)
    assert focal == pytest.approx(70, rel=0.01)
    assert deviations[0] == np.inf and deviation == pytest.approx(70 * np.hypot(0.03, 3.5 * 0.02), rel=0.2)
    assert deviation < max(deviations[1:])


def test_an_error_common_to_all_keyframes_is_in_the_deviation() -> None:
    """Good networks and bad ones: errors are as large as deviations."""
    rng, z = np.random.default_rng(0), []
    for count, scatter in product(np.tile([3, 5, 10, 30, 100], 40), (0.01, 0.02, 0.03)):
        common = np.hypot(0.03, 3.2 * scatter)
        logs = common * rng.standard_normal() + scatter * rng.standard_normal(count)
        votes = [(70 * np.exp(log), 1.0) for log in logs]
        focal, deviation = FocalPool.of({"given": None, "votes": votes}).value(*SHAPE)
        z.append(abs(np.log(focal / 70) / (deviation / focal)))
    assert 0.6 < np.mean(np.less(z, 1)) < 0.85 and np.mean(np.less(z, 2)) > 0.93 and max(z) < 4


def test_a_given_focal_with_a_deviation_is_weighed_against_the_votes() -> None:
    pool = FocalPool(65.0, 0.03)
    assert pool.value(*SHAPE) == (65.0, pytest.approx(0.03 * 65.0))
    pool.vote([prediction(70.0)])
    assert pool.value(*SHAPE) == (65.0, pytest.approx(0.03 * 65.0)), "one vote has no deviation"
    pool.vote([prediction(70.0, seed=1)])
    focal, deviation = pool.value(*SHAPE)
    value, std = FocalPool.of(pool.facts() | {"given": None}).value(*SHAPE)
    information = np.array([0.03, std / value]) ** -2.0
    assert np.log(focal) == pytest.approx(np.average(np.log([65.0, value]), weights=information))
    assert deviation / focal == pytest.approx(information.sum() ** -0.5)
    again = FocalPool.of(pool.facts())
    assert again.value(*SHAPE) == (focal, deviation)


def test_predictions_of_one_keyframe_vote_as_one_and_can_be_withdrawn() -> None:
    pool = FocalPool()
    pool.vote([prediction(60.0)])
    pool.vote([prediction(60.0), prediction(66.0), prediction(72.0)])
    mean = np.exp(np.mean(np.log([60, 66, 72])))
    assert pool.value(*SHAPE)[0] == pytest.approx(np.sqrt(60 * mean), rel=1e-3)
    pool.withdraw()
    assert pool.value(*SHAPE)[0] == pytest.approx(60, rel=1e-4)


def test_confident_keyframes_count_more() -> None:
    pool = FocalPool()
    pool.vote([prediction(60.0, confidence=np.exp(3.0))])
    pool.vote([prediction(80.0, confidence=np.exp(1.0))])
    assert pool.value(*SHAPE)[0] == pytest.approx(np.exp((3 * np.log(60) + np.log(80)) / 4), rel=1e-3)


def test_nothing_known_is_no_vote_and_a_given_focal_stays() -> None:
    pool, given = FocalPool(), FocalPool(65.0)
    spoilt = prediction(60.0)
    spoilt.points_first[:] = np.nan
    assert not pool.vote([]) and not pool.vote([prediction(60.0, confidence=1.0)]) and not pool.vote([spoilt])
    assert pool.vote([spoilt, prediction(60.0)]) and pool.value(*SHAPE)[0] == pytest.approx(60, rel=1e-4)
    assert not given.vote([prediction(60.0)]) and given.value(*SHAPE) == (65.0, 0.0)


def test_a_focal_keeps_to_the_usual_limits() -> None:
    pool = FocalPool()
    pool.vote([prediction(5000.0)])
    assert pool.value(*SHAPE)[0] == pytest.approx(FOCAL_LIMITS[1] * reference_focal(*SHAPE))


@pytest.mark.parametrize("shape", [(6, 8), (60, 80), (480, 640), (640, 480)])
def test_a_few_pixels_tell_the_focal_at_any_size(shape: tuple[int, int]) -> None:
    focal, rng, pool = 0.8 * max(shape), np.random.default_rng(0), FocalPool()
    points = unproject(rng.uniform(1, 4, shape), focal) * np.exp(0.02 * rng.standard_normal((*shape, 1)))
    slopes = np.exp(0.02 * rng.standard_normal((*shape, 2)))  # the network's rays are not quite those of a pinhole
    points[..., :2] *= slopes
    sure = np.full(shape, 3.0, np.float32)
    points = points.astype(np.float32)
    assert pool.vote([PairPrediction(0, 1, points, sure, points, sure)])
    assert pool.value(*shape)[0] == pytest.approx(focal, rel=0.01)
