"""One run of the mapper, live or replayed: calibrations, time jumps, scale and gravity, files on disk."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from dust3r_ros.backends import make_backend
from dust3r_ros.backends.base import Backend, Monocular
from dust3r_ros.config import MapperConfig, as_mapping
from dust3r_ros.errors import ConfigError, InputError
from dust3r_ros.features.masks import check_image
from dust3r_ros.geometry.pose import PnpResult
from dust3r_ros.geometry.rigid import invert
from dust3r_ros.io.files import make_folder
from dust3r_ros.io.image_sources import plain_name
from dust3r_ros.io.manifest import ManifestWriter, packed
from dust3r_ros.mapping.mapper import Mapper
from dust3r_ros.mapping.state import MapState
from dust3r_ros.sensors.camera_info import Calibrations
from dust3r_ros.session.writer import Keeper, Log
from dust3r_ros.storage.journal import MapJournal
from dust3r_ros.storage.loading import load_state
from dust3r_ros.timing import Heard, StampOrder, Stopwatch, Tick, no_tick
from dust3r_ros.tracking import Tracks
from dust3r_ros.tracking.exchange import FollowedPose
from dust3r_ros.types import Array, Calibration, Camera, Frame, Image, MapUpdate
from dust3r_ros.world import ScaleState, WorldAligner, WorldEstimate

NEWEST_FRAMES = 1000  # that stage latencies are about


class Session:
    """Feeds a mapper and replaces it at a reset; the backend, with its weights, is kept. For one thread at a time.

    Live and offline runs use the same one, with a method for every input and query: the same frames give the same map.
    """

    def __init__(
        self,
        config: MapperConfig,
        log: Log,
        *,
        on_time_jump: str = "reset",
        backend: Backend | None = None,
        heard: Heard | None = None,
    ) -> None:
        """``on_time_jump``: what to do when stamps jump back: ``reset``, ``submap`` or ``ignore``; ``heard``: another
        receiver of stage times, as for ``Stopwatch``.
        """
        self._config, self._on_time_jump, self._log = config, on_time_jump, log
        self.calibrations = Calibrations(config.calibration, config.calibration_std)
        self._extrinsics: dict[str, Array] = {}
        self.keeper, self.resets = Keeper(log), 0
        self._mapping = config.mode == "mapping"
        self._live: bool | None = None  # whether whole maps are adjusted in a child process; None: no work is postponed
        self._backend, self._heard = backend or make_backend(config), heard
        self._start()

    def _start(self, state: MapState | None = None) -> None:
        """Start a new mapper; with a ``state``, one that continues that map. On an error nothing changes."""
        settings = state.settings if state is not None else {}
        calibrations = Calibrations(self._config.calibration, self._config.calibration_std)
        calibrations.known |= self.calibrations.known
        calibrations.resume(settings.get("calibrations", {}))
        stopwatch = Stopwatch(keep=NEWEST_FRAMES, heard=self._heard)
        mapper = Mapper(self._config, stage=stopwatch, backend=self._backend)
        mapper.mapping = self._mapping
        if state is not None:
            mapper.resume(state)
        self._backend.clear()
        if self._live is not None:
            mapper.go_live(self._live)
        self.mapper, self.stopwatch, self.calibrations = mapper, stopwatch, calibrations
        self._extrinsics = {name: np.array(T) for name, T in settings.get("extrinsics", {}).items()} | self._extrinsics
        for camera, r_T_c in self._extrinsics.items():
            mapper.set_extrinsics(camera, r_T_c)
        self._order = StampOrder(self._on_time_jump != "ignore")
        self._seen: dict[str, tuple[Tracks, int, bool]] = {}
        self._late: set[str] = set()  # cameras whose calibration came after their map had begun
        self.unused: dict[str, str] = {}  # why calibrations are not, by camera
        by_network = self._backend.metric_depth if isinstance(self._backend, Monocular) else None
        self.world, world = WorldAligner(by_network), settings.get("world", {})
        if state is not None:
            self.world.resume(world, mapper.keyframes)
        self.estimate = self.world.estimate([])
        self.metres_per_unit = float(world.get("metres_per_unit", 0.0))  # of the last metric map, before it was
        if self.metric:
            mapper.rig.metres_per_unit = 1.0

    # Knowledge about the robot

    def know(self, camera: str, calibration: Calibration) -> None:
        """Take in a calibration. Raises ``ConfigError`` for an invalid one.

        It is used from the camera's first frame on. If the first one arrives later, but before any pose, the map
        restarts with it (drivers publish image and calibration together, so which arrives first is chance); after
        that, it is used from the next reset on.
        """
        if not self.calibrations.know(camera, calibration):
            return
        self.keeper.note("calibration", camera=camera, calibration=calibration)
        begun, matters = camera in self.mapper.cameras, self.calibrations.matters(camera)
        early = not (self.mapper.counts.maps or self.calibrations.in_use(camera))
        if begun and not (matters and early):  # said once: a camera that focuses publishes another one with each image
            if camera in self._late:
                return
            self._late.add(camera)
        self._log.info(f"calibration of camera '{camera}' received: focal {calibration.fx:.1f} px")
        if not (begun and matters):
            return
        if early:
            self._log.info(f"the map of camera '{camera}' restarts with the calibration")
            self.reset(by="calibration")
        else:
            self._log.warning(
                f"the calibration of camera '{camera}' came after its map had begun; it is used from the next reset on"
            )

    def place(self, camera: str, r_T_c: Array) -> None:
        """Set a camera's place on its rig: (4, 4), metres, the same rig frame for all."""
        if camera in self._extrinsics and np.allclose(self._extrinsics[camera], r_T_c, atol=1e-6):
            return
        self._extrinsics[camera] = r_T_c
        self.keeper.note("extrinsics", camera=camera, r_T_c=r_T_c)
        self.mapper.set_extrinsics(camera, r_T_c)

    def set_scale(self, factor: float) -> MapUpdate:
        """Make the map metric: its current unit is ``factor`` metres. Raises ``InputError``."""
        if not 1e-6 <= factor <= 1e6:  # poses of any other overflow
            raise InputError(f"factor is {factor}; it must be positive (metres per map unit), from 1e-6 to 1e6")
        if not self.mapper.counts.keyframes:
            raise InputError("there is no map yet; the scale can be set once there are keyframes")
        self.keeper.note("scale", factor=factor)
        self.world.command(factor)
        update = self._align(self.mapper.news(), asked=True)
        self.save(update)
        if not self.metric:
            state = self.estimate.state.value
            raise InputError(f"factor {factor} left the map's scale {state}; set it once there are more keyframes")
        return update

    def set_mapping(self, mapping: bool) -> None:
        """Switch between mapping and localization only."""
        if mapping != self.mapper.mapping:
            self.keeper.note("mode", mapping=mapping)
            self._mapping = self.mapper.mapping = mapping

    # Frames

    def process(self, frame: Frame) -> MapUpdate:
        """Process a frame at native resolution.

        Raises ``InputError`` for a frame that is not used: an unusable image, a changed size, a stamp that was seen
        already or, unless a time jump starts something new, is before the last one.
        """
        followed = self._seen.pop(frame.camera, None)  # of this frame, even if it is refused
        check_image(frame.image, frame.camera)
        gone = self._check_stamp(frame)
        if frame.camera not in self.mapper.cameras:
            self._admit(frame)
        image, mask = self.calibrations.pinhole(frame.camera, frame.image, frame.mask)
        seen, snapshot_ns, link = followed or (None, 0, False)
        update = self.mapper.process(frame.stamp_ns, frame.camera, image, mask, seen, link)
        self._order.took(frame.camera, frame.stamp_ns)
        if seen is not None:
            values = {"ids": packed(seen.ids), "pixels": packed(seen.pixels)}
            self.keeper.note("seen", camera=frame.camera, snapshot_ns=snapshot_ns, link=link, **values)
        self.keeper.frame(frame)
        if update.removed:
            self._log.warning(
                f"camera '{frame.camera}' is in another map now: {len(update.removed)} keyframes of the last one are"
                " removed until it is seen again"
            )
        update = replace(update, removed=(*gone, *update.removed))
        with self.stopwatch("world"):
            update = self._see_world(frame, update)
        self.save(update)
        return update

    def go_live(self, beside: bool = False) -> None:
        """Postpone what the next image does not need, for ``work``; ``beside``: adjust whole maps in a child."""
        self._live = beside
        self.keeper.note("live")
        self.mapper.go_live(beside)

    @property
    def due(self) -> str:
        """The next piece of work, "" for none."""
        return self.mapper.due

    def work(self, kind: str) -> MapUpdate:
        """Do a piece of postponed work: the one named by ``due``."""
        self.keeper.note("work", what=kind)
        update = self.mapper.work(kind)
        self.world.hear(update)
        self.save(update)
        return update

    def see(self, camera: str, seen: Tracks, snapshot_ns: int, link: bool = False) -> None:
        """Take in landmarks that a front end followed into the camera's next frame, as offsets in the tracked image.

        ``snapshot_ns``: stamp of the map snapshot used for that; ``link``: as of ``KeyframeRequest``.
        """
        self._seen[camera] = seen, snapshot_ns, link

    def follow(self, poses: Sequence[FollowedPose]) -> None:
        """Keep the poses of frames that a front end tracked but did not hand over."""
        if not poses:
            return
        noted = [vars(pose) | {"ids": packed(pose.ids), "pixels": packed(pose.pixels)} for pose in poses]
        self.keeper.note("followed", poses=noted)
        self.mapper.follow(poses)

    def finish(self, tick: Tick = no_tick, depth: bool = True) -> MapUpdate:
        """Refine everything once more, as ``Mapper.finish``; the map can still grow afterwards."""
        update = self.mapper.finish(tick, depth)
        self.world.hear(update)
        update = self._align(update, last=True)
        self.save(update)
        return update

    def reset(self, *, by: str = "user") -> None:
        """Forget the map; the next image starts a new one. Calibrations are kept. ``by``: what caused the reset."""
        self.keeper.note("reset", by=by)
        self.resets += 1
        self._start()
        self.keeper.renew()

    def load(self, path: str | Path) -> int:
        """Replace this map by a saved one and continue it; returns its number of keyframes.

        Raises ``MapFileError``, ``InputError`` or ``ConfigError`` if that fails; then nothing changes.
        """
        self.resume(load_state(path))
        self.keeper.note("load", path=str(Path(path).absolute()), keyframes=self.mapper.counts.keyframes)
        self.keeper.renew()
        self.save()
        return self.mapper.counts.keyframes

    def resume(self, state: MapState) -> None:
        """Continue a saved map, with its cameras, scale and reference frames. Errors as ``load``."""
        self._start(state)
        self.resets += 1

    def localize(self, camera: str, image: Image) -> PnpResult:
        """Localise an image (H, W, 3) by its appearance alone; the map does not change.

        ``camera``: one of the map, or any other name for one with unknown focal length. The result's ``inliers`` is a
        mask over the matches, ``focal`` is in pixels of the image. Raises ``InputError`` and ``GeometryError``.
        """
        if camera in self.mapper.cameras:
            image, _ = self.calibrations.pinhole(camera, image, None)
        return self.mapper.localize(camera, image)

    def close(self) -> None:
        """Close the files. Raises ``OutputError`` when the map cannot be written."""
        self.keeper.close()

    @property
    def cameras(self) -> dict[str, Camera]:
        """Estimates at native resolution; for calibrated cameras, of the rectified pinholes."""
        return {name: self.calibrations.compared(camera) for name, camera in self.mapper.cameras.items()}

    @property
    def metric(self) -> bool:
        """Whether the map is in metres."""
        return self.estimate.state is ScaleState.METRIC

    def for_files(self) -> dict[str, Any]:
        """What ``products.results.write_results`` asks for besides the mapper."""
        raw = self.calibrations.raw_of(self.mapper.cameras)
        return {"stopwatch": self.stopwatch, "raw": raw, "settings": self.settings(), "scale": self.estimate.unit}

    @property
    def device(self) -> str:
        """The backend's device."""
        return str(getattr(self._backend, "device", "cpu"))

    def known_extrinsics(self, a: str, b: str) -> Array | None:
        """``a_T_b`` (4, 4), metres, as given; None if unknown."""
        if a not in self._extrinsics or b not in self._extrinsics:
            return None
        return invert(self._extrinsics[a]) @ self._extrinsics[b]

    def settings(self) -> dict[str, Any]:
        """The settings to store in a saved map, as JSON values."""
        return {
            **as_mapping(self._config),
            "calibrations": self.calibrations.state(),
            "extrinsics": {name: r_T_c.tolist() for name, r_T_c in self._extrinsics.items()},
            "world": {**self.world.state(), "metres_per_unit": self.metres_per_unit},
        }

    def _check_stamp(self, frame: Frame) -> tuple[int, ...]:
        """Handle a time jump; returns the keyframes removed because of it."""
        back = self._order.back(frame.camera, frame.stamp_ns)
        if not back:
            return ()
        anew = "a submap begins" if self._on_time_jump == "submap" else "a new map starts"
        anew = anew if self._mapping else "the map stays, as mode is localization"
        self._log.warning(f"image stamps jump back by {back * 1e-9:.3f} s: {anew}")
        if self._on_time_jump == "reset" and self._mapping:
            self.reset(by="stamp")
            return ()
        self.keeper.note("jump")
        self._order.clear()
        self.world.forget_frames()
        return self.mapper.begin_anew().removed

    def _admit(self, frame: Frame) -> None:
        """Tell the mapper what is known about a camera at its first image."""
        height, width = frame.image.shape[:2]
        try:
            known = self.calibrations.admit(frame.camera, width, height)
        except (InputError, ConfigError) as error:
            self.unused[frame.camera] = f"{error}: the focal length is estimated"
            self._log.warning(self.unused[frame.camera])
            return
        if known is not None:
            self.mapper.set_camera(frame.camera, width, height, *known)
        elif self._config.focal > 0:
            if self._is_another(frame):
                usual = float(max(width, height)), 0.0
                self.mapper.set_camera(frame.camera, width, height, *(frame.focal or usual), guess=True)
        elif frame.focal is not None and self._config.calibration != "ignore":
            self.mapper.set_camera(frame.camera, width, height, *frame.focal, guess=True)
            self._log.info(f"camera '{frame.camera}' begins with the focal of its EXIF data, {frame.focal[0]:.0f} px")

    def _is_another(self, frame: Frame) -> bool:
        """Whether the focal that is known is that of another camera, after which this one is named for its lens or
        size, as photographs are; one that is turned upright has the same.
        """
        height, width = frame.image.shape[:2]
        first = self.mapper.cameras.get(plain_name(frame.camera))
        if first is None or first.name == frame.camera or not math.isclose(first.focal, self._config.focal):
            return False
        alike = frame.camera == f"{first.name}_{width}x{height}" and {width, height} == {first.width, first.height}
        return not alike

    # Scale and gravity

    def _see_world(self, frame: Frame, update: MapUpdate) -> MapUpdate:
        """Take in a frame's information on scale and gravity; move the map if worthwhile."""
        self.world.observe(frame)
        if update.keyframe is not None:
            if frame.depth is not None:
                frame = replace(frame, depth=self.calibrations.depth(frame.camera, frame.depth))
            self.world.observe_keyframe(update.keyframe, frame)
        self.world.hear(update)
        return update if update.keyframe is None and not update.removed else self._align(update)

    def _align(self, update: MapUpdate, last: bool = False, asked: bool = False) -> MapUpdate:
        mapper, before = self.mapper, self.estimate.state
        poses = mapper.trajectory(self.world.frames)
        estimate = self.world.estimate(poses, mapper.rig.baselines(), last=last)
        if estimate.needed and mapper.counts.keyframes and (mapper.mapping or asked):
            update = self._move(update, estimate)
            if estimate.state is not before:
                self._log.info(f"scale {estimate.state.value}: a map unit was {estimate.scale:.4g} m")
        else:
            self.estimate = estimate.unmoved
        if self.metric:
            mapper.rig.metres_per_unit = 1.0
        return update

    def _move(self, update: MapUpdate, estimate: WorldEstimate) -> MapUpdate:
        """Move the map by the estimate; returns the update in the moved map."""
        moved = self.mapper.move(estimate.new_S_old)
        self.estimate = self.world.moved(estimate, moved)
        if self.metric:
            self.metres_per_unit = estimate.scale * (self.metres_per_unit if estimate.was_metric else 1.0)
        w_T_c = None if update.w_T_c is None else estimate.new_S_old.pose(update.w_T_c)
        return replace(update, w_T_c=w_T_c, changed=moved.changed, cameras=moved.cameras)

    def save(self, update: MapUpdate | None = None) -> None:
        """Bring the map_db file, if there is one, up to date after an update; None: after any change."""
        with self.stopwatch("save"):
            self.keeper.write(lambda: self.mapper.live, update, self.settings)


