"""Configure, activate, clean up, signals, parameters: what an operator does."""

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time

import pytest
from dust3r_ros.srv import SaveMap
from lifecycle_msgs.msg import State, Transition
from lifecycle_msgs.srv import ChangeState, GetState
from rcl_interfaces.msg import ParameterType
from rcl_interfaces.srv import DescribeParameters, GetParameters, SetParameters
from rclpy.parameter import Parameter
from two_processes import back_end

from dust3r_ros.node.tools.recorder import Recorder, RemoteError
from dust3r_ros.node.tools.verdict import FILES


def change(recorder, transition):
    request = ChangeState.Request(transition=Transition(id=transition))
    return recorder.call(ChangeState, "change_state", request, seconds=60).success


def state(recorder):
    """A busy node may answer before it has discovered who asks, and DDS drops that: asked again, it answers."""
    for _ in range(6):
        with contextlib.suppress(RemoteError):
            return recorder.call(GetState, "get_state", GetState.Request(), seconds=10).current_state.id
    raise RemoteError("the node does not say its state")


def set_parameter(recorder, name, value):
    request = SetParameters.Request(parameters=[Parameter(name, value=value).to_parameter_msg()])
    (result,) = recorder.call(SetParameters, "set_parameters", request).results
    return result


def ask(bench, path):
    """Ask for a map that the back end, which stands still, cannot write before it goes on a moment later."""
    pid, saver = back_end(bench), bench.recorder.node.create_client(SaveMap, "/dust3r/save_map")
    os.kill(pid, signal.SIGSTOP)
    assert saver.wait_for_service(20)
    answer = saver.call_async(SaveMap.Request(path=str(path)))
    time.sleep(0.5)
    threading.Timer(1.0, os.kill, (pid, signal.SIGCONT)).start()
    return answer


def answered(bench, answer, path):
    bench.recorder.wait(answer.done, 20, "the answer comes")
    assert answer.result().success and path.is_file()


def ended(bench, number, out):
    """The node ends by a signal, with its results written."""
    assert bench.node.stop(number) == 0, bench.node.log
    assert {path.name for path in out.iterdir()} == set(FILES)
    assert json.loads((out / "summary.json").read_text())["frames"] == 12
    assert "Traceback" not in bench.node.log


def test_who_asked_before_the_end_gets_an_answer(start_node, tmp_path, sequence):
    """Before it is cleaned up, and, configured again, before it ends by SIGINT."""
    out, first, second = tmp_path / "out", tmp_path / "first.db", tmp_path / "second.db"
    bench = start_node(output_dir=str(out), dense=False, focal=sequence.focal)
    recorder = bench.recorder
    bench.play(sequence, last=12)
    bench.handled(12)
    answer = ask(bench, first)
    assert change(recorder, Transition.TRANSITION_DEACTIVATE)
    assert change(recorder, Transition.TRANSITION_CLEANUP)
    answered(bench, answer, first)

    bench.parted()
    shutil.rmtree(out)
    assert change(recorder, Transition.TRANSITION_CONFIGURE)
    assert change(recorder, Transition.TRANSITION_ACTIVATE)
    bench.play(sequence, last=12)
    recorder.clear()
    bench.handled(12)
    answer = ask(bench, second)
    ended(bench, signal.SIGINT, out)
    answered(bench, answer, second)


def test_sigterm_ends_the_node_with_its_results_written(start_node, tmp_path, sequence):
    bench = start_node(output_dir=str(tmp_path / "out"), dense=False, focal=sequence.focal)
    bench.play(sequence, last=12)
    bench.handled(12)
    ended(bench, signal.SIGTERM, tmp_path / "out")


def test_the_whole_lifecycle_by_service(start_node, tmp_path, sequence):
    """As a lifecycle manager drives it; a transition that is not possible is refused, not fatal."""
    out = tmp_path / "out"
    bench = start_node(output_dir=str(out), autostart=False, dense=False, focal=sequence.focal)
    recorder = bench.recorder
    assert state(recorder) == State.PRIMARY_STATE_UNCONFIGURED
    assert not change(recorder, Transition.TRANSITION_ACTIVATE)
    assert state(recorder) == State.PRIMARY_STATE_UNCONFIGURED
    assert change(recorder, Transition.TRANSITION_CONFIGURE)
    assert change(recorder, Transition.TRANSITION_ACTIVATE)
    bench.play(sequence, last=15)
    bench.handled(15)
    saved = recorder.call(SaveMap, "save_map", SaveMap.Request(path=str(tmp_path / "maps" / "room.db")))
    assert saved.success, saved.message
    assert (tmp_path / "maps" / "room.db").stat().st_size > 0
    refused = recorder.call(SaveMap, "save_map", SaveMap.Request(path=str(tmp_path)))
    assert not refused.success and "folder" in refused.message
    assert change(recorder, Transition.TRANSITION_DEACTIVATE)
    assert change(recorder, Transition.TRANSITION_CLEANUP)
    assert {path.name for path in out.iterdir()} == set(FILES)

    # Once more round with the same node, which takes in what is sent once it has subscribed anew
    bench.parted()
    assert change(recorder, Transition.TRANSITION_CONFIGURE)
    assert change(recorder, Transition.TRANSITION_ACTIVATE)
    bench.play(sequence, last=5)
    recorder.clear()
    bench.handled(5)
    assert change(recorder, Transition.TRANSITION_ACTIVE_SHUTDOWN)
    assert bench.node.process.wait(150) == 0
    assert json.loads((out / "summary.json").read_text())["frames"] == 5


