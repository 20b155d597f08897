"""SIFT: blobs over position and scale, their orientations and descriptors (Lowe, "Distinctive image features from
scale-invariant keypoints", IJCV 2004).

A patch is sampled around each blob, scaled to its size and rotated by its orientation; so gradients are those of
the rotated patch, and pooling them over its cells is one matrix product.
"""

from __future__ import annotations

import ctypes
from dataclasses import dataclass
from itertools import product

import cv2
import numpy as np
from scipy.spatial import cKDTree

from dust3r_ros.geometry.compiled import LIBRARY
from dust3r_ros.types import Array, Array32, Image

LAYERS = 3  # scales to an octave
FIRST_BLUR = 0.8  # standard deviation, pixels, of every octave's first level
_CAMERA_BLUR = 0.5  # assumed blur of input images
_SMALLEST = 24  # pixels
_WIDE = 4.0  # standard deviations at which a kernel is truncated


@dataclass(frozen=True, eq=False)
class ScaleSpace:
    """Levels of increasing blur, as float32, by octave: (LAYERS + 3, H, W) each, every octave half as large.

    Level l is blurred by 0.8 * 2^(l / LAYERS) pixels of its octave. Octave o has every 2^o-th pixel of the image;
    unlike in SIFT, the first octave is the image itself, and no octave is sampled more finely than its blur needs.
    """

    octaves: tuple[Array32, ...]

    @classmethod
    def of(cls, gray: Image) -> ScaleSpace:
        """From an image (H, W) uint8; an image below 24 pixels has no octaves."""
        blurs = FIRST_BLUR * 2.0 ** (np.arange(LAYERS + 3) / LAYERS)
        steps = np.sqrt(blurs[1:] ** 2 - blurs[:-1] ** 2).tolist()
        octaves: list[Array32] = []
        base = _blurred(gray.astype(np.float32), float(np.sqrt(FIRST_BLUR**2 - _CAMERA_BLUR**2)))
        while min(base.shape) >= _SMALLEST:
            levels = np.empty((LAYERS + 3, *base.shape), np.float32)
            levels[0] = base
            for k, step in enumerate(steps):
                _blurred(levels[k], step, levels[k + 1])
            octaves.append(levels)
            base = np.ascontiguousarray(levels[LAYERS][::2, ::2])
        return cls(tuple(octaves))


def _blurred(image: Array32, sigma: float, into: Array32 | None = None) -> Array32:
    size = 2 * int(np.ceil(_WIDE * sigma)) + 1
    return np.asarray(cv2.GaussianBlur(image, (size, size), sigma, into))


# Half a percent of white, which keeps blobs on plain walls; matching removes the bad ones.
_CONTRAST = 0.01 / LAYERS * 255
_EDGE = 10.0  # ratio of curvatures; more is an edge, with an uncertain position along it (Lowe, section 4.1)
_BORDER = 2  # pixels of the octave: 5 x 5 values must exist
_POLISHING = 3
_NEAR = 0.75  # of a pixel or a level: anything further belongs to another spot
_SAME = 0.25  # pixels
_SPARE = 1.3  # times those wanted: some turn out to be weaker
_SQUARE = np.ones((3, 3), np.uint8)
_K = np.arange(-2, 3)
# Exponents of the monomials u^a v^b, a + b <= 4, and their coefficients (15, 25) from 5 x 5 values around.
_U, _V = np.array([(a, b) for b in range(5) for a in range(5 - b)]).T
_LAGRANGE = np.linalg.inv(np.vander(_K, 5, increasing=True).astype(float))
_COEFFICIENTS = np.kron(_LAGRANGE, _LAGRANGE)[5 * _V + _U]
_TRANSPOSED = np.ascontiguousarray(_COEFFICIENTS.T)


