"""Bundle adjustment on problems with a known answer."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from bundles import disturbed, problem_of, some_problem
from scipy.optimize import least_squares
from scipy.spatial.transform import Rotation
from synthetic import Scene, arc

from dust3r_ros.geometry.compiled import LIBRARY
from dust3r_ros.geometry.lens import Lens
from dust3r_ros.geometry.rigid import invert, pose
from dust3r_ros.geometry.similarity import weighted_similarity
from dust3r_ros.scenes.sequence import look_at
from dust3r_ros.sparse import bundle_adjustment
from dust3r_ros.sparse.bundle_adjustment import CompiledSteps, PlainSteps, adjust
from dust3r_ros.sparse.bundle_problem import BundleProblem, Huber, Observations, State


def both(problem: BundleProblem, width: float) -> tuple[PlainSteps, CompiledSteps, State, Observations]:
    observations, loss = Observations(problem), Huber(width, problem.sigma)
    plain, compiled = PlainSteps(problem, observations, loss), CompiledSteps(problem, observations, loss)
    return plain, compiled, State.of(problem, observations), observations


@pytest.fixture(params=[1, 10**9], ids=["divided", "whole"])
def many(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Small problems are divided between threads, too, or none is."""
    monkeypatch.setattr(bundle_adjustment, "_MANY", request.param)


def test_it_was_built() -> None:
    """By what makes the environment; where it was not, adjustments take several times as long."""
    assert LIBRARY is not None


@pytest.mark.usefixtures("many")
@pytest.mark.parametrize("bent", [False, True])
@pytest.mark.parametrize("width", [1e9, 1.5])
@pytest.mark.parametrize("spread", [False, True])
def test_steps_are_the_same(bent: bool, width: float, spread: bool) -> None:
    problem = some_problem(bent)
    if spread:
        problem = replace(problem, spread=np.random.default_rng(0).uniform(0.2, 5.0, len(problem.view)))
    plain, compiled, state, observations = both(problem, width)
    assert compiled.cost(state) == pytest.approx(plain.cost(state), rel=1e-12)
    np.testing.assert_allclose(compiled.residual(state), plain.residual(state), rtol=1e-12)
    for damping in (1e-6, 1e-3, 10.0):
        expected, found = plain.step(state, damping), compiled.step(state, damping)
        assert expected is not None and found is not None
        for name in ("poses", "unknowns", "points", "information"):
            np.testing.assert_allclose(getattr(found, name), getattr(expected, name), rtol=1e-6, atol=1e-8)
        moved = state.moved(found.poses, found.unknowns, found.points, observations)
        (a, cost_a), (b, cost_b) = plain.settled(moved), compiled.settled(moved)
        np.testing.assert_allclose(b.points, a.points, rtol=1e-9)
        assert cost_b == pytest.approx(cost_a, rel=1e-10)


@pytest.mark.usefixtures("many")
def test_more_observations_and_points_than_are_computed_side_by_side() -> None:
    problem = disturbed(problem_of(arc(views=70, points=150), 0.7), size=0.02)
    plain, compiled, state, observations = both(problem, 1.5)
    expected, found = plain.step(state, 1e-3), compiled.step(state, 1e-3)
    assert expected is not None and found is not None
    np.testing.assert_allclose(found.points, expected.points, rtol=1e-6, atol=1e-8)
    np.testing.assert_allclose(found.poses, expected.poses, rtol=1e-6, atol=1e-8)
    moved = state.moved(found.poses, found.unknowns, found.points, observations)
    (a, cost_a), (b, cost_b) = plain.settled(moved), compiled.settled(moved)
    np.testing.assert_allclose(b.points, a.points, rtol=1e-9)
    assert cost_b == pytest.approx(cost_a, rel=1e-10)


@pytest.mark.usefixtures("many")
def test_points_behind_the_camera_and_points_that_nobody_sees() -> None:
    problem = some_problem()
    problem.points[3] = problem.w_T_c[0][:3, 3] - problem.w_T_c[0][:3, 2]
    seen = problem.point != 5
    problem = replace(problem, view=problem.view[seen], point=problem.point[seen], offset=problem.offset[seen])
    plain, compiled, state, _ = both(problem, 1.5)
    expected, found = plain.residual(state), compiled.residual(state)
    assert np.isinf(expected).any()
    np.testing.assert_array_equal(np.isinf(found), np.isinf(expected))
    a, b = plain.step(state, 1e-3), compiled.step(state, 1e-3)
    assert a is not None and b is not None
    np.testing.assert_allclose(b.points, a.points, rtol=1e-7, atol=1e-10)


