"""Moving objects: regions of a keyframe that other keyframes see through, with something different behind.

They are looked for with every keyframe; their depth and landmarks are removed from the map.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import cv2
import numpy as np

from dust3r_ros.features.masks import Mask, grown
from dust3r_ros.geometry.pinhole import rays
from dust3r_ros.geometry.rigid import invert, transform
from dust3r_ros.mapping.densifier import Densifier
from dust3r_ros.mapping.motion_evidence import STEP, Evidence, SparseShot, compare
from dust3r_ros.mapping.reconstruction import Reconstruction, renumbered
from dust3r_ros.sparse.landmarks import different
from dust3r_ros.types import Array, Array32

_MOSTLY = 0.5  # of a region
_LEAST_AREA = 0.002  # of the image
_SAME, _REACH = 0.1, 1.0  # of depth, of the seeds' width: how far their object may extend
_GROWTH = 1 / 64  # of the long edge


def region(shot: SparseShot, evidence: Evidence) -> Mask:
    """(H, W) which pixels of a keyframe show something that moves or was taken away.

    A pixel that three others see through is a seed. Seeds make regions of at least 0.2 % of the image, and a region
    counts if most of it is in front of something else. Connected pixels at the region's depth to 10 %, and no further
    off than it is wide, are added: they are the rest of the object. Regions are dilated by the blur of outlines.
    """
    gone, before = (flags.reshape(shot.depth.shape) for flags in (evidence.gone, evidence.before))
    solid = cv2.morphologyEx(gone.astype(np.uint8), cv2.MORPH_OPEN, np.ones((3, 3), np.uint8))
    found = np.zeros(shot.depth.shape, bool)
    for seeds in _pieces(solid):
        if before[seeds].mean() > _MOSTLY:
            found |= _completed(shot.depth, seeds)
    return grown(_full_size(shot, found), _GROWTH) if found.any() else np.zeros(shot.shape, bool)


def _full_size(shot: SparseShot, found: Mask) -> Mask:
    """(H, W) the pixels of a keyframe around those (h, w) that were judged."""
    height, width = (STEP * side for side in shot.depth.shape)
    full = np.zeros(shot.shape, bool)
    full[:height, :width] = cv2.resize(found.astype(np.uint8), (width, height), interpolation=cv2.INTER_NEAREST)
    return full


def _pieces(seeds: np.ndarray) -> list[Mask]:
    """Split seeds (h, w) into one mask for each connected region that is not a speck."""
    count, labels, stats, _ = cv2.connectedComponentsWithStats(seeds, connectivity=8)
    large = [k for k in range(1, count) if stats[k, cv2.CC_STAT_AREA] >= _LEAST_AREA * seeds.size]
    return [labels == k for k in large]


def _completed(depth: Array32, seeds: Mask) -> Mask:
    """(h, w) the object that seeds are on: connected pixels at their depth, no further off than the seeds are wide."""
    apart = cv2.distanceTransform((~seeds).astype(np.uint8), cv2.DIST_L2, 3)
    middle = np.median(depth[seeds])
    alike = (apart < _REACH * np.sqrt(seeds.sum())) & (np.abs(depth - middle) < _SAME * middle) | seeds
    _, labels = cv2.connectedComponents(alike.astype(np.uint8), connectivity=4)
    return np.asarray(np.isin(labels, np.unique(labels[seeds])))


_SETTLED = 2  # keyframes after which pairs with later ones also give depth
_AROUND, _ELSEWHERE = 6, 6  # older keyframes that one is compared with: those just before, and others
_AT_THE_END = 32
_KEPT = 150  # keyframes whose evidence is kept: about 350 kilobytes each
_MIN_OVERLAP = 0.3
_GRID = 8  # points along the short edge
_MOST = 0.7  # of the image: above this nothing moves, but the map is wrong


class Movers:
    """Compares keyframes, each with older ones once it has settled, and all once more at the end.

    A region that seems to move can turn out to be static while the keyframe is young and while the focal is
    uncertain: wrong depth looks like motion. After that, once it has left the window, its landmarks there are removed.
    """

    def __init__(self, state: Reconstruction, dense: Densifier) -> None:
        self._state, self._dense = state, dense
        self._evidence: dict[int, Evidence] = {}
        self._decided: set[int] = set()  # keyframes whose evidence was dropped
        self._barred = 0  # keyframes whose moving landmarks were removed
        self._regions: dict[int, int] = {}  # number of moving regions by keyframe
        self._shots: dict[int, tuple[Array, object, SparseShot]] = {}  # with the pose and depth at the time
        self._complete = False  # whether finished depth is compared, not rough

    @property
    def count(self) -> int:
        """Number of moving regions in all keyframes."""
        return sum(self._regions.values())

    def forget(self) -> None:
        """Drop everything learnt, since the map was rebuilt."""
        self._evidence.clear()
        self._shots.clear()
        self._regions.clear()
        self._decided.clear()
        self._barred = 0
        self._state.sparse.landmarks.clear_barred()
        for record in self._state.records:
            record.moving = None

    def renumber(self, new: np.ndarray) -> None:
        """Keyframe k becomes ``new[k]`` (N,), or leaves if that is negative; what it said about others stays."""
        self._barred = int(np.count_nonzero(new[: self._barred] >= 0))
        self._decided = {int(new[index]) for index in self._decided if new[index] >= 0}
        self._evidence, self._regions = renumbered(self._evidence, new), renumbered(self._regions, new)
        self._shots = renumbered(self._shots, new)

    def look(self, newest: int, sure: bool = True) -> set[int]:
        """Compare the keyframe that settled when ``newest`` came with older ones; returns those with more motion now.

        No landmark is removed unless the focal is ``sure``.
        """
        index = newest - _SETTLED
        if not self._state.config.moving_objects or not self._has_depth(index):
            return set()
        older = self._overlapping(index)
        self._let_go(_KEPT)
        settled = max(self._barred, newest - self._state.config.window + 1) if sure else self._barred
        self._bar(range(self._barred, settled))
        self._barred = settled
        return self._compare(index, [*older[-_AROUND:], *_spread(older[:-_AROUND], _ELSEWHERE)])

    def look_again(self) -> set[int]:
        """Compare all once more, with the final poses and depth; returns those with more motion now, or less depth.

        Depth that others refute is dropped: what moves is left out as a region, the rest is points in the air.
        """
        if not self._state.config.moving_objects:
            return set()
        self._evidence.clear()
        self._shots.clear()
        self._complete = True
        changed: set[int] = set()
        for index in filter(self._has_depth, range(len(self._state.records))):
            changed |= self._compare(index, _spread(self._overlapping(index), _AT_THE_END))
        for index, evidence in self._evidence.items():
            if (refuted := evidence.refuted).any():
                shot = self._shot(index)
                self._dense.depths[index].drop(_full_size(shot, refuted.reshape(shot.depth.shape)))
                changed.add(index)
        self._let_go(0)
        self._bar(range(len(self._state.records)))
        return changed

    def _has_depth(self, index: int) -> bool:
        return index >= 0 and self._state.sparse.views[index].w_T_c is not None and self._dense.depths[index].begun

    def _compare(self, index: int, others: Iterable[int]) -> set[int]:
        found = []
        others = [other for other in others if self._has_depth(other)]
        for other in others:
            for first, second in ((other, index), (index, other)):
                evidence = self._of(first), self._of(second)
                found.append((*evidence, compare(self._shot(first), self._shot(second), *evidence)))
        for first_evidence, second_evidence, comparison in found:
            comparison.count(first_evidence, second_evidence)
        return {one for one in (*others, index) if self._leave_out(one)}

    def _of(self, index: int) -> Evidence:
        if index not in self._evidence:
            self._evidence[index] = Evidence(self._time(index), self._shot(index))
        return self._evidence[index]

    def _time(self, index: int) -> int:
        return self._state.records[index].stamp_ns // 1_000_000

    def _let_go(self, kept: int) -> None:
        """Forget all evidence but that of the ``kept`` newest keyframes; its consequences stay."""
        for index in list(self._evidence)[: max(0, len(self._evidence) - kept)]:
            del self._evidence[index]
            self._decided.add(index)
        for index in list(self._shots)[: max(0, len(self._shots) - kept)]:
            del self._shots[index]

    def _leave_out(self, index: int) -> bool:
        """Leave moving objects out of a keyframe; returns whether their region changed."""
        record = self._state.records[index]
        found = region(self._shot(index), self._of(index))
        if found.mean() > _MOST:
            found[:] = False
        before = record.moving if record.moving is not None else np.zeros_like(found)
        found = record.stream.distort_mask(found, self._dense.views.lens(index)) if found.any() else found
        found = found | before if index in self._decided else found
        if np.array_equal(found, before):
            return False
        record.moving = found
        self._regions[index] = cv2.connectedComponents(found.astype(np.uint8))[0] - 1
        self._dense.leave_out(index)
        return True

    def leave_out_masked(self, keyframes: Sequence[int]) -> None:
        """Remove depth and landmarks where the masks of keyframes, which were taken for the world, leave them out."""
        self._bar_under({index: self._state.records[index].masked for index in keyframes})
        for index in filter(self._has_depth, keyframes):
            self._dense.leave_out(index)
            self._state.changed.add(index)

    def _bar(self, keyframes: Iterable[int]) -> None:
        self._bar_under({index: self._state.records[index].moving for index in keyframes})

    def _bar_under(self, masks: Mapping[int, Mask | None]) -> None:
        """Remove position and observations of landmarks under ``masks`` (H, W) of keyframes for good."""
        hit = {index: ids for index, mask in masks.items() if len(ids := self._under(index, mask))}
        if not hit:
            return
        sparse, ids = self._state.sparse, different(list(hit.values()))
        seeing = sparse.around(hit, ids)
        with self._state.in_place(seeing):
            sparse.landmarks.bar(ids)
            for index in seeing:
                seen = sparse.views[index].seen.ids
                sparse.drop(np.full(len(seen), index), seen, np.isin(seen, ids))

    def _under(self, index: int, mask: Mask | None) -> np.ndarray:
        """The ids (K,) of landmarks that a keyframe sees under a mask (H, W)."""
        seen = self._state.sparse.views[index].seen
        if mask is None or not mask.any():
            return seen.ids[:0]
        height, width = mask.shape
        columns, rows = np.round(self._state.records[index].stream.to_working(seen.pixels)).astype(int).T
        inside = (columns >= 0) & (columns < width) & (rows >= 0) & (rows < height)
        return seen.ids[inside & mask[np.clip(rows, 0, height - 1), np.clip(columns, 0, width - 1)]]

    def _shot(self, index: int) -> SparseShot:
        pose, keyframe = self._state.sparse.views[index].pose, self._dense.depths[index]
        kept, record, shown = self._shots.get(index), self._state.records[index], (keyframe.pixels, keyframe.growth)
        if kept is None or kept[0] is not pose or kept[1] != shown:
            found = keyframe.whole if self._complete else keyframe.rough
            assert found is not None
            depth, confidence = found
            if record.masked is not None:
                out = record.stream.rectify_mask(record.masked, self._dense.views.lens(index))
                confidence = np.where(out, np.float32(1), confidence)
            image, focal = self._dense.views.image(index), self._dense.views.focal(index)
            kept = pose, shown, SparseShot.of(image, depth, confidence, pose, focal, self._state.config.min_confidence)
            self._shots[index] = kept
        return kept[2]

    def _overlapping(self, index: int) -> list[int]:
        """Older keyframes that look at a keyframe's points, in order."""
        older, points = [k for k in self._state.sparse.posed() if k < index], self._some_points(index)
        if not older or not len(points):
            return []
        return [k for k, part in zip(older, self._shares(older, points), strict=True) if part > _MIN_OVERLAP]

    def _shares(self, keyframes: Sequence[int], points: Array) -> Array:
        """(K,) shares of points (P, 3) in w at which each of the posed keyframes looks."""
        poses = [w_T_c for k in keyframes if (w_T_c := self._state.sparse.views[k].w_T_c) is not None]
        c_T_w = invert(np.stack(poses))
        local = np.einsum("nij,pj->npi", c_T_w[:, :3, :3], points) + c_T_w[:, None, :3, 3]
        half = np.array([self._state.records[k].image.shape[1::-1] for k in keyframes]) / 2.0
        half /= np.array([self._dense.views.focal(k) for k in keyframes])[:, None]
        # Compared before dividing by z, which may be 0
        share: Array = (np.abs(local[..., :2]) < local[..., 2:] * half[:, None]).all(axis=2).mean(axis=1)
        return share

    def _some_points(self, index: int) -> Array:
        """(P, 3) points, in w, of a keyframe's confident depth on a coarse grid."""
        shot = self._shot(index)
        step = max(1, min(shot.depth.shape) // _GRID)
        rows, columns = np.mgrid[step // 2 : shot.depth.shape[0] : step, step // 2 : shot.depth.shape[1] : step]
        z = shot.depth[rows, columns].astype(np.float64)
        pixels = np.stack([columns, rows], axis=-1)[z > 0].astype(np.float64)
        seen = rays(pixels, shot.pinhole.focal, shot.pinhole.center) * z[z > 0][:, None]
        return transform(shot.w_T_c, seen)


def _spread(views: Sequence[int], count: int) -> list[int]:
    """At most ``count`` of the views, evenly chosen."""
    at = np.unique(np.round(np.linspace(0, len(views) - 1, min(count, len(views)))).astype(int))
    return [views[k] for k in at]
