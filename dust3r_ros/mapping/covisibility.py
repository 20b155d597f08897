"""Covisibility: which older keyframes may see what a frame sees, which say most about the depth of another, and which
should see the same and do not.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import chain

import cv2
import numpy as np
from scipy.sparse import csr_array
from scipy.spatial import cKDTree

from dust3r_ros.features.features import short, shortened
from dust3r_ros.geometry.pinhole import project
from dust3r_ros.geometry.rigid import invert, transform
from dust3r_ros.mapping.association import cells
from dust3r_ros.mapping.camera_stream import CameraStream, KeyframeRecord
from dust3r_ros.mapping.reconstruction import Reconstruction
from dust3r_ros.sparse.landmarks import Intrinsics, widest_angle
from dust3r_ros.sparse.sparse_map import SparseMap
from dust3r_ros.tracking.exchange import is_keyframe
from dust3r_ros.types import Array

_OTHERS = 20  # cameras: where there are more, they took a photograph each
_SEEN_BY_BOTH = 12  # landmarks that a keyframe of another camera must also show
_FACING_DEG = 45.0  # largest angle between the axes of cameras that may see the same
_FACING = 2  # keyframes
_BESIDE = 1.5  # the most by which keyframes may be turned and apart that see the same, though no landmarks say so
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
        """The last few keyframes of every camera before ``index``, but those that took only a few photographs."""
        records = [record for record in self._state.records[:index] if not record.stream.alone]
        streams = {record.stream.index: record.stream for record in records}
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

    def around(self, w_T_c: Array) -> list[int]:
        """All posed keyframes that look where a camera at ``w_T_c`` (4, 4) does, nearest first."""
        return self._facing(w_T_c, self._state.sparse.posed())

    def _facing(self, w_T_c: Array, posed: Sequence[int], farthest: float = np.inf) -> list[int]:
        """Those of ``posed`` keyframes that look where a camera at ``w_T_c`` (4, 4) does, nearest first.

        Less than ``farthest``: as far away as what they see counts 1, and so do 45 degrees.
        """
        if not posed:
            return []
        poses = np.stack([self._state.sparse.views[index].pose for index in posed])
        turned = np.degrees(np.arccos(np.clip(poses[:, :3, 2] @ w_T_c[:3, 2], -1.0, 1.0)))
        apart = np.linalg.norm(poses[:, :3, 3] - w_T_c[:3, 3], axis=1)
        depth = self._state.sparse.median_depth(posed[-1])
        score = turned / _FACING_DEG + apart / (depth if depth > 0 else 1.0)
        order = np.argsort(score, kind="stable")
        return [posed[at] for at in order.tolist() if turned[at] < _FACING_DEG and score[at] < farthest]

    def unlinked(self) -> list[tuple[int, int]]:
        """Keyframes that see the same by their poses, though no landmarks lead from one to the other: they share none,
        and no third one shares some with both. For each the nearest older one, as (older, newer).
        """
        sparse, posed = self._state.sparse, self._state.sparse.posed()
        ids = [sparse.known_in(index).ids for index in posed]
        rows = np.repeat(np.arange(len(posed)), [len(own) for own in ids])
        at_all = (rows, np.concatenate([*ids, np.zeros(0, np.int64)]))
        seen = csr_array((np.ones(len(rows), np.int64), at_all), shape=(len(posed), len(sparse.points)))
        shared = (seen @ seen.T >= _SEEN_BY_BOTH).astype(np.int64)
        led = (shared @ shared).tolil().rows
        found = []
        for at, index in enumerate(posed):
            near = self._facing(sparse.views[index].pose, posed[:at], _BESIDE)
            known = {posed[other] for other in led[at]}
            found += [(other, index) for other in near if other not in known][:1]
        return found

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
        """The keyframes of a camera that led to ``index``, nearest first, but links, which have no features."""
        records, found = self._state.records, list[int]()
        own = index < len(records) and records[index].stream is camera
        at = records[index].before if own else self._state.last(camera, index)
        while at is not None and len(found) < (self._count if count is None else count):
            found += [] if records[at].link else [at]
            at = records[at].before
        return found

    def _others(self, index: int, camera: CameraStream) -> list[int]:
        """Where other cameras were last, of the keyframes before ``index``; the newest, first of all."""
        newest = {self._state.records[at].stream.index: at for at in self._state.trail if at < index}
        return sorted((at for other, at in newest.items() if other != camera.index), reverse=True)[:_OTHERS]

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
    shared = sparse.seen_too(other, known)
    if not len(shared):
        return 0.0
    points = sparse.points[shared]
    angle = np.degrees(_angles(points - sparse.views[view].pose[:3, 3], points - sparse.views[other].pose[:3, 3]))
    return float(np.exp(-0.5 * np.log(np.maximum(angle, 1e-3) / _BEST_DEG) ** 2).sum())


def _angles(a: Array, b: Array) -> Array:
    """(N,) radians between directions (N, 3)."""
    return np.arctan2(np.linalg.norm(np.cross(a, b), axis=1), np.einsum("ni,ni->n", a, b))


_APART_DEG = 35.0  # largest angle between two views of a landmark
_STRETCH, _PATCH = 1.8, 8  # in no direction is one image there larger than the other by more; landmarks that say so
_SEEN_FROM = 0.5  # of that angle: from how wide a one it must have been recognised
_MOST, _COMPARED = 250, 16  # keyframes, spread over the map; those nearest to each, that it is compared with
_BLUR = 2.5  # an image is compared with those up to so many times as sharp
_INWARD = 0.95  # of the image from its middle
_AROUND, _CLOSE, _SAME_DEPTH = 3, 0.05, 0.08  # landmarks; of the long edge; of their depth: of one surface
_NEAR, _ALIKE = 0.02, 0.85  # of the long edge; cosine of descriptors
_FEWEST, _FEWEST_IN_CELL, _FEWEST_CELLS = 15, 3, 2  # landmarks; of these; cells without them
_FEWEST_MISSING = 8  # landmarks
_FEWEST_PAIRS = 2  # of strangers: a single one is no evidence
_FOUND, _MISSING = 0.1, 0.2  # of what a cell should show; of all landmarks, those in cells that show less


@dataclass(frozen=True, eq=False)
class _Look:
    """A keyframe at ``w_T_c``, and what it sees of landmarks with a position.

    ``points`` (K, 3) in w, ``pixels`` (K, 2), ``ids`` (K,), and ``feature`` (K,) by which each was seen, -1 for
    corners and junctions. ``span`` (K,): the widest angle it was recognised from, degrees.
    """

    w_T_c: Array
    intrinsics: Intrinsics
    record: KeyframeRecord
    points: Array
    pixels: Array
    ids: np.ndarray
    feature: np.ndarray
    span: Array

    @cached_property
    def in_camera(self) -> Array:
        """(K, 3) the points in the camera's frame."""
        return transform(invert(self.w_T_c), self.points)

    @cached_property
    def sharpness(self) -> float:
        """How strong its image's second derivatives are at what it sees, grey levels: the median of the landmarks."""
        gray = cv2.cvtColor(self.record.image, cv2.COLOR_RGB2GRAY)
        nearby = cv2.dilate(np.abs(cv2.Laplacian(gray, cv2.CV_32F)), np.ones((5, 5)))
        at = np.round(self.record.stream.to_working(self.pixels)).astype(int)
        column, row = np.clip(at, 0, np.subtract(gray.shape[::-1], 1)).T
        return float(np.median(nearby[row, column]))

    @cached_property
    def tree(self) -> cKDTree:
        """Of its pixels."""
        return cKDTree(self.pixels)

    @cached_property
    def patches(self) -> np.ndarray:
        """(K, 8) its landmarks nearest to each in the image."""
        return np.asarray(self.tree.query(self.pixels, k=_PATCH + 1)[1][:, 1:])

    @cached_property
    def features(self) -> cKDTree:
        """Of the pixels of all its features."""
        return cKDTree(self.record.features.pixels)

    def lacks(self, other: _Look) -> bool:
        """Whether whole parts of its image show nothing of what ``other`` sees at the surfaces that it sees there.

        Only landmarks count where both images look alike: seen from about the same direction, as near, the surface
        not much more from the side; none, where one image is blurred and the other is not.
        """
        expected, pixels = self._expected(other)
        if len(expected) < _FEWEST or not 1.0 / _BLUR <= (self.sharpness + 1.0) / (other.sharpness + 1.0) <= _BLUR:
            return False
        cell = cells(pixels, self.record.stream.half_size) @ [64, 1]
        _, cell, count = np.unique(cell, return_inverse=True, return_counts=True)
        full, found = count >= _FEWEST_IN_CELL, np.isin(other.ids[expected], self.ids)

        def empty() -> np.ndarray:
            """The cells (C,) that show next to nothing of it, if they should show much together; else none."""
            bare = np.asarray(full & (np.bincount(cell[found], minlength=len(count)) <= _FOUND * count))
            enough = bare.sum() >= _FEWEST_CELLS
            return bare & (enough and count[bare].sum() > max(_MISSING * count[full].sum(), _FEWEST_MISSING))

        rest = np.flatnonzero(empty()[cell] & ~found)
        if len(rest):
            found[rest] = self._shows(other, expected[rest], pixels[rest])
        return bool(empty().any())

    def _expected(self, other: _Look) -> tuple[np.ndarray, Array]:
        """Which of the other's landmarks it should show, and where (E, 2)."""
        half, long_edge = self.record.stream.half_size, self.record.stream.long_edge
        here = transform(invert(self.w_T_c), other.points)
        pixels = self.intrinsics.lens.seen(project(here, self.intrinsics.focal, (0.0, 0.0)))
        rays = (other.points - look.w_T_c[:3, 3] for look in (self, other))
        apart = np.degrees(_angles(*rays))
        shown = (here[:, 2] > 0) & np.all(np.abs(pixels) < _INWARD * half, axis=1)
        shown &= (other.feature >= 0) & (apart < _APART_DEG) & (_SEEN_FROM * apart < other.span)
        expected = np.flatnonzero(shown)
        if len(expected) < _FEWEST or len(self.ids) < _FEWEST or len(other.ids) <= _PATCH:
            return expected[:0], pixels[:0]
        patch = other.patches[expected]
        least, most = _stretches(*(seen[patch] - seen[expected, None] for seen in (other.pixels, pixels)))
        expected = expected[(least > 1.0 / _STRETCH) & (most < _STRETCH)]
        distance, near = self.tree.query(pixels[expected], k=_AROUND)
        around = self.in_camera[near, 2]
        middle = np.median(around, axis=1)
        on_surface = np.abs(here[expected, 2] / middle - 1.0) < _SAME_DEPTH
        on_surface &= (np.ptp(around, axis=1) < 2 * _SAME_DEPTH * middle) & (distance[:, -1] < _CLOSE * long_edge)
        return expected[on_surface], pixels[expected[on_surface]]

    def _shows(self, other: _Look, wanted: np.ndarray, pixels: Array) -> np.ndarray:
        """(E,) whether features near ``pixels`` (E, 2) are similar to those of the other's landmarks ``wanted``."""
        close = self.features.query_ball_point(pixels, _NEAR * self.record.stream.long_edge)
        row = np.repeat(np.arange(len(wanted)), [len(at) for at in close])
        here = short(self.record.features)[np.concatenate([*close, []]).astype(int)]
        there = shortened(other.record.features.unit[other.feature[wanted]])[row]
        return np.isin(np.arange(len(wanted)), row[np.einsum("md,md->m", here, there) > _ALIKE])


