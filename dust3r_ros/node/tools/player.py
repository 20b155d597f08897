"""Plays a bag's camera topics over DDS at the recorded pace, without rosbag2."""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Literal

import rclpy
from rclpy.duration import Duration
from rclpy.node import Node
from rclpy.publisher import Publisher
from rclpy.qos import QoSProfile, ReliabilityPolicy
from sensor_msgs.msg import CameraInfo, CompressedImage
from sensor_msgs.msg import Image as ImageMessage

from dust3r_ros.errors import Dust3rRosError, InputError
from dust3r_ros.io.bags.reader import require_rosbags
from dust3r_ros.io.files import write_text

TYPES: dict[str, type] = {
    "sensor_msgs/msg/Image": ImageMessage,
    "sensor_msgs/msg/CompressedImage": CompressedImage,
    "sensor_msgs/msg/CameraInfo": CameraInfo,
}
_DEPTH = {False: 50, True: 5}  # of a publisher's queue; of a driver's
_SETTLE_S = 1.0  # a subscriber discovers its publisher a moment later; what is missing is sent again
Message = tuple[float, str, type, bytes]
Clock = Callable[[], int]


def messages(bag: Path) -> Iterator[Message]:
    """(recorded at (ns), topic, type, serialised message) of the camera topics of a rosbag2.

    Raises ``InputError`` if it is not a readable rosbag2 or has no camera topic, and without the package rosbags.
    """
    require_rosbags(bag)
    from rosbags.rosbag2 import Reader, ReaderError

    try:
        with Reader(bag) as reader:
            wanted = [connection for connection in reader.connections if connection.msgtype in TYPES]
            if not wanted:
                raise InputError(f"bag '{bag}' has no topic with images")
            for connection, recorded_ns, raw in reader.messages(connections=wanted):
                yield recorded_ns, connection.topic, TYPES[connection.msgtype], raw
    except (ReaderError, OSError) as error:
        raise InputError(f"bag '{bag}' cannot be read: {error}; it must be the folder of a rosbag2") from error


def play(
    node: Node,
    bag: Path,
    rate: float,
    wait_s: float,
    *,
    passes: int = 1,
    clock: Clock | None = None,
    reliability: ReliabilityPolicy = ReliabilityPolicy.RELIABLE,
) -> list[dict[str, Any]]:
    """Publish the camera topics of a bag, ``rate`` times as fast as recorded, ``passes`` times, to and fro.

    With a ``clock`` (ns), as a driver does: stamped when sent, from memory, with a short queue. Starts once there is a
    subscriber to an image topic, with a ``clock`` to each; ``InputError`` if not within ``wait_s`` seconds. Returns
    topic, stamp in the bag, stamp sent and time of publication (ns of the monotonic clock, shared by processes) of
    every image.
    """
    live = clock is not None
    played, profile = _played(bag, passes, live), QoSProfile(depth=_DEPTH[live], reliability=reliability)
    kinds = {topic: kind for _, topic, kind, _ in played()}
    publishers = {topic: node.create_publisher(kind, topic, profile) for topic, kind in kinds.items()}
    images = [publisher for publisher in publishers.values() if publisher.msg_type is not CameraInfo]
    wait_for_listeners(images, wait_s, every=live)
    log: list[dict[str, Any]] = []
    for topic, recorded, raw in _due(played(), rate, clock):
        now = time.monotonic_ns()
        publishers[topic].publish(raw)
        if kinds[topic] is not CameraInfo:
            log.append({"topic": topic, "recorded": recorded, "stamp": serialised_stamp(raw), "published": now})
    for publisher in images:
        publisher.wait_for_all_acked(Duration(seconds=10))
    time.sleep(live * _SETTLE_S)
    return log


def _played(bag: Path, passes: int, live: bool) -> Callable[[], Iterable[Message]]:
    """Reads the messages, or has them in memory, where a disk must not delay them or they go backwards."""
    if passes == 1 and not live:
        return partial(messages, bag)
    held = list(to_and_fro(list(messages(bag)), passes))
    return lambda: held


