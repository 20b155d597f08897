"""A recorded sequence with truth: a folder of images with poses, intrinsics and perhaps depth; and what kind of
recording it is by its true poses, since figures are read by kind: what is hard differs by it.

Layout: ``rgb.txt`` and ``rgb/``, ``groundtruth.txt`` (TUM: t tx ty tz qx qy qz qw, camera to world),
``intrinsics.json`` (fx, fy, width, height; cx, cy, depth_scale, pose_scale where known) and, where the scene has depth,
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
from dust3r_ros.layouts.reading import intrinsics, read_json
from dust3r_ros.types import Array, Array32, StampedPose

_STAMP_TOLERANCE_NS = 10_000_000


@dataclass(frozen=True, eq=False)
class Scene:
    """``K`` (3, 3) is for ``width`` x ``height``, its principal point the middle where it is not known; ``metric``: the
    poses are in metres."""

    name: str
    path: Path
    truth: tuple[StampedPose, ...]
    K: Array
    width: int
    height: int
    metric: bool
    depth_scale: float
    depth_files: Mapping[int, Path]

    @property
    def focal(self) -> float:
        """Pixels, the mean of fx and fy."""
        return float(self.K[0, 0] + self.K[1, 1]) / 2.0

    def pose(self, stamp_ns: int) -> Array | None:
        """The true ``w_T_c`` (4, 4) nearest to a stamp; None without one within 10 ms."""
        nearest = min(self.truth, key=lambda pose: abs(pose.stamp_ns - stamp_ns))
        return nearest.w_T_c if abs(nearest.stamp_ns - stamp_ns) <= _STAMP_TOLERANCE_NS else None

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
        K=intrinsics(values["fx"], values["fy"], values["cx"], values["cy"], path / "intrinsics.json"),
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
        values["cx"] = float(data.get("cx", (values["width"] - 1) / 2))
        values["cy"] = float(data.get("cy", (values["height"] - 1) / 2))
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


LITTLE, WIDE, FORWARD = "little motion", "wide steps", "forward motion"
AROUND, LOOPS, LONG, OTHER = "around an object", "loops", "long video", "none of these"
# In the words of a legend, with the limits below.
MEANINGS = {
    LITTLE: "a path of at most 0.7 m",
    WIDE: "the camera turns by 6 degrees or more from image to image (median)",
    FORWARD: "it moves along its optical axis (within 25 degrees, median)",
    AROUND: "all optical axes meet in one place, from directions 30 degrees or more apart",
    LOOPS: "a tenth of the images or more show what others showed a long way before or after",
    LONG: "150 images or more",
}
_LITTLE_M, _LITTLE_IMAGES = 0.7, 20  # a path; fewer images are stills
_WIDE_DEG = 6.0
_FORWARD = np.cos(np.radians(25.0))
_AROUND, _AROUND_DEG = 0.15, 30.0  # how far the axes miss the place, in distances to it
_NEAR, _ALIKE_DEG, _BACK = 0.15, 30.0, 0.1  # of the extent of all places; share of images
_LONG = 150


def kinds_of(path: Path) -> list[str]:
    """The kinds of the scene in ``path``, as in ``MEANINGS``; ``OTHER`` alone where it is none of these.

    Images that were changed (``variant`` in intrinsics.json names how) are the only kind of their scene, so that what
    they cost is seen. Raises ``InputError`` for a scene that cannot be read.
    """
    variant = read_json(path / "intrinsics.json").get("variant", "")
    return [variant] if variant else kinds_of_motion(read_scene(path), len(image_files(path)))


def kinds_of_motion(scene: Scene, images: int) -> list[str]:
    """The kinds that the true motion of a scene of so many ``images`` makes it."""
    w_T_c = np.stack([pose.w_T_c for pose in scene.truth])
    steps = np.linalg.norm(np.diff(w_T_c[:, :3, 3], axis=0), axis=1)
    if len(steps) < 2 or not steps.sum() > 0:
        return [OTHER]
    little = scene.metric and steps.sum() <= _LITTLE_M and images >= _LITTLE_IMAGES
    held = {
        LITTLE: little,
        WIDE: np.median(_turns(w_T_c)) >= _WIDE_DEG,
        FORWARD: np.median(_along_axis(w_T_c)) >= _FORWARD,
        AROUND: _is_around(w_T_c),
        LOOPS: _returning(w_T_c) >= _BACK,
        LONG: images >= _LONG,
    }
    return [kind for kind, is_so in held.items() if is_so] or [OTHER]


def _turns(w_T_c: Array) -> Array:
    """Degrees from each view (N, 4, 4) to the next."""
    relative = np.einsum("nij,nik->njk", w_T_c[:-1, :3, :3], w_T_c[1:, :3, :3])
    return np.degrees(np.arccos(np.clip((np.trace(relative, axis1=1, axis2=2) - 1) / 2, -1, 1)))


def _along_axis(w_T_c: Array) -> Array:
    """|cos| of the angle between each step and the optical axis before it."""
    steps = np.diff(w_T_c[:, :3, 3], axis=0)
    length = np.linalg.norm(steps, axis=1)
    return np.abs(np.sum(steps * w_T_c[:-1, :3, 2], axis=1)) / np.maximum(length, 1e-12)


def _angles(axes: Array) -> Array:
    """(N, N) degrees between unit vectors (N, 3)."""
    return np.degrees(np.arccos(np.clip(axes @ axes.T, -1, 1)))


def _is_around(w_T_c: Array) -> bool:
    centers, axes = w_T_c[:, :3, 3], w_T_c[:, :3, 2]
    across = np.eye(3) - axes[:, :, None] * axes[:, None, :]  # what of a vector is across the axis
    place = np.linalg.lstsq(across.sum(axis=0), np.einsum("nij,nj->i", across, centers), rcond=None)[0]
    distance = np.median(np.sum((place - centers) * axes, axis=1))
    missed = np.median(np.linalg.norm(np.einsum("nij,nj->ni", across, place - centers), axis=1))
    return bool(missed <= _AROUND * distance and _angles(axes).max() >= _AROUND_DEG)


def _returning(w_T_c: Array) -> float:
    """Share of the views near to one from which the path is longer than all places are wide, looking the same way."""
    centers = w_T_c[:, :3, 3]
    extent = np.linalg.norm(np.ptp(centers, axis=0))
    walked = np.concatenate([[0.0], np.cumsum(np.linalg.norm(np.diff(centers, axis=0), axis=1))])
    near = np.linalg.norm(centers[:, None] - centers[None], axis=2) < _NEAR * extent
    alike = _angles(w_T_c[:, :3, 2]) < _ALIKE_DEG
    return float(np.mean((near & alike & (np.abs(walked[:, None] - walked[None]) > extent)).any(axis=1)))
