"""What of the map changed since somebody last looked. No ROS."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from dust3r_ros.types import Keyframe, MapUpdate


@dataclass(frozen=True, eq=False)
class Changed:
    """Keyframes that are new or other than before, and the indices of those that are gone.

    With ``whole``, ``keyframes`` are all there are, and nothing that was known before holds.
    """

    keyframes: tuple[Keyframe, ...] = ()
    removed: tuple[int, ...] = ()
    whole: bool = False

    def __bool__(self) -> bool:
        return bool(self.keyframes or self.removed or self.whole)


class Changes:
    """Gathers the changes of updates for one reader, so that a change costs what changed and not the whole map.

    A reader that is not there costs nothing: after ``skip``, or when more than ``most`` keyframes wait, the next
    ``take`` has the whole map.
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
        if len(self._changed) > self._most:
            self.skip()

    def skip(self) -> None:
        """Keep nothing: the next ``take`` has the whole map."""
        self._changed.clear()
        self._removed.clear()
        self._whole = True

    def take(self, everything: Callable[[], Sequence[Keyframe]]) -> Changed:
        """What changed since the last time; ``everything`` is asked for all keyframes if that is the whole map."""
        if self._whole:
            self._whole = False
            return Changed(tuple(everything()), (), True)
        changed = Changed(tuple(self._changed.values()), tuple(self._removed))
        self._changed.clear()
        self._removed.clear()
        return changed
