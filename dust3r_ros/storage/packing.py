"""How a saved map stores arrays: poses exactly, images losslessly, depth and confidence in 16 bits.

Every blob has a checksum (zlib's, or a CRC-32 at its end), so that damage is detected.
"""

from __future__ import annotations

import zlib

import cv2
import numpy as np
from numpy.typing import DTypeLike

from dust3r_ros.io.manifest import inflated
from dust3r_ros.types import Array, Array32, Image

_LARGEST = 60000.0  # below the largest float16
_SMALLEST = 6e-8  # the smallest float16 above 0
_MOST = 1 << 28  # bytes of one blob, unpacked: more than any keyframe has


def seal(data: bytes) -> bytes:
    """Bytes with their checksum appended."""
    return data + zlib.crc32(data).to_bytes(4, "little")


def unseal(blob: bytes) -> bytes:
    """Bytes without their checksum. Raises ``ValueError`` if it is wrong."""
    if len(blob) < 4 or zlib.crc32(blob[:-4]).to_bytes(4, "little") != blob[-4:]:
        raise ValueError("its checksum is wrong")
    return blob[:-4]


def squeeze(data: bytes) -> bytes:
    """Compress by Huffman coding: a third of the time of a search for repetitions, which are rare in numbers."""
    coder = zlib.compressobj(1, zlib.DEFLATED, 15, 9, zlib.Z_HUFFMAN_ONLY)
    return coder.compress(data) + coder.flush()


def pack_array(values: np.ndarray, dtype: DTypeLike) -> bytes:
    """Any array, little endian, grouped by byte position: the upper bytes are alike, the lower ones noise."""
    flat = np.ascontiguousarray(values, dtype).reshape(-1)
    return squeeze(flat.view(np.uint8).reshape(-1, flat.itemsize).T.tobytes())


def unpack_array(blob: bytes, dtype: DTypeLike, *shape: int) -> np.ndarray:
    """The inverse. Raises ``ValueError`` when the bytes are damaged or their number is wrong."""
    raw, kind = _inflated(blob), np.dtype(dtype)
    planes = np.frombuffer(raw, np.uint8).reshape(kind.itemsize, -1)
    return np.ascontiguousarray(planes.T).reshape(-1).view(kind).reshape(shape)


def unpack_bytes(blob: bytes) -> np.ndarray:
    """Inverse of ``squeeze``, (N,) uint8. Raises ``ValueError`` when the bytes are damaged."""
    return np.frombuffer(_inflated(blob), np.uint8)


def pack_steps(values: np.ndarray) -> bytes:
    """Integers (N,), mostly consecutive."""
    return zlib.compress(np.diff(np.asarray(values, "<i8"), prepend=0).astype("<i4").tobytes(), 1)


def unpack_steps(blob: bytes) -> np.ndarray:
    """(N,) int64. Raises ``ValueError`` when the bytes are damaged."""
    return np.cumsum(np.frombuffer(_inflated(blob), "<i4"), dtype=np.int64)


def pack_offsets(offsets: Array, center: Array) -> bytes:
    """(N, 2) pixels from ``center`` (2,): in single precision where that is exact, which is nearly always."""
    pixels = (offsets + center).astype("<f4")
    exact = np.array_equal(pixels.astype(np.float64) - center, offsets)
    return b"4" + pack_array(pixels, "<f4") if exact else b"8" + pack_array(offsets, "<f8")


def unpack_offsets(blob: bytes, center: Array) -> Array:
    """(N, 2), exact. Raises ``ValueError`` when the bytes are damaged."""
    if blob[:1] == b"4":
        return unpack_array(blob[1:], "<f4", -1, 2).astype(np.float64) - center
    return unpack_array(blob[1:], "<f8", -1, 2).astype(np.float64)


def pack_pose(w_T_c: Array) -> bytes:
    """132 bytes: float64, little endian, row by row, and a checksum."""
    return seal(np.asarray(w_T_c, "<f8").tobytes())


