"""Several sources of one scale, and how sure a mean of samples is."""

from __future__ import annotations

import math

import numpy as np
import pytest

from dust3r_ros.world.evidence import Baseline, ScaleEvidence, block_std, combine, rig_scale, weighted_median


def test_one_baseline_is_enough() -> None:
    found = rig_scale([Baseline(0.12, 0.04, 0.02)])
    assert found is not None
    assert found.scale == pytest.approx(3.0) and found.relative_std == pytest.approx(0.02, rel=0.1)


def test_many_tell_it_better_and_a_wrong_one_does_no_harm() -> None:
    rng = np.random.default_rng(0)
    baselines = [Baseline(0.12, 0.04 * math.exp(0.02 * rng.normal()), 0.02) for _ in range(50)]
    baselines[7] = Baseline(0.12, 0.4, 0.02)
    found = rig_scale(baselines)
    assert found is not None
    assert abs(math.log(found.scale / 3.0)) < 3 * found.relative_std < 0.03


@pytest.mark.parametrize(
    "bad", [(0.0, 1.0, 0.1), (1e-13, 1.0, 0.1), (1.0, 0.0, 0.1), (math.nan, 1.0, 0.1), (1.0, 1.0, math.inf)]
)
def test_what_is_no_distance_says_nothing(bad: tuple[float, float, float]) -> None:
    assert rig_scale([Baseline(*bad)]) is None
    found = rig_scale([Baseline(*bad), Baseline(2.0, 1.0, 0.01)])
    assert found is not None and found.scale == pytest.approx(2.0)
    assert rig_scale([]) is None


def test_sources_that_agree_count_by_their_precision() -> None:
    found = combine([ScaleEvidence("odometry", 2.0, 0.01), ScaleEvidence("depth", 2.04, 0.02)])
    assert math.log(found.scale) == pytest.approx(0.8 * math.log(2.0) + 0.2 * math.log(2.04))
    assert found.relative_std == pytest.approx(0.01 / math.sqrt(1.25))
    assert [source.source for source in found.sources] == ["odometry", "depth"] and found.reasons == ()


def test_sources_that_contradict_each_other_are_named_and_make_less_sure() -> None:
    found = combine([ScaleEvidence("odometry", 2.0, 0.01), ScaleEvidence("depth", 2.4, 0.01)])
    assert found.relative_std > 0.08
    (reason,) = found.reasons
    assert "odometry says 2 m" in reason and "depth says 2.4 m" in reason


def test_a_source_that_knows_nothing_only_says_why() -> None:
    nothing = ScaleEvidence("odometry", 1.0, math.inf, "they go different ways")
    alone = combine([nothing])
    assert math.isinf(alone.relative_std) and alone.reasons == ("they go different ways",)
    both = combine([nothing, ScaleEvidence("rig", 3.0, 0.01)])
    assert both.scale == pytest.approx(3.0)
    assert math.isinf(combine([]).relative_std)


@pytest.mark.parametrize("lasting", [1, 30])
def test_the_deviation_of_a_mean_is_honest_where_neighbours_err_together(lasting: int) -> None:
    ratios = []
    for seed in range(200):
        rng = np.random.default_rng(seed)
        samples = np.repeat(rng.normal(size=600 // lasting), lasting)
        weight = rng.uniform(0.5, 2.0, 600)
        mean = weight @ samples / weight.sum()
        ratios.append(mean / block_std(weight * (samples - mean), weight))
    spread = float(np.sqrt(np.mean(np.square(ratios))))
    assert 0.6 < spread < 1.3
    assert np.mean(np.abs(ratios) < 3) > 0.97


def test_a_few_samples_tell_no_deviation() -> None:
    assert math.isinf(block_std(np.ones(5), np.ones(5)))
    assert math.isinf(block_std(np.zeros(9), np.zeros(9)))


def test_the_weighted_median() -> None:
    assert weighted_median(np.array([5.0, 1.0, 3.0]), np.array([1.0, 1.0, 1.0])) == 3.0
    assert weighted_median(np.array([5.0, 1.0, 3.0]), np.array([9.0, 1.0, 1.0])) == 5.0
