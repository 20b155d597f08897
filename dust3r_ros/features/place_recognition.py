"""Which older keyframes may show the same place, by global appearance, and which keyframes are paired."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from dust3r_ros.config import MapperConfig
from dust3r_ros.features.features import Features, matched
from dust3r_ros.features.sift import SLOWEST
from dust3r_ros.types import Array, Array32

_SPLITS = 5  # components whose signs select one of 32 cells
_COMPONENTS = 32
DIMENSIONS = 2**_SPLITS * _COMPONENTS
_MIN_FEATURES = 100  # descriptors needed to learn their mean
_THOROUGH = 12  # keyframes that are most similar
_LIKENESSES = 4096  # newest ones: their median hardly depends on more


class Appearance:
    """Describes images by their features: unit vectors whose dot product measures the similarity of two images.

    Vectors of locally aggregated descriptors (Jegou et al., "Aggregating local descriptors into a
    compact image representation", CVPR 2010) with a vocabulary that needs no training: descriptors
    are reduced to their lowest spatial and angular frequencies; the signs of the first few select the
    cell of a descriptor, where its difference from the cell's centre is summed. Only the centres
    depend on what the camera sees: they come from the first image with enough features.
    """

    def __init__(self) -> None:
        self._basis = SLOWEST[:, 1 : _COMPONENTS + 1]  # without the constant
        self._origin: Array32 | None = None  # (C,) mean of descriptors
        self._spread = np.zeros(_SPLITS, np.float32)  # mean distance from it along the splitting axes

    def facts(self) -> dict[str, Any]:
        """What was learnt from the first images, as JSON values."""
        return {"origin": None if self._origin is None else self._origin.tolist(), "spread": self._spread.tolist()}

    def restore(self, facts: Mapping[str, Any]) -> None:
        """Describe images as an earlier session did."""
        origin = facts["origin"]
        self._origin = None if origin is None else np.array(origin, np.float32)
        self._spread = np.array(facts["spread"], np.float32)

    def describe(self, features: Features) -> Array32:
        """(DIMENSIONS,) of length 1; zero, similar to nothing, for an image without features."""
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


_LIKELY = 8  # images of which each is matched with those that look most like it
_SOMETHING = 20  # matches; fewer agree on a motion by chance
_LINKS = 3  # placed images that count for another one: landmarks are what two of them see
_MORE = 1.2  # times as many matches with those: worth another try


class Overlaps:
    """What images show in common, by their features; for images whose order says nothing."""

    def __init__(self, images: Sequence[Features]) -> None:
        appearance, count = Appearance(), len(images)
        vectors = np.stack([appearance.describe(image) for image in images])
        alike = vectors @ vectors.T
        np.fill_diagonal(alike, -np.inf)
        likely = np.argsort(-alike, axis=1, kind="stable")[:, : min(_LIKELY, count - 1)]
        pairs = {(min(a, b), max(a, b)) for a in range(count) for b in likely[a].tolist()}
        self._matches = np.zeros((count, count))
        for first, second in sorted(pairs):
            found = len(matched(images[first], images[second]))
            self._matches[[first, second], [second, first]] = found if found >= _SOMETHING else 0

    def place(self, place: Callable[[int], bool], begin: Callable[[], object]) -> np.ndarray:
        """Place next what has most in common with the images placed (Schonberger and Frahm, CVPR 2016, section 4.2).

        ``place`` returns whether an image could be; ``begin``: the next is the first of another map, where no other
        fits this one. Returns which (N,) images are left.
        """
        left = np.ones(len(self._matches), bool)
        while (score := _strongest(self._matches * left).sum(axis=1) * left).any():
            begin()
            links, tried, before = np.zeros((len(left), _LINKS)), np.zeros(len(left)), left.copy()
            while score.any():
                at = int(score.argmax())
                tried[at] = links[at].sum()
                if place(at):
                    left[at] = False
                    links = _strongest(np.column_stack([links, self._matches[at]]))
                score = links.sum(axis=1)
                score[~left | (score < _MORE * tried)] = 0.0
            if np.array_equal(left, before):
                break
        return left


def _strongest(matches: Array) -> Array:
    """(N, 3) the largest of each row."""
    return np.sort(matches, axis=1)[:, -_LINKS:]


class PairGraph:
    """Proposes older keyframes for a new one and remembers which pairs were used.

    A global descriptor is a unit vector (D,) of any kind, the same for all keyframes: the dot product measures
    the similarity of two images (``Appearance``, or features pooled by a network). The threshold follows
    from the similarity of neighbours, so it works for every kind.
    """

    def __init__(self, config: MapperConfig) -> None:
        self._config = config
        self._global_descriptors: Array32 = np.zeros((0, 0), np.float32)  # grows by doubling
        self._count = 0
        self._likeness: deque[float] = deque(maxlen=_LIKENESSES)  # similarity of keyframes to those before them
        self._weights: dict[tuple[int, int], float] = {}
        self._counts: Counter[str] = Counter()
        # Pairs in the order in which they were added or reweighted; since keyframes left, each once.
        self.connected: list[tuple[int, int]] = []

    def add(self, global_descriptor: Array32, near: Sequence[int] | None = None) -> int:
        """Add a keyframe by its descriptor; returns its index. ``near``: its neighbours, if not those just before."""
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
        """The global descriptor of a keyframe."""
        return self._global_descriptors[index]

    def absorb(self, other: PairGraph) -> int:
        """Append all keyframes and pairs of another graph; returns the index of its first keyframe.

        The descriptors of both must be of one kind, from one ``Appearance``.
        """
        first = self._count
        for vector in other._global_descriptors[: other._count]:
            self._append(vector)
        self._likeness += other._likeness
        self._weights |= {(first + a, first + b): weight for (a, b), weight in other._weights.items()}
        self._counts += other._counts
        self.connected += [(first + a, first + b) for a, b in other._weights]
        return first

    def renumber(self, new: np.ndarray, cameras: Sequence[str]) -> None:
        """Keyframe k becomes ``new[k]`` (N,), in the same order, or leaves if that is negative, with its pairs.

        ``cameras``: those of all N.
        """
        kept = np.flatnonzero(new >= 0)
        self._global_descriptors, self._count = self._global_descriptors[kept], len(kept)
        stay = {(a, b): (int(new[a]), int(new[b])) for a, b in self._weights if min(new[a], new[b]) >= 0}
        for a, b in self._weights.keys() - stay.keys():
            self._counts[cameras[a]] -= cameras[a] == cameras[b]
        self._weights = {stay[pair]: weight for pair, weight in self._weights.items() if pair in stay}
        self.connected = list(dict.fromkeys(stay[pair] for pair in self.connected if pair in stay))

    def neighbours(self, index: int) -> list[int]:
        """The keyframes just before, nearest first."""
        return list(range(index - 1, max(-1, index - 1 - self._config.pair_neighbours), -1))

    def loop_candidates(
        self,
        global_descriptor: Array32,
        before: int,
        apart_from: Sequence[int] = (),
        strict: bool = True,
        thorough: bool = False,
    ) -> list[int]:
        """Similar keyframes older than ``before``, best first, one per neighbourhood.

        Not ``strict``: however low their similarity. ``thorough``: then also the most similar of the others, however
        low: photographs in no order have neighbours that show something else.
        """
        while before - 1 in apart_from:
            before -= 1
        if before <= 0 or self._config.pair_lookalikes == 0:
            return []
        scores = self._global_descriptors[: min(before, self._count)] @ global_descriptor
        scores[[index for index in apart_from if index < before]] = -1.0
        best = np.argsort(-scores, kind="stable")
        apart = self._apart(best, scores, self._alike_enough() if strict else 0.0)
        others = best[: _THOROUGH * thorough].tolist()
        return apart + [index for index in others if scores[index] > 0 and index not in apart]

    def _alike_enough(self) -> float:
        """The least score at which keyframes may show the same place."""
        return self._config.lookalike_score * (float(np.median(self._likeness)) if self._likeness else 1.0)

    def _apart(self, best: np.ndarray, scores: Array32, enough: float) -> list[int]:
        """Of keyframes ``best`` first (N,), by scores (N,), up to the number wanted, none near a better one."""
        chosen: list[int] = []
        for index in best:
            if scores[index] < enough or scores[index] <= 0 or len(chosen) == self._config.pair_lookalikes:
                break
            if all(abs(int(index) - other) > self._config.pair_neighbours for other in chosen):
                chosen.append(int(index))
        return chosen

    def connect(self, first: int, second: int, weight: float, cameras: tuple[str, str]) -> None:
        """Remember that a pair was used, with its weight and its cameras."""
        pair = min(first, second), max(first, second)
        if pair not in self._weights and cameras[0] == cameras[1]:
            self._counts[cameras[0]] += 1
        self._weights[pair] = weight
        self.connected.append(pair)

    def count(self, camera: str) -> int:
        """The number of pairs of one camera."""
        return self._counts[camera]

    @property
    def likeness(self) -> list[float]:
        """Similarities of keyframes to those before them, in no particular order."""
        return list(self._likeness)

    def weight(self, pair: tuple[int, int]) -> float:
        """The weight of a pair (first, second), first < second."""
        return self._weights[pair]

    def restore(self, global_descriptors: Sequence[Array32], likeness: Sequence[float]) -> None:
        """Fill an empty graph: the keyframes' descriptors, and the similarities of neighbours."""
        for global_descriptor in global_descriptors:
            self._append(global_descriptor)
        self._likeness.extend(likeness)

    @property
    def pairs(self) -> int:
        """The number of pairs."""
        return len(self._weights)

    @property
    def edges(self) -> list[tuple[int, int, float]]:
        """(first, second, weight), first < second, in order."""
        return [(first, second, weight) for (first, second), weight in sorted(self._weights.items())]
