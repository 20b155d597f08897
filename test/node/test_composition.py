"""Several nodes in one process: each has its namespace, its topics and its map."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from messages import image_message

from dust3r_ros.node.tools.recorder import Recorder
from dust3r_ros.scenes.sequence import RenderedSequence

ROOT = Path(__file__).resolve().parents[2]
ENVIRONMENT = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])}
COMMAND = [sys.executable, "-m", "dust3r_ros.node.main"]


@pytest.fixture
def process(tmp_path: Path) -> Iterator[Any]:
    parameters = ("image_topic:=front/image_raw", "image_reliability:=reliable", "image_depth:=50", "backlog:=every")
    parameters += ("keyframe_motion_young:=0.03", "dense:=false", f"output_dir:={tmp_path / 'out'}")  # a smaller map
    command = [*COMMAND, "--namespaces", "a", "b", "--ros-args", *(p for pair in parameters for p in ("-p", pair))]
    with (tmp_path / "node.log").open("w") as log:
        started = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, cwd=tmp_path, env=ENVIRONMENT)
    yield started
    if started.poll() is None:
        started.kill()
    started.wait()


def test_two_nodes_map_apart_and_end_together(process: Any, sequence: RenderedSequence, tmp_path: Path) -> None:
    with ExitStack() as stack:
        first, second = (
            stack.enter_context(Recorder(f"/{name}/front/estimated/camera_info", f"/{name}/dust3r")) for name in "ab"
        )
        kind = type(image_message(sequence.images[0], 0))
        publisher = first.node.create_publisher(kind, "/a/front/image_raw", 50)
        first.wait(lambda: publisher.get_subscription_count() == 1, 150, "the first node subscribes")
        for index in range(10):
            publisher.publish(image_message(sequence.images[index], int(sequence.stamps_ns[index])))
        first.wait(lambda: "status" in first.last and first.last["status"].frames == 10, 150, "the first node maps")
        before = second.counts["status"]
        second.wait(lambda: second.counts["status"] > before, 150, "the second node is alive")
        assert second.last["status"].frames == 0 and "pose" not in second.counts
        assert first.node.count_subscribers("/b/front/image_raw") == 1
        process.send_signal(signal.SIGINT)
        assert process.wait(150) == 0, (tmp_path / "node.log").read_text()
    # Neither overwrites what the other one leaves; who mapped nothing leaves nothing.
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["a", "b"]
    assert (tmp_path / "out" / "a" / "map.db").is_file() and not any((tmp_path / "out" / "b").iterdir())


def test_an_argument_that_is_none_is_refused() -> None:
    done = subprocess.run([*COMMAND, "--namespace", "--x"], env=ENVIRONMENT, capture_output=True, text=True, timeout=60)
    assert done.returncode == 2 and "usage: dust3r_node" in done.stderr
