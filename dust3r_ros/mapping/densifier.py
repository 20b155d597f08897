"""Depth for keyframes: sends the best pairs to the backend and its pointmaps to the depth maps."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace

import numpy as np

from dust3r_ros.backends.base import Backend, as_asked
from dust3r_ros.depth.depth_maps import DepthMaps, DepthShot, seen_from
from dust3r_ros.depth.preview import DepthPreview, Posed
from dust3r_ros.geometry.lens import Lens
from dust3r_ros.geometry.rigid import angle_deg, invert
from dust3r_ros.mapping.covisibility import depth_sources
from dust3r_ros.mapping.reconstruction import Reconstruction, renumbered
from dust3r_ros.mapping.state import KeyframeState, PairGeometry
from dust3r_ros.timing import StageTimer
from dust3r_ros.types import Array, Array32, Image, PairPrediction, View

# How far the geometry of a pair may change before its depth is computed again: direction of translation and
# rotation (radians), and relative focal. Length alone only scales it.
_MOVED, _TURNED, _ZOOMED = 0.05, 0.002, 0.03
_BENT_PX = 0.5  # in the tracked image
_LEAST_SHARED = 12  # shared landmarks that connect two keyframes
_RECTIFIED = 32  # images that are kept: each is asked for whenever its keyframe moves a little
_APART = (1, 2, 4, 6)  # largest distance in order between keyframes that share depth


class PinholeViews:
    """Keyframes as seen by pinholes in place of their cameras, each as last renewed."""

    def __init__(self, state: Reconstruction) -> None:
        self._state = state
        self._lenses: dict[int, Lens] = {}
        self._images: dict[int, tuple[Image, Lens, Image]] = {}  # as seen, its lens, rectified; oldest first

    def lens(self, index: int) -> Lens:
        """The lens removed from a keyframe's depth and image."""
        return self._lenses.get(index, self._lens(index))

    def focal(self, index: int) -> float:
        """Focal of a keyframe's depth and image, pixels."""
        return self._state.records[index].stream.focal_to_working(self._state.intrinsics_of(index).focal)

    def image(self, index: int) -> Image:
        """The image (H, W, 3) to which the depth of a keyframe belongs; as a rule the same object until it changes."""
        record, lens = self._state.records[index], self.lens(index)
        if lens.plain:
            return record.image
        kept = self._images.pop(index, None)
        if kept is None or kept[0] is not record.image or kept[1] != lens:
            kept = record.image, lens, record.stream.rectified(record.image, lens)[0]
        self._images[index] = kept
        for old in list(self._images)[:-_RECTIFIED]:
            del self._images[old]
        return kept[2]

    def shown(self, index: int) -> np.ndarray | None:
        """Where that image is valid (H, W); None: everywhere."""
        return self._state.records[index].stream.shown(self.lens(index))

    def current(self, index: int) -> bool:
        """Whether it was rectified with the current lens."""
        return self._lenses.get(index) == self._lens(index)

    def renew(self, index: int) -> Image:
        """Rectify the image (H, W, 3) with the current lens and return it."""
        self._lenses[index] = self._lens(index)
        return self.image(index)

    def restore(self, index: int, lens: Lens) -> None:
        """Restore the lens of an earlier session."""
        self._lenses[index] = lens

    def renumber(self, new: np.ndarray) -> None:
        """Keyframe k becomes ``new[k]`` (N,), or leaves if that is negative."""
        self._lenses = renumbered(self._lenses, new)

    def take_over(self, other: PinholeViews, first: int) -> None:
        """Take the views of another map, whose keyframes become ``first`` and up."""
        self._lenses |= {first + index: lens for index, lens in other._lenses.items()}

    def _lens(self, index: int) -> Lens:
        return self._state.intrinsics_of(index).lens


