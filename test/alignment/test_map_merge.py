"""One map taken into another: what both have becomes one, and nothing is lost."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from merging import Halves, feature_matches, halves, records_of, sparse_run
from scoring import alignment, path_length
from sequences import walk

from dust3r_ros.alignment.map_fit import fit_maps
from dust3r_ros.alignment.map_merge import Merged, merge_maps
from dust3r_ros.alignment.refinement import refine
from dust3r_ros.alignment.sparse_map import SparseMap
from dust3r_ros.alignment.sparse_view import Focal
from dust3r_ros.errors import GeometryError
from dust3r_ros.geometry.lens import Lens
from dust3r_ros.geometry.similarity import Similarity
from dust3r_ros.tracking import Tracks


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
    own = sparse.new_ids(3)
    index = sparse.add(0, Tracks(own, np.zeros((3, 2))), located.w_T_c)
    assert index == last + 1 and sparse.views[index].first_id == len(sparse.points)
    assert (np.diff([view.first_id for view in sparse.views]) >= 0).all()
    refine(sparse, [last - 1, last], rounds=1)
    assert two.camera_error(SimpleNamespace(views=sparse.views[:-1])) < 0.03


def test_ids_given_up_in_the_source_lead_to_the_target() -> None:
    """Keyframes keep the ids their features had when they were new."""
    two = halves(noise=0.0, points=40)
    old = two.source.new_ids(2)
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


def two_cameras(focals: tuple[Focal, Focal]) -> SparseMap:
    sparse = SparseMap(1.0)
    sparse.focals += [replace(focal) for focal in focals]
    return sparse


def test_cameras_by_a_table() -> None:
    vague, sure = Focal(300.0, 320.0, 0.1, lens_std=0.02), Focal(310.0, 320.0, 0.01)
    given = Focal(305.0, 305.0, 0.0, fixed=True, lens=Lens(200.0, -0.05))
    source = two_cameras((vague, given))
    for camera in (0, 1, 1):
        source.add(camera, Tracks(source.new_ids(1), np.zeros((1, 2))), np.eye(4))
    target = two_cameras((vague, sure))
    merge_maps(target, source, Similarity.identity(), np.zeros((0, 2), int), cameras=[1, 0])
    assert [view.camera for view in target.views] == [1, 0, 0]
    assert [focal.value for focal in target.focals] == [305.0, 310.0], "the surer one stays"
    assert [focal.fixed for focal in target.focals] == [True, False]
    assert target.focals[0].lens == given.lens and target.focals[1].lens.plain, "a lens belongs to its focal"
    assert target.focals[0].lens_std == 0.0


@pytest.mark.parametrize("cameras", [[0], [0, 2], [0, -1], [0, 1, 1]])
def test_cameras_that_are_not_there(cameras: list[int]) -> None:
    focal = Focal(300.0, 300.0, 0.1)
    target, source = two_cameras((focal, focal)), two_cameras((focal, focal))
    source.add(0, Tracks(source.new_ids(1), np.zeros((1, 2))), np.eye(4))
    with pytest.raises(GeometryError, match=r"2 cameras .* 2, counted from 0"):
        merge_maps(target, source, Similarity.identity(), np.zeros((0, 2), int), cameras=cameras)
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
