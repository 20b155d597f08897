"""Where a map's unit of length, up direction and place come from: odometry, gravity, depth, a rig, commands.

Evidence is collected from frames; how the map must move to agree with it is estimated.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from dust3r_ros.errors import ConfigError
from dust3r_ros.geometry.similarity import Similarity
from dust3r_ros.types import Array, Array32, Camera, Frame, Image, Keyframe, MapUpdate, StampedPose
from dust3r_ros.world.depth_scale import (
    DepthRatio,
    DepthSamples,
    depth_ratio,
    depth_samples,
    depth_scale,
    network_ratio,
)
from dust3r_ros.world.evidence import Baseline, CombinedScale, ScaleEvidence, ScaleState, combine, rig_scale
from dust3r_ros.world.odometry_scale import odometry_scale, steps
from dust3r_ros.world.placement import Matched, Placement, RobotLog, place

__all__ = ["ScaleEvidence", "ScaleState", "WorldAligner", "WorldEstimate"]

_ANCHORS = 64  # most keyframes, spread over the map
_FEWEST = 2
_BENT_STD = 0.02  # relative change of distances by refinements, apart from a common factor


class UnitMemory:
    """The map's current keyframes, and where some of them were when its unit was the metre.

    It gives the scale of a map that was loaded or has lost its odometry, but not of another map that the camera
    is in, of which it knows no keyframe.
    """

    def __init__(self) -> None:
        self._present: dict[int, Array] = {}  # positions by keyframe
        self._anchors: dict[int, Array] = {}
        self._std, self._commanded = math.inf, False

    @property
    def relative_std(self) -> float:
        """Standard deviation of the unit as remembered, since when the map may have bent; infinite if never known."""
        return math.hypot(self._std, _BENT_STD)

    def hear(self, changed: Iterable[Keyframe], removed: Iterable[int] = ()) -> None:
        """Update the keyframes: new or moved ones, and removed ones."""
        removed = set(removed)
        if removed & self._anchors.keys():
            left, known = self._present.keys() - removed, self.evidence()
            few = 2 * len(left & self._anchors.keys()) < len(self._anchors)
            if few and known is not None and 2 * len(left) > len(removed):  # where nearly all leave, it is another map
                self._anchor(left, known.scale)
        for index in removed:
            self._present.pop(index, None)
        for keyframe in changed:
            self._present[keyframe.index] = keyframe.w_T_c[:3, 3]

    def keep(self, relative_std: float, commanded: bool = False) -> None:
        """Remember that the map's unit is now the metre, known to ``relative_std`` or, exactly, by a command."""
        self._anchor(self._present, 1.0)
        self._std, self._commanded = relative_std, commanded

    def _anchor(self, keyframes: Collection[int], unit: float) -> None:
        """Remember a unit of so many metres by where some of the ``keyframes`` are."""
        spread = sorted(keyframes)[:: max(1, math.ceil(len(keyframes) / _ANCHORS))]
        self._anchors = {index: unit * self._present[index] for index in spread}

    def forget(self) -> None:
        """Forget the unit, not the keyframes."""
        self._anchors, self._std, self._commanded = {}, math.inf, False

    @property
    def gone(self) -> bool:
        """Whether none of the keyframes is here by which the unit is remembered: the camera is in another map."""
        return bool(self._anchors) and not self._anchors.keys() & self._present.keys()

    def evidence(self) -> ScaleEvidence | None:
        """Metres per current map unit; None if the unit was never known, or not for this map."""
        common = self._anchors.keys() & self._present.keys()
        if not math.isfinite(self._std) or len(common) < _FEWEST:
            return None
        then, now = (_spread(positions, sorted(common)) for positions in (self._anchors, self._present))
        if not (then > 0 and now > 0):
            return None
        if self._commanded:
            return ScaleEvidence("command", then / now, 0.0)
        return ScaleEvidence("memory", then / now, self.relative_std)


