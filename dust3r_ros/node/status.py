"""The node's state: one snapshot, published as MappingStatus and as diagnostics."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np
from rclpy.impl.rcutils_logger import RcutilsLogger

from dust3r_ros.config import MapperConfig, NodeConfig
from dust3r_ros.geometry.lens import raw_pixels
from dust3r_ros.geometry.pinhole import center_of, pixel_grid
from dust3r_ros.geometry.processes import memory_held
from dust3r_ros.msg import CameraEstimate, MappingStatus, StageLatency
from dust3r_ros.node.conversions import header, pose_message
from dust3r_ros.node.topics import SILENT_S, TopicHealth
from dust3r_ros.session.session import Session
from dust3r_ros.types import Array, Calibration, Camera, MapCounts, TrackingState

# Minimum time (s) between repeats of a complaint in the log.
COMPLAIN_S = 5.0
NO_MAP = "mode is localization but there is no map; set load_map or call ~/load_map"


def session_snapshot(session: Session, mapper: MapperConfig, node: NodeConfig) -> Snapshot:
    """The session now, without what only a frame gives (stamp, message)."""
    world, masked_share = session.estimate, session.mapper.masked_share
    cameras = session.cameras
    counts = session.mapper.counts
    unit = session.metres_per_unit if session.metric else world.roughly
    return Snapshot(
        state=TrackingState.LOST if counts.keyframes else TrackingState.INITIALISING,
        backend=mapper.backend,
        device=session.device,
        mode="mapping" if session.mapper.mapping else "localization",
        counts=counts,
        resets=session.resets,
        revision=session.mapper.revision,
        stages=session.stopwatch.summary(),
        cameras=cameras,
        published=session.calibrations.raw_of(session.mapper.cameras),
        sources={name: _source(camera) for name, camera in cameras.items()},
        rig=_rig(session, list(cameras)),
        masked=masked_share.masked,
        moving=masked_share.moving,
        far=masked_share.far,
        moving_regions=masked_share.regions,
        scale_state=world.state.value,
        metres_per_unit=unit,
        metres_per_unit_std=unit * world.relative_std if unit else 0.0,
        scale_sources=tuple(source.source for source in world.sources),
        map_file=node.map_db if session.keeper.writes(node.map_db) else "",
        manifest_file=node.manifest,
        contradicted=session.mapper.submap.contradicted,
        problems=(*session.keeper.problems, *session.mapper.doubts),
        contradictions=tuple(world.contradictions),
    )


def _source(camera: Camera) -> str:
    return "fixed" if camera.fixed else "prior" if camera.given and camera.given_std else "estimated"


def _rig(session: Session, cameras: list[str]) -> dict[str, RigCamera]:
    """Extrinsics of the other cameras to the first one, from TF or estimated from images."""
    if not cameras:
        return {}
    first, found = cameras[0], {}
    for camera in cameras[1:]:
        known = session.known_extrinsics(first, camera)
        if known is not None:
            found[camera] = RigCamera(first, known, 0.0, True)
            continue
        estimated = session.mapper.rig.between(first, camera)
        if estimated is not None:
            found[camera] = RigCamera(first, estimated.a_T_b, estimated.length_std, False)
    return found


# Distortion below this fraction of the image's width does not matter: 0.5 px of 640.
LENS_MATTERS = 0.5 / 640


@dataclass(frozen=True, eq=False)
class RigCamera:
    """A camera's pose relative to the one named ``reference``: ``reference_T_camera`` (4, 4), optical frames.

    ``std`` is the standard deviation of its position, in map units; ``known``: it comes from TF.
    """

    reference: str
    reference_T_camera: Array
    std: float = 0.0
    known: bool = True


@dataclass(frozen=True)
class Snapshot:
    """The state of the node at one moment; counts are since configuration or reset.

    ``failed`` counts frames on which the mapper raised an unexpected error, ``incomplete`` companions of images that
    did not arrive in time. ``cameras`` are the estimates, ``published`` the calibrations of raw images, ``sources``
    where focal lengths come from (estimated, fixed, prior), all by camera. ``masked``, ``moving`` and ``far`` are
    fractions of the pixels. ``metres_per_unit`` is that of the map before it became metric, 0 while unknown.
    ``contradicted``: the largest share of what some keyframes see that contradicts the map. ``problems`` (of files and
    the map), ``contradictions`` (between sources of scale), ``tf_problems`` and ``lacking`` (what the newest images
    lack: companions, a calibration) are sentences.
    ``back_end_mb``: resident memory of the mapping process, ``kept_mb`` of that for arrays of keyframes, and what of
    them is on disk; ``backlog``: postponed work, of which ``depth_backlog`` is
    keyframes without depth. ``lag`` (s): of the map behind the camera; ``depth_lag`` (s): of depth behind the map.
    ``stages``: latencies of the back end, ``front_stages``: of the front end.
    """

    stamp_ns: int = 0
    state: TrackingState = TrackingState.INITIALISING
    paused: bool = False
    mode: str = "mapping"
    backend: str = ""
    device: str = ""
    counts: MapCounts = MapCounts()
    dropped: int = 0
    rejected: int = 0
    failed: int = 0
    incomplete: int = 0
    waiting: int = 0
    resets: int = 0
    revision: int = 0
    states: Mapping[str, TrackingState] = field(default_factory=dict)
    masked: float = 0.0
    moving: float = 0.0
    far: float = 0.0
    moving_regions: int = 0
    contradicted: float = 0.0
    scale_state: str = "unknown"
    metres_per_unit: float = 0.0
    metres_per_unit_std: float = 0.0
    scale_sources: tuple[str, ...] = ()
    map_file: str = ""
    manifest_file: str = ""
    problems: tuple[str, ...] = ()
    contradictions: tuple[str, ...] = ()
    tf_problems: tuple[str, ...] = ()
    lacking: tuple[str, ...] = ()
    inputs: tuple[TopicHealth, ...] = ()
    stages: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    front_stages: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    cameras: Mapping[str, Camera] = field(default_factory=dict)
    published: Mapping[str, Calibration] = field(default_factory=dict)
    sources: Mapping[str, str] = field(default_factory=dict)
    rig: Mapping[str, RigCamera] = field(default_factory=dict)
    message: str = ""
    back_end_mb: float = 0.0
    kept_mb: tuple[float, float] = 0.0, 0.0
    backlog: int = 0
    depth_backlog: int = 0
    lag: float = 0.0
    depth_lag: float = 0.0

    @property
    def lost_in_transport(self) -> int:
        """Number of images that were stamped but never arrived."""
        return sum(item.lost for item in self.inputs if item.kind == "image")

    @property
    def lacks_map(self) -> bool:
        """Whether no image can get a pose, for want of a map to localize it in."""
        return self.mode == "localization" and not self.counts.maps

    @property
    def shown_state(self) -> str:
        """The state in the words of MappingStatus."""
        return MappingStatus.PAUSED if self.paused else self.state.value


class CameraStates:
    """The state of each camera, at its newest image with a known state. For one thread."""

    def __init__(self) -> None:
        self._states: dict[str, TrackingState] = {}
        self._stamps: dict[str, int] = {}
        self._judged: dict[str, float] = {}  # when, by the steady clock

    def judge(self, camera: str, stamp_ns: int, state: TrackingState) -> bool:
        """Set a camera's state at an image; returns whether it changed."""
        changed = self._states.get(camera) is not state
        self._stamps[camera], self._states[camera], self._judged[camera] = stamp_ns, state, time.monotonic()
        return changed

    def of(self, camera: str) -> TrackingState | None:
        """A camera's state, None while unknown."""
        return self._states.get(camera)

    def newer(self, camera: str, stamp_ns: int) -> bool:
        """Whether an image is at least as new as the one that gave the camera's state."""
        return stamp_ns >= self._stamps.get(camera, stamp_ns)

    @property
    def all(self) -> dict[str, TrackingState]:
        """States by camera."""
        return dict(self._states)

    @property
    def together(self) -> TrackingState:
        """Tracking if any camera is, else bridged, else lost, else initialising.

        A camera that fell silent while others send images does not count.
        """
        since = max(self._judged.values(), default=0.0) - SILENT_S
        found = {state for camera, state in self._states.items() if self._judged[camera] >= since}
        order = TrackingState.TRACKING, TrackingState.BRIDGED, TrackingState.LOST
        return next((state for state in order if state in found), TrackingState.INITIALISING)

    def restart(self) -> None:
        """Time was set back: forget the stamps."""
        self._stamps.clear()

    def forget(self) -> None:
        """The map was replaced: forget the states."""
        self._states.clear()
        self._judged.clear()
        self.restart()


