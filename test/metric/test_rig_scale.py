"""The unit of a map by distances of cameras on a rig."""

from __future__ import annotations

import math

import numpy as np
import pytest

from dust3r_ros.metric.rig_scale import Baseline, rig_scale


def test_one_baseline_is_enough() -> None:
    found = rig_scale([Baseline(0.12, 0.04, 0.02)])
    assert found is not None
    assert found.scale == pytest.approx(3.0) and found.relative_std == pytest.approx(0.02, rel=0.1)


def test_many_tell_it_better_and_a_wrong_one_does_no_harm() -> None:
    rng = np.random.default_rng(0)
    baselines = [Baseline(0.12, 0.04 * math.exp(0.02 * rng.normal()), 0.02) for _ in range(50)]
    baselines[7] = Baseline(0.12, 0.4, 0.02)
    found = rig_scale(baselines)
    assert found is not None and found.samples == 49
    assert abs(math.log(found.scale / 3.0)) < 3 * found.relative_std < 0.03


@pytest.mark.parametrize("bad", [(0.0, 1.0, 0.1), (1.0, 0.0, 0.1), (math.nan, 1.0, 0.1), (1.0, 1.0, math.inf)])
def test_what_is_no_distance_says_nothing(bad: tuple[float, float, float]) -> None:
    assert rig_scale([Baseline(*bad)]) is None
    found = rig_scale([Baseline(*bad), Baseline(2.0, 1.0, 0.01)])
    assert found is not None and found.scale == pytest.approx(2.0)
    assert rig_scale([]) is None
