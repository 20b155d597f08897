"""Flows that are worth keeping: they do not depend on poses, so depth can be had from them again and again."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dust3r_ros.backends.flow import Flow, grid
from dust3r_ros.types import Array32

_PER_PIXEL = np.float32(32.0)  # steps a pixel is cut into: far finer than flow is right
_REACH = 32000  # steps, a thousand pixels
_PER_ERROR = np.float32(64.0)
_OUTSIDE = 255


@dataclass(frozen=True, eq=False)
class _Packed:
    """``motion`` (H, W, 2) in steps; ``error`` (H, W) in 1/64 pixel, 255 where it is more than all that matters."""

    motion: NDArray[np.int16]
    error: NDArray[np.uint8]

    @property
    def size(self) -> int:
        return self.motion.nbytes + self.error.nbytes


class FlowStore:
    """Flows by (first, second) view, in five bytes per pixel; beyond ``budget`` bytes the longest unused go.

    What comes out is rounded to 1/32 pixel, its error to 1/64; errors of four pixels or more are infinite.
    """

    def __init__(self, budget: int = 128 << 20) -> None:
        self._budget = budget
        self._size = 0
        self._kept: OrderedDict[tuple[int, int], _Packed] = OrderedDict()

    def __contains__(self, pair: object) -> bool:
        return pair in self._kept

    def __len__(self) -> int:
        return len(self._kept)

    @property
    def size(self) -> int:
        """Bytes that the flows take."""
        return self._size

    def get(self, pair: tuple[int, int]) -> Flow | None:
        """The flow of a pair, None when it is not kept."""
        packed = self._kept.get(pair)
        if packed is None:
            return None
        self._kept.move_to_end(pair)
        error = packed.error.astype(np.float32) / _PER_ERROR
        error[packed.error == _OUTSIDE] = np.inf
        return Flow(grid(*packed.error.shape) + packed.motion.astype(np.float32) / _PER_PIXEL, error)

    def put(self, pair: tuple[int, int], flow: Flow) -> None:
        """Keep a flow. It may be the only one, however large."""
        self._drop(pair)
        steps = np.rint((flow.target - grid(*flow.error.shape)) * _PER_PIXEL)
        error: Array32 = np.rint(np.minimum(flow.error * _PER_ERROR, np.float32(_OUTSIDE)))
        error[(np.abs(steps) > _REACH).any(axis=-1)] = _OUTSIDE
        packed = _Packed(np.clip(steps, -_REACH, _REACH).astype(np.int16), error.astype(np.uint8))
        self._kept[pair] = packed
        self._size += packed.size
        while self._size > self._budget and len(self._kept) > 1:
            self._drop(next(iter(self._kept)))

    def forget(self, view: int) -> None:
        """Drop all flows of a view."""
        for pair in [pair for pair in self._kept if view in pair]:
            self._drop(pair)

    def clear(self) -> None:
        """Drop all flows."""
        self._kept.clear()
        self._size = 0

    def _drop(self, pair: tuple[int, int]) -> None:
        packed = self._kept.pop(pair, None)
        self._size -= packed.size if packed else 0
