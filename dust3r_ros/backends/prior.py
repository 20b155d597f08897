"""A network's depth as a prior for two-view geometry: its scale, its precision, and the combination of both."""

from __future__ import annotations

from dataclasses import dataclass
from math import exp

import cv2
import numpy as np

from dust3r_ros.backends.flow import StereoDepth
from dust3r_ros.geometry.depths import REFERENCE_PRECISION
from dust3r_ros.types import Array, Array32

_SURE = 0.1  # relative precision of geometry at which a pixel counts for the scale
_TILES = 4  # per side of a view: neighbours share the network's error, so evidence is counted in tiles
_LEAST_OF_TILE = 0.05  # share of a tile's pixels that must be certain
_LEAST_TILES = 5  # fewer give no spread: that of n has n - 3 in its denominator
_QUANTILE, _SIGMAS = 0.8, 1.2816  # quantile of the absolute residuals, and its value for a normal distribution
_AROUND, _CELL = 1 / 6, 1 / 20  # of the long edge: extent of similar bending in a view, and of the cells that test it
_NEAR, _SMEARED = 1 / 8, 6.0  # of the long edge: what is near an outline; times the variance of the whole view
_FEW = np.float32(0.01)  # of the least weight around a pixel, below which nothing is known of outlines
_LEAST_AROUND = 0.1  # share of a pixel's surroundings that must be certain for the bending to count by half
_FLOOR = 0.02  # no network is more precise
_BEND = 0.5  # relative error of log depth outside geometry's range of depths, per distance outside
_SHARED = 2.5  # all pairs of a view, six or so, share the network's error, and their confidences are added
# C - 1 below which a prior is dropped. Later steps take the errors of distant pixels as independent and average
# them over planes, pairs and keyframes; a network's errors are not independent, and would look precise.
_LEAST_GAIN = 0.25
# Share of the variance unexplained by a plane through geometry. A network that leaves more only knows what scenes are
# like on average, floor below and walls beyond. It would still look precise after bending, which follows geometry on
# every smooth surface, and would displace what geometry itself implies for pixels without depth.
_MOST_LEFT = 0.5
_UNPROVEN = 5  # unexplained tiles with which every network starts, so that luck with one view does not suffice
# Times the plane's variance that one view counts at most: that of a young map, whose geometry is wrong, would otherwise
# outweigh a hundred others.
_WORST = 2.0
_REMEMBERED = 4000  # tiles, about a hundred views: a network that is right about rooms may be wrong about woods
_CONTRADICTION = 3.0  # standard deviations
_LEAST_UNKNOWN = 0.03  # share of a view's pixels that geometry must leave to the network
# Share of a view's pixels that nothing but the network must have filled in the end to be worth its time, in the mean of
# recent views: it may be believed and still be too imprecise, or only earlier than other pairs. ``_HOPED`` at first.
_LEAST_GAINED, _RECENT, _HOPED = 0.03, 8, 0.1
# Views between two for which a network is asked only to judge it: while it helps; while it does not, each time so many
# times as many, up to so many.
_HELPING_PAUSE, _GROWTH, _LONGEST_PAUSE = 15, 3, 127
_MAX_GAIN = 99.0
_SAMPLES = 8000  # of a view's pixels, from which quantiles and planes are found


@dataclass(frozen=True, eq=False)
class NetworkDepth:
    """Depth (H, W) of one view by a network, in its own unit, 0 = none, and its confidence (H, W) >= 1."""

    depth: Array32
    confidence: Array32


@dataclass(frozen=True, eq=False)
class _Evidence:
    """Pixels at which both know depth: log ratio ``ratio`` (N,), geometry to network, and related values."""

    ratio: Array
    weight: Array
    variance: Array  # of geometry
    tile: np.ndarray
    at: np.ndarray  # (H, W), their positions


