"""Companions of an image: the nearest, waited for as long as a nearer may come, and why one is missing."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from dust3r_ros.errors import InputError
from dust3r_ros.geometry.rigid import invert, pose
from dust3r_ros.sensors.synchronizer import Synchronizer, SynchronizerSettings
from dust3r_ros.sensors.transform_buffer import TransformBuffer
from dust3r_ros.types import Calibration, Frame

MS = 10**6
IMAGE = np.zeros((6, 8, 3), np.uint8)
C_T_D = pose(Rotation.from_euler("y", 0.2).as_matrix(), [0.1, 0.0, 0.0])


def made(**settings: object) -> Synchronizer:
    settings = {name: frozenset(v) if isinstance(v, list) else v for name, v in settings.items()}
    return Synchronizer(SynchronizerSettings(**settings), TransformBuffer())  # type: ignore[arg-type]


def pixels(value: float, shape: tuple[int, int] = (6, 8), kind: type = np.uint8) -> Callable[[], np.ndarray]:
    return lambda: np.full(shape, value, kind)


def broken() -> np.ndarray:
    raise InputError("cut off")


def frame(stamp_ns: int, camera: str = "c") -> Frame:
    return Frame(stamp_ns, camera, IMAGE)


def test_a_mask_is_waited_for_until_no_nearer_can_come() -> None:
    synchronizer = made(masks=["c"], tolerance_ns=20 * MS)
    assert not synchronizer.ready("c", "", 100 * MS)
    synchronizer.add_mask("c", 95 * MS, pixels(1))
    assert not synchronizer.ready("c", "", 100 * MS)  # one at 100 may come
    synchronizer.add_mask("c", 103 * MS, pixels(2))
    assert synchronizer.ready("c", "", 100 * MS) and synchronizer.ready("other", "", 100 * MS)
    done = synchronizer.complete(frame(100 * MS), "")
    assert done.frame.mask is not None and done.frame.mask[0, 0] == 2 and done.missing == ()
    assert synchronizer.complete(frame(100 * MS, "other"), "").frame.mask is None


@pytest.mark.parametrize("at, found", [(79, False), (80, True), (120, True), (121, False)])
def test_the_tolerance_is_kept(at: int, found: bool) -> None:
    synchronizer = made(masks=["c"], depths=["c"], tolerance_ns=20 * MS)
    synchronizer.add_mask("c", at * MS, pixels(1))
    synchronizer.add_depth("c", at * MS, pixels(2.5, (3, 4), np.float32), "optical")
    done = synchronizer.complete(frame(100 * MS), "/optical")
    assert (done.frame.mask is not None) == (done.frame.depth is not None) == found
    if found:
        assert done.frame.depth is not None and done.frame.depth.shape == (3, 4) and done.missing == ()
    else:
        assert len(done.missing) == 2 and "no mask at 100000000 ns" in done.missing[0] and "no depth" in done.missing[1]


def test_companions_that_cannot_be_used_are_said_and_left_out() -> None:
    synchronizer = made(masks=["a", "b"], depths=["a", "b"])
    for camera, mask, depth in (("a", broken, broken), ("b", pixels(1, (8, 6)), pixels(1.0, (8, 6), np.float32))):
        synchronizer.add_mask(camera, 0, mask)
        synchronizer.add_depth(camera, 0, depth, "")
    for camera, words in (("a", "cut off"), ("b", "6x8, but its image is 8x6")):
        done = synchronizer.complete(frame(0, camera), "")
        assert done.frame.mask is None and done.frame.depth is None
        assert len(done.missing) == 2 and all(words in reason and f"'{camera}'" in reason for reason in done.missing)


@pytest.mark.parametrize("coefficients", [(), (0.2, 0.05, 0.0, 0.0)])
def test_depth_of_another_camera_becomes_points_on_what_it_saw(coefficients: tuple[float, ...]) -> None:
    """A wall in front of the depth camera, z = 2: so are all points, whatever the lens."""
    synchronizer = made(depths=["c"])
    calibration = Calibration(80, 60, 70.0, 72.0, 40.0, 29.0, "plumb_bob", coefficients)
    synchronizer.add_depth("c", 0, pixels(2.0, (60, 80), np.float32), "depth", calibration)
    assert synchronizer.complete(frame(0), "optical").missing == ("depth of camera 'c': frame 'optical' is not on TF",)
    synchronizer.add_depth("c", 0, pixels(2.0, (60, 80), np.float32), "depth", calibration)
    synchronizer.transforms.add("optical", "depth", 0, C_T_D, static=True)
    points = synchronizer.complete(frame(0), "optical").frame.points
    assert points is not None and 1000 < len(points) <= 2000
    seen = (points.astype(float) - C_T_D[:3, 3]) @ C_T_D[:3, :3]
    np.testing.assert_allclose(seen[:, 2], 2.0, atol=1e-6)
    slope = (79 - 40) / 70.0 * 2 if not coefficients else None
    if slope is not None:
        assert seen[:, 0].max() == pytest.approx(slope, abs=0.06)
    synchronizer.add_depth("c", 0, pixels(2.0, (60, 80), np.float32), "depth", None)
    assert "no CameraInfo" in synchronizer.complete(frame(0), "optical").missing[0]


@pytest.mark.parametrize("coefficients", [(0.1, 0.01, 1e6, 0.0, 0.0), (0.1, 0.01, 0.0, 0.0, 1e308)])
def test_depth_through_a_lens_that_cannot_be_is_left_out(coefficients: tuple[float, ...]) -> None:
    synchronizer = made(depths=["c"])
    synchronizer.transforms.add("optical", "depth", 0, C_T_D, static=True)
    calibration = Calibration(80, 60, 70.0, 72.0, 40.0, 29.0, "plumb_bob", coefficients)
    synchronizer.add_depth("c", 0, pixels(2.0, (60, 80), np.float32), "depth", calibration)
    done = synchronizer.complete(frame(0), "optical")
    assert done.frame.points is None and "does not belong to that camera" in done.missing[0]


def test_odometry_by_tf_is_waited_for_and_then_within_the_tolerance() -> None:
    synchronizer = made(odom_frame="odom", tolerance_ns=20 * MS)
    tf = synchronizer.transforms
    tf.add("base", "optical", 0, C_T_D, static=True)
    tf.add("odom", "base", 90 * MS, np.eye(4))
    assert not synchronizer.ready("c", "optical", 100 * MS)
    near = synchronizer.complete(frame(100 * MS), "optical").frame.o_T_c
    assert near is not None and np.array_equal(near, C_T_D)
    tf.add("odom", "base", 110 * MS, pose(np.eye(3), [1.0, 0.0, 0.0]))
    assert synchronizer.ready("c", "optical", 100 * MS)
    between = synchronizer.complete(frame(100 * MS), "optical").frame.o_T_c
    assert between is not None and between[0, 3] == pytest.approx(C_T_D[0, 3] + 0.5)
    done = synchronizer.complete(frame(150 * MS), "optical")
    assert done.frame.o_T_c is None and "0.040 s older" in done.missing[0]


def test_odometry_messages_do_not_disturb_tf() -> None:
    """TF hangs the base below its footprint, the messages below odom: both hold."""
    synchronizer = made(odometry=True)
    tf = synchronizer.transforms
    tf.add("footprint", "base", 0, np.eye(4), static=True)
    tf.add("base", "optical", 0, C_T_D, static=True)
    assert not synchronizer.ready("c", "optical", 0)
    assert synchronizer.complete(frame(0), "optical").missing == (
        "no odometry for camera 'c': no message has arrived yet",
    )
    moved = pose(np.eye(3), [3.0, 0.0, 0.0])
    assert synchronizer.add_odometry("/odom", "/base", 0, moved) == ""
    assert synchronizer.ready("c", "optical", 0)
    found = synchronizer.complete(frame(0), "optical").frame.o_T_c
    assert found is not None and np.array_equal(found, moved @ C_T_D)
    assert tf.parent("base") == "footprint"
    assert "not a rigid motion" in synchronizer.add_odometry("odom", "base", 0, np.zeros((4, 4)))


def test_up_is_turned_from_the_imu_into_the_camera() -> None:
    synchronizer = made(imu=True)
    imu_T_optical = pose(Rotation.from_euler("xyz", [0.3, -0.4, 1.0]).as_matrix(), [0.0, 0.1, 0.2])
    up = Rotation.from_euler("x", 0.2).as_matrix()[2]
    for stamp in range(0, 1000 * MS, 5 * MS):
        synchronizer.add_imu("imu", stamp, 9.81 * up, np.zeros(3))
    assert synchronizer.ready("c", "optical", 900 * MS) and not synchronizer.ready("c", "optical", 1200 * MS)
    assert synchronizer.complete(frame(900 * MS), "optical").missing == (
        "no direction of gravity for camera 'c': frame 'optical' is not on TF",
    )
    synchronizer.transforms.add("optical", "imu", 0, invert(imu_T_optical), static=True)
    found = synchronizer.complete(frame(900 * MS), "optical").frame.up
    np.testing.assert_allclose(found, imu_T_optical[:3, :3].T @ up, atol=1e-9)


def test_depth_in_the_frame_that_its_image_says_is_registered() -> None:
    synchronizer = made(depths=["c"])
    synchronizer.add_depth("c", 0, lambda: np.ones((48, 64), np.float32), "camera")
    assert synchronizer.complete(frame(0), "own", "camera").frame.depth is not None


def test_nothing_is_kept_for_long_and_nothing_of_before_a_jump() -> None:
    synchronizer = made(masks=["c"])
    for index in range(1000):
        synchronizer.add_mask("c", index * 10 * MS, pixels(index % 250))
    assert synchronizer.complete(frame(0), "").frame.mask is None  # long gone
    assert synchronizer.complete(frame(9900 * MS), "").frame.mask is not None
    synchronizer.add_mask("c", 50 * MS, pixels(7))  # the bag begins again
    assert not synchronizer.ready("c", "", 9900 * MS)
    mask = synchronizer.complete(frame(50 * MS), "").frame.mask
    assert mask is not None and mask[0, 0] == 7
    synchronizer.add_mask("c", 60 * MS, pixels(7))
    synchronizer.clear()
    assert synchronizer.complete(frame(60 * MS), "").frame.mask is None


def test_images_that_travel_alone_wait_for_nothing() -> None:
    synchronizer = made()
    assert synchronizer.settings.none and synchronizer.ready("c", "optical", 0)
    done = synchronizer.complete(frame(0), "optical")
    assert done.missing == () and done.frame.o_T_c is done.frame.up is None


def test_turning_in_the_cameras_axes_by_a_gyroscope():
    """Only where it was asked for, and a gyroscope measures; the IMU sits turned on the robot."""
    i_T_c = pose(Rotation.from_euler("xyz", [0.2, 1.0, -0.5]).as_matrix(), [0.1, 0.0, 0.0])
    rate, seconds = np.array([0.1, -0.4, 0.7]), 0.5
    for turning, measured in ((True, True), (False, True), (True, False)):
        transforms = TransformBuffer()
        transforms.add("imu", "camera", 0, i_T_c, static=True)
        synchronizer = Synchronizer(SynchronizerSettings(imu=True, turning=turning), transforms)
        for stamp in range(0, 600_000_000, 5_000_000):
            synchronizer.add_imu("imu", stamp, 9.81 * np.array([0.0, 0.0, 1.0]), rate if measured else None)
        first, last = (synchronizer.turned("camera", stamp) for stamp in (0, round(1e9 * seconds)))
        assert (first is not None) == (turning and measured)
        assert synchronizer.turned("nobody", 0) is None
        if first is not None and last is not None:
            turned = first.g_R_x.T @ last.g_R_x
            expected = i_T_c[:3, :3].T @ Rotation.from_rotvec(rate * seconds).as_matrix() @ i_T_c[:3, :3]
            np.testing.assert_allclose(turned, expected, atol=1e-9)
            synchronizer.clear()
            assert synchronizer.turned("camera", 0) is None
