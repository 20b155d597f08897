"""The read side of a mapper: its map, and its parts for a journal to read and restore."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from dust3r_ros.cloud.cloud import Cloud
from dust3r_ros.config import MapperConfig
from dust3r_ros.errors import InputError
from dust3r_ros.features.features import shows_twice
from dust3r_ros.features.place_recognition import Appearance
from dust3r_ros.geometry.pose import PnpResult
from dust3r_ros.mapping.atlas import Atlas, AtlasEntry
from dust3r_ros.mapping.camera_stream import Cameras, CameraStream, KeyframeRecord
from dust3r_ros.mapping.frames import CameraFrame
from dust3r_ros.mapping.localization import localize
from dust3r_ros.mapping.state import MapState
from dust3r_ros.mapping.submap import Submap
from dust3r_ros.sparse.landmarks import Intrinsics
from dust3r_ros.tracking.exchange import Renumbering
from dust3r_ros.types import Array, Camera, Image, Keyframe, MapCounts, MapUpdate, StampedPose, TrackingState

_NAMED = 12  # images, in a sentence
_LOOKED_AT = 5  # keyframes of a camera, the first: what most of them seem to be
_TWO_TO_ONE, _SEAM, _TEXTURE = 0.01, 2.0, 8.0  # of a 360 degree image: its shape, seam, and edges
_HALF = {"side by side": "crop=iw/2:ih:0:0", "one above the other": "crop=iw:ih/2:0:0"}  # in the words of ffmpeg


@dataclass(frozen=True, eq=False)
class LiveMap:
    """The saved parts of a mapper: references, not copies."""

    atlas: Atlas
    streams: Cameras
    appearance: Appearance
    config: MapperConfig
    cameras: dict[str, Camera]
    counts: MapCounts
    revision: int


def resume(live: LiveMap, state: MapState) -> None:
    """Continue a saved map in place of an empty one; no camera has a pose until a frame is located.

    Raises ``InputError``, and changes nothing, if images were already processed, or if the map was
    made with another kind of backend or other image sizes.
    """
    if list(live.streams):
        raise InputError("a map can be continued before the first image only; reset or start again to load one")
    config, kind = live.config, live.atlas.active.submap.saving.kind
    if not state.submaps:  # the session ended before its first image
        live.atlas.restore(state, {})
        return
    for what, saved, own in (
        ("working_size", state.working_size, config.working_size),
        ("tracking_size", state.tracking_size, config.tracking_size),
    ):
        if saved != own:
            raise InputError(f"the map was made with {what} {saved}, this session has {own}; set {what} to {saved}")
    for submap in state.submaps:
        if submap.kind != kind:
            raise InputError(
                f"the map is carried by {submap.kind}, which the backend '{config.backend}' does not continue, since "
                f"it makes {kind}; choose the backend that the map was made with"
            )
    streams = {}
    for camera in state.cameras:
        streams[camera.name] = live.streams.open(camera.name, camera.width, camera.height)[0]
    live.appearance.restore(state.appearance)
    live.atlas.restore(state, streams)


@dataclass(frozen=True)
class MaskedShare:
    """Shares of the pixels of the newest keyframes (``window`` of them), each pixel counted once.

    ``masked``: under the cameras' masks; ``moving``: on objects that move or were taken away; ``far``: the rest
    without depth above ``min_confidence``: sky, points far away for the camera's path, surfaces without texture.
    ``regions``: number of moving regions in all keyframes.
    """

    masked: float = 0.0
    moving: float = 0.0
    far: float = 0.0
    regions: int = 0


def masked_share(submap: Submap, config: MapperConfig) -> MaskedShare:
    """The shares over the newest keyframes of a map; all 0 while there are none."""
    newest = submap.posed()[-config.window :]
    shares = []
    for index in newest:
        record, known = submap.state.records[index], submap.keyframe(index).confidence > config.min_confidence
        none = np.zeros(known.shape, bool)
        masked = none if record.masked is None else record.masked
        moving = none if record.moving is None else record.moving & ~masked
        shares.append((masked.mean(), moving.mean(), (~(known | masked | moving)).mean()))
    parts = np.mean(shares, axis=0).tolist() if shares else [0.0] * 3
    return MaskedShare(parts[0], parts[1], parts[2], submap.regions)


def _changes(zooms: Mapping[tuple[str, int], tuple[np.ndarray, Array]], camera: str) -> Array:
    """(K,) by how much longer (log) than the map's the focal of a camera was, where it changed."""
    return np.concatenate([np.zeros(0), *(logs for (name, _), (_, logs) in zooms.items() if name == camera)])


