"""DDAD (Guizilini et al., CVPR 2020), DGP layout: the front camera with lidar depth projected into it."""

from __future__ import annotations

import re
import zipfile
from collections.abc import Callable, Iterator
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import numpy as np

from dust3r_ros.errors import InputError
from dust3r_ros.evaluation.datasets.recording import Dataset, Recording, View
from dust3r_ros.geometry.rigid import invert, transform
from dust3r_ros.layouts import reading
from dust3r_ros.types import Array, Array32

_CAMERA, _LIDAR = "CAMERA_01", "LIDAR"
_SPLITS = {"0": "train", "1": "val", "2": "test"}  # DatasetSplit of DGP's dataset.proto


def read(path: Path) -> Iterator[Recording]:
    """Scenes as ddad.json lists them."""
    listing = path / "ddad.json"
    if not listing.is_file():
        return
    splits = reading.read_json(listing).get("scene_splits")
    if not isinstance(splits, dict):
        raise InputError(f"'{listing}' holds no scene_splits")
    for key, scenes in sorted(splits.items()):
        if key not in _SPLITS or not isinstance(scenes, dict):
            raise InputError(f"'{listing}' has a split {key!r}; {', '.join(_SPLITS)} are known")
        files = scenes.get("filenames", [])
        if not isinstance(files, list) or not all(isinstance(file, str) for file in files):
            raise InputError(f"'{listing}' has a split {key!r} whose filenames are {files!r}; it must list files")
        for file in sorted(files):
            scene = reading.existing(path / file, "scene")
            name = scene.parent.name
            yield Recording(name, DATASET.name, tuple(_views(scene)), split=_SPLITS[key], scene=name)


def _views(scene: Path) -> Iterator[View]:
    """The front camera's images, each with the scan of its sample."""
    data = reading.read_json(scene)
    try:
        datums = {datum["key"]: datum for datum in data["data"]}
        samples = [
            (sample["calibration_key"], [datums[key] for key in sample["datum_keys"]]) for sample in data["samples"]
        ]
        for key, members in samples:
            by_name = {member["id"]["name"]: member for member in members}
            K = _intrinsics(scene.parent / "calibration" / f"{key}.json", _CAMERA)
            yield _view(scene, by_name[_CAMERA], by_name.get(_LIDAR), K)
    except (KeyError, TypeError) as error:
        raise InputError(
            f"'{scene}' is not a DGP scene with {_CAMERA}: {error!r} is missing or of the wrong type"
        ) from error


def _view(scene: Path, camera: dict[str, Any], lidar: dict[str, Any] | None, K: Array) -> View:
    image = camera["datum"]["image"]
    file, w_T_c = scene.parent / image["filename"], _pose(scene, image["pose"])
    depth = None
    if lidar is not None:
        cloud = lidar["datum"]["point_cloud"]
        scan = reading.existing(scene.parent / cloud["filename"], "point cloud")
        depth = _depth(scan, invert(w_T_c) @ _pose(scene, cloud["pose"]), K, file)
    stamp_ns = _stamp(scene, camera["id"]["timestamp"])
    name = f"{scene.parent.name}/{image['filename']}"
    return View(stamp_ns, _CAMERA, K, w_T_c, reading.image_reader(file), depth, name=name)


def _pose(path: Path, entry: dict[str, Any]) -> Array:
    """A DGP pose, sensor to world. Protobuf's JSON leaves out numbers that are 0."""
    t = reading.floats(path, [str(entry.get("translation", {}).get(name, 0.0)) for name in "xyz"])
    q = reading.floats(path, [str(entry.get("rotation", {}).get(name, 0.0)) for name in ("qx", "qy", "qz", "qw")])
    return reading.quaternion_pose(path, t, q)


def _intrinsics(path: Path, camera: str) -> Array:
    data = reading.read_json(reading.existing(path, "calibration"))
    try:
        entry = data["intrinsics"][data["names"].index(camera)]
        fx, fy, cx, cy = (float(entry[name]) for name in ("fx", "fy", "cx", "cy"))
    except (KeyError, ValueError, TypeError, IndexError, AttributeError) as error:
        raise InputError(f"'{path}' has no intrinsics of {camera}: {error!r}") from error
    return reading.intrinsics(fx, fy, cx, cy, path)


def _depth(scan: Path, c_T_lidar: Array, K: Array, image: Path) -> Callable[[], Array32]:
    def read() -> Array32:
        try:
            with np.load(scan, allow_pickle=False) as file:
                data = file["data"]
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
            raise InputError(f"point cloud '{scan}' holds no 'data': {error!r}") from error
        points = np.stack([data[name] for name in "XYZ"], axis=-1) if data.dtype.names else data[:, :3]
        return reading.splatted(transform(c_T_lidar, points.astype(np.float64)), K, *reading.image_size(image))

    return read


def _stamp(path: Path, text: str) -> int:
    """Nanoseconds of ``2019-04-12T16:43:05.123456Z``, every digit kept. Raises ``InputError``."""
    found = re.fullmatch(r"(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d)(?:\.(\d{1,9}))?Z", str(text))
    if found is None:
        raise InputError(f"'{path}' holds the stamp {text!r}; it must be like 2019-04-12T16:43:05.123456Z")
    seconds = datetime.fromisoformat(found.group(1)).replace(tzinfo=timezone.utc)
    return int(seconds.timestamp()) * 10**9 + int((found.group(2) or "").ljust(9, "0"))


DATASET = Dataset(
    name="ddad",
    title="DDAD",
    source="Toyota Research Institute, https://github.com/TRI-ML/DDAD",
    fetch="DDAD.tar (257 GB), unpacked",
    licence="CC BY-NC-SA 4.0",
    layout="""
PATH/ddad.json
PATH/000000/
  scene_HASH.json
  calibration/HASH.json
  rgb/CAMERA_01/STAMP.png ...
  point_cloud/LIDAR/STAMP.npz ...
""",
    notes=(
        "The front camera (CAMERA_01), as in the literature's depth tables. Depth is the nearest lidar point of the\n"
        "sample's scan at each pixel: sparse. The split is that of ddad.json (train, val, test)."
    ),
    read=read,
)