def _spread(positions: Mapping[int, Array], indices: list[int]) -> float:
    """The median distance between keyframes, each to the one half a list away."""
    at = np.array([positions[index] for index in indices])
    return float(np.median(np.linalg.norm(at - np.roll(at, len(at) // 2, axis=0), axis=1)))


_METRIC_STD = 0.04  # relative
_STILL_METRIC = 2.0  # times as much: a metric map stays metric until it is less certain than this
_CONVERGING_STD = 0.5
_MOST_KEYFRAMES = 2000  # whose measured depth is kept: a few kilobytes each
# Errors worth moving a map for.
_OFF, _OFF_STD = 0.01, 2.0  # relative error of its unit, and in standard deviations
_OFF_AT_LAST = 0.001
_TILTED_DEG, _TURNED_DEG, _SURE = 1.0, 3.0, 3.0
_SHIFTED, _SHIFTED_PART = 0.1, 0.05  # metres, and of the extent driven


@dataclass(frozen=True, eq=False)
class WorldEstimate:
    """How a map should be scaled, rotated and moved.

    ``new_S_old`` moves it there: metres where the scale is known, else its own unit; z up, as far as gravity or
    odometry show it; in the odometry's frame, if there is one. ``scale``: metres per current map unit, 1 while
    unknown, with the relative standard deviation ``relative_std``. ``tilt_deg``: the tilt of the map's z, known to
    ``tilt_std_deg``. ``contradictions``: which sources disagree, in words. ``needed``: whether the change is worth
    a new version of the whole map. ``was_metric``: whether the map was moved to metres before.
    """

    new_S_old: Similarity
    scale: float
    relative_std: float
    state: ScaleState
    sources: tuple[ScaleEvidence, ...]
    tilt_deg: float
    tilt_std_deg: float
    contradictions: tuple[str, ...]
    needed: bool
    was_metric: bool = False

    @property
    def unmoved(self) -> WorldEstimate:
        """The estimate for a map that stays as it is: in metres only if it was before, however well they are known."""
        early = self.state is ScaleState.METRIC and not self.was_metric
        return replace(self, state=ScaleState.CONVERGING) if early else self

    @property
    def roughly(self) -> float:
        """Metres per map unit as long as they are known too little for a map in metres; 0 before and after."""
        return self.scale if self.state is ScaleState.CONVERGING else 0.0

    @property
    def unit(self) -> tuple[float, float] | None:
        """Metres per unit of a map that has been moved as it says, with the relative deviation; None if unknown."""
        metres = 1.0 if self.state is ScaleState.METRIC else self.roughly
        return (metres, self.relative_std) if metres else None

    @classmethod
    def unknown(cls) -> WorldEstimate:
        """The estimate before any evidence."""
        return cls(Similarity.identity(), 1.0, math.inf, ScaleState.UNKNOWN, (), 0.0, math.inf, (), False)


class WorldAligner:
    """Compares odometry, gravity, measured depth, a rig and commands with the current map.

    Deterministic, without a clock; memory and time are bounded, however long the run. ``metric_depth`` gives the depth
    (H, W), metres, that a network sees in a keyframe's image of a focal, pixels; None where it does not know.
    """

    def __init__(self, metric_depth: Callable[[Image, float], Array32 | None] | None = None) -> None:
        self._log, self._metric_depth = RobotLog(), metric_depth
        self._samples: dict[int, DepthSamples] = {}
        self._stride = 1  # for keyframes whose samples are kept
        self._ratios: dict[int, DepthRatio] = {}  # from the current keyframes
        self._network_ratios: dict[int, DepthRatio] = {}
        self._memory = UnitMemory()
        self._command: float | None = None  # until it is obeyed; then the memory has it
        self._anchored = False  # whether its origin and heading are fixed, whatever odometry says

    @property
    def frames(self) -> Collection[tuple[int, str]]:
        """(stamp, camera) of the frames whose pose an estimate needs; a trajectory may hold others too."""
        return self._log.frames

    @property
    def depth_in_vain(self) -> bool:
        """Whether depth was measured, but the map has none there to compare it with."""
        return bool(self._samples) and not self._ratios

    def observe(self, frame: Frame) -> None:
        """Take odometry and gravity of a frame."""
        self._log.add(frame)

    def observe_keyframe(self, index: int, frame: Frame) -> None:
        """Take measured depth or points of a frame that became keyframe ``index``; of every n-th if there are many."""
        samples = None if index % self._stride else depth_samples(frame)
        if samples is None:
            return
        self._samples[index] = samples
        if len(self._samples) > _MOST_KEYFRAMES:
            self._stride *= 2
            self._samples = {at: kept for at, kept in self._samples.items() if at % self._stride == 0}
            self._ratios = {at: ratio for at, ratio in self._ratios.items() if at in self._samples}

    def hear(self, update: MapUpdate) -> None:
        """Follow a change of the map: call with every update, after ``observe_keyframe``."""
        self._memory.hear(update.changed, update.removed)
        if self._memory.gone:
            self._command = None  # of another map
        for index in update.removed:
            self._ratios.pop(index, None)
            self._network_ratios.pop(index, None)
        for keyframe in update.changed:
            camera = update.cameras.get(keyframe.camera)
            for ratios, ratio in ((self._ratios, self._measured), (self._network_ratios, self._by_network)):
                found = None if camera is None else ratio(keyframe, camera)
                if found is not None:
                    ratios[keyframe.index] = found
                else:
                    ratios.pop(keyframe.index, None)

    def _measured(self, keyframe: Keyframe, camera: Camera) -> DepthRatio | None:
        samples = self._samples.get(keyframe.index)
        return None if samples is None else depth_ratio(samples, keyframe, camera)

    def _by_network(self, keyframe: Keyframe, camera: Camera) -> DepthRatio | None:
        metres = None if self._metric_depth is None else self._metric_depth(keyframe.image, keyframe.focal)
        return None if metres is None else network_ratio(metres, keyframe, camera)

    def command(self, factor: float) -> None:
        """Set the scale by command: ``factor`` metres are one current map unit. Raises ``ConfigError``."""
        if not (math.isfinite(factor) and factor > 0):
            raise ConfigError(f"the scale is {factor} metres per map unit; it must be positive and finite")
        if self._memory.gone:
            self._memory.forget()  # the command is about this map
        self._command = float(factor)

    def moved(self, estimate: WorldEstimate, update: MapUpdate) -> WorldEstimate:
        """Note that ``estimate`` moved the map to the version ``update``; returns the estimate from then on."""
        factor = estimate.new_S_old.scale
        if self._command is not None:
            self._command /= factor
        self._ratios.clear()
        self._network_ratios.clear()
        self.hear(update)
        if estimate.state is ScaleState.METRIC:
            self._memory.keep(estimate.relative_std, any(e.source == "command" for e in estimate.sources))
            if self._memory.evidence() is not None:  # else there are too few keyframes to remember it by
                self._command = None
        scale, identity = estimate.scale / factor, Similarity.identity()
        return replace(estimate, new_S_old=identity, scale=scale, tilt_deg=0.0, needed=False)

    def forget_frames(self) -> None:
        """Stamps start again: frames from here on are new ones, even if their stamps repeat."""
        self._log = RobotLog()

    def state(self) -> dict[str, Any]:
        """The state to save with a map, as JSON values."""
        known = self._memory.evidence()
        std = None if known is None else self._memory.relative_std
        commanded = known is not None and known.source == "command"
        return {"metric": known is not None, "relative_std": std, "commanded": commanded}

    def resume(self, state: Mapping[str, Any], keyframes: Iterable[Keyframe]) -> None:
        """Continue a saved map with all its ``keyframes``: its origin, heading and a metric unit stay."""
        self._memory.hear(keyframes)
        self._anchored = True
        if state.get("metric") is True:
            std = state.get("relative_std")
            known = isinstance(std, (int, float)) and 0.0 <= std < math.inf
            std = float(std) if known else _METRIC_STD  # type: ignore[arg-type]
            self._memory.keep(std, commanded=state.get("commanded") is True)

    def estimate(
        self,
        trajectory: Sequence[StampedPose],
        baselines: Sequence[tuple[float, float, float]] = (),
        *,
        last: bool = False,
    ) -> WorldEstimate:
        """How the map with this ``trajectory`` must be moved.

        ``baselines`` of a rig: (metres, map units, relative standard deviation). ``last``: the map is complete, so
        smaller errors are worth a new version of it.
        """
        frames = self._log.match(trajectory)
        memory = self._memory.evidence()  # only for a map that was moved to metres
        found = self._scale(frames, baselines, memory)
        state = _state(found, memory is not None)
        placed = place(frames, found.scale if state is ScaleState.METRIC else 1.0, self._anchored)
        contradictions = [*found.reasons, *([placed.doubt] if placed.doubt else [])]
        if self._log.refused:
            contradictions.append(
                f"{self._log.refused} frames had invalid odometry or gravity; they must be a pose and a direction"
            )
        return WorldEstimate(
            placed.new_S_old,
            found.scale,
            found.relative_std,
            state,
            found.sources,
            placed.tilt_deg,
            placed.tilt_std_deg,
            tuple(contradictions),
            self._unit_is_off(found, state, memory is not None, last) or _lies_wrong(placed, state, frames),
            memory is not None,
        )

    def _scale(
        self, frames: Matched, baselines: Sequence[tuple[float, float, float]], memory: ScaleEvidence | None
    ) -> CombinedScale:
        evidence = [
            self._by_odometry(frames),
            depth_scale(self._ratios),
            rig_scale([Baseline(*b) for b in baselines]),
            depth_scale(self._network_ratios, "network"),
        ]
        if self._command is not None:
            evidence.append(ScaleEvidence("command", self._command, 0.0))
        found = combine([e for e in evidence if e is not None])
        # The old scale came from the same sources: it counts only if they have become worse. A new command replaces it
        if memory is not None and self._command is None and memory.relative_std < found.relative_std:
            found = combine([*found.sources, memory])
        return found

    def _by_odometry(self, frames: Matched) -> ScaleEvidence | None:
        """From the camera with most frames: the others of a robot share the errors of its odometry."""
        driven = np.isfinite(frames.o_T_c[:, 0, 0])
        if np.count_nonzero(driven) < 2:
            return None
        chosen = driven & (frames.camera == np.argmax(np.bincount(frames.camera[driven])))
        return odometry_scale(steps(frames.w_T_c[chosen], frames.o_T_c[chosen]))

    def _unit_is_off(self, found: CombinedScale, state: ScaleState, before: bool, last: bool) -> bool:
        """Whether the map's unit should change; ``before``: it was moved to metres before."""
        if state is not ScaleState.METRIC:
            return False
        limit = _OFF_AT_LAST if last else max(_OFF_STD * found.relative_std, _OFF)
        return not before or self._command is not None or abs(math.log(found.scale)) > limit


def _state(found: CombinedScale, before: bool) -> ScaleState:
    if found.relative_std <= _METRIC_STD * (_STILL_METRIC if before else 1.0):
        return ScaleState.METRIC
    return ScaleState.CONVERGING if found.relative_std <= _CONVERGING_STD else ScaleState.UNKNOWN


def _lies_wrong(placed: Placement, state: ScaleState, frames: Matched) -> bool:
    if placed.tilt_deg > max(_TILTED_DEG, _SURE * placed.tilt_std_deg):
        return True
    if placed.heading_deg > max(_TURNED_DEG, _SURE * placed.heading_std_deg):
        return True
    driven = frames.o_T_c[np.isfinite(frames.o_T_c[:, 0, 0]), :3, 3]
    extent = float(np.linalg.norm(np.ptp(driven, axis=0))) if len(driven) else 0.0
    return state is ScaleState.METRIC and placed.shift > max(_SHIFTED, _SHIFTED_PART * extent)
