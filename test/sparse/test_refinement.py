"""A sparse map refined: what moves, what is pruned."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from synthetic import arc, sparse_of

from dust3r_ros.geometry.pinhole import project
from dust3r_ros.geometry.rigid import invert, transform
from dust3r_ros.sparse.landmarks import FOCAL_PRIOR
from dust3r_ros.sparse.refinement import problem_of, refine, scatter_of, weighed
from dust3r_ros.sparse.sparse_map import SparseMap, Spread
from dust3r_ros.tracking import Tracks


def test_refining_brings_disturbed_poses_back() -> None:
    scene = arc()
    sparse = sparse_of(scene, 0.2)
    sparse.extend()
    before = sparse.misfit()
    for view in (2, 3, 4, 5):
        sparse.views[view].w_T_c[:3, 3] += [0.02, -0.03, 0.01]
    assert sparse.misfit() > 3 * before
    assert refine(sparse, [2, 3, 4, 5], iterations=40, max_error_px=50.0) is not None
    assert sparse.misfit() < 1.2 * before
    for view in range(6):
        np.testing.assert_allclose(sparse.views[view].w_T_c, scene.w_T_c[view], atol=0.02)


def test_refining_the_focal_and_its_spread() -> None:
    scene = arc(views=8)
    sparse = sparse_of(scene, 0.3)
    sparse.intrinsics[0].focal = 330.0
    sparse.extend()
    refine(sparse, free_focal=True, rounds=3, iterations=60, max_error_px=30.0)
    assert sparse.intrinsics[0].focal == pytest.approx(300.0, rel=0.02)
    assert 0 < sparse.intrinsics[0].std < 0.02
    sparse.intrinsics[0].fixed, sparse.intrinsics[0].focal = True, 310.0
    refine(sparse, free_focal=True)
    assert sparse.intrinsics[0].focal == 310.0


def test_matches_that_are_slightly_wrong_bend_a_sharp_map_less() -> None:
    """A tenth of what is observed is off by a little more than a pixel, each view's to one side; most by a tenth."""

    def off_by(sharp: bool) -> float:
        scene, rng = arc(views=8), np.random.default_rng(3)
        sparse = sparse_of(scene, 0.1)
        for view in sparse.views:
            wrong = rng.random(len(view.seen.ids)) < 0.1
            aside = rng.standard_normal(2)
            view.seen = Tracks(view.seen.ids, view.seen.pixels + wrong[:, None] * 1.3 * aside / np.linalg.norm(aside))
        sparse.extend()
        refine(sparse, range(2, 8), rounds=2, iterations=40, sharp=sharp)
        found = np.stack([view.w_T_c[:3, 3] for view in sparse.views])
        return float(np.sqrt(np.mean(np.sum((found - scene.w_T_c[:, :3, 3]) ** 2, axis=1))))

    assert off_by(sharp=True) < 0.7 * off_by(sharp=False)


def test_a_sharp_map_without_any_error_stays() -> None:
    scene = arc()
    sparse = sparse_of(scene)
    sparse.extend()
    refine(sparse, sharp=True)
    for view in range(6):
        np.testing.assert_allclose(sparse.views[view].w_T_c, scene.w_T_c[view], atol=1e-6)


def test_the_window_moves_and_nothing_else() -> None:
    sparse = sparse_of(arc(), 0.5)
    sparse.extend()
    before = [view.w_T_c for view in sparse.views]
    refine(sparse, [4, 5])
    moved = [view.w_T_c is not old for view, old in zip(sparse.views, before, strict=True)]
    assert moved == [False, False, False, False, True, True]


def test_a_view_of_hardly_a_landmark_is_not_moved() -> None:
    """Five that do not fit it could take it anywhere, with them."""
    sparse = sparse_of(arc(), 0.3)
    sparse.extend()
    few = sparse.views[3]
    few.seen = Tracks(few.seen.ids[:5], few.seen.pixels[:5] + np.array([25.0, -15.0]))
    before, sparse.holds = few.pose.copy(), 12
    refine(sparse, rounds=2)
    np.testing.assert_array_equal(few.pose, before)
    assert sparse.disagreement(4) < 1.0


def test_nothing_to_refine() -> None:
    assert refine(SparseMap(1.0)) is None
    assert SparseMap(1.0).misfit() == float("inf")
    alone = sparse_of(arc(views=1))
    assert refine(alone) is None and alone.extend() == 0
    unposed = sparse_of(arc(), posed=0)
    assert refine(unposed) is None and unposed.misfit() == float("inf")


