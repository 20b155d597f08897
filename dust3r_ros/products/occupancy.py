"""Occupancy grids as nav2's map_server reads them: a YAML file and a PGM image beside it."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from dust3r_ros.errors import ConfigError, GeometryError
from dust3r_ros.io.files import write_bytes, write_text
from dust3r_ros.occupancy import FREE, OCCUPIED, Grid

# Grey values of the image, and thresholds of 1 - grey / 255 between them.
_BLACK, _GREY, _WHITE = 0, 205, 254
_OCCUPIED_THRESH, _FREE_THRESH = 0.65, 0.196


def write_grid(path: str | Path, grid: Grid) -> None:
    """Write ``path`` (*.yaml) and the image of the same name (*.pgm), which appears first.

    The image's first row is the highest y; black is occupied, white free, grey (205) unknown (mode trinary).
    Raises ``ConfigError`` for another suffix, ``GeometryError`` for a grid of no cells, ``OutputError``
    when a file cannot be written.
    """
    path = Path(path)
    if path.suffix.lower() not in (".yaml", ".yml"):
        raise ConfigError(f"occupancy grid '{path}' must be a file *.yaml, as map_server takes them")
    if not grid.data.size:
        raise GeometryError("the occupancy grid has no cell: no keyframe has depth that is sure enough")
    image = path.with_suffix(".pgm")
    grey = np.full(grid.data.shape, _GREY, np.uint8)
    grey[grid.data == FREE] = _WHITE
    grey[grid.data == OCCUPIED] = _BLACK
    header = f"P5\n# dust3r_ros, {grid.resolution:.9g} per pixel\n{len(grey[0])} {len(grey)}\n255\n"
    write_bytes(image, header.encode("ascii") + np.ascontiguousarray(grey[::-1]).tobytes())
    x, y, yaw = (float(value) for value in grid.origin)
    lines = [
        f"image: {_quoted(image.name)}",
        "mode: trinary",
        f"resolution: {_number(grid.resolution)}",
        f"origin: [{_number(x)}, {_number(y)}, {_number(yaw)}]",
        "negate: 0",
        f"occupied_thresh: {_OCCUPIED_THRESH}",
        f"free_thresh: {_FREE_THRESH}",
    ]
    write_text(path, "\n".join(lines) + "\n")


def _number(value: float) -> str:
    """A number that YAML reads as a float and not as an integer or a word ("1e-05" has no dot)."""
    text = f"{value:.12f}".rstrip("0")
    return text + "0" if text.endswith(".") else text


def _quoted(name: str) -> str:
    return "'" + name.replace("'", "''") + "'"
