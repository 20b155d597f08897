from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from dust3r_ros.errors import GeometryError
from dust3r_ros.geometry.rigid import angle_deg
from dust3r_ros.geometry.similarity import (
    Similarity,
    rms_apart,
    robust_similarity,
    similarity_of_poses,
    weighted_similarity,
)

seeds = st.integers(0, 2**32 - 1)
estimators = pytest.mark.parametrize("estimate", [weighted_similarity, robust_similarity])


def some_similarity(rng: np.random.Generator) -> Similarity:
    return Similarity(float(np.exp(rng.normal())), Rotation.random(None, rng).as_matrix(), rng.normal(size=3))


def assert_same(found: Similarity, expected: Similarity, atol: float = 1e-9) -> None:
    np.testing.assert_allclose(found.matrix, expected.matrix, atol=atol)


def test_reference(reference: dict[str, np.ndarray]) -> None:
    found = weighted_similarity(reference["sim_X"], reference["sim_Y"], reference["sim_w"])
    assert found.scale == pytest.approx(float(reference["sim_s"]), abs=1e-6)
    np.testing.assert_allclose(found.rotation, reference["sim_R"], atol=1e-6)
    np.testing.assert_allclose(found.translation, reference["sim_t"], atol=1e-6)


def test_robust_is_nearer_the_truth_of_the_reference(reference: dict[str, np.ndarray]) -> None:
    found = robust_similarity(reference["sim_X"], reference["sim_Y"], reference["sim_w"])
    published = np.linalg.norm(reference["sim_t"] - reference["sim_true_t"])
    assert np.linalg.norm(found.translation - reference["sim_true_t"]) < published
    assert abs(found.scale - reference["sim_true_s"]) < abs(reference["sim_s"] - reference["sim_true_s"])
    assert angle_deg(found.rotation.T @ reference["sim_true_R"]) < angle_deg(
        reference["sim_R"].T @ reference["sim_true_R"]
    )


@given(seeds)
def test_group(seed: int) -> None:
    rng = np.random.default_rng(seed)
    a_S_b, b_S_c, points = some_similarity(rng), some_similarity(rng), rng.normal(size=(2, 4, 3))
    np.testing.assert_allclose(a_S_b.compose(b_S_c).apply(points), a_S_b.apply(b_S_c.apply(points)), atol=1e-9)
    np.testing.assert_allclose(a_S_b.compose(b_S_c).matrix, a_S_b.matrix @ b_S_c.matrix, atol=1e-9)
    assert_same(a_S_b.compose(a_S_b.inverse()), Similarity.identity())


@estimators
@given(seed=seeds, count=st.integers(3, 50), flat=st.booleans())
def test_known_truth_is_recovered(estimate, seed: int, count: int, flat: bool) -> None:
    rng = np.random.default_rng(seed)
    truth, source = some_similarity(rng), rng.normal(size=(count, 3))
    if flat:
        source[:, 2] = 0.0
    assert_same(estimate(source, truth.apply(source), rng.uniform(0.1, 5, count)), truth, atol=1e-6)


@estimators
@given(seed=seeds)
def test_equivariance(estimate, seed: int) -> None:
    """Moving the target moves the result along: A S minimises over A y if S does over y."""
    rng = np.random.default_rng(seed)
    source, target, weights = rng.normal(size=(40, 3)), rng.normal(size=(40, 3)), rng.uniform(0, 1, 40)
    target += 2 * source
    move = some_similarity(rng)
    expected = move.compose(estimate(source, target, weights))
    assert_same(estimate(source, move.apply(target), weights), expected, atol=1e-4 * move.scale)


def test_a_mirror_image_gets_a_rotation() -> None:
    source = np.random.default_rng(0).normal(size=(30, 3))
    found = weighted_similarity(source, source * [1, 1, -1])
    assert np.linalg.det(found.rotation) == pytest.approx(1.0)


def test_without_scale() -> None:
    source = np.random.default_rng(0).normal(size=(30, 3))
    found = weighted_similarity(source, 3 * source + [1, 2, 3], with_scale=False)
    assert found.scale == 1.0
    np.testing.assert_allclose(found.rotation, np.eye(3), atol=1e-12)


def test_points_are_apart_what_no_similarity_explains() -> None:
    true = np.array([[1.0, 1, 0], [1, -1, 0], [-1, 1, 0], [-1, -1, 0]])
    found = 3.0 * (true + np.outer([0.1, -0.1, -0.1, 0.1], [0, 0, 1])) + 7.0
    scale = 2.0 / 2.01  # of the best similarity: the saddle makes ``found`` a little larger
    assert rms_apart(found, true) == pytest.approx(np.sqrt(2 * (1 - scale) ** 2 + (0.1 * scale) ** 2))
    assert rms_apart((5.0 * true).tolist(), true.tolist()) < 1e-12


