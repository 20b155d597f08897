"""A map for nerfstudio: transforms.json with images, depth and an initial point cloud.

The format is documented at https://docs.nerf.studio/quickstart/data_conventions.html: camera axes as in OpenGL
(x right, y up, z backwards), world with z up, pixels counted from the corner of the image.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from dust3r_ros.cloud.cloud import Cloud
from dust3r_ros.errors import GeometryError
from dust3r_ros.io.files import atomic_folder
from dust3r_ros.products.colmap import image_name, png
from dust3r_ros.products.ply import write_ply
from dust3r_ros.types import Array, Keyframe

DEPTH_UNIT = 1e-3  # map units per step of the depth images, nerfstudio's default
_FURTHEST = np.iinfo(np.uint16).max
_COARSEST = 0.005  # fraction of the median depth: a wider step is too coarse
_CV_TO_GL = np.diag([1.0, -1.0, -1.0, 1.0])


def write_nerfstudio(
    path: str | Path, keyframes: Sequence[Keyframe], cloud: Cloud, min_confidence: float = 1.5
) -> float:
    """Write the folder ``path`` atomically, with every keyframe as a frame.

    Depth (z) is 0 where confidence is not above ``min_confidence``. Returns the unit of the depth images in map units,
    which is in the file as ``depth_unit_scale_factor``: 0.001, unless the depths need another power of ten (then
    nerfstudio needs it as an option). Raises ``GeometryError`` without a keyframe, ``OutputError`` when the folder
    exists or cannot be written.
    """
    if not keyframes:
        raise GeometryError("the map has no keyframe, so there is nothing to train on")
    unit = _depth_unit(keyframes, min_confidence)
    views = [_intrinsics(keyframe) for keyframe in keyframes]
    shared = views[0] if all(view == views[0] for view in views) else {}
    with atomic_folder(path) as folder:
        (folder / "images").mkdir()
        (folder / "depth").mkdir()
        frames = [
            {**_write_frame(folder, keyframe, unit, min_confidence), **({} if shared else intrinsics)}
            for keyframe, intrinsics in zip(keyframes, views, strict=True)
        ]
        write_ply(folder / "points.ply", cloud)
        about = {
            "camera_model": "OPENCV",
            **shared,
            "k1": 0.0, "k2": 0.0, "p1": 0.0, "p2": 0.0,
            "depth_unit_scale_factor": unit,
            "ply_file_path": "points.ply",
            "applied_transform": np.eye(4)[:3].tolist(),
            "frames": frames,
        }  # fmt: skip
        (folder / "transforms.json").write_text(json.dumps(about, indent=1, allow_nan=False) + "\n", encoding="utf-8")
    return unit


def _write_frame(folder: Path, keyframe: Keyframe, unit: float, min_confidence: float) -> dict[str, Any]:
    """Write image and depth of a keyframe; returns their paths and its pose."""
    name = image_name(keyframe)
    (folder / "images" / name).write_bytes(png(keyframe.image))
    (folder / "depth" / name).write_bytes(png(_depth(keyframe, unit, min_confidence)))
    return {
        "file_path": f"images/{name}",
        "depth_file_path": f"depth/{name}",
        "transform_matrix": _opengl(keyframe.w_T_c).tolist(),
    }


def _intrinsics(keyframe: Keyframe) -> dict[str, Any]:
    height, width = keyframe.depth.shape
    focal = float(keyframe.focal)
    return {"fl_x": focal, "fl_y": focal, "cx": width / 2, "cy": height / 2, "w": width, "h": height}


def _opengl(w_T_c: Array) -> Array:
    """The pose (4, 4) of a camera with x right, y up, z backwards."""
    return w_T_c @ _CV_TO_GL


def _depth_unit(keyframes: Sequence[Keyframe], min_confidence: float) -> float:
    """A power of ten with which depth fits into 16 bits."""
    known = [k.depth[_sure(k, min_confidence)][::7] for k in keyframes]
    depths = np.concatenate(known)
    if not len(depths):
        return DEPTH_UNIT
    far, median = np.quantile(depths, 0.99), np.median(depths)
    if far < DEPTH_UNIT * _FURTHEST and median * _COARSEST > DEPTH_UNIT:
        return DEPTH_UNIT
    return float(10.0 ** np.ceil(np.log10(far / _FURTHEST)))


def _sure(keyframe: Keyframe, min_confidence: float) -> np.ndarray:
    return np.isfinite(keyframe.depth) & (keyframe.depth > 0) & (keyframe.confidence > min_confidence)


def _depth(keyframe: Keyframe, unit: float, min_confidence: float) -> np.ndarray:
    """(H, W) uint16, 0 = none."""
    steps = np.rint(np.where(_sure(keyframe, min_confidence), keyframe.depth, 0.0) / unit)
    return np.where(steps <= _FURTHEST, steps, 0).astype(np.uint16)
