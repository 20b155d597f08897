"""Depth edges. Depth of one image alone and of the views of an aligned scene."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from dust3r_ros.alignment import Alignment, EdgeReport, align
from dust3r_ros.errors import GeometryError
from dust3r_ros.evaluation.errors import depth_errors
from dust3r_ros.geometry.depths import depth_edges, held_to, monocular_depth, multi_view_depth
from dust3r_ros.geometry.pinhole import unproject
from dust3r_ros.types import PairPrediction


def test_edges_are_both_sides_of_a_jump_and_no_slope() -> None:
    depth = np.full((10, 12), 3.0)
    depth[:, 6:] = 2.0
    expected = np.zeros((10, 12), bool)
    expected[:, 5:7] = True
    np.testing.assert_array_equal(depth_edges(depth), expected)
    slope = np.broadcast_to(np.linspace(1, 2, 60), (10, 60))
    assert not depth_edges(slope).any()


def test_holes_are_no_edges() -> None:
    depth = np.full((10, 12), 3.0)
    depth[4, 4], depth[7, 7] = 0.0, np.nan
    assert not depth_edges(depth).any()


HEIGHT, WIDTH = 6, 9


def pair(first: int = 0, second: int = 0, seed: int = 0, width: int = WIDTH) -> PairPrediction:
    rng = np.random.default_rng(seed)
    points = [
        unproject(rng.uniform(1, 3, (HEIGHT, w)).astype(np.float32), 8.0).astype(np.float32) for w in (WIDTH, width)
    ]
    confidence = [rng.uniform(1.5, 4, p.shape[:2]).astype(np.float32) for p in points]
    return PairPrediction(first, second, points[0], confidence[0], points[1], confidence[1])


def test_monocular_depth_is_z_where_something_is_known() -> None:
    prediction = pair()
    prediction.points_first[0, 0] = np.nan
    prediction.points_first[0, 1, 2] = -1.0
    prediction.confidence_first[0, 2] = 1.0
    prediction.confidence_first[0, 3] = np.inf
    depth, confidence = monocular_depth(prediction)
    expected = prediction.points_first[..., 2].copy()
    expected[0, :4] = 0.0
    np.testing.assert_array_equal(depth, expected)
    assert (confidence[0, :4] == 1).all() and (confidence[1:] == prediction.confidence_first[1:]).all()
    assert depth.dtype == confidence.dtype == np.float32


def test_two_images_of_different_size_are_not_one_image_twice() -> None:
    with pytest.raises(GeometryError, match="same image twice"):
        monocular_depth(pair(width=WIDTH + 1))


def test_multi_view_confidence_adds_up_over_the_pairs_that_count() -> None:
    pairs = [pair(0, 1, 1), pair(1, 0, 2), pair(1, 2, 3)]
    depths = [np.full((HEIGHT, WIDTH), 2.0, np.float32) for _ in range(3)]
    depths[0][0, 0] = 0.0
    scene = Alignment(np.stack([np.eye(4)] * 3), np.full(3, 8.0), depths, 0.0, (), pairs)
    depth, confidence = multi_view_depth(scene, 0)
    expected = pairs[0].confidence_first + pairs[1].confidence_second - 1.0
    expected[0, 0] = 1.0
    np.testing.assert_allclose(confidence, expected, rtol=1e-6)
    np.testing.assert_array_equal(depth, depths[0])
    edges = (EdgeReport(0, 1, 0.1), EdgeReport(1, 0, 9.0, switched_off=True), EdgeReport(1, 2, 0.1))
    _, without = multi_view_depth(replace(scene, edges=edges), 0)
    np.testing.assert_allclose(without[1:], pairs[0].confidence_first[1:], rtol=1e-6)
    for view in (-1, 3):
        with pytest.raises(GeometryError, match=f"view {view} .* 3 views"):
            multi_view_depth(scene, view)


def in_units_of(depth: np.ndarray, reference: np.ndarray) -> np.ndarray:
    """Depth of unknown scale, by the median ratio to a reference."""
    both = (depth > 0) & (reference > 0)
    return depth * np.median(reference[both] / depth[both])


def test_depth_of_an_aligned_scene_is_nearer_to_the_truth_than_that_of_its_pairs(shared: Path) -> None:
    with np.load(shared / "fixtures" / "ga_dev.npz") as file:
        room = {name: file[name].astype(np.float32) for name in ("pts_i", "conf_i", "pts_j", "conf_j", "depth")}
        edges = file["edges"]
    arrays = zip(*(room[name] for name in ("pts_i", "conf_i", "pts_j", "conf_j")), strict=True)
    pairs = [PairPrediction(int(i), int(j), *parts) for (i, j), parts in zip(edges, arrays, strict=True)]
    scene = align(pairs)
    alone, together = [], []
    for view, truth in enumerate(room["depth"]):
        depth, confidence = multi_view_depth(scene, view)
        together.append(depth_errors(truth, in_units_of(depth, truth)).rel)
        own = [pair for pair in pairs if pair.first == view]
        alone += [depth_errors(truth, in_units_of(monocular_depth(pair).depth, truth)).rel for pair in own]
        assert np.median(confidence) > 5 * np.median(own[0].confidence_first)
    assert np.mean(together) < 0.9 * np.mean(alone)


def steps(points: int = 400) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """True depth of a slope before a wall, and (``points``, 2) pixels in it with their z, off by 1 %."""
    rng = np.random.default_rng(0)
    truth = np.broadcast_to(np.linspace(2.0, 3.0, 160), (120, 160)).astype(np.float32).copy()
    truth[:, 90:] = 6.0
    at = rng.uniform(0, [159, 119], (points, 2))
    columns, rows = np.round(at).astype(int).T
    return truth, at, truth[rows, columns] * np.exp(0.01 * rng.standard_normal(points))


def off(depth: np.ndarray, truth: np.ndarray) -> float:
    return float(np.sqrt(np.mean(np.log(depth / truth) ** 2)))


def test_depth_that_is_wrong_smoothly_follows_points() -> None:
    truth, at, z = steps()
    rows, columns = np.mgrid[:120, :160]
    wrong = (truth * np.exp(0.2 * np.sin(columns / 30) + 0.1 * np.cos(rows / 25))).astype(np.float32)
    wrong[:, 90:] *= 1.3
    held = held_to(wrong, at, z)
    assert off(wrong, truth) > 0.14 and off(held, truth) < 0.04
    assert held.dtype == np.float32


def test_points_that_contradict_those_around_them_are_ignored() -> None:
    truth, at, z = steps()
    z[::9] *= 2.0
    held = held_to(1.2 * truth, at, z)
    assert off(held, truth) < 0.02


def test_good_depth_is_not_bent_to_noisy_points() -> None:
    truth, at, z = steps()
    noisy = z * np.exp(0.05 * np.random.default_rng(1).standard_normal(len(z)))
    assert off(held_to(truth, at, noisy), truth) < 0.01


def test_what_is_unknown_stays_unknown_and_points_there_or_outside_say_nothing() -> None:
    truth, at, z = steps()
    depth = 1.1 * truth
    depth[40:60, 20:50] = 0
    strange = np.concatenate([at, [[-5.0, 3.0], [500.0, 7.0], [30.0, 50.0], [100.0, 60.0]]])
    held = held_to(depth, strange, np.concatenate([z, [9.0, 9.0, 9.0, -1.0]]))
    np.testing.assert_array_equal(held > 0, depth > 0)
    np.testing.assert_array_equal(held, held_to(depth, at, z))
    np.testing.assert_array_equal(held_to(depth, at[:5], z[:5]), depth)
    np.testing.assert_array_equal(held_to(depth, np.zeros((0, 2)), np.zeros(0)), depth)
