"""Images that wait for the back end: few, and fewer under load."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Generic, TypeVar

Item = TypeVar("Item")


class Outbox(Generic[Item]):
    """A bounded queue. Images of one ``camera(item)`` without a pose weigh at most ``size`` together.

    Each weighs ``weigh(item)``. Beyond that the oldest is dropped; one may always wait. Of images with a pose, only the
    newest of a camera waits, so that it reaches the map soon; ``thin`` false keeps all. For one thread.
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
        self._turns, self._turn = dict[object, int](), 0  # each camera's last turn
        self._size, self._weigh, self._camera, self._thin = size, weigh, camera, thin

    def __len__(self) -> int:
        return len(self._items)

    def offer(self, item: Item, posed: bool) -> list[tuple[Item, bool]]:
        """Queue an image; returns those dropped for it, and whether each has a pose."""
        camera = self._camera(item)
        replaced = [entry for entry in self._of(camera) if self._thinned(entry)] if posed else []
        for entry in replaced:
            self._items.remove(entry)
        self._items.append((item, posed))
        return replaced + self._lighten(camera)

    def _of(self, camera: object) -> list[tuple[Item, bool]]:
        """The waiting images of a camera, oldest first, and whether each has a pose."""
        return [entry for entry in self._items if self._camera(entry[0]) == camera]

    def _thinned(self, entry: tuple[Item, bool]) -> bool:
        """Whether an image is dropped once a newer one of its camera has a pose; it has no weight."""
        return entry[1] and self._thin

    def _lighten(self, camera: object) -> list[tuple[Item, bool]]:
        """Remove and return the oldest images of a camera while its total weight is too large."""
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
        """The next image, and whether it has a pose; None if none waits.

        It is the oldest of the camera whose turn was longest ago, so that no camera blocks another.
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
        """Remove an image; returns whether it was waiting."""
        entry = next((entry for entry in self._items if entry[0] is item), None)
        if entry is not None:
            self._items.remove(entry)
        return entry is not None

    def clear(self) -> int:
        """Remove all waiting images; returns how many."""
        count = len(self._items)
        self._items.clear()
        return count