class TrackRecord:
    """The variance that a network has left unexplained in all views so far that geometry knew well enough.

    A poor network fits some views well by luck, and would be trusted there if each view were judged alone.
    Older views count less. The same views in the same order give the same record.
    """

    def __init__(self) -> None:
        self._tiles, self._network, self._plane = 0.0, 0.0, 0.0
        self._gained, self._counted = _HOPED, 1
        self.hoped: dict[int, float] = {}  # shares so far of views that more pairs may come of: they hardly grow
        self._passed = self._pause = 0  # views since the last that the network was asked for; and until the next

    def add(self, tiles: int, network: float, plane: float) -> None:
        """Add a view: variance of log depth about the network and about a plane, from ``tiles`` tiles."""
        kept = exp(-tiles / _REMEMBERED)
        self._tiles = kept * self._tiles + tiles
        self._network = kept * self._network + tiles * min(network, _WORST * plane)
        self._plane = kept * self._plane + tiles * plane

    def add_gained(self, share: float) -> None:
        """Add a view of which in the end this ``share`` of the pixels is known by the network alone."""
        if self.believed:
            self._gained, self._counted = self._with(share)

    def _with(self, *shares: float) -> tuple[float, int]:
        """Mean share of recent views after further ones, and how many they are."""
        gained, counted = self._gained, self._counted
        for share in shares:
            counted = min(counted + 1, _RECENT)
            gained += (share - gained) / counted
        return gained, counted

    @property
    def left(self) -> float:
        """The network's unexplained variance over that of a plane, 1 before the first view."""
        if self._tiles == 0:
            return 1.0
        unproven = _UNPROVEN * self._plane / self._tiles
        return (self._network + unproven) / (self._plane + unproven)

    @property
    def believed(self) -> bool:
        """Whether the network's depth counts."""
        return self.left <= _MOST_LEFT

    @property
    def helps(self) -> bool:
        """Whether asking the network is worth its time: it is believed, and fills enough."""
        return self.believed and self._with(*self.hoped.values())[0] > _LEAST_GAINED

    def asks(self, stereo: StereoDepth, known: np.ndarray) -> bool:
        """Whether to ask the network for the next view: one pair knows it as ``stereo``, all of them ``known`` (H, W).

        While it helps, wherever geometry leaves enough unknown, and for a few other views; otherwise only to judge it
        again, each time after three times as many views. Never where geometry is too little to judge by.
        """
        if not _judges(stereo):
            return False
        self._passed += 1
        if self._passed <= self._pause and not (self.helps and worth_asking(stereo, known)):
            return False
        self._passed = 0
        self._pause = _HELPING_PAUSE if self.helps else min(_GROWTH * (self._pause + 1) - 1, _LONGEST_PAUSE)
        return True


def worth_asking(stereo: StereoDepth, known: np.ndarray) -> bool:
    """Whether geometry leaves enough of a view unknown, and knows enough of it to judge a network by."""
    return bool(np.mean(known) < 1 - _LEAST_UNKNOWN) and _judges(stereo)


def counts(stereo: StereoDepth) -> np.ndarray:
    """(H, W) pixels of which the depth is certain enough to count."""
    return np.asarray(stereo.confidence - 1 >= _LEAST_GAIN)


def _judges(stereo: StereoDepth) -> bool:
    """Whether geometry is certain in enough tiles of a view."""
    return bool(_known_tiles(certain(stereo)).sum() >= _LEAST_TILES)


def certain(stereo: StereoDepth) -> np.ndarray:
    """(H, W) pixels at which geometry is certain enough to judge a network by."""
    return stereo.confidence - 1 > (REFERENCE_PRECISION / _SURE) ** 2


def _known_tiles(sure: np.ndarray) -> np.ndarray:
    """(tiles,) those of which enough pixels (H, W) are ``sure``."""
    tile = _tiles(*sure.shape)
    return np.asarray(np.bincount(tile[sure], minlength=_TILES**2) > _LEAST_OF_TILE * np.bincount(tile.ravel()))


def with_prior(stereo: StereoDepth, network: NetworkDepth, record: TrackRecord) -> StereoDepth:
    """Depth of a view by geometry or by the network, whichever knows more, and by both where they agree.

    The network's depth is brought to the unit of geometry by one scale, the weighted median of log ratios where
    both are certain; around certain pixels the mean of the remaining difference is added, since networks bend a
    view smoothly. The spread of the ratios over the view, beyond geometry's own errors, is the prior's relative
    precision sigma; near certain pixels it is how far the mean made without them misses them. It is worse for pixels
    of which the network is less certain, outside geometry's range of depths, or in another part of the view. The
    confidence is 1 + (reference / sigma)^2 as in stereo. So a network that is wrong about a view is ignored there, one
    that has mostly been wrong is ignored everywhere, and without enough certain geometry every network is ignored.
    ``record``: of this network, to which this view is added.
    """
    sure = _evidence(stereo, network)
    if sure is None:
        return stereo
    prior = _prior(sure, stereo, network, record)
    return stereo if prior is None else StereoDepth(*_joined(stereo, *prior))