def test_bad_parameters_refuse_to_configure_with_the_reason(start_node):
    bench = start_node(working_size=-7, backend="guess", map_period="soon", no_such_thing=1)
    bench.node.wait_for_log("not configured")
    log = bench.node.log
    assert "'working_size' is -7; it must lie in [0, 1024]" in log
    assert "'backend' is 'guess'; it must be one of two_view, dust3r" in log
    assert "'map_period' is 'soon'; it must be of type float" in log
    assert "'no_such_thing' is unknown" in log
    assert state(bench.recorder) == State.PRIMARY_STATE_UNCONFIGURED
    assert not change(bench.recorder, Transition.TRANSITION_CONFIGURE)
    assert bench.node.stop() == 0


def test_what_cannot_be_made_refuses_to_configure(start_node, tmp_path):
    """A folder that cannot be written is said before the run, not after it."""
    (tmp_path / "file").write_text("")
    bench = start_node(output_dir=str(tmp_path / "file" / "out"))
    bench.node.wait_for_log("not configured")
    assert str(tmp_path / "file") in bench.node.log
    assert state(bench.recorder) == State.PRIMARY_STATE_UNCONFIGURED


@pytest.mark.parametrize("row", ["map_db", "profile"])
def test_a_path_that_cannot_be_looked_up_is_said_in_a_sentence(start_node, tmp_path, row):
    bench = start_node(**{row: str(tmp_path / ("x" * 300))})
    bench.node.wait_for_log("not configured")
    assert "cannot be used: File name too long" in bench.node.log and "Traceback" not in bench.node.log


def test_parameters_are_described_and_checked_when_set(bench):
    recorder = bench.recorder
    names = ["map_stride", "backend", "min_confidence"]
    request = DescribeParameters.Request(names=names)
    stride, backend, confidence = recorder.call(DescribeParameters, "describe_parameters", request).descriptors
    assert stride.type == ParameterType.PARAMETER_INTEGER and not stride.read_only and stride.description
    assert (stride.integer_range[0].from_value, stride.integer_range[0].to_value) == (1, 32)
    assert backend.read_only and "two_view" in backend.additional_constraints
    assert confidence.floating_point_range[0].from_value == 1.0

    assert set_parameter(recorder, "map_stride", 4).successful
    too_large = set_parameter(recorder, "map_stride", 33)
    assert not too_large.successful and too_large.reason
    wrong_type = set_parameter(recorder, "map_stride", "four")
    assert not wrong_type.successful and wrong_type.reason
    fixed = set_parameter(recorder, "backend", "dust3r")
    assert not fixed.successful and "read-only" in fixed.reason
    values = recorder.call(GetParameters, "get_parameters", GetParameters.Request(names=names)).values
    assert (values[0].integer_value, values[1].string_value) == (4, "two_view")


def test_another_map_period_holds_at_once(start_node, sequence):
    """Also when no image comes any more, and the next publication would have been an hour away."""
    bench = start_node(map_period=3600.0)
    bench.play(sequence)
    bench.handled(len(sequence))
    bench.status(lambda s: s.keyframes > 1 and s.waiting == s.backlog == 0, "the map is done")
    before = bench.recorder.counts["map"]
    assert before <= 1
    assert set_parameter(bench.recorder, "map_period", 0.1).successful
    bench.recorder.wait(lambda: bench.recorder.counts["map"] > before, 30, "the map is published")


def test_namespace_and_name_come_from_ros(start_node, sequence):
    """Topics, services and the name of the camera follow."""
    bench = start_node(
        remap=["__ns:=/robot", "__node:=mapper"],
        image_topic="front/image_raw",
        topic="/robot/front/image_raw",
        name="/robot/mapper",
        estimated="/robot/front/estimated/camera_info",
        dense=False,
        focal=sequence.focal,
    )
    bench.play(sequence, last=10)
    status = bench.handled(10)
    assert status.cameras[0].name == "robot/front"
    bench.recorder.wait(lambda: bench.recorder.counts["camera_info"] > 0, 150, "the camera is published")


def test_arguments_that_ros_does_not_know_end_with_a_sentence(tmp_path):
    result = subprocess.run(
        [sys.executable, "-m", "dust3r_ros.node.main", "--ros-args", "--params-file", str(tmp_path / "none.yaml")],
        capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert result.returncode == 2
    assert "none.yaml" in result.stderr
    assert "Traceback" not in result.stderr


def test_a_recorder_says_what_it_received_when_nothing_comes():
    nobody = Recorder("/nobody/estimated/camera_info", name="/nobody")
    with nobody as recorder, pytest.raises(RemoteError) as raised:
        recorder.wait(lambda: "map" in recorder.last, 0.3, "the map comes")
    assert str(raised.value) == "the map comes: not within 0.3 s; received nothing"
