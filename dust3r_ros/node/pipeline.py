"""From arrivals to published maps, in the worker's thread."""

from __future__ import annotations

import time
import traceback
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from dataclasses import replace
from typing import Any

from rclpy.impl.rcutils_logger import RcutilsLogger

from dust3r_ros.config import MapperConfig, NodeConfig
from dust3r_ros.errors import ConfigError, Dust3rRosError, InputError
from dust3r_ros.node.arrivals import Arrival, frame_of
from dust3r_ros.node.publishers import Publishers
from dust3r_ros.node.snapshots import session_snapshot
from dust3r_ros.node.status import Snapshot, status_message
from dust3r_ros.node.worker import Worker
from dust3r_ros.session import Session
from dust3r_ros.session_files import begin
from dust3r_ros.types import Array, Calibration, MapUpdate, TrackingState

# The same complaint about images is logged at most this often.
COMPLAIN_S = 5.0

# What is worked out from many frames, such as percentiles, is so at most this often while images wait.
SUMMARY_S = 0.5


class Pipeline:
    """Decode, map, publish. Methods return at once; what takes time happens in the worker.

    Raises ``Dust3rRosError`` when the mapper cannot be made (missing weights, no such device) or its files
    cannot be opened. ``topics``: of each camera by kind (image, mask, depth), for the manifest.
    """

    def __init__(
        self,
        mapper: MapperConfig,
        node: NodeConfig,
        publishers: Publishers,
        logger: RcutilsLogger,
        topics: Mapping[str, Mapping[str, str]] | None = None,
    ) -> None:
        self.mapper_config, self.node_config = mapper, node
        self._publishers, self._logger = publishers, logger
        self.session = Session(mapper, logger, on_time_jump=node.on_time_jump)
        done = begin(
            self.session,
            mapper,
            map_db=node.map_db,
            map_start=node.map_start,
            load_map=node.load_map,
            manifest=node.manifest,
            topics=topics,
        )
        if done:
            logger.info(done)
        self._resets = self.session.resets
        self._rejected = self._failed = self._dropped_before = 0
        self._states: dict[str, TrackingState] = {}  # by camera
        self._summarised = 0.0
        self._map_asked = False
        self._of_node: dict[str, Any] = {}
        self._snapshot = session_snapshot(self.session, mapper, node)
        every = node.backlog == "every"
        self._worker: Worker[Arrival] = Worker(
            self._frame,
            node.backlog_mb * 1e6 if every else node.queue_size,
            self._failure,
            name="mapping",
            weigh=lambda arrival: arrival.bytes if every else 1,
        )

    def offer(self, arrival: Arrival) -> None:
        """Queue an image."""
        dropped = self._worker.dropped
        self._worker.offer(arrival)
        if self._worker.dropped > dropped:
            self._logger.warning(
                f"the queue is full, {self._worker.dropped} images dropped so far:"
                " they come faster than they are mapped",
                throttle_duration_sec=COMPLAIN_S,
            )

    def know(self, camera: str, calibration: Calibration) -> None:
        """Take a published calibration in."""
        self._worker.submit(lambda: self._told(lambda: self.session.know(camera, calibration)))

    def place(self, rig: Mapping[str, Array]) -> None:
        """Where cameras sit on their rig, (4, 4) each, metres."""

        def place() -> None:
            for camera, r_T_c in rig.items():
                self.session.place(camera, r_T_c)

        if rig:
            self._worker.submit(lambda: self._told(place))

    def set_mapping(self, mapping: bool) -> None:
        """Let the map grow, or only find cameras in it."""
        self._worker.submit(lambda: self.session.set_mapping(mapping))

    def reset(self) -> Future[Any]:
        """Forget the map and the images that wait."""
        self._worker.clear()
        return self.change(self.session.reset)

    def change(self, job: Callable[[], Any]) -> Future[Any]:
        """Run a job that may change the map between two frames; what it returns, or raises, comes by the future."""

        def run() -> Any:
            try:
                result = job()
            finally:
                self._notice_reset()
            if isinstance(result, MapUpdate):
                self._publishers.changed(result)
            self._take_snapshot()
            return result

        return self._worker.submit(run)

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
        """End the worker after the frame and the jobs in hand, then close the files."""
        self._worker.stop()
        try:
            self.session.close()
        except Dust3rRosError as error:
            self._logger.error(str(error))

    def snapshot(self, **more: Any) -> Snapshot:
        """The state now, with ``more`` fields that the node knows, else those it told last; for any thread."""
        self._of_node = {**self._of_node, **more}
        dropped = self._worker.dropped - self._dropped_before
        return replace(self._snapshot, dropped=dropped, waiting=self._worker.waiting, **self._of_node)

    def publish_status(self, snapshot: Snapshot) -> None:
        """~/status."""
        self._publishers.status(status_message(snapshot, self.node_config.map_frame))

    def _publish_map(self) -> None:
        self._map_asked = False
        self._publishers.map(self.session.mapper, self._snapshot.stamp_ns)

    def _frame(self, arrival: Arrival) -> None:
        try:
            frame, problems = frame_of(arrival)
            for problem in problems:
                self._logger.warning(problem, throttle_duration_sec=COMPLAIN_S)
            update = self.session.process(frame)
        except (InputError, ConfigError) as error:
            self._refuse(str(error))
            return
        finally:
            self._notice_reset()
        camera = update.cameras.get(update.camera)
        raw = None if camera is None else self.session.calibrations.raw(camera)
        self._publishers.frame(update, arrival.frame_id, arrival.anchor_T_c, self.session.metric, raw)
        changed = self._states.get(update.camera) is not update.state
        self._states[update.camera] = update.state
        self._take_snapshot(stamp_ns=update.stamp_ns, state=_together(self._states), states=dict(self._states))
        if changed:
            self._logger.info(f"camera '{update.camera}': {update.state.value}")
            self.publish_status(self.snapshot())

    def _take_snapshot(self, **changes: Any) -> None:
        now = time.monotonic()
        if now - self._summarised > SUMMARY_S or not self._worker.waiting:
            self._summarised = now
            self._snapshot = session_snapshot(self.session, self.mapper_config, self.node_config, self._snapshot)
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

    def _told(self, job: Callable[[], None]) -> None:
        """Something that is said of the robot; nonsense is told and left out."""
        try:
            job()
        except Dust3rRosError as error:
            self._logger.warning(str(error), throttle_duration_sec=COMPLAIN_S)
        self._notice_reset()

    def _notice_reset(self) -> None:
        if self.session.resets == self._resets:
            return
        self._resets = self.session.resets
        self._rejected = self._failed = 0
        self._dropped_before = self._worker.dropped
        self._publishers.forget()
        self._states.clear()
        self._snapshot = session_snapshot(self.session, self.mapper_config, self.node_config)


def _together(states: Mapping[str, TrackingState]) -> TrackingState:
    """What several cameras are in: tracking if one of them is, else lost if one of them is."""
    found = set(states.values())
    return next((s for s in (TrackingState.TRACKING, TrackingState.LOST) if s in found), TrackingState.INITIALISING)
