"""CO3Dv2 (Reizenstein et al., ICCV 2021): turntable videos of objects, PyTorch3D's camera convention."""

from __future__ import annotations

import gzip
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from dust3r_ros.errors import InputError
from dust3r_ros.evaluation.datasets import reading
from dust3r_ros.evaluation.datasets.recording import Dataset, Recording, View
from dust3r_ros.geometry.rigid import invert, pose
from dust3r_ros.types import Array, Array32

# PyTorch3D's camera has x left, y up, z forward.
_OPTICAL = np.diag([-1.0, -1.0, 1.0])
_SET_LIST = "set_lists/set_lists_fewview_dev.json"


def read(path: Path) -> Iterator[Recording]:
    """Sequences of the category in ``path``, or of the categories in the folders in it."""
    for category in reading.folders(path, "frame_annotations.jgz"):
        name, splits = category.resolve().name, _splits(category / _SET_LIST)
        sequences: dict[str, list[dict[str, Any]]] = {}
        annotations = category / "frame_annotations.jgz"
        for frame in _annotations(annotations):
            sequences.setdefault(str(_of(annotations, frame, "sequence_name")), []).append(frame)
        for sequence in sorted(sequences):
            views = tuple(_view(category, annotations, frame) for frame in sequences[sequence])
            ordered = tuple(sorted(views, key=lambda view: view.stamp_ns))
            split = splits.get(sequence, "")
            yield Recording(
                f"{name}/{sequence}", DATASET.name, ordered, metric=False, split=split, scene=f"{name}/{sequence}"
            )


def _annotations(path: Path) -> list[dict[str, Any]]:
    try:
        text = gzip.decompress(path.read_bytes()).decode("utf-8")
    except (OSError, EOFError, UnicodeDecodeError) as error:
        raise InputError(f"'{path}' cannot be read as gzipped JSON: {error}") from error
    found: list[dict[str, Any]] = reading.read_json(path, list, text)
    return found


def _of(path: Path, entry: Any, *names: str) -> Any:
    for name in names:
        if not isinstance(entry, dict) or entry.get(name) is None:
            raise InputError(f"'{path}' holds a frame without {'.'.join(names)}")
        entry = entry[name]
    return entry


def _view(category: Path, path: Path, frame: dict[str, Any]) -> View:
    root, name = category.parent, str(_of(path, frame, "image", "path"))
    try:
        height, width = (int(value) for value in _of(path, frame, "image", "size"))
        stamp_ns = round(float(_of(path, frame, "frame_timestamp")) * 1e9)
    except (TypeError, ValueError) as error:
        raise InputError(f"'{path}': size or frame_timestamp of '{name}' is no number: {error}") from error
    K, w_T_c = _camera(path, _of(path, frame, "viewpoint"), width, height)
    depth = frame.get("depth")
    read_depth = _depth(root, path, depth) if isinstance(depth, dict) and depth.get("path") else None
    return View(stamp_ns, "camera", K, w_T_c, reading.image_reader(root / name), read_depth, name=name)


def _camera(path: Path, viewpoint: Any, width: int, height: int) -> tuple[Array, Array]:
    """K and ``w_T_c`` of a viewpoint: x_cam = x_world R + T (rows), NDC with +x left and +y up.

    In ``ndc_isotropic`` the shorter side of the image spans [-1, 1], in ``ndc_norm_image_bounds`` each side does;
    both up to the pixels' outer edges, half a pixel beyond the centres of the outermost ones.
    """
    try:
        R, t = np.array(viewpoint["R"], np.float64).reshape(3, 3), np.array(viewpoint["T"], np.float64).reshape(3)
        focal = np.array(viewpoint["focal_length"], np.float64).reshape(2)
        center = np.array(viewpoint["principal_point"], np.float64).reshape(2)
        convention = viewpoint.get("intrinsics_format", "ndc_norm_image_bounds")
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(f"'{path}' holds a viewpoint that is none: {error!r}") from error
    half = np.array([width, height]) / 2.0
    if convention == "ndc_isotropic":
        scale = np.full(2, half.min())
    elif convention == "ndc_norm_image_bounds":
        scale = half
    else:
        raise InputError(f"'{path}' has intrinsics_format {convention!r}; ndc_isotropic is known")
    (fx, fy), (cx, cy) = focal * scale, half - center * scale - 0.5
    c_T_w = reading.rigid(path, np.column_stack([_OPTICAL @ R.T, _OPTICAL @ t]))
    return reading.intrinsics(fx, fy, cx, cy, path), invert(pose(c_T_w[:3, :3], c_T_w[:3, 3]))


def _depth(root: Path, path: Path, entry: dict[str, Any]) -> Callable[[], Array32]:
    """Depth is half floats whose bits lie in a 16 bit PNG, times a scale of the sequence."""
    file, scale = reading.existing(root / entry["path"], "depth image"), entry.get("scale_adjustment", 1.0)
    if not isinstance(scale, (int, float)):
        raise InputError(f"'{path}' has scale_adjustment {scale!r}; it must be a number")
    mask = reading.existing(root / entry["mask_path"], "mask") if entry.get("mask_path") else None

    def read() -> Array32:
        depth = np.ascontiguousarray(reading.sixteen_bits(file)).view(np.float16).astype(np.float32) * np.float32(scale)
        depth[~np.isfinite(depth) | (depth < 0)] = 0
        return depth if mask is None else np.where(reading.image_reader(mask)()[..., 0] > 0, depth, np.float32(0))

    return read


def _splits(path: Path) -> dict[str, str]:
    """{sequence: split} of the few-view set list; {} where there is none. A sequence with test frames is "test"."""
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


DATASET = Dataset(
    name="co3d",
    title="CO3Dv2",
    source="Meta, https://github.com/facebookresearch/co3d (its download script)",
    fetch="categories, unpacked into one folder",
    licence="CC BY-NC 4.0",
    layout="""
PATH/apple/
  frame_annotations.jgz  set_lists/set_lists_fewview_dev.json
  110_13051_23361/images/frame000001.jpg ...
  110_13051_23361/depths/frame000001.jpg.geometric.png ...
  110_13051_23361/depth_masks/frame000001.png ...
""",
    notes=(
        "Poses and depth are in a unit of each sequence's own. Files are named from PATH, the folder of categories.\n"
        "Split: that of set_lists_fewview_dev.json; a sequence with test frames is test."
    ),
    read=read,
)