def test_pruned_observations_come_back_when_starting_over() -> None:
    scene = arc()
    sparse = sparse_of(scene, 0.3)
    sparse.views[2].seen.pixels[:10] += 60.0
    sparse.extend()
    refine(sparse, rounds=2)
    assert set(range(10)) <= set(sparse.views[2].pruned.ids.tolist())
    everything = sparse.misfit()
    assert everything > 5 * np.mean(0.3**2), "what was pruned still counts"
    sparse.start_over()
    for view in sparse.views:
        np.testing.assert_array_equal(np.sort(view.seen.ids), np.arange(len(scene.points)))
        assert len(view.pruned.ids) == 0 and view.w_T_c is None
    assert not sparse.positioned.any()


def test_landmarks_that_keep_one_observation_lose_their_place() -> None:
    scene = arc(views=2)
    sparse = sparse_of(scene)
    sparse.extend()
    sparse.points[3] += 1.0  # stands badly, and the adjustment gets no step to put it right
    refine(sparse, [1], rounds=1, iterations=0)
    assert not sparse.positioned[3]
    assert sparse.positioned.sum() == len(scene.points) - 1


def test_a_map_that_explains_less_is_not_the_better_one() -> None:
    """Throwing observations out does not lower the misfit."""
    whole, pruned = sparse_of(arc(), 0.3), sparse_of(arc(), 0.3)
    for sparse in (whole, pruned):
        sparse.views[1].seen.pixels[:20] += 50.0
        sparse.extend()
    refine(pruned, rounds=3)
    assert pruned.misfit() >= 0.9 * whole.misfit()
    assert pruned.misfit() > 0.5


def test_a_point_beside_a_camera_is_no_landmark() -> None:
    """A wrong match puts it there, where it would hold the camera."""
    scene = arc()
    sparse = sparse_of(scene)
    sparse.extend()
    beside = transform(scene.w_T_c[2], np.array([[0.0, 0.0, 1e-3]]))
    ids = sparse.landmarks.new(1)
    for view in (2, 3):
        seen = project(transform(invert(scene.w_T_c[view]), beside), float(scene.focal[0]), (0.0, 0.0))
        sparse.observe(view, Tracks(ids, seen))
    sparse.points[ids] = beside
    refine(sparse)
    assert np.isnan(sparse.points[ids]).all() and np.isfinite(sparse.points[: len(scene.points)]).all()
    assert ids[0] in sparse.views[2].pruned.ids and ids[0] in sparse.views[3].seen.ids


def test_rays_that_become_parallel_put_no_point() -> None:
    """A landmark that the adjustment sends far away loses its position; the others keep theirs."""
    scene = arc(views=4, degrees=20.0)
    sparse = sparse_of(scene)
    sparse.extend()
    for view in range(4):  # from now on they see landmark 0 at infinity
        pose = scene.w_T_c[view]
        toward = pose[:3, :3].T @ (scene.points[0] - scene.w_T_c[0][:3, 3])
        sparse.views[view].seen.pixels[0] = 300.0 * toward[:2] / toward[2]
    sparse.points[0] = scene.w_T_c[0][:3, 3] + 1e5 * (scene.points[0] - scene.w_T_c[0][:3, 3])
    refine(sparse, rounds=1)
    assert not sparse.positioned[0]
    assert sparse.positioned[1:].all()


def test_exact_observations_share_more_of_their_errors() -> None:
    """They are weighed by how exact they are, but all of them together say less than as many that are not."""
    scene = arc(views=8)
    sparse = sparse_of(scene, 0.3)
    sparse.extend()
    alike = problem_of(sparse)
    assert alike is not None and alike[0].spread is None
    plain = weighed(alike[0], scatter_of(sparse, alike))[0]
    nothing = np.zeros(0, int)
    sparse.spread = Spread(nothing, nothing, np.zeros(0), 1.0)
    exact = problem_of(sparse)
    assert exact is not None and exact[0].spread is not None
    np.testing.assert_array_equal(exact[0].spread, 1.0)
    assert scatter_of(sparse, exact) == scatter_of(sparse, alike)
    found = weighed(exact[0], scatter_of(sparse, exact))[0]
    assert found.sigma == pytest.approx(plain.sigma * np.sqrt(2.0))


def test_cameras_of_which_nothing_is_known_have_one_prior_together() -> None:
    """Else many photographs, each of a camera of its own, would all the more be taken with usual focals."""
    sparse = sparse_of(arc(views=4), 0.3)
    sparse.extend()
    first = sparse.intrinsics[0]
    sparse.intrinsics = [replace(first) for _ in range(3)] + [replace(first, guess_std=0.1)]
    for index, view in enumerate(sparse.views):
        view.camera = index
    built = problem_of(sparse)
    assert built is not None
    np.testing.assert_allclose(weighed(built[0], 0.3)[0].focal_prior_sigma, [FOCAL_PRIOR * np.sqrt(3.0)] * 3 + [0.1])
    for view in sparse.views:
        view.camera = 1
    built = problem_of(sparse)
    assert built is not None and weighed(built[0], 0.3)[0].focal_prior_sigma[1] == FOCAL_PRIOR
