"""The common interface of maps under construction, based on landmarks or on pointmaps."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeVar

import numpy as np

from dust3r_ros.cloud.cloud import Cloud, concatenate
from dust3r_ros.features.place_recognition import PairGraph
from dust3r_ros.geometry.pinhole import project
from dust3r_ros.geometry.pose import PnpResult
from dust3r_ros.geometry.rigid import invert, transform
from dust3r_ros.geometry.similarity import Similarity
from dust3r_ros.mapping.camera_stream import CameraStream
from dust3r_ros.mapping.reconstruction import Culled, Reconstruction
from dust3r_ros.mapping.state import LiveSubmap, SubmapState
from dust3r_ros.sparse.consistency import Doubt
from dust3r_ros.sparse.landmarks import Intrinsics
from dust3r_ros.sparse.rolling_shutter import Motion, Motions
from dust3r_ros.timing import Tick, no_tick
from dust3r_ros.tracking import Tracks
from dust3r_ros.tracking.exchange import Renumbering, no_landmarks
from dust3r_ros.types import Array, Image, Keyframe

Guess = Callable[[int], Array | None]  # the rig's pose of a camera at a stamp: ``w_T_c`` (4, 4)
_Kind = TypeVar("_Kind", bound="Submap")


class Finder(Protocol):
    """Locates frames in a map."""

    def locate(self, stream: CameraStream, tracks: Tracks, near: Array | None = None) -> PnpResult | None:
        """Pose of a frame from its tracked corners, None if no more agree than by chance; ``near``: a guess."""

    def follow(self, stream: CameraStream, tracks: Tracks, near: Callable[[], Array | None]) -> PnpResult | None:
        """Pose of a frame from the corners followed into it, about ``near()`` (4, 4); None if they do not tell it."""

    def relocalise(
        self, stream: CameraStream, gray: Image, image: Image, near: Array | None = None, *, thorough: bool = False
    ) -> tuple[PnpResult, Tracks] | None:
        """Pose of a frame that lost its tracks, and what it sees of the map; ``near`` (4, 4): a guess.

        ``thorough``: compare it with more of the keyframes that look alike.
        """

    def recall(self, stream: CameraStream, gray: Image) -> Tracks:
        """Landmarks that an image seems to see by its features."""

    def accepts_camera(self, stream: CameraStream) -> bool:
        """Whether a camera is worth searching for."""


@dataclass(frozen=True, eq=False)
class LocatedFrame:
    """A frame that is no keyframe, at about ``w_T_c`` (4, 4), and the landmarks that it sees.

    ``gray`` (H, W): the tracked image, where it was kept. ``motion``: of the camera, where that is known and its
    shutter rolls; ``tracks`` are without it.
    """

    stream: CameraStream
    tracks: Tracks
    w_T_c: Array
    gray: Image | None
    motion: Motion | None = None

    @property
    def zooms(self) -> bool:
        """Whether its camera's focal changes, so that it is not quite that of the map."""
        return self.motion is not None and self.motion.zoom != 0.0


class Placement:
    """Places frames that see nothing known by their rig; a map that cannot use it ignores it."""

    def place(self, stream: CameraStream, stamp_ns: int, gray: Image, guess: Guess) -> PnpResult | None:
        """Place a frame at the rig's ``guess(stamp_ns)`` (4, 4), if there is enough evidence for it."""
        return None

    def rig_only(self, camera: int) -> bool:
        """Whether keyframes of a camera depend on the rig alone, sharing no landmarks with the rest of the map."""
        return False

    def report(self, index: int, w_T_c: Array, placed: bool) -> None:
        """Record the rig's pose ``w_T_c`` (4, 4) of keyframe ``index``; ``placed``: by ``place``."""
        return


# Kinds of deferred work. Who renumbers has all that knows landmarks of the map follow.
TAKE, BEGIN, PREVIEW, DEPTH, CULL, RENUMBER = "take", "begin", "preview", "depth", "cull", "renumber"


