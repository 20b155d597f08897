"""A live run made again from its manifest, and where the two differ."""

from __future__ import annotations

import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from live_player import load, restamp
from live_run import LiveError, Published, environment
from rosbags.rosbag2 import StoragePlugin, Writer
from rosbags.typesys import Stores, get_typestore

_IMAGE = "sensor_msgs/msg/Image"
# Products that hold nothing of the machine, such as seconds, and nothing of the one who wrote them.
_FILES = ("trajectory.txt", "keyframes.txt", "cameras.yaml", "map.ply")


def replay(bag: Path, published: Sequence[Published], live: Path, out: Path) -> list[str]:
    """Map what the manifest run.jsonl in ``live`` lists of ``bag`` again, into ``out``; names of what differs.

    Raises ``LiveError`` where it cannot be mapped.
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
        raise LiveError(f"dust3r-map ended with code {code} at the manifest; its log is {out / 'replay.log'}")
    return differences(live, out)


def differences(first: Path, second: Path) -> list[str]:
    """Files, and tables of map.db, that are not the same in two folders of results."""
    found = [name for name in _FILES if (first / name).read_bytes() != (second / name).read_bytes()]
    one, other = contents(first / "map.db"), contents(second / "map.db")
    return found + [f"map.db: {table}" for table in sorted(one | other) if one.get(table) != other.get(table)]


def contents(path: Path) -> dict[str, list[tuple[object, ...]]]:
    """The rows of every table of a map file, sorted, but for its settings and its own random name."""
    base = sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro", uri=True)
    try:
        names = [name for (name,) in base.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
        rows = {name: sorted(base.execute(f"SELECT * FROM {name}"), key=repr) for name in names if name != "settings"}
        rows["state"] = [row for row in rows["state"] if row[0] != "lineage"]
        return rows
    finally:
        base.close()


def _as_published(bag: Path, published: Sequence[Published], out: Path) -> None:
    """The recording with the stamps under which its images went out."""
    sent = {(item.topic, item.recorded): item.stamp for item in published}
    store = get_typestore(Stores.ROS2_JAZZY)
    with Writer(out, version=Writer.VERSION_LATEST, storage_plugin=StoragePlugin.MCAP) as writer:
        topics = sorted({item.topic for item in published})
        connections = {topic: writer.add_connection(topic, _IMAGE, typestore=store) for topic in topics}
        for topic, recorded, raw in load(bag):
            if (topic, recorded) in sent:
                restamp(raw, sent[topic, recorded])
                writer.write(connections[topic], sent[topic, recorded], bytes(raw))
