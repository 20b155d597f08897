from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from pairs import PairProblem, errors, fixture_problem, pair_problem

from dust3r_ros.alignment import align
from dust3r_ros.alignment.objective import published_objective
from dust3r_ros.geometry.pinhole import unproject
from dust3r_ros.geometry.rigid import angle_deg, invert, transform
from dust3r_ros.scenes.sequence import look_at
from dust3r_ros.types import PairPrediction

torch = pytest.importorskip("torch")
gradient = pytest.importorskip("dust3r_ros.alignment.batch.gradient")
ops = pytest.importorskip("dust3r_ros.alignment.batch.gradient")
align_gradient = gradient.align_gradient


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    """Tensors as small as these are slower on more threads, by much on a busy machine."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def problem() -> PairProblem:
    return pair_problem(4, 64)


@pytest.fixture(scope="module")
def exact() -> PairProblem:
    return pair_problem(4, 64, noise=0.0)


def test_lengths_and_rows_have_the_gradients_of_torch() -> None:
    generator = torch.Generator().manual_seed(1)
    values = torch.randn((4, 3, 5), generator=generator, dtype=torch.float64, requires_grad=True)
    index = torch.tensor([2, 0, 2, 3])
    assert torch.autograd.gradcheck(lambda v: ops.Length.apply(ops.Rows.apply(v, index)), (values,))


def test_a_length_of_zero_has_the_gradient_zero() -> None:
    values = torch.zeros((1, 3, 2), requires_grad=True)
    ops.Length.apply(values).sum().backward()
    assert torch.equal(values.grad, torch.zeros_like(values))


def test_quaternions_of_any_length_are_rotations() -> None:
    from scipy.spatial.transform import Rotation

    quaternions = Rotation.random(6, random_state=3).as_quat()
    found = ops.matrices(torch.tensor(3.7 * quaternions)).numpy()
    np.testing.assert_allclose(found, Rotation.from_quat(quaternions).as_matrix(), atol=1e-12)


def test_the_loss_is_the_published_objective_and_falls(problem: PairProblem) -> None:
    losses: list[float] = []
    result = align_gradient(problem.pairs, iterations=60, losses=losses)
    assert len(losses) == 61
    assert losses[-1] < 0.8 * losses[0]
    # The objective fits each pair anew, so it is at most the loss; after 60 steps they all but agree.
    assert losses[-1] * 0.97 < result.objective <= losses[-1] * (1 + 1e-4)


def test_it_improves_poses_and_depths_over_the_start() -> None:
    problem = pair_problem(6, 64)
    before, after = (errors(align_gradient(problem.pairs, iterations=n), problem) for n in (0, 150))
    assert after.ate < 0.9 * before.ate
    assert after.depth < 0.5 * before.depth
    assert after.rotation_deg < 0.5 * before.rotation_deg
    assert after.focal < 0.02


def test_the_truth_stays_the_truth(exact: PairProblem) -> None:
    result = align_gradient(exact.pairs, iterations=100)
    found = errors(result, exact)
    assert found.ate < 0.003 and found.depth < 0.005 and found.focal < 0.003 and found.rotation_deg < 0.2


def test_the_same_pairs_give_the_same_result(problem: PairProblem) -> None:
    a, b = (align_gradient(problem.pairs, iterations=5) for _ in range(2))
    np.testing.assert_allclose(a.w_T_c, b.w_T_c, atol=1e-5)


def test_two_images_need_no_steps() -> None:
    problem = pair_problem(2, 64, noise=0.0)
    losses: list[float] = []
    result = align_gradient(problem.pairs, losses=losses)
    assert len(losses) == 1
    a, b = (invert(T[0]) @ T[1] for T in (result.w_T_c, problem.w_T_c))
    scale = np.linalg.norm(b[:3, 3]) / np.linalg.norm(a[:3, 3])
    assert angle_deg(a[:3, :3] @ b[:3, :3].T) < 0.05
    np.testing.assert_allclose(scale * a[:3, 3], b[:3, 3], atol=2e-3)
    np.testing.assert_allclose(result.focals, problem.focal, rtol=1e-3)
    np.testing.assert_allclose(scale * result.depths[1], problem.depths[1], rtol=5e-3)


def test_one_pair_of_two_images_is_enough() -> None:
    problem = pair_problem(2, 64, noise=0.0)
    result = align_gradient(problem.pairs[:1])
    np.testing.assert_allclose(result.focals, problem.focal, rtol=1e-3)
    assert result.objective < 1e-3


def test_known_focals_are_held(problem: PairProblem) -> None:
    focals = np.array([np.nan, 50.0, np.nan, problem.focal])
    result = align_gradient(problem.pairs, focals=focals, iterations=10)
    np.testing.assert_allclose(result.focals[[1, 3]], focals[[1, 3]], rtol=1e-6)
    assert not np.isclose(result.focals[[0, 2]], 50.0).any()


def test_images_of_one_camera_share_the_focal(problem: PairProblem) -> None:
    result = align_gradient(problem.pairs, cameras=np.array([7, 7, 3, 7]), iterations=10)
    assert result.focals[0] == result.focals[1] == result.focals[3] != result.focals[2]


@pytest.mark.parametrize("known", [[2], [0, 3], [0, 1, 2, 3]])
def test_known_poses_are_held_and_give_the_scale(known: list[int]) -> None:
    problem = pair_problem(4, 64, noise=0.2)  # the cameras are near each other, so noise makes their distance uncertain
    poses = np.full((4, 4, 4), np.nan)
    poses[known] = problem.w_T_c[known]
    result = align_gradient(problem.pairs, poses=poses, iterations=40)
    np.testing.assert_allclose(result.w_T_c[known], problem.w_T_c[known], atol=1e-5)
    if len(known) > 1:
        ratio = [np.median(a / b) for a, b in zip(result.depths, problem.depths, strict=True)]
        np.testing.assert_allclose(ratio, 1.0, atol=0.12)


def test_images_of_different_sizes_align() -> None:
    """Two wide images and a tall one of the same plane with waves."""
    w_T_c = np.stack([look_at(np.array([x, -3.0, 0.2 * x]), np.zeros(3)) for x in (-0.7, 0.1, 0.8)])
    sizes, focal = [(30, 40), (30, 40), (40, 24)], 36.0
    depths = []
    for index, (height, width) in enumerate(sizes):
        v, u = np.mgrid[:height, :width]
        depths.append((3.0 + 0.3 * np.sin(u / 5 + index) * np.cos(v / 7)).astype(np.float32))
    pairs = []
    for i in range(3):
        for j in range(3):
            if i != j:
                X = transform(invert(w_T_c[i]) @ w_T_c[j], unproject(depths[j], focal)).astype(np.float32)
                own, sure = unproject(depths[i], focal).astype(np.float32), [np.full(s, 5.0, np.float32) for s in sizes]
                pairs.append(PairPrediction(i, j, own, sure[i], X, sure[j]))
    result = align_gradient(pairs, iterations=30)
    assert [depth.shape for depth in result.depths] == sizes
    np.testing.assert_allclose(result.focals, focal, rtol=0.01)
    assert published_objective(pairs, w_T_c, np.full(3, focal), depths) < 1e-5
    assert result.objective < 0.01


def test_the_report_names_the_pair_that_contradicts_the_others(problem: PairProblem) -> None:
    wrong = problem.pairs[5]
    turned = transform(look_at(np.zeros(3), np.array([0.3, 1.0, 0.4])), wrong.points_second).astype(np.float32)
    pairs = [*problem.pairs[:5], replace(wrong, points_second=turned), *problem.pairs[6:]]
    edges = align_gradient(pairs, iterations=60).edges
    assert [(edge.first, edge.second) for edge in edges] == [(pair.first, pair.second) for pair in pairs]
    assert int(np.argmax([edge.residual for edge in edges])) == 5


def test_it_is_a_method_of_align(problem: PairProblem) -> None:
    two = [pair for pair in problem.pairs if max(pair.first, pair.second) == 1]
    by_method = align(two, method="gradient", focals=[problem.focal, np.nan])
    assert by_method.focals[0] == pytest.approx(problem.focal)
    np.testing.assert_array_equal(by_method.w_T_c, align_gradient(two, focals=np.array([problem.focal, np.nan])).w_T_c)


@pytest.mark.long
def test_it_ends_where_the_published_program_ended(shared: Path) -> None:
    problem = fixture_problem(shared / "fixtures" / "ga_dev.npz")
    stored = json.loads((shared / "fixtures" / "ga_dev_reference.json").read_text(encoding="utf-8"))
    losses: list[float] = []
    result = align_gradient(problem.pairs, losses=losses)
    assert losses[0] == pytest.approx(stored["loss_init"], rel=0.2)
    assert losses[-1] == pytest.approx(stored["loss_final"], rel=0.02)
    assert result.objective == pytest.approx(stored["loss_final"], rel=0.02)
    found = errors(result, problem)
    assert found.ate < 1.1 * stored["final"]["ate_m"]
    assert 100 * found.focal < 1.2 * stored["final"]["focal_err_pct_mean"]
    assert found.depth < 1.1 * stored["final"]["depth_absrel_mean"]
