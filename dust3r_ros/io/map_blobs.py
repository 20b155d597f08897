"""How a saved map stores arrays: poses bit by bit, images lossless, depth and confidence in 16 bits."""

from __future__ import annotations

import zlib

import cv2
import numpy as np

from dust3r_ros.types import Array, Array32, Image

_LARGEST = 60000.0  # below the largest float16
_SMALLEST = 6e-8  # the smallest float16 above 0


def pack_pose(w_T_c: Array) -> bytes:
    """128 bytes: float64, little endian, row by row."""
    return np.asarray(w_T_c, "<f8").tobytes()


def unpack_pose(blob: bytes) -> Array:
    """(4, 4), bit-equal. Raises ``ValueError`` when it is no rigid motion."""
    pose = np.frombuffer(blob, "<f8").reshape(4, 4).astype(np.float64)
    rotation = pose[:3, :3]
    rigid = np.isfinite(pose).all() and np.allclose(rotation @ rotation.T, np.eye(3), atol=1e-4)
    if not rigid or not np.array_equal(pose[3], [0, 0, 0, 1]):
        raise ValueError("its pose is no rigid motion")
    return pose


def pack_image(image: Image) -> bytes:
    """RGB (H, W, 3) as PNG."""
    return cv2.imencode(".png", image[..., ::-1], [cv2.IMWRITE_PNG_COMPRESSION, 2])[1].tobytes()


def unpack_image(blob: bytes, height: int, width: int) -> Image:
    """RGB (H, W, 3). Raises ``ValueError`` when the bytes are damaged."""
    image = cv2.imdecode(np.frombuffer(blob, np.uint8), cv2.IMREAD_COLOR)
    if image is None or image.shape != (height, width, 3):
        raise ValueError("its image is damaged")
    return np.ascontiguousarray(image[..., ::-1])


def depth_scale(depth: Array32) -> float:
    """What a depth map is divided by before it becomes float16: the median of what is known."""
    known = depth[(depth > 0) & np.isfinite(depth)]
    return float(np.median(known)) if len(known) else 1.0


def pack_map(values: Array32, scale: float = 1.0) -> bytes:
    """(H, W) values >= 0 as compressed float16 of values / scale; relative error below 5e-4 near the scale.

    What is not finite becomes 0; what is above 0 stays so.
    """
    clean = np.nan_to_num(values, nan=0.0, posinf=0.0, neginf=0.0) / scale
    clean = np.where(clean > 0, np.clip(clean, _SMALLEST, _LARGEST), 0)
    return zlib.compress(clean.astype("<f2").tobytes(), 1)


def unpack_map(blob: bytes, height: int, width: int, scale: float = 1.0) -> Array32:
    """(H, W) float32. Raises ``ValueError`` when the bytes are damaged."""
    try:
        raw = zlib.decompress(blob)
    except zlib.error as error:
        raise ValueError(f"its depth or confidence is damaged ({error})") from error
    return np.frombuffer(raw, "<f2").reshape(height, width).astype(np.float32) * np.float32(scale)
