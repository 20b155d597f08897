"""From arrivals to poses, at once, in the worker's thread; from images to the map in the back end's process."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from concurrent.futures import Future
from dataclasses import dataclass, replace
from time import perf_counter
from typing import Any

from rclpy.impl.rcutils_logger import RcutilsLogger

from dust3r_ros.config import MapperConfig, NodeConfig
from dust3r_ros.errors import ConfigError, Dust3rRosError, InputError
from dust3r_ros.node import jobs
from dust3r_ros.node.back_end_link import BackEndLink, Hearing
from dust3r_ros.node.conversions import Arrival, frame_of
from dust3r_ros.node.map_maker import News, Setting
from dust3r_ros.node.publishers import PoseOutput, Publishers
from dust3r_ros.node.status import COMPLAIN_S, CameraStates, Losses, Snapshot, status_message
from dust3r_ros.node.watch import Pace, Watch
from dust3r_ros.node.worker import Worker
from dust3r_ros.timing import StampOrder
from dust3r_ros.tracking.exchange import KeyframeRequest, MapSnapshot, Outbox
from dust3r_ros.tracking.front_end import Tracked
from dust3r_ros.tracking.live_camera import LiveCamera, Whereabouts
from dust3r_ros.types import Array, Calibration, Frame, MapUpdate, TrackingState

# Images that may wait for the front end: those of several cameras arrive together.
_ARRIVALS = 8
# An idle back end gets an image when its last one is this old, so that its view of the camera stays fresh.
_REFRESH_NS = 200_000_000


@dataclass(frozen=True, eq=False)
class _Handed:
    """An image on its way to the back end."""

    arrival: Arrival
    request: KeyframeRequest


class Pipeline:
    """Decodes, tracks and publishes images, and hands over those that the map needs. Methods do not block.

    One class, since the way up (images) and the way down (news) change the same queue and states in one thread.

    Raises ``Dust3rRosError`` when the mapper cannot be made (missing weights, no such device) or its files
    cannot be opened. ``first_camera``: the one whose path ~/path shows; ``topics``: of each camera by kind (image,
    mask, depth), for the manifest.
    """

    def __init__(
        self,
        mapper: MapperConfig,
        node: NodeConfig,
        publishers: Publishers,
        logger: RcutilsLogger,
        first_camera: str,
        topics: Mapping[str, Mapping[str, str]] | None = None,
    ) -> None:
        self.mapper_config, self.node_config = mapper, node
        self._publishers, self._logger = publishers, logger
        self._every = node.backlog == "every"
        size = node.backlog_mb * 1e6 if self._every else node.queue_size
        self._outbox: Outbox[_Handed] = Outbox(
            size,
            lambda handed: self._weight_of(handed.arrival),
            lambda handed: handed.arrival.camera,
            links=lambda handed: handed.request.link,
            thin=not self._every,
        )
        self._handed: _Handed | None = None  # the image that the back end is processing
        self._handed_at: dict[str, int] = {}  # newest stamps by camera
        self._live: dict[str, LiveCamera] = {}
        self._lost: dict[str, _Handed | None] = {}  # the newest image without a pose, by camera
        self._order = StampOrder(node.on_time_jump != "ignore")
        self._since = 0.0  # images that arrived before are of another map or time, whose stamps say nothing here
        self._states = CameraStates()
        self._watch = Watch(node.profile)
        self._output = PoseOutput(publishers, self._watch)
        self._losses = Losses(logger, lambda: self._worker.dropped)
        self._lacking: dict[str, tuple[str, ...]] = {}  # why, by camera, and by camera and "calibration"
        self._unsaved = 0  # images processed by a back end that has ended, missing in its map file
        self._map_asked = False
        self._of_node: dict[str, Any] = {}
        # Created before the link, whose reports it handles.
        self._worker: Worker[Arrival] = Worker(
            self._frame if self._every else Pace(self._frame, lambda: self._losses.drop()),
            size if self._every else max(size, _ARRIVALS),
            lambda error: self._losses.fail(str(error) or type(error).__name__),
            name="tracking",
            weigh=lambda arrival: self._weight_of(arrival),
            idle=lambda: self._look_back(),
        )
        setting = Setting(mapper, node, first_camera, topics, node.manifest)
        hearing = Hearing(
            publishers.message,
            lambda news: self._later(lambda: self._take_news(news)),
            lambda *found: self._later(lambda: self._there_again(*found)),
            self._watch.traced,
            lambda: self._later(lambda: self.publish_status(self.snapshot())),
        )
        try:
            self._link = BackEndLink(setting, logger, hearing)
        except BaseException:
            self._worker.stop()
            self._watch.close()
            raise
        self._resets, self._status = self._link.hello.resets, self._link.hello.status

    # For any thread

    def offer(self, arrival: Arrival) -> None:
        """Queue an image."""
        dropped = self._worker.dropped
        self._worker.offer(arrival)
        self._watch.waiting(self._worker.waiting + len(self._outbox))
        if self._worker.dropped > dropped:
            self._losses.report_dropped()

    def know(self, camera: str, calibration: Calibration) -> None:
        """Take in a published calibration."""

        def known(answer: Future[Any]) -> None:
            error = answer.exception()
            self._lacking[f"{camera} calibration"] = (str(error),) if isinstance(error, ConfigError) else ()
            self._answered(answer)

        self._when_done(self._link.know(camera, calibration), known)

    def place(self, rig: Mapping[str, Array]) -> None:
        """Set the cameras' places on their rig, (4, 4) each, metres."""
        if rig:
            self._when_done(self._link.place(rig), self._answered)

    def set_mapping(self, mapping: bool) -> None:
        """Switch between mapping and localization only."""
        self._when_done(self._link.set_mapping(mapping), self._answered)

    def reset(self) -> Future[Any]:
        """Discard the map and the waiting images."""
        self.clear()
        return self.change(jobs.reset)

    def change(self, job: Callable[..., jobs.MapChange], *arguments: Any) -> Future[Any]:
        """Run ``job(session, *arguments)``, which may change the map, between two images; a future for its answer."""
        done: Future[Any] = Future()

        def finish(answer: Future[Any]) -> None:
            try:
                result, error, news = answer.result()
            except Exception as problem:
                done.set_exception(problem)
                return
            self._take_news(news)
            if error is not None:
                done.set_exception(error)
            else:
                done.set_result(result)

        self._when_done(self._link.call("change", job, *arguments), finish)
        return done

    def run(self, job: Callable[..., Any], *arguments: Any) -> Future[Any]:
        """Run ``job(session, *arguments)``, which reads the map, between two images."""
        return self._link.call("run", job, *arguments)

    def ask_map(self) -> None:
        """Have the back end publish the map; a repeated request before it does has no effect."""
        if self._map_asked:
            return
        self._map_asked = True

        def asked(_: Future[Any]) -> None:
            self._map_asked = False

        self._link.call("show", self._publishers.audience).add_done_callback(asked)

    def clear(self) -> int:
        """Discard the waiting images; returns how many."""
        return self._worker.clear() + self._worker.submit(self._outbox.clear).result()

    def settle(self) -> None:
        """Wait for the image that is being mapped, then find what is left of those from before there was a map.

        Raises ``Dust3rRosError`` if the back end ends meanwhile.
        """
        self._link.call("keep", []).result()  # answered after whatever was called before
        self._worker.submit(self._look_back_to_the_end).result()

    def stop(self) -> None:
        """End the back end after its pending work and the worker after its current image, then close the files."""
        try:
            self._link.stop()
        except (Dust3rRosError, OSError) as error:
            self._logger.error(str(error))
        self._worker.stop()
        self._watch.close(self._logger)

    def snapshot(self, **more: Any) -> Snapshot:
        """The current state, with ``more`` fields from the node, by default those it gave last; for any thread."""
        self._of_node = {**self._of_node, **more}
        status, apart = self._status, self._link.unreported + self._unsaved
        counts = replace(status.counts, frames=status.counts.frames + apart, tracked=status.counts.tracked + apart)
        trouble = (self._link.trouble,) if self._link.trouble else ()
        return replace(
            status,
            counts=counts,
            dropped=self._losses.all_dropped,
            rejected=self._losses.rejected,
            failed=self._losses.failed,
            message=self._losses.message,
            waiting=self._worker.waiting + len(self._outbox) + (self._handed is not None),
            problems=(*status.problems, *trouble),
            lacking=tuple(problem for problems in dict(self._lacking).values() for problem in problems),
            front_stages=self._watch.summary(),
            lag=self._watch.lag,
            **self._of_node,
        )

    def publish_status(self, snapshot: Snapshot) -> None:
        """Publish ~/status."""
        self._publishers.status(status_message(snapshot, self.node_config.map_frame))

    # The front end, in the worker's thread

    def _frame(self, arrival: Arrival) -> None:
        try:
            with self._watch("decode"):
                frame, problems = frame_of(arrival)
            self._lacking[arrival.camera] = problems
            for problem in problems:
                self._logger.warning(problem, throttle_duration_sec=COMPLAIN_S)
            self._check_order(arrival)
        except InputError as error:
            self._losses.refuse(str(error))
            return
        if self._every:  # poses come from the map, however late
            self._hand_over(_Handed(arrival, KeyframeRequest(frame)), Tracked())
            return
        name, node = arrival.camera, self.node_config
        camera = self._live.get(name) or LiveCamera(self.mapper_config, node.bridge_time, node.focal_wait)
        self._live[name] = camera
        with self._watch("follow"):
            found = camera.track(frame, arrival.turning, self._output.metric)
        self._report(arrival, camera, frame, found)

    def _report(self, arrival: Arrival, camera: LiveCamera, frame: Frame, found: Whereabouts) -> None:
        """Publish the pose and state of an image, then hand the image over."""
        tracked = found.tracked
        if found.state is not None:
            said = found.state, found.w_T_c, found.covariance
            if found.w_T_c is not None:  # first of all, for low latency
                update = MapUpdate(arrival.stamp_ns, arrival.camera, *said, cameras=self._output.cameras)
                self._output.show(update, arrival)
            self._judge(arrival.camera, arrival.stamp_ns, found.state)
        with self._watch("pick_up"):
            camera.front.pick_up()
        handed = _Handed(arrival, KeyframeRequest(frame, tracked.followed, tracked.ids, tracked.pixels, tracked.link))
        self._lost[arrival.camera] = handed if tracked.usable and tracked.followed is None else None
        self._hand_over(handed, tracked)

    def _try_again(self, name: str, camera: LiveCamera) -> None:
        """Localise the newest image, lost and still waiting for the back end, in the snapshot that just came."""
        lost = self._lost.pop(name, None)
        if lost is None or not self._outbox.withdraw(lost):
            return
        with self._watch("follow"):
            found = camera.track_again()
        if found is None:
            self._outbox.offer(lost, posed=False)
        else:
            self._report(lost.arrival, camera, lost.request.frame, found)

    def _check_order(self, arrival: Arrival) -> None:
        """Raises ``InputError`` for no stamp, a repeated or overtaken one; starts over if time was set back."""
        if not arrival.stamp_ns:
            raise InputError("image stamp is 0, as if its driver had not set it; stamps must increase")
        if self._order.back(arrival.camera, arrival.stamp_ns):
            self._forget_stamps(arrival.at)
            self._states.restart()
        self._order.took(arrival.camera, arrival.stamp_ns)
        self._watch.came(arrival)

    def _forget_stamps(self, since: float) -> None:
        """Stamps may come again, of images that arrive from ``since`` on (s, as ``Arrival.at``)."""
        self._since = since
        self._order.clear()
        self._watch.forget()
        for camera in self._live.values():
            camera.forget()
        self._output.forget()
        self._handed_at.clear()
        self._lost.clear()

    def _hand_over(self, handed: _Handed, tracked: Tracked) -> None:
        """Queue an image for the back end if the map needs it, else keep its pose."""
        stamp_ns, camera = handed.arrival.stamp_ns, handed.arrival.camera
        stale = stamp_ns - self._handed_at.get(camera, -_REFRESH_NS) >= _REFRESH_NS
        fresh_view = stale and self._handed is None and not len(self._outbox)
        if tracked.followed is not None and not (self._every or tracked.wanted or fresh_view):
            self._link.report(tracked.followed)
            return
        if camera in self._live:
            self._live[camera].front.hand_over(stamp_ns)
        for gone, posed in self._outbox.offer(handed, tracked.followed is not None):
            if posed and gone.request.followed is not None:
                self._link.report(gone.request.followed)
            else:
                self._losses.drop()
                if camera in self._live:
                    self._live[camera].miss(gone.arrival.stamp_ns)
        self._send_next()

    def _look_back(self) -> bool:
        """Localise one of the images dropped before there was a map; returns whether there may be more."""
        looked = [camera.look_back() for camera in self._live.values()]
        for found in [found for found, _ in looked if found is not None]:
            self._losses.dropped -= 1
            self._link.report(found)
        return any(more for _, more in looked)

    def _send_next(self) -> None:
        if self._handed is not None or not self._link.there:
            return
        entry = self._outbox.take()
        if entry is None:
            return
        handed = self._handed = entry[0]
        arrival = handed.arrival
        if arrival.at >= self._since:
            self._handed_at[arrival.camera] = arrival.stamp_ns
        request = replace(handed.request, link=handed.request.link and self._outbox.waits(arrival.camera))
        answer = self._link.call("take", request, arrival.frame_id, self._publishers.audience)
        self._when_done(answer, lambda answer: self._taken(handed, answer))

    # What comes from the back end, in the worker's thread

    def _taken(self, handed: _Handed, answer: Future[News]) -> None:
        self._handed = None
        if answer.exception() is None:
            self._watch.mapped(handed.arrival)
            self._take_news(answer.result(), handed.arrival)
        elif handed.request.followed is not None:
            self._link.report(handed.request.followed)
        else:
            self._losses.dropped += 1
        self._send_next()

    def _take_news(self, news: News, arrival: Arrival | None = None) -> None:
        self._output.know(news)
        if news.loaded is not None:
            self._link.loaded = news.loaded
        if news.resets != self._resets:
            self._begin_again(news, perf_counter() if arrival is None else arrival.at)
        was = self._status
        self._status = replace(news.status, stamp_ns=was.stamp_ns, state=was.state, states=was.states)
        past = arrival is not None and arrival.at < self._since
        for snapshot in news.snapshots if not past else ():
            self._pass_on(snapshot, news.update)
        self._count_losses(news, arrival)
        if arrival is None:
            self._output.show_cameras()
        elif news.update is not None and not past:
            self._show(news.update, arrival)

    def _count_losses(self, news: News, arrival: Arrival | None) -> None:
        if news.refused:
            self._losses.refuse(news.refused)
            if arrival is not None:
                self._order.take_back(arrival.camera, arrival.stamp_ns)
        if news.failed:
            self._losses.fail(news.failed)

    def _look_back_to_the_end(self) -> None:
        while self._look_back():
            pass

    def _pass_on(self, snapshot: MapSnapshot, update: MapUpdate | None) -> None:
        """Give a snapshot of the map to its camera; an initialising camera tracks from then on."""
        camera = self._live.get(snapshot.camera)
        if camera is not None:
            own = update is not None and update.camera == snapshot.camera
            camera.take(snapshot, update.covariance if update is not None and own else None)
            self._try_again(snapshot.camera, camera)
        begun = self._states.of(snapshot.camera) is TrackingState.INITIALISING
        if begun and not (camera and camera.held) and self._states.newer(snapshot.camera, snapshot.stamp_ns):
            self._judge(snapshot.camera, snapshot.stamp_ns, TrackingState.TRACKING)

    def _show(self, found: MapUpdate, arrival: Arrival) -> None:
        """Publish the back end's result for an image."""
        live = self._live.get(arrival.camera)
        update = live.shown(found) if live else found
        self._output.show(update, arrival)
        bridged = self._states.of(arrival.camera) is TrackingState.BRIDGED and update.w_T_c is None
        if self._states.newer(arrival.camera, arrival.stamp_ns) and not bridged:
            self._judge(arrival.camera, arrival.stamp_ns, update.state)

    def _begin_again(self, news: News, since: float) -> None:
        """Start over: the map was replaced before the image that arrived at ``since``."""
        self._resets = news.resets
        self._unsaved = 0
        self._losses.forget()
        self._publishers.forget()
        self._states.forget()
        self._link.forget()
        self._forget_stamps(since)
        self._status = news.status

    def _judge(self, camera: str, stamp_ns: int, state: TrackingState) -> None:
        """Take in a camera's state at an image; publish a change."""
        changed = self._states.judge(camera, stamp_ns, state)
        self._status = replace(self._status, stamp_ns=stamp_ns, state=self._states.together, states=self._states.all)
        if changed:
            self._logger.info(f"camera '{camera}': {state.value}")
            self.publish_status(self.snapshot())

    def _answered(self, answer: Future[Any]) -> None:
        """Take in the answer to a calibration, rig or mode; an error is logged and ignored."""
        error = answer.exception()
        if isinstance(error, Dust3rRosError):
            self._logger.warning(str(error), throttle_duration_sec=COMPLAIN_S)
        elif error is not None:
            self._losses.fail(repr(error))
        elif isinstance(answer.result(), News):
            self._take_news(answer.result())

    def _there_again(self, news: News, anew: bool, unheard: int) -> None:
        """The back end was restarted, with a new map if ``anew``; ``unheard``: number of poses not reported."""
        taken = self._status.counts.frames + unheard + self._unsaved
        if anew:
            self._begin_again(news, perf_counter())
        else:
            self._unsaved = max(0, taken - news.status.counts.frames)
        self._resets = news.resets
        was = self._status
        self._status = replace(news.status, stamp_ns=was.stamp_ns, state=was.state, states=was.states)
        self._send_next()

    def _later(self, job: Callable[[], None]) -> None:
        """Run a job in the worker's thread."""
        self._worker.submit(job)

    def _when_done(self, answer: Future[Any], then: Callable[[Future[Any]], None]) -> None:
        """Call ``then`` in the worker's thread when the back end has answered."""
        answer.add_done_callback(lambda done: self._later(lambda: then(done)))

    def _weight_of(self, arrival: Arrival) -> float:
        return arrival.bytes if self._every else 1