def begin(
    session: Session,
    config: MapperConfig,
    *,
    map_db: str = "",
    map_start: str = "continue",
    load_map: str = "",
    manifest: str = "",
    topics: Mapping[str, Mapping[str, str]] | None = None,
) -> str:
    """Open the files that a run reads and writes; returns a sentence on what was done, or "".

    ``map_db`` is kept up to date with the map, or only read while the session localizes; an existing one is continued
    if ``map_start`` says so. ``load_map`` is only read, unless it is ``map_db``, too. ``topics`` by camera and kind
    are for the ``manifest``. Raises ``ConfigError``, ``OutputError``, ``MapFileError``, ``InputError``.
    """
    grows, done = session.mapper.mapping, list[str]()
    continued = continues(map_db, map_start, load_map if grows else "")
    if manifest:
        make_folder(Path(manifest).absolute().parent)
        record = ManifestWriter(manifest)
        record.header(config, topics)
        session.keeper.keep_record(record)
    source = load_map or (map_db if continued else "")
    if source:
        session.resume(load_state(source))
        session.keeper.note("load", path=str(Path(source).absolute()), keyframes=session.mapper.counts.keyframes)
        done.append(f"{session.mapper.counts.keyframes} keyframes of '{source}' loaded")
    if map_db and grows:
        done.append(keep(session, config, map_db, not continued))
    return ", ".join(done)


def continues(map_db: str, map_start: str, load_map: str = "") -> bool:
    """Whether an existing ``map_db`` is continued. Raises ``ConfigError`` if ``load_map`` would replace it instead."""
    if map_start == "new" or not Path(map_db).is_file():
        return False
    if load_map and Path(load_map).resolve() != Path(map_db).resolve():
        raise ConfigError(f"load_map '{load_map}' would replace map_db '{map_db}'; omit one, or set map_start to new")
    return True


def keep(session: Session, config: MapperConfig, map_db: str, fresh: bool) -> str:
    """Keep ``map_db`` up to date from now on, as a new file or as the one that was loaded; returns a sentence on it."""
    make_folder(Path(map_db).absolute().parent)
    # One that is not continued is kept under another name
    session.keeper.keep_map(lambda anew: MapJournal(map_db, as_mapping(config), fresh=anew), fresh)
    session.save()
    return f"the map is kept up to date in '{map_db}'"
