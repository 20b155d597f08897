"""Frames of ROS 1 bags and rosbag2: messages converted, several cameras, companions of their images; without ROS."""

from __future__ import annotations

import heapq
import logging
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property, partial
from itertools import count
from pathlib import Path
from typing import Any, TypeVar

from dust3r_ros.errors import GeometryError, InputError
from dust3r_ros.geometry.rigid import from_quaternion
from dust3r_ros.io.bags.reader import Bag, Message, Unreadable
from dust3r_ros.io.bags.topics import CAMERA_INFO, COMPRESSED, TF, TF_STATIC, BagTopics, info_topic
from dust3r_ros.io.encodings import (
    decode_compressed,
    decode_depth,
    decode_depth_file,
    decode_image,
    decode_mask,
    decode_mask_file,
)
from dust3r_ros.io.frames import FrameSource, Shot
from dust3r_ros.sensors.camera_info import calibration_from, of_images
from dust3r_ros.sensors.gravity_filter import measured
from dust3r_ros.sensors.synchronizer import Synchronizer, SynchronizerSettings
from dust3r_ros.sensors.transform_buffer import TransformBuffer, own_frames, shared_frames
from dust3r_ros.timing import StampDoubts, Stamped
from dust3r_ros.types import Array, Array32, Calibration, Frame, Image

_log = logging.getLogger(__name__)
_MOST_REMARKS = 20
_Read = TypeVar("_Read")


def load_image(message: Message) -> Image:
    """RGB (H, W, 3) of an Image or CompressedImage; raises ``InputError``."""
    m = message.content
    if message.kind == COMPRESSED:
        return decode_compressed(m.format, m.data)
    return decode_image(m.encoding, m.height, m.width, m.step, m.is_bigendian, m.data)


def load_mask(message: Message) -> Image:
    """Mask (H, W) of an Image or CompressedImage; raises ``InputError``."""
    m = message.content
    if message.kind == COMPRESSED:
        return decode_mask_file(m.data)
    return decode_mask(m.encoding, m.height, m.width, m.step, m.is_bigendian, m.data)


def load_depth(message: Message) -> Array32:
    """Depth (h, w), metres, of an Image or CompressedImage; raises ``InputError``."""
    m = message.content
    if message.kind == COMPRESSED:
        return decode_depth_file(m.format, m.data)
    return decode_depth(m.encoding, m.height, m.width, m.step, m.is_bigendian, m.data)


def calibration_of(message: Message, topic: str) -> tuple[Calibration | None, str]:
    """The calibration of the images of ``topic`` in a CameraInfo, None for an uncalibrated camera; and a remark or "".

    In ROS 1 its matrices are capitals.
    """
    m = message.content
    k, d = of_images(topic, *((m.k, m.d, m.p) if hasattr(m, "d") else (m.K, m.D, m.P)))
    roi = (m.roi.x_offset, m.roi.y_offset, m.roi.width, m.roi.height)
    return calibration_from(m.width, m.height, m.distortion_model, d, k, (m.binning_x, m.binning_y), roi)


class MessageReader:
    """Feeds a synchronizer with recorded messages, by topic; logs each kind of problem once."""

    def __init__(
        self, topics: BagTopics, synchronizer: Synchronizer, depth_cameras: Mapping[str, Calibration] | None = None
    ) -> None:
        """``depth_cameras`` are calibrations by depth topic."""
        self._synchronizer = synchronizer
        self._depth_cameras = depth_cameras or {}
        self._masks, self._depths = _by_topic(topics.masks), _by_topic(topics.depths)
        self._odometry, self._imu = topics.odometry, topics.imu
        self._said: set[str] = set()

    def take(self, message: Message) -> None:
        """Take in a message; one topic may serve several cameras."""
        topic = message.topic
        for camera in self._masks.get(topic, ()):
            self._synchronizer.add_mask(camera, message.stamp_ns, partial(load_mask, message))
        for camera in self._depths.get(topic, ()):
            load, calibration = partial(load_depth, message), self._depth_cameras.get(topic)
            self._synchronizer.add_depth(camera, message.stamp_ns, load, message.frame_id, calibration)
        if topic in (TF, TF_STATIC):
            self._take_transforms(message)
        elif topic == self._odometry:
            self._take_odometry(message)
        elif topic == self._imu:
            m = message.content
            acceleration = measured(m.linear_acceleration, m.linear_acceleration_covariance)
            rate = measured(m.angular_velocity, m.angular_velocity_covariance)
            self._synchronizer.add_imu(message.frame_id, message.stamp_ns, acceleration, rate)

    def remark(self, topic: str, remark: str) -> None:
        """Warn, unless the same remark was logged before, apart from digits."""
        kind = f"{topic}: {''.join(letter for letter in remark if not letter.isdigit())}"
        if remark and kind not in self._said and len(self._said) < _MOST_REMARKS:
            self._said.add(kind)
            _log.warning("%s: %s", topic, remark)

    def _take_transforms(self, message: Message) -> None:
        for item in message.content.transforms:
            stamp_ns = item.header.stamp.sec * 10**9 + item.header.stamp.nanosec
            pose = self._pose(message.topic, item.transform.translation, item.transform.rotation)
            if pose is not None:
                parent, child, static = item.header.frame_id, item.child_frame_id, message.topic == TF_STATIC
                self.remark(message.topic, self._synchronizer.transforms.add(parent, child, stamp_ns, pose, static))

    def _take_odometry(self, message: Message) -> None:
        m = message.content
        pose = self._pose(message.topic, m.pose.pose.position, m.pose.pose.orientation)
        if pose is not None:
            remark = self._synchronizer.add_odometry(message.frame_id, m.child_frame_id, message.stamp_ns, pose)
            self.remark(message.topic, remark)

    def _pose(self, topic: str, t: Any, q: Any) -> Array | None:
        try:
            return from_quaternion([t.x, t.y, t.z], [q.x, q.y, q.z, q.w])
        except GeometryError as error:
            self.remark(topic, str(error))
            return None


