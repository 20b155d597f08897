"""Waits until a mapping node is ready, or until it has mapped its images and then has it save.

python -m dust3r_ros.node.tools.finish [--node NAME ...] [--out DIR]
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import rclpy
from rclpy.node import Node
from rclpy.signals import SignalHandlerOptions

from dust3r_ros.msg import MappingStatus
from dust3r_ros.node import interface

# Seconds without status: the node is gone, or did not start; seconds without waiting images: it is done.
GONE_S = 30.0
READY_S = 120.0
QUIET_S = 2.0


class Finisher:
    """A client of the mapping node with the full name ``target``."""

    def __init__(self, node: Node, target: str) -> None:
        self._node, self._target = node, target.rstrip("/")
        self._status: MappingStatus | None = None
        self._heard = self._changed = time.monotonic()
        row = interface.OUTPUTS["status"]
        kind, qos = interface.interface_type(row), interface.qos_profile(row.quality)
        node.create_subscription(kind, self._name(row.name), self._on_status, qos)

    def ready(self) -> None:
        """Return once the node publishes its status; raises ``TimeoutError`` if it does not."""
        end = time.monotonic() + READY_S
        while self._status is None:
            rclpy.spin_once(self._node, timeout_sec=0.2)
            if time.monotonic() > end:
                raise TimeoutError(f"no message on {self._target}/status for {READY_S:.0f} s: is the node running?")

    def wait(self) -> MappingStatus:
        """The status once no image is waiting; raises ``TimeoutError`` for a silent node."""
        self._heard = self._changed = time.monotonic()
        while self._status is None or self._status.waiting or time.monotonic() - self._changed < QUIET_S:
            rclpy.spin_once(self._node, timeout_sec=0.2)
            if time.monotonic() - self._heard > GONE_S:
                raise TimeoutError(f"no message on {self._target}/status for {GONE_S:.0f} s: is the node running?")
        return self._status

    def call(self, service: str, **fields: Any) -> str:
        """The message of a service's response; raises ``TimeoutError`` without one, ``RuntimeError`` for a failure."""
        row = interface.SERVICES[service]
        kind = interface.interface_type(row)
        client = self._node.create_client(kind, self._name(row.name))
        if not client.wait_for_service(GONE_S):
            raise TimeoutError(f"service {client.srv_name} does not exist")
        answer = client.call_async(kind.Request(**fields))
        rclpy.spin_until_future_complete(self._node, answer, timeout_sec=600.0)
        response: Any = answer.result()
        if response is None:
            raise TimeoutError(f"service {client.srv_name} does not respond")
        if not response.success:
            raise RuntimeError(f"{client.srv_name}: {response.message}")
        return str(response.message)

    def _name(self, name: str) -> str:
        return name.replace("~", self._target, 1)

    def _on_status(self, status: MappingStatus) -> None:
        self._heard = time.monotonic()
        if self._status is None or status.frames != self._status.frames or status.waiting:
            self._changed = self._heard
        self._status = status


def main(argv: Sequence[str] | None = None) -> int:
    """Exit code: 0 done, 1 failed, with the reason on stderr."""
    parser = argparse.ArgumentParser(
        prog="python -m dust3r_ros.node.tools.finish", description="Wait for a mapping node, then save its map."
    )
    parser.add_argument(
        "--node", nargs="+", default=["/dust3r"], metavar="NAME", help="full names of mapping nodes to wait for"
    )
    parser.add_argument(
        "--out",
        metavar="DIR",
        help="folder for map.db and calibration, on the node's machine; without it, only wait",
    )
    arguments = parser.parse_args(argv)
    if arguments.out and len(arguments.node) > 1:
        parser.error(f"--out is the folder of one node, but --node names {len(arguments.node)}")
    # Signals end the process at once, by KeyboardInterrupt or by default.
    rclpy.init(args=[], signal_handler_options=SignalHandlerOptions.NO)
    node = rclpy.create_node("dust3r_finish")
    try:
        finishers = [Finisher(node, name) for name in arguments.node]
        if arguments.out:
            return _report(lambda: _finish(finishers[0], Path(arguments.out).absolute()))
        return _report(lambda: _ready(finishers))
    finally:
        node.destroy_node()
        rclpy.shutdown()


def _ready(finishers: Sequence[Finisher]) -> None:
    for finisher in finishers:
        finisher.ready()


def _finish(finisher: Finisher, out: Path) -> None:
    status = finisher.wait()
    counts = f"{status.dropped} dropped, {status.rejected} refused, {status.lost_in_transport} lost in transport"
    print(f"{status.frames} images mapped, {counts}", flush=True)
    print(finisher.call("save_map", path=str(out / "map.db")), flush=True)
    print(finisher.call("save_calibration", path=str(out / "calibration")), flush=True)


def _report(work: Callable[[], None]) -> int:
    try:
        work()
    except (TimeoutError, RuntimeError) as error:
        print(f"dust3r_finish: error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