def _due(played: Iterable[Message], rate: float, clock: Clock | None) -> Iterator[tuple[str, int, bytes]]:
    """(topic, stamp in the bag (ns), message as it is to be sent), when it is due."""
    begin, begin_ns, first_ns = time.monotonic(), clock and clock(), None
    for at_ns, topic, _, raw in played:
        first_ns = at_ns if first_ns is None else first_ns
        after_ns = (at_ns - first_ns) / rate
        sent = bytes(raw) if begin_ns is None else restamped(raw, begin_ns + round(after_ns))
        time.sleep(max(0.0, begin + after_ns * 1e-9 - time.monotonic()))
        yield topic, serialised_stamp(raw), sent


def to_and_fro(held: Sequence[Message], passes: int) -> Iterator[Message]:
    """The messages, each with its time (ns) from the start; every second pass goes backwards."""
    first, last = (held[0][0], held[-1][0]) if held else (0.0, 0.0)
    period = (last - first) / max(1, len(held) - 1)
    for number in range(passes):
        begin = number * (last - first + period)
        for at, topic, kind, raw in reversed(held) if number % 2 else held:
            yield begin + (last - at if number % 2 else at - first), topic, kind, raw


def _order(raw: bytes | bytearray) -> Literal["little", "big"]:
    return "little" if raw[1] & 1 else "big"


def serialised_stamp(raw: bytes | bytearray) -> int:
    """The stamp (ns) of a serialised message with a header: four bytes for the encoding, seconds, nanoseconds."""
    return int.from_bytes(raw[4:8], _order(raw), signed=True) * 10**9 + int.from_bytes(raw[8:12], _order(raw))


def restamped(raw: bytes | bytearray, stamp_ns: int) -> bytes:
    """A serialised message with another stamp (ns)."""
    seconds, nanoseconds = divmod(stamp_ns, 10**9)
    stamp = seconds.to_bytes(4, _order(raw), signed=True) + nanoseconds.to_bytes(4, _order(raw))
    return b"".join((raw[:4], stamp, memoryview(raw)[12:]))


def wait_for_listeners(publishers: Sequence[Publisher], seconds: float, *, every: bool) -> None:
    """Return once one of the publishers has a subscriber, or ``every`` one has; else raises ``InputError``."""
    end, enough = time.monotonic() + seconds, all if every else any
    while not enough(publisher.get_subscription_count() for publisher in publishers):
        if time.monotonic() > end:
            topics = ", ".join(publisher.topic_name for publisher in publishers) or "an image topic"
            raise InputError(f"nobody subscribed to {topics} within {seconds:g} s")
        time.sleep(0.05)
    time.sleep(every * _SETTLE_S)


def main(argv: Sequence[str] | None = None, clock: Clock | None = None) -> int:
    """``python -m dust3r_ros.node.tools.player BAG``; ``clock`` as in ``play``."""
    parser = argparse.ArgumentParser(prog="player", description=__doc__)
    parser.add_argument("bag", type=Path, help="folder of a rosbag2")
    parser.add_argument("--rate", type=float, default=1.0, help="playback rate relative to the recording")
    parser.add_argument("--wait", type=float, default=30.0, help="seconds to wait for a subscriber")
    parser.add_argument("--passes", type=int, default=1, help="how often, every second time backwards")
    parser.add_argument("--reliability", choices=("reliable", "best_effort"), default="reliable",
                        help="of the publishers: reliable ones serve both kinds of subscribers")  # fmt: skip
    parser.add_argument("--log", type=Path, help="file to write: topic, stamps and time of sending (ns) of each image")
    options = parser.parse_args(argv)
    if not options.rate > 0:
        parser.error(f"--rate is {options.rate:g}; it must be positive")
    how = {"passes": options.passes, "reliability": ReliabilityPolicy[options.reliability.upper()], "clock": clock}
    rclpy.init(args=[])
    node = rclpy.create_node("player")
    try:
        log = play(node, options.bag, options.rate, options.wait, **how)
        if options.log is not None:
            write_text(options.log, "".join(json.dumps(line) + "\n" for line in log))
        print(f"player: {len(log)} images played", flush=True)
    except Dust3rRosError as error:
        print(f"player: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        return 130
    finally:
        node.destroy_node()
        rclpy.try_shutdown()
    return 0


if __name__ == "__main__":
    sys.exit(main())
