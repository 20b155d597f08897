"""How far a map is from the truth of the rendered sequence it was made from."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

from dust3r_ros.geometry.similarity import Similarity, weighted_similarity
from dust3r_ros.mapping.mapper import Mapper
from dust3r_ros.scenes.sequence import RenderedSequence
from dust3r_ros.types import Keyframe, MapUpdate, StampedPose


def play(mapper: Mapper, sequence: RenderedSequence, frames: Iterable[int] | None = None) -> list[MapUpdate]:
    """Feed frames (all by default) of a sequence to a mapper."""
    chosen = range(len(sequence)) if frames is None else frames
    return [mapper.process(int(sequence.stamps_ns[i]), "camera", sequence.images[i]) for i in chosen]


def frame_of(sequence: RenderedSequence, stamp_ns: int) -> int:
    """The frame of a sequence with this stamp."""
    return int(np.flatnonzero(sequence.stamps_ns == stamp_ns)[0])


def alignment(poses: Sequence[StampedPose | Keyframe], sequence: RenderedSequence) -> tuple[Similarity, np.ndarray]:
    """The similarity that takes poses to the truth, and the distances (N,) in metres that remain."""
    true = np.array([sequence.w_T_c[frame_of(sequence, pose.stamp_ns)][:3, 3] for pose in poses])
    found = np.array([pose.w_T_c[:3, 3] for pose in poses])
    similarity = weighted_similarity(found, true)
    return similarity, np.linalg.norm(similarity.apply(found) - true, axis=1)


def path_length(sequence: RenderedSequence) -> float:
    """Metres walked."""
    return float(np.linalg.norm(np.diff(sequence.w_T_c[:, :3, 3], axis=0), axis=1).sum())


def trajectory_error(mapper: Mapper, sequence: RenderedSequence) -> float:
    """Root mean square distance of the trajectory after a similarity, as a part of the path's length."""
    _, distances = alignment(mapper.trajectory(), sequence)
    return float(np.sqrt(np.mean(distances**2))) / path_length(sequence)
