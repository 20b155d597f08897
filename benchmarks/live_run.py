"""One live run: the real node, the player, and a listener in this process, DDS in between; and the run offline.

Received messages are kept with the time of the monotonic clock (ns), which all processes of the machine share.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from live_cases import Recorded
from targets import processor_s

from dust3r_ros.errors import Dust3rRosError
from dust3r_ros.io.files import make_folder
from dust3r_ros.node.tools.demo import PLAYED, environment, started
from dust3r_ros.node.tools.domains import isolate
from dust3r_ros.node.tools.recorder import Spinner
from dust3r_ros.node.tools.verdict import Sent, published
from dust3r_ros.types import Array

ROOT = Path(__file__).resolve().parents[1]
START_S, QUIET_S, SETTLE_S, FINISH_S = 60.0, 3.0, 120.0, 600.0
# A tile of fewer bytes is the single NaN point of a removed keyframe.
_EMPTY_TILE = 1000


class LiveError(Dust3rRosError):
    """A run that failed."""


@dataclass
class Heard:
    """What the listener received: poses (topic, stamp sent, time, (4, 4)), tiles (stamp, time), statuses
    (time, status)."""

    poses: list[tuple[str, int, int, Array]] = field(default_factory=list)
    tiles: list[tuple[int, int]] = field(default_factory=list)
    statuses: list[tuple[int, Any]] = field(default_factory=list)


@dataclass(frozen=True)
class LiveRun:
    """Results of a run; ``cores``: average used by the node's processes while images arrived."""

    published: Sequence[Sent]
    heard: Heard
    cores: float


def isolated() -> list[int]:
    """Use a ROS domain of its own and two cores for all processes started from now on; returns the cores."""
    isolate()
    cores = sorted(os.sched_getaffinity(0))[:2]
    os.sched_setaffinity(0, cores)
    return cores


def offline(recorded: Recorded, out: Path) -> float:
    """``dust3r-map`` on the same images, into ``out``; returns its seconds. Raises ``LiveError`` if it fails."""
    topics = [part for topic in recorded.topics for part in ("--topic", topic)]
    command = ["-m", "dust3r_ros.cli.map", str(recorded.bag), *topics, "--out", str(out), "--quiet"]
    begin, log = time.monotonic(), make_folder(out) / "offline.log"
    with log.open("wb") as output:
        code = subprocess.run([sys.executable, *command], stdout=output, stderr=output, env=environment()).returncode
    if code:
        raise LiveError(f"dust3r-map ended with code {code}; its log is {log}")
    frames = json.loads((out / "summary.json").read_text())["frames"]
    if frames != recorded.images:
        raise LiveError(f"dust3r-map was interrupted: it mapped {frames} of {recorded.images} images; its log is {log}")
    return time.monotonic() - begin


# Runs while images are played; gets the node's process, what is heard, and an event set after the last image.
Meanwhile = Callable[[subprocess.Popen[bytes], Heard, threading.Event], None]


def live(
    recorded: Recorded,
    out: Path,
    slower: float,
    parameters: Mapping[str, str],
    reliability: str,
    passes: int = 1,
    meanwhile: Meanwhile | None = None,
    player_command: Sequence[str] = (),
) -> LiveRun:
    """Play to the node until it has finished, then end it; its results are in ``out``.

    ``parameters`` of the node beyond its topics and ``output_dir``. ``player_command``: arguments of Python in place of
    the player; it writes ``published.jsonl`` into ``out``. Raises ``LiveError`` for a process that fails.
    """
    name = "image_topic" if len(recorded.topics) == 1 else "image_topics"
    topics = recorded.topics[0] if len(recorded.topics) == 1 else f"[{', '.join(recorded.topics)}]"
    settings = {name: topics, "output_dir": str(out.resolve()), **parameters}
    arguments = [part for key, value in settings.items() for part in ("-p", f"{key}:={value}")]
    make_folder(out)
    with ExitStack() as stack:
        heard = stack.enter_context(_listening(recorded.topics))
        node = started(stack, out / "node.log", "-m", "dust3r_ros.node.main", "--ros-args", *arguments)
        _until(lambda: bool(heard.statuses), START_S, [node], f"no status from the node; its log is {out / 'node.log'}")
        log = out / PLAYED
        log.unlink(missing_ok=True)
        command = player_command or (
            str(ROOT / "benchmarks/live_player.py"), str(recorded.bag), "--log", str(log), "--wait", str(START_S),
            "--rate", str(1 / slower), "--reliability", reliability, "--passes", str(passes),
        )  # fmt: skip
        player = started(stack, out / "player.log", *command)
        over = threading.Event()
        beside = threading.Thread(target=meanwhile or (lambda *_: None), args=(node, heard, over))
        beside.start()
        stack.callback(beside.join)
        stack.callback(over.set)
        usage = _usage_while(player, node)
        if player.returncode or node.poll() is not None:
            raise LiveError(
                f"the player ended with {player.returncode}, the node with {node.poll()}; logs are in {out}"
            )
        over.set()
        beside.join()
        _settle(heard, node)
        node.send_signal(signal.SIGINT)
        node.wait(FINISH_S)
    sent = published(log)
    return LiveRun(sent, heard, _cores(usage, sent[0].at, sent[-1].at))


