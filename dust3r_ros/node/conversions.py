"""Converts messages to our types and back. Stamps stay integers, images and clouds are copied at most once."""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from time import perf_counter

import numpy as np
from builtin_interfaces.msg import Time
from geometry_msgs.msg import Point, Pose, PoseStamped, PoseWithCovarianceStamped, TransformStamped
from nav_msgs.msg import Path
from numpy.typing import NDArray
from sensor_msgs.msg import CameraInfo, CompressedImage, PointCloud2, PointField
from sensor_msgs.msg import Image as ImageMessage
from std_msgs.msg import ColorRGBA, Header
from visualization_msgs.msg import Marker, MarkerArray

from dust3r_ros.cloud.cloud import Cloud
from dust3r_ros.errors import InputError
from dust3r_ros.geometry.pinhole import center_of
from dust3r_ros.geometry.rigid import from_quaternion, quaternion
from dust3r_ros.io.encodings import (
    decode_compressed,
    decode_depth,
    decode_depth_file,
    decode_image,
    decode_mask,
    decode_mask_file,
)
from dust3r_ros.sensors.gravity_filter import Turning
from dust3r_ros.sensors.synchronizer import Match
from dust3r_ros.types import Array, Array32, Calibration, Frame, Image, Keyframe, StampedPose

# One point of a cloud message. rgb is 0x00RRGGBB, named a float32 as RViz and PCL expect it.
POINT = np.dtype([("x", "<f4"), ("y", "<f4"), ("z", "<f4"), ("rgb", "<u4"), ("confidence", "<f4")])
FIELDS = [
    PointField(name=name, offset=4 * place, datatype=PointField.FLOAT32, count=1)
    for place, name in enumerate(("x", "y", "z", "rgb", "confidence"))
]

# A path is thinned to about this many poses, so that a long run costs no more than a short one.


def stamp_to_ns(stamp: Time) -> int:
    """The stamp in nanoseconds, exact."""
    return int(stamp.sec) * 1_000_000_000 + int(stamp.nanosec)


def ns_to_stamp(stamp_ns: int) -> Time:
    """The message for a stamp in nanoseconds, exact."""
    sec, nanosec = divmod(stamp_ns, 1_000_000_000)
    return Time(sec=sec, nanosec=nanosec)


def header(stamp_ns: int, frame: str) -> Header:
    """A header with stamp and frame."""
    return Header(stamp=ns_to_stamp(stamp_ns), frame_id=frame)


def image_of(message: ImageMessage | CompressedImage) -> Image:
    """RGB uint8 (H, W, 3); raises ``InputError`` for an image that is empty, damaged or of an unknown encoding."""
    if isinstance(message, CompressedImage):
        return decode_compressed(message.format, memoryview(message.data))
    return decode_image(
        message.encoding, message.height, message.width, message.step, message.is_bigendian, memoryview(message.data)
    )


def depth_message(keyframe: Keyframe, frame: str) -> ImageMessage:
    """The depth of a keyframe as 32FC1 at the working resolution, NaN where there is none (REP 118)."""
    height, width = keyframe.depth.shape
    depth = np.where(keyframe.depth > 0, keyframe.depth, np.nan).astype("<f4")
    message = ImageMessage(
        header=header(keyframe.stamp_ns, frame), height=height, width=width, encoding="32FC1", step=4 * width
    )
    message.data = array("B", depth.tobytes())
    return message


def image_message(image: Image, stamp_ns: int, frame: str) -> ImageMessage:
    """An rgb8 message of RGB uint8 (H, W, 3)."""
    height, width = image.shape[:2]
    message = ImageMessage(header=header(stamp_ns, frame), height=height, width=width, encoding="rgb8", step=3 * width)
    message.data = array("B", image.tobytes())
    return message


def keyframe_image_message(keyframe: Keyframe, frame: str) -> ImageMessage:
    """The image of a keyframe, at the working resolution."""
    return image_message(keyframe.image, keyframe.stamp_ns, frame)


def keyframe_info_message(keyframe: Keyframe, frame: str) -> CameraInfo:
    """The pinhole of a keyframe's image and depth."""
    (height, width), focal = keyframe.depth.shape, keyframe.focal
    pinhole = Calibration(width, height, focal, focal, *center_of(height, width), "plumb_bob", ())
    return camera_info_message(pinhole, keyframe.stamp_ns, frame)


def pack(cloud: Cloud) -> NDArray[np.void]:
    """The points of a cloud in the layout of a message, (N,) of ``POINT``."""
    packed = np.empty(len(cloud), POINT)
    packed["x"], packed["y"], packed["z"] = cloud.points.T
    red, green, blue = cloud.colors.astype(np.uint32).T
    packed["rgb"] = (red << 16) | (green << 8) | blue
    packed["confidence"] = cloud.confidence
    return packed


