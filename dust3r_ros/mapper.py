"""The loop: image in, MapUpdate out. No ROS, no clock; the same frames give the same bytes."""

from __future__ import annotations

from dataclasses import replace
from math import inf

import numpy as np

from dust3r_ros.alignment.cloud import Cloud, concatenate
from dust3r_ros.appearance import Appearance
from dust3r_ros.atlas import Atlas, Submap
from dust3r_ros.backends import make_backend
from dust3r_ros.backends.base import Backend
from dust3r_ros.config import MapperConfig
from dust3r_ros.errors import ConfigError, InputError
from dust3r_ros.geometry.lens import plumb_bob
from dust3r_ros.geometry.pose import PnpResult
from dust3r_ros.keyframes import YOUNG, is_keyframe
from dust3r_ros.map_builder import MapBuilder
from dust3r_ros.pointmap_builder import PointmapBuilder
from dust3r_ros.streams import CameraStream, check_image
from dust3r_ros.timing import StageTimer, no_timer
from dust3r_ros.tracking import Tracks, join
from dust3r_ros.types import Camera, Image, Keyframe, MapCounts, MapUpdate, StampedPose, TrackingState


class Mapper:
    """Maps with uncalibrated cameras: feed it images in order, read the map at any time.

    The map frame has z up; the first camera stands at its origin and looks along x. The unit of
    length is arbitrary: the median depth of the first keyframe is about 1.
    """

    def __init__(
        self, config: MapperConfig = MapperConfig(), *, stage: StageTimer = no_timer, backend: Backend | None = None
    ) -> None:
        """``backend`` replaces the one that ``config`` names."""
        self.config = config
        self._stage = stage
        self._backend = backend or make_backend(config)
        self._streams: dict[str, CameraStream] = {}
        self._given_focals: dict[str, tuple[int, int, float]] = {}
        self._appearance = Appearance()
        self._atlas = Atlas(self._new_builder)
        self._lost_since: dict[str, int] = {}  # stamps by camera
        self._last_stamp: dict[str, int] = {}
        self._counts = MapCounts()

    def set_camera(self, name: str, width: int, height: int, focal: float) -> None:
        """Known focal (pixels at ``width`` x ``height``) of a camera that has not sent an image yet."""
        if name in self._streams:
            raise ConfigError(f"camera '{name}' has sent images already; its focal must be known before the first")
        if not (width > 0 and height > 0 and np.isfinite(focal) and focal > 0):
            raise ConfigError(f"camera '{name}' has focal {focal} at {width}x{height}; all must be positive")
        self._given_focals[name] = (width, height, float(focal))

    def process(self, stamp_ns: int, camera: str, image: Image) -> MapUpdate:
        """One image (H, W, 3) RGB uint8 of ``camera``, in order of time per camera.

        Raises ``InputError``, and changes nothing, for an image that is unusable, of another size
        than the camera's first one, or not younger than its last.
        """
        stream = self._stream(camera, check_image(image, camera))
        with self._stage("prepare"):
            gray = stream.gray(image)
        self._check_order(stamp_ns, camera)
        with self._stage("track"):
            tracks = stream.follow(gray)
            found = self._builder.locate(stream, tracks) if self._builder.initialised else None
        if found is None and self._builder.initialised:
            with self._stage("relocalise"):
                tracks, found = self._relocalise(stream, gray, image, tracks)
        removed: tuple[int, ...] = ()
        if found is None and self._atlas.asleep:
            with self._stage("relocalise"):
                tracks, found, removed = self._recognise(stream, gray, image, tracks)
        if self._gives_up(stamp_ns, camera, found):
            removed = self._active.posed_names()
            self._begin(keep=len(self._builder) > YOUNG)
            tracks = stream.follow(gray)
        state, keyframe = self._place(stamp_ns, stream, image, gray, tracks, found)
        return replace(self._update(stamp_ns, stream, state, found, keyframe), removed=removed)

    def finish(self) -> MapUpdate:
        """Refine everything once more, after the last frame; the map can go on growing after it.

        Where several maps could not be joined, the largest one stays.
        """
        removed: tuple[int, ...] = ()
        if self._atlas.largest() is not self._active:
            removed = self._wake(self._atlas.largest())
        self._builder.finish()
        with self._stage("refine"):
            self._active.frames.find_again()
        stamp = max(self._last_stamp.values(), default=0)
        camera = max(self._last_stamp, key=lambda name: self._last_stamp[name], default="")
        state = TrackingState.TRACKING if self._builder.initialised else TrackingState.INITIALISING
        return MapUpdate(
            stamp, camera, state, changed=self._active.take_changed(), removed=removed, cameras=self.cameras
        )

    def trajectory(self) -> list[StampedPose]:
        """Every tracked frame, by time, in the map as it stands now."""
        return self._active.frames.trajectory() if self._builder.initialised else []

    @property
    def keyframes(self) -> tuple[Keyframe, ...]:
        """All keyframes of the map the camera is in, with a pose."""
        return tuple(self._active.keyframe(i) for i in self._builder.posed())

    def landmarks(self) -> Cloud:
        """The landmarks with a position, coloured; none where pointmaps carry the map."""
        return self._builder.landmarks() if isinstance(self._builder, MapBuilder) else concatenate([])

    @property
    def cameras(self) -> dict[str, Camera]:
        """Camera estimates at native resolution, by name."""
        result = {}
        for name, stream in self._streams.items():
            focal = self._builder.focals[stream.index]
            native = focal.value / stream.tracking_scale
            support = self._builder.graph.count(name)
            lens = focal.lens.scaled(1 / stream.tracking_scale)
            result[name] = Camera(
                name,
                stream.width,
                stream.height,
                native,
                native * focal.total_std,
                support,
                fixed=focal.fixed,
                principal_offset=lens.center,
                distortion=plumb_bob(lens, native, stream.width, stream.height),
            )
        return result

    @property
    def counts(self) -> MapCounts:
        """How much went through."""
        return replace(
            self._counts,
            keyframes=len(self._builder.posed()),
            tracked=self._active.frames.count() if self._builder.initialised else 0,
            pairs=len(self.edges),
            maps=len(self._atlas.asleep) + self._builder.initialised,
        )

    @property
    def edges(self) -> list[tuple[int, int, float]]:
        """The pair graph: (first, second, weight)."""
        return self._active.edges

    @property
    def _active(self) -> Submap:
        return self._atlas.active

    @property
    def _builder(self) -> MapBuilder | PointmapBuilder:
        return self._active.builder

    def _new_builder(self) -> MapBuilder | PointmapBuilder:
        """Landmarks carry the map of a backend that needs poses, pointmaps that of a network."""
        kind = MapBuilder if self._backend.uses_poses else PointmapBuilder
        return kind(self.config, self._backend, self._stage, self._appearance)

    def _stream(self, camera: str, image: Image) -> CameraStream:
        if camera not in self._streams:
            height, width = image.shape[:2]
            stream = CameraStream(camera, len(self._streams), width, height, self.config)
            focal = self.config.focal or None
            if camera in self._given_focals:
                given_width, given_height, given = self._given_focals[camera]
                if given_width * height != given_height * width:
                    raise InputError(
                        f"camera '{camera}' sends {width}x{height} images, but its focal was given for "
                        f"{given_width}x{given_height}; the shapes must agree"
                    )
                focal = given * width / given_width
            for submap in (self._active, *self._atlas.asleep):
                submap.builder.add_camera(stream, focal)
            self._streams[camera] = stream
        return self._streams[camera]

    def _check_order(self, stamp_ns: int, camera: str) -> None:
        last = self._last_stamp.get(camera)
        if last is not None and stamp_ns <= last:
            raise InputError(f"image of camera '{camera}' is stamped {stamp_ns} ns; it must be after {last} ns")
        self._last_stamp[camera] = stamp_ns
        self._counts = replace(self._counts, frames=self._counts.frames + 1)

    def _relocalise(
        self, stream: CameraStream, gray: Image, image: Image, tracks: Tracks
    ) -> tuple[Tracks, PnpResult | None]:
        found = self._builder.relocalise(stream, gray, stream.resize.apply(image))
        if found is None:
            return tracks, None
        return join(found[1], tracks.select(~np.isin(tracks.ids, found[1].ids))), found[0]

    def _recognise(
        self, stream: CameraStream, gray: Image, image: Image, tracks: Tracks
    ) -> tuple[Tracks, PnpResult | None, tuple[int, ...]]:
        """A frame looked for in the maps that sleep; the one that knows it wakes. Last: keyframes that are gone."""
        # Views are known to the backend by their number in their map. Landmarks are found without it.
        forget = _nothing if self._backend.uses_poses else self._backend.clear
        found = self._atlas.find(stream, gray, stream.resize.apply(image), forget)
        if found is None:
            return tracks, None, ()
        removed = self._wake(found[0])
        stream.follow(gray)
        return found[2], found[1], removed

    def _wake(self, submap: Submap) -> tuple[int, ...]:
        removed = self._active.posed_names()
        self._atlas.wake(submap)
        self._forget_sights()
        return removed

    def _gives_up(self, stamp_ns: int, camera: str, found: PnpResult | None) -> bool:
        """True when every camera of the map is lost and this one has been for long."""
        if found is not None or not self._builder.initialised:
            self._lost_since.pop(camera, None)
            return False
        since = self._lost_since.setdefault(camera, stamp_ns)
        patience = stamp_ns - since >= 1e9 * self.config.lost_patience_s
        return patience and self._active.frames.cameras <= self._lost_since.keys()

    def _place(
        self, stamp_ns: int, stream: CameraStream, image: Image, gray: Image, tracks: Tracks, found: PnpResult | None
    ) -> tuple[TrackingState, int | None]:
        """Make the frame a keyframe where it should be one, and remember where it is."""
        if self._builder.initialised and found is None:
            self._counts = replace(self._counts, lost=self._counts.lost + 1)
            return TrackingState.LOST, None
        keyframe = None
        wanted = is_keyframe(stream.motion(tracks), stream.overlap(tracks), self._builder.young, self.config)
        if (wanted or len(self._builder) == 0) and self._builder.accepts(stream):
            if self._builder.stuck:
                self._begin(keep=False)
                tracks = stream.follow(gray)
            w_T_c = None if found is None else found.w_T_c
            keyframe = self._builder.add(stamp_ns, stream, stream.resize.apply(image), gray, tracks, w_T_c)
        self._active.remember(stamp_ns, stream, tracks, found, keyframe)
        if keyframe is not None and self._atlas.asleep:
            self._join(keyframe)
        state = TrackingState.TRACKING if self._builder.initialised else TrackingState.INITIALISING
        return state, None if keyframe is None else len(self._builder) - 1

    def _join(self, keyframe: int) -> None:
        """Make one of two maps where a keyframe of the active one shows what a sleeping one knows."""
        with self._stage("join"):
            ids = self._atlas.join(keyframe)
        if ids is not None:
            self._backend.clear()
            for stream in self._streams.values():
                stream.rename(ids)

    def _begin(self, keep: bool) -> None:
        """Another map with the next keyframe; ``keep``: the one so far sleeps, and what it knows of focals counts."""
        focals = self._builder.focals
        if keep:
            self._atlas.sleep()
            focals = [replace(f, prior=f.value) for f in focals]
        else:
            self._atlas.begin()
            focals = [replace(f, value=f.prior, std=f.std if f.fixed else inf) for f in focals]
        self._builder.focals = focals
        self._forget_sights()

    def _forget_sights(self) -> None:
        """Another map: what backend and streams kept is not of it."""
        self._backend.clear()
        self._lost_since.clear()
        for stream in self._streams.values():
            stream.restart()

    def _update(
        self, stamp_ns: int, stream: CameraStream, state: TrackingState, found: PnpResult | None, keyframe: int | None
    ) -> MapUpdate:
        w_T_c = None if found is None else found.w_T_c
        if keyframe is not None:
            w_T_c = self._builder.pose(keyframe)
        return MapUpdate(
            stamp_ns,
            stream.name,
            state,
            w_T_c=w_T_c,
            covariance=None if found is None else found.covariance,
            keyframe=None if keyframe is None else self._active.name(keyframe),
            changed=self._active.take_changed() if self._builder.initialised else (),
            cameras=self.cameras,
        )


def _nothing() -> None:
    """Nothing is to be forgotten."""
