"""Accuracy and completeness: by hand, DTU's rules, and what must not change them."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.distance import cdist, pdist
from scipy.spatial.transform import Rotation

from dust3r_ros.errors import GeometryError, InputError
from dust3r_ros.evaluation.protocols.clouds import (
    ObservedVolume,
    cloud_errors,
    distances,
    dtu_errors,
    refine_alignment,
    thinned,
)
from dust3r_ros.geometry.rigid import angle_deg


def corner(seed: int = 0) -> np.ndarray:
    """Points on three faces of a box of 1 m."""
    a, b = np.random.default_rng(seed).uniform(0, 1, (2, 3, 1000))
    zero = np.zeros(1000)
    faces = [(a[0], b[0], zero), (a[1], zero, b[1]), (zero, a[2], b[2])]
    return np.concatenate([np.stack(face, axis=1) for face in faces])


def test_a_moved_cloud_comes_back() -> None:
    reference = corner()
    turn = Rotation.from_euler("xyz", [1.0, -1.5, 0.7], degrees=True).as_matrix()
    found = reference @ turn.T + [0.02, -0.015, 0.01]
    S = refine_alignment(found, reference, max_distance=0.1)
    assert S.scale == 1.0
    assert angle_deg(S.rotation @ turn) < 0.05
    assert cloud_errors(S.apply(found), reference).overall < 0.1 * cloud_errors(found, reference).overall


def test_the_scale_is_found_where_it_may_go() -> None:
    """A ball: three faces of a box look the same at every scale."""
    reference, other = (np.random.default_rng(seed).normal(size=(count, 3)) for seed, count in ((0, 20_000), (1, 2000)))
    reference, other = (points / np.linalg.norm(points, axis=1)[:, None] for points in (reference, other))
    S = refine_alignment(other / 1.03, reference, max_distance=0.1, with_scale=True)
    assert S.scale == pytest.approx(1.03, abs=0.002)
    assert refine_alignment(other / 1.03, reference, max_distance=0.1).scale == 1.0


def test_what_lies_right_stays_and_what_is_far_does_not_pull() -> None:
    reference = corner()
    S = refine_alignment(reference, reference, max_distance=0.1)
    assert np.allclose(S.matrix, np.eye(4), atol=1e-9)
    with_strays = np.concatenate([reference, np.full((500, 3), 3.0)])
    assert np.allclose(refine_alignment(with_strays, reference, max_distance=0.1).matrix, np.eye(4), atol=1e-9)


def test_clouds_that_do_not_meet_are_refused() -> None:
    with pytest.raises(GeometryError, match="0 of 3000"):
        refine_alignment(corner() + 10, corner(), max_distance=0.1)
    with pytest.raises(InputError, match="at least 3"):
        refine_alignment(corner()[:2], corner(), max_distance=0.1)
    with pytest.raises(InputError, match="max_distance"):
        refine_alignment(corner(), corner(), max_distance=0.0)


def some(count: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).uniform(-10, 10, (count, 3))


def test_a_cloud_against_itself_is_exactly_right() -> None:
    cloud = some(50, 0)
    errors = cloud_errors(cloud, cloud[::-1])
    assert (errors.accuracy, errors.completeness, errors.overall) == (0.0, 0.0, 0.0)


FOUND = np.array([[0.0, 0, 1], [4.0, 0, 0], [0.0, 0, 40]])
REFERENCE = np.array([[0.0, 0, 0], [4.0, 3, 0]])


def test_three_points_by_hand() -> None:
    """Found (0,0,1), (4,0,0), (0,0,40); reference (0,0,0), (4,3,0).

    To the reference: 1, 3 and 40; without the last (20 and more): mean 2. To the found: 1 and 3: mean 2, overall 2.
    Without a limit the accuracy is (1 + 3 + 40) / 3 = 44 / 3 and its median 3.
    """
    errors = cloud_errors(FOUND, REFERENCE, limit=20.0)
    assert (errors.accuracy, errors.completeness, errors.overall) == pytest.approx((2.0, 2.0, 2.0))
    free = cloud_errors(FOUND, REFERENCE)
    assert free.accuracy == pytest.approx(44 / 3) and free.accuracy_median == pytest.approx(3.0)
    assert free.overall == pytest.approx((44 / 3 + 2) / 2)


def test_dtu_judges_only_what_it_observed_and_what_is_above_the_plane() -> None:
    """Observed: voxels of 1 mm around (0, 0, 0) to (1, 1, 1): of the found ones only (0, 0, 1), 1 mm off.

    Above the plane y = 1, that is y - 1 > 0: of the reference only (4, 3, 0), 3 mm off.
    """
    volume = ObservedVolume(np.ones((2, 2, 2), bool), np.zeros(3), 1.0)
    errors = dtu_errors(FOUND, REFERENCE, observed=volume, plane=[0, 1, 0, -1])
    assert (errors.accuracy, errors.completeness, errors.overall) == pytest.approx((1.0, 3.0, 2.0))
    plain = dtu_errors(FOUND, REFERENCE)
    assert (plain.accuracy, plain.completeness) == pytest.approx((2.0, 2.0))  # 40 mm is an outlier


def test_a_volume_knows_its_voxels() -> None:
    seen = np.zeros((3, 2, 2), bool)
    seen[2, 0, 1] = True
    volume = ObservedVolume(seen, np.array([10.0, 0.0, 0.0]), 2.0)  # that voxel is centred at (14, 0, 2)
    at = np.array([[14.0, 0, 2], [14.9, 0.9, 2.9], [15.1, 0, 2], [14, 0, 0.9], [-100, 0, 0], [1000, 0, 0]])
    assert volume.contains(at).tolist() == [True, True, False, False, False, False]


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10_000), scale=st.floats(0.1, 10.0))
def test_motions_change_nothing_and_scale_is_a_unit(seed: int, scale: float) -> None:
    found, reference = some(40, seed), some(30, seed + 1)
    R = Rotation.random(random_state=np.random.default_rng(seed)).as_matrix()
    plain = cloud_errors(found, reference)
    moved = cloud_errors(scale * found @ R.T + 5.0, scale * reference @ R.T + 5.0)
    assert moved.accuracy == pytest.approx(scale * plain.accuracy)
    assert moved.completeness == pytest.approx(scale * plain.completeness)


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10_000))
def test_accuracy_is_the_completeness_of_the_other_and_order_does_not_matter(seed: int) -> None:
    found, reference = some(40, seed), some(30, seed + 1)
    there, back = cloud_errors(found, reference), cloud_errors(reference, found)
    assert (there.accuracy, there.completeness) == (back.completeness, back.accuracy)
    assert there.overall == back.overall
    shuffled = cloud_errors(np.random.default_rng(seed).permutation(found), reference)
    assert shuffled.accuracy == pytest.approx(there.accuracy) and shuffled.completeness == there.completeness


def test_more_points_are_more_complete_and_noise_is_less_accurate() -> None:
    reference = some(400, 3)
    parts = [cloud_errors(reference[:count], reference) for count in (50, 100, 200, 400)]
    assert np.all(np.diff([part.completeness for part in parts]) < 0) and parts[-1].completeness == 0
    assert all(part.accuracy == 0 for part in parts)
    noise = np.random.default_rng(4).normal(size=reference.shape)
    off = [cloud_errors(reference + sigma * noise, reference).accuracy for sigma in (0, 0.05, 0.1, 0.2)]
    assert np.all(np.diff(off) > 0)


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 10_000), spacing=st.floats(0.5, 8.0))
def test_thinning_leaves_no_two_close_and_no_hole(seed: int, spacing: float) -> None:
    points = some(300, seed)
    kept = thinned(points, spacing, seed)
    assert len(kept) < 2 or pdist(kept).min() >= spacing
    assert distances(points, kept).max() < spacing
    assert np.array_equal(thinned(points, spacing, seed), kept)


def test_thinning_in_batches_is_thinning_one_by_one(monkeypatch: pytest.MonkeyPatch) -> None:
    points = some(400, 1)
    waiting = points[np.random.default_rng(7).permutation(len(points))]
    kept: list[np.ndarray] = []
    for point in waiting:
        if all(np.linalg.norm(point - other) >= 3.0 for other in kept):
            kept.append(point)
    whole = thinned(points, 3.0, seed=7)
    monkeypatch.setattr("dust3r_ros.evaluation.protocols.clouds._FIRST_BATCH", 16)
    assert np.array_equal(thinned(points, 3.0, seed=7), kept)
    assert np.array_equal(whole, kept)


def test_density_alone_does_not_make_dtu_better() -> None:
    """A thousand points at one right place count as one, beside one that is 4 mm off."""
    right = np.tile([[0.0, 0, 0]], (1000, 1)) + np.random.default_rng(0).uniform(0, 0.01, (1000, 3))
    cloud = np.concatenate([right, [[4.0, 0, 0]]])
    assert dtu_errors(cloud, np.zeros((1, 3))).accuracy == pytest.approx(2.0, abs=0.02)
    assert dtu_errors(cloud, np.zeros((1, 3)), spacing=0).accuracy < 0.05


def test_what_cannot_be_judged_is_refused_in_words() -> None:
    cloud = some(5, 0)
    with pytest.raises(InputError, match="at least 1"):
        cloud_errors(np.zeros((0, 3)), cloud)
    with pytest.raises(InputError, match="reference points are 0"):
        dtu_errors(cloud, np.zeros((0, 3)))
    with pytest.raises(InputError, match="1 of 5 are not finite"):
        cloud_errors(cloud, np.where(np.arange(5)[:, None] == 2, np.nan, cloud))
    with pytest.raises(GeometryError, match="nothing is left"):
        cloud_errors(cloud, cloud + 1000, limit=20)
    with pytest.raises(GeometryError, match="observed volume"):
        dtu_errors(cloud, cloud, observed=ObservedVolume(np.zeros((2, 2, 2), bool), np.zeros(3), 1.0))
    with pytest.raises(GeometryError, match="above the plane"):
        dtu_errors(cloud, cloud, plane=[0, 0, 1, -1000])
    with pytest.raises(InputError, match="plane"):
        dtu_errors(cloud, cloud, plane=[0, 0, 0, 1])
    with pytest.raises(InputError, match="limit"):
        cloud_errors(cloud, cloud, limit=0)
    with pytest.raises(InputError, match="spacing"):
        thinned(cloud, 0.0)


def shell(count: int, radius: float, seed: int) -> np.ndarray:
    x = np.random.default_rng(seed).normal(size=(count, 3))
    return radius * x / np.linalg.norm(x, axis=1, keepdims=True)


def test_the_distance_of_every_point_is_exact_however_far_it_is() -> None:
    """Inside a sphere, all of whose points are nearly as far; near it; and outside."""
    reference = shell(4000, 1.0, 0)
    found = np.concatenate([shell(2000, 0.2, 1), shell(500, 1.001, 2), shell(500, 9.0, 3)])
    exact = cdist(found, reference).min(axis=1)
    np.testing.assert_allclose(distances(found, reference), exact, rtol=1e-9)
    limited = distances(found, reference, limit=0.5)
    np.testing.assert_allclose(limited, np.where(exact < 0.5, exact, np.inf), rtol=1e-9)


def test_distances_from_the_limit_on_are_infinite() -> None:
    reference = np.array([[0.0, 0, 0], [1.0, 0, 0]])
    found = distances([[0, 0, 0.5], [0, 0, 2], [0, 0, 90]], reference, limit=2.0)
    assert found.tolist() == [0.5, np.inf, np.inf]