class UsedPairs:
    """The pairs from which depth was computed, with their geometry at the time."""

    def __init__(self, state: Reconstruction) -> None:
        self._state = state
        self.geometry: dict[tuple[int, int], PairGeometry] = {}
        # In which they were added, removed or updated; since keyframes left, each once.
        self.order: list[tuple[int, int]] = []

    def add(self, pair: tuple[int, int]) -> PairGeometry:
        """Note that depth comes from a pair with its current geometry."""
        self.geometry[pair] = found = self.now(pair)
        self.order.append(pair)
        return found

    def part(self, pairs: Iterable[tuple[int, int]]) -> None:
        """Note that depth no longer comes from these pairs."""
        for pair in pairs:
            del self.geometry[pair]
            self.order.append(pair)

    def renumber(self, new: np.ndarray) -> None:
        """Keyframe k becomes ``new[k]`` (N,), or leaves if that is negative, with its pairs."""
        place = {(a, b): (int(new[a]), int(new[b])) for a, b in [*self.order, *self.geometry]}
        self.geometry = {place[pair]: found for pair, found in self.geometry.items() if min(place[pair]) >= 0}
        self.order = list(dict.fromkeys(place[pair] for pair in self.order if min(place[pair]) >= 0))

    def take_over(self, other: UsedPairs, first: int) -> None:
        """Take the pairs of another map, whose keyframes become ``first`` and up."""
        taken = {(first + a, first + b): geometry for (a, b), geometry in other.geometry.items()}
        self.geometry |= taken
        self.order += taken

    def posed(self, pair: tuple[int, int]) -> bool:
        """Whether both keyframes have a pose."""
        return all(self._state.sparse.views[index].w_T_c is not None for index in pair)

    def outdated(self) -> set[int]:
        """Keyframes with a pair whose geometry has changed since; drops pairs that lost a pose."""
        self.part([pair for pair in self.geometry if not self.posed(pair)])
        return {index for pair, before in self.geometry.items() if self.moved(pair, before) for index in pair}

    def moved(self, pair: tuple[int, int], before: PairGeometry) -> bool:
        """Whether a pair's relative pose or focals differ from those used for its depth; its length may differ."""
        now = self.now(pair)
        (R, t), (R_now, t_now) = ((g.second_T_first[:3, :3], g.second_T_first[:3, 3]) for g in (before, now))
        direction = [-a.T @ b / max(float(np.linalg.norm(b)), 1e-12) for a, b in ((R, t), (R_now, t_now))]
        shift = float(np.linalg.norm(direction[0] - direction[1]))
        turn = np.radians(angle_deg(R @ R_now.T))
        zoom = max(abs(np.log(b / a)) for a, b in zip(before.focals, now.focals, strict=True))
        bent = max(a.distance(b) for a, b in zip(before.lenses, now.lenses, strict=True))
        return shift > _MOVED or turn > _TURNED or zoom > _ZOOMED or bent > _BENT_PX

    def now(self, pair: tuple[int, int]) -> PairGeometry:
        """The current geometry of a pair."""
        views = [self._state.sparse.views[index] for index in pair]
        w_T_first, w_T_second = (view.pose for view in views)
        focals = [self._state.sparse.intrinsics[view.camera] for view in views]
        return PairGeometry(
            invert(w_T_second) @ w_T_first, tuple(f.focal for f in focals), tuple(f.lens for f in focals)
        )


