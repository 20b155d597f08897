"""align(method="moments") on problems with a known answer, beside the published scheme, and without an answer."""

from __future__ import annotations

import json
from dataclasses import replace
from functools import lru_cache
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from pairs import PairProblem, errors, fixture_problem, pair_problem
from scipy.optimize import minimize_scalar
from scipy.spatial.transform import Rotation

from dust3r_ros.alignment import Alignment, align
from dust3r_ros.alignment.batch import global_moments
from dust3r_ros.alignment.batch.global_moments import full_depths
from dust3r_ros.alignment.batch.global_start import global_start
from dust3r_ros.alignment.batch.pixel_block import Observation, observations_of, plan_blocks, view_of
from dust3r_ros.alignment.batch.problem import AlignmentProblem
from dust3r_ros.alignment.batch.sweeps import Unknowns
from dust3r_ros.alignment.objective import published_objective
from dust3r_ros.errors import GeometryError
from dust3r_ros.geometry.pinhole import unproject
from dust3r_ros.geometry.rigid import invert, transform
from dust3r_ros.types import Array, PairPrediction

SHAPES = [(36, 48)] * 4


@lru_cache(maxsize=1)
def given() -> tuple[list[PairPrediction], list[list[Observation]]]:
    """Pairs of four images, and where each image is observed."""
    pairs = pair_problem(4, 48, seed=4).pairs
    return pairs, observations_of(pairs, 4)


def scene() -> Unknowns:
    problem = AlignmentProblem(given()[0], SHAPES)
    return Unknowns.of(problem, global_start(problem, [make() for make in plan_blocks(*given(), SHAPES, 4)]))


def depths_of(found: Unknowns) -> list[np.ndarray]:
    return full_depths(*given(), found)


def test_depth_is_where_the_weighted_distances_are_least(monkeypatch: pytest.MonkeyPatch) -> None:
    (pairs, observations), found = given(), scene()
    found.floor = 1e-6
    monkeypatch.setattr(global_moments, "_ITERATIONS", 40)
    depths = depths_of(found)
    rng = np.random.default_rng(0)
    image = 2
    for v, u in zip(rng.integers(0, 36, 25), rng.integers(0, 48, 25), strict=True):
        ray = unproject(np.ones((36, 48)), float(found.focals[image]))[v, u]
        seen = []
        for edge, view in observations[image]:
            X, C = view_of(pairs, (edge, view))
            c_S_pair = invert(found.w_T_c[image]) @ found.w_S_pair[edge]
            seen.append((transform(c_S_pair, X[v, u].astype(np.float64)), np.log(C[v, u])))

        def value(d: float, ray: np.ndarray = ray, seen: list = seen) -> float:
            return float(sum(w * np.linalg.norm(y - d * ray) for y, w in seen))

        best = minimize_scalar(value, bounds=(0.1, 20), method="bounded", options={"xatol": 1e-7})
        # in float32, a distance below 3e-4 of the depth is lost in the squares
        assert value(float(depths[image][v, u])) < best.fun * (1 + 1e-3)


def test_observations_that_are_switched_off_do_not_count() -> None:
    found = scene()
    spoiled = np.array([0, 4])
    found.on[spoiled] = False
    clean = depths_of(found)
    found.w_S_pair[spoiled] *= 5.0
    for a, b in zip(clean, depths_of(found), strict=True):
        np.testing.assert_array_equal(a, b)


def test_an_image_whose_pairs_are_all_off_has_no_depth() -> None:
    found = scene()
    found.on[[edge for edge, _ in given()[1][1]]] = False
    depths = depths_of(found)
    assert (depths[1] == 0).all() and all((depths[i] > 0).all() for i in (0, 2, 3))


def test_depth_behind_the_camera_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(global_moments, "_ITERATIONS", 20)
    found = scene()
    found.w_T_c[0, :3, :3] = found.w_T_c[0, :3, :3] @ np.diag([-1.0, 1.0, -1.0])
    assert (depths_of(found)[0] > 0).mean() < 0.05


WIDTH = 64


@pytest.fixture(scope="module")
def noisy() -> PairProblem:
    return pair_problem(5, WIDTH, seed=1)


@pytest.fixture(scope="module")
def solved(noisy: PairProblem) -> Alignment:
    return align(noisy.pairs)


def test_exact_pairs_give_the_exact_scene() -> None:
    problem = pair_problem(5, WIDTH, noise=0.0)
    found = errors(align(problem.pairs), problem)
    assert found.ate < 1e-4 and found.rotation_deg < 0.001 and found.focal < 1e-5 and found.depth < 1e-4


