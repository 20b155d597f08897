"""Keyframes to a point cloud in the map frame."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from dust3r_ros.geometry.pinhole import unproject
from dust3r_ros.geometry.rigid import transform
from dust3r_ros.types import Array32, Image, Keyframe


@dataclass(frozen=True, eq=False)
class Cloud:
    """``points`` (N, 3) float32 in the map frame, ``colors`` (N, 3) uint8 RGB, ``confidence`` (N,) float32."""

    points: Array32
    colors: Image
    confidence: Array32

    def __len__(self) -> int:
        return len(self.points)


def concatenate(clouds: Iterable[Cloud]) -> Cloud:
    """All points of all clouds, in order."""
    parts = list(clouds)
    if not parts:
        return Cloud(np.zeros((0, 3), np.float32), np.zeros((0, 3), np.uint8), np.zeros(0, np.float32))
    return Cloud(
        np.concatenate([part.points for part in parts]),
        np.concatenate([part.colors for part in parts]),
        np.concatenate([part.confidence for part in parts]),
    )


def keyframe_cloud(keyframe: Keyframe, min_confidence: float = 1.0, stride: int = 1) -> Cloud:
    """Pixels of one keyframe with depth and more than ``min_confidence``, of every ``stride``-th row and column."""
    step = (slice(None, None, stride), slice(None, None, stride))
    depth, confidence = keyframe.depth[step], keyframe.confidence[step]
    keep = (depth > 0) & (confidence > min_confidence)
    points = unproject(keyframe.depth, keyframe.focal)[step][keep]
    return Cloud(
        transform(keyframe.w_T_c, points).astype(np.float32),
        keyframe.image[step][keep],
        confidence[keep].astype(np.float32),
    )


def map_cloud(keyframes: Iterable[Keyframe], min_confidence: float = 1.0, stride: int = 1) -> Cloud:
    """The clouds of all keyframes together."""
    return concatenate(keyframe_cloud(keyframe, min_confidence, stride) for keyframe in keyframes)
