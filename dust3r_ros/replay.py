"""Recorded frames into a mapper, one after the other; what cannot be used is counted, not fatal."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

from dust3r_ros.errors import InputError
from dust3r_ros.types import MapUpdate

if TYPE_CHECKING:
    from dust3r_ros.io.frames import Frame
    from dust3r_ros.mapper import Mapper


class Replay:
    """Iterating feeds ``frames`` to ``mapper`` and yields each update.

    A frame that the mapper refuses (wrong size, stamp that does not advance, unusable image) is
    counted in ``refused`` and the mapper goes on; ``reason`` says why the first one was.
    """

    def __init__(self, mapper: Mapper, frames: Iterable[Frame]) -> None:
        self._mapper = mapper
        self._frames = frames
        self.refused = 0
        self.reason = ""

    def __iter__(self) -> Iterator[MapUpdate]:
        for frame in self._frames:
            try:
                yield self._mapper.process(frame.stamp_ns, frame.camera, frame.image)
            except InputError as error:
                self.refused += 1
                self.reason = self.reason or str(error)
