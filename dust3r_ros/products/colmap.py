"""A map as a COLMAP model: a folder of images and ``sparse/0`` with cameras, images and points, binary.

The file format is documented at https://colmap.github.io/format.html#binary-file-format. COLMAP counts pixels from
the corner of the image, so that the centre of the first one is (0.5, 0.5). Images are those of the keyframes,
rectified and at working size, so every camera is a PINHOLE with the principal point in the middle.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np

from dust3r_ros.cloud.tracks import DenseTracks
from dust3r_ros.errors import GeometryError
from dust3r_ros.geometry.rigid import invert, quaternion
from dust3r_ros.io.files import atomic_folder
from dust3r_ros.types import Image, Keyframe

_PINHOLE = 1  # COLMAP's id of the model with fx, fy, cx, cy
_OBSERVATION = np.dtype([("x", "<f8"), ("y", "<f8"), ("point", "<u8")])
_HALF = 0.5  # a pixel's centre, counted from its corner


def write_colmap(path: str | Path, keyframes: Sequence[Keyframe], tracks: DenseTracks) -> None:
    """Write the folder ``path`` atomically; ``tracks`` belong to these keyframes.

    Keyframe n is image n + 1; a camera whose focal length differs between its keyframes becomes several.
    Raises ``GeometryError`` without a keyframe, ``OutputError`` when the folder exists or cannot be written.
    """
    if not keyframes:
        raise GeometryError("the map has no keyframe, so there is no model to write")
    cameras: dict[tuple[str, int, int, float], int] = {}
    for keyframe in keyframes:
        cameras.setdefault(_camera(keyframe), len(cameras) + 1)
    with atomic_folder(path) as folder:
        (folder / "images").mkdir()
        for keyframe in keyframes:
            (folder / "images" / image_name(keyframe)).write_bytes(png(keyframe.image))
        model = folder / "sparse" / "0"
        model.mkdir(parents=True)
        (model / "cameras.bin").write_bytes(_cameras(cameras))
        (model / "images.bin").write_bytes(_images(keyframes, tracks, cameras))
        (model / "points3D.bin").write_bytes(_points(keyframes, tracks))


def image_name(keyframe: Keyframe) -> str:
    """File name of a keyframe's image: camera and number."""
    return f"{keyframe.camera.strip('/').replace('/', '_') or 'camera'}_{keyframe.index:06d}.png"


def png(image: Image) -> bytes:
    """RGB (H, W, 3) uint8, or (H, W) of 8 or 16 bits, as PNG."""
    planes = image[..., ::-1] if image.ndim == 3 else image
    return cv2.imencode(".png", np.ascontiguousarray(planes))[1].tobytes()


def _camera(keyframe: Keyframe) -> tuple[str, int, int, float]:
    height, width = keyframe.depth.shape
    return keyframe.camera, width, height, float(keyframe.focal)


def _cameras(cameras: dict[tuple[str, int, int, float], int]) -> bytes:
    parts = [struct.pack("<Q", len(cameras))]
    for (_, width, height, focal), number in cameras.items():
        parts.append(struct.pack("<IiQQ", number, _PINHOLE, width, height))
        parts.append(struct.pack("<4d", focal, focal, width / 2, height / 2))
    return b"".join(parts)


def _images(
    keyframes: Sequence[Keyframe], tracks: DenseTracks, cameras: dict[tuple[str, int, int, float], int]
) -> bytes:
    parts = [struct.pack("<Q", len(keyframes))]
    for view, keyframe in enumerate(keyframes):
        c_T_w = invert(keyframe.w_T_c)
        x, y, z, w = quaternion(c_T_w[:3, :3])
        parts.append(struct.pack("<I7d", keyframe.index + 1, w, x, y, z, *c_T_w[:3, 3]))
        parts.append(struct.pack("<I", cameras[_camera(keyframe)]) + image_name(keyframe).encode() + b"\0")
        mine = tracks.view == view
        observations = np.empty(int(mine.sum()), _OBSERVATION)
        observations["x"], observations["y"] = (tracks.pixels[mine] + _HALF).T
        observations["point"] = tracks.point[mine] + 1
        parts += [struct.pack("<Q", len(observations)), observations.tobytes()]
    return b"".join(parts)


def _points(keyframes: Sequence[Keyframe], tracks: DenseTracks) -> bytes:
    """Points with their tracks: pairs of an image and the index of the observation in that image's list."""
    place = np.zeros(len(tracks.point), np.int64)
    for view in range(len(keyframes)):
        mine = np.flatnonzero(tracks.view == view)
        place[mine] = np.arange(len(mine))
    numbers = np.array([keyframe.index + 1 for keyframe in keyframes], np.int64)[tracks.view]
    track = np.stack([numbers, place], axis=-1).astype("<u4")
    counts = np.bincount(tracks.point, minlength=len(tracks))
    ends = np.cumsum(counts)
    begins = ends - counts
    parts = [struct.pack("<Q", len(tracks))]
    for number, (point, color, error, begin, end) in enumerate(
        zip(tracks.points, tracks.colors, tracks.errors, begins, ends, strict=True), start=1
    ):
        parts.append(struct.pack("<Q3d3Bd", number, *point, *color.tolist(), error))
        parts.append(struct.pack("<Q", end - begin) + track[begin:end].tobytes())
    return b"".join(parts)
