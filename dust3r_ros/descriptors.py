"""What blobs look like: SIFT's orientations and descriptors (Lowe, IJCV 2004), for all blobs at once.

A patch is looked up around each blob, as large as the blob asks for and turned by its orientation; so gradients are
those of the turned patch, and pooling them over its cells is one matrix product.
"""

from __future__ import annotations

import ctypes
from itertools import product

import cv2
import numpy as np

from dust3r_ros.blobs import Blobs
from dust3r_ros.compiled import LIBRARY, address
from dust3r_ros.scale_space import LAYERS, ScaleSpace
from dust3r_ros.types import Array, Array32

_STEP = 0.75  # standard deviations of the blob between samples: a fourth of a cell
_DIRECTIONS = 36
_AROUND = 11  # samples along and across that tell the orientation
_WINDOW = 1.5  # standard deviation of their weights, in those of the blob
_CELLS, _BINS, _ACROSS = 4, 8, 16  # of a descriptor; samples along and across
_SMOOTHING = np.array([1.0, 4.0, 6.0, 4.0, 1.0]) / 16.0
_MOST = 0.2  # of a descriptor's length: no more by one bin
_AT_ONCE = 128  # blobs: their samples fit into the cache


def describe(space: ScaleSpace, blobs: Blobs) -> Array32:
    """(N, 128) RootSIFT (Arandjelovic and Zisserman, CVPR 2012) of length 1; cells row by row, 8 directions each."""
    if not len(blobs):
        return np.zeros((0, _CELLS * _CELLS * _BINS), np.float32)
    return _described(space, blobs) if LIBRARY is None else _described_at_once(LIBRARY, space, blobs)


def _described_at_once(library: ctypes.CDLL, space: ScaleSpace, blobs: Blobs) -> Array32:
    """By the compiled loops, several times as fast."""
    octaves = (_Octave * len(space.octaves))()
    for octave, levels in zip(octaves, space.octaves, strict=True):
        octave.levels, (_, octave.rows, octave.columns) = levels.ctypes.data, levels.shape
    at, sigma = (np.ascontiguousarray(part, np.float64) for part in (blobs.at, blobs.sigma))
    octave, level = (np.ascontiguousarray(part, np.int32) for part in (blobs.octave, blobs.level))
    result = np.empty((len(blobs), _CELLS * _CELLS * _BINS), np.float32)
    given = (address(part) for part in (octave, level, at, sigma, result))
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
    """The levels of a scale space with blobs, one below the other in one image: a single lookup reaches them all."""

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
        """Length and angle (radians, 0 to 2 pi), each (N, count^2), in patches turned by ``angle`` (N,)."""
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
    """(N,) the direction of most gradients around each blob, radians."""
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
    """(256, 16) what each sample adds to each cell: less with distance from the cell, and from the blob."""
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
        share = shared[-k]  # SIFT's directions turn from x to where y is less
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