@dataclass(frozen=True, eq=False)
class Blobs:
    """For each blob: ``octave`` and ``level`` (N,), ``at`` (N, 2) and ``sigma`` (N,) in pixels of the octave.

    ``strength`` (N,): contrast to its surroundings, grey levels.
    """

    octave: np.ndarray
    level: np.ndarray
    at: Array
    sigma: Array
    strength: Array

    def __len__(self) -> int:
        return len(self.octave)

    @property
    def pixels(self) -> Array:
        """(N, 2) positions in the image."""
        return self.at * (1 << self.octave)[:, None]

    @property
    def radius(self) -> Array:
        """(N,) approximate radius of the described patch, image pixels."""
        return 6.0 * self.sigma * (1 << self.octave)

    def select(self, keep: np.ndarray | slice) -> Blobs:
        """The blobs selected by a mask, an index or a slice."""
        return Blobs(self.octave[keep], self.level[keep], self.at[keep], self.sigma[keep], self.strength[keep])


def strongest_blobs(space: ScaleSpace, count: int) -> Blobs:
    """The ``count`` blobs that stand out most, strongest first."""
    stack, most = _Differences(space), round(_SPARE * count)
    if LIBRARY is None:
        found = stack.polished(*stack.promising(stack.extrema(), most))
    else:
        found = stack.polished_at_once(LIBRARY, *stack.promising_at_once(LIBRARY, most))
    found = found.select(np.argsort(-found.strength, kind="stable"))
    # Two spots may lead to one place; the weaker is dropped.
    twice = cKDTree(found.pixels).query_pairs(_SAME, output_type="ndarray").max(axis=1)
    return found.select(np.delete(np.arange(len(found)), twice)[:count])


class _Layers(ctypes.Structure):
    _fields_ = [("values", ctypes.c_void_p), *((name, ctypes.c_long) for name in ("rows", "columns", "first"))]


