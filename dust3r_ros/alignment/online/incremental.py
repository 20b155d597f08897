"""Global alignment as keyframes arrive: a new one changes only a window, a loop the whole graph of stored moments.

The cost of a keyframe does not depend on how many there are: its edges are weighted on sampled
pixels, and the poses of the last few keyframes are solved with all older ones fixed. An edge that leaves
the window keeps its 28 numbers. When a loop moves the map, all poses are solved from those alone.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from dust3r_ros.alignment.moments import inverse, scale_of
from dust3r_ros.alignment.online.growing_map import GrowingMap, KeyframeShape
from dust3r_ros.alignment.online.keyframe_bundle import AlignmentUpdate, KeyframeUpdate, ReportedPoses
from dust3r_ros.alignment.online.keyframe_start import FocalPool, rigid
from dust3r_ros.alignment.online.loop_verification import LoopVerification
from dust3r_ros.errors import GeometryError
from dust3r_ros.geometry.rigid import BODY_T_OPTICAL
from dust3r_ros.types import Array, Array32, PairPrediction


class IncrementalAligner:
    """Poses, scales, focals and depth of keyframes from the predictions of their pairs, one keyframe at a time."""

    def __init__(self, window: int = 8) -> None:
        """``window`` keyframes are refined together; the first of all is level and looks along x."""
        self._window = window
        self.map = GrowingMap(BODY_T_OPTICAL)
        self._loops = LoopVerification(self.map)
        self._reported = ReportedPoses()
        self._settled = 0  # keyframes before this one have left the window

    def __len__(self) -> int:
        return len(self.map)

    @property
    def poses(self) -> Array:
        """(K, 4, 4) ``w_T_c``."""
        return rigid(self.map.similarities)

    def pose(self, index: int) -> Array:
        """``w_T_c`` (4, 4) of a keyframe."""
        return rigid(self.map.similarities[index : index + 1])[0]

    def scale(self, index: int) -> float:
        """Map units per canonical unit of a keyframe."""
        return float(scale_of(self.map.similarities[index]))

    @property
    def nbytes(self) -> int:
        """Bytes held in arrays."""
        return self.map.nbytes + self._reported.nbytes

    def focal(self, camera: str) -> tuple[float, float]:
        """(focal, standard deviation) of a camera, pixels of its pointmaps."""
        view = next((view for view in self.map.views if view.camera == camera), None)
        if view is None:
            raise GeometryError(f"camera '{camera}' has no keyframe; cameras with keyframes: {sorted(self.map.pools)}")
        return self.map.pools[camera].value(view.height, view.width)

    def set_focal(self, camera: str, focal: float, std: float = 0.0) -> None:
        """Set a known focal, pixels of the camera's pointmaps, before its first keyframe.

        ``std``: relative standard deviation; 0 holds the focal fixed.
        """
        if any(view.camera == camera for view in self.map.views):
            raise GeometryError(f"camera '{camera}' already has keyframes; its focal must be set before the first")
        if not (np.isfinite(focal) and focal > 0):
            raise GeometryError(f"camera '{camera}' has focal {focal}; it must be positive and finite")
        self.map.pools[camera] = FocalPool(float(focal), float(std))

    def depth(self, index: int) -> tuple[Array32, Array32] | None:
        """Current canonical (depth, confidence), each (H, W), of a keyframe; None once settled or unknown."""
        return self.map.depth.whole(index)

    def add(
        self,
        camera: str,
        height: int,
        width: int,
        pairs: Sequence[PairPrediction],
        loops: Sequence[PairPrediction] = (),
    ) -> AlignmentUpdate:
        """Add the next keyframe, of ``height`` x ``width`` pixels, with the ``pairs`` that join it to recent keyframes.

        One end of every pair is the new keyframe (its index is ``len(self)``); both orders of a pair work best.
        ``loops`` are pairs with older keyframes that may be wrong: they count once verified.
        Raises ``GeometryError``, and adds nothing, for a pair with the wrong keyframes or sizes and for a
        keyframe that no pair places.
        """
        wrong = self.map.append(KeyframeShape(camera, height, width), pairs, loops)
        wrong += self._loops.claim(loops)
        closed = self._loops.close()
        self.map.refine(self._window)
        wrong += [*closed.switched_off, *self._loops.expire(len(self) - 1)]
        since, depth = 0 if closed.solved else self._settled, self._settle(len(self) - self._window)
        return AlignmentUpdate(self._report(since, depth), closed.ends, tuple(wrong), closed.solved)

    def finish(self) -> AlignmentUpdate:
        """Solve the whole graph and settle every keyframe; more may follow. Loops without a witness are dropped."""
        wrong = self._loops.solve() if len(self) > 1 else []
        wrong += self._loops.expire(math.inf)
        if len(self) > 1:
            self.map.polish()
        depth = self._settle(len(self))
        return AlignmentUpdate(self._report(0, depth), (), tuple(wrong), True)

    def move(self, w_S: Mapping[int, Array]) -> None:
        """Move keyframes to similarities (4, 4), by index, found by something better than moments.

        Keyframes not named follow the nearest one that is.
        """
        before, after = self.map.similarities, self.map.similarities.copy()
        named = np.array(sorted(w_S))
        for index in range(len(self)):
            nearest = int(named[np.argmin(np.abs(named - index))])
            after[index] = w_S[nearest] @ inverse(before[nearest]) @ before[index]
        self.map.restore(after)

    def facts(self) -> dict[str, Any]:
        """What ``resume`` needs besides keyframes and edges, as JSON values."""
        pools = {camera: pool.facts() for camera, pool in self.map.pools.items()}
        return {"pools": pools, "focals": self.map.focals} | self._loops.facts()

    def resume(self, keyframes: Sequence[tuple[KeyframeShape, Array, Array32]], facts: Mapping[str, Any]) -> None:
        """Continue the map of an earlier session in place of an empty one; the caller puts its edges into ``map``.

        ``keyframes``: view, ``w_S`` (4, 4) and ``CanonicalDepth.sample`` of each. All are settled.
        """
        for view, w_S, sample in keyframes:
            self.map.resume(view, w_S, sample)
        self.map.pools = {name: FocalPool.of(pool) for name, pool in facts["pools"].items()}
        self.map.focals = dict(facts["focals"])
        self._loops.restore(facts)
        self._settled = len(self)
        self._report(0, {})

    def _settle(self, before: int) -> dict[int, tuple[Array32, Array32]]:
        """Let keyframes before this one leave the window; returns their final depth."""
        depth = {}
        for index in range(self._settled, max(before, self._settled)):
            fused = self.map.depth.release(index)
            if fused is not None:
                depth[index] = fused
        self._settled = max(before, self._settled)
        self.map.freeze(self._settled)
        return depth

    def _report(self, since: int, depth: dict[int, tuple[Array32, Array32]]) -> tuple[KeyframeUpdate, ...]:
        views = self.map.views
        focals = {index: self.map.focals[views[index].camera] for index in range(since, len(views))}
        return self._reported.report(self.map.similarities, since, focals, depth)
