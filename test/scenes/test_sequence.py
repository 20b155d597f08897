"""Images, depths and poses of a sequence describe one and the same world."""

from __future__ import annotations

from itertools import pairwise

import cv2
import numpy as np
import pytest

from dust3r_ros.errors import InputError
from dust3r_ros.geometry.pinhole import center_of, project, unproject
from dust3r_ros.geometry.rigid import angle_deg, invert, transform
from dust3r_ros.scenes.rooms import CORRIDOR_SIZE, ROOM_SIZE, corridor, room
from dust3r_ros.scenes.sequence import PATHS, RenderedSequence, look_at, render_sequence, walk


@pytest.mark.parametrize("kind", PATHS)
@pytest.mark.parametrize("rate_hz", [10.0, 30.0])
def test_paths_are_rigid_smooth_and_in_the_world(kind: str, rate_hz: float) -> None:
    poses = walk(kind, 60, rate_hz=rate_hz, seed=4)
    rotations = poses[:, :3, :3]
    assert np.allclose(rotations @ rotations.transpose(0, 2, 1), np.eye(3), atol=1e-12)
    assert np.allclose(np.linalg.det(rotations), 1)
    speed = np.linalg.norm(np.diff(poses[:, :3, 3], axis=0), axis=1) * rate_hz
    turning = np.array([angle_deg(a.T @ b) for a, b in pairwise(rotations)]) * rate_hz
    assert speed.max() < 1.3 * max(PATHS[kind].speed, 0.1) and turning.max() < 60
    assert np.abs(np.diff(speed)).max() < 0.2  # no jerk between two frames
    half = np.array(CORRIDOR_SIZE if kind == "corridor" else ROOM_SIZE) / 2
    assert (np.abs(poses[:, :2, 3]) < half[:2] - 0.7).all()
    assert ((poses[:, 2, 3] > 1.0) & (poses[:, 2, 3] < 1.8)).all()
    assert (poses[:, 2, 1] < -0.8).all()  # the image's down points down


def test_rotation_stays_on_its_spot_and_turns() -> None:
    poses = walk("rotation", 40, rate_hz=10)
    assert np.ptp(poses[:, :3, 3], axis=0).max() == 0
    assert angle_deg(poses[0, :3, :3].T @ poses[-1, :3, :3]) > 60


def test_a_lap_of_the_orbit_ends_where_it_began_up_to_the_hand() -> None:
    poses = walk("orbit", 100, laps=1.0, seed=2)
    assert np.linalg.norm(poses[0, :3, 3] - poses[-1, :3, 3]) < 0.05
    assert np.linalg.norm(poses[0, :3, 3] - poses[50, :3, 3]) > 2.5
    towards_middle = ([0, 0, 0.9] - poses[:, :3, 3]) * [1, 1, 0]
    towards_middle /= np.linalg.norm(towards_middle, axis=1, keepdims=True)
    assert ((poses[:, :3, 2] * towards_middle).sum(1) > 0.8).all()


def test_open_paths_are_walked_once_however_long_it_takes() -> None:
    short, long = walk("forward", 50, rate_hz=10), walk("forward", 500, rate_hz=10)
    assert long[-1, 0, 3] > short[-1, 0, 3] > short[0, 0, 3]
    assert long[-1, 0, 3] < 2.0
    assert walk("sweep", 1).shape == (1, 4, 4)


def test_hand_and_seed() -> None:
    assert np.array_equal(walk("sweep", 20, seed=1), walk("sweep", 20, seed=1))
    assert not np.array_equal(walk("sweep", 20, seed=1), walk("sweep", 20, seed=2))


def test_look_at_sees_the_target_in_the_middle_and_level() -> None:
    T = look_at(np.array([1.0, -2.0, 1.5]), np.array([0.0, 0.5, 0.3]))
    target = np.linalg.inv(T) @ [0.0, 0.5, 0.3, 1.0]
    assert np.allclose(target[:2], 0) and target[2] > 0
    assert T[2, 0] == 0  # the horizon is level
    rolled = look_at(np.array([1.0, -2.0, 1.5]), np.array([0.0, 0.5, 0.3]), roll=0.3)
    assert angle_deg(T[:3, :3].T @ rolled[:3, :3]) == pytest.approx(np.degrees(0.3))


@pytest.mark.parametrize("kind, frames, rate_hz", [("spiral", 10, 15.0), ("orbit", 0, 15.0), ("orbit", 5, 0.0)])
def test_impossible_walks_are_refused(kind: str, frames: int, rate_hz: float) -> None:
    with pytest.raises(InputError):
        walk(kind, frames, rate_hz=rate_hz)


@pytest.mark.parametrize("kind", PATHS)
def test_nothing_stands_in_the_way(kind: str) -> None:
    world = corridor(0) if kind == "corridor" else room(0)
    for pose in walk(kind, 12, rate_hz=1.0, seed=0):
        depth = world.render(pose, 40, 30, 33.0, supersample=1).depth
        assert depth.min() > 0.4


