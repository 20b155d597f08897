"""Which keyframes are paired: the last few, and older ones that look alike."""

from __future__ import annotations

from collections import Counter

import cv2
import numpy as np

from dust3r_ros.config import MapperConfig
from dust3r_ros.types import Array32, Image

_THUMBNAIL = (20, 15)
_BLUR = 1.5


class PairGraph:
    """Proposes older keyframes for a new one and remembers which pairs were used.

    Appearance is a small, blurred, normalised image (as PTAM's relocaliser has, Klein & Murray,
    ECCV 2008): alike means that view point and scene are nearly the same, which is what flow needs.
    """

    def __init__(self, config: MapperConfig) -> None:
        self._config = config
        self._thumbnails: list[Array32] = []
        self._weights: dict[tuple[int, int], float] = {}
        self._counts: Counter[str] = Counter()

    def add(self, image: Image) -> int:
        """A new keyframe by its grey image (H, W); returns its index."""
        self._thumbnails.append(_thumbnail(image))
        return len(self._thumbnails) - 1

    def neighbours(self, index: int) -> list[int]:
        """The keyframes just before, nearest first."""
        return list(range(index - 1, max(-1, index - 1 - self._config.pair_neighbours), -1))

    def lookalikes(self, image: Image, before: int) -> list[int]:
        """Keyframes older than ``before`` that look like a grey image, best first, one per neighbourhood."""
        if before <= 0 or self._config.pair_lookalikes == 0:
            return []
        scores = np.stack(self._thumbnails[:before]) @ _thumbnail(image)
        chosen: list[int] = []
        for index in np.argsort(-scores, kind="stable"):
            if scores[index] < self._config.lookalike_score or len(chosen) == self._config.pair_lookalikes:
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

    def count(self, camera: str) -> int:
        """How many pairs are of one camera."""
        return self._counts[camera]

    @property
    def edges(self) -> list[tuple[int, int, float]]:
        """(first, second, weight), first < second, in order."""
        return [(first, second, weight) for (first, second), weight in sorted(self._weights.items())]


def _thumbnail(image: Image) -> Array32:
    """Unit vector of mean zero."""
    small = cv2.GaussianBlur(cv2.resize(image, _THUMBNAIL, interpolation=cv2.INTER_AREA), (0, 0), _BLUR)
    vector = small.astype(np.float32).ravel()
    vector -= vector.mean()
    return vector / max(float(np.linalg.norm(vector)), 1e-6)