@pytest.mark.long
def test_the_objective_is_at_or_under_that_of_the_published_scheme(noisy: PairProblem, solved: Alignment) -> None:
    pytest.importorskip("torch", reason="the published scheme needs torch")
    baseline = align(noisy.pairs, method="gradient")
    assert solved.objective <= 1.0005 * baseline.objective
    assert solved.seconds < 0.2 * baseline.seconds


def test_the_fixture_ends_where_the_original_program_did(shared: Path) -> None:
    problem = fixture_problem(shared / "fixtures/ga_dev.npz")
    reference = json.loads((shared / "fixtures/ga_dev_reference.json").read_text())
    result = align(problem.pairs)
    found = errors(result, problem)
    assert result.objective <= 1.0005 * reference["loss_final"]
    assert found.ate <= 1.02 * reference["final"]["ate_m"]
    assert 100 * found.focal <= 1.02 * reference["final"]["focal_err_pct_mean"]


def test_no_small_motion_lowers_the_objective(noisy: PairProblem, solved: Alignment) -> None:
    rng = np.random.default_rng(0)
    least = published_objective(noisy.pairs, solved.w_T_c, solved.focals, solved.depths, fit_stride=1)
    extent = np.ptp(solved.w_T_c[:, :3, 3], axis=0).max()
    for _ in range(6):
        w_T_c = solved.w_T_c.copy()
        w_T_c[:, :3, :3] @= Rotation.from_rotvec(rng.normal(0, 3e-3, (5, 3))).as_matrix()
        w_T_c[:, :3, 3] += rng.normal(0, 3e-3 * extent, (5, 3))
        focals = solved.focals * np.exp(rng.normal(0, 3e-3, 5))
        depths = [depth * np.float32(np.exp(rng.normal(0, 3e-3))) for depth in solved.depths]
        assert published_objective(noisy.pairs, w_T_c, focals, depths, fit_stride=1) > least


def test_threads_do_not_change_a_bit(noisy: PairProblem, solved: Alignment) -> None:
    again = align(noisy.pairs)
    np.testing.assert_array_equal(again.w_T_c, solved.w_T_c)
    np.testing.assert_array_equal(np.stack(again.depths), np.stack(solved.depths))


def test_units_and_order_of_the_pairs_do_not_matter(noisy: PairProblem, solved: Alignment) -> None:
    """Every pair in another unit: the scene is the same up to its scale."""
    logs = np.random.default_rng(5).uniform(-2, 2, len(noisy.pairs))
    factors = np.exp(logs - logs.mean()).astype(np.float32)  # the objective's unit is the mean unit of the pairs
    other = [
        replace(pair, points_first=f * pair.points_first, points_second=f * pair.points_second)
        for pair, f in zip(noisy.pairs, factors, strict=True)
    ][::-1]
    result = align(other)
    assert result.objective == pytest.approx(solved.objective, rel=1e-3)
    a, b = errors(result, noisy), errors(solved, noisy)
    assert a.ate == pytest.approx(b.ate, rel=0.1) and a.depth == pytest.approx(b.depth, rel=0.02)


def test_one_camera_has_one_focal(noisy: PairProblem, solved: Alignment) -> None:
    result = align(noisy.pairs, cameras=[7, 7, 3, 7, 3])
    assert len(set(result.focals[[0, 1, 3]])) == 1 and len(set(result.focals[[2, 4]])) == 1
    assert result.focals[0] != result.focals[2]
    own = align(noisy.pairs, cameras=np.arange(5))
    assert len(set(own.focals)) == 5
    assert errors(solved, noisy).focal < errors(own, noisy).focal
    assert own.objective < solved.objective < 1.01 * own.objective


def test_focals_that_agree_are_one_cameras_and_others_are_not(noisy: PairProblem, solved: Alignment) -> None:
    """Without cameras; images 3 and 4 are zoomed in by 1.25."""
    assert len(set(solved.focals)) == 1

    def zoomed(image: int, X: Array, C: Array) -> tuple[Array, Array]:
        if image < 3:
            return X, C
        rows, columns = (np.rint((np.arange(n) - (n - 1) / 2) / 1.25 + (n - 1) / 2).astype(int) for n in C.shape)
        return X[np.ix_(rows, columns)], C[np.ix_(rows, columns)]

    pairs = []
    for pair in noisy.pairs:
        first = zoomed(pair.first, pair.points_first, pair.confidence_first)
        second = zoomed(pair.second, pair.points_second, pair.confidence_second)
        pairs.append(PairPrediction(pair.first, pair.second, *first, *second))
    result = align(pairs)
    np.testing.assert_allclose(result.focals / noisy.focal, [1, 1, 1, 1.25, 1.25], rtol=0.04)


