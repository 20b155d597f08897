"""Two-view geometry, with a network's depth where geometry knows less: little parallax, no texture."""

from __future__ import annotations

import zlib
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from math import log

import cv2
import numpy as np
from numpy.typing import NDArray

from dust3r_ros.backends.base import Backend, ByteCache
from dust3r_ros.backends.flow import StereoDepth
from dust3r_ros.backends.prior import NetworkDepth, TrackRecord, certain, counts, with_prior, worth_asking
from dust3r_ros.backends.two_view import PairDepths, TwoViewBackend
from dust3r_ros.types import Array, Array32, Image, PairPrediction, View

Pair = tuple[int, int]
_Best = Mapping[int, tuple[Pair, StereoDepth]]

_PATCH = 16
_STRETCH = 0.03  # relative change of the aspect ratio allowed to keep more of an image's pixels
_NOTHING = np.float16(-np.inf)
_DEEPEST = 10.0  # of log depth, in the network's unit


@dataclass(frozen=True, eq=False)
class _Packed:
    """Log depth, -inf = none, and log confidence at the network's resolution."""

    depth: NDArray[np.float16]
    confidence: NDArray[np.float16]

    @property
    def size(self) -> int:
        """Bytes."""
        return self.depth.nbytes + self.confidence.nbytes


class NetworkDepths:
    """Depth of both views of pairs, by a backend that needs no poses.

    Each order of a pair gives the depth of its first view in that view's camera. Images with more pixels than those
    of training, ``image_size`` (H, W), are shrunk to about as many in their own aspect ratio; depth is enlarged again.
    A view is encoded when a pair first needs it; results of pairs are kept up to ``budget`` bytes, even after
    their views are forgotten, since they do not depend on poses.
    """

    def __init__(self, network: Backend, image_size: tuple[int, int] | None = None, budget: int = 128 << 20) -> None:
        self._network, self._image_size = network, image_size
        self._views: dict[int, View] = {}
        self._digests: dict[int, int] = {}
        self._kept = ByteCache[Pair, _Packed](budget)

    def add(self, view: View) -> None:
        """Add a view (H, W, 3) RGB uint8 with sides that are multiples of 16; another image replaces an earlier one."""
        digest = zlib.crc32(view.image.tobytes())
        if self._digests.get(view.index) != digest:
            self._network.forget(view.index)
            self._kept.drop(pair for pair in self._kept if view.index in pair)
        self._views[view.index], self._digests[view.index] = view, digest

    def forget(self, index: int) -> None:
        """Drop a view; the results of its pairs stay while there is room."""
        self._views.pop(index, None)
        self._network.forget(index)

    def clear(self) -> None:
        """Drop everything."""
        self._network.clear()
        self._views.clear()
        self._digests.clear()
        self._kept.drop(self._kept)

    def in_reach(self, order: Pair) -> bool:
        """Whether the result of an ordered pair is kept or can be had: both views are held."""
        return order in self._kept or all(index in self._views for index in order)

    def of_orders(self, orders: Sequence[Pair]) -> dict[Pair, NetworkDepth]:
        """Depth of the first view of each ordered pair, at that view's resolution, in one batch."""
        orders = list(dict.fromkeys(orders))
        found = {order: kept for order in orders if (kept := self._kept.get(order))}
        missing = [order for order in orders if order not in found]
        if missing:
            found |= self._predicted(missing)
        return {order: self._grown(order[0], found[order]) for order in orders}

    def _predicted(self, orders: Sequence[Pair]) -> dict[Pair, _Packed]:
        """The network's results for ordered pairs, which are kept from then on."""
        for index in sorted({index for order in orders for index in order}):
            if not self._network.has(index):
                view = self._views[index]
                self._network.add(View(index, view.camera, self._shrunk(view.image)))
        found: dict[Pair, _Packed] = {}
        for order, prediction in zip(orders, self._network.predict(orders, {}), strict=True):
            found[order] = _pack(prediction.points_first[..., 2], prediction.confidence_first)
            self._kept.put(order, found[order])
        return found

    def _shrunk(self, image: Image) -> Image:
        size = network_size(image.shape[:2], self._image_size)
        return image if size == image.shape[:2] else cv2.resize(image, size[::-1], interpolation=cv2.INTER_AREA)

    def _grown(self, index: int, packed: _Packed) -> NetworkDepth:
        shape = self._views[index].image.shape[:2]
        logs, confidence = packed.depth.astype(np.float32), np.exp(packed.confidence.astype(np.float32))
        depth = np.exp(logs)
        if depth.shape == shape:
            return NetworkDepth(depth, confidence)
        size, nothing = shape[::-1], (depth == 0).astype(np.float32)
        logs = cv2.resize(np.where(depth > 0, logs, np.float32(0)), size, interpolation=cv2.INTER_LINEAR)
        bad = cv2.resize(nothing, size, interpolation=cv2.INTER_LINEAR) > 0
        confidence = cv2.resize(confidence, size, interpolation=cv2.INTER_LINEAR)
        return NetworkDepth(np.where(bad, np.float32(0), np.exp(logs)), confidence)


