"""One map taken into another: what both have becomes one, and nothing is lost."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from merging import TRUE_FIT, Halves, feature_matches, halves, records_of, sparse_run
from scoring import alignment, path_length
from sequences import walk
from synthetic import arc, sparse_of

from dust3r_ros.errors import GeometryError
from dust3r_ros.geometry.lens import Lens
from dust3r_ros.geometry.rigid import angle_deg, invert, transform
from dust3r_ros.geometry.similarity import Similarity
from dust3r_ros.sparse.landmarks import Intrinsics
from dust3r_ros.sparse.map_merging import LandmarkObservations, Merged, fit_maps, merge_maps
from dust3r_ros.sparse.refinement import refine
from dust3r_ros.sparse.sparse_map import SparseMap
from dust3r_ros.tracking import Tracks


def test_true_positions_lie_where_they_are_seen() -> None:
    """In any order, some asked for twice, some of them seen by few."""
    scene = arc(views=5, points=30)
    sparse = sparse_of(scene, posed=4)
    sparse.views[0].seen = sparse.views[0].seen.select(slice(0, 10))
    ids = np.array([20, 3, 3, 7])
    observations = LandmarkObservations.of(sparse, ids)
    assert np.bincount(observations.row).tolist() == [3, 4, 4, 4]
    assert np.bincount(observations.view).tolist() == [3, 4, 4, 4], "views without a pose are no help"
    np.testing.assert_allclose(observations.errors(scene.points[ids]), 0, atol=1e-9)
    expected = [
        transform(invert(scene.w_T_c[v]), scene.points[ids[r]])[2]
        for r, v in zip(observations.row, observations.view, strict=True)
    ]
    np.testing.assert_allclose(observations.depths(scene.points[ids]), expected)


def test_lenses_are_taken_out() -> None:
    scene, lens = arc(views=3, points=20), Lens(200.0, -0.07, (3.0, -4.0))
    sparse = sparse_of(scene)
    sparse.intrinsics[0].lens = lens
    for index, view in enumerate(sparse.views):
        view.seen = Tracks(view.seen.ids, lens.seen(scene.seen(index)))
    np.testing.assert_allclose(LandmarkObservations.of(sparse, np.arange(20)).errors(scene.points), 0.0, atol=1e-8)


def test_some_of_them() -> None:
    sparse = sparse_of(arc(views=3, points=6))
    observations = LandmarkObservations.of(sparse, np.arange(6)).select(np.array([0, 1, 0, 0, 1, 0], bool))
    assert sorted(set(observations.row.tolist())) == [1, 4] and len(observations.row) == len(observations.focal) == 6


def test_positions_that_cannot_be_seen() -> None:
    """Behind the camera is far off, not at its mirror image; no position is no number."""
    scene = arc(views=2, points=4)
    observations = LandmarkObservations.of(sparse_of(scene), np.arange(4))
    center = scene.w_T_c[0][:3, 3]
    mirrored = 2 * center - scene.points
    errors = np.linalg.norm(observations.errors(mirrored)[observations.view == 0], axis=1)
    assert (errors > 1e4).sum() >= 3
    assert np.isnan(observations.errors(np.full((4, 3), np.nan))).all()


def test_nobody_sees_them() -> None:
    observations = LandmarkObservations.of(SparseMap(1.0), np.zeros(0, int))
    assert observations.errors(np.zeros((0, 3))).shape == (0, 2) and observations.depths(np.zeros((0, 3))).shape == (0,)
    away = LandmarkObservations.of(sparse_of(arc(views=2, points=4), posed=0), np.arange(4))
    assert len(away.row) == 0


def off_by(found: Similarity) -> tuple[float, float, float]:
    """Relative scale, degrees and distance at the scene's middle from the true similarity."""
    middle = TRUE_FIT.inverse().apply(np.zeros(3))
    return (
        abs(found.scale / TRUE_FIT.scale - 1),
        angle_deg(found.rotation.T @ TRUE_FIT.rotation),
        float(np.linalg.norm(found.apply(middle))),
    )


def test_without_noise_it_is_exact() -> None:
    two = halves(noise=0.0)
    fit = fit_maps(two.target, two.source, two.matches)
    assert fit.agree.all() and fit.rms_px < 1e-3
    assert max(off_by(fit.target_S_source)) < 1e-5


