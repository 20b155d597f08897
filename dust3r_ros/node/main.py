"""The executable ``dust3r_node``: one mapping node, or several in one process."""

from __future__ import annotations

import argparse
import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Sequence
from typing import Any

import cv2
import rclpy
from rclpy.executors import SingleThreadedExecutor
from rclpy.lifecycle import TransitionCallbackReturn
from rclpy.signals import SignalHandlerOptions
from rclpy.utilities import remove_ros_args

from dust3r_ros.geometry.processes import use_one_blas_thread
from dust3r_ros.node.image_losses import prepare
from dust3r_ros.node.node import MappingNode
from dust3r_ros.node.parameters import WRITTEN

# How long a thread keeps the interpreter while another waits: tracking must not wait for receiving.
_SWITCH_S = 0.001
# Time for the middleware to deliver the last answers: after the lifecycle has ended, and after a signal.
LINGER_S, _LAST_ANSWERS_S = 0.5, 0.1
_UNANSWERED_S = 5.0  # and at most this for what is not answered yet, on a machine with much else to do


class _Stop:
    """Set by SIGINT, SIGTERM and SIGHUP (a terminal was closed).

    ros2 launch sends SIGINT twice, so repeats have no effect.
    """

    def __init__(self) -> None:
        self.asked = False
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, self._ask)

    def _ask(self, number: int, frame: Any) -> None:
        self.asked = True


def main(argv: Sequence[str] | None = None) -> int:
    """Run the node until a signal or the end of its lifecycle; returns the exit code.

    ``--namespaces A B`` runs a node in each namespace, in this one process.
    """
    stop = _Stop()
    prepare()
    cv2.setNumThreads(1)  # leave the other cores to the back end
    use_one_blas_thread()
    sys.setswitchinterval(_SWITCH_S)
    words = list(sys.argv if argv is None else argv)
    try:
        namespaces = _parser().parse_args(remove_ros_args(words)[1:]).namespaces
        # Our own handlers: rclpy's would end the context before the results are written.
        rclpy.init(args=words, signal_handler_options=SignalHandlerOptions.NO)
        nodes = [MappingNode(namespace=namespace) for namespace in namespaces]
        part(nodes)
    except Exception as error:  # e.g. unknown ROS arguments, an unreadable parameter file
        print(f"dust3r_node cannot start ({type(error).__name__}): {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    # A thread each: a node is deaf while it begins or ends, which others must not notice
    others = [threading.Thread(target=_live, args=(node, stop), name=node.get_namespace()) for node in nodes[1:]]
    for other in others:
        other.start()
    try:
        _live(nodes[0], stop)
        for other in others:
            other.join()
    finally:
        stop.asked = True
        for other in others:
            other.join()
        for node in nodes:
            node.destroy_node()
        rclpy.shutdown()
    return 0


def _live(node: MappingNode, stop: _Stop) -> None:
    """Spin a node until a signal or the end of its lifecycle, which a signal ends, too."""
    executor = SingleThreadedExecutor()
    executor.add_node(node)
    try:
        if node.parameters["autostart"]:
            _autostart(node)
        _spin(executor, node, lambda: stop.asked or node.ended)
        if not node.ended:
            node.trigger_shutdown()
        given_up = time.monotonic() + _UNANSWERED_S
        _spin(executor, node, lambda: not node.answering or time.monotonic() > given_up)
        until = time.monotonic() + (LINGER_S if not stop.asked else _LAST_ANSWERS_S)
        _spin(executor, node, lambda: time.monotonic() > until)
    finally:
        executor.shutdown()


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="dust3r_node", description="Map with uncalibrated cameras.")
    parser.add_argument(
        "--namespaces", nargs="+", metavar="NAME", default=[None], help="run one node in each of these namespaces"
    )
    return parser


def part(nodes: Sequence[MappingNode]) -> None:
    """Mark files and folders that several nodes of this process would share, so that each node gets its own."""
    for name in WRITTEN:
        paths = [os.path.abspath(str(node.parameters[name])) if node.parameters[name] else "" for node in nodes]
        for node, path in zip(nodes, paths, strict=True):
            if path and paths.count(path) > 1:
                node.apart |= {name}


def _autostart(node: MappingNode) -> None:
    if node.trigger_configure() == TransitionCallbackReturn.SUCCESS:
        node.trigger_activate()
    else:
        node.get_logger().error("not configured, for the reason above; the node stays unconfigured")


def _spin(executor: SingleThreadedExecutor, node: MappingNode, over: Callable[[], bool]) -> None:
    """Spin until it is ``over``. An error in a callback is logged, not fatal."""
    while not over():
        try:
            executor.spin_once(timeout_sec=0.2)
        except Exception:
            node.get_logger().error(traceback.format_exc(), throttle_duration_sec=5.0)


if __name__ == "__main__":
    sys.exit(main())
