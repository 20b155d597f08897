"""Which pairs an alignment of a few views takes."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from oracle import Oracle
from recorded import recorded

from dust3r_ros.errors import InputError
from dust3r_ros.evaluation.protocols.predictor import Predictor, aligned_parts, informative
from dust3r_ros.evaluation.protocols.relative_pose import by_alignment
from dust3r_ros.scenes.sequence import render_sequence
from dust3r_ros.types import PairPrediction


@pytest.fixture(scope="module")
def predictor() -> Predictor:
    sequence = render_sequence("orbit", 5, 128, 96, laps=0.2, supersample=1)
    made = Predictor(Oracle(sequence, 96), 96)
    made.take(recorded(sequence).views)
    return made


def silent(pair: PairPrediction, confident: int = 0) -> PairPrediction:
    """The pair with ``confident`` pixels that say anything in its second view."""
    confidence = np.ones_like(pair.confidence_second)
    confidence.ravel()[:confident] = 2.0
    return PairPrediction(
        pair.first, pair.second, pair.points_first, pair.confidence_first, pair.points_second, confidence
    )


def test_a_pair_counts_when_both_orders_say_something(predictor: Predictor) -> None:
    pairs = [silent(pair) if (pair.first, pair.second) == (0, 1) else pair for pair in predictor.all_pairs()]
    left = {(pair.first, pair.second) for pair in informative(pairs)}
    assert len(left) == 18 and not {(0, 1), (1, 0)} & left
    assert informative([silent(pair, 10) for pair in pairs]) == []
    assert aligned_parts([silent(pair) for pair in pairs], predictor.views) == []


def test_an_alignment_refuses_a_principal_point_that_is_not_at_the_centre(predictor: Predictor) -> None:
    """One outside the image cannot become the centre of a crop."""
    off = [replace(predictor.views[0], center=(-3.0, 31.5)), *predictor.views[1:]]
    with pytest.raises(InputError, match="of view 0 is 50 pixels off its image's centre"):
        aligned_parts(predictor.all_pairs(), off)


def test_views_that_nothing_connects_have_no_pose_to_each_other(predictor: Predictor) -> None:
    pairs = [
        pair if (pair.first < 3) == (pair.second < 3) else silent(pair) for pair in predictor.all_pairs()
    ]  # {0, 1, 2} and {3, 4}
    assert [part.images for part in aligned_parts(pairs, predictor.views)] == [(0, 1, 2), (3, 4)]
    assert set(by_alignment(pairs, predictor.views)) == {(0, 1), (0, 2), (1, 2), (3, 4)}
