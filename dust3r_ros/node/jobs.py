"""What services ask of a session. Each runs in the back end, between two images; arguments and results are plain."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from dust3r_ros.config import MapperConfig, NodeConfig
from dust3r_ros.errors import InputError
from dust3r_ros.geometry.pose import PnpResult
from dust3r_ros.node import products
from dust3r_ros.node.calibration import write_calibration
from dust3r_ros.node.grid_publisher import grid_options
from dust3r_ros.session.session import Session
from dust3r_ros.types import Image, MapUpdate


@dataclass(frozen=True, eq=False)
class MapChange:
    """What a job that changed the map answers, and what it changed."""

    answer: Any
    update: MapUpdate | None = None


def reset(session: Session) -> MapChange:
    """The next image starts another map."""
    session.reset()
    return MapChange(None)


def load_map(session: Session, path: str, mode: str) -> MapChange:
    """A saved map in place of this one, in a ``mode`` if not empty. Raises ``InputError`` and ``MapFileError``."""
    if not path:
        raise InputError("path is empty; it must name a saved map, such as /tmp/map.db")
    count = session.load(path)
    if mode:
        session.set_mapping(mode == "mapping")
    return MapChange(f"{count} keyframes of '{path}' are the map now")


def set_scale(session: Session, factor: float, distance: float, first: int, second: int) -> MapChange:
    """Metres: by a ``factor`` or, where it is 0, by the ``distance`` of two keyframes; answers the factor.

    Raises ``InputError``.
    """
    if not factor:
        if not distance > 0:
            raise InputError(f"distance is {distance} m; it must be positive where no factor is given")
        factor = distance / session.mapper.distance(first, second)
    return MapChange(float(factor), session.set_scale(factor))


def save_map(session: Session, path: str) -> str:
    """Errors as ``products.write_map``."""
    return products.write_map(path, session)


def localize(session: Session, camera: str, image: Image) -> PnpResult:
    """Errors as ``Session.localize``."""
    return session.localize(camera, image)


def save_calibration(session: Session, path: str, camera: str) -> tuple[str, ...]:
    """The files written. Errors as ``write_calibration``, and ``InputError`` before the first image."""
    if not session.cameras:
        raise InputError("no camera has sent an image yet, so there is no calibration to save")
    return write_calibration(path, session, camera)


def export_map(session: Session, path: str, kind: str, mapper: MapperConfig, node: NodeConfig) -> str:
    """Errors as ``products.export_map``."""
    from dust3r_ros.products.exports import ExportOptions

    grid = replace(grid_options(node), min_confidence=mapper.min_confidence)
    options = ExportOptions(min_confidence=mapper.min_confidence, fusion=mapper.fusion, grid=grid)
    return products.export_map(path, kind, session, options)


def write_products(session: Session, directory: str, config: MapperConfig, source: str) -> str:
    """Errors as ``products.write_products``."""
    return products.write_products(str(Path(directory)), session, config, source)