@pytest.mark.usefixtures("many")
@pytest.mark.parametrize("held", ["poses", "intrinsics"])
def test_only_a_part_moves(held: str) -> None:
    problem = some_problem()
    if held == "poses":
        problem = replace(problem, free=np.zeros(5, bool))
    else:
        problem = replace(problem, free_focal=np.zeros(2, bool))
    plain, compiled, state, _ = both(problem, 1.5)
    a, b = plain.step(state, 1e-3), compiled.step(state, 1e-3)
    assert a is not None and b is not None
    np.testing.assert_allclose(b.poses, a.poses, rtol=1e-7, atol=1e-10)
    np.testing.assert_allclose(b.unknowns, a.unknowns, rtol=1e-7, atol=1e-10)


def test_an_adjustment_ends_where_it_does_without(monkeypatch: pytest.MonkeyPatch) -> None:
    problem = disturbed(problem_of(arc(views=6, points=60, seed=3), 0.7), size=0.02)
    compiled = adjust(problem, iterations=30)
    monkeypatch.setattr(bundle_adjustment, "LIBRARY", None)
    plain = adjust(problem, iterations=30)
    assert compiled.cost == pytest.approx(plain.cost, rel=1e-6)
    np.testing.assert_allclose(compiled.focals, plain.focals, rtol=1e-6)
    np.testing.assert_allclose(compiled.focal_std, plain.focal_std, rtol=1e-4)


@pytest.mark.parametrize("seed", range(3))
def test_finds_poses_points_and_focal(seed: int) -> None:
    scene = arc(seed=seed)
    start = disturbed(problem_of(scene), seed, focal_factor=1.25)
    found = adjust(start, iterations=60, tolerance=1e-12)
    assert np.abs(start.w_T_c - scene.w_T_c).max() > 0.05, "the start is off"
    np.testing.assert_allclose(found.focals, 300.0, rtol=1e-5)
    np.testing.assert_allclose(found.w_T_c, scene.w_T_c, atol=1e-5)
    np.testing.assert_allclose(found.points, scene.points, atol=1e-4)
    assert found.residual.max() < 1e-3


def test_noise_goes_out_as_it_came_in() -> None:
    """Residuals of a fit are smaller than the noise by the degrees of freedom spent."""
    scene, noise = arc(), 0.5
    problem = replace(problem_of(scene, noise), sigma=1.0)
    found = adjust(disturbed(problem, size=0.01), huber_px=50.0, iterations=40, tolerance=1e-10)
    parameters = 6 * 4 + 1 + 3 * len(scene.points)
    expected = noise**2 * (2 * len(problem.view) - parameters)
    assert np.sum(found.residual**2) == pytest.approx(expected, rel=0.15)
    assert found.cost == pytest.approx(0.5 * np.sum(found.residual**2), rel=1e-6)


def test_outliers_hardly_pull() -> None:
    scene = arc(views=8)
    problem = problem_of(scene, 0.3)
    rng = np.random.default_rng(2)
    wrong = rng.random(len(problem.view)) < 0.08
    offset = problem.offset.copy()
    offset[wrong] += rng.uniform(-60, 60, (wrong.sum(), 2))
    start = disturbed(replace(problem, offset=offset, sigma=1.0), size=0.01, focal_factor=1.1)
    robust = adjust(start, huber_px=1.0, iterations=80, tolerance=1e-9)
    squares = adjust(start, huber_px=1e6, iterations=80, tolerance=1e-9)
    assert abs(robust.focals[0] / 300 - 1) < 0.01
    error = [np.abs(s.w_T_c[:, :3, 3] - scene.w_T_c[:, :3, 3]).max() for s in (robust, squares)]
    assert error[0] < 0.03 and error[0] < 0.3 * error[1]
    assert np.median(robust.residual[wrong]) > 10 * np.median(robust.residual[~wrong])


