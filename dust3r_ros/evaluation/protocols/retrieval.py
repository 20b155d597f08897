"""Which images of a database look like a query."""

from __future__ import annotations

from collections.abc import Iterable

import cv2
import numpy as np

from dust3r_ros.features.features import extract
from dust3r_ros.features.place_recognition import Appearance
from dust3r_ros.types import Array32, Image


class Retrieval:
    """Images (H, W, 3) RGB by their appearance (``appearance.Appearance``; nothing is trained)."""

    def __init__(self, images: Iterable[Image]) -> None:
        self._appearance = Appearance()
        self._looks = [self._look(image) for image in images]

    def best(self, image: Image, count: int) -> list[int]:
        """At most ``count`` images of the database, the most alike first; of equals the first."""
        return self._chosen(self._look(image), count)

    def neighbours(self, index: int, count: int) -> list[int]:
        """The same for an image of the database itself, which is left out."""
        return self._chosen(self._looks[index], count, index)

    def _chosen(self, look: Array32, count: int, apart_from: int | None = None) -> list[int]:
        order = np.argsort([-float(other @ look) for other in self._looks], kind="stable").tolist()
        return [index for index in order if index != apart_from][:count]

    def _look(self, image: Image) -> Array32:
        return self._appearance.describe(extract(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)))
