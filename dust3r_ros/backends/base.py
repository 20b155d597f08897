"""The protocol of backends, which turn image pairs into pointmaps, and what confidence near 1 means."""

from __future__ import annotations

import logging
from collections.abc import Collection, Container, Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Generic, Protocol, TypeVar, runtime_checkable

import numpy as np

from dust3r_ros.errors import BackendError, InputError
from dust3r_ros.types import Array, Array32, Image, PairPrediction, View

_log = logging.getLogger(__name__)


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


class Network(Backend, Protocol):
    """A backend that needs no poses, trained on images of ``image_size`` (H, W)."""

    @property
    def image_size(self) -> tuple[int, int]:
        """(H, W) in pixels."""


def as_asked(
    found: Sequence[PairPrediction], pairs: Sequence[tuple[int, int]], sizes: Mapping[int, tuple[int, ...]], name: str
) -> list[PairPrediction]:
    """What backend ``name`` returned for ``pairs`` of views, whose images have ``sizes`` (H, W), once it is checked.

    Anybody may write a backend. Raises ``BackendError`` for other pairs, and for pointmaps of another shape.
    """
    if [(each.first, each.second) for each in found] != [(first, second) for first, second in pairs]:
        raise BackendError(f"backend '{name}' returned {len(found)} predictions that are not of the {len(pairs)} pairs")
    for each in found:
        for view, points, confidence in (
            (each.first, each.points_first, each.confidence_first),
            (each.second, each.points_second, each.confidence_second),
        ):
            if points.shape != (*sizes[view], 3) or confidence.shape != sizes[view]:
                raise BackendError(
                    f"backend '{name}' returned points {points.shape} and confidences {confidence.shape} for an image "
                    f"{sizes[view]}; they must be {(*sizes[view], 3)} and {sizes[view]}"
                )
    return list(found)


def views_of(pairs: Sequence[tuple[int, int]], held: Container[int], where: str) -> list[int]:
    """The views of ``pairs``, sorted. Raises ``InputError``, which names ``where``, for one that is not ``held``."""
    asked = sorted({index for pair in pairs for index in pair})
    for index in asked:
        if index not in held:
            raise InputError(f"view {index} is not known to the {where}; it must be added before its pairs")
    return asked


class Sized(Protocol):
    """Something that takes room."""

    @property
    def size(self) -> int:
        """Bytes."""


_Key = TypeVar("_Key", bound=Hashable)
_Value = TypeVar("_Value", bound=Sized)


class ByteCache(Collection[_Key], Generic[_Key, _Value]):
    """Values, kept up to ``budget`` bytes: beyond, those leave first that are the longest neither put nor used."""

    def __init__(self, budget: int = 128 << 20) -> None:
        self._budget = budget
        self._kept: dict[_Key, _Value] = {}  # in the order in which they leave
        self.size = 0  # bytes

    def __contains__(self, key: object) -> bool:
        return key in self._kept

    def __iter__(self) -> Iterator[_Key]:
        return iter(list(self._kept))

    def __len__(self) -> int:
        return len(self._kept)

    def get(self, key: _Key) -> _Value | None:
        """A value, which stays as old as it is; None if it is not kept."""
        return self._kept.get(key)

    def use(self, key: _Key) -> _Value | None:
        """A value, which counts as new; None if it is not kept."""
        value = self._kept.pop(key, None)
        if value is not None:
            self._kept[key] = value
        return value

    def put(self, key: _Key, value: _Value) -> None:
        """Keep a value, however large; it may displace all others."""
        self.drop([key])
        self._kept[key] = value
        self.size += value.size
        while self.size > self._budget and len(self._kept) > 1:
            self.drop([next(iter(self._kept))])

    def drop(self, keys: Iterable[_Key]) -> None:
        """Drop the values of ``keys``, as far as they are kept."""
        for key in keys:
            if key in self._kept:
                self.size -= self._kept.pop(key).size


