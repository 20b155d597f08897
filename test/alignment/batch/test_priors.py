"""Focals, poses and depths that are known: held, or weighed by their deviation."""

from __future__ import annotations

import numpy as np
import pytest
from pairs import PairProblem, errors, pair_problem
from scipy.spatial.transform import Rotation

from dust3r_ros.alignment import Alignment, align
from dust3r_ros.errors import ConfigError, InputError
from dust3r_ros.geometry.rigid import angle_deg, invert

N = 5


@pytest.fixture(scope="module")
def noisy() -> PairProblem:
    return pair_problem(N, 64, seed=1)


@pytest.fixture(scope="module")
def solved(noisy: PairProblem) -> Alignment:
    return align(noisy.pairs)


def disturbed(problem: PairProblem, turn: float, shift: float, seed: int = 0) -> np.ndarray:
    """The true poses with errors of ``turn`` rad and ``shift`` metres an axis, in the cameras' frames."""
    rng = np.random.default_rng(seed)
    poses = problem.w_T_c.copy()
    poses[:, :3, 3] += np.einsum("nij,nj->ni", poses[:, :3, :3], shift * rng.standard_normal((N, 3)))
    poses[:, :3, :3] @= Rotation.from_rotvec(turn * rng.standard_normal((N, 3))).as_matrix()
    return poses


def covariance(turn: float, shift: float) -> np.ndarray:
    return np.diag(np.r_[np.full(3, turn**2), np.full(3, shift**2)])


def away(result: Alignment, poses: np.ndarray) -> tuple[float, float]:
    """Root mean square distance and largest angle (degrees) to poses, without any alignment."""
    distance = np.linalg.norm(result.w_T_c[:, :3, 3] - poses[:, :3, 3], axis=1)
    turn = max(angle_deg(a[:3, :3].T @ b[:3, :3]) for a, b in zip(result.w_T_c, poses, strict=True))
    return float(np.sqrt(np.mean(distance**2))), turn


def test_sure_poses_are_kept_and_doubtful_ones_only_place_the_world(noisy: PairProblem, solved: Alignment) -> None:
    poses = disturbed(noisy, 0.02, 0.1)
    sure = align(noisy.pairs, poses=poses, pose_covariance=covariance(1e-5, 1e-5))
    assert away(sure, poses)[0] < 2e-3 and away(sure, poses)[1] < 0.2
    doubtful = align(noisy.pairs, poses=poses, pose_covariance=covariance(1.0, 5.0))
    # the pairs decide on the shape, the poses only on where it is and how large
    assert errors(doubtful, noisy).ate == pytest.approx(errors(solved, noisy).ate, rel=0.05, abs=1e-3)
    assert doubtful.objective == pytest.approx(solved.objective, rel=1e-3)
    assert away(doubtful, noisy.w_T_c)[0] < 0.15


def test_poses_of_some_accuracy_and_pairs_are_better_together(noisy: PairProblem, solved: Alignment) -> None:
    """Mean over several draws of the poses' errors; both sources are about as good."""
    deviation = errors(solved, noisy).ate / np.sqrt(3)
    alone, both, pairs_only = [], [], errors(solved, noisy).ate
    for seed in range(4):
        poses = disturbed(noisy, 0.003, deviation, seed)
        result = align(noisy.pairs, poses=poses, pose_covariance=covariance(0.003, deviation))
        both.append(away(result, noisy.w_T_c)[0])
        alone.append(np.sqrt(np.mean(np.sum((poses - noisy.w_T_c)[:, :3, 3] ** 2, axis=1))))
    assert np.mean(both) < np.mean(alone)
    assert np.mean(both) < 1.3 * pairs_only  # without the alignment to the truth that the pairs alone get


def test_one_doubtful_pose_beside_held_ones(noisy: PairProblem) -> None:
    poses = np.full((N, 4, 4), np.nan)
    poses[[0, 1, 3]] = noisy.w_T_c[[0, 1, 3]]
    poses[3, :3, 3] += [0.5, 0.0, 0.0]
    given = np.zeros((N, 6, 6))
    given[3] = covariance(0.5, 2.0)
    result = align(noisy.pairs, poses=poses, pose_covariance=given)
    np.testing.assert_allclose(result.w_T_c[[0, 1]], noisy.w_T_c[[0, 1]], atol=1e-9)
    assert np.linalg.norm(result.w_T_c[3, :3, 3] - noisy.w_T_c[3, :3, 3]) < 0.25


def test_a_focal_is_weighed_by_its_deviation(noisy: PairProblem, solved: Alignment) -> None:
    wrong = 1.1 * noisy.focal
    given = np.full(N, wrong)
    found = [
        float(align(noisy.pairs, focals=given, focal_std=std).focals[0]) / noisy.focal
        for std in (0.0, 0.01, 1.0, 500.0)
    ]
    assert found[0] == 1.1 and found[1] == pytest.approx(1.1, abs=0.002)
    assert found[0] >= found[1] > found[2] > found[3]
    assert found[3] == pytest.approx(float(solved.focals[0]) / noisy.focal, abs=2e-3)


