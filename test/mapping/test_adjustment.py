"""Which adjustment of the whole map is next, and what becomes of one that was begun."""

from types import SimpleNamespace

import numpy as np
import pytest
from rings import claimed, ring, unlinked
from scipy.spatial.transform import Rotation
from sequences import SMALL

from dust3r_ros.backends import make_backend
from dust3r_ros.geometry.rigid import pose
from dust3r_ros.mapping import loop_adjustment
from dust3r_ros.mapping.adjustment import AdjustmentQueue, WholeMap
from dust3r_ros.mapping.landmark_map import MapBuilder
from dust3r_ros.mapping.loop_adjustment import LoopGap
from dust3r_ros.mapping.reconstruction import Reconstruction
from dust3r_ros.mapping.self_calibration import CalibrationSchedule
from dust3r_ros.sparse.landmarks import Intrinsics
from dust3r_ros.sparse.lens_refinement import consider_lenses
from dust3r_ros.sparse.transplant import adjusted_copy
from dust3r_ros.timing import no_timer


def test_an_adjustment_that_does_not_fit_any_more_is_begun_again():
    waiting = AdjustmentQueue(wanted={"calibration"})
    waiting.begin(lambda kind: WholeMap(kind, None, False, False), True, False)  # type: ignore[arg-type]
    assert waiting.running and waiting.ready and not waiting.wanted
    waiting.cancel()
    assert not waiting.running and waiting.wanted == {"calibration"} and waiting.count == 1
    assert waiting.take() is None


def test_a_loop_does_not_take_the_place_of_a_calibration():
    waiting, begun = AdjustmentQueue(wanted={"loop", "calibration"}), []
    for _ in range(2):
        waiting.begin(lambda kind: begun.append(kind) or WholeMap(kind, None, False, False), True, False)  # type: ignore[arg-type]
        waiting.take()
    assert begun == ["calibration", "loop"] and not waiting.wanted


def test_a_calibration_does_not_take_the_place_of_a_loop_that_was_begun():
    """Which knows how to close gaps that a calibration would leave open."""
    waiting = AdjustmentQueue(wanted={"loop"})
    waiting.begin(lambda kind: WholeMap(kind, None, False, False), True, False)  # type: ignore[arg-type]
    waiting.cancel()
    assert waiting.wanted == {"loop"}


def test_one_that_failed_begins_again_once():
    """Else the gap of its loop stayed open; and a cause that stays would begin it for ever."""

    def fails(kind: str) -> WholeMap:
        raise MemoryError(kind)

    waiting = AdjustmentQueue(beside=True, wanted={"loop"})
    for wanted in ({"loop"}, set()):
        waiting.begin(fails, True, False)
        waiting.wait()
        assert waiting.ready and waiting.take() is None
        assert waiting.wanted == wanted and not waiting.running


@pytest.mark.parametrize("live", [False, True])
@pytest.mark.parametrize(("adjusted", "left"), [(1000, 0.05), (100, 0.4)])
def test_the_gap_of_a_large_map_is_spread_before_landmarks_are_adjusted(monkeypatch, adjusted, left, live):
    """Also if its unit changes while the loop waits, and although a link across the loop was not closed before."""
    monkeypatch.setattr(loop_adjustment, "_ADJUSTED", adjusted)
    walk = ring(220, 2e-3)
    builder = MapBuilder(Reconstruction(SMALL), make_backend(SMALL), no_timer)
    state, adjuster = builder.state, builder._adjuster
    state.sparse, stream = walk.sparse, SimpleNamespace(index=0, name="camera")
    for keyframe in range(220):
        state.records.append(SimpleNamespace(before=keyframe - 1 if keyframe else None, stream=stream))  # type: ignore[arg-type]
    for first, second in [*walk.edges, (3, 214)]:
        state.graph.connect(first, second, 1.0, ("camera", "camera"))
    state.adjusted, state.live, before = 100, live, walk.ate
    gap = LoopGap.of(walk.sparse, 0, 219, walk.here, walk.there)
    if live:
        adjuster.close_loop(gap)
        state.sparse.move(np.eye(4), 3.0)
        adjuster.moved(3.0)
        assert adjuster.waiting.wanted == {"loop"}
        state.live = False
        adjuster._loops.close()
    else:
        adjuster._loops.gaps = [gap]
        adjuster._loops.close()
    assert walk.ate < left * before


