"""What a map finds out about its cameras' lenses, and when it leaves them alone."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from synthetic import PLAIN, WIDTH, Scene, arc, past_a_wall, sparse_of, unposed

from dust3r_ros.geometry.lens import Lens
from dust3r_ros.scenes.sequence import look_at
from dust3r_ros.sparse import lens_refinement
from dust3r_ros.sparse.initialization import Options, bootstrap
from dust3r_ros.sparse.landmarks import Intrinsics
from dust3r_ros.sparse.lens_refinement import (
    consider_images,
    consider_lenses,
    look_off_center,
    measure_zoom,
    refine_lenses,
)
from dust3r_ros.sparse.refinement import place_landmarks, refine
from dust3r_ros.sparse.sparse_map import SparseMap
from dust3r_ros.tracking import Tracks
from dust3r_ros.types import Array

FOCAL = 330.0


def built(lens: Lens, views: int = 12, noise: float = 0.1) -> SparseMap:
    """A map of what ``lens`` shows, as cameras without distortion explain it."""
    sparse = unposed(past_a_wall(views), noise, lens=lens)
    assert bootstrap(sparse, range(views), 0, [0.8 * WIDTH, 1.2 * WIDTH], Options()).starts
    refine(sparse, free_focal=True)
    return sparse


def test_a_lens_is_found_and_the_focal_is_right() -> None:
    sparse = built(Lens(WIDTH / 2, -0.07, (3.0, -4.0)))
    intrinsics, misfit = sparse.intrinsics[0], sparse.misfit()
    before = abs(intrinsics.focal / FOCAL - 1)
    solution = refine_lenses(sparse)
    assert solution is not None and 0 < solution.lens_std[0, 0] < 0.03
    assert intrinsics.lens.radial == pytest.approx(-0.07, abs=0.002)
    np.testing.assert_allclose(intrinsics.lens.center, [3.0, -4.0], atol=1.5)
    assert abs(intrinsics.focal / FOCAL - 1) < 0.006 and before > 0.015
    assert sparse.misfit() < 0.5 * misfit


def test_a_lens_that_is_known_is_found_again() -> None:
    """A second time it starts from what the first time left, with all that is known of it free."""
    sparse = built(Lens(WIDTH / 2, -0.07, (3.0, -4.0)))
    refine_lenses(sparse)
    first = sparse.intrinsics[0].lens
    sparse.intrinsics[0].lens = Lens(WIDTH / 2, -0.06, (1.0, -1.0))
    refine_lenses(sparse)
    assert sparse.intrinsics[0].lens.distance(first) < 1e-3 * WIDTH / 2  # radial terms make up for each other
    np.testing.assert_allclose(sparse.intrinsics[0].lens.center, first.center, atol=0.7)


def test_a_lens_that_does_nothing_stays_plain() -> None:
    sparse = built(PLAIN)
    refine_lenses(sparse)
    assert sparse.intrinsics[0].lens.plain
    assert sparse.intrinsics[0].focal == pytest.approx(FOCAL, rel=0.005)


def test_what_is_set_to_0_does_not_make_the_errors_count_less() -> None:
    """Without a center of half a pixel errors are larger until the map is adjusted: they are no measure of noise."""
    sparse = built(Lens(WIDTH / 2, 0.15, (0.5, 0.1)), noise=0.02)
    solution = refine_lenses(sparse)
    assert solution is not None and sparse.intrinsics[0].lens.center == (0.0, 0.0)
    free = refine(sparse, free_focal=True, free_lens=np.ones((1, 5), bool), sharp=True)
    assert free is not None and solution.lens_std[0, 0] < 1.3 * free.lens_std[0, 0]


def test_a_center_far_off_the_middle_is_looked_for() -> None:
    """That of a cropped image: 80 pixels are 20 deviations of the prior, and another focal explains nearly as much."""
    sparse = built(Lens(WIDTH / 2, 0.0, (80.0, 0.0)), views=6, noise=0.3)
    usual = refine_lenses(sparse)
    assert abs(sparse.intrinsics[0].focal / FOCAL - 1) > 0.1
    assert look_off_center(sparse, usual)
    assert abs(sparse.intrinsics[0].focal / FOCAL - 1) < 0.015
    np.testing.assert_allclose(sparse.intrinsics[0].lens.center, [80.0, 0.0], atol=5.0)


def test_a_center_that_explains_no_more_is_not_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    """A sample of the map, with fewer observations, may move it, and the focal, without saying more of them."""
    sparse = built(Lens(WIDTH / 2, 0.0, (80.0, 0.0)), views=6, noise=0.3)
    usual = refine_lenses(sparse)
    before = [(known.focal, known.lens) for known in sparse.intrinsics]
    monkeypatch.setattr(lens_refinement, "_unlikelihood", lambda sparse, scatter: 100.0)
    assert not look_off_center(sparse, usual)
    assert [(known.focal, known.lens) for known in sparse.intrinsics] == before


@pytest.mark.parametrize("views", [4, 6, 12])
def test_a_center_in_the_middle_stays_there(views: int) -> None:
    sparse = built(PLAIN, views=views, noise=0.3)
    usual = refine_lenses(sparse)
    before = sparse.snapshot()
    assert not look_off_center(sparse, usual)
    for kept, same in zip(before[0], sparse.snapshot()[0], strict=True):
        np.testing.assert_array_equal(kept, same)


def test_a_center_is_found_as_far_as_the_errors_determine_it() -> None:
    sparse = built(Lens(WIDTH / 2, 0.0, (8.0, 0.0)))
    refine_lenses(sparse)
    x, y = sparse.intrinsics[0].lens.center
    assert 3.0 < x < 9.0 and abs(y) < 1.0, "the prior holds back what the observations hardly determine"


def test_noise_alone_makes_no_lens() -> None:
    """Of errors in the undistorted image a lens that shrinks it takes a share: focals of small maps got too long."""
    found = []
    for seed in range(6):
        sparse = unposed(past_a_wall(9), 0.6, seed=seed)
        assert bootstrap(sparse, range(9), 0, [0.8 * WIDTH, 1.2 * WIDTH], Options()).starts
        refine_lenses(sparse)
        consider_lenses(sparse)
        intrinsics = sparse.intrinsics[0]
        found.append((np.log(intrinsics.focal / FOCAL), intrinsics.std, intrinsics.lens.radial))
    off, std, radial = np.array(found).T
    assert abs(off.mean()) < 0.5 * std.mean() and (np.abs(off / std) < 2.0).all()
    assert abs(radial.mean()) < 0.005


@pytest.mark.parametrize("radial", [-0.02, 0.02])
def test_a_lens_that_too_few_views_determine_is_within_the_deviation(radial: float) -> None:
    sparse = built(Lens(WIDTH / 2, radial), views=4)
    refine_lenses(sparse)
    consider_lenses(sparse)
    off = np.log(sparse.intrinsics[0].focal / FOCAL)
    assert abs(off) < 2.5 * sparse.intrinsics[0].std


def test_a_deviation_is_that_with_a_free_lens() -> None:
    few, many = built(PLAIN, views=4), built(PLAIN, views=16)
    for sparse in (few, many):
        refine(sparse, free_focal=True, sharp=True)
        plain = sparse.intrinsics[0].std
        consider_lenses(sparse)
        assert sparse.intrinsics[0].std > plain > 0
    assert few.intrinsics[0].std > many.intrinsics[0].std
    state = few.intrinsics[0].focal, few.misfit()
    consider_lenses(few)
    assert (few.intrinsics[0].focal, few.misfit()) == state, "the map stays as it is"
    consider_lenses(SparseMap(1.0))


@pytest.mark.parametrize("lens", [PLAIN, Lens(WIDTH / 2, -0.03, (2.0, 1.0))])
def test_a_calibrated_camera_keeps_its_lens(lens: Lens) -> None:
    sparse = built(Lens(WIDTH / 2, -0.03, (2.0, 1.0)))
    intrinsics = sparse.intrinsics[0]
    intrinsics.fixed, intrinsics.lens, intrinsics.focal = True, lens, FOCAL
    refine_lenses(sparse)
    assert intrinsics.lens is lens and intrinsics.focal == FOCAL


def test_each_camera_has_its_own_lens() -> None:
    scene, lens = past_a_wall(20), Lens(WIDTH / 2, -0.02)
    sparse = unposed(scene, 0.1)
    sparse.intrinsics = [Intrinsics(FOCAL, FOCAL, lens=PLAIN), Intrinsics(FOCAL, FOCAL, lens=PLAIN)]
    for index, view in enumerate(sparse.views):
        view.camera, view.w_T_c = index % 2, scene.w_T_c[index]
        if view.camera == 1:
            view.seen = Tracks(view.seen.ids, lens.seen(view.seen.pixels))
    sparse.extend()
    refine_lenses(sparse)
    assert sparse.intrinsics[0].lens.plain
    assert sparse.intrinsics[1].lens.radial == pytest.approx(-0.02, abs=0.002)
    np.testing.assert_allclose([intrinsics.focal for intrinsics in sparse.intrinsics], FOCAL, rtol=0.01)


def test_few_views_do_not_determine_a_lens() -> None:
    sparse = built(Lens(WIDTH / 2, -0.05), views=4)
    assert refine_lenses(sparse) is not None
    assert sparse.intrinsics[0].lens.plain


def test_what_the_observations_do_not_determine_is_left_as_it_is() -> None:
    """All that is seen lies near the middle, where the lens hardly bends."""
    scene = arc(views=10, degrees=10.0)
    scene.points[:] *= 0.1
    sparse = sparse_of(scene, 0.3)
    sparse.intrinsics[0].lens = PLAIN
    sparse.extend()
    assert refine_lenses(sparse) is not None
    assert sparse.intrinsics[0].lens.plain


def test_a_map_without_any_error_needs_no_lens() -> None:
    sparse = sparse_of(arc(views=9))
    sparse.extend()
    refine_lenses(sparse)
    assert sparse.intrinsics[0].lens.plain and sparse.intrinsics[0].focal == pytest.approx(300.0, rel=1e-4)


def test_nothing_to_refine() -> None:
    assert refine_lenses(SparseMap(1.0)) is None


def test_wide_lenses_may_bend_more() -> None:
    intrinsics = sparse_of(arc()).intrinsics[0]
    radial, second, third, *center = intrinsics.lens_prior
    intrinsics.focal /= 2.0
    assert intrinsics.lens_prior == pytest.approx((4.0 * radial, 16.0 * second, 64.0 * third, *center))


def test_refining_with_free_lenses_moves_only_those() -> None:
    sparse = built(Lens(WIDTH / 2, -0.04, (5.0, 0.0)))
    refine(sparse, free_focal=True)
    assert sparse.intrinsics[0].lens.plain
    refine(sparse, free_focal=True, free_lens=np.array([[True, False, False, False, False]]))
    assert sparse.intrinsics[0].lens.radial < -0.03 and sparse.intrinsics[0].lens.center == (0.0, 0.0)


def considered(focal: Array, wide: float = 1.0) -> SparseMap:
    """A map of views of so many pixels of ``focal`` each, whose pixels are ``wide`` times as wide as high."""
    scene = replace(past_a_wall(len(focal)), focal=focal)
    sparse = unposed(scene)
    for view in sparse.views:
        view.seen = Tracks(view.seen.ids, view.seen.pixels / [wide, 1.0])
    assert bootstrap(sparse, range(len(focal)), 0, [0.8 * WIDTH, 1.2 * WIDTH], Options()).starts
    refine_lenses(sparse)
    poses, _, focals, points = sparse.snapshot()
    consider_images(sparse, [(0, -stamp) for stamp in range(len(focal))])
    now = sparse.snapshot()
    assert focals == now[2]
    np.testing.assert_array_equal(poses, now[0])
    np.testing.assert_array_equal(points, now[3])
    return sparse


def test_a_camera_that_zooms_is_noticed() -> None:
    """Its map fits one focal, with a deviation that says nothing of it: stretches by themselves have others."""
    focal = FOCAL * np.repeat([1.0, 1.4], 12)
    intrinsics = considered(focal).intrinsics[0]
    assert intrinsics.std < 0.05 and intrinsics.zoom > 0.1 and intrinsics.squeeze == 0.0
    assert abs(np.log(focal / intrinsics.focal)).max() < 2.0 * intrinsics.total_std


def test_pixels_that_are_not_square_are_noticed() -> None:
    intrinsics = considered(np.full(12, FOCAL), 1.1).intrinsics[0]
    assert intrinsics.squeeze == pytest.approx(np.log(1.1), abs=0.02) and intrinsics.zoom == 0.0
    assert intrinsics.total_std > 0.04


def test_a_robot_on_a_floor_does_not_see_how_high_pixels_are() -> None:
    """Moved in a plane, turned about its normal, it would see nearly the same of a world that is higher: what a
    windscreen does to the image must not be taken for that."""
    t = np.linspace(0.0, 1.0, 24)
    at, yaw = np.stack([2.0 * t, 0.5 * np.sin(3.0 * t), 0.0 * t], axis=1), 0.6 * np.sin(5.0 * t)
    ahead = np.stack([np.cos(yaw), np.sin(yaw), np.full(24, -0.1)], axis=1)
    points = np.random.default_rng(0).uniform([4.0, -6.0, -3.0], [9.0, 6.0, 3.0], (1500, 3))
    poses = np.stack([look_at(place, place + way) for place, way in zip(at, ahead, strict=True)])
    sparse = unposed(Scene(poses, points, np.full(24, FOCAL)))
    sparse.intrinsics[0].focal = FOCAL
    for view, w_T_c in zip(sparse.views, poses, strict=True):
        waves = 2.5 * np.sin(view.seen.pixels[:, :1] / 40.0) * [0.0, 1.0]
        view.seen, view.w_T_c = Tracks(view.seen.ids, view.seen.pixels + waves), w_T_c
    place_landmarks(sparse)
    refine(sparse, free_focal=True)
    refine_lenses(sparse)
    consider_images(sparse, [(0, stamp) for stamp in range(24)])
    intrinsics = sparse.intrinsics[0]
    assert (intrinsics.zoom, intrinsics.squeeze) == (0.0, 0.0) and intrinsics.focal == pytest.approx(FOCAL, rel=0.02)


def test_an_ordinary_camera_does_neither() -> None:
    intrinsics = considered(np.full(24, FOCAL)).intrinsics[0]
    assert (intrinsics.zoom, intrinsics.squeeze) == (0.0, 0.0)


@pytest.mark.parametrize(("points", "noise", "wrong", "seed"), [(150, 0.5, 0.3, 1), (250, 0.3, 0.4, 3)])
def test_wrong_matches_do_not_make_a_zoom(points: int, noise: float, wrong: float, seed: int) -> None:
    """A stretch whose focal is free finds one that suits some of them; those are not what the map says is seen."""
    sparse = unposed(past_a_wall(24, points), noise, seed, wrong)
    assert bootstrap(sparse, range(24), 0, [0.8 * WIDTH, 1.2 * WIDTH], Options()).starts
    refine_lenses(sparse)
    consider_images(sparse, [(0, stamp) for stamp in range(24)])
    assert sparse.intrinsics[0].focal == pytest.approx(FOCAL, rel=0.05) and sparse.intrinsics[0].zoom == 0.0


def zooming(focal: Array) -> SparseMap:
    """A map of views of so many pixels of ``focal`` each, as if all had the same."""
    sparse = unposed(replace(past_a_wall(len(focal)), focal=focal), 0.1)
    assert bootstrap(sparse, range(len(focal)), 0, [0.8 * WIDTH, 1.2 * WIDTH], Options()).starts
    refine_lenses(sparse)
    return sparse


def test_how_a_focal_changes_is_measured() -> None:
    """By views in the order of their stamps; the map stays."""
    logs = 0.03 * np.sin(np.arange(20) / 2.5)
    sparse = zooming(FOCAL * np.exp(logs))
    poses, seen, focals, points = sparse.snapshot()
    zoom = measure_zoom(sparse, 0, [(0, stamp) for stamp in range(20)])
    now = sparse.snapshot()
    assert zoom is not None and (seen, focals) == now[1:3]
    np.testing.assert_array_equal(points, now[3])
    found = np.array([zoom.logs[view] for view in range(20)])
    assert found.mean() == pytest.approx(0.0, abs=1e-9) and zoom.std < 0.05
    assert np.std(found - logs) < 0.4 * np.std(logs)  # the map was bent: the next time it is closer
    assert set(zoom.w_T_c) == set(range(20)) and not np.allclose(np.stack([*zoom.w_T_c.values()]), np.stack(poses))


def test_a_lens_that_is_changed_is_no_walk() -> None:
    """Neighbours of the leap have the focals of their own side."""
    focal = FOCAL * np.repeat([1.0, 1.5], 10)
    zoom = measure_zoom(zooming(focal), 0, [(0, stamp) for stamp in range(20)])
    assert zoom is not None
    np.testing.assert_allclose(
        [zoom.logs[view] for view in range(20)], np.log(focal / np.sqrt(focal[0] * focal[-1])), atol=0.02
    )


@pytest.mark.parametrize("known", [False, True])
def test_a_focal_that_does_not_change_or_is_known_is_not_measured(known: bool) -> None:
    sparse = zooming(FOCAL * np.exp(0.03 * np.sin(np.arange(20) / 2.5)) if known else np.full(20, FOCAL))
    sparse.intrinsics[0].fixed = known
    assert measure_zoom(sparse, 0, [(0, stamp) for stamp in range(20)]) is None


def test_focals_count_only_if_other_landmarks_agree() -> None:
    """Half of the landmarks are seen as if the camera breathed, the others are not."""
    sparse, logs = zooming(np.full(20, FOCAL)), 0.03 * np.sin(np.arange(20) / 2.5)
    for view, log in zip(sparse.views, logs, strict=True):
        factor = np.where(view.seen.ids % 2 == 0, np.exp(log), 1.0)
        view.seen = Tracks(view.seen.ids, view.seen.pixels * factor[:, None])
    assert measure_zoom(sparse, 0, [(0, stamp) for stamp in range(20)]) is None


def test_a_stretch_that_hardly_determines_its_focal_does_not_make_a_zoom(monkeypatch: pytest.MonkeyPatch) -> None:
    """As of a walk that turns fast: one stretch found another focal by chance, and the others know better."""
    sparse = considered(np.full(20, FOCAL))

    def zoom(*others: tuple[float, float]) -> float:
        def alone(_: SparseMap, camera: int, views: list[int]) -> tuple[float, float]:
            return ((0.41, 6.7), *others)[views[0] // 5] if len(views) == 5 else (0.0, 0.0)

        monkeypatch.setattr(lens_refinement, "_alone", alone)
        consider_images(sparse, [(0, stamp) for stamp in range(20)])
        return sparse.intrinsics[0].zoom

    assert zoom((-0.03, 0.8), (0.004, 0.1), (-0.016, 0.4)) == 0.0
    assert zoom((0.0, 0.0), (-0.4, 0.0), (0.3, 1.0)) == pytest.approx(0.205)
    assert zoom((-0.4, 6.5), (0.4, 6.5), (-0.4, 6.5)) > 0.35
