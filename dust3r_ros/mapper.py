"""The loop: image in, MapUpdate out. No ROS, no clock; the same frames give the same bytes."""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import inf

import numpy as np

from dust3r_ros.backends import make_backend
from dust3r_ros.backends.base import Backend
from dust3r_ros.config import MapperConfig
from dust3r_ros.errors import ConfigError, InputError
from dust3r_ros.geometry.pose import PnpResult
from dust3r_ros.geometry.rigid import invert
from dust3r_ros.keyframes import is_keyframe
from dust3r_ros.map_builder import MapBuilder
from dust3r_ros.streams import CameraStream, check_image
from dust3r_ros.timing import StageTimer, no_timer
from dust3r_ros.tracking import Tracks, join
from dust3r_ros.types import Array, Camera, Image, Keyframe, MapCounts, MapUpdate, StampedPose, TrackingState


@dataclass(frozen=True, eq=False)
class _Frame:
    """A tracked frame, kept relative to a keyframe so that it moves with the map."""

    stamp_ns: int
    camera: str
    keyframe: int
    keyframe_T_frame: Array | None  # None: not found (yet)
    depth: float  # median depth of the keyframe's landmarks when this was written: the local unit of length


_MAX_UNSETTLED = 1000  # frames that are found again when the young map is built anew


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
        self._frames: list[_Frame] = []
        self._unsettled: list[tuple[int, CameraStream, Tracks]] = []  # frames to find again: index, how
        self._generation = 0
        self._builder = MapBuilder(config, self._backend, stage)
        self._lost_since: int | None = None
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
                tracks, found = self._relocalise(stream, gray, tracks)
        removed: tuple[int, ...] = ()
        if self._hopeless(stamp_ns, found):
            removed = tuple(keyframe.index for keyframe in self.keyframes)
            self._restart()
            tracks = stream.follow(gray)
        state, keyframe = self._place(stamp_ns, stream, image, gray, tracks, found)
        return replace(self._update(stamp_ns, stream, state, found, keyframe), removed=removed)

    def finish(self) -> MapUpdate:
        """Refine everything once more, after the last frame; the map can go on growing after it."""
        self._builder.finish()
        stamp = max(self._last_stamp.values(), default=0)
        camera = max(self._last_stamp, key=lambda name: self._last_stamp[name], default="")
        state = TrackingState.TRACKING if self._builder.initialised else TrackingState.INITIALISING
        return MapUpdate(stamp, camera, state, changed=self._builder.take_changed(), cameras=self.cameras)

    def trajectory(self) -> list[StampedPose]:
        """Every tracked frame, by time, in the map as it stands now."""
        if not self._builder.initialised:
            return []
        poses = [StampedPose(f.stamp_ns, f.camera, self._pose_of(f)) for f in self._placed()]
        return sorted(poses, key=lambda p: (p.stamp_ns, p.camera))

    @property
    def keyframes(self) -> tuple[Keyframe, ...]:
        """All keyframes with a pose."""
        return tuple(self._builder.keyframe(i) for i, v in enumerate(self._builder.sparse.views) if v.w_T_c is not None)

    @property
    def cameras(self) -> dict[str, Camera]:
        """Camera estimates at native resolution, by name."""
        result = {}
        for name, stream in self._streams.items():
            focal = self._builder.sparse.focals[stream.index]
            native = focal.value / stream.tracking_scale
            support = self._builder.graph.count(name)
            result[name] = Camera(
                name, stream.width, stream.height, native, native * focal.std, support, fixed=focal.fixed
            )
        return result

    @property
    def counts(self) -> MapCounts:
        """How much went through."""
        return replace(
            self._counts,
            keyframes=sum(v.w_T_c is not None for v in self._builder.sparse.views),
            tracked=len(self._placed()) if self._builder.initialised else 0,
            pairs=len(self.edges),
        )

    @property
    def edges(self) -> list[tuple[int, int, float]]:
        """The pair graph: (first, second, weight)."""
        return self._builder.graph.edges

    def _placed(self) -> list[_Frame]:
        return [frame for frame in self._frames if frame.keyframe_T_frame is not None]

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
            self._builder.add_camera(stream, focal)
            self._streams[camera] = stream
        return self._streams[camera]

    def _check_order(self, stamp_ns: int, camera: str) -> None:
        last = self._last_stamp.get(camera)
        if last is not None and stamp_ns <= last:
            raise InputError(f"image of camera '{camera}' is stamped {stamp_ns} ns; it must be after {last} ns")
        self._last_stamp[camera] = stamp_ns
        self._counts = replace(self._counts, frames=self._counts.frames + 1)

    def _relocalise(self, stream: CameraStream, gray: Image, tracks: Tracks) -> tuple[Tracks, PnpResult | None]:
        found = self._builder.relocalise(stream, gray)
        if found is None:
            self._counts = replace(self._counts, lost=self._counts.lost + 1)
            return tracks, None
        return join(found[1], tracks.select(~np.isin(tracks.ids, found[1].ids))), found[0]

    def _hopeless(self, stamp_ns: int, found: PnpResult | None) -> bool:
        """True when the only camera has been lost for long and the map is too small to be worth finding again."""
        if found is not None or not self._builder.initialised:
            self._lost_since = None
            return False
        if self._lost_since is None:
            self._lost_since = stamp_ns
        patience = stamp_ns - self._lost_since >= 1e9 * self.config.lost_patience_s
        return patience and len(self._streams) == 1 and self._builder.settling

    def _place(
        self, stamp_ns: int, stream: CameraStream, image: Image, gray: Image, tracks: Tracks, found: PnpResult | None
    ) -> tuple[TrackingState, int | None]:
        """Make the frame a keyframe where it should be one, and remember where it is."""
        if self._builder.initialised and found is None:
            return TrackingState.LOST, None
        keyframe = None
        wanted = is_keyframe(stream.motion(tracks), stream.overlap(tracks), len(self._builder), self.config)
        if (wanted or len(self._builder) == 0) and self._builder.accepts(stream):
            if self._builder.stuck:
                self._restart()
                tracks = stream.follow(gray)
            w_T_c = None if found is None else found.w_T_c
            keyframe = self._builder.add(stamp_ns, stream, stream.resize.apply(image), gray, tracks, w_T_c)
        self._remember(stamp_ns, stream, tracks, found, keyframe)
        state = TrackingState.TRACKING if self._builder.initialised else TrackingState.INITIALISING
        return state, keyframe

    def _restart(self) -> None:
        """Begin anew with the next keyframe: the first ones led nowhere."""
        for index in range(len(self._builder)):
            self._backend.forget(index)
        self._frames.clear()
        self._unsettled.clear()
        self._generation = 0
        self._lost_since = None
        focals = [replace(f, value=f.prior, std=f.std if f.fixed else inf) for f in self._builder.sparse.focals]
        self._builder = MapBuilder(self.config, self._backend, self._stage)
        self._builder.sparse.focals = focals
        for stream in self._streams.values():
            stream.restart()

    def _remember(
        self, stamp_ns: int, stream: CameraStream, tracks: Tracks, found: PnpResult | None, keyframe: int | None
    ) -> None:
        """Keep a frame's pose relative to a keyframe, and what it takes to find it again while the map settles."""
        reference = len(self._builder) - 1 if keyframe is None else keyframe
        frame = _Frame(stamp_ns, stream.name, reference, None if keyframe is None else np.eye(4), float("nan"))
        if keyframe is None:
            frame = self._relative(frame, found)
            if self._builder.settling and len(self._unsettled) < _MAX_UNSETTLED:
                self._unsettled.append((len(self._frames), stream, tracks))
        self._frames.append(frame)
        if self._builder.generation != self._generation:
            self._generation = self._builder.generation
            for at, its_stream, its_tracks in self._unsettled:
                self._frames[at] = self._relative(self._frames[at], self._builder.locate(its_stream, its_tracks))
        if not self._builder.settling:
            self._unsettled.clear()

    def _relative(self, frame: _Frame, found: PnpResult | None) -> _Frame:
        """A frame with its pose as found, unless there is none; then as it was."""
        w_T_r = self._builder.sparse.views[frame.keyframe].w_T_c
        if found is None or w_T_r is None:
            return frame
        return replace(
            frame, keyframe_T_frame=invert(w_T_r) @ found.w_T_c, depth=self._builder.sparse.median_depth(frame.keyframe)
        )

    def _pose_of(self, frame: _Frame) -> Array:
        w_T_r = self._builder.sparse.views[frame.keyframe].w_T_c
        assert frame.keyframe_T_frame is not None and w_T_r is not None, "only placed frames have poses"
        relative = frame.keyframe_T_frame.copy()
        factor = self._builder.sparse.median_depth(frame.keyframe) / frame.depth
        if np.isfinite(factor):
            relative[:3, 3] *= factor
        return w_T_r @ relative

    def _update(
        self, stamp_ns: int, stream: CameraStream, state: TrackingState, found: PnpResult | None, keyframe: int | None
    ) -> MapUpdate:
        w_T_c = None if found is None else found.w_T_c
        if keyframe is not None:
            w_T_c = self._builder.sparse.views[keyframe].w_T_c
        return MapUpdate(
            stamp_ns,
            stream.name,
            state,
            w_T_c=w_T_c,
            covariance=None if found is None else found.covariance,
            keyframe=keyframe,
            changed=self._builder.take_changed() if self._builder.initialised else (),
            cameras=self.cameras,
        )
