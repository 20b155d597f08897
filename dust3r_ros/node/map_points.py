"""The points of ~/map: those of every keyframe, thinned so that there are never too many."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from dust3r_ros.node.changes import Changed
from dust3r_ros.types import Keyframe

Packed = NDArray[np.void]


class MapPoints:
    """Packed points by keyframe, at most ``limit`` of them.

    When there are more, every second point of all keyframes goes (in the order of their pixels, row by row), then
    every second of the rest, and so on; keyframes that come later are thinned in the same way.
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
        """Work changes in; ``points(keyframe, every)`` gives every so many-th of one keyframe."""
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
        """Whether there is so much room that the whole map should be read again."""
        return self.every > 1 and 3 * len(self) < limit