def _all_around(gray: Image | None) -> bool:
    """Whether an image (H, W) is 360 degrees wide: twice as wide as high, and its right edge continues at the left."""
    if gray is None or abs(gray.shape[1] / (2 * gray.shape[0]) - 1) > _TWO_TO_ONE:
        return False
    edges = gray[:, [-2, -1, 0, 1]].astype(np.float64)
    right, seam, left = np.abs(np.diff(edges)).mean(axis=0)
    return bool(edges.std(axis=0).min() > _TEXTURE and seam < _SEAM * max(left, right))


def _of_views(stream: CameraStream, records: Sequence[KeyframeRecord]) -> list[str]:
    """What most of the first keyframes of a camera show that no single camera sees through a lens, a sentence each."""
    first = [record for record in records if record.stream is stream][:_LOOKED_AT]
    found = [shows_twice(record.features, *(2.0 * stream.half_size).tolist()) for record in first]
    said = []
    if 2 * sum(map(bool, found)) > len(first) and stream.images != 1:  # a single one may show a pattern
        said.append(
            f"images of camera '{stream.name}' show the same twice, {max(found)}, as those of a stereo camera do: a "
            f"map of both halves is wrong; map one half of each (ffmpeg -vf {_HALF[max(found)]} cuts it out of a video)"
        )
    if 2 * sum(_all_around(record.gray) for record in first) > len(first):
        said.append(
            f"images of camera '{stream.name}' show all around, 360 degrees, which no lens does: the map is wrong; map "
            "views cut out of them (of a video, ffmpeg -vf v360=e:flat:h_fov=90:v_fov=60 cuts them out)"
        )
    return said


def _of_images(camera: str, intrinsics: Intrinsics, logs: Array) -> list[str]:
    """What the images of a camera seem to be that images should not be, a sentence each; ``logs``: of ``_changes``."""
    said = []
    if len(logs):
        said.append(
            f"images of camera '{camera}' have focal lengths of their own, {np.expm1(logs.min()):+.1%} to "
            f"{np.expm1(logs.max()):+.1%} from the one said: it zoomed or focused anew, which the map follows"
        )
    if intrinsics.zoom:
        said.append(
            f"parts of what camera '{camera}' saw have focal lengths of their own, +-{intrinsics.zoom:.0%}: either it "
            "zoomed or focused anew, which a map cannot follow, or the map is bent"
        )
    if intrinsics.squeeze:
        said.append(
            f"pixels of camera '{camera}' seem {np.exp(intrinsics.squeeze):.2f} times as wide as high, which bends the "
            "map: scale its images so that they are square"
        )
    return said


