"""Landmarks and their views: placing, locating, merging."""

from __future__ import annotations

import numpy as np
import pytest
from synthetic import arc, sparse_of

from dust3r_ros.errors import GeometryError
from dust3r_ros.geometry.lens import Lens
from dust3r_ros.geometry.rigid import invert, pose, transform
from dust3r_ros.sparse.refinement import refine
from dust3r_ros.sparse.sparse_map import Intrinsics, SparseMap, Spread
from dust3r_ros.tracking import Tracks, no_tracks


def test_landmarks_get_their_places() -> None:
    scene = arc()
    sparse = sparse_of(scene)
    assert not sparse.positioned.any()
    assert sparse.extend() == len(scene.points)
    np.testing.assert_allclose(sparse.points, scene.points, atol=1e-6)
    assert sparse.extend() == 0, "nothing is left to place"
    assert sparse.misfit() < 1e-8


def test_no_place_without_parallax() -> None:
    """Two views a finger apart place nothing; a third from the side does."""
    scene = arc(views=3)
    scene.w_T_c[1] = scene.w_T_c[0]
    scene.w_T_c[1, :3, 3] += 0.005
    sparse = sparse_of(scene, posed=2)
    assert sparse.extend() == 0
    assert sparse.misfit() < 1.0, "too little parallax is no misfit"
    sparse.views[2].w_T_c = scene.w_T_c[2]
    assert sparse.extend() == len(scene.points)


def test_less_parallax_is_enough_where_that_is_said() -> None:
    scene = arc(views=2)
    scene.w_T_c[1] = scene.w_T_c[0]
    scene.w_T_c[1, :3, 3] += scene.w_T_c[0][:3, :3] @ [0.05, 0.0, 0.0]  # 0.7 degrees at 4 m
    sparse = sparse_of(scene)
    assert sparse.extend() < 0.1 * len(scene.points)
    assert sparse.extend(enough=0.5) > 0.8 * len(scene.points)


def test_extend_only_what_chosen_views_see() -> None:
    scene = arc(views=3)
    sparse = sparse_of(scene)
    own = sparse.landmarks.new(1)
    third = Tracks(own, scene.seen(2)[:1])
    sparse.observe(2, third)
    sparse.observe(1, Tracks(own, scene.seen(1)[:1]))
    sparse.views[0].seen = sparse.views[0].seen.select(slice(0, 10))
    assert sparse.extend([0]) == 10
    assert sparse.extend([1, 2]) == len(scene.points) - 10 + 1


def test_a_wrong_match_among_several_observations_is_pruned() -> None:
    scene = arc()
    sparse = sparse_of(scene, 0.3)
    sparse.views[3].seen.pixels[5] += [35.0, -20.0]
    assert sparse.extend() == len(scene.points)
    np.testing.assert_allclose(sparse.points[5], scene.points[5], atol=0.05)
    assert 5 not in sparse.views[3].seen.ids and 5 in sparse.views[3].pruned.ids
    for view in (0, 1, 2, 4, 5):
        assert 5 in sparse.views[view].seen.ids, "the right observations stay"


def test_what_is_far_off_is_pruned() -> None:
    scene = arc()
    sparse = sparse_of(scene, 0.3)
    sparse.extend()
    sparse.views[3].seen.pixels[[5, 6, 7]] += [[50.0, 0.0], [0.0, 30.0], [0.0, 0.0]]
    sparse.points[7] = sparse.views[3].pose @ [0.0, 0.0, -1.0, 1.0] @ np.eye(4, 3)  # behind the camera
    sparse.prune(3, 40.0)
    assert sparse.views[3].pruned.ids.tolist() == [5, 7]
    assert np.isin([5, 7], sparse.views[2].seen.ids).all(), "others see what they saw"


def test_of_two_observations_that_disagree_none_makes_a_landmark() -> None:
    scene = arc(views=2)
    sparse = sparse_of(scene)
    sparse.views[1].seen.pixels[7] += [0.0, 40.0]  # across the epipolar line: the views lie side by side
    assert sparse.extend() == len(scene.points) - 1
    assert not sparse.positioned[7]


def test_locating_a_view() -> None:
    scene = arc()
    sparse = sparse_of(scene, posed=5)
    sparse.extend()
    found = sparse.locate(0, sparse.views[5].seen, 15)
    np.testing.assert_allclose(found.w_T_c, scene.w_T_c[5], atol=1e-4)
    assert found.inliers.all()
    with pytest.raises(GeometryError):
        sparse.locate(0, no_tracks(), 15)
    with pytest.raises(GeometryError):
        sparse.locate(0, sparse.views[5].seen.select(slice(0, 14)), 15)
    loose = Tracks(sparse.landmarks.new(40), scene.seen(5)[:40])
    with pytest.raises(GeometryError):
        sparse.locate(0, loose, 15)


