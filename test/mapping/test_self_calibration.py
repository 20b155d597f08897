"""The focal of a live map: how it begins, how far it may move."""

import math
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from scipy.spatial.transform import Rotation
from synthetic import WIDTH, arc, past_a_wall, unposed

from dust3r_ros.config import MapperConfig
from dust3r_ros.geometry.lens import Lens
from dust3r_ros.geometry.rigid import pose
from dust3r_ros.mapping import self_calibration
from dust3r_ros.mapping.reconstruction import TRUSTED, Reconstruction
from dust3r_ros.mapping.self_calibration import CalibrationSchedule, Calibrator, same_place
from dust3r_ros.sparse.initialization import FOCAL_STARTS, Options, Outcome, bootstrap
from dust3r_ros.sparse.landmarks import FOCAL_PRIOR, Intrinsics
from dust3r_ros.sparse.refinement import place_landmarks


def pressed(
    focal: float, views: int = 6, degrees: float = 45.0, noise: float = 0.3
) -> tuple[Calibrator, Reconstruction, SimpleNamespace]:
    """A live calibrator of views on an arc, taken with ``focal`` where ``WIDTH`` pixels are usual."""
    state, stream = Reconstruction(MapperConfig()), SimpleNamespace(index=0, long_edge=WIDTH, alone=False)
    state.sparse = unposed(arc(views=views, points=200, focal=focal, degrees=degrees), noise)
    state.records = [SimpleNamespace(stream=stream)] * views
    calibrator = Calibrator(state, CalibrationSchedule(state))
    state.live = True
    return calibrator, state, stream


def test_a_live_map_begins_with_the_usual_focal_where_that_explains_what_is_seen():
    calibrator, state, stream = pressed(focal=1.1 * WIDTH, views=3)
    assert calibrator.begin(stream) and len(state.sparse.posed()) == 3
    assert state.sparse.intrinsics[0].focal == WIDTH
    assert not np.isfinite(state.sparse.intrinsics[0].std), "it is assumed, and says so"
    assert not state.sparse.intrinsics[0].fixed and not state.sure


def test_it_begins_with_that_of_a_wide_view_where_that_explains_far_more():
    calibrator, state, stream = pressed(focal=0.5 * WIDTH, views=3, degrees=70.0)
    assert calibrator.begin(stream) and len(state.sparse.posed()) == 3
    assert state.sparse.intrinsics[0].focal == pytest.approx(0.55 * WIDTH)
    assert not np.isfinite(state.sparse.intrinsics[0].std)


def test_it_begins_with_another_focal_where_the_usual_one_explains_too_little():
    calibrator, state, stream = pressed(focal=1.8 * WIDTH)
    assert calibrator.begin(stream) and len(state.sparse.posed()) == 6
    assert state.sparse.intrinsics[0].focal == pytest.approx(1.8 * WIDTH, rel=0.05)
    assert not state.sure


def test_three_views_are_not_enough_for_another_focal():
    calibrator, state, stream = pressed(focal=1.8 * WIDTH, views=3)
    assert not calibrator.begin(stream)
    assert state.sparse.intrinsics[0].focal == WIDTH and state.sparse.posed() == []


@pytest.mark.parametrize(("views", "begins"), [(6, False), (8, True)])
def test_a_focal_that_is_far_from_usual_takes_more_views(views, begins):
    calibrator, state, stream = pressed(focal=2.5 * WIDTH, views=views, degrees=90.0)
    assert calibrator.begin(stream) == begins
    assert state.sparse.intrinsics[0].focal == pytest.approx(2.5 * WIDTH if begins else WIDTH, rel=0.05)


@pytest.mark.parametrize(("points", "noise", "begins"), [(200, 0.3, True), (50, 0.3, False), (200, 5.0, False)])
def test_of_two_views_many_landmarks_must_fit(points: int, noise: float, begins: bool):
    calibrator, state, _ = pressed(focal=1.1 * WIDTH, views=2, degrees=10.0)
    state.live, state.sparse = False, unposed(arc(views=2, points=points, focal=1.1 * WIDTH, degrees=10.0), noise)
    assert calibrator.begin_with_few() == begins and len(state.sparse.posed()) == 2 * begins
    assert state.sparse.intrinsics[0].focal == WIDTH and not state.sparse.intrinsics[0].fixed


