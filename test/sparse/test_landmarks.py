"""Ids, mergers and positions of landmarks; observations gathered over views, their rays and errors, points of rays."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from synthetic import PLAIN, arc, sparse_of

from dust3r_ros.geometry.lens import Lens
from dust3r_ros.sparse import landmarks
from dust3r_ros.sparse.landmarks import (
    BLOCK,
    Intrinsics,
    Landmarks,
    SparseView,
    different,
    observations_of,
    ranks,
    reprojection_errors,
    triangulate,
    viewing_rays,
    widest_angle,
)
from dust3r_ros.tracking import Tracks


def test_numbers_go_on_and_positions_survive_growth() -> None:
    landmarks = Landmarks()
    first = landmarks.new(700)
    landmarks.positions[first] = np.arange(700)[:, None]
    more = landmarks.new(5000)
    assert more[0] == 700 and len(landmarks) == 5700
    np.testing.assert_array_equal(landmarks.positions[:700, 1], np.arange(700))
    assert np.isnan(landmarks.positions[700:]).all()


def test_what_is_merged_with_a_barred_landmark_has_no_position() -> None:
    landmarks = Landmarks()
    landmarks.new(5)
    landmarks.positions[[1, 2, 4]] = 1.0
    landmarks.bar(np.array([0, 3]))
    landmarks.merge(np.array([0, 2]), np.array([1, 3]))
    assert np.isfinite(landmarks.positions[:, 0]).tolist() == [False] * 4 + [True]


@pytest.mark.parametrize("known", [{"prior_std": 0.1}, {"guess_std": 0.1}])
def test_what_was_known_before_the_images_is_no_surer_through_them(known: dict[str, float]) -> None:
    assert Intrinsics(300.0, 300.0, 0.1, **known).total_std == pytest.approx(0.1, rel=1e-3)
    assert Intrinsics(300.0, 300.0, 0.35).total_std == pytest.approx(0.35, rel=1e-3), "the usual prior"
    assert Intrinsics(300.0, 300.0, 0.01).total_std == pytest.approx(np.hypot(0.01 / 1.7, 0.002), rel=1e-3)


def test_a_rival_counts_until_an_adjustment_has_gone_as_far() -> None:
    """To it, or away from it: both are in one valley, which the deviation covers."""
    guess = Intrinsics(640.0, 640.0, 0.01, rival=(540.0, 0.9, 640.0))
    assert guess.total_std == pytest.approx(0.9 * np.log(640 / 540), rel=1e-2)
    assert replace(guess, focal=620.0).total_std == pytest.approx(guess.total_std)
    assert replace(guess, focal=542.0).total_std < 0.01 and replace(guess, focal=252.0).total_std < 0.01


def test_an_odd_focal_of_a_map_in_doubt_is_hardly_known() -> None:
    """Where much contradicts a map, it may be wrong altogether; a long lens alone is no reason to doubt."""
    long = Intrinsics(1500.0, 545.0, 0.01, contradicted=0.005)
    assert long.total_std < 0.01
    assert replace(long, contradicted=0.06).total_std > 0.3 and replace(long, contradicted=0.5).total_std > 0.8
    assert replace(long, focal=330.0, contradicted=0.06).total_std < 0.02
    assert replace(long, guess_std=0.1, contradicted=0.06).total_std < 0.1, "it was known before"


def test_the_older_stays_and_takes_a_position() -> None:
    landmarks = Landmarks()
    landmarks.new(4)
    landmarks.positions[3] = 1.0, 2.0, 3.0
    assert landmarks.merge(np.array([3]), np.array([1])).tolist() == [3]
    np.testing.assert_array_equal(landmarks.positions[1], [1.0, 2.0, 3.0])
    assert np.isnan(landmarks.positions[3]).all()
    assert landmarks.merge(np.array([3]), np.array([1])).tolist() == [], "they are one already"


@given(st.lists(st.tuples(st.integers(0, 19), st.integers(0, 19)), max_size=40))
def test_mergers_are_an_equivalence(pairs: list[tuple[int, int]]) -> None:
    landmarks = Landmarks()
    landmarks.new(20)
    groups = {i: {i} for i in range(20)}
    for a, b in pairs:  # one at a time, so that ids that are gone are merged again
        landmarks.merge(np.array([a]), np.array([b]))
        union = groups[a] | groups[b]
        for i in union:
            groups[i] = union
    np.testing.assert_array_equal(landmarks.resolved(np.arange(20)), [min(groups[i]) for i in range(20)])


@given(st.lists(st.tuples(st.integers(0, 19), st.integers(0, 19)), min_size=1, max_size=40))
def test_many_at_once_are_as_one_by_one(pairs: list[tuple[int, int]]) -> None:
    together, single = Landmarks(), Landmarks()
    together.new(20), single.new(20)
    a, b = np.array(pairs).T
    gone = together.merge(a, b)
    for i, j in pairs:
        single.merge(np.array([i]), np.array([j]))
    ids = np.arange(20)
    np.testing.assert_array_equal(together.resolved(ids), single.resolved(ids))
    np.testing.assert_array_equal(gone, np.flatnonzero(together.resolved(ids) != ids))


def test_landmarks_of_another_session() -> None:
    landmarks, again = Landmarks(), Landmarks()
    landmarks.new(3 * BLOCK)
    landmarks.merge(np.array([5, 9]), np.array([2, 5]))
    landmarks.merge(np.array([BLOCK + 1]), np.array([2 * BLOCK + 7]))
    assert [landmarks.aliases(merges)[1].tolist() for merges in range(3)] == [[0, 2], [2], []], "where an id went"
    merges, _, aliases = landmarks.aliases()
    assert merges == 2
    again.restore(aliases.copy())
    every = np.arange(3 * BLOCK)
    np.testing.assert_array_equal(again.resolved(every), landmarks.resolved(every))
    assert np.isnan(again.positions).all() and again.new(1).tolist() == [3 * BLOCK]


@given(
    st.lists(st.tuples(st.integers(0, 19), st.integers(0, 19)), max_size=20),
    st.sets(st.integers(0, 19), max_size=12),
    st.sets(st.integers(0, 19), max_size=3),
)
def test_few_stay_with_what_is_known_of_them(pairs: list[tuple[int, int]], few: set[int], barred: set[int]) -> None:
    landmarks = Landmarks()
    landmarks.new(20)
    landmarks.positions[:] = np.arange(20)[:, None]
    for a, b in pairs:
        landmarks.merge(np.array([a]), np.array([b]))
    landmarks.bar(np.array(sorted(barred), np.int64))
    some = np.array(sorted(few), np.int64)
    kept = np.union1d(some, landmarks.resolved(some)).astype(np.int64)
    now, where = landmarks.resolved(kept), landmarks.positions[kept].copy()
    out = landmarks.is_barred(kept)
    landmarks.keep(kept)
    assert len(landmarks) == len(kept)
    every = np.arange(len(kept))
    np.testing.assert_array_equal(kept[landmarks.resolved(every)], now)
    np.testing.assert_array_equal(landmarks.positions, where)
    np.testing.assert_array_equal(landmarks.is_barred(every), out)
    np.testing.assert_array_equal(landmarks.new(2), [len(kept), len(kept) + 1])
    assert np.isnan(landmarks.positions[-2:]).all()
    assert landmarks.aliases()[1].tolist() == [] or pairs, "blocks are of the mergers since"


def test_mergers_are_told_by_blocks_however_many_there_are() -> None:
    landmarks = Landmarks()
    landmarks.new(2 * BLOCK)
    for k in range(100):
        landmarks.merge(np.array([BLOCK + k + 1]), np.array([BLOCK]))
    assert landmarks.aliases()[0] == 100 and landmarks.aliases()[1].tolist() == [1]
    landmarks.merge(np.array([5]), np.array([4]))
    assert landmarks.aliases(100)[1].tolist() == [0] and len(landmarks._removed) == 2


Ids = st.lists(st.integers(0, 12), max_size=8, unique=True)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(st.lists(st.tuples(Ids, Ids), min_size=1, max_size=4), Ids, st.booleans())
def test_every_observation_of_what_is_seen_twice(
    seen: list[tuple[list[int], list[int]]], wanted: list[int], pruned: bool
) -> None:
    def tracks(view: int, ids: list[int]) -> Tracks:
        return Tracks(np.array(ids, np.int64), np.array([[view, i] for i in ids], float).reshape(-1, 2))

    views = [SparseView(0, None, tracks(v, a), tracks(v, b)) for v, (a, b) in enumerate(seen)]
    ids = np.array(sorted(wanted), np.int64)
    chosen = range(0, len(views), 2) if len(views) > 2 else range(len(views))
    view, point, offset = observations_of(views, chosen, ids, pruned)
    expected = [(v, i) for v in chosen for i in [*seen[v][0], *(seen[v][1] if pruned else [])] if i in wanted]
    expected = [(v, i) for v, i in expected if sum(j == i for _, j in expected) >= 2]
    assert list(zip(view.tolist(), ids[point].tolist(), strict=True)) == expected
    np.testing.assert_array_equal(offset, np.array(expected, float).reshape(-1, 2))


@given(st.lists(st.lists(st.one_of(st.integers(0, 60), st.integers(0, 10**9)), max_size=20), max_size=4))
def test_different_ids(ids: list[list[int]]) -> None:
    found = different([np.array(some, np.int64) for some in ids])
    assert found.tolist() == sorted({i for some in ids for i in some})


def test_ranks() -> None:
    used, which = ranks(np.array([7, 2, 2, 9]), 12)
    assert used.tolist() == [2, 7, 9] and which.tolist() == [1, 0, 0, 2]
    assert [len(a) for a in ranks(np.zeros(0, int), 5)] == [0, 0]


def test_lines_and_errors_of_true_points() -> None:
    scene = arc(views=4)
    sparse = sparse_of(scene)
    view, point, offset = observations_of(sparse.views, [1, 3], np.arange(len(scene.points)))
    directions, centers = viewing_rays(sparse.views, sparse.intrinsics, view, offset)
    np.testing.assert_allclose(np.linalg.norm(directions, axis=1), 1.0)
    toward = scene.points[point] - centers
    np.testing.assert_allclose(np.cross(directions, toward), 0.0, atol=1e-9)
    assert (np.sum(directions * toward, axis=1) > 0).all()
    points = scene.points[point]
    np.testing.assert_allclose(
        reprojection_errors(sparse.views, sparse.intrinsics, view, points, offset), 0.0, atol=1e-9
    )
    off = reprojection_errors(sparse.views, sparse.intrinsics, view, points, offset + np.array([3.0, 4.0]))
    np.testing.assert_allclose(off, 5.0)


def test_lines_and_errors_through_lenses() -> None:
    """Each camera's observations are straightened by its own lens."""
    scene, lenses = arc(views=4), [PLAIN, Lens(200.0, -0.07, (3.0, -4.0))]
    sparse = sparse_of(scene)
    sparse.intrinsics = [Intrinsics(300.0, 300.0, lens=lens) for lens in lenses]
    for index, entry in enumerate(sparse.views):
        entry.camera = index % 2
        entry.seen = Tracks(entry.seen.ids, lenses[index % 2].seen(entry.seen.pixels))
    view, point, offset = observations_of(sparse.views, range(4), np.arange(len(scene.points)))
    given = offset.copy()
    directions, centers = viewing_rays(sparse.views, sparse.intrinsics, view, offset)
    np.testing.assert_allclose(np.cross(directions, scene.points[point] - centers), 0.0, atol=1e-9)
    errors = reprojection_errors(sparse.views, sparse.intrinsics, view, scene.points[point], offset)
    np.testing.assert_allclose(errors, 0.0, atol=1e-8)
    np.testing.assert_array_equal(offset, given)
    sparse.intrinsics[1].lens = PLAIN
    bent = reprojection_errors(sparse.views, sparse.intrinsics, view, scene.points[point], offset)
    assert (bent[view % 2 == 0] < 1e-8).all() and (bent[view % 2 == 1] > 1.0).all()