def _evidence(stereo: StereoDepth, network: NetworkDepth) -> _Evidence | None:
    gain = stereo.confidence - 1
    sure = certain(stereo) & (network.depth > 0) & (network.confidence > 1)
    tile, known = _tiles(*gain.shape), _known_tiles(sure)
    sure &= known[tile]
    if known.sum() < _LEAST_TILES:
        return None
    # Beyond the reference precision, geometry does not cause the ratio's error
    weight = np.minimum(gain[sure], 1) * np.log(network.confidence[sure])
    return _Evidence(
        np.log(stereo.depth[sure].astype(np.float64) / network.depth[sure]),
        weight.astype(np.float64),
        REFERENCE_PRECISION**2 / gain[sure].astype(np.float64),
        tile[sure],
        sure,
    )


def _prior(
    sure: _Evidence, stereo: StereoDepth, network: NetworkDepth, record: TrackRecord
) -> tuple[Array32, Array32] | None:
    """Depth (H, W) in the unit of geometry and C - 1 (H, W); None if the network is to be ignored."""
    scale = _quantile(sure.ratio, sure.weight, 0.5)
    noise = float(np.average(sure.variance, weights=sure.weight))
    variance = _variance(np.abs(sure.ratio - scale), sure.weight, noise)
    beside_plane = _variance(*_off_plane(stereo, sure), noise)
    tiles = len(np.unique(sure.tile))
    record.add(tiles, variance, beside_plane)
    if max(variance / beside_plane, record.left) > _MOST_LEFT:
        return None
    bent, there, local = _bending(sure, scale, noise, variance)
    # Of a further tile, given mean and spread of the known ones (Student's predictive distribution)
    variance *= (1 + 1 / tiles) * (tiles - 1) / (tiles - 3)
    known = network.depth > 0
    logs = np.log(np.where(known, network.depth, np.float32(1)))
    seen = certain(stereo) & known
    near, far = np.quantile(logs[seen], (0.05, 0.95))
    beyond = np.maximum(np.maximum(near - logs, logs - far), 0)
    typical = np.median(network.confidence[seen])
    # The training loss is least if confidence is inversely proportional to the error
    doubt = np.maximum(typical / network.confidence, 1)
    # The network's error drifts over the view: as much again for every tile of distance
    far_off = _distance(np.unique(sure.tile))[_tiles(*logs.shape)]
    elsewhere = variance * (doubt * doubt + far_off * far_off)
    total = there * local * doubt * doubt + (1 - there) * elsewhere + (_BEND * beyond) ** 2
    gain = REFERENCE_PRECISION**2 / (_SHARED * total)
    gain = np.where(known & (network.confidence > 1) & (gain > _LEAST_GAIN), gain, 0).astype(np.float32)
    return (np.exp(logs + np.float32(scale) + bent), gain) if gain.any() else None


def _off_plane(stereo: StereoDepth, sure: _Evidence) -> tuple[Array, Array]:
    """How far the log depth of geometry is from its best linear function of the pixel, at a sample; and the weights."""
    some = _sample(len(sure.ratio))
    v, u = (part[some] for part in np.nonzero(sure.at))
    logs, weight = np.log(stereo.depth[v, u].astype(np.float64)), sure.weight[some]
    basis = np.stack([np.ones(len(u)), u / max(sure.at.shape), v / max(sure.at.shape)], axis=1)
    root = np.sqrt(weight)[:, None]
    plane, *_ = np.linalg.lstsq(basis * root, logs * root[:, 0], rcond=None)
    return np.abs(logs - basis @ plane), weight


def _variance(off: Array, weight: Array, noise: float) -> float:
    """Variance of the network's log depth, from the errors ``off`` of ratios and the variance of geometry."""
    spread = _quantile(off, weight, _QUANTILE) / _SIGMAS
    # A difference of two large numbers is not trusted: at most three quarters are attributed to geometry
    return max(spread**2 - noise, spread**2 / 4, _FLOOR**2)


