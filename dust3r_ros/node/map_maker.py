"""The object in the back end's process: the session, the publishing of its map and the reports of its state."""

from __future__ import annotations

import os
import time
import traceback
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from rclpy.serialization import serialize_message

from dust3r_ros.config import MapperConfig, NodeConfig
from dust3r_ros.errors import ConfigError, Dust3rRosError, InputError
from dust3r_ros.io.chrome_trace import ChromeTrace
from dust3r_ros.mapping.process import Send
from dust3r_ros.mapping.submap import CULL, DEPTH, PREVIEW, RENUMBER, TAKE
from dust3r_ros.node.image_losses import keep_memory, release_memory
from dust3r_ros.node.jobs import MapChange
from dust3r_ros.node.map_publisher import KEYFRAME_TOPICS, MAP_TOPICS, KeyframePublisher, MapPublisher
from dust3r_ros.node.status import Snapshot, memory_mb, session_snapshot
from dust3r_ros.session.back_end import BackEnd
from dust3r_ros.session.session import Session, begin, continues, keep
from dust3r_ros.timing import no_timer
from dust3r_ros.tracking.exchange import FollowedPose, KeyframeRequest, MapSnapshot
from dust3r_ros.types import Array, Calibration, Camera, Image, MapUpdate

if TYPE_CHECKING:
    from dust3r_ros.products.viewer import Viewer

MESSAGE, LOG, NEWS, TRACE = "message", "log", "news", "trace"  # kinds of messages to the node

# Minimum time between summaries over many frames, such as percentiles.
_SUMMARY_S = 0.5
_SHIPPED_S = 0.2  # period of sending trace events to the node's process
_REST = {PREVIEW: 0.0, DEPTH: 4.0, CULL: 4.0, RENUMBER: 4.0}  # after such work, wait for images this many times as long
_QUIET_S = 0.3  # after this long without an image, stop waiting for one
_RELEASE_S = 300.0  # period of returning freed memory to the system, while nothing is due
_PLENTY = 100  # followed landmarks with a position; with fewer, the camera may soon be lost
_OVERDUE_S = 0.5  # depth overdue by this much goes before an image


@dataclass(frozen=True)
class Audience:
    """Subscriber counts (``listeners``) by topic, 0 if not active, and ``live`` parameters of the node."""

    listeners: Mapping[str, int] = field(default_factory=dict)
    live: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class News:
    """The report on an image or a change: ``status`` always, ``update`` (without keyframes) for an image.

    ``cameras`` are the estimates, ``raw`` the calibrations of raw images, by camera. ``refused`` and ``failed`` are
    sentences, or empty. ``loaded``: as of ``MapChange``, after one.
    """

    status: Snapshot
    resets: int
    metric: bool
    update: MapUpdate | None = None
    cameras: Mapping[str, Camera] = field(default_factory=dict)
    raw: Mapping[str, Calibration] = field(default_factory=dict)
    snapshots: tuple[MapSnapshot, ...] = ()
    refused: str = ""
    failed: str = ""
    loaded: str | None = None


@dataclass(frozen=True)
class Setting:
    """The arguments of a map maker; ``topics`` of each camera by kind, for the manifest."""

    mapper: MapperConfig
    node: NodeConfig
    first_camera: str
    topics: Mapping[str, Mapping[str, str]] | None = None
    manifest: str = ""


class _Log:
    """A session's log, sent to the node."""

    def __init__(self, send: Send) -> None:
        self._send = send

    def info(self, message: str) -> None:
        self._send(LOG, ("info", message))

    def warning(self, message: str) -> None:
        self._send(LOG, ("warning", message))

    def error(self, message: str) -> None:
        self._send(LOG, ("error", message))


class _RemoteTopic:
    """Stands for a publisher of the node; messages are sent there serialised."""

    def __init__(self, key: str, send: Send) -> None:
        self._key, self._send = key, send
        self.listeners = 0

    @property
    def is_activated(self) -> bool:
        return self.listeners > 0

    def get_subscription_count(self) -> int:
        return self.listeners

    def publish(self, message: Any) -> None:
        self._send(MESSAGE, (self._key, np.frombuffer(serialize_message(message), np.uint8)))