def test_one_cameras_focal_is_one_measurement(noisy: PairProblem) -> None:
    """Said of all its images or of one, the prior weighs the same."""
    every, one = np.full(N, 1.1 * noisy.focal), np.full(N, np.nan)
    one[2] = every[2]
    a, b = (align(noisy.pairs, cameras=[0] * N, focals=f, focal_std=1.0).focals[0] for f in (every, one))
    assert a == pytest.approx(b, rel=1e-6)


def test_held_depth_is_kept_and_gives_the_scale(noisy: PairProblem) -> None:
    holes = noisy.depths[2].copy()
    holes[:10] = np.nan
    result = align(noisy.pairs, depths=[None, None, holes, None, None])
    np.testing.assert_array_equal(result.depths[2][10:], noisy.depths[2][10:])
    assert (result.depths[2][:10] > 0).all()
    for image in range(N):
        assert np.median(result.depths[image] / noisy.depths[image]) == pytest.approx(1.0, abs=0.03)
    steps = [np.linalg.norm(T[0, :3, 3] - T[1:, :3, 3], axis=1) for T in (result.w_T_c, noisy.w_T_c)]
    np.testing.assert_allclose(steps[0], steps[1], rtol=0.06, atol=0.02)


def test_true_depth_of_all_images_makes_poses_better(noisy: PairProblem, solved: Alignment) -> None:
    known = align(noisy.pairs, depths=list(noisy.depths))
    assert errors(known, noisy).ate < 0.9 * errors(solved, noisy).ate
    np.testing.assert_array_equal(np.stack(known.depths), noisy.depths)


def test_depth_is_weighed_by_its_deviation(noisy: PairProblem) -> None:
    """Depth of image 0, 1.3 times too deep on its right side; all others as they are."""
    wrong = noisy.depths.copy()
    wrong[0, :, 32:] *= np.float32(1.3)
    ratio = []
    for std in (1e-4, 0.2, 50.0):
        result = align(noisy.pairs, depths=list(wrong), depth_std=[std, 0.05, 0.05, 0.05, 0.05])
        ratio.append(float(np.median(result.depths[0][:, 32:] / noisy.depths[0][:, 32:])))
    assert ratio[0] == pytest.approx(1.3, abs=0.01) and ratio[2] == pytest.approx(1.0, abs=0.04)
    assert ratio[0] > ratio[1] > ratio[2]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"focal_std": 1.0}, "'focal_std' .* without 'focals'"),
        ({"focals": np.full(N, 50.0), "focal_std": -1.0}, "'focal_std' has -1"),
        ({"focals": np.full(N, 50.0), "focal_std": np.ones(3)}, r"shape \(3,\); it must be one number or \(5,\)"),
        ({"pose_covariance": np.eye(6)}, "without 'poses'"),
        ({"poses": np.tile(np.eye(4), (N, 1, 1)), "pose_covariance": np.eye(5)}, r"\(5, 5\); it must be \(6, 6\) or"),
        (
            {"poses": np.tile(np.eye(4), (N, 1, 1)), "pose_covariance": -np.eye(6)},
            "image 0 has the least eigenvalue -1",
        ),
        ({"depth_std": 0.1}, "without 'depths'"),
        ({"depths": [None] * 3}, "3 maps; it must have 5"),
        ({"depths": [np.ones((2, 2)), *[None] * 4]}, r"depth of image 0 has shape \(2, 2\); it must be \(48, 64\)"),
        ({"depths": [-np.ones((48, 64)), *[None] * 4]}, "depth of image 0 ranges from -1 to -1"),
        ({"depths": [np.ones((48, 64)), *[None] * 4], "depth_std": [0.1]}, "1 entries"),
        ({"depths": [np.ones((48, 64)), *[None] * 4], "depth_std": np.nan}, "'depth_std' of image 0"),
    ],
)
def test_what_is_no_knowledge_is_refused(noisy: PairProblem, given: dict, message: str) -> None:
    with pytest.raises(InputError, match=message):
        align(noisy.pairs, **given)


def test_the_published_scheme_knows_no_deviations(noisy: PairProblem) -> None:
    with pytest.raises(ConfigError, match="'gradient' does not accept focal_std"):
        align(noisy.pairs, method="gradient", focals=np.full(N, 50.0), focal_std=1.0)
    with pytest.raises(ConfigError, match="does not accept depths"):
        align(noisy.pairs, method="gradient", depths=[np.ones((48, 64)), *[None] * 4])


def test_the_world_goes_where_one_doubtful_pose_is(noisy: PairProblem, solved: Alignment) -> None:
    poses = np.full((N, 4, 4), np.nan)
    poses[2] = noisy.w_T_c[2]
    result = align(noisy.pairs, poses=poses, pose_covariance=covariance(0.01, 0.01))
    np.testing.assert_allclose(result.w_T_c[2], noisy.w_T_c[2], atol=1e-3)
    relative = [invert(r.w_T_c[2]) @ r.w_T_c[0] for r in (result, solved)]
    assert angle_deg(relative[0][:3, :3].T @ relative[1][:3, :3]) < 0.05
