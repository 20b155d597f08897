"""The keyframes of a map under construction: what they are made of, and which of them changed."""

from __future__ import annotations

from dust3r_ros.mapping.submap import Submap
from dust3r_ros.streams import KeyframeRecord
from dust3r_ros.types import Keyframe


class KeyframeBook(Submap):
    """A map with its keyframes by their index; whoever changes one enters it in ``_changed``."""

    def __init__(self, records: list[KeyframeRecord]) -> None:
        """``records``: one per keyframe, a list that grows."""
        self._records = records
        self._changed: set[int] = set()

    def __len__(self) -> int:
        return len(self._records)

    def record(self, index: int) -> KeyframeRecord:
        return self._records[index]

    def take_changed(self) -> tuple[Keyframe, ...]:
        indices, self._changed = sorted(self._changed & set(self.posed())), set()
        for index in indices:
            self._records[index].version += 1
        return tuple(self.keyframe(index) for index in indices)

    def mark_all(self) -> None:
        self._changed |= set(self.posed())
