"""Adjustments of a landmark map: first poses, windows, loops and calibrations, with their order and timing."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field

import numpy as np

from dust3r_ros.geometry.processes import MOST_NICE, Aside
from dust3r_ros.mapping.camera_stream import CameraStream
from dust3r_ros.mapping.depth_schedule import DepthSchedule
from dust3r_ros.mapping.keypoint_adjustment import KeypointAdjustment
from dust3r_ros.mapping.localization import FrameFinder
from dust3r_ros.mapping.loop_adjustment import LoopAdjustment, LoopGap, WideLoop
from dust3r_ros.mapping.reconstruction import Consistency, Reconstruction
from dust3r_ros.mapping.rig_placement import RigPlacement
from dust3r_ros.mapping.rolling_shutters import RollingShutters
from dust3r_ros.mapping.self_calibration import CalibrationSchedule, Calibrator, same_place
from dust3r_ros.mapping.submap import LocatedFrame
from dust3r_ros.sparse.lens_refinement import consider_lenses
from dust3r_ros.sparse.refinement import refine
from dust3r_ros.sparse.rolling_shutter import Motions
from dust3r_ros.sparse.transplant import Adjusted, adjusted_copy, transplant
from dust3r_ros.timing import StageTimer
from dust3r_ros.tracking.exchange import Renumbering
from dust3r_ros.types import Array

# Of the whole map, in order of execution; the search is for a focal that explains the map better.
START, CALIBRATION, SEARCH, LOOP, WIDE_LOOP, REBUILD = ADJUSTMENTS = (
    "start", "calibration", "search", "loop", "wide loop", "rebuild",
)  # fmt: skip
_DROPPED = (START, REBUILD, WIDE_LOOP)  # if they are no better
_GROSS_PX = 40.0  # by which no match is off that is right, when a keyframe has been located
_ROUGHLY = 1e-3  # gain of a step at which the adjustment of a window ends: later ones continue from there
_UNSURE_NICE = 5  # with two busy cores it gets part of one, but poses have priority


@dataclass(frozen=True, eq=False)
class WholeMap:
    """An adjusted whole map, or its first poses: whether it was rebuilt, and whether its focal is ``settled``.

    ``keyframes``: how many it had; ``gaps``: how many loops were closed in it; ``merged`` (K, 2): landmarks that wide
    loops proved to be one, ``accepted``: which of the claims.
    """

    kind: str
    adjusted: Adjusted
    better: bool
    settled: bool
    keyframes: int = 0
    gaps: int = 0
    merged: np.ndarray = field(default_factory=lambda: np.zeros((0, 2), np.int64))
    accepted: tuple[int, ...] = ()


@dataclass(eq=False)
class AdjustmentQueue:
    """Adjustments of the whole map that are ``wanted``, and those wanted ``at_rest``, once nothing else waits.

    ``beside``: they run in a child process, else immediately; either way ``take`` returns the result to bring in.
    """

    beside: bool = False
    wanted: set[str] = field(default_factory=set)
    at_rest: set[str] = field(default_factory=set)
    vain: int = 0  # keyframes from which no first poses could be made, the last time
    _kind: str = ""  # of the one that has begun
    _failed: str = ""  # kind of the last one, if it failed
    _aside: Aside[WholeMap] | None = None
    _found: WholeMap | None = None

    @property
    def count(self) -> int:
        """How many wait or are in progress."""
        return len(self.wanted | self.at_rest) + self.running

    @property
    def starting(self) -> bool:
        """Whether a waiting or running adjustment may give the map its first poses."""
        return self.running or START in self.wanted

    @property
    def running(self) -> bool:
        """Whether one has begun and was not taken."""
        return self._aside is not None or self._found is not None

    @property
    def ready(self) -> bool:
        """Whether it is ready to be taken."""
        return self._found is not None or (self._aside is not None and self._aside.done)

    def want(self, kind: str, wanted: bool | None) -> None:
        """Queue an adjustment if it is wanted; None: once at rest."""
        if wanted is None:
            self.at_rest.add(kind)
        elif wanted:
            self.wanted.add(kind)

    def begin(self, adjust: Callable[[str], WholeMap], sure: bool, guessing: bool) -> str:
        """Begin the first wanted one; returns its kind. ``adjust`` makes one of a kind.

        ``guessing``: poses are not published before it is done, since there are none yet; ``sure``: they are as
        good without it.
        """
        wanted = self.wanted or self.at_rest
        self._kind = kind = next(kind for kind in ADJUSTMENTS if kind in wanted)
        self.wanted.discard(kind)
        self.at_rest.discard(kind)
        if self.beside:
            nice = 0 if kind == START or (guessing and not sure) else MOST_NICE if sure else _UNSURE_NICE
            self._aside = Aside(lambda: adjust(kind), nice)
        else:
            self._found = adjust(kind)
        return kind

    def take(self) -> WholeMap | None:
        """The result of the one that has begun, once done; None if it failed: then it begins again, but only once."""
        found = self._found if self._aside is None else self._aside.result()
        if self._aside is not None:
            failed = "" if found else self._kind
            if failed and failed not in (START, self._failed):
                self.wanted.add(failed)
            self._failed = failed
        self._aside = self._found = None
        if found is not None and found.kind == START and not found.better:
            self.vain = found.keyframes
        return found

    def wait(self) -> None:
        """Wait until the one that has begun is done."""
        if self._aside is not None:
            self._aside.wait()

    def cancel(self) -> None:
        """Cancel the one that has begun, since the map changed; it begins again later."""
        if self.running:
            self.wanted.add(self._kind if self._kind in (LOOP, WIDE_LOOP, REBUILD) else CALIBRATION)
        if self._aside is not None:
            self._aside.cancel()
        self._aside = self._found = None


class MapAdjuster:
    """Adjusts a map: offline immediately; live, whole-map adjustments wait to be begun and then to be taken up.

    Depth follows every adjustment. One class, since adjustments that wait, are made and are
    taken up exclude each other.
    """

    def __init__(
        self,
        state: Reconstruction,
        depth: DepthSchedule,
        finder: FrameFinder,
        placement: RigPlacement,
        stage: StageTimer,
    ) -> None:
        self._state, self._stage = state, stage
        self._depth, self._finder, self._placement = depth, finder, placement
        self._schedule = CalibrationSchedule(state)
        self._calibrator = Calibrator(state, self._schedule)
        self._keypoints = KeypointAdjustment(state)
        self.consistency = Consistency(state)
        self.waiting = AdjustmentQueue()
        self._loops = LoopAdjustment(state)
        self._shutters = RollingShutters(state)

    def start(self, stream: CameraStream | None) -> None:
        """Make first poses, if there are enough keyframes; live, again if those in progress fail.

        ``stream``: that of a new keyframe; None: no more come, so fewer are enough, though not live.
        """
        if not self._state.live:
            with self._stage("align"):
                begun = self._calibrator.begin_with_few() if stream is None else self._calibrator.begin(stream)
            self._state.initialised = begun
            if begun:
                self._built_anew()
        elif stream is not None and self._schedule.may_begin(stream):
            self.waiting.wanted = {START}

    def locate(self, index: int) -> None:
        """Move a posed keyframe to where its landmarks put it, if enough of them agree; prune what is far from there.

        A few dozen off by half an image would outweigh hundreds that are right, whatever the loss.
        """
        view = self._state.sparse.views[index]
        better = self._finder.better(self._state.records[index].stream, view.seen, view.w_T_c)
        if better is not None:
            view.w_T_c = better.w_T_c
            self._state.sparse.prune(index, _GROSS_PX)

    def adjust_window(self, window: Sequence[int]) -> None:
        """Adjust keyframes ``window`` to the rest of the map."""
        free = self._schedule.joining
        self._follow(lambda: self._refine(window, free), window)
        self._state.sparse.extend(window)
        if any(free[self._state.sparse.views[view].camera] for view in window):
            consider_lenses(self._state.sparse)

    def join(self, stream: CameraStream) -> None:
        """Adjust keyframes of a camera that joined to the rest of the map, once there are enough for a better focal."""
        own = self._schedule.joining_due(stream)
        if own:
            self._follow(lambda: self._calibrator.accustom(stream, own), own)

    def close_loop(self, gap: LoopGap | None = None) -> None:
        """Adjust the whole map to merged landmarks; ``gap``: of a loop within the map, if known."""
        self._loops.gaps += [gap] if gap else []
        if self._state.live:
            self.waiting.wanted.add(LOOP)
        else:
            self._follow(self._loops.close)
            self._loops.gaps.clear()
            self._state.adjusted = len(self._state.records)

    def consider(self, loops: Sequence[WideLoop]) -> None:
        """Close loops that the map contradicts, if what was seen on the way does not contradict them."""
        if not self._loops.claim(loops):
            return
        if self._state.live:
            self.waiting.wanted.add(WIDE_LOOP)
            return
        self._loops.begin()
        found = self._adjusted_copy(WIDE_LOOP)
        self._loops.tried(found.accepted)
        if found.accepted:
            self._follow(lambda: self._bring_in(found))
            self._state.generation += 1
            self._state.adjusted = len(self._state.records)

    def moved(self, scale: float) -> None:
        """The map moved, and its unit shrank by ``scale``: an adjustment in progress would arrive in the old one."""
        self.waiting.cancel()
        self._loops.scale(scale)

    def renumber(self, new: np.ndarray) -> None:
        """Keyframe k becomes ``new[k]`` (N,), or leaves if that is negative; nothing is being adjusted."""
        self.consistency.renumber(new)
        self._loops.renumber(new)

    def landmark_ids(self) -> list[np.ndarray]:
        """The ids by which landmarks are known here."""
        return self._loops.landmark_ids()

    def renumber_landmarks(self, new: Renumbering) -> None:
        """Landmarks get new ids; nothing is being adjusted."""
        self._loops.renumber_landmarks(new)

    def calibrate(self, stream: CameraStream) -> None:
        """Adjust the whole map with free focals and lenses, if there are enough keyframes to improve them."""
        wanted = self._schedule.calibration_due
        if self._state.live:
            self.waiting.want(CALIBRATION, wanted)
        elif wanted:
            self._calibrate(stream)

    def rest(self, stamp_ns: int) -> bool:
        """Adjust the whole map where it stopped growing, as of a stamp; returns whether that was done, not put off."""
        if self.waiting.running or not self._schedule.rests(stamp_ns):
            return False
        if self._state.live:
            self.waiting.want(CALIBRATION, None)
            return False
        self._calibrate(self._state.records[0].stream)
        return True

    def rebuild(self, last: bool = False) -> None:
        """Rebuild what contradicts the images, if that explains them better; ``last``: no more keyframes come."""
        if not self.consistency.rebuild_due(last):
            return
        if self._state.live and not last:
            self.waiting.wanted.add(REBUILD)
            return
        with self._stage("calibrate"):
            if self._calibrator.rebuild(self.consistency.rebuilding(last)):
                self._built_anew()

    def calibrate_last(self) -> None:
        """Calibrate, whatever the number of keyframes, if the focal is still uncertain when no more frames come.

        No focal is left out of the search.
        """
        if not self._state.sure:
            self._calibrator.try_all_again()
            self._calibrate(self._state.records[0].stream)

    def adjust_last(self, motions: Callable[[], Motions] = Motions) -> None:
        """Adjust the whole map for the last time, measured in its images; take out rolling shutters and zooms.

        ``motions`` of the cameras, as of the current map.
        """
        self._shutters.put_back(motions())
        with self._stage("refine"), self._keypoints.measured(self._state.sparse):
            self._shutters.zoom_back()
            self._follow(self._calibrator.adjust_last)
            moved = list[bool]()
            self._shutters.take_out_all(motions, lambda: self._follow(self._calibrator.adjust_last))
            self._follow(lambda: moved.append(self._calibrator.look_off_center()))
            if any(moved):
                self._shutters.take_out_all(motions, lambda: self._follow(self._calibrator.adjust_last))
            while self._shutters.take_out_zooms():
                self._follow(self._calibrator.adjust_last)
            self._depth.retake(self._shutters.retake(motions()))
            streams = {record.stream.index: record.stream for record in self._state.records}
            self._calibrator.consider_lens(*streams.values())

    def exact_poses(self, frames: Sequence[LocatedFrame]) -> list[Array | None]:
        """``w_T_c`` (4, 4) of frames, measured as keyframes were in the last adjustment; None where that fails."""
        return self._keypoints.poses(frames)

    def place_left_out(self) -> None:
        """Pose keyframes that the first poses left out, if they see enough landmarks positioned since."""
        for index in [k for k, view in enumerate(self._state.sparse.views) if view.w_T_c is None]:
            found = self._finder.locate(self._state.records[index].stream, self._state.sparse.views[index].seen)
            if found is not None:
                self._state.sparse.views[index].w_T_c = found.w_T_c
                self._state.sparse.extend([index])
                self._state.changed.add(index)
                self._depth.add_late(index)
                self._state.generation += 1

    def begin(self) -> None:
        """Begin the next adjustment of the whole map."""
        self._loops.begin()
        kind = self.waiting.begin(self._adjusted_copy, self._state.sure, self._state.guessing)
        if kind == CALIBRATION:
            self._schedule.calibrated()
        elif kind == REBUILD:
            self.consistency.rebuilding()

    def take_up(self) -> None:
        """Bring in the adjustment from the child; keyframes added since are placed in it."""
        found = self.waiting.take()
        if found is not None and found.kind == WIDE_LOOP:
            self._loops.tried(found.accepted)
        if found is None or (found.kind in _DROPPED and not (found.better or found.accepted)):
            return
        if found.kind == LOOP:
            self._loops.gaps = self._loops.gaps[found.gaps :]
        self._state.settled = self._state.settled or found.settled
        with self._stage("calibrate"):
            self._follow(lambda: self._bring_in(found))
        if found.kind == START:
            self._state.initialised = True
            self.place_left_out()
            self.waiting.wanted = set()
            self.waiting.want(CALIBRATION, self._schedule.calibration_due)
        elif found.kind == CALIBRATION:
            self.waiting.want(SEARCH, self._schedule.search_due)
        # Keyframes came meanwhile. While the focal is a guess, the first poses wait: then calibration goes before a
        # search, unless another focal is likely.
        calibrate_next = found.kind == SEARCH or (found.kind == CALIBRATION and self._state.guessing)
        if SEARCH in self.waiting.wanted and not self._state.trusted:
            self.waiting.wanted.discard(CALIBRATION)
        elif calibrate_next and self._schedule.calibration_due:
            self.waiting.wanted.add(CALIBRATION)
        self._state.generation += 1
        self._state.adjusted = found.keyframes
        if found.better:
            self._built_anew()
        elif not self.waiting.wanted:  # otherwise it will soon change again
            self._depth.revise()

    def _calibrate(self, stream: CameraStream) -> None:
        """Calibrate now; while the focal may be wrong, also try to rebuild the map from others."""
        with self._stage("calibrate"):
            self._follow(self._calibrator.adjust)
            self._state.adjusted = len(self._state.records)
            self._state.generation += 1
            if self._calibrator.improve(stream):
                self._built_anew()
            elif self._state.sure:  # while uncertain, it will soon change again
                self._depth.revise()

    def _built_anew(self) -> None:
        self._state.generation += 1
        self._loops.clear()
        self._depth.rebuild()
        self.consistency.rebuilt()

    def _adjusted_copy(self, kind: str) -> WholeMap:
        """A copy of the whole map, adjusted or with its first poses; the map is unchanged."""
        stream, better, settled = self._state.records[0].stream, False, self._state.settled
        calibrate = self._calibrator.improve if kind == SEARCH else self._calibrator.calibrate

        def adjust() -> None:
            nonlocal better
            if kind == START:
                better = self._calibrator.begin(stream)
            elif kind == LOOP:
                self._loops.close()
            else:
                stretches = self.consistency.stretches_due()
                better = self._calibrator.rebuild(stretches) if kind == REBUILD else calibrate(stream)

        with self._stage("whole_map"):
            if kind == WIDE_LOOP:
                return self._wide_loops_tried()
            adjusted = adjusted_copy(self._state.sparse, adjust)
        found = WholeMap(kind, adjusted, better, self._state.settled, len(self._state.records), len(self._loops.gaps))
        self._state.settled = settled
        return found

    def _wide_loops_tried(self) -> WholeMap:
        """A copy of the whole map with those wide loops closed that do not tear it; the map is unchanged."""
        sparse, trial = self._state.sparse, self._loops.trial()
        adjusted = Adjusted.of(trial.sparse or sparse, sparse.positioned)
        count = len(self._state.records)
        return WholeMap(
            WIDE_LOOP, adjusted, False, self._state.settled, count, merged=trial.pairs, accepted=tuple(trial.accepted)
        )

    def _bring_in(self, found: WholeMap) -> None:
        """Replace the map by the adjusted one, and locate keyframes added since in it.

        Loops say where the camera is; all else says how the map is shaped, and the camera stays where it was.
        """
        with nullcontext() if found.kind in (LOOP, WIDE_LOOP) else same_place(self._state.sparse):
            self._replace(found)

    def _replace(self, found: WholeMap) -> None:
        sparse = self._state.sparse
        sparse.merge(found.merged[:, 0], found.merged[:, 1])
        later, bent = transplant(sparse, found.adjusted)
        guesses = [sparse.views[index].w_T_c for index in later]
        for index in later:
            sparse.views[index].w_T_c = None
        for index, guess in zip(later, guesses, strict=True):
            sparse.views[index].w_T_c = guess
            self.locate(index)
            if bent:
                sparse.extend([index])  # for the next one, from the poses that are right by now
        if later:
            self._refine(later)
            sparse.extend(later)

    def _refine(self, keyframes: Sequence[int], free_focal: bool | np.ndarray = False) -> None:
        """Adjust some keyframes, ``sharp``: matches off by a pixel would bend new ground with a single wall."""
        refine(
            self._state.sparse, keyframes, free_focal=free_focal, rounds=1, iterations=6, sharp=True, tolerance=_ROUGHLY
        )

    def _follow(self, adjust: Callable[[], object], views: Sequence[int] | None = None) -> None:
        """Run an adjustment of ``views`` (None: all); depth follows the landmarks, moved keyframes are marked."""
        chosen = self._state.sparse.posed() if views is None else sorted({*views, *self._placement.views()})
        self._state.changed |= self._depth.dense.following((adjust, self._placement.anchor), chosen)
        self.consistency.renew(views)
