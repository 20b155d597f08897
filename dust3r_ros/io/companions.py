"""Masks and depth that come beside an image, as messages hold them, to plain arrays."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np

from dust3r_ros.errors import InputError
from dust3r_ros.types import Array32, Image

# The header of compressed_depth_image_transport before the PNG: format (int32), two parameters (float32).
_CONFIG_BYTES = 12
_MASKS = {"mono8": np.uint8, "8UC1": np.uint8}
_DEPTHS = {"16UC1": np.uint16, "mono16": np.uint16, "32FC1": np.float32}
_MILLIMETRE = np.float32(1e-3)


def decode_mask(encoding: str, height: int, width: int, step: int, is_bigendian: bool | int, data: Any) -> Image:
    """The mask of a sensor_msgs/Image, (H, W) uint8 in memory of its own; what is not 0 is left out of the map.

    Raises ``InputError`` for an encoding other than mono8 and 8UC1, no pixels or too few data.
    """
    return _plane("mask", _MASKS, encoding, height, width, step, is_bigendian, data).copy()


def decode_depth(encoding: str, height: int, width: int, step: int, is_bigendian: bool | int, data: Any) -> Array32:
    """The depth of a sensor_msgs/Image, (H, W) float32, metres, 0 where there is none (REP 118).

    16UC1 and mono16 are millimetres, 32FC1 is metres. Raises ``InputError`` for another encoding, no
    pixels or too few data.
    """
    return _metres(_plane("depth", _DEPTHS, encoding, height, width, step, is_bigendian, data))


def decode_mask_file(data: Any) -> Image:
    """The mask of a sensor_msgs/CompressedImage, (H, W) uint8; ``InputError`` when it cannot be decoded."""
    pixels = _decoded("mask", bytes(data))
    if pixels.dtype != np.uint8 or pixels.ndim != 2:
        raise InputError(f"compressed mask holds {pixels.dtype} {pixels.shape}; it must be one channel of 8 bits")
    return pixels


def decode_depth_file(kind: str, data: Any) -> Array32:
    """The depth of a sensor_msgs/CompressedImage of format ``kind``, (H, W) float32, metres, 0 where there is none.

    Read are 16 bit PNG, bare or behind the header of compressed_depth_image_transport ("16UC1; compressedDepth").
    Raises ``InputError`` for quantised floats ("32FC1; compressedDepth") and what cannot be decoded.
    """
    raw = bytes(data)
    if "compressedDepth" in kind:
        if kind.startswith("32FC1"):
            raise InputError(f"compressed depth of format '{kind}' is not read; publish 16UC1 or raw depth")
        raw = raw[_CONFIG_BYTES:]
    pixels = _decoded("depth", raw)
    if pixels.dtype != np.uint16 or pixels.ndim != 2:
        raise InputError(f"compressed depth holds {pixels.dtype} {pixels.shape}; it must be one channel of 16 bits")
    return _metres(pixels)


def _plane(
    what: str,
    types: dict[str, Any],
    encoding: str,
    height: int,
    width: int,
    step: int,
    is_bigendian: bool | int,
    data: Any,
) -> np.ndarray:
    """(H, W) view of the one channel."""
    if encoding not in types:
        raise InputError(f"{what} encoding '{encoding}' is not supported; supported are {', '.join(types)}")
    kind = np.dtype(types[encoding]).newbyteorder(">" if is_bigendian else "<")
    raw = np.frombuffer(data, np.uint8)
    shown = f"{what} of {width}x{height} pixels, encoding '{encoding}'"
    if height <= 0 or width <= 0:
        raise InputError(f"{shown}, is empty; width and height must be positive")
    used = width * kind.itemsize
    if step < used or len(raw) < step * height:
        raise InputError(
            f"{shown}, has a step of {step} and holds {len(raw)} bytes; it needs at least {used} and {step * height}"
        )
    rows = np.ascontiguousarray(raw[: step * height].reshape(height, step)[:, :used])
    return rows.view(kind)


def _metres(pixels: np.ndarray) -> Array32:
    if pixels.dtype.kind == "u":
        return pixels.astype(np.float32) * _MILLIMETRE
    metres = pixels.astype(np.float32)
    metres[~(np.isfinite(metres) & (metres > 0))] = 0.0
    return metres


def _decoded(what: str, raw: bytes) -> np.ndarray:
    pixels = None
    if raw:
        try:
            pixels = cv2.imdecode(np.frombuffer(raw, np.uint8), cv2.IMREAD_UNCHANGED)
        except cv2.error as error:
            raise InputError(f"compressed {what} cannot be decoded: {error.err}") from error
    if pixels is None:
        raise InputError(f"compressed {what} cannot be decoded: its {len(raw)} bytes are no PNG or other known image")
    return pixels
