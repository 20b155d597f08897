"""What every map under construction can do, whatever carries it: landmarks or pointmaps."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from typing import Protocol, TypeVar

import numpy as np

from dust3r_ros.cloud.cloud import Cloud, concatenate
from dust3r_ros.features.place_recognition import PairGraph
from dust3r_ros.geometry.pinhole import project
from dust3r_ros.geometry.pose import PnpResult
from dust3r_ros.geometry.rigid import invert, transform
from dust3r_ros.geometry.similarity import Similarity
from dust3r_ros.mapping.camera_stream import CameraStream
from dust3r_ros.mapping.reconstruction import Reconstruction
from dust3r_ros.mapping.state import LiveSubmap, SubmapState
from dust3r_ros.sparse.landmarks import Intrinsics
from dust3r_ros.tracking import Tracks
from dust3r_ros.types import Array, Image, Keyframe

Guess = Callable[[int], Array | None]  # where the rig says a camera was at a stamp: ``w_T_c`` (4, 4)
_Kind = TypeVar("_Kind", bound="Submap")


class Finder(Protocol):
    """Where frames are in a map."""

    def locate(self, stream: CameraStream, tracks: Tracks, near: Array | None = None) -> PnpResult | None:
        """Pose of a frame from its tracked corners, None when as few agree as may by chance; ``near``: a guess."""

    def relocalise(
        self, stream: CameraStream, gray: Image, image: Image, near: Array | None = None
    ) -> tuple[PnpResult, Tracks] | None:
        """Pose of a frame that lost its tracks, and what it sees of the map; ``near`` (4, 4): a guess."""

    def recall(self, stream: CameraStream, gray: Image) -> Tracks:
        """What an image seems to see of the map by its features."""

    def welcomes(self, stream: CameraStream) -> bool:
        """Whether it is worth looking for a camera."""


class Placement:
    """Where a rig of cameras says that frames are which see nothing known; a map that cannot use it ignores it."""

    def place(self, stream: CameraStream, stamp_ns: int, gray: Image, guess: Guess) -> PnpResult | None:
        """A frame where ``guess(stamp_ns)`` of the rig says it is, (4, 4), if enough speaks for it."""
        return None

    def afloat(self, camera: int) -> bool:
        """Whether keyframes of a camera hang on what the rig says: the rest of the map sees not what they see."""
        return False

    def report(self, index: int, w_T_c: Array, placed: bool) -> None:
        """Keyframe ``index`` is at ``w_T_c`` (4, 4) as the rig says; ``placed``: its frame was by ``place``."""
        return


class Chores:
    """What a live map puts off until there is time for it; a map that puts nothing off has none."""

    def go_live(self, beside: bool) -> None:
        """From now on what the next image does not need waits for ``work``; ``beside``: whole-map work in a child."""
        return

    @property
    def due(self) -> str:
        """Which of the things that wait comes next, "" where none does."""
        return ""

    def work(self, kind: str) -> None:
        """Do one of the things that wait, as ``due`` names them."""
        return

    @property
    def backlog(self) -> int:
        """How much waits: depth of keyframes, adjustments of the whole map."""
        return 0

    @property
    def depth_backlog(self) -> tuple[int, int]:
        """Keyframes that wait for all their depth; the newest's time (ns) after the newest of which some is known."""
        return 0, 0


