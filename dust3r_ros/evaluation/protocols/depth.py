"""Depth from a backend's pairs: of a single image, and of a few views together."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np

from dust3r_ros.alignment import Part
from dust3r_ros.backends.base import Backend
from dust3r_ros.backends.mono import InverseView, MonoBackend
from dust3r_ros.errors import GeometryError, InputError
from dust3r_ros.evaluation.datasets.recording import Recording, View
from dust3r_ros.evaluation.protocols.cost import Cost
from dust3r_ros.evaluation.protocols.predictor import Predictor, aligned_parts
from dust3r_ros.evaluation.protocols.recordings import WorkingView, select
from dust3r_ros.evaluation.protocols.rows import DepthPair, Row, depth_columns, guarded, row
from dust3r_ros.geometry.depths import monocular_depth, multi_view_depth
from dust3r_ros.types import Array32

MONOCULAR, MULTI_VIEW = "monocular_depth", "multi_view_depth"


def run_monocular_depth(
    recordings: Iterable[Recording], backend: Backend, *, every: int = 1, size: int = 512, max_depth: float = np.inf
) -> Iterator[Row]:
    """One row per recording: Rel and delta 1.25 of every ``every``-th image that has true depth, median-aligned.

    Depth is that of the image paired with itself (DUSt3R, section 4.4), or what ``mono``'s network gives of the image,
    sampled at the pixels of the truth. True depth beyond ``max_depth`` metres is left out. A backend without depth of
    a single image gets a row that says so.
    """
    predictor = Predictor(backend, size)
    for recording in recordings:

        def measure(recording: Recording = recording) -> Row:
            cost, pairs = Cost(), []
            for view in recording.views[::every]:
                truth = view.depth()
                if truth is None:
                    continue
                with cost.timed():
                    depth = _single_depth(predictor, view)
                pairs.append(_at_truth(predictor.views[0], truth, depth, max_depth))
            columns = depth_columns(_with_truth(recording, pairs), median_aligned=True)
            return row(recording, MONOCULAR, backend.name, **columns, seconds=cost.seconds)

        yield guarded(recording, MONOCULAR, backend.name, measure)


def run_multi_view_depth(
    recordings: Iterable[Recording],
    backend: Backend,
    *,
    known_poses: bool = False,
    sources: int = 4,
    step: int = 5,
    every: int = 20,
    size: int = 512,
    known_focals: bool = False,
) -> Iterator[Row]:
    """One row per recording: Rel, delta 1.25 and tau 1.03 of key views, each aligned with its source views.

    Key views are every ``every``-th, sources the nearest ``sources`` views at multiples of ``step`` before and after.
    Without poses, each depth map is scaled to the truth by its median; with ``known_poses``, true poses are fixed and
    depth is not scaled: the settings with and without alignment of Schroeppel et al., "A benchmark and a
    baseline for robust multi-view depth estimation", 3DV 2022.
    """
    predictor = Predictor(backend, size, known_focals)
    protocol = f"{MULTI_VIEW}_poses" if known_poses else MULTI_VIEW
    for recording in recordings:

        def measure(recording: Recording = recording) -> Row:
            cost, pairs = Cost(), []
            for key in range(0, len(recording.views), every):
                around = _around(key, len(recording.views), sources, step)
                truth = recording.views[key].depth()
                if truth is None or not around:
                    continue
                with cost.timed():
                    views = predictor.take(select(recording, [key, *around]).views)
                    depth = _key_depth(predictor, known_poses)
                pairs.append(_at_truth(views[0], truth, depth))
            columns = depth_columns(_with_truth(recording, pairs), median_aligned=not known_poses)
            return row(recording, protocol, backend.name, **columns, sources=sources, seconds=cost.seconds)

        yield guarded(recording, protocol, backend.name, measure)


def _single_depth(predictor: Predictor, view: View) -> Array32:
    """(H, W) of a view alone, 0 = none, in any unit. Raises ``InputError`` for a backend that has none."""
    backend = predictor.backend
    if backend.uses_poses and not isinstance(backend, MonoBackend):
        raise InputError(f"backend '{backend.name}' has no depth for a single image: its depth is that of two views")
    (made,) = predictor.take([view])
    if not isinstance(backend, MonoBackend):
        (pair,) = predictor.predict([(0, 0)])
        return monocular_depth(pair).depth
    found = backend.network.of(made.image)
    if isinstance(found, InverseView):
        raise InputError(
            "the network of backend 'mono' gives inverse depth up to scale and shift, but monocular depth is judged up "
            "to scale alone; MoGe-2 gives that"
        )
    return found.depth(0.0)


def _around(key: int, count: int, sources: int, step: int) -> list[int]:
    """The nearest views at multiples of ``step`` on both sides."""
    steps = [key + sign * step * k for k in range(1, sources + 1) for sign in (1, -1)]
    return [index for index in steps if 0 <= index < count][:sources]


def _key_depth(predictor: Predictor, known_poses: bool) -> Array32:
    """(H, W) of view 0; zeros where its pairs give none."""
    try:
        for part in parts_of(predictor, known_poses):
            if 0 in part.images:
                return multi_view_depth(part.alignment, part.images.index(0)).depth
    except GeometryError:
        pass
    return np.zeros(predictor.views[0].image.shape[:2], np.float32)


def parts_of(predictor: Predictor, known_poses: bool) -> list[Part]:
    """Worlds of the predictor's views from all their ordered pairs, at true poses with ``known_poses``.

    Raises ``GeometryError`` where they cannot be aligned, ``InputError`` for a true pose that is missing.
    """
    poses = np.array([view.pose for view in predictor.views]) if known_poses else None
    pairs = predictor.all_pairs(None if poses is None else dict(enumerate(poses)))
    return aligned_parts(pairs, predictor.views, poses)


def _at_truth(view: WorkingView, truth: Array32, depth: Array32, max_depth: float = np.inf) -> DepthPair:
    judged = np.where(np.isfinite(truth) & (truth <= max_depth), truth, np.float32(0))
    return judged, view.at_truth(depth, truth.shape)


def _with_truth(recording: Recording, pairs: list[DepthPair]) -> list[DepthPair]:
    if not pairs:
        raise InputError(f"'{recording.name}' has no true depth to compare with")
    return pairs
