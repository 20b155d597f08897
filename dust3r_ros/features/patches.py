"""Where patches of one image are in another, to a few hundredths of a pixel.

Least-squares matching (Gruen, "Adaptive least squares correlation", 1985): position, affine shape, brightness and
contrast are adjusted until both patches look the same, by inverse compositional steps (Baker and Matthews,
"Lucas-Kanade 20 years on", IJCV 2004).
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from typing import NamedTuple

import cv2
import numpy as np

from dust3r_ros.geometry.compiled import LIBRARY
from dust3r_ros.types import Array, Array32, Image

HALF = 7  # of a patch's side, pixels
_BLUR = 0.5  # standard deviation, pixels: values between pixels are bilinear
_STEPS = 6
_ENOUGH_PX = 0.02  # a step below this is the last
_CONVERGED_PX = 0.03
_DAMPING = 1e-6  # of the trace of the normal equations
_LEAST_SIZE = 0.3  # of a patch's area: a step that shrinks it to less leads nowhere
_GRID = np.stack(np.meshgrid(*2 * [np.arange(-HALF, HALF + 1.0)]), axis=-1).reshape(-1, 2)
_RAISED = np.concatenate([_GRID, np.ones((len(_GRID), 1))], axis=1)  # (x, y, 1), for warps
_WEIGHT = np.exp(-np.sum(_GRID**2, axis=1) / (2 * (0.6 * HALF) ** 2))
_WEIGHT /= _WEIGHT.sum()
# Of one sample in as many equal ones as tell as much: errors of neighbours are alike, since images are softened.
_SHARE = 3.0 * float(np.sum(_WEIGHT**2))


class Found(NamedTuple):
    """``pixels`` (N, 2) of patches, NaN where the steps did not converge, and ``similarity`` (N,), correlations.

    Pixels are exact in single precision, so that a saved map needs no more.

    ``std`` (N,): of the pixels in the direction in which the patch tells least, such as along an edge, from how much
    the patches still differ.
    """

    pixels: Array
    similarity: Array
    std: Array


def softened(gray: Image) -> Array32:
    """An image (H, W) uint8 as ``find_patches`` takes it."""
    return np.asarray(cv2.GaussianBlur(gray.astype(np.float32), (0, 0), _BLUR))


def find_patches(reference: Array32, at: Array, images: Sequence[Array32], which: np.ndarray, warps: Array) -> Found:
    """The patches around ``at`` (N, 2) of ``reference`` in ``images``, all ``softened``; ``which`` (N,): in which one.

    ``warps`` (N, 2, 3): about where and how: an offset d from ``at`` is near warp @ (d, 1). It is faster if a patch
    that is searched for in several images has these one after the other.
    """
    find = _found_in_each if LIBRARY is None else _found_at_once
    at, warps, which = np.ascontiguousarray(at, np.float64), np.array(warps, np.float64), which.astype(np.int32)
    similarity, moved, variance = find(reference, at, images, which, warps)
    pixels = np.where((moved < _CONVERGED_PX)[:, None], warps[:, :, 2].astype(np.float32), np.nan)
    return Found(pixels, similarity, np.sqrt(2 * np.maximum(1 - similarity, 0) * _SHARE * variance))


class _Picture(ctypes.Structure):
    _fields_ = [("values", ctypes.c_void_p), ("rows", ctypes.c_long), ("columns", ctypes.c_long)]


def _found_at_once(
    reference: Array32, at: Array, images: Sequence[Array32], which: np.ndarray, warps: Array
) -> tuple[Array, Array, Array]:
    """``_found_in_each`` by the compiled loops."""
    assert LIBRARY is not None
    pictures = (_Picture * (1 + len(images)))(
        *[_Picture(part.ctypes.data, *part.shape) for part in (reference, *images)]
    )
    weight, (similarity, moved, variance) = _WEIGHT.astype(np.float32), np.empty((3, len(at)))
    LIBRARY.find_patches(
        ctypes.byref(pictures), ctypes.byref(pictures, ctypes.sizeof(_Picture)), which.ctypes, ctypes.c_long(len(at)),
        at.ctypes, weight.ctypes, ctypes.c_double(_DAMPING), ctypes.c_long(_STEPS), ctypes.c_double(_ENOUGH_PX),
        ctypes.c_double(_LEAST_SIZE), *(part.ctypes for part in (warps, similarity, moved, variance)),
    )  # fmt: skip
    return similarity, moved, variance


def _found_in_each(
    reference: Array32, at: Array, images: Sequence[Array32], which: np.ndarray, warps: Array
) -> tuple[Array, Array, Array]:
    """Improves ``warps``; returns similarities (N,), the lengths of the last steps (N,), pixels of the reference, and
    variances (N,) of the place where values have a variance of 1.
    """
    figures = np.empty((3, len(at)))
    for index, image in enumerate(images):
        mine = which == index
        warps[mine], *figures[:, mine] = _found(reference, at[mine], image, warps[mine])
    return figures[0], figures[1], figures[2]


def _found(reference: Array32, at: Array, image: Array32, warps: Array) -> tuple[Array, ...]:
    """Improved warps (N, 2, 3), then the same of patches in one image."""
    values, slopes = _templates(reference, at)
    weighted = _WEIGHT[None, :, None] * slopes
    normal = np.einsum("npi,npj->nij", weighted, slopes)
    normal += _DAMPING * np.trace(normal, axis1=1, axis2=2)[:, None, None] * np.eye(slopes.shape[2])
    similarity, moved = np.zeros(len(at)), np.full(len(at), np.inf)
    active = np.arange(len(at))
    for _ in range(_STEPS):
        seen, _ = _evened(_sampled(image, np.einsum("nij,pj->npi", warps[active], _RAISED)))
        similarity[active] = np.sum(_WEIGHT * seen * values[active], axis=1)
        right = np.einsum("npi,np->ni", weighted[active], seen - values[active])
        step = np.linalg.solve(normal[active], right[..., None])[..., 0]
        change = np.tile(np.eye(3), (len(active), 1, 1))
        change[:, :2, 2] = step[:, :2]
        change[:, :2, :2] += step[:, 2:6].reshape(-1, 2, 2)
        moved[active] = np.linalg.norm(step[:, :2], axis=1)
        wild = ~(np.linalg.det(change) > _LEAST_SIZE)
        moved[active[wild]] = np.inf
        active, change = active[~wild], change[~wild]
        warps[active] = warps[active] @ np.linalg.inv(change)
        active = active[moved[active] > _ENOUGH_PX]
    variance = np.linalg.eigvalsh(np.linalg.inv(normal)[:, :2, :2])[:, 1]
    return warps, similarity, moved, variance


def _templates(reference: Array32, at: Array) -> tuple[Array, Array]:
    """Values (N, P) of patches, evened, and how position, shape, contrast and brightness change them (N, P, 8)."""
    places = at[:, None] + _GRID
    values, deviation = _evened(_sampled(reference, places))
    right, down = np.eye(2)
    across, along = (
        (_sampled(reference, places + step) - _sampled(reference, places - step)) / (2 * deviation)
        for step in (right, down)
    )
    x, y = _GRID.T
    parts = (across, along, across * x, across * y, along * x, along * y, values, np.ones_like(values))
    return values, np.stack(parts, axis=2)


def _sampled(image: Array32, at: Array) -> Array:
    """Values of an image at (N, P, 2), bilinear; the border goes on beyond itself."""
    last = np.array(image.shape[::-1]) - 1
    at = np.clip(at, 0, last)
    column, row = np.moveaxis(np.minimum(np.nan_to_num(at).astype(int), last - 1), -1, 0)
    a, b = np.moveaxis(at, -1, 0) - (column, row)
    above = image[row, column] + a * (image[row, column + 1] - image[row, column])
    below = image[row + 1, column] + a * (image[row + 1, column + 1] - image[row + 1, column])
    return np.asarray(above + b * (below - above))


def _evened(values: Array) -> tuple[Array, Array]:
    """Values (N, P) of patches without brightness and contrast, and their contrast (N, 1)."""
    values = values - np.sum(_WEIGHT * values, axis=1, keepdims=True)
    contrast = np.sqrt(np.sum(_WEIGHT * values**2, axis=1, keepdims=True)) + 1e-6
    return values / contrast, contrast
