"""Covisibility: which older keyframes may see what a frame sees, and which say most about the depth of another."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from dust3r_ros.geometry.pinhole import project
from dust3r_ros.geometry.rigid import invert, transform
from dust3r_ros.mapping.camera_stream import CameraStream
from dust3r_ros.mapping.reconstruction import Reconstruction
from dust3r_ros.sparse.sparse_map import SparseMap
from dust3r_ros.tracking.front_end import is_keyframe
from dust3r_ros.types import Array

_SEEN_BY_BOTH = 12  # landmarks that a keyframe of another camera must also show
_FACING_DEG = 45.0  # largest angle between the axes of cameras that may see the same
_FACING = 2  # keyframes
SAME_VIEWS = 4  # keyframes that are looked at


class Neighbourhood:
    """Knows the keyframes of a map by camera and, in a map of landmarks, which of them see the same."""

    def __init__(self, state: Reconstruction) -> None:
        self._state, self._count = state, state.config.pair_neighbours

    def neighbours(
        self, index: int, stream: CameraStream | None = None, sees: Callable[[int], bool] | None = None
    ) -> list[int]:
        """The keyframes of the same camera just before, nearest first; then the newest of others that see the same.

        For a camera without keyframes, those of all others. ``stream``: of a keyframe that does not exist yet;
        ``sees``: whether it sees what another one does, if not to be decided by landmarks.
        """
        camera = self._state.records[index].stream if stream is None else stream
        own = self._before(index, camera)
        others = self._others(index, camera)
        if not own:
            return others
        return own + [other for other in others if (sees(other) if sees else self._see_the_same(index, other))]

    def recent(self, index: int) -> list[int]:
        """The last few keyframes of every camera before ``index``."""
        streams = {record.stream.index: record.stream for record in self._state.records[:index]}
        return sorted(before for stream in streams.values() for before in self._before(index, stream))

    def newest(self, camera: CameraStream) -> list[int]:
        """The newest keyframe of a camera, if it has one, then those of others, newest first."""
        end = len(self._state.records)
        return self._before(end, camera)[:1] + self._others(end, camera)

    def window(self, index: int, count: int) -> list[int]:
        """The ``count`` keyframes up to ``index`` where cameras were last, half as many of its own camera; sorted."""
        own = self._before(index, self._state.records[index].stream, count // 2)
        return sorted({*[at for at in self._state.trail if at <= index][-count:], *own})

    def facing(self, w_T_c: Array | None, *apart_from: Sequence[int]) -> list[int]:
        """Posed keyframes that look where a camera at ``w_T_c`` (4, 4) does, from nearby; none if that is unknown."""
        chosen = [] if w_T_c is None else self._facing(w_T_c, self._state.sparse.posed())[:_FACING]
        return [index for index in chosen if not any(index in others for others in apart_from)]

    def _facing(self, w_T_c: Array, posed: Sequence[int]) -> list[int]:
        """Those of ``posed`` keyframes that look where a camera at ``w_T_c`` (4, 4) does, nearest first."""
        if not posed:
            return []
        poses = np.stack([self._state.sparse.views[index].pose for index in posed])
        turned = np.degrees(np.arccos(np.clip(poses[:, :3, 2] @ w_T_c[:3, 2], -1.0, 1.0)))
        apart = np.linalg.norm(poses[:, :3, 3] - w_T_c[:3, 3], axis=1)
        depth = self._state.sparse.median_depth(posed[-1])
        score = turned / _FACING_DEG + apart / (depth if depth > 0 else 1.0)
        order = np.argsort(score, kind="stable")
        return [posed[at] for at in order.tolist() if turned[at] < _FACING_DEG]

    def same_view(self, camera: CameraStream, w_T_c: Array) -> list[int]:
        """Keyframes of a camera beside which a frame of it at ``w_T_c`` (4, 4) would be no keyframe, nearest first.

        The newest do not count: poses still change there, and keyframes close together make them sure.
        """
        records, old = self._state.records, self._state.visits - self._state.config.window
        own = [at for at in self._state.sparse.posed() if records[at].stream is camera and records[at].visit <= old]
        return [index for index in self._facing(w_T_c, own)[:SAME_VIEWS] if self.is_beside(index, camera, w_T_c)]

    def beside(self, camera: CameraStream, w_T_c: Array) -> int | None:
        """The keyframe of a camera nearest to a frame of it at ``w_T_c`` (4, 4); None where it would be one itself."""
        records = self._state.records
        own = [at for at in self._state.sparse.posed() if records[at].stream is camera]
        nearest = self._facing(w_T_c, own)[:1]
        return nearest[0] if nearest and self.is_beside(nearest[0], camera, w_T_c) else None

    def is_beside(self, index: int, camera: CameraStream, w_T_c: Array) -> bool:
        """Whether a frame of a camera at ``w_T_c`` (4, 4) would be no keyframe beside one of that camera."""
        sparse, config = self._state.sparse, self._state.config
        points = sparse.points[sparse.known_in(index).ids]
        focal = sparse.intrinsics[camera.index].focal
        poses = sparse.views[index].pose, w_T_c
        there, here = (project(transform(invert(pose), points), focal, (0.0, 0.0)) for pose in poses)
        shown = np.all(np.abs(here) < camera.half_size, axis=1)
        if not shown.any():
            return False
        motion = float(np.median(np.linalg.norm(here[shown] - there[shown], axis=1))) / camera.long_edge
        return not is_keyframe(motion, float(shown.mean()), False, config)

    def _before(self, index: int, camera: CameraStream, count: int | None = None) -> list[int]:
        """The keyframes of a camera that led to ``index``, nearest first."""
        records, found = self._state.records, list[int]()
        own = index < len(records) and records[index].stream is camera
        at = records[index].before if own else self._state.last(camera, index)
        while at is not None and len(found) < (self._count if count is None else count):
            found.append(at)
            at = records[at].before
        return found

    def _others(self, index: int, camera: CameraStream) -> list[int]:
        """Where every other camera was last, of the keyframes before ``index``; newest first."""
        newest = {self._state.records[at].stream.index: at for at in self._state.trail if at < index}
        return sorted((at for other, at in newest.items() if other != camera.index), reverse=True)

    def _see_the_same(self, index: int, other: int) -> bool:
        """Whether enough of what keyframe ``other`` sees lies in front of keyframe ``index``; true if unknown."""
        if self._state.sparse.views[index].w_T_c is None:
            return True
        known = self._state.sparse.known_in(other).ids
        in_view = transform(invert(self._state.sparse.views[index].pose), self._state.sparse.points[known])
        focal = self._state.intrinsics_of(index).focal
        pixels = project(in_view, focal, (0.0, 0.0))
        half = self._state.records[index].stream.half_size
        return int(np.all(np.abs(pixels) < half, axis=1).sum()) >= _SEEN_BY_BOTH


_BEST_DEG = 4.0  # ideal angle between two observations of a landmark: flow still finds it and depth is precise


def depth_sources(sparse: SparseMap, view: int, candidates: Sequence[int], count: int) -> list[int]:
    """The ``count`` most promising of the posed ``candidates`` to pair with a posed ``view``, best first.

    Each landmark that both see counts exp(-ln(angle / 4 degrees)^2 / 2), with the angle at which their
    rays meet: much overlap, and neither too little parallax nor too much change (after Yao et al.,
    "MVSNet", ECCV 2018, section 4.1, whose Gaussian is over the angle itself). Ties keep the given
    order.
    """
    known = sparse.known_in(view).ids
    scores = [_promise(sparse, view, other, known) for other in candidates]
    order = sorted(range(len(candidates)), key=lambda at: -scores[at])
    return [candidates[at] for at in order[:count]]


def _promise(sparse: SparseMap, view: int, other: int, known: np.ndarray) -> float:
    shared = known[np.isin(known, sparse.views[other].seen.ids)]
    if not len(shared):
        return 0.0
    points = sparse.points[shared]
    angle = np.degrees(_angles(points - sparse.views[view].pose[:3, 3], points - sparse.views[other].pose[:3, 3]))
    return float(np.exp(-0.5 * np.log(np.maximum(angle, 1e-3) / _BEST_DEG) ** 2).sum())


def _angles(a: Array, b: Array) -> Array:
    """(N,) radians between directions (N, 3)."""
    return np.arctan2(np.linalg.norm(np.cross(a, b), axis=1), np.einsum("ni,ni->n", a, b))