@runtime_checkable
class Monocular(Protocol):
    """A backend that also knows something from one image alone: how long its focal is, and how far things are."""

    def guess_focal(self, image: Image) -> tuple[float, float] | None:
        """Focal (pixels) of an image (H, W, 3) RGB uint8, and its relative deviation; None: unknown."""

    def metric_depth(self, image: Image, focal: float) -> Array32 | None:
        """Depth (H, W) in metres, 0 = none, of an image of a pair with ``focal`` (pixels); None: unknown."""


_QUANTILE = 0.9  # of the confidences of a view: many of its pixels may show what no network knows
_USUAL = 2.0  # C - 1 to which this quantile is raised for a hardly certain network
_LEAST_USUAL = 0.1  # below this, a network is hardly certain
_NOTHING = 0.01  # C - 1, after that, which counts as no knowledge
_ROUNDING = 2e-6  # of C in single precision, a few times
_JUDGED = 16  # predictions


class RelativeConfidence:
    """A network with the confidence that counts: one that is hardly certain of anything counts relative to itself.

    The loss, mean of C l - alpha log C, leaves C at 1 where the error l exceeds alpha. So a network with large errors
    has confidence just above 1 everywhere; it still says which pixels it knows better than others. One whose confidence
    is 1 in all second views says nothing of how views lie to each other: a sentence in the log says so.
    """

    uses_poses = False

    def __init__(self, network: Backend) -> None:
        """``network``: a backend that needs no poses."""
        self.name, self._network = network.name, network
        self._usual, self._largest = 0.0, 0.0  # largest quantile and value of C - 1, of second views
        self._seen = 0

    def add(self, view: View) -> None:
        """As the network does."""
        self._network.add(view)

    def has(self, index: int) -> bool:
        """As the network does."""
        return self._network.has(index)

    def forget(self, index: int) -> None:
        """As the network does."""
        self._network.forget(index)

    def clear(self) -> None:
        """As the network does; what is known of its confidence stays."""
        self._network.clear()

    def predict(
        self,
        pairs: Sequence[tuple[int, int]],
        focals: Mapping[str, float],
        poses: Mapping[int, Array] | None = None,
        landmarks: Mapping[int, Array] | None = None,
    ) -> list[PairPrediction]:
        """The network's, with the confidence that counts."""
        predictions = self._network.predict(pairs, focals, poses, landmarks)
        for prediction in predictions:
            beyond = np.nan_to_num(prediction.confidence_second, nan=1.0, posinf=1e6) - 1
            self._usual = max(self._usual, float(np.quantile(beyond, _QUANTILE)))
            self._largest = max(self._largest, float(beyond.max()))
        self._report(len(predictions))
        if self._usual >= _LEAST_USUAL or self._usual < _ROUNDING:
            return predictions
        gain = np.float32(_USUAL / self._usual)
        return [
            replace(
                prediction,
                confidence_first=_raised(prediction.confidence_first, gain),
                confidence_second=_raised(prediction.confidence_second, gain),
            )
            for prediction in predictions
        ]

    def _report(self, more: int) -> None:
        before, self._seen = self._seen, self._seen + more
        if not before < _JUDGED <= self._seen:
            return
        if self._largest < _ROUNDING:
            _log.warning(
                "the confidence of network '%s' is 1 in the second view of all of the first %d pairs: its errors "
                "exceed the alpha of its loss; it cannot place one view beside another and maps nothing alone: "
                "train it longer, or use backend 'two_view'",
                self.name, self._seen,
            )  # fmt: skip
        elif _ROUNDING < self._usual < _LEAST_USUAL:
            _log.warning(
                "network '%s' is hardly certain of anything: nine tenths of the confidences are below 1 + %.2g in the "
                "first %d pairs; they count relative to that",
                self.name, self._usual, self._seen,
            )  # fmt: skip


def _raised(confidence: Array32, gain: np.float32) -> Array32:
    beyond = (confidence - np.float32(1)) * gain
    return np.where(beyond < _NOTHING, np.float32(1), 1 + beyond).astype(np.float32)
