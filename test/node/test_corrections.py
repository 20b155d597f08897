"""A map that is corrected under way: the next pose has it, TF carries it above odometry, the status tells."""

from __future__ import annotations

import numpy as np
import pytest
from dust3r_ros.srv import SetScale
from messages import pose_of
from robots import MAPPED, PARAMETERS, Robot, apart, transforms

from dust3r_ros.node.conversions import stamp_to_ns


def path(recorder):
    """Places of the newest path by stamp."""
    poses = recorder.last["path"].poses if "path" in recorder.last else ()
    return {stamp_to_ns(item.header.stamp): pose_of(item.pose) for item in poses}


@pytest.mark.timeout(400)
def test_another_unit_is_in_the_next_pose_and_above_odometry(start_node):
    """Half as long a metre: places are twice as far from the map's origin; the robot's own tree is untouched."""
    bench = start_node(odom_frame="odom", **PARAMETERS)
    robot, recorder = Robot(bench, odometry=True), bench.recorder
    robot.map()
    bench.status(lambda s: s.scale_state == "metric", "odometry makes the map metric")
    bench.status(lambda s: s.waiting == 0 and s.backlog == 0, "the map is calibrated at rest")
    robot.send(MAPPED, MAPPED + 5)
    robot.wait_for_pose(MAPPED + 4)
    bench.status(lambda s: s.waiting == 0 and s.backlog == 0, "nothing waits")
    recorder.clear()
    robot.send(MAPPED + 5, MAPPED + 6)  # without another image, the path may have been sent for the last time
    recorder.wait(lambda: robot.stamp(MAPPED + 3) in path(recorder), 60, "the path has the newest images")
    before = bench.status(lambda s: s.waiting == 0 and s.backlog == 0, "nothing waits again")
    known = path(recorder)  # a young map may have been corrected between two of them
    assert recorder.call(SetScale, "set_scale", SetScale.Request(factor=2.0)).success
    after = bench.status(lambda s: s.revision > before.revision, "the status tells")
    assert after.scale_state == "metric"
    robot.send(MAPPED + 6, MAPPED + 16)
    robot.wait_for_pose(MAPPED + 15)
    found = robot.poses(MAPPED + 6, MAPPED + 16)
    assert set(found) == set(range(MAPPED + 6, MAPPED + 16))
    places = {index: pose_of(message.pose.pose) for index, message in found.items()}
    recorder.wait(lambda: robot.stamp(MAPPED + 12) in path(recorder), 60, "the path has them")
    now = path(recorder)
    ends = robot.stamp(MAPPED - 15), robot.stamp(MAPPED + 3)
    old, new = (apart(*(places_by_stamp[end] for end in ends))[0] for places_by_stamp in (known, now))
    assert new == pytest.approx(2.0 * old, rel=0.25), "but for what a young map is corrected by meanwhile"
    assert apart(places[MAPPED + 12], now[robot.stamp(MAPPED + 12)])[0] < new, "a pose in the old unit is metres away"

    # The newest transform has it; nobody but the robot says where its camera is in odom
    recorder.wait(
        lambda: apart(
            pose_of(transforms(recorder, "odom")[-1].transform) @ robot.truth(MAPPED + 15), places[MAPPED + 15]
        )[0] < 1e-6,
        20,
        "map -> odom carries the correction",
    )  # fmt: skip
    children = {t.child_frame_id for m in recorder.all["tf"] for t in m.transforms if t.header.frame_id == "map"}
    assert children == {"odom"}


@pytest.mark.timeout(400)
def test_adjustments_of_the_whole_map_are_in_the_next_pose_and_the_status_tells(start_node):
    """Those after the first keyframes: what was drift is made good."""
    bench = start_node(**PARAMETERS)
    robot, recorder = Robot(bench), bench.recorder
    robot.map()
    for first in range(MAPPED, MAPPED + 30, 5):  # a young map may be adjusted while they are sent
        before = bench.status(lambda s: s.waiting == 0 and s.backlog == 0 and s.revision > 0, "the map was adjusted")
        robot.send(first, first + 5)
        robot.wait_for_pose(first + 4)
        recorder.wait(
            lambda first=first: robot.stamp(first + 3) in path(recorder), 60, "the path has the newest images"
        )
        last = robot.stamp(first + 4)  # a status of before says nothing
        after = bench.status(
            lambda s, last=last: s.waiting == 0 and s.backlog == 0 and stamp_to_ns(s.header.stamp) >= last,
            "all is mapped",
        )
        if after.revision == before.revision:
            break
    found = {index: pose_of(message.pose.pose) for index, message in robot.poses(first, first + 5).items()}

    size = np.linalg.norm(np.ptp([place[:3, 3] for place in path(recorder).values()], axis=0))
    for index in range(first, first + 4):
        now = path(recorder).get(robot.stamp(index))
        assert now is not None and apart(found[index], now)[0] < 0.1 * size, "as the map has it after all"
    assert after.revision == before.revision >= 1
