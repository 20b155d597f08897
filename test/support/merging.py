"""Two maps of overlapping runs: of synthetic points with a known answer, and of rendered walks through two mappers."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from scipy.spatial.transform import Rotation
from sequences import SMALL
from synthetic import Scene, arc, sparse_of

from dust3r_ros.features.features import matched
from dust3r_ros.geometry.rigid import pose
from dust3r_ros.geometry.similarity import Similarity
from dust3r_ros.mapping.mapper import Mapper
from dust3r_ros.scenes.sequence import RenderedSequence
from dust3r_ros.sparse.refinement import refine
from dust3r_ros.sparse.sparse_map import SparseMap

SCALE = 2.7  # of the second half
MOVED = pose(Rotation.from_rotvec([0.3, -1.0, 0.5]).as_matrix(), [3.0, -2.0, 1.0])
TRUE_FIT = Similarity(SCALE, MOVED[:3, :3], MOVED[:3, 3]).inverse()  # target_S_source of ``halves``


@dataclass(frozen=True, eq=False)
class Halves:
    """One scene in two maps: views 0 to 6 in ``target``, 5 to 11 in ``source``, which has a gauge of its own.

    Landmark k is point k of the scene in both maps.
    """

    scene: Scene
    target: SparseMap
    source: SparseMap
    matches: np.ndarray

    def camera_error(self, merged: SparseMap) -> float:
        """Largest distance, in units of the scene, of a view of the merged map from where it was."""
        views = [*range(7), *range(5, 12)]
        return max(
            float(np.linalg.norm(view.w_T_c[:3, 3] - self.scene.w_T_c[index][:3, 3]))
            for view, index in zip(merged.views, views, strict=True)
        )


def halves(noise: float = 0.3, points: np.ndarray | int = 150, wrong: float = 0.0, seed: int = 0) -> Halves:
    """Both halves refined on their own; a part of the matches is ``wrong``. ``points``: how many, or which."""
    count = points if isinstance(points, int) else len(points)
    scene = arc(views=12, points=count, seed=seed, degrees=120.0)
    if not isinstance(points, int):
        scene = replace(scene, points=points)
    maps = []
    for number, part in enumerate((slice(0, 7), slice(5, 12))):
        sparse = sparse_of(Scene(scene.w_T_c[part], scene.points, scene.focal[part]), noise, seed=seed + number + 1)
        sparse.extend()
        if noise:
            refine(sparse)
        maps.append(sparse)
    maps[1].move(MOVED, SCALE)
    matches = np.stack([np.arange(count)] * 2, axis=1)
    rng = np.random.default_rng(seed)
    swapped = rng.choice(count, round(wrong * count), replace=False)
    matches[swapped, 1] = np.roll(matches[swapped, 1], 1)
    return Halves(scene, maps[0], maps[1], matches)


def sparse_run(sequence: RenderedSequence, first: int, last: int) -> Mapper:
    """Frames ``first`` to ``last`` of a walk, mapped without depth."""
    mapper = Mapper(replace(SMALL, focal=sequence.focal, dense=False))
    for frame in range(first, last):
        mapper.process(int(sequence.stamps_ns[frame]), "camera", sequence.images[frame])
    mapper.finish()
    return mapper


def records_of(mapper: Mapper) -> list:
    """What the mapper keeps of its keyframes: stamps, features and their landmarks."""
    return mapper.submap.state.records


def feature_matches(a: Mapper, b: Mapper) -> np.ndarray:
    """(M, 2) ids of landmarks of ``a`` and ``b`` whose features match, over all pairs of keyframes."""
    found = [np.zeros((0, 2), np.int64)]
    for one in records_of(a):
        for other in records_of(b):
            pairs = matched(one.features, other.features)
            found.append(np.stack([one.feature_ids[pairs[:, 0]], other.feature_ids[pairs[:, 1]]], axis=1))
    return np.concatenate(found)
