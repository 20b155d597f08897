"""The back end: a session that takes images from front ends and returns the map data needed for tracking."""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import dataclass, replace

import numpy as np

from dust3r_ros.mapping.mapper import Mapper
from dust3r_ros.session.session import Session
from dust3r_ros.tracking import Tracks, join, no_tracks
from dust3r_ros.tracking.exchange import SNAPSHOT_KEYFRAMES, FollowedPose, KeyframeRequest, MapSnapshot, Renumbering
from dust3r_ros.types import Array, Calibration, MapUpdate


def snapshot_of(
    mapper: Mapper, camera: str, stamp_ns: int, w_T_c: Array, epoch: int = 0, rectified: Calibration | None = None
) -> MapSnapshot | None:
    """The landmarks seen in the last image of ``camera``, taken at ``w_T_c`` (4, 4); None without keyframes.

    ``stamp_ns`` is that image's; ``epoch`` and ``rectified`` as in ``MapSnapshot``.
    """
    stream, keyframes = mapper.stream(camera), mapper.newest_keyframes(SNAPSHOT_KEYFRAMES)
    if not keyframes:
        return None
    name, w_T_k, unit = keyframes[-1]
    tracks, anchored = stream.tracks.unique(), stream.anchored.unique()
    points, anchors = mapper.positions(tracks.ids), np.full((len(tracks.ids), 2), np.nan)
    _, now, then = np.intersect1d(tracks.ids, anchored.ids, assume_unique=True, return_indices=True)
    anchors[now] = anchored.pixels[then]
    intrinsics = mapper.focal(camera)
    return MapSnapshot(
        camera,
        stamp_ns,
        w_T_c,
        tracks.ids,
        tracks.pixels,
        points,
        anchors,
        stream.anchored_ns,
        len(anchored.ids),
        intrinsics.focal,
        intrinsics.lens,
        name,
        w_T_k,
        unit,
        epoch,
        mapper.revision,
        mapper.young,
        mapper.guessing_since,
        mapper.presumed,
        rectified,
        {before: (w_T_b, unit_b) for before, w_T_b, unit_b in keyframes[:-1]},
        mapper.numbering,
        named=stream.named,
    )


@dataclass(frozen=True, eq=False)
class Taken:
    """The result for one image: the map's ``update``, and the map around its camera if it has a pose."""

    update: MapUpdate
    snapshot: MapSnapshot | None


class BackEnd:
    """Runs a session for front ends. For one thread."""

    def __init__(self, session: Session) -> None:
        self.session = session
        self._epoch = time.monotonic_ns()  # differs from that of a back end this one may replace
        self._known: tuple[object, int] = (session.mapper.submap, session.resets)
        self._last: dict[str, int] = {}  # stamps by camera
        self._sent_numbering: dict[str, int] = {}  # the numbering of the last snapshot by camera

    @property
    def epoch(self) -> int:
        """Changes with the map; poses of different epochs are unrelated."""
        known = self.session.mapper.submap, self.session.resets
        if known[0] is not self._known[0] or known[1] != self._known[1]:
            self._known, self._epoch = known, self._epoch + 1
            self._last.clear()
            self._sent_numbering.clear()
        return self._epoch

    def take(self, request: KeyframeRequest) -> Taken:
        """Process an image. Raises as ``Session.process`` does."""
        frame = request.frame
        pose = request.followed
        if pose is not None and pose.epoch == self.epoch and request.ids is not None and request.pixels is not None:
            seen = self._seen(pose.numbering, request.ids, request.pixels)
            self.session.see(frame.camera, seen, pose.snapshot_ns, request.link)
        update = self.session.process(frame)
        epoch = self.epoch
        snapshot = None
        self._last[frame.camera] = frame.stamp_ns
        if update.w_T_c is not None:
            snapshot = self._snapshot(frame.camera, frame.stamp_ns, update.w_T_c, epoch)
        return Taken(update, snapshot)

    def work(self) -> MapUpdate | None:
        """Do one piece of postponed work; None if there is none."""
        kind = self.session.due
        return self.session.work(kind) if kind else None

    def keep(self, poses: Iterable[FollowedPose]) -> None:
        """Keep the poses of images that were only followed; poses in earlier maps are left out."""
        epoch = self.epoch
        self.session.follow([self._current(pose) for pose in poses if pose.epoch == epoch])

    def snapshots(self) -> tuple[MapSnapshot, ...]:
        """The current map around every camera, for when it changed without an image."""
        epoch, found = self.epoch, []
        for camera, stamp_ns in self._last.items():
            w_T_c = self.session.mapper.whereabouts(camera)
            snapshot = None if w_T_c is None else self._snapshot(camera, stamp_ns, w_T_c, epoch)
            if snapshot is not None:
                found.append(snapshot)
        return tuple(found)

    def _snapshot(self, camera: str, stamp_ns: int, w_T_c: Array, epoch: int) -> MapSnapshot | None:
        """``snapshot_of`` the map; the first one after landmarks got new ids carries these."""
        rectified = self.session.calibrations.rectified(camera)
        found = snapshot_of(self.session.mapper, camera, stamp_ns, w_T_c, epoch, rectified)
        if found is None:
            return None
        sent, self._sent_numbering[camera] = self._sent_numbering.get(camera, found.numbering), found.numbering
        return replace(found, renumbering=self._since(sent)) if sent != found.numbering else found

    def _since(self, numbering: int) -> Renumbering | None:
        """The new ids of landmarks since a ``numbering``, if that was the last one."""
        return self.session.mapper.renumbering if numbering == self.session.mapper.numbering - 1 else None

    def _seen(self, numbering: int, ids: np.ndarray, pixels: Array) -> Tracks:
        """Tracks of a front end by the current ids; only those it found by itself if it knows only much older ones."""
        seen, new = Tracks(ids, pixels), self._since(numbering)
        if numbering == self.session.mapper.numbering:
            return seen
        return join(seen.select(ids < 0), no_tracks() if new is None else seen.renumbered(new))

    def _current(self, pose: FollowedPose) -> FollowedPose:
        """A pose with the landmarks seen by their current ids."""
        seen = self._seen(pose.numbering, pose.ids, pose.pixels)
        return replace(pose, ids=seen.ids, pixels=seen.pixels, numbering=self.session.mapper.numbering)
