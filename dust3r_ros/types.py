"""The frozen products that pass between stages.

Frames: ``w_T_c`` maps points of camera ``c`` (optical frame: x right, y down, z forward) into the
map frame ``w``. Units: the map's own length unit (arbitrary scale until it is known), pixels,
nanoseconds. Pixel centres lie at integer coordinates, so the middle of an image of width W is
(W - 1) / 2.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Array32 = NDArray[np.float32]
Image = NDArray[np.uint8]


@dataclass(frozen=True)
class Calibration:
    """What somebody measured of a camera: a CameraInfo with K[0] > 0, or a calibration file.

    ``fx``, ``fy``, ``cx``, ``cy`` in pixels of a raw image of ``width`` x ``height``. ``model`` is the
    distortion model as ROS names it (plumb_bob, rational_polynomial, equidistant), ``coefficients``
    its D; empty: no distortion.
    """

    width: int
    height: int
    fx: float
    fy: float
    cx: float
    cy: float
    model: str = "plumb_bob"
    coefficients: tuple[float, ...] = ()


_DISAGREE = 3.0  # standard deviations between a given focal and what images say: one of them is wrong


@dataclass(frozen=True)
class Camera:
    """Estimated camera as it takes its images: square pixels, a principal point and a lens.

    ``width``, ``height`` (pixels) say at which resolution ``focal`` (pixels) holds.
    ``focal_std`` (pixels) is its standard deviation, infinite while nothing supports it;
    ``support`` counts the keyframe pairs that do. ``fixed`` is true for a focal that was given.
    ``given`` is what somebody measured, 0 for nothing, with the standard deviation ``given_std``; then ``measured``
    is what the images alone say, 0 as long as they do not, with ``measured_std``. All in pixels.
    ``principal_offset`` (pixels) is the principal point, from the middle of the image.
    ``distortion`` are the coefficients of ``distortion_model``, as in a ``Calibration``: plumb_bob, or equidistant for
    lenses so wide that it would miss. Keyframes are images of a pinhole, with the principal point in their middle.
    ``readout`` (across, down): seconds from one end of the image to the other in which it is read; measured at the end,
    0 for a shutter that does not seem to roll. ``focal_range`` (pixels): the shortest and the longest focal of
    keyframes, where it changes, whose images are changed to ``focal``; 0 where it does not.
    """

    name: str
    width: int
    height: int
    focal: float
    focal_std: float = float("inf")
    support: int = 0
    fixed: bool = False
    principal_offset: tuple[float, float] = (0.0, 0.0)
    distortion_model: str = "plumb_bob"
    distortion: tuple[float, ...] = ()
    given: float = 0.0
    given_std: float = 0.0
    measured: float = 0.0
    measured_std: float = float("inf")
    readout: tuple[float, float] = (0.0, 0.0)
    focal_range: tuple[float, float] = (0.0, 0.0)

    @property
    def disagreement(self) -> float:
        """How far the images are from the given focal, in standard deviations of both; 0 where one is missing."""
        if self.given <= 0 or self.measured <= 0:
            return 0.0
        return abs(self.measured - self.given) / math.hypot(self.measured_std, self.given_std)

    @property
    def contradicted(self) -> bool:
        """Whether the images say that the given focal is wrong."""
        return self.disagreement > _DISAGREE

    @property
    def center(self) -> tuple[float, float]:
        """Principal point (cx, cy), pixels."""
        x, y = self.principal_offset
        return (self.width - 1) / 2.0 + x, (self.height - 1) / 2.0 + y

    @property
    def calibration(self) -> Calibration:
        """The same as a calibration file has it."""
        (cx, cy), f = self.center, self.focal
        return Calibration(self.width, self.height, f, f, cx, cy, self.distortion_model, self.distortion)

    @property
    def matrix(self) -> Array:
        """(3, 3) intrinsics K."""
        cx, cy = self.center
        return np.array([[self.focal, 0.0, cx], [0.0, self.focal, cy], [0.0, 0.0, 1.0]])


@dataclass(frozen=True, eq=False)
class Frame:
    """One image, RGB (H, W, 3) uint8 at native resolution, and what else a robot knows at its stamp.

    ``mask`` (H, W) uint8: pixels that are not 0 are left out of poses, focal and map. ``o_T_c`` (4, 4):
    the camera's optical frame in the odometry's frame, metres. ``up`` (3,): unit vector against
    gravity, in the camera's optical frame. ``depth`` (h, w) float32, metres, 0 or NaN where there is none,
    registered to the image (shape alike, size may differ). ``points`` (N, 3): measured points, metres, in
    the camera's optical frame. ``focal``: about what the image's file says it is, pixels, and its relative standard
    deviation. What is None is not known.
    """

    stamp_ns: int
    camera: str
    image: Image
    mask: Image | None = None
    o_T_c: Array | None = None
    up: Array | None = None
    depth: Array32 | None = None
    points: Array32 | None = None
    focal: tuple[float, float] | None = None


@dataclass(frozen=True, eq=False)
class PairPrediction:
    """What a backend says of one ordered pair of keyframes.

    ``points_first`` (H, W, 3) and ``points_second`` (H', W', 3), float32, are the 3D points of the
    pixels of both images, *both in the frame of the first camera*, in one unit of length that is
    free per pair. ``confidence_*`` (H, W), float32, is >= 1 as the network gives it (1 + exp);
    exactly 1 says "nothing known here" and weighs nothing (log 1 = 0).
    """

    first: int
    second: int
    points_first: Array32
    confidence_first: Array32
    points_second: Array32
    confidence_second: Array32


@dataclass(frozen=True, eq=False)
class View:
    """An image on its way to a backend: keyframe ``index``, camera name, RGB (H, W, 3) uint8.

    The image has the working resolution of the mapper, whatever the camera's native one.
    """

    index: int
    camera: str
    image: Image


@dataclass(frozen=True, eq=False)
class Keyframe:
    """One keyframe of the map as it stands now; a later ``version`` replaces an earlier one.

    ``image`` (H, W, 3) uint8 RGB, ``depth`` (H, W) float32 (z in the camera, 0 = none) and
    ``confidence`` (H, W) float32 (>= 1, 1 = none) share the working resolution, at which ``focal``
    (pixels) holds.
    """

    index: int
    version: int
    stamp_ns: int
    camera: str
    w_T_c: Array
    focal: float
    image: Image
    depth: Array32
    confidence: Array32


class TrackingState(str, Enum):
    """What the mapper knows of the camera at a frame. Bridged: it was not found; odometry or IMU give its pose."""

    INITIALISING = "initialising"
    TRACKING = "tracking"
    BRIDGED = "bridged"
    LOST = "lost"


@dataclass(frozen=True, eq=False)
class MapUpdate:
    """What one frame changed.

    ``w_T_c`` is the camera's pose (4, 4), None while initialising or lost; ``covariance`` (6, 6)
    in ROS order (x, y, z, rotation about x, y, z), in the camera frame. ``keyframe`` is the
    index of the keyframe this frame became, if it did. ``changed`` holds every keyframe that is
    new, moved or got new depth; ``removed`` those that left the map. ``cameras`` are the
    estimates at native resolution, by camera name.
    """

    stamp_ns: int
    camera: str
    state: TrackingState
    w_T_c: Array | None = None
    covariance: Array | None = None
    keyframe: int | None = None
    changed: tuple[Keyframe, ...] = ()
    removed: tuple[int, ...] = ()
    cameras: Mapping[str, Camera] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class StampedPose:
    """One line of a trajectory: when, which camera, where (``w_T_c`` (4, 4))."""

    stamp_ns: int
    camera: str
    w_T_c: Array


@dataclass(frozen=True)
class MapCounts:
    """How much went through a mapper; ``maps`` that could not be joined yet, all else is of the map it is in."""

    frames: int = 0
    tracked: int = 0
    keyframes: int = 0
    pairs: int = 0
    lost: int = 0
    maps: int = 0
