"""Exports a map in the formats of other programs, with occupancy grids for nav2's map_server."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence, Sized
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from dust3r_ros.cloud.cloud import map_cloud, thin
from dust3r_ros.cloud.fusion import fuse_map
from dust3r_ros.cloud.tracks import DenseTracks, dense_tracks, joined, landmark_tracks, limited
from dust3r_ros.errors import ConfigError, GeometryError
from dust3r_ros.io.files import make_folder, write_bytes, write_text
from dust3r_ros.io.trajectory import write_trajectories
from dust3r_ros.occupancy import FREE, OCCUPIED, Grid, GridOptions, OccupancyGridMap
from dust3r_ros.products.colmap import write_colmap
from dust3r_ros.products.nerfstudio import DEPTH_UNIT, write_nerfstudio
from dust3r_ros.products.ply import write_ply
from dust3r_ros.storage.saved_map import MapLandmarks
from dust3r_ros.types import Keyframe, StampedPose

_log = logging.getLogger(__name__)

# Grey values of the image, and thresholds on 1 - grey / 255 between them.
_BLACK, _GREY, _WHITE = 0, 205, 254
_OCCUPIED_THRESH, _FREE_THRESH = 0.65, 0.196
_TILTED_DEG = 5.0  # of the ground: the grid is half a percent too short, which is worth a warning


def write_grid(path: str | Path, grid: Grid) -> None:
    """Write ``path`` (*.yaml) and the image of the same name (*.pgm), the image first.

    The image's first row is the highest y; black is occupied, white free, grey (205) unknown (mode trinary).
    Raises ``ConfigError`` for another suffix, ``GeometryError`` for a grid without cells, ``OutputError`` when a file
    cannot be written.
    """
    path = Path(path)
    if path.suffix.lower() not in (".yaml", ".yml"):
        raise ConfigError(f"occupancy grid '{path}' must be a *.yaml file, as map_server expects")
    if not grid.data.size:
        raise GeometryError("the occupancy grid has no cell: no keyframe has depth with enough confidence")
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
    """A number that YAML reads as a float, not as an integer or a string ("1e-05" has no dot)."""
    text = f"{value:.12f}".rstrip("0")
    return text + "0" if text.endswith(".") else text


def _quoted(name: str) -> str:
    return "'" + name.replace("'", "''") + "'"


@dataclass(frozen=True)
class ExportOptions:
    """``min_confidence`` of points and depth; ``fusion`` and ``voxel`` (map units, None: all points) of the point
    cloud; ``points``: maximum for COLMAP and nerfstudio, landmarks included; ``grid``: options of the grid. Raises
    ``ConfigError``.
    """

    min_confidence: float = 1.5
    fusion: bool = False
    voxel: float | None = None
    points: int = 100_000
    grid: GridOptions = field(default_factory=GridOptions)

    def __post_init__(self) -> None:
        if not np.isfinite(self.min_confidence):
            raise ConfigError(f"min_confidence of an export is {self.min_confidence}; it must be a finite number")
        if self.voxel is not None and not 0 < self.voxel < float("inf"):
            raise ConfigError(f"voxel of the point cloud is {self.voxel}; it must be a positive length in map units")
        if self.points < 1:
            raise ConfigError(f"points of an exported model is {self.points}; it must be at least 1")


class Exporter:
    """Writes the keyframes of a map in any of ``FORMATS``; shared results are computed once.

    ``landmarks`` come first in the points of COLMAP and nerfstudio; for a map without depth they are the point cloud.
    ``metric``: whether the map is in metres. ``warn`` is called with what to know before a file is used.
    """

    def __init__(
        self,
        keyframes: Sequence[Keyframe],
        options: ExportOptions | None = None,
        landmarks: MapLandmarks | None = None,
        *,
        metric: bool = False,
        warn: Callable[[str], None] = _log.warning,
    ) -> None:
        self._keyframes = tuple(keyframes)
        self._landmarks = landmarks
        self._metric, self._warn = metric, warn
        self._options = options or ExportOptions()
        self._found: DenseTracks | None = None

    def write(self, path: str | Path, kind: str) -> str:
        """Write one format; returns a sentence on what was written.

        ply, tum and grid are files with the suffixes .ply, .txt (or .tum) and .yaml; a path without one is a folder,
        created if missing, for map.ply, trajectory.txt or map.yaml. colmap and nerfstudio are folders that must not
        exist yet. Raises ``ConfigError`` for another format, ``GeometryError`` for a map that lacks what the format
        needs, ``OutputError`` when it cannot be written.
        """
        writer = _WRITERS.get(kind)
        if writer is None:
            raise ConfigError(f"export format is '{kind}'; known are {', '.join(FORMATS)}")
        if not self._keyframes:
            raise GeometryError("the map has no keyframe, so there is nothing to export")
        return writer(self, Path(path))

    def grid(self) -> Grid:
        """The occupancy grid of the map; warns of a tilted one. Raises ``GeometryError`` when it is too large."""
        grid_map = OccupancyGridMap(self._options.grid)
        grid_map.update(self._keyframes)
        grid = grid_map.grid()
        if grid_map.truncated:
            raise GeometryError(f"the occupancy grid would have {grid_map.excess}")
        tilt = grid_map.tilt_deg
        if tilt > _TILTED_DEG:
            self._warn(
                f"the ground is tilted by {tilt:.0f} degrees in the map, so the grid is "
                f"{1 - np.cos(np.radians(tilt)):.1%} too short up the slope; an IMU or odometry levels a map"
            )
        return grid

    @property
    def _tracks(self) -> DenseTracks:
        if self._found is None:
            o = self._options
            sparse = limited(self._sparse, o.points)
            found = joined(sparse, dense_tracks(self._keyframes, o.points - len(sparse), o.min_confidence))
            self._check_filled(found)
            self._found = found
        return self._found

    @property
    def _has_depth(self) -> bool:
        return any(keyframe.depth.any() for keyframe in self._keyframes)

    def _check_filled(self, points: Sized) -> None:
        """Raises ``GeometryError`` if there are no points."""
        if len(points):
            return
        if not self._has_depth:
            raise GeometryError("the map has neither depth nor landmarks, so there is no point to export")
        least = self._options.min_confidence
        raise GeometryError(f"the map has no point of confidence above {least:g} to export; lower min_confidence")

    @property
    def _sparse(self) -> DenseTracks:
        found = self._landmarks
        if found is None:
            return joined()
        return landmark_tracks(
            self._keyframes, found.positions, found.colors, found.keyframe, found.landmark, found.pixels
        )

    def _ply(self, path: Path) -> str:
        o = self._options
        if o.fusion and self._has_depth:
            cloud = fuse_map(self._keyframes, o.voxel, o.min_confidence)
        else:
            cloud = map_cloud(self._keyframes, o.min_confidence) if self._has_depth else self._sparse.cloud
            cloud = cloud if o.voxel is None else thin(cloud, o.voxel)
        self._check_filled(cloud)
        path = _file(path, "map.ply", (".ply",))
        write_ply(path, cloud)
        return f"{len(cloud):,} points in {path}"

    def _tum(self, path: Path) -> str:
        path = _file(path, "trajectory.txt", (".txt", ".tum"))
        write_trajectories(path, [StampedPose(k.stamp_ns, k.camera, k.w_T_c) for k in self._keyframes])
        return f"{len(self._keyframes)} poses of keyframes in {path}"

    def _colmap(self, path: Path) -> str:
        write_colmap(path, self._keyframes, self._tracks)
        return f"COLMAP model of {len(self._keyframes)} images and {len(self._tracks):,} points in {path}"

    def _nerfstudio(self, path: Path) -> str:
        unit = write_nerfstudio(path, self._keyframes, self._tracks.cloud, self._options.min_confidence)
        more = "" if unit == DEPTH_UNIT else f"; its depth needs --depth-unit-scale-factor {unit:g}"
        return f"transforms.json of {len(self._keyframes)} frames in {path}{more}"

    def _grid(self, path: Path) -> str:
        grid = self.grid()
        path = _file(path, "map.yaml", (".yaml", ".yml"))
        write_grid(path, grid)
        height, width = grid.data.shape
        if not self._metric:
            self._warn(
                "the map has no metric scale, but nav2 takes the grid to be in metres; "
                "odometry, depth, a second camera or a measured distance gives it one"
            )
        unit = "m" if self._metric else "map units"
        return f"occupancy grid of {width} x {height} cells of {grid.resolution:.4g} {unit} in {path}"


_WRITERS: dict[str, Callable[[Exporter, Path], str]] = {
    "ply": Exporter._ply,
    "tum": Exporter._tum,
    "colmap": Exporter._colmap,
    "nerfstudio": Exporter._nerfstudio,
    "grid": Exporter._grid,
}
FORMATS = tuple(_WRITERS)


def _file(path: Path, name: str, suffixes: tuple[str, ...]) -> Path:
    """``path`` if it is a file with one of these suffixes, else ``name`` in the folder ``path``."""
    if path.suffix.lower() in suffixes and not path.is_dir():
        return path
    if path.suffix and not path.is_dir():
        raise ConfigError(f"'{path}' must be a folder or a file {' or '.join('*' + suffix for suffix in suffixes)}")
    return make_folder(path) / name