class Losses:
    """Counts and logs images that were not mapped; ``message``: the reason for the last."""

    def __init__(self, logger: RcutilsLogger, dropped_before: Callable[[], int]) -> None:
        """``dropped_before`` gives the number of images dropped before they came here."""
        self._logger, self._before = logger, dropped_before
        self._forgotten = 0
        self.dropped = self.rejected = self.failed = 0
        self.message = ""

    @property
    def all_dropped(self) -> int:
        """Number of images dropped because they came too fast."""
        return self.dropped + self._before() - self._forgotten

    def forget(self) -> None:
        """The map was replaced: reset the counts."""
        self.dropped = self.rejected = self.failed = 0
        self._forgotten, self.message = self._before(), ""

    def drop(self) -> None:
        """Count and log an image that is dropped here."""
        self.dropped += 1
        self.report_dropped()

    def report_dropped(self) -> None:
        """Log how many images were dropped."""
        self._logger.warning(
            f"{self.all_dropped} images dropped so far: they arrive faster than they can be mapped",
            throttle_duration_sec=COMPLAIN_S,
        )

    def refuse(self, reason: str) -> None:
        """Count and log an image that cannot be used."""
        self.rejected += 1
        self.message = reason
        self._logger.warning(f"image refused ({self.rejected} so far): {reason}", throttle_duration_sec=COMPLAIN_S)

    def fail(self, text: str) -> None:
        """Count and log an unexpected error on an image."""
        self.failed += 1
        self.message = text.strip().splitlines()[-1] if text else ""
        self._logger.error(
            f"the mapper failed on an image ({self.failed} so far): {text}", throttle_duration_sec=COMPLAIN_S
        )


