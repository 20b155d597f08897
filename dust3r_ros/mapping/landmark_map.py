"""A map under construction based on landmarks: frames come in, keyframes with their landmarks are inserted."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from dust3r_ros.backends.base import Backend
from dust3r_ros.cloud.cloud import Cloud
from dust3r_ros.errors import InputError
from dust3r_ros.features.features import no_features
from dust3r_ros.features.place_recognition import Appearance
from dust3r_ros.geometry.pose import PnpResult
from dust3r_ros.geometry.rigid import pose
from dust3r_ros.geometry.similarity import Similarity
from dust3r_ros.mapping.adjustment import MapAdjuster
from dust3r_ros.mapping.association import Linker
from dust3r_ros.mapping.camera_stream import CameraStream, KeyframeRecord
from dust3r_ros.mapping.covisibility import Neighbourhood, estranged
from dust3r_ros.mapping.culling import Culling, Numbering, Redundancy
from dust3r_ros.mapping.depth_schedule import DepthSchedule
from dust3r_ros.mapping.frames import shown
from dust3r_ros.mapping.localization import FrameFinder
from dust3r_ros.mapping.loop_closing import LoopClosing
from dust3r_ros.mapping.reconstruction import Reconstruction, landmark_cloud
from dust3r_ros.mapping.rig_placement import FocalVotes, RigPlacement
from dust3r_ros.mapping.saving import LandmarkSaving
from dust3r_ros.mapping.submap import BEGIN, CULL, DEPTH, PREVIEW, RENUMBER, TAKE, DeferredWork, LocatedFrame, Submap
from dust3r_ros.sparse.consistency import Doubt
from dust3r_ros.sparse.lens_refinement import consider_images
from dust3r_ros.sparse.rolling_shutter import Motions
from dust3r_ros.timing import StageTimer, Tick, no_tick
from dust3r_ros.tracking import Tracks, join, no_tracks
from dust3r_ros.tracking.exchange import YOUNG, Renumbering
from dust3r_ros.types import Array, Image, Keyframe

_MAX_FIRST_KEYFRAMES = 8
_MOST_UNDONE = 5  # keyframes of a start that is tried again with one more if the camera is lost at once
# A camera that turns on the spot hardly sees parallax, and loses sight of what it knows: with fewer landmarks that have
# a position than these, so much of the usual parallax is enough for more.
_SPARSE, _LESS_PARALLAX = 150, 0.5
_HOLDS = 12  # landmarks: with fewer, an adjustment may take a keyframe anywhere
_LINKED = 0.5  # of what two keyframes seem to share is one landmark already: no loop is open between them


class MapBuilder(Submap):
    """Adds keyframes, links them to known landmarks and has the map adjusted to them; see ``Submap``.

    Most methods are those of a ``Submap``, each a call of one of the parts that are made here.
    """

    finder: FrameFinder
    placement: RigPlacement
    deferred: LandmarkDeferredWork

    def __init__(
        self, state: Reconstruction, backend: Backend, stage: StageTimer, appearance: Appearance | None = None
    ) -> None:
        """``state``: an empty one. ``appearance`` is shared by maps that may be joined."""
        super().__init__(state)
        self._stage = stage
        self._appearance = appearance or Appearance()
        self._links = Linker(self.state)
        self._loops = LoopClosing(self.state, self._links)
        self._near = Neighbourhood(self.state)
        focal_votes = FocalVotes(self.state)
        self.placement = RigPlacement(self.state, focal_votes)
        self.finder = FrameFinder(self.state, self._links, self._near, focal_votes, self._appearance)
        self._depth = DepthSchedule(self.state, self._near, backend, stage)
        self._adjuster = MapAdjuster(self.state, self._depth, self.finder, self.placement, stage)
        redundancy = Redundancy(self.state, self._near, self._depth.dense, self.placement)
        parts = (self._depth.dense, self._depth.movers, self._links, self.placement, self._adjuster)
        self._culling = Culling(self.state, redundancy, parts)
        self._numbering = Numbering(self.state, (self._links, self._adjuster, focal_votes))
        self.deferred = LandmarkDeferredWork(self.state, self._adjuster, self._depth, self._culling, self._numbering)
        self.saving = LandmarkSaving(self.state, self._depth.dense, self.placement)
        self._broken = False

    @property
    def young(self) -> bool:
        few = 2 * YOUNG if self.state.live and self.state.coarse else YOUNG
        return len(self) < few and not self.state.known

    @property
    def settling(self) -> bool:
        return self.state.settling

    @property
    def stuck(self) -> bool:
        """True if nothing can be built from the first keyframes: they are many, or the last shares no landmark.

        Also if no landmark kept its position: the first poses were wrong. Live, first poses that are being made are
        waited for, unless they could not be made from so many before: each keyframe asks for them again.
        """
        waiting = self._adjuster.waiting
        if waiting.starting and (self.initialised or waiting.vain < _MAX_FIRST_KEYFRAMES):
            return False
        if self.initialised:
            return int(np.count_nonzero(self.state.sparse.positioned)) < self.state.config.track_min_inliers
        return self._broken or len(self) >= _MAX_FIRST_KEYFRAMES

    def undo_start(self, stream: CameraStream) -> bool:
        begun = self.initialised and len(self) <= _MOST_UNDONE and self.state.records[0].stream is stream
        if not begun or self.state.live or self.state.known or self.state.settled:
            return False
        self.state.initialised = False
        self.state.sparse.start_over()
        return True

    def accepts(self, stream: CameraStream) -> bool:
        """Whether a camera's frames may become keyframes now: one camera's at first, all once its focal is certain."""
        first_camera = all(record.stream is stream for record in self.state.records[:1])
        return first_camera or stream.alone or (self.initialised and self.state.sure)

    def begin_with_few(self) -> bool:
        if not self.initialised and self.state.alone:
            self._adjuster.start(None)
        return self.initialised

    def mask_own(self, stream: CameraStream) -> bool:
        anew = super().mask_own(stream)
        own = [index for index, record in enumerate(self.state.records) if record.stream is stream]
        self._depth.movers.leave_out_masked(own)  # also where it sleeps, and is not begun anew
        return anew

    def pose(self, index: int) -> Array | None:
        w_T_c = self.state.sparse.views[index].w_T_c
        return None if w_T_c is None else w_T_c.copy()

    def posed(self) -> list[int]:
        return self.state.sparse.posed()

    def unit(self, index: int) -> float:
        return self.state.sparse.median_depth(index)

    def positions(self, ids: np.ndarray) -> Array:
        return self.state.sparse.points[self.state.sparse.landmarks.resolved(ids)]

    @property
    def contradicted(self) -> float:
        return self._adjuster.consistency.worst

    @property
    def doubt(self) -> Doubt | None:
        return self._adjuster.consistency.doubt

    @property
    def failures(self) -> Sequence[str]:
        return self._depth.failures

    @property
    def regions(self) -> int:
        return self._depth.movers.count

    def landmarks(self) -> Cloud:
        return landmark_cloud(self.state.sparse, self.state.records)

    def keyframe(self, index: int) -> Keyframe:
        record, view, dense = self.state.records[index], self.state.sparse.views[index], self._depth.dense
        shape = record.image.shape[:2]
        depth, confidence = dense.depths[index].shown or (np.zeros(shape, np.float32), np.ones(shape, np.float32))
        focal = record.stream.focal_to_working(self.state.sparse.intrinsics[view.camera].focal)
        stream, image = record.stream.name, dense.views.image(index)
        w_T_c = view.pose.copy()
        parts = shown(image), shown(depth), shown(confidence)
        return Keyframe(index, record.version, record.stamp_ns, stream, w_T_c, focal, *parts)

    def move(self, new_S_old: Similarity) -> None:
        self.state.sparse.move(pose(new_S_old.rotation, new_S_old.translation), new_S_old.scale)
        self._depth.dense.depths.rescale_all(new_S_old.scale)
        self._adjuster.moved(new_S_old.scale)
        self.placement.rescale(new_S_old.scale)
        self.mark_all()

    def renumber_landmarks(self, followed: Sequence[np.ndarray], remembered: Sequence[np.ndarray]) -> Renumbering:
        return self._numbering.renumber(followed, remembered)

    def alike(self, other: MapBuilder, index: int) -> list[tuple[int, np.ndarray]]:
        return self._loops.alike(other.state, index)

    def absorb(
        self, other: MapBuilder, matches: np.ndarray, shown_by: np.ndarray, strange: bool = False
    ) -> tuple[int, np.ndarray] | None:
        fit = None if other.state in self.state.apart else self._loops.fit(other.state, matches, shown_by)
        if fit is None:
            return None
        own_S_other = fit.target_S_source
        if strange:
            certain = self._loops.see_the_same(other.state, own_S_other)
        else:
            certain = self.finder.recognises(other.state, np.unique(shown_by), own_S_other)
            if certain and not self.state.live and self._loops.folds(other.state, own_S_other, matches[fit.agree]):
                self.state.keep_apart(other.state)
                certain = False
        if not certain:
            return None
        for builder in (self, other):
            builder._adjuster.waiting.cancel()
        merged = self.state.absorb(other.state, own_S_other, matches[fit.agree])
        self._links.absorb(other._links, merged.first_view, merged.ids)
        self.placement.absorb(other.placement, merged.first_view, own_S_other.scale)
        self._depth.take_over(other._depth, merged.first_view, own_S_other.scale)
        if not strange:
            self._adjuster.close_loop()
        self.state.generation += 1
        self.mark_all()
        return merged.first_view, self.state.sparse.landmarks.resolved(merged.ids)

    def close_loops(self, loops: Sequence[tuple[int, int, np.ndarray]]) -> None:
        self._adjuster.close_loop()
        by_later: dict[int, list[int]] = {}
        for first, second, pairs in loops:
            ids = self.state.sparse.landmarks.resolved(pairs)
            if np.mean(ids[:, 0] == ids[:, 1]) < _LINKED:
                by_later.setdefault(max(first, second), []).append(min(first, second))
        for index, others in sorted(by_later.items()):
            if self.state.sparse.views[index].w_T_c is None:
                continue
            closed = self._loops.link(index, sorted(set(others)))
            if self._loops.has_drifted(index, closed):
                self._adjuster.close_loop(self._loops.gap)
            self._adjuster.consider(self._loops.wide)

    def drop(self, keyframes: Sequence[int]) -> None:
        self._culling.drop(keyframes)

    def add(
        self, stamp_ns: int, stream: CameraStream, image: Image, gray: Image, tracks: Tracks, w_T_c: Array | None
    ) -> int:
        """Add a keyframe seen at ``w_T_c``, or one of the first, whose poses are still unknown."""
        index = self.state.sparse.add(stream.index, no_tracks(), w_T_c)
        features = stream.features(gray)
        ids = self.state.sparse.landmarks.new(len(features.pixels))
        self.state.append(KeyframeRecord(stamp_ns, stream, image, features, ids, masked=stream.masked, gray=gray))
        self.state.sparse.observe(index, Tracks(ids, features.pixels))
        global_descriptor = self._appearance.describe(features)
        near = self._near.neighbours(index)
        loop_candidates = self.graph.loop_candidates(global_descriptor, index, [*self._near.recent(index), *near])
        self.graph.add(global_descriptor, near)
        with self._stage("match"):
            links = self._links.connect(index, gray, tracks, near)
        self._links.follow_from(index)
        if self.initialised:
            self._extend(index, stream, near, loop_candidates)
        else:
            seen = len(self.state.sparse.views[index].seen.ids) if index == 0 else links + len(tracks.ids)
            self._broken = seen < self.state.config.track_min_inliers
            self._adjuster.start(stream)
        return index

    def _extend(self, index: int, stream: CameraStream, near: list[int], loop_candidates: list[int]) -> None:
        """Fit a keyframe into the map, and the map to the keyframe."""
        with self._stage("match"):
            closed = self._loops.link(index, loop_candidates)
        self._adjuster.locate(index)
        with self._stage("refine"):
            window = self._positioned(index)
            if self._loops.has_drifted(index, closed):
                self._adjuster.close_loop(self._loops.gap)
            self._adjuster.adjust_window(window)
            self._adjuster.consider(self._loops.wide)
            self._adjuster.join(stream)
        self._adjuster.calibrate(stream)
        self._adjuster.rebuild()
        self._adjuster.place_left_out()
        self.state.changed.add(index)
        self._depth.add(index, [*near, *closed])

    def link(
        self, stamp_ns: int, stream: CameraStream, image: Image, gray: Image, tracks: Tracks, w_T_c: Array | None
    ) -> int:
        """Add a keyframe by what was followed into it alone, in a fifth of the time."""
        seen, parts = self.state.sparse.resolved(tracks).unique(), (image, no_features(), np.zeros(0, np.int64))
        index = self.state.sparse.add(stream.index, seen, w_T_c)
        self.state.append(KeyframeRecord(stamp_ns, stream, *parts, masked=stream.masked, gray=gray, link=True))
        self.graph.add(self._appearance.describe(no_features()), self._near.neighbours(index))
        stream.anchor(stamp_ns, seen)
        self._adjuster.locate(index)
        with self._stage("refine"):
            self._positioned(index)
        self.state.changed.add(index)
        return index

    def _positioned(self, index: int) -> list[int]:
        """The keyframes around ``index`` that may move, after what they see has got positions."""
        recent = self._near.window(index, self.state.config.window)
        window = [view for view in self.posed()[1:] if view in recent]
        self.state.sparse.extend(window)
        if self.state.live and len(self.state.sparse.known_in(index).ids) < _SPARSE:
            self.state.sparse.extend(window, enough=_LESS_PARALLAX)
        return window

    def new_landmarks(self, count: int) -> np.ndarray:
        return self.state.sparse.landmarks.new(count)

    def arrive(self, stream: CameraStream, tracks: Tracks) -> None:
        sparse, records = self.state.sparse, self.state.records
        own = [at for at in sparse.posed() if records[at].stream is stream]
        if own:
            self.state.visit(max(own, key=lambda at: int(np.isin(sparse.views[at].seen.ids, tracks.ids).sum())))

    def revisit(
        self, stamp_ns: int, stream: CameraStream, image: Image, gray: Image, tracks: Tracks, w_T_c: Array
    ) -> tuple[PnpResult, Tracks] | None:
        again = None if self.young or not self.state.sure else self.finder.seen_before(stream, image, tracks, w_T_c)
        if again is None:
            return None
        index, found, seen = again
        self.state.visit(index)
        found, sharp = self.finder.measure(index, stream, gray, seen, found.w_T_c) or (found, seen)
        followed = sharp
        for more in (seen, tracks):
            followed = join(followed, more.select(~np.isin(more.ids, followed.ids)))
        self._links.follow_on(stamp_ns, stream, followed)
        return found, sharp

    def measure(
        self, stream: CameraStream, gray: Image, tracks: Tracks, w_T_c: Array
    ) -> tuple[PnpResult, Tracks] | None:
        index = self._near.beside(stream, w_T_c)
        if index is None or stream.anchored_ns == self.state.records[index].stamp_ns:
            return None
        return self.finder.measure(index, stream, gray, tracks, w_T_c)

    def rest(self, stamp_ns: int) -> bool:
        return self._adjuster.rest(stamp_ns)

    def adjust_last(self, motions: Callable[[], Motions] = Motions) -> None:
        self.deferred.settle()
        if not self.initialised:
            self._adjuster.start(None)
        if not self.initialised:
            return
        self._adjuster.place_left_out()
        for older, newer in self._near.unlinked():  # loops of places that look too different to be found by that
            self._adjuster.consider(self._loops.between(older, newer))
        self._adjuster.calibrate_last()
        self._adjuster.rebuild(last=True)
        self.deferred.settle()
        self._adjuster.adjust_last(motions)

    def exact_poses(self, frames: Sequence[LocatedFrame]) -> Sequence[Array | None]:
        return self._adjuster.exact_poses(frames)

    def finish(self, tick: Tick = no_tick, depth: bool = True) -> None:
        if not self.initialised:
            return
        self.state.strange = [self.state.records[index] for index in estranged(self.state)]
        consider_images(self.state.sparse, [(record.session, record.stamp_ns) for record in self.state.records])
        if depth:
            self._depth.finish(tick)
        self._culling.cull(everywhere=True)  # what it saw has had its say


_LAST = ("", CULL, RENUMBER)


class LandmarkDeferredWork(DeferredWork):
    """Work that a landmark map defers while live, in its order: whole-map adjustments, depth, culling, then new ids."""

    def __init__(
        self,
        state: Reconstruction,
        adjuster: MapAdjuster,
        depth: DepthSchedule,
        culling: Culling,
        numbering: Numbering,
    ) -> None:
        self._culling, self._numbering = culling, numbering
        self._state, self._adjuster, self._depth = state, adjuster, depth
        self._adjustments, self._queue = adjuster.waiting, depth.waiting

    def go_live(self, beside: bool) -> None:
        if not self._state.live:
            self._state.live, self._adjustments.beside = True, beside
            self._state.sparse.holds = _HOLDS

    @property
    def due(self) -> str:
        """Taking up a finished background adjustment goes first."""
        if self._adjustments.ready:
            return TAKE
        if self._adjustments.wanted and not self._adjustments.running:
            return BEGIN
        if self._queue.previews:
            return PREVIEW
        if self._adjustments.running and self._state.settling:
            return ""  # the adjustment in progress would make it worthless
        if self._queue.depth or self._queue.part_way:
            return DEPTH
        if self._adjustments.running:
            return ""
        if self._adjustments.at_rest:
            return BEGIN
        if not self._state.live:
            return ""
        return CULL if self._culling.due else RENUMBER if self._numbering.due else ""

    def work(self, kind: str) -> None:
        if not self._has(kind):
            raise InputError(
                f"there is no work '{kind}' to do, so this map differs from the recorded one; replay with the version "
                "and parameters of the recorded run"
            )
        if kind == TAKE:
            self._adjuster.take_up()
        elif kind == BEGIN:
            self._adjuster.begin()
        elif kind == PREVIEW:
            self._depth.preview()
        elif kind == DEPTH:
            self._depth.some_depth()
        elif kind == CULL:
            self._culling.cull()
            self._numbering.look()

    def _has(self, kind: str) -> bool:
        """Whether there is work of a kind, next or later."""
        if kind == BEGIN:
            return bool(self._adjustments.wanted or self._adjustments.at_rest)
        if kind == PREVIEW:
            return bool(self._queue.previews)
        return kind != DEPTH or bool(self._queue.depth or self._queue.part_way)

    def settle(self) -> None:
        """Do all waiting adjustments; depth, which would not fit the last ones, and culling come at the end."""
        self._adjustments.wait()
        self._queue.drop()
        while self.due not in _LAST:
            self.work(self.due)
            self._adjustments.wait()
            self._queue.drop()

    @property
    def backlog(self) -> int:
        return self._adjustments.count + self._queue.count

    @property
    def depth_backlog(self) -> tuple[int, int]:
        records, unseen = self._state.records, {index for index, _ in self._queue.previews}
        last = len(records) - 1
        done = next((k for k in range(last, -1, -1) if k not in unseen), 0)
        behind = records[last].stamp_ns - records[done].stamp_ns if unseen else 0
        return len(self._queue.without_depth), behind
