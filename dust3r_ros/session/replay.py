"""Feeds recorded frames to a mapper; unusable ones are counted, not fatal."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from dust3r_ros.errors import ConfigError, InputError
from dust3r_ros.io.image_sources import sizes_of
from dust3r_ros.io.manifest import Event, FrameEntry, checksum, unpacked
from dust3r_ros.tracking import Tracks
from dust3r_ros.tracking.exchange import FollowedPose
from dust3r_ros.types import Array, Calibration, Frame, Image, MapUpdate

if TYPE_CHECKING:
    from dust3r_ros.io.frames import FrameSource, Shot
    from dust3r_ros.io.manifest import Manifest
    from dust3r_ros.mapping.mapper import Mapper


# How far stamps of a recording may be out of order, and how much of it is kept for that.
_DISORDER_NS = 500_000_000
# How far to read on for something that is missing.
_AHEAD_NS = 5_000_000_000


class Replayable(Protocol):
    """What the events of a manifest apply to (``session.Session``)."""

    def know(self, camera: str, calibration: Calibration) -> object: ...

    def place(self, camera: str, r_T_c: Array) -> object: ...

    def set_scale(self, factor: float) -> object: ...

    def set_mapping(self, mapping: bool) -> object: ...

    def reset(self) -> object: ...

    def follow(self, poses: Sequence[FollowedPose]) -> object: ...

    def see(self, camera: str, seen: Tracks, snapshot_ns: int, link: bool) -> object: ...

    def go_live(self) -> object: ...

    def work(self, kind: str) -> object: ...

    def load(self, path: str) -> int: ...


def apply(session: Replayable, event: Event) -> None:
    """Repeat an event of a manifest. Raises ``InputError`` if that is impossible.

    A time jump is not repeated: the frames' stamps cause it again.
    """
    again = _AGAIN.get(event.kind)
    if again is None:
        return
    try:
        again(session, event)
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
        raise InputError(f"event '{event.kind}' of a manifest cannot be read: {error}") from error


def _camera(event: Event) -> str:
    """The name of an event's camera."""
    return str(event.values.get("camera"))


def _reset(session: Replayable, event: Event) -> None:
    """Forget the map, if a user asked for that."""
    if event.values.get("by", "user") == "user":  # resets by calibrations and stamps happen again by themselves
        session.reset()


def _see(session: Replayable, event: Event) -> None:
    """Pass on landmarks that a front end followed into the next frame."""
    tracks = Tracks(event.unpacked("ids"), event.unpacked("pixels"))
    session.see(_camera(event), tracks, int(event.values["snapshot_ns"]), bool(event.values.get("link", False)))


def _load(session: Replayable, event: Event) -> None:
    """Load a saved map in place of this one; raises ``InputError`` if it is not the same as in the recorded run."""
    path, wanted = str(event.values["path"]), event.values.get("keyframes")
    found = session.load(path)
    if wanted is not None and found != wanted:
        raise InputError(f"map '{path}' has {found} keyframes; it had {wanted} when the run was recorded")


# The action for each kind of event.
_AGAIN: Mapping[str, Callable[[Replayable, Event], object]] = {
    "calibration": lambda session, event: session.know(_camera(event), event.calibration()),
    "extrinsics": lambda session, event: session.place(_camera(event), event.array("r_T_c")),
    "scale": lambda session, event: session.set_scale(float(event.values["factor"])),
    "mode": lambda session, event: session.set_mapping(bool(event.values["mapping"])),
    "reset": _reset,
    "seen": _see,
    "live": lambda session, event: session.go_live(),
    "work": lambda session, event: session.work(str(event.values["what"])),
    "followed": lambda session, event: session.follow([_followed(pose) for pose in event.values["poses"]]),
    "load": _load,
}


def _followed(values: Mapping[str, Any]) -> FollowedPose:
    return FollowedPose(
        int(values["stamp_ns"]),
        str(values["camera"]),
        int(values["epoch"]),
        int(values["keyframe"]),
        np.array(values["k_T_c"], np.float64),
        float(values["unit"]),
        unpacked(values["ids"]),
        unpacked(values["pixels"]),
        int(values["snapshot_ns"]),
        int(values.get("numbering", 0)),
    )


def images_to(mapper: Mapper) -> Callable[[Frame], MapUpdate]:
    """Feeds a mapper without a session: images and masks, no other companions."""
    return lambda frame: mapper.process(frame.stamp_ns, frame.camera, frame.image, frame.mask)


class Replay:
    """Iterating feeds the frames among ``items`` to ``process`` and yields each update.

    A refused frame (wrong size, stamp that does not advance, unusable image) is counted in ``refused`` and the run
    continues; ``reason`` is that of the first one. Events go to ``apply``; those that fail are counted in ``undone``.
    ``mapped`` counts the frames that were used, ``image`` is the newest of them.
    """

    def __init__(
        self,
        process: Callable[[Frame], MapUpdate],
        items: Iterable[Frame | Event],
        apply: Callable[[Event], object] | None = None,
    ) -> None:
        self._process, self._items, self._apply = process, items, apply
        self.refused = self.mapped = self.undone = 0
        self.reason = ""
        self.image: Image | None = None

    def __iter__(self) -> Iterator[MapUpdate]:
        for item in self._items:
            try:
                if isinstance(item, Frame):
                    update = self._process(item)
                elif self._apply is not None:
                    self._apply(item)
            except (InputError, ConfigError) as error:
                self.refused += isinstance(item, Frame)
                self.undone += isinstance(item, Event)
                self.reason = self.reason or str(error)
                continue
            if isinstance(item, Frame):
                self.mapped += 1
                self.image = item.image
                yield update


