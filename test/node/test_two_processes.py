"""Front end and back end as the node runs them: poses while the map is busy, and when the back end is killed."""

import itertools
import os
import signal
import threading
import time
from functools import partial

import pytest
from dust3r_ros.srv import SaveMap
from messages import FRAME, image_message
from sequences import walk
from two_processes import back_end, mapped, send
from visualization_msgs.msg import Marker

from dust3r_ros.node.tools.verdict import silence
from dust3r_ros.storage.saved_map import load_map


@pytest.fixture(scope="module")
def sequence():
    return walk("orbit", frames=90, rate_hz=30.0)


@pytest.fixture(scope="module")
def start(start_shared, sequence):
    return partial(start_shared, dense=False, focal=sequence.focal, keyframe_motion_young=0.02)


@pytest.fixture(scope="module")
def without_file(start):
    return start()


@pytest.fixture
def bench(without_file):
    """A node whose map is in memory alone; another test may have used it, too."""
    without_file.begin_again()
    return without_file


@pytest.fixture(scope="module")
def with_file(start, tmp_path_factory):
    """A process of its own, as a user's: its back end takes its time to start."""
    path = tmp_path_factory.mktemp("map") / "map.db"
    return start(map_db=str(path), program=("-u", "-m", "dust3r_ros.node.main")), path


@pytest.fixture
def kept(with_file):
    """A node whose map grows in a file, and that file; another test may have used it, too."""
    with_file[0].begin_again()
    return with_file


def test_poses_go_on_while_the_back_end_stands_still(bench, sequence):
    shown = []
    bench.recorder.node.create_subscription(Marker, "/dust3r/status_text", shown.append, 10)
    mapped(bench, sequence, 30)
    pid = back_end(bench)
    os.kill(pid, signal.SIGSTOP)
    try:
        before = bench.recorder.counts["pose"]
        for index in range(30, 36):
            send(bench, sequence, index, index + 1)
            expected = before + index - 29
            bench.recorder.wait(
                lambda expected=expected: bench.recorder.counts["pose"] >= expected, 20, "the image has a pose"
            )
        sent_s = 1e-9 * float(sequence.stamps_ns[35] - sequence.stamps_ns[30])
        bench.status(lambda s: sent_s - 1e-3 <= s.lag <= sent_s + 0.3, "the map is behind by what came meanwhile")
    finally:
        os.kill(pid, signal.SIGCONT)
    status = bench.status(lambda s: s.waiting == 0 and s.frames + s.dropped == 36, "all is taken in")
    assert status.dropped == 0 and status.state == "tracking"
    status = bench.status(lambda s: s.backlog == 0 and s.lag <= 0.2, "the map has caught up")
    assert (status.depth_backlog, status.depth_lag) == (0, 0.0)
    ends = {(stage.end, stage.name) for stage in status.stages}
    assert {("front_end", "follow"), ("front_end", "pose"), ("back_end", "track"), ("back_end", "match")} <= ends
    assert all(stage.end in ("front_end", "back_end") for stage in status.stages)
    bench.recorder.wait(lambda: any("tracking" in marker.text for marker in shown), 20, "RViz is told, too")
    assert shown[-1].header.frame_id == FRAME and "s behind" in shown[-1].text


def test_the_node_goes_on_while_a_service_waits_for_the_back_end(bench, sequence, tmp_path):
    mapped(bench, sequence, 30)
    pid, recorder = back_end(bench), bench.recorder
    os.kill(pid, signal.SIGSTOP)
    try:
        client = recorder.node.create_client(SaveMap, "/dust3r/save_map")
        assert client.wait_for_service(20)
        answer = client.call_async(SaveMap.Request(path=str(tmp_path / "map.db")))
        time.sleep(0.5)  # the request is there, and nothing answers it
        poses, told = recorder.counts["pose"], recorder.counts["status"]
        send(bench, sequence, 30, 31)
        recorder.wait(lambda: recorder.counts["pose"] > poses, 20, "the image has a pose")
        recorder.wait(lambda: recorder.counts["status"] > told + 1, 20, "the status is told")
        assert not answer.done()
    finally:
        os.kill(pid, signal.SIGCONT)
    recorder.wait(answer.done, 30, "the answer comes")
    assert answer.result().success and (tmp_path / "map.db").is_file()