@pytest.mark.parametrize("live", [False, True])
@pytest.mark.parametrize(("second", "joined"), [(71, True), (36, False)])
def test_a_wide_loop_is_brought_in_only_if_it_tears_nothing(live, second, joined):
    """At once, or by a copy while keyframes come; a place that looks like another stays its own."""
    walk = ring(72, 3e-3, alike=36) if joined else ring(72, 0.0, alike=36)
    walk = unlinked(walk) if joined else walk
    builder = MapBuilder(Reconstruction(SMALL), make_backend(SMALL), no_timer)
    state, adjuster = builder.state, builder._adjuster
    state.sparse, state.live, state.initialised = walk.sparse, live, True
    stream = SimpleNamespace(index=0, name="camera")
    for keyframe in range(72):
        state.records.append(SimpleNamespace(before=keyframe - 1 if keyframe else None, stream=stream))  # type: ignore[arg-type]
    for edge in walk.edges:
        state.graph.connect(*edge, 1.0, ("camera", "camera"))
    adjuster._follow = lambda adjust, views=None: adjust()
    adjuster._depth.revise = lambda: None
    state.adjusted, before = 72, walk.ate
    old = np.arange(60)
    pairs = np.stack([old, old + (60 * 72 if joined else 60 * 36)], axis=1)
    adjuster.consider([claimed(walk, 0, second, pairs)])
    if live:
        assert adjuster.waiting.wanted == {"wide loop"} and walk.ate == before
        adjuster.begin()
        adjuster.take_up()
    assert not adjuster.waiting.count
    same = np.array_equal(*state.sparse.landmarks.resolved(pairs).T)
    assert same == joined
    assert walk.ate < 0.3 * before if joined else walk.ate == before
    if joined:
        std = state.sparse.intrinsics[0].std
        consider_lenses(state.sparse)
        assert std == pytest.approx(state.sparse.intrinsics[0].std, rel=0.1), "with the lens free, as ever"


def test_the_focal_of_a_camera_that_joins_is_as_uncertain_as_with_a_free_lens():
    """It moves in every adjustment of a window, in which lenses do not."""
    builder, walk = MapBuilder(Reconstruction(SMALL), make_backend(SMALL), no_timer), ring(12)
    state, sparse = builder.state, walk.sparse
    state.sparse, streams = sparse, [SimpleNamespace(index=k, name=f"camera {k}") for k in range(2)]
    sparse.intrinsics.append(Intrinsics(1.01 * sparse.intrinsics[0].focal, sparse.intrinsics[0].focal))
    for index, view in enumerate(sparse.views):
        view.camera = index % 2
        state.records.append(SimpleNamespace(stream=streams[view.camera]))  # type: ignore[arg-type]
    builder._adjuster.adjust_window(range(4, 12))
    std = sparse.intrinsics[1].std
    assert sparse.intrinsics[1].focal == pytest.approx(sparse.intrinsics[0].focal, rel=0.005)
    consider_lenses(sparse)
    assert std == pytest.approx(sparse.intrinsics[1].std, rel=0.1)


@pytest.mark.parametrize(("kind", "stays"), [("calibration", True), ("search", True), ("loop", False)])
def test_only_loops_move_the_camera(kind, stays):
    walk = ring(72, 0.0)
    builder = MapBuilder(Reconstruction(SMALL), make_backend(SMALL), no_timer)
    builder.state.sparse, newest = walk.sparse, walk.sparse.views[-1].pose.copy()
    turned = pose(Rotation.from_rotvec([0.1, 0.2, -0.3]).as_matrix(), np.array([1.0, 2.0, 3.0]))
    adjusted = adjusted_copy(walk.sparse, lambda: walk.sparse.move(turned, 1.0))
    builder._adjuster._bring_in(WholeMap(kind, adjusted, False, False, 72))
    np.testing.assert_allclose(walk.sparse.views[-1].pose, newest if stays else turned @ newest, atol=1e-9)


@pytest.mark.parametrize("live", [False, True])
def test_a_bent_stretch_is_rebuilt(monkeypatch, live):
    """Live, beside other work, and only what is better is brought in."""
    builder = MapBuilder(Reconstruction(SMALL), make_backend(SMALL), no_timer)
    state, adjuster, tried = builder.state, builder._adjuster, []
    state.live = live
    state.sparse.intrinsics.append(Intrinsics(500.0, 500.0))
    state.records.append(SimpleNamespace(stream=SimpleNamespace(index=0)))  # type: ignore[arg-type]
    monkeypatch.setattr(adjuster.consistency, "rebuild_due", lambda last: not tried)
    monkeypatch.setattr(adjuster._calibrator, "rebuild", lambda stretches: tried.append(True) or True)
    monkeypatch.setattr(adjuster, "_follow", lambda adjust, views=None: adjust())
    built = []
    monkeypatch.setattr(adjuster, "_built_anew", lambda: built.append(True))
    adjuster.rebuild()
    if live:
        assert adjuster.waiting.wanted == {"rebuild"} and not tried
        adjuster.begin()
        adjuster.take_up()
    adjuster.rebuild()
    assert tried == built == [True] and not adjuster.waiting.count


