"""How long a camera takes to read an image out, and what it would have shown at once."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from scipy.spatial.transform import Rotation
from synthetic import HEIGHT, WIDTH, past_a_wall

from dust3r_ros.geometry.lens import Lens
from dust3r_ros.geometry.pinhole import project
from dust3r_ros.geometry.rigid import invert, pose, transform
from dust3r_ros.sparse import rolling_shutter
from dust3r_ros.sparse.landmarks import Intrinsics
from dust3r_ros.sparse.lens_refinement import consider_lenses, refine_lenses
from dust3r_ros.sparse.rolling_shutter import Motion, Motions, measure_readout
from dust3r_ros.sparse.sparse_map import SparseMap
from dust3r_ros.tracking import Tracks
from dust3r_ros.types import Array

FOCAL, RATE_HZ, VIEWS = 330.0, 10.0, 12
SECOND = 1_000_000_000
LENS = Lens(WIDTH / 2, -0.05, (3.0, -2.0))


def rolled(w_T_c: Array, motion: Motion, points: Array, rolling: Array, lens: Lens) -> Array:
    """(P, 2) where a camera shows points (P, 3) that reads each pixel when it is there: by iteration."""
    seen = np.zeros((len(points), 2))
    for _ in range(20):
        seconds = seen @ rolling
        turns = Rotation.from_rotvec(seconds[:, None] * motion.turn).as_matrix()
        centers = seconds[:, None] * motion.step
        local = np.einsum("nji,nj->ni", turns, transform(invert(w_T_c), points) - centers)
        seen = lens.seen(project(local, FOCAL, (0.0, 0.0)))
    return seen


def motions_of(poses: dict[str, dict[int, Array]]) -> Motions:
    """From poses by camera and stamp."""
    return Motions(
        {
            (name, 0): (np.array(list(own)), lambda rows, own=own: np.stack([list(own.values())[row] for row in rows]))
            for name, own in poses.items()
        }
    )


def walk(rolling: Array, lens: Lens = LENS, noise: float = 0.05) -> tuple[SparseMap, dict[int, Motion]]:
    """A map of cameras that sway on their way past a wall, as ones that read at once explain it; their motion."""
    rng, scene = np.random.default_rng(0), past_a_wall(3 * VIEWS)
    sway = 0.04 * np.sin(np.arange(3 * VIEWS)[:, None] * [0.7, 0.9, 0.5])
    path = scene.w_T_c @ np.stack([pose(Rotation.from_rotvec(turn).as_matrix(), np.zeros(3)) for turn in sway])
    motions = motions_of({"camera": {int(k * SECOND / RATE_HZ): w_T_c for k, w_T_c in enumerate(path)}})
    sparse, known = SparseMap(1.0), dict[int, Motion]()
    sparse.intrinsics.append(Intrinsics(FOCAL, 1.2 * FOCAL, lens=lens))
    ids = sparse.landmarks.new(len(scene.points))
    for view, frame in enumerate(range(1, 3 * VIEWS, 3)):
        motion = motions.at("camera", int(frame * SECOND / RATE_HZ))
        assert motion is not None
        known[view] = motion
        seen = rolled(path[frame], motion, scene.points, rolling, lens) + noise * rng.standard_normal((len(ids), 2))
        inside = np.all(np.abs(seen) < [WIDTH / 2, HEIGHT / 2], axis=1)
        sparse.add(0, Tracks(ids[inside], seen[inside]), path[frame].copy())
    sparse.extend()
    refine_lenses(sparse)
    return sparse, known


ROWS = np.array([0.0, 0.02 / HEIGHT])


@pytest.mark.parametrize("rolling", [ROWS, -ROWS, np.array([0.025 / WIDTH, 0.0])])
def test_what_is_carried_on_is_where_it_is_shown(rolling: Array) -> None:
    rng = np.random.default_rng(1)
    points = rng.uniform([-2.0, -1.5, 3.0], [2.0, 1.5, 7.0], (200, 3))
    motion, intrinsics = (
        Motion(np.array([0.3, -0.5, 0.2]), np.array([0.4, 0.1, -0.6])),
        Intrinsics(FOCAL, FOCAL, lens=LENS),
    )
    shown = rolled(np.eye(4), motion, points, rolling, LENS)
    at_once = LENS.seen(project(points, FOCAL, (0.0, 0.0)))
    carried = motion.carried(intrinsics, points, shown, rolling)
    assert np.linalg.norm(shown - at_once, axis=1).max() > 1.5
    assert np.linalg.norm(shown - carried - at_once, axis=1).max() < 0.05


def test_what_nothing_is_known_of_is_as_far_as_the_rest() -> None:
    motion, intrinsics = (
        Motion(np.array([0.0, 0.5, 0.0]), np.array([1.0, 0.0, 0.0])),
        Intrinsics(FOCAL, FOCAL, lens=LENS),
    )
    points = np.array([[0.3, 1.0, 4.0], [0.3, 1.0, 6.0], [np.nan] * 3, [0.3, 1.0, -5.0]])
    offset = LENS.seen(project(np.array([[0.3, 1.0, 5.0]] * 4), FOCAL, (0.0, 0.0)))
    near, far, unknown, behind = motion.carried(intrinsics, points, offset, ROWS)
    assert far[0] > near[0] and np.allclose(unknown, behind) and near[0] < unknown[0] < far[0]
    assert motion.carried(intrinsics, points[:0], offset[:0], ROWS).shape == (0, 2)
    alone = motion.carried(intrinsics, points[2:], offset[2:], ROWS)
    still = Motion(motion.turn, np.zeros(3)).carried(intrinsics, points[2:], offset[2:], ROWS)
    np.testing.assert_allclose(alone, still, atol=1e-3, err_msg="endlessly far, steps do not show")


def test_a_landmark_at_the_camera_is_as_far_as_the_rest() -> None:
    """It is at a wrong place: where it is, it would fly past within a moment, by a million pixels."""
    motion, intrinsics = Motion(np.zeros(3), np.array([0.3, 0.0, 0.5])), Intrinsics(FOCAL, FOCAL, lens=LENS)
    points = np.array([[0.3, 1.0, 5.0]]) * np.array([[0.8], [1.0], [1.2], [1e-5], [np.nan]])
    offset = LENS.seen(project(np.array([[0.3, 1.0, 5.0]] * 5), FOCAL, (0.0, 0.0)))
    *rest, wrong, unknown = motion.carried(intrinsics, points, offset, ROWS)
    np.testing.assert_array_equal(wrong, unknown)
    assert np.abs(wrong).max() < 1.2 * np.abs(rest).max() < 1.0


def test_how_fast_an_image_moves() -> None:
    motion = Motion(np.array([0.0, 0.3, 0.4]), np.array([0.0, 2.0, 0.0]))
    assert motion.speed(300.0, 4.0) == pytest.approx(300 * (0.5 + 0.5))
    assert not motion.speed(300.0, float("nan")) < 1e9


def test_motion_is_the_slope_of_the_poses_around_a_frame() -> None:
    """A hand that turns to and fro twice a second, and irregular stamps."""
    times = np.array([0.0, 0.1, 0.2, 0.28, 0.4, 10.0])

    def at(seconds: float) -> Array:
        hand = 0.02 * np.sin(4 * np.pi * seconds) * np.array([1.0, 0.5, 0.2])
        return pose(Rotation.from_rotvec(hand).as_matrix(), np.array([0.5 * seconds, 0.1 * seconds**2, 1.0]))

    motions = motions_of({"left": {int(time * SECOND): at(time) for time in times}, "right": {3: np.eye(4)}})
    for time in times[:-1]:
        found, speed = motions.at("left", int(time * SECOND)), 0.02 * 4 * np.pi * np.cos(4 * np.pi * time)
        step = at(time)[:3, :3].T @ [0.5, 0.2 * time, 0.0]
        assert found is not None
        inner = 0.0 < time < 0.4
        np.testing.assert_allclose(found.turn, speed * np.array([1.0, 0.5, 0.2]), atol=0.04 if inner else 0.15)
        np.testing.assert_allclose(found.step, step, atol=0.01 if inner else 0.03)
    assert motions.at("left", 10 * SECOND) is None, "all others are far away"
    assert motions.at("left", 1) is None and motions.at("right", 3) is None and motions.at("none", 0) is None


def roll(sparse: SparseMap, index: int, motion: Motion, rolling: Array) -> None:
    """What a view sees, if its camera's readout were shorter by ``rolling``."""
    view = sparse.views[index]
    points = transform(invert(view.pose), sparse.points[view.seen.ids])
    assert not len(view.pruned.ids)
    view.seen = motion.unrolled(sparse.intrinsics[view.camera], points, view.seen, rolling)


