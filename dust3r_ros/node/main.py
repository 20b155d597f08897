"""The executable ``dust3r_node``."""

from __future__ import annotations

import signal
import sys
import time
import traceback
from collections.abc import Sequence
from typing import Any

import rclpy
from lifecycle_msgs.msg import State
from rclpy.executors import SingleThreadedExecutor
from rclpy.lifecycle import TransitionCallbackReturn
from rclpy.signals import SignalHandlerOptions

from dust3r_ros.node.node import MappingNode

# After the lifecycle has ended, answers that are on their way get this long.
LINGER_S = 0.5


class _Stop:
    """Set by SIGINT and SIGTERM. ros2 launch sends SIGINT a second time, so again changes nothing."""

    def __init__(self) -> None:
        self.asked = False
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, self._ask)

    def _ask(self, number: int, frame: Any) -> None:
        self.asked = True


def main(argv: Sequence[str] | None = None) -> int:
    """Run the node until a signal or the end of its lifecycle; returns the exit code."""
    stop = _Stop()
    try:
        # Our own handlers: with rclpy's, the context is gone before the results are written.
        rclpy.init(args=list(sys.argv if argv is None else argv), signal_handler_options=SignalHandlerOptions.NO)
        node = MappingNode()
    except Exception as error:  # unknown ROS arguments, a parameter file that cannot be read
        print(f"dust3r_node cannot start ({type(error).__name__}): {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    executor = SingleThreadedExecutor()
    executor.add_node(node)
    try:
        if node.parameters["autostart"]:
            _autostart(node)
        _spin(executor, node, stop)
        if node.state_id != State.PRIMARY_STATE_FINALIZED:
            node.trigger_shutdown()
    finally:
        executor.shutdown()
        node.destroy_node()
        rclpy.shutdown()
    return 0


def _autostart(node: MappingNode) -> None:
    if node.trigger_configure() == TransitionCallbackReturn.SUCCESS:
        node.trigger_activate()
    else:
        node.get_logger().error("not configured, for the reason above; the node waits unconfigured")


def _spin(executor: SingleThreadedExecutor, node: MappingNode, stop: _Stop) -> None:
    """Until a signal or, a moment after it, the lifecycle's end. An error in a callback is told, not fatal."""
    ended: float | None = None
    while not stop.asked and (ended is None or time.monotonic() - ended < LINGER_S):
        try:
            executor.spin_once(timeout_sec=0.2)
        except Exception:
            node.get_logger().error(traceback.format_exc(), throttle_duration_sec=5.0)
        if ended is None and node.state_id == State.PRIMARY_STATE_FINALIZED:
            ended = time.monotonic()


if __name__ == "__main__":
    sys.exit(main())