def _stretches(there: Array, here: Array) -> tuple[Array, Array]:
    """(E,), (E,) the least and the largest factor by which patches of offsets (E, K, 2) are stretched into others.

    The singular values of the linear maps that fit best; NaN where an offset is. A surface seen from the side is
    squeezed in one direction only, and features there are others, though the depth is alike (Mikolajczyk et al., "A
    comparison of affine region detectors", IJCV 2005, section 4).
    """
    gram = np.einsum("eki,ekj->eij", there, there)
    gram += 1e-6 * (1.0 + np.trace(gram, axis1=1, axis2=2))[:, None, None] * np.eye(2)
    linear = np.linalg.solve(gram, np.einsum("eki,ekj->eij", there, here))
    squares = np.sum(linear**2, axis=(1, 2))
    product = np.abs(linear[:, 0, 0] * linear[:, 1, 1] - linear[:, 0, 1] * linear[:, 1, 0])
    total, difference = np.sqrt(squares + 2 * product), np.sqrt(np.maximum(squares - 2 * product, 0.0))
    return (total - difference) / 2, (total + difference) / 2


def _looks(state: Reconstruction) -> dict[int, _Look]:
    """The posed keyframes of a map."""
    sparse, span = state.sparse, np.zeros(len(state.sparse.points))
    ids = np.flatnonzero(sparse.positioned)
    view, point, _ = sparse.observations(sparse.posed(), ids)
    if len(view):
        centers = np.stack([np.zeros(3) if v.w_T_c is None else v.w_T_c[:3, 3] for v in sparse.views])
        rays = sparse.points[ids[point]] - centers[view]
        span[ids] = widest_angle(rays / np.linalg.norm(rays, axis=1, keepdims=True), point, len(ids))
    found, by_id = {}, np.full(len(sparse.points) + 1, -1)
    for index in sparse.posed():
        record, tracks = state.records[index], sparse.known_in(index).unique()
        own = sparse.landmarks.resolved(record.feature_ids)
        by_id[own] = np.arange(len(own))
        seen = tracks.pixels, tracks.ids, by_id[tracks.ids], span[tracks.ids]
        pose, intrinsics = sparse.views[index].pose, state.intrinsics_of(index)
        found[index] = _Look(pose, intrinsics, record, sparse.points[tracks.ids], *seen)
        by_id[own] = -1
    return found


