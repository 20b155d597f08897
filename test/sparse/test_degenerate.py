"""Input that says too little or nothing: every case has a defined answer, from both methods where both can."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from pairs import PairProblem, errors, pair_problem
from scipy.spatial.transform import Rotation

from dust3r_ros.alignment import Alignment, align, align_parts
from dust3r_ros.errors import GeometryError, InputError
from dust3r_ros.geometry.pinhole import unproject
from dust3r_ros.types import Array32, PairPrediction

H, W = 48, 64


@pytest.fixture(scope="module")
def noisy() -> PairProblem:
    return pair_problem(5, W, seed=1)


def between(problem: PairProblem, *parts: set[int]) -> list[PairPrediction]:
    """The pairs inside parts."""
    return [pair for pair in problem.pairs if any({pair.first, pair.second} <= part for part in parts)]


def edited(pair: PairPrediction, name: str, change: Callable[[Array32], None]) -> PairPrediction:
    array = getattr(pair, name).copy()
    change(array)
    return replace(pair, **{name: array})


def finite(result: Alignment) -> bool:
    arrays = [result.w_T_c, result.focals, *result.depths]
    return all(np.isfinite(array).all() for array in arrays) and np.isfinite(result.objective)


def test_no_pairs_and_one_image_are_refused(noisy: PairProblem) -> None:
    for solve in (align, align_parts):
        with pytest.raises(InputError, match="at least one pair, not 0"):
            solve([])
    with pytest.raises(InputError, match=r"pair \(0, 0\) joins an image with itself"):
        align([replace(noisy.pairs[0], first=0, second=0)])


def test_one_pair_is_read_off_by_both_methods(noisy: PairProblem) -> None:
    """Nothing to optimise: focal and depth are what the pair's first view says, the pose is PnP's."""
    pytest.importorskip("torch", reason="the published scheme needs torch")
    pair = next(p for p in noisy.pairs if (p.first, p.second) == (0, 1))
    for method in ("moments", "gradient"):
        result = align([pair], method=method)
        ratio = result.depths[0] / pair.points_first[..., 2]
        np.testing.assert_allclose(ratio, np.median(ratio), rtol=0.03)  # along the ray, not the axis
        assert result.focals == pytest.approx(noisy.focal, rel=0.02)
        assert len(result.edges) == 1 and not result.edges[0].switched_off and result.edges[0].residual > 0
    moments, gradient = align([pair]), align([pair], method="gradient")
    turn = Rotation.from_matrix(
        (moments.w_T_c[0, :3, :3].T @ moments.w_T_c[1, :3, :3]).T
        @ (gradient.w_T_c[0, :3, :3].T @ gradient.w_T_c[1, :3, :3])
    )
    assert np.degrees(turn.magnitude()) < 0.3


def test_disconnected_images_are_separate_maps(noisy: PairProblem) -> None:
    pairs = between(noisy, {0, 3}, {1, 2, 4})
    with pytest.raises(GeometryError, match=r"5 images in 2 parts .*0, 3 \| 1, 2, 4"):
        align(pairs)
    parts = align_parts(pairs)
    assert [part.images for part in parts] == [(1, 2, 4), (0, 3)]
    for part in parts:
        assert part.alignment.w_T_c.shape == (len(part.images), 4, 4)
        for position, edge in zip(part.pairs, part.alignment.edges, strict=True):
            given = pairs[position]
            assert (given.first, given.second) == (part.images[edge.first], part.images[edge.second])
    assert sorted(position for part in parts for position in part.pairs) == list(range(len(pairs)))
    # each is what the part alone gives
    alone = align([replace(p, first=p.first // 3, second=p.second // 3) for p in between(noisy, {0, 3})])
    np.testing.assert_array_equal(parts[1].alignment.w_T_c, alone.w_T_c)


def test_what_is_known_goes_to_the_part_of_its_image(noisy: PairProblem) -> None:
    pairs = between(noisy, {0, 3}, {1, 2, 4})
    focals = noisy.focal * np.array([1.01, 1.02, 1.02, 1.01, 1.02])
    parts = align_parts(pairs, cameras=[0, 1, 1, 0, 1], focals=focals, poses=noisy.w_T_c, focal_std=0.0)
    for part in parts:
        np.testing.assert_array_equal(part.alignment.focals, focals[list(part.images)])
        np.testing.assert_allclose(part.alignment.w_T_c, noisy.w_T_c[list(part.images)], atol=1e-12)
    with pytest.raises(InputError, match="'focals' has 3 entries; the pairs name image 4"):
        align_parts(pairs, focals=focals[:3])


def test_a_given_focal_reaches_its_camera_in_every_part(noisy: PairProblem) -> None:
    """As in one alignment: given for one image of a camera, it holds for all of them, also in other parts."""
    pairs = between(noisy, {0, 3}, {1, 2, 4})
    focals = np.where(np.arange(5) == 3, noisy.focal, np.nan)
    parts = align_parts(pairs, cameras=np.zeros(5, int), focals=focals)
    assert [list(part.alignment.focals) for part in parts] == [[noisy.focal] * 3, [noisy.focal] * 2]
    focals[1] = 2 * noisy.focal
    with pytest.raises(InputError, match="one camera has one focal"):
        align_parts(pairs, cameras=np.zeros(5, int), focals=focals)
    two = align_parts(pairs, cameras=np.array([0, 1, 1, 0, 1]), focals=focals)
    assert [list(part.alignment.focals) for part in two] == [[2 * noisy.focal] * 3, [noisy.focal] * 2]


def test_an_image_in_no_pair_is_in_no_part(noisy: PairProblem) -> None:
    pairs = between(noisy, {0, 1, 4})
    with pytest.raises(InputError, match="3 images from 0 to 4 but not 2, 3"):
        align(pairs)
    assert [part.images for part in align_parts(pairs)] == [(0, 1, 4)]


@pytest.mark.parametrize("view", ["first", "second"])
@pytest.mark.parametrize("left", [0, 2])
def test_a_pair_without_overlap_is_refused_with_its_numbers(noisy: PairProblem, view: str, left: int) -> None:
    """Confidence 1 says that nothing is known."""
    C = np.ones((H, W), np.float32)
    C[0, :left] = 5.0
    silent = replace(noisy.pairs[3], **{f"confidence_{view}": C})
    pairs = [*noisy.pairs[:3], silent, *noisy.pairs[4:]]
    for method in ("moments", "gradient"):
        with pytest.raises(
            GeometryError, match=rf"pair \(0, 4\) has no information: {left} of 3072 pixels of its {view} view"
        ):
            align(pairs, method=method)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_broken_points(noisy: PairProblem, value: float) -> None:
    """With confidence they are refused, without they do not matter."""
    clean = align(noisy.pairs)

    def spoil(X: Array32) -> None:
        X[10:20, 30:40, 1] = value

    def silence(C: Array32) -> None:
        C[10:20, 30:40] = 1.0

    spoiled = edited(noisy.pairs[0], "points_second", spoil)
    with pytest.raises(InputError, match=r"pair \(0, 1\), second view, has 100 of 3072 points that are not finite"):
        align([spoiled, *noisy.pairs[1:]])
    result = align([edited(spoiled, "confidence_second", silence), *noisy.pairs[1:]])
    assert finite(result)
    assert errors(result, noisy).ate < 1.2 * errors(clean, noisy).ate


@pytest.mark.parametrize("value", [0.0, np.nan, np.inf, -1.0])
def test_confidence_that_is_none_is_refused(noisy: PairProblem, value: float) -> None:
    broken = edited(noisy.pairs[2], "confidence_first", lambda C: C.fill(value))
    with pytest.raises(InputError, match=r"pair \(0, 3\), first view, has 3072 of 3072 confidences below 1 or not fin"):
        align([*noisy.pairs[:2], broken, *noisy.pairs[3:]])


def test_points_on_a_line_or_in_one_place_are_refused(noisy: PairProblem) -> None:
    along = np.linspace(1, 2, H * W, dtype=np.float32).reshape(H, W, 1) * np.float32([0.2, 0.1, 1.0])
    for X in (along, np.broadcast_to(np.float32([0.1, 0.2, 2.0]), (H, W, 3))):
        C = noisy.pairs[0].confidence_first
        pairs = [PairPrediction(0, 1, X, C, X, C), PairPrediction(1, 0, X, C, X, C)]
        with pytest.raises(GeometryError, match=r"pair \(0, 1\) determines no similarity: weight .*thickness"):
            align(pairs)


def equal_images(pair: PairPrediction, count: int = 3) -> list[PairPrediction]:
    X, C = pair.points_first, pair.confidence_first
    return [PairPrediction(i, j, X, C, X, C) for i in range(count) for j in range(count) if i != j]


def test_equal_images_have_no_baseline_and_lie_in_one_place(noisy: PairProblem) -> None:
    result = align(equal_images(noisy.pairs[0]))
    extent = float(np.median(result.depths[0]))
    assert finite(result) and not any(edge.switched_off for edge in result.edges)
    np.testing.assert_allclose(result.w_T_c, np.tile(result.w_T_c[0], (3, 1, 1)), atol=1e-4 * extent)
    np.testing.assert_allclose(result.depths[0], result.depths[2], rtol=1e-3)


def test_a_camera_that_only_turns_has_poses_without_baseline() -> None:
    focal, grid = 60.0, unproject(np.ones((H, W)), 60.0)
    turns = Rotation.from_rotvec(np.radians([[0, 0, 0], [0, 12, 0], [5, 20, 0]])).as_matrix()
    local = grid * (2.0 + 0.5 * np.sin(grid[..., 0] * 4) * np.cos(grid[..., 1] * 3))[..., None]
    C = np.full((H, W), 4.0, np.float32)
    pairs = [
        PairPrediction(i, j, local.astype(np.float32), C, (local @ (turns[i].T @ turns[j]).T).astype(np.float32), C)
        for i in range(3)
        for j in range(3)
        if i != j
    ]
    result = align(pairs)
    assert finite(result)
    assert np.ptp(result.w_T_c[:, :3, 3], axis=0).max() < 1e-3 * float(np.median(result.depths[0]))
    for i in range(3):
        found = result.w_T_c[0, :3, :3].T @ result.w_T_c[i, :3, :3]
        np.testing.assert_allclose(found, turns[0].T @ turns[i], atol=1e-3)
    assert result.focals == pytest.approx(focal, rel=1e-3)


def test_a_flat_wall_seen_face_on_is_no_trouble() -> None:
    """All depths alike: the canonical depth has no relief, the points lie in one plane."""
    grid = unproject(np.full((H, W), 2.0), 60.0)
    C = np.full((H, W), 4.0, np.float32)
    steps = np.array([[0.0, 0.0, 0.0], [0.3, 0.0, 0.0], [0.0, 0.2, 0.0]])
    pairs = [
        PairPrediction(i, j, grid.astype(np.float32), C, (grid + steps[j] - steps[i]).astype(np.float32), C)
        for i in range(3)
        for j in range(3)
        if i != j
    ]
    result = align(pairs)
    scale = float(np.median(result.depths[0])) / 2.0
    moved = (result.w_T_c[:, :3, 3] - result.w_T_c[0, :3, 3]) @ result.w_T_c[0, :3, :3] / scale
    np.testing.assert_allclose(moved, steps, atol=5e-3)


def test_images_of_two_pixels_are_answered_not_crashed() -> None:
    """Fewer confident pixels than a similarity needs."""
    X, C = np.ones((1, 2, 3), np.float32), np.full((1, 2), 3.0, np.float32)
    with pytest.raises(GeometryError, match=r"pair \(0, 1\) has no information: 2 of 2 pixels"):
        align([PairPrediction(0, 1, X, C, X, C)])