def _bending(sure: _Evidence, scale: float, noise: float, variance: float) -> tuple[Array32, Array32, Array32]:
    """The error of the network's log depth around each pixel, how much it counts there, and its variance, (H, W) each.

    A network bends a view smoothly: the weighted mean of the residuals around a pixel measures it. Its variance
    is that of residuals left out of the mean: the cells of a chess board take turns. It is that of the whole view, or
    of what is near where that is much larger: networks smear outlines, which are few pixels, and where geometry ends.
    """
    shape = sure.at.shape
    most = 3 * np.sqrt(variance + noise)
    residual, weight = np.zeros((2, *shape), np.float32)
    residual[sure.at], weight[sure.at] = np.clip(sure.ratio - scale, -most, most), sure.weight
    typical = np.float32(_LEAST_AROUND * sure.weight.mean())
    cell = max(1, round(max(shape) * _CELL))
    board = (np.arange(shape[0])[:, None] // cell + np.arange(shape[1])[None, :] // cell) % 2

    def around(part: Array32) -> tuple[Array32, Array32]:
        side = (2 * round(max(shape) * _AROUND / 2) + 1,) * 2
        total = cv2.blur(part, side, borderType=cv2.BORDER_CONSTANT)
        mean = cv2.blur(part * residual, side, borderType=cv2.BORDER_CONSTANT) / (total + typical)
        return mean, total / (total + typical)

    off = np.zeros(shape, np.float32)
    for colour in (0, 1):
        mean, _ = around(np.where(board == colour, weight, np.float32(0)))
        off = np.where(board == colour, off, np.abs(residual - mean))
    local = np.float32(_variance(off[sure.at].astype(np.float64), sure.weight, noise))
    side = (2 * round(max(shape) * _NEAR / 2) + 1,) * 2
    squares, total = (cv2.blur(part, side, borderType=cv2.BORDER_CONSTANT) for part in (weight * off * off, weight))
    near = squares / np.maximum(total, typical * _FEW) - np.float32(noise)
    return (*around(weight), np.where(near > _SMEARED * local, near, local))


def _joined(stereo: StereoDepth, prior: Array32, suggested: Array32) -> tuple[Array32, Array32]:
    """Depth and confidence of both: their mean where they agree, else the more confident one.

    A prior that wins against geometry loses confidence by their difference, in proportion to geometry's weight.
    """
    own = np.where(stereo.depth > 0, stereo.confidence - 1, 0).astype(np.float32)
    total = np.maximum(own + suggested, np.float32(1e-12))
    both = (own > 0) & (suggested > 0)
    apart = np.log(np.where(both, stereo.depth / np.where(both, prior, 1), 1))
    squared = apart * apart
    agree = squared * own * suggested < (_CONTRADICTION * REFERENCE_PRECISION) ** 2 * total
    geometry = (suggested == 0) | (both & ~agree & (own >= suggested))
    mean = prior * np.exp(apart * own / total)
    weakened = suggested / (1 + suggested * squared * own / total / REFERENCE_PRECISION**2)
    depth = np.where(geometry, stereo.depth, np.where(both & agree, mean, prior))
    gain = np.where(geometry, own, np.where(both & agree, own + suggested, np.where(both, weakened, suggested)))
    return depth.astype(np.float32), (1 + np.minimum(gain, _MAX_GAIN)).astype(np.float32)


def _tiles(height: int, width: int) -> np.ndarray:
    """(H, W) number of the tile of each pixel."""
    rows, columns = (np.arange(side) * _TILES // side for side in (height, width))
    return rows[:, None] * _TILES + columns[None, :]


def _distance(tiles: np.ndarray) -> Array32:
    """(tiles of a view) distance of each, in tiles, from the nearest of ``tiles``."""
    at = np.stack(np.divmod(np.arange(_TILES**2), _TILES), axis=1)
    return np.abs(at[:, None] - at[tiles]).max(axis=-1).min(axis=1).astype(np.float32)


def _quantile(values: Array, weight: Array, share: float) -> float:
    """Weighted quantile of a sample of (N,) values."""
    some = _sample(len(values))
    values, weight = values[some], weight[some]
    order = np.argsort(values, kind="stable")
    cumulative = np.cumsum(weight[order])
    return float(values[order][min(np.searchsorted(cumulative, share * cumulative[-1]), len(values) - 1)])


def _sample(count: int) -> slice:
    """The pixels of a sample of ``count``."""
    return slice(None, None, count // _SAMPLES + 1)
