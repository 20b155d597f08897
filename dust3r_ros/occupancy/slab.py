"""From where to where above the ground things stand in a robot's way."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from dust3r_ros.geometry.ground import Ground, find_ground, level_ground
from dust3r_ros.occupancy.grid import GridOptions
from dust3r_ros.occupancy.scan import Scan

_SAMPLE = 150  # points per keyframe that tell the ground
_KEYFRAMES = 400  # that are asked, spread over the map
_CELL = 0.025  # of the median depth: 5 cm in a room


@dataclass(frozen=True)
class Slab:
    """What counts as an obstacle: heights (map units) above the ground from ``low`` to ``high``."""

    ground: Ground
    low: float
    high: float


def resolution_of(options: GridOptions, scans: Sequence[Scan]) -> float:
    """Edge of a cell, map units: as it was given, or from the median depth."""
    return options.resolution or _CELL * float(np.median([scan.unit for scan in scans]))


def slab_of(options: GridOptions, scans: Sequence[Scan], resolution: float) -> Slab:
    """Ground and heights of scans with depth (at least one, 20 points together); what was not given, from the map."""
    centers = np.stack([scan.w_T_c[:3, 3] for scan in scans])
    if options.camera_height is not None:
        ground = level_ground(centers, options.camera_height)
    else:
        asked = scans[:: -(-len(scans) // _KEYFRAMES)]
        points = [scan.points(_SAMPLE) for scan in asked]
        seen_from = [np.broadcast_to(scan.w_T_c[:3, 3], part.shape) for scan, part in zip(asked, points, strict=True)]
        ground = find_ground(np.concatenate(points), np.concatenate(seen_from))
    eye = max(float(np.median(ground.height(centers))), 4 * resolution)
    high = options.max_height or max(1.1 * eye, 2 * (options.min_height or 0.0))
    return Slab(ground, options.min_height or min(0.1 * eye, 0.5 * high), high)


def differ(a: Slab, b: Slab, scans: Sequence[Scan]) -> bool:
    """Whether heights where the scans were taken differ by more than a quarter of the lower bound."""
    eyes = np.stack([scan.w_T_c[:3, 3] for scan in scans])
    reach = max(float(np.median([scan.unit for scan in scans])), float(np.ptp(eyes[:, :2], axis=0).max()) / 2)
    tilt = float(np.linalg.norm(a.ground.normal - b.ground.normal)) * reach
    shift = float(np.abs(a.ground.height(eyes) - b.ground.height(eyes)).max())
    return max(tilt, shift, abs(a.low - b.low)) > 0.25 * a.low or abs(a.high - b.high) > 0.25 * a.high
