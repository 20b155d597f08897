"""Calibrations in and out: what a published CameraInfo says of a camera, files for camera_info_manager."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

from sensor_msgs.msg import CameraInfo

from dust3r_ros.errors import InputError
from dust3r_ros.io.camera_yaml import write_cameras
from dust3r_ros.io.files import make_folder
from dust3r_ros.sensors import camera_info
from dust3r_ros.types import Calibration

if TYPE_CHECKING:
    from dust3r_ros.session.session import Session


def calibration_from(message: CameraInfo, topic: str) -> tuple[Calibration | None, str]:
    """What a CameraInfo says of the images beside it, None for nothing, and why it is not used or "".

    K[0] == 0 is an uncalibrated camera. Region of interest and binning are taken into account.
    """
    roi = message.roi
    calibration, remark = camera_info.calibration_from(
        message.width,
        message.height,
        message.distortion_model or "plumb_bob",
        message.d,
        message.k,
        (message.binning_x, message.binning_y),
        (roi.x_offset, roi.y_offset, roi.width, roi.height),
    )
    return calibration, f"{topic} is not used: {remark}" if remark and calibration is None else remark


def write_calibration(path: str, session: Session, camera: str = "") -> tuple[str, ...]:
    """Write the raw cameras of a session (all, or the one named) for camera_info_manager; returns the files.

    ``path`` that ends in .yaml or .yml is the file of one camera; any other is a folder, made where there is none,
    that gets <name>.yaml for each. Raises ``InputError`` for no path, an unknown camera, no camera with a focal
    length, and several for one file; ``OutputError`` when it cannot be written.
    """
    cameras = session.cameras
    if not path:
        raise InputError("path is empty; it must name a folder, or a .yaml file for one camera")
    if camera and camera not in cameras:
        raise InputError(f"camera '{camera}' is not known; known are {', '.join(sorted(cameras)) or 'none'}")
    chosen = [item for name, item in cameras.items() if item.focal > 0 and camera in ("", name)]
    if not chosen:
        raise InputError("no camera has an estimate yet; an image of it must come first")
    if Path(path).suffix.lower() not in (".yaml", ".yml"):
        files = [(Path(path) / f"{file_name(item.name)}.yaml", item) for item in chosen]
    elif len(chosen) == 1:
        files = [(Path(path), chosen[0])]
    else:
        raise InputError(f"path '{path}' is a file, but there are {len(chosen)} cameras; name a camera or a folder")
    if len({file for file, _ in files}) < len(files):
        raise InputError(f"names of cameras become the same file in '{path}'; save them one by one")
    for file, item in files:
        make_folder(file.parent)
        write_cameras(file, [item], {item.name: session.calibrations.raw(item)})
    return tuple(str(file) for file, _ in files)


def file_name(camera: str) -> str:
    """The name of a camera, such as front/left, as the name of a file."""
    return re.sub(r"[^\w.-]+", "_", camera).strip("._") or "camera"
