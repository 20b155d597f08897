"""The pictures of one world: its cameras, what they see, how much of it they share."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from dust3r_ros.scenes.endless.casting import Seen
from dust3r_ros.scenes.endless.eye import Eye
from dust3r_ros.scenes.endless.overlap import DepthView, overlaps
from dust3r_ros.scenes.endless.scenery import Scenery
from dust3r_ros.scenes.endless.viewpoints import choose_eyes
from dust3r_ros.scenes.endless.worlds import make_world
from dust3r_ros.scenes.world import RenderedView
from dust3r_ros.types import Array

_CAMERAS = 2  # what random numbers are for
_FEW = 0.3  # share of views that are painted unasked, since then the textures, the largest part, can go
_SAMPLES = 20  # pixels along the shorter side of which the overlap is taken


def paint(scenery: Scenery, taken: Sequence[tuple[Eye, Seen]]) -> list[RenderedView]:
    """Views of cameras of which it is known what their pixels see."""
    return [
        RenderedView(scenery.image(eye, seen), np.where(np.isfinite(seen.depth), seen.depth, np.float32(0)))
        for eye, seen in taken
    ]


class Album:
    """``count`` views of world ``number`` of ``seed``, painted when first asked for.

    ``shared`` (N, N): [i, j] is the share of view i's pixels with depth that view j sees.
    """

    def __init__(self, seed: tuple[int, ...], number: int, count: int, short_side: int) -> None:
        world = make_world(seed, number)
        self.layout = world.layout
        self._scenery: Scenery | None = world.scenery
        self._eyes: list[tuple[Eye, Seen | None]] = []
        self._views: list[RenderedView | None] = [None] * count
        chosen = choose_eyes(world, np.random.default_rng([*seed, _CAMERAS, number]), count, short_side)
        self._eyes.extend(chosen)
        step = max(short_side // _SAMPLES, 1)
        self.shared: Array = overlaps([DepthView(seen.depth, eye.K, eye.w_T_c) for eye, seen in chosen], step)

    def __len__(self) -> int:
        return len(self._eyes)

    def camera(self, index: int) -> tuple[Array, Array]:
        """``K`` (3, 3) and ``w_T_c`` (4, 4) of a view."""
        eye = self._eyes[index][0]
        return eye.K.copy(), eye.w_T_c.copy()

    def view(self, index: int) -> RenderedView:
        """Image and depth; shared with later calls, not to be written to."""
        if (view := self._views[index]) is None:
            left = [number for number, done in enumerate(self._views) if done is None]
            all_left = len(left) - 1 <= _FEW * len(self)
            self._paint(left if all_left else [index])
            if all_left:
                self._scenery = None
            view = self._views[index]
            assert view is not None
        return view

    def _paint(self, numbers: Sequence[int]) -> None:
        assert self._scenery is not None
        taken = [(eye, seen) for eye, seen in (self._eyes[number] for number in numbers) if seen is not None]
        for number, view in zip(numbers, paint(self._scenery, taken), strict=True):
            for array in (view.image, view.depth):
                array.setflags(write=False)
            self._views[number] = view
            self._eyes[number] = self._eyes[number][0], None
