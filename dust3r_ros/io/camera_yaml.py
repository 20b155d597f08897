"""Cameras in the ROS calibration format (camera_info_manager): one YAML document per camera."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import yaml

from dust3r_ros.config import parse_yaml
from dust3r_ros.errors import ConfigError, InputError
from dust3r_ros.geometry.undistortion import scaled_calibration
from dust3r_ros.io.files import write_text
from dust3r_ros.types import Calibration, Camera


def write_cameras(path: str | Path, cameras: Iterable[Camera], raw: Mapping[str, Calibration] | None = None) -> None:
    """Write cameras at their native resolution; with one camera, this is an ordinary calibration file.

    Camera matrix and distortion are those of the raw image, from ``raw`` by camera name where they differ from the
    camera's own; the projection matrix has the same focal and centre.
    ``focal_std``, ``support`` and ``fixed`` are our own keys, which camera_info_manager ignores.
    Raises ``OutputError`` when the file cannot be written.
    """
    documents = [_document(camera, (raw or {}).get(camera.name, camera.calibration)) for camera in cameras]
    write_text(path, yaml.safe_dump_all(documents, sort_keys=False, default_flow_style=None, width=120))


def read_cameras(path: str | Path) -> dict[str, Camera]:
    """Cameras of a calibration file by name; the focal is the mean of fx and fy.

    Of the distortion, only the radial terms k1, k2, k3 are read, not the tangential ones; a file may have none. Raises
    ``InputError`` for a file that cannot be read, for a camera without size or focal length, for numbers that no camera
    has, for two cameras of one name, and for a distortion model other than plumb_bob.
    """
    try:
        documents = parse_yaml(Path(path).read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"camera file '{path}' cannot be read: {error}") from error
    except ValueError as error:
        raise InputError(f"camera file '{path}' is not YAML: {error}") from error
    cameras = [_camera(document, path) for document in documents if document is not None]
    if not cameras:
        raise InputError(f"camera file '{path}' holds no camera; it must hold a ROS camera calibration")
    found: dict[str, Camera] = {}
    for camera in cameras:
        if camera.name in found:
            raise InputError(f"camera file '{path}' holds two cameras '{camera.name}'; each needs a name of its own")
        found[camera.name] = camera
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
    }


def _camera(document: Any, path: str | Path) -> Camera:
    try:
        matrix = [float(value) for value in document["camera_matrix"]["data"]]
        width, height = _whole(document["image_width"]), _whole(document["image_height"])
        camera = Camera(
            name=str(document.get("camera_name", "camera")),
            width=width,
            height=height,
            focal=(matrix[0] + matrix[4]) / 2,
            focal_std=float(document.get("focal_std", math.inf)),
            support=_whole(document.get("support", 0)),
            fixed=bool(document.get("fixed", False)),
            principal_offset=(matrix[2] - (width - 1) / 2, matrix[5] - (height - 1) / 2),
            distortion=_distortion(document),
        )
    except (KeyError, TypeError, ValueError, IndexError, AttributeError, OverflowError) as error:
        raise InputError(
            f"camera file '{path}' has a missing or wrong value ({error}); "
            "it must hold image_width, image_height, camera_matrix and, if any, plumb_bob distortion"
        ) from error
    if not (math.isfinite(camera.focal) and camera.focal > 0 and camera.width > 0 and camera.height > 0):
        raise InputError(
            f"camera '{camera.name}' of '{path}' has the size {camera.width}x{camera.height} and the focal length "
            f"{camera.focal}; all must be positive"
        )
    if not all(math.isfinite(value) for value in (*camera.principal_offset, *camera.distortion)):
        raise InputError(
            f"camera '{camera.name}' of '{path}' has the principal point {camera.center} and the distortion "
            f"{camera.distortion}; all must be finite"
        )
    if not (camera.focal_std >= 0 and camera.support >= 0):
        raise InputError(
            f"camera '{camera.name}' of '{path}' has focal_std {camera.focal_std} and support {camera.support}; "
            "neither can be negative"
        )
    try:
        scaled_calibration(Calibration(width, height, matrix[0], matrix[4], matrix[2], matrix[5]), width, height)
    except ConfigError as error:
        raise InputError(f"camera '{camera.name}' of '{path}' cannot be used: {error}") from error
    return camera


def _whole(value: Any) -> int:
    """An integer. Raises ``ValueError`` for anything else, such as a number with a fraction."""
    if float(value) != int(value):
        raise ValueError(f"{value} is not a whole number")
    return int(value)


def _distortion(document: Any) -> tuple[float, float, float]:
    """k1, k2, k3 of ``distortion_coefficients`` (k1, k2, p1, p2, k3); missing ones at the end are 0."""
    values = [float(value) for value in document.get("distortion_coefficients", {}).get("data", [])]
    model = document.get("distortion_model") or "plumb_bob"
    if any(values) and model != "plumb_bob":
        raise ValueError(f"the distortion model '{model}'")
    k1, k2, _, _, k3 = [*values, *[0.0] * 5][:5]
    return k1, k2, k3