def test_merging_two_names_of_one_thing() -> None:
    scene = arc(views=4)
    sparse = sparse_of(scene)
    twins = sparse.landmarks.new(len(scene.points))
    sparse.views[3].seen = Tracks(twins, sparse.views[3].seen.pixels)
    old = np.arange(len(scene.points))
    sparse.merge(old, twins)
    np.testing.assert_array_equal(sparse.landmarks.resolved(twins), old)
    np.testing.assert_array_equal(np.sort(sparse.views[3].seen.ids), old)
    assert sparse.extend() == len(scene.points)
    np.testing.assert_allclose(sparse.points[old], scene.points, atol=1e-6)
    assert not sparse.positioned[twins].any()


def test_chains_of_names() -> None:
    """a = b, c = d, b = d, in every order of saying so: all end as the oldest."""
    for order in ([(0, 1), (2, 3), (1, 3)], [(1, 3), (2, 3), (0, 1)], [(3, 2), (3, 1), (1, 0)]):
        sparse = SparseMap(1.0)
        ids = sparse.landmarks.new(5)
        for a, b in order:
            sparse.merge(ids[[a]], ids[[b]])
        np.testing.assert_array_equal(sparse.landmarks.resolved(ids), [0, 0, 0, 0, 4])
        at_once = SparseMap(1.0)
        at_once.landmarks.new(5)
        at_once.merge(np.array([a for a, _ in order]), np.array([b for _, b in order]))
        np.testing.assert_array_equal(at_once.landmarks.resolved(ids), [0, 0, 0, 0, 4])


def test_merging_keeps_the_place_that_one_of_both_has() -> None:
    sparse = SparseMap(1.0)
    ids = sparse.landmarks.new(2)
    sparse.points[1] = [1.0, 2.0, 3.0]
    sparse.merge(ids[:1], ids[1:])
    np.testing.assert_array_equal(sparse.points[0], [1.0, 2.0, 3.0])
    assert np.isnan(sparse.points[1]).all()


def test_merging_with_itself_changes_nothing() -> None:
    sparse = SparseMap(1.0)
    ids = sparse.landmarks.new(3)
    sparse.points[:] = 1.0
    sparse.merge(ids, ids)
    sparse.merge(ids[:0], ids[:0])
    np.testing.assert_array_equal(sparse.landmarks.resolved(ids), ids)
    assert sparse.positioned.all()


def test_a_view_that_sees_both_names_keeps_one_observation() -> None:
    scene = arc(views=3)
    sparse = sparse_of(scene)
    twin = sparse.landmarks.new(1)
    sparse.observe(2, Tracks(twin, scene.seen(2)[:1] + 0.1))
    sparse.merge(np.array([0]), twin)
    for view in sparse.views:
        assert len(np.unique(view.seen.ids)) == len(view.seen.ids)
    tracks = sparse.resolved(Tracks(np.array([twin[0], 0, 5]), np.zeros((3, 2))))
    np.testing.assert_array_equal(tracks.ids, [0, 5])


def test_views_before_a_landmark_was_made_are_left_alone_and_right() -> None:
    """Merging touches only views since the younger name, which is all that can see it."""
    scene = arc(views=5)
    sparse = SparseMap(1.0)
    sparse.intrinsics.append(Intrinsics(300.0, 300.0))
    names = []
    for view in range(5):
        sparse.add(0, no_tracks(), scene.w_T_c[view])
        names.append(sparse.landmarks.new(len(scene.points)))
        sparse.observe(view, Tracks(names[-1], scene.seen(view)))
        if view:
            sparse.merge(names[-2], names[-1])
    sparse.merge(names[0], names[4])
    for view in sparse.views:
        np.testing.assert_array_equal(np.sort(view.seen.ids), names[0])
    sparse.extend()
    np.testing.assert_allclose(sparse.points[names[0]], scene.points, atol=1e-6)


def test_snapshot_and_restore() -> None:
    sparse = sparse_of(arc(), 0.3)
    sparse.extend()
    misfit, points = sparse.misfit(), sparse.points.copy()
    poses = [view.w_T_c.copy() for view in sparse.views]
    kept = sparse.snapshot()
    sparse.start_over()
    sparse.intrinsics[0].focal = 77.0
    sparse.restore(kept)
    assert sparse.misfit() == misfit and sparse.intrinsics[0].focal == 300.0
    np.testing.assert_array_equal(sparse.points, points)
    refine(sparse, free_focal=True)  # works on the restored map and leaves the snapshot as it is
    sparse.points[:] = 0.0
    sparse.restore(kept)
    np.testing.assert_array_equal(sparse.points, points)
    for view, w_T_c in zip(sparse.views, poses, strict=True):
        np.testing.assert_array_equal(view.w_T_c, w_T_c)


def bent(lens: Lens) -> SparseMap:
    """A map with all poses whose camera's lens is known."""
    scene = arc()
    sparse = sparse_of(scene)
    sparse.intrinsics[0].lens = lens
    for view in range(6):
        sparse.views[view].seen = Tracks(np.arange(len(scene.points)), lens.seen(scene.seen(view)))
    return sparse


