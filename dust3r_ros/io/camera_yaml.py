"""Cameras in the ROS calibration format (camera_info_manager): one YAML document per camera."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import yaml

from dust3r_ros.config import parse_yaml
from dust3r_ros.errors import ConfigError, InputError
from dust3r_ros.geometry.lens import LensModel
from dust3r_ros.geometry.undistortion import scaled_calibration
from dust3r_ros.io.files import write_text
from dust3r_ros.types import Calibration, Camera


def write_cameras(path: str | Path, cameras: Iterable[Camera], raw: Mapping[str, Calibration] | None = None) -> None:
    """Write cameras at their native resolution; with one camera, this is an ordinary calibration file.

    Camera matrix and distortion are those of the raw image, from ``raw`` by camera name where they differ from the
    camera's own; the projection matrix has the same focal and centre.
    ``focal_std``, ``support``, ``fixed`` and, where the focal changes, ``focal_range`` are our own keys, which
    camera_info_manager ignores.
    Raises ``OutputError`` when the file cannot be written.
    """
    documents = [_document(camera, (raw or {}).get(camera.name, camera.calibration)) for camera in cameras]
    write_text(path, yaml.safe_dump_all(documents, sort_keys=False, default_flow_style=None, width=120))


def read_calibrations(path: str | Path) -> dict[str, Calibration]:
    """The calibrations in a file of ``camera_calibration`` or ``write_cameras``, by camera name.

    Raises ``InputError`` for a file that cannot be read, for a camera without size or focal length, for numbers or a
    distortion that no camera has, and for two cameras of one name.
    """
    try:
        documents = parse_yaml(Path(path).read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"camera file '{path}' cannot be read: {error}") from error
    except ValueError as error:
        raise InputError(f"camera file '{path}' is not YAML: {error}") from error
    found: dict[str, Calibration] = {}
    for document in documents:
        if document is None:
            continue
        name, calibration = _calibration(document, path)
        if name in found:
            raise InputError(f"camera file '{path}' holds two cameras '{name}'; each needs a name of its own")
        found[name] = calibration
    if not found:
        raise InputError(f"camera file '{path}' holds no camera; it must hold a ROS camera calibration")
    return found


def _matrix(rows: int, columns: int, data: Iterable[float]) -> dict[str, Any]:
    return {"rows": rows, "cols": columns, "data": [float(value) for value in data]}


def _document(camera: Camera, raw: Calibration) -> dict[str, Any]:
    fx, fy, cx, cy = raw.fx, raw.fy, raw.cx, raw.cy
    distortion = raw.coefficients or (0.0,) * 5
    return {
        "image_width": int(raw.width),
        "image_height": int(raw.height),
        "camera_name": camera.name,
        "camera_matrix": _matrix(3, 3, [fx, 0, cx, 0, fy, cy, 0, 0, 1]),
        "distortion_model": raw.model if raw.coefficients else "plumb_bob",
        "distortion_coefficients": _matrix(1, len(distortion), distortion),
        "rectification_matrix": _matrix(3, 3, [1, 0, 0, 0, 1, 0, 0, 0, 1]),
        "projection_matrix": _matrix(3, 4, [fx, 0, cx, 0, 0, fy, cy, 0, 0, 0, 1, 0]),
        "focal_std": float(camera.focal_std),
        "support": int(camera.support),
        "fixed": bool(camera.fixed),
        **({"focal_range": list(map(float, camera.focal_range))} if any(camera.focal_range) else {}),
    }


def _calibration(document: Any, path: str | Path) -> tuple[str, Calibration]:
    try:
        name, matrix = str(document.get("camera_name", "camera")), document["camera_matrix"]["data"]
        distortion = tuple(float(k) for k in document.get("distortion_coefficients", {}).get("data", []))
        calibration = Calibration(
            width=_whole(document["image_width"]),
            height=_whole(document["image_height"]),
            fx=float(matrix[0]),
            fy=float(matrix[4]),
            cx=float(matrix[2]),
            cy=float(matrix[5]),
            model=document.get("distortion_model") or "plumb_bob",
            coefficients=distortion,
        )
    except (KeyError, TypeError, ValueError, IndexError, AttributeError, OverflowError) as error:
        raise InputError(
            f"camera file '{path}' has a missing or wrong value ({error}); "
            "it must hold image_width, image_height, camera_matrix and, if any, distortion"
        ) from error
    try:
        LensModel.of(scaled_calibration(calibration, calibration.width, calibration.height))
    except ConfigError as error:
        raise InputError(f"camera '{name}' of '{path}' cannot be used: {error}") from error
    return name, calibration


def _whole(value: Any) -> int:
    """An integer. Raises ``ValueError`` for anything else, such as a number with a fraction."""
    if float(value) != int(value):
        raise ValueError(f"{value} is not a whole number")
    return int(value)
