"""What tracking needs of the map around a camera, read off a mapper."""

from __future__ import annotations

import numpy as np

from dust3r_ros.mapper import Mapper
from dust3r_ros.tracking.exchange import MapSnapshot
from dust3r_ros.types import Array, Calibration

_KEYFRAMES = 8  # the newest: front ends have poses relative to one of them


def snapshot_of(
    mapper: Mapper, camera: str, stamp_ns: int, w_T_c: Array, epoch: int = 0, rectified: Calibration | None = None
) -> MapSnapshot | None:
    """The landmarks that the last image of ``camera``, taken at ``w_T_c`` (4, 4), shows; None without keyframes.

    ``stamp_ns`` is that image's; ``epoch`` and ``rectified`` as ``MapSnapshot`` has them.
    """
    stream, keyframes = mapper.stream(camera), mapper.newest_keyframes(_KEYFRAMES)
    if not keyframes:
        return None
    name, w_T_k, unit = keyframes[-1]
    tracks, anchored = stream.tracks.unique(), stream.anchored.unique()
    points = mapper.positions(tracks.ids)
    anchors = np.full((len(tracks.ids), 2), np.nan)
    _, now, then = np.intersect1d(tracks.ids, anchored.ids, assume_unique=True, return_indices=True)
    anchors[now] = anchored.pixels[then]
    focal = mapper.focal(camera)
    return MapSnapshot(
        camera,
        stamp_ns,
        w_T_c,
        tracks.ids,
        tracks.pixels,
        points,
        anchors,
        stream.anchored_ns,
        len(anchored.ids),
        focal.value,
        focal.lens,
        name,
        w_T_k,
        unit,
        epoch,
        mapper.revision,
        mapper.young,
        mapper.guessing_since,
        rectified,
        {before: (w_T_b, unit_b) for before, w_T_b, unit_b in keyframes[:-1]},
    )
