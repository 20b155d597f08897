"""Search for frames that lost their corners: in their own map, then in sleeping maps."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from functools import partial

import numpy as np

from dust3r_ros.backends.base import Backend
from dust3r_ros.config import MapperConfig
from dust3r_ros.geometry.pose import PnpResult
from dust3r_ros.mapping.atlas import Atlas, AtlasEntry
from dust3r_ros.mapping.camera_stream import CameraStream
from dust3r_ros.mapping.rig import Rig
from dust3r_ros.mapping.submap import Submap
from dust3r_ros.tracking import Tracks, join
from dust3r_ros.types import Array, Image

_SILENT_NS = 30_000_000_000  # the last pose of a silent camera no longer holds
_UNTOLD = 8  # newest keyframes waiting for another camera's next frame
_EAGER, _RELUCTANT = 6, 3  # frames of a camera that was never found: all of the first, then one in so many


class Search:
    """Searches for frames in the maps of an atlas, and records when each camera was found."""

    def __init__(self, atlas: Atlas, backend: Backend, config: MapperConfig, rig: Rig) -> None:
        self._atlas, self._backend, self._config = atlas, backend, config
        self._rig = rig
        self._lost_since: dict[str, int] = {}  # last stamps by camera
        self._found_at: dict[str, int] = {}  # newest stamps by camera
        self._by_rig: set[tuple[str, int]] = set()
        self._untold: list[tuple[int, str, int, bool]] = []  # keyframe, camera, stamp, whether the rig placed it
        self._vain: Counter[str] = Counter()  # frame counts of cameras that were never found

    def here(
        self, stamp_ns: int, stream: CameraStream, gray: Image, image: Image, tracks: Tracks
    ) -> tuple[Tracks, PnpResult | None]:
        """Search for a frame in the active map by its features; landmarks it sees join its ``tracks``."""
        submap = self._atlas.active.submap
        if not submap.finder.welcomes(stream):
            return tracks, None
        near = self._rig.looks(stream.name, stamp_ns)
        # A camera with an unknown pose must not slow down those with a known one.
        if near is None and stream.name not in self._found_at:
            self._vain[stream.name] += 1
            if self._vain[stream.name] > _EAGER and self._vain[stream.name] % _RELUCTANT:
                return tracks, None
        found = submap.finder.relocalise(stream, gray, stream.resize.apply(image), near)
        if found is None:
            return tracks, self._placed(stamp_ns, stream, gray)
        return join(found[1], tracks.select(~np.isin(tracks.ids, found[1].ids))), found[0]

    def _placed(self, stamp_ns: int, stream: CameraStream, gray: Image) -> PnpResult | None:
        """Place a frame that sees nothing known by other cameras of the rig."""
        guess = partial(self._rig.guess, stream.name)
        if guess(stamp_ns) is None:
            return None
        found = self._atlas.active.submap.placement.place(stream, stamp_ns, gray, guess)
        if found is not None:
            self._by_rig.add((stream.name, stamp_ns))
        return found

    def elsewhere(
        self, stamp_ns: int, stream: CameraStream, gray: Image, image: Image
    ) -> tuple[AtlasEntry, PnpResult, Tracks] | None:
        """Search for a frame in sleeping maps; None if none knows it, and while other cameras are in the active map."""
        if any(stamp_ns - at < self._patience_ns for name, at in self._found_at.items() if name != stream.name):
            return None
        # The backend knows views by their number in their map. Landmarks are found without it.
        forget = _nothing if self._backend.uses_poses else self._backend.clear
        return self._atlas.find(stream, gray, stream.resize.apply(image), forget)

    def gives_up(self, stamp_ns: int, camera: str, found: PnpResult | None) -> bool:
        """True if this camera and every one ever found in the active map have been lost for long.

        At once in a map that shows nothing any longer.
        """
        submap = self._atlas.active.submap
        if found is not None or not submap.initialised:
            self._lost_since.pop(camera, None)
            return False
        if submap.stuck:
            return True
        self._lost_since.setdefault(camera, stamp_ns)
        return all(self._gone(stamp_ns, name) for name in self._found_at.keys() | {camera})

    def _gone(self, stamp_ns: int, camera: str) -> bool:
        if camera in self._lost_since:
            return stamp_ns - self._lost_since[camera] >= self._patience_ns
        return stamp_ns - self._found_at[camera] >= max(_SILENT_NS, self._patience_ns)

    def found(self, stamp_ns: int, stream: CameraStream, w_T_c: Array, keyframe: int | None) -> None:
        """Record the pose of a frame, which may be a keyframe."""
        camera, placed = stream.name, (stream.name, stamp_ns) in self._by_rig
        self._by_rig.clear()
        self._found_at[camera] = stamp_ns
        submap = self._atlas.active.submap
        if keyframe is not None:
            self._untold.append((keyframe, camera, stamp_ns, placed))
            del self._untold[:-_UNTOLD]
        if not placed and not submap.placement.afloat(stream.index):  # else the rig would get back its own guess
            self._rig.located(camera, stamp_ns, w_T_c)
        self._report(submap, camera)

    def renumber(self, new: np.ndarray) -> None:
        """Keyframe k of the active map becomes ``new[k]`` (N,), or leaves if that is negative."""
        self._untold = [(int(new[entry[0]]), *entry[1:]) for entry in self._untold if new[entry[0]] >= 0]

    def _report(self, submap: Submap, camera: str) -> None:
        """Report keyframes' poses by the rig once another camera has a newer frame: ``camera`` just sent one."""
        waiting = self._untold
        self._untold = [entry for entry in waiting if entry[1] == camera]
        for keyframe, other, stamp_ns, placed in waiting:
            w_T_c = self._rig.guess(other, stamp_ns)
            if other != camera and w_T_c is not None:
                submap.placement.report(keyframe, w_T_c, placed)

    def relearn(self, streams: Iterable[CameraStream]) -> None:
        """Feed the rig again after the map changed."""
        active = self._atlas.active
        afloat = {stream.name for stream in streams if active.submap.placement.afloat(stream.index)}
        poses = active.frames.trajectory() if active.submap.initialised else []
        self._rig.relearn(pose for pose in poses if pose.camera not in afloat)

    def met(self, camera: str) -> bool:
        """Whether the camera was ever found in the active map."""
        return camera in self._found_at

    @property
    def _patience_ns(self) -> float:
        return 1e9 * self._config.lost_patience_s

    def clear(self) -> None:
        """Another map: no camera is lost or found yet."""
        self._lost_since.clear()
        self._found_at.clear()
        self._untold.clear()
        self._vain.clear()
        self._rig.renew()


def _nothing() -> None:
    """Forget nothing."""
