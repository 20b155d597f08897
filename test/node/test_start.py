"""Images before the first pose, of which most never reach the map: they get their poses later."""

from __future__ import annotations

import time

import pytest
from messages import image_message
from sequences import walk

from dust3r_ros.io.trajectory import read_tum
from dust3r_ros.node.conversions import stamp_to_ns

RATE_HZ, FRAMES = 30.0, 90


@pytest.mark.timeout(400)
def test_images_before_the_first_pose_get_theirs_later(start_node, tmp_path):
    """At the camera's rate; a queue that loses none, since what it loses on a busy machine can get no pose."""
    sequence, out = walk("orbit", frames=FRAMES, rate_hz=RATE_HZ), tmp_path / "out"
    bench = start_node(output_dir=str(out), dense=False, queue_size=FRAMES, keyframe_motion_young=0.005)
    bench.calibrate(sequence.width, sequence.height, sequence.focal)
    bench.send(image_message(sequence.images[0], int(sequence.stamps_ns[0])))
    bench.status(lambda s: s.frames == 1, "the first image is there")
    begin = time.monotonic()
    for index in range(1, FRAMES):
        time.sleep(max(0.0, begin + index / RATE_HZ - time.monotonic()))
        bench.send(image_message(sequence.images[index], int(sequence.stamps_ns[index])))
    bench.status(lambda s: s.waiting == 0 and s.state == "tracking", "there is a map")
    first = min(stamp_to_ns(message.header.stamp) for message in bench.recorder.all["pose"])
    early = {int(stamp) for stamp in sequence.stamps_ns if stamp < first}
    bench.status(lambda s: s.dropped < 0.2 * FRAMES, "those that were found count as dropped no more")
    assert bench.node.stop() == 0, bench.node.log
    stamps = [pose.stamp_ns for pose in read_tum(out / "trajectory.txt")]
    assert len(stamps) == len(set(stamps))
    assert len(early) > 5 and len(early & set(stamps)) > 0.9 * len(early), "however busy the machine"


def test_the_first_poses_wait_for_a_focal(start_node, sequence):
    """They are kept meanwhile, for the path and the trajectory."""
    bench = start_node(dense=False, focal_wait=2.0)
    bench.play(sequence, last=12)
    bench.status(lambda s: s.waiting == 0 and s.keyframes > 3 and s.tracked > 3, "there is a map")
    assert bench.recorder.last["status"].state == "initialising"
    assert not {"pose", "tf"} & set(bench.recorder.last)
    bench.play(sequence, first=12, last=len(sequence) - 1)
    bench.status(lambda s: s.state == "tracking", "it waited no longer, however late the first calibration")
    bench.play(sequence, first=len(sequence) - 1)
    bench.status(lambda s: s.waiting == 0 and s.frames == len(sequence), "all images are there")
    bench.recorder.wait(lambda: "pose" in bench.recorder.last, 60, "the first pose")
    first = min(stamp_to_ns(message.header.stamp) for message in bench.recorder.all["pose"])
    assert first > sequence.stamps_ns[11]
    bench.recorder.wait(
        lambda: any(stamp_to_ns(item.header.stamp) < first for item in bench.recorder.last["path"].poses),
        60,
        "the path has those that were not told",
    )
