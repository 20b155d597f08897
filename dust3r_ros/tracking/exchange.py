"""What passes between front end and back end, and nothing else does.

Down comes a ``MapSnapshot``: what tracking needs of the map. Up go a ``KeyframeRequest``, an image that
the map should have, and the ``FollowedPose`` of every image that it does not get.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from dust3r_ros.geometry.lens import Lens
from dust3r_ros.types import Array, Calibration, Frame


@dataclass(frozen=True, eq=False)
class MapSnapshot:
    """The map around one camera, as it stood when the back end was through with one of its images.

    ``stamp_ns``: of that image; ``w_T_c`` (4, 4): where it was taken. The landmarks it shows: ``ids`` (N,),
    ``pixels`` (N, 2), offsets from the middle of the tracked image, ``points`` (N, 3) in the map, NaN where that is not
    known yet, and ``anchors`` (N, 2), where the last keyframe saw them, NaN where it did not; ``anchored_ns`` is its
    stamp, and ``anchored`` counts what it saw, in view still or not. ``focal`` (pixels of the tracked image) and
    ``lens`` are the camera's; ``rectified``: the calibration by which raw images are made those of a pinhole first,
    None: they are not.

    ``keyframe`` (its name) and ``w_T_k`` (4, 4): what poses are kept relative to; ``unit``: a length around it. Poses
    that were relative to one ``before`` it go along with the map by these: ``w_T_k`` and ``unit`` by name.
    Poses of another ``epoch`` are of another map; ``revision`` rises when the map is corrected at once. While the focal
    is hardly more than a guess, the map will change much: ``guessing_since`` the camera was first seen to move (stamp).
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
    """Where an image was taken that the map did not get: ``k_T_c`` (4, 4), relative to keyframe ``keyframe``.

    ``unit``: a length around the keyframe when the pose was found. ``epoch``: as ``MapSnapshot`` has it. ``ids`` (N,)
    and ``pixels`` (N, 2), offsets: some of the landmarks seen, by which it is found again when the map has changed.
    ``snapshot_ns``: stamp of the ``MapSnapshot`` that the pose was found in.
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

    ``followed``: the pose that the front end gave it, None where it was lost or there is no map yet; then also the
    landmarks it saw: ``ids`` (N,) and ``pixels`` (N, 2), offsets from the middle of the tracked image.
    """

    frame: Frame
    followed: FollowedPose | None = None
    ids: np.ndarray | None = None
    pixels: Array | None = None
