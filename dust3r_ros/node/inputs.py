"""The node's inputs: images with their companions, odometry, IMU. Turns them into arrivals, in order."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from functools import partial
from threading import RLock
from typing import Any

import numpy as np
from nav_msgs.msg import Odometry
from rclpy.clock import Clock, ClockType
from rclpy.lifecycle import LifecycleNode
from sensor_msgs.msg import CameraInfo, CompressedImage, Imu
from sensor_msgs.msg import Image as ImageMessage

from dust3r_ros.config import NodeConfig
from dust3r_ros.errors import ConfigError, GeometryError
from dust3r_ros.node.assembler import Ask, Assembler, Held
from dust3r_ros.node.conversions import Arrival, depth_of, mask_of, pose_matrix, stamp_to_ns
from dust3r_ros.node.interface import IMU, ODOMETRY, SENSOR, Quality
from dust3r_ros.node.jobs import calibration_from
from dust3r_ros.node.qos import FollowingSubscription, full_topic, image_profile, profile_of, why_silent
from dust3r_ros.node.tf_listener import TfListener
from dust3r_ros.node.topics import CameraTopics, TopicHealth, TopicMonitor, is_compressed
from dust3r_ros.sensors.gravity_filter import measured
from dust3r_ros.sensors.synchronizer import Synchronizer, SynchronizerSettings
from dust3r_ros.sensors.transform_buffer import (
    TransformBuffer,
    Unavailable,
    default_frame,
    own_frames,
    shared_frames,
)
from dust3r_ros.timing import StampDoubts, Stamped
from dust3r_ros.types import Array, Calibration

# After this many masks or depth images, and as many images, in a row that do not belong together, the node says so.
_UNUSED = 30


class SynchronizerInputs:
    """Takes messages in and completes images with them. ``take_…`` return a complaint or "".

    ``tf`` holds the transforms of other nodes, ``frame_of`` gives the optical frame of a camera's message.
    """

    def __init__(
        self,
        config: NodeConfig,
        cameras: Sequence[CameraTopics],
        tf: TransformBuffer,
        frame_of: Callable[[str, Any], str],
    ) -> None:
        self._config, self._tf, self._frame_of = config, tf, frame_of
        self._depth_cameras: dict[str, Calibration] = {}
        # Masks and depth that came, and images without, since one had its image; by kind and camera
        self._came: Counter[tuple[str, str]] = Counter()
        self._without: Counter[tuple[str, str]] = Counter()
        self._synchronizer = Synchronizer(
            SynchronizerSettings(
                config.odom_frame,
                bool(config.odom_topic),
                bool(config.imu_topic),
                frozenset(camera.name for camera in cameras if camera.mask),
                frozenset(camera.name for camera in cameras if camera.depth),
                turning=bool(config.imu_topic) and config.bridge_time > 0,
            ),
            tf,
        )

    def asked(self) -> dict[str, Ask]:
        """The companions looked up for each image, for the assembler."""
        if self._config.odom_frame or self._config.odom_topic:
            return {
                "odometry": lambda held: _there(
                    self._synchronizer.odometry(self._frame_of(held.camera, held.image), held.stamp_ns)
                )
            }
        if self._config.base_frame:
            return {"base": lambda held: _there(self._base(held))}
        return {}

    def arrival(self, held: Held) -> Arrival:
        """An image with its available companions."""
        frame_id = self._frame_of(held.camera, held.image)
        match = self._synchronizer.match(held.camera, held.stamp_ns, frame_id, held.image.header.frame_id)
        anchor: Array | Unavailable | None = None
        if self._config.odom_frame:
            anchor = match.o_T_c
        elif self._config.base_frame:
            anchor = self._base(held)
        # Missing masks and depth are counted in diagnostics; a log line per image would be too much.
        came = {kind: None for kind in ("mask", "depth") if isinstance(getattr(match, kind), Unavailable)}
        self._count_without(held.camera, came)
        anchor = None if isinstance(anchor, Unavailable) else anchor
        turning = partial(self._synchronizer.turned, frame_id) if self._synchronizer.settings.turning else None
        return Arrival(held.camera, held.stamp_ns, frame_id, held.image, replace(match, **came), anchor, turning)

    def take_mask(self, camera: str, message: Any) -> str:
        """Take in a mask for an image of ``camera``."""
        self._synchronizer.add_mask(camera, stamp_to_ns(message.header.stamp), lambda: mask_of(message))
        return self._said_unused("mask", camera)

    def take_depth(self, camera: str, message: Any) -> str:
        """Take in depth for an image of ``camera``."""
        self._synchronizer.add_depth(
            camera,
            stamp_to_ns(message.header.stamp),
            lambda: depth_of(message),
            message.header.frame_id,
            self._depth_cameras.get(camera),
        )
        return self._said_unused("depth", camera)

    def take_depth_info(self, camera: CameraTopics, message: CameraInfo) -> str:
        """Take in the calibration of the separate depth camera of ``camera``."""
        calibration, remark = calibration_from(message, camera.depth_info, camera.depth)
        if calibration is not None:
            self._depth_cameras[camera.name] = calibration
        return remark

    def take_odometry(self, message: Odometry) -> str:
        """Take in odometry that is not on TF."""
        topic, wanted, frame = self._config.odom_topic, self._config.odom_frame, message.header.frame_id
        if wanted and frame.lstrip("/") != wanted:
            return f"{topic} is not used: its frame is '{frame}', but odom_frame is '{wanted}'"
        try:
            o_T_b = pose_matrix(message.pose.pose)
        except GeometryError as error:
            return f"{topic}: {error}"
        stamp_ns = stamp_to_ns(message.header.stamp)
        remark = self._synchronizer.add_odometry(frame, message.child_frame_id, stamp_ns, o_T_b)
        return f"{topic}: {remark}" if remark else ""

    def take_imu(self, message: Imu) -> str:
        """Take in acceleration and angular velocity; for bridging, a gyroscope alone will do."""
        acceleration = measured(message.linear_acceleration, message.linear_acceleration_covariance)
        rate = measured(message.angular_velocity, message.angular_velocity_covariance)
        if acceleration is None and (rate is None or not self._synchronizer.settings.turning):
            return f"{self._config.imu_topic} has no acceleration; it is not used"
        stamp_ns = stamp_to_ns(message.header.stamp)
        self._synchronizer.add_imu(message.header.frame_id.lstrip("/"), stamp_ns, acceleration, rate)
        return ""

    def _count_without(self, camera: str, lacking: Collection[str]) -> None:
        for key in (("mask", camera), ("depth", camera)):
            self._without[key] += 1
            if key[0] not in lacking:
                self._without[key] = self._came[key] = 0

    def _said_unused(self, kind: str, camera: str) -> str:
        self._came[kind, camera] += 1
        if min(self._came[kind, camera], self._without[kind, camera]) <= _UNUSED:
            return ""
        near_ms = self._synchronizer.settings.tolerance_ns // 1_000_000
        return f"{kind} of camera '{camera}' is not used: no stamp of an image is within {near_ms} ms of its stamps"

    def _base(self, held: Held) -> Array | Unavailable:
        return self._tf.lookup(self._config.base_frame, self._frame_of(held.camera, held.image), held.stamp_ns)


def _there(found: Array | Unavailable | None) -> bool | None:
    """The assembler's ``Ask``: True: available, False: may come, None: will not."""
    if isinstance(found, Unavailable):
        return False if found.later else None
    return True