def _by_topic(by_camera: Mapping[str, str]) -> dict[str, list[str]]:
    """Cameras by topic."""
    cameras: dict[str, list[str]] = {}
    for camera, topic in by_camera.items():
        cameras.setdefault(topic, []).append(camera)
    return cameras


WAIT_NS = 1_000_000_000  # recording time for which an image is held, for companions recorded after it
MOST_HELD = 64  # images, of all cameras
_INFOS = 5  # empty CameraInfo messages after which a camera counts as uncalibrated


@dataclass(frozen=True, order=True)
class _Held:
    """A waiting image; ordered by stamp, then by the order of cameras."""

    stamp_ns: int
    place: int  # of the camera
    number: int
    message: Message = field(compare=False)
    camera: str = field(compare=False)
    frame_id: str = field(compare=False)


class BagSource(FrameSource):
    """The images of a bag's cameras in the order of their stamps, each with its odometry, up, mask and depth.

    Stamps come from the headers; where these are zero, from the time of recording. The bag is read once, from beginning
    to end; an image is held until its companions were read, for at most a second of recording.
    """

    def __init__(self, path: Path, topics: BagTopics) -> None:
        """Raises ``InputError`` for a bag that cannot be opened or lacks a topic."""
        super().__init__(str(path))
        self._bag = Bag(path)
        self.topics = topics.resolved(self._bag)
        self._cameras = dict(zip(self.topics.images, self.topics.cameras, strict=True))
        self._infos = {topic: info_topic(topic) for topic in (*self.topics.images, *self.topics.depths.values())}
        for topic in self.topics.read(self._bag):
            if not self._bag.counts[topic] and topic not in (TF, TF_STATIC):
                self._remark(f"topic '{topic}' has no messages in bag '{path}'")

    def __len__(self) -> int:
        return sum(self._bag.counts[topic] for topic in self.topics.images)

    @property
    def recorded(self) -> Mapping[str, Mapping[str, str]]:
        """Topics by camera and kind."""
        return self.topics.by_camera

    def calibrations(self) -> Mapping[str, Calibration]:
        """Calibrations from the CameraInfo of each image topic; uncalibrated cameras are left out."""
        known = self._calibrations()
        return {camera: known[topic] for topic, camera in self._cameras.items() if topic in known}

    def extrinsics(self) -> Mapping[str, Array]:
        """From static transforms, for two cameras or more; those not connected to the first are left out."""
        if len(self._cameras) < 2:
            return {}
        transforms, frames = self._static(), self._optical_frames
        first = frames.get(self.topics.cameras[0], "")
        found = {camera: transforms.fixed(first, frame) for camera, frame in frames.items()}
        known = {camera: r_T_c for camera, r_T_c in found.items() if r_T_c is not None}
        return known if len(known) > 1 else {}

    @cached_property
    def _optical_frames(self) -> dict[str, str]:
        """The frame of each camera, if there are several; ``remarks`` says for which it is not that of its images."""
        if len(self._cameras) < 2:
            return {}
        first = {self._cameras[message.topic]: message.frame_id for message in self._bag.first(self.topics.images)}
        said = {camera: first[camera] for camera in self.topics.cameras if camera in first}
        self.remarks += tuple(shared_frames(said))
        return own_frames(said)

    def shots(self) -> Iterator[Shot | InputError]:
        """Images, masks and depth in the order of recording."""
        of: dict[str, tuple[str, str, Callable[[Message], Any]]] = {}
        of |= {topic: ("image", camera, load_image) for topic, camera in self._cameras.items()}
        of |= {topic: ("mask", camera, load_mask) for camera, topic in self.topics.masks.items()}
        of |= {topic: ("depth", camera, load_depth) for camera, topic in self.topics.depths.items()}
        for message in self._in_time(self._bag.messages(of)):
            if isinstance(message, InputError):
                yield message
            elif isinstance(message, Unreadable):
                yield InputError(f"topic '{message.topic}': {message.reason}")
            else:
                kind, camera, load = of[message.topic]
                yield Shot(kind, camera, message.stamp_ns, partial(load, message))

    def _frames(self) -> Iterator[Frame | InputError]:
        settings = self.topics.settings
        synchronizer = Synchronizer(settings, TransformBuffer() if settings.none else self._static())
        calibrations = self._calibrations() if self.topics.depths else {}
        message_reader = MessageReader(self.topics, synchronizer, calibrations)
        held: list[_Held] = []
        number = count()
        newest = dict.fromkeys(self._cameras.values(), -1)
        frames = self._optical_frames
        for message in self._in_time(self._readable(message_reader)):
            if isinstance(message, InputError):
                yield message
                continue
            camera = self._cameras.get(message.topic)
            if camera is not None:
                place = self.topics.cameras.index(camera)
                frame_id = frames.get(camera, message.frame_id)
                heapq.heappush(held, _Held(message.stamp_ns, place, next(number), message, camera, frame_id))
                newest[camera] = max(newest[camera], message.stamp_ns)
            else:
                message_reader.take(message)
            while held and self._may_go(held, newest, synchronizer, message.bag_ns):
                yield from self._complete(heapq.heappop(held), synchronizer)
        while held:
            yield from self._complete(heapq.heappop(held), synchronizer)

    def _in_time(self, messages: Iterable[_Read]) -> Iterator[_Read | InputError]:
        """The same; images whose stamps cannot be right are errors. What is out of order is sorted later."""
        doubts = StampDoubts(WAIT_NS)
        for message in messages:
            if not isinstance(message, Message) or message.topic not in self._cameras:
                yield message
                continue
            image = Stamped(self._cameras[message.topic], message.stamp_ns, message, 1e-9 * message.bag_ns)
            yield from (InputError(come.odd) if come.odd else come.image for come in doubts.image(image))
        yield from (come.image for come in doubts.rest())

    def _readable(self, message_reader: MessageReader) -> Iterator[Message | InputError]:
        """The bag's messages; an unreadable companion gives a remark, an unreadable image an error."""
        for message in self._bag.messages(self.topics.read(self._bag)):
            if not isinstance(message, Unreadable):
                yield message
            elif message.rest or message.topic in self._cameras:
                yield InputError(f"topic '{message.topic}': {message.reason}")
            else:
                message_reader.remark(message.topic, message.reason)

    def _may_go(self, held: list[_Held], newest: Mapping[str, int], synchronizer: Synchronizer, now_ns: int) -> bool:
        """Whether the first held image need not wait any longer."""
        first = held[0]
        if now_ns - first.message.bag_ns >= WAIT_NS or len(held) > MOST_HELD:
            return True
        in_turn = all(stamp_ns >= first.stamp_ns for stamp_ns in newest.values())
        return in_turn and synchronizer.ready(first.camera, first.frame_id, first.stamp_ns)

    def _complete(self, held: _Held, synchronizer: Synchronizer) -> Iterator[Frame | InputError]:
        if not self.wants(held.stamp_ns):
            return
        try:
            image = self.image(held.camera, partial(load_image, held.message))
        except InputError as error:
            yield error
            return
        frame = Frame(held.stamp_ns, held.camera, image)
        completed = synchronizer.complete(frame, held.frame_id, held.message.frame_id)
        if completed.missing:
            self.incomplete += 1
            self.lacking = self.lacking or completed.missing[0]
        yield completed.frame

    def _static(self) -> TransformBuffer:
        """All static transforms of the bag: those recorded late hold from the start, too."""
        synchronizer = Synchronizer(SynchronizerSettings(), TransformBuffer())
        message_reader = MessageReader(BagTopics(), synchronizer)
        for message in self._bag.messages([TF_STATIC]):
            if isinstance(message, Message):
                message_reader.take(message)
        return synchronizer.transforms

    def _calibrations(self) -> dict[str, Calibration]:
        """Calibrations by image or depth topic."""
        infos = {info for info in self._infos.values() if self._bag.kinds.get(info) == CAMERA_INFO}
        known: dict[str, Calibration] = {}
        for message in self._bag.first(infos, _INFOS):
            for topic in [topic for topic, info in self._infos.items() if info == message.topic]:
                calibration, remark = calibration_of(message, topic)
                if calibration is not None:
                    known.setdefault(topic, calibration)
                self._remark(remark and f"{message.topic}: {remark}; the camera counts as uncalibrated")
        return known

    def _remark(self, words: str) -> None:
        """Add to the remarks, if it is none of them yet."""
        if words and words not in self.remarks:
            self.remarks += (words,)
