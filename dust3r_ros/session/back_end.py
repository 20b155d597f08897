"""The back end: a session that gets images from front ends and gives them what tracking needs of its map."""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from dust3r_ros.mapping.mapper import Mapper
from dust3r_ros.session.session import Session
from dust3r_ros.tracking import Tracks
from dust3r_ros.tracking.exchange import FollowedPose, KeyframeRequest, MapSnapshot
from dust3r_ros.types import Array, Calibration, MapUpdate

_KEYFRAMES = 8  # the newest: front ends have poses relative to one of them


def snapshot_of(
    mapper: Mapper, camera: str, stamp_ns: int, w_T_c: Array, epoch: int = 0, rectified: Calibration | None = None
) -> MapSnapshot | None:
    """The landmarks that the last image of ``camera``, taken at ``w_T_c`` (4, 4), shows; None without keyframes.

    ``stamp_ns`` is that image's; ``epoch`` and ``rectified`` as ``MapSnapshot`` has them.
    """
    stream, keyframes = mapper.stream(camera), mapper.newest_keyframes(_KEYFRAMES)
    if not keyframes:
        return None
    name, w_T_k, unit = keyframes[-1]
    tracks, anchored = stream.tracks.unique(), stream.anchored.unique()
    points = mapper.positions(tracks.ids)
    anchors = np.full((len(tracks.ids), 2), np.nan)
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
        rectified,
        {before: (w_T_b, unit_b) for before, w_T_b, unit_b in keyframes[:-1]},
    )


@dataclass(frozen=True, eq=False)
class Taken:
    """What became of one image: the map's ``update``, and the map around its camera if it has a pose."""

    update: MapUpdate
    snapshot: MapSnapshot | None


class BackEnd:
    """Feeds a session for front ends. For one thread."""

    def __init__(self, session: Session) -> None:
        self.session = session
        self._epoch = time.monotonic_ns()  # no other back end's, should this one stand in for one that ended
        self._known: tuple[object, int] = (session.mapper.submap, session.resets)
        self._last: dict[str, int] = {}  # stamps by camera

    @property
    def epoch(self) -> int:
        """Counts the maps that the cameras were in; poses of two epochs have nothing to do with each other."""
        known = self.session.mapper.submap, self.session.resets
        if known[0] is not self._known[0] or known[1] != self._known[1]:
            self._known, self._epoch = known, self._epoch + 1
            self._last.clear()
        return self._epoch

    def take(self, request: KeyframeRequest) -> Taken:
        """One image. Raises as ``Session.process`` does."""
        frame = request.frame
        pose = request.followed
        if pose is not None and pose.epoch == self.epoch and request.ids is not None and request.pixels is not None:
            self.session.see(frame.camera, Tracks(request.ids, request.pixels), pose.snapshot_ns)
        update = self.session.process(frame)
        epoch = self.epoch
        snapshot = None
        self._last[frame.camera] = frame.stamp_ns
        if update.w_T_c is not None:
            rectified = self.session.calibrations.rectified(frame.camera)
            snapshot = snapshot_of(self.session.mapper, frame.camera, frame.stamp_ns, update.w_T_c, epoch, rectified)
        return Taken(update, snapshot)

    def work(self) -> MapUpdate | None:
        """Do one of the things that were put off; None where there is none."""
        kind = self.session.due
        return self.session.work(kind) if kind else None

    def keep(self, poses: Iterable[FollowedPose]) -> None:
        """Poses of images that were followed only; those of maps that were before are left out."""
        epoch = self.epoch
        self.session.follow([pose for pose in poses if pose.epoch == epoch])

    def snapshots(self) -> tuple[MapSnapshot, ...]:
        """The map as it stands around every camera, after it changed without an image."""
        epoch, found = self.epoch, []
        for camera, stamp_ns in self._last.items():
            w_T_c = self.session.mapper.whereabouts(camera)
            if w_T_c is None:
                continue
            rectified = self.session.calibrations.rectified(camera)
            snapshot = snapshot_of(self.session.mapper, camera, stamp_ns, w_T_c, epoch, rectified)
            if snapshot is not None:
                found.append(snapshot)
        return tuple(found)