class _Differences:
    """Differences of neighbouring levels of all octaves, one after the other in one flat array."""

    def __init__(self, space: ScaleSpace) -> None:
        sizes = [octave.shape for octave in space.octaves]
        self._shape = np.array([(rows, columns) for _, rows, columns in sizes], int).reshape(-1, 2)
        self._first = np.cumsum([0, *((levels - 1) * rows * columns for levels, rows, columns in sizes)])
        self._flat = np.empty(self._first[-1], np.float32)
        self._layers: list[Array32] = []
        for octave, first, end in zip(space.octaves, self._first, self._first[1:], strict=False):
            layers = self._flat[first:end].reshape(-1, *octave.shape[1:])
            np.subtract(octave[1:], octave[:-1], out=layers)
            self._layers.append(layers)

    def extrema(self) -> np.ndarray:
        """(N,) positions in the flat array of values above, or below, all 26 neighbours."""
        found = [np.zeros(0, int)]
        for layers, first in zip(self._layers, self._first, strict=False):
            for k in range(1, LAYERS + 1):
                below, at, above = layers[k - 1 : k + 2]
                highest = cv2.dilate(cv2.max(cv2.max(below, above), at), _SQUARE)
                lowest = cv2.erode(cv2.min(cv2.min(below, above), at), _SQUARE)
                cv2.max(highest, 0.5 * _CONTRAST, highest)
                cv2.min(lowest, -0.5 * _CONTRAST, lowest)
                hit = (at == highest) | (at == lowest)
                hit[:_BORDER] = hit[-_BORDER:] = hit[:, :_BORDER] = hit[:, -_BORDER:] = False
                found.append(np.flatnonzero(hit.reshape(-1)) + first + k * hit.size)
        return np.concatenate(found)

    def promising(self, spots: np.ndarray, count: int) -> tuple[np.ndarray, Array]:
        """The ``count`` strongest (K,) of spots (N,), and the approximate offsets (3, K) of their extrema.

        Offsets are in x, y and level.
        """
        value, slope, curvature = self._taylor(spots)
        offset = np.clip(_newton(slope, curvature), -0.5, 0.5)
        strength = np.abs(value + 0.5 * np.sum(slope * offset, axis=0))
        good = np.flatnonzero((strength > 0.9 * _CONTRAST) & _round(curvature, 1.5 * _EDGE))
        best = good[np.argsort(-strength[good], kind="stable")[:count]]
        return spots[best], offset[:, best]

    def promising_at_once(self, library: ctypes.CDLL, count: int) -> tuple[np.ndarray, Array]:
        """``promising`` of ``extrema`` by the compiled loops."""
        octaves = (_Layers * len(self._layers))()
        for octave, layers, first in zip(octaves, self._layers, self._first, strict=False):
            octave.values, (_, octave.rows, octave.columns), octave.first = layers.ctypes.data, layers.shape, first
        room, most = np.empty((3, max((layers.shape[2] for layers in self._layers), default=1)), np.float32), 1 << 14
        while True:
            spots, strengths, offsets = np.empty(most, int), np.empty(most), np.empty((most, 3))
            limits = *map(ctypes.c_double, (_CONTRAST, _EDGE)), ctypes.c_long(most)
            arrays = (part.ctypes for part in (room, spots, strengths, offsets))
            found = library.promising_extrema(octaves, ctypes.c_long(len(octaves)), *limits, *arrays)
            if found <= most:
                break
            most = found
        best = np.argsort(-strengths[:found], kind="stable")[:count]
        return spots[best], offsets[best].T

    def polished_at_once(self, library: ctypes.CDLL, spots: np.ndarray, offset: Array) -> Blobs:
        """``polished`` by the compiled loops."""
        octave, level, (row, column) = self._place(spots)
        rows, columns = self._shape[octave].T
        offsets, strengths = np.ascontiguousarray(offset.T), np.empty(len(spots))
        given = *map(np.ascontiguousarray, (spots, columns, rows * columns)), _TRANSPOSED
        limits = map(ctypes.c_double, (_CONTRAST, _EDGE, _NEAR))
        flat, count = self._flat.ctypes, ctypes.c_long(len(spots))
        at, area, step, coefficients = (part.ctypes for part in given)
        library.polish(flat, count, at, area, step, coefficients, *limits, offsets.ctypes, strengths.ctypes)
        where = np.stack([column + offsets[:, 0], row + offsets[:, 1]], axis=1)
        sigma = FIRST_BLUR * 2.0 ** ((level + offsets[:, 2]) / LAYERS)
        return Blobs(octave, level, where, sigma, strengths).select(strengths > 0)

    def polished(self, spots: np.ndarray, offset: Array) -> Blobs:
        """Blobs at the extrema of quartics through 5 x 5 values; those on edges are left out.

        The finest blobs are hardly wider than a grid cell: a parabola through 3 x 3 values would miss by part of it.
        """
        octave, level, (row, column) = self._place(spots)
        columns = self._shape[octave, 1]
        area = columns * self._shape[octave, 0]
        around = (columns[:, None] * np.repeat(_K, 5) + np.tile(_K, 5)).T + spots
        below, at, above = (_COEFFICIENTS @ self._flat[around + k * area] for k in (-1, 0, 1))
        by_level = at, 0.5 * (above - below), above + below - 2.0 * at
        for _ in range(_POLISHING):
            value, slope, curvature = _derivatives(by_level, offset)
            offset = np.clip(offset + np.clip(_newton(slope, curvature), -0.3, 0.3), -0.8, 0.8)
        value, _, curvature = _derivatives(by_level, offset)
        good = np.all(np.abs(offset) < _NEAR, axis=0) & (np.abs(value) > _CONTRAST) & _round(curvature, _EDGE)
        where = np.stack([column + offset[0], row + offset[1]], axis=1)
        sigma = FIRST_BLUR * 2.0 ** ((level + offset[2]) / LAYERS)
        return Blobs(octave, level, where, sigma, np.abs(value)).select(good)

    def _place(self, spots: np.ndarray) -> tuple[np.ndarray, np.ndarray, tuple[np.ndarray, np.ndarray]]:
        """Octave, level, (row, column), each (N,), of spots."""
        octave = np.searchsorted(self._first, spots, side="right") - 1
        rows, columns = self._shape[octave].T
        level, rest = np.divmod(spots - self._first[octave], rows * columns)
        return octave, level, np.divmod(rest, columns)

    def _taylor(self, spots: np.ndarray) -> tuple[Array, Array, Array]:
        """Value (N,), slope (3, N) and curvature (6, N: xx, yy, zz, xy, xz, yz) from the neighbours."""
        octave = np.searchsorted(self._first, spots, side="right") - 1
        y = self._shape[octave, 1]
        z = y * self._shape[octave, 0]

        def at(shift: np.ndarray | int) -> Array:
            return self._flat[spots + shift].astype(np.float64)

        value, (left, right, up, down, lower, upper) = at(0), (at(k) for k in (-1, 1, -y, y, -z, z))
        slope = 0.5 * np.stack([right - left, down - up, upper - lower])
        mixed = [0.25 * (at(a + b) - at(a - b) - at(b - a) + at(-a - b)) for a, b in ((1, y), (1, z), (y, z))]
        twice = 2.0 * value
        return value, slope, np.stack([left + right - twice, up + down - twice, lower + upper - twice, *mixed])


