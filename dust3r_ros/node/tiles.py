"""The map piece by piece on ~/map_tiles: one message per keyframe that changed.

Each point has the fields x, y, z, rgb, confidence as on ~/map, and ``keyframe`` (uint32), the same in all points of a
message. A message takes the place of all points of that keyframe that came before. A keyframe that left the map is
a message of one point whose place is NaN; so is one that has no points any more.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable

import numpy as np
from sensor_msgs.msg import PointCloud2, PointField

from dust3r_ros.node.changes import Changed
from dust3r_ros.node.conversions import FIELDS, POINT, header
from dust3r_ros.node.map_points import Packed
from dust3r_ros.types import Keyframe

TILE_POINT = np.dtype([*[(name, POINT[name]) for name in POINT.names or ()], ("keyframe", "<u4")])
TILE_FIELDS = [*FIELDS, PointField(name="keyframe", offset=POINT.itemsize, datatype=PointField.UINT32, count=1)]

# Points that go out in one go; the rest waits for the next, so that nobody stalls.
POINTS_AT_ONCE = 500_000


class Tiles:
    """Which keyframes have to be sent, the newest first; for one thread."""

    def __init__(self) -> None:
        self._waiting: dict[int, Keyframe] = {}
        self._gone: set[int] = set()
        self._sent: set[int] = set()

    @property
    def waiting(self) -> int:
        """Keyframes that are still to be sent."""
        return len(self._waiting) + len(self._gone)

    def update(self, changed: Changed) -> None:
        """Work changes in."""
        if changed.whole:
            self._waiting.clear()
            present = {keyframe.index for keyframe in changed.keyframes}
            self._gone |= self._sent - present
        self._gone.update(index for index in changed.removed if index in self._sent)
        for index in changed.removed:
            self._waiting.pop(index, None)
        for keyframe in changed.keyframes:
            self._waiting[keyframe.index] = keyframe
            self._gone.discard(keyframe.index)

    def messages(self, points: Callable[[Keyframe, int], Packed], stamp_ns: int, frame: str) -> list[PointCloud2]:
        """The next messages, of about ``POINTS_AT_ONCE`` points together; ``stamp_ns`` is of those that are gone."""
        messages = [tile_message(index, None, stamp_ns, frame) for index in sorted(self._gone)]
        self._sent -= self._gone
        self._gone.clear()
        count = 0
        for index in sorted(self._waiting, reverse=True):
            if count >= POINTS_AT_ONCE:
                break
            keyframe = self._waiting.pop(index)
            packed = points(keyframe, 1)
            count += len(packed)
            if len(packed):
                messages.append(tile_message(index, packed, keyframe.stamp_ns, frame))
                self._sent.add(index)
            elif index in self._sent:  # without points a message could not say of which keyframe it is
                messages.append(tile_message(index, None, keyframe.stamp_ns, frame))
                self._sent.discard(index)
        return messages


def tile_message(keyframe: int, packed: Packed | None, stamp_ns: int, frame: str) -> PointCloud2:
    """The points of one keyframe, None for one that left the map."""
    tile = np.zeros(1 if packed is None else len(packed), TILE_POINT)
    if packed is None:
        tile["x"] = tile["y"] = tile["z"] = np.nan
    else:
        for name in POINT.names or ():
            tile[name] = packed[name]
    tile["keyframe"] = keyframe
    message = PointCloud2(
        header=header(stamp_ns, frame),
        height=1,
        width=len(tile),
        fields=TILE_FIELDS,
        is_bigendian=False,
        point_step=TILE_POINT.itemsize,
        row_step=TILE_POINT.itemsize * len(tile),
        is_dense=packed is not None,
    )
    message.data = array("B", tile.tobytes())
    return message
