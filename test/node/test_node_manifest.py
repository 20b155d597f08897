"""The node writes down what it used; dust3r-map makes the same map of it from a bag."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from geometry_msgs.msg import TransformStamped
from messages import FRAME
from tf2_msgs.msg import TFMessage

from dust3r_ros.cli.map import main
from dust3r_ros.io.manifest import Event, FrameEntry, read_manifest
from dust3r_ros.io.trajectory import read_tum
from dust3r_ros.node.conversions import transform_message
from dust3r_ros.scenes.export import write_bag
from dust3r_ros.scenes.sequence import RenderedSequence


def odometry(sequence: RenderedSequence) -> list[TransformStamped]:
    """Where the camera is at each of its stamps."""
    truth = zip(sequence.stamps_ns.tolist(), sequence.w_T_c, strict=True)
    return [transform_message(w_T_c, stamp, "odom", FRAME) for stamp, w_T_c in truth]


def test_the_frames_of_a_live_run_give_the_same_map_offline(
    start_node: Callable[..., Any], sequence: RenderedSequence, tmp_path: Path
) -> None:
    """Images come at once: which are mapped, which are only followed or dropped is chance."""
    pytest.importorskip("rosbags", reason="rosbags is not installed")
    manifest, live = tmp_path / "run.jsonl", tmp_path / "live"
    bench = start_node(
        manifest=manifest,
        output_dir=live,
        queue_size=12,
        working_size=160,
        tracking_size=240,
        odom_frame="odom",
        keyframe_motion_young=0.01,
        focal=sequence.focal,
    )
    publisher = bench.recorder.node.create_publisher(TFMessage, "/tf", 50)
    bench.recorder.wait(lambda: publisher.get_subscription_count() >= 2, 150, "the node and the recorder hear /tf")
    for _ in range(3):  # what is sent before both sides know of each other is lost
        publisher.publish(TFMessage(transforms=odometry(sequence)))
        time.sleep(0.5)
    bench.play(sequence)
    count = len(sequence)
    status = bench.status(
        lambda status: status.waiting == 0 and status.frames + status.dropped == count, "all images are through", 150
    )
    assert bench.node.stop() == 0, bench.node.log
    assert read_manifest(manifest).topics["camera"]["image"] == "/camera/image_raw"
    entries = list(read_manifest(manifest).entries())
    used = [entry for entry in entries if isinstance(entry, FrameEntry)]
    events = [entry for entry in entries if isinstance(entry, Event) and entry.kind == "followed"]
    followed = [pose["stamp_ns"] for event in events for pose in event.values["poses"]]
    # Images that were dropped before there was a map may have got their poses since.
    assert len(used) >= 12 and status.frames <= len(used) + len(followed) <= count
    truth = dict(zip(sequence.stamps_ns.tolist(), sequence.w_T_c, strict=True))
    known = [entry for entry in used if entry.o_T_c is not None]
    assert len(known) >= len(used) // 2  # the first images may come before TF
    for entry in known:
        np.testing.assert_allclose(entry.o_T_c, truth[entry.stamp_ns], atol=1e-9)
    written = {pose.stamp_ns for pose in read_tum(live / "trajectory.txt")}
    assert written >= set(followed), "those found last, when the node was told to end, too"
    bag = tmp_path / "bag"
    write_bag(sequence, bag, encoding="rgb8")  # without odometry: what was known counts
    assert main([str(bag), "--out", str(tmp_path / "again"), "--manifest", str(manifest), "--quiet"]) == 0
    for name in ("trajectory.txt", "keyframes.txt", "map.ply"):
        assert (tmp_path / "again" / name).read_bytes() == (live / name).read_bytes(), name
