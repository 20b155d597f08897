"""Sights gathered over views, their rays and their errors."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from synthetic import PLAIN, arc, sparse_of

from dust3r_ros.alignment.sight_lines import different, ranks, sight_errors, sight_lines, sights_of
from dust3r_ros.alignment.sparse_view import Focal, SparseView
from dust3r_ros.geometry.lens import Lens
from dust3r_ros.tracking import Tracks

Ids = st.lists(st.integers(0, 12), max_size=8, unique=True)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(st.lists(st.tuples(Ids, Ids), min_size=1, max_size=4), Ids, st.booleans())
def test_every_sight_of_what_is_seen_twice(
    seen: list[tuple[list[int], list[int]]], wanted: list[int], pruned: bool
) -> None:
    def tracks(view: int, ids: list[int]) -> Tracks:
        return Tracks(np.array(ids, np.int64), np.array([[view, i] for i in ids], float).reshape(-1, 2))

    views = [SparseView(0, None, tracks(v, a), tracks(v, b)) for v, (a, b) in enumerate(seen)]
    ids = np.array(sorted(wanted), np.int64)
    chosen = range(0, len(views), 2) if len(views) > 2 else range(len(views))
    view, point, offset = sights_of(views, chosen, ids, pruned)
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
    view, point, offset = sights_of(sparse.views, [1, 3], np.arange(len(scene.points)))
    directions, centers = sight_lines(sparse.views, sparse.focals, view, offset)
    np.testing.assert_allclose(np.linalg.norm(directions, axis=1), 1.0)
    toward = scene.points[point] - centers
    np.testing.assert_allclose(np.cross(directions, toward), 0.0, atol=1e-9)
    assert (np.sum(directions * toward, axis=1) > 0).all()
    points = scene.points[point]
    np.testing.assert_allclose(sight_errors(sparse.views, sparse.focals, view, points, offset), 0.0, atol=1e-9)
    off = sight_errors(sparse.views, sparse.focals, view, points, offset + np.array([3.0, 4.0]))
    np.testing.assert_allclose(off, 5.0)


def test_lines_and_errors_through_lenses() -> None:
    """Each camera's sights are straightened by its own lens."""
    scene, lenses = arc(views=4), [PLAIN, Lens(200.0, -0.07, (3.0, -4.0))]
    sparse = sparse_of(scene)
    sparse.focals = [Focal(300.0, 300.0, lens=lens) for lens in lenses]
    for index, entry in enumerate(sparse.views):
        entry.camera = index % 2
        entry.seen = Tracks(entry.seen.ids, lenses[index % 2].seen(entry.seen.pixels))
    view, point, offset = sights_of(sparse.views, range(4), np.arange(len(scene.points)))
    given = offset.copy()
    directions, centers = sight_lines(sparse.views, sparse.focals, view, offset)
    np.testing.assert_allclose(np.cross(directions, scene.points[point] - centers), 0.0, atol=1e-9)
    errors = sight_errors(sparse.views, sparse.focals, view, scene.points[point], offset)
    np.testing.assert_allclose(errors, 0.0, atol=1e-8)
    np.testing.assert_array_equal(offset, given)
    sparse.focals[1].lens = PLAIN
    bent = sight_errors(sparse.views, sparse.focals, view, scene.points[point], offset)
    assert (bent[view % 2 == 0] < 1e-8).all() and (bent[view % 2 == 1] > 1.0).all()


def test_what_has_no_image_is_infinitely_far_off() -> None:
    sparse = sparse_of(arc(views=2))
    behind = sparse.views[0].w_T_c[:3, 3] - sparse.views[0].w_T_c[:3, 2]
    points = np.stack([behind, np.full(3, np.nan)])
    assert np.isinf(sight_errors(sparse.views, sparse.focals, np.zeros(2, int), points, np.zeros((2, 2)))).all()
