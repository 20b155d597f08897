"""Removes redundant keyframes from a landmark map: those that others make up for, as ``redundancy.py`` finds."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np

from dust3r_ros.geometry.rigid import invert
from dust3r_ros.mapping.reconstruction import MOST_UNSURE, Culled, Reconstruction
from dust3r_ros.mapping.redundancy import Redundancy
from dust3r_ros.tracking.front_end import YOUNG
from dust3r_ros.types import Array


class Part(Protocol):
    """What knows keyframes by their index."""

    def renumber(self, new: np.ndarray) -> None:
        """Keyframe k becomes ``new[k]`` (N,), in the same order, or leaves if that is negative."""


class Culling:
    """Looks for redundant keyframes when the camera was at some more, and removes them from all parts of a map.

    Poses, depth and landmarks of the others stay as they are. What is computed beside or part by part would arrive
    under other numbers, so nothing else may wait.
    """

    def __init__(self, state: Reconstruction, redundancy: Redundancy, parts: Sequence[Part]) -> None:
        """``parts``: all that knows keyframes of ``state`` by their index."""
        self._state, self._redundancy, self._parts = state, redundancy, parts

    @property
    def due(self) -> bool:
        """Whether there are new keyframes, and cameras were at so many since the last time that it is worthwhile."""
        state = self._state
        new = bool(state.records) and state.records[-1].visit > state.looked
        return new and state.visits >= state.looked + state.config.window and self._spare > 0

    @property
    def _spare(self) -> int:
        """How many keyframes a map can lose and be as sure of its focal as it is."""
        if not (self._state.initialised and self._state.sure):
            return 0
        founder = self._state.intrinsics_of(0)
        fewest = YOUNG if founder.given or self._state.settled else MOST_UNSURE
        return max(0, len(self._state.records) - fewest - 1)

    def cull(self, everywhere: bool = False) -> None:
        """Remove what is redundant: where keyframes came since the last time, or ``everywhere``."""
        leaving = self._redundancy.find(self._spare, -1 if everywhere else self._state.looked)
        self._state.looked = self._state.visits
        if leaving:
            self._remove(leaving)

    def _remove(self, leaving: Sequence[int]) -> None:
        sparse, count = self._state.sparse, len(self._state.records)
        stays = np.ones(count, bool)
        stays[list(leaving)] = False
        new = np.where(stays, np.cumsum(stays) - 1, -1)
        poses = [view.w_T_c for view in sparse.views]
        before = self._units()
        heirs = {index: self._redundancy.companions(index, leaving)[0] for index in leaving}
        for part in (*self._parts, self._state):
            part.renumber(new)
        stand_in = new.copy()
        stand_in[list(heirs)] = new[list(heirs.values())]
        relative = {index: invert(_known(poses[heir])) @ _known(poses[index]) for index, heir in heirs.items()}
        self._state.culled.append(Culled(new, stand_in, relative, np.stack([before, self._units()[stand_in]], axis=1)))

    def _units(self) -> Array:
        """(N,) the unit of each keyframe."""
        views = self._state.sparse.views
        depths = [
            float("nan") if view.w_T_c is None else self._state.sparse.median_depth(k) for k, view in enumerate(views)
        ]
        return np.array(depths)


def _known(w_T_c: Array | None) -> Array:
    assert w_T_c is not None, "only keyframes with a pose are culled, in favour of others"
    return w_T_c
