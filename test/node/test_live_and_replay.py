"""The live node against a replay of what it used: the same frames, with the same drops, make the same map."""

import json

import numpy as np
import pytest
from dust3r_ros.srv import SetScale
from messages import FRAME, image_message
from sequences import walk

from dust3r_ros.cli.map import main
from dust3r_ros.storage.saved_map import load_map

pytest.importorskip("rosbags", reason="rosbags is not installed")

from rosbags.rosbag2 import StoragePlugin, Writer
from rosbags.typesys import Stores, get_typestore

TOPIC = "/camera/image_raw"


def record(path, sequence):
    """All images of a sequence in a bag."""
    store = get_typestore(Stores.ROS2_JAZZY)
    header, time, image = (
        store.types[f"{package}/msg/{name}"]
        for package, name in (("std_msgs", "Header"), ("builtin_interfaces", "Time"), ("sensor_msgs", "Image"))
    )
    with Writer(path, version=9, storage_plugin=StoragePlugin.MCAP) as writer:
        connection = writer.add_connection(TOPIC, image.__msgtype__, typestore=store)
        for stamp, pixels in zip(sequence.stamps_ns.tolist(), sequence.images, strict=True):
            height, width = pixels.shape[:2]
            message = image(
                header=header(stamp=time(sec=stamp // 10**9, nanosec=stamp % 10**9), frame_id=FRAME),
                height=height,
                width=width,
                encoding="rgb8",
                is_bigendian=0,
                step=3 * width,
                data=pixels.reshape(-1),
            )
            writer.write(connection, stamp, store.serialize_cdr(message, image.__msgtype__))


def test_a_replay_of_the_manifest_gives_the_map_of_the_live_run(start_node, tmp_path):
    """Drops are what the machine was too slow for that day; the scale was set by a service in mid-run."""
    sequence, manifest, live = walk("orbit", frames=36), tmp_path / "run.jsonl", tmp_path / "live"
    record(tmp_path / "bag", sequence)
    bench = start_node(
        manifest=str(manifest),
        output_dir=str(live),
        queue_size=3,
        working_size=160,
        map_period=0.05,
        keyframe_motion_young=0.01,
    )
    for index in range(18):
        bench.send(image_message(sequence.images[index], int(sequence.stamps_ns[index])))
    through = lambda s: s.waiting == 0 and s.frames > 0 and s.frames + s.dropped == 18  # noqa: E731
    status = bench.status(through, "images are through", 150)
    while status.keyframes < 3:  # slow enough from here that the map begins, whatever was dropped
        index += 1
        bench.send(image_message(sequence.images[index], int(sequence.stamps_ns[index])))
        frames = status.frames
        status = bench.status(lambda s, frames=frames: s.frames > frames and s.waiting == 0, "an image is mapped", 150)
    answer = bench.recorder.call(SetScale, "set_scale", SetScale.Request(factor=1.7))
    assert answer.success, answer.message
    for index in range(index + 1, len(sequence)):  # noqa: B020
        bench.send(image_message(sequence.images[index], int(sequence.stamps_ns[index])))
    status = bench.status(lambda s: s.waiting == 0 and s.frames + s.dropped == 36, "all images are through", 150)
    assert status.dropped > 0
    assert bench.node.stop() == 0, bench.node.log

    lines = [json.loads(line) for line in manifest.read_text().splitlines()]
    followed = sum(len(line["poses"]) for line in lines if line.get("event") == "followed")
    assert sum("stamp" in line for line in lines) + followed == status.frames
    assert any(line.get("event") == "scale" for line in lines)
    arguments = [str(tmp_path / "bag"), "--topic", TOPIC, "--out", str(tmp_path / "again"), "--quiet"]
    assert main([*arguments, "--manifest", str(manifest)]) == 0
    first, again = load_map(live / "map.db"), load_map(tmp_path / "again" / "map.db")
    assert [k.index for k in first.keyframes] == [k.index for k in again.keyframes]
    for a, b in zip(first.keyframes, again.keyframes, strict=True):
        assert (a.stamp_ns, a.focal) == (b.stamp_ns, b.focal)
        assert a.w_T_c.tobytes() == b.w_T_c.tobytes()
        np.testing.assert_array_equal(a.depth, b.depth)
        np.testing.assert_array_equal(a.image, b.image)
    for name in ("trajectory.txt", "map.ply"):
        assert (live / name).read_bytes() == (tmp_path / "again" / name).read_bytes()