def test_exact_observations_count_more() -> None:
    """Weighing each by its deviation gives a better focal than taking all alike, with as much noise as there was."""
    scene, off = arc(views=8), []
    problem = problem_of(scene)
    rng = np.random.default_rng(4)
    spread = rng.choice([0.1, 10.0], len(problem.view))
    offset = problem.offset + 0.3 * spread[:, None] * rng.standard_normal(problem.offset.shape)
    start = disturbed(replace(problem, offset=offset, sigma=0.3), size=0.01)
    for each in (spread, None):
        found = adjust(replace(start, spread=each), huber_px=1e6, iterations=60, tolerance=1e-10)
        off.append(abs(found.focals[0] / 300 - 1))
        if each is not None:
            parameters = 6 * 7 + 1 + 3 * len(scene.points)
            assert found.cost == pytest.approx(0.5 * (2 * len(problem.view) - parameters), rel=0.2)
            assert off[0] < 4 * found.focal_std[0]
    assert off[0] < 0.2 * off[1]


def test_agrees_with_a_general_solver() -> None:
    """The optimum, not only near it: scipy finds the same cost from the same start, by finite differences."""
    scene = arc(views=4, points=14, seed=3)
    problem = disturbed(replace(problem_of(scene, 0.8, seed=3), sigma=1.0), size=0.01, focal_factor=1.05)
    free = np.flatnonzero(problem.free)
    focal_at = 6 * len(free)

    def residuals(x: np.ndarray) -> np.ndarray:
        poses = problem.w_T_c.copy()
        for k, view in enumerate(free):
            step = x[6 * k : 6 * k + 6]
            poses[view] = poses[view] @ pose(Rotation.from_rotvec(step[3:]).as_matrix(), step[:3])
        points = problem.points + x[focal_at + 1 :].reshape(-1, 3)
        moved = Scene(poses, points, np.full(len(poses), problem.focals[0] * np.exp(x[focal_at])))
        return (np.stack([moved.seen(v) for v in range(len(poses))]).reshape(-1, 2) - problem.offset).ravel()

    expected = least_squares(residuals, np.zeros(focal_at + 1 + 3 * len(problem.points)), xtol=1e-12, ftol=1e-12)
    found = adjust(problem, huber_px=1e6, iterations=100, tolerance=1e-13)
    assert found.cost == pytest.approx(expected.cost, rel=1e-6)
    assert found.focals[0] == pytest.approx(problem.focals[0] * np.exp(expected.x[focal_at]), rel=1e-4)
    # Its information on the focal, everything else integrated out, is that of the normal equations.
    covariance = np.linalg.inv(expected.jac.T @ expected.jac)
    assert found.focal_std[0] == pytest.approx(np.sqrt(covariance[focal_at, focal_at]), rel=1e-2)


def test_the_optimum_is_flat() -> None:
    """No pose, point or focal near the solution is better: the cost's gradient vanishes."""
    problem = problem_of(arc(views=5, points=30, seed=4), 0.7)
    best = adjust(disturbed(problem, size=0.01), huber_px=1.5, iterations=100, tolerance=1e-13)
    at = replace(problem, w_T_c=best.w_T_c, points=best.points, focals=best.focals)

    def cost(near: BundleProblem) -> float:
        return adjust(near, huber_px=1.5, iterations=0).cost

    assert cost(at) == pytest.approx(best.cost, rel=1e-9)
    for step in (1e-4, -1e-4):
        assert cost(replace(at, focals=at.focals * (1 + step))) > best.cost
        for axis in range(3):
            poses, points = at.w_T_c.copy(), at.points.copy()
            poses[3, axis, 3] += step
            points[7, axis] += step
            assert cost(replace(at, w_T_c=poses)) > best.cost
            assert cost(replace(at, points=points)) > best.cost
            turned = at.w_T_c.copy()
            turned[3, :3, :3] = turned[3, :3, :3] @ Rotation.from_rotvec(step * np.eye(3)[axis]).as_matrix()
            assert cost(replace(at, w_T_c=turned)) > best.cost


def test_a_focal_far_off_is_found_in_few_steps() -> None:
    """Along the valley where focal and depth change together, steps need not be short."""
    scene = arc(views=4, points=60, degrees=25.0)
    problem = problem_of(scene, 0.3)
    start = adjust(replace(problem, focals=np.array([600.0]), free_focal=np.zeros(1, bool)), iterations=100)
    begun = replace(problem, focals=np.array([600.0]), w_T_c=start.w_T_c, points=start.points)
    found, best = adjust(begun, iterations=20), adjust(problem, iterations=100, tolerance=1e-12)
    assert found.cost < 1.02 * best.cost
    assert found.focals[0] == pytest.approx(best.focals[0], rel=0.05)


