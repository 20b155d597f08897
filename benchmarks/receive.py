"""The cost of receiving images, and how many arrive: 640 x 480 rgb8 at 30 Hz from another process on this machine.

    python benchmarks/receive.py [--seconds 8] [--rate 30] [--out results/receive.json]

Each row is a publisher and a subscription in separate processes. "prepared" receivers make the same calls as the node
at startup (allocator, Fast DDS settings); "profiled" publishers are started with the same settings file. Processor
time is that of the whole receiving process, which does nothing else.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from array import array
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(Path(__file__).resolve().parent)]

import numpy as np  # noqa: E402
from targets import Machine, errors_said, leave, target  # noqa: E402

from dust3r_ros.errors import Dust3rRosError  # noqa: E402
from dust3r_ros.evaluation.report.metrics import table_lines  # noqa: E402
from dust3r_ros.node.image_losses import PROFILES, prepare  # noqa: E402
from dust3r_ros.node.tools.domains import isolate  # noqa: E402

TOPIC, HEIGHT, WIDTH = "/camera/image_raw", 480, 640
_LIMIT = 15.0  # percent of a core


@dataclass(frozen=True)
class Row:
    """A publisher, ``best_effort`` or ``reliable``, ``profiled`` or not, and a receiver."""

    publisher: str
    profiled: bool = False
    prepared: bool = True
    serialised: bool = False

    @property
    def words(self) -> tuple[str, str]:
        """Publisher and receiver, for the table."""
        sender = f"{self.publisher.replace('_', ' ')}, {'fastdds.xml' if self.profiled else 'default settings'}"
        return sender, ("as this node" if self.prepared else "as any node") + ", serialised" * self.serialised


ROWS = (
    Row("best_effort", prepared=False),
    Row("reliable", prepared=False),
    Row("best_effort"),
    Row("reliable"),
    Row("reliable", serialised=True),
    Row("best_effort", profiled=True),
    Row("reliable", profiled=True),
    Row("reliable", profiled=True, serialised=True),
)


def publish(reliability: str, seconds: float, rate: float) -> None:
    """Publish with stamps of the monotonic clock, which the receiver shares."""
    import rclpy
    from rclpy.qos import QoSProfile, ReliabilityPolicy
    from sensor_msgs.msg import Image

    rclpy.init(args=[])
    node = rclpy.create_node("sender")
    publisher = node.create_publisher(
        Image, TOPIC, QoSProfile(depth=5, reliability=ReliabilityPolicy[reliability.upper()])
    )
    message = Image(height=HEIGHT, width=WIDTH, encoding="rgb8", step=3 * WIDTH)
    message.data = array("B", os.urandom(3 * HEIGHT * WIDTH))
    while not publisher.get_subscription_count():
        time.sleep(0.02)
    time.sleep(1.0)
    begin = time.monotonic()
    for k in range(int(seconds * rate)):
        time.sleep(max(0.0, begin + k / rate - time.monotonic()))
        message.header.stamp.sec, message.header.stamp.nanosec = divmod(time.monotonic_ns(), 10**9)
        publisher.publish(message)
    time.sleep(1.0)


def receive(seconds: float, serialised: bool) -> dict[str, Any]:
    """Latencies (ms) of images within ``seconds`` of the first, and the share of a core (%) used."""
    import rclpy
    from rclpy.executors import SingleThreadedExecutor
    from rclpy.qos import QoSProfile, ReliabilityPolicy
    from sensor_msgs.msg import Image

    from dust3r_ros.node.conversions import stamp_to_ns
    from dust3r_ros.node.tools.player import serialised_stamp

    rclpy.init(args=[])
    node, late = rclpy.create_node("receiver"), []
    while not node.get_publishers_info_by_topic(TOPIC):
        time.sleep(0.02)

    def take(message: Any) -> None:
        stamp_ns = serialised_stamp(message) if serialised else stamp_to_ns(message.header.stamp)
        late.append(1e-6 * (time.monotonic_ns() - stamp_ns))

    profile = QoSProfile(depth=5, reliability=ReliabilityPolicy.BEST_AVAILABLE)
    node.create_subscription(Image, TOPIC, take, profile, raw=serialised)
    executor = SingleThreadedExecutor()
    executor.add_node(node)
    while not late:
        executor.spin_once(timeout_sec=0.1)
    begin, used = time.monotonic(), time.process_time()
    while time.monotonic() < begin + seconds:
        executor.spin_once(timeout_sec=0.1)
    return {"late_ms": late, "processor": 100 * (time.process_time() - used) / (time.monotonic() - begin)}


def measure(row: Row, seconds: float, rate: float) -> dict[str, Any]:
    """A row of the table; raises ``Dust3rRosError`` if a process fails."""
    isolate()
    common = [sys.executable, __file__, "--seconds", str(seconds), "--rate", str(rate)]
    settings = {"FASTRTPS_DEFAULT_PROFILES_FILE": str(PROFILES)} if row.profiled else {}
    sender = subprocess.Popen([*common, "--publish", row.publisher], env={**os.environ, **settings})
    options = ["--prepare"] * row.prepared + ["--serialised"] * row.serialised
    try:
        done = subprocess.run([*common, "--receive", *options], capture_output=True, text=True, timeout=seconds + 60)
        sender.wait(30)
    finally:
        sender.kill()
    if done.returncode:
        raise Dust3rRosError(f"the receiver of '{', '.join(row.words)}' failed: {done.stderr.strip()[-300:]}")
    found = json.loads(done.stdout.splitlines()[-1])
    p50, p95 = np.percentile(found["late_ms"], [50, 95])
    arrived = 100 * len(found["late_ms"]) / int(seconds * rate)
    return {**asdict(row), "arrived": arrived, "p50_ms": p50, "p95_ms": p95, "processor": found["processor"]}


def table(rows: list[dict[str, Any]]) -> str:
    """Markdown."""
    cells = []
    for row in rows:
        sender, receiver = Row(*(row[name] for name in ("publisher", "profiled", "prepared", "serialised"))).words
        latency = f"{row['p50_ms']:.0f} ms, {row['p95_ms']:.0f} ms"
        cells.append((sender, receiver, f"{row['arrived']:.0f} %", latency, f"{row['processor']:.1f} %"))
    return "\n".join(table_lines(("publisher", "receiver", "arrived", "latency p50, p95", "CPU"), cells, (0, 1)))


@errors_said("receive")
def main() -> int:
    """Exit code: 0 measured and within the target, 1 not."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=8.0)
    parser.add_argument("--rate", type=float, default=30.0)
    parser.add_argument("--out", type=Path, default=ROOT / "results/receive.json")
    for name in ("--receive", "--prepare", "--serialised"):
        parser.add_argument(name, action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--publish", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.publish:
        publish(options.publish, options.seconds, options.rate)
        return 0
    if options.receive:
        if options.prepare:
            prepare()
        print(json.dumps(receive(options.seconds, options.serialised)))
        return 0
    machine = Machine()
    rows = [measure(row, options.seconds, options.rate) for row in ROWS]
    node = next(row for row in rows if row["publisher"] == "reliable" and row["prepared"] and not row["profiled"])
    judged = [
        target("receiving 640x480 at 30 Hz", node["processor"], f"<= {_LIMIT:g}", node["processor"] <= _LIMIT, "", "%")
    ]
    leave(options.out, {"rows": rows, "targets": judged, "about": machine.about()}, table(rows))
    return int(not judged[0]["met"])


if __name__ == "__main__":
    sys.exit(main())
