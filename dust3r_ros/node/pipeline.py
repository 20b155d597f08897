"""From image messages to published maps, in the worker's thread."""

from __future__ import annotations

import time
import traceback
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, replace
from typing import Any

from rclpy.impl.rcutils_logger import RcutilsLogger
from sensor_msgs.msg import CompressedImage
from sensor_msgs.msg import Image as ImageMessage

from dust3r_ros.config import MapperConfig, NodeConfig
from dust3r_ros.errors import Dust3rRosError, InputError
from dust3r_ros.node import conversions
from dust3r_ros.node.publishers import Publishers
from dust3r_ros.node.session import KnownCamera, Session
from dust3r_ros.node.status import Snapshot, status_message
from dust3r_ros.node.worker import Worker
from dust3r_ros.types import MapCounts, TrackingState

# The same complaint about images is logged at most this often.
COMPLAIN_S = 5.0

# Percentiles of the stages are worked out at most this often while images wait.
SUMMARY_S = 0.5


@dataclass(frozen=True)
class Arrival:
    """An image message of the camera named."""

    camera: str
    message: ImageMessage | CompressedImage


class Pipeline:
    """Decode, map, publish. Methods return at once; what takes time happens in the worker.

    Raises ``Dust3rRosError`` when the mapper cannot be made (missing weights, no such device).
    """

    def __init__(self, mapper: MapperConfig, node: NodeConfig, publishers: Publishers, logger: RcutilsLogger) -> None:
        self._config, self._node, self._publishers, self._logger = mapper, node, publishers, logger
        self.session = Session(mapper, node.on_time_jump, logger)
        self._resets = self._rejected = self._failed = self._dropped_before = 0
        self._summarised = 0.0
        self._map_asked = False
        self._snapshot = Snapshot(backend=mapper.backend)
        self._worker: Worker[Arrival] = Worker(self._frame, node.queue_size, self._failure, name="mapping")

    def offer(self, camera: str, message: ImageMessage | CompressedImage) -> None:
        """Queue an image."""
        dropped = self._worker.dropped
        self._worker.offer(Arrival(camera, message))
        if self._worker.dropped > dropped:
            self._logger.warning(
                f"the queue of {self._node.queue_size} images is full, {self._worker.dropped} dropped so far:"
                " images come faster than they are mapped",
                throttle_duration_sec=COMPLAIN_S,
            )

    def know(self, camera: str, known: KnownCamera) -> None:
        """Take a published calibration in."""
        self._worker.submit(lambda: self._in_session(lambda: self.session.know(camera, known)))

    def reset(self) -> Future[Any]:
        """Forget the map and the images that wait."""
        self._worker.clear()
        return self._worker.submit(lambda: self._in_session(self.session.reset))

    def ask_map(self) -> None:
        """Publish the map when the worker gets to it; asking again before that does nothing."""
        if not self._map_asked:
            self._map_asked = True
            self._worker.submit(self._publish_map)

    def run(self, job: Callable[[], Any]) -> Future[Any]:
        """Run a job that reads the mapper between two frames."""
        return self._worker.submit(job)

    def clear(self) -> int:
        """Forget the images that wait; returns how many."""
        return self._worker.clear()

    def stop(self) -> None:
        """End the worker after the frame and the jobs in hand."""
        self._worker.stop()

    def snapshot(self, **more: Any) -> Snapshot:
        """The state now, with ``more`` fields that the node knows; for any thread."""
        dropped = self._worker.dropped - self._dropped_before
        return replace(self._snapshot, dropped=dropped, waiting=self._worker.waiting, **more)

    def publish_status(self, snapshot: Snapshot) -> None:
        """~/status."""
        self._publishers.status(status_message(snapshot, self._node.map_frame))

    def _publish_map(self) -> None:
        self._map_asked = False
        self._publishers.map(self.session.mapper, self._snapshot.stamp_ns)

    def _frame(self, arrival: Arrival) -> None:
        message = arrival.message
        try:
            image = conversions.image_of(message)
            update = self.session.process(conversions.stamp_to_ns(message.header.stamp), arrival.camera, image)
        except InputError as error:
            self._refuse(str(error))
            return
        finally:
            self._notice_reset()
        child = self._node.camera_frame or message.header.frame_id or f"{arrival.camera}_optical_frame"
        self._publishers.frame(update, child)
        changed = update.state is not self._snapshot.state
        self._take_snapshot(stamp_ns=update.stamp_ns, state=update.state, cameras=dict(update.cameras))
        if changed:
            self._logger.info(f"camera '{arrival.camera}': {update.state.value}")
            self.publish_status(self.snapshot())

    def _take_snapshot(self, **changes: Any) -> None:
        now = time.monotonic()
        if now - self._summarised > SUMMARY_S or not self._worker.waiting:
            self._summarised = now
            changes["stages"] = self.session.stopwatch.summary()
        self._snapshot = replace(
            self._snapshot,
            counts=self.session.mapper.counts,
            rejected=self._rejected,
            failed=self._failed,
            **changes,
        )

    def _refuse(self, reason: str) -> None:
        self._rejected += 1
        self._take_snapshot(message=reason)
        self._logger.warning(f"image refused ({self._rejected} so far): {reason}", throttle_duration_sec=COMPLAIN_S)

    def _failure(self, error: Exception) -> None:
        self._failed += 1
        self._snapshot = replace(self._snapshot, failed=self._failed, message=str(error) or type(error).__name__)
        known = isinstance(error, Dust3rRosError)
        text = str(error) if known else "".join(traceback.format_exception(error))
        self._logger.error(
            f"the mapper failed at a frame ({self._failed} so far): {text}", throttle_duration_sec=COMPLAIN_S
        )

    def _in_session(self, job: Callable[[], None]) -> None:
        job()
        self._notice_reset()

    def _notice_reset(self) -> None:
        if self.session.resets == self._resets:
            return
        self._resets = self.session.resets
        self._rejected = self._failed = 0
        self._dropped_before = self._worker.dropped
        self._publishers.forget()
        self._snapshot = Snapshot(backend=self._config.backend, state=TrackingState.INITIALISING, counts=MapCounts())
