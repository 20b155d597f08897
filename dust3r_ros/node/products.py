"""What a node leaves on disk: the contract's files at its end, a saved map on request."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from dust3r_ros.config import MapperConfig
from dust3r_ros.errors import InputError, OutputError
from dust3r_ros.io.files import make_folder

if TYPE_CHECKING:
    from dust3r_ros.products.exports import ExportOptions
    from dust3r_ros.session.session import Session


def write_products(directory: str, session: Session, config: MapperConfig, source: str) -> str:
    """Refine the map a last time and write the contract's files; returns what was done in a sentence.

    Nothing is written, and an earlier run's files stay, when no frame was mapped. Raises
    ``OutputError`` for a folder that cannot be written.
    """
    from dust3r_ros.products.results import write_results  # pictures and reports; the node starts faster without

    frames = session.mapper.counts.frames
    if not frames:
        return f"no image was mapped, '{directory}' stays as it is"
    session.finish()
    write_results(
        directory,
        session.mapper,
        config=config,
        stopwatch=session.stopwatch,
        source=source,
        settings=session.settings(),
        raw={name: session.calibrations.raw(camera) for name, camera in session.mapper.cameras.items()},
    )
    counts = session.mapper.counts
    return f"{counts.frames} frames, {counts.keyframes} keyframes; results are in '{directory}'"


def export_map(path: str, kind: str, session: Session, options: ExportOptions) -> str:
    """Write the map for another program; returns what was written in a sentence.

    Raises ``InputError`` for no path, ``ConfigError`` for an unknown format, ``OutputError``, and ``GeometryError`` for
    a map without what the format needs.
    """
    from dust3r_ros.products.exports import Exporter

    if not path:
        raise InputError("path is empty; it must name what to write, such as /tmp/map.ply")
    return Exporter(session.mapper.keyframes, options).write(path, kind)


def write_map(path: str, session: Session) -> str:
    """Save the map as it stands; returns what was written in a sentence.

    Raises ``InputError`` for no path or an empty map, ``OutputError`` when it cannot be written.
    """
    from dust3r_ros.storage.saved_map import save_map

    if not path:
        raise InputError("path is empty; it must name the file to write, such as /tmp/map.db")
    if Path(path).is_dir():
        raise OutputError(f"'{path}' is a folder; path must name the file to write, such as {Path(path) / 'map.db'}")
    keyframes = session.mapper.counts.keyframes
    if not keyframes:
        raise InputError("there is no keyframe yet, so there is no map to save")
    if session.keeper.writes(path):
        session.save()
        return f"{keyframes} keyframes in '{path}', in which the map grows"
    make_folder(Path(path).parent)
    save_map(path, session.mapper, session.settings())
    return f"{keyframes} keyframes in '{path}'"