def test_a_known_focal_stays() -> None:
    problem = replace(problem_of(arc()), free_focal=np.zeros(1, bool))
    found = adjust(disturbed(problem), iterations=60, tolerance=1e-12)
    assert found.focals[0] == pytest.approx(300.0, rel=1e-12)
    assert len(found.focal_std) == 0
    np.testing.assert_allclose(found.w_T_c, problem.w_T_c, atol=1e-5)


def test_lenses_are_found_with_the_focals() -> None:
    """Two cameras, one of which has a lens that is known."""
    scene = arc(views=8, points=120, seed=6)
    scene = replace(scene, points=2.0 * scene.points, w_T_c=scene.w_T_c.copy())
    scene.w_T_c[:, :3, 3] *= 1.6
    lenses = [Lens(200.0, -0.07, (3.0, -4.0), 0.02, -0.01), Lens(200.0, 0.04, (-2.0, 1.0), -0.01)]
    problem = problem_of(scene, camera=[0, 1] * 4)
    offset = np.empty_like(problem.offset)
    for camera in (0, 1):
        its = problem.camera[problem.view] == camera
        offset[its] = lenses[camera].seen(problem.offset[its])
    free = np.array([[True] * 5, [False] * 5])
    start = replace(problem, offset=offset, lenses=[Lens(200.0), lenses[1]], free_lens=free)
    found = adjust(disturbed(start, size=0.01, focal_factor=1.05), iterations=100, tolerance=1e-13)
    np.testing.assert_allclose(found.focals, 300.0, rtol=1e-4)
    assert found.lenses[0].radials == pytest.approx((-0.07, 0.02, -0.01), abs=1e-4)
    np.testing.assert_allclose(found.lenses[0].center, [3.0, -4.0], atol=0.02)
    assert found.lenses[1].radial == lenses[1].radial
    np.testing.assert_allclose(found.lenses[1].center, lenses[1].center, rtol=1e-12)
    assert found.residual.max() < 1e-2
    assert (found.lens_std[0] > 0).all() and (found.lens_std[1] == 0).all()
    tight = replace(start, lens_prior_sigma=np.full((2, 5), 1e-6))
    held = adjust(tight, iterations=20)
    assert abs(held.lenses[0].radial) < 1e-3 and held.lens_std[0, 0] == pytest.approx(1e-6, rel=0.05)
    assert held.focal_std[0] < found.focal_std[0]


def test_what_is_determined_weakly_is_found_as_soon_as_the_rest() -> None:
    """Straight ahead, focal and depth look alike: short steps gain so little that an adjustment stops on the way."""
    rng, noise = np.random.default_rng(0), 0.1
    at = np.column_stack([np.linspace(0, 2, 10), 0.02 * rng.standard_normal((10, 2))])
    ahead = np.stack([look_at(p, p + np.array([5.0, *(0.1 * rng.standard_normal(2))])) for p in at])
    angle, far = rng.uniform(0, 2 * np.pi, 400), rng.uniform(3.5, 9.0, 400)
    tunnel = np.column_stack([far, 1.2 * np.cos(angle), 0.9 * np.sin(angle)])
    problem = problem_of(Scene(ahead, tunnel, np.full(10, 330.0)), noise)
    best = adjust(problem, iterations=300, tolerance=1e-12)
    std = float(best.focal_std[0])
    off = replace(problem, w_T_c=best.w_T_c, points=best.points, focals=best.focals * np.exp(3 * std))
    held = adjust(replace(off, free_focal=np.zeros(1, bool)), iterations=300, tolerance=1e-12)
    found = adjust(replace(off, w_T_c=held.w_T_c, points=held.points))
    assert abs(np.log(found.focals[0] / best.focals[0])) < 0.01 * std


def test_held_poses_stay() -> None:
    start = disturbed(problem_of(arc(), 0.5))
    found = adjust(start)
    held = ~start.free
    np.testing.assert_allclose(found.w_T_c[held], start.w_T_c[held], atol=1e-12)
    assert (np.abs(found.w_T_c[start.free] - start.w_T_c[start.free]).max(axis=(1, 2)) > 1e-3).all()


def walking(walk: float) -> BundleProblem:
    """A camera for each view, whose focals rise; each is about ``walk`` (log) from the one before."""
    scene = replace(arc(views=9, seed=6), focal=300.0 * np.exp(np.linspace(0.0, 0.2, 9)))
    start = disturbed(problem_of(scene, camera=list(range(9))), size=0.02)
    return replace(start, focals=np.full(9, 300.0), focal_walk=np.append(np.inf, np.full(8, walk)))


