"""dust3r-export: write a saved map for other programs."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from dust3r_ros.cli import command, inputs
from dust3r_ros.errors import ConfigError, InputError

if TYPE_CHECKING:
    from dust3r_ros.products.exports import ExportOptions
    from dust3r_ros.storage.saved_map import MapContents

_NAME = "dust3r-export"
_FORMATS = ("ply", "tum", "colmap", "nerfstudio", "grid")
_LENGTHS = {  # of GridOptions
    "resolution": "cell size (default: 0.025 of the median depth)",
    "min_height": "minimum obstacle height above ground (default: 0.1 of the camera's height)",
    "max_height": "maximum obstacle height above ground (default: 1.1 of the camera's height)",
    "camera_height": "camera height above ground (default: estimated from the ground plane)",
    "max_range": "maximum depth used (default: 200 cells)",
}


def main(argv: Sequence[str] | None = None) -> int:
    """Exit code: 0 written, 1 a file could not be written, 2 usage or input, 130 interrupted."""
    return command.run(_NAME, _parser(), _run, argv)


def _parser() -> argparse.ArgumentParser:
    parser = command.Parser(
        prog=_NAME,
        description="Write a saved map (map.db) for other programs.",
        epilog="Lengths are in map units: metres once the scale is metric.",
    )
    parser.add_argument("map", metavar="MAP", help="saved map: map.db from dust3r-map or the node")
    what = parser.add_argument_group("outputs (at least one)")
    what.add_argument("--ply", metavar="FILE", help="point cloud")
    what.add_argument("--tum", metavar="FILE", help="keyframe poses in TUM format, for evo")
    what.add_argument("--colmap", metavar="DIR", help="COLMAP model with images, for example for Gaussian splatting")
    what.add_argument("--nerfstudio", metavar="DIR", help="transforms.json with images, depth and points")
    what.add_argument("--grid", metavar="FILE", help="occupancy grid of nav2's map_server: FILE.yaml and FILE.pgm")
    points = parser.add_argument_group("points and depth")
    points.add_argument("--min-confidence", type=float, metavar="C", help="minimum confidence (default: as in the map)")
    points.add_argument(
        "--voxel", type=float, metavar="L", help="downsample to one point per voxel of this size (--ply)"
    )
    points.add_argument("--fusion", action="store_true", help="keep only points confirmed by other keyframes (--ply)")
    points.add_argument(
        "--points",
        type=command.positive,
        default=100_000,
        metavar="N",
        help="maximum number of points, landmarks first (--colmap, --nerfstudio; default: 100000)",
    )
    grid = parser.add_argument_group("occupancy grid")
    for name, text in _LENGTHS.items():
        grid.add_argument(f"--{name.replace('_', '-')}", type=float, metavar="L", help=text)
    parser.add_argument("--quiet", action="store_true", help="print only warnings and errors")
    command.add_common(parser)
    return parser


def _run(arguments: argparse.Namespace) -> int:
    wanted = [(kind, getattr(arguments, kind)) for kind in _FORMATS if getattr(arguments, kind) is not None]
    if not wanted:
        raise ConfigError(f"nothing to write; give at least one of {', '.join('--' + kind for kind in _FORMATS)}")
    # Heavy imports only now, so that bad arguments are reported at once.
    from dust3r_ros.products.exports import Exporter

    _options(arguments)  # a bad one is refused before a large map is read
    contents = _contents(arguments)
    if contents.maps > 1:
        words = f"'{arguments.map}' holds {contents.maps} maps that are not joined; the one with most poses is exported"
        inputs.warn(_NAME, words)
    exporter = Exporter(
        contents.keyframes,
        _options(arguments, contents.settings.get("min_confidence", 1.5)),
        contents.landmarks,
        metric=bool(contents.settings.get("world", {}).get("metric")),
        warn=lambda words: inputs.warn(_NAME, words),
    )
    for kind, path in wanted:
        inputs.say(arguments.quiet, exporter.write(path, kind))
    return 0


def _options(arguments: argparse.Namespace, of_map: float = 1.5) -> ExportOptions:
    """The options of the command, ``of_map`` being the map's minimum confidence. Raises ``ConfigError``."""
    from dust3r_ros.occupancy import GridOptions
    from dust3r_ros.products.exports import ExportOptions

    confidence = float(of_map) if arguments.min_confidence is None else arguments.min_confidence
    lengths = {name: getattr(arguments, name) for name in _LENGTHS}
    return ExportOptions(
        min_confidence=confidence,
        fusion=arguments.fusion,
        voxel=arguments.voxel,
        points=arguments.points,
        grid=GridOptions(**lengths, min_confidence=confidence),
    )


def _contents(arguments: argparse.Namespace) -> MapContents:
    """The map, with landmarks if an output needs them. Raises ``InputError`` for an empty map."""
    from dust3r_ros.storage.saved_map import load_map

    contents = load_map(arguments.map, landmarks=bool(arguments.colmap or arguments.nerfstudio))
    if arguments.ply and contents.landmarks is None and not any(k.depth.any() for k in contents.keyframes):
        contents = load_map(arguments.map, landmarks=True)  # without depth, the cloud is made of landmarks
    if not contents.keyframes:
        raise InputError(f"map '{arguments.map}' has no keyframe, so there is nothing to export")
    return contents


if __name__ == "__main__":
    sys.exit(main())
