"""Nodes that spin in a thread of their own, and their end."""

from __future__ import annotations

import threading
from contextlib import suppress
from typing import Any

import rclpy
from rclpy.context import Context
from rclpy.executors import ExternalShutdownException, SingleThreadedExecutor
from rclpy.node import Node

_SPIN_S = 0.5  # a wake-up that is lost costs at most this


class Spinner:
    """Spins ``nodes`` of a ``context`` from ``start`` to ``stop``, which ends them and the context."""

    def __init__(self, context: Context, *nodes: Node) -> None:
        self._context, self._nodes = context, nodes
        self._executor: Any = SingleThreadedExecutor(context=context)
        for node in nodes:
            self._executor.add_node(node)
        self._leaving = threading.Event()
        self._thread = threading.Thread(target=self._spin, daemon=True)

    def start(self) -> None:
        """Begin to call back."""
        self._thread.start()

    def stop(self) -> None:
        """The thread leaves before anything it waits for is destroyed; an executor's own shutdown does not wait."""
        self._leaving.set()
        if self._thread.is_alive():
            self._executor.wake()
            self._thread.join()
        self._executor.shutdown()
        for node in self._nodes:
            node.destroy_node()  # otherwise it stays discoverable until the process ends
        rclpy.shutdown(context=self._context)

    def _spin(self) -> None:
        with suppress(ExternalShutdownException):
            while not self._leaving.is_set():
                self._executor.spin_once(timeout_sec=_SPIN_S)
