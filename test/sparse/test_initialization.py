"""The two views that a map starts from. The first poses and the first focal from landmarks alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
from synthetic import HEIGHT, WIDTH, Scene, arc, turning, unposed

from dust3r_ros.errors import GeometryError
from dust3r_ros.geometry.lens import Lens
from dust3r_ros.geometry.pinhole import project
from dust3r_ros.geometry.rigid import BODY_T_OPTICAL, angle_deg, invert
from dust3r_ros.geometry.similarity import weighted_similarity
from dust3r_ros.sparse import initialization
from dust3r_ros.sparse.initialization import (
    FOCAL_STARTS,
    Options,
    PairFromLandmarks,
    Start,
    _Trial,
    _Tried,
    bootstrap,
)
from dust3r_ros.sparse.sparse_map import Intrinsics, SparseMap
from dust3r_ros.tracking import Tracks
from dust3r_ros.types import Array


def pair(
    finder: PairFromLandmarks, sparse: SparseMap, focal: float, views: Sequence[int] = ()
) -> tuple[int, int, Array]:
    """The first pair of ``views``, by default of all, of a camera with that focal."""
    sparse.intrinsics[0].focal = focal
    return finder(sparse, views or range(len(sparse.views)), focal)


def test_the_first_pair_has_parallax() -> None:
    scene = arc(views=4, points=150, focal=330.0)
    scene.w_T_c[1] = scene.w_T_c[0]
    sparse = unposed(scene)
    first, second, first_T_second = pair(PairFromLandmarks(), sparse, 330.0)
    assert {first, second} != {0, 1}
    true = invert(scene.w_T_c[first]) @ scene.w_T_c[second]
    assert angle_deg(first_T_second[:3, :3].T @ true[:3, :3]) < 1.5
    direction = true[:3, 3] / np.linalg.norm(true[:3, 3])
    assert direction @ first_T_second[:3, 3] > 0.99
    with pytest.raises(GeometryError, match="parallax"):
        pair(PairFromLandmarks(), sparse, 330.0, [0, 1])


def test_turning_on_the_spot_gives_no_pair() -> None:
    with pytest.raises(GeometryError, match="5 views"):
        pair(PairFromLandmarks(), unposed(turning()), 330.0)


def test_the_second_focal_finds_the_same_pair() -> None:
    """Only the first focal looks at every pair; what it found serves the others, each with its own pose."""
    scene = arc(views=4, points=150, focal=330.0)
    scene.w_T_c[1] = scene.w_T_c[0]
    sparse = unposed(scene)
    finder = PairFromLandmarks()
    pair(finder, sparse, 250.0)
    first, second, first_T_second = pair(finder, sparse, 330.0)
    again = pair(PairFromLandmarks(), sparse, 330.0)
    assert (first, second) == again[:2]
    np.testing.assert_allclose(first_T_second, again[2], atol=1e-9)


def test_pairs_that_fail_at_a_focal_make_room_for_others() -> None:
    scene = arc(views=4, points=150, focal=330.0)
    sparse = unposed(scene)
    finder = PairFromLandmarks()
    first, second, _ = pair(finder, sparse, 330.0)
    # From here on the views that were best see nothing in common with any other.
    for view in (first, second):
        sparse.views[view].seen = sparse.views[view].seen.select(np.zeros(len(sparse.views[view].seen.ids), bool))
    left = set(range(4)) - {first, second}
    assert set(pair(finder, sparse, 330.0)[:2]) == left


def test_a_pose_that_a_finer_threshold_confirms_is_not_a_second_start() -> None:
    sparse, rough = unposed(arc(views=4, points=150, focal=330.0)), PairFromLandmarks()
    pair(rough, sparse, 330.0)
    finer = PairFromLandmarks(sharp=True, rough=rough)
    with pytest.raises(GeometryError, match="is known"):
        pair(finer, sparse, 330.0)
    assert pair(finer, sparse, 250.0), "the other has not been tried there"


def test_what_is_known_of_pairs_is_not_asked_again() -> None:
    sparse, known = unposed(arc(views=3, points=150, focal=330.0)), {(0, 1): True}
    first, second, _ = pair(PairFromLandmarks(turning=known), sparse, 330.0)
    assert (first, second) != (0, 1) and known == {(0, 1): True, (0, 2): False, (1, 2): False}


def passing() -> SparseMap:
    """Two fifths of the points are near and move; what is still is far enough to fit any direction to a pixel."""
    rng = np.random.default_rng(0)
    still = rng.uniform([-3.0, -2.0, 5.0], [3.0, 2.0, 9.0], (300, 3))
    near = rng.uniform([-0.4, -0.6, 1.4], [0.3, 0.6, 1.6], (200, 3))
    sparse = SparseMap(1.0)
    sparse.intrinsics.append(Intrinsics(330.0, 330.0, std=0.0, fixed=True, lens=Lens(200.0)))
    ids = sparse.landmarks.new(500)
    for step in range(3):
        camera = np.array([0.12 * step, 0.02 * step**2, 0.0])
        points = np.concatenate([still, near + step * np.array([0.15, 0.12, 0.0])]) - camera
        seen = project(points, 330.0, (0.0, 0.0)) + 0.1 * rng.standard_normal((500, 2))
        sparse.add(0, Tracks(ids, seen), None)
    return sparse


@pytest.mark.parametrize("rough", [None, PairFromLandmarks()])
def test_what_moves_by_itself_before_a_far_scene_does_not_choose_the_direction(rough: PairFromLandmarks | None) -> None:
    sparse = passing()
    if rough is not None:
        pair(rough, sparse, 330.0)
    first, second, first_T_second = pair(PairFromLandmarks(sharp=True, rough=rough), sparse, 330.0)
    true = np.array([0.12 * (second - first), 0.02 * (second**2 - first**2), 0.0])
    assert true @ first_T_second[:3, 3] > 0.97 * np.linalg.norm(true)


def starts() -> list[float]:
    return [factor * WIDTH for factor in FOCAL_STARTS]


@pytest.mark.parametrize("focal", [230.0, 330.0, 620.0])
def test_finds_the_focal_among_its_starts(focal: float) -> None:
    scene = arc(views=6, points=150, focal=focal, degrees=45.0)
    sparse = unposed(scene)
    found = bootstrap(sparse, range(6), 0, starts(), Options()).starts
    assert found and [s.score for s in found] == sorted(s.score for s in found)
    assert sparse.intrinsics[0].focal == pytest.approx(focal, rel=0.03)
    assert sparse.intrinsics[0].focal == found[0].focal
    poses = np.stack([view.w_T_c for view in sparse.views])
    similarity = weighted_similarity(poses[:, :3, 3], scene.w_T_c[:, :3, 3])
    np.testing.assert_allclose(similarity.apply(poses[:, :3, 3]), scene.w_T_c[:, :3, 3], atol=0.05)
    for found_pose, true in zip(poses, scene.w_T_c, strict=True):
        relative = (invert(poses[0]) @ found_pose)[:3, :3].T @ (invert(scene.w_T_c[0]) @ true)[:3, :3]
        assert angle_deg(relative) < 1.0


@pytest.mark.parametrize("zooms", [(1.0,) * 6, (1.0, 1.2, 0.85, 1.15, 0.9, 1.3)])
def test_views_of_as_many_cameras_give_each_its_focal(zooms: tuple[float, ...]) -> None:
    """The one that begins the map is no more certain than the others."""
    scene = arc(views=6, points=300, focal=330.0)
    sparse = unposed(replace(scene, focal=330.0 * np.array(zooms)))
    sparse.intrinsics = [replace(sparse.intrinsics[0]) for _ in zooms]
    for index, view in enumerate(sparse.views):
        view.camera = index
    assert bootstrap(sparse, range(6), 5, starts(), Options(unknown=range(6))).starts
    assert [known.focal / zoom for known, zoom in zip(sparse.intrinsics, zooms, strict=True)] == pytest.approx(
        [330.0] * 6, rel=0.03
    )
    poses = np.stack([view.w_T_c for view in sparse.views])
    similarity = weighted_similarity(poses[:, :3, 3], scene.w_T_c[:, :3, 3])
    np.testing.assert_allclose(similarity.apply(poses[:, :3, 3]), scene.w_T_c[:, :3, 3], atol=0.15)


def test_the_last_views_begin_a_map_if_the_first_lead_to_nothing() -> None:
    """The first two see what no other view does, the next two nothing twice: no start from these poses the others."""
    scene, elsewhere = arc(views=8, points=150, focal=330.0), arc(views=8, points=150, focal=330.0, seed=1)
    sparse, rng = unposed(scene), np.random.default_rng(0)
    for view, other in zip(sparse.views[:2], unposed(elsewhere).views[:2], strict=True):
        view.seen = other.seen
    for view in sparse.views[2:4]:
        count = len(view.seen.ids)
        view.seen = Tracks(view.seen.ids, rng.uniform([-WIDTH / 2, -HEIGHT / 2], [WIDTH / 2, HEIGHT / 2], (count, 2)))
    assert bootstrap(sparse, range(8), 0, starts(), Options()).starts
    assert sparse.posed() == [4, 5, 6, 7]
    assert sparse.intrinsics[0].focal == pytest.approx(330.0, rel=0.05)


def test_the_frame_and_the_unit_of_a_new_map() -> None:
    sparse = unposed(arc(points=150))
    assert bootstrap(sparse, range(6), 0, starts(), Options()).starts
    np.testing.assert_allclose(sparse.views[0].w_T_c, BODY_T_OPTICAL, atol=1e-9)
    assert sparse.median_depth(0) == pytest.approx(1.0)


def test_wrong_matches_do_no_harm() -> None:
    sparse = unposed(arc(points=200, focal=330.0), wrong=0.1)
    assert bootstrap(sparse, range(6), 0, starts(), Options()).starts
    assert sparse.intrinsics[0].focal == pytest.approx(330.0, rel=0.03)


def test_a_known_focal_is_one_start() -> None:
    sparse = unposed(arc(points=150, focal=330.0))
    sparse.intrinsics[0] = Intrinsics(330.0, 330.0, 0.0, fixed=True)
    assert bootstrap(sparse, range(6), 0, [330.0], Options()).starts
    assert sparse.intrinsics[0].focal == 330.0


def unchanged(sparse: SparseMap, scene_views: int, focal: float = WIDTH) -> None:
    assert all(view.w_T_c is None for view in sparse.views) and len(sparse.views) == scene_views
    assert not sparse.positioned.any()
    assert all(len(view.pruned.ids) == 0 for view in sparse.views)
    assert sparse.intrinsics[0].focal == focal


def test_turning_on_the_spot_makes_no_map() -> None:
    sparse = unposed(turning())
    before = [view.seen.pixels.copy() for view in sparse.views]
    assert bootstrap(sparse, range(5), 0, starts(), Options()).starts == []
    unchanged(sparse, 5)
    for view, pixels in zip(sparse.views, before, strict=True):
        np.testing.assert_array_equal(view.seen.pixels, pixels)


@pytest.mark.parametrize("points", [0, 5, 12])
def test_too_few_landmarks_make_no_map(points: int) -> None:
    sparse = unposed(arc(points=points))
    assert bootstrap(sparse, range(6), 0, starts(), Options()).starts == []
    unchanged(sparse, 6)


def test_random_matches_make_no_map() -> None:
    sparse = unposed(arc(views=3, points=60), wrong=1.0)
    assert bootstrap(sparse, range(3), 0, starts(), Options()).starts == []
    unchanged(sparse, 3)


def test_one_view_makes_no_map() -> None:
    sparse = unposed(arc(views=1))
    assert bootstrap(sparse, [0], 0, starts(), Options()).starts == []


def test_a_good_map_is_not_replaced() -> None:
    """Trying other focals on a map that explains all leaves it, to the bit."""
    sparse = unposed(arc(points=150, focal=330.0))
    bootstrap(sparse, range(6), 0, starts(), Options())
    points, focal = sparse.points.copy(), sparse.intrinsics[0].focal
    assert bootstrap(sparse, range(6), 0, [0.4 * focal, 1.8 * focal], Options()).starts == []
    np.testing.assert_array_equal(sparse.points, points)
    assert sparse.intrinsics[0].focal == focal


def test_a_bad_map_is_replaced() -> None:
    sparse = unposed(arc(points=150, focal=330.0))
    sparse.intrinsics[0].fixed = True
    assert bootstrap(sparse, range(6), 0, [800.0], Options()).starts, "explains badly, but more than nothing"
    before = sparse.misfit()
    sparse.intrinsics[0].fixed = False
    assert bootstrap(sparse, range(6), 0, starts(), Options()).starts
    assert sparse.misfit() < 0.5 * before
    assert sparse.intrinsics[0].focal == pytest.approx(330.0, rel=0.03)


def test_many_landmarks_are_all_used_in_the_end() -> None:
    """A focal is chosen by a sample; the map that stays is made of everything that is seen."""
    scene = arc(views=5, points=2000, focal=330.0)
    sparse = unposed(scene, wrong=0.05)
    assert bootstrap(sparse, range(5), 0, starts(), Options()).starts
    assert sparse.intrinsics[0].focal == pytest.approx(330.0, rel=0.01)
    ids = np.unique(np.concatenate([view.seen.ids for view in sparse.views]))
    assert sparse.positioned[ids].mean() > 0.95


def test_a_start_that_cannot_be_built_is_passed_over() -> None:
    """A pair that only some focals give does not end the search."""
    usual = PairFromLandmarks()

    def first_pair(sparse: SparseMap, views: Sequence[int], focal: float) -> tuple[int, int, np.ndarray]:
        if focal > WIDTH:
            raise GeometryError("no pair")
        return usual(sparse, views, focal)

    sparse = unposed(arc(points=150, focal=330.0))
    assert bootstrap(sparse, range(6), 0, [900.0, 300.0, 700.0], Options(first_pair)).starts
    assert sparse.intrinsics[0].focal == pytest.approx(330.0, rel=0.03)
    assert bootstrap(unposed(arc(points=150)), range(6), 0, [900.0], Options(first_pair)).starts == []


@pytest.mark.parametrize(("lost", "starts_left"), [(0.5, 1), (0.8, 0)])
def test_a_start_that_loses_most_of_its_landmarks_is_refused(
    lost: float, starts_left: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a very long focal, what slides by looks flat and far: an adjustment may give up all but a few landmarks."""
    settle = initialization._settle

    def losing(sparse: SparseMap, limits: Sequence[float], iterations: int) -> None:
        settle(sparse, limits, iterations)
        if iterations == initialization._WHOLE_STEPS:
            ids = np.flatnonzero(sparse.positioned)
            sparse.points[ids[: int(lost * len(ids))]] = np.nan

    monkeypatch.setattr(initialization, "_settle", losing)
    sparse = unposed(arc(points=150, focal=330.0))
    assert len(bootstrap(sparse, range(6), 0, [330.0], Options()).starts) == starts_left


