"""The landmarks of a map as a coloured cloud: its points where no depth is made."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from dust3r_ros.alignment.cloud import Cloud
from dust3r_ros.alignment.sparse_map import SparseMap
from dust3r_ros.streams import KeyframeRecord


def landmark_cloud(sparse: SparseMap, records: Sequence[KeyframeRecord]) -> Cloud:
    """Landmarks with a position that two or more keyframes see, in the map frame, by their ids.

    The colour is that of the nearest pixel in the first keyframe that sees the landmark,
    confidence the number of keyframes that do. ``records``: the keyframes of ``sparse``, in order.
    """
    sights = np.zeros(len(sparse.points), np.int64)
    colors = np.zeros((len(sparse.points), 3), np.uint8)
    for index in sparse.posed():
        record, seen = records[index], sparse.views[index].seen
        new = sights[seen.ids] == 0
        height, width = record.image.shape[:2]
        columns, rows = np.round(record.stream.to_working(seen.pixels[new])).astype(int).T
        colors[seen.ids[new]] = record.image[np.clip(rows, 0, height - 1), np.clip(columns, 0, width - 1)]
        np.add.at(sights, seen.ids, 1)
    keep = sparse.positioned & (sights > 1)
    return Cloud(sparse.points[keep].astype(np.float32), colors[keep], sights[keep].astype(np.float32))
