from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from pairs import PairProblem, fixture_problem, pair_problem

from dust3r_ros.alignment.objective import PAIR_SCALE, published_objective
from dust3r_ros.errors import GeometryError, InputError
from dust3r_ros.geometry.pinhole import unproject
from dust3r_ros.geometry.rigid import pose, transform
from dust3r_ros.geometry.similarity import robust_similarity
from dust3r_ros.scenes.sequence import look_at
from dust3r_ros.types import PairPrediction


@pytest.fixture(scope="module")
def problem() -> PairProblem:
    return pair_problem(4, 64)


def value(problem: PairProblem, **changes: object) -> float:
    scene = {
        "pairs": problem.pairs,
        "w_T_c": problem.w_T_c,
        "focals": np.full(len(problem.depths), problem.focal),
        "depths": list(problem.depths),
    }
    return published_objective(**(scene | changes))  # type: ignore[arg-type]


def test_a_scene_that_fits_its_pairs_exactly_costs_nothing() -> None:
    exact = pair_problem(3, 64, noise=0.0)
    typical = value(pair_problem(3, 64))
    assert value(exact) < 1e-4 * typical


def test_it_is_the_weighted_mean_distance_of_the_best_similarities(problem: PairProblem) -> None:
    """The definition, written out with the similarity of another module; both views have as many pixels."""
    world = [transform(T, unproject(d, problem.focal)) for T, d in zip(problem.w_T_c, problem.depths, strict=True)]
    total, log_scales = 0.0, []
    for pair in problem.pairs:
        x = np.concatenate([pair.points_first.reshape(-1, 3), pair.points_second.reshape(-1, 3)])
        y = np.concatenate([world[pair.first].reshape(-1, 3), world[pair.second].reshape(-1, 3)])
        w = np.log(np.concatenate([pair.confidence_first.ravel(), pair.confidence_second.ravel()]))
        S = robust_similarity(x, y, w, iterations=100)
        total += w @ np.linalg.norm(y - S.apply(x), axis=1)
        log_scales.append(np.log(S.scale))
    pixels = sum(pair.confidence_first.size for pair in problem.pairs)
    by_hand = total / pixels * PAIR_SCALE * np.exp(-np.mean(log_scales))
    # Here each σ is best for its own pair; the objective lets them share the gauge, which can only be better.
    assert value(problem, fit_stride=1) <= by_hand * (1 + 1e-6)
    assert value(problem, fit_stride=1) == pytest.approx(by_hand, rel=5e-3)


def test_neither_scale_nor_frame_of_the_world_matters(problem: PairProblem) -> None:
    moved = pose(look_at(np.zeros(3), np.array([1.0, 2.0, 0.5]))[:3, :3], [50.0, -30.0, 4.0]) @ problem.w_T_c
    moved[:, :3, 3] *= 13.0
    assert value(problem, w_T_c=moved, depths=[13 * d for d in problem.depths]) == pytest.approx(
        value(problem), rel=1e-4
    )


def test_nor_do_the_units_of_single_pairs_but_for_their_mean(problem: PairProblem) -> None:
    doubled = [scaled(pair, 2.0 ** (1 if index % 2 else -1)) for index, pair in enumerate(problem.pairs)]
    assert value(problem, pairs=doubled) == pytest.approx(value(problem), rel=1e-4)
    assert value(problem, pairs=[scaled(pair, 3.0) for pair in problem.pairs]) == pytest.approx(
        3 * value(problem), rel=1e-4
    )


def scaled(pair: PairPrediction, factor: float) -> PairPrediction:
    factor32 = np.float32(factor)
    return replace(pair, points_first=factor32 * pair.points_first, points_second=factor32 * pair.points_second)


@pytest.mark.parametrize("what", ["position", "rotation", "focal", "depth"])
def test_it_rises_with_every_error(what: str) -> None:
    exact = pair_problem(4, 64, noise=0.3)
    w_T_c, focals, depths = exact.w_T_c.copy(), np.full(4, exact.focal), list(exact.depths)
    if what == "position":
        w_T_c[1, :3, 3] += [0.2, 0.0, 0.0]
    elif what == "rotation":
        w_T_c[1] = w_T_c[1] @ pose(
            [[np.cos(0.1), 0, np.sin(0.1)], [0, 1, 0], [-np.sin(0.1), 0, np.cos(0.1)]], [0, 0, 0]
        )
    elif what == "focal":
        focals[2] *= 1.15
    else:
        depths[3] = depths[3] * np.float32(1.15)
    assert value(exact, w_T_c=w_T_c, focals=focals, depths=depths) > 1.05 * value(exact)


def test_pixels_without_confidence_weigh_nothing_whatever_they_say(problem: PairProblem) -> None:
    def blinded(garbage: float) -> list[PairPrediction]:
        pairs = []
        for pair in problem.pairs:
            points, confidence = pair.points_second.copy(), pair.confidence_second.copy()
            points[:20], confidence[:20] = garbage, 1.0
            pairs.append(replace(pair, points_second=points, confidence_second=confidence))
        return pairs

    clean = value(problem, pairs=blinded(0.0))
    assert value(problem, pairs=blinded(1e3)) == pytest.approx(clean, rel=1e-6)
    assert value(problem, pairs=blinded(np.nan)) == pytest.approx(clean, rel=1e-6)


def test_fitting_a_sample_of_the_pixels_is_close(problem: PairProblem) -> None:
    exact = value(problem, fit_stride=1)
    assert exact * (1 - 1e-6) <= value(problem, fit_stride=2) <= exact * 1.002


def test_what_does_not_fit_together_is_said(problem: PairProblem) -> None:
    with pytest.raises(InputError, match="at least one pair"):
        value(problem, pairs=[])
    with pytest.raises(InputError, match="3 poses, 4 focals and 4 depth maps"):
        value(problem, w_T_c=problem.w_T_c[:3])
    with pytest.raises(InputError, match=r"pair \(0, 1\) has an image 1 of \(48, 64\)"):
        value(problem, depths=[problem.depths[0], problem.depths[1][:20], *problem.depths[2:]])
    one = np.ones_like(problem.pairs[0].confidence_first)
    blind = [replace(problem.pairs[0], confidence_first=one, confidence_second=one), *problem.pairs[1:]]
    with pytest.raises(GeometryError, match=r"pair \(0, 1\) has 0 pixels of confidence above 1"):
        value(problem, pairs=blind)


def test_the_truth_costs_more_than_the_optimum_of_the_published_program_but_not_much(shared: Path) -> None:
    stored = json.loads((shared / "fixtures" / "ga_dev_reference.json").read_text(encoding="utf-8"))
    assert (
        stored["loss_final"] < value(fixture_problem(shared / "fixtures" / "ga_dev.npz")) < 1.3 * stored["loss_final"]
    )
