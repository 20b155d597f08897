"""Cameras are in free space, see things, and differ as the recipe wants them to."""

from __future__ import annotations

import numpy as np

from dust3r_ros.scenes.endless.casting import Seen
from dust3r_ros.scenes.endless.eye import Eye
from dust3r_ros.scenes.endless.overlap import DepthView, overlaps
from dust3r_ros.scenes.endless.viewpoints import FIELD_OF_VIEW, choose_eyes
from dust3r_ros.scenes.endless.worlds import World, make_world

Visited = tuple[World, list[tuple[Eye, Seen]]]


def test_cameras_are_free_and_see_something(visited: Visited) -> None:
    _, eyes = visited
    assert len(eyes) == 8
    for eye, seen in eyes:
        known = np.isfinite(seen.depth)
        assert min(eye.width, eye.height) == 64 and seen.depth.shape == (eye.height, eye.width)
        assert np.allclose(eye.w_T_c[:3, :3] @ eye.w_T_c[:3, :3].T, np.eye(3), atol=1e-9)
        assert known.mean() > 0.1 and seen.depth[known].min() > 0.02


def test_fields_of_view_and_principal_points_vary_within_bounds() -> None:
    fields, asides = [], []
    for number in range(4):
        world = make_world((11, 0), number, "jumble")
        for eye, _ in choose_eyes(world, np.random.default_rng(number), 12, 32):
            longer = max(eye.width, eye.height)
            fields.append(2 * np.degrees(np.arctan(longer / 2 / eye.K[0, 0])))
            middle = np.array([eye.width - 1, eye.height - 1]) / 2
            asides.append(np.abs(eye.K[:2, 2] - middle).max() / longer)
            assert eye.K[0, 0] == eye.K[1, 1]
    low, high = FIELD_OF_VIEW
    assert low - 1e-9 <= min(fields) < 60 and 90 < max(fields) <= high + 1e-9
    assert 0.05 < np.mean(np.array(asides) > 0) < 0.7 and max(asides) <= 0.12 + 1e-9


def test_pairs_of_every_overlap_and_of_small_and_wide_baselines_are_there() -> None:
    shares, baselines, turns = [], [], []
    for number, layout in enumerate(("room", "park", "still_life")):
        eyes = choose_eyes(make_world((11, 0), number, layout), np.random.default_rng(number), 24, 48)
        shared = overlaps([DepthView(seen.depth, eye.K, eye.w_T_c) for eye, seen in eyes], 4)
        first, second = np.triu_indices(len(eyes), 1)
        shares.append(np.minimum(shared, shared.T)[first, second])
        for (a, seen), (b, _) in zip((eyes[i] for i in first), (eyes[j] for j in second), strict=True):
            far = np.median(seen.depth[np.isfinite(seen.depth)])
            baselines.append(np.linalg.norm(a.w_T_c[:3, 3] - b.w_T_c[:3, 3]) / far)
            cosine = (np.trace(a.w_T_c[:3, :3].T @ b.w_T_c[:3, :3]) - 1) / 2
            turns.append(np.degrees(np.arccos(np.clip(cosine, -1, 1))))
    counts = np.histogram(np.concatenate(shares), bins=np.linspace(0.1, 1, 7))[0]
    assert counts.min() >= 3
    seen_together = np.concatenate(shares) > 0.2
    baselines, turns = np.array(baselines)[seen_together], np.array(turns)[seen_together]
    assert baselines.min() < 0.05 and baselines.max() > 0.5 and turns.max() > 40