def test_what_is_unrolled_is_rolled_again_to_where_it_was() -> None:
    sparse, motions = walk(ROWS)
    for index, motion in motions.items():
        view, intrinsics = sparse.views[index], sparse.intrinsics[0]
        points = transform(invert(view.pose), sparse.points[view.seen.ids])
        flat = motion.unrolled(intrinsics, points, view.seen, ROWS)
        moved = np.abs(flat.pixels - view.seen.pixels).max()
        again = motion.rolled(intrinsics, points, flat, ROWS)
        np.testing.assert_allclose(again.pixels, view.seen.pixels, atol=1e-4 * max(moved, 1.0))
        assert np.array_equal(again.ids, view.seen.ids)


@pytest.mark.parametrize("rolling", [ROWS, -ROWS, np.array([0.025 / WIDTH, 0.0])])
def test_a_readout_is_found_whichever_way_it_goes_and_the_focal_is_right_without_it(rolling: Array) -> None:
    sparse, motions = walk(rolling)
    intrinsics, misfit, total = sparse.intrinsics[0], sparse.misfit(), np.zeros(2)
    before = abs(intrinsics.focal / FOCAL - 1)
    for _ in range(3):
        found = measure_readout(sparse, 0, motions, total)
        assert found is not None
        total = total + found.rolling
        sparse.unprune()
        for index, motion in motions.items():
            roll(sparse, index, motion, found.rolling)
        refine_lenses(sparse)
    np.testing.assert_allclose(total, rolling, atol=0.1 * np.abs(rolling).max())
    assert sparse.misfit() < 0.2 * misfit
    consider_lenses(sparse)
    assert abs(intrinsics.focal / FOCAL - 1) < 0.004 < before


