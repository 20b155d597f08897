"""The protocol of backends, which turn image pairs into pointmaps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol, runtime_checkable

from dust3r_ros.types import Array, Array32, Image, PairPrediction, View


class Backend(Protocol):
    """Predicts pointmaps for pairs of views.

    A view is added once (a network encodes it then, for all its pairs), named by its index in ``predict``
    any number of times and dropped by ``forget``.
    """

    name: str
    uses_poses: bool  # if both poses of a pair are known, its unit of length is the map's

    def add(self, view: View) -> None:
        """Add a view. Raises ``InputError`` for an image that cannot be used."""

    def has(self, index: int) -> bool:
        """Whether a view is held."""

    def forget(self, index: int) -> None:
        """Drop a view; unknown indices are ignored."""

    def clear(self) -> None:
        """Drop every view: another map begins."""

    def predict(
        self,
        pairs: Sequence[tuple[int, int]],
        focals: Mapping[str, float],
        poses: Mapping[int, Array] | None = None,
        landmarks: Mapping[int, Array] | None = None,
    ) -> list[PairPrediction]:
        """Pointmaps of ordered pairs (first, second), in the order asked.

        ``focals``: known ones by camera name, pixels at the views' resolution. ``poses``: ``w_T_c`` (4, 4) of
        views whose pose is already known. ``landmarks``: points (N, 3) of the world that such views see.
        A geometric backend uses them all (``uses_poses``); a network needs none.
        """


@runtime_checkable
class Monocular(Protocol):
    """A backend that also knows something from one image alone: how long its focal is, and how far things are."""

    def guess_focal(self, image: Image) -> tuple[float, float] | None:
        """Focal (pixels) of an image (H, W, 3) RGB uint8, and its relative deviation; None: unknown."""

    def metric_depth(self, image: Image, focal: float) -> Array32 | None:
        """Depth (H, W) in metres, 0 = none, of an image of a pair with ``focal`` (pixels); None: unknown."""
