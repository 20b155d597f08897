"""Blobs of an image: the extrema of differences of Gaussians, over place and scale, to a part of a pixel."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from scipy.spatial import cKDTree

from dust3r_ros.scale_space import FIRST_BLUR, LAYERS, ScaleSpace
from dust3r_ros.types import Array, Array32

# Half a percent of white, which keeps blobs on plain walls; matching sorts out the bad ones.
_CONTRAST = 0.01 / LAYERS * 255
_EDGE = 10.0  # ratio of curvatures; more is an edge, along which the place is open (Lowe, IJCV 2004, section 4.1)
_BORDER = 2  # pixels of the octave: 5 x 5 values must be there
_POLISHING = 3
_NEAR = 0.75  # of a pixel or a level: what is further off is another spot's
_SAME = 0.25  # pixels
_SPARE = 1.3  # of those wanted: some turn out to be weaker
_SQUARE = np.ones((3, 3), np.uint8)
_K = np.arange(-2, 3)
# Exponents of the monomials u^a v^b, a + b <= 4, and their coefficients (15, 25) from 5 x 5 values around.
_U, _V = np.array([(a, b) for b in range(5) for a in range(5 - b)]).T
_LAGRANGE = np.linalg.inv(np.vander(_K, 5, increasing=True).astype(float))
_COEFFICIENTS = np.kron(_LAGRANGE, _LAGRANGE)[5 * _V + _U]


@dataclass(frozen=True, eq=False)
class Blobs:
    """Of each: ``octave`` and ``level`` (N,), ``at`` (N, 2) and ``sigma`` (N,) in pixels of the octave.

    ``strength`` (N,): how far it stands out from what is around, grey levels.
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
        """(N, 2) in the image."""
        return self.at * (1 << self.octave)[:, None]

    @property
    def radius(self) -> Array:
        """(N,) of what is described, about, pixels of the image."""
        return 6.0 * self.sigma * (1 << self.octave)

    def select(self, keep: np.ndarray | slice) -> Blobs:
        """The blobs under a mask, an index or a slice."""
        return Blobs(self.octave[keep], self.level[keep], self.at[keep], self.sigma[keep], self.strength[keep])


def strongest_blobs(space: ScaleSpace, count: int) -> Blobs:
    """The ``count`` blobs that stand out most, strongest first."""
    stack = _Differences(space)
    found = stack.polished(*stack.promising(stack.extrema(), round(_SPARE * count)))
    found = found.select(np.argsort(-found.strength, kind="stable"))
    # Two spots may lead to one place; the weaker of them goes.
    twice = cKDTree(found.pixels).query_pairs(_SAME, output_type="ndarray").max(axis=1)
    return found.select(np.delete(np.arange(len(found)), twice)[:count])


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
        """(N,) where in the flat array a value is above, or below, its 26 neighbours."""
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
        """The ``count`` of spots (N,) that stand out most, (K,), and about where their extrema are from there (3, K).

        Offsets are in x, y and level.
        """
        value, slope, curvature = self._taylor(spots)
        offset = np.clip(_newton(slope, curvature), -0.5, 0.5)
        strength = np.abs(value + 0.5 * np.sum(slope * offset, axis=0))
        good = np.flatnonzero((strength > 0.9 * _CONTRAST) & _round(curvature, 1.5 * _EDGE))
        best = good[np.argsort(-strength[good], kind="stable")[:count]]
        return spots[best], offset[:, best]

    def polished(self, spots: np.ndarray, offset: Array) -> Blobs:
        """Blobs where quartics through 5 x 5 values have their extrema; those at edges are left out.

        The finest blobs are hardly wider than the grid: a parabola through 3 x 3 values would be off by a part of it.
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
    """As ``_taylor``, at ``offset`` (3, N) of quartics (15, N): value and derivatives by level."""
    x, y, z = offset
    powers_x, powers_y = ([np.ones_like(t), t, t * t, t**3, t**4] for t in (x, y))

    def basis(dx: int, dy: int) -> Array:
        """(15, N) the monomials, derived so many times."""
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
    """(N,) which extrema in the image curve less than ``ratio`` times as much across as along."""
    xx, yy, _, xy, _, _ = curvature
    determinant = xx * yy - xy * xy
    return np.asarray((determinant > 0) & ((xx + yy) ** 2 * ratio < (ratio + 1.0) ** 2 * determinant))


def _newton(slope: Array, curvature: Array) -> Array:
    """(3, N) the step to where the slope is 0, by cofactors; 0 where there is no such place."""
    xx, yy, zz, xy, xz, yz = curvature
    a, b, c = yy * zz - yz * yz, xz * yz - xy * zz, xy * yz - xz * yy
    d, e, f = xx * zz - xz * xz, xy * xz - xx * yz, xx * yy - xy * xy
    determinant = xx * a + xy * b + xz * c
    x, y, z = slope / np.where(np.abs(determinant) < 1e-12, np.inf, determinant)
    return -np.stack([a * x + b * y + c * z, b * x + d * y + e * z, c * x + e * y + f * z])