class ManifestReplay:
    """The frames and events of a manifest, in order, taken from the original recording.

    A frame whose image, mask or depth differs from what was mapped, or is not in the recording, is left out and counted
    in ``missing``; ``reason`` is that of the first one.
    """

    def __init__(self, source: FrameSource, manifest: Manifest) -> None:
        self._source, self._manifest = source, manifest
        self._count = sum(isinstance(entry, FrameEntry) for entry in manifest.entries())
        self.missing = 0
        self.reason = ""

    def __len__(self) -> int:
        """Number of frames in the manifest."""
        return self._count

    def __iter__(self) -> Iterator[Frame | Event]:
        self.missing, self.reason = 0, ""
        frames = (entry for entry in self._manifest.entries() if isinstance(entry, FrameEntry))
        wanted = {(frame.camera, frame.stamp_ns) for frame in frames}
        self._source.sizes.update(sizes_of(camera for camera, _ in wanted))
        self._source.named = {stamp_ns: camera for camera, stamp_ns in wanted}
        window = _Window(self._source, wanted)
        for entry in self._manifest.entries():
            if isinstance(entry, Event):
                yield entry
                continue
            try:
                frame = window.frame(entry)
            except InputError as error:
                self.missing += 1
                self.reason = self.reason or str(error)
            else:
                yield frame


class _Window:
    """The undecoded part of a recording around the stamp requested last."""

    def __init__(self, source: FrameSource, wanted: set[tuple[str, int]]) -> None:
        self._source, self._wanted = source, wanted
        self._rewind()

    def _rewind(self) -> None:
        self._shots = self._source.shots()
        self._kept: dict[tuple[str, str], dict[int, Shot]] = defaultdict(dict)
        self._newest: dict[tuple[str, str], int] = {}
        self._read_to = -1
        self._at: dict[str, int] = {}

    def frame(self, entry: FrameEntry) -> Frame:
        """The frame of an entry. Raises ``InputError`` if it is missing or has changed."""
        if entry.stamp_ns <= self._at.get(entry.camera, -1):  # the recording was played several times
            self._rewind()
        self._at[entry.camera] = entry.stamp_ns
        image = self._find("image", entry, entry.image, 0)
        mask = self._find("mask", entry, entry.mask, _DISORDER_NS) if entry.mask else None
        depth = self._find("depth", entry, entry.depth, _DISORDER_NS) if entry.depth else None
        self._forget(entry.stamp_ns - _DISORDER_NS)
        known = entry.o_T_c, entry.up, depth, entry.points, entry.focal
        return Frame(entry.stamp_ns, entry.camera, image, mask, *known)

    def _find(self, kind: str, entry: FrameEntry, wanted: int, tolerance_ns: int) -> Any:
        """The nearest item with the checksum ``wanted``."""
        at, stream = entry.stamp_ns, (kind, entry.camera)
        self._read(stream, at + tolerance_ns, at)
        near = [stamp_ns for stamp_ns in self._kept[stream] if abs(stamp_ns - at) <= tolerance_ns]
        for stamp_ns in sorted(near, key=lambda stamp_ns: (abs(stamp_ns - at), stamp_ns)):
            pixels = self._kept[stream][stamp_ns].load()
            if checksum(pixels) == wanted:
                if kind == "image":
                    del self._kept[stream][stamp_ns]
                return pixels
        what = "is not the one that was mapped" if near else "is not in the recording"
        raise InputError(f"{kind} of camera '{entry.camera}' at {at} ns {what}")

    def _read(self, stream: tuple[str, str], until_ns: int, at_ns: int) -> None:
        """Read on until the requested item must have come."""
        while self._newest.get(stream, -1) < until_ns and self._read_to < at_ns + _AHEAD_NS:
            if stream[0] == "image" and at_ns in self._kept[stream]:
                return
            shot = next(self._shots, None)
            if shot is None:
                return
            if isinstance(shot, InputError):
                continue
            key = shot.kind, shot.camera
            self._newest[key] = max(self._newest.get(key, -1), shot.stamp_ns)
            self._read_to = max(self._read_to, shot.stamp_ns)
            if shot.kind != "image" or (shot.camera, shot.stamp_ns) in self._wanted:
                self._kept[key][shot.stamp_ns] = shot

    def _forget(self, before_ns: int) -> None:
        for shots in self._kept.values():
            for stamp_ns in [stamp_ns for stamp_ns in shots if stamp_ns < before_ns]:
                del shots[stamp_ns]
