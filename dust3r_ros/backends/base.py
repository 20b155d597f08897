"""The protocol of everything that turns image pairs into pointmaps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

from dust3r_ros.types import Array, PairPrediction, View


class Backend(Protocol):
    """Predicts pointmaps for pairs of views.

    A view is announced by ``add`` once (the network encodes it there, once for all its pairs),
    named by its index in ``predict`` as often as wanted and let go by ``forget``.
    """

    name: str
    uses_poses: bool  # with both poses of a pair known, its unit of length is the map's

    def add(self, view: View) -> None:
        """Take a view in. Raises ``InputError`` for an image that cannot be used."""

    def has(self, index: int) -> bool:
        """Whether a view is kept."""

    def forget(self, index: int) -> None:
        """Drop what is kept of a view; unknown indices are ignored."""

    def clear(self) -> None:
        """Drop what is kept of every view: another map begins."""

    def predict(
        self,
        pairs: Sequence[tuple[int, int]],
        focals: Mapping[str, float],
        poses: Mapping[int, Array] | None = None,
        landmarks: Mapping[int, Array] | None = None,
    ) -> list[PairPrediction]:
        """Pointmaps of ordered pairs (first, second), in the order asked.

        ``focals``: pixels at the views' resolution by camera name, as far as known. ``poses``:
        ``w_T_c`` (4, 4) of views whose pose is known already. ``landmarks``: points (N, 3) of the world that such
        views see. A backend from geometry uses them all (``uses_poses``); a network needs none.
        """
