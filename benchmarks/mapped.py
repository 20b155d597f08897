"""Images through the mapper as ``dust3r-map`` runs it, and how far its trajectory is from the truth."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import repeat

import numpy as np

from dust3r_ros.backends.base import Backend
from dust3r_ros.config import MapperConfig
from dust3r_ros.errors import GeometryError
from dust3r_ros.evaluation.errors import TrajectoryErrors, trajectory_errors
from dust3r_ros.mapping.mapper import Mapper
from dust3r_ros.types import Array, Image, StampedPose


@dataclass(frozen=True, eq=False)
class Mapped:
    """The finished ``mapper``, the true poses of its images where known, those found, and how long it took."""

    mapper: Mapper
    truth: list[StampedPose]
    found: list[StampedPose]
    seconds: float


def mapped(
    images: Iterable[Image],
    w_T_c: Iterable[Array | None],
    step_ns: int,
    config: MapperConfig = MapperConfig(dense=False),
    backend: Backend | None = None,
    cameras: Iterable[str] = repeat("camera"),
) -> Mapped:
    """Map ``images`` of an unknown camera, or of several ``cameras``, taken ``step_ns`` apart.

    ``w_T_c``: their true poses, None where unknown.
    """
    mapper, start = Mapper(config, backend=backend), time.perf_counter()
    for number, (image, camera) in enumerate(zip(images, cameras, strict=False), 1):
        mapper.process(number * step_ns, camera, image)
    mapper.finish()
    seconds = time.perf_counter() - start
    truth = [StampedPose(number * step_ns, "camera", pose) for number, pose in enumerate(w_T_c, 1) if pose is not None]
    return Mapped(mapper, truth, mapper.trajectory(), seconds)


def errors_of(truth: Sequence[StampedPose], found: Sequence[StampedPose]) -> TrajectoryErrors | None:
    """Errors of a trajectory; None for too few poses, or ones that stand still."""
    try:
        return trajectory_errors(truth, found)
    except GeometryError:
        return None


def error_of(truth: Sequence[StampedPose], found: Sequence[StampedPose]) -> float:
    """ATE of poses, as a share of the extent of the true path; NaN if they are too few."""
    errors = errors_of(truth, found)
    return errors.ate / extent_of([pose.w_T_c[:3, 3] for pose in truth]) if errors else float("nan")


def extent_of(centers: Sequence[Array] | Array) -> float:
    """Root mean square distance of places (N, 3) from their middle."""
    return float(np.sqrt(((centers - np.mean(centers, axis=0)) ** 2).sum(axis=1).mean()))
