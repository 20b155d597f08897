"""Problems of bundle adjustment with a known answer."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from scipy.spatial.transform import Rotation
from synthetic import Scene, arc

from dust3r_ros.geometry.lens import Lens
from dust3r_ros.geometry.rigid import pose
from dust3r_ros.sparse.bundle_problem import BundleProblem


def problem_of(scene: Scene, noise: float = 0.0, seed: int = 0, camera: list[int] | None = None) -> BundleProblem:
    """Everything seen by everyone, from the true state; the first two poses are held."""
    rng = np.random.default_rng(seed)
    views, points = len(scene.w_T_c), len(scene.points)
    ids = np.zeros(views, int) if camera is None else np.array(camera)
    focals = np.array([scene.focal[np.flatnonzero(ids == k)[0]] for k in range(ids.max() + 1)])
    offsets = np.concatenate([scene.seen(v) for v in range(views)])
    return BundleProblem(
        w_T_c=scene.w_T_c,
        camera=ids,
        focals=focals,
        points=scene.points,
        view=np.repeat(np.arange(views), points),
        point=np.tile(np.arange(points), views),
        offset=offsets + noise * rng.standard_normal(offsets.shape),
        free=np.arange(views) >= 2,
        free_focal=np.ones(len(focals), bool),
        focal_prior=focals.copy(),
        sigma=noise or 1.0,
    )


def disturbed(problem: BundleProblem, seed: int = 0, size: float = 0.03, focal_factor: float = 1.0) -> BundleProblem:
    """The free poses, the points and the free focals off the truth."""
    rng = np.random.default_rng([seed, 5])
    poses = problem.w_T_c.copy()
    for view in np.flatnonzero(problem.free):
        turn = Rotation.from_rotvec(size * rng.standard_normal(3)).as_matrix()
        poses[view] = poses[view] @ pose(turn, 2 * size * rng.standard_normal(3))
    return replace(
        problem,
        w_T_c=poses,
        points=problem.points + 2 * size * rng.standard_normal(problem.points.shape),
        focals=np.where(problem.free_focal, problem.focals * focal_factor, problem.focals),
    )


def some_problem(bent: bool = False) -> BundleProblem:
    """Two cameras, one pose held, points that not everyone sees; ``bent``: one has a lens that is free."""
    problem = disturbed(problem_of(arc(views=5, points=20, seed=2), 0.7, camera=[0, 1, 0, 1, 0]), size=0.01)
    kept = np.random.default_rng(4).random(len(problem.view)) < 0.8
    problem = replace(problem, view=problem.view[kept], point=problem.point[kept], offset=problem.offset[kept])
    problem = replace(problem, sigma=1.0, focal_prior_sigma=0.5, free=np.array([True, False, True, True, True]))
    if not bent:
        return problem
    lenses, free = [Lens(150.0), Lens(200.0, -0.07, (3.0, -4.0), 0.02, -0.01)], np.array([[False] * 5, [True] * 5])
    return replace(problem, lenses=lenses, free_lens=free, lens_prior_sigma=np.full((2, 5), 0.1))
