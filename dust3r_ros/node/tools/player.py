"""Plays a bag's camera topics over DDS at the recorded pace, without rosbag2."""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Iterator, Sequence
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
# Reliable, so that both best-effort and reliable subscribers can receive the images.
CAMERA_QOS = QoSProfile(depth=50, reliability=ReliabilityPolicy.RELIABLE)


def messages(bag: Path) -> Iterator[tuple[int, str, type, bytes]]:
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


def play(node: Node, bag: Path, rate: float, wait_s: float) -> list[dict[str, Any]]:
    """Publish the camera topics of a bag, ``rate`` times as fast as recorded.

    Returns topic, stamp and time of publication (ns of the monotonic clock, shared by processes) of every image.

    Starts once there is a subscriber to an image topic; ``InputError`` if there is none within ``wait_s`` seconds.
    """
    publishers: dict[str, Publisher] = {}
    for _, topic, kind, _ in messages(bag):
        if topic not in publishers:
            publishers[topic] = node.create_publisher(kind, topic, CAMERA_QOS)
    images = [publisher for publisher in publishers.values() if publisher.msg_type is not CameraInfo]
    _wait_for_listener(images, wait_s)
    log: list[dict[str, Any]] = []
    begin, first_ns = time.monotonic(), None
    for recorded_ns, topic, kind, raw in messages(bag):
        first_ns = recorded_ns if first_ns is None else first_ns
        due = begin + (recorded_ns - first_ns) * 1e-9 / rate
        time.sleep(max(0.0, due - time.monotonic()))
        now = time.monotonic_ns()
        publishers[topic].publish(bytes(raw))
        if kind is not CameraInfo:
            log.append({"topic": topic, "stamp": serialised_stamp(raw), "published": now})
    for publisher in images:
        publisher.wait_for_all_acked(Duration(seconds=10))
    return log


def serialised_stamp(raw: bytes | bytearray) -> int:
    """The stamp (ns) of a serialised message with a header: four bytes for the encoding, seconds, nanoseconds."""
    order: Literal["little", "big"] = "little" if raw[1] & 1 else "big"
    return int.from_bytes(raw[4:8], order, signed=True) * 10**9 + int.from_bytes(raw[8:12], order)


def _wait_for_listener(publishers: Sequence[Publisher], seconds: float) -> None:
    end = time.monotonic() + seconds
    while not any(publisher.get_subscription_count() for publisher in publishers):
        if time.monotonic() > end:
            topics = ", ".join(publisher.topic_name for publisher in publishers) or "an image topic"
            raise InputError(f"nobody subscribed to {topics} within {seconds:g} s")
        time.sleep(0.05)


def main(argv: Sequence[str] | None = None) -> int:
    """``python -m dust3r_ros.node.tools.player BAG``."""
    parser = argparse.ArgumentParser(prog="player", description=__doc__)
    parser.add_argument("bag", type=Path, help="folder of a rosbag2")
    parser.add_argument("--rate", type=float, default=1.0, help="playback rate relative to the recording")
    parser.add_argument("--wait", type=float, default=30.0, help="seconds to wait for a subscriber")
    parser.add_argument("--log", type=Path, help="file to write, one JSON line per image: topic, stamp, published (ns)")
    options = parser.parse_args(argv)
    if not options.rate > 0:
        parser.error(f"--rate is {options.rate:g}; it must be positive")
    rclpy.init(args=[])
    node = rclpy.create_node("player")
    try:
        log = play(node, options.bag, options.rate, options.wait)
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