def _derivatives(by_level: tuple[Array, Array, Array], offset: Array) -> tuple[Array, Array, Array]:
    """Like ``_taylor``, at ``offset`` (3, N) of quartics (15, N): value and derivatives by level."""
    x, y, z = offset
    powers_x, powers_y = ([np.ones_like(t), t, t * t, t**3, t**4] for t in (x, y))

    def basis(dx: int, dy: int) -> Array:
        """(15, N) the monomials, differentiated ``dx`` and ``dy`` times."""
        rows = []
        for a, b in zip(_U.tolist(), _V.tolist(), strict=True):
            factor = (1, a, a * (a - 1))[dx] * (1, b, b * (b - 1))[dy]
            rows.append(factor * powers_x[a - dx] * powers_y[b - dy] if factor else np.zeros_like(x))
        return np.stack(rows)

    none, first, second = by_level
    here, change = none + z * first + 0.5 * z * z * second, first + z * second
    one, along_x, along_y = basis(0, 0), basis(1, 0), basis(0, 1)

    def total(a: Array, b: Array) -> Array:
        return np.einsum("kn,kn->n", a, b)

    slope = np.stack([total(here, along_x), total(here, along_y), total(change, one)])
    curvature = [total(here, basis(2, 0)), total(here, basis(0, 2)), total(second, one)]
    curvature += [total(here, basis(1, 1)), total(change, along_x), total(change, along_y)]
    return total(here, one), slope, np.stack(curvature)


def _round(curvature: Array, ratio: float) -> np.ndarray:
    """(N,) which extrema have a ratio of principal curvatures in the image below ``ratio``."""
    xx, yy, _, xy, _, _ = curvature
    determinant = xx * yy - xy * xy
    return np.asarray((determinant > 0) & ((xx + yy) ** 2 * ratio < (ratio + 1.0) ** 2 * determinant))


def _newton(slope: Array, curvature: Array) -> Array:
    """(3, N) the step to where the slope is 0, by cofactors; 0 if there is no such place."""
    xx, yy, zz, xy, xz, yz = curvature
    a, b, c = yy * zz - yz * yz, xz * yz - xy * zz, xy * yz - xz * yy
    d, e, f = xx * zz - xz * xz, xy * xz - xx * yz, xx * yy - xy * xy
    determinant = xx * a + xy * b + xz * c
    x, y, z = slope / np.where(np.abs(determinant) < 1e-12, np.inf, determinant)
    return -np.stack([a * x + b * y + c * z, b * x + d * y + e * z, c * x + e * y + f * z])


_STEP = 0.75  # standard deviations of the blob between samples: a quarter of a cell
_DIRECTIONS = 36
_AROUND = 11  # samples per axis for the orientation
_WINDOW = 1.5  # standard deviation of their weights, in units of the blob's
_CELLS, _BINS, _ACROSS = 4, 8, 16  # of a descriptor; samples per axis
_SMOOTHING = np.array([1.0, 4.0, 6.0, 4.0, 1.0]) / 16.0
_MOST = 0.2  # of a descriptor's length: the most that one bin may have
_AT_ONCE = 128  # blobs whose samples fit into the cache


def describe(space: ScaleSpace, blobs: Blobs) -> Array32:
    """(N, 128) RootSIFT (Arandjelovic and Zisserman, CVPR 2012) of length 1; cells row by row, 8 directions each."""
    if not len(blobs):
        return np.zeros((0, _CELLS * _CELLS * _BINS), np.float32)
    return _described(space, blobs) if LIBRARY is None else _described_at_once(LIBRARY, space, blobs)


