"""Trajectories in the TUM format, and exact stamps: nanoseconds as decimal seconds, without a float in between."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from decimal import Decimal, InvalidOperation
from pathlib import Path

import numpy as np

from dust3r_ros.errors import GeometryError, InputError
from dust3r_ros.geometry.rigid import from_quaternion, quaternion
from dust3r_ros.io.files import read_lines, write_text
from dust3r_ros.types import StampedPose

_MOST = 2**63 - 1
_DIGITS = 10  # of seconds: Decimal overflows on exponents of a thousand million


def stamp_from_text(text: str) -> int | None:
    """Nanoseconds from decimal seconds ("1341841278.842700"), digits beyond the ninth dropped; None if invalid."""
    try:
        seconds = Decimal(text)
    except InvalidOperation:
        return None
    if not seconds.is_finite() or seconds.adjusted() > _DIGITS or not 0 <= seconds.scaleb(9) <= _MOST:
        return None
    return int(seconds.scaleb(9))


def stamp_to_text(stamp_ns: int) -> str:
    """Decimal seconds with nine decimals."""
    sign, stamp_ns = ("-", -stamp_ns) if stamp_ns < 0 else ("", stamp_ns)
    return f"{sign}{stamp_ns // 10**9}.{stamp_ns % 10**9:09d}"


HEADER = "# timestamp tx ty tz qx qy qz qw   camera to world, camera axes x right, y down, z forward"


def write_tum(path: str | Path, poses: Iterable[StampedPose]) -> None:
    """Write poses in the given order; stamps are exact, numbers have nine significant digits.

    Raises ``OutputError`` when the file cannot be written.
    """
    lines = [HEADER]
    for item in poses:
        numbers = (*item.w_T_c[:3, 3], *quaternion(item.w_T_c[:3, :3]))
        lines.append(" ".join([stamp_to_text(item.stamp_ns), *(f"{number:.9g}" for number in numbers)]))
    write_text(path, "\n".join(lines) + "\n")


def write_trajectories(path: str | Path, poses: Iterable[StampedPose]) -> None:
    """Write poses as ``write_tum`` does; of several cameras, also those of each, beside it as STEM_CAMERA.txt.

    Programs that read this format take all lines for one path. Raises ``OutputError``.
    """
    path, poses = Path(path), list(poses)
    write_tum(path, poses)
    cameras, own = dict.fromkeys(pose.camera for pose in poses), dict[Path, str]()
    for camera in cameras if len(cameras) > 1 else ():
        name = f"{path.stem}_{camera.replace('/', '_')}"
        names = [name, *(f"{name}_{number}" for number in range(2, len(cameras) + 1))]
        own[next(file for file in map(path.with_stem, names) if file not in own)] = camera
    for file, camera in own.items():
        write_tum(file, [pose for pose in poses if pose.camera == camera])


def read_tum(path: str | Path) -> list[StampedPose]:
    """Poses of a TUM file (blank and ``#`` lines ignored, comma or space between numbers).

    Raises ``InputError`` naming a line that is not a stamp and a pose.
    """
    poses = []
    for number, line in read_lines(path, f"trajectory '{path}' cannot be read"):
        item = _parsed(line)
        if item is None:
            raise InputError(f"trajectory '{path}' line {number} is {line[:80]!r}; it must be 't tx ty tz qx qy qz qw'")
        poses.append(item)
    return poses


def path_length(poses: Iterable[StampedPose]) -> float:
    """Length of the path of the camera with most ``poses``, in their unit and order."""
    paths = defaultdict(list)
    for item in poses:
        paths[item.camera].append(item.w_T_c[:3, 3])
    longest = np.array(max(paths.values(), key=len, default=[]), np.float64).reshape(-1, 3)
    return float(np.linalg.norm(np.diff(longest, axis=0), axis=1).sum())


def _parsed(line: str) -> StampedPose | None:
    fields = line.replace(",", " ").split()
    stamp_ns = stamp_from_text(fields[0]) if fields else None
    try:
        numbers = np.array([float(field) for field in fields[1:]])
    except ValueError:
        return None
    if stamp_ns is None or len(numbers) != 7:
        return None
    try:
        return StampedPose(stamp_ns, "camera", from_quaternion(numbers[:3], numbers[3:]))
    except GeometryError:
        return None