def test_a_map_through_a_lens() -> None:
    scene, lens = arc(), Lens(200.0, -0.07, (3.0, -4.0))
    sparse = bent(lens)
    assert sparse.extend() == len(scene.points)
    np.testing.assert_allclose(sparse.points, scene.points, atol=1e-6)
    assert sparse.misfit() < 1e-12
    np.testing.assert_allclose(sparse.locate(0, sparse.views[5].seen, 15).w_T_c, scene.w_T_c[5], atol=1e-4)
    for found, view in zip(sparse.common(1, 4), (1, 4), strict=True):
        np.testing.assert_allclose(found, scene.seen(view), atol=1e-8)
    kept = sparse.snapshot()
    sparse.start_over()
    assert sparse.intrinsics[0].lens == Lens(200.0)
    sparse.restore(kept)
    assert sparse.intrinsics[0].lens == lens
    sparse.intrinsics[0].fixed = True
    sparse.start_over()
    assert sparse.intrinsics[0].lens == lens, "a given lens stays"


def test_misfit_grows_with_error() -> None:
    values = []
    for noise in (0.0, 0.3, 0.8, 2.0, 6.0):
        sparse = sparse_of(arc(), noise)
        sparse.extend()
        values.append(sparse.misfit())
    assert values == sorted(values) and values[0] < 1e-8
    assert values[-1] <= 4.0**2, "each error is capped at the outlier limit"


def test_moving_the_whole_map_changes_no_image() -> None:
    scene = arc()
    sparse = sparse_of(scene, 0.3)
    sparse.extend()
    misfit, depth = sparse.misfit(), sparse.median_depth(2)
    sparse.move(pose(np.array([[0.0, -1, 0], [1, 0, 0], [0, 0, 1]]), [3.0, 2.0, 1.0]), 2.5)
    assert sparse.misfit() == pytest.approx(misfit, rel=1e-6)
    assert sparse.median_depth(2) == pytest.approx(2.5 * depth)


def test_median_depth() -> None:
    scene = arc()
    sparse = sparse_of(scene)
    assert np.isnan(sparse.median_depth(0))
    sparse.extend()
    expected = np.median(transform(invert(scene.w_T_c[0]), scene.points)[:, 2])
    assert sparse.median_depth(0) == pytest.approx(expected, rel=1e-6)


def test_what_two_views_share() -> None:
    scene = arc(views=2)
    sparse = sparse_of(scene)
    sparse.views[0].seen = sparse.views[0].seen.select(slice(0, 30))
    sparse.views[1].seen = sparse.views[1].seen.select(slice(20, None))
    a, b = sparse.common(0, 1)
    np.testing.assert_array_equal(a, scene.seen(0)[20:30])
    np.testing.assert_array_equal(b, scene.seen(1)[20:30])


def test_a_observation_is_taken_once() -> None:
    sparse = sparse_of(arc(views=2))
    before = sparse.views[0].seen.pixels.copy()
    sparse.observe(0, Tracks(np.arange(len(before)), before + 9.0))
    np.testing.assert_array_equal(sparse.views[0].seen.pixels, before)


def test_what_is_known_of_observations_is_relative_to_its_median() -> None:
    spread = Spread(np.array([2, 0, 2]), np.array([5, 7, 1]), np.array([0.4, 0.2, 0.1]), 0.8)
    of = spread.of(np.array([0, 2, 2, 2, 0, 1]), np.array([7, 1, 5, 7, 5, 1]))
    np.testing.assert_allclose(of, [1.0, 0.5, 2.0, 4.0, 4.0, 4.0])
    nothing = np.zeros(0, int)
    np.testing.assert_array_equal(Spread(nothing, nothing, np.zeros(0), 0.8).of(np.array([3]), np.array([4])), [1.0])
    assert spread.of(nothing, nothing).shape == (0,)


def test_a_map_that_starts_over_keeps_what_was_known_before_it() -> None:
    bent = Lens(320.0, 0.1)
    known = Intrinsics(300.0, 310.0, 0.02, lens=bent).handed_on()
    assert known.prior == 300.0 and known.known == (0.02, bent)
    assert known.guess_std == Intrinsics(300.0, 310.0, 0.02).total_std, "it is as sure as it was"
    assert Intrinsics(300.0, 310.0, 1e-4).handed_on().guess_std == 0.005, "but may learn better"
    assert Intrinsics(300.0, 310.0, 0.1, guess_std=0.04).handed_on().guess_std == 0.04
    assert np.isinf(Intrinsics(300.0, 310.0, 0.02, prior_std=0.1).handed_on().guess_std), "it has its given prior"
    sparse = SparseMap(1.0)
    sparse.intrinsics = [known, Intrinsics(300.0, 310.0, 0.02, lens=bent), Intrinsics(9.0, 9.0, fixed=True, lens=bent)]
    known.lens = Lens(320.0, 0.4)
    sparse.start_over()
    assert [camera.lens for camera in sparse.intrinsics] == [bent, Lens(320.0), bent]
    forgotten = [camera.forgotten() for camera in sparse.intrinsics]
    assert [camera.focal for camera in forgotten] == [300.0, 310.0, 9.0]
    assert [camera.std for camera in forgotten] == [0.02, float("inf"), float("inf")]
