"""Two-view geometry with a network's depth where geometry knows less: little parallax, no texture."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from dust3r_ros.backends.base import Backend
from dust3r_ros.backends.network_depth import NetworkDepths
from dust3r_ros.backends.prior import TrackRecord, with_prior
from dust3r_ros.backends.two_view import TwoViewBackend
from dust3r_ros.types import Array, PairPrediction, View


class BothBackend:
    """Depth by flow and triangulation, and the network's as a prior, view by view (``prior.with_prior``).

    The network is believed as far as it has been right so far, so what a pair gives depends on the pairs before it;
    the same calls in the same order give the same.

    ``network``: a backend that needs no poses. ``image_size``: (H, W) of its training, None for any. The pair's
    unit of length, its relative pose and focals are geometry's; a pair of which geometry knows nothing stays one
    of which nothing is known, for the network's depth has no unit then.
    """

    name = "both"
    uses_poses = True

    def __init__(
        self, network: Backend, image_size: tuple[int, int] | None = None, min_parallax_deg: float = 1.0
    ) -> None:
        self._geometry = TwoViewBackend(min_parallax_deg)
        self._network = NetworkDepths(network, image_size)
        self._record = TrackRecord()

    def add(self, view: View) -> None:
        """Take a view (H, W, 3) RGB uint8 in, whose sides are multiples of 16."""
        self._geometry.add(view)
        self._network.add(view)

    def has(self, index: int) -> bool:
        """Whether a view is kept."""
        return self._geometry.has(index)

    def forget(self, index: int) -> None:
        """Drop a view; its flows and the network's depth stay while there is room for them."""
        self._geometry.forget(index)
        self._network.forget(index)

    def clear(self) -> None:
        """Drop every view and all that is known of them; the weights stay."""
        self._geometry.clear()
        self._network.clear()
        self._record = TrackRecord()

    def predict(
        self,
        pairs: Sequence[tuple[int, int]],
        focals: Mapping[str, float],
        poses: Mapping[int, Array] | None = None,
        landmarks: Mapping[int, Array] | None = None,
    ) -> list[PairPrediction]:
        """Pointmaps of ordered pairs, in the order asked. Raises what the network does."""
        found = self._geometry.depths(pairs, focals, poses, landmarks)
        # Views that meet at no parallax, or do not match: no scale, and no need to ask
        told = [pair for pair, depths in zip(pairs, found, strict=True) if depths is not None and depths.tells]
        priors = dict(zip(told, self._network.of_pairs(told), strict=True))
        predictions = []
        for pair, depths in zip(pairs, found, strict=True):
            if depths is None:
                predictions.append(self._geometry.nothing_known(*pair, focals))
                continue
            if pair in priors:
                a, b = (with_prior(*each, self._record) for each in zip(depths.depths, priors[pair], strict=True))
                depths = replace(depths, depths=(a, b))
            predictions.append(depths.prediction())
        return predictions