def warped(sequence: RenderedSequence, first: int, second: int) -> tuple[np.ndarray, np.ndarray]:
    """Points of ``first`` in the camera of ``second`` (H, W, 3) and their pixels (H, W, 2)."""
    points = unproject(sequence.depths[first].astype(np.float64), sequence.focal)
    moved = transform(invert(sequence.w_T_c[second]) @ sequence.w_T_c[first], points)
    return moved, project(moved, sequence.focal, center_of(sequence.height, sequence.width))


def sampled(picture: np.ndarray, pixels: np.ndarray) -> np.ndarray:
    u, v = np.moveaxis(np.nan_to_num(pixels, nan=-9).astype(np.float32), -1, 0)
    return cv2.remap(picture.astype(np.float32), u, v, cv2.INTER_LINEAR, borderMode=cv2.BORDER_CONSTANT, borderValue=-1)


@pytest.mark.parametrize("first, second", [(0, 3), (7, 4), (2, 1)])
def test_depth_and_poses_agree_between_frames(orbit: RenderedSequence, first: int, second: int) -> None:
    moved, pixels = warped(orbit, first, second)
    seen = sampled(orbit.depths[second], pixels)
    inside = seen > 0
    ratio = moved[..., 2][inside] / seen[inside]
    assert inside.mean() > 0.8
    assert (np.abs(ratio - 1) < 0.003).mean() > 0.9  # the rest lies at edges of things and behind them
    assert np.median(np.abs(ratio - 1)) < 1e-4


def test_colours_agree_between_frames(orbit: RenderedSequence) -> None:
    moved, pixels = warped(orbit, 0, 1)
    seen = sampled(orbit.depths[1], pixels)
    same = (seen > 0) & (np.abs(moved[..., 2] / np.maximum(seen, 1e-6) - 1) < 0.002)
    smooth = [cv2.GaussianBlur(orbit.images[i], (0, 0), 1.0) for i in (0, 1)]
    aligned = np.abs(sampled(smooth[1], pixels)[same] - smooth[0][same]).mean()
    unmoved = np.abs(smooth[1][same].astype(float) - smooth[0][same]).mean()
    assert aligned < 3.0 and aligned < 0.3 * unmoved


def test_optical_flow_finds_the_true_motion(orbit: RenderedSequence) -> None:
    grey = [cv2.cvtColor(image, cv2.COLOR_RGB2GRAY) for image in orbit.images]
    for index in range(len(orbit) - 1):
        corners = cv2.goodFeaturesToTrack(grey[index], 300, 0.01, 5)
        found, status, _ = cv2.calcOpticalFlowPyrLK(grey[index], grey[index + 1], corners, None, winSize=(15, 15))
        at = corners[:, 0]
        _, pixels = warped(orbit, index, index + 1)
        expected = np.stack([cv2.remap(pixels[..., c].astype(np.float32), *at.T[:, :, None], cv2.INTER_LINEAR)[:, 0]
                             for c in (0, 1)], -1)  # fmt: skip
        error = np.linalg.norm(found[:, 0] - expected, axis=1)[status[:, 0] > 0]
        assert np.median(error) < 0.2 and status.mean() > 0.9


@pytest.mark.parametrize("kind", ["orbit", "sweep", "forward", "corridor", "rotation"])
def test_there_are_corners_everywhere(kind: str) -> None:
    sequence = render_sequence(kind, 3, 320, 240, rate_hz=0.5)
    for image in sequence.images:
        corners = cv2.goodFeaturesToTrack(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), 2000, 0.005, 5)[:, 0]
        assert len(corners) > 400
        cells, *_ = np.histogram2d(corners[:, 1], corners[:, 0], bins=(3, 4), range=((0, 240), (0, 320)))
        assert (cells > 0).sum() >= 11
        assert 30 < image.mean() < 200 and (image == 255).mean() < 0.1


def test_sequence_is_decided_by_its_arguments(orbit: RenderedSequence) -> None:
    again = render_sequence("orbit", 8, 160, 120, rate_hz=10, seed=3)
    assert np.array_equal(again.images, orbit.images) and np.array_equal(again.depths, orbit.depths)
    assert orbit.images.shape == (8, 120, 160, 3) and orbit.images.dtype == np.uint8
    assert orbit.depths.shape == (8, 120, 160) and orbit.depths.dtype == np.float32
    assert set(np.diff(orbit.stamps_ns)) == {100_000_000} and orbit.stamps_ns.dtype == np.int64
    assert orbit.focal == pytest.approx(0.83 * 160)


def test_progress_is_reported() -> None:
    told: list[tuple[int, int]] = []
    render_sequence("sweep", 3, 32, 24, focal=30.0, progress=lambda done, frames: told.append((done, frames)))
    assert told == [(1, 3), (2, 3), (3, 3)]


def test_no_frames_are_refused() -> None:
    with pytest.raises(InputError):
        render_sequence("orbit", 0)
