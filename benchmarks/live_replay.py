"""Replays a live run from its manifest, and compares the two."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from live_player import load, restamp
from live_run import LiveError, Published, environment
from products import differences
from rosbags.rosbag2 import StoragePlugin, Writer
from rosbags.typesys import Stores, get_typestore

_IMAGE = "sensor_msgs/msg/Image"


def replay(bag: Path, published: Sequence[Published], live: Path, out: Path) -> list[str]:
    """Map the images of ``bag`` listed in ``live``/run.jsonl again, into ``out``; returns names of what differs.

    Raises ``LiveError`` if mapping fails.
    """
    manifest, heard = live / "run.jsonl", out / "bag"
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir(parents=True)
    _as_published(bag, published, heard)
    command = ["-m", "dust3r_ros.cli.map", str(heard), "--manifest", str(manifest), "--out", str(out), "--quiet"]
    with (out / "replay.log").open("wb") as log:
        code = subprocess.run([sys.executable, *command], stdout=log, stderr=log, env=environment()).returncode
    shutil.rmtree(heard)
    if code:
        raise LiveError(f"dust3r-map ended with code {code} on the manifest; its log is {out / 'replay.log'}")
    return differences(live, out)


def _as_published(bag: Path, published: Sequence[Published], out: Path) -> None:
    """Write the recording with the stamps that its images were sent with."""
    sent = {(item.topic, item.recorded): item.stamp for item in published}
    store = get_typestore(Stores.ROS2_JAZZY)
    with Writer(out, version=Writer.VERSION_LATEST, storage_plugin=StoragePlugin.MCAP) as writer:
        topics = sorted({item.topic for item in published})
        connections = {topic: writer.add_connection(topic, _IMAGE, typestore=store) for topic in topics}
        for topic, recorded, raw in load(bag):
            if (topic, recorded) in sent:
                restamp(raw, sent[topic, recorded])
                writer.write(connections[topic], sent[topic, recorded], bytes(raw))