class Densifier:
    """Keeps the backend supplied with views and the depth of every keyframe up to date.

    Poses and unit are those of the sparse map, so the backend must be one that ``uses_poses``. Views
    and single estimates of keyframes more than ``config.window`` old are dropped; an older keyframe
    that is paired again is added to the backend again. When keyframes get depth, and whether at all,
    is up to ``DepthSchedule``. One class, since a pair changes views, graph and depth together.
    """

    def __init__(self, state: Reconstruction, backend: Backend, stage: StageTimer) -> None:
        self.backend = backend
        self.depths = DepthMaps(state.pages.keep)
        self._state, self._stage = state, stage
        self.views = PinholeViews(state)  # as given to the backend
        self.pairs = UsedPairs(state)
        self._preview = DepthPreview()
        self.previewed: dict[int, tuple[tuple[int, int], PairGeometry]] = {}  # a pair of each, with its geometry then

    def predict(
        self,
        pairs: Sequence[tuple[int, int]],
        focals: Mapping[str, float],
        poses: Mapping[int, Array] | None = None,
        landmarks: Mapping[int, Array] | None = None,
    ) -> list[PairPrediction]:
        """Pointmaps of pairs of keyframes, including old ones."""
        for index in sorted({index for pair in pairs for index in pair}):
            if not self.backend.has(index) or not self.views.current(index):
                self.backend.add(View(index, self._state.records[index].stream.name, self.views.renew(index)))
        sizes = {index: self._state.records[index].image.shape[:2] for pair in pairs for index in pair}
        return as_asked(self.backend.predict(pairs, focals, poses, landmarks), pairs, sizes, self.backend.name)

    def densify(self, index: int, others: Sequence[int]) -> set[int]:
        """Depth of a posed keyframe and those it is paired with; returns the keyframes whose depth changed.

        Depth comes from the pairs with the ``config.depth_pairs`` most promising of ``others`` and of the window.
        Single estimates of the keyframe that leaves the window are dropped; sharing is left to ``renew``.
        """
        changed = self._pair_up(index, self._posed(self._chosen(index, others)))
        leaving = index - self._state.config.window
        if leaving >= 0:
            self.depths[leaving].condense()
            self.backend.forget(leaving)
        return changed

    def densify_in_parts(self, index: int, others: Sequence[int]) -> Iterator[set[int]]:
        """The same depth, a pair at a time; the map may change in between. ``share`` and ``leave`` come next."""
        for source in self._chosen(index, others):
            if self._state.sparse.views[index].w_T_c is None:
                return
            yield self._pair_up(index, self._posed([source]))

    def _chosen(self, index: int, others: Sequence[int]) -> list[int]:
        """The keyframes to pair with; what came from others before is replaced."""
        chosen = self._sources(index, others, self._state.config.depth_pairs)
        self.pairs.part([pair for pair in self.pairs.geometry if pair[1] == index and pair[0] not in chosen])
        return chosen

    def share(self, index: int) -> set[int]:
        """Give a keyframe the depth of those before it; returns it if there is any."""
        return self._share(index, [index - apart for apart in _APART])

    def preview(self, index: int, others: Sequence[int], pairs: int) -> set[int]:
        """Preview the depth of a keyframe that has none, from the best ``pairs`` with ``others``.

        Returns the keyframe, if that gives any depth.
        """
        if self.depths[index].estimated or self._state.sparse.views[index].w_T_c is None:
            return set()
        later = range(index + 1, min(index + 1 + self._state.config.window, len(self._state.records)))
        sources = self._sources(index, [*others, *later], pairs)
        with self._stage("preview"):
            found = self._preview.look(index, {view: self._look(view) for view in (index, *sources)}, sources)
        if found is None:
            return set()
        depth, confidence = found
        self.depths[index].preview(depth, _where(self.views.shown(index), confidence))
        self.leave_out(index)
        pair = (sources[0], index)
        self.previewed[index] = pair, self.pairs.now(pair)
        return {index}

    def _look(self, index: int) -> Posed:
        stream, w_T_c = self._state.records[index].stream, self._state.sparse.views[index].pose
        return Posed(stream.name, self.views.image(index), self.views.focal(index), w_T_c, self._landmarks(index))

    def _landmarks(self, index: int) -> Array:
        """(N, 3) positions of the landmarks a keyframe sees."""
        sparse = self._state.sparse
        return sparse.points[sparse.known_in(index).ids]

    def _sources(self, index: int, others: Sequence[int], count: int) -> list[int]:
        """Those of ``others`` and of the keyframes before that say most about a keyframe's depth, best first."""
        near = range(index - 1, max(-1, index - 1 - self._state.config.window), -1)
        return depth_sources(self._state.sparse, index, self._posed(dict.fromkeys([*others, *near])), count)

    def take_over(self, other: Densifier, first: int, scale: float) -> None:
        """Take the depth of another map, whose keyframes become ``first`` and up and whose unit is ``scale`` units."""
        self.depths.take_over(other.depths, first, scale)
        self.views.take_over(other.views, first)
        self.pairs.take_over(other.pairs, first)
        for index, ((a, b), geometry) in other.previewed.items():
            self.previewed[first + index] = (first + a, first + b), geometry

    def renumber(self, new: np.ndarray) -> None:
        """Keyframe k becomes ``new[k]`` (N,), or leaves if that is negative; depth that it gave to others stays."""
        self.depths.renumber(new)
        self.views.renumber(new)
        self.pairs.renumber(new)
        kept = {k: ((int(new[a]), int(new[k])), then) for k, ((a, _), then) in self.previewed.items() if new[a] >= 0}
        self.previewed = renumbered(kept, new)
        self.backend.clear()  # it knows views by their number

    def leave_out(self, index: int) -> None:
        """Leave out depth under the mask of a keyframe's camera and on moving objects."""
        record = self._state.records[index]
        if record.left_out is not None:
            self.depths[index].leave_out(record.stream.rectify_mask(record.left_out, self.views.lens(index)))

    def restore(self, keyframes: Sequence[KeyframeState], pairs: Mapping[tuple[int, int], PairGeometry]) -> None:
        """Restore the depth of keyframes from an earlier session, and its pairs; without any, it was a preview."""
        paired = {index for pair in pairs for index in pair}
        for index, keyframe in enumerate(keyframes):
            if keyframe.depth is not None and keyframe.confidence is not None:
                known = self.depths[index]
                (known.restore if index in paired else known.preview)(keyframe.depth, keyframe.confidence)
                self.views.restore(index, keyframe.lens)
        self.pairs.geometry = dict(pairs)

    def following(self, steps: Sequence[Callable[[], object]], views: Sequence[int]) -> set[int]:
        """Run an adjustment of posed ``views``, step by step: depth follows the landmarks; returns the moved views."""
        sparse = self._state.sparse
        before = {index: sparse.views[index].w_T_c for index in views}
        units = {index: sparse.median_depth(index) for index in views if self.depths[index].pixels is not None}
        for step in steps:
            step()
        moved = {index for index, w_T_c in before.items() if sparse.views[index].w_T_c is not w_T_c}
        for index in sorted(moved & units.keys() & set(sparse.posed())):  # what is built anew may leave some out
            factor = sparse.median_depth(index) / units[index]
            if np.isfinite(factor) and factor > 0:
                self.depths.rescale(index, factor)
        return moved

    def leave(self, index: int) -> set[int]:
        """Release the keyframe that left the window when ``index`` came, and ``index`` itself if its depth came late.

        Returns the former if its depth changed.
        """
        leaving, changed = index - self._state.config.window, set[int]()
        if leaving >= 0:
            changed = self._share(leaving, [leaving + apart for apart in _APART])
            self._release(leaving)
        if index < len(self._state.records) - self._state.config.window:
            self._release(index)
        return changed

    def release_old(self) -> None:
        """Release all keyframes outside the window, those included that were paired again."""
        for index in range(len(self._state.records) - self._state.config.window):
            self._release(index)

    def _release(self, index: int) -> None:
        self.depths[index].freeze()
        self.backend.forget(index)

    def stale(self) -> set[int]:
        """Drop depth from pairs whose geometry has changed since; returns the keyframes affected."""
        stale = self.pairs.outdated()
        for index, (pair, before) in self.previewed.items():
            if not self.depths[index].estimated and (not self.pairs.posed(pair) or self.pairs.moved(pair, before)):
                stale.add(index)
        for index in stale:
            self.depths.clear(index)
        return stale

    def renew(self) -> set[int]:
        """Compute depth again for pairs whose geometry has changed since; returns the keyframes affected.

        Keyframes whose depth is not frozen also get that of all others.
        """
        stale = self.pairs.outdated()
        misled = self._misled(stale)
        # Frozen depth cannot be separated from depth of others.
        stale |= {index for index in misled if self.depths[index].frozen}
        for index in stale:
            self.depths.clear(index)
        for index in misled - stale:
            self.depths[index].drop_received()
        self._pair_again(stale)
        stale |= misled | self._share_all(stale | misled)
        self.release_old()
        return stale

    def _share_all(self, stale: set[int]) -> set[int]:
        """Give ``stale`` keyframes, young ones and those not frozen the depth of others; returns those reached."""
        count, reached = len(self._state.records), set[int]()
        young = range(max(0, count - self._state.config.window), count)
        unfinished = {index for index in range(count) if not self.depths[index].frozen}
        for index in sorted(stale.union(young, unfinished)):
            reached |= self._share(index, [index + way * apart for apart in _APART for way in (-1, 1)])
        for index in unfinished:
            self.depths[index].show(self.views.image(index))
        return reached

    def _misled(self, stale: set[int]) -> set[int]:
        """Other keyframes that got depth from ``stale`` ones."""
        return {index for index in range(len(self._state.records)) if self.depths[index].received_from & stale} - stale

    def _pair_again(self, stale: set[int]) -> None:
        """Compute depth of ``stale`` keyframes from all their pairs."""
        others: dict[int, list[int]] = {}
        for first, second in self.pairs.geometry:
            if first in stale or second in stale:
                others.setdefault(second, []).append(first)
        # Newest first: what they need is likely still cached
        for index in sorted(others, reverse=True):
            self._pair_up(index, others[index], stale)
            self.backend.forget(index + self._state.config.window)

    def _share(self, index: int, others: Iterable[int]) -> set[int]:
        """Give a keyframe the depth of ``others`` not received yet; returns it if there is any."""
        received = self.depths[index].received_from
        others = [other for other in others if 0 <= other < len(self._state.records) and other not in received]
        shot, shots = self._shot(index), [(other, self._shot(other)) for other in others]
        with self._stage("share"):
            seen = {other: seen_from(its, shot) for other, its in shots if shot is not None and its is not None}
            self.depths[index].receive(seen)
        return {index} if seen else set()

    def _shot(self, index: int) -> DepthShot | None:
        """A keyframe with depth from its pairs alone, without left-out pixels."""
        keyframe, w_T_c = self.depths[index], self._state.sparse.views[index].w_T_c
        found, out = keyframe.own, keyframe.left_out
        if found is None or w_T_c is None:
            return None
        depth, confidence = found
        shown = confidence if out is None else np.where(out, np.float32(1), confidence)
        return DepthShot(self.views.image(index), depth, shown, w_T_c, self.views.focal(index))

    def _posed(self, views: Iterable[int]) -> list[int]:
        return [view for view in views if self._state.sparse.views[view].w_T_c is not None]

    def connect(self, index: int, others: Sequence[int]) -> None:
        """Add pairs to the graph; the weight is log(1 + landmarks with a position that both see)."""
        known = self._state.sparse.known_in(index).ids
        for other in self._posed(others):
            shared = len(self._state.sparse.seen_too(other, known))
            if shared >= _LEAST_SHARED:
                cameras = self._state.records[other].stream.name, self._state.records[index].stream.name
                self._state.graph.connect(other, index, float(np.log1p(shared)), cameras)

    def _pair_up(self, index: int, others: Sequence[int], only: set[int] | None = None) -> set[int]:
        """Take depth from the pairs of ``index`` with ``others``, for all or those in ``only``; returns all of them."""
        if not others:
            return set()
        pairs = [(other, index) for other in others]
        views = self._state.sparse.views
        poses = {view: w_T_c for view in (index, *others) if (w_T_c := views[view].w_T_c) is not None}
        landmarks = {view: self._landmarks(view) for view in poses}
        with self._stage("predict"):
            predictions = self.predict(pairs, self._focals(), poses, landmarks)
        with self._stage("fuse"):
            for view in (index, *others):
                self.leave_out(view)
                if only is None or view in only:
                    self.depths[view].show(self.views.image(view))
            for pair, prediction in zip(pairs, predictions, strict=True):
                geometry = self.pairs.add(pair)
                self.depths.absorb(self._masked(prediction), geometry.second_T_first, 1.0, only)
        return {index, *others}

    def _masked(self, prediction: PairPrediction) -> PairPrediction:
        """The prediction with confidence 1 where rectified images are invalid."""
        first, second = self.views.shown(prediction.first), self.views.shown(prediction.second)
        return replace(
            prediction,
            confidence_first=_where(first, prediction.confidence_first),
            confidence_second=_where(second, prediction.confidence_second),
        )

    def _focals(self) -> dict[str, float]:
        """Focals by camera name, pixels of the working images."""
        streams = {record.stream.name: record.stream for record in self._state.records}
        return {
            name: stream.focal_to_working(self._state.sparse.intrinsics[stream.index].focal)
            for name, stream in streams.items()
        }


def _where(known: np.ndarray | None, confidence: Array32) -> Array32:
    """Confidence (H, W) under a mask, 1 elsewhere."""
    return confidence if known is None else np.where(known, confidence, np.float32(1.0))