def unpack_matrix(blob: bytes) -> Array:
    """(4, 4), exact. Raises ``ValueError`` when it is damaged."""
    matrix = np.frombuffer(unseal(blob), "<f8").reshape(4, 4).astype(np.float64)
    if not np.isfinite(matrix).all() or not np.array_equal(matrix[3], [0, 0, 0, 1]):
        raise ValueError("its pose is not finite")
    return matrix


def unpack_pose(blob: bytes) -> Array:
    """(4, 4), exact. Raises ``ValueError`` when it is not a rigid motion."""
    try:
        pose = unpack_matrix(blob)
    except ValueError as error:
        raise ValueError(f"its pose is not a rigid motion ({error})") from error
    rotation = pose[:3, :3]
    if not np.allclose(rotation @ rotation.T, np.eye(3), atol=1e-4):
        raise ValueError("its pose is not a rigid motion")
    return pose


def pack_image(image: Image) -> bytes:
    """RGB (H, W, 3) as PNG."""
    how = [cv2.IMWRITE_PNG_COMPRESSION, 2, cv2.IMWRITE_PNG_STRATEGY, cv2.IMWRITE_PNG_STRATEGY_HUFFMAN_ONLY]
    return seal(cv2.imencode(".png", image[..., ::-1], how)[1].tobytes())


def unpack_image(blob: bytes, height: int, width: int) -> Image:
    """RGB (H, W, 3). Raises ``ValueError`` when the bytes are damaged."""
    try:
        data = unseal(blob)
    except ValueError as error:
        raise ValueError(f"its image is damaged ({error})") from error
    image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
    if image is None or image.shape != (height, width, 3):
        raise ValueError("its image is damaged")
    return np.ascontiguousarray(image[..., ::-1])


def pack_mask(mask: np.ndarray | None) -> bytes | None:
    """(H, W) bool, a bit per pixel."""
    return None if mask is None else zlib.compress(np.packbits(mask).tobytes(), 1)


def unpack_mask(blob: bytes | None, height: int, width: int) -> np.ndarray | None:
    """(H, W) bool. Raises ``ValueError`` when the bytes are damaged."""
    if blob is None:
        return None
    bits = np.frombuffer(_inflated(blob), np.uint8)
    return np.unpackbits(bits, count=height * width).astype(bool).reshape(height, width)


def depth_scale(depth: Array32) -> float:
    """The divisor of a depth map before conversion to float16: the median of known depth."""
    known = depth[(depth > 0) & np.isfinite(depth)]
    return float(np.median(known)) if len(known) else 1.0


def pack_map(values: Array32, scale: float = 1.0) -> bytes:
    """(H, W) values >= 0 as compressed float16 of values / scale; relative error below 5e-4 near the scale.

    Values that are not finite become 0; positive values stay positive.
    """
    clean = np.nan_to_num(values, nan=0.0, posinf=0.0, neginf=0.0) / scale
    halves = np.where(clean > 0, np.clip(clean, _SMALLEST, _LARGEST), 0).astype("<f2").view("<u2").ravel()
    steps = np.diff(halves, prepend=np.uint16(0)).astype("<u2")  # of neighbours: small, with similar high bytes
    return zlib.compress(steps.view(np.uint8).reshape(-1, 2).T.tobytes(), 1)


def unpack_map(blob: bytes, height: int, width: int, scale: float = 1.0) -> Array32:
    """(H, W) float32. Raises ``ValueError`` when the bytes are damaged."""
    try:
        planes = np.frombuffer(_inflated(blob), np.uint8).reshape(2, -1)
        steps = np.ascontiguousarray(planes.T).view("<u2").ravel()
        halves = np.cumsum(steps, dtype=np.uint16).astype("<u2").view("<f2")
    except ValueError as error:
        raise ValueError(f"its depth or confidence is damaged ({error})") from error
    return halves.reshape(height, width).astype(np.float32) * np.float32(scale)


def _inflated(blob: bytes) -> bytes:
    return inflated(blob, "it is", _MOST)