def test_focals_follow_each_other_as_closely_as_they_are_said_to() -> None:
    steps = [np.diff(np.log(adjust(walking(walk), iterations=100).focals)) for walk in (1.0, 1e-3, 1e-7)]
    assert steps[0] == pytest.approx(np.full(8, 0.025), rel=0.01)
    assert np.abs(steps[1]).max() < 0.024 and np.abs(steps[2]).max() < 1e-4


def test_steps_of_focals_that_follow_each_other_are_the_same() -> None:
    plain, compiled, state, _ = both(walking(0.01), 1.5)
    expected, found = plain.step(state, 1e-3), compiled.step(state, 1e-3)
    assert expected is not None and found is not None
    np.testing.assert_allclose(found.unknowns, expected.unknowns, rtol=1e-6)
    np.testing.assert_allclose(found.information, expected.information, rtol=1e-6, atol=1e-6)


def test_every_camera_has_its_own_focal() -> None:
    scene = arc(views=9, seed=6)
    focals = np.array([250.0, 300.0, 420.0])
    camera = [0, 1, 2] * 3
    scene = replace(scene, focal=focals[camera])
    start = disturbed(problem_of(scene, camera=camera), size=0.02, focal_factor=1.15)
    found = adjust(start, iterations=100, tolerance=1e-12)
    np.testing.assert_allclose(found.focals, focals, rtol=1e-4)
    assert len(found.focal_std) == 3
    one_known = replace(start, focals=np.array([250.0, 345.0, 483.0]), free_focal=np.array([False, True, True]))
    found = adjust(one_known, iterations=100, tolerance=1e-12)
    np.testing.assert_allclose(found.focals, focals, rtol=1e-4)
    assert len(found.focal_std) == 2


def test_the_focals_standard_deviation_is_honest() -> None:
    """Over many draws of the noise the error, in units of it, has a spread of one."""
    scene, errors = arc(views=5, points=40, seed=8), []
    for seed in range(80):
        problem = problem_of(scene, 0.6, seed)
        found = adjust(problem, huber_px=100.0, iterations=25, tolerance=1e-8)
        errors.append(np.log(found.focals[0] / 300.0) / found.focal_std[0])
    assert np.std(errors) == pytest.approx(1.0, abs=0.25)
    assert abs(np.mean(errors)) < 0.4


def test_the_prior_counts_where_the_images_say_little() -> None:
    problem = problem_of(arc(views=3, points=20, degrees=8.0), 0.5)
    loose = replace(problem, focal_prior=np.array([400.0]), focal_prior_sigma=100.0)
    tight = replace(loose, focal_prior_sigma=1e-4)
    found = adjust(loose, iterations=60), adjust(tight, iterations=60)
    assert found[1].focals[0] == pytest.approx(400.0, rel=0.01)
    assert abs(found[0].focals[0] - 400) > 5
    assert found[1].focal_std[0] == pytest.approx(1e-4, rel=0.05)
    assert found[0].focal_std[0] > 10 * found[1].focal_std[0]


def test_the_frame_of_the_world_does_not_matter() -> None:
    problem = disturbed(problem_of(arc(seed=9), 0.4, seed=9), 9)
    other = pose(Rotation.from_euler("xyz", [0.4, -1.0, 2.0]).as_matrix(), [3.0, -2.0, 7.0])
    moved = replace(problem, w_T_c=other @ problem.w_T_c, points=problem.points @ other[:3, :3].T + other[:3, 3])
    a, b = (adjust(p, iterations=60, tolerance=1e-12) for p in (problem, moved))
    assert a.cost == pytest.approx(b.cost, rel=1e-6)
    assert a.focals[0] == pytest.approx(b.focals[0], rel=1e-5)
    assert a.focal_std[0] == pytest.approx(b.focal_std[0], rel=1e-3)
    np.testing.assert_allclose(other @ a.w_T_c, b.w_T_c, atol=1e-4)


def test_the_unit_of_length_does_not_matter() -> None:
    problem = disturbed(problem_of(arc(seed=9), 0.4, seed=9), 9)
    poses = problem.w_T_c.copy()
    poses[:, :3, 3] *= 50.0
    a, b = (
        adjust(p, iterations=60, tolerance=1e-12)
        for p in (problem, replace(problem, w_T_c=poses, points=50.0 * problem.points))
    )
    assert a.cost == pytest.approx(b.cost, rel=1e-6)
    np.testing.assert_allclose(50.0 * a.points, b.points, atol=1e-2)