def test_a_view_that_shares_too_little_is_left_out() -> None:
    """The first image of a sequence may show hardly anything of the others; they are posed all the same."""
    scene = arc(views=7, points=150, focal=330.0)
    sparse = unposed(scene)
    sparse.views[0].seen = sparse.views[0].seen.select(np.arange(6))
    assert bootstrap(sparse, range(7), 0, starts(), Options()).starts
    assert [view.w_T_c is not None for view in sparse.views] == [False] + [True] * 6
    assert sparse.intrinsics[0].focal == pytest.approx(330.0, rel=0.03)
    np.testing.assert_allclose(sparse.views[1].w_T_c, BODY_T_OPTICAL, atol=1e-9)


def test_nothing_is_built_from_a_few_of_many_views() -> None:
    sparse = unposed(arc(views=8, points=150, focal=330.0))
    for view in sparse.views[3:]:
        view.seen = view.seen.select(np.arange(4))
    assert bootstrap(sparse, range(8), 0, [330.0], Options()).starts == []
    unchanged(sparse, 8)


def test_the_pair_need_not_be_among_the_first_views() -> None:
    scene = arc(views=8, points=150, focal=330.0)
    still = np.concatenate([np.repeat(scene.w_T_c[:1], 4, axis=0), scene.w_T_c[1:5]])
    sparse = unposed(Scene(still, scene.points, scene.focal), noise=0.05)
    assert bootstrap(sparse, range(8), 0, starts(), Options()).starts
    assert sparse.intrinsics[0].focal == pytest.approx(330.0, rel=0.03)


