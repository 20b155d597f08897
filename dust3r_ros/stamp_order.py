"""Whether images come in the order in which they were taken."""

from __future__ import annotations

from dust3r_ros.errors import InputError

# Frames of one camera that overtake each other on the network are this close; a clock that was
# set back or a bag that starts again jumps further.
REORDERED_NS = 100_000_000


class StampOrder:
    """Knows the newest stamp of every camera. Cameras need not agree with each other."""

    def __init__(self) -> None:
        self._last: dict[str, int] = {}
        self._before: dict[str, int] = {}

    def back(self, camera: str, stamp_ns: int) -> int:
        """By how many ns an image lies so far before the one before it that time itself was set back; 0 if it does not.

        Raises ``InputError`` for one that was seen already or that others overtook.
        """
        back = self._last.get(camera, stamp_ns - 1) - stamp_ns
        if back < 0:
            return 0
        if back == 0:
            raise InputError(f"image stamp {stamp_ns} ns is that of the image before; stamps must increase")
        if back <= REORDERED_NS:
            seconds = back * 1e-9
            raise InputError(f"image stamp {stamp_ns} ns is {seconds:.3f} s before the last one; stamps must increase")
        return back

    def took(self, camera: str, stamp_ns: int) -> None:
        """An image was used."""
        self._before[camera] = self._last.get(camera, 0)
        self._last[camera] = stamp_ns

    def take_back(self, camera: str, stamp_ns: int) -> None:
        """It was not: another may have its stamp, where none came since."""
        if self._last.get(camera) == stamp_ns:
            self._last[camera] = self._before[camera]

    def clear(self) -> None:
        """Another time."""
        self._last.clear()
        self._before.clear()
