"""CO3Dv2's annotations (Reizenstein et al., ICCV 2021): gzipped JSON, PyTorch3D's cameras, half floats in PNGs."""

from __future__ import annotations

import gzip
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from dust3r_ros.errors import InputError
from dust3r_ros.geometry.rigid import invert, pose
from dust3r_ros.layouts import reading
from dust3r_ros.types import Array, Array32

SOURCE = "Meta, https://github.com/facebookresearch/co3d (its download script)"
FETCH = "categories, unpacked into one folder"
LICENCE = "CC BY-NC 4.0"
LAYOUT = """
PATH/apple/
  frame_annotations.jgz  set_lists/set_lists_fewview_dev.json
  110_13051_23361/images/frame000001.jpg ...
  110_13051_23361/depths/frame000001.jpg.geometric.png ...
  110_13051_23361/depth_masks/frame000001.png ...
"""
FRAMES = "frame_annotations.jgz"
# PyTorch3D's camera has x left, y up, z forward.
_OPTICAL = np.diag([-1.0, -1.0, 1.0])
SET_LIST = "set_lists/set_lists_fewview_dev.json"


@dataclass(frozen=True, eq=False)
class Annotation:
    """One frame of a sequence. Paths are relative to the folder of categories; ``depth`` and ``mask`` may be "".

    ``K`` (3, 3) in pixels, centres at integers; ``w_T_c`` (4, 4) in the sequence's own unit; depth times ``scale`` has
    the same unit. ``size``: (width, height) of the image.
    """

    sequence: str
    stamp_ns: int
    image: str
    size: tuple[int, int]
    K: Array
    w_T_c: Array
    depth: str = ""
    mask: str = ""
    scale: float = 1.0


def frames(category: Path) -> Iterator[Annotation]:
    """The frames of a category, in file order. Raises ``InputError`` naming the file."""
    path = category / FRAMES
    try:
        text = gzip.decompress(path.read_bytes()).decode("utf-8")
    except (OSError, EOFError, UnicodeDecodeError) as error:
        raise InputError(f"'{path}' cannot be read as gzipped JSON: {error}") from error
    for frame in reading.read_json(path, list, text):
        yield _annotation(path, frame)


def _annotation(path: Path, frame: Any) -> Annotation:
    sequence, name = str(_of(path, frame, "sequence_name")), str(_of(path, frame, "image", "path"))
    try:
        height, width = (int(value) for value in _of(path, frame, "image", "size"))
        stamp_ns = round(float(_of(path, frame, "frame_timestamp")) * 1e9)
    except (TypeError, ValueError) as error:
        raise InputError(f"'{path}': size or frame_timestamp of '{name}' is not a number: {error}") from error
    size = width, height
    K, w_T_c = _camera(path, _of(path, frame, "viewpoint"), width, height)
    depth = frame.get("depth")
    if not isinstance(depth, dict) or not depth.get("path"):
        return Annotation(sequence, stamp_ns, name, size, K, w_T_c)
    scale = depth.get("scale_adjustment", 1.0)
    if not isinstance(scale, (int, float)):
        raise InputError(f"'{path}' has scale_adjustment {scale!r}; it must be a number")
    files = str(depth["path"]), str(depth.get("mask_path") or "")
    return Annotation(sequence, stamp_ns, name, size, K, w_T_c, *files, float(scale))


def _of(path: Path, entry: Any, *names: str) -> Any:
    for name in names:
        if not isinstance(entry, dict) or entry.get(name) is None:
            raise InputError(f"'{path}' holds a frame without {'.'.join(names)}")
        entry = entry[name]
    return entry


def _camera(path: Path, viewpoint: Any, width: int, height: int) -> tuple[Array, Array]:
    """K and ``w_T_c`` of a viewpoint: x_cam = x_world R + T (rows), NDC with +x left and +y up.

    In ``ndc_isotropic`` the shorter side of the image spans [-1, 1], in ``ndc_norm_image_bounds`` each side does; both
    extend to the outer edges of pixels, half a pixel beyond their centres.
    """
    try:
        R, t = np.array(viewpoint["R"], np.float64).reshape(3, 3), np.array(viewpoint["T"], np.float64).reshape(3)
        focal = np.array(viewpoint["focal_length"], np.float64).reshape(2)
        center = np.array(viewpoint["principal_point"], np.float64).reshape(2)
        convention = viewpoint.get("intrinsics_format", "ndc_norm_image_bounds")
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(f"'{path}' holds an invalid viewpoint: {error!r}") from error
    half = np.array([width, height]) / 2.0
    if convention == "ndc_isotropic":
        scale = np.full(2, half.min())
    elif convention == "ndc_norm_image_bounds":
        scale = half
    else:
        raise InputError(
            f"'{path}' has intrinsics_format {convention!r}; ndc_isotropic and ndc_norm_image_bounds are supported"
        )
    (fx, fy), (cx, cy) = focal * scale, half - center * scale - 0.5
    c_T_w = reading.rigid(path, np.column_stack([_OPTICAL @ R.T, _OPTICAL @ t]))
    return reading.intrinsics(fx, fy, cx, cy, path), invert(pose(c_T_w[:3, :3], c_T_w[:3, 3]))


def read_depth(file: Path, scale: float, mask: Path | None) -> Array32:
    """(H, W) z in the unit of the poses, 0 = none: half floats stored in a 16 bit PNG; only inside the mask.

    Raises ``InputError`` naming the file.
    """
    depth = np.ascontiguousarray(reading.sixteen_bits(file)).view(np.float16).astype(np.float32) * np.float32(scale)
    depth[~np.isfinite(depth) | (depth < 0)] = 0
    if mask is None:
        return depth
    seen = reading.image_reader(mask)()[..., 0] > 0
    if seen.shape != depth.shape:
        raise InputError(f"mask '{mask}' is {seen.shape}, but its depth image is {depth.shape}; the sizes must agree")
    return np.where(seen, depth, np.float32(0))


def splits(category: Path) -> dict[str, str]:
    """{sequence: split} of the few-view set list; {} where there is none. A sequence with test frames is "test"."""
    path = category / SET_LIST
    if not path.is_file():
        return {}
    found: dict[str, str] = {}
    lists = reading.read_json(path)
    for part in ("test", "val", "train"):
        for entry in lists.get(part, []):
            if not isinstance(entry, list) or len(entry) != 3:
                raise InputError(f"'{path}' holds {entry!r}; it must be [sequence, frame, file]")
            found.setdefault(str(entry[0]), part)
    return found
