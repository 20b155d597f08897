"""Which older keyframes may show the same place, by how images look as a whole, and which keyframes are paired."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from dust3r_ros.config import MapperConfig
from dust3r_ros.features.features import Features
from dust3r_ros.features.sift import SLOWEST
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


class PairGraph:
    """Proposes older keyframes for a new one and remembers which pairs were used.

    A look is a unit vector (D,) of any kind, the same for all keyframes: their dot product says how
    alike two images are (``Appearance``, or what a network pools). How alike is alike enough follows
    from how alike neighbours are, so it holds for every kind.
    """

    def __init__(self, config: MapperConfig) -> None:
        self._config = config
        self._global_descriptors: Array32 = np.zeros((0, 0), np.float32)  # grows by doubling
        self._count = 0
        self._likeness: list[float] = []  # of keyframes with those before them
        self._weights: dict[tuple[int, int], float] = {}
        self._counts: Counter[str] = Counter()
        self.connected: list[tuple[int, int]] = []  # pairs in the order in which they came, or weighed anew

    def add(self, global_descriptor: Array32, near: Sequence[int] | None = None) -> int:
        """A new keyframe by its look; returns its index. ``near``: its neighbours, if not those just before."""
        index = self._append(global_descriptor)
        near = self.neighbours(index) if near is None else near
        if len(near) and global_descriptor.any():
            self._likeness.append(float(np.median(self._global_descriptors[near] @ global_descriptor)))
        return index

    def _append(self, vector: Array32) -> int:
        index = self._count
        if index == len(self._global_descriptors):
            more = np.zeros((max(64, index), len(vector)), np.float32)
            self._global_descriptors = np.concatenate([self._global_descriptors, more]) if index else more
        self._global_descriptors[index] = vector
        self._count += 1
        return index

    def global_descriptor(self, index: int) -> Array32:
        """The look of a keyframe."""
        return self._global_descriptors[index]

    def absorb(self, other: PairGraph) -> int:
        """All keyframes and pairs of another graph, after this one's own; returns the index of its first.

        The looks of both must be of one kind, by one ``Appearance``.
        """
        first = self._count
        for vector in other._global_descriptors[: other._count]:
            self._append(vector)
        self._likeness += other._likeness
        self._weights |= {(first + a, first + b): weight for (a, b), weight in other._weights.items()}
        self._counts += other._counts
        self.connected += [(first + a, first + b) for a, b in other._weights]
        return first

    def neighbours(self, index: int) -> list[int]:
        """The keyframes just before, nearest first."""
        return list(range(index - 1, max(-1, index - 1 - self._config.pair_neighbours), -1))

    def loop_candidates(
        self, global_descriptor: Array32, before: int, apart_from: Sequence[int] = (), strict: bool = True
    ) -> list[int]:
        """Keyframes older than ``before`` that look alike, best first, one per neighbourhood.

        Not ``strict``: however little they do.
        """
        while before - 1 in apart_from:
            before -= 1
        if before <= 0 or self._config.pair_lookalikes == 0:
            return []
        scores = self._global_descriptors[: min(before, self._count)] @ global_descriptor
        scores[[index for index in apart_from if index < before]] = -1.0
        return self._best_apart(scores, self._alike_enough() if strict else 0.0)

    def _alike_enough(self) -> float:
        """The score from which on keyframes may show the same place."""
        return self._config.lookalike_score * (float(np.median(self._likeness)) if self._likeness else 1.0)

    def _best_apart(self, scores: Array32, enough: float) -> list[int]:
        """Keyframes by their scores (N,), best first, as many as are wanted, none near a better one."""
        chosen: list[int] = []
        for index in np.argsort(-scores, kind="stable"):
            if scores[index] < enough or scores[index] <= 0 or len(chosen) == self._config.pair_lookalikes:
                break
            if all(abs(int(index) - other) > self._config.pair_neighbours for other in chosen):
                chosen.append(int(index))
        return chosen

    def connect(self, first: int, second: int, weight: float, cameras: tuple[str, str]) -> None:
        """Remember that a pair was used, with how much it weighs and by which cameras it was seen."""
        pair = min(first, second), max(first, second)
        if pair not in self._weights and cameras[0] == cameras[1]:
            self._counts[cameras[0]] += 1
        self._weights[pair] = weight
        self.connected.append(pair)

    def count(self, camera: str) -> int:
        """How many pairs are of one camera."""
        return self._counts[camera]

    @property
    def likeness(self) -> list[float]:
        """How alike keyframes are to those before them, in no order that matters."""
        return self._likeness

    def weight(self, pair: tuple[int, int]) -> float:
        """How much a pair (first, second), first < second, weighs."""
        return self._weights[pair]

    def restore(self, global_descriptors: Sequence[Array32], likeness: Sequence[float]) -> None:
        """Keyframes in place of none: their looks, and how alike neighbours were."""
        for global_descriptor in global_descriptors:
            self._append(global_descriptor)
        self._likeness = list(likeness)

    @property
    def pairs(self) -> int:
        """How many there are."""
        return len(self._weights)

    @property
    def edges(self) -> list[tuple[int, int, float]]:
        """(first, second, weight), first < second, in order."""
        return [(first, second, weight) for (first, second), weight in sorted(self._weights.items())]