def memory_mb() -> float:
    """Resident memory of this process, MiB (its peak where /proc is missing)."""
    return memory_held() / 2**20


def lens_shift(camera: Camera) -> float:
    """The largest shift of a pixel by the lens, relative to a centred pinhole, in pixels at native resolution.

    Evaluated on a coarse grid out to the corners.
    """
    if camera.focal <= 0:
        return 0.0
    grid = pixel_grid(9, 9).reshape(-1, 2) / 4.0 - 1.0
    ideal = grid * [camera.width / 2.0, camera.height / 2.0]
    seen = raw_pixels(camera.calibration, ideal / camera.focal) - center_of(camera.height, camera.width)
    return float(np.nanmax(np.linalg.norm(seen - ideal, axis=1)))


def status_message(snapshot: Snapshot, frame: str) -> MappingStatus:
    """The message of ~/status for a snapshot."""
    counts = snapshot.counts
    message = MappingStatus(
        header=header(snapshot.stamp_ns, frame),
        state=snapshot.shown_state,
        memory_mb=memory_mb() + snapshot.back_end_mb,
        stages=[
            StageLatency(end=end, name=name, count=int(stage["count"]), **{k: float(stage[k]) for k in _LATENCIES})
            for end, stages in _ends(snapshot)
            for name, stage in stages.items()
        ],
        cameras=[camera_estimate(snapshot, camera) for camera in snapshot.cameras.values()],
        scale_sources=list(snapshot.scale_sources),
        problems=[*snapshot.problems, *snapshot.contradictions, *snapshot.tf_problems],
    )
    for name in ("frames", "tracked", "keyframes", "pairs", "maps", "lost"):
        setattr(message, name, int(getattr(counts, name)))
    for name in ("dropped", "lost_in_transport", "rejected", "incomplete", "waiting", "backlog", "depth_backlog"):
        setattr(message, name, int(getattr(snapshot, name)))
    for name in ("resets", "revision", "moving_regions"):
        setattr(message, name, int(getattr(snapshot, name)))
    for name in (
        "masked",
        "moving",
        "far",
        "contradicted",
        "metres_per_unit",
        "metres_per_unit_std",
        "lag",
        "depth_lag",
    ):
        setattr(message, name, float(getattr(snapshot, name)))
    for name in ("mode", "backend", "device", "scale_state", "map_file", "manifest_file"):
        setattr(message, name, str(getattr(snapshot, name)))
    message.message = "; ".join(_awaited(snapshot)) or snapshot.message
    return message


def _awaited(snapshot: Snapshot) -> list[str]:
    silences = [f"no {item.kind} on {item.topic}: {item.why}" for item in snapshot.inputs if item.why]
    return [NO_MAP, *silences] if snapshot.lacks_map else silences


_LATENCIES = ("p50_ms", "p95_ms", "max_ms")


def _ends(snapshot: Snapshot) -> tuple[tuple[str, Mapping[str, Mapping[str, float]]], ...]:
    return (StageLatency.FRONT_END, snapshot.front_stages), (StageLatency.BACK_END, snapshot.stages)


def status_text(snapshot: Snapshot) -> str:
    """The state in two short lines of text."""
    lines = f"{snapshot.shown_state}, {snapshot.counts.keyframes} keyframes\nmap {snapshot.lag:.1f} s behind"
    return lines + (f", depth {snapshot.depth_lag:.1f} s" if snapshot.depth_backlog else "")


def camera_estimate(snapshot: Snapshot, camera: Camera) -> CameraEstimate:
    """The message for a camera of the snapshot."""
    raw = snapshot.published.get(camera.name, camera.calibration)
    shift, place = lens_shift(camera), snapshot.rig.get(camera.name)
    message = CameraEstimate(
        name=camera.name,
        width=int(camera.width),
        height=int(camera.height),
        focal=float(camera.focal),
        focal_std=float(camera.focal_std),
        support=int(camera.support),
        fixed=bool(camera.fixed),
        source=snapshot.sources.get(camera.name, CameraEstimate.FIXED if camera.fixed else CameraEstimate.ESTIMATED),
        cx=float(raw.cx),
        cy=float(raw.cy),
        distortion_model=raw.model if raw.coefficients else "plumb_bob",
        d=[float(value) for value in raw.coefficients or (0.0,) * 5],
        lens_shift=shift,
        lens_matters=bool(shift > LENS_MATTERS * camera.width),
        published_focal=float(camera.given),
        disagreement=float(camera.disagreement),
        extrinsics=CameraEstimate.NOT_NEEDED,
    )
    if place is not None:
        message.extrinsics = CameraEstimate.KNOWN if place.known else CameraEstimate.FOUND
        message.reference = place.reference
        message.first_from_camera = pose_message(place.reference_T_camera)
        message.extrinsics_std = float(place.std)
    return message
