"""The map a perfect mapper would make of a rendered walk, and the ground plan that follows from the truth."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import lru_cache

import numpy as np
from kept import kept

from dust3r_ros.geometry.pinhole import unproject
from dust3r_ros.geometry.rigid import pose, transform
from dust3r_ros.geometry.similarity import Similarity
from dust3r_ros.scenes.sequence import RenderedSequence, render_sequence
from dust3r_ros.types import Array, Keyframe


@lru_cache(maxsize=4)
@kept
def room_walk(kind: str = "orbit", frames: int = 16) -> RenderedSequence:
    """A walk at 160 x 120 with wide steps."""
    return render_sequence(kind, frames, 160, 120, rate_hz=1.5)


def true_keyframes(sequence: RenderedSequence, camera: str = "camera") -> list[Keyframe]:
    """Every frame as a keyframe with the true pose and depth, metres, of confidence 5."""
    return [
        Keyframe(
            index, 0, int(sequence.stamps_ns[index]), camera, sequence.w_T_c[index], sequence.focal,
            sequence.images[index], sequence.depths[index], np.full(sequence.depths[index].shape, 5, np.float32),
        )
        for index in range(len(sequence))
    ]  # fmt: skip


def moved(keyframes: Sequence[Keyframe], new_S_old: Similarity) -> list[Keyframe]:
    """The same keyframes in other coordinates and units."""
    return [
        replace(
            keyframe,
            version=keyframe.version + 1,
            w_T_c=pose(new_S_old.rotation @ keyframe.w_T_c[:3, :3], new_S_old.apply(keyframe.w_T_c[None, :3, 3])[0]),
            depth=(keyframe.depth * new_S_old.scale).astype(np.float32),
        )
        for keyframe in keyframes
    ]


def true_points(sequence: RenderedSequence) -> Array:
    """(N, 3) metres: what all frames see."""
    parts = [
        transform(w_T_c, unproject(depth, sequence.focal))[depth > 0]
        for w_T_c, depth in zip(sequence.w_T_c, sequence.depths, strict=True)
    ]
    return np.concatenate(parts)


def cells_of(points: Array, origin: tuple[float, float, float], resolution: float, shape: tuple[int, int]) -> Array:
    """(H, W) how many of the points (N, 3) lie over each cell of a grid."""
    column, row = np.floor((points[:, :2] - np.array(origin[:2])) / resolution + 1e-9).astype(int).T
    inside = (column >= 0) & (row >= 0) & (column < shape[1]) & (row < shape[0])
    counts = np.zeros(shape, int)
    np.add.at(counts, (row[inside], column[inside]), 1)
    return counts