def test_given_focals_are_held(noisy: PairProblem) -> None:
    focals = np.full(5, np.nan)
    focals[[1, 3]] = noisy.focal, 1.01 * noisy.focal
    result = align(noisy.pairs, focals=focals)
    np.testing.assert_array_equal(result.focals[[1, 3]], focals[[1, 3]])
    assert np.abs(result.focals[[0, 2, 4]] / noisy.focal - 1).max() < 0.05


@pytest.mark.parametrize("known", [[2], [0, 3], [0, 1, 2, 3, 4]])
def test_given_poses_are_held_and_two_fix_the_scale(noisy: PairProblem, known: list[int]) -> None:
    poses = np.full((5, 4, 4), np.nan)
    poses[known] = noisy.w_T_c[known]
    result = align(noisy.pairs, poses=poses)
    np.testing.assert_allclose(result.w_T_c[known], noisy.w_T_c[known], atol=1e-9)
    if len(known) > 1:
        assert np.linalg.norm(result.w_T_c[:, :3, 3] - noisy.w_T_c[:, :3, 3], axis=1).max() < 0.15
        for depth, truth in zip(result.depths, noisy.depths, strict=True):
            # two places half a metre apart say the scale as well as their distance is known
            assert np.median(depth / truth) == pytest.approx(1.0, abs=0.1 if len(known) == 2 else 0.03)


def test_two_images_are_enough(noisy: PairProblem) -> None:
    pair = next(p for p in noisy.pairs if {p.first, p.second} == {0, 1})
    result = align([pair])
    assert result.w_T_c.shape == (2, 4, 4) and len(result.edges) == 1
    angle = Rotation.from_matrix(
        (invert(result.w_T_c[0]) @ result.w_T_c[1])[:3, :3].T @ (invert(noisy.w_T_c[0]) @ noisy.w_T_c[1])[:3, :3]
    ).magnitude()
    assert np.degrees(angle) < 4


def test_a_chain_of_pairs_in_one_direction() -> None:
    """The last image is first in no pair: its pose and depth come from where it is second."""
    problem = pair_problem(4, WIDTH, noise=0.3)
    position = np.arctan2(*(problem.w_T_c[:, :2, 3] - problem.w_T_c[:, :2, 3].mean(axis=0)).T)
    order = np.argsort(position)
    chain = list(pairwise(order.tolist()))
    found = errors(align([p for p in problem.pairs if (p.first, p.second) in chain]), problem)
    assert found.ate < 0.1 and found.depth < 0.05


def test_images_of_different_size(noisy: PairProblem) -> None:
    """Image 2 is cropped about its middle, which keeps its focal."""

    def cropped(image: int, X: Array, C: Array) -> tuple[Array, Array]:
        return (X[4:-4, 10:-10], C[4:-4, 10:-10]) if image == 2 else (X, C)

    pairs = []
    for pair in noisy.pairs:
        first = cropped(pair.first, pair.points_first, pair.confidence_first)
        second = cropped(pair.second, pair.points_second, pair.confidence_second)
        pairs.append(PairPrediction(pair.first, pair.second, *first, *second))
    result = align(pairs)
    assert [d.shape for d in result.depths] == [(48, 64), (48, 64), (40, 44), (48, 64), (48, 64)]
    depths = np.stack([d if d.shape == (48, 64) else np.pad(d, ((4, 4), (10, 10)), mode="edge") for d in result.depths])
    found = errors(replace_depths(result, list(depths)), noisy)
    assert found.ate < 0.1 and found.focal < 0.03


def replace_depths(result: Alignment, depths: list) -> Alignment:
    return Alignment(result.w_T_c, result.focals, depths, result.seconds)


def test_pixels_without_confidence_may_be_nan(noisy: PairProblem, solved: Alignment) -> None:
    """Half of every image says nothing, another half of each view."""
    rng = np.random.default_rng(2)
    pairs = []
    for pair in noisy.pairs:
        arrays = []
        for X, C in ((pair.points_first, pair.confidence_first), (pair.points_second, pair.confidence_second)):
            unknown = rng.random(C.shape) < 0.5
            arrays += [np.where(unknown[..., None], np.float32(np.nan), X), np.where(unknown, np.float32(1), C)]
        pairs.append(PairPrediction(pair.first, pair.second, *arrays))
    found = errors(align(pairs), noisy)
    assert found.ate < 1.5 * errors(solved, noisy).ate + 0.01 and found.depth < 0.05