def test_with_one_pose_held_only_the_scale_is_free() -> None:
    """One pose held leaves the unit of length open: the result is the truth up to that."""
    scene = arc()
    start = disturbed(replace(problem_of(scene), free=np.arange(6) >= 1))
    found = adjust(start, iterations=80, tolerance=1e-12)
    assert found.residual.max() < 1e-2
    similarity = weighted_similarity(found.points, scene.points)
    np.testing.assert_allclose(similarity.apply(found.points), scene.points, atol=1e-3)


def test_nothing_free_but_points() -> None:
    scene = arc()
    problem = replace(problem_of(scene), free=np.zeros(6, bool), free_focal=np.zeros(1, bool))
    found = adjust(disturbed(problem), iterations=40, tolerance=1e-12)
    np.testing.assert_allclose(found.points, scene.points, atol=1e-5)
    np.testing.assert_allclose(found.w_T_c, scene.w_T_c, atol=1e-12)


def test_one_view_says_nothing_of_depth_and_breaks_nothing() -> None:
    scene = arc(views=1)
    problem = replace(problem_of(scene, 0.5), free=np.ones(1, bool), focal_prior_sigma=0.7)
    found = adjust(problem, iterations=30)
    for values in (found.w_T_c, found.points, found.focals):
        assert np.isfinite(values).all()
    assert found.cost <= adjust(problem, iterations=0).cost
    # A single image of free points carries no focal: all that is known of it is the prior.
    assert found.focal_std[0] > 0.5


def test_points_behind_a_camera_cost_and_do_not_pull() -> None:
    scene = arc()
    problem = problem_of(scene)
    points = problem.points.copy()
    points[0] = scene.w_T_c[2, :3, 3] - 2.0 * scene.w_T_c[2, :3, 2]  # behind the third camera
    free = np.zeros(6, bool)
    stuck = replace(problem, points=points, free=free, free_focal=np.zeros(1, bool))
    at_start = adjust(stuck, iterations=0)
    behind = (invert(scene.w_T_c)[problem.view, 2, :3] * points[problem.point]).sum(1) + invert(scene.w_T_c)[
        problem.view, 2, 3
    ] < 0
    assert behind.any()
    assert np.isinf(at_start.residual[behind]).all() and np.isfinite(at_start.residual[~behind]).all()
    found = adjust(replace(stuck, free=problem.free), iterations=40)
    assert np.isfinite(found.cost) and found.cost <= at_start.cost
    assert np.isfinite(found.w_T_c).all() and np.isfinite(found.points).all()
    np.testing.assert_allclose(found.points[1:], scene.points[1:], atol=0.05)


def test_all_points_behind_all_cameras() -> None:
    problem = problem_of(arc())
    backwards = problem.w_T_c @ np.diag([-1.0, 1.0, -1.0, 1.0])
    found = adjust(replace(problem, w_T_c=backwards))
    assert np.isinf(found.residual).all() and np.isfinite(found.cost)
    assert np.isfinite(found.w_T_c).all() and np.isfinite(found.focals).all() and np.isfinite(found.points).all()


def test_more_iterations_never_cost_more() -> None:
    start = disturbed(problem_of(arc(seed=11), 0.5), 11, size=0.08, focal_factor=1.4)
    costs = [adjust(start, iterations=n, tolerance=0.0).cost for n in range(0, 24, 3)]
    assert costs == sorted(costs, reverse=True)
    assert costs[-1] < 0.05 * costs[0]


def test_a_point_seen_twice_by_one_pose_breaks_nothing() -> None:
    """It is not meant to happen, yet the adjustment still ends at the optimum."""
    problem = problem_of(arc(), 0.3)
    twice = replace(
        problem,
        view=np.append(problem.view, problem.view[200:230]),
        point=np.append(problem.point, problem.point[200:230]),
        offset=np.concatenate([problem.offset, problem.offset[200:230]]),
    )
    found = adjust(disturbed(twice, size=0.01), iterations=100, tolerance=1e-12)
    best = adjust(twice, iterations=100, tolerance=1e-12)
    assert found.cost == pytest.approx(best.cost, rel=1e-4)
    assert found.focals[0] == pytest.approx(300.0, rel=0.02)
