"""Everything that passes between front end and back end, when an image does, and the queue of those that wait to pass.

The back end sends a ``MapSnapshot``: what tracking needs of the map. The front end sends a ``KeyframeRequest``,
an image that the map should have, and the ``FollowedPose`` of every image that it does not send.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Generic, TypeVar

import numpy as np

from dust3r_ros.config import MapperConfig
from dust3r_ros.geometry.lens import Lens
from dust3r_ros.geometry.rigid import angle_deg
from dust3r_ros.types import Array, Calibration, Frame

SNAPSHOT_KEYFRAMES = 8  # newest visited keyframes in a snapshot, to one of which front ends' poses are relative


@dataclass(frozen=True, eq=False)
class Renumbering:
    """New ids of landmarks: ``former`` (K,), sorted, are ``now`` (K,). All others are gone."""

    former: np.ndarray
    now: np.ndarray

    def of(self, ids: np.ndarray) -> np.ndarray:
        """The new ids (N, ...) of landmarks (N, ...), -1 for those that are gone."""
        if not len(self.former):
            return np.full(np.shape(ids), -1)
        at = np.minimum(np.searchsorted(self.former, ids), len(self.former) - 1)
        return np.where(self.former[at] == ids, self.now[at], -1)

    def only(self, ids: np.ndarray) -> Renumbering:
        """The part that concerns landmarks (N,)."""
        some = np.intersect1d(self.former, ids)
        return Renumbering(some, self.of(some))


def no_names() -> Renumbering:
    """Nothing has another id."""
    return Renumbering(np.zeros(0, np.int64), np.zeros(0, np.int64))


MakeLandmarks = Callable[[int], np.ndarray]  # so many; returns their ids, or -1 for each where there can be none


def no_landmarks(count: int) -> np.ndarray:
    """So many times -1: corners found elsewhere become no landmarks."""
    return np.full(count, -1)


def with_landmarks(ids: np.ndarray, named: Renumbering, make: MakeLandmarks) -> tuple[np.ndarray, Renumbering]:
    """Ids (N,) with landmarks in place of negative ones, which are of corners that a front end found by itself.

    ``named``: landmarks that some became before; ``make`` makes more. Returns also what all of them are by now.
    """
    found = np.where(ids < 0, named.of(ids), ids)
    found[found < 0] = make(int(np.count_nonzero(found < 0)))
    own = np.flatnonzero((ids < 0) & (found >= 0))
    own = own[np.argsort(ids[own])]
    return found, Renumbering(ids[own], found[own])


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
    was first seen to move; ``presumed``: nothing was found of the focal yet.

    ``numbering`` counts how often landmarks got other ids, which are only comparable within one; the first snapshot
    after that has the ``renumbering`` of those that a front end may know. ``named``: the landmarks of corners that the
    front end found by itself.
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
    presumed: bool = False
    rectified: Calibration | None = None
    before: Mapping[int, tuple[Array, float]] = field(default_factory=dict)
    numbering: int = 0
    renumbering: Renumbering | None = None
    named: Renumbering = field(default_factory=no_names)

    def at(self, keyframe: int) -> tuple[Array, float] | None:
        """``w_T_k`` (4, 4) and unit of one of the newest keyframes by name; None for others."""
        return (self.w_T_k, self.unit) if keyframe == self.keyframe else self.before.get(keyframe)

    def turned(self, before: Array, w_T_c: Array) -> float:
        """By how many pixels of the tracked image the view turned between two poses (4, 4)."""
        return float(np.radians(angle_deg(before[:3, :3].T @ w_T_c[:3, :3])) * self.focal)


@dataclass(frozen=True, eq=False)
class FollowedPose:
    """The pose of an image that was not sent to the map: ``k_T_c`` (4, 4), relative to keyframe ``keyframe``.

    ``unit``: the length around the keyframe when the pose was found. ``epoch``: as in ``MapSnapshot``. ``ids`` (N,)
    and ``pixels`` (N, 2), offsets: some of the landmarks seen, to locate it again when the map has changed.
    ``snapshot_ns``: stamp of the ``MapSnapshot`` in which the pose was found; ``numbering``, of the ids: its own.
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
    numbering: int = 0


@dataclass(frozen=True, eq=False)
class KeyframeRequest:
    """An image for the back end, which decides whether it becomes a keyframe.

    ``followed``: its pose by the front end, None if tracking was lost, there is no map yet, or every image is mapped
    (``backlog``). ``ids`` (N,) of the landmarks it shows, as in the ``MapSnapshot`` that gave the pose, negative ones
    of corners that the front end found by itself, and ``pixels`` (N, 2), offsets from the centre of the tracked image;
    None without a pose. ``link``: before a newer one that is to be a keyframe, which may share too little with the
    last one.
    """

    frame: Frame
    followed: FollowedPose | None = None
    ids: np.ndarray | None = None
    pixels: Array | None = None
    link: bool = False


