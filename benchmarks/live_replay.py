"""Replays a live run from its manifest, and compares the two."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from live_run import LiveError
from products import differences
from rosbags.rosbag2 import StoragePlugin, Writer
from rosbags.typesys import Stores, get_typestore

from dust3r_ros.node.tools.demo import environment
from dust3r_ros.node.tools.player import messages, restamped, serialised_stamp
from dust3r_ros.node.tools.verdict import Sent

_IMAGE = "sensor_msgs/msg/Image"


def replay(bag: Path, published: Sequence[Sent], live: Path, out: Path) -> list[str]:
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


def _as_published(bag: Path, published: Sequence[Sent], out: Path) -> None:
    """Write the recording with the stamps that its images were sent with."""
    sent = {(item.key[0], item.recorded): item.key[1] for item in published}
    store = get_typestore(Stores.ROS2_JAZZY)
    with Writer(out, version=Writer.VERSION_LATEST, storage_plugin=StoragePlugin.MCAP) as writer:
        topics = sorted({topic for topic, _ in sent})
        connections = {topic: writer.add_connection(topic, _IMAGE, typestore=store) for topic in topics}
        for _, topic, _, raw in messages(bag):
            if (stamp := sent.get((topic, serialised_stamp(raw)))) is not None:
                writer.write(connections[topic], stamp, restamped(raw, stamp))
