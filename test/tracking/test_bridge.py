"""Poses that odometry or a gyroscope carry on, against a motion that is known."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from dust3r_ros.geometry.lens import Lens
from dust3r_ros.geometry.rigid import invert, pose
from dust3r_ros.geometry.similarity import Similarity
from dust3r_ros.sensors.gravity_filter import Turned
from dust3r_ros.tracking.bridge import Bridge
from dust3r_ros.tracking.exchange import FollowedPose, MapSnapshot

STEP_NS = 33_333_333
UNIT = 0.4  # a metre has so many of the map's
COVARIANCE = np.diag([1e-6] * 3 + [1e-6] * 3)
O_T_W = pose(Rotation.from_euler("z", 0.8).as_matrix(), [3.0, -2.0, 0.1])
G_R_W = Rotation.from_euler("xyz", [0.3, -1.0, 2.0]).as_matrix()


def true_pose(index, unit=1.0):
    """Half a metre per second on a curve."""
    t = index * STEP_NS * 1e-9
    turn = Rotation.from_euler("zx", [0.6 * t, 0.1 * np.sin(t)]).as_matrix()
    return pose(turn, unit * np.array([np.cos(0.5 * t), np.sin(0.5 * t), 0.02 * t]))


def known(index, w_T_c, unit=1.0):
    nobody = np.zeros(0, np.int64), np.zeros((0, 2))
    return FollowedPose(index * STEP_NS, "camera", 0, 7, w_T_c, unit, *nobody, 0)


def snapshot(stamp_ns, w_T_c, w_T_k=None, revision=0, unit=1.0, epoch=0):
    w_T_k = np.eye(4) if w_T_k is None else w_T_k
    nothing = np.zeros(0, np.int64), np.zeros((0, 2)), np.zeros((0, 3)), np.zeros((0, 2)), stamp_ns, 0
    return MapSnapshot("camera", stamp_ns, w_T_c, *nothing, 300.0, Lens(160.0), 7, w_T_k, unit, epoch, revision)


def told(g_R_c, span=0):
    """What a gyroscope says of one stamp."""
    return lambda _: Turned(g_R_c, span)


def drive(bridge, first, last, unit=1.0, odometry=True, gyroscope=True, found=True):
    for index in range(first, last):
        w_T_c, truth = true_pose(index, unit), true_pose(index)
        o_T_c = O_T_W @ truth if odometry else None
        bridge.hear(index * STEP_NS, o_T_c, told(G_R_W @ truth[:3, :3]) if gyroscope else None)
        if found:
            bridge.found(w_T_c, COVARIANCE, known(index, w_T_c))


def lost(bridge, index, metric=False, unit=1.0, **sources):
    """The next image, ``index``, is lost: what is carried to it, the errors (m or units, rad) and their bounds."""
    drive(bridge, index, index + 1, unit, found=False, **sources)
    carried = bridge.carry(index * STEP_NS, metric)
    if carried is None:
        return None
    apart = invert(true_pose(index, unit)) @ carried.w_T_c
    errors = np.linalg.norm(apart[:3, 3]), Rotation.from_matrix(apart[:3, :3]).magnitude()
    covariance = carried.covariance
    assert np.all(np.linalg.eigvalsh(covariance) > 0)
    return *errors, np.sqrt(np.trace(covariance[:3, :3])), np.sqrt(np.trace(covariance[3:, 3:]))


@pytest.mark.parametrize(("metric", "unit"), [(True, 1.0), (False, UNIT), (False, 1.0)])
def test_odometry_carries_the_pose_on_and_its_covariance_grows(metric, unit):
    bridge = Bridge(2.0)
    drive(bridge, 0, 60, unit)
    found = [lost(bridge, index, metric, unit, gyroscope=False) for index in range(60, 110)]
    assert max(error for error, *_ in found) < 2e-3
    assert max(turned for _, turned, *_ in found) < 1e-6
    for column in (2, 3):
        assert np.all(np.diff([row[column] for row in found]) > 0)
    assert 0.03 * unit < found[-1][2] < 0.2 * unit  # 0.8 m on
    standing = Bridge(2.0)
    drive(standing, 0, 60, unit)
    for index in range(60, 110):
        standing.hear(index * STEP_NS, O_T_W @ true_pose(59), None)
    still = standing.carry(109 * STEP_NS, metric)
    assert np.trace(still.covariance[:3, :3]) < 0.25 * found[-1][2] ** 2  # it grows with the way, too


@pytest.mark.parametrize("unit", [1.0, UNIT])
def test_a_gyroscope_carries_the_rotation_on_and_the_speed_before_the_position(unit):
    bridge = Bridge(1.0)
    drive(bridge, 0, 60, unit, odometry=False)
    found = [lost(bridge, index, unit=unit, odometry=False) for index in range(60, 88)]
    for error, turned, position_std, rotation_std in found:
        assert turned < 1e-6 < rotation_std
        assert error < 2.0 * position_std
    assert found[-1][2] > 2.0 * found[-10][2] - found[-20][2]  # faster than time
    drive(bridge, 88, 89, unit, odometry=False, gyroscope=False, found=False)
    assert bridge.carry(88 * STEP_NS, False) is None, "at an image of which nothing tells"


def test_odometry_of_an_unknown_unit_tells_the_rotation_alone():
    """The robot stood still so far: no distance says how long a metre is."""
    bridge = Bridge(2.0)
    for index in range(60):
        bridge.hear(index * STEP_NS, O_T_W @ true_pose(0), None)
        bridge.found(true_pose(0), COVARIANCE, known(index, true_pose(0)))
    for index in range(60, 90):
        bridge.hear(index * STEP_NS, O_T_W @ true_pose(index - 59), None)
        carried = bridge.carry(index * STEP_NS, False)
        truth = true_pose(index - 59, UNIT)
        np.testing.assert_allclose(carried.w_T_c[:3, :3], truth[:3, :3], atol=1e-9)
        assert carried.w_T_c[:3, 3] == pytest.approx(true_pose(0)[:3, 3])


def test_it_ends_after_its_time_and_without_anything_that_tells():
    bridge = Bridge(0.5)
    drive(bridge, 0, 30)
    assert all(lost(bridge, index, True) is not None for index in range(30, 44))
    assert all(lost(bridge, index, True) is None for index in range(45, 60))
    alone = Bridge(0.5)
    drive(alone, 0, 30, odometry=False, gyroscope=False)
    assert lost(alone, 30, odometry=False, gyroscope=False) is None
    assert lost(Bridge(0.5), 0, True) is None
    never = Bridge(0.0)
    drive(never, 0, 30)
    assert lost(never, 30, True) is None


def test_a_gyroscope_that_was_silent_says_nothing_of_the_time_before():
    bridge = Bridge(2.0)
    drive(bridge, 0, 30, odometry=False)
    bridge.hear(30 * STEP_NS, None, told(G_R_W, span=1))
    assert bridge.carry(30 * STEP_NS, False) is None


def test_what_the_gyroscope_says_late_of_the_last_pose_counts():
    """At first it could only guess; what it has forgotten stays as it was."""
    bridge, said = Bridge(2.0), Turned(G_R_W @ Rotation.from_euler("y", 0.02).as_matrix())
    bridge.hear(0, None, lambda _: said)
    bridge.found(np.eye(4), COVARIANCE, known(0, np.eye(4)))
    for said in (Turned(G_R_W), None):  # noqa: B007 the source tells what stands now
        bridge.hear(STEP_NS, None, told(G_R_W))
        np.testing.assert_allclose(bridge.carry(STEP_NS, False).w_T_c[:3, :3], np.eye(3), atol=1e-12)


def test_an_image_that_the_back_end_found_is_gone_on_from():
    """Its pose comes late; odometry tells what the camera did since. What is older than the last pose is no news."""
    bridge = Bridge(1.0)
    drive(bridge, 0, 30)
    drive(bridge, 30, 90, found=False)
    assert bridge.carry(89 * STEP_NS, True) is None
    bridge.take(snapshot(20 * STEP_NS, np.eye(4)))
    assert bridge.carry(89 * STEP_NS, True) is None
    bridge.take(snapshot(70 * STEP_NS, true_pose(70)), COVARIANCE)
    carried = bridge.carry(89 * STEP_NS, True)
    np.testing.assert_allclose(carried.w_T_c, true_pose(89), atol=1e-9)


@pytest.mark.parametrize("metric", [True, False])
def test_the_pose_goes_along_with_a_map_that_is_corrected(metric):
    """Turned, moved, and in half the unit: so is what is carried on; how far a metre is is learnt anew."""
    scale = 1.0 / UNIT if metric else 2.0
    moved = Similarity(scale, Rotation.from_euler("z", 0.7).as_matrix(), np.array([3.0, -1.0, 0.5]))
    bridge = Bridge(2.0)
    bridge.take(snapshot(0, np.eye(4)))
    drive(bridge, 0, 60, UNIT)
    after = snapshot(59 * STEP_NS, moved.pose(true_pose(59, UNIT)), moved.pose(np.eye(4)), revision=1, unit=scale)
    after = replace(after, stamp_ns=58 * STEP_NS)  # its image is older than the last one
    other = moved.pose(true_pose(50))  # a keyframe that is newer than what is known of the image
    bridge.take(replace(after, keyframe=9, w_T_k=other, unit=3.0, before={7: (after.w_T_k, scale)}))
    drive(bridge, 60, 63, UNIT, found=False)
    carried = bridge.carry(62 * STEP_NS, metric)
    expected = moved.pose(true_pose(62, UNIT))
    np.testing.assert_allclose(carried.w_T_c[:3, :3], expected[:3, :3], atol=1e-9)
    # By the speed before while the unit is unknown again: the same but for a little acceleration.
    np.testing.assert_allclose(carried.w_T_c[:3, 3], expected[:3, 3], atol=1e-6 if metric else 0.01 * scale)
    bridge.take(replace(after, epoch=1, stamp_ns=0))
    assert bridge.carry(62 * STEP_NS, metric) is None, "another map"
    bridge.forget()
    assert lost(bridge, 63, metric) is None