# How often waiting images are checked (s).
TICK_S = 0.01
# How often publishers and losses are checked (s).
WATCH_S = 1.0
# Without images for this long (s), the log says why.
EXPLAIN_SILENT_S = 5.0
# After this many images lost in transport, the log says so.
EXPLAIN_LOST = 10
# Minimum time between repeats of a complaint in the log (s).
COMPLAIN_S = 10.0


class Inputs:
    """Subscriptions for all cameras and their images' companions.

    ``on_arrival`` gets every image once its companions are there or overdue, ``on_calibration`` every CameraInfo with
    a new calibration; both in the executor's thread. ``tf`` must be subscribed already.
    """

    def __init__(
        self,
        node: LifecycleNode,
        config: NodeConfig,
        cameras: Sequence[CameraTopics],
        tf: TfListener,
        on_arrival: Callable[[Arrival], None],
        on_calibration: Callable[[str, Calibration], None],
    ) -> None:
        self._node, self._config, self._tf = node, config, tf
        self._cameras = {camera.name: camera for camera in cameras}
        self._on_arrival, self._on_calibration = on_arrival, on_calibration
        self._synchronizer = SynchronizerInputs(config, cameras, tf.buffer, self._frame_id)
        self._assembler = Assembler(
            {c.name: [kind for kind in ("mask", "depth") if getattr(c, kind)] for c in cameras},
            self._synchronizer.asked(),
            config.companion_wait,
            in_order=config.backlog == "every",  # live, poses of each camera are published at once
        )
        self._doubts = StampDoubts()
        self._frames: dict[str, str] = {}  # of the cameras, as their images have it
        self._known: dict[str, Calibration] = {}
        self._monitors: dict[str, TopicMonitor] = {}
        self._kinds: dict[str, type] = {}  # of messages, by topic
        self._lock = RLock()
        self._images: dict[str, TopicMonitor] = {}  # by camera
        self._since = 0.0  # time of subscription
        self._explained: set[str] = set()  # cameras that lose images, and problems
        self._subscriptions: list[FollowingSubscription] = []
        self._timers: list[Any] = []

    # Lifecycle

    def subscribe(self) -> None:
        """Subscribe to everything. Raises ``ConfigError`` for invalid QoS overrides; then nothing is subscribed."""
        try:
            self._subscribe_all()
        except BaseException:
            self.unsubscribe()
            raise

    def _subscribe_all(self) -> None:
        self._since = time.monotonic()
        for camera in self._cameras.values():
            self._subscribe_camera(camera)
        for kind, topic, what, take, quality in (
            (Odometry, self._config.odom_topic, "odometry", self._synchronizer.take_odometry, ODOMETRY),
            (Imu, self._config.imu_topic, "imu", self._synchronizer.take_imu, IMU),
        ):
            if topic:
                self._listen(kind, full_topic(self._node, topic), what, "", take, quality)
        steady = Clock(clock_type=ClockType.STEADY_TIME)
        self._timers.append(self._node.create_timer(WATCH_S, self._watch, clock=steady))
        if self._assembler.may_wait:
            self._timers.append(self._node.create_timer(TICK_S, self._tick, clock=steady))

    def unsubscribe(self) -> None:
        """Unsubscribe and discard the images held."""
        for timer in self._timers:
            self._node.destroy_timer(timer)
        self._timers.clear()
        for subscription in self._subscriptions:
            subscription.close()
        self._subscriptions.clear()
        self._begin(forget=False)

    def restart(self) -> None:
        """Discard the images held and the count of lost ones; calibrations are kept."""
        self._begin(forget=True)

    def _begin(self, forget: bool) -> None:
        with self._lock:
            self._doubts.clear()
            self._assembler.clear()
            for monitor in self._images.values():
                monitor.restart(forget=forget)

    # Queries

    def health(self) -> tuple[TopicHealth, ...]:
        """The health of every input."""
        now = time.monotonic()
        return tuple(monitor.health(now) for monitor in self._monitors.values())

    @property
    def incomplete(self) -> int:
        """Number of companions so far that did not arrive in time."""
        return sum(self._assembler.incomplete.values())

    def rig(self) -> Mapping[str, Array]:
        """``first_T_camera`` (4, 4), metres, by name: the first camera and those with a static transform to it.

        Empty if there are none, or while unknown.
        """
        names = [name for name in self._cameras if name in self._frames]
        if len(names) < 2 or names[0] != next(iter(self._cameras)):
            return {}
        first, *others = map(self.optical_frame, names)
        fixed = {name: self._tf.buffer.fixed(first, frame) for name, frame in zip(names[1:], others, strict=True)}
        found = {name: pose for name, pose in fixed.items() if pose is not None}
        return {names[0]: np.eye(4), **found} if found else {}

    def optical_frame(self, camera: str) -> str:
        """The optical frame of a camera; "" before its first image."""
        return own_frames(self._said()).get(camera, "")

    @property
    def problems(self) -> tuple[str, ...]:
        """Which cameras share a frame, a sentence each."""
        return tuple(f"{sentence}: set frame_id in its driver" for sentence in shared_frames(self._said()))

    # Subscriptions

    def _subscribe_camera(self, camera: CameraTopics) -> None:
        name, synchronizer = camera.name, self._synchronizer
        take_image = partial(self._take_image, name)
        self._images[name] = self._listen(_kind(camera.compressed), camera.image, "image", name, take_image)
        self._listen(CameraInfo, camera.camera_info, "camera_info", name, partial(self._take_info, name), SENSOR)
        for what, topic, take in (
            ("mask", camera.mask, synchronizer.take_mask),
            ("depth", camera.depth, synchronizer.take_depth),
        ):
            if topic:
                self._listen(
                    _kind(is_compressed(topic)), topic, what, name, partial(self._take_companion, what, name, take)
                )
        if camera.depth:
            take_info = partial(synchronizer.take_depth_info, camera)
            self._listen(CameraInfo, camera.depth_info, "depth_info", name, take_info, SENSOR)

    def _listen(
        self,
        kind: type,
        topic: str,
        what: str,
        camera: str,
        take: Callable[[Any], str],
        quality: Quality | None = None,
    ) -> TopicMonitor:
        """Subscribe with a quality of service (None: that of images); ``take`` returns complaints."""
        known = self._kinds.setdefault(topic, kind)
        if known is not kind:
            raise ConfigError(f"topic '{topic}' is given for {what}, {kind.__name__}, but also for {known.__name__}")
        monitor = self._monitors.setdefault(f"{topic} {what} {camera}", TopicMonitor(topic, what, camera))

        def heard(message: Any) -> None:
            silence = monitor.heard(time.monotonic())
            if silence is not None:
                self._node.get_logger().info(f"{topic} is back after {silence:.1f} s")
            with self._lock:
                complaint = take(message)
            if complaint:
                monitor.refuse(complaint)
                self._node.get_logger().warning(complaint, throttle_duration_sec=COMPLAIN_S)

        profile = profile_of(quality) if quality else image_profile(self._config)
        self._subscriptions.append(FollowingSubscription(self._node, kind, topic, heard, profile))
        return monitor

    def _watch(self) -> None:
        """Adapt to publishers that came or went; log why images are missing or lost."""
        for subscription in self._subscriptions:
            subscription.follow()
        self._explain_silence(time.monotonic())
        for problem in set(self.problems) - self._explained:
            self._explained.add(problem)
            self._node.get_logger().warning(problem)
        for camera, monitor in self._images.items():
            if camera in self._explained or monitor.lost < EXPLAIN_LOST:
                continue
            self._explained.add(camera)
            self._node.get_logger().warning(
                f"{100 * monitor.lost_share:.0f} % of the images on {monitor.topic} do not arrive, judging by stamps: a"
                " driver that publishes reliably, larger buffers or compressed images help; see"
                " 'Images that get lost' in docs/ros.md"
            )

    def _explain_silence(self, now: float) -> None:
        """Log why no image arrives, whenever the reason changes."""
        subscriptions = {subscription.topic: subscription for subscription in self._subscriptions}
        for monitor in self._images.values():
            silent_s = monitor.health(now).silent_s
            silent_s = now - self._since if silent_s is None else min(silent_s, now - self._since)
            if silent_s < EXPLAIN_SILENT_S:
                continue
            heard = subscriptions[monitor.topic]
            why = why_silent(self._node, monitor.topic, heard.type_name, heard.reliability)
            if why != monitor.why:
                monitor.why = why
                self._node.get_logger().warning(f"no image on {monitor.topic} for {silent_s:.0f} s: {why}")

    # Messages

    def _take_image(self, camera: str, message: Any) -> str:
        stamp_ns = stamp_to_ns(message.header.stamp)
        self._pass_on(self._doubts.image(Stamped(camera, stamp_ns, message, time.monotonic())))
        return ""

    def _pass_on(self, images: Sequence[Stamped]) -> None:
        for come in images:
            if come.odd:
                self._on_arrival(Arrival(come.camera, come.stamp_ns, "", come.image, odd=come.odd))
                continue
            self._frames[come.camera] = self._named(come.camera, come.image)
            self._images[come.camera].stamped(come.stamp_ns)
            self._release(self._assembler.image(come.camera, come.stamp_ns, come.image, come.arrived))

    def _take_companion(self, kind: str, camera: str, take: Callable[[str, Any], str], message: Any) -> str:
        complaint = take(camera, message)
        stamp_ns = stamp_to_ns(message.header.stamp)
        self._release(self._assembler.companion(kind, camera, stamp_ns, time.monotonic()))
        return complaint

    def _take_info(self, camera: str, message: CameraInfo) -> str:
        topics = self._cameras[camera]
        calibration, remark = calibration_from(message, topics.camera_info, topics.image)
        if calibration is not None and self._known.get(camera) != calibration:
            self._known[camera] = calibration
            self._on_calibration(camera, calibration)
        return remark

    def _tick(self) -> None:
        with self._lock:
            if self._assembler.waiting:
                self._release(self._assembler.tick(time.monotonic()))

    def _release(self, ready: Sequence[Held]) -> None:
        for held in ready:
            self._on_arrival(self._synchronizer.arrival(held))

    def _frame_id(self, camera: str, message: Any) -> str:
        return own_frames({**self._said(), camera: self._named(camera, message)})[camera]

    def _named(self, camera: str, message: Any) -> str:
        return str(self._config.camera_frame or message.header.frame_id.lstrip("/") or default_frame(camera))

    def _said(self) -> dict[str, str]:
        """The frames that images have, as far as known, in the order of the cameras."""
        known = dict(self._frames)
        return {camera: known[camera] for camera in self._cameras if camera in known}


def _kind(compressed: bool) -> type:
    return CompressedImage if compressed else ImageMessage
