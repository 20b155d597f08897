"""Problems of bundle adjustment with a known answer."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from scipy.spatial.transform import Rotation
from synthetic import Scene

from dust3r_ros.alignment.sights import Problem
from dust3r_ros.geometry.rigid import pose


def problem_of(scene: Scene, noise: float = 0.0, seed: int = 0, camera: list[int] | None = None) -> Problem:
    """Everything seen by everyone, from the true state; the first two poses are held."""
    rng = np.random.default_rng(seed)
    views, points = len(scene.w_T_c), len(scene.points)
    ids = np.zeros(views, int) if camera is None else np.array(camera)
    focals = np.array([scene.focal[np.flatnonzero(ids == k)[0]] for k in range(ids.max() + 1)])
    offsets = np.concatenate([scene.seen(v) for v in range(views)])
    return Problem(
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


def disturbed(problem: Problem, seed: int = 0, size: float = 0.03, focal_factor: float = 1.0) -> Problem:
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