@pytest.mark.parametrize("wrong", [0.0, 0.3, 0.6, 0.8])
def test_wrong_matches_do_no_harm(wrong: float) -> None:
    two = halves(wrong=wrong)
    fit = fit_maps(two.target, two.source, two.matches)
    np.testing.assert_array_equal(fit.agree, two.matches[:, 0] == two.matches[:, 1])
    scale, turn, shift = off_by(fit.target_S_source)
    assert scale < 0.005 and turn < 0.3 and shift < 0.02
    assert 0.2 < fit.rms_px < 1.5


def test_the_same_matches_give_the_same_answer() -> None:
    two = halves(wrong=0.5)
    a, b = (fit_maps(two.target, two.source, two.matches, seed=3) for _ in range(2))
    assert a.target_S_source.matrix.tobytes() == b.target_S_source.matrix.tobytes()


@pytest.mark.parametrize("count", [40, 400])
def test_maps_of_different_places_are_refused(count: int) -> None:
    two = halves(points=count, wrong=1.0)
    with pytest.raises(GeometryError, match=rf"^\d+ of {count} matches .* agree .* at least {max(20, count // 10)}"):
        fit_maps(two.target, two.source, two.matches)


def test_few_matches_are_refused() -> None:
    two = halves()
    with pytest.raises(GeometryError, match="19 of 19 matches between the maps have a position in both; at least 20"):
        fit_maps(two.target, two.source, two.matches[:19])
    assert fit_maps(two.target, two.source, two.matches[:19], min_matches=15).agree.all()
    with pytest.raises(GeometryError, match="0 of 0"):
        fit_maps(two.target, two.source, np.zeros((0, 2), int))


def test_a_match_found_in_many_keyframes_counts_once() -> None:
    two = halves()
    again = np.tile(two.matches[:15], (10, 1))
    with pytest.raises(GeometryError, match="15 of 15"):
        fit_maps(two.target, two.source, again)
    fit = fit_maps(two.target, two.source, np.concatenate([again, two.matches]))
    assert len(fit.agree) == len(again) + len(two.matches) and fit.agree.all()


def test_points_on_a_line_are_refused() -> None:
    """Nothing says how the maps are turned about the line."""
    along = np.linspace(-1, 1, 60)[:, None] * np.array([0.3, 0.6, 0.8])
    two = halves(points=along)
    with pytest.raises(GeometryError, match=r"open by .* deg; .*one line"):
        fit_maps(two.target, two.source, two.matches, threshold_px=50.0)


def test_points_all_close_together_are_refused() -> None:
    """A finger seen from four metres tells where the other map is, not how large and how turned."""
    close = 0.006 * np.random.default_rng(0).standard_normal((60, 3))
    two = halves(points=close, noise=0.5)
    with pytest.raises(GeometryError, match=r"leave the scale .* open by"):
        fit_maps(two.target, two.source, two.matches)


def test_a_landmark_placed_in_one_map_only_is_judged_there() -> None:
    two = halves(wrong=0.2)
    two.source.points[two.matches[:, 1][::5]] = np.nan
    two.target.points[two.matches[:, 0][2::5]] = np.nan
    fit = fit_maps(two.target, two.source, two.matches)
    np.testing.assert_array_equal(fit.agree, two.matches[:, 0] == two.matches[:, 1])
    two.source.points[two.matches[4, 1]] = two.target.points[two.matches[4, 0]] = np.nan
    assert not fit_maps(two.target, two.source, two.matches).agree[4], "nobody can say"


def test_what_two_views_placed_is_not_enough() -> None:
    """Two views may place everything at a wrong depth that both like; the answer has to wait for more views."""
    two = halves()
    poses = [view.w_T_c for view in two.source.views]
    for view in two.source.views[2:]:
        view.w_T_c = None
    with pytest.raises(GeometryError, match=r"2 views of the source map see .*; at least 3"):
        fit_maps(two.target, two.source, two.matches)
    two.source.views[4].w_T_c = poses[4]
    assert fit_maps(two.target, two.source, two.matches).agree.all()


def merged(two: Halves) -> Merged:
    fit = fit_maps(two.target, two.source, two.matches)
    return merge_maps(two.target, two.source, fit.target_S_source, two.matches[fit.agree])


@pytest.mark.parametrize("wrong", [0.0, 0.5])
def test_two_halves_become_the_whole(wrong: float) -> None:
    two = halves(wrong=wrong)
    placed = int(two.target.positioned.sum())
    merged(two)
    assert two.camera_error(two.target) < 0.03
    new = two.matches[:, 0] != two.matches[:, 1]
    assert two.target.positioned.sum() == placed + new.sum(), "matched landmarks are one, the others are all there"
    refine(two.target)
    assert two.camera_error(two.target) < 0.015
    assert two.target.misfit() < 0.5