class Submap(ABC):
    """One map: keyframes that it adds, frames that it finds. All maps of an atlas are of the same kind.

    What only one kind of map can do has a default that does nothing.
    """

    finder: Finder
    saving: LiveSubmap

    def __init__(self, state: Reconstruction) -> None:
        self.state = state
        self.placement, self.chores = Placement(), Chores()

    # What it has

    def __len__(self) -> int:
        """How many keyframes, with a pose or not."""
        return len(self.state.records)

    @property
    def initialised(self) -> bool:
        """Whether there are poses."""
        return self.state.initialised

    @property
    def intrinsics(self) -> list[Intrinsics]:
        """Of the cameras, in their order, pixels of the tracked images."""
        return self.state.sparse.intrinsics

    @intrinsics.setter
    def intrinsics(self, intrinsics: list[Intrinsics]) -> None:
        self.state.sparse.intrinsics = intrinsics

    @property
    def graph(self) -> PairGraph:
        """Which keyframes pairs connect."""
        return self.state.graph

    @property
    @abstractmethod
    def settling(self) -> bool:
        """Whether poses may still change by so much that frames are to be found again."""

    @property
    @abstractmethod
    def stuck(self) -> bool:
        """Whether nothing can be built from the first keyframes."""

    @property
    def young(self) -> bool:
        """Whether keyframes close together make calibration sure sooner."""
        return False

    @abstractmethod
    def keyframe(self, index: int) -> Keyframe:
        """A keyframe as it stands now."""

    @abstractmethod
    def pose(self, index: int) -> Array | None:
        """``w_T_c`` (4, 4) of a keyframe, None while unknown."""

    @abstractmethod
    def posed(self) -> list[int]:
        """The keyframes with a pose."""

    @abstractmethod
    def unit(self, index: int) -> float:
        """A length in the surroundings of a keyframe that grows when they do; NaN while unknown."""

    @abstractmethod
    def positions(self, ids: np.ndarray) -> Array:
        """(K, 3) where what frames follow is in the map, by its ids; NaN where that is unknown."""

    def drift(self, index: int, tracks: Tracks) -> Array:
        """(N, 2) by how much corners ``tracks`` are off in keyframe ``index``, pixels; NaN where that is unknown."""
        w_T_c, intrinsics = self.pose(index), self.intrinsics[self.state.records[index].stream.index]
        assert w_T_c is not None, f"keyframe {index} has no pose"
        seen = project(transform(invert(w_T_c), self.positions(tracks.ids)), intrinsics.focal, (0.0, 0.0))
        return intrinsics.lens.ideal(tracks.pixels) - seen

    def landmarks(self) -> Cloud:
        """The landmarks with a position, coloured."""
        return concatenate([])

    @property
    def regions(self) -> int:
        """Pieces of keyframes in which something moves."""
        return 0

    # How it grows

    def add_camera(self, stream: CameraStream, intrinsics: Intrinsics) -> None:
        """A camera before its first frame."""
        self.intrinsics.append(intrinsics)

    def accepts(self, stream: CameraStream) -> bool:
        """Whether a camera's frames may become keyframes now."""
        return True

    @abstractmethod
    def add(
        self, stamp_ns: int, stream: CameraStream, image: Image, gray: Image, tracks: Tracks, w_T_c: Array | None
    ) -> int | None:
        """A new keyframe seen at ``w_T_c``, if that is known; its index, None where it could not be added."""

    @abstractmethod
    def move(self, new_S_old: Similarity) -> None:
        """The whole map in other coordinates and another unit."""

    @abstractmethod
    def finish(self) -> None:
        """The last adjustment over everything."""

    def take_changed(self) -> tuple[Keyframe, ...]:
        """Keyframes with a pose that changed since the last call, with new versions."""
        indices, self.state.changed = sorted(self.state.changed & set(self.posed())), set()
        for index in indices:
            self.state.records[index].version += 1
        return tuple(self.keyframe(index) for index in indices)

    def mark_all(self) -> None:
        """Every keyframe counts as changed."""
        self.state.changed |= set(self.posed())

    def restore(self, state: SubmapState, streams: Mapping[str, CameraStream]) -> None:
        """A map of another session in place of an empty one; every keyframe counts as changed."""
        self.saving.restore(state, streams)
        self.intrinsics = list(state.intrinsics)
        self.state.generation = int(state.facts["generation"])
        self.state.initialised = bool(state.facts["initialised"])
        self.mark_all()

    # Two of a kind that become one

    def shared_landmarks(self: _Kind, other: _Kind, index: int) -> np.ndarray:
        """(K, 2) ids of landmarks, own and other's, that features of the other's keyframe ``index`` seem to share."""
        return np.zeros((0, 2), np.int64)

    def absorb(self: _Kind, other: _Kind, matches: np.ndarray, witness: np.ndarray) -> tuple[int, np.ndarray] | None:
        """Take another map in where landmarks ``matches`` (M, 2), own and other's, are the same.

        ``witness`` (M,): the keyframe of the other that showed each. Returns the index of its first keyframe, and what
        its landmarks are called now; None, and nothing changed, where they do not fit.
        """
        return None