def test_a_focal_does_not_run_away_without_need():
    calibrator, state, stream = pressed(focal=0.8 * WIDTH)
    assert calibrator.begin(stream)
    intrinsics, poses = state.sparse.intrinsics[0], [view.w_T_c for view in state.sparse.views]
    before = intrinsics.focal
    with calibrator.within_reason():
        intrinsics.focal *= 3.0
    assert intrinsics.focal == before
    np.testing.assert_array_equal([view.w_T_c for view in state.sparse.views], poses)
    with calibrator.within_reason():
        intrinsics.focal *= 1.3
    assert intrinsics.focal == 1.3 * before, "a little is what calibrations are for"


def test_a_focal_that_is_far_off_is_corrected_where_that_explains_more():
    calibrator, state, stream = pressed(focal=0.8 * WIDTH)
    assert calibrator.begin(stream)
    calibrator.adjust()
    assert state.sparse.intrinsics[0].focal == pytest.approx(0.8 * WIDTH, rel=0.05)


@pytest.mark.parametrize(("off", "settled"), [(1.3, False), (1.01, True)])
def test_a_focal_that_leaves_where_it_was_found_is_searched_for_again(off: float, settled: bool):
    calibrator, state, stream = pressed(focal=WIDTH)
    state.live = False
    assert calibrator.begin(stream)
    intrinsics = state.sparse.intrinsics[0]
    intrinsics.focal, intrinsics.std, state.settled = off * WIDTH, 0.02, True
    calibrator.adjust()
    assert intrinsics.focal == pytest.approx(WIDTH, rel=0.03) and state.settled is settled


def test_the_way_of_the_camera_stays_where_it_was_and_as_long():
    calibrator, state, stream = pressed(focal=0.8 * WIDTH)
    assert calibrator.begin(stream)
    before = np.array([view.w_T_c for view in state.sparse.views])
    with same_place(state.sparse):
        moved = pose(Rotation.from_rotvec([0.3, -0.8, 0.5]).as_matrix(), np.array([1.0, -3.0, 2.0]))
        state.sparse.move(moved, 2.0)
        state.sparse.views[5].w_T_c = None
    np.testing.assert_allclose([view.w_T_c for view in state.sparse.views[:5]], before[:5], atol=1e-9)


def test_where_the_way_is_bent_its_newest_part_stays():
    """The poses published last go on; older ones turn."""
    calibrator, state, stream = pressed(focal=0.8 * WIDTH)
    assert calibrator.begin(stream)
    views = state.sparse.views
    before = np.array([view.w_T_c for view in views])
    half = len(views) - 3
    with same_place(state.sparse):
        for view in views[:half]:
            view.w_T_c = pose(Rotation.from_rotvec([0.0, 0.0, 0.4]).as_matrix(), np.zeros(3)) @ view.w_T_c
    after = np.array([view.w_T_c for view in views])
    np.testing.assert_allclose(after[half:, :3, :3], before[half:, :3, :3], atol=1e-9)
    np.testing.assert_allclose(after[half:, :3, 3].mean(axis=0), before[half:, :3, 3].mean(axis=0), atol=1e-9)
    assert np.abs(after[:half, :3, :3] - before[:half, :3, :3]).max() > 0.1


def test_without_poses_there_is_no_place_to_keep():
    _, state, _ = pressed(focal=0.8 * WIDTH)
    with same_place(state.sparse):
        pass
    assert not state.sparse.posed()


def test_the_first_calibration_tries_the_other_focal_that_maps_begin_with():
    calibrator, state, stream = pressed(focal=0.5 * WIDTH, views=9, degrees=70.0)
    intrinsics = state.sparse.intrinsics[0]
    intrinsics.fixed = True  # as if the first three views had been too close together to tell
    assert calibrator._bootstrap(stream, [float(WIDTH)], sharp=(False,))[0]
    intrinsics.fixed = False
    assert state.guessing and intrinsics.focal == WIDTH
    calibrator.calibrate(stream)
    assert intrinsics.focal == pytest.approx(0.5 * WIDTH, rel=0.03)
    assert intrinsics.std < TRUSTED and not state.sure


