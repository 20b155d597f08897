"""The main loop: image in, ``MapUpdate`` out. No ROS, no clock; the same frames give the same bytes."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import replace
from math import inf
from numbers import Integral

import numpy as np

from dust3r_ros.backends import fitted, make_backend
from dust3r_ros.backends.base import Backend, Monocular, RelativeConfidence
from dust3r_ros.config import MapperConfig
from dust3r_ros.errors import InputError
from dust3r_ros.features.masks import check_image, check_mask
from dust3r_ros.features.place_recognition import Appearance
from dust3r_ros.geometry.processes import use_one_blas_thread
from dust3r_ros.geometry.similarity import Similarity
from dust3r_ros.mapping.atlas import Atlas, AtlasEntry, Search
from dust3r_ros.mapping.camera_stream import Cameras, CameraStream, guessed
from dust3r_ros.mapping.frames import CameraFrame, LostImages, TrackedImage, frames_of, place_in_turn, wants_keyframe
from dust3r_ros.mapping.joining import Joining
from dust3r_ros.mapping.landmark_map import MapBuilder
from dust3r_ros.mapping.map_view import MapView, resume
from dust3r_ros.mapping.pages import Pages
from dust3r_ros.mapping.pointmap_map import PointmapBuilder
from dust3r_ros.mapping.reconstruction import TRUSTED, Reconstruction
from dust3r_ros.mapping.rig import Rig
from dust3r_ros.mapping.state import MapState
from dust3r_ros.mapping.submap import RENUMBER
from dust3r_ros.sparse.landmarks import Intrinsics
from dust3r_ros.timing import StageTimer, Tick, no_tick, no_timer
from dust3r_ros.tracking import Tracks
from dust3r_ros.tracking.exchange import FollowedPose, is_keyframe
from dust3r_ros.types import Array, Image, MapUpdate, TrackingState


class Mapper(MapView):
    """Builds maps from uncalibrated cameras: feed it images in order, read the map at any time.

    The map frame has z up; the first keyframe is at its origin and looks along x. The unit of
    length is arbitrary: the median depth there is about 1. The way into the package, so it has a
    method for every input and query; the parts do the work.
    """

    def __init__(
        self, config: MapperConfig = MapperConfig(), backend: Backend | None = None, *, stage: StageTimer = no_timer
    ) -> None:
        """``backend`` replaces the one named by ``config``. BLAS has one thread in this process from now on."""
        use_one_blas_thread()
        self._stage = stage
        self._backend = backend or make_backend(config)
        config = fitted(config, self._backend)
        if not self._backend.uses_poses:
            self._backend = RelativeConfidence(self._backend)
        # The map is based on landmarks if the backend needs poses, else on pointmaps.
        kind = MapBuilder if self._backend.uses_poses else PointmapBuilder
        appearance, self.pages = Appearance(), Pages(config.memory_mb)
        atlas = Atlas(lambda: kind(Reconstruction(config, self.pages), self._backend, stage, appearance))
        super().__init__(config, atlas, Cameras(config), appearance)
        self.rig = Rig()
        self._search = Search(self._atlas, self._backend, config, self.rig)
        self._lost, self._live = LostImages(self.pages.put_away), False

    def set_camera(
        self, name: str, width: int, height: int, focal: float, std: float = 0.0, *, guess: bool = False
    ) -> None:
        """Set a known focal (pixels at ``width`` x ``height``) of a camera that has not sent an image yet.

        ``std`` is its relative standard deviation: 0 holds the focal, otherwise it is refined. Such a camera is
        assumed to have no lens distortion, except with ``guess``: a focal to begin with. Either is used instead of the
        configuration's. Raises ``ConfigError``.
        """
        self._cameras.give(name, width, height, focal, std, guess)

    def remember(self, intrinsics: Mapping[str, Intrinsics]) -> None:
        """Begin cameras with what another map, of images of the same size, found of them."""
        for name, found in intrinsics.items():
            self._cameras.remember(name, found)
        self.submap.state.known = all(found.std < TRUSTED for found in intrinsics.values()) and bool(intrinsics)

    def set_extrinsics(self, camera: str, r_T_c: Array) -> None:
        """Set a camera's extrinsics on the robot: ``r_T_c`` (4, 4), metres; see ``Rig.set``. Raises ``InputError``."""
        self.rig.set(camera, r_T_c)

    def process(
        self,
        stamp_ns: int,
        camera: str,
        image: Image,
        mask: Image | None = None,
        seen: Tracks | None = None,
        link: bool = False,
    ) -> MapUpdate:
        """Process an image (H, W, 3) RGB uint8 of ``camera``, in time order per camera.

        Pixels with nonzero ``mask`` (H, W) uint8 are ignored for poses, focal and map. ``seen``: landmarks already
        followed through the images in between, as offsets in the tracked image; ``link``: with a pose, it becomes a
        keyframe for the sake of the next one. Raises ``InputError``, and changes nothing, for an unusable image or
        mask, another size than the camera's first, or a stamp not beyond its last.
        """
        frame = self._prepare(stamp_ns, camera, image, mask)
        frame.link = link
        removed = self._mask_own(frame.stream)
        self._advance(frame, seen)
        if self.mapping and not self._live:
            self._lost.keep(frame, self.submap.state.sure)
        frame.removed += removed
        return self.outcome(frame)

    def _advance(self, frame: CameraFrame, seen: Tracks | None = None) -> None:
        frame.stream.mask = frame.mask  # it may be an earlier one that comes again
        self._track(frame, seen)
        self._relocalise(frame)
        self._insert_keyframe(frame)
        self._close_loops(frame)
        if (w_T_c := self.pose_of(frame)) is not None:
            self._search.found(frame.stamp_ns, frame.stream, w_T_c, frame.keyframe)

    def _prepare(self, stamp_ns: int, camera: str, image: Image, mask: Image | None) -> CameraFrame:
        """Check an image and compute its tracked image."""
        if not isinstance(stamp_ns, Integral):
            raise InputError(f"image of camera '{camera}' is stamped {stamp_ns!r}; a stamp is in whole nanoseconds")
        check_image(image, camera)
        mask = None if mask is None else check_mask(mask, image, camera)
        stream = self._stream(camera, image)
        stream.live = self._live
        with self._stage("prepare"):
            gray = stream.gray(image)
            if stamp_ns <= (last := self._last_stamp.get(camera, stamp_ns - 1)):
                raise InputError(f"image of camera '{camera}' is stamped {stamp_ns} ns; it must be after {last} ns")
            self._last_stamp[camera] = stamp_ns
            self._counts = replace(self._counts, frames=self._counts.frames + 1)
            stream.see(gray, mask)
        return CameraFrame(stamp_ns, stream, image, gray, stream.mask, session=self._atlas.session)

    def _mask_own(self, stream: CameraStream) -> tuple[int, ...]:
        """Leave out what a camera turns out to carry along; a young map begins again. Returns which keyframes leave."""
        if not (stream.carries_more and self.mapping):
            return ()
        for entry in self._atlas.asleep:
            entry.submap.mask_own(stream)
        if not self.submap.mask_own(stream):
            return ()
        records, removed = self.submap.state.records, self._begin(keep=False)
        for frame in frames_of(records):
            self._advance(frame)
        return removed

    def _track(self, frame: CameraFrame, seen: Tracks | None) -> None:
        """Follow the previous image's corners and find the pose from them."""
        with self._stage("track"):
            frame.tracks = frame.stream.follow(frame.gray, seen, self.submap.new_landmarks)
            if self.submap.initialised:
                stream, at = frame.stream, (frame.stamp_ns, frame.stream.name, frame.session)
                frame.found = self.submap.finder.follow(stream, frame.tracks, lambda: self._active.frames.near(*at))
            frame.link &= frame.found is not None

    def _relocalise(self, frame: CameraFrame) -> None:
        """Relocalise a frame that lost its corners, in this map or a sleeping one, or begin another map."""
        if frame.found is None and self.submap.initialised:
            followed, posed = frame.tracks, self._active.posed_names()
            with self._stage("relocalise"):
                frame.tracks, frame.found = self._search.here(frame)
            enough = self.mapping and len(followed.ids) >= self.config.track_min_inliers
            if frame.found is None and enough and self.submap.undo_start(frame.stream):
                frame.tracks, frame.removed = followed, posed
        if frame.found is None and self._atlas.asleep:
            with self._stage("relocalise"):
                known = self._search.elsewhere(frame)
            if known is not None:
                entry, frame.found, frame.tracks = known
                frame.removed += self._wake(entry)
                frame.stream.follow(frame.gray)
        if self.mapping and self._search.gives_up(frame):
            frame.removed += self._begin(keep=self._active.lasts and not self.submap.stuck)
            frame.tracks = frame.stream.follow(frame.gray)

    def _insert_keyframe(self, frame: CameraFrame) -> None:
        """Make the frame a keyframe if it should be one, and record its pose."""
        stream, found = frame.stream, frame.found
        if self.submap.initialised and found is None:
            if not self.mapping or self._search.met(stream.name):  # one that a growing map never found is not lost
                frame.state = TrackingState.LOST
                self._counts = replace(self._counts, lost=self._counts.lost + 1)
            return
        if not (self.mapping and self.submap.accepts(stream)):
            self._follow_only(frame)
            return
        wanted = wants_keyframe(frame, self.submap.state, self.submap.young, self._live)
        if not self._is_known(frame, wanted) and wanted:
            frame.keyframe = self._add_keyframe(frame)
        self._remember(frame)
        if self.submap.initialised:
            frame.state = TrackingState.TRACKING

    def _add_keyframe(self, frame: CameraFrame) -> int | None:
        """Add the frame to the map, or to a new one if the first keyframes lead to nothing; returns its index."""
        if self.submap.stuck:
            self._begin(keep=False)
            frame.tracks = frame.stream.follow(frame.gray)
        add = self.submap.link if frame.link else self.submap.add
        index = add(frame.stamp_ns, frame.stream, frame.working, frame.gray, frame.tracks, frame.w_T_c)
        self._take_culled()
        return index

    def _close_loops(self, frame: CameraFrame) -> None:
        """Join two maps if a keyframe of the active one shows what a sleeping one knows; its own loops are closed."""
        if frame.keyframe is None or not self._atlas.asleep:
            return
        with self._stage("join"):
            joined = self._atlas.join(frame.keyframe)
        if joined is not None:
            first, ids = joined
            self._report_live()
            self._backend.clear()
            for stream in self._cameras:
                stream.rename(ids)
            self.rig.renew()
            self._search.renumber(np.arange(first, len(self.submap)))
            self._search.relearn(self._cameras)
            frame.keyframe = len(self.submap) - 1

    def go_live(self, beside: bool) -> None:
        """Defer what the next image does not need to ``work``; ``beside``: whole maps are adjusted in a child."""
        self._atlas.go_live(beside)
        self._live = True

    def work(self, kind: str) -> MapUpdate:
        """Do the deferred work that ``due`` names."""
        before, known = self.submap.state.generation, self.submap.initialised
        self.submap.deferred.work(kind)
        if kind == RENUMBER:
            self._atlas.renumber_landmarks(self._cameras)
        if known and self.submap.state.generation != before:
            self.revision += 1
        return self.news(self._take_culled())

    def follow(self, poses: Iterable[FollowedPose]) -> int:
        """Record poses of frames that are not fed: they move with the map, but do not change it.

        Returns how many were recorded: those relative to a keyframe of the active map.
        """
        known = [pose for pose in poses if pose.camera in self._cameras]
        kept = sum(self._active.keep(pose, self._cameras[pose.camera], self._atlas.session) for pose in known)
        self._counts = replace(self._counts, frames=self._counts.frames + len(known))
        if self.mapping and known:
            self._active.rest(max(pose.stamp_ns for pose in known))
        return kept

    def finish(self, tick: Tick = no_tick, depth: bool = True) -> MapUpdate:
        """Refine everything once more, after the last frame; the map can still grow afterwards.

        Then ``depth`` is computed; ``tick`` counts the keyframes that get it. Of maps not joined, the largest stays.
        """
        removed = self._map_in_turn() if self.mapping and not (self._live or self.loaded.frames) else ()
        largest = self._atlas.largest() if self.mapping else self._active
        removed += () if largest is self._active else self._wake(largest)
        if self.mapping:  # if false, the map is fixed
            if self._lost.of_others(self.submap.state):
                self.submap.adjust_last(self._active.frames.motions)
                self.submap.state.complete = True
            self._find_lost()
            self.submap.drop(self.submap.state.twins)
            removed += self._take_culled()
            self.submap.state.complete = False
            self.submap.adjust_last(self._active.frames.motions)
        with self._stage("refine"):
            self._active.frames.find_again(exactly=self.mapping, motions=self._active.frames.motions())
        if self.mapping:
            self.submap.finish(tick, depth)
            removed += self._take_culled()
        self._search.relearn(self._cameras)
        return self.news(removed)

    def _map_in_turn(self) -> tuple[int, ...]:
        """Map photographs that come in no order so that each shows what others did, if that poses more.

        Of those, most have no pose, or all are keyframes and some misplaced. Returns the names of what left.
        """
        maps, lost, counts = [self._active, *self._atlas.asleep], self._lost, self._counts
        self._cameras.complete()
        frames = lost.every(frame for entry in maps for frame in frames_of(entry.submap.state.records))
        all_kept = len(frames) > 0.9 * counts.frames  # those that were followed are not, and would lose their poses
        worth = self._atlas.largest().worth if all_kept else sum(entry.frames.count() for entry in maps)
        if 2 * worth >= counts.frames:
            return ()
        removed = self._begin(keep=False)
        self._atlas.asleep, self._lost = [], LostImages(self.pages.put_away)
        self._search.patient = True
        left = place_in_turn(frames, self._place, lambda: self._begin(self.submap.begin_with_few()))
        self._search.patient = False
        self._lost.keep_all(replace(frame, state=TrackingState.LOST) for frame in left)
        self._counts = replace(counts, lost=counts.frames - len(frames) + len(left))  # some images were not kept
        if self._atlas.largest().worth > worth:
            return removed
        self._atlas.keep(maps)
        self._lost, self._counts = lost, counts
        self._forget_views()
        return ()

    def _place(self, frame: CameraFrame) -> bool:
        """Map a frame of any stamp; returns whether it got a pose, or may get one."""
        self._advance(frame)
        posed = frame.found is not None or frame.keyframe is not None
        return posed or (not self.submap.initialised and self.submap.accepts(frame.stream))

    def _find_lost(self) -> None:
        """Offline, pose images that have no pose, also those of maps that were left behind; maps without others go."""
        left = [] if self._live else [record for entry in self._atlas.asleep for record in entry.submap.state.records]
        with self._stage("relocalise"):
            if self._lost.find(self._find_late, left):
                for stream in self._cameras:
                    stream.restart()  # they went back
        self._atlas.keep([self._active, *(e for e in self._atlas.asleep if not self._active.frames.show(e.frames))])

    def _find_late(self, frame: CameraFrame) -> bool:
        """Pose a lost frame, as a keyframe, in the map as it is by now; returns whether that was possible."""
        if not self._search.again(frame):
            return False
        self._counts = replace(self._counts, lost=self._counts.lost - (frame.state is TrackingState.LOST))
        self._insert_keyframe(frame)
        self._close_loops(frame)
        return True

    def _take_culled(self) -> tuple[int, ...]:
        """Have names and frames follow the removal of keyframes; returns the names of those that left."""
        removed: tuple[int, ...] = ()
        for culled in self.submap.take_culled():
            removed += self._active.follow(culled)
            self._search.renumber(culled.new)
        return removed

    def move(self, new_S_old: Similarity) -> MapUpdate:
        """Move the map to other coordinates and another unit, immediately: all poses, landmarks and depth.

        Sleeping maps are unchanged; one that is joined later follows.
        """
        self._active.move(new_S_old)
        self.rig.rescale(new_S_old.scale)
        self.revision += 1
        return self.news()

    def begin_anew(self) -> MapUpdate:
        """Begin another map at the next image, whatever its stamp; this one sleeps if it has poses, stays if fixed."""
        removed = self._begin(keep=self.submap.initialised) if self.mapping else ()
        self._atlas.session += 1  # stamps are of another clock
        self._last_stamp.clear()
        self._lost.clear()
        return replace(self.news(removed), state=TrackingState.INITIALISING)

    def resume(self, state: MapState) -> None:
        """Continue a saved map, before the first image; no camera has a pose until a frame is located in it.

        Raises ``InputError``, and changes nothing, if the map is incompatible with this mapper.
        """
        resume(self.live, state)
        self._counts, self.loaded, self.revision = state.counts, state.counts, state.revision

    def join(self) -> list[list[int]]:
        """Join maps of one place; the largest is then active. Returns which, by places of the state resumed."""
        joining = Joining([self._active, *self._atlas.asleep])
        with self._stage("join"):
            joining.run()
        self._atlas.keep([joining.entry(group) for group in joining.groups])
        self._forget_views()
        return joining.groups

    def drop(self, keyframes: Collection[int]) -> None:
        """Remove keyframes of the active map, by name, that others make up for; frames relative to them stay."""
        self.submap.drop([index for index in self.submap.posed() if self._active.name(index) in keyframes])
        self._take_culled()

    def _stream(self, camera: str, image: Image) -> CameraStream:
        if camera not in self._cameras:
            stream, focal = self._cameras.open(camera, image.shape[1], image.shape[0])
            if isinstance(self._backend, Monocular) and not focal.given and min(focal.std, focal.guess_std) == inf:
                focal = guessed(focal, stream, self._backend.guess_focal(stream.resize.apply(image)))
            for entry in (self._active, *self._atlas.asleep):
                entry.submap.add_camera(stream, replace(focal))
        return self._cameras[camera]

    def _wake(self, entry: AtlasEntry) -> tuple[int, ...]:
        removed = self._active.posed_names()
        self._report_live()
        self._atlas.wake(entry)
        self._forget_views()
        return removed

    def _is_known(self, frame: CameraFrame, wanted: bool) -> bool:
        """Whether keyframes show what the frame does; then it is located without the drift of its corners.

        ``wanted`` as a keyframe, by one that shows as much: then the camera follows what that one sees.
        """
        if frame.found is None or frame.link:
            return False
        stream, gray, tracks, w_T_c = frame.stream, frame.gray, frame.tracks, frame.found.w_T_c
        with self._stage("match"):
            if wanted:
                again = self.submap.revisit(frame.stamp_ns, stream, frame.working, gray, tracks, w_T_c)
            else:
                again = self.submap.measure(stream, gray, tracks, w_T_c)
        if again is not None:
            frame.found, frame.tracks, frame.drifts = *again, frame.drifts and wanted
        return again is not None

    def _follow_only(self, frame: CameraFrame) -> None:
        """Track without adding to the map: landmarks found again replace corners that leave the image."""
        if frame.found is None:
            return
        stream, tracks = frame.stream, frame.tracks
        if is_keyframe(stream.motion(tracks), stream.overlap(tracks), False, self.config):
            stream.anchor(frame.stamp_ns, self._search.here(frame)[0].unique())
        self._remember(frame)
        frame.state = TrackingState.TRACKING

    def _remember(self, frame: CameraFrame) -> None:
        """Record the frame's pose."""
        refreshed_ns = frame.stream.anchored_ns if frame.drifts else frame.stamp_ns
        # For the last adjustment, which a live map does not wait for; they would fill much memory.
        wanted = frame.keyframe is None and self.mapping and not self._live
        gray = self.pages.put_away(frame.gray) if wanted else None
        seen = TrackedImage(frame.stamp_ns, frame.tracks, refreshed_ns, gray, frame.session)
        self._active.remember(frame.stream, seen, frame.found, frame.keyframe)
        if self.mapping and frame.keyframe is None:
            self._active.rest(frame.stamp_ns)

    def _begin(self, keep: bool) -> tuple[int, ...]:
        """Begin another map with the next keyframe; ``keep``: the current one sleeps, its focals count if it grew.

        Returns the names of the current one's keyframes.
        """
        removed, intrinsics = self._active.posed_names(), self.submap.intrinsics
        grown = keep and self._active.has_grown
        if keep:
            self._atlas.sleep()
        else:
            self._lost.keep_all(frames_of(self.submap.state.records if not self._live else ()))
            self._atlas.begin()
        self.submap.intrinsics = [i.handed_on() if grown else i.forgotten() for i in intrinsics]
        self._forget_views()
        return removed

    def _forget_views(self) -> None:
        """Drop what backend and streams hold of the previous map."""
        self._backend.clear()
        self._search.clear()
        for stream in self._cameras:
            stream.restart()