def test_no_neighbour_is_better() -> None:
    """The closed form is a minimum: every small step away from it costs more."""
    rng = np.random.default_rng(4)
    source, weights = rng.normal(size=(60, 3)), rng.uniform(0, 2, 60)
    target = 1.5 * source + rng.normal(scale=0.3, size=source.shape)

    def cost(similarity: Similarity) -> float:
        return float(weights @ np.sum((target - similarity.apply(source)) ** 2, axis=1))

    best = weighted_similarity(source, target, weights)
    for step in 1e-3 * np.vstack([np.eye(7), -np.eye(7)]):
        moved = Similarity(
            best.scale * np.exp(step[0]),
            Rotation.from_rotvec(step[1:4]).as_matrix() @ best.rotation,
            best.translation + step[4:],
        )
        assert cost(moved) > cost(best)


def test_noise_scaling() -> None:
    """A hundred times the points: a tenth of the error."""
    rng = np.random.default_rng(5)
    truth = some_similarity(rng)

    def error(count: int) -> float:
        errors = []
        for _ in range(40):
            source = rng.normal(size=(count, 3))
            target = truth.apply(source) + rng.normal(scale=0.05, size=source.shape)
            errors.append(np.linalg.norm(weighted_similarity(source, target).translation - truth.translation))
        return float(np.sqrt(np.mean(np.square(errors))))

    assert error(30) / error(3000) == pytest.approx(10, rel=0.3)


def test_robust_survives_thirty_percent_of_outliers() -> None:
    rng = np.random.default_rng(6)
    truth, source = some_similarity(rng), rng.normal(size=(500, 3))
    target = truth.apply(source) + rng.normal(scale=0.01, size=source.shape)
    target[:150] = rng.uniform(-20, 20, (150, 3))
    robust, plain = robust_similarity(source, target), weighted_similarity(source, target)
    assert np.linalg.norm(robust.matrix - truth.matrix) < 0.03 * truth.scale
    assert np.linalg.norm(plain.matrix - truth.matrix) > 0.3 * truth.scale


def test_points_of_no_weight_do_not_count() -> None:
    rng = np.random.default_rng(7)
    truth, source = some_similarity(rng), rng.normal(size=(20, 3))
    target, weights = truth.apply(source), np.ones(20)
    target[:5], weights[:5] = np.nan, 0.0
    assert_same(weighted_similarity(source, target, weights), truth)


POINTS = np.random.default_rng(8).normal(size=(10, 3))


@estimators
@pytest.mark.parametrize(
    ("source", "weights", "named"),
    [
        (POINTS[:2], None, "at least 3 pairs of positive weight, not 2 of 2"),
        (POINTS, np.zeros(10), "not 0 of 10"),
        (POINTS, np.r_[np.nan, np.ones(9)], "1 of 10 weights"),
        (POINTS, -np.ones(10), "10 of 10 weights"),
        (np.where(np.arange(10)[:, None] == 3, np.nan, POINTS), None, "1 of 10 point pairs"),
        (np.arange(10)[:, None] * [[1.0, 2.0, 3.0]], None, "one line"),
        (np.float32(100) + np.arange(10, dtype=np.float32)[:, None] * np.float32([[0.1, 0.2, 0.3]]), None, "one line"),
        (np.ones((10, 3)), None, "one line"),
        (POINTS[:, :2], None, r"\(10, 2\)"),
    ],
)
def test_degenerate_input_is_named(estimate, source, weights, named: str) -> None:
    with pytest.raises(GeometryError, match=named):
        estimate(source, source, weights)


@pytest.mark.parametrize("count", [1, 2, 5])
def test_poses_are_taken_to_poses_even_from_one_place_or_line(count: int) -> None:
    wanted = some_similarity(np.random.default_rng(0))
    source = np.tile(np.eye(4), (count, 1, 1))
    source[:, 0, 3] = np.arange(count)
    target = np.stack([wanted.pose(pose) for pose in source])
    found = similarity_of_poses(source, target)
    np.testing.assert_allclose(found.rotation, wanted.rotation, atol=1e-12)
    assert found.scale == pytest.approx(wanted.scale if count > 1 else 1.0)
    np.testing.assert_allclose([found.pose(pose) for pose in source], target, atol=1e-9)
    assert similarity_of_poses(source, target, 3.0).scale == 3.0