def network_size(shape: tuple[int, int], trained: tuple[int, int] | None) -> tuple[int, int]:
    """(H, W) in multiples of 16 for an image of ``shape`` in a network ``trained`` on (H, W); never larger.

    At most as many pixels as in training. The largest of the sizes that keep the aspect ratio to 3 %, or the
    one that keeps it best.
    """
    height, width = shape
    most = height * width if trained is None else trained[0] * trained[1]
    if height * width <= most:
        return shape
    aspect = log(width / height)
    sizes = []
    for rows in range(1, min(height // _PATCH, most // _PATCH**2) + 1):
        columns = min(round(rows * width / height), width // _PATCH, most // (rows * _PATCH**2))
        if columns:
            sizes.append((max(abs(log(columns / rows) - aspect), _STRETCH), -rows * columns, rows, columns))
    *_, rows, columns = min(sizes)
    return rows * _PATCH, columns * _PATCH


def _pack(depth: Array32, confidence: Array32) -> _Packed:
    good = np.isfinite(depth) & (depth > 0) & np.isfinite(confidence)
    logs = np.log(np.where(good, depth, np.float32(1)))
    logs = np.where(good & (np.abs(logs) < _DEEPEST), logs, _NOTHING).astype(np.float16)
    sure = np.where(good, np.clip(confidence, 1, np.exp(_DEEPEST)), np.float32(1))
    return _Packed(logs, np.log(sure).astype(np.float16))


@dataclass(eq=False)
class _Known:
    """Pixels (H, W) of a view known by its pairs so far, those that the network added, and in which pair, if in any."""

    geometry: np.ndarray
    network: np.ndarray
    asked: Pair | None = None


class GeometryWithNetwork(ABC):
    """Depth by flow and triangulation, with a network's as a prior, view by view (``prior.with_prior``).

    The network is trusted as far as it has been right so far, so the result of a pair depends on earlier pairs;
    the same calls in the same order give the same results. It is asked once for a view, if all its pairs so far leave
    enough of it unknown, and rarely while it does not help (``TrackRecord.asks``). The pair's unit of length, its
    relative pose and focals come from geometry; a pair unknown to geometry stays unknown, since a network's depth has
    no unit then.
    """

    uses_poses = True

    def __init__(self, min_parallax_deg: float) -> None:
        self._geometry = TwoViewBackend(min_parallax_deg)
        self._record = TrackRecord()
        self._known: dict[int, _Known] = {}

    def add(self, view: View) -> None:
        """Add a view (H, W, 3) RGB uint8 with sides that are multiples of 16."""
        self._geometry.add(view)
        self._judge(view.index)

    def has(self, index: int) -> bool:
        """Whether a view is held."""
        return self._geometry.has(index)

    def forget(self, index: int) -> None:
        """Drop a view; its flows and the network's depth stay while there is room for them."""
        self._geometry.forget(index)
        self._judge(index)

    def _judge(self, index: int) -> None:
        """No more pairs of a view come: record what the network was good for."""
        self._known.pop(index, None)
        share = self._record.hoped.pop(index, None)
        if share is not None:
            self._record.add_gained(share)

    def clear(self) -> None:
        """Drop every view and everything derived from pairs; the weights stay."""
        self._geometry.clear()
        self._known.clear()
        self._record = TrackRecord()

    def predict(
        self,
        pairs: Sequence[tuple[int, int]],
        focals: Mapping[str, float],
        poses: Mapping[int, Array] | None = None,
        landmarks: Mapping[int, Array] | None = None,
    ) -> list[PairPrediction]:
        """Pointmaps of ordered pairs, in the order asked. Raises what the network raises."""
        found = self._geometry.depths(pairs, focals, poses, landmarks)
        views = [each for depths in found if depths for each in _views(depths)]
        self._note(views)
        best = _surest(views)
        self._expect(self._hopeful(best))
        return [
            self._geometry.nothing_known(*pair, focals)
            if depths is None
            else replace(depths, depths=self._with_network(depths, best, focals)).prediction()
            for pair, depths in zip(pairs, found, strict=True)
        ]

    def _note(self, views: Sequence[tuple[Pair, StereoDepth]]) -> None:
        """Record what geometry knows of views in their orders."""
        for (index, _), stereo in views:
            counting = counts(stereo)
            known = self._known.setdefault(index, _Known(np.zeros_like(counting), np.zeros_like(counting)))
            known.geometry |= counting
            if known.asked is not None and not self._in_reach(known.asked):
                known.asked = None

    def _hopeful(self, best: _Best) -> list[Pair]:
        """The orders for which the network will probably be asked."""
        found = []
        for index, (order, stereo) in best.items():
            known = self._known[index]
            if known.asked is not None:
                found.append(known.asked)
            elif self._record.helps and worth_asking(stereo, known.geometry):
                found.append(order)
        return found

    def _with_network(
        self, depths: PairDepths, best: _Best, focals: Mapping[str, float]
    ) -> tuple[StereoDepth, StereoDepth]:
        """Depth of both views, with the network's if it is asked for them."""
        first, second = (self._joined(order[0], stereo, best, focals) for order, stereo in _views(depths))
        return first, second

    def _joined(self, index: int, stereo: StereoDepth, best: _Best, focals: Mapping[str, float]) -> StereoDepth:
        """Depth of a view in one of its pairs, with the network's from the pair in which it is asked, if it is."""
        known, (order, surest) = self._known[index], best[index]
        if known.asked is None and self._record.asks(surest, known.geometry):
            known.asked = order
        if known.asked is None:
            return stereo
        found = with_prior(stereo, self._network_depth(known.asked, stereo, focals), self._record)
        known.network |= counts(found) & ~known.geometry
        self._record.hoped[index] = float(np.mean(known.network & ~known.geometry))
        return found

    def _in_reach(self, order: Pair) -> bool:
        """Whether ``_network_depth`` can be asked for an ordered pair whose second view may be gone."""
        return True

    @abstractmethod
    def _expect(self, orders: Sequence[Pair]) -> None:
        """Hear what ``_network_depth`` will probably be asked for."""

    @abstractmethod
    def _network_depth(self, order: Pair, stereo: StereoDepth, focals: Mapping[str, float]) -> NetworkDepth:
        """Depth of the first view of an ordered pair by the network, which geometry knows as ``stereo``."""


class BothBackend(GeometryWithNetwork):
    """With the depth of a network for pairs.

    ``network``: a backend that needs no poses. ``image_size``: (H, W) of its training, None for any.
    """

    name = "both"

    def __init__(
        self, network: Backend, image_size: tuple[int, int] | None = None, min_parallax_deg: float = 1.0
    ) -> None:
        super().__init__(min_parallax_deg)
        self._network = NetworkDepths(network, image_size)
        self._expected: dict[Pair, NetworkDepth] = {}

    def add(self, view: View) -> None:
        """As ``GeometryWithNetwork``."""
        super().add(view)
        self._network.add(view)

    def forget(self, index: int) -> None:
        """As ``GeometryWithNetwork``."""
        super().forget(index)
        self._network.forget(index)

    def clear(self) -> None:
        """As ``GeometryWithNetwork``."""
        super().clear()
        self._network.clear()

    def _in_reach(self, order: Pair) -> bool:
        return self._network.in_reach(order)

    def _expect(self, orders: Sequence[Pair]) -> None:
        self._expected = self._network.of_orders(orders)  # in one batch

    def _network_depth(self, order: Pair, stereo: StereoDepth, focals: Mapping[str, float]) -> NetworkDepth:
        if order not in self._expected:
            self._expected |= self._network.of_orders([order])
        return self._expected[order]


def _views(depths: PairDepths) -> tuple[tuple[Pair, StereoDepth], ...]:
    """Both views' depth by geometry, and the order in which a network gives that of each."""
    first, second = depths.depths
    return ((depths.first, depths.second), first), ((depths.second, depths.first), second)


def _surest(views: Sequence[tuple[Pair, StereoDepth]]) -> _Best:
    """By view the order in which geometry knows most of it surely."""
    best: dict[int, tuple[Pair, StereoDepth]] = {}
    most: dict[int, int] = {}
    for order, stereo in views:
        index, sure = order[0], int(np.count_nonzero(certain(stereo)))
        if sure > most.get(index, -1):
            best[index], most[index] = (order, stereo), sure
    return best
