"""Images that wait for the back end: few, and under load fewer."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Generic, TypeVar

Item = TypeVar("Item")


class Outbox(Generic[Item]):
    """A queue that never grows. Images of one ``camera(item)`` without a pose weigh at most ``size`` together.

    Each weighs ``weigh(item)``. Where there are more, the oldest goes; one always may wait. Of images with a pose, the
    newest of a camera waits, so that the map says soon what it saw; ``thin`` false keeps all. For one thread.
    """

    def __init__(
        self,
        size: float,
        weigh: Callable[[Item], float] = lambda item: 1,
        camera: Callable[[Item], object] = lambda item: None,
        *,
        thin: bool = True,
    ) -> None:
        self._items: deque[tuple[Item, bool]] = deque()
        self._turns, self._turn = dict[object, int](), 0  # when it was each camera's
        self._size, self._weigh, self._camera, self._thin = size, weigh, camera, thin

    def __len__(self) -> int:
        return len(self._items)

    def offer(self, item: Item, posed: bool) -> list[tuple[Item, bool]]:
        """Queue an image; returns those that must go for it, and whether each has a pose."""
        camera = self._camera(item)
        replaced = [entry for entry in self._of(camera) if self._thinned(entry)] if posed else []
        for entry in replaced:
            self._items.remove(entry)
        self._items.append((item, posed))
        return replaced + self._lighten(camera)

    def _of(self, camera: object) -> list[tuple[Item, bool]]:
        """The images of a camera that wait, oldest first, and whether each has a pose."""
        return [entry for entry in self._items if self._camera(entry[0]) == camera]

    def _thinned(self, entry: tuple[Item, bool]) -> bool:
        """Whether an image goes when a newer one of its camera has a pose; it weighs nothing."""
        return entry[1] and self._thin

    def _lighten(self, camera: object) -> list[tuple[Item, bool]]:
        """Take the oldest images of a camera out, as long as they weigh too much together; returns them."""
        gone: list[tuple[Item, bool]] = []
        counted = [entry for entry in self._of(camera) if not self._thinned(entry)]
        load = sum(self._weigh(entry[0]) for entry in counted)
        while len(counted) > 1 and load > self._size:
            oldest = counted.pop(0)
            load -= self._weigh(oldest[0])
            self._items.remove(oldest)
            gone.append(oldest)
        return gone

    def take(self) -> tuple[Item, bool] | None:
        """The image that is next, and whether it has a pose; None where none waits.

        That is the oldest of the camera whose turn was longest ago: none keeps another from the map.
        """
        if not self._items:
            return None
        entry = self._items[0]
        if self._thin:
            entry = min(self._items, key=lambda entry: self._turns.get(self._camera(entry[0]), 0))
        self._items.remove(entry)
        self._turns[self._camera(entry[0])] = self._turn = self._turn + 1
        return entry

    def withdraw(self, item: Item) -> bool:
        """Forget one, whether it waits at all."""
        entry = next((entry for entry in self._items if entry[0] is item), None)
        if entry is not None:
            self._items.remove(entry)
        return entry is not None

    def clear(self) -> int:
        """Forget what waits; returns how many."""
        count = len(self._items)
        self._items.clear()
        return count
