"""The saved state of a mapper: everything needed to continue a map in another session.

A journal asks a live map for ``Trace``s, one per keyframe, to see what changed, and for the ``KeyframeState`` of
changed keyframes only. A file returns the same states, from which ``Mapper.resume`` rebuilds the map.
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

LANDMARKS, POINTMAPS = "landmarks", "pointmaps"  # the basis of a map


class Trace(NamedTuple):
    """Shows whether a keyframe changed: numbers and bytes by value, objects by identity.

    ``record`` is the keyframe itself, whatever its number; ``pixels`` changes with depth, ``growth``
    with its unit alone.
    """

    record: object
    version: int
    pose: bytes
    seen: object
    pruned: object
    pixels: object
    growth: float
    moving: object
    image: object
    lens: Lens | None = None


class PairGeometry(NamedTuple):
    """The relative pose and focals of two keyframes when the depth of their pair was computed."""

    second_T_first: Array
    focals: tuple[float, ...]
    lenses: tuple[Lens, ...]


@dataclass(frozen=True, eq=False)
class KeyframeState:
    """One keyframe. Depth is z in map units or, in a map based on pointmaps, canonical; None while unknown.

    ``image``, ``masked``, ``moving`` (H, W): working image as the camera took it, and what is left out of it.
    ``lens``: removed from the image of the depth, pixels of the tracked image; ``center`` (2,): the image centre, the
    origin of offsets. ``w_T_c`` (4, 4) is None while unknown; ``w_S`` (4, 4), for pointmaps, maps from the
    canonical frame. ``corners`` (N, 2): offsets by which frames are located in pointmaps, features first. ``sampled``
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
    """Edges of a map based on pointmaps: ``ends`` (E, 2), 28 ``numbers`` each, whether they close a loop or count."""

    ends: np.ndarray
    numbers: Array
    loop: np.ndarray
    on: np.ndarray


@dataclass(frozen=True, eq=False)
class FrameState:
    """A frame relative to keyframe ``keyframe`` (its index in the map); ``keyframe_T_frame`` None: not found (yet).

    ``unit``: of the keyframe at the time of writing, NaN if it does not apply.
    """

    stamp_ns: int
    camera: str
    keyframe: int
    keyframe_T_frame: Array | None
    unit: float
    session: int = 0


class LiveSubmap(ABC):
    """One map in a mapper's memory, as a journal reads it; nothing is copied.

    Parts that one kind of map lacks are empty.
    """

    kind: str

    @abstractmethod
    def traces(self) -> list[Trace]:
        """The trace of every keyframe."""

    @abstractmethod
    def keyframe(self, index: int) -> KeyframeState:
        """The current state of a keyframe."""

    @abstractmethod
    def facts(self) -> dict[str, Any]:
        """Numbers and flags of the whole map, as JSON values."""

    @property
    def pairs(self) -> Mapping[tuple[int, int], PairGeometry]:
        """The pairs from which depth was computed."""
        return {}

    @property
    def paired(self) -> Sequence[tuple[int, int]]:
        """Pairs in the order in which they were added, removed or updated."""
        return []

    @property
    def moments(self) -> Moments | None:
        """Moments of all edges, in maps that have them."""
        return None

    def aliases(self, merges: int) -> tuple[int, np.ndarray, np.ndarray]:
        """Number of mergers, blocks of ids changed since ``merges`` of them, and every landmark's new id (L,)."""
        return 0, np.zeros(0, np.int64), np.zeros(0, np.int64)

    def resolved(self, ids: np.ndarray) -> np.ndarray:
        """The current ids of landmarks (K,)."""
        return ids

    @abstractmethod
    def restore(self, state: SubmapState, streams: Mapping[str, CameraStream]) -> None:
        """Restore a saved map into an empty one."""


@dataclass(frozen=True, eq=False)
class SubmapState:
    """One map in a file; ``names``: of its keyframes. Edges, frames and pairs refer to keyframes by index."""

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

    ``cameras`` in order of arrival; ``appearance`` is what ``Appearance`` has learnt. ``lineage`` and
    ``changes`` identify the file and its state, so that only that one is continued.
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