@pytest.mark.parametrize(
    ("kind", "guessing", "due", "next_ones"),
    [
        ("search", False, True, {"calibration"}),
        ("search", False, None, set()),  # at rest nothing is new: no endless calibrating
        ("calibration", False, True, {"search"}),
        ("calibration", True, True, {"search", "calibration"}),  # the first poses wait for it
    ],
)
def test_keyframes_that_came_meanwhile_are_calibrated_with(monkeypatch, kind, guessing, due, next_ones):
    assert wanted_after(monkeypatch, kind, guessing, due) == next_ones


def test_calibrations_do_not_keep_a_map_whose_focal_is_not_to_be_trusted_from_a_search(monkeypatch):
    monkeypatch.setattr(Reconstruction, "trusted", False)
    assert wanted_after(monkeypatch, "calibration", True, True, meanwhile={"calibration"}) == {"search"}
    assert wanted_after(monkeypatch, "search", True, True) == {"calibration"}


def wanted_after(monkeypatch, kind, guessing, due, meanwhile=frozenset()):
    """The adjustments that wait after one of ``kind``, ``meanwhile`` among them."""
    builder = MapBuilder(Reconstruction(SMALL), make_backend(SMALL), no_timer)
    adjuster = builder._adjuster
    monkeypatch.setattr(CalibrationSchedule, "calibration_due", due)
    monkeypatch.setattr(CalibrationSchedule, "search_due", True)
    monkeypatch.setattr(Reconstruction, "guessing", guessing)
    monkeypatch.setattr(adjuster, "_adjusted_copy", lambda kind: WholeMap(kind, None, False, False))
    monkeypatch.setattr(adjuster, "_follow", lambda adjust: None)
    adjuster.waiting.wanted = {kind}
    adjuster.begin()
    adjuster.waiting.wanted |= meanwhile
    adjuster.take_up()
    assert not adjuster.waiting.at_rest
    return adjuster.waiting.wanted


@pytest.mark.parametrize("live", [False, True])
def test_a_map_that_rests_is_adjusted_once(monkeypatch, live):
    builder = MapBuilder(Reconstruction(SMALL), make_backend(SMALL), no_timer)
    state, adjuster = builder.state, builder._adjuster
    state.live, done = live, []
    state.sparse.intrinsics.append(Intrinsics(500.0, 500.0))
    state.records.append(SimpleNamespace(stream=SimpleNamespace(index=0)))  # type: ignore[arg-type]
    monkeypatch.setattr(CalibrationSchedule, "rests", lambda self, stamp_ns: stamp_ns > 5)
    monkeypatch.setattr(adjuster, "_calibrate", done.append)
    assert not builder.rest(5) and not adjuster.waiting.count
    assert builder.rest(6) is not live and len(done) == 1 - live
    assert adjuster.waiting.at_rest == ({"calibration"} if live else set())
    if live:
        monkeypatch.setattr(adjuster, "_adjusted_copy", lambda kind: WholeMap(kind, None, False, False))
        adjuster.begin()
        assert not builder.rest(7) and not adjuster.waiting.at_rest, "it is under way"


def test_what_may_wait_for_rest_does():
    waiting = AdjustmentQueue(wanted={"loop"}, at_rest={"calibration"})
    assert waiting.count == 2
    begun = []
    while waiting.wanted or waiting.at_rest:
        begun.append(waiting.begin(lambda kind: WholeMap(kind, None, False, False), True, False))  # type: ignore[arg-type]
        waiting.take()
    assert begun == ["loop", "calibration"] and waiting.count == 0


@pytest.mark.parametrize(
    ("kind", "sure", "guessing", "urgent"),
    [
        ("start", True, False, True),  # with a focal that is given there are no poses before it, either
        ("calibration", False, True, True),
        ("calibration", False, False, False),
        ("calibration", True, False, False),
        ("calibration", True, True, False),
    ],
)
def test_what_poses_wait_for_is_not_put_behind_other_work(monkeypatch, kind, sure, guessing, urgent):
    nice = []
    monkeypatch.setattr("dust3r_ros.mapping.adjustment.Aside", lambda work, by: nice.append(by))
    AdjustmentQueue(beside=True, wanted={kind}).begin(lambda kind: None, sure, guessing)  # type: ignore[arg-type, return-value]
    assert (nice == [0]) == urgent
