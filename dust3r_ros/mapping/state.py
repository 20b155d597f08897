"""What of a mapper is saved: everything it takes to continue a map in another session.

A journal asks a live map for ``Trace``s, one per keyframe, to see what changed, and for the ``KeyframeState`` of
those only. A file gives back the same states, by which ``Mapper.resume`` builds the map again.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

from dust3r_ros.features.features import Features
from dust3r_ros.geometry.lens import Lens
from dust3r_ros.mapping.camera_stream import CameraStream
from dust3r_ros.sparse.landmarks import Intrinsics
from dust3r_ros.tracking import Tracks
from dust3r_ros.types import Array, Array32, Camera, Image, MapCounts

LANDMARKS, POINTMAPS = "landmarks", "pointmaps"  # what carries a map


class Trace(NamedTuple):
    """What tells whether a keyframe changed: numbers and bytes by value, objects by identity.

    ``record`` is the keyframe itself, whatever its number; ``pixels`` changes when depth does, ``growth``
    when only its unit does.
    """

    record: object
    version: int
    pose: bytes
    seen: object
    pruned: object
    pixels: object
    growth: float
    moving: object


class PairGeometry(NamedTuple):
    """How two keyframes lay when the depth of their pair was computed."""

    second_T_first: Array
    focals: tuple[float, ...]
    lenses: tuple[Lens, ...]


@dataclass(frozen=True, eq=False)
class KeyframeState:
    """One keyframe. Depth is z in map units or, where pointmaps carry the map, canonical; None while unknown.

    ``image``, ``masked``, ``moving`` (H, W): working image as the camera took it, and what is left out of it.
    ``lens``: of the image that depth belongs to, pixels of the tracked image; ``center`` (2,): its middle, from
    which offsets count. ``w_T_c`` (4, 4) is None while unknown; ``w_S`` (4, 4), for pointmaps, leads from the
    canonical frame. ``corners`` (N, 2): offsets of what pointmaps are located by, features first. ``sampled``
    (2, P): canonical depth and log confidence.
    """

    version: int
    stamp_ns: int
    camera: str
    image: Image
    features: Features
    feature_ids: np.ndarray
    global_descriptor: Array32
    w_T_c: Array | None
    lens: Lens
    center: Array
    depth: Array32 | None = None
    confidence: Array32 | None = None
    masked: np.ndarray | None = None
    moving: np.ndarray | None = None
    seen: Tracks | None = None
    pruned: Tracks | None = None
    first_id: int = 0
    w_S: Array | None = None
    corners: Array | None = None
    sampled: Array32 | None = None


@dataclass(frozen=True, eq=False)
class Moments:
    """Edges of a map that pointmaps carry: ``ends`` (E, 2), 28 ``numbers`` each, what closes a loop, what counts."""

    ends: np.ndarray
    numbers: Array
    loop: np.ndarray
    on: np.ndarray


@dataclass(frozen=True, eq=False)
class FrameState:
    """A frame relative to the keyframe ``keyframe`` (its place in the map); ``keyframe_T_frame`` None: not found (yet).

    ``unit``: of the keyframe when this was written, NaN where it does not count.
    """

    stamp_ns: int
    camera: str
    keyframe: int
    keyframe_T_frame: Array | None
    unit: float
    session: int = 0


class LiveSubmap(ABC):
    """One map that a mapper has in memory, as a journal reads it; nothing is copied.

    What one kind of map does not have is empty.
    """

    kind: str

    @abstractmethod
    def traces(self) -> list[Trace]:
        """One per keyframe."""

    @abstractmethod
    def keyframe(self, index: int) -> KeyframeState:
        """A keyframe as it stands."""

    @abstractmethod
    def facts(self) -> dict[str, Any]:
        """Numbers and flags of the whole map, as JSON has them."""

    @property
    def pairs(self) -> Mapping[tuple[int, int], PairGeometry]:
        """That depth came from."""
        return {}

    @property
    def paired(self) -> Sequence[tuple[int, int]]:
        """Pairs in the order in which they came, went or lay anew."""
        return []

    @property
    def moments(self) -> Moments | None:
        """Of all edges, where they tie keyframes together."""
        return None

    def aliases(self, merges: int) -> tuple[int, np.ndarray, np.ndarray]:
        """Mergers so far, blocks of ids that changed since ``merges`` of them, and what every landmark became (L,)."""
        return 0, np.zeros(0, np.int64), np.zeros(0, np.int64)

    def resolved(self, ids: np.ndarray) -> np.ndarray:
        """What landmarks (K,) are called now."""
        return ids

    @abstractmethod
    def restore(self, state: SubmapState, streams: Mapping[str, CameraStream]) -> None:
        """A saved map in place of an empty one."""


@dataclass(frozen=True, eq=False)
class SubmapState:
    """One map as a file has it; ``names``: of its keyframes. Edges, frames and pairs know keyframes by place."""

    kind: str
    names: tuple[int, ...]
    keyframes: tuple[KeyframeState, ...]
    intrinsics: tuple[Intrinsics, ...]
    edges: tuple[tuple[int, int, float], ...]
    likeness: tuple[float, ...]
    frames: tuple[FrameState, ...]
    facts: Mapping[str, Any]
    aliases: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int64))
    pairs: Mapping[tuple[int, int], PairGeometry] = field(default_factory=dict)
    moments: Moments | None = None


@dataclass(frozen=True, eq=False)
class MapState:
    """A whole saved map. ``submaps``: the active one first, then those that sleep, the oldest first.

    ``cameras`` in the order in which they came; ``appearance`` is what ``Appearance`` has learnt. ``lineage`` and
    ``changes`` say which file this was and at which state, so that only that one is continued.
    """

    settings: Mapping[str, Any]
    cameras: tuple[Camera, ...]
    submaps: tuple[SubmapState, ...]
    appearance: Mapping[str, Any]
    counts: MapCounts
    working_size: int
    tracking_size: int
    revision: int
    session: int
    lineage: str
    changes: int