class DeferredWork:
    """Work that a live map defers until there is time; a map that defers nothing has none."""

    def go_live(self, beside: bool) -> None:
        """From now on defer what the next image does not need to ``work``; ``beside``: whole-map work in a child."""
        return

    @property
    def due(self) -> str:
        """The next deferred work, "" if there is none."""
        return ""

    def work(self, kind: str) -> None:
        """Do deferred work, as named by ``due``; raises ``InputError`` if there is none of that kind."""
        return

    @property
    def backlog(self) -> int:
        """How much work waits: depth of keyframes, adjustments of the whole map."""
        return 0

    @property
    def depth_backlog(self) -> tuple[int, int]:
        """Keyframes that wait for all their depth; by how many ns the newest is ahead of the newest with some depth."""
        return 0, 0


class Submap(ABC):
    """One map, which adds keyframes and locates frames. All maps of an atlas are of the same kind.

    Methods that only one kind of map supports have a default that does nothing. One class for all, since a mapper
    asks its map for all of it.
    """

    finder: Finder
    saving: LiveSubmap

    def __init__(self, state: Reconstruction) -> None:
        self.state = state
        self.placement, self.deferred = Placement(), DeferredWork()

    # Contents

    def __len__(self) -> int:
        """The number of keyframes, with a pose or not."""
        return len(self.state.records)

    @property
    def initialised(self) -> bool:
        """Whether there are poses."""
        return self.state.initialised

    @property
    def intrinsics(self) -> list[Intrinsics]:
        """The cameras' intrinsics, in order, pixels of the tracked images."""
        return self.state.sparse.intrinsics

    @intrinsics.setter
    def intrinsics(self, intrinsics: list[Intrinsics]) -> None:
        self.state.sparse.intrinsics = intrinsics

    @property
    def graph(self) -> PairGraph:
        """Which keyframes are connected by pairs."""
        return self.state.graph

    @property
    @abstractmethod
    def settling(self) -> bool:
        """Whether poses may still change so much that frames must be located again."""

    @property
    @abstractmethod
    def stuck(self) -> bool:
        """Whether nothing can be built from the first keyframes, or what was built shows nothing any longer."""

    def undo_start(self, stream: CameraStream) -> bool:
        """Take the first poses back if ``stream`` is lost so soon that they may be wrong; returns whether it was."""
        return False

    @property
    def young(self) -> bool:
        """Whether closer keyframes would make calibration certain sooner."""
        return False

    @abstractmethod
    def keyframe(self, index: int) -> Keyframe:
        """The current state of a keyframe."""

    def taken(self, index: int) -> tuple[int, int, str]:
        """Session, stamp and camera of a keyframe's image: no other frame has the same."""
        record = self.state.records[index]
        return record.session, record.stamp_ns, record.stream.name

    @abstractmethod
    def pose(self, index: int) -> Array | None:
        """``w_T_c`` (4, 4) of a keyframe, None while unknown."""

    @abstractmethod
    def posed(self) -> list[int]:
        """The keyframes with a pose."""

    @abstractmethod
    def unit(self, index: int) -> float:
        """A length that scales with the surroundings of a keyframe; NaN while unknown."""

    @abstractmethod
    def positions(self, ids: np.ndarray) -> Array:
        """(K, 3) positions in the map of what frames follow, by ids; NaN where unknown."""

    def drift(self, stream: CameraStream, w_T_c: Array, tracks: Tracks) -> Array:
        """(N, 2) drift of corners ``tracks`` in an image of a camera at ``w_T_c`` (4, 4), pixels; NaN where unknown."""
        intrinsics = self.intrinsics[stream.index]
        seen = project(transform(invert(w_T_c), self.positions(tracks.ids)), intrinsics.focal, (0.0, 0.0))
        return intrinsics.lens.ideal(tracks.pixels) - seen

    def zooms(self) -> dict[tuple[str, int], tuple[np.ndarray, Array]]:
        """By how much longer (log) than the map's focals that change are, by camera and session: stamps (K,) of
        keyframes, which rise, and the logs there (K,)."""
        found: dict[tuple[str, int], list[tuple[int, float]]] = {}
        changed = (record for record in self.state.records if record.zoom)  # asked with every image, and mostly none
        for record in sorted(changed, key=lambda record: record.stamp_ns):
            found.setdefault((record.stream.name, record.session), []).append((record.stamp_ns, record.zoom))
        return {key: (np.array([at for at, _ in own]), np.array([log for _, log in own])) for key, own in found.items()}

    def unrolled(self, stream: CameraStream, w_T_c: Array, tracks: Tracks, motion: Motion) -> Tracks:
        """Corners of an image of a camera at ``w_T_c`` (4, 4), read at once, with the map's focal."""
        intrinsics = self.intrinsics[stream.index]
        points = transform(invert(w_T_c), self.positions(tracks.ids))
        return motion.unrolled(intrinsics, points, tracks, np.array(intrinsics.rolling))

    def landmarks(self) -> Cloud:
        """The landmarks with a position, coloured."""
        return concatenate([])

    @property
    def contradicted(self) -> float:
        """The largest share of what a few keyframes in a row see that contradicts the map."""
        return 0.0

    @property
    def doubt(self) -> Doubt | None:
        """The worst stretch of keyframes with so large a share that the map may be bent there."""
        return None

    @property
    def failures(self) -> Sequence[str]:
        """Why keyframes have no depth although it was wanted, a sentence for each."""
        return ()

    @property
    def regions(self) -> int:
        """Number of moving regions in keyframes."""
        return 0

    # Growth

    def add_camera(self, stream: CameraStream, intrinsics: Intrinsics) -> None:
        """Add a camera before its first frame."""
        self.intrinsics.append(intrinsics)

    def accepts(self, stream: CameraStream) -> bool:
        """Whether a camera's frames may become keyframes now."""
        return True

    def begin_with_few(self) -> bool:
        """Make the first poses with the keyframes there are, as no more fit them; returns whether there are any."""
        return self.initialised

    def mask_own(self, stream: CameraStream) -> bool:
        """Leave out of a camera's keyframes what it carries along, as is known by now.

        Returns whether the map should rather be begun anew, since it is young and rests on it.
        """
        own = [record for record in self.state.records if record.stream is stream]
        for record in own:
            record.masked = stream.leave_out(record.masked)
        anew = bool(own) and not self.state.sure and not self.state.known
        for record in own if anew else ():
            record.gray = None if record.gray is None else stream.unveiled(record.gray)
        return anew

    @abstractmethod
    def add(
        self, stamp_ns: int, stream: CameraStream, image: Image, gray: Image, tracks: Tracks, w_T_c: Array | None
    ) -> int | None:
        """Add a keyframe seen at ``w_T_c``, if that is known; returns its index, None if it could not be added."""

    def link(
        self, stamp_ns: int, stream: CameraStream, image: Image, gray: Image, tracks: Tracks, w_T_c: Array | None
    ) -> int | None:
        """``add`` quickly, only for the sake of the next keyframe; None where that needs none."""
        return None

    def new_landmarks(self, count: int) -> np.ndarray:
        """Ids (N,) of landmarks that corners found elsewhere become; -1 where corners are of keyframes only."""
        return no_landmarks(count)

    def arrive(self, stream: CameraStream, tracks: Tracks) -> None:
        """A camera was recognised by what it sees: it is at the keyframe that shows most of that."""
        return

    def revisit(
        self, stamp_ns: int, stream: CameraStream, image: Image, gray: Image, tracks: Tracks, w_T_c: Array
    ) -> tuple[PnpResult, Tracks] | None:
        """Pose of a frame at ``w_T_c`` (4, 4) that shows what a keyframe shows, from as near; None where it is new.

        Returns also what it sees of that keyframe, which its camera then follows, with those of its ``tracks`` that go
        beyond it.
        """
        return None

    def measure(
        self, stream: CameraStream, gray: Image, tracks: Tracks, w_T_c: Array
    ) -> tuple[PnpResult, Tracks] | None:
        """Pose of a frame at about ``w_T_c`` (4, 4) by the nearest keyframe, and what it sees of it; None if unknown.

        Corners drift: while the camera explores, that shows in the next keyframe, but where it has been before, there
        is none. None also beside the keyframe that the corners come from.
        """
        return None

    @abstractmethod
    def move(self, new_S_old: Similarity) -> None:
        """Move the whole map to other coordinates and another unit."""

    def rest(self, stamp_ns: int) -> bool:
        """Adjust the whole map, as of the stamp of a frame that was no keyframe, if it grew and now rests.

        Returns whether that was done; live, it is put off.
        """
        return False

    @abstractmethod
    def adjust_last(self, motions: Callable[[], Motions] = Motions) -> None:
        """Adjust everything for the last time; ``motions`` of the cameras, as of the current map."""

    def exact_poses(self, frames: Sequence[LocatedFrame]) -> Sequence[Array | None]:
        """``w_T_c`` (4, 4) of frames with an image, measured in it as keyframes were in the last adjustment.

        None for those that cannot be.
        """
        return [None] * len(frames)

    @abstractmethod
    def finish(self, tick: Tick = no_tick, depth: bool = True) -> None:
        """Compute ``depth`` after the last adjustment; ``tick`` counts the keyframes that get it."""

    def take_changed(self) -> tuple[Keyframe, ...]:
        """Keyframes with a pose that changed since the last call, with new versions."""
        indices = sorted(self.state.changed & set(self.posed()))
        self.state.changed.difference_update(indices)
        for index in indices:
            self.state.records[index].version += 1
        return tuple(self.keyframe(index) for index in indices)

    def take_unposed(self) -> list[int]:
        """Changed keyframes that were taken once and have no pose any more: where the map is built anew."""
        unposed = self.state.changed - set(self.posed())
        self.state.changed -= unposed
        return [index for index in sorted(unposed) if self.state.records[index].version]

    def take_culled(self) -> list[Culled]:
        """The removals of keyframes since the last call, in order; the map's frames and names must follow."""
        found, self.state.culled = self.state.culled, []
        return found

    def renumber_landmarks(
        self, followed: Sequence[np.ndarray], remembered: Sequence[np.ndarray]
    ) -> Renumbering | None:
        """Give landmarks new ids, without gaps, in the old order; None for a kind of map that never does.

        The ids that are ``followed`` outside of the map stay apart from each other, and those ``remembered`` as long as
        the map has their landmarks.
        """
        return None

    def mark_all(self) -> None:
        """Mark every keyframe as changed."""
        self.state.changed |= set(self.posed())

    def restore(self, state: SubmapState, streams: Mapping[str, CameraStream]) -> None:
        """Restore a map of an earlier session into an empty one; every keyframe counts as changed."""
        self.saving.restore(state, streams)
        self.intrinsics = list(state.intrinsics)
        self.state.generation = int(state.facts["generation"])
        self.state.initialised = bool(state.facts["initialised"])
        self.state.adjusted, self.state.looked = len(self.state.records), self.state.visits
        self.mark_all()

    # Merging two maps of a kind

    def alike(self: _Kind, other: _Kind, index: int) -> list[tuple[int, np.ndarray]]:
        """Own keyframes that show what the other's keyframe ``index`` does, each with the landmarks that both have.

        These are ids (K, 2), own and other's.
        """
        return []

    def absorb(
        self: _Kind, other: _Kind, matches: np.ndarray, shown_by: np.ndarray, strange: bool = False
    ) -> tuple[int, np.ndarray] | None:
        """Take another map in, given identical landmarks ``matches`` (M, 2), own and other's.

        ``shown_by`` (M,): the keyframe of the other map that showed each. ``strange``: nothing but these says that both
        are of one place, so keyframes that would stand side by side must see the same; ``close_loops`` must follow.
        Returns the index of its first keyframe and the new ids of its landmarks; None, and nothing changed, if they do
        not fit.
        """
        return None

    def close_loops(self, loops: Sequence[tuple[int, int, np.ndarray]]) -> None:
        """Adjust a map that others were joined to, and link its keyframes that look alike.

        ``loops``: two indices, and ids (K, 2) of what both seem to see.
        """
        return

    def drop(self, keyframes: Sequence[int]) -> None:
        """Remove keyframes that show what others do."""
        return