def test_a_first_calibration_says_that_another_focal_explains_as_much():
    """A camera that hardly moved: the usual focal stays, which is wrong by two thirds."""
    calibrator, state, stream = pressed(focal=0.6 * WIDTH, views=9, degrees=8.0, noise=0.6)
    intrinsics = state.sparse.intrinsics[0]
    assert calibrator._begin_held(stream, [float(WIDTH)], range(9))
    calibrator.calibrate(stream)
    off = np.log(intrinsics.focal / (0.6 * WIDTH))
    assert off > 0.4 and off < 2.0 * intrinsics.total_std


def test_a_map_begun_from_wrong_poses_is_begun_again():
    """As from three views close together: what moved to the left seems to have moved to the right."""
    calibrator, state, stream = pressed(focal=0.9 * WIDTH, views=9, degrees=30.0)
    assert calibrator._bootstrap(stream, [0.9 * WIDTH], sharp=(False,))[0]
    for view in state.sparse.views:
        view.w_T_c[:3, 3] *= [1.0, -1.0, 1.0]
    place_landmarks(state.sparse)
    state.sparse.intrinsics[0].std = np.inf
    wrong = state.sparse.snapshot()
    calibrator.adjust()
    assert state.sparse.misfit() > 1.0, "no adjustment leads away from them"
    state.sparse.restore(wrong)
    assert calibrator.calibrate(stream)
    assert state.sparse.misfit() < 0.2
    assert state.sparse.intrinsics[0].focal == pytest.approx(0.9 * WIDTH, rel=0.03)


def test_live_maps_are_calibrated_more_often_until_the_focal_is_fine():
    _, state, _ = pressed(focal=WIDTH, views=10)
    schedule, intrinsics = CalibrationSchedule(state), state.sparse.intrinsics[0]
    state.settled = True
    schedule.calibrated()
    due = {}
    for std in (0.02, 0.004):
        intrinsics.std, state.records[10:] = std, []
        while not schedule.calibration_due:
            state.records.append(state.records[0])
        due[std] = len(state.records)
    assert due == {0.02: 12, 0.004: 15}


def test_a_map_that_was_loaded_counts_as_calibrated():
    _, state, _ = pressed(focal=WIDTH, views=21)
    schedule = CalibrationSchedule(state)
    state.settled, state.sparse.intrinsics[0].std = True, 0.003
    assert schedule.calibration_due
    state.known, state.adjusted = True, 20
    assert not schedule.calibration_due
    state.records *= 2
    assert schedule.calibration_due, "it has doubled"


