"""An image message with all that belongs to it, and how it becomes a frame of plain arrays."""

from __future__ import annotations

from dataclasses import dataclass, field
from time import perf_counter

from sensor_msgs.msg import CompressedImage
from sensor_msgs.msg import Image as ImageMessage

from dust3r_ros.io.encodings import decode_depth, decode_depth_file, decode_mask, decode_mask_file
from dust3r_ros.node.conversions import image_of
from dust3r_ros.sensors.gravity_filter import Turning
from dust3r_ros.sensors.synced_frame import Match
from dust3r_ros.types import Array, Array32, Frame, Image


@dataclass(frozen=True, eq=False)
class Arrival:
    """One image of the camera named, as it came, and what belongs to it.

    ``frame_id``: the camera's optical frame. ``anchor_T_c`` (4, 4): where it was in the frame that gets the map as its
    parent (odom_frame or base_frame), None where that is not known. ``turning``: its axes by the gyroscope.
    ``at``: when it came, by ``perf_counter`` (s).
    """

    camera: str
    stamp_ns: int
    frame_id: str
    image: ImageMessage | CompressedImage
    match: Match = field(default_factory=Match)
    anchor_T_c: Array | None = None
    turning: Turning | None = None
    at: float = field(default_factory=perf_counter)

    @property
    def bytes(self) -> int:
        """What it keeps in memory, about: masks and depth are smaller than images."""
        parts = 1 + (self.match.mask is not None) + (self.match.depth is not None)
        return parts * len(self.image.data)


def frame_of(arrival: Arrival) -> tuple[Frame, tuple[str, ...]]:
    """The frame, and what it should have had besides, each in a sentence.

    Raises ``InputError`` for an image that is empty, damaged or of an unknown encoding.
    """
    completed = arrival.match.onto(Frame(arrival.stamp_ns, arrival.camera, image_of(arrival.image)))
    return completed.frame, completed.missing


def mask_of(message: ImageMessage | CompressedImage) -> Image:
    """(H, W) uint8, not 0 is left out; raises ``InputError``."""
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
