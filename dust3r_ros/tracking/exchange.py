"""Everything that passes between front end and back end.

The back end sends a ``MapSnapshot``: what tracking needs of the map. The front end sends a ``KeyframeRequest``,
an image that the map should have, and the ``FollowedPose`` of every image that it does not send.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from dust3r_ros.geometry.lens import Lens
from dust3r_ros.types import Array, Calibration, Frame


@dataclass(frozen=True, eq=False)
class MapSnapshot:
    """The map around one camera, as it was when the back end finished one of its images.

    ``stamp_ns``, ``w_T_c`` (4, 4): of that image. The landmarks it shows: ``ids`` (N,), ``pixels`` (N, 2), offsets
    from the centre of the tracked image, ``points`` (N, 3) in the map, NaN while unknown, and ``anchors`` (N, 2), where
    the last keyframe saw them, NaN where it did not; ``anchored_ns`` is that keyframe's stamp, and ``anchored`` counts
    all it saw, still in view or not. ``focal`` (pixels of the tracked image) and ``lens`` are the camera's;
    ``rectified``: the calibration by which raw images are first rectified, None if they are not.

    ``keyframe`` (its name) and ``w_T_k`` (4, 4): the reference of poses; ``unit``: a typical length around it.
    ``before``: ``w_T_k`` and ``unit`` of earlier keyframes by name, with which poses relative to those follow the map.
    Poses of another ``epoch`` belong to another map; ``revision`` rises when the whole map is corrected. While the
    focal is little more than a guess, the map will change a lot: ``guessing_since`` is the stamp at which the camera
    was first seen to move.
    """

    camera: str
    stamp_ns: int
    w_T_c: Array
    ids: np.ndarray
    pixels: Array
    points: Array
    anchors: Array
    anchored_ns: int
    anchored: int
    focal: float
    lens: Lens
    keyframe: int
    w_T_k: Array
    unit: float
    epoch: int = 0
    revision: int = 0
    young: bool = False
    guessing_since: int | None = None
    rectified: Calibration | None = None
    before: Mapping[int, tuple[Array, float]] = field(default_factory=dict)

    def at(self, keyframe: int) -> tuple[Array, float] | None:
        """``w_T_k`` (4, 4) and unit of one of the newest keyframes by name; None for others."""
        return (self.w_T_k, self.unit) if keyframe == self.keyframe else self.before.get(keyframe)


@dataclass(frozen=True, eq=False)
class FollowedPose:
    """The pose of an image that was not sent to the map: ``k_T_c`` (4, 4), relative to keyframe ``keyframe``.

    ``unit``: the length around the keyframe when the pose was found. ``epoch``: as in ``MapSnapshot``. ``ids`` (N,)
    and ``pixels`` (N, 2), offsets: some of the landmarks seen, to locate it again when the map has changed.
    ``snapshot_ns``: stamp of the ``MapSnapshot`` in which the pose was found.
    """

    stamp_ns: int
    camera: str
    epoch: int
    keyframe: int
    k_T_c: Array
    unit: float
    ids: np.ndarray
    pixels: Array
    snapshot_ns: int


@dataclass(frozen=True, eq=False)
class KeyframeRequest:
    """An image for the back end, which decides whether it becomes a keyframe.

    ``followed``: its pose by the front end, None if tracking was lost, there is no map yet, or every image is mapped
    (``backlog``). ``ids`` (N,) of the landmarks it shows, as in the ``MapSnapshot`` that gave the pose, and ``pixels``
    (N, 2), offsets from the centre of the tracked image; None without a pose.
    """

    frame: Frame
    followed: FollowedPose | None = None
    ids: np.ndarray | None = None
    pixels: Array | None = None
