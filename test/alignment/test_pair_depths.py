"""Depth of all pixels against a general optimiser, pixel by pixel."""

from __future__ import annotations

import numpy as np
import pytest
from pairs import pair_problem
from scipy.optimize import minimize_scalar

from dust3r_ros.alignment import pair_depths
from dust3r_ros.alignment.global_start import global_start
from dust3r_ros.alignment.pair_depths import full_depths
from dust3r_ros.alignment.pixel_block import plan_blocks, sights_of, view_of
from dust3r_ros.alignment.problem import Problem, image_shapes
from dust3r_ros.alignment.scene import Scene
from dust3r_ros.geometry.pinhole import unproject
from dust3r_ros.geometry.rigid import invert, transform

PAIRS = pair_problem(4, 48, seed=4).pairs
SHAPES, SIGHTS = image_shapes(PAIRS), sights_of(PAIRS, 4)


def scene() -> Scene:
    problem = Problem(PAIRS, SHAPES)
    return Scene.of(problem, global_start(problem, [make() for make in plan_blocks(PAIRS, SIGHTS, SHAPES, 4)]))


def depths_of(found: Scene) -> list[np.ndarray]:
    return full_depths(PAIRS, SIGHTS, found)


def test_depth_is_where_the_weighted_distances_are_least(monkeypatch: pytest.MonkeyPatch) -> None:
    found = scene()
    found.floor = 1e-6
    monkeypatch.setattr(pair_depths, "_ITERATIONS", 40)
    depths = depths_of(found)
    rng = np.random.default_rng(0)
    image = 2
    for v, u in zip(rng.integers(0, 36, 25), rng.integers(0, 48, 25), strict=True):
        ray = unproject(np.ones((36, 48)), float(found.focals[image]))[v, u]
        seen = []
        for edge, view in SIGHTS[image]:
            X, C = view_of(PAIRS, (edge, view))
            c_S_pair = invert(found.w_T_c[image]) @ found.w_S_pair[edge]
            seen.append((transform(c_S_pair, X[v, u].astype(np.float64)), np.log(C[v, u])))

        def value(d: float, ray: np.ndarray = ray, seen: list = seen) -> float:
            return float(sum(w * np.linalg.norm(y - d * ray) for y, w in seen))

        best = minimize_scalar(value, bounds=(0.1, 20), method="bounded", options={"xatol": 1e-7})
        # in float32, a distance below 3e-4 of the depth is lost in the squares
        assert value(float(depths[image][v, u])) < best.fun * (1 + 1e-3)


def test_sights_that_are_switched_off_do_not_count() -> None:
    found = scene()
    spoiled = np.array([0, 4])
    found.on[spoiled] = False
    clean = depths_of(found)
    found.w_S_pair[spoiled] *= 5.0
    for a, b in zip(clean, depths_of(found), strict=True):
        np.testing.assert_array_equal(a, b)


def test_an_image_whose_pairs_are_all_off_has_no_depth() -> None:
    found = scene()
    found.on[[edge for edge, _ in SIGHTS[1]]] = False
    depths = depths_of(found)
    assert (depths[1] == 0).all() and all((depths[i] > 0).all() for i in (0, 2, 3))


def test_depth_behind_the_camera_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pair_depths, "_ITERATIONS", 20)
    found = scene()
    found.w_T_c[0, :3, :3] = found.w_T_c[0, :3, :3] @ np.diag([-1.0, 1.0, -1.0])
    assert (depths_of(found)[0] > 0).mean() < 0.05
