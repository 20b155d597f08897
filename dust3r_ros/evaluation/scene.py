"""A recorded sequence with truth: a folder of images with poses, intrinsics and perhaps depth.

Layout: ``rgb.txt`` and ``rgb/``, ``groundtruth.txt`` (TUM: t tx ty tz qx qy qz qw, camera to world),
``intrinsics.json`` (fx, fy, width, height, depth_scale, pose_scale) and, where the scene has depth,
``depth.txt`` and ``depth/`` (16 bit PNG, 0 = none).
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from dust3r_ros.errors import InputError
from dust3r_ros.io.trajectory import read_tum, stamp_from_text
from dust3r_ros.types import Array32, StampedPose

_STAMP_TOLERANCE_NS = 10_000_000


@dataclass(frozen=True, eq=False)
class Scene:
    """``focal`` (pixels, mean of fx and fy) is for ``width`` x ``height``; ``metric``: the poses are in metres."""

    name: str
    path: Path
    truth: tuple[StampedPose, ...]
    focal: float
    width: int
    height: int
    metric: bool
    depth_scale: float
    depth_files: Mapping[int, Path]

    def depth(self, stamp_ns: int) -> Array32 | None:
        """True depth (H, W) at native resolution, in the unit of the poses, 0 = none; None where there is none."""
        path = self.depth_file(stamp_ns)
        if path is None:
            return None
        import cv2

        image = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
        if image is None or image.ndim != 2 or image.dtype != np.uint16:
            raise InputError(f"depth image '{path}' cannot be read as a 16 bit grey PNG")
        return (image / self.depth_scale).astype(np.float32)

    def depth_file(self, stamp_ns: int) -> Path | None:
        """The depth file at a stamp; None without one within 10 ms."""
        nearest = min(self.depth_files, key=lambda stamp: abs(stamp - stamp_ns), default=None)
        if nearest is None or abs(nearest - stamp_ns) > _STAMP_TOLERANCE_NS:
            return None
        return self.depth_files[nearest]


def read_scene(path: str | Path) -> Scene:
    """The scene in folder ``path``. Raises ``InputError`` naming the file that is missing or damaged."""
    path = Path(path)
    for needed in ("groundtruth.txt", "intrinsics.json"):
        if not (path / needed).is_file():
            raise InputError(f"'{path}' is not a scene with truth: it has no {needed}")
    values = _intrinsics(path / "intrinsics.json")
    truth = tuple(read_tum(path / "groundtruth.txt"))
    if not truth:
        raise InputError(f"'{path / 'groundtruth.txt'}' holds no pose")
    listing = path / "depth.txt"
    return Scene(
        name=path.resolve().name,
        path=path,
        truth=truth,
        focal=(values["fx"] + values["fy"]) / 2.0,
        width=int(values["width"]),
        height=int(values["height"]),
        metric=values["metric"] > 0,
        depth_scale=values["depth_scale"],
        depth_files=_read_listing(listing) if listing.is_file() else {},
    )


def image_files(path: str | Path) -> dict[int, Path]:
    """{stamp in ns: file} of the scene's images, as rgb.txt lists them. Raises ``InputError``."""
    listing = Path(path) / "rgb.txt"
    if not listing.is_file():
        raise InputError(f"'{path}' is not a scene with truth: it has no rgb.txt")
    return _read_listing(listing)


def find_scenes(paths: Iterable[str | Path]) -> list[Path]:
    """The scene folders among ``paths`` and directly in them, sorted within each.

    Raises ``InputError`` for a path that neither is nor holds a scene.
    """
    found: list[Path] = []
    for path in map(Path, paths):
        if not path.is_dir():
            raise InputError(f"'{path}' is not a folder")
        if (path / "groundtruth.txt").is_file():
            found.append(path)
            continue
        inside = sorted(child.parent for child in path.glob("*/groundtruth.txt"))
        if not inside:
            raise InputError(f"'{path}' holds no scene: neither it nor a folder in it has a groundtruth.txt")
        found.extend(inside)
    return found


def _intrinsics(path: Path) -> dict[str, float]:
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
        values = {name: float(data[name]) for name in ("fx", "fy", "width", "height")}
        values["depth_scale"] = float(data.get("depth_scale", 1000.0))
        values["metric"] = float(data.get("pose_scale", "metric") == "metric")
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(f"'{path}' does not hold fx, fy, width and height: {error!r}") from error
    if min(values[name] for name in ("fx", "fy", "width", "height", "depth_scale")) <= 0:
        raise InputError(f"'{path}' holds a value that is not positive: {data}")
    return values


def _read_listing(path: Path) -> dict[int, Path]:
    """{stamp in ns: file} of a TUM listing (``stamp name`` per line, # comments)."""
    files: dict[int, Path] = {}
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        parts = line.split()
        if not parts or parts[0].startswith("#"):
            continue
        stamp_ns = stamp_from_text(parts[0])
        if stamp_ns is None or len(parts) < 2:
            raise InputError(f"line {number} of '{path}' is {line!r}; it must be 'stamp file'")
        files[stamp_ns] = path.parent / parts[1]
    return files