class MapView:
    """The active map of an atlas, for display, saving and queries: a method or property for each question."""

    def __init__(self, config: MapperConfig, atlas: Atlas, cameras: Cameras, appearance: Appearance) -> None:
        self.config = config
        self.mapping = config.mode == "mapping"  # if false, the map is fixed, and cameras are only located in it
        self._atlas, self._cameras, self._appearance = atlas, cameras, appearance
        self._counts = self.loaded = MapCounts()  # ``loaded``: those of the map that this run continued
        self._last_stamp: dict[str, int] = {}  # by camera
        self.revision = 0  # rises when the whole map is corrected at once

    def _report_live(self) -> None:
        """Announce a switch of maps to live viewers by a new revision."""
        self.revision += self._active.live is not None

    def pose_of(self, frame: CameraFrame) -> Array | None:
        """Where a frame is (4, 4), in the map as it is by now if it became a keyframe; None: unknown."""
        return frame.w_T_c if frame.keyframe is None else self.submap.pose(frame.keyframe)

    def outcome(self, frame: CameraFrame) -> MapUpdate:
        """What became of a frame, and what changed with it."""
        keyframe = frame.keyframe
        return MapUpdate(
            frame.stamp_ns,
            frame.stream.name,
            frame.state,
            w_T_c=self.pose_of(frame),
            covariance=None if frame.found is None else frame.found.covariance,
            keyframe=None if keyframe is None else self._active.name(keyframe),
            changed=self._active.take_changed() if self.submap.initialised else (),
            cameras=self.cameras,
            removed=frame.removed,
        )

    def news(self, removed: tuple[int, ...] = ()) -> MapUpdate:
        """Changes that came without a frame; ``removed``: names of keyframes that are known to have left."""
        camera, stamp = max(self._last_stamp.items(), key=lambda item: item[1], default=("", 0))
        known = self.submap.initialised
        state = TrackingState.TRACKING if known else TrackingState.INITIALISING
        changed = self._active.take_changed() if known else ()
        removed += tuple(map(self._active.name, self.submap.take_unposed())) if known else ()
        return MapUpdate(stamp, camera, state, changed=changed, removed=removed, cameras=self.cameras)

    def localize(self, camera: str, image: Image) -> PnpResult:
        """Pose of an image (H, W, 3) of ``camera``; the map is unchanged. See ``localization.localize``."""
        return localize(self.submap, self._cameras, self.config, camera, image)

    def trajectory(
        self, only: Collection[tuple[int, str]] | None = None, sessions: range | None = None
    ) -> list[StampedPose]:
        """Every tracked frame in the current map, by session and time; ``sessions``: only those.

        ``only``: (stamp, camera) of the wanted ones, as the clock is now.
        """
        sessions = self.run[-1:] if only is not None else sessions
        return self._active.frames.trajectory(only, sessions) if self.submap.initialised else []

    @property
    def run(self) -> range:
        """The sessions of this run, another one whenever stamps began anew; a map that was loaded has earlier ones."""
        return range(self._atlas.first_session, self._atlas.session + 1)

    @property
    def guessing_since(self) -> int | None:
        """As of ``Reconstruction``, while the map grows."""
        return self.submap.state.guessing_since if self.mapping else None

    @property
    def presumed(self) -> bool:
        """As of ``Reconstruction``, while the map grows."""
        return self.mapping and self.submap.state.presumed

    @property
    def due(self) -> str:
        """What ``work`` would do next; "" if nothing."""
        return self.submap.deferred.due

    def path(self, camera: str, most: int) -> list[StampedPose]:
        """At most ``most`` poses of a camera, evenly chosen, in order of arrival; the newest is among them."""
        return self._active.frames.path(camera, most) if self.submap.initialised else []

    @property
    def keyframes(self) -> tuple[Keyframe, ...]:
        """All keyframes of the active map with a pose."""
        return tuple(self._active.keyframe(i) for i in self.submap.posed())

    def distance(self, first: int, second: int) -> float:
        """Distance between the centres of two keyframes, map units. Raises ``InputError`` for unknown ones."""
        centers = {k.index: k.w_T_c[:3, 3] for k in self.keyframes}
        missing = sorted({first, second} - centers.keys())
        if missing:
            raise InputError(f"keyframe {missing[0]} is not in the map; see the graph for those that are")
        if first == second:
            raise InputError(f"keyframe {first} was given twice; a distance is between two")
        return float(np.linalg.norm(centers[first] - centers[second]))

    def landmarks(self) -> Cloud:
        """The landmarks with a position, coloured; none in a map based on pointmaps."""
        return self.submap.landmarks()

    @property
    def cameras(self) -> dict[str, Camera]:
        """Camera estimates at native resolution, by name."""
        submap, zooms, found = self.submap, self.submap.zooms(), {}
        for stream in self._cameras:
            pairs, logs = submap.graph.count(stream.name), _changes(zooms, stream.name)
            camera = self._cameras.describe(stream, submap.intrinsics[stream.index], pairs)
            least, most = (camera.focal * np.exp([logs.min(), logs.max()])).tolist() if len(logs) else (0.0, 0.0)
            found[stream.name] = replace(camera, focal_range=(least, most))
        return found

    @property
    def counts(self) -> MapCounts:
        """Counts of frames and keyframes."""
        return replace(
            self._counts,
            keyframes=len(self.submap.posed()),
            tracked=self._active.frames.count() if self.submap.initialised else 0,
            pairs=self.submap.graph.pairs,
            maps=len(self._atlas.asleep) + self.submap.initialised,
        )

    @property
    def masked_share(self) -> MaskedShare:
        """How much of the cameras' view is not in the map."""
        return masked_share(self.submap, self.config)

    @property
    def doubts(self) -> tuple[str, ...]:
        """What makes the map doubtful or leaves it unfinished, a sentence each."""
        said, doubt, failures = [], self.submap.doubt, self.submap.failures
        if doubt is not None:
            first, last = self._active.name(doubt.first), self._active.name(doubt.last)
            said.append(
                f"{doubt.share:.0%} of what keyframes {first} to {last} see contradicts the map: it may be bent there, "
                f"or follow something large that moves"
            )
        if strange := self.submap.state.strange:
            some = ", ".join(f"{1e-9 * stamp:.3f}" for stamp in sorted(record.stamp_ns for record in strange)[:_NAMED])
            said.append(
                f"{len(strange)} images see something else than images beside them in the map: it may be folded where "
                f"things look alike (at {some}{', …' if len(strange) > _NAMED else ''} s)"
            )
        for stream in self._cameras:
            logs = _changes(self.submap.zooms(), stream.name)
            said += _of_images(stream.name, self.submap.intrinsics[stream.index], logs)
            said += _of_views(stream, self.submap.state.records)
        if failures:
            count = f"{len(failures)} of {len(self.submap.posed())} keyframes"
            said.append(f"depth failed for {count} ({failures[-1]}); these keep their previews")
        return tuple(said)

    @property
    def edges(self) -> list[tuple[int, int, float]]:
        """The pair graph by names: (first, second, weight)."""
        name = self._active.name
        return [(name(first), name(second), weight) for first, second, weight in self.submap.graph.edges]

    def stream(self, camera: str) -> CameraStream:
        """The images of a camera that has sent one."""
        return self._cameras[camera]

    def focal(self, camera: str) -> Intrinsics:
        """The map's intrinsics of a camera, pixels of the tracked image."""
        return self.submap.intrinsics[self._cameras[camera].index]

    def whereabouts(self, camera: str) -> Array | None:
        """``w_T_c`` (4, 4) of a camera's last image in the current map; None if its corners do not determine it."""
        stream = self._cameras[camera]
        found = self.submap.finder.locate(stream, stream.tracks) if self.submap.initialised else None
        return None if found is None else found.w_T_c

    def positions(self, ids: np.ndarray) -> Array:
        """(K, 3) positions of corners in the map, NaN where unknown."""
        return self.submap.positions(ids)

    @property
    def numbering(self) -> int:
        """How often the landmarks of the active map got new ids."""
        return self._active.numbering

    @property
    def renumbering(self) -> Renumbering | None:
        """The last time, the new ids of landmarks that cameras may follow; None before."""
        return self._active.renumbering

    def newest_keyframes(self, count: int) -> list[tuple[int, Array, float]]:
        """Name, ``w_T_k`` (4, 4) and unit of posed keyframes where cameras were last, in order; none without a map."""
        posed = set(self.submap.posed()) if self.submap.initialised else set()
        visited = [index for index in self.submap.state.trail if index in posed][-count:]
        poses = [(index, self.submap.pose(index)) for index in visited]
        return [(self._active.name(k), w_T_k, self.submap.unit(k)) for k, w_T_k in poses if w_T_k is not None]

    @property
    def young(self) -> bool:
        """True while closer keyframes would make calibration certain sooner."""
        return self.submap.young

    @property
    def backlog(self) -> int:
        """How much work waits: depth of keyframes, adjustments of the whole map."""
        return self.submap.deferred.backlog

    @property
    def depth_backlog(self) -> tuple[int, int]:
        """See ``DeferredWork.depth_backlog``."""
        return self.submap.deferred.depth_backlog

    @property
    def submap(self) -> Submap:
        """The active map, which changes when another begins or wakes."""
        return self._active.submap

    @property
    def live(self) -> LiveMap:
        """The saved parts, for a journal to read."""
        known = self._cameras, self._appearance, self.config, self.cameras, self._counts, self.revision
        return LiveMap(self._atlas, *known)

    @property
    def _active(self) -> AtlasEntry:
        return self._atlas.active