def test_without_a_file_the_map_begins_anew_and_that_is_reported(bench, sequence):
    mapped(bench, sequence, 30)
    os.kill(back_end(bench), signal.SIGKILL)
    bench.node.wait_for_log("the map starts anew, because map_db is not set", 20)
    bench.node.wait_for_log("the mapping process is running again", 60)
    bench.status(lambda s: s.keyframes == 0 and s.state == "initialising", "nothing is left of the map")
    send(bench, sequence, 30, 60)
    bench.status(lambda s: s.waiting == 0 and s.keyframes > 2 and s.state == "tracking", "there is a map again")


def test_a_back_end_that_is_killed_is_started_again_and_goes_on_from_its_file(kept, sequence):
    bench, path = kept
    before = mapped(bench, sequence, 30)
    for turn in range(2):
        pid = back_end(bench)
        os.kill(pid, signal.SIGKILL)
        bench.status(lambda s: any("signal 9" in problem for problem in s.problems), "the node says so", 60)
        end = time.monotonic() + 60
        while bench.node.log.count("the mapping process is running again") <= turn:
            assert time.monotonic() < end, bench.node.log
            time.sleep(0.05)
        assert back_end(bench) != pid
        poses = bench.recorder.counts["pose"]
        send(bench, sequence, 30 + 6 * turn, 36 + 6 * turn)
        after = bench.status(
            lambda s: s.waiting == 0 and s.state == "tracking" and not s.problems, "the map is continued"
        )
        bench.recorder.wait(lambda poses=poses: bench.recorder.counts["pose"] > poses, 60, "poses come again")
        assert after.keyframes >= before.keyframes
        assert after.frames >= before.frames  # those that the file lacks reached a mapper, too
    assert len(load_map(path).keyframes) >= before.keyframes


def test_while_the_back_end_is_killed_poses_go_on_or_the_camera_is_said_to_be_lost(kept, sequence):
    """Images come all the while, to and fro; what was reported is in the file."""
    (bench, path), over = kept, threading.Event()
    mapped(bench, sequence, 30)
    way = [*range(30, 60), *range(60, 29, -1)]

    def play():
        for step in itertools.count():
            if over.wait(0.1):
                return
            stamp_ns = int(sequence.stamps_ns[30]) + step * 33_333_333
            bench.send(image_message(sequence.images[way[step % len(way)]], stamp_ns))

    camera, kills = threading.Thread(target=play), []
    camera.start()
    try:
        for _ in range(3):
            bench.status(lambda s: not s.problems and s.state == "tracking" and s.lag < 1.0, "the map goes on")
            told = bench.recorder.last["status"].keyframes
            kills.append(time.monotonic_ns())
            os.kill(back_end(bench), signal.SIGKILL)
            assert len(load_map(path).keyframes) >= told
            bench.status(lambda s: any("signal 9" in problem for problem in s.problems), "the node says so", 60)
        bench.status(lambda s: not s.problems and s.state == "tracking" and s.lag < 1.0, "the map goes on")
    finally:
        over.set()
        camera.join()
    statuses = zip(bench.recorder.times["status"], bench.recorder.all["status"], strict=False)
    poses, states = bench.recorder.times["pose"], [(at, status.state) for at, status in statuses]
    assert silence(poses, states, kills[0], kills[-1] + 10**9) < 2.0


def test_a_back_end_that_is_killed_while_it_starts_is_started_again_by_one(kept, sequence):
    bench, _ = kept
    before = mapped(bench, sequence, 30)
    pid = back_end(bench)
    for pause in (0.0, 0.3, 0.9):
        os.kill(pid, signal.SIGKILL)
        end, last = time.monotonic() + 60, pid
        while (pid := back_end(bench)) in (None, last):
            assert time.monotonic() < end, bench.node.log
            time.sleep(0.01)
        time.sleep(pause)
    bench.node.wait_for_log("the mapping process is running again", 60)
    bench.status(lambda s: not s.problems and s.keyframes >= before.keyframes, "the map is there")
    time.sleep(3.0)  # who else would start one does so within a second, and is told of the file in use
    assert bench.node.log.count("the mapping process is running again") == 1, bench.node.log
    assert "is being written by another process" not in bench.node.log
    assert back_end(bench) == pid