@contextmanager
def _listening(topics: Sequence[str]) -> Iterator[Heard]:
    """A thread that hears poses, tiles and status of the node."""
    import rclpy
    from dust3r_ros.msg import MappingStatus
    from geometry_msgs.msg import PoseWithCovarianceStamped
    from rclpy.context import Context
    from rclpy.qos import QoSProfile
    from sensor_msgs.msg import PointCloud2

    from dust3r_ros.node.conversions import pose_matrix, stamp_to_ns
    from dust3r_ros.node.tools.player import serialised_stamp

    heard, context = Heard(), Context()
    rclpy.init(context=context, args=[])
    node = rclpy.create_node("live_listener", context=context, start_parameter_services=False)

    def take_pose(topic: str, message: Any) -> None:
        at = time.monotonic_ns()
        heard.poses.append((topic, stamp_to_ns(message.header.stamp), at, pose_matrix(message.pose.pose)))

    def take_tile(raw: bytes) -> None:
        if len(raw) > _EMPTY_TILE:
            heard.tiles.append((serialised_stamp(raw), time.monotonic_ns()))

    reliable = QoSProfile(depth=1000)
    for topic in topics:
        several = len(topics) > 1
        name = f"{topic.rpartition('/')[0]}/estimated/pose" if several else "/dust3r/pose"
        node.create_subscription(
            PoseWithCovarianceStamped, name, lambda message, topic=topic: take_pose(topic, message), reliable
        )
    node.create_subscription(PointCloud2, "/dust3r/map_tiles", take_tile, reliable, raw=True)
    node.create_subscription(
        MappingStatus, "/dust3r/status", lambda it: heard.statuses.append((time.monotonic_ns(), it)), reliable
    )
    spinner = Spinner(context, node)
    spinner.start()
    try:
        yield heard
    finally:
        spinner.stop()


def _settle(heard: Heard, node: subprocess.Popen[bytes]) -> None:
    """Wait until no image is waiting and nothing has arrived for a while."""
    end, before, since = time.monotonic() + SETTLE_S, -1, time.monotonic()
    while time.monotonic() < end and node.poll() is None:
        now = len(heard.poses) + len(heard.tiles)
        if now != before or (heard.statuses and heard.statuses[-1][1].waiting):
            before, since = now, time.monotonic()
        if time.monotonic() - since > QUIET_S:
            return
        time.sleep(0.2)


def _usage_while(player: subprocess.Popen[bytes], node: subprocess.Popen[bytes]) -> list[tuple[int, float]]:
    """(time (ns), processor seconds used by the node's processes) until the player ends."""
    usage = [(time.monotonic_ns(), _processor_s(node.pid))]
    while player.poll() is None and node.poll() is None:
        time.sleep(0.25)
        usage.append((time.monotonic_ns(), _processor_s(node.pid)))
    return usage


def _cores(usage: Sequence[tuple[int, float]], begin_ns: int, end_ns: int) -> float:
    """Average number of cores used between two times."""
    times, seconds = zip(*usage, strict=True)
    first, last = np.interp([begin_ns, end_ns], times, seconds)
    return float((last - first) / (end_ns - begin_ns) * 1e9)


def _processor_s(pid: int) -> float:
    """Processor seconds of a process and its descendants, including ended ones."""
    return sum(map(sum, processor_s(pid).values()))


def _until(check: Any, seconds: float, processes: Sequence[subprocess.Popen[bytes]], what: str) -> None:
    end = time.monotonic() + seconds
    while not check():
        if time.monotonic() > end or any(process.poll() is not None for process in processes):
            raise LiveError(what)
        time.sleep(0.05)