def test_depth_is_zero_where_no_pair_says_anything(noisy: PairProblem) -> None:
    pairs = []
    for pair in noisy.pairs:
        first, second = pair.confidence_first.copy(), pair.confidence_second.copy()
        for image, C in ((pair.first, first), (pair.second, second)):
            if image == 1:
                C[:10, :20] = 1.0
        pairs.append(replace(pair, confidence_first=first, confidence_second=second))
    result = align(pairs)
    assert (result.depths[1][:10, :20] == 0).all() and (result.depths[1][10:] > 0).all()
    assert (result.depths[0] > 0).all()


def test_few_confident_pixels_in_a_pair_are_found(noisy: PairProblem) -> None:
    """40 pixels of a view, which a sample would miss."""
    C = np.ones_like(noisy.pairs[0].confidence_second)
    C.ravel()[np.random.default_rng(0).choice(C.size, 40, replace=False)] = 3.0
    pairs = [replace(noisy.pairs[0], confidence_second=C), *noisy.pairs[1:]]
    assert errors(align(pairs), noisy).ate < 0.1


def test_a_wrong_pair_is_switched_off_and_reported(noisy: PairProblem, solved: Alignment) -> None:
    wrong = 7
    pair = noisy.pairs[wrong]
    turned = Rotation.from_rotvec([0.3, -0.5, 0.2]).as_matrix().astype(np.float32)
    lost = replace(
        pair, points_second=pair.points_second @ turned + np.float32(0.7 * np.median(pair.points_first[..., 2]))
    )
    result = align([*noisy.pairs[:wrong], lost, *noisy.pairs[wrong + 1 :]])
    assert [edge.switched_off for edge in result.edges] == [index == wrong for index in range(len(noisy.pairs))]
    assert (result.edges[wrong].first, result.edges[wrong].second) == (pair.first, pair.second)
    assert result.edges[wrong].residual > 3 * np.median([edge.residual for edge in result.edges])
    assert errors(result, noisy).ate < 1.1 * errors(solved, noisy).ate + 0.002
    assert not any(edge.switched_off for edge in solved.edges)


def test_an_image_whose_pairs_contradict_each_other_keeps_one(noisy: PairProblem) -> None:
    """Image 4 hangs on two pairs that differ wildly: neither is known to be wrong, and it must stay in the map."""
    lasting = [pair for pair in noisy.pairs if 4 not in (pair.first, pair.second)]
    arms = [pair for pair in noisy.pairs if pair.second == 4 and pair.first in (0, 1)]
    turned = Rotation.from_rotvec([0.0, 0.9, 0.0]).as_matrix().astype(np.float32)
    arms[0] = replace(arms[0], points_second=arms[0].points_second @ turned)
    result = align([*lasting, *arms])
    assert sum(edge.switched_off for edge in result.edges[-2:]) <= 1
    assert not any(edge.switched_off for edge in result.edges[:-2])
    assert (result.depths[4] > 0).mean() > 0.5


def test_reports_are_the_mean_distances(noisy: PairProblem, solved: Alignment) -> None:
    """Against distances under the best similarity of each pair, worked out from the result."""
    from dust3r_ros.geometry.similarity import robust_similarity

    world = [
        transform(T, unproject(d, float(f))) for T, d, f in zip(solved.w_T_c, solved.depths, solved.focals, strict=True)
    ]
    for pair, edge in list(zip(noisy.pairs, solved.edges, strict=True))[::4]:
        x = np.concatenate([pair.points_first.reshape(-1, 3), pair.points_second.reshape(-1, 3)])
        y = np.concatenate([world[pair.first].reshape(-1, 3), world[pair.second].reshape(-1, 3)])
        w = np.log(np.concatenate([pair.confidence_first.ravel(), pair.confidence_second.ravel()]))
        mean = w @ np.linalg.norm(robust_similarity(x, y, w).apply(x) - y, axis=1) / w.sum()
        assert edge.residual == pytest.approx(mean, rel=0.05)


def test_collinear_points_are_refused_with_their_numbers(noisy: PairProblem) -> None:
    t = np.linspace(1, 2, noisy.pairs[4].confidence_second.size, dtype=np.float32).reshape(48, 64, 1)
    pair = replace(noisy.pairs[4], points_second=t * np.float32([0.2, 0.1, 1.0]))
    # what the second image says of itself lies on one line too
    pairs = [pair if p is noisy.pairs[4] else p for p in noisy.pairs]
    pairs = [replace(p, points_first=t * np.float32([0.2, 0.1, 1.0])) if p.first == pair.second else p for p in pairs]
    with pytest.raises(GeometryError, match=r"pair \(\d, \d\).*relative thickness"):
        align(pairs)
