"""Alignment keyframe by keyframe, on laps through an empty box with known truth."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import pytest
from box_room import BoxRoom, circle, with_neighbours
from branches import branch
from scipy.spatial.transform import Rotation

from dust3r_ros.alignment.moments import DOF, scale_of
from dust3r_ros.alignment.online.incremental import IncrementalAligner
from dust3r_ros.alignment.online.keyframe_bundle import AlignmentUpdate, KeyframeUpdate
from dust3r_ros.alignment.online.keyframe_start import rigid
from dust3r_ros.alignment.similarity_graph import SimilarityGraph
from dust3r_ros.errors import GeometryError
from dust3r_ros.geometry.focal import pooled_focal
from dust3r_ros.geometry.rigid import BODY_T_OPTICAL, invert, pose
from dust3r_ros.types import PairPrediction

PER_LAP = 24
Pairs = Sequence[PairPrediction]
Loops = Callable[[BoxRoom, int], Pairs]


def no_loops(room: BoxRoom, index: int) -> Pairs:
    return ()


def lap_before(room: BoxRoom, index: int) -> Pairs:
    """Right loops: the keyframe one lap ago."""
    old = index - PER_LAP
    return room.predict([(old, index), (index, old)]) if old >= 0 else ()


def play(
    room: BoxRoom, loops: Loops = no_loops, keyframes: int | None = None
) -> tuple[IncrementalAligner, list[AlignmentUpdate]]:
    """All keyframes of a room, without ``finish``."""
    aligner = IncrementalAligner()
    return aligner, [add(aligner, room, index, loops) for index in range(keyframes or len(room.w_T_c))]


def add(aligner: IncrementalAligner, room: BoxRoom, index: int, loops: Loops = no_loops) -> AlignmentUpdate:
    return aligner.add("camera", *room.shape, room.predict(with_neighbours(index)), loops(room, index))


def changes(updates: Sequence[AlignmentUpdate]) -> list[KeyframeUpdate]:
    return [change for update in updates for change in update.changed]


def switched_off(updates: Sequence[AlignmentUpdate]) -> set[tuple[int, int]]:
    return {(edge.first, edge.second) for update in updates for edge in update.switched_off}


def counting(aligner: IncrementalAligner) -> set[tuple[int, int]]:
    return {(int(i), int(j)) for i, j in aligner.map.edges.ends_on()}


def map_scale(room: BoxRoom, w_T_c: np.ndarray) -> float:
    """Map units per metre."""
    steps = [np.diff(T[:, :3, 3], axis=0) for T in (w_T_c, room.w_T_c[: len(w_T_c)])]
    found, true = (np.linalg.norm(step, axis=1).sum() for step in steps)
    return float(found / true)


@pytest.fixture(scope="module")
def lapped() -> tuple[BoxRoom, IncrementalAligner]:
    """Two laps with right loops, finished."""
    room = BoxRoom(circle(48, PER_LAP), noise=0.02)
    aligner, _ = play(room, lap_before)
    aligner.finish()
    return room, aligner


@pytest.fixture(scope="module")
def begun() -> tuple[BoxRoom, Callable[[int], IncrementalAligner]]:
    """The first keyframes of a lap: aligners of so many that a test may go on with."""
    room, aligners = BoxRoom(circle(12, PER_LAP)), [IncrementalAligner()]
    for index in range(12):
        aligners.append(branch(aligners[-1]))
        add(aligners[-1], room, index)
    return room, lambda keyframes: branch(aligners[keyframes])


def test_poses_focal_and_depth_are_right_without_any_loop() -> None:
    room = BoxRoom(circle(20, PER_LAP))
    aligner, updates = play(room)
    assert room.ate(aligner.poses) < 0.03  # metres, of 6 m
    np.testing.assert_allclose(aligner.poses[0], BODY_T_OPTICAL, atol=1e-12)
    focal, deviation = aligner.focal("camera")
    assert focal == pytest.approx(room.focal, rel=1e-3) and deviation < 0.045 * focal
    unit = map_scale(room, aligner.poses)
    reported = [change for change in changes([*updates, aligner.finish()]) if change.depth is not None]
    assert sorted(change.index for change in reported) == list(range(20))  # each once
    for change in reported:
        assert change.depth is not None and change.confidence is not None
        ratio = change.depth * aligner.scale(change.index) / (room.depth(change.index) * unit)
        assert np.median(np.abs(ratio - 1)) < 0.03
        assert (change.confidence > 1).all()


def test_the_focal_gets_surer() -> None:
    room, aligner, deviations = BoxRoom(circle(24, PER_LAP)), IncrementalAligner(), []
    for index in range(24):
        aligner.add("camera", *room.shape, [stretched(pair) for pair in room.predict(with_neighbours(index))])
        deviations.append(aligner.focal("camera")[1])
    focal, deviation = aligner.focal("camera")
    pool = aligner.map.pools["camera"].facts()["votes"]
    scatter = pooled_focal(*np.transpose(pool))[1]
    expected = 0.03 * room.focal / np.sqrt(3 * 23)  # 23 keyframes with three pairs each
    assert deviations[0] == np.inf and 0.6 < scatter / expected < 1.5
    assert abs(focal - room.focal) < 3 * scatter and deviation < 0.5 * max(deviations[1:])


def stretched(pair: PairPrediction) -> PairPrediction:
    """A prediction as of a camera with a focal that is a bit off, another one for every pair."""
    factor = 1 + 0.03 * np.random.default_rng([pair.first, pair.second, 9]).standard_normal()
    stretch = np.array([factor, factor, 1.0], dtype=np.float32)
    return replace(pair, points_first=pair.points_first * stretch, points_second=pair.points_second * stretch)


def test_a_keyframe_moves_the_window_only() -> None:
    _, updates = play(BoxRoom(circle(30, PER_LAP), noise=0.03))
    for index, update in enumerate(updates):
        assert not update.solved
        assert all(change.index >= index - 8 for change in update.changed)
    assert any(change.index < index - 1 for index, update in enumerate(updates) for change in update.changed)


def test_a_loop_puts_the_whole_map_right() -> None:
    room = BoxRoom(circle(50, PER_LAP), noise=0.03)
    drifted, closed = play(room)[0], play(room, lap_before)
    assert any(update.solved for update in closed[1])
    first = next(update for update in closed[1] if update.solved)
    assert min(change.index for change in first.changed) < 8  # far outside the window
    assert room.ate(closed[0].poses) < 0.7 * room.ate(drifted.poses)


def test_the_map_can_be_followed_by_its_updates_alone() -> None:
    room, seen = BoxRoom(circle(55, PER_LAP), noise=0.03), {}
    aligner, updates = play(room, lap_before)
    for change in changes([*updates, aligner.finish()]):
        assert change.version == (seen[change.index].version + 1 if change.index in seen else 1)
        seen[change.index] = change
    assert sorted(seen) == list(range(55))
    for index, w_T_c in enumerate(aligner.poses):
        np.testing.assert_allclose(seen[index].w_T_c, w_T_c, atol=5e-3)
        assert seen[index].scale == pytest.approx(aligner.scale(index), rel=2e-3)


def test_the_same_input_gives_the_same_map(lapped: tuple[BoxRoom, IncrementalAligner]) -> None:
    (_, one), other = lapped, play(lapped[0], lap_before)[0]
    other.finish()
    assert one.poses.tobytes() == other.poses.tobytes() and one.focal("camera") == other.focal("camera")


def test_the_result_is_that_of_a_batch_solution_of_the_stored_moments(
    lapped: tuple[BoxRoom, IncrementalAligner],
) -> None:
    room, aligner = lapped
    edges = aligner.map.edges
    on = np.flatnonzero(edges.on)
    free = np.ones((len(aligner), DOF), dtype=bool)
    free[0] = False
    graph = SimilarityGraph(edges.first[on], edges.second[on], edges.moments(on), free)
    start = aligner.map.similarities.copy()
    start[1:] += 0.02 * np.random.default_rng(0).standard_normal((len(aligner) - 1, 4, 4)) * ([[1]] * 3 + [[0]])
    start[:, :3, :3] = rigid_part(start) * scale_of(aligner.map.similarities)[:, None, None]
    poses = rigid(graph.solve(start, iterations=60).S)
    assert np.abs(poses[:, :3, 3] - aligner.poses[:, :3, 3]).max() < 0.05 * room.ate(aligner.poses)
    assert room.ate(aligner.poses) == pytest.approx(room.ate(poses), rel=0.01)


def rigid_part(S: np.ndarray) -> np.ndarray:
    U, _, Vt = np.linalg.svd(S[:, :3, :3])
    return U @ Vt


def test_wrong_loops_are_reported_and_do_no_harm(lapped: tuple[BoxRoom, IncrementalAligner]) -> None:
    (room, clean), wrong = lapped, set()

    def mixed(room: BoxRoom, index: int) -> Pairs:
        rng = np.random.default_rng([index, 3])
        right = lap_before(room, index)
        if not right or rng.uniform() > 3 / 7:  # 30 % of all loops
            return right
        old = int(rng.integers(index - PER_LAP))
        wrong.update({(index, old), (old, index)})
        return [*right, *room.mistake(index, old)]

    aligner, updates = play(room, mixed)
    updates.append(aligner.finish())
    assert len(wrong) > 12
    assert wrong <= switched_off(updates) and not wrong & counting(aligner)
    assert len(switched_off(updates) - wrong) <= 2
    assert room.ate(aligner.poses) < 1.1 * room.ate(clean.poses)


@pytest.mark.parametrize("begin", [20, 40])
def test_wrong_loops_that_agree_with_each_other_give_way_to_right_ones(
    begin: int, lapped: tuple[BoxRoom, IncrementalAligner]
) -> None:
    """A place that looks like another for several keyframes, before and after the first right loop."""
    (room, clean), wrong = lapped, set()
    off = pose(Rotation.from_rotvec([0.05, 0.3, 0.1]).as_matrix(), [0.5, 0.1, 0.3])

    def aliased(room: BoxRoom, index: int) -> Pairs:
        right = lap_before(room, index)
        if not begin <= index < begin + 4:
            return right
        old = index - 15
        wrong.update({(index, old), (old, index)})
        return [*right, *room.mistake(index, old, off @ invert(room.w_T_c[index]) @ room.w_T_c[old])]

    aligner, updates = play(room, aliased)
    updates.append(aligner.finish())
    assert wrong <= switched_off(updates) and not wrong & counting(aligner)
    assert room.ate(aligner.poses) < 1.1 * room.ate(clean.poses)


def test_memory_of_old_keyframes_is_small() -> None:
    room = BoxRoom(circle(16, PER_LAP), shape=(96, 128), focal=112.0)
    aligner, _ = play(room)
    young = aligner.nbytes
    aligner.finish()
    assert aligner.nbytes < 0.4 * young
    assert aligner.depth(3) is None
    with_pixels = 16 * 96 * 128 * 2 * 4
    assert aligner.map.edges.nbytes < 0.05 * with_pixels


def test_pairs_of_one_order_are_enough() -> None:
    room = BoxRoom(circle(16, PER_LAP))
    for order in (0, 1):
        aligner = IncrementalAligner()
        for index in range(16):
            aligner.add("camera", *room.shape, room.predict(with_neighbours(index)[order::2]))
        assert room.ate(aligner.poses) < 0.05


def test_a_given_focal_stays_and_every_camera_has_its_own() -> None:
    rooms = {
        "wide": BoxRoom(circle(24, PER_LAP)),
        "tele": BoxRoom(circle(24, PER_LAP), shape=(48, 36), focal=60.0),
    }
    aligner = IncrementalAligner()
    aligner.set_focal("tele", 60.6)
    names = ["wide", "tele"]
    for index in range(24):
        pairs = [two_cameras(rooms[names[i % 2]], rooms[names[j % 2]], i, j) for i, j in with_neighbours(index)]
        aligner.add(names[index % 2], *rooms[names[index % 2]].shape, pairs)
    assert aligner.focal("tele") == (60.6, 0.0)
    assert aligner.focal("wide")[0] == pytest.approx(42.0, rel=0.01)
    assert rooms["wide"].ate(aligner.poses) < 0.05
    with pytest.raises(GeometryError, match="'tele' already has keyframes"):
        aligner.set_focal("tele", 50.0)
    with pytest.raises(GeometryError, match=r"focal -1\.0"):
        aligner.set_focal("new", -1.0)
    with pytest.raises(GeometryError, match="'new' has no keyframe"):
        aligner.focal("new")


def two_cameras(room: BoxRoom, other: BoxRoom, i: int, j: int) -> PairPrediction:
    """A prediction of two cameras: each view as its own camera has it."""
    i_T_j = invert(room.w_T_c[i]) @ room.w_T_c[j]
    own, of_other = room.pair(i, j, i_T_j), other.pair(i, j, i_T_j)
    return replace(own, points_second=of_other.points_second, confidence_second=of_other.confidence_second)


def test_a_bad_pair_among_good_ones_is_left_out_and_reported(
    begun: tuple[BoxRoom, Callable[[int], IncrementalAligner]],
) -> None:
    room, aligner = begun[0], begun[1](11)
    pairs = room.predict(with_neighbours(11))
    bad = room.mistake(11, 8)
    update = aligner.add("camera", *room.shape, [*pairs[2:], *bad])
    assert switched_off([update]) == {(11, 8), (8, 11)}
    assert counting(aligner).isdisjoint({(11, 8), (8, 11)})
    assert room.ate(aligner.poses) < 0.03


def test_pixels_that_are_not_finite_do_not_matter() -> None:
    room = BoxRoom(circle(12, PER_LAP))
    aligner = IncrementalAligner()
    for index in range(12):
        pairs = room.predict(with_neighbours(index))
        for pair in pairs:
            pair.points_first[:9] = np.nan
            pair.points_second[:, :9] = np.inf
            pair.confidence_first[20:24] = np.nan
            pair.confidence_second[20:24] = np.inf
        aligner.add("camera", *room.shape, pairs)
    aligner.finish()
    assert np.isfinite(aligner.poses).all() and room.ate(aligner.poses) < 0.05


def unsure(pair: PairPrediction) -> PairPrediction:
    ones = np.ones_like(pair.confidence_first)
    return replace(pair, confidence_first=ones, confidence_second=ones)


def lost(pair: PairPrediction) -> PairPrediction:
    nothing = np.full_like(pair.points_first, np.nan)
    return replace(pair, points_first=nothing, points_second=nothing)


def on_a_line(pair: PairPrediction) -> PairPrediction:
    line = np.linspace(1, 2, pair.points_first[..., 0].size).reshape(pair.confidence_first.shape)
    points = np.stack([0.1 * line, 0.2 * line, line], axis=-1).astype(np.float32)
    return replace(pair, points_first=points, points_second=points)


def nonsense(pair: PairPrediction) -> PairPrediction:
    rng = np.random.default_rng([pair.first, pair.second])
    first, second = rng.normal([0, 0, 3], 1.0, (2, *pair.points_first.shape)).astype(np.float32)
    return replace(pair, points_first=first, points_second=second)


@pytest.mark.parametrize(
    ("spoilt", "message"),
    [
        (unsure, "0 have depth"),
        (lost, "0 have depth"),
        (on_a_line, "determines a similarity|fits"),
        (nonsense, "fits: the least mean residual|determines a similarity"),
    ],
)
@pytest.mark.parametrize("at", [1, 7])
def test_a_keyframe_without_information_is_refused_and_nothing_remains(
    spoilt: Callable[[PairPrediction], PairPrediction],
    message: str,
    at: int,
    begun: tuple[BoxRoom, Callable[[int], IncrementalAligner]],
) -> None:
    room, aligner = begun[0], begun[1](at)
    before, focal = aligner.poses, aligner.focal("camera")
    with pytest.raises(GeometryError, match=message):
        aligner.add("camera", *room.shape, [spoilt(pair) for pair in room.predict(with_neighbours(at))])
    assert len(aligner) == at and aligner.focal("camera") == focal
    np.testing.assert_array_equal(aligner.poses, before)
    for index in range(at, 12):
        add(aligner, room, index)
    np.testing.assert_allclose(aligner.poses, begun[1](12).poses, atol=1e-9)  # as if it had never been


def test_what_does_not_fit_is_refused_by_name(begun: tuple[BoxRoom, Callable[[int], IncrementalAligner]]) -> None:
    room, aligner = begun[0], begun[1](4)
    shape = room.shape
    with pytest.raises(GeometryError, match="keyframe 4 comes without pairs"):
        aligner.add("camera", *shape, [])
    with pytest.raises(GeometryError, match="pair 2-3 cannot come with keyframe 4"):
        aligner.add("camera", *shape, room.predict([(2, 3)]))
    with pytest.raises(GeometryError, match="pair 4-9 cannot come with keyframe 4"):
        aligner.add("camera", *shape, room.predict([(3, 4)]), room.predict([(4, 9)]))
    with pytest.raises(GeometryError, match="for keyframe 4, which has 20 rows of 48 pixels"):
        aligner.add("camera", 20, 48, room.predict([(4, 3)]))
    assert len(aligner) == 4


def test_cameras_that_only_turn_or_stand_still_are_placed() -> None:
    turns = np.stack([pose(Rotation.from_rotvec([0, 0.12 * k, 0]).as_matrix(), np.zeros(3)) for k in range(10)])
    turning, standing = BoxRoom(turns), BoxRoom(np.tile(turns[:1], (6, 1, 1)))
    aligner, _ = play(turning)
    relative = invert(turns[0]) @ turns[-1]
    found = invert(aligner.poses[0]) @ aligner.poses[-1]
    assert Rotation.from_matrix(relative[:3, :3].T @ found[:3, :3]).magnitude() < np.radians(2)
    assert np.linalg.norm(aligner.poses[:, :3, 3], axis=1).max() < 0.05
    still, _ = play(standing)
    assert np.linalg.norm(still.poses[:, :3, 3], axis=1).max() < 0.02