def strangers(state: Reconstruction) -> list[tuple[int, int]]:
    """The pairs of keyframes (a, b), a < b, that stand side by side in a map and see something else there.

    Where two things that look alike were taken for one, the map is folded, and all that was matched fits it. But what
    is beside the one is not beside the other. So one keyframe lacks, in whole parts of its image, what the other sees
    there, and the other way round; occlusion, blur and change take away from one of them, or here and there (Zach et
    al., "Disambiguating visual relations using loop constraints", CVPR 2010; Heinly et al., "Correcting for duplicate
    scene structure in sparse 3D reconstruction", ECCV 2014). A single pair does not count.
    """
    looks, near = _looks(state), Neighbourhood(state)
    pairs = set()
    for index in list(looks)[:: -(-len(looks) // _MOST) or 1]:
        others = [other for other in near.around(looks[index].w_T_c) if other != index]
        pairs |= {(min(index, other), max(index, other)) for other in others[:_COMPARED]}
    found = [(a, b) for a, b in sorted(pairs) if looks[a].lacks(looks[b]) and looks[b].lacks(looks[a])]
    return found if len(found) >= _FEWEST_PAIRS else []


def estranged(state: Reconstruction) -> list[int]:
    """The keyframes that are strangers to another, in order."""
    return sorted(set(chain(*strangers(state))))
