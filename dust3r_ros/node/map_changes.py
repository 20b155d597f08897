"""Changes of the map since a reader last took them, as points: the whole map, thinned, or a tile per keyframe.

Each point has the fields x, y, z, rgb, confidence as on ~/map, and ``keyframe`` (uint32), the same in all points of a
message. A message replaces all earlier points of its keyframe. A keyframe that was removed, or has no points any more,
is a message of one NaN point.
"""

from __future__ import annotations

import math
from array import array
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray
from sensor_msgs.msg import PointCloud2, PointField

from dust3r_ros.node.conversions import FIELDS, POINT, points_message
from dust3r_ros.types import Keyframe, MapUpdate


@dataclass(frozen=True, eq=False)
class Changed:
    """New or changed keyframes, and the indices of removed ones.

    With ``whole``, ``keyframes`` is the complete map and replaces everything known before.
    """

    keyframes: tuple[Keyframe, ...] = ()
    removed: tuple[int, ...] = ()
    whole: bool = False

    def __bool__(self) -> bool:
        return bool(self.keyframes or self.removed or self.whole)


class Changes:
    """Gathers the changes of updates for one reader, so that a small change does not cost the whole map.

    An absent reader costs nothing: after ``skip``, or when more than ``most`` keyframes wait or were removed, the next
    ``take`` returns the whole map.
    """

    def __init__(self, most: int = 1000) -> None:
        self._most = most
        self._changed: dict[int, Keyframe] = {}
        self._removed: set[int] = set()
        self._whole = True

    @property
    def any(self) -> bool:
        """Whether anything changed."""
        return bool(self._whole or self._changed or self._removed)

    def note(self, update: MapUpdate) -> None:
        """Take in what an update changed."""
        if self._whole:
            return
        for index in update.removed:
            self._changed.pop(index, None)
            self._removed.add(index)
        for keyframe in update.changed:
            self._changed[keyframe.index] = keyframe
            self._removed.discard(keyframe.index)
        if max(len(self._changed), len(self._removed)) > self._most:
            self.skip()

    def skip(self) -> None:
        """Discard the changes: the next ``take`` returns the whole map."""
        self._changed.clear()
        self._removed.clear()
        self._whole = True

    def take(self, everything: Callable[[], Sequence[Keyframe]]) -> Changed:
        """The changes since the last call; ``everything`` is called for all keyframes if the whole map is due."""
        if self._whole:
            self._whole = False
            return Changed(tuple(everything()), (), True)
        changed = Changed(tuple(self._changed.values()), tuple(self._removed))
        self._changed.clear()
        self._removed.clear()
        return changed


class Rebuilding:
    """Whether the map's depth is being computed anew; till then the old map says more than an empty one.

    Every keyframe loses its depth at once when the map is rebuilt with a better focal length.
    """

    def __init__(self, most_s: float = 3.0) -> None:
        """``most_s``: for how long (s) it counts as rebuilding."""
        self._most_s = most_s
        self.clear()

    def clear(self) -> None:
        """The map was replaced: the old one is no longer valid."""
        self._with_depth: set[int] = set()
        self._wanted, self._until = 0, -math.inf

    def note(self, update: MapUpdate, now: float) -> None:
        """Take in what an update changed at ``now`` (s)."""
        if self._with_depth and self._with_depth <= set(update.removed):
            self.clear()
        self._with_depth.difference_update(update.removed)
        before = len(self._with_depth)
        for keyframe in update.changed:
            has = cv2.countNonZero(keyframe.depth) > 0
            (self._with_depth.add if has else self._with_depth.discard)(keyframe.index)
        if before and update.changed and not self._with_depth:
            self._wanted, self._until = before, now + self._most_s

    def __call__(self, now: float) -> bool:
        """Whether fewer than half of the keyframes that had depth have it again at ``now`` (s)."""
        return now < self._until and 2 * len(self._with_depth) < self._wanted


Packed = NDArray[np.void]


class MapPoints:
    """Packed points by keyframe, at most ``limit`` of them.

    If there are more, every second point of all keyframes is dropped (in pixel order, row by row), then every second of
    the rest, and so on; later keyframes are thinned in the same way.
    """

    def __init__(self) -> None:
        self._parts: dict[int, Packed] = {}
        self.every = 1

    def __len__(self) -> int:
        return sum(len(part) for part in self._parts.values())

    @property
    def parts(self) -> list[Packed]:
        """The points of all keyframes, in the order of their indices."""
        return [self._parts[index] for index in sorted(self._parts)]

    def update(self, changed: Changed, points: Callable[[Keyframe, int], Packed], limit: int) -> None:
        """Apply changes; ``points(keyframe, every)`` gives every ``every``-th point of a keyframe."""
        if changed.whole:
            self._parts.clear()
            self.every = 1
        for index in changed.removed:
            self._parts.pop(index, None)
        count = len(self)
        for keyframe in changed.keyframes:
            part = points(keyframe, self.every)
            count += len(part) - len(self._parts.get(keyframe.index, ()))
            self._parts[keyframe.index] = part
            while count > limit:
                self.every *= 2
                self._parts = {index: part[::2].copy() for index, part in self._parts.items()}
                count = len(self)

    def too_thin(self, limit: int) -> bool:
        """Whether the map has shrunk so far below ``limit`` that it should be read again, less thinned."""
        return self.every > 1 and 3 * len(self) < limit


TILE_POINT = np.dtype([*[(name, POINT[name]) for name in POINT.names or ()], ("keyframe", "<u4")])
TILE_FIELDS = [*FIELDS, PointField(name="keyframe", offset=POINT.itemsize, datatype=PointField.UINT32, count=1)]

# Points sent at once; the rest waits for the next call, so that nobody stalls.
POINTS_AT_ONCE = 500_000


class Tiles:
    """The keyframes to be sent, newest first; for one thread."""

    def __init__(self) -> None:
        self._waiting: dict[int, Keyframe] = {}
        self._gone: set[int] = set()
        self._sent: set[int] = set()

    @property
    def waiting(self) -> int:
        """Number of keyframes still to be sent."""
        return len(self._waiting) + len(self._gone)

    def update(self, changed: Changed) -> None:
        """Apply changes."""
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
        """The next messages, about ``POINTS_AT_ONCE`` points in all; ``stamp_ns`` is used for removed keyframes."""
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
            elif index in self._sent:  # a message without points could not name its keyframe
                messages.append(tile_message(index, None, keyframe.stamp_ns, frame))
                self._sent.discard(index)
        return messages


def tile_message(keyframe: int, packed: Packed | None, stamp_ns: int, frame: str) -> PointCloud2:
    """The points of one keyframe, None for a removed one."""
    tile = np.zeros(1 if packed is None else len(packed), TILE_POINT)
    if packed is None:
        tile["x"] = tile["y"] = tile["z"] = np.nan
    else:
        for name in POINT.names or ():
            tile[name] = packed[name]
    tile["keyframe"] = keyframe
    data, is_dense = array("B", tile.tobytes()), packed is not None
    return points_message(data, TILE_FIELDS, TILE_POINT, stamp_ns, frame, is_dense)
