"""A subscriber to everything that a mapping node publishes, in a thread of its own: counts and newest messages."""

from __future__ import annotations

import threading
import time
from collections import Counter, defaultdict
from collections.abc import Callable
from contextlib import suppress
from types import TracebackType
from typing import Any

import rclpy
from diagnostic_msgs.msg import DiagnosticArray
from geometry_msgs.msg import PoseWithCovarianceStamped
from nav_msgs.msg import Path
from rclpy.context import Context
from rclpy.executors import ExternalShutdownException, SingleThreadedExecutor
from rclpy.node import Node
from rclpy.qos import QoSProfile, ReliabilityPolicy
from rclpy.signals import SignalHandlerOptions
from sensor_msgs.msg import CameraInfo, PointCloud2
from tf2_msgs.msg import TFMessage
from visualization_msgs.msg import MarkerArray

from dust3r_ros.errors import Dust3rRosError
from dust3r_ros.msg import MappingStatus
from dust3r_ros.node.interface import LATCHED as LATCHED_TOPICS
from dust3r_ros.node.interface import RELIABLE as RELIABLE_TOPICS
from dust3r_ros.node.interface import qos_profile

LATCHED, RELIABLE = qos_profile(LATCHED_TOPICS), qos_profile(RELIABLE_TOPICS)


class RemoteError(Dust3rRosError):
    """A node did not respond, or not in time."""


class Recorder:
    """Subscribes to the mapping node ``name`` in a context and thread of its own; use it in ``with``.

    ``counts``: messages by topic key (map, keyframe_cloud, pose, path, graph, status, camera_info,
    tf, diagnostics). ``last``: the newest of each. ``all``: every message of the small topics, with arrival times in
    ``times`` (ns of the monotonic clock).
    """

    def __init__(self, estimated_topic: str, name: str = "/dust3r") -> None:
        self.counts: Counter[str] = Counter()
        self.last: dict[str, Any] = {}
        self.all: dict[str, list[Any]] = defaultdict(list)
        self.times: dict[str, list[int]] = defaultdict(list)
        self._name = name
        self._changed = threading.Condition()
        self._context = Context()
        rclpy.init(context=self._context, args=[], signal_handler_options=SignalHandlerOptions.NO)
        self.node: Node = rclpy.create_node("dust3r_recorder", context=self._context, start_parameter_services=False)
        tf_qos = QoSProfile(depth=100, reliability=ReliabilityPolicy.RELIABLE)
        for key, kind, topic, qos in (
            ("map", PointCloud2, f"{name}/map", LATCHED),
            ("graph", MarkerArray, f"{name}/graph", LATCHED),
            ("path", Path, f"{name}/path", LATCHED),
            ("keyframe_cloud", PointCloud2, f"{name}/keyframe_cloud", RELIABLE),
            ("pose", PoseWithCovarianceStamped, f"{name}/pose", RELIABLE),
            ("status", MappingStatus, f"{name}/status", RELIABLE),
            ("camera_info", CameraInfo, estimated_topic, RELIABLE),
            ("tf", TFMessage, "/tf", tf_qos),
            ("diagnostics", DiagnosticArray, "/diagnostics", RELIABLE),
        ):
            self.node.create_subscription(kind, topic, self._taker(key), qos)
        self._spinner = Spinner(self._context, self.node)
        self._spinner.start()

    def __enter__(self) -> Recorder:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._spinner.stop()

    def _taker(self, key: str) -> Callable[[Any], None]:
        def take(message: Any) -> None:
            now = time.monotonic_ns()
            with self._changed:
                self.counts[key] += 1
                self.last[key] = message
                if key not in ("map", "keyframe_cloud", "path", "graph"):
                    self.all[key].append(message)
                    self.times[key].append(now)
                self._changed.notify_all()

        return take

    def wait(self, until: Callable[[], bool], seconds: float, what: str) -> None:
        """Return as soon as ``until()`` holds; ``RemoteError`` with ``what`` and the counts after ``seconds``.

        ``until`` is called after every message and ten times a second.
        """
        end = time.monotonic() + seconds
        with self._changed:
            while not until():
                if time.monotonic() > end:
                    raise RemoteError(f"{what}: not within {seconds:g} s; received {self._received()}")
                self._changed.wait(0.1)

    def call(self, kind: type, service: str, request: Any, seconds: float = 20.0) -> Any:
        """The response of a service of the node (``service`` without its name); ``RemoteError`` without one."""
        client = self.node.create_client(kind, f"{self._name}/{service}")
        try:
            if not client.wait_for_service(timeout_sec=seconds):
                raise RemoteError(f"service {self._name}/{service} did not appear within {seconds:g} s")
            future = client.call_async(request)
            answered = threading.Event()
            future.add_done_callback(lambda _: answered.set())
            if not answered.wait(seconds):
                raise RemoteError(f"service {self._name}/{service} did not respond within {seconds:g} s")
            return future.result()
        finally:
            self.node.destroy_client(client)

    def _received(self) -> str:
        """For error messages: the counts and the last status."""
        status = self.last.get("status")
        shown = (
            f"; last status: {status.state}, {status.frames} frames, {status.keyframes} keyframes, "
            f"{status.rejected} refused, {status.dropped} dropped, message '{status.message}', "
            f"problems {list(status.problems)}"
            if status is not None
            else ""
        )
        return (", ".join(f"{key} {count}" for key, count in sorted(self.counts.items())) or "nothing") + shown


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