def test_what_has_no_image_is_infinitely_far_off() -> None:
    sparse = sparse_of(arc(views=2))
    behind = sparse.views[0].w_T_c[:3, 3] - sparse.views[0].w_T_c[:3, 2]
    points = np.stack([behind, np.full(3, np.nan)])
    assert np.isinf(
        reprojection_errors(sparse.views, sparse.intrinsics, np.zeros(2, int), points, np.zeros((2, 2)))
    ).all()


NOISE = 1 / 300


def rays_to(points: np.ndarray, centers: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Rays from every centre to every point: centres (M, 3), unit directions (M, 3), point index (M,)."""
    at = np.repeat(centers, len(points), axis=0)
    group = np.tile(np.arange(len(points)), len(centers))
    toward = points[group] - at
    return at, toward / np.linalg.norm(toward, axis=1, keepdims=True), group


@settings(max_examples=40, deadline=None, derandomize=True)
@given(st.integers(0, 10**6), st.integers(2, 6), st.integers(1, 30), st.floats(0.01, 1000.0))
def test_rays_that_meet(seed: int, views: int, count: int, unit: float) -> None:
    rng = np.random.default_rng(seed)
    points = unit * rng.uniform([-1, -1, 4], [1, 1, 6], (count, 3))
    centers = unit * rng.uniform(-1, 1, (views, 3))
    found, angles = triangulate(*rays_to(points, centers), count, NOISE)
    wide = angles > 0.5
    np.testing.assert_allclose(found[wide], points[wide], atol=1e-5 * unit)


def test_the_angle_is_that_between_the_rays() -> None:
    point, centers = np.array([[0.0, 0.0, 1.0]]), np.array([[0.0, 0, 0], [1.0, 0, 0], [0.1, 0, 0]])
    _, angles = triangulate(*rays_to(point, centers), 1, NOISE)
    assert angles[0] == pytest.approx(45.0)


def test_the_middle_of_rays_that_miss() -> None:
    centers = np.array([[0.0, 0, 0], [1.0, 0.02, 0]])
    directions = np.array([[0.5, 0, 1.0], [-0.5, 0, 1.0]]) / np.sqrt(1.25)
    found, _ = triangulate(centers, directions, np.zeros(2, int), 1, NOISE)
    np.testing.assert_allclose(found[0], [0.5, 0.01, 1.0], atol=1e-9)


def test_one_wrong_ray_among_several_hardly_pulls() -> None:
    rng = np.random.default_rng(0)
    points = rng.uniform([-1, -1, 4], [1, 1, 6], (50, 3))
    centers = np.array([[x, 0.1 * x, 0.0] for x in np.linspace(-1, 1, 6)])
    at, directions, group = rays_to(points, centers)
    directions[3 * 50 : 4 * 50] += rng.normal(0, 0.1, (50, 3))  # the fourth view has matched everything wrongly
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    found, _ = triangulate(at, directions, group, 50, NOISE)
    without = np.ones(300, bool)
    without[3 * 50 : 4 * 50] = False
    clean, _ = triangulate(at[without], directions[without], group[without], 50, NOISE)
    np.testing.assert_allclose(clean, points, atol=1e-6)
    assert np.median(np.linalg.norm(found - points, axis=1)) < 0.02


def test_noise_is_averaged_over_views() -> None:
    rng = np.random.default_rng(1)
    points = rng.uniform([-1, -1, 4], [1, 1, 6], (200, 3))
    errors = []
    for views in (2, 12):
        centers = np.array([[x, 0.3 * np.sin(5 * x), 0.0] for x in np.linspace(-1, 1, views)])
        at, directions, group = rays_to(points, centers)
        directions += rng.normal(0, 1e-3, directions.shape)
        directions /= np.linalg.norm(directions, axis=1, keepdims=True)
        found, _ = triangulate(at, directions, group, len(points), NOISE)
        errors.append(np.median(np.linalg.norm(found - points, axis=1)))
    assert errors[1] < errors[0]


def test_rays_that_say_nothing() -> None:
    """One ray, parallel rays and no ray: no point, and no parallax."""
    centers = np.array([[0.0, 0, 0], [0.0, 0, 0], [1.0, 0, 0], [0.0, 0, 0], [0.5, 0, 0]])
    directions = np.array([[0.0, 0, 1], [0.0, 0, 1], [0.0, 0, 1], [0.0, 0.6, 0.8], [0.0, 0.6, 0.8]])
    found, angles = triangulate(centers, directions, np.array([0, 1, 1, 3, 3]), 5, NOISE)
    assert np.isnan(found).all()
    np.testing.assert_allclose(angles, 0.0, atol=1e-4)


def test_nothing_at_all() -> None:
    found, angles = triangulate(np.zeros((0, 3)), np.zeros((0, 3)), np.zeros(0, int), 0, NOISE)
    assert found.shape == (0, 3) and angles.shape == (0,)


@pytest.mark.parametrize("views", [2, 5])
def test_a_compiler_changes_nothing_in_points(views: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Some rays are wrong, some points have one ray or none."""
    assert landmarks.LIBRARY is not None
    rng = np.random.default_rng(views)
    points, centers = rng.uniform([-1, -1, 4], [1, 1, 6], (80, 3)), rng.uniform(-1, 1, (views, 3))
    at, directions, group = rays_to(points, centers)
    directions = directions + rng.normal(0, np.where(rng.random((len(group), 1)) < 0.1, 0.1, 1e-3), directions.shape)
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    some = rng.permutation(len(group))[: 2 * len(group) // 3]
    given = at[some], directions[some], group[some]
    compiled, angles = triangulate(*given, 80, NOISE)
    flat = widest_angle(*given[1:], 80)
    monkeypatch.setattr(landmarks, "LIBRARY", None)
    plain, plain_angles = triangulate(*given, 80, NOISE)
    np.testing.assert_allclose(compiled, plain, rtol=1e-7, atol=1e-9)
    np.testing.assert_allclose(angles, plain_angles, atol=1e-5)
    np.testing.assert_array_equal(flat, angles)
    assert 0 < np.isnan(plain).sum() < plain.size
