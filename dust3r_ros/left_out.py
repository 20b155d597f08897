"""How much of what cameras see is left out of the map, and why."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from dust3r_ros.config import MapperConfig
from dust3r_ros.mapping.submap import Submap


@dataclass(frozen=True)
class LeftOut:
    """Parts of the pixels of the newest keyframes (``window`` of them), each pixel counted once.

    ``masked``: under the cameras' masks; ``moving``: on what moves by itself or was taken away; ``far``: of the rest,
    without depth above ``min_confidence``: sky, what is far for the way the camera made, what has no texture.
    ``regions``: in how many pieces something moves, in all keyframes.
    """

    masked: float = 0.0
    moving: float = 0.0
    far: float = 0.0
    regions: int = 0


def left_out(submap: Submap, config: MapperConfig) -> LeftOut:
    """Counted over the newest keyframes of a map; nothing while there are none."""
    newest = submap.posed()[-config.window :]
    shares = []
    for index in newest:
        record, known = submap.record(index), submap.keyframe(index).confidence > config.min_confidence
        none = np.zeros(known.shape, bool)
        masked = none if record.masked is None else record.masked
        moving = none if record.moving is None else record.moving & ~masked
        shares.append((masked.mean(), moving.mean(), (~(known | masked | moving)).mean()))
    parts = np.mean(shares, axis=0).tolist() if shares else [0.0] * 3
    return LeftOut(parts[0], parts[1], parts[2], submap.regions)