def _described_at_once(library: ctypes.CDLL, space: ScaleSpace, blobs: Blobs) -> Array32:
    """``describe`` by the compiled loops, several times as fast."""
    octaves = (_Octave * len(space.octaves))()
    for octave, levels in zip(octaves, space.octaves, strict=True):
        octave.levels, (_, octave.rows, octave.columns) = levels.ctypes.data, levels.shape
    at, sigma = (np.ascontiguousarray(part, np.float64) for part in (blobs.at, blobs.sigma))
    octave, level = (np.ascontiguousarray(part, np.int32) for part in (blobs.octave, blobs.level))
    result = np.empty((len(blobs), _CELLS * _CELLS * _BINS), np.float32)
    given = (part.ctypes for part in (octave, level, at, sigma, result))
    library.describe(octaves, ctypes.c_long(len(blobs)), *given)
    return result


class _Octave(ctypes.Structure):
    _fields_ = [("levels", ctypes.c_void_p), ("rows", ctypes.c_long), ("columns", ctypes.c_long)]


def _described(space: ScaleSpace, blobs: Blobs) -> Array32:
    sheet = _Sheet(space)
    result = np.empty((len(blobs), _CELLS * _CELLS * _BINS), np.float32)
    for low in range(0, len(blobs), _AT_ONCE):
        some = blobs.select(slice(low, low + _AT_ONCE))
        result[low : low + _AT_ONCE] = _pooled(*sheet.gradients(some, _orientations(sheet, some), _ACROSS))
    result /= np.maximum(np.linalg.norm(result, axis=1, keepdims=True), 1e-9)
    np.minimum(result, _MOST, out=result)
    return np.sqrt(result / np.maximum(result.sum(axis=1, keepdims=True), 1e-9))


class _Sheet:
    """The levels of a scale space that have blobs, stacked in one image so that a single lookup reaches them all."""

    def __init__(self, space: ScaleSpace) -> None:
        octaves = [octave[1 : LAYERS + 1] for octave in space.octaves]
        self._sizes = np.array([octave.shape[2:0:-1] for octave in octaves], np.float32)
        heights = np.repeat([octave.shape[1] for octave in octaves], LAYERS)
        tops = np.cumsum([0, *heights])
        self._tops = tops[:-1].reshape(-1, LAYERS).astype(np.float32)
        self._image = np.zeros((tops[-1], octaves[0].shape[2]), np.float32)
        for octave, top in zip(octaves, self._tops[:, 0].astype(int), strict=True):
            rows = octave.reshape(-1, octave.shape[2])
            self._image[top : top + len(rows), : rows.shape[1]] = rows

    def gradients(self, blobs: Blobs, angle: Array32, count: int) -> tuple[Array32, Array32]:
        """Length and angle (radians, 0 to 2 pi), each (N, count^2), in patches rotated by ``angle`` (N,)."""
        x, y = _grid(count + 2)
        cosine, sine = blobs.sigma * np.cos(angle), blobs.sigma * np.sin(angle)
        turned = np.stack([cosine, sine, -sine, cosine], axis=1).astype(np.float32)
        at = blobs.at.astype(np.float32)
        u = turned[:, :1] * x + turned[:, 2:3] * y + at[:, :1]
        v = turned[:, 1:2] * x + turned[:, 3:] * y + at[:, 1:]
        last = self._sizes[blobs.octave] - 1.0
        reach = (blobs.sigma * abs(x[0]) * np.sqrt(2.0))[:, None]
        out = np.flatnonzero(np.any((at < reach) | (at > last - reach), axis=1))
        u[out] = np.clip(u[out], 0.0, last[out, :1])
        v[out] = np.clip(v[out], 0.0, last[out, 1:])
        v += self._tops[blobs.octave, blobs.level - 1][:, None]
        patch = cv2.remap(self._image, u, v, cv2.INTER_LINEAR).reshape(-1, count + 2, count + 2)
        across = patch[:, 1:-1, 2:] - patch[:, 1:-1, :-2]
        down = patch[:, 2:, 1:-1] - patch[:, :-2, 1:-1]
        length, direction = cv2.cartToPolar(across.reshape(len(patch), -1), down.reshape(len(patch), -1))
        return length, direction