def test_a_map_that_has_grown_is_adjusted_where_the_camera_rests():
    _, state, stream = pressed(focal=WIDTH, views=20)
    schedule, second = CalibrationSchedule(state), 1_000_000_000
    state.records = [SimpleNamespace(stream=stream, stamp_ns=k * second // 5) for k in range(20)]
    last, state.initialised, state.adjusted = state.records[-1].stamp_ns, True, 18
    assert not schedule.rests(last + second // 2), "a keyframe came just now"
    assert schedule.rests(last + second)
    state.adjusted = 20
    assert not schedule.rests(last + second), "nothing is new"
    state.records, state.adjusted = [state.records[-1]] * 200, 198
    assert not schedule.rests(last + second), "next to nothing is"
    state.records = [state.records[-1]] * 1000
    assert not schedule.rests(last + second), "that would take too long"


def test_first_poses_wait_for_a_focal_that_is_more_than_a_guess():
    _, state, _ = pressed(focal=WIDTH, views=10)
    intrinsics = state.sparse.intrinsics[0]
    state.live, state.initialised, state.settled = True, True, False
    found = []
    for intrinsics.std in (0.03, 0.01, 0.007):
        found.append((state.guessing, state.nearly_sure))
    assert found == [(True, False), (True, True), (False, True)], "other cameras join earlier than poses are published"
    state.live, intrinsics.std = False, 0.01
    assert not state.nearly_sure, "without a camera to keep up with, they wait"
    intrinsics.std, state.records[:] = 0.03, 7 * state.records
    assert not state.guessing and state.nearly_sure, "many keyframes will not make it more certain soon"


def test_other_focals_are_searched_for_in_maps_of_many_views_and_at_rest():
    _, state, _ = pressed(focal=WIDTH, views=9)
    schedule = CalibrationSchedule(state)
    assert schedule.search_due is None
    state.records *= 2
    assert schedule.search_due is True
    state.settled = True
    assert schedule.search_due is False


def test_focals_that_twice_led_to_nothing_are_not_tried_again(monkeypatch):
    calibrator, state, stream = pressed(focal=WIDTH)
    state.live = False
    assert calibrator.begin(stream)
    tried = []

    def counted(sparse, views, camera, focals, options):
        tried.append(list(focals))
        return bootstrap(sparse, views, camera, focals, options)

    monkeypatch.setattr(self_calibration, "bootstrap", counted)
    for _ in range(3):
        tried.clear()
        state.settled = False
        calibrator.improve(stream)
    assert tried == [] or set(tried[0]) < {start * WIDTH for start in FOCAL_STARTS if start != 1.0}
    assert state.settled and state.sparse.intrinsics[0].focal == pytest.approx(WIDTH, rel=0.03)


def test_a_focal_that_led_to_nothing_is_tried_again_with_twice_as_many_views_and_in_the_end(monkeypatch):
    """A few noisy views lead nowhere from the right focal."""
    calibrator, state, stream = pressed(focal=WIDTH)
    state.live = False
    tried = []

    def nothing(sparse, views, camera, focals, options):
        tried.append(set(focals))
        return Outcome([], math.inf, math.nan, vain=frozenset(focals))

    monkeypatch.setattr(self_calibration, "bootstrap", nothing)
    records = state.records
    for times, again in ((1, True), (1, True), (1, False), (2, True), (1, False)):
        tried.clear()
        state.records = times * records
        calibrator.improve(stream)
        assert bool(tried) == again
        records = state.records
    calibrator.try_all_again()
    calibrator.improve(stream)
    assert tried and tried[0] == {start * WIDTH for start in FOCAL_STARTS if start != 1.0}


def less_cautious(std: float) -> float:
    """Of what the images say beyond the usual prior."""
    prior = FOCAL_PRIOR**-2.0
    return float((prior + (std**-2.0 - prior) * 1.7**2) ** -0.5)


def by_rival(intrinsics: Intrinsics) -> float:
    focal, weight, own = intrinsics.rival
    return float(abs(np.log(focal / own)) * weight)


def test_a_map_that_much_contradicts_knows_its_focal_less_well():
    """A fifth of what every view sees is elsewhere; the errors of what is left do not show it."""
    plain, state, stream = pressed(focal=1.1 * WIDTH)
    assert plain.begin(stream)
    plain.consider_lens(stream)
    before = state.sparse.intrinsics[0]
    assert before.contradicted == 0.0
    assert before.total_std == pytest.approx(np.hypot(np.hypot(less_cautious(before.std), by_rival(before)), 0.002))
    for number, view in enumerate(state.sparse.views):
        view.seen.pixels[number % 5 :: 5] += [60.0, -45.0]
    plain.consider_lens(stream)
    after = state.sparse.intrinsics[0]
    assert 0.1 < after.contradicted < 0.4
    grown = np.sqrt(after.contradicted / 0.02) * np.hypot(less_cautious(after.std), by_rival(after))
    assert after.total_std == pytest.approx(np.hypot(grown, 0.002))
    assert replace(after, std=0.0, fixed=True).total_std == 0.0, "a focal that is held"


@pytest.mark.parametrize(("off", "waits"), [(60.0, False), (110.0, True)])
def test_a_center_farther_off_than_that_of_a_cropped_image_waits_for_the_last_adjustment(off: float, waits: bool):
    """Until it is taken out, a shutter that rolls while the camera turns may be what looks like one."""
    state = Reconstruction(MapperConfig())
    state.sparse = unposed(past_a_wall(18, points=500), 0.6, lens=Lens(WIDTH / 2, 0.0, (off, 0.0)))
    assert bootstrap(state.sparse, range(18), 0, [0.8 * WIDTH, 1.2 * WIDTH], Options()).starts
    state.records = [SimpleNamespace(stream=SimpleNamespace(index=0, long_edge=WIDTH, alone=False))] * 18
    calibrator, known = Calibrator(state, CalibrationSchedule(state)), state.sparse.intrinsics[0]
    calibrator.adjust()
    assert known.lens.center[0] < 0.3 * off if waits else known.lens.center[0] == pytest.approx(off, rel=0.1)
    calibrator.adjust_last()
    calibrator.look_off_center()
    assert known.lens.center[0] == pytest.approx(off, rel=0.1)
    assert known.focal == pytest.approx(330.0, rel=0.03)