def test_a_camera_that_reads_at_once_stays_one() -> None:
    sparse, motions = walk(np.zeros(2))
    points, seen = sparse.points.copy(), [view.seen for view in sparse.views]
    found = measure_readout(sparse, 0, motions, np.zeros(2))
    assert found is not None and not found.rolling.any() and 0 < found.focal_std < 0.01
    np.testing.assert_array_equal(sparse.points, points)
    assert all(view.seen is before for view, before in zip(sparse.views, seen, strict=True)), "the map is unchanged"


def test_a_camera_that_hardly_moves_says_nothing() -> None:
    sparse, motions = walk(ROWS)
    still = {index: Motion(1e-6 * motion.turn, 1e-6 * motion.step) for index, motion in motions.items()}
    found = measure_readout(sparse, 0, still, np.zeros(2))
    assert found is not None and not found.rolling.any() and found.focal_std < 0.002
    few = {index: motions[index] for index in range(4)}
    assert measure_readout(sparse, 0, few, np.zeros(2)) is None


def test_of_a_large_map_the_liveliest_stretch_tells(monkeypatch: pytest.MonkeyPatch) -> None:
    sparse, motions = walk(ROWS)
    calm = {
        index: replace(motion, turn=0.1 * motion.turn) if index > 8 else motion for index, motion in motions.items()
    }
    monkeypatch.setattr(rolling_shutter, "_MOST", 8)
    assert rolling_shutter._liveliest(calm)[-1] <= 8 and len(rolling_shutter._liveliest(calm)) == 8
    found = measure_readout(sparse, 0, motions, np.zeros(2))
    assert found is not None and 0.2 * ROWS[1] < found.rolling[1] < 1.3 * ROWS[1] and found.rolling[0] == 0.0
    few = {index: motions[index] for index in range(6)}
    assert rolling_shutter._liveliest(few) == list(range(6))


def test_between_keyframes_the_lens_was_not_changed_yet() -> None:
    frames = {("camera", 0): (np.arange(3), lambda chosen: np.tile(np.eye(4), (len(chosen), 1, 1)))}
    motions = Motions(frames, {("camera", 0): (np.array([0, 2]), np.array([0.1, 0.7]))})
    assert [motion.zoom for stamp in range(3) if (motion := motions.at("camera", stamp)) is not None] == [0.1, 0.1, 0.7]


def test_a_focal_that_changes_is_interpolated_between_keyframes_and_taken_out() -> None:
    """Also of an image that has none before or after it from which it could be told how its camera moved."""
    far = 100_000_000_000
    frames = {("camera", 0): (np.array([0, far, 2 * far]), lambda chosen: np.tile(np.eye(4), (len(chosen), 1, 1)))}
    zooms = {("camera", 0): (np.array([0, 2 * far]), np.array([0.1, 0.3]))}
    motion = Motions(frames, zooms).at("camera", far)
    assert motion is not None and motion.zoom == pytest.approx(0.2) and Motions(frames).at("camera", far) is None
    intrinsics, tracks = Intrinsics(300.0, 300.0), Tracks(np.arange(1), np.array([[30.0, -20.0]]))
    points, rolling = np.array([[0.1, -0.1, 1.0]]), np.zeros(2)
    ideal = motion.unrolled(intrinsics, points, tracks, rolling)
    np.testing.assert_allclose(ideal.pixels, np.exp(-0.2) * tracks.pixels)
    np.testing.assert_allclose(motion.rolled(intrinsics, points, ideal, rolling).pixels, tracks.pixels)