def _grid(count: int) -> tuple[Array32, Array32]:
    """x and y (count^2,) of a square of samples around 0, in standard deviations of a blob."""
    line = (_STEP * (np.arange(count) - (count - 1) / 2)).astype(np.float32)
    return np.tile(line, count), np.repeat(line, count)


def _orientations(sheet: _Sheet, blobs: Blobs) -> Array32:
    """(N,) the dominant gradient direction around each blob, radians."""
    length, direction = sheet.gradients(blobs, np.zeros(len(blobs), np.float32), _AROUND)
    x, y = _grid(_AROUND)
    length *= np.exp(-(x**2 + y**2) / (2.0 * _WINDOW**2))
    bins = np.rint(direction * (_DIRECTIONS / (2.0 * np.pi))).astype(np.intp) % _DIRECTIONS
    bins += _DIRECTIONS * np.arange(len(bins))[:, None]
    votes = np.bincount(bins.ravel(), length.ravel(), len(bins) * _DIRECTIONS).reshape(-1, _DIRECTIONS)
    votes = sum(weight * np.roll(votes, k - 2, axis=1) for k, weight in enumerate(_SMOOTHING))
    best, rows = votes.argmax(axis=1), np.arange(len(votes))
    before, peak, after = (votes[rows, (best + k) % _DIRECTIONS] for k in (-1, 0, 1))
    offset = 0.5 * (before - after) / np.minimum(before - 2.0 * peak + after, -1e-9)
    return ((best + offset) * (2.0 * np.pi / _DIRECTIONS)).astype(np.float32)


def _pooling() -> Array32:
    """(256, 16) weight of each sample in each cell, falling with the distance from the cell and from the blob."""
    line = (np.arange(_ACROSS) - (_ACROSS - 1) / 2) / (_ACROSS / _CELLS)  # in cells
    cells = np.arange(_CELLS) - (_CELLS - 1) / 2
    share = np.maximum(0.0, 1.0 - np.abs(line[:, None] - cells)) * np.exp(-0.5 * (line / (_CELLS / 2)) ** 2)[:, None]
    return np.kron(share, share).astype(np.float32)


_POOLING = _pooling()


def _pooled(length: Array32, direction: Array32) -> Array32:
    """(N, 128) gradients (N, 256) by cell and direction, shared between the two nearest directions."""
    direction *= _BINS / (2.0 * np.pi)
    shared = np.empty((_BINS, *length.shape), np.float32)
    for k in range(_BINS):
        share = shared[-k]  # SIFT's directions turn from x towards smaller y
        np.subtract(direction, k, out=share)
        np.abs(share, out=share)
        if k == 0:
            np.minimum(share, _BINS - direction, out=share)
        np.subtract(1.0, share, out=share)
        np.maximum(share, 0.0, out=share)
        share *= length
    cells = shared.reshape(-1, _ACROSS * _ACROSS) @ _POOLING
    return cells.reshape(_BINS, len(length), -1).transpose(1, 2, 0).reshape(len(length), -1)


def _slowest() -> Array32:
    """(128, 128) orthonormal: cosines over 4 x 4 places times waves over 8 directions, slowest first."""
    places = [_unit(np.cos(np.pi * u * (2 * np.arange(_CELLS) + 1) / (2 * _CELLS))) for u in range(_CELLS)]
    turn = 2 * np.pi * np.arange(_BINS) / _BINS
    waves = [
        (0, np.ones(_BINS)),
        *((k, wave(k * turn)) for k in (1, 2, 3) for wave in (np.cos, np.sin)),
        (4, np.cos(4 * turn)),
    ]
    columns = [
        (u + v + k, np.kron(np.kron(places[u], places[v]), _unit(wave)))
        for u, v, (k, wave) in product(range(_CELLS), range(_CELLS), waves)
    ]
    columns.sort(key=lambda column: column[0])
    return np.stack([column for _, column in columns], axis=1).astype(np.float32)


def _unit(vector: Array) -> Array:
    return np.asarray(vector / np.linalg.norm(vector))


SLOWEST = _slowest()
