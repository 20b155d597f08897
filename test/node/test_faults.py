"""Faults around a running node: each is said in its status, and the map goes on with all it had."""

import os
import resource
import signal
import subprocess
import sys
import threading
import time
from contextlib import ExitStack
from functools import partial
from pathlib import Path

import pytest
from dust3r_ros.srv import ExportMap, SaveMap
from messages import image_message
from robots import MAPPED, PARAMETERS, Robot, transforms
from rosgraph_msgs.msg import Clock
from sequences import walk
from std_srvs.srv import Trigger
from two_processes import back_end, mapped, send

from dust3r_ros.node.conversions import ns_to_stamp, stamp_to_ns
from dust3r_ros.storage.saved_map import load_map

ROOT = Path(__file__).resolve().parents[2]
SECOND = 10**9


@pytest.fixture(scope="module")
def sequence():
    return walk("orbit", frames=90, rate_hz=30.0)


@pytest.fixture(scope="module")
def with_file(start_shared, sequence, tmp_path_factory):
    path = tmp_path_factory.mktemp("map") / "map.db"
    return start_shared(dense=False, focal=sequence.focal, keyframe_motion_young=0.02, map_db=str(path)), path


@pytest.fixture
def kept(with_file):
    """A node whose map grows in a file, and that file; another test may have used it, too."""
    with_file[0].begin_again()
    return with_file


def settled(bench, problem=""):
    """The status once all is mapped, with a problem that has these words, or none."""
    return bench.status(
        lambda s: (
            s.waiting == s.backlog == 0
            and s.state == "tracking"
            and (any(problem in text for text in s.problems) if problem else not s.problems)
        ),
        problem or "there is no problem",
    )


def filed(path, status):
    """Wait for the file to have the keyframes of the status."""
    end = time.monotonic() + 30
    while not path.exists() or len(load_map(path).keyframes) < status.keyframes:
        assert time.monotonic() < end, f"{status.keyframes} keyframes are not in the file"
        time.sleep(0.1)


def test_a_full_disk(kept, sequence):
    """The kernel lets no file of the mapping process grow any more, then it does again."""
    bench, path = kept
    before, pid = mapped(bench, sequence, 30), back_end(bench)
    log = Path(f"{path}-wal").stat().st_size
    _, hard = resource.prlimit(pid, resource.RLIMIT_FSIZE)
    resource.prlimit(pid, resource.RLIMIT_FSIZE, (log, hard))
    try:
        send(bench, sequence, 30, 60)
        full = settled(bench, "mapping continues, but the map is not saved")
        assert full.keyframes > before.keyframes and full.tracked > before.tracked
        assert len(load_map(path).keyframes) >= before.keyframes
        folder = path.with_name("full")
        resource.prlimit(pid, resource.RLIMIT_FSIZE, (20_000, hard))
        for kind, name, more in ((SaveMap, "save_map", {}), (ExportMap, "export_map", {"format": "colmap"})):
            answer = bench.recorder.call(kind, name, kind.Request(path=str(folder / name), **more), 60)
            assert not answer.success and "cannot be written" in answer.message, answer.message
        assert [found.name for found in folder.iterdir() if not found.name.endswith("-lock")] == []
    finally:
        resource.prlimit(pid, resource.RLIMIT_FSIZE, (hard, hard))
    send(bench, sequence, 60, 90)
    filed(path, settled(bench))
    assert back_end(bench) == pid


def test_a_map_file_that_is_moved_away(kept, sequence):
    bench, path = kept
    before = mapped(bench, sequence, 30)
    path.rename(path.with_name("mine.db"))
    send(bench, sequence, 30, 60)
    bench.node.wait_for_log("was moved or deleted; the whole map goes to a new file there")
    filed(path, settled(bench))
    assert len(load_map(path.with_name("mine.db")).keyframes) >= before.keyframes


def test_a_camera_that_comes_back_with_another_size(kept, sequence):
    """It is refused, with the way out; the first one is back, more slowly; after a reset, the other one maps."""
    bench, _ = kept
    status = mapped(bench, sequence, 30)
    counted = status.frames + status.dropped
    for index in range(30, 34):
        bench.send(image_message(sequence.images[index][:-16, :-16], int(sequence.stamps_ns[index])))
    refused = bench.status(lambda s: s.rejected == 4 and s.waiting == 0, "all four are refused")
    assert "changed from 240x176 to 224x160 pixels" in refused.message and "reset the map" in refused.message
    assert refused.keyframes == status.keyframes
    for index in range(34, 64, 3):  # a third of its rate
        send(bench, sequence, index, index + 1)
    back = bench.status(lambda s: s.frames + s.dropped == counted + 10 and s.waiting == 0, "the first camera goes on")
    assert (back.state, back.rejected, back.resets) == ("tracking", 4, status.resets)
    assert bench.recorder.call(Trigger, "reset", Trigger.Request()).success
    for index in range(50, 80):
        bench.send(image_message(sequence.images[index][:-16, :-16], int(sequence.stamps_ns[index])))
    status = bench.status(lambda s: s.frames + s.dropped == 30 and s.state == "tracking", "the other camera maps")
    assert (status.rejected, status.cameras[0].width, status.cameras[0].height) == (0, 224, 160)


