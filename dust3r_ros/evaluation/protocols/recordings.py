"""Recordings divided as runners need them, and their images as a backend takes them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from dust3r_ros.errors import InputError
from dust3r_ros.evaluation.datasets.recording import Recording, View
from dust3r_ros.geometry.pinhole import center_of, pixel_grid
from dust3r_ros.geometry.resize import Resize
from dust3r_ros.types import Array, Array32, Image, StampedPose

_GAP_NS = 1_000_000_000


def select(recording: Recording, indices: Sequence[int]) -> Recording:
    """The views at ``indices``, in that order."""
    return replace(recording, views=tuple(recording.views[index] for index in indices))


def in_a_row(parts: Sequence[Sequence[View]]) -> list[View]:
    """The views of all parts, each part starting a second after the previous one: stamps of recordings overlap."""
    views: list[View] = []
    for part in parts:
        if not part:
            continue
        begin, end = min(v.stamp_ns for v in part), max((v.stamp_ns for v in views), default=None)
        shift = 0 if end is None else end + _GAP_NS - begin
        views += [replace(view, stamp_ns=view.stamp_ns + shift) for view in part]
    return views


def localisation_scenes(recordings: Iterable[Recording], most: int | None = None) -> list[tuple[Recording, Recording]]:
    """(database, queries) of each scene: all its "train" recordings, and all its "test" recordings.

    Either is without views where the scene lacks it. ``most``: end with so many scenes that have both.
    """
    scenes: dict[tuple[str, str], dict[str, list[Recording]]] = {}
    for recording in recordings:
        parts = scenes.setdefault((recording.dataset, recording.scene or recording.name), {"train": [], "test": []})
        parts.setdefault(recording.split, []).append(recording)
    found: list[tuple[Recording, Recording]] = []
    whole = 0
    for (dataset, scene), parts in scenes.items():
        if whole == most:
            break
        database, queries = (_joined(scene, dataset, parts[name]) for name in ("train", "test"))
        found.append((database, queries))
        whole += bool(database.views and queries.views)
    return found


def _joined(name: str, dataset: str, parts: Sequence[Recording]) -> Recording:
    views = tuple(in_a_row([recording.views for recording in parts]))
    return Recording(name, dataset, views, all(recording.metric for recording in parts), ordered=False)


def true_poses(recording: Recording, camera: str | None = None) -> list[StampedPose]:
    """The known poses, of one camera or of all."""
    return [
        StampedPose(view.stamp_ns, view.camera, view.w_T_c)
        for view in recording.views
        if view.w_T_c is not None and camera in (None, view.camera)
    ]


@dataclass(frozen=True, eq=False)
class WorkingView:
    """A view at working resolution: RGB ``image``, ``focal`` (None: not known) and ``center`` in its pixels."""

    view: View
    image: Image
    resize: Resize
    focal: float | None
    center: tuple[float, float]

    @property
    def pose(self) -> Array:
        """``w_T_c`` (4, 4). Raises ``InputError`` where the view has none."""
        if self.view.w_T_c is None:
            raise InputError(f"the view of camera '{self.view.camera}' at {self.view.stamp_ns} ns has no true pose")
        return self.view.w_T_c

    def depth(self) -> Array32 | None:
        """True depth (H, W) at the working pixels, the nearest value of each; None where there is none."""
        native = self.view.depth()
        if native is None:
            return None
        at = self.resize.to_native(pixel_grid(*self.image.shape[:2]))
        return _sampled(native, at, self.resize)

    def at_truth(self, depth: Array32, shape: tuple[int, ...]) -> Array32:
        """A depth map at working pixels, resampled to the pixels of the true depth of ``shape``; 0 outside the crop.

        Lidar truth is sparse, so the estimate is resampled to the truth and not the other way round.
        """
        scale = [self.resize.native_width / shape[1], self.resize.native_height / shape[0]]
        native = (pixel_grid(*shape[:2]) + 0.5) * scale - 0.5
        at = np.round(self.resize.to_working(native)).astype(int)
        return _taken(depth, at)


def working(view: View, size: int, known_focal: bool = True, centred: bool | None = None) -> WorkingView:
    """A view with its long edge at ``size`` pixels, both edges multiples of 16. Raises ``InputError``.

    ``centred`` (None: as ``known_focal``): the crop is centred on the principal point of a view that has intrinsics, to
    half a pixel: backends and alignments take an image's centre for it. Otherwise, and where that point is outside the
    image, the crop is centred on the image.
    """
    image = view.image()
    if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8:
        raise InputError(f"the image of camera '{view.camera}' at {view.stamp_ns} ns is {image.dtype} {image.shape}")
    height, width = image.shape[:2]
    if view.K is not None and (known_focal if centred is None else centred):
        resize = _centred_on(view.K[:2, 2], width, height, size)
    else:
        resize = Resize.fit(width, height, size)
    focal, center = None, center_of(resize.height, resize.width)
    if view.K is not None and known_focal:
        focal = resize.focal_to_working(float(view.K[0, 0] + view.K[1, 1]) / 2.0)
        x, y = resize.to_working(view.K[:2, 2])
        center = float(x), float(y)
    return WorkingView(view, resize.apply(image), resize, focal, center)


def _centred_on(center: Array, width: int, height: int, size: int) -> Resize:
    """``Resize.fit`` of the largest window that has the principal point ``center`` (cx, cy) in its middle."""
    middle = center + 0.5  # from the image's corner, as the pixels' centres are at integers
    window = np.floor(2.0 * np.minimum(middle, [width, height] - middle)).astype(int)
    if window.min() < 1:  # it is outside the image
        return Resize.fit(width, height, size)
    fitted = Resize.fit(int(window[0]), int(window[1]), size)
    scales, kept = np.array([fitted.scale_x, fitted.scale_y]), np.array([fitted.width, fitted.height])
    starts = middle - kept / scales / 2.0
    if scales.min() < 1.0:  # ``Resize`` crops at whole native pixels before it shrinks
        starts = np.ceil(middle - np.round(kept / scales) / 2.0 - 0.5)
    left, top = (starts * scales).tolist()
    return replace(fitted, native_width=width, native_height=height, offset_x=left, offset_y=top)


def _sampled(depth: Array32, native: Array, resize: Resize) -> Array32:
    scale = [depth.shape[1] / resize.native_width, depth.shape[0] / resize.native_height]
    return _taken(depth, np.round((native + 0.5) * scale - 0.5).astype(int))


def _taken(depth: Array32, at: np.ndarray) -> Array32:
    """Values at pixels ``at`` (..., 2) as (u, v), 0 outside."""
    inside = np.all((at >= 0) & (at < [depth.shape[1], depth.shape[0]]), axis=-1)
    u, v = np.moveaxis(np.where(inside[..., None], at, 0), -1, 0)
    return np.where(inside, depth[v, u], np.float32(0)).astype(np.float32)
