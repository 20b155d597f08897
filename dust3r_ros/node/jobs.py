"""The work behind the services. Each job runs in the back end, between two images; arguments and results are plain."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from sensor_msgs.msg import CameraInfo

from dust3r_ros.config import MapperConfig, NodeConfig, expanded
from dust3r_ros.errors import InputError, OutputError
from dust3r_ros.geometry.pose import PnpResult
from dust3r_ros.io.camera_yaml import write_cameras
from dust3r_ros.io.files import make_folder
from dust3r_ros.node.map_publisher import grid_options
from dust3r_ros.sensors import camera_info
from dust3r_ros.session.session import Session
from dust3r_ros.storage import loading
from dust3r_ros.types import Calibration, Camera, Image, MapUpdate

_A_MAP = "a saved map, such as /tmp/map.db"


def calibration_from(message: CameraInfo, topic: str, images: str = "") -> tuple[Calibration | None, str]:
    """The calibration of topic ``images`` in a CameraInfo of ``topic``, or None, and why it is not used, or "".

    K[0] == 0 means an uncalibrated camera. Region of interest and binning are taken into account.
    """
    roi, (k, d) = message.roi, camera_info.of_images(images, message.k, message.d, message.p)
    calibration, remark = camera_info.calibration_from(
        message.width,
        message.height,
        message.distortion_model or "plumb_bob",
        d,
        k,
        (message.binning_x, message.binning_y),
        (roi.x_offset, roi.y_offset, roi.width, roi.height),
    )
    return calibration, f"{topic} is not used: {remark}" if remark and calibration is None else remark


def write_calibration(path: str, session: Session, camera: str = "", root: str = "") -> tuple[str, ...]:
    """Write the raw cameras of a session (all, or the one named) for camera_info_manager; returns the files.

    A ``path`` ending in .yaml or .yml is the file of one camera; any other is a folder, created if missing, for one
    <name>.yaml per camera. Raises ``InputError`` for an empty path, an unknown camera, no camera with a focal length,
    and several cameras for one file; ``OutputError`` when it cannot be written.
    """
    cameras = session.cameras
    path = full_path(path, "a folder, or a .yaml file for one camera", root)
    chosen = _estimated(cameras, camera)
    files = _camera_files(path, [item.name for item in chosen])
    for file, item in zip(files, chosen, strict=True):
        make_folder(file.parent)
        write_cameras(file, [item], {item.name: session.calibrations.raw(item)})
    return tuple(str(file) for file in files)


def full_path(path: str, meant: str, root: str = "") -> str:
    """The requested path as an absolute one, so that the answer says where the file is.

    With a ``root`` (``files_root``), relative paths start there, and symbolic links are followed: the result lies in
    that folder. Raises ``InputError`` for an empty path, saying what is ``meant``, for one outside ``root``, and one
    that the file system refuses to look up; ``ConfigError`` if it cannot be expanded.
    """
    if not path:
        raise InputError(f"path is empty; it must name {meant}")
    if not root:
        return looked_up(os.path.abspath(expanded(path)))
    folder = os.path.realpath(root)
    found = os.path.realpath(os.path.join(folder, expanded(path)))
    if os.path.commonpath([folder, found]) != folder:
        raise InputError(f"path '{path}' lies outside '{root}'; files_root confines services to that folder")
    return looked_up(found)


def looked_up(path: str) -> str:
    """``path``; raises ``InputError`` if the file system refuses to say whether it exists."""
    try:
        os.stat(path)
    except (FileNotFoundError, NotADirectoryError):
        pass  # it may be written, or reading it says so
    except OSError as error:  # a folder without permission, a name that is too long
        raise InputError(f"path '{path}' cannot be used: {error.strerror}") from error
    return path


def _estimated(cameras: Mapping[str, Camera], camera: str) -> list[Camera]:
    """Cameras with a focal length, all or the one named; raises ``InputError`` if there is none."""
    if camera and camera not in cameras:
        raise InputError(f"camera '{camera}' is not known; known are {', '.join(sorted(cameras)) or 'none'}")
    chosen = [item for name, item in cameras.items() if item.focal > 0 and camera in ("", name)]
    if not chosen:
        raise InputError("no camera has an estimate yet; it must send images first")
    return chosen


def _camera_files(path: str, names: Sequence[str]) -> list[Path]:
    """The file of each camera: ``path`` itself or one in that folder; raises ``InputError`` if two would share one."""
    if Path(path).suffix.lower() not in (".yaml", ".yml"):
        files = [Path(path) / f"{file_name(name)}.yaml" for name in names]
    elif len(names) == 1:
        files = [Path(path)]
    else:
        raise InputError(f"path '{path}' is a file, but there are {len(names)} cameras; give a folder or one camera")
    if len(set(files)) < len(files):
        raise InputError(f"several cameras would have the same file name in '{path}'; save them one by one")
    return files


def file_name(camera: str) -> str:
    """A camera name, such as front/left, as a file name."""
    return re.sub(r"[^\w.-]+", "_", camera).strip("._") or "camera"


@dataclass(frozen=True, eq=False)
class MapChange:
    """The answer of a job that changed the map, and the change; ``loaded``: the file it is now from, "" for none."""

    answer: Any
    update: MapUpdate | None = None
    loaded: str | None = None


def reset(session: Session) -> MapChange:
    """Discard the map; the next image starts a new one."""
    session.reset()
    return MapChange(None, loaded="")


def check_map(session: Session, path: str, root: str = "") -> None:
    """Raises ``InputError`` and ``MapFileError`` unless there is a saved map."""
    loading.check_map(full_path(path, _A_MAP, root))


def load_map(session: Session, path: str, mode: str, root: str = "") -> MapChange:
    """Load a saved map in place of this one; set ``mode`` unless empty. Raises ``InputError`` and ``MapFileError``."""
    path = full_path(path, _A_MAP, root)
    count = session.load(path)
    if mode:
        session.set_mapping(mode == "mapping")
    return MapChange(f"map '{path}' loaded, {count} keyframes", loaded=path)


def set_scale(session: Session, factor: float, distance: float, first: int, second: int) -> MapChange:
    """Make the map metric by ``factor`` or, if 0, by the ``distance`` between two keyframes; answers the factor.

    Raises ``InputError``.
    """
    if not factor:
        if not distance > 0:
            raise InputError(f"distance is {distance} m; it must be positive if no factor is given")
        factor = distance / session.mapper.distance(first, second)
    return MapChange(float(factor), session.set_scale(factor))


def save_map(session: Session, path: str, root: str = "") -> str:
    """Save the map; returns a sentence on what was written.

    Raises ``InputError`` for an empty path or map, ``OutputError`` when it cannot be written.
    """
    from dust3r_ros.storage.saved_map import save_map as save_whole_map

    path = full_path(path, "the file to write, such as /tmp/map.db", root)
    if Path(path).is_dir():
        raise OutputError(f"'{path}' is a folder; path must name the file to write, such as {Path(path) / 'map.db'}")
    keyframes = session.mapper.counts.keyframes
    if not keyframes:
        raise InputError("there is no keyframe yet, so there is no map to save")
    if session.keeper.writes(path):
        session.save()
        return f"{keyframes} keyframes in '{path}', which is the map_db"
    make_folder(Path(path).parent)
    save_whole_map(path, session.mapper, session.settings())
    return f"{keyframes} keyframes in '{path}'"


def localize(session: Session, camera: str, image: Image) -> tuple[PnpResult, str]:
    """The result, and a phrase on how it was found. Errors as ``Session.localize``."""
    found, known = session.localize(camera, image), sorted(session.cameras)
    if camera in known:
        return found, "found"
    named = f"camera '{camera}' is" if camera else "camera is empty, which is"
    return found, f"found; {named} not in the map ({', '.join(known)}), so its focal length was estimated"


def save_calibration(session: Session, path: str, camera: str, root: str = "") -> tuple[str, ...]:
    """Returns the files written. Errors as ``write_calibration``, and ``InputError`` before the first image."""
    if not session.cameras:
        raise InputError("no camera has sent an image yet, so there is no calibration to save")
    return write_calibration(path, session, camera, root)


def export_map(session: Session, path: str, kind: str, mapper: MapperConfig, node: NodeConfig) -> str:
    """Write the map for another program; returns a sentence on what was written, and warnings.

    Raises ``InputError`` for an empty path, ``ConfigError`` for an unknown format, ``OutputError``, and
    ``GeometryError`` for a map that lacks what the format needs.
    """
    from dust3r_ros.products.exports import Exporter, ExportOptions
    from dust3r_ros.storage.saved_map import live_landmarks

    path = full_path(path, "what to write, such as /tmp/map.ply", node.files_root)
    grid = replace(grid_options(node), min_confidence=mapper.min_confidence)
    options = ExportOptions(min_confidence=mapper.min_confidence, fusion=mapper.fusion, grid=grid)
    landmarks = None if kind in ("tum", "grid") else live_landmarks(session.mapper.live)
    warnings: list[str] = []
    exporter = Exporter(session.mapper.keyframes, options, landmarks, metric=session.metric, warn=warnings.append)
    return ". Warning: ".join([exporter.write(path, kind), *warnings])


def write_products(session: Session, directory: str, config: MapperConfig, source: str) -> str:
    """Write the results, refine the map one last time and write them again; returns a sentence on what was done.

    Refining a large map may take longer than whoever stops the node will wait; then the first files remain. If no
    frame was mapped, nothing is written and files of an earlier run remain. Raises ``OutputError`` for a folder that
    cannot be written.
    """
    from dust3r_ros.products.results import write_results  # pictures and reports; the node starts faster without

    if session.mapper.counts.frames == session.mapper.loaded.frames:
        return f"no image was mapped; '{directory}' is unchanged"

    def write() -> None:
        kept = session.keeper.writes(Path(directory) / "map.db")
        if kept:
            session.save()
        write_results(
            directory,
            session.mapper,
            config=config,
            source=source,
            loaded=session.mapper.loaded,
            **session.for_files(),
            map_kept=kept,
        )

    write()
    session.finish()
    write()
    counts = session.mapper.counts
    return f"{counts.frames} frames, {counts.keyframes} keyframes; results are in '{directory}'"
