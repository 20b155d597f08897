"""One map taken into another: views, landmarks and what both have seen."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dust3r_ros.alignment.map_fit import MapFit, fit_maps
from dust3r_ros.alignment.sparse_map import SparseMap
from dust3r_ros.alignment.sparse_view import Focal, SparseView
from dust3r_ros.errors import GeometryError
from dust3r_ros.geometry.similarity import Similarity
from dust3r_ros.tracking import Tracks

__all__ = ["MapFit", "Merged", "fit_maps", "merge_maps"]


@dataclass(frozen=True, eq=False)
class Merged:
    """What source's things are called in the target: view v is ``first_view`` + v, landmark k is ``ids[k]``."""

    first_view: int
    ids: NDArray[np.int64]


def merge_maps(
    target: SparseMap,
    source: SparseMap,
    target_S_source: Similarity,
    matches: NDArray[np.int64],
    cameras: Sequence[int] | None = None,
) -> Merged:
    """Take all of ``source`` into ``target``, where it lies by ``target_S_source``; ``source`` stays as it is.

    ``matches`` (K, 2): ids of landmarks, target's and source's, that are the same; only those that
    agree (``MapFit.agree``) belong here. They become one landmark, at target's position where it has
    one. ``cameras``: target's index of each of source's cameras, the same by default; of two focals
    the surer one stays. Refine the whole afterwards, with free focals.

    Raises ``GeometryError``, and changes nothing, for a camera that the target has not.
    """
    table = list(range(len(source.focals))) if cameras is None else list(cameras)
    if len(table) != len(source.focals) or not all(0 <= camera < len(target.focals) for camera in table):
        raise GeometryError(
            f"Source's {len(source.focals)} cameras are to be {table} in the target; each must be one of its "
            f"{len(target.focals)}, counted from 0."
        )
    matches = np.asarray(matches, dtype=np.int64).reshape(-1, 2)
    for camera, focal in zip(table, source.focals, strict=True):
        _keep_surer(target.focals[camera], focal)
    first_view = len(target.views)
    count = len(source.points)
    fresh = target.new_ids(count)
    ids = fresh[source.resolved_ids(np.arange(count))]
    target.points[fresh] = target_S_source.apply(source.points)
    for view in source.views:
        first_id = int(fresh[0]) + view.first_id if count else len(target.points)
        w_T_c = None if view.w_T_c is None else target_S_source.pose(view.w_T_c)
        seen, pruned = (Tracks(ids[tracks.ids], tracks.pixels) for tracks in (view.seen, view.pruned))
        target.views.append(SparseView(table[view.camera], w_T_c, seen, pruned, first_id))
    target.merge(matches[:, 0], ids[matches[:, 1]])
    return Merged(first_view, target.resolved_ids(ids))


def _keep_surer(kept: Focal, other: Focal) -> None:
    """Take over another estimate of the same focal where it is surer; what was given stays."""
    if kept.fixed or not (other.fixed or other.std < kept.std):
        return
    kept.value, kept.prior, kept.std, kept.fixed = other.value, other.prior, other.std, other.fixed
    kept.lens, kept.lens_std = other.lens, other.lens_std
