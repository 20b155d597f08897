"""How an image looks, as one vector: which older keyframes may show the same place."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from dust3r_ros.descriptors import SLOWEST
from dust3r_ros.features import Features
from dust3r_ros.types import Array32

_SPLITS = 5  # components whose sign tells the cell: 32 cells
_COMPONENTS = 32
DIMENSIONS = 2**_SPLITS * _COMPONENTS
_MIN_FEATURES = 100  # to tell what descriptors are like on average


class Appearance:
    """Describes images by their features: unit vectors whose dot product says how alike two images are.

    Vectors of locally aggregated descriptors (Jegou et al., "Aggregating local descriptors into a
    compact image representation", CVPR 2010) with a vocabulary that needs no training: descriptors
    are brought to their lowest spatial and angular frequencies; the signs of the first few say in
    which cell one lies, and what it differs from the cell's middle by is summed up there. Only where
    the middle lies depends on what the camera sees: the first image with enough features tells.
    """

    def __init__(self) -> None:
        self._basis = SLOWEST[:, 1 : _COMPONENTS + 1]  # without the constant
        self._origin: Array32 | None = None  # (C,) mean of descriptors
        self._spread = np.zeros(_SPLITS, np.float32)  # mean distance from it along the axes that split

    def facts(self) -> dict[str, Any]:
        """What was learnt from the first images, as JSON has it."""
        return {"origin": None if self._origin is None else self._origin.tolist(), "spread": self._spread.tolist()}

    def restore(self, facts: Mapping[str, Any]) -> None:
        """Describe images as another session did."""
        origin = facts["origin"]
        self._origin = None if origin is None else np.array(origin, np.float32)
        self._spread = np.array(facts["spread"], np.float32)

    def describe(self, features: Features) -> Array32:
        """(DIMENSIONS,) of length 1; zero, which is like nothing, for an image that shows nothing."""
        found = features.unit @ self._basis
        if self._origin is None:
            if len(found) < _MIN_FEATURES:
                return np.zeros(DIMENSIONS, np.float32)
            self._origin = found.mean(axis=0)
            self._spread = np.abs(found - self._origin)[:, :_SPLITS].mean(axis=0)
        found = found - self._origin
        side = found[:, :_SPLITS] > 0
        found[:, :_SPLITS] -= np.where(side, self._spread, -self._spread)
        found /= np.maximum(np.linalg.norm(found, axis=1, keepdims=True), 1e-6)
        cell = side @ (1 << np.arange(_SPLITS))
        member = (cell[:, None] == np.arange(2**_SPLITS)).astype(np.float32)
        total: Array32 = (member.T @ found).ravel()
        return total / max(float(np.linalg.norm(total)), 1e-6)
