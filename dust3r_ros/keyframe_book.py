"""The keyframes of a map under construction: what they are made of, and which of them changed."""

from __future__ import annotations

from abc import ABC, abstractmethod

from dust3r_ros.chores import Chores
from dust3r_ros.streams import KeyframeRecord
from dust3r_ros.types import Keyframe


class KeyframeBook(ABC):
    """Keyframes by their index; whoever changes one enters it in ``_changed``."""

    def __init__(self, records: list[KeyframeRecord]) -> None:
        """``records``: one per keyframe, a list that grows."""
        self._records = records
        self._changed: set[int] = set()
        self.chores: Chores | None = None  # what waits; offline nothing does: all is done at once

    def __len__(self) -> int:
        return len(self._records)

    @abstractmethod
    def keyframe(self, index: int) -> Keyframe:
        """A keyframe as it stands now."""

    @abstractmethod
    def posed(self) -> list[int]:
        """The keyframes with a pose."""

    @property
    def backlog(self) -> int:
        """How much waits: depth of keyframes, adjustments of the whole map."""
        return 0 if self.chores is None else self.chores.count

    @property
    def depth_backlog(self) -> tuple[int, int]:
        """Keyframes that wait for depth, and how much newer (ns) the newest keyframe is than the newest with depth."""
        waiting = set() if self.chores is None else {index for index, _ in self.chores.without_depth}
        if not waiting:
            return 0, 0
        last = len(self._records) - 1
        done = next((k for k in range(last, -1, -1) if k not in waiting), 0)
        return len(waiting), self._records[last].stamp_ns - self._records[done].stamp_ns

    def record(self, index: int) -> KeyframeRecord:
        """What a keyframe is made of besides pose and depth."""
        return self._records[index]

    def take_changed(self) -> tuple[Keyframe, ...]:
        """Keyframes with a pose that changed since the last call, with new versions."""
        indices, self._changed = sorted(self._changed & set(self.posed())), set()
        for index in indices:
            self._records[index].version += 1
        return tuple(self.keyframe(index) for index in indices)

    def mark_all(self) -> None:
        """Every keyframe counts as changed."""
        self._changed |= set(self.posed())