def cloud_message(parts: Sequence[NDArray[np.void]], stamp_ns: int, frame: str) -> PointCloud2:
    """One unordered cloud of packed parts; the points are copied once, into the message."""
    count = sum(len(part) for part in parts)
    data = array("B", bytes(1)) * (count * POINT.itemsize)
    if count:
        np.concatenate(parts, out=np.frombuffer(data, POINT))
    return points_message(data, FIELDS, POINT, stamp_ns, frame, is_dense=True)


def points_message(
    data: array[int],
    fields: list[PointField],
    point: np.dtype[np.void],
    stamp_ns: int,
    frame: str,
    is_dense: bool = True,
) -> PointCloud2:
    """One unordered cloud with the bytes of all its points, each as ``fields`` and ``point`` say."""
    message = PointCloud2(
        header=header(stamp_ns, frame),
        height=1,
        width=len(data) // point.itemsize,
        fields=fields,
        is_bigendian=False,
        point_step=point.itemsize,
        row_step=len(data),
        is_dense=is_dense,
    )
    message.data = data
    return message


def camera_info_message(raw: Calibration, stamp_ns: int, frame: str) -> CameraInfo:
    """The raw camera at native resolution: K, distortion (plumb_bob zeros without one), R = 1, P = [K | 0].

    With this P, image_proc rectifies to a pinhole with the same focal lengths and principal point.
    """
    K = np.array([[raw.fx, 0.0, raw.cx], [0.0, raw.fy, raw.cy], [0.0, 0.0, 1.0]])
    return CameraInfo(
        header=header(stamp_ns, frame),
        width=raw.width,
        height=raw.height,
        distortion_model=raw.model if raw.coefficients else "plumb_bob",
        d=[float(value) for value in raw.coefficients or (0.0,) * 5],
        k=K.ravel().tolist(),
        r=np.eye(3).ravel().tolist(),
        p=np.hstack([K, np.zeros((3, 1))]).ravel().tolist(),
    )


def pose_message(w_T_c: Array) -> Pose:
    """The message of a pose (4, 4)."""
    message = Pose()
    message.position.x, message.position.y, message.position.z = w_T_c[:3, 3].tolist()
    q = message.orientation
    q.x, q.y, q.z, q.w = quaternion(w_T_c[:3, :3]).tolist()
    return message


def pose_matrix(message: Pose) -> Array:
    """The pose (4, 4) of a message; raises ``GeometryError`` for a quaternion of no length."""
    p, q = message.position, message.orientation
    return from_quaternion((p.x, p.y, p.z), (q.x, q.y, q.z, q.w))


def pose_with_covariance(
    w_T_c: Array, covariance: Array | None, stamp_ns: int, frame: str
) -> PoseWithCovarianceStamped:
    """A pose with its covariance.

    ``covariance`` (6, 6) is in the camera's axes, as in ``MapUpdate``; the message uses the axes of ``frame``. Zeros if
    unknown.
    """
    message = PoseWithCovarianceStamped(header=header(stamp_ns, frame))
    message.pose.pose = pose_message(w_T_c)
    if covariance is not None:
        turn = np.zeros((6, 6))
        turn[:3, :3] = turn[3:, 3:] = w_T_c[:3, :3]
        message.pose.covariance = (turn @ covariance @ turn.T).ravel().tolist()
    return message


def transform_message(w_T_c: Array, stamp_ns: int, parent: str, child: str) -> TransformStamped:
    """The transform parent -> child of a camera at ``w_T_c``."""
    message = TransformStamped(header=header(stamp_ns, parent), child_frame_id=child)
    pose = pose_message(w_T_c)
    translation = message.transform.translation
    translation.x, translation.y, translation.z = pose.position.x, pose.position.y, pose.position.z
    message.transform.rotation = pose.orientation
    return message


def path_message(trajectory: Sequence[StampedPose], stamp_ns: int, frame: str) -> Path:
    """The path so far."""
    poses = [PoseStamped(header=header(item.stamp_ns, frame), pose=pose_message(item.w_T_c)) for item in trajectory]
    return Path(header=header(stamp_ns, frame), poses=poses)