def test_what_both_maps_saw_is_seen_from_both_sides() -> None:
    two = halves(noise=0.0)
    result = merged(two)
    assert result.first_view == 7
    np.testing.assert_array_equal(result.ids, np.arange(len(two.scene.points)), err_msg="the target's ids stay")
    view, point, _ = two.target.observations(range(14), np.arange(len(two.scene.points)))
    assert (np.bincount(point) == 14).all() and set(view) == set(range(14))
    np.testing.assert_allclose(two.target.points[: len(two.scene.points)], two.scene.points, atol=1e-5)


def test_the_source_stays_as_it_was() -> None:
    two = halves()
    before = two.source.snapshot()
    merged(two)
    refine(two.target)
    after = two.source.snapshot()
    np.testing.assert_array_equal(np.stack(before[0]), np.stack(after[0]))
    np.testing.assert_array_equal(before[3], after[3])
    for (seen, pruned), (seen_after, pruned_after) in zip(before[1], after[1], strict=True):
        for a, b in ((seen, seen_after), (pruned, pruned_after)):
            np.testing.assert_array_equal(a.ids, b.ids)


def test_the_merged_map_grows_on() -> None:
    """Windows, new views and new landmarks work on what came from the source as on the rest."""
    two = halves(noise=0.2)
    result = merged(two)
    sparse = two.target
    last = len(sparse.views) - 1
    located = sparse.locate(0, sparse.resolved(Tracks(result.ids, two.scene.seen(11))), 20)
    np.testing.assert_allclose(located.w_T_c[:3, 3], two.scene.w_T_c[11][:3, 3], atol=0.05)
    assert last in sparse.around([last], sparse.views[last].seen.ids)
    own = sparse.landmarks.new(3)
    index = sparse.add(0, Tracks(own, np.zeros((3, 2))), located.w_T_c)
    assert index == last + 1 and sparse.views[index].first_id == len(sparse.points)
    assert (np.diff([view.first_id for view in sparse.views]) >= 0).all()
    refine(sparse, [last - 1, last], rounds=1)
    assert two.camera_error(SimpleNamespace(views=sparse.views[:-1])) < 0.03


def test_ids_given_up_in_the_source_lead_to_the_target() -> None:
    """Keyframes keep the ids their features had when they were new."""
    two = halves(noise=0.0, points=40)
    old = two.source.landmarks.new(2)
    two.source.merge(np.array([3, 4]), old)
    result = merged(two)
    assert result.ids[old].tolist() == [3, 4]


def test_what_has_no_pose_or_was_pruned_comes_along() -> None:
    two = halves()
    view = two.source.views[2]
    view.w_T_c, pruned = None, view.seen.select(slice(0, 9))
    view.seen, view.pruned = view.seen.select(slice(9, None)), pruned
    result = merged(two)
    moved = two.target.views[result.first_view + 2]
    assert moved.w_T_c is None
    assert sorted(moved.pruned.ids) == sorted(result.ids[pruned.ids])
    assert len(moved.seen.ids) == len(two.scene.points) - 9


def two_cameras(focals: tuple[Intrinsics, Intrinsics]) -> SparseMap:
    sparse = SparseMap(1.0)
    sparse.intrinsics += [replace(focal) for focal in focals]
    return sparse


def test_of_two_focals_the_more_certain_one_stays() -> None:
    vague = Intrinsics(300.0, 320.0, 0.1, rival=(360.0, 0.1, 300.0), contradicted=0.3)
    sure = Intrinsics(310.0, 320.0, 0.01)
    given = Intrinsics(305.0, 305.0, 0.0, fixed=True, lens=Lens(200.0, -0.05))
    source = two_cameras((given, vague))
    for camera in (1, 0, 0):
        source.add(camera, Tracks(source.landmarks.new(1), np.zeros((1, 2))), np.eye(4))
    target = two_cameras((vague, sure))
    merge_maps(target, source, Similarity.identity(), np.zeros((0, 2), int))
    assert [view.camera for view in target.views] == [1, 0, 0]
    assert [intrinsics.focal for intrinsics in target.intrinsics] == [305.0, 310.0], "the surer one stays"
    assert [intrinsics.fixed for intrinsics in target.intrinsics] == [True, False]
    assert target.intrinsics[0].lens == given.lens and target.intrinsics[1].lens.plain, "a lens belongs to its focal"
    assert target.intrinsics[0].rival[1] == target.intrinsics[0].contradicted == 0.0


