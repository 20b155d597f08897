"""The unknowns of a global alignment, and what of them is held."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dust3r_ros.alignment.global_start import GlobalStart
from dust3r_ros.alignment.moments import scale_of
from dust3r_ros.alignment.priors import INDEPENDENT, Priors, gauge, held_focals, held_poses
from dust3r_ros.alignment.problem import Problem
from dust3r_ros.alignment.ray_middle import FLOOR
from dust3r_ros.geometry.focal import FOCAL_LIMITS, reference_focal
from dust3r_ros.types import Array, Array32

# Without cameras given, images of one size whose focals lie within this factor share one: pointmaps
# do not tell focals apart that are closer.
SAME_CAMERA = 0.04
# Least residual in a weight, relative to the mean scale of the pairs.
_TINY = 1e-7


@dataclass(eq=False)
class Scene:
    """The unknowns: ``w_T_c`` (N, 4, 4), ``focals`` (N,), ``w_S_pair`` (E, 4, 4); and what of them is held.

    ``ends`` (E, 2): first and second image of the pairs.
    ``camera`` (N,): images of the same number share the focal. ``on`` (E,): pairs that count.
    ``focal_limits`` (2, N): least and largest, pixels. ``priors``: what is known with a deviation.
    ``floor``: least residual in a weight, world unit.
    """

    ends: NDArray[np.int64]
    w_T_c: Array
    focals: Array
    w_S_pair: Array
    camera: NDArray[np.int64]
    held_pose: NDArray[np.bool_]
    held_focal: NDArray[np.bool_]
    on: NDArray[np.bool_]
    focal_limits: Array
    priors: Priors
    floor: float = 0.0

    @classmethod
    def of(cls, problem: Problem, start: GlobalStart) -> Scene:
        """From the start, with what the problem gives held."""
        cameras, held = problem.cameras, held_focals(problem)
        camera = _alike(problem, start.focals) if cameras is None else np.unique(cameras, return_inverse=True)[1]
        logs = np.where(held, 0.0, np.log(start.focals))
        mean = np.bincount(camera, logs)[camera] / np.maximum(np.bincount(camera, ~held)[camera], 1)
        scene = cls(
            np.array([(pair.first, pair.second) for pair in problem.pairs]),
            start.w_T_c,
            np.where(held, start.focals, np.exp(mean)),
            start.w_S_pair,
            camera,
            held_poses(problem),
            held,
            ~start.switched_off,
            np.outer(FOCAL_LIMITS, [reference_focal(*shape) for shape in problem.shapes]),
            Priors.of(problem, camera),
        )
        scene.set_floor(float(np.median(start.residual)))
        return scene

    def set_floor(self, residual: float) -> None:
        """For a mean residual, world unit."""
        self.floor = max(FLOOR * residual, _TINY * float(scale_of(self.w_S_pair).mean()))

    def unit(self, cost: float) -> float:
        """What one of the independent measurements costs that all sights are, of a ``cost`` altogether."""
        return cost / (2 * INDEPENDENT * max(1, int(np.count_nonzero(self.on))))

    def settle(self, depths: dict[int, Array32]) -> None:
        """The whole world to where soft poses want it, sampled depths (by block) with it: sweeps would take long."""
        if self.priors.poses is None or self.held_pose.any():
            return
        scale, R, t = gauge(self.priors.poses, self.w_T_c, self.priors.depths is None)
        G = np.eye(4)
        G[:3, :3], G[:3, 3] = scale * R, t
        self.w_T_c, self.w_S_pair = G @ self.w_T_c, G @ self.w_S_pair
        self.w_T_c[:, :3, :3] /= scale
        self.floor *= scale
        for index in depths:
            depths[index] = depths[index] * np.float32(scale)


def _alike(problem: Problem, focals: Array) -> NDArray[np.int64]:
    """(N,) a camera for each image: one for all of a size whose focals differ by less than their errors do."""
    camera = np.arange(len(focals))
    for shape in set(problem.shapes):
        its = np.array([image for image, other in enumerate(problem.shapes) if other == shape])
        if np.ptp(np.log(focals[its])) < SAME_CAMERA:
            camera[its] = its[0]
    return camera