def graph_markers(
    places: Mapping[int, Array], edges: Iterable[tuple[int, int, float]], stamp_ns: int, frame: str, size: float
) -> MarkerArray:
    """Keyframes at ``places`` (3,) as spheres with numbers and pairs as lines; the greener, the higher the weight.

    ``size`` (map units) is a sphere's diameter. The first marker deletes those of the last message.
    """
    centers = {index: Point(x=x, y=y, z=z) for index, place in places.items() for x, y, z in [place.tolist()]}
    known = [edge for edge in edges if edge[0] in centers and edge[1] in centers]
    top = max((weight for _, _, weight in known), default=0.0) or 1.0
    nodes = _marker(0, Marker.SPHERE_LIST, stamp_ns, frame, size)
    nodes.points = list(centers.values())
    lines = _marker(1, Marker.LINE_LIST, stamp_ns, frame, size / 5)
    for first, second, weight in known:
        share = float(np.clip(weight / top, 0.0, 1.0))
        lines.points += [centers[first], centers[second]]
        lines.colors += [ColorRGBA(r=1.0 - share, g=share, b=0.1, a=0.8)] * 2
    old = Marker(header=nodes.header, action=Marker.DELETEALL)
    return MarkerArray(markers=[old, nodes, lines, *_numbers(centers, stamp_ns, frame, size)])


_NUMBERS = 100  # more could not be read, and would cost more than the graph itself


def _numbers(centers: Mapping[int, Point], stamp_ns: int, frame: str, size: float) -> Iterator[Marker]:
    """The numbers of keyframes, above their spheres; in a large map, those of every n-th."""
    for index in sorted(centers)[:: len(centers) // _NUMBERS + 1]:
        marker = _marker(index, Marker.TEXT_VIEW_FACING, stamp_ns, frame, size)
        marker.ns, marker.text = "numbers", str(index)
        at = centers[index]
        marker.pose.position = Point(x=at.x, y=at.y, z=at.z + size)
        marker.color = ColorRGBA(r=1.0, g=1.0, b=1.0, a=0.9)
        yield marker


def _marker(number: int, kind: int, stamp_ns: int, frame: str, size: float) -> Marker:
    marker = Marker(header=header(stamp_ns, frame), ns="pair_graph", id=number, type=kind, action=Marker.ADD)
    marker.pose.orientation.w = 1.0
    marker.scale.x = marker.scale.y = marker.scale.z = size
    marker.color = ColorRGBA(r=0.1, g=0.5, b=1.0, a=0.9)
    return marker


def text_marker(text: str, frame: str) -> Marker:
    """``text`` above a camera, in its optical ``frame`` at the latest transform; sized for a new map."""
    marker = _marker(0, Marker.TEXT_VIEW_FACING, 0, frame, 0.06)
    marker.ns, marker.text = "status", text
    marker.pose.position.y = -0.2
    marker.color = ColorRGBA(r=1.0, g=1.0, b=1.0, a=0.9)
    return marker


@dataclass(frozen=True, eq=False)
class Arrival:
    """One image of the named camera, as received, and its companions.

    ``frame_id``: the camera's optical frame. ``anchor_T_c`` (4, 4): the camera's pose in the frame whose parent is the
    map (odom_frame or base_frame), None if unknown. ``turning``: its axes by the gyroscope. ``at``: arrival time by
    ``perf_counter`` (s). ``odd``: why it cannot be used, or "".
    """

    camera: str
    stamp_ns: int
    frame_id: str
    image: ImageMessage | CompressedImage
    match: Match = field(default_factory=Match)
    anchor_T_c: Array | None = None
    turning: Turning | None = None
    at: float = field(default_factory=perf_counter)
    odd: str = ""

    @property
    def bytes(self) -> int:
        """Approximate memory use: mask and depth count as an image each."""
        parts = 1 + (self.match.mask is not None) + (self.match.depth is not None)
        return parts * len(self.image.data)


def frame_of(arrival: Arrival) -> tuple[Frame, tuple[str, ...]]:
    """The frame, and what is missing or unusable, a sentence each.

    Raises ``InputError`` for an image that is odd, empty, damaged or of an unknown encoding.
    """
    if arrival.odd:
        raise InputError(arrival.odd)
    completed = arrival.match.onto(Frame(arrival.stamp_ns, arrival.camera, image_of(arrival.image)))
    return completed.frame, completed.missing


def mask_of(message: ImageMessage | CompressedImage) -> Image:
    """(H, W) uint8, non-zero pixels are ignored; raises ``InputError``."""
    if isinstance(message, CompressedImage):
        return decode_mask_file(memoryview(message.data))
    return decode_mask(*_layout(message), memoryview(message.data))


def depth_of(message: ImageMessage | CompressedImage) -> Array32:
    """(H, W) float32, metres, 0 where there is none; raises ``InputError``."""
    if isinstance(message, CompressedImage):
        return decode_depth_file(message.format, memoryview(message.data))
    return decode_depth(*_layout(message), memoryview(message.data))


def _layout(message: ImageMessage) -> tuple[str, int, int, int, int]:
    return message.encoding, message.height, message.width, message.step, message.is_bigendian
