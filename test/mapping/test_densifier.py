"""Depth of keyframes from their pairs, when views come, leave and come back."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from oracle import Oracle
from scipy.spatial.transform import Rotation
from sequences import SMALL, walk

from dust3r_ros.backends import make_backend
from dust3r_ros.backends.both import BothBackend
from dust3r_ros.config import MapperConfig
from dust3r_ros.features.features import Features
from dust3r_ros.geometry.pinhole import project
from dust3r_ros.geometry.rigid import invert, transform
from dust3r_ros.mapping.camera_stream import CameraStream, KeyframeRecord
from dust3r_ros.mapping.densifier import Densifier
from dust3r_ros.mapping.reconstruction import Reconstruction
from dust3r_ros.scenes.sequence import RenderedSequence
from dust3r_ros.sparse.sparse_map import Intrinsics
from dust3r_ros.timing import no_timer
from dust3r_ros.tracking import Tracks

FRAMES = (0, 4, 8, 12)
CONFIG = replace(SMALL, window=2)
UNIT = 0.4  # map units per metre


def landmarks(sequence: RenderedSequence) -> np.ndarray:
    """(N, 3) metres: what every eighth pixel of the first frame shows."""
    v, u = np.mgrid[4:176:8, 4:240:8].reshape(2, -1)
    z = sequence.depths[0][v, u].astype(np.float64)
    rays = np.stack([(u - 119.5) / sequence.focal, (v - 87.5) / sequence.focal, np.ones(len(u))], axis=1)
    return transform(sequence.w_T_c[0], rays * z[:, None])


def made(sequence: RenderedSequence, backend, config: MapperConfig = CONFIG) -> tuple[Densifier, Oracle]:
    """Four keyframes at their true poses, with landmarks where the first one sees surfaces."""
    truth = Oracle(sequence, SMALL.working_size)
    stream = CameraStream("camera", 0, sequence.width, sequence.height, SMALL)
    state = Reconstruction(config)
    sparse = state.sparse
    sparse.intrinsics.append(Intrinsics(sequence.focal, sequence.focal, 0.0, fixed=True))
    points = landmarks(sequence)
    for frame in FRAMES:
        w_T_c = sequence.w_T_c[frame].copy()
        offsets = project(transform(invert(w_T_c), points), sequence.focal, (0.0, 0.0))
        w_T_c[:3, 3] *= UNIT
        seen = np.flatnonzero(np.all(np.abs(offsets) < [119, 87], axis=1))
        sparse.add(0, Tracks(seen, offsets[seen]), w_T_c)
        image = stream.resize.apply(sequence.images[frame])
        nothing = Features(np.zeros((0, 2)), np.zeros((0, 128), np.float32))
        state.records.append(KeyframeRecord(int(sequence.stamps_ns[frame]), stream, image, nothing, np.zeros(0, int)))
    sparse.landmarks.new(len(points))
    sparse.points[:] = UNIT * points
    return Densifier(state, backend, no_timer), truth


@pytest.fixture(scope="module")
def sequence() -> RenderedSequence:
    return walk("orbit")


@pytest.fixture
def dense(sequence: RenderedSequence) -> tuple[Densifier, Oracle]:
    return made(sequence, make_backend(SMALL))


def check(densifier: Densifier, truth: Oracle, index: int) -> None:
    depth, confidence = densifier.depths[index].shown
    good = confidence > 1.5
    assert good.mean() > 0.15
    assert np.median(np.abs(depth[good] / (UNIT * truth.true_depth(FRAMES[index])[good]) - 1)) < 0.04


def test_a_network_beside_geometry_adds_depth(sequence: RenderedSequence) -> None:
    network = Oracle(sequence, SMALL.working_size, warp=0.02)
    surely = []
    for backend in (make_backend(SMALL), BothBackend(network, None, SMALL.min_parallax_deg)):
        densifier, truth = made(sequence, backend)
        densifier.densify(1, [0])
        for index in (0, 1):
            check(densifier, truth, index)
        surely.append(float(np.mean([(densifier.depths[index].own[1] > 1.5).mean() for index in (0, 1)])))
    assert surely[1] > 1.3 * surely[0]
    assert network.asked == [(0, 1), (1, 0)]


def test_a_preview_stands_in_until_there_is_depth(dense: tuple[Densifier, Oracle]) -> None:
    densifier, truth = dense
    assert densifier.preview(0, [], 2) == {0}, "keyframes after it count, too"
    assert densifier.preview(2, [1, 0], 2) == {2}
    check(densifier, truth, 2)
    assert not densifier.depths[2].estimated and densifier.depths[2].own is None
    previewed = (densifier.depths[2].shown[1] > 1.5).mean()
    densifier.densify(2, [1, 0])
    assert densifier.depths[2].estimated and (densifier.depths[2].shown[1] > 1.5).mean() > 1.2 * previewed
    assert densifier.preview(2, [1, 0], 2) == set(), "there is more already"


def test_a_preview_is_stale_when_its_pair_lies_otherwise(dense: tuple[Densifier, Oracle]) -> None:
    densifier, _ = dense
    densifier.preview(1, [0], 2)
    assert densifier.stale() == set()
    view = densifier._state.sparse.views[1]
    turn = np.eye(4)
    turn[:3, :3] = Rotation.from_euler("y", 1.0, degrees=True).as_matrix()
    view.w_T_c = view.w_T_c @ turn
    assert densifier.stale() == {1} and densifier.depths[1].shown is None


def test_depth_in_map_units(dense: tuple[Densifier, Oracle]) -> None:
    densifier, truth = dense
    assert densifier.densify(1, [0]) == {0, 1}
    assert densifier.densify(2, [1, 0]) == {0, 1, 2}
    for index in range(3):
        check(densifier, truth, index)
    assert densifier.depths[3].shown is None


def test_keyframes_hear_what_others_know(sequence: RenderedSequence) -> None:
    """Those before one when it comes, those after it when it leaves the window, each once."""
    densifier, truth = made(sequence, make_backend(SMALL), replace(CONFIG, window=3, depth_pairs=1))
    alone, _ = made(sequence, make_backend(SMALL), replace(CONFIG, window=3, depth_pairs=1))
    alone._share = lambda index, others: set()
    left = []
    for index in (1, 2, 3):
        for one in (alone, densifier):
            one.densify(index, [index - 1])
            one.share(index)
            left.append(one.leave(index))
    assert left == [set()] * 5 + [{0}], "only the first one left, and it received something"
    assert [densifier.depths[index].received_from for index in range(4)] == [{1, 2}, {0}, {0, 1}, {1, 2}]
    for index in (0, 3):
        check(densifier, truth, index)
        known = [(one.depths[index].shown[1] > 1.5).mean() for one in (alone, densifier)]
        assert known[1] > known[0]


@pytest.mark.parametrize("frozen", [False, True])
def test_depth_from_a_keyframe_that_stood_elsewhere_is_forgotten(sequence: RenderedSequence, frozen: bool) -> None:
    """It stood a little too far ahead while others received depth from it, whose own pairs were right all the time."""
    right, wrong = (made(sequence, make_backend(SMALL), replace(CONFIG, window=9))[0] for _ in range(2))
    view = wrong._state.sparse.views[1]
    w_T_c, ahead = view.w_T_c, view.w_T_c.copy()
    step = np.linalg.norm(w_T_c[:3, 3] - wrong._state.sparse.views[0].w_T_c[:3, 3])
    ahead[:3, 3] += 0.15 * step * w_T_c[:3, 2]
    view.w_T_c = ahead
    for one in (right, wrong):
        one._pair_up(1, [0])
        one._pair_up(3, [2])
        one._share(3, [1])
    assert right.depths[3].received_from == wrong.depths[3].received_from == {1}

    def off() -> float:
        (a, sure_a), (b, sure_b) = (one.depths[3].shown for one in (right, wrong))
        both = (sure_a > 1.5) & (sure_b > 1.5)
        assert both.mean() > 0.3
        return float((np.abs(a[both] / b[both] - 1) > 0.02).mean())

    assert off() > 0.02
    if frozen:
        for one in (right, wrong):
            one.depths[3].freeze()
    view.w_T_c = w_T_c
    assert right.renew() >= {3} and wrong.renew() >= {0, 1, 3}
    assert wrong.depths[3].received_from >= {1} and off() < 0.01


def test_nobody_to_pair_with(dense: tuple[Densifier, Oracle]) -> None:
    densifier, _ = dense
    assert densifier.densify(0, []) == set()
    densifier._state.sparse.views[0].w_T_c = None
    assert densifier.densify(1, [0]) == set() and densifier.depths[1].shown is None


def test_depth_comes_from_the_pairs_that_promise_most(sequence: RenderedSequence) -> None:
    densifier, _ = made(sequence, make_backend(SMALL), replace(CONFIG, window=3, depth_pairs=1))
    views = densifier._state.sparse.views
    w_T_c = [view.w_T_c for view in views]
    views[1].w_T_c = views[2].w_T_c = w_T_c[3].copy()
    assert densifier.densify(3, [2]) == {0, 3}, "two of the window stand at the same place"
    assert densifier.depths[2].shown is None
    views[1].w_T_c, views[0].w_T_c = w_T_c[1], w_T_c[3].copy()
    assert densifier.densify(3, [2]) == {1, 3}
    assert set(densifier.pairs.geometry) == {(1, 3)}, "what it is paired with no longer is not renewed either"


def test_views_that_left_come_back(dense: tuple[Densifier, Oracle]) -> None:
    densifier, truth = dense
    records = densifier._state.records
    last = [records.pop(), records.pop()][::-1]
    densifier.densify(1, [0])
    before = densifier.depths[0].shown[1].sum()
    densifier.leave(1)
    assert densifier.backend.has(0), "within the window"
    records += last
    densifier.leave(2)
    assert not densifier.backend.has(0) and densifier.backend.has(1)
    for near in (1, 2):
        densifier._state.sparse.views[near].w_T_c = None
    assert densifier.densify(3, [0]) == {0, 3}, "a loop closed with a keyframe that left long ago"
    assert densifier.backend.has(0)
    check(densifier, truth, 0)
    assert densifier.depths[0].shown[1].sum() >= 0.9 * before, "what was known is not lost"


def test_depth_that_comes_late_leaves_at_once(dense: tuple[Densifier, Oracle]) -> None:
    """As it does live, newest first: nothing would release it later."""
    densifier, truth = dense
    for index, others in ((3, [2, 1]), (2, [1, 0]), (1, [0])):
        densifier.densify(index, others)
        densifier.leave(index)
    assert densifier.depths[1].frozen and not densifier.backend.has(1)
    densifier.release_old()
    assert [densifier.depths[index].frozen for index in range(4)] == [True, True, False, False]
    assert [densifier.backend.has(index) for index in range(4)] == [False, False, True, True]
    for index in range(4):
        check(densifier, truth, index)


def test_depth_is_renewed_only_where_the_geometry_changed(sequence: RenderedSequence) -> None:
    densifier, truth = made(sequence, make_backend(SMALL), replace(CONFIG, window=9))
    densifier._pair_up(1, [0])
    densifier._pair_up(3, [2])
    predict, asked = densifier.predict, []
    densifier.predict = lambda pairs, *given: asked.extend(pairs) or predict(pairs, *given)
    assert densifier.renew() == {0, 1, 2, 3} and not asked, "each receives the others' depth; nothing is computed anew"
    densifier._state.sparse.move(np.eye(4), 3.0)
    assert densifier.renew() == set() and not asked, "another length alone scales depth"
    densifier._state.sparse.move(np.eye(4), 1 / 3.0)
    w_T_c = densifier._state.sparse.views[3].w_T_c
    other = w_T_c.copy()
    other[:3, :3] = w_T_c[:3, :3] @ Rotation.from_euler("y", 1.0, degrees=True).as_matrix()
    for placed in (other, w_T_c):
        densifier._state.sparse.views[3].w_T_c = placed
        asked.clear()
        assert densifier.renew() >= {2, 3} and asked == [(2, 3)], "the pair of the keyframe that turned"
    for index in range(4):
        check(densifier, truth, index)


def test_pairs_of_a_keyframe_that_lost_its_pose_are_not_renewed(dense: tuple[Densifier, Oracle]) -> None:
    densifier, truth = dense
    densifier.densify(1, [0])
    densifier.densify(2, [1])
    paired = set(densifier.pairs.geometry)
    densifier._state.sparse.views[0].w_T_c = None
    densifier.renew()
    assert (
        set(densifier.pairs.geometry) == {pair for pair in paired if 0 not in pair} < paired
        and (1, 2) in densifier.pairs.geometry
    )
    check(densifier, truth, 2)


def test_depth_follows_a_map_that_is_built_anew_without_one_of_its_keyframes(dense: tuple[Densifier, Oracle]) -> None:
    densifier, _ = dense
    sparse = densifier._state.sparse
    densifier.densify(1, [0])
    before = [densifier.depths[index].shown[0].copy() for index in (0, 1)]

    def build_anew() -> None:
        """In half the unit, and keyframe 0 has no pose."""
        sparse.move(np.eye(4), 0.5)
        sparse.views[0].w_T_c = None

    assert densifier.following((build_anew,), (0, 1)) == {0, 1}
    known = before[1] > 0
    np.testing.assert_allclose(densifier.depths[1].shown[0][known], 0.5 * before[1][known], rtol=1e-6)
    np.testing.assert_array_equal(densifier.depths[0].shown[0], before[0])


def test_an_image_is_rectified_once_for_each_lens(dense: tuple[Densifier, Oracle]) -> None:
    densifier, _ = dense
    (intrinsics,), record = densifier._state.sparse.intrinsics, densifier._state.records[1]
    assert densifier.views.image(1) is record.image
    intrinsics.lens = replace(intrinsics.lens, radial=-0.1)
    bent = densifier.views.image(1)
    assert not np.array_equal(bent, record.image)
    assert densifier.views.image(1) is bent
    intrinsics.lens = replace(intrinsics.lens, radial=-0.2)
    assert not np.array_equal(densifier.views.image(1), bent)
    record.image = record.image[::-1].copy()
    np.testing.assert_array_equal(densifier.views.image(1), record.stream.rectified(record.image, intrinsics.lens)[0])


def test_without_depth_the_graph_knows_who_shares_landmarks(sequence: RenderedSequence) -> None:
    backend = make_backend(SMALL)
    densifier, _ = made(sequence, backend, replace(CONFIG, dense=False))
    seen = densifier._state.sparse.views[3].seen
    densifier._state.sparse.views[3].seen = seen.select(np.arange(len(seen.ids)) < 5)
    for index, others in ((1, [0]), (2, [1, 0]), (3, [2])):
        densifier.connect(index, others)
    assert densifier.renew() == set() and not any(backend.has(index) for index in range(4)), "nothing was predicted"
    assert all(densifier.depths[index].shown is None for index in range(4))
    assert [edge[:2] for edge in densifier._state.graph.edges] == [(0, 1), (0, 2), (1, 2)], (
        "five shared ones are too few"
    )
    assert densifier._state.graph.count("camera") == 3
    shared = np.intersect1d(*(densifier._state.sparse.views[index].seen.ids for index in (0, 2)))
    assert densifier._state.graph.edges[1][2] == pytest.approx(np.log1p(len(shared)))