YOUNG = 18  # keyframes
_LIVE_YOUNG = 2.0  # factor on the keyframe distance of a young map in live use, to keep up with a fast camera


def is_keyframe(motion: float, overlap: float, young: bool, config: MapperConfig, live: bool = False) -> bool:
    """True if the corners moved far since the last keyframe, or many of them are lost.

    ``motion``: median, as a share of the long edge; ``overlap``: share of the corners still tracked.
    A ``young`` map takes keyframes closer together.
    Time plays no part: a camera at rest adds none.
    """
    closest = config.keyframe_motion_young * (_LIVE_YOUNG if live else 1.0)
    enough = min(closest, config.keyframe_motion) if young else config.keyframe_motion
    return motion > enough or overlap < config.keyframe_overlap


Item = TypeVar("Item")
_LINKS = 4  # images that wait to link the newest to the last keyframe


class Outbox(Generic[Item]):
    """A bounded queue. Images of one ``camera(item)`` without a pose weigh at most ``size`` together.

    Each weighs ``weigh(item)``. Beyond that the oldest is dropped; one may always wait. Of images with a pose, only the
    newest of a camera waits, so that it reaches the map soon, with a few before it that are ``links``; ``thin`` false
    keeps all. For one thread.
    """

    def __init__(
        self,
        size: float,
        weigh: Callable[[Item], float] = lambda item: 1,
        camera: Callable[[Item], object] = lambda item: None,
        *,
        links: Callable[[Item], bool] = lambda item: False,
        thin: bool = True,
    ) -> None:
        self._items: deque[tuple[Item, bool]] = deque()
        self._turns, self._turn = dict[object, int](), 0  # each camera's last turn
        self._size, self._weigh, self._camera, self._links, self._thin = size, weigh, camera, links, thin

    def __len__(self) -> int:
        return len(self._items)

    def offer(self, item: Item, posed: bool) -> list[tuple[Item, bool]]:
        """Queue an image; returns those dropped for it, and whether each has a pose."""
        camera = self._camera(item)
        replaced = [entry for entry in self._of(camera) if self._thinned(entry)] if posed else []
        linking = [entry for entry in replaced if self._links(entry[0])][-_LINKS:]
        replaced = [entry for entry in replaced if entry not in linking]
        for entry in replaced:
            self._items.remove(entry)
        self._items.append((item, posed))
        return replaced + self._lighten(camera)

    def _of(self, camera: object) -> list[tuple[Item, bool]]:
        """The waiting images of a camera, oldest first, and whether each has a pose."""
        return [entry for entry in self._items if self._camera(entry[0]) == camera]

    def _thinned(self, entry: tuple[Item, bool]) -> bool:
        """Whether an image is dropped once a newer one of its camera has a pose; it has no weight."""
        return entry[1] and self._thin

    def _lighten(self, camera: object) -> list[tuple[Item, bool]]:
        """Remove and return the oldest images of a camera while its total weight is too large."""
        gone: list[tuple[Item, bool]] = []
        counted = [entry for entry in self._of(camera) if not self._thinned(entry)]
        load = sum(self._weigh(entry[0]) for entry in counted)
        while len(counted) > 1 and load > self._size:
            oldest = counted.pop(0)
            load -= self._weigh(oldest[0])
            self._items.remove(oldest)
            gone.append(oldest)
        return gone

    def take(self) -> tuple[Item, bool] | None:
        """The next image, and whether it has a pose; None if none waits.

        It is the oldest of the camera whose turn was longest ago, so that no camera blocks another.
        """
        if not self._items:
            return None
        entry = self._items[0]
        if self._thin:
            entry = min(self._items, key=lambda entry: self._turns.get(self._camera(entry[0]), 0))
        self._items.remove(entry)
        self._turns[self._camera(entry[0])] = self._turn = self._turn + 1
        return entry

    def waits(self, camera: object) -> bool:
        """Whether an image of a camera waits."""
        return bool(self._of(camera))

    def withdraw(self, item: Item) -> bool:
        """Remove an image; returns whether it was waiting."""
        entry = next((entry for entry in self._items if entry[0] is item), None)
        if entry is not None:
            self._items.remove(entry)
        return entry is not None

    def clear(self) -> int:
        """Remove all waiting images; returns how many."""
        count = len(self._items)
        self._items.clear()
        return count
