"""The real node while its camera sees nothing: by odometry, by a gyroscope, by nothing; and how it recovers."""

from __future__ import annotations

import time

import numpy as np
import pytest
from messages import pose_of
from robots import FRAMES, MAPPED, PARAMETERS, Robot, apart, transforms

from dust3r_ros.geometry.rigid import invert
from dust3r_ros.node.conversions import stamp_to_ns

DARK = 90  # frames from which it sees again


def std(message):
    """Of the position, and of the rotation."""
    covariance = np.array(message.pose.covariance).reshape(6, 6)
    return np.sqrt(np.trace(covariance[:3, :3])), np.sqrt(np.trace(covariance[3:, 3:]))


@pytest.mark.timeout(400)
def test_odometry_carries_the_pose_through_darkness_and_map_to_odom_stays(start_node):
    bench = start_node(odom_frame="odom", bridge_time=0.5, **PARAMETERS)
    robot, recorder = Robot(bench, odometry=True), bench.recorder
    robot.map()
    bench.status(lambda s: s.scale_state == "metric", "odometry makes the map metric")
    robot.send(MAPPED, MAPPED + 5)
    robot.wait_for_pose(MAPPED + 4)
    recorder.wait(lambda: bool(transforms(recorder, "odom")), 60, "map -> odom is there")
    bench.status(
        lambda s: s.frames + s.dropped == MAPPED + 5 and s.waiting == s.backlog == 0, "the map is not to be corrected"
    )
    recorder.clear()
    robot.send(MAPPED + 5, DARK, dark=True)
    bench.status(lambda s: s.state == "lost" and s.waiting == 0, "it is lost in the end")
    states = [status.state for status in recorder.all["status"]]
    assert "bridged" in states and set(states) <= {"tracking", "bridged", "lost"}
    assert states == sorted(states, key=["tracking", "bridged", "lost"].index), "bridged first, then lost for good"
    bridged = robot.poses(MAPPED + 5, DARK)
    assert set(bridged) == set(range(MAPPED + 5, MAPPED + 20)), "for half a second"
    places = {index: pose_of(message.pose.pose) for index, message in bridged.items()}
    last = MAPPED + 19
    for index in bridged:
        expected = places[last] @ invert(robot.truth(last)) @ robot.truth(index)
        assert apart(places[index], expected)[0] < 1e-3, "as odometry moved"
    assert np.all(np.diff([std(bridged[index]) for index in sorted(bridged)], axis=0) > 0)

    # REP 105: the robot goes on below odom; map -> odom stands at last, and agrees with the poses carried on
    time.sleep(0.3)  # six renewals
    stood = [pose_of(t.transform) for t in transforms(recorder, "odom")][-5:]
    assert len(stood) == 5
    assert all(np.array_equal(found, stood[0]) for found in stood)
    assert apart(stood[0] @ robot.truth(last), places[last])[0] < 1e-6

    # Found again, in order, and nothing of the past is told as new
    robot.send(DARK, FRAMES)
    bench.status(lambda s: s.state == "tracking" and s.waiting == 0, "it is found again")
    robot.wait_for_pose(FRAMES - 1)
    stamps = [stamp_to_ns(message.header.stamp) for message in recorder.all["pose"]]
    assert stamps == sorted(set(stamps))
    found = pose_of(robot.poses(FRAMES - 1, FRAMES)[FRAMES - 1].pose.pose)
    away, turned = apart(found, stood[0] @ robot.truth(FRAMES - 1))
    assert away < 0.15 and turned < 0.07, "where it was before, but for drift"


@pytest.mark.timeout(400)
def test_a_gyroscope_carries_the_pose_on_tf_too(start_node):
    bench = start_node(imu_topic="/imu", bridge_time=0.5, **PARAMETERS)
    robot, recorder = Robot(bench, gyroscope=True), bench.recorder
    robot.map()
    recorder.clear()
    robot.send(MAPPED, MAPPED + 20, dark=True)
    bench.status(lambda s: s.state == "lost" and s.waiting == 0, "it is lost in the end")
    bridged = robot.poses(MAPPED, MAPPED + 20)
    assert set(bridged) == set(range(MAPPED, MAPPED + 15))
    places = {index: pose_of(message.pose.pose) for index, message in bridged.items()}
    for index in bridged:
        turned = apart(places[index], places[MAPPED] @ invert(robot.truth(MAPPED)) @ robot.truth(index))[1]
        assert turned < 1e-2, "as the gyroscope turned, whose last message may come after the image"
    assert np.all(np.diff([std(bridged[index]) for index in sorted(bridged)], axis=0) > 0)
    told = {stamp_to_ns(t.header.stamp): pose_of(t.transform) for t in transforms(recorder, "imu")}
    for index, place in places.items():
        np.testing.assert_allclose(told[robot.stamp(index)], place, atol=1e-9)


@pytest.mark.timeout(400)
def test_with_nothing_that_tells_it_is_lost_at_once_and_found_again_elsewhere(start_node):
    """Darkness, then another place of the map: no pose of a lost image, then the newest ones'."""
    bench = start_node(**PARAMETERS)
    robot, recorder = Robot(bench), bench.recorder
    robot.map()
    recorder.clear()
    robot.send(MAPPED, MAPPED + 3, dark=True)
    bench.status(lambda s: s.state == "lost" and s.waiting == 0, "it is lost")
    assert not recorder.all["pose"] and "bridged" not in {status.state for status in recorder.all["status"]}
    settled = FRAMES - 12
    for index in range(MAPPED + 3, settled):  # back to the beginning
        robot.send(index, index + 1, image=(index - MAPPED) // 2)
    bench.status(lambda s: s.state == "tracking" and s.waiting == 0 and s.backlog == 0, "it is found again")
    for index in range(settled, FRAMES):
        robot.send(index, index + 1, image=(index - MAPPED) // 2)
    recorder.wait(lambda: len(robot.poses(settled, FRAMES)) == FRAMES - settled, 30, "every image has a pose again")
    stamps = [stamp_to_ns(message.header.stamp) for message in recorder.all["pose"]]
    assert stamps == sorted(set(stamps))
    last = pose_of(robot.poses(FRAMES - 1, FRAMES)[FRAMES - 1].pose.pose)
    for index, message in robot.poses(MAPPED, FRAMES).items():  # from the first one that was found
        turned = apart(pose_of(message.pose.pose), last)[1]
        truth = apart(*(robot.sequence.w_T_c[(at - MAPPED) // 2] for at in (index, FRAMES - 1)))[1]
        assert turned == pytest.approx(truth, abs=0.02), f"image {index}: where it was taken to"