def test_how_close_another_focal_comes() -> None:
    """Where cameras mostly turn, another focal with other poses explains noisy observations nearly as well."""
    clear = bootstrap(unposed(arc(views=6, points=150, focal=330.0)), range(6), 0, starts(), Options())
    assert clear.rival > 2.0
    scene = turning()
    poses = scene.w_T_c.copy()
    poses[:, 1, 3] += 0.2 * np.arange(len(poses))
    some = [
        bootstrap(unposed(Scene(poses, scene.points, scene.focal), noise), range(len(poses)), 0, starts(), Options())
        for noise in (0.3, 1.0)
    ]
    assert some[0].rival > 1.3 and 1.0 < some[1].rival < 1.1


def test_a_focal_that_a_sample_prefers_is_no_rival_if_all_landmarks_lead_back() -> None:
    """On few landmarks 650 may seem as good as 330; with all of them that trial ends where the others do."""
    trials = [
        _Trial(tried, score, focal, (), ()) for tried, score, focal in ((200.0, 1.0, 331.0), (1280.0, 0.9, 650.0))
    ]
    tried = _Tried(Start(1.0, 330.0), trials, frozenset())
    assert tried.rival(Start(1.0, 330.0), {}) == (0.9, 650.0)
    assert tried.rival(Start(1.0, 330.0), {200.0: 329.0, 1280.0: 328.0})[0] == np.inf
    assert tried.rival(Start(1.0, 330.0), {1280.0: 500.0}) == (0.9, 500.0)


def test_some_of_the_views_choose_the_focal() -> None:
    sparse = unposed(arc(views=12, points=150, focal=330.0, degrees=60.0))
    assert bootstrap(sparse, range(12), 0, starts(), Options(tried_on=6)).starts
    assert sparse.intrinsics[0].focal == pytest.approx(330.0, rel=0.03)
    assert len(sparse.posed()) == 12


def test_an_unusual_focal_costs_as_much_as_it_is_reported() -> None:
    best = []
    for unusual in (0.05, 5.0):
        sparse = unposed(arc(views=4, points=150, focal=330.0, degrees=10.0), noise=1.0)
        best.append(bootstrap(sparse, range(4), 0, starts(), Options(unusual=unusual)).starts[0])
    assert best[1].score >= best[0].score
    assert abs(np.log(best[1].focal / WIDTH)) <= abs(np.log(best[0].focal / WIDTH))
