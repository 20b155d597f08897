"""The map under construction: keyframes, their landmarks, pairs and depth."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np

from dust3r_ros.backends.base import Backend
from dust3r_ros.cloud.cloud import Cloud
from dust3r_ros.config import MapperConfig
from dust3r_ros.features.place_recognition import Appearance
from dust3r_ros.geometry.rigid import pose
from dust3r_ros.geometry.similarity import Similarity
from dust3r_ros.mapping.association import Linker
from dust3r_ros.mapping.camera_stream import CameraStream, KeyframeRecord
from dust3r_ros.mapping.chores import BEGIN, CALIBRATION, DEPTH, LOOP, PREVIEW, SEARCH, START, TAKE, Chores, WholeMap
from dust3r_ros.mapping.covisibility import Neighbourhood
from dust3r_ros.mapping.densifier import Densifier
from dust3r_ros.mapping.keyframes import KeyframeBook, landmark_cloud
from dust3r_ros.mapping.localization import FrameFinder
from dust3r_ros.mapping.loop_closing import LoopClosing
from dust3r_ros.mapping.moving_removal import Movers
from dust3r_ros.mapping.reconstruction import Reconstruction
from dust3r_ros.mapping.rig_placement import FocalVotes, RigPlacement
from dust3r_ros.mapping.saving import LandmarkSaving
from dust3r_ros.mapping.self_calibration import Calibrator
from dust3r_ros.mapping.state import SubmapState
from dust3r_ros.sparse.refinement import refine
from dust3r_ros.sparse.transplant import adjusted_copy, transplant
from dust3r_ros.timing import StageTimer
from dust3r_ros.tracking import Tracks, no_tracks
from dust3r_ros.tracking.front_end import YOUNG
from dust3r_ros.types import Array, Image, Keyframe

_MAX_FIRST_KEYFRAMES = 8
_PREVIEW_PAIRS = 2  # of a first look at depth, unless others wait for theirs
_RENEWED = 30  # keyframes up to which depth follows calibrations at once: of more it would take seconds


class MapBuilder(KeyframeBook):
    """Adds keyframes, keeps poses, focals, landmarks and depth consistent with each other; see ``Submap``."""

    placement: RigPlacement

    def __init__(
        self, config: MapperConfig, backend: Backend, stage: StageTimer, appearance: Appearance | None = None
    ) -> None:
        """``appearance`` is common to maps that are to be joined."""
        super().__init__(Reconstruction(config))
        self._config, self._stage = config, stage
        self._appearance = appearance or Appearance()
        self._links = Linker(self.state)
        self._loops = LoopClosing(self.state, self._links)
        self._near = Neighbourhood(self.state)
        self._calibrator = Calibrator(self.state)
        self._dense = Densifier(self.state, backend, stage)
        self.movers = Movers(self.state, self._dense)
        self.saving = LandmarkSaving(self.state, self._dense)
        focal_votes = FocalVotes(self.state)
        self.placement = RigPlacement(self.state, focal_votes)
        self.finder = FrameFinder(self.state, self._links, self._near, focal_votes, self._appearance)
        self._broken = False

    @property
    def initialised(self) -> bool:
        return self.state.initialised

    @property
    def young(self) -> bool:
        return len(self.state.records) < YOUNG

    def pose(self, index: int) -> Array | None:
        return self.state.sparse.views[index].w_T_c

    def posed(self) -> list[int]:
        return self.state.sparse.posed()

    def unit(self, index: int) -> float:
        return self.state.sparse.median_depth(index)

    @property
    def regions(self) -> int:
        return self.movers.count

    def keyframe(self, index: int) -> Keyframe:
        record, view = self.state.records[index], self.state.sparse.views[index]
        assert view.w_T_c is not None, f"keyframe {index} has no pose yet"
        shape = record.image.shape[:2]
        depth, confidence = self._dense.depths[index].shown or (np.zeros(shape, np.float32), np.ones(shape, np.float32))
        focal = record.stream.focal_to_working(self.state.sparse.intrinsics[view.camera].focal)
        stream, image = record.stream.name, self._dense.views.image(index)
        return Keyframe(index, record.version, record.stamp_ns, stream, view.w_T_c, focal, image, depth, confidence)

    def landmarks(self) -> Cloud:
        return landmark_cloud(self.state.sparse, self.state.records)

    def move(self, new_S_old: Similarity) -> None:
        self.state.sparse.move(pose(new_S_old.rotation, new_S_old.translation), new_S_old.scale)
        self._dense.depths.rescale_all(new_S_old.scale)
        if self.chores is not None:
            self.chores.cancel()  # it would come in coordinates that were
        self.mark_all()

    def restore(self, state: SubmapState, streams: Mapping[str, CameraStream]) -> None:
        super().restore(state, streams)
        self.state.initialised = bool(state.facts["initialised"])

    def shared_landmarks(self, other: MapBuilder, index: int) -> np.ndarray:
        return self._loops.shared(other.state, index)

    def absorb(self, other: MapBuilder, matches: np.ndarray, witness: np.ndarray) -> tuple[int, np.ndarray] | None:
        fit = self._loops.fit(other.state, matches, witness)
        if fit is None:
            return None
        for builder in (self, other):
            if builder.chores is not None:
                builder.chores.cancel()
        merged = self.state.absorb(other.state, fit.target_S_source, matches[fit.agree])
        self._links.absorb(other._links, merged.first_view, merged.ids)
        self._dense.take_over(other._dense, merged.first_view, fit.target_S_source.scale)
        if self.chores is not None and other.chores is not None:
            first = merged.first_view
            waited = other.chores.drop_depth()
            self.chores.want_depth([(first + at, [first + near for near in others]) for at, others in waited])
        self._close_loop()
        self.generation += 1
        self.mark_all()
        return merged.first_view, self.state.sparse.resolved_ids(merged.ids)

    def positions(self, ids: np.ndarray) -> Array:
        return self.state.sparse.points[self.state.sparse.resolved_ids(ids)]

    def add(
        self, stamp_ns: int, stream: CameraStream, image: Image, gray: Image, tracks: Tracks, w_T_c: Array | None
    ) -> int:
        """A new keyframe seen at ``w_T_c``, or one of the first whose poses nobody knows yet."""
        index = self.state.sparse.add(stream.index, no_tracks(), w_T_c)
        features = stream.features(gray)
        ids = self.state.sparse.new_ids(len(features.pixels))
        self.state.records.append(KeyframeRecord(stamp_ns, stream, image, features, ids, masked=stream.masked))
        self.state.sparse.observe(index, Tracks(ids, features.pixels))
        global_descriptor = self._appearance.describe(features)
        near = self._near.neighbours(index)
        loop_candidates = self.graph.loop_candidates(global_descriptor, index, [*self._near.recent(index), *near])
        self.graph.add(global_descriptor, near)
        with self._stage("match"):
            links = self._links.connect(index, gray, tracks, near)
        self._links.follow_from(index)
        if not self.initialised:
            seen = len(self.state.sparse.views[index].seen.ids) if index == 0 else links + len(tracks.ids)
            self._broken = seen < self._config.track_min_inliers
            if self.chores is None:
                with self._stage("align"):
                    self.state.initialised = self._calibrator.begin(stream)
                if self.initialised:
                    self._rebuilt()
            elif self._calibrator.may_begin(stream):
                self.chores.whole_map = {START}  # once more with this keyframe, should the one under way fail
        else:
            self._extend(index, stream, near, loop_candidates)
        return index

    def finish(self) -> None:
        """The last adjustment over everything, and depth once more with the poses it gives."""
        self.settle()
        if not self.initialised:
            return
        self._catch_up()
        if not self.state.sure:
            with self._stage("calibrate"):
                self._calibrate(self.state.records[0].stream)
        self.settle()  # built anew, it needs depth
        with self._stage("refine"):
            self._adjusted(self._calibrator.adjust_last)
            for stream in {record.stream.index: record.stream for record in self.state.records}.values():
                self._calibrator.consider_lens(stream)
        self._changed |= self._dense.renew()
        with self._stage("moving"):
            self._changed |= self.movers.look_again()

    # Live: what may wait

    def go_live(self, beside: bool) -> None:
        self.chores = self.chores or Chores(beside)
        self.state.live = True

    @property
    def due(self) -> str:
        """Which of the things that wait comes next, "" where none does: to ``take`` what was done beside goes first."""
        if self.chores is None:
            return ""
        if self.chores.ready:
            return TAKE
        if self.chores.whole_map and not self.chores.running:
            return BEGIN
        if self.chores.previews:
            return PREVIEW
        if self.chores.running and self.settling:
            return ""  # what is under way would make it worthless
        if self.chores.depth or self.chores.part_way:
            return DEPTH
        return BEGIN if self.chores.at_rest and not self.chores.running else ""

    def work(self, kind: str) -> None:
        """Do one of the things that wait, as ``due`` names them."""
        assert self.chores is not None, "nothing waits in a map that is not live"
        if kind == TAKE:
            self.chores.wait()
            self._take_up()
        elif kind == BEGIN:
            if self.chores.begin(self._adjusted_copy, self.state.sure, self.guessing) == CALIBRATION:
                self._calibrator.calibrated_with = len(self.state.records)
        elif kind == PREVIEW:
            index, others = self.chores.next_preview(self._dense.previewed)
            self._changed |= self._dense.preview(index, others, 1 if self.chores.previews else _PREVIEW_PAIRS)
        elif kind == DEPTH:
            self.chores.some_depth(self._densify_in_parts)

    def settle(self) -> None:
        """Do all that waits."""
        if self.chores is None:
            return
        self.chores.wait()
        while self.due:
            self.chores.previews.clear()  # depth itself follows at once
            if self.due:
                self.work(self.due)
            self.chores.wait()

    def _adjusted_copy(self, kind: str) -> WholeMap:
        """The whole map adjusted, or with its first poses; it stays as it is."""
        stream, better, settled = self.state.records[0].stream, False, self.state.settled

        def adjust() -> None:
            nonlocal better
            if kind == START:
                better = self._calibrator.begin(stream)
            elif kind == LOOP:
                self._loops.adjust()
            else:
                with self._calibrator.same_scale():
                    better = (self._calibrator.improve if kind == SEARCH else self._calibrator.calibrate)(stream)

        with self._stage("whole_map"):
            adjusted = adjusted_copy(self.state.sparse, adjust)
        found = WholeMap(kind, adjusted, better, self.state.settled)
        self.state.settled = settled
        return found

    def _take_up(self) -> None:
        """Bring in what was adjusted beside; keyframes that came since find their place in it."""
        assert self.chores is not None
        found = self.chores.take()
        if found is None or (found.kind == START and not found.better):
            return
        self.state.settled = self.state.settled or found.settled
        with self._stage("calibrate"):
            self._adjusted(lambda: self._bring_in(found))
        if found.kind == START:
            self.state.initialised = True
            self._catch_up()
            self.chores.whole_map = set()
            self.chores.want(CALIBRATION, self._calibrator.wanted)
        elif found.kind == CALIBRATION:
            self.chores.want(SEARCH, self._calibrator.search_wanted)
        self.generation += 1
        if found.better:
            self._rebuilt()
        elif not self.chores.whole_map and len(self.state.records) <= _RENEWED:  # else it will change again soon
            self.chores.want_depth(self._stale_depth())

    def _stale_depth(self) -> list[tuple[int, list[int]]]:
        """Keyframes whose depth does not fit the map any more and is gone, and their neighbours."""
        stale = self._dense.stale()
        self._changed |= stale
        return [(k, self._near.neighbours(k)) for k in stale]

    def _bring_in(self, found: WholeMap) -> None:
        """The map as it was adjusted; keyframes that came since are located in it."""
        later = transplant(self.state.sparse, found.adjusted)
        for index in later:
            view = self.state.sparse.views[index]
            better = self.finder.locate(self.state.records[index].stream, view.seen, view.w_T_c)
            if better is not None:
                view.w_T_c = better.w_T_c
        if later:
            self._refined(later)
            self.state.sparse.extend(later)

    def _refined(self, keyframes: list[int], free_focal: bool | np.ndarray = False) -> None:
        """Some are adjusted in a few steps: matches that are off by a pixel would bend new ground that is one wall."""
        refine(self.state.sparse, keyframes, free_focal=free_focal, rounds=1, iterations=6, sharp=True)

    def _densify(self, index: int, others: Sequence[int]) -> None:
        """Depth of a keyframe, and what moves in it."""
        for _ in self._densify_in_parts(index, others, self._config.depth_pairs):
            pass

    def _densify_in_parts(self, index: int, others: Sequence[int], pairs: int = 1) -> Iterator[None]:
        """The same, so many pairs at once; the map may change in between, and hears of the depth at the end."""
        changed: set[int] = set()
        if self.state.sparse.views[index].w_T_c is None:
            return
        for part in self._dense.densify_in_parts(index, others, pairs):
            changed |= part
            yield
        with self._stage("moving"):
            changed |= self.movers.look(index, sure=not self.settling)
        self._changed |= changed | self._dense.leave(index)

    def _depth(self, index: int, others: Sequence[int]) -> None:
        """Depth of a keyframe, now or when there is time for it."""
        if self.chores is None:
            self._densify(index, others)
            return
        self._dense.connect(index, others)
        if self._config.dense:
            self.chores.want_depth([(index, list(others))])

    def _rebuilt(self) -> None:
        """Every pose is new: so is depth."""
        self.generation += 1
        self.movers.forget()
        for index in range(len(self.state.records)):
            self._dense.depths.clear(index)
        if self.chores is not None:
            self.chores.drop_depth()
        for index in self.posed():
            if self.chores is None:
                self._dense.densify(index, self._near.neighbours(index))
            else:
                self._depth(index, self._near.neighbours(index))
        self._changed.update(self.posed())

    def _catch_up(self) -> None:
        """Pose keyframes that the first poses left out, if they see enough of what was placed since."""
        for index in [k for k, view in enumerate(self.state.sparse.views) if view.w_T_c is None]:
            found = self.finder.locate(self.state.records[index].stream, self.state.sparse.views[index].seen)
            if found is not None:
                self.state.sparse.views[index].w_T_c = found.w_T_c
                self.state.sparse.extend([index])
                self._changed.add(index)
                if self.chores is None:
                    self._changed |= self._dense.densify(index, self._near.neighbours(index))
                else:
                    self._depth(index, self._near.neighbours(index))
                self.generation += 1

    def accepts(self, stream: CameraStream) -> bool:
        """Whether a camera's frames may become keyframes now: those of one camera, once that is sure those of all."""
        founder = all(record.stream is stream for record in self.state.records[:1])
        return founder or (self.initialised and self.state.sure)

    @property
    def settling(self) -> bool:
        """True while the focal may still change by more than a little."""
        return len(self.state.records) <= YOUNG or (self.initialised and not self.state.sure)

    @property
    def stuck(self) -> bool:
        """True when nothing can be built from the first keyframes: they are many, or the last sees nothing shared."""
        if self.initialised or (self.chores is not None and self.chores.starting):
            return False
        return self._broken or len(self.state.records) >= _MAX_FIRST_KEYFRAMES

    def _extend(self, index: int, stream: CameraStream, near: list[int], loop_candidates: list[int]) -> None:
        view = self.state.sparse.views[index]
        with self._stage("match"):
            closed = self._loops.link(index, loop_candidates)
        better = self.finder.locate(stream, view.seen, view.w_T_c)
        if better is not None:
            view.w_T_c = better.w_T_c
        with self._stage("refine"):
            recent = self._near.window(index, self._config.window)
            window = [view for view in self.posed()[1:] if view in recent]
            self.state.sparse.extend(window)
            if self._loops.gapes(index, closed):
                self._close_loop()
            free = self._calibrator.joining
            self._adjusted(lambda: self._refined(window, free_focal=free), window)
            self.state.sparse.extend(window)
            own = self._calibrator.due(stream)
            if own:
                self._adjusted(lambda: self._calibrator.accustom(stream, own), own)
        wanted = self._calibrator.wanted
        if self.chores is not None:
            self.chores.want(CALIBRATION, wanted)
        elif wanted:
            with self._stage("calibrate"):
                self._calibrate(stream)
        self._catch_up()
        self._changed.add(index)
        self._depth(index, [*near, *closed])

    def _close_loop(self) -> None:
        """Whole map to what was linked, now or beside."""
        if self.chores is None:
            self._adjusted(self._loops.adjust)
        else:
            self.chores.whole_map.add(LOOP)

    def _calibrate(self, stream: CameraStream) -> None:
        """Whole map with free focals and lenses; while the focal may be wrong, also built anew from others.

        Depth of a small map follows; that of a large one does in the end.
        """
        self._adjusted(self._calibrator.adjust)
        self.generation += 1
        if self._calibrator.improve(stream):
            self._rebuilt()
        elif self.state.sure and len(self.state.records) <= _RENEWED:  # unsure, it will change again soon
            self._changed |= self._dense.renew(last=False)

    def _adjusted(self, adjust: Callable[[], object], views: Sequence[int] | None = None) -> None:
        """Run an adjustment of ``views`` (all); depth follows the landmarks, moved keyframes are marked."""
        chosen = self.state.sparse.posed() if views is None else sorted({*views, *self.placement.views()})
        self._changed |= self._dense.following((adjust, self.placement.anchor), chosen)
