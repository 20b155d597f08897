"""Where a single image was taken, by a map that stays as it is."""

from __future__ import annotations

import numpy as np

from dust3r_ros.alignment.sparse_map import MAX_ERROR_PX
from dust3r_ros.cameras import Cameras
from dust3r_ros.config import MapperConfig
from dust3r_ros.errors import GeometryError, InputError
from dust3r_ros.geometry.pose import PnpResult, solve_pnp_unknown_focal
from dust3r_ros.geometry.significance import by_chance
from dust3r_ros.mapping.submap import Submap
from dust3r_ros.streams import CameraStream, check_image
from dust3r_ros.types import Image

_MIN_INLIERS = 25  # pose and focal together are free to fit more by chance than a pose alone


def localize(submap: Submap, cameras: Cameras, config: MapperConfig, camera: str, image: Image) -> PnpResult:
    """Pose ``w_T_c``, and focal in pixels of the image, of an image (H, W, 3).

    ``camera``: one that the map knows; any other name is one of unknown focal. Raises ``InputError`` for an image
    that cannot be used and where there is no map, ``GeometryError`` where the map does not show what the image does.
    """
    check_image(image, camera)
    if not submap.initialised:
        raise InputError("there is no map yet in which an image could be found")
    if camera in cameras:
        stream = cameras[camera]
        found = submap.relocalise(stream, stream.gray(image), stream.resize.apply(image))
        if found is None:
            raise GeometryError(f"the image of camera '{camera}' shows nothing that tells its place in the map")
        return _native(found[0], stream)
    stream = CameraStream(camera, cameras.count, image.shape[1], image.shape[0], config)
    seen = submap.recall(stream, stream.gray(image))
    points = submap.positions(seen.ids)
    known = np.isfinite(points[:, 0])
    points, pixels = points[known], seen.pixels[known]
    edge = stream.long_edge
    pose = solve_pnp_unknown_focal(
        points,
        pixels,
        edge,
        edge,
        center=(0.0, 0.0),
        threshold_px=MAX_ERROR_PX,
        min_inliers=_MIN_INLIERS,
        seed=config.seed,
    )
    if by_chance(pose, points, pixels, MAX_ERROR_PX):
        raise GeometryError(f"{pose.inliers.sum()} of {len(points)} matches agree, which chance does as well")
    return _native(pose, stream)


def _native(found: PnpResult, stream: CameraStream) -> PnpResult:
    """Focal and errors in pixels of the image itself."""
    scale = 1.0 / stream.tracking_scale
    return PnpResult(
        found.w_T_c, found.inliers, found.covariance, found.rms_px * scale, found.focal * scale, found.focal_std * scale
    )
