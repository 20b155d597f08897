"""Plays a bag's images over DDS as a camera would, in its own process, and logs when each was sent.

    python benchmarks/live_player.py BAG LOG [--slower 1] [--reliability reliable] [--passes 1]

Messages are sent as they are in the bag, but with current stamps. LOG gets a JSON line per image: topic, stamp in
the bag, stamp sent, and time of publication by the monotonic clock, which all processes share (ns).
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

import rclpy  # noqa: E402
from rclpy.qos import QoSProfile, ReliabilityPolicy  # noqa: E402
from rosbags.rosbag2 import Reader  # noqa: E402
from sensor_msgs.msg import Image  # noqa: E402

from dust3r_ros.io.files import write_text  # noqa: E402
from dust3r_ros.node.tools.player import serialised_stamp  # noqa: E402

_WAIT_S = 60.0


def load(bag: Path) -> list[tuple[str, int, bytearray]]:
    """(topic, stamp (ns), serialised message) of all images, in the order of their stamps."""
    with Reader(bag) as reader:
        found = [(link.topic, bytearray(raw)) for link, _, raw in reader.messages()]
    return sorted(((topic, serialised_stamp(raw), raw) for topic, raw in found), key=lambda item: item[1])


def restamp(raw: bytearray, stamp_ns: int) -> None:
    """Replace the stamp (ns) of a serialised message."""
    seconds, nanoseconds = divmod(stamp_ns, 10**9)
    raw[4:8], raw[8:12] = seconds.to_bytes(4, "little", signed=True), nanoseconds.to_bytes(4, "little")


def play(bag: Path, slower: float, reliability: str, passes: int) -> list[dict[str, object]]:
    """Publish once every topic has a subscriber; returns the lines of the log. Raises ``TimeoutError`` without one.

    Of several ``passes``, every second one goes backwards.
    """
    images = load(bag)
    node = rclpy.create_node("player")
    profile = QoSProfile(depth=5, reliability=ReliabilityPolicy[reliability.upper()])
    topics = dict.fromkeys(topic for topic, _, _ in images)  # one publisher each, as a camera has
    publishers = {topic: node.create_publisher(Image, topic, profile) for topic in topics}
    _wait(publishers.values())
    log: list[dict[str, object]] = []
    begin, base = time.monotonic() + 0.5, time.time_ns() + 500_000_000
    for after, (topic, recorded, raw) in schedule(images, slower, passes):
        stamp_ns = base + round(after)
        restamp(raw, stamp_ns)
        time.sleep(max(0.0, begin + after * 1e-9 - time.monotonic()))
        line = {"topic": topic, "recorded": recorded, "stamp": stamp_ns, "published": time.monotonic_ns()}
        publishers[topic].publish(bytes(raw))
        log.append(line)
    time.sleep(1.0)  # time to resend what is missing
    node.destroy_node()
    return log


def schedule(
    images: Sequence[tuple[str, int, bytearray]], slower: float, passes: int
) -> Iterator[tuple[float, tuple[str, int, bytearray]]]:
    """Each image with its time (ns) from the start."""
    first, last = images[0][1], images[-1][1]
    period = (last - first) / max(1, len(images) - 1)
    for number in range(passes):
        begin = number * (last - first + period)
        for image in reversed(images) if number % 2 else images:
            into = last - image[1] if number % 2 else image[1] - first
            yield (begin + into) * slower, image


def _wait(publishers: object) -> None:
    end = time.monotonic() + _WAIT_S
    for publisher in publishers:  # type: ignore[attr-defined]
        while publisher.get_subscription_count() == 0:
            if time.monotonic() > end:
                raise TimeoutError(f"nobody subscribed to {publisher.topic_name} within {_WAIT_S:g} s")
            time.sleep(0.05)
    time.sleep(1.0)  # the subscriber discovers it a moment later


def main() -> int:
    """Exit code: 0 played, 1 no subscriber."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bag", type=Path)
    parser.add_argument("log", type=Path)
    parser.add_argument("--slower", type=float, default=1.0)
    parser.add_argument("--reliability", choices=("reliable", "best_effort"), default="reliable")
    parser.add_argument("--passes", type=int, default=1, help="how often, every second time backwards")
    options = parser.parse_args()
    rclpy.init(args=[])
    try:
        log = play(options.bag, options.slower, options.reliability, options.passes)
    except TimeoutError as error:
        print(f"live_player: {error}", file=sys.stderr)
        return 1
    finally:
        rclpy.try_shutdown()
    write_text(options.log, "".join(json.dumps(line) + "\n" for line in log))
    return 0


if __name__ == "__main__":
    sys.exit(main())