def test_a_service_whose_process_is_killed_is_answered(kept, sequence, tmp_path):
    bench, _ = kept
    mapped(bench, sequence, 30)
    pid = back_end(bench)
    os.kill(pid, signal.SIGSTOP)
    threading.Timer(1.0, os.kill, (pid, signal.SIGKILL)).start()
    answer = bench.recorder.call(SaveMap, "save_map", SaveMap.Request(path=str(tmp_path / "map.db")), 60)
    assert not answer.success and answer.message == "the mapping process ended before it could answer"
    bench.node.wait_for_log("the mapping process is running again", 60)
    bench.status(lambda s: not s.problems and s.keyframes > 2, "the map is there")
    answer = bench.recorder.call(SaveMap, "save_map", SaveMap.Request(path=str(tmp_path / "map.db")), 60)
    assert answer.success, answer.message


LISTENER = """
import os, signal
from dust3r_ros.node.tools.recorder import Recorder
with Recorder("/camera/estimated/camera_info") as recorder:
    recorder.wait(lambda: recorder.counts["status"] > 0, 60, "the status comes")
    os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.timeout(400)
def test_peers_that_come_and_go(kept, sequence):
    """Listeners and another camera driver come and go, in order and killed; poses go on, one for each image."""
    bench, _ = kept
    mapped(bench, sequence, 30)
    before = bench.recorder.counts["pose"]
    environment = {**os.environ, "ROS_DOMAIN_ID": bench._domain, "PYTHONPATH": str(ROOT)}
    killed = subprocess.Popen([sys.executable, "-c", LISTENER], env=environment)
    for at in range(4):
        with ExitStack() as stack:
            late = stack.enter_context(bench.who_comes_late())
            other = late.node.create_publisher(type(image_message(sequence.images[0], 0)), bench.topic, 1)
            send(bench, sequence, 30 + 5 * at, 35 + 5 * at)
            expected = before + 5 * (at + 1)
            bench.recorder.wait(
                lambda expected=expected: bench.recorder.counts["pose"] >= expected, 60, "every image has a pose"
            )
            late.node.destroy_publisher(other)
    assert killed.wait(120) == -signal.SIGKILL
    send(bench, sequence, 50, 60)
    assert settled(bench).rejected == 0
    assert "Traceback" not in bench.node.log


def test_the_clock_is_set_back_and_forth(start_node, sequence):
    """/clock jumps, the images' stamps do not: the map does not notice; /diagnostics follow the clock."""
    bench = start_node(dense=False, focal=sequence.focal, keyframe_motion_young=0.02, use_sim_time=True)
    recorder = bench.recorder
    for turn, now_s in enumerate((100, 50, 10_000, 20)):
        bench.send(Clock(clock=ns_to_stamp(now_s * SECOND)), "/clock")
        send(bench, sequence, 20 * turn, 20 * (turn + 1))
        status = bench.status(
            lambda s, sent=20 * (turn + 1): s.frames + s.dropped == sent and s.waiting == 0, "all images are mapped"
        )
        clocked = lambda now_s=now_s: (  # noqa: E731
            "diagnostics" in recorder.last and stamp_to_ns(recorder.last["diagnostics"].header.stamp) == now_s * SECOND
        )
        end = time.monotonic() + 60
        while not clocked():  # nodes hear /clock best effort
            assert time.monotonic() < end, "diagnostics do not have the time of the clock"
            bench.send(Clock(clock=ns_to_stamp(now_s * SECOND)), "/clock")
            time.sleep(0.2)
    assert (status.state, status.resets, status.rejected, status.lost) == ("tracking", 0, 0, 0)


@pytest.mark.timeout(400)
def test_odometry_that_goes_from_tf_and_comes_back(start_node):
    bench = start_node(odom_frame="odom", **{**PARAMETERS, "companion_wait": 0.1})
    robot, recorder = Robot(bench, odometry=True), bench.recorder
    robot.map()
    bench.status(lambda s: s.scale_state == "metric", "odometry makes the map metric")
    robot.send(MAPPED, MAPPED + 5)
    recorder.wait(lambda: bool(transforms(recorder, "odom")), 60, "map -> odom is there")
    bench.status(lambda s: not s.problems, "all is well")
    robot.odometry = False
    robot.send(MAPPED + 5, MAPPED + 15)
    status = bench.status(
        lambda s: any("TF from 'odom'" in text and "is missing" in text for text in s.problems), "it is said"
    )
    robot.wait_for_pose(MAPPED + 14)
    assert status.state == "tracking"
    renewed = len(transforms(recorder, "odom"))
    recorder.wait(partial(lambda: len(transforms(recorder, "odom")) > renewed + 3), 20, "map -> odom stays")
    robot.odometry = True
    robot.send(MAPPED + 15, MAPPED + 25)
    bench.status(lambda s: not s.problems and s.state == "tracking", "all is well again")