def _viewer(setting: Setting, session: Session, log: _Log) -> Viewer | None:
    """The viewer, if the parameter asks for one, showing the loaded map. Raises as ``Viewer`` does."""
    if setting.node.viewer == "none":
        return None
    from dust3r_ros.products.viewer import Viewer  # imported only if needed: faster start

    viewer = Viewer(setting.node.viewer_address, min_confidence=setting.mapper.min_confidence)
    viewer.begin(session.mapper.keyframes)
    log.info(f"watch the map at {viewer.url}")
    return viewer


def _name(job: Callable[..., object]) -> str:
    return getattr(job, "__name__", "job").replace("_", " ")


def _said(error: Exception) -> str:
    return str(error) if isinstance(error, Dust3rRosError) else "".join(traceback.format_exception(error))


class MapMaker:
    """Called by ``mapping.process``, one method after the other; images and changes are answered with ``News``.

    One class, since it is all that the other process can call; what it calls (session, publishers) is elsewhere.
    """

    def __init__(self, send: Send, setting: Setting) -> None:
        """Raises ``Dust3rRosError`` when the mapper cannot be made or its files cannot be opened."""
        keep_memory()  # this process receives images, too
        self._setting, self._send, self._log = setting, send, _Log(send)
        node = setting.node
        self._trace = ChromeTrace("back end") if node.profile else None
        self._span, self._shipped = self._trace or no_timer, 0.0
        heard = self._trace.stage if self._trace else None
        mapper = replace(setting.mapper, depth_at_end=False)  # a node has viewers
        self._session = Session(mapper, self._log, on_time_jump=node.on_time_jump, heard=heard)
        done = begin(
            self._session,
            mapper,
            map_db=node.map_db,
            map_start=node.map_start,
            load_map=node.load_map,
            manifest=setting.manifest,
            topics=setting.topics,
        )
        if done:
            self._log.info(done)
        self._unkept = node.map_db if mapper.mode == "localization" else ""  # left alone until mapping begins
        self._back_end = BackEnd(self._session)
        self._topics = {key: _RemoteTopic(key, send) for key in (*MAP_TOPICS, *KEYFRAME_TOPICS)}
        self._live: Mapping[str, Any] = {}
        self._map = MapPublisher(
            {key: self._topics[key] for key in MAP_TOPICS},
            node,
            lambda name: self._live[name],
            setting.first_camera,
            self._log.error,
        )
        self._keyframes = KeyframePublisher(
            {key: self._topics[key] for key in KEYFRAME_TOPICS}, node.map_frame, lambda name: self._live[name]
        )
        self._viewer = _viewer(setting, self._session, self._log)
        self._resets = self._session.resets
        self._summarised = 0.0
        self._unpublished = self._closed = False  # whether publishing the map is overdue
        self._stale = False  # whether the node lacks the newest status
        self._failing: dict[str, str] = {}  # kinds of work that failed the last time, and why
        self._asked = self._rest_until = 0.0  # time of the last image; no depth is computed before this time
        self._released = time.monotonic()
        self._stamp_ns = 0
        self._safe = False  # whether many landmarks were followed into the last image
        if node.backlog != "every":  # with backlog "every", images wait for all work
            self._session.go_live(beside=hasattr(os, "fork"))
        self._status = session_snapshot(self._session, setting.mapper, node)

    def hello(self) -> News:
        """The state before the first image."""
        return self._news()

    def work(self, idle: bool) -> bool:
        """Do a piece of postponed work: at once, except depth, which waits until there is time."""
        if self._closed:
            return False
        if self._unpublished:
            self._publish()
        due, begin = self._session.due, time.monotonic()
        self._ship(begin, idle and not due)
        if not due or (due in _REST and not self._has_time(due, idle, begin)):
            return self._wait_or_report(idle)
        with self._span(f"work: {due}"):
            update = self._done(due)
        if due in _REST:
            now = time.monotonic()
            self._rest_until = now + _REST[due] * (now - begin)
        if update is None:
            return False
        self._show_done(due, update, idle)
        return True

    def _done(self, due: str) -> MapUpdate | None:
        """The update of a piece of work; a failure is reported, and the map continues without it."""
        try:
            update = self._back_end.work()
        except Exception as error:
            said = _said(error).strip()
            problem = f"part of the mapping work failed: {said.splitlines()[-1]}"
            if self._failing.get(due) != problem:
                self._log.error(f"part of the mapping work failed: {said}")
            self._failing[due], self._stale = problem, True
            return None
        self._failing.pop(due, None)
        return update

    def _show_done(self, due: str, update: MapUpdate, idle: bool) -> None:
        """Report finished work: to tracking at once, to viewers of the map when it is worthwhile."""
        self._stale = True
        self._note(update)
        self._keyframes.show(update)
        if due == TAKE:
            snapshots = self._back_end.snapshots()
            self._send(NEWS, self._news(snapshots=snapshots))
            self._move((snapshot.camera, snapshot.w_T_c) for snapshot in snapshots)
        if idle and (due == PREVIEW or not self._session.mapper.backlog):
            self._publish()

    def _publish(self) -> None:
        with self._span("publish map"):
            self._unpublished = not self._map.publish(self._session.mapper, self._stamp_ns)

    def _ship(self, now: float, all_done: bool) -> None:
        """Send trace events to the node's process, so that they survive if this one is killed."""
        if self._trace is None or not (all_done or now - self._shipped > _SHIPPED_S):
            return
        self._shipped, bundle = now, self._trace.take()
        if bundle.events:
            self._send(TRACE, bundle)

    def _has_time(self, due: str, idle: bool, now: float) -> bool:
        """Whether depth may be computed: no image came for a while, or the last depth is long enough ago.

        A preview is cheap: images go first, those to come as well, only if the camera may soon be lost.
        """
        if due == PREVIEW and self._safe:
            return True
        if idle and now - self._asked > _QUIET_S:
            return True
        soon = idle and due != PREVIEW
        return now > self._rest_until + (0.0 if soon else _OVERDUE_S)

    def _wait_or_report(self, idle: bool) -> bool:
        """Nothing is due: report the state if the node lacks it; returns whether work continues in the background."""
        if not idle:
            return False
        if self._stale:
            self._send(NEWS, self._news(fresh=True))
        if time.monotonic() - self._released > _RELEASE_S:
            release_memory()
            self._released = time.monotonic()
        return self._session.mapper.backlog > 0

    # Images

    def take(self, request: KeyframeRequest, frame_id: str, audience: Audience) -> News:
        """Process an image; ``frame_id``: its camera's optical frame."""
        self._hear(audience)
        try:
            with self._span("image"):
                return self._take(request, frame_id)
        finally:
            self._asked = time.monotonic()

    def _take(self, request: KeyframeRequest, frame_id: str) -> News:
        self._safe = request.followed is not None and len(request.followed.ids) >= _PLENTY
        before = self._placed
        try:
            taken = self._back_end.take(request)
        except (InputError, ConfigError) as error:
            return self._news(refused=str(error))
        except Exception as error:  # the node survives any error of the mapper
            return self._news(failed=_said(error))
        update = taken.update
        self._stamp_ns = update.stamp_ns
        self._notice_reset()
        self._note(update, request.frame.image)
        self._keyframes.frames[update.camera] = frame_id
        self._keyframes.show(update)
        snapshots: tuple[MapSnapshot, ...] = () if taken.snapshot is None else (taken.snapshot,)
        if self._placed != before:  # the map was moved: the other cameras are elsewhere in it, too
            snapshots += tuple(other for other in self._back_end.snapshots() if other.camera != update.camera)
        return self._news(update=replace(update, changed=(), removed=()), snapshots=snapshots)

    @property
    def _placed(self) -> tuple[int, bool]:
        """Changes with the map's coordinates and unit."""
        return self._session.mapper.revision, self._session.metric

    def keep(self, poses: Sequence[FollowedPose]) -> None:
        """Keep the poses of images that are not handed over."""
        self._back_end.keep(poses)
        self._map.note_poses()
        self._stale = True

    # Knowledge about the robot

    def know(self, camera: str, calibration: Calibration) -> News:
        """Take a published calibration in. Raises ``Dust3rRosError`` for an invalid one."""
        try:
            self._session.know(camera, calibration)
        except ConfigError as error:
            raise ConfigError(f"the calibration of camera '{camera}' is not used: {error}") from error
        return self._news()

    def place(self, rig: Mapping[str, Array]) -> None:
        """Set the cameras' places on their rig, (4, 4) each, metres. Raises ``Dust3rRosError``."""
        for camera, r_T_c in rig.items():
            self._session.place(camera, r_T_c)

    def set_mapping(self, mapping: bool) -> None:
        """Switch between mapping and localization only. Raises ``Dust3rRosError`` if map_db cannot be opened then."""
        self._session.set_mapping(mapping)
        if mapping and self._unkept:
            fresh = not continues(self._unkept, self._setting.node.map_start)
            self._log.info(keep(self._session, self._setting.mapper, self._unkept, fresh))
            self._unkept = ""

    # Services

    def run(self, job: Callable[..., Any], *arguments: Any) -> Any:
        """Run ``job(session, *arguments)``; returns or raises what it does."""
        with self._span(_name(job)):
            return job(self._session, *arguments)

    def change(self, job: Callable[..., MapChange], *arguments: Any) -> tuple[Any, Exception | None, News]:
        """Run a job that may change the map: returns its answer, its exception and the news afterwards."""
        try:
            with self._span(_name(job)):
                change = job(self._session, *arguments)
        except Exception as error:
            return None, error, self._news()
        self._notice_reset()
        if change.update is not None:
            self._note(change.update)
        return change.answer, None, self._news(snapshots=self._back_end.snapshots(), loaded=change.loaded)

    def show(self, audience: Audience) -> None:
        """Publish what changed of the map, where there are subscribers."""
        self._hear(audience)
        self._publish()
        self._stale |= self._map.problem not in ("", *self._status.problems)

    def close(self) -> None:
        """Close the files. Raises ``OutputError`` when the map cannot be written."""
        self._closed = True
        self._map.close()
        if self._viewer is not None:
            self._viewer.close()
        try:
            self._session.close()
        finally:
            self._ship(time.monotonic(), True)

    def _hear(self, audience: Audience) -> None:
        self._live = audience.live
        for key, topic in self._topics.items():
            topic.listeners = audience.listeners.get(key, 0)

    def _note(self, update: MapUpdate, image: Image | None = None) -> None:
        """Pass an update on to publisher and viewer."""
        self._map.note(update)
        if self._viewer is not None:
            self._viewer.show(update, self._session.mapper, image, metric=self._session.metric)

    def _move(self, places: Iterable[tuple[str, Array]]) -> None:
        """Pass the poses of cameras on to the viewer."""
        if self._viewer is not None:
            cameras = self._session.mapper.cameras
            for camera, w_T_c in places:
                self._viewer.move(camera, w_T_c, cameras[camera])

    def _notice_reset(self) -> None:
        if self._session.resets != self._resets:
            self._resets = self._session.resets
            self._map.forget()
            self._keyframes.forget()
            if self._viewer is not None:
                self._viewer.begin(self._session.mapper.keyframes)
            self._summarised = 0.0

    def _news(self, fresh: bool = False, **more: Any) -> News:
        self._notice_reset()
        now = time.monotonic()
        cameras = self._session.mapper.cameras
        known = cameras.keys() == self._status.cameras.keys()
        self._stale = known and not fresh and now - self._summarised < _SUMMARY_S
        if not self._stale:
            self._summarised = now
            self._status = session_snapshot(self._session, self._setting.mapper, self._setting.node)
            pages = self._session.mapper.pages
            pages.trim()
            self._status = replace(
                self._status,
                back_end_mb=memory_mb(),
                kept_mb=(pages.in_memory_mb, pages.on_disk_mb),
                problems=(
                    *self._status.problems,
                    *filter(None, [pages.problem, self._map.problem]),
                    *dict.fromkeys(self._failing.values()),
                ),
            )
        counts, (waiting, behind_ns) = self._session.mapper.counts, self._session.mapper.depth_backlog
        if self._trace is not None:
            self._trace.count("depth backlog", waiting)
        self._status = replace(
            self._status,
            backlog=self._session.mapper.backlog,
            depth_backlog=waiting,
            depth_lag=1e-9 * behind_ns,
            counts=counts,
            resets=self._session.resets,
        )
        raw = self._session.calibrations.raw_of(cameras)
        return News(self._status, self._session.resets, self._session.metric, cameras=cameras, raw=raw, **more)