def test_a_prior_from_one_of_the_maps_does_not_count_in_both() -> None:
    first = Intrinsics(300.0, 320.0, 0.02)
    second = replace(first.handed_on(), focal=301.0, std=0.01)
    for kept, other in ((first, second), (second, first)):
        target = two_cameras((kept, kept))
        merge_maps(target, two_cameras((other, other)), Similarity.identity(), np.zeros((0, 2), int))
        joined = target.intrinsics[0]
        assert (joined.focal, joined.prior, joined.guess_std) == (301.0, 320.0, np.inf)


@pytest.mark.parametrize("std", [0.01, 0.2])
def test_a_readout_that_is_taken_out_of_one_of_the_maps_is_known_in_both(std: float) -> None:
    rolled = Intrinsics(300.0, 320.0, std, rolling=(0.0, 1e-4), rolling_std=0.001)
    once = Intrinsics(300.0, 320.0, 0.1)
    for pair in ((rolled, once), (once, rolled)):
        target = two_cameras((pair[0],) * 2)
        merge_maps(target, two_cameras((pair[1],) * 2), Similarity.identity(), np.zeros((0, 2), int))
        assert (target.intrinsics[0].rolling, target.intrinsics[0].rolling_std) == ((0.0, 1e-4), 0.001)


def test_a_focal_comes_with_what_its_zooms_leave_unknown() -> None:
    zoomed, vague = Intrinsics(300.0, 320.0, 0.01, zoom_std=0.02), Intrinsics(310.0, 320.0, 0.1)
    for pair in ((zoomed, vague), (vague, zoomed)):
        target = two_cameras((pair[0],) * 2)
        merge_maps(target, two_cameras((pair[1],) * 2), Similarity.identity(), np.zeros((0, 2), int))
        assert target.intrinsics[0].total_std == zoomed.total_std


def test_what_is_barred_stays_so() -> None:
    two = halves()
    barred = np.arange(20)
    two.source.landmarks.bar(barred)
    ids = merged(two).ids
    assert two.target.landmarks.is_barred(ids[barred]).all() and np.isnan(two.target.points[ids[barred]]).all()


def test_cameras_that_are_not_there() -> None:
    focal = Intrinsics(300.0, 300.0, 0.1)
    target, source = two_cameras((focal, focal)), two_cameras((focal, focal))
    target.intrinsics.pop()
    source.add(0, Tracks(source.landmarks.new(1), np.zeros((1, 2))), np.eye(4))
    with pytest.raises(GeometryError, match=r"2 cameras.* target's 1"):
        merge_maps(target, source, Similarity.identity(), np.zeros((0, 2), int))
    assert target.views == [] and len(target.points) == 0


@pytest.fixture(scope="module")
def runs() -> tuple:
    """Two mappers on two parts of one walk; a third of it both have seen."""
    sequence = walk("orbit")
    return sequence, sparse_run(sequence, 0, 16), sparse_run(sequence, 8, 24)


def test_two_runs_of_the_mapper(runs: tuple) -> None:
    sequence, a, b = runs
    assert min(len(a.keyframes), len(b.keyframes)) >= 4
    target, source, matches = deepcopy(a.submap.state.sparse), b.submap.state.sparse, feature_matches(a, b)
    fit = fit_maps(target, source, matches)
    assert fit.agree.mean() > 0.7 and fit.rms_px < 2
    stamps = [record.stamp_ns for run in (a, b) for record in records_of(run)]
    merge_maps(target, source, fit.target_S_source, matches[fit.agree])
    target.extend()

    def error() -> float:
        poses = [SimpleNamespace(stamp_ns=s, w_T_c=v.w_T_c) for s, v in zip(stamps, target.views, strict=True)]
        return float(np.sqrt(np.mean(alignment(poses, sequence)[1] ** 2))) / path_length(sequence)

    assert error() < 0.02
    refine(target, free_focal=True, rounds=3, iterations=30)
    assert error() < 0.01
    both = [(i, j) for i, early in enumerate(stamps) for j in range(i) if stamps[j] == early]
    assert both, "keyframes that both runs have"
    for i, j in both:
        np.testing.assert_allclose(target.views[i].w_T_c, target.views[j].w_T_c, atol=0.02)


def test_runs_in_different_rooms_stay_apart(runs: tuple) -> None:
    _, a, _ = runs
    elsewhere = sparse_run(walk("corridor"), 0, 10)
    assert len(elsewhere.keyframes) >= 2
    with pytest.raises(GeometryError, match="at least 20"):
        fit_maps(a.submap.state.sparse, elsewhere.submap.state.sparse, feature_matches(a, elsewhere))
