"""The landmarks of a saved map and where its keyframes see them, for exports."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from dust3r_ros.alignment.points_again import find_points
from dust3r_ros.alignment.sparse_map import SparseMap
from dust3r_ros.config import MapperConfig
from dust3r_ros.io.map_views import streams_of
from dust3r_ros.map_state import LANDMARKS, MapState
from dust3r_ros.tracking import no_tracks
from dust3r_ros.types import Array, Image


@dataclass(frozen=True, eq=False)
class MapLandmarks:
    """Positions (L, 3) in the map frame, ``colors`` (L, 3) RGB, and their sights.

    Sight m: keyframe ``keyframe[m]`` (its index) sees landmark ``landmark[m]`` (a row of ``positions``) at
    ``pixels[m]`` (M, 2) of its image. Every landmark is seen twice at least.
    """

    positions: Array
    colors: Image
    keyframe: np.ndarray
    landmark: np.ndarray
    pixels: Array


def landmarks_of(state: MapState) -> MapLandmarks | None:
    """Of the active map; None where pointmaps carry it. Positions are found anew from sights and poses."""
    active = state.submaps[0] if state.submaps else None
    if active is None or active.kind != LANDMARKS:
        return None
    streams = streams_of(list(state.cameras), state.working_size, state.tracking_size)
    sparse = SparseMap(MapperConfig().min_parallax_deg)
    sparse.focals = list(active.focals)
    sparse.restore_landmarks(active.aliases)
    for keyframe in active.keyframes:
        sparse.add(streams[keyframe.camera].index, keyframe.seen or no_tracks(), keyframe.w_T_c)
    sparse.landmarks.bar(np.array(active.facts.get("barred", []), np.int64))
    find_points(sparse)
    view, landmark, offset = sparse.observations(sparse.posed(), np.flatnonzero(sparse.positioned))
    known = np.flatnonzero(sparse.positioned)
    rows, landmark = np.unique(landmark, return_inverse=True)
    pixels, colors = np.zeros((len(view), 2)), np.zeros((len(rows), 3), np.uint8)
    for index in np.unique(view)[::-1].tolist():  # the first to see a landmark says its colour
        mine, keyframe = view == index, active.keyframes[index]
        stream = streams[keyframe.camera]
        pixels[mine] = stream.to_working(keyframe.lens.ideal(offset[mine]))
        image = stream.rectified(keyframe.image, keyframe.lens)[0]
        column, row = np.clip(np.round(pixels[mine]).astype(int), 0, [image.shape[1] - 1, image.shape[0] - 1]).T
        colors[landmark[mine]] = image[row, column]
    names = np.array(active.names, np.int64)
    return MapLandmarks(sparse.points[known[rows]], colors, names[view], landmark, pixels)
